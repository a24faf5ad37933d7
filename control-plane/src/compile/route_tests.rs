//! Routes from YAML to what sidecars hold: filters, sessions, the kinds that share a port, hosts outside.

use super::tests::{LastGood, SHOP, compile, condition, json, routes, with, world};
use super::*;
use serde_json::{Value, json};

/// The routes of a port as JSON.
fn rules(output: &Output, service: &str) -> Value {
    let service = json("weft.v1.Service", &output.services[service].default.read());
    service["ports"][0]["frontend"]["routes"].clone()
}

fn http(rule: &str) -> Output {
    with(&format!(
        "kind: HTTPRoute\nmetadata: {{name: r}}\nspec:\n  parentRefs: [{{group: '', kind: Service, name: catalog}}]\n  rules: [{rule}]"
    ))
    .0
}

#[test]
fn each_filter_of_a_rule_and_of_a_backend_is_on_the_wire() {
    let filters = |rule: &str| {
        let output = http(rule);
        assert!(condition(&output, "r", "Accepted").status, "{}", condition(&output, "r", "Accepted").message);
        rules(&output, "shop/catalog")[0]["rules"][0].clone()
    };
    for (written, wire) in [
        (
            "{type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: a, value: b}], add: [{name: c, value: d}], remove: [e]}}",
            json!({"requestHeaders": {"set": [{"name": "a", "value": "b"}], "add": [{"name": "c", "value": "d"}], "remove": ["e"]}}),
        ),
        (
            "{type: ResponseHeaderModifier, responseHeaderModifier: {add: [{name: c, value: d}]}}",
            json!({"responseHeaders": {"add": [{"name": "c", "value": "d"}]}}),
        ),
        (
            "{type: RequestMirror, requestMirror: {backendRef: {name: catalog-v2, port: 80}}}",
            json!({"mirror": {"service": "shop/catalog-v2", "port": 80}}),
        ),
        (
            "{type: RequestMirror, requestMirror: {backendRef: {name: catalog-v2, port: 80}, percent: 0}}",
            json!({"mirror": {"service": "shop/catalog-v2", "port": 80, "denominator": 100}}),
        ),
        (
            "{type: RequestMirror, requestMirror: {backendRef: {name: catalog-v2, port: 80}, fraction: {numerator: 3}}}",
            json!({"mirror": {"service": "shop/catalog-v2", "port": 80, "numerator": 3, "denominator": 100}}),
        ),
        (
            "{type: RequestMirror, requestMirror: {backendRef: {name: catalog-v2, port: 80}, fraction: {numerator: 3, denominator: 1000}}}",
            json!({"mirror": {"service": "shop/catalog-v2", "port": 80, "numerator": 3, "denominator": 1000}}),
        ),
        (
            "{type: URLRewrite, urlRewrite: {hostname: v2.example.com, path: {type: ReplaceFullPath, replaceFullPath: /x}}}",
            json!({"rewrite": {"hostname": "v2.example.com", "path": {"full": "/x"}}}),
        ),
    ] {
        let backend = "backendRefs: [{name: catalog, port: 80}]";
        assert_eq!(filters(&format!("{{filters: [{written}], {backend}}}"))["filters"], json!([wire]), "{written}");
        let on_backend = format!("{{backendRefs: [{{name: catalog, port: 80, filters: [{written}]}}]}}");
        assert_eq!(filters(&on_backend)["backends"][0]["filters"], json!([wire]), "{written}");
    }
    let prefix = "matches: [{path: {type: PathPrefix, value: /a}}]";
    let redirect = format!(
        "{{{prefix}, filters: [{{type: RequestRedirect, requestRedirect: {{scheme: https, hostname: a.example.com, port: 8443, statusCode: 301, path: {{type: ReplacePrefixMatch, replacePrefixMatch: /b}}}}}}]}}"
    );
    assert_eq!(
        filters(&redirect)["filters"],
        json!([{"redirect": {"scheme": "https", "hostname": "a.example.com", "port": 8443, "status": 301, "path": {"prefix": "/b"}}}])
    );
    let cors = "{filters: [{type: CORS, cors: {allowOrigins: ['https://*.example.com'], allowCredentials: true, allowMethods: [PUT], allowHeaders: [x-a], exposeHeaders: [x-b]}}], backendRefs: [{name: catalog, port: 80}]}";
    assert_eq!(
        filters(cors)["filters"],
        json!([{"cors": {"allowOrigins": ["https://*.example.com"], "allowCredentials": true, "allowMethods": ["PUT"],
            "allowHeaders": ["x-a"], "exposeHeaders": ["x-b"], "maxAge": 5}}]),
        "a preflight may be cached for 5 s by default"
    );
}

#[test]
fn a_mirror_that_does_not_resolve_leaves_the_route_accepted_and_gets_nothing() {
    for (reference, reason) in [
        ("{name: nobody, port: 80}", "BackendNotFound"),
        ("{name: catalog, port: 81}", "BackendNotFound"),
        ("{kind: Bucket, group: example.com, name: x, port: 80}", "InvalidKind"),
    ] {
        let output = http(&format!(
            "{{filters: [{{type: RequestMirror, requestMirror: {{backendRef: {reference}}}}}], backendRefs: [{{name: catalog, port: 80}}]}}"
        ));
        assert!(condition(&output, "r", "Accepted").status);
        let resolved = condition(&output, "r", "ResolvedRefs");
        assert_eq!((resolved.status, resolved.reason), (false, reason));
        let rule = &rules(&output, "shop/catalog")[0]["rules"][0];
        let said = rule["filters"][0]["mirror"]["unresolved"].as_str().unwrap();
        assert!(said.starts_with(&format!("{reason}: ")), "{said}");
        assert_eq!(rule["backends"][0]["unresolved"], Value::Null);
    }
}

#[test]
fn a_mirror_and_a_fallback_resolve_when_their_service_comes_and_no_longer_when_it_goes() {
    let more = r#"
kind: HTTPRoute
metadata: {name: r}
spec:
  parentRefs: [{group: "", kind: Service, name: catalog}]
  rules: [{filters: [{type: RequestMirror, requestMirror: {backendRef: {name: late, port: 80}}}], backendRefs: [{name: catalog, port: 80}]}]
---
kind: TrafficPolicy
metadata: {name: p}
spec: {targetRefs: [{kind: Service, name: catalog}], fallback: {backendRef: {name: late, port: 80}}}"#;
    let mut world = world(&format!("{SHOP}\n---\n{}", more.trim()));
    let resolved = |output: &Output| {
        let service = json("weft.v1.Service", &output.services["shop/catalog"].default.read());
        let frontend = &service["ports"][0]["frontend"];
        let mirror = &frontend["routes"][0]["rules"][0]["filters"][0]["mirror"];
        assert_eq!(mirror["service"], "shop/late");
        assert_eq!(frontend["fallback"]["backend"]["service"], "shop/late", "the sidecar learns whom to ask for");
        let on_wire = [mirror, &frontend["fallback"]["backend"]].map(|m| m["unresolved"].is_null());
        assert_eq!(on_wire, ["r", "p"].map(|name| condition(output, name, "ResolvedRefs").status));
        on_wire
    };
    let (output, last) = compile(&world, &LastGood::default());
    assert_eq!(resolved(&output), [false, false]);
    assert_eq!(condition(&output, "p", "ResolvedRefs").reason, "BackendNotFound");
    super::tests::put(
        &mut world,
        json!({"kind": "Service", "metadata": {"namespace": "shop", "name": "late"}, "spec": {"clusterIP": "198.18.0.40", "ports": [{"port": 80}]}}),
        1,
    );
    let (output, last) = compile(&world, &last);
    assert_eq!(resolved(&output), [true, true]);
    world.services.remove("shop/late");
    assert_eq!(resolved(&compile(&world, &last).0), [false, false]);
}

#[test]
fn sessions_persist_by_cookie_or_by_header() {
    for kind in ["HTTPRoute", "GRPCRoute"] {
        for (written, wire) in [
            ("{}", json!({})),
            ("{sessionName: s, absoluteTimeout: 1h}", json!({"name": "s", "absoluteTimeout": "3600s"})),
            ("{type: Header, sessionName: x-s}", json!({"name": "x-s", "kind": "SESSION_KIND_HEADER"})),
            (
                "{type: Cookie, absoluteTimeout: 10s, cookieConfig: {lifetimeType: Permanent}}",
                json!({"absoluteTimeout": "10s", "permanent": true}),
            ),
        ] {
            let (output, _) = with(&format!(
                "kind: Service\nmetadata: {{name: api}}\nspec: {{clusterIP: 198.18.0.30, ports: [{{name: x, port: 80}}]}}\n---\nkind: {kind}\nmetadata: {{name: r}}\nspec:\n  parentRefs: [{{group: '', kind: Service, name: api}}]\n  rules: [{{sessionPersistence: {written}, backendRefs: [{{name: catalog, port: 80}}]}}]"
            ));
            assert_eq!(rules(&output, "shop/api")[0]["rules"][0]["sessionPersistence"], wire, "{kind} {written}");
        }
    }
}

const MIXED: &str = r#"
kind: Service
metadata: {name: mixed}
spec:
  clusterIP: 198.18.0.20
  ports:
  - {name: plain, port: 1}
  - {name: tls-a, port: 2}
  - {name: db, port: 3, appProtocol: postgres}
  - {name: http-a, port: 4}
  - {name: h2, port: 5, appProtocol: kubernetes.io/h2c}
  - {name: grpc, port: 6}"#;

#[test]
fn routes_of_connections_attach_where_nothing_else_is_declared() {
    let refused = |kind: &str, hostnames: &str, parent: &str| {
        let (output, _) = with(&format!(
            "{}\n---\nkind: {kind}\nmetadata: {{name: r}}\nspec:\n  parentRefs: [{{group: '', kind: Service, name: mixed{parent}}}]\n{hostnames}  rules: [{{backendRefs: [{{name: catalog, port: 80, weight: 3}}, {{name: nobody, port: 80}}]}}]",
            MIXED.trim()
        ));
        let accepted = condition(&output, "r", "Accepted");
        let on: Vec<u32> = output.services["shop/mixed"]
            .default
            .read()
            .ports
            .iter()
            .filter(|p| !p.frontend.as_ref().unwrap().routes.is_empty())
            .map(|p| p.port)
            .collect();
        assert_eq!(accepted.status, !on.is_empty(), "{}", accepted.message);
        if accepted.status {
            assert_eq!(condition(&output, "r", "ResolvedRefs").reason, "BackendNotFound");
            let port =
                output.services["shop/mixed"].default.read().ports.into_iter().find(|p| p.port == on[0]).unwrap();
            assert_eq!(port.protocol, i32::from(v1::Protocol::Tcp), "nothing in it is to be read");
            let route = json("weft.v1.Service", &output.services["shop/mixed"].default.read())["ports"]
                [(on[0] - 1) as usize]["frontend"]["routes"][0]
                .clone();
            assert_eq!(
                route["rules"],
                json!([{"backends": [
                    {"service": "shop/catalog", "port": 80, "weight": 3},
                    {"service": "shop/nobody", "port": 80, "weight": 1, "unresolved": "BackendNotFound: there is no Service shop/nobody"},
                ]}])
            );
            let names = if kind == "TLSRoute" { json!(["shop.example.com", "*.example.com"]) } else { Value::Null };
            assert_eq!(route["serverNames"], names);
        } else {
            assert_eq!(accepted.reason, "UnsupportedValue");
        }
        on
    };
    let tls = "  hostnames: [Shop.example.com, '*.example.com']\n";
    assert_eq!(refused("TCPRoute", "", ""), [1, 2, 3]);
    assert_eq!(refused("TLSRoute", tls, ""), [1, 2]);
    for port in [4, 5, 6] {
        assert!(refused("TCPRoute", "", &format!(", port: {port}")).is_empty());
        assert!(refused("TLSRoute", tls, &format!(", port: {port}")).is_empty());
    }
    assert!(refused("TLSRoute", tls, ", port: 3").is_empty(), "a database speaks no TLS from its first byte on");
    assert_eq!(refused("TLSRoute", tls, ", sectionName: tls-a"), [2]);
}

#[test]
fn of_the_kinds_on_one_port_the_first_wins_and_the_next_when_it_goes() {
    let kinds = ["GRPCRoute", "HTTPRoute", "TLSRoute", "TCPRoute"];
    let mut documents = vec!["kind: Service\nmetadata: {name: api}\nspec: {clusterIP: 198.18.0.30, ports: [{name: x, port: 80}, {name: tcp-a, port: 81}]}".to_owned()];
    documents.extend(kinds.iter().rev().map(|kind| {
        let names = if *kind == "TLSRoute" { "hostnames: [a.example.com], " } else { "" };
        format!(
            "kind: {kind}\nmetadata: {{name: {}}}\nspec: {{{names}parentRefs: [{{group: '', kind: Service, name: api, port: 80}}], rules: [{{backendRefs: [{{name: catalog, port: 80}}]}}]}}",
            kind.to_lowercase()
        )
    }));
    let mut world = world(&format!("{SHOP}\n---\n{}", documents.join("\n---\n")));
    let mut last = LastGood::default();
    for (i, kind) in kinds.iter().enumerate() {
        let (output, next) = compile(&world, &last);
        last = next;
        let winner = kind.to_lowercase();
        assert_eq!(routes(&output.services["shop/api"].default.read()), [format!("shop/{winner}")]);
        assert!(condition(&output, &winner, "Accepted").status);
        for loser in &kinds[i + 1..] {
            let accepted = condition(&output, &loser.to_lowercase(), "Accepted");
            assert_eq!((accepted.status, accepted.reason), (false, "Conflicted"));
            assert!(accepted.message.contains(kind), "{}", accepted.message);
        }
        let kind = Kind::ROUTES.into_iter().find(|k| k.name() == *kind).unwrap();
        super::tests::of_kind(&mut world, kind).remove(&format!("shop/{winner}"));
    }
}

#[test]
fn a_kind_that_wins_on_one_port_leaves_the_others_to_the_rest() {
    let (output, _) = with(
        r#"
kind: Service
metadata: {name: api}
spec: {clusterIP: 198.18.0.30, ports: [{name: x, port: 80}, {name: tcp-a, port: 81}]}
---
kind: TCPRoute
metadata: {name: tcp}
spec: {parentRefs: [{group: "", kind: Service, name: api}], rules: [{backendRefs: [{name: catalog, port: 80}]}]}
---
kind: HTTPRoute
metadata: {name: http}
spec:
  parentRefs:
  - {group: "", kind: Service, name: api, sectionName: x}
  - {group: "", kind: Service, name: catalog, port: 80}
  rules: [{backendRefs: [{name: catalog, port: 80}]}]
---
kind: TCPRoute
metadata: {name: mine, namespace: bank}
spec: {parentRefs: [{group: "", kind: Service, name: api, namespace: shop, port: 80}], rules: [{backendRefs: [{name: catalog, namespace: shop, port: 80}]}]}"#,
    );
    let api = &output.services["shop/api"];
    let on = |service: &v1::Service, port: usize| -> Vec<String> {
        service.ports[port].frontend.as_ref().unwrap().routes.iter().map(|r| r.name.clone()).collect()
    };
    assert_eq!(
        (on(&api.default.read(), 0), on(&api.default.read(), 1)),
        (vec!["shop/http".into()], vec!["shop/tcp".into()])
    );
    assert_eq!(routes(&output.services["shop/catalog"].default.read()), ["shop/http"], "each parent for itself");
    assert_eq!(
        on(&api.by_namespace["bank"].read(), 0),
        ["bank/mine"],
        "clients of another namespace have their own routes"
    );
    for name in ["tcp", "http", "mine"] {
        assert!(condition(&output, name, "Accepted").status, "{name}");
    }
}

#[test]
fn a_service_of_type_external_name_is_a_host_outside() {
    let outside = |spec: &str| {
        let (output, _) = with(&format!(
            "kind: Service\nmetadata: {{name: pay, labels: {{app: catalog}}}}\nspec: {{type: ExternalName, selector: {{app: catalog}}, {spec}}}\n---\nkind: HTTPRoute\nmetadata: {{name: r}}\nspec:\n  parentRefs: [{{group: '', kind: Service, name: catalog}}]\n  rules: [{{backendRefs: [{{name: pay, port: 443}}]}}]"
        ));
        let service = output.services.get("shop/pay").cloned();
        let reason = condition(&output, "r", "ResolvedRefs").reason;
        assert!(!output.endpoints.keys().any(|name| name.starts_with("shop/pay:")));
        let keys = &output.inbound["shop/catalog-1"].read().ports[0].server_names;
        assert!(!keys.iter().any(|k| k.contains("pay")), "nobody of the mesh is behind it: {keys:?}");
        (service, reason)
    };
    let (service, reason) = outside(
        "externalName: Pay.Example.com., ports: [{name: https, port: 443, targetPort: 8443}, {name: http-b, port: 80}]",
    );
    let service = service.unwrap();
    assert_eq!(reason, "ResolvedRefs", "a route may lead there");
    assert_eq!(service.default.read().hostnames, ["pay.shop", "pay.shop.svc", "pay.shop.svc.cluster.local"]);
    assert_eq!(service.by_namespace["shop"].read().hostnames[3..], ["pay".to_owned(), "pay.example.com".into()]);
    assert_eq!(
        json("weft.v1.Service", &service.default.read())["ports"],
        json!([
            {"port": 80, "name": "http-b", "protocol": "PROTOCOL_HTTP1", "frontend": {}, "backend": {"external": {"host": "pay.example.com", "port": 80}}},
            {"port": 443, "name": "https", "protocol": "PROTOCOL_TCP", "frontend": {}, "backend": {"external": {"host": "pay.example.com", "port": 8443}}},
        ])
    );
    let (service, _) = outside("externalName: 203.0.113.9, ports: [{port: 443}]");
    let service = service.unwrap();
    assert_eq!(
        (service.default.read().vips.len(), service.by_namespace["shop"].read().vips.as_slice()),
        (0, &["203.0.113.9".to_owned()][..])
    );
    assert_eq!(outside("externalName: pay.example.com").1, "BackendNotFound", "without ports nothing is taken");
    assert_eq!(outside("externalName: pay.example.com").0, None);
    let own = outside("externalName: catalog.shop.svc.cluster.local, ports: [{port: 443}]");
    assert_eq!(own, (None, "InvalidKind"), "a name of the mesh itself keeps its identities");
}

#[test]
fn where_a_workload_runs_is_told_to_its_callers_and_to_itself() {
    let (output, _) = with(
        r#"
kind: Workload
metadata: {name: far, labels: {app: catalog, topology.kubernetes.io/region: eu, topology.kubernetes.io/zone: eu-1}}
spec: {serviceAccount: catalog, address: 192.0.2.10, tunnel: "192.0.2.10:15008", ports: [{name: http, port: 8080}]}
status: {phase: Ready}"#,
    );
    let inbound = output.inbound["shop/far"].read();
    assert_eq!((inbound.region.as_str(), inbound.zone.as_str()), ("eu", "eu-1"));
    let endpoint =
        output.endpoints["shop/catalog:80/0"].read().endpoints.into_iter().find(|e| e.uid == "shop/far").unwrap();
    assert_eq!((endpoint.region.as_str(), endpoint.zone.as_str()), ("eu", "eu-1"));
    assert_eq!(output.inbound["shop/catalog-2"].read().zone, "a", "what the workload says itself comes first");
}
