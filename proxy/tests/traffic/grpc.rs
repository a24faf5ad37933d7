//! gRPC: calls are balanced one by one, retried by their status, over at their deadline, and flow without being kept.

use crate::mesh;
use crate::sidecar::app::App;
use crate::sidecar::client::{Answer, H2, soon};
use crate::sidecar::{PATIENCE, route};
use bytes::Bytes;
use h2::server::{Connection, SendResponse};
use h2::{Reason, RecvStream};
use http::{HeaderMap, Request, Response};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::time::{Duration, Instant};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;

const MIB: usize = 1024 * 1024;

/// What is sent to `front` by a route of all calls, with more keys of the rule.
fn front(more: Value) -> Value {
    json!({"routes": [route("ROUTE_KIND_GRPC", &[("a", 1)], more)]})
}

/// An HTTP/2 server of whose connections each is served by `serve`, numbered.
async fn serve<F, R>(serve: F) -> (SocketAddr, JoinSet<()>)
where
    F: Fn(usize, Connection<TcpStream, Bytes>) -> R + Send + Sync + 'static,
    R: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = listener.local_addr().unwrap();
    let mut task = JoinSet::new();
    task.spawn(async move {
        let mut open = JoinSet::new();
        let mut nth = 0;
        while let Ok((stream, _)) = listener.accept().await {
            if let Ok(connection) = h2::server::handshake(stream).await {
                open.spawn(serve(nth, connection));
                nth += 1;
            }
        }
    });
    (at, task)
}

fn head() -> Response<()> {
    Response::builder().header("content-type", "application/grpc").body(()).unwrap()
}

fn good() -> HeaderMap {
    HeaderMap::from_iter([(http::HeaderName::from_static("grpc-status"), 0.into())])
}

/// Answers with a message and the status 0.
fn answer(mut reply: SendResponse<Bytes>) {
    if let Ok(mut down) = reply.send_response(head(), false) {
        let _ = down.send_data(Bytes::from_static(&[0; 5]), false);
        let _ = down.send_trailers(good());
    }
}

async fn call(client: &mut H2, headers: &[(&str, &str)]) -> Answer {
    let mut request = Request::post("http://front/shop.Orders/Place").header("content-type", "application/grpc");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    client.call(request.body(()).unwrap(), Some(Bytes::from_static(&[0; 5]))).await
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_on_one_connection_go_to_all_endpoints() {
    let apps = [App::named("0").await, App::named("1").await, App::named("2").await];
    let at = apps.each_ref().map(|app| app.at);
    let sidecar = mesh(front(json!({})), &[("a", &at, json!({"balancer": "BALANCER_ROUND_ROBIN"}))]);
    let mut client = H2::tunnel(sidecar.at("outbound"), "front:80").await;
    for _ in 0..90 {
        assert_eq!(call(&mut client, &[]).await.grpc_status(), Some(0));
    }
    let calls = apps.each_ref().map(App::calls);
    assert_eq!(calls, [30; 3]);
}

#[tokio::test(flavor = "multi_thread")]
async fn unavailable_and_the_codes_that_a_route_names_are_tried_elsewhere_and_others_are_the_callers() {
    let (code, tried) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (says, counts) = (Arc::clone(&code), Arc::clone(&tried));
    // Trailers-Only: no head comes before the status, which would settle the call (gRFC A6).
    let (failing, _task) = serve(move |_, mut connection| {
        let (says, counts) = (Arc::clone(&says), Arc::clone(&counts));
        async move {
            while let Some(Ok((_, mut reply))) = connection.accept().await {
                counts.fetch_add(1, SeqCst);
                let mut head = head();
                head.headers_mut().insert("grpc-status", says.load(SeqCst).into());
                let _ = reply.send_response(head, true);
            }
        }
    })
    .await;
    let sound = App::named("1").await;
    let retry = json!({"retry": {"attempts": 3, "codes": [503], "methods": ["POST"], "grpcCodes": [8]}});
    let frontend = json!({
        "routes": [route("ROUTE_KIND_GRPC", &[("a", 1)], retry)], "retryBudget": {"percent": 100, "minPerSecond": 100},
    });
    let backend = json!({"balancer": "BALANCER_ROUND_ROBIN", "breaker": {"disabled": true}});
    let sidecar = mesh(frontend, &[("a", &[failing, sound.at], backend)]);
    let mut client = H2::tunnel(sidecar.at("outbound"), "front:80").await;
    for (named, is_retried) in [(14, true), (8, true), (5, false), (2, false), (4, false)] {
        code.store(named, SeqCst);
        let (mut seen, before) = (BTreeMap::<_, usize>::new(), tried.load(SeqCst));
        for _ in 0..10 {
            *seen.entry(call(&mut client, &[]).await.grpc_status()).or_default() += 1;
        }
        assert!(tried.load(SeqCst) > before, "it was tried");
        assert_eq!(seen.get(&Some(0)) == Some(&10), is_retried, "{named}: {seen:?}");
        let status = u8::try_from(named).unwrap();
        assert_eq!(seen.contains_key(&Some(status)), !is_retried, "{named}: {seen:?}");
    }
}

/// What a call that is held looks like at the application.
#[derive(Default)]
struct Held {
    timeout: String,
    reset: Option<Reason>,
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deadline_travels_is_shortened_by_the_route_and_ends_the_call_on_both_sides() {
    let (held, mut seen) = watch::channel(Vec::<Held>::new());
    let (at, _task) = serve(move |_, mut connection| {
        let held = held.clone();
        async move {
            let mut calls = JoinSet::new();
            while let Some(Ok((request, mut reply))) = connection.accept().await {
                let timeout = request.headers().get("grpc-timeout").map(|value| value.to_str().unwrap().to_owned());
                let index = held.borrow().len();
                held.send_modify(|all| all.push(Held { timeout: timeout.unwrap_or_default(), reset: None }));
                let held = held.clone();
                calls.spawn(async move {
                    let reset = std::future::poll_fn(|cx| reply.poll_reset(cx)).await;
                    held.send_modify(|all| all[index].reset = reset.ok());
                });
            }
        }
    })
    .await;
    let sidecar = mesh(front(json!({"requestTimeout": "0.5s"})), &[("a", &[at], json!({}))]);
    let mut client = H2::tunnel(sidecar.at("outbound"), "front:80").await;
    // Its own is shorter, then the route's is; then what is over before it begins.
    for (n, (own, within)) in [("200m", 200), ("9S", 500)].into_iter().enumerate() {
        let began = Instant::now();
        let answer = call(&mut client, &[("grpc-timeout", own)]).await;
        let took = began.elapsed();
        assert_eq!((answer.status, answer.grpc_status()), (200, Some(4)), "DEADLINE_EXCEEDED: {answer:?}");
        assert!(took >= Duration::from_millis(within) && took < PATIENCE / 2, "{took:?}");
        let ended = seen.wait_for(|all| all.get(n).is_some_and(|held| held.reset.is_some()));
        let ended = soon("the reset of what is over", ended).await.unwrap();
        assert_eq!(ended[n].reset, Some(Reason::CANCEL));
        let (number, unit) = ended[n].timeout.split_at(ended[n].timeout.len() - 1);
        let unit = match unit {
            "n" => Duration::from_nanos(1),
            "u" => Duration::from_micros(1),
            "m" => Duration::from_millis(1),
            other => panic!("{other} of {:?}", ended[n].timeout),
        };
        let told = unit * number.parse::<u32>().unwrap();
        assert!(told <= Duration::from_millis(within), "the application was told {told:?} of {within} ms");
    }
    assert_eq!(call(&mut client, &[("grpc-timeout", "0n")]).await.grpc_status(), Some(4));
    assert_eq!(seen.borrow().len(), 2, "what is over is not sent");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_goaway_with_calls_in_flight_loses_none_and_repeats_none() {
    const IN_FLIGHT: usize = 4;
    let (calls, leave, release) = (Arc::new(AtomicUsize::new(0)), Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (counted, leaving, releasing) = (Arc::clone(&calls), Arc::clone(&leave), Arc::clone(&release));
    let (at, _task) = serve(move |nth, mut connection| {
        let (counted, leaving, releasing) = (Arc::clone(&counted), Arc::clone(&leaving), Arc::clone(&releasing));
        async move {
            let mut held = JoinSet::new();
            loop {
                let accepted = tokio::select! {
                    accepted = connection.accept() => accepted,
                    () = leaving.notified(), if nth == 0 => {
                        connection.graceful_shutdown();
                        continue;
                    }
                };
                let Some(Ok((_, reply))) = accepted else { return };
                let before = counted.fetch_add(1, SeqCst);
                if before < IN_FLIGHT {
                    let releasing = Arc::clone(&releasing);
                    held.spawn(async move {
                        releasing.notified().await;
                        answer(reply);
                    });
                } else {
                    answer(reply);
                }
            }
        }
    })
    .await;
    let sidecar = mesh(front(json!({"requestTimeout": "60s"})), &[("a", &[at], json!({}))]);
    let outbound = sidecar.at("outbound");
    let mut held = JoinSet::new();
    for _ in 0..IN_FLIGHT {
        held.spawn(async move { call(&mut H2::tunnel(outbound, "front:80").await, &[]).await.grpc_status() });
    }
    let in_flight = async {
        while calls.load(SeqCst) < IN_FLIGHT {
            tokio::task::yield_now().await;
        }
    };
    soon("calls in flight", in_flight).await;
    leave.notify_one();
    let mut client = H2::tunnel(outbound, "front:80").await;
    for _ in 0..40 {
        assert_eq!(call(&mut client, &[]).await.grpc_status(), Some(0));
    }
    assert!(held.try_join_next().is_none(), "they are still under way");
    for _ in 0..IN_FLIGHT {
        release.notify_one();
        release.notify_waiters();
    }
    for status in soon("the calls in flight", held.join_all()).await {
        assert_eq!(status, Some(0));
    }
    assert_eq!(calls.load(SeqCst), IN_FLIGHT + 40, "each was executed once");
}

/// Sends `bytes` of a message; how many the connection has taken is added to `sent`.
async fn pour(stream: &mut h2::SendStream<Bytes>, bytes: usize, sent: &AtomicUsize) {
    let chunk = Bytes::from(vec![7; 16 * 1024]);
    let mut left = bytes;
    while left > 0 {
        stream.reserve_capacity(chunk.len().min(left));
        let Some(Ok(granted)) = std::future::poll_fn(|cx| stream.poll_capacity(cx)).await else { return };
        let part = granted.min(left).min(chunk.len());
        stream.send_data(chunk.slice(..part), false).unwrap();
        left -= part;
        sent.fetch_add(part, SeqCst);
    }
}

/// Reads a stream to its end and says how much there was.
async fn drain(body: &mut RecvStream) -> usize {
    let mut total = 0;
    while let Some(Ok(data)) = body.data().await {
        total += data.len();
        let _ = body.flow_control().release_capacity(data.len());
    }
    total
}

/// Waits until a counter rests: the sender is held back.
async fn rests(counter: &AtomicUsize) -> usize {
    let mut last = (counter.load(SeqCst), Instant::now());
    let until = Instant::now() + PATIENCE;
    while last.0 == 0 || last.1.elapsed() < Duration::from_millis(300) {
        assert!(Instant::now() < until, "it is not held back: {} bytes", last.0);
        tokio::time::sleep(Duration::from_millis(5)).await;
        let now = counter.load(SeqCst);
        if now != last.0 {
            last = (now, Instant::now());
        }
    }
    last.0
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_of_any_size_flows_both_ways_as_fast_as_it_is_read_and_is_not_kept() {
    const MESSAGE: usize = 192 * MIB;
    let (sent_down, reads) = (Arc::new(AtomicUsize::new(0)), Arc::new((AtomicBool::new(false), Notify::new())));
    let (down, go) = (Arc::clone(&sent_down), Arc::clone(&reads));
    let (at, _task) = serve(move |_, mut connection| {
        let (down, go) = (Arc::clone(&down), Arc::clone(&go));
        async move {
            let mut calls = JoinSet::new();
            while let Some(Ok((request, mut reply))) = connection.accept().await {
                let (down, go) = (Arc::clone(&down), Arc::clone(&go));
                calls.spawn(async move {
                    let mut body = request.into_body();
                    let mut stream = reply.send_response(head(), false).unwrap();
                    let pouring = pour(&mut stream, MESSAGE, &down);
                    let reading = async {
                        if !go.0.load(SeqCst) {
                            go.1.notified().await;
                        }
                        drain(&mut body).await
                    };
                    let ((), total) = tokio::join!(pouring, reading);
                    assert_eq!(total, MESSAGE);
                    stream.send_trailers(good()).unwrap();
                });
            }
        }
    })
    .await;
    let sidecar = mesh(front(json!({"requestTimeout": "0s"})), &[("a", &[at], json!({}))]);
    let before = sidecar.memory();
    let mut client = H2::tunnel(sidecar.at("outbound"), "front:80").await;
    let request = Request::post("http://front/shop.Orders/Stream").header("content-type", "application/grpc");
    let (response, mut up) = client.begin(request.body(()).unwrap()).await;
    let sent_up = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&sent_up);
    let sending = tokio::spawn(async move {
        pour(&mut up, MESSAGE, &counted).await;
        up.send_data(Bytes::new(), true).unwrap();
    });
    let mut body = soon("the response", response).await.unwrap().into_body();
    // Nobody reads: both senders are held back after windows' worth.
    for sent in [&sent_up, &sent_down] {
        let held = rests(sent).await;
        assert!(held < 8 * MIB, "{held} bytes went nowhere");
    }
    reads.0.store(true, SeqCst);
    reads.1.notify_one();
    let all = tokio::time::timeout(PATIENCE * 3, drain(&mut body)).await.unwrap();
    assert_eq!(all, MESSAGE);
    sending.await.unwrap();
    assert_eq!(body.trailers().await.unwrap().unwrap().get("grpc-status").unwrap(), "0");
    let grown = sidecar.memory().saturating_sub(before);
    assert!(grown < 24 * MIB, "{grown} bytes more at the most");
}
