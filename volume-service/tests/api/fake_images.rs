//! An image service with a few records and no data.

use std::sync::{Arc, Mutex};

use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, StatusCode};
use axum::routing::get;
use axum::{Json, Router};
use serde::Deserialize;
use serde_json::{Value, json};

#[derive(Clone, Default)]
pub struct FakeImages(Arc<Mutex<Vec<Value>>>, Arc<Mutex<Vec<String>>>);

#[derive(Deserialize)]
struct Filter {
    name: String,
}

impl FakeImages {
    /// Serves on a free port of loopback; returns its address.
    pub async fn serve(&self) -> String {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let router = Router::new()
            .route("/v2/images", get(list).post(create))
            .route("/v2/images/{id}", get(show).delete(delete))
            .with_state(self.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        format!("http://{address}")
    }

    /// Adds an active raw image of 1 GiB, changed by `fields`; returns its id.
    pub fn add(&self, fields: Value) -> String {
        let id = format!("0e4c9c9c-55a5-4c2a-8d3b-{:012}", self.count());
        let mut image = json!({
            "id": id, "name": "image", "status": "active", "container_format": "bare",
            "disk_format": "raw", "size": 1 << 30, "virtual_size": null, "min_disk": 0, "min_ram": 0,
        });
        for (key, value) in fields.as_object().unwrap() {
            image[key] = value.clone();
        }
        self.0.lock().unwrap().push(image);
        id
    }

    pub fn image(&self, id: &str) -> Value {
        self.find(|image| image["id"] == id).remove(0)
    }

    /// The request ids that came with reads of single images.
    pub fn request_ids(&self) -> Vec<String> {
        std::mem::take(&mut *self.1.lock().unwrap())
    }

    pub fn count(&self) -> usize {
        self.0.lock().unwrap().len()
    }

    fn find(&self, wanted: impl Fn(&Value) -> bool) -> Vec<Value> {
        self.0
            .lock()
            .unwrap()
            .iter()
            .filter(|image| wanted(image))
            .cloned()
            .collect()
    }
}

async fn list(State(images): State<FakeImages>, Query(filter): Query<Filter>) -> Json<Value> {
    Json(json!({"images": images.find(|image| image["name"] == filter.name)}))
}

async fn show(
    State(images): State<FakeImages>,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> Result<Json<Value>, StatusCode> {
    if let Some(id) = headers.get("x-openstack-request-id") {
        images
            .1
            .lock()
            .unwrap()
            .push(id.to_str().unwrap().to_owned());
    }
    images
        .find(|image| image["id"] == id)
        .pop()
        .map(Json)
        .ok_or(StatusCode::NOT_FOUND)
}

async fn create(
    State(images): State<FakeImages>,
    Json(mut image): Json<Value>,
) -> (StatusCode, Json<Value>) {
    image["status"] = json!("queued");
    image["size"] = Value::Null;
    let id = images.add(image);
    let image = images.find(|image| image["id"] == id).remove(0);
    (StatusCode::CREATED, Json(image))
}

async fn delete(State(images): State<FakeImages>, Path(id): Path<String>) -> StatusCode {
    images.0.lock().unwrap().retain(|image| image["id"] != id);
    StatusCode::NO_CONTENT
}
