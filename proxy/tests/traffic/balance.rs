//! Balancing by key, and active health checks.

use crate::sidecar::app::{App, Said, nobody};
use crate::sidecar::client::Client;
use crate::sidecar::{PATIENCE, Sidecar, route};
use crate::{mesh, resources};
use bytes::Bytes;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

fn frontend() -> Value {
    json!({"routes": [route("ROUTE_KIND_HTTP", &[("a", 1)], json!({}))]})
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_with_one_key_go_to_one_endpoint_by_ring_hash_and_by_maglev() {
    let apps = [App::named("0").await, App::named("1").await, App::named("2").await, App::named("3").await];
    let at: Vec<SocketAddr> = apps.iter().map(|app| app.at).collect();
    for balancer in ["BALANCER_RING_HASH", "BALANCER_MAGLEV"] {
        let backend = json!({"balancer": balancer, "hash": [{"header": "x-user"}, {"cookie": "user"}]});
        let mut resources = resources(frontend(), &[("a", &at, backend)]);
        let sidecar = Sidecar::start(&resources);
        let mut client = Client::tunnel(sidecar.at("outbound"), "front:80").await;
        let mut homes = Vec::new();
        for user in 0..24 {
            let header = format!("x-user: u{user}\r\n");
            let home = client.get("front", "/", &header).await.text().to_owned();
            for _ in 0..4 {
                assert_eq!(client.get("front", "/", &header).await.text(), home, "{balancer}: user {user}");
            }
            let cookie = format!("Cookie: user=u{user}\r\n");
            assert_eq!(client.get("front", "/", &cookie).await.text(), home, "{balancer}: the value counts");
            homes.push(home);
        }
        let used: BTreeSet<_> = homes.iter().collect();
        assert!(used.len() >= 3, "{balancer}: {used:?}");
        let mut anywhere = BTreeSet::new();
        for _ in 0..60 {
            anywhere.insert(client.get("front", "/", "").await.text().to_owned());
        }
        assert!(anywhere.len() > 1, "{balancer}: calls without a key go anywhere");

        // Whose endpoint stays, stays with it.
        resources["endpoints"][1]["endpoints"][0]["health"] = "HEALTH_NOT_READY".into();
        sidecar.update(&resources);
        let moved = homes.iter().position(|home| home == "0").unwrap();
        loop {
            let answer = client.get("front", "/", &format!("x-user: u{moved}\r\n")).await;
            assert_eq!(answer.status, 200);
            if answer.text() != "0" {
                break;
            }
            tokio::task::yield_now().await;
        }
        let mut lost = 0;
        for (user, home) in homes.iter().enumerate().filter(|(_, home)| *home != "0") {
            let answer = client.get("front", "/", &format!("x-user: u{user}\r\n")).await;
            lost += usize::from(answer.text() != home);
        }
        assert_eq!(lost, 0, "{balancer}: nobody else moves");
    }
}

fn checked(probe: Value) -> Value {
    let mut check = json!({"interval": "0.2s", "timeout": "0.2s", "healthyThreshold": 2, "unhealthyThreshold": 2});
    check.as_object_mut().unwrap().extend(probe.as_object().unwrap().clone());
    json!({"balancer": "BALANCER_ROUND_ROBIN", "healthCheck": check, "breaker": {"disabled": true}})
}

/// Who answers so many calls in a row.
async fn answering(client: &mut Client) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for _ in 0..12 {
        names.insert(client.get("front", "/", "").await.text().to_owned());
    }
    names
}

/// Waits until exactly these endpoints answer.
async fn settles(client: &mut Client, names: &[&str]) {
    let expected: BTreeSet<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let until = tokio::time::Instant::now() + PATIENCE;
    loop {
        let seen = answering(client).await;
        if seen == expected {
            return;
        }
        assert!(tokio::time::Instant::now() < until, "{seen:?} answer, not {expected:?}");
        tokio::task::yield_now().await;
    }
}

/// An application whose checks fail and whose calls do not.
async fn fragile(name: &'static str, grpc: bool) -> (App, Arc<AtomicBool>) {
    let well = Arc::new(AtomicBool::new(true));
    let is_well = Arc::clone(&well);
    let app = App::start(name, move |call| {
        let well = is_well.load(SeqCst);
        async move {
            match call.path.as_str() {
                "/healthz" if call.host == "health.shop" => Said::status(if well { 204 } else { 200 }),
                "/grpc.health.v1.Health/Check" if grpc => {
                    // HealthCheckResponse {status: SERVING or NOT_SERVING}, behind the five bytes of a gRPC message.
                    Said::ok(Bytes::copy_from_slice(&[0, 0, 0, 0, 2, 8, if well { 1 } else { 2 }]))
                }
                _ => Said::ok(name),
            }
        }
    });
    (app.await, well)
}

async fn goes_and_comes_back(probe: Value, grpc: bool) {
    let ((first, well), (second, _)) = (fragile("0", grpc).await, fragile("1", grpc).await);
    let sidecar = mesh(frontend(), &[("a", &[first.at, second.at], checked(probe))]);
    let mut client = Client::tunnel(sidecar.at("outbound"), "front:80").await;
    settles(&mut client, &["0", "1"]).await;
    well.store(false, SeqCst);
    settles(&mut client, &["1"]).await;
    well.store(true, SeqCst);
    settles(&mut client, &["0", "1"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_whose_http_checks_fail_gets_no_calls_until_it_is_back() {
    let probe = json!({"http": {"path": "/healthz", "host": "health.shop", "statuses": [204]}});
    goes_and_comes_back(probe, false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_whose_grpc_checks_fail_gets_no_calls_until_it_is_back() {
    goes_and_comes_back(json!({"grpc": {"service": "shop.Orders"}}), true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_that_takes_no_connections_gets_no_calls_until_it_does() {
    let (dead, second) = (nobody(), App::named("1").await);
    let sidecar = mesh(frontend(), &[("a", &[dead.at, second.at], checked(json!({"tcp": {}})))]);
    let mut client = Client::tunnel(sidecar.at("outbound"), "front:80").await;
    // Calls are sent again elsewhere: that nobody tries is seen in the log.
    let until = tokio::time::Instant::now() + PATIENCE;
    loop {
        let before = sidecar.logged().len();
        answering(&mut client).await;
        let lines = sidecar.logged();
        let new = lines.get(before..).unwrap_or_default();
        if new.len() >= 6 && new.iter().all(|line| line["attempts"] == 1) {
            break;
        }
        assert!(tokio::time::Instant::now() < until, "it is still tried: {new:?}");
    }
    let at = dead.at;
    drop(dead);
    let _first = App::start_on(at, "0", |_| async { Said::ok("0") }).await;
    settles(&mut client, &["0", "1"]).await;
}
