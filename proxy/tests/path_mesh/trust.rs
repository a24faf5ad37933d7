//! Who gets in: keys that find nothing, peers without certificates, policies that change while connections are open; and that nothing
//! crosses in the clear.

use crate::rig::*;
use bytes::Bytes;
use http::{Method, Request};
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use weft_certs::tls::ClientConfigs;
use weft_certs::{LiveIdentity, SpiffeId};
use weft_proto::v1::{self, Protocol};

/// A TLS connection to a sidecar, as another sidecar would make it, but with a name of the test's choice.
async fn dial(
    identity: Arc<LiveIdentity>,
    to: SocketAddr,
    expected: &str,
    alpn: &'static [&'static [u8]],
    name: &str,
) -> tokio_rustls::client::TlsStream<TcpStream> {
    let config = ClientConfigs::new(identity).to_peer(&SpiffeId::new(expected).unwrap(), alpn).unwrap();
    let tcp = TcpStream::connect(to).await.unwrap();
    let name = rustls_pki_types::ServerName::try_from(name.to_owned()).unwrap();
    tokio_rustls::TlsConnector::from(config).connect(name, tcp).await.unwrap()
}

async fn connect(client: &mut h2::client::SendRequest<Bytes>, authority: &str) -> u16 {
    let request = Request::builder().method(Method::CONNECT).uri(authority).body(()).unwrap();
    let (response, _send) = client.send_request(request, false).unwrap();
    tokio::time::timeout(PATIENCE, response).await.expect("in time").unwrap().status().as_u16()
}

#[tokio::test]
async fn a_connect_reaches_what_it_is_a_key_of_and_nothing_else() {
    let app = Server::always("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await;
    let other = Server::always("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await;
    let pair = pair(app.at, Protocol::Http1).await;
    let tls =
        dial(pair.mesh.identity("storefront"), pair.server.tunnel, &pair.mesh.id("orders"), &[b"h2"], "x.invalid")
            .await;
    let (mut client, _driver) = h2_over(tls).await;
    assert_eq!(connect(&mut client, &app.at.to_string()).await, 200);
    for authority in [
        other.at.to_string(),
        pair.server.tunnel.to_string(),
        pair.server.outbound.to_string(),
        "orders:80".into(),
        "192.0.2.1:80".into(),
    ] {
        assert_eq!(connect(&mut client, &authority).await, 404, "{authority}");
    }
    let get = Request::builder().method(Method::GET).uri(format!("http://{}/", app.at)).body(()).unwrap();
    let (response, _) = client.send_request(get, true).unwrap();
    assert_eq!(response.await.unwrap().status(), 400, "no CONNECT");
    assert_eq!((app.count(), other.connections.load(std::sync::atomic::Ordering::SeqCst)), (0, 0));
    assert_eq!(pair.server.count("weft_refused_total", &["direction=\"inbound\"", "unknown_port"]), 5.0);
    let line = pair.server.logged("unknown_port").await.remove(0);
    assert!(line["detail"].as_str().unwrap().contains("none of this workload's ports"), "{line}");
    assert_eq!(line["sourceIdentity"], pair.mesh.id("storefront"));
}

#[tokio::test]
async fn a_configuration_that_points_at_the_sidecar_itself_is_not_followed() {
    let mesh = Mesh::new();
    let app = Server::always("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await;
    let server = mesh.sidecar("orders", inbound(&mesh, "orders", app.at, Protocol::Http1, |_| {})).await;
    let outbound = server.outbound.to_string();
    server.update(inbound(&mesh, "orders", app.at, Protocol::Http1, |port| port.local = outbound)).await;
    let tls = dial(mesh.identity("storefront"), server.tunnel, &mesh.id("orders"), &[b"h2"], "x.invalid").await;
    let (mut client, _driver) = h2_over(tls).await;
    assert_eq!(connect(&mut client, &app.at.to_string()).await, 403);
}

#[tokio::test]
async fn an_unknown_server_name_reaches_nothing() {
    let app = Server::always("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await;
    let pair = pair(app.at, Protocol::Grpc).await;
    for name in ["80.payments.shop.svc.cluster.local", "x.invalid"] {
        let identity = pair.mesh.identity("storefront");
        let mut tls = dial(identity, pair.server.tunnel, &pair.mesh.id("orders"), &[b"weft-h2"], name).await;
        let ended = tokio::time::timeout(PATIENCE, tls.read(&mut [0; 64])).await.expect("in time");
        assert_eq!(ended.unwrap_or(0), 0, "{name}");
    }
    assert_eq!(app.connections.load(std::sync::atomic::Ordering::SeqCst), 0);
    assert_eq!(pair.server.count("weft_refused_total", &["direction=\"inbound\"", "unknown_port"]), 2.0);
}

#[tokio::test]
async fn plaintext_and_peers_of_another_mesh_are_refused_with_a_reason() {
    let app = Server::always("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await;
    let pair = pair(app.at, Protocol::Http1).await;
    let mut plain = TcpStream::connect(pair.server.tunnel).await.unwrap();
    plain.write_all(b"GET / HTTP/1.1\r\nHost: orders\r\n\r\n").await.unwrap();
    let ended = tokio::time::timeout(PATIENCE, plain.read(&mut [0; 64])).await.expect("in time");
    assert_eq!(ended.unwrap_or(0), 0);
    eventually(|| (pair.server.count("weft_refused_total", &["plaintext_refused"]) == 1.0).then_some(())).await;

    // Its certificates chain to another root: it does not believe us, and we would not believe it.
    let stranger = Mesh::new().identity("storefront");
    let config =
        ClientConfigs::new(stranger).to_peer(&SpiffeId::new(&pair.mesh.id("orders")).unwrap(), &[b"h2"]).unwrap();
    let tcp = TcpStream::connect(pair.server.tunnel).await.unwrap();
    let name = rustls_pki_types::ServerName::try_from("x.invalid").unwrap();
    assert!(tokio_rustls::TlsConnector::from(config).connect(name, tcp).await.is_err());
    eventually(|| (pair.server.count("weft_refused_total", &["tls_failed"]) == 1.0).then_some(())).await;
}

#[tokio::test]
async fn a_strict_port_tells_a_plaintext_client_which_policy_refuses_it_and_a_permissive_one_serves() {
    let app = Server::always("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await;
    let mesh = Mesh::new();
    let strict = inbound(&mesh, "orders", app.at, Protocol::Http1, |port| port.tls_source = "shop/strict".into());
    let server = mesh.sidecar("orders", strict).await;
    let answer = Client::connect(server.plain).await.get("http://orders/").await;
    assert_eq!((answer.status(), answer.header("weft-error")), (403, Some("plaintext-refused")));
    assert!(
        answer.body.contains("peer presented no certificate; this port is strict (MeshTLS shop/strict)"),
        "{}",
        answer.body
    );
    server
        .update(inbound(&mesh, "orders", app.at, Protocol::Http1, |port| port.tls = v1::TlsMode::Permissive.into()))
        .await;
    assert_eq!(Client::connect(server.plain).await.send("GET / HTTP/1.1\r\nHost: orders\r\n\r\n").await.status(), 200);
    assert_eq!(server.count("weft_requests_total", &["direction=\"inbound\"", "tls=\"none\"", "code=\"200\""]), 1.0);
}

fn allow(identity: String, methods: &[&str]) -> v1::Authorization {
    v1::Authorization {
        name: "shop/readers".into(),
        action: v1::Action::Allow.into(),
        rules: vec![v1::AuthorizationRule {
            from: vec![v1::AuthorizationSource { identities: vec![identity], ..Default::default() }],
            to: vec![v1::AuthorizationOperation {
                methods: methods.iter().map(|m| (*m).to_owned()).collect(),
                ..Default::default()
            }],
            ..Default::default()
        }],
    }
}

#[tokio::test]
async fn each_request_is_authorized_by_identity_method_and_path_and_the_policy_is_named() {
    let app = Server::always("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await;
    let pair = pair(app.at, Protocol::Http1).await;
    let mut client = Client::connect(pair.client.outbound).await;
    assert_eq!(client.post("http://orders/", "x").await.status(), 200);
    let readers = allow(pair.mesh.id("storefront"), &["GET"]);
    pair.server
        .update(inbound(&pair.mesh, "orders", app.at, Protocol::Http1, |port| port.authorization = vec![readers]))
        .await;
    assert_eq!(client.get("http://orders/").await.status(), 200);
    let denied = client.post("http://orders/", "x").await;
    assert_eq!((denied.status(), denied.header("weft-error")), (403, Some("denied")), "{denied:?}");
    assert!(denied.body.contains("shop/readers"), "{}", denied.body);
    assert!(pair.server.count("weft_authz_total", &["policy=\"shop/readers\"", "decision=\"deny\""]) >= 1.0);
    assert!(pair.server.count("weft_authz_total", &["policy=\"shop/readers\"", "decision=\"allow\""]) >= 1.0);
}

#[tokio::test]
async fn an_open_connection_ends_when_its_peer_is_no_longer_allowed() {
    let (app, _tasks) = raw_server(|mut stream| async move {
        let mut buffer = [0; 64];
        while let Ok(n @ 1..) = stream.read(&mut buffer).await {
            let _ = stream.write_all(&buffer[..n]).await;
        }
    })
    .await;
    let pair = pair(app, Protocol::Tcp).await;
    let mut stream = TcpStream::connect(pair.client.named[0]).await.unwrap();
    stream.write_all(b"ping").await.unwrap();
    let mut echo = [0; 4];
    tokio::time::timeout(PATIENCE, stream.read_exact(&mut echo)).await.expect("in time").unwrap();
    let others = allow(pair.mesh.id("payments"), &[]);
    pair.server
        .update(inbound(&pair.mesh, "orders", app, Protocol::Tcp, |port| port.authorization = vec![others]))
        .await;
    let ended = tokio::time::timeout(PATIENCE, stream.read(&mut echo)).await.expect("cut");
    assert_eq!(ended.unwrap_or(0), 0);
    assert_eq!(pair.server.logged("\"reason\":\"denied\"").await[0]["kind"], "tcp");
    let mut again = TcpStream::connect(pair.client.named[0]).await.unwrap();
    let refused = tokio::time::timeout(PATIENCE, again.read(&mut echo)).await.expect("in time");
    assert_eq!(refused.unwrap_or(0), 0);
}

#[tokio::test]
async fn nothing_crosses_between_sidecars_in_the_clear() {
    const SECRET: &str = "the-secret-that-must-not-be-seen";
    let app = Server::start(|seen: Seen| async move { ok(&String::from_utf8_lossy(&seen.body)) }).await;
    let mesh = Mesh::new();
    let server = mesh.sidecar("orders", inbound(&mesh, "orders", app.at, Protocol::Detect, |_| {})).await;
    let (at, seen, _relay) = relay(server.tunnel).await;
    let resources = v1::Resources {
        services: vec![service("orders", Protocol::Detect, |_| {})],
        endpoints: vec![slice("orders", vec![meshed("orders-1", app.at, at, mesh.id("orders"))])],
        ..Default::default()
    };
    let client = mesh.sidecar("storefront", resources).await;
    let answer = Client::connect(client.outbound).await.post("http://orders/", SECRET).await;
    assert_eq!(answer.body, SECRET);
    let mut connections = JoinSet::new();
    let to = client.outbound;
    connections.spawn(async move {
        let (_, mut stream) = connect_through(to, "orders:80").await;
        stream.write_all(SECRET.as_bytes()).await.unwrap();
        let _ = stream.shutdown().await;
        let _ = stream.read_to_end(&mut Vec::new()).await;
    });
    connections.join_all().await;
    let seen = seen.lock();
    assert!(seen.len() > 1000, "the relay was in between");
    let text = String::from_utf8_lossy(&seen);
    for word in [SECRET, "HTTP/1.1", "orders", "storefront", "CONNECT"] {
        assert!(!text.contains(word), "{word} crossed in the clear");
    }
}

#[tokio::test]
async fn an_endpoint_that_is_somebody_else_gets_nothing() {
    let app = Server::always("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await;
    let mesh = Mesh::new();
    let server = mesh.sidecar("orders", inbound(&mesh, "orders", app.at, Protocol::Http1, |_| {})).await;
    let resources = v1::Resources {
        services: vec![service("orders", Protocol::Http1, |_| {})],
        endpoints: vec![slice("orders", vec![meshed("payments-1", app.at, server.tunnel, mesh.id("payments"))])],
        ..Default::default()
    };
    let client = mesh.sidecar("storefront", resources).await;
    let answer = Client::connect(client.outbound).await.get("http://orders/").await;
    assert_eq!((answer.status(), answer.header("weft-error")), (502, Some("tls-failed")), "{answer:?}");
    assert_eq!(app.count(), 0);
}
