//! The token that a service itself holds: got when it is needed, renewed before it runs out.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::Mutex;

use super::Credentials;
use super::server::Server;
use crate::Secret;
use crate::identity::IdentityError;

/// A token that lives no longer than this is replaced, so that whoever gets it can use it.
const LEAST_LIFE_US: i64 = 300_000_000;
/// After a failure, nobody waits for the next one in turn.
const FAILURE_TIME: Duration = Duration::from_secs(1);

/// Gets one token at a time, however many ask for it.
pub(super) struct OwnToken {
    server: Arc<Server>,
    credentials: Credentials,
    held: Mutex<Held>,
}

enum Held {
    Nothing,
    Token {
        token: Secret,
        /// From when on a new one is got.
        renew_at_us: i64,
    },
    Failure(IdentityError, Instant),
}

impl OwnToken {
    pub fn new(server: Arc<Server>, credentials: Credentials) -> Self {
        Self {
            server,
            credentials,
            held: Mutex::new(Held::Nothing),
        }
    }

    /// A token that is good for minutes.
    pub async fn get(&self) -> Result<Secret, IdentityError> {
        let mut held = self.held.lock().await;
        let now_us = database::now_us();
        match &*held {
            Held::Token { token, renew_at_us } if now_us < *renew_at_us => {
                return Ok(token.clone());
            }
            Held::Failure(error, at) if at.elapsed() < FAILURE_TIME => return Err(error.clone()),
            _ => {}
        }
        let (token, expires_at_us) = match self.server.log_in(&self.credentials).await {
            Ok(got) => got,
            Err(error) => {
                *held = Held::Failure(error.clone(), Instant::now());
                return Err(error);
            }
        };
        // Where tokens live for minutes only, half of that.
        let life_us = expires_at_us.saturating_sub(now_us).max(0);
        let spare_us = LEAST_LIFE_US.min(life_us / 2);
        *held = Held::Token {
            token: token.clone(),
            renew_at_us: expires_at_us.saturating_sub(spare_us),
        };
        Ok(token)
    }

    /// Forgets this token: somebody does not take it any more.
    pub async fn forget(&self, refused: &Secret) {
        let mut held = self.held.lock().await;
        if matches!(&*held, Held::Token { token, .. } if token == refused) {
            *held = Held::Nothing;
        }
    }
}
