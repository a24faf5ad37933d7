//! What is decided for every call allocates nothing: counted, not believed. Each decision runs once to warm up (a
//! regular expression makes its cache on first use), then again under the count.
#![expect(unsafe_code, reason = "a global allocator that counts is the only witness")]
#![expect(clippy::unwrap_used, reason = "a panic in a test is the report, in its fixtures too")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::{HeaderMap, HeaderValue, Method};
use weft_policy::authorize::Connection;
use weft_policy::balance::{Algorithm, Balancer, Load, Roster, View};
use weft_policy::breaker::{self, Breaker, Ejections, Outcome};
use weft_policy::config::{Health, Inbound, Service};
use weft_policy::limit::{self, Limits};
use weft_policy::retry::{Attempt, Budget, BudgetSettings, Failure, Policy, Sent};
use weft_policy::route::{Decision, Head};
use weft_policy::{deadline, trace};
use weft_proto::v1;

thread_local! {
    static COUNT: Cell<usize> = const { Cell::new(0) };
}

struct Counting;

// SAFETY: every call is passed on to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        COUNT.with(|count| count.set(count.get() + 1));
        // SAFETY: the caller's contract is the system allocator's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn allocations(mut act: impl FnMut()) -> usize {
    act();
    let before = COUNT.with(Cell::get);
    (0..100).for_each(|_| act());
    COUNT.with(Cell::get) - before
}

fn service() -> Service {
    use v1::key_match::Value;
    use v1::route_match::Path;
    let rule = |path, header: Option<Value>, query: Option<Value>| v1::RouteRule {
        matches: vec![v1::RouteMatch {
            path: Some(path),
            headers: header
                .map(|value| v1::KeyMatch { name: "x-user".into(), value: Some(value) })
                .into_iter()
                .collect(),
            queries: query.map(|value| v1::KeyMatch { name: "q".into(), value: Some(value) }).into_iter().collect(),
            ..Default::default()
        }],
        backends: ["shop/v1", "shop/v2"]
            .map(|service| v1::WeightedBackend { service: service.into(), port: 80, weight: 1, ..Default::default() })
            .to_vec(),
        ..Default::default()
    };
    let route = v1::Route {
        name: "shop/catalog".into(),
        kind: v1::RouteKind::Http.into(),
        rules: vec![
            rule(Path::ExactPath("/items/7".into()), Some(Value::Regex("[a-z]+".into())), None),
            rule(Path::PathRegex("/users/[0-9]+".into()), None, None),
            rule(Path::PathPrefix("/items".into()), None, Some(Value::Exact("a b".into()))),
            rule(Path::PathPrefix("/".into()), None, None),
        ]
        .into_iter()
        // More expressions than are tried one by one.
        .chain((0..20).map(|i| rule(Path::PathRegex(format!("/many/{i}/.*")), None, None)))
        .collect(),
        ..Default::default()
    };
    let frontend = v1::Frontend { routes: vec![route], ..Default::default() };
    let port = v1::ServicePort { port: 80, frontend: Some(frontend), ..Default::default() };
    Service::from_wire(&v1::Service { name: "shop/catalog".into(), ports: vec![port], ..Default::default() }).unwrap()
}

#[test]
fn routing_a_call_allocates_nothing() {
    let service = service();
    let table = &service.ports[0].frontend.routes;
    let mut headers = HeaderMap::new();
    headers.insert("x-user", HeaderValue::from_static("ada"));
    let mut random = 1_u64;
    for (target, rule) in [
        ("/items/7", 0),
        ("/users/12", 1),
        ("/items/x?q=a%20b", 2),
        ("/items/x/y?q=b", 3),
        ("/many/17/x", 21),
        ("/many/x", 3),
        ("/", 3),
    ] {
        let count = allocations(|| {
            random = random.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ 1;
            let decision = table.decide(&Head::new("GET", target, &headers), random);
            assert!(matches!(decision, Decision::Forward { rule: met, .. } if met.index == rule), "{target}");
        });
        assert_eq!(count, 0, "{target}");
    }
}

#[test]
fn authorizing_a_call_allocates_nothing() {
    const CART: &str = "spiffe://weft.local/ns/shop/sa/cart";
    let mut headers = http::HeaderMap::new();
    headers.insert(http::header::HOST, http::HeaderValue::from_static("api.SHOP.test:8080"));
    headers.insert("x-tenant", http::HeaderValue::from_static("acme"));
    let source = v1::AuthorizationSource {
        identities: vec!["spiffe://weft.local/ns/shop/*".into()],
        namespaces: vec!["shop".into()],
        not_ip_blocks: vec!["192.0.2.0/24".into(), "2001:db8::/32".into()],
        not_request_principals: vec!["*".into()],
        ..Default::default()
    };
    let operation = v1::AuthorizationOperation {
        hosts: vec!["*.Shop.test".into()],
        ports: vec![80],
        methods: vec!["GET".into()],
        paths: vec!["/items/*".into(), "/users/{*}/items/{**}".into()],
        ..Default::default()
    };
    let tenant = v1::AuthorizationCondition {
        key: "request.headers[x-tenant]".into(),
        values: vec!["a*".into()],
        not_values: vec!["*z".into()],
    };
    let rule =
        v1::AuthorizationRule { from: vec![source], to: vec![operation], when: vec![tenant], ..Default::default() };
    let policy = v1::Authorization { name: "shop/p".into(), action: v1::Action::Allow.into(), rules: vec![rule] };
    let wire = v1::Inbound {
        workload: "shop/catalog-1".into(),
        identity: "spiffe://weft.local/ns/shop/sa/catalog".into(),
        ports: vec![v1::InboundPort {
            port: 80,
            authorities: vec!["192.0.2.1:80".into()],
            local: "127.0.0.1:80".into(),
            authorization: vec![policy],
            ..Default::default()
        }],
        ..Default::default()
    };
    let inbound = Inbound::from_wire(&wire).unwrap();
    let count = allocations(|| {
        let port = inbound.by_authority("192.0.2.1:80").unwrap();
        let peer = Connection { address: Some([198, 51, 100, 7].into()), ..Connection::of(CART) };
        assert!(port.authorization.connection(&peer).is_allowed());
        for target in ["/items/7", "/users/7/items/8?a=b"] {
            let call = Head::new("GET", target, &headers);
            assert!(port.authorization.request(&peer, &call, None).is_allowed(), "{target}");
            assert!(!port.authorization.request(&Connection::default(), &call, None).is_allowed(), "{target}");
        }
    });
    assert_eq!(count, 0);
}

struct Endpoint {
    load: Arc<Load>,
    breaker: Arc<Breaker>,
}

impl View for Endpoint {
    fn load(&self) -> &Load {
        &self.load
    }
    fn available(&self, now: Instant) -> bool {
        self.breaker.available(now)
    }
}

#[test]
fn an_attempt_allocates_nothing_from_the_choice_of_its_endpoint_to_its_report() {
    let now = Instant::now();
    let ejections = Arc::new(Ejections::new(10));
    let endpoints: Vec<Endpoint> = (0..10)
        .map(|_| Endpoint {
            load: Arc::new(Load::new(now)),
            breaker: Arc::new(Breaker::new(breaker::Settings::default(), Arc::clone(&ejections))),
        })
        .collect();
    let limits = Limits::new(limit::Settings::default());
    let budget = Budget::new(BudgetSettings { min_per_second: 1000, ..BudgetSettings::default() }, now);
    let policy = Policy::default();
    let mut random = 7_u64;
    let mut next = || {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        random
    };
    for algorithm in [Algorithm::PeakEwma, Algorithm::LeastRequest, Algorithm::RoundRobin, Algorithm::Random] {
        for weights in [[1, 1], [1, 9]] {
            let roster = Roster::new((0..10).map(|i| (Health::Ready, weights[i % 2])));
            let balancer = Balancer::new(algorithm);
            let count = allocations(|| {
                budget.deposit(now);
                let _place = limits.requests.enter().unwrap();
                let index = balancer.pick(&roster, &endpoints, now, |_| false, &mut next).unwrap();
                let endpoint = &endpoints[index];
                let permit = endpoint.breaker.admit(now, 0.5).unwrap();
                let flying = endpoint.load.begin();
                drop(flying);
                endpoint.load.observe(Duration::from_millis(3), now);
                permit.report(Outcome::Success, now, 0.5);
                let attempt = Attempt {
                    method: &Method::GET,
                    sent: Sent::No,
                    failure: Failure::Transport,
                    retries: 0,
                    replayable: true,
                    retry_after: None,
                };
                policy.judge(&attempt, &budget, now.checked_add(Duration::from_secs(1)), now, 0.5);
            });
            assert_eq!(count, 0, "{algorithm:?} {weights:?}");
        }
    }
}

#[test]
fn reading_and_writing_deadlines_and_traces_allocates_nothing() {
    let traceparent = &b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"[..];
    let count = allocations(|| {
        let left = deadline::parse_grpc_timeout(b"1500m").unwrap();
        assert_eq!(deadline::format_grpc_timeout(left).as_str(), "1500000u");
        assert_eq!(deadline::format_weft_deadline(left).as_str(), "1500");
        let incoming = trace::read(|name| (name == "traceparent").then_some(traceparent));
        let formats = trace::Formats { w3c: true, b3_single: true, b3_multi: true };
        let mut written = 0;
        incoming.proceed([1, 2, 3], true).write(formats, |_, value| written += value.len());
        assert_eq!(written, 55 + 68 + 32 + 16 + 16 + 1);
        assert_eq!(trace::request_id([1, 2]).len(), 36);
    });
    assert_eq!(count, 0);
}
