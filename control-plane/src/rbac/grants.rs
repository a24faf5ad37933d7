//! What all roles and bindings come to: for each subject the rules that hold for it, everywhere or in one namespace. Made anew when one of the
//! objects changes; a request is then judged by looking its user and groups up.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use serde_json::Value;

use super::{Attributes, Rule, SERVICE_ACCOUNT, Target, User};

/// The objects of a moment, as they are stored.
#[derive(Clone, Debug, Default)]
pub struct Objects {
    /// Roles.
    pub roles: Vec<Value>,
    /// ClusterRoles.
    pub cluster_roles: Vec<Value>,
    /// RoleBindings.
    pub role_bindings: Vec<Value>,
    /// ClusterRoleBindings.
    pub cluster_role_bindings: Vec<Value>,
}

/// Rules that a binding gives.
#[derive(Clone, Debug)]
struct Grant {
    rules: Arc<[Rule]>,
    /// Which binding of which role, for people.
    by: Arc<str>,
}

#[derive(Clone, Debug, Default)]
struct Subjects {
    users: HashMap<Box<str>, Vec<Grant>>,
    groups: HashMap<Box<str>, Vec<Grant>>,
}

impl Subjects {
    fn of<'s>(&'s self, user: &'s User) -> impl Iterator<Item = &'s Grant> {
        let own = self.users.get(user.name.as_str());
        let groups = user.groups.iter().filter_map(|group| self.groups.get(group.as_str()));
        own.into_iter().chain(groups).flatten()
    }

    fn add(&mut self, binding: &Value, rules: &Arc<[Rule]>, by: &str) {
        for subject in binding["subjects"].as_array().into_iter().flatten() {
            let (kind, name) = (text(subject, "kind"), text(subject, "name"));
            let (to, key) = match kind {
                "User" => (&mut self.users, name.to_owned()),
                "Group" => (&mut self.groups, name.to_owned()),
                "ServiceAccount" => {
                    (&mut self.users, format!("{SERVICE_ACCOUNT}{}:{name}", text(subject, "namespace")))
                }
                _ => continue,
            };
            let by = if kind == "ServiceAccount" {
                format!("{by} to ServiceAccount \"{name}/{}\"", text(subject, "namespace"))
            } else {
                format!("{by} to {kind} {name:?}")
            };
            to.entry(key.into()).or_default().push(Grant { rules: rules.clone(), by: by.into() });
        }
    }
}

/// Who may do what.
#[derive(Clone, Debug, Default)]
pub struct Grants {
    everywhere: Subjects,
    namespaces: HashMap<Box<str>, Subjects>,
    roles: HashMap<Place, Arc<[Rule]>>,
}

/// Namespace of a role, empty for a ClusterRole, and its name.
type Place = (Box<str>, Box<str>);

fn text<'v>(value: &'v Value, field: &str) -> &'v str {
    value.get(field).and_then(Value::as_str).unwrap_or_default()
}

/// The rules that a role states itself.
#[must_use]
pub fn rules(role: &Value) -> Vec<Rule> {
    let rules = role["rules"].as_array().into_iter().flatten();
    rules.filter_map(|rule| serde_json::from_value(rule.clone()).ok()).collect()
}

impl Grants {
    /// Compiles the objects. A binding to a role that is missing gives nothing.
    #[must_use]
    pub fn compile(objects: &Objects) -> Self {
        let mut grants = Self::default();
        for role in &objects.roles {
            let key = (text(&role["metadata"], "namespace").into(), text(&role["metadata"], "name").into());
            grants.roles.insert(key, rules(role).into());
        }
        for role in &objects.cluster_roles {
            let rules = aggregated(role, &objects.cluster_roles);
            grants.roles.insert(("".into(), text(&role["metadata"], "name").into()), rules.into());
        }
        for binding in &objects.cluster_role_bindings {
            if let Some((rules, by)) = grants.bound(binding, "") {
                grants.everywhere.add(binding, &rules, &by);
            }
        }
        for binding in &objects.role_bindings {
            let namespace = text(&binding["metadata"], "namespace");
            if let Some((rules, by)) = grants.bound(binding, namespace) {
                grants.namespaces.entry(namespace.into()).or_default().add(binding, &rules, &by);
            }
        }
        grants
    }

    /// What a binding gives, and how that is said.
    fn bound(&self, binding: &Value, namespace: &str) -> Option<(Arc<[Rule]>, String)> {
        let role = &binding["roleRef"];
        let (kind, role) = (text(role, "kind"), text(role, "name"));
        let name = text(&binding["metadata"], "name");
        let by = match namespace {
            "" => format!("ClusterRoleBinding {name:?} of {kind} {role:?}"),
            namespace => format!("RoleBinding \"{name}/{namespace}\" of {kind} {role:?}"),
        };
        Some((self.role(kind, namespace, role)?, by))
    }

    /// The rules of a role: of a Role in a namespace, or of a ClusterRole; `None`: there is no such role.
    #[must_use]
    pub fn role(&self, kind: &str, namespace: &str, name: &str) -> Option<Arc<[Rule]>> {
        let namespace = match kind {
            "ClusterRole" => "",
            "Role" if !namespace.is_empty() => namespace,
            _ => return None,
        };
        self.roles.get(&(namespace.into(), name.into())).cloned()
    }

    fn of<'g>(&'g self, user: &'g User, namespace: &str) -> impl Iterator<Item = &'g Grant> {
        let here = self.namespaces.get(namespace).filter(|_| !namespace.is_empty());
        self.everywhere.of(user).chain(here.into_iter().flat_map(|subjects| subjects.of(user)))
    }

    /// Whether a user may, and by which binding.
    #[must_use]
    pub fn allows(&self, user: &User, asked: &Attributes) -> Option<String> {
        if user.is_master() {
            return Some(String::new());
        }
        let namespace = match &asked.target {
            Target::Resource(resource) => resource.namespace.as_str(),
            Target::Path(_) => "",
        };
        let found = self.of(user, namespace).find(|grant| grant.rules.iter().any(|rule| rule.allows(asked)));
        found.map(|grant| format!("RBAC: allowed by {}", grant.by))
    }

    /// The rules that hold for a user in a namespace; empty: in the whole cluster.
    #[must_use]
    pub fn rules(&self, user: &User, namespace: &str) -> Vec<Rule> {
        let mut seen = HashSet::new();
        let mut rules = Vec::new();
        for rule in self.of(user, namespace).flat_map(|grant| grant.rules.iter()) {
            if seen.insert(rule) {
                rules.push(rule.clone());
            }
        }
        rules
    }
}

/// The rules of a ClusterRole and of those that it takes in by their labels, and that these take in.
fn aggregated(role: &Value, all: &[Value]) -> Vec<Rule> {
    let mut found = rules(role);
    let mut seen = BTreeSet::from([text(&role["metadata"], "name")]);
    let mut waiting = vec![role];
    while let Some(role) = waiting.pop() {
        let selectors = role["aggregationRule"]["clusterRoleSelectors"].as_array().into_iter().flatten();
        for selector in selectors {
            for other in all.iter().filter(|other| selects(selector, &other["metadata"]["labels"])) {
                if seen.insert(text(&other["metadata"], "name")) {
                    found.extend(rules(other));
                    waiting.push(other);
                }
            }
        }
    }
    let mut once = HashSet::new();
    found.retain(|rule| once.insert(rule.clone()));
    found
}

/// Whether a label selector means these labels. An empty one means all.
fn selects(selector: &Value, labels: &Value) -> bool {
    let label = |key: &str| labels.get(key).and_then(Value::as_str);
    let equal = selector["matchLabels"].as_object().into_iter().flatten();
    let expressions = selector["matchExpressions"].as_array().into_iter().flatten();
    equal.into_iter().all(|(key, value)| label(key) == value.as_str())
        && expressions.into_iter().all(|one| {
            let value = label(text(one, "key"));
            let values = one["values"].as_array().map_or(&[][..], Vec::as_slice);
            let listed = value.is_some_and(|value| values.iter().any(|v| v == value));
            match text(one, "operator") {
                "In" => listed,
                "NotIn" => !listed,
                "Exists" => value.is_some(),
                "DoesNotExist" => value.is_none(),
                _ => false,
            }
        })
}
