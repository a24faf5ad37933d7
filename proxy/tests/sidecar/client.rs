//! Clients: HTTP/1.1 byte by byte, HTTP/2 by the h2 crate, and the tunnels of the explicit listener.

use super::PATIENCE;
use bytes::Bytes;
use http::HeaderMap;
use std::future::Future;
use std::net::SocketAddr;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

/// What a caller got.
#[derive(Debug, Default, Clone)]
pub struct Answer {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: Vec<u8>,
    /// Of HTTP/2: trailers.
    pub trailers: HeaderMap,
}

impl Answer {
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    /// The gRPC status, of a head without a body or of trailers.
    pub fn grpc_status(&self) -> Option<u8> {
        let value = self.trailers.get("grpc-status").or_else(|| self.headers.get("grpc-status"))?;
        value.to_str().ok()?.parse().ok()
    }
}

/// Fails the test when it takes too long.
pub async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.unwrap_or_else(|_| panic!("{what}: not within {PATIENCE:?}"))
}

/// A keep-alive connection.
pub struct Client<S = TcpStream>(pub BufReader<S>);

impl Client {
    pub async fn connect(to: SocketAddr) -> Self {
        Self(BufReader::new(soon("a connection", TcpStream::connect(to)).await.unwrap()))
    }

    /// A connection to a service through the explicit listener, whatever `Host` the calls on it have.
    pub async fn tunnel(proxy: SocketAddr, to: &str) -> Self {
        let mut client = Self::connect(proxy).await;
        let answer = client.send(&format!("CONNECT {to} HTTP/1.1\r\nHost: {to}\r\n\r\n")).await;
        assert_eq!(answer.status, 200, "CONNECT {to}: {answer:?}");
        client
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Client<S> {
    /// Sends a request as it is written here and reads its answer.
    pub async fn send(&mut self, request: &str) -> Answer {
        soon("an answer", self.exchange(request.as_bytes())).await.unwrap_or_else(|| panic!("no answer to {request}"))
    }

    /// `GET /path` to a service, with more header lines, each ended by CRLF.
    pub async fn get(&mut self, host: &str, path: &str, more: &str) -> Answer {
        self.send(&format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n{more}\r\n")).await
    }

    pub async fn post(&mut self, host: &str, path: &str, body: &str) -> Answer {
        let length = body.len();
        self.send(&format!("POST {path} HTTP/1.1\r\nHost: {host}\r\nContent-Length: {length}\r\n\r\n{body}")).await
    }

    /// `None`: the connection was closed instead.
    pub async fn exchange(&mut self, request: &[u8]) -> Option<Answer> {
        self.0.write_all(request).await.ok()?;
        let bodiless = request.starts_with(b"HEAD ") || request.starts_with(b"CONNECT ");
        loop {
            let (first, headers) = head(&mut self.0).await?;
            let status = first.split(' ').nth(1)?.parse().ok()?;
            if (100..200).contains(&status) && status != 101 {
                continue;
            }
            let mut body = Vec::new();
            if !(bodiless && (status == 200 || request.starts_with(b"HEAD ")) || matches!(status, 101 | 204 | 304)) {
                body = self::body(&mut self.0, &headers).await?;
            }
            return Some(Answer { status, headers, body, trailers: HeaderMap::new() });
        }
    }
}

/// First line and headers of a message; `None` at the end of the connection.
pub async fn head<S: AsyncRead + Unpin>(stream: &mut BufReader<S>) -> Option<(String, HeaderMap)> {
    let mut lines = Vec::new();
    loop {
        let mut line = Vec::new();
        stream.read_until(b'\n', &mut line).await.ok().filter(|read| *read > 0)?;
        let line = String::from_utf8_lossy(&line).trim_end().to_owned();
        if line.is_empty() {
            break;
        }
        lines.push(line);
    }
    let mut headers = HeaderMap::new();
    for line in lines.get(1..)? {
        let (name, value) = line.split_once(':')?;
        let value = http::HeaderValue::from_bytes(value.trim().as_bytes()).ok()?;
        headers.append(http::HeaderName::from_bytes(name.as_bytes()).ok()?, value);
    }
    Some((lines.first()?.clone(), headers))
}

/// The body that follows a head; none where neither length nor chunks are announced.
pub async fn body<S: AsyncRead + Unpin>(stream: &mut BufReader<S>, headers: &HeaderMap) -> Option<Vec<u8>> {
    let mut body = Vec::new();
    if headers.contains_key("transfer-encoding") {
        loop {
            let mut line = String::new();
            stream.read_line(&mut line).await.ok()?;
            let size = usize::from_str_radix(line.trim(), 16).ok()?;
            let from = body.len();
            body.resize(from + size, 0);
            stream.read_exact(&mut body[from..]).await.ok()?;
            stream.read_exact(&mut [0; 2]).await.ok()?;
            if size == 0 {
                return Some(body);
            }
        }
    }
    if let Some(length) = headers.get("content-length") {
        body.resize(length.to_str().ok()?.parse().ok()?, 0);
        stream.read_exact(&mut body).await.ok()?;
    }
    Some(body)
}

/// An HTTP/2 connection.
pub struct H2 {
    send: h2::client::SendRequest<Bytes>,
    _task: JoinSet<()>,
}

impl H2 {
    pub async fn over<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(stream: S) -> Self {
        let (send, connection) = soon("an HTTP/2 handshake", h2::client::handshake(stream)).await.unwrap();
        let mut task = JoinSet::new();
        task.spawn(async move {
            let _ = connection.await;
        });
        Self { send, _task: task }
    }

    /// To a service through the explicit listener.
    pub async fn tunnel(proxy: SocketAddr, to: &str) -> Self {
        Self::over(Client::tunnel(proxy, to).await.0.into_inner()).await
    }

    /// Begins a call whose caller takes care of its streams.
    pub async fn begin(&mut self, request: http::Request<()>) -> (h2::client::ResponseFuture, h2::SendStream<Bytes>) {
        let mut send = soon("a stream", self.send.clone().ready()).await.unwrap();
        send.send_request(request, false).unwrap()
    }

    /// One call; without a body its head ends it.
    pub async fn call(&mut self, request: http::Request<()>, body: Option<Bytes>) -> Answer {
        let call = async {
            let mut send = self.send.clone().ready().await.unwrap();
            let (response, mut up) = send.send_request(request, body.is_none()).unwrap();
            if let Some(body) = body {
                up.send_data(body, true).unwrap();
            }
            let (head, mut down) = response.await.unwrap().into_parts();
            let mut answer = Answer { status: head.status.as_u16(), headers: head.headers, ..Answer::default() };
            while let Some(data) = down.data().await {
                let data = data.unwrap();
                let _ = down.flow_control().release_capacity(data.len());
                answer.body.extend_from_slice(&data);
            }
            answer.trailers = down.trailers().await.unwrap().unwrap_or_default();
            answer
        };
        soon("an answer", call).await
    }

    /// A gRPC call with an empty message.
    pub async fn grpc(&mut self, host: &str, path: &str) -> Answer {
        let request = http::Request::post(format!("http://{host}{path}")).header("content-type", "application/grpc");
        self.call(request.body(()).unwrap(), Some(Bytes::from_static(&[0; 5]))).await
    }
}
