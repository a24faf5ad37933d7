//! What a finished handshake agreed on, in names that metrics can carry: few, and none of them chosen by a peer.

use std::time::SystemTime;

use rustls::{CommonState, NamedGroup, ProtocolVersion};
use rustls_pki_types::CertificateDer;

use crate::leaf;

/// Version and key exchange of a handshake.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Agreed {
    /// `1.3`; empty before the end of a handshake.
    pub version: &'static str,
    /// Name of the group in the registry of IANA ("TLS Supported Groups"); `other` for one that is not offered here.
    pub group: &'static str,
}

impl Agreed {
    /// Of a connection whose handshake is over.
    #[must_use]
    pub fn of(connection: &CommonState) -> Self {
        let version = match connection.protocol_version() {
            Some(ProtocolVersion::TLSv1_3) => "1.3",
            Some(ProtocolVersion::TLSv1_2) => "1.2",
            Some(_) => "other",
            None => "",
        };
        let group = connection.negotiated_key_exchange_group().map_or("", |group| match group.name() {
            NamedGroup::X25519MLKEM768 => "X25519MLKEM768",
            NamedGroup::X25519 => "x25519",
            NamedGroup::secp256r1 => "secp256r1",
            NamedGroup::secp384r1 => "secp384r1",
            _ => "other",
        });
        Self { version, group }
    }
}

/// When the first certificate of a chain ends; `None`: none can be read.
#[must_use]
pub fn expiry_of(chain: &[CertificateDer<'_>]) -> Option<SystemTime> {
    let ends = chain.iter().filter_map(|der| leaf::parse(der).ok());
    ends.map(|certificate| leaf::system_time(certificate.validity().not_after)).min()
}
