//! The API's front door: TLS, who presented which certificate, and HTTP connections with bounds on everything a peer decides.
//!
//! What a request means is none of its business.

use std::{io, sync::Arc, time::Duration};

use axum::body::Body;
use http::Request;
use hyper::body::Incoming;
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::{conn::auto, graceful::GracefulShutdown},
};
use rustls::ServerConfig;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{Semaphore, watch},
    task::JoinSet,
    time::timeout,
};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use super::{Api, Caller, Source, access, route::Stopping};

const HANDSHAKE: Duration = Duration::from_secs(10);
const HEADERS: Duration = Duration::from_secs(10);
/// A peer that stops reading is cut after this long: nothing else bounds a response that is under way.
const UNREAD: Duration = Duration::from_secs(60);
const PING: Duration = Duration::from_secs(30);
/// How long requests under way may go on once the server is told to stop.
const DRAIN: Duration = Duration::from_secs(5);

/// Serves the API until `shutdown`, then lets requests under way finish for a few seconds. The TLS configuration must ask for a client
/// certificate of the API's own CA and admit none (`weft_certs`); a certificate of any other CA, the mesh's included, must fail in it.
///
/// # Errors
/// When the listener breaks.
pub async fn serve(
    listener: TcpListener,
    api: Api,
    tls: Arc<ServerConfig>,
    shutdown: CancellationToken,
) -> io::Result<()> {
    serve_as(listener, api, watch::Sender::new(tls).subscribe(), shutdown).await
}

/// The same with a TLS configuration that may change: a connection has the one of its beginning.
///
/// # Errors
/// When the listener breaks.
pub async fn serve_as(
    listener: TcpListener,
    api: Api,
    tls: watch::Receiver<Arc<ServerConfig>>,
    shutdown: CancellationToken,
) -> io::Result<()> {
    let acceptor = || {
        let mut tls = ServerConfig::clone(&tls.borrow());
        tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        TlsAcceptor::from(Arc::new(tls))
    };
    let permits = Arc::new(Semaphore::new(api.0.settings.max_connections));
    let stopping = CancellationToken::new();
    let mut connections = JoinSet::new();
    let result = loop {
        let accepted = tokio::select! {
            accepted = accept(&listener, &permits) => accepted,
            Some(_) = connections.join_next() => continue,
            () = shutdown.cancelled() => break Ok(()),
        };
        match accepted {
            Ok((stream, permit)) => {
                let (api, tls, stopping) = (api.clone(), acceptor(), stopping.clone());
                connections.spawn(async move {
                    connection(stream, api, tls, stopping).await;
                    drop(permit);
                });
            }
            // Out of descriptors or memory: what is open goes on, and closing some of it is what helps.
            Err(error) => {
                tracing::warn!(%error, "the resource API cannot accept a connection");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    };
    stopping.cancel();
    drop(listener);
    let drained = timeout(DRAIN, async { while connections.join_next().await.is_some() {} }).await;
    if drained.is_err() {
        tracing::info!(open = connections.len(), "connections to the resource API are cut");
        connections.shutdown().await;
    }
    result
}

async fn accept(
    listener: &TcpListener,
    permits: &Arc<Semaphore>,
) -> io::Result<(TcpStream, tokio::sync::OwnedSemaphorePermit)> {
    let permit = permits.clone().acquire_owned().await.map_err(io::Error::other)?;
    let (stream, _) = listener.accept().await?;
    Ok((stream, permit))
}

async fn connection(stream: TcpStream, api: Api, tls: TlsAcceptor, stopping: CancellationToken) {
    let peer = stream.peer_addr();
    let source = peer.as_ref().ok().map(|address| Source(*address));
    drop(stream.set_nodelay(true));
    drop(socket2::SockRef::from(&stream).set_tcp_user_timeout(Some(UNREAD)));
    let stream = match timeout(HANDSHAKE, tls.accept(stream)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return tracing::info!(?peer, %error, "the resource API refused a TLS handshake"),
        Err(_) => return tracing::info!(?peer, "a TLS handshake with the resource API took too long"),
    };
    let caller = match stream.get_ref().1.peer_certificates() {
        Some([leaf, ..]) => access::caller(leaf),
        _ => Caller::Anonymous,
    };
    let ending = Stopping(stopping.clone());
    let service = hyper::service::service_fn(move |request: Request<Incoming>| {
        let (api, caller, ending) = (api.clone(), caller.clone(), ending.clone());
        async move {
            let mut request = request.map(Body::new);
            request.extensions_mut().insert(caller);
            request.extensions_mut().insert(ending);
            if let Some(source) = source {
                request.extensions_mut().insert(source);
            }
            Ok::<_, std::convert::Infallible>(api.handle(request).await)
        }
    });
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEADERS).max_buf_size(64 << 10);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(128)
        .max_header_list_size(32 << 10)
        .keep_alive_interval(PING)
        .keep_alive_timeout(UNREAD);
    let graceful = GracefulShutdown::new();
    let served = graceful.watch(builder.serve_connection(TokioIo::new(stream), service).into_owned());
    tokio::pin!(served);
    let result = tokio::select! {
        result = &mut served => result,
        () = stopping.cancelled() => {
            // Told to end; it says itself when it has. The shutdown would also wait for `served` to be dropped, which lives on here.
            tokio::select! {
                result = &mut served => result,
                () = graceful.shutdown() => Ok(()),
            }
        }
    };
    if let Err(error) = result {
        tracing::debug!(?peer, %error, "a connection to the resource API ended badly");
    }
}
