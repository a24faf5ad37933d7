//! A CONNECT stream as a stream of bytes: half-close is END_STREAM, and dropping it unfinished is RST_STREAM.

use super::convert;
use bytes::{Buf, Bytes, BytesMut};
use h2::{Reason, RecvStream, SendStream};
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Bytes of one write at most, so that one stream does not hold the others up.
const WRITE: usize = 16 * FRAME;
/// Bytes of a full frame: with its head it fills a TLS record exactly.
const FRAME: usize = 16 * 1024 - 9;

/// Both directions of one stream.
pub struct Tunnel {
    send: SendStream<Bytes>,
    recv: RecvStream,
    /// Received, its credit not yet returned.
    held: Bytes,
    read_ended: bool,
    write_ended: bool,
}

impl Tunnel {
    pub(super) const fn new(send: SendStream<Bytes>, recv: RecvStream) -> Self {
        Self { send, recv, held: Bytes::new(), read_ended: false, write_ended: false }
    }

    /// The next bytes, at most `most`, as they were received; empty at the end. Their credit is returned.
    pub(in crate::codec) fn poll_bytes(&mut self, cx: &mut Context<'_>, most: usize) -> Poll<io::Result<Bytes>> {
        while self.held.is_empty() {
            if self.read_ended {
                return Poll::Ready(Ok(Bytes::new()));
            }
            match ready!(self.recv.poll_data(cx)) {
                Some(Ok(data)) => self.held = data,
                Some(Err(error)) if error.reason() == Some(Reason::NO_ERROR) => self.read_ended = true,
                Some(Err(error)) => return Poll::Ready(Err(convert::io_error(error))),
                None => self.read_ended = true,
            }
        }
        let data = if self.held.len() <= most { std::mem::take(&mut self.held) } else { self.held.split_to(most) };
        // A stream that was reset meanwhile has no window to return credit to.
        let _ = self.recv.flow_control().release_capacity(data.len());
        Poll::Ready(Ok(data))
    }

    /// How many of `wanted` bytes may be sent now.
    fn poll_capacity(&mut self, cx: &mut Context<'_>, wanted: usize) -> Poll<io::Result<usize>> {
        if self.write_ended {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        super::stream::poll_capacity(&mut self.send, cx, wanted.min(WRITE)).map_err(convert::io_error)
    }

    /// Sends some of `data` as it is.
    pub(in crate::codec) fn poll_write_bytes(&mut self, cx: &mut Context<'_>, data: &Bytes) -> Poll<io::Result<usize>> {
        if data.is_empty() {
            return Poll::Ready(Ok(0));
        }
        let count = ready!(self.poll_capacity(cx, data.len()))?;
        Poll::Ready(self.send(data.slice(..count)))
    }

    fn send(&mut self, mut data: Bytes) -> io::Result<usize> {
        let count = data.len();
        while !data.is_empty() {
            let frame = data.split_to(data.len().min(FRAME));
            self.send.send_data(frame, false).map_err(convert::io_error)?;
        }
        Ok(count)
    }
}

impl AsyncRead for Tunnel {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let mut data = ready!(self.get_mut().poll_bytes(cx, buffer.remaining()))?;
        buffer.put_slice(&data);
        data.advance(data.len());
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Tunnel {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        if data.is_empty() {
            return Poll::Ready(Ok(0));
        }
        let this = self.get_mut();
        let count = ready!(this.poll_capacity(cx, data.len()))?;
        Poll::Ready(this.send(Bytes::copy_from_slice(&data[..count])))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let total: usize = slices.iter().map(|slice| slice.len()).sum();
        if total == 0 {
            return Poll::Ready(Ok(0));
        }
        let this = self.get_mut();
        let count = ready!(this.poll_capacity(cx, total))?;
        // One frame for head and body rather than one each.
        let mut joined = BytesMut::with_capacity(count);
        for slice in slices {
            let room = count - joined.len();
            joined.extend_from_slice(&slice[..slice.len().min(room)]);
        }
        Poll::Ready(this.send(joined.freeze()))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        // The connection's own task writes at the end of its poll.
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if !std::mem::replace(&mut this.write_ended, true) {
            this.send.send_data(Bytes::new(), true).map_err(convert::io_error)?;
        }
        Poll::Ready(Ok(()))
    }
}

impl Drop for Tunnel {
    fn drop(&mut self) {
        // After an orderly END_STREAM the crate itself resets what the peer still sends, behind the data that is queued; a reset of
        // ours would overtake and discard it.
        if !self.write_ended {
            self.send.send_reset(Reason::CANCEL);
        }
    }
}
