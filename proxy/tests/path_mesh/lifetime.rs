//! Certificates that end while connections live: calls notice nothing, connections end.

use crate::rig::*;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt, BufReader};
use weft_proto::v1::Protocol;

const LEAF: Duration = Duration::from_secs(4);
const GRACE: Duration = Duration::from_secs(2);

#[tokio::test]
async fn connections_end_with_their_certificates_and_no_call_notices() {
    let (app, _tasks) = raw_server(|stream| async move {
        let mut stream = BufReader::new(stream);
        while let Some(head) = read_head(&mut stream).await {
            if !head.starts_with("GET /long") {
                if stream.write_all(&ok("well")).await.is_err() {
                    return;
                }
                continue;
            }
            let mut sent = stream.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").await;
            while sent.is_ok() {
                tokio::time::sleep(Duration::from_millis(20)).await;
                sent = stream.write_all(b"1\r\n.\r\n").await;
            }
        }
    })
    .await;
    let mut mesh = Mesh::new();
    (mesh.leaf, mesh.grace) = (Some(LEAF), GRACE);
    let pair = pair_in(mesh, app, Protocol::Http1, |_| {}).await;
    let began = Instant::now();
    let mut long = Client::connect(pair.client.outbound).await;
    long.0.write_all(b"GET http://orders/long HTTP/1.1\r\nHost: orders\r\n\r\n").await.unwrap();
    let mut ended = std::pin::pin!(async {
        let mut buffer = [0; 1024];
        while let Ok(Ok(1..)) = tokio::time::timeout(PATIENCE, long.0.read(&mut buffer)).await {}
        began.elapsed()
    });
    let (mut renewed, mut calls, mut late) = (began, 0, None);
    let mut client = Client::connect(pair.client.outbound).await;
    // Three lives.
    while began.elapsed() < 3 * LEAF {
        let answer = client.get("http://orders/").await;
        assert_eq!((answer.status(), answer.body.as_str()), (200, "well"), "after {:?}: {answer:?}", began.elapsed());
        calls += 1;
        if renewed.elapsed() > LEAF.mul_f64(0.4) {
            pair.mesh.renew();
            renewed = Instant::now();
        }
        tokio::select! {
            at = ended.as_mut(), if late.is_none() => late = Some(at),
            () = tokio::time::sleep(Duration::from_millis(10)) => {}
        }
    }
    let late = late.expect("what is open does not outlive its certificate by more than the grace").as_secs_f64();
    assert!((4.5..8.0).contains(&late), "a life of 4 s in whole seconds, and a grace of 2 s: {late}");
    assert!(calls > 300, "{calls}");
    let made = pair.client.count("weft_tls_handshakes_total", &["direction=\"outbound\"", "result=\"ok\""]);
    assert!((3.0..20.0).contains(&made), "{made}");
    let cut = |sidecar: &Sidecar| sidecar.count("weft_tls_expired_total", &[]);
    assert!(cut(&pair.client) + cut(&pair.server) >= 1.0);
    let failed = pair.client.count("weft_tls_handshakes_total", &["result=\"expired\""]);
    assert_eq!(failed, 0.0, "{}", pair.client.metrics());
}
