//! A client of the Compute API (Nova's contract): which server has a volume and where it runs,
//! what servers are told of their volumes, and the request to give one another volume.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use reqwest::{Method, RequestBuilder, Response, StatusCode, header};
use rest::http_client::{self, ClientError, Tls};
use rest::identity::TokenSource;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::json;
use uuid::Uuid;

const CALL_TIMEOUT: Duration = Duration::from_secs(60);
/// Of a question that a volume's creation waits for.
const LOOK_TIMEOUT: Duration = Duration::from_secs(5);
/// The longest answer that is read.
const MAX_ANSWER_BYTES: usize = 1 << 20;

/// Why the compute service did not do it. Repeating the call may help.
#[derive(Debug, thiserror::Error)]
#[error("the compute service is unavailable: {0}")]
pub struct Unavailable(String);

/// Why a server does not get another volume.
#[derive(Debug, thiserror::Error)]
pub enum SwapError {
    /// It will not, however often it is asked.
    #[error("the compute service refuses the swap: {0}")]
    Refused(String),
    #[error(transparent)]
    Unavailable(#[from] Unavailable),
}

/// The compute service of this cloud.
#[derive(Clone, Default)]
pub enum Compute {
    /// There is none: no server has any volume.
    #[default]
    Absent,
    /// There may be one that nobody told us of: what it has is unknown.
    Unknown,
    At(Client),
}

/// Something that happened to a volume a server has (`os-server-external-events`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Event {
    Extended,
    Reimaged,
}

impl Event {
    fn name(self) -> &'static str {
        match self {
            Event::Extended => "volume-extended",
            Event::Reimaged => "volume-reimaged",
        }
    }

    /// The microversion that knows the event.
    fn version(self) -> &'static str {
        match self {
            Event::Extended => "compute 2.51",
            Event::Reimaged => "compute 2.93",
        }
    }
}

/// The answer to `GET servers/{id}/os-volume_attachments/{volume}`.
#[derive(Debug, Deserialize)]
struct Shown {
    #[serde(rename = "volumeAttachment")]
    attachment: ShownAttachment,
}

#[derive(Debug, Deserialize)]
struct ShownAttachment {
    attachment_id: Option<Uuid>,
}

/// The answer to `GET servers/{id}`.
#[derive(Debug, Deserialize)]
struct ShownServer {
    server: ServerHost,
}

#[derive(Debug, Deserialize)]
struct ServerHost {
    /// For admins.
    #[serde(rename = "OS-EXT-SRV-ATTR:host")]
    host: Option<String>,
}

/// The answer to a refused request: one fault under its name.
#[derive(Debug, Deserialize)]
struct ShownFault {
    message: String,
}

/// A client of one compute service. Cheap to clone; clones share the connections.
#[derive(Clone)]
pub struct Client {
    endpoint: String,
    tokens: Arc<dyn TokenSource>,
    calls: reqwest::Client,
}

impl Client {
    /// `endpoint`: the base URL with its version (`http://controller:8774/v2.1`); `tokens`: of
    /// the service user, which needs the role `admin`.
    pub fn new(
        endpoint: &str,
        tls: &Tls,
        tokens: Arc<dyn TokenSource>,
    ) -> Result<Self, ClientError> {
        Ok(Client {
            endpoint: endpoint.trim_end_matches('/').to_owned(),
            tokens,
            calls: http_client::builder(tls)?.timeout(CALL_TIMEOUT).build()?,
        })
    }

    /// The attachment through which a server has a volume; `None` when it does not have it, or
    /// there is no such server.
    pub async fn attachment_of(
        &self,
        server_id: Uuid,
        volume_id: Uuid,
    ) -> Result<Option<Uuid>, Unavailable> {
        let path = format!("servers/{server_id}/os-volume_attachments/{volume_id}");
        let request = self.request(Method::GET, &path, "compute 2.89").await?;
        let shown: Option<Shown> = shown(request).await?;
        Ok(shown.and_then(|shown| shown.attachment.attachment_id))
    }

    /// The host that a server runs on; `None`: on none, or there is no such server.
    pub async fn host_of(&self, server_id: Uuid) -> Result<Option<String>, Unavailable> {
        let path = format!("servers/{server_id}");
        let request = self.request(Method::GET, &path, "compute 2.1").await?;
        let shown: Option<ShownServer> = shown(request.timeout(LOOK_TIMEOUT)).await?;
        Ok(shown.and_then(|shown| shown.server.host))
    }

    /// Asks for `new_volume_id` in place of `volume_id` in a server. The compute service copies
    /// the data, and calls `os-migrate_volume_completion` in the end.
    pub async fn swap(
        &self,
        server_id: Uuid,
        volume_id: Uuid,
        new_volume_id: Uuid,
    ) -> Result<(), SwapError> {
        let path = format!("servers/{server_id}/os-volume_attachments/{volume_id}");
        let body = json!({"volumeAttachment": {"volumeId": new_volume_id}});
        let request = self.request(Method::PUT, &path, "compute 2.1").await?;
        let request = request
            .header(header::CONTENT_TYPE, "application/json")
            .body(body.to_string());
        let response = request.send().await.map_err(unavailable)?;
        match response.status() {
            status if status.is_success() => Ok(()),
            StatusCode::UNAUTHORIZED | StatusCode::REQUEST_TIMEOUT => {
                Err(Unavailable(format!("it answered {}", response.status())).into())
            }
            status if status.is_client_error() => {
                let body = read(response).await?;
                Err(SwapError::Refused(reason(status, &body)))
            }
            status => Err(Unavailable(format!("it answered {status}")).into()),
        }
    }

    /// Tells servers what happened to one of their volumes.
    pub async fn tell(
        &self,
        event: Event,
        server_ids: &[Uuid],
        volume_id: Uuid,
    ) -> Result<(), Unavailable> {
        let event_of = |server_id: &Uuid| json!({"name": event.name(), "server_uuid": server_id, "tag": volume_id});
        let body = json!({"events": server_ids.iter().map(event_of).collect::<Vec<_>>()});
        let request = self.request(Method::POST, "os-server-external-events", event.version());
        let request = request
            .await?
            .header(header::CONTENT_TYPE, "application/json")
            .body(body.to_string());
        match request.send().await.map_err(unavailable)?.status() {
            // 207: some servers are not where the event could reach them; nobody can help it.
            StatusCode::OK | StatusCode::MULTI_STATUS => Ok(()),
            other => Err(Unavailable(format!("it answered {other}"))),
        }
    }

    async fn request(
        &self,
        method: Method,
        path: &str,
        version: &str,
    ) -> Result<RequestBuilder, Unavailable> {
        let token = self.tokens.token().await;
        let token = token.map_err(|error| Unavailable(error.to_string()))?;
        let call = self
            .calls
            .request(method, format!("{}/{path}", self.endpoint))
            .header("x-auth-token", token.expose())
            .header("openstack-api-version", version);
        Ok(http_client::marked(call))
    }
}

/// What a `GET` shows; `None`: nothing is there.
async fn shown<T: DeserializeOwned>(request: RequestBuilder) -> Result<Option<T>, Unavailable> {
    let response = request.send().await.map_err(unavailable)?;
    match response.status() {
        StatusCode::OK => {}
        StatusCode::NOT_FOUND => return Ok(None),
        other => return Err(Unavailable(format!("it answered {other}"))),
    }
    let body = read(response).await?;
    serde_json::from_slice(&body)
        .map(Some)
        .map_err(|error| Unavailable(format!("its answer is not understood: {error}")))
}

async fn read(mut response: Response) -> Result<Vec<u8>, Unavailable> {
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(unavailable)? {
        if body.len().saturating_add(chunk.len()) > MAX_ANSWER_BYTES {
            return Err(Unavailable("its answer is too long".to_owned()));
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

/// The status, and the message of a fault.
fn reason(status: StatusCode, body: &[u8]) -> String {
    let faults: HashMap<String, ShownFault> = serde_json::from_slice(body).unwrap_or_default();
    match faults.into_values().next() {
        Some(fault) => format!("{status}: {}", fault.message),
        None => status.to_string(),
    }
}

fn unavailable(error: reqwest::Error) -> Unavailable {
    Unavailable(error.without_url().to_string())
}
