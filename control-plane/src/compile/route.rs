//! Routes: attaches `HTTPRoute`s and `GRPCRoute`s to ports of Services, compiles them, and finds out their fate under each parent.
//!
//! Rules followed: GAMMA (GEP-1294, GEP-1324: producer routes hold for all clients, consumer routes only for clients in their own namespace,
//! whom they replace producer routes for), GEP-1426 (kinds on one port: GRPCRoute before HTTPRoute), GEP-1364 (conditions).

use super::condition::{Condition, Kind, ParentVerdict, Verdict};
use super::route_spec::{
    self, BackendRef, Filter, HeaderModifier, KeyMatch, Match, ParentRef, PathKind, Rule, ValueKind,
};
use super::{LastGood, names, service};
use crate::kinds::Service;
use crate::world::{Route, World};
use std::collections::{BTreeMap, BTreeSet};
use weft_proto::{type_url, v1};

/// Methods that may be sent again without being asked (RFC 9110 section 9.2.2, and safe ones).
const IDEMPOTENT: [&str; 6] = ["GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"];

#[derive(Debug, Default)]
struct OfPort {
    producers: Vec<v1::Route>,
    consumers: BTreeMap<String, Vec<v1::Route>>,
}

/// All routes where they are in force.
#[derive(Debug, Default)]
pub struct Attached {
    ports: BTreeMap<(String, u16), OfPort>,
    verdicts: Vec<Verdict>,
}

/// One route under one parent, on its way.
struct Pending<'w> {
    route: &'w Route,
    parent: serde_json::Value,
    /// Why it is not accepted here.
    refused: Option<Condition>,
    resolved: Condition,
    service: String,
    ports: Vec<u16>,
    compiled: Option<v1::Route>,
    /// Ports on which another kind won.
    lost: BTreeSet<u16>,
}

impl Attached {
    /// Compiles every route of the world.
    #[must_use]
    pub fn compile(world: &World, last: &LastGood, keep: &mut LastGood) -> Self {
        let mut pending: Vec<Pending<'_>> = world.routes.iter().flat_map(|r| attach(world, r)).collect();
        for p in &mut pending {
            remember(p, last, keep);
        }
        conflicts(&mut pending);
        let mut all = Self::default();
        for p in &pending {
            let Some(compiled) = &p.compiled else { continue };
            for port in p.ports.iter().filter(|port| !p.lost.contains(port)) {
                let of_port = all.ports.entry((p.service.clone(), *port)).or_default();
                let list = if is_producer(p) {
                    &mut of_port.producers
                } else {
                    of_port.consumers.entry(p.route.namespace.clone()).or_default()
                };
                // Two parentRefs of one route may name the same port.
                if !list.iter().any(|r| r.name == compiled.name && r.kind == compiled.kind) {
                    list.push(compiled.clone());
                }
            }
        }
        all.verdicts = verdicts(pending);
        all
    }

    /// The routes on a port as clients of a namespace (`None`: of one without consumer routes) see them, older first.
    #[must_use]
    pub fn of(&self, service: &str, port: u16, client: Option<&str>) -> &[v1::Route] {
        let Some(of_port) = self.ports.get(&(service.to_owned(), port)) else { return &[] };
        client.and_then(|c| of_port.consumers.get(c)).unwrap_or(&of_port.producers)
    }

    /// Namespaces with consumer routes for the service.
    pub fn namespaces_of<'a>(&'a self, service: &'a str) -> impl Iterator<Item = &'a str> {
        let range = self.ports.range((service.to_owned(), 0)..=(service.to_owned(), u16::MAX));
        let all: BTreeSet<&str> = range.flat_map(|(_, p)| p.consumers.keys().map(String::as_str)).collect();
        all.into_iter()
    }

    /// What the routes learn.
    #[must_use]
    pub fn into_verdicts(self) -> Vec<Verdict> {
        self.verdicts
    }
}

fn is_producer(p: &Pending<'_>) -> bool {
    p.service.split('/').next() == Some(p.route.namespace.as_str())
}

fn attach<'w>(world: &'w World, route: &'w Route) -> Vec<Pending<'w>> {
    let (compiled, resolved) = compile(world, route);
    let parents = route_spec::parents(&route.spec).into_iter().filter(|(parent, _)| parent.is_service());
    let pending = parents.map(|(parent, text)| {
        let namespace = parent.namespace.clone().unwrap_or_else(|| route.namespace.clone());
        let service = names::namespaced(&namespace, &parent.name);
        let (ports, refused) = match ports(world.services.get(&service).map(|s| &**s), &service, &parent, route.kind) {
            Ok(ports) => (ports, None),
            Err(condition) => (Vec::new(), Some(condition)),
        };
        let refused = refused.or_else(|| compiled.as_ref().err().cloned());
        Pending {
            route,
            parent: text,
            refused,
            resolved: resolved.clone(),
            service,
            ports,
            compiled: compiled.as_ref().ok().cloned(),
            lost: BTreeSet::new(),
        }
    });
    pending.collect()
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

/// A refused edition leaves in force what the route compiled to before, where it was in force.
fn remember(p: &mut Pending<'_>, last: &LastGood, keep: &mut LastGood) {
    let key = |port: &u16| (p.route.kind, p.route.key(), format!("{}:{port}", p.service));
    let good = match &p.compiled {
        Some(compiled) => Some(compiled.clone()),
        None => p.ports.iter().find_map(|port| last.routes.get(&key(port)).cloned()),
    };
    if let Some(good) = good {
        for port in &p.ports {
            keep.routes.insert(key(port), good.clone());
        }
        p.compiled = Some(good);
    }
}

fn conflicts(pending: &mut [Pending<'_>]) {
    let scope = |p: &Pending<'_>| if is_producer(p) { String::new() } else { p.route.namespace.clone() };
    let mut grpc: BTreeSet<(String, u16, String)> = BTreeSet::new();
    for p in pending.iter().filter(|p| p.route.kind == Kind::GrpcRoute && p.compiled.is_some()) {
        grpc.extend(p.ports.iter().map(|port| (p.service.clone(), *port, scope(p))));
    }
    for p in pending.iter_mut().filter(|p| p.route.kind == Kind::HttpRoute) {
        let scope = scope(p);
        p.lost = p.ports.iter().filter(|n| grpc.contains(&(p.service.clone(), **n, scope.clone()))).copied().collect();
    }
}

fn verdicts(pending: Vec<Pending<'_>>) -> Vec<Verdict> {
    let mut all: BTreeMap<(Kind, String), Verdict> = BTreeMap::new();
    for p in pending {
        let accepted = match p.refused {
            Some(refused) => refused,
            None if !p.ports.is_empty() && p.lost.len() == p.ports.len() => {
                let text = format!("Service {} has a GRPCRoute on the same port, which comes first", p.service);
                Condition::refused("Conflicted", text)
            }
            None => Condition::accepted(),
        };
        let verdict = ParentVerdict {
            parent: Some(p.parent),
            conditions: vec![accepted, p.resolved],
            shapes: [(type_url::SERVICE, p.service)].into(),
        };
        let entry = all.entry((p.route.kind, p.route.key())).or_insert_with(|| Verdict {
            kind: p.route.kind,
            namespace: p.route.namespace.clone(),
            name: p.route.name.clone(),
            uid: p.route.uid.clone(),
            generation: p.route.generation,
            parents: Vec::new(),
        });
        entry.parents.push(verdict);
    }
    all.into_values().collect()
}

/// A route on its own: what it compiles to or why not, and whether what it refers to exists.
fn compile(world: &World, route: &Route) -> (Result<v1::Route, Condition>, Condition) {
    let rules = match route_spec::rules(route.kind, &route.spec) {
        Ok(rules) => rules,
        Err(e) => {
            let refused = Condition::refused("UnsupportedValue", format!("{}: {}", e.field, e.reason));
            return (Err(refused), Condition::resolved(&[]));
        }
    };
    let mut unresolved = Vec::new();
    let rules = rules.iter().map(|r| rule(world, route, r, &mut unresolved)).collect();
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
