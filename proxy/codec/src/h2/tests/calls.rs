//! Calls over h2c on loopback, both ends ours: frames, trailers, resets in both directions, draining, back-pressure.

use crate::h2::client::Tasks;
use crate::h2::*;
use crate::{Error, Kind, Sent};
use crate::{
    Frame, Handler, Headers, Io, Limits, Reply, RequestBody, RequestHead, ResetCode, ResponseHead, Upstream,
    UpstreamKind,
};
use bytes::Bytes;
use http::header::{HeaderName, HeaderValue};
use http::{Method, StatusCode};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

#[derive(Default)]
struct App {
    running: AtomicUsize,
    changed: Notify,
    release: Notify,
}

impl App {
    async fn until_running(&self, count: usize) {
        let reached = async {
            loop {
                let changed = self.changed.notified();
                if self.running.load(Ordering::SeqCst) == count {
                    return;
                }
                changed.await;
            }
        };
        timeout(Duration::from_secs(10), reached).await.expect("in time");
    }
}

struct Running<'a>(&'a App);

impl<'a> Running<'a> {
    fn new(app: &'a App) -> Self {
        app.running.fetch_add(1, Ordering::SeqCst);
        app.changed.notify_waiters();
        Self(app)
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.running.fetch_sub(1, Ordering::SeqCst);
        self.0.changed.notify_waiters();
    }
}

impl Handler for App {
    async fn call<'c>(&'c self, head: RequestHead, mut body: RequestBody<'c>, mut reply: Reply<'c>) {
        let _running = Running::new(self);
        let outcome = async {
            match head.path.as_str() {
                "/hold" => {
                    reply.while_open(std::future::pending::<()>()).await?;
                }
                "/wait" => {
                    reply.while_open(self.release.notified()).await?;
                    return reply.send_head(ResponseHead::new(StatusCode::OK), true).await;
                }
                "/refuse" => {
                    reply.reset(ResetCode::Refused);
                    return Ok(());
                }
                "/break" => {
                    reply.send_head(ResponseHead::new(StatusCode::OK), false).await?;
                    reply.data(Bytes::from_static(b"half")).await?;
                    // A reset overtakes what has not been written yet.
                    reply.while_open(self.release.notified()).await?;
                    reply.reset(ResetCode::Internal);
                    return Ok(());
                }
                "/only" => {
                    let mut head = ResponseHead::new(StatusCode::OK);
                    head.headers.append(HeaderName::from_static("grpc-status"), HeaderValue::from_static("5"));
                    return reply.send_head(head, true).await;
                }
                _ => {}
            }
            reply.informational(ResponseHead::new(StatusCode::from_u16(103).expect("valid"))).await?;
            let mut response = ResponseHead::new(StatusCode::OK);
            response.headers.append(
                HeaderName::from_static("x-authority"),
                HeaderValue::from_str(head.authority.as_deref().unwrap_or_default()).expect("valid"),
            );
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

struct Pair {
    app: Arc<App>,
    connection: Connection,
    drain: CancellationToken,
    server: tokio::task::JoinHandle<Result<(), Error>>,
    _tasks: Tasks,
}

async fn pair(limits: Limits) -> Pair {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("bound");
    let app = Arc::new(App::default());
    let drain = CancellationToken::new();
    let tcp = tokio::net::TcpStream::connect(listener.local_addr().expect("an address")).await.expect("connected");
    let (accepted, _) = listener.accept().await.expect("accepted");
    let (server_app, token, server_limits) = (app.clone(), drain.clone(), limits.clone());
    let server = tokio::spawn(async move { serve(Io::from(accepted), &server_limits, &token, &*server_app).await });
    let tasks = Tasks::default();
    let connection = connect(Io::from(tcp), &limits, true, None, &tasks).await.expect("settled");
    Pair { app, connection, drain, server, _tasks: tasks }
}

impl Pair {
    async fn start(&self, path: &str, end: bool) -> Upstream {
        let mut upstream = Upstream(UpstreamKind::H2(Box::new(self.connection.call())));
        let head = RequestHead::new(Method::POST, "catalog.shop", path);
        upstream.send_head(&head, end).await.expect("sent");
        upstream
    }
}

async fn final_head(upstream: &mut Upstream) -> Result<ResponseHead, Error> {
    let (_, mut recv) = upstream.split();
    loop {
        let head = timeout(Duration::from_secs(10), recv.head()).await.expect("in time")?;
        if !head.status.is_informational() {
            return Ok(head);
        }
    }
}

async fn next(upstream: &mut Upstream) -> Option<Result<Frame, Error>> {
    timeout(Duration::from_secs(10), upstream.split().1.frame()).await.expect("in time")
}

#[tokio::test]
async fn data_and_trailers_pass_in_both_directions() {
    let pair = pair(Limits::default()).await;
    let mut upstream = pair.start("/echo", false).await;
    assert_eq!(upstream.split().1.head().await.expect("informational").status, 103);
    let head = final_head(&mut upstream).await.expect("answered");
    assert_eq!(head.headers.find("x-authority").expect("there"), "catalog.shop");
    for text in ["one", "two"] {
        upstream.split().0.data(Bytes::from(text)).await.expect("sent");
        assert!(matches!(next(&mut upstream).await, Some(Ok(Frame::Data(data))) if data == text));
    }
    let mut trailers = Headers::new();
    trailers.append(HeaderName::from_static("x-sum"), HeaderValue::from_static("7"));
    upstream.split().0.trailers(trailers).await.expect("sent");
    match next(&mut upstream).await {
        Some(Ok(Frame::Trailers(trailers))) => assert_eq!(trailers.find("x-sum").expect("there"), "7"),
        other => panic!("{other:?}"),
    }
    assert!(next(&mut upstream).await.is_none() && upstream.split().1.is_end());
    drop(upstream);
    pair.app.until_running(0).await;
    assert_eq!(pair.connection.active(), 0);
}

#[tokio::test]
async fn an_answer_of_trailers_only_ends_with_its_head() {
    let pair = pair(Limits::default()).await;
    let mut upstream = pair.start("/only", true).await;
    let head = final_head(&mut upstream).await.expect("answered");
    assert_eq!(head.headers.find("grpc-status").expect("there"), "5");
    assert!(upstream.split().1.is_end());
}

#[tokio::test]
async fn resets_say_what_they_mean() {
    let pair = pair(Limits::default()).await;
    let mut upstream = pair.start("/refuse", true).await;
    let error = final_head(&mut upstream).await.expect_err("refused");
    assert_eq!((error.kind, error.sent), (Kind::Refused, Sent::NotSent), "{error}");
    let mut upstream = pair.start("/break", true).await;
    final_head(&mut upstream).await.expect("answered");
    assert!(matches!(next(&mut upstream).await, Some(Ok(Frame::Data(data))) if data == "half"));
    pair.app.release.notify_one();
    let error = next(&mut upstream).await.expect("no orderly end").expect_err("a reset");
    assert_eq!((error.kind, error.sent), (Kind::UpstreamReset, Sent::Sent), "{error}");
}

#[tokio::test]
async fn a_cancelled_call_ends_at_the_other_side_at_once() {
    let pair = pair(Limits::default()).await;
    let upstream = pair.start("/hold", true).await;
    pair.app.until_running(1).await;
    drop(upstream);
    pair.app.until_running(0).await;
    assert!(!pair.connection.is_closing(), "the connection lives on");
}

#[tokio::test]
async fn a_drain_lets_running_calls_finish_and_takes_no_new_ones() {
    let pair = pair(Limits::default()).await;
    let mut running = pair.start("/wait", true).await;
    pair.app.until_running(1).await;
    pair.drain.cancel();
    timeout(Duration::from_secs(10), async {
        while !pair.connection.is_closing() {
            tokio::task::yield_now().await;
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    })
    .await
    .expect("GOAWAY arrives");
    let mut late = Upstream(UpstreamKind::H2(Box::new(pair.connection.call())));
    let error = late.send_head(&RequestHead::new(Method::GET, "c", "/"), true).await.expect_err("too late");
    assert_eq!((error.kind, error.sent), (Kind::Refused, Sent::NotSent), "{error}");
    drop(late);
    pair.app.release.notify_waiters();
    assert_eq!(final_head(&mut running).await.expect("answered").status, 200);
    drop(running);
    timeout(Duration::from_secs(10), pair.server).await.expect("in time").expect("no panic").expect("orderly");
}

#[tokio::test]
async fn a_slow_reader_holds_up_nobody_else() {
    let limits = Limits { stream_window: 64 * 1024, connection_window: 1 << 20, ..Limits::default() };
    let pair = pair(limits).await;
    let mut stalled = pair.start("/echo", false).await;
    final_head(&mut stalled).await.expect("answered");
    // Nobody reads the echo: both windows of this stream fill, and the sender is held.
    let blocked = async {
        let (mut send, _) = stalled.split();
        loop {
            send.data(Bytes::from(vec![1; 16 * 1024])).await.expect("sent");
        }
    };
    let others = async {
        for _ in 0..50 {
            let mut upstream = pair.start("/echo", false).await;
            final_head(&mut upstream).await.expect("answered");
            upstream.split().0.data(Bytes::from(vec![2; 8 * 1024])).await.expect("sent");
            upstream.split().0.finish().await.expect("sent");
            let mut received = 0;
            while let Some(frame) = next(&mut upstream).await {
                if let Frame::Data(data) = frame.expect("whole") {
                    received += data.len();
                }
            }
            assert_eq!(received, 8 * 1024);
        }
    };
    tokio::select! {
        () = blocked => unreachable!("the loop has no end"),
        result = timeout(Duration::from_secs(20), others) => result.expect("in time"),
    }
}

#[tokio::test]
async fn a_peer_that_falls_silent_is_given_up() {
    let limits = Limits {
        ping_interval: Duration::from_millis(50),
        ping_timeout: Duration::from_millis(50),
        ..Limits::default()
    };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("bound");
    let tcp = tokio::net::TcpStream::connect(listener.local_addr().expect("an address")).await.expect("connected");
    let (mut accepted, _) = listener.accept().await.expect("accepted");
    // An empty SETTINGS frame, and nothing more: not even the acknowledgement of a PING.
    tokio::io::AsyncWriteExt::write_all(&mut accepted, &[0, 0, 0, 4, 0, 0, 0, 0, 0]).await.expect("written");
    let tasks = Tasks::default();
    let connection = connect(Io::from(tcp), &limits, true, None, &tasks).await.expect("settled");
    let mut upstream = Upstream(UpstreamKind::H2(Box::new(connection.call())));
    upstream.send_head(&RequestHead::new(Method::GET, "c", "/"), true).await.expect("sent");
    let error = final_head(&mut upstream).await.expect_err("silence");
    assert_eq!(error.sent, Sent::Unknown, "{error}");
    assert!(connection.is_closing());
}
