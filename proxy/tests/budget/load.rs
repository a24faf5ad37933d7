//! The calls whose cost is budgeted, with a client and an application of their own: each request and each answer is one write, so that
//! a sidecar sees the same bytes in the same pieces every time. Shared with `integration/tests/budget`.

use crate::mesh::PATIENCE;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use std::net::SocketAddr;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio::task::JoinSet;

/// Bytes of an answer's body, as in `make bench`.
const BODY: usize = 1024;
/// Bytes of a gRPC message, prefix included.
const MESSAGE: usize = 105;
/// Bytes that an opaque connection carries each way.
const PING: usize = 64;
/// Windows so wide that neither end has to widen them while it is measured.
const WINDOW: u32 = 1 << 30;

/// A hot path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hot {
    /// HTTP/1.1 over a virtual connection (HBONE) between two sidecars.
    Http1,
    /// HTTP/2 as native streams between two sidecars.
    Http2,
    /// A unary gRPC call as a native stream between two sidecars.
    Grpc,
    /// HTTP/1.1 through two sidecars without a tunnel: plaintext.
    Plain,
    /// A whole opaque TCP connection between two sidecars: connect, some bytes each way, close.
    Tcp,
}

impl Hot {
    /// All of them, in the order in which they are reported.
    pub const ALL: [Self; 5] = [Self::Http1, Self::Http2, Self::Grpc, Self::Plain, Self::Tcp];

    /// As records and reports name it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Http1 => "http1",
            Self::Http2 => "http2",
            Self::Grpc => "grpc",
            Self::Plain => "plain",
            Self::Tcp => "tcp",
        }
    }

    /// `weft.v1.Protocol` of its port.
    pub const fn protocol(self) -> &'static str {
        match self {
            Self::Http1 | Self::Plain => "PROTOCOL_HTTP1",
            Self::Http2 => "PROTOCOL_HTTP2",
            Self::Grpc => "PROTOCOL_GRPC",
            Self::Tcp => "PROTOCOL_TCP",
        }
    }
}

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

/// Starts the application of a path on a thread of its own, which ends with the test process.
pub fn application(hot: Hot) -> SocketAddr {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    listener.set_nonblocking(true).unwrap();
    std::thread::spawn(move || {
        runtime().block_on(async move {
            let listener = TcpListener::from_std(listener).unwrap();
            let mut open = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                stream.set_nodelay(true).unwrap();
                match hot {
                    Hot::Http1 | Hot::Plain => open.spawn(serve_http1(stream)),
                    Hot::Http2 | Hot::Grpc => open.spawn(serve_http2(stream)),
                    Hot::Tcp => open.spawn(echo(stream)),
                };
                while open.try_join_next().is_some() {}
            }
        });
    });
    address
}

async fn serve_http1(mut stream: TcpStream) {
    let mut answer =
        format!("HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: {BODY}\r\n\r\n").into_bytes();
    answer.resize(answer.len() + BODY, b'x');
    let (mut seen, mut buffer) = (Vec::new(), [0; 4096]);
    while let Ok(n @ 1..) = stream.read(&mut buffer).await {
        seen.extend_from_slice(&buffer[..n]);
        if seen.ends_with(b"\r\n\r\n") {
            seen.clear();
            if stream.write_all(&answer).await.is_err() {
                return;
            }
        }
    }
}

/// GET: a body. POST: its message back, then the status of gRPC.
async fn serve_http2(stream: TcpStream) {
    let mut builder = h2::server::Builder::new();
    builder.initial_window_size(WINDOW).initial_connection_window_size(WINDOW);
    let Ok(mut connection) = builder.handshake(stream).await else { return };
    let mut calls = JoinSet::new();
    while let Some(Ok((request, mut respond))) = connection.accept().await {
        calls.spawn(async move {
            let grpc = request.method() == Method::POST;
            let mut message = Bytes::from_static(&[b'x'; BODY]);
            if grpc {
                message = whole(request.into_body()).await.0;
            }
            let kind = if grpc { "application/grpc" } else { "text/plain" };
            let head = Response::builder().header("content-type", kind).body(()).unwrap();
            let Ok(mut body) = respond.send_response(head, false) else { return };
            let _ = body.send_data(message, !grpc);
            if grpc {
                let mut trailers = HeaderMap::new();
                trailers.insert("grpc-status", HeaderValue::from_static("0"));
                let _ = body.send_trailers(trailers);
            }
        });
        while calls.try_join_next().is_some() {}
    }
}

async fn whole(mut body: h2::RecvStream) -> (Bytes, Option<HeaderMap>) {
    let mut all = Vec::new();
    while let Some(Ok(data)) = body.data().await {
        let _ = body.flow_control().release_capacity(data.len());
        all.extend_from_slice(&data);
    }
    (all.into(), body.trailers().await.ok().flatten())
}

async fn echo(mut stream: TcpStream) {
    let mut buffer = [0; PING];
    while let Ok(n @ 1..) = stream.read(&mut buffer).await {
        if stream.write_all(&buffer[..n]).await.is_err() {
            return;
        }
    }
}

/// Callers of a path: each keeps its connection and makes one call at a time.
pub struct Callers {
    runtime: Runtime,
    callers: Vec<Caller>,
}

enum Caller {
    Http1(TcpStream, String),
    Http2 { send: h2::client::SendRequest<Bytes>, hot: Hot, _driver: JoinSet<()> },
    Tcp(SocketAddr),
}

impl Callers {
    /// Connects `count` of them to the outbound listener `at`.
    pub fn connect(hot: Hot, at: SocketAddr, count: usize) -> Self {
        let runtime = runtime();
        let callers = runtime.block_on(async {
            let mut callers = Vec::new();
            for _ in 0..count {
                callers.push(tokio::time::timeout(PATIENCE, Caller::connect(hot, at)).await.expect("in time"));
            }
            callers
        });
        Self { runtime, callers }
    }

    /// Each of them makes `calls` calls, one after the other; all answers must be right.
    pub fn call(&mut self, calls: usize) {
        let Self { runtime, callers } = self;
        runtime.block_on(async {
            let all = callers.iter_mut().map(|caller| async move {
                for _ in 0..calls {
                    caller.call().await;
                }
            });
            tokio::time::timeout(PATIENCE, together(all)).await.expect("answers in time");
        });
    }
}

/// Polls all of them on this task until the last has ended.
async fn together<F: Future<Output = ()>>(all: impl Iterator<Item = F>) {
    let mut all: Vec<_> = all.map(|one| Some(Box::pin(one))).collect();
    std::future::poll_fn(move |cx| {
        for one in &mut all {
            if one.as_mut().is_some_and(|f| f.as_mut().poll(cx).is_ready()) {
                *one = None;
            }
        }
        if all.iter().all(Option::is_none) { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
    })
    .await;
}

impl Caller {
    async fn connect(hot: Hot, at: SocketAddr) -> Self {
        if hot == Hot::Tcp {
            return Self::Tcp(at);
        }
        let stream = TcpStream::connect(at).await.unwrap();
        stream.set_nodelay(true).unwrap();
        if matches!(hot, Hot::Http1 | Hot::Plain) {
            let (host, rest) = (hot.name(), "User-Agent: budget/1\r\nAccept: */*");
            return Self::Http1(stream, format!("GET /items/7 HTTP/1.1\r\nHost: {host}\r\n{rest}\r\n\r\n"));
        }
        let mut builder = h2::client::Builder::new();
        builder.initial_window_size(WINDOW).initial_connection_window_size(WINDOW).max_concurrent_reset_streams(0);
        let (send, connection) = builder.handshake(stream).await.unwrap();
        let mut driver = JoinSet::new();
        driver.spawn(async move {
            let _ = connection.await;
        });
        Self::Http2 { send: send.ready().await.unwrap(), hot, _driver: driver }
    }

    async fn call(&mut self) {
        match self {
            Self::Http1(stream, request) => call_http1(stream, request).await,
            Self::Http2 { send, hot: Hot::Grpc, .. } => {
                let request = Request::post("http://grpc/shop.Orders/Get")
                    .header("content-type", "application/grpc")
                    .header("te", "trailers")
                    .header("user-agent", "budget/1");
                let (answer, mut body) = send.send_request(request.body(()).unwrap(), false).unwrap();
                body.send_data(Bytes::from_static(&[0; MESSAGE]), true).unwrap();
                let (message, trailers) = whole(answer.await.unwrap().into_body()).await;
                assert_eq!(message.len(), MESSAGE);
                assert_eq!(trailers.unwrap()["grpc-status"], "0");
            }
            Self::Http2 { send, .. } => {
                let request =
                    Request::get("http://http2/items/7").header("user-agent", "budget/1").header("accept", "*/*");
                let (answer, _) = send.send_request(request.body(()).unwrap(), true).unwrap();
                let answer = answer.await.unwrap();
                assert_eq!(answer.status(), StatusCode::OK);
                assert_eq!(whole(answer.into_body()).await.0.len(), BODY);
            }
            Self::Tcp(at) => {
                let mut stream = TcpStream::connect(*at).await.unwrap();
                let mut answer = [0; PING];
                stream.write_all(&[7; PING]).await.unwrap();
                stream.read_exact(&mut answer).await.unwrap();
                stream.shutdown().await.unwrap();
                assert_eq!(stream.read(&mut answer).await.unwrap(), 0, "it ends after its client");
            }
        }
    }
}

async fn call_http1(stream: &mut TcpStream, request: &str) {
    stream.write_all(request.as_bytes()).await.unwrap();
    let (mut answer, mut have) = ([0; 8192], 0);
    loop {
        let n = stream.read(&mut answer[have..]).await.unwrap();
        assert_ne!(n, 0, "an answer, not the end");
        have += n;
        let head = answer[..have].windows(4).position(|w| w == b"\r\n\r\n").map(|head| head + 4);
        if head.is_some() {
            assert!(answer.starts_with(b"HTTP/1.1 200 "), "{}", String::from_utf8_lossy(&answer[..have]));
        }
        if head == have.checked_sub(BODY) {
            return;
        }
    }
}
