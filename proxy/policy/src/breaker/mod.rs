//! Circuit breaking of endpoints: closed → open → half-open, and how many of a backend's endpoints may be out at once.
//!
//! One [`Breaker`] stands before each endpoint and is shared by all workers; an [`Ejections`] stands over the endpoints of a backend. The state machine itself is
//! [`machine`], plain and without locks, which a seeded simulation drives. What is a failure of the endpoint is [`Outcome`]'s to say. Nothing here
//! picks an endpoint.

mod cap;
mod machine;
#[cfg(test)]
mod simulation;

use std::sync::Arc;
use std::time::{Duration, Instant};

pub use cap::Ejections;
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
}

/// Leave to make one call. Report how it ended; dropped without a report it says nothing about the endpoint (the caller went away), and a probe's place is free again.
#[derive(Debug)]
pub struct Permit {
    breaker: Arc<Breaker>,
}

impl Breaker {
    /// A closed breaker of an endpoint under `ejections`.
    pub fn new(settings: Settings, ejections: Arc<Ejections>) -> Self {
        let _ = settings;
        Breaker { ejections }
    }

    /// Whether [`admit`](Self::admit) would give a permit now. One atomic load while closed.
    pub fn available(&self, now: Instant) -> bool {
        unimplemented!("{now:?} {:?}", self.ejections)
    }

    /// Asks leave to make a call. `jitter` is uniform in `[0, 1)` and only used should this call turn out a failed probe.
    pub fn admit(self: &Arc<Self>, now: Instant, jitter: f64) -> Option<Permit> {
        unimplemented!("{now:?} {jitter}")
    }

    /// The state at `now`: an open breaker whose time is over is half-open.
    pub fn state(&self, now: Instant) -> State {
        unimplemented!("{now:?}")
    }

    /// Times it opened since it was made.
    pub fn opened(&self) -> u64 {
        unimplemented!()
    }

    /// New settings; the state stays.
    pub fn update(&self, settings: Settings) {
        unimplemented!("{settings:?}")
    }

    /// The endpoint has gone: its place among the ejected is free at once, even while calls to it linger. Dropping the breaker does the same.
    pub fn retire(&self) {
        unimplemented!()
    }
}

impl Permit {
    /// Whether this call is the probe of a half-open breaker.
    pub fn is_probe(&self) -> bool {
        unimplemented!("{:?}", self.breaker)
    }

    /// Reports how the call ended. `jitter` is uniform in `[0, 1)`. A report from before the state last changed is ignored. Returns the change it caused, if any, for
    /// metrics and logs.
    pub fn report(self, outcome: Outcome, now: Instant, jitter: f64) -> Option<Transition> {
        unimplemented!("{outcome:?} {now:?} {jitter}")
    }
}
