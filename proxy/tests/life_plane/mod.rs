//! A control plane small enough to be told what to do: the real protocols over real mTLS, with a log of what sidecars said.
//! It holds whatever resources a test puts in, answers subscriptions, and can be stopped and started at the same address.

#![allow(dead_code, reason = "each test file uses its part of it")]

use parking_lot::Mutex;
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio_rustls::TlsAcceptor;
use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};
use weft_certs::tls::{ALPN_GRPC, ClientAuth, server_config};
use weft_certs::{Identity, LiveIdentity, MeshCa, SpiffeId, Svid, TrustDomain};
use weft_proto::discovery::aggregated_discovery_service_server as ads;
use weft_proto::discovery::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse, Resource,
};
use weft_proto::v1::{self, control_server, control_up, identity_server};
use weft_proto::{type_url, version_of};

pub type Stream_<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// Waits for a condition, at most ten seconds.
pub async fn eventually<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let until = Instant::now() + Duration::from_secs(10);
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < until, "never happened: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// A resource with its envelope.
pub fn resource<R: weft_proto::Resource>(name: &str, wire: &R, aliases: &[&str]) -> Resource {
    let any = wire.to_any();
    Resource {
        name: name.to_owned(),
        version: version_of(&any.value),
        aliases: aliases.iter().map(ToString::to_string).collect(),
        resource: Some(any),
        ttl: None,
    }
}

/// A service at port 80 with one slice; its routes, if any, split evenly between `backends`.
pub fn service(name: &str, backends: &[&str]) -> Resource {
    let short = name.rsplit('/').next().unwrap_or_default();
    let backends: Vec<_> = (backends.iter())
        .map(|b| v1::WeightedBackend { service: (*b).to_owned(), port: 80, weight: 1, ..Default::default() })
        .collect();
    let routes = match backends.is_empty() {
        true => Vec::new(),
        false => vec![v1::Route {
            name: "shop/split".into(),
            kind: v1::RouteKind::Http.into(),
            created: 1,
            rules: vec![v1::RouteRule { backends, ..Default::default() }],
            ..Default::default()
        }],
    };
    let wire = v1::Service {
        name: name.to_owned(),
        hostnames: vec![short.to_owned()],
        ports: vec![v1::ServicePort {
            port: 80,
            protocol: v1::Protocol::Http1.into(),
            frontend: Some(v1::Frontend { routes, ..Default::default() }),
            backend: Some(v1::Backend { slices: vec![format!("{name}:80/0")], ..Default::default() }),
            ..Default::default()
        }],
        ..Default::default()
    };
    resource(name, &wire, &[&format!("host:{short}")])
}

/// The slice of a service, with one plaintext endpoint.
pub fn slice(service: &str, address: SocketAddr) -> Resource {
    let name = format!("{service}:80/0");
    let endpoint = v1::Endpoint {
        uid: format!("{service}-1"),
        address: address.ip().to_string(),
        port: address.port().into(),
        health: v1::Health::Ready.into(),
        ..Default::default()
    };
    resource(&name, &v1::Endpoints { name: name.clone(), endpoints: vec![endpoint] }, &[])
}

#[derive(Default)]
struct Held {
    /// By type and name.
    resources: BTreeMap<(String, String), Resource>,
    /// Names that are neither answered nor refused.
    silent: BTreeSet<String>,
    /// Everything that sidecars sent on discovery streams, with the number of the stream.
    requests: Vec<(u64, DeltaDiscoveryRequest)>,
    /// Everything that was sent to them.
    responses: Vec<(u64, DeltaDiscoveryResponse)>,
    streams: u64,
    registered: Vec<v1::RegisterRequest>,
    /// Certificates issued: by token, by certificate.
    issued: (u64, u64),
    ups: Vec<control_up::Message>,
}

/// The control plane of one test.
#[derive(Clone)]
pub struct Plane {
    pub ca: Arc<MeshCa>,
    pub domain: TrustDomain,
    held: Arc<Mutex<Held>>,
    /// Changes with every push.
    pushed: watch::Sender<u64>,
    /// Seconds that issued certificates live.
    pub lifetime: Duration,
    withhold_ack: Arc<std::sync::atomic::AtomicBool>,
    /// Milliseconds from one report to the next that new control streams are asked for; 0: nothing is said.
    pub report_ms: u32,
}

/// A running server; dropping it cuts every connection, as a kill would.
pub struct Running {
    pub address: SocketAddr,
    runtime: Option<tokio::runtime::Runtime>,
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl Plane {
    pub fn new() -> Self {
        let domain: TrustDomain = "weft.test".parse().unwrap();
        Self {
            ca: Arc::new(MeshCa::ephemeral(&domain, SystemTime::now()).unwrap()),
            domain,
            held: Arc::default(),
            pushed: watch::Sender::new(0),
            lifetime: Duration::from_secs(3600),
            withhold_ack: Arc::default(),
            report_ms: 0,
        }
    }

    /// Serves as the control plane.
    pub async fn start(&self, address: Option<SocketAddr>) -> Running {
        self.start_as(&SpiffeId::control_plane(&self.domain), address).await
    }

    /// Serves under any identity of the mesh.
    pub async fn start_as(&self, id: &SpiffeId, address: Option<SocketAddr>) -> Running {
        let svid = self.ca.issue(id, None, SystemTime::now()).unwrap();
        let mut chain = svid.chain().to_vec();
        chain.push(self.ca.root().clone());
        let key = weft_certs::KeyPair::from_pem("key", svid.key_pem()).unwrap();
        let live = LiveIdentity::new(Identity::new(Svid::new(chain, &key).unwrap(), self.ca.bundle()));
        let tls = TlsAcceptor::from(server_config(&live, ClientAuth::Optional, &[ALPN_GRPC]).unwrap());
        let want = address.unwrap_or_else(|| "127.0.0.1:0".parse().unwrap());
        // The port of a server that was just killed may be busy for a moment.
        let until = Instant::now() + Duration::from_secs(10);
        let listener = loop {
            match std::net::TcpListener::bind(want) {
                Ok(listener) => break listener,
                Err(error) => assert!(Instant::now() < until, "{want}: {error}"),
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        };
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let service = self.clone();
        runtime.spawn(async move {
            let listener = TcpListener::from_std(listener).unwrap();
            let (accepted, incoming) = mpsc::channel::<std::io::Result<_>>(16);
            tokio::spawn(async move {
                while let Ok((stream, _)) = listener.accept().await {
                    let (tls, accepted) = (tls.clone(), accepted.clone());
                    tokio::spawn(async move {
                        if let Ok(stream) = tls.accept(stream).await {
                            let _ = accepted.send(Ok(stream)).await;
                        }
                    });
                }
            });
            let served = tonic::transport::Server::builder()
                .add_service(ads::AggregatedDiscoveryServiceServer::new(service.clone()))
                .add_service(identity_server::IdentityServer::new(service.clone()))
                .add_service(control_server::ControlServer::new(service))
                .serve_with_incoming(ReceiverStream::new(incoming));
            let _ = served.await;
        });
        Running { address, runtime: Some(runtime) }
    }

    /// A join token of this mesh. Any secret is accepted.
    pub fn token(&self) -> String {
        use base64::Engine as _;
        let spki = weft_certs::Fingerprint::of_public_key(&self.ca.root()).unwrap();
        let json =
            serde_json::json!({"v": 1, "id": "t", "secret": "s", "spki": spki.to_string(), "td": self.domain.as_str()});
        format!("weft-join.{}", base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(json.to_string()))
    }

    /// Puts resources in and tells the streams.
    pub fn put(&self, resources: impl IntoIterator<Item = Resource>) {
        let mut held = self.held.lock();
        for resource in resources {
            let url = resource.resource.as_ref().unwrap().type_url.clone();
            held.resources.insert((url, resource.name.clone()), resource);
        }
        drop(held);
        self.pushed.send_modify(|n| *n += 1);
    }

    /// Takes a resource out and tells the streams.
    pub fn remove(&self, url: &str, name: &str) {
        self.held.lock().resources.remove(&(url.to_owned(), name.to_owned()));
        self.pushed.send_modify(|n| *n += 1);
    }

    /// What every sidecar needs: settings, roots, and an empty inbound.
    pub fn put_basics(&self, uid: &str, identity: &str) {
        let settings = v1::MeshSettings {
            trust_domain: self.domain.to_string(),
            domain: "cluster.local".into(),
            ..Default::default()
        };
        let inbound = v1::Inbound { workload: uid.into(), identity: identity.into(), ..Default::default() };
        self.put([resource("mesh", &settings, &[]), self.bundle(0), resource(uid, &inbound, &[])]);
    }

    /// The trust bundle, with a demand to reissue.
    pub fn bundle(&self, reissue_after: i64) -> Resource {
        let wire = v1::TrustBundle { reissue_after, ..wire_bundle(&self.ca) };
        resource(self.domain.as_str(), &wire, &[])
    }

    /// Leaves a name unanswered from now on, or answers it again.
    pub fn silence(&self, name: &str, silent: bool) {
        let mut held = self.held.lock();
        if silent {
            held.silent.insert(name.to_owned())
        } else {
            held.silent.remove(name)
        };
        drop(held);
        self.pushed.send_modify(|n| *n += 1);
    }

    pub fn requests(&self) -> Vec<(u64, DeltaDiscoveryRequest)> {
        self.held.lock().requests.clone()
    }

    pub fn responses(&self) -> Vec<(u64, DeltaDiscoveryResponse)> {
        self.held.lock().responses.clone()
    }

    pub fn streams(&self) -> u64 {
        self.held.lock().streams
    }

    pub fn registered(&self) -> Vec<v1::RegisterRequest> {
        self.held.lock().registered.clone()
    }

    pub fn issued(&self) -> (u64, u64) {
        self.held.lock().issued
    }

    pub fn ups(&self) -> Vec<control_up::Message> {
        self.held.lock().ups.clone()
    }

    /// Every name subscribed to on a stream so far, of one type.
    pub fn subscribed(&self, stream: u64, url: &str) -> Vec<String> {
        let requests = self.requests().into_iter().filter(|(s, r)| *s == stream && r.type_url == url);
        requests.flat_map(|(_, r)| r.resource_names_subscribe).collect()
    }

    /// The acknowledgements of a type that carry refusals.
    pub fn refusals(&self) -> Vec<v1::ResourceRefusal> {
        use weft_proto::Resource as _;
        let details = self.requests().into_iter().filter_map(|(_, r)| r.error_detail).flat_map(|d| d.details);
        details.map(|any| v1::ResourceRefusal::from_any(&any).unwrap()).collect()
    }
}

/// What one stream was told of.
#[derive(Default)]
struct Subscriptions {
    /// By type and name or alias: the version that the sidecar has; `None`: not answered; `Some("")`: told that there is none.
    names: BTreeMap<(String, String), Option<String>>,
    /// By type and resource name, from resumption.
    offered: BTreeMap<(String, String), String>,
    /// A resource goes out once, whatever the number of names it was asked for by.
    versions: BTreeMap<(String, String), String>,
}

impl Plane {
    fn respond(&self, told: &mut Subscriptions, nonce: &mut u64) -> Vec<DeltaDiscoveryResponse> {
        let held = self.held.lock();
        let mut by_type: BTreeMap<String, DeltaDiscoveryResponse> = BTreeMap::new();
        for ((url, name), known) in &mut told.names {
            if held.silent.contains(name) {
                continue;
            }
            let found = held.resources.get(&(url.clone(), name.clone())).or_else(|| {
                held.resources.iter().find(|((u, _), r)| u == url && r.aliases.contains(name)).map(|(_, r)| r)
            });
            let version = found.map(|r| r.version.clone()).unwrap_or_default();
            if *known == Some(version.clone()) {
                continue;
            }
            let offered = found.and_then(|r| told.offered.get(&(url.clone(), r.name.clone())));
            let resumed = known.is_none() && found.is_some() && offered == Some(&version);
            *known = Some(version.clone());
            if resumed {
                continue;
            }
            let response = by_type
                .entry(url.clone())
                .or_insert_with(|| DeltaDiscoveryResponse { type_url: url.clone(), ..Default::default() });
            match found {
                Some(resource) => {
                    let key = (url.clone(), resource.name.clone());
                    if told.versions.insert(key, version.clone()).as_ref() != Some(&version) {
                        response.resources.push(resource.clone());
                    }
                }
                None => response.removed_resources.push(name.clone()),
            }
        }
        let mut responses: Vec<_> = by_type.into_values().collect();
        for response in &mut responses {
            *nonce += 1;
            response.nonce = nonce.to_string();
        }
        responses
    }
}

#[tonic::async_trait]
impl ads::AggregatedDiscoveryService for Plane {
    type StreamAggregatedResourcesStream = Stream_<DiscoveryResponse>;
    type DeltaAggregatedResourcesStream = Stream_<DeltaDiscoveryResponse>;

    async fn stream_aggregated_resources(
        &self,
        _: Request<Streaming<DiscoveryRequest>>,
    ) -> Result<Response<Self::StreamAggregatedResourcesStream>, Status> {
        Err(Status::unimplemented("delta only"))
    }

    async fn delta_aggregated_resources(
        &self,
        request: Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<Response<Self::DeltaAggregatedResourcesStream>, Status> {
        let mut requests = request.into_inner();
        let plane = self.clone();
        let number = {
            let mut held = plane.held.lock();
            held.streams += 1;
            held.streams
        };
        let (sender, responses) = mpsc::channel(256);
        tokio::spawn(async move {
            let mut told = Subscriptions::default();
            let mut pushed = plane.pushed.subscribe();
            let mut nonce = 0;
            loop {
                tokio::select! {
                    message = requests.message() => {
                        let Ok(Some(message)) = message else { return };
                        plane.held.lock().requests.push((number, message.clone()));
                        let url = message.type_url;
                        for name in message.resource_names_unsubscribe {
                            told.names.remove(&(url.clone(), name));
                        }
                        for (name, version) in message.initial_resource_versions {
                            told.offered.insert((url.clone(), name), version);
                        }
                        for name in message.resource_names_subscribe {
                            told.names.insert((url.clone(), name), None);
                        }
                    }
                    changed = pushed.changed() => if changed.is_err() { return },
                }
                for response in plane.respond(&mut told, &mut nonce) {
                    plane.held.lock().responses.push((number, response.clone()));
                    if sender.send(Ok(response)).await.is_err() {
                        return;
                    }
                }
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(responses))))
    }
}

fn peer<T>(request: &Request<T>) -> Option<SpiffeId> {
    use tonic::transport::server::{TcpConnectInfo, TlsConnectInfo};
    let certificates = request.extensions().get::<TlsConnectInfo<TcpConnectInfo>>()?.peer_certs()?;
    weft_certs::tls::peer_identity_of(certificates.as_slice())
}

#[tonic::async_trait]
impl identity_server::Identity for Plane {
    async fn issue_certificate(
        &self,
        request: Request<v1::IssueCertificateRequest>,
    ) -> Result<Response<v1::IssueCertificateResponse>, Status> {
        let peer = peer(&request);
        let request = request.into_inner();
        let id = match (peer, request.proof) {
            (Some(id), _) => {
                self.held.lock().issued.1 += 1;
                id
            }
            (None, Some(v1::issue_certificate_request::Proof::JoinToken(token))) if token == self.token() => {
                self.held.lock().issued.0 += 1;
                SpiffeId::workload(&self.domain, "shop", "cart").unwrap()
            }
            _ => return Err(Status::unauthenticated("the join token is not known here")),
        };
        let issued = self
            .ca
            .sign(&request.csr, &id, Some(self.lifetime), SystemTime::now())
            .map_err(|e| Status::invalid_argument(e.to_string()))?;
        Ok(Response::new(v1::IssueCertificateResponse {
            chain: issued.chain.iter().map(|c| c.to_vec()).collect(),
            bundle: Some(wire_bundle(&self.ca)),
            not_after: None,
            identity: id.to_string(),
        }))
    }

    async fn register(&self, request: Request<v1::RegisterRequest>) -> Result<Response<v1::RegisterResponse>, Status> {
        let id = peer(&request).ok_or_else(|| Status::unauthenticated("no certificate"))?;
        let request = request.into_inner();
        if request.services.iter().any(|s| s == "payments") {
            return Err(Status::permission_denied("the join token does not allow the service \"payments\""));
        }
        let uid = format!("{}/{}", id.namespace().unwrap_or_default(), request.name);
        self.held.lock().registered.push(request);
        Ok(Response::new(v1::RegisterResponse { uid }))
    }
}

#[tonic::async_trait]
impl control_server::Control for Plane {
    type StreamStream = Stream_<v1::ControlDown>;

    async fn stream(&self, request: Request<Streaming<v1::ControlUp>>) -> Result<Response<Self::StreamStream>, Status> {
        if peer(&request).is_none() {
            return Err(Status::unauthenticated("no certificate"));
        }
        let mut ups = request.into_inner();
        let plane = self.clone();
        let (sender, downs) = mpsc::channel(16);
        if plane.report_ms > 0 {
            let pace = v1::control_down::Message::Pace(v1::Pace { report_ms: plane.report_ms });
            let _ = sender.send(Ok(v1::ControlDown { message: Some(pace) })).await;
        }
        tokio::spawn(async move {
            while let Ok(Some(up)) = ups.message().await {
                let Some(message) = up.message else { continue };
                let withdraw = matches!(&message, control_up::Message::Readiness(r) if r.withdraw);
                plane.held.lock().ups.push(message);
                if withdraw {
                    let ack = v1::control_down::Message::WithdrawalAck(v1::WithdrawalAck {});
                    let _ = sender.send(Ok(v1::ControlDown { message: Some(ack) })).await;
                }
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(downs))))
    }
}

/// Type URLs, for short.
pub const SERVICE: &str = type_url::SERVICE;
pub const ENDPOINTS: &str = type_url::ENDPOINTS;

/// What the authority says, as it travels.
fn wire_bundle(ca: &weft_certs::MeshCa) -> v1::TrustBundle {
    let bundle = ca.bundle();
    let revocations = bundle.revocations().iter().map(|list| v1::RevocationList {
        crl: list.der().to_vec(),
        issuer: list.issuer().iter().map(|issuer| issuer.to_vec()).collect(),
    });
    v1::TrustBundle {
        trust_domain: ca.trust_domain().to_string(),
        roots: bundle.to_der(),
        reissue_after: 0,
        revocations: revocations.collect(),
    }
}
