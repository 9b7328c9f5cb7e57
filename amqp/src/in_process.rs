//! The bus inside one process: a bounded queue per server, nothing on the wire.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use serde_json::Value;
use tokio::sync::{Semaphore, broadcast, mpsc, oneshot};

use crate::{Bus, Error, Handler, Message, Notification, RemoteFailure, Result, Serving, Target};

/// Messages that may wait for one server.
const QUEUE_MESSAGES: usize = 1024;
/// Messages that one server handles at a time: `executor_thread_pool_size` of oslo.messaging.
const HANDLED_AT_ONCE: usize = 64;
/// Notifications that a slow listener may lag behind before it misses some.
const NOTIFICATIONS_KEPT: usize = 1024;

type Reply = oneshot::Sender<std::result::Result<Value, RemoteFailure>>;

struct Envelope {
    message: Message,
    reply: Option<Reply>,
}

struct Server {
    id: u64,
    name: String,
    queue: mpsc::Sender<Envelope>,
}

#[derive(Default)]
struct Topic {
    servers: Vec<Server>,
    next: AtomicUsize,
}

impl Topic {
    /// The queue that a message for `server` (or for any) goes to.
    fn pick(&self, server: Option<&str>) -> Option<mpsc::Sender<Envelope>> {
        let matching = || {
            self.servers
                .iter()
                .filter(|entry| server.is_none_or(|name| entry.name == name))
        };
        let count = matching().count().max(1);
        let turn = self.next.fetch_add(1, Ordering::Relaxed) % count;
        matching().nth(turn).map(|entry| entry.queue.clone())
    }
}

type Topics = Mutex<HashMap<String, Topic>>;

/// The in-process [`Bus`]. Make one per process and share it.
pub struct InProcess {
    topics: Arc<Topics>,
    notifications: broadcast::Sender<Notification>,
    next_id: AtomicU64,
    queue_messages: usize,
}

impl Default for InProcess {
    fn default() -> Self {
        Self::new()
    }
}

impl InProcess {
    pub fn new() -> Self {
        Self::with_queue_messages(QUEUE_MESSAGES)
    }

    fn with_queue_messages(queue_messages: usize) -> Self {
        let (notifications, _) = broadcast::channel(NOTIFICATIONS_KEPT);
        InProcess {
            topics: Arc::default(),
            notifications,
            next_id: AtomicU64::new(0),
            queue_messages,
        }
    }

    /// Every notification from now on. A listener that lags more than 1024 behind is told how
    /// many it missed.
    pub fn notifications(&self) -> broadcast::Receiver<Notification> {
        self.notifications.subscribe()
    }

    /// Puts the message in a queue without ever waiting for room.
    fn hand_over(&self, target: &Target, envelope: Envelope) -> Result<()> {
        let queue = lock(&self.topics)
            .get(&target.topic)
            .and_then(|topic| topic.pick(target.server.as_deref()))
            .ok_or_else(|| Error::NoServer(target.to_string()))?;
        queue.try_send(envelope).map_err(|failure| match failure {
            mpsc::error::TrySendError::Full(_) => Error::Busy(target.to_string()),
            mpsc::error::TrySendError::Closed(_) => Error::NoServer(target.to_string()),
        })
    }
}

#[async_trait]
impl Bus for InProcess {
    async fn cast(&self, target: &Target, message: Message) -> Result<()> {
        let method = message.method.clone();
        if let Err(reason) = self.hand_over(
            target,
            Envelope {
                message,
                reply: None,
            },
        ) {
            tracing::debug!(%target, method, %reason, "cast dropped; the sweep takes over");
        }
        Ok(())
    }

    async fn fanout(&self, topic: &str, message: Message) -> Result<()> {
        let queues: Vec<_> = lock(&self.topics)
            .get(topic)
            .map_or_else(Vec::new, |topic| {
                topic
                    .servers
                    .iter()
                    .map(|server| server.queue.clone())
                    .collect()
            });
        for queue in queues {
            let envelope = Envelope {
                message: message.clone(),
                reply: None,
            };
            if queue.try_send(envelope).is_err() {
                tracing::debug!(
                    topic,
                    method = message.method,
                    "fanout dropped at one server"
                );
            }
        }
        Ok(())
    }

    async fn call(&self, target: &Target, message: Message, timeout: Duration) -> Result<Value> {
        let method = message.method.clone();
        let (reply, answer) = oneshot::channel();
        self.hand_over(
            target,
            Envelope {
                message,
                reply: Some(reply),
            },
        )?;
        match tokio::time::timeout(timeout, answer).await {
            Ok(Ok(outcome)) => Ok(outcome?),
            // The handler's task ended without an answer: it panicked or the server stopped.
            Ok(Err(_)) => {
                Err(RemoteFailure::new("RemoteError", format!("{method} gave no answer")).into())
            }
            Err(_) => Err(Error::Timeout {
                target: target.to_string(),
                method,
                timeout_ms: timeout.as_millis(),
            }),
        }
    }

    async fn serve(&self, topic: &str, server: &str, handler: Arc<dyn Handler>) -> Result<Serving> {
        let (queue, messages) = mpsc::channel(self.queue_messages);
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        lock(&self.topics)
            .entry(topic.to_owned())
            .or_default()
            .servers
            .push(Server {
                id,
                name: server.to_owned(),
                queue,
            });
        tokio::spawn(dispatch(messages, handler));
        let topics = Arc::downgrade(&self.topics);
        let topic = topic.to_owned();
        Ok(Serving::new(move || {
            if let Some(topics) = topics.upgrade() {
                remove_server(&topics, &topic, id);
            }
        }))
    }

    async fn notify(&self, notification: &Notification) -> Result<()> {
        tracing::debug!(
            target: "notifications",
            event_type = notification.event_type,
            publisher_id = notification.publisher_id,
            priority = ?notification.priority,
            request_id = notification.context.request_id,
            payload = %notification.payload,
        );
        // An error only says that nobody listens.
        let _ = self.notifications.send(notification.clone());
        Ok(())
    }
}

/// Handles a server's messages until its queue is closed and empty.
async fn dispatch(mut messages: mpsc::Receiver<Envelope>, handler: Arc<dyn Handler>) {
    let slots = Arc::new(Semaphore::new(HANDLED_AT_ONCE));
    while let Some(Envelope { message, reply }) = messages.recv().await {
        let Ok(slot) = Arc::clone(&slots).acquire_owned().await else {
            return;
        };
        let handler = Arc::clone(&handler);
        tokio::spawn(async move {
            let _slot = slot;
            let method = message.method.clone();
            let outcome = crate::dispatch(&*handler, message).await;
            match reply {
                // A caller that no longer waits has had its timeout.
                Some(reply) => drop(reply.send(outcome)),
                None => {
                    if let Err(failure) = outcome {
                        tracing::warn!(method, %failure, "cast failed");
                    }
                }
            }
        });
    }
}

fn remove_server(topics: &Topics, name: &str, id: u64) {
    let mut topics = lock(topics);
    if let Some(topic) = topics.get_mut(name) {
        topic.servers.retain(|server| server.id != id);
        if topic.servers.is_empty() {
            topics.remove(name);
        }
    }
}

/// The map is whole between any two statements, so a poisoned lock is still good.
fn lock(topics: &Topics) -> MutexGuard<'_, HashMap<String, Topic>> {
    topics.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::DEFAULT_CALL_TIMEOUT as DEFAULT_WAIT;
    use serde_json::json;

    /// Answers `echo` with its arguments, `who` with its name, `hang` never; counts casts.
    struct Named {
        name: &'static str,
        seen: mpsc::UnboundedSender<(&'static str, String)>,
    }

    #[async_trait]
    impl Handler for Named {
        async fn handle(&self, message: Message) -> std::result::Result<Value, RemoteFailure> {
            let _ = self.seen.send((self.name, message.method.clone()));
            match message.method.as_str() {
                "echo" => Ok(message.args),
                "who" => Ok(json!(self.name)),
                "hang" => std::future::pending().await,
                "panic" => panic!("on purpose"),
                other => Err(RemoteFailure::unknown_method(other)),
            }
        }
    }

    type Seen = mpsc::UnboundedReceiver<(&'static str, String)>;

    async fn two_servers(bus: &InProcess) -> (Seen, Serving, Serving) {
        let (seen, receiver) = mpsc::unbounded_channel();
        let a = Arc::new(Named {
            name: "a",
            seen: seen.clone(),
        });
        let b = Arc::new(Named { name: "b", seen });
        let a = bus.serve("t", "a", a).await.unwrap();
        let b = bus.serve("t", "b", b).await.unwrap();
        (receiver, a, b)
    }

    fn message(method: &str) -> Message {
        Message::new(method, json!({"x": 1}))
    }

    #[tokio::test]
    async fn call_reaches_the_named_server_and_any_takes_turns() {
        let bus = InProcess::new();
        let (_seen, _a, _b) = two_servers(&bus).await;
        for name in ["a", "b"] {
            let target = Target::server("t", name);
            assert_eq!(
                bus.call(&target, message("who"), DEFAULT_WAIT)
                    .await
                    .unwrap(),
                json!(name)
            );
        }
        let any = Target::topic("t");
        let mut names = Vec::new();
        for _ in 0..4 {
            names.push(bus.call(&any, message("who"), DEFAULT_WAIT).await.unwrap());
        }
        assert_eq!(names.iter().filter(|name| **name == json!("a")).count(), 2);
        assert_eq!(
            bus.call(&any, message("echo"), DEFAULT_WAIT).await.unwrap(),
            json!({"x": 1})
        );
    }

    #[tokio::test]
    async fn call_errors_tell_what_happened() {
        let bus = InProcess::new();
        let target = Target::topic("t");
        let nobody = bus.call(&target, message("who"), DEFAULT_WAIT).await;
        assert!(matches!(nobody, Err(Error::NoServer(_))));

        let (_seen, _a, _b) = two_servers(&bus).await;
        let unknown = bus.call(&target, message("nope"), DEFAULT_WAIT).await;
        assert!(matches!(unknown, Err(Error::Remote(failure)) if failure.class == "NoSuchMethod"));
        let hung = bus
            .call(&target, message("hang"), Duration::from_millis(5))
            .await;
        assert!(matches!(hung, Err(Error::Timeout { .. })));
        let panicked = bus.call(&target, message("panic"), DEFAULT_WAIT).await;
        assert!(matches!(panicked, Err(Error::Remote(failure)) if failure.class == "RemoteError"));
    }

    #[tokio::test]
    async fn fanout_reaches_all_and_a_dropped_server_none() {
        let bus = InProcess::new();
        let (mut seen, a, _b) = two_servers(&bus).await;
        bus.fanout("t", message("echo")).await.unwrap();
        let mut names = [seen.recv().await.unwrap().0, seen.recv().await.unwrap().0];
        names.sort_unstable();
        assert_eq!(names, ["a", "b"]);

        drop(a);
        let gone = bus
            .call(&Target::server("t", "a"), message("who"), DEFAULT_WAIT)
            .await;
        assert!(matches!(gone, Err(Error::NoServer(_))));
        let left = bus
            .call(&Target::topic("t"), message("who"), DEFAULT_WAIT)
            .await
            .unwrap();
        assert_eq!(left, json!("b"));
    }

    #[tokio::test]
    async fn a_full_queue_never_blocks() {
        let bus = InProcess::with_queue_messages(1);
        let (_seen, _a, b) = two_servers(&bus).await;
        drop(b);
        let target = Target::topic("t");
        // More than the slots and the queue hold together: each returns at once.
        for _ in 0..HANDLED_AT_ONCE * 2 {
            bus.cast(&target, message("hang")).await.unwrap();
            tokio::task::yield_now().await;
        }
        let refused = bus.call(&target, message("who"), DEFAULT_WAIT).await;
        assert!(matches!(refused, Err(Error::Busy(_))), "{refused:?}");
        bus.cast(&Target::topic("nobody"), message("who"))
            .await
            .unwrap();
    }

    #[tokio::test]
    async fn notifications_reach_the_listeners() {
        let bus = InProcess::new();
        let mut listener = bus.notifications();
        let sent = Notification::info("volume.h", "volume.create.start", json!({"size": 1}))
            .with_priority(crate::Priority::Error);
        bus.notify(&sent).await.unwrap();
        let received = listener.recv().await.unwrap();
        assert_eq!(received, sent);
        assert_eq!(
            serde_json::to_value(&received).unwrap()["priority"],
            "ERROR"
        );
    }
}
