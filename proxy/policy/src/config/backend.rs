//! `weft.v1.Backend` and `weft.v1.Endpoints`: how the endpoints of a port are used as a target, and where they are.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use weft_proto::v1;

use super::{Protocol, Refusal};
use crate::{balance, breaker, limit};

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

impl Endpoints {
    /// Converts and checks.
    pub fn from_wire(wire: &v1::Endpoints) -> Result<Self, Refusal> {
        unimplemented!("{wire:?}")
    }
}
