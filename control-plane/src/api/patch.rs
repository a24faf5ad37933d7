//! The three ways in which a client says what should change: JSON patch (RFC 6902), merge patch (RFC 7396), and Kubernetes' strategic
//! merge, which knows from the schema which lists merge by which key.
//!
//! Pure functions from a document and a patch to a document. Server-side apply, which needs to know who owns
//! what, is in `apply`.

use serde_json::{Map, Value};

use super::failure::{Failure, Result};

/// Operations of one JSON patch: more is refused, as Kubernetes does.
const MAX_OPERATIONS: usize = 10_000;

/// RFC 6902.
pub(super) fn json_patch(target: &mut Value, patch: Value) -> Result<()> {
    if patch.as_array().is_some_and(|a| a.len() > MAX_OPERATIONS) {
        return Err(Failure::bad_request(format!("a JSON patch may have at most {MAX_OPERATIONS} operations")));
    }
    let patch: json_patch::Patch =
        serde_json::from_value(patch).map_err(|e| Failure::bad_request(format!("the body is no JSON patch: {e}")))?;
    json_patch::patch(target, &patch).map_err(|e| Failure::bad_request(format!("the JSON patch does not apply: {e}")))
}

/// RFC 7396.
pub(super) fn merge_patch(target: &mut Value, patch: &Value) {
    json_patch::merge(target, patch);
}

const DIRECTIVE: &str = "$patch";
const RETAIN: &str = "$retainKeys";
const ORDER: &str = "$setElementOrder/";
const DELETE: &str = "$deleteFromPrimitiveList/";

/// Kubernetes' strategic merge of an object, along its schema.
pub(super) fn strategic(schema: &Value, target: &mut Map<String, Value>, patch: &Map<String, Value>) -> Result<()> {
    match patch.get(DIRECTIVE).and_then(Value::as_str) {
        Some("replace") => {
            target.clear();
            target.extend(patch.iter().filter(|(k, _)| *k != DIRECTIVE).map(|(k, v)| (k.clone(), v.clone())));
            return Ok(());
        }
        Some("delete") => {
            target.clear();
            return Ok(());
        }
        Some("merge") | None => {}
        Some(other) => return Err(Failure::bad_request(format!("{other:?} is no $patch directive"))),
    }
    if let Some(kept) = patch.get(RETAIN).and_then(Value::as_array) {
        target.retain(|key, _| kept.iter().any(|k| k == key));
    }
    for (key, value) in patch {
        if let Some(list) = key.strip_prefix(DELETE) {
            if let (Some(Value::Array(present)), Some(gone)) = (target.get_mut(list), value.as_array()) {
                present.retain(|v| !gone.contains(v));
            }
            continue;
        }
        if key.starts_with('$') {
            continue;
        }
        let schema = property(schema, key);
        match value {
            Value::Null => drop(target.remove(key)),
            Value::Object(patch) => {
                let slot = target.entry(key.clone()).or_insert_with(|| Value::Object(Map::new()));
                if !slot.is_object() {
                    *slot = Value::Object(Map::new());
                }
                if let Value::Object(slot) = slot {
                    let deleted = patch.get(DIRECTIVE).is_some_and(|d| d == "delete");
                    strategic(schema, slot, patch)?;
                    if deleted {
                        target.remove(key);
                    }
                }
            }
            Value::Array(patch) => {
                let present = target.remove(key).unwrap_or_default();
                let present = if let Value::Array(list) = present { list } else { Vec::new() };
                target.insert(key.clone(), Value::Array(list(schema, present, patch)?));
            }
            scalar => drop(target.insert(key.clone(), scalar.clone())),
        }
    }
    for (key, order) in patch {
        if let (Some(name), Some(order)) = (key.strip_prefix(ORDER), order.as_array())
            && let Some(Value::Array(list)) = target.get_mut(name)
        {
            reorder(property(schema, name), list, order);
        }
    }
    Ok(())
}

fn property<'s>(schema: &'s Value, key: &str) -> &'s Value {
    match &schema["properties"][key] {
        Value::Null => &schema["additionalProperties"],
        known => known,
    }
}

fn list(schema: &Value, mut present: Vec<Value>, patch: &[Value]) -> Result<Vec<Value>> {
    let merges = schema["x-kubernetes-patch-strategy"].as_str().is_some_and(|s| s.split(',').any(|s| s == "merge"));
    if !merges {
        return Ok(patch.to_vec());
    }
    let Some(key) = schema["x-kubernetes-patch-merge-key"].as_str() else {
        for value in patch {
            if !present.contains(value) {
                present.push(value.clone());
            }
        }
        return Ok(present);
    };
    if patch.iter().any(|v| v[DIRECTIVE] == "replace") {
        return Ok(patch.iter().filter(|v| v[DIRECTIVE] != "replace").cloned().collect());
    }
    for value in patch {
        let Value::Object(entry) = value else {
            return Err(Failure::bad_request(format!("entries of a list merged by {key:?} must be objects")));
        };
        let Some(identity) = entry.get(key) else {
            return Err(Failure::bad_request(format!("map: {value} does not contain declared merge key: {key}")));
        };
        if entry.get(DIRECTIVE).is_some_and(|d| d == "delete") {
            present.retain(|p| p.get(key) != Some(identity));
            continue;
        }
        let known = present.iter_mut().find(|p| p.get(key) == Some(identity));
        match known {
            Some(Value::Object(known)) => strategic(&schema["items"], known, entry)?,
            _ => {
                let mut new = Map::new();
                strategic(&schema["items"], &mut new, entry)?;
                present.push(Value::Object(new));
            }
        }
    }
    Ok(present)
}

/// Entries that the order names come in that order; the others keep their place behind the entry before them.
fn reorder(schema: &Value, list: &mut Vec<Value>, order: &[Value]) {
    let key = schema["x-kubernetes-patch-merge-key"].as_str();
    let place = |value: &Value| match key {
        Some(key) => order.iter().position(|o| o.get(key) == value.get(key)),
        None => order.iter().position(|o| o == value),
    };
    let mut rank = 0;
    let mut ranked: Vec<(usize, Value)> = Vec::with_capacity(list.len());
    for value in list.drain(..) {
        rank = place(&value).map_or(rank, |p| p + 1);
        ranked.push((rank, value));
    }
    ranked.sort_by_key(|(rank, _)| *rank);
    list.extend(ranked.into_iter().map(|(_, value)| value));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds;
    use serde_json::json;

    fn patched(mut target: Value, patch: &Value) -> Value {
        let schema = &kinds::find("", "v1", "services").unwrap().schema;
        strategic(schema, target.as_object_mut().unwrap(), patch.as_object().unwrap()).unwrap();
        target
    }

    #[test]
    fn ports_merge_by_their_number() {
        let service = json!({"spec": {"ports": [{"port": 80, "name": "http"}, {"port": 443, "name": "https"}]}});
        let patch = json!({"spec": {
            "$setElementOrder/ports": [{"port": 9090}, {"port": 80}],
            "ports": [{"port": 80, "targetPort": 8080}, {"port": 443, "$patch": "delete"}, {"port": 9090, "name": "metrics"}]}});
        let ports = json!([{"port": 9090, "name": "metrics"}, {"port": 80, "name": "http", "targetPort": 8080}]);
        assert_eq!(patched(service, &patch)["spec"]["ports"], ports);
    }

    #[test]
    fn other_lists_are_replaced_and_nulls_delete() {
        let service = json!({"metadata": {"labels": {"a": "1", "b": "2"}}, "spec": {"externalIPs": ["192.0.2.1"], "type": "ClusterIP"}});
        let patch = json!({"metadata": {"labels": {"a": null, "c": "3"}}, "spec": {"externalIPs": ["192.0.2.2"], "type": null}});
        assert_eq!(
            patched(service, &patch),
            json!({"metadata": {"labels": {"b": "2", "c": "3"}}, "spec": {"externalIPs": ["192.0.2.2"]}})
        );
    }

    #[test]
    fn directives_replace_delete_and_retain() {
        let service = json!({"spec": {"selector": {"a": "1"}, "ports": [{"port": 80}], "type": "ClusterIP"}});
        let patch = json!({"spec": {"selector": {"$patch": "replace", "b": "2"}, "ports": [{"$patch": "replace"}, {"port": 81}]}});
        let replaced = patched(service.clone(), &patch);
        assert_eq!(replaced["spec"], json!({"selector": {"b": "2"}, "ports": [{"port": 81}], "type": "ClusterIP"}));
        let retained = patched(service.clone(), &json!({"spec": {"$retainKeys": ["type"], "type": "ExternalName"}}));
        assert_eq!(retained["spec"], json!({"type": "ExternalName"}));
        assert_eq!(patched(service, &json!({"spec": {"$patch": "delete"}})), json!({}));
    }

    #[test]
    fn an_entry_without_its_merge_key_is_refused() {
        let schema = &kinds::find("", "v1", "services").unwrap().schema;
        let patch = json!({"spec": {"ports": [{"name": "http"}]}});
        assert!(strategic(schema, &mut Map::new(), patch.as_object().unwrap()).is_err());
    }

    #[test]
    fn a_json_patch_that_does_not_apply_is_refused() {
        let mut target = json!({"spec": {"a": 1}});
        assert!(json_patch(&mut target, json!([{"op": "test", "path": "/spec/a", "value": 2}])).is_err());
        assert!(json_patch(&mut target, json!([{"op": "remove", "path": "/spec/b"}])).is_err());
        json_patch(&mut target, json!([{"op": "add", "path": "/spec/b", "value": 2}])).unwrap();
        assert_eq!(target, json!({"spec": {"a": 1, "b": 2}}));
    }
}
