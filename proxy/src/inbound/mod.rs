//! Calls to the application: the mTLS listener that peers' sidecars dial, and plaintext where a port's policy admits it.
//!
//! An authority (HBONE), a server name (native HTTP/2) or an original port is *only a key* into `Inbound.ports`: it finds the local address
//! and who may call, and what is in no list reaches nothing. Authorization is asked at connect, for each request, and again on open
//! connections when it changes. Every refusal is logged, counted, and told to the peer where its protocol has a way.

mod admit;
mod authorize;
mod calls;
mod ports;
mod revoke;
mod token;
mod tunnel;

pub use ports::{Leases, Ports};

use crate::codec::{self, Handler, Io, Leave, Limits, Reply, RequestBody, RequestHead, Version};
use crate::endpoint::connect::is_same_listener;
use crate::endpoint::{Cluster, Origin};
use crate::error::{Kind, ProxyError};
use crate::exchange::{Exchange, Peer, Plan, Ruling};
use crate::identity;
use crate::listen::detect::{self, First, Protocol, Way};
use crate::listen::{self, Accepted};
use crate::telemetry::Direction;
use authorize::{Counted, connection, ruling};
use calls::Calls;
use std::fmt::Display;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use weft_certs::{CertificateDer, LiveIdentity};
use weft_policy::config::{InboundPort, TlsMode};
use weft_policy::route::HeaderEdit;

/// What the inbound side is told at its start.
#[derive(Debug, Clone, Default)]
pub struct Settings {
    /// The sidecar's own listeners: never a target, whatever configuration says.
    pub own: Vec<SocketAddr>,
    /// How plaintext comes.
    pub arrival: Arrival,
    /// Bounds on what peers may send.
    pub limits: Limits,
    /// What is open on a connection whose certificates have ended has this long to end.
    pub grace: Duration,
}

/// How plaintext comes to its listener, and so what says which port of the workload is meant.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Arrival {
    /// By itself: the only port is meant, where there is just one.
    #[default]
    Direct,
    /// Redirected, from another destination. What comes by itself is refused.
    Redirected,
    /// By TPROXY, to the listener on this port, with its own destination.
    Diverted(u16),
}

/// The inbound side of one worker.
pub struct Inbound {
    exchange: Arc<Exchange>,
    ports: Arc<Ports>,
    tls: Option<Arc<rustls::ServerConfig>>,
    identity: Option<Arc<LiveIdentity>>,
    settings: Settings,
    leave: Leave,
}

/// Who made a connection to the mTLS listener.
#[derive(Debug, Clone, Copy)]
struct Caller {
    address: SocketAddr,
    /// As whom the application is called for it.
    origin: Option<Origin>,
}

/// By what a port is found, again for every call: configuration may have changed since the connection was made.
#[derive(Debug, Clone)]
enum Key {
    Authority(Box<str>),
    ServerName(Box<str>),
    Port(u16),
}

impl Display for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Authority(text) => write!(f, "authority {text:?}"),
            Self::ServerName(text) => write!(f, "server name {text:?}"),
            Self::Port(port) => write!(f, "port {port}"),
        }
    }
}

impl Inbound {
    /// `ports` is shared by all workers. Without an identity there is no mTLS listener.
    ///
    /// # Errors
    /// When the TLS configuration cannot be made.
    pub fn new(
        exchange: Arc<Exchange>,
        ports: Arc<Ports>,
        identity: Option<&Arc<LiveIdentity>>,
        settings: Settings,
        leave: Leave,
    ) -> Result<Arc<Self>, weft_certs::Error> {
        let tls = identity.map(tunnel::server_config).transpose()?;
        Ok(Arc::new(Self { exchange, ports, tls, identity: identity.cloned(), settings, leave }))
    }

    /// Ends the connection when its peer must no longer be spoken with.
    fn mind(&self, io: Io, chain: &[CertificateDer<'_>], address: SocketAddr) -> Result<Io, ProxyError> {
        let Some(live) = &self.identity else { return Ok(io) };
        let telemetry = Arc::clone(&self.exchange.telemetry);
        identity::mind(io, live, chain, move |error| telemetry.refuse(Direction::Inbound, error, &address))
    }

    /// A connection to the mTLS listener.
    pub async fn tunnel(self: Arc<Self>, accepted: Accepted) {
        let Accepted { stream, peer, hold } = accepted;
        let _hold = hold;
        let origin = match self.settings.arrival {
            Arrival::Diverted(_) => stream.local_addr().ok().and_then(|own| self.origin(peer, own, false)),
            Arrival::Direct | Arrival::Redirected => None,
        };
        tunnel::serve(&self, stream.into(), Caller { address: peer, origin }).await;
    }

    /// A plaintext connection, redirected here on its way to a port of the workload.
    pub async fn plaintext(self: Arc<Self>, accepted: Accepted) {
        let Accepted { stream, peer, hold } = accepted;
        let _hold = hold;
        let asked = match self.settings.arrival {
            Arrival::Diverted(listener) => listen::diverted_destination(&stream, listener),
            Arrival::Direct | Arrival::Redirected => listen::original_destination(&stream),
        };
        let number = match self.settings.arrival {
            Arrival::Direct => asked.map(|to| to.port()).or_else(|| self.only_port()),
            Arrival::Redirected | Arrival::Diverted(_) => asked.map(|to| to.port()),
        };
        let io = Io::from(stream);
        let key = Key::Port(number.unwrap_or_default());
        let port = match self.port(&key) {
            Ok(port) => port,
            Err(error) => return self.refuse(io, &error, &peer),
        };
        let origin = asked.and_then(|to| self.origin(peer, to, true));
        let anyone = Peer { address: Some(peer.ip()), origin, ..Peer::default() };
        if port.tls == TlsMode::Strict {
            return self.insist(io, &port, peer).await;
        }
        self.serve(io, &key, &port, &anyone, &peer, &self.leave).await;
    }

    /// As whom the application is called for a peer: as the peer where packets are diverted, and so an answer to it comes back here.
    fn origin(&self, peer: SocketAddr, asked: SocketAddr, exactly: bool) -> Option<Origin> {
        let origin = Origin { address: peer.ip(), asked: asked.ip(), exactly };
        matches!(self.settings.arrival, Arrival::Diverted(_)).then_some(origin)
    }

    /// Without a redirect a port can only be meant when there is just one.
    fn only_port(&self) -> Option<u16> {
        let snapshot = self.exchange.directory.snapshot();
        match snapshot.inbound.as_ref()?.ports.as_slice() {
            [port] => Some(port.port),
            _ => None,
        }
    }

    /// Plaintext at a strict port: refused, and an HTTP client reads why.
    async fn insist(&self, io: Io, port: &InboundPort, peer: SocketAddr) {
        let source = if port.tls_source.is_empty() { "the default of the mesh" } else { &port.tls_source };
        let why = format!("peer presented no certificate; this port is strict (MeshTLS {source})");
        let error = ProxyError::because(Kind::PlaintextRefused, why);
        let first = detect::first(io, Way::Sniff, Direction::Inbound, &self.exchange.telemetry).await;
        match first {
            Some(First::Http(io, version)) => {
                self.exchange.telemetry.refuse(Direction::Inbound, &error, &peer);
                let refusal = Refusal { inbound: self, error: &error };
                self.http(io, version, &self.leave, &refusal).await;
            }
            Some(First::Opaque(io) | First::Silent(io)) => self.refuse(io, &error, &peer),
            None => self.exchange.telemetry.refuse(Direction::Inbound, &error, &peer),
        }
    }

    /// The port that a key finds now.
    fn port(&self, key: &Key) -> Result<Arc<InboundPort>, ProxyError> {
        let snapshot = self.exchange.directory.snapshot();
        let Some(inbound) = &snapshot.inbound else {
            return Err(ProxyError::because(Kind::UnknownPort, "nothing is known yet of what this workload serves"));
        };
        let found = match key {
            Key::Authority(text) => inbound.by_authority(text),
            Key::ServerName(text) => inbound.by_server_name(text),
            Key::Port(number) => inbound.by_port(*number),
        };
        let Some(port) = found else {
            return Err(ProxyError::because(Kind::UnknownPort, format!("{key} is none of this workload's ports")));
        };
        if self.settings.own.iter().any(|own| is_same_listener(*own, port.local)) {
            let why = format!("{key} leads to {}, a listener of the sidecar itself", port.local);
            return Err(ProxyError::because(Kind::ForbiddenDestination, why));
        }
        Ok(Arc::clone(port))
    }

    /// Bytes for a port of the application, from a peer that is known.
    async fn serve(
        &self,
        io: Io,
        key: &Key,
        port: &Arc<InboundPort>,
        peer: &Peer,
        address: &dyn PeerAddress,
        leave: &Leave,
    ) {
        let way = Way::of(port.protocol, &[port.port, port.local.port()]);
        let first = detect::first(io, way, Direction::Inbound, &self.exchange.telemetry).await;
        let served = match first {
            None => None,
            Some(First::Http(io, version)) => Some((io, version)),
            Some(First::Opaque(io)) => {
                self.opaque(io, key, port, peer, address).await;
                None
            }
            Some(First::Silent(io)) => self.silent(io, key, port, peer, address).await,
        };
        if let Some((io, version)) = served {
            if let Err(error) = self.connect(port, peer, false) {
                return self.refuse(io, &error, address);
            }
            let calls = Calls::new(self, key, peer);
            let served = pin!(self.http(io, version, leave, &calls));
            if let Some(error) = self.while_admitted(key, peer, served).await {
                self.exchange.telemetry.refuse(Direction::Inbound, &error, &address.shown());
            }
        }
    }

    async fn opaque(&self, io: Io, key: &Key, port: &Arc<InboundPort>, peer: &Peer, address: &dyn PeerAddress) {
        if let Err(error) = self.connect(port, peer, true) {
            return self.refuse(io, &error, address);
        }
        let decision = connection(port, peer, true);
        self.count(port, peer, &decision, &Counted::default());
        let made = self.ports.port(&self.exchange, port);
        match Box::pin(self.exchange.dial(&plan(&made.cluster, port, peer, ruling(port, &decision), None))).await {
            Ok(dialled) => self.exchange.carry(io, dialled, self.revoked(key, peer, true)).await,
            Err(_) => io.abort(),
        }
    }

    async fn silent(
        &self,
        io: Io,
        key: &Key,
        port: &Arc<InboundPort>,
        peer: &Peer,
        address: &dyn PeerAddress,
    ) -> Option<(Io, Version)> {
        if let Err(error) = self.connect(port, peer, true) {
            // Opaque bytes are not allowed, but calls may be: those speak first.
            return match detect::first(io, Way::Http, Direction::Inbound, &self.exchange.telemetry).await {
                Some(First::Http(io, version)) => Some((io, version)),
                Some(First::Opaque(io) | First::Silent(io)) => {
                    self.refuse(io, &error, address);
                    None
                }
                None => None,
            };
        }
        let made = self.ports.port(&self.exchange, port);
        let decision = connection(port, peer, true);
        let plan = plan(&made.cluster, port, peer, ruling(port, &decision), None);
        let (io, protocol) = self.exchange.settle(io, &plan, self.revoked(key, peer, true)).await?;
        Some((io, if protocol == Protocol::Http2 { Version::Http2 } else { Version::Http11 }))
    }

    /// Serves calls until the connection ends; told to leave, with those that are under way.
    async fn http<H: Handler>(&self, io: Io, version: Version, leave: &Leave, handler: &H) {
        let served = match version {
            // Boxed: it needs more room than a connection of the other kinds.
            Version::Http2 => Box::pin(codec::h2::serve(io, &self.settings.limits, &leave.after_calls, handler)).await,
            Version::Http10 | Version::Http11 => {
                codec::h1::serve(io, &self.settings.limits, &self.exchange.quiet, leave, handler).await
            }
        };
        if let Err(error) = served {
            tracing::debug!("inbound connection ended: {error}");
        }
    }

    fn refuse(&self, io: Io, error: &ProxyError, peer: &dyn PeerAddress) {
        self.exchange.telemetry.refuse(Direction::Inbound, error, &peer.shown());
        io.abort();
    }
}

/// What a refusal calls the peer in the log.
trait PeerAddress: Sync {
    fn shown(&self) -> String;
}

impl PeerAddress for SocketAddr {
    fn shown(&self) -> String {
        self.to_string()
    }
}

fn plan<'p>(
    cluster: &'p Arc<Cluster>,
    port: &'p InboundPort,
    peer: &'p Peer,
    ruling: Ruling<'p>,
    marks: Option<&'p HeaderEdit>,
) -> Plan<'p> {
    Plan::Inbound { cluster, service: &port.service, protocol: port.protocol, peer, ruling, marks }
}

/// Answers every call with the same refusal.
struct Refusal<'i> {
    inbound: &'i Inbound,
    error: &'i ProxyError,
}

impl Handler for Refusal<'_> {
    async fn call<'c>(&'c self, head: RequestHead, _body: RequestBody<'c>, mut reply: Reply<'c>) {
        self.inbound.exchange.turn_away(Direction::Inbound, None, self.error, &head, &mut reply).await;
    }
}
