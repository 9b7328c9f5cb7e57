//! Notifications of this service, with Cinder's event types, publishers and payloads.
//!
//! Each is put into the outbox by the transaction that does what it tells of. What flows do is
//! told by the [`taskflow::Witness`] in [`flows`]; the rest by the domain functions.

mod audit;
mod flows;
mod payloads;
mod types;

pub use audit::Period;
pub use types::{QosEvent, Specs};

use amqp::{Notification, Outbox, Priority};
use database::{Result, Tx};
use rest::RequestContext;
use serde_json::{Value, json};
use taskflow::FlowInfo;
use uuid::Uuid;

use crate::db::{backups, group_snapshots, groups, snapshots, volumes};

/// Puts notifications into the outbox.
#[derive(Debug, Clone, Default)]
pub struct Notices {
    outbox: Outbox,
    /// This node, where a resource has no host.
    host: String,
}

/// On whose behalf.
#[derive(Debug, Clone, Default)]
pub struct By(amqp::RequestContext);

impl From<&RequestContext> for By {
    fn from(context: &RequestContext) -> Self {
        By(amqp::RequestContext {
            request_id: context.request_id.clone(),
            user_id: context.user_id.clone(),
            project_id: context.project().to_owned(),
        })
    }
}

impl From<&FlowInfo> for By {
    fn from(flow: &FlowInfo) -> Self {
        By(amqp::RequestContext {
            request_id: flow.request_id.clone(),
            user_id: flow.user_id.clone(),
            project_id: flow.project_id.clone(),
        })
    }
}

impl Notices {
    /// `host` is this node's name.
    pub fn new(outbox: Outbox, host: &str) -> Self {
        Notices {
            outbox,
            host: host.to_owned(),
        }
    }

    /// Whether anybody listens.
    pub fn is_wanted(&self) -> bool {
        self.outbox.is_open()
    }

    /// `volume.<event>`: `create.start`, `update.end`, `retype`, …; of a deleted volume, too.
    pub async fn volume(
        &self,
        tx: &mut Tx,
        id: Uuid,
        event: &str,
        by: impl Into<By>,
    ) -> Result<()> {
        if !self.is_wanted() {
            return Ok(());
        }
        let Some(volume) = volumes::even_deleted(tx, id).await? else {
            return Ok(());
        };
        let payload = payloads::volume(tx, &volume).await?;
        let host = volume.host.as_deref();
        self.put(tx, "volume", host, event, payload, by.into())
            .await
    }

    /// `snapshot.<event>`
    pub async fn snapshot(
        &self,
        tx: &mut Tx,
        id: Uuid,
        event: &str,
        by: impl Into<By>,
    ) -> Result<()> {
        if !self.is_wanted() {
            return Ok(());
        }
        let Some((snapshot, is_deleted)) = snapshots::even_deleted(tx, id).await? else {
            return Ok(());
        };
        let volume = volumes::even_deleted(tx, snapshot.volume_id).await?;
        let payload = payloads::snapshot(tx, &snapshot, is_deleted, volume.as_ref()).await?;
        let host = volume.as_ref().and_then(|volume| volume.host.as_deref());
        self.put(tx, "snapshot", host, event, payload, by.into())
            .await
    }

    /// `backup.<event>`
    pub async fn backup(
        &self,
        tx: &mut Tx,
        id: Uuid,
        event: &str,
        by: impl Into<By>,
    ) -> Result<()> {
        if !self.is_wanted() {
            return Ok(());
        }
        let Some(backup) = backups::even_deleted(tx, id).await? else {
            return Ok(());
        };
        let dependents = backups::count_dependents(&mut *tx, id).await?;
        let payload = payloads::backup(&backup, dependents);
        let host = backup.host.as_deref();
        self.put(tx, "backup", host, event, payload, by.into())
            .await
    }

    /// `group.<event>`
    pub async fn group(&self, tx: &mut Tx, id: Uuid, event: &str, by: impl Into<By>) -> Result<()> {
        if !self.is_wanted() {
            return Ok(());
        }
        let Some(group) = groups::even_deleted(tx, id).await? else {
            return Ok(());
        };
        let (payload, host) = (payloads::group(&group), group.host.as_deref());
        self.put(tx, "group", host, event, payload, by.into()).await
    }

    /// `group_snapshot.<event>`
    pub async fn group_snapshot(
        &self,
        tx: &mut Tx,
        id: Uuid,
        event: &str,
        by: impl Into<By>,
    ) -> Result<()> {
        if !self.is_wanted() {
            return Ok(());
        }
        let Some(snapshot) = group_snapshots::even_deleted(tx, id).await? else {
            return Ok(());
        };
        let group = groups::even_deleted(tx, snapshot.group_id).await?;
        let payload = payloads::group_snapshot(&snapshot);
        let host = group.as_ref().and_then(|group| group.host.as_deref());
        self.put(tx, "group_snapshot", host, event, payload, by.into())
            .await
    }

    /// `scheduler.<method>`, priority `ERROR`: no back-end takes the volume.
    pub async fn not_scheduled(
        &self,
        tx: &mut Tx,
        volume_id: Uuid,
        method: &str,
        reason: &str,
        by: impl Into<By>,
    ) -> Result<()> {
        if !self.is_wanted() {
            return Ok(());
        }
        let Some(volume) = volumes::even_deleted(tx, volume_id).await? else {
            return Ok(());
        };
        let properties = payloads::volume(tx, &volume).await?;
        let payload = json!({
            "request_spec": {"volume_id": volume_id, "volume_properties": properties},
            "volume_properties": properties,
            "volume_id": volume_id,
            "state": "error",
            "method": method,
            "reason": reason,
        });
        let publisher = format!("scheduler.{}", self.host);
        let notification = Notification::info(publisher, format!("scheduler.{method}"), payload)
            .with_priority(Priority::Error)
            .with_context(by.into().0);
        self.outbox.put(tx, &notification).await
    }

    /// The publisher is the service that has the resource: its host without the pool.
    async fn put(
        &self,
        tx: &mut Tx,
        kind: &str,
        host: Option<&str>,
        event: &str,
        payload: Value,
        by: By,
    ) -> Result<()> {
        let host = host.and_then(|host| host.split('#').next());
        let publisher = format!("{kind}.{}", host.unwrap_or(&self.host));
        let notification =
            Notification::info(publisher, format!("{kind}.{event}"), payload).with_context(by.0);
        self.outbox.put(tx, &notification).await
    }
}
