//! The questions of `weft user` and `weft admin`: client certificates for people and programs, and what was asked of the API.

use super::{Failure, Last, Sources};
use crate::api::record::Made;
use crate::rbac::{Asking, Attributes, Resource};
use axum::Json;
use axum::extract::rejection::JsonRejection;
use axum::extract::{Extension, Query, State};
use axum::http::StatusCode;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde_json::{Value, json};
use std::time::{Duration, SystemTime};

/// Validity of a certificate where nobody says, in seconds: a day.
const LIFE: u64 = 24 * 3600;
/// The shortest and longest, in seconds: ten minutes to thirty days. A client certificate of the API cannot be revoked.
const LIVES: std::ops::RangeInclusive<u64> = 600..=30 * 24 * 3600;
/// Characters of a name (RFC 5280, ub-common-name).
const NAME: usize = 64;
/// Groups of one user.
const GROUPS: usize = 16;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct NewUser {
    name: String,
    #[serde(default)]
    groups: Vec<String>,
    #[serde(default)]
    ttl_seconds: Option<u64>,
    /// Certificate signing request (PKCS#10), DER in base64: its public key alone is used.
    request: String,
}

fn invalid(text: impl Into<String>) -> Failure {
    Failure(StatusCode::UNPROCESSABLE_ENTITY, "Invalid", text.into())
}

/// Whether a text can be the name of a user or a group.
fn is_name(text: &str) -> bool {
    (1..=NAME).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic() || b == b' ') && text.trim() == text
}

/// Who gives a name out could be whoever has it: that takes the right to impersonate them.
fn may_name(asking: &Asking, new: &NewUser) -> Result<(), Failure> {
    let named = |resource: &str, name: &str| {
        let (resource, name) = (resource.to_owned(), name.to_owned());
        Attributes::on("impersonate", Resource { resource, name, ..Resource::default() })
    };
    let user = named("users", &new.name);
    let groups = new.groups.iter().map(|group| named("groups", group));
    for asked in std::iter::once(user).chain(groups) {
        if !asking.may(&asked) {
            return Err(Failure(StatusCode::FORBIDDEN, "Forbidden", asked.denied(&asking.user.name)));
        }
    }
    // Names that mean something to the API itself are its masters' to give.
    let own = std::iter::once(&new.name).chain(&new.groups).find(|name| name.starts_with("system:"));
    match own {
        Some(name) if !asking.user.is_master() => {
            let text = format!("{name:?} is a name of the API's own, which only members of system:masters may give");
            Err(Failure(StatusCode::FORBIDDEN, "Forbidden", text))
        }
        _ => Ok(()),
    }
}

pub(super) async fn create(
    State(sources): State<Sources>,
    Extension(asking): Extension<Asking>,
    body: Result<Json<NewUser>, JsonRejection>,
) -> Result<(StatusCode, Extension<Made>, Json<Value>), Failure> {
    let Json(new) = body.map_err(|e| Failure(StatusCode::BAD_REQUEST, "BadRequest", e.body_text()))?;
    if !is_name(&new.name) {
        return Err(invalid(format!("name: must be 1 to {NAME} characters of ASCII")));
    }
    if new.groups.len() > GROUPS || !new.groups.iter().all(|group| is_name(group)) {
        return Err(invalid(format!("groups: at most {GROUPS}, each of 1 to {NAME} characters of ASCII")));
    }
    let life = new.ttl_seconds.unwrap_or(LIFE);
    if !LIVES.contains(&life) {
        return Err(invalid("ttlSeconds: must be from ten minutes to thirty days"));
    }
    may_name(&asking, &new)?;
    let request = STANDARD.decode(&new.request).map_err(|_| invalid("request: is not base64"))?;
    let groups: Vec<&str> = new.groups.iter().map(String::as_str).collect();
    let signed =
        sources.clients.sign_client(&request, &new.name, &groups, Duration::from_secs(life), SystemTime::now());
    let (certificate, end) = signed.map_err(|error| match error {
        weft_certs::Error::Request(text) => invalid(format!("request: {text}")),
        other => other.into(),
    })?;
    tracing::info!(user = new.name, by = asking.user.name, "made a client certificate");
    let end = end.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
    let end = k8s_openapi::jiff::Timestamp::from_second(i64::try_from(end).unwrap_or_default()).unwrap_or_default();
    Ok((
        StatusCode::CREATED,
        Extension(Made(new.name.clone())),
        Json(json!({
            "name": new.name, "groups": new.groups, "certificate": certificate, "expiresAt": end.to_string() })),
    ))
}

pub(super) async fn audit(State(sources): State<Sources>, Query(asked): Query<Last>) -> Result<Json<Value>, Failure> {
    asked.of(move |count| sources.record.last(count)).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rbac::{Grants, MASTERS, Objects, User};
    use std::sync::Arc;

    fn asking(groups: &[&str], rules: Value) -> Asking {
        let objects = Objects {
            cluster_roles: vec![json!({ "metadata": { "name": "r" }, "rules": rules })],
            cluster_role_bindings: vec![json!({ "metadata": { "name": "b" },
                "roleRef": { "kind": "ClusterRole", "name": "r" }, "subjects": [{ "kind": "User", "name": "ana" }] })],
            ..Objects::default()
        };
        let user = Arc::new(User::new("ana", groups.iter().map(|group| (*group).to_owned())));
        Asking { user, grants: Arc::new(Grants::compile(&objects)) }
    }

    fn named(name: &str, groups: &[&str]) -> NewUser {
        let groups = groups.iter().map(|group| (*group).to_owned()).collect();
        NewUser { name: name.to_owned(), groups, ttl_seconds: None, request: String::new() }
    }

    #[test]
    fn a_name_is_given_by_who_could_act_under_it_and_the_apis_own_names_by_its_masters() {
        let rules = json!([{ "verbs": ["impersonate"], "apiGroups": [""], "resources": ["users", "groups"],
            "resourceNames": ["ben", "team"] }]);
        let some = asking(&[], rules);
        assert!(may_name(&some, &named("ben", &["team"])).is_ok());
        assert!(may_name(&some, &named("cleo", &[])).is_err());
        assert!(may_name(&some, &named("ben", &["others"])).is_err());
        let all = asking(&[], json!([{ "verbs": ["*"], "apiGroups": ["*"], "resources": ["*"] }]));
        assert!(may_name(&all, &named("cleo", &["others"])).is_ok());
        assert!(may_name(&all, &named("cleo", &[MASTERS])).is_err());
        assert!(may_name(&all, &named("system:weft-control", &[])).is_err());
        assert!(may_name(&asking(&[MASTERS], json!([])), &named("root", &[MASTERS])).is_ok());
    }

    #[test]
    fn names_are_short_and_printable() {
        assert!(is_name("ana@example.com") && is_name("on call"));
        for bad in ["", " ana", "a\n", "é", "x".repeat(65).as_str()] {
            assert!(!is_name(bad), "{bad:?}");
        }
    }
}
