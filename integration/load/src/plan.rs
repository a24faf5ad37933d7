//! What is called: everything about a call that can be prepared once, so that making it costs little.

use crate::failure::Failure;
use crate::flags::{Call, Close, Length, Protocol};
use crate::socket::{FILL, Target};
use bytes::{BufMut, Bytes, BytesMut};
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderName, HeaderValue, TE};
use http::{Method, Request, Uri};
use std::fmt::Write as _;
use std::rc::Rc;
use std::time::Duration;

/// Longest body or message that is sent.
const LONGEST: u64 = 64 << 20;

/// A prepared call.
pub struct Plan {
    pub protocol: Protocol,
    pub target: Target,
    pub expect: Expect,
    pub timeout: Duration,
    /// A new connection for each call, closed so.
    pub churn: Option<Close>,
    /// HTTP/1.1: head and body as they are sent.
    pub bytes: Bytes,
    /// HTTP/2: the head.
    pub head: Request<()>,
    /// HTTP/2: the body, or one gRPC message with its prefix.
    pub body: Bytes,
}

/// What an answer must be.
#[derive(Clone, Copy, Debug)]
pub struct Expect {
    pub status: u16,
    pub length: Option<u64>,
}

impl Expect {
    /// Whether an answer is the one expected.
    pub fn check(&self, status: u16, length: u64) -> Result<u64, Failure> {
        if status != self.status {
            Err(Failure::Status)
        } else if self.length.is_some_and(|expected| expected != length) {
            Err(Failure::Length)
        } else {
            Ok(length)
        }
    }
}

impl Plan {
    /// # Errors
    ///
    /// A line for people when path or authority cannot be sent.
    pub fn new(call: &Call, churn: Option<Close>) -> Result<Rc<Self>, String> {
        let grpc = matches!(call.protocol, Protocol::Grpc | Protocol::GrpcStream);
        let path = call.path.as_deref().unwrap_or(if grpc { "/shop.Echo/Call" } else { "/" });
        let size = call.body.unwrap_or(if grpc { 1024 } else { 0 });
        if size > LONGEST {
            return Err(format!("--body: at most {LONGEST} bytes"));
        }
        let body = if grpc { message(size) } else { filler(size) };
        let length = match call.expect_length {
            Some(Length::Any) => None,
            Some(Length::Exactly(length)) => Some(length),
            None if !body.is_empty() => Some(body.len() as u64),
            None => Some(path.strip_prefix("/bytes/").and_then(|n| n.parse().ok()).unwrap_or(1024)),
        };
        Ok(Rc::new(Self {
            protocol: call.protocol,
            target: Target::new(call.target, call.sources),
            expect: Expect { status: call.expect_status, length },
            timeout: call.timeout,
            churn,
            bytes: http1(call, path, &body, churn == Some(Close::Server)),
            head: http2(call, path, grpc, body.len())?,
            body,
        }))
    }

    /// The same with a GET of another path, answered with `length` bytes.
    ///
    /// # Errors
    ///
    /// As [`Plan::new`].
    pub fn download(call: &Call, length: u64) -> Result<Rc<Self>, String> {
        let protocol = if call.protocol == Protocol::Http1 { Protocol::Http1 } else { Protocol::Http2 };
        let path = Some(format!("/bytes/{length}"));
        Self::new(&Call { protocol, path, body: None, expect_length: None, ..call.clone() }, None)
    }
}

/// `size` bytes of filler.
fn filler(size: u64) -> Bytes {
    let size = usize::try_from(size).unwrap_or(0);
    if size <= FILL.len() { Bytes::from_static(&FILL[..size]) } else { Bytes::from(vec![FILL[0]; size]) }
}

/// A gRPC message of `size` bytes, not compressed.
fn message(size: u64) -> Bytes {
    let payload = filler(size);
    let mut message = BytesMut::with_capacity(5 + payload.len());
    message.put_u8(0);
    message.put_u32(u32::try_from(payload.len()).unwrap_or(0));
    message.put_slice(&payload);
    message.freeze()
}

fn http1(call: &Call, path: &str, body: &[u8], close: bool) -> Bytes {
    let method = if body.is_empty() { "GET" } else { "POST" };
    let mut head = format!("{method} {path} HTTP/1.1\r\nhost: {}\r\nuser-agent: weft-load\r\n", call.authority);
    for (name, value) in &call.header {
        // Writing to a String does not fail.
        let _infallible = write!(head, "{name}: {value}\r\n");
    }
    if !body.is_empty() {
        let _infallible = write!(head, "content-type: application/octet-stream\r\ncontent-length: {}\r\n", body.len());
    }
    if close {
        head.push_str("connection: close\r\n");
    }
    head.push_str("\r\n");
    let mut bytes = BytesMut::from(head.as_bytes());
    bytes.extend_from_slice(body);
    bytes.freeze()
}

fn http2(call: &Call, path: &str, grpc: bool, length: usize) -> Result<Request<()>, String> {
    let uri = Uri::builder().scheme("http").authority(call.authority.as_str()).path_and_query(path);
    let mut request = Request::new(());
    *request.uri_mut() = uri.build().map_err(|e| format!("authority or path: {e}"))?;
    *request.version_mut() = http::Version::HTTP_2;
    *request.method_mut() = if length > 0 { Method::POST } else { Method::GET };
    let headers = request.headers_mut();
    headers.insert(http::header::USER_AGENT, HeaderValue::from_static("weft-load"));
    if grpc {
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        headers.insert(TE, HeaderValue::from_static("trailers"));
    } else if length > 0 {
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
        headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
    }
    for (name, value) in &call.header {
        let name = HeaderName::from_bytes(name.as_bytes()).map_err(|e| e.to_string())?;
        headers.insert(name, HeaderValue::from_str(value).map_err(|e| e.to_string())?);
    }
    Ok(request)
}
