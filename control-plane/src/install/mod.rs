//! What a Kubernetes cluster needs so that Weft runs in it, as manifests (`weft install`) and as a Helm chart of the same manifests.
//!
//! The manifests are written once, over a [`Source`]: of values it makes the manifests that these values mean, for a chart it puts the
//! chart's expressions where values would stand. So the two cannot differ. Nothing here asks a cluster or writes a file.

mod chart;
mod control;
mod rights;
mod source;
mod values;
mod webhooks;

pub use chart::chart;
pub use values::{Problem, Values, keys};

use serde_json::{Value, json};
use source::Source;

use crate::kinds::definition;

/// Where Weft is installed unless somebody says otherwise.
pub const NAMESPACE: &str = "weft-system";

/// Objects that belong together, and the chart's file that they are in.
struct Part {
    file: &'static str,
    objects: Vec<Value>,
}

/// Everything but the definitions of kinds and the namespace, in the order in which it is to be made.
fn parts(source: &Source<'_>) -> Vec<Part> {
    vec![
        Part { file: "rights", objects: rights::control(source) },
        Part { file: "roles", objects: rights::people() },
        Part { file: "injection", objects: vec![control::injection(source)] },
        Part { file: "service", objects: vec![control::service(source)] },
        Part { file: "control-plane", objects: vec![control::deployment(source), control::disruption(source)] },
        Part { file: "webhook", objects: vec![webhooks::configuration(source)] },
    ]
}

/// Everything but the definitions of kinds, in the order in which it is to be made: the namespace first, what asks for an answer of the
/// control plane last.
#[must_use]
pub fn manifests(values: &Values, namespace: &str) -> Vec<Value> {
    let source = Source::values(values, namespace);
    let mut all = vec![self::namespace(namespace)];
    all.extend(parts(&source).into_iter().flat_map(|part| part.objects));
    all
}

/// The definitions of kinds.
#[must_use]
pub fn definitions() -> Vec<Value> {
    definition::all()
}

/// The namespace itself. Nothing in it is injected.
fn namespace(name: &str) -> Value {
    let mut labels = labels();
    labels["weft.mesh/inject"] = "disabled".into();
    // What the control plane's pods keep to.
    labels["pod-security.kubernetes.io/enforce"] = "restricted".into();
    json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": name, "labels": labels } })
}

/// Labels of every object.
fn labels() -> Value {
    json!({ "app.kubernetes.io/name": "weft", "app.kubernetes.io/part-of": "weft" })
}

/// Name, namespace and labels of an object.
fn metadata(source: &Source<'_>, name: &str) -> Value {
    json!({ "name": name, "namespace": source.namespace(), "labels": labels() })
}
