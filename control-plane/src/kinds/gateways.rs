//! The kinds of the Gateway API beside its routes: GatewayClass, Gateway and ReferenceGrant.
//!
//! Weft keeps them, so that one set of files serves a mesh and a cluster; a controller for a class of gateways can be anybody's. In the
//! mesh itself no reference needs a grant.

use gateway_api::apis::experimental::{
    gatewayclasses::GatewayClass, gateways::Gateway, referencegrants::ReferenceGrant,
};
use kube::CustomResourceExt;
use serde_json::{Value, json};

use super::{
    GATEWAY_GROUP,
    check::Findings,
    column,
    registry::{Kind, Naming},
    routes::{self, Additions},
    structural,
};

fn nothing(_: &Value, _: &mut Findings) {}

/// The three kinds, in the order of discovery.
pub(super) fn kinds() -> Vec<Kind> {
    let kind = |kind, plural, singular, short_names, namespaced, status, schema, columns| Kind {
        group: GATEWAY_GROUP,
        version: "v1",
        kind,
        plural,
        singular,
        short_names,
        categories: &["gateway-api"],
        namespaced,
        status,
        builtin: false,
        of_cluster: false,
        naming: Naming::Subdomain,
        schema,
        columns,
        check: nothing,
    };
    vec![
        kind(
            "GatewayClass",
            "gatewayclasses",
            "gatewayclass",
            &["gc"],
            false,
            true,
            structural::route(&GatewayClass::crd(), conditions("status.conditions")),
            column::gateway_class(),
        ),
        kind(
            "Gateway",
            "gateways",
            "gateway",
            &["gtw"],
            true,
            true,
            structural::route(&Gateway::crd(), gateway()),
            column::gateway(),
        ),
        kind(
            "ReferenceGrant",
            "referencegrants",
            "referencegrant",
            &["refgrant"],
            true,
            false,
            structural::route(&ReferenceGrant::crd(), reference_grant()),
            column::reference_grant(),
        ),
    ]
}

fn add(additions: &mut Additions, field: &str, addition: Value) {
    additions.push((routes::pointer(field), addition));
}

fn by(key: &str, most: u32) -> Value {
    json!({ "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": [key], "maxItems": most })
}

fn whole(least: u32, most: u32) -> Value {
    json!({ "x-kubernetes-list-type": "atomic", "minItems": least, "maxItems": most })
}

fn conditions(field: &str) -> Additions {
    let mut all = Additions::new();
    add(&mut all, field, by("type", 8));
    add(&mut all, &format!("{field}[].status"), json!({ "enum": ["True", "False", "Unknown"] }));
    all
}

fn gateway() -> Additions {
    let mut all = conditions("status.conditions");
    all.extend(conditions("status.listeners[].conditions"));
    add(&mut all, "spec.gatewayClassName", json!({ "minLength": 1, "maxLength": 253 }));
    add(&mut all, "spec.addresses", whole(0, 16));
    let mut listeners = by("name", 64);
    listeners["minItems"] = 1.into();
    add(&mut all, "spec.listeners", listeners);
    add(&mut all, "spec.listeners[].name", json!({ "minLength": 1, "maxLength": 253 }));
    add(&mut all, "spec.listeners[].port", json!({ "minimum": 1, "maximum": 65_535 }));
    add(&mut all, "spec.listeners[].protocol", json!({ "minLength": 1, "maxLength": 255 }));
    add(&mut all, "spec.listeners[].allowedRoutes.namespaces.from", json!({ "default": "Same" }));
    add(&mut all, "spec.listeners[].allowedRoutes.kinds", whole(0, 8));
    add(&mut all, "spec.listeners[].tls.mode", json!({ "default": "Terminate" }));
    add(&mut all, "spec.listeners[].tls.certificateRefs", whole(0, 64));
    add(&mut all, "status.addresses", whole(0, 16));
    add(&mut all, "status.listeners", by("name", 64));
    all
}

fn reference_grant() -> Additions {
    let mut all = Additions::new();
    for list in ["spec.from", "spec.to"] {
        add(&mut all, list, whole(1, 16));
        add(&mut all, &format!("{list}[].group"), json!({ "maxLength": 253 }));
        add(&mut all, &format!("{list}[].kind"), json!({ "minLength": 1, "maxLength": 63 }));
    }
    add(&mut all, "spec.from[].namespace", json!({ "minLength": 1, "maxLength": 63 }));
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_field_that_is_added_to_is_one_of_the_types() {
        let kinds = [
            (GatewayClass::crd(), conditions("status.conditions")),
            (Gateway::crd(), gateway()),
            (ReferenceGrant::crd(), reference_grant()),
        ];
        for (crd, additions) in kinds {
            let schema = structural::derived(&crd);
            for (pointer, _) in additions {
                assert!(schema.pointer(&pointer).is_some_and(Value::is_object), "{}: {pointer}", crd.spec.names.kind);
            }
        }
    }
}
