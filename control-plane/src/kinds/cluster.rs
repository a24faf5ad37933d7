//! Kinds that a Kubernetes cluster has and a mesh outside one does not need. The embedded API serves them only where it stands for a cluster's
//! (`Settings::cluster` of [`crate::api`]): what reads a cluster can be tried without one.
//!
//! Their content is taken as it is: what is valid is the cluster's business.

use serde_json::{Value, json};

use super::{
    column,
    registry::{self, Kind, Naming},
};

/// A name of a kind, as `(group, version, kind, plural, singular, short names)`.
type Names = (&'static str, &'static str, &'static str, &'static str, &'static str, &'static [&'static str]);

/// The kinds, in the order of discovery.
pub(super) fn kinds() -> Vec<Kind> {
    let kind =
        |(group, version, kind, plural, singular, short_names): Names, namespaced, status, parts: &[&str]| Kind {
            group,
            version,
            kind,
            plural,
            singular,
            short_names,
            categories: &[],
            namespaced,
            status,
            builtin: true,
            of_cluster: true,
            naming: Naming::Subdomain,
            schema: open(parts, status),
            columns: column::age(),
            check: registry::nothing,
        };
    vec![
        kind(("", "v1", "Node", "nodes", "node", &["no"]), false, true, &["spec"]),
        kind(("", "v1", "Pod", "pods", "pod", &["po"]), true, true, &["spec"]),
        kind(
            (
                "admissionregistration.k8s.io",
                "v1",
                "MutatingWebhookConfiguration",
                "mutatingwebhookconfigurations",
                "mutatingwebhookconfiguration",
                &[],
            ),
            false,
            false,
            &["webhooks"],
        ),
        kind(
            (
                "apiextensions.k8s.io",
                "v1",
                "CustomResourceDefinition",
                "customresourcedefinitions",
                "customresourcedefinition",
                &["crd", "crds"],
            ),
            false,
            true,
            &["spec"],
        ),
        kind(("apps", "v1", "Deployment", "deployments", "deployment", &["deploy"]), true, true, &["spec"]),
        kind(("coordination.k8s.io", "v1", "Lease", "leases", "lease", &[]), true, false, &["spec"]),
        kind(("networking.k8s.io", "v1", "ServiceCIDR", "servicecidrs", "servicecidr", &[]), false, true, &["spec"]),
        kind(
            ("policy", "v1", "PodDisruptionBudget", "poddisruptionbudgets", "poddisruptionbudget", &["pdb"]),
            true,
            true,
            &["spec"],
        ),
    ]
}

fn open(parts: &[&str], status: bool) -> Value {
    let mut properties = json!({
        "apiVersion": { "type": "string", "description": "The group and version of the kind." },
        "kind": { "type": "string", "description": "What the object is." },
        "metadata": { "type": "object", "x-kubernetes-preserve-unknown-fields": true,
            "description": "Names, labels, annotations and the life of the object." },
    });
    for part in parts.iter().copied().chain(status.then_some("status")) {
        properties[part] = match part {
            "webhooks" => {
                json!({ "type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"],
                "x-kubernetes-patch-strategy": "merge", "x-kubernetes-patch-merge-key": "name",
                "items": { "type": "object", "x-kubernetes-preserve-unknown-fields": true } })
            }
            _ => json!({ "type": "object", "x-kubernetes-preserve-unknown-fields": true }),
        };
    }
    json!({ "type": "object", "properties": properties })
}
