//! Ketama's circle: each endpoint has as many points on it, and a key goes to the next.
//!
//! With unequal weights to the next by distance over weight (Schindelhauer and Schomaker, “Weighted distributed hash tables”, SPAA 2005,
//! the linear method): an endpoint's points are where they are whatever the weights, its own or others'.

use foldhash::HashMap;

use super::super::hash::mix;
use super::race::Race;

/// Points of an endpoint. The share of one of many then deviates by 1/√768, 3.6 %: a share of 1.2 times the mean is five and a half
/// deviations away.
const POINTS: usize = 768;
/// Points of a ring (8 bytes each), which 2048 endpoints reach. Beyond, each has half of them, then a quarter…: keys move
/// when their number passes a power of two.
pub const MOST_POINTS: usize = 2_048 * POINTS;
/// Mean distances between points of one endpoint within which one is looked for. It has none there for one key in 3,000.
const REACH: u32 = 8;

/// The points of all.
#[derive(Clone, Debug)]
pub(super) struct Ring {
    /// Points, and the positions whose they are. Invariant: sorted, where two meet by the hash of the uid.
    points: Vec<(u32, u32)>,
    /// Points of each.
    each: u32,
}

/// Points of each of so many.
pub fn points_of_each(count: usize) -> u32 {
    let room = MOST_POINTS / count.next_power_of_two();
    room.clamp(1, POINTS) as u32
}

/// The points of those, sorted. Where two meet at one point the uid decides, not the order of discovery.
fn points_of(race: &Race, mut positions: Vec<u32>, each: u32) -> Vec<(u32, u32)> {
    positions.sort_unstable_by_key(|position| race.id(*position));
    let of_one = |(position, rank): (&u32, u64)| {
        let id = race.id(*position);
        // The high half of a mixed counter: an endpoint's points are independent of each other.
        (1..=u64::from(each)).map(move |replica| (mix(id ^ mix(replica)) >> 32 << 32) + rank)
    };
    let mut ranked: Vec<u64> = positions.iter().zip(0..).flat_map(of_one).collect();
    ranked.sort_unstable();
    let position = |ranked: u64| positions.get(ranked as u32 as usize).copied().unwrap_or(0);
    ranked.into_iter().map(|ranked| ((ranked >> 32) as u32, position(ranked))).collect()
}

/// In place of the position of an endpoint that has left.
const GONE: u32 = u32::MAX;

/// What has become of the endpoints of another ring.
struct Change {
    /// Where those are now, or [`GONE`].
    stay: Vec<u32>,
    /// Positions of the others.
    joined: Vec<u32>,
}

impl Change {
    fn between(before: &Race, now: &Race) -> Self {
        let mut known: HashMap<u64, usize> = before.nodes().iter().map(|node| node.id).zip(0..).collect();
        let mut change = Change { stay: vec![GONE; before.nodes().len()], joined: Vec::new() };
        for (position, node) in (0..).zip(now.nodes()) {
            match known.remove(&node.id).and_then(|old| change.stay.get_mut(old)) {
                Some(place) => *place = position,
                None => change.joined.push(position),
            }
        }
        change
    }
}

impl Ring {
    /// Equal to one made without `before`; of that the points of whoever stays are taken, which are sorted already.
    pub fn new(race: &Race, before: Option<(&Race, &Self)>) -> Self {
        Self::of(race, points_of_each(race.nodes().len()), before)
    }

    /// The same with so many points of each.
    pub fn of(race: &Race, each: u32, before: Option<(&Race, &Self)>) -> Self {
        let nobody = Race::new(Vec::new());
        let (other, mut old) = match before.filter(|(_, ring)| ring.each == each) {
            Some((other, ring)) => (other, &*ring.points),
            None => (&nobody, &[][..]),
        };
        let change = Change::between(other, race);
        // A pass without a branch over all of the others' points, and a second one only where somebody has left.
        let moved =
            |(point, position): &(u32, u32)| (*point, change.stay.get(*position as usize).copied().unwrap_or(GONE));
        let joined = points_of(race, change.joined, each);
        let mut points = Vec::with_capacity(old.len() + joined.len());
        for new in joined {
            let order = (new.0, race.id(new.1));
            let (below, above) = old.split_at(old.partition_point(|old| (old.0, other.id(old.1)) < order));
            points.extend(below.iter().map(moved));
            points.push(new);
            old = above;
        }
        points.extend(old.iter().map(moved));
        if change.stay.contains(&GONE) {
            points.retain(|(_, position)| *position != GONE);
        }
        Ring { points, each }
    }

    /// Whoever `takes` accepts and is nearest after the key, by distance over weight.
    pub fn find(&self, race: &Race, key: u64, takes: impl Fn(usize) -> bool) -> Option<usize> {
        let wanted = (key >> 32) as u32;
        let reach = (u32::MAX / self.each).saturating_mul(REACH);
        let start = self.points.partition_point(|(point, _)| *point < wanted);
        let (before, after) = self.points.split_at(start);
        let (mut nearest, mut record) = (None, f64::INFINITY);
        for (point, position) in after.iter().chain(before) {
            let distance = point.wrapping_sub(wanted);
            // Whoever comes now is too far away even if it is the heaviest.
            if distance > reach || f64::from(distance) >= record * race.heaviest() {
                break;
            }
            let far = f64::from(distance) / race.weight(*position);
            if far < record && takes(*position as usize) {
                (nearest, record) = (Some(*position as usize), far);
            }
        }
        // Hardly anyone accepts. A longer walk would ask each of them many times.
        nearest.or_else(|| race.winner(key, takes))
    }

    /// Shares of the circle, by position, of equal weights.
    #[cfg(test)]
    pub fn arcs(&self, count: usize) -> Vec<f64> {
        let mut arcs = vec![0_u64; count];
        let mut last = self.points.last().map_or(0, |(point, _)| *point);
        for (point, position) in &self.points {
            arcs[*position as usize] += u64::from(point.wrapping_sub(last));
            last = *point;
        }
        arcs.iter().map(|arc| *arc as f64 / 2_f64.powi(32)).collect()
    }

    /// Points, and the uids whose they are.
    #[cfg(test)]
    pub fn layout(&self, race: &Race) -> Vec<(u32, u64)> {
        self.points.iter().map(|(point, position)| (*point, race.id(*position))).collect()
    }
}
