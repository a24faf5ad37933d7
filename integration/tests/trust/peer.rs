//! A peer that the test plays itself: it joins by token as a sidecar does, holds an SVID, and then asks for what it should not get.
//! It verifies whom it talks to with the mesh's own configurations; what it asks for is its own.

use crate::stage::DOMAIN;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::{TlsConnector, rustls};
use tonic::Status;
use tonic::transport::{Channel, Endpoint, Uri};
use weft_certs::tls::{ALPN_GRPC, ClientConfigs, bootstrap_client_config};
use weft_certs::{CertificateDer, Identity, KeyPair, LiveIdentity, MeshCa, SpiffeId, Svid, TrustBundle};
use weft_integration::rig::{DEADLINE, Mesh};
use weft_proto::v1;
use weft_proto::v1::identity_client::IdentityClient;
use weft_proto::v1::issue_certificate_request::Proof;

/// Runs the asynchronous part of a test, at most twice [`DEADLINE`].
pub fn block<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async { tokio::time::timeout(2 * DEADLINE, future).await.expect("the test's own part ends") })
}

/// The SPIFFE id of a service account of the namespace `shop`.
pub fn id(account: &str) -> SpiffeId {
    SpiffeId::workload(&DOMAIN.parse().unwrap(), "shop", account).unwrap()
}

/// A join token as `weft token create` prints it.
#[derive(Clone)]
pub struct Token(pub String);

impl Token {
    /// One for the service `name` and the service account of the same name, with more flags.
    #[track_caller]
    pub fn create(mesh: &Mesh, name: &str, flags: &[&str]) -> Self {
        let mut arguments = vec!["token", "create", "-n", "shop", "--service", name, "--service-account", name];
        arguments.extend(flags);
        Self(mesh.weft(&arguments).ok().trim().to_owned())
    }

    /// What stands in it.
    pub fn body(&self) -> Value {
        let encoded = self.0.strip_prefix("weft-join.").expect("a join token begins with its name");
        serde_json::from_slice(&URL_SAFE_NO_PAD.decode(encoded).unwrap()).unwrap()
    }

    /// A part of its body that is text.
    pub fn field(&self, name: &str) -> String {
        self.body()[name].as_str().unwrap_or_else(|| panic!("a token carries {name}")).to_owned()
    }

    /// The same token with one part of its body changed.
    pub fn with(&self, name: &str, value: &str) -> Self {
        let mut body = self.body();
        body[name] = value.into();
        Self(format!("weft-join.{}", URL_SAFE_NO_PAD.encode(body.to_string())))
    }

    /// A channel to the control plane without a certificate, which trusts what the token pins.
    pub fn channel(&self, control: SocketAddr) -> Channel {
        let pin = self.field("spki").parse().unwrap();
        channel(control, bootstrap_client_config(pin, &DOMAIN.parse().unwrap(), &[ALPN_GRPC]).unwrap())
    }
}

fn channel(control: SocketAddr, tls: Arc<rustls::ClientConfig>) -> Channel {
    let tls = TlsConnector::from(tls);
    Endpoint::from_static("http://weft-control").connect_with_connector_lazy(tower::service_fn(move |_: Uri| {
        let tls = tls.clone();
        async move {
            let stream = TcpStream::connect(control).await?;
            tls.connect(weft_certs::tls::unnamed(), stream).await.map(TokioIo::new)
        }
    }))
}

/// Asks for a certificate over the key of `csr`, with `token` as the proof.
pub async fn issue(
    channel: Channel,
    csr: Vec<u8>,
    token: Option<&str>,
) -> Result<v1::IssueCertificateResponse, Status> {
    let proof = token.map(|token| Proof::JoinToken(token.to_owned()));
    let request = v1::IssueCertificateRequest { csr, requested_ttl: None, proof };
    let mut client = IdentityClient::new(channel);
    tokio::time::timeout(Duration::from_secs(20), client.issue_certificate(request))
        .await
        .expect("the control plane answers")
        .map(tonic::Response::into_inner)
}

/// Somebody who has joined.
pub struct Peer {
    configs: ClientConfigs,
    control: SocketAddr,
    pub chain: Vec<CertificateDer<'static>>,
    pub roots: Vec<CertificateDer<'static>>,
    pub key: KeyPair,
}

impl Peer {
    /// Joins as the service account `name` with a token of its own.
    pub async fn join(mesh: &Mesh, name: &str) -> Self {
        let token = Token::create(mesh, name, &[]);
        Self::redeem(mesh, &token).await.expect("a good token is worth a certificate")
    }

    /// Joins with `token`.
    pub async fn redeem(mesh: &Mesh, token: &Token) -> Result<Self, Status> {
        let key = KeyPair::generate().unwrap();
        let answer = issue(token.channel(mesh.grpc()), key.csr().unwrap(), Some(&token.0)).await?;
        let chain: Vec<_> = answer.chain.iter().map(|der| CertificateDer::from(der.to_vec())).collect();
        let bundle = answer.bundle.expect("a certificate comes with the trust bundle");
        let roots: Vec<_> = bundle.roots.iter().map(|der| CertificateDer::from(der.to_vec())).collect();
        let trust = TrustBundle::from_der(DOMAIN.parse().unwrap(), roots.iter().map(|r| r.to_vec())).unwrap();
        let live = LiveIdentity::new(Identity::new(Svid::new(chain.clone(), &key).unwrap(), trust));
        Ok(Self { configs: ClientConfigs::new(live), control: mesh.grpc(), chain, roots, key })
    }

    /// Has what a stolen authority of the mesh would sign.
    pub fn holding(mesh: &Mesh, svid: Svid, ca: &MeshCa) -> Self {
        let (chain, roots) = (svid.chain().to_vec(), ca.bundle().roots().to_vec());
        let key = KeyPair::from_pem("key", svid.key_pem()).unwrap();
        let live = LiveIdentity::new(Identity::new(svid, ca.bundle()));
        Self { configs: ClientConfigs::new(live), control: mesh.grpc(), chain, roots, key }
    }

    /// The id that its certificate bears.
    pub fn id(&self) -> SpiffeId {
        self.configs.identity().id().clone()
    }

    /// A channel to the control plane that presents the certificate.
    pub fn channel(&self) -> Channel {
        channel(self.control, self.configs.to_control_plane(&[ALPN_GRPC]).unwrap())
    }

    /// Registers a workload.
    pub async fn register(&self, request: v1::RegisterRequest) -> Result<String, Status> {
        let mut client = IdentityClient::new(self.channel());
        tokio::time::timeout(Duration::from_secs(20), client.register(request))
            .await
            .expect("the control plane answers")
            .map(|answer| answer.into_inner().uid)
    }

    /// mTLS to the sidecar of `expected`, with SNI or without.
    pub async fn dial(
        &self,
        tunnel: SocketAddr,
        expected: &SpiffeId,
        alpn: &'static [&'static [u8]],
        server_name: Option<&str>,
    ) -> std::io::Result<TlsStream<TcpStream>> {
        let name = match server_name {
            Some(name) => ServerName::try_from(name.to_owned()).expect("a name that can be sent as SNI"),
            None => weft_certs::tls::unnamed(),
        };
        let config = self.configs.to_peer(expected, alpn).unwrap();
        TlsConnector::from(config).connect(name, TcpStream::connect(tunnel).await?).await
    }
}
