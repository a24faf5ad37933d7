//! A plain HTTP/1.1 server: binds before it says so, and on SIGTERM stops accepting, finishes what runs and ends within five seconds.

use super::{Error, Listen};
use bytes::Bytes;
use http::{HeaderMap, Method, Response, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

/// A request body is no longer than this.
const BODY: usize = 1024 * 1024;
/// What runs at SIGTERM has this long.
const GRACE: Duration = Duration::from_secs(5);

/// A request, read whole.
pub struct Call {
    pub method: Method,
    pub path: String,
    pub headers: HeaderMap,
    pub body: Bytes,
}

/// A JSON answer.
pub fn json(status: StatusCode, value: &serde_json::Value) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(value.to_string())));
    *response.status_mut() = status;
    response.headers_mut().insert(http::header::CONTENT_TYPE, http::HeaderValue::from_static("application/json"));
    response
}

/// Resolves at SIGTERM or SIGINT.
pub async fn stopped() {
    match (signal(SignalKind::terminate()), signal(SignalKind::interrupt())) {
        (Ok(mut terminate), Ok(mut interrupt)) => {
            tokio::select! { _ = terminate.recv() => {}, _ = interrupt.recv() => {} }
        }
        _ => std::future::pending().await,
    }
}

/// Serves until it is told to stop. `GET /healthz` is answered here; the rest is `answer`'s.
pub async fn serve<F, A>(name: &str, listen: &Listen, answer: F) -> Result<(), Error>
where
    F: Fn(Call) -> A + Send + Sync + 'static,
    A: Future<Output = Response<Full<Bytes>>> + Send,
{
    let listener =
        TcpListener::bind(listen.listen).await.map_err(|e| format!("cannot listen on {}: {e}", listen.listen))?;
    eprintln!("weft-shop {name} {} listening on {}", listen.version, listener.local_addr()?);
    let answer = Arc::new(answer);
    let graceful = GracefulShutdown::new();
    let mut connections = tokio::task::JoinSet::new();
    let stop = stopped();
    tokio::pin!(stop);
    loop {
        let stream = tokio::select! {
            () = &mut stop => break,
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                Err(_) => {
                    // Out of descriptors, most likely: the kernel keeps the connection until one is free.
                    tokio::time::sleep(Duration::from_millis(10)).await;
                    continue;
                }
            },
        };
        let _ = stream.set_nodelay(true);
        let answer = answer.clone();
        let service = service_fn(move |request| {
            let answer = answer.clone();
            async move { Ok::<_, std::convert::Infallible>(respond(&*answer, request).await) }
        });
        let connection = http1::Builder::new().timer(TokioTimer::new()).serve_connection(TokioIo::new(stream), service);
        let watched = graceful.watch(connection);
        connections.spawn(async move {
            let _ = watched.await;
        });
        while connections.try_join_next().is_some() {}
    }
    drop(listener);
    let _ = tokio::time::timeout(GRACE, graceful.shutdown()).await;
    Ok(())
}

async fn respond<F, A>(answer: &F, request: http::Request<Incoming>) -> Response<Full<Bytes>>
where
    F: Fn(Call) -> A,
    A: Future<Output = Response<Full<Bytes>>>,
{
    let (head, body) = request.into_parts();
    let body = match Limited::new(body, BODY).collect().await {
        Ok(body) => body.to_bytes(),
        Err(error) => return json(StatusCode::BAD_REQUEST, &serde_json::json!({"error": error.to_string()})),
    };
    if head.method == Method::GET && head.uri.path() == "/healthz" {
        return json(StatusCode::OK, &serde_json::json!({"ok": true}));
    }
    answer(Call { method: head.method, path: head.uri.path().to_owned(), headers: head.headers, body }).await
}
