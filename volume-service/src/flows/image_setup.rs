//! What a volume's type asks of its image: limits of rate that the back-end keeps, and whether
//! several clients write to it at once. Names and meaning are those of Cinder's RBD driver.

use std::collections::BTreeMap;

use storage::{ImageSpec, ImageStore};
use taskflow::{Run, TaskError};
use uuid::Uuid;

use super::create_volume::{CreateVolume, VolumeSource};
use super::steps::store_failure;
use crate::db::metadata::{self, Kind, Metadata};
use crate::db::{qos_specs, volume_types};
use crate::manager::{Manager, Placement};

/// Limits in an image's metadata have this beginning.
const LIMIT_PREFIX: &str = "conf_rbd_qos_";

/// Keys of QoS specs, and what they are called in an image's metadata. Cinder writes
/// `total_iops_sec_max` over the limit of bytes; here it is a limit of requests.
const LIMITS: [(&str, &str); 12] = [
    ("total_iops_sec", "conf_rbd_qos_iops_limit"),
    ("read_iops_sec", "conf_rbd_qos_read_iops_limit"),
    ("write_iops_sec", "conf_rbd_qos_write_iops_limit"),
    ("total_bytes_sec", "conf_rbd_qos_bps_limit"),
    ("read_bytes_sec", "conf_rbd_qos_read_bps_limit"),
    ("write_bytes_sec", "conf_rbd_qos_write_bps_limit"),
    ("total_iops_sec_max", "conf_rbd_qos_iops_burst"),
    ("read_iops_sec_max", "conf_rbd_qos_read_iops_burst"),
    ("write_iops_sec_max", "conf_rbd_qos_write_iops_burst"),
    ("total_bytes_sec_max", "conf_rbd_qos_bps_burst"),
    ("read_bytes_sec_max", "conf_rbd_qos_read_bps_burst"),
    ("write_bytes_sec_max", "conf_rbd_qos_write_bps_burst"),
];

/// How an image is set up.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Setup {
    /// Metadata by key.
    limits: BTreeMap<String, String>,
    /// Several clients write to it.
    multiattach: bool,
}

impl Setup {
    /// What volumes of a type ask for in this store.
    pub(super) async fn of_type(
        manager: &Manager,
        store: &dyn ImageStore,
        volume_type_id: Uuid,
        multiattach: bool,
    ) -> Result<Self, TaskError> {
        let limits = match store.limits_rates() {
            true => limits_of_type(manager, volume_type_id).await?,
            false => BTreeMap::new(),
        };
        Ok(Setup {
            limits,
            multiattach,
        })
    }

    /// What an image has, of which it is known whether several clients write to it.
    pub(super) async fn of_image(
        store: &dyn ImageStore,
        image: &ImageSpec,
        multiattach: bool,
    ) -> Result<Self, TaskError> {
        let mut limits = BTreeMap::new();
        if store.limits_rates() {
            limits.extend(store.metadata(image).await.map_err(store_failure)?);
            limits.retain(|key, _| key.starts_with(LIMIT_PREFIX));
        }
        Ok(Setup {
            limits,
            multiattach,
        })
    }

    /// Turns an image that is set up in another way into one that is set up in this way.
    pub(super) async fn apply(
        &self,
        store: &dyn ImageStore,
        image: &ImageSpec,
        before: &Setup,
    ) -> Result<(), TaskError> {
        if self.multiattach != before.multiattach {
            let shared = store.share_writes(image, self.multiattach).await;
            shared.map_err(store_failure)?;
        }
        for (key, value) in &self.limits {
            let set = store.set_metadata(image, key, value).await;
            set.map_err(store_failure)?;
        }
        for key in before.limits.keys() {
            if self.limits.contains_key(key) {
                continue;
            }
            match store.remove_metadata(image, key).await {
                Ok(()) | Err(storage::Error::NotFound(_)) => {}
                Err(error) => return Err(store_failure(error)),
            }
        }
        Ok(())
    }
}

/// The limits that the back-end is to keep.
async fn limits_of_type(
    manager: &Manager,
    volume_type_id: Uuid,
) -> Result<BTreeMap<String, String>, TaskError> {
    let volume_type = volume_types::get(&manager.database, volume_type_id).await?;
    let Some(specs_id) = volume_type.and_then(|found| found.qos_specs_id) else {
        return Ok(BTreeMap::new());
    };
    let specs = qos_specs::get(&manager.database, specs_id).await?;
    if specs.is_none_or(|specs| specs.consumer == "front-end") {
        return Ok(BTreeMap::new());
    }
    let keys = metadata::get(&manager.database, Kind::Qos, specs_id).await?;
    Ok(limits(&keys))
}

fn limits(keys: &Metadata) -> BTreeMap<String, String> {
    let known = LIMITS.iter().filter_map(|(spec, key)| {
        let value = keys.get(*spec)?;
        Some(((*key).to_owned(), value.clone()))
    });
    known.collect()
}

/// Sets up the image that a volume has just got. Run again, it does the same again.
pub(super) async fn set_up_new(
    run: &Run<CreateVolume>,
    place: &Placement<'_>,
) -> Result<(), TaskError> {
    let volume = run.ctx.volume(run.params.volume_id).await?;
    let store = place.store();
    let wanted = Setup::of_type(&run.ctx, store, volume.volume_type_id, volume.multiattach);
    let wanted = wanted.await?;
    // A clone begins with its parent's metadata.
    let before = match run.params.source {
        VolumeSource::Volume { volume_id } | VolumeSource::Snapshot { volume_id, .. } => {
            let source = run.ctx.volume(volume_id).await?;
            let has_same_type = source.volume_type_id == volume.volume_type_id;
            let of_source = Setup::of_type(&run.ctx, store, source.volume_type_id, false).await?;
            match has_same_type || of_source.limits.is_empty() {
                true => Setup::default(),
                false => Setup::of_image(store, &place.image, false).await?,
            }
        }
        VolumeSource::Empty | VolumeSource::Image { .. } | VolumeSource::Backup { .. } => {
            Setup::default()
        }
    };
    wanted.apply(store, &place.image, &before).await
}

#[cfg(test)]
mod tests {
    use storage::memory::MemoryStore;
    use storage::testing::TestStore;
    use taskflow::NewFlow;

    use super::super::testbed::{World, requester, volume_image};
    use super::super::{MigrationPolicy, RetypeVolume, RetypeVolumeParams};
    use super::*;

    async fn world() -> World {
        World::on(
            TestStore::new(MemoryStore::new().limiting_rates()).await,
            |_| {},
        )
        .await
    }

    /// A type with QoS specs of these keys.
    async fn volume_type(world: &World, consumer: &str, keys: &[(&str, &str)]) -> Uuid {
        let name = Uuid::new_v4().to_string();
        let mut tx = world.database.begin().await.unwrap();
        let made = volume_types::insert(&mut tx, &name, None, true)
            .await
            .unwrap();
        let specs = qos_specs::insert(&mut tx, &name, consumer).await.unwrap();
        let pair = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
        let keys: Metadata = keys.iter().map(pair).collect();
        metadata::insert(&mut tx, Kind::Qos, specs.id, &keys)
            .await
            .unwrap();
        qos_specs::associate(&mut tx, specs.id, made.id)
            .await
            .unwrap();
        tx.commit().await.unwrap();
        made.id
    }

    async fn volume_of(world: &World, type_id: Uuid, source: VolumeSource) -> Uuid {
        let id = world.volume_row(1, None).await;
        let text = type_id.to_string();
        world.set("volumes", id, "volume_type_id", &text).await;
        let flow = Ok(world.create_flow(id, 1, source));
        assert_eq!(world.run::<CreateVolume>(flow).await, "SUCCESS");
        id
    }

    async fn limits_of(world: &World, id: Uuid) -> Vec<(String, String)> {
        world.store.metadata(&volume_image(id)).await.unwrap()
    }

    fn limit(key: &str, value: &str) -> Vec<(String, String)> {
        vec![(format!("{LIMIT_PREFIX}{key}"), value.to_owned())]
    }

    fn retype(volume_id: Uuid, new_type_id: Uuid) -> NewFlow {
        let params = RetypeVolumeParams {
            volume_id,
            new_type_id,
            multiattach: false,
            policy: MigrationPolicy::Never,
            recryption: Default::default(),
        };
        RetypeVolume::new_flow(&params, &requester()).unwrap()
    }

    #[tokio::test]
    async fn back_ends_keep_the_limits_that_are_theirs() {
        let world = world().await;
        let keys = [("read_iops_sec", "300"), ("colour", "red")];
        for (consumer, expected) in [
            ("back-end", limit("read_iops_limit", "300")),
            ("both", limit("read_iops_limit", "300")),
            ("front-end", Vec::new()),
        ] {
            let type_id = volume_type(&world, consumer, &keys).await;
            let id = volume_of(&world, type_id, VolumeSource::Empty).await;
            assert_eq!(limits_of(&world, id).await, expected, "{consumer}");
        }
    }

    #[tokio::test]
    async fn a_retype_changes_the_limits() {
        let world = world().await;
        let slow = volume_type(&world, "back-end", &[("total_bytes_sec", "1")]).await;
        let fast = volume_type(&world, "back-end", &[("total_iops_sec", "900")]).await;
        let id = volume_of(&world, slow, VolumeSource::Empty).await;
        assert_eq!(limits_of(&world, id).await, limit("bps_limit", "1"));
        for (to, expected) in [
            (fast, limit("iops_limit", "900")),
            (Uuid::new_v4(), Vec::new()),
        ] {
            world
                .set("volumes", id, "previous_status", "available")
                .await;
            world.set_status("volumes", id, "retyping").await;
            let end = world.run::<RetypeVolume>(Ok(retype(id, to))).await;
            assert_eq!(end, "SUCCESS");
            assert_eq!(limits_of(&world, id).await, expected);
        }
    }
}
