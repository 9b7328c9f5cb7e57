//! An image of another image service, read for a user with the user's own token
//! (the import method glance-download).
//!
//! The other service's address comes out of the catalogue of the user's token, so it is one that
//! the cloud's operator has named; no filter is asked. Nothing of the token is ever stored.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use futures_util::StreamExt;
use rest::Secret;
use rest::http_client::chain_of;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use uuid::Uuid;

use crate::fetch::{self, FetchError, Fetched};

/// The longest document that is read.
const DOCUMENT_BYTES_MAX: usize = 4 << 20;

/// What it takes to ask other services for a user.
#[derive(Clone)]
pub struct Grant {
    pub token: Secret,
    /// Where the token came from.
    pub identity_url: String,
}

/// The grants of the imports that run in this process, by flow id. Cheap to clone.
#[derive(Clone, Default)]
pub struct Grants(Arc<Mutex<HashMap<Uuid, Grant>>>);

impl Grants {
    pub fn put(&self, flow_id: Uuid, grant: Grant) {
        self.entries().insert(flow_id, grant);
    }

    pub fn get(&self, flow_id: Uuid) -> Option<Grant> {
        self.entries().get(&flow_id).cloned()
    }

    pub fn forget(&self, flow_id: Uuid) {
        self.entries().remove(&flow_id);
    }

    fn entries(&self) -> std::sync::MutexGuard<'_, HashMap<Uuid, Grant>> {
        // The map is whole after every statement, also where a holder panicked.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Which image of which service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RemoteImage {
    pub id: Uuid,
    pub region: String,
    /// `public`, `internal` or `admin`.
    pub interface: String,
}

impl RemoteImage {
    /// The image's document.
    pub async fn document(&self, grant: &Grant) -> Result<Value, FetchError> {
        let endpoint = self.endpoint(grant).await?;
        let url = format!("{endpoint}/v2/images/{}", self.id);
        json(&url, &grant.token).await
    }

    /// The image's data.
    pub async fn data(&self, grant: &Grant) -> Result<Fetched, FetchError> {
        let endpoint = self.endpoint(grant).await?;
        let url = format!("{endpoint}/v2/images/{}/file", self.id);
        send(&url, &grant.token).await.map(fetch::fetched)
    }

    /// The image service's address in the catalogue of the user's token.
    async fn endpoint(&self, grant: &Grant) -> Result<String, FetchError> {
        let base = grant.identity_url.trim_end_matches('/');
        if base.is_empty() {
            let message = "there is no identity service that knows other image services";
            return Err(FetchError::Failed(message.to_owned()));
        }
        let base = base.strip_suffix("/v3").unwrap_or(base);
        let document = json(&format!("{base}/v3/auth/catalog"), &grant.token).await?;
        let endpoint = self.find_endpoint(&document).ok_or_else(|| {
            let (interface, region) = (&self.interface, &self.region);
            FetchError::Failed(format!(
                "the catalogue has no {interface} endpoint of an image service in {region}"
            ))
        })?;
        Ok(endpoint.trim_end_matches('/').to_owned())
    }

    fn find_endpoint<'a>(&self, document: &'a Value) -> Option<&'a str> {
        let services = document.get("catalog")?.as_array()?.iter();
        let image = services.filter(|service| service["type"] == "image");
        let endpoints = image.filter_map(|service| service["endpoints"].as_array());
        let mut wanted = endpoints.flatten().filter(|endpoint| {
            let region = endpoint["region"] == self.region || endpoint["region_id"] == self.region;
            region && endpoint["interface"] == self.interface
        });
        wanted.next()?["url"].as_str()
    }
}

async fn send(url: &str, token: &Secret) -> Result<reqwest::Response, FetchError> {
    let client = fetch::client()?.build().map_err(fetch::no_client)?;
    let request = client.get(url).header("x-auth-token", token.expose());
    let response = request
        .send()
        .await
        .map_err(|error| FetchError::Unavailable(chain_of(error)))?;
    match response.status() {
        // 204: the image has no data.
        status if status.is_success() && status != 204 => Ok(response),
        status => Err(fetch::refused_by_server(status)),
    }
}

async fn json(url: &str, token: &Secret) -> Result<Value, FetchError> {
    let mut data = fetch::fetched(send(url, token).await?).data;
    let mut bytes = Vec::new();
    while let Some(piece) = data.next().await {
        let piece = piece.map_err(|error| FetchError::Unavailable(error.to_string()))?;
        if bytes.len() + piece.len() > DOCUMENT_BYTES_MAX {
            return Err(FetchError::Failed("the document is too long".to_owned()));
        }
        bytes.extend_from_slice(&piece);
    }
    let malformed = |_| FetchError::Failed("the answer is not JSON".to_owned());
    serde_json::from_slice(&bytes).map_err(malformed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_endpoint_of_the_region_and_interface() {
        let catalog = json!({"catalog": [
            {"type": "volume", "endpoints": [{"region": "A", "interface": "public", "url": "v"}]},
            {"type": "image", "endpoints": [
                {"region": "A", "region_id": "A", "interface": "admin", "url": "aa"},
                {"region": "B", "region_id": "B", "interface": "public", "url": "bp"},
            ]},
        ]});
        let find = |region: &str, interface: &str| {
            let remote = RemoteImage {
                id: Uuid::nil(),
                region: region.to_owned(),
                interface: interface.to_owned(),
            };
            remote.find_endpoint(&catalog).map(str::to_owned)
        };
        assert_eq!(find("B", "public").as_deref(), Some("bp"));
        assert_eq!(find("A", "public"), None);
        assert_eq!(find("not a region", "public"), None);
    }
}
