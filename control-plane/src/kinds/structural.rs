//! Structural schemas: whole (no `$ref`), every object with its properties, as Kubernetes demands of custom resources.
//!
//! All of them are derived from Rust types: those of `k8s-openapi` and `gateway-api` with an overlay of what their types do not say,
//! Weft's own as they are.

use k8s_openapi::{
    apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::core::schema::{OptionalEnum, OptionalIntOrString, StructuralSchemaRewriter};
use schemars::{JsonSchema, generate::SchemaSettings};
use serde_json::{Map, Value, json};

use super::{registry::Overlay, routes};

/// The schema of a type of Kubernetes itself.
pub fn builtin<T: JsonSchema>(overlay: Overlay) -> Value {
    let mut schema = generate::<T>();
    lay_over(&mut schema, overlay());
    finish(schema)
}

/// The schema that a custom resource's type derives.
pub fn derived(crd: &CustomResourceDefinition) -> Value {
    let schema = crd.spec.versions.first().and_then(|v| v.schema.as_ref()?.open_api_v3_schema.as_ref());
    let mut schema = serde_json::to_value(schema).unwrap_or_default();
    clean(&mut schema);
    finish(schema)
}

/// The schema of a route of the Gateway API: what its type derives, and what is added to it (`routes`). Of the type's documentation the
/// first sentences stay.
pub fn route(crd: &CustomResourceDefinition, additions: routes::Additions) -> Value {
    let mut schema = derived(crd);
    lay_over(&mut schema, additions);
    shorten(&mut schema);
    schema
}

/// The schema of a kind of Weft's own that borrows matches of the Gateway API's HTTPRoute, at the lists named (`spec.faults[].matches`).
pub fn borrowing(crd: &CustomResourceDefinition, lists: &[&str]) -> Value {
    let mut schema = derived(crd);
    lay_over(&mut schema, routes::borrowed(lists));
    for list in lists {
        if let Some(items) = schema.pointer_mut(&format!("{}/items", routes::pointer(list))) {
            shorten(items);
        }
    }
    schema
}

fn shorten(schema: &mut Value) {
    walk(schema, &mut |map| {
        if let Some(Value::String(text)) = map.get_mut("description") {
            *text = first_sentence(text);
        }
    });
}

fn lay_over<P: AsRef<str>>(schema: &mut Value, additions: Vec<(P, Value)>) {
    for (pointer, addition) in additions {
        if let (Some(Value::Object(target)), Value::Object(addition)) = (schema.pointer_mut(pointer.as_ref()), addition)
        {
            target.extend(addition);
        }
    }
}

/// On one line; a full stop ends a sentence when a capital follows (`e.g. a` does not).
fn first_sentence(text: &str) -> String {
    let paragraph = text.split("\n\n").next().unwrap_or_default();
    let mut sentence = String::new();
    for word in paragraph.split_whitespace() {
        if sentence.ends_with('.') && word.starts_with(|c: char| c.is_uppercase()) {
            break;
        }
        if !sentence.is_empty() {
            sentence.push(' ');
        }
        sentence.push_str(word);
    }
    sentence
}

/// The schema of `metadata`.
pub fn metadata() -> Value {
    let mut schema = generate::<ObjectMeta>();
    let merged = |key: &str| {
        json!({
            "x-kubernetes-list-type": "map",
            "x-kubernetes-list-map-keys": [key],
            "x-kubernetes-patch-strategy": "merge",
            "x-kubernetes-patch-merge-key": key,
        })
    };
    let lists = [
        ("ownerReferences", merged("uid")),
        ("finalizers", json!({ "x-kubernetes-list-type": "set", "x-kubernetes-patch-strategy": "merge" })),
        ("managedFields", json!({ "x-kubernetes-list-type": "atomic" })),
    ];
    for (name, addition) in lists {
        if let (Some(Value::Object(target)), Value::Object(addition)) = (schema["properties"].get_mut(name), addition) {
            target.extend(addition);
        }
    }
    // `fieldsV1` holds a tree of field names.
    if let Some(fields) = schema.pointer_mut("/properties/managedFields/items/properties/fieldsV1") {
        *fields = json!({ "type": "object", "x-kubernetes-preserve-unknown-fields": true });
    }
    schema
}

fn generate<T: JsonSchema>() -> Value {
    let settings = SchemaSettings::openapi3().with(|s| {
        s.inline_subschemas = true;
        s.meta_schema = None;
    });
    let generator = settings
        .with_transform(StructuralSchemaRewriter)
        .with_transform(OptionalEnum)
        .with_transform(OptionalIntOrString)
        .into_generator();
    let mut schema = generator.into_root_schema_for::<T>().to_value();
    clean(&mut schema);
    schema
}

/// `apiVersion`, `kind` and `metadata` are the same everywhere.
fn finish(mut schema: Value) -> Value {
    if let Some(Value::Object(properties)) = schema.get_mut("properties") {
        properties.insert(
            "apiVersion".into(),
            json!({ "type": "string", "description": "The group and version of the kind." }),
        );
        properties.insert("kind".into(), json!({ "type": "string", "description": "What the object is." }));
        properties.insert(
            "metadata".into(),
            json!({ "type": "object", "x-kubernetes-preserve-unknown-fields": true,
                "description": "Names, labels, annotations and the life of the object." }),
        );
    }
    if let Some(Value::Array(required)) = schema.get_mut("required") {
        required.retain(|field| field != "metadata");
    }
    if let Value::Object(map) = &mut schema {
        map.insert("type".into(), "object".into());
    }
    schema
}

/// Takes out what is no keyword of OpenAPI v3 or says nothing.
fn clean(schema: &mut Value) {
    for keyword in ["title", "$schema", "definitions", "components", "nullable"] {
        strip(schema, keyword);
    }
    // schemars writes unsigned formats, which no Kubernetes client knows, and `null` among the values of an optional enumeration.
    fn values(schema: &mut Map<String, Value>) {
        if schema.get("format").and_then(Value::as_str).is_some_and(|f| f.starts_with("uint")) {
            schema.insert("format".into(), "int64".into());
        }
        if let Some(Value::Array(known)) = schema.get_mut("enum") {
            known.retain(|value| !value.is_null());
        }
    }
    walk(schema, &mut values);
}

fn strip(schema: &mut Value, keyword: &str) {
    walk(schema, &mut |map| {
        map.remove(keyword);
    });
}

/// Visits schemas, not the names of properties.
pub fn walk(schema: &mut Value, visit: &mut dyn FnMut(&mut Map<String, Value>)) {
    let Value::Object(map) = schema else { return };
    visit(map);
    for (keyword, value) in map.iter_mut() {
        match (keyword.as_str(), value) {
            ("properties", Value::Object(properties)) => properties.values_mut().for_each(|p| walk(p, visit)),
            ("items" | "additionalProperties" | "not", value) => walk(value, visit),
            ("allOf" | "anyOf" | "oneOf", Value::Array(list)) => list.iter_mut().for_each(|s| walk(s, visit)),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sentence_ends_before_a_capital() {
        assert_eq!(first_sentence("Names, e.g. one\nof two. Or three.\n\nMore."), "Names, e.g. one of two.");
        assert_eq!(first_sentence("No end"), "No end");
        assert_eq!(first_sentence(""), "");
    }
}
