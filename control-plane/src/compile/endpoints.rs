//! `weft.v1.Endpoints`: which workloads are endpoints of which service ports, in slices of at most 100.
//!
//! Membership: a workload belongs to the services that it names and to those whose selector matches its labels; one that registered
//! itself only to services that its join token allowed, since otherwise a label would be enough for `cart` to receive `payments`' calls.

use super::names;
use crate::kinds::{self, Phase, Service, Workload};
use crate::world::World;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use weft_proto::v1;

/// Endpoints in one slice.
pub const SLICE: usize = 100;
/// Annotation of a workload that registered itself: the services that its join token allows, separated by commas; `*` means any.
pub const ALLOWED_SERVICES: &str = "weft.mesh/allowed-services";

/// A service's port and the port of a workload that serves it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Port of the service.
    pub service_port: u16,
    /// Port of the workload.
    pub port: u16,
    /// What is spoken there.
    pub protocol: v1::Protocol,
}

/// One workload as a member of a service.
#[derive(Clone, Debug)]
pub struct Member {
    /// The workload.
    pub workload: Arc<Workload>,
    /// What of it the service's ports lead to.
    pub targets: Vec<Target>,
}

/// A service that a workload belongs to, and what of it that service's ports lead to.
type Belongs = (Arc<Service>, Vec<Target>);

/// Who belongs to what, both ways.
#[derive(Debug, Default)]
pub struct Members {
    /// Service → its members in order of uid.
    by_service: BTreeMap<String, Vec<Member>>,
    /// Workload uid → services it belongs to, with the targets.
    by_workload: BTreeMap<String, Vec<Belongs>>,
}

impl Members {
    /// Works out all memberships.
    #[must_use]
    pub fn of(world: &World) -> Self {
        let mut members = Self::default();
        for (name, service) in &world.services {
            let namespace = service.metadata.namespace.as_deref().unwrap_or_default();
            let mut of_service = Vec::new();
            for (uid, workload) in world.workloads_in(namespace) {
                if is_member(service, workload) {
                    let targets = targets(service, workload);
                    members.by_workload.entry(uid.clone()).or_default().push((service.clone(), targets.clone()));
                    of_service.push(Member { workload: workload.clone(), targets });
                }
            }
            members.by_service.insert(name.clone(), of_service);
        }
        members
    }

    /// Members of a service.
    #[must_use]
    pub fn of_service(&self, service: &str) -> &[Member] {
        self.by_service.get(service).map_or(&[], Vec::as_slice)
    }

    /// Services of a workload.
    #[must_use]
    pub fn of_workload(&self, uid: &str) -> &[Belongs] {
        self.by_workload.get(uid).map_or(&[], Vec::as_slice)
    }
}

/// Whether the workload is an endpoint of the service. Both are of one namespace.
#[must_use]
pub fn is_member(service: &Service, workload: &Workload) -> bool {
    let Some(name) = service.metadata.name.as_deref() else { return false };
    let allowed = workload.metadata.annotations.as_ref().and_then(|a| a.get(ALLOWED_SERVICES));
    if allowed.is_some_and(|list| !list.split(',').any(|s| s == "*" || s == name)) {
        return false;
    }
    if workload.spec.services.iter().any(|s| s == name) {
        return true;
    }
    let selector = service.spec.as_ref().and_then(|s| s.selector.as_ref()).filter(|s| !s.is_empty());
    let empty = BTreeMap::new();
    let labels = workload.metadata.labels.as_ref().unwrap_or(&empty);
    selector.is_some_and(|s| s.iter().all(|(k, v)| labels.get(k) == Some(v)))
}

fn targets(service: &Service, workload: &Workload) -> Vec<Target> {
    let ports = service.spec.as_ref().and_then(|s| s.ports.as_ref());
    let mut out = Vec::new();
    for port in ports.into_iter().flatten() {
        let Ok(number) = u16::try_from(port.port) else { continue };
        let by_name = |name: &str| workload.spec.ports.iter().find(|p| p.name.as_deref() == Some(name));
        let by_number = |n: i32| workload.spec.ports.iter().find(|p| i32::from(p.port) == n);
        let found = match &port.target_port {
            Some(IntOrString::String(name)) => by_name(name),
            Some(IntOrString::Int(n)) if *n != port.port => by_number(*n),
            // The default, "the same number"; off Kubernetes instances share an address and differ in ports, so that the name serves too.
            _ => by_number(port.port).or_else(|| port.name.as_deref().and_then(by_name)),
        };
        if let Some(found) = found {
            out.push(Target { service_port: number, port: found.port, protocol: protocol(found.protocol) });
        } else if let (None, Some(IntOrString::Int(n))) = (&workload.spec.tunnel, &port.target_port)
            && let Ok(port) = u16::try_from(*n)
        {
            // Without a sidecar nobody checks the port: what the Service says is what is called.
            out.push(Target { service_port: number, port, protocol: v1::Protocol::Detect });
        }
    }
    out
}

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
    match workload.status.as_ref().and_then(|s| s.phase) {
        Some(Phase::Ready) => Some(v1::Health::Ready),
        Some(Phase::NotReady | Phase::Pending) => Some(v1::Health::NotReady),
        Some(Phase::Draining) => Some(v1::Health::Draining),
        Some(Phase::Lost) => None,
        // Nobody watches over a workload without a sidecar: what an operator wrote is taken at its word.
        None if workload.spec.tunnel.is_none() => Some(v1::Health::Ready),
        None => Some(v1::Health::NotReady),
    }
}

fn endpoint(world: &World, workload: &Workload, target: &Target, server_name: String) -> Option<v1::Endpoint> {
    let address: IpAddr = workload.spec.address.parse().ok()?;
    let namespace = workload.metadata.namespace.as_deref()?;
    let tunnel = workload.spec.tunnel.clone().filter(|t| t.parse::<SocketAddr>().is_ok());
    let meshed = tunnel.is_some();
    Some(v1::Endpoint {
        uid: names::namespaced(namespace, workload.metadata.name.as_deref()?),
        address: address.to_string(),
        port: target.port.into(),
        tunnel: tunnel.unwrap_or_default(),
        identity: if meshed {
            names::identity(&world.mesh.trust_domain, namespace, &workload.spec.service_account)
        } else {
            String::new()
        },
        server_name: if meshed { server_name } else { String::new() },
        health: health(workload)?.into(),
        weight: workload.spec.weight.unwrap_or(1),
        region: String::new(),
        zone: workload.spec.zone.clone().unwrap_or_default(),
        protocol: target.protocol.into(),
    })
}

/// All slices, by service; every port of every service has at least one, so that an empty backend is answered too.
#[must_use]
pub fn slices(world: &World, members: &Members) -> BTreeMap<String, Vec<v1::Endpoints>> {
    let mut out: BTreeMap<String, Vec<v1::Endpoints>> = BTreeMap::new();
    for (name, service) in &world.services {
        let (Some(namespace), Some(own)) = (&service.metadata.namespace, &service.metadata.name) else { continue };
        for port in super::service::ports(service) {
            let mut endpoints = Vec::new();
            for member in members.of_service(name) {
                for target in member.targets.iter().filter(|t| t.service_port == port) {
                    let sni = names::service_sni(namespace, own, port, &world.mesh.domain);
                    endpoints.extend(endpoint(world, &member.workload, target, sni));
                }
            }
            out.entry(name.clone()).or_default().extend(sliced(name, port, endpoints));
        }
    }
    for workload in world.addressable() {
        let (Some(namespace), Some(own)) = (&workload.metadata.namespace, &workload.metadata.name) else { continue };
        let name = names::workload_service(namespace, own);
        for port in &workload.spec.ports {
            let target = Target { service_port: port.port, port: port.port, protocol: protocol(port.protocol) };
            let sni = names::workload_sni(namespace, own, port.port, &world.mesh.domain);
            let endpoints = endpoint(world, workload, &target, sni).into_iter().collect();
            out.entry(name.clone()).or_default().extend(sliced(&name, port.port, endpoints));
        }
    }
    out
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
