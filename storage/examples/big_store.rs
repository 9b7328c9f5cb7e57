//! Times the embedded store with images far larger than the disk: real maps and logs over a
//! device that does not keep the data. Prints one JSON object; times are medians.
//!
//! `cargo run --release -p storage --features eliding-disk --example big_store -- make FOLDER WIDE_GIB FULL_GIB IMAGES SNAPSHOTS`
//! makes a store with an image of WIDE_GIB and one of FULL_GIB, both with data in every block, one
//! of 2 GiB, and IMAGES empty ones with SNAPSHOTS snapshots in all; then ends as in a crash.
//!
//! `… -- measure FOLDER ROUNDS` opens it, and times the calls.

use std::error::Error;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream};
use storage::embedded::{ELIDED_BYTE, EmbeddedOptions, EmbeddedStore, IoEngine};
use storage::{Change, ImageHandle, ImageSpec, ImageStore};

const GIB: u64 = 1 << 30;
const MIB: u64 = 1 << 20;
const BLOCK: u64 = 4096;
const DIFF_BLOCKS: u64 = 16_384;
const DIFF_PAGE: usize = 4096;
const DEPTH: usize = 16;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

#[tokio::main]
async fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["make", folder, wide, full, images, snapshots] => {
            let sizes = Sizes {
                wide_gib: wide.parse()?,
                full_gib: full.parse()?,
                images: images.parse()?,
                snapshots: snapshots.parse()?,
            };
            make(Path::new(folder), sizes).await
        }
        ["measure", folder, rounds] => measure(Path::new(folder), rounds.parse()?).await,
        _ => Err("usage: big_store make FOLDER WIDE_GIB FULL_GIB IMAGES SNAPSHOTS | measure FOLDER ROUNDS".into()),
    }
}

struct Sizes {
    wide_gib: u64,
    full_gib: u64,
    images: usize,
    snapshots: usize,
}

#[derive(Default)]
struct Figures(serde_json::Map<String, serde_json::Value>);

impl Figures {
    fn note(&mut self, name: &str, value: f64) {
        self.0.insert(name.to_owned(), value.into());
    }

    fn print(self) {
        println!("{}", serde_json::Value::Object(self.0));
    }
}

fn image(name: &str) -> ImageSpec {
    ImageSpec::new("volumes", name)
}

fn ms(began: Instant) -> f64 {
    began.elapsed().as_secs_f64() * 1000.0
}

fn median(mut samples: Vec<f64>) -> f64 {
    samples.sort_by(f64::total_cmp);
    samples.get(samples.len() / 2).copied().unwrap_or_default()
}

fn resident_mib() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with("VmRSS:"));
    let kib = line.and_then(|line| line.split_whitespace().nth(1)?.parse::<f64>().ok());
    kib.unwrap_or_default() / 1024.0
}

async fn open(folder: &Path) -> Result<Arc<EmbeddedStore>> {
    let folder = folder.to_owned();
    let options = EmbeddedOptions {
        io: IoEngine::Eliding,
        ..EmbeddedOptions::default()
    };
    Ok(tokio::task::spawn_blocking(move || EmbeddedStore::open(&folder, options)).await??)
}

async fn make(folder: &Path, sizes: Sizes) -> Result<()> {
    let store = open(folder).await?;
    let mut figures = Figures::default();
    store.ensure_pool("volumes").await?;
    for (name, gib) in [
        ("wide", sizes.wide_gib),
        ("full", sizes.full_gib),
        ("small", 2),
    ] {
        let began = Instant::now();
        fill(store.as_ref(), name, gib).await?;
        figures.note(&format!("fill_{name}_s"), ms(began) / 1000.0);
    }
    let began = Instant::now();
    images(&store, sizes.images).await?;
    figures.note("create_images_s", ms(began) / 1000.0);
    let began = Instant::now();
    let per_image = sizes.snapshots / sizes.images.max(1);
    let (store_ref, numbers) = (&store, 0..sizes.images);
    let snapshots = numbers.flat_map(|number| (0..per_image).map(move |at| (number, at)));
    stream::iter(snapshots)
        .map(async |(number, at)| {
            let of = image(&format!("image-{number}"));
            store_ref
                .create_snapshot(&of.at(format!("snapshot-{at}")))
                .await
        })
        .buffer_unordered(256)
        .try_collect::<()>()
        .await?;
    figures.note("create_snapshots_s", ms(began) / 1000.0);
    // What replay finds behind the last checkpoint.
    let wide = store.open(&image("wide"), None).await?;
    touch(wide.as_ref(), 4096).await?;
    wide.flush().await?;
    figures.note("resident_mib", resident_mib());
    figures.print();
    // As a crash: nothing is saved that is not.
    std::process::exit(0)
}

async fn fill(store: &EmbeddedStore, name: &str, gib: u64) -> Result<()> {
    store.create(&image(name), gib * GIB).await?;
    let handle = store.open(&image(name), None).await?;
    let data = Bytes::from(vec![ELIDED_BYTE; MIB as usize]);
    stream::iter(0..gib * GIB / MIB)
        .map(|at| handle.write(at * MIB, data.clone()))
        .buffer_unordered(DEPTH)
        .try_collect::<()>()
        .await?;
    handle.flush().await?;
    Ok(())
}

async fn images(store: &Arc<EmbeddedStore>, count: usize) -> Result<()> {
    stream::iter(0..count)
        .map(async |number| store.create(&image(&format!("image-{number}")), GIB).await)
        .buffer_unordered(256)
        .try_collect::<()>()
        .await?;
    Ok(())
}

/// Blocks spread over the whole image, each once.
async fn touch(handle: &dyn ImageHandle, blocks: u64) -> storage::Result<()> {
    let data = Bytes::from(vec![ELIDED_BYTE; BLOCK as usize]);
    let step = handle.size_bytes() / BLOCK / blocks * BLOCK;
    stream::iter(0..blocks)
        .map(|at| handle.write(at.wrapping_mul(7_919) % blocks * step, data.clone()))
        .buffer_unordered(32)
        .try_collect::<()>()
        .await
}

async fn measure(folder: &Path, rounds: usize) -> Result<()> {
    let mut figures = Figures::default();
    let began = Instant::now();
    let store = open(folder).await?;
    figures.note("open_after_crash_ms", ms(began));
    figures.note("resident_after_open_mib", resident_mib());
    calls(store.as_ref(), rounds, &mut figures).await?;
    diff(store.as_ref(), rounds, &mut figures).await?;
    many(store.as_ref(), &mut figures).await?;
    delete(store.as_ref(), &mut figures).await?;
    figures.note("resident_mib", resident_mib());
    let began = Instant::now();
    store.close().await?;
    figures.note("close_ms", ms(began));
    let began = Instant::now();
    let store = open(folder).await?;
    figures.note("open_after_close_ms", ms(began));
    store.close().await?;
    figures.print();
    Ok(())
}

/// Snapshot, clone, flatten of a wide and a small image in turn; nothing else goes on.
async fn calls(store: &dyn ImageStore, rounds: usize, figures: &mut Figures) -> Result<()> {
    let names = ["wide", "small"];
    let mut samples: [[Vec<f64>; 3]; 2] = Default::default();
    for round in 0..rounds {
        for (name, samples) in names.iter().zip(&mut samples) {
            let snapshot = image(name).at(format!("bench-{round}"));
            let clone = image(&format!("{name}-clone-{round}"));
            let began = Instant::now();
            store.create_snapshot(&snapshot).await?;
            samples[0].push(ms(began));
            store.protect_snapshot(&snapshot).await?;
            let began = Instant::now();
            store.clone_image(&snapshot, &clone).await?;
            samples[1].push(ms(began));
            let began = Instant::now();
            store.flatten(&clone).await?;
            samples[2].push(ms(began));
            store.remove(&clone).await?;
            store.unprotect_snapshot(&snapshot).await?;
            store.remove_snapshot(&snapshot).await?;
        }
    }
    for (name, samples) in names.iter().zip(samples) {
        for (call, samples) in ["snapshot", "clone", "flatten"].iter().zip(samples) {
            figures.note(&format!("{call}_{name}_ms"), median(samples));
        }
    }
    Ok(())
}

/// 64 MiB of single blocks that changed in a full image.
async fn diff(store: &dyn ImageStore, rounds: usize, figures: &mut Figures) -> Result<()> {
    let full = image("full");
    store.create_snapshot(&full.at("before")).await?;
    let handle = store.open(&full, None).await?;
    touch(handle.as_ref(), DIFF_BLOCKS).await?;
    let change = Change {
        from: Some("before"),
        to: None,
    };
    let mut samples = Vec::new();
    let mut extents = 0;
    for _ in 0..rounds {
        extents = 0;
        let began = Instant::now();
        let mut position = 0;
        loop {
            let page = store.diff(&full, change, position, DIFF_PAGE).await?;
            let Some(last) = page.last() else { break };
            position = last.offset + last.length;
            extents += page.len();
        }
        samples.push(ms(began));
    }
    figures.note("diff_ms", median(samples));
    figures.note("diff_extents", extents as f64);
    drop(handle);
    store.remove_snapshot(&full.at("before")).await?;
    Ok(())
}

/// All small images open at once, and one more snapshot among many.
async fn many(store: &dyn ImageStore, figures: &mut Figures) -> Result<()> {
    let names: Vec<String> = store.images("volumes").await?;
    let names = names.into_iter().filter(|name| name.starts_with("image-"));
    let began = Instant::now();
    let mut open = Vec::new();
    for name in names {
        open.push(store.open(&image(&name), None).await?);
    }
    figures.note("open_images", open.len() as f64);
    figures.note("open_images_ms", ms(began));
    let began = Instant::now();
    let data = Bytes::from(vec![ELIDED_BYTE; BLOCK as usize]);
    let writes = open.iter().map(|handle| handle.write(0, data.clone()));
    stream::iter(writes)
        .buffer_unordered(32)
        .try_collect::<()>()
        .await?;
    figures.note("write_to_each_ms", ms(began));
    let mut snapshots = 0;
    for name in store.images("volumes").await? {
        snapshots += store.info(&image(&name)).await?.snapshots.len();
    }
    figures.note("snapshots", snapshots as f64);
    let one = image("small").at("one-more");
    let began = Instant::now();
    store.create_snapshot(&one).await?;
    figures.note("snapshot_among_all_ms", ms(began));
    store.remove_snapshot(&one).await?;
    Ok(())
}

/// A full image goes away while another one is written to.
async fn delete(store: &EmbeddedStore, figures: &mut Figures) -> Result<()> {
    let small = store.open(&image("small"), None).await?;
    let before = foreground(small.as_ref(), 4000).await?;
    let used = store.capacity("volumes").await?.used_bytes;
    // What others have written is not made durable with it.
    small.flush().await?;
    let began = Instant::now();
    store.remove(&image("full")).await?;
    figures.note("delete_ms", ms(began));
    let (during, settled) = tokio::join!(foreground(small.as_ref(), 4000), async {
        store.settle().await.map(|()| ms(began))
    });
    figures.note("delete_settled_ms", settled?);
    let given_back = used.saturating_sub(store.capacity("volumes").await?.used_bytes);
    figures.note("delete_given_back_gib", given_back as f64 / GIB as f64);
    figures.note("write_p99_before_us", before);
    figures.note("write_p99_during_us", during?);
    Ok(())
}

/// The 99th percentile of writes of 4 KiB, four at a time, in µs.
async fn foreground(handle: &dyn ImageHandle, writes: u64) -> storage::Result<f64> {
    let data = Bytes::from(vec![ELIDED_BYTE; BLOCK as usize]);
    let blocks = handle.size_bytes() / BLOCK;
    let timed = |at: u64| {
        let data = data.clone();
        async move {
            let began = Instant::now();
            handle
                .write(at.wrapping_mul(7_919) % blocks * BLOCK, data)
                .await?;
            Ok::<Duration, storage::Error>(began.elapsed())
        }
    };
    let writes = stream::iter(0..writes).map(timed).buffer_unordered(4);
    let mut times: Vec<Duration> = writes.try_collect().await?;
    times.sort_unstable();
    let p99 = times
        .get(times.len() * 99 / 100)
        .copied()
        .unwrap_or_default();
    Ok(p99.as_secs_f64() * 1e6)
}
