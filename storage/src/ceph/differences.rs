//! What changed in an image, and what it uses.

use std::sync::Arc;

use super::CephStore;
use super::features::FAST_DIFF;
use super::images::parent_spec;
use super::native::{Errno, Image, Piece, Pool, Range, USER_NAMESPACE};
use crate::embedded::Usage;
use crate::store::ExtentList;
use crate::{Change, Error, Extent, ExtentKind, ImageSpec, ImageStore, Result};

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
        let count = move || bytes_of_objects(&pool.open(&name, None, true)?, None, true);
        let what = format!("image {image}");
        self.client.long_call(&connection, what, count).await
    }

    /// The heads and snapshots of a pool's images, by name, snapshots before their head, the
    /// oldest first. A snapshot's own objects are those that changed since the one before it.
    pub async fn usage(&self, pool: &str) -> Result<Vec<Usage>> {
        let mut all = Vec::new();
        for name in self.images(pool).await? {
            let image = ImageSpec::new(pool, name);
            let (connection, opened) = self.pool(pool).await?;
            let (what, counted) = (format!("image {image}"), image.clone());
            let count = move || usage_of_image(&opened, &counted);
            match self.client.long_call(&connection, what, count).await {
                Ok(found) => all.extend(found),
                // Gone since the names were read, or going.
                Err(Error::NotFound(_)) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(all)
    }
}

/// Blocks.
fn usage_of_image(pool: &Arc<Pool>, image: &ImageSpec) -> Result<Vec<Usage>, Errno> {
    let head = pool.open(&image.image, None, true)?;
    let snapshots = head.snapshots()?.into_iter();
    let names = snapshots
        .filter(|one| one.namespace == USER_NAMESPACE)
        .map(|one| Some(one.name));
    let parent = head.parent()?.map(parent_spec);
    let mut before: Option<String> = None;
    let mut all = Vec::new();
    for snapshot in names.chain([None]) {
        let opened = pool.open(&image.image, snapshot.as_deref(), true)?;
        all.push(Usage {
            image: image.clone(),
            snapshot: snapshot.clone(),
            size_bytes: opened.size()?,
            used_bytes: bytes_of_objects(&opened, None, true)?,
            exclusive_bytes: bytes_of_objects(&opened, before.as_deref(), false)?,
            parent: parent.clone().filter(|_| snapshot.is_none()),
        });
        before = snapshot;
    }
    Ok(all)
}

/// Blocks. Bytes of the objects that are there, or have changed since an older snapshot.
fn bytes_of_objects(image: &Image, from: Option<&str>, with_parent: bool) -> Result<u64, Errno> {
    let whole = Range {
        from,
        offset: 0,
        length: image.size()?,
        whole_objects: true,
        with_parent,
    };
    let mut bytes = 0;
    image.difference(whole, |piece| {
        bytes += if piece.exists { piece.length } else { 0 };
        true
    })?;
    Ok(bytes)
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
        with_parent: true,
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
