//! Walks of the embedded engine beside everything else: scrub, usage, defragmentation.

#![allow(clippy::unwrap_used)]

use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use storage::conformance::Random;
use storage::embedded::{
    CheckOptions, DefragmentOptions, EmbeddedOptions, EmbeddedStore, Progress, ScrubOptions,
    ScrubReport, Usage,
};
use storage::{Error, ImageHandle, ImageSpec, ImageStore};
use tempfile::TempDir;

const BLOCK: u64 = 4096;
const MIB: u64 = 1 << 20;

fn spec(name: &str) -> ImageSpec {
    ImageSpec::new("volumes", name)
}

async fn open(folder: &Path) -> Arc<EmbeddedStore> {
    let store = EmbeddedStore::open(folder, EmbeddedOptions::default()).unwrap();
    store.ensure_pool("volumes").await.unwrap();
    store
}

async fn create(store: &EmbeddedStore, name: &str, size: u64) -> Arc<dyn ImageHandle> {
    store.create(&spec(name), size).await.unwrap();
    store.open(&spec(name), None).await.unwrap()
}

async fn write(handle: &Arc<dyn ImageHandle>, offset: u64, data: impl Into<Bytes>) {
    handle.write(offset, data.into()).await.unwrap();
}

async fn scrub(store: &EmbeddedStore) -> ScrubReport {
    let options = ScrubOptions::default();
    store.scrub(options, Arc::default()).await.unwrap()
}

async fn assert_sound(store: &EmbeddedStore) {
    store.settle().await.unwrap();
    let options = CheckOptions {
        data: true,
        most_bytes_per_second: None,
    };
    let report = store.check(options, Arc::default()).await.unwrap();
    assert!(report.errors.is_empty(), "{:?}", report.errors);
}

/// Inverts a bit in every block of the chunk file that starts like this.
fn flip(folder: &Path, start: &[u8]) -> usize {
    let path = folder.join("chunks/00000");
    let file = std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open(path);
    let file = file.unwrap();
    let mut all = vec![0; file.metadata().unwrap().len() as usize];
    file.read_exact_at(&mut all, 0).unwrap();
    let mut flipped = 0;
    for (index, block) in all.chunks(BLOCK as usize).enumerate() {
        if block.starts_with(start) {
            let at = index as u64 * BLOCK + 3000;
            file.write_all_at(&[block[3000] ^ 4], at).unwrap();
            flipped += 1;
        }
    }
    flipped
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scrub_names_what_is_damaged() {
    let dir = TempDir::new().unwrap();
    let store = open(dir.path()).await;
    let handle = create(&store, "a", 64 * MIB).await;
    for block in 0..600u64 {
        let mut data = vec![1; BLOCK as usize];
        data[..8].copy_from_slice(&(block + 1_000_000).to_le_bytes());
        write(&handle, block * 5 * BLOCK, data).await;
    }
    store.create_snapshot(&spec("a").at("s")).await.unwrap();
    write(&handle, 0, vec![9; BLOCK as usize]).await;
    store.close().await.unwrap();
    drop(handle);
    let store = open(dir.path()).await;
    let sound = scrub(&store).await;
    assert_eq!(sound.error_count, 0, "{:?}", sound.errors);
    assert!(sound.read_bytes > 601 * BLOCK);
    // Once for the snapshot, which alone has it, and once for data of both.
    for block in [0u64, 77] {
        assert_eq!(flip(dir.path(), &(block + 1_000_000).to_le_bytes()), 1);
    }
    let report = scrub(&store).await;
    let starts = |text: &str| report.errors.iter().any(|error| error.starts_with(text));
    assert_eq!(report.error_count, 2, "{:?}", report.errors);
    assert!(
        starts("volumes/a@s at byte 0: chunks/00000 at byte "),
        "{:?}",
        report.errors
    );
    let both = format!(" at byte {}: chunks/00000 at byte ", 77 * 5 * BLOCK);
    assert!(
        report.errors.iter().any(|error| error.contains(&both)),
        "{:?}",
        report.errors
    );
    store.close().await.unwrap();
}

/// What is written, removed and cut while the scrub runs is no damage.
#[tokio::test(flavor = "multi_thread")]
async fn a_scrub_beside_writers_finds_nothing() {
    let dir = TempDir::new().unwrap();
    let store = open(dir.path()).await;
    let stop = Arc::new(AtomicBool::new(false));
    let writers: Vec<_> = (0..3u64)
        .map(|writer| {
            let (store, stop) = (Arc::clone(&store), Arc::clone(&stop));
            tokio::spawn(async move {
                let mut random = Random::new(writer);
                for round in 0.. {
                    let name = format!("{writer}-{round}");
                    let handle = create(&store, &name, 16 * MIB).await;
                    for _ in 0..200 {
                        let offset = random.below(4000) * BLOCK;
                        let data = vec![1 + random.below(255) as u8; BLOCK as usize];
                        write(&handle, offset, data).await;
                        if random.chance(2) {
                            let at = spec(&name).at(random.below(1 << 40).to_string());
                            store.create_snapshot(&at).await.unwrap();
                        }
                        if random.chance(3) {
                            store
                                .resize(&spec(&name), 8 * MIB + offset / 2)
                                .await
                                .unwrap();
                            store.resize(&spec(&name), 16 * MIB).await.unwrap();
                        }
                    }
                    drop(handle);
                    for snapshot in store.info(&spec(&name)).await.unwrap().snapshots {
                        let at = spec(&name).at(snapshot.name);
                        store.remove_snapshot(&at).await.unwrap();
                    }
                    store.remove(&spec(&name)).await.unwrap();
                    if stop.load(Ordering::Relaxed) {
                        return;
                    }
                }
            })
        })
        .collect();
    for _ in 0..12 {
        let report = scrub(&store).await;
        assert_eq!(report.error_count, 0, "{:?}", report.errors);
    }
    stop.store(true, Ordering::Relaxed);
    for writer in writers {
        writer.await.unwrap();
    }
    assert_sound(&store).await;
}

fn find<'a>(usage: &'a [Usage], image: &str, snapshot: Option<&str>) -> &'a Usage {
    let mut usage = usage.iter();
    let found = usage.find(|u| u.image.image == image && u.snapshot.as_deref() == snapshot);
    found.unwrap()
}

/// What usage calls exclusive is what a removal sets free, for any history.
#[tokio::test(flavor = "multi_thread")]
async fn usage_says_what_a_removal_sets_free() {
    for seed in 0..6 {
        let dir = TempDir::new().unwrap();
        let store = open(dir.path()).await;
        let mut random = Random::new(seed);
        let handle = create(&store, "a", 8 * MIB).await;
        for step in 0..5 {
            for _ in 0..60 {
                let block = random.below(1800);
                let count = 1 + random.below(40);
                write(
                    &handle,
                    block * BLOCK,
                    random.bytes((count * BLOCK) as usize),
                )
                .await;
            }
            let snapshot = spec("a").at(step.to_string());
            store.create_snapshot(&snapshot).await.unwrap();
            if step == 2 {
                store.protect_snapshot(&snapshot).await.unwrap();
                store.clone_image(&snapshot, &spec("clone")).await.unwrap();
                store.flatten(&spec("clone")).await.unwrap();
                store.unprotect_snapshot(&snapshot).await.unwrap();
                let clone = store.open(&spec("clone"), None).await.unwrap();
                write(&clone, 0, random.bytes(300 * BLOCK as usize)).await;
            }
        }
        drop(handle);
        let usage = store.usage().await.unwrap();
        assert_eq!(usage.len(), 7);
        for each in &usage {
            assert_eq!(each.used_bytes, each.shared_bytes() + each.exclusive_bytes);
            assert!(each.used_bytes <= each.size_bytes);
        }
        for step in [1, 3, 0, 4, 2] {
            let name = step.to_string();
            let usage = store.usage().await.unwrap();
            let wanted = find(&usage, "a", Some(&name)).exclusive_bytes;
            let before = store.capacity("").await.unwrap().used_bytes;
            store.remove_snapshot(&spec("a").at(&name)).await.unwrap();
            let after = store.capacity("").await.unwrap().used_bytes;
            assert_eq!(before - after, wanted, "seed {seed}, snapshot {name}");
        }
        for image in ["a", "clone"] {
            let usage = store.usage().await.unwrap();
            let wanted = find(&usage, image, None).exclusive_bytes;
            let before = store.capacity("").await.unwrap().used_bytes;
            store.remove(&spec(image)).await.unwrap();
            assert_eq!(
                before - store.capacity("").await.unwrap().used_bytes,
                wanted
            );
        }
        assert_sound(&store).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_defragmentation_puts_data_in_order_and_changes_none() {
    let dir = TempDir::new().unwrap();
    let store = open(dir.path()).await;
    let size = 32 * MIB;
    let handle = create(&store, "a", size).await;
    let mut random = Random::new(4);
    let mut expected = random.bytes(size as usize);
    write(&handle, 0, expected.clone()).await;
    let shared = 24 * MIB..size;
    // All but the last quarter is written anew, block by block, in no order.
    store.create_snapshot(&spec("a").at("s")).await.unwrap();
    let before = expected.clone();
    let mut blocks: Vec<u64> = (0..shared.start / BLOCK).collect();
    for last in (1..blocks.len()).rev() {
        blocks.swap(last, random.below(last as u64 + 1) as usize);
    }
    for block in blocks {
        let data = random.bytes(BLOCK as usize);
        expected[(block * BLOCK) as usize..][..BLOCK as usize].copy_from_slice(&data);
        write(&handle, block * BLOCK, data).await;
    }
    let used = store.capacity("").await.unwrap().used_bytes;
    let progress = Arc::new(Progress::default());
    let options = DefragmentOptions::default();
    let image = spec("a");
    let defragment = || store.defragment(&image, options, Arc::clone(&progress));
    // A writer beside it: nothing of what it writes is lost.
    let writer = {
        let handle = Arc::clone(&handle);
        tokio::spawn(async move {
            for round in 0..200u64 {
                let data = vec![round as u8 + 1; 10_000];
                write(&handle, round * 90_001, data).await;
            }
        })
    };
    let report = defragment().await.unwrap();
    writer.await.unwrap();
    for round in 0..200u64 {
        expected[(round * 90_001) as usize..][..10_000].fill(round as u8 + 1);
    }
    assert!(report.own_bytes >= shared.start - 2 * MIB, "{report:?}");
    assert!(report.moved_bytes >= shared.start * 8 / 10, "{report:?}");
    assert!(report.runs > 4000, "{report:?}");
    assert_eq!(progress.bytes(), (size, size));
    let again = defragment().await.unwrap();
    assert!(again.runs < 1000, "{again:?}");
    assert!(handle.read(0, size as usize).await.unwrap() == expected);
    let snapshot = store.open(&spec("a"), Some("s")).await.unwrap();
    assert!(snapshot.read(0, size as usize).await.unwrap() == before);
    // No block is there twice but those that the writer took away from the snapshot.
    let now = store.capacity("").await.unwrap().used_bytes;
    assert!(now <= used + 3 * 200 * BLOCK, "{used} {now}");
    assert_sound(&store).await;
    let gone = store.defragment(&spec("x"), options, Arc::default()).await;
    assert!(matches!(gone, Err(Error::NotFound(_))), "{gone:?}");
}
