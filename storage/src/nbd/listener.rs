//! Where clients connect.

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::net::sockopt;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixSocket, UnixStream};

use super::admission::{Origin, Peer};
use crate::lane::LaneStream;

const BACKLOG: u32 = 128;
/// A TCP peer that is gone without a word is noticed within about two minutes.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(60);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(15);
const KEEPALIVE_PROBES: u32 = 4;
/// How long sent data may wait for the peer's acknowledgement.
const USER_TIMEOUT_MS: u32 = 120_000;

/// Both directions of a connection.
pub trait Socket: AsyncRead + AsyncWrite + Send + Unpin + 'static {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin + 'static> Socket for S {}

pub(super) type Stream = Box<dyn Socket>;

/// A client that has connected.
pub(super) enum Accepted {
    Unix(UnixStream),
    Tcp(TcpStream),
}

impl Accepted {
    pub fn into_stream(self) -> Stream {
        match self {
            Accepted::Unix(stream) => Box::new(stream),
            Accepted::Tcp(stream) => Box::new(stream),
        }
    }

    /// To be used on a lane.
    pub fn into_lane_stream(self) -> io::Result<Stream> {
        let socket = match self {
            Accepted::Unix(stream) => OwnedFd::from(stream.into_std()?),
            Accepted::Tcp(stream) => OwnedFd::from(stream.into_std()?),
        };
        Ok(Box::new(LaneStream::new(socket)))
    }
}

/// A bound address.
#[derive(Debug)]
pub struct Listener(Kind);

#[derive(Debug)]
enum Kind {
    Unix {
        listener: UnixListener,
        path: PathBuf,
    },
    Tcp(TcpListener),
}

impl Listener {
    /// A Unix socket with mode 0600. Replaces a socket file that nobody listens on; `AddrInUse`
    /// when somebody does, `AlreadyExists` when the file is no socket. The file is removed when
    /// the listener is dropped.
    pub async fn unix(path: impl Into<PathBuf>) -> io::Result<Listener> {
        let path = path.into();
        remove_stale(&path).await?;
        let socket = UnixSocket::new_stream()?;
        socket.bind(&path)?;
        // Before listening: nobody can connect while the mode is still the umask's.
        tokio::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).await?;
        Ok(Listener(Kind::Unix {
            listener: socket.listen(BACKLOG)?,
            path,
        }))
    }

    /// A TCP address; port 0 takes a free one.
    pub async fn tcp(address: SocketAddr) -> io::Result<Listener> {
        Ok(Listener(Kind::Tcp(TcpListener::bind(address).await?)))
    }

    /// The TCP address that was bound.
    pub fn tcp_address(&self) -> Option<SocketAddr> {
        match &self.0 {
            Kind::Unix { .. } => None,
            Kind::Tcp(listener) => listener.local_addr().ok(),
        }
    }

    pub(super) async fn accept(&self) -> io::Result<(Accepted, Peer)> {
        let peer = |origin| Peer {
            origin,
            certificate: None,
        };
        match &self.0 {
            Kind::Unix { listener, .. } => {
                let stream = listener.accept().await?.0;
                let uid = stream.peer_cred()?.uid();
                Ok((Accepted::Unix(stream), peer(Origin::Unix { uid })))
            }
            Kind::Tcp(listener) => {
                let (stream, address) = listener.accept().await?;
                prepare(&stream)?;
                Ok((Accepted::Tcp(stream), peer(Origin::Tcp(address))))
            }
        }
    }
}

/// No delay for small replies, and an end for connections whose other side is gone.
fn prepare(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    sockopt::set_socket_keepalive(stream, true)?;
    sockopt::set_tcp_keepidle(stream, KEEPALIVE_IDLE)?;
    sockopt::set_tcp_keepintvl(stream, KEEPALIVE_INTERVAL)?;
    sockopt::set_tcp_keepcnt(stream, KEEPALIVE_PROBES)?;
    sockopt::set_tcp_user_timeout(stream, USER_TIMEOUT_MS)?;
    Ok(())
}

impl Drop for Listener {
    fn drop(&mut self) {
        if let Kind::Unix { path, .. } = &self.0 {
            // A file that stays is replaced at the next start.
            let _ = std::fs::remove_file(path);
        }
    }
}

async fn remove_stale(path: &Path) -> io::Result<()> {
    let kind = match tokio::fs::symlink_metadata(path).await {
        Ok(metadata) => metadata.file_type(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    if !kind.is_socket() {
        return Err(io::Error::new(
            io::ErrorKind::AlreadyExists,
            format!("{} is not a socket", path.display()),
        ));
    }
    match UnixStream::connect(path).await {
        Ok(_) => Err(io::Error::new(
            io::ErrorKind::AddrInUse,
            format!("{} is served already", path.display()),
        )),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            tokio::fs::remove_file(path).await
        }
        Err(error) => Err(error),
    }
}
