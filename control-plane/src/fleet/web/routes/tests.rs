//! Routes are shown as they were compiled, with the figures that are theirs.

use super::super::super::golden::Addressed;
use super::*;
use crate::compile::Packed;
use std::collections::BTreeMap;
use weft_proto::v1::{RouteMatch, key_match, route_match};

fn wire(routes: Vec<v1::Route>) -> Packed<v1::Service> {
    let frontend = v1::Frontend { routes, ..Default::default() };
    let port = v1::ServicePort {
        port: 80,
        protocol: v1::Protocol::Http1.into(),
        frontend: Some(frontend),
        backend: Some(v1::Backend::default()),
        ..Default::default()
    };
    Packed::service(&v1::Service { name: "shop/catalog".into(), ports: vec![port], ..Default::default() })
}

fn canary() -> v1::Route {
    let backend =
        |service: &str, weight| v1::WeightedBackend { service: service.into(), port: 80, weight, ..Default::default() };
    let header = v1::KeyMatch { name: "x-canary".into(), value: Some(key_match::Value::Exact("yes".into())) };
    let matched = RouteMatch {
        method: "GET".into(),
        path: Some(route_match::Path::PathPrefix("/items/".into())),
        headers: vec![header],
        ..Default::default()
    };
    let rule = v1::RouteRule {
        name: "new".into(),
        matches: vec![matched],
        backends: vec![backend("shop/catalog", 3), backend("shop/catalog-v2", 1)],
        retry: Some(v1::RetryPolicy { attempts: Some(4), ..Default::default() }),
        ..Default::default()
    };
    let gone = v1::WeightedBackend {
        unresolved: "BackendNotFound: no Service shop/gone".into(),
        weight: 1,
        ..Default::default()
    };
    let second = v1::RouteRule { backends: vec![gone], ..Default::default() };
    v1::Route {
        name: "shop/canary".into(),
        kind: v1::RouteKind::Http.into(),
        rules: vec![rule, second],
        ..Default::default()
    }
}

fn calls(service: &str, by: &str, route: &str, calls: u64) -> Addressed {
    let numbers = Numbers { calls, ..Numbers::default() };
    Addressed { service: service.into(), by: by.into(), route: route.into(), numbers }
}

#[test]
fn a_route_is_shown_rule_by_rule_with_what_was_measured_of_it() {
    let stat = Stat {
        addressed: vec![
            calls("shop/catalog", "shop/catalog-v2", "shop/canary", 7),
            calls("shop/catalog", "shop/catalog", "default", 9),
            // The same route, on another service.
            calls("shop/wares", "shop/catalog-v2", "shop/canary", 5),
        ],
        ..Stat::default()
    };
    let shown = items(&Variants { default: wire(vec![canary()]), by_namespace: BTreeMap::new() }, &stat);
    assert_eq!(shown.len(), 1);
    let Item { route, kind, clients, rules, traffic, .. } = &shown[0];
    assert_eq!((route.as_deref(), *kind, clients), (Some("shop/canary"), Some("HTTPRoute"), &None));
    assert_eq!(rules[0].matches, ["GET /items/* x-canary: yes"]);
    assert_eq!(
        (rules[0].name.as_deref(), rules[0].retries, rules[0].request_timeout_ms),
        (Some("new"), Some(4), Some(15_000))
    );
    let shares: Vec<_> = rules[0].backends.iter().map(|b| (b.service.as_deref().unwrap(), b.weight, b.share)).collect();
    assert_eq!(shares, [("shop/catalog", 3, 0.75), ("shop/catalog-v2", 1, 0.25)]);
    assert_eq!(rules[1].backends[0].unresolved.as_deref(), Some("BackendNotFound: no Service shop/gone"));
    assert_eq!(
        traffic.iter().map(|t| (t.service.as_str(), t.numbers.calls)).collect::<Vec<_>>(),
        [("shop/catalog-v2", 7)]
    );
}

#[test]
fn a_port_without_routes_has_the_rule_that_is_implied() {
    let addressed = ["shop/catalog", "shop/cart"].map(|service| calls(service, service, "default", 9));
    let stat = Stat { addressed: addressed.into(), ..Stat::default() };
    let shown = items(&Variants { default: wire(Vec::new()), by_namespace: BTreeMap::new() }, &stat);
    assert_eq!((shown[0].route.as_ref(), shown[0].rules.len()), (None, 1));
    assert_eq!(shown[0].rules[0].backends[0].service.as_deref(), Some("shop/catalog"));
    assert_eq!(shown[0].traffic.iter().map(|t| t.numbers.calls).collect::<Vec<_>>(), [9]);
}

#[test]
fn what_one_namespace_has_for_itself_is_shown_beside_what_holds_for_all() {
    let by_namespace = [("office".to_owned(), wire(vec![canary()])), ("shop".to_owned(), wire(Vec::new()))].into();
    let shown = items(&Variants { default: wire(Vec::new()), by_namespace }, &Stat::default());
    let seen: Vec<_> = shown.iter().map(|item| (item.clients.as_deref(), item.route.as_deref())).collect();
    assert_eq!(seen, [(None, None), (Some("office"), Some("shop/canary"))]);
}
