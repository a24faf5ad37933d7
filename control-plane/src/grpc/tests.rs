//! The port on real sockets under TLS: clients of tonic and of h2, a service that echoes, and peers that behave badly.

use super::*;
use bytes::Bytes;
use futures_util::Stream;
use http::StatusCode;
use hyper_util::rt::TokioIo;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::SystemTime;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint, Uri};
use tonic::{Code, Streaming};
use weft_certs::tls::{ALPN_GRPC, ClientAuth, ClientConfigs};
use weft_certs::{Identity as Named, MeshCa, SpiffeId, TrustDomain};
use weft_proto::discovery::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use weft_proto::discovery::{DeltaDiscoveryRequest, DeltaDiscoveryResponse};
use weft_proto::v1;
use weft_proto::v1::identity_client::IdentityClient;
use weft_proto::v1::identity_server::{self, Identity};

const SOON: Duration = Duration::from_secs(20);
/// Where a streaming method is served.
const DELTA: &str = "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources";
/// What is never answered.
const WAITS: &str = "/weft.v1.Nobody/Waits";
/// Bytes of a message of the flood.
const LARGE: usize = 32 << 10;

/// Echoes; sends without end to whoever asks for `flood`; says who is there.
#[derive(Clone, Default)]
struct Echo {
    streams: watch::Sender<usize>,
    flooded: Arc<AtomicUsize>,
}

struct Open(watch::Sender<usize>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.send_modify(|streams| *streams -= 1);
    }
}

type Out<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

impl Echo {
    async fn delta(
        &self,
        request: tonic::Request<Messages<DeltaDiscoveryRequest>>,
    ) -> Result<tonic::Response<Out<DeltaDiscoveryResponse>>, Status> {
        self.streams.send_modify(|streams| *streams += 1);
        let open = Open(self.streams.clone());
        if request.metadata().contains_key("flood") {
            let flooded = self.flooded.clone();
            let flood = std::iter::repeat_with(move || {
                let _open = &open;
                flooded.fetch_add(1, Ordering::Relaxed);
                Ok(DeltaDiscoveryResponse { nonce: "x".repeat(LARGE), ..Default::default() })
            });
            return Ok(tonic::Response::new(Box::pin(tokio_stream::iter(flood))));
        }
        let echoed = request.into_inner().map(move |message| {
            let _open = &open;
            Ok(DeltaDiscoveryResponse { nonce: message?.response_nonce, ..Default::default() })
        });
        Ok(tonic::Response::new(Box::pin(echoed)))
    }
}

#[tonic::async_trait]
impl Identity for Echo {
    async fn issue_certificate(
        &self,
        _: tonic::Request<v1::IssueCertificateRequest>,
    ) -> Result<tonic::Response<v1::IssueCertificateResponse>, Status> {
        Err(Status::failed_precondition("none here"))
    }

    async fn register(
        &self,
        request: tonic::Request<v1::RegisterRequest>,
    ) -> Result<tonic::Response<v1::RegisterResponse>, Status> {
        let peer = crate::identity::Peer::of(&request)?;
        Ok(tonic::Response::new(v1::RegisterResponse { uid: peer.identity }))
    }
}

struct Served {
    echo: Echo,
    identity: identity_server::IdentityServer<Echo>,
}

impl Services for Served {
    fn call(&self, request: Request<Body>) -> Answering {
        if request.uri().path() == DELTA {
            let echo = self.echo.clone();
            return stream(request, move |asked| async move { echo.delta(asked).await });
        }
        match request.uri().path().split('/').nth(1) {
            Some(identity_server::SERVICE_NAME) => answer(&self.identity, request),
            _ if request.uri().path() == WAITS => Box::pin(std::future::pending()),
            _ => unserved("no such service is served here"),
        }
    }
}

struct Rig {
    address: SocketAddr,
    echo: Echo,
    cart: Arc<rustls::ClientConfig>,
    shutdown: CancellationToken,
    server: tokio::task::JoinHandle<()>,
}

impl Rig {
    async fn start() -> Self {
        let domain: TrustDomain = "weft.test".parse().unwrap();
        let ca = MeshCa::ephemeral(&domain, SystemTime::now()).unwrap();
        let named = |id: SpiffeId| {
            let svid = ca.issue(&id, None, SystemTime::now()).unwrap();
            LiveIdentity::new(Named::new(svid, ca.bundle()))
        };
        let live = named(SpiffeId::control_plane(&domain));
        let tls = weft_certs::tls::server_config(&live, ClientAuth::Optional, &[ALPN_GRPC]).unwrap();
        let cart = named(SpiffeId::workload(&domain, "shop", "cart").unwrap());
        let cart = ClientConfigs::new(cart).to_control_plane(&[ALPN_GRPC]).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, echo, shutdown) = (listener.local_addr().unwrap(), Echo::default(), CancellationToken::new());
        let services = Served { echo: echo.clone(), identity: identity_server::IdentityServer::new(echo.clone()) };
        let server = tokio::spawn(serve(listener, tls, live, services, shutdown.clone()));
        Self { address, echo, cart, shutdown, server }
    }

    async fn tls(&self) -> tokio_rustls::client::TlsStream<TcpStream> {
        let tcp = TcpStream::connect(self.address).await.unwrap();
        let name = rustls_pki_types::ServerName::try_from("weft-control").unwrap();
        tokio_rustls::TlsConnector::from(self.cart.clone()).connect(name, tcp).await.unwrap()
    }

    /// A client of tonic on a connection of its own.
    async fn channel(&self) -> Channel {
        let mut tls = Some(TokioIo::new(self.tls().await));
        let connector = tower::service_fn(move |_: Uri| {
            let tls = tls.take().ok_or_else(|| std::io::Error::other("there is one connection"));
            async move { tls }
        });
        Endpoint::from_static("http://weft-control").connect_with_connector(connector).await.unwrap()
    }

    async fn register(&self) -> Result<String, Status> {
        let mut client = IdentityClient::new(self.channel().await);
        let registered = soon(client.register(v1::RegisterRequest::default())).await?;
        Ok(registered.into_inner().uid)
    }

    async fn until_streams(&self, count: usize) {
        soon(self.echo.streams.subscribe().wait_for(|streams| *streams == count)).await.unwrap();
    }

    async fn stop(self) {
        self.shutdown.cancel();
        soon(self.server).await.unwrap();
    }
}

async fn soon<T>(what: impl Future<Output = T>) -> T {
    timeout(SOON, what).await.expect("in time")
}

/// An echoing stream: what it is told, and what it says.
async fn echoing(channel: Channel) -> (mpsc::Sender<DeltaDiscoveryRequest>, Streaming<DeltaDiscoveryResponse>) {
    let (up, messages) = mpsc::channel(4);
    let mut client = AggregatedDiscoveryServiceClient::new(channel);
    let down = soon(client.delta_aggregated_resources(ReceiverStream::new(messages))).await.unwrap();
    (up, down.into_inner())
}

fn saying(text: &str) -> DeltaDiscoveryRequest {
    DeltaDiscoveryRequest { response_nonce: text.to_owned(), ..Default::default() }
}

async fn echoes((up, down): &mut (mpsc::Sender<DeltaDiscoveryRequest>, Streaming<DeltaDiscoveryResponse>), text: &str) {
    up.send(saying(text)).await.unwrap();
    let said = soon(down.message()).await.unwrap().expect("an echo");
    assert_eq!(said.nonce, text);
}

type Plain = ::h2::client::SendRequest<Bytes>;

/// A client of h2, without credit for streams of its own accord; its connection is driven by the task.
async fn plain(rig: &Rig) -> (Plain, tokio::task::JoinHandle<Result<(), ::h2::Error>>) {
    let (client, connection) = soon(::h2::client::handshake(rig.tls().await)).await.unwrap();
    (client, tokio::spawn(connection))
}

fn post(path: &str) -> http::request::Builder {
    Request::post(format!("https://weft-control{path}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
}

#[tokio::test]
async fn a_call_is_answered_and_its_caller_known_by_its_certificate() {
    let rig = Rig::start().await;
    assert_eq!(rig.register().await.unwrap(), "spiffe://weft.test/ns/shop/sa/cart");
    let mut client = IdentityClient::new(rig.channel().await);
    let refused = soon(client.issue_certificate(v1::IssueCertificateRequest::default())).await.unwrap_err();
    assert_eq!((refused.code(), refused.message()), (Code::FailedPrecondition, "none here"));
    rig.stop().await;
}

#[tokio::test]
async fn messages_pass_both_ways_and_a_caller_that_cancels_frees_its_session() {
    let rig = Rig::start().await;
    let mut stream = echoing(rig.channel().await).await;
    for text in ["one", "two", &"long ".repeat(100_000)] {
        echoes(&mut stream, text).await;
    }
    rig.until_streams(1).await;
    // The whole of a call that ends in order: the status comes after the last message.
    let (up, mut down) = stream;
    drop(up);
    assert!(soon(down.message()).await.unwrap().is_none());
    rig.until_streams(0).await;
    let mut stream = echoing(rig.channel().await).await;
    echoes(&mut stream, "three").await;
    rig.until_streams(1).await;
    drop(stream);
    rig.until_streams(0).await;
    // One that vanishes with its connection.
    let (mut client, connection) = plain(&rig).await;
    let (_answer, _body) = client.send_request(post(DELTA).body(()).unwrap(), false).unwrap();
    rig.until_streams(1).await;
    connection.abort();
    rig.until_streams(0).await;
    rig.stop().await;
}

#[tokio::test]
async fn a_caller_that_does_not_read_holds_up_its_own_stream_only() {
    let rig = Rig::start().await;
    let (mut client, _connection) = plain(&rig).await;
    let flood = post(DELTA).header("flood", "yes").body(()).unwrap();
    let (answer, unsaid) = client.send_request(flood, false).unwrap();
    let unread = soon(answer).await.unwrap();
    // Calls on other connections and on the same one go on meanwhile.
    for _ in 0..20 {
        rig.register().await.unwrap();
        let nowhere = post("/weft.v1.Nobody/Asks").body(()).unwrap();
        let answer = soon(client.send_request(nowhere, true).unwrap().0).await.unwrap();
        assert_eq!(answer.headers()["grpc-status"], "12");
    }
    let made = rig.echo.flooded.load(Ordering::Relaxed);
    // A window of h2 is 64 KiB; a message or two are on their way to it.
    assert!((1..=6).contains(&made), "{made} messages were made for a caller that reads none");
    drop((unread, unsaid));
    rig.until_streams(0).await;
    rig.stop().await;
}

#[tokio::test]
async fn a_port_that_closes_says_goodbye_and_loses_no_call() {
    let rig = Rig::start().await;
    let mut stream = echoing(rig.channel().await).await;
    echoes(&mut stream, "before").await;
    let (client, connection) = plain(&rig).await;
    rig.shutdown.cancel();
    // One that has no call is told to leave, and its connection closed.
    soon(connection).await.unwrap().unwrap();
    drop(client);
    echoes(&mut stream, "after").await;
    assert!(!rig.server.is_finished(), "a call is under way");
    let (up, mut down) = stream;
    up.send(saying("last")).await.unwrap();
    drop(up);
    assert_eq!(soon(down.message()).await.unwrap().expect("an echo").nonce, "last");
    assert!(soon(down.message()).await.unwrap().is_none(), "ended with its status");
    soon(rig.server).await.unwrap();
    assert!(TcpStream::connect(rig.address).await.is_err(), "nobody listens");
}

#[tokio::test]
async fn heads_that_are_too_large_are_refused_and_the_connection_goes_on() {
    let rig = Rig::start().await;
    let (mut client, _connection) = plain(&rig).await;
    let large = post(DELTA).header("x-large", "x".repeat(HEAD)).body(()).unwrap();
    let answer = soon(client.send_request(large, true).unwrap().0).await.unwrap();
    assert_eq!(answer.status(), StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE);
    let unknown = post("/weft.v1.Nobody/Asks").body(()).unwrap();
    let answer = soon(client.send_request(unknown, true).unwrap().0).await.unwrap();
    assert_eq!((answer.status(), &answer.headers()["grpc-status"]), (StatusCode::OK, &"12".parse().unwrap()));
    rig.stop().await;
}

#[tokio::test]
async fn a_call_that_takes_longer_than_its_deadline_is_told_so() {
    let rig = Rig::start().await;
    let (mut client, _connection) = plain(&rig).await;
    let late = post(WAITS).header("grpc-timeout", "50m").body(()).unwrap();
    let answer = soon(client.send_request(late, true).unwrap().0).await.unwrap();
    assert_eq!(answer.headers()["grpc-status"], "4");
    rig.stop().await;
}

#[tokio::test]
async fn what_is_neither_tls_nor_http2_is_closed_and_others_are_served() {
    let rig = Rig::start().await;
    let mut answer = Vec::new();
    let mut bare = TcpStream::connect(rig.address).await.unwrap();
    bare.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    let _ = soon(bare.read_to_end(&mut answer)).await;
    answer.clear();
    let mut tls = rig.tls().await;
    tls.write_all(b"GET / HTTP/1.1\r\nHost: weft-control\r\n\r\n").await.unwrap();
    let _ = soon(tls.read_to_end(&mut answer)).await;
    assert!(!answer.starts_with(b"HTTP/1"), "{}", String::from_utf8_lossy(&answer));
    // A frame of a kind and stream that nobody may send.
    let mut tls = rig.tls().await;
    tls.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x04\x08\x00\x00\x00\x00\x01\x00\x00\x00\x01")
        .await
        .unwrap();
    let _ = soon(tls.read_to_end(&mut answer)).await;
    rig.register().await.unwrap();
    rig.stop().await;
}
