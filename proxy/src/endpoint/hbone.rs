//! HBONE: streams of bytes as CONNECT streams inside mTLS HTTP/2 connections, on both sides.
//!
//! The client opens streams to `<address>:<port>` of a workload; the server hands each request for one to a [`Tunnels`], which answers
//! with bytes or a refusal. The authority is only a key: what it means, and who may use it, is decided in `inbound`.

use super::connect::TunnelTo;
use crate::codec::h2::{self, Call};
use crate::codec::{
    ByteStr, Form, Frame, Handler, Headers, Io, Limits, Reply, RequestBody, RequestHead, ResponseHead, UpRecv,
    Upstream, Version,
};
use crate::error::{Kind, ProxyError, Sent};
use http::header::{HeaderName, HeaderValue};
use http::{Method, StatusCode};
use std::future::Future;
use tokio_util::sync::CancellationToken;

/// Names the calling service or workload, for the peer's metrics; who the peer is, its certificate says.
pub const SOURCE: HeaderName = HeaderName::from_static("weft-source");
/// Why a tunnel was refused.
pub const REASON: HeaderName = HeaderName::from_static("weft-error");

/// Bytes of a refusal's text that are read.
const SAID: usize = 1024;

/// Opens a stream of bytes on `call`.
pub(super) async fn open(call: Call, to: &TunnelTo, source: &str) -> Result<Io, ProxyError> {
    let mut headers = Headers::new();
    if let Ok(source) = HeaderValue::from_str(source)
        && !source.is_empty()
    {
        headers.append(SOURCE, source);
    }
    let head = RequestHead {
        method: Method::CONNECT,
        scheme: None,
        authority: Some(to.authority.clone()),
        path: ByteStr::default(),
        headers,
        version: Version::Http2,
        form: Form::Authority,
        upgrade: false,
        protocol: None,
    };
    let mut stream = Upstream::from(call);
    stream.send_head(&head, false).await?;
    let (answer, said) = {
        let (_, mut recv) = stream.split();
        loop {
            // No byte of the application's has been sent before the answer.
            let answer = recv.head().await.map_err(|error| error.sent(Sent::NotSent))?;
            if !answer.status.is_informational() {
                let said = if answer.status.is_success() { None } else { said(&mut recv).await };
                break (answer, said);
            }
        }
    };
    if answer.status.is_success() {
        return stream.into_io().map_err(ProxyError::from);
    }
    let reason = said.as_deref().or(answer.headers.text(&REASON)).unwrap_or("no reason given");
    let text = format!("{} refused the tunnel to {}: {} {reason}", to.addr, to.authority, answer.status.as_u16());
    // What policy forbids, another endpoint forbids as well; and it says nothing against this one.
    let kind = if answer.status == StatusCode::FORBIDDEN { Kind::Denied } else { Kind::TunnelRefused };
    Err(ProxyError::because(kind, text))
}

/// What a sidecar says of its refusal: the line of text in the answer's body. It names the policy, which the callers want to know.
async fn said(recv: &mut UpRecv<'_>) -> Option<String> {
    let mut line = Vec::new();
    while let Some(Ok(Frame::Data(bytes))) = recv.frame().await {
        line.extend_from_slice(&bytes[..bytes.len().min(SAID - line.len())]);
        if line.len() == SAID {
            break;
        }
    }
    let line: String = String::from_utf8_lossy(&line).lines().next()?.chars().filter(|c| !c.is_control()).collect();
    (!line.is_empty()).then_some(line)
}

/// What a peer's sidecar asks for: a stream of bytes to `authority`.
#[derive(Debug)]
pub struct Connect {
    /// `<address>:<port>`, as the peer wrote it.
    pub authority: ByteStr,
    /// The other headers of the request.
    pub headers: Headers,
}

impl Connect {
    /// Who says to be calling; for metrics only.
    #[must_use]
    pub fn source(&self) -> Option<&str> {
        self.headers.text(&SOURCE)
    }
}

/// Answers one [`Connect`].
pub struct Answer<'c> {
    body: RequestBody<'c>,
    reply: Reply<'c>,
}

impl Answer<'_> {
    /// Accepts: 200, and the bytes of both directions.
    pub async fn accept(mut self) -> Result<Io, ProxyError> {
        self.reply.send_head(ResponseHead::new(StatusCode::OK), false).await?;
        self.reply.into_io(self.body).await.map_err(ProxyError::from)
    }

    /// Refuses with a status and the reason for it.
    pub async fn refuse(mut self, status: StatusCode, reason: &str) -> Result<(), ProxyError> {
        let mut head = ResponseHead::new(status);
        if let Ok(reason) = HeaderValue::from_str(reason) {
            head.headers.append(REASON, reason);
        }
        self.reply.send_head(head, true).await.map_err(ProxyError::from)
    }

    /// Waits for `future` while the peer wants the stream; see [`Reply::while_open`].
    pub async fn while_open<F: Future>(&mut self, future: F) -> Result<F::Output, ProxyError> {
        self.reply.while_open(future).await.map_err(ProxyError::from)
    }
}

/// Serves the streams of one HBONE connection; made per connection, so that it knows who the peer is.
pub trait Tunnels: Send + Sync {
    /// Serves one stream to its end.
    fn tunnel<'c>(&'c self, connect: Connect, answer: Answer<'c>) -> impl Future<Output = ()> + Send + 'c;
}

struct Adapter<'t, T>(&'t T);

impl<T: Tunnels> Handler for Adapter<'_, T> {
    async fn call<'c>(&'c self, head: RequestHead, body: RequestBody<'c>, mut reply: Reply<'c>) {
        match head.authority {
            Some(authority) if head.method == Method::CONNECT && head.protocol.is_none() => {
                self.0.tunnel(Connect { authority, headers: head.headers }, Answer { body, reply }).await;
            }
            _ => {
                // Calls travel inside the streams, where the port they are for is known.
                let _ = reply.send_head(ResponseHead::new(StatusCode::METHOD_NOT_ALLOWED), true).await;
            }
        }
    }
}

/// Serves an HBONE connection (ALPN `h2`, the peer verified) until either side closes; see [`h2::serve`] for draining.
///
/// # Errors
/// What ended the connection, when that was no orderly close.
pub async fn serve<T: Tunnels>(
    io: Io,
    limits: &Limits,
    drain: &CancellationToken,
    tunnels: &T,
) -> Result<(), ProxyError> {
    h2::serve(io, limits, drain, &Adapter(tunnels)).await.map_err(ProxyError::from)
}

#[cfg(test)]
#[path = "hbone_tests.rs"]
mod tests;
