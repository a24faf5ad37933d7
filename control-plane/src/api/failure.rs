//! What went wrong, as `metav1.Status`: the one error type of the API and its HTTP form.
//!
//! Texts are those of Kubernetes where clients match on them.

use axum::body::Body;
use http::{HeaderValue, Response, StatusCode, header};
use serde_json::{Value, json};

use super::apply;
use crate::{
    kinds::{
        Kind,
        check::{Cause, Reason},
    },
    rbac::{Attributes, Target},
    store::StoreError,
};

/// A refused or failed request.
#[derive(Clone, Debug)]
pub(super) struct Failure {
    pub code: StatusCode,
    reason: &'static str,
    message: String,
    details: Value,
}

pub(super) type Result<T> = std::result::Result<T, Failure>;

impl Failure {
    fn new(code: StatusCode, reason: &'static str, message: impl Into<String>) -> Self {
        Self { code, reason, message: message.into(), details: Value::Null }
    }

    fn about(mut self, kind: &Kind, name: &str) -> Self {
        self.details = json!({ "name": name, "kind": kind.plural });
        if !kind.group.is_empty() {
            self.details["group"] = kind.group.into();
        }
        self
    }

    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "BadRequest", message)
    }

    pub fn unauthorized() -> Self {
        let message = "Unauthorized: present a client certificate of this API, as in the kubeconfig that `weft up` wrote, or a token that is good";
        Self::new(StatusCode::UNAUTHORIZED, "Unauthorized", message)
    }

    pub fn forbidden(message: impl Into<String>) -> Self {
        Self::new(StatusCode::FORBIDDEN, "Forbidden", message)
    }

    /// No role allows it.
    pub fn denied(asked: &Attributes, user: &str) -> Self {
        let why = asked.denied(user);
        let Target::Resource(resource) = &asked.target else { return Self::forbidden(format!("forbidden: {why}")) };
        let qualified = match resource.group.as_str() {
            "" => resource.resource.clone(),
            group => format!("{}.{group}", resource.resource),
        };
        let named = if resource.name.is_empty() { String::new() } else { format!(" {:?}", resource.name) };
        let mut failure = Self::forbidden(format!("{qualified}{named} is forbidden: {why}"));
        failure.details = json!({ "kind": resource.resource });
        for (field, text) in [("name", &resource.name), ("group", &resource.group)] {
            if !text.is_empty() {
                failure.details[field] = text.as_str().into();
            }
        }
        failure
    }

    /// The object exists and may not be treated so.
    pub fn protected(kind: &Kind, name: &str, why: &str) -> Self {
        let message = format!("{} {name:?} is forbidden: {why}", kind.resource_name());
        Self::forbidden(message).about(kind, name)
    }

    pub fn no_such_path() -> Self {
        Self::new(StatusCode::NOT_FOUND, "NotFound", "the server could not find the requested resource")
    }

    pub fn not_found(kind: &Kind, name: &str) -> Self {
        Self::new(StatusCode::NOT_FOUND, "NotFound", format!("{} {name:?} not found", kind.resource_name()))
            .about(kind, name)
    }

    pub fn already_exists(kind: &Kind, name: &str) -> Self {
        let message = format!("{} {name:?} already exists", kind.resource_name());
        Self::new(StatusCode::CONFLICT, "AlreadyExists", message).about(kind, name)
    }

    pub fn conflict(kind: &Kind, name: &str, why: impl std::fmt::Display) -> Self {
        let message = format!("Operation cannot be fulfilled on {} {name:?}: {why}", kind.resource_name());
        Self::new(StatusCode::CONFLICT, "Conflict", message).about(kind, name)
    }

    pub fn stale(kind: &Kind, name: &str) -> Self {
        let why = "the object has been modified; please apply your changes to the latest version and try again";
        Self::conflict(kind, name, why)
    }

    pub fn invalid(kind: &Kind, name: &str, causes: &[Cause]) -> Self {
        let each: Vec<String> = causes.iter().map(|c| format!("{}: {}", c.field, c.message)).collect();
        let all = if each.len() == 1 { each.concat() } else { format!("[{}]", each.join(", ")) };
        let qualified =
            if kind.group.is_empty() { kind.kind.to_owned() } else { format!("{}.{}", kind.kind, kind.group) };
        let message = format!("{qualified} {name:?} is invalid: {all}");
        let mut failure = Self::new(StatusCode::UNPROCESSABLE_ENTITY, "Invalid", message).about(kind, name);
        failure.details["kind"] = kind.kind.into();
        failure.details["causes"] = causes_json(causes);
        failure
    }

    /// Unknown or duplicate fields under `fieldValidation=Strict`.
    pub fn strict(kind: &Kind, problems: &[Problem]) -> Self {
        let each: Vec<String> = problems.iter().map(ToString::to_string).collect();
        let message = format!(
            "{} in version {:?} cannot be handled as a {}: strict decoding error: {}",
            kind.kind,
            kind.version,
            kind.kind,
            each.join(", ")
        );
        let causes: Vec<Cause> = problems
            .iter()
            .map(|p| Cause { reason: Reason::Invalid, field: p.field().to_owned(), message: p.to_string() })
            .collect();
        let mut failure = Self::bad_request(message);
        failure.details = json!({ "causes": causes_json(&causes) });
        failure
    }

    pub fn method_not_allowed() -> Self {
        let message = "the server does not allow this method on the requested resource";
        Self::new(StatusCode::METHOD_NOT_ALLOWED, "MethodNotAllowed", message)
    }

    pub fn not_acceptable() -> Self {
        let message = "only the following media types are accepted: application/json";
        Self::new(StatusCode::NOT_ACCEPTABLE, "NotAcceptable", message)
    }

    pub fn unsupported_media_type(known: &[&str]) -> Self {
        let message = format!(
            "the body of the request was in an unknown format - accepted media types include: {}",
            known.join(", ")
        );
        Self::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "UnsupportedMediaType", message)
    }

    /// An option of a request that is not possible: `fieldManager: Required value: …`.
    pub fn options(kind: &str, why: &str) -> Self {
        let message = format!("{kind}.meta.k8s.io \"\" is invalid: {why}");
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, "Invalid", message)
    }

    /// What is applied is other managers': each with the path of a field.
    pub fn apply_conflict(conflicts: &[apply::Conflict]) -> Self {
        let message = match conflicts {
            [one] => format!("Apply failed with 1 conflict: conflict with {}: {}", one.manager, one.field),
            several => {
                let mut lines = Vec::new();
                let managers: std::collections::BTreeSet<&str> = several.iter().map(|c| c.manager.as_str()).collect();
                for manager in managers {
                    lines.push(format!("conflicts with {manager}:"));
                    lines.extend(several.iter().filter(|c| c.manager == manager).map(|c| format!("- {}", c.field)));
                }
                format!("Apply failed with {} conflicts: {}", several.len(), lines.join("\n"))
            }
        };
        let causes = conflicts.iter().map(|c| {
            let message = format!("conflict with {}", c.manager);
            json!({ "reason": "FieldManagerConflict", "message": message, "field": c.field })
        });
        let mut failure = Self::new(StatusCode::CONFLICT, "Conflict", message);
        failure.details = json!({ "causes": causes.collect::<Vec<_>>() });
        failure
    }

    pub fn too_large(limit: usize) -> Self {
        let message = format!("Request entity too large: limit is {limit}");
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "RequestEntityTooLarge", message)
    }

    pub fn too_many(message: &str) -> Self {
        let mut failure = Self::new(StatusCode::TOO_MANY_REQUESTS, "TooManyRequests", message);
        failure.details = json!({ "retryAfterSeconds": 1 });
        failure
    }

    pub fn expired() -> Self {
        let message =
            "The provided resourceVersion or continue parameter is too old to be served; list again without it";
        Self::new(StatusCode::GONE, "Expired", message)
    }

    pub fn misdirected() -> Self {
        let message = "this Host or Origin is not served here; use the address of the kubeconfig";
        Self::new(StatusCode::MISDIRECTED_REQUEST, "Misdirected", message)
    }

    pub fn unavailable(message: &str) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "ServiceUnavailable", message)
    }

    pub fn timeout(message: &str) -> Self {
        Self::new(StatusCode::GATEWAY_TIMEOUT, "Timeout", message)
    }

    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "InternalError", message)
    }

    /// The `metav1.Status`.
    pub fn status(&self) -> Value {
        let mut status = json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": self.message, "reason": self.reason, "code": self.code.as_u16(),
        });
        if !self.details.is_null() {
            status["details"] = self.details.clone();
        }
        status
    }

    pub fn response(&self) -> Response<Body> {
        let mut response = Response::new(Body::from(self.status().to_string()));
        *response.status_mut() = self.code;
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if self.code == StatusCode::TOO_MANY_REQUESTS {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        response
    }
}

fn causes_json(causes: &[Cause]) -> Value {
    causes.iter().map(|c| json!({ "reason": c.reason.name(), "message": c.message, "field": c.field })).collect()
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Gone { .. } => Self::expired(),
            StoreError::Future { asked, current } => {
                let mut failure = Self::timeout(&format!("Too large resource version: {asked}, current: {current}"));
                failure.details = json!({
                    "retryAfterSeconds": 1,
                    "causes": [{ "reason": "ResourceVersionTooLarge", "message": "Too large resource version" }],
                });
                failure
            }
            StoreError::Conflict { key, .. } => {
                Self::new(StatusCode::CONFLICT, "Conflict", format!("{key} was changed at the same time"))
            }
            StoreError::Refused(why) => Self::new(StatusCode::PAYLOAD_TOO_LARGE, "RequestEntityTooLarge", why),
            StoreError::Failed(why) => {
                tracing::error!(%why, "the store of the resource API failed");
                Self::internal("the store failed; see the log of the control plane")
            }
        }
    }
}

/// A field that a client sent and that does not count.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Problem {
    Unknown(String),
    Duplicate(String),
}

impl Problem {
    fn field(&self) -> &str {
        match self {
            Self::Unknown(field) | Self::Duplicate(field) => field,
        }
    }
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Unknown(field) => write!(f, "unknown field {field:?}"),
            Self::Duplicate(field) => write!(f, "duplicate field {field:?}"),
        }
    }
}
