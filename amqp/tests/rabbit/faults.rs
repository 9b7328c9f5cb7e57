//! What an operator, or a fault, does to a broker while work is under way.

use std::sync::Arc;
use std::time::Duration;

use amqp::{Bus, Error, Notification, RabbitMq, Target};
use lapin::options::{BasicGetOptions, QueueDeleteOptions};
use lapin::{Channel, Connection, ConnectionProperties};
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use crate::{Counter, WAIT, bus, call, command, reaches, setting, settled};

/// A channel of somebody who is not us.
pub async fn raw_channel() -> (Connection, Channel) {
    let url = setting("BASALT_TEST_TRANSPORT_URL").replace("rabbit://", "amqp://") + "%2f";
    let connection = Connection::connect(&url, ConnectionProperties::default()).await;
    let connection = connection.unwrap();
    let channel = connection.create_channel().await.unwrap();
    (connection, channel)
}

/// A call that takes a while, after its method began.
async fn under_way(
    client: &Arc<RabbitMq>,
    target: &Target,
    counter: &Counter,
) -> JoinHandle<amqp::Result<Value>> {
    let (client, target) = (Arc::clone(client), target.clone());
    let calling = tokio::spawn(async move { client.call(&target, call("slow"), WAIT).await });
    reaches(&counter.slow_began, 1).await;
    calling
}

/// Sends until it is out of our hands.
async fn told(bus: &RabbitMq, event: &str) {
    let told = Notification::info("p", event, json!({}));
    for _ in 0..100 {
        match bus.notify(&told).await {
            Ok(()) => return,
            Err(Error::Unavailable(_)) => tokio::time::sleep(Duration::from_millis(100)).await,
            Err(other) => panic!("{other}"),
        }
    }
    panic!("{event} is not taken");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a broker: tests/messaging"]
async fn work_goes_on_after_the_broker_was_killed() {
    let (client, server) = (bus("killed"), bus("killed"));
    let counter = Arc::new(Counter::default());
    let _serving = server.serve("k", "a", counter).await.unwrap();
    let target = Target::server("k", "a");
    settled(&client, &target).await;
    command("BASALT_TEST_BROKER_RESTART", "").await;
    assert_eq!(settled(&client, &target).await, json!({"x": 1}));
    let told = Notification::info("p", "e", json!({}));
    client.notify(&told).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a broker: tests/messaging"]
async fn work_goes_on_after_all_queues_were_deleted() {
    let (client, server) = (bus("deleted"), bus("deleted"));
    let counter = Arc::new(Counter::default());
    let _serving = server.serve("d", "a", counter.clone()).await.unwrap();
    let target = Target::server("d", "a");
    settled(&client, &target).await;
    client.fanout("d", call("count")).await.unwrap();
    reaches(&counter.counted, 1).await;
    told(&client, "before").await;

    let listed = command("BASALT_TEST_BROKER_CONTROL", "list_queues --quiet name").await;
    let queues: Vec<&str> = listed.lines().collect();
    for part in ["d", "d.a", "d_fanout_", "reply_", "notifications.info"] {
        assert!(
            queues.iter().any(|queue| queue.starts_with(part)),
            "{part}: {queues:?}"
        );
    }
    let calling = under_way(&client, &target, &counter).await;
    let (_connection, raw) = raw_channel().await;
    for queue in queues {
        let flags = QueueDeleteOptions::default();
        raw.queue_delete(queue.into(), flags).await.unwrap();
    }

    // The answer waits for its queue; the server's queues come again, and their messages.
    assert_eq!(calling.await.unwrap().unwrap(), json!("done"));
    assert_eq!(settled(&client, &target).await, json!({"x": 1}));
    assert_eq!(settled(&client, &Target::topic("d")).await, json!({"x": 1}));
    client.fanout("d", call("count")).await.unwrap();
    reaches(&counter.counted, 2).await;
    // A message into a queue that is gone would be lost without a word.
    told(&client, "after").await;
    let read = BasicGetOptions { no_ack: true };
    let kept = raw.basic_get("notifications.info".into(), read).await;
    let kept = kept.unwrap().expect("the notification is lost");
    assert!(String::from_utf8_lossy(&kept.delivery.data).contains("after"));
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a broker: tests/messaging"]
async fn work_goes_on_after_the_broker_closed_all_connections() {
    let (client, server) = (bus("closed"), bus("closed"));
    let counter = Arc::new(Counter::default());
    let _serving = server.serve("c", "a", counter.clone()).await.unwrap();
    let target = Target::server("c", "a");
    settled(&client, &target).await;
    let calling = under_way(&client, &target, &counter).await;
    command("BASALT_TEST_BROKER_CONTROL", "close_all_connections test").await;
    assert_eq!(calling.await.unwrap().unwrap(), json!("done"));
    assert_eq!(settled(&client, &target).await, json!({"x": 1}));
    client.fanout("c", call("count")).await.unwrap();
    reaches(&counter.counted, 1).await;
    told(&client, "closed").await;
}
