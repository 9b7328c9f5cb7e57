//! Messages that come twice, late, or in another order.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use amqp::{Bus, Message, Target};
use futures_util::StreamExt;
use lapin::options::{
    BasicConsumeOptions, BasicPublishOptions, ExchangeDeclareOptions, QueueBindOptions,
    QueueDeclareOptions,
};
use lapin::types::FieldTable;
use lapin::{BasicProperties, Channel, Consumer, ExchangeKind};
use serde_json::{Value, json};

use crate::faults::raw_channel;
use crate::{Counter, WAIT, bus, command, reaches, settled};

async fn publish(channel: &Channel, exchange: &str, key: &str, inner: &Value) {
    let body = json!({"oslo.version": "2.0", "oslo.message": inner.to_string()}).to_string();
    let flags = BasicPublishOptions::default();
    let properties = BasicProperties::default().with_content_type("application/json".into());
    channel
        .basic_publish(
            exchange.into(),
            key.into(),
            flags,
            body.as_bytes(),
            properties,
        )
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a broker: tests/messaging"]
async fn a_message_that_comes_twice_is_handled_once() {
    let (client, server) = (bus("copies"), bus("copies"));
    let counter = Arc::new(Counter::default());
    let _serving = server.serve("t", "a", counter.clone()).await.unwrap();
    let target = Target::server("t", "a");
    settled(&client, &target).await;
    let count = json!({"method": "count", "args": {}, "version": "3.0", "_unique_id": "the-same"});
    {
        let (_connection, raw) = raw_channel().await;
        for key in ["t.a", "t.a", "t"] {
            publish(&raw, "copies", key, &count).await;
        }
        reaches(&counter.counted, 1).await;
    }
    // The copy may also come over the next connection.
    command("BASALT_TEST_BROKER_CONTROL", "close_all_connections test").await;
    let (_connection, raw) = raw_channel().await;
    publish(&raw, "copies", "t.a", &count).await;
    let mut another = count.clone();
    another["_unique_id"] = json!("another");
    publish(&raw, "copies", "t.a", &another).await;
    reaches(&counter.counted, 2).await;
    settled(&client, &target).await;
    assert_eq!(counter.counted.load(Ordering::SeqCst), 2);
}

/// A server of the topic `raw` that answers as the test wants.
async fn raw_server(channel: &Channel) -> Consumer {
    let none = FieldTable::default;
    let flags = ExchangeDeclareOptions::default();
    let declared = channel.exchange_declare("order".into(), ExchangeKind::Topic, flags, none());
    declared.await.unwrap();
    let declared = channel.queue_declare("raw".into(), QueueDeclareOptions::default(), none());
    declared.await.unwrap();
    let flags = QueueBindOptions::default();
    let bound = channel.queue_bind("raw".into(), "order".into(), "raw".into(), flags, none());
    bound.await.unwrap();
    let flags = BasicConsumeOptions {
        no_ack: true,
        ..BasicConsumeOptions::default()
    };
    let consumed = channel.basic_consume("raw".into(), "".into(), flags, none());
    consumed.await.unwrap()
}

async fn next_request(consumer: &mut Consumer) -> Value {
    let delivery = consumer.next().await.unwrap().unwrap();
    let outer: Value = serde_json::from_slice(&delivery.data).unwrap();
    serde_json::from_str(outer["oslo.message"].as_str().unwrap()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a broker: tests/messaging"]
async fn answers_find_their_calls_in_any_order_and_number() {
    let (_connection, raw) = raw_channel().await;
    let mut requests = raw_server(&raw).await;
    let client = bus("order");
    let ask = |number: usize| {
        let client = Arc::clone(&client);
        let message = Message::new("ask", json!({"number": number}));
        tokio::spawn(async move { client.call(&Target::topic("raw"), message, WAIT).await })
    };
    let calls: Vec<_> = (0..3).map(ask).collect();
    let mut asked = Vec::new();
    while asked.len() < calls.len() {
        asked.push(next_request(&mut requests).await);
    }
    let answer = |request: &Value, number: &Value| {
        json!({"result": number, "failure": null, "ending": true, "_msg_id": request["_msg_id"],
               "_unique_id": "answer"})
    };
    for request in asked.iter().rev() {
        let queue = request["_reply_q"].as_str().unwrap();
        // The first counts; the second is what a sender that was not sure sends again.
        for number in [&request["args"]["number"], &json!("late")] {
            publish(&raw, "", queue, &answer(request, number)).await;
        }
    }
    for (number, calling) in calls.into_iter().enumerate() {
        assert_eq!(calling.await.unwrap().unwrap(), json!(number));
    }
    // And an answer to nobody's call disturbs nobody.
    let calling = ask(7);
    let request = next_request(&mut requests).await;
    let queue = request["_reply_q"].as_str().unwrap();
    let nobodys = json!({"_msg_id": "unknown"});
    publish(&raw, "", queue, &answer(&nobodys, &json!(0))).await;
    publish(&raw, "", queue, &answer(&request, &json!(7))).await;
    assert_eq!(calling.await.unwrap().unwrap(), json!(7));
}
