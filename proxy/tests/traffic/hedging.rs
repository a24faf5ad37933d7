//! Hedging: a slow endpoint does not make calls slow, within the budget, and only calls that may be made twice.

use crate::mesh;
use crate::sidecar::Sidecar;
use crate::sidecar::app::{App, Said};
use crate::sidecar::client::{Client, H2};
use crate::sidecar::route;
use serde_json::{Value, json};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::{Duration, Instant};

const SLOW: Duration = Duration::from_millis(1500);

struct Rig {
    sidecar: Sidecar,
    slow: Arc<AtomicBool>,
    apps: [App; 2],
}

/// Two endpoints in turn, one of which can be made slow; enough calls have been made to know what is usual.
async fn rig(budget: Value) -> Rig {
    let slow = Arc::new(AtomicBool::new(false));
    let is_slow = Arc::clone(&slow);
    let first = App::start("0", move |_| {
        let wait = is_slow.load(SeqCst);
        async move {
            if wait {
                tokio::time::sleep(SLOW).await;
            }
            Said::ok("0")
        }
    });
    let apps = [first.await, App::named("1").await];
    let frontend = json!({
        "routes": [route("ROUTE_KIND_HTTP", &[("a", 1)], json!({}))],
        "hedge": {"percentile": 95, "minDelay": "0.02s"}, "retryBudget": budget,
    });
    let at = [apps[0].at, apps[1].at];
    let sidecar = mesh(frontend, &[("a", &at, json!({"balancer": "BALANCER_ROUND_ROBIN"}))]);
    let mut client = Client::tunnel(sidecar.at("outbound"), "front:80").await;
    for _ in 0..60 {
        assert_eq!(client.get("front", "/", "").await.status, 200);
    }
    Rig { sidecar, slow, apps }
}

impl Rig {
    fn hedges(&self) -> f64 {
        self.sidecar.count("weft_retries_total", &["reason=\"hedge\""])
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_attempt_answers_for_a_slow_one_and_a_post_waits() {
    let rig = rig(json!({"percent": 100, "minPerSecond": 100})).await;
    let mut client = Client::tunnel(rig.sidecar.at("outbound"), "front:80").await;
    rig.slow.store(true, SeqCst);
    let before = rig.hedges();
    for _ in 0..10 {
        let began = Instant::now();
        let answer = client.get("front", "/", "").await;
        assert_eq!((answer.status, answer.text()), (200, "1"), "the fast one answers all of them");
        assert!(began.elapsed() < SLOW, "{:?}", began.elapsed());
    }
    assert!(rig.hedges() > before);
    // Over HTTP/2 as well.
    let mut native = H2::tunnel(rig.sidecar.at("outbound"), "front:80").await;
    for _ in 0..4 {
        let request = http::Request::get("http://front/").body(()).unwrap();
        assert_eq!(native.call(request, None).await.text(), "1");
    }
    let (before, mut longest) = (rig.hedges(), Duration::ZERO);
    for _ in 0..2 {
        let began = Instant::now();
        assert_eq!(client.send("POST / HTTP/1.1\r\nHost: front\r\nContent-Length: 0\r\n\r\n").await.status, 200);
        longest = longest.max(began.elapsed());
    }
    assert!(longest >= SLOW, "{longest:?}: a POST is sent once");
    assert!((rig.hedges() - before).abs() < 0.5);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_budget_there_is_no_second_attempt() {
    let rig = rig(json!({"percent": 0, "minPerSecond": 0})).await;
    let mut client = Client::tunnel(rig.sidecar.at("outbound"), "front:80").await;
    rig.slow.store(true, SeqCst);
    let (mut longest, before) = (Duration::ZERO, rig.apps[0].calls() + rig.apps[1].calls());
    for _ in 0..2 {
        let began = Instant::now();
        assert_eq!(client.get("front", "/", "").await.status, 200);
        longest = longest.max(began.elapsed());
    }
    assert!(longest >= SLOW, "{longest:?}");
    assert_eq!(rig.apps[0].calls() + rig.apps[1].calls(), before + 2);
}
