//! What can be said of an installation: keys, defaults and what they mean. `weft install --set` and the chart's `values.yaml` have the same.

use serde_json::{Map, Value, json};

use crate::inject;

/// What is wrong with a value: the key, and why.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{key}: {reason}")]
pub struct Problem {
    /// `injection.cpuRequest`
    pub key: String,
    /// In plain words.
    pub reason: String,
}

/// One thing that can be said.
pub(super) struct Known {
    pub key: String,
    pub default: Value,
    pub about: &'static str,
    /// Possible values, where they can be counted.
    pub one_of: &'static [&'static str],
}

/// Of the sidecars' settings these follow from the rest.
const DERIVED: [&str; 3] = ["controlPlane", "revision", "trustDomain"];

/// Of which kind the entries of the lists are.
pub(super) fn entries(key: &str) -> &'static str {
    match key.rsplit('.').next().unwrap_or_default() {
        name if name.ends_with("Ports") || name.ends_with("Uids") => "integer",
        "tolerations" => "object",
        _ => "string",
    }
}

/// Everything that can be said, in the order of `values.yaml`.
pub(super) fn known() -> Vec<Known> {
    let known = |key: &str, default: Value, about: &'static str| Known { key: key.into(), default, about, one_of: &[] };
    let image = concat!("weft:", env!("CARGO_PKG_VERSION"));
    let mut all = vec![
        known("image", image.into(), "The control plane's image."),
        Known {
            one_of: &["Always", "IfNotPresent", "Never"],
            ..known("imagePullPolicy", "IfNotPresent".into(), "When it is pulled.")
        },
        known("imagePullSecrets", json!([]), "Names of Secrets with which it is pulled."),
        known("replicas", 1.into(), "Pods of the control plane. One leads, the others take over; any serves sidecars."),
        known("trustDomain", "weft.local".into(), "The trust domain of the mesh's identities."),
        known("clusterDomain", "cluster.local".into(), "The last part of the full names of Services."),
        known(
            "revision",
            "default".into(),
            "Which control plane this is, where there are several: namespaces choose by the label weft.mesh/revision.",
        ),
        Known {
            one_of: &["pass-through", "registered-only"],
            ..known("egress", "pass-through".into(), "What programs in the mesh may call outside it.")
        },
        known("listen", "0.0.0.0".into(), "Where the control plane listens; [::] in a cluster of IPv6 alone."),
        known("log", "info".into(), "What it logs: a level, or directives such as info,weft_control=debug."),
        known("extraArgs", json!([]), "Further arguments of weft up."),
        known("resources.cpuRequest", "100m".into(), "What one of its pods asks of a node."),
        known("resources.memoryRequest", "128Mi".into(), ""),
        known("resources.memoryLimit", "1Gi".into(), "What it may use."),
        known("nodeSelector", json!({}), "Nodes that it may run on, by label."),
        known("tolerations", json!([]), "Taints of nodes that it bears."),
        known("priorityClassName", "".into(), "How important it is, as system-cluster-critical."),
        Known {
            one_of: &["Fail", "Ignore"],
            ..known(
                "webhook.failurePolicy",
                "Fail".into(),
                "What becomes of pods that should get a sidecar while no control plane answers: Fail (none is made) or Ignore (made without).",
            )
        },
        known("webhook.timeoutSeconds", 10.into(), "How long an API server waits for the answer, 1 to 30."),
    ];
    let sidecars = serde_json::to_value(inject::Settings::default()).unwrap_or_default();
    for (name, default) in
        sidecars.as_object().into_iter().flatten().filter(|(name, _)| !DERIVED.contains(&name.as_str()))
    {
        let about = match name.as_str() {
            "image" => "The image with weft-proxy and nft.",
            "interceptionMode" => "REDIRECT, or TPROXY: the application sees its caller's address.",
            "proxyUid" => "The user that sidecars run as, which no container of an application may have.",
            _ => "",
        };
        let one_of: &[&str] = if name == "interceptionMode" { &["REDIRECT", "TPROXY"] } else { &[] };
        all.push(Known { one_of, ..known(&format!("injection.{name}"), default.clone(), about) });
    }
    all
}

/// The keys that there are.
#[must_use]
pub fn keys() -> Vec<String> {
    known().into_iter().map(|known| known.key).collect()
}

/// What is said of an installation: a tree in which every key has its default or something of the same kind.
#[derive(Clone, Debug, PartialEq)]
pub struct Values(Value);

impl Default for Values {
    fn default() -> Self {
        let mut values = Self(json!({}));
        known().into_iter().for_each(|known| values.put(&known.key, known.default));
        values
    }
}

impl Values {
    /// Defaults of an installation that outlives a node: three replicas.
    ///
    /// # Errors
    /// Never: the key is known.
    pub fn highly_available(mut self) -> Result<Self, Problem> {
        self.set("replicas", &3.into())?;
        Ok(self)
    }

    /// The whole tree.
    #[must_use]
    pub fn tree(&self) -> &Value {
        &self.0
    }

    /// What a key says.
    pub(super) fn at(&self, key: &str) -> &Value {
        self.0.pointer(&format!("/{}", key.replace('.', "/"))).unwrap_or(&Value::Null)
    }

    fn put(&mut self, key: &str, value: Value) {
        let (path, last) = key.rsplit_once('.').unwrap_or(("", key));
        let mut at = &mut self.0;
        for step in path.split('.').filter(|step| !step.is_empty()) {
            at = match at {
                Value::Object(map) => map.entry(step).or_insert_with(|| Value::Object(Map::new())),
                other => other,
            };
        }
        at[last] = value;
    }

    /// Says something else of a key.
    ///
    /// # Errors
    /// There is no such key, or the value is of another kind.
    pub fn set(&mut self, key: &str, value: &Value) -> Result<(), Problem> {
        let problem = |reason: String| Problem { key: key.to_owned(), reason };
        let all = known();
        let Some(known) = all.iter().find(|known| known.key == key) else {
            if all.iter().any(|known| known.key.starts_with(&format!("{key}."))) {
                return Err(problem("holds others: name one of them".into()));
            }
            return Err(problem(format!("there is no such key; there are {}", keys().join(", "))));
        };
        let fits = match &known.default {
            Value::Bool(_) => value.is_boolean(),
            Value::Number(_) => value.is_u64(),
            Value::String(_) => value.is_string(),
            Value::Array(_) => {
                let of = entries(key);
                let fits = |entry: &Value| match of {
                    "integer" => entry.is_u64(),
                    "object" => entry.is_object(),
                    _ => entry.is_string(),
                };
                value.as_array().is_some_and(|entries| entries.iter().all(fits))
            }
            _ => value.as_object().is_some_and(|map| map.values().all(Value::is_string)),
        };
        if !fits {
            return Err(problem(format!("{value} is not of the kind of {}", known.default)));
        }
        if !known.one_of.is_empty() && !known.one_of.iter().any(|one| value == one) {
            return Err(problem(format!("{value} is none of {}", known.one_of.join(", "))));
        }
        self.put(key, value.clone());
        self.judge(key)
    }

    fn judge(&self, key: &str) -> Result<(), Problem> {
        let problem = |reason: &str| Err(Problem { key: key.to_owned(), reason: reason.to_owned() });
        match key {
            "replicas" if self.at(key).as_u64() == Some(0) => problem("must be at least 1"),
            "webhook.timeoutSeconds" if !self.at(key).as_u64().is_some_and(|s| (1..=30).contains(&s)) => {
                problem("must be from 1 to 30")
            }
            "image" | "injection.image" | "trustDomain" | "revision" if self.at(key) == "" => {
                problem("must not be empty")
            }
            key if key.starts_with("injection.") => {
                match serde_json::from_value::<inject::Settings>(self.at("injection").clone()) {
                    Ok(_) => Ok(()),
                    Err(error) => problem(&error.to_string()),
                }
            }
            _ => Ok(()),
        }
    }

    /// `key=value`, the value read as the kind of the key has it: a list between commas, in braces or not.
    ///
    /// # Errors
    /// It is no assignment, or as [`Values::set`] says.
    pub fn assign(&mut self, text: &str) -> Result<(), Problem> {
        let (key, text) =
            text.split_once('=').ok_or_else(|| Problem { key: text.to_owned(), reason: "must be KEY=VALUE".into() })?;
        let default = known().into_iter().find(|known| known.key == key).map_or(Value::Null, |known| known.default);
        let scalar = |text: &str, of: &str| match of {
            "integer" => text.trim().parse::<u64>().map_or_else(|_| text.into(), Value::from),
            _ => Value::from(text.trim()),
        };
        let value = match default {
            Value::Bool(_) => text.parse().map_or_else(|_| text.into(), Value::Bool),
            Value::Number(_) => scalar(text, "integer"),
            Value::Array(_) => {
                let inner = text.strip_prefix('{').and_then(|text| text.strip_suffix('}')).unwrap_or(text);
                inner.split(',').filter(|part| !part.trim().is_empty()).map(|part| scalar(part, entries(key))).collect()
            }
            Value::Object(_) => {
                let pairs = text.split(',').filter_map(|pair| pair.split_once('='));
                pairs
                    .map(|(name, value)| (name.trim().to_owned(), Value::from(value.trim())))
                    .collect::<Map<_, _>>()
                    .into()
            }
            _ => text.into(),
        };
        self.set(key, &value)
    }

    /// What a file of values says, in YAML.
    ///
    /// # Errors
    /// It cannot be read, or as [`Values::set`] says.
    pub fn read(&mut self, text: &str) -> Result<(), Problem> {
        let read: Value = if text.trim().is_empty() {
            json!({})
        } else {
            serde_saphyr::from_str(text).map_err(|error| Problem { key: "file".into(), reason: error.to_string() })?
        };
        self.take("", &read)
    }

    fn take(&mut self, path: &str, tree: &Value) -> Result<(), Problem> {
        let all = keys();
        let Some(fields) = tree.as_object() else {
            return Err(Problem { key: path.to_owned(), reason: "must hold keys and values".into() });
        };
        for (name, value) in fields {
            let key = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
            if all.iter().any(|known| known.starts_with(&format!("{key}."))) {
                self.take(&key, value)?;
            } else {
                self.set(&key, value)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_is_read_as_its_kind_and_what_is_not_known_is_refused_with_what_is() {
        let mut values = Values::default();
        for text in [
            "replicas=3",
            "injection.cpuRequest=50m",
            "injection.excludeOutboundPorts={3306,6379}",
            "nodeSelector=a=b,c=d",
            "extraArgs=--log-json",
        ] {
            values.assign(text).unwrap();
        }
        assert_eq!(values.at("replicas"), 3);
        assert_eq!(values.at("injection.excludeOutboundPorts"), &json!([3306, 6379]));
        assert_eq!(values.at("nodeSelector"), &json!({"a": "b", "c": "d"}));
        assert_eq!(values.at("extraArgs"), &json!(["--log-json"]));
        for (text, why) in [
            ("replica=3", "there is no such key; there are image, "),
            ("replicas", "must be KEY=VALUE"),
            ("replicas=three", "is not of the kind of 1"),
            ("replicas=0", "at least 1"),
            ("webhook=Fail", "holds others"),
            ("webhook.failurePolicy=Perhaps", "is none of Fail, Ignore"),
            ("webhook.timeoutSeconds=31", "from 1 to 30"),
            ("injection.rewriteProbes=no", "is not of the kind of true"),
            ("injection.controlPlane=a:1", "there is no such key"),
            ("injection.excludeOutboundPorts=70000", "70000"),
        ] {
            let refused = Values::default().assign(text).unwrap_err().to_string();
            assert!(refused.contains(why), "{text}: {refused}");
        }
        let mut read = Values::default();
        read.read("replicas: 2\ninjection: {workers: 2}\n").unwrap();
        assert_eq!((read.at("replicas"), read.at("injection.workers")), (&json!(2), &json!(2)));
        assert!(Values::default().read("injection: {worker: 2}").unwrap_err().key == "injection.worker");
    }
}
