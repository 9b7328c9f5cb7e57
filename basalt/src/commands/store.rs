//! `basalt store`: what the store keeps, and whether it is sound. Both need it to themselves.

use std::io::{IsTerminal, Write, stderr, stdout};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use serde_json::{Value, json};
use storage::embedded::{CheckOptions, EmbeddedOptions, EmbeddedStore};
use storage::{Capacity, ImageInfo, ImageSpec, ImageStore};

use super::table;
use crate::data_dir::DataDir;
use crate::error::{Error, Result};

const PROGRESS_INTERVAL: Duration = Duration::from_millis(200);

/// Prints every image with its size, what it alone keeps, its parent and its snapshots.
pub async fn du(data_dir: &Path, as_json: bool) -> Result<()> {
    let opened = Opened::open(data_dir).await?;
    let store = opened.store.as_ref();
    let capacity = store.capacity("").await?;
    let mut images = Vec::new();
    for pool in store.pools().await? {
        for image in store.images(&pool).await? {
            let spec = ImageSpec::new(pool.as_str(), image);
            let used_bytes = store.used_bytes(&spec).await?;
            images.push((store.info(&spec).await?, used_bytes, spec));
        }
    }
    if as_json {
        writeln!(
            stdout(),
            "{:#}",
            usage_json(store.fsid(), capacity, &images)
        )?;
    } else {
        print_usage(capacity, &images)?;
    }
    opened.close().await
}

/// Walks the whole store, with `data` every block of it, and compares counts and checksums.
///
/// Errors: `Damaged` after printing what is wrong.
pub async fn check(data_dir: &Path, data: bool, most_bytes_per_second: Option<u64>) -> Result<()> {
    let options = CheckOptions {
        data,
        most_bytes_per_second,
    };
    let opened = Opened::open(data_dir).await?;
    let checked_bytes = Arc::new(AtomicU64::new(0));
    let all_bytes = opened.store.capacity("").await?.used_bytes;
    let report = {
        let mut check = std::pin::pin!(opened.store.check(options, checked_bytes.clone()));
        let mut progress = tokio::time::interval(PROGRESS_INTERVAL);
        loop {
            tokio::select! {
                report = &mut check => break report?,
                _ = progress.tick() => show_progress(checked_bytes.load(Relaxed), all_bytes),
            }
        }
    };
    hide_progress();
    let mut output = stdout().lock();
    for error in &report.errors {
        writeln!(output, "{error}")?;
    }
    writeln!(
        output,
        "{} images, {} snapshots, {} of data, {} errors",
        report.images,
        report.snapshots,
        shown_bytes(report.used_bytes),
        report.error_count
    )?;
    drop(output);
    opened.close().await?;
    match report.error_count {
        0 => Ok(()),
        places => Err(Error::Damaged { places }),
    }
}

/// The store and the lock of its data folder.
struct Opened {
    store: Arc<EmbeddedStore>,
    _data_dir: DataDir,
}

impl Opened {
    async fn open(data_dir: &Path) -> Result<Self> {
        DataDir::existing(data_dir, "store")?;
        let data_dir = DataDir::open(data_dir)?;
        let folder = data_dir.join("store");
        let open = move || EmbeddedStore::open(&folder, EmbeddedOptions::default());
        let store = tokio::task::spawn_blocking(open).await;
        let store = store.map_err(|error| Error::Start(error.to_string()))??;
        // So that what was removed just before the last stop does not count.
        store.settle().await?;
        Ok(Opened {
            store,
            _data_dir: data_dir,
        })
    }

    async fn close(self) -> Result<()> {
        Ok(self.store.close().await?)
    }
}

fn usage_json(fsid: &str, capacity: Capacity, images: &[(ImageInfo, u64, ImageSpec)]) -> Value {
    let images = images.iter().map(|(info, used_bytes, spec)| {
        let snapshots: Vec<_> = info
            .snapshots
            .iter()
            .map(|snapshot| &snapshot.name)
            .collect();
        json!({
            "pool": spec.pool, "image": spec.image, "size_bytes": info.size_bytes,
            "used_bytes": used_bytes, "snapshots": snapshots,
            "parent": info.parent.as_ref().map(ToString::to_string),
        })
    });
    json!({
        "fsid": fsid, "total_bytes": capacity.total_bytes, "free_bytes": capacity.free_bytes,
        "used_bytes": capacity.used_bytes, "images": images.collect::<Vec<_>>(),
    })
}

fn print_usage(capacity: Capacity, images: &[(ImageInfo, u64, ImageSpec)]) -> Result<()> {
    let row = |(info, used_bytes, spec): &(ImageInfo, u64, ImageSpec)| {
        [
            spec.to_string(),
            shown_bytes(info.size_bytes),
            shown_bytes(*used_bytes),
            info.snapshots.len().to_string(),
            info.parent
                .as_ref()
                .map(ToString::to_string)
                .unwrap_or_default(),
        ]
    };
    let rows: Vec<_> = images.iter().map(row).collect();
    let mut output = stdout().lock();
    table::print(
        &mut output,
        ["IMAGE", "SIZE", "USED ALONE", "SNAPSHOTS", "CLONE OF"],
        &rows,
    )?;
    writeln!(
        output,
        "{} images, {} used, {} free of {}",
        images.len(),
        shown_bytes(capacity.used_bytes),
        shown_bytes(capacity.free_bytes),
        shown_bytes(capacity.total_bytes)
    )?;
    Ok(())
}

fn show_progress(bytes: u64, all_bytes: u64) {
    if stderr().is_terminal() {
        let percent = bytes
            .saturating_mul(100)
            .checked_div(all_bytes)
            .unwrap_or(100);
        let (bytes, all_bytes) = (shown_bytes(bytes), shown_bytes(all_bytes));
        eprint!("\r\x1b[Kchecked {bytes} of {all_bytes} ({percent}%)");
    }
}

fn hide_progress() {
    if stderr().is_terminal() {
        eprint!("\r\x1b[K");
    }
}

/// `512 B`, `1.5 GiB`.
fn shown_bytes(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut rest = bytes;
    let mut unit = "KiB";
    for name in UNITS {
        unit = name;
        if rest < 1024 * 1024 {
            break;
        }
        rest /= 1024;
    }
    format!("{}.{} {unit}", rest / 1024, rest % 1024 * 10 / 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_short() {
        for (bytes, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (1536 << 20, "1.5 GiB"),
            ((1 << 30) - 1, "1023.9 MiB"),
            (u64::MAX, "15.9 EiB"),
        ] {
            assert_eq!(shown_bytes(bytes), text);
        }
    }
}
