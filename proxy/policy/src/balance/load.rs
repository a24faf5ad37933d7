//! What is known of an endpoint's load: calls in flight and a peak-sensitive moving average of its latency. Lock-free;
//! a race loses a sample at worst.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// How fast the past is forgotten: after this long a sample weighs 1/e.
const DECAY: Duration = Duration::from_secs(10);

/// Load of one endpoint.
#[derive(Debug)]
pub struct Load {
    /// What `stamp` counts from.
    origin: Instant,
    /// Bits of an `f64`: nanoseconds at `stamp`.
    average: AtomicU64,
    /// Nanoseconds since `origin` when `average` was last written.
    stamp: AtomicU64,
    in_flight: AtomicU32,
}

/// A call in flight: dropping it ends it.
#[derive(Debug)]
#[must_use = "dropping it ends the call"]
pub struct InFlight {
    load: Arc<Load>,
}

impl Load {
    /// A load without history. Against another endpoint it is taken to be as fast as that one: it gets calls at once,
    /// and no stampede.
    pub fn new(now: Instant) -> Self {
        Load { origin: now, average: AtomicU64::new(0), stamp: AtomicU64::new(0), in_flight: AtomicU32::new(0) }
    }

    /// Counts a call until the guard is dropped.
    pub fn begin(self: &Arc<Self>) -> InFlight {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        InFlight { load: Arc::clone(self) }
    }

    /// Takes a latency (to the response head) into the average: a peak at once, an improvement with time (Finagle's
    /// peak EWMA). A failure is no latency: see [`Self::hold`].
    pub fn observe(&self, latency: Duration, now: Instant) {
        let at = self.nanos(now);
        let sample = (latency.as_nanos() as f64).max(1.0);
        let average = f64::from_bits(self.average.load(Ordering::Relaxed));
        let kept = decay(at.saturating_sub(self.stamp.load(Ordering::Relaxed)));
        let next = if sample > average { sample } else { average * kept + sample * (1.0 - kept) };
        self.average.store(next.to_bits(), Ordering::Relaxed);
        self.stamp.store(at, Ordering::Relaxed);
    }

    /// A call ended that says nothing of how fast the endpoint is: the average stays, and is not forgotten as in silence.
    /// So an endpoint that fails fast does not look attractive.
    pub fn hold(&self, now: Instant) {
        self.stamp.store(self.nanos(now), Ordering::Relaxed);
    }

    /// Forgets the average: what comes is taken to be as fast as its rivals.
    pub fn forget(&self) {
        self.average.store(0, Ordering::Relaxed);
    }

    /// Calls in flight.
    pub fn in_flight(&self) -> u32 {
        self.in_flight.load(Ordering::Relaxed)
    }

    /// The average at `now`. It shrinks while nothing is heard, so that an endpoint that was once slow is tried again.
    pub fn latency(&self, now: Instant) -> Duration {
        Duration::from_nanos(self.latency_nanos(now).unwrap_or(0.0) as u64)
    }

    /// The average in nanoseconds at `now`; `None` without history.
    pub(super) fn latency_nanos(&self, now: Instant) -> Option<f64> {
        let average = f64::from_bits(self.average.load(Ordering::Relaxed));
        let silence = self.nanos(now).saturating_sub(self.stamp.load(Ordering::Relaxed));
        // One nanosecond at least: however long the silence, calls in flight still count.
        (average > 0.0).then(|| (average * decay(silence)).max(1.0))
    }

    fn nanos(&self, now: Instant) -> u64 {
        u64::try_from(now.saturating_duration_since(self.origin).as_nanos()).unwrap_or(u64::MAX)
    }
}

fn decay(nanos: u64) -> f64 {
    (-(nanos as f64) / DECAY.as_nanos() as f64).exp()
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.load.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peak_counts_at_once_and_is_forgotten_with_time() {
        let start = Instant::now();
        let load = Load::new(start);
        load.observe(Duration::from_millis(10), start);
        load.observe(Duration::from_millis(500), start + Duration::from_millis(1));
        assert_eq!(load.latency(start + Duration::from_millis(1)), Duration::from_millis(500));
        load.observe(Duration::from_millis(10), start + Duration::from_secs(10));
        // 500 / e + 10 × (1 − 1 / e)
        let later = load.latency(start + Duration::from_secs(10)).as_micros();
        assert!((190_200..190_350).contains(&later), "{later}");
        assert!(load.latency(start + Duration::from_secs(200)) < Duration::from_millis(1));
    }

    #[test]
    fn failures_neither_raise_nor_lower_the_average_and_it_can_be_forgotten() {
        let start = Instant::now();
        let load = Load::new(start);
        load.observe(Duration::from_millis(10), start);
        for second in 1..=60 {
            load.hold(start + Duration::from_secs(second));
        }
        assert_eq!(load.latency(start + Duration::from_secs(60)), Duration::from_millis(10));
        load.forget();
        assert!(load.latency_nanos(start + Duration::from_secs(60)).is_none());
    }

    #[test]
    fn a_call_is_in_flight_until_its_guard_is_dropped() {
        let load = Arc::new(Load::new(Instant::now()));
        let guards = [load.begin(), load.begin()];
        assert_eq!(load.in_flight(), 2);
        drop(guards);
        assert_eq!(load.in_flight(), 0);
    }
}
