//! Weighted rendezvous: of all endpoints each runs a time of its own on a track, and the fastest has it.
//!
//! Thaler and Ravishankar, “Using name-based mappings to increase hit rates” (IEEE/ACM Transactions on Networking 1998), with times from
//! an exponential distribution whose rate is the weight, `-ln(1 - luck) / weight`: the chance to be first is the share of the weight.

use super::super::hash::mix;
use super::Node;

/// Who runs.
#[derive(Clone, Debug)]
pub(super) struct Race {
    nodes: Vec<Node>,
    heaviest: f64,
    /// Whether all weights are equal.
    even: bool,
}

impl Race {
    pub fn new(nodes: Vec<Node>) -> Self {
        let weights = || nodes.iter().map(|node| node.weight);
        let (lightest, heaviest) = (weights().min(), weights().max());
        Race { heaviest: f64::from(heaviest.unwrap_or(1)), even: lightest == heaviest, nodes }
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
        let (mut winner, mut record) = (None, f64::INFINITY);
        for (position, node) in self.nodes.iter().enumerate() {
            // 53 bits are what an `f64` holds.
            let luck = (mix(node.id ^ track) >> 11) as f64 / (1_u64 << 53) as f64;
            let weight = f64::from(node.weight);
            // -ln(1 - x) ≥ x: nearly all have lost already, without a logarithm.
            let least = luck / weight;
            if least >= record {
                continue;
            }
            // Among equals luck alone decides.
            let time = if self.even { least } else { -(-luck).ln_1p() / weight };
            if time < record && takes(position) {
                (winner, record) = (Some(position), time);
            }
        }
        winner
    }
}
