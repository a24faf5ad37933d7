//! Is the peer of an HTTP/2 connection still there? A PING goes out when it has been silent, and silence after that is the end.
//!
//! Traffic is a sign of life, so a busy connection sends no PINGs and touches no timer.

use super::engine::Engine;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::time::{Instant, Sleep};

pub(super) struct KeepAlive {
    timer: Pin<Box<Sleep>>,
    interval: Duration,
    timeout: Duration,
    /// Reads seen when the timer was last set.
    reads: u64,
    waiting: bool,
}

impl KeepAlive {
    pub(super) fn new(interval: Duration, timeout: Duration) -> Self {
        let timer = Box::pin(tokio::time::sleep(interval));
        Self { timer, interval, timeout, reads: 0, waiting: false }
    }

    /// Ready when the peer is gone. `reads` counts the reads that brought bytes. A PING is queued in `engine`, which is to be flushed.
    pub(super) fn poll_dead(&mut self, cx: &mut Context<'_>, reads: u64, engine: &mut Engine) -> Poll<()> {
        loop {
            ready!(self.timer.as_mut().poll(cx));
            let next = if reads != self.reads {
                self.reads = reads;
                self.waiting = false;
                self.interval
            } else if self.waiting {
                return Poll::Ready(());
            } else {
                engine.ping();
                self.waiting = true;
                // Written by the next turn.
                cx.waker().wake_by_ref();
                self.timeout
            };
            self.timer.as_mut().reset(Instant::now() + next);
        }
    }
}
