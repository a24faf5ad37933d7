//! What became of TLS handshakes with peers, and of connections that outlived the certificates they were made with.

use super::Direction;
use super::metrics::{Counter, Family, Registry};
use crate::error::{Kind, ProxyError};
use std::io;
use weft_certs::tls::Agreed;

/// `weft_tls_handshakes_total{direction,result,version,group}` and `weft_tls_expired_total{direction}`.
#[derive(Clone, Debug)]
pub struct Handshakes {
    ended: Family<Counter>,
    expired: Family<Counter>,
}

impl Handshakes {
    pub(super) fn new(registry: &Registry) -> Self {
        Self {
            ended: registry.counter(
                "weft_tls_handshakes_total",
                "TLS handshakes with peers, by what they agreed on or why they failed.",
                &["direction", "result", "version", "group"],
            ),
            expired: registry.counter(
                "weft_tls_expired_total",
                "Connections that were cut because they outlived a certificate that they were made with.",
                &["direction"],
            ),
        }
    }

    /// A handshake that both sides finished, as far as this one can tell.
    pub fn done(&self, direction: Direction, agreed: Agreed) {
        self.ended.with(&[direction.name(), "ok", agreed.version, agreed.group]).increment();
    }

    /// One that failed, here or at the peer.
    pub fn failed(&self, direction: Direction, error: &ProxyError) {
        self.ended.with(&[direction.name(), reason(error)]).increment();
    }

    /// Where connections are counted that are cut in the end.
    #[must_use]
    pub fn expired(&self, direction: Direction) -> Counter {
        self.expired.with(&[direction.name()])
    }
}

/// Why a handshake failed, in one word of few.
fn reason(error: &ProxyError) -> &'static str {
    let source = std::error::Error::source(error);
    if let Some(fault) = source.and_then(|source| source.downcast_ref::<weft_certs::Error>()) {
        return fault.reason();
    }
    if let Some(broken) = source.and_then(|source| source.downcast_ref::<io::Error>()) {
        return weft_certs::Error::from_handshake(broken).reason();
    }
    match error.kind {
        Kind::PlaintextRefused => "no_tls",
        Kind::HeaderTimeout | Kind::ConnectTimeout => "timeout",
        Kind::TlsFailed => "incompatible",
        _ => "broken",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_handshake_is_counted_by_one_word_for_its_cause() {
        let alert = rustls::Error::AlertReceived(rustls::AlertDescription::CertificateExpired);
        let of_peer = ProxyError::caused(Kind::TlsFailed, io::Error::other(alert));
        let of_ours =
            ProxyError::caused(Kind::TlsFailed, weft_certs::Error::from(weft_certs::PeerFault::NoCertificate));
        let silent = ProxyError::because(Kind::HeaderTimeout, "too slow");
        assert_eq!([&of_peer, &of_ours, &silent].map(reason), ["refused_by_peer", "no_certificate", "timeout"]);
    }
}
