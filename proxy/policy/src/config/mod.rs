//! Wire → domain conversion of every `weft.v1` resource, **with all validation**.
//!
//! The control plane runs the same conversion before it pushes, so that a push is never refused; the sidecar runs it on
//! everything it receives or reads from a file. What comes out needs no further checks: ports are ports, addresses
//! parsed, regexes compiled, keys unique. Nothing here resolves, fetches or remembers.

mod authentication;
mod authorization;
mod backend;
#[cfg(test)]
mod bounds_tests;
mod check;
mod endpoints;
mod inbound;
mod mesh;
mod probe;
mod rates;
mod rules;
mod service;
mod telemetry;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod traffic_tests;

use std::collections::HashSet;
use std::fmt;

use weft_proto::v1;

use crate::route;
pub use authentication::{Authentication, ClaimHeader, TokenPlace, TokenRule};
pub use authorization::{authorization_key, authorization_value};
pub use backend::{Backend, ExternalHost};
use check::Unique;
pub use check::{identity_parts, is_namespaced_name};
pub use endpoints::{Endpoint, Endpoints, Health, Tunnel};
pub use inbound::{Inbound, InboundPort, TlsMode};
pub use mesh::{Cidr, Egress, RevocationList, Settings, TrustBundle};
pub use service::{Fallback, FixedResponse, Frontend, Hedge, Service, ServicePort};
pub use telemetry::{AccessLog, DEFAULT_SAMPLING, LogLayout, LoggedCalls, Receiver, Tracing, Transport};

/// Why a resource is not accepted: which field, and what is wrong with it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {reason}")]
pub struct Refusal {
    /// Path of the field in camelCase, from the resource down:
    /// `ports[0].frontend.routes[1].rules[0].matches[0].pathRegex`.
    pub field: String,
    /// What is wrong, as a sentence without a full stop that makes sense after the field.
    pub reason: String,
}

impl Refusal {
    /// A refusal of `field`, relative to whatever the caller is converting.
    pub fn new(field: impl Into<String>, reason: impl Into<String>) -> Self {
        Refusal { field: field.into(), reason: reason.into() }
    }

    /// The same refusal seen from one level further up.
    pub fn under(mut self, parent: impl fmt::Display) -> Self {
        self.field = match self.field.as_str() {
            "" => parent.to_string(),
            field if field.starts_with('[') => format!("{parent}{field}"),
            field => format!("{parent}.{field}"),
        };
        self
    }
}

/// What an application protocol is known to be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// Sniffed within a deadline.
    #[default]
    Detect,
    /// HTTP/1.0 or 1.1.
    Http1,
    /// HTTP/2 with prior knowledge.
    Http2,
    /// gRPC: HTTP/2 whose calls have a gRPC status.
    Grpc,
    /// Opaque bytes.
    Tcp,
}

impl Protocol {
    /// Checks the wire's number.
    pub fn from_wire(wire: i32) -> Result<Self, Refusal> {
        match v1::Protocol::try_from(wire) {
            Ok(v1::Protocol::Detect) => Ok(Protocol::Detect),
            Ok(v1::Protocol::Http1) => Ok(Protocol::Http1),
            Ok(v1::Protocol::Http2) => Ok(Protocol::Http2),
            Ok(v1::Protocol::Grpc) => Ok(Protocol::Grpc),
            Ok(v1::Protocol::Tcp) => Ok(Protocol::Tcp),
            Err(_) => Err(Refusal::new("protocol", format!("{wire} is no protocol"))),
        }
    }

    /// Whether calls of this protocol travel as HTTP/2 streams.
    pub fn is_http2(self) -> bool {
        matches!(self, Protocol::Http2 | Protocol::Grpc)
    }
}

/// What a `--resources` file holds: the same resources without a control plane. Names are unique, and what refers to
/// another resource finds it.
#[derive(Clone, Debug, Default)]
pub struct Resources {
    /// Services, as listed.
    pub services: Vec<Service>,
    /// Endpoint slices, as listed.
    pub endpoints: Vec<Endpoints>,
    /// What this workload enforces on the way in.
    pub inbound: Option<Inbound>,
    /// Trust bundles, one a trust domain.
    pub trust_bundles: Vec<TrustBundle>,
    /// Mesh settings.
    pub settings: Option<Settings>,
}

impl Resources {
    /// Converts and checks, also what refers to what.
    ///
    /// # Errors
    /// The first field that is malformed, out of bounds, twice there or in contradiction with another.
    pub fn from_wire(wire: &v1::Resources) -> Result<Self, Refusal> {
        let resources = Resources {
            services: each("services", &wire.services, Service::from_wire)?,
            endpoints: each("endpoints", &wire.endpoints, Endpoints::from_wire)?,
            inbound: wire.inbound.as_ref().map(Inbound::from_wire).transpose().map_err(|r| r.under("inbound"))?,
            trust_bundles: each("trustBundles", &wire.trust_bundles, TrustBundle::from_wire)?,
            settings: wire.settings.as_ref().map(Settings::from_wire).transpose().map_err(|r| r.under("settings"))?,
        };
        resources.names_are_unique()?;
        resources.references_resolve()?;
        Ok(resources)
    }

    fn names_are_unique(&self) -> Result<(), Refusal> {
        let (mut names, mut hosts, mut vips) = (Unique::new(), Unique::new(), Unique::new());
        for (i, service) in self.services.iter().enumerate() {
            let field = |rest: String| format!("services[{i}].{rest}");
            names.claim(&field("name".into()), &service.name)?;
            for (j, host) in service.hostnames.iter().enumerate() {
                hosts.claim(&field(format!("hostnames[{j}]")), host)?;
            }
            for (j, vip) in service.vips.iter().enumerate() {
                vips.claim(&field(format!("vips[{j}]")), vip)?;
            }
        }
        let mut slices = Unique::new();
        for (i, slice) in self.endpoints.iter().enumerate() {
            slices.claim(&format!("endpoints[{i}].name"), &slice.name)?;
        }
        let mut domains = Unique::new();
        for (i, bundle) in self.trust_bundles.iter().enumerate() {
            domains.claim(&format!("trustBundles[{i}].trustDomain"), &bundle.trust_domain)?;
        }
        Ok(())
    }

    fn references_resolve(&self) -> Result<(), Refusal> {
        let slices: HashSet<&str> = self.endpoints.iter().map(|e| &*e.name).collect();
        let backends: HashSet<(&str, u16)> =
            self.services.iter().flat_map(|s| s.ports.iter().map(|p| (&*s.name, p.port))).collect();
        for (i, service) in self.services.iter().enumerate() {
            for (j, port) in service.ports.iter().enumerate() {
                let field = |rest: String| format!("services[{i}].ports[{j}].{rest}");
                if let Some((k, slice)) = port.backend.slices.iter().enumerate().find(|(_, s)| !slices.contains(&***s))
                {
                    return Err(Refusal::new(
                        field(format!("backend.slices[{k}]")),
                        format!("no endpoints named {slice} are in the file"),
                    ));
                }
                let missing = |name: &&route::BackendName| !backends.contains(&(&*name.service, name.port));
                for rule in port.frontend.routes.rules() {
                    if let Some(name) = rule.targets().find(missing) {
                        return Err(Refusal::new(
                            field("frontend.routes".into()),
                            format!("rule {} of {} refers to {name}, which is not in the file", rule.index, rule.route),
                        ));
                    }
                }
                if let Some(name) = port.frontend.targets().find(missing) {
                    return Err(Refusal::new(
                        field("frontend.fallback.backend".into()),
                        format!("refers to {name}, which is not in the file"),
                    ));
                }
            }
        }
        Ok(())
    }
}

fn each<W, D>(field: &str, wire: &[W], convert: impl Fn(&W) -> Result<D, Refusal>) -> Result<Vec<D>, Refusal> {
    wire.iter().enumerate().map(|(i, w)| convert(w).map_err(|r| r.under(format_args!("{field}[{i}]")))).collect()
}
