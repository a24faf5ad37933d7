//! The gRPC port: discovery, identity and control streams over the HTTP/2 codec of the sidecars, whose idle connections hold no buffers. A
//! control plane has one for each sidecar, and most are silent most of the time.
//!
//! [`serve`] accepts, shakes hands and drives a connection with all of its calls in one task; [`call`] is what one of them is to a service of
//! tonic, [`stream`] what is answered by many messages. What is served is said by [`Services`]; who a caller is by its [`Caller`]. What services do must not be here.

mod call;
mod messages;
mod stream;
#[cfg(test)]
mod tests;

pub use messages::Messages;
pub use stream::stream;

use call::Calls;
use http::{Request, Response};
use rustls::ServerConfig;
use rustls_pki_types::CertificateDer;
use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::{JoinError, JoinSet};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tonic::Status;
use tonic::body::Body;
use weft_certs::{LiveIdentity, Watched};
use weft_codec::tls::{ServerTls, Wide};
use weft_codec::{Hold, Io, Limits, h2};

/// A handshake of TLS, and after it the preface of HTTP/2.
const HANDSHAKE: Duration = Duration::from_secs(5);
/// Handshakes under way; more wait in the kernel's queue.
const HANDSHAKES: usize = 256;
/// A peer that vanished without a word is noticed after the sum of the two.
const PING: Duration = Duration::from_secs(10);
const PONG: Duration = Duration::from_secs(10);
/// A connection without a call. Whoever comes back dials again.
const IDLE: Duration = Duration::from_secs(3600);
/// Streams of one connection: a sidecar needs a handful.
const STREAMS: u32 = 64;
/// Header entries of a call, and bytes of them: names, values and 32 each (RFC 9113 §6.5.2).
const HEADERS: usize = 64;
const HEAD: usize = 16 << 10;
/// What a peer may send before it is read, on a stream and on a connection, in bytes.
const STREAM_WINDOW: u32 = 256 << 10;
const WINDOW: u32 = 1 << 20;
/// After an accept that failed: what is missing (descriptors, memory) is still missing a moment later.
const AGAIN: Duration = Duration::from_millis(100);

/// The answer to a call, under way.
pub type Answering = Pin<Box<dyn Future<Output = Response<Body>> + Send>>;

/// What is served.
pub trait Services: Send + Sync + 'static {
    /// Answers a call. The request's path names service and method.
    fn call(&self, request: Request<Body>) -> Answering;
}

/// Has one service of tonic answer a call with one message: see [`stream`] for others; all of them are ready at any time.
pub fn answer<S>(service: &S, request: Request<Body>) -> Answering
where
    S: tower::Service<Request<Body>, Response = Response<Body>, Error = Infallible> + Clone,
    S::Future: Send + 'static,
{
    let answering = service.clone().call(request);
    Box::pin(async move {
        match answering.await {
            Ok(response) => response,
            Err(never) => match never {},
        }
    })
}

/// The answer to a call that is not served, for whatever reason.
pub fn unserved(why: &str) -> Answering {
    Box::pin(std::future::ready(Status::unimplemented(why).into_http()))
}

/// Who makes a call; in the request's extensions as an `Arc`.
#[derive(Clone, Debug)]
pub struct Caller {
    /// Where its connection comes from.
    pub address: SocketAddr,
    /// Its own certificate, which TLS has verified.
    pub certificate: Option<CertificateDer<'static>>,
}

impl Caller {
    /// The caller of a request; `None` when it came another way than through this port.
    #[must_use]
    pub fn of<T>(request: &tonic::Request<T>) -> Option<&Self> {
        request.extensions().get::<Arc<Self>>().map(Arc::as_ref)
    }
}

/// What all connections share.
struct Door<S> {
    tls: TlsAcceptor,
    live: Arc<LiveIdentity>,
    services: S,
    limits: Limits,
    /// Ends with the port.
    leaving: CancellationToken,
}

/// Serves until `shutdown`; then connections are told to leave, and end with their last call. Whoever drops it cuts what is left.
pub async fn serve<S: Services>(
    listener: TcpListener,
    tls: Arc<ServerConfig>,
    live: Arc<LiveIdentity>,
    services: S,
    shutdown: CancellationToken,
) {
    let door = Arc::new(Door { tls: TlsAcceptor::from(tls), live, services, limits: limits(), leaving: shutdown });
    let permits = Arc::new(Semaphore::new(HANDSHAKES));
    let mut connections = JoinSet::new();
    loop {
        let next = async {
            let permit = permits.clone().acquire_owned().await.ok()?;
            Some((permit, listener.accept().await))
        };
        let accepted = tokio::select! {
            accepted = next => accepted,
            Some(ended) = connections.join_next() => {
                note(ended);
                continue;
            }
            () = door.leaving.cancelled() => break,
        };
        match accepted {
            Some((permit, Ok((tcp, peer)))) => drop(connections.spawn(connection(door.clone(), tcp, peer, permit))),
            Some((_, Err(error))) => {
                tracing::warn!(%error, "the gRPC server cannot accept a connection");
                tokio::time::sleep(AGAIN).await;
            }
            None => break,
        }
    }
    drop(listener);
    while let Some(ended) = connections.join_next().await {
        note(ended);
    }
}

fn limits() -> Limits {
    Limits {
        header_timeout: HANDSHAKE,
        idle_timeout: IDLE,
        max_headers: HEADERS,
        max_head_bytes: HEAD,
        max_streams: STREAMS,
        stream_window: STREAM_WINDOW,
        connection_window: WINDOW,
        ping_interval: PING,
        ping_timeout: PONG,
    }
}

fn note(ended: Result<(), JoinError>) {
    if let Err(error) = ended {
        tracing::error!(%error, "a connection to the gRPC server ended by a mistake of its own");
    }
}

async fn connection<S: Services>(door: Arc<Door<S>>, tcp: TcpStream, peer: SocketAddr, permit: OwnedSemaphorePermit) {
    // Boxed: a connection does not keep the room for its beginning.
    let Some((io, caller)) = Box::pin(handshake(&door, tcp, peer)).await else { return };
    drop(permit);
    let calls = Calls { services: &door.services, caller };
    if let Err(error) = h2::serve(io, &door.limits, &door.leaving, &calls).await {
        tracing::debug!(%error, %peer, "a connection to the gRPC server broke");
    }
}

async fn handshake<S>(door: &Door<S>, tcp: TcpStream, peer: SocketAddr) -> Option<(Io, Arc<Caller>)> {
    // Of a socket that is gone already the handshake tells.
    drop(tcp.set_nodelay(true));
    let tls = match tokio::time::timeout(HANDSHAKE, door.tls.accept(Wide::new(tcp, &[]))).await {
        Ok(Ok(tls)) => tls,
        Ok(Err(error)) => {
            let reason = weft_certs::Error::from_handshake(&error);
            tracing::info!(%peer, %reason, "the gRPC server refused a TLS handshake");
            return None;
        }
        Err(_) => {
            tracing::info!(%peer, "a TLS handshake with the gRPC server took too long");
            return None;
        }
    };
    let chain = tls.get_ref().1.peer_certificates().unwrap_or_default();
    let certificate = chain.first().map(|leaf| leaf.clone().into_owned());
    let watched = match mind(&tls, chain, &door.live, peer) {
        Ok(watched) => watched,
        Err(error) => {
            tracing::warn!(%error, %peer, "a connection that could not be cut is not served");
            return None;
        }
    };
    let io = Io::from(tls);
    let io = match watched {
        Some(watched) => io.holding(Minds(watched)),
        None => io,
    };
    Some((io, Arc::new(Caller { address: peer, certificate })))
}

/// Has a connection end when its peer's certificate is revoked; a peer without one has nothing to revoke.
fn mind(
    tls: &ServerTls,
    chain: &[CertificateDer<'_>],
    live: &Arc<LiveIdentity>,
    peer: SocketAddr,
) -> io::Result<Option<Watched>> {
    if chain.is_empty() {
        return Ok(None);
    }
    // One of its own, that stays valid whoever closes first.
    let socket = socket2::Socket::from(tls.get_ref().0.get_ref().as_fd().try_clone_to_owned()?);
    Ok(live.watch(chain, move |id, fault| {
        tracing::info!(%peer, %id, reason = %fault, "cut a connection to the gRPC server");
        // One that has ended already is as good as cut.
        let _ = socket.shutdown(std::net::Shutdown::Both);
    }))
}

/// Minds a connection as long as it lasts.
struct Minds(#[expect(dead_code, reason = "held for its drop")] Watched);

impl Hold for Minds {}
