//! The embedded engine on a real folder: the conformance suite, crashes of the process, damage,
//! full stores. Power losses are in the engine's own tests, on a simulated disk.

#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use storage::conformance::{self, Effort, Engine, Failure, Random, ensure};
use storage::embedded::{CheckOptions, CheckReport, EmbeddedOptions, EmbeddedStore, IoEngine};
use storage::{Change, Error, ImageSpec, ImageStore};
use tempfile::TempDir;

struct Folder {
    folder: PathBuf,
    io: IoEngine,
    open: std::sync::Mutex<Option<Arc<EmbeddedStore>>>,
}

#[async_trait]
impl Engine for Folder {
    async fn open(&self) -> Result<Arc<dyn ImageStore>, Error> {
        // The least memory for maps: pages come and go.
        let options = EmbeddedOptions {
            io: self.io,
            map_cache_bytes: 0,
            ..Default::default()
        };
        let store = EmbeddedStore::open(&self.folder, options)?;
        *self.open.lock().unwrap() = Some(Arc::clone(&store));
        Ok(store)
    }

    async fn check(&self, _store: &Arc<dyn ImageStore>) -> Result<(), Failure> {
        let store = self.open.lock().unwrap().clone().unwrap();
        let report = checked(&store).await?;
        ensure(report.error_count == 0, || format!("{:?}", report.errors))
    }
}

async fn checked(store: &EmbeddedStore) -> Result<CheckReport, Error> {
    let options = CheckOptions {
        data: true,
        most_bytes_per_second: None,
    };
    store.check(options, Arc::default()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn conforms() {
    for (seed, io) in [
        (1, IoEngine::Auto),
        (2, IoEngine::Threads),
        (3, IoEngine::Auto),
    ] {
        let dir = TempDir::new().unwrap();
        let engine = Folder {
            folder: dir.path().join("store"),
            io,
            open: Default::default(),
        };
        let effort = Effort { seed, steps: 600 };
        conformance::run(&engine, effort).await.unwrap();
    }
}

fn spec(name: &str) -> ImageSpec {
    ImageSpec::new("volumes", name)
}

fn open(folder: &Path) -> Arc<EmbeddedStore> {
    EmbeddedStore::open(folder, EmbeddedOptions::default()).unwrap()
}

async fn sound(store: &EmbeddedStore) -> CheckReport {
    // Waits for dropped trees; nothing changes after that.
    let used_bytes = store.capacity("volumes").await.unwrap().used_bytes;
    let report = checked(store).await.unwrap();
    assert!(report.errors.is_empty(), "{:?}", report.errors);
    assert_eq!(report.used_bytes, used_bytes);
    report
}

const BLOCK: usize = 4096;

/// A removal that a crash cuts off goes on at the next start, and no space is lost.
#[tokio::test(flavor = "multi_thread")]
async fn a_cut_off_removal_is_finished() {
    let dir = TempDir::new().unwrap();
    let size = 300u64 << 20;
    {
        let store = open(dir.path());
        store.ensure_pool("volumes").await.unwrap();
        store.create(&spec("a"), size).await.unwrap();
        let handle = store.open(&spec("a"), None).await.unwrap();
        for offset in (0..size).step_by(1 << 20) {
            handle
                .write(offset, Bytes::from(vec![3; 64 << 10]))
                .await
                .unwrap();
        }
        drop(handle);
        store.remove(&spec("a")).await.unwrap();
    }
    let store = open(dir.path());
    assert_eq!(store.images("volumes").await.unwrap(), [""; 0]);
    assert_eq!(store.capacity("volumes").await.unwrap().used_bytes, 0);
    sound(&store).await;
    store.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_user_is_refused() {
    let dir = TempDir::new().unwrap();
    let store = open(dir.path());
    match EmbeddedStore::open(dir.path(), EmbeddedOptions::default()) {
        Err(Error::Unavailable(text)) => assert!(text.contains("another process"), "{text}"),
        other => panic!("{:?}", other.err()),
    }
    store.close().await.unwrap();
    drop(open(dir.path()));
    let file = dir.path().join("file");
    std::fs::write(&file, b"").unwrap();
    match EmbeddedStore::open(&file, EmbeddedOptions::default()) {
        Err(Error::Unavailable(text)) => assert!(text.contains("cannot be written"), "{text}"),
        other => panic!("{:?}", other.err()),
    }
}

/// Inverts bits of the first place in a file that holds these bytes.
fn flip(path: &Path, bytes: &[u8]) {
    use std::os::unix::fs::FileExt;
    let file = std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open(path)
        .unwrap();
    let mut all = vec![0; file.metadata().unwrap().len() as usize];
    file.read_exact_at(&mut all, 0).unwrap();
    let found = all.chunks(BLOCK).position(|block| block.starts_with(bytes));
    let at = (found.unwrap() * BLOCK + 77) as u64;
    file.write_all_at(&[all[at as usize] ^ 0x10], at).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn damaged_blocks_are_found() {
    let dir = TempDir::new().unwrap();
    let store = open(dir.path());
    store.ensure_pool("volumes").await.unwrap();
    store.create(&spec("a"), 1 << 20).await.unwrap();
    let handle = store.open(&spec("a"), None).await.unwrap();
    let blocks = (0..=255u8).flat_map(|block| [block, 200, 100, 50].repeat(BLOCK / 4));
    let data: Bytes = blocks.collect::<Vec<u8>>().into();
    handle.write(0, data).await.unwrap();
    handle.flush().await.unwrap();
    flip(
        &dir.path().join("chunks/00000"),
        &[5, 200, 100, 50].repeat(8),
    );
    match handle.read(0, 1 << 20).await {
        Err(Error::Corrupt {
            image,
            offset,
            detail,
        }) => {
            assert_eq!((image.as_str(), offset), ("volumes/a", 5 * BLOCK as u64));
            assert!(detail.starts_with("chunks/00000 at byte "), "{detail}");
        }
        other => panic!("{other:?}"),
    }
    assert!(handle.read(0, 5 * BLOCK).await.is_ok());
    // Part of a damaged block is not carried on; all of it may be written anew.
    let part = handle
        .write(5 * BLOCK as u64 + 1, Bytes::from_static(b"x"))
        .await;
    assert!(matches!(part, Err(Error::Corrupt { .. })), "{part:?}");
    let report = checked(&store).await.unwrap();
    assert_eq!(report.error_count, 1, "{:?}", report.errors);
    handle
        .write(5 * BLOCK as u64, Bytes::from(vec![2; BLOCK]))
        .await
        .unwrap();
    assert!(handle.read(0, 1 << 20).await.is_ok());
    sound(&store).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_of_the_first_form_is_refused_and_left_alone() {
    let dir = TempDir::new().unwrap();
    let catalogue = dir.path().join("catalogue.redb");
    std::fs::write(&catalogue, b"something").unwrap();
    match EmbeddedStore::open(dir.path(), EmbeddedOptions::default()) {
        Err(Error::Invalid(text)) => assert!(text.contains("first form"), "{text}"),
        other => panic!("{:?}", other.err()),
    }
    assert_eq!(std::fs::read(&catalogue).unwrap(), b"something");
    assert!(!dir.path().join("chunks").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_store_recovers_when_something_goes() {
    let dir = TempDir::new().unwrap();
    let options = EmbeddedOptions {
        capacity_limit_bytes: Some(8 << 20),
        ..Default::default()
    };
    let store = EmbeddedStore::open(dir.path(), options).unwrap();
    store.ensure_pool("volumes").await.unwrap();
    let empty = store.capacity("volumes").await.unwrap();
    assert_eq!(
        (empty.total_bytes, empty.free_bytes, empty.used_bytes),
        (8 << 20, 8 << 20, 0)
    );
    for name in ["a", "b"] {
        store.create(&spec(name), 1 << 30).await.unwrap();
    }
    let a = store.open(&spec("a"), None).await.unwrap();
    let b = store.open(&spec("b"), None).await.unwrap();
    a.write(0, Bytes::from(vec![1; 6 << 20])).await.unwrap();
    let full = b.write(0, Bytes::from(vec![2; 3 << 20])).await;
    assert!(matches!(full, Err(Error::OutOfSpace)), "{full:?}");
    sound(&store).await;
    a.discard(0, 6 << 20).await.unwrap();
    b.write(0, Bytes::from(vec![2; 8 << 20])).await.unwrap();
    assert_eq!(store.capacity("volumes").await.unwrap().free_bytes, 0);
    drop(b);
    store.remove(&spec("b")).await.unwrap();
    a.write(0, Bytes::from(vec![3; 8 << 20])).await.unwrap();
    assert!(
        a.read(0, 8 << 20)
            .await
            .unwrap()
            .iter()
            .all(|byte| *byte == 3)
    );
    sound(&store).await;
}

/// The work of a snapshot, a clone, and a diff does not grow with the image.
#[tokio::test(flavor = "multi_thread")]
async fn snapshots_clones_and_diffs_copy_nothing() {
    let dir = TempDir::new().unwrap();
    let store = open(dir.path());
    store.ensure_pool("volumes").await.unwrap();
    store.create(&spec("a"), 1 << 40).await.unwrap();
    let handle = store.open(&spec("a"), None).await.unwrap();
    handle
        .write(1 << 39, Bytes::from(vec![1; 10 << 20]))
        .await
        .unwrap();
    store.create_snapshot(&spec("a").at("s")).await.unwrap();
    store.protect_snapshot(&spec("a").at("s")).await.unwrap();
    let before = sound(&store).await;
    store
        .clone_image(&spec("a").at("s"), &spec("b"))
        .await
        .unwrap();
    let after = sound(&store).await;
    assert_eq!(
        (before.nodes, before.used_bytes),
        (after.nodes, after.used_bytes)
    );
    handle
        .write((1 << 39) + 4096, Bytes::from(vec![2; 100]))
        .await
        .unwrap();
    let change = Change {
        from: Some("s"),
        to: None,
    };
    let diff = store.diff(&spec("a"), change, 0, 10).await.unwrap();
    assert_eq!(diff.len(), 1);
    assert_eq!((diff[0].offset, diff[0].length), ((1 << 39) + 4096, 4096));
    assert_eq!(sound(&store).await.used_bytes, before.used_bytes + 4096);
}

/// Many images at once, cloned from one, written, read back, cut down, removed.
#[tokio::test(flavor = "multi_thread")]
async fn parallel_use_keeps_all_counts_right() {
    let dir = TempDir::new().unwrap();
    let store = open(dir.path());
    store.ensure_pool("volumes").await.unwrap();
    store.create(&spec("base"), 8 << 20).await.unwrap();
    let handle = store.open(&spec("base"), None).await.unwrap();
    handle
        .write(0, Bytes::from(vec![255; 4 << 20]))
        .await
        .unwrap();
    store.create_snapshot(&spec("base").at("s")).await.unwrap();
    store.protect_snapshot(&spec("base").at("s")).await.unwrap();
    let workers = (0..8u8).map(|worker| tokio::spawn(work(Arc::clone(&store), worker)));
    for worker in workers.collect::<Vec<_>>() {
        worker.await.unwrap();
    }
    let report = sound(&store).await;
    assert_eq!((report.images, report.used_bytes), (1, 4 << 20));
    drop(store);
    assert_eq!(sound(&open(dir.path())).await.used_bytes, 4 << 20);
}

async fn work(store: Arc<EmbeddedStore>, worker: u8) {
    let mut random = Random::new(worker.into());
    for round in 0..6 {
        let image = spec(&format!("{worker}-{round}"));
        store
            .clone_image(&spec("base").at("s"), &image)
            .await
            .unwrap();
        let handle = store.open(&image, None).await.unwrap();
        let mut expected = vec![255; 4 << 20];
        expected.resize(8 << 20, 0);
        for step in 0..30 {
            let length = random.below(100_000) as usize;
            let start = random.below((8 << 20) - length as u64) as usize;
            expected[start..start + length].fill(worker);
            let data = Bytes::from(vec![worker; length]);
            handle.write(start as u64, data).await.unwrap();
            match step % 10 {
                3 => handle.flush().await.unwrap(),
                5 => store
                    .create_snapshot(&image.at(step.to_string()))
                    .await
                    .unwrap(),
                9 => {
                    let found = handle.read(0, 8 << 20).await.unwrap();
                    assert!(found == expected, "{image} holds other data");
                }
                _ => {}
            }
        }
        drop(handle);
        for snapshot in store.info(&image).await.unwrap().snapshots {
            store
                .remove_snapshot(&image.at(snapshot.name))
                .await
                .unwrap();
        }
        store.remove(&image).await.unwrap();
    }
}

/// The longest metadata needs a header of several units.
#[tokio::test(flavor = "multi_thread")]
async fn long_metadata_and_objects_come_back() {
    let dir = TempDir::new().unwrap();
    let value = "v".repeat(storage::MAX_METADATA_BYTES);
    let object: Bytes = Random::new(1).bytes((3 << 20) + 77).into();
    {
        let store = open(dir.path());
        store.ensure_pool("volumes").await.unwrap();
        store.create(&spec("a"), 1 << 20).await.unwrap();
        for key in ["one", "two", "three"] {
            store.set_metadata(&spec("a"), key, &value).await.unwrap();
            store.set_metadata(&spec("a"), "short", key).await.unwrap();
        }
        store
            .put_object("volumes", "o", object.clone())
            .await
            .unwrap();
    }
    let store = open(dir.path());
    let metadata = store.metadata(&spec("a")).await.unwrap();
    assert_eq!(metadata.len(), 4);
    assert!(metadata.iter().filter(|(_, found)| *found == value).count() == 3);
    assert!(store.object("volumes", "o").await.unwrap() == object);
    sound(&store).await;
    store.remove_object("volumes", "o").await.unwrap();
    assert_eq!(sound(&store).await.used_bytes, 0);
}
