//! What a sidecar is doing at this moment, as JSON for operators: its connections, and every endpoint that it may call as it sees it.

use crate::discovery::Snapshot;
use crate::drain::{Drain, Side};
use crate::endpoint::Member;
use serde_json::{Value, json};
use std::time::Instant;
use weft_policy::config::Health;

/// The document of `GET /stats` and of `weft endpoints --from`.
#[must_use]
pub fn stats(snapshot: &Snapshot, drain: &Drain, ready: bool, now: Instant) -> Value {
    let endpoints: Vec<Value> = snapshot
        .clusters()
        .flat_map(|(_, _, cluster)| {
            let backend = cluster.name().to_string();
            cluster.members().into_iter().map(move |member| endpoint(&backend, &member, now))
        })
        .collect();
    json!({
        "version": env!("CARGO_PKG_VERSION"),
        "pid": std::process::id(),
        "ready": ready,
        "drain": { "stage": format!("{:?}", drain.stage()).to_ascii_lowercase(), "cut": drain.cut_count() },
        "generation": snapshot.generation,
        "services": snapshot.services.len(),
        "connections": { "inbound": drain.open(Side::Inbound), "outbound": drain.open(Side::Outbound) },
        "endpoints": endpoints,
    })
}

fn endpoint(backend: &str, member: &Member, now: Instant) -> Value {
    let known = &member.endpoint;
    let text = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    let latency = member.latency(now);
    json!({
        "backend": backend,
        "endpoint": &*known.uid,
        "address": known.address.to_string(),
        "zone": text(&known.zone),
        "weight": known.weight,
        "health": match member.health() {
            Health::Unknown => "unknown",
            Health::Ready => "ready",
            Health::NotReady => "notReady",
            Health::Draining => "draining",
        },
        "identity": known.tunnel.as_ref().map(|tunnel| &*tunnel.identity),
        "state": member.breaker_state(now),
        "opened": member.opened(),
        "inFlight": member.in_flight(),
        "latencyMs": (!latency.is_zero()).then_some(latency.as_secs_f64() * 1000.0),
    })
}
