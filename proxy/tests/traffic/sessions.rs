//! Session persistence: by cookie and by header, and what becomes of a session whose endpoint goes.

use crate::resources;
use crate::sidecar::app::App;
use crate::sidecar::client::{Answer, Client};
use crate::sidecar::{Sidecar, eventually, route};
use serde_json::{Value, json};

const CALLS: usize = 30;

async fn apps() -> [App; 3] {
    [App::named("0").await, App::named("1").await, App::named("2").await]
}

fn known(apps: &[App; 3], session: Value) -> Value {
    let at: Vec<_> = apps.iter().map(|app| app.at).collect();
    let rule = json!({"sessionPersistence": session});
    resources(
        json!({"routes": [route("ROUTE_KIND_HTTP", &[("a", 1)], rule)]}),
        &[("a", &at, json!({"balancer": "BALANCER_ROUND_ROBIN"}))],
    )
}

fn cookie(answer: &Answer) -> String {
    answer.header("set-cookie").split(';').next().unwrap_or_default().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cookie_holds_a_session_until_its_endpoint_goes() {
    let apps = apps().await;
    let mut resources = known(&apps, json!({"kind": "SESSION_KIND_COOKIE", "name": "sid"}));
    let sidecar = Sidecar::start(&resources);
    let mut client = Client::tunnel(sidecar.at("outbound"), "front:80").await;
    let first = client.get("front", "/", "").await;
    let session = cookie(&first);
    assert!(session.starts_with("sid=") && first.header("set-cookie").contains("HttpOnly"), "{first:?}");
    for _ in 0..CALLS {
        let again = client.get("front", "/", &format!("Cookie: other=1; {session}\r\n")).await;
        assert_eq!(again.text(), first.text());
        assert_eq!(again.header("set-cookie"), "", "what the client knows is not told again");
    }
    let mut others = std::collections::BTreeSet::new();
    for _ in 0..CALLS {
        others.insert(client.get("front", "/", "").await.text().to_owned());
    }
    assert_eq!(others.len(), 3, "calls without a session go anywhere");

    let gone: usize = first.text().parse().unwrap();
    resources["endpoints"][1]["endpoints"][gone]["health"] = "HEALTH_NOT_READY".into();
    sidecar.update(&resources);
    let moved = loop {
        let answer = client.get("front", "/", &format!("Cookie: {session}\r\n")).await;
        assert_eq!(answer.status, 200);
        if answer.text() != first.text() {
            break answer;
        }
        tokio::task::yield_now().await;
    };
    let session = cookie(&moved);
    assert!(session.starts_with("sid="), "the session goes on at another endpoint, and the client is told: {moved:?}");
    for _ in 0..CALLS {
        assert_eq!(client.get("front", "/", &format!("Cookie: {session}\r\n")).await.text(), moved.text());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_header_holds_a_session() {
    let apps = apps().await;
    let sidecar = Sidecar::start(&known(&apps, json!({"kind": "SESSION_KIND_HEADER", "name": "x-session"})));
    let mut client = Client::tunnel(sidecar.at("outbound"), "front:80").await;
    let first = client.get("front", "/", "").await;
    let session = first.header("x-session").to_owned();
    assert!(!session.is_empty(), "{first:?}");
    for _ in 0..CALLS {
        let again = client.get("front", "/", &format!("x-session: {session}\r\n")).await;
        assert_eq!(again.text(), first.text());
    }
    // What is no session of ours begins one.
    let answer = client.get("front", "/", "x-session: 0123\r\n").await;
    assert!(!answer.header("x-session").is_empty());
    eventually("log lines", || (sidecar.logged().len() > CALLS).then_some(()));
}
