//! What golden metrics say of reports, and that their memory is bounded.

use super::*;
use weft_proto::LATENCY_BOUNDS_US;

pub(super) fn stats(source: &str, destination: &str, endpoint: &str, calls: u64, failures: u64) -> v1::CallStats {
    let mut latency_buckets = vec![0; LATENCY_BOUNDS_US.len() + 1];
    latency_buckets[10] = calls;
    v1::CallStats {
        direction: v1::Direction::Outbound.into(),
        source: source.into(),
        destination: destination.into(),
        endpoint: endpoint.into(),
        calls,
        failures,
        attempts: calls + 5,
        failed_attempts: 5 + failures,
        retries: 5,
        mtls: calls,
        latency_buckets,
        ..Default::default()
    }
}

pub(super) fn report(calls: Vec<v1::CallStats>) -> v1::Report {
    v1::Report { interval_ms: 1000, calls, breakers: Vec::new() }
}

/// A report of a sidecar of which nothing is known.
pub(super) fn add(golden: &mut Golden, now: Instant, sidecar: &str, report: v1::Report) {
    golden.add(now, sidecar, &mut Known::default(), &report);
}

#[test]
fn a_window_sums_its_reports_and_forgets_older_ones() {
    let mut golden = Golden::default();
    let start = golden.began;
    let at = |s: u64| start + Duration::from_secs(s);
    for second in 0..100 {
        add(&mut golden, at(second), "shop/web-1", report(vec![stats("shop/web", "shop/cart", "shop/cart-1", 10, 1)]));
    }
    let stat = golden.stat(at(100), Duration::from_secs(10), &[]);
    let cart = &stat.services[0].numbers;
    assert_eq!(stat.window_seconds, 10.0);
    assert_eq!((cart.calls, cart.failures, cart.rps), (100, 10, 10.0));
    assert_eq!(cart.success, Some(0.9));
    assert_eq!(cart.mtls, Some(1.0));
    assert!(cart.p50_ms.unwrap() > 0.8 && cart.p50_ms.unwrap() < 1.0, "{:?}", cart.p50_ms);
    assert_eq!(stat.edges[0].source.as_deref(), Some("shop/web"));
    assert_eq!(stat.endpoints[0].endpoint.as_deref(), Some("shop/cart-1"));
    let later = golden.stat(at(200), Duration::from_secs(10), &[]);
    assert!(later.services.is_empty());
    let hour = golden.stat(at(200), Duration::from_secs(3600), &[]);
    assert_eq!(hour.services[0].numbers.calls, 1000);
}

#[test]
fn calls_that_were_sent_to_nobody_have_no_part_in_the_share_of_mtls() {
    let mut golden = Golden::default();
    let now = golden.began + Duration::from_secs(1);
    let aborted = v1::CallStats { mtls: 0, unsent: 10, ..stats("shop/web", "shop/cart", "", 10, 10) };
    add(&mut golden, now, "shop/web-1", report(vec![stats("shop/web", "shop/cart", "shop/cart-1", 30, 0), aborted]));
    let plain = v1::CallStats { mtls: 0, ..stats("shop/web", "shop/mail", "shop/mail-1", 5, 0) };
    let dead = v1::CallStats { mtls: 0, unsent: 5, ..stats("shop/web", "shop/dead", "", 5, 5) };
    add(&mut golden, now, "shop/web-1", report(vec![plain, dead]));
    let stat = golden.stat(now, Duration::from_secs(10), &[]);
    let of = |name: &str| &stat.services.iter().find(|row| row.service == name).unwrap().numbers;
    assert_eq!((of("shop/cart").calls, of("shop/cart").unsent, of("shop/cart").mtls), (40, 10, Some(1.0)));
    assert_eq!((of("shop/cart").failures, of("shop/cart").success), (10, Some(0.75)), "they are failures all the same");
    assert_eq!(of("shop/mail").mtls, Some(0.0), "a call that went in the clear counts");
    assert_eq!(of("shop/dead").mtls, None, "of no calls there is no share");
}

#[test]
fn a_call_that_both_sides_report_counts_once() {
    let mut golden = Golden::default();
    let now = golden.began + Duration::from_secs(1);
    let mut inbound = stats("shop/web", "shop/cart", "", 10, 0);
    inbound.direction = v1::Direction::Inbound.into();
    add(&mut golden, now, "shop/web-1", report(vec![stats("shop/web", "shop/cart", "shop/cart-1", 10, 0)]));
    add(&mut golden, now, "shop/cart-1", report(vec![inbound.clone()]));
    let stat = golden.stat(now, Duration::from_secs(10), &[]);
    assert_eq!(stat.services[0].numbers.calls, 10);
    // Where no caller has a sidecar, the callee's word counts.
    let mut alone = Golden::default();
    add(&mut alone, now, "shop/cart-1", report(vec![inbound]));
    let stat = alone.stat(now, Duration::from_secs(10), &[]);
    assert_eq!(stat.services[0].numbers.calls, 10);
    assert_eq!(stat.endpoints[0].endpoint.as_deref(), Some("shop/cart-1"));
}

#[test]
fn what_a_route_gives_to_another_service_stands_under_both_and_counts_once_elsewhere() {
    let mut golden = Golden::default();
    let now = golden.began + Duration::from_secs(1);
    let given = v1::CallStats {
        addressed: "shop/cart".into(),
        route: "shop/canary".into(),
        ..stats("shop/web", "shop/cart-next", "shop/cart-9", 4, 1)
    };
    let kept = v1::CallStats { route: "shop/canary".into(), ..stats("shop/web", "shop/cart", "shop/cart-1", 6, 0) };
    let own = v1::CallStats { route: "default".into(), ..stats("shop/admin", "shop/cart-next", "shop/cart-9", 2, 0) };
    add(&mut golden, now, "shop/web-1", report(vec![given, kept]));
    add(&mut golden, now, "shop/admin-1", report(vec![own]));
    let stat = golden.stat(now, Duration::from_secs(10), &[]);
    let calls = |rows: &[Row]| rows.iter().map(|row| (row.service.clone(), row.numbers.calls)).collect::<Vec<_>>();
    let both = [("shop/cart".to_owned(), 10), ("shop/cart-next".to_owned(), 6)];
    assert_eq!(calls(&stat.services), both);
    let edges: Vec<_> =
        stat.edges.iter().map(|e| (e.source.as_deref().unwrap(), &*e.service, e.numbers.calls)).collect();
    let wanted = [("shop/admin", "shop/cart-next", 2), ("shop/web", "shop/cart", 6), ("shop/web", "shop/cart-next", 4)];
    assert_eq!(edges.iter().collect::<BTreeSet<_>>(), wanted.iter().collect());
    let routes: Vec<_> =
        stat.routes.iter().map(|r| (&*r.service, r.route.as_deref().unwrap(), r.numbers.calls)).collect();
    assert_eq!(
        routes,
        [("shop/cart", "shop/canary", 6), ("shop/cart-next", "default", 2), ("shop/cart-next", "shop/canary", 4)]
    );
    let addressed: BTreeSet<_> =
        stat.addressed.iter().map(|a| (&*a.service, &*a.by, &*a.route, a.numbers.calls)).collect();
    let wanted = [
        ("shop/cart", "shop/cart", "shop/canary", 6),
        ("shop/cart", "shop/cart-next", "shop/canary", 4),
        ("shop/cart-next", "shop/cart-next", "default", 2),
    ];
    assert_eq!(addressed, wanted.into());
    let of = |subject, service: &str| {
        let later = now + Duration::from_secs(6);
        let lines = golden.history(later, Duration::from_secs(60), subject, |name, _| name == service).items;
        let calls = |line: &history::Line| line.rps.iter().flatten().sum::<f64>() * 5.0;
        lines.iter().map(calls).collect::<Vec<_>>()
    };
    use history::Subject;
    assert_eq!((of(Subject::Service, "shop/cart"), of(Subject::Service, "shop/cart-next")), (vec![10.0], vec![6.0]));
    assert_eq!((of(Subject::Route, "shop/cart"), of(Subject::Route, "shop/cart-next")), (vec![6.0], vec![4.0, 2.0]));
}

#[test]
fn calls_to_one_of_two_services_of_a_workload_are_none_to_the_other() {
    let mut golden = Golden::default();
    let now = golden.began + Duration::from_secs(1);
    // The workload's own sidecar knows but the first of its services.
    let mut inbound = stats("shop/web", "shop/cart", "", 10, 0);
    inbound.direction = v1::Direction::Inbound.into();
    add(&mut golden, now, "shop/web-1", report(vec![stats("shop/web", "shop/basket", "shop/cart-1", 10, 0)]));
    add(&mut golden, now, "shop/cart-1", report(vec![inbound.clone()]));
    // Another instance that nobody with a sidecar calls.
    add(&mut golden, now, "shop/cart-2", report(vec![v1::CallStats { source: String::new(), calls: 3, ..inbound }]));
    let stat = golden.stat(now, Duration::from_secs(10), &[]);
    let services: Vec<_> = stat.services.iter().map(|row| (&*row.service, row.numbers.calls)).collect();
    assert_eq!(services, [("shop/basket", 10), ("shop/cart", 3)]);
    assert_eq!(stat.endpoints.len(), 2);
}

#[test]
fn open_breakers_are_counted_by_service_and_endpoint() {
    let mut golden = Golden::default();
    let now = golden.began;
    add(&mut golden, now, "shop/web-1", report(vec![stats("shop/web", "shop/cart", "shop/cart-1", 1, 0)]));
    let breaker = Breaker {
        sidecar: "shop/web-1".into(),
        backend: "shop/cart:80".into(),
        endpoint: "shop/cart-1".into(),
        state: "open",
        opened: 3,
    };
    let stat = golden.stat(now, Duration::from_secs(10), &[breaker]);
    assert_eq!((stat.services[0].open_breakers, stat.services[0].breaker_openings), (1, 3));
    assert_eq!(stat.endpoints[0].open_breakers, 1);
    assert_eq!(stat.edges[0].open_breakers, 1);
}

#[test]
fn a_rate_is_of_the_time_that_its_samples_cover() {
    let mut golden = Golden::default();
    for second in 0..60 {
        let now = golden.began + Duration::from_secs(second);
        add(&mut golden, now, "shop/web-1", report(vec![stats("shop/web", "shop/cart", "shop/cart-1", 10, 0)]));
        let stat = golden.stat(now + Duration::from_millis(999), Duration::from_secs(10), &[]);
        if second >= 20 {
            assert!((7.0..=13.0).contains(&stat.window_seconds), "{second}: {}", stat.window_seconds);
        }
        let rps = stat.services[0].numbers.rps;
        assert!((9.9..=11.5).contains(&rps), "{second}: {rps}");
    }
}

#[test]
fn what_callers_have_told_of_is_not_kept_of_the_callee() {
    let mut golden = Golden::default();
    let now = golden.began;
    let mut inbound = stats("shop/web", "shop/cart", "", 10, 0);
    inbound.direction = v1::Direction::Inbound.into();
    add(&mut golden, now, "shop/web-1", report(vec![stats("shop/web", "shop/cart", "shop/cart-1", 10, 0)]));
    let rows = golden.index.len();
    add(&mut golden, now, "shop/cart-1", report(vec![inbound.clone()]));
    assert_eq!(golden.index.len(), rows);
    // Once they are silent it is.
    add(&mut golden, now + FINE * FINE_KEPT as u32, "shop/cart-1", report(vec![inbound]));
    assert!(golden.rows.iter().flatten().any(|series| series.key.inbound));
}

#[test]
fn rows_are_bounded_and_what_does_not_fit_is_counted() {
    let mut golden = Golden::default();
    let now = golden.began;
    // Edge, endpoint and route of each; of the last one its first row alone.
    let many = (0..MAX_SERIES / 3 + 1).map(|i| stats("a", &format!("shop/s-{i:06}"), "", 1, 0)).collect();
    add(&mut golden, now, "shop/web-1", report(many));
    assert_eq!(golden.index.len(), MAX_SERIES);
    assert_eq!(golden.stat(now, Duration::from_secs(1), &[]).dropped, 2);
}

#[test]
fn what_is_named_once_and_numbered_counts_as_if_it_were_named_each_time() {
    let (mut with, mut without) = (Golden::default(), Golden::default());
    let began = with.began;
    without.began = began;
    let (mut known, mut named) = (Known::default(), HashSet::new());
    for second in 0..400_u64 {
        // Series come and go, for so long at times that their rows are forgotten.
        let series = (0..8).filter(|i| (second / 7 + i * second / 90) % 3 != 0);
        let one = |i| stats("shop/web", &format!("shop/s-{i}"), &format!("shop/s-{i}-1"), 1 + second % 3, 0);
        let full: Vec<v1::CallStats> = series.clone().map(one).collect();
        let numbered = series.zip(&full).map(|(i, full)| {
            let bare = v1::CallStats {
                source: String::new(),
                destination: String::new(),
                endpoint: String::new(),
                ..full.clone()
            };
            v1::CallStats { series: i as u32 + 1, ..if named.insert(i) { full.clone() } else { bare } }
        });
        let now = began + Duration::from_secs(second * 20);
        let mut report_of = report(numbered.collect());
        with.add(now, "shop/web-1", &mut known, &report_of);
        known.name(&mut report_of.calls);
        let destinations = |calls: &[v1::CallStats]| calls.iter().map(|c| c.destination.clone()).collect::<Vec<_>>();
        assert_eq!(destinations(&report_of.calls), destinations(&full), "names can be had again");
        add(&mut without, now, "shop/web-1", report(full));
        for window in [10, 120, 3600].map(Duration::from_secs) {
            assert_eq!(with.stat(now, window, &[]), without.stat(now, window, &[]), "{second}");
        }
    }
    assert_eq!(known.named.len(), 8);
}

#[test]
fn a_number_that_means_nothing_is_counted_and_takes_no_room() {
    let (mut golden, mut known) = (Golden::default(), Known::default());
    let now = golden.began;
    let bare = |series| v1::CallStats { series, calls: 1, ..Default::default() };
    let far = v1::CallStats { series: MAX_NUMBERED + 1, ..stats("shop/web", "shop/cart", "shop/cart-1", 1, 0) };
    golden.add(now, "shop/web-1", &mut known, &report(vec![bare(0), bare(7), bare(u32::MAX), far]));
    assert_eq!(golden.stat(now, Duration::from_secs(1), &[]).dropped, 4);
    assert!(golden.index.is_empty() && known.named.len() == 7);
}

#[test]
fn a_large_mesh_keeps_less_of_its_edges_and_says_so_and_a_small_one_all() {
    let mut golden = Golden { most: 3_200, ..Golden::default() };
    let began = golden.began;
    let at = |s: u64| began + Duration::from_secs(s);
    let edges = 200;
    for second in (0..150).step_by(5) {
        let calls = (0..edges).map(|i| stats(&format!("shop/a-{i}"), "shop/cart", "shop/cart-1", 1, 0)).collect();
        add(&mut golden, at(second), "shop/web-1", report(calls));
        assert!(golden.samples <= golden.most, "{} at {second}", golden.samples);
    }
    let stat = golden.stat(at(149), Duration::from_secs(120), &[]);
    assert!(
        stat.window_seconds > 110.0 && stat.detail_seconds < 70.0,
        "{} {}",
        stat.window_seconds,
        stat.detail_seconds
    );
    assert_eq!(stat.services[0].numbers.calls, edges * 24);
    let rate = stat.edges[0].numbers.rps;
    assert!((0.15..0.30).contains(&rate), "a call in five seconds, of the time that is kept: {rate}");
    // When most of them have gone, the others go back as far as ever.
    for minute in 3..120 {
        add(
            &mut golden,
            at(minute * 60),
            "shop/web-1",
            report(vec![stats("shop/web", "shop/cart", "shop/cart-1", 1, 0)]),
        );
    }
    assert_eq!(golden.depth, 0);
    assert!(golden.names.len() < 10 && golden.speakers.len() == 1, "{} names", golden.names.len());
    let stat = golden.stat(at(7199), Duration::from_secs(3600), &[]);
    assert_eq!((stat.edges[0].numbers.calls, stat.edges.len()), (60, 1));
}
