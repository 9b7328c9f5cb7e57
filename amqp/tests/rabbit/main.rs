//! The bus over a real RabbitMQ, among ourselves and with a peer on oslo.messaging.
//!
//! `tests/messaging` starts the broker and the peer's Python, and runs these.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test may end on the spot"
)]

mod brokers;
mod copies;
mod faults;
mod ours;
mod peer;
mod tls;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use amqp::{
    Bus, Error, Handler, Message, RabbitMq, RabbitOptions, RemoteFailure, Target, TransportUrl,
};
use async_trait::async_trait;
use serde_json::{Value, json};

const WAIT: Duration = Duration::from_secs(30);

fn setting(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| panic!("{name} is not set: run tests/messaging"))
}

fn options(exchange: &str, url: &str) -> RabbitOptions {
    RabbitOptions {
        control_exchange: exchange.to_owned(),
        notification_topics: vec!["notifications".to_owned()],
        retry_interval: Duration::from_millis(200),
        ..RabbitOptions::new(TransportUrl::parse(url).unwrap())
    }
}

fn bus(exchange: &str) -> Arc<RabbitMq> {
    let url = setting("BASALT_TEST_TRANSPORT_URL");
    Arc::new(RabbitMq::new(options(exchange, &url)))
}

/// Answers `echo`, `whoami`, `fail`; counts `count` and the beginnings of `slow`, which takes a
/// while.
#[derive(Default)]
struct Counter {
    counted: AtomicUsize,
    slow_began: AtomicUsize,
}

#[async_trait]
impl Handler for Counter {
    async fn handle(&self, message: Message) -> Result<Value, RemoteFailure> {
        match message.method.as_str() {
            "echo" => Ok(message.args),
            "whoami" => Ok(json!([
                message.context.request_id,
                message.context.project_id
            ])),
            "count" => Ok(json!(self.counted.fetch_add(1, Ordering::SeqCst) + 1)),
            "slow" => {
                self.slow_began.fetch_add(1, Ordering::SeqCst);
                tokio::time::sleep(Duration::from_secs(3)).await;
                Ok(json!("done"))
            }
            "fail" => Err(RemoteFailure::new(
                "VolumeNotFound",
                "Volume v could not be found.",
            )),
            other => Err(RemoteFailure::unknown_method(other)),
        }
    }

    fn version(&self) -> &str {
        "3.2"
    }
}

fn call(method: &str) -> Message {
    Message::new(method, json!({"x": 1})).with_version("3.1")
}

/// Calls until a server listens.
async fn settled(bus: &RabbitMq, target: &Target) -> Value {
    for _ in 0..300 {
        match bus.call(target, call("echo"), WAIT).await {
            Err(Error::NoServer(_)) => tokio::time::sleep(Duration::from_millis(100)).await,
            answer => return answer.unwrap(),
        }
    }
    panic!("nobody listens on {target}");
}

/// Waits until the number is there.
async fn reaches(number: &AtomicUsize, wanted: usize) {
    for _ in 0..600 {
        if number.load(Ordering::SeqCst) == wanted {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(number.load(Ordering::SeqCst), wanted);
}

/// A shell command of the suite, with more arguments.
async fn command(name: &str, arguments: &str) -> String {
    let output = tokio::process::Command::new("sh")
        .args(["-c", &format!("{} {arguments}", setting(name))])
        .output()
        .await
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}
