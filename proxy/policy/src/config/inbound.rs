//! `weft.v1.Inbound`: what one workload's sidecar enforces on the way in. Authorities and server names are only keys: what is in no
//! port's list reaches nothing.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;

use weft_proto::v1;

use super::{Protocol, Refusal};
use crate::{authorize, limit};

/// Everything a workload's sidecar enforces on the way in. Resource name: workload uid.
#[derive(Clone, Debug)]
pub struct Inbound {
    /// Workload uid, `namespace/name`.
    pub workload: Arc<str>,
    /// The workload's own SPIFFE id.
    pub identity: Arc<str>,
    /// Ports; numbers are unique.
    pub ports: Vec<Arc<InboundPort>>,
    /// Invariant: every value is an index of `ports`; keys are lower case and belong to one port only.
    authorities: HashMap<Box<str>, usize, foldhash::fast::RandomState>,
    /// Invariant: as `authorities`.
    server_names: HashMap<Box<str>, usize, foldhash::fast::RandomState>,
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
    /// Who may call.
    pub authorization: authorize::Policies,
    /// `namespace/name` of the service, for metrics; may be empty.
    pub service: Arc<str>,
    /// Bulkhead of the port.
    pub limits: limit::Settings,
}

impl Inbound {
    /// Converts and checks.
    pub fn from_wire(wire: &v1::Inbound) -> Result<Self, Refusal> {
        unimplemented!("{wire:?}")
    }

    /// The port that a CONNECT authority is a key of (compared in lower case, without allocation when it is so already).
    pub fn by_authority(&self, authority: &str) -> Option<&Arc<InboundPort>> {
        self.authorities.get(authority).and_then(|i| self.ports.get(*i))
    }

    /// The port that a server name is a key of.
    pub fn by_server_name(&self, server_name: &str) -> Option<&Arc<InboundPort>> {
        self.server_names.get(server_name).and_then(|i| self.ports.get(*i))
    }

    /// The port of that number (plaintext arrives by number).
    pub fn by_port(&self, port: u16) -> Option<&Arc<InboundPort>> {
        self.ports.iter().find(|p| p.port == port)
    }
}
