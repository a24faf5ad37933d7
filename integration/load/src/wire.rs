//! Wide reads and gathered writes under an HTTP/2 connection: what the connection writes while it is polled leaves in one write at the
//! end of that poll, and what arrives is taken in 32 KiB gulps. The `h2` crate alone makes about one system call for each frame.

use std::cell::RefCell;
use std::future::{Future, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Bytes gathered before they are written within a poll.
const GATHER: usize = 64 * 1024;
const GULP: usize = 32 * 1024;

struct Inner<S> {
    io: S,
    out: Vec<u8>,
    written: usize,
    input: Vec<u8>,
    /// Invariant: `taken <= filled <= input.len()`.
    taken: usize,
    filled: usize,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Inner<S> {
    fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.written < self.out.len() {
            let count = ready!(Pin::new(&mut self.io).poll_write(cx, &self.out[self.written..]))?;
            if count == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.written += count;
        }
        if !self.out.is_empty() {
            self.out.clear();
            self.written = 0;
            return Pin::new(&mut self.io).poll_flush(cx);
        }
        Poll::Ready(Ok(()))
    }
}

/// The connection's side.
pub struct Wire<S>(Rc<RefCell<Inner<S>>>);

/// Writes what the connection left.
pub struct Flusher<S>(Rc<RefCell<Inner<S>>>);

/// Both sides of `io`.
pub fn wire<S>(io: S) -> (Wire<S>, Flusher<S>) {
    let inner = Inner { io, out: Vec::new(), written: 0, input: vec![0; GULP], taken: 0, filled: 0 };
    let inner = Rc::new(RefCell::new(inner));
    (Wire(inner.clone()), Flusher(inner))
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Wire<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let mut inner = self.0.borrow_mut();
        let inner = &mut *inner;
        if inner.taken == inner.filled {
            let mut gulp = ReadBuf::new(&mut inner.input);
            ready!(Pin::new(&mut inner.io).poll_read(cx, &mut gulp))?;
            (inner.taken, inner.filled) = (0, gulp.filled().len());
        }
        let count = buf.remaining().min(inner.filled - inner.taken);
        buf.put_slice(&inner.input[inner.taken..inner.taken + count]);
        inner.taken += count;
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Wire<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        let mut inner = self.0.borrow_mut();
        if inner.out.len() >= GATHER {
            ready!(inner.poll_drain(cx))?;
        }
        let count = data.len().min(GATHER - inner.out.len());
        inner.out.extend_from_slice(&data[..count]);
        Poll::Ready(Ok(count))
    }

    /// Left to the [`Flusher`].
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut inner = self.0.borrow_mut();
        ready!(inner.poll_drain(cx))?;
        Pin::new(&mut inner.io).poll_shutdown(cx)
    }
}

/// Drives a connection that lives on a [`Wire`], and writes after each poll what it left. Ends with the connection, or when its writes
/// fail.
pub async fn drive<S: AsyncRead + AsyncWrite + Unpin>(connection: impl Future<Output = ()>, flusher: Flusher<S>) {
    let mut connection = pin!(connection);
    let mut over = false;
    poll_fn(|cx| {
        if !over {
            over = connection.as_mut().poll(cx).is_ready();
        }
        match flusher.0.borrow_mut().poll_drain(cx) {
            Poll::Ready(Err(_)) => Poll::Ready(()),
            Poll::Ready(Ok(())) if over => Poll::Ready(()),
            _ => Poll::Pending,
        }
    })
    .await;
}
