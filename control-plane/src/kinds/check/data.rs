//! ConfigMap, Secret and Event, and what of an object may not change once it is there.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::Value;

use super::{Findings, has, text};
use crate::kinds::Kind;

/// Bytes of all values of one object, as Kubernetes has it.
const MAX_DATA: usize = 1 << 20;

fn is_key(key: &str) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b);
    (1..=253).contains(&key.len()) && key.bytes().all(plain) && key != "." && !key.starts_with("..")
}

/// Keys that can be names of files, and the size of all together.
fn keys(object: &Value, fields: &[&str], findings: &mut Findings) {
    let mut size = 0;
    for field in fields {
        for (key, value) in object[field].as_object().into_iter().flatten() {
            if !is_key(key) {
                let why = "a valid config key must consist of alphanumeric characters, '-', '_' or '.'";
                findings.invalid(format!("{field}[{key}]"), &Value::from(key.as_str()), why);
            }
            size += value.as_str().map_or(0, str::len);
        }
    }
    if size > MAX_DATA {
        findings.too_long(
            fields.first().copied().unwrap_or_default(),
            format_args!("Too long: may not be more than {MAX_DATA} bytes"),
        );
    }
}

fn base64(object: &Value, field: &str, findings: &mut Findings) {
    for (key, value) in object[field].as_object().into_iter().flatten() {
        if STANDARD.decode(value.as_str().unwrap_or_default()).is_err() {
            findings.invalid(
                format!("{field}[{key}]"),
                &Value::from("<hidden>"),
                "must be base64 (RFC 4648 section 4)",
            );
        }
    }
}

/// Texts and bytes, each key once.
pub fn config_map(object: &Value, findings: &mut Findings) {
    keys(object, &["data", "binaryData"], findings);
    base64(object, "binaryData", findings);
    for key in object["binaryData"].as_object().into_iter().flatten().map(|(key, _)| key) {
        if object["data"].get(key).is_some() {
            findings.invalid(format!("data[{key}]"), &Value::from(key.as_str()), "is a key of binaryData too");
        }
    }
}

/// Values in base64, none of which is ever told; a certificate comes with its key.
pub fn secret(object: &Value, findings: &mut Findings) {
    keys(object, &["data"], findings);
    base64(object, "data", findings);
    if text(object, "type") == "kubernetes.io/tls" {
        for key in ["tls.crt", "tls.key"] {
            if !has(&object["data"], key) {
                findings.required(format!("data[{key}]"), "type kubernetes.io/tls needs it");
            }
        }
    }
}

/// It is where the object is that it is about; what has no namespace is told of in `default`.
pub fn event(object: &Value, findings: &mut Findings) {
    let about = text(&object["involvedObject"], "namespace");
    let here = text(&object["metadata"], "namespace");
    if !(about == here || about.is_empty() && here == "default") {
        findings.invalid(
            "involvedObject.namespace",
            &object["involvedObject"]["namespace"],
            "does not match event.namespace",
        );
    }
}

/// Fields that an object keeps as long as it lives.
pub fn change(kind: &Kind, old: &Value, new: &Value, findings: &mut Findings) {
    let fixed: &[&str] = match (kind.group, kind.plural) {
        ("", "secrets") => &["/type"],
        ("discovery.k8s.io", "endpointslices") => &["/addressType"],
        ("gateway.networking.k8s.io", "gatewayclasses") => &["/spec/controllerName"],
        _ => &[],
    };
    for pointer in fixed {
        let (was, is) = (old.pointer(pointer), new.pointer(pointer));
        if was != is {
            let field = pointer.trim_start_matches('/').replace('/', ".");
            findings.invalid(field, is.unwrap_or(&Value::Null), "field is immutable");
        }
    }
    if kind.group.is_empty() && matches!(kind.plural, "secrets" | "configmaps") && old["immutable"] == true {
        for field in ["data", "binaryData", "immutable"] {
            if old[field] != new[field] {
                findings.forbidden(field, "field is immutable when `immutable` is set");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds;
    use serde_json::json;

    fn fields(check: fn(&Value, &mut Findings), object: &Value) -> Vec<String> {
        let mut findings = Findings::default();
        check(object, &mut findings);
        findings.0.into_iter().map(|cause| cause.field).collect()
    }

    #[test]
    fn keys_and_values_of_data_are_judged_and_secrets_not_told() {
        assert_eq!(fields(config_map, &json!({"data": {"a.yaml": "x"}, "binaryData": {"b": "AA=="}})), [""; 0]);
        assert_eq!(
            fields(config_map, &json!({"data": {"a/b": "", "b": ""}, "binaryData": {"b": "A"}})),
            ["data[a/b]", "binaryData[b]", "data[b]"]
        );
        let mut findings = Findings::default();
        secret(&json!({"type": "kubernetes.io/tls", "data": {"tls.crt": "hunter2!"}}), &mut findings);
        assert_eq!(findings.0.iter().map(|c| c.field.as_str()).collect::<Vec<_>>(), ["data[tls.crt]", "data[tls.key]"]);
        assert!(findings.0.iter().all(|c| !c.message.contains("hunter2")), "{findings:?}");
        let large = json!({"data": {"a": "x".repeat(MAX_DATA + 1)}});
        assert_eq!(fields(config_map, &large), ["data"]);
    }

    #[test]
    fn an_event_is_where_its_object_is() {
        let event_of = |about: &str, here: &str| {
            fields(event, &json!({"metadata": {"namespace": here}, "involvedObject": {"namespace": about}}))
        };
        assert!(event_of("shop", "shop").is_empty() && event_of("", "default").is_empty());
        assert_eq!(event_of("shop", "other"), ["involvedObject.namespace"]);
    }

    #[test]
    fn what_may_not_change_is_named() {
        let changed = |plural: &str, old: Value, new: Value| {
            let kind = kinds::all().iter().find(|k| k.plural == plural).unwrap();
            let mut findings = Findings::default();
            change(kind, &old, &new, &mut findings);
            findings.0.into_iter().map(|cause| cause.field).collect::<Vec<_>>()
        };
        assert_eq!(changed("secrets", json!({"type": "Opaque"}), json!({"type": "x"})), ["type"]);
        let kept = json!({"immutable": true, "data": {"a": "b"}});
        assert_eq!(changed("configmaps", kept.clone(), json!({"data": {"a": "c"}})), ["data", "immutable"]);
        assert_eq!(changed("configmaps", kept.clone(), kept), [""; 0]);
        let class = |name: &str| json!({"spec": {"controllerName": name}});
        assert_eq!(changed("gatewayclasses", class("a/b"), class("a/c")), ["spec.controllerName"]);
        assert_eq!(changed("services", class("a/b"), class("a/c")), [""; 0]);
    }
}
