//! The retry budget: retries are at most a percentage of original calls plus a floor, over a sliding window.

use std::time::{Duration, Instant};

/// A budget's settings. Default 20 %, 10/s, 10 s.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct BudgetSettings {
    /// Percent of original calls.
    pub percent: u32,
    /// And so many each second.
    pub min_per_second: u32,
    /// Counted over this window.
    pub window: Duration,
}

impl Default for BudgetSettings {
    fn default() -> Self {
        BudgetSettings { percent: 20, min_per_second: 10, window: Duration::from_secs(10) }
    }
}

/// A retry budget, shared by all workers.
#[derive(Debug)]
pub struct Budget {}

impl Budget {
    /// With nothing counted.
    pub fn new(settings: BudgetSettings, now: Instant) -> Self {
        let _ = (settings, now);
        Budget {}
    }

    /// Counts an original call.
    pub fn deposit(&self, now: Instant) {
        let _ = now;
        unimplemented!()
    }

    /// Charges a retry, if there is room for one.
    pub fn withdraw(&self, now: Instant) -> bool {
        let _ = now;
        unimplemented!()
    }

    /// New settings; counts stay unless the window changed.
    pub fn update(&self, settings: BudgetSettings, now: Instant) {
        let _ = (settings, now);
        unimplemented!()
    }
}
