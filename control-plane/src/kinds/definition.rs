//! The kinds of Weft's own as CustomResourceDefinitions (`apiextensions.k8s.io/v1`), for a Kubernetes API server to serve.
//!
//! Names, schemas and descriptions are those of the table that the embedded API serves from, so that an object means the same to both.
//! What is checked there by code is said here by rules in CEL and by patterns ([`rules`]), as far as these can say it within what an API
//! server lets a rule cost; they refuse nothing that the code accepts. What they cannot say (whether a key set, a root or a regular
//! expression can be read) the control plane says in the object's `Accepted` condition. Nothing here does I/O.

mod columns;
pub mod rules;

use serde_json::{Map, Value, json};

use super::{
    GROUP,
    registry::{self, Kind, Naming},
    routes, structural,
};
use rules::Rule;

/// One definition for each kind of the group `weft.mesh`, in the order of the table.
pub fn all() -> Vec<Value> {
    registry::all().iter().filter(|kind| kind.group == GROUP).map(definition).collect()
}

fn definition(kind: &Kind) -> Value {
    let mut version = json!({
        "name": kind.version,
        "served": true,
        "storage": true,
        "schema": { "openAPIV3Schema": schema(kind) },
        "additionalPrinterColumns": columns::of(kind),
    });
    if kind.status {
        version["subresources"] = json!({ "status": {} });
    }
    json!({
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {
            "name": kind.resource_name(),
            "labels": { "app.kubernetes.io/name": "weft", "app.kubernetes.io/part-of": "weft" },
        },
        "spec": {
            "group": kind.group,
            "names": {
                "kind": kind.kind,
                "listKind": kind.list_kind(),
                "plural": kind.plural,
                "singular": kind.singular,
                "shortNames": kind.short_names,
                "categories": kind.categories,
            },
            "scope": if kind.namespaced { "Namespaced" } else { "Cluster" },
            "versions": [version],
        },
    })
}

fn schema(kind: &Kind) -> Value {
    let mut schema = kind.schema.clone();
    // An API server has its own idea of metadata, and of an extension knows only those of its own types.
    schema["properties"]["metadata"] = json!({ "type": "object" });
    schema["description"] = schema["properties"]["spec"]["description"].clone();
    structural::walk(&mut schema, &mut |map| {
        map.remove("x-kubernetes-patch-strategy");
        map.remove("x-kubernetes-patch-merge-key");
        for bound in ["minimum", "maximum"] {
            if let Some(whole) = map.get(bound).and_then(Value::as_f64).filter(|bound| bound.fract() == 0.0) {
                map.insert(bound.into(), (whole as i64).into());
            }
        }
    });
    for (field, pattern) in rules::patterns(kind) {
        if let Some(Value::Object(at)) = schema.pointer_mut(&routes::pointer(field)) {
            at.insert("pattern".into(), pattern.into());
        }
    }
    let mut all = rules::of(kind);
    if kind.naming == Naming::Label {
        all.insert(0, rules::label_name());
    }
    for rule in all {
        let at = if rule.at.is_empty() { Some(&mut schema) } else { schema.pointer_mut(&routes::pointer(&rule.at)) };
        if let Some(Value::Object(at)) = at {
            add(at, &rule);
        }
    }
    schema
}

fn add(schema: &mut Map<String, Value>, rule: &Rule) {
    let mut written = json!({ "rule": rule.rule, "message": rule.message, "reason": rule.reason.name() });
    if !rule.field.is_empty() {
        written["fieldPath"] = rule.field.into();
    }
    let all = schema.entry("x-kubernetes-validations").or_insert_with(|| json!([]));
    if let Value::Array(all) = all {
        all.push(written);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_rule_and_every_pattern_finds_its_place() {
        for kind in registry::all().iter().filter(|kind| kind.group == GROUP) {
            let places = rules::of(kind)
                .iter()
                .map(|rule| rule.at.clone())
                .chain(rules::patterns(kind).into_iter().map(|(at, _)| at.to_owned()))
                .collect::<Vec<_>>();
            for at in places {
                assert!(at.is_empty() || kind.schema.pointer(&routes::pointer(&at)).is_some(), "{}: {at}", kind.kind);
            }
        }
    }

    #[test]
    fn no_pattern_takes_the_place_of_another() {
        for kind in registry::all().iter().filter(|kind| kind.group == GROUP) {
            for (at, _) in rules::patterns(kind) {
                let there = kind.schema.pointer(&routes::pointer(at)).and_then(|schema| schema.get("pattern"));
                assert_eq!(there, None, "{}: {at}", kind.kind);
            }
        }
    }
}
