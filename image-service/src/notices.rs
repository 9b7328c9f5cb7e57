//! Notifications of this service, with Glance's event types and payloads (`glance/notifier.py`).
//!
//! Each is put into the outbox by the transaction that does what it tells of.

pub(crate) mod metadefs;

use amqp::{Notification, Outbox, Priority};
use async_trait::async_trait;
use database::{Result, Tx, now_us};
use rest::RequestContext;
use rest::time::format_seconds_z as timestamp;
use serde_json::{Value, json};
use taskflow::{Ending, Flow, FlowInfo, Witness};
use uuid::Uuid;

use crate::db::{images, tasks};
use crate::flows::hash_image::HashImage;
use crate::flows::snapshot_disk::SnapshotDiskToImage;
use crate::flows::stage::StageImage;
use crate::flows::upload::UploadImage;
use crate::image::{Image, Member, Status, Visibility};

/// Puts notifications into the outbox.
#[derive(Debug, Clone, Default)]
pub struct Notices {
    outbox: Outbox,
    publisher_id: String,
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
    /// `publisher_id` is Glance's `default_publisher_id`.
    pub fn new(outbox: Outbox, publisher_id: &str) -> Self {
        Notices {
            outbox,
            publisher_id: publisher_id.to_owned(),
        }
    }

    /// Whether anybody listens.
    pub fn is_wanted(&self) -> bool {
        self.outbox.is_open()
    }

    /// `image.<event>`, as the image is in this transaction.
    pub(crate) async fn image(
        &self,
        tx: &mut Tx,
        id: Uuid,
        event: &str,
        by: impl Into<By>,
    ) -> Result<()> {
        if !self.is_wanted() {
            return Ok(());
        }
        match images::find_locked(tx, id).await? {
            Some(image) => self.put(tx, event, of_image(&image), by.into()).await,
            None => Ok(()),
        }
    }

    /// `image.delete`: the image as it was.
    pub(crate) async fn deleted(
        &self,
        tx: &mut Tx,
        image: &Image,
        by: impl Into<By>,
    ) -> Result<()> {
        let mut payload = of_image(image);
        payload["status"] = Status::Deleted.as_str().into();
        payload["deleted"] = true.into();
        payload["deleted_at"] = timestamp(now_us()).into();
        self.put(tx, "image.delete", payload, by.into()).await
    }

    /// The data is all there: `image.upload`, `image.activate`.
    pub(crate) async fn uploaded(&self, tx: &mut Tx, id: Uuid, by: impl Into<By>) -> Result<()> {
        let by = by.into();
        self.image(tx, id, "image.upload", by.clone()).await?;
        self.image(tx, id, "image.activate", by).await
    }

    /// `image.send`: a client has had the data, or a part of it (`is_complete` false).
    pub(crate) async fn sent(
        &self,
        tx: &mut Tx,
        image: &Image,
        sent_bytes: u64,
        is_complete: bool,
        by: impl Into<By>,
    ) -> Result<()> {
        let by = by.into();
        let payload = json!({
            "bytes_sent": sent_bytes,
            "image_id": image.id,
            "owner_id": image.owner,
            "receiver_tenant_id": by.0.project_id,
            "receiver_user_id": by.0.user_id,
        });
        let priority = match is_complete {
            true => Priority::Info,
            false => Priority::Error,
        };
        let notification = self.new_one("image.send", payload, by);
        self.outbox
            .put(tx, &notification.with_priority(priority))
            .await
    }

    /// `image.member.<event>`
    pub(crate) async fn member(
        &self,
        tx: &mut Tx,
        member: &Member,
        event: &str,
        by: impl Into<By>,
    ) -> Result<()> {
        let is_deleted = event == "delete";
        let payload = json!({
            "image_id": member.image_id,
            "member_id": member.member_id,
            "status": member.status.as_str(),
            "created_at": timestamp(member.created_at_us),
            "updated_at": timestamp(member.updated_at_us),
            "deleted": is_deleted,
            "deleted_at": is_deleted.then(|| timestamp(now_us())),
        });
        let event = format!("image.member.{event}");
        self.put(tx, &event, payload, by.into()).await
    }

    /// `task.<event>`
    pub(crate) async fn task(
        &self,
        tx: &mut Tx,
        id: Uuid,
        event: &str,
        by: impl Into<By>,
    ) -> Result<()> {
        if !self.is_wanted() {
            return Ok(());
        }
        let Some(task) = tasks::find_in(tx, id).await? else {
            return Ok(());
        };
        let payload = json!({
            "id": task.id,
            "type": task.kind,
            "status": task.status.as_str(),
            "result": task.result,
            "owner": task.owner,
            "message": task.message,
            "expires_at": task.expires_at_us.map(timestamp),
            "created_at": timestamp(task.created_at_us),
            "updated_at": timestamp(task.updated_at_us),
        });
        let event = format!("task.{event}");
        self.put(tx, &event, payload, by.into()).await
    }

    async fn put(&self, tx: &mut Tx, event: &str, payload: Value, by: By) -> Result<()> {
        let notification = self.new_one(event, payload, by);
        self.outbox.put(tx, &notification).await
    }

    fn new_one(&self, event: &str, payload: Value, by: By) -> Notification {
        Notification::info(&self.publisher_id, event, payload).with_context(by.0)
    }
}

fn of_image(image: &Image) -> Value {
    json!({
        "id": image.id,
        "name": image.name,
        "status": image.status.as_str(),
        "created_at": timestamp(image.created_at_us),
        "updated_at": timestamp(image.updated_at_us),
        "min_disk": image.min_disk_gib,
        "min_ram": image.min_ram_mib,
        "protected": image.protected,
        "checksum": image.checksum,
        "owner": image.owner,
        "disk_format": image.disk_format,
        "container_format": image.container_format,
        "size": image.size_bytes,
        "virtual_size": image.virtual_size_bytes,
        "is_public": image.visibility == Visibility::Public,
        "visibility": image.visibility.as_str(),
        "properties": image.properties,
        "tags": image.tags,
        "deleted": false,
        "deleted_at": null,
    })
}

/// What flows do that bring data; imports and added locations tell more, and by themselves.
#[async_trait]
impl Witness for Notices {
    async fn began(&self, flow: &FlowInfo, tx: &mut Tx) -> Result<()> {
        let Ok(id) = Uuid::parse_str(&flow.resource_id) else {
            return Ok(());
        };
        match flow.kind.as_str() {
            UploadImage::KIND | SnapshotDiskToImage::KIND => {
                self.image(tx, id, "image.prepare", flow).await
            }
            _ => Ok(()),
        }
    }

    async fn ended(&self, flow: &FlowInfo, ending: Ending, tx: &mut Tx) -> Result<()> {
        let Ok(id) = Uuid::parse_str(&flow.resource_id) else {
            return Ok(());
        };
        match (flow.kind.as_str(), ending) {
            (UploadImage::KIND | SnapshotDiskToImage::KIND, Ending::Succeeded) => {
                self.uploaded(tx, id, flow).await
            }
            (UploadImage::KIND | SnapshotDiskToImage::KIND, _) => {
                let why = format!("Failed to upload image data for image {id}");
                let failed = self.new_one("image.upload", why.into(), By::from(flow));
                let failed = failed.with_priority(Priority::Error);
                self.outbox.put(tx, &failed).await
            }
            (StageImage::KIND | HashImage::KIND, Ending::Succeeded) => {
                self.image(tx, id, "image.update", flow).await
            }
            _ => Ok(()),
        }
    }
}
