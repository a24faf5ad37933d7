//! Sets of fields of an object, and their form on the wire: `fieldsV1` of `metadata.managedFields`.
//!
//! The encoding is that of Kubernetes: `f:NAME` is a field, `k:{…}` an entry of a list by its keys, `v:VALUE` an entry of a set, `i:N` one
//! by its place, and `.` says that what holds others is itself in the set.
//! Source: <https://kubernetes.io/docs/reference/using-api/server-side-apply/> and `FieldsV1` of `meta/v1`.

use std::{collections::BTreeMap, fmt};

use serde_json::{Map, Value};

/// Levels of a set; parsers of JSON take 128.
const DEEPEST: usize = 100;

/// One step from an object into it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Step {
    /// A field, or a key of a map.
    Field(String),
    /// The entry of a list that has these values of its keys: JSON, sorted by name.
    Key(String),
    /// The entry of a set: JSON.
    Value(String),
    /// The entry of a list at this place.
    Index(u64),
}

impl Step {
    /// The entry of a list whose keys have these values.
    pub fn key<'k>(keys: impl IntoIterator<Item = (&'k str, Value)>) -> Self {
        let sorted: BTreeMap<&str, Value> = keys.into_iter().collect();
        Self::Key(serde_json::to_string(&sorted).unwrap_or_default())
    }

    /// The entry of a set that is this value.
    pub fn value(value: &Value) -> Self {
        Self::Value(value.to_string())
    }

    fn encode(&self) -> String {
        match self {
            Self::Field(name) => format!("f:{name}"),
            Self::Key(keys) => format!("k:{keys}"),
            Self::Value(value) => format!("v:{value}"),
            Self::Index(place) => format!("i:{place}"),
        }
    }

    fn decode(text: &str) -> Option<Self> {
        let (kind, rest) = text.split_once(':')?;
        match kind {
            "f" => Some(Self::Field(rest.to_owned())),
            "k" => {
                let keys: BTreeMap<String, Value> = serde_json::from_str(rest).ok()?;
                Some(Self::key(keys.iter().map(|(k, v)| (k.as_str(), v.clone()))))
            }
            "v" => Some(Self::value(&serde_json::from_str(rest).ok()?)),
            "i" => rest.parse().ok().map(Self::Index),
            _ => None,
        }
    }
}

/// `.spec`, `[port=80,protocol="TCP"]`, `[="a"]`, `[0]`
impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Field(name) => write!(f, ".{name}"),
            Self::Key(keys) => {
                let keys: BTreeMap<String, Value> = serde_json::from_str(keys).unwrap_or_default();
                let each: Vec<String> = keys.iter().map(|(k, v)| format!("{k}={v}")).collect();
                write!(f, "[{}]", each.join(","))
            }
            Self::Value(value) => write!(f, "[={value}]"),
            Self::Index(place) => write!(f, "[{place}]"),
        }
    }
}

/// Fields of an object: a tree, in which what is in the set is marked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Set {
    /// Whether what is here is in the set, apart from what is below.
    pub member: bool,
    /// Invariant: none is empty.
    below: BTreeMap<Step, Set>,
}

impl Set {
    /// What is here, and nothing below.
    pub fn leaf() -> Self {
        Self { member: true, ..Self::default() }
    }

    /// Whether nothing is in it.
    pub fn is_empty(&self) -> bool {
        !self.member && self.below.is_empty()
    }

    /// What is in it below a step.
    pub fn below(&self, step: &Step) -> Option<&Self> {
        self.below.get(step)
    }

    /// Its steps with what is below each.
    pub fn steps(&self) -> impl Iterator<Item = (&Step, &Self)> {
        self.below.iter()
    }

    /// Adds all of another set below a step. An empty one adds nothing.
    pub fn graft(&mut self, step: Step, other: Self) {
        if other.is_empty() {
            return;
        }
        match self.below.get_mut(&step) {
            Some(there) => *there = there.union(&other),
            None => drop(self.below.insert(step, other)),
        }
    }

    /// Takes out everything below a step, and the step.
    pub fn cut(&mut self, path: &[&str]) {
        let [first, rest @ ..] = path else { return };
        let step = Step::Field((*first).to_owned());
        if rest.is_empty() {
            self.below.remove(&step);
        } else if let Some(next) = self.below.get_mut(&step) {
            next.cut(rest);
            if next.is_empty() {
                self.below.remove(&step);
            }
        }
    }

    /// Unmarks one path, and leaves what is below it.
    pub fn unmark(&mut self, path: &[&str]) {
        let [first, rest @ ..] = path else {
            self.member = false;
            return;
        };
        let step = Step::Field((*first).to_owned());
        if let Some(next) = self.below.get_mut(&step) {
            next.unmark(rest);
            if next.is_empty() {
                self.below.remove(&step);
            }
        }
    }

    /// What is in either.
    pub fn union(&self, other: &Self) -> Self {
        let mut all = self.clone();
        all.member |= other.member;
        for (step, theirs) in &other.below {
            let joined = all.below.get(step).map_or_else(|| theirs.clone(), |ours| ours.union(theirs));
            all.below.insert(step.clone(), joined);
        }
        all
    }

    /// What is in this one and not in the other.
    pub fn minus(&self, other: &Self) -> Self {
        let below = self.below.iter().map(|(step, ours)| {
            let left = other.below.get(step).map_or_else(|| ours.clone(), |theirs| ours.minus(theirs));
            (step.clone(), left)
        });
        Self { member: self.member && !other.member, below: below.filter(|(_, left)| !left.is_empty()).collect() }
    }

    /// What is in both.
    pub fn common(&self, other: &Self) -> Self {
        let below = self.below.iter().filter_map(|(step, ours)| {
            let both = ours.common(other.below.get(step)?);
            (!both.is_empty()).then(|| (step.clone(), both))
        });
        Self { member: self.member && other.member, below: below.collect() }
    }

    /// Every path in it, as `.spec.ports[port=80,protocol="TCP"].name`.
    pub fn paths(&self) -> Vec<String> {
        let mut paths = Vec::new();
        self.collect(&mut String::new(), &mut paths);
        paths
    }

    fn collect(&self, path: &mut String, paths: &mut Vec<String>) {
        if self.member && !path.is_empty() {
            paths.push(path.clone());
        }
        for (step, below) in &self.below {
            let length = path.len();
            path.push_str(&step.to_string());
            below.collect(path, paths);
            path.truncate(length);
        }
    }

    /// As `fieldsV1`.
    pub fn encode(&self) -> Value {
        let mut map = Map::new();
        if self.member && !self.below.is_empty() {
            map.insert(".".into(), Value::Object(Map::new()));
        }
        map.extend(self.below.iter().map(|(step, below)| (step.encode(), below.encode())));
        Value::Object(map)
    }

    /// From `fieldsV1`; `None` when it is none.
    pub fn decode(fields: &Value) -> Option<Self> {
        let mut set = Self::read(fields, 0)?;
        set.member = false;
        Some(set)
    }

    fn read(fields: &Value, depth: usize) -> Option<Self> {
        let map = fields.as_object().filter(|_| depth <= DEEPEST)?;
        let mut set = Self { member: map.is_empty() || map.contains_key("."), below: BTreeMap::new() };
        for (text, below) in map.iter().filter(|(text, _)| *text != ".") {
            set.below.insert(Step::decode(text)?, Self::read(below, depth + 1)?);
        }
        Some(set)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn steps() -> impl Strategy<Value = Step> {
        prop_oneof![
            "[a-c]".prop_map(Step::Field),
            (1u16..4).prop_map(|port| Step::key([("port", json!(port)), ("a", json!("x\"y"))])),
            "[a-b]".prop_map(|text| Step::value(&json!(text))),
            (0u64..3).prop_map(Step::Index),
        ]
    }

    fn sets() -> impl Strategy<Value = Set> {
        prop::collection::vec(prop::collection::vec(steps(), 1..4), 0..8).prop_map(|paths| {
            let mut set = Set::default();
            for path in paths {
                let leaf = Set { member: true, ..Set::default() };
                let tree = path.into_iter().rev().fold(leaf, |below, step| {
                    let mut above = Set::default();
                    above.graft(step, below);
                    above
                });
                set = set.union(&tree);
            }
            set
        })
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(set in sets()) {
            prop_assert_eq!(Set::decode(&set.encode()), Some(set));
        }

        #[test]
        fn sets_are_sets(a in sets(), b in sets()) {
            let names = |s: &Set| s.paths().into_iter().collect::<std::collections::BTreeSet<_>>();
            let (of_a, of_b) = (names(&a), names(&b));
            prop_assert_eq!(names(&a.union(&b)), of_a.union(&of_b).cloned().collect());
            prop_assert_eq!(names(&a.minus(&b)), of_a.difference(&of_b).cloned().collect());
            prop_assert_eq!(names(&a.common(&b)), of_a.intersection(&of_b).cloned().collect());
            prop_assert_eq!(a.minus(&b).union(&a.common(&b)), a);
        }
    }

    #[test]
    fn the_encoding_is_that_of_kubernetes() {
        let fields = json!({"f:metadata": {"f:labels": {".": {}, "f:app": {}}}, "f:spec": {"f:ports": {
            "k:{\"port\":80,\"protocol\":\"TCP\"}": {".": {}, "f:port": {}}}, "f:finalizers": {"v:\"a\"": {}}}});
        let set = Set::decode(&fields).unwrap();
        assert_eq!(
            set.paths(),
            [
                ".metadata.labels",
                ".metadata.labels.app",
                ".spec.finalizers[=\"a\"]",
                ".spec.ports[port=80,protocol=\"TCP\"]",
                ".spec.ports[port=80,protocol=\"TCP\"].port",
            ]
        );
        assert_eq!(set.encode(), fields);
    }

    #[test]
    fn what_is_no_set_is_not_read() {
        for bad in [json!([]), json!({"x": {}}), json!({"k:[]": {}}), json!({"f:a": 1}), json!({"i:-1": {}})] {
            assert_eq!(Set::decode(&bad), None, "{bad}");
        }
        let deep = (0..200).fold(json!({}), |below, _| json!({ "f:a": below }));
        assert_eq!(Set::decode(&deep), None);
    }
}
