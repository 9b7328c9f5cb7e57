//! The address under which a client sees the service, for links in answers.

use std::sync::Arc;

use axum::extract::FromRequestParts;
use http::HeaderMap;
use http::header::HOST;
use http::request::Parts;

use crate::BadInput;

/// Where a service is reached from outside (`public_endpoint`), when the request's own Host is
/// not to be used. The frame layer puts it into each request.
#[derive(Debug, Clone)]
pub(crate) struct PublicEndpoint(pub Arc<str>);

/// `http://host:port`, without a slash at the end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BaseUrl(pub String);

impl BaseUrl {
    /// `http://host:port/path` (`path` begins with a slash).
    pub fn join(&self, path: &str) -> String {
        format!("{}{path}", self.0)
    }

    fn of(headers: &HeaderMap) -> Option<Self> {
        let host = headers.get(HOST)?.to_str().ok()?;
        let plain =
            |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | ':' | '[' | ']');
        (!host.is_empty() && host.chars().all(plain)).then(|| Self(format!("http://{host}")))
    }
}

impl<S: Send + Sync> FromRequestParts<S> for BaseUrl {
    type Rejection = BadInput;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, BadInput> {
        if let Some(PublicEndpoint(url)) = parts.extensions.get() {
            return Ok(Self(url.trim_end_matches('/').to_owned()));
        }
        Self::of(&parts.headers)
            .ok_or_else(|| BadInput::new("The Host header is missing or malformed."))
    }
}
