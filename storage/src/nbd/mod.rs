//! NBD export of a store (fixed newstyle; the NBD protocol specification, `doc/proto.md`).
//!
//! Exports are `pool/image`, `pool/image@snapshot` (read-only), and without a pool images of
//! [`Options::default_pool`]: `volume-<id>`, `volume-<id>@snapshot-<id>`. Whoever may connect may
//! read and write every image: the Unix socket has mode 0600, a TCP address belongs on loopback.
//!
//! Several connections may serve one export (multi-conn): a flush on one covers what the others
//! had acknowledged, because the store flushes per image, not per handle.
//!
//! On shutdown no connection is accepted, requests in flight are finished, new ones are answered
//! with ESHUTDOWN, and connections that do not drain within ten seconds are cut.

mod exports;
mod listener;
mod meta_context;
mod negotiation;
mod reply;
mod request;
mod transmission;
mod wire;

#[cfg(test)]
mod tests;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, BufReader};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::ImageStore;
use exports::Exports;
use negotiation::Negotiation;
use reply::Replies;
use transmission::Transmission;

pub use listener::Listener;

/// A client that has not chosen an export by then is cut off.
const NEGOTIATION_TIMEOUT: Duration = Duration::from_secs(30);
const DRAIN_TIMEOUT: Duration = Duration::from_secs(10);
/// After accept has failed, for want of file descriptors for example.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
const READ_BUFFER_BYTES: usize = 64 * 1024;

/// What a server allows.
#[derive(Debug, Clone)]
pub struct Options {
    /// The pool of export names without one.
    pub default_pool: String,
    /// Further connections are closed at once.
    pub max_connections: usize,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            default_pool: "volumes".into(),
            max_connections: 128,
        }
    }
}

/// Serves the images of `store` until `shutdown` resolves; then drains and removes the socket.
pub async fn serve(
    listener: Listener,
    store: Arc<dyn ImageStore>,
    options: Options,
    shutdown: impl Future<Output = ()> + Send,
) {
    let exports = Arc::new(Exports::new(store, options.default_pool));
    let (stop, stopping) = watch::channel(false);
    let mut connections = JoinSet::new();
    let mut shutdown = std::pin::pin!(shutdown);
    loop {
        let accepted = tokio::select! {
            () = &mut shutdown => break,
            Some(_) = connections.join_next() => continue,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok(_) if connections.len() >= options.max_connections => {
                tracing::warn!(
                    limit = options.max_connections,
                    "NBD connection refused: too many"
                );
            }
            Ok((reader, writer)) => {
                connections.spawn(serve_connection(
                    reader,
                    writer,
                    Arc::clone(&exports),
                    stopping.clone(),
                ));
            }
            Err(error) => {
                tracing::warn!(%error, "NBD connection not accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    drop(listener);
    stop.send_replace(true);
    let drained = async { while connections.join_next().await.is_some() {} };
    if tokio::time::timeout(DRAIN_TIMEOUT, drained).await.is_err() {
        tracing::warn!(
            connections = connections.len(),
            "NBD connections cut: they did not drain"
        );
        connections.shutdown().await;
    }
}

/// One client from greeting to close.
async fn serve_connection<R, W>(
    reader: R,
    writer: W,
    exports: Arc<Exports>,
    stopping: watch::Receiver<bool>,
) where
    R: AsyncRead + Send + Unpin,
    W: AsyncWrite + Send + Unpin + 'static,
{
    if let Err(error) = run_connection(reader, writer, &exports, stopping).await {
        // The client's doing, and it knows already.
        tracing::debug!(%error, "NBD connection ended");
    }
}

async fn run_connection<R, W>(
    reader: R,
    writer: W,
    exports: &Exports,
    mut stopping: watch::Receiver<bool>,
) -> io::Result<()>
where
    R: AsyncRead + Send + Unpin,
    W: AsyncWrite + Send + Unpin + 'static,
{
    let mut negotiation = Negotiation::new(
        BufReader::with_capacity(READ_BUFFER_BYTES, reader),
        writer,
        exports,
    );
    let chosen = tokio::select! {
        // Nothing is in flight yet.
        () = stopped(&mut stopping) => return Ok(()),
        chosen = tokio::time::timeout(NEGOTIATION_TIMEOUT, negotiation.run()) => chosen??,
    };
    let Some(session) = chosen else { return Ok(()) };
    let (reader, writer) = negotiation.into_halves();
    let (replies, mut sending) = Replies::start(writer);
    let mut transmission = Transmission::new(reader, session, replies, stopping);
    let ended = transmission.run().await;
    // The writer ends when the last request has dropped its end of the queue.
    transmission.finish().await;
    let sent = sending
        .join_next()
        .await
        .transpose()
        .map_err(io::Error::other)?;
    ended.and(sent.unwrap_or(Ok(())))
}

/// Resolves when the server stops.
async fn stopped(stopping: &mut watch::Receiver<bool>) {
    // An error means that the server is gone.
    let _ = stopping.wait_for(|stop| *stop).await;
}
