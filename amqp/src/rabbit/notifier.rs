//! Notifications on their way to the broker, in the order in which they were sent.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;

use super::envelope;
use super::link::{Letter, Link, Route};
use crate::{Notification, Priority};

/// Notifications that may wait for the broker to come back.
pub(super) const NOTIFICATIONS_KEPT: usize = 10_000;
const AGAIN: Duration = Duration::from_secs(1);

/// Publishes what comes, each until the broker has it: a listener may see one twice, with the
/// same `message_id`.
pub(super) async fn run(link: Arc<Link>, mut queue: mpsc::Receiver<Notification>) {
    while let Some(notification) = queue.recv().await {
        let body = envelope::notification(&notification, link.options.notification_envelope);
        for topic in &link.options.notification_topics {
            let key = format!("{topic}.{}", routing(notification.priority));
            publish(&link, &key, &body).await;
        }
    }
}

async fn publish(link: &Link, key: &str, body: &[u8]) {
    loop {
        let session = link.session().await;
        let letter = Letter {
            route: Route::Notification(key),
            body,
            mandatory: false,
            expires: None,
        };
        match session.publish(&link.options, letter).await {
            Ok(_) => return,
            Err(reason) => tracing::debug!(key, reason, "a notification is sent again"),
        }
        tokio::time::sleep(AGAIN).await;
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
