//! Applications: answer HTTP/1.1, HTTP/2 and gRPC by a function, and anything else with their name.

use super::client::{body, head};
use bytes::Bytes;
use http::HeaderMap;
use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use tokio::io::{AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::task::JoinSet;

/// A call as an application sees it.
#[derive(Debug, Clone)]
pub struct Call {
    pub method: String,
    /// With its query.
    pub path: String,
    pub host: String,
    pub headers: HeaderMap,
    pub body: Vec<u8>,
}

impl Call {
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }
}

/// What it answers. A call with `application/grpc` gets `grpc_status` in trailers.
#[derive(Debug, Clone, Default)]
pub struct Said {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: Bytes,
    pub grpc_status: u8,
}

impl Said {
    pub fn ok(body: impl Into<Bytes>) -> Self {
        Self { status: 200, body: body.into(), ..Self::default() }
    }

    pub fn status(status: u16) -> Self {
        Self { status, ..Self::default() }
    }
}

/// An application that runs; dropping it ends it and its connections.
pub struct App {
    pub at: SocketAddr,
    calls: Arc<AtomicUsize>,
    _tasks: JoinSet<()>,
}

impl App {
    /// Answers every call by `answer`; `name` is what it says to what is not HTTP.
    pub async fn start<F, R>(name: &'static str, answer: F) -> Self
    where
        F: Fn(Call) -> R + Send + Sync + 'static,
        R: Future<Output = Said> + Send + 'static,
    {
        Self::start_on(SocketAddr::from(([127, 0, 0, 1], 0)), name, answer).await
    }

    /// As [`App::start`], at an address.
    pub async fn start_on<F, R>(at: SocketAddr, name: &'static str, answer: F) -> Self
    where
        F: Fn(Call) -> R + Send + Sync + 'static,
        R: Future<Output = Said> + Send + 'static,
    {
        let listener = TcpListener::bind(at).await.unwrap();
        let at = listener.local_addr().unwrap();
        let (calls, answer) = (Arc::new(AtomicUsize::new(0)), Arc::new(answer));
        let counted = Arc::clone(&calls);
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut open = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let (counted, answer) = (Arc::clone(&counted), Arc::clone(&answer));
                let answer = move |call| {
                    counted.fetch_add(1, SeqCst);
                    answer(call)
                };
                open.spawn(async move {
                    serve(stream, name, answer).await;
                });
            }
        });
        Self { at, calls, _tasks: tasks }
    }

    /// Always answers 200 with its name.
    pub async fn named(name: &'static str) -> Self {
        Self::start(name, move |_| async move { Said::ok(name) }).await
    }

    /// Calls so far.
    pub fn calls(&self) -> usize {
        self.calls.load(SeqCst)
    }
}

/// An address at which nobody listens, and nobody else will as long as this value is there.
pub struct Nobody {
    pub at: SocketAddr,
    _held: TcpSocket,
}

pub fn nobody() -> Nobody {
    let held = TcpSocket::new_v4().unwrap();
    held.bind(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
    Nobody { at: held.local_addr().unwrap(), _held: held }
}

async fn serve<F, R>(mut stream: TcpStream, name: &str, answer: F) -> Option<()>
where
    F: Fn(Call) -> R,
    R: Future<Output = Said> + Send + 'static,
{
    let mut first = [0; 3];
    let mut read = 0;
    while read < first.len() {
        read = stream.peek(&mut first).await.ok().filter(|read| *read > 0)?;
        tokio::task::yield_now().await;
    }
    if &first == b"PRI" {
        return serve_h2(stream, answer).await;
    }
    if !first.iter().all(u8::is_ascii_alphabetic) {
        let mut some = [0; 4096];
        if stream.read(&mut some).await.ok()? == 0 {
            return None;
        }
        stream.write_all(name.as_bytes()).await.ok()?;
        return stream.shutdown().await.ok();
    }
    let mut stream = BufReader::new(stream);
    loop {
        let (first, headers) = head(&mut stream).await?;
        let body = body(&mut stream, &headers).await?;
        let mut parts = first.split(' ');
        let (method, path) = (parts.next()?.to_owned(), parts.next()?.to_owned());
        let host = headers.get("host").and_then(|host| host.to_str().ok()).unwrap_or_default().to_owned();
        let bodiless = method == "HEAD";
        let said = answer(Call { method, path, host, headers, body }).await;
        let mut text = format!("HTTP/1.1 {} Said\r\n", said.status).into_bytes();
        if said.status != 204 {
            text.extend_from_slice(format!("Content-Length: {}\r\n", said.body.len()).as_bytes());
        }
        for (name, value) in &said.headers {
            text.extend_from_slice(name.as_str().as_bytes());
            text.extend_from_slice(b": ");
            text.extend_from_slice(value.as_bytes());
            text.extend_from_slice(b"\r\n");
        }
        text.extend_from_slice(b"\r\n");
        if !bodiless {
            text.extend_from_slice(&said.body);
        }
        stream.write_all(&text).await.ok()?;
    }
}

async fn serve_h2<F, R>(stream: TcpStream, answer: F) -> Option<()>
where
    F: Fn(Call) -> R,
    R: Future<Output = Said> + Send + 'static,
{
    let mut connection = h2::server::handshake(stream).await.ok()?;
    let mut calls = JoinSet::new();
    while let Some(accepted) = connection.accept().await {
        let (request, mut reply) = accepted.ok()?;
        let (head, mut up) = request.into_parts();
        let call = Call {
            method: head.method.to_string(),
            path: head.uri.path_and_query().map(ToString::to_string).unwrap_or_default(),
            host: head.uri.authority().map(ToString::to_string).unwrap_or_default(),
            headers: head.headers,
            body: Vec::new(),
        };
        let grpc = call.header("content-type").starts_with("application/grpc");
        let said = answer(call);
        calls.spawn(async move {
            let swallow = async {
                while let Some(Ok(data)) = up.data().await {
                    let _ = up.flow_control().release_capacity(data.len());
                }
            };
            let (said, ()) = tokio::join!(said, swallow);
            let mut head = http::Response::builder().status(said.status);
            for (name, value) in &said.headers {
                head = head.header(name, value);
            }
            if grpc {
                head = head.header("content-type", "application/grpc");
            }
            let last = said.body.is_empty();
            let Ok(mut down) = reply.send_response(head.body(()).unwrap(), last && !grpc) else { return };
            if !last {
                let _ = down.send_data(said.body, !grpc);
            }
            if grpc {
                let mut trailers = HeaderMap::new();
                trailers.insert("grpc-status", u16::from(said.grpc_status).into());
                let _ = down.send_trailers(trailers);
            }
        });
    }
    Some(())
}
