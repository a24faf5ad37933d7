//! Somebody who asks the control plane for a certificate as a sidecar does, with a token of their own.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use std::future::Future;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tonic::Status;
use tonic::transport::{Endpoint, Uri};
use weft_certs::KeyPair;
use weft_certs::tls::{ALPN_GRPC, bootstrap_client_config, unnamed};
use weft_integration::rig::{Mesh, Sidecar};
use weft_proto::v1;
use weft_proto::v1::identity_client::IdentityClient;
use weft_proto::v1::issue_certificate_request::Proof;

/// Runs a future to its end, at most a minute.
pub fn block<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let all = async { tokio::time::timeout(Duration::from_secs(60), future).await };
    runtime.block_on(all).expect("an answer in time")
}

/// A join token for the service account `name` of namespace `shop`.
#[track_caller]
pub fn token(mesh: &Mesh, name: &str) -> String {
    mesh.weft(&["token", "create", "-n", "shop", "--service-account", name]).ok().trim().to_owned()
}

/// What a sidecar has logged.
pub fn log(sidecar: &Sidecar) -> String {
    std::fs::read_to_string(sidecar.state.join("sidecar.log")).unwrap_or_default()
}

/// What the text of a token says.
pub fn body(token: &str) -> Value {
    let json = URL_SAFE_NO_PAD.decode(token.strip_prefix("weft-join.").unwrap()).unwrap();
    serde_json::from_slice(&json).unwrap()
}

/// Asks for a certificate with a token.
pub async fn redeem(mesh: &Mesh, token: &str) -> Result<v1::IssueCertificateResponse, Status> {
    let said = body(token);
    let part = |name: &str| said[name].as_str().unwrap().to_owned();
    let tls = bootstrap_client_config(part("spki").parse().unwrap(), &part("td").parse().unwrap(), &[ALPN_GRPC]);
    let (tls, control) = (TlsConnector::from(tls.unwrap()), mesh.grpc());
    let channel =
        Endpoint::from_static("http://weft-control").connect_with_connector_lazy(tower::service_fn(move |_: Uri| {
            let tls = tls.clone();
            async move {
                let stream = TcpStream::connect(control).await?;
                tls.connect(unnamed(), stream).await.map(TokioIo::new)
            }
        }));
    let csr = KeyPair::generate().unwrap().csr().unwrap();
    let request =
        v1::IssueCertificateRequest { csr, requested_ttl: None, proof: Some(Proof::JoinToken(token.to_owned())) };
    IdentityClient::new(channel).issue_certificate(request).await.map(tonic::Response::into_inner)
}
