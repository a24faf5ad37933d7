//! TLS of both sides: mutual, 1.3 only, nothing resumed. Chains are verified against the given roots; names are not, since the mesh's
//! certificates carry a URI, which `--expect-identity` checks.

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, verify_server_cert_signed_by_trust_anchor};
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject};
use rustls::server::{ParsedCertificate, WebPkiClientVerifier};
use rustls::{ClientConfig, DigitallySignedStruct, Error, NamedGroup, RootCertStore, ServerConfig, SignatureScheme};
use std::path::Path;
use std::sync::Arc;

const VERSIONS: &[&rustls::SupportedProtocolVersion] = &[&rustls::version::TLS13];

/// What both sides read from files.
struct Files {
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    roots: Arc<RootCertStore>,
}

fn read(cert: &Path, key: &Path, roots: &Path) -> Result<Files, String> {
    let wrong = |path: &Path, e: &dyn std::fmt::Display| format!("{}: {e}", path.display());
    let certificates = |path: &Path| -> Result<Vec<CertificateDer<'static>>, String> {
        let read: Result<Vec<_>, _> = CertificateDer::pem_file_iter(path).map_err(|e| wrong(path, &e))?.collect();
        match read.map_err(|e| wrong(path, &e))? {
            none if none.is_empty() => Err(wrong(path, &"no certificate in it")),
            some => Ok(some),
        }
    };
    let mut store = RootCertStore::empty();
    for root in certificates(roots)? {
        store.add(root).map_err(|e| wrong(roots, &e))?;
    }
    let secret = PrivateKeyDer::from_pem_file(key).map_err(|e| wrong(key, &e))?;
    Ok(Files { chain: certificates(cert)?, key: secret, roots: Arc::new(store) })
}

fn provider(classic: bool) -> Arc<CryptoProvider> {
    let mut provider = aws_lc_rs::default_provider();
    if classic {
        provider.kx_groups.retain(|group| group.name() == NamedGroup::X25519);
    }
    Arc::new(provider)
}

/// The upstream's configuration: clients must be signed by `roots`.
///
/// # Errors
///
/// A line for people that names the file.
pub fn server(cert: &Path, key: &Path, roots: &Path) -> Result<Arc<ServerConfig>, String> {
    let (files, provider) = (read(cert, key, roots)?, provider(false));
    let clients = WebPkiClientVerifier::builder_with_provider(files.roots, provider.clone()).build();
    let builder = ServerConfig::builder_with_provider(provider).with_protocol_versions(VERSIONS);
    let mut config = builder
        .map_err(|e| e.to_string())?
        .with_client_cert_verifier(clients.map_err(|e| format!("{}: {e}", roots.display()))?)
        .with_single_cert(files.chain, files.key)
        .map_err(|e| format!("{}: {e}", cert.display()))?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec(), b"tcp".to_vec()];
    config.send_tls13_tickets = 0;
    Ok(Arc::new(config))
}

/// The client's configuration.
///
/// # Errors
///
/// A line for people that names the file.
pub fn client(
    cert: &Path,
    key: &Path,
    roots: &Path,
    alpn: &[String],
    classic: bool,
) -> Result<Arc<ClientConfig>, String> {
    let (files, provider) = (read(cert, key, roots)?, provider(classic));
    let verifier = ByRoots { roots: files.roots, provider: provider.clone() };
    let builder = ClientConfig::builder_with_provider(provider).with_protocol_versions(VERSIONS);
    let mut config = builder
        .map_err(|e| e.to_string())?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_client_auth_cert(files.chain, files.key)
        .map_err(|e| format!("{}: {e}", cert.display()))?;
    config.alpn_protocols = alpn.iter().map(|name| name.clone().into_bytes()).collect();
    config.resumption = Resumption::disabled();
    Ok(Arc::new(config))
}

/// The first URI name of a certificate.
pub fn identity(certificate: &CertificateDer<'_>) -> Option<String> {
    webpki::EndEntityCert::try_from(certificate).ok()?.valid_uri_names().next().map(str::to_owned)
}

/// Signed by the roots, whatever its name.
#[derive(Debug)]
struct ByRoots {
    roots: Arc<RootCertStore>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for ByRoots {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let certificate = ParsedCertificate::try_from(end_entity)?;
        let algorithms = self.provider.signature_verification_algorithms.all;
        verify_server_cert_signed_by_trust_anchor(&certificate, &self.roots, intermediates, now, algorithms)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::General("TLS 1.3 only".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, signature, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
