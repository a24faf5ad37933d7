//! Frames on the wire (RFC 9113 §4, §6): reading heads, writing whole control frames. What a frame does to a connection is said in `engine`.

use std::fmt;

/// Bytes before the payload of every frame.
pub(super) const HEAD: usize = 9;
/// Largest payload that we take: the protocol's default, so that streams take turns (RFC 9113 §4.2).
pub(super) const MAX_PAYLOAD: usize = 16 * 1024;
/// Payload of a full frame that we send: with its head it fills a TLS record exactly.
pub(super) const FULL: usize = MAX_PAYLOAD - HEAD;
/// What every client sends first (RFC 9113 §3.4).
pub(super) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Largest flow-control window, and largest stream identifier (RFC 9113 §5.1.1, §6.9.1).
pub(super) const MAX_31: u32 = (1 << 31) - 1;

/// Types of frames.
pub(super) mod kind {
    pub const DATA: u8 = 0;
    pub const HEADERS: u8 = 1;
    pub const PRIORITY: u8 = 2;
    pub const RST_STREAM: u8 = 3;
    pub const SETTINGS: u8 = 4;
    pub const PUSH_PROMISE: u8 = 5;
    pub const PING: u8 = 6;
    pub const GOAWAY: u8 = 7;
    pub const WINDOW_UPDATE: u8 = 8;
    pub const CONTINUATION: u8 = 9;
}

/// Flags of frames.
pub(super) mod flag {
    pub const ACK: u8 = 0x1;
    pub const END_STREAM: u8 = 0x1;
    pub const END_HEADERS: u8 = 0x4;
    pub const PADDED: u8 = 0x8;
    pub const PRIORITY: u8 = 0x20;
}

/// Identifiers of settings.
pub(super) mod setting {
    pub const HEADER_TABLE_SIZE: u16 = 1;
    pub const ENABLE_PUSH: u16 = 2;
    pub const MAX_CONCURRENT_STREAMS: u16 = 3;
    pub const INITIAL_WINDOW_SIZE: u16 = 4;
    pub const MAX_FRAME_SIZE: u16 = 5;
    pub const MAX_HEADER_LIST_SIZE: u16 = 6;
    /// RFC 8441 §3.
    pub const ENABLE_CONNECT_PROTOCOL: u16 = 8;
}

/// An error code (RFC 9113 §7).
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Code(pub u32);

impl Code {
    pub(super) const NO_ERROR: Self = Self(0);
    pub(super) const PROTOCOL_ERROR: Self = Self(1);
    pub(super) const INTERNAL_ERROR: Self = Self(2);
    pub(super) const FLOW_CONTROL_ERROR: Self = Self(3);
    pub(super) const STREAM_CLOSED: Self = Self(5);
    pub(super) const FRAME_SIZE_ERROR: Self = Self(6);
    pub(super) const REFUSED_STREAM: Self = Self(7);
    pub(super) const CANCEL: Self = Self(8);
    pub(super) const COMPRESSION_ERROR: Self = Self(9);
    pub(super) const ENHANCE_YOUR_CALM: Self = Self(11);
}

/// Names of the codes, by number.
const CODES: [&str; 14] = [
    "NO_ERROR",
    "PROTOCOL_ERROR",
    "INTERNAL_ERROR",
    "FLOW_CONTROL_ERROR",
    "SETTINGS_TIMEOUT",
    "STREAM_CLOSED",
    "FRAME_SIZE_ERROR",
    "REFUSED_STREAM",
    "CANCEL",
    "COMPRESSION_ERROR",
    "CONNECT_ERROR",
    "ENHANCE_YOUR_CALM",
    "INADEQUATE_SECURITY",
    "HTTP_1_1_REQUIRED",
];

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match CODES.get(self.0 as usize) {
            Some(name) => f.write_str(name),
            None => write!(f, "error {:#x}", self.0),
        }
    }
}

impl fmt::Debug for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// What precedes a payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Head {
    pub len: usize,
    pub kind: u8,
    pub flags: u8,
    pub stream: u32,
}

impl Head {
    /// The head at the start of `bytes`; `None` while it is incomplete.
    pub(super) fn read(bytes: &[u8]) -> Option<Self> {
        let head: &[u8; HEAD] = bytes.first_chunk()?;
        Some(Self {
            len: usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]),
            kind: head[3],
            flags: head[4],
            // The reserved bit MUST be ignored when receiving (RFC 9113 §4.1).
            stream: be32(&head[5..]) & MAX_31,
        })
    }

    pub(super) const fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    /// `len` is below 2²⁴.
    pub(super) const fn bytes(len: usize, kind: u8, flags: u8, stream: u32) -> [u8; HEAD] {
        let (len, id) = ((len as u32).to_be_bytes(), stream.to_be_bytes());
        [len[1], len[2], len[3], kind, flags, id[0], id[1], id[2], id[3]]
    }
}

/// The first four bytes as a number; 0 where there are fewer.
pub(super) fn be32(bytes: &[u8]) -> u32 {
    bytes.first_chunk().map_or(0, |bytes| u32::from_be_bytes(*bytes))
}

/// Takes the padding off a payload (RFC 9113 §6.1); `None`: there is more of it than payload.
pub(super) fn unpadded(payload: &[u8], padded: bool) -> Option<&[u8]> {
    if !padded {
        return Some(payload);
    }
    let (padding, rest) = payload.split_first()?;
    rest.len().checked_sub(usize::from(*padding)).map(|length| &rest[..length])
}

pub(super) fn settings(out: &mut Vec<u8>, values: &[(u16, u32)]) {
    out.extend_from_slice(&Head::bytes(values.len() * 6, kind::SETTINGS, 0, 0));
    for (id, value) in values {
        out.extend_from_slice(&id.to_be_bytes());
        out.extend_from_slice(&value.to_be_bytes());
    }
}

pub(super) fn settings_ack(out: &mut Vec<u8>) {
    out.extend_from_slice(&Head::bytes(0, kind::SETTINGS, flag::ACK, 0));
}

pub(super) fn ping(out: &mut Vec<u8>, flags: u8, payload: [u8; 8]) {
    out.extend_from_slice(&Head::bytes(8, kind::PING, flags, 0));
    out.extend_from_slice(&payload);
}

pub(super) fn goaway(out: &mut Vec<u8>, last: u32, code: Code) {
    out.extend_from_slice(&Head::bytes(8, kind::GOAWAY, 0, 0));
    out.extend_from_slice(&last.to_be_bytes());
    out.extend_from_slice(&code.0.to_be_bytes());
}

pub(super) fn reset(out: &mut Vec<u8>, stream: u32, code: Code) {
    out.extend_from_slice(&Head::bytes(4, kind::RST_STREAM, 0, stream));
    out.extend_from_slice(&code.0.to_be_bytes());
}

pub(super) fn window_update(out: &mut Vec<u8>, stream: u32, increment: u32) {
    out.extend_from_slice(&Head::bytes(4, kind::WINDOW_UPDATE, 0, stream));
    out.extend_from_slice(&increment.to_be_bytes());
}

/// Closes the header block that was appended at `start` behind room for a head: what does not fit one frame goes on in CONTINUATION
/// frames (RFC 9113 §4.3).
pub(super) fn close_headers(out: &mut Vec<u8>, start: usize, flags: u8, stream: u32) {
    let len = out.len() - start - HEAD;
    if len <= MAX_PAYLOAD {
        out[start..start + HEAD].copy_from_slice(&Head::bytes(len, kind::HEADERS, flags | flag::END_HEADERS, stream));
        return;
    }
    let block = out.split_off(start + HEAD);
    out.truncate(start);
    let (mut kind, mut flags, mut rest) = (kind::HEADERS, flags, &block[..]);
    while !rest.is_empty() {
        let (piece, after) = rest.split_at(rest.len().min(MAX_PAYLOAD));
        let end = if after.is_empty() { flag::END_HEADERS } else { 0 };
        out.extend_from_slice(&Head::bytes(piece.len(), kind, flags | end, stream));
        out.extend_from_slice(piece);
        (kind, flags, rest) = (kind::CONTINUATION, 0, after);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_reads_as_it_was_written_and_the_reserved_bit_is_ignored() {
        let mut bytes = Head::bytes(0x01_02_03, kind::HEADERS, flag::END_HEADERS, 7);
        let head = Head { len: 0x01_02_03, kind: kind::HEADERS, flags: flag::END_HEADERS, stream: 7 };
        assert_eq!(Head::read(&bytes), Some(head));
        bytes[5] |= 0x80;
        assert_eq!(Head::read(&bytes), Some(head));
        assert_eq!(Head::read(&bytes[..8]), None);
    }

    #[test]
    fn padding_is_taken_off_and_never_reaches_beyond_the_payload() {
        assert_eq!(unpadded(b"\x02abcd", true), Some(&b"ab"[..]));
        assert_eq!(unpadded(b"\x04abcd", true), Some(&b""[..]));
        assert_eq!(unpadded(b"\x05abcd", true), None);
        assert_eq!(unpadded(b"", true), None);
        assert_eq!(unpadded(b"\x02", false), Some(&b"\x02"[..]));
    }

    #[test]
    fn a_large_header_block_goes_on_in_continuations() {
        let mut out = vec![1, 2, 3];
        out.extend_from_slice(&[0; HEAD]);
        out.resize(out.len() + MAX_PAYLOAD * 2 + 1, 9);
        close_headers(&mut out, 3, flag::END_STREAM, 5);
        let (mut at, mut seen) = (3, Vec::new());
        while let Some(head) = Head::read(&out[at..]) {
            seen.push((head.kind, head.flags, head.len, head.stream));
            at += HEAD + head.len;
        }
        let expected = [
            (kind::HEADERS, flag::END_STREAM, MAX_PAYLOAD, 5),
            (kind::CONTINUATION, 0, MAX_PAYLOAD, 5),
            (kind::CONTINUATION, flag::END_HEADERS, 1, 5),
        ];
        assert_eq!((seen, at), (expected.to_vec(), out.len()));
    }
}
