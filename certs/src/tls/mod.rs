//! TLS of the mesh, in one place: the cryptography, and the rustls configurations of servers and clients. TLS 1.3 only, no resumption,
//! no tickets, no early data: a resumed session skips the verification of certificates and would outlive a change of trust.
//! Sockets and protocols above TLS must not be here.

mod aead;
mod agreed;
mod api;
mod client;
mod server;
pub(crate) mod verify;
mod web;

pub use aead::{Aead, choose_aead};
pub use agreed::{Agreed, expiry_of};
pub use api::{api_client_config, api_server_config, plain_server_config};
pub use client::{ClientConfigs, bootstrap_client_config, bootstrap_root, rooted_client_config};
pub use server::{ClientAuth, server_config};
pub use web::{system_roots, web_client_config};

use std::sync::{Arc, OnceLock};

use rustls::CommonState;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls_pki_types::{CertificateDer, ServerName};

use crate::leaf;
use crate::spiffe::SpiffeId;

/// ALPN of HBONE: HTTP/2 whose CONNECT streams carry raw bytes.
pub const ALPN_HBONE: &[u8] = b"h2";
/// ALPN of native HTTP/2 between sidecars; SNI says for which port.
pub const ALPN_NATIVE: &[u8] = b"weft-h2";
/// ALPN of gRPC to the control plane.
pub const ALPN_GRPC: &[u8] = b"h2";

/// The cryptography of every TLS connection: aws-lc, but for AES-GCM where another is faster ([`choose_aead`]). X25519MLKEM768 preferred.
pub fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: OnceLock<Arc<CryptoProvider>> = OnceLock::new();
    PROVIDER
        .get_or_init(|| {
            use aws_lc_rs::kx_group as group;
            Arc::new(CryptoProvider {
                cipher_suites: choose_aead(None).suites(),
                kx_groups: vec![group::X25519MLKEM768, group::X25519, group::SECP256R1, group::SECP384R1],
                ..aws_lc_rs::default_provider()
            })
        })
        .clone()
}

/// The name to give to a connector when there is no SNI to send that means something: peers are verified by SPIFFE id, never by it.
pub fn unnamed() -> ServerName<'static> {
    // An address is not sent as SNI (RFC 6066 §3).
    ServerName::IpAddress(std::net::IpAddr::from([0, 0, 0, 0]).into())
}

/// Who the peer of a finished handshake is; `None` when it presented no certificate. The configurations of this module have verified it.
pub fn peer_identity(connection: &CommonState) -> Option<SpiffeId> {
    peer_identity_of(connection.peer_certificates()?)
}

/// The same from the verified chain, as gRPC servers hand it out.
pub fn peer_identity_of(chain: &[CertificateDer<'_>]) -> Option<SpiffeId> {
    leaf::inspect(chain.first()?).ok().map(|leaf| leaf.id)
}

fn protocols(alpn: &[&[u8]]) -> Vec<Vec<u8>> {
    alpn.iter().map(|name| name.to_vec()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustls::{CipherSuite, NamedGroup};

    #[test]
    fn the_hybrid_group_and_the_short_cipher_come_first() {
        let provider = provider();
        assert_eq!(provider.kx_groups[0].name(), NamedGroup::X25519MLKEM768);
        assert_eq!(provider.cipher_suites[0].suite(), CipherSuite::TLS13_AES_128_GCM_SHA256);
        assert!(provider.cipher_suites.iter().all(|s| s.tls13().is_some()));
    }
}
