//! TrafficPolicy and RateLimitPolicy from YAML to what sidecars hold: how several join, whom they reach, what is refused.

use super::tests::{LastGood, SHOP, compile, condition, json, put, with, world};
use super::*;
use serde_json::{Value, json};
use weft_proto::type_url;

fn port(output: &Output) -> Value {
    json("weft.v1.Service", &output.services["shop/catalog"].default.read())["ports"][0].clone()
}

/// Names of the limits on the first port of a workload.
fn limits(output: &Output, uid: &str) -> Vec<String> {
    output.inbound[uid].read().ports[0].rate_limits.iter().map(|l| l.name.clone()).collect()
}

#[test]
fn each_field_is_of_the_first_policy_that_sets_it_and_what_is_hashed_goes_with_the_algorithm() {
    let (output, _) = with(
        r#"
kind: TrafficPolicy
metadata: {name: first}
spec:
  targetRefs: [{kind: Service, name: catalog}]
  loadBalancer: {ignoreLocality: false, slowStart: 10s}
  fallback: {response: {status: 200}}
  adaptiveConcurrency: {minRequests: 5}
---
kind: TrafficPolicy
metadata: {name: second}
spec:
  targetRefs: [{kind: Service, name: catalog}]
  loadBalancer: {policy: RoundRobin, ignoreLocality: true, slowStart: 20s, panicPercent: 7}
  faults: [{abort: {status: 500, percent: 1}}]
  fallback: {backendRef: {name: catalog-v2, port: 80}}
  hedging: {}
  healthCheck: {tcp: {}}
  adaptiveConcurrency: {maxRequests: 50}
---
kind: TrafficPolicy
metadata: {name: third}
spec:
  targetRefs: [{kind: Service, name: catalog}]
  loadBalancer: {policy: Maglev, hash: [{header: x}]}
  faults: [{delay: {fixed: 1s}}, {delay: {fixed: 2s}}]
  hedging: {percentile: 50}
  healthCheck: {grpc: {}}"#,
    );
    let port = port(&output);
    assert_eq!(
        port["backend"],
        json!({
            "slices": ["shop/catalog:80/0"], "balancer": "BALANCER_ROUND_ROBIN", "slowStart": "10s", "panicPercent": 7,
            "healthCheck": {"tcp": {}},
        }),
        "false is said too, and nothing is hashed in turns"
    );
    assert_eq!(
        port["frontend"],
        json!({
            "faults": [{"abort": {"status": 500, "share": {"millionths": 10_000}}}],
            "fallback": {"response": {"status": 200}}, "hedge": {},
        })
    );
    let inbound = output.inbound["shop/catalog-1"].read().ports[0].clone();
    assert_eq!(inbound.adaptive_concurrency.unwrap().min_requests, Some(5));
    assert_eq!(inbound.adaptive_concurrency.unwrap().max_requests, None);
}

#[test]
fn what_holds_where_calls_arrive_follows_the_members_and_waits_for_them() {
    let mut world = world(&format!(
        "{SHOP}\n---\n{}",
        r#"
kind: TrafficPolicy
metadata: {name: shed}
spec: {targetRefs: [{kind: Service, name: catalog, sectionName: http}], adaptiveConcurrency: {maxRequests: 10}}"#
            .trim()
    ));
    let of = |output: &Output| -> Vec<String> {
        let shed = output.verdicts.iter().find(|v| v.name == "shed").unwrap();
        let inbound = shed.parents[0].shapes.iter().filter(|(kind, _)| *kind == type_url::INBOUND);
        let named: Vec<String> = inbound.map(|(_, uid)| uid.clone()).collect();
        let held =
            output.inbound.iter().filter(|(_, i)| i.read().ports.iter().any(|p| p.adaptive_concurrency.is_some()));
        assert_eq!(named, held.map(|(uid, _)| uid.to_string()).collect::<Vec<_>>());
        named
    };
    let (output, last) = compile(&world, &LastGood::default());
    assert_eq!(of(&output), ["shop/catalog-1", "shop/catalog-2"]);
    let mut left = (*world.workloads["shop/catalog-1"]).clone();
    left.labels = crate::world::Labels::default();
    world.workloads.insert("shop/catalog-1", Arc::new(left));
    let (output, last) = compile(&world, &last);
    assert_eq!(of(&output), ["shop/catalog-2"]);
    world.traffic.remove("shop/shed");
    let (output, _) = compile(&world, &last);
    assert!(output.inbound["shop/catalog-2"].read().ports[0].adaptive_concurrency.is_none());
}

const LIMITED: &str = r#"
kind: RateLimitPolicy
metadata: {name: b}
spec: {targetRefs: [{kind: Service, name: catalog}], limits: [{name: x, requests: 1, per: 1s}, {name: z, requests: 2, per: 1s}]}
---
kind: RateLimitPolicy
metadata: {name: a}
spec: {targetRefs: [{kind: Service, name: catalog-v2, sectionName: http}, {kind: Service, name: nobody}], limits: [{name: x, requests: 3, per: 1s}]}
---
kind: RateLimitPolicy
metadata: {name: c}
spec: {targetRefs: [{group: weft.mesh, kind: Workload, name: catalog-1}], limits: [{name: x, requests: 4, per: 1s}]}"#;

#[test]
fn rate_limits_of_several_policies_add_up_on_the_workloads_that_they_reach() {
    let (output, _) = with(LIMITED);
    assert_eq!(limits(&output, "shop/catalog-1"), ["shop/b/x", "shop/b/z", "shop/c/x"]);
    assert_eq!(limits(&output, "shop/catalog-2"), ["shop/a/x", "shop/b/x", "shop/b/z"]);
    for (name, resolved) in [("a", "TargetNotFound"), ("b", "ResolvedRefs"), ("c", "ResolvedRefs")] {
        assert!(condition(&output, name, "Accepted").status);
        assert_eq!(condition(&output, name, "ResolvedRefs").reason, resolved);
    }
    let shapes = &output.verdicts.iter().find(|v| v.name == "a").unwrap().parents[0].shapes;
    assert_eq!(shapes.iter().map(|(_, n)| n.as_str()).collect::<Vec<_>>(), ["shop/catalog-2"]);
}

#[test]
fn a_refused_rate_limit_policy_leaves_in_force_what_was() {
    let mut world = world(&format!("{SHOP}\n---\n{}", LIMITED.trim()));
    let (first, last) = compile(&world, &LastGood::default());
    let target = json!([{"kind": "Service", "name": "catalog"}]);
    let limit = |more: Value| {
        let mut limit = json!({"name": "x", "requests": 1, "per": "1s"});
        limit.as_object_mut().unwrap().extend(more.as_object().cloned().unwrap());
        json!([limit])
    };
    for (targets, limits, field) in [
        (json!([]), limit(json!({})), "spec.targetRefs"),
        (json!([{"kind": "Pod", "name": "catalog"}]), limit(json!({})), "spec.targetRefs[0]"),
        (target.clone(), limit(json!({"per": "1ms"})), "spec.limits[0].per"),
        (target.clone(), limit(json!({"keys": [{"identity": true, "method": true}]})), "spec.limits[0].keys[0]"),
        (
            target,
            limit(json!({"matches": [{"path": {"type": "Exact", "value": "x"}}]})),
            "spec.limits[0].matches[0].path",
        ),
    ] {
        let spec = json!({"targetRefs": targets, "limits": limits});
        put(
            &mut world,
            json!({"kind": "RateLimitPolicy", "metadata": {"namespace": "shop", "name": "b"}, "spec": spec}),
            1,
        );
        let (output, _) = compile(&world, &last);
        let accepted = condition(&output, "b", "Accepted");
        assert_eq!((accepted.status, accepted.reason), (false, "Invalid"), "{field}");
        assert!(accepted.message.contains(field), "{field}: {}", accepted.message);
        assert_eq!(output.inbound, first.inbound, "{field}");
    }
}

#[test]
fn more_rate_limits_than_a_sidecar_takes_leave_the_rest_of_the_port_in_force() {
    let all: Vec<Value> = (0..30).map(|i| json!({"name": format!("l{i}"), "requests": 1, "per": "1s"})).collect();
    let mut world = world(SHOP);
    for name in ["a", "b", "c"] {
        let spec = json!({"targetRefs": [{"kind": "Service", "name": "catalog"}], "limits": all});
        put(
            &mut world,
            json!({"kind": "RateLimitPolicy", "metadata": {"namespace": "shop", "name": name}, "spec": spec}),
            1,
        );
    }
    let (output, _) = compile(&world, &LastGood::default());
    assert_eq!(limits(&output, "shop/catalog-1").len(), 64);
}

#[test]
fn a_traffic_policy_that_no_server_checked_is_checked_here() {
    for (spec, field) in [
        ("loadBalancer: {policy: Maglev}", "spec.loadBalancer.hash"),
        ("healthCheck: {http: {}, tcp: {}}", "spec.healthCheck.tcp"),
        ("fallback: {}", "spec.fallback"),
        ("faults: [{delay: {fixed: 1s, percent: 1, fraction: {numerator: 1}}}]", "spec.faults[0].delay"),
        ("faults: [{abort: {status: 100}}]", "spec.faults[0].abort.status"),
        ("retry: {codes: [99]}", "spec.retry.codes[0]"),
    ] {
        let (output, _) = with(&format!(
            "kind: TrafficPolicy\nmetadata: {{name: p}}\nspec: {{targetRefs: [{{kind: Service, name: catalog}}], timeouts: {{request: 9s}}, {spec}}}"
        ));
        let accepted = condition(&output, "p", "Accepted");
        assert_eq!((accepted.status, accepted.reason), (false, "Invalid"), "{spec}");
        assert!(accepted.message.starts_with(field), "{spec}: {}", accepted.message);
        assert_eq!(port(&output)["frontend"], json!({}), "nothing of it is in force");
    }
}

const KEYS: &str =
    r#"{"keys":[{"kty":"OKP","crv":"Ed25519","kid":"a","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}"#;

const LOGIN: &str = r#"
kind: RequestAuthentication
metadata: {name: login}
spec: {targetRefs: [{kind: Service, name: catalog}], rules: [{issuer: a, jwksUri: "https://id.test/jwks"}]}"#;

#[test]
fn keys_are_pushed_once_they_are_fetched_and_stay_when_a_fetch_fails() {
    let mut world = world(&format!("{SHOP}\n---\n{}", LOGIN.trim()));
    let fetched = |keys: Option<&str>, failure: Option<&str>| {
        Arc::new(crate::world::jwks::Jwks { keys: keys.map(Into::into), failure: failure.map(str::to_owned) })
    };
    let pushed = |output: &Output| {
        let port = output.inbound["shop/catalog-1"].read().ports[0].clone();
        let condition = condition(output, "login", "JwksFetched");
        (port.request_authentication[0].rules[0].jwks.clone(), condition.status, condition.reason)
    };
    let (output, last) = compile(&world, &LastGood::default());
    assert_eq!(pushed(&output), (String::new(), false, "Pending"), "it holds before there are keys");
    assert!(condition(&output, "login", "Accepted").status);
    for (keys, failure, wanted) in [
        (None, Some("answered 500"), (String::new(), false, "FetchFailed")),
        (Some(KEYS), None, (KEYS.to_owned(), true, "JwksFetched")),
        (Some(KEYS), Some("answered 500"), (KEYS.to_owned(), false, "FetchFailed")),
    ] {
        world.jwks.insert("https://id.test/jwks", fetched(keys, failure));
        let (output, _) = compile(&world, &last);
        assert_eq!(pushed(&output), wanted);
    }
    let (output, _) = compile(&world, &last);
    let said = &condition(&output, "login", "JwksFetched").message;
    assert!(said.contains("https://id.test/jwks: answered 500; the last good keys stay"), "{said}");
}

#[test]
fn a_mistake_in_a_policy_about_callers_is_named_by_its_field() {
    let refused = |kind: &str, spec: &str| {
        let (output, _) = with(&format!("kind: {kind}\nmetadata: {{name: p}}\nspec: {spec}"));
        let accepted = condition(&output, "p", "Accepted").clone();
        assert_eq!((accepted.status, accepted.reason), (false, "Invalid"), "{spec}");
        accepted.message
    };
    for (spec, field) in [
        ("{rules: [{from: [{identities: [cart]}]}]}", "spec.rules[0].from[0].identities[0]"),
        ("{rules: [{}, {from: [{}, {serviceAccounts: ['*']}]}]}", "spec.rules[1].from[1].serviceAccounts[0]"),
        ("{rules: [{from: [{ipBlocks: [10.0.0.1/8]}]}]}", "spec.rules[0].from[0].ipBlocks[0]"),
        ("{rules: [{to: [{notPaths: ['/a/../b']}]}]}", "spec.rules[0].to[0].notPaths[0]"),
        ("{rules: [{to: [{hosts: ['a b']}]}]}", "spec.rules[0].to[0].hosts[0]"),
        ("{rules: [{when: [{key: remote.ip, values: [192.0.2.1]}]}]}", "spec.rules[0].when[0].key"),
        ("{rules: [{when: [{key: source.ip, notValues: [x]}]}]}", "spec.rules[0].when[0].notValues[0]"),
        ("{rules: [{when: [{key: source.ip}]}]}", "spec.rules[0].when[0].values"),
    ] {
        let message = refused("AuthorizationPolicy", spec);
        assert!(message.starts_with(&format!("{field}: ")), "{spec}: {message}");
    }
    for (rule, field) in [
        ("{issuer: a}", "jwksUri"),
        ("{issuer: a, jwks: '{}', jwksUri: 'https://id.test/'}", "jwksUri"),
        ("{issuer: a, jwks: '{}'}", "jwks"),
        ("{issuer: a, jwks: '{\"keys\": [{\"kty\": \"oct\", \"k\": \"AAAA\"}]}'}", "jwks"),
        ("{issuer: a, jwksUri: 'http://id.test/'}", "jwksUri"),
        ("{issuer: a, jwksUri: 'https://user@id.test/'}", "jwksUri"),
        ("{issuer: a, jwksUri: 'file:///etc/passwd'}", "jwksUri"),
        ("{issuer: a, jwksUri: 'https://id.test/', fromHeaders: [{name: 'a b'}]}", "fromHeaders[0].name"),
        ("{issuer: a, jwksUri: 'https://id.test/', clockSkew: 2h}", "clockSkew"),
    ] {
        let message = refused("RequestAuthentication", &format!("{{rules: [{rule}]}}"));
        assert!(message.starts_with(&format!("spec.rules[0].{field}: ")), "{rule}: {message}");
    }
}
