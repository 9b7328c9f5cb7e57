//! Moving many bytes between images in bounded pieces: a few MiB in memory whatever the size,
//! with progress, and an end as soon as the flow is lost.

use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::future::try_join_all;
use futures_util::{StreamExt, TryStreamExt, stream};
use image_formats::ByteSource;
use storage::{Change, Extent, ExtentKind, ImageHandle, ImageSpec, ImageStore};
use taskflow::{Flow, Run, TaskError};

use super::steps::store_failure;

/// The largest piece that is read and written at once.
pub(crate) const PIECE_BYTES: usize = 4 << 20;
/// Small pieces are read and written together, so many and [`PIECE_BYTES`] at most.
const GROUP_PIECES: usize = 32;
/// Groups on their way at once.
const GROUPS_IN_FLIGHT: usize = 4;
/// Extents asked for at once.
const EXTENTS_PER_PAGE: usize = 1024;
/// A run of zeroes of this length in new data takes no space.
const ZERO_RUN_BYTES: usize = 64 << 10;

/// What a long transfer reports to, and asks whether to go on: the run of a flow.
#[async_trait]
pub(crate) trait Watch: Send + Sync {
    fn is_lost(&self) -> bool;
    async fn progress(&self, fraction: f64);
}

#[async_trait]
impl<F: Flow> Watch for Run<F> {
    fn is_lost(&self) -> bool {
        Run::is_lost(self)
    }

    async fn progress(&self, fraction: f64) {
        Run::progress(self, fraction).await;
    }
}

/// Fails when the flow belongs to somebody else or the process shuts down.
pub(crate) fn check(watch: &dyn Watch) -> Result<(), TaskError> {
    if watch.is_lost() {
        Err(TaskError::interrupted())
    } else {
        Ok(())
    }
}

/// From which point of an image to which: the source of [`copy_changes`].
pub(crate) struct Changes<'a> {
    pub store: &'a dyn ImageStore,
    pub image: &'a ImageSpec,
    /// `None`: everything.
    pub from: Option<&'a str>,
    pub to: &'a str,
}

/// Makes the head of `target`, which must hold what `changes.from` holds, the same as
/// `changes.to`, size included. May be repeated after it was cut.
pub(crate) async fn copy_changes(
    changes: Changes<'_>,
    target: (&dyn ImageStore, &ImageSpec),
    watch: &dyn Watch,
) -> Result<(), TaskError> {
    let source = changes
        .store
        .open(changes.image, Some(changes.to))
        .await
        .map_err(store_failure)?;
    let size_bytes = source.size_bytes();
    let (target_store, target_image) = target;
    if target_store
        .info(target_image)
        .await
        .map_err(store_failure)?
        .size_bytes
        != size_bytes
    {
        target_store
            .resize(target_image, size_bytes)
            .await
            .map_err(store_failure)?;
    }
    let target = target_store
        .open(target_image, None)
        .await
        .map_err(store_failure)?;
    let change = Change {
        from: changes.from,
        to: Some(changes.to),
    };
    let mut position = 0;
    while position < size_bytes {
        let page = changes
            .store
            .diff(changes.image, change, position, EXTENTS_PER_PAGE)
            .await;
        let extents = page.map_err(store_failure)?;
        let Some(last) = extents.last() else { break };
        position = last.offset.saturating_add(last.length);
        copy_extents(&source, &target, extents, watch).await?;
    }
    target.flush().await.map_err(store_failure)
}

/// Makes the whole of `target` the bytes of `source`, and zeroes behind them.
pub(crate) async fn overwrite(
    source: &Arc<dyn ImageHandle>,
    target: &Arc<dyn ImageHandle>,
    watch: &dyn Watch,
) -> Result<(), TaskError> {
    let size_bytes = source.size_bytes();
    let mut position = 0;
    while position < size_bytes {
        let page = source
            .extents(position, size_bytes - position, EXTENTS_PER_PAGE)
            .await;
        let extents = page.map_err(store_failure)?;
        let Some(last) = extents.last() else { break };
        position = last.offset.saturating_add(last.length);
        copy_extents(source, target, extents, watch).await?;
    }
    let rest_bytes = target.size_bytes().saturating_sub(size_bytes);
    if rest_bytes > 0 {
        target
            .discard(size_bytes, rest_bytes)
            .await
            .map_err(store_failure)?;
    }
    target.flush().await.map_err(store_failure)
}

async fn copy_extents(
    source: &Arc<dyn ImageHandle>,
    target: &Arc<dyn ImageHandle>,
    extents: Vec<Extent>,
    watch: &dyn Watch,
) -> Result<(), TaskError> {
    let size_bytes = source.size_bytes();
    let (source, target) = (source.clone(), target.clone());
    let moved = stream::iter(groups(extents)).map(move |group| {
        let (source, target) = (source.clone(), target.clone());
        async move {
            let begin = group.first().map_or(0, |piece| piece.offset);
            move_group(source.as_ref(), target.as_ref(), group)
                .await
                .map(|()| begin)
        }
    });
    let mut moved = moved.buffered(GROUPS_IN_FLIGHT);
    while let Some(begin) = moved.try_next().await.map_err(store_failure)? {
        check(watch)?;
        watch
            .progress(begin as f64 / size_bytes.max(1) as f64)
            .await;
    }
    Ok(())
}

async fn move_group(
    source: &dyn ImageHandle,
    target: &dyn ImageHandle,
    group: Vec<Extent>,
) -> storage::Result<()> {
    let data = group.iter().filter(|piece| piece.kind == ExtentKind::Data);
    let ranges: Vec<_> = data
        .map(|piece| piece.offset..piece.offset + piece.length)
        .collect();
    let mut data = source.read_each(&ranges).await?.into_iter();
    let moves = group.into_iter().map(|piece| {
        let data = match piece.kind {
            ExtentKind::Data => data.next(),
            ExtentKind::Zero => None,
        };
        async move {
            match data {
                Some(data) => target.write(piece.offset, data).await,
                None => target.discard(piece.offset, piece.length).await,
            }
        }
    });
    try_join_all(moves).await.map(drop)
}

/// What is moved together: a long piece, or several short ones.
fn groups(extents: Vec<Extent>) -> Vec<Vec<Extent>> {
    let mut groups: Vec<Vec<Extent>> = Vec::new();
    let mut room = 0;
    for piece in extents.into_iter().flat_map(pieces) {
        let bytes = match piece.kind {
            ExtentKind::Data => piece.length,
            ExtentKind::Zero => 0,
        };
        match groups.last_mut() {
            Some(group) if group.len() < GROUP_PIECES && bytes <= room => group.push(piece),
            _ => {
                groups.push(vec![piece]);
                room = PIECE_BYTES as u64;
            }
        }
        room -= bytes;
    }
    groups
}

/// Data extents in pieces of at most [`PIECE_BYTES`], zero extents as they are.
fn pieces(extent: Extent) -> impl Iterator<Item = Extent> {
    let step = match extent.kind {
        ExtentKind::Data => PIECE_BYTES as u64,
        ExtentKind::Zero => extent.length.max(1),
    };
    (0..extent.length.div_ceil(step)).map(move |index| {
        let skipped = index * step;
        let length = step.min(extent.length - skipped);
        Extent {
            offset: extent.offset + skipped,
            length,
            kind: extent.kind,
        }
    })
}

/// Writes new data into an image of zeroes; longer runs of zeroes are left out.
pub(crate) async fn write_sparse(
    target: &dyn ImageHandle,
    offset: u64,
    data: &Bytes,
) -> Result<(), TaskError> {
    for run in data_runs(data) {
        let at = offset.saturating_add(run.start as u64);
        target
            .write(at, data.slice(run))
            .await
            .map_err(store_failure)?;
    }
    Ok(())
}

/// The ranges of `data` that are not all zero, in steps of [`ZERO_RUN_BYTES`].
fn data_runs(data: &[u8]) -> Vec<Range<usize>> {
    let mut runs: Vec<Range<usize>> = Vec::new();
    for (index, step) in data.chunks(ZERO_RUN_BYTES).enumerate() {
        if step.iter().all(|byte| *byte == 0) {
            continue;
        }
        let start = index * ZERO_RUN_BYTES;
        let end = start + step.len();
        match runs.last_mut() {
            Some(last) if last.end == start => last.end = end,
            _ => runs.push(start..end),
        }
    }
    runs
}

/// An open image as a source of bytes, up to `length_bytes`.
#[derive(Clone)]
pub(crate) struct HandleSource {
    pub handle: Arc<dyn ImageHandle>,
    pub length_bytes: u64,
}

#[async_trait]
impl ByteSource for HandleSource {
    fn len(&self) -> u64 {
        self.length_bytes
    }

    async fn read_at(&self, offset: u64, length: usize) -> std::io::Result<Bytes> {
        if offset
            .checked_add(length as u64)
            .is_none_or(|end| end > self.length_bytes)
        {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        self.handle
            .read(offset, length)
            .await
            .map_err(std::io::Error::other)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_of_zeroes_are_left_out() {
        let mut data = vec![0u8; 5 * ZERO_RUN_BYTES + 10];
        data[ZERO_RUN_BYTES] = 1;
        data[3 * ZERO_RUN_BYTES - 1] = 1;
        data[5 * ZERO_RUN_BYTES + 9] = 1;
        let last = 5 * ZERO_RUN_BYTES;
        assert_eq!(
            data_runs(&data),
            [ZERO_RUN_BYTES..3 * ZERO_RUN_BYTES, last..last + 10]
        );
        assert!(data_runs(&vec![0; 3 * ZERO_RUN_BYTES + 1]).is_empty());
        assert!(data_runs(&[]).is_empty());
    }

    #[test]
    fn data_is_cut_into_pieces_and_zeroes_are_not() {
        let piece = PIECE_BYTES as u64;
        let extent = |offset, length, kind| Extent {
            offset,
            length,
            kind,
        };
        let cut: Vec<Extent> = pieces(extent(7, 2 * piece + 1, ExtentKind::Data)).collect();
        let expected = [(7, piece), (7 + piece, piece), (7 + 2 * piece, 1)];
        assert_eq!(
            cut,
            expected.map(|(offset, length)| extent(offset, length, ExtentKind::Data))
        );
        assert_eq!(pieces(extent(0, u64::MAX, ExtentKind::Zero)).count(), 1);
        assert_eq!(pieces(extent(0, 0, ExtentKind::Zero)).count(), 0);
    }

    #[test]
    fn short_pieces_are_grouped_up_to_a_number_and_a_length() {
        let piece = PIECE_BYTES as u64;
        let of = |lengths: &[u64]| {
            let mut offset = 0;
            let extents = lengths.iter().map(|length| {
                offset += 2 * length;
                Extent {
                    offset,
                    length: *length,
                    kind: ExtentKind::Data,
                }
            });
            let sizes = groups(extents.collect());
            sizes.iter().map(Vec::len).collect::<Vec<_>>()
        };
        assert_eq!(of(&[4096; 70]), [32, 32, 6]);
        assert_eq!(
            of(&[piece / 2, piece / 2, 1, piece, 3 * piece]),
            [2, 1, 1, 1, 1, 1]
        );
        let zero = Extent {
            offset: 0,
            length: u64::MAX,
            kind: ExtentKind::Zero,
        };
        assert_eq!(groups(vec![zero; 40]).len(), 2);
        assert!(groups(Vec::new()).is_empty());
    }
}
