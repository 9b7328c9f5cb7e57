//! Every method, with two stores: whatever fails or crashes, the image is active with its data in
//! the stores, or as it was before the import (queued), and nothing else lies anywhere.

use std::sync::Arc;

use axum::http::StatusCode;
use axum::routing::get;
use axum::{Json, Router};
use database::Database;
use rest::{RequestContext, Secret};
use serde_json::{Value, json};
use taskflow::testing::{Fixture, exhaust, run_to_end};

use super::*;
use crate::db::images::find_locked;
use crate::flows::digests::Digested;
use crate::flows::testing::{World, serve, two_stores};
use crate::image::Status;
use crate::imports::{NewImport, begin};
use crate::remote_image::Grant;
use image_formats::Inspector;

const DATA: &[u8] = &[3; 10_000];
const MD5: &str = "967b89a643fe13179c8a045800e7f08d";

/// An image whose import has been asked for.
struct Importing {
    world: World,
    flow_id: Uuid,
    method: Method,
    identity_url: String,
}

impl Importing {
    async fn new(method: Method, stores: &[&str], identity_url: String) -> Self {
        Self::with(method, stores, true, identity_url).await
    }

    async fn with(
        method: Method,
        stores: &[&str],
        all_stores_must_succeed: bool,
        identity_url: String,
    ) -> Self {
        let world = World::with(two_stores()).await;
        prepare(&world, &method).await;
        let mut tx = world.database().begin().await.unwrap();
        let image = find_locked(&mut tx, world.image_id).await.unwrap().unwrap();
        let new = NewImport {
            method: method.clone(),
            stores: stores.iter().map(|store| (*store).to_owned()).collect(),
            all_stores: false,
            all_stores_must_succeed,
            limit_bytes: 1 << 20,
            plugins: Plugins::default(),
            limits: crate::Limits::default(),
            task_type: "api_image_import",
            input: Value::Null,
        };
        let context = RequestContext::internal("someone", "alice");
        let begun = begin(&world.service, &mut tx, &context, &image, new).await;
        let flow_id = begun.unwrap().unwrap().id;
        tx.commit().await.unwrap();
        let mut importing = Importing {
            world,
            flow_id,
            method,
            identity_url,
        };
        importing.restart().await;
        importing
    }

    fn pool(&self, store: &str) -> &Pool {
        self.world
            .service
            .stores
            .choose_pool(Some(store))
            .unwrap()
            .1
    }

    async fn assert_unlocked(&self, failed: &str) {
        let image = self.world.image().await.unwrap();
        assert!(!imports::is_locked(&image));
        let listed = |name: &str| image.properties.get(name).cloned().flatten();
        assert_eq!(listed(imports::IMPORTING).as_deref(), Some(""));
        let shown = listed(imports::FAILED).unwrap();
        if failed.is_empty() {
            assert_eq!(shown, "");
        } else {
            assert!(
                shown.split(',').all(|store| failed.contains(store)),
                "{shown}"
            );
            assert!(!shown.is_empty());
        }
        let staged = staging::find(self.database(), image.id).await.unwrap();
        assert_eq!(staged, None);
    }
}

/// What lies where before the method begins.
async fn prepare(world: &World, method: &Method) {
    match method {
        Method::GlanceDirect => {
            let staging_pool = &world.service.stores.staging;
            world.put_data_into(staging_pool, DATA).await;
            let mut inspector = Inspector::new();
            inspector.feed(DATA);
            let data: StagedData = Digested {
                inspection: inspector.finish(),
                md5_hex: MD5.to_owned(),
                hash_hex: "5".repeat(128),
            }
            .into();
            let mut tx = world.database().begin().await.unwrap();
            staging::insert(&mut tx, world.image_id, &data)
                .await
                .unwrap();
            tx.commit().await.unwrap();
            world.set_status("uploading").await;
        }
        Method::CopyImage => {
            world.put_data("a", DATA).await;
            let (store, pool) = world.service.stores.choose_pool(Some("a")).unwrap();
            let location = store.location(pool.url(world.image_id));
            let mut tx = world.database().begin().await.unwrap();
            locations::replace_all(&mut tx, world.image_id, &[location])
                .await
                .unwrap();
            tx.commit().await.unwrap();
            world.set_status("active").await;
        }
        Method::WebDownload { .. } | Method::GlanceDownload(_) => {}
    }
}

#[async_trait]
impl Fixture<ImportImage> for Importing {
    fn database(&self) -> &Database {
        self.world.database()
    }

    fn context(&self) -> Arc<ImageService> {
        self.world.service.clone()
    }

    fn flow_id(&self) -> Uuid {
        self.flow_id
    }

    /// As if the user's token were still known: so that later tasks are reached.
    async fn restart(&mut self) {
        self.world.store.crash().await;
        let grant = Grant {
            token: Secret::new("token"),
            identity_url: self.identity_url.clone(),
        };
        self.world.service.grants.put(self.flow_id, grant);
    }

    async fn assert_done(&self) {
        let image = self.world.image().await.unwrap();
        assert_eq!(image.status, Status::Active);
        let task = self.world.task().await;
        assert_eq!(task, (self.flow_id, TaskStatus::Success));
        self.assert_unlocked("").await;
        assert_eq!(self.world.located().await, ["a", "b"]);
        for store in ["a", "b"] {
            self.world.assert_data(self.pool(store), DATA).await;
        }
        let staged = self.world.store.images("images-staging").await.unwrap();
        assert_eq!(staged, [""; 0]);
        if self.method != Method::CopyImage {
            assert_eq!(image.checksum.as_deref(), Some(MD5));
            assert_eq!(image.size_bytes, Some(10_000));
        }
        if let Method::GlanceDownload(_) = self.method {
            let cores = image.properties.get("hw_cpu_cores").cloned().flatten();
            assert_eq!(cores.as_deref(), Some("5"));
            assert!(!image.properties.contains_key("speed"));
        }
    }

    async fn assert_reverted(&self) {
        let image = self.world.image().await.unwrap();
        let task = self.world.task().await;
        assert_eq!(task, (self.flow_id, TaskStatus::Failure));
        self.assert_unlocked("a,b").await;
        if self.method == Method::CopyImage {
            assert_eq!(image.status, Status::Active);
            assert_eq!(self.world.located().await, ["a"]);
            self.world.assert_data(self.pool("a"), DATA).await;
            let others = self.world.store.images("pool-b").await.unwrap();
            assert_eq!(others, [""; 0]);
        } else {
            assert_eq!(image.status, Status::Queued);
            assert_eq!((image.size_bytes, image.checksum), (None, None));
            assert!(self.world.located().await.is_empty());
            self.world.assert_store_is_empty().await;
        }
    }
}

#[tokio::test]
async fn staged_data_is_imported_or_gone() {
    let make = async || Importing::new(Method::GlanceDirect, &["a", "b"], String::new()).await;
    exhaust::<ImportImage, _>(make).await;
}

#[tokio::test]
async fn a_copy_is_made_or_gone() {
    let make = async || Importing::new(Method::CopyImage, &["b"], String::new()).await;
    exhaust::<ImportImage, _>(make).await;
}

#[tokio::test]
async fn data_of_the_web_is_imported_or_gone() {
    let url = serve(Router::new().route("/data", get(async || DATA))).await;
    let method = Method::WebDownload {
        uri: format!("{url}/data"),
    };
    let make = async || Importing::new(method.clone(), &["a", "b"], String::new()).await;
    exhaust::<ImportImage, _>(make).await;
}

/// An identity service and an image service with one image.
async fn other_cloud(id: Uuid) -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base = format!("http://{}", listener.local_addr().unwrap());
    let endpoint = json!({"interface": "public", "region": "R", "region_id": "R", "url": base});
    let catalog = json!({"catalog": [{"type": "image", "endpoints": [endpoint]}]});
    let document = json!({
        "status": "active", "size": DATA.len(), "container_format": "bare", "disk_format": "raw",
        "hw_cpu_cores": "5", "speed": "88mph",
    });
    let routes = Router::new()
        .route("/v3/auth/catalog", get(async move || Json(catalog)))
        .route(
            &format!("/v2/images/{id}"),
            get(async move || Json(document)),
        )
        .route(&format!("/v2/images/{id}/file"), get(async || DATA));
    tokio::spawn(async move { axum::serve(listener, routes).await });
    base
}

fn remote(id: Uuid, region: &str) -> Method {
    Method::GlanceDownload(RemoteImage {
        id,
        region: region.to_owned(),
        interface: "public".to_owned(),
    })
}

#[tokio::test]
async fn another_clouds_image_is_imported_or_gone() {
    let id = Uuid::new_v4();
    let url = other_cloud(id).await;
    let make = async || Importing::new(remote(id, "R"), &["a", "b"], url.clone()).await;
    exhaust::<ImportImage, _>(make).await;
}

async fn run(importing: &Importing) -> &'static str {
    let (database, context) = (importing.database(), importing.context());
    run_to_end::<ImportImage>(database, context, importing.flow_id).await
}

/// A token is never stored, so an import that was taken up by another process ends here.
#[tokio::test]
async fn without_the_users_token_or_its_region_the_import_is_reverted() {
    let id = Uuid::new_v4();
    let url = other_cloud(id).await;
    let importing = Importing::new(remote(id, "R"), &["a", "b"], url.clone()).await;
    importing.world.service.grants.forget(importing.flow_id);
    assert_eq!(run(&importing).await, taskflow::state::REVERTED);
    importing.assert_reverted().await;
    let importing = Importing::new(remote(id, "not a region"), &["a", "b"], url).await;
    assert_eq!(run(&importing).await, taskflow::state::REVERTED);
    importing.assert_reverted().await;
}

#[tokio::test]
async fn data_that_does_not_come_or_does_not_fit_is_refused() {
    let refused = async || StatusCode::NOT_FOUND;
    let redirect = async || (StatusCode::FOUND, [("location", "http://169.254.169.254/")]);
    let routes = Router::new()
        .route("/gone", get(refused))
        .route("/away", get(redirect))
        .route("/qcow2", get(async || b"QFI\xfb\0\0\0\x03".to_vec()))
        .route("/large", get(async || vec![1; 2 << 20]));
    let url = serve(routes).await;
    for path in ["gone", "away", "large"] {
        let uri = format!("{url}/{path}");
        let method = Method::WebDownload { uri };
        let importing = Importing::new(method, &["a", "b"], String::new()).await;
        assert_eq!(run(&importing).await, taskflow::state::REVERTED, "{path}");
        importing.assert_reverted().await;
    }
    let uri = format!("{url}/qcow2");
    let importing = Importing::new(Method::WebDownload { uri }, &["a", "b"], String::new()).await;
    let sql = "UPDATE images SET disk_format = 'qcow2'";
    importing.database().execute(sql, &[]).await.unwrap();
    assert_eq!(run(&importing).await, taskflow::state::REVERTED);
    importing.assert_reverted().await;
}

#[tokio::test]
async fn an_image_deleted_meanwhile_gets_no_data() {
    let importing = Importing::new(Method::GlanceDirect, &["a", "b"], String::new()).await;
    let mut tx = importing.database().begin().await.unwrap();
    let image_id = importing.world.image_id;
    assert!(images::mark_deleted(&mut tx, image_id).await.unwrap());
    tx.commit().await.unwrap();
    assert_eq!(run(&importing).await, taskflow::state::REVERTED);
    assert_eq!(importing.world.image().await, None);
    importing.world.assert_store_is_empty().await;
    assert_eq!(importing.world.task().await.1, TaskStatus::Failure);
}

/// The web cannot be written: a store that fails whatever is tried.
#[tokio::test]
async fn one_store_may_fail_if_it_is_said_so() {
    let make = async |stores: &[&str], must_succeed: bool| {
        Importing::with(Method::GlanceDirect, stores, must_succeed, String::new()).await
    };
    let importing = make(&["web", "a"], false).await;
    assert_eq!(run(&importing).await, taskflow::state::SUCCESS);
    let image = importing.world.image().await.unwrap();
    assert_eq!(image.status, Status::Active);
    assert_eq!(importing.world.located().await, ["a"]);
    importing.assert_unlocked("web").await;
    for (stores, must_succeed) in [(&["a", "web"][..], true), (&["web"][..], false)] {
        let importing = make(stores, must_succeed).await;
        assert_eq!(run(&importing).await, taskflow::state::REVERTED);
        let image = importing.world.image().await.unwrap();
        assert_eq!(image.status, Status::Queued);
        importing.assert_unlocked("web").await;
        importing.world.assert_store_is_empty().await;
    }
}
