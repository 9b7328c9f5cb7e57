//! `transport_url` and the sections of oslo.messaging.

use std::time::Duration;

use amqp::{RabbitOptions, TransportUrl};

use super::settings::required;
use super::{Config, ConfigError};

const RABBIT: &str = "oslo_messaging_rabbit";

/// The broker; `None`: the bus inside the process.
pub fn rabbit_options(config: &Config) -> Result<Option<RabbitOptions>, ConfigError> {
    let url = config.text("DEFAULT", "transport_url")?;
    let Some(url) = url.filter(|url| !url.starts_with("fake:")) else {
        return Ok(None);
    };
    let url = TransportUrl::parse(&url)
        .map_err(|error| ConfigError::option("DEFAULT", "transport_url", error.to_string()))?;
    let seconds = |name: &str| config.integer(RABBIT, name).map(Duration::from_secs);
    Ok(Some(RabbitOptions {
        control_exchange: required(config, "DEFAULT", "control_exchange")?,
        durable_queues: config.boolean(RABBIT, "amqp_durable_queues")?,
        auto_delete: config.boolean(RABBIT, "amqp_auto_delete")?,
        quorum_queues: config.boolean(RABBIT, "rabbit_quorum_queue")?,
        transient_quorum_queues: config.boolean(RABBIT, "rabbit_transient_quorum_queue")?,
        transient_ttl: seconds("rabbit_transient_queues_ttl")?,
        heartbeat_s: config.integer(RABBIT, "heartbeat_timeout_threshold")?,
        retry_interval: seconds("rabbit_retry_interval")?,
        retry_backoff: config.integer(RABBIT, "rabbit_retry_backoff")?,
        retry_interval_max: seconds("rabbit_interval_max")?,
        ..RabbitOptions::new(url)
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(url: &str) -> Result<Option<RabbitOptions>, ConfigError> {
        let pairs = [("OS_DEFAULT__TRANSPORT_URL".to_owned(), url.to_owned())];
        rabbit_options(&Config::load(&[], pairs).unwrap())
    }

    #[test]
    fn the_url_chooses_the_bus() {
        assert!(options("").unwrap().is_none());
        assert!(options("fake:/").unwrap().is_none());
        let rabbit = options("rabbit://u:secret@h:1/v").unwrap().unwrap();
        assert_eq!(rabbit.control_exchange, "openstack");
        assert_eq!(rabbit.heartbeat_s, 60);
        let error = options("zmq://u:secret@h").unwrap_err().to_string();
        assert_eq!(
            error,
            "option [DEFAULT] transport_url: must begin with rabbit://"
        );
    }
}
