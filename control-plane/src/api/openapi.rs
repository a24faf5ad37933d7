//! The API's description of itself: OpenAPI v3, one document a group and version, as `kubectl explain`, `kubectl apply` and generators of
//! client libraries read it, and one for the pages of the mesh itself.
//!
//! OpenAPI v2 is not served: no client of Kubernetes 1.27 or newer needs it.

mod pages;
mod reviews;

use std::{collections::BTreeMap, sync::LazyLock};

use aws_lc_rs::digest::{SHA256, digest};
use serde_json::{Map, Value, json};

use super::failure::{Failure, Result};
use super::served::Served;
use crate::kinds::{self, Kind, metadata_schema};

/// A group's document and the hash that names this content of it.
struct Described {
    text: String,
    hash: String,
}

/// By path: `api/v1`, `apis/GROUP/VERSION`, `weft/v1`.
type Documents = BTreeMap<String, Described>;

static DOCUMENTS: LazyLock<Documents> = LazyLock::new(|| describe(|kind| !kind.of_cluster));
/// With the kinds of a cluster.
static OF_CLUSTER: LazyLock<Documents> = LazyLock::new(|| describe(|_| true));

fn describe(served: impl Fn(&Kind) -> bool) -> Documents {
    let mut groups: BTreeMap<String, Vec<&Kind>> = BTreeMap::new();
    for kind in kinds::all().iter().filter(|kind| served(kind)) {
        groups.entry(prefix(kind)).or_default().push(kind);
    }
    for path in reviews::prefixes() {
        groups.entry(path).or_default();
    }
    let described = groups.into_iter().map(|(path, kinds)| {
        let document = document(&path, &kinds);
        (path, document)
    });
    described
        .chain(std::iter::once((pages::PATH.to_owned(), pages::document())))
        .map(|(path, document)| {
            let text = document.to_string();
            let hash = digest(&SHA256, text.as_bytes()).as_ref().iter().map(|b| format!("{b:02X}")).collect();
            (path, Described { text, hash })
        })
        .collect()
}

fn documents(served: &Served) -> &'static Documents {
    match served {
        Served::Own => &DOCUMENTS,
        Served::Cluster(_) => &OF_CLUSTER,
    }
}

/// `/openapi/v3`
pub(super) fn index(served: &Served) -> Value {
    let paths: Map<String, Value> = documents(served)
        .iter()
        .map(|(path, d)| (path.clone(), json!({ "serverRelativeURL": format!("/openapi/v3/{path}?hash={}", d.hash) })))
        .collect();
    json!({ "paths": paths })
}

/// `/openapi/v3/PATH`
pub(super) fn group(served: &Served, path: &str) -> Result<&'static str> {
    documents(served).get(path).map(|d| d.text.as_str()).ok_or_else(Failure::no_such_path)
}

fn prefix(kind: &Kind) -> String {
    match kind.group {
        "" => format!("api/{}", kind.version),
        group => format!("apis/{group}/{}", kind.version),
    }
}

const OBJECT_META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta";
const LIST_META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.ListMeta";
const DELETE_OPTIONS: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.DeleteOptions";
const PATCH: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.Patch";
const STATUS: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.Status";

fn reference(name: &str) -> Value {
    json!({ "$ref": format!("#/components/schemas/{name}") })
}

/// `io.k8s.api.core.v1.Service`, `mesh.weft.v1alpha1.Workload`
fn component(kind: &Kind) -> String {
    let group = match kind.group {
        "" => "io.k8s.api.core".to_owned(),
        "discovery.k8s.io" => "io.k8s.api.discovery".to_owned(),
        group => group.split('.').rev().collect::<Vec<_>>().join("."),
    };
    format!("{group}.{}.{}", kind.version, kind.kind)
}

fn gvk(kind: &Kind) -> Value {
    json!({ "group": kind.group, "version": kind.version, "kind": kind.kind })
}

/// `path` is where it stands: questions that are put there are described too.
fn document(path: &str, kinds: &[&Kind]) -> Value {
    let mut schemas = Map::new();
    schemas.insert(OBJECT_META.into(), metadata_schema().clone());
    schemas.insert(
        LIST_META.into(),
        json!({ "type": "object", "description": "Metadata of a list.", "properties": {
            "continue": { "type": "string", "description": "Asks for the next page of the list." },
            "remainingItemCount": { "type": "integer", "format": "int64", "description": "Objects on later pages." },
            "resourceVersion": { "type": "string", "description": "A watch from here misses nothing." },
            "selfLink": { "type": "string", "description": "Not used." } } }),
    );
    schemas.insert(
        DELETE_OPTIONS.into(),
        json!({ "type": "object", "description": "How an object is deleted.", "properties": {
            "apiVersion": { "type": "string" }, "kind": { "type": "string" },
            "dryRun": { "type": "array", "items": { "type": "string" } },
            "gracePeriodSeconds": { "type": "integer", "format": "int64" },
            "orphanDependents": { "type": "boolean" },
            "preconditions": { "type": "object", "properties": {
                "resourceVersion": { "type": "string" }, "uid": { "type": "string" } } },
            "propagationPolicy": { "type": "string" } },
            "x-kubernetes-group-version-kind": [{ "group": "", "version": "v1", "kind": "DeleteOptions" }] }),
    );
    schemas.insert(
        PATCH.into(),
        json!({ "type": "object", "description": "A patch; its content type says of which kind." }),
    );
    schemas.insert(STATUS.into(), status());
    let mut paths = Map::new();
    for kind in kinds {
        let mut schema = kind.schema.clone();
        schema["properties"]["metadata"] =
            json!({ "allOf": [reference(OBJECT_META)], "default": {}, "description": "Standard object's metadata." });
        schema["x-kubernetes-group-version-kind"] = json!([gvk(kind)]);
        schemas.insert(component(kind), schema);
        schemas.insert(
            format!("{}List", component(kind)),
            json!({
                "type": "object", "description": format!("A list of {}.", kind.kind), "required": ["items"],
                "properties": {
                    "apiVersion": { "type": "string" }, "kind": { "type": "string" },
                    "items": { "type": "array", "items": reference(&component(kind)) },
                    "metadata": reference(LIST_META),
                },
                "x-kubernetes-group-version-kind": [{ "group": kind.group, "version": kind.version, "kind": kind.list_kind() }],
            }),
        );
        routes(kind, &mut paths);
    }
    reviews::describe(path, &mut schemas, &mut paths);
    json!({
        "openapi": "3.0.0",
        "info": { "title": "Weft", "version": concat!("v", env!("CARGO_PKG_VERSION")) },
        "paths": paths,
        "components": { "schemas": schemas },
    })
}

/// How a request went. Where an object is deleted, it may be the object, if a finalizer holds it.
fn status() -> Value {
    let text = |description: &str| json!({ "type": "string", "description": description });
    json!({ "type": "object", "description": "How a request went.", "properties": {
        "apiVersion": text("The version of this schema."), "kind": text("What this is."),
        "code": { "type": "integer", "format": "int32", "description": "HTTP status." },
        "details": { "type": "object", "description": "What it is about, and each cause with its field.",
            "x-kubernetes-preserve-unknown-fields": true },
        "message": text("What happened, for people."),
        "metadata": { "type": "object", "x-kubernetes-preserve-unknown-fields": true },
        "reason": text("What happened, for programs."),
        "status": { "description": "Success or Failure; of an object, its own." } },
        "x-kubernetes-preserve-unknown-fields": true,
        "x-kubernetes-group-version-kind": [{ "group": "", "version": "v1", "kind": "Status" }] })
}

fn routes(kind: &Kind, paths: &mut Map<String, Value>) {
    let prefix = prefix(kind);
    let everywhere = format!("/{prefix}/{}", kind.plural);
    let all = if kind.namespaced {
        format!("/{prefix}/namespaces/{{namespace}}/{}", kind.plural)
    } else {
        everywhere.clone()
    };
    let object = reference(&component(kind));
    let list = reference(&format!("{}List", component(kind)));
    let gone = reference(STATUS);
    let mut in_path = Vec::new();
    if kind.namespaced {
        paths.insert(
            everywhere,
            json!({ "get": operation(kind, "list", "AllNamespaces", LIST, Body::None, &list), "parameters": [] }),
        );
        in_path.push(path_parameter("namespace"));
    }
    paths.insert(
        all.clone(),
        json!({
            "get": operation(kind, "list", "", LIST, Body::None, &list),
            "post": operation(kind, "post", "", WRITE, Body::Object, &object),
            "delete": operation(kind, "deletecollection", "", DELETE, Body::Options, &gone),
            "parameters": in_path,
        }),
    );
    in_path.push(path_parameter("name"));
    let mut item = json!({
        "get": operation(kind, "get", "", &[], Body::None, &object),
        "put": operation(kind, "put", "", WRITE, Body::Object, &object),
        "patch": operation(kind, "patch", "", PATCHING, Body::Patch, &object),
        "delete": operation(kind, "delete", "", DELETE, Body::Options, if kind.returns_deleted() { &object } else { &gone }),
        "parameters": in_path,
    });
    paths.insert(format!("{all}/{{name}}"), item.clone());
    if kind.status {
        item["get"] = operation(kind, "get", "Status", &[], Body::None, &object);
        item["put"] = operation(kind, "put", "Status", WRITE, Body::Object, &object);
        item["patch"] = operation(kind, "patch", "Status", PATCHING, Body::Patch, &object);
        if let Value::Object(item) = &mut item {
            item.remove("delete");
        }
        paths.insert(format!("{all}/{{name}}/status"), item);
    }
}

const LIST: &[&str] = &[
    "allowWatchBookmarks",
    "continue",
    "fieldSelector",
    "labelSelector",
    "limit",
    "resourceVersion",
    "resourceVersionMatch",
    "sendInitialEvents",
    "timeoutSeconds",
    "watch",
];
const WRITE: &[&str] = &["dryRun", "fieldManager", "fieldValidation"];
const PATCHING: &[&str] = &["dryRun", "fieldManager", "fieldValidation", "force"];
const DELETE: &[&str] = &["dryRun", "gracePeriodSeconds", "orphanDependents", "propagationPolicy"];

/// The forms in which objects are sent.
const FORMS: &[&str] = &["application/json", "application/yaml"];

/// What may be answered: what was asked for, made new where that can be, or a `Status`.
fn responses(verb: &str, answer: &Value) -> Value {
    let content = |description: &str, schema: &Value| json!({ "description": description, "content": { "application/json": { "schema": schema } } });
    let mut responses = Map::new();
    responses.insert("200".into(), content("OK", answer));
    if matches!(verb, "post" | "put" | "patch") {
        responses.insert("201".into(), content("Created", answer));
    }
    responses.insert("default".into(), content("Why it was not done", &reference(STATUS)));
    responses.into()
}

enum Body {
    None,
    Object,
    Options,
    Patch,
}

fn path_parameter(name: &str) -> Value {
    json!({ "name": name, "in": "path", "required": true, "schema": { "type": "string", "uniqueItems": true } })
}

fn query_parameters(names: &[&str]) -> Vec<Value> {
    let parameter = |name: &&str| {
        let kind = match *name {
            "allowWatchBookmarks" | "sendInitialEvents" | "watch" | "force" | "orphanDependents" => "boolean",
            "limit" | "timeoutSeconds" | "gracePeriodSeconds" => "integer",
            _ => "string",
        };
        json!({ "name": name, "in": "query", "schema": { "type": kind, "uniqueItems": true } })
    };
    names.iter().map(parameter).collect()
}

fn operation(kind: &Kind, verb: &str, suffix: &str, parameters: &[&str], body: Body, answer: &Value) -> Value {
    let scope = if kind.namespaced && suffix != "AllNamespaces" { "Namespaced" } else { "" };
    let mut operation = json!({
        "operationId": format!("{verb}{scope}{}{suffix}", kind.kind),
        "tags": [if kind.group.is_empty() { "core" } else { kind.group }],
        "parameters": query_parameters(parameters),
        "responses": responses(verb, answer),
        "x-kubernetes-action": verb,
        "x-kubernetes-group-version-kind": gvk(kind),
    });
    let content = |types: &[&str], schema: &Value| -> Value {
        types.iter().map(|t| ((*t).to_owned(), json!({ "schema": schema }))).collect::<Map<_, _>>().into()
    };
    let object = reference(&component(kind));
    match body {
        Body::None => {}
        Body::Object => {
            operation["requestBody"] = json!({ "required": true, "content": content(FORMS, &object) });
        }
        Body::Options => {
            operation["requestBody"] = json!({ "content": content(&["application/json"], &reference(DELETE_OPTIONS)) })
        }
        Body::Patch => {
            let types = super::resource::patch_types(kind);
            operation["requestBody"] = json!({ "required": true, "content": content(types, &reference(PATCH)) });
        }
    }
    operation
}
