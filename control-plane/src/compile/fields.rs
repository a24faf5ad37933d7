//! That every field of TrafficPolicy, RateLimitPolicy, AuthorizationPolicy and RequestAuthentication reaches a sidecar: each is set alone,
//! and what is compiled differs there and nowhere else. A field of the schemas that no row sets fails the test.

mod guards;

use super::tests::{LastGood, SHOP, compile, condition, json, world};
use crate::kinds;
use serde_json::{Value, json};
use std::collections::BTreeSet;

/// A field (`retry.codes[]`); the spec without it and with it; where that differs on the wire (`frontend/…` and `backend/…` of the Service's
/// port, `inbound/…` of the workload's), and what stands there then.
type Row = (&'static str, &'static str, &'static str, &'static str, Value);

fn traffic_policy() -> Vec<Row> {
    let mut rows = vec![
        (
            "targetRefs[].group",
            "{targetRefs: [{group: weft.mesh, kind: Service, name: catalog}], timeouts: {request: 1s}}",
            "{targetRefs: [{kind: Service, name: catalog}], timeouts: {request: 1s}}",
            "frontend/requestTimeout",
            json!("1s"),
        ),
        (
            "targetRefs[].kind",
            "{targetRefs: [{kind: Workload, name: catalog}], timeouts: {request: 1s}}",
            "{targetRefs: [{kind: Service, name: catalog}], timeouts: {request: 1s}}",
            "frontend/requestTimeout",
            json!("1s"),
        ),
        (
            "targetRefs[].name",
            "{targetRefs: [{kind: Service, name: catalog-v2}], timeouts: {request: 1s}}",
            "{targetRefs: [{kind: Service, name: catalog}], timeouts: {request: 1s}}",
            "frontend/requestTimeout",
            json!("1s"),
        ),
        (
            "targetRefs[].sectionName",
            "{targetRefs: [{kind: Service, name: catalog, sectionName: other}], timeouts: {request: 1s}}",
            "{targetRefs: [{kind: Service, name: catalog, sectionName: http}], timeouts: {request: 1s}}",
            "frontend/requestTimeout",
            json!("1s"),
        ),
        ("timeouts.request", "{}", "{timeouts: {request: 1s}}", "frontend/requestTimeout", json!("1s")),
        (
            "timeouts.backendRequest",
            "{}",
            "{timeouts: {backendRequest: 1s}}",
            "frontend/backendRequestTimeout",
            json!("1s"),
        ),
        ("timeouts.idle", "{}", "{timeouts: {idle: 0s}}", "frontend/idleTimeout", json!("0s")),
        ("timeouts.connect", "{}", "{timeouts: {connect: 2s}}", "backend/connectTimeout", json!("2s")),
        ("timeouts.tcpIdle", "{}", "{timeouts: {tcpIdle: 2s}}", "backend/tcpIdleTimeout", json!("2s")),
        ("retry.attempts", "{}", "{retry: {attempts: 0}}", "frontend/retry/attempts", json!(0)),
        ("retry.codes[]", "{retry: {}}", "{retry: {codes: [429]}}", "frontend/retry/codes", json!([429])),
        ("retry.methods[]", "{retry: {}}", "{retry: {methods: [POST]}}", "frontend/retry/methods", json!(["POST"])),
        ("retry.backoff", "{retry: {}}", "{retry: {backoff: 1s}}", "frontend/retry/backoff", json!("1s")),
        ("retry.grpcCodes[]", "{retry: {}}", "{retry: {grpcCodes: [8]}}", "frontend/retry/grpcCodes", json!([8])),
        ("retryBudget.percent", "{}", "{retryBudget: {percent: 0}}", "frontend/retryBudget/percent", json!(0)),
        (
            "retryBudget.minPerSecond",
            "{}",
            "{retryBudget: {minPerSecond: 3}}",
            "frontend/retryBudget/minPerSecond",
            json!(3),
        ),
        ("retryBudget.window", "{}", "{retryBudget: {window: 3s}}", "frontend/retryBudget/window", json!("3s")),
        ("hedging.percentile", "{hedging: {}}", "{hedging: {percentile: 90}}", "frontend/hedge/percentile", json!(90)),
        ("hedging.minDelay", "{hedging: {}}", "{hedging: {minDelay: 2s}}", "frontend/hedge/minDelay", json!("2s")),
        (
            "connectionLimits.maxConnections",
            "{}",
            "{connectionLimits: {maxConnections: 7}}",
            "backend/limits/connections",
            json!(7),
        ),
        (
            "connectionLimits.maxPendingRequests",
            "{}",
            "{connectionLimits: {maxPendingRequests: 7}}",
            "backend/limits/pending",
            json!(7),
        ),
        (
            "connectionLimits.maxRequests",
            "{}",
            "{connectionLimits: {maxRequests: 7}}",
            "backend/limits/requests",
            json!(7),
        ),
        (
            "circuitBreaker.disabled",
            "{}",
            "{circuitBreaker: {disabled: true}}",
            "backend/breaker/disabled",
            json!(true),
        ),
        (
            "circuitBreaker.consecutiveFailures",
            "{}",
            "{circuitBreaker: {consecutiveFailures: 7}}",
            "backend/breaker/consecutiveFailures",
            json!(7),
        ),
        (
            "circuitBreaker.successPercent",
            "{}",
            "{circuitBreaker: {successPercent: 0}}",
            "backend/breaker/successPercent",
            json!(0),
        ),
        (
            "circuitBreaker.minimumCalls",
            "{}",
            "{circuitBreaker: {minimumCalls: 7}}",
            "backend/breaker/minimumCalls",
            json!(7),
        ),
        ("circuitBreaker.window", "{}", "{circuitBreaker: {window: 7s}}", "backend/breaker/window", json!("7s")),
        ("circuitBreaker.baseOpen", "{}", "{circuitBreaker: {baseOpen: 7s}}", "backend/breaker/baseOpen", json!("7s")),
        ("circuitBreaker.maxOpen", "{}", "{circuitBreaker: {maxOpen: 7s}}", "backend/breaker/maxOpen", json!("7s")),
        (
            "loadBalancer.policy",
            "{}",
            "{loadBalancer: {policy: LeastRequest}}",
            "backend/balancer",
            json!("BALANCER_LEAST_REQUEST"),
        ),
        (
            "loadBalancer.hash[].header",
            "{loadBalancer: {policy: RingHash, hash: [{sourceAddress: true}]}}",
            "{loadBalancer: {policy: RingHash, hash: [{header: x-user}, {sourceAddress: true}]}}",
            "backend/hash",
            json!([{"header": "x-user"}, {"sourceAddress": true}]),
        ),
        (
            "loadBalancer.hash[].cookie",
            "{loadBalancer: {policy: Maglev, hash: [{sourceAddress: true}]}}",
            "{loadBalancer: {policy: Maglev, hash: [{cookie: sid}]}}",
            "backend/hash",
            json!([{"cookie": "sid"}]),
        ),
        (
            "loadBalancer.hash[].sourceAddress",
            "{loadBalancer: {policy: Maglev, hash: [{cookie: sid}]}}",
            "{loadBalancer: {policy: Maglev, hash: [{sourceAddress: true}]}}",
            "backend/hash",
            json!([{"sourceAddress": true}]),
        ),
        (
            "loadBalancer.ignoreLocality",
            "{}",
            "{loadBalancer: {ignoreLocality: true}}",
            "backend/ignoreLocality",
            json!(true),
        ),
        ("loadBalancer.slowStart", "{}", "{loadBalancer: {slowStart: 30s}}", "backend/slowStart", json!("30s")),
        ("loadBalancer.panicPercent", "{}", "{loadBalancer: {panicPercent: 0}}", "backend/panicPercent", json!(0)),
        (
            "healthCheck.http.path",
            "{healthCheck: {http: {}}}",
            "{healthCheck: {http: {path: /well}}}",
            "backend/healthCheck/http/path",
            json!("/well"),
        ),
        (
            "healthCheck.http.host",
            "{healthCheck: {http: {}}}",
            "{healthCheck: {http: {host: a.example.com}}}",
            "backend/healthCheck/http/host",
            json!("a.example.com"),
        ),
        (
            "healthCheck.http.statuses[]",
            "{healthCheck: {http: {}}}",
            "{healthCheck: {http: {statuses: [204]}}}",
            "backend/healthCheck/http/statuses",
            json!([204]),
        ),
        (
            "healthCheck.grpc.service",
            "{healthCheck: {grpc: {}}}",
            "{healthCheck: {grpc: {service: shop.Catalog}}}",
            "backend/healthCheck/grpc/service",
            json!("shop.Catalog"),
        ),
        ("healthCheck.tcp", "{}", "{healthCheck: {tcp: {}}}", "backend/healthCheck", json!({"tcp": {}})),
        (
            "healthCheck.interval",
            "{healthCheck: {tcp: {}}}",
            "{healthCheck: {tcp: {}, interval: 5s}}",
            "backend/healthCheck/interval",
            json!("5s"),
        ),
        (
            "healthCheck.timeout",
            "{healthCheck: {tcp: {}}}",
            "{healthCheck: {tcp: {}, timeout: 2s}}",
            "backend/healthCheck/timeout",
            json!("2s"),
        ),
        (
            "healthCheck.healthyThreshold",
            "{healthCheck: {tcp: {}}}",
            "{healthCheck: {tcp: {}, healthyThreshold: 4}}",
            "backend/healthCheck/healthyThreshold",
            json!(4),
        ),
        (
            "healthCheck.unhealthyThreshold",
            "{healthCheck: {tcp: {}}}",
            "{healthCheck: {tcp: {}, unhealthyThreshold: 4}}",
            "backend/healthCheck/unhealthyThreshold",
            json!(4),
        ),
        (
            "faults[].delay.fixed",
            "{faults: [{delay: {fixed: 1s}}]}",
            "{faults: [{delay: {fixed: 2s}}]}",
            "frontend/faults/0/delay/fixed",
            json!("2s"),
        ),
        (
            "faults[].delay.percent",
            "{faults: [{delay: {fixed: 1s}}]}",
            "{faults: [{delay: {fixed: 1s, percent: 10}}]}",
            "frontend/faults/0/delay/share/millionths",
            json!(100_000),
        ),
        (
            "faults[].delay.fraction.numerator",
            "{faults: [{delay: {fixed: 1s}}]}",
            "{faults: [{delay: {fixed: 1s, fraction: {numerator: 1}}}]}",
            "frontend/faults/0/delay/share/millionths",
            json!(10_000),
        ),
        (
            "faults[].delay.fraction.denominator",
            "{faults: [{delay: {fixed: 1s, fraction: {numerator: 1}}}]}",
            "{faults: [{delay: {fixed: 1s, fraction: {numerator: 1, denominator: 10000}}}]}",
            "frontend/faults/0/delay/share/millionths",
            json!(100),
        ),
        (
            "faults[].abort.status",
            "{faults: [{abort: {status: 500}}]}",
            "{faults: [{abort: {status: 503}}]}",
            "frontend/faults/0/abort/status",
            json!(503),
        ),
        (
            "faults[].abort.grpcStatus",
            "{faults: [{abort: {status: 503}}]}",
            "{faults: [{abort: {status: 503, grpcStatus: 14}}]}",
            "frontend/faults/0/abort/grpcStatus",
            json!(14),
        ),
        (
            "faults[].abort.percent",
            "{faults: [{abort: {status: 503}}]}",
            "{faults: [{abort: {status: 503, percent: 100}}]}",
            "frontend/faults/0/abort/share/millionths",
            json!(1_000_000),
        ),
        (
            "faults[].abort.fraction.numerator",
            "{faults: [{abort: {status: 503}}]}",
            "{faults: [{abort: {status: 503, fraction: {numerator: 3}}}]}",
            "frontend/faults/0/abort/share/millionths",
            json!(30_000),
        ),
        (
            "faults[].abort.fraction.denominator",
            "{faults: [{abort: {status: 503, fraction: {numerator: 3}}}]}",
            "{faults: [{abort: {status: 503, fraction: {numerator: 3, denominator: 1000}}}]}",
            "frontend/faults/0/abort/share/millionths",
            json!(3_000),
        ),
        (
            "fallback.backendRef.name",
            "{fallback: {backendRef: {name: catalog, port: 80}}}",
            "{fallback: {backendRef: {name: catalog-v2, port: 80}}}",
            "frontend/fallback/backend/service",
            json!("shop/catalog-v2"),
        ),
        (
            "fallback.backendRef.namespace",
            "{fallback: {backendRef: {name: catalog, namespace: shop, port: 81}}}",
            "{fallback: {backendRef: {name: catalog, namespace: bank, port: 81}}}",
            "frontend/fallback/backend/service",
            json!("bank/catalog"),
        ),
        (
            "fallback.backendRef.port",
            "{fallback: {backendRef: {name: nobody, port: 80}}}",
            "{fallback: {backendRef: {name: nobody, port: 81}}}",
            "frontend/fallback/backend/port",
            json!(81),
        ),
        (
            "fallback.response.status",
            "{fallback: {response: {status: 200}}}",
            "{fallback: {response: {status: 299}}}",
            "frontend/fallback/response/status",
            json!(299),
        ),
        (
            "fallback.response.contentType",
            "{fallback: {response: {status: 200}}}",
            "{fallback: {response: {status: 200, contentType: text/plain}}}",
            "frontend/fallback/response/contentType",
            json!("text/plain"),
        ),
        (
            "fallback.response.body",
            "{fallback: {response: {status: 200}}}",
            "{fallback: {response: {status: 200, body: later}}}",
            "frontend/fallback/response/body",
            json!("bGF0ZXI="),
        ),
        (
            "adaptiveConcurrency.minRequests",
            "{}",
            "{adaptiveConcurrency: {minRequests: 8}}",
            "inbound/adaptiveConcurrency/minRequests",
            json!(8),
        ),
        (
            "adaptiveConcurrency.maxRequests",
            "{}",
            "{adaptiveConcurrency: {maxRequests: 9}}",
            "inbound/adaptiveConcurrency/maxRequests",
            json!(9),
        ),
    ];
    let leaked = |text: String| -> &'static str { Box::leak(text.into_boxed_str()) };
    rows.extend(matches().into_iter().map(|(field, before, after, wire)| {
        let spec = |matched| leaked(format!("{{faults: [{{abort: {{status: 503}}, matches: [{matched}]}}]}}"));
        (leaked(format!("faults[].matches[].{field}")), spec(before), spec(after), "frontend/faults/0/matches/0", wire)
    }));
    rows
}

fn rate_limit_policy() -> Vec<Row> {
    const LIMIT: &str = "limits: [{name: a, requests: 10, per: 1s}]";
    let leaked = |text: String| -> &'static str { Box::leak(text.into_boxed_str()) };
    let with = |more: &str| leaked(format!("{{limits: [{{name: a, requests: 10, per: 1s{more}}}]}}"));
    let targets = |target: &str| leaked(format!("{{targetRefs: [{target}], {LIMIT}}}"));
    let limit = json!([{"name": "shop/p/a", "requests": 10, "per": "1s"}]);
    let workload = targets("{group: weft.mesh, kind: Workload, name: catalog-1}");
    let service = targets("{kind: Service, name: catalog, sectionName: http}");
    let mut rows: Vec<Row> = vec![
        (
            "targetRefs[].group",
            targets("{kind: Workload, name: catalog-1}"),
            workload,
            "inbound/rateLimits",
            limit.clone(),
        ),
        (
            "targetRefs[].kind",
            targets("{group: weft.mesh, kind: Service, name: catalog-1}"),
            workload,
            "inbound/rateLimits",
            limit.clone(),
        ),
        ("targetRefs[].name", targets("{kind: Service, name: nobody}"), service, "inbound/rateLimits", limit.clone()),
        (
            "targetRefs[].sectionName",
            targets("{kind: Service, name: catalog, sectionName: other}"),
            service,
            "inbound/rateLimits",
            limit,
        ),
        (
            "limits[].name",
            with(""),
            "{limits: [{name: b, requests: 10, per: 1s}]}",
            "inbound/rateLimits/0/name",
            json!("shop/p/b"),
        ),
        (
            "limits[].requests",
            with(""),
            "{limits: [{name: a, requests: 11, per: 1s}]}",
            "inbound/rateLimits/0/requests",
            json!(11),
        ),
        (
            "limits[].per",
            with(""),
            "{limits: [{name: a, requests: 10, per: 1h}]}",
            "inbound/rateLimits/0/per",
            json!("3600s"),
        ),
        ("limits[].burst", with(""), with(", burst: 30"), "inbound/rateLimits/0/burst", json!(30)),
        (
            "limits[].scope",
            with(""),
            with(", scope: Global"),
            "inbound/rateLimits/0/scope",
            json!("RATE_LIMIT_SCOPE_GLOBAL"),
        ),
        (
            "limits[].keys[].identity",
            with(""),
            with(", keys: [{identity: true}]"),
            "inbound/rateLimits/0/keys",
            json!([{"identity": true}]),
        ),
        (
            "limits[].keys[].header",
            with(""),
            with(", keys: [{header: x-user}]"),
            "inbound/rateLimits/0/keys",
            json!([{"header": "x-user"}]),
        ),
        (
            "limits[].keys[].method",
            with(""),
            with(", keys: [{method: true}]"),
            "inbound/rateLimits/0/keys",
            json!([{"method": true}]),
        ),
    ];
    rows.extend(matches().into_iter().map(|(field, before, after, wire)| {
        let spec = |matched| with(&format!(", matches: [{matched}]"));
        (
            leaked(format!("limits[].matches[].{field}")),
            spec(before),
            spec(after),
            "inbound/rateLimits/0/matches/0",
            wire,
        )
    }));
    rows
}

/// The fields of a match, each as a row of its own: field, without, with, and the whole match on the wire.
fn matches() -> Vec<(&'static str, &'static str, &'static str, Value)> {
    let header = |value: &str| json!({"method": "GET", "headers": [{"name": "x-a", "exact": value}]});
    let query = |value: &str| json!({"method": "GET", "queries": [{"name": "a", "exact": value}]});
    vec![
        (
            "method",
            "{path: {value: /a}}",
            "{path: {value: /a}, method: PUT}",
            json!({"pathPrefix": "/a", "method": "PUT"}),
        ),
        ("path.type", "{path: {value: /a}}", "{path: {type: Exact, value: /a}}", json!({"exactPath": "/a"})),
        ("path.value", "{path: {value: /a}}", "{path: {value: /b}}", json!({"pathPrefix": "/b"})),
        (
            "headers[].name",
            "{method: GET, headers: [{name: x-b, value: v}]}",
            "{method: GET, headers: [{name: X-A, value: v}]}",
            header("v"),
        ),
        (
            "headers[].value",
            "{method: GET, headers: [{name: x-a, value: v}]}",
            "{method: GET, headers: [{name: x-a, value: w}]}",
            header("w"),
        ),
        (
            "headers[].type",
            "{method: GET, headers: [{name: x-a, value: v}]}",
            "{method: GET, headers: [{name: x-a, value: v, type: RegularExpression}]}",
            json!({"method": "GET", "headers": [{"name": "x-a", "regex": "v"}]}),
        ),
        (
            "queryParams[].name",
            "{method: GET, queryParams: [{name: b, value: v}]}",
            "{method: GET, queryParams: [{name: a, value: v}]}",
            query("v"),
        ),
        (
            "queryParams[].value",
            "{method: GET, queryParams: [{name: a, value: v}]}",
            "{method: GET, queryParams: [{name: a, value: w}]}",
            query("w"),
        ),
        (
            "queryParams[].type",
            "{method: GET, queryParams: [{name: a, value: v}]}",
            "{method: GET, queryParams: [{name: a, value: v, type: RegularExpression}]}",
            json!({"method": "GET", "queries": [{"name": "a", "regex": "v"}]}),
        ),
    ]
}

/// What callers and the workload hold under a policy, and whether it was accepted.
fn compiled(kind: &str, spec: &str) -> (Value, bool) {
    let mut spec: Value = serde_saphyr::from_str(spec).unwrap();
    if spec["targetRefs"].is_null() {
        spec["targetRefs"] = json!([{"kind": "Service", "name": "catalog"}]);
    }
    let mut world = world(SHOP);
    let keys = crate::world::jwks::Jwks { keys: Some(guards::OTHER_KEYS.into()), failure: None };
    world.jwks.insert("https://id.test/jwks", keys.into());
    let policy = json!({"kind": kind, "metadata": {"namespace": "shop", "name": "p"}, "spec": spec});
    super::tests::put(&mut world, policy, 1);
    let (output, _) = compile(&world, &LastGood::default());
    let service = json("weft.v1.Service", &output.services["shop/catalog"].default.read());
    let inbound = json("weft.v1.Inbound", &output.inbound["shop/catalog-1"].read());
    let port = &service["ports"][0];
    let all = json!({"frontend": port["frontend"], "backend": port["backend"], "inbound": inbound["ports"][0]});
    (all, condition(&output, "p", "Accepted").status)
}

/// Takes the value out, and whatever is empty then or was.
fn without(mut value: Value, pointer: &str) -> Value {
    fn prune(value: &mut Value) {
        match value {
            Value::Object(map) => {
                map.values_mut().for_each(prune);
                map.retain(|_, v| !v.is_null() && v.as_object().is_none_or(|m| !m.is_empty()));
            }
            Value::Array(list) => list.iter_mut().for_each(prune),
            _ => {}
        }
    }
    if let Some(found) = value.pointer_mut(pointer) {
        *found = Value::Null;
    }
    prune(&mut value);
    value
}

/// The fields of a spec that hold values themselves.
fn leaves(schema: &Value, path: &str, found: &mut BTreeSet<String>) {
    match (schema["type"].as_str(), schema["properties"].as_object()) {
        (Some("array"), _) => leaves(&schema["items"], &format!("{path}[]"), found),
        (_, Some(properties)) if !properties.is_empty() => {
            for (name, schema) in properties {
                let at = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                leaves(schema, &at, found);
            }
        }
        _ => drop(found.insert(path.to_owned())),
    }
}

fn each_field_is_on_the_wire(kind: &str, rows: &[Row]) {
    let mut known = BTreeSet::new();
    let schema = &kinds::find_kind("weft.mesh/v1alpha1", kind).unwrap().schema;
    leaves(&schema["properties"]["spec"], "", &mut known);
    let set: BTreeSet<String> = rows.iter().map(|row| row.0.to_owned()).collect();
    assert_eq!(set, known, "{kind}: the fields of the rows are those of the schema");
    for (field, before, after, place, wanted) in rows {
        let ((was, _), (is, accepted)) = (compiled(kind, before), compiled(kind, after));
        let pointer = format!("/{place}");
        assert!(accepted, "{kind} {field}: {after}");
        assert_eq!(is.pointer(&pointer), Some(wanted), "{kind} {field}: {is}");
        assert_ne!(was.pointer(&pointer), Some(wanted), "{kind} {field}: it makes no difference");
        assert_eq!(without(was, &pointer), without(is, &pointer), "{kind} {field}: something else differs too");
    }
}

#[test]
fn every_field_of_a_traffic_policy_is_on_the_wire() {
    each_field_is_on_the_wire("TrafficPolicy", &traffic_policy());
}

#[test]
fn every_field_of_a_rate_limit_policy_is_on_the_wire() {
    each_field_is_on_the_wire("RateLimitPolicy", &rate_limit_policy());
}

#[test]
fn every_field_of_an_authorization_policy_is_on_the_wire() {
    each_field_is_on_the_wire("AuthorizationPolicy", &guards::authorization_policy());
}

#[test]
fn every_field_of_a_request_authentication_is_on_the_wire() {
    each_field_is_on_the_wire("RequestAuthentication", &guards::request_authentication());
}
