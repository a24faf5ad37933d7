//! The text form: base64 (RFC 4648 §4) in pieces of any size. Pure; no I/O.
//!
//! PROTOCOL-WEB: padding occurs wherever a sender flushes, so that the whole is a row of base64 texts and not one.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;

/// Characters of a group, which stand for three bytes at most.
const GROUP: usize = 4;

/// The text is not base64.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Malformed;

/// Text → bytes.
#[derive(Debug, Default)]
pub(super) struct Decoder {
    /// The beginning of a group.
    held: [u8; GROUP],
    /// Invariant: less than a group.
    count: usize,
}

impl Decoder {
    /// The bytes of the groups that are complete with `piece`.
    pub fn push(&mut self, mut piece: &[u8]) -> Result<Bytes, Malformed> {
        let mut out = Vec::with_capacity((self.count + piece.len()) / GROUP * 3);
        if self.count > 0 {
            let missing = (GROUP - self.count).min(piece.len());
            let (first, rest) = piece.split_at(missing);
            self.held[self.count..self.count + missing].copy_from_slice(first);
            self.count += missing;
            piece = rest;
            if self.count < GROUP {
                return Ok(Bytes::new());
            }
            self.count = 0;
            decode(&self.held, &mut out)?;
        }
        let (groups, rest) = piece.split_at(piece.len() / GROUP * GROUP);
        decode(groups, &mut out)?;
        self.held[..rest.len()].copy_from_slice(rest);
        self.count = rest.len();
        Ok(Bytes::from(out))
    }

    /// Whether the text may end here.
    pub const fn end(&self) -> Result<(), Malformed> {
        if self.count == 0 { Ok(()) } else { Err(Malformed) }
    }
}

/// Decodes whole groups; each that is padded ends a text, and another may follow.
fn decode(mut groups: &[u8], out: &mut Vec<u8>) -> Result<(), Malformed> {
    while !groups.is_empty() {
        let end = memchr::memchr(b'=', groups).map_or(groups.len(), |at| (at / GROUP + 1) * GROUP);
        let (text, rest) = groups.split_at(end);
        STANDARD.decode_vec(text, out).map_err(|_| Malformed)?;
        groups = rest;
    }
    Ok(())
}

/// Bytes → text.
#[derive(Debug, Default)]
pub(super) struct Encoder {
    held: [u8; 2],
    /// Invariant: two at most.
    count: usize,
}

impl Encoder {
    /// The text of `piece` and of what was kept before it. With `flush` nothing is kept: the last group is padded.
    pub fn push(&mut self, mut piece: &[u8], flush: bool) -> Bytes {
        let mut out = String::with_capacity((self.count + piece.len()).div_ceil(3) * GROUP);
        if self.count > 0 {
            let mut group = [0; 3];
            group[..self.count].copy_from_slice(&self.held[..self.count]);
            let missing = (3 - self.count).min(piece.len());
            let (first, rest) = piece.split_at(missing);
            let count = self.count + missing;
            group[self.count..count].copy_from_slice(first);
            piece = rest;
            if count < 3 && !flush {
                self.held[..count].copy_from_slice(&group[..count]);
                self.count = count;
                return Bytes::new();
            }
            self.count = 0;
            STANDARD.encode_string(&group[..count], &mut out);
        }
        let kept = if flush { 0 } else { piece.len() % 3 };
        let (whole, rest) = piece.split_at(piece.len() - kept);
        STANDARD.encode_string(whole, &mut out);
        self.held[..kept].copy_from_slice(rest);
        self.count = kept;
        Bytes::from(out)
    }
}
