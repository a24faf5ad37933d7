//! Rows beside the schema that the API publishes, and beside the policies as the API holds them.

use super::{Placed, Row};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use weft_integration::rig::Mesh;

/// The fields of a spec that hold values themselves, as the API publishes them.
fn leaves(schema: &Value, path: &str, found: &mut BTreeSet<String>) {
    match (schema["type"].as_str(), schema["properties"].as_object()) {
        (Some("array"), _) => leaves(&schema["items"], &format!("{path}[]"), found),
        (_, Some(properties)) if !properties.is_empty() => {
            for (name, schema) in properties {
                let at = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                leaves(schema, &at, found);
            }
        }
        _ => drop(found.insert(path.to_owned())),
    }
}

/// The values of a spec by the paths of their fields. Containers that hold nothing say nothing, unless nothing is all they can hold.
fn values(spec: &Value, path: &str, found: &mut BTreeMap<String, BTreeSet<String>>) {
    match spec {
        Value::Array(items) => items.iter().for_each(|item| values(item, &format!("{path}[]"), found)),
        Value::Object(fields) if !fields.is_empty() => {
            for (name, value) in fields {
                let at = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                values(value, &at, found);
            }
        }
        value => drop(found.entry(path.to_owned()).or_default().insert(value.to_string())),
    }
}

/// A row shows its field and no other: as the API holds them, its two policies differ there and nowhere else.
pub fn assert_rows_differ_in_their_fields(mesh: &Mesh, kind: &str, rows: &[Row], plan: &[[Placed; 2]]) {
    let plural = if kind == "TrafficPolicy" { "trafficpolicies" } else { "ratelimitpolicies" };
    let list = mesh.fetch(&format!("/apis/weft.mesh/v1alpha1/{plural}"));
    let policies = list["items"].as_array().expect("a list");
    for (row, placed) in rows.iter().zip(plan).filter(|(row, _)| row.refused.is_none()) {
        let [without, with] = placed.each_ref().map(|placed| {
            let is_its = |policy: &&Value| {
                (policy["metadata"]["namespace"].as_str(), policy["metadata"]["name"].as_str())
                    == (Some(&*placed.namespace), Some(&*placed.service))
            };
            let spec = &policies.iter().find(is_its).unwrap_or_else(|| panic!("no policy of {}", row.field))["spec"];
            let mut found = BTreeMap::new();
            values(spec, "", &mut found);
            // Each is about its own service.
            let own = Value::from(&*placed.service).to_string();
            for names in found.values_mut().filter(|names| names.contains(&own)) {
                *names = names.iter().map(|name| if *name == own { "own".to_owned() } else { name.clone() }).collect();
            }
            found
        });
        let fields: BTreeSet<&String> = without.keys().chain(with.keys()).collect();
        let differing: Vec<&String> =
            fields.into_iter().filter(|field| without.get(*field) != with.get(*field)).collect();
        let empty = BTreeSet::from(["{}".to_owned()]);
        let is_empty = |field: &&String| {
            [&without, &with].iter().filter_map(|side| side.get(*field)).all(|values| *values == empty)
        };
        let others: Vec<_> = differing.iter().filter(|field| ***field != row.field && !is_empty(field)).collect();
        assert!(
            differing.contains(&&row.field) && others.is_empty(),
            "{}: its policies differ in {differing:?}",
            row.field
        );
    }
}

pub fn assert_every_field_has_a_row(mesh: &Mesh, kind: &str, rows: &[Row]) {
    let document = mesh.fetch("/openapi/v3/apis/weft.mesh/v1alpha1");
    let spec = format!("/components/schemas/mesh.weft.v1alpha1.{kind}/properties/spec");
    let spec = document.pointer(&spec).unwrap_or_else(|| panic!("the API publishes no {spec}"));
    let mut published = BTreeSet::new();
    leaves(spec, "", &mut published);
    let shown: BTreeSet<String> = rows.iter().map(|row| row.field.clone()).collect();
    let missing: Vec<_> = published.difference(&shown).collect();
    let unknown: Vec<_> = shown.difference(&published).collect();
    assert!(missing.is_empty(), "{kind}: fields that no row shows: {missing:?}");
    assert!(unknown.is_empty() && !published.is_empty(), "{kind}: rows of fields that there are not: {unknown:?}");
}
