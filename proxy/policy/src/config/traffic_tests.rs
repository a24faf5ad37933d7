//! What traffic policies say of a backend or an inbound port, accepted and refused.

use std::time::Duration;

use weft_proto::v1;

use super::tests::{Change, backend, inbound, refuse, seconds, service};
use super::*;
use crate::balance::{Algorithm, HashKey};
use crate::health::{Check, Settings as HealthSettings};
use crate::limit::adaptive;
use crate::limit::rate::{Key, Scope};

fn hash(key: v1::hash_key::Key) -> v1::HashKey {
    v1::HashKey { key: Some(key) }
}

fn probe(probe: v1::health_check::Probe) -> v1::HealthCheck {
    v1::HealthCheck { probe: Some(probe), ..Default::default() }
}

/// A service whose backend says everything there is to say.
fn balanced() -> v1::Service {
    let mut wire = service();
    let backend = backend(&mut wire);
    backend.balancer = v1::Balancer::RingHash.into();
    backend.hash = vec![
        hash(v1::hash_key::Key::Header("X-User".into())),
        hash(v1::hash_key::Key::Cookie("sid".into())),
        hash(v1::hash_key::Key::SourceAddress(true)),
    ];
    backend.ignore_locality = true;
    backend.slow_start = seconds(30);
    backend.panic_percent = Some(0);
    backend.health_check = Some(v1::HealthCheck {
        interval: seconds(5),
        timeout: seconds(2),
        healthy_threshold: 1,
        unhealthy_threshold: 4,
        ..probe(v1::health_check::Probe::Http(v1::HttpProbe {
            path: "/healthz?deep=1".into(),
            host: "orders.shop".into(),
            statuses: vec![204, 200],
        }))
    });
    backend.external = Some(v1::ExternalHost { host: "API.example.com.".into(), port: 443 });
    wire
}

#[test]
fn a_backend_becomes_what_its_policies_say() {
    let service = Service::from_wire(&balanced()).unwrap();
    let backend = &service.ports[0].backend;
    let user = HashKey::Header("x-user".parse().unwrap());
    assert_eq!(backend.hash, [user, HashKey::Cookie("sid".into()), HashKey::SourceAddress]);
    assert_eq!((backend.balancer, backend.ignore_locality, backend.panic_percent), (Algorithm::RingHash, true, 0));
    assert_eq!(backend.slow_start, Some(Duration::from_secs(30)));
    let check = Check::Http { path: "/healthz?deep=1".into(), host: "orders.shop".into(), statuses: vec![200, 204] };
    let health = HealthSettings {
        check,
        interval: Duration::from_secs(5),
        timeout: Duration::from_secs(2),
        healthy_threshold: 1,
        unhealthy_threshold: 4,
    };
    assert_eq!(backend.health_check, Some(health));
    let external = ExternalHost { host: "api.example.com".into(), port: 443 };
    assert_eq!(backend.external, Some(external));
}

#[test]
fn what_policies_leave_out_takes_the_defaults_of_the_book() {
    let mut wire = service();
    backend(&mut wire).health_check = Some(probe(v1::health_check::Probe::Http(v1::HttpProbe::default())));
    let service = Service::from_wire(&wire).unwrap();
    let backend = &service.ports[0].backend;
    assert_eq!((backend.panic_percent, backend.slow_start, backend.ignore_locality), (50, None, false));
    assert!(backend.hash.is_empty() && backend.external.is_none());
    let check = Check::Http { path: "/".into(), host: "".into(), statuses: Vec::new() };
    assert_eq!(backend.health_check, Some(HealthSettings::new(check)));
    let port = Inbound::from_wire(&inbound()).unwrap();
    assert!(port.ports[0].rate_limits.is_empty() && port.ports[0].adaptive_concurrency.is_none());
    assert_eq!((&*port.region, &*port.zone), ("", ""));
}

#[test]
fn backends_are_refused_by_field() {
    use v1::health_check::Probe;
    fn health(wire: &mut v1::Service) -> &mut v1::HealthCheck {
        backend(wire).health_check.as_mut().unwrap()
    }
    fn http(wire: &mut v1::Service, change: Change<v1::HttpProbe>) {
        let Some(Probe::Http(http)) = &mut health(wire).probe else { panic!("an HTTP probe") };
        change(http);
    }
    fn external(wire: &mut v1::Service) -> &mut v1::ExternalHost {
        backend(wire).external.as_mut().unwrap()
    }
    fn second_key(wire: &mut v1::Service, key: v1::hash_key::Key) {
        backend(wire).hash[1] = hash(key);
    }
    refuse(
        &balanced(),
        Service::from_wire,
        &[
            (|s| backend(s).balancer = 7, "ports[0].backend.balancer", "no balancer"),
            (|s| backend(s).hash.clear(), "ports[0].backend.hash", "nothing to hash"),
            (|s| backend(s).balancer = 0, "ports[0].backend.hash", "does not hash"),
            (|s| backend(s).hash = vec![Default::default(); 17], "ports[0].backend.hash", "more than the 16"),
            (|s| backend(s).hash[1].key = None, "ports[0].backend.hash[1]", "does not know"),
            (
                |s| second_key(s, v1::hash_key::Key::Header("x user".into())),
                "ports[0].backend.hash[1].header",
                "no header name",
            ),
            (|s| second_key(s, v1::hash_key::Key::Cookie("a=b".into())), "ports[0].backend.hash[1].cookie", "no name"),
            (|s| second_key(s, v1::hash_key::Key::Cookie(String::new())), "ports[0].backend.hash[1].cookie", "no name"),
            (
                |s| second_key(s, v1::hash_key::Key::SourceAddress(false)),
                "ports[0].backend.hash[1].sourceAddress",
                "left out",
            ),
            (|s| backend(s).slow_start = seconds(3601), "ports[0].backend.slowStart", "longer than"),
            (|s| backend(s).slow_start = seconds(-1), "ports[0].backend.slowStart", "negative"),
            (|s| backend(s).panic_percent = Some(101), "ports[0].backend.panicPercent", "between 0 and 100"),
            (|s| health(s).probe = None, "ports[0].backend.healthCheck.http", "is required"),
            (|s| http(s, |h| h.path = "healthz".into()), "ports[0].backend.healthCheck.http.path", "no path"),
            (|s| http(s, |h| h.path = "/a b".into()), "ports[0].backend.healthCheck.http.path", "no path"),
            (|s| http(s, |h| h.path = "/a\r\nx: y".into()), "ports[0].backend.healthCheck.http.path", "no path"),
            (|s| http(s, |h| h.host = "a\nb".into()), "ports[0].backend.healthCheck.http.host", "Host header"),
            (
                |s| http(s, |h| h.statuses.push(600)),
                "ports[0].backend.healthCheck.http.statuses[2]",
                "between 100 and 599",
            ),
            (
                |s| health(s).probe = Some(Probe::Grpc(v1::GrpcProbe { service: "x".repeat(254) })),
                "ports[0].backend.healthCheck.grpc.service",
                "more than the 253",
            ),
            (|s| health(s).interval = seconds(0), "ports[0].backend.healthCheck.interval", "must not be zero"),
            (|s| health(s).timeout = seconds(6), "ports[0].backend.healthCheck.timeout", "not between"),
            (|s| health(s).healthy_threshold = 101, "ports[0].backend.healthCheck.healthyThreshold", "between 1"),
            (|s| health(s).unhealthy_threshold = 101, "ports[0].backend.healthCheck.unhealthyThreshold", "between 1"),
            (|s| external(s).host = "*.example.com".into(), "ports[0].backend.external.host", "no host name"),
            (|s| external(s).host = "0.0.0.0".into(), "ports[0].backend.external.host", "no single host"),
            (|s| external(s).port = 0, "ports[0].backend.external.port", "is not a port"),
        ],
    );
}

/// An inbound whose port counts and sheds.
fn limited() -> v1::Inbound {
    let mut wire = inbound();
    (wire.region, wire.zone) = ("eu".into(), "eu-1".into());
    wire.ports[0].rate_limits = vec![v1::RateLimit {
        name: "shop/catalog/burst".into(),
        matches: vec![v1::RouteMatch {
            path: Some(v1::route_match::Path::PathPrefix("/catalog".into())),
            ..Default::default()
        }],
        keys: vec![
            v1::RateLimitKey { key: Some(v1::rate_limit_key::Key::Identity(true)) },
            v1::RateLimitKey { key: Some(v1::rate_limit_key::Key::Header("X-User".into())) },
            v1::RateLimitKey { key: Some(v1::rate_limit_key::Key::Method(true)) },
        ],
        requests: 100,
        per: seconds(60),
        burst: 0,
        scope: v1::RateLimitScope::Global.into(),
    }];
    wire.ports[0].adaptive_concurrency =
        Some(v1::AdaptiveConcurrency { min_requests: Some(8), max_requests: Some(200) });
    wire
}

#[test]
fn an_inbound_port_becomes_what_its_policies_say() {
    let inbound = Inbound::from_wire(&limited()).unwrap();
    assert_eq!((&*inbound.region, &*inbound.zone), ("eu", "eu-1"));
    let limit = &inbound.ports[0].rate_limits[0];
    assert_eq!(
        (&*limit.name, limit.requests, limit.burst, limit.scope),
        ("shop/catalog/burst", 100, 100, Scope::Global)
    );
    assert_eq!(limit.per, Duration::from_secs(60));
    assert_eq!(limit.keys, [Key::Identity, Key::Header("x-user".parse().unwrap()), Key::Method]);
    assert_eq!(limit.matches.len(), 1);
    assert_eq!(inbound.ports[0].adaptive_concurrency, Some(adaptive::Settings { min: 8, max: 200 }));
    let mut daily = limited();
    daily.ports[0].rate_limits[0].per = seconds(86_400);
    let limit = &Inbound::from_wire(&daily).unwrap().ports[0].rate_limits[0];
    assert_eq!(limit.per, Duration::from_secs(86_400), "a day is the longest window");
    let bounds = |min_requests, max_requests| {
        let mut wire = limited();
        wire.ports[0].adaptive_concurrency = Some(v1::AdaptiveConcurrency { min_requests, max_requests });
        Inbound::from_wire(&wire).unwrap().ports[0].adaptive_concurrency.map(|s| (s.min, s.max))
    };
    assert_eq!(bounds(None, None), Some((4, 1024)));
    assert_eq!(bounds(None, Some(2)), Some((2, 2)), "a default gives way");
    assert_eq!(bounds(Some(2000), None), Some((2000, 2000)));
    assert_eq!(bounds(Some(7), Some(7)), Some((7, 7)), "equal bounds do not disagree");
}

#[test]
fn inbound_policies_are_refused_by_field() {
    use v1::rate_limit_key::Key;
    fn limit(wire: &mut v1::Inbound) -> &mut v1::RateLimit {
        &mut wire.ports[0].rate_limits[0]
    }
    fn adaptive(wire: &mut v1::Inbound) -> &mut v1::AdaptiveConcurrency {
        wire.ports[0].adaptive_concurrency.as_mut().unwrap()
    }
    refuse(
        &limited(),
        Inbound::from_wire,
        &[
            (|i| i.region = "x".repeat(254), "region", "more than the 253"),
            (|i| i.zone = "x".repeat(254), "zone", "more than the 253"),
            (
                |i| i.ports[0].rate_limits = vec![v1::RateLimit::default(); 65],
                "ports[0].rateLimits",
                "more than the 64",
            ),
            (|i| limit(i).name = "shop/catalog".into(), "ports[0].rateLimits[0].name", "namespace/policy/limit"),
            (|i| limit(i).name = "shop/catalog/a\"b".into(), "ports[0].rateLimits[0].name", "namespace/policy/limit"),
            (
                |i| {
                    let again = limit(i).clone();
                    i.ports[0].rate_limits.push(again);
                },
                "ports[0].rateLimits[1].name",
                "occurs twice",
            ),
            (|i| limit(i).requests = 0, "ports[0].rateLimits[0].requests", "between 1"),
            (|i| limit(i).per = None, "ports[0].rateLimits[0].per", "is required"),
            (|i| limit(i).per = seconds(0), "ports[0].rateLimits[0].per", "must not be zero"),
            (|i| limit(i).per = seconds(86_401), "ports[0].rateLimits[0].per", "not between"),
            (|i| limit(i).burst = 2_000_000_000, "ports[0].rateLimits[0].burst", "between 1"),
            (|i| limit(i).scope = 5, "ports[0].rateLimits[0].scope", "no scope"),
            (|i| limit(i).keys = vec![Default::default(); 9], "ports[0].rateLimits[0].keys", "more than the 8"),
            (|i| limit(i).keys[1].key = None, "ports[0].rateLimits[0].keys[1]", "does not know"),
            (
                |i| limit(i).keys[1].key = Some(Key::Header("a b".into())),
                "ports[0].rateLimits[0].keys[1].header",
                "no header name",
            ),
            (
                |i| limit(i).keys[0].key = Some(Key::Identity(false)),
                "ports[0].rateLimits[0].keys[0].identity",
                "left out",
            ),
            (
                |i| limit(i).matches[0].path = Some(v1::route_match::Path::PathRegex("(".into())),
                "ports[0].rateLimits[0].matches[0].pathRegex",
                "",
            ),
            (|i| adaptive(i).min_requests = Some(0), "ports[0].adaptiveConcurrency.minRequests", "between 1"),
            (|i| adaptive(i).min_requests = Some(201), "ports[0].adaptiveConcurrency.minRequests", "maxRequests"),
            (|i| adaptive(i).max_requests = Some(0), "ports[0].adaptiveConcurrency.maxRequests", "between 1"),
        ],
    );
}
