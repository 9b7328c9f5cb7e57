//! A key manager with a few secrets. Tokens are `role@project`, the role is the user's id.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::routing::{get, post, put};
use axum::{Json, Router};
use serde_json::{Value, json};
use uuid::Uuid;

#[derive(Clone)]
pub struct Stored {
    pub project: String,
    /// What was sent.
    pub body: Value,
    readers: Vec<String>,
}

#[derive(Clone, Default)]
pub struct FakeKeys(Arc<Mutex<BTreeMap<Uuid, Stored>>>);

type Id = Path<Uuid>;

fn caller(headers: &HeaderMap) -> (String, String) {
    let token = headers["x-auth-token"].to_str().unwrap();
    let (role, project) = token.split_once('@').unwrap();
    (role.to_owned(), project.to_owned())
}

impl FakeKeys {
    /// Serves on a free port of loopback; returns its address.
    pub async fn serve(&self) -> String {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let router = Router::new()
            .route("/v1/secrets", post(store))
            .route("/v1/secrets/{id}/acl", put(let_read))
            .route("/v1/secrets/{id}/payload", get(payload))
            .route("/v1/secrets/{id}", axum::routing::delete(delete))
            .with_state(self.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        format!("http://{address}")
    }

    pub fn all(&self) -> BTreeMap<Uuid, Stored> {
        self.0.lock().unwrap().clone()
    }

    pub fn get(&self, id: &Value) -> Option<Stored> {
        let id = Uuid::parse_str(id.as_str()?).unwrap();
        self.0.lock().unwrap().get(&id).cloned()
    }
}

async fn store(
    State(keys): State<FakeKeys>,
    headers: HeaderMap,
    Json(body): Json<Value>,
) -> (StatusCode, Json<Value>) {
    assert_eq!(body["secret_type"], "symmetric");
    assert_eq!(body["payload_content_encoding"], "base64");
    let id = Uuid::new_v4();
    let stored = Stored {
        project: caller(&headers).1,
        body,
        readers: Vec::new(),
    };
    keys.0.lock().unwrap().insert(id, stored);
    let made = json!({"secret_ref": format!("http://keys.example/v1/secrets/{id}")});
    (StatusCode::CREATED, Json(made))
}

async fn let_read(
    State(keys): State<FakeKeys>,
    Path(id): Id,
    headers: HeaderMap,
    Json(body): Json<Value>,
) -> StatusCode {
    let mut keys = keys.0.lock().unwrap();
    let stored = keys.get_mut(&id).unwrap();
    if stored.project != caller(&headers).1 {
        return StatusCode::FORBIDDEN;
    }
    stored.readers = serde_json::from_value(body["read"]["users"].clone()).unwrap();
    StatusCode::OK
}

async fn payload(
    State(keys): State<FakeKeys>,
    Path(id): Id,
    headers: HeaderMap,
) -> Result<Bytes, StatusCode> {
    use base64::Engine as _;
    let keys = keys.0.lock().unwrap();
    let stored = keys.get(&id).ok_or(StatusCode::NOT_FOUND)?;
    let (user, project) = caller(&headers);
    if stored.project != project && !stored.readers.contains(&user) {
        return Err(StatusCode::FORBIDDEN);
    }
    let text = stored.body["payload"].as_str().unwrap();
    let bytes = base64::engine::general_purpose::STANDARD.decode(text);
    Ok(bytes.unwrap().into())
}

async fn delete(State(keys): State<FakeKeys>, Path(id): Id, headers: HeaderMap) -> StatusCode {
    let mut keys = keys.0.lock().unwrap();
    let (user, project) = caller(&headers);
    match keys.get(&id) {
        None => StatusCode::NOT_FOUND,
        Some(stored) if stored.project != project && user != "service" => StatusCode::FORBIDDEN,
        Some(_) => {
            keys.remove(&id);
            StatusCode::NO_CONTENT
        }
    }
}
