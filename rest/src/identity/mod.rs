//! Who a token belongs to: Keystone, its dev stand-in, noauth, and the trait they implement.

pub mod dev;
pub mod keystone;
mod keystone_error;
mod noauth;

use std::borrow::Cow;
use std::sync::Arc;

use async_trait::async_trait;
use axum::response::Response;
use http::request::Parts;

use crate::Secret;

pub use keystone_error::KeystoneError;
pub use noauth::NoAuth;

/// What a valid token says.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TokenInfo {
    pub user: Named,
    /// `None`: unscoped, or scoped to a domain or to the system.
    pub project: Option<Named>,
    /// Of a token scoped to a domain.
    pub domain_id: Option<String>,
    /// Scoped to the system.
    pub is_system: bool,
    /// The project is the cloud's admin project, or the cloud has none.
    pub is_admin_project: bool,
    pub roles: Vec<String>,
    /// Microseconds since the epoch.
    pub expires_at_us: i64,
    /// Admin whatever the roles (noauth).
    pub is_admin: bool,
}

/// A user or a project, and the domain it lives in.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
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

/// Who sent a request, before anybody looks at a token.
pub enum Sender {
    /// Nobody that is known: the usual 401.
    Unknown,
    /// The bearer of this token.
    Bearer(Secret),
    /// Somebody who gets this answer at once.
    Answered(Response),
}

/// `service_token_roles` and `service_token_roles_required`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceTokens {
    /// One of these makes a token a service's.
    pub roles: Cow<'static, [Cow<'static, str>]>,
    /// Refuse a service token without such a role, rather than just not to trust it further.
    pub are_required: bool,
}

/// keystonemiddleware's defaults.
pub static SERVICE_TOKENS: ServiceTokens = ServiceTokens {
    roles: Cow::Borrowed(&[Cow::Borrowed("service")]),
    are_required: true,
};

/// Checks tokens.
#[async_trait]
pub trait Identity: Send + Sync + 'static {
    async fn validate(&self, token: &Secret) -> Result<Arc<TokenInfo>, IdentityError>;

    /// As [`Identity::validate`], but also takes a token that has expired lately: for requests
    /// that carry a service's token as well.
    async fn validate_expired(&self, token: &Secret) -> Result<Arc<TokenInfo>, IdentityError> {
        self.validate(token).await
    }

    /// Which `X-Service-Token`s are a service's.
    fn service_tokens(&self) -> &ServiceTokens {
        &SERVICE_TOKENS
    }

    /// The address in `WWW-Authenticate: Keystone uri="…"`.
    fn auth_uri(&self) -> &str;

    /// Whom to take the sender of a request for, which sent this token, or none.
    fn sender(&self, _request: &Parts, token: Option<Secret>) -> Sender {
        token.map_or(Sender::Unknown, Sender::Bearer)
    }
}

/// Where a service gets the token for its own calls to another service.
#[async_trait]
pub trait TokenSource: Send + Sync + 'static {
    /// A token that is valid for some minutes at least.
    async fn token(&self) -> Result<Secret, IdentityError>;
}
