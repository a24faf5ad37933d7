//! `weft.v1.Backend` and `weft.v1.Endpoints`: how the endpoints of a port are used as a target, and where they are.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use weft_proto::v1;

use super::check::{self, Unique};
use super::{Protocol, Refusal};
use crate::{balance, breaker, limit};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
const TCP_IDLE_TIMEOUT: Duration = Duration::from_secs(3600);
const MOST_ENDPOINTS: usize = 100;
const HEAVIEST: u32 = 1000;

/// How the endpoints of a port are used as a target.
#[derive(Clone, Debug, PartialEq)]
pub struct Backend {
    /// Names of the `Endpoints` resources that hold its endpoints.
    pub slices: Vec<Arc<str>>,
    /// Balancing algorithm.
    pub balancer: balance::Algorithm,
    /// Circuit breaker of each endpoint.
    pub breaker: breaker::Settings,
    /// Bulkhead of the whole backend.
    pub limits: limit::Settings,
    /// Covers DNS + TCP + TLS + HTTP/2 SETTINGS. Default 1 s.
    pub connect_timeout: Duration,
    /// TCP connections with no byte either way for this long end. `None`: disabled. Default 1 h.
    pub tcp_idle_timeout: Option<Duration>,
}

/// A slice of a backend's endpoints. Resource name `namespace/name:port/slice`.
#[derive(Clone, Debug)]
pub struct Endpoints {
    /// Resource name.
    pub name: Arc<str>,
    /// At most 100; uids are unique.
    pub endpoints: Vec<Endpoint>,
}

/// Whether an endpoint may get new calls.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Health {
    /// Nothing is known: treated as ready.
    #[default]
    Unknown,
    /// Ready.
    Ready,
    /// Not ready: gets calls only in panic.
    NotReady,
    /// Withdrawn: gets no new calls, open ones go on.
    Draining,
}

/// One instance of a backend.
#[derive(Clone, Debug, PartialEq)]
pub struct Endpoint {
    /// Workload uid, `namespace/name`.
    pub uid: Arc<str>,
    /// Where the application is reached in plaintext, and what the CONNECT authority is made of.
    pub address: SocketAddr,
    /// The sidecar in front of it; `None`: plaintext to `address`.
    pub tunnel: Option<Tunnel>,
    /// Whether it may get new calls.
    pub health: Health,
    /// 1 to 1000.
    pub weight: u32,
    /// Region; may be empty.
    pub region: Arc<str>,
    /// Zone; may be empty.
    pub zone: Arc<str>,
    /// What the endpoint's application speaks, where it differs from the service port's.
    pub protocol: Option<Protocol>,
}

/// A peer sidecar's mTLS listener and what must be said to it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Tunnel {
    /// Where it listens.
    pub address: SocketAddr,
    /// SPIFFE id that the peer must present.
    pub identity: Arc<str>,
    /// SNI for native HTTP/2 streams; empty when the peer takes CONNECT streams only.
    pub server_name: Arc<str>,
    /// CONNECT authority: `<address>:<port>` of the endpoint.
    pub authority: Arc<str>,
}

impl Default for Backend {
    fn default() -> Self {
        Backend {
            slices: Vec::new(),
            balancer: balance::Algorithm::default(),
            breaker: breaker::Settings::default(),
            limits: limit::Settings::default(),
            connect_timeout: CONNECT_TIMEOUT,
            tcp_idle_timeout: Some(TCP_IDLE_TIMEOUT),
        }
    }
}

impl Backend {
    pub(super) fn from_wire(wire: &v1::Backend) -> Result<Self, Refusal> {
        check::bounded("slices", &wire.slices, 10_000)?;
        let mut seen = Unique::new();
        let mut slices = Vec::with_capacity(wire.slices.len());
        for (i, name) in wire.slices.iter().enumerate() {
            let field = format!("slices[{i}]");
            slice_name(&field, name)?;
            seen.claim(&field, name.as_str())?;
            slices.push(name.as_str().into());
        }
        let balancer = match v1::Balancer::try_from(wire.balancer) {
            Ok(v1::Balancer::Default | v1::Balancer::PeakEwma) => balance::Algorithm::PeakEwma,
            Ok(v1::Balancer::LeastRequest) => balance::Algorithm::LeastRequest,
            Ok(v1::Balancer::RoundRobin) => balance::Algorithm::RoundRobin,
            Ok(v1::Balancer::Random) => balance::Algorithm::Random,
            Ok(v1::Balancer::RingHash | v1::Balancer::Maglev) => {
                return Err(Refusal::new("balancer", "is not known to this version"));
            }
            Err(_) => return Err(Refusal::new("balancer", format!("{} is no balancer", wire.balancer))),
        };
        let breaker = match &wire.breaker {
            Some(wire) => breaker_settings(wire).map_err(|r| r.under("breaker"))?,
            None => breaker::Settings::default(),
        };
        let limits = match &wire.limits {
            Some(wire) => limit_settings(wire).map_err(|r| r.under("limits"))?,
            None => limit::Settings::default(),
        };
        let connect_timeout = check::span_within(
            "connectTimeout",
            wire.connect_timeout.as_ref(),
            CONNECT_TIMEOUT,
            (Duration::from_millis(1), Duration::from_secs(300)),
        )?;
        let tcp_idle_timeout =
            check::span("tcpIdleTimeout", wire.tcp_idle_timeout.as_ref())?.limit(Some(TCP_IDLE_TIMEOUT));
        Ok(Backend { slices, balancer, breaker, limits, connect_timeout, tcp_idle_timeout })
    }
}

fn breaker_settings(wire: &v1::CircuitBreaker) -> Result<breaker::Settings, Refusal> {
    let default = breaker::Settings::default();
    let window = (Duration::from_secs(1), Duration::from_secs(3600));
    let open = (Duration::from_millis(10), Duration::from_secs(24 * 3600));
    let base = check::span_within("baseOpen", wire.base_open.as_ref(), default.base_open, open)?;
    let max = check::span_within("maxOpen", wire.max_open.as_ref(), default.max_open, open)?;
    // A default gives way to what was chosen; two choices that disagree are a mistake.
    let (base_open, max_open) = match (&wire.base_open, &wire.max_open) {
        (Some(_), Some(_)) if base > max => {
            return Err(Refusal::new("baseOpen", format!("{base:?} is longer than maxOpen, {max:?}")));
        }
        (Some(_), None) => (base, max.max(base)),
        (None, Some(_)) => (base.min(max), max),
        _ => (base, max),
    };
    Ok(breaker::Settings {
        enabled: !wire.disabled.unwrap_or(false),
        consecutive_failures: check::within(
            "consecutiveFailures",
            wire.consecutive_failures.unwrap_or(default.consecutive_failures),
            1,
            1_000_000,
        )?,
        success_percent: check::within(
            "successPercent",
            wire.success_percent.unwrap_or(default.success_percent),
            0,
            100,
        )?,
        minimum_calls: check::within(
            "minimumCalls",
            wire.minimum_calls.unwrap_or(default.minimum_calls),
            1,
            1_000_000,
        )?,
        window: check::span_within("window", wire.window.as_ref(), default.window, window)?,
        base_open,
        max_open,
        ..default
    })
}

pub(super) fn limit_settings(wire: &v1::Limits) -> Result<limit::Settings, Refusal> {
    let default = limit::Settings::default();
    let at_least_one = |field: &str, value: Option<u32>, default: u32| match value {
        Some(0) => Err(Refusal::new(field, "0 would refuse everything")),
        value => Ok(value.unwrap_or(default)),
    };
    Ok(limit::Settings {
        connections: at_least_one("connections", wire.connections, default.connections)?,
        pending: wire.pending.unwrap_or(default.pending),
        requests: at_least_one("requests", wire.requests, default.requests)?,
    })
}

/// `namespace/name:port/slice`.
fn slice_name(field: &str, name: &str) -> Result<(), Refusal> {
    let shaped = name.rsplit_once('/').is_some_and(|(backend, slice)| {
        let (service, port) = backend.rsplit_once(':').unwrap_or_default();
        !slice.is_empty()
            && slice.len() <= 253
            && slice.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_'))
            && check::is_namespaced_name(service)
            && port.parse::<u16>().is_ok_and(|p| p != 0)
    });
    if shaped {
        return Ok(());
    }
    Err(Refusal::new(field, format!("{name:?} is not of the form namespace/name:port/slice")))
}

impl Endpoints {
    /// Converts and checks.
    ///
    /// # Errors
    /// The first field that is malformed, out of bounds, twice there or in contradiction with another.
    pub fn from_wire(wire: &v1::Endpoints) -> Result<Self, Refusal> {
        slice_name("name", &wire.name)?;
        check::bounded("endpoints", &wire.endpoints, MOST_ENDPOINTS)?;
        let mut uids = Unique::new();
        let mut endpoints = Vec::with_capacity(wire.endpoints.len());
        for (i, wire) in wire.endpoints.iter().enumerate() {
            let converted = endpoint(wire).and_then(|e| uids.claim("uid", wire.uid.as_str()).map(|()| e));
            endpoints.push(converted.map_err(|r| r.under(format_args!("endpoints[{i}]")))?);
        }
        Ok(Endpoints { name: wire.name.as_str().into(), endpoints })
    }
}

fn endpoint(wire: &v1::Endpoint) -> Result<Endpoint, Refusal> {
    check::namespaced_name("uid", &wire.uid)?;
    let address = SocketAddr::new(check::ip("address", &wire.address)?, check::port("port", wire.port)?);
    let health = match v1::Health::try_from(wire.health) {
        Ok(v1::Health::Unknown) => Health::Unknown,
        Ok(v1::Health::Ready) => Health::Ready,
        Ok(v1::Health::NotReady) => Health::NotReady,
        Ok(v1::Health::Draining) => Health::Draining,
        Err(_) => return Err(Refusal::new("health", format!("{} is no health", wire.health))),
    };
    let protocol = match Protocol::from_wire(wire.protocol)? {
        Protocol::Detect => None,
        protocol => Some(protocol),
    };
    for (field, text) in [("region", &wire.region), ("zone", &wire.zone)] {
        check::bounded(field, text.as_bytes(), 253)?;
    }
    Ok(Endpoint {
        uid: wire.uid.as_str().into(),
        address,
        tunnel: tunnel(wire, address)?,
        health,
        weight: check::within("weight", wire.weight.max(1), 1, HEAVIEST)?,
        region: wire.region.as_str().into(),
        zone: wire.zone.as_str().into(),
        protocol,
    })
}

fn tunnel(wire: &v1::Endpoint, address: SocketAddr) -> Result<Option<Tunnel>, Refusal> {
    if wire.tunnel.is_empty() {
        // Whoever names an identity expects it to be checked: plaintext would silently not.
        return match (wire.identity.as_str(), wire.server_name.as_str()) {
            ("", "") => Ok(None),
            ("", _) => Err(Refusal::new("serverName", "is given, but there is no tunnel to say it to")),
            _ => Err(Refusal::new("identity", "is given, but without a tunnel nobody would check it")),
        };
    }
    if wire.identity.is_empty() {
        return Err(Refusal::new("identity", "is required with a tunnel: a peer of unknown identity is not dialled"));
    }
    check::identity("identity", &wire.identity)?;
    let server_name = match wire.server_name.as_str() {
        "" => String::new(),
        name => check::hostname("serverName", name)?,
    };
    Ok(Some(Tunnel {
        address: check::socket("tunnel", &wire.tunnel)?,
        identity: wire.identity.as_str().into(),
        server_name: server_name.into(),
        authority: address.to_string().into(),
    }))
}
