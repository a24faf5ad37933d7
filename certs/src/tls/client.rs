//! Client configurations: to a peer that discovery named, to the control plane by bundle, and to the control plane by the root's
//! fingerprint before there is any bundle. SNI is only a key for the peer; who it must be is said here.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{ResolvesClientCert, Resumption};
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, DigitallySignedStruct, Error as TlsError, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

use super::verify::{self, Side};
use super::{protocols, provider};
use crate::bundle::{TrustBundle, TrustBundles};
use crate::error::Error;
use crate::fingerprint::Fingerprint;
use crate::identity::LiveIdentity;
use crate::spiffe::{SpiffeId, TrustDomain};

/// Application protocols as a caller names them: a constant slice.
type Alpn = &'static [&'static [u8]];

/// The configurations for one peer: one for each list of protocols. Few, so a scan.
type Made = Vec<(Alpn, Arc<ClientConfig>)>;

/// Beyond this many expected ids, configurations that no connection holds are forgotten.
const MAX_CACHED: usize = 4096;

/// The client configurations of one identity, one for each expected peer and list of protocols; made once and shared by every
/// connection. Renewals and rotations reach them through the live identity.
pub struct ClientConfigs {
    live: Arc<LiveIdentity>,
    made: RwLock<HashMap<SpiffeId, Made>>,
}

impl ClientConfigs {
    /// None made yet.
    pub fn new(live: Arc<LiveIdentity>) -> Self {
        Self { live, made: RwLock::default() }
    }

    /// The identity that these configurations present.
    pub fn identity(&self) -> &Arc<LiveIdentity> {
        &self.live
    }

    /// The configuration for connections to exactly this peer. Cheap after the first time.
    pub fn to_peer(&self, expected: &SpiffeId, alpn: Alpn) -> Result<Arc<ClientConfig>, Error> {
        let made = self.made.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(found) = made.get(expected).and_then(|all| find(all, alpn)) {
            return Ok(found);
        }
        drop(made);
        let config = Arc::new(self.make(expected, alpn)?);
        let mut made = self.made.write().unwrap_or_else(PoisonError::into_inner);
        if made.len() >= MAX_CACHED && !made.contains_key(expected) {
            made.retain(|_, all| all.iter().any(|(_, config)| Arc::strong_count(config) > 1));
        }
        let all = made.entry(expected.clone()).or_default();
        // Another thread may have been first; its configuration is as good.
        if let Some(found) = find(all, alpn) {
            return Ok(found);
        }
        all.push((alpn, config.clone()));
        Ok(config)
    }

    /// The configuration for connections to the control plane of the identity's own trust domain.
    pub fn to_control_plane(&self, alpn: Alpn) -> Result<Arc<ClientConfig>, Error> {
        self.to_peer(&SpiffeId::control_plane(self.live.id().trust_domain()), alpn)
    }

    fn make(&self, expected: &SpiffeId, alpn: Alpn) -> Result<ClientConfig, Error> {
        let verifier = Servers(Demand::Peer { live: self.live.clone(), expected: expected.clone() });
        let mut config = builder(verifier)?.with_client_cert_resolver(Arc::new(Presents(self.live.clone())));
        finish(&mut config, alpn);
        Ok(config)
    }
}

impl fmt::Debug for ClientConfigs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ClientConfigs({:?})", self.live)
    }
}

fn find(all: &[(Alpn, Arc<ClientConfig>)], alpn: Alpn) -> Option<Arc<ClientConfig>> {
    all.iter().find(|(protocols, _)| *protocols == alpn).map(|(_, config)| config.clone())
}

/// The configuration of a sidecar that has nothing yet but a join token: the root's fingerprint and the trust domain. It presents no
/// certificate, and accepts the control plane's own id alone, in a chain that ends with the pinned root.
pub fn bootstrap_client_config(
    root: Fingerprint,
    domain: &TrustDomain,
    alpn: &[&[u8]],
) -> Result<Arc<ClientConfig>, Error> {
    let verifier = Servers(Demand::ControlPlane { root, domain: domain.clone() });
    let mut config = builder(verifier)?.with_no_client_auth();
    finish(&mut config, alpn);
    Ok(Arc::new(config))
}

/// The same for a sidecar that was given the mesh's roots themselves.
///
/// # Errors
/// rustls'.
pub fn rooted_client_config(roots: TrustBundle, alpn: &[&[u8]]) -> Result<Arc<ClientConfig>, Error> {
    let expected = SpiffeId::control_plane(roots.trust_domain());
    let verifier = Servers(Demand::Rooted { bundles: TrustBundles::from(roots), expected });
    let mut config = builder(verifier)?.with_no_client_auth();
    finish(&mut config, alpn);
    Ok(Arc::new(config))
}

/// The root that a bootstrap connection was verified with, from the chain that the control plane presented.
pub fn bootstrap_root(chain: &[CertificateDer<'_>], root: &Fingerprint) -> Option<CertificateDer<'static>> {
    verify::pinned_certificates(root, chain.get(1..)?).next().map(|der| der.clone().into_owned())
}

fn builder(verifier: Servers) -> Result<rustls::ConfigBuilder<ClientConfig, rustls::client::WantsClientCert>, Error> {
    Ok(ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|e| Error::from_tls(&e))?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier)))
}

pub(super) fn finish(config: &mut ClientConfig, alpn: &[&[u8]]) {
    config.alpn_protocols = protocols(alpn);
    config.resumption = Resumption::disabled();
    config.enable_early_data = false;
}

/// Presents the current certificate to whoever asks.
struct Presents(Arc<LiveIdentity>);

impl ResolvesClientCert for Presents {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(self.0.current().svid.certified().clone())
    }

    fn has_certs(&self) -> bool {
        true
    }
}

impl fmt::Debug for Presents {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Presents({:?})", self.0)
    }
}

#[derive(Debug)]
struct Servers(Demand);

#[derive(Debug)]
enum Demand {
    Peer { live: Arc<LiveIdentity>, expected: SpiffeId },
    ControlPlane { root: Fingerprint, domain: TrustDomain },
    Rooted { bundles: TrustBundles, expected: SpiffeId },
}

impl ServerCertVerifier for Servers {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        above: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, TlsError> {
        match &self.0 {
            Demand::Peer { live, expected } => {
                let presented = verify::peer(&live.current().bundles, leaf, above, now, Side::Server)?;
                verify::demand(expected, presented)?;
            }
            Demand::ControlPlane { root, domain } => verify::pinned(root, domain, leaf, above, now)?,
            Demand::Rooted { bundles, expected } => {
                verify::demand(expected, verify::peer(bundles, leaf, above, now, Side::Server)?)?;
            }
        }
        Ok(ServerCertVerified::assertion())
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
