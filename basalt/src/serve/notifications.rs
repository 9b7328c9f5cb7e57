//! Who is told of what happens: the outbox of the services and the postman that empties it.

use std::sync::Arc;

use amqp::{Bus, Carrier, Outbox, Postman, RabbitMq};
use database::Database;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::config::messaging::{Driver, NotificationOptions};

/// The outbox, closed where the operator wants no notifications.
pub fn outbox(options: &NotificationOptions) -> Outbox {
    match options.drivers.is_empty() {
        true => Outbox::closed(),
        false => Outbox::open(),
    }
}

/// Delivers until `stop`, over `bus` unless notifications have a broker of their own.
pub fn deliver(
    options: &NotificationOptions,
    outbox: Outbox,
    database: Database,
    bus: &Arc<dyn Bus>,
    stop: &CancellationToken,
) -> Option<JoinHandle<()>> {
    if !outbox.is_open() {
        return None;
    }
    let bus = match &options.broker {
        Some(own) => Arc::new(RabbitMq::new(own.clone())),
        None => Arc::clone(bus),
    };
    let carrier = |driver: &Driver| match driver {
        Driver::Messaging | Driver::MessagingV2 => Carrier::Bus(Arc::clone(&bus)),
        Driver::Log => Carrier::Log,
    };
    let carriers = options.drivers.iter().map(carrier).collect();
    let postman = Postman::new(database, outbox, carriers, options.retries);
    Some(tokio::spawn(postman.run(stop.clone().cancelled_owned())))
}
