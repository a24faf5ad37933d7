//! Frames: where the messages of a body end, and the one that trailers travel in. Pure; no I/O.
//!
//! A frame is a byte of flags, its length in four bytes (big-endian), and that many bytes (gRPC over HTTP/2, "Length-Prefixed-Message").
//! Lengths are believed: nothing is allocated by them.

use crate::codec::{Headers, is_hop_by_hop};
use bytes::Bytes;

/// Flags and length.
const HEAD: usize = 5;
/// PROTOCOL-WEB, "Message framing": the most significant bit of the flags says that the frame holds trailers.
const TRAILERS: u8 = 0x80;

/// Where a body stands among its messages.
#[derive(Debug, Default)]
pub(super) struct Boundary {
    head: [u8; HEAD],
    /// Bytes of the current message's head that have passed.
    seen: usize,
    /// Bytes of the current message that are still to come.
    left: usize,
}

impl Boundary {
    /// Lets a piece of the body pass; whether it ends where a message does.
    pub fn pass(&mut self, mut piece: &[u8]) -> bool {
        while !piece.is_empty() {
            let inside = self.left.min(piece.len());
            self.left -= inside;
            piece = &piece[inside..];
            let (first, rest) = piece.split_at(piece.len().min(HEAD - self.seen));
            self.head[self.seen..self.seen + first.len()].copy_from_slice(first);
            self.seen += first.len();
            piece = rest;
            if self.seen == HEAD {
                let [_, length @ ..] = self.head;
                self.left = u32::from_be_bytes(length) as usize;
                self.seen = 0;
            }
        }
        self.is_between()
    }

    pub const fn is_between(&self) -> bool {
        self.seen == 0 && self.left == 0
    }
}

/// The frame of trailers: lines as in HTTP/1, names in lower case, without the empty line at their end.
pub(super) fn trailers(trailers: &Headers) -> Bytes {
    let mut frame = vec![TRAILERS, 0, 0, 0, 0];
    for field in trailers.iter().filter(|field| !is_hop_by_hop(field.name)) {
        // Neither can hold a line's end: the codec reads no such field.
        frame.extend_from_slice(field.name.as_str().as_bytes());
        frame.extend_from_slice(b": ");
        frame.extend_from_slice(field.value.as_bytes());
        frame.extend_from_slice(b"\r\n");
    }
    // A section of trailers is bounded far below 4 GiB.
    let length = u32::try_from(frame.len() - HEAD).unwrap_or(u32::MAX);
    frame[1..HEAD].copy_from_slice(&length.to_be_bytes());
    Bytes::from(frame)
}
