//! One match among many routes, for an instruction counter: `match_scale ROUTES MATCHES` compiles a table of that many exact and that
//! many prefix matches and decides as many calls. Prints nothing; `integration/match-scale` compares the counts.
#![expect(clippy::expect_used, reason = "a harness that cannot set up has nothing to measure")]

use http::HeaderMap;
use weft_policy::config::Service;
use weft_policy::route::{Decision, Head};
use weft_proto::v1;
use weft_proto::v1::route_match::Path;

/// Rules of one route: what a route may have.
const RULES: usize = 16;

fn main() {
    let mut arguments = std::env::args().skip(1).map(|text| text.parse::<usize>().expect("a number"));
    let routes = arguments.next().expect("ROUTES");
    let matches = arguments.next().expect("MATCHES");
    let service = Service::from_wire(&wire(routes)).expect("the table is valid");
    let table = &service.ports[0].frontend.routes;
    let headers = HeaderMap::new();
    // As many different requests whatever the size, spread over the whole table.
    let requests: Vec<String> = (0..64)
        .map(|i| i * routes / 64)
        .flat_map(|i| [exact(i), format!("{}/below/it", prefix(i)), format!("/no/{i}")])
        .collect();
    for (count, path) in requests.iter().cycle().take(matches).enumerate() {
        let decision = table.decide(&Head::new("GET", path, &headers), count as u64);
        let missing = path.starts_with("/no/");
        assert!(matches!(decision, Decision::NoRoute) == missing, "{path}");
    }
}

/// Paths as people write them: of different lengths and depths.
fn exact(i: usize) -> String {
    format!("/api/v{}/resources/{i}/detail", i % 3)
}

fn prefix(i: usize) -> String {
    let team = ["cart", "catalog", "payments", "orders-and-returns"][i % 4];
    if i.is_multiple_of(2) { format!("/teams/{team}/{i}") } else { format!("/{team}/{i}") }
}

fn wire(routes: usize) -> v1::Service {
    let rule = |i: usize| v1::RouteRule {
        matches: [Path::ExactPath(exact(i)), Path::PathPrefix(prefix(i))]
            .map(|path| v1::RouteMatch { path: Some(path), ..Default::default() })
            .to_vec(),
        backends: vec![v1::WeightedBackend { service: "shop/a".into(), port: 80, weight: 1, ..Default::default() }],
        ..Default::default()
    };
    let indices: Vec<usize> = (0..routes).collect();
    let routes = indices.chunks(RULES).enumerate().map(|(i, rules)| v1::Route {
        name: format!("shop/r{i}"),
        kind: v1::RouteKind::Http.into(),
        rules: rules.iter().copied().map(rule).collect(),
        ..Default::default()
    });
    let frontend = v1::Frontend { routes: routes.collect(), ..Default::default() };
    let port = v1::ServicePort { port: 80, frontend: Some(frontend), ..Default::default() };
    v1::Service { name: "shop/orders".into(), ports: vec![port], ..Default::default() }
}
