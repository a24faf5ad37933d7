//! HTTP/2 and gRPC through a pair of sidecars as native streams: all four kinds of streaming, trailers, local answers.

use crate::rig::*;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use weft_proto::v1::{self, Protocol};

/// A gRPC-like server: echoes every message, ends with the status in the request's `want` header.
async fn echo() -> (std::net::SocketAddr, JoinSet<()>) {
    raw_server(|stream| async move {
        let mut connection = h2::server::handshake(stream).await.unwrap();
        let mut calls = JoinSet::new();
        while let Some(Ok((request, mut respond))) = connection.accept().await {
            calls.spawn(async move {
                let want = request.headers().get("want").cloned().unwrap_or(HeaderValue::from_static("0"));
                let host = request.uri().authority().map(ToString::to_string).unwrap_or_default();
                let mut response = Response::builder()
                    .header("content-type", "application/grpc")
                    .header("saw-authority", host)
                    .body(())
                    .unwrap();
                if want == "trailers-only" {
                    response.headers_mut().insert("grpc-status", HeaderValue::from_static("5"));
                    respond.send_response(response, true).unwrap();
                    return;
                }
                let mut send = respond.send_response(response, false).unwrap();
                let mut body = request.into_body();
                while let Some(Ok(data)) = body.data().await {
                    let _ = body.flow_control().release_capacity(data.len());
                    send.send_data(data, false).unwrap();
                }
                let mut trailers = HeaderMap::new();
                trailers.insert("grpc-status", want);
                send.send_trailers(trailers).unwrap();
            });
        }
    })
    .await
}

fn request(path: &str, want: &'static str) -> Request<()> {
    Request::builder()
        .method(Method::POST)
        .uri(format!("http://orders{path}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .header("want", want)
        .body(())
        .unwrap()
}

#[tokio::test]
async fn messages_flow_both_ways_at_once_and_the_status_comes_in_the_trailers() {
    let (app, _tasks) = echo().await;
    let pair = pair(app, Protocol::Grpc).await;
    let (mut client, _driver) = h2_over(TcpStream::connect(pair.client.outbound).await.unwrap()).await;
    let (response, mut send) = client.send_request(request("/shop.Orders/Chat", "0"), false).unwrap();
    // The response's head may come before the first message, or with it.
    send.send_data(Bytes::from_static(b"one"), false).unwrap();
    let response = tokio::time::timeout(PATIENCE, response).await.expect("in time").unwrap();
    assert_eq!((response.status().as_u16(), response.headers()["saw-authority"].as_bytes()), (200, &b"orders"[..]));
    let mut body = response.into_body();
    for message in ["one", "two", "three"] {
        if message != "one" {
            send.send_data(Bytes::from_static(message.as_bytes()), false).unwrap();
        }
        let data = tokio::time::timeout(PATIENCE, body.data()).await.expect("in time").unwrap().unwrap();
        assert_eq!(&data[..], message.as_bytes(), "each answer before the next question");
        let _ = body.flow_control().release_capacity(data.len());
    }
    send.send_data(Bytes::new(), true).unwrap();
    let trailers = tokio::time::timeout(PATIENCE, body.trailers()).await.expect("in time").unwrap().unwrap();
    assert_eq!(trailers["grpc-status"], "0");
    let labels = ["protocol=\"grpc\"", "grpc_code=\"0\"", "tls=\"mutual\""];
    eventually(|| (pair.client.count("weft_requests_total", &labels) == 1.0).then_some(())).await;
    eventually(|| {
        (pair.server.count("weft_requests_total", &[labels[0], labels[1], labels[2], "source=\"shop/storefront\""])
            == 1.0)
            .then_some(())
    })
    .await;
}

#[tokio::test]
async fn many_calls_share_one_connection_and_a_large_stream_arrives_whole() {
    let (app, _tasks) = echo().await;
    let pair = pair(app, Protocol::Grpc).await;
    let (client, _driver) = h2_over(TcpStream::connect(pair.client.outbound).await.unwrap()).await;
    let mut calls = JoinSet::new();
    for i in 0..50_usize {
        let mut client = client.clone();
        calls.spawn(async move {
            let (response, mut send) = client.send_request(request("/shop.Orders/Put", "0"), false).unwrap();
            let writer = async {
                for _ in 0..i {
                    send.reserve_capacity(10_000);
                    while send.capacity() < 10_000 {
                        std::future::poll_fn(|cx| send.poll_capacity(cx)).await.unwrap().unwrap();
                    }
                    send.send_data(Bytes::from(vec![1; 10_000]), false).unwrap();
                }
                send.send_data(Bytes::new(), true).unwrap();
            };
            let reader = async {
                let mut body = response.await.unwrap().into_body();
                let mut total = 0;
                while let Some(data) = body.data().await {
                    let data = data.unwrap();
                    total += data.len();
                    let _ = body.flow_control().release_capacity(data.len());
                }
                total
            };
            let (total, ()) = tokio::join!(reader, writer);
            assert_eq!(total, i * 10_000);
        });
    }
    tokio::time::timeout(PATIENCE, calls.join_all()).await.expect("in time");
}

#[tokio::test]
async fn a_status_without_a_message_and_a_status_after_messages_are_both_seen() {
    let (app, _tasks) = echo().await;
    let pair = pair(app, Protocol::Grpc).await;
    let (mut client, _driver) = h2_over(TcpStream::connect(pair.client.outbound).await.unwrap()).await;
    let (response, _) = client.send_request(request("/shop.Orders/Get", "trailers-only"), true).unwrap();
    assert_eq!(response.await.unwrap().headers()["grpc-status"], "5");
    let (response, _) = client.send_request(request("/shop.Orders/Get", "13"), true).unwrap();
    let mut body = response.await.unwrap().into_body();
    while let Some(Ok(_)) = body.data().await {}
    assert_eq!(body.trailers().await.unwrap().unwrap()["grpc-status"], "13");
    eventually(|| (pair.client.count("weft_requests_total", &["grpc_code=\"5\""]) == 1.0).then_some(())).await;
    eventually(|| (pair.client.count("weft_requests_total", &["grpc_code=\"13\""]) == 1.0).then_some(())).await;
}

#[tokio::test]
async fn the_proxys_own_answer_to_a_grpc_call_is_a_trailers_only_status() {
    let mesh = Mesh::new();
    let resources = v1::Resources {
        services: vec![service("orders", Protocol::Grpc, |_| {})],
        endpoints: vec![slice("orders", vec![])],
        ..Default::default()
    };
    let sidecar = mesh.sidecar("storefront", resources).await;
    let (mut client, _driver) = h2_over(TcpStream::connect(sidecar.outbound).await.unwrap()).await;
    let (response, _) = client.send_request(request("/shop.Orders/Get", "0"), true).unwrap();
    let response = tokio::time::timeout(PATIENCE, response).await.expect("in time").unwrap();
    assert_eq!(response.status(), 200);
    assert_eq!(response.headers()["grpc-status"], "14");
    assert_eq!(response.headers()["weft-error"], "no-endpoint");
    assert!(response.body().is_end_stream());
}

#[tokio::test]
async fn a_call_that_its_caller_resets_is_reset_at_the_application() {
    let (told, mut heard) = tokio::sync::mpsc::channel(2);
    let (app, _tasks) = raw_server(move |stream| {
        let told = told.clone();
        async move {
            let mut connection = h2::server::handshake(stream).await.unwrap();
            let mut calls = JoinSet::new();
            while let Some(Ok((request, respond))) = connection.accept().await {
                let told = told.clone();
                calls.spawn(async move {
                    let mut body = request.into_body();
                    while let Some(Ok(_)) = body.data().await {
                        let _ = told.send("message").await;
                    }
                    let _ = told.send("end").await;
                    drop(respond);
                });
            }
        }
    })
    .await;
    let pair = pair(app, Protocol::Grpc).await;
    let (mut client, _driver) = h2_over(TcpStream::connect(pair.client.outbound).await.unwrap()).await;
    let (response, mut send) = client.send_request(request("/shop.Orders/Wait", "0"), false).unwrap();
    send.send_data(Bytes::from_static(b"x"), false).unwrap();
    assert_eq!(tokio::time::timeout(PATIENCE, heard.recv()).await.expect("in time"), Some("message"));
    send.send_reset(h2::Reason::CANCEL);
    drop(response);
    assert_eq!(tokio::time::timeout(PATIENCE, heard.recv()).await.expect("in time"), Some("end"));
}

#[tokio::test]
async fn grpc_inside_connect_is_routed_as_calls() {
    let (app, _tasks) = echo().await;
    let pair = pair(app, Protocol::Detect).await;
    let (answer, stream) = connect_through(pair.client.outbound, "orders:80").await;
    assert_eq!(answer.status(), 200);
    let (mut client, _driver) = h2_over(stream).await;
    let (response, _) = client.send_request(request("/shop.Orders/Get", "0"), true).unwrap();
    let mut body = tokio::time::timeout(PATIENCE, response).await.expect("in time").unwrap().into_body();
    while let Some(Ok(_)) = body.data().await {}
    assert_eq!(body.trailers().await.unwrap().unwrap()["grpc-status"], "0");
    assert_eq!(pair.client.logged("/shop.Orders/Get").await[0]["protocol"], "grpc");
}
