//! TLS: whom we trust, and what we show.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use amqp::{BrokerTls, Bus, Error, Notification, RabbitMq, RabbitOptions, Target};
use serde_json::json;

use crate::{Counter, options, setting, settled};

/// A broker that wants another certificate says so or just goes.
const REFUSED: &str = "does the broker accept our certificate?";

fn file(name: &str) -> Option<PathBuf> {
    Some(PathBuf::from(setting("BASALT_TEST_CERTIFICATES")).join(name))
}

fn bus(host: &str, tls: Option<BrokerTls>) -> RabbitMq {
    let url = setting("BASALT_TEST_TLS_URL").replace("127.0.0.1", host);
    RabbitMq::new(RabbitOptions {
        tls,
        ..options("secret", &url)
    })
}

/// What an operator reads of a broker that is not reached.
async fn trouble(bus: &RabbitMq) -> String {
    for _ in 0..300 {
        let told = Notification::info("p", "e", json!({}));
        match bus.notify(&told).await.unwrap_err() {
            Error::Unavailable(reason) if !reason.contains("not connected yet") => return reason,
            _ => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
    panic!("no word of the trouble");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a broker: tests/messaging"]
async fn tls_with_certificates_of_both_sides() {
    let good = BrokerTls {
        ca_file: file("client/ca-cert.pem"),
        certificate_file: file("client/client-cert.pem"),
        key_file: file("client/client-key.pem"),
    };
    let (client, server) = (
        bus("127.0.0.1", Some(good.clone())),
        bus("127.0.0.1", Some(good.clone())),
    );
    let counter = Arc::new(Counter::default());
    let _serving = server.serve("t", "a", counter).await.unwrap();
    let target = Target::server("t", "a");
    assert_eq!(settled(&client, &target).await, json!({"x": 1}));

    let wrong_authority = BrokerTls {
        ca_file: file("other-ca/ca-cert.pem"),
        ..good.clone()
    };
    let no_certificate = BrokerTls {
        certificate_file: None,
        key_file: None,
        ..good.clone()
    };
    let others_certificate = BrokerTls {
        certificate_file: file("other-client/client-cert.pem"),
        key_file: file("other-client/client-key.pem"),
        ..good.clone()
    };
    for (host, tls, said) in [
        ("127.0.0.1", Some(wrong_authority), "UnknownIssuer"),
        ("localhost", Some(good), "not valid for name"),
        ("127.0.0.1", Some(no_certificate), REFUSED),
        ("127.0.0.1", Some(others_certificate), REFUSED),
        ("127.0.0.1", None, "does the broker want TLS"),
    ] {
        let reason = trouble(&bus(host, tls.clone())).await;
        assert!(reason.contains(said), "{tls:?}: {reason}");
    }
}
