//! What is counted, under which names, and that memory is bounded whatever callers do.

use super::series::{CALL_SERIES, FOLDED_SERIES};
use super::*;

const KEY: Key<'static> = Key {
    direction: Direction::Outbound,
    source: "shop/storefront",
    addressed: "",
    destination: "shop/catalog",
    endpoint: "shop/catalog-1",
    route: "shop/catalog",
    protocol: "http1",
    hop: Hop::Mutual,
};

#[test]
fn a_call_is_counted_under_the_names_and_labels_of_the_reference() {
    let telemetry = Telemetry::quiet();
    let outcome = Outcome { status: 200, duration: Duration::from_millis(2), sent: 10, ..Outcome::default() };
    telemetry.series(&KEY).call(&outcome);
    telemetry.series(&Key { endpoint: "shop/catalog-2", ..KEY }).call(&outcome);
    let text = telemetry.render(std::iter::empty());
    let labels = "direction=\"outbound\",source=\"shop/storefront\",destination=\"shop/catalog\",route=\"shop/catalog\",protocol=\"http1\"";
    assert!(
        text.contains(&format!(
            "weft_requests_total{{{labels},code=\"200\",grpc_code=\"\",tls=\"mutual\",reason=\"\"}} 2\n"
        )),
        "{text}"
    );
    assert!(text.contains(&format!("weft_response_bytes_total{{{labels},tls=\"mutual\"}} 20\n")), "{text}");
    assert!(text.contains(&format!("weft_request_duration_seconds_count{{{labels},tls=\"mutual\"}} 2\n")), "{text}");
}

#[test]
fn the_same_key_gives_the_same_handles() {
    let telemetry = Telemetry::quiet();
    assert!(Arc::ptr_eq(&telemetry.series(&KEY), &telemetry.series(&KEY)));
    assert!(!Arc::ptr_eq(&telemetry.series(&KEY), &telemetry.series(&Key { hop: Hop::Plain, ..KEY })));
}

#[test]
fn an_opaque_connection_is_counted_when_it_opens_while_it_moves_and_when_it_ends() {
    let telemetry = Telemetry::quiet();
    let series = telemetry.series(&Key { protocol: "tcp", ..KEY });
    let mut connection = series.tcp_opened();
    connection.received(7);
    connection.close("idle_timeout");
    drop(connection);
    let text = telemetry.render(std::iter::empty());
    assert!(text.contains("weft_tcp_connections_opened_total{direction=\"outbound\""), "{text}");
    assert!(text.lines().any(|l| l.starts_with("weft_tcp_received_bytes_total") && l.ends_with(" 7")), "{text}");
    assert!(text.lines().any(|l| l.starts_with("weft_tcp_connections_closed") && l.contains("idle_timeout")));
}

#[test]
fn keys_without_end_are_folded_into_one() {
    let telemetry = Telemetry::quiet();
    for i in 0..CALL_SERIES + 100 {
        let endpoint = format!("shop/catalog-{i}");
        telemetry.series(&Key { endpoint: &endpoint, ..KEY }).call(&Outcome::default());
    }
    assert!(telemetry.series.read().len() <= CALL_SERIES + 1);
}

#[test]
fn a_million_callers_hosts_and_routes_leave_memory_bounded_and_what_was_known_intact() {
    let telemetry = Telemetry::quiet();
    let known = telemetry.series(&KEY);
    let outcome = Outcome { status: 200, ..Outcome::default() };
    known.call(&outcome);
    for i in 0..1_000_000_u32 {
        let name = format!("shop/{i}");
        let key = match i % 3 {
            0 => Key { direction: Direction::Inbound, source: &name, endpoint: "", ..KEY },
            1 => Key { destination: &name, ..KEY },
            _ => Key { route: &name, ..KEY },
        };
        telemetry.series(&key).call(&outcome);
    }
    assert!(telemetry.series.read().len() <= CALL_SERIES + FOLDED_SERIES + 2, "{}", telemetry.series.read().len());
    assert!(Arc::ptr_eq(&telemetry.series(&KEY), &known));
    known.call(&outcome);
    let text = telemetry.render(std::iter::empty());
    assert!(text.len() < 16 << 20, "{}", text.len());
    let of = |part: &str| {
        let lines = text.lines().filter(|line| line.starts_with("weft_requests_total{") && line.contains(part));
        lines.filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok()).sum::<u64>()
    };
    assert_eq!(of("source=\"shop/storefront\",destination=\"shop/catalog\",route=\"shop/catalog\""), 2);
    assert_eq!(of(""), 1_000_002, "every call is counted once");
    assert!(of("=\"other\"") > 900_000);
    assert!(text.contains("weft_metrics_overflow_total{family=\"calls\"} "), "{text}");
}
