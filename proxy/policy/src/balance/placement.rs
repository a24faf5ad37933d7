//! From whom a call is served: locality, warm-up and keys, as shares of many draws.

use std::sync::Arc;
use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::tests::{Seen, random, views};
use super::*;
use crate::config::Health;

const HOME: Locality<'static> = Locality { region: "eu", zone: "eu-1" };
const NEXT_DOOR: Locality<'static> = Locality { region: "eu", zone: "eu-2" };
const ABROAD: Locality<'static> = Locality { region: "us", zone: "us-1" };

fn seats(places: &[(Locality<'static>, usize, usize)]) -> Vec<Seat<'static>> {
    let seat = |locality, health| Seat { id: "", health, weight: 1, locality, ready_since: None };
    places
        .iter()
        .flat_map(|(place, ready, unready)| {
            let ready = std::iter::repeat_n(seat(*place, Health::Ready), *ready);
            ready.chain(std::iter::repeat_n(seat(*place, Health::NotReady), *unready))
        })
        .collect()
}

fn at_home() -> Plan<'static> {
    Plan { algorithm: Algorithm::Random, own: HOME, panic_percent: PANIC_PERCENT, slow_start: None }
}

/// Percent of calls for each locality.
fn percent(roster: &Roster, seats: &[Seat<'_>], views: &[Seen], place: Locality<'_>) -> f64 {
    let (balancer, mut random, now) = (Balancer::new(Algorithm::Random), random(11), Instant::now());
    let picks = (0..20_000).filter_map(|_| balancer.pick(roster, views, now, |v| v.avoided, &mut random));
    picks.filter(|index| seats[*index].locality == place).count() as f64 / 200.0
}

#[test]
fn the_own_zone_takes_what_its_ready_endpoints_can_bear_and_the_rest_spills_to_the_region_first() {
    let now = Instant::now();
    for (places, shares) in [
        // 72 % and more of the zone are ready: everything stays.
        ([(HOME, 5, 0), (NEXT_DOOR, 5, 0), (ABROAD, 5, 0)], [100.0, 0.0, 0.0]),
        ([(HOME, 3, 1), (NEXT_DOOR, 5, 0), (ABROAD, 5, 0)], [100.0, 0.0, 0.0]),
        // Half: 1.4 × 50 % stay.
        ([(HOME, 2, 2), (NEXT_DOOR, 5, 0), (ABROAD, 5, 0)], [70.0, 30.0, 0.0]),
        ([(HOME, 1, 3), (NEXT_DOOR, 1, 3), (ABROAD, 9, 0)], [35.0, 35.0, 30.0]),
        ([(HOME, 0, 4), (NEXT_DOOR, 5, 0), (ABROAD, 5, 0)], [0.0, 100.0, 0.0]),
        ([(HOME, 0, 0), (NEXT_DOOR, 0, 0), (ABROAD, 5, 0)], [0.0, 0.0, 100.0]),
        // Together they cannot bear it: each gets its part.
        ([(HOME, 2, 2), (NEXT_DOOR, 0, 0), (ABROAD, 0, 0)], [100.0, 0.0, 0.0]),
    ] {
        let seats = seats(&places);
        let (roster, views) = (Roster::plan(&at_home(), &seats, now), views(seats.len(), now));
        for (place, share) in [HOME, NEXT_DOOR, ABROAD].into_iter().zip(shares) {
            let got = percent(&roster, &seats, &views, place);
            assert!((got - share).abs() < 1.5, "{got} % instead of {share} % go to {place:?} of {places:?}");
        }
    }
}

#[test]
fn where_two_localities_together_cannot_bear_the_calls_each_gets_its_part_of_what_they_can() {
    let now = Instant::now();
    let trusting = Plan { panic_percent: 0, ..at_home() };
    // 1.4 × 1/4 and 1.4 × 1/7 can be borne: 35 and 20 of 55.
    let seats = seats(&[(HOME, 1, 3), (NEXT_DOOR, 1, 6)]);
    let (roster, views) = (Roster::plan(&trusting, &seats, now), views(seats.len(), now));
    let home = percent(&roster, &seats, &views, HOME);
    assert!((home - 100.0 * 35.0 / 55.0).abs() < 1.5, "{home} %");
    let none = self::seats(&[(HOME, 0, 4), (NEXT_DOOR, 0, 7)]);
    assert!(Roster::plan(&trusting, &none, now).is_empty(), "and nobody anything where nothing can be borne");
}

#[test]
fn a_zone_is_one_of_its_region_and_what_is_not_known_is_no_common_ground() {
    let now = Instant::now();
    let at = |region, zone| Locality { region, zone };
    for (own, places, nearest) in [
        (HOME, vec![HOME, NEXT_DOOR, ABROAD, at("", "")], vec![0]),
        (HOME, vec![at("eu", ""), NEXT_DOOR, ABROAD], vec![0, 1]),
        (HOME, vec![at("us", "eu-1"), ABROAD, at("", "eu-1")], vec![0, 1, 2]),
        (at("eu", ""), vec![at("eu", ""), HOME, ABROAD, at("", "")], vec![0, 1]),
        (at("", "z1"), vec![at("", "z1"), at("", "z2"), at("eu", "z1")], vec![0]),
        (at("", "z1"), vec![at("", "z2"), at("", ""), at("eu", "z1")], vec![0, 1, 2]),
        (at("", ""), vec![at("", ""), at("", "z1"), HOME], vec![0, 1, 2]),
    ] {
        let seats: Vec<Seat<'_>> = places.iter().map(|place| Seat { locality: *place, ..Seat::default() }).collect();
        let (roster, views) = (Roster::plan(&Plan { own, ..at_home() }, &seats, now), views(seats.len(), now));
        let (balancer, mut random) = (Balancer::new(Algorithm::Random), random(11));
        let picks = (0..100).filter_map(|_| balancer.pick(&roster, &views, now, |_| false, &mut random));
        let picked: Vec<usize> = picks.collect::<std::collections::BTreeSet<_>>().into_iter().collect();
        assert_eq!(picked, nearest, "from {own:?} among {places:?}");
    }
}

#[test]
fn no_random_number_is_drawn_where_there_is_no_choice() {
    let now = Instant::now();
    let views = views(2, now);
    let all = [Algorithm::PeakEwma, Algorithm::LeastRequest, Algorithm::Random, Algorithm::RoundRobin];
    for (algorithm, places) in all
        .map(|algorithm| (algorithm, vec![(HOME, 1, 0)]))
        .into_iter()
        .chain([(Algorithm::RoundRobin, vec![(HOME, 2, 0)])])
    {
        let roster = Roster::plan(&Plan { algorithm, ..at_home() }, &seats(&places), now);
        let mut drawn = 0;
        let mut draw = || {
            drawn += 1;
            0
        };
        assert_eq!(Balancer::new(algorithm).pick(&roster, &views, now, |_| false, &mut draw), Some(0));
        assert_eq!(drawn, 0, "{algorithm:?}");
    }
}

#[test]
fn where_no_locality_is_known_or_in_a_panic_all_are_alike() {
    let now = Instant::now();
    let alike = |plan: &Plan<'_>, seats: &[Seat<'_>]| {
        let (roster, views) = (Roster::plan(plan, seats, now), views(seats.len(), now));
        let share = seats.iter().filter(|seat| seat.locality == HOME).count() as f64 * 100.0 / seats.len() as f64;
        (percent(&roster, seats, &views, HOME) - share).abs() < 1.5
    };
    let spread = seats(&[(HOME, 1, 0), (NEXT_DOOR, 1, 0), (ABROAD, 2, 0)]);
    assert!(alike(&Plan { own: Locality::default(), ..at_home() }, &spread));
    assert!(!alike(&at_home(), &spread));
    let unready = seats(&[(HOME, 1, 0), (NEXT_DOOR, 0, 1), (ABROAD, 0, 2)]);
    assert!(Roster::plan(&at_home(), &unready, now).is_panicking(), "the threshold counts over all localities");
    assert!(alike(&at_home(), &unready));
    let trusting = Plan { panic_percent: 0, ..at_home() };
    assert_eq!(Roster::plan(&trusting, &unready, now).len(), 1, "0 % is never fallen below");
    let nowhere = seats(&[(Locality::default(), 3, 0)]);
    assert_eq!(Roster::plan(&at_home(), &nowhere, now).len(), 3);
}

#[test]
fn a_zone_whose_endpoints_all_refuse_is_left_for_the_next() {
    let now = Instant::now();
    let seats = seats(&[(HOME, 2, 0), (NEXT_DOOR, 1, 0), (ABROAD, 1, 0)]);
    let (roster, mut views) = (Roster::plan(&at_home(), &seats, now), views(4, now));
    let (balancer, mut random) = (Balancer::default(), random(5));
    let mut pick = |views: &[Seen]| balancer.pick(&roster, views, now, |v| v.avoided, &mut random);
    (views[0].available, views[1].avoided) = (false, true);
    assert_eq!(pick(&views), Some(2), "what was not tried comes before what was, even if it is further away");
    (views[2].available, views[3].available) = (false, false);
    assert_eq!(pick(&views), Some(1));
}

#[test]
fn a_new_endpoint_earns_its_share_in_tenths_and_the_roster_says_when() {
    let start = Instant::now();
    let at = |seconds| start + Duration::from_secs(seconds);
    let plan = Plan { slow_start: Some(Duration::from_secs(100)), algorithm: Algorithm::Random, ..Plan::default() };
    let warm = Seat { weight: 2, ..Seat::default() };
    let seats = [warm, Seat { ready_since: Some(start), ..warm }, Seat { health: Health::NotReady, ..warm }];
    let views = views(3, start);
    for (second, weight, next) in
        [(0, 0.1, Some(20)), (15, 0.1, Some(20)), (20, 0.2, Some(30)), (99, 0.9, Some(100)), (100, 1.0, None)]
    {
        let roster = Roster::plan(&plan, &seats, at(second));
        let (balancer, mut random) = (Balancer::new(Algorithm::Random), random(3));
        let picks = (0..40_000).filter_map(|_| balancer.pick(&roster, &views, start, |_| false, &mut random));
        let share = picks.filter(|index| *index == 1).count() as f64 / 40_000.0;
        let wanted = weight / (1.0 + weight);
        assert!((share - wanted).abs() < 0.02, "{share} instead of {wanted} after {second} s");
        let due = roster.next_change().map(|due| (due - start).as_secs());
        assert_eq!(due, next, "after {second} s");
    }
    let hashing = Plan { algorithm: Algorithm::Maglev, ..plan };
    assert_eq!(Roster::plan(&hashing, &seats, start).next_change(), None, "keys would move");
}

#[test]
fn turns_go_by_weight_while_an_endpoint_that_gets_no_calls_would_be_warming_up() {
    let start = Instant::now();
    let plan = Plan { slow_start: Some(Duration::from_secs(100)), algorithm: Algorithm::RoundRobin, ..Plan::default() };
    let cold = Seat { health: Health::NotReady, ready_since: Some(start), ..Seat::default() };
    let seats = [Seat { weight: 3, ..Seat::default() }, Seat { weight: 1, ..Seat::default() }, cold];
    let (roster, views) = (Roster::plan(&plan, &seats, start), views(3, start));
    let (balancer, mut random) = (Balancer::new(Algorithm::RoundRobin), random(1));
    for _ in 0..10 {
        let mut turns = [(); 4].map(|()| balancer.pick(&roster, &views, start, |_| false, &mut random));
        turns.sort_unstable();
        assert_eq!(turns, [Some(0), Some(0), Some(0), Some(1)]);
    }
}

/// Rebuilding when the roster says so ends: after each rebuild the next moment is later, or there is none.
#[test]
fn warming_up_takes_ten_rosters_at_most() {
    let start = Instant::now();
    for window in [Duration::from_nanos(7), Duration::from_millis(333), Duration::from_secs(30)] {
        let plan = Plan { slow_start: Some(window), ..Plan::default() };
        let seats = [Seat::default(), Seat { ready_since: Some(start), ..Seat::default() }];
        let (mut now, mut rosters) = (start, 1);
        while let Some(next) = Roster::plan(&plan, &seats, now).next_change() {
            assert!(next > now && next <= start + window);
            (now, rosters) = (next, rosters + 1);
        }
        assert!(rosters <= 10, "{rosters}");
    }
}

#[test]
fn a_key_keeps_its_endpoint_and_while_that_is_away_one_other() {
    let now = Instant::now();
    let ids: Vec<String> = (0..9).map(|i| format!("shop/orders-{i}")).collect();
    let seats: Vec<Seat<'_>> = ids.iter().map(|id| Seat { id, weight: 1, ..Seat::default() }).collect();
    for algorithm in [Algorithm::RingHash, Algorithm::Maglev] {
        let roster = Roster::plan(&Plan { algorithm, ..Plan::default() }, &seats, now);
        let (balancer, mut views, mut random) = (Balancer::new(algorithm), views(9, now), random(9));
        for key in (0..200_u64).map(|key| hash_key(&key.to_le_bytes())) {
            let mut pick =
                |views: &[Seen]| balancer.pick_keyed(&roster, views, now, |v| v.avoided, Some(key), &mut random);
            let owner = pick(&views).unwrap();
            assert!((0..5).all(|_| pick(&views) == Some(owner)));
            views[owner].available = false;
            let stand_in = pick(&views).unwrap();
            assert!(stand_in != owner && (0..5).all(|_| pick(&views) == Some(stand_in)));
            (views[owner].available, views[owner].avoided) = (true, true);
            assert_eq!(pick(&views), Some(stand_in), "a retry goes where the key would go without its endpoint");
            views[owner].avoided = false;
        }
        let unkeyed: std::collections::HashSet<_> =
            (0..500).filter_map(|_| balancer.pick(&roster, &views, now, |_| false, &mut random)).collect();
        assert_eq!(unkeyed.len(), 9, "a call without a key goes to any");
    }
}

#[test]
fn keys_that_spill_over_are_spread_like_any_others() {
    let now = Instant::now();
    let ids: Vec<String> = (0..15).map(|i| format!("shop/orders-{i}")).collect();
    // Seven of ten are ready: 2 % of the keys leave the zone.
    let mut seats = seats(&[(HOME, 7, 3), (NEXT_DOOR, 5, 0)]);
    seats.iter_mut().zip(&ids).for_each(|(seat, id)| seat.id = id);
    let views = views(15, now);
    for algorithm in [Algorithm::RingHash, Algorithm::Maglev] {
        let roster = Roster::plan(&Plan { algorithm, ..at_home() }, &seats, now);
        let (balancer, mut random, mut counts) = (Balancer::new(algorithm), random(9), [0.0; 15]);
        for key in (0..200_000_u64).map(|key| hash_key(&key.to_le_bytes())) {
            counts[balancer.pick_keyed(&roster, &views, now, |_| false, Some(key), &mut random).unwrap()] += 1.0;
        }
        let spilt: f64 = counts[10..].iter().sum();
        assert!((3_600.0..4_400.0).contains(&spilt), "{spilt}");
        assert!(counts[10..].iter().all(|count| (0.16..0.24).contains(&(count / spilt))), "{algorithm:?}: {counts:?}");
    }
}

#[test]
fn keys_of_endpoints_that_are_ready_stay_and_in_a_panic_all_are_where_they_were_at_first() {
    let now = Instant::now();
    let ids: Vec<String> = (0..40).map(|i| format!("shop/orders-{i}")).collect();
    for algorithm in [Algorithm::RingHash, Algorithm::Maglev] {
        let plan = Plan { algorithm, panic_percent: PANIC_PERCENT, ..Plan::default() };
        let (balancer, views, mut random) = (Balancer::new(algorithm), views(40, now), random(9));
        let mut roster = Roster::default();
        let mut homes = |unready: usize| -> Vec<usize> {
            let health = |i: usize| if i < unready { Health::NotReady } else { Health::Ready };
            let seat = |(i, id)| Seat { id, weight: 1, health: health(i), ..Seat::default() };
            let seats: Vec<Seat<'_>> = ids.iter().map(String::as_str).enumerate().map(seat).collect();
            roster = roster.replan(&plan, &seats, now);
            assert_eq!(roster.is_panicking(), unready > 20);
            let pick = |key| balancer.pick_keyed(&roster, &views, now, |_| false, Some(key), &mut random).unwrap();
            (0..2_000_u64).map(|key| hash_key(&key.to_le_bytes())).map(pick).collect()
        };
        let (all, fewer, panic) = (homes(0), homes(15), homes(21));
        assert!(all.iter().zip(&fewer).all(|(before, after)| *after >= 15 && (before == after || *before < 15)));
        assert_eq!(all, panic);
    }
}

proptest! {
    #[test]
    fn whoever_is_picked_by_key_in_any_place_may_be_called(
        endpoints in prop::collection::vec((0..4_u8, 1..50_u32, any::<bool>(), any::<bool>(), 0..3_usize), 0..20),
        algorithm in 0..6_usize, key in any::<Option<u64>>(), seed in any::<u64>(), panic_percent in 0..101_u32,
    ) {
        use Algorithm::{LeastRequest, Maglev, PeakEwma, Random, RingHash, RoundRobin};
        let now = Instant::now();
        let health = |h: u8| [Health::Unknown, Health::Ready, Health::NotReady, Health::Draining][usize::from(h)];
        let ids: Vec<String> = (0..endpoints.len()).map(|i| format!("shop/{i}")).collect();
        let seats: Vec<Seat<'_>> = ids.iter().zip(&endpoints).map(|(id, (h, weight, _, _, place))| Seat {
            id, health: health(*h), weight: *weight, locality: [HOME, NEXT_DOOR, ABROAD][*place], ready_since: Some(now),
        }).collect();
        let algorithm = [PeakEwma, LeastRequest, RoundRobin, Random, RingHash, Maglev][algorithm];
        let plan = Plan { algorithm, own: HOME, panic_percent, slow_start: Some(Duration::from_secs(9)) };
        let roster = Roster::plan(&plan, &seats, now);
        let views: Vec<Seen> = endpoints.iter().map(|(_, _, available, avoided, _)| {
            Seen { load: Arc::new(Load::new(now)), available: *available, avoided: *avoided }
        }).collect();
        match Balancer::new(algorithm).pick_keyed(&roster, &views, now, |v| v.avoided, key, &mut random(seed)) {
            Some(index) => {
                prop_assert!(roster.members().any(|i| i == index) && views[index].available);
                let fresh = roster.members().any(|i| views[i].available && !views[i].avoided);
                prop_assert!(!fresh || !views[index].avoided);
            }
            None => prop_assert!(!roster.members().any(|i| views[i].available)),
        }
    }
}
