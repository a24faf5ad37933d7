//! The verbs: get, list, create, update, patch, delete and delete of many, each from a call to an answer.
//!
//! Every write is compare-and-set on the revision that was read; one that asked for no particular revision is tried again when another
//! writer came between.

mod delete;
mod list;
mod server_side;
mod write;

use std::sync::Arc;

use axum::body::Body;
use bytes::Bytes;
use http::{Method, Response, StatusCode, header};
use serde_json::{Value, json};
use time::OffsetDateTime;

use super::{
    Error, Inner,
    failure::{Failure, Result},
    json, object,
    object::Part,
    rights,
    route::{Call, json_response},
    selector::Selector,
    table::negotiate,
};
use crate::{
    kinds::{self, Kind},
    store::{Expect, Key, Record, Scope, Write},
};

pub(super) use write::patch_types;

/// How often a write that lost a race is tried again.
const ATTEMPTS: usize = 16;

pub(super) async fn serve(api: &Inner, method: &Method, call: &Call, body: Bytes) -> Result<Response<Body>> {
    let answered = match (method, &call.name) {
        (&Method::GET, Some(_)) => get(api, call).await,
        (&Method::GET, None) => list::list(api, call).await,
        (&Method::POST, None) => write::create(api, call, &body).await,
        (&Method::PUT, Some(_)) => write::update(api, call, &body).await,
        (&Method::PATCH, Some(_)) => write::patch(api, call, &body).await,
        (&Method::DELETE, Some(_)) if call.part == Part::Main => delete::one(api, call, &body).await,
        (&Method::DELETE, None) => delete::collection(api, call, &body).await,
        _ => Err(Failure::method_not_allowed()),
    };
    if method != Method::GET && rights::concerns(call.kind) {
        // In force when it is answered. What was written is written, whether it can be read back or not.
        if let Err(error) = api.rights.read(&*api.store).await {
            tracing::error!(%error, "roles and bindings cannot be read; those of before stay in force");
        }
    }
    answered
}

async fn get(api: &Inner, call: &Call) -> Result<Response<Body>> {
    let form = negotiate(&call.headers, call.query.text("includeObject"))?;
    revision(call.query.text("resourceVersion"))?;
    let record = read(api, call).await?;
    Ok(json_response(StatusCode::OK, &form.one(call.kind, object(call.kind, &record), OffsetDateTime::now_utc())))
}

/// The object that the call names.
async fn read(api: &Inner, call: &Call) -> Result<Arc<Record>> {
    let name = call.name.as_deref().unwrap_or_default();
    let found = api.store.get(&key(call, name)).await?;
    found.ok_or_else(|| Failure::not_found(call.kind, name))
}

fn key(call: &Call, name: &str) -> Key {
    Key::new(call.kind.resource(), call.namespace.clone().unwrap_or_default(), name)
}

/// What a list or watch is about.
pub(super) fn scope(call: &Call) -> Scope {
    Scope { resource: call.kind.resource().into(), namespace: call.namespace.as_deref().map(Into::into) }
}

/// Which objects of it are meant; a watch or list of one name is one by field.
pub(super) fn selector(call: &Call) -> Result<Selector> {
    let fields = call.query.text("fieldSelector");
    match &call.name {
        Some(name) => {
            Selector::parse(call.kind, call.query.text("labelSelector"), &format!("metadata.name={name},{fields}"))
        }
        None => Selector::parse(call.kind, call.query.text("labelSelector"), fields),
    }
}

/// A resource version that a client sent; opaque to it, a number to us.
pub(super) fn revision(text: &str) -> Result<Option<u64>> {
    match text {
        "" => Ok(None),
        text => match text.parse() {
            Ok(revision) => Ok(Some(revision)),
            Err(_) => Err(Failure::bad_request(format!("{text:?} is no resource version of this server"))),
        },
    }
}

/// The object of a record, with its resource version, in the version of the API that the kind is asked for by.
pub(super) fn object(kind: &Kind, record: &Record) -> Value {
    let mut object: Value = serde_json::from_slice(&record.value).unwrap_or_else(|error| {
        tracing::error!(key = %record.key, %error, "the store holds what is no JSON");
        json!({ "metadata": { "name": *record.key.name, "namespace": *record.key.namespace } })
    });
    object["metadata"]["resourceVersion"] = record.revision.to_string().into();
    object["apiVersion"] = kind.api_version().into();
    object
}

/// The document of an object as it is stored.
pub(super) fn stored(mut object: Value) -> Bytes {
    if let Some(metadata) = object["metadata"].as_object_mut() {
        metadata.remove("resourceVersion");
    }
    // Not with the room that a growing text has: it is kept for long.
    Bytes::from(object.to_string().into_boxed_str().into_boxed_bytes())
}

/// Whether the request is to be judged only; there is one value, `All`.
fn dry_run(call: &Call, options: &Value) -> Result<bool> {
    let said = options["dryRun"].as_array().into_iter().flatten().filter_map(Value::as_str);
    let said: Vec<&str> = said.chain(call.query.has("dryRun").then(|| call.query.text("dryRun"))).collect();
    match said.as_slice() {
        [] | [""] => Ok(false),
        all if all.iter().all(|v| *v == "All") => Ok(true),
        other => Err(Failure::bad_request(format!("{other:?} is no value of dryRun: All"))),
    }
}

/// The media type of a body, without parameters, in lower case.
fn content_type(call: &Call) -> String {
    let field = call.headers.get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
    field.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
}

/// Makes a namespace where it is missing.
pub(super) async fn ensure_namespace(api: &Inner, name: &str) -> std::result::Result<(), Error> {
    let Some(kind) = kinds::find("", "v1", "namespaces") else { return Ok(()) };
    let key = Key::new(kind.resource(), "", name);
    if api.store.get(&key).await?.is_some() {
        return Ok(());
    }
    let mut document = json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": name } });
    object::born(kind, &mut document, rand::random(), OffsetDateTime::now_utc())
        .map_err(|f| Error::Settings(f.status()["message"].to_string()))?;
    let write = Write { key, expect: Expect::Absent, value: Some(stored(document)) };
    api.store.transact(vec![write]).await?;
    Ok(())
}

async fn namespace_exists(api: &Inner, call: &Call) -> Result<()> {
    let (Some(namespace), Some(kind)) = (&call.namespace, kinds::find("", "v1", "namespaces")) else { return Ok(()) };
    let found = api.store.get(&Key::new(kind.resource(), "", namespace.as_str())).await?;
    found.map(drop).ok_or_else(|| Failure::not_found(kind, namespace))
}
