//! Open connections whose peer must no longer be spoken with: its certificate was revoked, or its trust domain is trusted no more. They
//! are cut where they are, in both directions, by shutting the socket down: nothing is asked for each byte or call.

use crate::codec::{Hold, Io};
use crate::error::{Kind, ProxyError};
use rustix::net::{Shutdown, shutdown};
use std::os::fd::AsFd;
use std::sync::Arc;
use weft_certs::{CertificateDer, LiveIdentity, PeerFault, Watched};

/// Held by the connection that it minds.
struct Minded(#[expect(dead_code, reason = "held for its drop")] Watched);

impl Hold for Minded {}

/// Minds a TLS connection whose peer presented `chain`. When it is cut, `told` gets the reason: for the log and the metric.
///
/// # Errors
/// When the process has no descriptor left: a connection that could not be cut is not begun.
pub fn mind(
    io: Io,
    live: &Arc<LiveIdentity>,
    chain: &[CertificateDer<'_>],
    told: impl Fn(&ProxyError) + Send + 'static,
) -> Result<Io, ProxyError> {
    let Some(socket) = io.secured() else { return Ok(io) };
    // One of its own, that stays valid whoever closes first.
    let socket = socket.as_fd().try_clone_to_owned().map_err(|e| ProxyError::caused(Kind::Internal, e))?;
    let watched = live.watch(chain, move |id, fault| {
        let kind = kind(fault);
        told(&ProxyError::because(kind, format!("connection with {id} cut: {fault}")));
        // One that has ended already is as good as cut.
        let _ = shutdown(&socket, Shutdown::Both);
    });
    Ok(match watched {
        Some(watched) => io.holding(Minded(watched)),
        None => io,
    })
}

/// As which error a peer's fault counts.
pub(crate) fn kind(fault: &PeerFault) -> Kind {
    match fault {
        PeerFault::NoCertificate => Kind::PlaintextRefused,
        PeerFault::Revoked => Kind::CertificateRevoked,
        _ => Kind::TlsFailed,
    }
}

/// The kind of an error that a handshake ended with, where it says more than that TLS failed.
pub(crate) fn handshake_kind(error: &weft_certs::Error) -> Kind {
    match error {
        weft_certs::Error::PeerMisbehaved(fault) => kind(fault),
        error if error.is_revocation() => Kind::CertificateRevoked,
        _ => Kind::TlsFailed,
    }
}
