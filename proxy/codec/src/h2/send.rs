//! What calls send: heads at once, data as the windows and the connection's buffer allow, streams taking turns.

use super::engine::{Engine, Key, Role};
use super::fault::Fault;
use super::frame::{self, FULL, HEAD, MAX_31, flag};
use super::outgoing::HIGH;
use super::section;
use super::state::{Stream, register};
use crate::{Error, Kind, Sent};
use crate::{Headers, RequestHead, ResponseHead};
use bytes::Bytes;
use http::Method;
use std::io::IoSlice;
use std::task::{Context, Poll};

/// Bytes of one stream in one write while others are open, so that it does not hold them up…
const SHARE: usize = 4 * FULL;
/// …and while it is alone.
const ALONE: usize = 16 * FULL;

impl Engine {
    /// May another stream be opened? `Err`: never again.
    pub(super) fn may_open(&self) -> Result<bool, Fault> {
        if let Some(fault) = self.ended {
            return Err(fault);
        }
        if self.left || self.next_id > MAX_31 {
            return Err(Fault::Closed);
        }
        Ok(self.open < self.remote.max_streams)
    }

    /// Opens a stream with two handles (client).
    pub(super) fn request(&mut self, head: &RequestHead, end: bool) -> Result<Key, Error> {
        let websocket = head.is_websocket();
        let extended = websocket || (head.protocol.is_some() && head.method == Method::CONNECT);
        if extended && !self.remote.connect_protocol {
            let why = "the upstream does not accept extended CONNECT (SETTINGS_ENABLE_CONNECT_PROTOCOL)";
            return Err(Error::because(Kind::Unsupported, why));
        }
        let id = self.next_id;
        let out = self.out.bytes();
        let start = out.len();
        out.extend_from_slice(&[0; HEAD]);
        if let Err(error) = section::write_request(&mut self.encoder, out, head, end) {
            out.truncate(start);
            return Err(error.sent(Sent::NotSent));
        }
        frame::close_headers(out, start, if end { flag::END_STREAM } else { 0 }, id);
        self.next_id += 2;
        let mut stream = Stream::new(id);
        stream.sent_end = end;
        stream.method = if websocket { Method::CONNECT } else { head.method.clone() };
        let key = self.insert(Box::new(stream));
        self.abuse.useful();
        self.kick();
        Ok(key)
    }

    /// Sends the head of a response, informational or final (server).
    pub(super) fn respond(&mut self, key: Key, head: &ResponseHead, end: bool, method: &Method) -> Result<(), Fault> {
        self.headers(key, end, |engine, start| {
            let out = engine.out.bytes();
            debug_assert!(out.len() == start + HEAD, "room for the frame's head");
            section::write_response(&mut engine.encoder, out, head, end, method);
        })?;
        if !head.status.is_informational()
            && let Some(stream) = self.stream(key)
        {
            stream.answered = true;
            self.abuse.answered();
        }
        if end {
            self.settle(key);
        }
        Ok(())
    }

    /// Sends trailers, which end the stream.
    pub(super) fn trailers(&mut self, key: Key, trailers: &Headers) -> Result<(), Fault> {
        self.headers(key, true, |engine, _| {
            section::write_trailers(&mut engine.encoder, engine.out.bytes(), trailers);
        })?;
        self.settle(key);
        Ok(())
    }

    fn headers(&mut self, key: Key, end: bool, write: impl FnOnce(&mut Self, usize)) -> Result<(), Fault> {
        self.sendable(key)?.sent_end = end;
        let out = self.out.bytes();
        let start = out.len();
        out.extend_from_slice(&[0; HEAD]);
        write(self, start);
        let out = self.out.bytes();
        if out.len() == start + HEAD && end {
            // No field is left: an empty DATA frame ends the stream as well.
            out.truncate(start);
            self.out.data(key.id, Bytes::new(), flag::END_STREAM, FULL);
        } else {
            frame::close_headers(out, start, if end { flag::END_STREAM } else { 0 }, key.id);
        }
        self.kick();
        Ok(())
    }

    /// The stream, if anything may be sent on it.
    fn sendable(&mut self, key: Key) -> Result<&mut Stream, Fault> {
        let gone = self.ended.unwrap_or(Fault::Closed);
        let stream = self.stream(key).ok_or(gone)?;
        match stream.fault {
            Some(fault) => Err(fault),
            None if stream.sent_end => Err(Fault::Closed),
            None => Ok(stream),
        }
    }

    /// Ends the stream without more data.
    pub(super) fn finish(&mut self, key: Key) -> Result<(), Fault> {
        self.sendable(key)?;
        self.data(key, Bytes::new(), true);
        Ok(())
    }

    /// How many of `wanted` bytes may be sent now.
    pub(super) fn poll_room(&mut self, key: Key, cx: &Context<'_>, wanted: usize) -> Poll<Result<usize, Fault>> {
        let share = if self.open > 1 { SHARE } else { ALONE };
        let (waiting, window, turn) = (self.out.waiting(), self.send_window, self.turn);
        let stream = match self.sendable(key) {
            Ok(stream) => stream,
            Err(fault) => return Poll::Ready(Err(fault)),
        };
        if stream.turn != turn {
            (stream.turn, stream.sent) = (turn, 0);
        }
        if stream.send_window <= 0 {
            register(&mut stream.writer, cx);
            return Poll::Pending;
        }
        // What is full for those that have had their share has room for one frame of everybody else.
        let (high, share) = if stream.sent == 0 { (2 * HIGH, share) } else { (HIGH, share) };
        if window <= 0 || waiting >= high || stream.sent >= share {
            register(&mut stream.writer, cx);
            if !std::mem::replace(&mut stream.queued, true) {
                self.room.push_back(key);
            }
            return Poll::Pending;
        }
        let most = if waiting >= HIGH { FULL } else { share - stream.sent };
        // Both windows are positive.
        let room = stream.send_window.min(window) as usize;
        Poll::Ready(Ok(wanted.min(room).min(most)))
    }

    /// Sends data for which there is room.
    pub(super) fn data(&mut self, key: Key, data: Bytes, end: bool) {
        let (count, room) = (data.len(), self.remote.max_frame);
        self.spent(key, count, end);
        self.out.data(key.id, data, if end { flag::END_STREAM } else { 0 }, room);
        self.kick();
        if end {
            self.settle(key);
        }
    }

    /// Sends a copy of the first `count` bytes of `slices`, for which there is room.
    pub(super) fn copy(&mut self, key: Key, slices: &[IoSlice<'_>], count: usize) {
        self.spent(key, count, false);
        self.out.copy(key.id, slices, count, self.remote.max_frame);
        self.kick();
    }

    fn spent(&mut self, key: Key, count: usize, end: bool) {
        self.abuse.useful();
        self.send_window -= count as i64;
        if let Some(stream) = self.stream(key) {
            stream.send_window -= count as i64;
            stream.sent += count;
            stream.sent_end |= end;
        }
    }

    /// After a write: whoever waited for room has its turn, in the order in which they came.
    pub(super) fn flushed(&mut self) {
        self.turn = self.turn.wrapping_add(1);
        if self.out.waiting() == 0 {
            self.abuse.flushed();
        }
        if self.out.waiting() < HIGH {
            self.wake_room();
        }
    }

    pub(super) fn wake_room(&mut self) {
        if self.send_window <= 0 {
            return;
        }
        for _ in 0..self.room.len() {
            let Some(key) = self.room.pop_front() else { return };
            if let Some(stream) = self.stream(key) {
                stream.queued = false;
                stream.wake_writer();
            }
        }
    }

    /// Is it a connection that a peer's GOAWAY or its end has closed for new streams?
    pub(super) fn is_closing(&self) -> bool {
        self.left || self.ended.is_some() || (self.role == Role::Client && self.next_id > MAX_31)
    }
}
