//! What is checked of an object beyond its schema: what fields mean together, and texts that a pattern cannot judge.
//!
//! One function a kind over the document as JSON, after defaults; each finding names its field. Whether a name resolves is no question
//! here: objects may arrive in any order.

mod core;
mod data;
mod gateway;
mod policies;
mod rbac;
mod text;
mod traffic;

use serde_json::Value;

pub use self::core::{endpoint_slice, service};
use super::Duration;
pub use data::{change, config_map, event, secret};
pub use gateway::{grpc_route, http_route, tcp_route, tls_route};
pub use policies::{
    authorization_policy, federated_trust_domain, is_fetchable, mesh_settings, mesh_tls, request_authentication,
    workload,
};
pub use rbac::{cluster_role, cluster_role_binding, is_segment, role, role_binding};
pub use text::{is_label, is_label_key, is_label_value, is_subdomain};
pub(super) use traffic::SPANS;
pub use traffic::{rate_limit_policy, traffic_policy};

/// One thing that is wrong with an object: a cause of `metav1.Status`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cause {
    /// What kind of mistake it is.
    pub reason: Reason,
    /// The field's path, `spec.rules[0].matches[1].path.value`.
    pub field: String,
    /// What is wrong with it, for people.
    pub message: String,
}

/// The kinds of mistakes, by the names that Kubernetes gives them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The value is not possible.
    Invalid,
    /// The value is missing.
    Required,
    /// The value is there twice.
    Duplicate,
    /// The value is none of those that are known.
    NotSupported,
    /// The value may not be given here.
    Forbidden,
    /// The value has too many entries or characters.
    TooLong,
    /// The value has another type.
    TypeInvalid,
}

impl Reason {
    /// As in `Status.details.causes[].reason`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Invalid => "FieldValueInvalid",
            Self::Required => "FieldValueRequired",
            Self::Duplicate => "FieldValueDuplicate",
            Self::NotSupported => "FieldValueNotSupported",
            Self::Forbidden => "FieldValueForbidden",
            Self::TooLong => "FieldValueTooLong",
            Self::TypeInvalid => "FieldValueTypeInvalid",
        }
    }
}

/// What a check found so far.
#[derive(Debug, Default)]
pub struct Findings(pub Vec<Cause>);

impl Findings {
    fn add(&mut self, reason: Reason, field: impl Into<String>, message: impl Into<String>) {
        self.0.push(Cause { reason, field: field.into(), message: message.into() });
    }

    /// `Invalid value: "x": must be …`, as Kubernetes words it.
    pub fn invalid(&mut self, field: impl Into<String>, value: &Value, why: impl std::fmt::Display) {
        self.add(Reason::Invalid, field, format!("Invalid value: {value}: {why}"));
    }

    /// The field is missing.
    pub fn required(&mut self, field: impl Into<String>, why: impl std::fmt::Display) {
        self.add(Reason::Required, field, format!("Required value: {why}"));
    }

    /// The value is there twice.
    pub fn duplicate(&mut self, field: impl Into<String>, value: &Value) {
        self.add(Reason::Duplicate, field, format!("Duplicate value: {value}"));
    }

    /// The value is none of those that are known.
    pub fn unsupported(&mut self, field: impl Into<String>, value: &Value, known: &[&str]) {
        let known: Vec<String> = known.iter().map(|k| format!("{k:?}")).collect();
        self.add(
            Reason::NotSupported,
            field,
            format!("Unsupported value: {value}: supported values: {}", known.join(", ")),
        );
    }

    /// The field may not be given here.
    pub fn forbidden(&mut self, field: impl Into<String>, why: impl std::fmt::Display) {
        self.add(Reason::Forbidden, field, format!("Forbidden: {why}"));
    }

    /// The value has too many entries or characters.
    pub fn too_long(&mut self, field: impl Into<String>, why: impl std::fmt::Display) {
        self.add(Reason::TooLong, field, why.to_string());
    }

    /// The value has another type.
    pub fn wrong_type(&mut self, field: impl Into<String>, value: &Value, wanted: &str) {
        self.add(Reason::TypeInvalid, field, format!("Invalid value: {value}: must be of type {wanted}"));
    }
}

/// The entries of a list with their paths; nothing where there is no list.
fn items<'v>(value: &'v Value, field: &str, path: &str) -> Vec<(String, &'v Value)> {
    let at = if path.is_empty() { field.to_owned() } else { format!("{path}.{field}") };
    let list = value.get(field).and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    list.iter().enumerate().map(|(i, v)| (format!("{at}[{i}]"), v)).collect()
}

fn text<'v>(value: &'v Value, field: &str) -> &'v str {
    value.get(field).and_then(Value::as_str).unwrap_or_default()
}

fn has(value: &Value, field: &str) -> bool {
    value.get(field).is_some_and(|v| !v.is_null())
}

fn duration(value: &Value, field: &str) -> Option<Duration> {
    value.get(field)?.as_str()?.parse().ok()
}

/// Of these fields exactly one is given.
fn one_of(findings: &mut Findings, path: &str, value: &Value, fields: &[&str]) {
    let mut given = fields.iter().filter(|field| has(value, field));
    match (given.next(), given.next()) {
        (None, _) => findings.required(path, format_args!("one of {} must be given", fields.join(", "))),
        (Some(first), Some(second)) => {
            findings.forbidden(format!("{path}.{second}"), format_args!("may not be given together with {first}"))
        }
        (Some(_), None) => {}
    }
}

/// Reports each value that an earlier entry of the list has too.
fn unique<'v>(findings: &mut Findings, entries: impl IntoIterator<Item = (String, &'v Value)>) {
    let mut seen: Vec<&Value> = Vec::new();
    for (path, value) in entries {
        if seen.contains(&value) {
            findings.duplicate(path, value);
        } else {
            seen.push(value);
        }
    }
}
