//! The description of the questions that are put as objects: each is one operation, which makes nothing.

use super::{FORMS, OBJECT_META, WRITE, path_parameter, query_parameters, reference, responses};
use crate::api::reviews::{ALL, Review};
use serde_json::{Map, Value, json};

/// The paths of documents that hold questions, `api/v1` included.
pub(super) fn prefixes() -> impl Iterator<Item = String> {
    ALL.iter().map(prefix)
}

fn prefix(review: &Review) -> String {
    if review.group.is_empty() { "api/v1".to_owned() } else { format!("apis/{}/v1", review.group) }
}

/// `io.k8s.api.authentication.v1.TokenReview`
fn component(review: &Review) -> String {
    let group = review.of.split('.').next().unwrap_or_default();
    format!("io.k8s.api.{group}.v1.{}", review.kind)
}

/// Adds those of a document.
pub(super) fn describe(document: &str, schemas: &mut Map<String, Value>, paths: &mut Map<String, Value>) {
    for review in ALL.iter().filter(|review| prefix(review) == document) {
        let gvk = json!({ "group": review.of, "version": "v1", "kind": review.kind });
        let mut properties = json!({
            "apiVersion": { "type": "string" }, "kind": { "type": "string" },
            "metadata": { "allOf": [reference(OBJECT_META)], "default": {}, "description": "Standard object's metadata." },
            "status": review.status(),
        });
        let mut required = Vec::new();
        if let Some(spec) = review.spec() {
            properties["spec"] = spec;
            required.push("spec");
        }
        let mut schema = json!({ "type": "object", "description": "A question, and its answer.", "properties": properties,
            "x-kubernetes-group-version-kind": [gvk] });
        if !required.is_empty() {
            schema["required"] = json!(required);
        }
        schemas.insert(component(review), schema);

        let (resource, subresource) = review.resource.split_once('/').unwrap_or((review.resource, ""));
        let mut path = format!("/{document}");
        let mut in_path = Vec::new();
        if review.namespaced {
            path.push_str("/namespaces/{namespace}");
            in_path.push(path_parameter("namespace"));
        }
        path.push_str(&format!("/{resource}"));
        if !subresource.is_empty() {
            path.push_str(&format!("/{{name}}/{subresource}"));
            in_path.push(path_parameter("name"));
        }
        let object = reference(&component(review));
        let content: Map<String, Value> =
            FORMS.iter().map(|form| ((*form).to_owned(), json!({ "schema": object }))).collect();
        let scope = if review.namespaced { "Namespaced" } else { "" };
        paths.insert(
            path,
            json!({
                "post": {
                    "operationId": format!("create{scope}{}", review.kind),
                    "tags": [if review.group.is_empty() { "core" } else { review.group }],
                    "parameters": query_parameters(WRITE),
                    "requestBody": { "required": true, "content": content },
                    "responses": responses("post", &object),
                    "x-kubernetes-action": "post",
                    "x-kubernetes-group-version-kind": gvk,
                },
                "parameters": in_path,
            }),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::super::{group, index};
    use super::*;
    use crate::api::served::Served;

    #[test]
    fn every_question_is_described_at_its_place() {
        let index = index(&Served::Own);
        for review in &ALL {
            let document = prefix(review);
            assert!(index["paths"][&document].is_object(), "{document} is not in the index");
            let document: Value = serde_json::from_str(group(&Served::Own, &document).ok().unwrap()).unwrap();
            let paths = document["paths"].as_object().unwrap();
            let id = format!("create{}{}", if review.namespaced { "Namespaced" } else { "" }, review.kind);
            let operation = paths.values().find(|path| path["post"]["operationId"] == id.as_str()).expect(review.kind);
            let schema = &document["components"]["schemas"][component(review)];
            assert_eq!(schema["x-kubernetes-group-version-kind"][0]["kind"], review.kind);
            let body = &operation["post"]["requestBody"]["content"]["application/json"]["schema"];
            assert_eq!(*body, reference(&component(review)));
        }
        let core: Value = serde_json::from_str(group(&Served::Own, "api/v1").ok().unwrap()).unwrap();
        assert!(core["paths"]["/api/v1/namespaces/{namespace}/serviceaccounts/{name}/token"]["post"].is_object());
        assert!(core["paths"]["/api/v1/namespaces/{namespace}/services"]["get"].is_object());
    }
}
