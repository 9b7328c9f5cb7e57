//! The connection to the brokers: made again whenever it breaks, in turn to each of them.

use std::collections::HashSet;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use lapin::options::{
    BasicPublishOptions, ConfirmSelectOptions, ExchangeDeclareOptions, QueueBindOptions,
    QueueDeclareOptions,
};
use lapin::types::{AMQPValue, FieldTable};
use lapin::uri::{AMQPAuthority, AMQPQueryString, AMQPScheme, AMQPUri, AMQPUserInfo};
use lapin::{
    BasicProperties, Channel, Connection, ConnectionProperties, ErrorKind, Event, ExchangeKind,
};
use tokio::sync::{Mutex, watch};

use super::RabbitOptions;
use super::stream;
use super::transport_url::Broker;

/// How long one broker may take to let us in.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long the broker may take to confirm a message.
const CONFIRM_TIMEOUT: Duration = Duration::from_secs(30);
/// How often a connection is looked at, beside what it tells by itself.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// Why a message was not taken that others might be.
pub(super) const REFUSED: &str = "the broker refused the message";

/// A message to publish.
#[derive(Debug, Clone, Copy)]
pub(super) struct Letter<'a> {
    pub route: Route<'a>,
    pub body: &'a [u8],
    /// Give it back when no queue takes it.
    pub mandatory: bool,
    /// It is worth nothing after that.
    pub expires: Option<Duration>,
}

/// Where a message goes.
#[derive(Debug, Clone, Copy)]
pub(super) enum Route<'a> {
    /// The control exchange, by the name of a topic or of a topic's server.
    Topic(&'a str),
    /// Every server of the topic.
    Fanout(&'a str),
    /// A queue by its own name.
    Queue(&'a str),
    /// The queue of a notification's topic and priority, made here if it is not there yet; none
    /// as the exchange: the control exchange.
    Notification {
        exchange: Option<&'a str>,
        queue: &'a str,
    },
}

/// What became of a message that the broker took.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Delivered {
    Queued,
    /// It was mandatory, and no queue takes it.
    Unroutable,
}

/// One connection while it lasts.
pub(super) struct Session {
    connection: Connection,
    publisher: Mutex<Publisher>,
}

struct Publisher {
    channel: Channel,
    /// Exchanges and queues that were declared on it.
    declared: HashSet<String>,
}

/// Holds a [`Session`] whenever a broker lets us.
pub(super) struct Link {
    pub options: RabbitOptions,
    session: watch::Sender<Option<Arc<Session>>>,
    /// Why there was no session the last time there was none.
    trouble: std::sync::Mutex<String>,
}

impl Link {
    pub fn new(options: RabbitOptions) -> Self {
        Self {
            options,
            session: watch::Sender::new(None),
            trouble: std::sync::Mutex::new("not connected yet".to_owned()),
        }
    }

    /// Why there is no session now, for people.
    pub fn trouble(&self) -> String {
        self.trouble
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    fn set_trouble(&self, broker: &Broker, reason: &str) {
        let mut trouble = self.trouble.lock().unwrap_or_else(PoisonError::into_inner);
        *trouble = format!("{broker}: {reason}");
    }

    /// The session there is now.
    pub fn now(&self) -> Option<Arc<Session>> {
        self.session.borrow().clone()
    }

    /// The session there is, or the next one.
    pub async fn session(&self) -> Arc<Session> {
        let mut watched = self.session.subscribe();
        loop {
            if let Some(session) = watched.borrow_and_update().clone() {
                return session;
            }
            // The sender lives as long as `self`.
            let _ = watched.changed().await;
        }
    }

    /// Connects, and connects again, for ever: to each broker in turn, with a pause after the last.
    pub async fn maintain(&self) {
        let brokers = &self.options.transport_url.brokers;
        let mut failures = 0_u32;
        // Brokers that failed one after the other since a session or a pause.
        let mut failed_in_turn = 0;
        for broker in brokers.iter().cycle() {
            let opened = tokio::time::timeout(CONNECT_TIMEOUT, self.open(broker)).await;
            match opened.unwrap_or_else(|_| Err("no answer".to_owned())) {
                Ok(session) => {
                    tracing::info!(%broker, "connected to the message broker");
                    if self.last(session, broker).await >= self.options.retry_interval {
                        (failures, failed_in_turn) = (0, 0);
                        continue;
                    }
                }
                Err(reason) => {
                    self.set_trouble(broker, &reason);
                    tracing::warn!(%broker, reason, "cannot reach the message broker");
                }
            }
            failed_in_turn += 1;
            if failed_in_turn >= brokers.len() {
                tokio::time::sleep(self.options.pause(failures)).await;
                failures = failures.saturating_add(1);
                failed_in_turn = 0;
            }
        }
    }

    /// Offers the session until it breaks; returns how long it was there.
    async fn last(&self, session: Session, broker: &Broker) -> Duration {
        let began = Instant::now();
        let session = Arc::new(session);
        self.session.send_replace(Some(Arc::clone(&session)));
        let reason = ended(&session.connection).await;
        self.set_trouble(broker, &reason);
        self.session.send_replace(None);
        tracing::warn!(%broker, reason, "lost the message broker");
        began.elapsed()
    }

    async fn open(&self, broker: &Broker) -> Result<Session, String> {
        let uri = AMQPUri {
            scheme: AMQPScheme::AMQP,
            authority: AMQPAuthority {
                userinfo: AMQPUserInfo {
                    username: broker.user.clone(),
                    password: broker.password.clone(),
                },
                host: broker.host.clone(),
                port: broker.port,
            },
            vhost: self.options.transport_url.virtual_host.clone(),
            query: AMQPQueryString {
                heartbeat: Some(self.options.heartbeat_s),
                ..AMQPQueryString::default()
            },
        };
        let properties = ConnectionProperties::default()
            .with_connection_name(self.options.connection_name.as_str().into());
        let stream = stream::reach(broker, self.options.tls.as_ref()).await?;
        let connection = stream::log_in(stream, uri, properties).await;
        let connection = connection.map_err(|error| self.explained(&error))?;
        let channel = publisher(&connection).await;
        let channel = channel.map_err(|error| error.to_string())?;
        Ok(Session {
            connection,
            publisher: Mutex::new(Publisher {
                channel,
                declared: HashSet::new(),
            }),
        })
    }
}

impl Link {
    /// Why we were not let in, with what an operator may have forgotten.
    fn explained(&self, error: &lapin::Error) -> String {
        match (&self.options.tls, error.kind()) {
            // Only now does a client hear what became of its certificate, or nothing.
            (Some(_), ErrorKind::IOError(_)) => {
                format!("{error}, after the TLS handshake: does the broker accept our certificate?")
            }
            (None, ErrorKind::ParsingError(_)) => {
                "the answer is not AMQP: does the broker want TLS (ssl)?".to_owned()
            }
            _ => error.to_string(),
        }
    }
}

/// A channel on which the broker confirms every message.
async fn publisher(connection: &Connection) -> lapin::Result<Channel> {
    let channel = connection.create_channel().await?;
    channel
        .confirm_select(ConfirmSelectOptions::default())
        .await?;
    Ok(channel)
}

/// Waits until the connection is gone; returns why.
async fn ended(connection: &Connection) -> String {
    let mut events = std::pin::pin!(connection.events_listener());
    loop {
        tokio::select! {
            event = events.next() => match event {
                Some(Event::Error(error)) => return error.to_string(),
                Some(_) => {}
                None => return "closed".to_owned(),
            },
            () = tokio::time::sleep(LOOK_EVERY) => {}
        }
        if !connection.status().connected() {
            return "closed".to_owned();
        }
    }
}

impl Session {
    pub async fn channel(&self) -> lapin::Result<Channel> {
        self.connection.create_channel().await
    }

    /// Publishes, and waits until the broker has the message.
    ///
    /// Errors: the broker may or may not have it.
    pub async fn publish(
        &self,
        options: &RabbitOptions,
        letter: Letter<'_>,
    ) -> Result<Delivered, String> {
        let sending = async {
            let confirm = self.send(options, letter).await?;
            confirm.await
        };
        let confirmed = tokio::time::timeout(CONFIRM_TIMEOUT, sending)
            .await
            .map_err(|_| "the broker does not confirm".to_owned())?;
        let confirmation = confirmed.map_err(|error| error.to_string())?;
        if confirmation.is_nack() {
            return Err(REFUSED.to_owned());
        }
        Ok(match confirmation.take_message() {
            Some(_) => Delivered::Unroutable,
            None => Delivered::Queued,
        })
    }

    /// Declares again what is published to: it may have been removed.
    pub async fn forget_declared(&self) {
        self.publisher.lock().await.declared.clear();
    }

    async fn send(
        &self,
        options: &RabbitOptions,
        letter: Letter<'_>,
    ) -> lapin::Result<lapin::PublisherConfirm> {
        let mut publisher = self.publisher.lock().await;
        if !publisher.channel.status().connected() {
            // A refused declaration closes the channel, not the connection.
            publisher.channel = self::publisher(&self.connection).await?;
            publisher.declared.clear();
        }
        let exchange = publisher.declare(options, letter.route).await?;
        let key = match letter.route {
            Route::Topic(key) | Route::Queue(key) => key,
            Route::Notification { queue, .. } => queue,
            Route::Fanout(_) => "",
        };
        let mut properties = BasicProperties::default()
            .with_content_type("application/json".into())
            .with_content_encoding("utf-8".into())
            .with_delivery_mode(2);
        if let Some(expires) = letter.expires {
            properties = properties.with_expiration(expires.as_millis().to_string().into());
        }
        let publish = BasicPublishOptions {
            mandatory: letter.mandatory,
            ..BasicPublishOptions::default()
        };
        publisher
            .channel
            .basic_publish(
                exchange.into(),
                key.into(),
                publish,
                letter.body,
                properties,
            )
            .await
    }
}

impl Publisher {
    /// Declares what the route needs, once; returns the exchange.
    async fn declare(
        &mut self,
        options: &RabbitOptions,
        route: Route<'_>,
    ) -> lapin::Result<String> {
        let exchange = match route {
            Route::Queue(_) => return Ok(String::new()),
            Route::Fanout(topic) => fanout_exchange(topic),
            Route::Notification {
                exchange: Some(exchange),
                ..
            } => exchange.to_owned(),
            Route::Topic(_) | Route::Notification { .. } => options.control_exchange.clone(),
        };
        if !self.declared.contains(&exchange) {
            match route {
                Route::Fanout(topic) => declare_fanout(&self.channel, topic).await?,
                _ => declare_exchange(&self.channel, options, &exchange).await?,
            }
            self.declared.insert(exchange.clone());
        }
        if let Route::Notification { queue, .. } = route {
            let declared = format!("queue {queue} of {exchange}");
            if !self.declared.contains(&declared) {
                declare_queue(&self.channel, options, &exchange, queue).await?;
                self.declared.insert(declared);
            }
        }
        Ok(exchange)
    }
}

pub(super) fn fanout_exchange(topic: &str) -> String {
    format!("{topic}_fanout")
}

/// The exchange of topics, with the flags that oslo.messaging gives it.
pub(super) async fn declare_exchange(
    channel: &Channel,
    options: &RabbitOptions,
    exchange: &str,
) -> lapin::Result<()> {
    let flags = ExchangeDeclareOptions {
        durable: options.is_durable(),
        auto_delete: options.auto_delete,
        ..ExchangeDeclareOptions::default()
    };
    let none = FieldTable::default();
    channel
        .exchange_declare(exchange.into(), ExchangeKind::Topic, flags, none)
        .await
}

pub(super) async fn declare_fanout(channel: &Channel, topic: &str) -> lapin::Result<()> {
    let flags = ExchangeDeclareOptions {
        auto_delete: true,
        ..ExchangeDeclareOptions::default()
    };
    let name = fanout_exchange(topic).into();
    let none = FieldTable::default();
    channel
        .exchange_declare(name, ExchangeKind::Fanout, flags, none)
        .await
}

/// A queue of the exchange under its own name.
pub(super) async fn declare_queue(
    channel: &Channel,
    options: &RabbitOptions,
    exchange: &str,
    name: &str,
) -> lapin::Result<()> {
    let flags = QueueDeclareOptions {
        durable: options.is_durable(),
        auto_delete: options.auto_delete,
        ..QueueDeclareOptions::default()
    };
    let mut arguments = FieldTable::default();
    if options.quorum_queues {
        let kind = AMQPValue::LongString("quorum".into());
        arguments.insert("x-queue-type".into(), kind);
    }
    channel.queue_declare(name.into(), flags, arguments).await?;
    let none = FieldTable::default();
    channel
        .queue_bind(
            name.into(),
            exchange.into(),
            name.into(),
            QueueBindOptions::default(),
            none,
        )
        .await
}

/// A queue of this process alone, which the broker removes when nobody has used it for a while.
pub(super) async fn declare_transient(
    channel: &Channel,
    options: &RabbitOptions,
    name: &str,
) -> lapin::Result<()> {
    let mut arguments = FieldTable::default();
    let expires_ms = i32::try_from(options.transient_ttl.as_millis()).unwrap_or(i32::MAX);
    arguments.insert("x-expires".into(), AMQPValue::LongInt(expires_ms));
    let mut flags = QueueDeclareOptions::default();
    if options.transient_quorum_queues {
        flags.durable = true;
        let kind = AMQPValue::LongString("quorum".into());
        arguments.insert("x-queue-type".into(), kind);
    }
    channel.queue_declare(name.into(), flags, arguments).await?;
    Ok(())
}
