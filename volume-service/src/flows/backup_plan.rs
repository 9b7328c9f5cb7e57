//! The first task of [`CreateBackup`]: the plan that its other tasks follow.

use async_trait::async_trait;
use database::Tx;
use serde::{Deserialize, Serialize};
use taskflow::{Retry, Run, Task, TaskError};
use uuid::Uuid;

use super::backup_data::find_base;
use super::create_backup::{CreateBackup, failed, source};
use super::outcome::tell;
use super::steps::{STORE_RETRY, store_failure};
use crate::backup::{BackupSnapshot, ServiceMetadata, base_name};
use crate::db::Change;
use crate::db::messages::{Action, Detail, Resource};
use crate::manager::{Manager, Placement, snapshot_name};

/// Names that hold for the whole flow: journaled before anything is made.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Plan {
    /// The backup's snapshot on the base, and on the volume unless a snapshot is backed up.
    pub snapshot: String,
    /// The snapshot of the volume's image whose bytes are copied.
    pub source: String,
    /// The base image in the backup pool.
    pub base: String,
    /// Where the copy starts; `None` for a full backup.
    pub parent: Option<ParentPoint>,
    /// An incremental one was asked for, but the volume has lost the parent's snapshot.
    pub forced_full: bool,
}

/// The same moment on the volume and on the base.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct ParentPoint {
    pub source: String,
    pub base: String,
}

/// Decides what is copied, from where, and to which base.
pub(super) struct MakePlan;

#[async_trait]
impl Task<CreateBackup> for MakePlan {
    const NAME: &'static str = "make_plan";
    type Output = Plan;

    fn retry(&self) -> Retry {
        STORE_RETRY
    }

    async fn execute(&self, run: &Run<CreateBackup>) -> Result<Plan, TaskError> {
        let params = &run.params;
        let source = source(run).await?;
        let snapshot = BackupSnapshot::new(params.backup_id, database::now_us()).to_string();
        let mut plan = Plan {
            source: params
                .snapshot_id
                .map_or_else(|| snapshot.clone(), snapshot_name),
            snapshot,
            base: base_name(params.volume_id, params.backup_id),
            parent: None,
            forced_full: false,
        };
        let Some(parent_id) = params.parent_id else {
            return Ok(plan);
        };
        let (base, point) = parent_point(&run.ctx, parent_id, &source).await?;
        match point {
            Some(point) => (plan.base, plan.parent) = (base, Some(point)),
            None => plan.forced_full = true,
        }
        Ok(plan)
    }

    async fn record(
        &self,
        run: &Run<CreateBackup>,
        plan: &Plan,
        tx: &mut Tx,
    ) -> Result<(), TaskError> {
        let id = run.params.backup_id;
        // From here on a delete finds the base, whatever becomes of this flow.
        let service_metadata = ServiceMetadata {
            base: plan.base.clone(),
        }
        .to_json();
        let change = Change::backup(id).set("service_metadata = ?", service_metadata);
        change
            .set("container = ?", &run.ctx.backups.pool)
            .apply(tx)
            .await?;
        if !plan.forced_full {
            return Ok(());
        }
        Change::backup(id)
            .set("parent_id = ?", None::<String>)
            .apply(tx)
            .await?;
        let (action, detail) = (Action::BackupCreate, Detail::IncrementalBackupForcedToFull);
        tell(tx, &run.flow, (Resource::VolumeBackup, id), action, detail).await
    }

    async fn record_revert(
        &self,
        run: &Run<CreateBackup>,
        _: Option<&Plan>,
        tx: &mut Tx,
    ) -> Result<(), TaskError> {
        failed(run, tx).await
    }
}

/// The parent's base image, and its moment on base and volume; no moment when the volume has
/// lost it.
async fn parent_point(
    manager: &Manager,
    parent_id: Uuid,
    source: &Placement<'_>,
) -> Result<(String, Option<ParentPoint>), TaskError> {
    let data = find_base(manager, parent_id).await?;
    let info = source
        .store()
        .info(&source.image)
        .await
        .map_err(store_failure)?;
    let backed_up = data.snapshot_id.map(snapshot_name);
    let candidates = [Some(data.snapshot.clone()), backed_up]
        .into_iter()
        .flatten();
    let on_volume = |name: &String| info.snapshots.iter().any(|snapshot| snapshot.name == *name);
    let point = candidates.into_iter().find(on_volume);
    Ok((
        data.base,
        point.map(|source| ParentPoint {
            source,
            base: data.snapshot,
        }),
    ))
}
