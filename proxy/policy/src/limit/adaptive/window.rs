//! The latencies of a short time, in fixed memory.

use std::time::{Duration, Instant};

/// Latencies of which a median is taken.
const KEPT: usize = 256;
/// Fewer say little: the median of so many is off by about a tenth.
const FEWEST: u64 = 40;
/// Shorter, and one slow moment would move the limit.
const SHORTEST: Duration = Duration::from_millis(100);

/// Collects latencies until there are enough of them.
#[derive(Debug)]
pub(super) struct Window {
    began: Instant,
    /// Seconds; each `stride`-th of what was added.
    kept: Vec<f32>,
    stride: u64,
    added: u64,
}

impl Window {
    pub fn new(now: Instant) -> Self {
        Window { began: now, kept: Vec::new(), stride: 1, added: 0 }
    }

    /// In seconds.
    pub fn add(&mut self, latency: f64) {
        if self.added.is_multiple_of(self.stride) {
            if self.kept.len() == KEPT {
                // Every second one goes, and from now on comes: what is kept stays spread over the whole window.
                let mut nth = 0;
                self.kept.retain(|_| {
                    nth += 1;
                    nth % 2 == 1
                });
                self.stride *= 2;
            }
            if self.added.is_multiple_of(self.stride) {
                self.kept.push(latency as f32);
            }
        }
        self.added += 1;
    }

    /// How many were added.
    pub fn added(&self) -> u64 {
        self.added
    }

    /// The median, when there are enough and the window has lasted for long enough: 100 ms, and as long as a call takes,
    /// so that a change of the limit shows.
    pub fn ripe(&self, now: Instant) -> Option<f64> {
        let lasted = now.saturating_duration_since(self.began);
        if self.added < FEWEST || lasted < SHORTEST {
            return None;
        }
        let mut sorted = self.kept.clone();
        sorted.sort_unstable_by(f32::total_cmp);
        let median = f64::from(*sorted.get(sorted.len() / 2)?);
        (lasted.as_secs_f64() >= median).then_some(median)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_median_comes_of_enough_latencies_over_enough_time() {
        let start = Instant::now();
        let mut window = Window::new(start);
        for i in 0..39 {
            window.add(0.002 * f64::from(i));
        }
        let later = start + SHORTEST;
        assert_eq!(window.ripe(later), None, "too few");
        window.add(9.0);
        assert_eq!(window.ripe(start), None, "too soon");
        let median = window.ripe(later).unwrap();
        assert!((median - 0.04).abs() < 1e-6, "{median}");
        let mut slow = Window::new(start);
        (0..40).for_each(|_| slow.add(2.0));
        assert_eq!(slow.ripe(start + Duration::from_secs(1)), None, "calls take longer than it has lasted");
        assert!(slow.ripe(start + Duration::from_secs(2)).is_some());
    }

    #[test]
    fn a_busy_window_keeps_a_sample_of_all_of_it() {
        let start = Instant::now();
        let mut window = Window::new(start);
        for i in 0..10_000 {
            window.add(f64::from(i));
        }
        assert!(window.kept.len() <= KEPT && window.kept.len() >= KEPT / 2);
        let step = window.kept[1] - window.kept[0];
        assert!(window.kept.windows(2).all(|pair| pair[1] - pair[0] == step), "{:?}", window.kept);
        assert!(window.kept[0] < step && window.kept.last().unwrap() + step >= 10_000.0);
        let median = window.ripe(start + Duration::from_secs(10_000)).unwrap();
        assert!((4_000.0..6_000.0).contains(&median), "{median}");
    }
}
