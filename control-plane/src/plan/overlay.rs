//! A world as it would be: objects laid over the one that there is.

use crate::compile::Kind;
use crate::kinds::{Workload, find_kind};
use crate::world::{World, watch};
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::sync::Arc;

/// Lays an object over the world, as the API would hold it. False: it is of a kind that means nothing to sidecars.
///
/// # Errors
/// When it cannot be read as what it says it is.
pub fn put(world: &mut World, mut object: Value) -> Result<bool, String> {
    if let Some(metadata) = object["metadata"].as_object_mut() {
        metadata.remove("managedFields");
    }
    let text = |field: &str| object[field].as_str().unwrap_or_default().to_owned();
    let (version, kind) = (text("apiVersion"), text("kind"));
    let name = |field: &str| object["metadata"][field].as_str().unwrap_or_default().to_owned();
    let key = format!("{}/{}", name("namespace"), name("name"));
    let Some(kind) = find_kind(&version, &kind) else { return Err(format!("{version} has no kind {kind}")) };
    match (kind.group, kind.kind) {
        ("", "Service") => drop(world.services.insert(key, typed(object)?)),
        (_, "Workload") => {
            let workload: Workload = serde_json::from_value(object).map_err(|error| error.to_string())?;
            drop(world.workloads.insert(key, Arc::new(workload.into())));
        }
        (_, "HTTPRoute") => drop(world.http_routes.insert(key, route(Kind::HttpRoute, object)?)),
        (_, "GRPCRoute") => drop(world.grpc_routes.insert(key, route(Kind::GrpcRoute, object)?)),
        (_, "TLSRoute") => drop(world.tls_routes.insert(key, route(Kind::TlsRoute, object)?)),
        (_, "TCPRoute") => drop(world.tcp_routes.insert(key, route(Kind::TcpRoute, object)?)),
        (_, "TrafficPolicy") => drop(world.traffic.insert(key, typed(object)?)),
        (_, "AuthorizationPolicy") => drop(world.authorization.insert(key, typed(object)?)),
        (_, "FederatedTrustDomain") => drop(world.federated.insert(key, typed(object)?)),
        (_, "MeshTLS") => drop(world.mesh_tls.insert(key, typed(object)?)),
        (_, "RateLimitPolicy") => drop(world.limits.insert(key, typed(object)?)),
        (_, "RequestAuthentication") => drop(world.authentication.insert(key, typed(object)?)),
        (_, "MeshSettings") => drop(world.settings.insert(key, typed(object)?)),
        _ => return Ok(false),
    }
    Ok(true)
}

fn typed<T: DeserializeOwned>(object: Value) -> Result<Arc<T>, String> {
    serde_json::from_value(object).map(Arc::new).map_err(|error| error.to_string())
}

fn route(kind: Kind, object: Value) -> Result<Arc<crate::world::Route>, String> {
    let object = serde_json::from_value(object).map_err(|error| error.to_string())?;
    // A change is judged as it is written, not as its rollout begins.
    Ok(watch::route(kind, object))
}
