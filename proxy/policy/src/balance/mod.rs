//! Which endpoint a call goes to.
//!
//! A [`Roster`] is made when the endpoints change: it knows who may get calls (health, panic threshold) and the
//! weights. [`Balancer::pick`] then draws from it for each call and asks the endpoints' live [`View`]s for load and
//! availability. Nothing here ejects an endpoint (that is [`crate::breaker`]) or counts permits (that is
//! [`crate::limit`]).

mod load;
#[cfg(test)]
mod tests;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

pub use load::{InFlight, Load};

use crate::config::Health;

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
}

/// An endpoint as the balancer sees it.
pub trait View {
    /// Its load as this worker, or this process, knows it.
    fn load(&self) -> &Load;
    /// Whether it would take a call now: its breaker admits one.
    fn available(&self, now: Instant) -> bool;
}

/// Below this share of ready endpoints readiness is no longer believed, and all but the draining get calls.
pub const PANIC_PERCENT: usize = 50;

/// Who may be drawn, and how likely. Made anew whenever endpoints change; the indices are those of the endpoints it was
/// made from.
#[derive(Clone, Debug, Default)]
pub struct Roster {
    /// Indices of the endpoints that may be drawn.
    members: Vec<u32>,
    /// Running sums of their weights. Invariant: as long as `members`, strictly increasing.
    sums: Vec<u64>,
    /// Whether all weights are equal.
    even: bool,
    /// How far round-robin walks along the sums at each turn.
    stride: u64,
    panic: bool,
}

/// Draws endpoints. One for each backend (and, if wanted, worker): it holds the turn of round-robin.
#[derive(Debug, Default)]
pub struct Balancer {
    algorithm: Algorithm,
    turn: AtomicUsize,
}

/// Draws that meet an unavailable endpoint before all are looked at in order.
const DRAWS: usize = 8;

impl Roster {
    /// From health and weight of every endpoint, in the order of the views that will be passed to [`Balancer::pick`]. A
    /// weight of 0 counts as 1.
    pub fn new(endpoints: impl IntoIterator<Item = (Health, u32)>) -> Self {
        let all: Vec<(Health, u32)> = endpoints.into_iter().collect();
        let is_ready = |health: Health| matches!(health, Health::Ready | Health::Unknown);
        let ready = all.iter().filter(|(health, _)| is_ready(*health)).count();
        let candidates = all.iter().filter(|(health, _)| *health != Health::Draining).count();
        let panic = ready * 100 < candidates * PANIC_PERCENT;
        let drawn = |health: Health| if panic { health != Health::Draining } else { is_ready(health) };

        let mut roster = Roster { even: true, panic, ..Roster::default() };
        let (mut sum, mut one) = (0, None);
        for (index, (_, weight)) in (0..).zip(&all).filter(|(_, (health, _))| drawn(*health)) {
            let weight = (*weight).max(1);
            roster.even &= *one.get_or_insert(weight) == weight;
            sum += u64::from(weight);
            roster.members.push(index);
            roster.sums.push(sum);
        }
        roster.stride = stride(sum);
        roster
    }

    /// Whether readiness is being ignored.
    pub fn is_panicking(&self) -> bool {
        self.panic
    }

    /// How many endpoints may be drawn.
    pub fn len(&self) -> usize {
        self.members.len()
    }

    /// Whether none may be drawn.
    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// A position among the members, by weight.
    fn draw(&self, random: u64) -> usize {
        if self.even {
            return scale(random, self.members.len() as u64) as usize;
        }
        let point = scale(random, self.sums.last().copied().unwrap_or(0));
        self.sums.partition_point(|sum| *sum <= point)
    }

    /// Weight of a member over the mean.
    fn capacity(&self, position: usize) -> f64 {
        if self.even {
            return 1.0;
        }
        let sum = |p: usize| self.sums.get(p).copied().unwrap_or(0);
        let below = position.checked_sub(1).map_or(0, sum);
        let mean = self.sums.last().copied().unwrap_or(1) as f64 / self.members.len() as f64;
        (sum(position) - below) as f64 / mean
    }
}

/// Uniform over `0..limit`, without a division: the high word of the product.
fn scale(random: u64, limit: u64) -> u64 {
    ((u128::from(random) * u128::from(limit)) >> 64) as u64
}

/// What one draw is made from.
struct Draw<'d, V, A> {
    roster: &'d Roster,
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
    /// taken only when there is no other. `random` yields uniform `u64`s. Does not allocate.
    pub fn pick<V: View>(
        &self,
        roster: &Roster,
        views: &[V],
        now: Instant,
        avoid: impl Fn(&V) -> bool,
        random: &mut impl FnMut() -> u64,
    ) -> Option<usize> {
        let preferred = Draw { roster, views, now, avoid: &avoid };
        self.pick_from(&preferred, random)
            .or_else(|| self.pick_from(&Draw { roster, views, now, avoid: |_: &V| false }, random))
    }

    fn pick_from<V: View, A: Fn(&V) -> bool>(
        &self,
        draw: &Draw<'_, V, A>,
        random: &mut impl FnMut() -> u64,
    ) -> Option<usize> {
        let position = match self.algorithm {
            Algorithm::Random => draw.one(random),
            Algorithm::RoundRobin => draw.next(self.turn.fetch_add(1, Ordering::Relaxed)),
            Algorithm::PeakEwma => draw.better_of_two(random, |load| load.latency_nanos(draw.now)),
            Algorithm::LeastRequest => draw.better_of_two(random, |_| None),
        }?;
        draw.index(position)
    }
}

impl<V: View, A: Fn(&V) -> bool> Draw<'_, V, A> {
    fn index(&self, position: usize) -> Option<usize> {
        self.roster.members.get(position).map(|index| *index as usize)
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
        let count = self.roster.len();
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
            position = self.roster.draw(random());
            if wanted(position) {
                return Some(position);
            }
        }
        let start = if self.roster.even { position } else { scale(random(), count as u64) as usize };
        (start..count).chain(0..start).find(|position| wanted(*position))
    }

    /// The member whose turn it is, by weight: turns walk through the weights, so that a weight of 3 has 3 of them.
    fn next(&self, turn: usize) -> Option<usize> {
        let count = self.roster.len();
        let total = self.roster.sums.last().copied()?;
        let start = if self.roster.even {
            turn % count
        } else {
            // A stride coprime to the total visits every point once, far from its neighbours: turns of one member are
            // spread out.
            let point = (turn as u64 % total).wrapping_mul(self.roster.stride) % total;
            self.roster.sums.partition_point(|sum| *sum <= point)
        };
        (start..count).chain(0..start).find(|position| self.takes(*position))
    }

    /// The cheaper of two random members (power of two choices).
    ///
    /// With equal weights the two differ. Otherwise both are drawn by weight and may be the same: endpoints that
    /// perform alike then get exactly their shares, and one that is slow gets no more than its share's square.
    fn better_of_two(&self, random: &mut impl FnMut() -> u64, latency: impl Fn(&Load) -> Option<f64>) -> Option<usize> {
        let first = self.one(random)?;
        let second = if self.roster.even { self.other_than(Some(first), random) } else { self.one(random) };
        let Some(second) = second.filter(|second| *second != first) else { return Some(first) };
        let (one, other) = (self.view(first)?.load(), self.view(second)?.load());
        // What has no history is taken to be as fast as its rival: then calls in flight decide.
        let (fast, faster) = match (latency(one), latency(other)) {
            (None, None) => (1.0, 1.0),
            (one, other) => (one.or(other).unwrap_or(1.0), other.or(one).unwrap_or(1.0)),
        };
        let queue = |load: &Load, position| f64::from(load.in_flight()) / self.roster.capacity(position) + 1.0;
        Some(if faster * queue(other, second) < fast * queue(one, first) { second } else { first })
    }
}

/// About 0.618 of the total, and coprime to it.
fn stride(total: u64) -> u64 {
    let golden = scale(0x9E37_79B9_7F4A_7C15, total).max(1);
    (golden..=total).find(|candidate| gcd(*candidate, total) == 1).unwrap_or(1)
}

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}
