//! `basalt store`: what a store keeps, and whether it is sound.
//!
//! `du`, `scrub` and `defragment` work beside a server, which carries them out itself; without one
//! they open the store. `check` needs the store to itself.

use std::io::{Write, stdout};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use serde_json::{Value, json};
use storage::embedded::{
    CheckOptions, DefragmentReport, EmbeddedOptions, EmbeddedStore, Progress, ScrubReport, Usage,
};
use storage::{ImageSpec, ImageStore};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;

use super::progress::ProgressBar;
use super::table;
use crate::data_dir::DataDir;
use crate::error::{Error, Result};
use crate::serve::control::{Line, SOCKET};
use crate::store_calls::{Answer, Call, StoreUsage};

const PROGRESS_INTERVAL: Duration = Duration::from_millis(200);

/// Which store.
#[derive(Debug, Clone)]
pub struct Place {
    pub data_dir: PathBuf,
    /// Its folder, in the data folder or anywhere.
    pub folder: PathBuf,
}

/// Prints every image and snapshot with its size, what it maps, and what it has alone.
pub async fn du(place: &Place, as_json: bool) -> Result<()> {
    let Answer::Du(usage) = call(place, Call::Du, "").await? else {
        return Err(strange_answer());
    };
    if as_json {
        writeln!(stdout(), "{:#}", usage_json(&usage))?;
        return Ok(());
    }
    print_usage(&usage)
}

/// Reads everything in the order of the disk, and compares it with its checksums.
///
/// Errors: `Damaged` after printing what is wrong.
pub async fn scrub(place: &Place, most_mib_per_second: u64) -> Result<()> {
    let scrub = Call::Scrub {
        most_mib_per_second,
    };
    let Answer::Scrub(report) = call(place, scrub, "compared").await? else {
        return Err(strange_answer());
    };
    let ScrubReport {
        read_bytes,
        error_count,
        errors,
    } = report;
    let mut output = stdout().lock();
    for error in &errors {
        writeln!(output, "{error}")?;
    }
    let read = shown_bytes(read_bytes);
    writeln!(output, "{read} compared, {error_count} errors")?;
    damaged(error_count)
}

/// Puts the data of an image in order.
pub async fn defragment(place: &Place, image: &str, most_mib_per_second: u64) -> Result<()> {
    let (pool, name) = image.rsplit_once('/').ok_or_else(|| {
        Error::Usage(format!(
            "{image}: name the image with its pool, as POOL/IMAGE"
        ))
    })?;
    let defragment = Call::Defragment {
        image: ImageSpec::new(pool, name),
        most_mib_per_second,
    };
    let Answer::Defragment(report) = call(place, defragment, "looked at").await? else {
        return Err(strange_answer());
    };
    let DefragmentReport {
        own_bytes,
        runs,
        moved_bytes,
        damaged_pieces,
    } = report;
    writeln!(
        stdout(),
        "{} of its own lay in {runs} runs; {} moved",
        shown_bytes(own_bytes),
        shown_bytes(moved_bytes)
    )?;
    damaged(damaged_pieces)
}

/// Walks the whole store, with `data` every block of it, and compares counts and checksums.
///
/// Errors: `Damaged` after printing what is wrong; `DataInUse` beside a server.
pub async fn check(place: &Place, data: bool, most_mib_per_second: u64) -> Result<()> {
    let most = (most_mib_per_second > 0).then(|| most_mib_per_second.saturating_mul(1 << 20));
    let options = CheckOptions {
        data,
        most_bytes_per_second: most,
    };
    let opened = Opened::open(place).await?;
    // So that what was removed just before the last stop does not count.
    opened.store.settle().await?;
    let checked_bytes = Arc::new(AtomicU64::new(0));
    let all_bytes = opened.store.capacity("").await?.used_bytes;
    let mut bar = ProgressBar::new("checked");
    let report = {
        let mut check = std::pin::pin!(opened.store.check(options, checked_bytes.clone()));
        let mut ticks = tokio::time::interval(PROGRESS_INTERVAL);
        loop {
            tokio::select! {
                report = &mut check => break report?,
                _ = ticks.tick() => bar.show(checked_bytes.load(Relaxed), all_bytes),
            }
        }
    };
    drop(bar);
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
    damaged(report.error_count)
}

pub(super) fn damaged(places: u64) -> Result<()> {
    match places {
        0 => Ok(()),
        places => Err(Error::Damaged { places }),
    }
}

fn strange_answer() -> Error {
    Error::Start("the server gave an answer to another call".to_owned())
}

/// Carries out a call: in the server that uses the store, or here.
async fn call(place: &Place, call: Call, verb: &'static str) -> Result<Answer> {
    let opened = match Opened::open(place).await {
        Err(Error::DataInUse { path }) => {
            let socket = path.join(&place.folder).join(SOCKET);
            return call_server(&socket, &call, verb).await;
        }
        opened => opened?,
    };
    let progress = Arc::new(Progress::default());
    let mut bar = ProgressBar::new(verb);
    let answer = {
        let mut calling = std::pin::pin!(call.carry_out(&opened.store, Arc::clone(&progress)));
        let mut ticks = tokio::time::interval(PROGRESS_INTERVAL);
        loop {
            tokio::select! {
                answer = &mut calling => break answer,
                _ = ticks.tick() => {
                    let (done, all) = progress.bytes();
                    bar.show(done, all);
                }
            }
        }
    };
    drop(bar);
    opened.close().await?;
    Ok(answer?)
}

async fn call_server(socket: &Path, call: &Call, verb: &'static str) -> Result<Answer> {
    let unreachable = |error: std::io::Error| {
        let path = socket.display();
        Error::Start(format!(
            "a basalt process uses the store, and cannot be reached at {path}: {error}"
        ))
    };
    let stream = UnixStream::connect(socket).await.map_err(unreachable)?;
    let (reading, mut writing) = stream.into_split();
    let mut line = serde_json::to_vec(call).map_err(|error| Error::Start(error.to_string()))?;
    line.push(b'\n');
    writing.write_all(&line).await.map_err(unreachable)?;
    let mut lines = BufReader::new(reading).lines();
    let mut bar = ProgressBar::new(verb);
    while let Some(line) = lines.next_line().await.map_err(unreachable)? {
        match serde_json::from_str(&line) {
            Ok(Line::Progress {
                done_bytes,
                all_bytes,
            }) => bar.show(done_bytes, all_bytes),
            Ok(Line::Done(answer)) => return Ok(answer),
            Ok(Line::Failed(why)) => return Err(Error::Start(why)),
            Err(error) => return Err(Error::Start(format!("the server's answer: {error}"))),
        }
    }
    Err(Error::Start(
        "the server ended before it was done".to_owned(),
    ))
}

/// The store and the lock of its data folder.
struct Opened {
    store: Arc<EmbeddedStore>,
    _data_dir: DataDir,
}

impl Opened {
    async fn open(place: &Place) -> Result<Self> {
        let folder = place.folder.to_string_lossy();
        DataDir::existing(&place.data_dir, &folder)?;
        let data_dir = DataDir::open(&place.data_dir)?;
        let folder = data_dir.join(&folder);
        let open = move || EmbeddedStore::open(&folder, EmbeddedOptions::default());
        let store = tokio::task::spawn_blocking(open).await;
        let store = store.map_err(|error| Error::Start(error.to_string()))??;
        Ok(Opened {
            store,
            _data_dir: data_dir,
        })
    }

    async fn close(self) -> Result<()> {
        Ok(self.store.close().await?)
    }
}

/// The images, each with its snapshots.
pub(super) fn usage_json(usage: &StoreUsage) -> Value {
    let numbers = |usage: &Usage| {
        json!({
            "size_bytes": usage.size_bytes, "used_bytes": usage.used_bytes,
            "exclusive_bytes": usage.exclusive_bytes, "shared_bytes": usage.shared_bytes(),
        })
    };
    let mut images = Vec::new();
    let mut snapshots = Vec::new();
    for each in &usage.usage {
        let mut row = numbers(each);
        match &each.snapshot {
            Some(name) => {
                row["name"] = json!(name);
                snapshots.push(row);
            }
            None => {
                row["pool"] = json!(each.image.pool);
                row["image"] = json!(each.image.image);
                row["parent"] = json!(each.parent.as_ref().map(ToString::to_string));
                row["snapshots"] = json!(std::mem::take(&mut snapshots));
                images.push(row);
            }
        }
    }
    json!({
        "fsid": usage.fsid, "total_bytes": usage.total_bytes, "free_bytes": usage.free_bytes,
        "used_bytes": usage.used_bytes, "images": images,
    })
}

pub(super) fn print_usage(usage: &StoreUsage) -> Result<()> {
    let row = |usage: &Usage| {
        let name = match &usage.snapshot {
            Some(snapshot) => usage.image.at(snapshot).to_string(),
            None => usage.image.to_string(),
        };
        [
            name,
            shown_bytes(usage.size_bytes),
            shown_bytes(usage.used_bytes),
            shown_bytes(usage.exclusive_bytes),
            shown_bytes(usage.shared_bytes()),
            usage
                .parent
                .as_ref()
                .map(ToString::to_string)
                .unwrap_or_default(),
        ]
    };
    let rows: Vec<_> = usage.usage.iter().map(row).collect();
    let mut output = stdout().lock();
    table::print(
        &mut output,
        ["NAME", "SIZE", "USED", "EXCLUSIVE", "SHARED", "CLONE OF"],
        &rows,
    )?;
    let heads = usage.usage.iter().filter(|usage| usage.snapshot.is_none());
    writeln!(
        output,
        "{} images, {} used, {} free of {}",
        heads.count(),
        shown_bytes(usage.used_bytes),
        shown_bytes(usage.free_bytes),
        shown_bytes(usage.total_bytes)
    )?;
    Ok(())
}

/// `512 B`, `1.5 GiB`.
pub fn shown_bytes(bytes: u64) -> String {
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
