//! Calls that wait for their answers: one reply queue for the process.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::StreamExt;
use lapin::options::BasicAckOptions;
use serde_json::Value;
use tokio::sync::{oneshot, watch};
use tokio::time::{Instant, timeout_at};

use super::envelope::{self, AnswerTo};
use super::link::{self, Delivered, Letter, Link, Route, Session};
use super::server::consume;
use crate::{Error, Message, RemoteFailure, Result, Target};

/// Pause before the reply queue is consumed again.
const AGAIN: Duration = Duration::from_secs(1);

type Outcome = std::result::Result<Value, RemoteFailure>;
type Waiting = HashMap<String, oneshot::Sender<Outcome>>;

/// The calls of this process.
pub(super) struct Calls {
    link: Arc<Link>,
    /// Of the reply queue.
    queue: String,
    /// By message id. As many as calls run; each leaves with its call.
    waiting: Mutex<Waiting>,
    /// The reply queue is there and consumed.
    ready: watch::Sender<bool>,
}

impl Calls {
    pub fn new(link: Arc<Link>) -> Self {
        Self {
            link,
            queue: format!("reply_{}", envelope::new_id()),
            waiting: Mutex::default(),
            ready: watch::Sender::new(false),
        }
    }

    /// Takes answers for ever, over one session after the other.
    pub async fn listen(&self) {
        loop {
            let session = self.link.session().await;
            let stopped = self.receive(&session).await;
            self.ready.send_replace(false);
            let reason = stopped
                .err()
                .map_or_else(|| "cancelled".to_owned(), |e| e.to_string());
            tracing::info!(reason, "the reply queue is consumed again");
            tokio::time::sleep(AGAIN).await;
        }
    }

    async fn receive(&self, session: &Session) -> lapin::Result<()> {
        let channel = session.channel().await?;
        link::declare_transient(&channel, &self.link.options, &self.queue).await?;
        let mut deliveries = consume(&channel, &self.queue).await?;
        self.ready.send_replace(true);
        while let Some(delivery) = deliveries.next().await {
            let delivery = delivery?;
            delivery.ack(BasicAckOptions::default()).await?;
            match envelope::read_reply(&delivery.data) {
                Ok(reply) if reply.is_last => self.answered(&reply.message_id, reply.outcome),
                Ok(_) => {}
                Err(reason) => tracing::warn!(reason, "an answer that is none was dropped"),
            }
        }
        Ok(())
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn answered(&self, message_id: &str, outcome: Outcome) {
        match self.waiting().remove(message_id) {
            // A caller that has gone has had its timeout.
            Some(caller) => drop(caller.send(outcome)),
            None => tracing::debug!(message_id, "an answer came too late"),
        }
    }

    /// Sends and waits for the answer.
    pub async fn call(&self, target: &Target, message: &Message, wait: Duration) -> Result<Value> {
        let deadline = Instant::now() + wait;
        let timeout = || Error::Timeout {
            target: target.to_string(),
            method: message.method.clone(),
            timeout_ms: wait.as_millis(),
        };
        let mut ready = self.ready.subscribe();
        let ready = timeout_at(deadline, ready.wait_for(|ready| *ready)).await;
        if ready.map(|_| ()).is_err() {
            return Err(Error::Unavailable(self.link.trouble()));
        }
        let answer_to = AnswerTo {
            queue: self.queue.clone(),
            message_id: envelope::new_id(),
            monitor_s: None,
        };
        let (caller, answer) = oneshot::channel();
        self.waiting().insert(answer_to.message_id.clone(), caller);
        // However the call ends, also by being dropped.
        let _forget = Forget(self, &answer_to.message_id);
        let body = envelope::request(message, Some(&answer_to));
        let asked = timeout_at(deadline, self.send(target, &body, wait)).await;
        asked.map_err(|_| timeout())??;
        match timeout_at(deadline, answer).await {
            Ok(Ok(outcome)) => Ok(outcome?),
            _ => Err(timeout()),
        }
    }

    /// Publishes the call, again where the connection broke: the receiver knows a copy.
    async fn send(&self, target: &Target, body: &[u8], wait: Duration) -> Result<()> {
        let key = target.to_string();
        loop {
            let session = self.link.session().await;
            let letter = Letter {
                route: Route::Topic(&key),
                body,
                mandatory: true,
                expires: Some(wait),
            };
            match session.publish(&self.link.options, letter).await {
                Ok(Delivered::Queued) => return Ok(()),
                Ok(Delivered::Unroutable) => return Err(Error::NoServer(key)),
                Err(reason) => {
                    tracing::debug!(target = key, reason, "a call is sent again");
                    tokio::time::sleep(AGAIN).await;
                }
            }
        }
    }
}

/// Takes a call out of the waiting ones.
struct Forget<'a>(&'a Calls, &'a str);

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        self.0.waiting().remove(self.1);
    }
}
