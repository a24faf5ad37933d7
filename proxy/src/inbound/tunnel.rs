//! The mTLS listener: HBONE (ALPN `h2`: CONNECT streams that carry raw bytes) and native HTTP/2 (ALPN `weft-h2`), by verified identity.
//!
//! A peer that says anything else, or names a port that is not the workload's, gets an answer in its protocol, a log line and a metric.

use super::calls::Calls;
use super::{Caller, Inbound, Key};
use crate::codec::{self, Handler, Io, Known, Leave, Reply, RequestBody, RequestHead, ResponseHead, Version};
use crate::endpoint::hbone::SOURCE;
use crate::endpoint::term::Term;
use crate::endpoint::tls_io;
use crate::error::{Kind, ProxyError};
use crate::exchange::Peer;
use crate::listen::detect::{self, Detected, Protocol};
use crate::telemetry::Direction;
use bytes::BytesMut;
use http::{Method, StatusCode};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;
use weft_certs::tls::{ALPN_HBONE, ALPN_NATIVE, ClientAuth};
use weft_certs::{LiveIdentity, SpiffeId};

/// From accept to the end of the handshake.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// TLS of the listener: certificates demanded, both protocols offered, HBONE first.
pub(super) fn server_config(identity: &Arc<LiveIdentity>) -> Result<Arc<rustls::ServerConfig>, weft_certs::Error> {
    weft_certs::tls::server_config(identity, ClientAuth::Required, &[ALPN_HBONE, ALPN_NATIVE])
}

/// Serves one connection to its end.
pub(super) async fn serve(inbound: &Inbound, io: Io, caller: Caller) {
    let address = caller.address;
    let telemetry = &inbound.exchange.telemetry;
    let deadline = Instant::now() + HANDSHAKE;
    // Before the handshake, which may meet a newer one: then the connection leaves early.
    let own = inbound.identity.as_ref().map(|live| live.current().svid.not_after());
    let (io, handshake) = match terminate(inbound, io, deadline).await {
        Ok(Some(terminated)) => terminated,
        Ok(None) => return,
        Err(error) => {
            telemetry.handshakes.failed(Direction::Inbound, &error);
            return telemetry.refuse(Direction::Inbound, &error, &address);
        }
    };
    telemetry.handshakes.done(Direction::Inbound, handshake.agreed);
    let (peer, cut) = (weft_certs::tls::expiry_of(&handshake.peer), telemetry.handshakes.expired(Direction::Inbound));
    let term = Term::new(own, peer, inbound.settings.grace, cut);
    let leaving = Leave { after_calls: inbound.leave.after_calls.child_token(), idle: inbound.leave.idle.clone() };
    let served = pin!(speak(inbound, io, handshake, caller, &leaving));
    match term {
        Some(term) => term.limit(served, || leaving.after_calls.cancel()).await,
        None => served.await,
    }
}

/// Serves a connection whose handshake is over, until it ends or has been told to leave.
async fn speak(inbound: &Inbound, io: Io, handshake: tls_io::Handshake, caller: Caller, leaving: &Leave) {
    let address = caller.address;
    let Some(identity) = weft_certs::tls::peer_identity_of(&handshake.peer) else {
        let error = ProxyError::because(Kind::PlaintextRefused, "peer presented no certificate with a SPIFFE id");
        return inbound.refuse(io, &error, &address);
    };
    let io = match inbound.mind(io, &handshake.peer, address) {
        Ok(io) => io,
        Err(error) => return inbound.exchange.telemetry.refuse(Direction::Inbound, &error, &address),
    };
    match handshake.alpn.as_deref() {
        Some(alpn) if alpn == ALPN_HBONE => {
            let server_name = handshake.server_name.map(lower);
            let hbone = Hbone { inbound, identity, caller, server_name, leaving };
            if let Err(error) = codec::h2::serve(io, &inbound.settings.limits, &leaving.after_calls, &hbone).await {
                tracing::debug!(peer = %address, "tunnel ended: {error}");
            }
        }
        Some(alpn) if alpn == ALPN_NATIVE => {
            native(inbound, io, handshake.server_name, (&identity, caller), leaving).await;
        }
        _ => {
            let error = ProxyError::because(Kind::BadRequest, "peer offers neither h2 nor weft-h2")
                .detail(format!("{identity} speaks neither HBONE (h2) nor native HTTP/2 (weft-h2)"));
            inbound.refuse(io, &error, &address);
        }
    }
}

/// TLS, or the reason why not. `None`: a connection that closed without a byte, as probes of load balancers do.
async fn terminate(
    inbound: &Inbound,
    mut io: Io,
    deadline: Instant,
) -> Result<Option<(Io, tls_io::Handshake)>, ProxyError> {
    let Some(tls) = &inbound.tls else {
        return Err(ProxyError::because(Kind::PlaintextRefused, "this workload has no identity to accept mTLS with"));
    };
    let mut buffer = BytesMut::new();
    match detect::detect(&mut io, &mut buffer, HANDSHAKE).await {
        Ok(Detected::Is(Protocol::Tls)) => {}
        Ok(Detected::Closed) | Err(_) => return Ok(None),
        Ok(Detected::Silent) => {
            return Err(ProxyError::because(Kind::HeaderTimeout, "peer did not begin the TLS handshake in time"));
        }
        Ok(Detected::Is(_)) => {
            let why = "peer presented no certificate; this listener takes mutual TLS only, and it speaks plaintext";
            io.abort();
            return Err(ProxyError::because(Kind::PlaintextRefused, why));
        }
    }
    let accepted = tls_io::accept(io.with_prefix(buffer.freeze()), Arc::clone(tls), deadline).await;
    accepted.map(Some).map_err(tls_io::explained)
}

/// Who calls, for metrics: what the peer's sidecar says, as long as it stays in the namespace of its identity; else its service account.
fn name(identity: &SpiffeId, said: Option<&str>) -> Arc<str> {
    let Some(namespace) = identity.namespace() else { return identity.as_str().into() };
    if let Some(said) = said
        && weft_policy::config::is_namespaced_name(said)
        && said.split_once('/').is_some_and(|(ns, _)| ns == namespace)
    {
        return said.into();
    }
    format!("{namespace}/{}", identity.service_account().unwrap_or_default()).into()
}

/// The peer of a call that names its source itself, as native HTTP/2 does in each request.
pub(super) fn source(head: &RequestHead, peer: &Peer) -> Option<Peer> {
    let said = head.headers.known(Known::WeftSource)?.to_str().ok()?;
    let identity = peer.identity.as_ref()?;
    let source = if *said == *peer.source {
        return None;
    } else {
        name(&SpiffeId::new(identity).ok()?, Some(said))
    };
    Some(Peer { source, ..peer.clone() })
}

fn lower(server_name: String) -> Arc<str> {
    server_name.to_ascii_lowercase().into()
}

async fn native(
    inbound: &Inbound,
    io: Io,
    sni: Option<String>,
    (identity, Caller { address, origin }): (&SpiffeId, Caller),
    leaving: &Leave,
) {
    let server_name = sni.map(lower);
    let key = Key::ServerName(server_name.as_deref().unwrap_or_default().into());
    let peer = Peer {
        identity: Some(identity.as_str().into()),
        source: name(identity, None),
        address: Some(address.ip()),
        server_name,
        origin,
    };
    let admitted = inbound.port(&key).and_then(|port| inbound.connect(&port, &peer, false));
    if let Err(error) = admitted {
        return inbound.refuse(io, &error, &address);
    }
    let calls = Calls::new(inbound, &key, &peer);
    let served = pin!(inbound.http(io, Version::Http2, leaving, &calls));
    if let Some(error) = inbound.while_admitted(&key, &peer, served).await {
        inbound.exchange.telemetry.refuse(Direction::Inbound, &error, &address);
    }
}

/// CONNECT streams of one HBONE connection.
struct Hbone<'i> {
    inbound: &'i Inbound,
    identity: SpiffeId,
    caller: Caller,
    server_name: Option<Arc<str>>,
    /// Cancelled when the connection is to end with what is open on it.
    leaving: &'i Leave,
}

impl Handler for Hbone<'_> {
    async fn call<'c>(&'c self, head: RequestHead, body: RequestBody<'c>, mut reply: Reply<'c>) {
        let peer = Peer {
            identity: Some(self.identity.as_str().into()),
            source: name(&self.identity, head.headers.text(&SOURCE)),
            address: Some(self.caller.address.ip()),
            server_name: self.server_name.clone(),
            origin: self.caller.origin,
        };
        let (key, port) = match self.admit(&head, &peer) {
            Ok(admitted) => admitted,
            Err(error) => {
                let exchange = &self.inbound.exchange;
                let away = exchange.turn_away(Direction::Inbound, Some(&peer), &error, &head, &mut reply);
                return Box::pin(away).await;
            }
        };
        if reply.send_head(ResponseHead::new(StatusCode::OK), false).await.is_err() {
            return;
        }
        if let Ok(io) = reply.into_io(body).await {
            self.inbound.serve(io, &key, &port, &peer, &self.caller.address, self.leaving).await;
        }
    }

    fn rejected(&self, error: &codec::Error) {
        self.inbound.exchange.telemetry.refuse(Direction::Inbound, &error.clone().into(), &self.caller.address);
    }
}

impl Hbone<'_> {
    /// The port that a CONNECT means, and whether the peer may open a stream to it at all.
    fn admit(
        &self,
        head: &RequestHead,
        peer: &Peer,
    ) -> Result<(Key, Arc<weft_policy::config::InboundPort>), ProxyError> {
        if head.method != Method::CONNECT || head.protocol.is_some() {
            return Err(ProxyError::because(Kind::BadRequest, "an HBONE connection carries CONNECT streams only"));
        }
        let Some(authority) = head.authority.as_deref().filter(|text| !text.is_empty()) else {
            return Err(ProxyError::because(Kind::UnknownPort, "the CONNECT names no authority"));
        };
        let key = Key::Authority(authority.to_ascii_lowercase().into());
        let port = self.inbound.port(&key)?;
        let opaque = port.protocol == weft_policy::config::Protocol::Tcp;
        self.inbound.connect(&port, peer, opaque)?;
        Ok((key, port))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_may_name_its_service_within_its_own_namespace_only() {
        let identity = SpiffeId::new("spiffe://weft.local/ns/shop/sa/storefront").unwrap();
        assert_eq!(&*name(&identity, Some("shop/web")), "shop/web");
        assert_eq!(&*name(&identity, Some("bank/payments")), "shop/storefront");
        assert_eq!(&*name(&identity, Some("shop/<script>")), "shop/storefront");
        assert_eq!(&*name(&identity, None), "shop/storefront");
    }
}
