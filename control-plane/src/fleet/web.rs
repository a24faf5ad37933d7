//! The questions of `weft stat`, `weft check`, `weft proxy`, `weft token`, `weft identity`, `weft user` and `weft explain`, answered as JSON
//! under `/weft/v1`.
//!
//! Mounted on the resource API's server, behind its door, which says what role a page needs. Where the query names a namespace, the role was
//! asked for in that one alone: then the page must not speak of another. Keys are camelCase, `null` is no data.

mod authority;
mod joining;
mod users;

use super::{CommandError, Fleet};
use crate::api::record::Record;
use crate::explain::{Explanation, Question, Unexplained};
use crate::identity::token::{Refusal, Tokens, unix};
use crate::identity::{Audit, Revoker, Rotator};
use crate::kinds::{Phase, Workload};
use crate::store::Store;
use crate::world::World;
use crate::world::reconcile::Compiled;
use crate::xds::Hub;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post};
use axum::{Json, Router};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::sync::watch;
use weft_certs::ApiCa;
use weft_proto::v1;

/// What the answers are made of.
#[derive(Clone)]
pub struct Sources {
    /// Sidecars and their reports.
    pub fleet: Arc<Fleet>,
    /// xDS streams.
    pub hub: Arc<Hub>,
    /// The newest compilation.
    pub compiled: watch::Receiver<Compiled>,
    /// Join tokens.
    pub tokens: Tokens,
    /// The mesh's authority, and the rotation of its root.
    pub rotator: Arc<Rotator>,
    /// What is revoked.
    pub revoker: Arc<Revoker>,
    /// What the authority did.
    pub audit: Arc<Audit>,
    /// What was asked of the API.
    pub record: Arc<Record>,
    /// The authority of the API, which knows people.
    pub clients: Arc<ApiCa>,
    /// Where all of it is kept.
    pub store: Arc<dyn Store>,
    /// The mesh's trust domain.
    pub trust_domain: String,
}

/// The routes, all under `/weft/v1`.
pub fn router(sources: Sources) -> Router {
    Router::new()
        .route("/weft/v1/stat", get(stat))
        .route("/weft/v1/fleet", get(fleet))
        .route("/weft/v1/check", get(check))
        .route("/weft/v1/tokens", get(joining::list).post(joining::create))
        .route("/weft/v1/tokens/{id}", delete(joining::revoke))
        .route("/weft/v1/users", post(users::create))
        .route("/weft/v1/audit", get(users::audit))
        .route("/weft/v1/backup", get(backup))
        .route("/weft/v1/explain", post(explain))
        .route("/weft/v1/identity", get(authority::status))
        .route("/weft/v1/identity/bundle", get(authority::bundle))
        .route("/weft/v1/identity/rotation", post(authority::rotate))
        .route("/weft/v1/identity/revocations", get(authority::revoked).post(authority::revoke))
        .route("/weft/v1/identity/audit", get(authority::audit))
        .route("/weft/v1/fleet/{namespace}/{name}/config", get(config))
        .route("/weft/v1/fleet/{namespace}/{name}/log", axum::routing::put(log))
        .route("/weft/v1/fleet/{namespace}/{name}/drain", post(drain))
        .with_state(sources)
}

/// An error in the API's own shape, so that one client understands both.
struct Failure(StatusCode, &'static str, String);

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let Self(code, reason, message) = self;
        let status = json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": message, "reason": reason, "code": code.as_u16(),
        });
        (code, Json(status)).into_response()
    }
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Store(error) => {
                tracing::error!(%error, "cannot keep join tokens");
                Self(StatusCode::SERVICE_UNAVAILABLE, "ServiceUnavailable", "the store failed".to_owned())
            }
            other => Self(StatusCode::UNPROCESSABLE_ENTITY, "Invalid", other.to_string()),
        }
    }
}

impl From<CommandError> for Failure {
    fn from(error: CommandError) -> Self {
        let (code, reason) = match &error {
            CommandError::NotConnected(_) => (StatusCode::NOT_FOUND, "NotFound"),
            CommandError::Busy(_) => (StatusCode::TOO_MANY_REQUESTS, "TooManyRequests"),
            CommandError::Silent(_) => (StatusCode::GATEWAY_TIMEOUT, "Timeout"),
            CommandError::Failed(_) => (StatusCode::BAD_GATEWAY, "InternalError"),
        };
        Self(code, reason, error.to_string())
    }
}

/// Everything in the store, as [`crate::store::backup`] writes it.
async fn backup(State(sources): State<Sources>) -> Result<Response, Failure> {
    let taken = crate::store::backup::take(&*sources.store, &sources.trust_domain, unix(SystemTime::now())).await;
    let text = taken.map_err(|error| {
        tracing::error!(%error, "no backup can be made");
        Failure(StatusCode::SERVICE_UNAVAILABLE, "ServiceUnavailable", error.to_string())
    })?;
    Ok(([(axum::http::header::CONTENT_TYPE, "application/x-ndjson")], text).into_response())
}

#[derive(Deserialize)]
struct Window {
    window: Option<String>,
    #[serde(default)]
    namespace: String,
}

/// Whether a name `namespace/name` is of the namespace that was asked about, which is empty for all.
fn is_of(name: &str, namespace: &str) -> bool {
    namespace.is_empty() || name.split_once('/').is_some_and(|(own, _)| own == namespace)
}

async fn stat(State(sources): State<Sources>, Query(query): Query<Window>) -> Result<Json<Value>, Failure> {
    let window = match query.window.as_deref() {
        None => Duration::from_secs(10),
        Some(text) => text
            .parse::<crate::kinds::Duration>()
            .map(Duration::from)
            .map_err(|e| Failure(StatusCode::BAD_REQUEST, "BadRequest", format!("window: {e}")))?,
    };
    let stat = sources.fleet.stat(window);
    let world = sources.compiled.borrow().world.clone();
    let mut answer = serde_json::to_value(&stat).unwrap_or_default();
    // Services that nobody called are rows too: their numbers are null, not missing.
    if let Some(rows) = answer["services"].as_array_mut() {
        let called: HashSet<&str> = stat.services.iter().map(|row| row.service.as_str()).collect();
        let instances = instances(&world);
        for name in world.services.keys().filter(|name| !called.contains(name.as_str())) {
            let row = super::golden::Row { service: name.clone(), ..Default::default() };
            rows.push(serde_json::to_value(row).unwrap_or_default());
        }
        for row in rows.iter_mut() {
            let (ready, all) =
                row["service"].as_str().and_then(|name| instances.get(name)).copied().unwrap_or_default();
            row["readyEndpoints"] = ready.into();
            row["endpoints"] = all.into();
        }
        rows.retain(|row| is_of(row["service"].as_str().unwrap_or_default(), &query.namespace));
        rows.sort_by(|a, b| a["service"].as_str().cmp(&b["service"].as_str()));
    }
    if let Some(breakers) = answer["breakers"].as_array_mut() {
        breakers.retain(|breaker| is_of(breaker["backend"].as_str().unwrap_or_default(), &query.namespace));
    }
    Ok(Json(answer))
}

/// Ready and all members of each service that has any.
fn instances(world: &World) -> HashMap<String, (usize, usize)> {
    let mut found: HashMap<String, (usize, usize)> = HashMap::new();
    crate::compile::endpoints::memberships(world, |service, workload| {
        let phase = match workload.status.as_ref().and_then(|s| s.phase) {
            None if workload.spec.tunnel.is_none() => Phase::Ready,
            phase => phase.unwrap_or(Phase::Pending),
        };
        let ready = usize::from(phase == Phase::Ready);
        match found.get_mut(service) {
            Some((of_ready, all)) => (*of_ready, *all) = (*of_ready + ready, *all + 1),
            None => drop(found.insert(service.to_owned(), (ready, 1))),
        }
    });
    found
}

async fn fleet(State(sources): State<Sources>) -> Json<Value> {
    let compiled = sources.compiled.borrow().clone();
    let connected: BTreeMap<String, super::Sidecar> =
        sources.fleet.sidecars().into_iter().map(|s| (s.workload.clone(), s)).collect();
    let workloads = compiled.world.workloads.iter().map(|(uid, workload)| {
        json!({
            "workload": uid,
            "serviceAccount": workload.spec.service_account,
            "address": workload.spec.address,
            "phase": workload.status.as_ref().and_then(|s| s.phase),
            "meshed": workload.spec.tunnel.is_some(),
            "sidecar": connected.get(uid),
        })
    });
    let counts = sources.hub.counts();
    Json(json!({
        "workloads": workloads.collect::<Vec<_>>(),
        "xds": {
            "connected": sources.hub.convergence().connected(),
            "streams": sources.hub.streams(),
            "resourcesSent": counts.sent,
            "resourcesResumed": counts.resumed,
            "resourcesRemoved": counts.removed,
            "responsesRefused": counts.refused,
            "resources": compiled.snapshot.len(),
            "generation": compiled.generation,
        },
    }))
}

#[derive(Serialize)]
struct Check {
    name: &'static str,
    ok: bool,
    detail: String,
}

async fn check(State(sources): State<Sources>) -> Json<Value> {
    let compiled = sources.compiled.borrow().clone();
    let mut checks = vec![Check {
        name: "configuration compiled",
        ok: compiled.generation > 0,
        detail: format!("{} resources, compilation {}", compiled.snapshot.len(), compiled.generation),
    }];
    let lead = sources.store.lead().borrow().clone();
    if !lead.owner.is_empty() {
        let detail = match lead.replicas.len() {
            0 | 1 => lead.owner.clone(),
            n => format!("{}, of {n} that serve", lead.owner),
        };
        checks.push(Check { name: "one control plane leads", ok: lead.is_certain(), detail });
    }
    // One that is leaving has said so; that its stream ends is no fault.
    let leaving = |w: &Workload| w.status.as_ref().and_then(|s| s.phase) == Some(Phase::Draining);
    let meshed = compiled.world.workloads.iter().filter(|(_, w)| w.spec.tunnel.is_some() && !leaving(w));
    let lost: Vec<_> =
        meshed.clone().filter(|(uid, _)| !sources.fleet.is_connected(uid)).map(|(uid, _)| uid.as_str()).collect();
    checks.push(Check {
        name: "sidecars connected",
        ok: lost.is_empty(),
        detail: match lost.len() {
            0 => format!("{} of {0} sidecars", meshed.count()),
            n => format!("{n} without a control stream: {}", named(&lost)),
        },
    });
    let instances = instances(&compiled.world);
    let mut down: Vec<_> =
        instances.iter().filter(|(_, of)| matches!(of, (0, 1..))).map(|(name, _)| name.as_str()).collect();
    down.sort_unstable();
    checks.push(Check {
        name: "services have ready endpoints",
        ok: down.is_empty(),
        detail: if down.is_empty() {
            "all that have any".to_owned()
        } else {
            format!("none is ready: {}", named(&down))
        },
    });
    let broken: Vec<String> = compiled
        .output
        .verdicts
        .iter()
        .filter(|v| v.parents.iter().any(|p| p.conditions.iter().any(|c| !c.status)))
        .map(|v| format!("{} {}/{}", v.kind.name(), v.namespace, v.name))
        .collect();
    let total = compiled.output.verdicts.len();
    checks.push(Check {
        name: "policies accepted",
        ok: broken.is_empty(),
        detail: if broken.is_empty() {
            format!("{total} of {total}")
        } else {
            format!("not as written: {}", named(&broken.iter().map(String::as_str).collect::<Vec<_>>()))
        },
    });
    let sets = compiled.output.verdicts.iter().flat_map(|v| v.parents.iter().map(|p| &p.shapes));
    let progress = sources.hub.convergence().held(&compiled.snapshot, sets);
    let behind = progress.iter().filter(|p| p.hold < p.need).count();
    let refused: usize = progress.iter().map(|p| p.refused.len()).sum();
    checks.push(Check {
        name: "sidecars hold the newest policies",
        ok: behind == 0 && refused == 0,
        detail: format!("{behind} policies on their way, {refused} refusals"),
    });
    Json(json!({ "ok": checks.iter().all(|c| c.ok), "checks": checks }))
}

fn named(all: &[&str]) -> String {
    let more = all.len().saturating_sub(5);
    let first = all.iter().take(5).copied().collect::<Vec<_>>().join(", ");
    if more > 0 { format!("{first} and {more} more") } else { first }
}

impl From<weft_certs::Error> for Failure {
    fn from(error: weft_certs::Error) -> Self {
        match error {
            weft_certs::Error::Request(text) => Self(StatusCode::CONFLICT, "Conflict", text),
            other => {
                tracing::error!(error = %other, "the certificate authority failed");
                let text = "the certificate authority failed; its log says why".to_owned();
                Self(StatusCode::INTERNAL_SERVER_ERROR, "InternalError", text)
            }
        }
    }
}

impl From<Unexplained> for Failure {
    fn from(unexplained: Unexplained) -> Self {
        let (code, reason) = match &unexplained {
            Unexplained::Bad(_) => (StatusCode::UNPROCESSABLE_ENTITY, "Invalid"),
            Unexplained::Absent(_) => (StatusCode::NOT_FOUND, "NotFound"),
            Unexplained::Broken(_) => (StatusCode::INTERNAL_SERVER_ERROR, "InternalError"),
        };
        Self(code, reason, unexplained.to_string())
    }
}

#[derive(Deserialize)]
struct Place {
    #[serde(default)]
    namespace: String,
}

async fn explain(
    State(sources): State<Sources>,
    Query(place): Query<Place>,
    body: Result<Json<Question>, axum::extract::rejection::JsonRejection>,
) -> Result<Json<Explanation>, Failure> {
    let Json(question) = body.map_err(|e| Failure(StatusCode::BAD_REQUEST, "BadRequest", e.body_text()))?;
    let compiled = sources.compiled.borrow().clone();
    let explanation = crate::explain::explain(&compiled, &question)?;
    if !is_of(&explanation.to, &place.namespace) {
        let text = format!("to: is of another namespace than {:?}, which the query asks for", place.namespace);
        return Err(Failure(StatusCode::BAD_REQUEST, "BadRequest", text));
    }
    Ok(Json(explanation))
}

async fn config(
    State(sources): State<Sources>,
    Path((namespace, name)): Path<(String, String)>,
) -> Result<Response, Failure> {
    let uid = format!("{namespace}/{name}");
    let dump = sources.fleet.command(&uid, v1::command::Command::ConfigDump(v1::ConfigDump {})).await?;
    Ok(([(axum::http::header::CONTENT_TYPE, "application/json")], dump).into_response())
}

/// How many records of a journal, the last ones: 100.
#[derive(Deserialize)]
struct Last {
    last: Option<usize>,
}

impl Last {
    /// The answer with what `read` finds.
    async fn of(
        self,
        read: impl FnOnce(usize) -> std::io::Result<Vec<Value>> + Send + 'static,
    ) -> Result<Json<Value>, Failure> {
        let count = self.last.unwrap_or(100);
        // Files of some MiB are read: not on a thread that serves.
        let found = tokio::task::spawn_blocking(move || read(count)).await;
        match found.map_err(std::io::Error::other).and_then(|found| found) {
            Ok(records) => Ok(Json(json!({ "items": records }))),
            Err(error) => {
                tracing::error!(%error, "cannot read an audit record");
                let text = "the audit record cannot be read; the log says why".to_owned();
                Err(Failure(StatusCode::INTERNAL_SERVER_ERROR, "InternalError", text))
            }
        }
    }
}

#[derive(Deserialize)]
struct LogFilter {
    filter: String,
}

async fn log(
    State(sources): State<Sources>,
    Path((namespace, name)): Path<(String, String)>,
    Query(query): Query<LogFilter>,
) -> Result<Json<Value>, Failure> {
    let uid = format!("{namespace}/{name}");
    let command = v1::command::Command::LogLevel(v1::LogLevel { filter: query.filter });
    sources.fleet.command(&uid, command).await?;
    Ok(Json(json!({})))
}

async fn drain(
    State(sources): State<Sources>,
    Path((namespace, name)): Path<(String, String)>,
) -> Result<Json<Value>, Failure> {
    let uid = format!("{namespace}/{name}");
    sources.fleet.command(&uid, v1::command::Command::Drain(v1::Drain {})).await?;
    Ok(Json(json!({})))
}
