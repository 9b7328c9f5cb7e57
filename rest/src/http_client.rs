//! Clients for the other services of the cloud: timeouts, and TLS by rustls.

use std::path::{Path, PathBuf};
use std::time::Duration;

use reqwest::{Certificate, ClientBuilder, Identity, RequestBuilder};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// A bundle of all public authorities has a quarter of this.
const BIGGEST_PEM_BYTES: u64 = 4 << 20;

/// By which the services of a cloud tell which of their requests belong together.
const REQUEST_ID: &str = "x-openstack-request-id";

tokio::task_local! {
    static REQUEST: String;
}

/// Does the work of a request: the calls that it makes are marked with the request's global id, or
/// its own.
pub async fn on_behalf_of<T>(request_id: String, work: impl Future<Output = T>) -> T {
    REQUEST.scope(request_id, work).await
}

/// The call, with the id of the request that it is made for, if it is made for one.
pub fn marked(call: RequestBuilder) -> RequestBuilder {
    match REQUEST.try_with(String::clone) {
        Ok(id) => call.header(REQUEST_ID, id),
        Err(_) => call,
    }
}

/// `cafile`, `certfile`, `keyfile` and `insecure` of keystoneauth's sections.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tls {
    /// Trust these authorities only; `None`: those of the system.
    pub cafile: Option<PathBuf>,
    /// What this side shows of itself, with its key in it or in `keyfile`.
    pub certfile: Option<PathBuf>,
    pub keyfile: Option<PathBuf>,
    /// Believe every certificate.
    pub insecure: bool,
}

/// Why there is no client.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    #[error("{path}: {reason}")]
    File { path: String, reason: String },
    #[error("{0}")]
    Client(#[from] reqwest::Error),
}

/// A client to be: no proxies, no redirects, ten seconds to connect. Reads the files of `tls`.
pub fn builder(tls: &Tls) -> Result<ClientBuilder, ClientError> {
    // Another part of the process may have chosen before; that is as good.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let mut builder = reqwest::Client::builder()
        .connect_timeout(CONNECT_TIMEOUT)
        // A token must not follow to wherever an answer points.
        .redirect(reqwest::redirect::Policy::none())
        .no_proxy()
        .tls_danger_accept_invalid_certs(tls.insecure);
    if let Some(path) = &tls.cafile {
        let pem = read(path)?;
        let authorities = Certificate::from_pem_bundle(&pem);
        let authorities = authorities.map_err(|error| failed(path, &error))?;
        if authorities.is_empty() {
            return Err(failed(path, &"holds no PEM certificate"));
        }
        builder = builder.tls_certs_only(authorities);
    }
    if let Some(path) = &tls.certfile {
        let mut pem = read(path)?;
        if let Some(key) = &tls.keyfile {
            pem.push(b'\n');
            pem.extend(read(key)?);
        }
        let identity = Identity::from_pem(&pem);
        // The text of the error could quote the key.
        let identity = identity.map_err(|_| failed(path, &"no PEM certificate and key"))?;
        builder = builder.identity(identity);
    }
    Ok(builder)
}

fn read(path: &Path) -> Result<Vec<u8>, ClientError> {
    let length = std::fs::metadata(path).map_err(|error| failed(path, &error))?;
    if length.len() > BIGGEST_PEM_BYTES {
        return Err(failed(path, &"is bigger than 4 MiB"));
    }
    std::fs::read(path).map_err(|error| failed(path, &error))
}

fn failed(path: &Path, reason: &dyn std::fmt::Display) -> ClientError {
    ClientError::File {
        path: path.display().to_string(),
        reason: reason.to_string(),
    }
}

/// The whole chain of causes, which reqwest's own text leaves out, without the address, which
/// may hold a secret.
pub fn chain_of(error: reqwest::Error) -> String {
    let error = error.without_url();
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(&error);
    while let Some(inner) = cause {
        text = format!("{text}: {inner}");
        cause = inner.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_that_do_not_fit_are_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ca.pem");
        let tls = Tls {
            cafile: Some(path.clone()),
            ..Tls::default()
        };
        assert!(builder(&tls).unwrap_err().to_string().contains("ca.pem"));
        std::fs::write(&path, "nothing\n").unwrap();
        let error = builder(&tls).unwrap_err().to_string();
        assert!(error.ends_with("holds no PEM certificate"), "{error}");
        let tls = Tls {
            certfile: Some(path),
            ..Tls::default()
        };
        assert!(builder(&tls).is_err());
        assert!(builder(&Tls::default()).unwrap().build().is_ok());
    }
}
