//! `weft.v1.Endpoints`: which workloads are endpoints of which service ports, in slices of at most 100. Who belongs to what is
//! [`super::members`]' business.

pub use super::members::{ALLOWED_SERVICES, is_member, memberships};

use super::inbound::Guards;
use super::members::{Members, Target};
use super::names;
use crate::kinds::{self, Phase};
use crate::world::{Workload, World};
use std::net::{IpAddr, SocketAddr};
use weft_proto::v1;

/// Endpoints in one slice.
pub const SLICE: usize = 100;
/// Well-known labels of Kubernetes.
const REGION: &str = "topology.kubernetes.io/region";
const ZONE: &str = "topology.kubernetes.io/zone";

/// A workload's declared protocol, on the wire.
#[must_use]
pub fn protocol(protocol: kinds::Protocol) -> v1::Protocol {
    match protocol {
        kinds::Protocol::Detect => v1::Protocol::Detect,
        kinds::Protocol::Http => v1::Protocol::Http1,
        kinds::Protocol::Http2 => v1::Protocol::Http2,
        kinds::Protocol::Grpc => v1::Protocol::Grpc,
        kinds::Protocol::Tcp => v1::Protocol::Tcp,
    }
}

/// Whether and how the workload takes calls; `None`: it is in no slice.
fn health(workload: &Workload) -> Option<v1::Health> {
    match workload.phase {
        Some(Phase::Ready) => Some(v1::Health::Ready),
        Some(Phase::NotReady | Phase::Pending) => Some(v1::Health::NotReady),
        Some(Phase::Draining) => Some(v1::Health::Draining),
        Some(Phase::Lost) => None,
        // Nobody watches over a workload without a sidecar: what an operator wrote is taken at its word.
        None if workload.spec.tunnel.is_none() => Some(v1::Health::Ready),
        None => Some(v1::Health::NotReady),
    }
}

/// Region and zone that a workload runs in, empty where it does not say: `spec.zone`, else the labels that Kubernetes gives its nodes.
#[must_use]
pub fn locality(workload: &Workload) -> (String, String) {
    let label = |name: &str| workload.labels.get(name).map(str::to_owned);
    let zone = workload.spec.zone.as_deref().filter(|zone| !zone.is_empty()).map(str::to_owned).or_else(|| label(ZONE));
    (label(REGION).unwrap_or_default(), zone.unwrap_or_default())
}

fn endpoint(
    trust_domain: &str,
    plaintext: bool,
    workload: &Workload,
    target: &Target,
    server_name: String,
) -> Option<v1::Endpoint> {
    let address: IpAddr = workload.spec.address.parse().ok()?;
    let namespace = &*workload.namespace;
    let tunnel = workload.spec.tunnel.as_deref().filter(|t| !plaintext && t.parse::<SocketAddr>().is_ok());
    let meshed = tunnel.is_some();
    let (region, zone) = locality(workload);
    Some(v1::Endpoint {
        uid: names::namespaced(namespace, &workload.name),
        address: address.to_string(),
        port: target.port.into(),
        tunnel: tunnel.unwrap_or_default().to_owned(),
        identity: if meshed {
            let domain = workload.spec.trust_domain.as_deref().unwrap_or(trust_domain);
            names::identity(domain, namespace, &workload.spec.service_account)
        } else {
            String::new()
        },
        server_name: if meshed { server_name } else { String::new() },
        health: health(workload)?.into(),
        weight: workload.spec.weight.unwrap_or(1),
        region,
        zone,
        protocol: target.protocol.into(),
    })
}

/// The slices of a service; every port has at least one, so that an empty backend is answered too. A host outside has none.
#[must_use]
pub(super) fn of_service(world: &World, members: &Members, guards: &Guards, name: &str) -> Vec<v1::Endpoints> {
    let Some(service) = world.services.get(name) else { return Vec::new() };
    if super::service::is_external_name(service) {
        return Vec::new();
    }
    let (Some(namespace), Some(own)) = (&service.metadata.namespace, &service.metadata.name) else { return Vec::new() };
    let mut out = Vec::new();
    for port in super::service::ports(service) {
        let mut endpoints = Vec::new();
        for (uid, targets) in members.of_service(name) {
            let Some(workload) = world.workloads.get(uid) else { continue };
            for target in targets.iter().filter(|t| t.service_port == port) {
                let sni = names::service_sni(namespace, own, port, &world.mesh.domain);
                let plaintext = guards.is_plaintext(world, members, uid, workload, target.port);
                endpoints.extend(endpoint(&world.mesh.trust_domain, plaintext, workload, target, sni));
            }
        }
        out.extend(sliced(name, port, endpoints));
    }
    out
}

/// The slices of a workload's own address, one for each of its ports.
#[must_use]
pub(super) fn of_address(
    trust_domain: &str,
    domain: &str,
    is_plaintext: impl Fn(u16) -> bool,
    workload: &Workload,
) -> Vec<v1::Endpoints> {
    let (namespace, own) = (&*workload.namespace, &*workload.name);
    let name = names::workload_service(namespace, own);
    let of_port = |port: &kinds::WorkloadPort| {
        let target = Target { service_port: port.port, port: port.port, protocol: protocol(port.protocol) };
        let sni = names::workload_sni(namespace, own, port.port, domain);
        let endpoint = endpoint(trust_domain, is_plaintext(port.port), workload, &target, sni);
        v1::Endpoints { name: names::slice(&name, port.port, 0), endpoints: endpoint.into_iter().collect() }
    };
    workload.spec.ports.iter().map(of_port).collect()
}

/// Spreads endpoints over a power of two of slices by a hash of their uid: one that comes or goes changes one slice, rarely all.
fn sliced(service: &str, port: u16, endpoints: Vec<v1::Endpoint>) -> Vec<v1::Endpoints> {
    let mut count = endpoints.len().div_ceil(SLICE).max(1).next_power_of_two();
    loop {
        let mut slices: Vec<v1::Endpoints> =
            (0..count).map(|i| v1::Endpoints { name: names::slice(service, port, i), endpoints: Vec::new() }).collect();
        for endpoint in &endpoints {
            let hash = endpoint
                .uid
                .bytes()
                .fold(0xcbf2_9ce4_8422_2325_u64, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0000_0100_0000_01b3));
            // The low bits of FNV are its weakest: fold the high ones in.
            let place = ((hash ^ (hash >> 32)) as usize) & (count - 1);
            slices[place].endpoints.push(endpoint.clone());
        }
        if slices.iter().all(|s| s.endpoints.len() <= SLICE) {
            return slices;
        }
        count *= 2;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slices_hold_at_most_a_hundred_and_lose_nobody() {
        for n in [0, 1, 100, 101, 1000] {
            let all: Vec<_> =
                (0..n).map(|i| v1::Endpoint { uid: format!("shop/w-{i}"), ..Default::default() }).collect();
            let slices = sliced("shop/catalog", 80, all);
            assert!(!slices.is_empty());
            assert!(slices.iter().all(|s| s.endpoints.len() <= SLICE));
            assert_eq!(slices.iter().map(|s| s.endpoints.len()).sum::<usize>(), n);
            assert_eq!(slices[0].name, "shop/catalog:80/0");
        }
    }

    #[test]
    fn one_more_endpoint_changes_one_slice() {
        let all = |n: usize| {
            (0..n).map(|i| v1::Endpoint { uid: format!("shop/w-{i}"), ..Default::default() }).collect::<Vec<_>>()
        };
        let (before, after) = (sliced("s/x", 80, all(300)), sliced("s/x", 80, all(301)));
        assert_eq!(before.len(), after.len());
        assert_eq!(before.iter().zip(&after).filter(|(a, b)| a != b).count(), 1);
    }
}
