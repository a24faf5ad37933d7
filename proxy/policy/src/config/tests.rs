//! What is accepted becomes what it says, and what is refused says which field and why. One mistake at a time is made
//! in resources that are otherwise good.

use std::time::Duration;

use proptest::prelude::*;
use weft_proto::v1;

use super::*;
use crate::route::{RequestTimeout, Target};
use crate::{authorize, balance, breaker, limit, retry};

pub(super) fn seconds(seconds: i64) -> Option<prost_types::Duration> {
    Some(prost_types::Duration { seconds, nanos: 0 })
}

fn exact(name: &str, value: &str) -> v1::KeyMatch {
    v1::KeyMatch { name: name.into(), value: Some(v1::key_match::Value::Exact(value.into())) }
}

fn path(path: v1::route_match::Path) -> v1::RouteMatch {
    v1::RouteMatch { path: Some(path), ..Default::default() }
}

pub(super) fn service() -> v1::Service {
    let rule = v1::RouteRule {
        matches: vec![path(v1::route_match::Path::PathPrefix("/orders".into()))],
        backends: vec![v1::WeightedBackend {
            service: "shop/orders".into(),
            port: 80,
            weight: 1,
            ..Default::default()
        }],
        ..Default::default()
    };
    let route = v1::Route {
        name: "shop/orders-route".into(),
        kind: v1::RouteKind::Http.into(),
        rules: vec![rule],
        ..Default::default()
    };
    v1::Service {
        name: "shop/orders".into(),
        hostnames: vec!["orders.shop".into()],
        vips: vec!["203.0.113.7".into()],
        ports: vec![v1::ServicePort {
            port: 80,
            name: "http".into(),
            protocol: v1::Protocol::Http1.into(),
            frontend: Some(v1::Frontend { routes: vec![route], ..Default::default() }),
            backend: Some(v1::Backend { slices: vec!["shop/orders:80/0".into()], ..Default::default() }),
        }],
    }
}

fn endpoints() -> v1::Endpoints {
    v1::Endpoints {
        name: "shop/orders:80/0".into(),
        endpoints: vec![v1::Endpoint {
            uid: "shop/orders-1".into(),
            address: "192.0.2.10".into(),
            port: 8080,
            tunnel: "192.0.2.10:15008".into(),
            identity: "spiffe://weft.local/ns/shop/sa/orders".into(),
            server_name: "80.orders.shop.svc.cluster.local".into(),
            health: v1::Health::Ready.into(),
            ..Default::default()
        }],
    }
}

pub(super) fn inbound() -> v1::Inbound {
    v1::Inbound {
        workload: "shop/orders-1".into(),
        identity: "spiffe://weft.local/ns/shop/sa/orders".into(),
        ports: vec![v1::InboundPort {
            port: 8080,
            authorities: vec!["192.0.2.10:8080".into()],
            server_names: vec!["80.orders.shop.svc.cluster.local".into()],
            local: "127.0.0.1:8080".into(),
            authorization: vec![v1::Authorization {
                name: "shop/cart-only".into(),
                action: v1::Action::Allow.into(),
                rules: vec![v1::AuthorizationRule {
                    from: vec![v1::AuthorizationSource { namespaces: vec!["shop".into()], ..Default::default() }],
                    to: vec![v1::AuthorizationOperation::default()],
                    ..Default::default()
                }],
            }],
            ..Default::default()
        }],
        ..Default::default()
    }
}

fn bundle() -> v1::TrustBundle {
    v1::TrustBundle { trust_domain: "weft.local".into(), roots: vec![vec![0x30, 0x03, 1, 2, 3]], ..Default::default() }
}

fn settings() -> v1::MeshSettings {
    v1::MeshSettings {
        trust_domain: "weft.local".into(),
        mesh_cidrs: vec!["198.51.100.0/24".into(), "2001:db8::/32".into()],
        ..Default::default()
    }
}

pub(super) type Change<W> = fn(&mut W);

/// Makes each mistake in a good resource and compares the field, and a part of the reason, of the refusal.
pub(super) fn refuse<W: Clone, D: std::fmt::Debug>(
    good: &W,
    convert: fn(&W) -> Result<D, Refusal>,
    mistakes: &[(Change<W>, &str, &str)],
) {
    convert(good).unwrap();
    for (change, field, reason) in mistakes {
        let mut wire = good.clone();
        change(&mut wire);
        let refusal = convert(&wire).map(|accepted| format!("{accepted:?}")).expect_err(field);
        assert_eq!(refusal.field, *field, "{refusal}");
        assert!(refusal.reason.contains(reason), "{refusal} does not say {reason:?}");
    }
}

fn port(wire: &mut v1::Service) -> &mut v1::ServicePort {
    &mut wire.ports[0]
}
pub(super) fn frontend(wire: &mut v1::Service) -> &mut v1::Frontend {
    port(wire).frontend.as_mut().unwrap()
}
pub(super) fn route(wire: &mut v1::Service) -> &mut v1::Route {
    &mut frontend(wire).routes[0]
}
pub(super) fn rule(wire: &mut v1::Service) -> &mut v1::RouteRule {
    &mut route(wire).rules[0]
}
pub(super) fn matching(wire: &mut v1::Service) -> &mut v1::RouteMatch {
    &mut rule(wire).matches[0]
}
pub(super) fn backend(wire: &mut v1::Service) -> &mut v1::Backend {
    port(wire).backend.as_mut().unwrap()
}

#[test]
fn a_service_becomes_what_it_says() {
    let service = Service::from_wire(&service()).unwrap();
    assert_eq!((&*service.name, &*service.hostnames[0]), ("shop/orders", "orders.shop"));
    assert_eq!(service.vips, ["203.0.113.7".parse::<std::net::IpAddr>().unwrap()]);
    let port = service.port(80).unwrap();
    assert_eq!((port.protocol, &*port.backend.slices[0]), (Protocol::Http1, "shop/orders:80/0"));
    assert!(service.port(81).is_none());
    let rule = &port.frontend.routes.rules()[0];
    assert_eq!((&*rule.route, rule.backends().len()), ("shop/orders-route", 1));
}

#[test]
fn what_is_absent_takes_the_defaults_of_the_book() {
    let wire = v1::Service {
        name: "shop/orders".into(),
        ports: vec![v1::ServicePort { port: 80, ..Default::default() }],
        ..Default::default()
    };
    let service = Service::from_wire(&wire).unwrap();
    let port = &service.ports[0];
    assert_eq!(*port.backend, Backend::default());
    assert_eq!(port.backend.connect_timeout, Duration::from_secs(1));
    assert_eq!(port.backend.tcp_idle_timeout, Some(Duration::from_secs(3600)));
    assert_eq!(port.backend.limits, limit::Settings { connections: 1024, pending: 1024, requests: 1024 });
    assert_eq!(port.backend.balancer, balance::Algorithm::PeakEwma);
    assert_eq!(port.frontend.idle_timeout, Some(Duration::from_secs(300)));
    assert_eq!(port.frontend.retry_budget, retry::BudgetSettings::default());
    let rule = &port.frontend.routes.rules()[0];
    assert_eq!(rule.timeouts.request(false), Some(Duration::from_secs(15)));
    assert_eq!(rule.timeouts.request(true), None, "nobody chose a timeout for streams");
    assert_eq!(*rule.retry, retry::Policy::default());
}

#[test]
fn services_are_refused_by_field() {
    use v1::route_match::Path;
    refuse(
        &service(),
        Service::from_wire,
        &[
            (|s| s.name = "orders".into(), "name", "namespace/name"),
            (|s| s.name = "shop/Orders".into(), "name", "lower case"),
            (|s| s.hostnames.push("orders.shop:80".into()), "hostnames[1]", "host name"),
            (|s| s.hostnames.push("ORDERS.shop".into()), "hostnames[1]", "occurs twice"),
            (|s| s.hostnames.push("*.shop".into()), "hostnames[1]", "wildcard"),
            (|s| s.vips.push("203.0.113.7".into()), "vips[1]", "occurs twice"),
            (|s| s.vips.push("203.0.113.0/24".into()), "vips[1]", "no IP address"),
            (|s| s.vips.push("0.0.0.0".into()), "vips[1]", "no single host"),
            (|s| port(s).port = 0, "ports[0].port", "0 is not a port"),
            (|s| port(s).port = 65_536, "ports[0].port", "is not a port"),
            (|s| s.ports.push(s.ports[0].clone()), "ports[1].port", "80 occurs twice"),
            (|s| port(s).name = "HTTP".into(), "ports[0].name", "port name"),
            (|s| port(s).protocol = 9, "ports[0].protocol", "9 is no protocol"),
            (|s| route(s).name = "route".into(), "ports[0].frontend.routes[0].name", "namespace/name"),
            (|s| route(s).kind = 0, "ports[0].frontend.routes[0].kind", "no kind"),
            (|s| port(s).protocol = v1::Protocol::Tcp.into(), "ports[0].frontend.routes[0].kind", "declared tcp"),
            (|s| route(s).kind = v1::RouteKind::Grpc.into(), "ports[0].frontend.routes[0].kind", "HTTP/1.1"),
            (|s| route(s).rules.clear(), "ports[0].frontend.routes[0].rules", "at least one"),
            (
                |s| {
                    let tcp = v1::Route { kind: v1::RouteKind::Tcp.into(), ..route(s).clone() };
                    frontend(s).routes.push(tcp);
                },
                "ports[0].frontend.routes[1].kind",
                "Http routes came first",
            ),
            (|s| route(s).kind = v1::RouteKind::Tcp.into(), "ports[0].frontend.routes[0].rules[0].matches", "TCP"),
            (
                |s| matching(s).path = Some(Path::ExactPath("orders".into())),
                "ports[0].frontend.routes[0].rules[0].matches[0].exactPath",
                "begin with '/'",
            ),
            (
                |s| matching(s).path = Some(Path::PathPrefix("/a//b".into())),
                "ports[0].frontend.routes[0].rules[0].matches[0].pathPrefix",
                "contains",
            ),
            (
                |s| matching(s).path = Some(Path::ExactPath("/a/..".into())),
                "ports[0].frontend.routes[0].rules[0].matches[0].exactPath",
                "contains",
            ),
            (
                |s| matching(s).path = Some(Path::PathRegex("/[a-".into())),
                "ports[0].frontend.routes[0].rules[0].matches[0].pathRegex",
                "no regular expression",
            ),
            (
                |s| matching(s).path = Some(Path::PathRegex("a)|(b".into())),
                "ports[0].frontend.routes[0].rules[0].matches[0].pathRegex",
                "no regular expression",
            ),
            (
                |s| matching(s).path = Some(Path::PathRegex(r"(\w{100}){100}".into())),
                "ports[0].frontend.routes[0].rules[0].matches[0].pathRegex",
                "larger than",
            ),
            (
                |s| matching(s).path = Some(Path::PathRegex("a".repeat(1025))),
                "ports[0].frontend.routes[0].rules[0].matches[0].pathRegex",
                "1 to 1024 bytes",
            ),
            (
                |s| matching(s).path = Some(Path::Grpc(v1::GrpcMethod::default())),
                "ports[0].frontend.routes[0].rules[0].matches[0].grpc",
                "GRPCRoutes",
            ),
            (
                |s| matching(s).method = "get".into(),
                "ports[0].frontend.routes[0].rules[0].matches[0].method",
                "upper case",
            ),
            (
                |s| matching(s).headers.push(exact("a b", "1")),
                "ports[0].frontend.routes[0].rules[0].matches[0].headers[0].name",
                "no header name",
            ),
            (
                |s| matching(s).queries.push(v1::KeyMatch { name: "q".into(), value: None }),
                "ports[0].frontend.routes[0].rules[0].matches[0].queries[0].exact",
                "required",
            ),
            (
                |s| rule(s).backends[0].weight = 1_000_001,
                "ports[0].frontend.routes[0].rules[0].backends[0].weight",
                "more than 1000000",
            ),
            (
                |s| rule(s).backends[0].port = 0,
                "ports[0].frontend.routes[0].rules[0].backends[0].port",
                "is not a port",
            ),
            (
                |s| rule(s).backends[0].service = "orders".into(),
                "ports[0].frontend.routes[0].rules[0].backends[0].service",
                "namespace/name",
            ),
        ],
    );
}

#[test]
fn contradictory_and_senseless_policies_are_refused_by_field() {
    fn edit(wire: &mut v1::Service, edit: v1::HeaderModifier) {
        rule(wire).filters = vec![v1::Filter { filter: Some(v1::filter::Filter::RequestHeaders(edit)) }];
    }
    fn header(name: &str, value: &str) -> Vec<v1::HeaderValue> {
        vec![v1::HeaderValue { name: name.into(), value: value.into() }]
    }
    const RULE: &str = "ports[0].frontend.routes[0].rules[0]";
    let at = |rest: &str| -> &'static str { format!("{RULE}.{rest}").leak() };
    refuse(
        &service(),
        Service::from_wire,
        &[
            (
                |s| (rule(s).request_timeout, rule(s).backend_request_timeout) = (seconds(1), seconds(2)),
                at("backendRequestTimeout"),
                "longer than the 1s",
            ),
            (|s| rule(s).request_timeout = seconds(-1), at("requestTimeout"), "negative"),
            (|s| rule(s).request_timeout = seconds(i64::MAX), at("requestTimeout"), "longer than a year"),
            (
                |s| rule(s).retry = Some(v1::RetryPolicy { attempts: Some(101), ..Default::default() }),
                at("retry.attempts"),
                "between",
            ),
            (
                |s| rule(s).retry = Some(v1::RetryPolicy { codes: vec![503, 200], ..Default::default() }),
                at("retry.codes[1]"),
                "400 and 599",
            ),
            (
                |s| rule(s).retry = Some(v1::RetryPolicy { grpc_codes: vec![0], ..Default::default() }),
                at("retry.grpcCodes[0]"),
                "1 and 16",
            ),
            (
                |s| rule(s).retry = Some(v1::RetryPolicy { methods: vec!["post".into()], ..Default::default() }),
                at("retry.methods[0]"),
                "upper case",
            ),
            (
                |s| rule(s).retry = Some(v1::RetryPolicy { backoff: seconds(61), ..Default::default() }),
                at("retry.backoff"),
                "minute",
            ),
            (|s| rule(s).filters = vec![v1::Filter { filter: None }], at("filters[0]"), "does not know"),
            (
                |s| edit(s, v1::HeaderModifier { set: header("Content-Length", "1"), ..Default::default() }),
                at("filters[0].requestHeaders.set[0]"),
                "framing",
            ),
            (
                |s| edit(s, v1::HeaderModifier { add: header("weft-source", "x"), ..Default::default() }),
                at("filters[0].requestHeaders.add[0]"),
                "mesh",
            ),
            (
                |s| edit(s, v1::HeaderModifier { add: header("host", "x"), ..Default::default() }),
                at("filters[0].requestHeaders.add"),
                "one Host",
            ),
            (
                |s| edit(s, v1::HeaderModifier { set: header("x", "a\r\nb: c"), ..Default::default() }),
                at("filters[0].requestHeaders.set[0].value"),
                "no header value",
            ),
            (
                |s| edit(s, v1::HeaderModifier { remove: vec!["transfer-encoding".into()], ..Default::default() }),
                at("filters[0].requestHeaders.remove[0]"),
                "framing",
            ),
            (
                |s| frontend(s).idle_timeout = Some(prost_types::Duration { seconds: 0, nanos: -1 }),
                "ports[0].frontend.idleTimeout",
                "negative",
            ),
            (
                |s| frontend(s).retry_budget = Some(v1::RetryBudget { percent: Some(101), ..Default::default() }),
                "ports[0].frontend.retryBudget.percent",
                "between 0 and 100",
            ),
            (
                |s| frontend(s).retry_budget = Some(v1::RetryBudget { window: seconds(0), ..Default::default() }),
                "ports[0].frontend.retryBudget.window",
                "not be zero",
            ),
            (
                |s| backend(s).slices.push("shop/orders:80".into()),
                "ports[0].backend.slices[1]",
                "namespace/name:port/slice",
            ),
            (|s| backend(s).slices.push("shop/orders:80/0".into()), "ports[0].backend.slices[1]", "occurs twice"),
            (|s| backend(s).balancer = 77, "ports[0].backend.balancer", "no balancer"),
            (|s| backend(s).connect_timeout = seconds(0), "ports[0].backend.connectTimeout", "not be zero"),
            (
                |s| backend(s).limits = Some(v1::Limits { requests: Some(0), ..Default::default() }),
                "ports[0].backend.limits.requests",
                "refuse everything",
            ),
            (
                |s| backend(s).breaker = Some(v1::CircuitBreaker { success_percent: Some(101), ..Default::default() }),
                "ports[0].backend.breaker.successPercent",
                "between",
            ),
            (
                |s| {
                    backend(s).breaker =
                        Some(v1::CircuitBreaker { consecutive_failures: Some(0), ..Default::default() })
                },
                "ports[0].backend.breaker.consecutiveFailures",
                "between 1",
            ),
            (
                |s| {
                    backend(s).breaker =
                        Some(v1::CircuitBreaker { base_open: seconds(9), max_open: seconds(8), ..Default::default() })
                },
                "ports[0].backend.breaker.baseOpen",
                "longer than maxOpen",
            ),
        ],
    );
}

#[test]
fn timeouts_of_different_authors_do_not_contradict_the_shorter_wins() {
    let timeouts =
        |rule_each: Option<i64>, rule_whole: Option<i64>, port_each: Option<i64>, port_whole: Option<i64>| {
            let mut wire = service();
            rule(&mut wire).backend_request_timeout = rule_each.and_then(seconds);
            rule(&mut wire).request_timeout = rule_whole.and_then(seconds);
            frontend(&mut wire).backend_request_timeout = port_each.and_then(seconds);
            frontend(&mut wire).request_timeout = port_whole.and_then(seconds);
            let timeouts = Service::from_wire(&wire).unwrap().ports[0].frontend.routes.rules()[0].timeouts;
            (timeouts.request, timeouts.backend_request.map(|each| each.as_secs()))
        };
    let chosen = |seconds| RequestTimeout::Chosen(Duration::from_secs(seconds));
    assert_eq!(timeouts(None, Some(3), Some(9), None), (chosen(3), Some(3)));
    assert_eq!(timeouts(Some(9), None, None, Some(3)), (chosen(3), Some(3)));
    assert_eq!(timeouts(None, None, Some(1), Some(5)), (chosen(5), Some(1)));
    assert_eq!(timeouts(None, Some(0), None, Some(5)), (RequestTimeout::Disabled, None));
    assert_eq!(timeouts(Some(0), None, Some(2), Some(5)), (chosen(5), None));
    // Nobody chose the built-in fifteen seconds: a longer try that somebody did choose stretches them.
    assert_eq!(timeouts(Some(20), None, None, None), (RequestTimeout::Default(Duration::from_secs(20)), Some(20)));
}

#[test]
fn policies_become_what_they_say() {
    let mut wire = service();
    rule(&mut wire).retry = Some(v1::RetryPolicy {
        attempts: Some(4),
        codes: vec![503, 429, 503],
        methods: vec!["POST".into()],
        grpc_codes: vec![8],
        backoff: seconds(0),
    });
    backend(&mut wire).breaker = Some(v1::CircuitBreaker { base_open: seconds(90), ..Default::default() });
    rule(&mut wire).filters = vec![v1::Filter {
        filter: Some(v1::filter::Filter::ResponseHeaders(v1::HeaderModifier {
            set: vec![
                v1::HeaderValue { name: "X-A".into(), value: "1".into() },
                v1::HeaderValue { name: "x-a".into(), value: "2".into() },
            ],
            ..Default::default()
        })),
    }];
    rule(&mut wire).backends[0].unresolved = "BackendNotFound: gone".into();
    let service = Service::from_wire(&wire).unwrap();
    let rule = &service.ports[0].frontend.routes.rules()[0];
    assert_eq!((rule.retry.attempts, rule.retry.codes.as_slice(), rule.retry.grpc_codes), (4, &[429, 503][..], 1 << 8));
    assert_eq!(rule.retry.backoff, Duration::ZERO);
    assert_eq!(rule.filters.response[0].set.len(), 1, "the second of equal names is ignored");
    assert_eq!(rule.backends()[0].target, Target::Unresolved("BackendNotFound: gone".into()));
    let breaker = &service.ports[0].backend.breaker;
    let ninety = Duration::from_secs(90);
    assert_eq!(*breaker, breaker::Settings { base_open: ninety, max_open: ninety, ..Default::default() });
}

#[test]
fn a_breaker_becomes_what_it_is_told_and_a_default_gives_way_to_what_was_chosen() {
    let settings = |breaker: v1::CircuitBreaker| {
        let mut wire = service();
        backend(&mut wire).breaker = Some(breaker);
        Service::from_wire(&wire).unwrap().ports[0].backend.breaker.clone()
    };
    let told = settings(v1::CircuitBreaker {
        disabled: Some(true),
        consecutive_failures: Some(2),
        success_percent: Some(33),
        minimum_calls: Some(7),
        window: seconds(3),
        base_open: seconds(4),
        max_open: seconds(5),
    });
    let default = breaker::Settings::default();
    let wanted = breaker::Settings {
        enabled: false,
        consecutive_failures: 2,
        success_percent: 33,
        minimum_calls: 7,
        window: Duration::from_secs(3),
        base_open: Duration::from_secs(4),
        max_open: Duration::from_secs(5),
        ..default.clone()
    };
    assert_eq!(told, wanted);
    let tenth = Duration::from_millis(100);
    let short = prost_types::Duration { seconds: 0, nanos: 100_000_000 };
    let told = settings(v1::CircuitBreaker { max_open: Some(short), ..Default::default() });
    assert_eq!(told, breaker::Settings { base_open: tenth, max_open: tenth, ..default });
}

#[test]
fn the_targets_of_a_port_are_those_of_its_rules_and_of_its_fallback() {
    let targets = |wire: &v1::Service| -> Vec<String> {
        let service = Service::from_wire(wire).unwrap();
        service.ports[0].frontend.targets().map(ToString::to_string).collect()
    };
    let mut wire = service();
    assert_eq!(targets(&wire), ["shop/orders:80"]);
    let to = v1::FallbackBackend { service: "shop/cache".into(), port: 81, ..Default::default() };
    frontend(&mut wire).fallback = Some(v1::Fallback { to: Some(v1::fallback::To::Backend(to)) });
    assert_eq!(targets(&wire), ["shop/orders:80", "shop/cache:81"]);
}

#[test]
fn http_2_and_grpc_are_what_travels_as_streams() {
    use Protocol::{Detect, Grpc, Http1, Http2, Tcp};
    for (protocol, streams) in [(Detect, false), (Http1, false), (Http2, true), (Grpc, true), (Tcp, false)] {
        assert_eq!(protocol.is_http2(), streams, "{protocol:?}");
    }
}

#[test]
fn endpoints_become_what_they_say_and_are_refused_by_field() {
    let slice = Endpoints::from_wire(&endpoints()).unwrap();
    let endpoint = &slice.endpoints[0];
    assert_eq!((endpoint.address.to_string().as_str(), endpoint.weight), ("192.0.2.10:8080", 1));
    assert_eq!(&*endpoint.tunnel.as_ref().unwrap().authority, "192.0.2.10:8080");
    let mut six = endpoints();
    six.endpoints[0].address = "2001:db8::1".into();
    assert_eq!(
        &*Endpoints::from_wire(&six).unwrap().endpoints[0].tunnel.as_ref().unwrap().authority,
        "[2001:db8::1]:8080"
    );

    let mut plain = endpoints();
    let endpoint = &mut plain.endpoints[0];
    (endpoint.tunnel, endpoint.identity, endpoint.server_name) = Default::default();
    assert_eq!(Endpoints::from_wire(&plain).unwrap().endpoints[0].tunnel, None);

    refuse(
        &endpoints(),
        Endpoints::from_wire,
        &[
            (|e| e.name = "shop/orders".into(), "name", "port/slice"),
            (|e| e.name = "shop/orders:0/1".into(), "name", "port/slice"),
            (|e| e.endpoints = vec![e.endpoints[0].clone(); 101], "endpoints", "more than the 100"),
            (|e| e.endpoints.push(e.endpoints[0].clone()), "endpoints[1].uid", "occurs twice"),
            (|e| e.endpoints[0].uid = "orders-1".into(), "endpoints[0].uid", "namespace/name"),
            (|e| e.endpoints[0].address = "orders.shop".into(), "endpoints[0].address", "no IP address"),
            (|e| e.endpoints[0].port = 0, "endpoints[0].port", "is not a port"),
            (|e| e.endpoints[0].tunnel = "192.0.2.10".into(), "endpoints[0].tunnel", "<ip>:<port>"),
            (|e| e.endpoints[0].tunnel = "192.0.2.10:0".into(), "endpoints[0].tunnel", "port 0"),
            (|e| e.endpoints[0].identity = String::new(), "endpoints[0].identity", "required with a tunnel"),
            (|e| e.endpoints[0].tunnel = String::new(), "endpoints[0].identity", "without a tunnel"),
            (
                |e| (e.endpoints[0].tunnel, e.endpoints[0].identity) = Default::default(),
                "endpoints[0].serverName",
                "no tunnel",
            ),
            (
                |e| e.endpoints[0].identity = "spiffe://weft.local/shop/orders".into(),
                "endpoints[0].identity",
                "of the form",
            ),
            (
                |e| e.endpoints[0].identity = "spiffe://weft.local/ns/shop/sa/orders/x".into(),
                "endpoints[0].identity",
                "of the form",
            ),
            (
                |e| e.endpoints[0].identity = "spiffe://weft.local/ns/sh%6Fp/sa/orders".into(),
                "endpoints[0].identity",
                "of the form",
            ),
            (|e| e.endpoints[0].server_name = "a b".into(), "endpoints[0].serverName", "no host name"),
            (|e| e.endpoints[0].health = 9, "endpoints[0].health", "no health"),
            (|e| e.endpoints[0].weight = 1001, "endpoints[0].weight", "between 1 and 1000"),
        ],
    );
}

#[test]
fn an_authority_is_found_in_its_one_spelling() {
    let mut wire = inbound();
    wire.ports[0].authorities = vec!["[2001:0DB8::0:1]:8080".into(), "Orders.Shop:8080".into()];
    let inbound = Inbound::from_wire(&wire).unwrap();
    for authority in ["[2001:db8::1]:8080", "[2001:DB8::1]:8080", "orders.shop:8080", "ORDERS.SHOP:8080"] {
        assert!(inbound.by_authority(authority).is_some(), "{authority}");
    }
}

#[test]
fn an_inbound_is_found_by_its_keys_alone() {
    let inbound = Inbound::from_wire(&inbound()).unwrap();
    assert_eq!(inbound.by_authority("192.0.2.10:8080").map(|p| p.port), Some(8080));
    assert_eq!(inbound.by_server_name("80.ORDERS.shop.svc.cluster.local").map(|p| p.port), Some(8080));
    assert_eq!(inbound.by_port(8080).map(|p| p.local.to_string()), Some("127.0.0.1:8080".into()));
    for unknown in ["", "192.0.2.10", "192.0.2.10:8081", "127.0.0.1:8080", "80.orders.shop.svc.cluster.local"] {
        assert!(inbound.by_authority(unknown).is_none(), "{unknown}");
    }
    assert!(inbound.by_server_name("192.0.2.10:8080").is_none());
    let port = inbound.by_port(8080).unwrap();
    assert_eq!((port.tls, port.limits), (TlsMode::Strict, limit::Settings::default()));
    let headers = http::HeaderMap::new();
    let cart = authorize::Connection::of("spiffe://weft.local/ns/shop/sa/cart");
    let decision = port.authorization.request(&cart, &crate::route::Head::new("GET", "/", &headers), None);
    assert!(matches!(decision.verdict, authorize::Verdict::Allowed(cause) if cause.policy == "shop/cart-only"));
}

#[test]
fn inbounds_are_refused_by_field() {
    fn second(wire: &mut v1::Inbound, change: Change<v1::InboundPort>) {
        let mut port = v1::InboundPort { port: 9090, local: "127.0.0.1:9090".into(), ..Default::default() };
        change(&mut port);
        wire.ports.push(port);
    }
    refuse(
        &inbound(),
        Inbound::from_wire,
        &[
            (|i| i.workload = "orders".into(), "workload", "namespace/name"),
            (|i| i.identity = String::new(), "identity", "of the form"),
            (|i| i.identity = "spiffe://weft.local/ns/home/sa/orders".into(), "identity", "namespace home"),
            (|i| second(i, |p| p.port = 8080), "ports[1].port", "occurs twice"),
            (
                |i| second(i, |p| p.authorities = vec!["192.0.2.10:8080".into()]),
                "ports[1].authorities[0]",
                "port 8080 already",
            ),
            (
                |i| second(i, |p| p.server_names = vec!["80.Orders.shop.svc.cluster.local".into()]),
                "ports[1].serverNames[0]",
                "port 8080 already",
            ),
            (
                |i| i.ports[0].authorities = vec!["192.0.2.10:80".into(), "192.0.2.10:80".into()],
                "ports[0].authorities[1]",
                "this port already",
            ),
            (|i| i.ports[0].authorities.push("192.0.2.10".into()), "ports[0].authorities[1]", "<address>:<port>"),
            (|i| i.ports[0].authorities.push("orders:0".into()), "ports[0].authorities[1]", "<address>:<port>"),
            (|i| i.ports[0].authorities.push("192.0.2.10:0".into()), "ports[0].authorities[1]", "<address>:<port>"),
            (|i| i.ports[0].local = "8080".into(), "ports[0].local", "<ip>:<port>"),
            (|i| i.ports[0].port = 0, "ports[0].port", "is not a port"),
            (|i| i.ports[0].tls = 5, "ports[0].tls", "no TLS mode"),
            (|i| i.ports[0].service = "orders".into(), "ports[0].service", "namespace/name"),
            (|i| i.ports[0].authorization[0].action = 7, "ports[0].authorization[0].action", "no action"),
            (|i| i.ports[0].authorization[0].name = "x".into(), "ports[0].authorization[0].name", "namespace/name"),
        ],
    );
}

fn list(issuer: &[&[u8]]) -> v1::RevocationList {
    v1::RevocationList { crl: vec![0x30, 0], issuer: issuer.iter().map(|der| der.to_vec()).collect() }
}

#[test]
fn bundles_and_settings_are_refused_by_field() {
    refuse(
        &bundle(),
        TrustBundle::from_wire,
        &[
            (|b| b.trust_domain = "Weft".into(), "trustDomain", "no trust domain"),
            (|b| b.roots.clear(), "roots", "without a root"),
            (|b| b.roots[0] = b"-----BEGIN CERTIFICATE-----".to_vec(), "roots[0]", "DER"),
            (|b| b.roots[0].push(0), "roots[0]", "DER"),
            (|b| b.roots.push(b.roots[0].clone()), "roots[1]", "this root occurs twice"),
            (|b| b.reissue_after = -1, "reissueAfter", "before 1970"),
            (|b| b.revocations.push(v1::RevocationList::default()), "revocations[0].crl", "DER"),
            (|b| b.revocations.push(list(&[])), "revocations[0].issuer", "without its issuer"),
            (|b| b.revocations.push(list(&[b"pem"])), "revocations[0].issuer[0]", "DER"),
            (|b| b.revocations = vec![list(&[&[0x30, 0]]); 17], "revocations", "more than the 16"),
        ],
    );
    refuse(
        &settings(),
        Settings::from_wire,
        &[
            (|s| s.trust_domain = String::new(), "trustDomain", "no trust domain"),
            (|s| s.domain = "cluster local".into(), "domain", "no host name"),
            (|s| s.egress = 4, "egress", "no egress"),
            (|s| s.federated_trust_domains = vec!["Partner".into()], "federatedTrustDomains[0]", "no trust domain"),
            (|s| s.federated_trust_domains = vec!["a.test".into(); 2], "federatedTrustDomains[1]", "occurs twice"),
            (|s| s.mesh_cidrs.push("198.51.100.7/24".into()), "meshCidrs[2]", "beyond its first 24"),
            (|s| s.mesh_cidrs.push("198.51.100.0/33".into()), "meshCidrs[2]", "no address range"),
            (|s| s.mesh_cidrs.push("2001:db8::1/64".into()), "meshCidrs[2]", "beyond its first 64"),
            (|s| s.mesh_cidrs.push("198.51.100.0".into()), "meshCidrs[2]", "no address range"),
        ],
    );
    let long = v1::TrustBundle { roots: vec![[&[0x30, 0x82, 0x01, 0x00][..], &[0; 256]].concat()], ..bundle() };
    assert_eq!(TrustBundle::from_wire(&long).unwrap().reissue_after, None);
}

#[test]
fn an_address_is_in_the_mesh_when_a_range_has_it() {
    let wire = v1::MeshSettings { mesh_cidrs: vec!["198.51.100.0/24".into(), "2001:db8::/32".into()], ..settings() };
    let settings = Settings::from_wire(&wire).unwrap();
    assert_eq!(&*settings.domain, "cluster.local");
    for (address, inside) in [
        ("198.51.100.0", true),
        ("198.51.100.255", true),
        ("198.51.101.0", false),
        ("::ffff:198.51.100.9", true),
        ("2001:db8:1::", true),
        ("2001:db9::", false),
    ] {
        assert_eq!(settings.in_mesh(address.parse().unwrap()), inside, "{address}");
    }
    let everything = Cidr { network: "0.0.0.0".parse().unwrap(), length: 0 };
    assert!(everything.contains("203.0.113.1".parse().unwrap()) && !everything.contains("::1".parse().unwrap()));
}

#[test]
fn a_file_of_resources_must_hold_what_it_refers_to_once() {
    let good = v1::Resources {
        services: vec![service()],
        endpoints: vec![endpoints()],
        inbound: Some(inbound()),
        trust_bundles: vec![bundle()],
        settings: Some(settings()),
    };
    fn twin(resources: &mut v1::Resources, change: Change<v1::Service>) {
        let mut twin =
            v1::Service { name: "shop/twin".into(), hostnames: Vec::new(), vips: Vec::new(), ports: Vec::new() };
        change(&mut twin);
        resources.services.push(twin);
    }
    refuse(
        &good,
        Resources::from_wire,
        &[
            (|r| twin(r, |t| t.name = "shop/orders".into()), "services[1].name", "shop/orders occurs twice"),
            (|r| twin(r, |t| t.hostnames = vec!["orders.shop".into()]), "services[1].hostnames[0]", "occurs twice"),
            (|r| twin(r, |t| t.vips = vec!["203.0.113.7".into()]), "services[1].vips[0]", "occurs twice"),
            (|r| r.endpoints.push(r.endpoints[0].clone()), "endpoints[1].name", "occurs twice"),
            (|r| r.endpoints.clear(), "services[0].ports[0].backend.slices[0]", "no endpoints named shop/orders:80/0"),
            (
                |r| rule(&mut r.services[0]).backends[0].port = 81,
                "services[0].ports[0].frontend.routes",
                "shop/orders:81, which is not in the file",
            ),
            (|r| r.trust_bundles.push(r.trust_bundles[0].clone()), "trustBundles[1].trustDomain", "occurs twice"),
            (|r| r.trust_bundles[0].roots.clear(), "trustBundles[0].roots", "without a root"),
            (|r| r.inbound.as_mut().unwrap().ports[0].port = 0, "inbound.ports[0].port", "is not a port"),
            (|r| r.settings.as_mut().unwrap().egress = 4, "settings.egress", "no egress"),
        ],
    );
}

#[test]
fn a_refusal_reads_as_a_sentence() {
    let refusal = Refusal::new("[0]", "is wrong").under("ports").under("inbound");
    assert_eq!(
        (refusal.to_string().as_str(), refusal.field.as_str()),
        ("inbound.ports[0]: is wrong", "inbound.ports[0]")
    );
    assert_eq!(Refusal::new("", "is wrong").under("roots[1]").to_string(), "roots[1]: is wrong");
}

#[test]
fn identities_have_one_shape() {
    let parts = identity_parts("spiffe://weft.local/ns/shop/sa/orders");
    assert_eq!(parts, Some(("weft.local", "shop", "orders")));
    for other in [
        "",
        "spiffe://",
        "https://weft.local/ns/shop/sa/orders",
        "spiffe://weft.local/ns/shop/sa/",
        "spiffe://weft.local/ns//sa/x",
        "spiffe://weft.local/ns/shop/sa/orders/",
        "spiffe://Weft.local/ns/shop/sa/orders",
        "spiffe://weft.local/ns/shop/sa/or?x",
        "spiffe://weft.local:80/ns/shop/sa/orders",
        "SPIFFE://weft.local/ns/shop/sa/orders",
        "spiffe://weft.local/sa/shop/ns/orders",
    ] {
        assert_eq!(identity_parts(other), None, "{other}");
    }
}

proptest! {
    #[test]
    fn no_text_panics_and_what_is_accepted_is_bounded(text in ".{0,80}", number in any::<u32>(), seconds in any::<i64>(), nanos in any::<i32>()) {
        let mut wire = service();
        wire.hostnames.push(text.clone());
        drop(Service::from_wire(&wire));
        let mut wire = service();
        matching(&mut wire).path = Some(v1::route_match::Path::PathRegex(text.clone()));
        rule(&mut wire).request_timeout = Some(prost_types::Duration { seconds, nanos });
        rule(&mut wire).backends[0].weight = number;
        if let Ok(service) = Service::from_wire(&wire) {
            let timeout = service.ports[0].frontend.routes.rules()[0].timeouts.request(true);
            prop_assert!(timeout.is_none_or(|t| t <= Duration::from_secs(366 * 24 * 3600)));
        }
        let mut wire = inbound();
        wire.ports[0].authorities = vec![text.clone()];
        let rule = &mut wire.ports[0].authorization[0].rules[0];
        rule.to[0].paths = vec![text.clone()];
        rule.when.push(v1::AuthorizationCondition { key: text.clone(), values: vec![text.clone()], ..Default::default() });
        drop(Inbound::from_wire(&wire));
        let mut wire = endpoints();
        (wire.endpoints[0].port, wire.endpoints[0].identity) = (number, text.clone());
        drop(Endpoints::from_wire(&wire));
        let wire = v1::TrustBundle { roots: vec![text.clone().into_bytes()], ..bundle() };
        drop(TrustBundle::from_wire(&wire));
        drop(Settings::from_wire(&v1::MeshSettings { mesh_cidrs: vec![text.clone()], ..settings() }));
        prop_assert_eq!(identity_parts(&text).is_some() && !text.starts_with("spiffe://"), false);
    }
}
