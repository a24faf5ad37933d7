//! Server configurations: present the live identity, ask every client for its own, and verify it by the live bundles. One
//! configuration serves all connections for ever; renewals and rotations reach it through the live identity.

use std::fmt;
use std::sync::Arc;

use rustls::client::danger::HandshakeSignatureValid;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{DigitallySignedStruct, DistinguishedName, Error as TlsError, ServerConfig, SignatureScheme};
use rustls_pki_types::{CertificateDer, UnixTime};

use super::verify::{self, Side};
use super::{protocols, provider};
use crate::error::Error;
use crate::identity::LiveIdentity;

/// Whether a client must present a certificate. One that is presented is verified either way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClientAuth {
    /// No certificate, no connection: strict.
    Required,
    /// A client without certificate is anonymous: permissive, and the control plane for those that have none yet.
    Optional,
}

/// The configuration of a server with this identity, for these application protocols in order of preference.
pub fn server_config(live: &Arc<LiveIdentity>, auth: ClientAuth, alpn: &[&[u8]]) -> Result<Arc<ServerConfig>, Error> {
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|e| Error::from_tls(&e))?
        .with_client_cert_verifier(Arc::new(Clients { live: live.clone(), auth }))
        .with_cert_resolver(Arc::new(Presents(live.clone())));
    config.alpn_protocols = protocols(alpn);
    harden(&mut config);
    Ok(Arc::new(config))
}

/// No resumption, no early data, and our order of ciphers rather than the client's.
pub(super) fn harden(config: &mut ServerConfig) {
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config.max_early_data_size = 0;
    config.ignore_client_order = true;
}

/// Presents the current certificate, whatever name the client asks for.
struct Presents(Arc<LiveIdentity>);

impl ResolvesServerCert for Presents {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.current().svid.certified().clone())
    }
}

impl fmt::Debug for Presents {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Presents({:?})", self.0)
    }
}

#[derive(Debug)]
struct Clients {
    live: Arc<LiveIdentity>,
    auth: ClientAuth,
}

impl ClientCertVerifier for Clients {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        // Hints are for browsers with several certificates, and a borrow could not follow the live bundles.
        &[]
    }

    fn client_auth_mandatory(&self) -> bool {
        self.auth == ClientAuth::Required
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        above: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, TlsError> {
        verify::peer(&self.live.current().bundles, leaf, above, now, Side::Client)?;
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        Err(TlsError::PeerIncompatible(rustls::PeerIncompatible::Tls12NotOffered))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        rustls::crypto::verify_tls13_signature(message, leaf, signature, &provider().signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider().signature_verification_algorithms.supported_schemes()
    }
}
