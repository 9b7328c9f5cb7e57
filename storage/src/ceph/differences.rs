//! What changed in an image, and what it uses.

use std::sync::Arc;

use super::CephStore;
use super::features::FAST_DIFF;
use super::native::{Errno, Image, Piece, Pool, Range};
use crate::store::ExtentList;
use crate::{Change, Error, Extent, ExtentKind, ImageSpec, Result};

/// Whole objects looked at before their insides are.
const OBJECTS_AHEAD: usize = 4096;

impl CephStore {
    pub(super) async fn changed_extents(
        &self,
        image: &ImageSpec,
        change: Change<'_>,
        start_bytes: u64,
        limit: usize,
    ) -> Result<Vec<Extent>> {
        let from = change.from.map(str::to_owned);
        let to = change.to.map(str::to_owned);
        let (name, older, newer) = (image.image.clone(), from.clone(), to.clone());
        let find = move |pool: &Arc<Pool>| {
            let image = pool.open(&name, newer.as_deref(), true)?;
            if let Some(older) = &older {
                let older = CephStore::snapshot_id(&image, older)?;
                let newer = newer.as_deref();
                let newer = newer.map(|newer| CephStore::snapshot_id(&image, newer));
                if newer.transpose()?.is_some_and(|newer| newer <= older) {
                    return Err(Errno::INVAL);
                }
            }
            changed(&image, older.as_deref(), start_bytes, limit)
        };
        let (connection, pool) = self.pool(&image.pool).await?;
        let what = || match from.as_ref().or(to.as_ref()) {
            None => format!("image {image}"),
            Some(name) => format!("snapshot {}", image.at(name)),
        };
        let found = self
            .client
            .long_call(&connection, what(), move || find(&pool));
        match found.await {
            Err(Error::NotFound(_)) => Err(self.which_is_missing(image, [from, to]).await),
            Err(Error::Invalid(_)) => Err(Error::Invalid(format!(
                "snapshot {} is not older than {}",
                from.as_deref().unwrap_or_default(),
                to.as_deref().unwrap_or_default()
            ))),
            other => other,
        }
    }

    async fn which_is_missing(&self, image: &ImageSpec, names: [Option<String>; 2]) -> Error {
        let snapshots = match self.image_info(image).await {
            Err(error) => return error,
            Ok(info) => info.snapshots,
        };
        let mut names = names.into_iter().flatten();
        let missing = names.find(|name| !snapshots.iter().any(|one| one.name == *name));
        match missing {
            Some(name) => Error::NotFound(format!("snapshot {}", image.at(name))),
            None => Error::NotFound(format!("image {image}")),
        }
    }

    /// Bytes of the objects that the head, or its parents, have.
    pub(super) async fn bytes_of_head(&self, image: &ImageSpec) -> Result<u64> {
        let (connection, pool) = self.pool(&image.pool).await?;
        let name = image.image.clone();
        let count = move || {
            let image = pool.open(&name, None, true)?;
            let whole = Range {
                from: None,
                offset: 0,
                length: image.size()?,
                whole_objects: true,
            };
            let mut bytes = 0;
            image.difference(whole, |piece| {
                bytes += if piece.exists { piece.length } else { 0 };
                true
            })?;
            Ok(bytes)
        };
        let what = format!("image {image}");
        self.client.long_call(&connection, what, count).await
    }
}

/// Blocks. The difference from `from`, or from the empty image, to what is open.
///
/// A full diff of an image with an object map goes by whole objects first, which costs nothing
/// where the image is empty; the insides of an object are asked of its OSD. Between snapshots
/// every object is asked: object maps of some releases miss an object that went and came back.
fn changed(
    image: &Image,
    from: Option<&str>,
    start: u64,
    limit: usize,
) -> Result<Vec<Extent>, Errno> {
    let size = image.size()?;
    let range = |offset: u64, whole_objects: bool| Range {
        from,
        offset,
        length: size.saturating_sub(offset),
        whole_objects,
    };
    if start >= size {
        return Ok(Vec::new());
    }
    if from.is_some() || image.features()? & FAST_DIFF == 0 {
        return collect(image, range(start, false), limit);
    }
    let mut list = ExtentList::new(limit);
    let mut start = start;
    loop {
        let objects = collect(image, range(start, true), OBJECTS_AHEAD)?;
        let Some(last) = objects.last() else {
            return Ok(list.into_vec());
        };
        start = last.offset + last.length;
        for object in objects {
            let inside = Range {
                length: object.length,
                ..range(object.offset, false)
            };
            for extent in collect(image, inside, limit)? {
                if !list.push(extent.offset, extent.length, extent.kind) {
                    return Ok(list.into_vec());
                }
            }
        }
    }
}

/// Blocks. The first extents of a range: with an older snapshot data and zeroes, without data only.
pub(super) fn collect(image: &Image, range: Range<'_>, limit: usize) -> Result<Vec<Extent>, Errno> {
    let mut list = ExtentList::new(limit);
    let end = range.offset.saturating_add(range.length);
    image.difference(range, |piece: Piece| {
        let kind = if piece.exists {
            ExtentKind::Data
        } else {
            ExtentKind::Zero
        };
        if kind == ExtentKind::Zero && range.from.is_none() {
            return true;
        }
        // Whole objects may stick out of the range.
        let start = piece.offset.max(range.offset);
        let stop = piece.offset.saturating_add(piece.length).min(end);
        start >= stop || list.push(start, stop - start, kind)
    })?;
    Ok(list.into_vec())
}
