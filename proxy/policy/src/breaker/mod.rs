//! Circuit breaking of endpoints: closed → open → half-open, and how many of a backend's endpoints may be out at once.
//!
//! One [`Breaker`] stands before each endpoint and is shared by all workers; an [`Ejections`] stands over the endpoints
//! of a backend. The state machine itself is in `machine`, plain and without locks, which a seeded simulation drives.
//! What is a failure of the endpoint is [`Outcome`]'s to say. Nothing here picks an endpoint.

mod cap;
mod machine;
#[cfg(test)]
mod simulation;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

pub use cap::Ejections;
use machine::{Admission, Machine};
pub use machine::{State, Transition};

/// When a breaker opens and for how long.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// `false`: always closed.
    pub enabled: bool,
    /// Opens after so many failures in a row.
    pub consecutive_failures: u32,
    /// Opens when fewer than this percentage of calls succeed…
    pub success_percent: u32,
    /// …of at least so many calls…
    pub minimum_calls: u32,
    /// …in this window.
    pub window: Duration,
    /// Open for `base_open` × 2ⁿ…
    pub base_open: Duration,
    /// …but at most this, ± 10 % jitter.
    pub max_open: Duration,
    /// `n` starts anew after a breaker was closed for this long.
    pub reset_after: Duration,
    /// A half-open probe that has not answered by then has failed.
    pub probe_deadline: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            enabled: true,
            consecutive_failures: 5,
            success_percent: 80,
            minimum_calls: 20,
            window: Duration::from_secs(10),
            base_open: Duration::from_secs(1),
            max_open: Duration::from_secs(60),
            reset_after: Duration::from_secs(60),
            probe_deadline: Duration::from_secs(10),
        }
    }
}

/// How a call ended, as far as it says something about the endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// It answered. A 500 or INTERNAL is an answer too: a poison request must not eject the fleet.
    Success,
    /// Connect error, reset, timeout, 502/503/504, gRPC UNAVAILABLE.
    Failure,
}

impl Outcome {
    /// Of an HTTP status: 502, 503 and 504 are failures.
    pub fn of_status(status: u16) -> Self {
        if matches!(status, 502..=504) { Outcome::Failure } else { Outcome::Success }
    }

    /// Of a gRPC status: UNAVAILABLE (14) is a failure.
    pub fn of_grpc(code: u32) -> Self {
        if code == 14 { Outcome::Failure } else { Outcome::Success }
    }
}

/// The breaker of one endpoint, shared by all workers.
#[derive(Debug)]
pub struct Breaker {
    ejections: Arc<Ejections>,
    /// Epoch of the machine, and in the lowest bit whether it is anything but closed: the closed case takes no lock.
    summary: AtomicU64,
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    settings: Settings,
    machine: Machine,
    retired: bool,
}

/// Leave to make one call. Report how it ended; dropped without a report it says nothing about the endpoint (the caller
/// went away), and a probe's place is free again.
#[derive(Debug)]
#[must_use = "report how the call ended"]
pub struct Permit {
    breaker: Arc<Breaker>,
    admission: Admission,
}

impl Breaker {
    /// A closed breaker of an endpoint under `ejections`.
    pub fn new(settings: Settings, ejections: Arc<Ejections>) -> Self {
        let inner = Inner { settings, machine: Machine::new(), retired: false };
        Breaker { ejections, summary: AtomicU64::new(0), inner: Mutex::new(inner) }
    }

    /// Whether [`admit`](Self::admit) would give a permit now. One atomic load while closed.
    pub fn available(&self, now: Instant) -> bool {
        self.closed_epoch().is_some() || self.settled(now, |inner| inner.machine.admits())
    }

    /// Asks leave to make a call. `jitter` is uniform in `[0, 1)` and only used should this call turn out a probe that
    /// never answers.
    pub fn admit(self: &Arc<Self>, now: Instant, jitter: f64) -> Option<Permit> {
        let admission = match self.closed_epoch() {
            Some(epoch) => Some(Admission { epoch, is_probe: false }),
            None => self.settled(now, |inner| inner.machine.admit(&inner.settings, now, jitter)),
        };
        admission.map(|admission| Permit { breaker: Arc::clone(self), admission })
    }

    /// The state at `now`: an open breaker whose time is over is half-open.
    pub fn state(&self, now: Instant) -> State {
        match self.closed_epoch() {
            Some(_) => State::Closed,
            None => self.settled(now, |inner| inner.machine.state()),
        }
    }

    /// Whether the endpoint failed often enough to be ejected and is not, because too many others are. Then avoiding it is
    /// the balancer's business.
    pub fn is_held(&self) -> bool {
        let inner = self.inner.lock();
        inner.settings.enabled && inner.machine.is_held(&inner.settings)
    }

    /// Whether failures eject the endpoint at all.
    pub fn is_enabled(&self) -> bool {
        self.inner.lock().settings.enabled
    }

    /// Times it opened since it was made.
    pub fn opened(&self) -> u64 {
        self.inner.lock().machine.opened()
    }

    /// New settings; the state stays, except that a disabled breaker is closed.
    pub fn update(&self, settings: Settings, now: Instant) {
        self.inner.lock().settings = settings;
        self.settled(now, |_| ());
    }

    /// The endpoint has gone: its place among the ejected is free at once, even while calls to it linger. Dropping the
    /// breaker does the same.
    pub fn retire(&self) {
        let mut inner = self.inner.lock();
        inner.retired = true;
        inner.machine.retire(&self.ejections);
        self.publish(&inner);
    }

    fn closed_epoch(&self) -> Option<u64> {
        let summary = self.summary.load(Ordering::Acquire);
        (summary & 1 == 0).then_some(summary >> 1)
    }

    fn settled<T>(&self, now: Instant, act: impl FnOnce(&mut Inner) -> T) -> T {
        let mut inner = self.inner.lock();
        let Inner { settings, machine, .. } = &mut *inner;
        machine.settle(settings, &self.ejections, now);
        let result = act(&mut inner);
        self.publish(&inner);
        result
    }

    fn publish(&self, inner: &Inner) {
        let out = u64::from(inner.machine.state() != State::Closed);
        self.summary.store(inner.machine.epoch() << 1 | out, Ordering::Release);
    }
}

impl Drop for Breaker {
    fn drop(&mut self) {
        self.inner.get_mut().machine.retire(&self.ejections);
    }
}

impl Permit {
    /// Whether this call is the probe of a half-open breaker.
    pub fn is_probe(&self) -> bool {
        self.admission.is_probe
    }

    /// Reports how the call ended. `jitter` is uniform in `[0, 1)`. A report from before the state last changed is
    /// ignored. Returns the change it caused, if any, for metrics and logs.
    pub fn report(self, outcome: Outcome, now: Instant, jitter: f64) -> Option<Transition> {
        let report = (self.admission, outcome);
        let breaker = &self.breaker;
        breaker.settled(now, |inner| {
            if inner.retired {
                return None;
            }
            inner.machine.report(&inner.settings, &breaker.ejections, report, now, jitter)
        })
        // The drop that follows finds the epoch gone, or an ordinary call: it changes nothing.
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if self.is_probe() {
            self.breaker.inner.lock().machine.abandon(self.admission);
        }
    }
}
