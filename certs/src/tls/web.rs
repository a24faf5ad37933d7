//! A client of the public web: servers with ordinary certificates, verified by name against the roots of the system. For documents that the
//! mesh reads from others; no identity of the mesh is shown to them.

use std::path::Path;
use std::sync::Arc;

use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;

use super::provider;
use crate::error::Error;

/// Where systems keep their roots: Debian, Alpine and Arch; Fedora; older Red Hat; openSUSE; the BSDs and macOS.
const BUNDLES: [&str; 5] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// The roots that the system trusts: of the file that `SSL_CERT_FILE` names, else of the first bundle that there is.
///
/// # Errors
/// When no bundle is found or none of its certificates can be read.
pub fn system_roots() -> Result<Vec<CertificateDer<'static>>, Error> {
    let named = std::env::var_os("SSL_CERT_FILE").map(std::path::PathBuf::from);
    let found = named.or_else(|| BUNDLES.iter().map(Path::new).find(|path| path.exists()).map(Path::to_owned));
    let Some(path) = found else {
        return Err(Error::configuration("roots of the system:", "no bundle found; name one in SSL_CERT_FILE"));
    };
    let unreadable = |error: rustls_pki_types::pem::Error| {
        Error::configuration(format!("roots of the system in {}:", path.display()), error.to_string())
    };
    CertificateDer::pem_file_iter(&path).map_err(unreadable)?.collect::<Result<_, _>>().map_err(unreadable)
}

/// A configuration that trusts servers by those roots and their DNS names. TLS 1.3, HTTP/1.1.
///
/// # Errors
/// When none of the roots can be used.
pub fn web_client_config(roots: Vec<CertificateDer<'static>>) -> Result<Arc<ClientConfig>, Error> {
    let mut store = RootCertStore::empty();
    // Bundles have odd ones among them; the others count.
    let (used, _) = store.add_parsable_certificates(roots);
    if used == 0 {
        return Err(Error::configuration("roots of the system:", "none can be used"));
    }
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|error| Error::Crypto(error.to_string()))?
        .with_root_certificates(store)
        .with_no_client_auth();
    config.alpn_protocols = super::protocols(&[b"http/1.1"]);
    Ok(Arc::new(config))
}
