//! Connections to the API server: TCP, then TLS 1.3 that trusts only the kubeconfig's authority and presents its certificate.
//!
//! A connector for hyper's pooling client. Nothing here knows what is asked of the server.

use super::kubeconfig::Context;
use crate::failure::{Failure, chain};
use http::Uri;
use hyper_util::client::legacy::connect::{Connected, Connection};
use hyper_util::rt::TokioIo;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{self, Poll};
use std::time::Duration;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// One deadline for resolution, TCP and TLS.
const CONNECT: Duration = Duration::from_secs(5);

/// Makes connections for one context.
#[derive(Clone)]
pub struct Connector {
    tls: TlsConnector,
    server_name: Option<ServerName<'static>>,
}

impl Connector {
    /// Reads the context's certificates.
    ///
    /// # Errors
    /// When a certificate or key of the kubeconfig cannot be read.
    pub fn new(context: &Context) -> Result<Self, Failure> {
        let bad = |what: &str, error: &dyn std::fmt::Display| {
            Failure::usage(format!("kubeconfig {}: {what}: {error}", context.file.display()))
        };
        let mut roots = rustls::RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(&context.authority) {
            let certificate = certificate.map_err(|error| bad("certificate-authority", &error))?;
            roots.add(certificate).map_err(|error| bad("certificate-authority", &error))?;
        }
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = rustls::ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(|error| bad("TLS", &error))?
            .with_root_certificates(roots);
        let mut config = match &context.certificate {
            None => builder.with_no_client_auth(),
            Some((certificate, key)) => {
                let chain = CertificateDer::pem_slice_iter(certificate)
                    .collect::<Result<Vec<_>, _>>()
                    .map_err(|error| bad("client-certificate", &error))?;
                let key = PrivateKeyDer::from_pem_slice(key).map_err(|error| bad("client-key", &error))?;
                builder.with_client_auth_cert(chain, key).map_err(|error| bad("client-certificate", &error))?
            }
        };
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        let server_name = context
            .server_name
            .clone()
            .map(|name| ServerName::try_from(name).map_err(|error| bad("tls-server-name", &error)))
            .transpose()?;
        Ok(Self { tls: TlsConnector::from(Arc::new(config)), server_name })
    }

    async fn connect(self, uri: Uri) -> io::Result<Stream> {
        let host = uri.host().unwrap_or_default().trim_start_matches('[').trim_end_matches(']').to_owned();
        let port = uri.port_u16().unwrap_or(443);
        let name = match self.server_name {
            Some(name) => name,
            None => ServerName::try_from(host.clone()).map_err(io::Error::other)?,
        };
        let tcp = TcpStream::connect((host.as_str(), port)).await?;
        tcp.set_nodelay(true)?;
        let tls = self.tls.connect(name, tcp).await?;
        Ok(Stream(TokioIo::new(tls)))
    }
}

impl tower::Service<Uri> for Connector {
    type Response = Stream;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Stream>> + Send>>;

    fn poll_ready(&mut self, _: &mut task::Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let connector = self.clone();
        Box::pin(async move {
            tokio::time::timeout(CONNECT, connector.connect(uri))
                .await
                .unwrap_or_else(|_| Err(io::Error::new(io::ErrorKind::TimedOut, "no connection within 5 s")))
        })
    }
}

/// A connection as hyper's client wants it.
pub struct Stream(TokioIo<TlsStream<TcpStream>>);

impl Connection for Stream {
    fn connected(&self) -> Connected {
        Connected::new()
    }
}

impl hyper::rt::Read for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut task::Context<'_>,
        buf: hyper::rt::ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl hyper::rt::Write for Stream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut task::Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut task::Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut task::Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

/// What a failed request says about the server, for people.
pub fn explain(context: &Context, error: &(dyn std::error::Error + 'static)) -> Failure {
    let text = chain(error);
    let failure = Failure::unreachable(format!("cannot reach the control plane at {}: {text}", context.server));
    if text.contains("UnknownIssuer") || text.contains("BadSignature") {
        return failure.hint(format!(
            "another control plane answers there than the one that wrote {}; use the kubeconfig of its data directory",
            context.file.display()
        ));
    }
    failure.hint("is it running? start it with: weft up   (or name another kubeconfig with --kubeconfig)")
}
