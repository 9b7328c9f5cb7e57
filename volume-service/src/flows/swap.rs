//! How a volume moves that a server has: another volume is made where it is to go, hidden from
//! users by its migration_status `target:<id>`, and the compute service is asked to give it to
//! the server in place of the first. It copies the bytes while the server runs, and calls
//! `os-migrate_volume_completion` in the end, which is
//! [`super::complete_migration`]. Until then the volume is what it was.
//!
//! A request to the compute service cannot be taken back. It reserves the other volume before it
//! answers: so an attachment of that volume means that the request was taken, whatever became of
//! the answer, and the volume stays until the compute service has told the outcome.

use async_trait::async_trait;
use database::Tx;
use taskflow::{Retry, Run, Task, TaskError};
use uuid::Uuid;

use super::create_volume::Encryption;
use super::encrypted;
use super::relocate::{PlanRoute, Relocation, Route};
use super::steps::{ensure_image, store_failure};
use crate::compute::{Compute, SwapError};
use crate::db::volumes::NewVolume;
use crate::db::{Change, attachments, services, status, volumes};
use crate::manager::{Manager, Placement};

/// The server that has a volume.
///
/// Errors: nobody can be asked to swap it, or not for this volume.
pub(super) async fn server_of(manager: &Manager, volume_id: Uuid) -> Result<Uuid, TaskError> {
    if !matches!(manager.compute, Compute::At(_)) {
        let text = format!("volume {volume_id} is attached, and there is no compute service");
        return Err(TaskError::new("VolumeAttached", text));
    }
    let all = attachments::of_volume(&manager.database, volume_id).await?;
    match all.as_slice() {
        [only] => only.instance_id.ok_or_else(|| {
            let text = format!("volume {volume_id} is attached to a host and to no server");
            TaskError::new("VolumeAttached", text)
        }),
        all => {
            let text = format!(
                "volume {volume_id} has {} attachments: servers can swap a volume that has one",
                all.len()
            );
            Err(TaskError::new("VolumeAttached", text))
        }
    }
}

/// Whether the compute service still works with the target of a move that has failed here.
pub(super) async fn is_kept(manager: &Manager, target_id: Option<Uuid>) -> Result<bool, TaskError> {
    match target_id {
        Some(id) => Ok(volumes::get(&manager.database, id).await?.is_some()),
        None => Ok(false),
    }
}

/// The image that the server will write to; of an encrypted volume, with its header.
pub(super) async fn make_image(
    manager: &Manager,
    old: &Placement<'_>,
    new: &Placement<'_>,
    encryption: Option<Encryption>,
) -> Result<(), TaskError> {
    let info = old.store().info(&old.image).await.map_err(store_failure)?;
    ensure_image(new.store(), &new.image, info.size_bytes).await?;
    if let Some(encryption) = encryption {
        encrypted::format(manager, new, encryption).await?;
    }
    Ok(())
}

/// The hidden volume is there, for the compute service to attach.
pub(super) struct AddTarget;

#[async_trait]
impl<F: Relocation> Task<F> for AddTarget {
    const NAME: &'static str = "add_target";
    const RECORD_ONLY: bool = true;
    type Output = ();

    async fn execute(&self, _: &Run<F>) -> Result<(), TaskError> {
        Ok(())
    }

    async fn record(&self, run: &Run<F>, _: &(), tx: &mut Tx) -> Result<(), TaskError> {
        let route: &Route = run.output::<PlanRoute>()?;
        let Some(target_id) = route.target_id() else {
            return Ok(());
        };
        let id = F::volume_id(&run.params);
        let Some(volume) = volumes::get(&mut *tx, id).await? else {
            return Err(TaskError::new(
                "VolumeNotFound",
                format!("volume {id} is gone"),
            ));
        };
        let host = route.to.clone().unwrap_or_default();
        let manager = services::of_host(&mut *tx, &host).await?;
        let own_type = (volume.volume_type_id, volume.multiattach);
        let (volume_type_id, multiattach) = F::new_type(&run.params).unwrap_or(own_type);
        let (service_uuid, zone) = match manager {
            Some(manager) => (Some(manager.id), manager.availability_zone),
            None => (None, volume.availability_zone),
        };
        let target = NewVolume {
            id: target_id,
            user_id: volume.user_id,
            project_id: volume.project_id,
            name: volume.name,
            description: volume.description,
            size_gib: volume.size_gib,
            availability_zone: zone,
            host: Some(host),
            volume_type_id,
            snapshot_id: volume.snapshot_id,
            source_volid: None,
            multiattach,
            encryption_key_id: F::recryption(&run.params).to.map(|to| to.key_id),
            consumes_quota: false,
        };
        volumes::insert(tx, target).await?;
        let change = Change::volume(target_id)
            .status(status::AVAILABLE)
            .set("migration_status = ?", target_of(id))
            .set("service_uuid = ?", service_uuid)
            .set("bootable = ?", volume.bootable)
            .set("readonly = ?", volume.readonly);
        change.apply(tx).await?;
        Ok(())
    }

    /// Unless the compute service has it.
    async fn record_revert(
        &self,
        run: &Run<F>,
        _: Option<&()>,
        tx: &mut Tx,
    ) -> Result<(), TaskError> {
        let route: &Route = run.output::<PlanRoute>()?;
        let Some(target_id) = route.target_id() else {
            return Ok(());
        };
        let id = F::volume_id(&run.params);
        let attached = attachments::of_volume(&mut *tx, target_id).await?;
        if attached.is_empty() {
            volumes::delete(tx, target_id).await?;
        } else {
            tracing::warn!(volume = %id, target = %target_id, "the compute service has taken a migration that failed here");
        }
        Ok(())
    }
}

/// The `migration_status` of the volume that `volume_id` moves into.
pub(crate) fn target_of(volume_id: Uuid) -> String {
    format!("target:{volume_id}")
}

/// The compute service has begun to swap the volumes.
pub(super) struct AskServer;

#[async_trait]
impl<F: Relocation> Task<F> for AskServer {
    const NAME: &'static str = "ask_server";
    type Output = ();

    fn retry(&self) -> Retry {
        Retry::times(5, 1000)
    }

    async fn execute(&self, run: &Run<F>) -> Result<(), TaskError> {
        let route: &Route = run.output::<PlanRoute>()?;
        let (Some(target_id), Some(server_id)) = (route.target_id(), route.server_id) else {
            return Ok(());
        };
        if is_taken(&run.ctx, target_id).await? {
            return Ok(());
        }
        let Compute::At(compute) = &run.ctx.compute else {
            let text = "there is no compute service to ask";
            return Err(TaskError::new("ComputeUnavailable", text));
        };
        let id = F::volume_id(&run.params);
        match compute.swap(server_id, id, target_id).await {
            Ok(()) => Ok(()),
            // The answer to a request that was taken may be lost.
            Err(_) if is_taken(&run.ctx, target_id).await? => Ok(()),
            Err(error @ SwapError::Refused(_)) => {
                Err(TaskError::new("ServerRefused", error.to_string()))
            }
            Err(SwapError::Unavailable(error)) => Err(TaskError::retryable(
                "ComputeUnavailable",
                error.to_string(),
            )),
        }
    }
}

/// Whether the compute service has reserved the target, or has told the outcome already.
async fn is_taken(manager: &Manager, target_id: Uuid) -> Result<bool, TaskError> {
    if volumes::get(&manager.database, target_id).await?.is_none() {
        return Ok(true);
    }
    let attached = attachments::of_volume(&manager.database, target_id).await?;
    Ok(!attached.is_empty())
}

#[cfg(test)]
pub(super) mod tests {
    use std::sync::{Arc, Mutex};

    use axum::extract::{Path, State};
    use axum::routing::put;
    use axum::{Json, Router};
    use database::Database;
    use http::StatusCode;
    use rest::http_client::Tls;
    use serde_json::{Value, json};
    use storage::ImageStore;
    use storage::memory::MemoryStore;
    use taskflow::testing::{Fixture, exhaust};
    use taskflow::{Flow, NewFlow};

    use super::super::migrate_volume::{MigrateVolume, MigrateVolumeParams};
    use super::super::relocate::Recryption;
    use super::super::retype_volume::{MigrationPolicy, RetypeVolume, RetypeVolumeParams};
    use super::super::testbed::{
        HOST, Inventory, StaticToken, World, inventory_of, requester, volume_image,
    };
    use super::super::volume_queue;
    use super::*;
    use crate::compute::Client;
    use crate::db::attachments::Attachment;
    use crate::db::placements::{self, Placement as Wish};
    use crate::manager::Backend;

    pub(in crate::flows) const OTHER: &str = "host@other#elsewhere";

    /// What the compute service answers, and whether it reserves the volume before.
    #[derive(Clone)]
    struct FakeNova {
        answer: StatusCode,
        reserves_in: Arc<Mutex<Option<Database>>>,
        heard: Arc<Mutex<Vec<(Uuid, Uuid, Value)>>>,
    }

    impl FakeNova {
        fn answering(answer: StatusCode) -> Self {
            FakeNova {
                answer,
                reserves_in: Arc::default(),
                heard: Arc::default(),
            }
        }

        async fn serve(&self) -> Compute {
            async fn swap(
                State(nova): State<FakeNova>,
                Path((server, volume)): Path<(Uuid, Uuid)>,
                Json(body): Json<Value>,
            ) -> (StatusCode, Json<Value>) {
                let target = body["volumeAttachment"]["volumeId"].as_str().unwrap();
                let target = Uuid::parse_str(target).unwrap();
                let database = nova.reserves_in.lock().unwrap().clone();
                if let Some(database) = database {
                    attach(&database, target, server).await;
                }
                nova.heard.lock().unwrap().push((server, volume, body));
                let fault = json!({"badRequest": {"code": 400, "message": "it is paused"}});
                (nova.answer, Json(fault))
            }
            let path = "/v2.1/servers/{server}/os-volume_attachments/{volume}";
            let router = Router::new()
                .route(path, put(swap))
                .with_state(self.clone());
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            let url = format!("http://{}/v2.1", listener.local_addr().unwrap());
            tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
            Compute::At(Client::new(&url, &Tls::default(), Arc::new(StaticToken)).unwrap())
        }

        fn count(&self) -> usize {
            self.heard.lock().unwrap().len()
        }
    }

    async fn attach(database: &Database, volume_id: Uuid, server: Uuid) {
        let attachment = Attachment {
            attach_status: status::ATTACHED.into(),
            connection_info: json!({"volume_id": volume_id}).as_object().cloned(),
            ..Attachment::reserved(volume_id, Some(server), "rw")
        };
        let mut tx = database.begin().await.unwrap();
        attachments::insert(&mut tx, &attachment).await.unwrap();
        Change::volume(volume_id)
            .status(status::IN_USE)
            .set("attach_status = ?", status::ATTACHED)
            .apply(&mut tx)
            .await
            .unwrap();
        tx.commit().await.unwrap();
    }

    /// A volume that a server has, to go to another store.
    pub(in crate::flows) struct Swapping {
        pub world: World,
        pub other: Arc<dyn ImageStore>,
        pub volume_id: Uuid,
        pub server_id: Uuid,
        nova: FakeNova,
        flow_id: Uuid,
        before: Inventory,
    }

    impl Swapping {
        async fn prepared(nova: FakeNova) -> Self {
            let other: Arc<dyn ImageStore> = Arc::new(MemoryStore::new());
            let (second, compute) = (other.clone(), nova.serve().await);
            let world = World::with(move |manager| {
                let elsewhere = Backend::new("other", second, "elsewhere");
                manager.backends.insert("other".into(), elsewhere);
                manager.compute = compute;
            })
            .await;
            world.manager.report().await.unwrap();
            let volume_id = world.filled_volume(3).await;
            let server_id = Uuid::new_v4();
            attach(&world.database, volume_id, server_id).await;
            let wish = Wish {
                target_host: Some(OTHER.to_owned()),
                ..Wish::default()
            };
            let mut tx = world.database.begin().await.unwrap();
            placements::put(&mut tx, volume_id, &wish).await.unwrap();
            tx.commit().await.unwrap();
            let before = world.inventory().await;
            Swapping {
                world,
                other,
                volume_id,
                server_id,
                nova,
                flow_id: Uuid::nil(),
                before,
            }
        }

        async fn migrating(nova: FakeNova) -> Self {
            let mut swapping = Self::prepared(nova).await;
            let params = MigrateVolumeParams {
                volume_id: swapping.volume_id,
                force_host_copy: false,
                recryption: Recryption::default(),
            };
            let flow = MigrateVolume::new_flow(&params, &requester());
            swapping.insert(flow.unwrap()).await;
            swapping
        }

        async fn retyping() -> Self {
            let mut swapping = Self::prepared(FakeNova::answering(StatusCode::ACCEPTED)).await;
            let params = RetypeVolumeParams {
                volume_id: swapping.volume_id,
                new_type_id: Uuid::from_u128(7),
                multiattach: false,
                policy: MigrationPolicy::OnDemand,
                recryption: Recryption::default(),
            };
            let (world, id) = (&swapping.world, swapping.volume_id);
            world.set("volumes", id, "previous_status", "in-use").await;
            world.set_status("volumes", id, status::RETYPING).await;
            let flow = RetypeVolume::new_flow(&params, &requester());
            swapping.insert(flow.unwrap()).await;
            swapping
        }

        async fn insert(&mut self, flow: NewFlow) {
            self.flow_id = self.world.insert(flow.queue(volume_queue(HOST))).await;
        }

        /// The flow has ended well: the compute service has been asked.
        pub async fn asked() -> Self {
            let swapping = Self::migrating(FakeNova::answering(StatusCode::ACCEPTED)).await;
            let end = swapping.world.finish::<MigrateVolume>(swapping.flow_id);
            assert_eq!(end.await, "SUCCESS");
            swapping
        }

        /// The compute service has attached the target in place of the volume.
        pub async fn hand_over(&self) -> Uuid {
            let target_id = self.target().await.unwrap();
            attach(&self.world.database, target_id, self.server_id).await;
            let mut tx = self.world.database.begin().await.unwrap();
            attachments::delete_of_volume(&mut tx, self.volume_id)
                .await
                .unwrap();
            tx.commit().await.unwrap();
            target_id
        }

        pub async fn target(&self) -> Option<Uuid> {
            let sql = "SELECT id FROM volumes WHERE migration_status = ? AND deleted_at IS NULL";
            let values = database::params![target_of(self.volume_id)];
            let row = self.world.database.fetch_optional(sql, values);
            row.await.unwrap().map(|row| row.get("id").unwrap())
        }

        pub async fn column(&self, column: &str) -> Option<String> {
            self.world.column("volumes", self.volume_id, column).await
        }
    }

    #[async_trait]
    impl<F: Flow<Context = Manager>> Fixture<F> for Swapping {
        fn database(&self) -> &Database {
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

        /// The volume is as it was, and beside it lies what the server is to get.
        async fn assert_done(&self) {
            assert!(self.world.inventory().await == self.before);
            assert_eq!(self.column("host").await.as_deref(), Some(HOST));
            let migration_status = self.column("migration_status").await;
            assert_eq!(migration_status.as_deref(), Some(status::MIGRATING));
            let target_id = self.target().await.unwrap();
            let target = self.world.manager.volume(target_id).await.unwrap();
            assert_eq!(target.host.as_deref(), Some(OTHER));
            assert_eq!((target.status.as_str(), target.size_gib), ("available", 1));
            assert!(!target.consumes_quota);
            let images = inventory_of(&self.other).await.images;
            assert_eq!(images.len(), 1);
            let image = &images[&format!("elsewhere/{}", volume_image(target_id).image)];
            assert_eq!(image.head.size_bytes, 1 << 30);
            let heard = self.nova.heard.lock().unwrap();
            let body = json!({"volumeAttachment": {"volumeId": target_id}});
            assert!(!heard.is_empty());
            for asked in heard.iter() {
                assert_eq!(*asked, (self.server_id, self.volume_id, body.clone()));
            }
        }

        async fn assert_reverted(&self) {
            assert!(self.world.inventory().await == self.before);
            assert!(inventory_of(&self.other).await.images.is_empty());
            assert_eq!(self.target().await, None);
            assert_eq!(self.column("host").await.as_deref(), Some(HOST));
            assert_eq!(self.column("status").await.as_deref(), Some("in-use"));
            let left = placements::get(&self.world.database, self.volume_id).await;
            assert_eq!(left.unwrap(), None);
        }
    }

    #[tokio::test]
    async fn a_server_is_asked_to_take_the_migrated_volume() {
        exhaust::<MigrateVolume, _>(async || {
            Swapping::migrating(FakeNova::answering(StatusCode::ACCEPTED)).await
        })
        .await;
    }

    #[tokio::test]
    async fn a_server_is_asked_to_take_the_retyped_volume() {
        exhaust::<RetypeVolume, _>(Swapping::retyping).await;
    }

    #[tokio::test]
    async fn a_server_that_refuses_leaves_the_volume() {
        let swapping = Swapping::migrating(FakeNova::answering(StatusCode::CONFLICT)).await;
        let end = swapping.world.finish::<MigrateVolume>(swapping.flow_id);
        assert_eq!(end.await, "REVERTED");
        Fixture::<MigrateVolume>::assert_reverted(&swapping).await;
        assert_eq!(swapping.nova.count(), 1);
        let migration_status = swapping.column("migration_status").await;
        assert_eq!(migration_status.as_deref(), Some(status::ERROR));
    }

    #[tokio::test]
    async fn a_request_that_was_taken_is_not_repeated() {
        let nova = FakeNova::answering(StatusCode::BAD_GATEWAY);
        let swapping = Swapping::migrating(nova.clone()).await;
        *nova.reserves_in.lock().unwrap() = Some(swapping.world.database.clone());
        let end = swapping.world.finish::<MigrateVolume>(swapping.flow_id);
        assert_eq!(end.await, "SUCCESS");
        assert_eq!(nova.count(), 1);
    }

    #[tokio::test]
    async fn nobody_to_ask_and_several_servers_are_refused() {
        for several in [false, true] {
            let nova = FakeNova::answering(StatusCode::ACCEPTED);
            let swapping = Swapping::migrating(nova).await;
            let mut tx = swapping.world.database.begin().await.unwrap();
            let server = several.then(Uuid::new_v4);
            if !several {
                attachments::delete_of_volume(&mut tx, swapping.volume_id)
                    .await
                    .unwrap();
            }
            let second = Attachment::reserved(swapping.volume_id, server, "rw");
            attachments::insert(&mut tx, &second).await.unwrap();
            tx.commit().await.unwrap();
            let end = swapping.world.finish::<MigrateVolume>(swapping.flow_id);
            assert_eq!(end.await, "REVERTED");
            assert_eq!(swapping.nova.count(), 0);
            Fixture::<MigrateVolume>::assert_reverted(&swapping).await;
        }
    }
}
