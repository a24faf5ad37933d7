//! `weft.v1.Inbound`: what one workload's sidecar enforces on the way in. Authorities and server names are only keys:
//! what is in no port's list reaches nothing.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;

use weft_proto::v1;

use super::authentication::Authentication;
use super::check::{self, Unique};
use super::{Protocol, Refusal, backend, rates};
use crate::{authorize, limit};

/// Everything a workload's sidecar enforces on the way in. Resource name: workload uid.
#[derive(Clone, Debug)]
pub struct Inbound {
    /// Workload uid, `namespace/name`.
    pub workload: Arc<str>,
    /// The workload's own SPIFFE id.
    pub identity: Arc<str>,
    /// Region that the workload runs in; may be empty.
    pub region: Arc<str>,
    /// Zone; may be empty.
    pub zone: Arc<str>,
    /// Ports; numbers are unique.
    pub ports: Vec<Arc<InboundPort>>,
    /// Invariant: every value is an index of `ports`; keys are lower case and belong to one port only.
    authorities: Keys,
    /// Invariant: as `authorities`.
    server_names: Keys,
}

/// Whether a port insists on mutual TLS.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum TlsMode {
    /// Only mutually authenticated callers.
    #[default]
    Strict,
    /// Plaintext is taken too.
    Permissive,
    /// Plaintext only.
    Disabled,
}

/// One port of the workload.
#[derive(Clone, Debug)]
pub struct InboundPort {
    /// Port number, never 0.
    pub port: u16,
    /// CONNECT authorities that mean this port.
    pub authorities: Vec<Arc<str>>,
    /// Server names that mean this port.
    pub server_names: Vec<Arc<str>>,
    /// Where the application listens.
    pub local: SocketAddr,
    /// Declared protocol.
    pub protocol: Protocol,
    /// Whether mutual TLS is required.
    pub tls: TlsMode,
    /// The MeshTLS object that says so (`shop/strict`); empty: the mesh default.
    pub tls_source: Arc<str>,
    /// Which tokens requests may bring; `None`: they are not looked at.
    pub authentication: Option<Arc<Authentication>>,
    /// Who may call.
    pub authorization: authorize::Policies,
    /// Whether answers name the rule that decided.
    pub authorization_header: bool,
    /// `namespace/name` of the service, for metrics; may be empty.
    pub service: Arc<str>,
    /// Bulkhead of the port.
    pub limits: limit::Settings,
    /// What is counted over time; names are unique.
    pub rate_limits: Vec<Arc<limit::rate::Limit>>,
    /// Bounds of a limit on calls under way that follows latency. `None`: there is none, which is the default.
    pub adaptive_concurrency: Option<limit::adaptive::Settings>,
}

type Keys = HashMap<Box<str>, usize, foldhash::fast::RandomState>;

impl Inbound {
    /// Converts and checks.
    ///
    /// # Errors
    /// The first field that is malformed, out of bounds, twice there or in contradiction with another.
    pub fn from_wire(wire: &v1::Inbound) -> Result<Self, Refusal> {
        check::namespaced_name("workload", &wire.workload)?;
        check::identity("identity", &wire.identity)?;
        let (trust_domain, namespace, _) = check::identity_parts(&wire.identity).unwrap_or_default();
        if wire.workload.split('/').next() != Some(namespace) {
            return Err(Refusal::new(
                "identity",
                format!("is of namespace {namespace}, but the workload is {}", wire.workload),
            ));
        }
        check::bounded("ports", &wire.ports, 1024)?;
        let mut numbers = Unique::new();
        let mut ports: Vec<Arc<InboundPort>> = Vec::with_capacity(wire.ports.len());
        let (mut authorities, mut server_names) = (Keys::default(), Keys::default());
        for (i, wire) in wire.ports.iter().enumerate() {
            let converted = inbound_port(wire, trust_domain).and_then(|port| {
                numbers.claim("port", port.port)?;
                for (j, key) in port.authorities.iter().enumerate() {
                    claim(&mut authorities, &ports, key, i).map_err(|r| r.under(format_args!("authorities[{j}]")))?;
                }
                for (j, key) in port.server_names.iter().enumerate() {
                    claim(&mut server_names, &ports, key, i).map_err(|r| r.under(format_args!("serverNames[{j}]")))?;
                }
                Ok(port)
            });
            ports.push(Arc::new(converted.map_err(|r| r.under(format_args!("ports[{i}]")))?));
        }
        for (field, text) in [("region", &wire.region), ("zone", &wire.zone)] {
            check::bounded(field, text.as_bytes(), 253)?;
        }
        Ok(Inbound {
            workload: wire.workload.as_str().into(),
            identity: wire.identity.as_str().into(),
            region: wire.region.as_str().into(),
            zone: wire.zone.as_str().into(),
            ports,
            authorities,
            server_names,
        })
    }

    /// The port that a CONNECT authority is a key of. Case does not matter.
    pub fn by_authority(&self, authority: &str) -> Option<&Arc<InboundPort>> {
        self.keyed(&self.authorities, authority)
    }

    /// The port that a server name is a key of. Case does not matter.
    pub fn by_server_name(&self, server_name: &str) -> Option<&Arc<InboundPort>> {
        self.keyed(&self.server_names, server_name)
    }

    /// The port of that number (plaintext arrives by number).
    pub fn by_port(&self, port: u16) -> Option<&Arc<InboundPort>> {
        self.ports.iter().find(|p| p.port == port)
    }

    /// Does not allocate when the key is in lower case already, as Weft's own sidecars write it.
    fn keyed(&self, keys: &Keys, key: &str) -> Option<&Arc<InboundPort>> {
        let index = match keys.get(key) {
            None if key.len() <= LONGEST_KEY && key.bytes().any(|b| b.is_ascii_uppercase()) => {
                keys.get(key.to_ascii_lowercase().as_str())
            }
            found => found,
        };
        index.and_then(|i| self.ports.get(*i))
    }
}

/// A DNS name and a port, or an IPv6 address with brackets and a port.
const LONGEST_KEY: usize = 260;

fn claim(keys: &mut Keys, ports: &[Arc<InboundPort>], key: &str, index: usize) -> Result<(), Refusal> {
    match keys.insert(key.into(), index) {
        None => Ok(()),
        Some(other) => {
            let holder = ports.get(other).map_or_else(|| "this port".to_owned(), |p| format!("port {}", p.port));
            Err(Refusal::new("", format!("{key} is a key of {holder} already")))
        }
    }
}

fn inbound_port(wire: &v1::InboundPort, trust_domain: &str) -> Result<InboundPort, Refusal> {
    let port = check::port("port", wire.port)?;
    check::bounded("authorities", &wire.authorities, 1024)?;
    check::bounded("serverNames", &wire.server_names, 1024)?;
    let mut authorities: Vec<Arc<str>> = Vec::with_capacity(wire.authorities.len());
    for (i, text) in wire.authorities.iter().enumerate() {
        authorities.push(authority(&format!("authorities[{i}]"), text)?.into());
    }
    let mut server_names: Vec<Arc<str>> = Vec::with_capacity(wire.server_names.len());
    for (i, text) in wire.server_names.iter().enumerate() {
        server_names.push(check::hostname(&format!("serverNames[{i}]"), text)?.into());
    }
    let tls = match v1::TlsMode::try_from(wire.tls) {
        Ok(v1::TlsMode::Strict) => TlsMode::Strict,
        Ok(v1::TlsMode::Permissive) => TlsMode::Permissive,
        Ok(v1::TlsMode::Disabled) => TlsMode::Disabled,
        Err(_) => return Err(Refusal::new("tls", format!("{} is no TLS mode", wire.tls))),
    };
    check::bounded("tlsSource", wire.tls_source.as_bytes(), 512)?;
    if !wire.service.is_empty() {
        check::namespaced_name("service", &wire.service)?;
    }
    let limits = match &wire.limits {
        Some(limits) => backend::limit_settings(limits).map_err(|r| r.under("limits"))?,
        None => limit::Settings::default(),
    };
    Ok(InboundPort {
        port,
        authorities,
        server_names,
        local: check::socket("local", &wire.local)?,
        protocol: Protocol::from_wire(wire.protocol)?,
        tls,
        tls_source: wire.tls_source.as_str().into(),
        authentication: super::authentication::authentication(&wire.request_authentication)?.map(Arc::new),
        authorization_header: wire.authorization_header,
        authorization: super::authorization::policies(&wire.authorization, trust_domain, port)?,
        service: wire.service.as_str().into(),
        limits,
        rate_limits: rates::limits(&wire.rate_limits)?,
        adaptive_concurrency: wire
            .adaptive_concurrency
            .as_ref()
            .map(rates::adaptive)
            .transpose()
            .map_err(|r| r.under("adaptiveConcurrency"))?,
    })
}

/// `<ip>:<port>`, `[<ipv6>]:<port>` or `<host name>:<port>`, in its one spelling.
fn authority(field: &str, text: &str) -> Result<String, Refusal> {
    if let Ok(address) = text.parse::<SocketAddr>()
        && address.port() != 0
    {
        return Ok(address.to_string());
    }
    let named = text.rsplit_once(':').filter(|(_, port)| port.parse::<u16>().is_ok_and(|p| p != 0));
    match named {
        Some((host, port)) => Ok(format!("{}:{port}", check::hostname(field, host)?)),
        None => Err(Refusal::new(field, format!("{text:?} is not of the form <address>:<port>"))),
    }
}
