//! The byte stream to a broker, plain or in TLS, in the form that lapin takes.
//!
//! lapin has TLS of its own, with a container format for keys that brings a dozen crates; it also
//! lets its user bring the stream. The stream is made here first, so that what is wrong with a
//! certificate is said in our words.

use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use async_rs::traits::Reactor;
use async_rs::util::RuntimeParts;
use async_rs::{Runtime, Tokio};
use futures_util::Stream;
use futures_util::io::{AsyncRead, AsyncWrite};
use lapin::uri::AMQPUri;
use lapin::{AsyncTcpStream, Connection, ConnectionProperties};
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_util::compat::TokioAsyncReadCompatExt;

use super::tls::BrokerTls;
use super::transport_url::Broker;

/// Bytes to and from a broker.
pub(super) trait Bytes: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Bytes for T {}

type BrokerStream = Box<dyn Bytes>;

/// Reaches the broker. Errors say what the operator can look at.
pub(super) async fn reach(
    broker: &Broker,
    tls: Option<&BrokerTls>,
) -> Result<BrokerStream, String> {
    let said = |error: io::Error| error.to_string();
    let stream = TcpStream::connect((broker.host.as_str(), broker.port));
    let stream = stream.await.map_err(said)?;
    stream.set_nodelay(true).map_err(said)?;
    let Some(tls) = tls.cloned() else {
        return Ok(Box::new(stream.compat()));
    };
    let client = tokio::task::spawn_blocking(move || tls.client()).await;
    let client = client.map_err(|error| error.to_string())?.map_err(said)?;
    let name = ServerName::try_from(broker.host.clone()).map_err(|error| error.to_string())?;
    let stream = client.connect(name, stream).await;
    let stream = stream.map_err(|error| format!("TLS: {error}"))?;
    Ok(Box::new(stream.compat()))
}

/// Logs in over the stream.
pub(super) async fn log_in(
    stream: BrokerStream,
    uri: AMQPUri,
    properties: ConnectionProperties,
) -> lapin::Result<Connection> {
    let (tasks, streams) = (Tokio::current(), BrokerStreams(Tokio::current()));
    let runtime = Runtime::new(RuntimeParts::new(tasks, streams));
    // Asked for once: lapin's own reconnect is off.
    let stream = Mutex::new(Some(stream));
    let given = async move |_, _| {
        let mut stream = stream.lock().unwrap_or_else(PoisonError::into_inner);
        let used = || io::Error::other("the stream has been used");
        Ok(AsyncTcpStream::Plain(stream.take().ok_or_else(used)?))
    };
    Connection::connector(uri, runtime, given, properties).await
}

/// Tokio's clock and sockets, with streams of any making.
#[derive(Debug, Clone)]
struct BrokerStreams(Tokio);

impl Reactor for BrokerStreams {
    type TcpStream = BrokerStream;
    type Sleep = <Tokio as Reactor>::Sleep;

    fn register<H: Read + Write + AsFd + AsRawFd + Send + 'static>(
        &self,
        socket: H,
    ) -> io::Result<impl AsyncRead + AsyncWrite + Send + Unpin + 'static> {
        self.0.register(socket)
    }

    fn sleep(&self, duration: Duration) -> Self::Sleep {
        self.0.sleep(duration)
    }

    fn interval(&self, duration: Duration) -> impl Stream<Item = Instant> + Send + 'static {
        self.0.interval(duration)
    }

    fn tcp_connect_addr(
        &self,
        address: SocketAddr,
    ) -> impl Future<Output = io::Result<Self::TcpStream>> + Send + 'static {
        let connecting = self.0.tcp_connect_addr(address);
        async move { Ok(Box::new(connecting.await?) as BrokerStream) }
    }
}
