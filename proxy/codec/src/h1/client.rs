//! The connecting end of an HTTP/1 connection: one exchange at a time, and the way back to the pool when it ended cleanly.
//!
//! Whether a failed exchange may be tried again is said in the error (`Sent`), not acted upon: retries belong to whoever calls.

use super::encode::{self, Encoder};
use super::parse::{self, Decoder};
use super::wire::{Conn, End, HeadError, Reader};
use crate::{Error, Kind, Sent};
use crate::{Frame, Headers, Io, Limits, RequestHead, ResponseHead};
use bytes::{Bytes, BytesMut};
use http::{Method, StatusCode};
use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

/// Where connections wait for their next exchange.
pub trait Shelf: Send + Sync {
    /// Takes a connection back.
    fn put(&self, idle: Idle);
}

/// A connection between two exchanges.
pub struct Idle(Arc<Conn>);

impl Idle {
    /// May it carry another exchange? Not when the peer closed it, or sent bytes nobody asked for. A `thorough` look asks the kernel.
    pub fn is_fresh(&self, thorough: bool) -> bool {
        self.0.lock().io.as_mut().is_some_and(|io| !(io.is_stale() || thorough && io.has_ended()))
    }

    /// Starts the next exchange.
    pub fn checkout(self, shelf: Arc<dyn Shelf>) -> Client {
        self.0.lock().reused = true;
        Client::on(self.0, Some(shelf))
    }
}

/// One exchange on one connection. Dropped before its end, it closes the connection; that is how HTTP/1 cancels.
pub struct Client {
    conn: Arc<Conn>,
    shelf: Option<Arc<dyn Shelf>>,
    method: Method,
    upgrade: bool,
    head_seen: bool,
}

impl Client {
    /// The first exchange of a new connection.
    pub fn new(io: Io, limits: Limits, shelf: Option<Arc<dyn Shelf>>) -> Self {
        Self::on(Arc::new(Conn::new(io, End::Client, limits)), shelf)
    }

    fn on(conn: Arc<Conn>, shelf: Option<Arc<dyn Shelf>>) -> Self {
        Self { conn, shelf, method: Method::GET, upgrade: false, head_seen: false }
    }

    pub(crate) async fn send_head(&mut self, head: &RequestHead, end: bool) -> Result<(), Error> {
        self.method = head.method.clone();
        self.upgrade = head.upgrade;
        let mut wire = self.conn.lock();
        let wire = &mut *wire;
        wire.encoder = encode::request(wire.out.tail(), head, end)?;
        if end {
            wire.queue_end(None)?;
        }
        Ok(())
    }

    pub(crate) fn split(&mut self) -> (ClientWriter<'_>, ClientReader<'_>) {
        let writer = ClientWriter { conn: &self.conn };
        let reader = Reader { conn: &self.conn };
        let asked = Asked { method: &self.method, upgrade: self.upgrade };
        (writer, ClientReader { reader, asked, seen: &mut self.head_seen })
    }

    pub(crate) fn into_io(self) -> Result<Io, Error> {
        let mut wire = self.conn.lock();
        let switched = self.head_seen && wire.encoder == Encoder::Raw;
        let io = if switched { wire.take_io() } else { None };
        io.ok_or_else(|| Error::because(Kind::Internal, "the upstream did not switch protocols"))
    }

    /// Both messages ended where their framing says, and nothing is left over.
    fn is_clean(&self) -> bool {
        let wire = self.conn.lock();
        self.head_seen
            && !wire.broken
            && wire.keep_alive
            && !wire.eof
            && wire.io.is_some()
            && wire.encoder == Encoder::Done
            && matches!(wire.decoder, Decoder::Done)
            && wire.out.is_empty()
            && wire.inbound.is_empty()
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        if !self.is_clean() {
            return;
        }
        if let Some(shelf) = self.shelf.take() {
            {
                let mut wire = self.conn.lock();
                wire.rest();
                wire.encoder = Encoder::Idle;
                wire.wrote = false;
                wire.received = false;
            }
            shelf.put(Idle(self.conn.clone()));
        }
    }
}

/// The request's direction.
pub(crate) struct ClientWriter<'u> {
    conn: &'u Conn,
}

impl ClientWriter<'_> {
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
        poll_fn(|cx| self.conn.lock().poll_flush(cx)).await
    }

    pub(crate) async fn finish(&mut self) -> Result<(), Error> {
        self.conn.lock().queue_end(None)?;
        poll_fn(|cx| self.conn.lock().poll_flush(cx)).await
    }
}

/// What of the request decides how the response is read.
#[derive(Clone, Copy)]
struct Asked<'u> {
    method: &'u Method,
    upgrade: bool,
}

/// The response's direction.
pub(crate) struct ClientReader<'u> {
    reader: Reader<'u>,
    asked: Asked<'u>,
    seen: &'u mut bool,
}

impl ClientReader<'_> {
    pub(crate) fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<Result<ResponseHead, Error>> {
        let mut wire = self.reader.conn.lock();
        // A write that fails is not the end: the answer may be here already (413 and the like).
        let failed = match wire.poll_flush(cx) {
            Poll::Ready(Err(error)) => Some(error),
            _ => None,
        };
        let method = self.asked.method;
        let parse = |buffer: &mut BytesMut, scanned: &mut usize, limits: &Limits| {
            parse::response(buffer, scanned, limits, method)
        };
        let (head, framing) = match ready!(wire.poll_head(cx, parse)) {
            Ok(Some(parsed)) => parsed,
            Ok(None) | Err(HeadError::Cut) => {
                wire.broken = true;
                return Poll::Ready(Err(failed.unwrap_or_else(|| wire.upstream_gone(None))));
            }
            Err(HeadError::Transport(error)) => return Poll::Ready(Err(failed.unwrap_or(error))),
            Err(HeadError::Refused(refusal)) => {
                wire.broken = true;
                return Poll::Ready(Err(refusal.response().sent(Sent::Sent)));
            }
        };
        let switching = head.status == StatusCode::SWITCHING_PROTOCOLS;
        if switching && !self.asked.upgrade {
            wire.broken = true;
            let error = Error::because(Kind::UpstreamProtocol, "101 to a request that asked for no upgrade");
            return Poll::Ready(Err(error.sent(Sent::Sent)));
        }
        if head.status.is_informational() && !switching {
            return Poll::Ready(Ok(head));
        }
        *self.seen = true;
        wire.decoder = framing.body;
        wire.keep_alive = framing.keep_alive;
        let connected = *self.asked.method == Method::CONNECT && head.status.is_success();
        if switching || connected {
            wire.encoder = Encoder::Raw;
        } else if wire.encoder == Encoder::Raw {
            // CONNECT was refused: an ordinary response, and no tunnel.
            wire.encoder = Encoder::Done;
            wire.keep_alive = false;
        }
        Poll::Ready(Ok(head))
    }

    pub(crate) fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame, Error>>> {
        self.reader.poll_frame(cx)
    }

    pub(crate) fn is_end(&self) -> bool {
        self.reader.is_end()
    }

    pub(crate) fn known_length(&self) -> Option<u64> {
        self.reader.known_length()
    }
}
