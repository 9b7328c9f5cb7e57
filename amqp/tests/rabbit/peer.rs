//! With a peer on oslo.messaging.

use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use amqp::{Bus, Error, Message, Notification, RequestContext, Target};
use lapin::options::QueueDeleteOptions;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};

use crate::faults::raw_channel;
use crate::{Counter, WAIT, bus, setting, settled};

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
    // What other tests have told.
    let (_connection, raw) = raw_channel().await;
    let flags = QueueDeleteOptions::default();
    let emptied = raw.queue_delete("notifications.info".into(), flags).await;
    emptied.unwrap();
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
