//! Several brokers in `transport_url`.

use std::net::SocketAddr;
use std::sync::Arc;

use amqp::{Bus, RabbitMq, Target};
use serde_json::json;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};

use crate::{Counter, options, setting, settled};

/// A way to the broker that can be cut.
struct Way {
    address: SocketAddr,
    running: JoinHandle<()>,
}

impl Way {
    async fn open(at: &str, to: String) -> Self {
        let listener = TcpListener::bind(at).await.unwrap();
        let address = listener.local_addr().unwrap();
        let running = tokio::spawn(async move {
            let mut open = JoinSet::new();
            while let Ok((mut near, _)) = listener.accept().await {
                let mut far = TcpStream::connect(&to).await.unwrap();
                open.spawn(async move {
                    let _ = tokio::io::copy_bidirectional(&mut near, &mut far).await;
                });
            }
        });
        Self { address, running }
    }

    /// Ends what goes through, and takes nothing more. Returns where it was.
    async fn cut(self) -> String {
        self.running.abort();
        let _ = self.running.await;
        self.address.to_string()
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a broker: tests/messaging"]
async fn the_next_broker_is_taken_when_one_is_down() {
    let url = setting("BASALT_TEST_TRANSPORT_URL");
    let broker = url.trim_end_matches('/').rsplit('@').next().unwrap();
    let anywhere = "127.0.0.1:0";
    let dead = {
        let listener = TcpListener::bind(anywhere).await.unwrap();
        listener.local_addr().unwrap()
    };
    let (first, second) = (
        Way::open(anywhere, broker.to_owned()).await,
        Way::open(anywhere, broker.to_owned()).await,
    );
    let url = format!(
        "rabbit://guest:guest@{dead},guest:guest@{},guest:guest@{}/",
        first.address, second.address
    );
    let (client, server) = (
        RabbitMq::new(options("several", &url)),
        RabbitMq::new(options("several", &url)),
    );
    let _serving = server
        .serve("s", "a", Arc::new(Counter::default()))
        .await
        .unwrap();
    let target = Target::server("s", "a");
    assert_eq!(settled(&client, &target).await, json!({"x": 1}));
    let address = first.cut().await;
    assert_eq!(settled(&client, &target).await, json!({"x": 1}));
    let _first = Way::open(&address, broker.to_owned()).await;
    second.cut().await;
    assert_eq!(settled(&client, &target).await, json!({"x": 1}));
}
