//! A service on a new database and a store in memory, with one queued image and no workers.

use std::sync::Arc;

use database::{Database, now_us};
use storage::memory::MemoryStore;
use tempfile::TempDir;
use uuid::Uuid;

use crate::db::images;
use crate::image::{Image, Status, Visibility};
use crate::{ImageService, Options};

pub struct World {
    pub service: Arc<ImageService>,
    pub store: Arc<MemoryStore>,
    pub image_id: Uuid,
    _folder: TempDir,
}

impl World {
    pub async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let url = format!("sqlite://{}", folder.path().join("a.sqlite").display());
        let database = Database::open(&url).await.unwrap();
        database::migrate::run(&database).await.unwrap();
        let store = Arc::new(MemoryStore::new());
        let service = ImageService::new(database, store.clone(), Options::default())
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
