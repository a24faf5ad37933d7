//! Authorization through real sidecars: every class of condition is asked of real calls, decisions are named, and open connections follow
//! a policy that changes.

use crate::rig::*;
use bytes::Bytes;
use http::{Method, Request};
use std::net::SocketAddr;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::timeout;
use weft_proto::v1::{self, Protocol};

/// How soon an open connection follows.
const SOON: Duration = Duration::from_secs(1);

fn policy(action: v1::Action, rule: v1::AuthorizationRule) -> v1::Authorization {
    let rule = v1::AuthorizationRule { name: "mine".into(), ..rule };
    v1::Authorization { name: "shop/p".into(), action: action.into(), rules: vec![rule] }
}

fn from(edit: impl FnOnce(&mut v1::AuthorizationSource)) -> v1::AuthorizationRule {
    let mut source = v1::AuthorizationSource::default();
    edit(&mut source);
    v1::AuthorizationRule { from: vec![source], ..Default::default() }
}

fn to(edit: impl FnOnce(&mut v1::AuthorizationOperation)) -> v1::AuthorizationRule {
    let mut operation = v1::AuthorizationOperation::default();
    edit(&mut operation);
    v1::AuthorizationRule { to: vec![operation], ..Default::default() }
}

fn when(key: &str, value: &str) -> v1::AuthorizationRule {
    let condition = v1::AuthorizationCondition { key: key.into(), values: vec![value.into()], ..Default::default() };
    v1::AuthorizationRule { when: vec![condition], ..Default::default() }
}

/// The same about requests, so that it is asked of them and not of the connection that carries them.
fn of_requests(mut rule: v1::AuthorizationRule) -> v1::AuthorizationRule {
    if rule.to.is_empty() {
        rule.to.push(v1::AuthorizationOperation::default());
    }
    for operation in rule.to.iter_mut().filter(|o| o.methods.is_empty()) {
        operation.methods.push("*".into());
    }
    rule
}

async fn put(pair: &Pair, app: SocketAddr, protocol: Protocol, policies: Vec<v1::Authorization>) {
    let resources = inbound(&pair.mesh, "orders", app, protocol, |port| port.authorization = policies);
    pair.server.update(resources).await;
}

#[tokio::test]
async fn every_class_of_condition_is_asked_of_real_calls() {
    let app = Server::always("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await;
    let pair = pair(app.at, Protocol::Http1).await;
    let mut client = Client::connect(pair.client.outbound).await;
    let port = u32::from(app.at.port());
    let id = pair.mesh.id("storefront");
    // What holds for the call, and the same with a value that does not.
    let pairs: Vec<(&str, v1::AuthorizationRule, v1::AuthorizationRule)> = vec![
        ("identity", from(|s| s.identities = vec![id.clone()]), from(|s| s.not_identities = vec![id.clone()])),
        ("namespace", from(|s| s.namespaces = vec!["shop".into()]), from(|s| s.namespaces = vec!["bank".into()])),
        (
            "service account",
            from(|s| s.service_accounts = vec!["shop/storefront".into()]),
            from(|s| s.not_service_accounts = vec!["shop/storefront".into()]),
        ),
        (
            "address",
            from(|s| s.ip_blocks = vec!["127.0.0.0/8".into()]),
            from(|s| s.not_ip_blocks = vec!["127.0.0.1".into()]),
        ),
        (
            "token",
            from(|s| s.not_request_principals = vec!["*".into()]),
            from(|s| s.request_principals = vec!["*".into()]),
        ),
        ("host", to(|o| o.hosts = vec!["ORDERS".into()]), to(|o| o.hosts = vec!["*.orders".into()])),
        ("port", to(|o| o.ports = vec![port]), to(|o| o.not_ports = vec![port])),
        ("method", to(|o| o.methods = vec!["G*".into()]), to(|o| o.not_methods = vec!["GET".into()])),
        ("path", to(|o| o.paths = vec!["/users/{*}/x".into()]), to(|o| o.not_paths = vec!["/users/*".into()])),
        ("header", when("request.headers[x-tenant]", "ac*"), when("request.headers[x-tenant]", "acme2")),
        ("source.ip", when("source.ip", "127.0.0.1"), when("source.ip", "192.0.2.0/24")),
        ("destination.port", when("destination.port", &port.to_string()), when("destination.port", "1")),
        ("claim", v1::AuthorizationRule::default(), when("request.auth.claims[groups]", "admin")),
    ];
    for (class, holds, fails) in pairs {
        for (rule, status) in [(holds, 403), (fails, 200)] {
            put(&pair, app.at, Protocol::Http1, vec![policy(v1::Action::Deny, of_requests(rule))]).await;
            let request = "GET http://orders/users/7/x?y=z HTTP/1.1\r\nHost: orders\r\nx-tenant: acme\r\n\r\n";
            assert_eq!(client.send(request).await.status(), status, "{class}");
        }
    }
}

#[tokio::test]
async fn a_decision_names_policy_and_rule_in_log_and_metric_and_where_it_is_wanted_in_the_answer() {
    let app = Server::always("HTTP/1.1 200 OK\r\nContent-Length: 0\r\nweft-authorization: forged\r\n\r\n").await;
    let pair = pair(app.at, Protocol::Http1).await;
    let mut client = Client::connect(pair.client.outbound).await;
    let readers = policy(v1::Action::Allow, to(|o| o.methods = vec!["GET".into()]));
    let editors = v1::Authorization {
        name: "shop/d".into(),
        ..policy(v1::Action::Deny, to(|o| o.paths = vec!["/closed".into()]))
    };
    let all = vec![readers, editors];
    put(&pair, app.at, Protocol::Http1, all.clone()).await;
    assert_eq!(client.get("http://orders/quiet").await.header("weft-authorization"), None);
    let shown = inbound(&pair.mesh, "orders", app.at, Protocol::Http1, |port| {
        port.authorization = all;
        port.authorization_header = true;
    });
    pair.server.update(shown).await;
    let allowed = client.get("http://orders/open").await;
    assert_eq!((allowed.status(), allowed.header("weft-authorization")), (200, Some("allow shop/p mine")));
    let denied = client.get("http://orders/closed").await;
    assert_eq!((denied.status(), denied.header("weft-authorization")), (403, Some("deny shop/d mine")));
    let none = client.post("http://orders/open", "x").await;
    assert_eq!((none.status(), none.header("weft-authorization")), (403, Some("deny shop/p")));
    for (path, policy, rule, decision) in [
        ("/open", "shop/p", "mine", "allow"),
        ("/closed", "shop/d", "mine", "deny"),
        ("/quiet", "shop/p", "mine", "allow"),
    ] {
        let line = pair.server.logged(&format!("\"path\":\"{path}\"")).await.remove(0);
        assert_eq!((&line["policy"], &line["rule"]), (&policy.into(), &rule.into()), "{line}");
        let labels = [format!("policy=\"{policy}\""), format!("rule=\"{rule}\""), format!("decision=\"{decision}\"")];
        let labels: Vec<&str> = labels.iter().map(String::as_str).collect();
        assert!(pair.server.count("weft_authz_total", &labels) >= 1.0, "{labels:?}");
    }
}

async fn echo() -> (SocketAddr, JoinSet<()>) {
    raw_server(|mut stream| async move {
        let mut buffer = [0; 64];
        while let Ok(n @ 1..) = stream.read(&mut buffer).await {
            let _ = stream.write_all(&buffer[..n]).await;
        }
    })
    .await
}

async fn ping(stream: &mut TcpStream) -> std::io::Result<()> {
    stream.write_all(b"ping").await?;
    let mut echo = [0; 4];
    timeout(PATIENCE, stream.read_exact(&mut echo)).await.expect("in time").map(drop)
}

#[tokio::test]
async fn an_open_connection_stays_under_a_policy_about_others_and_is_cut_at_once_by_one_about_its_peer() {
    let (app, _tasks) = echo().await;
    let pair = pair(app, Protocol::Tcp).await;
    let mut stream = TcpStream::connect(pair.client.named[0]).await.unwrap();
    ping(&mut stream).await.unwrap();
    let others = from(|s| s.identities = vec![pair.mesh.id("payments")]);
    put(&pair, app, Protocol::Tcp, vec![policy(v1::Action::Deny, others)]).await;
    ping(&mut stream).await.unwrap();
    let elsewhere = from(|s| s.ip_blocks = vec!["192.0.2.0/24".into()]);
    put(&pair, app, Protocol::Tcp, vec![policy(v1::Action::Deny, elsewhere)]).await;
    ping(&mut stream).await.unwrap();
    let here = from(|s| s.ip_blocks = vec!["127.0.0.0/8".into()]);
    put(&pair, app, Protocol::Tcp, vec![policy(v1::Action::Deny, here)]).await;
    let ended = timeout(SOON, stream.read(&mut [0; 4])).await.expect("cut within a second");
    assert_eq!(ended.unwrap_or(0), 0);
}

/// An HTTP/2 server that answers and then says back what it is told.
async fn chat() -> (SocketAddr, JoinSet<()>) {
    raw_server(|stream| async move {
        let mut connection = h2::server::handshake(stream).await.unwrap();
        let mut calls = JoinSet::new();
        while let Some(Ok((request, mut respond))) = connection.accept().await {
            calls.spawn(async move {
                let Ok(mut send) = respond.send_response(http::Response::new(()), false) else { return };
                let mut body = request.into_body();
                while let Some(Ok(data)) = body.data().await {
                    let _ = body.flow_control().release_capacity(data.len());
                    let _ = send.send_data(data, false);
                }
            });
        }
    })
    .await
}

#[tokio::test]
async fn an_open_stream_stays_under_a_policy_about_others_and_is_cut_at_once_by_one_about_its_peer() {
    for protocol in [Protocol::Http2, Protocol::Detect] {
        let (app, _tasks) = chat().await;
        let pair = pair(app, protocol).await;
        let (mut client, _driver) = h2_over(TcpStream::connect(pair.client.outbound).await.unwrap()).await;
        let request = Request::builder().method(Method::POST).uri("http://orders/chat").body(()).unwrap();
        let (response, mut send) = client.send_request(request, false).unwrap();
        send.send_data(Bytes::from_static(b"one"), false).unwrap();
        let response = timeout(PATIENCE, response).await.expect("in time").unwrap();
        assert_eq!(response.status(), 200, "{protocol:?}");
        let mut body = response.into_body();
        let first = timeout(PATIENCE, body.data()).await.expect("in time").unwrap().unwrap();
        assert_eq!(&first[..], b"one");
        let others = from(|s| s.identities = vec![pair.mesh.id("payments")]);
        put(&pair, app, protocol, vec![policy(v1::Action::Deny, others)]).await;
        send.send_data(Bytes::from_static(b"two"), false).unwrap();
        let second = timeout(PATIENCE, body.data()).await.expect("in time").unwrap().unwrap();
        assert_eq!(&second[..], b"two", "{protocol:?}");
        let mine = from(|s| s.identities = vec![pair.mesh.id("storefront")]);
        put(&pair, app, protocol, vec![policy(v1::Action::Deny, mine)]).await;
        let ended = timeout(SOON, body.data()).await.expect("cut within a second");
        assert!(!matches!(ended, Some(Ok(_))), "{protocol:?}: {ended:?}");
    }
}
