//! Calls with another implementation, the `h2` crate, at either end: bodies of any length both ways, trailers, headers that recur and that
//! do not, over pipes, windows and frames of any size.

use crate::Error;
use crate::h2::client::Tasks;
use crate::h2::{connect, serve};
use crate::{
    Frame, Handler, Headers, Io, Limits, Reply, RequestBody, RequestHead, ResponseHead, Upstream, UpstreamKind,
};
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use proptest::prelude::*;
use std::time::Duration;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// One call: its body goes there in pieces and comes back.
#[derive(Clone, Debug)]
struct Plan {
    body: usize,
    piece: usize,
    headers: Vec<(u8, String)>,
    trailers: bool,
}

/// How both ends are set up.
#[derive(Clone, Debug)]
struct Setup {
    pipe: usize,
    window: u32,
    connection: u32,
    frame: u32,
    ours: u32,
    table: u32,
}

fn plan() -> impl Strategy<Value = Plan> {
    let header = (0u8..6, "[a-c]{0,3}|[ -~]{0,60}");
    (0usize..100_000, 1usize..40_000, proptest::collection::vec(header, 0..8), any::<bool>()).prop_map(
        |(body, piece, headers, trailers)| {
            let headers = headers.into_iter().map(|(name, value)| (name, value.trim().to_owned())).collect();
            Plan { body, piece, headers, trailers }
        },
    )
}

fn setup() -> impl Strategy<Value = Setup> {
    (
        prop_oneof![1usize..50, 100usize..100_000],
        prop_oneof![1u32..100, 1000u32..1_000_000],
        65_535u32..1_000_000,
        16_384u32..100_000,
        prop_oneof![1u32..100, 1000u32..200_000],
        prop_oneof![Just(0u32), 50u32..300, Just(4096)],
    )
        .prop_map(|(pipe, window, connection, frame, ours, table)| Setup {
            pipe,
            // A byte at a time through a narrow pipe takes its time; one of both is enough.
            window: if pipe < 100 { window.max(1000) } else { window.max(20) },
            connection,
            frame,
            ours: if pipe < 100 { ours.max(1000) } else { ours.max(20) },
            table,
        })
}

fn limits(setup: &Setup) -> Limits {
    Limits { stream_window: setup.ours, connection_window: setup.connection, ..Limits::default() }
}

fn byte(n: usize) -> u8 {
    (n % 251) as u8
}

fn pieces(plan: &Plan) -> impl Iterator<Item = Bytes> + use<> {
    let (body, piece) = (plan.body, plan.piece);
    (0..body).step_by(piece).map(move |at| (at..(at + piece).min(body)).map(byte).collect::<Vec<_>>().into())
}

fn name(n: u8) -> HeaderName {
    HeaderName::from_bytes(format!("x-header-{n}").as_bytes()).expect("a name")
}

fn run(future: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let bounded = async { tokio::time::timeout(Duration::from_secs(60), future).await.expect("in time") };
    runtime.block_on(bounded);
}

/// Sends back what comes.
struct Echo;

impl Handler for Echo {
    async fn call<'c>(&'c self, head: RequestHead, mut body: RequestBody<'c>, mut reply: Reply<'c>) {
        let echoed: Result<(), Error> = async {
            let mut answer = ResponseHead::new(StatusCode::OK);
            for field in head.headers.iter().filter(|field| field.name.as_str().starts_with("x-")) {
                answer.headers.append(field.name.clone(), field.value.to_header_value().expect("a value"));
            }
            reply.send_head(answer, false).await?;
            while let Some(frame) = reply.while_open(body.frame()).await? {
                match frame? {
                    Frame::Data(data) => reply.data(data).await?,
                    Frame::Trailers(trailers) => return reply.trailers(trailers).await,
                }
            }
            reply.finish().await
        }
        .await;
        echoed.expect("echoed");
    }
}

async fn h2_send(send: &mut h2::SendStream<Bytes>, mut data: Bytes) {
    while !data.is_empty() {
        send.reserve_capacity(data.len());
        let count = std::future::poll_fn(|cx| send.poll_capacity(cx)).await.expect("open").expect("capacity");
        send.send_data(data.split_to(count.min(data.len())), false).expect("sent");
    }
}

async fn h2_receive(mut recv: h2::RecvStream) -> (Vec<u8>, Option<HeaderMap>) {
    let mut all = Vec::new();
    while let Some(data) = recv.data().await {
        let data = data.expect("whole");
        recv.flow_control().release_capacity(data.len()).expect("released");
        all.extend_from_slice(&data);
    }
    (all, recv.trailers().await.expect("whole"))
}

async fn from_h2(setup: Setup, plans: Vec<Plan>) {
    let (near, far) = tokio::io::duplex(setup.pipe);
    let (limits, drain) = (limits(&setup), CancellationToken::new());
    let server = async { serve(Io::other(near), &limits, &drain, &Echo).await };
    let calls = async {
        let mut builder = h2::client::Builder::new();
        builder.initial_window_size(setup.window).initial_connection_window_size(setup.connection);
        builder.max_frame_size(setup.frame).header_table_size(setup.table);
        let (client, connection) = builder.handshake::<_, Bytes>(far).await.expect("shaken");
        let mut driver = JoinSet::new();
        driver.spawn(connection);
        let mut running = JoinSet::new();
        for plan in plans {
            let mut client = client.clone().ready().await.expect("ready");
            running.spawn_local(async move {
                let mut request = http::Request::post("http://catalog.shop/orders").body(()).expect("a request");
                for (n, value) in &plan.headers {
                    request.headers_mut().append(name(*n), HeaderValue::from_str(value).expect("a value"));
                }
                let sent = request.headers().clone();
                let (response, mut send) = client.send_request(request, false).expect("sent");
                let sending = async {
                    for piece in pieces(&plan) {
                        h2_send(&mut send, piece).await;
                    }
                    let mut trailers = HeaderMap::new();
                    trailers.insert("x-sum", HeaderValue::from(plan.body));
                    match plan.trailers {
                        true => send.send_trailers(trailers).expect("sent"),
                        false => send.send_data(Bytes::new(), true).expect("sent"),
                    }
                };
                let receiving = async {
                    let (parts, recv) = response.await.expect("answered").into_parts();
                    assert_eq!(parts.headers, sent);
                    h2_receive(recv).await
                };
                let ((), (body, trailers)) = tokio::join!(sending, receiving);
                assert!(body.len() == plan.body && body.iter().enumerate().all(|(n, b)| *b == byte(n)));
                assert_eq!(trailers.is_some(), plan.trailers);
            });
        }
        while let Some(done) = running.join_next().await {
            done.expect("as planned");
        }
        drop(client);
        driver.join_next().await;
    };
    let local = tokio::task::LocalSet::new();
    let (served, ()) = tokio::join!(server, local.run_until(calls));
    served.expect("an orderly end");
}

async fn h2_echo(far: tokio::io::DuplexStream, setup: Setup) {
    let mut builder = h2::server::Builder::new();
    builder.initial_window_size(setup.window).initial_connection_window_size(setup.connection);
    builder.max_frame_size(setup.frame).header_table_size(setup.table).max_concurrent_streams(3);
    let mut connection = builder.handshake::<_, Bytes>(far).await.expect("shaken");
    let mut running = JoinSet::new();
    while let Some(accepted) = connection.accept().await {
        let (request, mut respond) = accepted.expect("a request");
        running.spawn(async move {
            let (parts, mut recv) = request.into_parts();
            let mut response = http::Response::new(());
            *response.headers_mut() = parts.headers;
            let mut send = respond.send_response(response, false).expect("sent");
            while let Some(data) = recv.data().await {
                let data = data.expect("whole");
                recv.flow_control().release_capacity(data.len()).expect("released");
                h2_send(&mut send, data).await;
            }
            match recv.trailers().await.expect("whole") {
                Some(trailers) => send.send_trailers(trailers).expect("sent"),
                None => send.send_data(Bytes::new(), true).expect("sent"),
            }
        });
    }
}

async fn to_h2(setup: Setup, plans: Vec<Plan>) {
    let (near, far) = tokio::io::duplex(setup.pipe);
    let limits = limits(&setup);
    let mut server = JoinSet::new();
    server.spawn(h2_echo(far, setup));
    let tasks = Tasks::default();
    let connection = connect(Io::other(near), &limits, true, None, &tasks).await.expect("settled");
    let calls = plans.iter().map(|plan| async {
        let mut upstream = Upstream(UpstreamKind::H2(Box::new(connection.call())));
        let mut head = RequestHead::new(Method::POST, "catalog.shop", "/orders");
        for (n, value) in &plan.headers {
            head.headers.append(name(*n), HeaderValue::from_str(value).expect("a value"));
        }
        upstream.send_head(&head, false).await.expect("sent");
        let (mut send, mut recv) = upstream.split();
        let sending = async {
            for piece in pieces(plan) {
                send.data(piece).await.expect("sent");
            }
            let mut trailers = Headers::new();
            trailers.append(HeaderName::from_static("x-sum"), HeaderValue::from(plan.body));
            match plan.trailers {
                true => send.trailers(trailers).await.expect("sent"),
                false => send.finish().await.expect("sent"),
            }
        };
        let receiving = async {
            let answer = recv.head().await.expect("answered");
            for n in 0..6 {
                let values = |headers: &Headers| {
                    headers.get_all(&name(n)).map(|value| value.as_bytes().to_vec()).collect::<Vec<_>>()
                };
                assert_eq!(values(&answer.headers), values(&head.headers));
            }
            let (mut body, mut trailers) = (Vec::new(), false);
            while let Some(frame) = recv.frame().await {
                match frame.expect("whole") {
                    Frame::Data(data) => body.extend_from_slice(&data),
                    Frame::Trailers(_) => trailers = true,
                }
            }
            assert!(body.len() == plan.body && body.iter().enumerate().all(|(n, b)| *b == byte(n)));
            assert_eq!(trailers, plan.trailers);
        };
        tokio::join!(sending, receiving);
    });
    futures_util::future::join_all(calls).await;
    assert_eq!(connection.active(), 0);
    drop(connection);
    server.join_next().await.expect("a server").expect("an orderly end");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn an_h2_client_is_served(setup in setup(), plans in proptest::collection::vec(plan(), 1..8)) {
        run(from_h2(setup, plans));
    }

    #[test]
    fn an_h2_server_is_called(setup in setup(), plans in proptest::collection::vec(plan(), 1..8)) {
        run(to_h2(setup, plans));
    }
}
