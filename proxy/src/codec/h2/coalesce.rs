//! Fewer, larger writes under an HTTP/2 connection: what the connection writes and "flushes" during one poll is gathered, and leaves
//! in one write at the end of that poll.
//!
//! The `h2` crate flushes about once per frame. [`Coalesce`] is what it writes to; [`Flusher`], held by whoever polls the connection,
//! does the writing afterwards. Under TLS, what fills records is encrypted where it lies, and only the rest is gathered. Nothing here
//! knows frames.

use crate::codec::{Io, spare};
use parking_lot::Mutex;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// What a TLS record holds.
const RECORD: usize = 16 * 1024;
/// Pieces that are encrypted together: what waits, the head of a frame and its data, and some more.
const SLICES: usize = 8;

struct Shared {
    io: Io,
    /// Invariant: holds no allocation after a flush. Under TLS it is less than a record.
    waiting: Vec<u8>,
    /// Bytes that were handed to the stream since its last flush, and may wait in the TLS session.
    encrypted: usize,
    written: usize,
    unflushed: bool,
    /// Reads that brought bytes: a sign of life of the peer.
    reads: u64,
}

impl Shared {
    fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.encrypted >= spare::BROAD {
            ready!(self.poll_send(cx))?;
        }
        while self.written < self.waiting.len() {
            let count = ready!(Pin::new(&mut self.io).poll_write(cx, &self.waiting[self.written..]))?;
            if count == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.written += count;
            self.encrypted += count;
            self.unflushed = true;
        }
        if self.waiting.capacity() > 0 {
            self.written = 0;
            spare::give_back(std::mem::take(&mut self.waiting));
        }
        self.poll_send(cx)
    }

    /// Sends what the stream itself holds back.
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.unflushed {
            ready!(Pin::new(&mut self.io).poll_flush(cx))?;
            self.unflushed = false;
            self.encrypted = 0;
        }
        Poll::Ready(Ok(()))
    }

    /// Takes some of `slices`.
    fn poll_gather(&mut self, cx: &mut Context<'_>, slices: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let slices = &slices[..slices.len().min(SLICES - 1)];
        let total: usize = slices.iter().map(|slice| slice.len()).sum();
        if self.io.is_tls() && self.waiting.len() + total >= RECORD {
            // A flush that was begun ends before anything else is written.
            if self.encrypted >= spare::BROAD || self.written > 0 {
                ready!(self.poll_drain(cx))?;
            }
            if self.waiting.len() + total >= RECORD {
                return Poll::Ready(self.encrypt(slices));
            }
        }
        let room = ready!(self.poll_room(cx))?;
        let mut count = 0;
        for slice in slices {
            let taken = (room - count).min(slice.len());
            self.waiting.extend_from_slice(&slice[..taken]);
            count += taken;
        }
        Poll::Ready(Ok(count))
    }

    /// Encrypts as many whole records as there are in what waits and `slices`.
    fn encrypt(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        let all = self.waiting.len() + slices.iter().map(|slice| slice.len()).sum::<usize>();
        let whole = all - all % RECORD;
        let mut left = whole;
        let mut records = [IoSlice::new(&[]); SLICES];
        let mut count = 0;
        for slice in std::iter::once(&self.waiting[..]).chain(slices.iter().map(|slice| &**slice)) {
            let taken = left.min(slice.len());
            if let Some(record) = records.get_mut(count).filter(|_| taken > 0) {
                *record = IoSlice::new(&slice[..taken]);
                left -= taken;
                count += 1;
            }
        }
        let written = match self.io.encrypt(&records[..count]) {
            Some(result) => result?,
            None => 0,
        };
        if written < whole {
            return Err(io::ErrorKind::WriteZero.into());
        }
        self.encrypted += written;
        self.unflushed = true;
        // Less than a record waited, so all of it is in the first.
        let taken = written - self.waiting.len();
        self.waiting.clear();
        Ok(taken)
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
    let shared = Shared { io, waiting: Vec::new(), encrypted: 0, written: 0, unflushed: false, reads: 0 };
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
        self.0.lock().poll_gather(cx, &[IoSlice::new(data)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.0.lock().poll_gather(cx, slices)
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
    use crate::endpoint::tls_io;
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

    /// Both ends of a TLS connection.
    async fn encrypted() -> (Io, Io) {
        use std::time::{Duration, SystemTime};
        use weft_certs::tls::{ClientAuth, ClientConfigs, server_config, unnamed};
        use weft_certs::{Identity, LiveIdentity, MeshCa, SpiffeId, TrustDomain};
        let ca = MeshCa::ephemeral(&TrustDomain::new("weft.local").unwrap(), SystemTime::now()).unwrap();
        let id = SpiffeId::workload(ca.trust_domain(), "shop", "catalog").unwrap();
        let svid = ca.issue(&id, None, SystemTime::now()).unwrap();
        let live = LiveIdentity::new(Identity::new(svid, ca.bundle().clone()));
        let server = server_config(&live, ClientAuth::Required, &[b"h2"]).unwrap();
        let client = ClientConfigs::new(live).to_peer(&id, &[b"h2"]).unwrap();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let far = tokio::net::TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let near = Io::from(listener.accept().await.unwrap().0);
        let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
        let (near, far) = tokio::join!(tls_io::accept(near, server, deadline), tls_io::connect(far, client, unnamed()));
        (near.unwrap().0, far.unwrap().0)
    }

    #[tokio::test]
    async fn under_tls_whole_records_are_encrypted_at_once_and_the_rest_follows_in_order() {
        let (near, mut far) = encrypted().await;
        let (mut gathered, flusher) = coalesce(near);
        // Frames as h2 writes them: a head and its data, and small ones in between.
        let data: Vec<u8> = (0..RECORD).map(|n| (n % 251) as u8).collect();
        let mut sent = Vec::new();
        for length in [RECORD - 9, 0, 40, RECORD, RECORD - 9, 5 * RECORD / 2, 1, RECORD - 1] {
            let body = data.iter().cycle().take(length).copied().collect::<Vec<u8>>();
            let head = [length as u8; 9];
            let (mut at, whole) = (0, [&head[..], &body[..]].concat());
            while at < whole.len() {
                let (first, second) = whole[at..].split_at((whole.len() - at).min(9));
                let slices = [IoSlice::new(first), IoSlice::new(second)];
                at += poll_fn(|cx| Pin::new(&mut gathered).poll_write_vectored(cx, &slices)).await.expect("taken");
            }
            sent.extend_from_slice(&whole);
            assert!(flusher.0.lock().waiting.len() < RECORD, "less than a record waits");
        }
        let mut arrived = vec![0; sent.len()];
        assert!(futures_util::poll!(std::pin::pin!(far.read(&mut arrived))).is_pending(), "nothing has left yet");
        poll_fn(|cx| flusher.poll_flush(cx)).await.expect("flushed");
        far.read_exact(&mut arrived).await.expect("read");
        assert!(arrived == sent, "in order");
        assert_eq!(flusher.0.lock().waiting.capacity(), 0);
    }

    #[tokio::test]
    async fn under_tls_a_peer_that_does_not_read_pushes_back() {
        let (near, _far) = encrypted().await;
        let (mut gathered, flusher) = coalesce(near);
        let data = vec![7; 10_000];
        let mut taken = 0;
        // Socket buffers take some megabytes; what is held here stays within one flush.
        while let Poll::Ready(count) = futures_util::poll!(std::pin::pin!(gathered.write(&data))) {
            taken += count.expect("open");
            let _ = futures_util::poll!(std::pin::pin!(poll_fn(|cx| flusher.poll_flush(cx))));
            assert!(taken < 64 << 20, "somebody pushes back");
        }
        let shared = flusher.0.lock();
        assert!(shared.waiting.len() < RECORD && shared.encrypted <= spare::BROAD + 2 * RECORD);
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
