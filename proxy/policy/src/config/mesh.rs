//! `weft.v1.MeshSettings` and `weft.v1.TrustBundle`: what holds for the whole mesh.

use std::net::IpAddr;
use std::sync::Arc;

use weft_proto::v1;

use super::check::{self, Unique};
use super::{AccessLog, Refusal, Tracing};

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
    /// Other trust domains whose bundles are to be asked for; none but these is trusted besides the own one.
    pub federated: Vec<Arc<str>>,
    /// Where spans of calls go. `None`: as each sidecar was told at its start.
    pub tracing: Option<Tracing>,
    /// Which calls leave a line. `None`: as each sidecar was told at its start.
    pub access_log: Option<AccessLog>,
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
    /// What was revoked below the roots, a list for each authority.
    pub revocations: Vec<RevocationList>,
}

/// A revocation list as it travels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RevocationList {
    /// The CRL, DER.
    pub crl: Vec<u8>,
    /// Certificate of the authority that signed it, DER, then those above it, without the root.
    pub issuer: Vec<Vec<u8>>,
}

impl Settings {
    /// Converts and checks.
    ///
    /// # Errors
    /// The first field that is malformed.
    pub fn from_wire(wire: &v1::MeshSettings) -> Result<Self, Refusal> {
        check::trust_domain("trustDomain", &wire.trust_domain)?;
        let domain = if wire.domain.is_empty() { "cluster.local" } else { wire.domain.as_str() };
        let egress = match v1::Egress::try_from(wire.egress) {
            Ok(v1::Egress::PassThrough) => Egress::PassThrough,
            Ok(v1::Egress::RegisteredOnly) => Egress::RegisteredOnly,
            Err(_) => return Err(Refusal::new("egress", format!("{} is no egress mode", wire.egress))),
        };
        check::bounded("meshCidrs", &wire.mesh_cidrs, 1024)?;
        let mut mesh_cidrs = Vec::with_capacity(wire.mesh_cidrs.len());
        for (i, text) in wire.mesh_cidrs.iter().enumerate() {
            mesh_cidrs.push(cidr(&format!("meshCidrs[{i}]"), text)?);
        }
        check::bounded("federatedTrustDomains", &wire.federated_trust_domains, 64)?;
        let mut seen = Unique::new();
        for (i, domain) in wire.federated_trust_domains.iter().enumerate() {
            let field = format!("federatedTrustDomains[{i}]");
            check::trust_domain(&field, domain)?;
            seen.claim(&field, domain.as_str())?;
        }
        let tracing = wire.tracing.as_ref().map(|tracing| Tracing::from_wire("tracing", tracing)).transpose()?;
        let access_log = wire.access_log.as_ref().map(|log| AccessLog::from_wire("accessLog", log)).transpose()?;
        Ok(Settings {
            trust_domain: wire.trust_domain.as_str().into(),
            domain: check::hostname("domain", domain)?.into(),
            egress,
            mesh_cidrs,
            federated: wire.federated_trust_domains.iter().map(|domain| domain.as_str().into()).collect(),
            tracing,
            access_log,
        })
    }

    /// Whether an address belongs to the mesh's own ranges.
    pub fn in_mesh(&self, address: IpAddr) -> bool {
        self.mesh_cidrs.iter().any(|range| range.contains(address))
    }
}

impl Cidr {
    /// Whether the address lies in the range. IPv4-mapped IPv6 addresses count as IPv4.
    pub fn contains(&self, address: IpAddr) -> bool {
        match (self.network, address.to_canonical()) {
            (IpAddr::V4(network), IpAddr::V4(address)) => {
                let host = 32_u32.saturating_sub(self.length.into());
                let both = network.to_bits() ^ address.to_bits();
                both.checked_shr(host).unwrap_or(0) == 0
            }
            (IpAddr::V6(network), IpAddr::V6(address)) => {
                let host = 128_u32.saturating_sub(self.length.into());
                let both = network.to_bits() ^ address.to_bits();
                both.checked_shr(host).unwrap_or(0) == 0
            }
            _ => false,
        }
    }
}

impl std::fmt::Display for Cidr {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.network, self.length)
    }
}

impl std::str::FromStr for Cidr {
    type Err = Refusal;

    /// `192.0.2.0/24`, host bits zero.
    fn from_str(text: &str) -> Result<Self, Refusal> {
        cidr("range", text)
    }
}

pub(super) fn cidr(field: &str, text: &str) -> Result<Cidr, Refusal> {
    let refuse = || Refusal::new(field, format!("{text:?} is no address range such as 192.0.2.0/24"));
    let (network, length) = text.split_once('/').ok_or_else(refuse)?;
    let network: IpAddr = network.parse().map_err(|_| refuse())?;
    let length: u8 = length.parse().map_err(|_| refuse())?;
    let host_bits = match network {
        IpAddr::V4(network) if length <= 32 => u128::from(network.to_bits()) & ((1 << (32 - u32::from(length))) - 1),
        IpAddr::V6(network) if length <= 128 => network.to_bits() & u128::MAX.checked_shr(length.into()).unwrap_or(0),
        _ => return Err(refuse()),
    };
    if host_bits != 0 {
        return Err(Refusal::new(field, format!("{text} has bits set beyond its first {length}")));
    }
    Ok(Cidr { network, length })
}

impl TrustBundle {
    /// Converts and checks. The roots are checked to be whole DER values; what they certify is checked where TLS is.
    ///
    /// # Errors
    /// The first field that is malformed.
    pub fn from_wire(wire: &v1::TrustBundle) -> Result<Self, Refusal> {
        check::trust_domain("trustDomain", &wire.trust_domain)?;
        check::bounded("roots", &wire.roots, 64)?;
        if wire.roots.is_empty() {
            return Err(Refusal::new("roots", "without a root nobody could be trusted"));
        }
        let mut seen = Unique::new();
        for (i, root) in wire.roots.iter().enumerate() {
            let field = format!("roots[{i}]");
            check::bounded(&field, root, 65_536)?;
            if !is_der_sequence(root) {
                return Err(Refusal::new(field, "is no certificate in DER"));
            }
            seen.claim(&field, Fingerprint(root))?;
        }
        let reissue_after = match wire.reissue_after {
            0 => None,
            after => Some(
                u64::try_from(after).map_err(|_| Refusal::new("reissueAfter", format!("{after} is before 1970")))?,
            ),
        };
        Ok(TrustBundle {
            trust_domain: wire.trust_domain.as_str().into(),
            roots: wire.roots.clone(),
            reissue_after,
            revocations: revocations(&wire.revocations)?,
        })
    }
}

/// Revocation lists, checked to be whole DER values; who signed them is checked where TLS is.
fn revocations(wire: &[v1::RevocationList]) -> Result<Vec<RevocationList>, Refusal> {
    check::bounded("revocations", wire, 16)?;
    let mut lists = Vec::with_capacity(wire.len());
    for (i, list) in wire.iter().enumerate() {
        let field = format!("revocations[{i}]");
        check::bounded(&format!("{field}.crl"), &list.crl, 1 << 20)?;
        if !is_der_sequence(&list.crl) {
            return Err(Refusal::new(format!("{field}.crl"), "is no revocation list in DER"));
        }
        check::bounded(&format!("{field}.issuer"), &list.issuer, 8)?;
        if list.issuer.is_empty() {
            return Err(Refusal::new(format!("{field}.issuer"), "without its issuer a list cannot be verified"));
        }
        for (j, issuer) in list.issuer.iter().enumerate() {
            let field = format!("{field}.issuer[{j}]");
            check::bounded(&field, issuer, 65_536)?;
            if !is_der_sequence(issuer) {
                return Err(Refusal::new(field, "is no certificate in DER"));
            }
        }
        lists.push(RevocationList { crl: list.crl.clone(), issuer: list.issuer.clone() });
    }
    Ok(lists)
}

/// A root that says of itself only that it is the same one.
#[derive(PartialEq, Eq, Hash)]
struct Fingerprint<'a>(&'a [u8]);

impl std::fmt::Display for Fingerprint<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("this root")
    }
}

/// One SEQUENCE of definite length that fills the bytes exactly (X.690 §8.1.3).
fn is_der_sequence(der: &[u8]) -> bool {
    let Some((0x30, rest)) = der.split_first().map(|(tag, rest)| (*tag, rest)) else { return false };
    match rest.split_first() {
        Some((short @ 0..=0x7f, body)) => body.len() == usize::from(*short),
        Some((long @ 0x81..=0x84, rest)) => {
            let count = usize::from(long - 0x80);
            let Some((length, body)) = rest.split_at_checked(count) else { return false };
            let length = length.iter().fold(0_u64, |sum, byte| sum << 8 | u64::from(*byte));
            u64::try_from(body.len()).is_ok_and(|n| n == length)
        }
        _ => false,
    }
}
