//! The Helm chart: the manifests with expressions for values, the values with what they mean, and their schema.

use serde_json::{Map, Value, json};

use super::{
    definitions, parts,
    source::Source,
    values::{Known, entries, known},
};

const NOTES: &str = "\
Weft's control plane starts in the namespace {{ .Release.Namespace }}. When it runs (weft check):

  kubectl label namespace NAME weft.mesh/inject=enabled
  kubectl rollout restart deployment --namespace NAME
";
/// Definitions are not taken away with the release: with them every object of these kinds would go.
const DEFINITIONS: &str = "\
{{- if .Values.crds }}
{{- range $path, $_ := .Files.Glob \"files/crds/*.yaml\" }}
---
{{ $.Files.Get $path }}
{{- end }}
{{- end }}
";

/// The files of the chart: path within it, and text.
///
/// # Errors
/// A manifest cannot be written as YAML.
pub fn chart() -> Result<Vec<(String, String)>, String> {
    let yaml = |value: &Value| serde_saphyr::to_string(value).map_err(|error| error.to_string());
    let mut files = vec![
        ("Chart.yaml".to_owned(), yaml(&about())?),
        ("values.yaml".to_owned(), values()?),
        ("values-ha.yaml".to_owned(), "# An installation that outlives a node.\nreplicas: 3\n".to_owned()),
        ("values.schema.json".to_owned(), serde_json::to_string_pretty(&schema()).map_err(|e| e.to_string())? + "\n"),
        ("templates/NOTES.txt".to_owned(), NOTES.to_owned()),
        ("templates/definitions.yaml".to_owned(), DEFINITIONS.to_owned()),
    ];
    let source = Source::chart();
    for part in parts(&source) {
        let documents = part.objects.iter().map(yaml).collect::<Result<Vec<_>, _>>()?;
        files.push((format!("templates/{}.yaml", part.file), source.written(&documents.join("---\n"))));
    }
    for mut definition in definitions() {
        definition["metadata"]["annotations"] = json!({ "helm.sh/resource-policy": "keep" });
        let name = definition["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        files.push((format!("files/crds/{name}.yaml"), yaml(&definition)?));
    }
    Ok(files)
}

fn about() -> Value {
    let version = env!("CARGO_PKG_VERSION");
    json!({
        "apiVersion": "v2", "name": "weft", "type": "application", "version": version, "appVersion": version,
        "description": "Weft, a service mesh: control plane, kinds and injection of sidecars", "kubeVersion": ">=1.29.0-0",
    })
}

/// What the chart alone can be told.
fn all() -> Vec<Known> {
    let crds = Known {
        key: "crds".into(),
        default: true.into(),
        about: "Whether the definitions of Weft's kinds belong to the release. They stay when it goes.",
        one_of: &[],
    };
    known().into_iter().chain([crds]).collect()
}

fn values() -> Result<String, String> {
    let mut text = "# What can be said of an installation. Written by `weft install --chart`.\n".to_owned();
    let mut group = String::new();
    for Known { key, default, about, .. } in all() {
        let value = serde_json::to_string(&default).map_err(|error| error.to_string())?;
        let (parent, name) = key.split_once('.').unwrap_or(("", &key));
        if !parent.is_empty() && parent != group {
            if parent == "injection" {
                text.push_str("# How sidecars are made. Annotations of pods (config.weft.mesh/…) go before this.\n");
            }
            text.push_str(&format!("{parent}:\n"));
        }
        group = parent.to_owned();
        let space = if parent.is_empty() { "" } else { "  " };
        if !about.is_empty() {
            text.push_str(&format!("{space}# {about}\n"));
        }
        text.push_str(&format!("{space}{name}: {value}\n"));
    }
    Ok(text)
}

/// What Helm holds values against, so that a slip of the pen is an error here too.
fn schema() -> Value {
    let mut root = json!({ "$schema": "http://json-schema.org/draft-07/schema#", "type": "object", "additionalProperties": false, "properties": {} });
    // Helm puts `global` into every chart's values.
    root["properties"]["global"] = json!({ "type": "object" });
    for known in all() {
        let mut of = match &known.default {
            Value::Bool(_) => json!({ "type": "boolean" }),
            Value::Number(_) => json!({ "type": "integer", "minimum": 0 }),
            Value::String(_) => json!({ "type": "string" }),
            Value::Array(_) => json!({ "type": "array", "items": { "type": entries(&known.key) } }),
            _ => json!({ "type": "object", "additionalProperties": { "type": "string" } }),
        };
        if !known.one_of.is_empty() {
            of["enum"] = json!(known.one_of);
        }
        match known.key.split_once('.') {
            None => root["properties"][&known.key] = of,
            Some((parent, name)) => {
                let parent = &mut root["properties"][parent];
                if parent.is_null() {
                    *parent = json!({ "type": "object", "additionalProperties": false, "properties": Map::new() });
                }
                parent["properties"][name] = of;
            }
        }
    }
    root
}
