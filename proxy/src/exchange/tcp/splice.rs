//! Bytes from one TCP socket to another inside the kernel: `splice(2)` through a pipe, 2 to 3 times cheaper than reading and writing them.
//!
//! A pipe is taken when its source has something to read and given back as soon as it is empty and the source silent, so a connection
//! that idles holds none. Each worker keeps a few; all workers together own [`MOST`] at most. Whoever gets none copies, as does whoever
//! runs where the system call is not allowed: every failure that leaves no doubt about the bytes is a [`Fill::Unable`].

use crate::codec::spare;
use bytes::Bytes;
use rustix::fd::OwnedFd;
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, SpliceFlags, fcntl_setpipe_size, pipe_with, splice};
use std::cell::RefCell;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::task::{Context, Poll, ready};
use tokio::io::Interest;
use tokio::net::TcpStream;

/// What a pipe is asked to hold. Its 64 entries can each point at more than a page.
const CAPACITY: usize = 256 * 1024;
/// Empty pipes that a worker keeps.
const KEPT: usize = 8;
/// Pipes of the process. The kernel allows an ordinary user pipes of 64 MiB in all (`pipe-user-pages-soft`); this is half of it.
const MOST: usize = 128;

static OPEN: AtomicUsize = AtomicUsize::new(0);
/// The system call is not to be had here: a sandbox forbids it, or the kernel has none for these sockets.
static REFUSED: AtomicBool = AtomicBool::new(false);

thread_local! {
    static IDLE: RefCell<Vec<Ends>> = const { RefCell::new(Vec::new()) };
}

/// Both ends of a pipe, counted while they are open.
struct Ends {
    read: OwnedFd,
    write: OwnedFd,
}

impl Ends {
    fn open() -> Option<Self> {
        if OPEN.fetch_add(1, Relaxed) < MOST
            && let Ok((read, write)) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)
        {
            // One that stays at its 64 KiB works as well, with more system calls.
            let _ = fcntl_setpipe_size(&write, CAPACITY);
            return Some(Self { read, write });
        }
        OPEN.fetch_sub(1, Relaxed);
        None
    }
}

impl Drop for Ends {
    fn drop(&mut self) {
        OPEN.fetch_sub(1, Relaxed);
    }
}

/// A pipe on loan.
pub(super) struct Pipe {
    ends: Option<Ends>,
    held: usize,
}

/// What came of filling a pipe.
pub(super) enum Fill {
    /// So many bytes are in it now.
    Bytes(usize),
    /// The source has ended.
    End,
    /// These bytes have to be copied: nothing was taken from the source.
    Unable,
}

impl Pipe {
    /// A pipe, unless there are too many.
    pub(super) fn take() -> Option<Self> {
        if REFUSED.load(Relaxed) {
            return None;
        }
        let ends = IDLE.with_borrow_mut(Vec::pop).or_else(Ends::open)?;
        Some(Self { ends: Some(ends), held: 0 })
    }

    /// Bytes in it.
    pub(super) const fn held(&self) -> usize {
        self.held
    }

    /// Takes what is there from `from` into the empty pipe. Pending: the source is silent.
    pub(super) fn poll_fill(&mut self, cx: &mut Context<'_>, from: &TcpStream) -> Poll<io::Result<Fill>> {
        let Some(ends) = &self.ends else { return Poll::Ready(Ok(Fill::Unable)) };
        loop {
            ready!(from.poll_read_ready(cx))?;
            // The pipe is empty: only the socket can be what would block.
            let moved =
                from.try_io(Interest::READABLE, || Ok(splice(from, None, &ends.write, None, spare::BROAD, FLAGS)?));
            return Poll::Ready(match moved {
                Ok(0) => Ok(Fill::End),
                Ok(count) => {
                    self.held = count;
                    Ok(Fill::Bytes(count))
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
                Err(error) if is_refusal(&error) => {
                    REFUSED.store(true, Relaxed);
                    Ok(Fill::Unable)
                }
                Err(error) => Err(error),
            });
        }
    }

    /// Writes what it holds to `to`, as much as that takes.
    pub(super) fn poll_drain(&mut self, cx: &mut Context<'_>, to: &TcpStream) -> Poll<io::Result<usize>> {
        let Some(ends) = &self.ends else { return Poll::Ready(Ok(0)) };
        loop {
            ready!(to.poll_write_ready(cx))?;
            // The pipe holds something: only the socket can be what would block.
            let moved = to.try_io(Interest::WRITABLE, || Ok(splice(&ends.read, None, to, None, self.held, FLAGS)?));
            return Poll::Ready(match moved {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
                Ok(count) => {
                    self.held = self.held.saturating_sub(count);
                    Ok(count)
                }
                Err(error) => Err(error),
            });
        }
    }

    /// Takes everything out again, for a socket that takes no splice.
    pub(super) fn empty(&mut self) -> io::Result<Bytes> {
        let mut out = Vec::with_capacity(self.held);
        let Some(ends) = &self.ends else { return Ok(Bytes::new()) };
        while self.held > 0 {
            let room = rustix::buffer::spare_capacity(&mut out);
            match rustix::io::read(&ends.read, room) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(count) => self.held = self.held.saturating_sub(count),
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(out.into())
    }
}

impl Drop for Pipe {
    fn drop(&mut self) {
        // One with bytes in it is of no use to anybody else.
        let Some(ends) = self.ends.take().filter(|_| self.held == 0) else { return };
        IDLE.with_borrow_mut(|idle| {
            if idle.len() < KEPT {
                idle.push(ends);
            }
        });
    }
}

const FLAGS: SpliceFlags = SpliceFlags::MOVE.union(SpliceFlags::NONBLOCK);

/// Does the error say that there is no splicing here, rather than that the connection broke?
pub(super) fn is_refusal(error: &io::Error) -> bool {
    matches!(Errno::from_io_error(error), Some(Errno::INVAL | Errno::NOSYS | Errno::PERM | Errno::OPNOTSUPP))
}

/// Pipes that this thread keeps.
#[cfg(test)]
pub(super) fn kept() -> usize {
    IDLE.with_borrow(Vec::len)
}
