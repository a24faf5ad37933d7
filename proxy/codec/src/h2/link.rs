//! A connection and its I/O, as one task drives them: what can be read is read, calls have their turn, and what they wrote leaves in one
//! write. An idle connection holds no buffer.

use super::alive::KeepAlive;
use super::engine::{Engine, Event, Key, Leaving, Local, Role};
use super::fault::Fault;
use super::handle::Shared;
use crate::Error;
use crate::{Io, Limits, RequestHead, spare};
use bytes::BytesMut;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::AsyncWrite;

/// Bytes of one read.
const READ: usize = 32 * 1024;
/// Reads in one turn of a connection before other connections have theirs.
const READS: usize = 16;
/// So much that a peer does not take is more than windows and concurrent heads explain: it is read from no further.
const STALLED: usize = 4 << 20;
/// How long a connection that has ended may take to say so.
const GOODBYE: Duration = Duration::from_secs(5);

/// What a connection has for its server.
pub(super) enum Incoming {
    Call(Key, Box<RequestHead>, Option<u64>),
    Rejected(Error),
}

pub(super) struct Link {
    pub(super) shared: Arc<Shared>,
    io: Io,
    /// Read, not yet understood: less than a frame. Invariant: holds no allocation while the connection is idle.
    input: BytesMut,
    alive: Option<KeepAlive>,
    /// Reads that brought bytes: a sign of life of the peer.
    reads: u64,
    /// What the transport said when it broke.
    pub(super) broke: Option<io::Error>,
}

impl Link {
    pub(super) fn new(io: Io, role: Role, limits: &Limits, pings: bool) -> Self {
        let shared = Shared::new(Engine::new(role, Local::new(limits)));
        let alive = pings.then(|| KeepAlive::new(limits.ping_interval, limits.ping_timeout));
        Self { shared, io, input: BytesMut::new(), alive, reads: 0, broke: None }
    }

    /// A turn begins: until [`Link::poll_rest`] nothing that is queued wakes the task.
    pub(super) fn begin(&self) {
        self.shared.lock().begin();
    }

    /// Reads and understands what is there: ready when there may be more, `Err` when the connection has ended.
    pub(super) fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Fault>> {
        let mut engine = self.shared.lock();
        if let Some(fault) = engine.ended {
            return Poll::Ready(Err(fault));
        }
        if engine.out.waiting() > STALLED {
            return Poll::Pending;
        }
        for _ in 0..READS {
            if self.input.capacity() == 0 {
                self.input = spare::borrow_read();
            }
            let filled = self.io.poll_fill(cx, &mut self.input, READ);
            let fault = match filled {
                Poll::Pending => {
                    if self.input.is_empty() {
                        spare::give_back_read(std::mem::take(&mut self.input));
                    }
                    return Poll::Pending;
                }
                Poll::Ready(Ok(0)) => Fault::Closed,
                Poll::Ready(Ok(_)) => {
                    self.reads += 1;
                    engine.receive(&mut self.input);
                    if engine.ended.is_none() && engine.out.waiting() <= STALLED {
                        continue;
                    }
                    return Poll::Ready(Ok(()));
                }
                Poll::Ready(Err(error)) => {
                    let fault = Fault::of_io(&error);
                    self.broke = Some(error);
                    fault
                }
            };
            engine.end(fault);
            return Poll::Ready(Err(fault));
        }
        Poll::Ready(Ok(()))
    }

    /// The next thing that the peer wants of the server. A call that was reset already is forgotten.
    pub(super) fn next(&self) -> Option<Incoming> {
        let mut engine = self.shared.lock();
        loop {
            match engine.events.pop_front()? {
                Event::Rejected(error) => return Some(Incoming::Rejected(error)),
                Event::Call(key, head, length) => {
                    let Some(stream) = engine.stream(key) else { continue };
                    if stream.fault.is_none() {
                        return Some(Incoming::Call(key, head, length));
                    }
                    stream.handles = 0;
                    engine.settle(key);
                }
            }
        }
    }

    /// After the calls had their turn: writes what was gathered, and looks whether the peer is alive. Ready when the connection is over.
    pub(super) fn poll_rest(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Fault>> {
        let mut engine = self.shared.lock();
        if !engine.out.is_empty() {
            let flushed = engine.out.poll_flush(cx, &mut self.io);
            engine.flushed();
            if let Poll::Ready(Err(error)) = flushed {
                let fault = Fault::of_io(&error);
                engine.end(fault);
                return Poll::Ready(Err(fault));
            }
        }
        if let Some(fault) = engine.ended {
            return Poll::Ready(Err(fault));
        }
        if engine.is_done() && engine.out.is_empty() {
            return Poll::Ready(Ok(()));
        }
        if let Some(alive) = &mut self.alive
            && alive.poll_dead(cx, self.reads, &mut engine).is_ready()
        {
            let fault = Fault::Io(io::ErrorKind::TimedOut);
            engine.end(fault);
            return Poll::Ready(Err(fault));
        }
        engine.park(cx);
        Poll::Pending
    }

    /// Is the graceful goodbye said?
    pub(super) fn is_leaving(&self) -> bool {
        self.shared.lock().leaving != Leaving::No
    }

    /// Writes what is left and closes, within a bound.
    pub(super) async fn close(&mut self) {
        let closed = poll_fn(|cx| {
            let mut engine = self.shared.lock();
            ready!(engine.out.poll_flush(cx, &mut self.io))?;
            Pin::new(&mut self.io).poll_shutdown(cx)
        });
        // Whatever it is that fails, the connection is over.
        let _ = tokio::time::timeout(GOODBYE, closed).await;
    }
}
