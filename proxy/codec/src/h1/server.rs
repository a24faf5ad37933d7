//! The accepting end of an HTTP/1 connection: reads heads one after the other, hands each call to the handler, and decides
//! whether the connection lives on.
//!
//! A handler drives both directions of its call within this one task. Deadlines here are those of the connection (head, idle,
//! lingering); deadlines of calls belong to handlers.

use super::encode::{self, Answering, Encoder};
use super::parse::{self, Decoder, RequestFraming};
use super::wire::{Conn, End, HeadError, Reader, Wire};
use crate::{Error, Kind};
use crate::{
    Handler, Headers, Incoming, Io, Leave, Limits, Reply, ReplyKind, RequestBody, RequestHead, ResponseHead, Timers,
    Version,
};
use bytes::{Bytes, BytesMut};
use http::header::{self, HeaderName, HeaderValue};
use http::{Method, StatusCode};
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::time::{Instant, Sleep, timeout};
use tokio_util::sync::CancellationToken;

/// How much of an unread body is read for the sake of keeping the connection.
const DISCARD: usize = 256 * 1024;
/// How long a connection that is being closed waits for the peer to read the last response.
const LINGER: Duration = Duration::from_secs(2);
/// How long after a call the room for the next one is kept. Longer than connections of a modest load pause (a thousand calls a second on
/// 64 of them is one in 64 ms): giving room back costs a wake-up, and taking it again a timer and an allocation.
const QUIET: Duration = Duration::from_millis(500);

/// Serves calls on `io` until either side closes. When it is asked to [`Leave`], the next response says `Connection: close`, and where that
/// is wanted an idle connection is closed; streams inside HBONE are left to the GOAWAY of the connection around them.
///
/// `timers`: armed timers of connections of this worker.
///
/// What only calls need lives in a [`burst`] of its own and is given back when the connection falls quiet: an idle one holds its
/// socket, its framing and a timer.
///
/// # Errors
/// What ended the connection, when that was no orderly close. A malformed head has been answered and reported to the handler.
pub async fn serve<H: Handler>(
    io: Io,
    limits: &Limits,
    timers: &Timers,
    leave: &Leave,
    handler: &H,
) -> Result<(), Error> {
    let tunnelled = io.is_tunnel();
    let mut conn = Conn::new(io, End::Server, limits.clone());
    let mut timer = Timer::new(timers, limits.header_timeout);
    let mut drained = pin!(leave.idle.cancelled());
    let mut patience = limits.header_timeout;
    loop {
        let mut idle = Idle { timer: &mut timer, drained: drained.as_mut(), tunnelled };
        if !stir(conn.get_mut(), &mut idle, patience).await {
            return close(conn.get_mut()).await;
        }
        if let Some(ended) = Box::pin(burst(&mut conn, &mut idle, &leave.after_calls, handler)).await {
            return ended;
        }
        patience = limits.idle_timeout.saturating_sub(QUIET);
    }
}

/// Calls one after the other, until the connection ends or there is none for [`QUIET`] (`None`).
async fn burst<H: Handler, D: Future<Output = ()>>(
    conn: &mut Conn,
    idle: &mut Idle<'_, '_, D>,
    drain: &CancellationToken,
    handler: &H,
) -> Option<Result<(), Error>> {
    loop {
        let (head, framing) = match next_head(conn.get_mut(), idle).await {
            Ok(Next::Head(head, framing)) => (head, framing),
            Ok(Next::Quiet) => return None,
            Ok(Next::Close) => return Some(close(conn.get_mut()).await),
            Err(error) => return Some(refuse(conn.get_mut(), handler, error).await),
        };
        let wire = conn.get_mut();
        wire.decoder = framing.body;
        wire.expect_continue = framing.expect_continue;
        wire.keep_alive = framing.keep_alive;
        wire.encoder = Encoder::Idle;
        // A caller that said it sends nothing more may close its side early; otherwise a closed side is a caller that has gone.
        let half_close = idle.tunnelled || !framing.keep_alive;
        let body = RequestBody(Incoming::H1(Reader { conn }));
        let reply = ReplyWriter {
            conn,
            method: head.method.clone(),
            version: head.version,
            half_close,
            drain: drain.clone(),
            started: false,
        };
        handler.call(effective(head), body, Reply(ReplyKind::H1(reply))).await;
        let wire = conn.get_mut();
        if wire.io.is_none() {
            return Some(Ok(()));
        }
        if wire.broken || wire.encoder != Encoder::Done {
            // Cut so that the caller sees that something is missing.
            if let Some(io) = wire.io.take() {
                io.abort();
            }
            return Some(Ok(()));
        }
        if poll_fn(|cx| conn.get_mut().poll_flush(cx)).await.is_err() {
            return Some(Ok(()));
        }
        if !settle(conn.get_mut()).await {
            let wire = conn.get_mut();
            let unread = !matches!(wire.decoder, Decoder::Done) || !wire.inbound.is_empty();
            linger(wire, unread).await;
            return Some(Ok(()));
        }
        conn.get_mut().rest();
    }
}

/// RFC 9112 §3.2.2: when a proxy receives a request in absolute form it MUST ignore the Host field and replace it with the
/// host information of the target.
fn effective(mut head: RequestHead) -> RequestHead {
    if head.form == crate::Form::Absolute
        && let Some(value) = head.authority.as_ref().and_then(|a| HeaderValue::from_maybe_shared(a.bytes()).ok())
        && head.headers.contains(&header::HOST)
    {
        head.headers.set(&header::HOST, &value);
    }
    head
}

/// One timer for a whole connection: moving its deadline further away costs nothing until it fires, and one that another connection left
/// armed costs nothing at all.
struct Timer<'t> {
    timers: &'t Timers,
    sleep: Option<Pin<Box<Sleep>>>,
    deadline: Instant,
}

impl<'t> Timer<'t> {
    fn new(timers: &'t Timers, after: Duration) -> Self {
        Self { timers, sleep: None, deadline: Instant::now() + after }
    }

    fn set(&mut self, after: Duration) {
        self.deadline = Instant::now() + after;
        if let Some(sleep) = &mut self.sleep
            && self.deadline < sleep.deadline()
        {
            sleep.as_mut().reset(self.deadline);
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let sleep = self.sleep.get_or_insert_with(|| self.timers.take(self.deadline.into_std()));
        loop {
            ready!(sleep.as_mut().poll(cx));
            if Instant::now() >= self.deadline {
                return Poll::Ready(());
            }
            sleep.as_mut().reset(self.deadline);
        }
    }
}

impl Drop for Timer<'_> {
    fn drop(&mut self) {
        if let Some(sleep) = self.sleep.take() {
            self.timers.put(sleep);
        }
    }
}

/// What a connection between two calls waits for besides bytes.
struct Idle<'i, 't, D> {
    timer: &'i mut Timer<'t>,
    drained: Pin<&'i mut D>,
    /// Inside HBONE, where the connection around it is told of the drain.
    tunnelled: bool,
}

impl<D: Future<Output = ()>> Idle<'_, '_, D> {
    fn poll_drained(&mut self, cx: &mut Context<'_>) -> bool {
        !self.tunnelled && self.drained.as_mut().poll(cx).is_ready()
    }
}

/// Waits for the first bytes of a call with nothing else in hand; false: the connection is over, or `patience` is.
async fn stir<D: Future<Output = ()>>(wire: &mut Wire, idle: &mut Idle<'_, '_, D>, patience: Duration) -> bool {
    idle.timer.set(patience);
    poll_fn(|cx| match wire.poll_fill(cx) {
        Poll::Ready(filled) => Poll::Ready(filled.is_ok_and(|count| count > 0)),
        Poll::Pending if idle.timer.poll(cx).is_ready() || idle.poll_drained(cx) => Poll::Ready(false),
        Poll::Pending => Poll::Pending,
    })
    .await
}

enum Next {
    Head(RequestHead, RequestFraming),
    /// Not a byte for [`QUIET`].
    Quiet,
    /// Over: closed by the peer, or to be closed.
    Close,
}

async fn next_head<D: Future<Output = ()>>(wire: &mut Wire, idle: &mut Idle<'_, '_, D>) -> Result<Next, Error> {
    let mut armed = false;
    // The head's first bytes are here, and its own deadline runs.
    let mut partial = false;
    poll_fn(|cx| {
        let result = wire.poll_head(cx, parse::request);
        let has_bytes = !wire.inbound.is_empty();
        match result {
            Poll::Ready(Ok(Some((head, framing)))) => return Poll::Ready(Ok(Next::Head(head, framing))),
            Poll::Ready(Ok(None)) => return Poll::Ready(Ok(Next::Close)),
            Poll::Ready(Err(HeadError::Refused(refusal))) => return Poll::Ready(Err(refusal.request())),
            Poll::Ready(Err(HeadError::Cut)) => {
                return Poll::Ready(Err(Error::because(Kind::ClientGone, "closed within a head")));
            }
            // A connection that breaks between calls is no error of anybody.
            Poll::Ready(Err(HeadError::Transport(_))) if !has_bytes => return Poll::Ready(Ok(Next::Close)),
            Poll::Ready(Err(HeadError::Transport(error))) => return Poll::Ready(Err(error)),
            Poll::Pending => {}
        }
        if has_bytes && !partial {
            partial = true;
            idle.timer.set(wire.limits.header_timeout);
        } else if !armed {
            idle.timer.set(QUIET);
        }
        armed = true;
        if idle.timer.poll(cx).is_ready() {
            let late = Error::because(Kind::HeaderTimeout, "the header section did not arrive in time");
            return Poll::Ready(if has_bytes { Err(late) } else { Ok(Next::Quiet) });
        }
        if !has_bytes && idle.poll_drained(cx) {
            return Poll::Ready(Ok(Next::Close));
        }
        Poll::Pending
    })
    .await
}

/// Answers a head that is no call, and closes.
async fn refuse<H: Handler>(wire: &mut Wire, handler: &H, error: Error) -> Result<(), Error> {
    handler.rejected(&error);
    if error.kind != Kind::ClientGone {
        let text = format!("{}\n", error.explanation());
        let mut head = ResponseHead::new(error.kind.status());
        head.headers.append(header::CONTENT_TYPE, HeaderValue::from_static("text/plain"));
        head.headers.append(header::CONTENT_LENGTH, HeaderValue::from(text.len()));
        head.headers.append(HeaderName::from_static("weft-error"), HeaderValue::from_static(error.kind.name()));
        let answering = Answering { method: &Method::GET, version: Version::Http11, keep_alive: false };
        encode::response(wire.out.tail(), &head, false, &answering);
        wire.out.push(Bytes::from(text));
        // Bytes of the refused request must not be read as another one.
        wire.inbound = BytesMut::new();
        let _ = timeout(LINGER, poll_fn(|cx| wire.poll_flush(cx))).await;
        linger(wire, true).await;
    }
    Err(error)
}

/// Reads what is left of the request's body if it is little; whether the connection can carry another call.
async fn settle(wire: &mut Wire) -> bool {
    if !wire.keep_alive || wire.eof || wire.expect_continue {
        return false;
    }
    if matches!(wire.decoder, Decoder::Done) {
        return true;
    }
    let mut budget = DISCARD;
    let discard = async {
        while let Some(frame) = poll_fn(|cx| wire.poll_frame(cx)).await {
            match frame {
                Ok(crate::Frame::Data(data)) if data.len() <= budget => budget -= data.len(),
                Ok(crate::Frame::Trailers(_)) => {}
                _ => return false,
            }
        }
        true
    };
    timeout(LINGER, discard).await.unwrap_or(false)
}

/// Closes in an order that lets the peer read the last response: FIN first; if input is left, it is read away until the peer
/// closes too, for a short while.
///
/// RFC 9112 §9.6: a server that closes while the client still sends risks a TCP reset that erases the response.
async fn linger(wire: &mut Wire, unread: bool) {
    let Some(mut io) = wire.io.take() else { return };
    let lingering = async {
        let _ = io.shutdown().await;
        let mut budget = 4 * DISCARD;
        let mut buffer = BytesMut::new();
        while unread && !wire.eof && budget > 0 {
            buffer.clear();
            match poll_fn(|cx| io.poll_fill(cx, &mut buffer, 16 * 1024)).await {
                Ok(count) if count > 0 => budget = budget.saturating_sub(count),
                _ => break,
            }
        }
    };
    let _ = timeout(LINGER, lingering).await;
}

async fn close(wire: &mut Wire) -> Result<(), Error> {
    if let Some(mut io) = wire.io.take() {
        // Where the peer has closed already, closing the socket says all there is to say.
        if !(wire.eof && io.tcp().is_some()) {
            let _ = timeout(LINGER, io.shutdown()).await;
        }
    }
    Ok(())
}

/// The way back to an HTTP/1 caller.
pub(crate) struct ReplyWriter<'c> {
    conn: &'c Conn,
    method: Method,
    version: Version,
    half_close: bool,
    drain: CancellationToken,
    started: bool,
}

impl ReplyWriter<'_> {
    async fn flush(&self) -> Result<(), Error> {
        poll_fn(|cx| self.conn.lock().poll_flush(cx)).await
    }

    pub(crate) async fn informational(&mut self, head: &ResponseHead) -> Result<(), Error> {
        {
            let mut wire = self.conn.lock();
            // RFC 9110 §15.2: a server MUST NOT send a 1xx response to an HTTP/1.0 client.
            let misplaced = self.version == Version::Http10 || self.started || !head.status.is_informational();
            // The caller's 100 may have been sent already; another would be noise.
            let spent = head.status == StatusCode::CONTINUE && !std::mem::take(&mut wire.expect_continue);
            if misplaced || spent || head.status == StatusCode::SWITCHING_PROTOCOLS {
                return Ok(());
            }
            let answering = Answering { method: &self.method, version: self.version, keep_alive: true };
            encode::response(wire.out.tail(), head, true, &answering);
        }
        self.flush().await
    }

    pub(crate) async fn send_head(&mut self, head: &ResponseHead, end: bool) -> Result<(), Error> {
        if std::mem::replace(&mut self.started, true) {
            return Err(Error::because(Kind::Internal, "a second final head"));
        }
        {
            let mut wire = self.conn.lock();
            let unread = wire.expect_continue && !matches!(wire.decoder, Decoder::Done);
            let wanted = wire.keep_alive && !unread && !self.drain.is_cancelled();
            let answering = Answering { method: &self.method, version: self.version, keep_alive: wanted };
            let wire = &mut *wire;
            let (encoder, keep_alive) = encode::response(wire.out.tail(), head, end, &answering);
            wire.keep_alive = keep_alive;
            wire.encoder = encoder;
            if !end {
                return Ok(());
            }
            wire.queue_end(None)?;
        }
        self.flush().await
    }

    pub(crate) async fn data(&mut self, data: Bytes) -> Result<(), Error> {
        self.conn.lock().queue(data)?;
        poll_fn(|cx| self.conn.lock().poll_room(cx)).await
    }

    pub(crate) async fn last(&mut self, data: Bytes) -> Result<(), Error> {
        self.conn.lock().queue(data)?;
        self.finish().await
    }

    pub(crate) async fn trailers(&mut self, trailers: &Headers) -> Result<(), Error> {
        self.conn.lock().queue_end(Some(trailers))?;
        self.flush().await
    }

    pub(crate) async fn finish(&mut self) -> Result<(), Error> {
        self.conn.lock().queue_end(None)?;
        self.flush().await
    }

    pub(crate) const fn started(&self) -> bool {
        self.started
    }

    pub(crate) fn reset(&self) {
        self.conn.lock().broken = true;
    }

    pub(crate) fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<Error> {
        let mut wire = self.conn.lock();
        if let Poll::Ready(Err(error)) = wire.poll_flush(cx) {
            return Poll::Ready(error);
        }
        // The caller may have sent its next call already: that one is read after this one's end, and bounded by one buffer.
        if !matches!(wire.decoder, Decoder::Done) || !wire.inbound.is_empty() || wire.io.is_none() {
            return Poll::Pending;
        }
        if !wire.eof {
            match wire.poll_fill(cx) {
                Poll::Ready(Err(error)) => return Poll::Ready(error),
                Poll::Ready(Ok(_)) => {}
                Poll::Pending => return Poll::Pending,
            }
        }
        if wire.eof && !self.half_close {
            wire.broken = true;
            return Poll::Ready(Error::because(Kind::ClientGone, "the caller closed its connection"));
        }
        Poll::Pending
    }

    pub(crate) async fn into_io(self) -> Result<Io, Error> {
        if self.conn.lock().encoder != Encoder::Raw {
            return Err(Error::because(Kind::Internal, "the protocol was not switched"));
        }
        self.flush().await?;
        self.conn.lock().take_io().ok_or_else(|| Error::because(Kind::Internal, "the connection was taken already"))
    }
}

#[cfg(test)]
#[path = "server_tests.rs"]
mod tests;
