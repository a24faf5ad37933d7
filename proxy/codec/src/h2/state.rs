//! One stream: where it stands (RFC 9113 §5.1), its windows, and what has arrived on it.

use super::fault::Fault;
use crate::{Headers, ResponseHead};
use bytes::BytesMut;
use http::Method;
use std::collections::VecDeque;
use std::task::{Context, Waker};

/// Room of buffers that short pieces are merged in.
const MERGED: usize = 4 * 1024;

/// One stream.
#[derive(Default)]
pub(super) struct Stream {
    pub id: u32,
    /// Handles that calls hold.
    pub handles: u8,
    /// It counts towards the limit on streams.
    pub counted: bool,
    pub sent_end: bool,
    pub got_end: bool,
    /// The final head was sent (server) or has arrived (client).
    pub answered: bool,
    /// It ended before its time.
    pub fault: Option<Fault>,
    /// What the peer takes. It may be negative (RFC 9113 §6.9.2).
    pub send_window: i64,
    /// What the peer may send.
    pub recv_window: i64,
    /// What was consumed and not returned to the peer yet.
    pub owed: u32,
    /// Nobody will read what arrives.
    pub discard: bool,
    /// It is in the queue for room.
    pub queued: bool,
    /// Bytes that it has sent in `turn`.
    pub sent: usize,
    pub turn: u32,
    /// What the request says of its response (client).
    pub method: Method,
    /// Bytes of the body that its Content-Length still promises.
    pub promised: Option<u64>,
    pub early: VecDeque<ResponseHead>,
    pub head: Option<ResponseHead>,
    pub trailers: Option<Headers>,
    first: BytesMut,
    rest: VecDeque<BytesMut>,
    pub reader: Option<Waker>,
    pub writer: Option<Waker>,
}

impl Stream {
    /// One that a call is about to get two handles for.
    pub(super) fn new(id: u32) -> Self {
        Self { id, handles: 2, ..Self::default() }
    }

    pub(super) const fn is_closed(&self) -> bool {
        (self.sent_end && self.got_end) || self.fault.is_some()
    }

    /// Has everything that arrived been taken?
    pub(super) fn is_drained(&self) -> bool {
        self.first.is_empty() && self.trailers.is_none()
    }

    pub(super) fn push(&mut self, data: BytesMut) {
        if self.first.is_empty() {
            self.first = data;
            return;
        }
        // Short pieces are merged, so that what is held is in proportion to the window.
        if let Some(last) = self.rest.back_mut()
            && last.len() + data.len() <= MERGED
        {
            if last.capacity() - last.len() < data.len() {
                let mut merged = BytesMut::with_capacity(MERGED);
                merged.extend_from_slice(last);
                *last = merged;
            }
            last.extend_from_slice(&data);
            return;
        }
        self.rest.push_back(data);
    }

    pub(super) fn pop(&mut self) -> Option<BytesMut> {
        if self.first.is_empty() {
            return None;
        }
        let next = self.rest.pop_front().unwrap_or_default();
        Some(std::mem::replace(&mut self.first, next))
    }

    /// Drops what has arrived; how much that was.
    pub(super) fn forget(&mut self) -> usize {
        let count = self.buffered();
        (self.first, self.rest) = (BytesMut::new(), VecDeque::new());
        count
    }

    pub(super) fn buffered(&self) -> usize {
        self.first.len() + self.rest.iter().map(BytesMut::len).sum::<usize>()
    }

    pub(super) fn wake_reader(&mut self) {
        wake(&mut self.reader);
    }

    pub(super) fn wake_writer(&mut self) {
        wake(&mut self.writer);
    }

    pub(super) fn wake(&mut self) {
        self.wake_reader();
        self.wake_writer();
    }
}

pub(super) fn wake(waker: &mut Option<Waker>) {
    if let Some(waker) = waker.take() {
        waker.wake();
    }
}

pub(super) fn register(place: &mut Option<Waker>, cx: &Context<'_>) {
    if !place.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
        *place = Some(cx.waker().clone());
    }
}
