//! `transport_url`: brokers, credentials and the virtual host, as oslo.messaging writes them.

use std::fmt;

/// `rabbit://user:password@host:port,user:password@host:port/vhost`.
///
/// Names and passwords may be percent-encoded. Where a broker has no credentials of its own, it
/// takes those of the one before. The password is never printed. After a `?` may stand options of
/// TLS, which count instead of those of the configuration.
#[derive(Clone, PartialEq, Eq)]
pub struct TransportUrl {
    pub(super) brokers: Vec<Broker>,
    pub(super) virtual_host: String,
    options: Vec<(String, String)>,
}

/// What may stand after the `?`.
const OPTIONS: [&str; 4] = ["ssl", "ssl_ca_file", "ssl_cert_file", "ssl_key_file"];

#[derive(Clone, PartialEq, Eq)]
pub(super) struct Broker {
    pub host: String,
    pub port: u16,
    pub user: String,
    pub password: String,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TransportUrlError {
    #[error("must begin with rabbit://")]
    Scheme,
    #[error("names no broker")]
    NoBroker,
    #[error("has a port that is none: {0}")]
    Port(String),
    #[error("has a broken percent-encoding")]
    Encoding,
    #[error("asks for {0}, which is not supported")]
    Option(String),
}

const PORT: u16 = 5672;

impl TransportUrl {
    /// Reads the text of the option.
    pub fn parse(text: &str) -> Result<Self, TransportUrlError> {
        let rest = text
            .strip_prefix("rabbit://")
            .or_else(|| text.strip_prefix("kombu+amqp://"))
            .ok_or(TransportUrlError::Scheme)?;
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let mut options = Vec::new();
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            if !OPTIONS.contains(&name) {
                return Err(TransportUrlError::Option(name.to_owned()));
            }
            options.push((name.to_owned(), decode(value)?));
        }
        let (hosts, path) = rest.split_once('/').unwrap_or((rest, ""));
        let mut brokers: Vec<Broker> = Vec::new();
        for part in hosts.split(',').filter(|part| !part.is_empty()) {
            let broker = broker(part, brokers.last())?;
            brokers.push(broker);
        }
        if brokers.is_empty() {
            return Err(TransportUrlError::NoBroker);
        }
        let path = decode(path)?;
        let virtual_host = if path.is_empty() {
            "/".to_owned()
        } else {
            path
        };
        Ok(Self {
            brokers,
            virtual_host,
            options,
        })
    }

    /// What stands after the `?` under this name.
    pub fn option(&self, name: &str) -> Option<&str> {
        let given = self.options.iter().rev().find(|(given, _)| given == name);
        given.map(|(_, value)| value.as_str())
    }
}

fn broker(part: &str, before: Option<&Broker>) -> Result<Broker, TransportUrlError> {
    let (account, address) = match part.rsplit_once('@') {
        Some((account, address)) => (Some(account), address),
        None => (None, part),
    };
    let (user, password) = match (account, before) {
        (Some(account), _) => {
            let (user, password) = account.split_once(':').unwrap_or((account, ""));
            (decode(user)?, decode(password)?)
        }
        (None, Some(before)) => (before.user.clone(), before.password.clone()),
        (None, None) => ("guest".to_owned(), "guest".to_owned()),
    };
    let (host, port) = split_port(address)?;
    Ok(Broker {
        host,
        port,
        user,
        password,
    })
}

/// `host`, `host:port`, `[v6]`, `[v6]:port`.
fn split_port(address: &str) -> Result<(String, u16), TransportUrlError> {
    let (host, port) = match address
        .strip_prefix('[')
        .and_then(|rest| rest.split_once(']'))
    {
        Some((host, rest)) => (host, rest.strip_prefix(':')),
        None => match address.rsplit_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (address, None),
        },
    };
    let port = match port {
        None | Some("") => PORT,
        Some(text) => text
            .parse()
            .map_err(|_| TransportUrlError::Port(text.to_owned()))?,
    };
    let host = if host.is_empty() { "localhost" } else { host };
    Ok((host.to_owned(), port))
}

fn decode(text: &str) -> Result<String, TransportUrlError> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let digits = [rest.next(), rest.next()];
        let [Some(high), Some(low)] =
            digits.map(|digit| digit.and_then(|d| (d as char).to_digit(16)))
        else {
            return Err(TransportUrlError::Encoding);
        };
        bytes.push((high * 16 + low) as u8);
    }
    String::from_utf8(bytes).map_err(|_| TransportUrlError::Encoding)
}

impl fmt::Debug for TransportUrl {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "TransportUrl({self})")
    }
}

impl fmt::Display for TransportUrl {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("rabbit://")?;
        for (position, broker) in self.brokers.iter().enumerate() {
            let comma = if position == 0 { "" } else { "," };
            write!(formatter, "{comma}{broker}")?;
        }
        write!(formatter, "/{}", self.virtual_host.trim_start_matches('/'))
    }
}

impl fmt::Display for Broker {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}:{}", self.host, self.port)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn brokers_credentials_and_virtual_host() {
        let url = TransportUrl::parse("rabbit://a:p%40ss@h1:1,h2,b:c@[::1]:3/vh%2f").unwrap();
        let brokers: Vec<_> = url
            .brokers
            .iter()
            .map(|one| {
                (
                    one.host.as_str(),
                    one.port,
                    one.user.as_str(),
                    one.password.as_str(),
                )
            })
            .collect();
        let expected = [
            ("h1", 1, "a", "p@ss"),
            ("h2", 5672, "a", "p@ss"),
            ("::1", 3, "b", "c"),
        ];
        assert_eq!(brokers, expected);
        assert_eq!(url.virtual_host, "vh/");
        let plain = TransportUrl::parse("rabbit://").unwrap_err();
        assert_eq!(plain, TransportUrlError::NoBroker);
        assert_eq!(TransportUrl::parse("rabbit://h").unwrap().virtual_host, "/");
        let tls = TransportUrl::parse("rabbit://h/v?ssl=1&ssl_ca_file=%2fca").unwrap();
        assert_eq!(
            (tls.option("ssl"), tls.option("ssl_ca_file")),
            (Some("1"), Some("/ca"))
        );
        assert_eq!(tls.option("ssl_key_file"), None);
    }

    #[test]
    fn what_is_wrong_is_said_and_the_password_is_not() {
        for (text, error) in [
            ("amqp://h", TransportUrlError::Scheme),
            (
                "rabbit://h:port",
                TransportUrlError::Port("port".to_owned()),
            ),
            ("rabbit://a:%4@h", TransportUrlError::Encoding),
            (
                "rabbit://h/?ssl=1&ssl_version=x",
                TransportUrlError::Option("ssl_version".to_owned()),
            ),
        ] {
            assert_eq!(TransportUrl::parse(text).unwrap_err(), error);
        }
        let url = TransportUrl::parse("rabbit://user:secret@h/v").unwrap();
        assert!(!format!("{url:?} {url}").contains("secret"));
    }
}
