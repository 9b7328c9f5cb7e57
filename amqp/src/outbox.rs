//! Notifications that transactions leave behind, so that what is told is what happened: neither
//! less nor more.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use database::{Error, Result, Tx, now_us, params};
use tokio::sync::Notify;

use crate::Notification;

/// Where transactions put notifications. A clone shares the same outbox.
#[derive(Debug, Clone, Default)]
pub struct Outbox {
    /// Rung when something was put in; none: nobody wants notifications.
    bell: Option<Arc<Notify>>,
    /// `control_exchange` of whoever puts notifications in.
    exchange: Option<Arc<str>>,
}

impl Outbox {
    /// Nobody wants notifications: nothing is kept.
    pub fn closed() -> Self {
        Outbox::default()
    }

    /// Somebody does; a [`crate::Postman`] must empty it.
    pub fn open() -> Self {
        Outbox {
            bell: Some(Arc::default()),
            exchange: None,
        }
    }

    /// The same outbox, for a service with this `control_exchange`.
    pub fn of_exchange(&self, exchange: &str) -> Self {
        Outbox {
            bell: self.bell.clone(),
            exchange: Some(exchange.into()),
        }
    }

    /// Whether anybody wants notifications. Building one for nobody is waste.
    pub fn is_open(&self) -> bool {
        self.bell.is_some()
    }

    /// Puts a notification in: it is delivered if, and only if, the transaction commits.
    pub async fn put(&self, tx: &mut Tx, notification: &Notification) -> Result<()> {
        let Some(bell) = &self.bell else {
            return Ok(());
        };
        let mut notification = notification.clone();
        if let Some(exchange) = &self.exchange {
            notification = notification.with_exchange(exchange.as_ref());
        }
        let body = serde_json::to_string(&notification)
            .map_err(|error| Error::Other(format!("a notification: {error}")))?;
        let sql = "INSERT INTO notifications (id, position, body) VALUES (?, ?, ?)";
        let values = params![notification.message_id.as_str(), position(), body];
        tx.execute(sql, values).await?;
        bell.notify_one();
        Ok(())
    }

    /// Waits until something may have been put in. Only one may wait.
    pub(crate) async fn rung(&self) {
        match &self.bell {
            Some(bell) => bell.notified().await,
            None => std::future::pending().await,
        }
    }
}

/// The time, made to grow with every call in this process.
fn position() -> i64 {
    static LAST: AtomicI64 = AtomicI64::new(0);
    let now = now_us();
    let last = LAST.fetch_max(now, Ordering::Relaxed);
    if now > last {
        return now;
    }
    LAST.fetch_add(1, Ordering::Relaxed).saturating_add(1)
}
