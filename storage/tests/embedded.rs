//! The embedded engine: the conformance suite, crashes, damage, full stores.

#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use storage::conformance::{self, Effort, Engine, Failure, Random, ensure};
use storage::embedded::{EmbeddedOptions, EmbeddedStore};
use storage::{Change, Error, ImageSpec, ImageStore};
use tempfile::TempDir;

struct Folder {
    folder: PathBuf,
    open: std::sync::Mutex<Option<Arc<EmbeddedStore>>>,
}

#[async_trait]
impl Engine for Folder {
    async fn open(&self) -> Result<Arc<dyn ImageStore>, Error> {
        let store = EmbeddedStore::open(&self.folder, EmbeddedOptions::default())?;
        *self.open.lock().unwrap() = Some(Arc::clone(&store));
        Ok(store)
    }

    async fn check(&self, _store: &Arc<dyn ImageStore>) -> Result<(), Failure> {
        let store = self.open.lock().unwrap().clone().unwrap();
        let report = store.check(true).await?;
        ensure(report.error_count == 0, || format!("{:?}", report.errors))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn conforms() {
    for seed in 1..=4 {
        let dir = TempDir::new().unwrap();
        let engine = Folder {
            folder: dir.path().join("store"),
            open: Default::default(),
        };
        let effort = Effort { seed, steps: 600 };
        conformance::run(&engine, effort).await.unwrap();
        *engine.open.lock().unwrap() = None;
        assert_eq!(
            stored_bytes(&engine.folder),
            0,
            "space left in the block files"
        );
    }
}

/// Bytes that the file system keeps for the block files.
fn stored_bytes(folder: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let files = std::fs::read_dir(folder.join("blocks")).unwrap();
    files
        .map(|file| file.unwrap().metadata().unwrap().blocks() * 512)
        .sum()
}

fn spec(name: &str) -> ImageSpec {
    ImageSpec::new("volumes", name)
}

fn open(folder: &Path) -> Arc<EmbeddedStore> {
    let options = EmbeddedOptions {
        simulate_power_loss: true,
        ..Default::default()
    };
    EmbeddedStore::open(folder, options).unwrap()
}

async fn sound(store: &EmbeddedStore) -> storage::embedded::CheckReport {
    // Waits for dropped trees; nothing changes after that.
    let used_bytes = store.capacity().await.unwrap().used_bytes;
    let report = store.check(true).await.unwrap();
    assert!(report.errors.is_empty(), "{:?}", report.errors);
    assert_eq!(report.used_bytes, used_bytes);
    report
}

const BLOCK: usize = 4096;
const BLOCKS: u64 = 600;

/// What an image must hold after a power loss: per block the values it may have. A flush leaves
/// one; every write since adds one.
struct Expected {
    blocks: Vec<Vec<u8>>,
}

impl Expected {
    fn write(&mut self, first: u64, count: u64, value: u8) {
        for block in self
            .blocks
            .iter_mut()
            .skip(first as usize)
            .take(count as usize)
        {
            block.push(value);
        }
    }

    fn flush(&mut self) {
        for block in &mut self.blocks {
            *block = vec![*block.last().unwrap()];
        }
    }

    async fn compare(&mut self, store: &EmbeddedStore, image: &ImageSpec) {
        let handle = store.open(image, None).await.unwrap();
        for (index, values) in self.blocks.iter_mut().enumerate() {
            let data = handle.read((index * BLOCK) as u64, BLOCK).await.unwrap();
            assert!(data.iter().all(|byte| *byte == data[0]), "a torn block");
            assert!(
                values.contains(&data[0]),
                "{image} block {index}: {} of {values:?}",
                data[0]
            );
            *values = vec![data[0]];
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn power_loss_takes_nothing_that_was_flushed() {
    let dir = TempDir::new().unwrap();
    let mut random = Random::new(42);
    let image = spec("a");
    let mut expected = Expected {
        blocks: vec![vec![0]; BLOCKS as usize],
    };
    let mut snapshots: Vec<(String, Vec<u8>)> = Vec::new();
    {
        let store = open(dir.path());
        store.ensure_pool("volumes").await.unwrap();
        store.create(&image, BLOCKS * BLOCK as u64).await.unwrap();
    }
    for round in 0..30u8 {
        let store = open(dir.path());
        sound(&store).await;
        expected.compare(&store, &image).await;
        for (name, content) in &snapshots {
            let handle = store.open(&image, Some(name)).await.unwrap();
            let data = handle.read(0, BLOCKS as usize * BLOCK).await.unwrap();
            let found: Vec<u8> = data.chunks(BLOCK).map(|block| block[0]).collect();
            assert_eq!(&found, content, "snapshot {name}");
        }
        let handle = store.open(&image, None).await.unwrap();
        for step in 0..random.below(40) {
            let first = random.below(BLOCKS);
            let count = (1 + random.below(40)).min(BLOCKS - first);
            let value = random.below(256) as u8;
            match random.below(20) {
                0..=1 => {
                    handle
                        .discard(first * BLOCK as u64, count * BLOCK as u64)
                        .await
                        .unwrap();
                    expected.write(first, count, 0);
                }
                2..=3 => {
                    handle.flush().await.unwrap();
                    expected.flush();
                }
                4 => {
                    let name = format!("{round}-{step}");
                    store.create_snapshot(&image.at(&name)).await.unwrap();
                    // A change of the catalogue makes durable all that came before.
                    expected.flush();
                    let content = expected.blocks.iter().map(|block| block[0]).collect();
                    snapshots.push((name, content));
                }
                5 if !snapshots.is_empty() => {
                    let (name, _) = snapshots.remove(random.below(snapshots.len() as u64) as usize);
                    store.remove_snapshot(&image.at(&name)).await.unwrap();
                    expected.flush();
                }
                _ => {
                    let data = Bytes::from(vec![value; count as usize * BLOCK]);
                    handle.write(first * BLOCK as u64, data).await.unwrap();
                    expected.write(first, count, value);
                }
            }
        }
        if random.chance(50) {
            store.lose_power(|| random.chance(50));
        } else if random.chance(30) {
            store.close().await.unwrap();
            expected.flush();
        }
    }
    let store = open(dir.path());
    for (name, _) in snapshots {
        store.remove_snapshot(&image.at(&name)).await.unwrap();
    }
    store.remove(&image).await.unwrap();
    assert_eq!(sound(&store).await.used_bytes, 0);
    store.close().await.unwrap();
    let store = open(dir.path());
    store.close().await.unwrap();
    assert_eq!(stored_bytes(dir.path()), 0);
}

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
        store.lose_power(|| false);
    }
    let store = open(dir.path());
    assert_eq!(store.images("volumes").await.unwrap(), [""; 0]);
    assert_eq!(store.capacity().await.unwrap().used_bytes, 0);
    sound(&store).await;
    store.close().await.unwrap();
    assert_eq!(stored_bytes(dir.path()), 0);
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

fn flip(path: &Path, at: u64) {
    use std::os::unix::fs::FileExt;
    let file = std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open(path)
        .unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 0x10], at).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn damaged_blocks_are_found() {
    let dir = TempDir::new().unwrap();
    let store = open(dir.path());
    store.ensure_pool("volumes").await.unwrap();
    store.create(&spec("a"), 1 << 20).await.unwrap();
    let handle = store.open(&spec("a"), None).await.unwrap();
    handle
        .write(0, Bytes::from(vec![1; 1 << 20]))
        .await
        .unwrap();
    handle.flush().await.unwrap();
    // Blocks lie in order from number 1 on.
    flip(&dir.path().join("blocks/00000.blk"), 6 * BLOCK as u64 + 77);
    match handle.read(0, 1 << 20).await {
        Err(Error::Corrupt { image, offset, .. }) => {
            assert_eq!((image.as_str(), offset), ("volumes/a", 5 * BLOCK as u64));
        }
        other => panic!("{other:?}"),
    }
    assert!(handle.read(0, 5 * BLOCK).await.is_ok());
    // Part of a damaged block is not carried on; all of it may be written anew.
    let part = handle
        .write(5 * BLOCK as u64 + 1, Bytes::from_static(b"x"))
        .await;
    assert!(matches!(part, Err(Error::Corrupt { .. })), "{part:?}");
    let report = store.check(true).await.unwrap();
    assert_eq!(report.error_count, 1, "{:?}", report.errors);
    handle
        .write(5 * BLOCK as u64, Bytes::from(vec![2; BLOCK]))
        .await
        .unwrap();
    assert!(handle.read(0, 1 << 20).await.is_ok());
    sound(&store).await;
}

/// Whatever byte of the catalogue is damaged: an answer is right, or an error, or the store does
/// not open.
#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_catalogue_never_lies() {
    let dir = TempDir::new().unwrap();
    {
        let store = open(dir.path());
        store.ensure_pool("volumes").await.unwrap();
        store.create(&spec("a"), 16 << 20).await.unwrap();
        let handle = store.open(&spec("a"), None).await.unwrap();
        for offset in (0..16 << 20).step_by(64 << 10) {
            handle
                .write(offset, Bytes::from(vec![1; 8192]))
                .await
                .unwrap();
        }
        drop(handle);
        store.close().await.unwrap();
    }
    let (catalogue, saved) = (dir.path().join("catalogue.redb"), dir.path().join("saved"));
    std::fs::copy(&catalogue, &saved).unwrap();
    let length = std::fs::metadata(&saved).unwrap().len();
    let mut random = Random::new(3);
    let mut damaged = 0;
    for _ in 0..60 {
        std::fs::copy(&saved, &catalogue).unwrap();
        for _ in 0..8 {
            flip(&catalogue, random.below(length));
        }
        let folder = dir.path().to_owned();
        let opened = tokio::task::spawn_blocking(move || {
            EmbeddedStore::open(&folder, EmbeddedOptions::default())
        });
        let Ok(Ok(store)) = opened.await else {
            damaged += 1;
            continue;
        };
        match read_all(&store).await {
            Ok(()) => {}
            Err(Error::Corrupt { .. } | Error::Unavailable(_) | Error::NotFound(_)) => damaged += 1,
            Err(other) => panic!("{other:?}"),
        }
    }
    assert!(damaged > 0);
}

async fn read_all(store: &EmbeddedStore) -> Result<(), Error> {
    let handle = store.open(&spec("a"), None).await?;
    for offset in (0..16 << 20).step_by(64 << 10) {
        let data = handle.read(offset, 64 << 10).await?;
        let (data, zero) = data.split_at(8192);
        assert!(data.iter().all(|byte| *byte == 1) && zero.iter().all(|byte| *byte == 0));
    }
    Ok(())
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
    let empty = store.capacity().await.unwrap();
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
    assert_eq!(store.capacity().await.unwrap().free_bytes, 0);
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
    store.lose_power(|| true);
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
