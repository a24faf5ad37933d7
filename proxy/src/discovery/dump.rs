//! What discovery holds, as JSON for operators: every resource with its version and whether it is in force, and what was refused.

use super::held::{Held, Slot};
use super::state::State;
use super::xds::Status;
use serde_json::{Value, json};
use std::sync::Arc;
use weft_proto::discovery::Resource;
use weft_proto::v1;

/// Asks the owner of the state for a dump.
pub type DumpRequest = tokio::sync::oneshot::Sender<Value>;

/// The dump; `status` when there is a stream.
pub(super) fn dump(state: &State, status: Option<&Status>) -> Value {
    // Held over all resources, so that they are decoded once.
    let _descriptors = weft_proto::json::Descriptors::get();
    let services: Vec<Value> = (state.services.iter())
        .filter_map(|(name, slot)| {
            let latest = slot.latest.as_ref()?;
            let mut value = resource::<v1::Service>(&latest.held.resource);
            let in_force = slot.active.as_ref();
            value["state"] = match in_force {
                Some(active) if Arc::ptr_eq(active, latest) => json!("active"),
                Some(active) => json!(format!("warming; {} is in force", active.held.resource.version)),
                None if slot.is_parked() => json!("remembered"),
                None => json!("warming"),
            };
            value["aliases"] = latest.aliases.iter().map(|a| Value::from(a.to_string())).collect();
            value["name"] = json!(name);
            Some(value)
        })
        .collect();
    let mut out = json!({
        "services": services,
        "endpoints": of::<_, v1::Endpoints>(state.slices.values()),
        "trustBundles": of::<_, v1::TrustBundle>(state.bundles.values()),
        "inbound": of::<_, v1::Inbound>(std::iter::once(&state.inbound)).pop(),
        "settings": of::<_, v1::MeshSettings>(std::iter::once(&state.settings)).pop(),
        "refused": state.refused.iter().map(|((url, _), refusal)| json!({
            "type": url,
            "name": refusal.name,
            "version": refusal.version,
            "field": refusal.field,
            "reason": refusal.reason,
        })).collect::<Vec<_>>(),
    });
    if let Some(status) = status {
        out["xds"] = json!({
            "connected": status.connected,
            "streams": status.streams,
            "responses": status.responses,
            "resources": status.resources,
            "subscriptions": status.subscriptions,
            "lastError": status.last_error,
        });
    }
    out
}

fn of<'s, T: 's, W: weft_proto::Resource>(slots: impl Iterator<Item = &'s Slot<T>>) -> Vec<Value> {
    slots.filter_map(|slot| slot.held.as_deref()).map(|held: &Held<T>| resource::<W>(&held.resource)).collect()
}

fn resource<W: weft_proto::Resource>(resource: &Resource) -> Value {
    let name = W::TYPE_URL.rsplit('/').next().unwrap_or_default();
    let body = match resource.resource.as_ref().map(W::from_any) {
        Some(Ok(wire)) => weft_proto::json::serialize(name, &wire, serde_json::value::Serializer)
            .unwrap_or_else(|error| json!({ "error": error.to_string() })),
        Some(Err(error)) => json!({ "error": error.to_string() }),
        None => Value::Null,
    };
    json!({ "name": resource.name, "version": resource.version, "resource": body })
}
