//! Pools, images, snapshots, clones, metadata: all in memory, changed by records of the log only.
//!
//! [`super::plans`] checks calls, [`super::apply`] carries records out. Data is in the trees
//! ([`super::tree`]).

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use super::buffer::UNIT_BYTES;
use super::tree::Root;
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

    pub(super) fn set_size(&mut self, size_bytes: u64) {
        self.size_bytes = size_bytes;
        self.shown_bytes.store(size_bytes, Ordering::Release);
    }
}

fn no_snapshot(spec: &SnapshotSpec) -> Error {
    Error::NotFound(format!("snapshot {spec}"))
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
            parent,
            snapshots: snapshots.collect(),
        })
    }

    pub(crate) fn used_bytes(&self, spec: &ImageSpec) -> Result<u64> {
        Ok(self.named(spec)?.root.mapped * UNIT_BYTES as u64)
    }

    pub(crate) fn clones(&self, id: u64, snapshot: u64) -> Vec<ImageSpec> {
        let clones = self.children.get(&(id, snapshot)).into_iter().flatten();
        let clones = clones.filter_map(|id| self.images.get(id));
        let mut clones: Vec<ImageSpec> = clones.map(|image| image.spec.clone()).collect();
        clones.sort();
        clones
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
