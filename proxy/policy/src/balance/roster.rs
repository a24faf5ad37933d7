//! Who may be drawn, and how likely: health, locality, weight and warm-up, worked out once for many calls.

use std::time::{Duration, Instant};

use super::consistent::{Node, Table};
use super::hash::hash_key;
use super::{Algorithm, scale};
use crate::config::Health;

/// Below this share of ready endpoints readiness is no longer believed, unless a backend says otherwise.
pub const PANIC_PERCENT: u32 = 50;
/// Endpoints of a locality take their calls as long as this much more than the ready ones could be asked of them:
/// Envoy's overprovisioning factor, in percent. With 72 % ready nothing spills over yet.
const OVERPROVISION: u64 = 140;
/// Steps in which the weight of a new endpoint grows.
const STEPS: u32 = 10;

/// Where something runs. Empty: not known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Locality<'l> {
    /// Region.
    pub region: &'l str,
    /// Zone in the region.
    pub zone: &'l str,
}

/// What a roster is made under.
#[derive(Clone, Copy, Debug, Default)]
pub struct Plan<'p> {
    /// Hashing algorithms have a table made.
    pub algorithm: Algorithm,
    /// Where the caller runs; nothing known: endpoints of all localities are alike.
    pub own: Locality<'p>,
    /// Below this share of ready endpoints, in percent of those not draining, readiness is not believed. 0: it always
    /// is.
    pub panic_percent: u32,
    /// How long a new endpoint's share grows. Hashing algorithms take no notice: a key would move each time.
    pub slow_start: Option<Duration>,
}

/// An endpoint as a roster sees it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Seat<'s> {
    /// What tells it from others for as long as it lives (its uid): consistent hashing goes by it.
    pub id: &'s str,
    /// Whether it may get new calls, discovery's word and that of active checks (see [`crate::health`]) together.
    pub health: Health,
    /// 0 counts as 1.
    pub weight: u32,
    /// Where it runs.
    pub locality: Locality<'s>,
    /// Since when it has been ready, where that was seen to begin. `None`: it is warm.
    pub ready_since: Option<Instant>,
}

/// Who may be drawn, and how likely. Made anew whenever endpoints or their health change, and when [`Self::next_change`]
/// has come; the indices are those of the endpoints it was made from.
#[derive(Clone, Debug, Default)]
pub struct Roster {
    /// By locality: own zone, own region, elsewhere. Invariant: none is empty.
    tiers: Vec<Tier>,
    panic: bool,
    next_change: Option<Instant>,
}

/// Endpoints that are equally near.
#[derive(Clone, Debug, Default)]
pub(super) struct Tier {
    /// Indices of the endpoints that may be drawn.
    pub members: Vec<u32>,
    /// Running sums of their weights. Invariant: as long as `members`, strictly increasing.
    pub sums: Vec<u64>,
    /// Whether all weights are equal.
    pub even: bool,
    /// How far round-robin walks along the sums at each turn.
    pub stride: u64,
    /// Of a hashing algorithm. Its positions are those of `members`.
    pub table: Option<Table>,
    /// Parts in [`WHOLE`] of calls that it and the tiers before it get.
    until: u64,
}

/// All calls.
const WHOLE: u64 = 1 << 32;

impl Roster {
    /// From health and weight of every endpoint, in the order of the views that will be passed to
    /// [`super::Balancer::pick`]: all alike near, all warm, for any algorithm that does not hash. A weight of 0 counts
    /// as 1.
    pub fn new(endpoints: impl IntoIterator<Item = (Health, u32)>) -> Self {
        let seats: Vec<Seat<'_>> =
            endpoints.into_iter().map(|(health, weight)| Seat { health, weight, ..Seat::default() }).collect();
        let plan = Plan { panic_percent: PANIC_PERCENT, ..Plan::default() };
        // Nothing is warming up, so that no moment is any different.
        Self::build(&plan, &seats, None, &[])
    }

    /// From every endpoint, in the order of the views that will be passed to [`super::Balancer::pick`].
    pub fn plan(plan: &Plan<'_>, seats: &[Seat<'_>], now: Instant) -> Self {
        Self::build(plan, seats, Some(now), &[])
    }

    /// What [`Self::plan`] makes of these, sooner: a ring is made from the one of this roster, whose endpoints may be others.
    pub fn replan(&self, plan: &Plan<'_>, seats: &[Seat<'_>], now: Instant) -> Self {
        Self::build(plan, seats, Some(now), &self.tiers)
    }

    fn build(plan: &Plan<'_>, seats: &[Seat<'_>], now: Option<Instant>, before: &[Tier]) -> Self {
        let ready = seats.iter().filter(|seat| is_ready(seat.health)).count() as u64;
        let candidates = seats.iter().filter(|seat| seat.health != Health::Draining).count() as u64;
        let panic = ready * 100 < candidates * u64::from(plan.panic_percent);
        let warm_up = plan.slow_start.filter(|_| !plan.algorithm.hashes());
        let warmth: Vec<Warmth> = seats.iter().map(|seat| Warmth::of(seat, warm_up, now)).collect();
        // Where all are warm the weights stay as they are; equal ones are drawn faster.
        let warming = seats.iter().zip(&warmth).any(|(seat, warmth)| is_ready(seat.health) && warmth.next.is_some());

        // In a panic nobody is near: what is left has to be spread over everyone.
        let mut nearness: [Vec<(u32, u64)>; 3] = Default::default();
        let (mut of_tier, mut ready_of_tier) = ([0_u64; 3], [0_u64; 3]);
        for (index, (seat, warmth)) in (0..).zip(seats.iter().zip(&warmth)) {
            let tier = if panic { 0 } else { seat.locality.distance_from(plan.own) };
            if seat.health != Health::Draining {
                of_tier[tier] += 1;
                ready_of_tier[tier] += u64::from(is_ready(seat.health));
            }
            if if panic { seat.health != Health::Draining } else { is_ready(seat.health) } {
                let weight = u64::from(seat.weight.max(1));
                let drawn = if warming { weight * u64::from(warmth.step) } else { weight };
                nearness[tier].push((index, drawn));
            }
        }
        let shares = spill(&of_tier, &ready_of_tier);
        let (mut tiers, mut until) = (Vec::new(), 0);
        for (members, share) in nearness.into_iter().zip(shares) {
            until += share;
            if !members.is_empty() {
                let table = before.get(tiers.len()).and_then(|tier| tier.table.as_ref());
                tiers.push(Tier::new(&members, seats, plan.algorithm, until, table));
            }
        }
        let next = |(seat, warmth): (&Seat<'_>, &Warmth)| warmth.next.filter(|_| is_ready(seat.health));
        Roster { tiers, panic, next_change: seats.iter().zip(&warmth).filter_map(next).min() }
    }

    /// Whether readiness is being ignored.
    pub fn is_panicking(&self) -> bool {
        self.panic
    }

    /// How many endpoints may be drawn.
    pub fn len(&self) -> usize {
        self.tiers.iter().map(|tier| tier.members.len()).sum()
    }

    /// Whether none may be drawn.
    pub fn is_empty(&self) -> bool {
        self.tiers.is_empty()
    }

    /// When time alone makes this roster outdated: an endpoint that is warming up has earned another tenth of its
    /// weight. `None`: never.
    pub fn next_change(&self) -> Option<Instant> {
        self.next_change
    }

    /// Whether some endpoints are nearer than others.
    pub(super) fn has_tiers(&self) -> bool {
        self.tiers.len() > 1
    }

    /// Indices of the endpoints that may be drawn, the nearest first.
    pub fn members(&self) -> impl Iterator<Item = usize> {
        self.tiers.iter().flat_map(|tier| tier.members.iter().map(|index| *index as usize))
    }

    /// The tiers in the order in which one call tries them: its share's own, then the others, nearest first.
    /// `random` is uniform over all `u64`.
    pub(super) fn tiers(&self, random: u64) -> impl Iterator<Item = &Tier> {
        let point = scale(random, WHOLE);
        let own = self.tiers.partition_point(|tier| tier.until <= point).min(self.tiers.len().saturating_sub(1));
        let others = self.tiers.iter().enumerate().filter(move |(i, _)| *i != own).map(|(_, tier)| tier);
        self.tiers.get(own).into_iter().chain(others)
    }
}

fn is_ready(health: Health) -> bool {
    matches!(health, Health::Ready | Health::Unknown)
}

/// Parts in [`WHOLE`] of calls for each tier: the nearest as much as its ready endpoints can bear, the next of what is
/// left. When all together cannot bear everything, each gets its part of what they can.
fn spill(all: &[u64; 3], ready: &[u64; 3]) -> [u64; 3] {
    let part = |of: u64, all: u64| {
        let part = u128::from(WHOLE) * u128::from(of) / u128::from(all.max(1));
        u64::try_from(part).unwrap_or(WHOLE)
    };
    let mut left = WHOLE;
    let mut shares = [0; 3];
    for ((share, all), ready) in shares.iter_mut().zip(all).zip(ready) {
        *share = part(ready * OVERPROVISION, all * 100).min(left);
        left -= *share;
    }
    shares.map(|share| part(share, WHOLE - left))
}

impl Locality<'_> {
    /// 0 in the same zone, 1 in the same region, 2 elsewhere. What is not known is no common ground.
    fn distance_from(self, own: Locality<'_>) -> usize {
        // A zone without a region is a name of its own: both must then lack one.
        match (self.region == own.region, !own.zone.is_empty() && self.zone == own.zone) {
            (true, true) => 0,
            (true, false) if !own.region.is_empty() => 1,
            _ => 2,
        }
    }
}

/// How far an endpoint has warmed up.
struct Warmth {
    /// Tenths of its weight: 1 to 10.
    step: u32,
    /// When it gets another.
    next: Option<Instant>,
}

impl Warmth {
    fn of(seat: &Seat<'_>, window: Option<Duration>, now: Option<Instant>) -> Self {
        const WARM: Warmth = Warmth { step: STEPS, next: None };
        let (Some(window), Some(since), Some(now)) = (window, seat.ready_since, now) else { return WARM };
        let past = now.saturating_duration_since(since);
        if past >= window {
            return WARM;
        }
        let step =
            u32::try_from(past.as_nanos() * u128::from(STEPS) / window.as_nanos().max(1)).unwrap_or(STEPS).max(1);
        // Rounded up: at that moment it has surely earned it.
        let next = window.checked_mul(step + 1).map(|tenths| tenths / STEPS + Duration::from_nanos(1));
        Warmth { step, next: next.and_then(|after| since.checked_add(after.min(window))) }
    }
}

impl Tier {
    fn new(
        members: &[(u32, u64)],
        seats: &[Seat<'_>],
        algorithm: Algorithm,
        until: u64,
        before: Option<&Table>,
    ) -> Self {
        let mut tier = Tier { even: true, until, ..Tier::default() };
        let (mut sum, mut one) = (0, None);
        for (index, weight) in members {
            tier.even &= *one.get_or_insert(*weight) == *weight;
            sum += weight;
            tier.members.push(*index);
            tier.sums.push(sum);
        }
        tier.stride = stride(sum);
        let node = |(index, weight): &(u32, u64)| Node {
            id: hash_key(seats.get(*index as usize).map_or("", |seat| seat.id).as_bytes()),
            weight: u32::try_from(*weight).unwrap_or(u32::MAX),
        };
        tier.table = match algorithm {
            Algorithm::RingHash => Some(Table::ring(members.iter().map(node).collect(), before)),
            Algorithm::Maglev => Some(Table::maglev(members.iter().map(node).collect())),
            _ => None,
        };
        tier
    }

    /// A position among the members, by weight.
    pub fn draw(&self, random: u64) -> usize {
        if self.even {
            return scale(random, self.members.len() as u64) as usize;
        }
        let point = scale(random, self.sums.last().copied().unwrap_or(0));
        self.sums.partition_point(|sum| *sum <= point)
    }

    /// Weight of a member over the mean.
    pub fn capacity(&self, position: usize) -> f64 {
        if self.even {
            return 1.0;
        }
        let sum = |p: usize| self.sums.get(p).copied().unwrap_or(0);
        let below = position.checked_sub(1).map_or(0, sum);
        let mean = self.sums.last().copied().unwrap_or(1) as f64 / self.members.len() as f64;
        (sum(position) - below) as f64 / mean
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
