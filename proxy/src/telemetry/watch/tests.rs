//! Calls as taps and summaries see them, from their beginning to their end.

use super::*;
use crate::codec::RequestHead;
use http::{HeaderValue, Method};
use std::time::Duration;

fn head(path: &'static str, headers: &[(&'static str, &'static str)]) -> RequestHead {
    let mut head = RequestHead::new(Method::GET, "payments", path);
    for (name, value) in headers {
        head.headers.append(http::HeaderName::from_static(name), HeaderValue::from_static(value));
    }
    head
}

fn tap(number: u64, filter: v1::TapFilter, per_second: u32) -> v1::Tap {
    v1::Tap { tap: number, filter: Some(filter), per_second, seconds: 10 }
}

fn ruled<'r>(ended: Instant) -> Ruled<'r> {
    Ruled { route: "", verdict: "deny", policy: "shop/readers", rule: "none", trace_id: 7, request_id: "r", ended }
}

const PARTIES: Parties<'static> = Parties {
    source: "shop/orders",
    source_identity: "spiffe://weft.local/ns/shop/sa/orders",
    destination_identity: "",
    endpoint: "shop/payments-1",
    protocol: "http1",
    authority: "payments",
    mtls: true,
};

fn facts<'f>(path: &'f str, status: u16) -> Facts<'f> {
    Facts {
        direction: Direction::Outbound,
        source: "shop/orders",
        destination: "shop/payments",
        method: "GET",
        path,
        outcome: Outcome { status, duration: Duration::from_millis(3), ..Outcome::default() },
    }
}

/// One call from its beginning to its end.
fn call(watch: &Watch, path: &'static str, headers: &[(&'static str, &'static str)], status: u16, now: Instant) {
    let head = head(path, headers);
    if let Some(mut draft) = watch.begin(Direction::Outbound, &head, now) {
        let service: Arc<str> = "shop/payments".into();
        draft.addressed(watch, &Addressed { service: &service, port: 80 }, &head);
        draft.attempts(&"shop/payments-1".into());
        draft.attempted(503, "");
        draft.attempts(&"shop/payments-2".into());
        draft.attempted(status, "");
        draft.answered(&head.headers);
        watch.ended(*draft, &PARTIES, &facts(path, status), &ruled(now));
    }
}

#[test]
fn nothing_is_gathered_unless_somebody_looks() {
    let (watch, now) = (Watch::default(), Instant::now());
    assert!(watch.begin(Direction::Outbound, &head("/", &[]), now).is_none());
    watch.tap(tap(1, v1::TapFilter::default(), 0), now).unwrap();
    assert!(watch.begin(Direction::Outbound, &head("/", &[]), now).is_some());
    watch.stop(1, now);
    assert!(watch.begin(Direction::Outbound, &head("/", &[]), now).is_none());
}

#[test]
fn a_record_is_told_once_for_all_taps_that_want_it_and_without_credentials() {
    let (watch, now) = (Watch::default(), Instant::now());
    watch.tap(tap(1, v1::TapFilter::default(), 0), now).unwrap();
    watch.tap(tap(2, v1::TapFilter { status: "5xx".into(), ..v1::TapFilter::default() }, 0), now).unwrap();
    watch.tap(tap(3, v1::TapFilter { destination: "payments".into(), ..v1::TapFilter::default() }, 0), now).unwrap();
    let secrets =
        [("authorization", "Bearer s3cret"), ("cookie", "id=s3cret"), ("x-auth-token", "s3cret"), ("accept", "*/*")];
    call(&watch, "/charges?token=s3cret&page=2", &secrets, 200, now);
    let told = watch.tapped(now).unwrap();
    assert_eq!((told.calls.len(), told.drops.len()), (1, 0));
    let one = &told.calls[0];
    assert_eq!((one.taps.as_slice(), one.path.as_str()), (&[1, 3][..], "/charges?token=***&page=2"));
    assert!(!format!("{one:?}").contains("s3cret"), "{one:?}");
    assert!(one.request_headers.iter().any(|h| h.name == "accept" && h.value == "*/*"), "{one:?}");
    let attempts: Vec<_> = one.attempts.iter().map(|a| (a.endpoint.as_str(), a.status)).collect();
    assert_eq!(attempts, [("shop/payments-1", 503), ("shop/payments-2", 200)]);
    let decision = one.decision.as_ref().unwrap();
    assert_eq!((decision.allowed, decision.policy.as_str()), (false, "shop/readers"));
    assert!(watch.tapped(now).is_none());
}

#[test]
fn what_is_more_than_a_tap_takes_is_counted() {
    let (watch, now) = (Watch::default(), Instant::now());
    watch.tap(tap(1, v1::TapFilter::default(), 5), now).unwrap();
    for _ in 0..20 {
        call(&watch, "/", &[], 200, now);
    }
    let told = watch.tapped(now).unwrap();
    assert_eq!((told.calls.len(), told.drops[0].calls), (5, 15));
    // A full queue drops as well, and says so.
    watch.tap(tap(1, v1::TapFilter::default(), 1000), now).unwrap();
    for _ in 0..QUEUE + 10 {
        call(&watch, "/", &[], 200, now);
    }
    assert_eq!(watch.tapped(now).unwrap().drops[0].calls, 10);
}

#[test]
fn a_tap_ends_with_its_time_and_all_with_the_stream() {
    let (watch, now) = (Watch::default(), Instant::now());
    watch.tap(tap(1, v1::TapFilter::default(), 0), now).unwrap();
    assert!(watch.tapped(now + Duration::from_secs(11)).is_none());
    assert!(!watch.is_tapped());
    watch.tap(tap(1, v1::TapFilter::default(), 0), now).unwrap();
    call(&watch, "/", &[], 200, now);
    watch.close();
    assert!(!watch.is_tapped() && watch.tapped(now).is_none());
    for number in 0..16 {
        watch.tap(tap(number, v1::TapFilter::default(), 0), now).unwrap();
    }
    assert!(watch.tap(tap(99, v1::TapFilter::default(), 0), now).is_err());
    watch.tap(tap(3, v1::TapFilter::default(), 0), now).unwrap();
}

#[test]
fn calls_that_are_alike_are_counted_together_and_only_what_is_asked_for_is_told() {
    let (watch, now) = (Watch::default(), Instant::now());
    let names = v1::TrafficNames {
        headers: vec!["x-canary".into(), "authorization".into()],
        queries: vec!["page".into(), "token".into()],
    };
    watch.summarise(&names);
    for path in ["/orders/1?page=2&token=s3cret", "/orders/2?page=2"] {
        call(&watch, path, &[("x-canary", "yes"), ("authorization", "s3cret"), ("x-other", "no")], 200, now);
    }
    call(&watch, "/orders", &[], 403, now);
    let report = watch.traffic(now).unwrap();
    assert_eq!(report.series.len(), 2, "{report:?}");
    let orders = report.series.iter().find(|one| one.path == "/orders/{number}").unwrap();
    assert_eq!((orders.calls, orders.denied, orders.port), (2, 0, 80));
    assert_eq!(orders.headers, [v1::HeaderValue { name: "x-canary".into(), value: "yes".into() }]);
    assert_eq!(orders.queries, [v1::HeaderValue { name: "page".into(), value: "2".into() }]);
    assert!(!format!("{report:?}").contains("s3cret"));
    let denied = report.series.iter().find(|one| one.path == "/orders").unwrap();
    assert_eq!((denied.calls, denied.denied), (1, 1));
    assert!(watch.traffic(now).is_none());
}

#[test]
fn paths_without_end_are_folded_and_many_calls_are_counted_by_some_of_them() {
    let (watch, now) = (Watch::default(), Instant::now());
    watch.summarise(&v1::TrafficNames::default());
    let words: Vec<&'static str> =
        (0..150_u8).map(|n| &*format!("/w{}{}", char::from(b'a' + n / 26), char::from(b'a' + n % 26)).leak()).collect();
    for path in &words {
        call(&watch, path, &[], 200, now);
    }
    let report = watch.traffic(now).unwrap();
    assert_eq!(report.series.len(), 65);
    assert_eq!(report.series.iter().map(|one| one.calls).sum::<u64>(), 150);
    let later = now + Duration::from_secs(3);
    for _ in 0..3400 {
        call(&watch, words[0], &[], 200, later);
    }
    assert_eq!(watch.traffic(later).unwrap().series[0].calls, 3400);
}
