//! What frames of the peer do to a connection. Each rule of RFC 9113 stands beside its check; what breaks one ends the stream, or the
//! connection where the RFC says so.

use super::abuse::{Abuse, Calm};
use super::engine::{Block, Engine, Event, Key, Leaving, Role};
use super::fault::{By, Fault};
use super::frame::{self, Code, HEAD, Head, MAX_PAYLOAD, PREFACE, be32, flag, kind, unpadded};
use super::section::{Section, write_response};
use super::state::Stream;
use crate::{Error, Kind};
use crate::{ResponseHead, spare};
use bytes::{Buf, BytesMut};
use http::{Method, StatusCode};
use std::time::Instant;

/// Payloads up to this size are copied out of the read buffer, which they would keep alive.
const SHORT: usize = 4 * 1024;
/// Informational heads of one response that nobody has taken yet.
const EARLY: usize = 16;
/// Runs of streams that the peer has passed over which are remembered.
const SKIPPED: usize = 16;
/// Where priorities stand in a HEADERS frame; they are ignored (RFC 9113 §5.3.2).
const PRIORITY: usize = 5;

/// The connection is over, and why.
pub(super) struct Broken(pub Code, pub &'static str);

impl From<Calm> for Broken {
    fn from(calm: Calm) -> Self {
        Self(Code::ENHANCE_YOUR_CALM, calm.0)
    }
}

pub(super) const fn broken<T>(why: &'static str) -> Result<T, Broken> {
    Err(Broken(Code::PROTOCOL_ERROR, why))
}

impl Engine {
    /// Takes the whole frames out of `input`. Afterwards the connection may have ended.
    pub(super) fn receive(&mut self, input: &mut BytesMut) {
        if let Err(Broken(code, why)) = self.frames(input) {
            self.fail(code, why);
        }
    }

    fn frames(&mut self, input: &mut BytesMut) -> Result<(), Broken> {
        if self.preface {
            let length = input.len().min(PREFACE.len());
            if input[..length] != PREFACE[..length] {
                return broken("the preface is not that of HTTP/2");
            }
            if length < PREFACE.len() {
                return Ok(());
            }
            input.advance(length);
            self.preface = false;
        }
        while self.ended.is_none()
            && let Some(head) = Head::read(input)
        {
            if head.len > MAX_PAYLOAD {
                return Err(Broken(Code::FRAME_SIZE_ERROR, "a frame is too large"));
            }
            let Some(payload) = input.get(HEAD..HEAD + head.len) else { return Ok(()) };
            // RFC 9113 §3.4: the first frame MUST be SETTINGS; §6.2: nothing else may come within a header block.
            if !self.remote.known && head.kind != kind::SETTINGS {
                return broken("the first frame is not SETTINGS");
            }
            if self.block.as_ref().is_some_and(|block| head.kind != kind::CONTINUATION || block.stream != head.stream) {
                return broken("a header block is interrupted");
            }
            if head.kind == kind::DATA {
                self.data_frame(head, input)?;
                continue;
            }
            self.frame(head, payload)?;
            input.advance(HEAD + head.len);
        }
        Ok(())
    }

    fn frame(&mut self, head: Head, payload: &[u8]) -> Result<(), Broken> {
        match head.kind {
            kind::HEADERS => self.headers_frame(head, payload),
            kind::CONTINUATION => self.continuation(head, payload),
            kind::RST_STREAM => self.reset_frame(head, payload),
            kind::SETTINGS => self.settings(head, payload),
            kind::PING => self.ping_frame(head, payload),
            kind::GOAWAY => self.goaway(head, payload),
            kind::WINDOW_UPDATE => self.window_update(head, payload),
            kind::PRIORITY => {
                if head.stream == 0 {
                    return broken("PRIORITY without a stream");
                }
                if payload.len() != PRIORITY {
                    self.reset_or_ignore(head.stream, Code::FRAME_SIZE_ERROR);
                }
                Ok(self.abuse.noise()?)
            }
            kind::PUSH_PROMISE => broken("PUSH_PROMISE, which nobody asked for"),
            // RFC 9113 §5.5: unknown types MUST be ignored.
            _ => Ok(self.abuse.noise()?),
        }
    }

    /// Is it a stream that neither side has opened yet (RFC 9113 §5.1)?
    pub(super) const fn is_idle(&self, id: u32) -> bool {
        match self.role {
            Role::Server => id.is_multiple_of(2) || id > self.last_seen,
            Role::Client => id.is_multiple_of(2) || id >= self.next_id,
        }
    }

    fn reset_or_ignore(&mut self, id: u32, code: Code) {
        if let Some(key) = self.find(id) {
            self.reset(key, code);
        }
    }

    fn data_frame(&mut self, head: Head, input: &mut BytesMut) -> Result<(), Broken> {
        if head.stream == 0 || self.is_idle(head.stream) {
            return broken("DATA on a stream that is not open");
        }
        self.recv_window -= head.len as i64;
        if self.recv_window < 0 {
            return Err(Broken(Code::FLOW_CONTROL_ERROR, "DATA beyond the connection's window"));
        }
        input.advance(HEAD);
        let padded = head.has(flag::PADDED);
        let Some(length) = unpadded(&input[..head.len], padded).map(<[u8]>::len) else {
            return broken("more padding than payload");
        };
        let end = head.has(flag::END_STREAM);
        if length == 0 && !end {
            self.abuse.empty()?;
        } else {
            self.abuse.useful();
        }
        let Some(key) = self.takes_data(head, length) else {
            input.advance(head.len);
            self.credit(head.len);
            return Ok(());
        };
        let rest = head.len - usize::from(padded) - length;
        if padded {
            input.advance(1);
        }
        let data = match length {
            0..=SHORT => {
                let (_, data) = spare::read_into(|room| room.extend_from_slice(&input[..length]));
                input.advance(length);
                data
            }
            _ => input.split_to(length),
        };
        input.advance(rest);
        // Padding counts as well, and is consumed at once.
        let padding = head.len - length;
        let Some(stream) = self.stream(key) else { return Ok(()) };
        let kept = length > 0 && !stream.discard;
        if kept {
            stream.push(data);
        }
        stream.got_end |= end;
        stream.wake_reader();
        if padding > 0 {
            self.consumed(key, padding);
        }
        if !kept {
            self.credit(length);
        }
        if end {
            self.settle(key);
        }
        Ok(())
    }

    /// The stream that takes a DATA frame; `None` where it is dropped.
    fn takes_data(&mut self, head: Head, length: usize) -> Option<Key> {
        let key = self.find(head.stream)?;
        let client = self.role == Role::Client;
        let stream = self.stream(key)?;
        if stream.fault.is_some() {
            return None;
        }
        stream.recv_window -= head.len as i64;
        let mut code = None;
        if stream.got_end {
            // RFC 9113 §5.1, half-closed (remote).
            code = Some(Code::STREAM_CLOSED);
        } else if stream.recv_window < 0 {
            code = Some(Code::FLOW_CONTROL_ERROR);
        } else if client && !stream.answered {
            code = Some(Code::PROTOCOL_ERROR);
        } else if let Some(promised) = &mut stream.promised {
            // RFC 9113 §8.1.1: a message whose DATA does not sum up to its Content-Length is malformed.
            match promised.checked_sub(length as u64) {
                Some(left) if left == 0 || !head.has(flag::END_STREAM) => *promised = left,
                _ => code = Some(Code::PROTOCOL_ERROR),
            }
        }
        match code {
            None => Some(key),
            Some(code) => {
                self.reset(key, code);
                None
            }
        }
    }

    fn headers_frame(&mut self, head: Head, payload: &[u8]) -> Result<(), Broken> {
        if head.stream == 0 {
            return broken("HEADERS without a stream");
        }
        let Some(mut block) = unpadded(payload, head.has(flag::PADDED)) else {
            return broken("more padding than payload");
        };
        if head.has(flag::PRIORITY) {
            block = match block.split_at_checked(PRIORITY) {
                Some((_, block)) => block,
                None => return Err(Broken(Code::FRAME_SIZE_ERROR, "HEADERS too short for its priority")),
            };
        }
        let end = head.has(flag::END_STREAM);
        if head.has(flag::END_HEADERS) {
            return self.block(head.stream, end, block);
        }
        self.block = Some(Block { stream: head.stream, end, bytes: block.to_vec(), frames: 0 });
        Ok(())
    }

    fn continuation(&mut self, head: Head, payload: &[u8]) -> Result<(), Broken> {
        let Some(mut block) = self.block.take() else { return broken("CONTINUATION without HEADERS") };
        block.frames += 1;
        Abuse::continued(block.frames)?;
        if block.bytes.len() + payload.len() > self.local.max_head + MAX_PAYLOAD {
            return Err(Broken(Code::ENHANCE_YOUR_CALM, "a header block without an end"));
        }
        block.bytes.extend_from_slice(payload);
        if head.has(flag::END_HEADERS) {
            return self.block(block.stream, block.end, &block.bytes);
        }
        self.block = Some(block);
        Ok(())
    }

    /// A whole header block.
    fn block(&mut self, id: u32, end: bool, block: &[u8]) -> Result<(), Broken> {
        let mut section = Section::new();
        // What is not wanted is decoded all the same: both ends' tables must agree.
        let size = self
            .decoder
            .decode(block, self.local.max_head, |name, value| section.field(name, value))
            .map_err(|_| Broken(Code::COMPRESSION_ERROR, "a header block is malformed"))?;
        let section = (size <= self.local.max_head).then_some(section);
        match (self.find(id), self.role) {
            (Some(key), Role::Server) => self.more_headers(key, end, section),
            (Some(key), Role::Client) => self.response(key, end, section),
            (None, Role::Server) if self.is_idle(id) => self.request_head(id, end, section)?,
            (None, _) if self.is_idle(id) => return broken("HEADERS on a stream that is not open"),
            // RFC 9113 §5.1.1: a new stream MUST have a higher number than all before it.
            (None, _) if self.skipped.iter().any(|(first, last)| (*first..=*last).contains(&id)) => {
                return broken("a stream below one that was opened before it");
            }
            // A stream that was reset or refused: what was on its way is dropped.
            (None, _) => self.abuse.noise()?,
        }
        Ok(())
    }

    /// Remembers which streams a new one leaves behind unopened: clients hardly ever do that.
    fn pass_over(&mut self, id: u32) {
        let next = self.last_seen + if self.last_seen == 0 { 1 } else { 2 };
        if id > next {
            if self.skipped.len() == SKIPPED {
                self.skipped.pop_front();
            }
            self.skipped.push_back((next, id - 2));
        }
    }

    fn request_head(&mut self, id: u32, end: bool, section: Option<Section>) -> Result<(), Broken> {
        if id.is_multiple_of(2) {
            return broken("a client's stream has an even number");
        }
        if let Leaving::Told(_) = self.leaving {
            // It is above the last stream that was named: the peer sends it elsewhere.
            return Ok(self.abuse.noise()?);
        }
        self.pass_over(id);
        self.last_seen = id;
        if self.is_full() {
            frame::reset(self.out.bytes(), id, Code::REFUSED_STREAM);
            return Ok(self.abuse.noise()?);
        }
        let read = match section {
            Some(section) => section.request().map_err(|why| Error::because(Kind::BadRequest, why)),
            None => Err(Error::because(Kind::HeadersTooLarge, "the header section exceeds the limits")),
        };
        let read = read.and_then(|(head, length)| match length {
            Some(length) if end && length > 0 => {
                Err(Error::because(Kind::BadRequest, "Content-Length promises a body, and there is none"))
            }
            length => Ok((head, length)),
        });
        let (head, length) = match read {
            Ok(read) => read,
            Err(error) => return self.reject(id, end, error),
        };
        self.abuse.useful();
        let mut stream = Stream::new(id);
        (stream.got_end, stream.promised) = (end, length);
        let key = self.insert(Box::new(stream));
        self.events.push_back(Event::Call(key, Box::new(head), if end { Some(0) } else { length }));
        Ok(())
    }

    /// Answers a request that is none. RFC 9113 §8.1.1: a server MAY send an HTTP response prior to resetting the stream.
    fn reject(&mut self, id: u32, end: bool, error: Error) -> Result<(), Broken> {
        let status = if error.kind == Kind::HeadersTooLarge {
            StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE
        } else {
            StatusCode::BAD_REQUEST
        };
        let out = self.out.bytes();
        let start = out.len();
        out.extend_from_slice(&[0; HEAD]);
        write_response(&mut self.encoder, out, &ResponseHead::new(status), true, &Method::GET);
        frame::close_headers(out, start, flag::END_STREAM, id);
        let code = if error.kind == Kind::BadRequest { Code::PROTOCOL_ERROR } else { Code::NO_ERROR };
        if !end || code != Code::NO_ERROR {
            frame::reset(out, id, code);
        }
        self.events.push_back(Event::Rejected(error));
        Ok(self.abuse.empty()?)
    }

    /// A header block on a stream that has a head: trailers (RFC 9113 §8.1).
    fn more_headers(&mut self, key: Key, end: bool, section: Option<Section>) {
        let Some(stream) = self.stream(key).filter(|stream| stream.fault.is_none()) else { return };
        if stream.got_end {
            return self.reset(key, Code::STREAM_CLOSED);
        }
        let whole = stream.promised.is_none_or(|left| left == 0);
        let trailers = section.filter(|_| end && whole).and_then(|section| section.trailers().ok());
        let Some(trailers) = trailers else {
            return self.reset(key, Code::PROTOCOL_ERROR);
        };
        stream.got_end = true;
        if !stream.discard {
            stream.trailers = Some(trailers);
        }
        stream.wake_reader();
        self.settle(key);
    }

    /// A header block of a response.
    fn response(&mut self, key: Key, end: bool, section: Option<Section>) {
        let Some(stream) = self.stream(key).filter(|stream| stream.fault.is_none()) else { return };
        if stream.answered {
            return self.more_headers(key, end, section);
        }
        let Some(Ok((head, length))) = section.map(Section::response) else {
            return self.reset(key, Code::PROTOCOL_ERROR);
        };
        if head.status.is_informational() {
            if end || stream.early.len() >= EARLY {
                return self.reset(key, Code::PROTOCOL_ERROR);
            }
            stream.early.push_back(head);
            stream.wake_reader();
            if self.abuse.noise().is_err() {
                self.reset(key, Code::ENHANCE_YOUR_CALM);
            }
            return;
        }
        // RFC 9110 §8.6: to HEAD, and with 304, it is the length that a body would have had; after CONNECT it means nothing.
        let bodiless = stream.method == Method::HEAD || head.status == StatusCode::NOT_MODIFIED;
        let tunnel = stream.method == Method::CONNECT && head.status.is_success();
        if end && !bodiless && !tunnel && length.is_some_and(|length| length > 0) {
            return self.reset(key, Code::PROTOCOL_ERROR);
        }
        stream.promised = length.filter(|_| !bodiless && !tunnel);
        stream.answered = true;
        stream.got_end = end;
        stream.head = Some(head);
        stream.wake_reader();
        self.settle(key);
    }

    fn reset_frame(&mut self, head: Head, payload: &[u8]) -> Result<(), Broken> {
        if payload.len() != 4 {
            return Err(Broken(Code::FRAME_SIZE_ERROR, "RST_STREAM of another size"));
        }
        if head.stream == 0 || self.is_idle(head.stream) {
            return broken("RST_STREAM on a stream that is not open");
        }
        let server = self.role == Role::Server;
        let Some(key) = self.find(head.stream) else { return Ok(self.abuse.noise()?) };
        let Some(stream) = self.stream(key).filter(|stream| !stream.is_closed()) else { return Ok(()) };
        stream.fault = Some(Fault::Reset(Code(be32(payload)), By::Peer));
        stream.wake();
        let early = server && !stream.answered;
        self.settle(key);
        if early {
            self.abuse.early(Instant::now)?;
        }
        Ok(())
    }
}
