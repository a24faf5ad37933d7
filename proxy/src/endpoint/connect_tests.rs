//! Connections to applications and sidecars on loopback: reuse, deadlines, limits, and what an error says about what was sent.

use super::*;
use crate::codec::{Frame, RequestHead};
use crate::error::Sent;
use bytes::Bytes;
use http::Method;
use std::time::SystemTime;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use weft_certs::{Identity, LiveIdentity, MeshCa, TrustDomain};

pub(in crate::endpoint) fn mesh() -> MeshCa {
    MeshCa::ephemeral(&TrustDomain::new("weft.local").expect("valid"), SystemTime::now()).expect("a CA")
}

pub(in crate::endpoint) fn identity(ca: &MeshCa, account: &str) -> Arc<LiveIdentity> {
    let id = SpiffeId::workload(ca.trust_domain(), "shop", account).expect("valid");
    let svid = ca.issue(&id, None, SystemTime::now()).expect("issued");
    LiveIdentity::new(Identity::new(svid, ca.bundle()))
}

fn connector() -> Connector {
    connector_with(Settings::default())
}

fn connector_with(settings: Settings) -> Connector {
    Connector::new(settings, Some(Arc::new(ClientConfigs::new(identity(&mesh(), "storefront")))))
}

fn plain(addr: SocketAddr) -> Target {
    Target {
        uid: "shop/catalog-1".into(),
        addr,
        from: None,
        tunnel: None,
        connect_timeout: Duration::from_secs(5),
        connections: Arc::new(ConnectionLimit::new(100)),
    }
}

async fn listener() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
    let addr = listener.local_addr().expect("an address");
    (listener, addr)
}

async fn read_head(tcp: &mut TcpStream) -> String {
    let mut text = Vec::new();
    while !text.ends_with(b"\r\n\r\n") {
        assert!(tcp.read_buf(&mut text).await.expect("read") > 0, "closed");
    }
    String::from_utf8(text).expect("text")
}

async fn get(upstream: &mut Upstream, path: &str) -> Result<(u16, Vec<u8>), ProxyError> {
    upstream.send_head(&RequestHead::new(Method::GET, "catalog", path), true).await?;
    let (_, mut recv) = upstream.split();
    let head = recv.head().await?;
    let mut body = Vec::new();
    while let Some(frame) = recv.frame().await {
        if let Frame::Data(data) = frame? {
            body.extend_from_slice(&data);
        }
    }
    Ok((head.status.as_u16(), body))
}

#[tokio::test]
async fn a_connection_is_reused_after_a_clean_exchange_and_only_then() {
    let (listener, addr) = listener().await;
    let serving = async {
        let (mut first, _) = listener.accept().await.expect("accepted");
        for answer in
            ["HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokjunk"]
        {
            read_head(&mut first).await;
            first.write_all(answer.as_bytes()).await.expect("written");
        }
        let (mut second, _) = listener.accept().await.expect("accepted");
        read_head(&mut second).await;
        second.write_all(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nto the end").await.expect("written");
        drop(second);
        let (mut third, _) = listener.accept().await.expect("accepted");
        read_head(&mut third).await;
        third.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await.expect("written");
        third
    };
    let connector = connector();
    let target = plain(addr);
    let asking = async {
        for (expected, idle) in [(&b"ok"[..], 1), (b"ok", 0), (b"to the end", 0), (b"", 1)] {
            let mut upstream = connector.http(&target, Protocol::Http1).await.expect("connected");
            assert_eq!(get(&mut upstream, "/").await.expect("answered").1, expected);
            drop(upstream);
            assert_eq!(connector.open().0, idle, "after {:?}", String::from_utf8_lossy(expected));
        }
    };
    let (third, ()) = tokio::join!(serving, asking);
    assert_eq!(target.connections.open(), 1, "permits follow the connections");
    drop(third);
    drop(connector);
}

#[tokio::test]
async fn a_connection_that_was_closed_while_it_idled_is_not_used_again() {
    let (listener, addr) = listener().await;
    let connector = connector();
    let target = plain(addr);
    let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
    let mut upstream = connector.http(&target, Protocol::Http1).await.expect("connected");
    let (mut tcp, _) = listener.accept().await.expect("accepted");
    let (_, result) = tokio::join!(
        async {
            read_head(&mut tcp).await;
            tcp.write_all(answer).await.expect("written");
        },
        get(&mut upstream, "/")
    );
    result.expect("answered");
    drop(upstream);
    assert_eq!(connector.open().0, 1);
    drop(tcp);
    connector.0.pools.sweep(connector.0.dialer.generation());
    assert_eq!((connector.open().0, target.connections.open()), (0, 0), "swept");
    let mut upstream = connector.http(&target, Protocol::Http1).await.expect("connected anew");
    let (mut tcp, _) = listener.accept().await.expect("accepted");
    // Closed with the request read and nothing answered: whether it was processed cannot be told.
    let (_, result) = tokio::join!(
        async {
            read_head(&mut tcp).await;
            drop(tcp);
        },
        get(&mut upstream, "/")
    );
    let error = result.expect_err("closed");
    assert_eq!((error.kind, error.sent), (Kind::UpstreamClosed, Sent::Unknown), "{error}");
}

#[tokio::test]
async fn a_pooled_connection_that_dies_under_a_request_is_told_from_an_ill_endpoint() {
    let (listener, addr) = listener().await;
    let connector = connector();
    let target = plain(addr);
    let serving = async {
        let (mut tcp, _) = listener.accept().await.expect("accepted");
        read_head(&mut tcp).await;
        tcp.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await.expect("written");
        read_head(&mut tcp).await;
    };
    let asking = async {
        let mut upstream = connector.http(&target, Protocol::Http1).await.expect("connected");
        get(&mut upstream, "/1").await.expect("answered");
        drop(upstream);
        let mut upstream = connector.http(&target, Protocol::Http1).await.expect("reused");
        get(&mut upstream, "/2").await.expect_err("closed")
    };
    let ((), error) = tokio::join!(serving, asking);
    assert_eq!((error.kind, error.sent), (Kind::Refused, Sent::Unknown), "{error}");
}

#[tokio::test]
async fn a_response_that_breaks_off_is_an_error_and_not_an_end() {
    for (answer, kind) in [
        (&b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nshort"[..], Kind::UpstreamClosed),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n", Kind::UpstreamClosed),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", Kind::UpstreamProtocol),
        (b"HTTP/1.1 200 OK\r\nX: 1\n\r\n", Kind::UpstreamProtocol),
        (b"HTTP/1.1 101 Switching\r\n\r\n", Kind::UpstreamProtocol),
        (b"HTTP/1.1 200", Kind::UpstreamClosed),
    ] {
        let (listener, addr) = listener().await;
        let connector = connector();
        let mut upstream = connector.http(&plain(addr), Protocol::Http1).await.expect("connected");
        let serving = async {
            let (mut tcp, _) = listener.accept().await.expect("accepted");
            read_head(&mut tcp).await;
            tcp.write_all(answer).await.expect("written");
        };
        let ((), result) = tokio::join!(serving, get(&mut upstream, "/"));
        let error = result.expect_err("broken");
        assert_eq!((error.kind, error.sent), (kind, Sent::Sent), "{}", String::from_utf8_lossy(answer));
        drop(upstream);
        assert_eq!(connector.open().0, 0);
    }
}

#[tokio::test]
async fn an_answer_before_the_body_is_read_to_its_end_and_the_connection_dropped() {
    let (listener, addr) = listener().await;
    let connector = connector();
    let mut upstream = connector.http(&plain(addr), Protocol::Http1).await.expect("connected");
    let serving = async {
        let (mut tcp, _) = listener.accept().await.expect("accepted");
        read_head(&mut tcp).await;
        tcp.write_all(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 413 Too Big\r\nContent-Length: 3\r\n\r\nbig")
            .await
            .expect("written");
        let mut rest = Vec::new();
        let _ = tcp.read_to_end(&mut rest).await;
        rest
    };
    let asking = async {
        let head = RequestHead::new(Method::POST, "catalog", "/");
        upstream.send_head(&head, false).await.expect("queued");
        let (mut send, mut recv) = upstream.split();
        assert_eq!(recv.head().await.expect("informational").status, 100);
        send.data(Bytes::from_static(b"some")).await.expect("sent");
        assert_eq!(recv.head().await.expect("final").status, 413);
        assert!(matches!(recv.frame().await, Some(Ok(Frame::Data(data))) if data == "big"));
        assert!(recv.frame().await.is_none() && recv.is_end());
        drop(upstream);
        assert_eq!(connector.open().0, 0, "the request was not finished");
    };
    let (rest, ()) = tokio::join!(serving, asking);
    assert!(rest.is_empty() || rest == b"4\r\nsome\r\n", "no orderly end: {}", String::from_utf8_lossy(&rest));
}

#[tokio::test]
async fn an_upgraded_attempt_becomes_bytes() {
    let (listener, addr) = listener().await;
    let connector = connector();
    let target = plain(addr);
    let mut upstream = connector.http(&target, Protocol::Http1).await.expect("connected");
    let serving = async {
        let (mut tcp, _) = listener.accept().await.expect("accepted");
        let head = read_head(&mut tcp).await;
        assert!(head.contains("Upgrade: websocket\r\n") && head.contains("Connection: Upgrade\r\n"), "{head}");
        tcp.write_all(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\nhello")
            .await
            .expect("written");
        let mut text = String::new();
        tcp.read_to_string(&mut text).await.expect("read");
        text
    };
    let asking = async {
        let mut head = RequestHead::new(Method::GET, "catalog", "/");
        head.upgrade = true;
        head.protocol = Some(ByteStr::from("websocket"));
        head.headers.append_raw(
            http::header::UPGRADE,
            Bytes::from_static(b"Upgrade"),
            http::HeaderValue::from_static("websocket"),
        );
        upstream.send_head(&head, true).await.expect("sent");
        assert_eq!(upstream.split().1.head().await.expect("answered").status, 101);
        let mut io = upstream.into_io().expect("switched");
        let mut text = [0; 5];
        io.read_exact(&mut text).await.expect("read");
        assert_eq!(&text, b"hello");
        io.write_all(b"there").await.expect("written");
        io.shutdown().await.expect("half closed");
        io
    };
    let (text, io) = tokio::join!(serving, asking);
    assert_eq!(text, "there");
    assert_eq!(target.connections.open(), 1);
    drop(io);
    assert_eq!(target.connections.open(), 0);
}

#[tokio::test]
async fn what_cannot_be_reached_is_unsent_and_says_why() {
    let (listener, addr) = listener().await;
    drop(listener);
    let error = connector().http(&plain(addr), Protocol::Http1).await.err().expect("refused");
    assert_eq!((error.kind, error.sent), (Kind::ConnectFailed, Sent::NotSent), "{error}");
    assert!(error.explanation().contains(&addr.to_string()), "{error}");
}

#[tokio::test]
async fn one_deadline_covers_the_settings_too() {
    let (listener, addr) = listener().await;
    let target = Target { connect_timeout: Duration::from_millis(80), ..plain(addr) };
    // The kernel accepts, nobody answers.
    let error = connector().http(&target, Protocol::Http2).await.err().expect("too late");
    assert_eq!(error.kind, Kind::ConnectTimeout, "{error}");
    drop(listener);
}

#[tokio::test]
async fn the_sidecar_never_dials_itself() {
    let own: SocketAddr = "127.0.0.1:15001".parse().expect("valid");
    let wide: SocketAddr = "0.0.0.0:15008".parse().expect("valid");
    let connector = connector_with(Settings { own: vec![own, wide], ..Settings::default() });
    for addr in ["127.0.0.1:15001", "[::ffff:127.0.0.1]:15001", "0.0.0.0:15001", "127.0.0.1:15008", "0.0.0.0:15008"] {
        let target = plain(addr.parse().expect("valid"));
        let error = connector.tcp(&target).await.expect_err("refused");
        assert_eq!(error.kind, Kind::ForbiddenDestination, "{addr}");
    }
}

#[tokio::test]
async fn connections_beyond_the_limit_overflow_and_idle_ones_make_room() {
    let (listener, addr) = listener().await;
    let connector = connector();
    let target = Target { connections: Arc::new(ConnectionLimit::new(1)), ..plain(addr) };
    let held = connector.tcp(&target).await.expect("connected");
    let error = connector.http(&target, Protocol::Http1).await.err().expect("over the limit");
    assert_eq!(error.kind, Kind::Overflow, "{error}");
    drop(held);
    let _first = listener.accept().await.expect("accepted");
    let mut upstream = connector.http(&target, Protocol::Http1).await.expect("connected");
    let (mut tcp, _) = listener.accept().await.expect("accepted");
    let (_, result) = tokio::join!(
        async {
            read_head(&mut tcp).await;
            tcp.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await.expect("written");
        },
        get(&mut upstream, "/")
    );
    result.expect("answered");
    drop(upstream);
    assert_eq!((connector.open().0, target.connections.open()), (1, 1));
    connector.tcp(&target).await.expect("the idle one made room");
}

#[tokio::test]
async fn backends_with_an_endpoint_in_common_keep_to_their_own_connections() {
    let (listener, addr) = listener().await;
    let serving = async {
        let mut open = Vec::new();
        for _ in 0..2 {
            let (mut tcp, _) = listener.accept().await.expect("accepted");
            read_head(&mut tcp).await;
            tcp.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await.expect("written");
            open.push(tcp);
        }
        open
    };
    let connector = connector();
    let narrow = Target { connections: Arc::new(ConnectionLimit::new(1)), ..plain(addr) };
    let wide = plain(addr);
    let asking = async {
        for target in [&narrow, &wide] {
            let mut upstream = connector.http(target, Protocol::Http1).await.expect("connected");
            get(&mut upstream, "/").await.expect("answered");
        }
    };
    let (_open, ()) = tokio::join!(serving, asking);
    assert_eq!((narrow.connections.open(), wide.connections.open()), (1, 1));
    let _of_wide = connector.ready(&wide, Protocol::Http1).expect("its own idles");
    assert!(connector.ready(&wide, Protocol::Http1).is_none(), "that of another is not its own");
    let _of_narrow = connector.ready(&narrow, Protocol::Http1).expect("nobody took it");
    let error = connector.http(&narrow, Protocol::Http1).await.err().expect("over its limit");
    assert_eq!(error.kind, Kind::Overflow, "{error}");
}
