//! Opaque connections through a pair of sidecars: half-close, servers that speak first, who settles a silent connection.

use crate::rig::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use weft_proto::v1::{self, Protocol};

async fn read(stream: &mut TcpStream) -> Vec<u8> {
    let mut all = Vec::new();
    tokio::time::timeout(PATIENCE, stream.read_to_end(&mut all)).await.expect("in time").expect("readable");
    all
}

#[tokio::test]
async fn a_half_closed_connection_still_carries_the_answer() {
    let (app, _tasks) = raw_server(|mut stream| async move {
        let mut all = Vec::new();
        stream.read_to_end(&mut all).await.unwrap();
        stream.write_all(format!("{} bytes", all.len()).as_bytes()).await.unwrap();
    })
    .await;
    let pair = pair(app, Protocol::Tcp).await;
    let mut stream = TcpStream::connect(pair.client.named[0]).await.unwrap();
    let bulk = vec![7; 3_000_000];
    stream.write_all(&bulk).await.unwrap();
    stream.shutdown().await.unwrap();
    assert_eq!(read(&mut stream).await, b"3000000 bytes");
    let line = pair.client.logged("\"kind\":\"tcp\"").await.remove(0);
    assert_eq!(
        (&line["bytesReceived"], &line["bytesSent"], &line["mtls"]),
        (&3_000_000.into(), &13.into(), &true.into()),
        "{line}"
    );
    assert_eq!(line["destination"], "shop/orders");
    assert_eq!(pair.client.count("weft_tcp_received_bytes_total", &["direction=\"outbound\""]), 3_000_000.0);
    assert_eq!(pair.server.count("weft_tcp_sent_bytes_total", &["direction=\"inbound\""]), 13.0);
}

#[tokio::test]
async fn a_server_that_speaks_first_is_heard_on_an_undeclared_port() {
    let (app, _tasks) = raw_server(|mut stream| async move {
        stream.write_all(b"220 ready\r\n").await.unwrap();
        let mut line = [0; 6];
        stream.read_exact(&mut line).await.unwrap();
        assert_eq!(&line, b"QUIT\r\n");
        stream.write_all(b"221 bye\r\n").await.unwrap();
    })
    .await;
    let pair = pair(app, Protocol::Detect).await;
    let mut stream = TcpStream::connect(pair.client.named[0]).await.unwrap();
    let mut greeting = [0; 11];
    tokio::time::timeout(PATIENCE, stream.read_exact(&mut greeting)).await.expect("in time").unwrap();
    assert_eq!(&greeting, b"220 ready\r\n");
    stream.write_all(b"QUIT\r\n").await.unwrap();
    assert_eq!(read(&mut stream).await, b"221 bye\r\n");
    assert_eq!(pair.client.count("weft_detections_total", &["direction=\"outbound\"", "outcome=\"timeout\""]), 1.0);
}

#[tokio::test]
async fn a_client_that_speaks_late_http_on_an_undeclared_port_is_still_routed() {
    let app = Server::always("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi").await;
    let pair = pair(app.at, Protocol::Detect).await;
    let mut client = Client::connect(pair.client.named[0]).await;
    eventually(|| (pair.client.count("weft_detections_total", &["timeout"]) > 0.0).then_some(())).await;
    assert_eq!(client.send("GET /late HTTP/1.1\r\nHost: x\r\n\r\n").await.body, "hi");
    assert_eq!(pair.client.logged("/late").await[0]["kind"], "call");
}

#[tokio::test]
async fn bytes_that_are_no_http_pass_on_an_undeclared_port() {
    let (app, _tasks) = raw_server(|mut stream| async move {
        let mut buffer = [0; 64];
        while let Ok(n @ 1..) = stream.read(&mut buffer).await {
            stream.write_all(&buffer[..n]).await.unwrap();
        }
    })
    .await;
    let pair = pair(app, Protocol::Detect).await;
    let (answer, mut stream) = connect_through(pair.client.outbound, "orders:80").await;
    assert_eq!(answer.status(), 200);
    stream.write_all(b"*1\r\n$4\r\nPING\r\n").await.unwrap();
    let mut echo = [0; 14];
    tokio::time::timeout(PATIENCE, stream.read_exact(&mut echo)).await.expect("in time").unwrap();
    assert_eq!(&echo, b"*1\r\n$4\r\nPING\r\n");
}

#[tokio::test]
async fn a_connection_that_no_endpoint_takes_ends_and_says_so_in_metrics_and_log() {
    let dead = Server::always("").await;
    let at = dead.at;
    let mesh = Mesh::new();
    let resources = v1::Resources {
        services: vec![service("orders", Protocol::Tcp, |_| {})],
        endpoints: vec![slice("orders", vec![bare("orders-1", at)])],
        ..Default::default()
    };
    drop(dead);
    let client = mesh.sidecar_with("storefront", resources, None, &[("orders", 80)]).await;
    let mut stream = TcpStream::connect(client.named[0]).await.unwrap();
    let ended = tokio::time::timeout(PATIENCE, stream.read(&mut [0; 1])).await.expect("in time");
    assert_eq!(ended.unwrap_or(0), 0);
    assert_eq!(client.logged("connect_failed").await[0]["attempts"], 3);
    assert_eq!(client.count("weft_tcp_connections_closed_total", &["connect_failed"]), 1.0);
}

#[tokio::test]
async fn a_redirected_connection_goes_to_the_service_whose_address_it_had_and_others_pass_or_are_refused() {
    let app = Server::always("HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nmeshed").await;
    let outside = Server::always("HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\noutside").await;
    let mesh = Mesh::new();
    let server = mesh.sidecar("orders", inbound(&mesh, "orders", app.at, Protocol::Http1, |_| {})).await;
    let mut orders = service("orders", Protocol::Http1, |_| {});
    orders.vips = vec!["192.0.2.10".into()];
    let mut resources = v1::Resources {
        services: vec![orders],
        endpoints: vec![slice("orders", vec![meshed("orders-1", app.at, server.tunnel, mesh.id("orders"))])],
        ..Default::default()
    };
    let to = ["192.0.2.10:80".parse().unwrap(), outside.at, "192.0.2.99:80".parse().unwrap()];
    let client = mesh.intercepting("storefront", resources.clone(), &to).await;
    // The address decides, not what the request says.
    let by_address = Client::connect(client.redirected[0]).await.send("GET /vip HTTP/1.1\r\nHost: x\r\n\r\n").await;
    assert_eq!(by_address.body, "meshed");
    assert_eq!(client.logged("/vip").await[0]["mtls"], true);
    let passed = Client::connect(client.redirected[1]).await.send("GET / HTTP/1.1\r\nHost: orders\r\n\r\n").await;
    assert_eq!(passed.body, "outside");
    assert_eq!(client.logged("passthrough").await[0]["authority"], outside.at.to_string());
    resources.settings = Some(v1::MeshSettings {
        trust_domain: "weft.local".into(),
        domain: "cluster.local".into(),
        egress: v1::Egress::RegisteredOnly.into(),
        ..Default::default()
    });
    client.update(resources).await;
    let mut refused = TcpStream::connect(client.redirected[2]).await.unwrap();
    let ended = tokio::time::timeout(PATIENCE, refused.read(&mut [0; 1])).await.expect("in time");
    assert_eq!(ended.unwrap_or(0), 0);
    assert_eq!(client.count("weft_refused_total", &["forbidden_destination"]), 1.0);
}
