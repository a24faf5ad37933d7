//! The questions of `weft stat`, `weft check`, `weft proxy`, `weft token`, `weft identity`, `weft user` and `weft explain`, answered as JSON
//! under `/weft/v1`.
//!
//! Mounted on the resource API's server, behind its door, which says what role a page needs. Where the query names a namespace, the role was
//! asked for in that one alone: then the page must not speak of another. Keys are camelCase, `null` is no data.

mod authority;
mod check;
mod document;
mod endpoints;
mod joining;
mod live;
mod plan;
mod plane;
mod problems;
mod process;
mod routes;
mod series;
mod tap;
mod users;

use super::{CommandError, Fleet};
use crate::api::record::Record;
use crate::explain::{Explanation, Question, Unexplained};
use crate::identity::token::{Refusal, Tokens, unix};
use crate::identity::{Audit, Revoker, Rotator};
use crate::kinds::Phase;
use crate::store::Store;
use crate::world::World;
use crate::world::reconcile::Compiled;
use crate::xds::Hub;
use axum::extract::{FromRequestParts, Path, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post};
use axum::{Json, Router};
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::{BTreeMap, HashMap};
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
    /// The control plane's directory.
    pub data_dir: std::path::PathBuf,
    /// Asked for what is longer ago than is kept.
    pub prometheus: Option<Arc<super::prometheus::Prometheus>>,
    /// How fast changes arrive.
    pub pace: Arc<crate::xds::Pace>,
    /// What the control plane counts of itself.
    pub metrics: Arc<crate::metrics::Metrics>,
    /// When it started.
    pub started: std::time::Instant,
}

/// The routes: `/metrics`, and all others under `/weft/v1`.
pub fn router(sources: Sources) -> Router {
    Router::new()
        .route("/metrics", get(process::metrics))
        .route("/weft/v1/stat", get(document::stat))
        .route("/weft/v1/problems", get(document::show_problems))
        .route("/weft/v1/live", get(live::stream))
        .route("/weft/v1/series", get(series::show))
        .route("/weft/v1/controlplane", get(plane::show))
        .route("/weft/v1/routes", get(routes::list))
        .route("/weft/v1/endpoints", get(endpoints::list))
        .route("/weft/v1/tap", get(tap::open))
        .route("/weft/v1/plan", post(plan::plan))
        .route("/weft/v1/fleet", get(fleet))
        .route("/weft/v1/check", get(check::check))
        .route("/weft/v1/process", get(process::show))
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
        .route("/weft/v1/fleet/{namespace}/{name}/stats", get(stats))
        .route("/weft/v1/fleet/{namespace}/{name}/metrics", get(metrics))
        .route("/weft/v1/fleet/{namespace}/{name}/log", axum::routing::put(log))
        .route("/weft/v1/fleet/{namespace}/{name}/drain", post(drain))
        .layer(axum::Extension(Arc::new(live::Feeds::default())))
        .with_state(sources)
}

/// An error in the API's own shape, so that one client understands both.
#[derive(Debug)]
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

/// The query of a page. One that cannot be read is refused in the API's own shape.
struct Params<T>(T);

impl<T: serde::de::DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Params<T> {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut axum::http::request::Parts, state: &S) -> Result<Self, Failure> {
        let read = <Query<T> as FromRequestParts<S>>::from_request_parts(parts, state).await;
        let Query(asked) = read.map_err(|e| Failure(StatusCode::BAD_REQUEST, "BadRequest", e.body_text()))?;
        Ok(Self(asked))
    }
}

#[derive(Deserialize)]
struct Window {
    window: Option<String>,
    #[serde(default)]
    namespace: String,
    /// Of a page about services: the name of one.
    #[serde(default)]
    service: String,
}

impl Window {
    /// How far back; 10 s.
    fn length(&self) -> Result<Duration, Failure> {
        window(self.window.as_deref())
    }

    /// Whether a service is asked about.
    fn concerns(&self, service: &str) -> bool {
        let name = service.split_once('/').map_or("", |(_, name)| name);
        is_of(service, &self.namespace) && (self.service.is_empty() || self.service == name)
    }
}

/// A window as a query gives it, whole days included; 10 s.
fn window(text: Option<&str>) -> Result<Duration, Failure> {
    let Some(text) = text else { return Ok(Duration::from_secs(10)) };
    if let Some(days) = text.strip_suffix('d').and_then(|days| days.parse::<u16>().ok()) {
        return Ok(Duration::from_secs(u64::from(days) * 24 * 3600));
    }
    let read = text.parse::<crate::kinds::Duration>().map(Duration::from);
    read.map_err(|e| Failure(StatusCode::BAD_REQUEST, "BadRequest", format!("window: {e}")))
}

/// Whether a name `namespace/name` is of the namespace that was asked about, which is empty for all.
pub(super) fn is_of(name: &str, namespace: &str) -> bool {
    namespace.is_empty() || name.split_once('/').is_some_and(|(own, _)| own == namespace)
}

/// Ready and all members of each service that has any.
fn instances(world: &World) -> HashMap<String, (usize, usize)> {
    let mut found: HashMap<String, (usize, usize)> = HashMap::new();
    crate::compile::endpoints::memberships(world, |service, workload| {
        let phase = match workload.phase {
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
            "phase": workload.phase,
            "meshed": workload.spec.tunnel.is_some(),
            "sidecar": connected.get(&**uid),
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

async fn stats(
    State(sources): State<Sources>,
    Path((namespace, name)): Path<(String, String)>,
) -> Result<Response, Failure> {
    let uid = format!("{namespace}/{name}");
    let dump = sources.fleet.command(&uid, v1::command::Command::Stats(v1::StatsDump {})).await?;
    Ok(([(axum::http::header::CONTENT_TYPE, "application/json")], dump).into_response())
}

#[derive(Deserialize)]
struct Metrics {
    /// Part of the names that are wanted.
    #[serde(default)]
    name: String,
}

async fn metrics(
    State(sources): State<Sources>,
    Path((namespace, name)): Path<(String, String)>,
    Query(query): Query<Metrics>,
) -> Result<Response, Failure> {
    let uid = format!("{namespace}/{name}");
    let command = v1::command::Command::Metrics(v1::MetricsDump { name: query.name });
    let text = sources.fleet.command(&uid, command).await?;
    Ok(([(axum::http::header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response())
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
