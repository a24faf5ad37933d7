//! Calls to the application: the mTLS listener that peers' sidecars dial, and plaintext where a port's policy admits it.
//!
//! An authority (HBONE), a server name (native HTTP/2) or an original port is *only a key* into `Inbound.ports`: it finds the local address
//! and who may call, and what is in no list reaches nothing. Authorization is asked at connect, for each request, and again on open
//! connections when it changes. Every refusal is logged, counted, and told to the peer where its protocol has a way.

mod admit;
mod ports;
mod tunnel;

pub use ports::{Leases, Ports};

use crate::codec::{self, Handler, Io, Limits, Reply, RequestBody, RequestHead, Version};
use crate::endpoint::Cluster;
use crate::endpoint::connect::is_same_listener;
use crate::error::{Kind, ProxyError};
use crate::exchange::{Exchange, Peer, Plan};
use crate::listen::detect::{self, First, Protocol, Way};
use crate::listen::{self, Accepted};
use crate::telemetry::Direction;
use crate::telemetry::metrics::Counter;
use http::Method;
use parking_lot::Mutex;
use std::fmt::Display;
use std::future::{Future, pending, poll_fn};
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use weft_certs::LiveIdentity;
use weft_policy::authorize::{Decision, Verdict};
use weft_policy::config::{InboundPort, TlsMode};
use weft_policy::limit::adaptive::Outcome;
use weft_policy::route::{HeaderEdit, split_target};

/// What the inbound side is told at its start.
#[derive(Debug, Clone, Default)]
pub struct Settings {
    /// The sidecar's own listeners: never a target, whatever configuration says.
    pub own: Vec<SocketAddr>,
    /// Bounds on what peers may send.
    pub limits: Limits,
}

/// The inbound side of one worker.
pub struct Inbound {
    exchange: Arc<Exchange>,
    ports: Arc<Ports>,
    tls: Option<Arc<rustls::ServerConfig>>,
    settings: Settings,
    drain: CancellationToken,
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
        drain: CancellationToken,
    ) -> Result<Arc<Self>, weft_certs::Error> {
        let tls = identity.map(tunnel::server_config).transpose()?;
        Ok(Arc::new(Self { exchange, ports, tls, settings, drain }))
    }

    /// A connection to the mTLS listener.
    pub async fn tunnel(self: Arc<Self>, accepted: Accepted) {
        let Accepted { stream, peer, hold } = accepted;
        let _hold = hold;
        tunnel::serve(&self, stream.into(), peer).await;
    }

    /// A plaintext connection, redirected here on its way to a port of the workload.
    pub async fn plaintext(self: Arc<Self>, accepted: Accepted) {
        let Accepted { stream, peer, hold } = accepted;
        let _hold = hold;
        let number = listen::original_destination(&stream).map(|to| to.port()).or_else(|| self.only_port());
        let io = Io::from(stream);
        let key = Key::Port(number.unwrap_or_default());
        let port = match self.port(&key) {
            Ok(port) => port,
            Err(error) => return self.refuse(io, &error, &peer),
        };
        let anyone = Peer::default();
        if port.tls == TlsMode::Strict {
            return self.insist(io, &port, peer).await;
        }
        self.serve(io, &key, &port, &anyone, &peer).await;
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
                self.http(io, version, &refusal).await;
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
    async fn serve(&self, io: Io, key: &Key, port: &Arc<InboundPort>, peer: &Peer, address: &dyn PeerAddress) {
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
            let mut revoked = pin!(self.revoked(key, peer, false));
            let mut changed = Changed::new(self);
            let mut served = pin!(self.http(io, version, &calls));
            let revoked = poll_fn(|cx| {
                if let Poll::Ready(error) = changed.poll(revoked.as_mut(), cx) {
                    return Poll::Ready(Some(error));
                }
                served.as_mut().poll(cx).map(|()| None)
            });
            if let Some(error) = revoked.await {
                self.exchange.telemetry.refuse(Direction::Inbound, &error, &address.shown());
            }
        }
    }

    async fn opaque(&self, io: Io, key: &Key, port: &Arc<InboundPort>, peer: &Peer, address: &dyn PeerAddress) {
        if let Err(error) = self.connect(port, peer, true) {
            return self.refuse(io, &error, address);
        }
        self.count(port, peer, &connection(port, peer, true), &Counted::default());
        let made = self.ports.port(&self.exchange, port);
        match Box::pin(self.exchange.dial(&plan(&made.cluster, port, peer, None))).await {
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
        let plan = plan(&made.cluster, port, peer, None);
        let (io, protocol) = self.exchange.settle(io, &plan, self.revoked(key, peer, true)).await?;
        Some((io, if protocol == Protocol::Http2 { Version::Http2 } else { Version::Http11 }))
    }

    async fn http<H: Handler>(&self, io: Io, version: Version, handler: &H) {
        let served = match version {
            // Boxed: it needs more room than a connection of the other kinds.
            Version::Http2 => Box::pin(codec::h2::serve(io, &self.settings.limits, &self.drain, handler)).await,
            Version::Http10 | Version::Http11 => {
                codec::h1::serve(io, &self.settings.limits, &self.drain, handler).await
            }
        };
        if let Err(error) = served {
            tracing::debug!("inbound connection ended: {error}");
        }
    }

    /// Authorization before the first byte: of an opaque connection for good, of an HTTP one only if every request would be denied. What
    /// is admitted is counted when it is used: an opaque connection when it is dialled, calls each.
    fn connect(&self, port: &Arc<InboundPort>, peer: &Peer, opaque: bool) -> Result<(), ProxyError> {
        let decision = connection(port, peer, opaque);
        if !decision.is_allowed() {
            self.count(port, peer, &decision, &Counted::default());
        }
        verdict(&decision, peer)
    }

    fn count(&self, port: &Arc<InboundPort>, peer: &Peer, decision: &Decision<'_>, counted: &Counted) {
        let authz = &self.exchange.telemetry.authz;
        let (policy, name) = match decision.verdict {
            Verdict::Unrestricted => ("", ""),
            Verdict::Allowed(cause) => (cause.policy, "allow"),
            Verdict::Denied(cause) => (cause.policy, "deny"),
            Verdict::NotAllowed { policy } => (policy, "deny"),
        };
        if !name.is_empty() {
            counted.increment(port, policy, name, || authz.with(&[&port.service, &peer.source, policy, name]));
        }
        if let Some(cause) = decision.audit {
            authz.with(&[&port.service, &peer.source, cause.policy, "audit"]).increment();
        }
    }

    /// Ready once configuration no longer admits the peer to what `key` found: the port is gone, or its policies changed.
    async fn revoked(&self, key: &Key, peer: &Peer, opaque: bool) -> ProxyError {
        let mut changes = self.exchange.directory.inbound_changes();
        loop {
            let still = self.port(key).and_then(|port| {
                if port.tls == TlsMode::Strict && peer.identity.is_none() {
                    return Err(ProxyError::because(Kind::PlaintextRefused, "the port has become strict"));
                }
                verdict(&connection(&port, peer, opaque), peer)
            });
            if let Err(error) = still {
                return error;
            }
            if changes.changed().await.is_err() {
                return pending().await;
            }
        }
    }

    /// A call to a port that limits rates, or calls in flight by latency.
    async fn limited(
        &self,
        made: &ports::Port,
        port: &InboundPort,
        peer: &Peer,
        head: RequestHead,
        body: RequestBody<'_>,
        mut reply: Reply<'_>,
    ) {
        let now = || tokio::time::Instant::now().into_std();
        let exchange = &self.exchange;
        let admitted = match admit::admit(made, self.ports.leases(), peer, &head, now()) {
            Ok(admitted) => admitted,
            Err(refused) => {
                let plan = plan(&made.cluster, port, peer, None);
                return match refused {
                    admit::Refused::Limited(answer) => exchange.answer(&plan, *answer, &head, &mut reply).await,
                    admit::Refused::Shed(error) => exchange.fail(&plan, &error, &head, &mut reply).await,
                };
            }
        };
        let marks =
            admitted.standings.fields().map(|fields| HeaderEdit { set: fields.into(), ..HeaderEdit::default() });
        // A stream says nothing of how fast calls are answered.
        let timed = !head.upgrade && head.method != Method::CONNECT;
        let ended = exchange.call(plan(&made.cluster, port, peer, marks.as_ref()), head, body, reply).await;
        if let Some(place) = admitted.place.filter(|_| timed) {
            place.finish(if ended.overloaded() { Outcome::Dropped } else { Outcome::Answered }, now());
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
    marks: Option<&'p HeaderEdit>,
) -> Plan<'p> {
    Plan::Inbound { cluster, service: &port.service, protocol: port.protocol, peer, marks }
}

/// The decision on a connection, before anything is said on it.
fn connection<'p>(port: &'p InboundPort, peer: &Peer, opaque: bool) -> Decision<'p> {
    let (policies, identity) = (&port.authorization, peer.identity.as_deref());
    if opaque { policies.opaque(identity) } else { policies.connection(identity) }
}

/// The counter of a connection's last decision: calls of one peer are mostly decided by one rule.
#[derive(Default)]
struct Counted(Mutex<Option<Decided>>);

/// A port, the address of a policy's name in it, and what the policy decided; and where that is counted.
type Decided = (Arc<InboundPort>, usize, &'static str, Counter);

impl Counted {
    fn increment(&self, port: &Arc<InboundPort>, policy: &str, name: &'static str, resolve: impl FnOnce() -> Counter) {
        // Policies live in the port, which is kept: an equal address is an equal name.
        let policy = policy.as_ptr().addr();
        let mut last = self.0.lock();
        if let Some((known, of, as_name, counter)) = &*last
            && Arc::ptr_eq(known, port)
            && (*of, *as_name) == (policy, name)
        {
            return counter.increment();
        }
        let counter = resolve();
        counter.increment();
        *last = Some((Arc::clone(port), policy, name, counter));
    }
}

fn verdict(decision: &Decision<'_>, peer: &Peer) -> Result<(), ProxyError> {
    let who = peer.identity.as_deref().unwrap_or("a peer without a certificate");
    let why = match decision.verdict {
        Verdict::Unrestricted | Verdict::Allowed(_) => return Ok(()),
        Verdict::Denied(cause) if cause.rule.is_empty() => {
            format!("AuthorizationPolicy {} denies {who} (rule {})", cause.policy, cause.index)
        }
        Verdict::Denied(cause) => format!("AuthorizationPolicy {} denies {who} (rule {})", cause.policy, cause.rule),
        Verdict::NotAllowed { policy } => format!("no rule of AuthorizationPolicy {policy} allows {who}"),
    };
    Err(ProxyError::because(Kind::Denied, why))
}

/// Polls what waits for a change of configuration only when there was one: a connection is polled for every piece of its calls, and
/// configuration hardly ever changes.
struct Changed {
    changes: watch::Receiver<u64>,
    /// Who is woken by a change.
    waker: Option<Waker>,
}

impl Changed {
    fn new(inbound: &Inbound) -> Self {
        Self { changes: inbound.exchange.directory.inbound_changes(), waker: None }
    }

    fn poll<F: Future>(&mut self, future: Pin<&mut F>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let waits = self.waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker()));
        if waits && self.changes.has_changed().is_ok_and(|changed| !changed) {
            return Poll::Pending;
        }
        // Before the poll: a change that comes during it is looked at once more.
        self.changes.mark_unchanged();
        self.waker = Some(cx.waker().clone());
        future.poll(cx)
    }
}

/// The calls of one inbound connection.
struct Calls<'i> {
    inbound: &'i Inbound,
    key: &'i Key,
    peer: &'i Peer,
    counted: Counted,
    /// What the key found last.
    found: Mutex<Option<Found>>,
}

/// A port, what calls to it go through, and the configuration that they stand in.
struct Found {
    configuration: Arc<weft_policy::config::Inbound>,
    port: Arc<InboundPort>,
    made: Arc<ports::Port>,
}

impl<'i> Calls<'i> {
    fn new(inbound: &'i Inbound, key: &'i Key, peer: &'i Peer) -> Self {
        Self { inbound, key, peer, counted: Counted::default(), found: Mutex::new(None) }
    }

    /// What the key finds now: looked up again only when configuration is another.
    fn find(&self) -> Result<(Arc<InboundPort>, Arc<ports::Port>), ProxyError> {
        let exchange = &self.inbound.exchange;
        let now = exchange.directory.snapshot();
        let mut found = self.found.lock();
        if let (Some(found), Some(now)) = (&*found, &now.inbound)
            && Arc::ptr_eq(&found.configuration, now)
        {
            return Ok((Arc::clone(&found.port), Arc::clone(&found.made)));
        }
        let port = self.inbound.port(self.key)?;
        let made = self.inbound.ports.port(exchange, &port);
        // Configuration may have changed once more in between: then what was found is looked up again.
        *found = now
            .inbound
            .as_ref()
            .filter(|now| now.ports.iter().any(|known| Arc::ptr_eq(known, &port)))
            .map(|now| Found { configuration: Arc::clone(now), port: Arc::clone(&port), made: Arc::clone(&made) });
        Ok((port, made))
    }
}

impl Handler for Calls<'_> {
    async fn call<'c>(&'c self, head: RequestHead, body: RequestBody<'c>, mut reply: Reply<'c>) {
        let (inbound, exchange) = (self.inbound, &self.inbound.exchange);
        let native;
        let peer = match tunnel::source(&head, self.peer) {
            Some(named) => {
                native = named;
                &native
            }
            None => self.peer,
        };
        let admitted = self.find().and_then(|(port, made)| {
            let (path, _) = split_target(&head.path);
            let decision = port.authorization.request(peer.identity.as_deref(), head.method.as_str(), path);
            inbound.count(&port, peer, &decision, &self.counted);
            verdict(&decision, peer).map(|()| (port, made))
        });
        match admitted {
            Ok((port, made)) => {
                if made.rates.is_none() && made.adaptive.is_none() {
                    exchange.call(plan(&made.cluster, &port, peer, None), head, body, reply).await;
                    return;
                }
                Box::pin(inbound.limited(&made, &port, peer, head, body, reply)).await;
            }
            Err(error) => {
                Box::pin(exchange.turn_away(Direction::Inbound, Some(peer), &error, &head, &mut reply)).await;
            }
        }
    }

    fn rejected(&self, error: &ProxyError) {
        self.inbound.exchange.telemetry.refuse(Direction::Inbound, error, &self.peer.source);
    }
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
