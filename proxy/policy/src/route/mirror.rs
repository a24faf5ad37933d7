//! `RequestMirror`: which calls are copied, and where the copies go. The copy's answer is nobody's business here.

use super::share::{Share, nth_draw};
use super::{BackendName, Rule, Target, WeightedBackend};

/// Sends a copy of a share of the calls.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mirror {
    /// Where copies go; nothing is sent to what does not resolve.
    pub target: Target,
    /// How many of the calls.
    pub share: Share,
}

impl Rule {
    /// Where copies of a call that goes to `backend` are sent: by the mirrors of the rule, then by those of the backend, each drawn for
    /// itself. `random` is uniform over all `u64`; the draw that chose the backend may be used again.
    pub fn mirrors<'r>(&'r self, backend: &'r WeightedBackend, random: u64) -> impl Iterator<Item = &'r BackendName> {
        let mirrors = self.filters.mirrors().iter().chain(backend.filters.mirrors());
        (0_u64..)
            .zip(mirrors)
            .filter(move |(index, mirror)| mirror.share.hits(nth_draw(random, *index)))
            .filter_map(|(_, mirror)| mirror.target.name())
    }
}
