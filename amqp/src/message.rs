//! What travels: the method call and the notification.

use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use uuid::Uuid;

/// Where a call or cast goes.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Target {
    pub topic: String,
    /// One server of the topic; `None`: any of them.
    pub server: Option<String>,
}

impl Target {
    /// Any server of the topic.
    pub fn topic(topic: impl Into<String>) -> Self {
        Target {
            topic: topic.into(),
            server: None,
        }
    }

    /// This server of the topic.
    pub fn server(topic: impl Into<String>, server: impl Into<String>) -> Self {
        Target {
            topic: topic.into(),
            server: Some(server.into()),
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.server {
            Some(server) => write!(formatter, "{}.{server}", self.topic),
            None => formatter.write_str(&self.topic),
        }
    }
}

/// On whose behalf a message is sent: the `_context_*` keys of oslo.messaging, without the token.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RequestContext {
    /// `req-<uuid>`.
    pub request_id: String,
    pub user_id: String,
    pub project_id: String,
}

/// A method to run at the receiver.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Message {
    pub method: String,
    /// By name; an object.
    pub args: Value,
    /// Of the receiver's interface that the method needs: `3.20`.
    pub version: String,
    /// Of the interface; most have none.
    pub namespace: Option<String>,
    #[serde(default)]
    pub context: RequestContext,
}

impl Message {
    /// A method of version 1.0, without a namespace.
    pub fn new(method: impl Into<String>, args: Value) -> Self {
        Message {
            method: method.into(),
            args,
            version: "1.0".to_owned(),
            namespace: None,
            context: RequestContext::default(),
        }
    }

    /// As of this version of the interface.
    pub fn with_version(mut self, version: impl Into<String>) -> Self {
        self.version = version.into();
        self
    }

    /// On behalf of this request.
    pub fn with_context(mut self, context: RequestContext) -> Self {
        self.context = context;
        self
    }
}

/// The priorities of oslo.messaging; upper case in the body, lower case in the queue's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Priority {
    Audit,
    Debug,
    Info,
    Warn,
    Error,
    Critical,
    Sample,
}

/// Tells whoever listens (metering, audit) that something happened.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Notification {
    /// A UUID, new for each notification.
    pub message_id: String,
    /// `volume.<host>`, `image.localhost`, …
    pub publisher_id: String,
    /// `volume.create.start`, `image.upload`, …
    pub event_type: String,
    pub priority: Priority,
    pub payload: Value,
    #[serde(default)]
    pub context: RequestContext,
    /// When it happened, in microseconds since the epoch.
    pub at_us: i64,
    /// `control_exchange` of the service; none: the bus's own.
    #[serde(default)]
    pub exchange: Option<String>,
}

impl Notification {
    /// A notification of priority `INFO`.
    pub fn info(
        publisher_id: impl Into<String>,
        event_type: impl Into<String>,
        payload: Value,
    ) -> Self {
        Notification {
            message_id: Uuid::new_v4().to_string(),
            publisher_id: publisher_id.into(),
            event_type: event_type.into(),
            priority: Priority::Info,
            payload,
            context: RequestContext::default(),
            at_us: database::now_us(),
            exchange: None,
        }
    }

    /// Through this exchange of the broker.
    pub fn with_exchange(mut self, exchange: impl Into<String>) -> Self {
        self.exchange = Some(exchange.into());
        self
    }

    pub fn with_priority(mut self, priority: Priority) -> Self {
        self.priority = priority;
        self
    }

    /// On behalf of this request.
    pub fn with_context(mut self, context: RequestContext) -> Self {
        self.context = context;
        self
    }
}
