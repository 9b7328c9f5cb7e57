//! The calls to Keystone.

use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use http::{HeaderValue, StatusCode};
use reqwest::{RequestBuilder, Response};
use serde::de::DeserializeOwned;
use tokio::sync::Semaphore;

use super::own_token::OwnToken;
use super::subject::Body;
use super::{Credentials, ServerOptions};
use crate::Secret;
use crate::http_client::{self, ClientError, chain_of};
use crate::identity::{IdentityError, TokenInfo};

/// Questions at once; more wait, so that a burst of unknown tokens does not bury Keystone.
const MOST_QUESTIONS: usize = 32;
/// A token's description without its catalog.
const LONGEST_ANSWER_BYTES: usize = 1 << 20;
const RETRY_PAUSE: Duration = Duration::from_millis(500);

pub(super) struct Server {
    /// `http://host:port/v3`
    url: String,
    /// `http://host:port/v3/auth/tokens`
    tokens_url: String,
    client: reqwest::Client,
    retries: u32,
    questions: Semaphore,
}

impl Server {
    pub fn new(options: &ServerOptions) -> Result<Self, ClientError> {
        let client = http_client::builder(&options.tls)?.timeout(options.timeout);
        let base = options.auth_url.trim_end_matches('/');
        let base = base.strip_suffix("/v3").unwrap_or(base);
        Ok(Self {
            url: format!("{base}/v3"),
            tokens_url: format!("{base}/v3/auth/tokens"),
            client: client.build()?,
            retries: options.retries,
            questions: Semaphore::new(MOST_QUESTIONS),
        })
    }

    /// A token for these credentials, and when it runs out.
    pub async fn log_in(&self, credentials: &Credentials) -> Result<(Secret, i64), IdentityError> {
        let request = self.client.post(&self.tokens_url);
        let request = request
            .query(&[("nocatalog", "")])
            .json(&credentials.to_json());
        let response = self.send(request).await?;
        if response.status() != StatusCode::CREATED {
            return Err(refused("it refuses the service user", response.status()));
        }
        let token = response.headers().get("x-subject-token");
        let token = token.and_then(|token| token.to_str().ok()).map(Secret::new);
        let body: Body = read(response).await?;
        token
            .zip(body.expires_at_us())
            .ok_or_else(|| unavailable("its answer to the log-in has no token"))
    }

    /// Asks who `token` belongs to.
    pub async fn validate(
        &self,
        own: &OwnToken,
        token: &Secret,
        expired: bool,
    ) -> Result<Arc<TokenInfo>, IdentityError> {
        let _question = self.questions.acquire().await;
        // Our own token may have been revoked: then a new one helps, once.
        for _ in 0..2 {
            let asking = own.get().await?;
            let response = self.ask(&asking, token, expired).await?;
            match response.status() {
                StatusCode::OK => {
                    let body: Body = read(response).await?;
                    let info = body.into_info().ok_or(IdentityError::Unauthorized)?;
                    return Ok(Arc::new(info));
                }
                StatusCode::NOT_FOUND => return Err(IdentityError::Unauthorized),
                StatusCode::UNAUTHORIZED => own.forget(&asking).await,
                status => return Err(refused("it does not validate tokens for us", status)),
            }
        }
        Err(unavailable("it refuses the service user's token"))
    }

    /// What Keystone has under this path (`/limits`).
    pub async fn get<T: DeserializeOwned>(
        &self,
        own: &OwnToken,
        path: &str,
        query: &[(&str, &str)],
    ) -> Result<T, IdentityError> {
        let _question = self.questions.acquire().await;
        for _ in 0..2 {
            let asking = own.get().await?;
            let request = self.client.get(format!("{}{path}", self.url));
            let request = request.query(query);
            let request = request.header("x-auth-token", sensitive(&asking)?);
            let response = self.send(request).await?;
            match response.status() {
                StatusCode::OK => return read(response).await,
                StatusCode::UNAUTHORIZED => own.forget(&asking).await,
                status => return Err(refused(&format!("it does not show {path}"), status)),
            }
        }
        Err(unavailable("it refuses the token of the account"))
    }

    async fn ask(
        &self,
        asking: &Secret,
        token: &Secret,
        expired: bool,
    ) -> Result<Response, IdentityError> {
        let mut query = vec![("nocatalog", "")];
        if expired {
            query.push(("allow_expired", "1"));
        }
        let request = self.client.get(&self.tokens_url);
        let request = request
            .query(&query)
            .header("x-auth-token", sensitive(asking)?)
            .header("x-subject-token", sensitive(token)?);
        self.send(request).await
    }

    /// Sends; tries again where the connection was not taken.
    async fn send(&self, request: RequestBuilder) -> Result<Response, IdentityError> {
        let mut tries_left = self.retries;
        loop {
            let again = request.try_clone();
            let try_one = match again {
                Some(request) if tries_left > 0 => request,
                _ => return request.send().await.map_err(failed),
            };
            match try_one.send().await {
                Err(error) if error.is_connect() => {
                    tries_left -= 1;
                    tokio::time::sleep(RETRY_PAUSE).await;
                }
                answer => return answer.map_err(failed),
            }
        }
    }
}

/// A header value that logs leave out.
fn sensitive(token: &Secret) -> Result<HeaderValue, IdentityError> {
    let value = HeaderValue::from_str(token.expose());
    let mut value = value.map_err(|_| IdentityError::Unauthorized)?;
    value.set_sensitive(true);
    Ok(value)
}

/// The body, within its limit.
async fn read<T: DeserializeOwned>(mut response: Response) -> Result<T, IdentityError> {
    let mut body = BytesMut::new();
    while let Some(chunk) = response.chunk().await.map_err(failed)? {
        if body.len() + chunk.len() > LONGEST_ANSWER_BYTES {
            return Err(unavailable("its answer is too long"));
        }
        body.extend_from_slice(&chunk);
    }
    serde_json::from_slice(&body).map_err(|_| unavailable("its answer is not understood"))
}

fn failed(error: reqwest::Error) -> IdentityError {
    IdentityError::Unavailable(chain_of(error))
}

fn refused(what: &str, status: StatusCode) -> IdentityError {
    IdentityError::Unavailable(format!("{what} ({status})"))
}

fn unavailable(reason: &str) -> IdentityError {
    IdentityError::Unavailable(reason.to_owned())
}
