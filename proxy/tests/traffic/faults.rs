//! Faults: delays and aborts, of HTTP and gRPC, and how they meet deadlines.

use crate::mesh;
use crate::sidecar::app::App;
use crate::sidecar::client::{Client, H2};
use crate::sidecar::eventually;
use crate::sidecar::route;
use serde_json::json;
use std::time::{Duration, Instant};

#[tokio::test(flavor = "multi_thread")]
async fn an_abort_is_answered_in_place_of_the_application_and_says_so() {
    let a = App::named("a").await;
    let faults = json!([{"matches": [{"exactPath": "/teapot"}], "abort": {"status": 418}}]);
    let frontend = json!({"routes": [route("ROUTE_KIND_HTTP", &[("a", 1)], json!({}))], "faults": faults});
    let sidecar = mesh(frontend, &[("a", &[a.at], json!({}))]);
    let mut client = Client::tunnel(sidecar.at("outbound"), "front:80").await;
    let answer = client.get("front", "/teapot", "").await;
    assert_eq!((answer.status, answer.header("weft-error")), (418, "fault"));
    // With a body that nobody reads, and the connection goes on.
    assert_eq!(client.post("front", "/teapot", "unread").await.status, 418);
    assert_eq!(client.get("front", "/", "").await.text(), "a");
    assert_eq!(a.calls(), 1);
    let line = eventually("a log line", || sidecar.logged().into_iter().find(|line| line["status"] == 418));
    assert_eq!((line["reason"].as_str(), line["route"].as_str()), (Some("fault"), Some("shop/r")));
    // Nothing was sent to anybody: it went neither with mTLS nor without.
    assert_eq!(sidecar.count("weft_requests_total", &["reason=\"fault\"", "tls=\"\""]), 2.0);
    assert_eq!(sidecar.count("weft_requests_total", &["reason=\"\"", "tls=\"none\""]), 1.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_grpc_call_is_aborted_with_its_own_status_or_what_the_http_status_stands_for() {
    let a = App::named("a").await;
    let faults = json!([
        {"matches": [{"grpc": {"method": "Own"}}], "abort": {"status": 503, "grpcStatus": 8}},
        {"matches": [{"grpc": {"method": "Mapped"}}], "abort": {"status": 503}},
    ]);
    let frontend = json!({"routes": [route("ROUTE_KIND_GRPC", &[("a", 1)], json!({}))], "faults": faults});
    let sidecar = mesh(frontend, &[("a", &[a.at], json!({}))]);
    let mut client = H2::tunnel(sidecar.at("outbound"), "front:80").await;
    for (method, status) in [("Own", 8), ("Mapped", 14), ("Other", 0)] {
        let answer = client.grpc("front", &format!("/shop.Orders/{method}")).await;
        assert_eq!((answer.status, answer.grpc_status()), (200, Some(status)), "{method}");
    }
    assert_eq!(a.calls(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delay_comes_before_the_call_and_the_calls_own_timeout_holds_for_it() {
    let a = App::named("a").await;
    let faults = json!([
        {"matches": [{"exactPath": "/late"}], "delay": {"fixed": "0.3s"}},
        {"matches": [{"exactPath": "/never"}], "delay": {"fixed": "30s"}},
    ]);
    let timed = json!({"requestTimeout": "1s"});
    let frontend = json!({"routes": [route("ROUTE_KIND_HTTP", &[("a", 1)], timed)], "faults": faults});
    let sidecar = mesh(frontend, &[("a", &[a.at], json!({}))]);
    let mut client = Client::tunnel(sidecar.at("outbound"), "front:80").await;
    let began = Instant::now();
    assert_eq!(client.get("front", "/late", "").await.status, 200);
    assert!(began.elapsed() >= Duration::from_millis(300), "{:?}", began.elapsed());
    let began = Instant::now();
    assert_eq!(client.get("front", "/never", "").await.status, 504);
    let took = began.elapsed();
    assert!(took >= Duration::from_secs(1) && took < Duration::from_secs(8), "{took:?}");
    assert_eq!(a.calls(), 1, "what is past its deadline is not sent");
}
