//! The accepting end on real sockets.

use super::*;
use crate::Frame;
use std::sync::Arc;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// Answers by path; see each arm.
struct App;

impl Handler for App {
    async fn call<'c>(&'c self, head: RequestHead, mut body: RequestBody<'c>, mut reply: Reply<'c>) {
        let mut response = ResponseHead::new(StatusCode::OK);
        let outcome = async {
            match head.path.as_str() {
                "/hold" => {
                    let gone = reply.while_open(std::future::pending::<()>()).await;
                    assert_eq!(gone.expect_err("never ready").kind, Kind::ClientGone);
                    return Ok(());
                }
                "/upgrade" => {
                    response.status = StatusCode::SWITCHING_PROTOCOLS;
                    response.headers.append(header::UPGRADE, HeaderValue::from_static("echo"));
                    reply.send_head(response, false).await?;
                    let mut io = reply.into_io(body).await?;
                    let (mut read, mut write) = tokio::io::split(&mut io);
                    let _ = tokio::io::copy(&mut read, &mut write).await;
                    let _ = io.shutdown().await;
                    return Ok(());
                }
                "/early" => {
                    response.status = StatusCode::PAYLOAD_TOO_LARGE;
                    return reply.send_head(response, true).await;
                }
                "/hint" => {
                    let mut hint = ResponseHead::new(StatusCode::from_u16(103).expect("valid"));
                    hint.headers.append(header::LINK, HeaderValue::from_static("</a>"));
                    reply.informational(hint).await?;
                }
                _ => {}
            }
            response
                .headers
                .append(HeaderName::from_static("x-path"), HeaderValue::from_str(&head.path).expect("valid"));
            let length = body.known_length();
            if let Some(length) = length.filter(|_| head.path != "/chunked") {
                response.headers.append(header::CONTENT_LENGTH, HeaderValue::from(length));
            }
            reply.send_head(response, false).await?;
            while let Some(frame) = reply.while_open(body.frame()).await? {
                match frame? {
                    Frame::Data(data) => reply.data(data).await?,
                    Frame::Trailers(trailers) => return reply.trailers(trailers).await,
                }
            }
            reply.finish().await
        };
        let _: Result<(), Error> = outcome.await;
    }
}

struct Server {
    address: std::net::SocketAddr,
    drain: Leave,
    _task: tokio_util::task::AbortOnDropHandle<()>,
}

async fn server(limits: Limits) -> Server {
    server_that_leaves(limits, CancellationToken::new().into()).await
}

async fn server_that_leaves(limits: Limits, drain: Leave) -> Server {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
    let address = listener.local_addr().expect("an address");
    let leave = drain.clone();
    let limits = Arc::new(limits);
    let task = tokio::spawn(async move {
        let mut connections = tokio::task::JoinSet::new();
        while let Ok((tcp, _)) = listener.accept().await {
            let (limits, leave) = (limits.clone(), leave.clone());
            connections.spawn(async move {
                let _ = serve(Io::from(tcp), &limits, &Timers::default(), &leave, &App).await;
            });
        }
    });
    Server { address, drain, _task: tokio_util::task::AbortOnDropHandle::new(task) }
}

async fn connect(server: &Server) -> TcpStream {
    TcpStream::connect(server.address).await.expect("connected")
}

/// Everything until the server closes.
async fn ask(server: &Server, wire: &str) -> String {
    let mut tcp = connect(server).await;
    tcp.write_all(wire.as_bytes()).await.expect("written");
    rest(&mut tcp).await
}

async fn rest(tcp: &mut TcpStream) -> String {
    let mut text = Vec::new();
    timeout(Duration::from_secs(10), tcp.read_to_end(&mut text)).await.expect("in time").expect("read");
    String::from_utf8_lossy(&text).into_owned()
}

/// Reads until the text ends with `end`.
async fn until(tcp: &mut TcpStream, end: &str) -> String {
    let mut text = Vec::new();
    while !text.ends_with(end.as_bytes()) {
        let count = timeout(Duration::from_secs(10), tcp.read_buf(&mut text)).await.expect("in time").expect("read");
        assert!(count > 0, "closed after {:?}", String::from_utf8_lossy(&text));
    }
    String::from_utf8_lossy(&text).into_owned()
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_order() {
    let server = server(Limits::default()).await;
    let text = ask(
        &server,
        "GET /1 HTTP/1.1\r\nHost: a\r\n\r\nPOST /2 HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabcGET /3 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
    )
    .await;
    let at = |needle: &str| text.find(needle).unwrap_or_else(|| panic!("no {needle} in {text}"));
    assert!(at("x-path: /1") < at("x-path: /2") && at("\r\n\r\nabc") < at("x-path: /3"), "{text}");
    assert_eq!(text.matches("HTTP/1.1 200 OK").count(), 3);
    assert!(text.contains("connection: close"));
}

#[tokio::test]
async fn chunks_and_trailers_pass_in_both_directions() {
    let server = server(Limits::default()).await;
    let text = ask(
        &server,
        "POST /chunked HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n5;x=y\r\nhello\r\n0\r\nX-Sum: 7\r\n\r\n",
    )
    .await;
    assert!(text.contains("transfer-encoding: chunked\r\n"), "{text}");
    assert!(text.ends_with("\r\n\r\n5\r\nhello\r\n0\r\nX-Sum: 7\r\n\r\n"), "{text}");
}

#[tokio::test]
async fn a_body_is_asked_for_only_when_it_is_wanted() {
    let server = server(Limits::default()).await;
    let mut tcp = connect(&server).await;
    tcp.write_all(b"POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\n")
        .await
        .expect("written");
    let text = until(&mut tcp, "x-path: /x\r\ncontent-length: 3\r\nconnection: close\r\n\r\n").await;
    assert!(!text.contains("100 Continue"), "the final head was on its way: {text}");
    let mut tcp = connect(&server).await;
    tcp.write_all(b"POST /early HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\n")
        .await
        .expect("written");
    let text = rest(&mut tcp).await;
    assert!(text.starts_with("HTTP/1.1 413") && text.contains("connection: close"), "{text}");
}

#[tokio::test]
async fn hints_precede_the_answer_and_old_callers_get_none() {
    let server = server(Limits::default()).await;
    let text = ask(&server, "GET /hint HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await;
    assert!(text.starts_with("HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\nHTTP/1.1 200 OK"), "{text}");
    let text = ask(&server, "GET /hint HTTP/1.0\r\n\r\n").await;
    assert!(text.starts_with("HTTP/1.1 200 OK"), "{text}");
}

#[tokio::test]
async fn an_upgraded_connection_carries_raw_bytes_the_early_ones_first() {
    let server = server(Limits::default()).await;
    let mut tcp = connect(&server).await;
    tcp.write_all(b"GET /upgrade HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\nearly ")
        .await
        .expect("written");
    until(&mut tcp, "upgrade: echo\r\nConnection: Upgrade\r\n\r\nearly ").await;
    tcp.write_all(b"late").await.expect("written");
    tcp.shutdown().await.expect("half closed");
    assert_eq!(rest(&mut tcp).await, "late");
}

#[tokio::test]
async fn a_malformed_head_is_answered_and_ends_the_connection() {
    let server = server(Limits::default()).await;
    let text = ask(
        &server,
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n",
    )
    .await;
    assert!(text.starts_with("HTTP/1.1 400 Bad Request"), "{text}");
    assert!(text.contains("weft-error: bad-request") && text.contains("Transfer-Encoding"), "{text}");
    assert_eq!(text.matches("HTTP/1.1").count(), 1, "nothing after it was read: {text}");
    let text = ask(&server, &format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n", "x".repeat(70_000))).await;
    assert!(text.starts_with("HTTP/1.1 431"), "{text}");
}

#[tokio::test]
async fn a_malformed_chunk_cuts_the_connection() {
    let server = server(Limits::default()).await;
    let mut tcp = connect(&server).await;
    tcp.write_all(b"POST /chunked HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n")
        .await
        .expect("written");
    let mut text = Vec::new();
    let _ = timeout(Duration::from_secs(10), tcp.read_to_end(&mut text)).await.expect("in time");
    assert!(!String::from_utf8_lossy(&text).ends_with("0\r\n\r\n"), "no orderly end");
}

#[tokio::test]
async fn a_slow_head_is_cut_off() {
    let limits = Limits { header_timeout: Duration::from_millis(50), ..Limits::default() };
    let server = server(limits).await;
    let text = ask(&server, "GET / HTTP/1.1\r\nHost: a\r\nX: ").await;
    assert!(text.starts_with("HTTP/1.1 408"), "{text}");
    assert_eq!(ask(&server, "").await, "", "silence needs no answer");
}

#[tokio::test]
async fn an_idle_connection_may_make_one_more_call_where_only_calls_end_it() {
    let server = server_that_leaves(Limits::default(), Leave::default()).await;
    let mut tcp = connect(&server).await;
    tcp.write_all(b"GET /1 HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n").await.expect("written");
    let first = until(&mut tcp, "\r\n\r\n").await;
    server.drain.after_calls.cancel();
    // Whatever the server would do of its own accord it has done when the answer of another connection is here.
    ask(&server, "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await;
    tcp.write_all(b"GET /2 HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n").await.expect("written");
    let second = rest(&mut tcp).await;
    assert!(!first.contains("connection: close"), "{first}");
    assert!(second.contains("x-path: /2") && second.contains("connection: close"), "{second}");
}

#[tokio::test]
async fn an_idle_connection_is_closed_by_a_drain_and_a_busy_one_after_its_answer() {
    let server = server(Limits::default()).await;
    let mut idle = connect(&server).await;
    idle.write_all(b"GET /1 HTTP/1.1\r\nHost: a\r\n\r\n").await.expect("written");
    until(&mut idle, "content-length: 0\r\n\r\n").await;
    let mut busy = connect(&server).await;
    busy.write_all(b"POST /2 HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\na").await.expect("written");
    until(&mut busy, "content-length: 2\r\n\r\na").await;
    server.drain.after_calls.cancel();
    assert_eq!(rest(&mut idle).await, "");
    busy.write_all(b"b").await.expect("written");
    until(&mut busy, "b").await;
    let mut fresh = connect(&server).await;
    fresh.write_all(b"GET /3 HTTP/1.1\r\nHost: a\r\n\r\n").await.expect("written");
    let text = rest(&mut fresh).await;
    assert!(text.contains("connection: close") || text.is_empty(), "{text}");
}

#[tokio::test]
async fn a_caller_that_leaves_is_noticed_while_it_waits() {
    let server = server(Limits::default()).await;
    let mut tcp = connect(&server).await;
    tcp.write_all(b"GET /hold HTTP/1.1\r\nHost: a\r\n\r\n").await.expect("written");
    tcp.shutdown().await.expect("closed");
    // The handler asserts what it sees; the connection ends because it returned.
    let mut byte = [0];
    let _ = timeout(Duration::from_secs(10), tcp.read(&mut byte)).await.expect("in time");
}

#[tokio::test]
async fn old_callers_get_what_they_understand() {
    let server = server(Limits::default()).await;
    let text = ask(&server, "POST /chunked HTTP/1.0\r\nContent-Length: 2\r\n\r\nhi").await;
    assert!(
        !text.contains("transfer-encoding") && text.ends_with("\r\n\r\nhi"),
        "the end of the connection ends it: {text}"
    );
    let mut tcp = connect(&server).await;
    tcp.write_all(b"GET /1 HTTP/1.0\r\nConnection: keep-alive\r\n\r\n").await.expect("written");
    until(&mut tcp, "connection: keep-alive\r\n\r\n").await;
    tcp.write_all(b"GET /2 HTTP/1.0\r\n\r\n").await.expect("written");
    assert!(rest(&mut tcp).await.contains("x-path: /2"));
}

#[tokio::test]
async fn a_large_body_passes_whole() {
    let server = server(Limits::default()).await;
    let mut tcp = connect(&server).await;
    let body = vec![b'x'; 4 << 20];
    let (mut read, mut write) = tcp.split();
    let sending = async {
        let head =
            format!("POST /big HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
        write.write_all(head.as_bytes()).await.expect("written");
        write.write_all(&body).await.expect("written");
    };
    let mut text = Vec::new();
    let (_, read) = tokio::join!(sending, timeout(Duration::from_secs(20), read.read_to_end(&mut text)));
    read.expect("in time").expect("read");
    assert_eq!(text.iter().filter(|byte| **byte == b'x').count(), body.len() + 1, "and the x of x-path");
}
