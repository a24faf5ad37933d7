//! The kinds of `rbac.authorization.k8s.io`: who may do what over the API. Their types are Kubernetes' own; what they mean is in [`crate::rbac`].

use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding, Role, RoleBinding};
use serde_json::{Value, json};

use super::{
    check, column,
    registry::{Kind, Naming, Overlay},
    structural,
};

/// The group of roles and bindings.
pub const RBAC_GROUP: &str = "rbac.authorization.k8s.io";

fn atomic(most: u32) -> Value {
    json!({ "maxItems": most, "x-kubernetes-list-type": "atomic" })
}

const ROLE: Overlay = || vec![("/properties/rules", atomic(1024))];

const CLUSTER_ROLE: Overlay = || {
    let selectors = "/properties/aggregationRule/properties/clusterRoleSelectors";
    vec![("/properties/rules", atomic(1024)), (selectors, atomic(64))]
};

const BINDING: Overlay = || {
    let group = "/properties/roleRef/properties/apiGroup";
    vec![("/properties/subjects", atomic(4096)), (group, json!({ "default": RBAC_GROUP }))]
};

/// The four kinds, in the order of discovery.
pub(super) fn kinds() -> Vec<Kind> {
    let kind = |kind, plural, singular, namespaced, schema, columns, check| Kind {
        group: RBAC_GROUP,
        version: "v1",
        kind,
        plural,
        singular,
        short_names: &[],
        categories: &[],
        namespaced,
        status: false,
        builtin: true,
        of_cluster: false,
        naming: Naming::Segment,
        schema,
        columns,
        check,
    };
    vec![
        kind(
            "ClusterRoleBinding",
            "clusterrolebindings",
            "clusterrolebinding",
            false,
            structural::builtin::<ClusterRoleBinding>(BINDING),
            column::binding(),
            check::cluster_role_binding,
        ),
        kind(
            "ClusterRole",
            "clusterroles",
            "clusterrole",
            false,
            structural::builtin::<ClusterRole>(CLUSTER_ROLE),
            column::role(),
            check::cluster_role,
        ),
        kind(
            "RoleBinding",
            "rolebindings",
            "rolebinding",
            true,
            structural::builtin::<RoleBinding>(BINDING),
            column::binding(),
            check::role_binding,
        ),
        kind("Role", "roles", "role", true, structural::builtin::<Role>(ROLE), column::role(), check::role),
    ]
}
