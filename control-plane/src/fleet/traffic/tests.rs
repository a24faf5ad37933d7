//! What sidecars tell of their traffic, and what is left of it.

use super::*;

fn told(path: &str, calls: u64) -> v1::TrafficSeries {
    v1::TrafficSeries {
        direction: v1::Direction::Outbound.into(),
        source: "shop/orders".into(),
        source_identity: "spiffe://weft.local/ns/shop/sa/orders".into(),
        destination: "shop/payments".into(),
        port: 80,
        protocol: "http1".into(),
        method: "GET".into(),
        path: path.into(),
        calls,
        first_ms: 5000,
        ..v1::TrafficSeries::default()
    }
}

fn report(series: Vec<v1::TrafficSeries>) -> v1::TrafficReport {
    v1::TrafficReport { series, overflow: Vec::new() }
}

#[test]
fn what_several_sidecars_tell_of_alike_calls_is_one_series_with_the_rate_of_all() {
    let (mut traffic, start) = (Traffic::default(), Instant::now());
    for second in [5, 10, 15] {
        let now = start + Duration::from_secs(second);
        for uid in ["shop/orders-1", "shop/orders-2"] {
            traffic.add(now, uid, report(vec![told("/a", 50)]));
        }
    }
    let read = traffic.read(start + Duration::from_secs(15), "shop");
    assert_eq!((read.series.len(), read.series[0].calls), (1, 300));
    let rate = read.series[0].calls as f64 / read.series[0].busy.as_secs_f64();
    assert!((19.0..=21.0).contains(&rate), "{rate}");
    assert!(traffic.read(start + Duration::from_secs(15), "bank").series.is_empty());
}

#[test]
fn a_sidecar_speaks_of_its_own_namespace_only() {
    let (mut traffic, now) = (Traffic::default(), Instant::now());
    traffic.add(now, "bank/ledger-1", report(vec![told("/a", 1)]));
    let forged = v1::TrafficSeries { source_identity: "spiffe://weft.local/ns/bank/sa/x".into(), ..told("/a", 1) };
    traffic.add(now, "shop/orders-1", report(vec![forged]));
    let stranger = v1::TrafficSeries {
        direction: v1::Direction::Inbound.into(),
        source: String::new(),
        source_identity: String::new(),
        ..told("/b", 1)
    };
    traffic.add(now, "bank/ledger-1", report(vec![stranger.clone()]));
    assert!(traffic.read(now, "").series.is_empty());
    traffic.add(now, "shop/payments-1", report(vec![stranger]));
    assert_eq!(traffic.read(now, "").series.len(), 1);
}

#[test]
fn an_hour_is_kept_and_no_more() {
    let (mut traffic, start) = (Traffic::default(), Instant::now());
    traffic.add(start, "shop/orders-1", report(vec![told("/a", 7)]));
    traffic.add(start + Duration::from_secs(1800), "shop/orders-1", report(vec![told("/a", 5)]));
    assert_eq!(traffic.read(start + Duration::from_secs(1800), "").series[0].calls, 12);
    assert_eq!(traffic.read(start + WINDOW + SLOT, "").series[0].calls, 5);
    assert!(traffic.read(start + WINDOW * 3, "").series.is_empty());
    assert!(traffic.edges.is_empty());
}

#[test]
fn what_finds_no_room_is_counted_by_its_edge() {
    let (mut traffic, now) = (Traffic::default(), Instant::now());
    let many = (0..OF_EDGE + 8).map(|n| told(&format!("/p{n}"), 2)).collect();
    traffic.add(now, "shop/orders-1", report(many));
    traffic.add(now, "shop/orders-1", report(vec![told(&"x".repeat(KEY + 1), 2)]));
    let read = traffic.read(now, "");
    assert_eq!(read.series.len(), OF_EDGE);
    assert_eq!(read.overflow, [("shop/orders".to_owned(), "shop/payments".to_owned(), 18)]);
}

#[test]
fn a_mesh_without_end_leaves_memory_bounded() {
    let (mut traffic, now) = (Traffic::default(), Instant::now());
    for edge in 0..300 {
        let series = (0..100)
            .map(|n| v1::TrafficSeries { destination: format!("shop/service-{edge}"), ..told(&format!("/p{n}"), 1) });
        traffic.add(now, "shop/orders-1", report(series.collect()));
    }
    assert_eq!(traffic.series, SERIES);
    assert_eq!(traffic.read(now, "").series.len(), SERIES);
}
