//! A control plane in a directory of its own, and the two clients that tests talk to it with: an administrator of the API and a sidecar
//! over real mTLS. Every wait has a deadline.
#![allow(dead_code, missing_docs, unreachable_pub, reason = "each test binary uses a part")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a panic in a test is the report")]

use base64::Engine as _;
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use std::future::Future;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::{Channel, Endpoint, Uri};
use tonic::{Status, Streaming};
use weft_certs::ca::Credential;
use weft_certs::tls::{self, ALPN_GRPC, ClientConfigs};
use weft_certs::{Identity, KeyPair, LiveIdentity, Svid, TrustBundle, TrustDomain};
use weft_control::up::{self, Endpoints, Settings};
use weft_proto::discovery::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use weft_proto::discovery::{DeltaDiscoveryRequest, DeltaDiscoveryResponse};
use weft_proto::v1::control_client::ControlClient;
use weft_proto::v1::identity_client::IdentityClient;
use weft_proto::v1::issue_certificate_request::Proof;
use weft_proto::{rpc, v1};

/// No wait in a test is longer.
pub const DEADLINE: Duration = Duration::from_secs(20);

/// Waits for a future, not for ever.
pub async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(DEADLINE, future).await.unwrap_or_else(|_| panic!("{what}: not within {DEADLINE:?}"))
}

/// A running control plane.
pub struct Plane {
    pub dir: TempDir,
    pub endpoints: Endpoints,
    shutdown: CancellationToken,
    task: JoinHandle<Result<(), up::Error>>,
}

impl Plane {
    /// Starts one in a new directory.
    pub async fn start() -> Self {
        Self::start_in(tempfile::tempdir().unwrap()).await
    }

    /// Starts one in a directory, with graces short enough for tests.
    pub async fn start_in(dir: TempDir) -> Self {
        let settings = Settings {
            data_dir: dir.path().join("data"),
            grpc: SocketAddr::from(([127, 0, 0, 1], 0)),
            api: SocketAddr::from(([127, 0, 0, 1], 0)),
            stream_grace: Duration::from_millis(300),
            start_grace: Duration::from_millis(100),
            ..Settings::default()
        };
        let shutdown = CancellationToken::new();
        let (started, endpoints) = oneshot::channel();
        let stop = shutdown.clone();
        let task = tokio::spawn(async move { up::run_until(settings, stop, |e| drop(started.send(e.clone()))).await });
        let endpoints = soon("the start of the control plane", endpoints).await;
        let Ok(endpoints) = endpoints else { panic!("it did not start: {:?}", task.await) };
        Self { dir, endpoints, shutdown, task }
    }

    /// Ends it in order; the directory stays.
    pub async fn stop(self) -> TempDir {
        self.shutdown.cancel();
        soon("the end of the control plane", self.task).await.unwrap().unwrap();
        self.dir
    }

    pub fn data(&self) -> std::path::PathBuf {
        self.dir.path().join("data")
    }

    /// One request as the administrator.
    pub async fn api(&self, method: &str, path: &str, body: Option<Value>) -> (u16, Value) {
        let admin = kubeconfig(&self.data().join("kubeconfig"));
        request(&self.endpoints.api, Some(&admin.1), &admin.0, method, path, body).await
    }

    /// The same, which must succeed.
    pub async fn ok(&self, method: &str, path: &str, body: Option<Value>) -> Value {
        let (status, answer) = self.api(method, path, body).await;
        assert!((200..300).contains(&status), "{method} {path}: {status} {answer}");
        answer
    }

    /// Creates an object of `plural` in a namespace.
    pub async fn create(&self, group: &str, plural: &str, object: Value) {
        let namespace = object["metadata"]["namespace"].as_str().unwrap_or("shop").to_owned();
        self.ok("POST", &format!("{group}/namespaces/{namespace}/{plural}"), Some(object)).await;
    }

    /// A namespace.
    pub async fn namespace(&self, name: &str) {
        let object = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
        self.ok("POST", "/api/v1/namespaces", Some(object)).await;
    }

    /// A Service with one HTTP port 80 named http.
    pub async fn service(&self, namespace: &str, name: &str) {
        let spec = json!({"ports": [{"name": "http", "port": 80, "targetPort": "http"}]});
        let meta = json!({"name": name, "namespace": namespace});
        self.create(
            "/api/v1",
            "services",
            json!({"apiVersion": "v1", "kind": "Service", "metadata": meta, "spec": spec}),
        )
        .await;
    }

    /// A route of everything from one Service to another.
    pub async fn route(&self, namespace: &str, name: &str, parent: &str, backend: &str) {
        let reference = |text: &str| {
            let (namespace, name) = text.split_once('/').unwrap();
            json!({"group": "", "kind": "Service", "namespace": namespace, "name": name, "port": 80})
        };
        let object = json!({
            "apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute",
            "metadata": {"name": name, "namespace": namespace},
            "spec": {"parentRefs": [reference(parent)], "rules": [{"backendRefs": [reference(backend)]}]},
        });
        self.create("/apis/gateway.networking.k8s.io/v1", "httproutes", object).await;
    }

    /// Asks until an answer satisfies.
    pub async fn until(&self, path: &str, what: &str, satisfied: impl Fn(&Value) -> bool) -> Value {
        let until = tokio::time::Instant::now() + DEADLINE;
        loop {
            let (_, answer) = self.api("GET", path, None).await;
            if satisfied(&answer) {
                return answer;
            }
            assert!(tokio::time::Instant::now() < until, "{what}: not within {DEADLINE:?}; last: {answer:#}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// A join token.
    pub async fn token(&self, namespace: &str, account: &str, services: &[&str], uses: Option<u32>) -> String {
        let body = json!({"namespace": namespace, "serviceAccount": account, "services": services, "uses": uses});
        let made = self.ok("POST", "/weft/v1/tokens", Some(body)).await;
        made["token"].as_str().unwrap().to_owned()
    }

    /// A channel of somebody without a certificate who knows a token.
    pub fn anonymous(&self, token: &str) -> Channel {
        let inner = token.strip_prefix("weft-join.").unwrap();
        let json = base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(inner).unwrap();
        let text: Value = serde_json::from_slice(&json).unwrap();
        let domain: TrustDomain = text["td"].as_str().unwrap().parse().unwrap();
        let root = text["spki"].as_str().unwrap().parse().unwrap();
        self.channel(tls::bootstrap_client_config(root, &domain, &[ALPN_GRPC]).unwrap())
    }

    fn channel(&self, config: Arc<rustls::ClientConfig>) -> Channel {
        let address: SocketAddr = self.endpoints.grpc.parse().unwrap();
        let connector = tokio_rustls::TlsConnector::from(config);
        Endpoint::from_static("http://control").connect_with_connector_lazy(tower::service_fn(move |_: Uri| {
            let connector = connector.clone();
            async move {
                let tcp = TcpStream::connect(address).await?;
                Ok::<_, std::io::Error>(TokioIo::new(connector.connect(tls::unnamed(), tcp).await?))
            }
        }))
    }

    /// A sidecar with a certificate for a token.
    pub async fn join(&self, token: &str) -> Sidecar {
        let (svid, bundle) = issue(self.anonymous(token), Some(Proof::JoinToken(token.to_owned()))).await.unwrap();
        let live = LiveIdentity::new(Identity::new(svid, bundle));
        let configs = ClientConfigs::new(live);
        const ALPN: &[&[u8]] = &[ALPN_GRPC];
        let channel = self.channel(configs.to_control_plane(ALPN).unwrap());
        Sidecar { channel, configs }
    }

    /// The same over a new connection, as after a restart of either side.
    pub fn reconnect(&self, sidecar: &Sidecar) -> Channel {
        const ALPN: &[&[u8]] = &[ALPN_GRPC];
        self.channel(sidecar.configs.to_control_plane(ALPN).unwrap())
    }
}

/// Asks for a certificate.
pub async fn issue(channel: Channel, proof: Option<Proof>) -> Result<(Svid, TrustBundle), Status> {
    let key = KeyPair::generate().unwrap();
    let request = v1::IssueCertificateRequest { csr: key.csr().unwrap(), proof, requested_ttl: None };
    let issued = soon("a certificate", IdentityClient::new(channel).issue_certificate(request)).await?.into_inner();
    let chain = issued.chain.into_iter().map(Into::into).collect();
    let bundle = issued.bundle.unwrap();
    let bundle = TrustBundle::from_der(bundle.trust_domain.parse().unwrap(), bundle.roots).unwrap();
    let svid = Svid::new(chain, &key).unwrap();
    assert!(!svid.is_expired(SystemTime::now()));
    Ok((svid, bundle))
}

/// Somebody with an SVID.
pub struct Sidecar {
    pub channel: Channel,
    configs: ClientConfigs,
}

impl Sidecar {
    /// Registers a workload with one HTTP port.
    pub async fn register(&self, token: &str, name: &str, services: &[&str]) -> Result<String, Status> {
        let request = v1::RegisterRequest {
            join_token: token.to_owned(),
            name: name.to_owned(),
            services: services.iter().map(|s| (*s).to_owned()).collect(),
            ports: vec![v1::WorkloadPort { name: "http".into(), port: 8080, protocol: 1, local: String::new() }],
            address: "127.0.0.1".into(),
            tunnel: "127.0.0.1:40001".into(),
            ..Default::default()
        };
        let answer = soon("a registration", IdentityClient::new(self.channel.clone()).register(request)).await?;
        Ok(answer.into_inner().uid)
    }

    /// Opens an xDS stream.
    pub async fn xds(&self) -> Xds {
        xds(self.channel.clone()).await.unwrap()
    }

    /// Opens a control stream.
    pub async fn control(&self, uid: &str) -> (mpsc::Sender<v1::ControlUp>, Streaming<v1::ControlDown>) {
        let (up, messages) = mpsc::channel(16);
        let hello = v1::Hello { workload: uid.to_owned(), version: "test".into() };
        up.send(say(v1::control_up::Message::Hello(hello))).await.unwrap();
        let mut client = ControlClient::new(self.channel.clone());
        let stream = client.stream(ReceiverStream::new(messages));
        (up, soon("a control stream", stream).await.unwrap().into_inner())
    }
}

/// A message upwards.
pub fn say(message: v1::control_up::Message) -> v1::ControlUp {
    v1::ControlUp { message: Some(message) }
}

/// An xDS stream, driven by hand.
pub struct Xds {
    requests: mpsc::Sender<DeltaDiscoveryRequest>,
    responses: Streaming<DeltaDiscoveryResponse>,
}

/// Opens an xDS stream over a channel.
pub async fn xds(channel: Channel) -> Result<Xds, Status> {
    let (requests, messages) = mpsc::channel(64);
    let mut client = AggregatedDiscoveryServiceClient::new(channel);
    let responses = soon("an xDS stream", client.delta_aggregated_resources(ReceiverStream::new(messages))).await?;
    Ok(Xds { requests, responses: responses.into_inner() })
}

impl Xds {
    pub async fn send(&self, request: DeltaDiscoveryRequest) {
        self.requests.send(request).await.unwrap();
    }

    pub async fn subscribe(&self, url: &str, names: &[&str]) {
        self.resume(url, names, &[]).await;
    }

    /// Subscribes saying what is held.
    pub async fn resume(&self, url: &str, names: &[&str], held: &[(&str, &str)]) {
        self.send(DeltaDiscoveryRequest {
            type_url: url.to_owned(),
            resource_names_subscribe: names.iter().map(|n| (*n).to_owned()).collect(),
            initial_resource_versions: held.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect(),
            ..Default::default()
        })
        .await;
    }

    /// The next response, unacknowledged.
    pub async fn next(&mut self) -> Result<DeltaDiscoveryResponse, Status> {
        soon("a response", self.responses.message()).await.map(|m| m.expect("the stream has ended"))
    }

    pub async fn ack(&self, response: &DeltaDiscoveryResponse) {
        self.send(DeltaDiscoveryRequest {
            type_url: response.type_url.clone(),
            response_nonce: response.nonce.clone(),
            ..Default::default()
        })
        .await;
    }

    /// The next response, acknowledged.
    pub async fn take(&mut self) -> DeltaDiscoveryResponse {
        let response = self.next().await.unwrap();
        self.ack(&response).await;
        response
    }

    /// Refuses a resource of a response.
    pub async fn nack(&self, response: &DeltaDiscoveryResponse, field: &str, reason: &str) {
        use weft_proto::Resource as _;
        let first = &response.resources[0];
        let refusal = v1::ResourceRefusal {
            name: first.name.clone(),
            version: first.version.clone(),
            field: field.into(),
            reason: reason.into(),
        };
        let detail = rpc::Status { code: 3, message: "refused".into(), details: vec![refusal.to_any()] };
        self.send(DeltaDiscoveryRequest {
            type_url: response.type_url.clone(),
            response_nonce: response.nonce.clone(),
            error_detail: Some(detail),
            ..Default::default()
        })
        .await;
    }
}

fn kubeconfig(path: &Path) -> (rustls_pki_types::CertificateDer<'static>, Credential) {
    use rustls_pki_types::pem::PemObject as _;
    let config: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let pem = |pointer: &str| {
        let text = config.pointer(pointer).and_then(Value::as_str).unwrap();
        String::from_utf8(base64::engine::general_purpose::STANDARD.decode(text).unwrap()).unwrap()
    };
    let ca = pem("/clusters/0/cluster/certificate-authority-data");
    let ca = rustls_pki_types::CertificateDer::from_pem_slice(ca.as_bytes()).unwrap();
    let user = Credential::from_pem(
        "kubeconfig",
        &pem("/users/0/user/client-certificate-data"),
        &pem("/users/0/user/client-key-data"),
    );
    (ca, user.unwrap())
}

/// One HTTPS request to the API.
pub async fn request(
    server: &str,
    credential: Option<&Credential>,
    root: &rustls_pki_types::CertificateDer<'static>,
    method: &str,
    path: &str,
    body: Option<Value>,
) -> (u16, Value) {
    let authority = server.strip_prefix("https://").unwrap();
    let config = tls::api_client_config([root], credential, &[b"http/1.1"]).unwrap();
    let exchange = async {
        let tcp = TcpStream::connect(authority).await.unwrap();
        let name = "127.0.0.1".try_into().unwrap();
        let stream = tokio_rustls::TlsConnector::from(config).connect(name, tcp).await.unwrap();
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
        let driver = tokio_util::task::AbortOnDropHandle::new(tokio::spawn(connection));
        let bytes = body.map(|b| Bytes::from(b.to_string())).unwrap_or_default();
        let kind = if method == "PATCH" { "application/merge-patch+json" } else { "application/json" };
        let request = http::Request::builder()
            .method(method)
            .uri(path)
            .header("host", authority)
            .header("content-type", kind)
            .body(Full::new(bytes))
            .unwrap();
        let response = sender.send_request(request).await.unwrap();
        let status = response.status().as_u16();
        let bytes = response.into_body().collect().await.unwrap().to_bytes();
        drop(driver);
        (status, serde_json::from_slice(&bytes).unwrap_or(Value::Null))
    };
    soon(&format!("{method} {path}"), exchange).await
}
