//! HBONE end to end over mTLS on loopback: half-close both ways, many streams at once, GOAWAY under way, cancellation, refusals, and
//! the virtual connections that HTTP/1.1 is pooled over.

use super::*;
use crate::codec::{Frame, Timers, h1};
use crate::endpoint::connect::tests::{identity, mesh};
use crate::endpoint::connect::{ConnectionLimit, Connector, Protocol, Settings, Target};
use crate::endpoint::tls_io;
use http::header;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};
use tokio_util::task::AbortOnDropHandle;
use weft_certs::tls::{ALPN_HBONE, ALPN_NATIVE, ClientAuth, ClientConfigs, peer_identity_of, server_config};
use weft_certs::{LiveIdentity, MeshCa};

/// Serves by the port of the authority.
struct Sidecar {
    peer: String,
    limits: Limits,
    drain: CancellationToken,
    streams: Arc<AtomicUsize>,
}

impl Tunnels for Sidecar {
    async fn tunnel<'c>(&'c self, connect: Connect, answer: Answer<'c>) {
        let port = connect.authority.rsplit(':').next().unwrap_or_default().to_owned();
        if port == "404" {
            let _ = answer.refuse(StatusCode::NOT_FOUND, "unknown-port").await;
            return;
        }
        let Ok(mut io) = answer.accept().await else { return };
        let _open = Open::new(&self.streams);
        match port.as_str() {
            "80" => {
                let _ = h1::serve(io, &self.limits, &Timers::default(), &self.drain.clone().into(), self).await;
            }
            "7" => {
                let (mut read, mut write) = tokio::io::split(&mut io);
                if tokio::io::copy(&mut read, &mut write).await.is_ok() {
                    let _ = write.write_all(b" and out").await;
                    let _ = write.shutdown().await;
                }
            }
            "13" => {
                let text = format!("{} for {}", self.peer, connect.source().unwrap_or("nobody"));
                let _ = io.write_all(text.as_bytes()).await;
                let _ = io.shutdown().await;
                let mut rest = Vec::new();
                let _ = io.read_to_end(&mut rest).await;
            }
            _ => {
                let mut byte = [0; 1];
                let _ = io.read(&mut byte).await;
            }
        }
    }
}

/// Counts a stream until its service ends, in whatever way.
struct Open(Arc<AtomicUsize>);

impl Open {
    fn new(count: &Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Ordering::SeqCst);
        Self(count.clone())
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Handler for Sidecar {
    async fn call<'c>(&'c self, head: RequestHead, mut body: RequestBody<'c>, mut reply: Reply<'c>) {
        let mut response = ResponseHead::new(StatusCode::OK);
        response.reason = Some(bytes::Bytes::from_static(b"Fine By Me"));
        for field in head.headers.iter().filter(|field| field.name.as_str().starts_with("x-")) {
            let raw = bytes::Bytes::copy_from_slice(field.raw);
            response.headers.append_raw(field.name.clone(), raw, field.value.to_header_value().expect("valid"));
        }
        let outcome = async {
            reply.send_head(response, false).await?;
            while let Some(frame) = reply.while_open(body.frame()).await? {
                if let Frame::Data(data) = frame? {
                    reply.data(data).await?;
                }
            }
            reply.finish().await.map_err(ProxyError::from)
        };
        let _: Result<(), ProxyError> = outcome.await;
    }
}

struct Rig {
    ca: MeshCa,
    server: Arc<LiveIdentity>,
    tunnel: SocketAddr,
    streams: Arc<AtomicUsize>,
    connections: Arc<AtomicUsize>,
    drain: CancellationToken,
    _task: AbortOnDropHandle<()>,
}

async fn rig() -> Rig {
    let ca = mesh();
    let server = identity(&ca, "catalog");
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
    let tunnel = listener.local_addr().expect("an address");
    let config = server_config(&server, ClientAuth::Required, &[ALPN_HBONE, ALPN_NATIVE]).expect("a configuration");
    let (streams, connections) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let drain = CancellationToken::new();
    let (count, opened, token) = (streams.clone(), connections.clone(), drain.clone());
    let task = tokio::spawn(async move {
        let mut serving = JoinSet::new();
        while let Ok((tcp, _)) = listener.accept().await {
            let (config, streams, drain, opened) = (config.clone(), count.clone(), token.clone(), opened.clone());
            serving.spawn(async move {
                let deadline = Instant::now() + Duration::from_secs(10);
                let Ok((io, shaken)) = tls_io::accept(Io::from(tcp), config, deadline).await else { return };
                opened.fetch_add(1, Ordering::SeqCst);
                let peer = peer_identity_of(&shaken.peer).map(|id| id.to_string()).unwrap_or_default();
                let sidecar = Sidecar { peer, limits: Limits::default(), drain: drain.clone(), streams };
                let limits = Limits { max_streams: 2000, ..Limits::default() };
                let _ = match shaken.alpn.as_deref() {
                    Some(ALPN_NATIVE) => h2::serve(io, &limits, &drain, &sidecar).await.map_err(ProxyError::from),
                    _ => serve(io, &limits, &drain, &sidecar).await,
                };
            });
        }
    });
    Rig { ca, server, tunnel, streams, connections, drain, _task: AbortOnDropHandle::new(task) }
}

impl Rig {
    fn connector(&self) -> Connector {
        let settings = Settings { source: "shop/storefront".into(), ..Settings::default() };
        Connector::new(settings, Some(Arc::new(ClientConfigs::new(identity(&self.ca, "storefront")))))
    }

    fn target(&self, port: u16) -> Target {
        let addr = SocketAddr::from(([192, 0, 2, 7], port));
        Target {
            uid: "shop/catalog-1".into(),
            addr,
            from: None,
            tunnel: Some(TunnelTo {
                addr: self.tunnel,
                identity: self.server.id().clone(),
                server_name: format!("{port}.catalog.shop.svc.cluster.local").into(),
                authority: ByteStr::from(addr.to_string()),
            }),
            connect_timeout: Duration::from_secs(10),
            connections: Arc::new(ConnectionLimit::new(5000)),
        }
    }

    async fn until_streams(&self, count: usize) {
        let reached = async {
            while self.streams.load(Ordering::SeqCst) != count {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        let seen = || self.streams.load(Ordering::SeqCst);
        timeout(Duration::from_secs(20), reached).await.unwrap_or_else(|_| panic!("{} instead of {count}", seen()));
    }
}

async fn read_all(io: &mut Io) -> String {
    let mut text = Vec::new();
    timeout(Duration::from_secs(20), io.read_to_end(&mut text)).await.expect("in time").expect("read");
    String::from_utf8(text).expect("text")
}

#[tokio::test]
async fn either_side_may_close_first_and_the_other_goes_on() {
    let rig = rig().await;
    let connector = rig.connector();
    let mut io = connector.tcp(&rig.target(7)).await.expect("open");
    io.write_all(b"in").await.expect("written");
    io.shutdown().await.expect("half closed");
    assert_eq!(read_all(&mut io).await, "in and out");
    let mut io = connector.tcp(&rig.target(13)).await.expect("open");
    assert_eq!(read_all(&mut io).await, "spiffe://weft.local/ns/shop/sa/storefront for shop/storefront");
    io.write_all(b"still listening").await.expect("written");
    rig.until_streams(1).await;
    io.shutdown().await.expect("half closed");
    rig.until_streams(0).await;
}

#[tokio::test]
async fn a_thousand_streams_share_a_few_connections() {
    let rig = rig().await;
    let connector = rig.connector();
    let target = rig.target(7);
    let mut asking = JoinSet::new();
    for number in 0..1000 {
        let (connector, target) = (connector.clone(), target.clone());
        asking.spawn(async move {
            let mut io = connector.tcp(&target).await.expect("open");
            let text = format!("number {number}");
            io.write_all(text.as_bytes()).await.expect("written");
            io.shutdown().await.expect("half closed");
            assert_eq!(read_all(&mut io).await, format!("{text} and out"));
        });
    }
    while let Some(done) = timeout(Duration::from_secs(60), asking.join_next()).await.expect("in time") {
        done.expect("whole");
    }
    let opened = rig.connections.load(Ordering::SeqCst);
    assert!((1..=4).contains(&opened), "{opened} connections");
    assert_eq!(target.connections.open(), 0);
    rig.until_streams(0).await;
}

#[tokio::test]
async fn bulk_passes_whole_and_does_not_stand_in_the_way() {
    let rig = rig().await;
    let connector = rig.connector();
    let mut bulk = connector.tcp(&rig.target(7)).await.expect("open");
    let data: Vec<u8> = (0..8 << 20).map(|n: u32| (n % 251) as u8).collect();
    let (mut read, mut write) = tokio::io::split(&mut bulk);
    let sending = async {
        write.write_all(&data).await.expect("written");
        write.shutdown().await.expect("half closed");
    };
    let mut echoed = Vec::new();
    let receiving = async { timeout(Duration::from_secs(60), read.read_to_end(&mut echoed)).await };
    let small = async {
        for _ in 0..20 {
            let mut io = connector.tcp(&rig.target(13)).await.expect("open");
            assert!(read_all(&mut io).await.contains("storefront"));
        }
    };
    let ((), received, ()) = tokio::join!(sending, receiving, small);
    received.expect("in time").expect("read");
    assert!(echoed.strip_suffix(b" and out") == Some(&data[..]), "{} bytes", echoed.len());
}

#[tokio::test]
async fn a_stream_that_is_dropped_is_reset_and_the_others_live() {
    let rig = rig().await;
    let connector = rig.connector();
    let first = connector.tcp(&rig.target(9)).await.expect("open");
    let second = connector.tcp(&rig.target(9)).await.expect("open");
    rig.until_streams(2).await;
    drop(first);
    rig.until_streams(1).await;
    drop(second);
    rig.until_streams(0).await;
}

#[tokio::test]
async fn a_refusal_is_an_error_that_says_why_and_nothing_was_sent() {
    let rig = rig().await;
    let error = rig.connector().tcp(&rig.target(404)).await.expect_err("refused");
    assert_eq!((error.kind, error.sent), (Kind::TunnelRefused, Sent::NotSent), "{error}");
    assert!(error.explanation().contains("404 unknown-port"), "{error}");
}

#[tokio::test]
async fn a_peer_with_another_identity_is_not_talked_to() {
    let rig = rig().await;
    let mut target = rig.target(7);
    if let Some(tunnel) = &mut target.tunnel {
        tunnel.identity = identity(&rig.ca, "payments").id().clone();
    }
    let error = rig.connector().tcp(&target).await.expect_err("an impostor");
    assert_eq!((error.kind, error.sent), (Kind::TlsFailed, Sent::NotSent), "{error}");
    let stranger =
        Connector::new(Settings::default(), Some(Arc::new(ClientConfigs::new(identity(&mesh(), "storefront")))));
    let error = stranger.tcp(&rig.target(7)).await.expect_err("no common root");
    assert_eq!(error.kind, Kind::TlsFailed, "{error}");
}

/// `(x-headers as they arrived, reason, body)` of an echo.
async fn echo(
    connector: &Connector,
    target: &Target,
    protocol: Protocol,
    body: &'static str,
) -> (String, String, String) {
    let mut upstream = connector.http(target, protocol).await.expect("connected");
    let mut head = RequestHead::new(Method::POST, "catalog.shop", "/");
    head.headers.append_raw(
        HeaderName::from_static("x-mixed"),
        bytes::Bytes::from_static(b"X-mIxEd"),
        HeaderValue::from_static("1"),
    );
    head.headers.append(header::CONTENT_LENGTH, HeaderValue::from(body.len()));
    upstream.send_head(&head, false).await.expect("sent");
    let (mut send, mut recv) = upstream.split();
    send.data(bytes::Bytes::from_static(body.as_bytes())).await.expect("sent");
    send.finish().await.expect("sent");
    let head = timeout(Duration::from_secs(20), recv.head()).await.expect("in time").expect("answered");
    let mut text = String::new();
    while let Some(frame) = recv.frame().await {
        if let Frame::Data(data) = frame.expect("whole") {
            text.push_str(std::str::from_utf8(&data).expect("text"));
        }
    }
    let names = head.headers.iter().filter(|f| f.name.as_str().starts_with("x-"));
    let names: Vec<_> = names.map(|field| String::from_utf8_lossy(field.raw).into_owned()).collect();
    (names.join(","), String::from_utf8_lossy(&head.reason.unwrap_or_default()).into_owned(), text)
}

#[tokio::test]
async fn http1_runs_over_virtual_connections_that_are_reused() {
    let rig = rig().await;
    let connector = rig.connector();
    let target = rig.target(80);
    for _ in 0..5 {
        let (names, reason, body) = echo(&connector, &target, Protocol::Http1, "hello").await;
        assert_eq!((names.as_str(), reason.as_str(), body.as_str()), ("X-mIxEd", "Fine By Me", "hello"));
    }
    assert_eq!(connector.open(), (1, 1), "one virtual connection in one connection");
    assert_eq!(rig.streams.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn calls_run_as_native_streams() {
    let rig = rig().await;
    let connector = rig.connector();
    let target = rig.target(80);
    for _ in 0..5 {
        let (names, _, body) = echo(&connector, &target, Protocol::Http2, "hello").await;
        assert_eq!((names.as_str(), body.as_str()), ("x-mixed", "hello"));
    }
    assert_eq!(connector.open(), (0, 1));
    assert_eq!(rig.streams.load(Ordering::SeqCst), 0, "no CONNECT");
}

#[tokio::test]
async fn connections_of_native_streams_count_for_the_limit_and_idle_ones_make_room() {
    let (one, two) = (rig().await, rig().await);
    let connections = Arc::new(ConnectionLimit::new(1));
    // One backend, whose two endpoints have one identity.
    let connector = one.connector();
    let first = Target { connections: connections.clone(), ..one.target(80) };
    let second =
        |port| Target { connections: connections.clone(), tunnel: one.target(port).tunnel, ..two.target(port) };
    let held = connector.http(&first, Protocol::Http2).await.expect("connected");
    let error = connector.http(&second(81), Protocol::Http2).await.err().expect("over the limit");
    assert_eq!(error.kind, Kind::Overflow, "{error}");
    connector.http(&first, Protocol::Http2).await.expect("calls share the connection that there is");
    drop(held);
    let (_, _, body) = echo(&connector, &second(81), Protocol::Http2, "hello").await;
    assert_eq!((body.as_str(), connections.open()), ("hello", 1), "the idle one made room");
    assert_eq!(connector.open(), (0, 1));
}

#[tokio::test]
async fn a_goaway_lets_open_streams_finish_drops_idle_ones_and_is_dialled_around() {
    let rig = rig().await;
    let connector = rig.connector();
    let target = rig.target(80);
    echo(&connector, &target, Protocol::Http1, "before").await;
    let mut open = connector.tcp(&rig.target(7)).await.expect("open");
    open.write_all(b"half").await.expect("written");
    rig.until_streams(2).await;
    rig.drain.cancel();
    // The idle virtual connection is given up because of the GOAWAY alone; the open stream is not.
    rig.until_streams(1).await;
    open.write_all(b" and half").await.expect("written");
    open.shutdown().await.expect("half closed");
    assert_eq!(read_all(&mut open).await, "half and half and out");
    rig.until_streams(0).await;
    let before = rig.connections.load(Ordering::SeqCst);
    echo(&connector, &target, Protocol::Http1, "after").await;
    assert!(rig.connections.load(Ordering::SeqCst) > before, "another connection was made");
}

#[tokio::test]
async fn a_renewed_identity_takes_new_connections() {
    let rig = rig().await;
    let live = identity(&rig.ca, "storefront");
    let connector = Connector::new(Settings::default(), Some(Arc::new(ClientConfigs::new(live.clone()))));
    echo(&connector, &rig.target(80), Protocol::Http2, "before").await;
    let renewed = rig.ca.issue(live.id(), None, std::time::SystemTime::now()).expect("issued");
    live.replace_svid(renewed).expect("the same id");
    echo(&connector, &rig.target(80), Protocol::Http2, "after").await;
    assert_eq!(rig.connections.load(Ordering::SeqCst), 2);
}
