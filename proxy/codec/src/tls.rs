//! A socket under TLS: the wide reads underneath.
//!
//! rustls asks for about 4 KiB at a time; a socket that is read 64 KiB or more at a time costs a fraction of the system calls. The buffer
//! is borrowed from the thread while there is something in it, so an idle connection holds none. Handshakes are the business of whoever
//! accepts and dials.

use crate::spare;
use bytes::Buf;
use std::future::Future;
use std::io::{self, IoSlice};
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// The accepting side of a TLS connection.
pub type ServerTls = tokio_rustls::server::TlsStream<Wide>;
/// The connecting side of a TLS connection.
pub type ClientTls = tokio_rustls::client::TlsStream<Wide>;

/// A TCP socket that is read 64 KiB at a time, and 240 KiB when those are full.
#[derive(Debug)]
pub struct Wide {
    tcp: TcpStream,
    /// Bytes that were read (or put back) and not yet asked for.
    held: Held,
}

#[derive(Debug, Default)]
struct Held {
    buffer: Vec<u8>,
    at: usize,
    /// The last read filled its buffer: there is much to come.
    full: bool,
}

impl Held {
    fn remaining(&self) -> &[u8] {
        self.buffer.get(self.at..).unwrap_or_default()
    }

    fn consume(&mut self, count: usize) {
        self.at += count;
        if self.at >= self.buffer.len() {
            self.release();
        }
    }

    fn release(&mut self) {
        self.at = 0;
        spare::give_back(std::mem::take(&mut self.buffer));
    }
}

impl Wide {
    /// Wraps a socket; `prefix` was read from it already.
    #[must_use]
    pub fn new(tcp: TcpStream, prefix: &[u8]) -> Self {
        Self { tcp, held: Held { buffer: prefix.to_vec(), at: 0, full: false } }
    }

    /// The socket.
    #[must_use]
    pub const fn get_ref(&self) -> &TcpStream {
        &self.tcp
    }
}

impl AsyncRead for Wide {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.held.remaining().is_empty() {
            ready!(this.tcp.poll_read_ready(cx))?;
            if out.remaining() >= spare::WIDE {
                return Pin::new(&mut this.tcp).poll_read(cx, out);
            }
            this.held.buffer = if this.held.full { spare::borrow_broad() } else { spare::borrow() };
            let read = pin!(this.tcp.read_buf(&mut this.held.buffer)).poll(cx);
            match read {
                Poll::Ready(Ok(count)) if count > 0 => this.held.full = count >= spare::WIDE,
                other => {
                    this.held.release();
                    return other.map_ok(|_| ());
                }
            }
        }
        let mut remaining = this.held.remaining();
        let count = remaining.len().min(out.remaining());
        out.put_slice(&remaining[..count]);
        remaining.advance(count);
        this.held.consume(count);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Wide {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().tcp).poll_write(cx, data)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().tcp).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.tcp.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().tcp).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().tcp).poll_shutdown(cx)
    }
}
