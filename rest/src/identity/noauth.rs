//! Cinder's `noauth`: a token is `user:project`, and everyone is an admin. A client that names no
//! project works in that of the path, and one that sends no token is `admin`.

use std::borrow::Cow;
use std::sync::Arc;

use async_trait::async_trait;
use axum::body::Body;
use axum::response::{IntoResponse, Response};
use http::header::{CONTENT_TYPE, HOST};
use http::request::Parts;
use http::{HeaderName, HeaderValue, StatusCode};

use super::{Identity, IdentityError, Named, Sender, ServiceTokens, TokenInfo, TokenSource};
use crate::Secret;
use crate::project_path::PathProject;

/// Anybody's token is a service's, too.
static SERVICE_TOKENS: ServiceTokens = ServiceTokens {
    roles: Cow::Borrowed(&[]),
    are_required: false,
};

/// Believes every token. For tests and for machines nobody else reaches.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoAuth;

#[async_trait]
impl Identity for NoAuth {
    async fn validate(&self, token: &Secret) -> Result<Arc<TokenInfo>, IdentityError> {
        let (user, project) = token
            .expose()
            .split_once(':')
            .unwrap_or((token.expose(), ""));
        let project = if project.is_empty() { user } else { project };
        if user.is_empty() || user.len() > 255 || project.len() > 255 {
            return Err(IdentityError::Unauthorized);
        }
        Ok(Arc::new(TokenInfo {
            user: named(user),
            project: Some(named(project)),
            domain_id: None,
            is_system: false,
            is_admin_project: true,
            roles: ["admin", "member", "reader"].map(str::to_owned).to_vec(),
            expires_at_us: i64::MAX,
            is_admin: true,
        }))
    }

    fn auth_uri(&self) -> &str {
        ""
    }

    fn service_tokens(&self) -> &ServiceTokens {
        &SERVICE_TOKENS
    }

    /// A client of auth 1.1 asks for a token with `X-Auth-User`. Others may not know of tokens,
    /// or send any word: the project is that of the path then.
    fn sender(&self, request: &Parts, token: Option<Secret>) -> Sender {
        if token.is_none() && request.headers.contains_key("x-auth-user") {
            return token_to_use(request).map_or(Sender::Unknown, Sender::Answered);
        }
        let user = match &token {
            Some(token) if token.expose().contains(':') => return Sender::Bearer(token.clone()),
            Some(token) => token.expose(),
            None => "admin",
        };
        let project = request.extensions.get::<PathProject>();
        let project = project.map_or(user, |PathProject(project)| project);
        Sender::Bearer(Secret::new(format!("{user}:{project}")))
    }
}

/// Auth 1.1: 204 with the token to use in `X-Auth-Token`.
fn token_to_use(request: &Parts) -> Option<Response> {
    let header = |name: &str, default: &str| {
        let value = request
            .headers
            .get(name)
            .and_then(|value| value.to_str().ok());
        value.unwrap_or(default).to_owned()
    };
    let user = header("x-auth-user", "admin");
    let project = header("x-auth-project-id", "admin");
    let host = header(HOST.as_str(), "localhost");
    let url = format!("http://{host}{}", request.uri.path().trim_end_matches('/'));
    let mut response = (StatusCode::NO_CONTENT, Body::empty()).into_response();
    let pairs = [
        (
            HeaderName::from_static("x-auth-token"),
            format!("{user}:{project}"),
        ),
        (HeaderName::from_static("x-server-management-url"), url),
    ];
    let headers = response.headers_mut();
    for (name, value) in pairs {
        headers.insert(name, HeaderValue::from_str(&value).ok()?);
    }
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    Some(response)
}

#[async_trait]
impl TokenSource for NoAuth {
    async fn token(&self) -> Result<Secret, IdentityError> {
        Ok(Secret::new("basalt:service"))
    }
}

fn named(name: &str) -> Named {
    Named {
        id: name.to_owned(),
        name: name.to_owned(),
        domain_id: "default".to_owned(),
        domain_name: "Default".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn tokens_are_user_and_project() {
        let info = NoAuth.validate(&Secret::new("ann:blue")).await.unwrap();
        assert_eq!((info.user.id.as_str(), info.is_admin), ("ann", true));
        assert_eq!(info.project.as_ref().map(|p| p.id.as_str()), Some("blue"));
        let info = NoAuth.validate(&Secret::new("ann")).await.unwrap();
        assert_eq!(info.project.as_ref().map(|p| p.id.as_str()), Some("ann"));
        assert!(NoAuth.validate(&Secret::new(":x")).await.is_err());
    }
}
