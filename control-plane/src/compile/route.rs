//! Routes: attaches `HTTPRoute`s and `GRPCRoute`s to ports of Services, compiles them, and finds out their fate under each parent.
//!
//! Rules followed: GAMMA (GEP-1294, GEP-1324: producer routes hold for all clients, consumer routes only for clients in their own namespace,
//! whom they replace producer routes for), GEP-1426 (kinds on one port: GRPCRoute before HTTPRoute), GEP-1364 (conditions).

use super::condition::{Condition, Kind, ParentVerdict, Verdict};
use super::route_spec::{
    self, BackendRef, Filter, HeaderModifier, KeyMatch, Match, ParentRef, PathKind, Rule, ValueKind,
};
use super::{names, service};
use crate::kinds::Service;
use crate::world::{Route, World};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use weft_proto::{type_url, v1};

/// Methods that may be sent again without being asked (RFC 9110 section 9.2.2, and safe ones).
const IDEMPOTENT: [&str; 6] = ["GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"];

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
    /// Service → the routes that name it, as a parent or as a backend.
    naming: HashMap<String, BTreeSet<Key>>,
    /// Service → port → what is in force there.
    ports: HashMap<String, BTreeMap<u16, OfPort>>,
}

/// One route, read.
#[derive(Clone, Debug)]
struct Known {
    route: Arc<Route>,
    /// Every Service that it names, as a parent or as a backend: when one of them changes, it is read again.
    names: BTreeSet<String>,
    parents: Arc<[Parent]>,
    /// Under each parent: the ports on which another kind won.
    lost: Vec<BTreeSet<u16>>,
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
            let of_kind = if key.0 == Kind::GrpcRoute { &world.grpc_routes } else { &world.http_routes };
            let is = of_kind.get(&key.1).map(|route| read(world, route, before.as_ref()));
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
        // A GRPCRoute comes before every HTTPRoute of the same scope on the same port.
        let mut grpc: BTreeSet<(u16, String)> = BTreeSet::new();
        for known in keys.iter().filter(|k| k.0 == Kind::GrpcRoute).filter_map(|k| self.known.get(k)) {
            for parent in known.parents.iter().filter(|p| p.service == service && p.compiled.is_some()) {
                grpc.extend(parent.ports.iter().map(|port| (*port, scope(&known.route, parent))));
            }
        }
        for key in keys.iter().filter(|k| k.0 == Kind::HttpRoute) {
            let Some(known) = self.known.get_mut(key) else { continue };
            for (parent, lost) in known.parents.iter().zip(&mut known.lost).filter(|(p, _)| p.service == service) {
                let scope = scope(&known.route, parent);
                let ports = parent.ports.iter().copied();
                let now: BTreeSet<u16> = ports.filter(|port| grpc.contains(&(*port, scope.clone()))).collect();
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
                for port in parent.ports.iter().filter(|port| !lost.contains(port)) {
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
    let (compiled, resolved) = compile(world, route, &mut names);
    // What is as it was stays the same value, so that services that it is attached to are not compiled again.
    let known = before.into_iter().flat_map(|b| b.parents.iter()).filter_map(|p| p.compiled.as_ref());
    let compiled = compiled.map(|is| known.clone().find(|was| ***was == is).cloned().unwrap_or_else(|| Arc::new(is)));
    let parents = route_spec::parents(&route.spec).into_iter().filter(|(parent, _)| parent.is_service());
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
    Known { route: route.clone(), names, lost: vec![BTreeSet::new(); parents.len()], parents, verdict: None }
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
    let wrong = |p: &&k8s_openapi::api::core::v1::ServicePort| match service::declared_protocol(p) {
        Some(v1::Protocol::Tcp) => Some("TCP"),
        Some(v1::Protocol::Http1) if kind == Kind::GrpcRoute => Some("HTTP/1.1"),
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

fn verdict(route: &Route, parents: &[Parent], lost: &[BTreeSet<u16>]) -> Option<Verdict> {
    let of_parent = |(parent, lost): (&Parent, &BTreeSet<u16>)| {
        let accepted = match &parent.refused {
            Some(refused) => refused.clone(),
            None if !parent.ports.is_empty() && lost.len() == parent.ports.len() => {
                let text = format!("Service {} has a GRPCRoute on the same port, which comes first", parent.service);
                Condition::refused("Conflicted", text)
            }
            None => Condition::accepted(),
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
    })
}

/// A route on its own: what it compiles to or why not, and whether what it refers to exists.
fn compile(world: &World, route: &Route, names: &mut BTreeSet<String>) -> (Result<v1::Route, Condition>, Condition) {
    let rules = match route_spec::rules(route.kind, &route.spec) {
        Ok(rules) => rules,
        Err(e) => {
            let refused = Condition::refused("UnsupportedValue", format!("{}: {}", e.field, e.reason));
            return (Err(refused), Condition::resolved(&[]));
        }
    };
    let mut unresolved = Vec::new();
    let rules: Vec<_> = rules.iter().map(|r| rule(world, route, r, &mut unresolved)).collect();
    names.extend(rules.iter().flat_map(|r| &r.backends).map(|b| b.service.clone()));
    let kind = if route.kind == Kind::GrpcRoute { v1::RouteKind::Grpc } else { v1::RouteKind::Http };
    let compiled = v1::Route { name: route.key(), kind: kind.into(), created: route.created, rules };
    let resolved = Condition::resolved(&unresolved);
    match check(&compiled) {
        Ok(()) => (Ok(compiled), resolved),
        Err(text) => (Err(Condition::refused("Invalid", text)), resolved),
    }
}

/// Whether a sidecar would take the route; the error names the field as people wrote it, as far as the names agree.
fn check(route: &v1::Route) -> Result<(), String> {
    let port = v1::ServicePort {
        port: 80,
        frontend: Some(v1::Frontend { routes: vec![route.clone()], ..Default::default() }),
        backend: Some(v1::Backend::default()),
        ..Default::default()
    };
    let probe = v1::Service { name: "probe/probe".into(), ports: vec![port], ..Default::default() };
    weft_policy::config::Service::from_wire(&probe).map(drop).map_err(|refusal| {
        let inner = refusal.field.strip_prefix("ports[0].frontend.routes[0].").unwrap_or(&refusal.field);
        let inner = inner.replace("pathRegex", "path.value").replace("pathPrefix", "path.value");
        let inner = inner.replace("exactPath", "path.value").replace("backends[", "backendRefs[");
        format!("spec.{inner}: {}", refusal.reason)
    })
}

fn rule(world: &World, route: &Route, rule: &Rule, unresolved: &mut Vec<(&'static str, String)>) -> v1::RouteRule {
    v1::RouteRule {
        name: rule.name.clone(),
        matches: rule.matches.iter().map(matching).collect(),
        filters: filters(&rule.filters),
        backends: rule.backends.iter().map(|b| backend(world, route, b, unresolved)).collect(),
        request_timeout: rule.request_timeout.and_then(duration),
        backend_request_timeout: rule.backend_request_timeout.and_then(duration),
        retry: rule.retry.as_ref().map(|retry| v1::RetryPolicy {
            attempts: retry.attempts,
            codes: retry.codes.iter().map(|c| u32::from(*c)).collect(),
            methods: opted_in(rule),
            backoff: retry.backoff.and_then(duration),
            grpc_codes: Vec::new(),
        }),
    }
}

/// A `retry` of its own opts a rule's methods in to being sent again: those that its matches name, else the two common ones that are not
/// idempotent. Nothing is opted in without a `retry`.
fn opted_in(rule: &Rule) -> Vec<String> {
    let named = rule.matches.iter().map(|m| match m {
        Match::Http(m) => m.method.clone(),
        Match::Grpc(_) => None,
    });
    let methods: Option<BTreeSet<String>> = named.collect();
    match methods.filter(|m| !m.is_empty()) {
        Some(named) => named.into_iter().filter(|m| !IDEMPOTENT.contains(&m.as_str())).collect(),
        None => vec!["PATCH".to_owned(), "POST".to_owned()],
    }
}

/// A duration on the wire; zero disables.
#[must_use]
pub(super) fn duration(duration: crate::kinds::Duration) -> Option<prost_types::Duration> {
    prost_types::Duration::try_from(duration.0).ok()
}

fn matching(written: &Match) -> v1::RouteMatch {
    use v1::route_match::Path;
    match written {
        Match::Http(m) => v1::RouteMatch {
            path: m.path.as_ref().map(|p| match p.kind {
                PathKind::Exact => Path::ExactPath(p.value.clone()),
                PathKind::PathPrefix => Path::PathPrefix(p.value.clone()),
                PathKind::RegularExpression => Path::PathRegex(p.value.clone()),
            }),
            method: m.method.clone().unwrap_or_default(),
            headers: keys(&m.headers, true),
            queries: keys(&m.query_params, false),
        },
        Match::Grpc(m) => v1::RouteMatch {
            path: m.method.as_ref().map(|method| {
                Path::Grpc(v1::GrpcMethod {
                    service: method.service.clone().unwrap_or_default(),
                    method: method.method.clone().unwrap_or_default(),
                    regex: method.kind == ValueKind::RegularExpression,
                })
            }),
            headers: keys(&m.headers, true),
            ..Default::default()
        },
    }
}

/// "Subsequent entries with an equivalent name MUST be ignored"; the names of headers are equal whatever their case.
fn keys(written: &[KeyMatch], folded: bool) -> Vec<v1::KeyMatch> {
    let mut seen = BTreeSet::new();
    let name = |k: &KeyMatch| if folded { k.name.to_ascii_lowercase() } else { k.name.clone() };
    let first = written.iter().filter(|k| seen.insert(name(k)));
    let key = first.map(|k| v1::KeyMatch {
        name: name(k),
        value: Some(match k.kind {
            ValueKind::Exact => v1::key_match::Value::Exact(k.value.clone()),
            ValueKind::RegularExpression => v1::key_match::Value::Regex(k.value.clone()),
        }),
    });
    key.collect()
}

fn filters(written: &[Filter]) -> Vec<v1::Filter> {
    use v1::filter::Filter as Wire;
    let modifier = |m: &HeaderModifier| {
        let values = |list: &[route_spec::Header]| {
            list.iter().map(|h| v1::HeaderValue { name: h.name.clone(), value: h.value.clone() }).collect()
        };
        v1::HeaderModifier { set: values(&m.set), add: values(&m.add), remove: m.remove.clone() }
    };
    let filter = |f: &Filter| {
        let request = f.request_header_modifier.as_ref().map(|m| Wire::RequestHeaders(modifier(m)));
        request.or_else(|| f.response_header_modifier.as_ref().map(|m| Wire::ResponseHeaders(modifier(m))))
    };
    written.iter().map(|f| v1::Filter { filter: filter(f) }).collect()
}

fn backend(
    world: &World,
    route: &Route,
    written: &BackendRef,
    unresolved: &mut Vec<(&'static str, String)>,
) -> v1::WeightedBackend {
    let namespace = written.namespace.as_deref().unwrap_or(&route.namespace);
    let service = names::namespaced(namespace, &written.name);
    let weight = u32::try_from(written.weight.unwrap_or(1)).unwrap_or(0);
    let port = written.port.and_then(|p| u16::try_from(p).ok()).unwrap_or(0);
    let missing = resolve(world, written, &service, port).err();
    if let Some((reason, text)) = &missing
        // What gets no calls may name what does not exist yet.
        && weight > 0
    {
        unresolved.push((reason, text.clone()));
    }
    v1::WeightedBackend {
        service,
        port: port.into(),
        weight,
        unresolved: missing.map(|(reason, _)| reason.to_owned()).unwrap_or_default(),
        filters: filters(&written.filters),
    }
}

fn resolve(world: &World, written: &BackendRef, service: &str, port: u16) -> Result<(), (&'static str, String)> {
    let (group, kind) = (written.group.as_deref().unwrap_or(""), written.kind.as_deref().unwrap_or("Service"));
    if !group.is_empty() || kind != "Service" {
        return Err(("InvalidKind", format!("{kind} {:?} is no backend: only Services are", written.name)));
    }
    let Some(found) = world.services.get(service) else {
        return Err(("BackendNotFound", format!("there is no Service {service}")));
    };
    if service::is_external_name(found) {
        return Err(("InvalidKind", format!("Service {service} is of type ExternalName and has no endpoints")));
    }
    if !service::ports(found).any(|p| p == port) {
        return Err(("BackendNotFound", format!("Service {service} has no port {port}")));
    }
    Ok(())
}
