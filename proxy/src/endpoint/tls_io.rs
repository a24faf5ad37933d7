//! TLS over a socket: the handshakes of both sides. Which certificates are presented and believed is decided by `weft-certs`, never here.

use crate::codec::Io;
use crate::codec::tls::Wide;
use crate::error::{Kind, ProxyError, Side};
use rustls_pki_types::{CertificateDer, ServerName};
use std::io;
use std::sync::Arc;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};
use weft_certs::tls::Agreed;

/// What a handshake agreed on.
#[derive(Clone, Debug, Default)]
pub struct Handshake {
    /// The application protocol (`h2`, `weft-h2`, …).
    pub alpn: Option<Vec<u8>>,
    /// The server name that the client asked for; on the accepting side only.
    pub server_name: Option<String>,
    /// The peer's chain, leaf first; `weft_certs` reads the identity out of it.
    pub peer: Vec<CertificateDer<'static>>,
    /// Version and key exchange.
    pub agreed: Agreed,
}

impl Handshake {
    fn of(session: &rustls::CommonState, server_name: Option<&str>) -> Self {
        Self {
            alpn: session.alpn_protocol().map(<[u8]>::to_vec),
            server_name: server_name.map(str::to_owned),
            peer: session.peer_certificates().unwrap_or_default().to_vec(),
            agreed: Agreed::of(session),
        }
    }
}

/// Puts what TLS says into the mesh's words: who did what wrong.
#[must_use]
pub fn explained(error: ProxyError) -> ProxyError {
    let cause = std::error::Error::source(&error).and_then(|source| source.downcast_ref::<io::Error>());
    let Some(cause) = cause else { return error };
    let fault = weft_certs::Error::from_handshake(cause);
    ProxyError::caused(crate::identity::handshake_kind(&fault), fault).side(error.side)
}

/// Accepts TLS on a plain TCP connection (which may have bytes put back) before `deadline`.
pub async fn accept(
    io: Io,
    config: Arc<rustls::ServerConfig>,
    deadline: Instant,
) -> Result<(Io, Handshake), ProxyError> {
    let (tcp, prefix) =
        io.into_tcp().map_err(|_| ProxyError::because(Kind::Internal, "TLS is terminated on TCP connections only"))?;
    let accepting = tokio_rustls::TlsAcceptor::from(config).accept(Wide::new(tcp, &prefix));
    let tls = timeout_at(deadline, accepting)
        .await
        .map_err(|_| ProxyError::because(Kind::HeaderTimeout, "the TLS handshake took too long"))?
        .map_err(|error| ProxyError::caused(Kind::TlsFailed, error).side(Side::Downstream))?;
    let (_, session) = tls.get_ref();
    let handshake = Handshake::of(session, session.server_name());
    Ok((Io::from(tls), handshake))
}

/// Connects TLS over a fresh TCP connection. Whoever calls bounds the time.
pub async fn connect(
    tcp: TcpStream,
    config: Arc<rustls::ClientConfig>,
    name: ServerName<'static>,
) -> Result<(Io, Handshake), ProxyError> {
    let connecting = tokio_rustls::TlsConnector::from(config).connect(name, Wide::new(tcp, &[]));
    let tls = connecting.await.map_err(|error| ProxyError::caused(Kind::TlsFailed, error))?;
    let (_, session) = tls.get_ref();
    let handshake = Handshake::of(session, None);
    Ok((Io::from(tls), handshake))
}
