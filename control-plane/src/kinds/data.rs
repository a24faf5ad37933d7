//! What any control plane of Kubernetes keeps beside its own kinds: ConfigMap, Secret and Event.
//!
//! Types are Kubernetes' own. Weft reads none of them: applications and tools do, and the control plane writes Events ([`crate::world`]).

use base64::{Engine as _, engine::general_purpose::STANDARD};
use k8s_openapi::api::core::v1::{ConfigMap, Event, Secret};
use serde_json::{Map, Value, json};

use super::{
    check, column,
    registry::{Kind, Naming, Overlay},
    structural,
};

const NOTHING: Overlay = Vec::new;

const SECRET: Overlay = || vec![("/properties/type", json!({ "default": "Opaque" }))];

/// The three kinds, in the order of discovery.
pub(super) fn kinds() -> Vec<Kind> {
    let kind = |kind, plural, singular, short_names, schema, columns, check| Kind {
        group: "",
        version: "v1",
        kind,
        plural,
        singular,
        short_names,
        categories: &[],
        namespaced: true,
        status: false,
        builtin: true,
        of_cluster: false,
        naming: Naming::Subdomain,
        schema,
        columns,
        check,
    };
    vec![
        kind(
            "ConfigMap",
            "configmaps",
            "configmap",
            &["cm"],
            structural::builtin::<ConfigMap>(NOTHING),
            column::config_map(),
            check::config_map,
        ),
        kind("Event", "events", "event", &["ev"], structural::builtin::<Event>(NOTHING), column::event(), check::event),
        kind(
            "Secret",
            "secrets",
            "secret",
            &[],
            structural::builtin::<Secret>(SECRET),
            column::secret(),
            check::secret,
        ),
    ]
}

/// Makes `data` of what was sent as `stringData`, which is never stored.
pub fn encode_strings(secret: &mut Value) {
    let Some(secret) = secret.as_object_mut() else { return };
    let Some(Value::Object(strings)) = secret.remove("stringData") else { return };
    let data = secret.entry("data").or_insert_with(|| Value::Object(Map::new()));
    for (key, text) in strings {
        data[&key] = STANDARD.encode(text.as_str().unwrap_or_default()).into();
    }
}
