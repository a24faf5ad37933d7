//! The accepting end of an HTTP/2 connection: one task drives the connection and every call on it, so that all that the calls
//! write in one turn leaves in one write, and dropping the connection drops its calls.

use super::alive::KeepAlive;
use super::coalesce::{Coalesce, Flusher, coalesce};
use super::convert;
use super::stream::{self, From, Reader};
use super::tunnel::Tunnel;
use crate::codec::{Handler, Headers, Incoming, Io, Limits, Reply, ReplyKind, RequestBody, ResetCode, ResponseHead};
use crate::error::{Kind, ProxyError};
use bytes::Bytes;
use futures_util::stream::{FuturesUnordered, StreamExt};
use h2::server::{Connection, SendResponse};
use h2::{Reason, RecvStream, SendStream};
use http::{Method, Request, Response, StatusCode, header};
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use tokio::task::coop::unconstrained;
use tokio::time::{Instant, Sleep, timeout};
use tokio_util::sync::CancellationToken;

/// Largest PADDING-free frame; the protocol's default, so that streams take turns.
const FRAME: u32 = 16 * 1024;
/// Bytes of one stream that may wait in the connection.
const SEND_BUFFER: usize = 512 * 1024;
/// Streams that the peer reset before they were looked at; more is an attack (CVE-2023-44487).
const RESET_STREAMS: usize = 50;
/// Polls of calls in one turn of a connection before other connections have theirs.
const TURN: usize = 512;

/// Serves calls on `io` until either side closes. When `drain` is cancelled the peer is told (GOAWAY 2³¹−1, then the final one), and
/// the connection closes with its last call.
///
/// # Errors
/// What ended the connection, when that was no orderly close.
pub async fn serve<H: Handler>(
    io: Io,
    limits: &Limits,
    drain: &CancellationToken,
    handler: &H,
) -> Result<(), ProxyError> {
    // Boxed, so that a connection does not keep the room for it.
    let (mut connection, flusher) = Box::pin(shake(io, limits)).await?;
    let alive = connection.ping_pong().map(|ping| KeepAlive::new(ping, limits.ping_interval, limits.ping_timeout));
    let mut drained = pin!(drain.cancelled());
    let mut driver = Driver {
        connection,
        flusher,
        alive,
        idle: Box::pin(tokio::time::sleep(limits.idle_timeout)),
        idle_since: Some(Instant::now()),
        leaving: false,
    };
    let turns = Turns::default();
    let mut calls = FuturesUnordered::new();
    // Not under tokio's own budget, which is one for all calls of the connection together: with many of them it runs out in the middle of a
    // turn and breaks the turn's one write into several. `TURN` bounds a turn, flow-control windows bound what a call moves in it.
    let ended = unconstrained(poll_fn(|cx| {
        let begun = turns.count();
        loop {
            let before = turns.count();
            while let Poll::Ready(Some(())) = calls.poll_next_unpin(cx) {}
            match driver.poll_accept(cx) {
                Poll::Ready(Some(Ok((request, respond)))) => {
                    // Boxed: the set has room for one call even when it is empty, and would move each into its place.
                    let mut call = Box::pin(call(request, respond, handler));
                    let turns = &turns;
                    calls.push(poll_fn(move |cx| {
                        turns.count_one();
                        call.as_mut().poll(cx)
                    }));
                }
                Poll::Ready(None) => return Poll::Ready(Ok(())),
                Poll::Ready(Some(Err(error))) => return Poll::Ready(Err(error)),
                // The set hands control back while calls are still ready to run, and frames that were just read wake more of them.
                Poll::Pending if turns.count() != before && turns.count() - begun < TURN => {}
                Poll::Pending => break,
            }
        }
        if !driver.leaving && drained.as_mut().poll(cx).is_ready() {
            driver.leave();
            cx.waker().wake_by_ref();
        }
        driver.poll_rest(cx, calls.is_empty(), limits)
    }))
    .await;
    // The calls that are left learn from their streams that the caller has gone; those that still do not end are dropped.
    poll_fn(|cx| {
        while let Poll::Ready(Some(())) = calls.poll_next_unpin(cx) {}
        Poll::Ready(ended.clone())
    })
    .await
}

/// How often calls were polled: whether any of them was ready to run.
#[derive(Default)]
struct Turns(AtomicUsize);

impl Turns {
    fn count(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }

    fn count_one(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

async fn shake(io: Io, limits: &Limits) -> Result<(Connection<Coalesce, Bytes>, Flusher), ProxyError> {
    let (io, flusher) = coalesce(io);
    let mut builder = h2::server::Builder::new();
    builder
        .initial_window_size(limits.stream_window)
        .initial_connection_window_size(limits.connection_window)
        .max_frame_size(FRAME)
        .max_concurrent_streams(limits.max_streams)
        .max_header_list_size(u32::try_from(limits.max_head_bytes).unwrap_or(u32::MAX))
        .max_pending_accept_reset_streams(RESET_STREAMS)
        .max_concurrent_reset_streams(RESET_STREAMS)
        .max_send_buffer_size(SEND_BUFFER)
        .enable_connect_protocol();
    let mut handshake = pin!(builder.handshake::<_, Bytes>(io));
    let shaken = poll_fn(|cx| {
        let result = handshake.as_mut().poll(cx);
        let _ = flusher.poll_flush(cx);
        result
    });
    let connection = timeout(limits.header_timeout, shaken)
        .await
        .map_err(|_| ProxyError::because(Kind::HeaderTimeout, "the HTTP/2 preface did not arrive in time"))?
        .map_err(|error| ProxyError::caused(Kind::BadRequest, error).detail("HTTP/2 preface"))?;
    Ok((connection, flusher))
}

struct Driver<T> {
    connection: Connection<T, Bytes>,
    flusher: Flusher,
    alive: Option<KeepAlive>,
    idle: Pin<Box<Sleep>>,
    idle_since: Option<Instant>,
    /// The graceful GOAWAY was sent.
    leaving: bool,
}

type Accepted = (Request<RecvStream>, SendResponse<Bytes>);

impl<T: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin> Driver<T> {
    fn leave(&mut self) {
        self.leaving = true;
        self.connection.graceful_shutdown();
    }

    fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Accepted, ProxyError>>> {
        self.connection.poll_accept(cx).map_err(|error| {
            let kind = if error.is_io() || error.is_remote() { Kind::ClientGone } else { Kind::BadRequest };
            ProxyError::caused(kind, error).detail("HTTP/2 connection")
        })
    }

    /// After the connection had its turn: write what it gathered, then look at the timers.
    fn poll_rest(&mut self, cx: &mut Context<'_>, idle: bool, limits: &Limits) -> Poll<Result<(), ProxyError>> {
        if let Poll::Ready(Err(error)) = self.flusher.poll_flush(cx) {
            return Poll::Ready(Err(ProxyError::caused(Kind::ClientGone, error).detail("HTTP/2 connection")));
        }
        if let Some(alive) = &mut self.alive
            && alive.poll_dead(cx, self.flusher.reads()).is_ready()
        {
            return Poll::Ready(Err(ProxyError::because(Kind::ClientGone, "the peer does not answer PINGs")));
        }
        if !idle {
            self.idle_since = None;
            return Poll::Pending;
        }
        let since = *self.idle_since.get_or_insert_with(Instant::now);
        while !self.leaving && self.idle.as_mut().poll(cx).is_ready() {
            let deadline = since + limits.idle_timeout;
            if Instant::now() >= deadline {
                self.leave();
                cx.waker().wake_by_ref();
            } else {
                self.idle.as_mut().reset(deadline);
            }
        }
        Poll::Pending
    }
}

async fn call<H: Handler>(request: Request<RecvStream>, mut respond: SendResponse<Bytes>, handler: &H) {
    let declared = request.headers().get(header::CONTENT_LENGTH).and_then(|v| v.to_str().ok()?.parse().ok());
    match convert::request_in(request) {
        Ok((head, recv)) => {
            let body = RequestBody(Incoming::H2(Reader::new(recv, From::Caller, declared)));
            let reply = ReplyWriter { respond, send: None, method: head.method.clone(), ended: false, broken: false };
            handler.call(head, body, Reply(ReplyKind::H2(Box::new(reply)))).await;
        }
        Err(why) => {
            // RFC 9113 §8.1.1: for malformed requests, a server MAY send an HTTP response prior to resetting the stream.
            handler.rejected(&ProxyError::because(Kind::BadRequest, why));
            let mut response = Response::new(());
            *response.status_mut() = StatusCode::BAD_REQUEST;
            let _ = respond.send_response(response, true);
            respond.send_reset(Reason::PROTOCOL_ERROR);
        }
    }
}

/// The way back to an HTTP/2 caller.
pub(crate) struct ReplyWriter {
    respond: SendResponse<Bytes>,
    send: Option<SendStream<Bytes>>,
    method: Method,
    ended: bool,
    broken: bool,
}

impl ReplyWriter {
    pub(in crate::codec) fn informational(&mut self, head: ResponseHead) -> Result<(), ProxyError> {
        let sendable = head.status.is_informational() && head.status != StatusCode::SWITCHING_PROTOCOLS;
        if self.send.is_some() || self.ended || !sendable {
            return Ok(());
        }
        let response = convert::response_out(&head, false, &self.method);
        self.respond.send_informational(response).map_err(convert::downstream_error)
    }

    pub(in crate::codec) fn send_head(&mut self, head: ResponseHead, end: bool) -> Result<(), ProxyError> {
        if self.started() {
            return Err(ProxyError::because(Kind::Internal, "a second final head"));
        }
        let response = convert::response_out(&head, end, &self.method);
        let send = self.respond.send_response(response, end).map_err(convert::downstream_error)?;
        self.ended = end;
        self.send = Some(send);
        Ok(())
    }

    fn open(&mut self) -> Result<&mut SendStream<Bytes>, ProxyError> {
        match &mut self.send {
            Some(send) if !self.ended => Ok(send),
            _ => Err(ProxyError::because(Kind::Internal, "a body where none may follow")),
        }
    }

    pub(in crate::codec) async fn data(&mut self, data: Bytes) -> Result<(), ProxyError> {
        // The answer to HEAD ends with its head; what an upstream sends in spite of that is swallowed, as in HTTP/1.
        if self.method == Method::HEAD {
            return Ok(());
        }
        stream::send_all(self.open()?, data, false).await.map_err(convert::downstream_error)
    }

    pub(in crate::codec) async fn last(&mut self, data: Bytes) -> Result<(), ProxyError> {
        if self.method == Method::HEAD {
            return self.finish();
        }
        stream::send_all(self.open()?, data, true).await.map_err(convert::downstream_error)?;
        self.ended = true;
        Ok(())
    }

    pub(in crate::codec) fn trailers(&mut self, trailers: &Headers) -> Result<(), ProxyError> {
        let map = convert::trailers_out(trailers);
        self.open()?.send_trailers(map).map_err(convert::downstream_error)?;
        self.ended = true;
        Ok(())
    }

    pub(in crate::codec) fn finish(&mut self) -> Result<(), ProxyError> {
        if !self.ended {
            self.open()?.send_data(Bytes::new(), true).map_err(convert::downstream_error)?;
            self.ended = true;
        }
        Ok(())
    }

    pub(in crate::codec) const fn started(&self) -> bool {
        self.send.is_some()
    }

    pub(in crate::codec) fn reset(&mut self, code: ResetCode) {
        self.broken = true;
        self.ended = true;
        match &mut self.send {
            Some(send) => send.send_reset(code.into()),
            None => self.respond.send_reset(code.into()),
        }
    }

    pub(in crate::codec) fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<ProxyError> {
        if self.ended {
            return Poll::Pending;
        }
        let reset = match &mut self.send {
            Some(send) => send.poll_reset(cx),
            None => self.respond.poll_reset(cx),
        };
        reset.map(|reset| {
            self.ended = true;
            match reset {
                Ok(reason) => ProxyError::because(Kind::ClientGone, format!("the caller reset the stream: {reason}")),
                Err(error) => convert::downstream_error(error),
            }
        })
    }

    pub(in crate::codec) fn into_io(mut self, reader: Reader) -> Result<Io, ProxyError> {
        match self.send.take() {
            Some(send) if !self.ended => {
                self.ended = true;
                Ok(Io::from(Tunnel::new(send, reader.recv)))
            }
            _ => Err(ProxyError::because(Kind::Internal, "the stream was not accepted, or has ended")),
        }
    }
}

impl Drop for ReplyWriter {
    fn drop(&mut self) {
        if !self.ended {
            self.reset(ResetCode::Internal);
        }
    }
}
