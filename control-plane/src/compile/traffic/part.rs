//! What one `TrafficPolicy` says, on the wire, and how the parts of several are joined.

use super::super::names;
use super::super::route::{Unresolved, duration, http_matches, resolve_port};
use crate::kinds::{
    Abort, BalancerPolicy, CircuitBreaker, Delay, Fallback, Fault, Fraction, HashKey, HealthCheck, LoadBalancer, Retry,
    TrafficPolicySpec,
};
use crate::world::World;
use std::collections::BTreeSet;
use weft_proto::v1;

/// What one policy says, or several together; slices and routes are empty.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Part {
    /// For calls addressed to the port.
    pub frontend: v1::Frontend,
    /// For calls that end there.
    pub backend: v1::Backend,
    /// Whether zones are ignored for those. `None`: nothing is said of it, which the wire cannot say.
    locality: Option<bool>,
    /// Where calls arrive.
    pub inbound: Option<v1::AdaptiveConcurrency>,
}

impl Part {
    /// Reads a spec whose fields go together. Services that it refers to are added to `named`, those that are not there to `unresolved`.
    ///
    /// # Errors
    /// The first field that a sidecar would refuse, and why.
    pub(super) fn of(
        world: &World,
        namespace: &str,
        spec: &TrafficPolicySpec,
        named: &mut BTreeSet<String>,
        unresolved: &mut Vec<Unresolved>,
    ) -> Result<Self, String> {
        let faults = spec.faults.iter().enumerate().map(|(i, f)| fault(&format!("spec.faults[{i}]"), f));
        let mut frontend = calls(spec);
        frontend.faults = faults.collect::<Result<_, _>>()?;
        frontend.fallback = spec.fallback.as_ref().map(|f| fallback(world, namespace, f, named, unresolved));
        let locality = spec.load_balancer.as_ref().and_then(|l| l.ignore_locality);
        let inbound = spec.adaptive_concurrency.as_ref();
        let inbound =
            inbound.map(|a| v1::AdaptiveConcurrency { min_requests: a.min_requests, max_requests: a.max_requests });
        let part = Self { frontend, backend: endpoints(spec, locality), locality, inbound };
        part.check().map(|()| part)
    }

    /// Takes what is not said here from another.
    pub(super) fn or(mut self, other: &Self) -> Self {
        let (f, g) = (&mut self.frontend, &other.frontend);
        f.request_timeout = f.request_timeout.or(g.request_timeout);
        f.backend_request_timeout = f.backend_request_timeout.or(g.backend_request_timeout);
        f.idle_timeout = f.idle_timeout.or(g.idle_timeout);
        f.retry = f.retry.take().or_else(|| g.retry.clone());
        f.retry_budget = f.retry_budget.or(g.retry_budget);
        if f.faults.is_empty() {
            f.faults.clone_from(&g.faults);
        }
        f.fallback = f.fallback.take().or_else(|| g.fallback.clone());
        f.hedge = f.hedge.or(g.hedge);
        let (b, c) = (&mut self.backend, &other.backend);
        // What is hashed belongs to the algorithm that hashes.
        if b.balancer == i32::from(v1::Balancer::Default) {
            b.balancer = c.balancer;
            b.hash.clone_from(&c.hash);
        }
        b.slow_start = b.slow_start.or(c.slow_start);
        b.panic_percent = b.panic_percent.or(c.panic_percent);
        b.health_check = b.health_check.take().or_else(|| c.health_check.clone());
        b.breaker = b.breaker.or(c.breaker);
        b.limits = b.limits.or(c.limits);
        b.connect_timeout = b.connect_timeout.or(c.connect_timeout);
        b.tcp_idle_timeout = b.tcp_idle_timeout.or(c.tcp_idle_timeout);
        self.locality = self.locality.or(other.locality);
        b.ignore_locality = self.locality.unwrap_or_default();
        self.inbound = self.inbound.or(other.inbound);
        self
    }

    /// Whether a sidecar would take it; the error names the field as people wrote it.
    fn check(&self) -> Result<(), String> {
        let port = v1::ServicePort {
            port: 80,
            frontend: Some(self.frontend.clone()),
            backend: Some(self.backend.clone()),
            ..Default::default()
        };
        let probe = v1::Service { name: "probe/probe".into(), ports: vec![port], ..Default::default() };
        weft_policy::config::Service::from_wire(&probe).map(drop).map_err(written)?;
        let port = v1::InboundPort {
            port: 80,
            local: "127.0.0.1:80".into(),
            adaptive_concurrency: self.inbound,
            ..Default::default()
        };
        let identity = names::identity("probe", "probe", "probe");
        let probe = v1::Inbound { workload: "probe/probe".into(), identity, ports: vec![port], ..Default::default() };
        weft_policy::config::Inbound::from_wire(&probe).map(drop).map_err(written)
    }
}

/// A sidecar's refusal in the words of the policy.
fn written(refusal: weft_policy::config::Refusal) -> String {
    // The longer of two that begin alike comes first.
    const NAMES: [(&str, &str); 20] = [
        ("frontend.retryBudget", "spec.retryBudget"),
        ("frontend.retry", "spec.retry"),
        ("frontend.requestTimeout", "spec.timeouts.request"),
        ("frontend.backendRequestTimeout", "spec.timeouts.backendRequest"),
        ("frontend.idleTimeout", "spec.timeouts.idle"),
        ("frontend.faults", "spec.faults"),
        ("frontend.fallback.backend", "spec.fallback.backendRef"),
        ("frontend.fallback", "spec.fallback"),
        ("frontend.hedge", "spec.hedging"),
        ("backend.breaker", "spec.circuitBreaker"),
        ("backend.limits", "spec.connectionLimits"),
        ("backend.connectTimeout", "spec.timeouts.connect"),
        ("backend.tcpIdleTimeout", "spec.timeouts.tcpIdle"),
        ("backend.balancer", "spec.loadBalancer.policy"),
        ("backend.hash", "spec.loadBalancer.hash"),
        ("backend.ignoreLocality", "spec.loadBalancer.ignoreLocality"),
        ("backend.slowStart", "spec.loadBalancer.slowStart"),
        ("backend.panicPercent", "spec.loadBalancer.panicPercent"),
        ("backend.healthCheck", "spec.healthCheck"),
        ("adaptiveConcurrency", "spec.adaptiveConcurrency"),
    ];
    let inner = refusal.field.strip_prefix("ports[0].").unwrap_or(&refusal.field);
    let found = NAMES.iter().find_map(|(wire, spec)| inner.strip_prefix(wire).map(|rest| format!("{spec}{rest}")));
    format!("{}: {}", found.unwrap_or_else(|| format!("spec.{inner}")), refusal.reason)
}

/// What holds for calls, apart from what stands in for them.
fn calls(spec: &TrafficPolicySpec) -> v1::Frontend {
    let timeouts = spec.timeouts.clone().unwrap_or_default();
    v1::Frontend {
        request_timeout: timeouts.request.and_then(duration),
        backend_request_timeout: timeouts.backend_request.and_then(duration),
        retry: spec.retry.as_ref().map(retry),
        retry_budget: spec.retry_budget.as_ref().map(|b| v1::RetryBudget {
            percent: b.percent,
            min_per_second: b.min_per_second,
            window: b.window.and_then(duration),
        }),
        idle_timeout: timeouts.idle.and_then(duration),
        hedge: spec.hedging.as_ref().map(|h| v1::Hedge {
            percentile: h.percentile.unwrap_or_default(),
            min_delay: h.min_delay.and_then(duration),
        }),
        ..Default::default()
    }
}

fn retry(spec: &Retry) -> v1::RetryPolicy {
    v1::RetryPolicy {
        attempts: spec.attempts,
        codes: spec.codes.iter().map(|c| u32::from(*c)).collect(),
        methods: spec.methods.clone(),
        backoff: spec.backoff.and_then(duration),
        grpc_codes: spec.grpc_codes.clone(),
    }
}

/// What holds for the endpoints that calls end at.
fn endpoints(spec: &TrafficPolicySpec, ignore_locality: Option<bool>) -> v1::Backend {
    let timeouts = spec.timeouts.clone().unwrap_or_default();
    let balancer = spec.load_balancer.clone().unwrap_or_default();
    v1::Backend {
        balancer: algorithm(&balancer).into(),
        hash: balancer.hash.iter().map(hash_key).collect(),
        ignore_locality: ignore_locality.unwrap_or_default(),
        slow_start: balancer.slow_start.and_then(duration),
        panic_percent: balancer.panic_percent,
        health_check: spec.health_check.as_ref().map(health_check),
        breaker: spec.circuit_breaker.as_ref().map(breaker),
        limits: spec.connection_limits.as_ref().map(|l| v1::Limits {
            connections: l.max_connections,
            pending: l.max_pending_requests,
            requests: l.max_requests,
        }),
        connect_timeout: timeouts.connect.and_then(duration),
        tcp_idle_timeout: timeouts.tcp_idle.and_then(duration),
        ..Default::default()
    }
}

fn algorithm(spec: &LoadBalancer) -> v1::Balancer {
    match spec.policy {
        None => v1::Balancer::Default,
        Some(BalancerPolicy::PeakEwma) => v1::Balancer::PeakEwma,
        Some(BalancerPolicy::LeastRequest) => v1::Balancer::LeastRequest,
        Some(BalancerPolicy::RoundRobin) => v1::Balancer::RoundRobin,
        Some(BalancerPolicy::Random) => v1::Balancer::Random,
        Some(BalancerPolicy::RingHash) => v1::Balancer::RingHash,
        Some(BalancerPolicy::Maglev) => v1::Balancer::Maglev,
    }
}

fn hash_key(spec: &HashKey) -> v1::HashKey {
    use v1::hash_key::Key;
    let header = spec.header.clone().map(Key::Header);
    let key = header.or_else(|| spec.cookie.clone().map(Key::Cookie));
    v1::HashKey { key: key.or_else(|| spec.source_address.map(Key::SourceAddress)) }
}

fn breaker(spec: &CircuitBreaker) -> v1::CircuitBreaker {
    v1::CircuitBreaker {
        disabled: spec.disabled,
        consecutive_failures: spec.consecutive_failures,
        success_percent: spec.success_percent,
        minimum_calls: spec.minimum_calls,
        window: spec.window.and_then(duration),
        base_open: spec.base_open.and_then(duration),
        max_open: spec.max_open.and_then(duration),
    }
}

fn health_check(spec: &HealthCheck) -> v1::HealthCheck {
    use v1::health_check::Probe;
    let http = spec.http.as_ref().map(|h| {
        Probe::Http(v1::HttpProbe {
            path: h.path.clone().unwrap_or_default(),
            host: h.host.clone().unwrap_or_default(),
            statuses: h.statuses.iter().map(|s| u32::from(*s)).collect(),
        })
    });
    let grpc =
        || spec.grpc.as_ref().map(|g| Probe::Grpc(v1::GrpcProbe { service: g.service.clone().unwrap_or_default() }));
    let tcp = || spec.tcp.as_ref().map(|_| Probe::Tcp(v1::TcpProbe {}));
    v1::HealthCheck {
        probe: http.or_else(grpc).or_else(tcp),
        interval: spec.interval.and_then(duration),
        timeout: spec.timeout.and_then(duration),
        healthy_threshold: spec.healthy_threshold.unwrap_or_default(),
        unhealthy_threshold: spec.unhealthy_threshold.unwrap_or_default(),
    }
}

fn fault(field: &str, spec: &Fault) -> Result<v1::Fault, String> {
    let delay = |d: &Delay| v1::fault::Delay { fixed: duration(d.fixed), share: share(d.percent, d.fraction) };
    let abort = |a: &Abort| v1::fault::Abort {
        status: a.status.into(),
        grpc_status: a.grpc_status,
        share: share(a.percent, a.fraction),
    };
    Ok(v1::Fault {
        matches: http_matches(&format!("{field}.matches"), &spec.matches)?,
        delay: spec.delay.as_ref().map(delay),
        abort: spec.abort.as_ref().map(abort),
    })
}

/// `None`: all.
fn share(percent: Option<u32>, fraction: Option<Fraction>) -> Option<v1::Share> {
    let of = |numerator: u32, denominator: u32| {
        let millionths = u64::from(numerator) * 1_000_000 / u64::from(denominator.max(1));
        v1::Share { millionths: u32::try_from(millionths).unwrap_or(u32::MAX) }
    };
    let percent = percent.map(|percent| of(percent, 100));
    percent.or_else(|| fraction.map(|f| of(f.numerator, f.denominator.unwrap_or(100))))
}

fn fallback(
    world: &World,
    namespace: &str,
    spec: &Fallback,
    named: &mut BTreeSet<String>,
    unresolved: &mut Vec<Unresolved>,
) -> v1::Fallback {
    use v1::fallback::To;
    let backend = spec.backend_ref.as_ref().map(|to| {
        let service = names::namespaced(to.namespace.as_deref().unwrap_or(namespace), &to.name);
        let missing = resolve_port(world, &service, to.port).err();
        let reason = missing.as_ref().map(|(reason, _)| (*reason).to_owned()).unwrap_or_default();
        named.insert(service.clone());
        unresolved.extend(missing.map(|(reason, text)| (reason, format!("spec.fallback.backendRef: {text}"))));
        To::Backend(v1::FallbackBackend { service, port: to.port.into(), unresolved: reason })
    });
    let response = || {
        let response = spec.response.as_ref()?;
        Some(To::Response(v1::FixedResponse {
            status: response.status.into(),
            content_type: response.content_type.clone().unwrap_or_default(),
            body: response.body.clone().unwrap_or_default().into_bytes(),
        }))
    };
    v1::Fallback { to: backend.or_else(response) }
}
