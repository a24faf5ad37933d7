//! A call's hold on its stream.
//!
//! The state of a connection lies behind a lock, which exists because futures of the data path are `Send`: whoever drives the connection
//! and its calls run on one thread, so it is never contended. It is taken for the length of one poll and never across one.

use super::engine::{Engine, Key};
use super::fault::Fault;
use super::frame::Code;
use super::state::register;
use crate::{Headers, ResponseHead};
use bytes::{Bytes, BytesMut};
use http::Method;
use parking_lot::{Mutex, MutexGuard};
use std::io::IoSlice;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

/// The state of a connection, shared by whoever drives it and its calls.
pub(super) struct Shared(Mutex<Engine>);

impl Shared {
    pub(super) fn new(engine: Engine) -> Arc<Self> {
        Arc::new(Self(Mutex::new(engine)))
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Engine> {
        self.0.lock()
    }
}

/// Which direction of a stream a handle is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    In,
    Out,
}

/// One direction of a stream. When both are dropped before the stream's end it is reset.
pub(super) struct Handle {
    shared: Arc<Shared>,
    key: Key,
    way: Way,
}

/// What comes next on a stream.
#[derive(Debug)]
pub(super) enum Piece {
    /// Data, whose credit is returned; whether it was the last.
    Data(BytesMut, bool),
    Trailers(Headers),
    End,
}

impl Handle {
    /// Both directions of a stream that was made with two handles.
    pub(super) fn pair(shared: &Arc<Shared>, key: Key) -> (Self, Self) {
        let handle = |way| Self { shared: shared.clone(), key, way };
        (handle(Way::In), handle(Way::Out))
    }

    /// The next head of the response: informational ones, then the final one.
    pub(super) fn poll_head(&self, cx: &Context<'_>) -> Poll<Result<ResponseHead, Fault>> {
        let mut engine = self.shared.lock();
        let gone = engine.ended.unwrap_or(Fault::Closed);
        let Some(stream) = engine.stream(self.key) else { return Poll::Ready(Err(gone)) };
        if let Some(head) = stream.early.pop_front().or_else(|| stream.head.take()) {
            return Poll::Ready(Ok(head));
        }
        if let Some(fault) = stream.fault {
            return Poll::Ready(Err(fault));
        }
        register(&mut stream.reader, cx);
        Poll::Pending
    }

    /// Has everything arrived, and nothing of it is left to be taken?
    pub(super) fn is_end(&self) -> bool {
        self.shared.lock().stream(self.key).is_none_or(|stream| stream.got_end && stream.is_drained())
    }

    /// What the Content-Length still promises.
    pub(super) fn promised(&self) -> Option<u64> {
        self.shared.lock().stream(self.key).and_then(|stream| stream.promised)
    }

    /// What comes next. What arrived before a reset is handed out before it is told.
    pub(super) fn poll_piece(&self, cx: &Context<'_>) -> Poll<Result<Piece, Fault>> {
        let mut engine = self.shared.lock();
        let gone = engine.ended.unwrap_or(Fault::Closed);
        let Some(stream) = engine.stream(self.key) else { return Poll::Ready(Err(gone)) };
        if let Some(data) = stream.pop() {
            let last = stream.got_end && stream.is_drained();
            // Handing it on is consuming it: whoever takes the next piece has disposed of this one.
            engine.consumed(self.key, data.len());
            return Poll::Ready(Ok(Piece::Data(data, last)));
        }
        if let Some(trailers) = stream.trailers.take() {
            return Poll::Ready(Ok(Piece::Trailers(trailers)));
        }
        if stream.got_end {
            return Poll::Ready(Ok(Piece::End));
        }
        if let Some(fault) = stream.fault {
            return Poll::Ready(Err(fault));
        }
        register(&mut stream.reader, cx);
        Poll::Pending
    }

    /// Sends all of `data` as fast as there is room for it; `last` ends the stream with it. What is left stays in `data`.
    pub(super) fn poll_send(&self, cx: &Context<'_>, data: &mut Bytes, last: bool) -> Poll<Result<(), Fault>> {
        let mut engine = self.shared.lock();
        while !data.is_empty() {
            let count = ready!(engine.poll_room(self.key, cx, data.len()))?;
            let piece = data.split_to(count);
            let end = last && data.is_empty();
            engine.data(self.key, piece, end);
            if end {
                return Poll::Ready(Ok(()));
            }
        }
        Poll::Ready(if last { engine.finish(self.key) } else { Ok(()) })
    }

    /// Sends some of `data`, as it is.
    pub(super) fn poll_send_some(&self, cx: &Context<'_>, data: &Bytes) -> Poll<Result<usize, Fault>> {
        let mut engine = self.shared.lock();
        let count = ready!(engine.poll_room(self.key, cx, data.len()))?;
        engine.data(self.key, data.slice(..count), false);
        Poll::Ready(Ok(count))
    }

    /// Sends a copy of some of `slices`, which hold `total` bytes.
    pub(super) fn poll_copy(
        &self,
        cx: &Context<'_>,
        slices: &[IoSlice<'_>],
        total: usize,
    ) -> Poll<Result<usize, Fault>> {
        let mut engine = self.shared.lock();
        let count = ready!(engine.poll_room(self.key, cx, total))?;
        engine.copy(self.key, slices, count);
        Poll::Ready(Ok(count))
    }

    pub(super) fn finish(&self) -> Result<(), Fault> {
        self.shared.lock().finish(self.key)
    }

    pub(super) fn respond(&self, head: &ResponseHead, end: bool, method: &Method) -> Result<(), Fault> {
        self.shared.lock().respond(self.key, head, end, method)
    }

    pub(super) fn trailers(&self, trailers: &Headers) -> Result<(), Fault> {
        self.shared.lock().trailers(self.key, trailers)
    }

    pub(super) fn reset(&self, code: Code) {
        self.shared.lock().reset(self.key, code);
    }

    /// Ready when the stream has ended before its time.
    pub(super) fn poll_fault(&self, cx: &Context<'_>) -> Poll<Fault> {
        let mut engine = self.shared.lock();
        let gone = engine.ended.unwrap_or(Fault::Closed);
        let Some(stream) = engine.stream(self.key) else { return Poll::Ready(gone) };
        if let Some(fault) = stream.fault {
            return Poll::Ready(fault);
        }
        register(&mut stream.writer, cx);
        Poll::Pending
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.shared.lock().release(self.key, self.way == Way::In);
    }
}
