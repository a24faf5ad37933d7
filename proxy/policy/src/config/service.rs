//! `weft.v1.Service`: names, addresses and ports of a service as one client namespace sees it. Routes are compiled by
//! [`super::rules`], backends converted by [`super::backend`].

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use http::HeaderValue;
use weft_proto::v1;

use super::check::{self, Unique};
use super::{Backend, Protocol, Refusal, rules};
use crate::fault::Faults;
use crate::route::{BackendName, Target};
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
    /// Streams with no frame either way for this long end. `None`: disabled. Default 5 min.
    pub idle_timeout: Option<Duration>,
    /// Failures made on purpose.
    pub faults: Faults,
    /// Where calls go whose backend has nobody to answer them.
    pub fallback: Option<Fallback>,
    /// Second attempts while the first is out; `None`: never.
    pub hedge: Option<Hedge>,
}

/// What answers a call whose backend has no endpoint that may be called: none is ready, every breaker is open, or it is not known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fallback {
    /// Another backend; as if there were no fallback, where the reference does not resolve.
    Backend(Target),
    /// A response.
    Response(FixedResponse),
}

/// A response that is always the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FixedResponse {
    /// 200 to 599.
    pub status: u16,
    /// Media type of the body.
    pub content_type: Option<HeaderValue>,
    /// At most 64 KiB.
    pub body: Arc<[u8]>,
}

/// When a second attempt is sent while the first is out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hedge {
    /// After this percentile of the rule's recent latencies, 1 to 99. Default 95.
    pub percentile: u8,
    /// Never sooner. Default 1 ms.
    pub min_delay: Duration,
}

impl Frontend {
    /// Names of services that calls may go to, copies and fallback included, as often as they occur.
    pub fn targets(&self) -> impl Iterator<Item = &BackendName> {
        let fallback = match &self.fallback {
            Some(Fallback::Backend(target)) => target.name(),
            _ => None,
        };
        self.routes.rules().iter().flat_map(|rule| rule.targets()).chain(fallback)
    }
}

impl Service {
    /// Converts and checks.
    ///
    /// # Errors
    /// The first field that is malformed, out of bounds, twice there or in contradiction with another.
    pub fn from_wire(wire: &v1::Service) -> Result<Self, Refusal> {
        check::namespaced_name("name", &wire.name)?;
        check::bounded("hostnames", &wire.hostnames, 1024)?;
        check::bounded("vips", &wire.vips, 64)?;
        check::bounded("ports", &wire.ports, 1024)?;
        let name: Arc<str> = wire.name.as_str().into();

        let mut seen = Unique::new();
        let mut hostnames = Vec::with_capacity(wire.hostnames.len());
        for (i, text) in wire.hostnames.iter().enumerate() {
            let field = format!("hostnames[{i}]");
            let hostname = check::hostname(&field, text)?;
            hostnames.push(Arc::from(hostname.as_str()));
            seen.claim(&field, hostname)?;
        }

        let mut seen = Unique::new();
        let mut vips = Vec::with_capacity(wire.vips.len());
        for (i, text) in wire.vips.iter().enumerate() {
            let field = format!("vips[{i}]");
            let vip = check::ip(&field, text)?;
            seen.claim(&field, vip)?;
            vips.push(vip);
        }

        let mut numbers = Unique::new();
        let mut ports = Vec::with_capacity(wire.ports.len());
        for (i, port) in wire.ports.iter().enumerate() {
            let converted = service_port(&name, port, &mut numbers).map_err(|r| r.under(format_args!("ports[{i}]")))?;
            ports.push(converted);
        }
        Ok(Service { name, hostnames, vips, ports })
    }

    /// The port of that number.
    pub fn port(&self, port: u16) -> Option<&ServicePort> {
        self.ports.iter().find(|p| p.port == port)
    }
}

fn service_port(service: &Arc<str>, wire: &v1::ServicePort, numbers: &mut Unique<u16>) -> Result<ServicePort, Refusal> {
    let port = check::port("port", wire.port)?;
    numbers.claim("port", port)?;
    if !wire.name.is_empty() && !check::is_label(&wire.name) {
        return Err(Refusal::new("name", format!("{:?} is no port name (a DNS label)", wire.name)));
    }
    let protocol = Protocol::from_wire(wire.protocol)?;
    let own = BackendName { service: Arc::clone(service), port };
    let default = v1::Frontend::default();
    let frontend = wire.frontend.as_ref().unwrap_or(&default);
    let frontend = rules::frontend(frontend, protocol, own).map_err(|r| r.under("frontend"))?;
    let backend = match &wire.backend {
        Some(backend) => Backend::from_wire(backend).map_err(|r| r.under("backend"))?,
        None => Backend::default(),
    };
    Ok(ServicePort {
        port,
        name: wire.name.as_str().into(),
        protocol,
        frontend: Arc::new(frontend),
        backend: Arc::new(backend),
    })
}
