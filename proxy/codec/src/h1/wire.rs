//! One HTTP/1 connection as both directions of a call share it: the socket, what was read ahead, what waits to be written, and how
//! the two current messages are framed.
//!
//! Both halves of a call live in one task, so the lock is never contended; it exists because futures of the data path are `Send`.
//! It is taken for the length of one poll and never across one. What a head means is decided in `parse` and `encode`.

use super::chunked::Step;
use super::encode::{self, Encoder};
use super::parse::{self, Decoder, Refusal};
use crate::{Error, Kind, Sent};
use crate::{Frame, Headers, Io, Limits, spare};
use bytes::{Buf, Bytes, BytesMut};
use parking_lot::{Mutex, MutexGuard};
use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tokio::io::AsyncWrite;

/// First read of a head; doubled for bodies that fill it.
const READ: usize = 8 * 1024;
/// Largest read of a body.
const BULK_READ: usize = 64 * 1024;
/// Data up to this size is copied beside the head; larger pieces are written from where they are.
const COPY: usize = 3 * 1024;
/// Bytes that may wait before a writer has to.
const HIGH_WATER: usize = 64 * 1024;
/// Slices of one vectored write.
const SLICES: usize = 16;

/// Which end of the connection this is: it decides who is to blame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    Server,
    Client,
}

/// A connection that two halves borrow.
pub(crate) struct Conn(Mutex<Wire>);

impl Conn {
    pub(super) fn new(io: Io, end: End, limits: Limits) -> Self {
        Self(Mutex::new(Wire::new(io, end, limits)))
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Wire> {
        self.0.lock()
    }

    pub(super) fn get_mut(&mut self) -> &mut Wire {
        self.0.get_mut()
    }
}

/// Bytes that wait to be written, in as few slices as possible.
#[derive(Debug, Default)]
pub(super) struct Outgoing {
    segments: VecDeque<Bytes>,
    queued: usize,
    /// After the segments: heads, chunk sizes, small pieces. Invariant: holds no allocation when it is empty.
    tail: Vec<u8>,
    /// How much of the tail is written.
    written: usize,
    /// The stream took bytes and may hold them back (TLS).
    unflushed: bool,
}

impl Outgoing {
    fn waiting(&self) -> usize {
        self.queued + self.tail.len() - self.written
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiting() == 0 && !self.unflushed
    }

    /// Where to append what is short.
    pub(super) fn tail(&mut self) -> &mut Vec<u8> {
        if self.tail.capacity() == 0 {
            self.tail = spare::borrow_narrow();
        }
        &mut self.tail
    }

    pub(super) fn push(&mut self, data: Bytes) {
        if data.len() <= COPY {
            self.tail().extend_from_slice(&data);
            return;
        }
        if !self.tail.is_empty() {
            let tail = Bytes::from(std::mem::take(&mut self.tail)).split_off(std::mem::take(&mut self.written));
            self.queued += tail.len();
            self.segments.push_back(tail);
        }
        self.queued += data.len();
        self.segments.push_back(data);
    }

    fn advance(&mut self, mut count: usize) {
        while let Some(first) = self.segments.front_mut() {
            let taken = count.min(first.len());
            first.advance(taken);
            self.queued -= taken;
            count -= taken;
            if !first.is_empty() {
                return;
            }
            self.segments.pop_front();
        }
        self.written += count;
        if self.written >= self.tail.len() {
            self.written = 0;
            spare::give_back(std::mem::take(&mut self.tail));
        }
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>, io: &mut Io) -> Poll<io::Result<()>> {
        while self.waiting() > 0 {
            let tail = &self.tail[self.written..];
            let written = if self.segments.is_empty() {
                ready!(Pin::new(&mut *io).poll_write(cx, tail))?
            } else {
                let mut slices = [IoSlice::new(&[]); SLICES];
                let mut count = 0;
                for (slot, bytes) in slices.iter_mut().zip(self.segments.iter().map(|b| &b[..])) {
                    *slot = IoSlice::new(bytes);
                    count += 1;
                }
                if count < SLICES && !tail.is_empty() {
                    slices[count] = IoSlice::new(tail);
                    count += 1;
                }
                ready!(Pin::new(&mut *io).poll_write_vectored(cx, &slices[..count]))?
            };
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.unflushed = true;
            self.advance(written);
        }
        if self.unflushed {
            ready!(Pin::new(io).poll_flush(cx))?;
            self.unflushed = false;
        }
        Poll::Ready(Ok(()))
    }
}

/// The connection's state.
pub(super) struct Wire {
    /// Gone once the connection was switched to raw bytes.
    pub io: Option<Io>,
    pub end: End,
    pub limits: Limits,
    /// Read, not yet understood. Invariant: holds no allocation while the connection is idle.
    pub inbound: BytesMut,
    /// How far `inbound` was searched for the end of a head.
    pub scanned: usize,
    pub eof: bool,
    read_size: usize,
    pub out: Outgoing,
    /// Framing of the message that is being read.
    pub decoder: Decoder,
    /// Framing of the message that is being written.
    pub encoder: Encoder,
    /// The client waits for `100 Continue` before it sends the body.
    pub expect_continue: bool,
    pub keep_alive: bool,
    /// Bytes of the current exchange went out (client) …
    pub wrote: bool,
    /// … and bytes of its answer came back.
    pub received: bool,
    /// The connection carried an exchange before (client).
    pub reused: bool,
    /// Broken off: nothing more is read or written.
    pub broken: bool,
}

impl Wire {
    fn new(io: Io, end: End, limits: Limits) -> Self {
        Self {
            io: Some(io),
            end,
            limits,
            inbound: BytesMut::new(),
            scanned: 0,
            eof: false,
            read_size: READ,
            out: Outgoing::default(),
            decoder: Decoder::Done,
            encoder: Encoder::Idle,
            expect_continue: false,
            keep_alive: true,
            wrote: false,
            received: false,
            reused: false,
            broken: false,
        }
    }

    /// An error of the transport, blamed on the far end of this side.
    fn transport(&self, error: io::Error) -> Error {
        match self.end {
            End::Server => Error::caused(Kind::ClientGone, error),
            End::Client => self.upstream_gone(Some(error)),
        }
    }

    /// The upstream is gone: was the request sent, and is the connection's age to blame?
    pub(super) fn upstream_gone(&self, error: Option<io::Error>) -> Error {
        let refused = error.as_ref().is_some_and(crate::h2::is_refused);
        let sent = match (self.received, self.wrote) {
            (true, _) => Sent::Sent,
            (false, _) if refused => Sent::NotSent,
            (false, true) => Sent::Unknown,
            (false, false) => Sent::NotSent,
        };
        // A connection from the pool that answers nothing was closed while it idled: no sign of an ill endpoint.
        let kind = match &error {
            _ if refused || (self.reused && !self.received) => Kind::Refused,
            Some(error) if error.kind() == io::ErrorKind::ConnectionReset => Kind::UpstreamReset,
            _ => Kind::UpstreamClosed,
        };
        match error {
            Some(error) => Error::caused(kind, error).sent(sent),
            None => Error::because(kind, "the connection was closed before the response was complete").sent(sent),
        }
    }

    /// Reads more. Ready with 0 at the end of file.
    pub(super) fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<Result<usize, Error>> {
        if self.eof {
            return Poll::Ready(Ok(0));
        }
        let Some(io) = &mut self.io else { return Poll::Ready(Ok(0)) };
        let filled = io.poll_fill(cx, &mut self.inbound, self.read_size);
        if filled.is_pending() && self.inbound.is_empty() {
            // Whatever was reserved in vain is not kept while the connection waits.
            self.inbound = BytesMut::new();
        }
        match ready!(filled) {
            Ok(0) => {
                self.eof = true;
                Poll::Ready(Ok(0))
            }
            Ok(count) => {
                // Bodies that fill what is offered are bulk; a head rarely does.
                self.read_size =
                    if count >= self.read_size { (self.read_size * 2).min(BULK_READ) } else { self.read_size };
                self.received |= self.end == End::Client;
                Poll::Ready(Ok(count))
            }
            Err(error) => {
                self.broken = true;
                Poll::Ready(Err(self.transport(error)))
            }
        }
    }

    /// Writes what waits.
    pub(super) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        if self.out.is_empty() {
            return Poll::Ready(Ok(()));
        }
        let Some(io) = &mut self.io else { return Poll::Ready(Ok(())) };
        let before = self.out.waiting();
        let result = self.out.poll_flush(cx, io);
        self.wrote |= self.out.waiting() < before;
        match ready!(result) {
            Ok(()) => Poll::Ready(Ok(())),
            Err(error) => {
                self.broken = true;
                Poll::Ready(Err(self.transport(error)))
            }
        }
    }

    /// Ready when more may be queued.
    pub(super) fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        if self.out.waiting() < HIGH_WATER { Poll::Ready(Ok(())) } else { self.poll_flush(cx) }
    }

    /// Gives read buffers back between messages.
    pub(super) fn rest(&mut self) {
        self.read_size = READ;
        self.scanned = 0;
        if self.inbound.is_empty() {
            self.inbound = BytesMut::new();
        }
    }

    /// A complete head as `parse` takes it off what was read, or `None` when the peer closed before its first byte.
    pub(super) fn poll_head<T>(
        &mut self,
        cx: &mut Context<'_>,
        parse: impl Fn(&mut BytesMut, &mut usize, &Limits) -> Result<Option<T>, Refusal>,
    ) -> Poll<Result<Option<T>, HeadError>> {
        loop {
            match parse(&mut self.inbound, &mut self.scanned, &self.limits) {
                Ok(Some(head)) => return Poll::Ready(Ok(Some(head))),
                Ok(None) => {}
                Err(refusal) => return Poll::Ready(Err(HeadError::Refused(refusal))),
            }
            match ready!(self.poll_fill(cx)) {
                Ok(0) if self.inbound.is_empty() => return Poll::Ready(Ok(None)),
                Ok(0) => return Poll::Ready(Err(HeadError::Cut)),
                Ok(_) => {}
                Err(error) => return Poll::Ready(Err(HeadError::Transport(error))),
            }
        }
    }

    /// The next frame of the message that is being read.
    pub(super) fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame, Error>>> {
        if matches!(self.decoder, Decoder::Done) {
            return Poll::Ready(None);
        }
        self.continue_if_expected();
        loop {
            match self.take_frame() {
                Ok(Taken::Frame(frame)) => return Poll::Ready(Some(Ok(frame))),
                Ok(Taken::End) => return Poll::Ready(None),
                Ok(Taken::More) => {}
                Err(error) => {
                    self.decoder = Decoder::Done;
                    self.broken = true;
                    return Poll::Ready(Some(Err(error)));
                }
            }
            // The request's head, 100 Continue, or a piece of the reply: the peer may send nothing before it has read that. A failed
            // write is no end yet: the peer may have answered before it closed.
            let _ = self.poll_flush(cx);
            let filled = ready!(self.poll_fill(cx));
            let error = match filled {
                Ok(0) if matches!(self.decoder, Decoder::UntilClose) => {
                    self.decoder = Decoder::Done;
                    return Poll::Ready(None);
                }
                Ok(0) => self.cut(),
                Ok(_) => continue,
                Err(error) => error,
            };
            self.decoder = Decoder::Done;
            self.broken = true;
            return Poll::Ready(Some(Err(error)));
        }
    }

    fn cut(&self) -> Error {
        match self.end {
            End::Server => Error::because(Kind::ClientBody, "the connection was closed within the body"),
            End::Client => self.upstream_gone(None),
        }
    }

    fn take_frame(&mut self) -> Result<Taken, Error> {
        let step = match &mut self.decoder {
            Decoder::Done => return Ok(Taken::End),
            Decoder::Length(_) | Decoder::UntilClose if self.inbound.is_empty() => return Ok(Taken::More),
            Decoder::UntilClose => return Ok(Taken::Frame(Frame::Data(std::mem::take(&mut self.inbound).freeze()))),
            Decoder::Length(left) => {
                let count = usize::try_from(*left).unwrap_or(usize::MAX).min(self.inbound.len());
                *left -= count as u64;
                if *left == 0 {
                    self.decoder = Decoder::Done;
                }
                return Ok(Taken::Frame(Frame::Data(parse::take(&mut self.inbound, count))));
            }
            Decoder::Chunked(chunked) => chunked.step(&mut self.inbound),
        };
        match step {
            Ok(Step::Data(data)) => Ok(Taken::Frame(Frame::Data(data))),
            Ok(Step::More) => Ok(Taken::More),
            Ok(Step::End) => {
                self.decoder = Decoder::Done;
                Ok(Taken::End)
            }
            Ok(Step::Trailers(trailers)) => {
                self.decoder = Decoder::Done;
                Ok(Taken::Frame(Frame::Trailers(trailers)))
            }
            Err(malformed) => Err(match self.end {
                End::Server => Error::because(Kind::ClientBody, malformed.0),
                End::Client => Refusal::from(malformed).response().sent(Sent::Sent),
            }),
        }
    }

    /// Writes `100 Continue` once, unless the final head is already on its way.
    fn continue_if_expected(&mut self) {
        if std::mem::take(&mut self.expect_continue) && self.encoder == Encoder::Idle {
            self.out.tail().extend_from_slice(b"HTTP/1.1 100 Continue\r\n\r\n");
        }
    }

    /// Queues a piece of the body that is being written.
    pub(super) fn queue(&mut self, data: Bytes) -> Result<(), Error> {
        if data.is_empty() {
            return Ok(());
        }
        match &mut self.encoder {
            Encoder::Length(left) => match left.checked_sub(data.len() as u64) {
                Some(rest) => {
                    *left = rest;
                    self.out.push(data);
                }
                None => return Err(self.misframed("the body is longer than its Content-Length")),
            },
            Encoder::Chunked => {
                encode::chunk_size(self.out.tail(), data.len());
                self.out.push(data);
                self.out.tail().extend_from_slice(b"\r\n");
            }
            Encoder::UntilClose => self.out.push(data),
            Encoder::Bodiless => {}
            Encoder::Idle | Encoder::Raw | Encoder::Done => return Err(self.misframed("a body where none may follow")),
        }
        Ok(())
    }

    /// Queues the end of the message that is being written.
    pub(super) fn queue_end(&mut self, trailers: Option<&Headers>) -> Result<(), Error> {
        match self.encoder {
            Encoder::Chunked => encode::last_chunk(self.out.tail(), trailers),
            Encoder::Length(0) | Encoder::UntilClose | Encoder::Bodiless | Encoder::Done | Encoder::Raw => {}
            Encoder::Length(_) => return Err(self.misframed("the body is shorter than its Content-Length")),
            Encoder::Idle => return Err(self.misframed("the end of a message that was not begun")),
        }
        if self.encoder == Encoder::UntilClose {
            self.keep_alive = false;
        }
        if self.encoder != Encoder::Raw {
            self.encoder = Encoder::Done;
        }
        Ok(())
    }

    /// Whoever supplied the body broke its framing; the connection cannot be saved.
    fn misframed(&mut self, why: &'static str) -> Error {
        self.broken = true;
        match self.end {
            End::Server => Error::because(Kind::UpstreamProtocol, why).sent(Sent::Sent),
            End::Client => Error::because(Kind::ClientBody, why).sent(Sent::Sent),
        }
    }

    /// Bytes still to come, where declared.
    pub(super) fn known_length(&self) -> Option<u64> {
        match self.decoder {
            Decoder::Done => Some(0),
            Decoder::Length(left) => Some(left),
            Decoder::Chunked(_) | Decoder::UntilClose => None,
        }
    }

    /// Takes the socket out for raw bytes, with what was read ahead.
    pub(super) fn take_io(&mut self) -> Option<Io> {
        let io = self.io.take()?;
        Some(io.with_prefix(std::mem::take(&mut self.inbound).freeze()))
    }
}

enum Taken {
    Frame(Frame),
    End,
    More,
}

/// Why there is no head.
#[derive(Debug)]
pub(super) enum HeadError {
    /// The bytes break a rule.
    Refused(Refusal),
    /// The peer closed within the head.
    Cut,
    /// The transport failed.
    Transport(Error),
}

/// The message that is being read, borrowed from its connection.
pub(crate) struct Reader<'c> {
    pub(super) conn: &'c Conn,
}

impl Reader<'_> {
    pub(crate) fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame, Error>>> {
        self.conn.lock().poll_frame(cx)
    }

    pub(crate) fn is_end(&self) -> bool {
        matches!(self.conn.lock().decoder, Decoder::Done)
    }

    pub(crate) fn known_length(&self) -> Option<u64> {
        self.conn.lock().known_length()
    }
}
