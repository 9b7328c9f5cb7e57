//! The image API and the workers of its flows.

use std::sync::Arc;

use amqp::Serving;
use async_trait::async_trait;
use image_service::{DiskSnapshotRpc, ImageService, KeyManager, Notices, RPC_TOPIC};
use rest::Secret;
use taskflow::Fence;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::listen::Bound;
use super::{Node, end, look_after, serve_http};
use crate::config::services;
use crate::error::{Error, Result};

/// The running image service.
pub struct Images {
    server: JoinHandle<()>,
    watching: JoinHandle<()>,
    purging: JoinHandle<()>,
    workers: Vec<JoinHandle<()>>,
    stop_workers: CancellationToken,
    _serving: Serving,
}

/// Starts the service; `stop` ends its server.
pub async fn start(node: &Node, bound: Bound, stop: &CancellationToken) -> Result<Images> {
    let options = services::image_options(&node.config)?;
    let engines = services::image_engines(&node.config, &node.stores)?;
    let exchange = &node.settings.notifications.image_exchange;
    let publisher = node.config.text("image_api", "default_publisher_id")?;
    let notices = Notices::new(
        node.outbox.of_exchange(exchange),
        &publisher.unwrap_or_default(),
    );
    let service = ImageService::new(node.database.clone(), engines, options, notices).await;
    let service = service.map_err(|error| Error::Start(format!("image service: {error}")))?;
    if let Some(keys) = image_keys(node)? {
        service.set_key_manager(keys);
    }
    let watching = look_after(node, &service.policy, stop)?;
    let stop_workers = CancellationToken::new();
    let fence = node
        .clients
        .clone()
        .map(|clients| clients as Arc<dyn Fence>);
    let workers = service
        .workers(node.settings.lease, fence)
        .into_iter()
        .map(|worker| tokio::spawn(worker.run(stop_workers.clone().cancelled_owned())))
        .collect();
    let purging = {
        let (service, stop) = (service.clone(), stop.clone());
        tokio::spawn(async move { service.purge_until(stop.cancelled()).await })
    };
    let rpc = Arc::new(DiskSnapshotRpc(service.clone()));
    let serving = node.bus.serve(RPC_TOPIC, &node.settings.host, rpc).await;
    let serving = serving.map_err(|error| Error::Start(format!("message bus: {error}")))?;
    let router = service.router(node.identity.clone());
    let server = serve_http(node, bound, router, stop);
    Ok(Images {
        server,
        watching,
        purging,
        workers,
        stop_workers,
        _serving: serving,
    })
}

/// The key manager of volumes, for images that were made of encrypted ones.
struct Keys(volume_service::keys::KeyManager);

#[async_trait]
impl KeyManager for Keys {
    async fn delete(&self, token: &Secret, id: Uuid) -> std::result::Result<(), String> {
        let deleted = self.0.delete(token, id).await;
        deleted.map_err(|error| error.to_string())
    }
}

/// Only Barbican keeps a key for each image.
fn image_keys(node: &Node) -> Result<Option<Arc<dyn KeyManager>>> {
    let keys = super::volume::keys(node)?;
    let is_kept = matches!(keys, volume_service::keys::KeyManager::Barbican(_));
    Ok(is_kept.then(|| Arc::new(Keys(keys)) as Arc<dyn KeyManager>))
}

impl Images {
    /// Uploads in flight need the workers, so these end after the server.
    pub async fn end(self) {
        end(vec![self.server, self.watching, self.purging]).await;
        self.stop_workers.cancel();
        end(self.workers).await;
    }
}
