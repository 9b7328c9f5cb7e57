//! Lists of what could be managed: images and snapshots of a host's pools, with what speaks
//! against it.

use std::collections::{HashMap, HashSet};

use rest::paging::Page;
use rest::sort::{Direction, SortKey};
use serde_json::{Value, json};
use uuid::Uuid;

use super::manage;
use crate::db::{self, volumes};
use crate::inventory::StoredImage;
use crate::manager::{snapshot_id_of_name, volume_id_of_image};
use crate::{Error, Result, VolumeService};

/// An image or a snapshot that could be managed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manageable {
    pub name: String,
    /// Of a snapshot: its image's name.
    pub source_name: Option<String>,
    pub size_gib: u64,
    /// None: it is safe to manage.
    pub reason_not_safe: Option<&'static str>,
    /// The id under which it is managed.
    pub managed_as: Option<Uuid>,
}

impl Manageable {
    /// What `POST` takes as `ref`.
    pub fn reference(&self) -> Value {
        json!({"source-name": self.name})
    }
}

/// The images of a host's pools.
pub async fn volumes(
    service: &VolumeService,
    host: &str,
    page: &Page,
    sort: &[SortKey],
) -> Result<Vec<Manageable>> {
    let images = images(service, host).await?;
    let named = |image: &StoredImage| volume_id_of_image(&image.name);
    let ids: Vec<Uuid> = images.iter().filter_map(named).collect();
    let managed = live_volumes(service, &ids).await?;
    let view = |image: StoredImage| {
        let managed_as = volume_id_of_image(&image.name).and_then(|id| managed.get(&id).copied());
        let reason_not_safe = match managed_as {
            Some(_) => Some("already managed"),
            None if image.name.ends_with(".deleted") => Some("volume marked as deleted"),
            None => None,
        };
        Manageable {
            size_gib: image.size_bytes.div_ceil(1 << 30),
            name: image.name,
            source_name: None,
            reason_not_safe,
            managed_as,
        }
    };
    paged(images.into_iter().map(view).collect(), page, sort)
}

/// The snapshots of the images in a host's pools.
pub async fn snapshots(
    service: &VolumeService,
    host: &str,
    page: &Page,
    sort: &[SortKey],
) -> Result<Vec<Manageable>> {
    let images = images(service, host).await?;
    let all = images.iter().flat_map(|image| &image.snapshots);
    let ids: Vec<Uuid> = all
        .filter_map(|snapshot| snapshot_id_of_name(&snapshot.name))
        .collect();
    let managed = live_snapshots(service, &ids).await?;
    let mut entries = Vec::new();
    for image in images {
        for snapshot in image.snapshots {
            let managed_as = snapshot_id_of_name(&snapshot.name).filter(|id| managed.contains(id));
            let reason_not_safe = match managed_as {
                Some(_) => Some("already managed"),
                None if snapshot.name.ends_with(".clone_snap") => Some("used for clone snap"),
                None if snapshot.name.starts_with("backup.") => Some("used for volume backup"),
                None => None,
            };
            entries.push(Manageable {
                name: snapshot.name,
                source_name: Some(image.name.clone()),
                size_gib: snapshot.size_bytes.div_ceil(1 << 30),
                reason_not_safe,
                managed_as,
            });
        }
    }
    paged(entries, page, sort)
}

async fn images(service: &VolumeService, host: &str) -> Result<Vec<StoredImage>> {
    manage::service_of(service, host).await?;
    let mut images = Vec::new();
    for pool in manage::pools_of(service, host).await? {
        images.extend(service.managers.images(&pool).await?);
    }
    Ok(images)
}

/// Ids asked for in one statement.
const IDS_AT_ONCE: usize = 500;

/// The live volumes, by the ids in the names of their images.
async fn live_volumes(service: &VolumeService, ids: &[Uuid]) -> Result<HashMap<Uuid, Uuid>> {
    let mut live = HashMap::new();
    for ids in ids.chunks(IDS_AT_ONCE) {
        let rows = volumes::of_images(&service.database, ids).await?;
        live.extend(rows.iter().map(|volume| (volume.image_id(), volume.id)));
    }
    Ok(live)
}

async fn live_snapshots(service: &VolumeService, ids: &[Uuid]) -> Result<HashSet<Uuid>> {
    let mut live = HashSet::new();
    for ids in ids.chunks(IDS_AT_ONCE) {
        live.extend(db::snapshots::live_ids(&service.database, ids).await?);
    }
    Ok(live)
}

/// Sorts by `reference` and `size`, and cuts the page out. The marker is the last reference of
/// the page before, as JSON.
fn paged(mut entries: Vec<Manageable>, page: &Page, sort: &[SortKey]) -> Result<Vec<Manageable>> {
    let unknown: Vec<_> = sort
        .iter()
        .map(|key| key.key.as_str())
        .filter(|key| !["reference", "size"].contains(key))
        .collect();
    if !unknown.is_empty() {
        let unknown = unknown.join(", ");
        return Err(Error::Invalid(format!(
            "Invalid sort keys passed: {unknown}"
        )));
    }
    entries.sort_by(|one, other| {
        for key in sort {
            let order = match key.key.as_str() {
                "size" => one.size_gib.cmp(&other.size_gib),
                _ => one.name.cmp(&other.name),
            };
            let order = match key.direction {
                Direction::Ascending => order,
                Direction::Descending => order.reverse(),
            };
            if order.is_ne() {
                return order;
            }
        }
        one.source_name.cmp(&other.source_name)
    });
    let start = match &page.marker {
        None => 0,
        Some(marker) => behind(&entries, marker)?,
    };
    let skipped = start.saturating_add(page.offset as usize);
    let rest = entries.into_iter().skip(skipped);
    Ok(rest.take(page.limit as usize).collect())
}

fn behind(entries: &[Manageable], marker: &str) -> Result<usize> {
    let wanted: Value = serde_json::from_str(marker).map_err(|_| {
        Error::invalid_input(format!(
            "marker {marker} can not be analysed, please use json like format"
        ))
    })?;
    let found = entries.iter().position(|entry| entry.reference() == wanted);
    let found = found.ok_or_else(|| Error::invalid_input(format!("marker not found: {marker}")))?;
    Ok(found.saturating_add(1))
}
