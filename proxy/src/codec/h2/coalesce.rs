//! Fewer, larger writes under an HTTP/2 connection: what the connection writes and "flushes" during one poll is gathered, and leaves
//! in one write at the end of that poll.
//!
//! The `h2` crate flushes about once per frame. [`Coalesce`] is what it writes to; [`Flusher`], held by whoever polls the connection,
//! does the writing afterwards. Nothing here knows frames.

use crate::codec::{Io, spare};
use parking_lot::Mutex;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

struct Shared {
    io: Io,
    /// Invariant: holds no allocation when it is empty.
    waiting: Vec<u8>,
    written: usize,
    unflushed: bool,
    /// Reads that brought bytes: a sign of life of the peer.
    reads: u64,
}

impl Shared {
    fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.written < self.waiting.len() {
            let count = ready!(Pin::new(&mut self.io).poll_write(cx, &self.waiting[self.written..]))?;
            if count == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.written += count;
            self.unflushed = true;
        }
        if !self.waiting.is_empty() {
            self.written = 0;
            spare::give_back(std::mem::take(&mut self.waiting));
        }
        if self.unflushed {
            ready!(Pin::new(&mut self.io).poll_flush(cx))?;
            self.unflushed = false;
        }
        Poll::Ready(Ok(()))
    }

    /// Ready when there is room for at least one more byte.
    fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if self.waiting.len() >= spare::WIDE {
            ready!(self.poll_drain(cx))?;
        }
        if self.waiting.capacity() == 0 {
            self.waiting = spare::borrow();
        }
        Poll::Ready(Ok(spare::WIDE - self.waiting.len()))
    }
}

/// The stream as the HTTP/2 connection sees it.
pub(super) struct Coalesce(Arc<Mutex<Shared>>);

/// Writes what was gathered.
pub(super) struct Flusher(Arc<Mutex<Shared>>);

/// Wraps `io`.
pub(super) fn coalesce(io: Io) -> (Coalesce, Flusher) {
    let shared = Shared { io, waiting: Vec::new(), written: 0, unflushed: false, reads: 0 };
    let shared = Arc::new(Mutex::new(shared));
    (Coalesce(shared.clone()), Flusher(shared))
}

impl Flusher {
    /// Writes as much as the stream takes; pending while something is left.
    pub(super) fn poll_flush(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.lock().poll_drain(cx)
    }

    /// How many reads have brought bytes so far.
    pub(super) fn reads(&self) -> u64 {
        self.0.lock().reads
    }
}

impl AsyncRead for Coalesce {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let mut shared = self.0.lock();
        let before = buffer.filled().len();
        ready!(Pin::new(&mut shared.io).poll_read(cx, buffer))?;
        if buffer.filled().len() > before {
            shared.reads += 1;
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Coalesce {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        let mut shared = self.0.lock();
        let room = ready!(shared.poll_room(cx))?;
        let count = room.min(data.len());
        shared.waiting.extend_from_slice(&data[..count]);
        Poll::Ready(Ok(count))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let mut shared = self.0.lock();
        let room = ready!(shared.poll_room(cx))?;
        let mut count = 0;
        for slice in slices {
            let taken = (room - count).min(slice.len());
            shared.waiting.extend_from_slice(&slice[..taken]);
            count += taken;
        }
        Poll::Ready(Ok(count))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    /// Nothing: see [`Flusher::poll_flush`].
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut shared = self.0.lock();
        ready!(shared.poll_drain(cx))?;
        Pin::new(&mut shared.io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::poll_fn;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    #[tokio::test]
    async fn bytes_leave_when_the_poll_is_over_and_the_buffer_goes_back() {
        let (mut far, near) = tokio::io::duplex(1 << 20);
        let (mut gathered, flusher) = coalesce(Io::other(near));
        for piece in [&b"one "[..], b"two ", b"three"] {
            gathered.write_all(piece).await.expect("gathered");
            gathered.flush().await.expect("deferred");
        }
        let mut buffer = vec![0; 64];
        assert!(futures_util::poll!(std::pin::pin!(far.read(&mut buffer))).is_pending(), "nothing has left yet");
        poll_fn(|cx| flusher.poll_flush(cx)).await.expect("flushed");
        let count = far.read(&mut buffer).await.expect("read");
        assert_eq!(&buffer[..count], b"one two three");
        assert_eq!(flusher.0.lock().waiting.capacity(), 0);
    }

    #[tokio::test]
    async fn a_full_buffer_pushes_back() {
        let (_far, near) = tokio::io::duplex(1024);
        let (mut gathered, _flusher) = coalesce(Io::other(near));
        let data = vec![7; 2 * spare::WIDE];
        let mut writing = std::pin::pin!(gathered.write_all(&data));
        assert!(futures_util::poll!(writing.as_mut()).is_pending());
    }
}
