//! The compiler from YAML to resources and verdicts: what people write on one side, what sidecars hold on the other.

use super::*;
use crate::world::{Mesh, Route};

/// What an earlier compilation left behind.
pub(crate) type LastGood = Compiler;

pub(crate) fn compile(world: &World, last: &LastGood) -> (Output, LastGood) {
    let mut compiler = last.clone();
    (compiler.compile(world), compiler)
}
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use std::sync::Arc;
use weft_proto::type_url;

/// A world of YAML documents; objects are created in the order written.
pub(crate) fn world(yaml: &str) -> World {
    let mut world = World {
        mesh: Mesh {
            trust_domain: "weft.local".into(),
            domain: "cluster.local".into(),
            ranges: Arc::new(["198.18.0.0/16".to_owned()]),
            registered_only: false,
            ..Mesh::default()
        },
        ..World::default()
    };
    for (i, document) in yaml.split("\n---\n").enumerate() {
        let mut object: Value = serde_saphyr::from_str(document).unwrap();
        if object["metadata"]["namespace"].is_null() {
            object["metadata"]["namespace"] = "shop".into();
        }
        put(&mut world, object, 1_700_000_000 + i64::try_from(i).unwrap());
    }
    world
}

/// Puts an object into the world, created at that second.
pub(crate) fn put(world: &mut World, mut object: Value, created: i64) {
    object["metadata"]["creationTimestamp"] =
        k8s_openapi::jiff::Timestamp::from_second(created).unwrap().to_string().into();
    if object["metadata"]["generation"].is_null() {
        object["metadata"]["generation"] = 1.into();
    }
    add(world, object, created);
}

/// `namespace/name` of an object.
pub(super) fn key(object: &Value) -> String {
    let text = |name: &str| object["metadata"][name].as_str().unwrap_or_default();
    format!("{}/{}", text("namespace"), text("name"))
}

fn typed<T: DeserializeOwned>(object: &Value) -> Arc<T> {
    Arc::new(serde_json::from_value(object.clone()).unwrap())
}

fn add(world: &mut World, object: Value, created: i64) {
    let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned();
    let (namespace, name) = (text("/metadata/namespace"), text("/metadata/name"));
    let key = key(&object);
    match text("/kind").as_str() {
        "Service" => drop(world.services.insert(key, typed(&object))),
        "Workload" => {
            let object: crate::kinds::Workload = serde_json::from_value(object).unwrap();
            drop(world.workloads.insert(key, Arc::new(object.into())));
        }
        "TrafficPolicy" => drop(world.traffic.insert(key, typed(&object))),
        "AuthorizationPolicy" => drop(world.authorization.insert(key, typed(&object))),
        "MeshTLS" => drop(world.mesh_tls.insert(key, typed(&object))),
        "RateLimitPolicy" => drop(world.limits.insert(key, typed(&object))),
        "RequestAuthentication" => drop(world.authentication.insert(key, typed(&object))),
        "FederatedTrustDomain" => drop(world.federated.insert(format!("/{name}"), typed(&object))),
        "MeshSettings" => drop(world.settings.insert(format!("/{name}"), typed(&object))),
        // Nothing of the mesh: the API alone reads them.
        "Role" | "ClusterRole" | "RoleBinding" | "ClusterRoleBinding" | "ServiceAccount" => {}
        other => {
            let kind = Kind::ROUTES.into_iter().find(|k| k.name() == other).unwrap_or_else(|| panic!("{other}"));
            let route = Route {
                kind,
                namespace,
                name,
                uid: text("/metadata/uid"),
                generation: object["metadata"]["generation"].as_i64().unwrap_or_default(),
                created,
                rollout: object["metadata"]["annotations"][crate::kinds::ROLLOUT].as_str().map(str::to_owned),
                spec: (&object["spec"]).into(),
                status: crate::world::Text::default(),
            };
            of_kind(world, kind).insert(key, Arc::new(route));
        }
    }
}

/// The routes of a kind.
pub(super) fn of_kind(world: &mut World, kind: Kind) -> &mut Table<Arc<Route>> {
    match kind {
        Kind::HttpRoute => &mut world.http_routes,
        Kind::GrpcRoute => &mut world.grpc_routes,
        Kind::TlsRoute => &mut world.tls_routes,
        Kind::TcpRoute => &mut world.tcp_routes,
        other => panic!("{other:?} is no kind of route"),
    }
}

pub(super) const SHOP: &str = r#"
kind: Service
metadata: {name: catalog}
spec:
  clusterIP: 198.18.0.7
  selector: {app: catalog}
  ports: [{name: http, port: 80, targetPort: http}]
---
kind: Service
metadata: {name: catalog-v2}
spec:
  clusterIP: 198.18.0.8
  selector: {app: catalog, version: v2}
  ports: [{name: http, port: 80, targetPort: http}]
---
kind: Workload
metadata: {name: catalog-1, labels: {app: catalog, version: v1}}
spec: {serviceAccount: catalog, address: 127.0.0.1, tunnel: "127.0.0.1:40001", ports: [{name: http, port: 8081, protocol: http, local: "127.0.0.1:8081"}]}
status: {phase: Ready}
---
kind: Workload
metadata: {name: catalog-2, labels: {app: catalog, version: v2}}
spec: {serviceAccount: catalog, address: 192.0.2.9, tunnel: "192.0.2.9:15008", ports: [{name: http, port: 8080, protocol: http}], weight: 3, zone: a}
status: {phase: NotReady}"#;

pub(super) fn with(more: &str) -> (Output, LastGood) {
    compile(&world(&format!("{SHOP}\n---\n{}", more.trim())), &LastGood::default())
}

pub(super) fn condition<'o>(output: &'o Output, name: &str, kind: &str) -> &'o Condition {
    let verdict = output.verdicts.iter().find(|v| v.name == name).unwrap_or_else(|| panic!("no verdict on {name}"));
    verdict.parents[0].conditions.iter().find(|c| c.r#type == kind).unwrap()
}

pub(super) fn routes(service: &v1::Service) -> Vec<&str> {
    service.ports[0].frontend.as_ref().unwrap().routes.iter().map(|r| r.name.as_str()).collect()
}

pub(super) fn json<M: weft_proto::Resource>(name: &str, message: &M) -> Value {
    weft_proto::json::serialize(name, message, serde_json::value::Serializer).unwrap()
}

#[test]
fn a_service_and_its_workloads_become_exactly_these_resources() {
    let (output, _) = compile(&world(SHOP), &LastGood::default());
    let catalog = &output.services["shop/catalog"];
    assert_eq!(
        json("weft.v1.Service", &catalog.default.read()),
        json!({
            "name": "shop/catalog",
            "hostnames": ["catalog.shop", "catalog.shop.svc", "catalog.shop.svc.cluster.local"],
            "vips": ["198.18.0.7"],
            "ports": [{
                "port": 80, "name": "http", "protocol": "PROTOCOL_HTTP1", "frontend": {},
                "backend": {"slices": ["shop/catalog:80/0"]},
            }],
        })
    );
    assert_eq!(
        catalog.by_namespace["shop"].read().hostnames[3],
        "catalog",
        "its own namespace may write the short name"
    );
    assert_eq!(
        json("weft.v1.Endpoints", &output.endpoints["shop/catalog:80/0"].read()),
        json!({
            "name": "shop/catalog:80/0",
            "endpoints": [
                {
                    "uid": "shop/catalog-1", "address": "127.0.0.1", "port": 8081, "tunnel": "127.0.0.1:40001",
                    "identity": "spiffe://weft.local/ns/shop/sa/catalog",
                    "serverName": "80.catalog.shop.svc.cluster.local",
                    "health": "HEALTH_READY", "weight": 1, "protocol": "PROTOCOL_HTTP1",
                },
                {
                    "uid": "shop/catalog-2", "address": "192.0.2.9", "port": 8080, "tunnel": "192.0.2.9:15008",
                    "identity": "spiffe://weft.local/ns/shop/sa/catalog",
                    "serverName": "80.catalog.shop.svc.cluster.local",
                    "health": "HEALTH_NOT_READY", "weight": 3, "zone": "a", "protocol": "PROTOCOL_HTTP1",
                },
            ],
        })
    );
    assert_eq!(
        json("weft.v1.Inbound", &output.inbound["shop/catalog-2"].read()),
        json!({
            "workload": "shop/catalog-2",
            "identity": "spiffe://weft.local/ns/shop/sa/catalog",
            "ports": [{
                "port": 8080, "authorities": ["192.0.2.9:8080"], "local": "192.0.2.9:8080",
                "serverNames": [
                    "80.catalog-v2.shop.svc.cluster.local", "80.catalog.shop.svc.cluster.local",
                    "8080.catalog-2.shop.workload.cluster.local",
                ],
                "protocol": "PROTOCOL_HTTP1", "service": "shop/catalog",
            }],
            "zone": "a",
        }),
        "strict is the default and therefore not written"
    );
    let own = &output.alone["shop/~catalog-2"].service().read();
    assert_eq!((own.vips.as_slice(), own.ports[0].port), (&["192.0.2.9".to_owned()][..], 8080));
    assert!(!output.alone.contains_key("shop/~catalog-1"), "loopback addresses name nobody");
    assert_eq!(output.settings.mesh_cidrs, ["198.18.0.0/16"]);
}

#[test]
fn the_same_world_compiles_to_the_same_output() {
    let world = world(SHOP);
    let (first, keep) = compile(&world, &LastGood::default());
    let (second, _) = compile(&world, &keep);
    assert_eq!(first, second);
}

#[test]
fn a_workload_that_registered_itself_is_selected_only_where_its_token_allows() {
    let (output, _) = with(
        r#"
kind: Workload
metadata: {name: thief, labels: {app: catalog, version: v2}, annotations: {weft.mesh/allowed-services: "catalog-v2,other"}}
spec: {serviceAccount: thief, address: 127.0.0.1, tunnel: "127.0.0.1:40009", services: [catalog, catalog-v2], ports: [{name: http, port: 9}]}
status: {phase: Ready}"#,
    );
    let uids = |slice: &str| -> Vec<String> {
        output.endpoints[slice].read().endpoints.iter().map(|e| e.uid.clone()).collect()
    };
    assert!(!uids("shop/catalog:80/0").contains(&"shop/thief".into()), "neither by label nor by naming it");
    assert!(uids("shop/catalog-v2:80/0").contains(&"shop/thief".into()));
}

#[test]
fn draining_and_lost_workloads_are_told_apart() {
    let mut world = world(SHOP);
    let set = |world: &mut World, phase| {
        let mut workload = (*world.workloads["shop/catalog-1"]).clone();
        workload.phase = Some(phase);
        world.workloads.insert("shop/catalog-1", Arc::new(workload));
        let (output, _) = compile(world, &LastGood::default());
        output.endpoints["shop/catalog:80/0"]
            .read()
            .endpoints
            .iter()
            .find(|e| e.uid == "shop/catalog-1")
            .map(|e| e.health)
    };
    assert_eq!(set(&mut world, crate::kinds::Phase::Draining), Some(v1::Health::Draining.into()));
    assert_eq!(set(&mut world, crate::kinds::Phase::Lost), None);
}

#[test]
fn an_http_route_becomes_rules_with_weights_matches_timeouts_and_retries() {
    let (output, _) = with(
        r#"
kind: HTTPRoute
metadata: {name: split}
spec:
  parentRefs: [{group: "", kind: Service, name: catalog, port: 80}]
  rules:
  - name: canary
    matches:
    - {path: {type: PathPrefix, value: /items}, method: POST, headers: [{name: X-User, value: a}, {name: x-user, value: b}], queryParams: [{name: q, type: RegularExpression, value: "[0-9]+"}]}
    filters: [{type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: a, value: b}], remove: [c]}}]
    backendRefs: [{name: catalog, port: 80, weight: 90}, {name: catalog-v2, port: 80, weight: 10}]
    timeouts: {request: 2s, backendRequest: 0s}
    retry: {attempts: 3, codes: [503], backoff: 10ms}"#,
    );
    let frontend = output.services["shop/catalog"].default.read().ports[0].frontend.clone().unwrap();
    let value = json(
        "weft.v1.Service",
        &v1::Service {
            ports: vec![v1::ServicePort { frontend: Some(frontend), ..Default::default() }],
            ..Default::default()
        },
    );
    assert_eq!(
        value["ports"][0]["frontend"]["routes"],
        json!([{
            "name": "shop/split", "kind": "ROUTE_KIND_HTTP", "created": "1700000004",
            "rules": [{
                "name": "canary",
                "matches": [{
                    "pathPrefix": "/items", "method": "POST",
                    "headers": [{"name": "x-user", "exact": "a"}], "queries": [{"name": "q", "regex": "[0-9]+"}],
                }],
                "filters": [{"requestHeaders": {"set": [{"name": "a", "value": "b"}], "remove": ["c"]}}],
                "backends": [
                    {"service": "shop/catalog", "port": 80, "weight": 90},
                    {"service": "shop/catalog-v2", "port": 80, "weight": 10},
                ],
                "requestTimeout": "2s", "backendRequestTimeout": "0s",
                "retry": {"attempts": 3, "codes": [503], "methods": ["POST"], "backoff": "0.010s"},
            }],
        }])
    );
    assert!(condition(&output, "split", "Accepted").status);
    assert!(condition(&output, "split", "ResolvedRefs").status);
    let shapes = &output.verdicts[0].parents[0].shapes;
    assert!(shapes.contains(&(type_url::SERVICE, "shop/catalog".into())));
}

#[test]
fn references_that_do_not_resolve_leave_the_route_accepted_and_their_share_failing() {
    for (reference, reason) in [
        ("{name: nobody, port: 80}", "BackendNotFound"),
        ("{name: catalog, port: 81}", "BackendNotFound"),
        ("{kind: Bucket, group: example.com, name: x, port: 80}", "InvalidKind"),
    ] {
        let (output, _) = with(&format!(
            "kind: HTTPRoute\nmetadata: {{name: r}}\nspec:\n  parentRefs: [{{group: \"\", kind: Service, name: catalog}}]\n  rules: [{{backendRefs: [{{name: catalog-v2, port: 80}}, {reference}]}}]"
        ));
        assert!(condition(&output, "r", "Accepted").status);
        let resolved = condition(&output, "r", "ResolvedRefs");
        assert_eq!((resolved.status, resolved.reason), (false, reason));
        let rule = output.services["shop/catalog"].default.read().ports[0].frontend.as_ref().unwrap().routes[0].rules
            [0]
        .clone();
        assert_eq!(rule.backends[0].unresolved, "");
        let said = &rule.backends[1].unresolved;
        assert!(said.starts_with(&format!("{reason}: ")), "{said}");
    }
    let (output, _) = with(
        "kind: HTTPRoute\nmetadata: {name: r}\nspec:\n  parentRefs: [{group: '', kind: Service, name: catalog}]\n  rules: [{backendRefs: [{name: catalog-v2, port: 80}, {name: nobody, port: 80, weight: 0}]}]",
    );
    assert!(condition(&output, "r", "ResolvedRefs").status, "what gets no calls may name what does not exist");
}

#[test]
fn parents_that_cannot_be_attached_to_are_told_apart() {
    let more = |parent: &str| {
        with(&format!(
            r#"
kind: Service
metadata: {{name: headless}}
spec: {{clusterIP: None, ports: [{{port: 80}}]}}
---
kind: Service
metadata: {{name: outside}}
spec: {{type: ExternalName, externalName: example.com, ports: [{{port: 80}}]}}
---
kind: Service
metadata: {{name: db}}
spec: {{clusterIP: 198.18.0.9, ports: [{{port: 5432, appProtocol: tcp}}]}}
---
kind: GRPCRoute
metadata: {{name: g}}
spec: {{parentRefs: [{{group: "", kind: Service, name: catalog}}], rules: [{{}}]}}
---
kind: HTTPRoute
metadata: {{name: r}}
spec: {{parentRefs: [{parent}], rules: [{{}}]}}"#
        ))
        .0
    };
    for (parent, reason) in [
        ("{group: '', kind: Service, name: nobody}", "NoMatchingParent"),
        ("{group: '', kind: Service, name: catalog, port: 81}", "NoMatchingParent"),
        ("{group: '', kind: Service, name: catalog, sectionName: grpc}", "NoMatchingParent"),
        ("{group: '', kind: Service, name: headless}", "UnsupportedValue"),
        ("{group: '', kind: Service, name: outside}", "UnsupportedValue"),
        ("{group: '', kind: Service, name: db}", "UnsupportedValue"),
    ] {
        let output = more(parent);
        let accepted = condition(&output, "r", "Accepted");
        assert_eq!((accepted.status, accepted.reason), (false, reason), "{parent}: {}", accepted.message);
    }
    let edge = more("{name: edge}");
    assert!(!edge.verdicts.iter().any(|v| v.name == "r"), "a Gateway's route is somebody else's");
    assert!(condition(&edge, "g", "Accepted").message.contains("HTTP/1.1"), "gRPC is not spoken there");
}

#[test]
fn what_is_not_implemented_is_refused_and_what_was_in_force_stays() {
    let route = |rule: &str| {
        format!(
            "{SHOP}\n---\nkind: HTTPRoute\nmetadata: {{name: r}}\nspec:\n  parentRefs: [{{group: '', kind: Service, name: catalog}}]\n  rules: [{rule}]"
        )
    };
    let good = world(&route("{backendRefs: [{name: catalog-v2, port: 80}]}"));
    let (first, keep) = compile(&good, &LastGood::default());
    for (rule, field, reason) in [
        (
            "{filters: [{type: ExtensionRef, extensionRef: {group: example.com, kind: Cache, name: c}}]}",
            "spec.rules[0].filters[0].extensionRef",
            "UnsupportedValue",
        ),
        (
            "{filters: [{type: ExternalAuth, externalAuth: {protocol: GRPC}}], backendRefs: [{name: catalog, port: 80}]}",
            "spec.rules[0].filters[0].externalAuth",
            "UnsupportedValue",
        ),
        (
            "{sessionPersistence: {idleTimeout: 1s}, backendRefs: [{name: catalog, port: 80}]}",
            "spec.rules[0].sessionPersistence.idleTimeout",
            "UnsupportedValue",
        ),
        (
            "{matches: [{path: {type: RegularExpression, value: '('}}], backendRefs: [{name: catalog, port: 80}]}",
            "spec.rules[0].matches[0].path.value",
            "Invalid",
        ),
    ] {
        let bad = world(&route(rule));
        let (second, keep) = compile(&bad, &keep);
        let accepted = condition(&second, "r", "Accepted");
        assert_eq!((accepted.status, accepted.reason), (false, reason));
        assert!(accepted.message.contains(field), "{}", accepted.message);
        assert_eq!(first.services["shop/catalog"], second.services["shop/catalog"], "the last good stays");
        let (third, _) = compile(&bad, &keep);
        assert_eq!(second.services, third.services);
        let (fresh, _) = compile(&bad, &LastGood::default());
        assert!(routes(&fresh.services["shop/catalog"].default.read()).is_empty());
    }
}

#[test]
fn a_consumer_route_replaces_producer_routes_for_its_own_namespace_only() {
    let (output, _) = with(
        r#"
kind: HTTPRoute
metadata: {name: producer}
spec: {parentRefs: [{group: "", kind: Service, name: catalog}], rules: [{backendRefs: [{name: catalog, port: 80}]}]}
---
kind: HTTPRoute
metadata: {name: consumer, namespace: bank}
spec:
  parentRefs: [{group: "", kind: Service, name: catalog, namespace: shop}]
  rules: [{backendRefs: [{name: catalog-v2, namespace: shop, port: 80}]}]"#,
    );
    let catalog = &output.services["shop/catalog"];
    assert_eq!(routes(&catalog.default.read()), ["shop/producer"]);
    assert_eq!(routes(&catalog.by_namespace["shop"].read()), ["shop/producer"]);
    assert_eq!(routes(&catalog.by_namespace["bank"].read()), ["bank/consumer"]);
    assert_eq!(catalog.by_namespace["bank"].read().hostnames.len(), 3);
    assert!(condition(&output, "consumer", "ResolvedRefs").status, "no ReferenceGrant is needed in a mesh");
}

#[test]
fn a_grpc_route_comes_before_http_routes_on_the_same_port() {
    let (output, _) = with(
        r#"
kind: Service
metadata: {name: api}
spec: {clusterIP: 198.18.0.30, ports: [{name: api, port: 80}]}
---
kind: HTTPRoute
metadata: {name: http}
spec: {parentRefs: [{group: "", kind: Service, name: api}], rules: [{backendRefs: [{name: catalog, port: 80}]}]}
---
kind: GRPCRoute
metadata: {name: grpc}
spec:
  parentRefs: [{group: "", kind: Service, name: api}]
  rules:
  - matches: [{method: {service: shop.Catalog, method: Get}, headers: [{name: x, value: abc}]}]
    backendRefs: [{name: catalog, port: 80}]"#,
    );
    assert!(condition(&output, "grpc", "Accepted").status, "{}", condition(&output, "grpc", "Accepted").message);
    let api = &output.services["shop/api"].default.read();
    assert_eq!((routes(api), api.ports[0].protocol), (vec!["shop/grpc"], v1::Protocol::Grpc.into()));
    assert_eq!(condition(&output, "http", "Accepted").reason, "Conflicted");
}

#[test]
fn traffic_policies_merge_field_by_field_the_port_before_the_service_the_older_before_the_newer() {
    let (output, _) = with(
        r#"
kind: TrafficPolicy
metadata: {name: old}
spec: {targetRefs: [{kind: Service, name: catalog}], timeouts: {request: 5s, connect: 100ms}, retry: {attempts: 1, methods: [POST]}}
---
kind: TrafficPolicy
metadata: {name: new}
spec: {targetRefs: [{kind: Service, name: catalog}], timeouts: {request: 9s, idle: 1m}, loadBalancer: {policy: RoundRobin}, circuitBreaker: {consecutiveFailures: 3}}
---
kind: TrafficPolicy
metadata: {name: port}
spec: {targetRefs: [{kind: Service, name: catalog, sectionName: http}], connectionLimits: {maxRequests: 7}, retryBudget: {percent: 10}, timeouts: {request: 1s}}
---
kind: TrafficPolicy
metadata: {name: lost}
spec: {targetRefs: [{kind: Service, name: nobody}, {kind: Service, name: catalog, sectionName: grpc}]}
---
kind: TrafficPolicy
metadata: {name: wrong}
spec: {targetRefs: [{group: weft.mesh, kind: Workload, name: catalog-1}]}"#,
    );
    let port = &output.services["shop/catalog"].default.read().ports[0];
    let (frontend, backend) = (port.frontend.as_ref().unwrap(), port.backend.as_ref().unwrap());
    assert_eq!(frontend.request_timeout.unwrap().seconds, 1);
    assert_eq!(frontend.idle_timeout.unwrap().seconds, 60);
    assert_eq!(frontend.retry.as_ref().unwrap().methods, ["POST"]);
    assert_eq!(frontend.retry_budget.as_ref().unwrap().percent, Some(10));
    assert_eq!(backend.balancer, i32::from(v1::Balancer::RoundRobin));
    assert_eq!(backend.breaker.as_ref().unwrap().consecutive_failures, Some(3));
    assert_eq!(backend.limits.as_ref().unwrap().requests, Some(7));
    assert_eq!(backend.connect_timeout.unwrap().nanos, 100_000_000);
    assert_eq!(backend.slices, ["shop/catalog:80/0"]);
    assert_eq!(condition(&output, "lost", "ResolvedRefs").reason, "TargetNotFound");
    assert!(condition(&output, "lost", "ResolvedRefs").message.contains("no port named"));
    assert_eq!(condition(&output, "wrong", "Accepted").reason, "Invalid");
}

#[test]
fn authorization_holds_where_its_scope_says_and_lists_are_multiplied_out() {
    let (output, _) = with(
        r#"
kind: AuthorizationPolicy
metadata: {name: catalog}
spec:
  targetRefs: [{kind: Service, name: catalog-v2}]
  rules:
  - from: [{serviceAccounts: [cart, bank/teller]}, {identities: ["spiffe://weft.local/ns/x/*"], serviceAccounts: [cart]}]
    to: [{methods: [GET]}, {paths: ["/items/*"]}]
---
kind: AuthorizationPolicy
metadata: {name: everyone}
spec: {action: Deny, rules: [{name: no-bank, from: [{namespaces: [bank]}]}]}
---
kind: AuthorizationPolicy
metadata: {name: both}
spec: {targetRefs: [{kind: Service, name: catalog}], selector: {}}"#,
    );
    let names = |uid: &str| -> Vec<String> {
        output.inbound[uid].read().ports[0].authorization.iter().map(|a| a.name.clone()).collect()
    };
    assert_eq!(names("shop/catalog-1"), ["shop/everyone"]);
    assert_eq!(names("shop/catalog-2"), ["shop/catalog", "shop/everyone"]);
    let rules = &output.inbound["shop/catalog-2"].read().ports[0].authorization[0].rules;
    let accounts = |i: usize| rules[0].from[i].service_accounts.join(" ");
    assert_eq!((accounts(0), accounts(1)), ("shop/cart bank/teller".into(), "shop/cart".into()));
    assert_eq!(rules[0].from[1].identities, ["spiffe://weft.local/ns/x/*"], "both lists must hold");
    assert_eq!(
        (rules[0].to[0].methods.as_slice(), rules[0].to[1].paths.as_slice()),
        (&["GET".into()][..], &["/items/*".into()][..])
    );
    assert_eq!(condition(&output, "both", "Accepted").reason, "Invalid");
    let shapes = &output.verdicts.iter().find(|v| v.name == "catalog").unwrap().parents[0].shapes;
    assert_eq!(shapes.iter().map(|(_, n)| n.as_str()).collect::<Vec<_>>(), ["shop/catalog-2"]);
}

#[test]
fn mesh_tls_is_strict_unless_the_most_specific_object_says_otherwise() {
    let (output, _) = with(
        r#"
kind: MeshTLS
metadata: {name: all}
spec: {mode: Permissive}
---
kind: MeshTLS
metadata: {name: v2}
spec: {selector: {matchLabels: {version: v2}}, mode: Strict, ports: [{port: 8080, mode: Disabled}]}"#,
    );
    let tls = |output: &Output, uid: &str| {
        let port = output.inbound[uid].read().ports[0].clone();
        (v1::TlsMode::try_from(port.tls).unwrap(), port.tls_source.clone())
    };
    assert_eq!(tls(&output, "shop/catalog-1"), (v1::TlsMode::Permissive, "shop/all".into()));
    assert_eq!(tls(&output, "shop/catalog-2"), (v1::TlsMode::Disabled, "shop/v2".into()));
    let (plain, _) = compile(&world(SHOP), &LastGood::default());
    assert_eq!(tls(&plain, "shop/catalog-1"), (v1::TlsMode::Strict, String::new()));
}

#[test]
fn protocols_come_from_declarations_then_routes_then_workloads_then_well_known_ports() {
    let (output, _) = with(
        r#"
kind: Service
metadata: {name: mixed}
spec:
  clusterIP: 198.18.0.20
  ports:
  - {name: grpc-api, port: 1}
  - {name: x, port: 2, appProtocol: kubernetes.io/h2c}
  - {name: pg, port: 5432}
  - {name: odd, port: 9999}
  - {name: udp, port: 53, protocol: UDP}"#,
    );
    let ports = &output.services["shop/mixed"].default.read().ports;
    let protocols: Vec<_> = ports.iter().map(|p| (p.port, v1::Protocol::try_from(p.protocol).unwrap())).collect();
    use v1::Protocol::{Detect, Grpc, Http2, Tcp};
    assert_eq!(protocols, [(1, Grpc), (2, Http2), (5432, Tcp), (9999, Detect)]);
    assert!(output.endpoints["shop/mixed:1/0"].read().endpoints.is_empty(), "an empty backend is answered too");
}
