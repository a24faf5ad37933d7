//! Server-side apply: what a manager sends is what it wants of the object, and all that it wants of it.
//!
//! Which fields that makes its own, and which conflict, is decided in `apply`; the result goes the way of every other write.

use super::write::{Mode, document, reach, store_new, store_next, writer};
use super::*;
use crate::api::{
    apply::{self, Managers, Refusal, Schema, Wish},
    door,
    failure::Problem,
    object::Address,
    schema::Walk,
};

pub(super) async fn apply(api: &Inner, call: &Call, body: &Bytes) -> Result<Response<Body>> {
    let (kind, name) = (call.kind, call.name.as_deref().unwrap_or_default());
    if call.query.text("fieldManager").is_empty() {
        return Err(Failure::options("PatchOptions", "fieldManager: Required value: is required for apply patch"));
    }
    let (mode, writer, force) = (Mode::of(call)?, writer(call)?, call.query.flag("force")?);
    let (mut wanted, problems) = document(call, body)?;
    object::address(&mut wanted, &Address { kind, namespace: call.namespace.as_deref(), name: call.name.as_deref() })?;
    if !wanted["metadata"]["managedFields"].is_null() {
        return Err(Failure::bad_request("metadata.managedFields must be nil"));
    }
    unknown(kind, &wanted, &problems)?;
    confine(call, &mut wanted);
    let named = wanted["metadata"]["resourceVersion"].as_str().unwrap_or_default().to_owned();
    let uid = wanted["metadata"]["uid"].as_str().unwrap_or_default().to_owned();
    if let Some(metadata) = wanted["metadata"].as_object_mut() {
        for field in ["resourceVersion", "uid", "creationTimestamp", "generation", "selfLink"] {
            metadata.remove(field);
        }
    }
    for _ in 0..ATTEMPTS {
        let record = api.store.get(&key(call, name)).await?;
        let live = record.as_ref().map(|record| object(kind, record)).unwrap_or_default();
        let known = Managers::decode(&live["metadata"]["managedFields"]).unwrap_or_default();
        let wish = Wish { wanted: &wanted, writer: &writer, reach: reach(call), force };
        let defaults = |next: &mut Value| drop(Walk::over(&kind.schema, next, ""));
        let applied = apply::applied(Schema::of(kind), &live, known, wish, defaults);
        let (mut next, owners) = applied.map_err(|refusal| refused(kind, &wanted, refusal))?;
        if apply::keeps_record(&live, &writer)
            && let Some(annotations) = next.pointer_mut("/metadata/annotations").and_then(Value::as_object_mut)
        {
            annotations.insert(apply::LAST_APPLIED.into(), format!("{wanted}\n").into());
        }
        let written = match &record {
            None if call.part == Part::Status => return Err(Failure::not_found(kind, name)),
            None if !uid.is_empty() || !matches!(named.as_str(), "" | "0") => {
                let why = "the object to be applied does not exist, and its uid or resourceVersion is given";
                return Err(Failure::conflict(kind, name, why));
            }
            // As Kubernetes has it: who may only change what is there makes nothing.
            None => {
                door::admit(api, call.user.as_ref(), &door::asked(&Method::POST, call, false))?;
                store_new(api, call, next, |_| owners, mode, Vec::new()).await?
            }
            Some(record) => {
                for (field, said) in [("resourceVersion", &named), ("uid", &uid)] {
                    if !said.is_empty() {
                        next["metadata"][field] = said.as_str().into();
                    }
                }
                store_next(api, call, record, next, |_, _| owners, mode, Vec::new()).await?
            }
        };
        match written {
            Some(answer) => return Ok(answer),
            None if matches!(named.as_str(), "" | "0") => {}
            None => return Err(Failure::stale(kind, name)),
        }
    }
    Err(Failure::stale(kind, name))
}

/// A field that the schema does not know cannot be owned: it is refused, however fields are validated. So is one that is given twice.
fn unknown(kind: &Kind, wanted: &Value, problems: &[Problem]) -> Result<()> {
    let mut all = problems.to_vec();
    all.append(&mut Walk::over(&kind.schema, &mut wanted.clone(), "").unknown);
    all.append(&mut Walk::over(kinds::metadata_schema(), &mut wanted["metadata"].clone(), "metadata").unknown);
    if all.is_empty() { Ok(()) } else { Err(Failure::strict(kind, &all)) }
}

/// Takes out what this way of writing does not write: `status`, or everything else.
fn confine(call: &Call, wanted: &mut Value) {
    let Some(fields) = wanted.as_object_mut() else { return };
    match call.part {
        Part::Main if call.kind.status => drop(fields.remove("status")),
        Part::Main => {}
        Part::Status => {
            fields.retain(|name, _| matches!(name.as_str(), "apiVersion" | "kind" | "metadata" | "status"));
            if let Some(metadata) = fields.get_mut("metadata").and_then(Value::as_object_mut) {
                metadata.retain(|name, _| matches!(name.as_str(), "name" | "namespace" | "uid" | "resourceVersion"));
            }
        }
    }
}

fn refused(kind: &Kind, wanted: &Value, refusal: Refusal) -> Failure {
    match refusal {
        Refusal::Conflicts(conflicts) => Failure::apply_conflict(&conflicts),
        Refusal::Ambiguous(path) => Failure::bad_request(format!(
            "failed to create typed patch object ({}; {}, Kind={}): {path}: entries of the list cannot be told apart: a key is missing or given twice",
            object::name(wanted),
            kind.api_version(),
            kind.kind,
        )),
        Refusal::Full => Failure::protected(
            kind,
            object::name(wanted),
            "too many field managers apply it; let one give up its fields",
        ),
    }
}
