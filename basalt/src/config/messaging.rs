//! `transport_url` and the sections of oslo.messaging: the broker, and who is told of what happens.

use std::path::PathBuf;
use std::time::Duration;

use amqp::{BrokerTls, RabbitOptions, TransportUrl};

use super::settings::required;
use super::{Config, ConfigError};

const RABBIT: &str = "oslo_messaging_rabbit";

const NOTIFICATIONS: &str = "oslo_messaging_notifications";

/// The broker; `None`: the bus inside the process.
pub fn rabbit_options(config: &Config) -> Result<Option<RabbitOptions>, ConfigError> {
    broker(config, "DEFAULT")
}

/// The broker that `transport_url` of the section names.
fn broker(config: &Config, section: &'static str) -> Result<Option<RabbitOptions>, ConfigError> {
    let url = config.text(section, "transport_url")?;
    let Some(url) = url.filter(|url| !url.starts_with("fake:")) else {
        return Ok(None);
    };
    let url = TransportUrl::parse(&url)
        .map_err(|error| ConfigError::option(section, "transport_url", error.to_string()))?;
    let seconds = |name: &str| config.integer(RABBIT, name).map(Duration::from_secs);
    Ok(Some(RabbitOptions {
        tls: tls(config, &url)?,
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
        notification_topics: config.list(NOTIFICATIONS, "topics")?,
        notification_envelope: !drivers(config)?.contains(&Driver::Messaging),
        ..RabbitOptions::new(url)
    }))
}

/// `ssl` and its files, from the address or from the section. Files that cannot be used stop the
/// start.
fn tls(config: &Config, url: &TransportUrl) -> Result<Option<BrokerTls>, ConfigError> {
    let wanted = match url.option("ssl").map(str::to_lowercase).as_deref() {
        Some("1" | "true" | "yes" | "on" | "t" | "y") => true,
        Some(_) => false,
        None => config.boolean(RABBIT, "ssl")?,
    };
    if !wanted {
        return Ok(None);
    }
    let path = |name: &str| -> Result<Option<PathBuf>, ConfigError> {
        let given = match url.option(name) {
            Some(given) => Some(given.to_owned()).filter(|given| !given.is_empty()),
            None => config.text(RABBIT, name)?,
        };
        Ok(given.map(|given| config.beside(&given)))
    };
    let tls = BrokerTls {
        ca_file: path("ssl_ca_file")?,
        certificate_file: path("ssl_cert_file")?,
        key_file: path("ssl_key_file")?,
    };
    if tls.key_file.is_some() && tls.certificate_file.is_none() {
        return Err(ConfigError::option(
            RABBIT,
            "ssl_key_file",
            "needs ssl_cert_file, whose key it is",
        ));
    }
    tls.check()
        .map_err(|error| ConfigError::option(RABBIT, "ssl", error.to_string()))?;
    Ok(Some(tls))
}

/// A driver of notifications.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Driver {
    /// Over the bus, without an envelope.
    Messaging,
    /// Over the bus.
    MessagingV2,
    /// A line each in the log.
    Log,
}

/// Who is told of what happens.
#[derive(Debug, Clone)]
pub struct NotificationOptions {
    /// Empty: nobody.
    pub drivers: Vec<Driver>,
    /// A broker of their own; none: the bus of the calls.
    pub broker: Option<RabbitOptions>,
    /// Tries after the first; none: for ever.
    pub retries: Option<u32>,
    /// `control_exchange` of either service.
    pub volume_exchange: String,
    pub image_exchange: String,
}

/// `[oslo_messaging_notifications]`
pub fn notification_options(config: &Config) -> Result<NotificationOptions, ConfigError> {
    let retry: i64 = config.integer(NOTIFICATIONS, "retry")?;
    Ok(NotificationOptions {
        drivers: drivers(config)?,
        broker: broker(config, NOTIFICATIONS)?,
        retries: u32::try_from(retry).ok(),
        volume_exchange: required(config, "DEFAULT", "control_exchange")?,
        image_exchange: required(config, "image_api", "control_exchange")?,
    })
}

fn drivers(config: &Config) -> Result<Vec<Driver>, ConfigError> {
    let refused = |reason: String| ConfigError::option(NOTIFICATIONS, "driver", reason);
    let mut drivers = Vec::new();
    for name in config.list(NOTIFICATIONS, "driver")? {
        match name.as_str() {
            "messaging" => drivers.push(Driver::Messaging),
            "messagingv2" => drivers.push(Driver::MessagingV2),
            "log" => drivers.push(Driver::Log),
            "noop" => {}
            other => {
                return Err(refused(format!(
                    "{other:?} is none of messagingv2, messaging, log, noop"
                )));
            }
        }
    }
    if drivers.contains(&Driver::Messaging) && drivers.contains(&Driver::MessagingV2) {
        let reason = "messaging and messagingv2 send the same; name one of them";
        return Err(refused(reason.to_owned()));
    }
    Ok(drivers)
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

    #[test]
    fn tls_is_asked_for_in_the_section_or_in_the_address() {
        let tls = |url: &str, pairs: &[(&str, &str)]| {
            let url = ("OS_DEFAULT__TRANSPORT_URL".to_owned(), url.to_owned());
            let set = |(name, value): &(&str, &str)| {
                let name = format!("OS_OSLO_MESSAGING_RABBIT__{}", name.to_uppercase());
                (name, (*value).to_owned())
            };
            let pairs = pairs.iter().map(set).chain([url]);
            let options = rabbit_options(&Config::load(&[], pairs).unwrap());
            options.map(|options| options.unwrap().tls.is_some())
        };
        assert!(!tls("rabbit://h", &[]).unwrap());
        // Files of a TLS that nobody wants are not looked at.
        assert!(
            !tls(
                "rabbit://h?ssl=0",
                &[("ssl", "true"), ("ssl_ca_file", "/none")]
            )
            .unwrap()
        );
        for (url, pairs, part) in [
            (
                "rabbit://h",
                &[("ssl", "true"), ("ssl_ca_file", "/none/ca.pem")][..],
                "ssl: /none/ca.pem",
            ),
            ("rabbit://h?ssl=1&ssl_ca_file=/no", &[][..], "ssl: /no"),
            (
                "rabbit://h",
                &[("ssl", "true"), ("ssl_key_file", "/none/key.pem")][..],
                "needs ssl_cert_file",
            ),
        ] {
            let error = tls(url, pairs).unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        }
    }

    #[test]
    fn drivers_of_notifications() {
        let options = |driver: &str| {
            let pairs = [(
                "OS_OSLO_MESSAGING_NOTIFICATIONS__DRIVER".to_owned(),
                driver.to_owned(),
            )];
            notification_options(&Config::load(&[], pairs).unwrap())
        };
        assert_eq!(options("").unwrap().drivers, []);
        assert_eq!(options("noop").unwrap().drivers, []);
        let some = options("messagingv2").unwrap();
        assert_eq!(some.drivers, [Driver::MessagingV2]);
        assert_eq!(
            (some.retries, some.image_exchange.as_str()),
            (None, "glance")
        );
        assert!(options("routing").is_err());
    }
}
