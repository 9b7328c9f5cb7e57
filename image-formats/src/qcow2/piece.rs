//! One piece of the virtual disk: which source ranges it needs, and putting it together.

use bytes::Bytes;

use super::decompress::Decompressor;
use super::header::Compression;
use super::mapping::{Mapping, Run, past_end};
use crate::{ByteSource, Error, Result};

/// Reading a gap of this size costs less than another request.
const MAX_GAP_BYTES: u64 = 64 * 1024;
/// The most that one read of the source asks for, unless one run needs more.
const MAX_READ_BYTES: u64 = 8 * 1024 * 1024;

/// A range of the file, read at once, and the runs that it holds.
struct Group {
    start: u64,
    end: u64,
    runs: Vec<Run>,
}

/// Reads `runs`, which are adjacent on the virtual disk, none of them zero, and puts them together.
pub(super) async fn read_piece<S: ByteSource>(
    source: &S,
    runs: Vec<Run>,
    cluster_size: usize,
    compression: Compression,
) -> Result<Bytes> {
    let Some(first_offset) = runs.first().map(|run| run.offset) else {
        return Ok(Bytes::new());
    };
    let length = piece_length(runs.iter().map(|run| run.length).sum())?;
    let groups = group(runs, source.len())?;
    if let [Group { start, end, runs }] = groups.as_slice()
        && end - start == length as u64
        && runs
            .iter()
            .all(|run| matches!(run.mapping, Mapping::Plain { .. }))
    {
        // One plain range of the file: no copy.
        return read_exactly(source, *start, *end).await;
    }
    let mut loaded = Vec::with_capacity(groups.len());
    for group in groups {
        let data = read_exactly(source, group.start, group.end).await?;
        loaded.push((group, data));
    }
    let assembly = Assembly {
        first_offset,
        length,
        cluster_size,
        compression,
    };
    // Inflating megabytes would hold up the runtime.
    let assembled = tokio::task::spawn_blocking(move || assembly.assemble(&loaded));
    assembled
        .await
        .map_err(|error| Error::Source(std::io::Error::other(error)))?
}

async fn read_exactly<S: ByteSource>(source: &S, start: u64, end: u64) -> Result<Bytes> {
    let length = piece_length(end - start)?;
    let data = source.read_at(start, length).await?;
    if data.len() != length {
        return Err(Error::Source(std::io::ErrorKind::UnexpectedEof.into()));
    }
    Ok(data)
}

fn piece_length(length: u64) -> Result<usize> {
    usize::try_from(length).map_err(|_| Error::corrupt("a piece is too long"))
}

/// Puts runs together whose places in the file follow each other closely.
fn group(runs: Vec<Run>, file_length: u64) -> Result<Vec<Group>> {
    let mut groups: Vec<Group> = Vec::new();
    for run in runs {
        let (start, length) = match run.mapping {
            Mapping::Plain { host_offset } => (host_offset, run.length),
            Mapping::Compressed {
                host_offset,
                length,
            } => (host_offset, length as u64),
            Mapping::Zero => continue,
        };
        let end = start.checked_add(length).filter(|end| *end <= file_length);
        let end = end.ok_or_else(|| past_end(start))?;
        match groups.last_mut() {
            Some(last)
                if start >= last.start
                    && start <= last.end.saturating_add(MAX_GAP_BYTES)
                    && end - last.start <= MAX_READ_BYTES =>
            {
                last.end = last.end.max(end);
                last.runs.push(run);
            }
            _ => groups.push(Group {
                start,
                end,
                runs: vec![run],
            }),
        }
    }
    Ok(groups)
}

struct Assembly {
    first_offset: u64,
    length: usize,
    cluster_size: usize,
    compression: Compression,
}

impl Assembly {
    fn assemble(&self, loaded: &[(Group, Bytes)]) -> Result<Bytes> {
        let mut piece = vec![0; self.length];
        let mut decompressor = None;
        for (group, data) in loaded {
            for run in &group.runs {
                let start = (run.offset - self.first_offset) as usize;
                let target = piece
                    .get_mut(start..start.saturating_add(run.length as usize))
                    .ok_or_else(misplaced)?;
                let from = |host_offset: u64| {
                    data.get((host_offset - group.start) as usize..)
                        .ok_or_else(misplaced)
                };
                match run.mapping {
                    Mapping::Zero => {}
                    Mapping::Plain { host_offset } => {
                        let stored = from(host_offset)?
                            .get(..target.len())
                            .ok_or_else(misplaced)?;
                        target.copy_from_slice(stored);
                    }
                    Mapping::Compressed {
                        host_offset,
                        length,
                    } => {
                        let stored = from(host_offset)?.get(..length).ok_or_else(misplaced)?;
                        let decompressor =
                            decompressor.get_or_insert_with(|| Decompressor::new(self.compression));
                        self.decompress(decompressor, stored, target)?;
                    }
                }
            }
        }
        Ok(piece.into())
    }

    /// The last cluster may pass the virtual size; only the part before it is wanted.
    fn decompress(
        &self,
        decompressor: &mut Decompressor,
        stored: &[u8],
        target: &mut [u8],
    ) -> Result<()> {
        if target.len() == self.cluster_size {
            return decompressor.cluster(stored, target);
        }
        let mut cluster = vec![0; self.cluster_size];
        decompressor.cluster(stored, &mut cluster)?;
        target.copy_from_slice(cluster.get(..target.len()).ok_or_else(misplaced)?);
        Ok(())
    }
}

/// Cannot happen: every range was computed from the runs themselves.
fn misplaced() -> Error {
    Error::corrupt("a cluster does not fit its place")
}
