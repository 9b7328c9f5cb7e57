//! Times the calls of an embedded store that touch no data, without a service around them:
//! snapshot, clone, flatten, diff, export of a diff, delete. Prints one JSON object.
//!
//! `cargo run --release -p storage --example store_calls -- FOLDER IMAGE ROUNDS EXPORT_FILE`
//!
//! FOLDER is that of a stopped store, IMAGE is `pool/image@snapshot`: what was written behind the
//! snapshot is the diff.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use futures_util::StreamExt;
use storage::embedded::{EmbeddedOptions, EmbeddedStore};
use storage::{Change, ImageSpec, ImageStore, diff_stream};
use tokio::io::AsyncWriteExt;

const DIFF_PAGE: usize = 4096;
const WRITE_BYTES: usize = 1 << 20;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

struct Figures(serde_json::Map<String, serde_json::Value>);

impl Figures {
    fn note(&mut self, name: &str, value: f64) {
        self.0.insert(name.to_owned(), value.into());
    }

    fn median_ms(&mut self, name: &str, mut samples: Vec<f64>) {
        samples.sort_by(f64::total_cmp);
        let median = samples.get(samples.len() / 2).copied();
        self.note(name, median.unwrap_or_default());
    }
}

#[tokio::main]
async fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [folder, image, rounds, export] = arguments.as_slice() else {
        return Err("usage: store_calls FOLDER POOL/IMAGE@SNAPSHOT ROUNDS EXPORT_FILE".into());
    };
    let (folder, export) = (PathBuf::from(folder), PathBuf::from(export));
    let (pool, rest) = image.split_once('/').ok_or("no pool")?;
    let (image, snapshot) = rest.split_once('@').ok_or("no snapshot")?;
    let image = ImageSpec::new(pool, image);
    let rounds: usize = rounds.parse()?;

    let mut figures = Figures(serde_json::Map::new());
    let began = Instant::now();
    let store = tokio::task::spawn_blocking(move || {
        EmbeddedStore::open(&folder, EmbeddedOptions::default())
    })
    .await??;
    figures.note("open_ms", ms(began));
    clones(store.as_ref(), &image, rounds, &mut figures).await?;
    diffs(store.as_ref(), &image, snapshot, rounds, &mut figures).await?;
    exports(
        Arc::clone(&store) as _,
        &image,
        snapshot,
        &export,
        rounds,
        &mut figures,
    )
    .await?;
    store.close().await?;
    println!("{}", serde_json::Value::Object(figures.0));
    Ok(())
}

fn ms(began: Instant) -> f64 {
    began.elapsed().as_secs_f64() * 1000.0
}

/// Snapshot, clone and flatten, and the way back.
async fn clones(
    store: &dyn ImageStore,
    image: &ImageSpec,
    rounds: usize,
    figures: &mut Figures,
) -> Result<()> {
    let names = [
        "snapshot_ms",
        "clone_ms",
        "flatten_ms",
        "remove_clone_ms",
        "remove_snapshot_ms",
    ];
    let mut samples: [Vec<f64>; 5] = Default::default();
    let [made, cloned, flattened, removed, gone] = &mut samples;
    for round in 0..rounds {
        let snapshot = image.at(format!("bench-{round}"));
        let clone = ImageSpec::new(image.pool.as_str(), format!("bench-clone-{round}"));
        timed(made, store.create_snapshot(&snapshot)).await?;
        store.protect_snapshot(&snapshot).await?;
        timed(cloned, store.clone_image(&snapshot, &clone)).await?;
        timed(flattened, store.flatten(&clone)).await?;
        timed(removed, store.remove(&clone)).await?;
        store.unprotect_snapshot(&snapshot).await?;
        timed(gone, store.remove_snapshot(&snapshot)).await?;
    }
    for (name, samples) in names.into_iter().zip(samples) {
        figures.median_ms(name, samples);
    }
    Ok(())
}

async fn timed(
    samples: &mut Vec<f64>,
    call: impl Future<Output = storage::Result<()>>,
) -> storage::Result<()> {
    let began = Instant::now();
    call.await?;
    samples.push(ms(began));
    Ok(())
}

/// What changed since the snapshot, all pages of it.
async fn diffs(
    store: &dyn ImageStore,
    image: &ImageSpec,
    snapshot: &str,
    rounds: usize,
    figures: &mut Figures,
) -> Result<()> {
    let change = Change {
        from: Some(snapshot),
        to: None,
    };
    let mut samples = Vec::new();
    let (mut extents, mut bytes) = (0, 0);
    for _ in 0..rounds {
        (extents, bytes) = (0, 0);
        let began = Instant::now();
        let mut position = 0;
        loop {
            let page = store.diff(image, change, position, DIFF_PAGE).await?;
            let Some(last) = page.last() else { break };
            position = last.offset + last.length;
            extents += page.len();
            bytes += page.iter().map(|extent| extent.length).sum::<u64>();
        }
        samples.push(ms(began));
    }
    figures.median_ms("diff_ms", samples);
    figures.note("diff_extents", extents as f64);
    figures.note("diff_bytes", bytes as f64);
    Ok(())
}

/// The diff as a stream in a file, synced.
async fn exports(
    store: Arc<dyn ImageStore>,
    image: &ImageSpec,
    snapshot: &str,
    file: &Path,
    rounds: usize,
    figures: &mut Figures,
) -> Result<()> {
    let change = Change {
        from: Some(snapshot),
        to: None,
    };
    let mut samples = Vec::new();
    for _ in 0..rounds {
        let began = Instant::now();
        let file = tokio::fs::File::create(file).await?;
        let mut file = tokio::io::BufWriter::with_capacity(WRITE_BYTES, file);
        let mut stream = diff_stream::export(&store, image, change);
        while let Some(piece) = stream.next().await {
            file.write_all(&piece?).await?;
        }
        file.flush().await?;
        file.get_ref().sync_data().await?;
        samples.push(ms(began));
    }
    figures.median_ms("export_ms", samples);
    Ok(())
}
