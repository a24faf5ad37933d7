//! The boundary between calls and bytes: a call is a head, frames and trailers in both directions, whatever protocol carries it.
//!
//! [`h1::serve`] and [`h2::serve`] read calls off a connection and hand each to a [`Handler`]; an [`Upstream`] is one attempt on a connection
//! that was dialled ([`h1::Client`], [`h2::connect`]). The sidecar's request path and the control plane's gRPC port see the types of this module only, whatever carries
//! them. An idle connection holds no buffers. Routing, retries and deadlines of calls must not be here; framing and its limits must be nowhere else.
//!
//! Invariant of heads: `authority` is the truth about who is addressed. A `Host` entry in `headers` only remembers where the
//! caller put it and how it was spelt; encoders write `authority` in its place. `Transfer-Encoding` never appears in `headers`,
//! and `Content-Length` only when it is the length of the body; a body without one is chunked (HTTP/1.1) or ends its stream (HTTP/2).
//!
//! Invariant of both directions: a head that is sent without end is held back until the first frame so that both go out in one
//! write. Whoever then waits for something else wraps the wait in [`Reply::while_open`], which flushes what is held back;
//! [`UpRecv`] flushes the request's head by itself as soon as it is polled.

mod asked;
mod error;
pub mod h1;
pub mod h2;
mod headers;
mod io;
mod leave;
pub mod spare;
mod timers;
pub mod tls;

pub use asked::{Grpc, WEBSOCKET, Web, is_websocket};
pub use error::{Error, Kind, Sent, explanation};
pub use headers::{ByteStr, Field, Headers, Known, Set, Value, is_hop_by_hop};
pub use io::{Hold, Io, Stream};
pub use leave::Leave;
pub use timers::Timers;

use bytes::Bytes;
use http::uri::Scheme;
use http::{Method, StatusCode};
use std::future::Future;
use std::pin::pin;
use std::task::{Context, Poll};
use std::time::Duration;

/// The protocol version that carried a head.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Version {
    /// HTTP/1.0.
    Http10,
    /// HTTP/1.1.
    Http11,
    /// HTTP/2.
    Http2,
}

impl Version {
    /// As access logs write it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Http10 => "HTTP/1.0",
            Self::Http11 => "HTTP/1.1",
            Self::Http2 => "HTTP/2",
        }
    }
}

/// How a request named its target (RFC 9112 §3.2). HTTP/2 requests are `Origin`, its CONNECT is `Authority`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Form {
    /// `/path?query`.
    Origin,
    /// `http://authority/path?query`, as sent to an explicit proxy.
    Absolute,
    /// `host:port`, CONNECT only.
    Authority,
    /// `*`, OPTIONS only.
    Asterisk,
}

/// The head of a request.
#[derive(Clone, Debug)]
pub struct RequestHead {
    /// The method. A websocket is asked for by GET here, also where extended CONNECT did: see [`RequestHead::is_websocket`].
    pub method: Method,
    /// The scheme when the request named one (absolute form, HTTP/2).
    pub scheme: Option<Scheme>,
    /// `host[:port]` from the target, `:authority`, or `Host`; `None` only for HTTP/1.0 without, or an empty `Host`.
    pub authority: Option<ByteStr>,
    /// Path and query in origin form; `*` for the asterisk form, empty for CONNECT without `protocol`.
    pub path: ByteStr,
    /// The header section, hop-by-hop fields included until [`Headers::strip_hop_by_hop`].
    pub headers: Headers,
    /// The version it arrived in; what it leaves in is the connection's choice.
    pub version: Version,
    /// How the target was named. Requests are always sent in origin, authority or asterisk form.
    pub form: Form,
    /// The caller asks to switch protocols (`Connection: upgrade`, or extended CONNECT). Clear it to refuse.
    pub upgrade: bool,
    /// What it asks to switch to (`Upgrade`, or `:protocol` of RFC 8441).
    pub protocol: Option<ByteStr>,
}

impl RequestHead {
    /// A request of the proxy's own (probes, tests) in origin form.
    #[must_use]
    pub fn new(method: Method, authority: &str, path: &str) -> Self {
        Self {
            method,
            scheme: Some(Scheme::HTTP),
            authority: Some(ByteStr::from(authority)),
            path: ByteStr::from(path),
            headers: Headers::new(),
            version: Version::Http11,
            form: Form::Origin,
            upgrade: false,
            protocol: None,
        }
    }
}

/// The head of a response, final or informational (1xx).
#[derive(Clone, Debug)]
pub struct ResponseHead {
    /// The status.
    pub status: StatusCode,
    /// The reason phrase of HTTP/1; `None` writes the standard one.
    pub reason: Option<Bytes>,
    /// The header section.
    pub headers: Headers,
    /// The version it arrived in.
    pub version: Version,
}

impl ResponseHead {
    /// A response of the proxy's own without headers.
    #[must_use]
    pub fn new(status: StatusCode) -> Self {
        Self { status, reason: None, headers: Headers::new(), version: Version::Http11 }
    }
}

/// A piece of a body.
#[derive(Debug, Clone)]
pub enum Frame {
    /// Bytes, at least one. Consuming the frame returns the flow-control credit.
    Data(Bytes),
    /// Trailers; nothing follows.
    Trailers(Headers),
}

/// Why a stream is broken off, where the protocol can say (HTTP/2 error codes; HTTP/1 closes the connection).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResetCode {
    /// Nobody waits for the rest.
    Cancel,
    /// The other side broke.
    Internal,
    /// Not processed: may be sent again.
    Refused,
    /// The peer broke the protocol.
    Protocol,
}

/// Bounds on what a peer may make the codec hold or wait for.
#[derive(Clone, Debug)]
pub struct Limits {
    /// From the first byte of a head to its end (and for the first byte of a connection).
    pub header_timeout: Duration,
    /// An idle connection between calls.
    pub idle_timeout: Duration,
    /// Header entries of one head (and of one trailer section).
    pub max_headers: usize,
    /// Bytes of one head.
    pub max_head_bytes: usize,
    /// HTTP/2 streams that a peer may have open on a connection.
    pub max_streams: u32,
    /// HTTP/2 receive window of a stream.
    pub stream_window: u32,
    /// HTTP/2 receive window of a connection.
    pub connection_window: u32,
    /// A PING is sent after this long without a byte from the peer…
    pub ping_interval: Duration,
    /// …and the connection is given up when nothing comes back for this long.
    pub ping_timeout: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            header_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(3600),
            max_headers: 100,
            max_head_bytes: 64 * 1024,
            max_streams: 1000,
            stream_window: 1 << 20,
            connection_window: 16 << 20,
            ping_interval: Duration::from_secs(15),
            ping_timeout: Duration::from_secs(10),
        }
    }
}

/// Answers the calls of one connection; made per connection, so that it knows who the peer is.
pub trait Handler: Send + Sync {
    /// Answers one call. Both halves borrow the connection, so one task drives both directions. Returning before the reply is
    /// finished breaks the call off (RST_STREAM, or the connection is closed).
    fn call<'c>(
        &'c self,
        head: RequestHead,
        body: RequestBody<'c>,
        reply: Reply<'c>,
    ) -> impl Future<Output = ()> + Send + 'c;

    /// A head that never became a call (malformed, too large, too slow); the codec has answered it.
    fn rejected(&self, error: &Error) {
        let _ = error;
    }
}

/// The body of the request, read from the caller. `100 Continue` is sent when the first frame is asked for.
pub struct RequestBody<'c>(pub(crate) Incoming<'c>);

/// The body of a response, or of a request: the two sides read alike.
pub(crate) enum Incoming<'c> {
    H1(h1::Reader<'c>),
    H2(h2::Reader),
}

impl Incoming<'_> {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame, Error>>> {
        match self {
            Self::H1(reader) => reader.poll_frame(cx),
            Self::H2(reader) => reader.poll_frame(cx),
        }
    }

    fn is_end(&self) -> bool {
        match self {
            Self::H1(reader) => reader.is_end(),
            Self::H2(reader) => reader.is_end(),
        }
    }

    fn known_length(&self) -> Option<u64> {
        match self {
            Self::H1(reader) => reader.known_length(),
            Self::H2(reader) => reader.known_length(),
        }
    }
}

impl RequestBody<'_> {
    /// The next frame; `None` after the end. Cancel-safe.
    pub async fn frame(&mut self) -> Option<Result<Frame, Error>> {
        std::future::poll_fn(|cx| self.poll_frame(cx)).await
    }

    /// [`RequestBody::frame`] for hand-written polls.
    pub fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame, Error>>> {
        self.0.poll_frame(cx)
    }

    /// The same for whoever keeps it apart from its call: it ends with the call all the same. HTTP/2 only, where a body is not the connection.
    ///
    /// # Errors
    /// [`Kind::Internal`]: it is a body of HTTP/1.
    pub fn detach(self) -> Result<RequestBody<'static>, Error> {
        match self.0 {
            Incoming::H2(reader) => Ok(RequestBody(Incoming::H2(reader))),
            Incoming::H1(_) => Err(Error::because(Kind::Internal, "a body of HTTP/1 belongs to its connection")),
        }
    }

    /// Has the end been seen? True from the start for a request without a body.
    #[must_use]
    pub fn is_end(&self) -> bool {
        self.0.is_end()
    }

    /// Bytes still to come where the caller declared them.
    #[must_use]
    pub fn known_length(&self) -> Option<u64> {
        self.0.known_length()
    }
}

/// The way back to the caller of one call.
pub struct Reply<'c>(pub(crate) ReplyKind<'c>);

pub(crate) enum ReplyKind<'c> {
    H1(h1::ReplyWriter<'c>),
    H2(Box<h2::ReplyWriter>),
}

impl<'c> Reply<'c> {
    /// Sends an informational head (1xx except 101) at once. Dropped silently for HTTP/1.0 callers.
    pub async fn informational(&mut self, head: ResponseHead) -> Result<(), Error> {
        match &mut self.0 {
            ReplyKind::H1(reply) => reply.informational(&head).await,
            ReplyKind::H2(reply) => reply.informational(head),
        }
    }

    /// Sends the final head (or 101). With `end` nothing follows and it is flushed; otherwise it waits for the first frame, see
    /// [`Reply::while_open`].
    pub async fn send_head(&mut self, head: ResponseHead, end: bool) -> Result<(), Error> {
        match &mut self.0 {
            ReplyKind::H1(reply) => reply.send_head(&head, end).await,
            ReplyKind::H2(reply) => reply.send_head(head, end),
        }
    }

    /// Sends a piece of the body; returns when the connection has taken it (back-pressure).
    pub async fn data(&mut self, data: Bytes) -> Result<(), Error> {
        match &mut self.0 {
            ReplyKind::H1(reply) => reply.data(data).await,
            ReplyKind::H2(reply) => reply.data(data).await,
        }
    }

    /// Sends the last piece of the body and ends the reply: one frame less than [`Reply::data`] and [`Reply::finish`].
    pub async fn last(&mut self, data: Bytes) -> Result<(), Error> {
        match &mut self.0 {
            ReplyKind::H1(reply) => reply.last(data).await,
            ReplyKind::H2(reply) => reply.last(data).await,
        }
    }

    /// Sends trailers and ends the reply. HTTP/1 drops them when the body is not chunked.
    pub async fn trailers(&mut self, trailers: Headers) -> Result<(), Error> {
        match &mut self.0 {
            ReplyKind::H1(reply) => reply.trailers(&trailers).await,
            ReplyKind::H2(reply) => reply.trailers(&trailers),
        }
    }

    /// Ends the reply. Nothing happens when it has ended already.
    pub async fn finish(&mut self) -> Result<(), Error> {
        match &mut self.0 {
            ReplyKind::H1(reply) => reply.finish().await,
            ReplyKind::H2(reply) => reply.finish(),
        }
    }

    /// Has a final head been given to [`Reply::send_head`]?
    #[must_use]
    pub fn started(&self) -> bool {
        match &self.0 {
            ReplyKind::H1(reply) => reply.started(),
            ReplyKind::H2(reply) => reply.started(),
        }
    }

    /// Breaks the call off: RST_STREAM, or the connection is closed after this call.
    pub fn reset(&mut self, code: ResetCode) {
        match &mut self.0 {
            ReplyKind::H1(reply) => reply.reset(),
            ReplyKind::H2(reply) => reply.reset(code),
        }
    }

    /// Waits for `future` as long as the caller is there: flushes what was held back, and ends with [`Kind::ClientGone`] as soon
    /// as the caller cancels. `future` is dropped in that case, which is how cancellation reaches the other side at once.
    pub async fn while_open<F: Future>(&mut self, future: F) -> Result<F::Output, Error> {
        let mut future = pin!(future);
        std::future::poll_fn(|cx| match future.as_mut().poll(cx) {
            Poll::Ready(output) => Poll::Ready(Ok(output)),
            Poll::Pending => self.poll_gone(cx).map(Err),
        })
        .await
    }

    /// Flushes, and is ready with the reason once the caller has gone. For hand-written polls; see [`Reply::while_open`].
    pub fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<Error> {
        match &mut self.0 {
            ReplyKind::H1(reply) => reply.poll_gone(cx),
            ReplyKind::H2(reply) => reply.poll_gone(cx),
        }
    }

    /// After a 101, or a 2xx to CONNECT, sent without end: the raw bytes of both directions. Bytes that the caller has sent
    /// already come first.
    pub async fn into_io(self, body: RequestBody<'c>) -> Result<Io, Error> {
        match (self.0, body.0) {
            (ReplyKind::H1(reply), Incoming::H1(_)) => reply.into_io().await,
            (ReplyKind::H2(reply), Incoming::H2(reader)) => reply.into_io(reader),
            _ => Err(Error::because(Kind::Internal, "halves of two calls were put together")),
        }
    }
}

impl From<h1::Client> for Upstream {
    fn from(client: h1::Client) -> Self {
        Self(UpstreamKind::H1(client))
    }
}

impl From<h2::Call> for Upstream {
    fn from(call: h2::Call) -> Self {
        Self(UpstreamKind::H2(Box::new(call)))
    }
}

/// One attempt on one upstream connection. Dropped before its end it cancels (RST_STREAM, or the connection is closed); finished
/// cleanly it gives its connection back to the pool.
pub struct Upstream(pub(crate) UpstreamKind);

pub(crate) enum UpstreamKind {
    H1(h1::Client),
    H2(Box<h2::Call>),
}

impl Upstream {
    /// Starts the request. Without `end` the head is held back until the first frame or until [`UpRecv`] is polled.
    pub async fn send_head(&mut self, head: &RequestHead, end: bool) -> Result<(), Error> {
        match &mut self.0 {
            UpstreamKind::H1(client) => client.send_head(head, end).await,
            UpstreamKind::H2(call) => call.send_head(head, end).await,
        }
    }

    /// Both directions, to be driven by one task.
    pub fn split(&mut self) -> (UpSend<'_>, UpRecv<'_>) {
        match &mut self.0 {
            UpstreamKind::H1(client) => {
                let (writer, reader) = client.split();
                (UpSend(UpSendKind::H1(writer)), UpRecv(UpRecvKind::H1(reader)))
            }
            UpstreamKind::H2(call) => {
                let (send, recv) = call.split();
                (UpSend(UpSendKind::H2(send)), UpRecv(UpRecvKind::H2(recv)))
            }
        }
    }

    /// After a 101, or a 2xx to CONNECT: the raw bytes of both directions.
    pub fn into_io(self) -> Result<Io, Error> {
        match self.0 {
            UpstreamKind::H1(client) => client.into_io(),
            UpstreamKind::H2(call) => call.into_io(),
        }
    }

    /// The protocol that carries the attempt.
    #[must_use]
    pub const fn version(&self) -> Version {
        match &self.0 {
            UpstreamKind::H1(_) => Version::Http11,
            UpstreamKind::H2(_) => Version::Http2,
        }
    }
}

/// The request's direction of an [`Upstream`].
pub struct UpSend<'u>(UpSendKind<'u>);

enum UpSendKind<'u> {
    H1(h1::ClientWriter<'u>),
    H2(h2::CallSend<'u>),
}

impl UpSend<'_> {
    /// Sends a piece of the body; returns when the connection has taken it (back-pressure).
    pub async fn data(&mut self, data: Bytes) -> Result<(), Error> {
        match &mut self.0 {
            UpSendKind::H1(writer) => writer.data(data).await,
            UpSendKind::H2(send) => send.data(data).await,
        }
    }

    /// Sends the last piece of the body and ends the request: one frame less than [`UpSend::data`] and [`UpSend::finish`].
    pub async fn last(&mut self, data: Bytes) -> Result<(), Error> {
        match &mut self.0 {
            UpSendKind::H1(writer) => writer.last(data).await,
            UpSendKind::H2(send) => send.last(data).await,
        }
    }

    /// Sends trailers and ends the request.
    pub async fn trailers(&mut self, trailers: Headers) -> Result<(), Error> {
        match &mut self.0 {
            UpSendKind::H1(writer) => writer.trailers(&trailers).await,
            UpSendKind::H2(send) => send.trailers(&trailers),
        }
    }

    /// Ends the request. Nothing happens when it has ended already.
    pub async fn finish(&mut self) -> Result<(), Error> {
        match &mut self.0 {
            UpSendKind::H1(writer) => writer.finish().await,
            UpSendKind::H2(send) => send.finish(),
        }
    }
}

/// The response's direction of an [`Upstream`].
pub struct UpRecv<'u>(UpRecvKind<'u>);

enum UpRecvKind<'u> {
    H1(h1::ClientReader<'u>),
    H2(h2::CallRecv<'u>),
}

impl UpRecv<'_> {
    /// The next head: informational ones first, then the final one (or 101). Call again after a 1xx. Cancel-safe.
    pub async fn head(&mut self) -> Result<ResponseHead, Error> {
        std::future::poll_fn(|cx| self.poll_head(cx)).await
    }

    /// [`UpRecv::head`] for hand-written polls.
    pub fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<Result<ResponseHead, Error>> {
        match &mut self.0 {
            UpRecvKind::H1(reader) => reader.poll_head(cx),
            UpRecvKind::H2(recv) => recv.poll_head(cx),
        }
    }

    /// The next frame of the body; `None` after the end. Cancel-safe.
    pub async fn frame(&mut self) -> Option<Result<Frame, Error>> {
        std::future::poll_fn(|cx| self.poll_frame(cx)).await
    }

    /// [`UpRecv::frame`] for hand-written polls.
    pub fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame, Error>>> {
        match &mut self.0 {
            UpRecvKind::H1(reader) => reader.poll_frame(cx),
            UpRecvKind::H2(recv) => recv.poll_frame(cx),
        }
    }

    /// Is the response complete? Asked after the final head it says whether a body follows: pass it on as `end`.
    #[must_use]
    pub fn is_end(&self) -> bool {
        match &self.0 {
            UpRecvKind::H1(reader) => reader.is_end(),
            UpRecvKind::H2(recv) => recv.is_end(),
        }
    }

    /// Bytes still to come where the upstream declared them.
    #[must_use]
    pub fn known_length(&self) -> Option<u64> {
        match &self.0 {
            UpRecvKind::H1(reader) => reader.known_length(),
            UpRecvKind::H2(recv) => recv.known_length(),
        }
    }
}
