//! What images and snapshots use, and what each has for itself alone.

use super::buffer::UNIT_BYTES;
use super::open::EmbeddedStore;
use super::scan::Pass;
use crate::{ImageSpec, Result, SnapshotSpec};

/// What the head of an image, or a snapshot, uses.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Usage {
    pub image: ImageSpec,
    /// `None`: the head.
    pub snapshot: Option<String>,
    pub size_bytes: u64,
    /// Data that it maps.
    pub used_bytes: u64,
    /// Data that nothing else maps: what removing it would set free.
    pub exclusive_bytes: u64,
    /// The snapshot that an image was cloned from.
    pub parent: Option<SnapshotSpec>,
}

impl Usage {
    /// Data that others map as well.
    pub fn shared_bytes(&self) -> u64 {
        self.used_bytes.saturating_sub(self.exclusive_bytes)
    }
}

impl EmbeddedStore {
    /// The heads and snapshots of all images, by name, snapshots before their head, the oldest
    /// first. The work is in proportion to what is not shared.
    pub async fn usage(&self) -> Result<Vec<Usage>> {
        let mut all = Vec::new();
        for (tree, mut usage) in self.named_trees()? {
            let mut units = 0;
            self.scan(tree, &Pass::Shared, |found| {
                let alone = found.entries.iter().filter(|entry| entry.alone);
                units += alone.count() as u64;
            })
            .await?;
            usage.exclusive_bytes = units * UNIT_BYTES as u64;
            all.push(usage);
        }
        Ok(all)
    }

    #[allow(clippy::type_complexity)]
    fn named_trees(&self) -> Result<Vec<((u64, Option<u64>), Usage)>> {
        self.shared.with(|shard| {
            shard.check_running()?;
            let catalogue = &shard.state.catalogue;
            let mut all = Vec::new();
            for id in catalogue.names.values() {
                let image = catalogue.image(*id)?;
                let parent = catalogue.info(&image.spec)?.parent;
                let usage = |snapshot: Option<&str>, size_bytes, mapped: u64, parent| Usage {
                    image: image.spec.clone(),
                    snapshot: snapshot.map(str::to_owned),
                    size_bytes,
                    used_bytes: mapped * UNIT_BYTES as u64,
                    exclusive_bytes: 0,
                    parent,
                };
                for (number, snapshot) in &image.snapshots {
                    let name = Some(snapshot.name.as_str());
                    let found = usage(name, snapshot.size_bytes, snapshot.root.mapped, None);
                    all.push(((*id, Some(*number)), found));
                }
                let head = usage(None, image.size_bytes, image.root.mapped, parent);
                all.push(((*id, None), head));
            }
            Ok(all)
        })?
    }
}
