//! The application's ports as sets of one endpoint: what limits calls to it and counts those under way, shared by all workers.
//!
//! Made from `Inbound` when a port is first called and again when its configuration changes. An application is never ejected by its own
//! sidecar: callers decide that for themselves.

use crate::endpoint::Cluster;
use crate::exchange::Exchange;
use foldhash::HashMap;
use parking_lot::RwLock;
use std::sync::Arc;
use std::time::Duration;
use weft_policy::config::{Backend, Endpoint, Health, InboundPort};
use weft_policy::{balance, breaker};

/// How long the local application may take to accept a connection.
const CONNECT: Duration = Duration::from_secs(1);
const TCP_IDLE: Duration = Duration::from_secs(3600);

/// Clusters by port number.
#[derive(Debug, Default)]
pub struct Ports(RwLock<HashMap<u16, Port>>);

/// A port's cluster, and the configuration that it was last updated with.
type Port = (Arc<InboundPort>, Arc<Cluster>);

impl Ports {
    /// None yet.
    #[must_use]
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    /// The set of a port, under its current configuration.
    pub(super) fn cluster(&self, exchange: &Exchange, port: &Arc<InboundPort>) -> Arc<Cluster> {
        if let Some((known, cluster)) = self.0.read().get(&port.port)
            && Arc::ptr_eq(known, port)
        {
            return Arc::clone(cluster);
        }
        let mut all = self.0.write();
        let backend = backend(port);
        let cluster = match all.get(&port.port) {
            Some((_, cluster)) => Arc::clone(cluster),
            None => Cluster::new(Arc::clone(&port.service), port.port, Arc::clone(&backend)),
        };
        cluster.update(backend, [endpoint(exchange, port)]);
        all.insert(port.port, (Arc::clone(port), Arc::clone(&cluster)));
        cluster
    }
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
