//! A service on a new database and a store for tests, with one queued image and no workers.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Router;
use bytes::Bytes;
use database::{Database, now_us};
use storage::memory::MemoryStore;
use storage::testing::TestStore;
use tempfile::TempDir;
use uuid::Uuid;

use super::data::protect;
use crate::db::{images, locations, tasks};
use crate::image::{Image, Status, TaskStatus, Visibility};
use crate::stores::{Engines, Pool, store_of};
use crate::{ImageService, ImportFilter, Notices, Options, StoreKind, StoreOptions};

pub struct World {
    pub service: Arc<ImageService>,
    pub store: TestStore,
    pub image_id: Uuid,
    _folder: TempDir,
}

impl World {
    pub async fn new() -> Self {
        Self::with(Options::default()).await
    }

    pub async fn with(options: Options) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let database = database::testing::migrated_database(folder.path());
        let database = database.await.unwrap();
        let store = TestStore::new(MemoryStore::new()).await;
        let engines = Engines {
            default: store.clone(),
            by_id: BTreeMap::new(),
        };
        let service = ImageService::new(database, engines, options, Notices::default())
            .await
            .unwrap();
        let image = queued_image();
        let mut tx = service.database.begin().await.unwrap();
        images::insert(&mut tx, &image).await.unwrap();
        tx.commit().await.unwrap();
        World {
            service,
            store,
            image_id: image.id,
            _folder: folder,
        }
    }

    pub fn database(&self) -> &Database {
        &self.service.database
    }

    pub async fn image(&self) -> Option<Image> {
        images::find(self.database(), self.image_id).await.unwrap()
    }
}

impl World {
    pub fn default_pool(&self) -> &Pool {
        self.service.stores.choose_pool(None).unwrap().1
    }

    /// Data of the image in a store, as an upload leaves it.
    pub async fn put_data(&self, store: &str, data: &'static [u8]) {
        let (_, pool) = self.service.stores.choose_pool(Some(store)).unwrap();
        self.put_data_into(pool, data).await;
    }

    pub async fn put_data_into(&self, pool: &Pool, data: &'static [u8]) {
        let image = pool.image(self.image_id);
        self.store.create(&image, data.len() as u64).await.unwrap();
        let handle = self.store.open(&image, None).await.unwrap();
        handle.write(0, Bytes::from_static(data)).await.unwrap();
        protect(pool, self.image_id).await.unwrap();
    }

    pub async fn assert_data(&self, pool: &Pool, data: &[u8]) {
        let snapshot = pool.snapshot(self.image_id);
        let info = self.store.info(&snapshot.image).await.unwrap();
        assert_eq!(info.parent, None);
        assert!(info.snapshots[0].protected);
        let name = Some(snapshot.snapshot.as_str());
        let handle = self.store.open(&snapshot.image, name).await.unwrap();
        assert_eq!(handle.size_bytes(), data.len() as u64);
        assert_eq!(handle.read(0, data.len()).await.unwrap(), data);
    }

    /// The image as another status and a property would have it.
    pub async fn set_status(&self, status: &str) {
        let sql = "UPDATE images SET status = ? WHERE id = ?";
        let values = database::params![status, self.image_id];
        self.database().execute(sql, values).await.unwrap();
    }

    /// The id of the image's only task, and its status.
    pub async fn task(&self) -> (Uuid, TaskStatus) {
        let tasks = tasks::of_image(self.database(), self.image_id).await;
        let tasks = tasks.unwrap();
        assert_eq!(tasks.len(), 1);
        (tasks[0].id, tasks[0].status)
    }

    /// The stores that the image's locations lie in.
    pub async fn located(&self) -> Vec<String> {
        let held = locations::of_image(self.database(), self.image_id).await;
        let ids = held.unwrap();
        let ids = ids.iter().map(|held| store_of(held).unwrap_or_default());
        ids.map(str::to_owned).collect()
    }

    /// Nothing lies in any pool.
    pub async fn assert_store_is_empty(&self) {
        for pool in self.service.stores.pools() {
            let left = self.store.images(&pool.name).await.unwrap();
            assert_eq!(left, [""; 0], "in pool {}", pool.name);
        }
    }
}

/// Stores `a` (the default) and `b`, and the web, which may be on this machine.
pub fn two_stores() -> Options {
    let store = |id: &str, kind: StoreKind| StoreOptions {
        id: id.to_owned(),
        kind,
        store_description: String::new(),
        weight: 0,
    };
    let rbd = |id: &str| StoreKind::Rbd {
        pool: format!("pool-{id}"),
        chunk_bytes: 4096,
    };
    Options {
        enabled_backends: vec![
            store("a", rbd("a")),
            store("b", rbd("b")),
            store("web", StoreKind::Http),
        ],
        import_filter: ImportFilter {
            allowed_hosts: vec!["127.0.0.1".to_owned()],
            allowed_ports: Vec::new(),
            ..ImportFilter::default()
        },
        ..Options::default()
    }
}

/// Serves the routes on a free port of this machine until the test ends; the base URL.
pub async fn serve(routes: Router) -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, routes).await });
    format!("http://{address}")
}

fn queued_image() -> Image {
    let now = now_us();
    Image {
        id: Uuid::new_v4(),
        name: None,
        status: Status::Queued,
        visibility: Visibility::Shared,
        owner: Some("alice".to_owned()),
        protected: false,
        os_hidden: false,
        container_format: Some("bare".to_owned()),
        disk_format: Some("raw".to_owned()),
        min_ram_mib: 0,
        min_disk_gib: 0,
        size_bytes: None,
        virtual_size_bytes: None,
        checksum: None,
        os_hash_algo: None,
        os_hash_value: None,
        upload_id: None,
        created_at_us: now,
        updated_at_us: now,
        properties: Default::default(),
        tags: Default::default(),
    }
}
