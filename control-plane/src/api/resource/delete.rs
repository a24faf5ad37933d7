//! Deletes: at once, or, while someone holds a finalizer, by a mark that the last finalizer's removal completes. A namespace takes what is
//! in it along.

use super::*;
use crate::{api::protobuf, store::StoreError};

/// The options of a delete: in the body, or in the query.
fn options(call: &Call, body: &Bytes) -> Result<Value> {
    let options = match content_type(call).as_str() {
        _ if body.is_empty() => json!({}),
        protobuf::PROTOBUF => protobuf::parse(body)?,
        _ => json::parse(body)?.0,
    };
    if !options.is_object() {
        return Err(Failure::bad_request("the body of a delete must be DeleteOptions"));
    }
    let policy = options["propagationPolicy"].as_str().unwrap_or_else(|| call.query.text("propagationPolicy"));
    // Nothing here owns anything, so every policy does the same; a wrong word is still a mistake.
    if !matches!(policy, "" | "Background" | "Foreground" | "Orphan") {
        return Err(Failure::bad_request(format!("{policy:?} is no value of propagationPolicy")));
    }
    Ok(options)
}

pub(super) async fn one(api: &Inner, call: &Call, body: &Bytes) -> Result<Response<Body>> {
    let options = options(call, body)?;
    let dry = dry_run(call, &options)?;
    let name = call.name.as_deref().unwrap_or_default();
    let form = negotiate(&call.headers, "")?;
    for _ in 0..ATTEMPTS {
        let record = read(api, call).await?;
        match remove(api, call.kind, &record, &options, dry).await {
            Ok(removed) => {
                let held = matches!(removed, Removed::Marked(_));
                let (Removed::Marked(object) | Removed::Gone(object)) = removed;
                if held || call.kind.returns_deleted() {
                    return Ok(json_response(StatusCode::OK, &form.one(call.kind, object, OffsetDateTime::now_utc())));
                }
                let mut details = json!({ "name": name, "kind": call.kind.plural, "uid": object["metadata"]["uid"] });
                if !call.kind.group.is_empty() {
                    details["group"] = call.kind.group.into();
                }
                let status = json!({ "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details });
                return Ok(json_response(StatusCode::OK, &status));
            }
            Err(Lost::Race) => {}
            Err(Lost::Failed(failure)) => return Err(failure),
        }
    }
    Err(Failure::stale(call.kind, name))
}

pub(super) async fn collection(api: &Inner, call: &Call, body: &Bytes) -> Result<Response<Body>> {
    if call.kind.namespaced != call.namespace.is_some() {
        return Err(Failure::method_not_allowed());
    }
    let options = options(call, body)?;
    let dry = dry_run(call, &options)?;
    let form = negotiate(&call.headers, call.query.text("includeObject"))?;
    let (objects, metadata) = list::read(api, call).await?;
    let mut removed = Vec::with_capacity(objects.len());
    for listed in objects {
        let key = key(call, object::name(&listed));
        for _ in 0..ATTEMPTS {
            let Some(record) = api.store.get(&key).await? else { break };
            match remove(api, call.kind, &record, &options, dry).await {
                Ok(Removed::Marked(object) | Removed::Gone(object)) => {
                    removed.push(object);
                    break;
                }
                Err(Lost::Race) => {}
                Err(Lost::Failed(failure)) => return Err(failure),
            }
        }
    }
    Ok(list::answer(call, form, removed, metadata))
}

enum Removed {
    /// Finalizers hold it.
    Marked(Value),
    Gone(Value),
}

enum Lost {
    /// Another writer came between: read again.
    Race,
    Failed(Failure),
}

impl From<Failure> for Lost {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

impl From<StoreError> for Lost {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Conflict { .. } => Self::Race,
            other => Self::Failed(other.into()),
        }
    }
}

async fn remove(
    api: &Inner,
    kind: &Kind,
    record: &Record,
    options: &Value,
    dry: bool,
) -> std::result::Result<Removed, Lost> {
    let mut object = object(kind, record);
    let name = object::name(&object).to_owned();
    let wanted = &options["preconditions"];
    for (field, found) in
        [("uid", &object["metadata"]["uid"]), ("resourceVersion", &object["metadata"]["resourceVersion"])]
    {
        if !wanted[field].is_null() && &wanted[field] != found {
            let why = format!(
                "Precondition failed: {field} in precondition: {}, {field} in object meta: {found}",
                wanted[field]
            );
            return Err(Failure::conflict(kind, &name, why).into());
        }
    }
    if kind.plural == "namespaces" && name == "default" {
        return Err(Failure::protected(kind, &name, "this namespace may not be deleted").into());
    }
    let held = object["metadata"]["finalizers"].as_array().is_some_and(|f| !f.is_empty());
    if held && object["metadata"].get("deletionTimestamp").is_some() {
        return Ok(Removed::Marked(object));
    }
    if held {
        object["metadata"]["deletionTimestamp"] = object::timestamp(OffsetDateTime::now_utc()).into();
        object["metadata"]["deletionGracePeriodSeconds"] = 0.into();
        if let Some(generation) = object["metadata"]["generation"].as_u64() {
            object["metadata"]["generation"] = (generation + 1).into();
        }
        if !dry {
            let value = Some(stored(object.clone()));
            let write = Write { key: record.key.clone(), expect: Expect::Revision(record.revision), value };
            let events = api.store.transact(vec![write]).await?;
            if let Some(after) = events.first().and_then(|e| e.after.as_ref()) {
                object["metadata"]["resourceVersion"] = after.revision.to_string().into();
            }
        }
        return Ok(Removed::Marked(object));
    }
    if dry {
        return Ok(Removed::Gone(object));
    }
    let mut writes = Vec::new();
    // Nothing is created meanwhile in a namespace that goes.
    let exclusive = if kind.plural == "namespaces" { Some(api.exclusive.lock().await) } else { None };
    if exclusive.is_some() {
        for kind in kinds::all().iter().filter(|k| k.namespaced && k.is_preferred()) {
            let scope = Scope { resource: kind.resource().into(), namespace: Some(name.as_str().into()) };
            let inside = api.store.list(&scope, None, 0, None).await?.items;
            writes.extend(inside.iter().map(|r| Write {
                key: r.key.clone(),
                expect: Expect::Revision(r.revision),
                value: None,
            }));
        }
    }
    writes.push(Write { key: record.key.clone(), expect: Expect::Revision(record.revision), value: None });
    api.store.transact(writes).await?;
    Ok(Removed::Gone(object))
}
