//! What is offered to whom: one snapshot for all sidecars, and while a change is tried another for a sample of them.
//!
//! Which sidecars are in the sample, and what it gets, is decided in [`crate::rollout`].

use super::interest::Topic;
use super::snapshot::Snapshot;
use crate::compile::Output;
use std::collections::BTreeSet;
use std::sync::Arc;

/// A snapshot for some sidecars only.
#[derive(Clone, Debug)]
pub struct Canary {
    /// Shares with that of all others whatever is equal.
    pub snapshot: Arc<Snapshot>,
    /// Workload uids.
    pub sample: Arc<BTreeSet<String>>,
}

/// What is offered at a moment. A copy is cheap.
#[derive(Clone, Debug, Default)]
pub struct Offer {
    /// For all sidecars that are in no sample.
    pub stable: Arc<Snapshot>,
    /// While a change is tried.
    pub canary: Option<Canary>,
}

impl From<Arc<Snapshot>> for Offer {
    fn from(stable: Arc<Snapshot>) -> Self {
        Self { stable, canary: None }
    }
}

impl Offer {
    /// What comes after this: `output` for all, another output for a sample.
    #[must_use]
    pub fn next(&self, output: &Output, trial: Option<(&Output, Arc<BTreeSet<String>>)>) -> Self {
        let stable = Arc::new(Snapshot::next(&self.stable, output));
        let canary =
            trial.map(|(output, sample)| Canary { snapshot: Arc::new(Snapshot::next(&stable, output)), sample });
        Self { stable, canary }
    }

    /// What the sidecar of a workload is offered; `None`: it has not said which it is.
    #[must_use]
    pub fn of(&self, workload: Option<&str>) -> &Arc<Snapshot> {
        let canary = self.canary.as_ref().filter(|canary| workload.is_some_and(|uid| canary.sample.contains(uid)));
        canary.map_or(&self.stable, |canary| &canary.snapshot)
    }

    /// Names whose resource may be another one for somebody than in the offer before: what changed for all, and in what the sample differed
    /// or differs from them.
    pub fn topics<'o>(&'o self, before: &'o Self) -> impl Iterator<Item = &'o [Topic]> {
        let canaries = [&before.canary, &self.canary].into_iter().flatten();
        std::iter::once(self.stable.topics()).chain(canaries.map(|canary| canary.snapshot.topics()))
    }
}
