//! Is the peer of an HTTP/2 connection still there? A PING goes out when it has been silent, and silence after that is the end.
//!
//! Traffic is a sign of life, so a busy connection sends no PINGs and touches no timer.

use h2::{Ping, PingPong};
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::time::{Instant, Sleep};

pub(super) struct KeepAlive {
    ping: PingPong,
    timer: Pin<Box<Sleep>>,
    interval: Duration,
    timeout: Duration,
    /// Reads seen when the timer was last set.
    reads: u64,
    waiting: bool,
}

impl KeepAlive {
    pub(super) fn new(ping: PingPong, interval: Duration, timeout: Duration) -> Self {
        let timer = Box::pin(tokio::time::sleep(interval));
        Self { ping, timer, interval, timeout, reads: 0, waiting: false }
    }

    /// Ready when the peer is gone. `reads` counts the reads that brought bytes.
    pub(super) fn poll_dead(&mut self, cx: &mut Context<'_>, reads: u64) -> Poll<()> {
        if self.waiting {
            // The PONG itself is one of the reads; it is taken so that the next PING can be sent.
            let _ = self.ping.poll_pong(cx);
        }
        loop {
            ready!(self.timer.as_mut().poll(cx));
            let next = if reads != self.reads {
                self.reads = reads;
                self.waiting = false;
                self.interval
            } else if self.waiting {
                return Poll::Ready(());
            } else {
                // A PING that is still under way answers for this one too.
                let _ = self.ping.send_ping(Ping::opaque());
                self.waiting = true;
                self.timeout
            };
            self.timer.as_mut().reset(Instant::now() + next);
        }
    }
}
