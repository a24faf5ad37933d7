//! Reads the spec of an `HTTPRoute` or a `GRPCRoute` strictly: what this version of Weft does not implement is refused by name and place,
//! never dropped.
//!
//! The API server's schema has checked shapes already; here only the subset is declared that the sidecar can do, and everything else is an
//! error that names the field (`spec.rules[0].filters[1].requestMirror`).

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

/// A rule of either kind.
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
}

/// A match of either kind.
#[derive(Clone, Debug, PartialEq)]
pub enum Match {
    /// Of an HTTPRoute.
    Http(HttpMatch),
    /// Of a GRPCRoute.
    Grpc(GrpcMatch),
}

/// `HTTPRouteMatch`
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct HttpMatch {
    /// Absent: every path.
    pub path: Option<PathMatch>,
    /// All must hold.
    pub headers: Vec<KeyMatch>,
    /// All must hold.
    pub query_params: Vec<KeyMatch>,
    /// Absent: any.
    pub method: Option<String>,
}

/// `HTTPPathMatch`
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PathMatch {
    /// How it is compared.
    #[serde(default, rename = "type")]
    pub kind: PathKind,
    /// With what.
    #[serde(default = "root")]
    pub value: String,
}

fn root() -> String {
    "/".to_owned()
}

/// How a path is compared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
pub enum PathKind {
    /// Wholly.
    Exact,
    /// By whole segments.
    #[default]
    PathPrefix,
    /// By an expression anchored at both ends.
    RegularExpression,
}

/// How a value is compared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
pub enum ValueKind {
    /// Wholly.
    #[default]
    Exact,
    /// By an expression.
    RegularExpression,
}

/// A header or query parameter.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct KeyMatch {
    /// How the value is compared.
    #[serde(default, rename = "type")]
    pub kind: ValueKind,
    /// Its name.
    pub name: String,
    /// With what.
    pub value: String,
}

/// `GRPCRouteMatch`
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct GrpcMatch {
    /// Absent: any.
    pub method: Option<GrpcMethod>,
    /// All must hold.
    pub headers: Vec<KeyMatch>,
}

/// `GRPCMethodMatch`
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct GrpcMethod {
    /// How both are compared.
    #[serde(rename = "type")]
    pub kind: ValueKind,
    /// Absent: any.
    pub service: Option<String>,
    /// Absent: any.
    pub method: Option<String>,
}

/// A filter; exactly one of the two is set.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Filter {
    #[serde(rename = "type")]
    kind: FilterKind,
    /// Edits the request.
    #[serde(default)]
    pub request_header_modifier: Option<HeaderModifier>,
    /// Edits the response.
    #[serde(default)]
    pub response_header_modifier: Option<HeaderModifier>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
enum FilterKind {
    RequestHeaderModifier,
    ResponseHeaderModifier,
}

/// `HTTPHeaderFilter`
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct HeaderModifier {
    /// Replaced.
    pub set: Vec<Header>,
    /// Appended.
    pub add: Vec<Header>,
    /// Removed.
    pub remove: Vec<String>,
}

/// A name and a value.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Header {
    /// Name.
    pub name: String,
    /// Value.
    pub value: String,
}

/// `HTTPBackendRef`
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct BackendRef {
    /// Absent: core.
    #[serde(default)]
    pub group: Option<String>,
    /// Absent: Service.
    #[serde(default)]
    pub kind: Option<String>,
    /// Name.
    pub name: String,
    /// Absent: the route's own.
    #[serde(default)]
    pub namespace: Option<String>,
    /// Required for Services.
    #[serde(default)]
    pub port: Option<i32>,
    /// Absent: 1.
    #[serde(default)]
    pub weight: Option<i32>,
    /// Only for calls that go to this backend.
    #[serde(default)]
    pub filters: Vec<Filter>,
}

/// `HTTPRouteRetry`
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Retry {
    /// Statuses.
    pub codes: Vec<u16>,
    /// Retries, not tries.
    pub attempts: Option<u32>,
    /// Base of the backoff.
    pub backoff: Option<crate::kinds::Duration>,
}

/// What cannot be done, and where it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unsupported {
    /// `spec.rules[0].filters[1].requestMirror`
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
}

// Hostnames on a mesh route are ignored (GAMMA); gateways are not ours.
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

/// The rules of a route; never none: an absent list means one rule that matches everything and leads nowhere.
///
/// # Errors
/// The first thing that the sidecar could not do.
pub fn rules(kind: Kind, spec: &Value) -> Result<Vec<Rule>, Unsupported> {
    let mut rules: Vec<Rule> = if kind == Kind::GrpcRoute {
        let rules = strictly::<Spec<GrpcRule>>(spec)?.rules.into_iter();
        let rule = |r: GrpcRule| Rule {
            name: r.name,
            matches: r.matches.into_iter().map(Match::Grpc).collect(),
            filters: r.filters,
            backends: r.backend_refs,
            ..Rule::default()
        };
        rules.map(rule).collect()
    } else {
        let rules = strictly::<Spec<HttpRule>>(spec)?.rules.into_iter();
        let rule = |r: HttpRule| Rule {
            name: r.name,
            matches: r.matches.into_iter().map(Match::Http).collect(),
            filters: r.filters,
            backends: r.backend_refs,
            request_timeout: r.timeouts.request,
            backend_request_timeout: r.timeouts.backend_request,
            retry: r.retry,
        };
        rules.map(rule).collect()
    };
    if rules.is_empty() {
        rules.push(Rule::default());
    }
    for (i, rule) in rules.iter().enumerate() {
        let filters = rule.filters.iter().enumerate().map(|(j, f)| (format!("spec.rules[{i}].filters[{j}]"), f));
        let of_backends = rule.backends.iter().enumerate().flat_map(|(b, backend)| {
            let path = move |j: usize| format!("spec.rules[{i}].backendRefs[{b}].filters[{j}]");
            backend.filters.iter().enumerate().map(move |(j, f)| (path(j), f))
        });
        for (path, filter) in filters.chain(of_backends) {
            check(path, filter)?;
        }
    }
    Ok(rules)
}

fn check(path: String, filter: &Filter) -> Result<(), Unsupported> {
    let (wanted, other) = match filter.kind {
        FilterKind::RequestHeaderModifier => (&filter.request_header_modifier, &filter.response_header_modifier),
        FilterKind::ResponseHeaderModifier => (&filter.response_header_modifier, &filter.request_header_modifier),
    };
    if wanted.is_none() || other.is_some() {
        let reason = format!("must hold exactly the settings of its type, {:?}", filter.kind);
        return Err(Unsupported { field: path, reason });
    }
    Ok(())
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
            (json!({"rules": [{"sessionPersistence": {}}]}), "spec.rules[0].sessionPersistence"),
            (
                json!({"rules": [{}, {"filters": [{"type": "RequestHeaderModifier", "requestHeaderModifier": {}},
                    {"type": "RequestMirror", "requestMirror": {}}]}]}),
                "spec.rules[1].filters[1].requestMirror",
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
