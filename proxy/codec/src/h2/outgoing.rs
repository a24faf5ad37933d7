//! What waits to be written on a connection: everything of one turn leaves in one write.
//!
//! Heads and short payloads are gathered in one buffer, which is lent while there is something in it; long payloads stay where they are and
//! are written, or encrypted, between its parts. Under TLS the records of one turn are full but for the last one.

use super::frame::{FULL, Head, kind};
use crate::{Io, spare};
use bytes::{Buf, Bytes};
use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tokio::io::AsyncWrite;

/// Payloads up to this size are copied.
const COPY: usize = 2 * 1024;
/// Pieces of one write.
const SLICES: usize = 64;
/// Pieces that a connection keeps room for between two writes.
const KEPT: usize = 8;
/// Bytes from which on streams wait. A stream that has sent nothing in this turn may go on to twice as many.
pub(super) const HIGH: usize = spare::BROAD;

/// Bytes in the order in which they leave.
#[derive(Default)]
pub(super) struct Outgoing {
    /// Invariant: holds no allocation while nothing waits.
    bytes: Vec<u8>,
    /// Payloads, and where in `bytes` they belong.
    pieces: VecDeque<(usize, Bytes)>,
    /// Bytes of `pieces`.
    length: usize,
    /// How much of `bytes` is written.
    written: usize,
    /// The stream took bytes and may hold them back (TLS).
    unflushed: bool,
}

impl Outgoing {
    /// Bytes that wait.
    pub(super) fn waiting(&self) -> usize {
        self.bytes.len() - self.written + self.length
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiting() == 0 && !self.unflushed
    }

    /// Where to append what is short.
    pub(super) fn bytes(&mut self) -> &mut Vec<u8> {
        if self.bytes.capacity() == 0 {
            self.bytes = spare::borrow();
        }
        &mut self.bytes
    }

    /// Appends DATA frames with all of `data`, the last one with `flags`. `room` is the peer's largest frame. Returns how many there are.
    pub(super) fn data(&mut self, stream: u32, mut data: Bytes, flags: u8, room: usize) -> usize {
        let most = room.min(FULL);
        let mut frames = 0;
        loop {
            let piece = data.split_to(data.len().min(most));
            let flags = if data.is_empty() { flags } else { 0 };
            let head = Head::bytes(piece.len(), kind::DATA, flags, stream);
            let bytes = self.bytes();
            bytes.extend_from_slice(&head);
            if piece.len() <= COPY {
                bytes.extend_from_slice(&piece);
            } else {
                let at = bytes.len();
                self.length += piece.len();
                self.pieces.push_back((at, piece));
            }
            frames += 1;
            if data.is_empty() {
                return frames;
            }
        }
    }

    /// Appends DATA frames with the first `count` bytes of `slices`, which are copied.
    pub(super) fn copy(&mut self, stream: u32, slices: &[IoSlice<'_>], mut count: usize, room: usize) {
        let most = room.min(FULL);
        let mut left = 0;
        let bytes = self.bytes();
        for slice in slices {
            let mut slice = &slice[..slice.len().min(count)];
            while !slice.is_empty() {
                if left == 0 {
                    left = count.min(most);
                    bytes.extend_from_slice(&Head::bytes(left, kind::DATA, 0, stream));
                }
                let (piece, rest) = slice.split_at(slice.len().min(left));
                bytes.extend_from_slice(piece);
                left -= piece.len();
                count -= piece.len();
                slice = rest;
            }
        }
    }

    /// Writes as much as the stream takes; pending while something is left.
    pub(super) fn poll_flush(&mut self, cx: &mut Context<'_>, io: &mut Io) -> Poll<io::Result<()>> {
        let flushed = self.poll_all(cx, io);
        self.compact();
        flushed
    }

    fn poll_all(&mut self, cx: &mut Context<'_>, io: &mut Io) -> Poll<io::Result<()>> {
        if io.is_tls() {
            // What was encrypted leaves first, so that no more is kept than one turn's.
            ready!(self.poll_send(cx, io))?;
            while self.waiting() > 0 {
                let (slices, count) = self.slices();
                let taken = match io.encrypt(&slices[..count]) {
                    Some(result) => result?,
                    None => 0,
                };
                self.advance(taken)?;
                self.unflushed = true;
            }
        }
        while self.waiting() > 0 {
            let (slices, count) = self.slices();
            let taken = match count {
                1 => ready!(Pin::new(&mut *io).poll_write(cx, &slices[0]))?,
                _ => ready!(Pin::new(&mut *io).poll_write_vectored(cx, &slices[..count]))?,
            };
            self.advance(taken)?;
            self.unflushed = true;
        }
        self.poll_send(cx, io)
    }

    /// Sends what the stream itself holds back.
    fn poll_send(&mut self, cx: &mut Context<'_>, io: &mut Io) -> Poll<io::Result<()>> {
        if self.unflushed {
            ready!(Pin::new(io).poll_flush(cx))?;
            self.unflushed = false;
        }
        Poll::Ready(Ok(()))
    }

    /// The first parts of what waits.
    fn slices(&self) -> ([IoSlice<'_>; SLICES], usize) {
        let mut slices = [IoSlice::new(&[]); SLICES];
        let (mut at, mut count) = (self.written, 0);
        for (place, piece) in &self.pieces {
            for part in [&self.bytes[at..*place], &piece[..]] {
                if !part.is_empty() && count < SLICES {
                    slices[count] = IoSlice::new(part);
                    count += 1;
                }
            }
            at = *place;
            if count == SLICES {
                return (slices, count);
            }
        }
        if at < self.bytes.len() && count < SLICES {
            slices[count] = IoSlice::new(&self.bytes[at..]);
            count += 1;
        }
        (slices, count)
    }

    fn advance(&mut self, mut count: usize) -> io::Result<()> {
        if count == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        while let Some((place, piece)) = self.pieces.front_mut() {
            let before = count.min(*place - self.written);
            self.written += before;
            count -= before;
            let taken = count.min(piece.len());
            if self.written == *place {
                piece.advance(taken);
                self.length -= taken;
                count -= taken;
            }
            if self.written < *place || !piece.is_empty() {
                return Ok(());
            }
            self.pieces.pop_front();
        }
        self.written += count;
        if self.written >= self.bytes.len() {
            self.written = 0;
            spare::give_back(std::mem::take(&mut self.bytes));
            if self.pieces.capacity() > KEPT {
                self.pieces = VecDeque::new();
            }
        }
        Ok(())
    }

    /// Forgets what is written, so that a peer that reads slowly but steadily does not make the buffer grow.
    fn compact(&mut self) {
        if self.written >= spare::WIDE {
            self.bytes.drain(..self.written);
            for (place, _) in &mut self.pieces {
                *place -= self.written;
            }
            self.written = 0;
        }
    }

    #[cfg(test)]
    pub(super) fn take(&mut self) -> Vec<u8> {
        let mut all = Vec::new();
        while self.waiting() > 0 {
            let (slices, count) = self.slices();
            let some: Vec<u8> = slices[..count].iter().flat_map(|slice| slice.to_vec()).collect();
            self.advance(some.len()).expect("something");
            all.extend(some);
        }
        all
    }
}
