//! How often sidecars report. A few are asked to every two and a half seconds, so that who looks on sees what happens; many every five, which is
//! as finely as golden metrics are kept, since most of what a large fleet costs at rest is its reports. Either divides such a step, so that each
//! holds as many reports.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

/// Of a fleet that is not large; sidecars begin with it.
pub const OFTEN: Duration = Duration::from_millis(2500);
/// Of a large one.
pub const SELDOM: Duration = Duration::from_secs(5);
/// A fleet of more sidecars than this is large,
const LARGE: usize = 1000;
/// and of fewer than this no longer.
const SMALL: usize = 800;

/// The pace that the fleet's size asks for.
#[derive(Debug, Default)]
pub struct Pace {
    is_large: AtomicBool,
}

impl Pace {
    /// The fleet has so many sidecars now.
    pub fn sized(&self, sidecars: usize) {
        let is_large = self.is_large.load(Relaxed);
        let becomes = if is_large { sidecars >= SMALL } else { sidecars > LARGE };
        if becomes != is_large {
            self.is_large.store(becomes, Relaxed);
        }
    }

    /// From one report of a sidecar to its next.
    pub fn period(&self) -> Duration {
        if self.is_large.load(Relaxed) { SELDOM } else { OFTEN }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_large_fleet_reports_less_often_and_does_not_change_its_mind_over_one_sidecar() {
        let pace = Pace::default();
        let mut at = |sidecars| {
            pace.sized(sidecars);
            pace.period().as_millis()
        };
        assert_eq!(
            [0, 1000, 1001, 1000, 800, 799, 800, 1000, 1001].map(&mut at),
            [2500, 2500, 5000, 5000, 5000, 2500, 2500, 2500, 5000]
        );
    }
}
