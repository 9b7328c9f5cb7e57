//! Records carried out: the same at run time and on replay.
//!
//! **Promises.** A record changes all that it should or, when it answers [`Stop`], nothing. A record
//! about what is not there any more changes nothing.

use std::sync::Weak;

use super::buffer::UNIT_BYTES;
use super::catalogue::{Catalogue, Image, Snapshot};
use super::pages::Stop;
use super::records::{CatalogueChange, Record};
use super::tree::Trees;
use crate::ImageSpec;

fn blocks(size_bytes: u64) -> u64 {
    size_bytes.div_ceil(UNIT_BYTES as u64)
}

/// Everything that the log changes.
pub(crate) struct State {
    pub(crate) catalogue: Catalogue,
    pub(crate) trees: Trees,
}

impl State {
    /// Carries a record out. Nothing has changed when it answers an error. A record about what
    /// is not there any more changes nothing.
    pub(crate) fn apply(&mut self, record: &Record) -> Result<(), Stop> {
        match record {
            Record::Data {
                image,
                block,
                unit,
                crcs,
            } => {
                let found = self.catalogue.images.get_mut(image);
                let size = found.as_ref().map_or(0, |found| blocks(found.size_bytes));
                // The image may have been cut down while this was on its way.
                let most = size.saturating_sub(*block).min(crcs.len() as u64);
                let (mapped, rest) = crcs.split_at(most as usize);
                if let Some(found) = found.filter(|_| most > 0) {
                    self.trees.map(&mut found.root, *block, *unit, mapped)?;
                }
                let rest = unit + most..unit + most + rest.len() as u64;
                rest.for_each(|unit| self.trees.space.set_aside(unit));
                Ok(())
            }
            Record::Zero {
                image,
                block,
                count,
            } => match self.catalogue.images.get_mut(image) {
                None => Ok(()),
                Some(found) => {
                    self.trees
                        .unmap(&mut found.root, *block, block.saturating_add(*count))
                }
            },
            Record::Change(change) => self.apply_change(change),
        }
    }

    fn add(&mut self, id: u64, image: Image) {
        let catalogue = &mut self.catalogue;
        catalogue.next_id = catalogue.next_id.max(id);
        if !image.is_hidden() {
            let name = (image.spec.pool.clone(), image.spec.image.clone());
            catalogue.names.insert(name, id);
        }
        catalogue.images.insert(id, image);
    }

    fn remove(&mut self, id: u64) {
        self.unlink(id);
        let Some(image) = self.catalogue.images.remove(&id) else {
            return;
        };
        if !image.is_hidden() {
            let name = (image.spec.pool, image.spec.image);
            self.catalogue.names.remove(&name);
        }
        self.trees.let_go(&image.root);
        for snapshot in image.snapshots.values() {
            self.trees.let_go(&snapshot.root);
        }
    }

    fn unlink(&mut self, id: u64) {
        let image = self.catalogue.images.get_mut(&id);
        let Some(parent) = image.and_then(|image| image.parent.take()) else {
            return;
        };
        if let Some(children) = self.catalogue.children.get_mut(&parent) {
            children.remove(&id);
            if children.is_empty() {
                self.catalogue.children.remove(&parent);
            }
        }
    }

    fn apply_change(&mut self, change: &CatalogueChange) -> Result<(), Stop> {
        use CatalogueChange as C;
        match change {
            C::CreatePool { pool } => {
                self.catalogue.pools.insert(pool.clone());
            }
            C::CreateImage {
                id,
                spec,
                size_bytes,
            } => self.add(*id, Image::new(spec.clone(), *size_bytes)),
            C::CreateHidden { id, size_bytes } => {
                self.add(*id, Image::new(ImageSpec::new("", ""), *size_bytes));
            }
            C::RemoveImage { id } => self.remove(*id),
            C::Rename { id, name } => {
                if let Some(image) = self.catalogue.images.get_mut(id) {
                    let (pool, old) = (image.spec.pool.clone(), image.spec.image.clone());
                    image.spec.image.clone_from(name);
                    self.catalogue.names.remove(&(pool.clone(), old));
                    self.catalogue.names.insert((pool, name.clone()), *id);
                }
            }
            C::Resize { id, size_bytes } => {
                if let Some(image) = self.catalogue.images.get_mut(id) {
                    let end = blocks(*size_bytes);
                    self.trees.unmap(&mut image.root, end, u64::MAX >> 12)?;
                    image.set_size(*size_bytes);
                }
            }
            C::CreateSnapshot { id, snapshot, name } => self.snapshot(*id, *snapshot, name),
            C::Protect {
                id,
                snapshot,
                protected,
            } => {
                let image = self.catalogue.images.get_mut(id);
                if let Some(found) = image.and_then(|image| image.snapshots.get_mut(snapshot)) {
                    found.protected = *protected;
                }
            }
            C::RemoveSnapshot { id, snapshot } => {
                let image = self.catalogue.images.get_mut(id);
                if let Some(found) = image.and_then(|image| image.snapshots.remove(snapshot)) {
                    self.trees.let_go(&found.root);
                }
            }
            C::RenameSnapshot { id, snapshot, name } => {
                let image = self.catalogue.images.get_mut(id);
                if let Some(found) = image.and_then(|image| image.snapshots.get_mut(snapshot)) {
                    found.name.clone_from(name);
                }
            }
            C::RollBack { id, snapshot } => self.roll_back(*id, *snapshot),
            C::Clone {
                id,
                spec,
                parent,
                snapshot,
            } => self.clone_image(*id, spec, (*parent, *snapshot)),
            C::Flatten { id } => self.unlink(*id),
            C::SetMetadata { id, key, value } => {
                if let Some(image) = self.catalogue.images.get_mut(id) {
                    image.metadata.insert(key.clone(), value.clone());
                }
            }
            C::RemoveMetadata { id, key } => {
                if let Some(image) = self.catalogue.images.get_mut(id) {
                    image.metadata.remove(key);
                }
            }
            C::PutObject { id, pool, name } => {
                let name = (pool.clone(), name.clone());
                if let Some(old) = self.catalogue.objects.insert(name, *id) {
                    self.remove(old);
                }
            }
            C::RemoveObject { pool, name } => {
                let name = (pool.clone(), name.clone());
                if let Some(old) = self.catalogue.objects.remove(&name) {
                    self.remove(old);
                }
            }
        }
        Ok(())
    }

    fn snapshot(&mut self, id: u64, number: u64, name: &str) {
        self.catalogue.next_id = self.catalogue.next_id.max(number);
        let Some(image) = self.catalogue.images.get_mut(&id) else {
            return;
        };
        self.trees.share(&image.root);
        let snapshot = Snapshot {
            name: name.to_owned(),
            size_bytes: image.size_bytes,
            root: image.root,
            protected: false,
            open: Weak::new(),
        };
        image.snapshots.insert(number, snapshot);
    }

    fn roll_back(&mut self, id: u64, number: u64) {
        let Some(image) = self.catalogue.images.get_mut(&id) else {
            return;
        };
        let Some(snapshot) = image.snapshots.get(&number) else {
            return;
        };
        let (root, size_bytes) = (snapshot.root, snapshot.size_bytes);
        self.trees.share(&root);
        self.trees.let_go(&image.root);
        image.root = root;
        image.set_size(size_bytes);
    }

    fn clone_image(&mut self, id: u64, spec: &ImageSpec, parent: (u64, u64)) {
        let Ok((root, size_bytes)) = self.catalogue.tree(parent.0, Some(parent.1)) else {
            return;
        };
        self.trees.share(&root);
        let mut image = Image::new(spec.clone(), size_bytes);
        (image.root, image.parent) = (root, Some(parent));
        self.add(id, image);
        self.catalogue
            .children
            .entry(parent)
            .or_default()
            .insert(id);
    }

    /// What must be in memory before a record can be carried out.
    pub(crate) fn ready(&mut self, record: &Record) -> Result<(), Stop> {
        let (image, first, end) = match record {
            Record::Data {
                image, block, crcs, ..
            } => {
                let Some(found) = self.catalogue.images.get(image) else {
                    return Ok(());
                };
                let root = found.root;
                return self
                    .trees
                    .ready_all(&root, *block, block + crcs.len() as u64);
            }
            Record::Zero {
                image,
                block,
                count,
            } => (image, *block, block.saturating_add(*count)),
            Record::Change(CatalogueChange::Resize { id, size_bytes }) => {
                (id, blocks(*size_bytes), u64::MAX >> 12)
            }
            Record::Change(_) => return Ok(()),
        };
        match self.catalogue.images.get(image) {
            Some(found) if first < end => {
                let root = found.root;
                self.trees.ready(&root, first, end)
            }
            _ => Ok(()),
        }
    }
}
