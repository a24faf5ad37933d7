//! What is exactly at a bound is taken, what is one beyond is refused: every length and number that a peer supplies.

use weft_proto::v1;
use weft_proto::v1::filter::Filter;
use weft_proto::v1::key_match::Value;
use weft_proto::v1::path_modifier::Modifier;
use weft_proto::v1::route_match::Path;

use super::check::{is_label, is_namespaced_name, is_subdomain, is_trust_domain};
use super::mesh::Cidr;
use super::tests::{backend, frontend, inbound, matching, route, rule, seconds, service};
use super::*;

/// How a resource comes to say something of that size, the largest that is taken, and the field that says it.
type Bound<'b, W> = (fn(&mut W, usize), usize, &'b str);

fn bounds<W: Clone, D: std::fmt::Debug>(good: &W, convert: fn(&W) -> Result<D, Refusal>, bounds: &[Bound<'_, W>]) {
    for (say, most, field) in bounds {
        for size in [*most, *most + 1] {
            let mut wire = good.clone();
            say(&mut wire, size);
            match convert(&wire) {
                Ok(_) => assert_eq!(size, *most, "{field} is taken beyond its bound"),
                Err(refusal) => assert_eq!((size, refusal.field.as_str()), (*most + 1, *field), "{refusal}"),
            }
        }
    }
}

/// What is taken and what is refused, in the same place.
fn either<W: Clone, D: std::fmt::Debug>(
    good: &W,
    convert: fn(&W) -> Result<D, Refusal>,
    say: fn(&mut W, &str),
    (taken, refused): (&[&str], &[&str]),
) {
    for (texts, fine) in [(taken, true), (refused, false)] {
        for text in texts {
            let mut wire = good.clone();
            say(&mut wire, text);
            let outcome = convert(&wire).map(drop);
            assert_eq!(outcome.is_ok(), fine, "{text:?}: {outcome:?}");
        }
    }
}

fn a(times: usize) -> String {
    "a".repeat(times)
}

fn key(wire: &mut Vec<v1::KeyMatch>, name: String, value: String) {
    wire.push(v1::KeyMatch { name, value: Some(Value::Exact(value)) });
}

fn add(wire: &mut v1::Service, filter: Filter) {
    rule(wire).filters.push(v1::Filter { filter: Some(filter) });
}

fn rewritten(path: &str) -> Filter {
    let path = v1::PathModifier { modifier: Some(Modifier::Full(path.to_owned())) };
    Filter::Rewrite(v1::Rewrite { path: Some(path), ..Default::default() })
}

fn header(value: String) -> Filter {
    let set = vec![v1::HeaderValue { name: "x".into(), value }];
    Filter::RequestHeaders(v1::HeaderModifier { set, ..Default::default() })
}

fn cors(origin: &str, max_age: u32) -> Filter {
    Filter::Cors(v1::Cors { allow_origins: vec![origin.to_owned()], max_age, ..Default::default() })
}

fn session(wire: &mut v1::Service) -> &mut v1::SessionPersistence {
    rule(wire).session_persistence.get_or_insert_default()
}

fn fixed(wire: &mut v1::Service) -> &mut v1::FixedResponse {
    let response = v1::FixedResponse { status: 200, ..Default::default() };
    frontend(wire).fallback = Some(v1::Fallback { to: Some(v1::fallback::To::Response(response)) });
    match &mut frontend(wire).fallback {
        Some(v1::Fallback { to: Some(v1::fallback::To::Response(response)) }) => response,
        other => panic!("{other:?}"),
    }
}

fn retry(wire: &mut v1::Service) -> &mut v1::RetryPolicy {
    rule(wire).retry.get_or_insert_default()
}

fn breaker(wire: &mut v1::Service) -> &mut v1::CircuitBreaker {
    backend(wire).breaker.get_or_insert_default()
}

/// The first rule as one of a GRPCRoute.
fn grpc(wire: &mut v1::Service, method: v1::GrpcMethod) {
    wire.ports[0].protocol = 0;
    route(wire).kind = v1::RouteKind::Grpc.into();
    matching(wire).path = Some(Path::Grpc(method));
}

fn http_probe(wire: &mut v1::Service) -> &mut v1::HttpProbe {
    let probe = v1::health_check::Probe::Http(v1::HttpProbe::default());
    backend(wire).health_check = Some(v1::HealthCheck { probe: Some(probe), ..Default::default() });
    match backend(wire).health_check.as_mut().and_then(|check| check.probe.as_mut()) {
        Some(v1::health_check::Probe::Http(http)) => http,
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_a_rule_says_is_bounded() {
    let at = |inner: &str| -> &'static str { format!("ports[0].frontend.routes[0].rules[0].{inner}").leak() };
    bounds(
        &service(),
        Service::from_wire,
        &[
            (
                |s, n| matching(s).path = Some(Path::ExactPath(format!("/{}", a(n - 1)))),
                1024,
                at("matches[0].exactPath"),
            ),
            (
                |s, n| matching(s).path = Some(Path::PathPrefix(format!("/{}", a(n - 1)))),
                1024,
                at("matches[0].pathPrefix"),
            ),
            (|s, n| matching(s).path = Some(Path::PathRegex(a(n))), 1024, at("matches[0].pathRegex")),
            (|s, n| matching(s).method = "A".repeat(n), 64, at("matches[0].method")),
            (|s, n| key(&mut matching(s).headers, a(n), a(1)), 256, at("matches[0].headers[0].name")),
            (|s, n| key(&mut matching(s).headers, a(1), a(n)), 4096, at("matches[0].headers[0].exact")),
            (|s, n| key(&mut matching(s).queries, a(n), a(1)), 256, at("matches[0].queries[0].name")),
            (|s, n| key(&mut matching(s).queries, a(1), a(n)), 4096, at("matches[0].queries[0].exact")),
            (
                |s, n| grpc(s, v1::GrpcMethod { service: a(n), ..Default::default() }),
                1024,
                at("matches[0].grpc.service"),
            ),
            (|s, n| rule(s).backends[0].weight = n as u32, 1_000_000, at("backends[0].weight")),
            (|s, n| add(s, rewritten(&format!("/{}", a(n - 1)))), 1024, at("filters[0].rewrite.path.full")),
            (|s, n| add(s, header(a(n))), 4096, at("filters[0].requestHeaders.set[0].value")),
            (|s, n| add(s, cors(&format!("https://{}", a(n - 8)), 0)), 253, at("filters[0].cors.allowOrigins[0]")),
            (|s, n| add(s, cors("*", n as u32)), 366 * 86_400, at("filters[0].cors.maxAge")),
            (
                |s, n| {
                    let mirror = v1::Mirror { service: "shop/b".into(), port: 80, ..Default::default() };
                    add(s, Filter::Mirror(v1::Mirror { numerator: n as u32, denominator: 9, ..mirror }));
                },
                9,
                at("filters[0].mirror.numerator"),
            ),
            (|s, n| session(s).name = a(n), 256, at("sessionPersistence.name")),
            (|s, n| session(s).path = format!("/{}", a(n - 1)), 1024, at("sessionPersistence.path")),
            (|s, n| retry(s).backoff = seconds(n as i64), 60, at("retry.backoff")),
            (|s, n| rule(s).request_timeout = seconds(n as i64), 366 * 86_400, at("requestTimeout")),
            (
                |s, n| (rule(s).request_timeout, rule(s).backend_request_timeout) = (seconds(7), seconds(n as i64)),
                7,
                at("backendRequestTimeout"),
            ),
        ],
    );
}

#[test]
fn what_a_service_says_besides_its_rules_is_bounded() {
    let at = |inner: &str| -> &'static str { format!("ports[0].{inner}").leak() };
    bounds(
        &service(),
        Service::from_wire,
        &[
            (
                |s, n| fixed(s).content_type = format!("a/{}", a(n - 2)),
                256,
                at("frontend.fallback.response.contentType"),
            ),
            (|s, n| fixed(s).body = vec![0; n], 65_536, at("frontend.fallback.response.body")),
            (
                |s, n| {
                    let delay = v1::fault::Delay { fixed: seconds(n as i64), share: None };
                    frontend(s).faults.push(v1::Fault { delay: Some(delay), ..Default::default() });
                },
                3600,
                at("frontend.faults[0].delay.fixed"),
            ),
            (
                |s, n| frontend(s).idle_timeout = Some(prost_types::Duration { seconds: 1, nanos: n as i32 }),
                999_999_999,
                at("frontend.idleTimeout"),
            ),
            (|s, n| backend(s).slices = vec![format!("shop/orders:80/{}", a(n))], 253, at("backend.slices[0]")),
            (|s, n| backend(s).slow_start = seconds(n as i64), 3600, at("backend.slowStart")),
            (
                |s, n| {
                    backend(s).balancer = v1::Balancer::Maglev.into();
                    backend(s).hash = vec![v1::HashKey { key: Some(v1::hash_key::Key::Cookie(a(n))) }];
                },
                256,
                at("backend.hash[0].cookie"),
            ),
            (
                |s, n| {
                    backend(s).balancer = v1::Balancer::Maglev.into();
                    backend(s).hash = vec![v1::HashKey { key: Some(v1::hash_key::Key::Header(a(n))) }];
                },
                256,
                at("backend.hash[0].header"),
            ),
            (
                |s, n| (breaker(s).base_open, breaker(s).max_open) = (seconds(n as i64), seconds(9)),
                9,
                at("backend.breaker.baseOpen"),
            ),
            (|s, n| breaker(s).max_open = seconds(n as i64), 86_400, at("backend.breaker.maxOpen")),
            (|s, n| http_probe(s).path = format!("/{}", a(n - 1)), 1024, at("backend.healthCheck.http.path")),
            (|s, n| http_probe(s).host = a(n), 261, at("backend.healthCheck.http.host")),
            (
                |s, n| {
                    http_probe(s);
                    backend(s).health_check.as_mut().unwrap().interval = seconds(n as i64);
                },
                86_400,
                at("backend.healthCheck.interval"),
            ),
        ],
    );
}

#[test]
fn what_a_workload_is_told_is_bounded() {
    fn rule(wire: &mut v1::Inbound) -> &mut v1::AuthorizationRule {
        &mut wire.ports[0].authorization[0].rules[0]
    }
    fn to(wire: &mut v1::Inbound) -> &mut v1::AuthorizationOperation {
        rule(wire).to = vec![v1::AuthorizationOperation::default()];
        &mut rule(wire).to[0]
    }
    fn from(wire: &mut v1::Inbound) -> &mut v1::AuthorizationSource {
        rule(wire).from = vec![v1::AuthorizationSource::default()];
        &mut rule(wire).from[0]
    }
    fn when(wire: &mut v1::Inbound, key: String, value: String) {
        rule(wire).when = vec![v1::AuthorizationCondition { key, values: vec![value], ..Default::default() }];
    }
    let at = |inner: &str| -> &'static str { format!("ports[0].authorization[0].rules[0].{inner}").leak() };
    bounds(
        &inbound(),
        Inbound::from_wire,
        &[
            (|i, n| when(i, "connection.sni".into(), a(n)), 254, at("when[0].values[0]")),
            (|i, n| when(i, format!("request.auth.claims{}", "[a]".repeat(n)), a(1)), 8, at("when[0].key")),
            (|i, n| when(i, format!("request.auth.claims[{}]", a(n)), a(1)), 256, at("when[0].key")),
            (|i, n| to(i).paths = vec![format!("/{}", a(n - 1))], 1024, at("to[0].paths[0]")),
            (|i, n| from(i).identities = vec![format!("spiffe://{}*", a(n - 10))], 2048, at("from[0].identities[0]")),
        ],
    );
    let say: fn(&mut v1::Inbound, &str) = |i, text| to(i).paths = vec![text.to_owned()];
    either(&inbound(), Inbound::from_wire, say, (&["/", "/a*", "*"], &["", "a", "/a?b", "/a#b", "/a**"]));
    let say: fn(&mut v1::Inbound, &str) = |i, text| from(i).identities = vec![text.to_owned()];
    either(&inbound(), Inbound::from_wire, say, (&["spiffe://*"], &["x*", "spiffe://*x*"]));
    // `orders` of any case is found as long as it can be one of the keys.
    let name = |labels: usize| format!("{}o", "aaaaaaaaa.".repeat(labels));
    let mut wire = inbound();
    wire.ports[0].server_names = vec![name(25)];
    wire.ports[0].authorities = vec![format!("{}:12345", name(25))];
    let inbound = Inbound::from_wire(&wire).unwrap();
    assert!(inbound.by_server_name(&name(25).to_uppercase()).is_some());
    assert!(inbound.by_authority(&format!("{}:12345", name(25).to_uppercase())).is_some());
    assert!(inbound.by_authority("192.0.2.1:1").is_none() && inbound.by_port(1).is_none());
}

#[test]
fn what_is_said_of_tokens_is_bounded() {
    fn token(wire: &mut v1::Inbound) -> &mut v1::TokenRule {
        let rule = v1::TokenRule { issuer: "https://id.test".into(), ..Default::default() };
        let object = v1::RequestAuthentication { name: "shop/login".into(), rules: vec![rule], optional: false };
        wire.ports[0].request_authentication = vec![object];
        &mut wire.ports[0].request_authentication[0].rules[0]
    }
    fn claim(wire: &mut v1::Inbound, claim: String) {
        token(wire).output_claim_to_headers = vec![v1::ClaimHeader { header: "x-a".into(), claim }];
    }
    let at = |inner: &str| -> &'static str { format!("ports[0].requestAuthentication[0].rules[0].{inner}").leak() };
    bounds(
        &inbound(),
        Inbound::from_wire,
        &[
            (|i, n| token(i).issuer = a(n), 2048, at("issuer")),
            (|i, n| token(i).jwks = a(n), 1 << 20, at("jwks")),
            (|i, n| token(i).audiences = vec![a(n)], 2048, at("audiences[0]")),
            (|i, n| token(i).clock_skew = seconds(n as i64), 3600, at("clockSkew")),
            (|i, n| claim(i, a(n)), 1024, at("outputClaimToHeaders[0].claim")),
            (|i, n| claim(i, vec!["a"; n].join(".")), 8, at("outputClaimToHeaders[0].claim")),
        ],
    );
}

#[test]
fn texts_of_a_service_hold_what_they_may_and_nothing_else() {
    let say: fn(&mut v1::Service, &str) = |s, text| matching(s).path = Some(Path::ExactPath(text.into()));
    let refused: &[&str] =
        &["", "a", "/a b", "/a\tb", "/a\u{7f}", "//", "/./a", "/a/..", "/a/.", "/a%2Fb", "/a?", "/a#", "/*"];
    either(&service(), Service::from_wire, say, (&["/", "/a!b", "/~a", "/\u{fc}"], refused));
    let say: fn(&mut v1::Service, &str) = |s, text| add(s, rewritten(text));
    either(&service(), Service::from_wire, say, (&["", "/", "/a!"], &["a", "//a", "/a b", "/a?b", "/a#b", "/\u{fc}"]));
    let say: fn(&mut v1::Service, &str) =
        |s, text| grpc(s, v1::GrpcMethod { method: text.into(), ..Default::default() });
    either(&service(), Service::from_wire, say, (&["", "Get_2.x", "get"], &["a/b", "a-b", "a b"]));
    let say: fn(&mut v1::Service, &str) = |s, text| session(s).name = text.into();
    either(&service(), Service::from_wire, say, (&["a", "A-9", "!#$%&'*+-.^_`|~"], &["a=b", "a;b", "(a)", "a b"]));
    let say: fn(&mut v1::Service, &str) = |s, text| session(s).path = text.into();
    either(&service(), Service::from_wire, say, (&["", "/", "/a"], &["a", "/a;b", "/a b"]));
    let say: fn(&mut v1::Service, &str) = |s, text| fixed(s).content_type = text.into();
    either(&service(), Service::from_wire, say, (&["", "text/html"], &["html", "text/\n"]));
    let say: fn(&mut v1::Service, &str) = |s, text| http_probe(s).path = text.into();
    either(&service(), Service::from_wire, say, (&["", "/", "/a?b"], &["a", "/a#b", "/a b"]));
    let say: fn(&mut v1::Service, &str) = |s, text| http_probe(s).host = text.into();
    either(&service(), Service::from_wire, say, (&["", "a:80"], &["a b", "\u{fc}"]));
    let say: fn(&mut v1::Service, &str) = |s, text| s.ports[0].name = text.into();
    either(&service(), Service::from_wire, say, (&["", "http"], &["a b", "-a"]));
    let say: fn(&mut v1::Service, &str) = |s, text| backend(s).slices = vec![text.into()];
    let refused: &[&str] = &["shop/a:80/", "shop/a:80/a b", "shop/a:0/x", "shop/a/x", "a:80/x"];
    either(&service(), Service::from_wire, say, (&["shop/a:80/A-.z_0"], refused));
}

#[test]
fn names_have_their_shapes() {
    let (longest, longer) = (format!("{}aaa", "aaaaaaaaa.".repeat(25)), format!("{}aaaa", "aaaaaaaaa.".repeat(25)));
    for (shape, taken, refused) in [
        (
            is_label as fn(&str) -> bool,
            &["a", "0", "a-0", &a(63)][..],
            &["", "-a", "a-", "A", "a.b", "a_b", &a(64)][..],
        ),
        (is_subdomain, &["a", "a.b-c.0", &longest], &["", "a.", ".a", "a..b", "a.-b", &longer]),
        (is_trust_domain, &["a", "a.b-c_0", &a(255)], &["", "A", "a/b", &a(256)]),
        (
            is_namespaced_name,
            &["shop/a", "shop/~192.0.2.1", "shop/a.b"],
            &["a", "/a", "shop/", "Shop/a", "shop/A", "shop/~~a", "a/b/c"],
        ),
    ] {
        taken.iter().for_each(|text| assert!(shape(text), "{text}"));
        refused.iter().for_each(|text| assert!(!shape(text), "{text}"));
    }
    for wrong in ["n/shop/sa/a", "ns/shop/s/a", "ns/Shop/sa/a", "ns/shop/sa/A", "ns/shop/sa/a/b"] {
        assert_eq!(identity_parts(&format!("spiffe://weft.local/{wrong}")), None, "{wrong}");
    }
    assert!(identity_parts("spiffe://WEFT/ns/shop/sa/a").is_none());
}

#[test]
fn a_range_has_no_bit_beyond_its_length_and_roots_are_whole() {
    let taken = |text: &str| {
        let mut wire = v1::MeshSettings { trust_domain: "weft.local".into(), ..Default::default() };
        wire.mesh_cidrs = vec![text.to_owned()];
        Settings::from_wire(&wire).is_ok()
    };
    for (good, bad) in [
        ("192.0.2.1/32", "192.0.2.1/31"),
        ("192.0.2.2/31", "192.0.2.0/33"),
        ("0.0.0.0/0", "128.0.0.0/0"),
        ("128.0.0.0/1", "64.0.0.0/1"),
        ("2001:db8::1/128", "2001:db8::1/127"),
        ("2001:db8::2/127", "2001:db8::/129"),
        ("::/0", "8000::/0"),
        ("8000::/1", "4000::/1"),
    ] {
        assert!(taken(good) && !taken(bad), "{good} {bad}");
    }
    let range = |network: &str, length| Cidr { network: network.parse().unwrap(), length };
    assert!(range("::", 0).contains("2001:db8::1".parse().unwrap()));
    assert!(!range("192.0.2.3", 32).contains("192.0.2.1".parse().unwrap()));
    assert!(!range("2001:db8::3", 128).contains("2001:db8::1".parse().unwrap()));

    let root = |der: Vec<u8>| {
        let wire = v1::TrustBundle { trust_domain: "weft.local".into(), roots: vec![der], ..Default::default() };
        TrustBundle::from_wire(&wire).is_ok()
    };
    let sequence = |head: &[u8], body: usize| [head, &vec![0; body][..]].concat();
    for (head, body) in [
        (&[0x30, 0x00][..], 0),
        (&[0x30, 0x7f], 127),
        (&[0x30, 0x81, 0x80], 128),
        (&[0x30, 0x82, 0x01, 0x02], 258),
        (&[0x30, 0x84, 0x00, 0x00, 0x03, 0x01], 769),
    ] {
        assert!(root(sequence(head, body)), "{head:?}");
        assert!(!root(sequence(head, body + 1)), "{head:?} and more");
        assert!(body == 0 || !root(sequence(head, body - 1)), "{head:?} and less");
    }
    assert!(!root(sequence(&[0x31, 0x00], 0)) && !root(sequence(&[0x30, 0x80], 0)) && !root(vec![0x30]));
}
