//! A server of a topic: receives from its three queues, runs the handler, answers calls.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use futures_util::stream::{self, select_all};
use lapin::message::Delivery;
use lapin::options::{BasicAckOptions, BasicConsumeOptions, BasicQosOptions, QueueBindOptions};
use lapin::types::FieldTable;
use lapin::{Channel, Consumer};
use serde_json::Value;
use tokio::sync::Semaphore;

use super::envelope::{self, AnswerTo, Request};
use super::link::{self, Delivered, Letter, Link, Route, Session};
use crate::{Handler, RemoteFailure};

/// Messages that one server handles at a time: `executor_thread_pool_size`.
const HANDLED_AT_ONCE: u16 = 64;
/// Ids of messages that are remembered, so that a copy is not handled again.
const REMEMBERED: usize = 1024;
/// Pause before consuming again.
const AGAIN: Duration = Duration::from_secs(1);
/// How long an answer is offered to a caller whose queue is not there (`kombu_missing_consumer_retry_timeout`).
const OFFER: Duration = Duration::from_secs(60);
const OFFER_EVERY: Duration = Duration::from_millis(250);
/// Callers that are remembered as gone.
const GONE_CALLERS: usize = 200;

/// One server of one topic.
pub(super) struct Server {
    pub link: Arc<Link>,
    pub topic: String,
    pub name: String,
    /// Of its fanout queue.
    pub id: String,
    pub handler: Arc<dyn Handler>,
    pub gone: Arc<GoneCallers>,
}

impl Server {
    /// Receives for ever, over one session after the other.
    pub async fn run(self) {
        let slots = Arc::new(Semaphore::new(usize::from(HANDLED_AT_ONCE)));
        let mut seen = Seen::default();
        loop {
            let session = self.link.session().await;
            let stopped = self.receive(&session, &slots, &mut seen).await;
            let reason = stopped
                .err()
                .map_or_else(|| "cancelled".to_owned(), |e| e.to_string());
            tracing::info!(
                topic = self.topic,
                server = self.name,
                reason,
                "a server stopped receiving and begins again"
            );
            tokio::time::sleep(AGAIN).await;
        }
    }

    async fn receive(
        &self,
        session: &Session,
        slots: &Arc<Semaphore>,
        seen: &mut Seen,
    ) -> lapin::Result<()> {
        let channel = session.channel().await?;
        channel
            .basic_qos(HANDLED_AT_ONCE, BasicQosOptions::default())
            .await?;
        // One that ends was cancelled with its queue: all three are made anew.
        let ending = |consumer: Consumer| {
            consumer
                .map(Some)
                .chain(stream::once(async { None }).boxed())
        };
        let consumers = self.consumers(&channel).await?.into_iter().map(ending);
        let mut deliveries = select_all(consumers);
        while let Some(Some(delivery)) = deliveries.next().await {
            let delivery = delivery?;
            let Ok(slot) = Arc::clone(slots).acquire_owned().await else {
                return Ok(());
            };
            delivery.ack(BasicAckOptions::default()).await?;
            let Some(request) = self.open(&delivery, seen) else {
                continue;
            };
            let (link, handler) = (Arc::clone(&self.link), Arc::clone(&self.handler));
            let gone = Arc::clone(&self.gone);
            tokio::spawn(async move {
                let _slot = slot;
                handle(&link, &gone, &*handler, request).await;
            });
        }
        // What it had been given and not taken goes back to the other queues.
        channel.close(200, "a queue is gone".into()).await
    }

    /// Declares and consumes the queues of the topic, of the server, and of fanouts.
    async fn consumers(&self, channel: &Channel) -> lapin::Result<Vec<Consumer>> {
        let options = &self.link.options;
        let exchange = options.control_exchange.as_str();
        link::declare_exchange(channel, options, exchange).await?;
        let own = format!("{}.{}", self.topic, self.name);
        let fanout = format!("{}_fanout_{}", self.topic, self.id);
        let mut consumers = Vec::with_capacity(3);
        for queue in [&self.topic, &own] {
            link::declare_queue(channel, options, exchange, queue).await?;
            consumers.push(consume(channel, queue).await?);
        }
        link::declare_fanout(channel, &self.topic).await?;
        link::declare_transient(channel, options, &fanout).await?;
        let exchange = link::fanout_exchange(&self.topic).into();
        let (key, bind) = (self.topic.as_str().into(), QueueBindOptions::default());
        channel
            .queue_bind(
                fanout.as_str().into(),
                exchange,
                key,
                bind,
                FieldTable::default(),
            )
            .await?;
        consumers.push(consume(channel, &fanout).await?);
        Ok(consumers)
    }

    fn open(&self, delivery: &Delivery, seen: &mut Seen) -> Option<Request> {
        let request = match envelope::read_request(&delivery.data) {
            Ok(request) => request,
            Err(reason) => {
                tracing::warn!(
                    topic = self.topic,
                    reason,
                    "a message that is none was dropped"
                );
                return None;
            }
        };
        if let Some(id) = &request.unique_id
            && !seen.is_new(id)
        {
            tracing::debug!(topic = self.topic, id, "a copy of a message was dropped");
            return None;
        }
        Some(request)
    }
}

pub(super) async fn consume(channel: &Channel, queue: &str) -> lapin::Result<Consumer> {
    let (tag, options) = ("".into(), BasicConsumeOptions::default());
    channel
        .basic_consume(queue.into(), tag, options, FieldTable::default())
        .await
}

/// Runs the handler; a call gets signs of life if it wants them, and the answer.
async fn handle(link: &Link, gone: &GoneCallers, handler: &dyn Handler, request: Request) {
    let method = request.message.method.clone();
    let Some(answer_to) = request.answer_to else {
        if let Err(failure) = crate::dispatch(handler, request.message).await {
            tracing::warn!(method, %failure, "cast failed");
        }
        return;
    };
    let outcome = {
        let mut running = std::pin::pin!(crate::dispatch(handler, request.message));
        loop {
            tokio::select! {
                outcome = &mut running => break outcome,
                () = next_sign(answer_to.monitor_s) => {
                    let body = envelope::reply(&answer_to.message_id, None);
                    let _ = send(link, &answer_to, &body).await;
                }
            }
        }
    };
    answer(link, gone, &answer_to, &outcome).await;
}

/// When the caller wants to hear that its method still runs: twice as often as it says.
async fn next_sign(monitor_s: Option<f64>) {
    match monitor_s {
        Some(seconds) if seconds.is_finite() && seconds > 0.0 => {
            let pause = Duration::try_from_secs_f64(seconds / 2.0).unwrap_or(OFFER);
            tokio::time::sleep(pause.max(OFFER_EVERY)).await;
        }
        _ => std::future::pending().await,
    }
}

/// Sends the answer; where its queue is missing, again for a while: the caller may be connecting
/// anew.
async fn answer(
    link: &Link,
    gone: &GoneCallers,
    answer_to: &AnswerTo,
    outcome: &Result<Value, RemoteFailure>,
) {
    let body = envelope::reply(&answer_to.message_id, Some(outcome));
    let until = Instant::now() + OFFER;
    loop {
        match send(link, answer_to, &body).await {
            Ok(Delivered::Queued) => return gone.is_back(&answer_to.queue),
            Ok(Delivered::Unroutable) if gone.is_gone(&answer_to.queue) => break,
            Ok(Delivered::Unroutable) | Err(_) if Instant::now() < until => {
                tokio::time::sleep(OFFER_EVERY).await;
            }
            _ => {
                gone.went(&answer_to.queue);
                break;
            }
        }
    }
    tracing::warn!(queue = answer_to.queue, "a call's answer found no taker");
}

async fn send(link: &Link, answer_to: &AnswerTo, body: &[u8]) -> Result<Delivered, String> {
    let session = link.now().ok_or("no broker")?;
    let letter = Letter {
        route: Route::Queue(&answer_to.queue),
        body,
        mandatory: true,
        expires: None,
    };
    session.publish(&link.options, letter).await
}

/// The newest messages' ids.
#[derive(Default)]
struct Seen(VecDeque<String>);

impl Seen {
    fn is_new(&mut self, id: &str) -> bool {
        if self.0.iter().any(|seen| seen == id) {
            return false;
        }
        if self.0.len() >= REMEMBERED {
            self.0.pop_front();
        }
        self.0.push_back(id.to_owned());
        true
    }
}

/// Reply queues that were not there for long; answers to them are offered once for a while.
#[derive(Default)]
pub(super) struct GoneCallers(Mutex<HashMap<String, Instant>>);

impl GoneCallers {
    fn map(&self) -> std::sync::MutexGuard<'_, HashMap<String, Instant>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_gone(&self, queue: &str) -> bool {
        self.map()
            .get(queue)
            .is_some_and(|since| since.elapsed() < OFFER)
    }

    fn went(&self, queue: &str) {
        let mut gone = self.map();
        gone.retain(|_, since| since.elapsed() < OFFER);
        if gone.len() < GONE_CALLERS {
            gone.insert(queue.to_owned(), Instant::now());
        }
    }

    fn is_back(&self, queue: &str) {
        self.map().remove(queue);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies_are_known_and_memory_is_bounded() {
        let mut seen = Seen::default();
        assert!(seen.is_new("a") && !seen.is_new("a"));
        for number in 0..REMEMBERED * 2 {
            assert!(seen.is_new(&number.to_string()));
        }
        assert_eq!(seen.0.len(), REMEMBERED);
    }

    #[test]
    fn a_caller_is_gone_until_it_takes_an_answer() {
        let gone = GoneCallers::default();
        gone.went("q");
        assert!(gone.is_gone("q") && !gone.is_gone("other"));
        gone.is_back("q");
        assert!(!gone.is_gone("q"));
    }
}
