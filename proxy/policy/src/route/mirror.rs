//! `RequestMirror`: which calls are copied, and where the copies go. The copy's answer is nobody's business here.

use super::share::{Share, nth_draw};
use super::{Rule, Target, WeightedBackend};

/// Sends a copy of a share of the calls.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mirror {
    /// Where copies go; nothing is sent to what does not resolve.
    pub target: Target,
    /// How many of the calls.
    pub share: Share,
}

impl Rule {
    /// The mirrors that get a copy of a call that goes to `backend`: those of the rule, then those of the backend, each drawn for
    /// itself. `random` is uniform over all `u64`; the draw that chose the backend may be used again.
    pub fn mirrors<'r>(
        &'r self,
        backend: Option<&'r WeightedBackend>,
        random: u64,
    ) -> impl Iterator<Item = &'r Mirror> {
        let own = backend.map_or(&[][..], |backend| backend.filters.mirrors());
        (0_u64..)
            .zip(self.filters.mirrors().iter().chain(own))
            .filter(move |(index, mirror)| {
                matches!(mirror.target, Target::Backend(_)) && mirror.share.hits(nth_draw(random, *index))
            })
            .map(|(_, mirror)| mirror)
    }
}
