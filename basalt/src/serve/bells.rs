//! Doorbells over the bus: who inserted a flow tells the scheduler or the manager at once.
//!
//! A ring that gets lost costs time only, for everybody also sweeps.

use std::sync::Arc;

use amqp::{Bus, Handler, Message, RemoteFailure, Serving, Target};
use async_trait::async_trait;
use serde_json::{Value, json};
use taskflow::Doorbell;
use tokio::sync::Notify;
use volume_service::SCHEDULER_QUEUE;
use volume_service::inventory::{Managers, StoredImage};
use volume_service::manager::Manager;

use crate::error::{Error, Result};

/// Cinder's topics.
const SCHEDULER_TOPIC: &str = "cinder-scheduler";
const VOLUME_TOPIC: &str = "cinder-volume";
const BACKUP_TOPIC: &str = "cinder-backup";
/// There is work in a queue.
const WAKE: &str = "wake";
/// Which images lie in a pool.
const LIST_IMAGES: &str = "list_images";

/// Rings over the bus.
pub struct BusDoorbell {
    bus: Arc<dyn Bus>,
}

impl BusDoorbell {
    pub fn new(bus: Arc<dyn Bus>) -> Self {
        BusDoorbell { bus }
    }
}

impl volume_service::Doorbell for BusDoorbell {
    fn ring(&self, queue: &str) {
        let Some(target) = target(queue) else {
            tracing::error!(queue, "no topic for this queue");
            return;
        };
        let message = Message::new(WAKE, json!({"queue": queue}));
        let bus = Arc::clone(&self.bus);
        tokio::spawn(async move {
            if let Err(error) = bus.cast(&target, message).await {
                tracing::debug!(%target, %error, "doorbell lost");
            }
        });
    }
}

/// Asks managers over the bus.
pub struct BusManagers {
    bus: Arc<dyn Bus>,
}

impl BusManagers {
    pub fn new(bus: Arc<dyn Bus>) -> Self {
        BusManagers { bus }
    }
}

#[async_trait]
impl Managers for BusManagers {
    async fn images(&self, pool_name: &str) -> volume_service::Result<Vec<StoredImage>> {
        let service = pool_name.split('#').next().unwrap_or(pool_name);
        let target = Target::topic(format!("{VOLUME_TOPIC}.{service}"));
        let message = Message::new(LIST_IMAGES, json!({"pool": pool_name}));
        let answer = self
            .bus
            .call(&target, message, amqp::DEFAULT_CALL_TIMEOUT)
            .await;
        let unavailable =
            |error: &dyn std::fmt::Display| volume_service::Error::Unavailable(error.to_string());
        let images = answer.map_err(|error| unavailable(&error))?;
        serde_json::from_value(images).map_err(|error| unavailable(&error))
    }
}

/// Who serves a queue: `scheduler`, `volume:host@backend#pool` or `backup:host`.
fn target(queue: &str) -> Option<Target> {
    if queue == SCHEDULER_QUEUE {
        return Some(Target::topic(SCHEDULER_TOPIC));
    }
    match queue.split_once(':')? {
        ("volume", pool) => {
            let service = pool.split_once('#').map_or(pool, |(service, _)| service);
            Some(Target::topic(format!("{VOLUME_TOPIC}.{service}")))
        }
        ("backup", host) => Some(Target::server(BACKUP_TOPIC, host)),
        _ => None,
    }
}

/// Answers the rings for a scheduler until the answer is dropped.
pub async fn of_scheduler(bus: &dyn Bus, host: &str, bell: Arc<Notify>) -> Result<Serving> {
    let waker = Arc::new(Waker(move || bell.notify_one()));
    let serving = bus.serve(SCHEDULER_TOPIC, host, waker).await;
    serving.map_err(failed)
}

/// Answers the rings for a manager, and what it is asked, until the answer is dropped.
pub async fn of_manager(
    bus: &dyn Bus,
    manager: &Arc<Manager>,
    worker: Doorbell,
) -> Result<Vec<Serving>> {
    let calls = Arc::new(ManagerCalls {
        wake: Waker(move || worker.wake()),
        manager: Arc::clone(manager),
    });
    let host = &manager.host;
    let backends = manager.backends.keys();
    let volumes = backends.map(|backend| format!("{VOLUME_TOPIC}.{host}@{backend}"));
    let volumes = volumes.filter(|_| manager.duties.volumes);
    let backups = manager.duties.backups.then(|| BACKUP_TOPIC.to_owned());
    let mut serving = Vec::new();
    for topic in volumes.chain(backups) {
        let calls = Arc::clone(&calls);
        serving.push(bus.serve(&topic, host, calls).await.map_err(failed)?);
    }
    Ok(serving)
}

fn failed(error: amqp::Error) -> Error {
    Error::Start(format!("message bus: {error}"))
}

/// What a manager is told and asked.
struct ManagerCalls<W> {
    wake: Waker<W>,
    manager: Arc<Manager>,
}

#[async_trait]
impl<W: Fn() + Send + Sync + 'static> Handler for ManagerCalls<W> {
    async fn handle(&self, message: Message) -> Result<Value, RemoteFailure> {
        if message.method != LIST_IMAGES {
            return self.wake.handle(message).await;
        }
        let pool = message.args.get("pool").and_then(Value::as_str);
        let images = self.manager.images_in(pool.unwrap_or_default()).await;
        let failed = |error: &dyn std::fmt::Display| {
            RemoteFailure::new("VolumeBackendAPIException", error.to_string())
        };
        let images = images.map_err(|error| failed(&error))?;
        serde_json::to_value(images).map_err(|error| failed(&error))
    }
}

struct Waker<W>(W);

#[async_trait]
impl<W: Fn() + Send + Sync + 'static> Handler for Waker<W> {
    async fn handle(&self, message: Message) -> Result<Value, RemoteFailure> {
        if message.method != WAKE {
            return Err(RemoteFailure::unknown_method(&message.method));
        }
        (self.0)();
        Ok(Value::Null)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_queue_has_its_topic() {
        for (queue, topic) in [
            ("scheduler", "cinder-scheduler"),
            ("volume:h@b#p", "cinder-volume.h@b"),
            ("backup:h", "cinder-backup.h"),
        ] {
            assert_eq!(target(queue).unwrap().to_string(), topic);
        }
        assert!(target("nonsense").is_none());
    }

    #[tokio::test]
    async fn a_ring_wakes_who_listens() {
        let bus = Arc::new(amqp::InProcess::new());
        let bell = Arc::new(Notify::new());
        let woken = Arc::clone(&bell);
        let waker = Arc::new(Waker(move || woken.notify_one()));
        let _serving = bus.serve(SCHEDULER_TOPIC, "h", waker).await.unwrap();
        volume_service::Doorbell::ring(&BusDoorbell::new(bus), SCHEDULER_QUEUE);
        bell.notified().await;
    }
}
