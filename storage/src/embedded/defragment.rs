//! Defragmentation: what lies in many places is written again in one, so that reading in order is
//! reading in a row.
//!
//! A piece that is moved is a write of the same data: it goes through the log, its blocks are locked
//! between the read and the write, and a crash at any point leaves either place. Only blocks that the
//! image has for itself are moved: what snapshots and clones share stays where it is, or it would
//! be there twice.

use std::sync::Arc;

use super::buffer::UNIT_BYTES;
use super::format::node::FANOUT;
use super::open::EmbeddedStore;
use super::request::{Content, Patch, Request};
use super::scan::{Entry, Pass};
use super::scrub::{Pace, Progress};
use crate::{Error, ImageSpec, Result};

/// Pieces of fewer blocks are left alone.
const LEAST_BLOCKS: u64 = 16;
/// A piece is moved when its runs are shorter than this on average.
const WANTED_RUN_BLOCKS: u64 = 64;

/// How a defragmentation goes about it.
#[derive(Debug, Clone, Copy, Default)]
pub struct DefragmentOptions {
    /// Moves no more than this in a second; `None`: as fast as the disk.
    pub most_bytes_per_second: Option<u64>,
}

/// What a defragmentation did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct DefragmentReport {
    /// Data of the image that nothing else shares.
    pub own_bytes: u64,
    /// Runs in which it lay.
    pub runs: u64,
    pub moved_bytes: u64,
    /// Pieces that could not be read.
    pub damaged_pieces: u64,
}

/// Blocks in a row, in one leaf, that are the image's alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct OwnPiece {
    block: u64,
    count: u64,
    runs: u64,
    last_unit: u64,
}

impl OwnPiece {
    fn is_scattered(&self) -> bool {
        self.count >= LEAST_BLOCKS && self.runs > self.count.div_ceil(WANTED_RUN_BLOCKS)
    }
}

fn own_pieces(entries: &[Entry]) -> Vec<OwnPiece> {
    let mut pieces: Vec<OwnPiece> = Vec::new();
    for entry in entries.iter().filter(|entry| entry.alone) {
        let same_leaf = !entry.block.is_multiple_of(FANOUT as u64);
        match pieces.last_mut() {
            Some(last) if same_leaf && last.block + last.count == entry.block => {
                last.count += 1;
                last.runs += u64::from(last.last_unit + 1 != entry.unit);
                last.last_unit = entry.unit;
            }
            _ => pieces.push(OwnPiece {
                block: entry.block,
                count: 1,
                runs: 1,
                last_unit: entry.unit,
            }),
        }
    }
    pieces
}

impl EmbeddedStore {
    /// Puts the scattered data of an image's head in order, while the store serves. Its snapshots
    /// stay as they are.
    ///
    /// Errors: `NotFound`; `OutOfSpace`: there is no room to move data to.
    pub async fn defragment(
        &self,
        image: &ImageSpec,
        options: DefragmentOptions,
        progress: Arc<Progress>,
    ) -> Result<DefragmentReport> {
        let (id, size_bytes) = self.shared.with(|shard| {
            shard.check_running()?;
            let id = shard.state.catalogue.id(image)?;
            Ok((id, shard.state.catalogue.image(id)?.size_bytes))
        })??;
        progress.begin(size_bytes);
        let mut pace = Pace::new(options.most_bytes_per_second);
        let mut report = DefragmentReport::default();
        let mut next = Some(0);
        while let Some(block) = next {
            let found = self.scan_some((id, None), block, &Pass::Shared).await?;
            for piece in own_pieces(&found.entries) {
                report.own_bytes += piece.count * UNIT_BYTES as u64;
                report.runs += piece.runs;
                if piece.is_scattered() {
                    self.write_again(id, piece, &mut report).await?;
                    pace.spend(piece.count * UNIT_BYTES as u64).await;
                }
            }
            next = found.next;
            progress.set(next.map_or(size_bytes, |block| block * UNIT_BYTES as u64));
        }
        Ok(report)
    }

    async fn write_again(
        &self,
        image: u64,
        piece: OwnPiece,
        report: &mut DefragmentReport,
    ) -> Result<()> {
        let bytes = piece.count * UNIT_BYTES as u64;
        let request = |reply| {
            Request::Patch(Patch {
                image,
                offset: piece.block * UNIT_BYTES as u64,
                content: Content::Same(bytes),
                then: None,
                reply: Some(reply),
                durable: false,
            })
        };
        match self.shared.ask(request).await {
            Ok(()) => report.moved_bytes += bytes,
            Err(Error::Corrupt { .. }) => report.damaged_pieces += 1,
            Err(error) => return Err(error),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_blocks_in_a_row_of_one_leaf() {
        let entry = |block, unit, alone| Entry {
            block,
            unit,
            crc: 0,
            alone,
        };
        let mut entries: Vec<Entry> = (0..40).map(|at| entry(230 + at, 500 + at, true)).collect();
        entries[3].unit = 9;
        entries[38].alone = false;
        let pieces = own_pieces(&entries);
        let shown: Vec<_> = pieces.iter().map(|p| (p.block, p.count, p.runs)).collect();
        assert_eq!(shown, [(230, 26, 3), (256, 12, 1), (269, 1, 1)]);
        assert!(pieces[0].is_scattered() && !pieces[1].is_scattered());
    }
}
