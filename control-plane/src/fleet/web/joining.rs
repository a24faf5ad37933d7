//! The questions of `weft token`: the tokens with which workloads join.

use super::{Failure, Sources};
use crate::identity::audit::Event;
use crate::identity::token::{Claims, Token, unix};
use axum::Json;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};
use std::time::{Duration, SystemTime};

/// Expiry of a token where nobody says.
const TOKEN_LIFE: Duration = Duration::from_secs(3600);
/// No token lives longer: a year.
const MAX_TOKEN_LIFE: u64 = 366 * 24 * 3600;

/// The namespace that was asked about, and for which the asker has the right; empty: all.
#[derive(Deserialize)]
pub(super) struct Place {
    #[serde(default)]
    namespace: String,
}

impl Place {
    fn holds(&self, namespace: &str) -> bool {
        self.namespace.is_empty() || self.namespace == namespace
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct NewToken {
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

pub(super) async fn list(State(sources): State<Sources>, Query(place): Query<Place>) -> Result<Json<Value>, Failure> {
    let mut all = sources.tokens.list().await?;
    all.retain(|token| place.holds(&token.claims.namespace));
    Ok(Json(json!({ "items": all.iter().map(shown).collect::<Vec<_>>() })))
}

pub(super) async fn create(
    State(sources): State<Sources>,
    Query(place): Query<Place>,
    body: Result<Json<NewToken>, axum::extract::rejection::JsonRejection>,
) -> Result<(StatusCode, Json<Value>), Failure> {
    let Json(new) = body.map_err(|e| Failure(StatusCode::BAD_REQUEST, "BadRequest", e.body_text()))?;
    if !place.holds(&new.namespace) {
        let text = format!("namespace: is {:?}, and the query asks for {:?}", new.namespace, place.namespace);
        return Err(Failure(StatusCode::BAD_REQUEST, "BadRequest", text));
    }
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

pub(super) async fn revoke(
    State(sources): State<Sources>,
    Path(id): Path<String>,
    Query(place): Query<Place>,
) -> Result<Json<Value>, Failure> {
    let here = sources.tokens.list().await?.iter().any(|t| t.id == id && place.holds(&t.claims.namespace));
    if !here || !sources.tokens.revoke(&id).await? {
        return Err(Failure(StatusCode::NOT_FOUND, "NotFound", format!("there is no join token {id:?}")));
    }
    tracing::info!(%id, "revoked a join token");
    sources.audit.write(Event::TokenRevoked { token: &id });
    Ok(Json(json!({ "kind": "Status", "apiVersion": "v1", "status": "Success" })))
}
