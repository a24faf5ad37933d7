//! What is compiled decides as the objects say, read one by one; and what is not covered is just what one does not have.

use super::*;
use proptest::prelude::*;
use serde_json::{Value, json};

/// Reads the objects anew for every question, in the words of Kubernetes' documentation.
fn naive(objects: &Objects, user: &User, asked: &Attributes) -> bool {
    if user.groups.iter().any(|group| group == "system:masters") {
        return true;
    }
    let namespace = match &asked.target {
        Target::Resource(resource) => resource.namespace.clone(),
        Target::Path(_) => String::new(),
    };
    let held = |binding: &Value| {
        binding["subjects"].as_array().unwrap().iter().any(|subject| {
            let name = subject["name"].as_str().unwrap();
            match subject["kind"].as_str().unwrap() {
                "User" => user.name == name,
                "Group" => user.groups.iter().any(|group| group == name),
                _ => user.name == format!("system:serviceaccount:{}:{name}", subject["namespace"].as_str().unwrap()),
            }
        })
    };
    let named = |list: &Value, wanted: &str| list.as_array().unwrap().iter().any(|one| one == "*" || one == wanted);
    let allows = |rule: &Value| {
        named(&rule["verbs"], &asked.verb)
            && match &asked.target {
                Target::Path(path) => rule["nonResourceURLs"].as_array().unwrap().iter().any(|url| {
                    let url = url.as_str().unwrap();
                    url == path || (url.ends_with('*') && path.starts_with(&url[..url.len() - 1]))
                }),
                Target::Resource(of) => {
                    let full = if of.subresource.is_empty() {
                        of.resource.clone()
                    } else {
                        format!("{}/{}", of.resource, of.subresource)
                    };
                    let any = format!("*/{}", of.subresource);
                    let names = rule["resourceNames"].as_array().unwrap();
                    named(&rule["apiGroups"], &of.group)
                        && (named(&rule["resources"], &full)
                            || (!of.subresource.is_empty() && named(&rule["resources"], &any)))
                        && (names.is_empty() || names.iter().any(|name| *name == *of.name))
                }
            }
    };
    let gives = |binding: &Value, roles: &[Value], namespace: &str| {
        let role = roles.iter().find(|role| {
            role["metadata"]["name"] == binding["roleRef"]["name"]
                && role["metadata"]["namespace"].as_str().unwrap_or_default() == namespace
        });
        held(binding) && role.is_some_and(|role| role["rules"].as_array().unwrap().iter().any(allows))
    };
    let of_cluster = objects.cluster_role_bindings.iter().any(|b| gives(b, &objects.cluster_roles, ""));
    let of_namespace = objects.role_bindings.iter().filter(|b| b["metadata"]["namespace"] == *namespace);
    of_cluster
        || (!namespace.is_empty()
            && of_namespace.into_iter().any(|b| match b["roleRef"]["kind"].as_str().unwrap() {
                "Role" => gives(b, &objects.roles, &namespace),
                _ => gives(b, &objects.cluster_roles, ""),
            }))
}

fn some(of: &'static [&'static str], least: usize) -> impl Strategy<Value = Vec<&'static str>> {
    proptest::collection::vec(proptest::sample::select(of), least..3)
}

const VERBS: &[&str] = &["get", "list", "create", "*"];
const GROUPS: &[&str] = &["", "weft.mesh", "*"];
const RESOURCES: &[&str] = &["services", "services/status", "workloads", "workloads/config", "*/config", "*"];
const NAMES: &[&str] = &["cart", "web"];
const PATHS: &[&str] = &["/api", "/api/*", "/metrics", "*"];
const SPACES: &[&str] = &["shop", "office"];
const ROLES: &[&str] = &["r0", "r1", "r2"];

fn rule() -> impl Strategy<Value = Value> {
    let resources = (some(VERBS, 1), some(GROUPS, 1), some(RESOURCES, 1), some(NAMES, 0)).prop_map(
        |(v, g, r, n)| json!({ "verbs": v, "apiGroups": g, "resources": r, "resourceNames": n, "nonResourceURLs": [] }),
    );
    let paths = (some(VERBS, 1), some(PATHS, 1)).prop_map(
        |(v, p)| json!({ "verbs": v, "nonResourceURLs": p, "apiGroups": [], "resources": [], "resourceNames": [] }),
    );
    prop_oneof![4 => resources, 1 => paths]
}

fn role(namespaced: bool) -> impl Strategy<Value = Value> {
    let rules = proptest::collection::vec(rule(), 0..3);
    (proptest::sample::select(ROLES), proptest::sample::select(SPACES), rules).prop_map(move |(name, space, rules)| {
        let mut role = json!({ "metadata": { "name": name }, "rules": rules });
        if namespaced {
            role["metadata"]["namespace"] = space.into();
        }
        role
    })
}

fn subject() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(json!({ "kind": "User", "name": "ana" })),
        Just(json!({ "kind": "User", "name": "ben" })),
        Just(json!({ "kind": "Group", "name": "team" })),
        Just(json!({ "kind": "Group", "name": "system:authenticated" })),
        Just(json!({ "kind": "ServiceAccount", "name": "cart", "namespace": "shop" })),
    ]
}

fn binding(namespaced: bool) -> impl Strategy<Value = Value> {
    let kind = if namespaced { &["Role", "ClusterRole"][..] } else { &["ClusterRole"][..] };
    let subjects = proptest::collection::vec(subject(), 0..3);
    let names = (proptest::sample::select(kind), proptest::sample::select(ROLES), proptest::sample::select(SPACES));
    (names, subjects).prop_map(move |((kind, role, space), subjects)| {
        let mut binding = json!({
            "metadata": { "name": "b" }, "roleRef": { "kind": kind, "name": role }, "subjects": subjects });
        if namespaced {
            binding["metadata"]["namespace"] = space.into();
        }
        binding
    })
}

/// No two roles have one name.
fn distinct(mut roles: Vec<Value>) -> Vec<Value> {
    let mut seen = std::collections::HashSet::new();
    roles.retain(|role| seen.insert(role["metadata"].to_string()));
    roles
}

fn objects() -> impl Strategy<Value = Objects> {
    let few = |range| range;
    (
        proptest::collection::vec(role(true), few(0..4)),
        proptest::collection::vec(role(false), few(0..4)),
        proptest::collection::vec(binding(true), few(0..5)),
        proptest::collection::vec(binding(false), few(0..3)),
    )
        .prop_map(|(roles, cluster_roles, role_bindings, cluster_role_bindings)| Objects {
            roles: distinct(roles),
            cluster_roles: distinct(cluster_roles),
            role_bindings,
            cluster_role_bindings,
        })
}

fn users() -> [User; 4] {
    let user = |name: &str, groups: &[&str]| User::new(name, groups.iter().map(|g| (*g).to_owned()));
    [
        user("ana", &["team"]),
        user("ben", &[]),
        user("system:serviceaccount:shop:cart", &["system:serviceaccounts"]),
        user("root", &["system:masters"]),
    ]
}

/// Every question of a small world.
fn questions() -> Vec<Attributes> {
    let mut all = Vec::new();
    for verb in ["get", "list", "create", "delete", "*"] {
        for path in ["/api", "/api/v1", "/metrics"] {
            all.push(Attributes::path(verb, path));
        }
        for group in ["", "weft.mesh", "apps"] {
            for (resource, subresource) in
                [("services", ""), ("services", "status"), ("workloads", ""), ("workloads", "config")]
            {
                for (namespace, name) in
                    [("", ""), ("", "cart"), ("shop", ""), ("shop", "cart"), ("shop", "web"), ("office", "cart")]
                {
                    all.push(Attributes::on(
                        verb,
                        Resource {
                            group: group.into(),
                            resource: resource.into(),
                            subresource: subresource.into(),
                            namespace: namespace.into(),
                            name: name.into(),
                        },
                    ));
                }
            }
        }
    }
    all
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn what_is_compiled_decides_as_the_objects_say(objects in objects()) {
        let grants = Grants::compile(&objects);
        let questions = questions();
        for user in users() {
            for asked in &questions {
                let decided = grants.allows(&user, asked).is_some();
                prop_assert_eq!(decided, naive(&objects, &user, asked), "{} {:?}", user.name, asked);
            }
        }
    }

    #[test]
    fn rules_that_cover_others_allow_all_that_they_allow(
        had in proptest::collection::vec(rule(), 0..4),
        wanted in proptest::collection::vec(rule(), 0..3),
    ) {
        let read = |rules: &[Value]| -> Vec<Rule> {
            rules.iter().map(|rule| serde_json::from_value(rule.clone()).unwrap()).collect()
        };
        let (had, wanted) = (read(&had), read(&wanted));
        let missing = uncovered(&had, &wanted);
        for asked in questions() {
            let any = |rules: &[Rule]| rules.iter().any(|rule| rule.allows(&asked));
            if missing.is_empty() {
                prop_assert!(!any(&wanted) || any(&had), "{asked:?}");
            }
        }
        // Whoever has something has it.
        prop_assert!(uncovered(&wanted, &wanted).is_empty());
        // What is missing, had as well, makes it whole.
        prop_assert!(uncovered(&[had, missing].concat(), &wanted).is_empty());
    }
}

fn services(verb: &str, namespace: &str, name: &str) -> Attributes {
    let (resource, namespace, name) = ("services".into(), namespace.into(), name.into());
    Attributes::on(verb, Resource { resource, namespace, name, ..Resource::default() })
}

#[test]
fn a_refusal_says_what_kubectl_prints() {
    let asked = services("list", "shop", "");
    assert_eq!(
        asked.denied("ana"),
        r#"User "ana" cannot list resource "services" in API group "" in the namespace "shop""#
    );
    let asked = Attributes::on(
        "get",
        Resource {
            group: "weft.mesh".into(),
            resource: "workloads".into(),
            subresource: "config".into(),
            ..Resource::default()
        },
    );
    assert_eq!(
        asked.denied("ana"),
        r#"User "ana" cannot get resource "workloads/config" in API group "weft.mesh" at the cluster scope"#
    );
    assert_eq!(Attributes::path("get", "/metrics").denied("ana"), r#"User "ana" cannot get path "/metrics""#);
}

#[test]
fn a_role_that_aggregates_has_the_rules_of_those_that_are_labelled_for_it() {
    let objects = Objects {
        cluster_roles: [
            builtin::cluster_roles(),
            vec![json!({
                "metadata": { "name": "canary-view", "labels": { "rbac.authorization.k8s.io/aggregate-to-view": "true" } },
                "rules": [{ "verbs": ["get"], "apiGroups": ["example.com"], "resources": ["canaries"] }]})],
        ]
        .concat(),
        role_bindings: vec![json!({
            "metadata": { "name": "b", "namespace": "shop" }, "roleRef": { "kind": "ClusterRole", "name": "admin" },
            "subjects": [{ "kind": "User", "name": "ana" }]})],
        ..Objects::default()
    };
    let grants = Grants::compile(&objects);
    let canaries = |namespace: &str| {
        let (group, resource) = ("example.com".into(), "canaries".into());
        Attributes::on("get", Resource { group, resource, namespace: namespace.into(), ..Resource::default() })
    };
    let ana = User::new("ana", []);
    // view goes into edit, edit into admin.
    assert!(grants.allows(&ana, &canaries("shop")).is_some());
    assert!(grants.allows(&ana, &canaries("office")).is_none());
}

#[test]
fn each_role_of_the_first_start_has_what_the_smaller_one_has() {
    let grants = Grants::compile(&Objects { cluster_roles: builtin::cluster_roles(), ..Objects::default() });
    let rules = |name: &str| grants.role("ClusterRole", "", name).unwrap();
    for (larger, smaller) in [
        ("edit", "view"),
        ("weft-observer", "view"),
        ("admin", "edit"),
        ("admin", "weft-observer"),
        ("cluster-admin", "admin"),
        ("cluster-admin", "system:discovery"),
    ] {
        assert!(uncovered(&rules(larger), &rules(smaller)).is_empty(), "{larger} {smaller}");
        assert!(!uncovered(&rules(smaller), &rules(larger)).is_empty(), "{larger} {smaller}");
    }
    assert!(!rules("view").iter().any(|rule| rule.allows(&services("create", "shop", ""))));
}

#[test]
fn a_start_adds_what_is_missing_and_leaves_what_is_not_to_be_touched() {
    let wanted = builtin::cluster_roles().remove(3);
    assert_eq!(wanted["metadata"]["name"], "view");
    assert_eq!(builtin::mended(&wanted, &wanted), None);
    let mut less = wanted.clone();
    less["rules"].as_array_mut().unwrap().remove(0);
    let mended = builtin::mended(&less, &wanted).unwrap();
    assert!(uncovered(&grants::rules(&mended), &grants::rules(&wanted)).is_empty());
    less["metadata"]["annotations"][builtin::AUTO_UPDATE] = "false".into();
    assert_eq!(builtin::mended(&less, &wanted), None);
    let binding = builtin::cluster_role_bindings().remove(0);
    let mut less = binding.clone();
    less["subjects"] = Value::Null;
    assert_eq!(builtin::mended(&less, &binding).unwrap()["subjects"], binding["subjects"]);
}

#[test]
fn lists_that_multiply_are_refused_whole() {
    let many: Vec<String> = (0..200).map(|n| format!("r{n}")).collect();
    let wide = Rule { verbs: many.clone(), api_groups: many.clone(), resources: many, ..Rule::default() };
    assert_eq!(uncovered(&[], std::slice::from_ref(&wide)), [wide]);
}
