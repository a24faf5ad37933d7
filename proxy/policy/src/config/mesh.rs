//! `weft.v1.MeshSettings` and `weft.v1.TrustBundle`: what holds for the whole mesh.

use std::net::IpAddr;
use std::sync::Arc;

use weft_proto::v1;

use super::Refusal;

/// Settings of the mesh. Resource name `mesh`.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// Trust domain of this mesh.
    pub trust_domain: Arc<str>,
    /// Cluster domain: `cluster.local`.
    pub domain: Arc<str>,
    /// What happens to calls that no service answers to.
    pub egress: Egress,
    /// Address ranges of services and workloads of the mesh.
    pub mesh_cidrs: Vec<Cidr>,
}

/// What happens to calls that leave the mesh.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Egress {
    /// They pass untouched.
    #[default]
    PassThrough,
    /// Only what is declared leaves.
    RegisteredOnly,
}

/// An address range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cidr {
    /// Network address, host bits zero.
    pub network: IpAddr,
    /// Prefix length, at most 32 or 128.
    pub length: u8,
}

/// The roots of one trust domain. Resource name: the trust domain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrustBundle {
    /// Trust domain.
    pub trust_domain: Arc<str>,
    /// Root certificates, DER, at least one.
    pub roots: Vec<Vec<u8>>,
    /// Certificates issued before this (seconds since the Unix epoch) are renewed at once. `None`: none.
    pub reissue_after: Option<u64>,
}

impl Settings {
    /// Converts and checks.
    pub fn from_wire(wire: &v1::MeshSettings) -> Result<Self, Refusal> {
        unimplemented!("{wire:?}")
    }

    /// Whether an address belongs to the mesh's own ranges.
    pub fn in_mesh(&self, address: IpAddr) -> bool {
        self.mesh_cidrs.iter().any(|range| range.contains(address))
    }
}

impl Cidr {
    /// Whether the address lies in the range. IPv4-mapped IPv6 addresses count as IPv4.
    pub fn contains(&self, address: IpAddr) -> bool {
        unimplemented!("{address}")
    }
}

impl TrustBundle {
    /// Converts and checks.
    pub fn from_wire(wire: &v1::TrustBundle) -> Result<Self, Refusal> {
        unimplemented!("{wire:?}")
    }
}
