//! The bus over RabbitMQ, in oslo.messaging's wire format (its drivers `rabbit` and `messagingv2`).
//!
//! Requests are acknowledged when they arrive, before the method runs, as oslo.messaging does; a
//! copy of a message is dropped by its `_unique_id`. The connection is made again whenever it
//! breaks. Casts are dropped while no broker is there; calls wait for one within their timeout;
//! notifications fail.

mod calls;
mod envelope;
mod link;
mod server;
mod stream;
mod tls;
mod transport_url;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use serde_json::Value;
use tokio::task::AbortHandle;

use crate::{Bus, Error, Handler, Message, Notification, Priority, Result, Serving, Target};
use calls::Calls;
use link::{Delivered, Letter, Link, Route};
use server::{GoneCallers, Server};

pub use tls::BrokerTls;
pub use transport_url::{TransportUrl, TransportUrlError};

/// `[oslo_messaging_rabbit]`, `[oslo_messaging_notifications]`, `control_exchange`.
#[derive(Debug, Clone)]
pub struct RabbitOptions {
    pub transport_url: TransportUrl,
    /// `ssl`: the brokers are spoken to in TLS.
    pub tls: Option<BrokerTls>,
    /// Where topics live: `openstack`, unless the operator says otherwise (often `cinder`).
    pub control_exchange: String,
    /// `amqp_durable_queues`.
    pub durable_queues: bool,
    /// `amqp_auto_delete`.
    pub auto_delete: bool,
    /// `rabbit_quorum_queue`: topics' queues are replicated, and durable.
    pub quorum_queues: bool,
    /// `rabbit_transient_quorum_queue`: reply and fanout queues, too.
    pub transient_quorum_queues: bool,
    /// `rabbit_transient_queues_ttl`.
    pub transient_ttl: Duration,
    /// `heartbeat_timeout_threshold`.
    pub heartbeat_s: u16,
    /// `rabbit_retry_interval`, `rabbit_retry_backoff`, `rabbit_interval_max`.
    pub retry_interval: Duration,
    pub retry_backoff: u32,
    pub retry_interval_max: Duration,
    /// Topics of notifications; none: nobody is told.
    pub notification_topics: Vec<String>,
    /// Driver `messagingv2` (true) or `messaging`.
    pub notification_envelope: bool,
    /// What the broker's management shows for this process.
    pub connection_name: String,
}

impl RabbitOptions {
    /// oslo.messaging's defaults.
    pub fn new(transport_url: TransportUrl) -> Self {
        Self {
            transport_url,
            tls: None,
            control_exchange: "openstack".to_owned(),
            durable_queues: false,
            auto_delete: false,
            quorum_queues: false,
            transient_quorum_queues: false,
            transient_ttl: Duration::from_secs(1800),
            heartbeat_s: 60,
            retry_interval: Duration::from_secs(1),
            retry_backoff: 2,
            retry_interval_max: Duration::from_secs(30),
            notification_topics: Vec::new(),
            notification_envelope: true,
            connection_name: "basalt".to_owned(),
        }
    }

    fn is_durable(&self) -> bool {
        self.durable_queues || self.quorum_queues
    }

    /// Before the next try after so many failures.
    fn pause(&self, failures: u32) -> Duration {
        let factor = self.retry_backoff.max(1).saturating_pow(failures.min(16));
        self.retry_interval
            .saturating_mul(factor)
            .min(self.retry_interval_max)
    }
}

/// The [`Bus`] over RabbitMQ. Make one per process and share it; dropping it disconnects.
pub struct RabbitMq {
    link: Arc<Link>,
    calls: Arc<Calls>,
    gone: Arc<GoneCallers>,
    running: Vec<AbortHandle>,
}

impl RabbitMq {
    /// Begins to connect; the broker may come later. Needs a tokio runtime.
    pub fn new(options: RabbitOptions) -> Self {
        let link = Arc::new(Link::new(options));
        let calls = Arc::new(Calls::new(Arc::clone(&link)));
        let connecting = Arc::clone(&link);
        let listening = Arc::clone(&calls);
        let running = vec![
            tokio::spawn(async move { connecting.maintain().await }).abort_handle(),
            tokio::spawn(async move { listening.listen().await }).abort_handle(),
        ];
        Self {
            link,
            calls,
            gone: Arc::default(),
            running,
        }
    }

    /// Publishes if a broker is there now.
    async fn ring(&self, route: Route<'_>, message: &Message) {
        let body = envelope::request(message, None);
        let letter = Letter {
            route,
            body: &body,
            mandatory: false,
            expires: None,
        };
        let sent = match self.link.now() {
            Some(session) => session
                .publish(&self.link.options, letter)
                .await
                .map(|_| ()),
            None => Err("no broker".to_owned()),
        };
        if let Err(reason) = sent {
            let method = &message.method;
            tracing::debug!(?route, method, reason, "cast dropped; the sweep takes over");
        }
    }
}

impl Drop for RabbitMq {
    fn drop(&mut self) {
        self.running.iter().for_each(AbortHandle::abort);
    }
}

#[async_trait]
impl Bus for RabbitMq {
    async fn cast(&self, target: &Target, message: Message) -> Result<()> {
        self.ring(Route::Topic(&target.to_string()), &message).await;
        Ok(())
    }

    async fn fanout(&self, topic: &str, message: Message) -> Result<()> {
        self.ring(Route::Fanout(topic), &message).await;
        Ok(())
    }

    async fn call(&self, target: &Target, message: Message, timeout: Duration) -> Result<Value> {
        self.calls.call(target, &message, timeout).await
    }

    async fn serve(&self, topic: &str, server: &str, handler: Arc<dyn Handler>) -> Result<Serving> {
        let server = Server {
            link: Arc::clone(&self.link),
            topic: topic.to_owned(),
            name: server.to_owned(),
            id: envelope::new_id(),
            handler,
            gone: Arc::clone(&self.gone),
        };
        let running = tokio::spawn(server.run()).abort_handle();
        Ok(Serving::new(move || running.abort()))
    }

    async fn notify(&self, notification: &Notification) -> Result<()> {
        let options = &self.link.options;
        let body = envelope::notification(notification, options.notification_envelope);
        for topic in &options.notification_topics {
            let key = format!("{topic}.{}", routing(notification.priority));
            let letter = Letter {
                route: Route::Notification {
                    exchange: notification.exchange.as_deref(),
                    queue: &key,
                },
                body: &body,
                mandatory: true,
                expires: None,
            };
            let no_broker = || Error::Unavailable(self.link.trouble());
            let session = self.link.now().ok_or_else(no_broker)?;
            match session.publish(options, letter).await {
                Ok(Delivered::Queued) => {}
                Ok(Delivered::Unroutable) => {
                    // Somebody removed the queue that we had made; it is made again next time.
                    session.forget_declared().await;
                    return Err(Error::Unavailable(format!("the queue {key} is gone")));
                }
                Err(reason) if reason == link::REFUSED => return Err(Error::Busy(key)),
                Err(reason) => return Err(Error::Unavailable(reason)),
            }
        }
        Ok(())
    }
}

/// The priority in a routing key.
fn routing(priority: Priority) -> &'static str {
    match priority {
        Priority::Audit => "audit",
        Priority::Debug => "debug",
        Priority::Info => "info",
        Priority::Warn => "warn",
        Priority::Error => "error",
        Priority::Critical => "critical",
        Priority::Sample => "sample",
    }
}
