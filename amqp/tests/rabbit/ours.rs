//! Among ourselves.

use std::sync::Arc;
use std::time::Duration;

use amqp::{Bus, Error, Target};
use serde_json::json;

use crate::{Counter, WAIT, bus, call, reaches, settled};

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
        reaches(&counter.counted, count).await;
    }
}
