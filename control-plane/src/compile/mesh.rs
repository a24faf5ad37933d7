//! `TrustBundle` and `MeshSettings`: what holds for the whole mesh.

use crate::world::World;
use weft_proto::v1;

/// The resource named `mesh`.
#[must_use]
pub fn settings(world: &World) -> v1::MeshSettings {
    let egress = if world.mesh.registered_only { v1::Egress::RegisteredOnly } else { v1::Egress::PassThrough };
    v1::MeshSettings {
        trust_domain: world.mesh.trust_domain.clone(),
        domain: world.mesh.domain.clone(),
        egress: egress.into(),
        mesh_cidrs: vec![world.mesh.service_cidr.clone()],
    }
}

/// The roots of the mesh's own trust domain.
#[must_use]
pub fn bundle(world: &World) -> v1::TrustBundle {
    v1::TrustBundle {
        trust_domain: world.mesh.trust_domain.clone(),
        roots: world.mesh.roots.clone(),
        reissue_after: world.mesh.reissue_after,
    }
}
