//! The resource API's TLS: ordinary names on the server, client certificates of the API's own authority, and no SVID on either side.
//! What a client may do is the API's business; here it only learns who it is.

use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use rustls_pki_types::CertificateDer;

use super::{client, protocols, provider, server};
use crate::ca::Credential;
use crate::error::Error;

/// The configuration of the API's server. A client without certificate is anonymous; one with a certificate of another authority, an
/// SVID for example, is refused.
pub fn api_server_config(
    credential: &Credential,
    client_root: &CertificateDer<'static>,
    alpn: &[&[u8]],
) -> Result<Arc<ServerConfig>, Error> {
    let clients = WebPkiClientVerifier::builder_with_provider(roots([client_root])?, provider())
        .allow_unauthenticated()
        .build()
        .map_err(|e| Error::configuration("client authority", e.to_string()))?;
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|e| Error::from_tls(&e))?
        .with_client_cert_verifier(clients)
        .with_single_cert(credential.chain().to_vec(), credential.key().private_der())
        .map_err(|e| Error::from_tls(&e))?;
    config.alpn_protocols = protocols(alpn);
    server::harden(&mut config);
    Ok(Arc::new(config))
}

/// The configuration of a server that asks nobody for a certificate, such as an admission webhook.
pub fn plain_server_config(credential: &Credential, alpn: &[&[u8]]) -> Result<Arc<ServerConfig>, Error> {
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|e| Error::from_tls(&e))?
        .with_no_client_auth()
        .with_single_cert(credential.chain().to_vec(), credential.key().private_der())
        .map_err(|e| Error::from_tls(&e))?;
    config.alpn_protocols = protocols(alpn);
    server::harden(&mut config);
    Ok(Arc::new(config))
}

/// The configuration of a client of the API: trusts its root and presents a certificate if there is one.
pub fn api_client_config<'a>(
    server_roots: impl IntoIterator<Item = &'a CertificateDer<'static>>,
    credential: Option<&Credential>,
    alpn: &[&[u8]],
) -> Result<Arc<ClientConfig>, Error> {
    let verifier = WebPkiServerVerifier::builder_with_provider(roots(server_roots)?, provider())
        .build()
        .map_err(|e| Error::configuration("server authority", e.to_string()))?;
    let builder = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|e| Error::from_tls(&e))?
        .with_webpki_verifier(verifier);
    let mut config = match credential {
        Some(credential) => builder
            .with_client_auth_cert(credential.chain().to_vec(), credential.key().private_der())
            .map_err(|e| Error::from_tls(&e))?,
        None => builder.with_no_client_auth(),
    };
    client::finish(&mut config, alpn);
    Ok(Arc::new(config))
}

fn roots<'a>(all: impl IntoIterator<Item = &'a CertificateDer<'static>>) -> Result<Arc<RootCertStore>, Error> {
    let mut store = RootCertStore::empty();
    for root in all {
        store.add(root.clone()).map_err(|e| Error::configuration("API authority", e.to_string()))?;
    }
    Ok(Arc::new(store))
}
