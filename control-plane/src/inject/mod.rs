//! Injection: a pure function from a pod, as somebody wrote it, to the pod with a sidecar, and back.
//!
//! The same function serves `weft inject` and the admission webhook. It works on JSON values, not on typed pods, so that what this
//! version of the API types does not know passes through as it is. What it adds it can tell again by name and by one annotation, which
//! also keeps what it replaced: injecting twice is injecting once, and [`uninject`] restores what was there. No I/O here.

mod annotations;
mod pod;
mod probes;
pub mod webhook;
mod workload;

pub use annotations::{Interception, Refusal, Settings};
pub use workload::{Template, templates};

use serde_json::{Map, Value, json};

/// The sidecar's container, an init container that never ends (a native sidecar, Kubernetes 1.29).
pub const SIDECAR: &str = "weft-proxy";
/// The init container that installs the interception rules.
pub const RULES: &str = "weft-init";
/// Kept by each injected pod: what was added and replaced.
pub const RECORD: &str = "weft.mesh/injected";
/// Says whether a pod, or a namespace's pods, are meant: `enabled` or `disabled`; an annotation or a label.
pub const WISH: &str = "weft.mesh/inject";
/// Label with the revision of the control plane that injected the pod.
pub const REVISION: &str = "weft.mesh/revision";

/// What became of a pod.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// The pod with its sidecar.
    Injected(Value),
    /// It has exactly this sidecar already.
    Unchanged,
    /// It gets none, for a reason that is no mistake.
    Skipped(Skip),
}

/// Why a pod gets no sidecar.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Skip {
    /// The pod or its namespace says so.
    #[error("{0} says {WISH}: disabled")]
    Disabled(&'static str),
    /// Neither the pod nor its namespace asks for one.
    #[error("neither the pod nor its namespace says {WISH}: enabled")]
    NotAsked,
    /// Rules in the host's own network namespace would capture every program of the node.
    #[error("spec.hostNetwork is true: the node's own network is not captured")]
    HostNetwork,
    /// nftables is Linux'.
    #[error("spec.os.name is {0}: only Linux pods are captured")]
    NotLinux(String),
    /// Two meshes would capture one another.
    #[error("it has the sidecar {0} of another mesh")]
    OtherMesh(String),
}

/// Whether pods are meant that say nothing themselves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Wish {
    /// As `weft inject` has it: who names a file means it.
    #[default]
    Everything,
    /// The namespace says `enabled`.
    NamespaceEnabled,
    /// The namespace says `disabled`.
    NamespaceDisabled,
    /// The namespace says nothing.
    NobodyAsked,
}

/// Sidecars of others by the names of their containers.
const OTHERS: [&str; 5] = ["istio-proxy", "linkerd-proxy", "kuma-sidecar", "consul-dataplane", "envoy-sidecar"];

/// Gives the pod (`metadata` and `spec`; a pod template is one too) its sidecar.
///
/// # Errors
/// An annotation that is none of ours or says nonsense, a port or a user that is the sidecar's own, a pod without containers.
pub fn inject(pod: &Value, settings: &Settings, wish: Wish) -> Result<Outcome, Refusal> {
    if let Some(skip) = skip(pod, wish)? {
        return Ok(Outcome::Skipped(skip));
    }
    let record = record(pod)?;
    let bare = record.as_ref().map_or_else(|| pod.clone(), |record| pod::without_sidecar(pod, record));
    let settings = settings.for_pod(&bare)?;
    let fresh = pod::with_sidecar(&bare, &settings, record.unwrap_or_default())?;
    let kept = keep_what_was_completed(pod, fresh);
    Ok(if kept == *pod { Outcome::Unchanged } else { Outcome::Injected(kept) })
}

/// Takes the sidecar back; `None`: there is none of ours.
///
/// # Errors
/// A record that cannot be read.
pub fn uninject(pod: &Value) -> Result<Option<Value>, Refusal> {
    Ok(record(pod)?.map(|record| pod::without_sidecar(pod, &record)))
}

fn record(pod: &Value) -> Result<Option<pod::Record>, Refusal> {
    let Some(text) = string(pod, &["metadata", "annotations", RECORD]) else { return Ok(None) };
    let field = format!("metadata.annotations[{RECORD}]");
    serde_json::from_str(text).map(Some).map_err(|e| Refusal::new(field, e.to_string()))
}

fn skip(pod: &Value, wish: Wish) -> Result<Option<Skip>, Refusal> {
    let own = ["annotations", "labels"]
        .iter()
        .find_map(|place| Some((format!("metadata.{place}[{WISH}]"), string(pod, &["metadata", place, WISH])?)));
    let meant = match own {
        Some((_, "enabled" | "true")) => Ok(()),
        Some((_, "disabled" | "false")) => Err(Skip::Disabled("the pod")),
        Some((field, other)) => {
            return Err(Refusal::new(field, format!("{other:?} is neither enabled nor disabled")));
        }
        None => match wish {
            Wish::Everything | Wish::NamespaceEnabled => Ok(()),
            Wish::NamespaceDisabled => Err(Skip::Disabled("the namespace")),
            Wish::NobodyAsked => Err(Skip::NotAsked),
        },
    };
    if let Err(skip) = meant {
        return Ok(Some(skip));
    }
    let spec = pod.get("spec").unwrap_or(&Value::Null);
    if spec.get("hostNetwork").and_then(Value::as_bool) == Some(true) {
        return Ok(Some(Skip::HostNetwork));
    }
    if let Some(os) = string(spec, &["os", "name"]).filter(|os| *os != "linux") {
        return Ok(Some(Skip::NotLinux(os.to_owned())));
    }
    let other = pod::containers(spec).map(|(_, name, _)| name).find(|name| OTHERS.contains(name));
    Ok(other.map(|name| Skip::OtherMesh(name.to_owned())))
}

/// What an API server fills in by itself, in containers and volumes.
const DEFAULTED: [&str; 11] = [
    "terminationMessagePath",
    "terminationMessagePolicy",
    "imagePullPolicy",
    "apiVersion",
    "scheme",
    "timeoutSeconds",
    "periodSeconds",
    "successThreshold",
    "failureThreshold",
    "defaultMode",
    "resources",
];
/// What it, or another webhook, adds to.
const ADDED_TO: [&str; 2] = ["volumeMounts", "env"];

/// An API server fills in defaults and mounts, also in the sidecar's container, and asks again: what holds all that is wanted stays as
/// it is, and where it is.
fn keep_what_was_completed(before: &Value, mut fresh: Value) -> Value {
    for list in ["initContainers", "volumes"] {
        let Some(old) = before.pointer(&format!("/spec/{list}")).and_then(Value::as_array) else { continue };
        let Some(new) = fresh.pointer_mut(&format!("/spec/{list}")).and_then(Value::as_array_mut) else { continue };
        let place = |item: &Value| old.iter().position(|o| o.get("name") == item.get("name"));
        for item in new.iter_mut() {
            if let Some(same) = place(item).and_then(|i| old.get(i)).filter(|same| completes(same, item, "")) {
                item.clone_from(same);
            }
        }
        if new.len() == old.len() && new.iter().all(|item| place(item).is_some()) {
            new.sort_by_key(place);
        }
    }
    fresh
}

/// Whether `have` is what is wanted, but for what others complete. `key` is where both stand.
fn completes(have: &Value, want: &Value, key: &str) -> bool {
    match (have, want) {
        (Value::Object(have), Value::Object(want)) => {
            want.iter().all(|(key, want)| have.get(key).is_some_and(|have| completes(have, want, key)))
                && have.keys().all(|key| {
                    want.contains_key(key) || DEFAULTED.contains(&key.as_str()) || ADDED_TO.contains(&key.as_str())
                })
        }
        (Value::Array(have), Value::Array(want)) if ADDED_TO.contains(&key) => {
            let mut rest = have.iter();
            want.iter().all(|want| rest.any(|have| completes(have, want, "")))
        }
        (Value::Array(have), Value::Array(want)) => {
            have.len() == want.len() && have.iter().zip(want).all(|(have, want)| completes(have, want, ""))
        }
        _ => have == want,
    }
}

fn string<'a>(value: &'a Value, path: &[&str]) -> Option<&'a str> {
    path.iter().try_fold(value, |value, key| value.get(key))?.as_str()
}

/// The object under a key, made if it is not there (or null).
fn object<'a>(parent: &'a mut Map<String, Value>, key: &str) -> Option<&'a mut Map<String, Value>> {
    let child = parent.entry(key).or_insert_with(|| json!({}));
    if child.is_null() {
        *child = json!({});
    }
    child.as_object_mut()
}

#[cfg(test)]
mod tests;
