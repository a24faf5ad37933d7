//! Where pods are in objects that make pods.

use serde_json::Value;

/// The pod, or a template of pods, in an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template {
    /// Its place as a JSON pointer (RFC 6901): empty for a Pod itself, `/spec/template` for a Deployment.
    pub pointer: String,
    /// `Deployment/cart`, for messages.
    pub of: String,
    /// The namespace that the object names.
    pub namespace: Option<String>,
}

/// The pods of an object, those of a List's items too; none for objects that make no pods.
#[must_use]
pub fn templates(object: &Value) -> Vec<Template> {
    let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str);
    let (Some(kind), version) = (text("/kind"), text("/apiVersion").unwrap_or_default()) else { return Vec::new() };
    if kind == "List" && version == "v1" {
        let items = object.get("items").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
        let inside = |(i, item): (usize, &Value)| {
            templates(item).into_iter().map(move |t| Template { pointer: format!("/items/{i}{}", t.pointer), ..t })
        };
        return items.iter().enumerate().flat_map(inside.to_owned()).collect();
    }
    let group = version.split_once('/').map_or("", |(group, _)| group);
    let pointer = match (group, kind) {
        ("", "Pod") => "",
        ("", "PodTemplate") => "/template",
        ("", "ReplicationController")
        | ("apps", "Deployment" | "StatefulSet" | "DaemonSet" | "ReplicaSet")
        | ("batch", "Job")
        | ("argoproj.io", "Rollout") => "/spec/template",
        ("batch", "CronJob") => "/spec/jobTemplate/spec/template",
        _ => return Vec::new(),
    };
    let name = ["/metadata/name", "/metadata/generateName"].into_iter().find_map(text).unwrap_or("?");
    let namespace = text("/metadata/namespace").map(str::to_owned);
    vec![Template { pointer: pointer.into(), of: format!("{kind}/{name}"), namespace }]
}
