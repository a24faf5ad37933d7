//! The stage of these tests: what the rig has, and the conditions of what was applied.

use serde_json::Value;

pub use weft_integration::rig::stage::{Instance, apply, file, kill_sidecar, services, text};
pub use weft_integration::rig::{Answer, Caller, Load, assert_all_well};

/// The condition `kind` of an object; of a route, under its first parent.
pub fn condition(object: &Value, kind: &str) -> Value {
    let own = object.pointer("/status/conditions").and_then(Value::as_array);
    let of_parent = object.pointer("/status/parents/0/conditions").and_then(Value::as_array);
    let mut all = own.into_iter().chain(of_parent).flatten();
    all.find(|c| c["type"] == kind).cloned().unwrap_or_default()
}
