//! A table of slots, as Maglev has it (Eisenbud et al., “Maglev: a fast and reliable software network load balancer”, NSDI 2016, §3.4),
//! filled otherwise: each slot belongs to the winner of a race for it.
//!
//! Maglev's endpoints take slots in turns, so that one that leaves moves slots of the others too. Here nobody's slot depends on who else is
//! there, in exchange for shares that are even to 1/√(slots of one) and not to a slot. All tables have one size, since with another size
//! keys would belong elsewhere. A table only remembers who won: a slot is raced for when a key first falls into it, and making a new table
//! costs next to nothing.

use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};

use super::race::Race;

/// There are 2 to this many slots: 524 for each of 1000 endpoints, whose share then deviates by 4.4 %.
const BITS: u32 = 19;
/// For so many a race is nearly as quick as a table would be, and nothing is remembered.
const FEW: usize = 16;

/// Who is known to have won which slot.
#[derive(Clone, Debug)]
pub(super) struct Slots {
    /// Positions plus one; 0: not raced for yet. Invariant: none of them, or 2 to the [`BITS`].
    winners: Arc<[AtomicU16]>,
}

impl Slots {
    pub fn new(race: &Race) -> Self {
        // Nor is anything of more endpoints than 16 bits can name, which no service has.
        let slots = if (FEW + 1..usize::from(u16::MAX)).contains(&race.nodes().len()) { 1_u32 << BITS } else { 0 };
        Slots { winners: (0..slots).map(|_| AtomicU16::new(0)).collect() }
    }

    /// Whoever wins the key's slot of those that `takes` accepts.
    pub fn find(&self, race: &Race, key: u64, takes: impl Fn(usize) -> bool) -> Option<usize> {
        let slot = key >> (u64::BITS - BITS);
        let owner = match self.winners.get(slot as usize) {
            Some(known) => match known.load(Ordering::Relaxed).checked_sub(1) {
                Some(owner) => usize::from(owner),
                None => {
                    let owner = race.winner(slot, |_| true)?;
                    known.store(u16::try_from(owner + 1).unwrap_or(0), Ordering::Relaxed);
                    owner
                }
            },
            None => return race.winner(slot, takes),
        };
        if takes(owner) { Some(owner) } else { race.winner(slot, takes) }
    }

    /// Bytes of the table.
    #[cfg(test)]
    pub fn size(&self) -> usize {
        size_of_val(&*self.winners)
    }

    /// How many slots have an owner already.
    #[cfg(test)]
    pub fn known(&self) -> usize {
        self.winners.iter().filter(|winner| winner.load(Ordering::Relaxed) > 0).count()
    }
}
