//! Who a token belongs to: Keystone's dev stand-in, noauth, and the trait both implement.

pub mod dev;
mod keystone_error;
mod noauth;

use std::sync::Arc;

use async_trait::async_trait;
use axum::response::Response;
use http::request::Parts;

use crate::Secret;

pub use keystone_error::KeystoneError;
pub use noauth::NoAuth;

/// What a valid token says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenInfo {
    pub user: Named,
    /// `None`: unscoped or system-scoped.
    pub project: Option<Named>,
    pub roles: Vec<String>,
    /// Microseconds since the epoch.
    pub expires_at_us: i64,
    /// Admin whatever the roles (noauth).
    pub is_admin: bool,
}

/// A user or a project, and the domain it lives in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Named {
    pub id: String,
    pub name: String,
    pub domain_id: String,
    pub domain_name: String,
}

/// Why there is no [`TokenInfo`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdentityError {
    /// Malformed, forged, expired or revoked: the caller has to log in again.
    #[error("the token is not valid")]
    Unauthorized,
    /// The identity service cannot be asked now: try later.
    #[error("the identity service is unavailable: {0}")]
    Unavailable(String),
}

/// Checks tokens.
#[async_trait]
pub trait Identity: Send + Sync + 'static {
    async fn validate(&self, token: &Secret) -> Result<Arc<TokenInfo>, IdentityError>;

    /// The address in `WWW-Authenticate: Keystone uri="…"`.
    fn auth_uri(&self) -> &str;

    /// An answer of its own to a request without a token; `None`: the usual 401.
    fn without_token(&self, _request: &Parts) -> Option<Response> {
        None
    }
}

/// Where a service gets the token for its own calls to another service.
#[async_trait]
pub trait TokenSource: Send + Sync + 'static {
    /// A token that is valid for some minutes at least.
    async fn token(&self) -> Result<Secret, IdentityError>;
}
