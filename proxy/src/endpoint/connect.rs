//! Reaching an endpoint: one deadline over TCP, TLS and the peer's SETTINGS, and the choice of the way by what the endpoint offers.
//!
//! A [`Connector`] belongs to one worker and owns that worker's pools; dropping it closes what they hold. Which endpoint is meant,
//! and whether to try another, is decided in `exchange`; the connector never chooses and never retries.

use super::bound::Bound;
pub use super::bound::{ConnectionLimit, ConnectionPermit};
use super::pool::{Dial, Dialled, Group, Rack, Shape};
use super::{disguised, hbone, native};
use crate::codec::h1::Client;
use crate::codec::h2::{self, Call, Tasks};
use crate::codec::{ByteStr, Io, Limits, Upstream};
use crate::error::{Kind, ProxyError};
use crate::telemetry::{Handshakes, Telemetry};
use parking_lot::Mutex;
use std::collections::HashMap;
use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::net::{TcpSocket, TcpStream};
use tokio_util::sync::DropGuard;
use weft_certs::SpiffeId;
use weft_certs::tls::ClientConfigs;

/// The protocol of a call on its way to the endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// HTTP/1.1: through a virtual connection when the endpoint has a tunnel, plain otherwise.
    Http1,
    /// HTTP/2 and gRPC: native streams (`weft-h2`) when the endpoint has a tunnel, h2c with prior knowledge otherwise.
    Http2,
}

/// How the sidecar beside an endpoint is reached.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TunnelTo {
    /// Where it listens for HBONE and native HTTP/2.
    pub addr: SocketAddr,
    /// Who must answer there, exactly.
    pub identity: SpiffeId,
    /// SNI of native connections.
    pub server_name: Arc<str>,
    /// Authority of CONNECT streams, `<address>:<port>`.
    pub authority: ByteStr,
}

/// One endpoint, as the connector needs to know it. Made once per endpoint and shared by its calls.
#[derive(Clone, Debug)]
pub struct Target {
    /// Workload uid.
    pub uid: Arc<str>,
    /// Address and port of the application.
    pub addr: SocketAddr,
    /// The address under which the application is called, where that is not the sidecar's own.
    pub from: Option<IpAddr>,
    /// The sidecar beside it; without one the endpoint is dialled in plaintext.
    pub tunnel: Option<TunnelTo>,
    /// One deadline over connect, TLS and SETTINGS.
    pub connect_timeout: Duration,
    /// Bound on connections to the backend that the endpoint belongs to.
    pub connections: Arc<ConnectionLimit>,
}

/// Settings of a connector.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// Sent as `weft-source` on CONNECT: `namespace/name` of the calling service or workload, for the peer's metrics only.
    pub source: String,
    /// Bounds on what upstreams may send.
    pub limits: Limits,
    /// `SO_MARK` of every socket, so that interception rules leave the sidecar's own traffic alone (transparent mode).
    pub mark: Option<u32>,
    /// The sidecar's own listeners, which are never dialled.
    pub own: Vec<SocketAddr>,
    /// Where it is counted and logged that a connection was cut.
    pub telemetry: Option<Arc<Telemetry>>,
    /// Where handshakes are counted.
    pub handshakes: Option<Handshakes>,
    /// What is under way on a connection whose certificates have ended has this long to end.
    pub grace: Duration,
}

/// Opens and reuses connections for one worker. Cheap to clone; the last clone closes what idles and cuts what is open.
///
/// Its methods must be called on the worker's runtime, which drives the shared connections.
#[derive(Clone)]
pub struct Connector(Arc<Inner>);

struct Inner {
    dialer: Arc<Dialer>,
    pools: Pools,
    sweeping: AtomicBool,
    _stop: DropGuard,
}

/// What every new connection needs.
pub(super) struct Dialer {
    pub(super) settings: Settings,
    /// `None` without certificates: endpoints behind a tunnel cannot be reached then.
    pub(super) tls: Option<Arc<ClientConfigs>>,
    pub(super) tasks: Tasks,
}

type Map<K, V> = Mutex<HashMap<K, V, foldhash::fast::RandomState>>;

/// Which HTTP/2 connections belong together.
#[derive(Clone, PartialEq, Eq, Hash)]
enum Way {
    /// To an application, in plaintext, for one backend, under the address of a caller.
    Plain(SocketAddr, Bound, Option<IpAddr>),
    /// To a sidecar, for calls inside CONNECT streams.
    Calls(SocketAddr, SpiffeId),
    /// To a sidecar, for opaque streams: apart, so that bulk does not stand in the way of calls.
    Bulk(SocketAddr, SpiffeId),
    /// To a port beside a sidecar, for calls as they are.
    Native(SocketAddr, SpiffeId, Arc<str>),
}

/// Which HTTP/1.1 connections are alike. Backends that have an endpoint in common have no connections in common: with a connection of another
/// one would hold more than its own bound allows, and the other could be without one though none of its calls is under way. Virtual ones are
/// alike while they are of one generation of the identity: what was made before trust changed carries no further call.
#[derive(Clone, PartialEq, Eq, Hash)]
enum Place {
    Plain(SocketAddr, Bound, Option<IpAddr>),
    Virtual(SocketAddr, SpiffeId, ByteStr, Bound, u64),
}

impl Place {
    /// Whether this is where connections of this generation to `target` wait.
    fn is(&self, target: &Target, generation: u64) -> bool {
        match (self, &target.tunnel) {
            (Self::Plain(addr, bound, from), None) => {
                *addr == target.addr && bound.is(&target.connections) && *from == target.from
            }
            (Self::Virtual(addr, identity, authority, bound, made), Some(to)) => {
                *made == generation
                    && *authority == to.authority
                    && *addr == to.addr
                    && *identity == to.identity
                    && bound.is(&target.connections)
            }
            _ => false,
        }
    }
}

#[derive(Default)]
struct Pools {
    racks: Map<Place, Arc<Rack>>,
    /// The rack that was asked for last: most calls of a worker go where the one before went.
    last: Mutex<Option<(Place, Arc<Rack>)>>,
    groups: Map<Way, Arc<Group>>,
}

/// Idle HTTP/1.1 connections to one destination, per worker.
const IDLE_MOST: usize = 256;
/// Applications close idle connections after a while; sooner than most of them is soon enough.
const IDLE_PLAIN: Duration = Duration::from_secs(30);
const IDLE_VIRTUAL: Duration = Duration::from_secs(60);
const IDLE_SHARED: Duration = Duration::from_secs(300);
const SWEEP: Duration = Duration::from_secs(5);

const CALLS: Shape = Shape { spread: 64, most: 4 };
const BULK: Shape = Shape { spread: 4, most: 4 };
const STREAMS: Shape = Shape { spread: 64, most: 4 };

impl Connector {
    /// A connector that presents the identity of `tls`.
    #[must_use]
    pub fn new(settings: Settings, tls: Option<Arc<ClientConfigs>>) -> Self {
        let tasks = Tasks::default();
        let stop = tasks.stop.clone().drop_guard();
        let dialer = Arc::new(Dialer { settings, tls, tasks });
        Self(Arc::new(Inner { dialer, pools: Pools::default(), sweeping: AtomicBool::new(false), _stop: stop }))
    }

    /// An attempt at `target` with a connection of its protocol, new or reused. The deadline for a new one is `connect_timeout`.
    ///
    /// # Errors
    /// Why there is no connection; nothing has been sent.
    pub async fn http(&self, target: &Target, protocol: Protocol) -> Result<Upstream, ProxyError> {
        match protocol {
            Protocol::Http1 => self.http1(target).await.map(Upstream::from),
            Protocol::Http2 => self.shared(target, native_way(target)).await.map(upstream),
        }
    }

    /// An attempt on a connection that is open already; `None`: [`Connector::http`] makes one.
    #[must_use]
    pub fn ready(&self, target: &Target, protocol: Protocol) -> Option<Upstream> {
        match protocol {
            Protocol::Http1 => self.rack(target).take().map(Upstream::from),
            Protocol::Http2 => {
                let way = native_way(target);
                let group = Arc::clone(self.0.pools.groups.lock().get(&way)?);
                let dialer = &self.0.dialer;
                let dial = || dial(dialer.clone(), target.clone(), way.clone());
                group.pick(self.generation(target), &dialer.tasks, &dial).map(upstream)
            }
        }
    }

    /// Bytes to and from `target`: a TCP connection, or a CONNECT stream when it has a tunnel.
    ///
    /// # Errors
    /// Why there is no connection; nothing has been sent.
    pub async fn tcp(&self, target: &Target) -> Result<Io, ProxyError> {
        let permit = self.permit(target)?;
        let io = match &target.tunnel {
            Some(to) => {
                let way = Way::Bulk(to.addr, to.identity.clone());
                within(target, async { self.stream(target, way, to).await }).await?
            }
            None => within(target, self.0.dialer.application(target.addr, target.from)).await?,
        };
        Ok(io.holding(permit))
    }

    /// Runs a task of the worker until it ends or the connector does.
    pub fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let stop = self.0.dialer.tasks.stop.clone();
        self.0.dialer.tasks.tracker.spawn(async move {
            stop.run_until_cancelled(task).await;
        });
    }

    /// How many idle HTTP/1.1 connections and shared HTTP/2 connections are open.
    #[must_use]
    pub fn open(&self) -> (usize, usize) {
        let idle = self.0.pools.racks.lock().values().map(|rack| rack.len()).sum();
        let shared = self.0.pools.groups.lock().values().map(|group| group.len()).sum();
        (idle, shared)
    }

    /// Where connections to `target` wait for their next exchange.
    fn rack(&self, target: &Target) -> Arc<Rack> {
        let (pools, generation) = (&self.0.pools, self.generation(target));
        if let Some((place, rack)) = &*pools.last.lock()
            && place.is(target, generation)
        {
            return rack.clone();
        }
        let place = match &target.tunnel {
            None => Place::Plain(target.addr, Bound::of(target), target.from),
            Some(to) => {
                Place::Virtual(to.addr, to.identity.clone(), to.authority.clone(), Bound::of(target), generation)
            }
        };
        let idle = if target.tunnel.is_some() { IDLE_VIRTUAL } else { IDLE_PLAIN };
        let rack = pools.racks.lock().entry(place.clone()).or_insert_with(|| Rack::new(IDLE_MOST, idle)).clone();
        *pools.last.lock() = Some((place, rack.clone()));
        rack
    }

    async fn http1(&self, target: &Target) -> Result<Client, ProxyError> {
        let rack = self.rack(target);
        if let Some(client) = rack.take() {
            return Ok(client);
        }
        self.keep_swept();
        let permit = self.permit(target)?;
        let io = match &target.tunnel {
            None => within(target, self.0.dialer.application(target.addr, target.from)).await?,
            Some(to) => {
                let way = Way::Calls(to.addr, to.identity.clone());
                within(target, self.stream(target, way, to)).await?
            }
        };
        Ok(Client::new(io.holding(permit), self.0.dialer.settings.limits.clone(), Some(rack)))
    }

    async fn stream(&self, target: &Target, way: Way, to: &TunnelTo) -> Result<Io, ProxyError> {
        // A connection that goes away between its choice and its use is replaced once.
        for last in [false, true] {
            let call = self.call(target, way.clone()).await?;
            match hbone::open(call, to, &self.0.dialer.settings.source).await {
                Err(error) if error.kind == Kind::Refused && !last => {}
                result => return result,
            }
        }
        Err(ProxyError::because(Kind::ConnectFailed, "no connection to the sidecar lives long enough"))
    }

    async fn shared(&self, target: &Target, way: Way) -> Result<Call, ProxyError> {
        within(target, self.call(target, way)).await
    }

    async fn call(&self, target: &Target, way: Way) -> Result<Call, ProxyError> {
        self.keep_swept();
        let shape = match &way {
            Way::Calls(..) => CALLS,
            Way::Bulk(..) => BULK,
            Way::Plain(..) | Way::Native(..) => STREAMS,
        };
        let group = self.0.pools.groups.lock().entry(way.clone()).or_insert_with(|| Group::new(shape)).clone();
        let (dialer, generation) = (&self.0.dialer, self.generation(target));
        let dial = || dial(dialer.clone(), target.clone(), way.clone());
        match group.call(generation, &dialer.tasks, dial).await {
            Err(error) if error.kind == Kind::Overflow => {
                // What idles stands in nobody's way.
                let groups: Vec<_> = self.0.pools.groups.lock().values().cloned().collect();
                if !groups.iter().any(|group| group.make_room(&target.connections)) {
                    return Err(error);
                }
                group.call(generation, &dialer.tasks, dial).await
            }
            made => made,
        }
    }

    /// Of the identity that connections to `target` are made with.
    fn generation(&self, target: &Target) -> u64 {
        if target.tunnel.is_some() { self.0.dialer.generation() } else { 0 }
    }

    fn permit(&self, target: &Target) -> Result<ConnectionPermit, ProxyError> {
        target.connections.acquire().or_else(|_| {
            // What idles stands in nobody's way.
            let racks: Vec<_> = self.0.pools.racks.lock().values().cloned().collect();
            racks.iter().for_each(|rack| rack.clear());
            target.connections.acquire()
        })
    }

    /// Starts the task that drops what idles too long, once there is something to drop.
    fn keep_swept(&self) {
        if self.0.sweeping.swap(true, Ordering::AcqRel) {
            return;
        }
        let inner = Arc::downgrade(&self.0);
        let (stop, leaving) = (self.0.dialer.tasks.stop.clone(), self.0.dialer.tasks.leaving.clone());
        self.0.dialer.tasks.tracker.spawn(async move {
            let sweeping = async {
                loop {
                    // A peer that said GOAWAY waits for what idles on its connections.
                    let _ = tokio::time::timeout(SWEEP, leaving.notified()).await;
                    let Some(inner) = inner.upgrade() else { return };
                    inner.pools.sweep(inner.dialer.generation());
                }
            };
            stop.run_until_cancelled(sweeping).await
        });
    }
}

impl Pools {
    /// Drops what idles too long, or was made by another generation of the identity.
    fn sweep(&self, generation: u64) {
        // Before racks are counted that nobody holds.
        drop(self.last.lock().take());
        // Dropping a connection runs its own code: not under the lock of the map.
        let racks: Vec<_> = self.racks.lock().iter().map(|(place, rack)| (place.clone(), rack.clone())).collect();
        let mut gone = Vec::new();
        for (place, rack) in racks {
            if matches!(place, Place::Virtual(.., made) if made != generation) {
                rack.clear();
            }
            if rack.sweep() && Arc::strong_count(&rack) == 2 {
                gone.push(place);
            }
        }
        self.racks.lock().retain(|place, rack| !(gone.contains(place) && Arc::strong_count(rack) == 1));
        self.groups.lock().retain(|_, group| !group.sweep(IDLE_SHARED) || Arc::strong_count(group) > 1);
    }
}

/// How calls travel to `target` as HTTP/2.
fn native_way(target: &Target) -> Way {
    match &target.tunnel {
        None => Way::Plain(target.addr, Bound::of(target), target.from),
        Some(to) => Way::Native(to.addr, to.identity.clone(), to.server_name.clone()),
    }
}

fn upstream(call: Call) -> Upstream {
    Upstream::from(call)
}

async fn within<T>(target: &Target, made: impl Future<Output = Result<T, ProxyError>>) -> Result<T, ProxyError> {
    match tokio::time::timeout(target.connect_timeout, made).await {
        Ok(result) => result,
        Err(_) => {
            let addr = target.tunnel.as_ref().map_or(target.addr, |to| to.addr);
            let text = format!("{addr} did not accept a connection within {:?}", target.connect_timeout);
            Err(ProxyError::because(Kind::ConnectTimeout, text))
        }
    }
}

fn dial(dialer: Arc<Dialer>, target: Target, way: Way) -> Dial {
    Box::pin(async move {
        let made = async {
            let place = match &way {
                // Each stream on them has a place of its own.
                Way::Calls(..) | Way::Bulk(..) => None,
                Way::Plain(..) | Way::Native(..) => Some(target.connections.acquire()?),
            };
            let connection = match (&way, &target.tunnel) {
                (Way::Plain(addr, _, from), _) => {
                    let io = dialer.application(*addr, *from).await?;
                    h2::connect(io, &dialer.settings.limits, false, None, &dialer.tasks).await.map_err(ProxyError::from)
                }
                (Way::Native(..), Some(to)) => native::connect(&dialer, to, native::NATIVE).await,
                (_, Some(to)) => native::connect(&dialer, to, native::HBONE).await,
                (_, None) => Err(ProxyError::because(Kind::Internal, "no sidecar to connect to")),
            };
            Ok(Dialled { connection: connection?, place })
        };
        within(&target, made).await
    })
}

impl Dialer {
    /// Of the identity that sidecars are shown.
    fn generation(&self) -> u64 {
        self.tls.as_ref().map_or(0, |tls| tls.identity().generation())
    }

    /// A plaintext connection to an application, never to the sidecar itself.
    async fn application(&self, addr: SocketAddr, from: Option<IpAddr>) -> Result<Io, ProxyError> {
        if self.settings.own.iter().any(|own| is_same_listener(*own, addr)) {
            let text = format!("{addr} is a listener of this sidecar");
            return Err(ProxyError::because(Kind::ForbiddenDestination, text));
        }
        match from {
            None => self.tcp(addr).await.map(Io::from),
            Some(from) => disguised::connect(addr, from).await.map(Io::from).map_err(|error| failed(addr, error)),
        }
    }

    /// A TCP connection.
    pub(super) async fn tcp(&self, addr: SocketAddr) -> Result<TcpStream, ProxyError> {
        let failed = |error| failed(addr, error);
        let socket = if addr.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }.map_err(failed)?;
        socket.set_nodelay(true).map_err(failed)?;
        crate::listen::pace::unpaced(&socket, addr.ip());
        if let Some(mark) = self.settings.mark {
            socket2::SockRef::from(&socket).set_mark(mark).map_err(failed)?;
        }
        socket.connect(addr).await.map_err(failed)
    }
}

fn failed(addr: SocketAddr, error: std::io::Error) -> ProxyError {
    ProxyError::caused(Kind::ConnectFailed, error).detail(format!("connecting to {addr}"))
}

/// Would connecting to `addr` reach the listener at `own`? IPv4-mapped addresses are IPv4's, and the unspecified address is loopback's.
pub(crate) fn is_same_listener(own: SocketAddr, addr: SocketAddr) -> bool {
    let (host, ip) = (own.ip().to_canonical(), addr.ip().to_canonical());
    let local = |ip: IpAddr| ip.is_loopback() || ip.is_unspecified();
    let wild = host.is_unspecified() || ip.is_unspecified();
    own.port() == addr.port() && (host == ip || (wild && local(host) && local(ip)))
}

#[cfg(test)]
#[path = "connect_tests.rs"]
pub(in crate::endpoint) mod tests;
