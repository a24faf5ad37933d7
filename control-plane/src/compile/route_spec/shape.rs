//! The parts of rules as they are written, filters apart ([`super::filter`]): matches, references, sessions, retries. What is not named here is
//! refused.

use super::Filter;
use crate::kinds::Duration;
use serde::Deserialize;

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

/// `BackendObjectReference`
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ObjectRef {
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

impl BackendRef {
    /// What it refers to.
    #[must_use]
    pub fn object(&self) -> ObjectRef {
        let Self { group, kind, name, namespace, port, .. } = self.clone();
        ObjectRef { group, kind, name, namespace, port }
    }
}

/// `SessionPersistence` (GEP-1619)
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct SessionPersistence {
    /// Of the cookie or header.
    pub session_name: String,
    /// From the first call on.
    pub absolute_timeout: Option<Duration>,
    /// What carries the session.
    #[serde(rename = "type")]
    pub kind: SessionKind,
    /// Only of cookies.
    pub cookie_config: CookieConfig,
}

/// What carries a session.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
pub enum SessionKind {
    /// A cookie.
    #[default]
    Cookie,
    /// A header.
    Header,
}

/// `CookieConfig`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct CookieConfig {
    /// How long the client keeps it.
    pub lifetime_type: LifetimeType,
}

/// How long a client keeps a cookie.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
pub enum LifetimeType {
    /// As long as it runs.
    #[default]
    Session,
    /// As long as the session may last.
    Permanent,
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
    pub backoff: Option<Duration>,
}
