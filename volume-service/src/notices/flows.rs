//! What flows do, told when they begin and when they have succeeded.

use async_trait::async_trait;
use database::{Result, Tx};
use taskflow::{Ending, Flow, FlowInfo, Witness};
use uuid::Uuid;

use super::Notices;
use crate::flows::{
    CreateBackup, CreateGroup, CreateGroupSnapshot, CreateSnapshot, CreateVolume, DeleteBackup,
    DeleteGroup, DeleteGroupSnapshot, DeleteSnapshot, DeleteVolume, ExtendVolume, ManageSnapshot,
    ManageVolume, RestoreBackup, RetypeVolume, RevertVolume, UnmanageSnapshot, UnmanageVolume,
};

/// What a kind of flow is called in notifications.
enum Told {
    /// `<event>.start` and `<event>.end`.
    Span(&'static str),
    /// `<event>` at the end.
    Once(&'static str),
}

/// Kinds that are missing here tell nobody: Cinder does not either.
fn told(kind: &str) -> Option<Told> {
    Some(match kind {
        CreateVolume::KIND
        | CreateSnapshot::KIND
        | CreateBackup::KIND
        | CreateGroup::KIND
        | CreateGroupSnapshot::KIND => Told::Span("create"),
        DeleteVolume::KIND
        | DeleteSnapshot::KIND
        | DeleteBackup::KIND
        | DeleteGroup::KIND
        | DeleteGroupSnapshot::KIND
        | UnmanageSnapshot::KIND => Told::Span("delete"),
        ExtendVolume::KIND => Told::Span("resize"),
        RevertVolume::KIND => Told::Span("revert"),
        RestoreBackup::KIND => Told::Span("restore"),
        ManageVolume::KIND => Told::Span("manage_existing"),
        UnmanageVolume::KIND => Told::Span("unmanage"),
        ManageSnapshot::KIND => Told::Span("manage_existing_snapshot"),
        RetypeVolume::KIND => Told::Once("retype"),
        _ => return None,
    })
}

#[async_trait]
impl Witness for Notices {
    async fn began(&self, flow: &FlowInfo, tx: &mut Tx) -> Result<()> {
        match told(&flow.kind) {
            Some(Told::Span(event)) => self.of_flow(flow, &format!("{event}.start"), tx).await,
            _ => Ok(()),
        }
    }

    async fn ended(&self, flow: &FlowInfo, ending: Ending, tx: &mut Tx) -> Result<()> {
        if ending != Ending::Succeeded {
            return Ok(());
        }
        match told(&flow.kind) {
            Some(Told::Span(event)) => self.of_flow(flow, &format!("{event}.end"), tx).await,
            Some(Told::Once(event)) => self.of_flow(flow, event, tx).await,
            None => Ok(()),
        }
    }
}

impl Notices {
    async fn of_flow(&self, flow: &FlowInfo, event: &str, tx: &mut Tx) -> Result<()> {
        let Ok(id) = Uuid::parse_str(&flow.resource_id) else {
            return Ok(());
        };
        match flow.resource_type.as_str() {
            "volume" => self.volume(tx, id, event, flow).await,
            "snapshot" => self.snapshot(tx, id, event, flow).await,
            "backup" => self.backup(tx, id, event, flow).await,
            "group" => self.group(tx, id, event, flow).await,
            "group_snapshot" => self.group_snapshot(tx, id, event, flow).await,
            _ => Ok(()),
        }
    }
}
