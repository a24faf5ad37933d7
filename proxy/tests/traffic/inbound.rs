//! What guards an application: rate limits by header, method and identity, and concurrency that sheds the least important first.

use crate::sidecar::app::{App, Said};
use crate::sidecar::client::{Answer, Client, H2};
use crate::sidecar::{Mesh, Sidecar, eventually};
use serde_json::{Value, json};
use std::sync::Arc;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

/// The sidecar of `shop/orders`, whose application is at `at`, with more keys of its port.
fn orders(mesh: &Mesh, app: &App, more: Value) -> Sidecar {
    let mut port = json!({
        "port": app.at.port(), "authorities": [app.at], "serverNames": ["80.orders.shop.svc.cluster.local"], "local": app.at,
        "protocol": "PROTOCOL_DETECT", "service": "shop/orders", "tls": "TLS_MODE_PERMISSIVE",
    });
    port.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let served = json!({"workload": "shop/orders-1", "identity": mesh.id("orders"), "ports": [port]});
    let listen = json!({"inbound": {"tunnel": "127.0.0.1:0", "plaintext": "127.0.0.1:0"}});
    mesh.sidecar("orders", &json!({"inbound": served}), &listen)
}

/// A sidecar that calls it.
fn caller(mesh: &Mesh, account: &str, app: &App, orders: &Sidecar) -> Sidecar {
    let endpoint = json!({
        "uid": "shop/orders-1", "address": app.at.ip(), "port": app.at.port(), "health": "HEALTH_READY", "weight": 1,
        "tunnel": orders.at("tunnel"), "identity": mesh.id("orders"), "serverName": "80.orders.shop.svc.cluster.local",
    });
    // An answer of 429 or 503 is what these tests look for.
    let frontend = json!({"retry": {"attempts": 0}});
    let service =
        crate::sidecar::service("orders", "PROTOCOL_DETECT", frontend, json!({"breaker": {"disabled": true}}));
    let slice = json!({"name": "shop/orders:80/0", "endpoints": [endpoint]});
    mesh.sidecar(account, &json!({"services": [service], "endpoints": [slice]}), &json!({}))
}

fn limited(answer: &Answer) -> bool {
    if answer.status == 200 {
        return false;
    }
    assert_eq!((answer.status, answer.header("weft-error")), (429, "rate-limited"), "{answer:?}");
    let wait: u32 = answer.header("retry-after").parse().unwrap();
    assert!((1..=60).contains(&wait), "{answer:?}");
    assert!(answer.header("ratelimit").contains("r=0"), "{answer:?}");
    true
}

#[tokio::test(flavor = "multi_thread")]
async fn over_a_rate_there_is_429_by_header_and_only_for_calls_that_match() {
    let (mesh, app) = (Mesh::new(), App::named("orders").await);
    let limit = json!({
        "name": "shop/policy/by-user", "matches": [{"method": "GET"}], "keys": [{"header": "x-user"}], "requests": 3, "per": "60s",
    });
    let orders = orders(&mesh, &app, json!({"rateLimits": [limit]}));
    let mut client = Client::connect(orders.at("plaintext")).await;
    for left in (0..3).rev() {
        let answer = client.get("orders", "/", "x-user: ada\r\n").await;
        assert_eq!(answer.status, 200);
        assert!(answer.header("ratelimit").contains(&format!("r={left}")), "{answer:?}");
        assert!(answer.header("ratelimit-policy").contains("q=3"), "{answer:?}");
    }
    assert!(limited(&client.get("orders", "/", "x-user: ada\r\n").await));
    assert!(!limited(&client.get("orders", "/", "x-user: bob\r\n").await), "another key has its own bucket");
    assert!(!limited(&client.post("orders", "/", "x").await), "the limit does not speak of POST");
    assert_eq!(app.calls(), 5);
    let line = eventually("a log line", || orders.logged().into_iter().find(|line| line["status"] == 429));
    assert_eq!(line["reason"], "rate_limited");
}

#[tokio::test(flavor = "multi_thread")]
async fn each_caller_has_a_bucket_of_its_own_by_identity_and_grpc_is_told_its_own_way() {
    let (mesh, app) = (Mesh::new(), App::named("orders").await);
    let limit = json!({"name": "shop/policy/each", "keys": [{"identity": true}], "requests": 2, "per": "60s"});
    let orders = orders(&mesh, &app, json!({"rateLimits": [limit]}));
    for account in ["storefront", "batch"] {
        let caller = caller(&mesh, account, &app, &orders);
        let mut client = Client::tunnel(caller.at("outbound"), "orders:80").await;
        assert!(!limited(&client.get("orders", "/", "").await), "{account}");
        assert!(!limited(&client.get("orders", "/", "").await), "{account}");
        assert!(limited(&client.get("orders", "/", "").await), "{account}");
        let mut native = H2::tunnel(caller.at("outbound"), "orders:80").await;
        let answer = native.grpc("orders", "/shop.Orders/Get").await;
        assert_eq!((answer.status, answer.grpc_status()), (200, Some(8)), "{account}: RESOURCE_EXHAUSTED");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn too_many_calls_in_flight_are_shed_the_least_important_first() {
    let mesh = Mesh::new();
    let open = Arc::new(Semaphore::new(0));
    let gate = Arc::clone(&open);
    let app = App::start("orders", move |_| {
        let gate = Arc::clone(&gate);
        async move {
            gate.acquire().await.unwrap().forget();
            Said::ok("done")
        }
    });
    let app = app.await;
    let orders = orders(&mesh, &app, json!({"adaptiveConcurrency": {"minRequests": 4, "maxRequests": 4}}));
    let caller = caller(&mesh, "storefront", &app, &orders);
    let proxy = caller.at("outbound");
    let mut waiting = JoinSet::new();
    // Of four places two are for calls that can wait, three for calls that say nothing, all for critical ones.
    for (priority, admitted) in [("low", 2), ("default", 1), ("critical", 1)] {
        for _ in 0..admitted {
            let before = app.calls();
            waiting.spawn(async move {
                let mut client = Client::tunnel(proxy, "orders:80").await;
                client.get("orders", "/", &format!("weft-priority: {priority}\r\n")).await.status
            });
            eventually("the call is under way", || (app.calls() > before).then_some(()));
        }
        let mut client = Client::tunnel(proxy, "orders:80").await;
        let answer = client.get("orders", "/", &format!("weft-priority: {priority}\r\n")).await;
        assert_eq!((answer.status, answer.header("weft-error")), (503, "overflow"), "{priority}: {answer:?}");
    }
    // A caller without an identity is not believed.
    let mut stranger = Client::connect(orders.at("plaintext")).await;
    assert_eq!(stranger.get("orders", "/", "weft-priority: critical\r\n").await.status, 503);
    open.add_permits(100);
    while let Some(status) = waiting.join_next().await {
        assert_eq!(status.unwrap(), 200);
    }
    let mut client = Client::tunnel(proxy, "orders:80").await;
    assert_eq!(client.get("orders", "/", "").await.status, 200, "places are given back");
}
