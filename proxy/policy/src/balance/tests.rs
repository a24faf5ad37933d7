//! Draws over endpoints whose latency, availability and weight the test sets; randomness from a fixed seed.

use std::sync::Arc;
use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::*;
use crate::config::Health;

pub(super) struct Seen {
    pub load: Arc<Load>,
    pub available: bool,
    pub avoided: bool,
}

impl View for Seen {
    fn load(&self) -> &Load {
        &self.load
    }
    fn available(&self, _: Instant) -> bool {
        self.available
    }
}

pub(super) fn views(count: usize, now: Instant) -> Vec<Seen> {
    (0..count).map(|_| Seen { load: Arc::new(Load::new(now)), available: true, avoided: false }).collect()
}

/// xorshift64*, seeded.
pub(super) fn random(seed: u64) -> impl FnMut() -> u64 {
    let mut state = seed.max(1);
    move || {
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        state.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }
}

fn ready(weights: &[u32]) -> Roster {
    Roster::new(weights.iter().map(|weight| (Health::Ready, *weight)))
}

/// Shares in percent of `calls` idle draws.
fn shares(algorithm: Algorithm, roster: &Roster, views: &[Seen], calls: usize) -> Vec<f64> {
    let (balancer, mut random) = (Balancer::new(algorithm), random(7));
    let now = Instant::now();
    let mut counts = vec![0_usize; views.len()];
    for _ in 0..calls {
        counts[balancer.pick(roster, views, now, |v| v.avoided, &mut random).unwrap()] += 1;
    }
    counts.iter().map(|count| *count as f64 * 100.0 / calls as f64).collect()
}

/// Closed-loop simulation: `concurrency` calls at any time, each endpoint with a latency of its own. Shares in percent.
fn simulate(algorithm: Algorithm, latencies_ms: &[u64], concurrency: usize, calls: usize) -> Vec<f64> {
    let start = Instant::now();
    let views = views(latencies_ms.len(), start);
    let roster = ready(&vec![1; latencies_ms.len()]);
    let (balancer, mut random) = (Balancer::new(algorithm), random(42));
    let mut flying: Vec<(Instant, Instant, usize, InFlight)> = Vec::new();
    let mut counts = vec![0_usize; latencies_ms.len()];
    let mut now = start;
    for _ in 0..calls {
        if flying.len() == concurrency {
            let next = (0..flying.len()).min_by_key(|i| flying[*i].0).unwrap();
            let (end, begun, endpoint, guard) = flying.swap_remove(next);
            now = end;
            drop(guard);
            views[endpoint].load.observe(end - begun, end);
        }
        let picked = balancer.pick(&roster, &views, now, |_| false, &mut random).unwrap();
        counts[picked] += 1;
        let latency = Duration::from_micros(latencies_ms[picked] * 1000 + random() % 200);
        flying.push((now + latency, now, picked, views[picked].load.begin()));
    }
    counts.iter().map(|count| *count as f64 * 100.0 / calls as f64).collect()
}

#[test]
fn peak_ewma_converges_to_the_faster_endpoint() {
    let shares = simulate(Algorithm::PeakEwma, &[5, 50], 4, 20_000);
    assert!(shares[0] > 80.0, "{shares:?}");
    // Alone it would be too good: the slow one is tried now and then, since it may have recovered.
    assert!(shares[1] > 0.0, "{shares:?}");
}

#[test]
fn peak_ewma_keeps_away_from_one_slow_endpoint_of_many() {
    let shares = simulate(Algorithm::PeakEwma, &[5, 5, 5, 5, 100], 20, 50_000);
    assert!(shares[4] < 3.0, "{shares:?}");
    assert!(shares[..4].iter().all(|share| (20.0..30.0).contains(share)), "{shares:?}");
}

#[test]
fn least_request_follows_calls_in_flight_alone() {
    let shares = simulate(Algorithm::LeastRequest, &[5, 50], 8, 20_000);
    assert!(shares[0] > 75.0, "{shares:?}");
}

/// Percent of calls for the first of two, by their latencies in milliseconds (0: unknown) and calls in flight.
fn percent_of_the_first(algorithm: Algorithm, weights: [u32; 2], latencies: [u64; 2], in_flight: [usize; 2]) -> f64 {
    let now = Instant::now();
    let views = views(2, now);
    let observed = views.iter().zip(latencies).filter(|(_, millis)| *millis > 0);
    observed.for_each(|(view, millis)| view.load.observe(Duration::from_millis(millis), now));
    let flying = views.iter().zip(in_flight);
    let _flying: Vec<InFlight> = flying.flat_map(|(view, n)| (0..n).map(|_| view.load.begin())).collect();
    let (balancer, roster, mut random) = (Balancer::new(algorithm), ready(&weights), random(13));
    let picks = (0..4_000).filter_map(|_| balancer.pick(&roster, &views, now, |_| false, &mut random));
    picks.filter(|index| *index == 0).count() as f64 / 40.0
}

#[test]
fn the_cheaper_of_two_is_the_one_with_less_latency_times_calls_with_the_one_to_come() {
    for (latencies, in_flight, first) in [
        ([10, 1], [0, 1], 0.0),   // 10 × 1 against 1 × 2
        ([10, 9], [0, 1], 100.0), // 10 × 1 against 9 × 2
        ([10, 4], [1, 5], 100.0), // 10 × 2 against 4 × 6
        ([10, 3], [1, 5], 0.0),   // 10 × 2 against 3 × 6
        // Without history: as fast as the other, so that calls decide.
        ([0, 50], [1, 0], 0.0),
        ([0, 50], [0, 1], 100.0),
        ([50, 0], [1, 0], 0.0),
    ] {
        let got = percent_of_the_first(Algorithm::PeakEwma, [1, 1], latencies, in_flight);
        assert_eq!(got, first, "{latencies:?} ms, {in_flight:?} calls");
    }
}

#[test]
fn calls_in_flight_count_by_weight() {
    // Three quarters of the draws are of the first. Where it is the cheaper, the other is taken only when drawn twice: 1 of 16 times;
    // where it is not, it is taken when itself drawn twice: 9 of 16.
    for (in_flight, first) in [([2, 1], 93.75), ([3, 0], 56.25), ([4, 1], 56.25), ([5, 2], 93.75), ([1, 0], 56.25)] {
        let got = percent_of_the_first(Algorithm::LeastRequest, [3, 1], [0, 0], in_flight);
        assert!((got - first).abs() < 3.0, "{got} % instead of {first} % with {in_flight:?} calls");
    }
}

#[test]
fn a_call_in_flight_costs_an_endpoint_of_mean_weight_one_latency() {
    // Of weights 3 and 1 the first bears 1.5 times the mean: its 3 calls and the one to come cost 10 × (3 / 1.5 + 1).
    for (latency, first) in [(31, 93.75), (29, 56.25)] {
        let got = percent_of_the_first(Algorithm::PeakEwma, [3, 1], [10, latency], [3, 0]);
        assert!((got - first).abs() < 3.0, "{got} % instead of {first} % against {latency} ms");
    }
}

#[test]
fn endpoints_without_history_share_evenly() {
    let now = Instant::now();
    for algorithm in [Algorithm::PeakEwma, Algorithm::LeastRequest, Algorithm::Random, Algorithm::RoundRobin] {
        let shares = shares(algorithm, &ready(&[1; 4]), &views(4, now), 20_000);
        assert!(shares.iter().all(|share| (23.0..27.0).contains(share)), "{algorithm:?} {shares:?}");
    }
}

#[test]
fn equal_endpoints_get_their_weights_share() {
    let now = Instant::now();
    for algorithm in [Algorithm::PeakEwma, Algorithm::Random, Algorithm::RoundRobin] {
        let shares = shares(algorithm, &ready(&[90, 10]), &views(2, now), 50_000);
        assert!((88.0..92.0).contains(&shares[0]), "{algorithm:?} {shares:?}");
        let shares = self::shares(algorithm, &ready(&[40, 40, 20]), &views(3, now), 50_000);
        assert!((18.0..22.0).contains(&shares[2]), "{algorithm:?} {shares:?}");
    }
}

#[test]
fn round_robin_spreads_the_turns_of_a_heavy_endpoint() {
    let now = Instant::now();
    let (balancer, roster, views) = (Balancer::new(Algorithm::RoundRobin), ready(&[3, 1]), views(2, now));
    let mut random = random(1);
    let turns: Vec<usize> =
        (0..8).map(|_| balancer.pick(&roster, &views, now, |_| false, &mut random).unwrap()).collect();
    assert_eq!(turns.iter().filter(|turn| **turn == 1).count(), 2);
    assert!(turns.windows(2).all(|pair| pair != [1, 1]), "{turns:?}");
    let (roster, views) = (ready(&[5, 5, 1]), super::tests::views(3, now));
    let balancer = Balancer::new(Algorithm::RoundRobin);
    let turns: Vec<usize> =
        (0..22).map(|_| balancer.pick(&roster, &views, now, |_| false, &mut random).unwrap()).collect();
    assert!(turns.windows(2).all(|pair| pair[0] != pair[1]), "{turns:?}");
    assert_eq!([0, 1, 2].map(|of| turns.iter().filter(|turn| **turn == of).count()), [10, 10, 2]);
}

#[test]
fn round_robin_keeps_the_shares_up_to_the_end_of_its_count() {
    let (now, mut random) = (Instant::now(), random(1));
    let (roster, views) = (ready(&[5, 5, 1]), views(3, now));
    let balancer = Balancer { algorithm: Algorithm::RoundRobin, turn: AtomicUsize::new(usize::MAX - 21) };
    let mut turns = || balancer.pick(&roster, &views, now, |_| false, &mut random).unwrap();
    let counts = (0..22).map(|_| turns()).fold([0; 3], |mut counts, of| {
        counts[of] += 1;
        counts
    });
    assert_eq!(counts, [10, 10, 2]);
    assert!(turns() < 3, "and then begins anew");
}

#[test]
fn readiness_is_believed_until_fewer_than_half_are_ready() {
    use Health::{Draining, NotReady, Ready, Unknown};
    let roster = |healths: &[Health]| Roster::new(healths.iter().map(|health| (*health, 1)));
    let half = roster(&[Ready, Unknown, NotReady, NotReady]);
    assert_eq!((half.members().collect::<Vec<_>>(), half.is_panicking()), (vec![0, 1], false));
    let third = roster(&[Ready, NotReady, NotReady, Draining]);
    assert_eq!((third.members().collect::<Vec<_>>(), third.is_panicking()), (vec![0, 1, 2], true));
    assert!(!third.is_empty() && third.len() == 3);
    assert!(roster(&[Draining, Draining]).is_empty());
    assert!(!roster(&[]).is_panicking());
}

#[test]
fn what_was_tried_is_tried_again_only_when_nothing_else_is_there() {
    let now = Instant::now();
    let mut views = views(3, now);
    let (roster, mut random) = (ready(&[1; 3]), random(3));
    for algorithm in [Algorithm::PeakEwma, Algorithm::LeastRequest, Algorithm::Random, Algorithm::RoundRobin] {
        let balancer = Balancer::new(algorithm);
        views.iter_mut().for_each(|v| (v.available, v.avoided) = (true, false));
        (views[0].avoided, views[1].available) = (true, false);
        for _ in 0..100 {
            assert_eq!(balancer.pick(&roster, &views, now, |v| v.avoided, &mut random), Some(2));
        }
        views[2].available = false;
        assert_eq!(balancer.pick(&roster, &views, now, |v| v.avoided, &mut random), Some(0));
        views[0].available = false;
        assert_eq!(balancer.pick(&roster, &views, now, |v| v.avoided, &mut random), None);
    }
}

#[test]
fn the_one_available_endpoint_of_a_thousand_is_found() {
    let now = Instant::now();
    let mut views = views(1000, now);
    views.iter_mut().for_each(|v| v.available = false);
    views[777].available = true;
    let picked = Balancer::default().pick(&ready(&[1; 1000]), &views, now, |_| false, &mut random(5));
    assert_eq!(picked, Some(777));
    let uneven: Vec<u32> = (1..=1000).collect();
    for algorithm in [Algorithm::PeakEwma, Algorithm::Random, Algorithm::RoundRobin] {
        let balancer = Balancer::new(algorithm);
        assert_eq!(balancer.algorithm(), algorithm);
        assert_eq!(balancer.pick(&ready(&uneven), &views, now, |_| false, &mut random(5)), Some(777));
    }
}

proptest! {
    #[test]
    fn whoever_is_picked_is_drawable_and_available(
        endpoints in prop::collection::vec((0..4_u8, 0..1001_u32, any::<bool>(), any::<bool>()), 0..40),
        algorithm in 0..4_u8,
        seed in any::<u64>(),
    ) {
        let now = Instant::now();
        let health = |h: u8| [Health::Unknown, Health::Ready, Health::NotReady, Health::Draining][usize::from(h)];
        let roster = Roster::new(endpoints.iter().map(|(h, weight, _, _)| (health(*h), *weight)));
        let views: Vec<Seen> = endpoints
            .iter()
            .map(|(_, _, available, avoided)| Seen { load: Arc::new(Load::new(now)), available: *available, avoided: *avoided })
            .collect();
        let algorithm = [Algorithm::PeakEwma, Algorithm::LeastRequest, Algorithm::RoundRobin, Algorithm::Random][usize::from(algorithm)];
        let takes = |index: &usize| views[*index].available;
        match Balancer::new(algorithm).pick(&roster, &views, now, |v| v.avoided, &mut random(seed)) {
            Some(index) => {
                prop_assert!(roster.members().any(|i| i == index) && views[index].available);
                let fresh = roster.members().filter(takes).any(|i| !views[i].avoided);
                prop_assert!(!fresh || !views[index].avoided);
            }
            None => prop_assert!(!roster.members().any(|i| takes(&i))),
        }
    }
}
