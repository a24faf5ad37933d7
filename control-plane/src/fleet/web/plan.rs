//! `POST /weft/v1/plan`: what the objects in the body would do to the calls of the last hour, were they applied. Each is put to the API as a
//! dry run by whoever asks, with all rights that applying it takes; what comes of them all is [`crate::plan`]'s.

use super::{Failure, Place, Sources};
use crate::api::Holding;
use crate::compile::Verdict;
use crate::kinds::find_kind;
use crate::plan::{self, Forecast, overlay};
use axum::Json;
use axum::body::Body;
use axum::extract::{Extension, Query, State};
use axum::http::{Request, Response, StatusCode, header};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Limited};
use serde::Serialize;
use serde_json::Value;
use std::time::Duration;

/// Objects of one question.
const OBJECTS: usize = 200;
/// Bytes of an answer of the API.
const ANSWER: usize = 4 << 20;
/// How long the compiler and the core may take.
const PATIENCE: Duration = Duration::from_secs(25);

/// One object, and what applying it would do to it.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Object {
    kind: String,
    /// `namespace/name`, or the name alone.
    name: String,
    /// `created`, `configured`, `unchanged`; null: it would be refused.
    change: Option<&'static str>,
    problems: Vec<String>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Answer {
    #[serde(flatten)]
    forecast: Forecast,
    objects: Vec<Object>,
}

fn bad(text: impl Into<String>) -> Failure {
    Failure(StatusCode::BAD_REQUEST, "BadRequest", text.into())
}

/// The objects of a body: documents of YAML or JSON, Lists taken apart.
fn objects(body: &Bytes) -> Result<Vec<Value>, Failure> {
    let text = std::str::from_utf8(body).map_err(|_| bad("the body is no UTF-8"))?;
    let documents: Vec<Value> = if text.trim_start().starts_with('{') {
        let read = serde_json::Deserializer::from_str(text).into_iter().take(OBJECTS + 1);
        read.collect::<Result<_, _>>().map_err(|error| bad(format!("the body is no JSON: {error}")))?
    } else {
        serde_saphyr::from_multiple(text).map_err(|error| bad(format!("the body is no YAML: {error}")))?
    };
    let mut all = Vec::new();
    for document in documents.into_iter().filter(|document| !document.is_null()) {
        let is_list = document["kind"].as_str().is_some_and(|kind| kind.ends_with("List"));
        match document.get("items").and_then(Value::as_array) {
            Some(items) if is_list => all.extend(items.iter().cloned()),
            _ => all.push(document),
        }
    }
    if all.is_empty() {
        return Err(bad("the body has no object"));
    }
    if all.len() > OBJECTS {
        return Err(bad(format!("more than {OBJECTS} objects")));
    }
    Ok(all)
}

pub(super) async fn plan(
    State(sources): State<Sources>,
    Query(place): Query<Place>,
    Extension(holding): Extension<Holding>,
    body: Bytes,
) -> Result<Json<Answer>, Failure> {
    let before = sources.compiled.borrow().clone();
    let mut will = before.world.as_ref().clone();
    let mut answered = Vec::new();
    for object in objects(&body)? {
        answered.push(judge(&holding, &place.namespace, object, &mut will).await?);
    }
    let read = sources.fleet.traffic(&place.namespace);
    let work = tokio::task::spawn_blocking(move || {
        let after = plan::compiled(will);
        let forecast = plan::forecast(&before, &after, &read);
        (forecast, after)
    });
    let late = || Failure(StatusCode::GATEWAY_TIMEOUT, "Timeout", "the plan took too long".to_owned());
    let (forecast, after) = tokio::time::timeout(PATIENCE, work).await.map_err(|_| late())?.map_err(|error| {
        tracing::error!(%error, "a plan failed");
        Failure(StatusCode::INTERNAL_SERVER_ERROR, "InternalError", "the plan failed; the log says why".to_owned())
    })?;
    for object in &mut answered {
        let found: Vec<_> = after.verdicts().iter().flat_map(|verdict| fate(verdict, object)).collect();
        object.problems.extend(found);
    }
    Ok(Json(Answer { forecast, objects: answered }))
}

/// What the compiler would hold against the object.
fn fate(verdict: &Verdict, object: &Object) -> Vec<String> {
    let name = match verdict.namespace.as_str() {
        "" => verdict.name.clone(),
        namespace => format!("{namespace}/{}", verdict.name),
    };
    if verdict.kind.name() != object.kind || name != object.name {
        return Vec::new();
    }
    let wrong = verdict.parents.iter().flat_map(|parent| &parent.conditions).filter(|condition| !condition.status);
    wrong.map(|condition| format!("{}: {}", condition.r#type, condition.message)).collect()
}

/// Puts one object to the API, and what comes of it into the world.
async fn judge(
    holding: &Holding,
    namespace: &str,
    mut object: Value,
    will: &mut crate::world::World,
) -> Result<Object, Failure> {
    let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned();
    let (version, kind, name) = (text("/apiVersion"), text("/kind"), text("/metadata/name"));
    let found = find_kind(&version, &kind).ok_or_else(|| bad(format!("{version} has no kind {kind:?}")))?;
    if name.is_empty() {
        return Err(bad(format!("{kind}: metadata.name: is missing")));
    }
    let own = match (found.namespaced, text("/metadata/namespace")) {
        (false, _) => String::new(),
        (true, own) if !own.is_empty() => own,
        (true, _) if !namespace.is_empty() => namespace.to_owned(),
        (true, _) => "default".to_owned(),
    };
    if let Some(metadata) = object["metadata"].as_object_mut() {
        metadata.remove("managedFields");
        match found.namespaced {
            true => drop(metadata.insert("namespace".to_owned(), own.clone().into())),
            false => drop(metadata.remove("namespace")),
        }
    }
    let group = if found.group.is_empty() { "/api".to_owned() } else { format!("/apis/{}", found.group) };
    let place = if own.is_empty() { String::new() } else { format!("/namespaces/{}", encode(&own)) };
    let path = format!("{group}/{}{place}/{}/{}", found.version, found.plural, encode(&name));
    let shown = Object {
        kind: found.kind.to_owned(),
        name: if own.is_empty() { name } else { format!("{own}/{name}") },
        change: None,
        problems: Vec::new(),
    };
    let (code, live) = ask(holding, "GET", &path, None).await?;
    let live = (code == StatusCode::OK).then_some(live);
    let dry = format!("{path}?dryRun=All&fieldManager=weft&fieldValidation=Strict");
    let (code, made) = ask(holding, "PATCH", &dry, Some(&object)).await?;
    let made = match code {
        StatusCode::OK | StatusCode::CREATED => made,
        StatusCode::FORBIDDEN | StatusCode::UNAUTHORIZED => {
            let message = made["message"].as_str().unwrap_or("the change may not be made").to_owned();
            return Err(Failure(StatusCode::FORBIDDEN, "Forbidden", message));
        }
        // Its namespace may be made by the same change.
        StatusCode::NOT_FOUND if live.is_none() => object,
        _ => {
            let message = made["message"].as_str().unwrap_or("refused").to_owned();
            return Ok(Object { problems: vec![message], ..shown });
        }
    };
    let change = match &live {
        None => "created",
        Some(live) if said(live) == said(&made) => "unchanged",
        Some(_) => "configured",
    };
    let problems = overlay::put(will, made).err().into_iter().collect();
    Ok(Object { change: Some(change), problems, ..shown })
}

/// What of an object its writers say.
fn said(object: &Value) -> Value {
    let mut object = object.clone();
    if let Some(fields) = object.as_object_mut() {
        fields.remove("status");
    }
    if let Some(metadata) = object["metadata"].as_object_mut() {
        metadata.retain(|name, _| matches!(name.as_str(), "name" | "namespace" | "labels" | "annotations"));
    }
    object
}

async fn ask(
    holding: &Holding,
    method: &str,
    path: &str,
    body: Option<&Value>,
) -> Result<(StatusCode, Value), Failure> {
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header(header::ACCEPT, "application/json")
        .header(header::CONTENT_TYPE, "application/apply-patch+yaml")
        .body(body.map_or_else(Body::empty, |body| Body::from(body.to_string())))
        .map_err(|error| bad(format!("{path}: {error}")))?;
    let answer: Response<Body> = holding.ask(request).await;
    let code = answer.status();
    let body = Limited::new(answer.into_body(), ANSWER).collect().await;
    let body = body.map_err(|_| bad(format!("{path}: the answer is too large")))?.to_bytes();
    Ok((code, serde_json::from_slice(&body).unwrap_or_default()))
}

/// Percent-encodes a segment of a path.
fn encode(text: &str) -> String {
    use std::fmt::Write as _;
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => out.push(char::from(byte)),
            _ => drop(write!(out, "%{byte:02X}")),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_is_read_as_documents_or_a_list() {
        let kinds = |text: &'static str| {
            let all = objects(&Bytes::from_static(text.as_bytes()));
            all.map(|all| all.iter().map(|one| one["kind"].as_str().unwrap().to_owned()).collect::<Vec<_>>())
        };
        assert_eq!(kinds("kind: A\n---\n---\nkind: B\n").unwrap_or_default(), ["A", "B"]);
        assert_eq!(kinds(r#"{"kind":"List","items":[{"kind":"A"},{"kind":"B"}]}"#).unwrap_or_default(), ["A", "B"]);
        for none in ["", "---\n", "{", "a: [1", r#"{"kind":"List","items":[]}"#] {
            assert!(kinds(none).is_err(), "{none:?}");
        }
    }
}
