//! The dashboard's files on the resource API's own listener: for whoever asks, while everything else stays behind the door.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a panic in a test is the report")]

mod support;

use std::time::Duration;

use support::Server;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use weft_certs::tls::api_client_config;

const PATIENCE: Duration = Duration::from_secs(20);

/// Head and body of the answer to somebody without any credentials.
async fn ask(server: &Server, method: &str, path: &str, more: &str) -> (u16, String, String) {
    let config = api_client_config([server.ca.certificate()], None, &[b"http/1.1"]).unwrap();
    let stream = TcpStream::connect(server.address).await.unwrap();
    let mut stream =
        tokio_rustls::TlsConnector::from(config).connect("localhost".try_into().unwrap(), stream).await.unwrap();
    let host = if more.contains("Host:") { "" } else { "Host: localhost\r\n" };
    let request = format!("{method} {path} HTTP/1.1\r\n{host}Connection: close\r\n{more}\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    tokio::time::timeout(PATIENCE, stream.read_to_end(&mut answer)).await.expect("it answers in time").unwrap();
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.split(' ').nth(1).unwrap().parse().unwrap(), head.to_lowercase(), body.to_owned())
}

#[tokio::test]
async fn pages_are_for_everybody_and_what_they_show_is_not() {
    let server = Server::start().await;
    let (_, head, _) = ask(&server, "GET", "/dashboard/", "").await;
    assert!(head.contains("content-security-policy: default-src 'none';"), "{head}");
    let (code, head, _) = ask(&server, "GET", "/", "Accept: text/html\r\n").await;
    assert!(code == 303 && head.contains("location: /dashboard/"), "{head}");
    for path in ["/", "/api", "/weft/v1/stat", "/dashboards", "/apis/weft.mesh/v1alpha1/workloads"] {
        let (code, _, body) = ask(&server, "GET", path, "").await;
        assert_eq!(code, 401, "{path}");
        assert!(body.contains("\"kind\":\"Status\""), "{path}: {body}");
    }
    // No path leads out of the files, to others of this host or to the API.
    for path in ["/dashboard/../api", "/dashboard/assets/../../../etc/passwd", "/dashboard//etc/passwd.txt"] {
        let (code, _, body) = ask(&server, "GET", path, "").await;
        assert!(code == 404 && !body.contains("root:"), "{path}: {code} {body}");
    }
    assert_eq!(ask(&server, "POST", "/dashboard/", "Content-Length: 0\r\n").await.0, 405);
    // A page of others that had its name lead here is refused before it is answered.
    assert_eq!(ask(&server, "GET", "/dashboard/", "Host: rebound.example\r\n").await.0, 421);
    server.stop().await;
}
