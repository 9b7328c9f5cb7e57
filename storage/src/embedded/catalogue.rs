//! Pools, images, snapshots, clones, metadata: all in memory, changed by records of the log only.
//!
//! A `plan_…` checks a call and answers the record that does it; [`State::apply`] carries
//! a record out, at run time and on replay. Data is in the trees ([`super::tree`]).

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use super::buffer::UNIT_BYTES;
use super::pages::Stop;
use super::records::{CatalogueChange, Record};
use super::request::{Content, Patch, Plan};
use super::tree::{Root, Trees};
use crate::store::check_name;
use crate::{Error, ImageInfo, ImageSpec, Result, SnapshotInfo, SnapshotSpec};

#[derive(Debug)]
pub(crate) struct Image {
    /// Empty names: the data of an object.
    pub(crate) spec: ImageSpec,
    pub(crate) size_bytes: u64,
    pub(crate) root: Root,
    /// Image and snapshot.
    pub(crate) parent: Option<(u64, u64)>,
    /// Oldest first: by number.
    pub(crate) snapshots: BTreeMap<u64, Snapshot>,
    pub(crate) metadata: BTreeMap<String, String>,
    /// The size, for handles; and whether there are any.
    pub(crate) shown_bytes: Arc<AtomicU64>,
    pub(crate) open: Weak<()>,
}

#[derive(Debug)]
pub(crate) struct Snapshot {
    pub(crate) name: String,
    pub(crate) size_bytes: u64,
    pub(crate) root: Root,
    pub(crate) protected: bool,
    pub(crate) open: Weak<()>,
}

#[derive(Debug, Default)]
pub(crate) struct Catalogue {
    pub(crate) next_id: u64,
    pub(crate) pools: BTreeSet<String>,
    pub(crate) names: BTreeMap<(String, String), u64>,
    /// Objects, by the hidden image with their data.
    pub(crate) objects: BTreeMap<(String, String), u64>,
    pub(crate) images: HashMap<u64, Image>,
    /// Clones of a snapshot.
    pub(crate) children: BTreeMap<(u64, u64), BTreeSet<u64>>,
}

impl Image {
    pub(crate) fn new(spec: ImageSpec, size_bytes: u64) -> Self {
        Image {
            spec,
            size_bytes,
            root: Root::default(),
            parent: None,
            snapshots: BTreeMap::new(),
            metadata: BTreeMap::new(),
            shown_bytes: Arc::new(AtomicU64::new(size_bytes)),
            open: Weak::new(),
        }
    }

    pub(crate) fn is_hidden(&self) -> bool {
        self.spec.image.is_empty()
    }

    fn set_size(&mut self, size_bytes: u64) {
        self.size_bytes = size_bytes;
        self.shown_bytes.store(size_bytes, Ordering::Release);
    }
}

fn busy(what: String, children: Vec<ImageSpec>) -> Error {
    Error::Busy { what, children }
}

fn no_snapshot(spec: &SnapshotSpec) -> Error {
    Error::NotFound(format!("snapshot {spec}"))
}

fn blocks(size_bytes: u64) -> u64 {
    size_bytes.div_ceil(UNIT_BYTES as u64)
}

impl Catalogue {
    pub(crate) fn new_id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }

    pub(crate) fn require_pool(&self, pool: &str) -> Result<()> {
        match self.pools.contains(pool) {
            true => Ok(()),
            false => Err(Error::NotFound(format!("pool {pool}"))),
        }
    }

    /// Names of the second part, of images or objects.
    pub(crate) fn names_in(map: &BTreeMap<(String, String), u64>, pool: &str) -> Vec<String> {
        let from = (pool.to_owned(), String::new());
        let names = map.range(from..).take_while(|((of, _), _)| of == pool);
        names.map(|((_, name), _)| name.clone()).collect()
    }

    pub(crate) fn id(&self, spec: &ImageSpec) -> Result<u64> {
        let key = (spec.pool.clone(), spec.image.clone());
        match self.names.get(&key) {
            Some(id) => Ok(*id),
            None => {
                self.require_pool(&spec.pool)?;
                Err(Error::NotFound(format!("image {spec}")))
            }
        }
    }

    pub(crate) fn image(&self, id: u64) -> Result<&Image> {
        let image = self.images.get(&id);
        image.ok_or_else(|| Error::NotFound("the image".into()))
    }

    pub(crate) fn named(&self, spec: &ImageSpec) -> Result<&Image> {
        self.image(self.id(spec)?)
    }

    /// The snapshot, with its image's number and its own.
    pub(crate) fn snapshot(&self, spec: &SnapshotSpec) -> Result<(u64, u64, &Snapshot)> {
        let id = self.id(&spec.image)?;
        let mut snapshots = self.image(id)?.snapshots.iter();
        let found = snapshots.find(|(_, snapshot)| snapshot.name == spec.snapshot);
        let (number, snapshot) = found.ok_or_else(|| no_snapshot(spec))?;
        Ok((id, *number, snapshot))
    }

    /// The map and size of a head or a snapshot.
    pub(crate) fn tree(&self, id: u64, snapshot: Option<u64>) -> Result<(Root, u64)> {
        let image = self.image(id)?;
        match snapshot {
            None => Ok((image.root, image.size_bytes)),
            Some(number) => {
                let found = image.snapshots.get(&number);
                let found = found.ok_or_else(|| Error::NotFound("the snapshot".into()))?;
                Ok((found.root, found.size_bytes))
            }
        }
    }

    pub(crate) fn shown_name(&self, id: u64, snapshot: Option<u64>) -> String {
        let Some(image) = self.images.get(&id) else {
            return format!("image number {id}");
        };
        if image.is_hidden() {
            let mut objects = self.objects.iter();
            let found = objects.find(|(_, of)| **of == id);
            return found.map_or_else(
                || "an object".into(),
                |((pool, name), _)| format!("object {pool}/{name}"),
            );
        }
        match snapshot.and_then(|number| image.snapshots.get(&number)) {
            Some(found) => image.spec.at(&found.name).to_string(),
            None => image.spec.to_string(),
        }
    }

    pub(crate) fn info(&self, spec: &ImageSpec) -> Result<ImageInfo> {
        let image = self.named(spec)?;
        let parent = image.parent.and_then(|(id, number)| {
            let of = self.images.get(&id)?;
            let snapshot = of.snapshots.get(&number)?;
            Some(of.spec.at(&snapshot.name))
        });
        let snapshots = image.snapshots.values().map(|snapshot| SnapshotInfo {
            name: snapshot.name.clone(),
            size_bytes: snapshot.size_bytes,
            protected: snapshot.protected,
        });
        Ok(ImageInfo {
            size_bytes: image.size_bytes,
            used_bytes: image.root.mapped * UNIT_BYTES as u64,
            parent,
            snapshots: snapshots.collect(),
        })
    }

    pub(crate) fn clones(&self, id: u64, snapshot: u64) -> Vec<ImageSpec> {
        let clones = self.children.get(&(id, snapshot)).into_iter().flatten();
        let clones = clones.filter_map(|id| self.images.get(id));
        let mut clones: Vec<ImageSpec> = clones.map(|image| image.spec.clone()).collect();
        clones.sort();
        clones
    }

    fn require_free_name(&self, spec: &ImageSpec) -> Result<()> {
        check_name("image", &spec.image)?;
        self.require_pool(&spec.pool)?;
        match self.id(spec) {
            Ok(_) => Err(Error::Exists(format!("image {spec}"))),
            Err(_) => Ok(()),
        }
    }

    pub(crate) fn plan_create(
        &mut self,
        spec: &ImageSpec,
        size_bytes: u64,
    ) -> Result<CatalogueChange> {
        self.require_free_name(spec)?;
        Ok(CatalogueChange::CreateImage {
            id: self.new_id(),
            spec: spec.clone(),
            size_bytes,
        })
    }

    pub(crate) fn plan_remove(&self, spec: &ImageSpec) -> Result<CatalogueChange> {
        let id = self.id(spec)?;
        let image = self.image(id)?;
        if !image.snapshots.is_empty() {
            let names = image
                .snapshots
                .values()
                .map(|snapshot| snapshot.name.clone());
            return Err(Error::HasSnapshots {
                image: spec.clone(),
                snapshots: names.collect(),
            });
        }
        if image.open.strong_count() > 0 {
            return Err(busy(format!("image {spec}"), Vec::new()));
        }
        Ok(CatalogueChange::RemoveImage { id })
    }

    pub(crate) fn plan_rename(&self, spec: &ImageSpec, name: &str) -> Result<CatalogueChange> {
        check_name("image", name)?;
        let id = self.id(spec)?;
        self.require_free_name(&ImageSpec::new(&spec.pool, name))?;
        let name = name.to_owned();
        Ok(CatalogueChange::Rename { id, name })
    }

    pub(crate) fn plan_resize(&self, spec: &ImageSpec, size_bytes: u64) -> Result<Plan> {
        let id = self.id(spec)?;
        let then = CatalogueChange::Resize { id, size_bytes };
        let cut = size_bytes < self.image(id)?.size_bytes;
        let unit = UNIT_BYTES as u64;
        if !cut || size_bytes.is_multiple_of(unit) {
            return Ok(Plan::Change(then));
        }
        // What lies behind the end in its block must not come back with a later growth.
        let rest = size_bytes.next_multiple_of(unit) - size_bytes;
        Ok(Plan::Patch(Patch {
            image: id,
            offset: size_bytes,
            content: Content::Zero(rest),
            then: Some(then),
            reply: None,
            durable: true,
        }))
    }

    pub(crate) fn plan_snapshot(&mut self, spec: &SnapshotSpec) -> Result<CatalogueChange> {
        check_name("snapshot", &spec.snapshot)?;
        let id = self.id(&spec.image)?;
        if self.snapshot(spec).is_ok() {
            return Err(Error::Exists(format!("snapshot {spec}")));
        }
        Ok(CatalogueChange::CreateSnapshot {
            id,
            snapshot: self.new_id(),
            name: spec.snapshot.clone(),
        })
    }

    pub(crate) fn plan_rename_snapshot(
        &self,
        spec: &SnapshotSpec,
        name: &str,
    ) -> Result<CatalogueChange> {
        check_name("snapshot", name)?;
        let (id, snapshot, _) = self.snapshot(spec)?;
        let new = spec.image.at(name);
        if self.snapshot(&new).is_ok() {
            return Err(Error::Exists(format!("snapshot {new}")));
        }
        Ok(CatalogueChange::RenameSnapshot {
            id,
            snapshot,
            name: name.to_owned(),
        })
    }

    pub(crate) fn plan_protect(
        &self,
        spec: &SnapshotSpec,
        protected: bool,
    ) -> Result<Option<CatalogueChange>> {
        let (id, snapshot, found) = self.snapshot(spec)?;
        let children = self.clones(id, snapshot);
        if !protected && !children.is_empty() {
            return Err(busy(format!("snapshot {spec}"), children));
        }
        let change = CatalogueChange::Protect {
            id,
            snapshot,
            protected,
        };
        Ok((found.protected != protected).then_some(change))
    }

    pub(crate) fn plan_remove_snapshot(&self, spec: &SnapshotSpec) -> Result<CatalogueChange> {
        let (id, snapshot, found) = self.snapshot(spec)?;
        if found.protected || found.open.strong_count() > 0 {
            let children = self.clones(id, snapshot);
            return Err(busy(format!("snapshot {spec}"), children));
        }
        Ok(CatalogueChange::RemoveSnapshot { id, snapshot })
    }

    pub(crate) fn plan_clone(
        &mut self,
        parent: &SnapshotSpec,
        child: &ImageSpec,
    ) -> Result<CatalogueChange> {
        let (of, snapshot, found) = self.snapshot(parent)?;
        if !found.protected {
            let text = format!("snapshot {parent} is not protected");
            return Err(Error::Invalid(text));
        }
        self.require_free_name(child)?;
        Ok(CatalogueChange::Clone {
            id: self.new_id(),
            spec: child.clone(),
            parent: of,
            snapshot,
        })
    }

    /// The maps that a diff compares, and the size of the newer.
    pub(crate) fn change(
        &self,
        spec: &ImageSpec,
        from: Option<&str>,
        to: Option<&str>,
    ) -> Result<(u64, Option<u64>, Option<u64>)> {
        let id = self.id(spec)?;
        let find = |name: &str| self.snapshot(&spec.at(name)).map(|(_, number, _)| number);
        let older = from.map(find).transpose()?;
        let newer = to.map(find).transpose()?;
        if let (Some(older), Some(newer)) = (older, newer)
            && older >= newer
        {
            let [from, to] = [from, to].map(Option::unwrap_or_default);
            let text = format!("snapshot {from} is not older than {to}");
            return Err(Error::Invalid(text));
        }
        Ok((id, older, newer))
    }

    /// Hidden images that no object has: a crash cut their making off.
    pub(crate) fn orphans(&self) -> Vec<u64> {
        let owned: BTreeSet<u64> = self.objects.values().copied().collect();
        let hidden = self.images.iter().filter(|(_, image)| image.is_hidden());
        let hidden = hidden.map(|(id, _)| *id);
        hidden.filter(|id| !owned.contains(id)).collect()
    }
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
