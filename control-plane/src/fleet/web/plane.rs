//! `GET /weft/v1/controlplane`: the control plane itself. Its replicas, its streams, how fast changes arrive, what sidecars refuse.

use super::{Sources, check, process};
use axum::Json;
use axum::extract::State;
use serde_json::{Value, json};

/// Refusals that are listed.
const REFUSALS: usize = 100;

pub(super) async fn show(State(sources): State<Sources>) -> Json<Value> {
    let seen = check::Seen::of(&sources).await;
    let refused = check::sidecars::refused(&seen);
    let refusals = refused.iter().take(REFUSALS).map(|refused| {
        let place = if refused.field.is_empty() { String::new() } else { format!("{}: ", refused.field) };
        json!({
            "workload": refused.sidecar,
            "resource": refused.resource,
            "error": format!("{place}{}", refused.reason),
        })
    });
    let refusals: Vec<Value> = refusals.collect();
    let (compiled, hub) = (sources.compiled.borrow().clone(), &sources.hub);
    Json(json!({
        "version": env!("CARGO_PKG_VERSION"),
        "trustDomain": sources.trust_domain,
        "replicas": replicas(&sources),
        "streams": hub.streams(),
        "connected": hub.convergence().connected(),
        "waiting": hub.convergence().behind(&compiled.offer()),
        "generation": compiled.generation,
        "resources": compiled.snapshot.len(),
        "convergence": {
            "p50Ms": sources.pace.within(0.5),
            "p99Ms": sources.pace.within(0.99),
            "last": sources.pace.last(),
        },
        "refusals": refusals,
        "store": check::control::described(&seen),
        "process": process::account(&sources),
    }))
}

/// Those that share the store, as long as their leases in it live; alone, this one.
fn replicas(sources: &Sources) -> Vec<Value> {
    let lead = sources.store.lead().borrow().clone();
    if lead.replicas.is_empty() {
        return vec![json!({ "name": null, "address": null, "leader": true })];
    }
    let shown = lead.replicas.iter().map(|replica| {
        json!({
            "name": replica.name,
            "address": replica.at.as_ref().map(|place| format!("https://{}", place.api)),
            "leader": lead.leader.as_ref().is_some_and(|leader| leader.name == replica.name),
        })
    });
    shown.collect()
}
