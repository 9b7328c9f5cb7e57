//! The bus over a real RabbitMQ, among ourselves and with a peer on oslo.messaging.
//!
//! `tests/messaging` starts the broker and the peer's Python, and runs these.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test may end on the spot"
)]

use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use amqp::{
    Bus, Error, Handler, Message, Notification, RabbitMq, RabbitOptions, RemoteFailure,
    RequestContext, Target, TransportUrl,
};
use async_trait::async_trait;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};

const WAIT: Duration = Duration::from_secs(30);

fn setting(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| panic!("{name} is not set: run tests/messaging"))
}

fn bus(exchange: &str) -> RabbitMq {
    let url = TransportUrl::parse(&setting("BASALT_TEST_TRANSPORT_URL")).unwrap();
    RabbitMq::new(RabbitOptions {
        control_exchange: exchange.to_owned(),
        notification_topics: vec!["notifications".to_owned()],
        retry_interval: Duration::from_millis(200),
        ..RabbitOptions::new(url)
    })
}

/// Answers `echo`, `whoami`, `fail`; counts `count`; `slow` takes a while.
#[derive(Default)]
struct Counter(AtomicUsize);

#[async_trait]
impl Handler for Counter {
    async fn handle(&self, message: Message) -> Result<Value, RemoteFailure> {
        match message.method.as_str() {
            "echo" => Ok(message.args),
            "whoami" => Ok(json!([
                message.context.request_id,
                message.context.project_id
            ])),
            "count" => Ok(json!(self.0.fetch_add(1, Ordering::SeqCst) + 1)),
            "slow" => {
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

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a broker: tests/messaging"]
async fn calls_casts_and_fanouts_among_ourselves() {
    let (client, server) = (bus("ours"), bus("ours"));
    let counters = [Arc::new(Counter::default()), Arc::new(Counter::default())];
    let _a = server.serve("t", "a", counters[0].clone()).await.unwrap();
    let _b = server.serve("t", "b", counters[1].clone()).await.unwrap();
    for name in ["a", "b"] {
        assert_eq!(
            settled(&client, &Target::server("t", name)).await,
            json!({"x": 1})
        );
    }
    let any = Target::topic("t");
    let failed = client.call(&any, call("fail"), WAIT).await.unwrap_err();
    assert!(
        matches!(failed, Error::Remote(f) if f.class == "VolumeNotFound" && f.message.contains("v could"))
    );
    let newer = client
        .call(&any, call("echo").with_version("3.9"), WAIT)
        .await;
    assert!(matches!(newer, Err(Error::Remote(f)) if f.class == "UnsupportedVersion"));
    let nobody = client
        .call(&Target::topic("nobody"), call("echo"), WAIT)
        .await;
    assert!(matches!(nobody, Err(Error::NoServer(_))));
    let late = client
        .call(&any, call("slow"), Duration::from_millis(300))
        .await;
    assert!(matches!(late, Err(Error::Timeout { .. })));

    client.fanout("t", call("count")).await.unwrap();
    client
        .cast(&Target::server("t", "a"), call("count"))
        .await
        .unwrap();
    for (counter, count) in counters.iter().zip([2, 1]) {
        for _ in 0..100 {
            if counter.0.load(Ordering::SeqCst) == count {
                break;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        assert_eq!(counter.0.load(Ordering::SeqCst), count);
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a broker: tests/messaging"]
async fn work_goes_on_after_the_broker_was_killed() {
    let (client, server) = (bus("killed"), bus("killed"));
    let counter = Arc::new(Counter::default());
    let _serving = server.serve("k", "a", counter).await.unwrap();
    let target = Target::server("k", "a");
    settled(&client, &target).await;
    let command = setting("BASALT_TEST_BROKER_RESTART");
    let restarted = Command::new("sh")
        .arg("-c")
        .arg(&command)
        .status()
        .await
        .unwrap();
    assert!(restarted.success());
    assert_eq!(settled(&client, &target).await, json!({"x": 1}));
    let told = Notification::info("p", "e", json!({}));
    client.notify(&told).await.unwrap();
}

/// The peer: a Python process that prints one JSON line per thing that it sees.
struct Peer {
    _process: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Peer {
    async fn start(arguments: &[&str]) -> Self {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/oslo_peer.py");
        let mut process = Command::new(setting("BASALT_TEST_PYTHON"))
            .arg(script)
            .arg(setting("BASALT_TEST_TRANSPORT_URL"))
            .args(arguments)
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let lines = BufReader::new(process.stdout.take().unwrap()).lines();
        Self {
            _process: process,
            lines,
        }
    }

    async fn next(&mut self) -> Value {
        let line = tokio::time::timeout(WAIT, self.lines.next_line()).await;
        let line = line.expect("the peer says nothing").unwrap();
        serde_json::from_str(&line.expect("the peer has ended")).unwrap()
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a broker: tests/messaging"]
async fn a_peer_on_oslo_messaging_calls_us() {
    let server = bus("openstack");
    let _serving = server
        .serve("ours", "h", Arc::new(Counter::default()))
        .await
        .unwrap();
    settled(&server, &Target::topic("ours")).await;
    let mut peer = Peer::start(&["client", "ours", "h"]).await;
    assert_eq!(peer.next().await, json!({"echo": {"x": 1}}));
    assert_eq!(
        peer.next().await,
        json!({"whoami": ["req-peer", "project"]})
    );
    let failure = peer.next().await;
    assert_eq!(failure["fail"][0], "VolumeNotFound", "{failure}");
    assert_eq!(peer.next().await, json!({"newer": "UnsupportedVersion"}));
    // With a call monitor of one second a method of three seconds needs our signs of life.
    assert_eq!(peer.next().await, json!({"slow": "done"}));
    assert_eq!(peer.next().await, json!({"counted": 3}));
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a broker: tests/messaging"]
async fn we_call_a_peer_on_oslo_messaging() {
    let mut peer = Peer::start(&["server", "theirs", "h"]).await;
    assert_eq!(peer.next().await, json!("ready"));
    let client = bus("openstack");
    let context = RequestContext {
        request_id: "req-ours".to_owned(),
        user_id: "user".to_owned(),
        project_id: "project".to_owned(),
    };
    let target = Target::server("theirs", "h");
    let asked = Message::new("echo", json!({"value": [1, "two"]})).with_version("1.1");
    let answer = client
        .call(&target, asked.clone().with_context(context), WAIT)
        .await
        .unwrap();
    assert_eq!(answer, json!([1, "two"]));
    assert_eq!(peer.next().await, json!({"echo": ["req-ours", "project"]}));
    let failed = client
        .call(&target, Message::new("fail", json!({})), WAIT)
        .await
        .unwrap_err();
    assert!(
        matches!(failed, Error::Remote(f) if f.class == "ValueError" && f.message == "on purpose")
    );
    let unknown = client
        .call(&target, Message::new("nope", json!({})), WAIT)
        .await
        .unwrap_err();
    assert!(matches!(unknown, Error::Remote(f) if f.class == "NoSuchMethod"));
    for _ in 0..2 {
        client
            .cast(&Target::topic("theirs"), asked.clone())
            .await
            .unwrap();
        peer.next().await;
    }
    client.fanout("theirs", asked).await.unwrap();
    peer.next().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a broker: tests/messaging"]
async fn a_notification_listener_hears_us() {
    let ours = bus("noted");
    // Sent before anybody listens: its queue is made by the sender.
    let sent = Notification::info("volume.h", "volume.create.start", json!({"size": 1}));
    while let Err(error) = ours.notify(&sent).await {
        assert!(matches!(error, amqp::Error::Unavailable(_)), "{error}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let mut peer = Peer::start(&["listener", "noted"]).await;
    let heard = peer.next().await;
    let expected = json!(["volume.h", "volume.create.start", {"size": 1}, sent.message_id]);
    assert_eq!(heard, expected);
}
