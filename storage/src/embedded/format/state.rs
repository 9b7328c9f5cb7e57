//! What a checkpoint says besides the trees: space, dropped pages, and the catalogue.

use super::super::apply::State;
use super::super::catalogue::{Catalogue, Image, Snapshot};
use super::super::space::MapUnit;
use super::super::tree::{Dropped, Root};
use super::{Fields, Length, MAX_UNITS, Put, Unit};
use crate::ImageSpec;
use std::sync::Weak;

/// A parsed checkpoint.
pub(crate) struct Saved {
    pub(crate) total_units: u64,
    pub(crate) used: u64,
    pub(crate) maps: Vec<MapUnit>,
    pub(crate) overflow: Vec<(Unit, u32)>,
    pub(crate) drops: Vec<Dropped>,
    /// Runs of regions without room on the disk: the first, and how many.
    pub(crate) absent: Vec<(usize, usize)>,
    pub(crate) catalogue: Catalogue,
}

fn put_root(out: &mut impl Put, root: &Root) {
    out.put_48(root.page);
    out.put_32(root.crc);
    out.put_8(root.height);
    out.put_64(root.mapped);
}

fn take_root(fields: &mut Fields<'_>) -> Option<Root> {
    let root = Root {
        page: fields.u48()?,
        crc: fields.u32()?,
        height: fields.u8()?,
        mapped: fields.u64()?,
    };
    let sound = root.page < MAX_UNITS
        && root.height <= 7
        && (root.page == 0 || root.height > 0)
        && root.mapped <= MAX_UNITS;
    sound.then_some(root)
}

/// Bytes that [`to_bytes`] takes now.
pub(crate) fn length(state: &State) -> u64 {
    let mut length = Length::default();
    put_state(&mut length, state);
    length.0
}

pub(crate) fn to_bytes(state: &State) -> Vec<u8> {
    let mut out = Vec::with_capacity(length(state) as usize);
    put_state(&mut out, state);
    out
}

fn put_state(out: &mut impl Put, state: &State) {
    let space = &state.trees.space;
    out.put_64(space.total());
    out.put_64(state.trees.used);
    out.put_32(space.maps.len() as u32);
    for map in &space.maps {
        out.put_8(map.slot);
        out.put_32(map.crc);
    }
    out.put_32(space.overflow().len() as u32);
    for (unit, count) in space.overflow() {
        out.put_48(*unit);
        out.put_32(*count);
    }
    out.put_32(state.trees.drops.len() as u32);
    for dropped in &state.trees.drops {
        out.put_48(dropped.page);
        out.put_32(dropped.crc);
        out.put_8(dropped.level);
    }
    let absent = space.absent_runs();
    out.put_32(absent.len() as u32);
    for (first, count) in absent {
        out.put_32(first as u32);
        out.put_32(count as u32);
    }
    put_catalogue(out, &state.catalogue);
}

fn put_catalogue(out: &mut impl Put, catalogue: &Catalogue) {
    out.put_64(catalogue.next_id);
    out.put_32(catalogue.pools.len() as u32);
    catalogue.pools.iter().for_each(|pool| out.put_text(pool));
    out.put_32(catalogue.images.len() as u32);
    for (id, image) in &catalogue.images {
        put_image(out, *id, image);
    }
    out.put_32(catalogue.objects.len() as u32);
    for ((pool, name), id) in &catalogue.objects {
        out.put_64(*id);
        out.put_text(pool);
        out.put_text(name);
    }
}

fn put_image(out: &mut impl Put, id: u64, image: &Image) {
    let (parent, of) = image.parent.unwrap_or_default();
    for number in [id, image.size_bytes, parent, of] {
        out.put_64(number);
    }
    put_root(out, &image.root);
    out.put_text(&image.spec.pool);
    out.put_text(&image.spec.image);
    out.put_32(image.metadata.len() as u32);
    for (key, value) in &image.metadata {
        out.put_text(key);
        out.put_text(value);
    }
    out.put_32(image.snapshots.len() as u32);
    for (number, snapshot) in &image.snapshots {
        out.put_64(*number);
        out.put_64(snapshot.size_bytes);
        out.put_8(snapshot.protected.into());
        put_root(out, &snapshot.root);
        out.put_text(&snapshot.name);
    }
}

impl Saved {
    pub(crate) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let mut fields = Fields(bytes);
        let fields = &mut fields;
        let (total_units, used) = (fields.u64()?, fields.u64()?);
        let maps = (0..fields.count(5)?).map(|_| {
            let (slot, crc) = (fields.u8()?, fields.u32()?);
            (slot <= MapUnit::NEVER).then_some(MapUnit { slot, crc })
        });
        let maps = maps.collect::<Option<_>>()?;
        let overflow = (0..fields.count(10)?).map(|_| Some((fields.u48()?, fields.u32()?)));
        let overflow = overflow.collect::<Option<_>>()?;
        let drops = (0..fields.count(11)?).map(|_| {
            let (page, crc, level) = (fields.u48()?, fields.u32()?, fields.u8()?);
            (page < MAX_UNITS && level < 7).then_some(Dropped { page, crc, level })
        });
        let drops = drops.collect::<Option<_>>()?;
        let absent = (0..fields.count(8)?).map(|_| {
            let (first, count) = (fields.u32()?, fields.u32()?);
            Some((first as usize, count as usize))
        });
        let absent = absent.collect::<Option<_>>()?;
        let catalogue = take_catalogue(fields)?;
        let sound = fields.0.is_empty() && total_units <= MAX_UNITS;
        sound.then_some(Saved {
            total_units,
            used,
            maps,
            overflow,
            drops,
            absent,
            catalogue,
        })
    }
}

fn take_catalogue(fields: &mut Fields<'_>) -> Option<Catalogue> {
    let mut catalogue = Catalogue {
        next_id: fields.u64()?,
        ..Catalogue::default()
    };
    for _ in 0..fields.count(4)? {
        catalogue.pools.insert(fields.text()?);
    }
    for _ in 0..fields.count(32)? {
        let (id, image) = take_image(fields)?;
        if !image.is_hidden() {
            let name = (image.spec.pool.clone(), image.spec.image.clone());
            catalogue.names.insert(name, id);
        }
        if let Some(parent) = image.parent {
            catalogue.children.entry(parent).or_default().insert(id);
        }
        catalogue.images.insert(id, image);
    }
    for _ in 0..fields.count(16)? {
        let (id, pool, name) = (fields.u64()?, fields.text()?, fields.text()?);
        catalogue.objects.insert((pool, name), id);
    }
    Some(catalogue)
}

fn take_image(fields: &mut Fields<'_>) -> Option<(u64, Image)> {
    let (id, size_bytes) = (fields.u64()?, fields.u64()?);
    let parent = (fields.u64()?, fields.u64()?);
    let root = take_root(fields)?;
    let spec = ImageSpec::new(fields.text()?, fields.text()?);
    let mut image = Image::new(spec, size_bytes);
    image.root = root;
    image.parent = (parent.0 != 0).then_some(parent);
    for _ in 0..fields.count(8)? {
        image.metadata.insert(fields.text()?, fields.text()?);
    }
    for _ in 0..fields.count(17)? {
        let (number, size_bytes) = (fields.u64()?, fields.u64()?);
        let protected = fields.u8()? != 0;
        let root = take_root(fields)?;
        let snapshot = Snapshot {
            name: fields.text()?,
            size_bytes,
            root,
            protected,
            open: Weak::new(),
        };
        image.snapshots.insert(number, snapshot);
    }
    Some((id, image))
}
