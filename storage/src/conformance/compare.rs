//! Comparing an engine with the oracle.

use crate::{
    Change, Error, Extent, ExtentKind, ImageHandle, ImageSpec, ImageStore, MAX_READ_BYTES,
};

use super::{Failure, Outcome, Random, ensure};

const BLOCK: u64 = 4096;

/// The parts of an error that engines must agree on.
fn essence(error: &Error) -> String {
    match error {
        Error::NotFound(_) => "NotFound".into(),
        Error::Exists(_) => "Exists".into(),
        Error::Busy { children, .. } => format!("Busy {children:?}"),
        Error::HasSnapshots { snapshots, .. } => format!("HasSnapshots {snapshots:?}"),
        Error::ReadOnly(_) => "ReadOnly".into(),
        Error::OutOfSpace => "OutOfSpace".into(),
        Error::Corrupt { .. } => "Corrupt".into(),
        Error::Invalid(_) => "Invalid".into(),
        Error::Unavailable(_) => "Unavailable".into(),
    }
}

/// Both succeeded with the same value, or failed for the same reason.
pub(super) fn same<T: PartialEq>(
    what: &str,
    found: &Result<T, Error>,
    wanted: &Result<T, Error>,
) -> Outcome {
    match (found, wanted) {
        (Ok(found), Ok(wanted)) => ensure(found == wanted, || format!("{what}: other answer")),
        (Err(found), Err(wanted)) => {
            let same = essence(found) == essence(wanted);
            ensure(same, || format!("{what}: {found:?}, not {wanted:?}"))
        }
        (Ok(_), Err(wanted)) => Err(Failure(format!("{what}: succeeded, not {wanted:?}"))),
        (Err(found), Ok(_)) => Err(Failure(format!("{what}: {found:?}"))),
    }
}

pub(super) struct Pair<'a> {
    pub(super) engine: &'a dyn ImageStore,
    pub(super) oracle: &'a dyn ImageStore,
}

impl Pair<'_> {
    /// Everything that the catalogue says.
    pub(super) async fn catalogue(&self) -> Outcome {
        let pools = self.oracle.pools().await?;
        let found = self.engine.pools().await?;
        ensure(found == pools, || format!("pools {found:?}, not {pools:?}"))?;
        for pool in &pools {
            let images = self.oracle.images(pool).await?;
            let found = self.engine.images(pool).await?;
            ensure(found == images, || {
                format!("images {found:?}, not {images:?}")
            })?;
            let objects = self.oracle.objects(pool).await?;
            let found = self.engine.objects(pool).await?;
            ensure(found == objects, || {
                format!("objects {found:?}, not {objects:?}")
            })?;
            for name in &objects {
                let (found, wanted) = (
                    self.engine.object(pool, name).await?,
                    self.oracle.object(pool, name).await?,
                );
                ensure(found == wanted, || format!("object {name}"))?;
            }
            for image in &images {
                self.image(&ImageSpec::new(pool, image)).await?;
            }
        }
        Ok(())
    }

    async fn image(&self, image: &ImageSpec) -> Outcome {
        let (found, wanted) = (
            self.engine.used_bytes(image).await?,
            self.oracle.used_bytes(image).await?,
        );
        // Engines count in units of their own.
        ensure(found > 0 || wanted == 0, || {
            format!("{image} uses nothing, not {wanted}")
        })?;
        let (found, wanted) = (
            self.engine.info(image).await?,
            self.oracle.info(image).await?,
        );
        ensure(found == wanted, || format!("{found:?}, not {wanted:?}"))?;
        let (found, metadata) = (
            self.engine.metadata(image).await?,
            self.oracle.metadata(image).await?,
        );
        ensure(found == metadata, || {
            format!("metadata {found:?}, not {metadata:?}")
        })?;
        for snapshot in &wanted.snapshots {
            let spec = image.at(&snapshot.name);
            let (found, wanted) = (
                self.engine.children(&spec).await?,
                self.oracle.children(&spec).await?,
            );
            ensure(found == wanted, || {
                format!("children {found:?}, not {wanted:?}")
            })?;
        }
        Ok(())
    }

    /// All data of all images and snapshots.
    pub(super) async fn content(&self) -> Outcome {
        for pool in self.oracle.pools().await? {
            for image in self.oracle.images(&pool).await? {
                let image = ImageSpec::new(&pool, image);
                let snapshots = self.oracle.info(&image).await?.snapshots;
                let names = snapshots
                    .iter()
                    .map(|snapshot| Some(snapshot.name.as_str()));
                for snapshot in names.chain([None]) {
                    let engine = self.engine.open(&image, snapshot).await?;
                    let oracle = self.oracle.open(&image, snapshot).await?;
                    let same = same_content(&*engine, &*oracle).await;
                    same.map_err(|failure| Failure(format!("{image}@{snapshot:?}: {failure}")))?;
                }
            }
        }
        Ok(())
    }

    /// The diff covers every real change, and its zero extents are zero.
    pub(super) async fn diff(
        &self,
        image: &ImageSpec,
        change: Change<'_>,
        random: &mut Random,
    ) -> Outcome {
        let first = self.oracle.diff(image, change, 0, usize::MAX).await;
        let limit = 1 + random.below(40) as usize;
        if first.is_err() {
            let found = self.engine.diff(image, change, 0, limit).await;
            return same("diff", &found, &first);
        }
        let wanted = first?;
        let target = self.oracle.open(image, change.to).await?;
        let mut found: Vec<Extent> = Vec::new();
        let mut start = 0;
        loop {
            let page = self.engine.diff(image, change, start, limit).await?;
            ensure(page.len() <= limit, || "more extents than asked for".into())?;
            let Some(last) = page.last() else {
                break;
            };
            start = last.offset + last.length;
            found.extend(page);
        }
        in_order(&found, target.size_bytes())?;
        for extent in &found {
            if extent.kind == ExtentKind::Zero {
                ensure(change.from.is_some(), || {
                    "a zero extent in a full diff".into()
                })?;
                is_zero(&*target, extent).await?;
            }
        }
        let covered = |offset: u64| {
            found
                .iter()
                .any(|extent| extent.offset <= offset && offset < extent.offset + extent.length)
        };
        for extent in wanted {
            let blocks = (extent.offset..extent.offset + extent.length).step_by(BLOCK as usize);
            for offset in blocks.take(4096) {
                ensure(covered(offset), || {
                    format!("diff {change:?} lacks offset {offset}")
                })?;
            }
        }
        Ok(())
    }
}

fn in_order(extents: &[Extent], size_bytes: u64) -> Outcome {
    let mut end = 0;
    for extent in extents {
        let good = extent.length > 0 && extent.offset >= end;
        end = extent.offset + extent.length;
        ensure(good && end <= size_bytes, || {
            format!("extent {extent:?} out of place")
        })?;
    }
    Ok(())
}

/// Reads a zero extent of any length on the oracle: none of its data extents may meet it.
async fn is_zero(oracle: &dyn ImageHandle, extent: &Extent) -> Outcome {
    let inside = oracle
        .extents(extent.offset, extent.length, usize::MAX)
        .await?;
    let mut data = inside
        .iter()
        .filter(|inside| inside.kind == ExtentKind::Data);
    let Some(extent) = data.next() else {
        return Ok(());
    };
    let bytes = oracle
        .read(extent.offset, extent.length.min(1 << 20) as usize)
        .await?;
    ensure(bytes.iter().all(|byte| *byte == 0), || {
        format!("{extent:?} is not zero")
    })
}

/// Compares what both read and say about extents, with all of the oracle's data in it.
pub(super) async fn same_content(engine: &dyn ImageHandle, oracle: &dyn ImageHandle) -> Outcome {
    let size = oracle.size_bytes();
    ensure(engine.size_bytes() == size, || {
        format!("size {}, not {size}", engine.size_bytes())
    })?;
    let mut position = 0;
    while position < size {
        let extents = engine.extents(position, size - position, 7).await?;
        ensure(!extents.is_empty() && extents.len() <= 7, || {
            "no extents".into()
        })?;
        for extent in extents {
            let good = extent.offset == position && extent.length > 0;
            position = extent.offset + extent.length;
            ensure(good && position <= size, || {
                format!("extent {extent:?} out of place")
            })?;
            if extent.kind == ExtentKind::Zero {
                is_zero(oracle, &extent).await?;
            }
        }
    }
    for extent in oracle.extents(0, size, usize::MAX).await? {
        // Of a hole its beginning, of data all, and a little of what lies around.
        let whole = extent.kind == ExtentKind::Data;
        let length = if whole {
            extent.length
        } else {
            extent.length.min(64 << 10)
        };
        let start = extent.offset.saturating_sub(100);
        let end = (extent.offset + length + 100).min(size);
        for start in (start..end).step_by(MAX_READ_BYTES) {
            let length = (end - start).min(MAX_READ_BYTES as u64) as usize;
            let (found, wanted) = (
                engine.read(start, length).await?,
                oracle.read(start, length).await?,
            );
            if found != wanted {
                let at = found.iter().zip(&wanted).position(|(a, b)| a != b);
                let at = start + at.unwrap_or(0) as u64;
                return Err(Failure(format!("other data at offset {at}")));
            }
        }
    }
    same_when_read_together(engine, oracle).await
}

/// A little around both ends of extents, read in one go.
async fn same_when_read_together(engine: &dyn ImageHandle, oracle: &dyn ImageHandle) -> Outcome {
    let size = oracle.size_bytes();
    let extents = oracle.extents(0, size, 40).await?;
    let ends = extents.iter().flat_map(|extent| {
        let end = extent.offset + extent.length;
        [extent.offset..extent.offset, extent.offset..end, end..size]
    });
    let ranges: Vec<_> = ends
        .map(|range| range.start..range.end.min(range.start + BLOCK + 77))
        .collect();
    let found = engine.read_each(&ranges).await?;
    ensure(found.len() == ranges.len(), || {
        format!("{} answers to {} ranges", found.len(), ranges.len())
    })?;
    for (found, range) in found.iter().zip(&ranges) {
        let length = (range.end - range.start) as usize;
        let wanted = oracle.read(range.start, length).await?;
        ensure(*found == wanted, || {
            format!("other data in {range:?}, read with others")
        })?;
    }
    Ok(())
}
