//! `volume:retype`: a volume of another type, on another pool if its own does not suit the type.

use async_trait::async_trait;
use database::Tx;
use serde::{Deserialize, Serialize};
use taskflow::{BoxTask, Flow, NewFlow, Run, TaskError, boxed};
use uuid::Uuid;

use super::relocate::{
    MoveData, PlanRoute, Recryption, Relocation, RemoveSource, SnapshotSource, SwitchHost, abandon,
    back_to_previous, has_begun,
};
use super::swap::{AddTarget, AskServer};
use super::{Requester, addressed, volume_lock};
use crate::SCHEDULER_QUEUE;
use crate::db::{Change, status};
use crate::manager::Manager;

/// Whether a retype may move the volume.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MigrationPolicy {
    #[default]
    Never,
    OnDemand,
}

/// Parameters of [`RetypeVolume`].
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RetypeVolumeParams {
    pub volume_id: Uuid,
    pub new_type_id: Uuid,
    /// Whether volumes of the new type may be attached more than once.
    pub multiattach: bool,
    pub policy: MigrationPolicy,
    /// From the old type's encryption to the new one's.
    #[serde(default)]
    pub recryption: Recryption,
}

/// Volume `retyping` → its previous status, with the new type or as before. One that has to move
/// while a server has it stays `retyping` until the compute service says how that ended.
pub struct RetypeVolume;

impl RetypeVolume {
    /// To insert together with the status `retyping`; the scheduler hands it to a manager.
    pub fn new_flow(params: &RetypeVolumeParams, by: &Requester) -> taskflow::Result<NewFlow> {
        let flow = NewFlow::of::<RetypeVolume>(params)?;
        let flow = addressed(flow, SCHEDULER_QUEUE, ("volume", params.volume_id), by);
        Ok(flow.lock_exclusive(volume_lock(params.volume_id)))
    }
}

#[async_trait]
impl Flow for RetypeVolume {
    const KIND: &'static str = "volume:retype";
    type Context = Manager;
    type Params = RetypeVolumeParams;

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
        <Self as Relocation>::failed(run, tx).await
    }
}

#[async_trait]
impl Relocation for RetypeVolume {
    fn volume_id(params: &RetypeVolumeParams) -> Uuid {
        params.volume_id
    }

    fn force_copy(_: &RetypeVolumeParams) -> bool {
        false
    }

    fn recryption(params: &RetypeVolumeParams) -> Recryption {
        params.recryption
    }

    fn new_type(params: &RetypeVolumeParams) -> Option<(Uuid, bool)> {
        Some((params.new_type_id, params.multiattach))
    }

    async fn arrived(run: &Run<Self>, _: bool, tx: &mut Tx) -> Result<(), TaskError> {
        let params = &run.params;
        let change = Change::volume(params.volume_id)
            .set("volume_type_id = ?", params.new_type_id)
            .set("multiattach = ?", params.multiattach);
        change.apply(tx).await?;
        back_to_previous(tx, params.volume_id, status::RETYPING).await
    }

    async fn failed(run: &Run<Self>, tx: &mut Tx) -> Result<(), TaskError> {
        let begun = has_begun(tx, run.params.volume_id).await?;
        retype_failed(tx, run.params.volume_id, begun).await
    }
}

/// The volume is as before; `begun`: it had begun to move.
pub async fn retype_failed(tx: &mut Tx, volume_id: Uuid, begun: bool) -> Result<(), TaskError> {
    back_to_previous(tx, volume_id, status::RETYPING).await?;
    abandon(tx, volume_id, begun).await
}
