//! HTTP/2 frames by hand (RFC 9113 section 4, RFC 7541): written as they are asked for, right or wrong, and read only as far as the suites need.

use crate::wire::timed_out;
use std::io::{Read, Write};
use std::time::{Duration, Instant};

pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const PRIORITY: u8 = 2;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const PING: u8 = 6;
pub const GOAWAY: u8 = 7;
pub const WINDOW_UPDATE: u8 = 8;
pub const CONTINUATION: u8 = 9;

pub const END_STREAM: u8 = 1;
pub const ACK: u8 = 1;
pub const END_HEADERS: u8 = 4;

/// What a client says first (RFC 9113 section 3.4), before its SETTINGS.
pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Error codes (RFC 9113 section 7).
pub const REFUSED_STREAM: u32 = 7;

/// One frame.
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut out = length[1..].to_vec();
    out.extend_from_slice(&[kind, flags]);
    out.extend_from_slice(&stream.to_be_bytes());
    out.extend_from_slice(payload);
    out
}

/// An integer with a prefix of `bits` (RFC 7541 section 5.1) whose other bits are `first`.
pub fn integer(first: u8, bits: u32, mut value: usize) -> Vec<u8> {
    let most = (1 << bits) - 1;
    if value < most {
        return vec![first | u8::try_from(value).unwrap()];
    }
    let mut out = vec![first | u8::try_from(most).unwrap()];
    value -= most;
    while value >= 128 {
        out.push(u8::try_from(value % 128).unwrap() | 128);
        value /= 128;
    }
    out.push(u8::try_from(value).unwrap());
    out
}

/// A field as a literal with a new name, left out of the table (RFC 7541 section 6.2.2), in no Huffman code: any bytes at all.
pub fn literal(name: &[u8], value: &[u8]) -> Vec<u8> {
    [&[0][..], &integer(0, 7, name.len()), name, &integer(0, 7, value.len()), value].concat()
}

/// A whole block of fields.
pub fn block<N: AsRef<[u8]>, V: AsRef<[u8]>>(fields: &[(N, V)]) -> Vec<u8> {
    fields.iter().flat_map(|(name, value)| literal(name.as_ref(), value.as_ref())).collect()
}

/// The fields of an ordinary request.
pub fn call(method: &str, authority: &str, path: &str) -> Vec<(String, String)> {
    [(":method", method), (":scheme", "http"), (":authority", authority), (":path", path)]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .to_vec()
}

/// A SETTINGS frame. A table of no size keeps the peer from referring to entries, so that [`status`] needs none.
pub fn settings(entries: &[(u16, u32)]) -> Vec<u8> {
    let mut payload = Vec::new();
    for (id, value) in entries {
        payload.extend_from_slice(&id.to_be_bytes());
        payload.extend_from_slice(&value.to_be_bytes());
    }
    frame(SETTINGS, 0, 0, &payload)
}

pub const HEADER_TABLE_SIZE: u16 = 1;
pub const INITIAL_WINDOW_SIZE: u16 = 4;

/// A frame as it came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    pub kind: u8,
    pub flags: u8,
    pub stream: u32,
    pub payload: Vec<u8>,
}

impl Frame {
    pub fn ends_stream(&self) -> bool {
        matches!(self.kind, DATA | HEADERS) && self.flags & END_STREAM != 0
    }

    /// The error code of a RST_STREAM or a GOAWAY.
    pub fn code(&self) -> u32 {
        let at = if self.kind == GOAWAY { 4 } else { 0 };
        self.payload.get(at..at + 4).map_or(u32::MAX, |code| u32::from_be_bytes(code.try_into().unwrap()))
    }
}

/// The status that a block of response fields begins with.
pub fn status(block: &[u8]) -> Option<u16> {
    // The sizes of the dynamic table come first (RFC 7541 section 4.2).
    let block = &block[block.iter().position(|byte| byte & 0xe0 != 0x20)?..];
    let first = *block.first()?;
    if first & 0x80 != 0 {
        return [200, 204, 206, 304, 400, 404, 500].get(usize::from(first & 0x7f).checked_sub(8)?).copied();
    }
    // A literal whose name is entry 8 to 14, of any kind of indexing.
    let prefix = if first & 0x40 != 0 { 0x3f } else { 0x0f };
    if !(8..=14).contains(&(first & prefix)) {
        return None;
    }
    let (length, text) = (*block.get(1)?, block.get(2..)?);
    let text = text.get(..usize::from(length & 0x7f))?;
    if length & 0x80 == 0 { std::str::from_utf8(text).ok()?.parse().ok() } else { digits(text) }
}

/// Three digits in Huffman code (RFC 7541 appendix B): 0, 1 and 2 in five bits, the others in six.
fn digits(code: &[u8]) -> Option<u16> {
    let bits = code.iter().fold(0u64, |bits, byte| bits << 8 | u64::from(*byte));
    let mut left = code.len() * 8;
    let mut number = 0;
    for _ in 0..3 {
        let five = (bits >> left.checked_sub(5)?) & 0x1f;
        let digit = if five <= 2 {
            left -= 5;
            five
        } else {
            left = left.checked_sub(6)?;
            ((bits >> left) & 0x3f).checked_sub(0x16)?
        };
        number = number * 10 + u16::try_from(digit).ok()?;
    }
    Some(number)
}

/// Frames over any bytes. SETTINGS and PING are acknowledged, as every peer must.
pub struct Framed<S> {
    pub io: S,
    read: Vec<u8>,
    /// Frames of these kinds are not answered on their own.
    pub mute: bool,
}

/// What reading frames came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Next {
    Frame(Frame),
    Ended,
    Silence,
}

impl<S: Read + Write> Framed<S> {
    /// Begins as a client with these settings; nothing is waited for.
    pub fn client(mut io: S, entries: &[(u16, u32)]) -> Self {
        let _ = io.write_all(&[PREFACE, &settings(entries)].concat());
        Self { io, read: Vec::new(), mute: false }
    }

    /// Begins as a server, once the client has said what it must.
    pub fn server(mut io: S) -> Option<Self> {
        let mut preface = [0; PREFACE.len()];
        io.read_exact(&mut preface).ok().filter(|()| preface == *PREFACE)?;
        io.write_all(&settings(&[])).ok()?;
        io.flush().ok()?;
        Some(Self { io, read: Vec::new(), mute: false })
    }

    /// Whether the peer took all of it.
    pub fn send(&mut self, bytes: &[u8]) -> bool {
        self.io.write_all(bytes).and_then(|()| self.io.flush()).is_ok()
    }

    /// The next frame.
    pub fn next(&mut self) -> Next {
        loop {
            if let Some(frame) = self.whole() {
                if !self.mute && frame.kind == SETTINGS && frame.flags & ACK == 0 {
                    self.send(&self::frame(SETTINGS, ACK, 0, &[]));
                }
                if !self.mute && frame.kind == PING && frame.flags & ACK == 0 {
                    self.send(&self::frame(PING, ACK, 0, &frame.payload));
                }
                return Next::Frame(frame);
            }
            let mut buffer = [0; 16 * 1024];
            match self.io.read(&mut buffer) {
                Ok(count @ 1..) => self.read.extend_from_slice(&buffer[..count]),
                Err(error) if timed_out(&error) => return Next::Silence,
                _ => return Next::Ended,
            }
        }
    }

    fn whole(&mut self) -> Option<Frame> {
        let head: [u8; 9] = self.read.get(..9)?.try_into().unwrap();
        let length = usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
        let payload = self.read.get(9..9 + length)?.to_vec();
        self.read.drain(..9 + length);
        let stream = u32::from_be_bytes(head[5..9].try_into().unwrap()) & (u32::MAX >> 1);
        Some(Frame { kind: head[3], flags: head[4], stream, payload })
    }

    /// Reads until the call on `stream` is over.
    pub fn outcome(&mut self, stream: u32, within: Duration) -> Outcome {
        let until = Instant::now() + within;
        let mut outcome = Outcome { status: None, body: Vec::new(), end: End::Silence };
        while Instant::now() < until {
            let frame = match self.next() {
                Next::Frame(frame) => frame,
                Next::Ended => return Outcome { end: End::Closed, ..outcome },
                Next::Silence => return outcome,
            };
            if frame.kind == GOAWAY && frame.code() != 0 {
                return Outcome { end: End::GoAway(frame.code()), ..outcome };
            }
            if frame.stream != stream {
                continue;
            }
            match frame.kind {
                HEADERS if outcome.status.is_none_or(|status| status < 200) => outcome.status = status(&frame.payload),
                DATA => outcome.body.extend_from_slice(&frame.payload),
                RST_STREAM => return Outcome { end: End::Reset(frame.code()), ..outcome },
                _ => {}
            }
            if frame.ends_stream() {
                return Outcome { end: End::Whole, ..outcome };
            }
        }
        outcome
    }
}

/// What became of a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    pub status: Option<u16>,
    pub body: Vec<u8>,
    pub end: End,
}

impl Outcome {
    /// Answered in full with that body.
    pub fn says(&self, body: &str) -> bool {
        self.status == Some(200) && self.end == End::Whole && self.body == body.as_bytes()
    }
}

/// How a call ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    Whole,
    Reset(u32),
    GoAway(u32),
    Closed,
    Silence,
}
