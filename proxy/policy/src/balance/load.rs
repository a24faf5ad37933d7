//! What is known of an endpoint's load: calls in flight and a peak-sensitive moving average of its latency. Lock-free; races lose a sample at worst.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64};
use std::time::{Duration, Instant};

/// Load of one endpoint.
#[derive(Debug)]
pub struct Load {
    origin: Instant,
    average: AtomicU64,
    stamp: AtomicU64,
    in_flight: AtomicU32,
}

/// A call in flight: dropping it ends it.
#[derive(Debug)]
pub struct InFlight {
    load: Arc<Load>,
}

impl Load {
    /// A load without history: it is assumed to be fast until it was seen.
    pub fn new(now: Instant) -> Self {
        Load { origin: now, average: AtomicU64::new(0), stamp: AtomicU64::new(0), in_flight: AtomicU32::new(0) }
    }

    /// Counts a call until the guard is dropped.
    pub fn begin(self: &Arc<Self>) -> InFlight {
        unimplemented!()
    }

    /// Takes a latency (to the response head) into the average. A failure is observed with the time it took, or with a penalty of the caller's choice.
    pub fn observe(&self, latency: Duration, now: Instant) {
        unimplemented!("{latency:?} {now:?} {:?} {:?}", self.origin, self.average)
    }

    /// Calls in flight.
    pub fn in_flight(&self) -> u32 {
        unimplemented!("{:?}", self.in_flight)
    }

    /// The average at `now`, decayed since the last sample.
    pub fn latency(&self, now: Instant) -> Duration {
        unimplemented!("{now:?} {:?}", self.stamp)
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        let _ = &self.load;
    }
}
