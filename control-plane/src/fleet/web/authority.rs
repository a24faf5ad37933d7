//! The questions of `weft identity`: whom the mesh trusts, the rotation of its root, what is revoked, and what the authority did.

use super::{Failure, Last, Sources};
use crate::identity::audit::Event;
use crate::identity::revoker::{Refusal, Shown, Subject};
use crate::identity::rotation::Status;
use crate::world::World;
use axum::Json;
use axum::extract::rejection::JsonRejection;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};
use std::time::SystemTime;
use weft_certs::ca::Reason;
use weft_certs::{SpiffeId, TrustDomain};

fn read<T>(body: Result<Json<T>, JsonRejection>) -> Result<T, Failure> {
    body.map(|Json(read)| read).map_err(|e| Failure(StatusCode::BAD_REQUEST, "BadRequest", e.body_text()))
}

pub(super) async fn status(State(sources): State<Sources>) -> Result<Json<Status>, Failure> {
    Ok(Json(sources.rotator.status()?))
}

pub(super) async fn bundle(State(sources): State<Sources>) -> Json<Value> {
    let bundle = sources.rotator.bundle();
    Json(json!({ "trustDomain": bundle.trust_domain().as_str(), "roots": bundle.to_pem() }))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Rotate {
    action: RotateAction,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
enum RotateAction {
    Start,
    Abort,
    Proceed,
}

pub(super) async fn rotate(
    State(sources): State<Sources>,
    body: Result<Json<Rotate>, JsonRejection>,
) -> Result<Json<Status>, Failure> {
    match read(body)?.action {
        RotateAction::Start => sources.rotator.start()?,
        RotateAction::Abort => sources.rotator.abort()?,
        RotateAction::Proceed => sources.rotator.proceed()?,
    }
    Ok(Json(sources.rotator.status()?))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Revoke {
    /// `namespace/workload`, a SPIFFE id, or a serial number.
    subject: String,
    #[serde(default)]
    reason: Option<String>,
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Invalid(text) => Self(StatusCode::UNPROCESSABLE_ENTITY, "Invalid", text),
            Refusal::Authority(error) => error.into(),
            Refusal::Store(error) => {
                tracing::error!(%error, "cannot revoke");
                Self(StatusCode::SERVICE_UNAVAILABLE, "ServiceUnavailable", "the store failed".to_owned())
            }
        }
    }
}

pub(super) async fn revoke(
    State(sources): State<Sources>,
    body: Result<Json<Revoke>, JsonRejection>,
) -> Result<Json<Value>, Failure> {
    let Revoke { subject, reason } = read(body)?;
    let reason: Reason = reason
        .as_deref()
        .map_or(Ok(Reason::default()), str::parse)
        .map_err(|e: weft_certs::Error| Failure(StatusCode::UNPROCESSABLE_ENTITY, "Invalid", e.to_string()))?;
    let world = sources.compiled.borrow().world.clone();
    let (subject, shared) = resolve(&world, &subject)?;
    let identity = match &subject {
        Subject::Identity(id) => Some(id.to_string()),
        Subject::Serial(_) => None,
    };
    // Tokens first: whoever holds one could be back before anybody has looked.
    let tokens = match &subject {
        Subject::Identity(id) => revoke_tokens(&sources, id).await?,
        Subject::Serial(_) => Vec::new(),
    };
    let revoked = sources.revoker.revoke(&subject, reason, SystemTime::now()).await?;
    Ok(Json(json!({
        "identity": identity,
        "workloads": shared,
        "tokens": tokens,
        "revoked": revoked.iter().map(shown).collect::<Vec<_>>(),
    })))
}

/// Ends the join tokens of an identity: those that there are may be in the same hands as what is revoked.
async fn revoke_tokens(sources: &Sources, id: &SpiffeId) -> Result<Vec<String>, Failure> {
    let mut ended = Vec::new();
    for token in sources.tokens.list().await? {
        let same = id.namespace() == Some(token.claims.namespace.as_str())
            && id.service_account() == Some(token.claims.service_account.as_str());
        if same && sources.tokens.revoke(&token.id).await? {
            tracing::info!(id = %token.id, "revoked a join token");
            sources.audit.write(Event::TokenRevoked { token: &token.id });
            ended.push(token.id);
        }
    }
    Ok(ended)
}

/// What somebody means, and the workloads that it is shared by.
fn resolve(world: &World, text: &str) -> Result<(Subject, Vec<String>), Failure> {
    let invalid = |text: String| Failure(StatusCode::UNPROCESSABLE_ENTITY, "Invalid", text);
    let domain = &world.mesh.trust_domain;
    let id = if text.starts_with("spiffe://") {
        text.parse::<SpiffeId>().map_err(|e| invalid(format!("{text:?} is no SPIFFE id: {e}")))?
    } else if let Some((namespace, _)) = text.split_once('/') {
        let Some(workload) = world.workloads.get(text) else {
            let text =
                format!("there is no workload {text}; an identity of one that has left is revoked by its SPIFFE id");
            return Err(Failure(StatusCode::NOT_FOUND, "NotFound", text));
        };
        let domain: TrustDomain = domain.parse().map_err(|_| invalid("the mesh has no trust domain".to_owned()))?;
        SpiffeId::workload(&domain, namespace, &workload.spec.service_account).map_err(|e| invalid(e.to_string()))?
    } else {
        return Ok((Subject::Serial(text.to_owned()), Vec::new()));
    };
    let shared = id.namespace().into_iter().flat_map(|namespace| world.workloads_in(namespace));
    let shared = shared.filter(|(_, w)| id.service_account() == Some(&*w.spec.service_account));
    let shared = shared.map(|(uid, _)| uid.to_string()).collect();
    Ok((Subject::Identity(id), shared))
}

fn shown(revoked: &Shown) -> Value {
    let mut value = serde_json::to_value(revoked).unwrap_or_default();
    for field in ["revokedAt", "notAfter"] {
        let seconds = value[field].as_i64().unwrap_or_default();
        value[field] = k8s_openapi::jiff::Timestamp::from_second(seconds).unwrap_or_default().to_string().into();
    }
    value
}

pub(super) async fn revoked(State(sources): State<Sources>) -> Json<Value> {
    let all = sources.revoker.revoked().await;
    Json(json!({ "items": all.iter().map(shown).collect::<Vec<_>>(), "lists": sources.revoker.lists() }))
}

pub(super) async fn audit(State(sources): State<Sources>, Query(asked): Query<Last>) -> Result<Json<Value>, Failure> {
    asked.of(move |count| sources.audit.last(count)).await
}
