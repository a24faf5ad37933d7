//! `TrustBundle` and `MeshSettings`: what holds for the whole mesh.

use super::service;
use crate::world::World;
use std::collections::BTreeSet;
use std::net::IpAddr;
use weft_proto::v1;

/// Of the registered addresses outside so many are told to every sidecar.
const OUTSIDE: usize = 1000;

/// The resource named `mesh`. Ranges of the mesh are those that a sidecar asks about: its own, then addresses outside that are registered.
#[must_use]
pub fn settings(world: &World) -> v1::MeshSettings {
    let egress = if world.mesh.registered_only { v1::Egress::RegisteredOnly } else { v1::Egress::PassThrough };
    v1::MeshSettings {
        trust_domain: world.mesh.trust_domain.clone(),
        domain: world.mesh.domain.clone(),
        egress: egress.into(),
        mesh_cidrs: std::iter::once(world.mesh.service_cidr.clone()).chain(outside(world)).collect(),
        federated_trust_domains: Vec::new(),
    }
}

/// Addresses that Services of type ExternalName stand for, as ranges of one.
fn outside(world: &World) -> impl Iterator<Item = String> {
    let hosts = world.services.values().filter_map(|service| service::external_host(service, &world.mesh.domain));
    let addresses: BTreeSet<IpAddr> = hosts.filter_map(|host| host.parse().ok()).collect();
    addresses.into_iter().take(OUTSIDE).map(|address| format!("{address}/{}", if address.is_ipv4() { 32 } else { 128 }))
}

/// The roots of the mesh's own trust domain.
#[must_use]
pub fn bundle(world: &World) -> v1::TrustBundle {
    v1::TrustBundle {
        trust_domain: world.mesh.trust_domain.clone(),
        roots: world.mesh.roots.clone(),
        reissue_after: world.mesh.reissue_after,
        revocations: world.mesh.revocations.to_vec(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::world;
    use super::*;

    #[test]
    fn registered_addresses_outside_are_asked_about_like_those_of_the_mesh() {
        let outside = |(name, host): (&str, &str)| {
            format!(
                "kind: Service\nmetadata: {{name: {name}}}\nspec: {{type: ExternalName, externalName: '{host}', ports: [{{port: 80}}]}}"
            )
        };
        let hosts = [("a", "203.0.113.9"), ("b", "2001:db8::9"), ("c", "api.example.com")].map(outside);
        let mut world = world(&hosts.join("\n---\n"));
        let told = settings(&world);
        assert_eq!(told.mesh_cidrs, ["198.18.0.0/16", "203.0.113.9/32", "2001:db8::9/128"]);
        assert_eq!(told.egress(), v1::Egress::PassThrough);
        assert!(weft_policy::config::Settings::from_wire(&told).is_ok());
        world.mesh.registered_only = true;
        assert_eq!(settings(&world).egress(), v1::Egress::RegisteredOnly);
    }
}
