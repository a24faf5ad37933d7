//! `weft.v1.Service`: names, addresses and ports of a service as one client namespace sees it. Routes are compiled by [`super::rules`].

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use weft_proto::v1;

use super::{Backend, Protocol, Refusal};
use crate::{retry, route};

/// A service. Resource name `namespace/name`, or `namespace/~workload` for a workload's own address.
#[derive(Clone, Debug)]
pub struct Service {
    /// `namespace/name`.
    pub name: Arc<str>,
    /// Host names in lower case, without ports.
    pub hostnames: Vec<Arc<str>>,
    /// Virtual addresses.
    pub vips: Vec<IpAddr>,
    /// Ports; numbers are unique.
    pub ports: Vec<ServicePort>,
}

/// One port of a service. A call addressed to it uses `frontend`; a backendRef to it uses only `backend`.
#[derive(Clone, Debug)]
pub struct ServicePort {
    /// Port number, never 0.
    pub port: u16,
    /// Name; may be empty.
    pub name: Arc<str>,
    /// Declared protocol.
    pub protocol: Protocol,
    /// How calls addressed to the port are routed.
    pub frontend: Arc<Frontend>,
    /// How the endpoints of the port are used as a target.
    pub backend: Arc<Backend>,
}

/// How calls addressed to a port are routed.
#[derive(Clone, Debug)]
pub struct Frontend {
    /// Compiled routes; without any, the implicit rule that sends everything to the port's own backend.
    pub routes: route::Table,
    /// The budget that retries of all rules share.
    pub retry_budget: retry::BudgetSettings,
    /// Streams with no frame either way for this long end. `None`: disabled.
    pub idle_timeout: Option<Duration>,
}

impl Service {
    /// Converts and checks.
    pub fn from_wire(wire: &v1::Service) -> Result<Self, Refusal> {
        unimplemented!("{wire:?}")
    }

    /// The port of that number.
    pub fn port(&self, port: u16) -> Option<&ServicePort> {
        self.ports.iter().find(|p| p.port == port)
    }
}
