//! One type for every way in which bytes come and go: a TCP socket, TLS over it, an HBONE stream, or anything else that reads and
//! writes; each possibly preceded by bytes that were read already.
//!
//! Half-close passes through all of them: `poll_shutdown` is a FIN, a `close_notify` followed by a FIN, or an END_STREAM. Who
//! dials or accepts is the business of whoever uses the codec.

use super::h2::Tunnel;
use super::spare;
use super::tls::{ClientTls, ServerTls};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use std::future::Future;
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// Anything that can be wrapped by [`Io::other`].
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// What a stream keeps alive: a permit, the connection around it.
pub trait Hold: Send + Sync {
    /// The stream is on its way out and must not be used for anything new.
    fn is_closing(&self) -> bool {
        false
    }
}

struct Both<T>(Box<dyn Hold>, T);

impl<T: Hold> Hold for Both<T> {
    fn is_closing(&self) -> bool {
        self.0.is_closing() || self.1.is_closing()
    }
}

/// A bidirectional stream of bytes.
pub struct Io {
    /// Read before anything else; see [`Io::with_prefix`].
    prefix: Bytes,
    kind: Kind,
    /// Dropped with the stream: permits of the connection that it is, or that it runs in.
    hold: Option<Box<dyn Hold>>,
}

enum Kind {
    Tcp(TcpStream),
    ServerTls(Box<ServerTls>),
    ClientTls(Box<ClientTls>),
    Tunnel(Box<Tunnel>),
    Other(Box<dyn Stream>),
}

macro_rules! each {
    ($self:expr, $io:ident => $call:expr) => {
        match &mut $self.kind {
            Kind::Tcp($io) => $call,
            Kind::ServerTls($io) => $call,
            Kind::ClientTls($io) => $call,
            Kind::Tunnel($io) => $call,
            Kind::Other($io) => $call,
        }
    };
}

impl Io {
    const fn of(kind: Kind) -> Self {
        Self { prefix: Bytes::new(), kind, hold: None }
    }

    /// Wraps a stream of another kind (a Unix socket, a pipe in memory).
    #[must_use]
    pub fn other(stream: impl Stream + 'static) -> Self {
        Self::of(Kind::Other(Box::new(stream)))
    }

    /// Puts bytes back that were read already; they are read again before anything else.
    #[must_use]
    pub fn with_prefix(mut self, prefix: Bytes) -> Self {
        if self.prefix.is_empty() {
            self.prefix = prefix;
        } else if !prefix.is_empty() {
            let mut joined = BytesMut::with_capacity(prefix.len() + self.prefix.len());
            joined.extend_from_slice(&prefix);
            joined.extend_from_slice(&self.prefix);
            self.prefix = joined.freeze();
        }
        self
    }

    /// Keeps `hold` until the stream is dropped.
    #[must_use]
    pub fn holding(mut self, hold: impl Hold + 'static) -> Self {
        self.hold = Some(match self.hold.take() {
            None => Box::new(hold),
            Some(before) => Box::new(Both(before, hold)),
        });
        self
    }

    /// The TCP socket, when these bytes are nothing but a TCP connection.
    #[must_use]
    pub const fn tcp(&self) -> Option<&TcpStream> {
        match &self.kind {
            Kind::Tcp(tcp) => Some(tcp),
            _ => None,
        }
    }

    /// The TCP socket under a TLS connection.
    #[must_use]
    pub fn secured(&self) -> Option<&TcpStream> {
        match &self.kind {
            Kind::ServerTls(tls) => Some(tls.get_ref().0.get_ref()),
            Kind::ClientTls(tls) => Some(tls.get_ref().0.get_ref()),
            Kind::Tcp(_) | Kind::Tunnel(_) | Kind::Other(_) => None,
        }
    }

    /// Takes a plain TCP connection apart: the socket, and the bytes that were put back.
    /// A stream that holds permits is not taken apart.
    pub fn into_tcp(self) -> Result<(TcpStream, Bytes), Self> {
        match self.kind {
            Kind::Tcp(tcp) if self.hold.is_none() => Ok((tcp, self.prefix)),
            kind => Err(Self { prefix: self.prefix, kind, hold: self.hold }),
        }
    }

    /// Is it a stream inside an HBONE connection? Its end of file and its reset can be told apart, and its bytes were encrypted.
    #[must_use]
    pub const fn is_tunnel(&self) -> bool {
        matches!(self.kind, Kind::Tunnel(_))
    }

    /// Breaks off so that the peer notices: RST, RST_STREAM, or TLS without `close_notify`.
    pub fn abort(self) {
        match self.kind {
            Kind::Tcp(tcp) => reset_on_close(&tcp),
            Kind::ServerTls(tls) => reset_on_close(tls.get_ref().0.get_ref()),
            Kind::ClientTls(tls) => reset_on_close(tls.get_ref().0.get_ref()),
            Kind::Tunnel(_) | Kind::Other(_) => {}
        }
    }

    /// Has the peer of an idle connection sent anything, closed or broken it? Such a connection must not be used again.
    pub fn is_stale(&mut self) -> bool {
        if !self.prefix.is_empty() || self.hold.as_ref().is_some_and(|hold| hold.is_closing()) {
            return true;
        }
        let mut byte = [0];
        let mut buffer = ReadBuf::new(&mut byte);
        let mut cx = Context::from_waker(Waker::noop());
        Pin::new(self).poll_read(&mut cx, &mut buffer).is_ready()
    }

    /// Asks the kernel whether a socket has ended or holds bytes that the reactor has not reported yet.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        let mut byte = [MaybeUninit::uninit()];
        match &self.kind {
            // The socket does not block, so an open and silent one says so at once.
            Kind::Tcp(tcp) => !matches!(
                socket2::SockRef::from(tcp).peek(&mut byte),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock
            ),
            _ => false,
        }
    }

    /// Appends what is there to `buffer`, at most `most` bytes: 0 at the end of file. The buffer is allocated once the socket is
    /// readable, so that an idle connection holds none.
    pub fn poll_fill(&mut self, cx: &mut Context<'_>, buffer: &mut BytesMut, most: usize) -> Poll<io::Result<usize>> {
        if !self.prefix.is_empty() {
            let taken = self.prefix.split_to(self.prefix.len().min(most));
            buffer.extend_from_slice(&taken);
            return Poll::Ready(Ok(taken.len()));
        }
        let short = buffer.is_empty() && most <= SHORT_READ;
        match &mut self.kind {
            Kind::Tcp(tcp) => {
                if short {
                    let (count, read) = spare::read_into(|room| {
                        let mut room = room.limit(most);
                        pin!(tcp.read_buf(&mut room)).poll(cx)
                    });
                    *buffer = read;
                    return count;
                }
                std::task::ready!(tcp.poll_read_ready(cx))?;
                buffer.reserve(most);
                pin!(tcp.read_buf(buffer)).poll(cx)
            }
            Kind::Tunnel(tunnel) => {
                let data = std::task::ready!(tunnel.poll_bytes(cx, most))?;
                let count = data.len();
                if buffer.is_empty() {
                    *buffer = data;
                } else {
                    buffer.extend_from_slice(&data);
                }
                Poll::Ready(Ok(count))
            }
            Kind::ServerTls(tls) => {
                buffer.reserve(most.min(TLS_READ));
                pin!(tls.read_buf(buffer)).poll(cx)
            }
            Kind::ClientTls(tls) => {
                buffer.reserve(most.min(TLS_READ));
                pin!(tls.read_buf(buffer)).poll(cx)
            }
            Kind::Other(other) => {
                buffer.reserve(most);
                pin!(other.read_buf(buffer)).poll(cx)
            }
        }
    }

    /// The next bytes, at most `most`, without a copy where the stream hands out buffers of its own; `None` at the end of file.
    pub fn poll_bytes(&mut self, cx: &mut Context<'_>, most: usize) -> Poll<io::Result<Option<Bytes>>> {
        if !self.prefix.is_empty() {
            return Poll::Ready(Ok(Some(self.prefix.split_to(self.prefix.len().min(most)))));
        }
        match &mut self.kind {
            Kind::Tunnel(tunnel) => {
                let data = std::task::ready!(tunnel.poll_bytes(cx, most))?;
                Poll::Ready(Ok((!data.is_empty()).then(|| data.freeze())))
            }
            Kind::Tcp(tcp) if most >= spare::WIDE => {
                std::task::ready!(tcp.poll_read_ready(cx))?;
                let mut buffer = if most >= spare::BROAD { spare::borrow_broad() } else { spare::borrow() };
                let read = pin!(tcp.read_buf(&mut buffer)).poll(cx);
                let bytes = spare::freeze(buffer);
                read.map_ok(|count| (count > 0).then_some(bytes))
            }
            _ => {
                let mut buffer = BytesMut::new();
                let count = std::task::ready!(self.poll_fill(cx, &mut buffer, most))?;
                Poll::Ready(Ok((count > 0).then(|| buffer.freeze())))
            }
        }
    }

    /// Writes some of `data`, without a copy where the stream takes buffers.
    pub fn poll_write_bytes(&mut self, cx: &mut Context<'_>, data: &Bytes) -> Poll<io::Result<usize>> {
        match &mut self.kind {
            Kind::Tunnel(tunnel) => tunnel.poll_write_bytes(cx, data),
            _ => Pin::new(self).poll_write(cx, data),
        }
    }

    /// Encrypts `slices` and keeps the records until [`flush`](AsyncWrite::poll_flush), however many there are; `None` where nothing is
    /// encrypted. Whoever calls bounds what is kept. Records are full but for the last one.
    pub fn encrypt(&mut self, slices: &[IoSlice<'_>]) -> Option<io::Result<usize>> {
        use std::io::Write as _;
        match &mut self.kind {
            Kind::ServerTls(tls) => {
                let session = tls.get_mut().1;
                session.set_buffer_limit(None);
                Some(session.writer().write_vectored(slices))
            }
            Kind::ClientTls(tls) => {
                let session = tls.get_mut().1;
                session.set_buffer_limit(None);
                Some(session.writer().write_vectored(slices))
            }
            Kind::Tcp(_) | Kind::Tunnel(_) | Kind::Other(_) => None,
        }
    }

    /// Is it a TLS connection, which [`Io::encrypt`] is for?
    #[must_use]
    pub const fn is_tls(&self) -> bool {
        matches!(self.kind, Kind::ServerTls(_) | Kind::ClientTls(_))
    }

    /// Does it hand out and take buffers, rather than copy bytes into and out of them?
    #[must_use]
    pub const fn has_buffers(&self) -> bool {
        self.is_tunnel()
    }

    /// The TCP socket whose next bytes are those of this stream: nothing was put back.
    #[must_use]
    pub const fn spliceable(&self) -> Option<&TcpStream> {
        if self.prefix.is_empty() { self.tcp() } else { None }
    }
}

/// A read of a head or a short body, which shares its buffer with others.
const SHORT_READ: usize = 8 * 1024;
/// TLS hands out a record (16 KiB) at a time at most.
const TLS_READ: usize = 16 * 1024;

fn reset_on_close(tcp: &TcpStream) {
    // A socket that is gone already cannot be reset any more: nothing to report.
    let _ = socket2::SockRef::from(tcp).set_linger(Some(std::time::Duration::ZERO));
}

impl From<TcpStream> for Io {
    fn from(tcp: TcpStream) -> Self {
        Self::of(Kind::Tcp(tcp))
    }
}

impl From<ServerTls> for Io {
    fn from(tls: ServerTls) -> Self {
        Self::of(Kind::ServerTls(Box::new(tls)))
    }
}

impl From<ClientTls> for Io {
    fn from(tls: ClientTls) -> Self {
        Self::of(Kind::ClientTls(Box::new(tls)))
    }
}

impl From<Tunnel> for Io {
    fn from(tunnel: Tunnel) -> Self {
        Self::of(Kind::Tunnel(Box::new(tunnel)))
    }
}

impl AsyncRead for Io {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if !this.prefix.is_empty() {
            let count = this.prefix.len().min(buffer.remaining());
            buffer.put_slice(&this.prefix[..count]);
            this.prefix.advance(count);
            return Poll::Ready(Ok(()));
        }
        each!(this, io => Pin::new(io).poll_read(cx, buffer))
    }
}

impl AsyncWrite for Io {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        each!(self.get_mut(), io => Pin::new(io).poll_write(cx, data))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        each!(self.get_mut(), io => Pin::new(io).poll_write_vectored(cx, slices))
    }

    fn is_write_vectored(&self) -> bool {
        match &self.kind {
            Kind::Tcp(io) => io.is_write_vectored(),
            Kind::ServerTls(io) => io.is_write_vectored(),
            Kind::ClientTls(io) => io.is_write_vectored(),
            Kind::Tunnel(_) => true,
            Kind::Other(io) => io.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self.get_mut(), io => Pin::new(io).poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self.get_mut(), io => Pin::new(io).poll_shutdown(cx))
    }
}

impl std::fmt::Debug for Io {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let kind = match &self.kind {
            Kind::Tcp(_) => "tcp",
            Kind::ServerTls(_) => "tls (server)",
            Kind::ClientTls(_) => "tls (client)",
            Kind::Tunnel(_) => "tunnel",
            Kind::Other(_) => "other",
        };
        write!(f, "Io({kind}, {} bytes put back)", self.prefix.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncWriteExt;

    #[tokio::test]
    async fn what_was_put_back_is_read_first_and_in_order() {
        let (mut far, near) = tokio::io::duplex(64);
        far.write_all(b"three").await.expect("written");
        let mut io = Io::other(near).with_prefix(Bytes::from_static(b"two ")).with_prefix(Bytes::from_static(b"one "));
        assert!(io.is_stale(), "bytes are waiting");
        let mut text = vec![0; 13];
        io.read_exact(&mut text).await.expect("read");
        assert_eq!(text, b"one two three");
        assert!(!io.is_stale(), "open and silent");
        drop(far);
        assert!(io.is_stale(), "closed");
    }
}
