//! Mirrors: copies arrive whole, and whatever becomes of them is nothing to the call.

use crate::mesh;
use crate::sidecar::app::{App, Call, Said, nobody};
use crate::sidecar::client::{Client, H2};
use crate::sidecar::{PATIENCE, eventually, route};
use bytes::Bytes;
use parking_lot::Mutex;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::{Duration, Instant};

fn frontend() -> Value {
    let mirror = json!({"filters": [{"mirror": {"service": "shop/b", "port": 80}}]});
    json!({"routes": [route("ROUTE_KIND_HTTP", &[("a", 1)], mirror)]})
}

async fn recorder() -> (App, Arc<Mutex<Vec<Call>>>) {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let kept = Arc::clone(&seen);
    let app = App::start("b", move |call| {
        kept.lock().push(call);
        async { Said::status(500) }
    });
    (app.await, seen)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_arrives_with_head_and_body_and_its_answer_is_ignored() {
    let (a, (b, seen)) = (App::named("a").await, recorder().await);
    let sidecar = mesh(frontend(), &[("a", &[a.at], json!({})), ("b", &[b.at], json!({}))]);
    let mut client = Client::tunnel(sidecar.at("outbound"), "front:80").await;
    let body = "copy me ".repeat(20_000);
    let answer = client.post("front", "/orders?x=1", &body).await;
    assert_eq!((answer.status, answer.text()), (200, "a"));
    let call = eventually("the copy", || seen.lock().pop());
    assert_eq!((call.method.as_str(), call.path.as_str(), call.host.as_str()), ("POST", "/orders?x=1", "front"));
    assert!(call.body == body.as_bytes(), "{} of {} bytes", call.body.len(), body.len());
    eventually("its count", || (sidecar.count("weft_mirrored", &["answered"]) >= 1.0).then_some(()));
    assert_eq!(a.calls(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_of_http2_are_copied_with_their_bodies_too() {
    let a = App::named("a").await;
    let bodies = Arc::new(Mutex::new(0));
    let counted = Arc::clone(&bodies);
    let b = App::start("b", move |_| {
        *counted.lock() += 1;
        async { Said::ok("b") }
    });
    let b = b.await;
    let sidecar = mesh(frontend(), &[("a", &[a.at], json!({})), ("b", &[b.at], json!({}))]);
    let mut client = H2::tunnel(sidecar.at("outbound"), "front:80").await;
    let request = http::Request::post("http://front/x").body(()).unwrap();
    let answer = client.call(request, Some(Bytes::from(vec![7; 40_000]))).await;
    assert_eq!((answer.status, answer.text()), (200, "a"));
    eventually("the copy is answered", || (sidecar.count("weft_mirrored", &["answered"]) >= 1.0).then_some(()));
    assert_eq!(*bodies.lock(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mirror_that_is_dead_or_never_answers_costs_the_call_nothing() {
    let a = App::named("a").await;
    let stuck = App::start("b", |_| async {
        tokio::time::sleep(PATIENCE * 2).await;
        Said::ok("late")
    });
    let stuck = stuck.await;
    let dead = nobody();
    for b in [dead.at, stuck.at] {
        let sidecar = mesh(frontend(), &[("a", &[a.at], json!({})), ("b", &[b], json!({}))]);
        let mut client = Client::tunnel(sidecar.at("outbound"), "front:80").await;
        let began = Instant::now();
        for _ in 0..30 {
            let answer = client.post("front", "/x", "some text").await;
            assert_eq!((answer.status, answer.text()), (200, "a"));
        }
        assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    }
}
