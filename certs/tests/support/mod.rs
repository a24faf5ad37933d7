//! What the handshake tests share: a PKI that signs anything one asks of it, peers that present anything, and one handshake over real
//! sockets with a deadline. Nothing of the crate's own verification is repeated here.

#![allow(dead_code, reason = "each test program uses its part")]

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair, KeyUsagePurpose, SanType,
};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::{ClientConfig, DigitallySignedStruct, ServerConfig, SignatureScheme};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use time::OffsetDateTime;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{TlsAcceptor, TlsConnector, client, server};
use weft_certs::{Error, Identity, LiveIdentity, MeshCa, SpiffeId, TrustBundle, TrustDomain, tls};

pub const DEADLINE: Duration = Duration::from_secs(20);

pub fn domain(name: &str) -> TrustDomain {
    name.parse().unwrap()
}

pub fn workload(account: &str) -> SpiffeId {
    SpiffeId::workload(&domain("weft.test"), "shop", account).unwrap()
}

pub fn mesh() -> MeshCa {
    MeshCa::ephemeral(&domain("weft.test"), SystemTime::now()).unwrap()
}

pub fn live(ca: &MeshCa, account: &str) -> Arc<LiveIdentity> {
    let svid = ca.issue(&workload(account), None, SystemTime::now()).unwrap();
    LiveIdentity::new(Identity::new(svid, ca.bundle()))
}

/// An authority without scruples.
pub struct Forge {
    pub root: CertifiedIssuer<'static, KeyPair>,
    pub intermediate: CertifiedIssuer<'static, KeyPair>,
}

impl Forge {
    pub fn new() -> Self {
        let root = CertifiedIssuer::self_signed(ca_params("forge root"), KeyPair::generate().unwrap()).unwrap();
        Self::below(root, ca_params("forge issuing"))
    }

    pub fn with_intermediate(change: impl FnOnce(&mut CertificateParams)) -> Self {
        let root = CertifiedIssuer::self_signed(ca_params("forge root"), KeyPair::generate().unwrap()).unwrap();
        let mut params = ca_params("forge issuing");
        change(&mut params);
        Self::below(root, params)
    }

    fn below(root: CertifiedIssuer<'static, KeyPair>, params: CertificateParams) -> Self {
        let intermediate = CertifiedIssuer::signed_by(params, KeyPair::generate().unwrap(), &root).unwrap();
        Self { root, intermediate }
    }

    pub fn bundle(&self, of: &str) -> TrustBundle {
        TrustBundle::from_der(domain(of), [self.root.der().to_vec()]).unwrap()
    }

    /// Trusts this forge as the roots of the mesh, and holds a good certificate of it.
    pub fn live(&self, account: &str) -> Arc<LiveIdentity> {
        let (chain, key) = self.leaf(&workload(account), |_| {});
        let key = weft_certs::KeyPair::from_der("key", &key).unwrap();
        LiveIdentity::new(Identity::new(weft_certs::Svid::new(chain, &key).unwrap(), self.bundle("weft.test")))
    }

    /// A good leaf, changed in whatever way.
    pub fn leaf(&self, id: &SpiffeId, change: impl FnOnce(&mut CertificateParams)) -> Presented {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.subject_alt_names = vec![uri(id.as_str())];
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.not_before = OffsetDateTime::now_utc() - Duration::from_secs(60);
        params.not_after = OffsetDateTime::now_utc() + Duration::from_secs(3600);
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        let leaf = params.signed_by(&key, &self.intermediate).unwrap().der().clone();
        (vec![leaf, self.intermediate.der().clone()], key.into())
    }
}

pub type Presented = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

pub fn uri(text: &str) -> SanType {
    SanType::URI(text.try_into().unwrap())
}

fn ca_params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    params
}

/// A server that presents anything and asks for nothing.
pub fn any_server((chain, key): Presented) -> Arc<ServerConfig> {
    let mut config = ServerConfig::builder_with_provider(tls::provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .unwrap();
    config.alpn_protocols = vec![b"h2".to_vec()];
    Arc::new(config)
}

/// A client that presents anything, or nothing, and believes everybody.
pub fn any_client(presented: Option<Presented>) -> Arc<ClientConfig> {
    let builder = ClientConfig::builder_with_provider(tls::provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Believer));
    let mut config = match presented {
        Some((chain, key)) => builder.with_client_auth_cert(chain, key).unwrap(),
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    Arc::new(config)
}

#[derive(Debug)]
struct Believer;

impl ServerCertVerifier for Believer {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }
    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }
    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }
    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        tls::provider().signature_verification_algorithms.supported_schemes()
    }
}

/// What became of a handshake, as each side saw it.
pub struct Outcome {
    pub server: Result<server::TlsStream<TcpStream>, Error>,
    pub client: Result<client::TlsStream<TcpStream>, Error>,
}

impl Outcome {
    /// Both streams, when it went well.
    pub fn good(self) -> (server::TlsStream<TcpStream>, client::TlsStream<TcpStream>) {
        (self.server.expect("the server accepts"), self.client.expect("the client accepts"))
    }

    /// The text of the server's refusal.
    pub fn refused_by_server(self) -> String {
        self.server.expect_err("the server refuses").to_string()
    }

    /// The text of the client's refusal.
    pub fn refused_by_client(self) -> String {
        self.client.expect_err("the client refuses").to_string()
    }
}

pub async fn handshake(server: Arc<ServerConfig>, client: Arc<ClientConfig>) -> Outcome {
    named_handshake(server, client, tls::unnamed()).await
}

/// One handshake over a real connection, and one byte each way: with TLS 1.3 a client learns of its refusal by the first read.
pub async fn named_handshake(
    server: Arc<ServerConfig>,
    client: Arc<ClientConfig>,
    name: ServerName<'static>,
) -> Outcome {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let serve = async {
        let (socket, _) = listener.accept().await?;
        let mut stream = TlsAcceptor::from(server).accept(socket).await?;
        exchange(&mut stream).await?;
        Ok(stream)
    };
    let call = async {
        let socket = TcpStream::connect(address).await?;
        let mut stream = TlsConnector::from(client).connect(name, socket).await?;
        exchange(&mut stream).await?;
        Ok(stream)
    };
    let both = async { tokio::join!(serve, call) };
    let (server, client): (std::io::Result<_>, std::io::Result<_>) =
        tokio::time::timeout(DEADLINE, both).await.expect("a handshake ends");
    let reason = |e: std::io::Error| Error::from_handshake(&e);
    Outcome { server: server.map_err(reason), client: client.map_err(reason) }
}

/// One byte each way.
pub async fn exchange<S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin>(stream: &mut S) -> std::io::Result<()> {
    stream.write_all(b"x").await?;
    stream.flush().await?;
    let mut byte = [0];
    stream.read_exact(&mut byte).await.map(|_| ())
}
