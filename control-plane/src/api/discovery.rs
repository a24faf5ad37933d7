//! What the API serves, as clients ask for it: groups, versions, resources; one by one or all in one document (aggregated discovery).

use http::HeaderMap;
use serde_json::{Value, json};

use super::{
    failure::{Failure, Result},
    reviews::{self, Review},
    served::Served,
    table::accepted,
};
use crate::kinds::Kind;

const VERBS: [&str; 8] = ["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"];
const STATUS_VERBS: [&str; 3] = ["get", "patch", "update"];

/// A document and its content type.
pub(super) type Document = (Value, &'static str);

const JSON: &str = "application/json";

/// Groups with their versions, the preferred one first; the core group left out; in the order of the table.
pub(super) fn groups(served: &Served) -> Vec<(&'static str, Vec<&'static str>)> {
    let mut groups: Vec<(&str, Vec<&str>)> = Vec::new();
    for kind in served.kinds().filter(|k| !k.group.is_empty()) {
        match groups.iter_mut().find(|(group, _)| *group == kind.group) {
            Some((_, versions)) if versions.contains(&kind.version) => {}
            Some((_, versions)) => versions.push(kind.version),
            None => groups.push((kind.group, vec![kind.version])),
        }
    }
    for review in reviews::ALL.iter().filter(|review| !review.group.is_empty()) {
        if !groups.iter().any(|(group, _)| *group == review.group) {
            groups.push((review.group, vec!["v1"]));
        }
    }
    groups
}

/// `/version`: the version of Kubernetes whose API this is.
pub(super) fn version() -> Value {
    json!({
        "major": "1", "minor": "34", "gitVersion": concat!("v1.34.0+weft.", env!("CARGO_PKG_VERSION")), "gitCommit": "",
        "gitTreeState": "clean", "buildDate": "1970-01-01T00:00:00Z", "goVersion": "", "compiler": "rustc",
        "platform": format!("{}/{}", std::env::consts::OS, std::env::consts::ARCH),
    })
}

/// `/api`
pub(super) fn core(headers: &HeaderMap, served: &Served) -> Result<Document> {
    if let Some((version, content)) = aggregated(headers) {
        return Ok((aggregate(version, &[("", vec!["v1"])], served), content));
    }
    acceptable(headers)?;
    Ok((json!({ "kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": [] }), JSON))
}

/// `/apis`
pub(super) fn all(headers: &HeaderMap, served: &Served) -> Result<Document> {
    if let Some((version, content)) = aggregated(headers) {
        return Ok((aggregate(version, &groups(served), served), content));
    }
    acceptable(headers)?;
    let groups: Vec<Value> = groups(served).into_iter().map(|(group, versions)| one(group, &versions)).collect();
    Ok((json!({ "kind": "APIGroupList", "apiVersion": "v1", "groups": groups }), JSON))
}

fn acceptable(headers: &HeaderMap) -> Result<()> {
    let plain = accepted(headers).iter().any(|a| a.is_json() && a.parameter("as").is_empty());
    if plain { Ok(()) } else { Err(Failure::not_acceptable()) }
}

fn one(group: &str, versions: &[&str]) -> Value {
    let version = |v: &&str| json!({ "groupVersion": format!("{group}/{v}"), "version": v });
    let versions: Vec<Value> = versions.iter().map(version).collect();
    json!({ "name": group, "versions": versions, "preferredVersion": versions.first() })
}

/// `/apis/GROUP`
pub(super) fn group(name: &str, served: &Served) -> Result<Document> {
    let (group, versions) = groups(served).into_iter().find(|(g, _)| *g == name).ok_or_else(Failure::no_such_path)?;
    let mut group = one(group, &versions);
    group["kind"] = "APIGroup".into();
    group["apiVersion"] = "v1".into();
    Ok((group, JSON))
}

/// `/api/v1`, `/apis/GROUP/VERSION`
pub(super) fn resources(group: &str, version: &str, served: &Served) -> Result<Document> {
    let kinds: Vec<&Kind> = served.kinds().filter(|k| k.group == group && k.version == version).collect();
    let reviews = || reviews::ALL.iter().filter(|review| review.group == group && version == "v1");
    if kinds.is_empty() && reviews().next().is_none() {
        return Err(Failure::no_such_path());
    }
    let group_version = if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") };
    let mut resources = Vec::new();
    for kind in kinds {
        resources.push(json!({
            "name": kind.plural, "singularName": kind.singular, "namespaced": kind.namespaced, "kind": kind.kind,
            "verbs": VERBS, "shortNames": kind.short_names, "categories": kind.categories,
        }));
        if kind.status {
            resources.push(json!({
                "name": format!("{}/status", kind.plural), "singularName": "", "namespaced": kind.namespaced, "kind": kind.kind,
                "verbs": STATUS_VERBS,
            }));
        }
    }
    resources.extend(reviews().map(|review| {
        json!({
            "name": review.resource, "singularName": review.singular, "namespaced": review.namespaced, "kind": review.kind,
            "group": review.of, "version": "v1", "verbs": ["create"],
        })
    }));
    let document =
        json!({ "kind": "APIResourceList", "apiVersion": "v1", "groupVersion": group_version, "resources": resources });
    Ok((document, JSON))
}

/// The version of aggregated discovery that the client prefers to the plain one, with its content type.
fn aggregated(headers: &HeaderMap) -> Option<(&'static str, &'static str)> {
    for accepted in accepted(headers).iter().filter(|a| a.is_json()) {
        match (accepted.parameter("as"), accepted.parameter("g"), accepted.parameter("v")) {
            ("APIGroupDiscoveryList", "apidiscovery.k8s.io", "v2") => {
                return Some(("v2", "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"));
            }
            ("APIGroupDiscoveryList", "apidiscovery.k8s.io", "v2beta1") => {
                return Some(("v2beta1", "application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList"));
            }
            ("", ..) => return None,
            _ => {}
        }
    }
    None
}

fn aggregate(version: &str, groups: &[(&str, Vec<&str>)], all: &Served) -> Value {
    let items: Vec<Value> = groups
        .iter()
        .map(|(group, versions)| {
            let served = |served: &&str| {
                let kinds = all.kinds().filter(|k| k.group == *group && k.version == *served);
                let mut resources: Vec<Value> = kinds.map(described).collect();
                if *served == "v1" {
                    reviews::ALL.iter().filter(|review| review.group == *group).for_each(|r| asked(&mut resources, r));
                }
                json!({ "version": served, "freshness": "Current", "resources": resources })
            };
            let versions: Vec<Value> = versions.iter().map(served).collect();
            json!({ "metadata": { "name": group, "creationTimestamp": null }, "versions": versions })
        })
        .collect();
    json!({ "kind": "APIGroupDiscoveryList", "apiVersion": format!("apidiscovery.k8s.io/{version}"), "metadata": {}, "items": items })
}

fn described(kind: &Kind) -> Value {
    let response = json!({ "group": kind.group, "version": kind.version, "kind": kind.kind });
    let mut described = json!({
        "resource": kind.plural, "responseKind": response, "scope": if kind.namespaced { "Namespaced" } else { "Cluster" },
        "singularResource": kind.singular, "verbs": VERBS, "shortNames": kind.short_names, "categories": kind.categories,
    });
    if kind.status {
        described["subresources"] =
            json!([{ "subresource": "status", "responseKind": response, "verbs": STATUS_VERBS }]);
    }
    described
}

/// Adds a question to the resources of its group: below the one that it is a subresource of, or beside them.
fn asked(resources: &mut Vec<Value>, review: &Review) {
    let response = json!({ "group": review.of, "version": "v1", "kind": review.kind });
    match review.resource.split_once('/') {
        Some((resource, subresource)) => {
            let below = json!({ "subresource": subresource, "responseKind": response, "verbs": ["create"] });
            if let Some(resource) = resources.iter_mut().find(|one| one["resource"] == resource) {
                match &mut resource["subresources"] {
                    Value::Array(all) => all.push(below),
                    none => *none = json!([below]),
                }
            }
        }
        None => resources.push(json!({
            "resource": review.resource, "responseKind": response, "scope": if review.namespaced { "Namespaced" } else { "Cluster" },
            "singularResource": review.singular, "verbs": ["create"],
        })),
    }
}
