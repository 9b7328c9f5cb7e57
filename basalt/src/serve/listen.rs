//! Takes every address before anything else starts, so that a port in use is found at once.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};

use storage::nbd;
use tokio::net::TcpListener;

use super::roles::Roles;
use crate::config::Settings;
use crate::config::settings::{AuthStrategy, Listen};
use crate::data_dir::DataDir;
use crate::error::{Error, Result};

/// Bytes that the path of a Unix socket may have.
const LONGEST_SOCKET_PATH_BYTES: usize = 107;

/// A listener and the URL that it is reached at.
pub struct Bound {
    pub listener: TcpListener,
    pub url: String,
}

/// The listeners of this process, and the URLs that clients are told.
pub struct Sockets {
    pub volume: Option<Bound>,
    pub image: Option<Bound>,
    pub identity: Option<Bound>,
    pub nbd: Vec<nbd::Listener>,
    pub volume_url: Option<String>,
    pub image_url: Option<String>,
    pub identity_url: Option<String>,
    pub nbd_socket: PathBuf,
    pub nbd_address: Option<SocketAddr>,
}

/// Binds everything that the roles need; for NBD only where the node has a store of its own.
///
/// Errors: `Listen` with the address and the option that gave it.
pub async fn bind(
    settings: &Settings,
    data_dir: &DataDir,
    roles: Roles,
    with_nbd: bool,
) -> Result<Sockets> {
    let volume = tcp(&settings.volume, roles.volume_api).await?;
    let image = tcp(&settings.image, roles.image_api).await?;
    let identity = tcp(&settings.identity, settings.auth == AuthStrategy::Dev).await?;
    let nbd_socket = settings
        .nbd
        .socket
        .clone()
        .unwrap_or_else(|| data_dir.join("nbd.sock"));
    let mut nbd = Vec::new();
    if with_nbd {
        nbd.push(unix(&nbd_socket).await?);
    }
    if let Some(listen) = settings.nbd.tcp.as_ref().filter(|_| with_nbd) {
        let listener = nbd::Listener::tcp(listen.address).await;
        nbd.push(listener.map_err(|error| failed(listen, &error))?);
    }
    let url = |bound: &Option<Bound>, public: &Option<String>| {
        let own = bound.as_ref().map(|bound| bound.url.clone());
        own.map(|own| {
            public
                .as_deref()
                .map_or(own, |url| url.trim_end_matches('/').to_owned())
        })
    };
    Ok(Sockets {
        volume_url: url(&volume, &settings.volume_endpoint),
        image_url: url(&image, &settings.image_endpoint),
        identity_url: url(&identity, &None),
        nbd_address: nbd.iter().find_map(nbd::Listener::tcp_address),
        volume,
        image,
        identity,
        nbd,
        nbd_socket,
    })
}

async fn tcp(listen: &Listen, wanted: bool) -> Result<Option<Bound>> {
    if !wanted {
        return Ok(None);
    }
    let failed = |error: io::Error| failed(listen, &error);
    let listener = TcpListener::bind(listen.address).await.map_err(failed)?;
    let address = reachable(listener.local_addr().map_err(failed)?);
    Ok(Some(Bound {
        listener,
        url: format!("http://{address}"),
    }))
}

/// A Unix socket for NBD.
pub async fn unix(path: &Path) -> Result<nbd::Listener> {
    let failed = |reason: String| Error::Listen {
        address: path.display().to_string(),
        option: "[nbd] unix_socket".to_owned(),
        reason,
    };
    if path.as_os_str().len() > LONGEST_SOCKET_PATH_BYTES {
        return Err(failed(format!(
            "the path has more than {LONGEST_SOCKET_PATH_BYTES} bytes"
        )));
    }
    nbd::Listener::unix(path)
        .await
        .map_err(|error| failed(error.to_string()))
}

fn failed(listen: &Listen, error: &io::Error) -> Error {
    let reason = match error.kind() {
        io::ErrorKind::AddrInUse => "the port is in use".to_owned(),
        io::ErrorKind::PermissionDenied => "permission denied".to_owned(),
        io::ErrorKind::AddrNotAvailable => "this machine has no such address".to_owned(),
        _ => error.to_string(),
    };
    Error::Listen {
        address: listen.address.to_string(),
        option: listen.option.clone(),
        reason,
    }
}

/// An address to connect to, where the listener takes connections on all of them.
fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_are_told_an_address_they_can_reach() {
        for (bound, told) in [
            ("0.0.0.0:80", "127.0.0.1:80"),
            ("[::]:80", "[::1]:80"),
            ("10.0.0.1:80", "10.0.0.1:80"),
        ] {
            assert_eq!(reachable(bound.parse().unwrap()).to_string(), told);
        }
    }
}
