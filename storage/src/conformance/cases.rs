//! Cases with one answer: what the random operations seldom meet.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::stream::BoxStream;

use super::random::clear;
use super::{Engine, Limits, Outcome, Random, ensure};
use crate::diff_stream::{export, import};
use crate::memory::MemoryStore;
use crate::{
    Change, Error, ImageSpec, ImageStore, MAX_IMAGE_BYTES, MAX_OBJECT_BYTES, MAX_READ_BYTES, Result,
};

fn spec(name: &str) -> ImageSpec {
    ImageSpec::new("volumes", name)
}

/// Runs all cases, each on an empty store.
pub(super) async fn run(factory: &dyn Engine) -> Outcome {
    let limits = factory.limits();
    let mut store = factory.open().await?;
    store.ensure_pool("volumes").await?;
    store.ensure_pool("volumes").await?;
    bad_arguments(&*store, limits).await?;
    clear(&*store, limits).await?;
    ends_of_images(&*store).await?;
    clear(&*store, limits).await?;
    clones(&*store, limits).await?;
    clear(&*store, limits).await?;
    what_is_open(&*store).await?;
    clear(&*store, limits).await?;
    parallel_writes(&*store).await?;
    clear(&*store, limits).await?;
    streams(&store, limits).await?;
    clear(&*store, limits).await?;
    shrinking(&*store).await?;
    let fsid = store.fsid().to_owned();
    store.close().await?;
    let after = store.pools().await;
    ensure(matches!(after, Err(Error::Unavailable(_))), || {
        "a closed store answers".into()
    })?;
    store = factory.open().await?;
    ensure(store.fsid() == fsid, || "the fsid changed".into())?;
    clear(&*store, limits).await?;
    factory.check(&store).await?;
    Ok(store.close().await?)
}

fn refused<T>(what: &str, result: Result<T>, right: fn(&Error) -> bool) -> Outcome {
    let error = result.err();
    ensure(error.as_ref().is_some_and(right), || {
        format!("{what}: {error:?}")
    })
}

fn invalid(error: &Error) -> bool {
    matches!(error, Error::Invalid(_))
}

fn not_found(error: &Error) -> bool {
    matches!(error, Error::NotFound(_))
}

fn busy(error: &Error) -> bool {
    matches!(error, Error::Busy { .. })
}

async fn bad_arguments(store: &dyn ImageStore, limits: Limits) -> Outcome {
    let long = "x".repeat(256);
    for name in ["", "a/b", "a@b", "a\0b", "a\nb", &long] {
        refused("create", store.create(&spec(name), 1).await, invalid)?;
        refused("pool", store.ensure_pool(name).await, invalid)?;
    }
    let image = spec(&"x".repeat(255));
    store.create(&image, limits.image_bytes).await?;
    refused(
        "create",
        store.create(&spec("big"), MAX_IMAGE_BYTES + 1).await,
        invalid,
    )?;
    refused("resize", store.resize(&image, u64::MAX).await, invalid)?;
    let nowhere = ImageSpec::new("nowhere", "a");
    refused("create", store.create(&nowhere, 1).await, not_found)?;
    refused("images", store.images("nowhere").await, not_found)?;
    refused("open", store.open(&nowhere, None).await, not_found)?;
    refused("open", store.open(&image, Some("none")).await, not_found)?;
    refused(
        "snapshot",
        store.create_snapshot(&image.at("a@b")).await,
        invalid,
    )?;
    refused("object", store.object("volumes", "none").await, not_found)?;
    refused(
        "object",
        store.remove_object("volumes", "none").await,
        not_found,
    )?;
    let object = Bytes::from(vec![0; MAX_OBJECT_BYTES + 1]);
    refused(
        "object",
        store.put_object("volumes", "big", object).await,
        invalid,
    )?;
    refused(
        "metadata",
        store.remove_metadata(&image, "none").await,
        not_found,
    )?;
    let all = Change {
        from: None,
        to: None,
    };
    refused("diff", store.diff(&image, all, 0, 0).await, invalid)?;
    let handle = store.open(&image, None).await?;
    refused("read", handle.read(0, MAX_READ_BYTES + 1).await, invalid)?;
    refused("read", handle.read(u64::MAX, 1).await, invalid)?;
    let ranges = [0..1, u64::MAX - 1..u64::MAX];
    refused("read", handle.read_each(&ranges).await, invalid)?;
    refused(
        "write",
        handle
            .write(limits.image_bytes, Bytes::from_static(b"x"))
            .await,
        invalid,
    )?;
    refused("discard", handle.discard(1, u64::MAX).await, invalid)?;
    // The largest image has a usable last byte, and its whole content goes at once.
    handle
        .write(limits.image_bytes - 1, Bytes::from_static(b"x"))
        .await?;
    let last = handle.read(limits.image_bytes - 2, 2).await?;
    ensure(&last[..] == b"\0x", || {
        format!("the last bytes are {last:?}")
    })?;
    handle.discard(0, limits.image_bytes).await?;
    let diff = store.diff(&image, all, 0, 10).await?;
    ensure(diff.is_empty(), || format!("{diff:?} after a discard"))
}

/// Sizes that are no multiple of anything.
async fn ends_of_images(store: &dyn ImageStore) -> Outcome {
    for size in [
        0u64,
        1,
        511,
        4095,
        4096,
        4097,
        (1 << 20) + 1,
        (256 << 20) + 3,
    ] {
        let image = spec(&format!("size-{size}"));
        store.create(&image, size).await?;
        let handle = store.open(&image, None).await?;
        ensure(handle.size_bytes() == size, || "wrong size".into())?;
        ensure(handle.read(size, 0).await?.is_empty(), || {
            "a read of nothing".into()
        })?;
        refused("read", handle.read(size, 1).await, invalid)?;
        refused(
            "write",
            handle.write(size, Bytes::from_static(b"x")).await,
            invalid,
        )?;
        let tail = size.min(5000);
        handle
            .write(size - tail, vec![9; tail as usize].into())
            .await?;
        store.create_snapshot(&image.at("s")).await?;
        let diff = store
            .diff(
                &image,
                Change {
                    from: None,
                    to: Some("s"),
                },
                0,
                100,
            )
            .await?;
        let end = diff.last().map_or(0, |last| last.offset + last.length);
        ensure(end == size, || {
            format!("the diff ends at {end}, not {size}")
        })?;
        let extents = handle.extents(0, size, 100).await?;
        let end = extents.last().map_or(0, |last| last.offset + last.length);
        ensure(end == size, || {
            format!("the extents end at {end}, not {size}")
        })?;
    }
    Ok(())
}

/// Clones of clones, and sources that go before them.
async fn clones(store: &dyn ImageStore, limits: Limits) -> Outcome {
    let (one, two, three) = (spec("one"), spec("two"), spec("three"));
    store.create(&one, 1 << 20).await?;
    let handle = store.open(&one, None).await?;
    handle.write(0, Bytes::from(vec![1; 1 << 20])).await?;
    drop(handle);
    store.create_snapshot(&one.at("s")).await?;
    refused(
        "clone",
        store.clone_image(&one.at("s"), &two).await,
        invalid,
    )?;
    store.protect_snapshot(&one.at("s")).await?;
    let before = store.capacity("volumes").await?.used_bytes;
    store.clone_image(&one.at("s"), &two).await?;
    store.create_snapshot(&two.at("s")).await?;
    store.protect_snapshot(&two.at("s")).await?;
    store.clone_image(&two.at("s"), &three).await?;
    let after = store.capacity("volumes").await?.used_bytes;
    ensure(before == after || !limits.counts_at_once, || {
        format!("clones copied: {before} bytes, then {after}")
    })?;
    store.rename(&one, "other").await?;
    let other = spec("other");
    store.rename_snapshot(&other.at("s"), "t").await?;
    let parent = store.info(&two).await?.parent;
    ensure(parent == Some(other.at("t")), || {
        format!("parent {parent:?}")
    })?;
    store.rename_snapshot(&other.at("t"), "s").await?;
    refused(
        "rename",
        store.rename_snapshot(&other.at("none"), "t").await,
        not_found,
    )?;
    let parent = store.info(&two).await?.parent;
    ensure(parent == Some(other.at("s")), || {
        format!("parent {parent:?}")
    })?;
    refused(
        "unprotect",
        store.unprotect_snapshot(&other.at("s")).await,
        busy,
    )?;
    refused("remove", store.remove_snapshot(&other.at("s")).await, busy)?;
    for (source, clone) in [(&other, &two), (&two, &three)] {
        let children = store.children(&source.at("s")).await?;
        ensure(children == [clone.clone()], || {
            format!("children {children:?}")
        })?;
        store.flatten(clone).await?;
        store.flatten(clone).await?;
        store.unprotect_snapshot(&source.at("s")).await?;
        store.remove_snapshot(&source.at("s")).await?;
        store.remove(source).await?;
    }
    let handle = store.open(&three, None).await?;
    let data = handle.read(0, 1 << 20).await?;
    ensure(data.iter().all(|byte| *byte == 1), || {
        "the last clone lost data".into()
    })
}

async fn what_is_open(store: &dyn ImageStore) -> Outcome {
    let image = spec("a");
    store.create(&image, 8192).await?;
    let head = store.open(&image, None).await?;
    refused("remove", store.remove(&image).await, busy)?;
    store.create_snapshot(&image.at("s")).await?;
    let snapshot = store.open(&image, Some("s")).await?;
    refused("remove", store.remove_snapshot(&image.at("s")).await, busy)?;
    ensure(snapshot.read_only() && !head.read_only(), || {
        "read_only is wrong".into()
    })?;
    let read_only = |error: &Error| matches!(error, Error::ReadOnly(_));
    refused(
        "write",
        snapshot.write(0, Bytes::from_static(b"x")).await,
        read_only,
    )?;
    refused("discard", snapshot.discard(0, 1).await, read_only)?;
    head.write(0, Bytes::from_static(b"x")).await?;
    store.resize(&image, 4096).await?;
    ensure(head.size_bytes() == 4096, || {
        "the size of an open image".into()
    })?;
    refused("read", head.read(4096, 1).await, invalid)?;
    store.roll_back(&image.at("s")).await?;
    ensure(head.size_bytes() == 8192, || {
        "the size after a roll back".into()
    })?;
    ensure(head.read(0, 1).await?[..] == [0], || {
        "data after a roll back".into()
    })?;
    drop(snapshot);
    store.remove_snapshot(&image.at("s")).await?;
    drop(head);
    store.remove(&image).await?;
    refused("remove", store.remove(&image).await, not_found)
}

/// Writers of neighbouring bytes of the same blocks lose nothing.
async fn parallel_writes(store: &dyn ImageStore) -> Outcome {
    let image = spec("a");
    store.create(&image, 64 << 10).await?;
    let handle = store.open(&image, None).await?;
    let write = |writer: u64| {
        let handle = Arc::clone(&handle);
        async move {
            for piece in 0..64 {
                let data = Bytes::from(vec![writer as u8 + 1; 128]);
                handle.write(piece * 1024 + writer * 128, data).await?;
            }
            handle.flush().await
        }
    };
    let results = futures_util::future::join_all((0..8).map(write)).await;
    results.into_iter().collect::<Result<()>>()?;
    let data = handle.read(0, 64 << 10).await?;
    let wrong = data
        .iter()
        .enumerate()
        .find(|(at, byte)| **byte as usize != at % 1024 / 128 + 1);
    ensure(wrong.is_none(), || format!("lost a write at {wrong:?}"))
}

/// Diff streams between the engine and the oracle, both ways.
async fn streams(engine: &Arc<dyn ImageStore>, limits: Limits) -> Outcome {
    let oracle: Arc<dyn ImageStore> = Arc::new(MemoryStore::new());
    oracle.ensure_pool("volumes").await?;
    let (source, copy) = (spec("source"), spec("copy"));
    let mut random = Random::new(7);
    for (from, to) in [(engine, &oracle), (&oracle, engine)] {
        from.create(&source, (20 << 20) + 5).await?;
        to.create(&copy, 0).await?;
        let mut older: Option<String> = None;
        for round in 0..4 {
            let handle = from.open(&source, None).await?;
            for _ in 0..10 {
                let length = random.below(200_000);
                let offset = random.below(handle.size_bytes() - length);
                handle
                    .write(offset, random.bytes(length as usize).into())
                    .await?;
                handle.discard(random.below(10 << 20), 1 << 20).await?;
            }
            from.resize(&source, (20 << 20) + 5 + round * 1000).await?;
            let newer = format!("snap-{round}");
            from.create_snapshot(&source.at(&newer)).await?;
            let change = Change {
                from: older.as_deref(),
                to: Some(&newer),
            };
            let stream: BoxStream<'_, _> = export(from, &source, change);
            let done = import(&**to, &copy, stream).await?;
            ensure(done.to.as_ref() == Some(&newer), || format!("{done:?}"))?;
            let (a, b) = (
                from.open(&source, Some(&newer)).await?,
                to.open(&copy, Some(&newer)).await?,
            );
            ensure(a.size_bytes() == b.size_bytes(), || "sizes differ".into())?;
            let (a, b) = (a.read(0, 20 << 20).await?, b.read(0, 20 << 20).await?);
            ensure(a == b, || format!("round {round}: the copy differs"))?;
            older = Some(newer);
        }
        for store in [from, to] {
            clear(&**store, limits).await?;
        }
    }
    Ok(())
}

/// What was cut off does not come back.
async fn shrinking(store: &dyn ImageStore) -> Outcome {
    let image = spec("a");
    store.create(&image, 3 << 20).await?;
    let handle = store.open(&image, None).await?;
    handle.write(0, Bytes::from(vec![5; 3 << 20])).await?;
    store.resize(&image, (1 << 20) + 100).await?;
    store.resize(&image, 4 << 20).await?;
    let data = handle.read(0, 4 << 20).await?;
    let (kept, cut) = data.split_at((1 << 20) + 100);
    let right = kept.iter().all(|byte| *byte == 5) && cut.iter().all(|byte| *byte == 0);
    ensure(right, || "shrinking kept the wrong bytes".into())
}
