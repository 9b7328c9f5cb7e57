//! Calls about the catalogue: each is checked against what is there, and answers the record that
//! does it. One is carried out at a time, so the next sees what it did.

use super::buffer::UNIT_BYTES;
use super::catalogue::Catalogue;
use super::records::CatalogueChange;
use super::request::{Content, Patch, Plan};
use crate::store::check_name;
use crate::{Error, ImageSpec, Result, SnapshotSpec};

fn busy(what: String, children: Vec<ImageSpec>) -> Error {
    Error::Busy { what, children }
}

impl Catalogue {
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
}
