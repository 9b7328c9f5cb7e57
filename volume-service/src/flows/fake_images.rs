//! An image service for tests: the routes that the client uses, in memory.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, put};
use axum::{Json, Router};
use bytes::Bytes;
use http_body_util::BodyExt;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::images::Image;

#[derive(Default)]
struct Stored {
    status: String,
    disk_format: String,
    data: Bytes,
    location: Option<String>,
}

#[derive(Default)]
struct Shared {
    images: Mutex<HashMap<Uuid, Stored>>,
    refuses_ranges: std::sync::atomic::AtomicBool,
    whole_downloads: std::sync::atomic::AtomicUsize,
}

/// A running image service; it ends with the test.
pub(crate) struct FakeImages {
    pub endpoint: String,
    shared: Arc<Shared>,
    server: tokio::task::JoinHandle<()>,
}

impl Drop for FakeImages {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl FakeImages {
    pub async fn start() -> Self {
        let shared = Arc::new(Shared::default());
        let router = Router::new()
            .route("/v2/images/{id}", get(show).delete(remove))
            .route("/v2/images/{id}/locations", get(locations))
            .route("/v2/images/{id}/file", put(upload).get(download))
            .with_state(shared.clone());
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let server = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        FakeImages {
            endpoint,
            shared,
            server,
        }
    }

    /// An active image, or, without data, a queued one.
    pub fn add(&self, disk_format: &str, data: Option<Bytes>, location: Option<String>) -> Image {
        let id = Uuid::new_v4();
        let status = if data.is_some() { "active" } else { "queued" }.to_owned();
        let data = data.unwrap_or_default();
        let stored = Stored {
            status,
            disk_format: disk_format.to_owned(),
            data,
            location,
        };
        let record = record(id, &stored);
        self.shared.images.lock().unwrap().insert(id, stored);
        Image::from_record(serde_json::from_value(record).unwrap()).unwrap()
    }

    pub fn refuse_ranges(&self) {
        self.shared
            .refuses_ranges
            .store(true, std::sync::atomic::Ordering::Relaxed);
    }

    pub fn whole_downloads(&self) -> usize {
        self.shared
            .whole_downloads
            .load(std::sync::atomic::Ordering::Relaxed)
    }

    /// Status and data of an image; `None` when it is gone.
    pub fn image(&self, id: Uuid) -> Option<(String, Bytes)> {
        let images = self.shared.images.lock().unwrap();
        images
            .get(&id)
            .map(|image| (image.status.clone(), image.data.clone()))
    }
}

fn record(id: Uuid, image: &Stored) -> Value {
    json!({
        "id": id, "name": "an image", "status": image.status, "visibility": "shared", "protected": false,
        "owner": "project", "container_format": "bare", "disk_format": image.disk_format,
        "size": if image.data.is_empty() { Value::Null } else { json!(image.data.len()) },
        "virtual_size": null, "min_disk": 0, "min_ram": 0, "checksum": "0123", "updated_at": null,
        "hw_disk_bus": "virtio",
    })
}

fn missing() -> Response {
    StatusCode::NOT_FOUND.into_response()
}

async fn show(State(shared): State<Arc<Shared>>, Path(id): Path<Uuid>) -> Response {
    let images = shared.images.lock().unwrap();
    images
        .get(&id)
        .map_or_else(missing, |image| Json(record(id, image)).into_response())
}

async fn remove(State(shared): State<Arc<Shared>>, Path(id): Path<Uuid>) -> Response {
    let removed = shared.images.lock().unwrap().remove(&id);
    removed.map_or_else(missing, |_| StatusCode::NO_CONTENT.into_response())
}

async fn locations(State(shared): State<Arc<Shared>>, Path(id): Path<Uuid>) -> Response {
    let images = shared.images.lock().unwrap();
    let Some(image) = images.get(&id) else {
        return missing();
    };
    let urls: Vec<Value> = image
        .location
        .iter()
        .map(|url| json!({"url": url, "metadata": {}}))
        .collect();
    Json(urls).into_response()
}

async fn download(
    State(shared): State<Arc<Shared>>,
    Path(id): Path<Uuid>,
    headers: HeaderMap,
) -> Response {
    let data = shared
        .images
        .lock()
        .unwrap()
        .get(&id)
        .map(|image| image.data.clone());
    let Some(data) = data else { return missing() };
    let Some(range) = headers.get("range").and_then(|range| range.to_str().ok()) else {
        shared
            .whole_downloads
            .fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        return data.into_response();
    };
    if shared
        .refuses_ranges
        .load(std::sync::atomic::Ordering::Relaxed)
    {
        return StatusCode::BAD_REQUEST.into_response();
    }
    let (first, last) = range.trim_start_matches("bytes=").split_once('-').unwrap();
    let (first, last): (usize, usize) = (first.parse().unwrap(), last.parse().unwrap());
    let last = last.min(data.len() - 1);
    (StatusCode::PARTIAL_CONTENT, data.slice(first..=last)).into_response()
}

async fn upload(State(shared): State<Arc<Shared>>, Path(id): Path<Uuid>, body: Body) -> Response {
    let set_status = |from: &str, to: &str| {
        let mut images = shared.images.lock().unwrap();
        let image = images.get_mut(&id).filter(|image| image.status == from);
        image.map(|image| image.status = to.to_owned()).is_some()
    };
    if !set_status("queued", "saving") {
        return StatusCode::CONFLICT.into_response();
    }
    let Ok(body) = body.collect().await else {
        set_status("saving", "queued");
        return StatusCode::BAD_REQUEST.into_response();
    };
    let mut images = shared.images.lock().unwrap();
    let Some(image) = images.get_mut(&id) else {
        return StatusCode::GONE.into_response();
    };
    (image.status, image.data) = ("active".to_owned(), body.to_bytes());
    StatusCode::NO_CONTENT.into_response()
}
