//! A relay between one sidecar and its control plane that falsifies one thing: a route rule named [`FORGED`] reaches the sidecar with a
//! path expression that does not compile. The real control plane would never send that; so this is the way to see what a sidecar
//! that refuses does, and what people are told. Both sides are real: the relay has the mesh's own CA and the sidecar's own key.

use hyper_util::rt::TokioIo;
use prost::Message;
use std::net::SocketAddr;
use std::path::Path;
use std::thread::JoinHandle;
use std::time::SystemTime;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, oneshot};
use tokio_rustls::{TlsAcceptor, TlsConnector};
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint, Server, Uri};
use tonic::{Request, Response, Status, Streaming};
use weft_certs::tls::{ALPN_GRPC, ClientAuth, ClientConfigs, server_config, unnamed};
use weft_certs::{Identity, LiveIdentity, MeshCa};
use weft_integration::rig::Mesh;
use weft_proto::discovery::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use weft_proto::discovery::aggregated_discovery_service_server::{
    AggregatedDiscoveryService, AggregatedDiscoveryServiceServer,
};
use weft_proto::discovery::{DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse};
use weft_proto::v1::control_client::ControlClient;
use weft_proto::v1::control_server::{Control, ControlServer};
use weft_proto::v1::identity_client::IdentityClient;
use weft_proto::v1::identity_server::IdentityServer;
use weft_proto::{type_url, v1};

/// The name of the rules that are falsified.
pub const FORGED: &str = "forged";
/// What stands in them instead of their path.
const EXPRESSION: &str = "/((";

/// The running relay; it ends with the value.
pub struct Forger {
    /// What the sidecar takes for its control plane.
    pub address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Forger {
    /// Relays for the sidecar that has joined and whose state is in `state`.
    pub fn start(mesh: &Mesh, state: &Path) -> Self {
        let domain = "weft.local".parse().unwrap();
        let ca = MeshCa::open(&mesh.data().join("identity"), &domain, SystemTime::now()).unwrap();
        let svid = ca.issue_control_plane(SystemTime::now()).unwrap();
        let posing = LiveIdentity::new(Identity::new(svid, ca.bundle()));
        let tls = server_config(&posing, ClientAuth::Optional, &[ALPN_GRPC]).unwrap();
        let sidecar = Identity::load_any(state).unwrap().expect("the sidecar has joined before");
        let configs = ClientConfigs::new(LiveIdentity::new(sidecar));
        let connector = TlsConnector::from(configs.to_control_plane(&[ALPN_GRPC]).unwrap());
        let control = mesh.grpc();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = oneshot::channel();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async move {
                let channel = Endpoint::from_static("http://weft-control").connect_with_connector_lazy(
                    tower::service_fn(move |_: Uri| {
                        let connector = connector.clone();
                        async move {
                            let stream = TcpStream::connect(control).await?;
                            connector.connect(unnamed(), stream).await.map(TokioIo::new)
                        }
                    }),
                );
                let relay = Relay { channel };
                let (accepted, incoming) = mpsc::channel(8);
                let accept = async {
                    let (listener, tls) = (TcpListener::from_std(listener).unwrap(), TlsAcceptor::from(tls));
                    loop {
                        let (stream, _) = listener.accept().await.unwrap();
                        if let Ok(stream) = tls.accept(stream).await {
                            let _ = accepted.send(Ok::<_, std::io::Error>(stream)).await;
                        }
                    }
                };
                let server = Server::builder()
                    .add_service(AggregatedDiscoveryServiceServer::new(relay.clone()))
                    .add_service(IdentityServer::new(relay.clone()))
                    .add_service(ControlServer::new(relay))
                    .serve_with_incoming(ReceiverStream::new(incoming));
                tokio::select! {
                    () = accept => {}
                    served = server => served.unwrap(),
                    _ = stopped => {}
                }
            });
        });
        Self { address, stop: Some(stop), thread: Some(thread) }
    }
}

impl Drop for Forger {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

#[derive(Clone)]
struct Relay {
    channel: Channel,
}

type Answers<T> = std::pin::Pin<Box<dyn tokio_stream::Stream<Item = Result<T, Status>> + Send>>;

/// What a sidecar sends, as a stream for the other side; it ends where the sidecar's does.
fn onward<T: Send + 'static>(from: Request<Streaming<T>>) -> impl tokio_stream::Stream<Item = T> + Send + 'static {
    from.into_inner().map_while(Result::ok)
}

#[tonic::async_trait]
impl AggregatedDiscoveryService for Relay {
    type StreamAggregatedResourcesStream = Answers<DiscoveryResponse>;
    type DeltaAggregatedResourcesStream = Answers<DeltaDiscoveryResponse>;

    async fn stream_aggregated_resources(
        &self,
        _: Request<Streaming<DiscoveryRequest>>,
    ) -> Result<Response<Self::StreamAggregatedResourcesStream>, Status> {
        Err(Status::unimplemented("sidecars use the incremental stream"))
    }

    async fn delta_aggregated_resources(
        &self,
        requests: Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<Response<Self::DeltaAggregatedResourcesStream>, Status> {
        let mut client = AggregatedDiscoveryServiceClient::new(self.channel.clone());
        let answers = client.delta_aggregated_resources(onward(requests)).await?.into_inner();
        Ok(Response::new(Box::pin(answers.map(|answer| answer.map(falsified)))))
    }
}

/// The response with every rule named [`FORGED`] made into one that cannot be used. Names and versions stay.
fn falsified(mut response: DeltaDiscoveryResponse) -> DeltaDiscoveryResponse {
    if response.type_url != type_url::SERVICE {
        return response;
    }
    for resource in &mut response.resources {
        let Some(any) = &mut resource.resource else { continue };
        let mut service = v1::Service::decode(&*any.value).expect("the control plane sends services");
        let frontends = service.ports.iter_mut().filter_map(|port| port.frontend.as_mut());
        for rule in frontends.flat_map(|f| &mut f.routes).flat_map(|r| &mut r.rules).filter(|r| r.name == FORGED) {
            let path = Some(v1::route_match::Path::PathRegex(EXPRESSION.to_owned()));
            rule.matches = vec![v1::RouteMatch { path, ..Default::default() }];
        }
        any.value = service.encode_to_vec();
    }
    response
}

#[tonic::async_trait]
impl v1::identity_server::Identity for Relay {
    async fn issue_certificate(
        &self,
        request: Request<v1::IssueCertificateRequest>,
    ) -> Result<Response<v1::IssueCertificateResponse>, Status> {
        IdentityClient::new(self.channel.clone()).issue_certificate(request.into_inner()).await
    }

    async fn register(&self, request: Request<v1::RegisterRequest>) -> Result<Response<v1::RegisterResponse>, Status> {
        IdentityClient::new(self.channel.clone()).register(request.into_inner()).await
    }
}

#[tonic::async_trait]
impl Control for Relay {
    type StreamStream = Answers<v1::ControlDown>;

    async fn stream(
        &self,
        messages: Request<Streaming<v1::ControlUp>>,
    ) -> Result<Response<Self::StreamStream>, Status> {
        let down = ControlClient::new(self.channel.clone()).stream(onward(messages)).await?.into_inner();
        Ok(Response::new(Box::pin(down)))
    }
}
