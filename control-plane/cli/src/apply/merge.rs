//! The three-way merge of `apply`: what was applied last, what is there, what is wanted → a JSON merge patch (RFC 7386).
//!
//! Fields that others set stay; fields that we applied once and no longer want go. Lists are replaced whole. The record of
//! what was applied is kubectl's own annotation, so that both tools may take turns on the same object.

use serde_json::{Map, Value};

/// Where the last applied object is kept, as JSON.
pub const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// `wanted` with the record of itself in its annotations: what is sent to create it.
pub fn recorded(wanted: &Value) -> Value {
    let mut record = wanted.clone();
    if let Some(annotations) = record.pointer_mut("/metadata/annotations").and_then(Value::as_object_mut) {
        annotations.remove(LAST_APPLIED);
        if annotations.is_empty()
            && let Some(metadata) = record.get_mut("metadata").and_then(Value::as_object_mut)
        {
            metadata.remove("annotations");
        }
    }
    let text = format!("{record}\n");
    let mut sent = record;
    if let Some(metadata) = sent.get_mut("metadata").and_then(Value::as_object_mut) {
        let annotations = metadata.entry("annotations").or_insert_with(|| Value::Object(Map::new()));
        if let Some(annotations) = annotations.as_object_mut() {
            annotations.insert(LAST_APPLIED.into(), Value::String(text));
        }
    }
    sent
}

/// The patch that makes `live` what `wanted` says. Empty: nothing to do.
pub fn patch(live: &Value, wanted: &Value) -> Value {
    let last: Value = live
        .pointer("/metadata/annotations")
        .and_then(|annotations| annotations.get(LAST_APPLIED))
        .and_then(Value::as_str)
        .and_then(|text| serde_json::from_str(text).ok())
        .unwrap_or(Value::Null);
    let mut patch = difference(&last, live, &recorded(wanted));
    // Defaults that a server fills in make the record differ in nothing but itself: that is no change.
    if let Some(object) = patch.as_object()
        && only_the_record(object)
        && last == strip(wanted)
    {
        patch = Value::Object(Map::new());
    }
    patch
}

fn only_the_record(patch: &Map<String, Value>) -> bool {
    patch.len() == 1
        && patch.get("metadata").and_then(Value::as_object).is_some_and(|metadata| {
            metadata.len() == 1
                && metadata
                    .get("annotations")
                    .and_then(Value::as_object)
                    .is_some_and(|annotations| annotations.len() == 1 && annotations.contains_key(LAST_APPLIED))
        })
}

fn strip(wanted: &Value) -> Value {
    let sent = recorded(wanted);
    sent.pointer("/metadata/annotations")
        .and_then(|annotations| annotations.get(LAST_APPLIED))
        .and_then(Value::as_str)
        .and_then(|text| serde_json::from_str(text).ok())
        .unwrap_or(Value::Null)
}

fn difference(last: &Value, live: &Value, wanted: &Value) -> Value {
    let (Some(wanted), Some(live)) = (wanted.as_object(), live.as_object()) else { return wanted.clone() };
    let mut patch = Map::new();
    for (key, want) in wanted {
        let have = live.get(key);
        match have {
            Some(have) if have == want => {}
            Some(have) if have.is_object() && want.is_object() => {
                let inner = difference(last.get(key).unwrap_or(&Value::Null), have, want);
                if inner.as_object().is_some_and(|inner| !inner.is_empty()) {
                    patch.insert(key.clone(), inner);
                }
            }
            // What is already as the person left it but for what the server filled into a list's entries is left alone.
            Some(have) if last.get(key) == Some(want) && covers(have, want) => {}
            None if want.is_null() => {}
            _ => {
                patch.insert(key.clone(), want.clone());
            }
        }
    }
    if let Some(last) = last.as_object() {
        for key in last.keys().filter(|key| !wanted.contains_key(*key) && live.contains_key(*key)) {
            patch.insert(key.clone(), Value::Null);
        }
    }
    Value::Object(patch)
}

/// Whether `have` says everything that `want` says, and maybe more.
fn covers(have: &Value, want: &Value) -> bool {
    match (have, want) {
        (Value::Object(have), Value::Object(want)) => {
            want.iter().all(|(key, want)| have.get(key).is_some_and(|have| covers(have, want)))
        }
        (Value::Array(have), Value::Array(want)) => {
            have.len() == want.len() && have.iter().zip(want).all(|(have, want)| covers(have, want))
        }
        _ => have == want,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn object(spec: Value) -> Value {
        json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "cart"}, "spec": spec})
    }

    fn live(applied: &Value, also: impl FnOnce(&mut Value)) -> Value {
        let mut live = recorded(applied);
        also(&mut live);
        live
    }

    #[test]
    fn the_same_again_changes_nothing() {
        let wanted = object(json!({"ports": [{"port": 80}]}));
        let live = live(&wanted, |live| {
            live["spec"]["clusterIP"] = json!("198.18.0.7");
            live["spec"]["ports"][0]["protocol"] = json!("TCP");
            live["metadata"]["resourceVersion"] = json!("7");
        });
        assert_eq!(patch(&live, &wanted), json!({}));
    }

    #[test]
    fn what_we_no_longer_want_goes_and_what_others_set_stays() {
        let before = object(json!({"type": "ClusterIP", "sessionAffinity": "None"}));
        let after = object(json!({"type": "ClusterIP"}));
        let live = live(&before, |live| live["spec"]["clusterIP"] = json!("198.18.0.7"));
        let patch = patch(&live, &after);
        assert_eq!(patch["spec"], json!({"sessionAffinity": null}));
        assert!(patch["metadata"]["annotations"][LAST_APPLIED].is_string());
    }

    #[test]
    fn a_list_is_replaced_whole() {
        let before = object(json!({"ports": [{"port": 80}]}));
        let after = object(json!({"ports": [{"port": 81}]}));
        assert_eq!(patch(&live(&before, |_| {}), &after)["spec"]["ports"], json!([{"port": 81}]));
    }

    #[test]
    fn an_object_that_was_never_applied_is_adopted() {
        let wanted = object(json!({"type": "ClusterIP"}));
        let patch = patch(&wanted, &wanted);
        assert_eq!(patch.as_object().unwrap().len(), 1);
        assert!(patch["metadata"]["annotations"][LAST_APPLIED].is_string());
    }

    #[test]
    fn a_drifted_list_is_put_right() {
        let wanted = object(json!({"ports": [{"port": 80}]}));
        let live = live(&wanted, |live| live["spec"]["ports"] = json!([{"port": 90}]));
        assert_eq!(patch(&live, &wanted)["spec"]["ports"], json!([{"port": 80}]));
    }
}
