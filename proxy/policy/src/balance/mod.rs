//! Which endpoint a call goes to.
//!
//! A [`Roster`] is made when the endpoints change: it knows who may get calls (health, panic threshold) and the weights. [`Balancer::pick`] then draws from
//! it for each call and asks the endpoints' live [`View`]s for load and availability. Nothing here ejects an endpoint (that is [`crate::breaker`]) or counts
//! permits (that is [`crate::limit`]).

mod load;

use std::sync::atomic::AtomicUsize;
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

/// Who may be drawn, and how likely. Made anew whenever endpoints change; the indices are those of the endpoints it was made from.
#[derive(Clone, Debug, Default)]
pub struct Roster {
    members: Vec<u32>,
    sums: Vec<u64>,
    even: bool,
    panic: bool,
}

/// Below this share of ready endpoints readiness is no longer believed, and all but the draining get calls.
pub const PANIC_PERCENT: usize = 50;

/// Draws endpoints. One for each backend (and, if wanted, worker): it holds the turn of round-robin.
#[derive(Debug, Default)]
pub struct Balancer {
    algorithm: Algorithm,
    turn: AtomicUsize,
}

impl Roster {
    /// From health and weight of every endpoint, in the order of the views that will be passed to [`Balancer::pick`].
    pub fn new(endpoints: impl IntoIterator<Item = (Health, u32)>) -> Self {
        let _ = endpoints.into_iter().count();
        unimplemented!()
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
}

impl Balancer {
    /// A balancer of that algorithm.
    pub fn new(algorithm: Algorithm) -> Self {
        Balancer { algorithm, turn: AtomicUsize::new(0) }
    }

    /// The index of the endpoint to try, `None` when none is available. Those that `avoid` names (already tried) are taken only when there is no other.
    /// `random` yields uniform `u64`s. Does not allocate.
    pub fn pick<V: View>(
        &self,
        roster: &Roster,
        views: &[V],
        now: Instant,
        avoid: impl Fn(&V) -> bool,
        random: &mut impl FnMut() -> u64,
    ) -> Option<usize> {
        let _ = (roster, views, now, avoid(views.first()?), random());
        unimplemented!()
    }
}
