//! The compiler: the world in, the resources that sidecars hold and the verdicts that people read out.
//!
//! Deterministic: no I/O, no clock, no randomness, no map order. One file a kind: [`service`], [`route`] (read by [`route_spec`]),
//! [`endpoints`] (whose they are says [`members`]), [`traffic`], [`inbound`] (MeshTLS, with `authorization`, `authentication` and the rate limits of
//! `limits`; what they reach says `scope`), [`mesh`]. Whatever is put out has passed `weft_policy::config`, so that no sidecar refuses it; an object that did not pass keeps what it
//! last compiled to and is told so.
//!
//! A [`Compiler`] remembers the world that it compiled last. What differs in the next one decides what is made anew: each kind says which
//! services and workloads its change concerns, those are compiled again, everything else is taken over. What comes out is what a compilation
//! from nothing would have given (the tests of `incremental` assert it). Nothing here knows of streams or of the API server.

pub mod alone;
mod authentication;
mod authorization;
pub mod condition;
pub mod endpoints;
pub mod inbound;
mod limits;
pub mod members;
pub mod mesh;
pub mod names;
mod packed;
pub mod route;
pub mod route_spec;
mod scope;
pub mod service;
pub mod traffic;

#[cfg(test)]
mod cluster_tests;
#[cfg(test)]
mod docs_tests;
#[cfg(test)]
mod fields;
#[cfg(test)]
mod incremental;
#[cfg(test)]
mod policy_tests;
#[cfg(test)]
mod route_tests;
#[cfg(test)]
pub(crate) mod tests;

pub use alone::Alone;
pub use condition::{Condition, Kind, Note, ParentVerdict, Stage, Verdict};
pub use packed::{Encoded, Packed};

use crate::world::{Mesh, Table, World};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use weft_policy::config::{self, Refusal};
use weft_proto::v1;

/// A service as clients see it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Variants<S = Packed<v1::Service>> {
    /// For clients of every namespace that is not listed below.
    pub default: S,
    /// For clients of these namespaces: the service's own (it may write the short name) and those with consumer routes.
    pub by_namespace: BTreeMap<String, S>,
}

impl<S> Variants<S> {
    /// As clients of a namespace see it.
    #[must_use]
    pub fn of(&self, namespace: &str) -> &S {
        self.by_namespace.get(namespace).unwrap_or(&self.default)
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &S> {
        std::iter::once(&self.default).chain(self.by_namespace.values())
    }
}

/// What a sidecar enforces, and what the control plane itself must know of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Guarded {
    /// Who may have it: the workload's own identity.
    pub identity: Arc<str>,
    /// Its global rate limits.
    pub global: Box<[v1::RateLimit]>,
    /// What is sent.
    pub inbound: Packed<v1::Inbound>,
}

impl Guarded {
    /// Encodes what a workload's sidecar enforces.
    #[must_use]
    pub fn new(uid: impl Into<Arc<str>>, inbound: &v1::Inbound) -> Self {
        let limits = inbound.ports.iter().flat_map(|port| &port.rate_limits);
        let global = limits.filter(|limit| limit.scope() == v1::RateLimitScope::Global).cloned().collect();
        Self { identity: inbound.identity.as_str().into(), global, inbound: Packed::new(uid, inbound) }
    }

    /// The message.
    #[must_use]
    pub fn read(&self) -> v1::Inbound {
        self.inbound.read()
    }
}

/// Everything that a world compiles to. A copy shares what it has in common with the original.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Output {
    /// By "namespace/name".
    pub services: Table<Arc<Variants>>,
    /// Workloads by the service of their own address, "namespace/~workload".
    pub alone: Table<Arc<Alone>>,
    /// By "namespace/name:port/slice".
    pub endpoints: Table<Packed<v1::Endpoints>>,
    /// By workload uid.
    pub inbound: Table<Arc<Guarded>>,
    /// By trust domain.
    pub bundles: BTreeMap<String, v1::TrustBundle>,
    /// The one named "mesh".
    pub settings: v1::MeshSettings,
    /// What every policy object learns of its fate.
    pub verdicts: Vec<Arc<Verdict>>,
}

impl Output {
    /// The slice of a name.
    #[must_use]
    pub fn slice(&self, name: &str) -> Option<&Packed<v1::Endpoints>> {
        self.endpoints.get(name).or_else(|| Alone::slice(&self.alone, name))
    }

    /// The slices of a service, or of a workload's own address.
    pub fn slices_of(&self, service: &str) -> impl Iterator<Item = &Packed<v1::Endpoints>> {
        let of_service = self.endpoints.with_prefix(&format!("{service}:")).map(|(_, slice)| slice);
        of_service.chain(self.alone.get(service).into_iter().flat_map(|alone| alone.slices()))
    }
}

/// The objects in which two worlds differ, by name.
#[derive(Debug, Default)]
pub(crate) struct Change {
    services: BTreeSet<String>,
    workloads: BTreeSet<String>,
    routes: BTreeSet<(Kind, String)>,
    traffic: BTreeSet<String>,
    authorization: BTreeSet<String>,
    mesh_tls: BTreeSet<String>,
    limits: BTreeSet<String>,
    authentication: BTreeSet<String>,
}

impl Change {
    /// Objects that changed, and those whose keys did.
    fn authentication(all: bool, before: &World, world: &World) -> BTreeSet<String> {
        let (was, is) = (&before.authentication, &world.authentication);
        if all {
            return was.keys().chain(is.keys()).map(ToString::to_string).collect();
        }
        let mut names: BTreeSet<String> =
            is.changes(was, Arc::ptr_eq).into_iter().map(|(name, _, _)| name.to_string()).collect();
        let keys: BTreeSet<&str> =
            world.jwks.changes(&before.jwks, Arc::ptr_eq).into_iter().map(|(address, _, _)| &**address).collect();
        if !keys.is_empty() {
            let affected =
                is.iter().filter(|(_, policy)| authentication::addresses(policy).any(|a| keys.contains(a.as_str())));
            names.extend(affected.map(|(name, _)| name.to_string()));
        }
        names
    }

    fn between(before: &World, world: &World) -> Self {
        // Names, identities and everything that holds some differ with the mesh: all is made anew.
        // What sidecars are to trust is a resource of its own.
        let named = |world: &World| Mesh {
            roots: Vec::new(),
            reissue_after: 0,
            revocations: Arc::default(),
            ..world.mesh.clone()
        };
        let all = named(before) != named(world);
        fn names<T>(all: bool, before: &Table<Arc<T>>, now: &Table<Arc<T>>) -> BTreeSet<String> {
            if all {
                return before.keys().chain(now.keys()).map(ToString::to_string).collect();
            }
            now.changes(before, Arc::ptr_eq).into_iter().map(|(name, _, _)| name.to_string()).collect()
        }
        let routes = Kind::ROUTES.into_iter().flat_map(|kind| {
            let differ = before.routes(kind).zip(world.routes(kind)).map(|(before, now)| names(all, before, now));
            differ.into_iter().flatten().map(move |name| (kind, name))
        });
        Self {
            services: names(all, &before.services, &world.services),
            workloads: names(all, &before.workloads, &world.workloads),
            routes: routes.collect(),
            traffic: names(all, &before.traffic, &world.traffic),
            authorization: names(all, &before.authorization, &world.authorization),
            mesh_tls: names(all, &before.mesh_tls, &world.mesh_tls),
            limits: names(all, &before.limits, &world.limits),
            authentication: Self::authentication(all, before, world),
        }
    }
}

/// Compiles one world after the other. See the module's text.
#[derive(Clone, Debug, Default)]
pub struct Compiler {
    world: World,
    members: members::Members,
    addresses: members::Addresses,
    common: Arc<alone::Common>,
    traffic: traffic::Policies,
    routes: route::Attached,
    guards: inbound::Guards,
    settings: Vec<Arc<Verdict>>,
    output: Output,
    recompiled: usize,
}

impl Compiler {
    /// Compiles `world`.
    #[must_use]
    pub fn compile(&mut self, world: &World) -> Output {
        let change = Change::between(&self.world, world);
        self.recompiled = 0;
        let touched = self.members.update(world, &change.services, &change.workloads);
        let addressed = self.addresses.update(&self.world, world, &change.workloads);
        let (mut guarded, secured) = self.guards.update(world, &self.members, &change, &touched.workloads);
        // Whether an endpoint is called by mutual TLS is what MeshTLS says of its port.
        let belongs =
            secured.iter().flat_map(|uid| self.members.of_workload(uid)).map(|belongs| belongs.service.to_string());
        let sliced = touched.services.iter().cloned().chain(belongs).collect();
        self.slices(world, &sliced);
        self.alone(world, addressed.union(&secured));
        let settled = self.traffic.update(world, &self.members, &change, &touched.services);
        let mut services = touched.services;
        services.extend(settled.services);
        services.extend(self.routes.update(world, &change.services, &change.routes));
        self.services(world, &services);
        guarded.extend(settled.inbound.iter().flat_map(|s| self.members.of_service(s)).map(|(uid, _)| uid.to_owned()));
        // Of the identities, which are few, there is one copy each.
        let mut identity: Option<Arc<str>> = None;
        for uid in guarded {
            let made = inbound::compile(world, &self.members, &self.guards, &self.traffic, &uid);
            self.recompiled += usize::from(made.is_some());
            let shared = world.workloads.get_key_value(&uid).map(|(uid, _)| uid.clone());
            let uid = shared.unwrap_or_else(|| uid.into());
            let made = made.map(|message| {
                let mut made = Guarded::new(uid.clone(), &message);
                let before = self.output.inbound.get(&uid).map(|before| &before.identity);
                let known = before.into_iter().chain(&identity).find(|known| **known == made.identity);
                made.identity = known.unwrap_or(&made.identity).clone();
                identity = Some(made.identity.clone());
                (Arc::new(made), message)
            });
            let same = |a: &Arc<Guarded>, b: &Arc<Guarded>| a.inbound == b.inbound;
            put(&mut self.output.inbound, &uid, made, same, config::Inbound::from_wire);
        }
        self.output.settings = mesh::settings(world);
        self.output.bundles = mesh::bundles(world);
        self.settings = mesh::verdicts(world, &self.settings);
        let of_policies = self.routes.verdicts().chain(self.traffic.verdicts()).chain(self.guards.verdicts());
        let of_policies = of_policies.chain(&self.settings);
        self.output.verdicts = of_policies.cloned().collect();
        self.world = world.clone();
        self.output.clone()
    }

    /// How many resources the last compilation made, variants included; all others it took over.
    #[must_use]
    pub fn recompiled(&self) -> usize {
        self.recompiled
    }

    fn slices(&mut self, world: &World, services: &BTreeSet<String>) {
        for name in services {
            self.of_service(name, endpoints::of_service(world, &self.members, &self.guards, name));
        }
    }

    fn alone<'a>(&mut self, world: &World, uids: impl Iterator<Item = &'a String>) {
        self.common = self.common.of(world);
        for uid in uids {
            let name = names::of_workload(uid);
            let known = self.output.alone.get_key_value(&name).map(|(name, _)| name.clone());
            let name = known.unwrap_or_else(|| name.into());
            let of = |w| Alone::of(&self.common, world, &self.members, &self.guards, uid, w);
            let made = self.addresses.alone(world, uid).map(of);
            self.recompiled += made.as_ref().map_or(0, |(_, (_, slices))| 1 + slices.len());
            let made = match (made, self.output.alone.get(&name)) {
                // Nobody is told of it; but of the object there is one edition, not two.
                (Some((alone, _)), Some(before)) if alone.same(before) => {
                    if !before.is_of_same(&alone) {
                        let alone = alone.taking_over(before);
                        self.output.alone.insert(name, Arc::new(alone));
                    }
                    continue;
                }
                (made, _) => made.map(|(alone, messages)| (Arc::new(alone), messages)),
            };
            put(&mut self.output.alone, &name, made, |_, _| false, Alone::check);
        }
    }

    /// Replaces the slices of a service.
    fn of_service(&mut self, name: &str, made: Vec<v1::Endpoints>) {
        self.recompiled += made.len();
        let before = self.output.endpoints.with_prefix(&format!("{name}:")).map(|(slice, _)| slice.clone());
        let mut gone: BTreeSet<Arc<str>> = before.collect();
        for slice in made {
            let name = gone.take(&*slice.name).unwrap_or_else(|| slice.name.as_str().into());
            let made = Some((Packed::new(name.clone(), &slice), slice));
            put(&mut self.output.endpoints, &name, made, Packed::eq, config::Endpoints::from_wire);
        }
        for slice in gone {
            self.output.endpoints.remove(&slice);
        }
    }

    fn services(&mut self, world: &World, services: &BTreeSet<String>) {
        for name in services {
            let slices = &self.output.endpoints;
            let found = world.services.get_key_value(name);
            let compile = |s| service::compile(world, s, &self.members, &self.routes, &self.traffic, slices);
            let made = found.and_then(|(_, service)| compile(service));
            self.recompiled += made.as_ref().map_or(0, |v| 1 + v.by_namespace.len());
            let shared = found.map(|(name, _)| name.clone());
            self.service(&shared.unwrap_or_else(|| name.as_str().into()), made);
        }
    }

    fn service(&mut self, name: &Arc<str>, made: Option<Variants<v1::Service>>) {
        let before = self.output.services.get(name);
        let packed = |message: &v1::Service, before: Option<&Packed<_>>| {
            Packed::service_of(name.clone(), message).or_same(before)
        };
        let made = made.map(|messages| {
            let default = packed(&messages.default, before.map(|b| &b.default));
            let by_namespace = messages.by_namespace.iter().map(|(namespace, message)| {
                let before = before.and_then(|b| b.by_namespace.get(namespace));
                (namespace.clone(), packed(message, before))
            });
            (Arc::new(Variants { default, by_namespace: by_namespace.collect() }), messages)
        });
        let check = |messages: &Variants<v1::Service>| {
            messages.iter().try_for_each(|service| config::Service::from_wire(service).map(drop))
        };
        put(&mut self.output.services, name, made, PartialEq::eq, check);
    }
}

/// Puts a resource out, packed, or takes it back. The net under the checks of each kind: what a sidecar would refuse leaves its last good
/// version in force, whatever the reason.
fn put<P, M, T>(
    all: &mut Table<P>,
    name: &Arc<str>,
    made: Option<(P, M)>,
    same: impl Fn(&P, &P) -> bool,
    check: impl Fn(&M) -> Result<T, Refusal>,
) where
    P: Clone,
{
    let Some((made, message)) = made else {
        all.remove(name);
        return;
    };
    // What is as it was stays the same value: neither checked nor sent again.
    if all.get(name).is_some_and(|before| same(before, &made)) {
        return;
    }
    match check(&message) {
        Ok(_) => drop(all.insert(name.clone(), made)),
        Err(refusal) => tracing::error!(
            resource = %name, %refusal, "compiled a resource that a sidecar would refuse; its last good version stays"
        ),
    }
}
