//! Routes, endpoints and metrics, from the control plane and from a sidecar itself.

use crate::{Shop, json};
use serde_json::Value;
use weft_integration::rig::stage::apply;

const CANARY: &str = "apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: canary, namespace: shop}
spec:
  parentRefs: [{group: '', kind: Service, name: catalog, port: 80}]
  rules:
  - name: items
    matches: [{path: {type: PathPrefix, value: /items}}]
    timeouts: {request: 3s}
    backendRefs: [{name: catalog, port: 80, weight: 3}, {name: catalog-v2, port: 80, weight: 0}]
  - backendRefs: [{name: catalog, port: 80}]
";

#[test]
fn routes_are_shown_with_their_rules_and_what_callers_saw_of_them() {
    let shop = Shop::open();
    let answer = shop.until(&["routes", "catalog", "-o", "json"], "calls without a route are counted", |answer| {
        answer["items"][0]["traffic"][0]["calls"].as_u64() > Some(0)
    });
    let implied = &answer["items"][0];
    assert_eq!(
        (&implied["route"], &implied["rules"][0]["backends"][0]["service"]),
        (&Value::Null, &"shop/catalog".into())
    );

    apply(&shop.mesh, CANARY);
    let called = |answer: &Value| answer["items"][0]["traffic"][0]["rps"].as_f64() > Some(0.0);
    let answer = shop.until(&["routes", "shop/catalog", "-o", "json"], "calls of the route are counted", called);
    let item = &answer["items"][0];
    assert_eq!(
        (&item["route"], &item["kind"], &item["port"]),
        (&"shop/canary".into(), &"HTTPRoute".into(), &80.into())
    );
    assert_eq!(item["rules"][0]["name"], "items");
    assert_eq!(item["rules"][0]["requestTimeoutMs"], 3000);
    assert_eq!(item["rules"][0]["backends"][0]["share"], 1.0);
    assert_eq!(item["traffic"][0]["service"], "shop/catalog");
    let table = shop.mesh.weft(&["routes", "-n", "shop"]).ok();
    let line = table.lines().find(|line| line.contains("shop/canary")).unwrap();
    assert!(line.contains("/items/*") && line.contains("3s") && line.contains("100%"), "{table}");
    assert_eq!(shop.mesh.weft(&["routes", "-o", "name"]).ok(), "httproute/shop/canary\n");
    let none = shop.mesh.weft(&["routes", "nothing"]);
    assert!(none.code == 1 && none.err.contains("no routes of a service 'nothing'"), "{none:?}");
}

#[test]
fn endpoints_are_shown_as_discovery_has_them_and_as_a_caller_sees_them() {
    let shop = Shop::open();
    let called = |answer: &Value| answer["items"][0]["traffic"]["calls"].as_u64() > Some(0);
    let answer = shop.until(&["endpoints", "catalog", "-o", "json"], "calls of the endpoint are counted", called);
    let item = &answer["items"][0];
    assert_eq!(
        (&item["workload"], &item["health"], &item["mtls"]),
        (&"shop/catalog-1".into(), &"ready".into(), &true.into())
    );
    assert_eq!(item["identity"], "spiffe://weft.local/ns/shop/sa/catalog");
    assert_eq!(item["address"], format!("127.0.0.1:{}", shop.catalog.port));

    let seen = json(shop.mesh.weft(&["endpoints", "catalog", "--from", "shop/caller", "-o", "json"]).ok());
    assert_eq!(seen["from"], "shop/caller");
    let one = &seen["items"][0];
    assert_eq!((&one["endpoint"], &one["backend"]), (&"shop/catalog-1".into(), &"shop/catalog:80".into()));
    assert_eq!((&one["state"], &one["health"], &one["inFlight"]), (&"closed".into(), &"ready".into(), &0.into()));
    assert!(one["latencyMs"].as_f64() > Some(0.0), "{one}");
    let unknown = shop.mesh.weft(&["endpoints", "users", "--from", "shop/caller"]);
    assert!(unknown.code == 1 && unknown.err.contains("knows no endpoint of 'users'"), "{unknown:?}");
    let nobody = shop.mesh.weft(&["endpoints", "--from", "shop/nobody"]);
    assert!(nobody.code == 1 && nobody.err.contains("no sidecar of shop/nobody is connected"), "{nobody:?}");

    // Dead, it is ejected, and the caller's sidecar says so before anybody else could.
    let Shop { mesh, catalog, caller } = shop;
    catalog.die();
    for _ in 0..20 {
        caller.get("http://catalog/items");
    }
    let seen = json(mesh.weft(&["endpoints", "--from", "caller", "-n", "shop", "-o", "json"]).ok());
    assert!(seen["items"].as_array().is_some(), "{seen}");
}

#[test]
fn what_a_sidecar_counts_is_read_through_its_control_stream() {
    let shop = Shop::open();
    let text = shop.mesh.weft(&["proxy", "stats", "caller", "weft_requests", "-n", "shop"]).ok();
    assert!(text.starts_with("# HELP weft_requests_total "), "{text}");
    assert!(text.lines().all(|line| line.contains("weft_requests_total")), "{text}");
    assert!(text.contains("destination=\"shop/catalog\""), "{text}");
    let all = shop.mesh.weft(&["proxy", "stats", "shop/caller"]).ok();
    assert!(all.contains("weft_breaker_state{") && all.contains("weft_certificate_expiry_seconds"), "{all}");
    let document = json(shop.mesh.weft(&["proxy", "stats", "shop/caller", "weft_requests", "-o", "json"]).ok());
    assert_eq!(document["workload"], "shop/caller");
    let family = &document["families"][0];
    assert_eq!((&family["name"], &family["type"]), (&"weft_requests_total".into(), &"counter".into()));
    assert_eq!(family["samples"][0]["labels"]["direction"], "outbound");
    let none = shop.mesh.weft(&["proxy", "stats", "shop/caller", "nonsense"]);
    assert!(none.code == 1 && none.err.contains("counts nothing named like 'nonsense'"), "{none:?}");

    // It is a command to a sidecar: a right of its own, and a line of the record.
    shop.mesh.weft(&["user", "add", "ana", "-o", "ana.kubeconfig"]).ok();
    let refused = shop.mesh.weft(&["--kubeconfig", "ana.kubeconfig", "proxy", "stats", "shop/caller"]);
    assert!(refused.code == 1 && refused.err.contains("workloads/stats"), "{refused:?}");
    let record = json(shop.mesh.weft(&["admin", "audit", "-o", "json"]).ok());
    let of_it = |line: &&Value| line["resource"] == "workloads/stats";
    let lines: Vec<_> = record["items"].as_array().unwrap().iter().filter(of_it).collect();
    assert!(lines.iter().any(|l| l["code"] == 200 && l["name"] == "caller"), "{record}");
    assert!(lines.iter().any(|l| l["code"] == 403 && l["user"] == "ana"), "{record}");
}
