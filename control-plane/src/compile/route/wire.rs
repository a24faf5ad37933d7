//! A route on its own: what it compiles to, what it refers to, and whether that exists.

use super::super::condition::{Condition, Kind};
use super::super::route_spec::{
    self, BackendRef, Cors, Filter, HeaderModifier, HttpMatch, KeyMatch, LifetimeType, Match, Mirror, ObjectRef,
    PathKind, PathModifier, Redirect, Rule, SessionKind, SessionPersistence, ValueKind,
};
use super::super::{names, service};
use crate::kinds;
use crate::world::{Route, World};
use serde::Deserialize;
use std::collections::BTreeSet;
use weft_proto::v1;

/// Methods that may be sent again without being asked (RFC 9110 section 9.2.2, and safe ones).
const IDEMPOTENT: [&str; 6] = ["GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"];
/// Seconds for which a preflight may be cached where the filter does not say (HTTPCORSFilter.maxAge).
const PREFLIGHT: u32 = 5;
/// Where the names of fields on the wire and in objects differ.
const NAMES: [(&str, &str); 13] = [
    ("pathRegex", "path.value"),
    ("pathPrefix", "path.value"),
    ("exactPath", "path.value"),
    ("backends[", "backendRefs["),
    ("serverNames", "hostnames"),
    (".requestHeaders", ".requestHeaderModifier"),
    (".responseHeaders", ".responseHeaderModifier"),
    (".mirror", ".requestMirror"),
    (".redirect", ".requestRedirect"),
    (".rewrite", ".urlRewrite"),
    (".queries[", ".queryParams["),
    (".path.full", ".path.replaceFullPath"),
    (".path.prefix", ".path.replacePrefixMatch"),
];

/// Why a reference does not resolve: the condition's reason, and a text.
pub(in crate::compile) type Unresolved = (&'static str, String);

/// A route on its own: what it compiles to or why not, and whether what it refers to exists.
pub(super) fn compile(
    world: &World,
    route: &Route,
    names: &mut BTreeSet<String>,
) -> (Result<v1::Route, Condition>, Condition) {
    let spec = route.spec.read();
    let rules = match route_spec::rules(route.kind, &spec) {
        Ok(rules) => rules,
        Err(e) => {
            let refused = Condition::refused("UnsupportedValue", format!("{}: {}", e.field, e.reason));
            return (Err(refused), Condition::resolved(&[]));
        }
    };
    let mut refs = Refs { world, namespace: &route.namespace, names, unresolved: Vec::new() };
    let rules = rules.iter().map(|r| rule(&mut refs, r)).collect();
    let kind = match route.kind {
        Kind::GrpcRoute => v1::RouteKind::Grpc,
        Kind::TlsRoute => v1::RouteKind::Tls,
        Kind::TcpRoute => v1::RouteKind::Tcp,
        _ => v1::RouteKind::Http,
    };
    let server_names = if route.kind == Kind::TlsRoute { route_spec::server_names(&spec) } else { Vec::new() };
    let resolved = Condition::resolved(&refs.unresolved);
    let compiled = v1::Route { name: route.key(), kind: kind.into(), created: route.created, rules, server_names };
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
        let named = NAMES.iter().fold(inner.to_owned(), |field, (wire, spec)| field.replace(wire, spec));
        format!("spec.{named}: {}", refusal.reason)
    })
}

fn rule(refs: &mut Refs<'_>, rule: &Rule) -> v1::RouteRule {
    v1::RouteRule {
        name: rule.name.clone(),
        matches: rule.matches.iter().map(matching).collect(),
        filters: refs.filters(&rule.filters),
        backends: rule.backends.iter().map(|b| refs.backend(b)).collect(),
        request_timeout: rule.request_timeout.and_then(duration),
        backend_request_timeout: rule.backend_request_timeout.and_then(duration),
        retry: rule.retry.as_ref().map(|retry| v1::RetryPolicy {
            attempts: retry.attempts,
            codes: retry.codes.iter().map(|c| u32::from(*c)).collect(),
            methods: opted_in(rule),
            backoff: retry.backoff.and_then(duration),
            grpc_codes: Vec::new(),
        }),
        session_persistence: rule.session_persistence.as_ref().map(session_persistence),
    }
}

fn session_persistence(written: &SessionPersistence) -> v1::SessionPersistence {
    let kind = match written.kind {
        SessionKind::Cookie => v1::SessionKind::Cookie,
        SessionKind::Header => v1::SessionKind::Header,
    };
    v1::SessionPersistence {
        name: written.session_name.clone(),
        kind: kind.into(),
        absolute_timeout: written.absolute_timeout.and_then(duration),
        permanent: written.cookie_config.lifetime_type == LifetimeType::Permanent,
        // GEP-1619: "/".
        path: String::new(),
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
pub(in crate::compile) fn duration(duration: crate::kinds::Duration) -> Option<prost_types::Duration> {
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

/// Matches as an HTTPRoute has them, of another kind that borrows them; `field` is where they stand.
pub(in crate::compile) fn http_matches(
    field: &str,
    written: &[kinds::HttpMatch],
) -> Result<Vec<v1::RouteMatch>, String> {
    let read = |(i, written): (usize, &kinds::HttpMatch)| {
        let value = serde_json::to_value(written).map_err(|e| format!("{field}[{i}]: {e}"))?;
        let read = HttpMatch::deserialize(value).map_err(|e| format!("{field}[{i}]: {e}"))?;
        Ok(matching(&Match::Http(read)))
    };
    written.iter().enumerate().map(read).collect()
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

/// Reads what a route refers to, and remembers what it found.
struct Refs<'r> {
    world: &'r World,
    /// Of the route.
    namespace: &'r str,
    /// Every Service that is named.
    names: &'r mut BTreeSet<String>,
    unresolved: Vec<Unresolved>,
}

impl Refs<'_> {
    fn filters(&mut self, written: &[Filter]) -> Vec<v1::Filter> {
        written.iter().map(|f| v1::Filter { filter: Some(self.filter(f)) }).collect()
    }

    fn filter(&mut self, written: &Filter) -> v1::filter::Filter {
        use v1::filter::Filter as Wire;
        match written {
            Filter::RequestHeaders(m) => Wire::RequestHeaders(modifier(m)),
            Filter::ResponseHeaders(m) => Wire::ResponseHeaders(modifier(m)),
            Filter::Mirror(m) => Wire::Mirror(self.mirror(m)),
            Filter::Redirect(r) => Wire::Redirect(redirect(r)),
            Filter::Rewrite(r) => Wire::Rewrite(v1::Rewrite {
                hostname: r.hostname.clone().unwrap_or_default(),
                path: r.path.as_ref().map(path),
            }),
            Filter::Cors(c) => Wire::Cors(cors(c)),
        }
    }

    fn mirror(&mut self, written: &Mirror) -> v1::Mirror {
        let (service, port, missing) = self.resolve(&written.backend_ref);
        let (numerator, denominator) = match (written.percent, written.fraction) {
            (Some(percent), _) => (percent, 100),
            (None, Some(fraction)) => (fraction.numerator, fraction.denominator.unwrap_or(100)),
            (None, None) => (0, 0),
        };
        let unresolved = missing.as_ref().map(named).unwrap_or_default();
        self.unresolved.extend(missing);
        v1::Mirror { service, port: port.into(), unresolved, numerator, denominator }
    }

    fn backend(&mut self, written: &BackendRef) -> v1::WeightedBackend {
        let (service, port, missing) = self.resolve(&written.object());
        let weight = u32::try_from(written.weight.unwrap_or(1)).unwrap_or(0);
        let unresolved = missing.as_ref().map(named).unwrap_or_default();
        // What gets no calls may name what does not exist yet.
        self.unresolved.extend(missing.filter(|_| weight > 0));
        v1::WeightedBackend { service, port: port.into(), weight, unresolved, filters: self.filters(&written.filters) }
    }

    /// The Service's name and port, and why there is none.
    fn resolve(&mut self, written: &ObjectRef) -> (String, u16, Option<Unresolved>) {
        let namespace = written.namespace.as_deref().unwrap_or(self.namespace);
        let name = names::namespaced(namespace, &written.name);
        let port = written.port.and_then(|p| u16::try_from(p).ok()).unwrap_or(0);
        self.names.insert(name.clone());
        let (group, kind) = (written.group.as_deref().unwrap_or(""), written.kind.as_deref().unwrap_or("Service"));
        let missing = if group.is_empty() && kind == "Service" {
            resolve_port(self.world, &name, port).err()
        } else {
            Some(("InvalidKind", format!("{kind} {:?} is no backend: only Services are", written.name)))
        };
        (name, port, missing)
    }
}

/// What callers and `weft explain` read of a reference that does not resolve: `BackendNotFound: there is no Service shop/nobody`.
fn named((reason, text): &Unresolved) -> String {
    format!("{reason}: {text}")
}

/// Whether the mesh knows the port of a Service ("namespace/name").
pub(in crate::compile) fn resolve_port(world: &World, name: &str, port: u16) -> Result<(), Unresolved> {
    let Some(found) = world.services.get(name) else {
        return Err(("BackendNotFound", format!("there is no Service {name}")));
    };
    if service::is_external_name(found) && service::external_host(found, &world.mesh.domain).is_none() {
        let text = format!("Service {name} is of type ExternalName and stands for a name of the mesh itself");
        return Err(("InvalidKind", text));
    }
    if !service::ports(found).any(|p| p == port) {
        return Err(("BackendNotFound", format!("Service {name} has no port {port}")));
    }
    Ok(())
}

fn modifier(written: &HeaderModifier) -> v1::HeaderModifier {
    let values = |list: &[route_spec::Header]| {
        list.iter().map(|h| v1::HeaderValue { name: h.name.clone(), value: h.value.clone() }).collect()
    };
    v1::HeaderModifier { set: values(&written.set), add: values(&written.add), remove: written.remove.clone() }
}

fn redirect(written: &Redirect) -> v1::Redirect {
    v1::Redirect {
        scheme: written.scheme.clone().unwrap_or_default(),
        hostname: written.hostname.clone().unwrap_or_default(),
        path: written.path.as_ref().map(path),
        port: written.port.unwrap_or_default().into(),
        status: written.status_code.unwrap_or_default().into(),
    }
}

fn path(written: &PathModifier) -> v1::PathModifier {
    use v1::path_modifier::Modifier;
    let modifier = match written {
        PathModifier::Full(path) => Modifier::Full(path.clone()),
        PathModifier::Prefix(prefix) => Modifier::Prefix(prefix.clone()),
    };
    v1::PathModifier { modifier: Some(modifier) }
}

fn cors(written: &Cors) -> v1::Cors {
    v1::Cors {
        allow_origins: written.allow_origins.clone(),
        allow_credentials: written.allow_credentials,
        allow_methods: written.allow_methods.clone(),
        allow_headers: written.allow_headers.clone(),
        expose_headers: written.expose_headers.clone(),
        max_age: written.max_age.unwrap_or(PREFLIGHT),
    }
}
