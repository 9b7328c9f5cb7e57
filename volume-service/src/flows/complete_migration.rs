//! `volume:complete_migration`: the compute service has copied an attached volume into the hidden
//! one that a migration or retype made for it, or could not.
//!
//! The rows change places in one transaction: the volume gets the other's image under the name
//! that its server has open, and the other, with the old image, is deleted by a flow of its own.

use async_trait::async_trait;
use database::Tx;
use serde::{Deserialize, Serialize};
use taskflow::{BoxTask, Flow, FlowInfo, NewFlow, Retry, Run, Task, TaskError, boxed};
use uuid::Uuid;

use super::swap::target_of;
use super::{DeleteVolume, DeleteVolumeParams};
use super::{Requester, addressed, encrypted, volume_lock, volume_queue};
use crate::db::volumes::Volume;
use crate::db::{Change, attachments, exports, placements, status, volumes};
use crate::domain::attachments::resting_status;
use crate::manager::Manager;

/// Parameters of [`CompleteMigration`].
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct CompleteMigrationParams {
    pub volume_id: Uuid,
    /// With migration_status `target:<volume id>`.
    pub new_volume_id: Uuid,
    /// The bytes were not copied, and the server has the volume as before.
    pub error: bool,
}

/// Volume's migration_status `completing` → `success`; or → `error`, with the volume as it was.
/// The other volume goes `deleting`.
pub struct CompleteMigration;

impl CompleteMigration {
    /// `queue`: of a manager of the volume.
    pub fn new_flow(
        params: &CompleteMigrationParams,
        queue: &str,
        by: &Requester,
    ) -> taskflow::Result<NewFlow> {
        let flow = NewFlow::of::<CompleteMigration>(params)?;
        let flow = addressed(flow, queue, ("volume", params.volume_id), by);
        Ok(flow
            .lock_exclusive(volume_lock(params.volume_id))
            .lock_exclusive(volume_lock(params.new_volume_id)))
    }
}

#[async_trait]
impl Flow for CompleteMigration {
    const KIND: &'static str = "volume:complete_migration";
    type Context = Manager;
    type Params = CompleteMigrationParams;

    fn tasks(_: &Self::Params) -> Vec<BoxTask<Self>> {
        vec![boxed(ChangePlaces), boxed(ForgetKey)]
    }
}

/// Whether the migration is still to be completed.
fn is_target(other: &Volume, volume: &Volume) -> bool {
    other.migration_status == Some(target_of(volume.id))
}

/// One volume has the image, the other is deleted. The output is the key that nobody needs any
/// more.
struct ChangePlaces;

#[async_trait]
impl Task<CompleteMigration> for ChangePlaces {
    const NAME: &'static str = "change_places";
    type Output = Option<Uuid>;

    async fn execute(&self, run: &Run<CompleteMigration>) -> Result<Option<Uuid>, TaskError> {
        let (database, params) = (&run.ctx.database, &run.params);
        let volume = volumes::get(database, params.volume_id).await?;
        let other = volumes::get(database, params.new_volume_id).await?;
        let Some((volume, other)) = volume
            .zip(other)
            .filter(|(volume, other)| is_target(other, volume))
        else {
            return Ok(None);
        };
        let (doomed, kept) = match params.error {
            true => (other, volume),
            false => (volume, other),
        };
        let key_id = doomed.encryption_key_id;
        Ok(key_id.filter(|key_id| Some(*key_id) != kept.encryption_key_id))
    }

    async fn record(
        &self,
        run: &Run<CompleteMigration>,
        _: &Option<Uuid>,
        tx: &mut Tx,
    ) -> Result<(), TaskError> {
        let params = &run.params;
        let volume = volumes::get(&mut *tx, params.volume_id).await?;
        let other = volumes::get(&mut *tx, params.new_volume_id).await?;
        let (Some(volume), Some(other)) = (volume, other) else {
            return Ok(());
        };
        if !is_target(&other, &volume) {
            // It was completed before.
            return Ok(());
        }
        let doomed_host = if params.error {
            other.host.clone()
        } else {
            change_places(tx, &volume, &other).await?;
            volume.host.clone()
        };
        settle(tx, volume.id, params.error).await?;
        placements::delete(tx, volume.id).await?;
        delete(tx, &run.flow, &other, doomed_host.as_deref()).await
    }
}

/// Each has what the other had in the store, and the attachments go along with the image.
async fn change_places(tx: &mut Tx, volume: &Volume, other: &Volume) -> Result<(), TaskError> {
    let gets = |id: Uuid, from: &Volume| {
        Change::volume(id)
            .set("host = ?", from.host.as_deref())
            .set("service_uuid = ?", from.service_uuid)
            .set("availability_zone = ?", from.availability_zone.as_str())
            .set("name_id = ?", from.image_id())
            .set("encryption_key_id = ?", from.encryption_key_id)
    };
    let change = gets(volume.id, other)
        .set("volume_type_id = ?", other.volume_type_id)
        .set("multiattach = ?", other.multiattach);
    change.apply(tx).await?;
    let description = format!("migration src for {}", volume.id);
    let change = gets(other.id, volume)
        .set("source_volid = ?", volume.source_volid)
        .set("description = ?", description);
    change.apply(tx).await?;
    // Whoever has an old name open reads what is deleted now.
    exports::delete_of_volume(tx, volume.id).await?;
    exports::give(tx, other.id, volume.id).await?;
    attachments::give(tx, other.id, volume.id).await?;
    Ok(())
}

/// The status that the volume's attachments make.
async fn settle(tx: &mut Tx, id: Uuid, failed: bool) -> Result<(), TaskError> {
    let attach_status = attachments::status_of_volume(tx, id).await?;
    let moving = [
        status::AVAILABLE,
        status::RESERVED,
        status::ATTACHING,
        status::DETACHING,
        status::IN_USE,
        status::RETYPING,
        status::MAINTENANCE,
    ];
    let change = Change::volume(id)
        .when(&moving)
        .status(resting_status(&attach_status))
        .set("previous_status = ?", Option::<&str>::None);
    change.apply(tx).await?;
    let change = Change::volume(id)
        .set("attach_status = ?", attach_status)
        .set(
            "migration_status = ?",
            if failed {
                status::ERROR
            } else {
                status::SUCCESS
            },
        );
    change.apply(tx).await?;
    Ok(())
}

/// The other volume goes, with the image on `host`.
async fn delete(
    tx: &mut Tx,
    by: &FlowInfo,
    other: &Volume,
    host: Option<&str>,
) -> Result<(), TaskError> {
    attachments::delete_of_volume(tx, other.id).await?;
    exports::delete_of_volume(tx, other.id).await?;
    let change = Change::volume(other.id)
        .status(status::DELETING)
        .set("attach_status = ?", status::DETACHED)
        .set("migration_status = ?", status::DELETING)
        .set("terminated_at = ?", database::now_us());
    change.apply(tx).await?;
    let requester = Requester {
        request_id: by.request_id.clone(),
        project_id: by.project_id.clone(),
        user_id: by.user_id.clone(),
    };
    let params = DeleteVolumeParams {
        volume_id: other.id,
        cascade: false,
    };
    let queue = volume_queue(host.unwrap_or_default());
    let failed = |error: taskflow::Error| TaskError::new("Flow", error.to_string());
    let flow = DeleteVolume::new_flow(&params, &queue, &requester).map_err(failed)?;
    flow.insert(tx).await.map_err(failed)?;
    Ok(())
}

/// The key is gone that the volume had, or would have had.
struct ForgetKey;

#[async_trait]
impl Task<CompleteMigration> for ForgetKey {
    const NAME: &'static str = "forget_key";
    type Output = ();

    /// The volumes have changed places: there is no way back.
    fn retry(&self) -> Retry {
        Retry::forever(1_000)
    }

    async fn execute(&self, run: &Run<CompleteMigration>) -> Result<(), TaskError> {
        if let Some(key_id) = run.output::<ChangePlaces>()? {
            encrypted::forget(&run.ctx, *key_id).await;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use database::Database;
    use taskflow::testing::{Fixture, exhaust};

    use super::super::swap::tests::{OTHER, Swapping};
    use super::super::testbed::{HOST, image_key, inventory_of, requester, volume_image};
    use super::*;

    /// A swap that the compute service has carried out, or given up.
    struct Completing {
        swapping: Swapping,
        target_id: Uuid,
        error: bool,
        flow_id: Uuid,
    }

    impl Completing {
        async fn new(error: bool) -> Self {
            let swapping = Swapping::asked().await;
            let target_id = match error {
                true => swapping.target().await.unwrap(),
                false => swapping.hand_over().await,
            };
            let params = CompleteMigrationParams {
                volume_id: swapping.volume_id,
                new_volume_id: target_id,
                error,
            };
            let flow = CompleteMigration::new_flow(&params, &volume_queue(HOST), &requester());
            let flow_id = swapping.world.insert(flow.unwrap()).await;
            Completing {
                swapping,
                target_id,
                error,
                flow_id,
            }
        }

        async fn column(&self, column: &str) -> Option<String> {
            self.swapping.column(column).await
        }

        /// Runs the deletion that the flow has left behind.
        async fn delete(&self) {
            let sql = "SELECT id FROM flows WHERE kind = ?";
            let values = database::params![DeleteVolume::KIND];
            let world = &self.swapping.world;
            let rows = world.database.fetch_all(sql, values).await.unwrap();
            assert_eq!(rows.len(), 1);
            let id = rows[0].get("id").unwrap();
            assert_eq!(world.finish::<DeleteVolume>(id).await, "SUCCESS");
            let gone = world.column("volumes", self.target_id, "status").await;
            assert_eq!(gone, None);
        }
    }

    #[async_trait]
    impl Fixture<CompleteMigration> for Completing {
        fn database(&self) -> &Database {
            &self.swapping.world.database
        }

        fn context(&self) -> Arc<Manager> {
            self.swapping.world.manager.clone()
        }

        fn flow_id(&self) -> Uuid {
            self.flow_id
        }

        async fn restart(&mut self) {
            self.swapping.world.store.crash().await;
        }

        async fn assert_done(&self) {
            self.delete().await;
            let world = &self.swapping.world;
            let (first, second) = (
                world.inventory().await.images,
                inventory_of(&self.swapping.other).await.images,
            );
            let id = self.swapping.volume_id;
            assert_eq!(self.column("status").await.as_deref(), Some("in-use"));
            let migration_status = self.column("migration_status").await;
            if self.error {
                assert_eq!(migration_status.as_deref(), Some("error"));
                assert_eq!(self.column("host").await.as_deref(), Some(HOST));
                assert!(second.is_empty());
                assert_eq!(first.keys().collect::<Vec<_>>(), [&image_key(id)]);
                return;
            }
            assert_eq!(migration_status.as_deref(), Some("success"));
            assert_eq!(self.column("host").await.as_deref(), Some(OTHER));
            let name_id = self.column("name_id").await;
            assert_eq!(name_id, Some(self.target_id.to_string()));
            assert!(first.is_empty());
            let image = format!("elsewhere/{}", volume_image(self.target_id).image);
            assert_eq!(second.keys().collect::<Vec<_>>(), [&image]);
            let attached = attachments::of_volume(&world.database, id).await.unwrap();
            assert_eq!(attached.len(), 1);
            let info = attached[0].connection_info.as_ref().unwrap();
            assert_eq!(info["volume_id"], id.to_string());
        }

        /// What is done to the rows is one record: nothing of it happens where it fails.
        async fn assert_reverted(&self) {
            assert_eq!(self.column("host").await.as_deref(), Some(HOST));
            assert_eq!(self.swapping.target().await, Some(self.target_id));
        }
    }

    #[tokio::test]
    async fn the_volume_gets_the_image_that_the_server_has() {
        exhaust::<CompleteMigration, _>(async || Completing::new(false).await).await;
    }

    #[tokio::test]
    async fn a_swap_that_failed_leaves_the_volume_as_it_was() {
        exhaust::<CompleteMigration, _>(async || Completing::new(true).await).await;
    }
}
