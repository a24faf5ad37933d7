//! Calls of the application: which service is meant, and the way there.
//!
//! Three ways in, one way on: the explicit listener (`explicit`), named TCP outbounds, and connections that were redirected
//! (`transparent`). Each ends in a [`Destination`], a port of a service; from there on bytes are detected and handed to the exchange.
//! Nothing is reached from here that is not a service of the mesh, except what passes through transparently under the egress mode.

mod authority;
mod explicit;

pub use authority::{Authority, Host};

use crate::codec::{self, Handler, Io, Leave, Limits, Reply, RequestBody, RequestHead, Version};
use crate::discovery::{Alias, Resolution, Snapshot};
use crate::endpoint::external;
use crate::error::{Kind, ProxyError};
use crate::exchange::{Exchange, Plan};
use crate::intercept::StandIns;
use crate::listen::Accepted;
use crate::listen::detect::{self, First, Protocol, Way};
use crate::listen::hello::{self, Hello};
use crate::telemetry::Direction;
use bytes::BytesMut;
use std::future::pending;
use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::io::AsyncWriteExt;
use weft_policy::config::{Egress, Service};
use weft_policy::route;

/// How long the control plane may take to say what a name means.
const ASK: Duration = Duration::from_secs(5);
/// How long a client may take to hear why it is turned away.
const ALERT: Duration = Duration::from_secs(1);

/// User and password of the explicit listener.
#[derive(Clone)]
pub struct Credentials {
    /// What `Proxy-Authorization` must be, `Basic …`.
    expected: Vec<u8>,
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Credentials")
    }
}

impl Credentials {
    /// Basic credentials (RFC 7617).
    #[must_use]
    pub fn new(user: &str, password: &str) -> Self {
        use base64::Engine as _;
        let encoded = base64::engine::general_purpose::STANDARD.encode(format!("{user}:{password}"));
        Self { expected: encoded.into_bytes() }
    }

    /// Whether a header value holds them. Takes as long for a near miss as for a far one.
    fn admit(&self, value: &[u8]) -> bool {
        let Some((scheme, given)) = value.split_at_checked(6) else { return false };
        let given = given.trim_ascii();
        let mut difference = u8::from(!scheme.eq_ignore_ascii_case(b"basic "));
        difference |= u8::from(given.len() != self.expected.len());
        for (a, b) in given.iter().zip(&self.expected) {
            difference |= a ^ b;
        }
        difference == 0
    }
}

/// What the outbound side is told at its start.
#[derive(Debug, Clone, Default)]
pub struct Settings {
    /// Asked for on the explicit listener; `None`: nothing is asked for.
    pub credentials: Option<Credentials>,
    /// The sidecar's own listeners: never a destination.
    pub own: Vec<SocketAddr>,
    /// The workload's own address: what is sent there passes through.
    pub workload: Option<IpAddr>,
    /// Addresses that mean a host outside by its name.
    pub stand_ins: Arc<StandIns>,
    /// Bounds on what the application may send.
    pub limits: Limits,
}

/// The outbound side of one worker.
pub struct Outbound {
    exchange: Arc<Exchange>,
    settings: Settings,
    leave: Leave,
}

/// A port of a service, and the name by which it was addressed.
pub(crate) struct Destination {
    alias: Alias,
    service: Arc<Service>,
    port: u16,
}

impl Outbound {
    /// `leave`: how open connections are asked to end.
    #[must_use]
    pub fn new(exchange: Arc<Exchange>, settings: Settings, leave: Leave) -> Arc<Self> {
        Arc::new(Self { exchange, settings, leave })
    }

    /// A connection to the explicit listener.
    pub async fn explicit(self: Arc<Self>, accepted: Accepted) {
        let (peer, _hold) = (accepted.peer, accepted.hold);
        explicit::serve(&self, accepted.stream.into(), peer).await;
    }

    /// A connection to a named TCP outbound, whose bytes go to one port of one service.
    pub async fn named(self: Arc<Self>, accepted: Accepted, host: Arc<str>, port: u16) {
        let (io, _hold) = (Io::from(accepted.stream), accepted.hold);
        match self.destination(Alias::Host(host.to_ascii_lowercase()), port).await {
            Ok(destination) => self.stream(io, &destination).await,
            Err(error) => self.refuse(io, &error, &accepted.peer),
        }
    }

    /// A connection that was redirected here on its way to `destination`; `None`: nothing redirected it.
    pub async fn transparent(self: Arc<Self>, accepted: Accepted, destination: Option<SocketAddr>) {
        let Accepted { stream, peer, hold } = accepted;
        let (io, _hold) = (Io::from(stream), hold);
        let Some(to) = destination.map(canonical) else {
            let why = "it came to the redirect listener without having been redirected";
            return self.refuse(io, &ProxyError::because(Kind::ForbiddenDestination, why), &peer);
        };
        if self.settings.own.contains(&to) {
            let why = format!("{to} is a listener of the sidecar itself");
            return self.refuse(io, &ProxyError::because(Kind::ForbiddenDestination, why), &peer);
        }
        if self.settings.workload == Some(to.ip()) || to.ip().is_loopback() {
            return self.pass_through(io, to).await;
        }
        if let Some(host) = self.settings.stand_ins.name(to.ip()) {
            return self.stood_in_for(io, host, to.port(), &peer).await;
        }
        let settings = Arc::clone(&self.exchange.directory.snapshot().settings);
        let alias = Alias::Vip(to.ip());
        let known = self.exchange.directory.snapshot().alias(&alias);
        let foreign = !settings.mesh_cidrs.is_empty() && !settings.in_mesh(to.ip());
        let resolution = match known {
            Some(known) => known,
            None if foreign => Resolution::Absent,
            None => self.exchange.directory.resolve(alias.clone(), Instant::now() + ASK).await,
        };
        match resolution {
            Resolution::Found(service) if service.port(to.port()).is_some() => {
                self.stream(io, &Destination { alias, service, port: to.port() }).await;
            }
            // Ports that a service does not list pass untouched (GAMMA), and so does what is no service's.
            Resolution::Found(_) | Resolution::Absent if settings.egress == Egress::PassThrough => {
                self.pass_through(io, to).await;
            }
            Resolution::Found(_) | Resolution::Absent => {
                let why = format!("{to} is no declared destination, and egress is limited to those");
                self.refuse(io, &ProxyError::because(Kind::ForbiddenDestination, why), &peer);
            }
            Resolution::Unanswered => {
                let why = format!("nobody said in time what {to} is");
                self.refuse(io, &ProxyError::because(Kind::Undiscovered, why), &peer);
            }
        }
    }

    /// A connection to the address that stands in for a host outside. Ports that are not registered pass to the host itself.
    async fn stood_in_for(&self, io: Io, host: Arc<str>, port: u16, peer: &SocketAddr) {
        let alias = Alias::Host(host.to_string());
        let error = match self.destination(alias.clone(), port).await {
            Ok(destination) => return self.stream(io, &destination).await,
            Err(error) => error,
        };
        let snapshot = self.exchange.directory.snapshot().clone();
        let Some(Resolution::Found(service)) = snapshot.alias(&alias) else { return self.refuse(io, &error, peer) };
        if snapshot.settings.egress != Egress::PassThrough {
            let why = format!("port {port} of {host} is not declared, and egress is limited to what is");
            return self.refuse(io, &ProxyError::because(Kind::ForbiddenDestination, why), peer);
        }
        let registered = service.ports.iter().find(|port| port.backend.external.is_some());
        let cluster = registered.and_then(|port| snapshot.cluster(&service.name, port.port));
        match cluster {
            Some(cluster) => match external::address(cluster).await {
                Some(ip) => self.pass_through(io, SocketAddr::new(ip, port)).await,
                None => {
                    self.refuse(io, &ProxyError::because(Kind::NoEndpoint, format!("{host} does not resolve")), peer)
                }
            },
            None => self.refuse(io, &error, peer),
        }
    }

    async fn pass_through(&self, io: Io, to: SocketAddr) {
        match Box::pin(self.exchange.dial_address(to)).await {
            Ok(dialled) => self.exchange.carry(io, dialled, pending()).await,
            Err(_) => io.abort(),
        }
    }

    fn refuse(&self, io: Io, error: &ProxyError, peer: &SocketAddr) {
        self.exchange.telemetry.refuse(Direction::Outbound, error, peer);
        io.abort();
    }

    /// The port of a service that is meant by a name.
    async fn destination(&self, alias: Alias, port: u16) -> Result<Destination, ProxyError> {
        let resolution = self.exchange.directory.resolve(alias.clone(), Instant::now() + ASK).await;
        let service = match resolution {
            Resolution::Found(service) => service,
            Resolution::Absent => return Err(unknown(&alias)),
            Resolution::Unanswered => {
                return Err(ProxyError::because(Kind::Undiscovered, format!("nobody said in time what {alias} is")));
            }
        };
        if service.port(port).is_none() {
            let why = format!("service {} has no port {port}", service.name);
            return Err(ProxyError::because(Kind::UnknownHost, why));
        }
        Ok(Destination { alias, service, port })
    }

    /// Whether what a name meant is still known: otherwise it is asked for again.
    fn is_known(&self, destination: &Destination) -> bool {
        matches!(self.exchange.directory.snapshot().alias(&destination.alias), Some(Resolution::Found(_)))
    }

    /// Bytes for a port of a service: by declaration or by their first bytes either calls or opaque.
    async fn stream(&self, io: Io, destination: &Destination) {
        let Some(port) = destination.service.port(destination.port) else { return io.abort() };
        let way = Way::of(port.protocol, &[destination.port]);
        if port.frontend.routes.kind() == route::Kind::Tls {
            return self.tls(io, destination).await;
        }
        let telemetry = &self.exchange.telemetry;
        match detect::first(io, way, Direction::Outbound, telemetry).await {
            None => {}
            Some(First::Http(io, version)) => self.http(io, version, destination).await,
            Some(First::Opaque(io)) => {
                let snapshot = self.exchange.directory.snapshot().clone();
                let plan = destination.plan(&snapshot, &destination.service);
                // Boxed: what dialling needs is not kept while bytes are carried.
                match Box::pin(self.exchange.dial(&plan)).await {
                    Ok(dialled) => self.exchange.carry(io, dialled, pending()).await,
                    Err(_) => io.abort(),
                }
            }
            Some(First::Silent(io)) => {
                let snapshot = self.exchange.directory.snapshot().clone();
                let plan = destination.plan(&snapshot, &destination.service);
                if let Some((io, protocol)) = Box::pin(self.exchange.settle(io, &plan, pending())).await {
                    let version = if protocol == Protocol::Http2 { Version::Http2 } else { Version::Http11 };
                    self.http(io, version, destination).await;
                }
            }
        }
    }

    /// TLS of the application's own, passed through to where the routes of the port say for the name that it asks for.
    async fn tls(&self, mut io: Io, destination: &Destination) {
        let mut hello = BytesMut::new();
        let said = Box::pin(hello::server_name(&mut io, &mut hello)).await;
        let mut io = io.with_prefix(hello.freeze());
        let name = match said {
            Ok(Hello::Tls(name)) => Some(name),
            // The routes do not speak of it: it goes on untouched.
            Ok(Hello::Other) => None,
            Err(why) => {
                let error = ProxyError::because(Kind::BadRequest, why);
                self.exchange.telemetry.refuse(Direction::Outbound, &error, &"the application");
                return io.abort();
            }
        };
        let snapshot = self.exchange.directory.snapshot().clone();
        let mut plan = destination.plan(&snapshot, &destination.service);
        if let Plan::Outbound { tls, .. } = &mut plan {
            *tls = name.as_ref().map(Option::as_deref);
        }
        match Box::pin(self.exchange.dial(&plan)).await {
            Ok(dialled) => self.exchange.carry(io, dialled, pending()).await,
            Err(error) if error.kind == Kind::NoRoute => {
                // What the client's TLS library shows, instead of a broken connection.
                let _ = tokio::time::timeout(ALERT, io.write_all(&hello::UNRECOGNIZED_NAME)).await;
                let _ = tokio::time::timeout(ALERT, io.shutdown()).await;
            }
            Err(_) => io.abort(),
        }
    }

    async fn http(&self, io: Io, version: Version, destination: &Destination) {
        let calls = Calls { outbound: self, destination };
        let served = match version {
            // Boxed: it needs more room than a connection of the other kinds.
            Version::Http2 => {
                Box::pin(codec::h2::serve(io, &self.settings.limits, &self.leave.after_calls, &calls)).await
            }
            Version::Http10 | Version::Http11 => {
                codec::h1::serve(io, &self.settings.limits, &self.exchange.quiet, &self.leave, &calls).await
            }
        };
        if let Err(error) = served {
            tracing::debug!("outbound connection ended: {error}");
        }
    }

    /// One call to a port of a service, under the configuration that is in force now.
    async fn call(&self, destination: &Destination, head: RequestHead, body: RequestBody<'_>, mut reply: Reply<'_>) {
        let snapshot = self.exchange.directory.snapshot().clone();
        let service = match snapshot.alias(&destination.alias) {
            Some(Resolution::Found(service)) => service,
            Some(Resolution::Absent) => {
                let error = unknown(&destination.alias);
                let away = self.exchange.turn_away(Direction::Outbound, None, &error, &head, &mut reply);
                return Box::pin(away).await;
            }
            Some(Resolution::Unanswered) | None => Arc::clone(&destination.service),
        };
        if service.port(destination.port).is_none() {
            let why = format!("service {} has no port {} any more", service.name, destination.port);
            let error = ProxyError::because(Kind::UnknownHost, why);
            let away = self.exchange.turn_away(Direction::Outbound, None, &error, &head, &mut reply);
            return Box::pin(away).await;
        }
        // Who may call is the business of the other side.
        let revoked = pin!(pending());
        self.exchange.call(destination.plan(&snapshot, &service), head, body, reply, revoked).await;
    }
}

fn unknown(alias: &Alias) -> ProxyError {
    let why = match alias {
        Alias::Host(host) => format!("no service of the mesh is called {host:?}"),
        Alias::Vip(ip) => format!("no service of the mesh has the address {ip}"),
    };
    ProxyError::because(Kind::UnknownHost, why)
}

/// IPv4-mapped addresses are IPv4's.
fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

impl Destination {
    /// The plan of a call. `service` has the port: whoever calls has looked.
    fn plan<'p>(&'p self, snapshot: &'p Snapshot, service: &'p Service) -> Plan<'p> {
        let port = service.port(self.port).or_else(|| self.service.port(self.port));
        match port {
            Some(port) => Plan::Outbound {
                snapshot,
                service: &service.name,
                port: self.port,
                protocol: port.protocol,
                frontend: &port.frontend,
                tls: None,
            },
            None => unreachable!("the destination was made from a service with that port"),
        }
    }
}

/// The calls of one connection that is bound to a destination.
struct Calls<'o> {
    outbound: &'o Outbound,
    destination: &'o Destination,
}

impl Handler for Calls<'_> {
    async fn call<'c>(&'c self, head: RequestHead, body: RequestBody<'c>, reply: Reply<'c>) {
        self.outbound.call(self.destination, head, body, reply).await;
    }

    fn rejected(&self, error: &codec::Error) {
        self.outbound.exchange.telemetry.refuse(Direction::Outbound, &error.clone().into(), &"the application");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_exact_credentials_are_admitted() {
        let credentials = Credentials::new("weft", "secret");
        assert!(credentials.admit(b"Basic d2VmdDpzZWNyZXQ="));
        assert!(credentials.admit(b"basic d2VmdDpzZWNyZXQ="));
        for wrong in
            [&b"Basic d2VmdDpzZWNyZXo="[..], b"Basic", b"", b"Bearer d2VmdDpzZWNyZXQ=", b"Basic d2VmdDpzZWNyZXQ=x"]
        {
            assert!(!credentials.admit(wrong), "{}", String::from_utf8_lossy(wrong));
        }
    }
}
