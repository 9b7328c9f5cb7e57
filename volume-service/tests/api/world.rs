//! The world of these tests: a fresh database, the service's router, callers of several roles.

use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use axum::Router;
use axum::body::Body;
use database::params;
use http::{HeaderMap, Request, StatusCode};
use http_body_util::BodyExt;
use rest::Secret;
use rest::http_client::Tls;
use rest::identity::{Identity, IdentityError, Named, TokenInfo, TokenSource};
use serde_json::{Value, json};
use tempfile::TempDir;
use tower::ServiceExt;
use volume_service::compute::Compute;
use volume_service::connection::Connection;
use volume_service::db::{self, connections, services};
use volume_service::inventory::{Managers, StoredImage};
use volume_service::keys;
use volume_service::{Doorbell, Options, VolumeService, images};

use crate::fake_images::FakeImages;
use crate::fake_keys::FakeKeys;

pub const PROJECT: &str = "aaaa0000";
pub const OTHER_PROJECT: &str = "bbbb0000";
pub const ADMIN: &str = "admin@aaaa0000";
pub const MEMBER: &str = "member@aaaa0000";
pub const READER: &str = "reader@aaaa0000";
pub const STRANGER: &str = "member@bbbb0000";
/// What the compute service sends beside the user's token.
pub const SERVICE: &str = "service@cccc0000";
pub const POOL: &str = "host@store#volumes";

/// Tokens are `role@project`.
struct Roles;

#[async_trait]
impl Identity for Roles {
    async fn validate(&self, token: &Secret) -> Result<Arc<TokenInfo>, IdentityError> {
        let (role, project) = token
            .expose()
            .split_once('@')
            .ok_or(IdentityError::Unauthorized)?;
        let implied: &[&str] = match role {
            "admin" => &["admin", "member", "reader"],
            "member" => &["member", "reader"],
            "service" => &["service", "reader"],
            _ => &["reader"],
        };
        let named = |id: &str| Named {
            id: id.to_owned(),
            name: id.to_owned(),
            domain_id: "default".to_owned(),
            domain_name: "Default".to_owned(),
        };
        Ok(Arc::new(TokenInfo {
            user: named(role),
            project: Some(named(project)),
            roles: implied.iter().map(|role| (*role).to_owned()).collect(),
            expires_at_us: i64::MAX,
            is_admin_project: true,
            ..TokenInfo::default()
        }))
    }

    fn auth_uri(&self) -> &str {
        "http://identity"
    }
}

/// The volume service's own.
struct ServiceToken;

#[async_trait]
impl TokenSource for ServiceToken {
    async fn token(&self) -> Result<Secret, IdentityError> {
        Ok(Secret::new("service@service"))
    }
}

type Listener = Box<dyn Fn() + Send>;

/// Remembers which queues were rung, and wakes who listens.
#[derive(Default)]
pub struct Rings {
    rung: Mutex<Vec<String>>,
    listeners: Mutex<Vec<Listener>>,
}

impl Rings {
    pub fn listen(&self, listener: impl Fn() + Send + 'static) {
        self.listeners.lock().unwrap().push(Box::new(listener));
    }
}

impl Doorbell for Rings {
    fn ring(&self, queue: &str) {
        self.rung.lock().unwrap().push(queue.to_owned());
        for listener in self.listeners.lock().unwrap().iter() {
            listener();
        }
    }
}

/// What lies in every pool.
#[derive(Default)]
pub struct Pool(pub Mutex<Vec<StoredImage>>);

#[async_trait]
impl Managers for Pool {
    async fn images(&self, _pool_name: &str) -> volume_service::Result<Vec<StoredImage>> {
        Ok(self.0.lock().unwrap().clone())
    }
}

pub struct World {
    pub pool: Arc<Pool>,
    pub router: Router,
    pub service: Arc<VolumeService>,
    pub rings: Arc<Rings>,
    pub images: FakeImages,
    _folder: TempDir,
}

/// An answer, read to its end.
#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Value,
}

impl Answer {
    /// The answer's body, which must have this status.
    #[track_caller]
    pub fn expect(self, status: u16) -> Value {
        assert_eq!(self.status.as_u16(), status, "{}", self.body);
        self.body
    }

    /// Asserts an error of this status and key; returns its message.
    #[track_caller]
    pub fn fault(self, status: u16, key: &str) -> String {
        let body = self.expect(status);
        assert_eq!(body[key]["code"], status, "{body}");
        body[key]["message"].as_str().unwrap().to_owned()
    }
}

/// One request in the making.
pub struct Call<'a> {
    world: &'a World,
    method: &'a str,
    path: String,
    token: &'a str,
    version: String,
    headers: Vec<(&'static str, String)>,
    body: Option<Vec<u8>>,
}

impl Call<'_> {
    pub fn version(mut self, minor: u16) -> Self {
        self.version = format!("volume 3.{minor}");
        self
    }

    pub fn json(mut self, body: Value) -> Self {
        self.body = Some(body.to_string().into_bytes());
        self
    }

    pub fn raw(mut self, body: &str) -> Self {
        self.body = Some(body.as_bytes().to_vec());
        self
    }

    pub fn header(mut self, name: &'static str, value: &str) -> Self {
        self.headers.push((name, value.to_owned()));
        self
    }

    pub async fn send(self) -> Answer {
        let mut request = Request::builder()
            .method(self.method)
            .uri(self.path)
            .header("host", "volume.example:8776")
            .header("openstack-api-version", self.version);
        if !self.token.is_empty() {
            request = request.header("x-auth-token", self.token);
        }
        if self.body.is_some() && !self.headers.iter().any(|(name, _)| *name == "content-type") {
            request = request.header("content-type", "application/json");
        }
        for (name, value) in self.headers {
            request = request.header(name, value);
        }
        let request = request
            .body(self.body.map_or_else(Body::empty, Body::from))
            .unwrap();
        let response = self.world.router.clone().oneshot(request).await.unwrap();
        let (parts, body) = response.into_parts();
        let bytes = body.collect().await.unwrap().to_bytes();
        let body = serde_json::from_slice(&bytes).unwrap_or(Value::Null);
        Answer {
            status: parts.status,
            headers: parts.headers,
            body,
        }
    }
}

impl World {
    /// With the default options.
    pub async fn new() -> Self {
        Self::with(Options::default()).await
    }

    pub async fn with(options: Options) -> Self {
        Self::beside(Compute::Absent, options).await
    }

    /// In a cloud with this compute service.
    pub async fn beside(compute: Compute, options: Options) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let database = database::testing::migrated_database(folder.path());
        let database = database.await.unwrap();
        let fake_images = FakeImages::default();
        let url = fake_images.serve().await;
        let images = images::Client::new(&url, &Tls::default(), Arc::new(ServiceToken)).unwrap();
        let rings = Arc::new(Rings::default());
        let mut service = VolumeService::new(database, options, images, rings.clone());
        service.compute = compute;
        let pool = Arc::new(Pool::default());
        service.managers = pool.clone();
        let service = Arc::new(service);
        service.bootstrap().await.unwrap();
        let router = volume_service::api::router(service.clone(), Arc::new(Roles));
        let world = World {
            pool,
            router,
            service,
            rings,
            images: fake_images,
            _folder: folder,
        };
        world.report(POOL, 100.0).await;
        world
    }

    /// The same world with another log.
    pub fn with_logs(self, logs: Arc<dyn volume_service::logs::LogLevels>) -> Self {
        let service = &self.service;
        let (options, doorbell) = (service.options.clone(), self.rings.clone());
        let database = service.database.clone();
        let service = VolumeService::new(database, options, service.images.clone(), doorbell);
        let service = Arc::new(service.with_logs(logs));
        let router = volume_service::api::router(service.clone(), Arc::new(Roles));
        World {
            router,
            service,
            ..self
        }
    }

    /// The same world with a key manager.
    pub async fn with_keys(self, fake: &FakeKeys) -> Self {
        let endpoint = fake.serve().await;
        let keys = keys::Client::new(
            &endpoint,
            &Tls::default(),
            Arc::new(ServiceToken),
            Arc::new(Roles),
        );
        let service = &self.service;
        let (options, doorbell) = (service.options.clone(), self.rings.clone());
        let database = service.database.clone();
        let mut service = VolumeService::new(database, options, service.images.clone(), doorbell);
        service.keys = keys::KeyManager::Barbican(keys.unwrap());
        let service = Arc::new(service);
        let router = volume_service::api::router(service.clone(), Arc::new(Roles));
        World {
            router,
            service,
            ..self
        }
    }

    /// The services report: a manager with one pool, and a backup service.
    pub async fn report(&self, pool: &str, free_gb: f64) {
        let mut tx = self.service.database.begin().await.unwrap();
        let host = pool.split('#').next().unwrap();
        services::heartbeat(&mut tx, services::VOLUME, host, "nova")
            .await
            .unwrap();
        services::heartbeat(&mut tx, services::BACKUP, "host", "nova")
            .await
            .unwrap();
        let capabilities = services::Capabilities {
            volume_backend_name: "store".into(),
            pool_name: "volumes".into(),
            vendor_name: "Open Source".into(),
            driver_version: "1".into(),
            storage_protocol: "nbd".into(),
            total_capacity_gb: 100.0,
            free_capacity_gb: free_gb,
            allocated_capacity_gb: 0.0,
            provisioned_capacity_gb: 0.0,
            reserved_percentage: 0,
            max_over_subscription_ratio: 20.0,
            thin_provisioning_support: true,
            multiattach: true,
            backend_state: "up".into(),
            ..services::Capabilities::default()
        };
        services::report_pool(&mut tx, pool, &capabilities)
            .await
            .unwrap();
        let connection = Connection::Nbd {
            socket: Some("/run/nbd.sock".into()),
            address: None,
            tls: false,
        };
        connections::report(&mut tx, pool, &connection)
            .await
            .unwrap();
        tx.commit().await.unwrap();
    }

    fn call<'a>(&'a self, method: &'a str, token: &'a str, path: &str) -> Call<'a> {
        let path = format!("/v3{path}");
        Call {
            world: self,
            method,
            path,
            token,
            version: "volume 3.71".into(),
            headers: Vec::new(),
            body: None,
        }
    }

    pub fn any<'a>(&'a self, method: &'a str, token: &'a str, path: &str) -> Call<'a> {
        self.call(method, token, path)
    }

    pub fn get<'a>(&'a self, token: &'a str, path: &str) -> Call<'a> {
        self.call("GET", token, path)
    }

    pub fn post<'a>(&'a self, token: &'a str, path: &str, body: Value) -> Call<'a> {
        self.call("POST", token, path).json(body)
    }

    pub fn post_raw<'a>(&'a self, token: &'a str, path: &str, body: &str) -> Call<'a> {
        self.call("POST", token, path).raw(body)
    }

    pub fn put<'a>(&'a self, token: &'a str, path: &str, body: Value) -> Call<'a> {
        self.call("PUT", token, path).json(body)
    }

    pub fn delete<'a>(&'a self, token: &'a str, path: &str) -> Call<'a> {
        self.call("DELETE", token, path)
    }

    /// A volume that a manager has finished; its id.
    pub async fn volume(&self, size: u32) -> String {
        self.volume_with(json!({"size": size})).await
    }

    /// A volume of this request that a manager has finished; its id.
    pub async fn volume_with(&self, volume: Value) -> String {
        let body = self
            .post(MEMBER, "/volumes", json!({"volume": volume}))
            .send()
            .await
            .expect(202);
        let id = body["volume"]["id"].as_str().unwrap().to_owned();
        self.finish_volume(&id).await;
        id
    }

    /// What a manager does with a new volume.
    pub async fn finish_volume(&self, id: &str) {
        let sql = "UPDATE volumes SET status = 'available', host = ? WHERE id = ?";
        let database = &self.service.database;
        database.execute(sql, params![POOL, id]).await.unwrap();
        self.end_flows().await;
    }

    /// The parameters of the newest flow.
    pub async fn flow_params(&self) -> Value {
        let sql = "SELECT params FROM flows ORDER BY seq DESC LIMIT 1";
        let row = self.service.database.fetch_one(sql, params![]).await;
        let text: String = row.unwrap().get("params").unwrap();
        serde_json::from_str(&text).unwrap()
    }

    /// A snapshot that a manager has finished; its id.
    pub async fn snapshot(&self, volume_id: &str) -> String {
        let body = json!({"snapshot": {"volume_id": volume_id, "name": "s"}});
        let body = self
            .post(MEMBER, "/snapshots", body)
            .send()
            .await
            .expect(202);
        let id = body["snapshot"]["id"].as_str().unwrap().to_owned();
        self.set("snapshots", &id, "available").await;
        id
    }

    /// Writes the status of a row.
    pub async fn set(&self, table: &str, id: &str, status: &str) {
        let sql = format!("UPDATE {table} SET status = ? WHERE id = ?");
        assert_eq!(
            self.service
                .database
                .execute(&sql, params![status, id])
                .await
                .unwrap(),
            1
        );
    }

    /// What a manager does with a deleted volume at last.
    pub async fn forget_volume(&self, id: &str) {
        let mut tx = self.service.database.begin().await.unwrap();
        db::volumes::delete(&mut tx, id.parse().unwrap())
            .await
            .unwrap();
        tx.commit().await.unwrap();
    }

    /// Takes all flows away, as if they had run.
    pub async fn end_flows(&self) {
        let mut tx = self.service.database.begin().await.unwrap();
        for table in ["flow_locks", "flow_atoms", "flows"] {
            tx.execute(&format!("DELETE FROM {table}"), params![])
                .await
                .unwrap();
        }
        tx.commit().await.unwrap();
    }

    /// Kind and queue of the flows that wait, oldest first.
    pub async fn flows(&self) -> Vec<(String, String)> {
        let sql = "SELECT kind, queue FROM flows WHERE state = 'PENDING' ORDER BY seq";
        let rows = self
            .service
            .database
            .fetch_all(sql, params![])
            .await
            .unwrap();
        rows.iter()
            .map(|row| (row.get("kind").unwrap(), row.get("queue").unwrap()))
            .collect()
    }

    pub fn rung(&self) -> Vec<String> {
        std::mem::take(&mut *self.rings.rung.lock().unwrap())
    }
}
