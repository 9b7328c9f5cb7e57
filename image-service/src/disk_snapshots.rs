//! Asking for an image of a server's disk: over REST by an admin or a service, and over the bus by
//! a compute service.

use amqp::{Handler, Message, RemoteFailure};
use async_trait::async_trait;
use serde::Deserialize;
use serde_json::{Value, json};
use std::sync::Arc;
use storage::ImageSpec;
use taskflow::NewFlow;
use uuid::Uuid;

use crate::ImageService;
use crate::db::images;
use crate::error::{Error, Result};
use crate::flows::snapshot_disk::{Params, SnapshotDiskToImage};
use crate::image::lock_key;
use crate::quota::{self, Demand};

/// The topic that the image service answers on.
pub const RPC_TOPIC: &str = "basalt-image";
/// The method: [`DiskSnapshot`] as arguments, `{"flow_id": …}` as answer.
const RPC_METHOD: &str = "snapshot_disk";

/// Which disk is to become which image.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DiskSnapshot {
    /// A queued image with container format `bare` and disk format `raw`.
    #[serde(default)]
    pub image_id: Option<Uuid>,
    /// The store that the disk is in; another one than the service's is a 409.
    #[serde(default)]
    pub fsid: Option<String>,
    /// The pool of the server's disk: Nova's `images_rbd_pool`.
    pub pool: String,
    /// The disk: `<server id>_disk`.
    pub disk: String,
    /// How many backups of this kind stay.
    #[serde(default)]
    pub rotation: Option<u32>,
}

/// On whose behalf a flow runs.
pub struct Requester<'a> {
    pub request_id: &'a str,
    pub project_id: &'a str,
    pub user_id: &'a str,
}

/// queued → saving and the flow, in one transaction; the flow's id. The image is `active` when
/// the flow has ended, or `queued` again.
pub async fn begin(
    service: &ImageService,
    image_id: Uuid,
    wanted: &DiskSnapshot,
    by: &Requester<'_>,
) -> Result<Uuid> {
    let (_, pool) = service
        .stores
        .choose_pool(None)
        .map_err(Error::BadRequest)?;
    let elsewhere = |fsid: &str| fsid != pool.engine.fsid();
    if wanted.fsid.as_deref().is_some_and(elsewhere) {
        return Err(Error::Conflict(
            "The disk lies in another store than images do.".to_owned(),
        ));
    }
    let no_image = || Error::no_image(image_id);
    let image = images::find(&service.database, image_id).await?;
    let owner = image.ok_or_else(no_image)?.owner;
    let limits = quota::limits_of(service, owner.as_deref()).await?;
    let mut tx = service.database.begin().await?;
    let image = images::find_locked(&mut tx, image_id)
        .await?
        .ok_or_else(no_image)?;
    let formats = (
        image.container_format.as_deref(),
        image.disk_format.as_deref(),
    );
    if formats != (Some("bare"), Some("raw")) {
        return Err(Error::BadRequest(format!(
            "Image {image_id} must have container_format bare and disk_format raw to become a snapshot of a disk."
        )));
    }
    let disk = ImageSpec::new(&wanted.pool, &wanted.disk);
    let flow = NewFlow::of::<SnapshotDiskToImage>(&Params {
        image_id,
        disk,
        rotation: wanted.rotation,
    })?;
    if !images::begin_upload(&mut tx, image_id, flow.id()).await? {
        return Err(Error::Conflict(format!(
            "Image status transition from {} to saving is not allowed",
            image.status
        )));
    }
    let demands = [Demand::Uploading, Demand::Data { bytes: 0 }];
    quota::check(&mut tx, &limits, image.owner.as_deref(), &demands).await?;
    let flow_id = flow
        .queue(service.store_queue())
        .resource("image", image_id)
        .request(by.request_id, by.project_id, by.user_id)
        .lock_exclusive(lock_key(image_id))
        .lock_shared(format!("disk/{}/{}", wanted.pool, wanted.disk))
        .insert(&mut tx)
        .await?;
    tx.commit().await?;
    service.doorbell.wake();
    Ok(flow_id)
}

/// Answers compute services over the bus. Whoever can reach the bus may ask.
pub struct DiskSnapshotRpc(pub Arc<ImageService>);

#[async_trait]
impl Handler for DiskSnapshotRpc {
    async fn handle(&self, message: Message) -> std::result::Result<Value, RemoteFailure> {
        if message.method != RPC_METHOD {
            return Err(RemoteFailure::unknown_method(&message.method));
        }
        let invalid = |error: String| RemoteFailure::new("Invalid", error);
        let wanted: DiskSnapshot =
            serde_json::from_value(message.args).map_err(|error| invalid(error.to_string()))?;
        let image_id = wanted
            .image_id
            .ok_or_else(|| invalid("missing field `image_id`".to_owned()))?;
        let by = Requester {
            request_id: &message.context.request_id,
            project_id: &message.context.project_id,
            user_id: &message.context.user_id,
        };
        match begin(&self.0, image_id, &wanted, &by).await {
            Ok(flow_id) => Ok(json!({"flow_id": flow_id})),
            Err(error) => Err(RemoteFailure::new(error.class(), error.to_string())),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use amqp::{Bus, InProcess, RequestContext, Target};
    use taskflow::testing::run_to_end;

    use super::*;
    use crate::flows::testing::World;
    use crate::image::Status;

    #[tokio::test]
    async fn a_compute_service_asks_over_the_bus() {
        let world = World::new().await;
        let store = &world.store;
        store.ensure_pool("vms").await.unwrap();
        store
            .create(&ImageSpec::new("vms", "s_disk"), 4096)
            .await
            .unwrap();
        let bus = InProcess::new();
        let rpc = Arc::new(DiskSnapshotRpc(world.service.clone()));
        let _serving = bus.serve(RPC_TOPIC, "h", rpc).await.unwrap();
        let ask = async |method: &str, args: Value| {
            let context = RequestContext {
                request_id: "req-1".to_owned(),
                ..RequestContext::default()
            };
            let message = Message::new(method, args).with_context(context);
            let target = Target::topic(RPC_TOPIC);
            bus.call(&target, message, Duration::from_secs(10)).await
        };
        let class = |answer: amqp::Result<Value>| match answer.unwrap_err() {
            amqp::Error::Remote(failure) => failure.class,
            other => panic!("{other}"),
        };
        let args = json!({"image_id": world.image_id, "pool": "vms", "disk": "s_disk"});
        assert_eq!(class(ask("dance", args.clone()).await), "NoSuchMethod");
        let no_image = json!({"pool": "vms", "disk": "s_disk"});
        assert_eq!(class(ask(RPC_METHOD, no_image).await), "Invalid");
        let unknown = json!({"image_id": Uuid::new_v4(), "pool": "vms", "disk": "s_disk"});
        assert_eq!(class(ask(RPC_METHOD, unknown).await), "NotFound");

        let answer = ask(RPC_METHOD, args.clone()).await.unwrap();
        let flow_id = serde_json::from_value(answer["flow_id"].clone()).unwrap();
        assert_eq!(class(ask(RPC_METHOD, args).await), "Conflict");
        let context = world.service.clone();
        run_to_end::<SnapshotDiskToImage>(world.database(), context, flow_id).await;
        assert_eq!(world.image().await.unwrap().status, Status::Active);
    }
}
