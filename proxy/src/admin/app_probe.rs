//! Probes of the application for who cannot ask it: kubelet is no mesh identity, and what the sidecar accepts for the application says
//! nothing of the application. `GET /app-probe/NAME` on the admin port asks it over loopback and says what it said.

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;
use std::sync::Arc;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tonic::client::Grpc;
use tonic::transport::Endpoint;

/// Longest head of an answer.
const HEAD: usize = 16 * 1024;

/// One probe: `web/readinessProbe=http://127.0.0.1:8080/ready`. Schemes: `http`, `https` (whose certificate is not verified, as kubelet
/// does not), `tcp`, `grpc` (the path is the name of the service, grpc.health.v1).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AppProbe {
    /// What follows `/app-probe/`.
    pub name: String,
    scheme: Scheme,
    port: u16,
    path: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Scheme {
    Http,
    Https,
    Tcp,
    Grpc,
}

impl FromStr for AppProbe {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let form = "write NAME=http://127.0.0.1:PORT/PATH, https, tcp or grpc likewise";
        let (name, url) = text.split_once('=').ok_or(form)?;
        let known = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '/');
        if name.is_empty() || name.len() > 256 || !name.chars().all(known) {
            return Err(format!("{name:?} is no name: letters, digits, '-', '_', '.' and '/'"));
        }
        let (scheme, rest) = url.split_once("://").ok_or(form)?;
        let scheme = match scheme {
            "http" => Scheme::Http,
            "https" => Scheme::Https,
            "tcp" => Scheme::Tcp,
            "grpc" => Scheme::Grpc,
            other => return Err(format!("{other:?} is not http, https, tcp or grpc")),
        };
        let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        let port = authority.strip_prefix("127.0.0.1:").and_then(|port| port.parse().ok()).filter(|port| *port > 0);
        let port = port.ok_or_else(|| format!("{authority:?} is not 127.0.0.1 and a port"))?;
        // It goes into a request line as it is.
        if path.len() > 4096 || path.chars().any(|c| !c.is_ascii_graphic()) {
            return Err(format!("{path:?} is no path of a request"));
        }
        Ok(Self { name: name.into(), scheme, port, path: path.into() })
    }
}

impl fmt::Display for AppProbe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = match self.scheme {
            Scheme::Http => "http",
            Scheme::Https => "https",
            Scheme::Tcp => "tcp",
            Scheme::Grpc => "grpc",
        };
        write!(f, "{}={scheme}://127.0.0.1:{}{}", self.name, self.port, self.path)
    }
}

impl Serialize for AppProbe {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for AppProbe {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

#[derive(Clone, PartialEq, prost::Message)]
struct HealthRequest {
    #[prost(string, tag = "1")]
    service: String,
}

#[derive(Clone, PartialEq, prost::Message)]
struct HealthResponse {
    #[prost(int32, tag = "1")]
    status: i32,
}

impl AppProbe {
    /// Asks; `headers` are those that the prober sent, for an HTTP probe to carry on. The caller sets the deadline.
    ///
    /// # Errors
    /// Why there is no good answer, in words; with the status that an HTTP application gave.
    pub(super) async fn ask(&self, headers: &[(String, Vec<u8>)]) -> Result<String, (u16, String)> {
        let failed = |error: io::Error| (503, format!("the application does not answer: {error}"));
        match self.scheme {
            Scheme::Tcp => self.connect().await.map(|_| "the application accepts connections".into()).map_err(failed),
            Scheme::Http => {
                let stream = self.connect().await.map_err(failed)?;
                judge(self.get(stream, headers).await.map_err(failed)?)
            }
            Scheme::Https => {
                let stream = self.connect().await.map_err(failed)?;
                let config = unverified().map_err(|e| failed(io::Error::other(e)))?;
                let name = rustls::pki_types::ServerName::IpAddress(IpAddr::V4(Ipv4Addr::LOCALHOST).into());
                let tls = tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, stream).await;
                judge(self.get(tls.map_err(failed)?, headers).await.map_err(failed)?)
            }
            Scheme::Grpc => self.health().await,
        }
    }

    /// An application may listen on either loopback address.
    async fn connect(&self) -> io::Result<TcpStream> {
        let at = |address: IpAddr| TcpStream::connect(SocketAddr::new(address, self.port));
        match at(Ipv4Addr::LOCALHOST.into()).await {
            Ok(stream) => Ok(stream),
            Err(error) => at(Ipv6Addr::LOCALHOST.into()).await.map_err(|_| error),
        }
    }

    async fn get(
        &self,
        mut stream: impl AsyncRead + AsyncWrite + Unpin,
        headers: &[(String, Vec<u8>)],
    ) -> io::Result<u16> {
        let path = if self.path.is_empty() { "/" } else { &self.path };
        let mut request = format!("GET {path} HTTP/1.1\r\nconnection: close\r\n").into_bytes();
        let named = |wanted: &str| headers.iter().any(|(name, _)| name.eq_ignore_ascii_case(wanted));
        if !named("host") {
            request.extend(format!("host: 127.0.0.1:{}\r\n", self.port).into_bytes());
        }
        for (name, value) in headers.iter().filter(|(name, _)| !name.eq_ignore_ascii_case("connection")) {
            request.extend([name.as_bytes(), b": ", value, b"\r\n"].concat());
        }
        request.extend(b"\r\n");
        stream.write_all(&request).await?;
        let mut buffer = Vec::with_capacity(1024);
        loop {
            let mut fields = [httparse::EMPTY_HEADER; 128];
            let mut response = httparse::Response::new(&mut fields);
            let parsed = response.parse(&buffer).map_err(|e| io::Error::other(format!("not with HTTP: {e}")))?;
            match (parsed, response.code) {
                // What comes before the answer (RFC 9110 §15.2).
                (httparse::Status::Complete(length), Some(100..=199)) => drop(buffer.drain(..length)),
                (httparse::Status::Complete(_), Some(status)) => return Ok(status),
                _ => {
                    if buffer.len() >= HEAD {
                        return Err(io::Error::other("its answer has too long a head"));
                    }
                    if stream.read_buf(&mut buffer).await? == 0 {
                        return Err(io::ErrorKind::UnexpectedEof.into());
                    }
                }
            }
        }
    }

    async fn health(&self) -> Result<String, (u16, String)> {
        let failed = |why: String| (503, format!("the application does not answer: {why}"));
        let endpoint =
            Endpoint::from_shared(format!("http://127.0.0.1:{}", self.port)).map_err(|e| failed(e.to_string()))?;
        let this = self.clone();
        let connector = tower::service_fn(move |_: tonic::transport::Uri| {
            let this = this.clone();
            async move { this.connect().await.map(hyper_util::rt::TokioIo::new) }
        });
        let channel = endpoint.connect_with_connector(connector).await.map_err(|e| failed(e.to_string()))?;
        let mut client = Grpc::new(channel);
        client.ready().await.map_err(|e| failed(e.to_string()))?;
        let request = HealthRequest { service: self.path.trim_start_matches('/').to_owned() };
        let path = http::uri::PathAndQuery::from_static("/grpc.health.v1.Health/Check");
        let codec = tonic_prost::ProstCodec::<HealthRequest, HealthResponse>::default();
        match client.unary(tonic::Request::new(request), path, codec).await {
            Ok(answer) if answer.get_ref().status == 1 => Ok("the application says SERVING".into()),
            Ok(answer) => Err((503, format!("the application says health status {}", answer.get_ref().status))),
            Err(status) => Err((503, format!("the application says {:?}: {}", status.code(), status.message()))),
        }
    }
}

fn judge(status: u16) -> Result<String, (u16, String)> {
    let said = format!("the application says {status}");
    // Kubelet takes 200 to 399 as well.
    if (200..400).contains(&status) { Ok(said) } else { Err((status, said)) }
}

/// For probes alone: whoever answers on the application's port of this very pod is the application.
fn unverified() -> Result<rustls::ClientConfig, rustls::Error> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let schemes = provider.signature_verification_algorithms.supported_schemes();
    let config = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    Ok(config.dangerous().with_custom_certificate_verifier(Arc::new(Anyone(schemes))).with_no_client_auth())
}

#[derive(Debug)]
struct Anyone(Vec<rustls::SignatureScheme>);

impl rustls::client::danger::ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _: &rustls::pki_types::CertificateDer<'_>,
        _: &[rustls::pki_types::CertificateDer<'_>],
        _: &rustls::pki_types::ServerName<'_>,
        _: &[u8],
        _: rustls::pki_types::UnixTime,
    ) -> Result<rustls::client::danger::ServerCertVerified, rustls::Error> {
        Ok(rustls::client::danger::ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &rustls::pki_types::CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &rustls::pki_types::CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        self.0.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::TcpListener;

    async fn application(answer: &'static str) -> (u16, tokio::task::JoinHandle<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let task = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = vec![0; 4096];
            let n = stream.read(&mut request).await.unwrap();
            stream.write_all(answer.as_bytes()).await.unwrap();
            String::from_utf8_lossy(&request[..n]).into_owned()
        });
        (port, task)
    }

    fn probe(text: &str) -> AppProbe {
        text.parse().unwrap()
    }

    #[tokio::test]
    async fn an_application_is_asked_for_its_path_with_the_probers_headers() {
        let (port, task) = application("HTTP/1.1 103 Early\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n").await;
        let probe = probe(&format!("web/livenessProbe=http://127.0.0.1:{port}/healthz?full=1"));
        let headers = [("X-Probe".to_owned(), b"yes".to_vec()), ("Host".to_owned(), b"shop.example.com".to_vec())];
        assert_eq!(probe.ask(&headers).await, Ok("the application says 204".into()));
        let request = task.await.unwrap();
        assert!(request.starts_with("GET /healthz?full=1 HTTP/1.1\r\n"), "{request}");
        assert!(request.contains("X-Probe: yes\r\n") && request.contains("Host: shop.example.com\r\n"), "{request}");
        assert!(!request.contains("127.0.0.1"), "{request}");
    }

    #[tokio::test]
    async fn what_the_application_says_is_said_and_silence_is_no_answer() {
        let (port, _task) = application("HTTP/1.1 418 Teapot\r\n\r\n").await;
        assert_eq!(probe(&format!("a=http://127.0.0.1:{port}")).ask(&[]).await.unwrap_err().0, 418);
        let (port, _task) = application("220 smtp.example.com ready\r\n").await;
        let (status, why) = probe(&format!("a=http://127.0.0.1:{port}/")).ask(&[]).await.unwrap_err();
        assert!(status == 503 && why.contains("not with HTTP"), "{status} {why}");
        let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        for scheme in ["http", "tcp", "grpc", "https"] {
            let (status, why) = probe(&format!("a={scheme}://127.0.0.1:{nobody}")).ask(&[]).await.unwrap_err();
            assert!(status == 503 && why.starts_with("the application does not answer"), "{scheme}: {status} {why}");
        }
        let (port, _task) = application("").await;
        assert!(probe(&format!("a=tcp://127.0.0.1:{port}")).ask(&[]).await.is_ok());
    }

    #[test]
    fn a_probe_reads_as_it_is_written_and_leaves_loopback_never() {
        for text in
            ["web/livenessProbe=http://127.0.0.1:80/a", "a=grpc://127.0.0.1:9000/shop.Cart", "a=tcp://127.0.0.1:1"]
        {
            assert_eq!(probe(text).to_string(), text);
        }
        for (text, why) in [
            ("web", "write NAME="),
            ("web=8080", "write NAME="),
            ("=tcp://127.0.0.1:1", "is no name"),
            ("a=udp://127.0.0.1:1", "is not http"),
            ("a=http://192.0.2.1:80/", "is not 127.0.0.1"),
            ("a=http://127.0.0.1:0/", "is not 127.0.0.1"),
            ("a=http://127.0.0.1:80/ HTTP/1.1\r\nx: y", "is no path"),
        ] {
            let error = text.parse::<AppProbe>().unwrap_err();
            assert!(error.contains(why), "{text}: {error}");
        }
    }
}
