//! Listeners: ports that are remembered over restarts, and the gRPC server over our own TLS acceptor.
//!
//! Handshakes run in tasks of their own with a deadline, so that one slow peer holds up nobody.

use super::{Endpoints, Error, Settings, failed};
use crate::fleet::ControlService;
use crate::identity::IdentityService;
use crate::store::Place;
use crate::xds::Discovery;
use rustls::ServerConfig;
use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::server::{Connected, TcpConnectInfo};
use weft_certs::{LiveIdentity, TrustDomain, Watched};
use weft_proto::discovery::aggregated_discovery_service_server::AggregatedDiscoveryServiceServer;
use weft_proto::v1::control_server::ControlServer;
use weft_proto::v1::identity_server::IdentityServer;

const HANDSHAKE: Duration = Duration::from_secs(5);
/// Handshakes under way; more wait in the kernel's queue.
const HANDSHAKES: usize = 256;
/// A peer that vanished without a word is noticed after the sum of the two.
const PING: Duration = Duration::from_secs(10);
const PONG: Duration = Duration::from_secs(10);
/// Streams of one connection: a sidecar needs a handful.
const STREAMS: u32 = 64;
/// How long a remembered port may be held by a predecessor that is still ending.
const TAKEN: Duration = Duration::from_secs(5);

/// The ports of the last start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
struct Ports {
    grpc: Option<u16>,
    api: Option<u16>,
}

impl Ports {
    fn load(path: &Path) -> Self {
        let text = std::fs::read(path).unwrap_or_default();
        serde_json::from_slice(&text).unwrap_or_default()
    }

    fn save(self, path: &Path) -> Result<(), Error> {
        if Self::load(path) == self {
            return Ok(());
        }
        super::write_public(path, &self)
    }
}

/// Where this control plane listens, as long as it runs: whether it leads or not.
pub(super) struct Listeners {
    grpc: Option<std::net::TcpListener>,
    api: Option<std::net::TcpListener>,
    /// Whether they are needed again: who shares a store leads, and leads no longer.
    shared: bool,
    /// The addresses.
    pub place: Place,
}

impl Listeners {
    /// Binds both, and remembers their ports.
    pub async fn bind(settings: &Settings) -> Result<Self, Error> {
        let ports = settings.data_dir.join("ports.json");
        let remembered = Ports::load(&ports);
        let grpc = bind(settings.grpc, remembered.grpc, "--grpc").await?;
        let api = bind(settings.api, remembered.api, "--api").await?;
        let place = Place {
            grpc: grpc.local_addr().map_err(failed("gRPC listener"))?,
            api: api.local_addr().map_err(failed("API listener"))?,
        };
        Ports { grpc: Some(place.grpc.port()), api: Some(place.api.port()) }.save(&ports)?;
        let shared = settings.store.is_some();
        if shared && (place.grpc.ip().is_unspecified() || place.api.ip().is_unspecified()) {
            tracing::warn!(grpc = %place.grpc, api = %place.api, "the other control planes cannot reach this one there: name addresses of this host");
        }
        let kept = |listener: TcpListener| listener.into_std().map(Some).map_err(failed("listener"));
        Ok(Self { grpc: kept(grpc)?, api: kept(api)?, shared, place })
    }

    /// The gRPC listener, for as long as its taker wants.
    pub fn grpc(&mut self) -> Result<TcpListener, Error> {
        take(&mut self.grpc, self.shared)
    }

    /// The API's, likewise.
    pub fn api(&mut self) -> Result<TcpListener, Error> {
        take(&mut self.api, self.shared)
    }

    /// What others are told.
    pub fn endpoints(&self, trust_domain: &TrustDomain) -> Endpoints {
        Endpoints {
            grpc: self.place.grpc.to_string(),
            api: format!("https://{}", self.place.api),
            trust_domain: trust_domain.to_string(),
            pid: std::process::id(),
        }
    }
}

fn take(listener: &mut Option<std::net::TcpListener>, again: bool) -> Result<TcpListener, Error> {
    let taken =
        if again { listener.as_ref().map(std::net::TcpListener::try_clone).transpose() } else { Ok(listener.take()) };
    let taken = taken.map_err(failed("listener"))?.ok_or_else(|| Error("a listener is taken twice".to_owned()))?;
    TcpListener::from_std(taken).map_err(failed("listener"))
}

/// Binds an address; where its port is 0, the remembered one, since sidecars know no other.
async fn bind(address: SocketAddr, remembered: Option<u16>, flag: &str) -> Result<TcpListener, Error> {
    let wanted = match (address.port(), remembered) {
        (0, Some(port)) => SocketAddr::new(address.ip(), port),
        _ => address,
    };
    let until = tokio::time::Instant::now() + TAKEN;
    loop {
        match TcpListener::bind(wanted).await {
            Ok(listener) => return Ok(listener),
            Err(e) if e.kind() == io::ErrorKind::AddrInUse && tokio::time::Instant::now() < until => {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            Err(e) if e.kind() == io::ErrorKind::AddrInUse => {
                return Err(Error(format!(
                    "{wanted} is taken by another process; free it or choose another with {flag}"
                )));
            }
            Err(e) => return Err(failed(format!("cannot listen on {wanted} ({flag})"))(e)),
        }
    }
}

/// What the gRPC listener serves.
pub(super) struct Services {
    pub discovery: AggregatedDiscoveryServiceServer<Discovery>,
    pub identity: IdentityServer<IdentityService>,
    pub control: ControlServer<ControlService>,
}

/// Serves until `shutdown`.
pub(super) async fn serve(
    listener: TcpListener,
    tls: Arc<ServerConfig>,
    live: Arc<LiveIdentity>,
    services: Services,
    shutdown: CancellationToken,
) -> Result<(), String> {
    let (accepted, incoming) = mpsc::channel(64);
    let server = tonic::transport::Server::builder()
        .http2_keepalive_interval(Some(PING))
        .http2_keepalive_timeout(Some(PONG))
        .max_concurrent_streams(STREAMS)
        .add_service(services.discovery)
        .add_service(services.identity)
        .add_service(services.control)
        .serve_with_incoming_shutdown(ReceiverStream::new(incoming), shutdown.clone().cancelled_owned());
    let accept = async {
        tokio::select! {
            () = accept(listener, (TlsAcceptor::from(tls), live), accepted) => {}
            () = shutdown.cancelled() => {}
        }
    };
    let (served, ()) = tokio::join!(server, accept);
    served.map_err(|e| e.to_string())
}

async fn accept(listener: TcpListener, tls: (TlsAcceptor, Arc<LiveIdentity>), accepted: Accepted) {
    let permits = Arc::new(Semaphore::new(HANDSHAKES));
    let mut handshakes = JoinSet::new();
    loop {
        let Ok(permit) = permits.clone().acquire_owned().await else { return };
        while handshakes.try_join_next().is_some() {}
        match listener.accept().await {
            Ok((stream, peer)) => {
                handshakes.spawn(handshake(stream, peer, tls.clone(), accepted.clone(), permit));
            }
            Err(error) => {
                tracing::warn!(%error, "the gRPC server cannot accept a connection");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn handshake(
    stream: TcpStream,
    peer: SocketAddr,
    (tls, live): (TlsAcceptor, Arc<LiveIdentity>),
    accepted: Accepted,
    permit: OwnedSemaphorePermit,
) {
    drop(stream.set_nodelay(true));
    match tokio::time::timeout(HANDSHAKE, tls.accept(Minded { tcp: stream, minds: None })).await {
        Ok(Ok(mut stream)) => match mind(&mut stream, &live, peer) {
            // The receiver is gone when the server ends: then so is the connection.
            Ok(()) => drop(accepted.send(Ok(stream)).await),
            Err(error) => tracing::warn!(%error, %peer, "a connection that could not be cut is not served"),
        },
        Ok(Err(error)) => {
            let reason = weft_certs::Error::from_handshake(&error);
            tracing::info!(%peer, %reason, "the gRPC server refused a TLS handshake");
        }
        Err(_) => tracing::info!(%peer, "a TLS handshake with the gRPC server took too long"),
    }
    drop(permit);
}

/// Where connections go once they are known.
type Accepted = mpsc::Sender<io::Result<TlsStream<Minded>>>;

/// A connection that ends when its peer's certificate is revoked.
struct Minded {
    tcp: TcpStream,
    /// Held for its drop. None: the peer has no certificate yet.
    minds: Option<Watched>,
}

fn mind(stream: &mut TlsStream<Minded>, live: &Arc<LiveIdentity>, peer: SocketAddr) -> io::Result<()> {
    let (minded, session) = stream.get_mut();
    let Some(chain) = session.peer_certificates() else { return Ok(()) };
    // One of its own, that stays valid whoever closes first.
    let socket = socket2::Socket::from(minded.tcp.as_fd().try_clone_to_owned()?);
    minded.minds = live.watch(chain, move |id, fault| {
        tracing::info!(%peer, %id, reason = %fault, "cut a connection to the gRPC server");
        // One that has ended already is as good as cut.
        let _ = socket.shutdown(std::net::Shutdown::Both);
    });
    Ok(())
}

impl Connected for Minded {
    type ConnectInfo = TcpConnectInfo;

    fn connect_info(&self) -> TcpConnectInfo {
        self.tcp.connect_info()
    }
}

impl AsyncRead for Minded {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().tcp).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Minded {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().tcp).poll_write(cx, data)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().tcp).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.tcp.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().tcp).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().tcp).poll_shutdown(cx)
    }
}
