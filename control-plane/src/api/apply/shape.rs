//! How a value falls into fields, by its structural schema: what has one owner as a whole, and what has an owner for each part.
//!
//! `x-kubernetes-list-type` and `x-kubernetes-map-type` say it (KEP-555, KEP-2332); a list that says nothing is a whole, a map falls into
//! its entries.

use serde_json::{Map, Value};

use super::set::{Set, Step};
use crate::kinds::{Kind, metadata_schema};

/// The schema of a place in an object.
#[derive(Clone, Copy, Debug)]
pub struct Schema<'s> {
    node: &'s Value,
    /// Of the property `metadata`, which every kind has alike.
    metadata: Option<&'s Value>,
}

/// What a value is at its place.
pub enum Shape<'s, 'v> {
    /// One thing.
    Whole,
    /// A field for each entry.
    Map(&'v Map<String, Value>),
    /// An entry for each combination of these keys.
    Keyed(Vec<&'s str>, &'v [Value]),
    /// An entry for each value.
    Set(&'v [Value]),
}

impl Schema<'static> {
    /// Of the objects of a kind.
    pub fn of(kind: &'static Kind) -> Self {
        Self { node: &kind.schema, metadata: Some(metadata_schema()) }
    }
}

impl<'s> Schema<'s> {
    /// A schema by itself, for tests.
    #[cfg(test)]
    pub fn new(node: &'s Value) -> Self {
        Self { node, metadata: None }
    }

    /// Of a field, and whether the schema knows it by name, so that it is no entry of a map.
    pub fn property(self, name: &str) -> (Self, bool) {
        if let Some(metadata) = self.metadata.filter(|_| name == "metadata") {
            return (Self { node: metadata, metadata: None }, true);
        }
        match self.node["properties"].get(name) {
            Some(node) => (Self { node, metadata: None }, true),
            None => (Self { node: &self.node["additionalProperties"], metadata: None }, false),
        }
    }

    /// Of the entries of a list.
    pub fn items(self) -> Self {
        Self { node: &self.node["items"], metadata: None }
    }

    /// What the value is here.
    pub fn shape<'v>(self, value: &'v Value) -> Shape<'s, 'v> {
        match value {
            Value::Object(map) if self.node["x-kubernetes-map-type"] != "atomic" => Shape::Map(map),
            Value::Array(list) => match self.node["x-kubernetes-list-type"].as_str() {
                Some("map") => {
                    let keys = self.node["x-kubernetes-list-map-keys"].as_array();
                    Shape::Keyed(keys.into_iter().flatten().filter_map(Value::as_str).collect(), list)
                }
                Some("set") => Shape::Set(list),
                _ => Shape::Whole,
            },
            _ => Shape::Whole,
        }
    }

    /// The step to an entry of a list; a key that it lacks has its default.
    pub fn step(self, keys: &[&str], entry: &Value) -> Option<Step> {
        let items = self.items();
        let values = keys.iter().map(|key| {
            let given = entry.get(key).filter(|v| !v.is_null());
            let value = given.or_else(|| items.node["properties"][key].get("default"))?;
            Some((*key, value.clone()))
        });
        let values: Vec<(&str, Value)> = values.collect::<Option<_>>()?;
        entry.is_object().then(|| Step::key(values))
    }
}

/// Entries of a list by their steps, in order; `None` when one has none, or two have the same: then the list is one thing.
pub fn entries<'v>(schema: Schema<'_>, value: &'v Value) -> Option<Vec<(Step, &'v Value)>> {
    let steps: Vec<(Step, &Value)> = match schema.shape(value) {
        Shape::Keyed(keys, list) => {
            list.iter().map(|entry| Some((schema.step(&keys, entry)?, entry))).collect::<Option<_>>()?
        }
        Shape::Set(list) => list.iter().map(|entry| (Step::value(entry), entry)).collect(),
        Shape::Map(_) | Shape::Whole => return None,
    };
    let mut seen = std::collections::BTreeSet::new();
    steps.iter().all(|(step, _)| seen.insert(step.clone())).then_some(steps)
}

/// The fields that a document which is applied claims: its leaves, its entries of lists, and its empty maps.
///
/// # Errors
/// The path of a list with an entry that lacks a key, or with two that have the same.
pub fn claimed(schema: Schema<'_>, value: &Value) -> Result<Set, String> {
    let mut set = Set::default();
    match schema.shape(value) {
        Shape::Whole => set.member = true,
        Shape::Map(map) => {
            for (name, value) in map {
                let (schema, named) = schema.property(name);
                let mut below = claimed(schema, value).map_err(|path| format!(".{name}{path}"))?;
                below.member |= !named || value.as_object().is_some_and(Map::is_empty);
                set.graft(Step::Field(name.clone()), below);
            }
        }
        Shape::Keyed(..) | Shape::Set(_) => {
            for (step, value) in entries(schema, value).ok_or_else(String::new)? {
                let mut below = claimed(schema.items(), value).map_err(|path| format!("{step}{path}"))?;
                below.member = true;
                set.graft(step, below);
            }
        }
    }
    Ok(set)
}

/// Everything that a value is: as [`claimed`], and what holds it.
fn whole(schema: Schema<'_>, value: &Value) -> Set {
    let mut set = Set::leaf();
    if let Shape::Map(map) = schema.shape(value) {
        for (name, value) in map {
            set.graft(Step::Field(name.clone()), whole(schema.property(name).0, value));
        }
    } else {
        for (step, value) in entries(schema, value).unwrap_or_default() {
            set.graft(step, whole(schema.items(), value));
        }
    }
    set
}

/// How two documents differ.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Difference {
    /// Fields that the second has otherwise or alone.
    pub changed: Set,
    /// Fields that only the first has.
    pub removed: Set,
}

impl Difference {
    /// From one document to another.
    pub fn between(schema: Schema<'_>, old: &Value, new: &Value) -> Self {
        let mut found = Self::default();
        if old == new {
            return found;
        }
        match (schema.shape(old), schema.shape(new)) {
            (Shape::Map(old), Shape::Map(new)) => {
                for (name, new) in new {
                    let (schema, step) = (schema.property(name).0, Step::Field(name.clone()));
                    found.add(step, schema, old.get(name), Some(new));
                }
                for (name, old) in old.iter().filter(|(name, _)| !new.contains_key(*name)) {
                    found.add(Step::Field(name.clone()), schema.property(name).0, Some(old), None);
                }
            }
            _ => match (entries(schema, old), entries(schema, new)) {
                (Some(old), Some(new)) => {
                    let mut before: std::collections::BTreeMap<Step, &Value> = old.into_iter().collect();
                    for (step, new) in new {
                        let old = before.remove(&step);
                        found.add(step, schema.items(), old, Some(new));
                    }
                    for (step, old) in before {
                        found.add(step, schema.items(), Some(old), None);
                    }
                }
                _ => found.changed.member = true,
            },
        }
        found
    }

    fn add(&mut self, step: Step, schema: Schema<'_>, old: Option<&Value>, new: Option<&Value>) {
        match (old, new) {
            (Some(old), Some(new)) => {
                let below = Self::between(schema, old, new);
                self.changed.graft(step.clone(), below.changed);
                self.removed.graft(step, below.removed);
            }
            (None, Some(new)) => self.changed.graft(step, whole(schema, new)),
            (Some(old), None) => self.removed.graft(step, whole(schema, old)),
            (None, None) => {}
        }
    }
}
