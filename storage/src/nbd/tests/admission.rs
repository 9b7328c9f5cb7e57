//! Who may use which export.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use async_trait::async_trait;

use super::{Server, volume};
use crate::memory::MemoryStore;
use crate::nbd::wire::{command, option, option_reply as rep, transmission_flag as flag};
use crate::nbd::{Admission, Grant, Options, Origin, Peer, split_secret};
use crate::{Error, Result};

const DENY: u8 = 0;
const ALLOW: u8 = 1;
const AWAY: u8 = 2;

/// Whoever names the secret of `volume-x` may write, whoever names another may read.
struct Secrets {
    mode: AtomicU8,
}

#[async_trait]
impl Admission for Secrets {
    async fn admit(&self, name: &str, peer: &Peer) -> Result<Option<Grant>> {
        assert!(matches!(peer.origin, Origin::Unix { .. }));
        if self.mode.load(Ordering::SeqCst) == AWAY {
            return Err(Error::Unavailable("the database is away".into()));
        }
        let (name, secret) = split_secret(name);
        let allowed = name == "volume-x" && self.mode.load(Ordering::SeqCst) == ALLOW;
        Ok(secret.filter(|_| allowed).map(|secret| Grant {
            image: volume(),
            snapshot: None,
            read_only: secret != "a".repeat(64),
        }))
    }

    fn listed_pool(&self, _peer: &Peer) -> Option<&str> {
        None
    }

    fn valid_for(&self) -> Option<Duration> {
        Some(Duration::from_millis(5))
    }
}

/// A name with a secret of one digit, 64 times.
fn with(name: &str, digit: &str) -> String {
    format!("{name}.{}", digit.repeat(64))
}

async fn server() -> (Server, Arc<Secrets>) {
    let admission = Arc::new(Secrets {
        mode: AtomicU8::new(ALLOW),
    });
    let options = Options {
        admission: Arc::clone(&admission) as Arc<dyn Admission>,
        ..Options::default()
    };
    let store = Arc::new(MemoryStore::new());
    (Server::with(store, options).await, admission)
}

#[tokio::test]
async fn a_name_without_its_secret_is_no_export() {
    let (server, _) = server().await;
    let mut client = server.connect().await;
    assert_eq!(
        client.ask(option::LIST, &[]).await.unwrap_err().0,
        rep::ERR_POLICY
    );
    let wrong = with("volume-y", "a");
    for name in ["volume-x", &wrong, "volume-x@snapshot-s"] {
        let (kind, text) = client.go(name).await.unwrap_err();
        assert_eq!(kind, rep::ERR_UNKNOWN, "{name}");
        assert!(!text.contains("aaaa"), "the secret is not repeated: {text}");
    }
    let (_, flags) = client.go(&with("volume-x", "b")).await.unwrap();
    assert_eq!(flags & flag::READ_ONLY, flag::READ_ONLY);
    client.send(0, command::WRITE, 1, 0, 4, b"data").await;
    assert_eq!(client.simple(0).await.error, 1);
    let mut writer = server.connect().await;
    let (_, flags) = writer.go(&with("volume-x", "a")).await.unwrap();
    assert_eq!(flags & flag::READ_ONLY, 0);
    writer.send(0, command::WRITE, 1, 0, 4, b"data").await;
    assert_eq!(writer.simple(0).await.error, 0);
}

#[tokio::test]
async fn a_connection_ends_with_its_admission_but_not_with_the_database() {
    let (server, admission) = server().await;
    let mut client = server.connect().await;
    client.go(&with("volume-x", "a")).await.unwrap();
    admission.mode.store(AWAY, Ordering::SeqCst);
    for cookie in 0..10 {
        tokio::time::sleep(Duration::from_millis(2)).await;
        client.send(0, command::READ, cookie, 0, 4, &[]).await;
        assert_eq!(client.simple(4).await.error, 0);
    }
    let (kind, _) = server
        .connect()
        .await
        .go(&with("volume-x", "a"))
        .await
        .unwrap_err();
    assert_eq!(kind, rep::ERR_PLATFORM);
    admission.mode.store(DENY, Ordering::SeqCst);
    assert!(client.is_closed().await);
}
