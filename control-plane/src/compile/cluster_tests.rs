//! What pods and slices of a cluster become: as the compiler makes it of a world that a cluster told.

use super::tests::{LastGood, compile, world};
use super::*;
use crate::world::cluster::{pod, slice};
use serde_json::json;
use std::sync::Arc;

fn told() -> World {
    let mut world = world(
        "kind: Service\nmetadata: {name: cart}\nspec: {selector: {app: cart}, clusterIP: 198.18.0.9, clusterIPs: [198.18.0.9], \
         ports: [{name: http, port: 80, targetPort: web}, {name: grpc, port: 81, targetPort: 9000}, {name: dns, port: 53, protocol: UDP}]}\n\
         ---\nkind: Service\nmetadata: {name: db}\nspec: {ports: [{name: pg, port: 5432}, {name: other, port: 1}]}",
    );
    let cart = json!({
        "metadata": {"namespace": "shop", "name": "cart-1", "labels": {"app": "cart"}, "annotations": {"weft.mesh/injected": "{}"}},
        "spec": {"serviceAccountName": "cart",
            "initContainers": [{"name": "weft-proxy", "restartPolicy": "Always"}],
            "containers": [{"name": "cart", "ports": [{"name": "web", "containerPort": 8080}]}]},
        "status": {"podIP": "192.0.2.7", "conditions": [{"type": "Ready", "status": "True"}]},
    });
    let cart = pod::workload(serde_json::from_value(cart).unwrap(), |_| None).unwrap();
    world.workloads.insert("shop/cart-1", Arc::new(cart));
    let db = json!({
        "metadata": {"namespace": "shop", "name": "db-x", "labels": {"kubernetes.io/service-name": "db"}},
        "addressType": "IPv4", "ports": [{"name": "pg", "port": 5433}], "endpoints": [{"addresses": ["192.0.2.50"]}],
    });
    for (uid, workload) in slice::workloads(serde_json::from_value(db).unwrap()).0 {
        world.workloads.insert(uid, workload);
    }
    world
}

fn endpoints(output: &Output, service: &str) -> Vec<(String, u32, bool)> {
    let slices = output.slices_of(service).map(|slice| slice.read());
    slices.flat_map(|s| s.endpoints.into_iter().map(|e| (e.address, e.port, !e.tunnel.is_empty()))).collect()
}

#[test]
fn a_pod_serves_ports_that_a_service_leads_to_whether_it_lists_them_or_not() {
    let (output, _) = compile(&told(), &LastGood::default());
    let at = |port, meshed| ("192.0.2.7".to_owned(), port, meshed);
    assert_eq!(endpoints(&output, "shop/cart"), [at(8080, true), at(9000, true)]);
    // What peers may ask its sidecar for is the same; a call of its address finds both too.
    let inbound = output.inbound.get("shop/cart-1").unwrap();
    let ports: Vec<u32> = inbound.read().ports.iter().map(|port| port.port).collect();
    assert_eq!(ports, [8080, 9000]);
    let (alone, _) = output.alone.get("shop/~cart-1").unwrap().read();
    assert_eq!(alone.ports.iter().map(|port| port.port).collect::<Vec<_>>(), [8080, 9000]);
}

#[test]
fn a_slice_serves_the_ports_of_its_service_that_have_its_names() {
    let (output, _) = compile(&told(), &LastGood::default());
    assert_eq!(endpoints(&output, "shop/db"), [("192.0.2.50".to_owned(), 5433, false)]);
    assert!(!output.inbound.contains_key("shop/db-x-192-0-2-50"), "it has no sidecar");
}
