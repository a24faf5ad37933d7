//! A CONNECT stream as a stream of bytes: half-close is END_STREAM, and dropping it unfinished is RST_STREAM.

use super::fault::Fault;
use super::frame::Code;
use super::handle::{Handle, Piece};
use bytes::{Buf, Bytes, BytesMut};
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Both directions of one stream.
pub struct Tunnel {
    send: Handle,
    recv: Handle,
    /// Received, and not yet asked for.
    held: BytesMut,
    read_ended: bool,
    write_ended: bool,
}

impl Tunnel {
    pub(super) fn new(send: Handle, recv: Handle) -> Self {
        Self { send, recv, held: BytesMut::new(), read_ended: false, write_ended: false }
    }

    /// The next bytes, at most `most`, as they were received; empty at the end. Their credit is returned.
    pub(crate) fn poll_bytes(&mut self, cx: &mut Context<'_>, most: usize) -> Poll<io::Result<BytesMut>> {
        while self.held.is_empty() {
            if self.read_ended {
                return Poll::Ready(Ok(BytesMut::new()));
            }
            match ready!(self.recv.poll_piece(cx)) {
                Ok(Piece::Data(data, _)) => self.held = data,
                Ok(Piece::Trailers(_) | Piece::End) => self.read_ended = true,
                Err(fault) if fault.wants_no_more() => self.read_ended = true,
                Err(fault) => return Poll::Ready(Err(fault.of_bytes())),
            }
        }
        let whole = self.held.len() <= most;
        Poll::Ready(Ok(if whole { std::mem::take(&mut self.held) } else { self.held.split_to(most) }))
    }

    /// Sends some of `data` as it is.
    pub(crate) fn poll_write_bytes(&mut self, cx: &mut Context<'_>, data: &Bytes) -> Poll<io::Result<usize>> {
        if self.write_ended {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        if data.is_empty() {
            return Poll::Ready(Ok(0));
        }
        self.send.poll_send_some(cx, data).map_err(Fault::of_bytes)
    }

    fn poll_copy(&mut self, cx: &mut Context<'_>, slices: &[IoSlice<'_>], total: usize) -> Poll<io::Result<usize>> {
        if self.write_ended {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        if total == 0 {
            return Poll::Ready(Ok(0));
        }
        self.send.poll_copy(cx, slices, total).map_err(Fault::of_bytes)
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
        self.get_mut().poll_copy(cx, &[IoSlice::new(data)], data.len())
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        // One frame for head and body rather than one each.
        self.get_mut().poll_copy(cx, slices, slices.iter().map(|slice| slice.len()).sum())
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        // The connection's own task writes at the end of its turn.
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if !std::mem::replace(&mut this.write_ended, true) {
            this.send.finish().map_err(Fault::of_bytes)?;
        }
        Poll::Ready(Ok(()))
    }
}

impl Drop for Tunnel {
    fn drop(&mut self) {
        // After an orderly END_STREAM what the peer still sends is refused with the last handle.
        if !self.write_ended {
            self.send.reset(Code::CANCEL);
        }
    }
}
