//! `weft.v1.Backend`: how the endpoints of a port are used as a target. Where they are is [`super::endpoints`]'s.

use std::sync::Arc;
use std::time::Duration;

use weft_proto::v1;

use super::Refusal;
use super::check::{self, Unique};
use super::endpoints::slice_name;
use crate::balance::{Algorithm, HashKey, PANIC_PERCENT};
use crate::{balance, breaker, health, limit};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
const TCP_IDLE_TIMEOUT: Duration = Duration::from_secs(3600);
/// Longer is a mistake of units: an endpoint would be new for more than an hour.
const SLOWEST_START: Duration = Duration::from_secs(3600);

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
    /// What a hashing balancer hashes, in order of preference. Empty for the others.
    pub hash: Vec<HashKey>,
    /// Endpoints of all localities are alike, instead of the caller's own zone first.
    pub ignore_locality: bool,
    /// How long a new endpoint's share grows. `None`: at once, which is the default.
    pub slow_start: Option<Duration>,
    /// Below this share of ready endpoints, in percent, all are used. 0: never. Default 50.
    pub panic_percent: u32,
    /// How each sidecar that calls an endpoint checks it. `None`: not at all, which is the default.
    pub health_check: Option<health::Settings>,
    /// A host whose addresses are endpoints besides those of `slices`.
    pub external: Option<ExternalHost>,
}

/// A host outside the mesh, resolved by the sidecar.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ExternalHost {
    /// A DNS name in lower case, or an IP address.
    pub host: Arc<str>,
    /// Port, never 0.
    pub port: u16,
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
            hash: Vec::new(),
            ignore_locality: false,
            slow_start: None,
            panic_percent: PANIC_PERCENT,
            health_check: None,
            external: None,
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
            Ok(v1::Balancer::RingHash) => balance::Algorithm::RingHash,
            Ok(v1::Balancer::Maglev) => balance::Algorithm::Maglev,
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
        let slow_start = check::span("slowStart", wire.slow_start.as_ref())?.given();
        if let Some(long) = slow_start.filter(|window| *window > SLOWEST_START) {
            return Err(Refusal::new("slowStart", format!("{long:?} is longer than {SLOWEST_START:?}")));
        }
        let health_check = wire.health_check.as_ref().map(super::probe::settings).transpose();
        Ok(Backend {
            slices,
            balancer,
            breaker,
            limits,
            connect_timeout,
            tcp_idle_timeout,
            hash: hash_keys(&wire.hash, balancer)?,
            ignore_locality: wire.ignore_locality,
            slow_start,
            panic_percent: check::within("panicPercent", wire.panic_percent.unwrap_or(PANIC_PERCENT), 0, 100)?,
            health_check: health_check.map_err(|r| r.under("healthCheck"))?,
            external: wire.external.as_ref().map(external_host).transpose().map_err(|r| r.under("external"))?,
        })
    }
}

fn hash_keys(wire: &[v1::HashKey], balancer: Algorithm) -> Result<Vec<HashKey>, Refusal> {
    use v1::hash_key::Key;
    check::bounded("hash", wire, 16)?;
    match (balancer.hashes(), wire.is_empty()) {
        (true, true) => return Err(Refusal::new("hash", "says nothing to hash, but the balancer goes by it")),
        (false, false) => return Err(Refusal::new("hash", "means nothing to a balancer that does not hash")),
        _ => {}
    }
    let key = |wire: &v1::HashKey| match &wire.key {
        Some(Key::Header(name)) => Ok(HashKey::Header(check::header_name("header", name)?)),
        Some(Key::Cookie(name)) => {
            // RFC 6265 §4.1.1: a cookie's name is a token, which is what a method is too.
            let is_token = name.len() <= 256 && http::Method::from_bytes(name.as_bytes()).is_ok();
            let refused = || Refusal::new("cookie", format!("{name:?} is no name of a cookie"));
            is_token.then(|| HashKey::Cookie(name.as_str().into())).ok_or_else(refused)
        }
        Some(Key::SourceAddress(true)) => Ok(HashKey::SourceAddress),
        Some(Key::SourceAddress(false)) => Err(Refusal::new("sourceAddress", "is true or is left out")),
        None => Err(Refusal::new("", "says nothing, or something that this version does not know")),
    };
    super::each("hash", wire, key)
}

fn external_host(wire: &v1::ExternalHost) -> Result<ExternalHost, Refusal> {
    let host = match wire.host.parse::<std::net::IpAddr>() {
        Ok(_) => check::ip("host", &wire.host)?.to_string(),
        Err(_) => check::hostname("host", &wire.host)?,
    };
    Ok(ExternalHost { host: host.into(), port: check::port("port", wire.port)? })
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
