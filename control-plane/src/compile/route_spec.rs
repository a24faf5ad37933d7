//! Reads the spec of a route of any kind strictly: what this version of Weft does not implement is refused by name and place, never dropped.
//!
//! The API server's schema has checked shapes already; here only the subset is declared that the sidecar can do, and everything else is an
//! error that names the field (`spec.rules[0].filters[1].extensionRef`).

mod filter;
mod shape;

pub use filter::{Cors, Filter, Header, HeaderModifier, Mirror, PathModifier, Redirect, Rewrite};
pub use shape::{
    BackendRef, CookieConfig, GrpcMatch, GrpcMethod, HttpMatch, KeyMatch, LifetimeType, Match, ObjectRef, PathKind,
    PathMatch, Retry, SessionKind, SessionPersistence, ValueKind,
};

use super::condition::Kind;
use serde::Deserialize;
use serde_json::Value;

/// A `parentRef`, as written.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ParentRef {
    /// Absent: the Gateway API's own group.
    pub group: Option<String>,
    /// Absent: Gateway.
    pub kind: Option<String>,
    /// Name of the parent.
    pub name: String,
    /// Absent: the route's own.
    pub namespace: Option<String>,
    /// Absent: every port.
    pub port: Option<i32>,
    /// Name of a port.
    pub section_name: Option<String>,
}

impl ParentRef {
    /// Whether the parent is a Service: those are the mesh's, all others are somebody else's.
    #[must_use]
    pub fn is_service(&self) -> bool {
        self.group.as_deref() == Some("") && self.kind.as_deref() == Some("Service")
    }
}

/// A rule of any kind.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Rule {
    /// Empty when absent.
    pub name: String,
    /// Any suffices; none matches everything.
    pub matches: Vec<Match>,
    /// In order.
    pub filters: Vec<Filter>,
    /// By weight.
    pub backends: Vec<BackendRef>,
    /// `timeouts.request`
    pub request_timeout: Option<crate::kinds::Duration>,
    /// `timeouts.backendRequest`
    pub backend_request_timeout: Option<crate::kinds::Duration>,
    /// `retry`
    pub retry: Option<Retry>,
    /// `sessionPersistence`
    pub session_persistence: Option<SessionPersistence>,
}

/// What cannot be done, and where it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unsupported {
    /// `spec.rules[0].filters[1].extensionRef`
    pub field: String,
    /// What is wrong with it.
    pub reason: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct HttpRule {
    #[serde(default)]
    name: String,
    #[serde(default)]
    matches: Vec<HttpMatch>,
    #[serde(default)]
    filters: Vec<Filter>,
    #[serde(default)]
    backend_refs: Vec<BackendRef>,
    #[serde(default)]
    timeouts: HttpTimeouts,
    #[serde(default)]
    retry: Option<Retry>,
    #[serde(default)]
    session_persistence: Option<SessionPersistence>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct HttpTimeouts {
    request: Option<crate::kinds::Duration>,
    backend_request: Option<crate::kinds::Duration>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct GrpcRule {
    #[serde(default)]
    name: String,
    #[serde(default)]
    matches: Vec<GrpcMatch>,
    #[serde(default)]
    filters: Vec<Filter>,
    #[serde(default)]
    backend_refs: Vec<BackendRef>,
    #[serde(default)]
    session_persistence: Option<SessionPersistence>,
}

/// Of a TCPRoute or a TLSRoute.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct ConnectionRule {
    #[serde(default)]
    name: String,
    #[serde(default)]
    backend_refs: Vec<BackendRef>,
}

// Hostnames on a mesh route of calls are ignored (GAMMA), those of a TLSRoute are read apart; gateways are not ours.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Spec<R> {
    #[serde(default, rename = "parentRefs")]
    _parents: Value,
    #[serde(default, rename = "hostnames")]
    _hostnames: Value,
    #[serde(default, rename = "useDefaultGateways")]
    _gateways: Value,
    #[serde(default = "Vec::new")]
    rules: Vec<R>,
}

/// The parents of a route, each with the text it was written in. What is no parentRef is left out: the API's schema refuses it.
#[must_use]
pub fn parents(spec: &Value) -> Vec<(ParentRef, Value)> {
    let refs = spec.get("parentRefs").and_then(Value::as_array);
    let read = |v: &Value| ParentRef::deserialize(v).ok().map(|p| (p, v.clone()));
    refs.into_iter().flatten().filter_map(read).collect()
}

/// The server names of a TLSRoute, in lower case.
#[must_use]
pub fn server_names(spec: &Value) -> Vec<String> {
    let names = spec.get("hostnames").and_then(Value::as_array).into_iter().flatten();
    names.filter_map(Value::as_str).map(str::to_ascii_lowercase).collect()
}

/// The rules of a route; never none: an absent list means one rule that matches everything and leads nowhere.
///
/// # Errors
/// The first thing that the sidecar could not do.
pub fn rules(kind: Kind, spec: &Value) -> Result<Vec<Rule>, Unsupported> {
    let mut rules = match kind {
        Kind::GrpcRoute => grpc_rules(spec)?,
        Kind::TcpRoute | Kind::TlsRoute => connection_rules(kind, spec)?,
        _ => http_rules(spec)?,
    };
    if rules.is_empty() {
        rules.push(Rule::default());
    }
    Ok(rules)
}

fn http_rules(spec: &Value) -> Result<Vec<Rule>, Unsupported> {
    let rule = |r: HttpRule| Rule {
        name: r.name,
        matches: r.matches.into_iter().map(Match::Http).collect(),
        filters: r.filters,
        backends: r.backend_refs,
        request_timeout: r.timeouts.request,
        backend_request_timeout: r.timeouts.backend_request,
        retry: r.retry,
        session_persistence: r.session_persistence,
    };
    Ok(strictly::<Spec<HttpRule>>(spec)?.rules.into_iter().map(rule).collect())
}

fn grpc_rules(spec: &Value) -> Result<Vec<Rule>, Unsupported> {
    let rule = |r: GrpcRule| Rule {
        name: r.name,
        matches: r.matches.into_iter().map(Match::Grpc).collect(),
        filters: r.filters,
        backends: r.backend_refs,
        session_persistence: r.session_persistence,
        ..Rule::default()
    };
    let rules: Vec<Rule> = strictly::<Spec<GrpcRule>>(spec)?.rules.into_iter().map(rule).collect();
    let of_http =
        |filter: &Filter| filter.is_of_http_alone().then(|| format!("{} belongs to HTTPRoutes", filter.name()));
    match place(&rules, of_http) {
        Some((field, reason)) => Err(Unsupported { field, reason }),
        None => Ok(rules),
    }
}

fn connection_rules(kind: Kind, spec: &Value) -> Result<Vec<Rule>, Unsupported> {
    let rule = |r: ConnectionRule| Rule { name: r.name, backends: r.backend_refs, ..Rule::default() };
    let rules: Vec<Rule> = strictly::<Spec<ConnectionRule>>(spec)?.rules.into_iter().map(rule).collect();
    if rules.len() != 1 {
        let reason = format!("a {} has exactly one rule, not {}", kind.name(), rules.len());
        return Err(Unsupported { field: "spec.rules".to_owned(), reason });
    }
    match place(&rules, |_| Some(format!("means nothing on a {}", kind.name()))) {
        Some((field, reason)) => Err(Unsupported { field, reason }),
        None => Ok(rules),
    }
}

/// The first filter that something is said of, and where it stands.
fn place(rules: &[Rule], said: impl Fn(&Filter) -> Option<String>) -> Option<(String, String)> {
    rules.iter().enumerate().find_map(|(i, rule)| {
        let own = rule.filters.iter().enumerate().map(|(j, f)| (format!("spec.rules[{i}].filters[{j}]"), f));
        let of_backends = rule.backends.iter().enumerate().flat_map(|(b, backend)| {
            let path = move |j: usize| format!("spec.rules[{i}].backendRefs[{b}].filters[{j}]");
            backend.filters.iter().enumerate().map(move |(j, f)| (path(j), f))
        });
        own.chain(of_backends).find_map(|(path, filter)| Some((path, said(filter)?)))
    })
}

fn strictly<'de, T: Deserialize<'de>>(spec: &'de Value) -> Result<T, Unsupported> {
    serde_path_to_error::deserialize(spec).map_err(|error| {
        let path = error.path().to_string();
        let text = error.inner().to_string();
        let mut field = if path == "." { "spec".to_owned() } else { format!("spec.{path}") };
        // serde says `unknown field `x`, expected …` at the object that holds x.
        match text.strip_prefix("unknown field `").and_then(|t| t.split('`').next()) {
            Some(name) => {
                if !field.ends_with(&format!(".{name}")) {
                    field = format!("{field}.{name}");
                }
                Unsupported { field, reason: "is not implemented in this version".to_owned() }
            }
            None => match text.strip_prefix("unknown variant `").and_then(|t| t.split('`').next()) {
                Some(value) => Unsupported { field, reason: format!("{value:?} is not implemented in this version") },
                None => Unsupported { field, reason: text },
            },
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_is_not_implemented_is_refused_by_name_and_place() {
        for (spec, field) in [
            (
                json!({"rules": [{"sessionPersistence": {"idleTimeout": "1s"}}]}),
                "spec.rules[0].sessionPersistence.idleTimeout",
            ),
            (
                json!({"rules": [{}, {"filters": [{"type": "RequestHeaderModifier", "requestHeaderModifier": {}},
                    {"type": "ExtensionRef", "extensionRef": {}}]}]}),
                "spec.rules[1].filters[1].extensionRef",
            ),
            (json!({"rules": [{"filters": [{"type": "ExternalAuth"}]}]}), "spec.rules[0].filters[0].type"),
            (
                json!({"rules": [{"filters": [{"type": "RequestMirror", "requestMirror": {"backendRef": {"name": "a"}, "to": 1}}]}]}),
                "spec.rules[0].filters[0].requestMirror.to",
            ),
            (
                json!({"rules": [{"filters": [{"type": "URLRewrite", "urlRewrite": {"path": {"type": "ReplaceFullPath"}}}]}]}),
                "spec.rules[0].filters[0].urlRewrite.path",
            ),
            (
                json!({"rules": [{"backendRefs": [{"name": "a", "filters": [{"type": "RequestHeaderModifier"}]}]}]}),
                "spec.rules[0].backendRefs[0].filters[0]",
            ),
            (json!({"rules": [{"matches": [{"path": {"type": "Glob"}}]}]}), "spec.rules[0].matches[0].path.type"),
        ] {
            let error = rules(Kind::HttpRoute, &spec).unwrap_err();
            assert_eq!(error.field, field, "{}", error.reason);
        }
        assert!(rules(Kind::GrpcRoute, &json!({"rules": [{"timeouts": {}}]})).is_err());
        let cors = json!({"rules": [{"backendRefs": [{"name": "a", "filters": [{"type": "CORS", "cors": {}}]}]}]});
        let error = rules(Kind::GrpcRoute, &cors).unwrap_err();
        assert_eq!(error.field, "spec.rules[0].backendRefs[0].filters[0]");
        assert_eq!(error.reason, "CORS belongs to HTTPRoutes");
    }

    #[test]
    fn a_route_of_connections_has_one_rule_of_backends_and_nothing_else() {
        let one = json!({"rules": [{"name": "all", "backendRefs": [{"name": "a", "port": 1, "weight": 2}]}]});
        for kind in [Kind::TcpRoute, Kind::TlsRoute] {
            assert_eq!(rules(kind, &one).unwrap()[0].backends[0].weight, Some(2));
            for (rules, field) in [
                (json!([]), "spec.rules"),
                (json!([{}, {}]), "spec.rules"),
                (json!([{"matches": []}]), "spec.rules[0].matches"),
                (
                    json!([{"backendRefs": [{"name": "a", "filters": [{"type": "CORS", "cors": {}}]}]}]),
                    "spec.rules[0].backendRefs[0].filters[0]",
                ),
            ] {
                assert_eq!(super::rules(kind, &json!({ "rules": rules })).unwrap_err().field, field);
            }
        }
        let spec = json!({"hostnames": ["Shop.example.com", "*.example.com"]});
        assert_eq!(server_names(&spec), ["shop.example.com", "*.example.com"]);
    }

    #[test]
    fn defaults_are_those_of_the_gateway_api() {
        let read = rules(Kind::HttpRoute, &json!({"rules": [{"matches": [{"path": {}}]}]})).unwrap();
        let Match::Http(only) = &read[0].matches[0] else { panic!() };
        assert_eq!(only.path, Some(PathMatch { kind: PathKind::PathPrefix, value: "/".into() }));
    }

    #[test]
    fn only_services_are_parents_of_the_mesh() {
        let spec = json!({"parentRefs": [{"name": "edge"}, {"group": "", "kind": "Service", "name": "catalog"}]});
        let parents = parents(&spec);
        assert!(!parents[0].0.is_service());
        assert!(parents[1].0.is_service());
    }
}
