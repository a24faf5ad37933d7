//! Time in nanoseconds of the monotonic clock, CPU time, and an alarm finer than the runtime's timers,
//! which are a millisecond coarse.

use crate::failure::Failure;
use rustix::time::{
    ClockId, Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, clock_gettime, timerfd_create,
    timerfd_settime,
};
use std::future::{Future, poll_fn};
use std::io;
use std::os::fd::OwnedFd;
use std::pin::{Pin, pin};
use std::task::Poll;
use std::time::Duration;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::time::{Instant, Sleep};

/// Nanoseconds in a second.
pub const SECOND: u64 = 1_000_000_000;

fn nanos(time: Timespec) -> u64 {
    u64::try_from(time.tv_sec).unwrap_or(0) * SECOND + u64::try_from(time.tv_nsec).unwrap_or(0)
}

/// Nanoseconds of the monotonic clock.
pub fn now() -> u64 {
    nanos(clock_gettime(ClockId::Monotonic))
}

/// Nanoseconds since the Unix epoch.
pub fn epoch() -> u64 {
    nanos(clock_gettime(ClockId::Realtime))
}

/// CPU that this process has taken, user and system, in seconds.
pub fn cpu_seconds() -> f64 {
    nanos(clock_gettime(ClockId::ProcessCPUTime)) as f64 / SECOND as f64
}

/// A span in nanoseconds; spans of the command line are at most a day.
pub fn span(span: Duration) -> u64 {
    u64::try_from(span.as_nanos()).unwrap_or(u64::MAX)
}

/// A timer of the kernel's high resolution clock, waited for through the runtime's poll: no thread, no spinning, one system call to arm it.
pub struct Alarm(AsyncFd<OwnedFd>);

impl Alarm {
    /// # Errors
    ///
    /// When the kernel has no descriptor left.
    pub fn new() -> io::Result<Self> {
        let fd = timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC)?;
        #[expect(
            deprecated,
            reason = "its successor is unsafe for descriptors that lie about themselves; an OwnedFd does not"
        )]
        let fd = AsyncFd::with_interest(fd, Interest::READABLE)?;
        Ok(Self(fd))
    }

    /// Returns at `at` or at once when that is past.
    pub async fn until(&self, at: u64) -> io::Result<()> {
        while now() < at {
            let value = Timespec {
                tv_sec: i64::try_from(at / SECOND).unwrap_or(i64::MAX),
                tv_nsec: i64::try_from(at % SECOND).unwrap_or(0),
            };
            let zero = Timespec { tv_sec: 0, tv_nsec: 0 };
            // Arming clears what expired before, so that the descriptor need not be read.
            timerfd_settime(
                self.0.get_ref(),
                TimerfdTimerFlags::ABSTIME,
                &Itimerspec { it_interval: zero, it_value: value },
            )?;
            self.0.readable().await?.clear_ready();
        }
        Ok(())
    }
}

/// Keeps a reader to so many bytes a second.
pub struct Pace {
    rate: u64,
    began: u64,
    taken: u64,
}

impl Pace {
    /// `rate` in bytes a second; 0: as fast as they come.
    pub fn new(rate: u64) -> Self {
        Self { rate, began: now(), taken: 0 }
    }

    /// Returns when `count` bytes more are due.
    pub async fn took(&mut self, count: u64) {
        if self.rate == 0 {
            return;
        }
        self.taken += count;
        let due = self.began + (self.taken as f64 / self.rate as f64 * SECOND as f64) as u64;
        tokio::time::sleep(Duration::from_nanos(due.saturating_sub(now()))).await;
    }
}

/// A deadline that costs nothing to move: one timer for each worker, looked at again only when it fires.
pub struct Watch {
    sleep: Pin<Box<Sleep>>,
    span: Duration,
}

impl Watch {
    /// For work that may take `span`.
    pub fn new(span: Duration) -> Self {
        Self { sleep: Box::pin(tokio::time::sleep(span)), span }
    }

    /// `work`, or [`Failure::Timeout`] when it takes longer than it may since `started`.
    pub async fn within<T>(
        &mut self,
        started: u64,
        work: impl Future<Output = Result<T, Failure>>,
    ) -> Result<T, Failure> {
        let due = started + span(self.span);
        let mut work = pin!(work);
        poll_fn(|cx| {
            if let Poll::Ready(done) = work.as_mut().poll(cx) {
                return Poll::Ready(done);
            }
            while self.sleep.as_mut().poll(cx).is_ready() {
                let left = due.saturating_sub(now());
                if left == 0 {
                    return Poll::Ready(Err(Failure::Timeout));
                }
                self.sleep.as_mut().reset(Instant::now() + Duration::from_nanos(left));
            }
            Poll::Pending
        })
        .await
    }
}
