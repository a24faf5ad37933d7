//! Both directions of an attempt at once, in one task: the request's body flows up while the response's head is awaited and while its body
//! flows down. Nothing is buffered beyond one frame a direction; a slow side slows the other.

use super::body::{Cursor, Replay};
use super::reply::grpc_status;
use crate::codec::{self, Frame, Reply, Timers, UpRecv, UpSend};
use crate::error::ProxyError;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};
use tokio::time::Sleep;

/// What moved in a call, and how far it is decided. Written by one task only; atomics because its futures are `Send`.
#[derive(Debug, Default)]
pub struct Flow {
    received: AtomicU64,
    sent: AtomicU64,
    moved: AtomicBool,
    lost: AtomicBool,
    committed: AtomicBool,
}

impl Flow {
    /// Bytes of the request's body were read.
    pub fn received(&self, bytes: usize) {
        self.received.fetch_add(bytes as u64, Relaxed);
        self.moved.store(true, Relaxed);
    }

    /// Bytes of the response's body were sent.
    pub fn sent(&self, bytes: usize) {
        self.sent.fetch_add(bytes as u64, Relaxed);
        self.moved.store(true, Relaxed);
    }

    /// Bytes from and to the caller.
    pub fn bytes(&self) -> (u64, u64) {
        (self.received.load(Relaxed), self.sent.load(Relaxed))
    }

    /// Has anything moved since this was last asked?
    pub fn moved(&self) -> bool {
        self.moved.swap(false, Relaxed)
    }

    /// Part of the request's body is gone: it cannot be sent again.
    pub fn lose(&self) {
        self.lost.store(true, Relaxed);
    }

    /// Can the request's body be sent from its beginning?
    pub fn is_replayable(&self) -> bool {
        !self.lost.load(Relaxed)
    }

    /// An attempt was answered and the answer is the caller's: nothing needs to be kept any more.
    pub fn commit(&self) {
        self.committed.store(true, Relaxed);
    }

    /// May there be another attempt?
    pub fn is_open(&self) -> bool {
        !self.committed.load(Relaxed)
    }

    /// Has any byte of the response been sent?
    pub fn has_sent(&self) -> bool {
        self.sent.load(Relaxed) > 0
    }
}

/// Why the request's body stopped.
pub enum Broken {
    /// The caller did not deliver it: the call is over.
    Caller(ProxyError),
    /// The upstream does not take it: it may still answer (a refusal before the end of the body).
    Upstream(ProxyError),
}

impl Broken {
    pub(super) fn upstream(error: codec::Error) -> Self {
        Self::Upstream(error.into())
    }
}

/// Sends the request's body.
pub async fn upload(replay: &mut Replay<'_, '_>, cursor: &mut Cursor, send: &mut UpSend<'_>) -> Result<(), Broken> {
    loop {
        match replay.next(cursor).await {
            Some(Ok(Frame::Data(data))) if replay.is_over(cursor) => {
                return send.last(data).await.map_err(Broken::upstream);
            }
            Some(Ok(Frame::Data(data))) => send.data(data).await.map_err(Broken::upstream)?,
            Some(Ok(Frame::Trailers(trailers))) => {
                return send.trailers(trailers).await.map_err(Broken::upstream);
            }
            Some(Err(error)) => return Err(Broken::Caller(error)),
            None => return send.finish().await.map_err(Broken::upstream),
        }
    }
}

/// Sends the response's body to the caller; returns the gRPC status of its trailers.
pub async fn download(recv: &mut UpRecv<'_>, reply: &mut Reply<'_>, flow: &Flow) -> Result<Option<u16>, ProxyError> {
    loop {
        match reply.while_open(recv.frame()).await? {
            Some(Ok(Frame::Data(data))) => {
                flow.sent(data.len());
                if recv.is_end() {
                    reply.last(data).await?;
                    return Ok(None);
                }
                reply.data(data).await?;
            }
            Some(Ok(Frame::Trailers(trailers))) => {
                let status = grpc_status(&trailers);
                reply.trailers(trailers).await?;
                return Ok(status);
            }
            Some(Err(error)) => return Err(error.into()),
            None => {
                reply.finish().await?;
                return Ok(None);
            }
        }
    }
}

/// Which limit an attempt has run into.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expired {
    /// A point in time.
    Deadline,
    /// Nothing moved for too long.
    Silence,
}

/// The one timer of an attempt: taken when it is first polled, moved only when it fires or must fire earlier.
pub struct Clock<'s> {
    timers: &'s Timers,
    sleep: Option<Pin<Box<Sleep>>>,
    flow: &'s Flow,
    deadline: Option<Instant>,
    idle: Option<Duration>,
    quiet_until: Option<Instant>,
}

impl<'s> Clock<'s> {
    /// Neither limit: never ready.
    pub fn new(timers: &'s Timers, flow: &'s Flow, deadline: Option<Instant>, idle: Option<Duration>) -> Self {
        Self { timers, sleep: None, flow, deadline, idle, quiet_until: None }
    }

    /// Another deadline from now on.
    pub fn set(&mut self, deadline: Option<Instant>) {
        self.deadline = deadline;
    }

    /// Ready once a limit is reached.
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Expired> {
        loop {
            if let (Some(idle), None) = (self.idle, self.quiet_until) {
                self.quiet_until = tokio::time::Instant::now().into_std().checked_add(idle);
            }
            let next = match (self.deadline, self.quiet_until) {
                (Some(a), Some(b)) => a.min(b),
                (Some(at), None) | (None, Some(at)) => at,
                (None, None) => return Poll::Pending,
            };
            let sleep = self.sleep.get_or_insert_with(|| self.timers.take(next));
            if sleep.deadline().into_std() > next {
                sleep.as_mut().reset(next.into());
            }
            if std::future::Future::poll(sleep.as_mut(), cx).is_pending() {
                return Poll::Pending;
            }
            let now = tokio::time::Instant::now().into_std();
            if self.deadline.is_some_and(|at| at <= now) {
                return Poll::Ready(Expired::Deadline);
            }
            if self.quiet_until.is_some_and(|at| at <= now) {
                if !self.flow.moved() {
                    return Poll::Ready(Expired::Silence);
                }
                self.quiet_until = now.checked_add(self.idle.unwrap_or_default());
            }
            let next = [self.deadline, self.quiet_until].into_iter().flatten().min();
            if let Some(next) = next {
                sleep.as_mut().reset(next.into());
            }
        }
    }
}

impl Drop for Clock<'_> {
    fn drop(&mut self) {
        if let Some(sleep) = self.sleep.take() {
            self.timers.put(sleep);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn silence_expires_after_the_idle_limit_and_movement_postpones_it() {
        let flow = Flow::default();
        let timers = Timers::default();
        let mut clock = Clock::new(&timers, &flow, None, Some(Duration::from_secs(10)));
        let begin = tokio::time::Instant::now();
        flow.received(1);
        let expired = std::future::poll_fn(|cx| clock.poll(cx)).await;
        assert_eq!(expired, Expired::Silence);
        assert_eq!(begin.elapsed().as_secs(), 20, "one quiet period after the one in which something moved");
    }

    #[tokio::test(start_paused = true)]
    async fn a_deadline_comes_before_silence() {
        let flow = Flow::default();
        let timers = Timers::default();
        let at = tokio::time::Instant::now().into_std() + Duration::from_secs(3);
        let mut clock = Clock::new(&timers, &flow, Some(at), Some(Duration::from_secs(10)));
        assert_eq!(std::future::poll_fn(|cx| clock.poll(cx)).await, Expired::Deadline);
    }

    #[tokio::test(start_paused = true)]
    async fn a_timer_that_waited_serves_later_and_earlier_deadlines() {
        let (flow, timers) = (Flow::default(), Timers::default());
        for seconds in [10, 30, 2, 15, 15, 1] {
            let begin = tokio::time::Instant::now();
            let at = begin.into_std() + Duration::from_secs(seconds);
            let mut clock = Clock::new(&timers, &flow, Some(at), None);
            // An attempt that ends before its deadline leaves its timer armed.
            let mut early = Clock::new(&timers, &flow, Some(begin.into_std() + Duration::from_secs(5)), None);
            assert!(futures_util::poll!(std::pin::pin!(std::future::poll_fn(|cx| early.poll(cx)))).is_pending());
            drop(early);
            assert_eq!(std::future::poll_fn(|cx| clock.poll(cx)).await, Expired::Deadline);
            assert_eq!(begin.elapsed().as_secs(), seconds);
        }
        assert_eq!(timers.waiting(), 1);
    }
}
