//! The server on a real socket: limits, and stopping without cutting what runs.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::routing::{get, post};
use futures_util::Stream;
use rest::frame::FrameOptions;
use rest::server::{ServerOptions, serve};
use rest::{ErrorShape, JsonBody};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::task::JoinHandle;

struct Running {
    address: std::net::SocketAddr,
    stop: Arc<Notify>,
    /// Wakes when a request to `/slow` has arrived; `release` lets it end.
    arrived: Arc<Notify>,
    release: Arc<Notify>,
    server: JoinHandle<bool>,
}

async fn start(options: ServerOptions) -> Running {
    let [stop, arrived, release] = std::array::from_fn(|_| Arc::new(Notify::new()));
    let slow = {
        let (arrived, release) = (Arc::clone(&arrived), Arc::clone(&release));
        async move || {
            arrived.notify_one();
            release.notified().await;
            "done"
        }
    };
    let (endless, count) = (Arc::clone(&arrived), post(count));
    let router = Router::new()
        .route("/", get(async || "hello"))
        .route("/slow", get(slow))
        .route("/count", count)
        .merge(rest::frame::apply(
            json_api(),
            FrameOptions::new(ErrorShape::Volume),
        ))
        .route(
            "/endless",
            get(async move || Body::from_stream(Endless(endless))),
        );
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let signal = Arc::clone(&stop);
    let server = tokio::spawn(serve(listener, router, options, async move {
        signal.notified().await
    }));
    Running {
        address,
        stop,
        arrived,
        release,
        server,
    }
}

/// An API that takes JSON, in the frame of a service.
fn json_api() -> Router {
    Router::new().route(
        "/json",
        post(async |body: JsonBody| body.0.unwrap().to_string()),
    )
}

/// Says how many bytes it got, or that they did not all come.
async fn count(body: Body) -> String {
    match axum::body::to_bytes(body, 1 << 20).await {
        Ok(bytes) => bytes.len().to_string(),
        Err(_) => "broken".to_owned(),
    }
}

/// Pieces for as long as somebody takes them; wakes when nobody does any more.
struct Endless(Arc<Notify>);

impl Stream for Endless {
    type Item = Result<Bytes, std::convert::Infallible>;

    fn poll_next(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        Poll::Ready(Some(Ok(Bytes::from_static(&[0; 4096]))))
    }
}

impl Drop for Endless {
    fn drop(&mut self) {
        self.0.notify_one();
    }
}

async fn request(running: &Running, head: &str) -> TcpStream {
    let mut stream = TcpStream::connect(running.address).await.unwrap();
    stream.write_all(head.as_bytes()).await.unwrap();
    stream
}

/// Everything until the server closes.
async fn rest_of(mut stream: TcpStream) -> String {
    let mut text = String::new();
    // A reset after the last byte is a close, too.
    let _ = stream.read_to_string(&mut text).await;
    text
}

#[tokio::test]
async fn requests_in_flight_end_after_the_signal_and_new_ones_are_refused() {
    let running = start(ServerOptions::default()).await;
    let idle = request(&running, "").await;
    let stream = request(&running, "GET /slow HTTP/1.1\r\nhost: h\r\n\r\n").await;
    running.arrived.notified().await;
    running.stop.notify_one();
    // The idle connection is closed at once, which shows that the server is stopping.
    assert_eq!(rest_of(idle).await, "");
    assert!(TcpStream::connect(running.address).await.is_err());
    running.release.notify_one();
    let answer = rest_of(stream).await;
    assert!(
        answer.starts_with("HTTP/1.1 200") && answer.ends_with("done"),
        "{answer}"
    );
    assert!(running.server.await.unwrap());
}

#[tokio::test]
async fn a_request_that_never_ends_is_cut() {
    let options = ServerOptions {
        drain_timeout: Duration::from_millis(1),
        ..ServerOptions::default()
    };
    let running = start(options).await;
    let stream = request(&running, "GET /slow HTTP/1.1\r\nhost: h\r\n\r\n").await;
    running.arrived.notified().await;
    running.stop.notify_one();
    assert_eq!(rest_of(stream).await, "");
    assert!(!running.server.await.unwrap());
}

#[tokio::test]
async fn slow_and_huge_headers_end_the_connection() {
    let options = ServerOptions {
        header_read_timeout: Duration::from_millis(20),
        max_header_bytes: 16 << 10,
        ..ServerOptions::default()
    };
    let running = start(options).await;
    let slow = request(&running, "GET / HTTP/1.1\r\nhost: ").await;
    assert!(!rest_of(slow).await.contains("hello"));
    let huge = format!(
        "GET / HTTP/1.1\r\nhost: h\r\nx: {}\r\n\r\n",
        "a".repeat(20 << 10)
    );
    assert!(
        rest_of(request(&running, &huge).await)
            .await
            .starts_with("HTTP/1.1 431")
    );
    let many = "a: b\r\n".repeat(200);
    let many = format!("GET / HTTP/1.1\r\nhost: h\r\n{many}\r\n");
    assert!(
        rest_of(request(&running, &many).await)
            .await
            .starts_with("HTTP/1.1 431")
    );
    let fine = request(
        &running,
        "GET / HTTP/1.1\r\nhost: h\r\nconnection: close\r\n\r\n",
    )
    .await;
    assert!(rest_of(fine).await.ends_with("hello"));
}

#[tokio::test]
async fn connections_above_the_limit_wait_for_a_slot() {
    let options = ServerOptions {
        max_connections: 1,
        ..ServerOptions::default()
    };
    let running = start(options).await;
    let first = request(
        &running,
        "GET /slow HTTP/1.1\r\nhost: h\r\nconnection: close\r\n\r\n",
    )
    .await;
    running.arrived.notified().await;
    let second = request(
        &running,
        "GET / HTTP/1.1\r\nhost: h\r\nconnection: close\r\n\r\n",
    )
    .await;
    running.release.notify_one();
    assert!(rest_of(first).await.ends_with("done"));
    assert!(rest_of(second).await.ends_with("hello"));
}

fn impatient() -> ServerOptions {
    ServerOptions {
        stall_timeout: Duration::from_millis(30),
        ..ServerOptions::default()
    }
}

#[tokio::test]
async fn a_body_that_stops_coming_ends_its_request() {
    let running = start(impatient()).await;
    let head = "POST /count HTTP/1.1\r\nhost: h\r\nconnection: close\r\n";
    let half = request(&running, &format!("{head}content-length: 10\r\n\r\n12345")).await;
    assert!(rest_of(half).await.ends_with("broken"));
    let chunked = format!("{head}transfer-encoding: chunked\r\n\r\n3\r\nabc\r\n");
    let half = request(&running, &chunked).await;
    assert!(rest_of(half).await.ends_with("broken"));
    let whole = request(&running, &format!("{chunked}0\r\n\r\n")).await;
    assert!(rest_of(whole).await.ends_with('3'));
}

#[tokio::test]
async fn a_client_that_takes_no_answer_is_dropped() {
    let running = start(impatient()).await;
    let deaf = request(&running, "GET /endless HTTP/1.1\r\nhost: h\r\n\r\n").await;
    // The answer is given up although the client is still there.
    running.arrived.notified().await;
    drop(deaf);
}

#[tokio::test]
async fn a_slow_handler_is_not_a_slow_client() {
    let running = start(impatient()).await;
    let head = "GET /slow HTTP/1.1\r\nhost: h\r\nconnection: close\r\n\r\n";
    let stream = request(&running, head).await;
    running.arrived.notified().await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    running.release.notify_one();
    assert!(rest_of(stream).await.ends_with("done"));
}

#[tokio::test]
async fn one_connection_serves_many_requests() {
    let running = start(ServerOptions::default()).await;
    let mut stream = request(&running, "").await;
    for _ in 0..3 {
        let head = b"GET / HTTP/1.1\r\nhost: h\r\n\r\n";
        stream.write_all(head).await.unwrap();
        let mut answer = Vec::new();
        while !answer.ends_with(b"hello") {
            assert!(stream.read_buf(&mut answer).await.unwrap() > 0);
        }
    }
}

#[tokio::test]
async fn a_body_over_the_limit_is_refused_declared_or_not() {
    let running = start(ServerOptions::default()).await;
    let head =
        "POST /json HTTP/1.1\r\nhost: h\r\nconnection: close\r\ncontent-type: application/json\r\n";
    let fine = request(&running, &format!("{head}content-length: 2\r\n\r\n[]")).await;
    assert!(rest_of(fine).await.ends_with("[]"));
    let overlimit = "{\"overLimit\":{\"code\":413,\"message\":\"Request is too large.\"}}";
    // Refused by what it says of itself: nothing is read.
    let declared = request(
        &running,
        &format!("{head}content-length: 999999999999\r\n\r\n"),
    )
    .await;
    let answer = rest_of(declared).await;
    assert!(
        answer.starts_with("HTTP/1.1 413") && answer.ends_with(overlimit),
        "{answer}"
    );
    // Refused as soon as it has grown too long, without waiting for its end. Nothing is sent that
    // the server would leave unread: it could cost the answer.
    let mut endless = request(
        &running,
        &format!("{head}transfer-encoding: chunked\r\n\r\n"),
    )
    .await;
    let first = format!("10000\r\n{}\r\n", " ".repeat(0x10000));
    let second = format!("c001\r\n{}", " ".repeat(0xc001));
    endless.write_all(first.as_bytes()).await.unwrap();
    endless.write_all(second.as_bytes()).await.unwrap();
    let answer = rest_of(endless).await;
    assert!(
        answer.starts_with("HTTP/1.1 413") && answer.ends_with(overlimit),
        "{answer}"
    );
}

#[tokio::test]
async fn a_small_body_that_nobody_reads_does_not_end_the_connection() {
    let running = start(ServerOptions::default()).await;
    for framing in [
        "content-length: 5\r\n\r\n",
        "transfer-encoding: chunked\r\n\r\n",
    ] {
        let head = format!("POST /nowhere HTTP/1.1\r\nhost: h\r\n{framing}");
        let mut stream = request(&running, &head).await;
        // As clients do that send head and body apart.
        tokio::time::sleep(Duration::from_millis(50)).await;
        let body = if framing.contains("chunked") {
            "5\r\nhello\r\n0\r\n\r\n"
        } else {
            "hello"
        };
        stream.write_all(body.as_bytes()).await.unwrap();
        let next = "GET / HTTP/1.1\r\nhost: h\r\nconnection: close\r\n\r\n";
        stream.write_all(next.as_bytes()).await.unwrap();
        let answers = rest_of(stream).await;
        assert!(answers.starts_with("HTTP/1.1 404"), "{answers}");
        assert!(answers.ends_with("hello"), "{answers}");
    }
}

#[tokio::test]
async fn a_large_body_that_nobody_reads_ends_the_connection_and_the_answer_says_so() {
    let running = start(ServerOptions::default()).await;
    for more in [
        "content-length: 100000",
        "content-length: 5\r\nexpect: 100-continue",
    ] {
        let head = format!("POST /nowhere HTTP/1.1\r\nhost: h\r\n{more}\r\n\r\n");
        let answer = rest_of(request(&running, &head).await).await;
        assert!(answer.starts_with("HTTP/1.1 404"), "{answer}");
        assert!(answer.contains("connection: close\r\n"), "{answer}");
    }
}
