//! A plain HTTP/1.1 client with keep-alive and `http_proxy` (absolute-form, credentials in the URL), as a small program would have one,
//! and the CONNECT tunnel through which a gRPC client goes. No retries.

use super::Error;
use base64::Engine;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response, Uri, header};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use std::sync::Mutex;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// A call takes no longer than this.
const CALL_DEADLINE: Duration = Duration::from_secs(5);
/// The head of a CONNECT answer is no longer than this.
const CONNECT_HEAD: usize = 8 * 1024;

/// Where calls go instead of to the host they name, and what to say there.
#[derive(Clone, Debug)]
pub struct Proxy {
    address: String,
    authorization: Option<HeaderValue>,
}

impl Proxy {
    /// The first of the environment variables that is set. `http://user:password@host:port`.
    pub fn from_environment(names: &[&str]) -> Result<Option<Self>, Error> {
        match names.iter().find_map(|n| std::env::var(n).ok().filter(|v| !v.is_empty())) {
            Some(url) => Self::parse(&url).map(Some),
            None => Ok(None),
        }
    }

    fn parse(url: &str) -> Result<Self, Error> {
        let uri: Uri = url.parse().map_err(|e| format!("proxy `{url}`: {e}"))?;
        let authority = uri.authority().ok_or_else(|| format!("proxy `{url}` names no host"))?.as_str();
        let (credentials, address) = match authority.rsplit_once('@') {
            Some((credentials, address)) => (Some(credentials), address),
            None => (None, authority),
        };
        let basic = |c: &str| HeaderValue::from_str(&format!("Basic {}", base64::prelude::BASE64_STANDARD.encode(c)));
        Ok(Self { address: address.to_owned(), authorization: credentials.map(basic).transpose()? })
    }

    /// Opens a tunnel to `authority` (`host:port`).
    pub async fn tunnel(&self, authority: &str) -> Result<TcpStream, Error> {
        let mut stream = TcpStream::connect(&self.address).await?;
        stream.set_nodelay(true)?;
        let mut head = format!("CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n").into_bytes();
        if let Some(value) = &self.authorization {
            head.extend_from_slice(b"Proxy-Authorization: ");
            head.extend_from_slice(value.as_bytes());
            head.extend_from_slice(b"\r\n");
        }
        head.extend_from_slice(b"\r\n");
        stream.write_all(&head).await?;
        let mut answer = Vec::with_capacity(256);
        while !answer.ends_with(b"\r\n\r\n") {
            if answer.len() == CONNECT_HEAD {
                return Err("the proxy's answer to CONNECT has no end".into());
            }
            answer.push(stream.read_u8().await?);
        }
        if answer.starts_with(b"HTTP/1.1 200") || answer.starts_with(b"HTTP/1.0 200") {
            return Ok(stream);
        }
        let line = String::from_utf8_lossy(&answer);
        Err(format!("the proxy refused CONNECT {authority}: {}", line.lines().next().unwrap_or_default()).into())
    }
}

/// Calls one base URL.
pub struct Client {
    /// `host[:port]` that calls name.
    authority: String,
    /// Where connections go.
    address: String,
    proxy: Option<Proxy>,
    idle: Mutex<Vec<SendRequest<Full<Bytes>>>>,
}

impl Client {
    /// A client of `base` (`http://host[:port]`), through `http_proxy` where it is set.
    pub fn new(base: &str) -> Result<Self, Error> {
        let uri: Uri = base.parse().map_err(|e| format!("`{base}`: {e}"))?;
        if uri.scheme_str() != Some("http") {
            return Err(format!("`{base}` is not an http:// URL").into());
        }
        let authority = uri.authority().ok_or_else(|| format!("`{base}` names no host"))?;
        let direct = format!("{}:{}", authority.host(), authority.port_u16().unwrap_or(80));
        let proxy = Proxy::from_environment(&["http_proxy", "HTTP_PROXY"])?;
        let address = proxy.as_ref().map_or(direct, |p| p.address.clone());
        Ok(Self { authority: authority.as_str().to_owned(), address, proxy, idle: Mutex::default() })
    }

    /// One call, its answer read whole.
    pub async fn call(
        &self,
        method: http::Method,
        path: &str,
        headers: &HeaderMap,
        body: Bytes,
    ) -> Result<Response<Bytes>, Error> {
        let target = match &self.proxy {
            Some(_) => format!("http://{}{path}", self.authority),
            None => path.to_owned(),
        };
        let mut request = Request::builder().method(method).uri(target).body(Full::new(body))?;
        *request.headers_mut() = headers.clone();
        request.headers_mut().insert(header::HOST, HeaderValue::from_str(&self.authority)?);
        if let Some(value) = self.proxy.as_ref().and_then(|p| p.authorization.clone()) {
            request.headers_mut().insert(header::PROXY_AUTHORIZATION, value);
        }
        match tokio::time::timeout(CALL_DEADLINE, self.exchange(request)).await {
            Ok(answer) => answer,
            Err(_) => Err(format!("{}{path} did not answer within {CALL_DEADLINE:?}", self.authority).into()),
        }
    }

    async fn exchange(&self, request: Request<Full<Bytes>>) -> Result<Response<Bytes>, Error> {
        let mut connection = self.connection().await?;
        let response = connection.send_request(request).await?;
        let (head, body) = response.into_parts();
        let body = body.collect().await?.to_bytes();
        self.idle.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push(connection);
        Ok(Response::from_parts(head, body))
    }

    /// An idle connection that is ready, else a new one.
    async fn connection(&self) -> Result<SendRequest<Full<Bytes>>, Error> {
        loop {
            let idle = self.idle.lock().unwrap_or_else(std::sync::PoisonError::into_inner).pop();
            match idle {
                Some(mut connection) => {
                    if !connection.is_closed() && connection.ready().await.is_ok() {
                        return Ok(connection);
                    }
                }
                None => break,
            }
        }
        let stream = TcpStream::connect(&self.address).await?;
        stream.set_nodelay(true)?;
        let (mut send, connection) = handshake(TokioIo::new(stream)).await?;
        // The task ends with the connection, which ends with `send`.
        tokio::spawn(connection);
        send.ready().await?;
        Ok(send)
    }
}

/// The headers that make a trace: copied from a request to the calls it causes.
pub fn trace_headers(from: &HeaderMap) -> HeaderMap {
    const NAMES: &[&str] = &[
        "traceparent",
        "tracestate",
        "baggage",
        "x-request-id",
        "b3",
        "x-b3-traceid",
        "x-b3-spanid",
        "x-b3-parentspanid",
        "x-b3-sampled",
        "x-b3-flags",
    ];
    let mut to = HeaderMap::new();
    for name in NAMES {
        if let Some(value) = from.get(*name) {
            to.insert(*name, value.clone());
        }
    }
    to
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proxy_url_gives_address_and_credentials() {
        let proxy = Proxy::parse("http://user:pass@127.0.0.1:15001").unwrap();
        assert_eq!(proxy.address, "127.0.0.1:15001");
        assert_eq!(proxy.authorization.unwrap(), "Basic dXNlcjpwYXNz");
        assert!(Proxy::parse("not a url").is_err());
    }
}
