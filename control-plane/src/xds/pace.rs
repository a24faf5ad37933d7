//! How long changes take until every connected sidecar holds them, measured for people who look at the control plane.
//!
//! To ask who is behind takes a look at everything that every sidecar holds, so it is asked as often as a small share of a core allows: in a
//! mesh of thousands the figures are as coarse as some tenths of a second.

use super::Hub;
use crate::metrics::Metrics;
use crate::world::reconcile::Compiled;
use parking_lot::Mutex;
use serde::Serialize;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// Changes that are remembered.
const KEPT: usize = 100;
/// Between two looks: this long, and so many times what one takes.
const PAUSE: Duration = Duration::from_millis(5);
const SPARE: u32 = 20;
/// A change that some sidecar does not take for so long is no measure of the others.
const LONGEST: Duration = Duration::from_secs(60);
/// How often it is asked whether that one has it at last.
const AGAIN: Duration = Duration::from_secs(2);

/// One change that arrived.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Arrived {
    /// Of the compilation.
    pub generation: u64,
    /// When it was offered, seconds since the Unix epoch.
    pub at: u64,
    /// Sidecars that needed it.
    pub sidecars: usize,
    /// Until the last of them held it.
    pub ms: f64,
}

/// The last changes.
#[derive(Debug, Default)]
pub struct Pace {
    last: Mutex<VecDeque<Arrived>>,
    /// When the first of those that some sidecar does not hold was offered.
    pending: Mutex<Option<Instant>>,
    metrics: Arc<Metrics>,
}

impl Pace {
    /// One that counts there, too.
    #[must_use]
    pub fn told(metrics: Arc<Metrics>) -> Self {
        Self { metrics, ..Self::default() }
    }

    /// For how long a change has been waiting for a sidecar, as far as was seen.
    #[must_use]
    pub fn pending(&self) -> Option<Duration> {
        self.pending.lock().map(|since| since.elapsed())
    }

    /// The last ones, the oldest first.
    #[must_use]
    pub fn last(&self) -> Vec<Arrived> {
        self.last.lock().iter().cloned().collect()
    }

    /// Within how many milliseconds a share of them arrived; `None`: there were none.
    #[must_use]
    pub fn within(&self, share: f64) -> Option<f64> {
        let mut times: Vec<f64> = self.last.lock().iter().map(|arrived| arrived.ms).collect();
        times.sort_by(f64::total_cmp);
        #[expect(
            clippy::cast_precision_loss,
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a hundred at most"
        )]
        let place = (times.len() as f64 * share).ceil() as usize;
        times.get(place.saturating_sub(1)).copied()
    }

    fn add(&self, arrived: Arrived) {
        self.metrics.converged(Duration::from_secs_f64(arrived.ms / 1000.0));
        let mut kept = self.last.lock();
        kept.push_back(arrived);
        while kept.len() > KEPT {
            kept.pop_front();
        }
    }

    /// Measures each compilation until `stop`. One that is overtaken by the next counts from its own beginning.
    pub async fn follow(&self, hub: Arc<Hub>, mut compiled: watch::Receiver<Compiled>, stop: CancellationToken) {
        loop {
            let changed = tokio::select! {
                changed = compiled.changed() => changed,
                () = tokio::time::sleep(AGAIN), if self.pending().is_some() => {
                    let newest = compiled.borrow().offer();
                    if hub.convergence().behind(&newest) == 0 {
                        *self.pending.lock() = None;
                    }
                    continue;
                }
                () = stop.cancelled() => return,
            };
            if changed.is_err() {
                return;
            }
            let begun = Instant::now();
            self.pending.lock().get_or_insert(begun);
            let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
            let mut most = 0;
            loop {
                let newest = compiled.borrow_and_update().clone();
                let looked = Instant::now();
                let behind = hub.convergence().behind(&newest.offer());
                let pause = PAUSE.max(looked.elapsed() * SPARE);
                most = most.max(behind);
                if behind == 0 {
                    *self.pending.lock() = None;
                }
                if behind == 0 && most > 0 {
                    let ms = (begun.elapsed().as_secs_f64() * 10_000.0).round() / 10.0;
                    self.add(Arrived { generation: newest.generation, at: since.as_secs(), sidecars: most, ms });
                }
                // After the last look too: where something changes all the time, looking is no more than that.
                tokio::select! {
                    () = tokio::time::sleep(pause) => {}
                    () = stop.cancelled() => return,
                }
                if behind == 0 || begun.elapsed() > LONGEST {
                    break;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_changes_are_kept_and_their_shares_are_of_them() {
        let pace = Pace::default();
        assert_eq!(pace.within(0.5), None);
        for n in 1..=150_u32 {
            pace.add(Arrived { generation: n.into(), at: 0, sidecars: 1, ms: n.into() });
        }
        assert_eq!((pace.last().len(), pace.last()[0].generation), (100, 51));
        assert_eq!((pace.within(0.5), pace.within(0.99)), (Some(100.0), Some(149.0)));
    }
}
