//! TLS through rustls, with a certificate from PEM files.

use crate::settings::TlsFiles;
use bitnet_runtime::{Error, Result};
use std::path::Path;
use std::sync::Arc;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};

/// # Errors
/// Files that are missing, hold nothing of the kind, or do not belong together.
pub fn acceptor(files: &TlsFiles) -> Result<TlsAcceptor> {
    let bad = |path: &Path, what: String| {
        Error::unsupported(path, what, "give a chain and its private key in PEM, as --tls-cert and --tls-key")
    };
    let certificate = |error| bad(&files.certificate, format!("no certificate can be read: {error}"));
    let chain = CertificateDer::pem_file_iter(&files.certificate).map_err(certificate)?;
    let chain = chain.collect::<Result<Vec<_>, _>>().map_err(certificate)?;
    if chain.is_empty() {
        return Err(bad(&files.certificate, "it holds no certificate".into()));
    }
    let key = PrivateKeyDer::from_pem_file(&files.key)
        .map_err(|error| bad(&files.key, format!("no private key can be read: {error}")))?;
    let builder = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| bad(&files.certificate, format!("TLS is not available: {error}")))?;
    let mut config = builder
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .map_err(|error| bad(&files.certificate, format!("certificate and key cannot be used: {error}")))?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}
