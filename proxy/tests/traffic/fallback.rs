//! Fallbacks: what answers when the backend has nobody to.

use crate::mesh;
use crate::sidecar::app::{App, Said};
use crate::sidecar::client::{Client, H2};
use crate::sidecar::{eventually, route};
use serde_json::{Value, json};

fn fixed() -> Value {
    // "closed" in base64, as JSON has bytes.
    json!({"response": {"status": 200, "contentType": "text/plain", "body": "Y2xvc2Vk"}})
}

fn frontend(fallback: Value) -> Value {
    json!({"routes": [route("ROUTE_KIND_HTTP", &[("a", 1)], json!({}))], "fallback": fallback})
}

#[tokio::test(flavor = "multi_thread")]
async fn without_an_endpoint_another_backend_answers() {
    let b = App::named("b").await;
    let to_b = json!({"backend": {"service": "shop/b", "port": 80}});
    let sidecar = mesh(frontend(to_b), &[("a", &[], json!({})), ("b", &[b.at], json!({}))]);
    let mut client = Client::tunnel(sidecar.at("outbound"), "front:80").await;
    assert_eq!(client.get("front", "/", "").await.text(), "b");
    assert_eq!(client.post("front", "/", "with a body").await.text(), "b");
    let lines = eventually("log lines", || Some(sidecar.logged()).filter(|lines| lines.len() == 2));
    assert_eq!(lines[0]["destination"], "shop/b", "metrics and log name who answered");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_an_endpoint_a_fixed_response_answers() {
    let sidecar = mesh(frontend(fixed()), &[("a", &[], json!({}))]);
    let mut client = Client::tunnel(sidecar.at("outbound"), "front:80").await;
    let answer = client.get("front", "/", "").await;
    assert_eq!((answer.status, answer.header("content-type"), answer.text()), (200, "text/plain", "closed"));
    assert_eq!(client.post("front", "/", "unread").await.text(), "closed");
    // Without a fallback it is an error.
    let sidecar = mesh(json!({"routes": [route("ROUTE_KIND_HTTP", &[("a", 1)], json!({}))]}), &[("a", &[], json!({}))]);
    let mut client = Client::tunnel(sidecar.at("outbound"), "front:80").await;
    assert_eq!(client.get("front", "/", "").await.status, 503);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_open_breaker_leads_to_the_fallback_even_of_a_lone_endpoint() {
    let broken = App::start("a", |_| async { Said::status(503) }).await;
    let backend = json!({"breaker": {"consecutiveFailures": 3, "baseOpen": "60s"}});
    let sidecar = mesh(frontend(fixed()), &[("a", &[broken.at], backend)]);
    let mut client = Client::tunnel(sidecar.at("outbound"), "front:80").await;
    // POST is not sent again, so that each is one failure.
    for n in 0..3 {
        assert_eq!(client.post("front", "/", "x").await.status, 503, "{n}");
    }
    let answer = client.post("front", "/", "x").await;
    assert_eq!((answer.status, answer.text()), (200, "closed"));
    assert_eq!(broken.calls(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_grpc_call_gets_the_status_that_the_response_stands_for() {
    let response = json!({"response": {"status": 429}});
    let frontend = json!({"routes": [route("ROUTE_KIND_GRPC", &[("a", 1)], json!({}))], "fallback": response});
    let sidecar = mesh(frontend, &[("a", &[], json!({}))]);
    let mut client = H2::tunnel(sidecar.at("outbound"), "front:80").await;
    let answer = client.grpc("front", "/shop.Orders/Get").await;
    assert_eq!((answer.status, answer.grpc_status()), (200, Some(14)));
}
