//! What administrators change of volume types, QoS specs and group types, with the publishers and
//! payloads of Cinder's API controllers.
//!
//! Requests that were refused are not told: nothing has changed. Nor is `qos_specs.associations`,
//! which Cinder tells of a mere question.

use database::{Result, Tx, now_us};
use rest::time::format_micros as time;
use serde_json::{Value, json};
use uuid::Uuid;

use super::{By, Notices};
use crate::db::group_types::GroupType;
use crate::db::metadata::Metadata;
use crate::db::qos_specs::QosSpecs;
use crate::db::volume_types::{ExtraSpecs, VolumeType};

/// Which specs of a type a request named.
#[derive(Debug, Clone, Copy)]
pub enum Specs<'a> {
    Added(&'a ExtraSpecs),
    /// One was replaced.
    Updated(&'a str),
    Deleted(&'a str),
}

impl Specs<'_> {
    fn event(self) -> &'static str {
        match self {
            Specs::Added(_) => "create",
            Specs::Updated(_) => "update",
            Specs::Deleted(_) => "delete",
        }
    }

    /// `specs` or `id`, as the payload names them.
    fn put_into(self, payload: &mut Value) {
        match self {
            Specs::Added(specs) => payload["specs"] = json!(specs),
            Specs::Updated(key) | Specs::Deleted(key) => payload["id"] = key.into(),
        }
    }
}

/// What happened to QoS specs.
#[derive(Debug, Clone, Copy)]
pub enum QosEvent<'a> {
    /// With the body of the request.
    Create(&'a Metadata),
    Update(&'a Metadata),
    Delete,
    DeleteKeys,
    /// With this type.
    Associate(Uuid),
    Disassociate(Uuid),
    DisassociateAll,
}

impl Notices {
    /// `volume_type.<event>`: `create`, `update`, `delete`.
    pub async fn volume_type(
        &self,
        tx: &mut Tx,
        event: &str,
        volume_type: &VolumeType,
        specs: &ExtraSpecs,
        by: impl Into<By>,
    ) -> Result<()> {
        let payload = json!({"volume_types": {
            "id": volume_type.id,
            "name": volume_type.name,
            "description": volume_type.description,
            "is_public": volume_type.is_public,
            "qos_specs_id": volume_type.qos_specs_id,
            "extra_specs": specs,
            "created_at": time(volume_type.created_at),
            "updated_at": volume_type.updated_at.map(time),
            "deleted": false,
            "deleted_at": null,
        }});
        let event = format!("volume_type.{event}");
        self.tell(tx, "volumeType", &event, payload, by).await
    }

    /// `volume_type_extra_specs.<event>`
    pub async fn extra_specs(
        &self,
        tx: &mut Tx,
        volume_type: &VolumeType,
        specs: Specs<'_>,
        by: impl Into<By>,
    ) -> Result<()> {
        let mut payload = json!({
            "type_id": volume_type.id,
            "created_at": time(volume_type.created_at),
            "updated_at": volume_type.updated_at.map(time),
        });
        specs.put_into(&mut payload);
        if matches!(specs, Specs::Deleted(_)) {
            // Of the type, which lives.
            payload["deleted_at"] = Value::Null;
        }
        let event = format!("volume_type_extra_specs.{}", specs.event());
        self.tell(tx, "volumeTypeExtraSpecs", &event, payload, by)
            .await
    }

    /// `volume_type_encryption.create` (`specs`) or `.update`.
    pub async fn type_encryption(
        &self,
        tx: &mut Tx,
        type_id: Uuid,
        change: (&str, Value),
        by: impl Into<By>,
    ) -> Result<()> {
        let (key, value) = change;
        let event = match key {
            "specs" => "volume_type_encryption.create",
            _ => "volume_type_encryption.update",
        };
        let payload = json!({"type_id": type_id, key: value});
        self.tell(tx, "volumeTypeEncryption", event, payload, by)
            .await
    }

    /// `volume_type_project.access.<event>`: `add`, `remove`.
    pub async fn type_access(
        &self,
        tx: &mut Tx,
        event: &str,
        type_id: Uuid,
        project_id: &str,
        by: impl Into<By>,
    ) -> Result<()> {
        let payload = json!({"volume_type_id": type_id, "project_id": project_id});
        let event = format!("volume_type_project.access.{event}");
        self.tell(tx, "volume_type_project", &event, payload, by)
            .await
    }

    /// `qos_specs.<event>`
    pub async fn qos_specs(
        &self,
        tx: &mut Tx,
        qos: &QosSpecs,
        event: QosEvent<'_>,
        by: impl Into<By>,
    ) -> Result<()> {
        let created_at = time(qos.created_at);
        let (id, now) = (qos.id, time(now_us()));
        let (event, payload) = match event {
            QosEvent::Create(specs) => (
                "create",
                json!({"name": qos.name, "created_at": created_at, "specs": specs}),
            ),
            QosEvent::Update(specs) => (
                "update",
                json!({"id": id, "created_at": created_at, "updated_at": now, "specs": specs}),
            ),
            QosEvent::Delete => (
                "delete",
                json!({"id": id, "created_at": created_at, "deleted_at": now}),
            ),
            QosEvent::DeleteKeys => (
                "delete_keys",
                json!({"id": id, "created_at": created_at, "updated_at": now}),
            ),
            QosEvent::Associate(type_id) => (
                "associate",
                json!({"id": id, "type_id": type_id, "created_at": created_at}),
            ),
            QosEvent::Disassociate(type_id) => (
                "disassociate",
                json!({"id": id, "type_id": type_id, "created_at": created_at}),
            ),
            QosEvent::DisassociateAll => (
                "disassociate_all",
                json!({"id": id, "created_at": created_at}),
            ),
        };
        let event = format!("qos_specs.{event}");
        self.tell(tx, "QoSSpecs", &event, payload, by).await
    }

    /// `group_type.<event>`: `create`, `update`, `delete`.
    pub async fn group_type(
        &self,
        tx: &mut Tx,
        event: &str,
        group_type: &GroupType,
        specs: &Metadata,
        by: impl Into<By>,
    ) -> Result<()> {
        let payload = json!({"group_types": {
            "id": group_type.id,
            "name": group_type.name,
            "description": group_type.description,
            "is_public": group_type.is_public,
            "group_specs": specs,
        }});
        let event = format!("group_type.{event}");
        self.tell(tx, "groupType", &event, payload, by).await
    }

    /// `group_type_specs.<event>`
    pub async fn group_specs(
        &self,
        tx: &mut Tx,
        type_id: Uuid,
        specs: Specs<'_>,
        by: impl Into<By>,
    ) -> Result<()> {
        let mut payload = json!({"type_id": type_id});
        specs.put_into(&mut payload);
        let event = format!("group_type_specs.{}", specs.event());
        self.tell(tx, "groupTypeSpecs", &event, payload, by).await
    }

    async fn tell(
        &self,
        tx: &mut Tx,
        publisher: &str,
        event_type: &str,
        payload: Value,
        by: impl Into<By>,
    ) -> Result<()> {
        let publisher = format!("{publisher}.{}", self.host);
        let notification = amqp::Notification::info(publisher, event_type, payload);
        let notification = notification.with_context(by.into().0);
        self.outbox.put(tx, &notification).await
    }
}
