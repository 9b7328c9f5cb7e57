//! A client of the Compute API (Nova's contract): which server has a volume, and what servers
//! are told of their volumes.

use std::sync::Arc;
use std::time::Duration;

use reqwest::{Method, RequestBuilder, StatusCode, header};
use rest::http_client::{self, ClientError, Tls};
use rest::identity::TokenSource;
use serde::{Deserialize, Serialize};
use serde_json::json;
use uuid::Uuid;

const CALL_TIMEOUT: Duration = Duration::from_secs(60);
/// The longest answer that is read.
const MAX_ANSWER_BYTES: usize = 1 << 20;

/// Why the compute service did not do it. Repeating the call may help.
#[derive(Debug, thiserror::Error)]
#[error("the compute service is unavailable: {0}")]
pub struct Unavailable(String);

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
        let mut response = request.send().await.map_err(unavailable)?;
        match response.status() {
            StatusCode::OK => {}
            StatusCode::NOT_FOUND => return Ok(None),
            other => return Err(Unavailable(format!("it answered {other}"))),
        }
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(unavailable)? {
            if body.len().saturating_add(chunk.len()) > MAX_ANSWER_BYTES {
                return Err(Unavailable("its answer is too long".to_owned()));
            }
            body.extend_from_slice(&chunk);
        }
        let shown: Shown = serde_json::from_slice(&body)
            .map_err(|error| Unavailable(format!("its answer is not understood: {error}")))?;
        Ok(shown.attachment.attachment_id)
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

fn unavailable(error: reqwest::Error) -> Unavailable {
    Unavailable(error.without_url().to_string())
}
