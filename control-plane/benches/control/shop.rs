//! A mesh of any size, the same each time: services with 3 to 10 endpoints, a third of them with routes, a fifth each with traffic policy
//! and authorization. As documents, as the API keeps them, and as the world that the compiler reads.

use serde::Deserialize as _;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use std::sync::Arc;
use weft_control::compile::Kind;
use weft_control::world::{Mesh, Route, World};

const GATEWAY: &str = "gateway.networking.k8s.io/v1";
const WEFT: &str = "weft.mesh/v1alpha1";

/// How large, and over how many namespaces.
#[derive(Clone, Copy)]
pub struct Size {
    pub services: usize,
    pub in_namespace: usize,
    /// Of each service; zero: 3 to 10.
    pub endpoints: usize,
}

impl Size {
    /// Namespace of the service of this number.
    pub fn namespace(self, i: usize) -> String {
        format!("shop-{}", i / self.in_namespace)
    }

    /// `namespace/name`.
    pub fn service(self, i: usize) -> String {
        format!("{}/item-{i}", self.namespace(i))
    }

    /// `namespace/name` of an endpoint of that service.
    pub fn workload(self, i: usize, endpoint: usize) -> String {
        format!("{}/item-{i}-{endpoint}", self.namespace(i))
    }

    /// Endpoints of the service of this number.
    pub fn endpoints(self, i: usize) -> usize {
        if self.endpoints == 0 { 3 + i * 5 % 8 } else { self.endpoints }
    }

    pub fn has_route(self, i: usize) -> bool {
        i.is_multiple_of(3)
    }

    pub fn has_policy(self, i: usize) -> bool {
        i % 5 == 1
    }

    pub fn has_authorization(self, i: usize) -> bool {
        i % 5 == 2
    }
}

/// Every object, in the order in which people would create them.
pub fn documents(size: Size) -> Vec<Value> {
    let mut all = Vec::new();
    let namespaces = size.services.div_ceil(size.in_namespace);
    all.extend((0..namespaces).map(|n| object("v1", "Namespace", "", &format!("shop-{n}"), 0, Value::Null)));
    let mut address = 0_u32;
    for i in 0..size.services {
        let namespace = size.namespace(i);
        all.push(service(&namespace, i));
        for e in 0..size.endpoints(i) {
            address += 1;
            all.push(workload(&namespace, i, e, address));
        }
        if size.has_route(i) {
            all.push(route(size, i, 10));
        }
        if size.has_policy(i) {
            all.push(traffic(&namespace, i, 3));
        }
        if size.has_authorization(i) {
            all.push(authorization(&namespace, i, "/item/*"));
        }
    }
    all
}

fn object(api: &str, kind: &str, namespace: &str, name: &str, age: usize, spec: Value) -> Value {
    let created = k8s_openapi::jiff::Timestamp::from_second(1_700_000_000 + age as i64).expect("a time").to_string();
    // As long as a UUID, and as different.
    let uid = format!("00000000-0000-4000-8000-{:012x}", fnv(&format!("{kind}/{namespace}/{name}")) >> 16);
    let mut all = json!({
        "apiVersion": api, "kind": kind,
        "metadata": {"name": name, "uid": uid, "creationTimestamp": created},
    });
    if !namespace.is_empty() {
        all["metadata"]["namespace"] = namespace.into();
        all["metadata"]["generation"] = 1.into();
        all["spec"] = spec;
    }
    all
}

fn fnv(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3))
}

fn service(namespace: &str, i: usize) -> Value {
    let vip = format!("198.18.{}.{}", i / 256, i % 256);
    let mut all = object(
        "v1",
        "Service",
        namespace,
        &format!("item-{i}"),
        i,
        json!({
            "type": "ClusterIP", "clusterIP": vip, "clusterIPs": [vip], "selector": {"app": format!("item-{i}")},
            "ports": [{"name": "http", "port": 80, "targetPort": "http", "protocol": "TCP"}],
        }),
    );
    all["metadata"]["labels"] = json!({"app": format!("item-{i}"), "part-of": "shop"});
    all
}

/// An endpoint, as its sidecar registers it.
fn workload(namespace: &str, i: usize, e: usize, address: u32) -> Value {
    let address = std::net::Ipv4Addr::from(0x0a00_0000 + address).to_string();
    let mut all = object(
        WEFT,
        "Workload",
        namespace,
        &format!("item-{i}-{e}"),
        i,
        json!({
            "serviceAccount": "default", "address": address, "tunnel": format!("{address}:15008"), "zone": format!("zone-{}", e % 3),
            "weight": 1, "ports": [{"name": "http", "port": 8080, "protocol": "http"}],
        }),
    );
    all["metadata"]["labels"] = json!({"app": format!("item-{i}"), "part-of": "shop"});
    all["status"] = json!({"phase": "Ready", "conditions": [{
        "type": "Ready", "status": "True", "reason": "Ready", "message": "", "observedGeneration": 1,
        "lastTransitionTime": "2026-01-01T00:00:00Z",
    }]});
    all
}

/// A canary of `weight` percent towards the next service, and a header that selects it; every tenth is a consumer route.
pub fn route(size: Size, i: usize, weight: u32) -> Value {
    let next = (i + 1) % size.services;
    let to = |i: usize, weight: u32| json!({"group": "", "kind": "Service", "namespace": size.namespace(i), "name": format!("item-{i}"), "port": 80, "weight": weight});
    let of =
        if i.is_multiple_of(10) { size.namespace((i + size.in_namespace) % size.services) } else { size.namespace(i) };
    object(
        GATEWAY,
        "HTTPRoute",
        &of,
        &format!("item-{i}"),
        i,
        json!({
            "parentRefs": [{"group": "", "kind": "Service", "namespace": size.namespace(i), "name": format!("item-{i}"), "port": 80}],
            "rules": [
                {"matches": [{"path": {"type": "PathPrefix", "value": "/item"}, "headers": [{"type": "Exact", "name": "x-canary", "value": "yes"}]}],
                 "backendRefs": [to(next, 1)]},
                {"matches": [{"path": {"type": "PathPrefix", "value": "/item"}, "method": "GET"}],
                 "timeouts": {"request": "5s", "backendRequest": "2s"}, "retry": {"attempts": 2, "codes": [502, 503]},
                 "backendRefs": [to(i, 100 - weight), to(next, weight)]},
                {"matches": [{"path": {"type": "PathPrefix", "value": "/"}}], "backendRefs": [to(i, 1)]},
            ],
        }),
    )
}

pub fn traffic(namespace: &str, i: usize, seconds: u32) -> Value {
    object(
        WEFT,
        "TrafficPolicy",
        namespace,
        &format!("item-{i}"),
        i,
        json!({
            "targetRefs": [{"group": "", "kind": "Service", "name": format!("item-{i}")}],
            "loadBalancer": {"policy": "LeastRequest"}, "timeouts": {"request": format!("{seconds}s")},
            "retry": {"attempts": 2, "codes": [503]}, "circuitBreaker": {"consecutiveFailures": 5},
        }),
    )
}

pub fn authorization(namespace: &str, i: usize, path: &str) -> Value {
    object(
        WEFT,
        "AuthorizationPolicy",
        namespace,
        &format!("item-{i}"),
        i,
        json!({
            "targetRefs": [{"group": "", "kind": "Service", "name": format!("item-{i}")}], "action": "Allow",
            "rules": [{"from": [{"namespaces": [namespace]}, {"serviceAccounts": ["shop-0/default"]}],
                       "to": [{"methods": ["GET", "POST"], "paths": [path]}]}],
        }),
    )
}

/// An empty world of the mesh that all of this is in.
pub fn nothing() -> World {
    World {
        mesh: Mesh {
            trust_domain: "weft.local".into(),
            domain: "cluster.local".into(),
            ranges: std::sync::Arc::new(["198.18.0.0/16".to_owned()]),
            registered_only: false,
            roots: vec![vec![0x30; 600]],
            ..Mesh::default()
        },
        ..World::default()
    }
}

/// The same objects as the compiler reads them.
pub fn world(documents: &[Value]) -> World {
    let mut world = nothing();
    for document in documents {
        put(&mut world, document);
    }
    world
}

fn typed<T: DeserializeOwned>(document: &Value) -> Arc<T> {
    Arc::new(T::deserialize(document).expect("a document of its kind"))
}

/// `namespace/name` of a document.
pub fn key(document: &Value) -> String {
    let text = |name: &str| document["metadata"][name].as_str().unwrap_or_default();
    format!("{}/{}", text("namespace"), text("name"))
}

/// Puts an object into the world; one of the same name is replaced.
pub fn put(world: &mut World, document: &Value) {
    let key = key(document);
    match document["kind"].as_str() {
        Some("Service") => drop(world.services.insert(key, typed(document))),
        Some("Workload") => {
            let object: weft_control::kinds::Workload = serde_json::from_value(document.clone()).expect("a Workload");
            drop(world.workloads.insert(key, Arc::new(object.into())));
        }
        Some("TrafficPolicy") => drop(world.traffic.insert(key, typed(document))),
        Some("AuthorizationPolicy") => drop(world.authorization.insert(key, typed(document))),
        Some("HTTPRoute") => drop(world.http_routes.insert(key, Arc::new(read_route(document)))),
        _ => {}
    }
}

fn read_route(document: &Value) -> Route {
    let meta = kube::core::ObjectMeta::deserialize(&document["metadata"]).expect("metadata");
    Route {
        rollout: None,
        kind: Kind::HttpRoute,
        created: weft_control::world::created(&meta),
        namespace: meta.namespace.unwrap_or_default(),
        name: meta.name.unwrap_or_default(),
        uid: meta.uid.unwrap_or_default(),
        generation: 1,
        spec: (&document["spec"]).into(),
        status: weft_control::world::Text::default(),
    }
}
