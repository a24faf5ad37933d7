//! Which endpoint a call goes to.
//!
//! A [`Roster`] is made when the endpoints change: it knows who may get calls (health, panic threshold), from whom first
//! (locality) and the weights (slow start). [`Balancer::pick`] then draws from it for each call and asks the endpoints'
//! live [`View`]s for load and availability. Nothing here ejects an endpoint (that is [`crate::breaker`]), asks it how it
//! is ([`crate::health`]) or counts permits ([`crate::limit`]).

mod consistent;
mod hash;
mod load;
#[cfg(test)]
mod placement;
mod roster;
#[cfg(test)]
mod tests;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

pub(crate) use hash::hash_seeded;
pub use hash::{HashKey, hash_key};
pub use load::{InFlight, Load};
pub use roster::{Locality, PANIC_PERCENT, Plan, Roster, Seat};

use hash::mix;
use roster::Tier;

/// How an endpoint is chosen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Algorithm {
    /// The better of two random ones, by peak EWMA of latency times calls in flight.
    #[default]
    PeakEwma,
    /// The better of two random ones, by calls in flight.
    LeastRequest,
    /// One after the other, by weight.
    RoundRobin,
    /// By weight alone.
    Random,
    /// By the call's key on a ring of points (Ketama).
    RingHash,
    /// By the call's key in a table of slots, as Maglev has it (NSDI 2016), filled by weighted rendezvous.
    Maglev,
}

impl Algorithm {
    /// Whether calls are told apart by a key.
    pub fn hashes(self) -> bool {
        matches!(self, Algorithm::RingHash | Algorithm::Maglev)
    }
}

/// An endpoint as the balancer sees it.
pub trait View {
    /// Its load as this worker, or this process, knows it.
    fn load(&self) -> &Load;
    /// Whether it would take a call now: its breaker admits one.
    fn available(&self, now: Instant) -> bool;
}

/// Draws endpoints. One for each backend (and, if wanted, worker): it holds the turn of round-robin.
#[derive(Debug, Default)]
pub struct Balancer {
    algorithm: Algorithm,
    turn: AtomicUsize,
}

/// Draws that meet an unavailable endpoint before all are looked at in order.
const DRAWS: usize = 8;

/// Uniform over `0..limit`, without a division: the high word of the product.
fn scale(random: u64, limit: u64) -> u64 {
    ((u128::from(random) * u128::from(limit)) >> 64) as u64
}

/// What one draw is made from.
struct Draw<'d, V, A> {
    tier: &'d Tier,
    views: &'d [V],
    now: Instant,
    avoid: A,
}

impl Balancer {
    /// A balancer of that algorithm.
    pub fn new(algorithm: Algorithm) -> Self {
        Balancer { algorithm, turn: AtomicUsize::new(0) }
    }

    /// Its algorithm.
    pub fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// The index of the endpoint to try, `None` when none is available. Those that `avoid` names (already tried) are
    /// taken only when there is no other, near or far. `random` yields uniform `u64`s. Does not allocate.
    pub fn pick<V: View>(
        &self,
        roster: &Roster,
        views: &[V],
        now: Instant,
        avoid: impl Fn(&V) -> bool,
        random: &mut impl FnMut() -> u64,
    ) -> Option<usize> {
        self.pick_keyed(roster, views, now, avoid, None, random)
    }

    /// The same for a call whose key has this hash (see [`HashKey::of`]): under a hashing algorithm equal keys go to the
    /// same endpoint while it is available, and to the same other one while it is not. Other algorithms take no notice.
    pub fn pick_keyed<V: View>(
        &self,
        roster: &Roster,
        views: &[V],
        now: Instant,
        avoid: impl Fn(&V) -> bool,
        key: Option<u64>,
        random: &mut impl FnMut() -> u64,
    ) -> Option<usize> {
        let key = key.filter(|_| self.algorithm.hashes());
        // A key stays in its tier: how far it travels is its own, not each call's.
        let tier_by = match key {
            Some(key) => mix(!key),
            None if roster.has_tiers() => random(),
            None => 0,
        };
        let fresh = |tier| self.pick_from(&Draw { tier, views, now, avoid: &avoid }, key, random);
        roster.tiers(tier_by).find_map(fresh).or_else(|| {
            let any = |tier| self.pick_from(&Draw { tier, views, now, avoid: |_: &V| false }, key, random);
            roster.tiers(tier_by).find_map(any)
        })
    }

    fn pick_from<V: View, A: Fn(&V) -> bool>(
        &self,
        draw: &Draw<'_, V, A>,
        key: Option<u64>,
        random: &mut impl FnMut() -> u64,
    ) -> Option<usize> {
        let position = match (self.algorithm, &draw.tier.table, key) {
            (Algorithm::RingHash | Algorithm::Maglev, Some(table), Some(key)) => {
                table.find(key, |position| draw.takes(position))
            }
            (Algorithm::Random | Algorithm::RingHash | Algorithm::Maglev, ..) => draw.one(random),
            (Algorithm::RoundRobin, ..) => draw.next(self.turn.fetch_add(1, Ordering::Relaxed)),
            (Algorithm::PeakEwma, ..) => draw.better_of_two(random, |load| load.latency_nanos(draw.now)),
            (Algorithm::LeastRequest, ..) => draw.better_of_two(random, |_| None),
        }?;
        draw.index(position)
    }
}

impl<V: View, A: Fn(&V) -> bool> Draw<'_, V, A> {
    fn index(&self, position: usize) -> Option<usize> {
        self.tier.members.get(position).map(|index| *index as usize)
    }

    fn view(&self, position: usize) -> Option<&V> {
        self.views.get(self.index(position)?)
    }

    fn takes(&self, position: usize) -> bool {
        self.view(position).is_some_and(|view| !(self.avoid)(view) && view.available(self.now))
    }

    /// A member that takes calls, by weight: a few draws, then whoever comes first after a random place.
    fn one(&self, random: &mut impl FnMut() -> u64) -> Option<usize> {
        self.other_than(None, random)
    }

    fn other_than(&self, first: Option<usize>, random: &mut impl FnMut() -> u64) -> Option<usize> {
        let count = self.tier.members.len();
        if count == 0 {
            return None;
        }
        let wanted = |position: usize| Some(position) != first && self.takes(position);
        // Where there is no choice nothing is drawn.
        if count == 1 {
            return wanted(0).then_some(0);
        }
        let mut position = 0;
        for _ in 0..DRAWS {
            position = self.tier.draw(random());
            if wanted(position) {
                return Some(position);
            }
        }
        let start = if self.tier.even { position } else { scale(random(), count as u64) as usize };
        (start..count).chain(0..start).find(|position| wanted(*position))
    }

    /// The member whose turn it is, by weight: turns walk through the weights, so that a weight of 3 has 3 of them.
    fn next(&self, turn: usize) -> Option<usize> {
        let count = self.tier.members.len();
        let total = self.tier.sums.last().copied()?;
        let start = if self.tier.even {
            turn % count
        } else {
            // A stride coprime to the total visits every point once, far from its neighbours: turns of one member are
            // spread out.
            let point = (turn as u64 % total).wrapping_mul(self.tier.stride) % total;
            self.tier.sums.partition_point(|sum| *sum <= point)
        };
        (start..count).chain(0..start).find(|position| self.takes(*position))
    }

    /// The cheaper of two random members (power of two choices).
    ///
    /// With equal weights the two differ. Otherwise both are drawn by weight and may be the same: endpoints that
    /// perform alike then get exactly their shares, and one that is slow gets no more than its share's square.
    fn better_of_two(&self, random: &mut impl FnMut() -> u64, latency: impl Fn(&Load) -> Option<f64>) -> Option<usize> {
        let first = self.one(random)?;
        let second = if self.tier.even { self.other_than(Some(first), random) } else { self.one(random) };
        let Some(second) = second.filter(|second| *second != first) else { return Some(first) };
        let (one, other) = (self.view(first)?.load(), self.view(second)?.load());
        // What has no history is taken to be as fast as its rival: then calls in flight decide.
        let (of_one, of_other) = (latency(one), latency(other));
        let (fast, faster) = (of_one.or(of_other).unwrap_or(1.0), of_other.or(of_one).unwrap_or(1.0));
        let queue = |load: &Load, position| f64::from(load.in_flight()) / self.tier.capacity(position) + 1.0;
        Some(if faster * queue(other, second) < fast * queue(one, first) { second } else { first })
    }
}
