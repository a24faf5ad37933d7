//! One rule of a role: what it allows, and whether rules that somebody has cover rules that somebody gives.

use serde::{Deserialize, Serialize};

use super::{Attributes, Resource, Target};

/// `PolicyRule` of Kubernetes.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Rule {
    /// `*`: every verb.
    pub verbs: Vec<String>,
    /// `*`: every group.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub api_groups: Vec<String>,
    /// `resource`, `resource/subresource`, `*/subresource`, or `*`: everything.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub resources: Vec<String>,
    /// Names; none: every object.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub resource_names: Vec<String>,
    /// Paths; one that ends with `*` means all that begin so.
    #[serde(rename = "nonResourceURLs", skip_serializing_if = "Vec::is_empty")]
    pub non_resource_urls: Vec<String>,
}

fn names(list: &[String], name: &str) -> bool {
    list.iter().any(|one| one == "*" || one == name)
}

/// Whether a list of resources names one, `resource/subresource`.
fn names_resource(list: &[String], combined: &str) -> bool {
    list.iter().any(|one| {
        one == "*"
            || one == combined
            || one.strip_prefix("*/").is_some_and(|sub| combined.split_once('/').is_some_and(|(_, own)| own == sub))
    })
}

/// Whether a list of paths names one.
fn names_path(list: &[String], path: &str) -> bool {
    list.iter().any(|one| one == path || one.strip_suffix('*').is_some_and(|prefix| path.starts_with(prefix)))
}

impl Rule {
    /// Whether it allows what is asked. Where it holds is its binding's to say.
    #[must_use]
    pub fn allows(&self, asked: &Attributes) -> bool {
        names(&self.verbs, &asked.verb)
            && match &asked.target {
                Target::Path(path) => names_path(&self.non_resource_urls, path),
                Target::Resource(resource) => self.allows_on(resource),
            }
    }

    fn allows_on(&self, resource: &Resource) -> bool {
        names(&self.api_groups, &resource.group)
            && names_resource(&self.resources, &resource.combined())
            && (self.resource_names.is_empty() || self.resource_names.contains(&resource.name))
    }

    /// Whether it allows all that an [atom](Rule::atoms) allows.
    fn covers(&self, atom: &Self) -> bool {
        let all = |own: &[String], wanted: &[String], named: fn(&[String], &str) -> bool| {
            wanted.iter().all(|one| named(own, one))
        };
        let named = self.resource_names.is_empty()
            || (!atom.resource_names.is_empty()
                && atom.resource_names.iter().all(|name| self.resource_names.contains(name)));
        all(&self.verbs, &atom.verbs, names)
            && all(&self.api_groups, &atom.api_groups, names)
            && all(&self.resources, &atom.resources, names_resource)
            && named
            && all(&self.non_resource_urls, &atom.non_resource_urls, names_path)
    }

    /// The same as rules of one verb on one resource, name or path each. Any rule that allows a part of them allows it whole.
    fn atoms(&self) -> Vec<Self> {
        let mut atoms = Vec::new();
        for verb in &self.verbs {
            let verbs = vec![verb.clone()];
            for group in &self.api_groups {
                for resource in &self.resources {
                    let atom = Self {
                        verbs: verbs.clone(),
                        api_groups: vec![group.clone()],
                        resources: vec![resource.clone()],
                        ..Self::default()
                    };
                    if self.resource_names.is_empty() {
                        atoms.push(atom);
                    } else {
                        let named = self.resource_names.iter();
                        atoms.extend(named.map(|name| Self { resource_names: vec![name.clone()], ..atom.clone() }));
                    }
                }
            }
            let urls = self.non_resource_urls.iter();
            atoms.extend(urls.map(|url| Self {
                verbs: verbs.clone(),
                non_resource_urls: vec![url.clone()],
                ..Self::default()
            }));
        }
        atoms
    }
}

impl std::fmt::Display for Rule {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let fields = [
            ("APIGroups", &self.api_groups),
            ("Resources", &self.resources),
            ("ResourceNames", &self.resource_names),
            ("NonResourceURLs", &self.non_resource_urls),
            ("Verbs", &self.verbs),
        ];
        let shown = fields.into_iter().filter(|(_, list)| !list.is_empty());
        let shown: Vec<String> = shown.map(|(name, list)| format!("{name}:{list:?}")).collect();
        write!(f, "{{{}}}", shown.join(", "))
    }
}

/// Atoms that a rule may be taken apart into before it is refused as a whole: lists multiply.
const MOST_ATOMS: usize = 100_000;

/// What of the rules that are wanted no rule that is had covers, one verb on one resource each.
#[must_use]
pub fn uncovered(had: &[Rule], wanted: &[Rule]) -> Vec<Rule> {
    let mut missing = Vec::new();
    let mut looked = 0usize;
    for rule in wanted {
        // Most are covered whole.
        if had.iter().any(|own| own.covers(rule)) {
            continue;
        }
        let names = rule.resource_names.len().max(1);
        let size =
            rule.verbs.len() * (rule.api_groups.len() * rule.resources.len() * names + rule.non_resource_urls.len());
        looked = looked.saturating_add(size);
        if looked > MOST_ATOMS {
            missing.push(rule.clone());
            continue;
        }
        missing.extend(rule.atoms().into_iter().filter(|atom| !had.iter().any(|own| own.covers(atom))));
    }
    missing
}
