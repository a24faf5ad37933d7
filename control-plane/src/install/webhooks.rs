//! Which pods an API server asks the control plane about: those of namespaces that say so, and those that say so themselves.

use serde_json::{Value, json};

use super::{labels, source::Source};
use crate::inject::{REVISION, WISH, webhook};

/// Namespaces that are never asked about: the cluster's own, without which nothing could be mended.
const SPARED: [&str; 2] = ["kube-node-lease", "kube-system"];

fn of(key: &str, operator: &str, values: &[&str]) -> Value {
    match values {
        [] => json!({ "key": key, "operator": operator }),
        values => json!({ "key": key, "operator": operator, "values": values }),
    }
}

/// The configuration. Who is believed (`caBundle`) the control plane writes into it, and keeps there.
pub(super) fn configuration(source: &Source<'_>) -> Value {
    let revision = source.text("revision");
    let chosen = of(REVISION, "In", &[&revision]);
    let unsaid = of(REVISION, "DoesNotExist", &[]);
    let both = vec![
        webhook(source, "namespaces.injector.weft.mesh", namespaces(), &chosen),
        webhook(source, "pods.injector.weft.mesh", pods(), &chosen),
    ];
    // Of a namespace that names no revision.
    let others = vec![
        webhook(source, "namespaces-by-default.injector.weft.mesh", namespaces(), &unsaid),
        webhook(source, "pods-by-default.injector.weft.mesh", pods(), &unsaid),
    ];
    json!({
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "MutatingWebhookConfiguration",
        "metadata": { "name": webhook::CONFIGURATION, "labels": labels() },
        "webhooks": source.and_if(both, ("revision", "default"), others),
    })
}

/// Every pod of a namespace that says `enabled`, but for those that say `disabled`: selectors of namespaces and of pods.
fn namespaces() -> (Value, Value) {
    (of(WISH, "In", &["enabled"]), of(WISH, "NotIn", &["disabled", "false"]))
}

/// Pods that say `enabled`, wherever their namespace does not.
fn pods() -> (Value, Value) {
    (of(WISH, "NotIn", &["enabled"]), of(WISH, "In", &["enabled", "true"]))
}

fn webhook(source: &Source<'_>, name: &str, (namespace, pod): (Value, Value), revision: &Value) -> Value {
    let own = source.namespace();
    let spared = of("kubernetes.io/metadata.name", "NotIn", &[SPARED[0], SPARED[1], &own]);
    json!({
        "name": name,
        "admissionReviewVersions": ["v1"],
        "clientConfig": {
            "service": { "name": webhook::SERVICE, "namespace": own, "path": "/inject", "port": 443 },
        },
        "rules": [{
            "apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["pods"], "scope": "Namespaced",
        }],
        "namespaceSelector": { "matchExpressions": [namespace, revision, spared] },
        "objectSelector": { "matchExpressions": [pod] },
        "failurePolicy": source.text("webhook.failurePolicy"),
        "matchPolicy": "Equivalent",
        // What another webhook adds later has its probes asked through the sidecar too.
        "reinvocationPolicy": "IfNeeded",
        "sideEffects": "None",
        "timeoutSeconds": source.plain("webhook.timeoutSeconds"),
    })
}
