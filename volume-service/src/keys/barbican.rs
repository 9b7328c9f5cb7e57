//! A client of the Key Manager API v1 (Barbican's contract): symmetric keys as secrets.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use reqwest::{Method, RequestBuilder, Response, StatusCode, header};
use rest::Secret;
use rest::http_client::{self, ClientError, Tls, chain_of};
use rest::identity::{Identity, TokenSource};
use serde::Deserialize;
use serde_json::json;
use uuid::Uuid;

use super::{Key, KeyError, MAX_KEY_BYTES};

const CALL_TIMEOUT: Duration = Duration::from_secs(60);
/// The longest answer that is read.
const MAX_ANSWER_BYTES: usize = 64 << 10;

/// A client of one key manager. Cheap to clone; clones share the connections.
#[derive(Clone)]
pub struct Client {
    endpoint: String,
    /// Of the service user.
    tokens: Arc<dyn TokenSource>,
    /// Says who the service user is.
    identity: Arc<dyn Identity>,
    calls: reqwest::Client,
}

/// The answer to `POST v1/secrets`.
#[derive(Deserialize)]
struct Made {
    secret_ref: String,
}

impl Client {
    /// `endpoint`: the base URL without a version (`http://controller:9311`).
    pub fn new(
        endpoint: &str,
        tls: &Tls,
        tokens: Arc<dyn TokenSource>,
        identity: Arc<dyn Identity>,
    ) -> Result<Self, ClientError> {
        let endpoint = endpoint.trim_end_matches('/');
        Ok(Client {
            endpoint: endpoint.trim_end_matches("/v1").to_owned(),
            tokens,
            identity,
            calls: http_client::builder(tls)?.timeout(CALL_TIMEOUT).build()?,
        })
    }

    /// Stores a key as a secret of the owner of `token`, which the service may read, too.
    pub async fn store(
        &self,
        token: &Secret,
        key: &Key,
        algorithm: &str,
    ) -> Result<Uuid, KeyError> {
        let body = json!({
            "name": "volume encryption key",
            "secret_type": "symmetric",
            "algorithm": algorithm,
            "bit_length": key.bits(),
            "payload": STANDARD.encode(&key.0),
            "payload_content_type": "application/octet-stream",
            "payload_content_encoding": "base64",
        });
        let request = self.request(Method::POST, "secrets", token);
        let made = sent(
            request
                .header(header::CONTENT_TYPE, "application/json")
                .body(body.to_string()),
        );
        let made = read(made.await?, MAX_ANSWER_BYTES).await?;
        let id = serde_json::from_slice::<Made>(&made).ok().and_then(|made| {
            let last = made.secret_ref.rsplit('/').next()?;
            Uuid::parse_str(last).ok()
        });
        let id =
            id.ok_or_else(|| KeyError::Unavailable("its answer is not understood".to_owned()))?;
        match self.let_service_read(token, id).await {
            Ok(()) => Ok(id),
            Err(error) => {
                // Nobody would know of it.
                let _ = self.delete_by(token, id).await;
                Err(error)
            }
        }
    }

    /// Puts the service user on the secret's access list.
    async fn let_service_read(&self, token: &Secret, id: Uuid) -> Result<(), KeyError> {
        let own = self.own_token().await?;
        let user = self.identity.validate(&own).await;
        let user = user.map_err(|error| KeyError::Unavailable(error.to_string()))?;
        let body = json!({"read": {"users": [user.user.id], "project-access": true}});
        let request = self.request(Method::PUT, &format!("secrets/{id}/acl"), token);
        sent(
            request
                .header(header::CONTENT_TYPE, "application/json")
                .body(body.to_string()),
        )
        .await?;
        Ok(())
    }

    /// Reads a key as the service.
    pub async fn get_as_service(&self, id: Uuid) -> Result<Key, KeyError> {
        self.get(id, &self.own_token().await?).await
    }

    /// Reads a key as the owner of `token`.
    pub async fn get(&self, id: Uuid, token: &Secret) -> Result<Key, KeyError> {
        let request = self.request(Method::GET, &format!("secrets/{id}/payload"), token);
        let request = request.header(header::ACCEPT, "application/octet-stream");
        let response = request.send().await.map_err(unreachable)?;
        if response.status() == StatusCode::NOT_FOUND {
            return Err(KeyError::NotFound(id));
        }
        let bytes = read(checked(response)?, MAX_KEY_BYTES).await?;
        Ok(Key::new(bytes))
    }

    /// Deletes a secret with the user's token, or else with the service's.
    pub async fn delete(&self, token: &Secret, id: Uuid) -> Result<(), KeyError> {
        match self.delete_by(token, id).await {
            Ok(()) => Ok(()),
            Err(_) => self.delete_as_service(id).await,
        }
    }

    /// Deletes a secret with the service's token.
    pub async fn delete_as_service(&self, id: Uuid) -> Result<(), KeyError> {
        self.delete_by(&self.own_token().await?, id).await
    }

    async fn delete_by(&self, token: &Secret, id: Uuid) -> Result<(), KeyError> {
        let request = self.request(Method::DELETE, &format!("secrets/{id}"), token);
        let response = request.send().await.map_err(unreachable)?;
        if response.status() == StatusCode::NOT_FOUND {
            return Ok(());
        }
        checked(response).map(|_| ())
    }

    async fn own_token(&self) -> Result<Secret, KeyError> {
        let token = self.tokens.token().await;
        token.map_err(|error| KeyError::Unavailable(error.to_string()))
    }

    fn request(&self, method: Method, path: &str, token: &Secret) -> RequestBuilder {
        let url = format!("{}/v1/{path}", self.endpoint);
        let call = self.calls.request(method, url);
        http_client::marked(call.header("x-auth-token", token.expose()))
    }
}

async fn sent(request: RequestBuilder) -> Result<Response, KeyError> {
    checked(request.send().await.map_err(unreachable)?)
}

fn checked(response: Response) -> Result<Response, KeyError> {
    match response.status() {
        status if status.is_success() => Ok(response),
        status => Err(KeyError::Unavailable(format!("it answered {status}"))),
    }
}

async fn read(mut response: Response, most_bytes: usize) -> Result<Vec<u8>, KeyError> {
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(unreachable)? {
        if body.len().saturating_add(chunk.len()) > most_bytes {
            return Err(KeyError::Unavailable("its answer is too long".to_owned()));
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

fn unreachable(error: reqwest::Error) -> KeyError {
    KeyError::Unavailable(chain_of(error))
}
