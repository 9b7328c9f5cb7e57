//! TLS for the export: a server certificate, and client certificates signed by one authority.
//!
//! The folder is laid out as for QEMU's `tls-creds-x509`: `server-cert.pem`, `server-key.pem`,
//! `ca-cert.pem`, and `ca-crl.pem` where certificates were revoked. TLS 1.2 and 1.3.

use std::fmt;
use std::io;
use std::path::Path;
use std::sync::Arc;

use rustls::RootCertStore;
use rustls::ServerConfig;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use sha2::{Digest, Sha256};
use tokio_rustls::TlsAcceptor;

use super::admission::PeerCertificate;
use super::certificate;
use super::listener::Stream;

/// The server's side of TLS.
#[derive(Clone)]
pub struct Tls(TlsAcceptor);

impl fmt::Debug for Tls {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Tls")
    }
}

impl Tls {
    /// Reads the folder. With `verify_peer`, a client without a good certificate is refused.
    ///
    /// Errors name the file.
    pub fn from_folder(folder: &Path, verify_peer: bool) -> io::Result<Tls> {
        let certificates = pem_items::<CertificateDer<'static>>(&folder.join("server-cert.pem"))?;
        let key_path = folder.join("server-key.pem");
        let key = PrivateKeyDer::from_pem_file(&key_path).map_err(|error| bad(&key_path, error))?;
        let provider = Arc::new(ring::default_provider());
        let builder = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(io::Error::other)?;
        let builder = if verify_peer {
            builder.with_client_cert_verifier(verifier(folder)?)
        } else {
            builder.with_no_client_auth()
        };
        let config = builder
            .with_single_cert(certificates, key)
            .map_err(|error| bad(&folder.join("server-cert.pem"), error))?;
        Ok(Tls(TlsAcceptor::from(Arc::new(config))))
    }

    /// The handshake, and what the client's certificate says.
    pub(super) async fn accept(
        &self,
        stream: Stream,
    ) -> io::Result<(Stream, Option<PeerCertificate>)> {
        let stream = self.0.accept(stream).await?;
        let certificates = stream.get_ref().1.peer_certificates();
        let certificate = certificates
            .and_then(<[_]>::first)
            .map(|certificate| PeerCertificate {
                common_name: certificate::common_name(certificate),
                fingerprint: Sha256::digest(certificate).into(),
            });
        Ok((Box::new(stream), certificate))
    }
}

fn verifier(folder: &Path) -> io::Result<Arc<dyn ClientCertVerifier>> {
    let path = folder.join("ca-cert.pem");
    let mut roots = RootCertStore::empty();
    for certificate in pem_items::<CertificateDer<'static>>(&path)? {
        roots.add(certificate).map_err(|error| bad(&path, error))?;
    }
    let provider = Arc::new(ring::default_provider());
    let mut builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
    let revoked = folder.join("ca-crl.pem");
    if revoked.exists() {
        builder = builder
            .with_crls(pem_items::<CertificateRevocationListDer<'static>>(
                &revoked,
            )?)
            .only_check_end_entity_revocation();
    }
    builder.build().map_err(|error| bad(&path, error))
}

/// All items of a kind in a PEM file, at least one.
fn pem_items<T: PemObject>(path: &Path) -> io::Result<Vec<T>> {
    let items = T::pem_file_iter(path)
        .and_then(Iterator::collect::<Result<Vec<T>, _>>)
        .map_err(|error| bad(path, error))?;
    if items.is_empty() {
        return Err(bad(path, "nothing of the kind in it"));
    }
    Ok(items)
}

fn bad(path: &Path, reason: impl fmt::Display) -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        format!("{}: {reason}", path.display()),
    )
}
