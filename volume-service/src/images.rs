//! A client of the Image API v2 (Glance's contract): records with the user's token, data and
//! locations with the service's own.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use reqwest::{Method, RequestBuilder, Response, StatusCode, header};
use rest::http_client::{self, ClientError, Tls, chain_of};
use rest::identity::TokenSource;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use storage::ImageSpec;
use uuid::Uuid;

/// A whole request that carries no image data.
const CALL_TIMEOUT: Duration = Duration::from_secs(60);
/// The longest silence of a server that sends image data.
const READ_TIMEOUT: Duration = Duration::from_secs(60);
/// The longest record that is read; a server that sends more is not an image service.
const MAX_RECORD_BYTES: usize = 4 << 20;
const MAX_ERROR_CHARS: usize = 300;
/// `Content-Length` of an upload for services that are told the size beforehand.
const SIZE_HEADER: &str = "x-openstack-image-size";

/// The property that names the key of an image made of an encrypted volume, and the one that says
/// who deletes the key.
pub const ENCRYPTION_KEY_PROPERTY: &str = "cinder_encryption_key_id";
pub const KEY_DELETION_PROPERTY: &str = "cinder_encryption_key_deletion_policy";

/// Keys of an image record that are not properties.
const BASE_KEYS: &[&str] = &[
    "id",
    "name",
    "status",
    "visibility",
    "protected",
    "os_hidden",
    "checksum",
    "os_hash_algo",
    "os_hash_value",
    "owner",
    "size",
    "virtual_size",
    "container_format",
    "disk_format",
    "created_at",
    "updated_at",
    "tags",
    "min_ram",
    "min_disk",
    "self",
    "file",
    "schema",
    "direct_url",
    "locations",
    "stores",
];

/// An image service failure, by what the caller can do about it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("image {0} could not be found")]
    NotFound(String),
    /// The token may not do this.
    #[error("the image service denied the request: {0}")]
    Forbidden(String),
    /// The image is in another state than the call needs (409, 410).
    #[error("the image is in the wrong state: {0}")]
    Conflict(String),
    /// The image service has no room (413).
    #[error("the image service has no room: {0}")]
    TooLarge(String),
    /// This image cannot be read in parts; download it whole.
    #[error("the image service cannot read parts of an image")]
    RangeRefused,
    /// Any other refusal: repeating the call will not help.
    #[error("the image service refused the request ({status}): {message}")]
    Refused { status: u16, message: String },
    /// Not reachable, too slow, or broken (5xx): the call may be repeated.
    #[error("the image service is unavailable: {0}")]
    Unavailable(String),
}

pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An image record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Image {
    pub id: Uuid,
    pub name: Option<String>,
    pub status: String,
    pub visibility: Option<String>,
    #[serde(default)]
    pub protected: bool,
    pub owner: Option<String>,
    pub container_format: Option<String>,
    pub disk_format: Option<String>,
    /// Bytes of the file.
    pub size: Option<u64>,
    /// Bytes of the disk in the file.
    pub virtual_size: Option<u64>,
    #[serde(default)]
    pub min_disk: u64,
    #[serde(default)]
    pub min_ram: u64,
    pub checksum: Option<String>,
    pub updated_at: Option<String>,
    /// Every other key that has a string value.
    #[serde(default)]
    pub properties: BTreeMap<String, String>,
}

impl Image {
    /// What the image's disk needs of a volume, in whole GiB: file, virtual disk and `min_disk`.
    pub fn needs_gib(&self) -> u64 {
        let bytes = self.size.unwrap_or(0).max(self.virtual_size.unwrap_or(0));
        bytes.div_ceil(1 << 30).max(self.min_disk)
    }

    /// The key of an image that was made of an encrypted volume.
    pub fn encryption_key_id(&self) -> Option<Uuid> {
        let text = self.properties.get(ENCRYPTION_KEY_PROPERTY)?;
        Uuid::parse_str(text).ok()
    }

    /// The `volume_image_metadata` of a volume made from this image: the image's properties and
    /// the base attributes that Cinder copies.
    pub fn volume_image_metadata(&self) -> BTreeMap<String, String> {
        let mut metadata = self.properties.clone();
        // The volume has a key of its own.
        metadata.remove(ENCRYPTION_KEY_PROPERTY);
        metadata.remove(KEY_DELETION_PROPERTY);
        let mut put = |key: &str, value: Option<String>| {
            if let Some(value) = value {
                metadata.insert(key.to_owned(), value);
            }
        };
        put("image_id", Some(self.id.to_string()));
        put(
            "image_name",
            self.name.clone().filter(|name| !name.is_empty()),
        );
        put("checksum", self.checksum.clone());
        put("container_format", self.container_format.clone());
        put("disk_format", self.disk_format.clone());
        put("min_disk", Some(self.min_disk.to_string()));
        put("min_ram", Some(self.min_ram.to_string()));
        put("size", self.size.map(|size| size.to_string()));
        metadata
    }

    pub(crate) fn from_record(mut record: BTreeMap<String, Value>) -> Result<Self> {
        let mut properties = BTreeMap::new();
        record.retain(|key, value| {
            let base = BASE_KEYS.contains(&key.as_str());
            if let (false, Value::String(text)) = (base || key.starts_with("os_glance_"), &*value) {
                properties.insert(key.clone(), text.clone());
            }
            base
        });
        for number in ["min_disk", "min_ram"] {
            record.entry(number.to_owned()).and_modify(|value| {
                if value.is_null() {
                    *value = json!(0);
                }
            });
        }
        let mut image: Image =
            serde_json::from_value(json!(record)).map_err(|error| malformed(&error.to_string()))?;
        image.properties = properties;
        Ok(image)
    }
}

/// The record of an image that a volume will be uploaded to.
#[derive(Debug, Clone)]
pub struct NewImage {
    pub name: String,
    pub disk_format: String,
    pub container_format: String,
    pub visibility: Option<String>,
    pub protected: Option<bool>,
    pub min_disk: Option<u64>,
    pub min_ram: Option<u64>,
    /// Further properties; the image service may refuse reserved ones.
    pub properties: BTreeMap<String, String>,
}

/// Where the bytes of an image lie, as `GET /v2/images/{id}/locations` tells it.
#[derive(Debug, Clone, Deserialize)]
struct Location {
    url: String,
}

/// The answer to `GET /v2/images`.
#[derive(Debug, Deserialize)]
struct Found {
    images: Vec<BTreeMap<String, Value>>,
}

/// A client of one image service. Cheap to clone; clones share the connections.
#[derive(Clone)]
pub struct Client {
    endpoint: String,
    tokens: Arc<dyn TokenSource>,
    calls: reqwest::Client,
    downloads: reqwest::Client,
    uploads: reqwest::Client,
}

impl Client {
    /// `endpoint`: the service's base URL without version (`http://127.0.0.1:9292`); `tokens`:
    /// tokens of the service user, which needs the roles `admin` and `service`.
    pub fn new(
        endpoint: &str,
        tls: &Tls,
        tokens: Arc<dyn TokenSource>,
    ) -> Result<Self, ClientError> {
        let client = || http_client::builder(tls);
        Ok(Client {
            endpoint: endpoint
                .trim_end_matches('/')
                .trim_end_matches("/v2")
                .to_owned(),
            tokens,
            calls: client()?.timeout(CALL_TIMEOUT).build()?,
            downloads: client()?.read_timeout(READ_TIMEOUT).build()?,
            uploads: client()?.build()?,
        })
    }

    /// The image as the bearer of `token` sees it.
    pub async fn show(&self, token: &str, id: Uuid) -> Result<Image> {
        let path = format!("images/{id}");
        let request = self.request_for(Method::GET, &path, token).await?;
        Image::from_record(record(checked(request, id).await?).await?)
    }

    /// The images of this name that the bearer of `token` sees; two at most, for more than one
    /// is one too many.
    pub async fn find_by_name(&self, token: &str, name: &str) -> Result<Vec<Image>> {
        let request = self.request_for(Method::GET, "images", token).await?;
        let request = request.query(&[("name", name), ("limit", "2")]);
        let found: Found = record(checked(request, name).await?).await?;
        found.images.into_iter().map(Image::from_record).collect()
    }

    /// The image as the service user sees it.
    pub async fn show_as_service(&self, id: Uuid) -> Result<Image> {
        let token = self.service_token().await?;
        let path = format!("images/{id}");
        let request = self.request(&self.calls, Method::GET, &path, &token);
        Image::from_record(record(checked(request, id).await?).await?)
    }

    /// URLs of the image's copies, best first; empty when the image service does not tell.
    pub async fn locations(&self, id: Uuid) -> Result<Vec<String>> {
        let token = self.service_token().await?;
        let path = format!("images/{id}/locations");
        let request = self.request(&self.calls, Method::GET, &path, &token);
        match checked(request, id).await {
            Ok(response) => {
                let locations: Vec<Location> = record(response).await?;
                Ok(locations.into_iter().map(|location| location.url).collect())
            }
            // An image service without the location API may show them in the record.
            Err(Error::NotFound(_) | Error::Forbidden(_) | Error::Refused { .. }) => {
                let request =
                    self.request(&self.calls, Method::GET, &format!("images/{id}"), &token);
                Ok(shown_locations(&record(checked(request, id).await?).await?))
            }
            Err(error) => Err(error),
        }
    }

    /// Exactly `length` bytes of the image file from `offset` on.
    ///
    /// Errors: [`Error::RangeRefused`] when the service's store cannot do this.
    pub async fn read_range(&self, id: Uuid, offset: u64, length: usize) -> Result<Bytes> {
        if length == 0 {
            return Ok(Bytes::new());
        }
        let token = self.service_token().await?;
        let last = offset.saturating_add(length as u64 - 1);
        let request = self
            .request(
                &self.downloads,
                Method::GET,
                &format!("images/{id}/file"),
                &token,
            )
            .header(header::RANGE, format!("bytes={offset}-{last}"));
        let mut response = match checked(request, id).await {
            Ok(response) if response.status() == StatusCode::PARTIAL_CONTENT => response,
            Ok(_)
            | Err(Error::Refused {
                status: 400 | 416, ..
            }) => return Err(Error::RangeRefused),
            Err(error) => return Err(error),
        };
        let body = bounded(&mut response, length).await?;
        if body.len() != length {
            return Err(Error::Unavailable(format!(
                "{} of {length} bytes arrived",
                body.len()
            )));
        }
        Ok(body)
    }

    /// The image file from the start; the caller reads the response in chunks.
    pub async fn download(&self, id: Uuid) -> Result<Response> {
        let token = self.service_token().await?;
        let path = format!("images/{id}/file");
        checked(
            self.request(&self.downloads, Method::GET, &path, &token),
            id,
        )
        .await
    }

    /// The next piece of a download; `None` at its end.
    pub async fn next_chunk(download: &mut Response) -> Result<Option<Bytes>> {
        download.chunk().await.map_err(unavailable)
    }

    /// Makes an image record, `queued`, which belongs to the bearer of `token`.
    pub async fn create(&self, token: &str, image: &NewImage) -> Result<Image> {
        let mut body: BTreeMap<&str, Value> = image
            .properties
            .iter()
            .map(|(key, value)| (key.as_str(), json!(value)))
            .collect();
        body.insert("name", json!(image.name));
        body.insert("disk_format", json!(image.disk_format));
        body.insert("container_format", json!(image.container_format));
        let mut put = |key, value: Option<Value>| value.map(|value| body.insert(key, value));
        put(
            "visibility",
            image.visibility.as_ref().map(|value| json!(value)),
        );
        put("protected", image.protected.map(|value| json!(value)));
        put("min_disk", image.min_disk.map(|value| json!(value)));
        put("min_ram", image.min_ram.map(|value| json!(value)));
        let request = self.request_for(Method::POST, "images", token).await?;
        let request = request.json(&body);
        Image::from_record(record(checked(request, image.name.clone()).await?).await?)
    }

    /// Streams the image's data (`queued` → `active`). `size`: exact bytes, when known.
    ///
    /// It takes as long as `body` and the service take: the caller watches over progress.
    pub async fn upload(&self, id: Uuid, size: Option<u64>, body: reqwest::Body) -> Result<()> {
        let token = self.service_token().await?;
        let mut request = self
            .request(
                &self.uploads,
                Method::PUT,
                &format!("images/{id}/file"),
                &token,
            )
            .header(header::CONTENT_TYPE, "application/octet-stream");
        if let Some(size) = size {
            request = request
                .header(SIZE_HEADER, size)
                .header(header::CONTENT_LENGTH, size);
        }
        checked(request.body(body), id).await.map(drop)
    }

    /// Asks the image service to make the `queued` image of a disk in the store `fsid` by itself:
    /// a snapshot and a clone, where it keeps its images in the same store. The image is `saving`
    /// then, and `active` soon.
    ///
    /// Errors: [`Error::NotFound`], [`Error::Forbidden`], [`Error::Conflict`] or
    /// [`Error::Refused`] where it cannot: the data must be uploaded.
    pub async fn snapshot_disk(&self, id: Uuid, fsid: &str, disk: &ImageSpec) -> Result<()> {
        let token = self.service_token().await?;
        let path = format!("images/{id}/actions/snapshot_disk");
        let request = self.request(&self.calls, Method::POST, &path, &token);
        let body = json!({"fsid": fsid, "pool": disk.pool, "disk": disk.image});
        checked(request.json(&body), id).await.map(drop)
    }

    /// Removes the image. An image that is gone is a success.
    pub async fn delete(&self, id: Uuid) -> Result<()> {
        let token = self.service_token().await?;
        let path = format!("images/{id}");
        match checked(self.request(&self.calls, Method::DELETE, &path, &token), id).await {
            Ok(_) | Err(Error::NotFound(_)) => Ok(()),
            Err(error) => Err(error),
        }
    }

    fn request(
        &self,
        client: &reqwest::Client,
        method: Method,
        path: &str,
        token: &str,
    ) -> RequestBuilder {
        let call = client.request(method, format!("{}/v2/{path}", self.endpoint));
        http_client::marked(call.header("x-auth-token", token))
    }

    /// A call for the bearer of `token`. The service's own token goes along, so that the call
    /// still counts if the user's token runs out meanwhile.
    async fn request_for(&self, method: Method, path: &str, token: &str) -> Result<RequestBuilder> {
        let own = self.service_token().await?;
        let request = self.request(&self.calls, method, path, token);
        Ok(request.header("x-service-token", own))
    }

    async fn service_token(&self) -> Result<String> {
        let token = self.tokens.token().await;
        let token =
            token.map_err(|error| Error::Unavailable(format!("no service token: {error}")))?;
        Ok(token.expose().to_owned())
    }
}

/// Sends the request; anything but success becomes an [`Error`].
async fn checked(request: RequestBuilder, what: impl ToString) -> Result<Response> {
    let mut response = request.send().await.map_err(unavailable)?;
    let status = response.status();
    if status.is_success() {
        return Ok(response);
    }
    let body = bounded(&mut response, 64 << 10).await.unwrap_or_default();
    let message: String = reason(&body).chars().take(MAX_ERROR_CHARS).collect();
    Err(match status.as_u16() {
        404 => Error::NotFound(what.to_string()),
        403 => Error::Forbidden(message),
        409 | 410 => Error::Conflict(message),
        413 => Error::TooLarge(message),
        // The token ran out or the service is not well: worth another try.
        401 | 408 | 429 | 500..=599 => Error::Unavailable(format!("{status}: {message}")),
        status => Error::Refused { status, message },
    })
}

/// The text of an error body: the `message` of a JSON one, else the body itself.
fn reason(body: &[u8]) -> String {
    match serde_json::from_slice::<Value>(body) {
        Ok(Value::Object(object)) => match object.get("message") {
            Some(Value::String(message)) => message.clone(),
            _ => String::from_utf8_lossy(body).into_owned(),
        },
        _ => String::from_utf8_lossy(body).into_owned(),
    }
}

async fn record<T: DeserializeOwned>(mut response: Response) -> Result<T> {
    let body = bounded(&mut response, MAX_RECORD_BYTES).await?;
    serde_json::from_slice(&body).map_err(|error| malformed(&error.to_string()))
}

/// The whole body; an error when it is longer than `limit`.
async fn bounded(response: &mut Response, limit: usize) -> Result<Bytes> {
    let mut body = BytesMut::new();
    while let Some(chunk) = response.chunk().await.map_err(unavailable)? {
        if body.len() + chunk.len() > limit {
            return Err(malformed("the answer is too long"));
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body.freeze())
}

/// The locations that a record shows (`show_multiple_locations`, `show_image_direct_url`).
fn shown_locations(record: &BTreeMap<String, Value>) -> Vec<String> {
    let locations = record
        .get("locations")
        .and_then(Value::as_array)
        .into_iter()
        .flatten();
    let urls = locations.filter_map(|location| location.get("url"));
    let urls = urls
        .chain(record.get("direct_url"))
        .filter_map(Value::as_str);
    urls.map(str::to_owned).collect()
}

fn malformed(detail: &str) -> Error {
    Error::Unavailable(format!(
        "it answered something that is not understood: {detail}"
    ))
}

fn unavailable(error: reqwest::Error) -> Error {
    Error::Unavailable(chain_of(error))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record_of(value: Value) -> Result<Image> {
        Image::from_record(serde_json::from_value(value).unwrap())
    }

    #[test]
    fn a_record_splits_into_attributes_and_properties() {
        let id = Uuid::new_v4();
        let image = record_of(json!({
            "id": id, "name": "debian", "status": "active", "visibility": "public", "protected": false,
            "container_format": "bare", "disk_format": "qcow2", "size": 1_000, "virtual_size": (1u64 << 30) + 1,
            "min_disk": 0, "min_ram": 512, "checksum": "abc", "os_hash_algo": "sha512", "tags": [],
            "hw_disk_bus": "scsi", "os_glance_import_task": "x", "nothing": null, "schema": "/v2/schemas/image",
        }))
        .unwrap();
        assert_eq!(
            image.properties,
            BTreeMap::from([("hw_disk_bus".into(), "scsi".into())])
        );
        assert_eq!(image.needs_gib(), 2);
        let metadata = image.volume_image_metadata();
        let expected = [
            ("checksum", "abc"),
            ("container_format", "bare"),
            ("disk_format", "qcow2"),
            ("hw_disk_bus", "scsi"),
            ("image_id", &id.to_string()),
            ("image_name", "debian"),
            ("min_disk", "0"),
            ("min_ram", "512"),
            ("size", "1000"),
        ];
        assert_eq!(
            metadata,
            expected
                .iter()
                .map(|(k, v)| (k.to_string(), v.to_string()))
                .collect()
        );
    }

    #[test]
    fn a_record_without_an_id_is_an_error() {
        assert!(matches!(
            record_of(json!({"status": "active"})),
            Err(Error::Unavailable(_))
        ));
    }

    #[test]
    fn locations_come_from_the_record_where_there_is_no_location_api() {
        let record = json!({"locations": [{"url": "rbd://a/b/c/d", "metadata": {}}], "direct_url": "rbd://e/f/g/h"});
        let record = serde_json::from_value(record).unwrap();
        assert_eq!(shown_locations(&record), ["rbd://a/b/c/d", "rbd://e/f/g/h"]);
    }
}
