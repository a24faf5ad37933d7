//! gRPC-Web clients before an application that speaks gRPC: both forms, over both versions, translated by whichever sidecar reaches it.

use crate::rig::*;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use weft_proto::v1::{self, Protocol};

const TEXT: &str = "application/grpc-web-text+proto";
const BINARY: &str = "application/grpc-web+proto";

async fn soon<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(PATIENCE, future).await.expect("in time")
}

fn message(payload: &[u8]) -> Vec<u8> {
    [&[0], &u32::try_from(payload.len()).unwrap().to_be_bytes()[..], payload].concat()
}

fn trailers(lines: &str) -> Vec<u8> {
    [&[0x80], &u32::try_from(lines.len()).unwrap().to_be_bytes()[..], lines.as_bytes()].concat()
}

/// Text of gRPC-Web → bytes: a row of base64 texts, each with its padding.
fn plain(media: &str, body: &[u8]) -> Vec<u8> {
    if !media.contains("-text") {
        return body.to_vec();
    }
    body.chunks(4).flat_map(|group| STANDARD.decode(group).unwrap()).collect()
}

/// A gRPC server. By method: `Echo` sends back the body, `Count` three messages each of which waits for a permit, `Missing` a status
/// alone, `Break` a message and a reset, `Cut` half a message and a reset.
async fn application() -> (SocketAddr, Arc<Semaphore>, JoinSet<()>) {
    let steps = Arc::new(Semaphore::new(0));
    let permits = Arc::clone(&steps);
    let (at, tasks) = raw_server(move |stream| {
        let steps = Arc::clone(&permits);
        async move {
            let Ok(mut connection) = h2::server::handshake(stream).await else { return };
            let mut calls = JoinSet::new();
            while let Some(Ok((request, respond))) = connection.accept().await {
                calls.spawn(answer(request, respond, Arc::clone(&steps)));
            }
        }
    })
    .await;
    (at, steps, tasks)
}

async fn answer(request: Request<h2::RecvStream>, mut respond: h2::server::SendResponse<Bytes>, steps: Arc<Semaphore>) {
    let (head, mut body) = request.into_parts();
    let grpc = head.headers["content-type"] == "application/grpc+proto" && head.headers["te"] == "trailers";
    let mut response = Response::builder().header("content-type", "application/grpc+proto").body(()).unwrap();
    let method = head.uri.path().rsplit('/').next().unwrap().to_owned();
    if method == "Missing" || !grpc {
        let code = if grpc { "5" } else { "13" };
        response.headers_mut().insert("grpc-status", HeaderValue::from_static(code));
        response.headers_mut().insert("grpc-message", HeaderValue::from_static("not here"));
        respond.send_response(response, true).unwrap();
        return;
    }
    let mut send = respond.send_response(response, false).unwrap();
    match &*method {
        "Count" => {
            for n in 0..3_u8 {
                steps.acquire().await.unwrap().forget();
                send.send_data(Bytes::from(message(&[n; 4])), false).unwrap();
            }
        }
        "Break" | "Cut" => {
            let whole = message(b"only");
            let length = if method == "Cut" { 7 } else { whole.len() };
            send.send_data(Bytes::from(whole).slice(..length), false).unwrap();
            steps.acquire().await.unwrap().forget();
            send.send_reset(h2::Reason::INTERNAL_ERROR);
            return;
        }
        _ => {
            while let Some(Ok(data)) = body.data().await {
                let _ = body.flow_control().release_capacity(data.len());
                let mut left = data;
                while !left.is_empty() {
                    send.reserve_capacity(left.len());
                    let Some(Ok(room)) = std::future::poll_fn(|cx| send.poll_capacity(cx)).await else { return };
                    send.send_data(left.split_to(room.min(left.len())), false).unwrap();
                }
            }
        }
    }
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static("0"));
    trailers.insert("x-checked", HeaderValue::from_static("yes"));
    send.send_trailers(trailers).unwrap();
}

const DONE: &str = "grpc-status: 0\r\nx-checked: yes\r\n";

/// An answer with its body as it came.
struct Web {
    status: u16,
    media: String,
    error: Option<String>,
    cors: Option<String>,
    body: Vec<u8>,
}

impl Web {
    /// The body as bytes, whatever its form.
    fn plain(&self) -> Vec<u8> {
        plain(&self.media, &self.body)
    }
}

/// One call: `pieces` are the body's chunks or frames.
async fn call(native: bool, to: SocketAddr, method: &str, media: &str, more: &[(&str, &str)], pieces: &[&[u8]]) -> Web {
    if native {
        let (mut client, _driver) = h2_over(TcpStream::connect(to).await.unwrap()).await;
        let mut request = Request::builder().method(Method::POST).uri(format!("http://orders/shop.Orders/{method}"));
        for (name, value) in [("content-type", media)].iter().chain(more) {
            request = request.header(*name, *value);
        }
        let (response, mut send) = client.send_request(request.body(()).unwrap(), false).unwrap();
        for piece in pieces {
            // Where the answer comes first, the rest is not wanted.
            let _ = send.send_data(Bytes::copy_from_slice(piece), false);
        }
        let _ = send.send_data(Bytes::new(), true);
        let (head, mut body) = soon(response).await.unwrap().into_parts();
        let mut all = Vec::new();
        while let Some(data) = soon(body.data()).await {
            let data = data.unwrap();
            let _ = body.flow_control().release_capacity(data.len());
            all.extend_from_slice(&data);
        }
        assert!(body.trailers().await.unwrap().is_none(), "trailers that no client of gRPC-Web can read");
        let text = |name| head.headers.get(name).map(|value| value.to_str().unwrap().to_owned());
        return Web {
            status: head.status.as_u16(),
            media: text("content-type").unwrap_or_default(),
            error: text("weft-error"),
            cors: text("access-control-allow-origin"),
            body: all,
        };
    }
    let mut client = begin(to, method, media, more).await;
    for piece in pieces.iter().filter(|piece| !piece.is_empty()) {
        let head = format!("{:x}\r\n", piece.len());
        let chunk = [head.as_bytes(), piece, b"\r\n"].concat();
        if client.0.write_all(&chunk).await.is_err() {
            break;
        }
    }
    let _ = client.0.write_all(b"0\r\n\r\n").await;
    let head = soon(read_head(&mut client.0)).await.expect("an answer");
    let body = soon(read_body(&mut client.0, &head, false)).await.expect("a body");
    let text = |name| header(&head, name).map(str::to_owned);
    Web {
        status: head.split(' ').nth(1).unwrap().parse().unwrap(),
        media: text("content-type").unwrap_or_default(),
        error: text("weft-error"),
        cors: text("access-control-allow-origin"),
        body,
    }
}

/// The head of a call over HTTP/1.1.
async fn begin(to: SocketAddr, method: &str, media: &str, more: &[(&str, &str)]) -> Client {
    let mut client = Client::connect(to).await;
    let more: String = more.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    let head = format!(
        "POST http://orders/shop.Orders/{method} HTTP/1.1\r\nHost: orders\r\nContent-Type: {media}\r\nTransfer-Encoding: chunked\r\nX-Grpc-Web: 1\r\n{more}\r\n"
    );
    client.0.write_all(head.as_bytes()).await.unwrap();
    client
}

/// How the application is reached, and by whom the call is translated.
#[derive(Clone, Copy, Debug)]
enum Between {
    /// The client's sidecar, which has no peer.
    One,
    /// The client's, whose peer gets gRPC.
    Two,
    /// The application's, since the client's may send it CONNECT streams only.
    Hbone,
}

struct Stage {
    client: Sidecar,
    server: Option<Sidecar>,
    _mesh: Mesh,
}

async fn stage(between: Between, app: SocketAddr, edit: impl FnOnce(&mut v1::ServicePort)) -> Stage {
    let mesh = Mesh::new();
    let (mut endpoint, mut server) = (bare("orders-1", app), None);
    if !matches!(between, Between::One) {
        let permissive = |port: &mut v1::InboundPort| port.tls = v1::TlsMode::Permissive.into();
        let beside = mesh.sidecar("orders", inbound(&mesh, "orders", app, Protocol::Grpc, permissive)).await;
        endpoint = meshed("orders-1", app, beside.tunnel, mesh.id("orders"));
        if matches!(between, Between::Hbone) {
            endpoint.server_name.clear();
        }
        server = Some(beside);
    }
    let resources = v1::Resources {
        services: vec![service("orders", Protocol::Grpc, edit)],
        endpoints: vec![slice("orders", vec![endpoint])],
        ..Default::default()
    };
    let client = mesh.sidecar("storefront", resources).await;
    Stage { client, server, _mesh: mesh }
}

#[tokio::test]
async fn a_call_is_translated_in_either_form_and_its_status_comes_in_the_last_frame() {
    let (app, _, _tasks) = application().await;
    let body = [message(b"hello"), message(b"")].concat();
    // Padded in the middle, as a client does that flushes there, and cut where no group ends.
    let text = [STANDARD.encode(&body[..7]), STANDARD.encode(&body[7..])].concat().into_bytes();
    let pieces = [&text[..3], &text[3..9], &text[9..]];
    for between in [Between::One, Between::Two, Between::Hbone] {
        let stage = stage(between, app, |_| {}).await;
        for native in [false, true] {
            for (media, pieces) in [(BINARY, &[&body[..6], &body[6..]][..]), (TEXT, &pieces)] {
                let web = call(native, stage.client.outbound, "Echo", media, &[], pieces).await;
                assert_eq!((web.status, web.media.as_str()), (200, media), "{between:?} {native}");
                assert_eq!(web.plain(), [&body[..], &trailers(DONE)].concat(), "{between:?} {native} {media}");
            }
            let web = call(native, stage.client.outbound, "Echo", BINARY, &[("accept", TEXT)], &[&body]).await;
            assert_eq!(web.media, TEXT, "the form that it accepts");
            assert_eq!(web.plain(), [&body[..], &trailers(DONE)].concat());
        }
        let outbound = ["direction=\"outbound\"", "protocol=\"grpc-web\"", "code=\"200\""];
        eventually(|| (stage.client.count("weft_requests_total", &outbound) == 6.0).then_some(())).await;
        let (who, translated) = match (between, &stage.server) {
            (Between::Hbone, Some(server)) => (server, "protocol=\"grpc-web\""),
            _ => (&stage.client, "protocol=\"grpc-web\""),
        };
        eventually(|| (who.count("weft_requests_total", &[translated, "grpc_code=\"0\""]) == 6.0).then_some(())).await;
        if let (Between::Two, Some(server)) = (between, &stage.server) {
            eventually(|| {
                (server.count("weft_requests_total", &["protocol=\"grpc\"", "grpc_code=\"0\""]) == 6.0).then_some(())
            })
            .await;
        }
    }
}

#[tokio::test]
async fn a_plain_client_of_a_permissive_port_is_translated_for_where_it_arrives() {
    let (app, _, _tasks) = application().await;
    let stage = stage(Between::Two, app, |_| {}).await;
    let at = stage.server.as_ref().unwrap().plain;
    for native in [false, true] {
        let web = call(native, at, "Echo", TEXT, &[], &[STANDARD.encode(message(b"hi")).as_bytes()]).await;
        assert_eq!(web.plain(), [message(b"hi"), trailers(DONE)].concat());
    }
}

#[tokio::test]
async fn a_large_message_streams_both_ways() {
    let (app, _, _tasks) = application().await;
    let stage = stage(Between::Two, app, |_| {}).await;
    let body = message(&(0..5_000_000_u32).flat_map(|n| n.to_le_bytes()[..1].to_vec()).collect::<Vec<_>>());
    let text = STANDARD.encode(&body);
    let client = begin(stage.client.outbound, "Echo", TEXT, &[]).await;
    let (mut reader, mut writer) = tokio::io::split(client.0);
    let writing = async {
        for piece in text.as_bytes().chunks(10_007) {
            let head = format!("{:x}\r\n", piece.len());
            writer.write_all(&[head.as_bytes(), piece, b"\r\n"].concat()).await.unwrap();
        }
        writer.write_all(b"0\r\n\r\n").await.unwrap();
    };
    let reading = async {
        let mut reader = tokio::io::BufReader::new(&mut reader);
        let head = read_head(&mut reader).await.unwrap();
        read_body(&mut reader, &head, false).await.unwrap()
    };
    let ((), got) = soon(async { tokio::join!(writing, reading) }).await;
    assert!(plain(TEXT, &got) == [&body[..], &trailers(DONE)].concat(), "{} bytes", got.len());
}

#[tokio::test]
async fn each_message_of_a_stream_arrives_before_the_next_is_made() {
    for media in [BINARY, TEXT] {
        let (app, steps, _tasks) = application().await;
        let stage = stage(Between::Two, app, |_| {}).await;
        let mut client = begin(stage.client.outbound, "Count", media, &[]).await;
        client.0.write_all(b"0\r\n\r\n").await.unwrap();
        steps.add_permits(1);
        let head = soon(read_head(&mut client.0)).await.unwrap();
        assert_eq!(header(&head, "content-type"), Some(media));
        for n in 0..3 {
            let expected = message(&[n; 4]);
            let mut got = Vec::new();
            while got.len() < expected.len() {
                got.extend(plain(media, &chunk(&mut client).await));
            }
            assert_eq!(got, expected);
            steps.add_permits(1);
        }
        let rest = soon(read_body(&mut client.0, &head, false)).await.unwrap();
        assert_eq!(plain(media, &rest), trailers(DONE));
    }
}

/// One chunk of a chunked body.
async fn chunk(client: &mut Client) -> Vec<u8> {
    soon(async {
        let mut line = String::new();
        client.0.read_line(&mut line).await.unwrap();
        let mut data = vec![0; usize::from_str_radix(line.trim(), 16).unwrap() + 2];
        client.0.read_exact(&mut data).await.unwrap();
        data.truncate(data.len() - 2);
        data
    })
    .await
}

#[tokio::test]
async fn a_status_without_a_message_becomes_a_frame_and_is_counted() {
    let (app, _, _tasks) = application().await;
    for between in [Between::One, Between::Two, Between::Hbone] {
        let stage = stage(between, app, |_| {}).await;
        for (native, media) in [(false, BINARY), (true, TEXT)] {
            let web = call(native, stage.client.outbound, "Missing", media, &[], &[]).await;
            assert_eq!((web.status, web.media.as_str(), web.error.as_deref()), (200, media, None));
            assert_eq!(web.plain(), trailers("grpc-status: 5\r\ngrpc-message: not here\r\n"));
        }
        let (who, labels) = match &stage.server {
            Some(server) => (server, ["direction=\"inbound\"", "grpc_code=\"5\""]),
            None => (&stage.client, ["direction=\"outbound\"", "grpc_code=\"5\""]),
        };
        eventually(|| (who.count("weft_requests_total", &labels) == 2.0).then_some(())).await;
    }
}

/// A route of one rule to `orders`.
fn route(kind: v1::RouteKind, matches: v1::RouteMatch, filters: Vec<v1::Filter>) -> v1::Route {
    let backend = v1::WeightedBackend { service: "shop/orders".into(), port: 80, weight: 1, ..Default::default() };
    let rule = v1::RouteRule { matches: vec![matches], filters, backends: vec![backend], ..Default::default() };
    v1::Route { name: "shop/web".into(), kind: kind.into(), rules: vec![rule], ..Default::default() }
}

#[tokio::test]
async fn errors_of_the_proxy_are_answers_in_the_callers_form_and_scripts_may_read_them() {
    let cors = v1::Cors { allow_origins: vec!["http://shop".into()], ..Default::default() };
    let filter = v1::Filter { filter: Some(v1::filter::Filter::Cors(cors)) };
    let route = route(v1::RouteKind::Http, v1::RouteMatch::default(), vec![filter]);
    let mesh = Mesh::new();
    let resources = v1::Resources {
        services: vec![service("orders", Protocol::Grpc, |port| {
            port.frontend = Some(v1::Frontend { routes: vec![route], ..Default::default() });
        })],
        endpoints: vec![slice("orders", vec![])],
        ..Default::default()
    };
    let sidecar = mesh.sidecar("storefront", resources).await;
    for (native, media) in [(false, BINARY), (true, BINARY), (false, TEXT), (true, TEXT)] {
        let web = call(native, sidecar.outbound, "Get", media, &[("origin", "http://shop")], &[]).await;
        assert_eq!((web.status, web.media.as_str(), web.error.as_deref()), (200, media, Some("no-endpoint")));
        assert_eq!(web.cors.as_deref(), Some("http://shop"));
        let frame = String::from_utf8_lossy(&web.plain()[5..]).into_owned();
        assert!(
            web.plain()[0] == 0x80 && frame.starts_with("grpc-status: 14\r\ngrpc-message: no-endpoint: "),
            "{frame}"
        );
    }
    let preflight = "OPTIONS http://orders/shop.Orders/Get HTTP/1.1\r\nHost: orders\r\nOrigin: http://shop\r\nAccess-Control-Request-Method: POST\r\nAccess-Control-Request-Headers: content-type,x-grpc-web\r\n\r\n";
    let answer = Client::connect(sidecar.outbound).await.send(preflight).await;
    assert_eq!((answer.status(), answer.header("access-control-allow-origin")), (204, Some("http://shop")));
    eventually(|| {
        (sidecar.count("weft_requests_total", &["protocol=\"grpc-web\"", "grpc_code=\"14\""]) == 4.0).then_some(())
    })
    .await;
}

#[tokio::test]
async fn an_upstream_that_breaks_between_messages_is_told_as_a_status_and_within_one_the_call_breaks() {
    for media in [BINARY, TEXT] {
        let (app, steps, _tasks) = application().await;
        let stage = stage(Between::One, app, |_| {}).await;
        let mut client = begin(stage.client.outbound, "Break", media, &[]).await;
        client.0.write_all(b"0\r\n\r\n").await.unwrap();
        let head = soon(read_head(&mut client.0)).await.unwrap();
        assert_eq!(plain(media, &chunk(&mut client).await), message(b"only"));
        steps.add_permits(1);
        let rest = plain(media, &soon(read_body(&mut client.0, &head, false)).await.unwrap());
        let frame = String::from_utf8_lossy(&rest[5..]).into_owned();
        assert!(rest[0] == 0x80 && frame.starts_with("grpc-status: 14\r\n"), "{frame}");
        let labels = ["grpc_code=\"14\"", "upstream_reset"];
        eventually(|| (stage.client.count("weft_requests_total", &labels) == 1.0).then_some(())).await;
    }
    let (app, steps, _tasks) = application().await;
    let stage = stage(Between::One, app, |_| {}).await;
    let mut client = begin(stage.client.outbound, "Cut", BINARY, &[]).await;
    client.0.write_all(b"0\r\n\r\n").await.unwrap();
    let head = soon(read_head(&mut client.0)).await.unwrap();
    assert_eq!(chunk(&mut client).await.len(), 7);
    steps.add_permits(1);
    assert!(soon(read_body(&mut client.0, &head, false)).await.is_none(), "no end of a body that has none");
}

#[tokio::test]
async fn text_that_is_not_base64_is_answered_400() {
    let (app, _, _tasks) = application().await;
    for between in [Between::One, Between::Two] {
        let stage = stage(between, app, |_| {}).await;
        for native in [false, true] {
            for text in ["AAAA*AAA", "AAAAA", "=AAA", "AAAA====", "\r\nAA"] {
                let web = call(native, stage.client.outbound, "Wait", TEXT, &[], &[b"AAAA", text.as_bytes()]).await;
                assert_eq!((web.status, web.error.as_deref()), (400, Some("bad-request")), "{native} {text:?}");
            }
        }
    }
}

#[tokio::test]
async fn an_application_of_plain_http_gets_the_call_as_it_is() {
    let app = Server::start(|seen: Seen| async move {
        let media = header(&seen.head, "content-type").unwrap_or_default().to_owned();
        let head = format!("HTTP/1.1 200 OK\r\nContent-Type: {media}\r\nContent-Length: {}\r\n\r\n", seen.body.len());
        [head.as_bytes(), &seen.body].concat()
    })
    .await;
    let pair = pair(app.at, Protocol::Http1).await;
    for (native, media) in [(false, BINARY), (true, TEXT)] {
        let web = call(native, pair.client.outbound, "Echo", media, &[], &[b"any*thing"]).await;
        assert_eq!((web.status, web.media.as_str(), &web.body[..]), (200, media, &b"any*thing"[..]));
    }
}

#[tokio::test]
async fn routes_of_grpc_choose_by_method() {
    let (app, _, _tasks) = application().await;
    let stage = stage(Between::One, app, |port| {
        let method = v1::GrpcMethod { service: "shop.Orders".into(), method: "Echo".into(), ..Default::default() };
        let path = Some(v1::route_match::Path::Grpc(method));
        let route = route(v1::RouteKind::Grpc, v1::RouteMatch { path, ..Default::default() }, vec![]);
        port.frontend = Some(v1::Frontend { routes: vec![route], ..Default::default() });
    })
    .await;
    let web = call(false, stage.client.outbound, "Echo", BINARY, &[], &[&message(b"x")]).await;
    assert_eq!(web.plain(), [message(b"x"), trailers(DONE)].concat());
    let web = call(false, stage.client.outbound, "Other", BINARY, &[], &[&message(b"x")]).await;
    assert_eq!(web.error.as_deref(), Some("no-route"));
    assert!(String::from_utf8_lossy(&web.plain()).contains("grpc-status: 12\r\n"));
}

#[tokio::test]
async fn an_attempt_after_another_sends_the_text_decoded_from_its_beginning() {
    let (refused, mut refusals) = tokio::sync::mpsc::unbounded_channel();
    let first = Arc::new(AtomicBool::new(true));
    let (app, _tasks) = raw_server(move |stream| {
        let (refused, first) = (refused.clone(), Arc::clone(&first));
        async move {
            let Ok(mut connection) = h2::server::handshake(stream).await else { return };
            let mut calls = JoinSet::new();
            while let Some(Ok((request, mut respond))) = connection.accept().await {
                if !first.swap(false, SeqCst) {
                    calls.spawn(answer(request, respond, Arc::new(Semaphore::new(0))));
                    continue;
                }
                let refused = refused.clone();
                calls.spawn(async move {
                    let data = request.into_body().data().await;
                    respond.send_reset(h2::Reason::REFUSED_STREAM);
                    let _ = refused.send(data.unwrap().unwrap());
                });
            }
        }
    })
    .await;
    let mesh = Mesh::new();
    let resources = v1::Resources {
        services: vec![service("orders", Protocol::Grpc, |_| {})],
        endpoints: vec![slice("orders", vec![bare("orders-1", app), bare("orders-2", app)])],
        ..Default::default()
    };
    let sidecar = mesh.sidecar("storefront", resources).await;
    let body = message(b"hello again");
    let text = STANDARD.encode(&body);
    let mut client = Client::connect(sidecar.outbound).await;
    let head = format!(
        "POST http://orders/shop.Orders/Echo HTTP/1.1\r\nHost: orders\r\nContent-Type: {TEXT}\r\nContent-Length: {}\r\n\r\n",
        text.len(),
    );
    client.0.write_all(&[head.as_bytes(), &text.as_bytes()[..10]].concat()).await.unwrap();
    let seen = soon(refusals.recv()).await.unwrap();
    assert_eq!(&seen[..], &body[..6], "of ten characters two groups are whole");
    client.0.write_all(&text.as_bytes()[10..]).await.unwrap();
    let head = soon(read_head(&mut client.0)).await.unwrap();
    let got = soon(read_body(&mut client.0, &head, false)).await.unwrap();
    assert_eq!(plain(TEXT, &got), [&body[..], &trailers(DONE)].concat());
    assert_eq!(sidecar.count("weft_retries_total", &["refused"]), 1.0);
}

#[tokio::test]
async fn a_mirror_that_speaks_grpc_gets_grpc() {
    let (app, steps, _tasks) = application().await;
    let mirror = v1::Mirror { service: "shop/orders".into(), port: 80, ..Default::default() };
    let filter = v1::Filter { filter: Some(v1::filter::Filter::Mirror(mirror)) };
    let route = route(v1::RouteKind::Http, v1::RouteMatch::default(), vec![filter]);
    let stage = stage(Between::One, app, |port| {
        port.frontend = Some(v1::Frontend { routes: vec![route], ..Default::default() });
    })
    .await;
    // A call that is no gRPC takes no permit.
    steps.add_permits(6);
    let text = STANDARD.encode(message(b"x"));
    let web = call(false, stage.client.outbound, "Count", TEXT, &[], &[text.as_bytes()]).await;
    assert!(web.plain().ends_with(&trailers(DONE)));
    eventually(|| (steps.available_permits() == 0).then_some(())).await;
    eventually(|| (stage.client.count("weft_mirrored_total", &["answered"]) == 1.0).then_some(())).await;
}
