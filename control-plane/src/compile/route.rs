//! Routes: attaches routes of every kind to ports of Services, and finds out their fate under each parent. What a route on its own compiles to
//! is made in `wire`.
//!
//! Rules followed: GAMMA (GEP-1294, GEP-1324: producer routes hold for all clients, consumer routes only for clients in their own namespace,
//! whom they replace producer routes for), GEP-1426 (kinds on one port: GRPCRoute, HTTPRoute, TLSRoute, TCPRoute), GEP-1364 (conditions).

mod wire;

pub(super) use wire::{Unresolved, duration, http_matches, resolve_port};

use super::condition::{Condition, Kind, ParentVerdict, Verdict};
use super::route_spec::{self, ParentRef};
use super::{names, service};
use crate::kinds::Service;
use crate::world::{Route, World};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use weft_proto::{type_url, v1};

/// What is in force on a port.
#[derive(Clone, Debug, Default, PartialEq)]
struct OfPort {
    producers: Vec<Arc<v1::Route>>,
    consumers: BTreeMap<String, Vec<Arc<v1::Route>>>,
}

/// Kind and "namespace/name" of a route.
type Key = (Kind, String);

/// All routes where they are in force.
#[derive(Clone, Debug, Default)]
pub struct Attached {
    known: BTreeMap<Key, Known>,
    /// Service → the routes that name it: as a parent, as a backend or as a mirror.
    naming: HashMap<String, BTreeSet<Key>>,
    /// Service → port → what is in force there.
    ports: HashMap<String, BTreeMap<u16, OfPort>>,
}

/// Ports on which a route is not in force, and the kind of those that are.
type Lost = BTreeMap<u16, Kind>;

/// One route, read.
#[derive(Clone, Debug)]
struct Known {
    route: Arc<Route>,
    /// Every Service that it names, as a parent, as a backend or as a mirror: when one of them changes, it is read again.
    names: BTreeSet<String>,
    parents: Arc<[Parent]>,
    /// Under each parent: the ports on which another kind won.
    lost: Vec<Lost>,
    verdict: Option<Arc<Verdict>>,
}

/// A route under one parent.
#[derive(Debug)]
struct Parent {
    text: serde_json::Value,
    /// Why it is not accepted here.
    refused: Option<Condition>,
    resolved: Condition,
    service: String,
    ports: Vec<u16>,
    /// What is in force of it: this edition, or the last that was good.
    compiled: Option<Arc<v1::Route>>,
}

impl Attached {
    /// Follows the world: `services` and `routes` changed, came or went. Returns the services to which something else is attached now.
    pub fn update(&mut self, world: &World, services: &BTreeSet<String>, routes: &BTreeSet<Key>) -> BTreeSet<String> {
        let mut again = routes.clone();
        again.extend(services.iter().filter_map(|s| self.naming.get(s)).flatten().cloned());
        let mut touched = BTreeSet::new();
        for key in &again {
            let before = self.known.remove(key);
            for name in before.iter().flat_map(|b| &b.names) {
                if let Some(naming) = self.naming.get_mut(name) {
                    naming.remove(key);
                    if naming.is_empty() {
                        self.naming.remove(name);
                    }
                }
            }
            let found = world.routes(key.0).and_then(|of_kind| of_kind.get(&key.1));
            let is = found.map(|route| read(world, route, before.as_ref()));
            let parents = before.iter().chain(&is).flat_map(|known| known.parents.iter());
            touched.extend(parents.map(|p| p.service.clone()));
            if let Some(known) = is {
                for name in &known.names {
                    self.naming.entry(name.clone()).or_default().insert(key.clone());
                }
                self.known.insert(key.clone(), known);
            }
        }
        touched.retain(|service| self.attach(service, &mut again));
        for key in again {
            if let Some(known) = self.known.get_mut(&key) {
                known.verdict = verdict(&known.route, &known.parents, &known.lost).map(Arc::new);
            }
        }
        touched
    }

    /// Works out what is in force on the ports of a service; false when that is what was. `told` gets the routes that learn something new.
    fn attach(&mut self, service: &str, told: &mut BTreeSet<Key>) -> bool {
        let keys = self.naming.get(service).cloned().unwrap_or_default();
        // Of the kinds in force for the same clients on a port the first stays.
        let mut first: BTreeMap<(u16, String), Kind> = BTreeMap::new();
        for kind in Kind::ROUTES {
            for known in keys.iter().filter(|k| k.0 == kind).filter_map(|k| self.known.get(k)) {
                for parent in known.parents.iter().filter(|p| p.service == service && p.compiled.is_some()) {
                    for port in &parent.ports {
                        first.entry((*port, scope(&known.route, parent))).or_insert(kind);
                    }
                }
            }
        }
        for key in &keys {
            let Some(known) = self.known.get_mut(key) else { continue };
            for (parent, lost) in known.parents.iter().zip(&mut known.lost).filter(|(p, _)| p.service == service) {
                let winner = |port: &u16| first.get(&(*port, scope(&known.route, parent))).copied();
                let ports = parent.ports.iter().filter_map(|port| Some((*port, winner(port)?)));
                let now: Lost = ports.filter(|(_, kind)| *kind != key.0).collect();
                if *lost != now {
                    *lost = now;
                    told.insert(key.clone());
                }
            }
        }
        let mut in_order: Vec<&Known> = keys.iter().filter_map(|k| self.known.get(k)).collect();
        in_order.sort_by(|a, b| precedence(&a.route).cmp(&precedence(&b.route)));
        let mut ports: BTreeMap<u16, OfPort> = BTreeMap::new();
        for known in in_order {
            for (parent, lost) in known.parents.iter().zip(&known.lost).filter(|(p, _)| p.service == service) {
                let Some(compiled) = &parent.compiled else { continue };
                for port in parent.ports.iter().filter(|port| !lost.contains_key(port)) {
                    let of_port = ports.entry(*port).or_default();
                    let list = if is_producer(&known.route, parent) {
                        &mut of_port.producers
                    } else {
                        of_port.consumers.entry(known.route.namespace.clone()).or_default()
                    };
                    // Two parentRefs of one route may name the same port.
                    if !list.iter().any(|r| r.name == compiled.name && r.kind == compiled.kind) {
                        list.push(compiled.clone());
                    }
                }
            }
        }
        let differs = self.ports.get(service).map_or(!ports.is_empty(), |before| *before != ports);
        if ports.is_empty() {
            self.ports.remove(service);
        } else if differs {
            self.ports.insert(service.to_owned(), ports);
        }
        differs
    }

    /// The routes on a port as clients of a namespace (`None`: of one without consumer routes) see them, older first.
    #[must_use]
    pub fn of(&self, service: &str, port: u16, client: Option<&str>) -> &[Arc<v1::Route>] {
        let Some(of_port) = self.ports.get(service).and_then(|ports| ports.get(&port)) else { return &[] };
        client.and_then(|c| of_port.consumers.get(c)).unwrap_or(&of_port.producers)
    }

    /// Namespaces with consumer routes for the service.
    pub fn namespaces_of(&self, service: &str) -> impl Iterator<Item = &str> {
        let ports = self.ports.get(service).into_iter().flat_map(BTreeMap::values);
        let all: BTreeSet<&str> = ports.flat_map(|p| p.consumers.keys().map(String::as_str)).collect();
        all.into_iter()
    }

    /// What the routes learn, in order of kind and name.
    pub fn verdicts(&self) -> impl Iterator<Item = &Arc<Verdict>> {
        self.known.values().filter_map(|known| known.verdict.as_ref())
    }
}

/// The order in which routes win over each other: older first, then by name.
fn precedence(route: &Route) -> (i64, &str, &str, Kind) {
    (route.created, &route.namespace, &route.name, route.kind)
}

fn is_producer(route: &Route, parent: &Parent) -> bool {
    parent.service.split('/').next() == Some(route.namespace.as_str())
}

/// Whose calls the route is about under this parent: those of one namespace; empty: all.
fn scope(route: &Route, parent: &Parent) -> String {
    if is_producer(route, parent) { String::new() } else { route.namespace.clone() }
}

/// Reads a route; `before` is what was known of it. A refused edition leaves in force what the route compiled to before, where it was in
/// force.
fn read(world: &World, route: &Arc<Route>, before: Option<&Known>) -> Known {
    let mut names = BTreeSet::new();
    let (compiled, resolved) = wire::compile(world, route, &mut names);
    // What is as it was stays the same value, so that services that it is attached to are not compiled again.
    let known = before.into_iter().flat_map(|b| b.parents.iter()).filter_map(|p| p.compiled.as_ref());
    let compiled = compiled.map(|is| known.clone().find(|was| ***was == is).cloned().unwrap_or_else(|| Arc::new(is)));
    let parents = route_spec::parents(&route.spec.read()).into_iter().filter(|(parent, _)| parent.is_service());
    let parents = parents.map(|(parent, text)| {
        let namespace = parent.namespace.clone().unwrap_or_else(|| route.namespace.clone());
        let service = names::namespaced(&namespace, &parent.name);
        let (ports, refused) = match ports(world.services.get(&service).map(|s| &**s), &service, &parent, route.kind) {
            Ok(ports) => (ports, None),
            Err(condition) => (Vec::new(), Some(condition)),
        };
        names.insert(service.clone());
        let good = |port: &u16| {
            let mut there = before?.parents.iter().filter(|p| p.service == service && p.ports.contains(port));
            there.find_map(|p| p.compiled.clone())
        };
        Parent {
            text,
            refused: refused.or_else(|| compiled.as_ref().err().cloned()),
            resolved: resolved.clone(),
            compiled: compiled.clone().ok().or_else(|| ports.iter().find_map(good)),
            service,
            ports,
        }
    });
    let parents: Arc<[Parent]> = parents.collect();
    Known { route: route.clone(), names, lost: vec![Lost::new(); parents.len()], parents, verdict: None }
}

/// The ports of the parent that the route attaches to.
fn ports(service: Option<&Service>, name: &str, parent: &ParentRef, kind: Kind) -> Result<Vec<u16>, Condition> {
    let Some(service) = service else {
        return Err(Condition::refused("NoMatchingParent", format!("there is no Service {name}")));
    };
    if service::is_external_name(service) || service::is_headless(service) {
        let what = if service::is_headless(service) { "headless" } else { "of type ExternalName" };
        let text = format!("Service {name} is {what}: routes attach only to Services with a cluster address");
        return Err(Condition::refused("UnsupportedValue", text));
    }
    let wanted = |p: &&k8s_openapi::api::core::v1::ServicePort| {
        parent.port.is_none_or(|n| n == p.port)
            && parent.section_name.as_deref().is_none_or(|n| p.name.as_deref() == Some(n))
    };
    let matching: Vec<_> = service::declared(service).filter(wanted).collect();
    if matching.is_empty() {
        let by_port = parent.port.map(|p| format!(" {p}")).unwrap_or_default();
        let by_name = parent.section_name.as_ref().map(|n| format!(" named {n:?}")).unwrap_or_default();
        let text = format!("Service {name} has no port{by_port}{by_name}");
        return Err(Condition::refused("NoMatchingParent", text));
    }
    let wrong = |p: &&k8s_openapi::api::core::v1::ServicePort| match (service::declared_protocol(p), kind) {
        (Some(v1::Protocol::Tcp), Kind::TcpRoute) => None,
        (Some(v1::Protocol::Tcp), Kind::TlsRoute) if service::declares_tls(p) => None,
        (Some(v1::Protocol::Tcp), _) => Some("TCP"),
        (Some(v1::Protocol::Http1), Kind::GrpcRoute | Kind::TlsRoute | Kind::TcpRoute) => Some("HTTP/1.1"),
        (Some(v1::Protocol::Http2), Kind::TlsRoute | Kind::TcpRoute) => Some("HTTP/2"),
        (Some(v1::Protocol::Grpc), Kind::TlsRoute | Kind::TcpRoute) => Some("gRPC"),
        _ => None,
    };
    let (unusable, usable): (Vec<_>, Vec<_>) = matching.into_iter().partition(|p| wrong(p).is_some());
    if let (true, Some(port)) = (usable.is_empty(), unusable.first()) {
        let declared = wrong(port).unwrap_or_default();
        let text =
            format!("port {} of Service {name} is declared as {declared}: no {} applies to it", port.port, kind.name());
        return Err(Condition::refused("UnsupportedValue", text));
    }
    Ok(usable.into_iter().filter_map(|p| u16::try_from(p.port).ok()).collect())
}

fn verdict(route: &Route, parents: &[Parent], lost: &[Lost]) -> Option<Verdict> {
    let of_parent = |(parent, lost): (&Parent, &Lost)| {
        let accepted = match (&parent.refused, lost.values().next()) {
            (Some(refused), _) => refused.clone(),
            (None, Some(winner)) if lost.len() == parent.ports.len() => {
                let (service, winner) = (&parent.service, winner.name());
                let text = format!("Service {service} has a {winner} on the same port, which comes first");
                Condition::refused("Conflicted", text)
            }
            (None, _) => Condition::accepted(),
        };
        ParentVerdict {
            parent: Some(parent.text.clone()),
            conditions: vec![accepted, parent.resolved.clone()],
            shapes: [(type_url::SERVICE, parent.service.clone())].into(),
        }
    };
    // A route without a parent of ours is somebody else's.
    (!parents.is_empty()).then(|| Verdict {
        kind: route.kind,
        namespace: route.namespace.clone(),
        name: route.name.clone(),
        uid: route.uid.clone(),
        generation: route.generation,
        parents: parents.iter().zip(lost).map(of_parent).collect(),
        rollout: None,
    })
}
