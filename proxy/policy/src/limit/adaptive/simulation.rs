//! A simulated server that does so many calls at once and queues the rest: whether the limit finds what it can do, keeps
//! latency bounded, and sheds the least important first. Randomness from a fixed seed; no time passes.

use std::collections::{BinaryHeap, VecDeque};

use super::*;

/// Serves `capacity` calls at a time, first come, first served; each takes an exponential time around `service`.
struct World {
    limiter: Arc<Limiter>,
    now: Instant,
    start: Instant,
    capacity: usize,
    service: f64,
    /// End of service, in nanoseconds since the start, the soonest first.
    serving: BinaryHeap<std::cmp::Reverse<(u64, usize)>>,
    waiting: VecDeque<usize>,
    calls: Vec<Option<(Permit, Instant)>>,
    state: u64,
    /// Latencies since the last look.
    latencies: Vec<f64>,
    /// By priority, admitted and shed since the last look.
    admitted: [u64; 4],
    shed: [u64; 4],
}

const ALL: [Priority; 4] = [Priority::Low, Priority::Default, Priority::High, Priority::Critical];

impl World {
    fn new(capacity: usize, service: f64) -> Self {
        let now = Instant::now();
        World {
            limiter: Arc::new(Limiter::new(Settings::default(), now)),
            now,
            start: now,
            capacity,
            service,
            serving: BinaryHeap::new(),
            waiting: VecDeque::new(),
            calls: Vec::new(),
            state: 0x5EED,
            latencies: Vec::new(),
            admitted: [0; 4],
            shed: [0; 4],
        }
    }

    /// Uniform in `(0, 1]`.
    fn uniform(&mut self) -> f64 {
        self.state ^= self.state >> 12;
        self.state ^= self.state << 25;
        self.state ^= self.state >> 27;
        ((self.state.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 11) + 1) as f64 / (1_u64 << 53) as f64
    }

    fn serve(&mut self, call: usize) {
        // Between half the mean and what an exponential tail adds: real services have a least time.
        let took = self.service * (0.5 - 0.5 * self.uniform().ln());
        let end = self.now + Duration::from_secs_f64(took);
        self.serving.push(std::cmp::Reverse(((end - self.start).as_nanos() as u64, call)));
    }

    fn arrive(&mut self, priority: Priority) {
        let at = priority as usize;
        match self.limiter.enter(priority, self.now) {
            Err(_) => self.shed[at] += 1,
            Ok(permit) => {
                self.admitted[at] += 1;
                self.calls.push(Some((permit, self.now)));
                let call = self.calls.len() - 1;
                if self.serving.len() < self.capacity { self.serve(call) } else { self.waiting.push_back(call) }
            }
        }
    }

    /// Ends what is served by then.
    fn advance(&mut self, until: Instant) {
        while let Some(std::cmp::Reverse((end, call))) = self.serving.peek().copied() {
            let end = self.start + Duration::from_nanos(end);
            if end > until {
                break;
            }
            self.serving.pop();
            self.now = end;
            if let Some((permit, began)) = self.calls[call].take() {
                self.latencies.push((end - began).as_secs_f64());
                permit.finish(Outcome::Answered, end);
            }
            if let Some(next) = self.waiting.pop_front() {
                self.serve(next);
            }
        }
        self.now = until;
    }

    /// Poisson arrivals, `rate` a second, of priorities drawn evenly from `mix`.
    fn run(&mut self, seconds: f64, rate: f64, mix: &[Priority]) {
        (self.admitted, self.shed) = ([0; 4], [0; 4]);
        self.latencies.clear();
        let end = self.now + Duration::from_secs_f64(seconds);
        loop {
            let next = self.now + Duration::from_secs_f64(-self.uniform().ln() / rate);
            if next >= end {
                break self.advance(end);
            }
            self.advance(next);
            let which = (self.uniform() * mix.len() as f64) as usize;
            self.arrive(mix[which.min(mix.len() - 1)]);
        }
    }

    /// Mean of the limit over the next seconds, leaving out the windows in which the baseline is measured.
    fn mean_limit(&mut self, seconds: u32, rate: f64, mix: &[Priority]) -> f64 {
        let mut limits = Vec::new();
        for _ in 0..seconds * 10 {
            self.run(0.1, rate, mix);
            limits.push(f64::from(self.limiter.limit()));
        }
        limits.sort_by(f64::total_cmp);
        limits[limits.len() / 2]
    }

    fn shed_share(&self, priority: Priority) -> f64 {
        let at = priority as usize;
        self.shed[at] as f64 / (self.shed[at] + self.admitted[at]).max(1) as f64
    }
}

#[test]
fn the_limit_finds_what_a_server_can_do_and_latency_stays_bounded() {
    for (capacity, service) in [(10, 0.02), (32, 0.01), (64, 0.05), (200, 0.01)] {
        let mut world = World::new(capacity, service);
        let able = capacity as f64 / service;
        world.run(40.0, able * 2.0, &[Priority::Critical]);
        let limit = world.mean_limit(40, able * 2.0, &[Priority::Critical]);
        let ratio = limit / capacity as f64;
        assert!((0.7..=1.3).contains(&ratio), "a limit of {limit} for a server of {capacity}");
        world.run(20.0, able * 2.0, &[Priority::Critical]);
        let served = world.latencies.len() as f64 / 20.0;
        assert!(served > able * 0.85, "{served} of {able} a second");
        world.latencies.sort_by(f64::total_cmp);
        let median = world.latencies[world.latencies.len() / 2];
        assert!(median < service * 1.6, "{median} s with a queue, {service} s without");
    }
}

#[test]
fn a_server_that_has_room_is_not_limited() {
    let mut world = World::new(100, 0.02);
    world.run(60.0, 100.0 / 0.02 * 0.5, &[Priority::Default]);
    world.run(60.0, 100.0 / 0.02 * 0.5, &[Priority::Default]);
    let share = world.shed_share(Priority::Default);
    assert!(share < 0.02, "{share} were shed at half load");
}

#[test]
fn the_limit_follows_a_server_that_becomes_slower_and_recovers() {
    let mut world = World::new(50, 0.01);
    world.run(40.0, 10_000.0, &[Priority::Critical]);
    // Half of its places are gone: a queue, at the same baseline.
    world.capacity = 25;
    let limit = world.mean_limit(40, 10_000.0, &[Priority::Critical]);
    assert!((17.0..34.0).contains(&limit), "{limit} for 25");
    // Each call takes three times as long, without a queue: the baseline has to be found again.
    (world.capacity, world.service) = (50, 0.03);
    world.run(60.0, 10_000.0, &[Priority::Critical]);
    let limit = world.mean_limit(60, 10_000.0, &[Priority::Critical]);
    assert!((35.0..66.0).contains(&limit), "{limit} for 50");
}

#[test]
fn the_least_important_are_shed_first() {
    let mut world = World::new(40, 0.02);
    let able = 40.0 / 0.02;
    world.run(40.0, able * 1.6, &ALL);
    world.run(40.0, able * 1.6, &ALL);
    let shares = ALL.map(|priority| world.shed_share(priority));
    assert!(shares.windows(2).all(|pair| pair[0] > pair[1]), "{shares:?}");
    assert!(shares[0] > 0.8 && shares[3] < 0.02, "{shares:?}");
}

#[test]
fn a_limit_stays_within_its_bounds_and_parts_of_it_admit_one_at_least() {
    let now = Instant::now();
    let limiter = Arc::new(Limiter::new(Settings { min: 1, max: 1 }, now));
    for priority in ALL {
        let held = limiter.enter(priority, now).unwrap();
        let shed = limiter.enter(Priority::Critical, now).unwrap_err();
        assert_eq!(shed, Shed { priority: Priority::Critical, in_flight: 1, limit: 1 });
        drop(held);
    }
    assert_eq!(limiter.in_flight(), 0);
    limiter.update(Settings { min: 30, max: 40 });
    assert_eq!(limiter.limit(), 30);
    let room = ALL.map(|priority| {
        let held: Vec<Permit> = std::iter::from_fn(|| limiter.enter(priority, now).ok()).collect();
        held.len()
    });
    assert_eq!(room, [15, 24, 27, 30]);
}

#[test]
fn calls_that_run_out_of_time_lower_the_limit() {
    let start = Instant::now();
    let limiter = Arc::new(Limiter::new(Settings::default(), start));
    let mut now = start;
    let mut round = |outcome| {
        let permits: Vec<Permit> = std::iter::from_fn(|| limiter.enter(Priority::Critical, now).ok()).collect();
        now += Duration::from_millis(60);
        permits.into_iter().for_each(|permit| permit.finish(outcome, now));
    };
    (0..20).for_each(|_| round(Outcome::Answered));
    let before = limiter.limit();
    (0..20).for_each(|_| round(Outcome::Dropped));
    assert!(before > 16 && limiter.limit() < before / 2, "{} after {before}", limiter.limit());
}

#[test]
fn priorities_are_read_as_they_are_written() {
    for priority in ALL {
        assert_eq!(Priority::parse(priority.as_str().to_uppercase().as_bytes()), Some(priority));
    }
    assert_eq!(Priority::parse(b" background "), Some(Priority::Low));
    assert_eq!((Priority::parse(b"urgent"), Priority::parse(b"")), (None, None));
    assert!(Priority::Critical > Priority::High && Priority::Default > Priority::Low);
}
