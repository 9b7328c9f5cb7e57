//! Who asks, for which project, under which request id.

use std::sync::Arc;

use axum::extract::FromRequestParts;
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use http::request::Parts;

use crate::Secret;
use crate::shape::{Pending, default_message};

/// The caller of a request, as its validated token says. Put into the request's extensions by
/// [`crate::auth`]; a handler takes it as an argument.
#[derive(Debug, Clone)]
pub struct RequestContext {
    /// `req-<uuid>`: in every log line and answer.
    pub request_id: String,
    /// What the client calls its own request (`X-Openstack-Request-Id`), if it said.
    pub global_request_id: Option<String>,
    pub user_id: String,
    pub user_name: String,
    pub user_domain_id: Option<String>,
    pub user_domain_name: Option<String>,
    /// `None`: an unscoped or system-scoped token.
    pub project_id: Option<String>,
    pub project_name: Option<String>,
    pub project_domain_id: Option<String>,
    pub project_domain_name: Option<String>,
    /// Of a token scoped to a domain.
    pub domain_id: Option<String>,
    /// A token scoped to the system.
    pub is_system: bool,
    /// The token's project is the cloud's admin project, or the cloud has none.
    pub is_admin_project: bool,
    pub roles: Vec<String>,
    /// What the policy rule `context_is_admin` says (or noauth).
    pub is_admin: bool,
    /// Roles of a valid `X-Service-Token`; empty without one.
    pub service_roles: Vec<String>,
    /// The caller's token, to act for it towards other services.
    pub token: Secret,
}

impl RequestContext {
    pub fn has_role(&self, role: &str) -> bool {
        // Keystone compares role names without regard to case; so does oslo.policy.
        self.roles
            .iter()
            .any(|held| held.eq_ignore_ascii_case(role))
    }

    /// The caller's project id; empty without one, which equals no stored project id.
    pub fn project(&self) -> &str {
        self.project_id.as_deref().unwrap_or_default()
    }

    /// A context for work nobody asked for by HTTP, and for tests: an admin in `project_id`.
    pub fn internal(user_id: &str, project_id: &str) -> Self {
        Self {
            request_id: new_request_id(),
            global_request_id: None,
            user_id: user_id.to_owned(),
            user_name: user_id.to_owned(),
            user_domain_id: None,
            user_domain_name: None,
            project_id: Some(project_id.to_owned()),
            project_name: Some(project_id.to_owned()),
            project_domain_id: None,
            project_domain_name: None,
            domain_id: None,
            is_system: false,
            is_admin_project: true,
            roles: ["admin", "member", "reader"].map(str::to_owned).to_vec(),
            is_admin: true,
            service_roles: Vec::new(),
            token: Secret::new(""),
        }
    }
}

/// `req-` and a random uuid.
pub fn new_request_id() -> String {
    format!("req-{}", uuid::Uuid::new_v4())
}

impl<S: Send + Sync> FromRequestParts<S> for RequestContext {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, Response> {
        match parts.extensions.get::<Arc<Self>>() {
            Some(context) => Ok(Self::clone(context)),
            None => {
                tracing::error!("a handler asks for the caller outside the auth layer");
                let status = StatusCode::INTERNAL_SERVER_ERROR;
                Err(Pending::response(status, default_message(status)).into_response())
            }
        }
    }
}
