//! The auth layer: `X-Auth-Token` becomes a [`RequestContext`]. Nothing else a client sends
//! about itself (`X-Roles`, `X-User-Id`, …) is read.

use std::sync::Arc;

use axum::Router;
use axum::extract::{Request, State};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use http::header::WWW_AUTHENTICATE;
use http::{HeaderMap, HeaderValue, StatusCode};

use crate::context::new_request_id;
use crate::frame::RequestId;
use crate::identity::{Identity, IdentityError, KeystoneError, Sender, TokenInfo};
use crate::policy::Policy;
use crate::project_path::PathProject;
use crate::{ErrorShape, RequestContext, Secret};

#[derive(Clone)]
struct Layer {
    identity: Arc<dyn Identity>,
    policy: Policy,
    shape: ErrorShape,
}

/// Lets only requests with a valid token reach `router`; its handlers take [`RequestContext`].
/// `policy` says who is an administrator.
pub fn apply(
    router: Router,
    identity: Arc<dyn Identity>,
    policy: Policy,
    shape: ErrorShape,
) -> Router {
    let layer = Layer {
        identity,
        policy,
        shape,
    };
    router.layer(from_fn_with_state(layer, authenticate))
}

async fn authenticate(State(layer): State<Layer>, request: Request, next: Next) -> Response {
    let (mut parts, body) = request.into_parts();
    let token = token_of(&parts.headers, "x-auth-token");
    let token = match layer.identity.sender(&parts, token) {
        Sender::Bearer(token) => token,
        Sender::Answered(response) => return response,
        Sender::Unknown => return refused(&*layer.identity),
    };
    let service = match layer.service_token(&parts.headers).await {
        Ok(service) => service,
        Err(error) => return layer.failed(&error, &parts.headers),
    };
    // A service may act on behalf of a user whose token has expired meanwhile.
    let validated = match service.may_use_expired {
        true => layer.identity.validate_expired(&token).await,
        false => layer.identity.validate(&token).await,
    };
    let info = match validated {
        Ok(info) => info,
        Err(error) => return layer.failed(&error, &parts.headers),
    };
    let mut context = context_of(&info, token, service.roles);
    context.is_admin = info.is_admin || layer.policy.is_admin(&context);
    if let Some(id) = parts.extensions.get::<RequestId>() {
        context.request_id.clone_from(&id.id);
        context.global_request_id.clone_from(&id.global_id);
    }
    if let Some(PathProject(project)) = parts.extensions.get()
        && context.project_id.as_deref() != Some(project)
    {
        let status = StatusCode::BAD_REQUEST;
        return layer
            .shape
            .response(status, "Malformed request url", &parts.headers);
    }
    let context = Arc::new(context);
    parts.extensions.insert(Arc::clone(&context));
    let mut response = next.run(Request::from_parts(parts, body)).await;
    // For the access log, which stands outside.
    response.extensions_mut().insert(context);
    response
}

#[derive(Default)]
struct ServiceToken {
    roles: Vec<String>,
    may_use_expired: bool,
}

impl Layer {
    /// What `X-Service-Token` stands for. One that is not valid, or not a service's, is refused,
    /// as keystonemiddleware does.
    async fn service_token(&self, headers: &HeaderMap) -> Result<ServiceToken, IdentityError> {
        let Some(token) = token_of(headers, "x-service-token") else {
            return Ok(ServiceToken::default());
        };
        let info = self.identity.validate(&token).await?;
        let rule = self.identity.service_tokens();
        let is_service = rule
            .roles
            .iter()
            .any(|role| info.roles.iter().any(|held| held == role));
        if rule.are_required && !is_service {
            return Err(IdentityError::Unauthorized);
        }
        Ok(ServiceToken {
            roles: info.roles.clone(),
            may_use_expired: is_service,
        })
    }

    fn failed(&self, error: &IdentityError, headers: &HeaderMap) -> Response {
        match error {
            IdentityError::Unauthorized => refused(&*self.identity),
            IdentityError::Unavailable(_) => {
                tracing::error!(%error, "cannot validate a token");
                let message = "The identity service is unavailable. Please try again later.";
                self.shape
                    .response(StatusCode::SERVICE_UNAVAILABLE, message, headers)
            }
        }
    }
}

/// keystonemiddleware's 401, whatever the service's own shape.
fn refused(identity: &dyn Identity) -> Response {
    let mut response = KeystoneError::unauthorized().into_response();
    let challenge = format!("Keystone uri=\"{}\"", identity.auth_uri());
    if let Ok(value) = HeaderValue::from_str(&challenge) {
        response.headers_mut().insert(WWW_AUTHENTICATE, value);
    }
    response
}

fn token_of(headers: &HeaderMap, name: &str) -> Option<Secret> {
    let text = headers.get(name)?.to_str().ok()?.trim();
    (!text.is_empty()).then(|| Secret::new(text))
}

fn context_of(info: &TokenInfo, token: Secret, service_roles: Vec<String>) -> RequestContext {
    let user = &info.user;
    let project = info.project.as_ref();
    RequestContext {
        request_id: new_request_id(),
        global_request_id: None,
        user_id: user.id.clone(),
        user_name: user.name.clone(),
        user_domain_id: Some(user.domain_id.clone()),
        user_domain_name: Some(user.domain_name.clone()),
        project_id: project.map(|project| project.id.clone()),
        project_name: project.map(|project| project.name.clone()),
        project_domain_id: project.map(|project| project.domain_id.clone()),
        project_domain_name: project.map(|project| project.domain_name.clone()),
        domain_id: info.domain_id.clone(),
        is_system: info.is_system,
        is_admin_project: info.is_admin_project,
        roles: info.roles.clone(),
        is_admin: info.is_admin,
        service_roles,
        token,
    }
}
