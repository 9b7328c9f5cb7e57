//! Fetching what users name by URL, without becoming their way into places they cannot reach.
//!
//! **Promises.** A URL passes `[import_filtering_opts]` before anything is sent, and so does every
//! redirect. Names are resolved once, the addresses are checked (loopback, link-local and
//! unspecified ones only for hosts that `allowed_hosts` names), and the connection goes to exactly
//! these addresses, so that a name which changes its mind is of no use. Proxies of the environment
//! are not asked. Data comes as a stream.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use futures_util::StreamExt;
use reqwest::header::{CONTENT_LENGTH, LOCATION};
use reqwest::{ClientBuilder, Method, Response, StatusCode, Url};
use rest::http_client::{self, Tls, chain_of};

use crate::options::ImportFilter;
use crate::uploads::DataStream;

const RESOLVE_TIMEOUT: Duration = Duration::from_secs(10);
/// The longest silence of a server that sends data.
const READ_TIMEOUT: Duration = Duration::from_secs(60);
const REDIRECTS_MAX: usize = 10;
const URL_BYTES_MAX: usize = 4096;

/// Why there is no data.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FetchError {
    /// The URL does not pass the filter.
    #[error("{0}")]
    Refused(String),
    /// Another attempt may succeed.
    #[error("{0}")]
    Unavailable(String),
    #[error("{0}")]
    Failed(String),
}

/// Data on its way.
pub struct Fetched {
    /// What the server announced.
    pub size_bytes: Option<u64>,
    pub data: DataStream,
}

/// A URL that may be fetched, and the addresses that it may be fetched from.
#[derive(Debug)]
struct Checked {
    url: Url,
    addresses: Vec<SocketAddr>,
}

/// Whether the URL may be fetched now; the reason if not.
pub async fn check(filter: &ImportFilter, uri: &str) -> Result<(), FetchError> {
    resolve(filter, uri).await.map(drop)
}

/// The data at the URL.
pub async fn get(filter: &ImportFilter, uri: &str) -> Result<Fetched, FetchError> {
    let response = follow(filter, Method::GET, uri).await?;
    Ok(fetched(response))
}

/// The size of what is at the URL, without reading it. `None`: the server does not tell.
pub async fn size(filter: &ImportFilter, uri: &str) -> Result<Option<u64>, FetchError> {
    let response = match follow(filter, Method::HEAD, uri).await {
        // Some servers know no HEAD; the data is not read.
        Err(FetchError::Failed(_)) => follow(filter, Method::GET, uri).await?,
        answered => answered?,
    };
    Ok(announced_bytes(&response))
}

/// The response as data.
pub fn fetched(response: Response) -> Fetched {
    let size_bytes = announced_bytes(&response);
    let pieces = response.bytes_stream();
    let data = pieces.map(|piece| piece.map_err(|error| std::io::Error::other(chain_of(error))));
    Fetched {
        size_bytes,
        data: Box::pin(data),
    }
}

fn announced_bytes(response: &Response) -> Option<u64> {
    let value = response.headers().get(CONTENT_LENGTH)?;
    value.to_str().ok()?.parse().ok()
}

/// A client that follows nothing by itself and asks no proxy.
pub fn client() -> Result<ClientBuilder, FetchError> {
    let builder = http_client::builder(&Tls::default());
    let builder = builder.map_err(|error| FetchError::Failed(error.to_string()))?;
    Ok(builder.read_timeout(READ_TIMEOUT))
}

/// What a client that was put together says when it cannot be.
pub fn no_client(error: reqwest::Error) -> FetchError {
    FetchError::Failed(chain_of(error))
}

async fn follow(filter: &ImportFilter, method: Method, uri: &str) -> Result<Response, FetchError> {
    let mut uri = uri.to_owned();
    for _ in 0..=REDIRECTS_MAX {
        let checked = resolve(filter, &uri).await?;
        let host = checked.url.host_str().unwrap_or_default();
        let client = client()?
            .resolve_to_addrs(host, &checked.addresses)
            .build()
            .map_err(no_client)?;
        let request = client.request(method.clone(), checked.url.clone());
        let response = request
            .send()
            .await
            .map_err(|error| FetchError::Unavailable(chain_of(error)))?;
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        match redirect(&response, &checked.url) {
            Some(next) => uri = next,
            None => return Err(refused_by_server(status)),
        }
    }
    let message = format!("more than {REDIRECTS_MAX} redirects");
    Err(FetchError::Failed(message))
}

/// What an answer that is no success means for another attempt.
pub fn refused_by_server(status: StatusCode) -> FetchError {
    let message = format!("the server answered {status}");
    if status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS {
        FetchError::Unavailable(message)
    } else {
        FetchError::Failed(message)
    }
}

fn redirect(response: &Response, from: &Url) -> Option<String> {
    if !response.status().is_redirection() {
        return None;
    }
    let target = response.headers().get(LOCATION)?.to_str().ok()?;
    Some(from.join(target).ok()?.into())
}

async fn resolve(filter: &ImportFilter, uri: &str) -> Result<Checked, FetchError> {
    let refused = |reason: &str| FetchError::Refused(reason.to_owned());
    let named = Named::parse(uri).ok_or_else(|| refused("the URL is malformed"))?;
    named.pass(filter).map_err(refused)?;
    let trusted = filter.allowed_hosts.contains(&named.host);
    let found: Vec<SocketAddr> = match named.host.parse::<IpAddr>() {
        Ok(address) => vec![SocketAddr::new(address, named.port)],
        Err(_) => lookup(&named.host, named.port).await?,
    };
    let banned = banned_addresses(filter);
    let usable = |at: &SocketAddr| trusted || (is_public(at.ip()) && !banned.contains(&at.ip()));
    let addresses: Vec<SocketAddr> = found.into_iter().filter(usable).collect();
    if addresses.is_empty() {
        return Err(refused("the host has no address that is allowed"));
    }
    let url = named.url;
    Ok(Checked { url, addresses })
}

async fn lookup(host: &str, port: u16) -> Result<Vec<SocketAddr>, FetchError> {
    // With the dot at the end nothing reads it as a number in disguise.
    let absolute = format!("{}.", host.trim_end_matches('.'));
    let found = tokio::net::lookup_host((absolute.as_str(), port));
    match tokio::time::timeout(RESOLVE_TIMEOUT, found).await {
        Ok(Ok(found)) => Ok(found.collect()),
        _ => Err(FetchError::Refused("the host's name is unknown".to_owned())),
    }
}

/// Addresses that `disallowed_hosts` names.
fn banned_addresses(filter: &ImportFilter) -> Vec<IpAddr> {
    if !filter.allowed_hosts.is_empty() {
        return Vec::new();
    }
    let hosts = filter.disallowed_hosts.iter();
    hosts.filter_map(|host| host.parse().ok()).collect()
}

/// Not the machine itself and not its cloud's metadata service. Private networks are fine: a
/// private cloud fetches from them.
fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => {
            let first = v4.octets()[0];
            let local = v4.is_loopback() || v4.is_link_local() || first == 0;
            !(local || v4.is_multicast() || v4.is_broadcast())
        }
        IpAddr::V6(v6) => match v6.to_ipv4_mapped() {
            Some(v4) => is_public(IpAddr::V4(v4)),
            None => {
                let local = v6.is_loopback() || v6.is_unspecified() || v6.is_unicast_link_local();
                !(local || v6.is_multicast())
            }
        },
    }
}

/// A URL as its user wrote it.
struct Named {
    url: Url,
    /// A name, or an address in its one canonical form, without brackets.
    host: String,
    /// The port, and whether the URL names it.
    port: u16,
    port_is_named: bool,
}

impl Named {
    /// `None` for anything that two readers could understand differently.
    fn parse(uri: &str) -> Option<Self> {
        let odd = |c: char| c.is_whitespace() || c.is_control() || c == '\\';
        if uri.len() > URL_BYTES_MAX || uri.contains(odd) {
            return None;
        }
        let url = Url::parse(uri).ok()?;
        let (_, behind) = uri.split_once("://")?;
        let authority = behind.split(['/', '?', '#']).next()?;
        if authority.contains('@') {
            return None;
        }
        let (written, port) = match authority.strip_prefix('[') {
            Some(inner) => {
                let (host, behind) = inner.split_once(']')?;
                (host, behind.strip_prefix(':'))
            }
            None => match authority.split_once(':') {
                Some((host, port)) => (host, Some(port)),
                None => (authority, None),
            },
        };
        let port_is_named = port.is_some_and(|port| !port.is_empty());
        let host = canonical(url.host_str()?, written)?;
        let port = url.port_or_known_default()?;
        Some(Named {
            url,
            host,
            port,
            port_is_named,
        })
    }

    fn pass(&self, filter: &ImportFilter) -> Result<(), &'static str> {
        let scheme = self.url.scheme().to_owned();
        if !matches!(self.url.scheme(), "http" | "https")
            || !admits(&filter.allowed_schemes, &filter.disallowed_schemes, &scheme)
        {
            return Err("the scheme is not allowed");
        }
        if !admits(&filter.allowed_hosts, &filter.disallowed_hosts, &self.host) {
            return Err("the host is not allowed");
        }
        let ports = (&filter.allowed_ports, &filter.disallowed_ports);
        if self.port_is_named && !admits(ports.0, ports.1, &self.port) {
            return Err("the port is not allowed");
        }
        Ok(())
    }
}

/// The host, unless it is an address in a disguise (`0x7f.1`, `2130706433`).
fn canonical(parsed: &str, written: &str) -> Option<String> {
    let bare = parsed.trim_start_matches('[').trim_end_matches(']');
    match bare.parse::<IpAddr>() {
        Ok(address) => (written.parse::<IpAddr>().ok()? == address).then(|| address.to_string()),
        Err(_) => Some(bare.to_owned()).filter(|host| !host.is_empty()),
    }
}

/// Of the two lists only the first counts where it is not empty.
fn admits<T: PartialEq>(allowed: &[T], disallowed: &[T], item: &T) -> bool {
    if allowed.is_empty() {
        !disallowed.contains(item)
    } else {
        allowed.contains(item)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn verdict(filter: &ImportFilter, uri: &str) -> Result<(), String> {
        let checked = check(filter, uri).await;
        checked.map_err(|error| error.to_string())
    }

    #[tokio::test]
    async fn the_usual_ways_around_a_filter_are_closed() {
        let filter = ImportFilter::default();
        for uri in [
            "http://127.0.0.1/",
            "http://127.1/",
            "http://0x7f000001/",
            "http://2130706433/",
            "http://017700000001/",
            "http://3232235521/",
            "http://0.0.0.0/",
            "http://localhost/",
            "http://[::1]/",
            "http://[::]/",
            "http://[::ffff:127.0.0.1]/",
            "http://169.254.169.254/latest/meta-data",
            "http://[fe80::1]/",
            "http://user@192.0.2.1/",
            "http://192.0.2.1:22/",
            "http://192.0.2.1\\@127.0.0.1/",
            "http://192.0.2.1 /",
            "ftp://192.0.2.1/",
            "file:///etc/passwd",
            "gopher://192.0.2.1/",
            "http:///",
            "",
        ] {
            assert!(verdict(&filter, uri).await.is_err(), "{uri}");
        }
        for uri in [
            "http://192.0.2.1/",
            "https://192.0.2.1:443/a?b#c",
            "http://10.0.0.1/",
            "http://[2001:db8::1]/",
        ] {
            assert_eq!(verdict(&filter, uri).await, Ok(()), "{uri}");
        }
    }

    #[tokio::test]
    async fn lists_decide() {
        let hosts = |hosts: &[&str]| hosts.iter().map(|host| (*host).to_owned()).collect();
        let trusting = ImportFilter {
            allowed_hosts: hosts(&["127.0.0.1"]),
            disallowed_hosts: hosts(&["127.0.0.1"]),
            allowed_ports: Vec::new(),
            disallowed_ports: vec![22],
            ..ImportFilter::default()
        };
        assert_eq!(verdict(&trusting, "http://127.0.0.1:8080/").await, Ok(()));
        assert!(verdict(&trusting, "http://127.0.0.1:22/").await.is_err());
        assert!(verdict(&trusting, "http://192.0.2.1/").await.is_err());
        let wary = ImportFilter {
            allowed_schemes: Vec::new(),
            disallowed_schemes: hosts(&["http"]),
            disallowed_hosts: hosts(&["192.0.2.1"]),
            ..ImportFilter::default()
        };
        assert!(verdict(&wary, "http://192.0.2.2/").await.is_err());
        assert!(verdict(&wary, "https://192.0.2.1/").await.is_err());
        assert_eq!(verdict(&wary, "https://192.0.2.2/").await, Ok(()));
    }
}
