//! Imports whose data is unpacked, converted, or given properties: whatever fails or crashes, the
//! image is active with the new data, or queued, and nothing else lies anywhere.

use std::collections::BTreeMap;
use std::io::Write;
use std::sync::Arc;

use axum::Router;
use axum::routing::get;
use bytes::Bytes;
use database::Database;
use flate2::Compression;
use flate2::write::GzEncoder;
use futures_util::TryStreamExt;
use image_formats::{DataMap, DiskReader, Format, Qcow2Writer};
use rest::RequestContext;
use serde_json::Value;
use taskflow::testing::{Fixture, exhaust, run_to_end};

use super::*;
use crate::disk_source::HandleSource;
use crate::flows::testing::{World, serve, two_stores};
use crate::hashing::{Algorithm, Hash};
use crate::image::{STORE_SNAPSHOT, Status};
use crate::import_plugins::ConversionFormat;
use crate::imports::{NewImport, begin};

const CLUSTER: usize = 64 << 10;

/// Five clusters and a bit: data, nothing, data.
fn disk() -> Vec<u8> {
    let mut disk = vec![0; 5 * CLUSTER + 512];
    disk[..CLUSTER].fill(3);
    disk[4 * CLUSTER..].fill(5);
    disk
}

async fn qcow2(disk: &[u8]) -> Vec<u8> {
    let mut map = DataMap::new(disk.len() as u64).unwrap();
    map.add(0, CLUSTER as u64).unwrap();
    map.add(4 * CLUSTER as u64, (disk.len() - 4 * CLUSTER) as u64)
        .unwrap();
    let disk = Bytes::copy_from_slice(disk);
    let pieces = Qcow2Writer::new(map).into_stream(disk);
    let pieces: Vec<Bytes> = pieces.try_collect().await.unwrap();
    pieces.concat()
}

fn gzip(data: &[u8]) -> Vec<u8> {
    let mut packed = GzEncoder::new(Vec::new(), Compression::fast());
    packed.write_all(data).unwrap();
    packed.finish().unwrap()
}

fn plugins(convert_to: Option<ConversionFormat>) -> Plugins {
    Plugins {
        decompress: true,
        convert_to,
        inject: BTreeMap::from([("hw_machine_type".to_owned(), "q35".to_owned())]),
    }
}

/// A web-download into both stores.
struct Importing {
    world: World,
    flow_id: Uuid,
    convert_to: Option<ConversionFormat>,
}

impl Importing {
    async fn new(uri: &str, disk_format: &str, convert_to: Option<ConversionFormat>) -> Self {
        let world = World::with(two_stores()).await;
        let mut tx = world.database().begin().await.unwrap();
        let image = images::find_locked(&mut tx, world.image_id).await.unwrap();
        let mut image = image.unwrap();
        image.disk_format = Some(disk_format.to_owned());
        images::update(&mut tx, &mut image).await.unwrap();
        let new = NewImport {
            method: Method::WebDownload {
                uri: uri.to_owned(),
            },
            stores: vec!["a".to_owned(), "b".to_owned()],
            all_stores: false,
            all_stores_must_succeed: true,
            limit_bytes: 1 << 20,
            plugins: plugins(convert_to),
            limits: crate::Limits::default(),
            task_type: "api_image_import",
            input: Value::Null,
        };
        let context = RequestContext::internal("someone", "alice");
        let begun = begin(&world.service, &mut tx, &context, &image, new).await;
        let flow_id = begun.unwrap().unwrap().id;
        tx.commit().await.unwrap();
        Importing {
            world,
            flow_id,
            convert_to,
        }
    }

    async fn run(&self) -> &'static str {
        let (database, context) = (self.database(), self.context());
        run_to_end::<ImportImage>(database, context, self.flow_id).await
    }

    async fn refusal(&self) -> String {
        assert_eq!(self.run().await, taskflow::state::REVERTED);
        self.assert_reverted().await;
        let tasks = tasks::of_image(self.database(), self.world.image_id).await;
        tasks.unwrap().remove(0).message
    }

    /// What the store has of the image.
    async fn stored(&self, store: &str) -> HandleSource {
        let (_, pool) = self.world.service.stores.choose_pool(Some(store)).unwrap();
        let spec = pool.image(self.world.image_id);
        let handle = pool.engine.open(&spec, Some(STORE_SNAPSHOT)).await;
        HandleSource::new(handle.unwrap())
    }
}

async fn bytes_of(source: HandleSource, format: Format) -> Vec<u8> {
    let reader = DiskReader::open(source, format).await.unwrap();
    let pieces = super::plugins::disk_bytes(reader);
    let pieces: Vec<Bytes> = pieces.try_collect().await.unwrap();
    pieces.concat()
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

    async fn restart(&mut self) {
        self.world.store.crash().await;
    }

    async fn assert_done(&self) {
        let image = self.world.image().await.unwrap();
        assert_eq!(image.status, Status::Active);
        let format = match self.convert_to {
            Some(format) => format.disk_format(),
            None => "qcow2",
        };
        assert_eq!(image.disk_format.as_deref(), Some(format));
        assert_eq!(image.virtual_size_bytes, Some(disk().len() as u64));
        let injected = image.properties.get("hw_machine_type").cloned().flatten();
        assert_eq!(injected.as_deref(), Some("q35"));
        for store in ["a", "b"] {
            let source = self.stored(store).await;
            let stored = bytes_of(source.clone(), Format::Raw).await;
            assert_eq!(image.size_bytes, Some(stored.len() as u64));
            let hashed = |algorithm: Algorithm| {
                let mut hash = Hash::new(algorithm);
                hash.feed(&stored);
                Some(hash.finish())
            };
            assert_eq!(image.checksum, hashed(Algorithm::Md5));
            assert_eq!(image.os_hash_value, hashed(Algorithm::Sha512));
            let format = match format {
                "qcow2" => Format::Qcow2,
                "vmdk" => Format::Vmdk,
                _ => Format::Raw,
            };
            assert!(bytes_of(source, format).await == disk());
        }
        let staged = self.world.store.images("images-staging").await.unwrap();
        assert_eq!(staged, [""; 0]);
    }

    async fn assert_reverted(&self) {
        let image = self.world.image().await.unwrap();
        assert_eq!(image.status, Status::Queued);
        assert_eq!((image.size_bytes, image.checksum.as_ref()), (None, None));
        assert!(!image.properties.contains_key("hw_machine_type"));
        assert!(!imports::is_locked(&image));
        self.world.assert_store_is_empty().await;
        let task = self.world.task().await;
        assert_eq!(task, (self.flow_id, TaskStatus::Failure));
    }
}

async fn served(data: Vec<u8>) -> String {
    let data = Bytes::from(data);
    let routes = Router::new().route("/data", get(async move || data));
    format!("{}/data", serve(routes).await)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_packed_qcow2_becomes_raw_or_nothing() {
    let uri = served(gzip(&qcow2(&disk()).await)).await;
    let to = Some(ConversionFormat::Raw);
    exhaust::<ImportImage, _>(async || Importing::new(&uri, "qcow2", to).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_raw_disk_becomes_qcow2_or_nothing() {
    let uri = served(disk()).await;
    let to = Some(ConversionFormat::Qcow2);
    exhaust::<ImportImage, _>(async || Importing::new(&uri, "raw", to).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_packed_qcow2_becomes_vmdk_or_nothing() {
    let uri = served(gzip(&qcow2(&disk()).await)).await;
    let to = Some(ConversionFormat::Vmdk);
    exhaust::<ImportImage, _>(async || Importing::new(&uri, "qcow2", to).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_format_becomes_qcow2_by_way_of_the_disk() {
    let uri = served(vdi(&disk())).await;
    let importing = Importing::new(&uri, "vdi", Some(ConversionFormat::Qcow2)).await;
    assert_eq!(importing.run().await, taskflow::state::SUCCESS);
    importing.assert_done().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_needs_no_plugin_stays_as_it_is() {
    let file = qcow2(&disk()).await;
    for to in [None, Some(ConversionFormat::Qcow2)] {
        let uri = served(file.clone()).await;
        let importing = Importing::new(&uri, "qcow2", to).await;
        assert_eq!(importing.run().await, taskflow::state::SUCCESS);
        importing.assert_done().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_converted_says_why() {
    let to = Some(ConversionFormat::Raw);
    let refusal = async |data: Vec<u8>, format: &str| {
        let importing = Importing::new(&served(data).await, format, to).await;
        importing.refusal().await
    };
    let mut cut = gzip(&disk());
    cut.truncate(cut.len() - 9);
    let why = refusal(cut, "raw").await;
    assert!(why.starts_with("Unpacking the gzip file failed: "), "{why}");
    let why = refusal(disk(), "qcow2").await;
    assert!(why.contains("declared qcow2, found raw"), "{why}");
    // One MiB may come; two MiB come of a few bytes.
    let why = refusal(gzip(&vec![0; 2 << 20]), "raw").await;
    assert!(why.contains("larger than the 1048576 bytes"), "{why}");
    let mut large = qcow2(&disk()).await;
    large[24..32].copy_from_slice(&(1_u64 << 40).to_be_bytes());
    large[36..40].copy_from_slice(&2048_u32.to_be_bytes());
    let why = refusal(large, "qcow2").await;
    assert!(
        why.contains("1099511627776 bytes, 1048576 are allowed"),
        "{why}"
    );
    let mut bad = qcow2(&disk()).await;
    let l1 = u64::from_be_bytes(bad[40..48].try_into().unwrap()) as usize;
    bad[l1 + 3] = 0x7f;
    let why = refusal(bad, "qcow2").await;
    assert!(why.contains("corrupt"), "{why}");
}

/// A VDI file whose blocks are all there, as VirtualBox writes them.
fn vdi(disk: &[u8]) -> Vec<u8> {
    const BLOCK: usize = CLUSTER;
    let blocks = disk.len().div_ceil(BLOCK);
    let mut file = vec![0; 2 * BLOCK + blocks * BLOCK];
    let mut put = |at: usize, value: u32| file[at..at + 4].copy_from_slice(&value.to_le_bytes());
    put(0x40, 0xbeda_107f);
    put(0x44, 0x0001_0001);
    put(0x48, 0x180);
    put(0x4c, 1);
    put(0x154, 0x200);
    put(0x158, 2 * BLOCK as u32);
    put(0x168, 512);
    put(0x170, disk.len() as u32);
    put(0x178, BLOCK as u32);
    put(0x180, blocks as u32);
    put(0x184, blocks as u32);
    (0..blocks).for_each(|block| put(0x200 + 4 * block, block as u32));
    file[2 * BLOCK..2 * BLOCK + disk.len()].copy_from_slice(disk);
    file
}
