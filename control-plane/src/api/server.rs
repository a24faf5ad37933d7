//! The API's front door, and the admission webhook's: TLS, who presented which certificate, and HTTP connections with bounds on everything a peer decides.
//!
//! What a request means is none of its business.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use axum::body::Body;
use http::{Request, Response};
use hyper::body::Incoming;
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::{conn::auto, graceful::GracefulShutdown},
};
use rustls::ServerConfig;
use rustls_pki_types::CertificateDer;
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
    let door = Door { name: "the resource API", connections: api.0.settings.max_connections, tls };
    let meet = move |peer: Option<SocketAddr>, certificate: Option<&CertificateDer<'_>>, ending| Known {
        api: api.clone(),
        caller: certificate.map_or(Caller::Anonymous, access::caller),
        ending: Stopping(ending),
        source: peer.map(Source),
    };
    open(listener, door, meet, shutdown).await
}

/// Who is at the other end of a connection to the API.
#[derive(Clone)]
struct Known {
    api: Api,
    caller: Caller,
    ending: Stopping,
    source: Option<Source>,
}

impl Answers for Known {
    async fn answer(self, request: Request<Incoming>) -> Response<Body> {
        let mut request = request.map(Body::new);
        request.extensions_mut().insert(self.caller);
        request.extensions_mut().insert(self.ending);
        if let Some(source) = self.source {
            request.extensions_mut().insert(source);
        }
        self.api.handle(request).await
    }
}

/// Answers the requests of one connection.
pub(crate) trait Answers: Clone + Send + Sync + 'static {
    /// One of them.
    fn answer(self, request: Request<Incoming>) -> impl Future<Output = Response<Body>> + Send;
}

/// A listener for HTTP over TLS.
pub(crate) struct Door {
    /// What logs call it: `the resource API`.
    pub name: &'static str,
    /// Connections open at once.
    pub connections: usize,
    /// A connection has the one of its beginning.
    pub tls: watch::Receiver<Arc<ServerConfig>>,
}

/// Serves until `shutdown`, then lets requests under way finish for a few seconds. `meet` says who answers on a connection, by the peer's
/// address and certificate, and is told what is cancelled when the server stops.
///
/// # Errors
/// When the listener breaks.
pub(crate) async fn open<A: Answers>(
    listener: TcpListener,
    door: Door,
    meet: impl Fn(Option<SocketAddr>, Option<&CertificateDer<'_>>, CancellationToken) -> A + Clone + Send + 'static,
    shutdown: CancellationToken,
) -> io::Result<()> {
    let acceptor = || {
        let mut tls = ServerConfig::clone(&door.tls.borrow());
        tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        TlsAcceptor::from(Arc::new(tls))
    };
    let name = door.name;
    let permits = Arc::new(Semaphore::new(door.connections));
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
                let (meet, tls, stopping) = (meet.clone(), acceptor(), stopping.clone());
                connections.spawn(async move {
                    connection(stream, name, meet, tls, stopping).await;
                    drop(permit);
                });
            }
            // Out of descriptors or memory: what is open goes on, and closing some of it is what helps.
            Err(error) => {
                tracing::warn!(%error, "{name} cannot accept a connection");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    };
    stopping.cancel();
    drop(listener);
    let drained = timeout(DRAIN, async { while connections.join_next().await.is_some() {} }).await;
    if drained.is_err() {
        tracing::info!(open = connections.len(), "connections to {name} are cut");
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

async fn connection<A: Answers>(
    stream: TcpStream,
    name: &'static str,
    meet: impl Fn(Option<SocketAddr>, Option<&CertificateDer<'_>>, CancellationToken) -> A,
    tls: TlsAcceptor,
    stopping: CancellationToken,
) {
    let peer = stream.peer_addr();
    drop(stream.set_nodelay(true));
    drop(socket2::SockRef::from(&stream).set_tcp_user_timeout(Some(UNREAD)));
    let stream = match timeout(HANDSHAKE, tls.accept(stream)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return tracing::info!(?peer, %error, "{name} refused a TLS handshake"),
        Err(_) => return tracing::info!(?peer, "a TLS handshake with {name} took too long"),
    };
    let leaf = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
    let answers = meet(peer.as_ref().ok().copied(), leaf, stopping.clone());
    let service = hyper::service::service_fn(move |request: Request<Incoming>| {
        let answered = answers.clone().answer(request);
        async move { Ok::<_, std::convert::Infallible>(answered.await) }
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
        tracing::debug!(?peer, %error, "a connection to {name} ended badly");
    }
}
