//! Bytes both ways between two streams, until both sides are done or silent too long; one task drives both directions.
//!
//! A direction begins with ordinary copies, which are cheapest for a short exchange. Once a read shows that its source has more to say
//! than that, and both sides are plain sockets, the bytes move through [`Pipe`]s instead, until a read is small again. Streams that hand
//! out buffers of their own are gathered, so that the frames of a tunnel leave in one write.

use super::splice::{Fill, Pipe, is_refusal};
use crate::codec::{Io, spare};
use crate::error::{Kind, ProxyError, Side};
use bytes::{Buf, Bytes};
use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::AsyncWrite;

/// Pieces of one write: the frames that a tunnel delivers are 16 KiB at most.
const PIECES: usize = 15;
/// A read of so many bytes is one of many: from here on they are spliced, or read into a broad buffer…
const BULK: usize = spare::WIDE / 2;
/// …until so few come at once that a copy is cheaper than a pipe.
const TRICKLE: usize = 4 * 1024;

/// One direction of a copy.
#[derive(Default)]
struct Half {
    pending: VecDeque<Bytes>,
    /// Bytes that are on their way through the kernel.
    pipe: Option<Pipe>,
    state: State,
    dirty: bool,
    bulk: bool,
}

#[derive(Default, PartialEq, Eq, Clone, Copy)]
enum State {
    #[default]
    Open,
    /// The source has ended; what is left has to be written.
    Ended,
    Closing,
    Done,
}

/// Which side broke.
enum Fault {
    Reading(io::Error),
    Writing(io::Error),
}

impl Half {
    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut Io,
        to: &mut Io,
        mut moved: impl FnMut(u64),
    ) -> Poll<Result<(), Fault>> {
        loop {
            if self.pipe.as_ref().is_some_and(|pipe| pipe.held() > 0) || !self.pending.is_empty() {
                let written = ready!(self.poll_write(cx, to)).map_err(Fault::Writing)?;
                self.dirty = true;
                moved(written as u64);
                continue;
            }
            match self.state {
                State::Done => return Poll::Ready(Ok(())),
                State::Ended => {
                    self.pipe = None;
                    self.state = State::Closing;
                }
                State::Closing => {
                    ready!(Pin::new(&mut *to).poll_shutdown(cx)).map_err(Fault::Writing)?;
                    self.state = State::Done;
                }
                State::Open => match self.poll_read(cx, from, to) {
                    Poll::Ready(result) => result.map_err(Fault::Reading)?,
                    Poll::Pending => {
                        self.pipe = None;
                        if self.dirty {
                            ready!(Pin::new(&mut *to).poll_flush(cx)).map_err(Fault::Writing)?;
                            self.dirty = false;
                        }
                        return Poll::Pending;
                    }
                },
            }
        }
    }

    /// Reads something, into the pipe or into `pending`, or notes the end.
    fn poll_read(&mut self, cx: &mut Context<'_>, from: &mut Io, to: &Io) -> Poll<io::Result<()>> {
        if self.bulk
            && let (Some(source), Some(_)) = (from.spliceable(), to.tcp())
        {
            ready!(source.poll_read_ready(cx))?;
            if self.pipe.is_none() {
                self.pipe = Pipe::take();
            }
            if let Some(pipe) = &mut self.pipe {
                match ready!(pipe.poll_fill(cx, source))? {
                    Fill::Bytes(count) => self.bulk = count >= TRICKLE,
                    Fill::End => self.state = State::Ended,
                    Fill::Unable => self.bulk = false,
                }
                return Poll::Ready(Ok(()));
            }
        }
        self.pipe = None;
        let most = if self.bulk { spare::BROAD } else { spare::WIDE };
        let mut gathered = 0;
        while gathered < spare::BROAD && self.pending.len() < PIECES {
            match from.poll_bytes(cx, most) {
                Poll::Ready(Ok(Some(bytes))) => {
                    gathered += bytes.len();
                    self.pending.push_back(bytes);
                    if !from.has_buffers() {
                        self.bulk = gathered >= BULK;
                        break;
                    }
                }
                Poll::Ready(Ok(None)) => {
                    self.state = State::Ended;
                    break;
                }
                // What came before the fault is still written; the fault is met again.
                Poll::Ready(Err(_)) | Poll::Pending if gathered > 0 => break,
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => return Poll::Pending,
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Writes some of what was read.
    fn poll_write(&mut self, cx: &mut Context<'_>, to: &mut Io) -> Poll<io::Result<usize>> {
        if let (Some(pipe), Some(sink)) = (&mut self.pipe, to.tcp()) {
            match ready!(pipe.poll_drain(cx, sink)) {
                Err(error) if is_refusal(&error) => {
                    self.pending.push_back(pipe.empty()?);
                    (self.pipe, self.bulk) = (None, false);
                }
                Ok(0) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                result => return Poll::Ready(result),
            }
        }
        let written = if self.pending.len() > 1 && !to.has_buffers() {
            let mut slices = [IoSlice::new(&[]); PIECES];
            let mut count = 0;
            for (slice, bytes) in slices.iter_mut().zip(&self.pending) {
                *slice = IoSlice::new(bytes);
                count += 1;
            }
            ready!(Pin::new(&mut *to).poll_write_vectored(cx, &slices[..count]))?
        } else {
            match self.pending.front() {
                Some(bytes) => ready!(to.poll_write_bytes(cx, bytes))?,
                None => return Poll::Ready(Ok(0)),
            }
        };
        if written == 0 {
            return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
        }
        let mut left = written;
        while let Some(bytes) = self.pending.front_mut() {
            let count = left.min(bytes.len());
            bytes.advance(count);
            left -= count;
            if !bytes.is_empty() {
                break;
            }
            self.pending.pop_front();
        }
        Poll::Ready(Ok(written))
    }
}

/// Copies both ways until both sides have closed. An end of file is passed on as a half-close and the other direction goes on. `moved`
/// gets the bytes to the client and from it.
///
/// # Errors
/// [`Kind::ClientGone`], [`Kind::UpstreamReset`] or [`Kind::IdleTimeout`].
pub async fn copy(
    client: &mut Io,
    upstream: &mut Io,
    idle: Option<Duration>,
    moved: impl Fn(u64, u64),
) -> Result<(), ProxyError> {
    let (mut up, mut down) = (Half::default(), Half::default());
    let mut sleep = pin!(tokio::time::sleep(idle.unwrap_or_default()));
    let mut active = false;
    std::future::poll_fn(|cx| {
        let one = up.poll(cx, client, upstream, |bytes| {
            active = true;
            moved(0, bytes);
        });
        if let Poll::Ready(Err(fault)) = one {
            return Poll::Ready(Err(broken(fault, Side::Downstream)));
        }
        let other = down.poll(cx, upstream, client, |bytes| {
            active = true;
            moved(bytes, 0);
        });
        if let Poll::Ready(Err(fault)) = other {
            return Poll::Ready(Err(broken(fault, Side::Upstream)));
        }
        if one.is_ready() && other.is_ready() {
            return Poll::Ready(Ok(()));
        }
        let Some(idle) = idle else { return Poll::Pending };
        // The timer moves only when it fires: silence is noticed between one and two periods after the last byte.
        while sleep.as_mut().poll(cx).is_ready() {
            if !std::mem::take(&mut active) {
                return Poll::Ready(Err(ProxyError::because(Kind::IdleTimeout, format!("no byte for {idle:?}"))));
            }
            sleep.as_mut().reset(tokio::time::Instant::now() + idle);
        }
        Poll::Pending
    })
    .await
}

/// `from` is the side that was read when it broke.
fn broken(fault: Fault, from: Side) -> ProxyError {
    let (error, side) = match (fault, from) {
        (Fault::Reading(error), side) => (error, side),
        (Fault::Writing(error), Side::Downstream) => (error, Side::Upstream),
        (Fault::Writing(error), _) => (error, Side::Downstream),
    };
    let kind = if side == Side::Downstream { Kind::ClientGone } else { Kind::UpstreamReset };
    ProxyError::caused(kind, error)
}

#[cfg(test)]
#[path = "copy_tests.rs"]
mod tests;
