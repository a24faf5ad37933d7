//! Who may do what: the control plane as much as it needs and no more, and people by Kubernetes' own roles.

use serde_json::{Value, json};

use super::{labels, metadata, source::Source};
use crate::inject::webhook::CONFIGURATION;
use crate::kinds::{self, GATEWAY_GROUP, GROUP};

/// The control plane's ServiceAccount, roles and bindings.
pub(super) const NAME: &str = "weft-control";
const RBAC: &str = "rbac.authorization.k8s.io";
const READ: [&str; 3] = ["get", "list", "watch"];
const WRITE: [&str; 5] = ["create", "delete", "deletecollection", "patch", "update"];

fn rule(verbs: &[&str], group: &str, resources: &[&str]) -> Value {
    json!({ "apiGroups": [group], "resources": resources, "verbs": verbs })
}

fn named(verbs: &[&str], group: &str, resources: &[&str], name: &str) -> Value {
    json!({ "apiGroups": [group], "resources": resources, "resourceNames": [name], "verbs": verbs })
}

/// Kinds of Weft's own: `plurals(true)` those in namespaces.
fn plurals(namespaced: bool) -> Vec<&'static str> {
    let own = kinds::all().iter().filter(|kind| kind.group == GROUP && kind.namespaced == namespaced);
    own.map(|kind| kind.plural).collect()
}

fn everywhere() -> Vec<Value> {
    let own = [plurals(false), plurals(true)].concat();
    let with_status = kinds::all().iter().filter(|kind| kind.group == GROUP && kind.status);
    let status: Vec<String> = with_status.map(|kind| format!("{}/status", kind.plural)).collect();
    let status: Vec<&str> = status.iter().map(String::as_str).collect();
    let routes = ["grpcroutes", "httproutes", "tcproutes", "tlsroutes"];
    let gateway = [&routes[..], &["gatewayclasses", "gateways", "referencegrants"]].concat();
    let routes = routes.map(|route| format!("{route}/status"));
    vec![
        rule(&READ, "", &["namespaces", "nodes", "pods", "serviceaccounts", "services"]),
        rule(&READ, "discovery.k8s.io", &["endpointslices"]),
        rule(&READ, "networking.k8s.io", &["servicecidrs"]),
        rule(&READ, GATEWAY_GROUP, &gateway),
        rule(&["patch", "update"], GATEWAY_GROUP, &routes.each_ref().map(String::as_str)),
        rule(&READ, GROUP, &own),
        rule(&["patch", "update"], GROUP, &status),
        // Processes outside the cluster register themselves.
        rule(&["create", "delete", "patch", "update"], GROUP, &["workloads"]),
        rule(&["create", "get", "patch"], "", &["events"]),
        // What pods trust before they have a certificate. Creating cannot be bound to a name.
        rule(&["create"], "", &["configmaps"]),
        named(&["get", "list", "watch", "patch", "update"], "", &["configmaps"], crate::cluster::roots::CONFIG_MAP),
        rule(&["create"], "authentication.k8s.io", &["tokenreviews"]),
        rule(&["create"], "authorization.k8s.io", &["subjectaccessreviews"]),
        named(
            &["get", "list", "watch", "patch"],
            "admissionregistration.k8s.io",
            &["mutatingwebhookconfigurations"],
            CONFIGURATION,
        ),
    ]
}

fn at_home() -> Vec<Value> {
    vec![
        rule(&["get", "list", "watch", "create", "update", "patch", "delete"], "", &["secrets"]),
        rule(&["get", "list", "watch", "create", "update", "patch"], "coordination.k8s.io", &["leases"]),
    ]
}

/// What the control plane may do.
pub(super) fn control(source: &Source<'_>) -> Vec<Value> {
    let version = format!("{RBAC}/v1");
    let subject = json!({ "kind": "ServiceAccount", "name": NAME, "namespace": source.namespace() });
    let whole = json!({ "name": NAME, "labels": labels() });
    let of = |kind: &str| json!({ "apiGroup": RBAC, "kind": kind, "name": NAME });
    vec![
        json!({ "apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata(source, NAME) }),
        json!({ "apiVersion": version, "kind": "ClusterRole", "metadata": whole, "rules": everywhere() }),
        json!({ "apiVersion": version, "kind": "ClusterRoleBinding", "metadata": whole, "roleRef": of("ClusterRole"), "subjects": [subject] }),
        json!({ "apiVersion": version, "kind": "Role", "metadata": metadata(source, NAME), "rules": at_home() }),
        json!({ "apiVersion": version, "kind": "RoleBinding", "metadata": metadata(source, NAME), "roleRef": of("Role"), "subjects": [subject] }),
    ]
}

/// What people who may view, edit or administer a namespace may do with Weft's kinds in it, by roles that Kubernetes adds to its own.
pub(super) fn people() -> Vec<Value> {
    let role = |name: &str, into: &[&str], rules: Value| {
        let mut labels = labels();
        for larger in into {
            labels[format!("{RBAC}/aggregate-to-{larger}")] = "true".into();
        }
        json!({ "apiVersion": format!("{RBAC}/v1"), "kind": "ClusterRole", "metadata": { "name": name, "labels": labels }, "rules": rules })
    };
    let own = plurals(true);
    let all = [plurals(false), own.clone()].concat();
    let whole: Vec<&str> = READ.into_iter().chain(WRITE).collect();
    vec![
        role("weft-view", &["view", "edit", "admin"], json!([rule(&READ, GROUP, &all)])),
        role("weft-edit", &["edit", "admin"], json!([rule(&WRITE, GROUP, &own)])),
        // Whoever administers the mesh: also what is the whole mesh's. Bound to nobody.
        role("weft-admin", &[], json!([rule(&whole, GROUP, &all)])),
    ]
}
