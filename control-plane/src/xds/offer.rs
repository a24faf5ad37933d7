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
    /// Names in which it differs from that of all others.
    pub topics: Arc<[Topic]>,
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
    /// What comes after this: `output` for all, another output for a sample. With it come the names whose resource may be another one for
    /// somebody than before: what changed for all, and in what the sample differed or differs from them.
    #[must_use]
    pub fn next(&self, output: &Output, trial: Option<(&Output, Arc<BTreeSet<String>>)>) -> (Self, Vec<Topic>) {
        let (stable, mut topics) = Snapshot::next(&self.stable, output);
        let stable = Arc::new(stable);
        let canary = trial.map(|(output, sample)| {
            let (snapshot, topics) = Snapshot::next(&stable, output);
            Canary { snapshot: Arc::new(snapshot), sample, topics: topics.into() }
        });
        let canaries = [&self.canary, &canary].into_iter().flatten();
        topics.extend(canaries.flat_map(|canary| canary.topics.iter().cloned()));
        (Self { stable, canary }, topics)
    }

    /// What the sidecar of a workload is offered; `None`: it has not said which it is.
    #[must_use]
    pub fn of(&self, workload: Option<&str>) -> &Arc<Snapshot> {
        let canary = self.canary.as_ref().filter(|canary| workload.is_some_and(|uid| canary.sample.contains(uid)));
        canary.map_or(&self.stable, |canary| &canary.snapshot)
    }
}
