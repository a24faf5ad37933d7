//! Answers that a sidecar makes itself, to scripts of another origin: without the headers of CORS a browser hides what they say.

use crate::rig::*;
use weft_proto::v1::{self, Protocol};

fn rule(path: &str, mut rule: v1::RouteRule) -> v1::RouteRule {
    let path = v1::route_match::Path::ExactPath(path.into());
    let cors = v1::Cors { allow_origins: vec!["http://shop.example.com".into()], ..Default::default() };
    rule.matches.push(v1::RouteMatch { path: Some(path), ..Default::default() });
    rule.filters.push(v1::Filter { filter: Some(v1::filter::Filter::Cors(cors)) });
    rule
}

#[tokio::test]
async fn answers_of_the_sidecar_itself_can_be_read_by_the_origins_that_the_rule_allows() {
    let mesh = Mesh::new();
    let to = |unresolved: &str| {
        let unresolved = unresolved.to_owned();
        vec![v1::WeightedBackend {
            service: "shop/orders".into(),
            port: 80,
            weight: 1,
            unresolved,
            ..Default::default()
        }]
    };
    let redirect = v1::Redirect { scheme: "https".into(), status: 302, ..Default::default() };
    let redirect = v1::Filter { filter: Some(v1::filter::Filter::Redirect(redirect)) };
    let rules = vec![
        rule("/away", v1::RouteRule { filters: vec![redirect], ..Default::default() }),
        rule(
            "/missing",
            v1::RouteRule { backends: to("BackendNotFound: there is no Service shop/x"), ..Default::default() },
        ),
        rule("/empty", v1::RouteRule { backends: to(""), ..Default::default() }),
    ];
    let route = v1::Route { name: "shop/web".into(), kind: v1::RouteKind::Http.into(), rules, ..Default::default() };
    let resources = v1::Resources {
        services: vec![service("orders", Protocol::Http1, |port| {
            port.frontend = Some(v1::Frontend { routes: vec![route], ..Default::default() });
        })],
        endpoints: vec![slice("orders", vec![])],
        ..Default::default()
    };
    let sidecar = mesh.sidecar("storefront", resources).await;
    for (path, status, text) in [("/away", 302, ""), ("/missing", 500, "shop/x"), ("/empty", 503, "shop/orders")] {
        let ask = |origin: &str| {
            format!("GET http://orders{path} HTTP/1.1\r\nHost: orders\r\nOrigin: {origin}\r\nConnection: close\r\n\r\n")
        };
        let answer = Client::connect(sidecar.outbound).await.send(&ask("http://shop.example.com")).await;
        let allowed = answer.header("access-control-allow-origin");
        assert_eq!((answer.status(), allowed), (status, Some("http://shop.example.com")), "{path}: {answer:?}");
        assert!(answer.body.contains(text), "{path}: {answer:?}");
        let answer = Client::connect(sidecar.outbound).await.send(&ask("http://evil.example.com")).await;
        assert_eq!((answer.status(), answer.header("access-control-allow-origin")), (status, None), "{path}");
    }
}
