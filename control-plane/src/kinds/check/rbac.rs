//! Roles and bindings: what a rule must name, and whom a binding may.

use serde_json::Value;

use super::{Findings, has, items, text, text::is_label, text::is_subdomain};
use crate::kinds::RBAC_GROUP;

/// A name that can stand in a path (RFC 3986) as one segment: all that roles and bindings are held to.
pub fn is_segment(text: &str) -> bool {
    (1..=253).contains(&text.len())
        && text != "."
        && text != ".."
        && !text.chars().any(|c| c == '/' || c == '%' || c.is_control())
}

/// Rules of a Role.
pub fn role(object: &Value, findings: &mut Findings) {
    rules(object, true, findings);
}

/// Rules and selectors of a ClusterRole.
pub fn cluster_role(object: &Value, findings: &mut Findings) {
    rules(object, false, findings);
    let Some(aggregation) = object.get("aggregationRule") else { return };
    let selectors = items(aggregation, "clusterRoleSelectors", "aggregationRule");
    if selectors.is_empty() {
        findings.required(
            "aggregationRule.clusterRoleSelectors",
            "at least one clusterRoleSelector required if aggregationRule is non-nil",
        );
    }
    for (path, selector) in selectors {
        for (path, expression) in items(selector, "matchExpressions", &path) {
            let known = ["In", "NotIn", "Exists", "DoesNotExist"];
            if !known.contains(&text(expression, "operator")) {
                findings.unsupported(format!("{path}.operator"), &expression["operator"], &known);
            }
        }
    }
}

fn rules(object: &Value, namespaced: bool, findings: &mut Findings) {
    for (path, rule) in items(object, "rules", "") {
        let filled = |field: &str| rule.get(field).and_then(Value::as_array).is_some_and(|list| !list.is_empty());
        if !filled("verbs") {
            findings.required(format!("{path}.verbs"), "verbs must contain at least one value");
        }
        if filled("nonResourceURLs") {
            let at = format!("{path}.nonResourceURLs");
            if namespaced {
                findings.invalid(&at, &rule["nonResourceURLs"], "namespaced rules cannot apply to non-resource URLs");
            }
            if ["apiGroups", "resources", "resourceNames"].into_iter().any(filled) {
                let why = "rules cannot apply to both regular resources and non-resource URLs";
                findings.invalid(&at, &rule["nonResourceURLs"], why);
            }
            continue;
        }
        if !filled("apiGroups") {
            findings.required(format!("{path}.apiGroups"), "resource rules must supply at least one api group");
        }
        if !filled("resources") {
            findings.required(format!("{path}.resources"), "resource rules must supply at least one resource");
        }
    }
}

/// Subjects of a RoleBinding, and the Role or ClusterRole that it names.
pub fn role_binding(object: &Value, findings: &mut Findings) {
    binding(object, &["ClusterRole", "Role"], findings);
}

/// Subjects of a ClusterRoleBinding, and the ClusterRole that it names.
pub fn cluster_role_binding(object: &Value, findings: &mut Findings) {
    binding(object, &["ClusterRole"], findings);
}

fn binding(object: &Value, kinds: &[&str], findings: &mut Findings) {
    let role = &object["roleRef"];
    if text(role, "apiGroup") != RBAC_GROUP {
        findings.unsupported("roleRef.apiGroup", &role["apiGroup"], &[RBAC_GROUP]);
    }
    if !kinds.contains(&text(role, "kind")) {
        findings.unsupported("roleRef.kind", &role["kind"], kinds);
    }
    match text(role, "name") {
        "" => findings.required("roleRef.name", "the name of the role"),
        name if !is_segment(name) => findings.invalid("roleRef.name", &role["name"], "may not contain '/' or '%'"),
        _ => {}
    }
    for (path, subject) in items(object, "subjects", "") {
        let name = text(subject, "name");
        if name.is_empty() {
            findings.required(format!("{path}.name"), "whom it is about");
        }
        match text(subject, "kind") {
            "ServiceAccount" => {
                if !name.is_empty() && !is_subdomain(name) {
                    findings.invalid(format!("{path}.name"), &subject["name"], "must be an RFC 1123 subdomain");
                }
                if !text(subject, "apiGroup").is_empty() {
                    findings.unsupported(format!("{path}.apiGroup"), &subject["apiGroup"], &[""]);
                }
                match text(subject, "namespace") {
                    "" => findings.required(format!("{path}.namespace"), "the namespace of the service account"),
                    namespace if !is_label(namespace) => {
                        findings.invalid(
                            format!("{path}.namespace"),
                            &subject["namespace"],
                            "must be an RFC 1123 label",
                        );
                    }
                    _ => {}
                }
            }
            "User" | "Group" => {
                if !["", RBAC_GROUP].contains(&text(subject, "apiGroup")) {
                    findings.unsupported(format!("{path}.apiGroup"), &subject["apiGroup"], &[RBAC_GROUP]);
                }
                if has(subject, "namespace") && !text(subject, "namespace").is_empty() {
                    findings.forbidden(format!("{path}.namespace"), "users and groups are in no namespace");
                }
            }
            _ => {
                let known = ["ServiceAccount", "User", "Group"];
                findings.unsupported(format!("{path}.kind"), &subject["kind"], &known);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn fields(check: fn(&Value, &mut Findings), object: &Value) -> Vec<String> {
        let mut findings = Findings::default();
        check(object, &mut findings);
        findings.0.into_iter().map(|cause| cause.field).collect()
    }

    #[test]
    fn a_rule_names_verbs_and_either_resources_or_paths() {
        let good = json!({"rules": [{"verbs": ["get"], "apiGroups": [""], "resources": ["services"]}]});
        let paths = json!({"rules": [{"verbs": ["get"], "nonResourceURLs": ["/api"]}]});
        assert!(fields(role, &good).is_empty() && fields(cluster_role, &paths).is_empty());
        assert_eq!(fields(role, &paths), ["rules[0].nonResourceURLs"]);
        let bad = json!({"rules": [{"verbs": []}, {"verbs": ["get"], "resources": ["a"], "nonResourceURLs": ["/a"]}]});
        assert_eq!(
            fields(cluster_role, &bad),
            ["rules[0].verbs", "rules[0].apiGroups", "rules[0].resources", "rules[1].nonResourceURLs"]
        );
        assert_eq!(
            fields(cluster_role, &json!({"aggregationRule": {"clusterRoleSelectors": []}})),
            ["aggregationRule.clusterRoleSelectors"]
        );
    }

    #[test]
    fn a_binding_names_a_role_and_subjects_that_there_can_be() {
        let reference = json!({"apiGroup": RBAC_GROUP, "kind": "Role", "name": "a"});
        let good = json!({"roleRef": reference, "subjects": [
            {"kind": "User", "apiGroup": RBAC_GROUP, "name": "ana"}, {"kind": "Group", "name": "team"},
            {"kind": "ServiceAccount", "name": "cart", "namespace": "shop"}]});
        assert!(fields(role_binding, &good).is_empty());
        assert_eq!(fields(cluster_role_binding, &good), ["roleRef.kind"]);
        let bad = json!({"roleRef": {"apiGroup": "a", "kind": "Role", "name": "a/b"}, "subjects": [
            {"kind": "User", "name": ""}, {"kind": "ServiceAccount", "name": "cart"}, {"kind": "Robot", "name": "a"}]});
        assert_eq!(
            fields(role_binding, &bad),
            ["roleRef.apiGroup", "roleRef.name", "subjects[0].name", "subjects[1].namespace", "subjects[2].kind"]
        );
    }

    #[test]
    fn names_of_roles_are_segments_of_a_path() {
        for good in ["system:discovery", "A b", "view"] {
            assert!(is_segment(good), "{good}");
        }
        for bad in ["", ".", "..", "a/b", "a%2fb", "a\n", "x".repeat(254).as_str()] {
            assert!(!is_segment(bad), "{bad}");
        }
    }
}
