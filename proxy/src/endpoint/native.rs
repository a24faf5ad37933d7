//! HTTP/2 connections to a peer: TLS with exactly the expected identity and protocol, the preface, the peer's SETTINGS. Native ones
//! (ALPN `weft-h2`) carry h2 and gRPC calls as they are; those of `hbone` carry CONNECT streams.
//!
//! The serving side is `codec::h2::serve`: which port is meant is in the server name, which `inbound` looks up.

use super::connect::{Dialer, TunnelTo};
use super::term::Term;
use super::tls_io;
use crate::codec::h2::{self, Connection};
use crate::error::{Kind, ProxyError};
use crate::identity;
use crate::telemetry::Direction;
use rustls_pki_types::ServerName;

/// Application protocols, as TLS offers them.
pub(super) type Alpn = &'static [&'static [u8]];

/// HBONE.
pub(super) const HBONE: Alpn = &[weft_certs::tls::ALPN_HBONE];
/// Native HTTP/2.
pub(super) const NATIVE: Alpn = &[weft_certs::tls::ALPN_NATIVE];

/// Connects to the sidecar at `to`. Whoever calls bounds the time.
pub(super) async fn connect(dialer: &Dialer, to: &TunnelTo, alpn: Alpn) -> Result<Connection, ProxyError> {
    let tls = dialer.tls.as_ref().ok_or_else(|| {
        ProxyError::because(Kind::TlsFailed, "the endpoint has a sidecar, and this one has no certificate to show it")
    })?;
    let config = tls
        .to_peer(&to.identity, alpn)
        .map_err(|error| ProxyError::caused(Kind::Internal, error).detail("TLS configuration"))?;
    let name = match alpn {
        NATIVE => ServerName::try_from(to.server_name.to_string())
            .map_err(|_| ProxyError::because(Kind::Internal, format!("{:?} is no server name", to.server_name)))?,
        _ => weft_certs::tls::unnamed(),
    };
    let tcp = dialer.tcp(to.addr).await?;
    let handshakes = dialer.settings.handshakes.as_ref();
    let shaken = async {
        let own = tls.identity().current().svid.not_after();
        let (io, handshake) = tls_io::connect(tcp, config, name).await?;
        let agreed = handshake.agreed;
        if handshake.alpn.as_deref() != alpn.first().copied() {
            let asked = String::from_utf8_lossy(alpn.first().copied().unwrap_or_default());
            return Err(ProxyError::because(Kind::TlsFailed, format!("the peer does not speak {asked}")));
        }
        let cut = handshakes.map(|handshakes| handshakes.expired(Direction::Outbound)).unwrap_or_default();
        let term = Term::new(Some(own), weft_certs::tls::expiry_of(&handshake.peer), dialer.settings.grace, cut);
        let (telemetry, addr) = (dialer.settings.telemetry.clone(), to.addr);
        let io = identity::mind(io, tls.identity(), &handshake.peer, move |error| {
            if let Some(telemetry) = &telemetry {
                telemetry.refuse(Direction::Outbound, error, &addr);
            }
        })?;
        // The peer's SETTINGS say that it has accepted our certificate.
        let connection = h2::connect(
            io,
            &dialer.settings.limits,
            true,
            term.map(|term| Box::new(term.dialled()) as _),
            &dialer.tasks,
        )
        .await?;
        Ok((connection, agreed))
    };
    match shaken.await {
        Ok((connection, agreed)) => {
            handshakes.inspect(|handshakes| handshakes.done(Direction::Outbound, agreed));
            Ok(connection)
        }
        Err(error) => {
            let error = explained(error, to);
            handshakes.inspect(|handshakes| handshakes.failed(Direction::Outbound, &error));
            Err(error)
        }
    }
}

/// Says with whom it failed, and what of it.
fn explained(error: ProxyError, to: &TunnelTo) -> ProxyError {
    if !matches!(error.kind, Kind::TlsFailed | Kind::CertificateRevoked) {
        return error;
    }
    let with = format!("TLS with {} at {}", to.identity.as_str(), to.addr);
    let error = tls_io::explained(error);
    match std::error::Error::source(&error) {
        Some(_) => error.detail(with),
        None => {
            let why = format!("{with}: {}", error.explanation());
            error.detail(why)
        }
    }
}
