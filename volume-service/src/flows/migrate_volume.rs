//! `volume:migrate`: a volume on another pool, of the same store or of another one.

use async_trait::async_trait;
use database::Tx;
use serde::{Deserialize, Serialize};
use taskflow::{BoxTask, Flow, NewFlow, Run, TaskError, boxed};
use uuid::Uuid;

use super::relocate::{
    MoveData, PlanRoute, Recryption, Relocation, RemoveSource, SnapshotSource, SwitchHost, abandon,
    back_to_previous,
};
use super::swap::{AddTarget, AskServer};
use super::{Requester, addressed, volume_lock};
use crate::SCHEDULER_QUEUE;
use crate::db::status;
use crate::manager::Manager;

/// Parameters of [`MigrateVolume`]. Where it goes is in the volume's placement.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct MigrateVolumeParams {
    pub volume_id: Uuid,
    /// Copy the bytes also where the store could hand the image over.
    pub force_host_copy: bool,
    /// As it is and stays.
    #[serde(default)]
    pub recryption: Recryption,
}

/// Volume's migration_status `starting` → `migrating` → `success`, or `error`. A volume that was
/// locked for it (`maintenance`) gets its status back. One that a server has stays `migrating`
/// until the compute service says how that ended.
pub struct MigrateVolume;

impl MigrateVolume {
    /// To insert together with the migration_status `starting` and the placement; the scheduler
    /// hands it to a manager.
    pub fn new_flow(params: &MigrateVolumeParams, by: &Requester) -> taskflow::Result<NewFlow> {
        let flow = NewFlow::of::<MigrateVolume>(params)?;
        let flow = addressed(flow, SCHEDULER_QUEUE, ("volume", params.volume_id), by);
        Ok(flow.lock_exclusive(volume_lock(params.volume_id)))
    }
}

#[async_trait]
impl Flow for MigrateVolume {
    const KIND: &'static str = "volume:migrate";
    type Context = Manager;
    type Params = MigrateVolumeParams;

    fn tasks(_: &Self::Params) -> Vec<BoxTask<Self>> {
        vec![
            boxed(PlanRoute),
            boxed(SnapshotSource),
            boxed(MoveData),
            boxed(AddTarget),
            boxed(AskServer),
            boxed(SwitchHost),
            boxed(RemoveSource),
        ]
    }

    async fn parked(run: &Run<Self>, tx: &mut Tx) -> Result<(), TaskError> {
        migration_failed(tx, run.params.volume_id).await
    }
}

#[async_trait]
impl Relocation for MigrateVolume {
    fn volume_id(params: &MigrateVolumeParams) -> Uuid {
        params.volume_id
    }

    fn force_copy(params: &MigrateVolumeParams) -> bool {
        params.force_host_copy
    }

    fn recryption(params: &MigrateVolumeParams) -> Recryption {
        params.recryption
    }

    fn new_type(_: &MigrateVolumeParams) -> Option<(Uuid, bool)> {
        None
    }

    async fn arrived(run: &Run<Self>, _: bool, tx: &mut Tx) -> Result<(), TaskError> {
        back_to_previous(tx, run.params.volume_id, status::MAINTENANCE).await
    }

    async fn failed(run: &Run<Self>, tx: &mut Tx) -> Result<(), TaskError> {
        migration_failed(tx, run.params.volume_id).await
    }
}

/// The volume is where it was, and its migration_status says that it failed.
pub async fn migration_failed(tx: &mut Tx, volume_id: Uuid) -> Result<(), TaskError> {
    back_to_previous(tx, volume_id, status::MAINTENANCE).await?;
    abandon(tx, volume_id, true).await
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use storage::ImageStore;
    use storage::memory::MemoryStore;
    use taskflow::testing::{Fixture, exhaust};

    use super::super::testbed::{HOST, Inventory, World, image_key, inventory_of, requester};
    use super::super::{
        MigrationPolicy, RetypeVolume, RetypeVolumeParams, VolumeSource, volume_queue,
    };
    use super::*;
    use crate::db::placements::{self, Placement};
    use crate::manager::Backend;

    /// The testbed's back-end and a second one; a volume on the first is to go to `target`.
    struct Moving {
        world: World,
        other: Arc<dyn ImageStore>,
        flow_id: Uuid,
        volume_id: Uuid,
        target: &'static str,
        before: (Inventory, Inventory),
        after: (Inventory, Inventory),
    }

    const OTHER_STORE: &str = "host@other#elsewhere";
    const OTHER_POOL: &str = "host@beside#beside";

    async fn two_backends() -> (World, Arc<dyn ImageStore>) {
        let other: Arc<dyn ImageStore> = Arc::new(MemoryStore::new());
        let second = other.clone();
        let world = World::with(move |manager| {
            let first = manager.backends.get("memory").unwrap().store.clone();
            let beside = Backend::new("beside", first, "beside");
            manager.backends.insert("beside".into(), beside);
            let elsewhere = Backend::new("other", second, "elsewhere");
            manager.backends.insert("other".into(), elsewhere);
        })
        .await;
        (world, other)
    }

    async fn send(world: &World, volume_id: Uuid, target: &str) {
        let placement = Placement {
            target_host: Some(target.to_owned()),
            ..Placement::default()
        };
        let mut tx = world.database.begin().await.unwrap();
        placements::put(&mut tx, volume_id, &placement)
            .await
            .unwrap();
        tx.commit().await.unwrap();
    }

    fn migrate(volume_id: Uuid, force_host_copy: bool) -> NewFlow {
        let params = MigrateVolumeParams {
            volume_id,
            force_host_copy,
            recryption: Recryption::default(),
        };
        let flow = MigrateVolume::new_flow(&params, &requester()).unwrap();
        flow.queue(volume_queue(HOST))
    }

    fn retype(volume_id: Uuid, new_type_id: Uuid) -> NewFlow {
        let params = RetypeVolumeParams {
            volume_id,
            new_type_id,
            multiattach: true,
            policy: MigrationPolicy::OnDemand,
            recryption: Recryption::default(),
        };
        let flow = RetypeVolume::new_flow(&params, &requester()).unwrap();
        flow.queue(volume_queue(HOST))
    }

    impl Moving {
        async fn new(
            target: &'static str,
            (world, other): (World, Arc<dyn ImageStore>),
            volume_id: Uuid,
            flow: NewFlow,
        ) -> Self {
            send(&world, volume_id, target).await;
            let before = (world.inventory().await, inventory_of(&other).await);
            let mut after = before.clone();
            let key = image_key(volume_id);
            let mut image = after.0.images.remove(&key).unwrap();
            image.parent = None;
            image.snapshots.clear();
            let name = key.strip_prefix("volumes/").unwrap();
            if target == OTHER_POOL {
                after.0.images.insert(format!("beside/{name}"), image);
            } else {
                after.1.images.insert(format!("elsewhere/{name}"), image);
            }
            let flow_id = world.insert(flow).await;
            Moving {
                world,
                other,
                flow_id,
                volume_id,
                target,
                before,
                after,
            }
        }

        async fn assert_stores(&self, (first, second): &(Inventory, Inventory)) {
            assert!(self.world.inventory().await == *first, "the first store");
            assert!(
                inventory_of(&self.other).await == *second,
                "the second store"
            );
            let database = &self.world.database;
            let left = placements::get(database, self.volume_id).await.unwrap();
            assert_eq!(left, None);
        }

        async fn column(&self, column: &str) -> Option<String> {
            self.world.column("volumes", self.volume_id, column).await
        }
    }

    #[async_trait]
    impl<F: Flow<Context = Manager>> Fixture<F> for Moving {
        fn database(&self) -> &database::Database {
            &self.world.database
        }

        fn context(&self) -> Arc<Manager> {
            self.world.manager.clone()
        }

        fn flow_id(&self) -> Uuid {
            self.flow_id
        }

        async fn restart(&mut self) {
            self.world.store.crash().await;
        }

        async fn assert_done(&self) {
            self.assert_stores(&self.after).await;
            assert_eq!(self.column("host").await.as_deref(), Some(self.target));
            assert_eq!(self.column("status").await.as_deref(), Some("available"));
            let migration_status = self.column("migration_status").await;
            assert_eq!(migration_status.as_deref(), Some("success"));
        }

        async fn assert_reverted(&self) {
            self.assert_stores(&self.before).await;
            assert_eq!(self.column("host").await.as_deref(), Some(HOST));
            assert_eq!(self.column("status").await.as_deref(), Some("available"));
            let migration_status = self.column("migration_status").await;
            let fine = migration_status.as_deref() == Some("error");
            assert!(
                fine || F::KIND == RetypeVolume::KIND,
                "{migration_status:?}"
            );
        }
    }

    async fn locked(world: &World, volume_id: Uuid, to: &str) {
        world
            .set("volumes", volume_id, "previous_status", "available")
            .await;
        world.set_status("volumes", volume_id, to).await;
    }

    #[tokio::test]
    async fn to_another_store_by_copy() {
        exhaust::<MigrateVolume, _>(async || {
            let (world, other) = two_backends().await;
            let volume_id = world.filled_volume(3).await;
            locked(&world, volume_id, "maintenance").await;
            let flow = migrate(volume_id, false);
            Moving::new(OTHER_STORE, (world, other), volume_id, flow).await
        })
        .await;
    }

    #[tokio::test]
    async fn to_another_pool_of_the_store() {
        exhaust::<MigrateVolume, _>(async || {
            let (world, other) = two_backends().await;
            let volume_id = world.filled_volume(3).await;
            let flow = migrate(volume_id, false);
            Moving::new(OTHER_POOL, (world, other), volume_id, flow).await
        })
        .await;
        exhaust::<MigrateVolume, _>(async || {
            let (world, other) = two_backends().await;
            let volume_id = world.filled_volume(3).await;
            let flow = migrate(volume_id, true);
            Moving::new(OTHER_POOL, (world, other), volume_id, flow).await
        })
        .await;
    }

    #[tokio::test]
    async fn a_clone_leaves_its_source_and_its_own_clones_alone() {
        let (world, other) = two_backends().await;
        let first = world.filled_volume(3).await;
        let source = VolumeSource::Volume { volume_id: first };
        let volume_id = world.volume(1, source).await;
        let child = world.volume(1, VolumeSource::Volume { volume_id }).await;
        let bytes = world.head(child).await;
        send(&world, volume_id, OTHER_STORE).await;
        let end = world
            .run::<MigrateVolume>(Ok(migrate(volume_id, false)))
            .await;
        assert_eq!(end, "SUCCESS");
        let left = world.inventory().await.images;
        assert_eq!(
            left.keys().collect::<std::collections::BTreeSet<_>>(),
            [image_key(first), image_key(child)].iter().collect()
        );
        assert!(left[&image_key(first)].snapshots.is_empty());
        assert!(world.head(child).await == bytes && world.head(first).await == bytes);
        let moved = inventory_of(&other).await.images;
        assert!(moved.values().next().unwrap().head == bytes);
    }

    #[tokio::test]
    async fn volumes_with_snapshots_and_attached_ones_stay() {
        for attached in [false, true] {
            let (world, _) = two_backends().await;
            let volume_id = world.filled_volume(3).await;
            if attached {
                world
                    .set("volumes", volume_id, "attach_status", "attached")
                    .await;
            } else {
                world.snapshot(volume_id).await;
            }
            send(&world, volume_id, OTHER_STORE).await;
            let before = world.inventory().await;
            let end = world
                .run::<MigrateVolume>(Ok(migrate(volume_id, false)))
                .await;
            assert_eq!(end, "REVERTED");
            assert!(world.inventory().await == before);
            let host = world.column("volumes", volume_id, "host").await;
            assert_eq!(host.as_deref(), Some(HOST));
        }
    }

    #[tokio::test]
    async fn retypes_with_migration() {
        exhaust::<RetypeVolume, _>(async || {
            let (world, other) = two_backends().await;
            let volume_id = world.filled_volume(3).await;
            locked(&world, volume_id, "retyping").await;
            let flow = retype(volume_id, Uuid::new_v4());
            Moving::new(OTHER_STORE, (world, other), volume_id, flow).await
        })
        .await;
    }

    #[tokio::test]
    async fn retypes_in_place_change_the_type_only() {
        let (world, _) = two_backends().await;
        let volume_id = world.filled_volume(3).await;
        locked(&world, volume_id, "retyping").await;
        let before = world.inventory().await;
        let new_type_id = Uuid::new_v4();
        let end = world
            .run::<RetypeVolume>(Ok(retype(volume_id, new_type_id)))
            .await;
        assert_eq!(end, "SUCCESS");
        assert!(world.inventory().await == before);
        let column = async |name| world.column("volumes", volume_id, name).await;
        assert_eq!(
            column("volume_type_id").await,
            Some(new_type_id.to_string())
        );
        assert_eq!(column("status").await.as_deref(), Some("available"));
        assert_eq!(column("migration_status").await, None);
    }
}
