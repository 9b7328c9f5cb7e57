//! TLS to the brokers: whom we trust, and what we show of ourselves.
//!
//! The options are oslo.messaging's (`ssl_ca_file`, `ssl_cert_file`, `ssl_key_file`). The broker's
//! certificate is always checked, its host name too, also where there are several brokers.

use std::fmt::Display;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};
use tokio_rustls::TlsConnector;

/// Files in PEM. They are read at every connection, so that renewed ones count.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BrokerTls {
    /// Trust these authorities only; `None`: those of the system.
    pub ca_file: Option<PathBuf>,
    /// Shown to the broker.
    pub certificate_file: Option<PathBuf>,
    /// Its key; `None`: it is in the certificate's file.
    pub key_file: Option<PathBuf>,
}

impl BrokerTls {
    /// Whether the files can be used.
    ///
    /// Errors name the file, never what is in it.
    pub fn check(&self) -> io::Result<()> {
        self.client().map(|_| ())
    }

    /// The client's side of a handshake. Reads the files.
    pub(super) fn client(&self) -> io::Result<TlsConnector> {
        let provider = Arc::new(ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(io::Error::other)?
            .with_root_certificates(self.authorities()?);
        let Some(path) = &self.certificate_file else {
            return Ok(TlsConnector::from(Arc::new(builder.with_no_client_auth())));
        };
        let chain = certificates(path)?;
        let key_path = self.key_file.as_ref().unwrap_or(path);
        let key = PrivateKeyDer::from_pem_file(key_path).map_err(|error| bad(key_path, error))?;
        let config = builder.with_client_auth_cert(chain, key);
        let config = config.map_err(|error| bad(path, error))?;
        Ok(TlsConnector::from(Arc::new(config)))
    }

    fn authorities(&self) -> io::Result<RootCertStore> {
        let mut roots = RootCertStore::empty();
        let Some(path) = &self.ca_file else {
            let found = rustls_native_certs::load_native_certs();
            roots.add_parsable_certificates(found.certs);
            if roots.is_empty() {
                let reason = "the system trusts no authorities; name one";
                return Err(io::Error::new(io::ErrorKind::NotFound, reason));
            }
            return Ok(roots);
        };
        for certificate in certificates(path)? {
            roots.add(certificate).map_err(|error| bad(path, error))?;
        }
        Ok(roots)
    }
}

/// All certificates in the file, at least one.
fn certificates(path: &Path) -> io::Result<Vec<CertificateDer<'static>>> {
    let found = CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|error| bad(path, error))?;
    if found.is_empty() {
        return Err(bad(path, "holds no certificate"));
    }
    Ok(found)
}

fn bad(path: &Path, reason: impl Display) -> io::Error {
    let text = format!("{}: {reason}", path.display());
    io::Error::new(io::ErrorKind::InvalidData, text)
}
