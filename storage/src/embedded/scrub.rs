//! The scrub: reads everything that is in use, in the order in which it lies on the disk, and
//! compares it with its checksums, while the store serves.
//!
//! The checksum of a unit stands in the page above it. So the trees are walked first, for as much
//! of the disk as a table in memory holds, and then that much is read in one go. What was
//! written or let go meanwhile does not match: whatever does not is looked up and read anew, until
//! it is gone from the trees or wrong for certain.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::buffer::{UNIT_BYTES, crc};
use super::format::Unit;
use super::open::EmbeddedStore;
use super::reading::{WRONG, describe};
use super::request::Request;
use super::scan::{Pass, Scan, Scanned, Seen};
use crate::{Error, Result};

/// Units that the table holds: 64 GiB of the disk in 64 MiB of memory.
const TABLE_UNITS: u64 = 16 << 20;
/// Units of one read.
const READ_UNITS: u64 = 256;
/// Space maps that are compared in one go.
const MAPS_AT_ONCE: usize = 16;
/// Times that wrong data is looked up and read anew.
const ROUNDS: usize = 3;
/// Errors that a report lists; the rest is only counted.
const MOST_ERRORS: usize = 1000;

/// How a scrub goes about it.
#[derive(Debug, Clone, Copy, Default)]
pub struct ScrubOptions {
    /// Reads no more than this in a second; `None`: as fast as the disk.
    pub most_bytes_per_second: Option<u64>,
}

/// How far a walk of the store is; both numbers count bytes.
#[derive(Debug, Default)]
pub struct Progress {
    done: AtomicU64,
    all: AtomicU64,
}

impl Progress {
    pub(super) fn begin(&self, all_bytes: u64) {
        self.all.store(all_bytes, Ordering::Relaxed);
    }

    pub(super) fn add(&self, bytes: u64) {
        self.done.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(super) fn set(&self, bytes: u64) {
        self.done.store(bytes, Ordering::Relaxed);
    }

    /// Done, and all.
    pub fn bytes(&self) -> (u64, u64) {
        let all = self.all.load(Ordering::Relaxed);
        (self.done.load(Ordering::Relaxed).min(all), all)
    }
}

/// What a scrub found.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct ScrubReport {
    /// Data and pages that were compared, each once however many images share it.
    pub read_bytes: u64,
    pub error_count: u64,
    /// The first errors, one line each: image, place in it, place on the disk.
    pub errors: Vec<String>,
}

impl ScrubReport {
    pub(super) fn error(&mut self, text: String) {
        self.error_count += 1;
        if self.errors.len() < MOST_ERRORS {
            self.errors.push(text);
        }
    }
}

/// Keeps to a number of bytes a second.
pub(super) struct Pace {
    most_bytes_per_second: Option<u64>,
    began: Instant,
    bytes: u64,
}

impl Pace {
    pub(super) fn new(most_bytes_per_second: Option<u64>) -> Self {
        Pace {
            most_bytes_per_second,
            began: Instant::now(),
            bytes: 0,
        }
    }

    /// Waits as long as so many more bytes should take.
    pub(super) async fn spend(&mut self, bytes: u64) {
        self.bytes += bytes;
        if let Some(most) = self.most_bytes_per_second {
            let due = Duration::from_secs_f64(self.bytes as f64 / most.max(1) as f64);
            tokio::time::sleep(due.saturating_sub(self.began.elapsed())).await;
        }
    }
}

/// The checksums of a part of the disk.
struct Table {
    first: Unit,
    sums: Vec<u32>,
    present: Vec<u64>,
}

impl Table {
    fn new(first: Unit, units: u64) -> Self {
        Table {
            first,
            sums: vec![0; units as usize],
            present: vec![0; units.div_ceil(64) as usize],
        }
    }

    fn put(&mut self, unit: Unit, sum: u32) {
        let Some(index) = unit.checked_sub(self.first).map(|index| index as usize) else {
            return;
        };
        if let Some(place) = self.sums.get_mut(index) {
            *place = sum;
            self.present[index / 64] |= 1 << (index % 64);
        }
    }

    fn has(&self, index: usize) -> bool {
        index < self.sums.len() && self.present[index / 64] & 1 << (index % 64) != 0
    }

    /// The next run of units from `index` on.
    fn run(&self, index: usize) -> Option<(usize, usize)> {
        let start = (index..self.sums.len()).find(|index| self.has(*index))?;
        let most = start + READ_UNITS as usize;
        let end = (start..most)
            .find(|index| !self.has(*index))
            .unwrap_or(most);
        Some((start, end))
    }
}

/// Where wrong data belongs, as the trees say now.
struct Suspect {
    sum: u32,
    place: String,
}

impl EmbeddedStore {
    /// Heads and snapshots of all images, hidden ones too, and how to call them.
    pub(super) fn all_trees(&self) -> Result<Vec<(u64, Option<u64>)>> {
        self.shared.with(|shard| {
            shard.check_running()?;
            let mut trees = Vec::new();
            for (id, image) in &shard.state.catalogue.images {
                trees.push((*id, None));
                trees.extend(image.snapshots.keys().map(|number| (*id, Some(*number))));
            }
            trees.sort_unstable();
            Ok(trees)
        })?
    }

    /// Looks at a whole tree. An image that is gone is passed over.
    pub(super) async fn scan(
        &self,
        (image, snapshot): (u64, Option<u64>),
        pass: &Pass,
        mut found: impl FnMut(Scanned),
    ) -> Result<()> {
        let mut block = 0;
        loop {
            let scanned = self.scan_some((image, snapshot), block, pass).await;
            let scanned = match scanned {
                Err(Error::NotFound(_)) => return Ok(()),
                other => other?,
            };
            let next = scanned.next;
            found(scanned);
            match next {
                None => return Ok(()),
                Some(next) => block = next,
            }
        }
    }

    pub(super) async fn scan_some(
        &self,
        (image, snapshot): (u64, Option<u64>),
        block: u64,
        pass: &Pass,
    ) -> Result<Scanned> {
        let request = |reply| {
            Request::Scan(Scan {
                image,
                snapshot,
                block,
                pass: pass.clone(),
                found: Scanned::default(),
                reply,
            })
        };
        self.shared.ask(request).await
    }

    fn shown(&self, image: u64, snapshot: Option<u64>) -> Result<String> {
        let show =
            |shard: &mut super::shard::Shard| shard.state.catalogue.shown_name(image, snapshot);
        self.shared.with(show)
    }

    /// Reads everything that is in use in the order of the disk, and compares all checksums.
    /// Other calls go on meanwhile; what they write may be left out.
    pub async fn scrub(
        &self,
        options: ScrubOptions,
        progress: Arc<Progress>,
    ) -> Result<ScrubReport> {
        let used_bytes = crate::ImageStore::capacity(self, "").await?.used_bytes;
        progress.begin(used_bytes);
        let mut report = ScrubReport::default();
        let mut pace = Pace::new(options.most_bytes_per_second);
        self.scrub_files(&mut report, &mut pace).await?;
        let mut known = HashSet::new();
        let mut first = 0;
        loop {
            let total = self.shared.with(|shard| shard.state.trees.space.total())?;
            if first >= total {
                return Ok(report);
            }
            let mut table = Table::new(first, TABLE_UNITS.min(total - first));
            self.fill_table(&mut table, &mut known, &mut report).await?;
            let suspects = self
                .read_table(&table, &mut report, &mut pace, &progress)
                .await?;
            self.confirm(suspects, &mut report).await?;
            first += TABLE_UNITS;
        }
    }

    /// The superblock, the checkpoint file and the space maps.
    async fn scrub_files(&self, report: &mut ScrubReport, pace: &mut Pace) -> Result<()> {
        let mut first = 0;
        loop {
            let shared = Arc::clone(&self.shared);
            let compare = move || {
                shared.with(|shard| {
                    shard.check_running()?;
                    // A checkpoint is writing them.
                    if shard.checkpoint.is_running() {
                        return Ok(None);
                    }
                    let mut wrong = Vec::new();
                    if first == 0 {
                        wrong.append(&mut shard.mended);
                        wrong.extend(shard.wrong_in_files());
                    }
                    let end = first + MAPS_AT_ONCE;
                    wrong.extend(shard.wrong_maps(first..end));
                    let more = end < shard.state.trees.space.maps.len();
                    Ok(Some((wrong, more)))
                })?
            };
            let compared = tokio::task::spawn_blocking(compare).await;
            let compared: Result<Option<(Vec<String>, bool)>> = compared
                .unwrap_or_else(|error| Err(Error::Unavailable(format!("a call failed: {error}"))));
            let Some((wrong, more)) = compared? else {
                tokio::time::sleep(Duration::from_millis(5)).await;
                continue;
            };
            wrong.into_iter().for_each(|text| report.error(text));
            pace.spend((MAPS_AT_ONCE * UNIT_BYTES) as u64).await;
            if !more {
                return Ok(());
            }
            first += MAPS_AT_ONCE;
        }
    }

    async fn fill_table(
        &self,
        table: &mut Table,
        known: &mut HashSet<Unit>,
        report: &mut ScrubReport,
    ) -> Result<()> {
        let pass = Pass::Seen(Arc::new(Mutex::new(Seen::default())));
        for tree in self.all_trees()? {
            let mut damaged = Vec::new();
            self.scan(tree, &pass, |found| {
                for entry in &found.entries {
                    table.put(entry.unit, entry.crc);
                }
                for (unit, sum, _) in &found.pages {
                    table.put(*unit, *sum);
                }
                damaged.extend(found.damaged);
            })
            .await?;
            for (unit, block, why) in damaged {
                if known.insert(unit) {
                    let name = self.shown(tree.0, tree.1)?;
                    report.error(place(&name, block, unit, &why));
                }
            }
        }
        Ok(())
    }

    /// Answers the units that are not as the table says.
    async fn read_table(
        &self,
        table: &Table,
        report: &mut ScrubReport,
        pace: &mut Pace,
        progress: &Progress,
    ) -> Result<HashSet<Unit>> {
        let mut wrong = HashSet::new();
        let mut index = 0;
        while let Some((start, end)) = table.run(index) {
            let count = (end - start) as u64;
            let unit = table.first + start as u64;
            match self.read_run(unit, count).await? {
                Some(bytes) => {
                    let found = bytes.chunks(UNIT_BYTES).zip(&table.sums[start..end]);
                    let found = found
                        .enumerate()
                        .filter(|(_, (bytes, sum))| crc(bytes) != **sum);
                    wrong.extend(found.map(|(at, _)| unit + at as u64));
                }
                // Which of them it is turns out when each is read alone.
                None => wrong.extend(unit..unit + count),
            }
            report.read_bytes += count * UNIT_BYTES as u64;
            progress.add(count * UNIT_BYTES as u64);
            pace.spend(count * UNIT_BYTES as u64).await;
            index = end;
        }
        Ok(wrong)
    }

    /// `None`: the disk cannot read it.
    async fn read_run(&self, unit: Unit, count: u64) -> Result<Option<bytes::BytesMut>> {
        let request = |reply| Request::Units { unit, count, reply };
        match self.shared.ask(request).await {
            Ok(blocks) => Ok(Some(blocks.data)),
            Err(Error::Corrupt { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Reports what is still in use, and still wrong.
    async fn confirm(&self, mut wrong: HashSet<Unit>, report: &mut ScrubReport) -> Result<()> {
        for round in 1..=ROUNDS {
            if wrong.is_empty() {
                return Ok(());
            }
            let suspects = self.look_up(&wrong).await?;
            wrong.clear();
            let mut places: Vec<(Unit, Suspect)> = suspects.into_iter().collect();
            places.sort_unstable_by_key(|(unit, _)| *unit);
            for (unit, suspect) in places {
                let bytes = self.read_run(unit, 1).await?;
                if bytes.as_deref().map(crc) == Some(suspect.sum) {
                    continue;
                }
                wrong.insert(unit);
                if round == ROUNDS {
                    report.error(suspect.place);
                }
            }
        }
        Ok(())
    }

    async fn look_up(&self, wrong: &HashSet<Unit>) -> Result<HashMap<Unit, Suspect>> {
        let mut suspects = HashMap::new();
        let pass = Pass::Seen(Arc::new(Mutex::new(Seen::default())));
        for tree in self.all_trees()? {
            let mut found = Vec::new();
            self.scan(tree, &pass, |scanned| {
                let entries = scanned.entries.iter();
                let entries = entries.map(|entry| (entry.unit, entry.crc, entry.block, WRONG));
                let pages = scanned.pages.iter();
                let pages = pages.map(|(unit, sum, block)| (*unit, *sum, *block, WRONG_PAGE));
                let all = entries.chain(pages);
                found.extend(all.filter(|(unit, ..)| wrong.contains(unit)));
            })
            .await?;
            if found.is_empty() {
                continue;
            }
            let name = self.shown(tree.0, tree.1)?;
            for (unit, sum, block, why) in found {
                let place = place(&name, block, unit, why);
                suspects.entry(unit).or_insert(Suspect { sum, place });
            }
        }
        Ok(suspects)
    }
}

const WRONG_PAGE: &str = "the checksum of a page of its map is wrong";

fn place(name: &str, block: u64, unit: Unit, why: &str) -> String {
    let offset = block * UNIT_BYTES as u64;
    format!("{name} at byte {offset}: {}", describe(unit, why))
}
