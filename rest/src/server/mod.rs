//! Serving a router on a listener, with limits on slow clients, and stopping without cutting
//! requests in flight.

mod request_body;
mod stall;

use std::convert::Infallible;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::response::Response;
use http::header::{CONNECTION, EXPECT};
use http::{HeaderValue, Request};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tower::ServiceExt;

use request_body::{RequestBody, Unread};
use stall::StallLimit;

/// What a connection may buffer of a body: enough for the network to stay busy.
const LEAST_BUFFER_BYTES: usize = 128 << 10;

/// Limits of a server.
#[derive(Debug, Clone)]
pub struct ServerOptions {
    /// Open connections; more wait in the listener's backlog.
    pub max_connections: usize,
    /// From the opening of a connection, or the end of the request before, to the end of the
    /// headers: so it also ends idle connections.
    pub header_read_timeout: Duration,
    pub max_headers: usize,
    /// Request line and headers together; more is a 431.
    pub max_header_bytes: usize,
    /// Within a request: for the next piece of its body, and for the client to take a piece of
    /// the answer.
    pub stall_timeout: Duration,
    /// After the shutdown signal: requests in flight get so long, then they are cut.
    pub drain_timeout: Duration,
}

impl Default for ServerOptions {
    fn default() -> Self {
        Self {
            max_connections: 4096,
            header_read_timeout: Duration::from_secs(60),
            stall_timeout: Duration::from_secs(60),
            max_headers: 100,
            // A Keystone catalog once travelled in headers; 64 KiB is what eventlet and uwsgi take.
            max_header_bytes: 64 << 10,
            drain_timeout: Duration::from_secs(30),
        }
    }
}

/// Serves `router` until `shutdown` resolves, then stops accepting, lets requests in flight end
/// (within [`ServerOptions::drain_timeout`], then cuts them) and returns whether all of them did.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    options: ServerOptions,
    shutdown: impl Future<Output = ()>,
) -> bool {
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(options.header_read_timeout)
        .max_headers(options.max_headers)
        .max_header_size(options.max_header_bytes)
        .max_buf_size(options.max_header_bytes.max(LEAST_BUFFER_BYTES));
    let slots = Arc::new(Semaphore::new(options.max_connections));
    let graceful = GracefulShutdown::new();
    let mut connections = JoinSet::new();
    tokio::pin!(shutdown);
    loop {
        let (stream, slot) = tokio::select! {
            () = &mut shutdown => break,
            accepted = accept(&listener, &slots) => accepted,
        };
        let patience = options.stall_timeout;
        let router = router.clone();
        let service = service_fn(move |request| answer(router.clone(), request, patience));
        let stream = TokioIo::new(StallLimit::new(stream, patience));
        let connection = http.serve_connection(stream, service);
        let connection = graceful.watch(connection);
        connections.spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "connection ended");
            }
            drop(slot);
        });
        while connections.try_join_next().is_some() {}
    }
    drop(listener);
    tokio::time::timeout(options.drain_timeout, graceful.shutdown())
        .await
        .is_ok()
}

/// The router's answer. It says so where the connection ends with it: when much of the request's
/// body was left unread, or the client waits to be asked for it.
async fn answer(
    router: Router,
    request: Request<Incoming>,
    patience: Duration,
) -> Result<Response, Infallible> {
    let unread = Unread::default();
    let expects = request.headers().contains_key(EXPECT);
    let request = request.map(|body| Body::new(RequestBody::new(body, patience, unread.clone())));
    let mut response = router.oneshot(request).await?;
    let goes_on = match expects {
        true => unread.has_ended(),
        false => unread.read_out().await,
    };
    if !goes_on {
        let close = HeaderValue::from_static("close");
        response.headers_mut().insert(CONNECTION, close);
    }
    Ok(response)
}

/// The next connection and the slot it takes.
async fn accept(
    listener: &TcpListener,
    slots: &Arc<Semaphore>,
) -> (TcpStream, Option<OwnedSemaphorePermit>) {
    // The semaphore is never closed, so there always is a slot in the end.
    let slot = Arc::clone(slots).acquire_owned().await.ok();
    loop {
        match listener.accept().await {
            Ok((stream, _peer)) => {
                // Answers are small: waiting for more to send costs 40 ms each.
                if let Err(error) = stream.set_nodelay(true) {
                    tracing::debug!(%error, "cannot set TCP_NODELAY");
                }
                return (stream, slot);
            }
            Err(error) => {
                // Out of file descriptors, or a client that went away: both pass.
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}
