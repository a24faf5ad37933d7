//! The roles that there are from the first start, named as Kubernetes names them, and whom they are bound to. What a start finds of them stays;
//! rules that are missing are added, unless the object says `rbac.authorization.kubernetes.io/autoupdate: "false"`.

use serde_json::{Value, json};

use crate::kinds::{GATEWAY_GROUP, GROUP, RBAC_GROUP};

/// The annotation by which an object says whether a start may mend it.
pub const AUTO_UPDATE: &str = "rbac.authorization.kubernetes.io/autoupdate";
/// Annotations and labels that say why an object is there.
const BOOTSTRAPPING: (&str, &str) = ("kubernetes.io/bootstrapping", "rbac-defaults");

const READ: [&str; 3] = ["get", "list", "watch"];
const WRITE: [&str; 5] = ["create", "delete", "deletecollection", "patch", "update"];
/// What people write in a namespace.
const WEFT: [&str; 6] = [
    "authorizationpolicies",
    "meshtlses",
    "ratelimitpolicies",
    "requestauthentications",
    "trafficpolicies",
    "workloads",
];
const ROUTES: [&str; 6] = ["gateways", "grpcroutes", "httproutes", "referencegrants", "tcproutes", "tlsroutes"];

fn rule(verbs: &[&str], group: &str, resources: &[&str]) -> Value {
    json!({ "verbs": verbs, "apiGroups": [group], "resources": resources })
}

/// The resources with their `status`.
fn with_status(resources: &[&str]) -> Vec<String> {
    resources.iter().flat_map(|one| [(*one).to_owned(), format!("{one}/status")]).collect()
}

fn view() -> Vec<Value> {
    vec![
        rule(&READ, "", &["namespaces", "namespaces/status", "serviceaccounts", "services", "services/status"]),
        // Secrets are for those who may write them.
        rule(&READ, "", &["configmaps", "events"]),
        rule(&READ, GATEWAY_GROUP, &["gatewayclasses"]),
        rule(&READ, "discovery.k8s.io", &["endpointslices"]),
        json!({ "verbs": READ, "apiGroups": [GATEWAY_GROUP], "resources": with_status(&ROUTES) }),
        json!({ "verbs": READ, "apiGroups": [GROUP], "resources": with_status(&WEFT) }),
        rule(&READ, GROUP, &["federatedtrustdomains", "meshsettings", "meshsettings/status"]),
    ]
}

fn edit() -> Vec<Value> {
    vec![
        rule(&WRITE, "", &["configmaps", "serviceaccounts", "services"]),
        rule(&READ, "", &["secrets"]),
        rule(&WRITE, "", &["secrets"]),
        rule(&["create"], "", &["serviceaccounts/token"]),
        rule(&["impersonate"], "", &["serviceaccounts"]),
        rule(&WRITE, "discovery.k8s.io", &["endpointslices"]),
        rule(&WRITE, GATEWAY_GROUP, &ROUTES),
        rule(&WRITE, GROUP, &WEFT),
    ]
    .into_iter()
    .chain(foresee())
    .collect()
}

/// Whoever may change something may know beforehand what that does.
pub fn foresee() -> Vec<Value> {
    vec![rule(&["create"], GROUP, &["plans"])]
}

/// Seeing what the mesh does.
pub fn observe() -> Vec<Value> {
    vec![
        rule(&["get"], GROUP, &["checks", "stats", "workloads/config", "workloads/stats"]),
        rule(&["list"], GROUP, &["sidecars"]),
        rule(&["create"], GROUP, &["explanations"]),
    ]
}

fn admin() -> Vec<Value> {
    let everything: Vec<&str> = READ.into_iter().chain(WRITE).collect();
    vec![
        rule(&everything, RBAC_GROUP, &["rolebindings", "roles"]),
        rule(&["create"], "authorization.k8s.io", &["localsubjectaccessreviews"]),
    ]
    .into_iter()
    .chain(operate())
    .collect()
}

/// Reaching into sidecars, and letting others join.
pub fn operate() -> Vec<Value> {
    vec![
        rule(&["update"], GROUP, &["workloads/log"]),
        // It shows paths and headers of people's calls: more than figures, and more than a configuration.
        rule(&["get"], GROUP, &["workloads/tap"]),
        rule(&["create"], GROUP, &["workloads/drain"]),
        rule(&["create", "delete", "list"], GROUP, &["jointokens"]),
    ]
}

fn role(name: &str, rules: Vec<Value>) -> Value {
    json!({
        "apiVersion": format!("{RBAC_GROUP}/v1"), "kind": "ClusterRole",
        "metadata": {
            "name": name,
            "annotations": { AUTO_UPDATE: "true" },
            "labels": { BOOTSTRAPPING.0: BOOTSTRAPPING.1 },
        },
        "rules": rules,
    })
}

/// A role that takes in those which are labelled for it, and is labelled for the next larger one.
fn aggregating(name: &str, into: &[&str], rules: Vec<Value>) -> Value {
    let mut role = role(name, rules);
    let label = |name: &str| format!("{RBAC_GROUP}/aggregate-to-{name}");
    role["aggregationRule"] = json!({ "clusterRoleSelectors": [{ "matchLabels": { label(name): "true" } }] });
    for larger in into {
        role["metadata"]["labels"][label(larger)] = "true".into();
    }
    role
}

fn binding(name: &str, group: &str) -> Value {
    json!({
        "apiVersion": format!("{RBAC_GROUP}/v1"), "kind": "ClusterRoleBinding",
        "metadata": {
            "name": name,
            "annotations": { AUTO_UPDATE: "true" },
            "labels": { BOOTSTRAPPING.0: BOOTSTRAPPING.1 },
        },
        "roleRef": { "apiGroup": RBAC_GROUP, "kind": "ClusterRole", "name": name },
        "subjects": [{ "apiGroup": RBAC_GROUP, "kind": "Group", "name": group }],
    })
}

/// The ClusterRoles.
#[must_use]
pub fn cluster_roles() -> Vec<Value> {
    let paths = [
        "/api",
        "/api/*",
        "/apis",
        "/apis/*",
        "/healthz",
        "/livez",
        "/openapi",
        "/openapi/*",
        "/readyz",
        "/version",
        "/version/",
        "/",
    ];
    let all = ["*"];
    vec![
        role("cluster-admin", vec![rule(&all, "*", &all), json!({ "verbs": all, "nonResourceURLs": all })]),
        aggregating("admin", &[], [view(), edit(), observe(), admin()].concat()),
        aggregating("edit", &["admin"], [view(), edit()].concat()),
        aggregating("view", &["edit", "weft-observer"], view()),
        aggregating("weft-observer", &["admin"], [view(), observe()].concat()),
        role("system:discovery", vec![json!({ "verbs": ["get"], "nonResourceURLs": paths })]),
        role(
            "system:auth-delegator",
            vec![
                rule(&["create"], "authentication.k8s.io", &["tokenreviews"]),
                rule(&["create"], "authorization.k8s.io", &["subjectaccessreviews"]),
            ],
        ),
        role(
            "system:basic-user",
            vec![
                rule(&["create"], "authorization.k8s.io", &["selfsubjectaccessreviews", "selfsubjectrulesreviews"]),
                rule(&["create"], "authentication.k8s.io", &["selfsubjectreviews"]),
            ],
        ),
        // Kubernetes' own for what collects metrics; bound to nobody.
        role(
            "system:monitoring",
            vec![json!({ "verbs": ["get"], "nonResourceURLs": ["/metrics", "/livez", "/readyz"] })],
        ),
    ]
}

/// The ClusterRoleBindings.
#[must_use]
pub fn cluster_role_bindings() -> Vec<Value> {
    vec![
        binding("cluster-admin", super::MASTERS),
        binding("system:discovery", super::AUTHENTICATED),
        binding("system:basic-user", super::AUTHENTICATED),
    ]
}

/// What a start makes of an object that it finds: `None`, nothing. Rules and subjects that are missing are added.
#[must_use]
pub fn mended(found: &Value, wanted: &Value) -> Option<Value> {
    if found["metadata"]["annotations"][AUTO_UPDATE] == "false" {
        return None;
    }
    let mut mended = found.clone();
    if wanted.get("rules").is_some() {
        let wanted = super::grants::rules(wanted);
        let missing = super::uncovered(&super::grants::rules(found), &wanted);
        if missing.is_empty() {
            return None;
        }
        // Whole rules read better than what is missing of them.
        let missing = wanted
            .into_iter()
            .filter(|rule| !super::uncovered(&super::grants::rules(found), std::slice::from_ref(rule)).is_empty());
        let missing: Vec<Value> = missing.filter_map(|rule| serde_json::to_value(rule).ok()).collect();
        match &mut mended["rules"] {
            Value::Array(rules) => rules.extend(missing),
            none => *none = Value::Array(missing),
        }
        return Some(mended);
    }
    let subjects = wanted["subjects"].as_array().into_iter().flatten();
    let has = |subject: &Value| {
        let found = found["subjects"].as_array().into_iter().flatten();
        found.into_iter().any(|one| one["kind"] == subject["kind"] && one["name"] == subject["name"])
    };
    let missing: Vec<Value> = subjects.filter(|subject| !has(subject)).cloned().collect();
    if missing.is_empty() {
        return None;
    }
    match &mut mended["subjects"] {
        Value::Array(subjects) => subjects.extend(missing),
        none => *none = Value::Array(missing),
    }
    Some(mended)
}
