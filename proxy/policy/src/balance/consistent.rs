//! Tables for consistent hashing: a key keeps its endpoint when others come and go.
//!
//! A [`Table`] is built when the endpoints change, and only looked up for each call. Both kinds number the endpoints by
//! their position in a roster and know them by a hash of their uid, so that the order of discovery does not matter and
//! all sidecars agree.
//!
//! * Ring: Ketama's circle of points, [`POINTS`] for an endpoint of the lowest weight, as many fewer (by a power of two)
//!   as are needed to stay under [`MOST_POINTS`]. When an endpoint leaves, its keys move and no others, unless the
//!   number of points changes, as with equal weights it does at 128 endpoints, 256, 512…
//! * Maglev (Eisenbud et al., “Maglev: a fast and reliable software network load balancer”, NSDI 2016, §3.4): a table
//!   of slots that the endpoints fill in turns, each in the order of its own permutation. Shares are even to a slot; in
//!   exchange one or two keys in a hundred move besides those of the endpoint that left.

use super::hash::mix;

/// Points of the lightest endpoint on the ring. The share of an endpoint then deviates by 1/√512, about 4 %.
const POINTS: u64 = 512;
/// A ring, or a Maglev table, is no larger than this (8 or 2 bytes each).
pub const MOST_POINTS: usize = 65_536;
/// Sizes of Maglev tables, prime, and up to how many endpoints each is for: a thousand slots for each, so that fewer
/// keys move without need, up to the paper's small table.
const SIZES: [(usize, usize); 4] = [(8, 8_191), (16, 16_381), (32, 32_749), (usize::MAX, 65_537)];
/// How far a lookup walks before it ranks all endpoints instead.
const WALK: usize = 64;

/// An endpoint as a table knows it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Node {
    /// Hash of its uid.
    pub id: u64,
    /// At least 1.
    pub weight: u64,
}

/// Where keys belong.
#[derive(Clone, Debug)]
pub(super) struct Table {
    slots: Slots,
    /// Hashes of the uids, by position.
    ids: Vec<u64>,
}

#[derive(Clone, Debug)]
enum Slots {
    /// Points and whose they are. Invariant: sorted.
    Ring(Vec<(u32, u32)>),
    /// Positions. Invariant: empty, or as long as one of [`SIZES`].
    Maglev(Vec<u16>),
}

impl Table {
    /// A ring. Positions are indices of `nodes`.
    pub fn ring(nodes: &[Node]) -> Self {
        let lightest = nodes.iter().map(|node| node.weight).min().unwrap_or(1).max(1);
        let points_of = |node: &Node, halvings: u32| ((node.weight * POINTS / lightest) >> halvings).max(1);
        let total = |halvings: u32| nodes.iter().map(|node| points_of(node, halvings)).sum::<u64>();
        // Up to 512 × 1000 points for each: after 19 halvings all have one.
        let halvings = (0..20).find(|halvings| total(*halvings) <= MOST_POINTS as u64).unwrap_or(20);
        let mut points = Vec::with_capacity(total(halvings).min(MOST_POINTS as u64) as usize);
        for (position, node) in (0..).zip(nodes) {
            // The high half of a mixed counter: replicas of an endpoint are independent of each other.
            let own = (0..points_of(node, halvings)).map(|replica| mix(node.id ^ mix(replica + 1)));
            let room = MOST_POINTS - points.len();
            points.extend(own.take(room).map(|point| ((point >> 32) as u32, position)));
        }
        // Where two meet at one point the uid decides, not the order of discovery.
        points.sort_unstable_by_key(|(point, position)| (*point, nodes.get(*position as usize).map(|n| n.id)));
        Table { slots: Slots::Ring(points), ids: nodes.iter().map(|node| node.id).collect() }
    }

    /// A Maglev table. Positions are indices of `nodes`.
    pub fn maglev(nodes: &[Node]) -> Self {
        let ids: Vec<u64> = nodes.iter().map(|node| node.id).collect();
        let size = SIZES.iter().find(|(most, _)| nodes.len() <= *most).map_or(65_537, |(_, size)| *size) as u64;
        // Turns go by uid: the order of discovery does not matter. What has no room in the table is found by rank.
        let mut order: Vec<u16> = (0..=u16::MAX).take(nodes.len()).collect();
        order.sort_unstable_by_key(|position| ids.get(usize::from(*position)));
        let heaviest = nodes.iter().map(|node| node.weight).max().unwrap_or(1).max(1);
        let mut seats: Vec<Seat> = order
            .into_iter()
            .filter_map(|position| Seat::new(position, nodes.get(usize::from(position))?, size))
            .collect();
        let mut slots: Vec<Option<u16>> = vec![None; if seats.is_empty() { 0 } else { size as usize }];
        let mut free = slots.len();
        while free > 0 {
            for seat in &mut seats {
                // A weight of half the heaviest has every second turn.
                seat.credit += seat.weight;
                if seat.credit < heaviest || free == 0 {
                    continue;
                }
                seat.credit -= heaviest;
                let mut slot = seat.next(size);
                while slots.get(slot).is_some_and(Option::is_some) {
                    slot = seat.next(size);
                }
                slots[slot] = Some(seat.position);
                free -= 1;
            }
        }
        Table { slots: Slots::Maglev(slots.into_iter().flatten().collect()), ids }
    }

    /// The position that a key belongs to, of those that `takes` accepts: the owner, else whoever comes next for this
    /// key. The same answer for the same key as long as the same ones accept.
    pub fn find(&self, key: u64, takes: impl Fn(usize) -> bool) -> Option<usize> {
        let near = match &self.slots {
            Slots::Ring(points) => {
                let wanted = (mix(key) >> 32) as u32;
                let start = points.partition_point(|(point, _)| *point < wanted);
                let (before, after) = points.split_at(start);
                after.iter().chain(before).take(WALK).map(|(_, position)| *position as usize).find(|p| takes(*p))
            }
            Slots::Maglev(slots) => {
                // The high word of the product is uniform over the table, without a division.
                let start = ((u128::from(mix(key)) * slots.len() as u128) >> 64) as usize;
                let (before, after) = slots.split_at(start);
                after.iter().chain(before).take(WALK).map(|position| usize::from(*position)).find(|p| takes(*p))
            }
        };
        // Hardly anyone accepts: highest random weight (Thaler and Ravishankar 1998) is as consistent, and slower.
        near.or_else(|| {
            let ranked = self.ids.iter().enumerate().filter(|(position, _)| takes(*position));
            ranked.max_by_key(|(_, id)| mix(key ^ **id)).map(|(position, _)| position)
        })
    }
}

/// Whose turn it is to take a slot of a Maglev table.
struct Seat {
    position: u16,
    weight: u64,
    credit: u64,
    slot: u64,
    skip: u64,
}

impl Seat {
    fn new(position: u16, node: &Node, size: u64) -> Option<Self> {
        // A prime size makes every skip visit all slots.
        let skip = mix(node.id ^ 0x5EED).checked_rem(size - 1)? + 1;
        Some(Seat { position, weight: node.weight, credit: 0, slot: mix(node.id) % size, skip })
    }

    fn next(&mut self, size: u64) -> usize {
        let slot = self.slot;
        self.slot = (slot + self.skip) % size;
        slot as usize
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::hash::hash_key;
    use super::*;

    const KEYS: u64 = 40_000;

    fn nodes(weights: &[u64], salt: u64) -> Vec<Node> {
        let id = |i: usize| hash_key(format!("shop/orders-{salt}-{i}").as_bytes());
        weights.iter().enumerate().map(|(i, weight)| Node { id: id(i), weight: *weight }).collect()
    }

    fn owner(table: &Table, nodes: &[Node], key: u64) -> u64 {
        nodes[table.find(hash_key(&key.to_le_bytes()), |_| true).unwrap()].id
    }

    fn shares(table: &Table, nodes: &[Node]) -> Vec<f64> {
        let mut counts = vec![0_u64; nodes.len()];
        for key in 0..KEYS {
            counts[table.find(hash_key(&key.to_le_bytes()), |_| true).unwrap()] += 1;
        }
        counts.iter().map(|count| *count as f64 / KEYS as f64).collect()
    }

    #[test]
    fn a_ring_is_bounded_and_its_shares_follow_the_weights() {
        let heavy = nodes(&[1, 2, 1000], 1);
        let table = Table::ring(&heavy);
        let Slots::Ring(points) = &table.slots else { panic!("a ring") };
        assert!(points.len() <= MOST_POINTS && points.len() > MOST_POINTS / 2, "{}", points.len());
        assert!(shares(&table, &heavy)[2] > 0.99);
        let many = nodes(&vec![1; 70_000], 2);
        let Slots::Ring(points) = &Table::ring(&many).slots else { panic!("a ring") };
        assert_eq!(points.len(), MOST_POINTS);
        let even = nodes(&[3; 10], 3);
        assert!(shares(&Table::ring(&even), &even).iter().all(|share| (0.08..0.12).contains(share)));
    }

    #[test]
    fn maglev_gives_each_its_share_almost_exactly() {
        for (weights, bounds) in [(vec![1; 10], 0.095..0.105), (vec![5; 100], 0.008..0.0125)] {
            let nodes = nodes(&weights, 4);
            let shares = shares(&Table::maglev(&nodes), &nodes);
            assert!(shares.iter().all(|share| bounds.contains(share)), "{shares:?}");
        }
        let uneven = nodes(&[1, 3], 5);
        let shares = shares(&Table::maglev(&uneven), &uneven);
        assert!((0.24..0.26).contains(&shares[0]), "{shares:?}");
    }

    #[test]
    fn a_maglev_table_has_a_thousand_slots_for_each_of_few_and_not_much_more() {
        for count in [1, 8, 9, 16, 17, 32, 33, 64] {
            let Slots::Maglev(slots) = Table::maglev(&nodes(&vec![1; count], 9)).slots else { panic!("a table") };
            assert!((1_000 * count..=8_192.max(2_048 * count)).contains(&slots.len()), "{} for {count}", slots.len());
        }
    }

    #[test]
    fn an_empty_table_finds_nobody_and_a_lone_endpoint_everything() {
        for build in [Table::ring, Table::maglev] {
            assert_eq!(build(&[]).find(7, |_| true), None);
            let lone = nodes(&[7], 6);
            assert_eq!(build(&lone).find(7, |_| true), Some(0));
            assert_eq!(build(&lone).find(7, |_| false), None);
        }
    }

    #[test]
    fn the_order_of_discovery_does_not_matter() {
        let mut nodes = nodes(&[1, 2, 3, 4, 5, 1, 1], 7);
        for build in [Table::ring, Table::maglev] {
            let before: Vec<u64> = (0..500).map(|key| owner(&build(&nodes), &nodes, key)).take(5).collect();
            nodes.rotate_left(3);
            let after: Vec<u64> = (0..500).map(|key| owner(&build(&nodes), &nodes, key)).take(5).collect();
            assert_eq!(before, after);
        }
    }

    #[test]
    fn keys_of_an_endpoint_that_takes_no_calls_are_spread_over_the_others() {
        let nodes = nodes(&[1; 8], 8);
        for build in [Table::ring, Table::maglev] {
            let table = build(&nodes);
            let mut counts = [0_u64; 8];
            for key in (0..KEYS).map(|key| hash_key(&key.to_le_bytes())) {
                let owner = table.find(key, |_| true).unwrap();
                let next = table.find(key, |position| position != 3).unwrap();
                assert!(next != 3 && (owner == 3 || next == owner), "only its keys move");
                counts[next] += u64::from(owner == 3);
            }
            let moved: u64 = counts.iter().sum();
            assert!(counts.iter().enumerate().all(|(i, count)| i == 3 || *count > moved / 20), "{counts:?}");
            assert_eq!(table.find(1, |position| position == 5), Some(5), "the only one that takes calls is found");
        }
    }

    /// Of the keys, how many moved, and how many of them without need, when one endpoint left.
    fn moved(build: fn(&[Node]) -> Table, before: &[Node], gone: usize) -> (f64, f64) {
        let mut after = before.to_vec();
        let gone = after.remove(gone).id;
        let (old, new) = (build(before), build(&after));
        let keys = 3000 * before.len() as u64;
        let (mut moved, mut unforced) = (0, 0);
        for key in 0..keys {
            let (from, to) = (owner(&old, before, key), owner(&new, &after, key));
            moved += u64::from(from != to);
            unforced += u64::from(from != to && from != gone);
        }
        (moved as f64 / keys as f64, unforced as f64 / keys as f64)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(ProptestConfig::default().cases / 16))]

        #[test]
        fn when_one_of_n_leaves_a_ring_no_keys_but_its_own_move_and_those_are_a_fifth_more_than_one_in_n_at_most(
            count in 2..64_usize, gone in any::<prop::sample::Index>(), salt in any::<u64>(),
        ) {
            let (moved, unforced) = moved(Table::ring, &nodes(&vec![1; count], salt), gone.index(count));
            prop_assert!(moved <= 1.2 / count as f64 && unforced == 0.0, "{moved} moved, {unforced} without need, of {count}");
        }

        #[test]
        fn when_one_of_n_leaves_a_maglev_table_few_keys_but_its_own_move(
            count in 2..64_usize, gone in any::<prop::sample::Index>(), salt in any::<u64>(),
        ) {
            let (moved, unforced) = moved(Table::maglev, &nodes(&vec![1; count], salt), gone.index(count));
            // A table of another size is another table.
            prop_assume!(![9, 17, 33].contains(&count));
            prop_assert!(moved <= 1.1 / count as f64 + 0.025, "{moved} moved, {unforced} without need, of {count}");
        }
    }
}
