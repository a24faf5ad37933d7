//! The application's ports, shared by all workers: each as a set of one endpoint, which limits calls to it and counts those under way, and
//! what admits calls to it by rate and by latency.
//!
//! Made from `Inbound` when a port is first called and again when its configuration changes; what was counted stays. An application is
//! never ejected by its own sidecar: callers decide that for themselves.

use super::token::Tokens;
use crate::endpoint::Cluster;
use crate::exchange::Exchange;
use foldhash::HashMap;
use parking_lot::RwLock;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::Notify;
use weft_policy::config::{Backend, Endpoint, Health, InboundPort};
use weft_policy::limit::adaptive::Limiter;
use weft_policy::limit::lease;
use weft_policy::limit::rate::{RateLimits, Scope};
use weft_policy::{balance, breaker};

/// How long the local application may take to accept a connection.
const CONNECT: Duration = Duration::from_secs(1);
const TCP_IDLE: Duration = Duration::from_secs(3600);

/// Ports by number.
#[derive(Debug, Default)]
pub struct Ports {
    known: RwLock<HashMap<u16, Arc<Port>>>,
    leases: Arc<Leases>,
}

/// Tokens of limits that all workloads of a service count together, and the news that more are wanted.
#[derive(Debug, Default)]
pub struct Leases {
    /// Spends them.
    pub client: Arc<lease::Client>,
    /// Told when there is something to ask the control plane for.
    pub wanted: Notify,
}

/// One port.
#[derive(Debug)]
pub struct Port {
    config: Arc<InboundPort>,
    /// The application as a set of one endpoint.
    pub cluster: Arc<Cluster>,
    /// `None`: tokens are not looked at.
    pub tokens: Option<Tokens>,
    /// `None`: no rate is limited.
    pub rates: Option<RateLimits>,
    /// Whether any of them is leased.
    pub leased: bool,
    /// `None`: calls in flight are bounded by `limits` alone.
    pub adaptive: Option<Arc<Limiter>>,
}

impl Ports {
    /// None yet.
    #[must_use]
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    /// What global limits lease.
    #[must_use]
    pub fn leases(&self) -> &Arc<Leases> {
        &self.leases
    }

    /// A port under its current configuration.
    pub(super) fn port(&self, exchange: &Exchange, port: &Arc<InboundPort>) -> Arc<Port> {
        if let Some(known) = self.known.read().get(&port.port)
            && Arc::ptr_eq(&known.config, port)
        {
            return Arc::clone(known);
        }
        let mut all = self.known.write();
        let before = all.get(&port.port);
        let backend = backend(port);
        let cluster = match before {
            Some(before) => Arc::clone(&before.cluster),
            None => Cluster::new(Arc::clone(&port.service), port.port, Arc::clone(&backend)),
        };
        cluster.update(backend, [endpoint(exchange, port)]);
        let limits = || port.rate_limits.clone();
        let rates = (!port.rate_limits.is_empty()).then(|| match before.and_then(|before| before.rates.as_ref()) {
            Some(before) => before.succeeded_by(limits()),
            None => RateLimits::new(limits(), Arc::clone(&self.leases.client)),
        });
        let adaptive =
            port.adaptive_concurrency.map(|settings| match before.and_then(|before| before.adaptive.as_ref()) {
                Some(limiter) => {
                    limiter.update(settings);
                    Arc::clone(limiter)
                }
                None => Arc::new(Limiter::new(settings, now())),
            });
        let leased = port.rate_limits.iter().any(|limit| limit.scope == Scope::Global);
        let tokens = port.authentication.as_ref().map(|wanted| Tokens::new(Arc::clone(wanted)));
        let made = Arc::new(Port { config: Arc::clone(port), cluster, tokens, rates, leased, adaptive });
        all.insert(port.port, Arc::clone(&made));
        made
    }
}

fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

fn backend(port: &InboundPort) -> Arc<Backend> {
    Arc::new(Backend {
        balancer: balance::Algorithm::RoundRobin,
        breaker: breaker::Settings { enabled: false, ..breaker::Settings::default() },
        limits: port.limits,
        connect_timeout: CONNECT,
        tcp_idle_timeout: Some(TCP_IDLE),
        ..Backend::default()
    })
}

fn endpoint(exchange: &Exchange, port: &InboundPort) -> Endpoint {
    Endpoint {
        uid: exchange.directory.snapshot().inbound.as_ref().map_or_else(Arc::default, |own| Arc::clone(&own.workload)),
        address: port.local,
        tunnel: None,
        health: Health::Ready,
        weight: 1,
        region: Arc::default(),
        zone: Arc::default(),
        protocol: None,
    }
}
