//! Websockets between any two versions of HTTP, direct, through a pair of sidecars, and where the peer takes CONNECT streams only.

use crate::rig::*;
use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use base64::Engine as _;
use bytes::Bytes;
use h2::ext::Protocol as Extended;
use http::{Method, Request, Response};
use std::net::SocketAddr;
use tokio::io::{AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use weft_proto::v1::{self, Protocol};

const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
const PROOF: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

/// RFC 6455 §4.2.2.
fn proof(key: &str) -> String {
    let sum = digest(&SHA1_FOR_LEGACY_USE_ONLY, format!("{key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11").as_bytes());
    base64::engine::general_purpose::STANDARD.encode(sum)
}

async fn soon<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(PATIENCE, future).await.expect("in time")
}

/// What an application of these tests does.
#[derive(Clone, Copy, PartialEq)]
enum Does {
    /// Sends back what it gets; after the end of that `bye`, and its own end.
    Echo,
    /// Breaks off after the first bytes.
    Reset,
}

/// An application of HTTP/1.1. What it saw is told: the head, then how its reading ended.
async fn app_http1(does: Does) -> (SocketAddr, mpsc::UnboundedReceiver<String>, JoinSet<()>) {
    let (told, heard) = mpsc::unbounded_channel();
    let (at, tasks) = raw_server(move |stream| {
        let told = told.clone();
        async move {
            let mut stream = BufReader::new(stream);
            let Some(head) = read_head(&mut stream).await else { return };
            let key = header(&head, "sec-websocket-key").unwrap_or_default();
            let answer = format!(
                "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: {}\r\nSec-WebSocket-Protocol: chat\r\n\r\n",
                proof(key)
            );
            let _ = told.send(head);
            stream.write_all(answer.as_bytes()).await.unwrap();
            let mut buffer = vec![0; 64 * 1024];
            loop {
                match stream.read(&mut buffer).await {
                    Ok(0) => break,
                    Ok(_) if does == Does::Reset => {
                        socket2::SockRef::from(stream.get_ref()).set_linger(Some(std::time::Duration::ZERO)).unwrap();
                        return;
                    }
                    Ok(n) => {
                        if stream.write_all(&buffer[..n]).await.is_err() {
                            break;
                        }
                    }
                    Err(error) => {
                        let _ = told.send(format!("broken: {error}"));
                        return;
                    }
                }
            }
            let _ = told.send("end".into());
            let _ = stream.write_all(b"bye").await;
            let _ = stream.shutdown().await;
        }
    })
    .await;
    (at, heard, tasks)
}

/// An application of HTTP/2. `extended`: it announces that it takes extended CONNECT.
async fn app_http2(does: Does, extended: bool) -> (SocketAddr, mpsc::UnboundedReceiver<String>, JoinSet<()>) {
    let (told, heard) = mpsc::unbounded_channel();
    let (at, tasks) = raw_server(move |stream| {
        let told = told.clone();
        async move {
            let mut builder = h2::server::Builder::new();
            if extended {
                builder.enable_connect_protocol();
            }
            let Ok(mut connection) = builder.handshake::<_, Bytes>(stream).await else { return };
            let mut calls = JoinSet::new();
            while let Some(Ok((request, mut respond))) = connection.accept().await {
                let protocol = request.extensions().get::<Extended>().map(|p| p.as_str().to_owned());
                let _ = told.send(format!(
                    "{} {} {protocol:?} {:?}",
                    request.method(),
                    request.uri().path(),
                    request.headers()
                ));
                let told = told.clone();
                calls.spawn(async move {
                    if protocol.is_none() {
                        respond.send_response(Response::builder().status(404).body(()).unwrap(), true).unwrap();
                        return;
                    }
                    let response = Response::builder().header("sec-websocket-protocol", "chat").body(()).unwrap();
                    let mut send = respond.send_response(response, false).unwrap();
                    let mut body = request.into_body();
                    while let Some(data) = body.data().await {
                        let Ok(data) = data else {
                            let _ = told.send("broken".into());
                            return;
                        };
                        if does == Does::Reset {
                            send.send_reset(h2::Reason::INTERNAL_ERROR);
                            return;
                        }
                        let _ = body.flow_control().release_capacity(data.len());
                        if write(&mut send, data).await.is_err() {
                            return;
                        }
                    }
                    let _ = told.send("end".into());
                    let _ = send.send_data(Bytes::from_static(b"bye"), true);
                });
            }
        }
    })
    .await;
    (at, heard, tasks)
}

/// Sends all of it as flow control allows.
async fn write(send: &mut h2::SendStream<Bytes>, mut data: Bytes) -> Result<(), h2::Error> {
    while !data.is_empty() {
        send.reserve_capacity(data.len());
        let room = match std::future::poll_fn(|cx| send.poll_capacity(cx)).await {
            Some(room) => room?,
            None => return Err(h2::Reason::CANCEL.into()),
        };
        send.send_data(data.split_to(room.min(data.len())), false)?;
    }
    Ok(())
}

/// How sidecars stand between client and application.
#[derive(Clone, Copy, Debug)]
enum Between {
    /// The client's alone.
    One,
    /// Both.
    Two,
    /// Both, and the second is known to take CONNECT streams only.
    Hbone,
}

struct Stage {
    client: Sidecar,
    _server: Option<Sidecar>,
    _mesh: Mesh,
}

async fn stage(between: Between, app: SocketAddr, protocol: Protocol) -> Stage {
    let mesh = Mesh::new();
    let (endpoint, server) = match between {
        Between::One => (bare("orders-1", app), None),
        Between::Two | Between::Hbone => {
            let server = mesh.sidecar("orders", inbound(&mesh, "orders", app, protocol, |_| {})).await;
            let mut endpoint = meshed("orders-1", app, server.tunnel, mesh.id("orders"));
            if matches!(between, Between::Hbone) {
                endpoint.server_name.clear();
            }
            (endpoint, Some(server))
        }
    };
    let resources = v1::Resources {
        services: vec![service("orders", protocol, |_| {})],
        endpoints: vec![slice("orders", vec![endpoint])],
        ..Default::default()
    };
    let client = mesh.sidecar("storefront", resources).await;
    Stage { client, _server: server, _mesh: mesh }
}

/// A client's open websocket.
enum Socket {
    Http1(BufReader<TcpStream>),
    Http2 { send: h2::SendStream<Bytes>, body: h2::RecvStream, left: Bytes, _driver: JoinSet<()> },
}

fn upgrade(key: &str) -> String {
    format!(
        "GET http://orders/chat?a=b HTTP/1.1\r\nHost: orders\r\nConnection: keep-alive, Upgrade\r\nUpgrade: WebSocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\nSec-WebSocket-Protocol: chat\r\nOrigin: http://shop\r\n\r\n"
    )
}

fn extended() -> Request<()> {
    Request::builder()
        .method(Method::CONNECT)
        .uri("http://orders/chat?a=b")
        .extension(Extended::from_static("websocket"))
        .header("sec-websocket-version", "13")
        .header("sec-websocket-protocol", "chat")
        .header("origin", "http://shop")
        .body(())
        .unwrap()
}

async fn h2_client(to: SocketAddr) -> (h2::client::SendRequest<Bytes>, JoinSet<()>) {
    let (client, driver) = h2_over(TcpStream::connect(to).await.unwrap()).await;
    eventually(|| client.is_extended_connect_protocol_enabled().then_some(())).await;
    (client, driver)
}

impl Socket {
    /// The handshake, with bytes that do not wait for its answer.
    async fn open(native: bool, to: SocketAddr, early: &[u8]) -> Self {
        if !native {
            let mut stream = BufReader::new(TcpStream::connect(to).await.unwrap());
            stream.write_all(&[upgrade(KEY).as_bytes(), early].concat()).await.unwrap();
            let head = soon(read_head(&mut stream)).await.expect("an answer");
            assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
            assert_eq!(header(&head, "sec-websocket-accept"), Some(PROOF), "{head}");
            assert!(header(&head, "upgrade").is_some_and(|v| v.eq_ignore_ascii_case("websocket")), "{head}");
            assert!(header(&head, "connection").is_some_and(|v| v.eq_ignore_ascii_case("upgrade")), "{head}");
            assert_eq!(header(&head, "sec-websocket-protocol"), Some("chat"));
            return Self::Http1(stream);
        }
        let (mut client, driver) = h2_client(to).await;
        let (response, mut send) = client.send_request(extended(), false).unwrap();
        write(&mut send, Bytes::copy_from_slice(early)).await.unwrap();
        let response = soon(response).await.unwrap();
        assert_eq!(
            (response.status().as_u16(), &response.headers()["sec-websocket-protocol"]),
            (200, &"chat".parse().unwrap())
        );
        for name in ["upgrade", "connection", "sec-websocket-accept"] {
            assert!(!response.headers().contains_key(name), "{name}");
        }
        Self::Http2 { send, body: response.into_body(), left: Bytes::new(), _driver: driver }
    }

    /// Sends and receives at once, so that neither waits for the other.
    async fn echo(&mut self, bytes: &[u8]) {
        let mut got = vec![0; bytes.len()];
        soon(async {
            match self {
                Self::Http1(stream) => {
                    let (mut reader, mut writer) = tokio::io::split(stream);
                    let (read, written) = tokio::join!(reader.read_exact(&mut got), writer.write_all(bytes));
                    read.unwrap();
                    written.unwrap();
                }
                Self::Http2 { send, body, left, .. } => {
                    let sending = write(send, Bytes::copy_from_slice(bytes));
                    let receiving = async {
                        let mut at = 0;
                        while at < got.len() {
                            if left.is_empty() {
                                *left = body.data().await.expect("more").unwrap();
                                let _ = body.flow_control().release_capacity(left.len());
                            }
                            let piece = left.split_to(left.len().min(got.len() - at));
                            got[at..at + piece.len()].copy_from_slice(&piece);
                            at += piece.len();
                        }
                    };
                    let (sent, ()) = tokio::join!(sending, receiving);
                    sent.unwrap();
                }
            }
        })
        .await;
        assert!(got == bytes, "{} bytes came back otherwise", got.len());
    }

    /// Ends its own direction.
    async fn finish(&mut self) {
        match self {
            Self::Http1(stream) => stream.shutdown().await.unwrap(),
            Self::Http2 { send, .. } => send.send_data(Bytes::new(), true).unwrap(),
        }
    }

    /// What still comes, and whether its end is orderly.
    async fn rest(&mut self) -> (Vec<u8>, bool) {
        let mut all = Vec::new();
        soon(async {
            match self {
                Self::Http1(stream) => {
                    let orderly = stream.read_to_end(&mut all).await.is_ok();
                    (all, orderly)
                }
                Self::Http2 { body, left, .. } => {
                    all.extend_from_slice(left);
                    loop {
                        match body.data().await {
                            Some(Ok(data)) => all.extend_from_slice(&data),
                            Some(Err(_)) => return (all, false),
                            None => return (all, true),
                        }
                    }
                }
            }
        })
        .await
    }

    /// Breaks off.
    fn reset(self) {
        match self {
            Self::Http1(stream) => {
                socket2::SockRef::from(stream.get_ref()).set_linger(Some(std::time::Duration::ZERO)).unwrap();
            }
            Self::Http2 { mut send, .. } => send.send_reset(h2::Reason::CANCEL),
        }
    }
}

async fn app(native: bool, does: Does) -> (SocketAddr, mpsc::UnboundedReceiver<String>, JoinSet<()>) {
    if native { app_http2(does, true).await } else { app_http1(does).await }
}

const fn declared(native: bool) -> Protocol {
    if native { Protocol::Http2 } else { Protocol::Http1 }
}

/// All pairs of versions in all places.
fn matrix() -> impl Iterator<Item = (Between, bool, bool)> {
    [Between::One, Between::Two, Between::Hbone].into_iter().flat_map(|between| {
        [(between, false, false), (between, false, true), (between, true, false), (between, true, true)]
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bytes_flow_both_ways_between_any_two_versions_and_each_way_ends_by_itself() {
    let big: Vec<u8> = (0..3_000_000_u32).flat_map(|n| n.to_le_bytes()[..2].to_vec()).collect();
    for (between, client, server) in matrix() {
        let (at, mut heard, _tasks) = app(server, Does::Echo).await;
        let stage = stage(between, at, declared(server)).await;
        let mut socket = Socket::open(client, stage.client.outbound, b"").await;
        let head = soon(heard.recv()).await.unwrap();
        let lower = head.to_ascii_lowercase();
        assert!(lower.contains("sec-websocket-version") && lower.contains("http://shop"), "{head}");
        assert_eq!(lower.contains("sec-websocket-key"), !server, "{head}");
        if server {
            assert!(head.starts_with("CONNECT /chat Some(\"websocket\")"), "{head}");
            assert!(!lower.contains("\"upgrade\"") && !lower.contains("\"connection\""), "{head}");
        } else {
            assert!(head.starts_with("GET /chat?a=b HTTP/1.1"), "{head}");
            assert!(lower.contains("\nconnection: upgrade") && !lower.contains("transfer-encoding"), "{head}");
        }
        socket.echo(b"hello").await;
        socket.echo(&big).await;
        socket.finish().await;
        assert_eq!(soon(heard.recv()).await.as_deref(), Some("end"), "{between:?} {client} {server}");
        assert_eq!(socket.rest().await, (b"bye".to_vec(), true), "{between:?} {client} {server}");
        let line = stage.client.logged("/chat").await.remove(0);
        let status = if client { 200 } else { 101 };
        assert_eq!(
            (&line["status"], &line["method"], &line["protocol"]),
            (&status.into(), &"GET".into(), &"websocket".into())
        );
        assert_eq!(line["bytesSent"], 5 + 6_000_000 + 3, "{line}");
    }
}

#[tokio::test]
async fn what_a_client_sends_before_the_answer_waits_for_it_and_arrives() {
    let early = vec![7; 200_000];
    for (between, client, server) in matrix() {
        let (at, _heard, _tasks) = app(server, Does::Echo).await;
        let stage = stage(between, at, declared(server)).await;
        // More than a sidecar reads ahead of HTTP/1.1 would block this client, which reads nothing before it has written.
        let early = if client { &early[..60_000] } else { &early[..4000] };
        let mut socket = Socket::open(client, stage.client.outbound, early).await;
        socket.finish().await;
        let (rest, orderly) = socket.rest().await;
        assert!(orderly && rest == [early, b"bye"].concat(), "{between:?} {client} {server}: {}", rest.len());
    }
}

#[tokio::test]
async fn a_reset_of_either_side_is_one_for_the_other() {
    for (between, client, server) in matrix() {
        let (at, mut heard, _tasks) = app(server, Does::Echo).await;
        let stage = self::stage(between, at, declared(server)).await;
        let mut socket = Socket::open(client, stage.client.outbound, b"").await;
        socket.echo(b"hello").await;
        soon(heard.recv()).await.unwrap();
        socket.reset();
        let told = soon(heard.recv()).await.unwrap();
        assert!(told.starts_with("broken"), "{between:?} {client} {server}: {told}");

        let (at, _heard, _tasks) = app(server, Does::Reset).await;
        let stage = self::stage(between, at, declared(server)).await;
        let mut socket = Socket::open(client, stage.client.outbound, b"go").await;
        assert_eq!(socket.rest().await, (Vec::new(), false), "{between:?} {client} {server}");
        let line = stage.client.logged("/chat").await.remove(0);
        assert_eq!(line["reason"], "upstream_reset", "{line}");
    }
}

#[tokio::test]
async fn an_application_that_does_not_take_websockets_over_http2_is_not_asked() {
    for between in [Between::One, Between::Two, Between::Hbone] {
        let (at, mut heard, _tasks) = app_http2(Does::Echo, false).await;
        let stage = stage(between, at, Protocol::Grpc).await;
        let answer = Client::connect(stage.client.outbound).await.send(&upgrade(KEY)).await;
        assert_eq!((answer.status(), answer.header("weft-error")), (501, Some("unsupported")), "{answer:?}");
        assert!(answer.body.contains("SETTINGS_ENABLE_CONNECT_PROTOCOL"), "{}", answer.body);
        let (mut client, _driver) = h2_client(stage.client.outbound).await;
        let (response, _send) = client.send_request(extended(), false).unwrap();
        assert_eq!(soon(response).await.unwrap().status(), 501);
        assert!(heard.try_recv().is_err(), "{between:?}: it saw a call");
    }
}

#[tokio::test]
async fn what_is_no_handshake_is_refused_before_it_reaches_an_application_of_another_version() {
    let (at, mut heard, _tasks) = app_http2(Does::Echo, true).await;
    let stage = stage(Between::One, at, Protocol::Http2).await;
    for key in ["", "c2hvcnQ=", "dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="] {
        let answer = Client::connect(stage.client.outbound).await.send(&upgrade(key)).await;
        assert_eq!((answer.status(), answer.header("weft-error")), (400, Some("bad-request")), "{key}");
    }
    assert!(heard.try_recv().is_err());
}

/// What an HTTP/2 client gets from an application of HTTP/1.1 that answers the handshake like this; and what the application got besides.
async fn answered(between: Between, answer: &'static str) -> (u16, http::HeaderMap, Vec<u8>, Vec<u8>) {
    let (told, mut heard) = mpsc::channel(1);
    let (at, _tasks) = raw_server(move |stream| {
        let told = told.clone();
        async move {
            let mut stream = BufReader::new(stream);
            let Some(_) = read_head(&mut stream).await else { return };
            let _ = stream.write_all(answer.as_bytes()).await;
            let mut more = Vec::new();
            let _ = stream.read_to_end(&mut more).await;
            let _ = told.send(more).await;
        }
    })
    .await;
    let stage = stage(between, at, Protocol::Http1).await;
    let (mut client, driver) = h2_client(stage.client.outbound).await;
    let (response, mut send) = client.send_request(extended(), false).unwrap();
    send.send_data(Bytes::from_static(b"GET /smuggled HTTP/1.1\r\nHost: orders\r\n\r\n"), false).unwrap();
    let response = soon(response).await.unwrap();
    let (parts, mut body) = response.into_parts();
    let mut text = Vec::new();
    while let Some(Ok(data)) = soon(body.data()).await {
        text.extend_from_slice(&data);
    }
    drop((send, client, driver));
    // A connection that may carry another call is closed with the sidecars.
    drop(stage);
    (parts.status.as_u16(), parts.headers, text, soon(heard.recv()).await.unwrap())
}

#[tokio::test]
async fn an_application_that_did_not_understand_is_not_believed_and_nothing_early_reaches_it() {
    let plain = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
    let wrong = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\nHTTP/1.1 200 OK\r\n\r\n";
    let other = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: chat\r\nConnection: Upgrade\r\n\r\n";
    for between in [Between::One, Between::Two] {
        for answer in [plain, wrong, other] {
            let (status, headers, _, more) = answered(between, answer).await;
            assert_eq!((status, headers["weft-error"].as_bytes()), (502, &b"upstream-protocol"[..]), "{answer}");
            assert!(more.is_empty(), "{}", String::from_utf8_lossy(&more));
        }
        let refusal = "HTTP/1.1 426 Upgrade Required\r\nUpgrade: websocket\r\nConnection: Upgrade, X-Hop\r\nX-Hop: 1\r\nSec-WebSocket-Version: 13\r\nContent-Length: 2\r\n\r\nno";
        let (status, headers, body, more) = answered(between, refusal).await;
        assert_eq!((status, &body[..], headers["sec-websocket-version"].as_bytes()), (426, &b"no"[..], &b"13"[..]));
        assert!(!headers.contains_key("upgrade") && !headers.contains_key("x-hop") && more.is_empty());
    }
}

#[tokio::test]
async fn a_policy_that_speaks_of_get_holds_for_a_websocket_of_either_version() {
    let (methods, paths) = (vec!["GET".into()], vec!["/chat".into()]);
    let chat = v1::AuthorizationOperation { methods, paths, ..Default::default() };
    for (client, server) in [(false, true), (true, false), (true, true)] {
        let (at, mut heard, _tasks) = app(server, Does::Echo).await;
        let pair = pair(at, declared(server)).await;
        let denied = v1::Authorization {
            name: "shop/no-chat".into(),
            action: v1::Action::Deny.into(),
            rules: vec![v1::AuthorizationRule { to: vec![chat.clone()], ..Default::default() }],
        };
        let edit = |port: &mut v1::InboundPort| port.authorization = vec![denied];
        pair.server.update(inbound(&pair.mesh, "orders", at, declared(server), edit)).await;
        let status = if client {
            let (mut client, _driver) = h2_client(pair.client.outbound).await;
            let (response, _send) = client.send_request(extended(), false).unwrap();
            soon(response).await.unwrap().status().as_u16()
        } else {
            Client::connect(pair.client.outbound).await.send(&upgrade(KEY)).await.status()
        };
        assert_eq!(status, 403, "{client} {server}");
        assert!(heard.try_recv().is_err());
    }
}

#[tokio::test]
async fn another_protocol_is_switched_to_where_both_sides_speak_http2_only() {
    let (at, mut heard, _tasks) = app_http2(Does::Echo, true).await;
    let stage = self::stage(Between::Two, at, Protocol::Http2).await;
    let (mut client, _driver) = h2_client(stage.client.outbound).await;
    let chat = || {
        let mut request = extended();
        request.extensions_mut().insert(Extended::from_static("chat"));
        request
    };
    let (response, mut send) = client.send_request(chat(), false).unwrap();
    let mut body = soon(response).await.unwrap().into_body();
    assert!(soon(heard.recv()).await.unwrap().starts_with("CONNECT /chat Some(\"chat\")"));
    send.send_data(Bytes::from_static(b"hello"), true).unwrap();
    let mut all = Vec::new();
    while let Some(data) = soon(body.data()).await {
        all.extend_from_slice(&data.unwrap());
    }
    assert_eq!(all, b"hellobye");

    let (at, _heard, _tasks) = app_http1(Does::Echo).await;
    let stage = self::stage(Between::One, at, Protocol::Http1).await;
    let (mut client, _driver) = h2_client(stage.client.outbound).await;
    let (response, _send) = client.send_request(chat(), false).unwrap();
    assert_eq!(soon(response).await.unwrap().status(), 501);
}

#[tokio::test]
async fn an_answer_of_policy_is_no_consent() {
    let fixed = v1::FixedResponse { status: 200, content_type: "text/plain".into(), body: b"later".to_vec() };
    let to = Some(v1::fallback::To::Response(fixed));
    let mesh = Mesh::new();
    let frontend = v1::Frontend { fallback: Some(v1::Fallback { to }), ..Default::default() };
    let resources = v1::Resources {
        services: vec![service("orders", Protocol::Http1, |port| port.frontend = Some(frontend))],
        endpoints: vec![slice("orders", vec![])],
        ..Default::default()
    };
    let sidecar = mesh.sidecar("storefront", resources).await;
    let (mut client, _driver) = h2_client(sidecar.outbound).await;
    let (response, _send) = client.send_request(extended(), false).unwrap();
    assert_eq!(soon(response).await.unwrap().status(), 503);
    let answer = Client::connect(sidecar.outbound).await.send(&upgrade(KEY)).await;
    assert_eq!((answer.status(), answer.body.as_str()), (200, "later"), "which is none in HTTP/1.1");
}
