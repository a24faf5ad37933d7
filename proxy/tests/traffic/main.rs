//! Traffic features through real sidecars: each test starts the processes that it needs, and sees what callers and applications see.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a panic in a test is its report")]

mod balance;
mod cardinality;
mod deadlines;
mod egress;
mod fallback;
mod faults;
mod grpc;
mod hedging;
mod inbound;
mod mirror;
mod sessions;
#[path = "../sidecar/mod.rs"]
mod sidecar;

use serde_json::{Value, json};
use sidecar::{Sidecar, service, slice};
use std::net::SocketAddr;

/// A sidecar to which `front` is known, with this frontend and no endpoints, and these backends with their endpoints and settings.
fn mesh(frontend: Value, backends: &[(&str, &[SocketAddr], Value)]) -> Sidecar {
    Sidecar::start(&resources(frontend, backends))
}

fn resources(frontend: Value, backends: &[(&str, &[SocketAddr], Value)]) -> Value {
    let mut services = vec![service("front", "PROTOCOL_DETECT", frontend, json!({}))];
    let mut slices = vec![slice("front", &[])];
    for (name, at, backend) in backends {
        services.push(service(name, "PROTOCOL_DETECT", json!({}), backend.clone()));
        slices.push(slice(name, at));
    }
    json!({"services": services, "endpoints": slices})
}
