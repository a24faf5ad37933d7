//! The ways to a receiver of the OpenTelemetry protocol: gRPC, and protobuf in HTTP/1.1 requests; in the clear, or over TLS that is verified
//! as on the public web. Its sockets are never redirected, and every wait has a deadline.

use crate::endpoint::external;
use crate::intercept::exempt;
use futures_util::future::BoxFuture;
use prost::Message as _;
use rustls_pki_types::ServerName;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpSocket;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tonic::Code;
use tonic::transport::{Channel, Endpoint, Uri};
use weft_policy::config::{Receiver, Tracing, Transport};
use weft_proto::otlp::collector::trace_service_client::TraceServiceClient;
use weft_proto::otlp::collector::{ExportTraceServiceRequest, ExportTraceServiceResponse};

/// DNS, TCP and TLS together.
const CONNECT: Duration = Duration::from_secs(5);
/// One request, connecting included (OTLP, "Exporter settings": 10 s).
const REQUEST: Duration = Duration::from_secs(10);
/// How often a quiet connection is asked whether it lives, and how long the answer may take.
const KEEP_ALIVE: (Duration, Duration) = (Duration::from_secs(30), Duration::from_secs(5));
/// Longest answer of a receiver that is read.
const ANSWER: usize = 64 * 1024;

/// Why spans were not delivered.
#[derive(Debug)]
pub(super) enum Failed {
    /// The receiver may take them later.
    Later(String),
    /// It will never take them.
    Never(String),
}

/// A way to one receiver.
pub(super) enum Wire {
    Grpc(Box<TraceServiceClient<Channel>>),
    Http(Dialer),
}

impl Wire {
    /// Nothing is connected before there is something to send.
    ///
    /// # Errors
    /// When TLS cannot be had: the system has no roots.
    pub fn new(tracing: &Tracing, upstream: Vec<SocketAddr>) -> Result<Self, String> {
        let dialer = Dialer::new(&tracing.receiver, tracing.transport, upstream)?;
        if tracing.transport == Transport::Http {
            return Ok(Self::Http(dialer));
        }
        // The scheme must be http: with https tonic insists on TLS of its own.
        let origin = format!("http://{}", dialer.authority);
        let channel = Endpoint::from_shared(origin)
            .map_err(|error| error.to_string())?
            .http2_keep_alive_interval(KEEP_ALIVE.0)
            .keep_alive_timeout(KEEP_ALIVE.1)
            .connect_with_connector_lazy(tower::service_fn(move |_: Uri| {
                let dialer = dialer.clone();
                async move { dialer.dial().await.map(hyper_util::rt::TokioIo::new) }
            }));
        Ok(Self::Grpc(Box::new(TraceServiceClient::new(channel))))
    }

    /// Sends spans; how many of them the receiver did not want.
    ///
    /// # Errors
    /// When it took none.
    pub async fn send(&mut self, request: &ExportTraceServiceRequest) -> Result<usize, Failed> {
        let sending: BoxFuture<'_, _> = match self {
            Self::Grpc(client) => {
                let request = request.clone();
                Box::pin(async move {
                    let answered = client.export(request).await.map_err(|status| of_status(&status))?;
                    Ok(answered.into_inner())
                })
            }
            Self::Http(dialer) => Box::pin(dialer.post(request.encode_to_vec())),
        };
        match timeout(REQUEST, sending).await {
            Ok(answered) => answered.map(|answer| rejected(&answer)),
            Err(_) => Err(Failed::Later("no answer in time".to_owned())),
        }
    }
}

fn rejected(answer: &ExportTraceServiceResponse) -> usize {
    let Some(partial) = &answer.partial_success else { return 0 };
    usize::try_from(partial.rejected_spans).unwrap_or(0)
}

/// OTLP, "Failures" over gRPC: these may be tried again, and RESOURCE_EXHAUSTED since the receiver may only be busy.
fn of_status(status: &tonic::Status) -> Failed {
    let text = crate::discovery::link::innermost(status);
    match status.code() {
        Code::Cancelled
        | Code::DeadlineExceeded
        | Code::Aborted
        | Code::OutOfRange
        | Code::Unavailable
        | Code::DataLoss
        | Code::ResourceExhausted
        // What tonic says of a connection that broke.
        | Code::Unknown => Failed::Later(text),
        code => Failed::Never(format!("{code:?}: {text}")),
    }
}

/// Bytes both ways.
pub(super) trait Bytes: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Bytes for T {}

/// Connects to a receiver.
#[derive(Clone)]
pub(super) struct Dialer {
    receiver: Receiver,
    /// `host:port` as requests name it.
    authority: Arc<str>,
    tls: Option<TlsConnector>,
    /// Name servers.
    upstream: Arc<[SocketAddr]>,
}

impl Dialer {
    fn new(receiver: &Receiver, transport: Transport, upstream: Vec<SocketAddr>) -> Result<Self, String> {
        let tls = match receiver.tls {
            false => None,
            true => {
                let roots = weft_certs::tls::system_roots().map_err(|error| error.to_string())?;
                let config = weft_certs::tls::web_client_config(roots).map_err(|error| error.to_string())?;
                let mut config = Arc::unwrap_or_clone(config);
                if transport == Transport::Grpc {
                    config.alpn_protocols = vec![b"h2".to_vec()];
                }
                Some(TlsConnector::from(Arc::new(config)))
            }
        };
        let (open, close) = if receiver.host.contains(':') { ("[", "]") } else { ("", "") };
        let authority = format!("{open}{}{close}:{}", receiver.host, receiver.port).into();
        Ok(Self { receiver: receiver.clone(), authority, tls, upstream: upstream.into() })
    }

    async fn dial(&self) -> io::Result<Box<dyn Bytes>> {
        let dialled = timeout(CONNECT, self.connect()).await;
        let silent = || io::Error::new(io::ErrorKind::TimedOut, format!("{} is silent", self.authority));
        dialled.unwrap_or_else(|_| Err(silent()))
    }

    async fn connect(&self) -> io::Result<Box<dyn Bytes>> {
        let named = |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", self.authority));
        let mut last = io::Error::new(io::ErrorKind::NotFound, format!("{} has no address", self.receiver.host));
        for address in self.addresses().await? {
            let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
            exempt(&socket)?;
            let stream = match socket.connect(address).await {
                Ok(stream) => stream,
                Err(error) => {
                    last = named(error);
                    continue;
                }
            };
            stream.set_nodelay(true)?;
            let Some(tls) = &self.tls else { return Ok(Box::new(stream)) };
            let name = ServerName::try_from(self.receiver.host.to_string()).map_err(io::Error::other)?;
            return Ok(Box::new(tls.connect(name, stream).await.map_err(untrusted).map_err(named)?));
        }
        Err(last)
    }

    async fn addresses(&self) -> io::Result<Vec<SocketAddr>> {
        if let Ok(address) = self.receiver.host.parse() {
            return Ok(vec![SocketAddr::new(address, self.receiver.port)]);
        }
        // Made anew each time: connections are few, and a resolver that waits for them would be memory.
        let resolver = external::resolver(&self.upstream).map_err(io::Error::other)?;
        let (found, _) = external::resolve(&resolver, &self.receiver.host).await.map_err(io::Error::other)?;
        Ok(found.into_iter().map(|address| SocketAddr::new(address, self.receiver.port)).collect())
    }

    /// One request on a connection of its own (OTLP/HTTP, "Binary Protobuf Encoding").
    async fn post(&self, body: Vec<u8>) -> Result<ExportTraceServiceResponse, Failed> {
        let later = |error: io::Error| Failed::Later(error.to_string());
        let mut stream = self.dial().await.map_err(later)?;
        let head = format!(
            "POST {}/v1/traces HTTP/1.1\r\nhost: {}\r\nuser-agent: weft-proxy/{}\r\ncontent-type: application/x-protobuf\r\n\
             content-length: {}\r\nconnection: close\r\n\r\n",
            self.receiver.path,
            self.authority,
            env!("CARGO_PKG_VERSION"),
            body.len()
        );
        let sent = async {
            stream.write_all(head.as_bytes()).await?;
            stream.write_all(&body).await?;
            stream.flush().await
        };
        // It may have answered before it stopped reading.
        let sent = sent.await;
        match answer(&mut stream).await {
            Ok((200..=299, body)) => Ok(ExportTraceServiceResponse::decode(&*body).unwrap_or_default()),
            Ok((status @ (408 | 429 | 502 | 503 | 504), _)) => Err(Failed::Later(format!("HTTP status {status}"))),
            Ok((status, _)) => Err(Failed::Never(format!("HTTP status {status}"))),
            Err(error) => Err(later(sent.err().unwrap_or(error))),
        }
    }
}

/// What is wrong with a receiver's certificate, and what can be done about it.
fn untrusted(error: io::Error) -> io::Error {
    match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
        Some(rustls::Error::InvalidCertificate(_)) => {
            let why = format!("{error}; SSL_CERT_FILE names the roots that receivers are verified by");
            io::Error::new(error.kind(), why)
        }
        _ => error,
    }
}

/// Status and body of an answer. A body that is chunked, or longer than it may be, is not looked at.
async fn answer(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<(u16, Vec<u8>)> {
    let mut buffer = Vec::with_capacity(1024);
    loop {
        let mut headers = [httparse::EMPTY_HEADER; 64];
        let mut response = httparse::Response::new(&mut headers);
        let parsed = response.parse(&buffer).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        if let (httparse::Status::Complete(head), Some(status)) = (parsed, response.code) {
            let length = response.headers.iter().find(|header| header.name.eq_ignore_ascii_case("content-length"));
            let length = length.and_then(|header| std::str::from_utf8(header.value).ok()?.trim().parse::<usize>().ok());
            if (100..200).contains(&status) {
                buffer.drain(..head);
                continue;
            }
            let Some(length) = length.filter(|length| *length <= ANSWER) else { return Ok((status, Vec::new())) };
            while buffer.len() < head + length {
                if stream.read_buf(&mut buffer).await? == 0 {
                    return Ok((status, Vec::new()));
                }
            }
            return Ok((status, buffer[head..head + length].to_vec()));
        }
        if buffer.len() >= ANSWER || stream.read_buf(&mut buffer).await? == 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the receiver closed without an answer"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::TcpListener;
    use weft_proto::otlp::collector::ExportTracePartialSuccess;

    fn http(address: SocketAddr) -> Wire {
        let receiver = Receiver::parse(&format!("http://{address}/tenant"), Transport::Http).unwrap();
        let tracing = Tracing { receiver, transport: Transport::Http, ratio: 1.0, formats: Default::default() };
        Wire::new(&tracing, Vec::new()).unwrap()
    }

    /// Answers one request with `answer`; gives what was asked.
    async fn receive(listener: &TcpListener, answer: &[u8]) -> Vec<u8> {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut asked = Vec::new();
        while !asked.windows(4).any(|end| end == b"\r\n\r\n") {
            assert_ne!(stream.read_buf(&mut asked).await.unwrap(), 0);
        }
        stream.write_all(answer).await.unwrap();
        asked
    }

    #[tokio::test]
    async fn spans_are_posted_and_what_the_receiver_did_not_want_is_told() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut wire = http(listener.local_addr().unwrap());
        let partial = ExportTracePartialSuccess { rejected_spans: 3, error_message: String::new() };
        let body = ExportTraceServiceResponse { partial_success: Some(partial) }.encode_to_vec();
        let head = format!("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len());
        let response = [head.as_bytes(), &body].concat();
        let request = ExportTraceServiceRequest::default();
        let (asked, sent) = tokio::join!(receive(&listener, &response), wire.send(&request));
        assert_eq!(sent.unwrap(), 3);
        assert!(asked.starts_with(b"POST /tenant/v1/traces HTTP/1.1\r\n"));
        let asked = String::from_utf8_lossy(&asked).into_owned();
        assert!(asked.contains("content-type: application/x-protobuf\r\n"), "{asked}");
    }

    #[tokio::test]
    async fn a_receiver_that_is_busy_is_asked_again_and_one_that_refuses_is_not() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut wire = http(listener.local_addr().unwrap());
        let request = ExportTraceServiceRequest::default();
        for (status, again) in [("503 Busy", true), ("429 Slow", true), ("400 Bad", false), ("404 Not Found", false)] {
            let response = format!("HTTP/1.1 {status}\r\ntransfer-encoding: chunked\r\n\r\n");
            let (_, sent) = tokio::join!(receive(&listener, response.as_bytes()), wire.send(&request));
            assert_eq!(matches!(sent, Err(Failed::Later(_))), again, "{status}: {sent:?}");
        }
        let (_, sent) = tokio::join!(receive(&listener, b"HTT"), wire.send(&request));
        assert!(matches!(sent, Err(Failed::Later(_))), "{sent:?}");
        drop(listener);
        assert!(matches!(wire.send(&request).await, Err(Failed::Later(_))));
    }

    #[tokio::test(start_paused = true)]
    async fn a_receiver_that_accepts_and_says_nothing_is_left_in_time() {
        let (mut near, _far) = tokio::io::duplex(64);
        assert!(timeout(REQUEST, answer(&mut near)).await.is_err());
    }
}
