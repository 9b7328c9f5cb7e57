//! NBD export of a store (fixed newstyle; the NBD protocol specification, `doc/proto.md`).
//!
//! Who gets what for which name says an [`Admission`]. With [`OpenToAll`] whoever may connect may
//! read and write everything, as `[pool/]image[@snapshot]` (`volume-<id>`,
//! `volume-<id>@snapshot-<id>`), which fits a Unix socket of mode 0600. A name may end in a secret,
//! see [`split_secret`], which is not logged.
//!
//! Structured replies and the extension of 64-bit headers (QEMU and libnbd speak it); commands
//! read, write, flush, trim, write zeroes, cache, and block status of `base:allocation`.
//!
//! Several connections may serve one export (multi-conn): a flush on one covers what the others
//! had acknowledged, because the store flushes per image, not per handle.
//!
//! An image that grows shows its new size to whoever connects from then on. A connection from
//! before keeps the size that it was told, because the protocol cannot tell another one; it may
//! use the new range if it learns of it elsewhere.
//!
//! On shutdown no connection is accepted, requests in flight are finished, new ones are answered
//! with ESHUTDOWN, and connections that do not drain within ten seconds are cut.

mod admission;
mod certificate;
mod channel;
mod exports;
mod listener;
mod meta_context;
mod negotiation;
mod outbox;
mod reply;
mod request;
mod tls;
mod transmission;
mod wire;

#[cfg(test)]
mod tests;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::ImageStore;
use channel::Channel;
use exports::Exports;
use listener::Stream;
use negotiation::Negotiation;
use transmission::Patience;

pub use admission::{Admission, Grant, OpenToAll, Origin, Peer, PeerCertificate, split_secret};
pub use listener::{Listener, Socket};
pub use tls::Tls;

/// A client that has not chosen an export by then is cut off.
const NEGOTIATION_TIMEOUT: Duration = Duration::from_secs(30);
const DRAIN_TIMEOUT: Duration = Duration::from_secs(10);
/// After accept has failed, for want of file descriptors for example.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What a server allows.
#[derive(Clone)]
pub struct Options {
    /// Further connections are closed at once.
    pub max_connections: usize,
    pub admission: Arc<dyn Admission>,
    /// Where it is set, a client must start TLS before it may name an export.
    pub tls: Option<Tls>,
    /// A client that stops in the middle of a request, or does not take its replies, is cut off
    /// after this.
    pub stall_timeout: Duration,
    /// A client that asks for nothing is cut off after this; `None`: never.
    pub idle_timeout: Option<Duration>,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            max_connections: 128,
            admission: Arc::new(OpenToAll {
                default_pool: "volumes".into(),
            }),
            tls: None,
            stall_timeout: Duration::from_secs(300),
            idle_timeout: None,
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
    let server = Arc::new(Server::new(Arc::clone(&store), &options));
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
            Ok((client, peer)) => {
                let (server, stopping) = (Arc::clone(&server), stopping.clone());
                let serve = async move |stream| server.connection(stream, peer, stopping).await;
                match store.lanes() {
                    None => drop(connections.spawn(async { serve(client.into_stream()).await })),
                    Some(lanes) => drop(connections.spawn(lanes.spawn(async move {
                        match client.into_lane_stream() {
                            Ok(stream) => serve(stream).await,
                            Err(error) => tracing::warn!(%error, "NBD connection lost"),
                        }
                    }))),
                }
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

/// Serves one client that is connected already, until it leaves; errors are the client's doing.
pub async fn serve_stream(
    stream: impl Socket,
    peer: Peer,
    store: Arc<dyn ImageStore>,
    options: &Options,
) -> io::Result<()> {
    let (_stop, stopping) = watch::channel(false);
    let server = Server::new(store, options);
    server.run(Box::new(stream), peer, stopping).await
}

/// What all connections share.
struct Server {
    exports: Exports,
    tls: Option<Tls>,
    patience: Patience,
}

impl Server {
    fn new(store: Arc<dyn ImageStore>, options: &Options) -> Self {
        Server {
            exports: Exports::new(store, Arc::clone(&options.admission)),
            tls: options.tls.clone(),
            patience: Patience {
                stalled: options.stall_timeout,
                idle: options.idle_timeout,
            },
        }
    }

    async fn connection(&self, stream: Stream, peer: Peer, stopping: watch::Receiver<bool>) {
        if let Err(error) = self.run(stream, peer, stopping).await {
            // The client's doing, and it knows already.
            tracing::debug!(%error, "NBD connection ended");
        }
    }

    /// One client from greeting to close.
    async fn run(
        &self,
        stream: Stream,
        peer: Peer,
        mut stopping: watch::Receiver<bool>,
    ) -> io::Result<()> {
        let channel = Channel::new(stream);
        let mut negotiation = Negotiation::new(channel, &self.exports, peer, self.tls.as_ref());
        let chosen = tokio::select! {
            // Nothing is in flight yet.
            () = stopped(&mut stopping) => return Ok(()),
            chosen = tokio::time::timeout(NEGOTIATION_TIMEOUT, negotiation.run()) => chosen??,
        };
        let Some(session) = chosen else { return Ok(()) };
        let (channel, peer) = negotiation.into_parts();
        let (stream, inbox) = channel.into_parts()?;
        let (name, grant) = (session.export.name.clone(), session.export.grant.clone());
        let stop = async {
            tokio::select! {
                () = stopped(&mut stopping) => {}
                () = self.exports.revoked(&name, &grant, &peer) => {}
            }
        };
        transmission::transmit(stream, inbox, session, self.patience, stop).await
    }
}

/// Resolves when the server stops.
async fn stopped(stopping: &mut watch::Receiver<bool>) {
    // An error means that the server is gone.
    let _ = stopping.wait_for(|stop| *stop).await;
}
