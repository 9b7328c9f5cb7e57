//! A service with its workers, and a client that sends requests straight into the router.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use axum::Router;
use axum::body::Body;
use axum::http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::BodyExt;
use image_service::{ImageService, Notices, Options};
use rest::Secret;
use rest::identity::{Identity, IdentityError, Named, TokenInfo};
use serde_json::Value;
use storage::ImageStore;
use storage::memory::MemoryStore;
use tempfile::TempDir;
use tokio::sync::watch;
use tower::ServiceExt;

/// A token is `project:role,role`.
struct Tokens;

fn named(name: &str) -> Named {
    Named {
        id: name.into(),
        name: name.into(),
        domain_id: "default".into(),
        domain_name: "Default".into(),
    }
}

#[async_trait]
impl Identity for Tokens {
    async fn validate(&self, token: &Secret) -> Result<Arc<TokenInfo>, IdentityError> {
        let (project, roles) = token
            .expose()
            .split_once(':')
            .ok_or(IdentityError::Unauthorized)?;
        Ok(Arc::new(TokenInfo {
            user: named("someone"),
            project: Some(named(project)),
            roles: roles.split(',').map(str::to_owned).collect(),
            expires_at_us: i64::MAX,
            is_admin_project: true,
            ..TokenInfo::default()
        }))
    }

    fn auth_uri(&self) -> &str {
        ""
    }
}

pub const ALICE: &str = "alice:member,reader";
pub const BOB: &str = "bob:member,reader";
pub const READER: &str = "alice:reader";
pub const ADMIN: &str = "ops:admin,member,reader";
pub const SERVICE: &str = "services:service";

pub struct World {
    pub router: Router,
    pub service: Arc<ImageService>,
    pub store: Arc<MemoryStore>,
    stop: watch::Sender<bool>,
    _folder: TempDir,
}

pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub bytes: bytes::Bytes,
}

impl Answer {
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.bytes).unwrap_or_else(|_| panic!("no JSON: {:?}", self.bytes))
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.bytes).into_owned()
    }

    pub fn header(&self, name: &str) -> &str {
        self.headers
            .get(name)
            .map_or("", |value| value.to_str().unwrap())
    }

    #[track_caller]
    pub fn expect(self, status: u16) -> Self {
        assert_eq!(self.status.as_u16(), status, "{}", self.text());
        self
    }
}

impl World {
    pub async fn new() -> Self {
        Self::with(Options::default(), MemoryStore::new()).await
    }

    pub async fn with(options: Options, store: MemoryStore) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let database = database::testing::migrated_database(folder.path());
        let database = database.await.unwrap();
        let store = Arc::new(store);
        let service = ImageService::new(database, store.clone(), options, Notices::default())
            .await
            .unwrap();
        let (stop, stopped) = watch::channel(false);
        for worker in service.workers(Duration::from_secs(30), None) {
            let mut stopped = stopped.clone();
            tokio::spawn(worker.run(async move {
                let _ = stopped.wait_for(|stop| *stop).await;
            }));
        }
        World {
            router: service.router(Arc::new(Tokens)),
            service,
            store,
            stop,
            _folder: folder,
        }
    }

    pub async fn send(&self, request: Request<Body>) -> Answer {
        let response = self.router.clone().oneshot(request).await.unwrap();
        let (parts, mut body) = response.into_parts();
        // As a network does: a piece that is kept keeps the room of the next.
        let mut bytes = Vec::new();
        while let Some(frame) = body.frame().await {
            bytes.extend_from_slice(&frame.unwrap().into_data().unwrap_or_default());
        }
        Answer {
            status: parts.status,
            headers: parts.headers,
            bytes: bytes.into(),
        }
    }

    pub fn request(token: &str, method: Method, path: &str) -> axum::http::request::Builder {
        Request::builder()
            .method(method)
            .uri(path)
            .header("host", "glance")
            .header("x-auth-token", token)
    }

    pub async fn get(&self, token: &str, path: &str) -> Answer {
        self.send(
            Self::request(token, Method::GET, path)
                .body(Body::empty())
                .unwrap(),
        )
        .await
    }

    pub async fn delete(&self, token: &str, path: &str) -> Answer {
        self.send(
            Self::request(token, Method::DELETE, path)
                .body(Body::empty())
                .unwrap(),
        )
        .await
    }

    pub async fn json(&self, token: &str, method: Method, path: &str, body: Value) -> Answer {
        let request = Self::request(token, method, path).header("content-type", "application/json");
        self.send(request.body(Body::from(body.to_string())).unwrap())
            .await
    }

    pub async fn post(&self, token: &str, path: &str, body: Value) -> Answer {
        self.json(token, Method::POST, path, body).await
    }

    pub async fn put(&self, token: &str, path: &str, body: Value) -> Answer {
        self.json(token, Method::PUT, path, body).await
    }

    pub async fn patch(&self, token: &str, id: &str, body: Value) -> Answer {
        let media_type = "application/openstack-images-v2.1-json-patch";
        self.patch_as(token, id, media_type, body).await
    }

    pub async fn patch_as(&self, token: &str, id: &str, media_type: &str, body: Value) -> Answer {
        let request = Self::request(token, Method::PATCH, &format!("/v2/images/{id}"));
        let request = request.header("content-type", media_type);
        self.send(request.body(Body::from(body.to_string())).unwrap())
            .await
    }

    /// A new image; its id.
    pub async fn create(&self, token: &str, body: Value) -> String {
        let answer = self.post(token, "/v2/images", body).await.expect(201);
        answer.json()["id"].as_str().unwrap().to_owned()
    }

    /// A new raw image in a bare container.
    pub async fn create_raw(&self, token: &str) -> String {
        self.create(
            token,
            serde_json::json!({"disk_format": "raw", "container_format": "bare"}),
        )
        .await
    }

    pub async fn stage(&self, token: &str, id: &str, data: impl Into<Body>) -> Answer {
        let request = Self::request(token, Method::PUT, &format!("/v2/images/{id}/stage"));
        let request = request.header("content-type", "application/octet-stream");
        self.send(request.body(data.into()).unwrap()).await
    }

    /// Waits until the image's only task has ended; how it ended.
    pub async fn wait_for_task(&self, id: &str) -> Value {
        loop {
            let answer = self.get(ADMIN, &format!("/v2/images/{id}/tasks")).await;
            let tasks = answer.expect(200).json()["tasks"].clone();
            let task = tasks.as_array().and_then(|tasks| tasks.last()).unwrap();
            if matches!(task["status"].as_str(), Some("success" | "failure")) {
                return task.clone();
            }
            tokio::time::sleep(std::time::Duration::from_millis(2)).await;
        }
    }

    pub async fn upload(&self, token: &str, id: &str, data: impl Into<Body>) -> Answer {
        let request = Self::request(token, Method::PUT, &format!("/v2/images/{id}/file"));
        let request = request.header("content-type", "application/octet-stream");
        self.send(request.body(data.into()).unwrap()).await
    }

    pub async fn show(&self, id: &str) -> Value {
        self.get(ADMIN, &format!("/v2/images/{id}"))
            .await
            .expect(200)
            .json()
    }

    /// Names of images in the store's pool.
    pub async fn stored(&self) -> Vec<String> {
        self.store.images("images").await.unwrap()
    }

    /// Waits until the store's pool holds nothing: deletes answer before their flow has ended.
    pub async fn wait_until_store_is_empty(&self) {
        while !self.stored().await.is_empty() {
            tokio::time::sleep(std::time::Duration::from_millis(2)).await;
        }
        assert_eq!(self.store.capacity("images").await.unwrap().used_bytes, 0);
    }
}

impl Drop for World {
    fn drop(&mut self) {
        let _ = self.stop.send(true);
    }
}
