//! `weft.v1.Endpoints`: where the endpoints of a backend are and what must be said to them.

use std::net::SocketAddr;
use std::sync::Arc;

use weft_proto::v1;

use super::check::{self, Unique};
use super::{Protocol, Refusal};

const MOST_ENDPOINTS: usize = 100;
const HEAVIEST: u32 = 1000;

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

/// `namespace/name:port/slice`.
pub(super) fn slice_name(field: &str, name: &str) -> Result<(), Refusal> {
    let shaped = name.rsplit_once('/').is_some_and(|(backend, slice)| {
        let (service, port) = backend.rsplit_once(':').unwrap_or_default();
        !slice.is_empty()
            && slice.len() <= 253
            && slice.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_'))
            && check::is_namespaced_name(service)
            && port.parse::<u16>().is_ok_and(|p| p != 0)
    });
    if shaped {
        return Ok(());
    }
    Err(Refusal::new(field, format!("{name:?} is not of the form namespace/name:port/slice")))
}

impl Endpoints {
    /// Converts and checks.
    ///
    /// # Errors
    /// The first field that is malformed, out of bounds, twice there or in contradiction with another.
    pub fn from_wire(wire: &v1::Endpoints) -> Result<Self, Refusal> {
        slice_name("name", &wire.name)?;
        check::bounded("endpoints", &wire.endpoints, MOST_ENDPOINTS)?;
        let mut uids = Unique::new();
        let mut endpoints = Vec::with_capacity(wire.endpoints.len());
        for (i, wire) in wire.endpoints.iter().enumerate() {
            let converted = endpoint(wire).and_then(|e| uids.claim("uid", wire.uid.as_str()).map(|()| e));
            endpoints.push(converted.map_err(|r| r.under(format_args!("endpoints[{i}]")))?);
        }
        Ok(Endpoints { name: wire.name.as_str().into(), endpoints })
    }
}

fn endpoint(wire: &v1::Endpoint) -> Result<Endpoint, Refusal> {
    check::namespaced_name("uid", &wire.uid)?;
    let address = SocketAddr::new(check::ip("address", &wire.address)?, check::port("port", wire.port)?);
    let health = match v1::Health::try_from(wire.health) {
        Ok(v1::Health::Unknown) => Health::Unknown,
        Ok(v1::Health::Ready) => Health::Ready,
        Ok(v1::Health::NotReady) => Health::NotReady,
        Ok(v1::Health::Draining) => Health::Draining,
        Err(_) => return Err(Refusal::new("health", format!("{} is no health", wire.health))),
    };
    let protocol = match Protocol::from_wire(wire.protocol)? {
        Protocol::Detect => None,
        protocol => Some(protocol),
    };
    for (field, text) in [("region", &wire.region), ("zone", &wire.zone)] {
        check::bounded(field, text.as_bytes(), 253)?;
    }
    Ok(Endpoint {
        uid: wire.uid.as_str().into(),
        address,
        tunnel: tunnel(wire, address)?,
        health,
        weight: check::within("weight", wire.weight.max(1), 1, HEAVIEST)?,
        region: wire.region.as_str().into(),
        zone: wire.zone.as_str().into(),
        protocol,
    })
}

fn tunnel(wire: &v1::Endpoint, address: SocketAddr) -> Result<Option<Tunnel>, Refusal> {
    if wire.tunnel.is_empty() {
        // Whoever names an identity expects it to be checked: plaintext would silently not.
        return match (wire.identity.as_str(), wire.server_name.as_str()) {
            ("", "") => Ok(None),
            ("", _) => Err(Refusal::new("serverName", "is given, but there is no tunnel to say it to")),
            _ => Err(Refusal::new("identity", "is given, but without a tunnel nobody would check it")),
        };
    }
    if wire.identity.is_empty() {
        return Err(Refusal::new("identity", "is required with a tunnel: a peer of unknown identity is not dialled"));
    }
    check::identity("identity", &wire.identity)?;
    let server_name = match wire.server_name.as_str() {
        "" => String::new(),
        name => check::hostname("serverName", name)?,
    };
    Ok(Some(Tunnel {
        address: check::socket("tunnel", &wire.tunnel)?,
        identity: wire.identity.as_str().into(),
        server_name: server_name.into(),
        authority: address.to_string().into(),
    }))
}
