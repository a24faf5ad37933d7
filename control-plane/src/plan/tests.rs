//! A small shop, an hour of its calls, and what changes would do to them.

use super::*;
use crate::compile::tests::world;
use crate::fleet::traffic::Common;
use serde_json::json;

const SHOP: &str = r#"
kind: Service
metadata: {name: payments}
spec: {ports: [{name: http, port: 80, targetPort: 8080}]}
---
kind: Service
metadata: {name: payments-next}
spec: {ports: [{name: http, port: 80, targetPort: 8080}]}
---
kind: Workload
metadata: {name: payments-1}
spec: {serviceAccount: payments, address: 192.0.2.1, tunnel: "192.0.2.1:15008", services: [payments], ports: [{name: http, port: 8080}]}
---
kind: Workload
metadata: {name: payments-2}
spec: {serviceAccount: payments, address: 192.0.2.2, tunnel: "192.0.2.2:15008", services: [payments], ports: [{name: http, port: 8080}]}
---
kind: Workload
metadata: {name: next-1}
spec: {serviceAccount: payments, address: 192.0.2.3, tunnel: "192.0.2.3:15008", services: [payments-next], ports: [{name: http, port: 8080}]}
"#;

fn series(source: &str, method: &str, path: &str, calls: u64) -> Series {
    let account = source.rsplit_once('/').map_or("", |(_, name)| name);
    Series {
        source: source.to_owned(),
        destination: "shop/payments".to_owned(),
        common: Common {
            identity: format!("spiffe://weft.local/ns/shop/sa/{account}").into(),
            port: 80,
            protocol: "http1".into(),
            method: method.into(),
            authority: "payments".into(),
            path: path.into(),
            ..Common::default()
        },
        calls,
        busy: Duration::from_secs(10),
    }
}

fn read() -> Read {
    Read {
        series: vec![
            series("shop/orders", "POST", "/charges/{number}", 600),
            series("shop/orders", "GET", "/charges", 200),
            series("shop/cart", "GET", "/charges", 200),
        ],
        window: Duration::from_secs(600),
        ..Read::default()
    }
}

fn plan_of(read: &Read, objects: &[Value]) -> Forecast {
    let before = compiled(world(SHOP));
    let mut will = before.world.as_ref().clone();
    for object in objects {
        assert!(overlay::put(&mut will, object.clone()).unwrap());
    }
    forecast(&before, &compiled(will), read)
}

use serde_json::Value;

fn policy(spec: Value) -> Value {
    json!({
        "apiVersion": "weft.mesh/v1alpha1", "kind": "AuthorizationPolicy", "metadata": {"name": "guard", "namespace": "shop"}, "spec": spec,
    })
}

fn targets() -> Value {
    json!([{"group": "", "kind": "Service", "name": "payments"}])
}

fn edge<'f>(forecast: &'f Forecast, source: &str) -> &'f Edge {
    forecast.edges.iter().find(|edge| edge.source.as_deref() == Some(source)).unwrap()
}

#[test]
fn a_deny_rule_hits_the_calls_that_it_means_and_no_others() {
    let rules = json!([{"name": "charging", "from": [{"serviceAccounts": ["orders"]}], "to": [{"methods": ["POST"], "paths": ["/charges/*"]}]}]);
    let forecast = plan_of(&read(), &[policy(json!({"targetRefs": targets(), "action": "Deny", "rules": rules}))]);
    assert!(forecast.would_deny && forecast.calls == 1000, "{forecast:?}");
    assert_eq!(forecast.changes.len(), 1, "{forecast:?}");
    let change = &forecast.changes[0];
    assert_eq!((change.kind, change.calls, change.policy.as_deref()), ("denied", 600, Some("shop/guard")));
    assert!((change.share - 0.75).abs() < 1e-9 && (change.rps - 60.0).abs() < 1e-9, "{change:?}");
    assert!((edge(&forecast, "shop/orders").denied_share - 0.75).abs() < 1e-9);
    assert!(edge(&forecast, "shop/cart").denied_share.abs() < 1e-9);
}

#[test]
fn a_deny_rule_that_means_no_call_changes_nothing() {
    let rules = json!([{"to": [{"paths": ["/admin*"]}]}]);
    let forecast = plan_of(&read(), &[policy(json!({"targetRefs": targets(), "action": "Deny", "rules": rules}))]);
    assert!(!forecast.would_deny && forecast.changes.is_empty() && forecast.unknown.is_empty(), "{forecast:?}");
}

#[test]
fn what_is_taken_away_from_a_policy_is_newly_allowed() {
    let shut = policy(json!({"targetRefs": targets(), "rules": []}));
    let mut was = world(SHOP);
    overlay::put(&mut was, shut).unwrap();
    let mut will = was.clone();
    let rules = json!([{"from": [{"serviceAccounts": ["cart"]}]}]);
    overlay::put(&mut will, policy(json!({"targetRefs": targets(), "rules": rules}))).unwrap();
    let forecast = forecast(&compiled(was), &compiled(will), &read());
    assert!((edge(&forecast, "shop/cart").allowed_share - 1.0).abs() < 1e-9, "{forecast:?}");
    assert!(edge(&forecast, "shop/orders").allowed_share.abs() < 1e-9 && !forecast.would_deny);
}

#[test]
fn a_canary_takes_its_share_and_a_route_without_a_match_fails_the_rest() {
    let route = |rules: Value| {
        json!({
            "apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute", "metadata": {"name": "canary", "namespace": "shop"},
            "spec": {"parentRefs": [{"group": "", "kind": "Service", "name": "payments", "port": 80}], "rules": rules},
        })
    };
    let split = json!([{"backendRefs": [{"name": "payments", "port": 80, "weight": 80}, {"name": "payments-next", "port": 80, "weight": 20}]}]);
    let forecast = plan_of(&read(), &[route(split)]);
    for source in ["shop/orders", "shop/cart"] {
        let edge = edge(&forecast, source);
        assert!((edge.rerouted_share - 0.2).abs() < 1e-9 && edge.failing_share.abs() < 1e-9, "{forecast:?}");
    }
    assert_eq!(forecast.changes[0].after, "80 % shop/payments:80, 20 % shop/payments-next:80");
    assert_eq!(forecast.changes[0].policy.as_deref(), Some("shop/canary"));

    let only = json!([{"matches": [{"method": "POST"}], "backendRefs": [{"name": "payments", "port": 80}]}]);
    let forecast = plan_of(&read(), &[route(only)]);
    assert!((edge(&forecast, "shop/cart").failing_share - 1.0).abs() < 1e-9, "{forecast:?}");
    assert!((edge(&forecast, "shop/orders").failing_share - 0.25).abs() < 1e-9, "{forecast:?}");
}

#[test]
fn a_rate_limit_below_the_live_rate_refuses_what_is_above_it() {
    let limit = |requests: u32, scope: &str| {
        json!({
            "apiVersion": "weft.mesh/v1alpha1", "kind": "RateLimitPolicy", "metadata": {"name": "calm", "namespace": "shop"},
            "spec": {"targetRefs": targets(), "limits": [{"name": "all", "requests": requests, "per": "1s", "scope": scope}]},
        })
    };
    // 100 calls a second, at two workloads.
    let forecast = plan_of(&read(), &[limit(60, "Global")]);
    assert!((edge(&forecast, "shop/orders").limited_share - 0.4).abs() < 1e-9, "{forecast:?}");
    assert_eq!(forecast.changes[0].policy.as_deref(), Some("shop/calm"));
    let forecast = plan_of(&read(), &[limit(30, "Local")]);
    assert!((edge(&forecast, "shop/cart").limited_share - 0.4).abs() < 1e-9, "{forecast:?}");
    assert!(plan_of(&read(), &[limit(60, "Local")]).changes.is_empty());
}

#[test]
fn what_no_summary_holds_is_listed() {
    let conditions = json!([{"key": "request.headers[x-tenant]", "values": ["acme"]}, {"key": "source.ip", "values": ["192.0.2.0/24"]}]);
    let rules = json!([{"when": conditions}]);
    let mut read = read();
    read.series.push(series("shop/orders", "GET", "/…", 50));
    read.overflow.push(("shop/orders".into(), "shop/payments".into(), 7));
    let forecast = plan_of(&read, &[policy(json!({"targetRefs": targets(), "action": "Deny", "rules": rules}))]);
    let text = forecast.unknown.join("\n");
    assert!(text.contains("the header x-tenant") && text.contains("source.ip") && text.contains("57 calls"), "{text}");
}
