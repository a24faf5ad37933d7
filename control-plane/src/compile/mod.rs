//! The compiler: the world in, the resources that sidecars hold and the verdicts that people read out.
//!
//! Pure and deterministic: no I/O, no clock, no randomness, no map order. One file a kind: [`service`], [`route`] (read by
//! [`route_spec`]), [`endpoints`], [`traffic`], [`inbound`] (with authorization and MeshTLS), [`mesh`]. Whatever is put out has passed
//! `weft_policy::config`, so that no sidecar refuses it; an object that did not pass keeps what it last compiled to ([`LastGood`]) and is
//! told so. Nothing here knows of streams or of the API server.

pub mod condition;
pub mod endpoints;
pub mod inbound;
pub mod mesh;
pub mod names;
pub mod route;
pub mod route_spec;
pub mod service;
pub mod traffic;

#[cfg(test)]
mod tests;

pub use condition::{Condition, Kind, ParentVerdict, Verdict};

use crate::world::World;
use std::collections::BTreeMap;
use weft_proto::v1;

/// A service as clients see it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Variants {
    /// For clients of every namespace that is not listed below.
    pub default: v1::Service,
    /// For clients of these namespaces: the service's own (it may write the short name) and those with consumer routes.
    pub by_namespace: BTreeMap<String, v1::Service>,
}

/// What objects compiled to when they last passed: stays in force while a newer edition does not.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LastGood {
    /// By kind and name of the route, and "namespace/name:port" of the parent.
    pub(crate) routes: BTreeMap<(Kind, String, String), v1::Route>,
    /// By name of the TrafficPolicy.
    pub(crate) traffic: BTreeMap<String, traffic::Part>,
    /// By name of the AuthorizationPolicy.
    pub(crate) authorization: BTreeMap<String, inbound::Guarded>,
    /// By resource name: the net under everything above.
    services: BTreeMap<String, Variants>,
    endpoints: BTreeMap<String, v1::Endpoints>,
    inbound: BTreeMap<String, v1::Inbound>,
}

/// Everything that a world compiles to.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Output {
    /// By "namespace/name" and "namespace/~workload".
    pub services: BTreeMap<String, Variants>,
    /// By "namespace/name:port/slice".
    pub endpoints: BTreeMap<String, v1::Endpoints>,
    /// By workload uid.
    pub inbound: BTreeMap<String, v1::Inbound>,
    /// By trust domain.
    pub bundles: BTreeMap<String, v1::TrustBundle>,
    /// The one named "mesh".
    pub settings: v1::MeshSettings,
    /// What every policy object learns of its fate.
    pub verdicts: Vec<Verdict>,
}

/// Compiles `world`. `last` is what the previous compilation returned; the default on the first.
#[must_use]
pub fn compile(world: &World, last: &LastGood) -> (Output, LastGood) {
    let mut keep = LastGood::default();
    let mut output = Output { settings: mesh::settings(world), ..Default::default() };
    output.bundles.insert(world.mesh.trust_domain.clone(), mesh::bundle(world));

    let members = endpoints::Members::of(world);
    let slices = endpoints::slices(world, &members).into_values().flatten();
    output.endpoints.extend(slices.map(|s| (s.name.clone(), s)));
    let traffic = traffic::Policies::compile(world, last, &mut keep);
    let routes = route::Attached::compile(world, last, &mut keep);
    for service in world.services.values() {
        if let Some((name, variants)) = service::compile(world, service, &members, &routes, &traffic, &output.endpoints)
        {
            output.services.insert(name, variants);
        }
    }
    for (name, service) in service::workloads(world, &output.endpoints) {
        output.services.insert(name, Variants { default: service, ..Default::default() });
    }
    let guards = inbound::Guards::compile(world, &members, last, &mut keep);
    for (uid, inbound) in inbound::compile(world, &members, &guards) {
        output.inbound.insert(uid, inbound);
    }
    output.verdicts.extend(routes.into_verdicts());
    output.verdicts.extend(traffic.into_verdicts());
    output.verdicts.extend(guards.into_verdicts());
    net(&mut output, last, &mut keep);
    (output, keep)
}

/// The net under the checks of each kind: nothing leaves that a sidecar would refuse, whatever the reason.
fn net(output: &mut Output, last: &LastGood, keep: &mut LastGood) {
    use weft_policy::config;
    let mut refused: Vec<(String, config::Refusal)> = Vec::new();
    output.services.retain(|name, variants| {
        let all = std::iter::once(&variants.default).chain(variants.by_namespace.values());
        match all.map(config::Service::from_wire).find_map(Result::err) {
            None => true,
            Some(refusal) => {
                refused.push((name.clone(), refusal));
                last.services.get(name).is_some_and(|good| {
                    variants.clone_from(good);
                    true
                })
            }
        }
    });
    fall_back(&mut output.endpoints, &last.endpoints, config::Endpoints::from_wire, &mut refused);
    fall_back(&mut output.inbound, &last.inbound, config::Inbound::from_wire, &mut refused);
    for (name, refusal) in refused {
        tracing::error!(resource = %name, %refusal, "compiled a resource that a sidecar would refuse; its last good version stays");
    }
    keep.services.clone_from(&output.services);
    keep.endpoints.clone_from(&output.endpoints);
    keep.inbound.clone_from(&output.inbound);
}

fn fall_back<M: Clone, T>(
    all: &mut BTreeMap<String, M>,
    last: &BTreeMap<String, M>,
    check: impl Fn(&M) -> Result<T, weft_policy::config::Refusal>,
    refused: &mut Vec<(String, weft_policy::config::Refusal)>,
) {
    all.retain(|name, message| match check(message) {
        Ok(_) => true,
        Err(refusal) => {
            refused.push((name.clone(), refusal));
            last.get(name).is_some_and(|good| {
                message.clone_from(good);
                true
            })
        }
    });
}
