//! The calls that change only the catalogue: images, snapshots, clones, metadata.

use std::sync::Arc;

use super::records::{
    Disk, Fields, ImageRecord, SnapshotRecord, broken, key, name_key, number_at, prefix_end,
};
use super::state::{Dropped, State};
use super::table::corrupt;
use super::tree::Root;
use crate::store::check_name;
use crate::{Error, ImageInfo, ImageSpec, Result, SnapshotInfo, SnapshotSpec};

/// A key and its value.
pub(super) type Record = (Vec<u8>, Arc<Vec<u8>>);

impl State {
    pub(super) fn scan(&self, prefix: &[u8]) -> Result<Vec<Record>> {
        self.catalogue.range(prefix.to_vec(), prefix_end(prefix))
    }

    /// The names behind a prefix.
    pub(super) fn names(&self, prefix: &[u8]) -> Result<Vec<String>> {
        let name = |key: &[u8]| {
            let name = key.get(prefix.len()..).map(<[u8]>::to_vec);
            name.and_then(|name| String::from_utf8(name).ok())
                .ok_or_else(|| corrupt(format!("key {key:02x?}")))
        };
        let found = self.scan(prefix)?;
        found.iter().map(|(key, _)| name(key)).collect()
    }

    pub(super) fn pool_names(&self) -> Result<Vec<String>> {
        self.names(b"P")
    }

    pub(super) fn ensure_pool(&mut self, pool: &str) -> Result<()> {
        check_name("pool", pool)?;
        let key = [b"P", pool.as_bytes()].concat();
        if self.catalogue.get(&key)?.is_none() {
            self.require_space()?;
            self.catalogue.set(key, Vec::new());
        }
        Ok(())
    }

    fn require_pool(&mut self, pool: &str) -> Result<()> {
        let found = self.catalogue.get(&[b"P", pool.as_bytes()].concat())?;
        found
            .map(|_| ())
            .ok_or_else(|| Error::NotFound(format!("pool {pool}")))
    }

    pub(super) fn image_names(&mut self, pool: &str) -> Result<Vec<String>> {
        self.require_pool(pool)?;
        self.names(&name_key(b'N', pool, ""))
    }

    pub(super) fn image_id(&mut self, spec: &ImageSpec) -> Result<u64> {
        let found = self
            .catalogue
            .get(&name_key(b'N', &spec.pool, &spec.image))?;
        let Some(value) = found else {
            self.require_pool(&spec.pool)?;
            return Err(Error::NotFound(format!("image {spec}")));
        };
        Fields(&value)
            .u64()
            .ok_or_else(|| corrupt(format!("the name {spec}")))
    }

    pub(super) fn image(&mut self, id: u64) -> Result<ImageRecord> {
        let value = self.catalogue.get(&key(b'I', &[id]))?;
        value
            .and_then(|value| ImageRecord::from_bytes(&value))
            .ok_or_else(|| broken("image", id))
    }

    fn set_image(&mut self, id: u64, record: &ImageRecord) {
        self.catalogue.set(key(b'I', &[id]), record.to_bytes());
    }

    /// `NotFound`: the image was removed.
    pub(super) fn head(&mut self, id: u64) -> Result<Disk> {
        let value = self.catalogue.get(&key(b'H', &[id]))?;
        let value = value.ok_or_else(|| Error::NotFound("the image".into()))?;
        Disk::from_bytes(&value).ok_or_else(|| broken("head", id))
    }

    pub(super) fn set_head(&mut self, id: u64, disk: Disk) {
        self.catalogue.set(key(b'H', &[id]), disk.to_bytes());
    }

    pub(super) fn snapshots(&self, image: u64) -> Result<Vec<SnapshotRecord>> {
        let found = self.scan(&key(b'S', &[image]))?;
        let parse = |(key, value): &Record| {
            let id = number_at(key, 1)?;
            SnapshotRecord::from_bytes(id, value).ok_or_else(|| broken("snapshot", id))
        };
        found.iter().map(parse).collect()
    }

    /// The image's id and the snapshot.
    pub(super) fn snapshot(&mut self, spec: &SnapshotSpec) -> Result<(u64, SnapshotRecord)> {
        let image = self.image_id(&spec.image)?;
        let mut snapshots = self.snapshots(image)?.into_iter();
        let found = snapshots.find(|snapshot| snapshot.name == spec.snapshot);
        found
            .map(|snapshot| (image, snapshot))
            .ok_or_else(|| Error::NotFound(format!("snapshot {spec}")))
    }

    fn set_snapshot(&mut self, image: u64, record: &SnapshotRecord) {
        let key = key(b'S', &[image, record.id]);
        self.catalogue.set(key, record.to_bytes());
    }

    fn add_image(
        &mut self,
        spec: &ImageSpec,
        disk: Disk,
        parent: Option<(u64, u64)>,
    ) -> Result<()> {
        check_name("image", &spec.image)?;
        self.require_space()?;
        self.require_pool(&spec.pool)?;
        let name = name_key(b'N', &spec.pool, &spec.image);
        if self.catalogue.get(&name)?.is_some() {
            return Err(Error::Exists(format!("image {spec}")));
        }
        let id = self.new_id();
        self.catalogue.set(name, id.to_le_bytes().to_vec());
        let spec = spec.clone();
        self.set_image(id, &ImageRecord { spec, parent });
        self.set_head(id, disk);
        if let Some((image, snapshot)) = parent {
            let link = key(b'L', &[image, snapshot, id]);
            self.catalogue.set(link, Vec::new());
        }
        Ok(())
    }

    pub(super) fn create(&mut self, spec: &ImageSpec, size_bytes: u64) -> Result<()> {
        let root = Root::default();
        self.add_image(spec, Disk { size_bytes, root }, None)
    }

    pub(super) fn clone_image(&mut self, parent: &SnapshotSpec, child: &ImageSpec) -> Result<()> {
        let (image, snapshot) = self.snapshot(parent)?;
        if !snapshot.protected {
            let text = format!("snapshot {parent} is not protected");
            return Err(Error::Invalid(text));
        }
        self.share(snapshot.disk.root.node)?;
        self.add_image(child, snapshot.disk, Some((image, snapshot.id)))
    }

    pub(super) fn info(&mut self, spec: &ImageSpec) -> Result<ImageInfo> {
        let id = self.image_id(spec)?;
        let head = self.head(id)?;
        let parent = match self.image(id)?.parent {
            None => None,
            Some((image, snapshot)) => {
                let of = self.image(image)?.spec;
                let mut snapshots = self.snapshots(image)?.into_iter();
                let found = snapshots.find(|found| found.id == snapshot);
                let found = found.ok_or_else(|| broken("snapshot", snapshot))?;
                Some(of.at(found.name))
            }
        };
        let snapshots = self
            .snapshots(id)?
            .into_iter()
            .map(|snapshot| SnapshotInfo {
                name: snapshot.name,
                size_bytes: snapshot.disk.size_bytes,
                protected: snapshot.protected,
            });
        Ok(ImageInfo {
            size_bytes: head.size_bytes,
            used_bytes: head.root.mapped * super::blocks::BLOCK_BYTES,
            parent,
            snapshots: snapshots.collect(),
        })
    }

    pub(super) fn remove_image(&mut self, spec: &ImageSpec) -> Result<()> {
        let id = self.image_id(spec)?;
        let snapshots = self.snapshots(id)?;
        if !snapshots.is_empty() {
            return Err(Error::HasSnapshots {
                image: spec.clone(),
                snapshots: snapshots
                    .into_iter()
                    .map(|snapshot| snapshot.name)
                    .collect(),
            });
        }
        if self.heads.get(&id).is_some_and(|head| head.is_open()) {
            return Err(busy(format!("image {spec}"), Vec::new()));
        }
        self.unlink_parent(id)?;
        let head = self.head(id)?;
        self.let_go_root(head.root)?;
        let metadata = self.scan(&key(b'M', &[id]))?;
        let keys = metadata.into_iter().map(|(key, _)| key);
        let own = [
            name_key(b'N', &spec.pool, &spec.image),
            key(b'I', &[id]),
            key(b'H', &[id]),
        ];
        for key in keys.chain(own) {
            self.catalogue.put(key, None);
        }
        self.heads.remove(&id);
        Ok(())
    }

    fn unlink_parent(&mut self, id: u64) -> Result<()> {
        let mut record = self.image(id)?;
        if let Some((image, snapshot)) = record.parent.take() {
            self.catalogue.put(key(b'L', &[image, snapshot, id]), None);
            self.set_image(id, &record);
        }
        Ok(())
    }

    pub(super) fn flatten(&mut self, spec: &ImageSpec) -> Result<()> {
        let id = self.image_id(spec)?;
        self.unlink_parent(id)
    }

    pub(super) fn rename(&mut self, spec: &ImageSpec, name: &str) -> Result<()> {
        check_name("image", name)?;
        let id = self.image_id(spec)?;
        let new = ImageSpec::new(&spec.pool, name);
        let new_key = name_key(b'N', &new.pool, &new.image);
        if self.catalogue.get(&new_key)?.is_some() {
            return Err(Error::Exists(format!("image {new}")));
        }
        let old_key = name_key(b'N', &spec.pool, &spec.image);
        self.catalogue.put(old_key, None);
        self.catalogue.set(new_key, id.to_le_bytes().to_vec());
        let mut record = self.image(id)?;
        record.spec = new;
        self.set_image(id, &record);
        Ok(())
    }

    pub(super) fn create_snapshot(&mut self, spec: &SnapshotSpec) -> Result<()> {
        check_name("snapshot", &spec.snapshot)?;
        self.require_space()?;
        let image = self.image_id(&spec.image)?;
        let snapshots = self.snapshots(image)?;
        if snapshots.iter().any(|found| found.name == spec.snapshot) {
            return Err(Error::Exists(format!("snapshot {spec}")));
        }
        let disk = self.head(image)?;
        self.share(disk.root.node)?;
        let record = SnapshotRecord {
            id: self.new_id(),
            disk,
            protected: false,
            name: spec.snapshot.clone(),
        };
        self.set_snapshot(image, &record);
        Ok(())
    }

    pub(super) fn children(&mut self, spec: &SnapshotSpec) -> Result<Vec<ImageSpec>> {
        let (image, snapshot) = self.snapshot(spec)?;
        let mut children = Vec::new();
        for (key, _) in self.scan(&key(b'L', &[image, snapshot.id]))? {
            children.push(self.image(number_at(&key, 2)?)?.spec);
        }
        children.sort();
        Ok(children)
    }

    pub(super) fn rename_snapshot(&mut self, spec: &SnapshotSpec, name: &str) -> Result<()> {
        check_name("snapshot", name)?;
        let (image, mut snapshot) = self.snapshot(spec)?;
        let new = spec.image.at(name);
        if self
            .snapshots(image)?
            .iter()
            .any(|found| found.name == name)
        {
            return Err(Error::Exists(format!("snapshot {new}")));
        }
        snapshot.name = name.to_owned();
        self.set_snapshot(image, &snapshot);
        Ok(())
    }

    pub(super) fn set_protected(&mut self, spec: &SnapshotSpec, protected: bool) -> Result<()> {
        let (image, mut snapshot) = self.snapshot(spec)?;
        if !protected {
            let children = self.children(spec)?;
            if !children.is_empty() {
                return Err(busy(format!("snapshot {spec}"), children));
            }
        }
        if snapshot.protected != protected {
            snapshot.protected = protected;
            self.set_snapshot(image, &snapshot);
        }
        Ok(())
    }

    pub(super) fn remove_snapshot(&mut self, spec: &SnapshotSpec) -> Result<()> {
        let (image, snapshot) = self.snapshot(spec)?;
        let open = self.open_snapshots.get(&(image, snapshot.id));
        if snapshot.protected || open.is_some_and(|open| open.strong_count() > 0) {
            let children = self.children(spec)?;
            return Err(busy(format!("snapshot {spec}"), children));
        }
        self.let_go_root(snapshot.disk.root)?;
        self.catalogue.put(key(b'S', &[image, snapshot.id]), None);
        self.open_snapshots.remove(&(image, snapshot.id));
        Ok(())
    }

    /// Answers the new size.
    pub(super) fn roll_back(&mut self, spec: &SnapshotSpec) -> Result<u64> {
        let (image, snapshot) = self.snapshot(spec)?;
        self.share(snapshot.disk.root.node)?;
        let head = self.head(image)?;
        self.let_go_root(head.root)?;
        self.set_head(image, snapshot.disk);
        Ok(snapshot.disk.size_bytes)
    }

    pub(super) fn metadata_key(&mut self, spec: &ImageSpec, name: &str) -> Result<Vec<u8>> {
        let mut key = key(b'M', &[self.image_id(spec)?]);
        key.extend(name.as_bytes());
        Ok(key)
    }

    pub(super) fn object_key(&mut self, pool: &str, name: &str) -> Result<Vec<u8>> {
        self.require_pool(pool)?;
        Ok(name_key(b'O', pool, name))
    }

    pub(super) fn queue_drop(&mut self, node: u64, level: u8) {
        let sequence = self.new_id();
        let mut value = node.to_le_bytes().to_vec();
        value.push(level);
        self.catalogue.set(key(b'D', &[sequence]), value);
        self.call.dropped.push(Dropped {
            sequence,
            node,
            level,
        });
    }

    /// Takes one dropped node apart.
    pub(super) fn finish_drop(&mut self, dropped: Dropped) -> Result<()> {
        self.catalogue.put(key(b'D', &[dropped.sequence]), None);
        self.free_node(dropped.node, dropped.level)
    }

    pub(super) fn load_drops(&self) -> Result<Vec<Dropped>> {
        let parse = |(key, value): &Record| {
            let sequence = number_at(key, 0)?;
            let mut fields = Fields(value);
            let node = fields.u64().zip(fields.u8());
            let (node, level) = node.ok_or_else(|| broken("dropped node", sequence))?;
            Ok(Dropped {
                sequence,
                node,
                level,
            })
        };
        self.scan(b"D")?.iter().map(parse).collect()
    }
}

fn busy(what: String, children: Vec<ImageSpec>) -> Error {
    Error::Busy { what, children }
}
