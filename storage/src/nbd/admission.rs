//! Who may use which export: the question that the server asks, and whoever knows the answer
//! implements.

use std::net::SocketAddr;
use std::time::Duration;

use async_trait::async_trait;

use crate::{ImageSpec, Result};

/// What a client gets for a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grant {
    pub image: ImageSpec,
    pub snapshot: Option<String>,
    /// A snapshot is read-only in any case.
    pub read_only: bool,
}

/// Where a client comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// A Unix socket; the user id of the process that connected.
    Unix {
        uid: u32,
    },
    Tcp(SocketAddr),
}

/// Who a client is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    pub origin: Origin,
    /// What its TLS certificate says, when one was asked for and found good.
    pub certificate: Option<PeerCertificate>,
}

/// A client certificate that the configured authority has signed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerCertificate {
    /// The last common name of its subject.
    pub common_name: Option<String>,
    /// SHA-256 of the whole certificate.
    pub fingerprint: [u8; 32],
}

/// Decides about exports.
#[async_trait]
pub trait Admission: Send + Sync + 'static {
    /// What the client gets for this name; `None`: it is told that there is no such export.
    ///
    /// Asked whenever a client names an export, and again in the course of a connection. An error
    /// refuses the export at first; later it leaves the connection as it is, so that a database
    /// that is away for a moment does not take disks from machines that run.
    async fn admit(&self, name: &str, peer: &Peer) -> Result<Option<Grant>>;

    /// The pool whose images the client may be told the names of.
    fn listed_pool(&self, peer: &Peer) -> Option<&str>;

    /// How long an answer holds: after it `admit` is asked again, and a connection that would get
    /// another answer is ended. `None`: for good.
    fn valid_for(&self) -> Option<Duration>;
}

/// Everybody who may connect may read and write everything, as `[pool/]image[@snapshot]`: for a
/// Unix socket of mode 0600.
#[derive(Debug, Clone)]
pub struct OpenToAll {
    /// The pool of names without one.
    pub default_pool: String,
}

#[async_trait]
impl Admission for OpenToAll {
    async fn admit(&self, name: &str, _peer: &Peer) -> Result<Option<Grant>> {
        Ok(self.parse(name))
    }

    fn listed_pool(&self, _peer: &Peer) -> Option<&str> {
        Some(&self.default_pool)
    }

    fn valid_for(&self) -> Option<Duration> {
        None
    }
}

impl OpenToAll {
    fn parse(&self, name: &str) -> Option<Grant> {
        let (pool, rest) = name.split_once('/').unwrap_or((&self.default_pool, name));
        let (image, snapshot) = match rest.split_once('@') {
            Some((image, snapshot)) => (image, Some(snapshot)),
            None => (rest, None),
        };
        let parts = [Some(pool), Some(image), snapshot];
        let valid =
            |part: &str| !part.is_empty() && part.len() <= 255 && !part.contains(['/', '@']);
        parts.into_iter().flatten().all(valid).then(|| Grant {
            image: ImageSpec::new(pool, image),
            snapshot: snapshot.map(str::to_owned),
            read_only: false,
        })
    }
}

/// How many hexadecimal digits behind the last dot of a name are a secret.
const SECRET_DIGITS: usize = 64;

/// An export's name as it may be shown: without the secret at its end, `.` and 64 hexadecimal
/// digits. `None` behind it: the name holds none.
pub fn split_secret(name: &str) -> (&str, Option<&str>) {
    match name.rsplit_once('.') {
        Some((shown, secret))
            if secret.len() == SECRET_DIGITS
                && secret.bytes().all(|digit| digit.is_ascii_hexdigit()) =>
        {
            (shown, Some(secret))
        }
        _ => (name, None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        let open = OpenToAll {
            default_pool: "volumes".into(),
        };
        let expect = |pool: &str, image: &str, snapshot: Option<&str>| {
            Some(Grant {
                image: ImageSpec::new(pool, image),
                snapshot: snapshot.map(str::to_owned),
                read_only: false,
            })
        };
        for (name, expected) in [
            ("volume-1", expect("volumes", "volume-1", None)),
            (
                "volume-1@snapshot-2",
                expect("volumes", "volume-1", Some("snapshot-2")),
            ),
            ("images/a@snap", expect("images", "a", Some("snap"))),
        ] {
            assert_eq!(open.parse(name), expected);
        }
        for name in [
            "", "/", "a/", "/a", "a@", "@a", "a/b/c", "a@b@c", "a@b/c", "a/b@",
        ] {
            assert_eq!(open.parse(name), None, "{name}");
        }
    }

    #[test]
    fn secrets() {
        let secret = "0123456789abcdef".repeat(4);
        let name = format!("volume-1.{secret}");
        assert_eq!(split_secret(&name), ("volume-1", Some(secret.as_str())));
        for name in ["volume-1", "a.b", "", "a.0123", &name[..name.len() - 1]] {
            assert_eq!(split_secret(name), (name, None));
        }
    }
}
