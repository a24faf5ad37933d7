//! Weighted rendezvous: of all endpoints each runs a time of its own on a track, and the fastest has it.
//!
//! Thaler and Ravishankar, “Using name-based mappings to increase hit rates” (IEEE/ACM Transactions on Networking 1998), with times from
//! an exponential distribution whose rate is the weight: the chance to be first is the share of the weight.

use super::super::hash::mix;
use super::Node;

/// Who runs.
#[derive(Clone, Debug)]
pub(super) struct Race {
    nodes: Vec<Node>,
    heaviest: f64,
}

/// What somebody's time is known by: `luck` uniform in `[0, 1)`, of which the time is `-ln(1 - luck) / weight`.
#[derive(Clone, Copy)]
struct Time {
    luck: f64,
    weight: f64,
}

impl Time {
    /// No time is less: -ln(1 - x) ≥ x.
    fn least(self) -> f64 {
        self.luck / self.weight
    }

    /// No time is more: -ln(1 - x) ≤ x / (1 - x).
    fn most(self) -> f64 {
        self.least() / (1.0 - self.luck)
    }

    fn exact(self) -> f64 {
        -(-self.luck).ln_1p() / self.weight
    }

    fn is_less_than(self, other: Self) -> bool {
        if self.weight == other.weight { self.luck < other.luck } else { self.exact() < other.exact() }
    }
}

impl Race {
    pub fn new(nodes: Vec<Node>) -> Self {
        let heaviest = nodes.iter().map(|node| node.weight).max().unwrap_or(1);
        Race { nodes, heaviest: f64::from(heaviest) }
    }

    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// The hash of an endpoint's uid.
    pub fn id(&self, position: u32) -> u64 {
        self.nodes.get(position as usize).map_or(0, |node| node.id)
    }

    pub fn weight(&self, position: u32) -> f64 {
        self.nodes.get(position as usize).map_or(1.0, |node| f64::from(node.weight))
    }

    pub fn heaviest(&self) -> f64 {
        self.heaviest
    }

    /// The position of the fastest on this track, of those that `takes` accepts.
    pub fn winner(&self, track: u64, takes: impl Fn(usize) -> bool) -> Option<usize> {
        // Tracks are numbered: their bits have to reach all bits of an id.
        let track = mix(track);
        let mut winner: Option<(usize, Time)> = None;
        let mut record = f64::INFINITY;
        for (position, node) in self.nodes.iter().enumerate() {
            // 53 bits are what an `f64` holds.
            let luck = (mix(node.id ^ track) >> 11) as f64 / (1_u64 << 53) as f64;
            let time = Time { luck, weight: f64::from(node.weight) };
            // Nearly all have lost by now; a logarithm only decides between unequals that are close.
            if time.least() >= record || winner.is_some_and(|(_, best)| !time.is_less_than(best)) {
                continue;
            }
            if takes(position) {
                record = time.most();
                winner = Some((position, time));
            }
        }
        winner.map(|(position, _)| position)
    }
}
