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
use crate::identity::{Identity, IdentityError, KeystoneError, TokenInfo};
use crate::project_path::PathProject;
use crate::{ErrorShape, RequestContext, Secret};

#[derive(Clone)]
struct Layer {
    identity: Arc<dyn Identity>,
    shape: ErrorShape,
}

/// Lets only requests with a valid token reach `router`; its handlers take [`RequestContext`].
pub fn apply(router: Router, identity: Arc<dyn Identity>, shape: ErrorShape) -> Router {
    router.layer(from_fn_with_state(Layer { identity, shape }, authenticate))
}

async fn authenticate(State(layer): State<Layer>, request: Request, next: Next) -> Response {
    let (mut parts, body) = request.into_parts();
    let Some(token) = token_of(&parts.headers, "x-auth-token") else {
        return match layer.identity.without_token(&parts) {
            Some(response) => response,
            None => refused(&*layer.identity),
        };
    };
    let info = match layer.identity.validate(&token).await {
        Ok(info) => info,
        Err(error) => return layer.failed(&error, &parts.headers),
    };
    let service_roles = match layer.service_roles(&parts.headers).await {
        Ok(roles) => roles,
        Err(error) => return layer.failed(&error, &parts.headers),
    };
    let mut context = context_of(&info, token, service_roles);
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

impl Layer {
    /// Roles of `X-Service-Token`. A service token that is not valid is refused, as
    /// keystonemiddleware does.
    async fn service_roles(&self, headers: &HeaderMap) -> Result<Vec<String>, IdentityError> {
        match token_of(headers, "x-service-token") {
            Some(token) => Ok(self.identity.validate(&token).await?.roles.clone()),
            None => Ok(Vec::new()),
        }
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
    let is_admin = info.is_admin
        || info
            .roles
            .iter()
            .any(|role| role.eq_ignore_ascii_case("admin"));
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
        roles: info.roles.clone(),
        is_admin,
        service_roles,
        token,
    }
}
