//! Keystone: who a token belongs to is asked there and remembered for a while.
//!
//! One question per token at a time, however many requests wait for it; answers are kept for
//! `token_cache_time` at most, so a revocation takes effect within it; the caches are bounded
//! and hold hashes, never tokens. While Keystone is away, tokens that are not remembered get a
//! 503. Contracts: Identity API v3, `[keystone_authtoken]` of keystonemiddleware.

mod cache;
mod credentials;
mod limits;
mod own_token;
mod server;
mod subject;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use sha2::{Digest, Sha256};
use tokio::sync::watch;

pub use credentials::{Account, Credentials, LoginScope};
pub use limits::{LimitedEndpoint, UnifiedLimits};

use super::{Identity, IdentityError, SERVICE_TOKENS, ServiceTokens, TokenInfo, TokenSource};
use crate::Secret;
use crate::http_client::{ClientError, Tls};
use cache::Cache;
use own_token::OwnToken;
use server::Server;

/// Tokens that are remembered.
const MOST_TOKENS: usize = 20_000;
/// Tokens that Keystone does not know, remembered so that a client that insists costs nothing.
const MOST_REFUSED: usize = 5_000;
const REFUSED_TIME: Duration = Duration::from_secs(10);
/// Fernet tokens have 200 bytes, JWS ones a thousand.
const LONGEST_TOKEN_BYTES: usize = 8 << 10;

/// `[keystone_authtoken]`.
#[derive(Debug, Clone)]
pub struct KeystoneOptions {
    /// Where clients are sent to log in; `None`: `auth_url`.
    pub www_authenticate_uri: Option<String>,
    pub server: ServerOptions,
    pub credentials: Credentials,
    /// How long an answer of Keystone counts; `None`: not at all.
    pub token_cache_time: Option<Duration>,
    pub service_tokens: ServiceTokens,
}

/// How to reach Keystone.
#[derive(Debug, Clone)]
pub struct ServerOptions {
    /// With or without `/v3`.
    pub auth_url: String,
    pub tls: Tls,
    /// Of one try.
    pub timeout: Duration,
    /// Further tries where Keystone does not take the connection.
    pub retries: u32,
}

impl ServerOptions {
    pub fn new(auth_url: &str) -> Self {
        Self {
            auth_url: auth_url.to_owned(),
            tls: Tls::default(),
            timeout: Duration::from_secs(60),
            retries: 3,
        }
    }
}

impl KeystoneOptions {
    /// keystonemiddleware's defaults.
    pub fn new(auth_url: &str, credentials: Credentials) -> Self {
        Self {
            www_authenticate_uri: None,
            server: ServerOptions::new(auth_url),
            credentials,
            token_cache_time: Some(Duration::from_secs(300)),
            service_tokens: SERVICE_TOKENS.clone(),
        }
    }
}

/// Hash of a token and of how it was asked about.
type Key = [u8; 32];
type Answer = Result<Arc<TokenInfo>, IdentityError>;
type Asked = HashMap<Key, watch::Receiver<Option<Answer>>>;

/// Validates tokens at Keystone.
#[derive(Clone)]
pub struct Keystone {
    inner: Arc<Inner>,
}

struct Inner {
    auth_uri: String,
    service_tokens: ServiceTokens,
    token_cache_time: Option<Duration>,
    server: Arc<Server>,
    own: OwnToken,
    state: Mutex<State>,
}

struct State {
    known: Cache<Arc<TokenInfo>>,
    refused: Cache<()>,
    /// Questions that are under way.
    asked: Asked,
}

impl std::fmt::Debug for Keystone {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Keystone").finish_non_exhaustive()
    }
}

impl Keystone {
    /// Nothing is asked yet: Keystone may start later than this process. Reads the TLS files.
    pub fn new(options: KeystoneOptions) -> Result<Self, ClientError> {
        let server = Arc::new(Server::new(&options.server)?);
        let auth_uri = options.www_authenticate_uri;
        Ok(Self {
            inner: Arc::new(Inner {
                auth_uri: auth_uri.unwrap_or_else(|| options.server.auth_url.clone()),
                service_tokens: options.service_tokens,
                token_cache_time: options.token_cache_time,
                own: OwnToken::new(Arc::clone(&server), options.credentials),
                server,
                state: Mutex::new(State {
                    known: Cache::new(MOST_TOKENS),
                    refused: Cache::new(MOST_REFUSED),
                    asked: HashMap::new(),
                }),
            }),
        })
    }

    /// The answer about a token: remembered, or from Keystone.
    async fn ask(&self, token: &Secret, expired: bool) -> Answer {
        let text = token.expose();
        if text.is_empty() || text.len() > LONGEST_TOKEN_BYTES || !is_token(text) {
            return Err(IdentityError::Unauthorized);
        }
        let key = key_of(text, expired);
        let mut answer = match self.inner.remembered(&key) {
            Remembered::Answer(answer) => return fresh(answer, expired),
            Remembered::Asked(answer) => answer,
            Remembered::Asking(sender, answer) => {
                // A task of its own: others wait for it even if this request is dropped.
                let inner = Arc::clone(&self.inner);
                let token = token.clone();
                tokio::spawn(async move {
                    let answer = inner.server.validate(&inner.own, &token, expired).await;
                    inner.remember(key, &answer);
                    sender.send_replace(Some(answer));
                });
                answer
            }
        };
        let answer = answer.wait_for(Option::is_some).await;
        let answer = answer.ok().and_then(|answer| answer.clone());
        let gone = || {
            Err(IdentityError::Unavailable(
                "the question was lost".to_owned(),
            ))
        };
        fresh(answer.unwrap_or_else(gone), expired)
    }
}

/// What is known about a token.
enum Remembered {
    Answer(Answer),
    Asked(watch::Receiver<Option<Answer>>),
    /// Nothing: the caller has to ask, and to say what it heard.
    Asking(
        watch::Sender<Option<Answer>>,
        watch::Receiver<Option<Answer>>,
    ),
}

impl Inner {
    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn remembered(&self, key: &Key) -> Remembered {
        let now = Instant::now();
        let mut state = self.state();
        if let Some(info) = state.known.get(key, now) {
            return Remembered::Answer(Ok(info));
        }
        if state.refused.get(key, now).is_some() {
            return Remembered::Answer(Err(IdentityError::Unauthorized));
        }
        if let Some(asked) = state.asked.get(key)
            // The task may have died before it could say anything.
            && asked.has_changed().is_ok()
        {
            return Remembered::Asked(asked.clone());
        }
        let (sender, receiver) = watch::channel(None);
        state.asked.insert(*key, receiver.clone());
        Remembered::Asking(sender, receiver)
    }

    fn remember(&self, key: Key, answer: &Answer) {
        let now = Instant::now();
        let mut state = self.state();
        state.asked.remove(&key);
        match (answer, self.token_cache_time) {
            (Ok(info), Some(time)) => state.known.insert(key, Arc::clone(info), now + time, now),
            (Err(IdentityError::Unauthorized), Some(time)) => {
                let until = now + time.min(REFUSED_TIME);
                state.refused.insert(key, (), until, now);
            }
            _ => {}
        }
    }
}

/// What may stand in a header as a token.
fn is_token(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_graphic())
}

fn key_of(token: &str, expired: bool) -> Key {
    let mut hash = Sha256::new();
    hash.update([u8::from(expired)]);
    hash.update(token.as_bytes());
    hash.finalize().into()
}

/// A token that ran out since Keystone was asked is refused, unless that is allowed.
fn fresh(answer: Answer, expired: bool) -> Answer {
    match answer {
        Ok(info) if !expired && info.expires_at_us <= database::now_us() => {
            Err(IdentityError::Unauthorized)
        }
        answer => answer,
    }
}

#[async_trait]
impl Identity for Keystone {
    async fn validate(&self, token: &Secret) -> Answer {
        self.ask(token, false).await
    }

    async fn validate_expired(&self, token: &Secret) -> Answer {
        self.ask(token, true).await
    }

    fn service_tokens(&self) -> &ServiceTokens {
        &self.inner.service_tokens
    }

    fn auth_uri(&self) -> &str {
        &self.inner.auth_uri
    }
}

/// Tokens of an account of Keystone, renewed in time: for calls to other services.
pub struct AccountTokens(OwnToken);

impl AccountTokens {
    pub fn new(server: &ServerOptions, credentials: Credentials) -> Result<Self, ClientError> {
        let server = Arc::new(Server::new(server)?);
        Ok(Self(OwnToken::new(server, credentials)))
    }
}

#[async_trait]
impl TokenSource for AccountTokens {
    async fn token(&self) -> Result<Secret, IdentityError> {
        self.0.get().await
    }
}

#[async_trait]
impl TokenSource for Keystone {
    /// The token of the account that tokens are validated with.
    async fn token(&self) -> Result<Secret, IdentityError> {
        self.inner.own.get().await
    }
}
