//! The questions of `weft stat`, `weft check`, `weft proxy`, `weft token`, `weft identity` and `weft explain`, answered as JSON under `/weft/v1`.
//!
//! Mounted on the resource API's server, behind its authentication: only administrators get here. Keys are camelCase, `null` is no data.

mod authority;

use super::{CommandError, Fleet};
use crate::explain::{Explanation, Question, Unexplained};
use crate::identity::audit::Event;
use crate::identity::token::{Claims, Refusal, Token, Tokens, unix};
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
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::sync::watch;
use weft_proto::v1;

/// Expiry of a token where nobody says.
const TOKEN_LIFE: Duration = Duration::from_secs(3600);
/// No token lives longer: a year.
const MAX_TOKEN_LIFE: u64 = 366 * 24 * 3600;

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
        .route("/weft/v1/tokens", get(tokens).post(create_token))
        .route("/weft/v1/tokens/{id}", delete(revoke_token))
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
        for name in world.services.keys().filter(|n| !stat.services.iter().any(|r| r.service == **n)) {
            let row = super::golden::Row { service: name.clone(), ..Default::default() };
            rows.push(serde_json::to_value(row).unwrap_or_default());
        }
        for row in rows.iter_mut() {
            let name = row["service"].as_str().unwrap_or_default().to_owned();
            let (ready, all) = instances(&world, &name);
            row["readyEndpoints"] = ready.into();
            row["endpoints"] = all.into();
        }
        rows.sort_by(|a, b| a["service"].as_str().cmp(&b["service"].as_str()));
    }
    Ok(Json(answer))
}

/// Ready and all members of a service.
fn instances(world: &World, service: &str) -> (usize, usize) {
    let Some(found) = world.services.get(service) else { return (0, 0) };
    let namespace = service.split('/').next().unwrap_or_default();
    let members = world.workloads_in(namespace).filter(|(_, w)| crate::compile::endpoints::is_member(found, w));
    let phases: Vec<_> = members
        .map(|(_, w)| match w.status.as_ref().and_then(|s| s.phase) {
            None if w.spec.tunnel.is_none() => Phase::Ready,
            phase => phase.unwrap_or(Phase::Pending),
        })
        .collect();
    (phases.iter().filter(|p| **p == Phase::Ready).count(), phases.len())
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
        checks.push(Check { name: "one control plane leads", ok: lead.mine, detail: lead.owner });
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
    let down: Vec<_> = compiled
        .world
        .services
        .keys()
        .filter(|name| matches!(instances(&compiled.world, name), (0, 1..)))
        .map(String::as_str)
        .collect();
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

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct NewToken {
    namespace: String,
    #[serde(default)]
    service_account: Option<String>,
    #[serde(default)]
    services: Vec<String>,
    #[serde(default)]
    ttl_seconds: Option<u64>,
    #[serde(default)]
    uses: Option<u32>,
}

fn shown(token: &Token) -> Value {
    let mut value = serde_json::to_value(token).unwrap_or_default();
    for field in ["expiresAt", "createdAt"] {
        let seconds = value[field].as_i64().unwrap_or_default();
        let at = k8s_openapi::jiff::Timestamp::from_second(seconds).unwrap_or_default();
        value[field] = at.to_string().into();
    }
    value
}

async fn tokens(State(sources): State<Sources>) -> Result<Json<Value>, Failure> {
    let all = sources.tokens.list().await?;
    Ok(Json(json!({ "items": all.iter().map(shown).collect::<Vec<_>>() })))
}

async fn create_token(
    State(sources): State<Sources>,
    body: Result<Json<NewToken>, axum::extract::rejection::JsonRejection>,
) -> Result<(StatusCode, Json<Value>), Failure> {
    let Json(new) = body.map_err(|e| Failure(StatusCode::BAD_REQUEST, "BadRequest", e.body_text()))?;
    let now = SystemTime::now();
    let life = new.ttl_seconds.unwrap_or(TOKEN_LIFE.as_secs());
    if life > MAX_TOKEN_LIFE {
        let text = format!("ttlSeconds: at most {MAX_TOKEN_LIFE}");
        return Err(Failure(StatusCode::UNPROCESSABLE_ENTITY, "Invalid", text));
    }
    let claims = Claims {
        namespace: new.namespace,
        service_account: new.service_account.unwrap_or_else(|| "default".to_owned()),
        services: new.services,
        uses: new.uses,
        expires_at: unix(now) + life,
    };
    let (token, text) = sources.tokens.create(claims, now).await?;
    tracing::info!(id = %token.id, namespace = %token.claims.namespace, serviceAccount = %token.claims.service_account, "made a join token");
    sources.audit.write(Event::TokenCreated {
        token: &token.id,
        namespace: &token.claims.namespace,
        service_account: &token.claims.service_account,
        services: &token.claims.services,
        uses: token.claims.uses,
        expires_at: token.claims.expires_at,
    });
    let mut value = shown(&token);
    value["token"] = text.into();
    Ok((StatusCode::CREATED, Json(value)))
}

async fn revoke_token(State(sources): State<Sources>, Path(id): Path<String>) -> Result<Json<Value>, Failure> {
    if !sources.tokens.revoke(&id).await? {
        return Err(Failure(StatusCode::NOT_FOUND, "NotFound", format!("there is no join token {id:?}")));
    }
    tracing::info!(%id, "revoked a join token");
    sources.audit.write(Event::TokenRevoked { token: &id });
    Ok(Json(json!({ "kind": "Status", "apiVersion": "v1", "status": "Success" })))
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

async fn explain(
    State(sources): State<Sources>,
    body: Result<Json<Question>, axum::extract::rejection::JsonRejection>,
) -> Result<Json<Explanation>, Failure> {
    let Json(question) = body.map_err(|e| Failure(StatusCode::BAD_REQUEST, "BadRequest", e.body_text()))?;
    let compiled = sources.compiled.borrow().clone();
    Ok(Json(crate::explain::explain(&compiled, &question)?))
}

async fn config(
    State(sources): State<Sources>,
    Path((namespace, name)): Path<(String, String)>,
) -> Result<Response, Failure> {
    let uid = format!("{namespace}/{name}");
    let dump = sources.fleet.command(&uid, v1::command::Command::ConfigDump(v1::ConfigDump {})).await?;
    Ok(([(axum::http::header::CONTENT_TYPE, "application/json")], dump).into_response())
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
