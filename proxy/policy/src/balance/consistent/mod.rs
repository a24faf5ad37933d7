//! Consistent hashing: a key keeps its endpoint when others come and go.
//!
//! A [`Table`] is made when the endpoints change, from the one before where there is one, and only looked up for each
//! call. Who has a key follows from the key and from each endpoint's own uid and weight alone: all sidecars agree, the
//! order of discovery does not matter, and when an endpoint leaves, or takes no calls, its keys move and no others. An
//! endpoint that takes no calls is passed over as if it were not there.
//!
//! * [`Ring`]: Ketama's circle of points. Small for few endpoints.
//! * [`Slots`]: a table of slots as Maglev has it, filled by weighted rendezvous. Quicker, and shares are more even the fewer endpoints there
//!   are; of one size, unless they are very few.

mod race;
mod ring;
mod slots;
#[cfg(test)]
mod tests;

use race::Race;
use ring::Ring;
use slots::Slots;

use super::hash::mix;

/// An endpoint as a table knows it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Node {
    /// Hash of its uid.
    pub id: u64,
    /// At least 1.
    pub weight: u32,
}

/// Where keys belong.
#[derive(Clone, Debug)]
pub(super) struct Table {
    race: Race,
    index: Index,
}

#[derive(Clone, Debug)]
enum Index {
    Ring(Ring),
    Maglev(Slots),
}

impl Table {
    /// A ring. Positions are indices of `nodes`. Equal to one made without `before`, which saves work.
    pub fn ring(nodes: Vec<Node>, before: Option<&Self>) -> Self {
        let race = Race::new(nodes);
        let before = before.and_then(|table| match &table.index {
            Index::Ring(ring) => Some((&table.race, ring)),
            Index::Maglev(_) => None,
        });
        let index = Index::Ring(Ring::new(&race, before));
        Table { race, index }
    }

    /// A table of slots. Positions are indices of `nodes`.
    pub fn maglev(nodes: Vec<Node>) -> Self {
        let race = Race::new(nodes);
        let index = Index::Maglev(Slots::new(&race));
        Table { race, index }
    }

    /// The position that a key belongs to, of those that `takes` accepts.
    pub fn find(&self, key: u64, takes: impl Fn(usize) -> bool) -> Option<usize> {
        // The hash of a short key is not mixed enough for its high bits to be the place.
        let key = mix(key);
        match &self.index {
            Index::Ring(ring) => ring.find(&self.race, key, takes),
            Index::Maglev(slots) => slots.find(&self.race, key, takes),
        }
    }
}
