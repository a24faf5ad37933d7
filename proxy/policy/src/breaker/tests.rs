//! The rules of the breaker one by one; [`super::simulation`] takes them all together.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::*;

struct Bench {
    breaker: Arc<Breaker>,
    now: Instant,
}

fn bench(settings: Settings) -> Bench {
    Bench { breaker: Arc::new(Breaker::new(settings, Arc::new(Ejections::new(2)))), now: Instant::now() }
}

impl Bench {
    fn pass(&mut self, seconds: f64) {
        self.now += Duration::from_secs_f64(seconds);
    }

    /// A call that ends at once. Jitter in the middle: the open time is exact.
    fn call(&self, outcome: Outcome) -> Option<Transition> {
        self.breaker.admit(self.now, 0.5).expect("admitted").report(outcome, self.now, 0.5)
    }

    fn fail(&self, times: u32) -> Option<Transition> {
        (0..times).fold(None, |_, _| self.call(Outcome::Failure))
    }

    fn state(&self) -> State {
        self.breaker.state(self.now)
    }
}

#[test]
fn five_failures_in_a_row_open_it_and_a_success_between_starts_anew() {
    let bench = bench(Settings::default());
    bench.fail(4);
    bench.call(Outcome::Success);
    assert_eq!(bench.fail(4), None);
    assert_eq!(bench.call(Outcome::Failure), Some(Transition::Opened));
    assert!(bench.breaker.admit(bench.now, 0.5).is_none());
    assert_eq!(bench.breaker.opened(), 1);
}

#[test]
fn less_than_eighty_percent_of_twenty_calls_in_ten_seconds_opens_it() {
    let mut bench = bench(Settings::default());
    for _ in 0..16 {
        bench.call(Outcome::Success);
        bench.pass(0.4);
    }
    // 16 of 20 is 80 %: not below it.
    assert_eq!(bench.fail(4), None);
    bench.call(Outcome::Success);
    assert_eq!(bench.call(Outcome::Failure), Some(Transition::Opened));
}

#[test]
fn failures_older_than_the_window_do_not_count() {
    let mut bench = bench(Settings { consecutive_failures: 100, ..Settings::default() });
    bench.fail(19);
    bench.pass(10.0);
    assert_eq!(bench.call(Outcome::Failure), None);
    bench.pass(1000.0);
    assert_eq!(bench.fail(19), None);
    assert_eq!(bench.call(Outcome::Failure), Some(Transition::Opened));
}

#[test]
fn it_stays_open_twice_as_long_each_time_up_to_a_minute() {
    let mut bench = bench(Settings::default());
    bench.fail(5);
    for seconds in [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0] {
        bench.pass(seconds - 0.01);
        assert_eq!(bench.state(), State::Open);
        bench.pass(0.01);
        assert_eq!(bench.state(), State::HalfOpen);
        assert_eq!(bench.call(Outcome::Failure), Some(Transition::Reopened));
    }
}

#[test]
fn a_minute_closed_forgets_how_often_it_opened() {
    for (closed, next) in [(59.0, 2.0), (60.0, 1.0)] {
        let mut bench = bench(Settings::default());
        bench.fail(5);
        bench.pass(1.0);
        assert_eq!(bench.call(Outcome::Success), Some(Transition::Closed));
        bench.pass(closed);
        bench.fail(5);
        bench.pass(next - 0.01);
        assert_eq!(bench.state(), State::Open);
        bench.pass(0.01);
        assert_eq!(bench.state(), State::HalfOpen);
    }
}

#[test]
fn jitter_moves_the_end_by_a_tenth_at_most() {
    for (jitter, end) in [(0.0, 0.9), (0.999_999, 1.1)] {
        let mut bench = bench(Settings::default());
        bench.fail(4);
        bench.breaker.admit(bench.now, 0.5).unwrap().report(Outcome::Failure, bench.now, jitter);
        bench.pass(end - 0.001);
        assert_eq!(bench.state(), State::Open, "{jitter}");
        bench.pass(0.002);
        assert_eq!(bench.state(), State::HalfOpen, "{jitter}");
    }
}

#[test]
fn half_open_lets_one_probe_through_and_believes_only_its_answer() {
    let mut bench = bench(Settings::default());
    let early = bench.breaker.admit(bench.now, 0.5).unwrap();
    bench.fail(5);
    bench.pass(1.0);
    let probe = bench.breaker.admit(bench.now, 0.5).unwrap();
    assert!(probe.is_probe());
    assert!(!bench.breaker.available(bench.now));
    assert!(bench.breaker.admit(bench.now, 0.5).is_none());
    assert_eq!(early.report(Outcome::Success, bench.now, 0.5), None, "sent while closed");
    assert_eq!(bench.state(), State::HalfOpen);
    assert_eq!(probe.report(Outcome::Success, bench.now, 0.5), Some(Transition::Closed));
    assert_eq!(bench.state(), State::Closed);
}

#[test]
fn a_probe_that_does_not_answer_in_time_has_failed_and_its_late_answer_is_ignored() {
    let mut bench = bench(Settings::default());
    bench.fail(5);
    bench.pass(1.0);
    let probe = bench.breaker.admit(bench.now, 0.5).unwrap();
    bench.pass(10.0);
    assert_eq!(bench.state(), State::Open);
    assert_eq!(probe.report(Outcome::Success, bench.now, 0.5), None);
    bench.pass(1.99);
    assert_eq!(bench.state(), State::Open);
    bench.pass(0.01);
    assert_eq!(bench.state(), State::HalfOpen);
    assert_eq!(bench.breaker.opened(), 2);
}

#[test]
fn an_abandoned_probe_makes_room_for_the_next_and_cannot_speak_for_it() {
    let mut bench = bench(Settings::default());
    bench.fail(5);
    bench.pass(1.0);
    drop(bench.breaker.admit(bench.now, 0.5).unwrap());
    let next = bench.breaker.admit(bench.now, 0.5).unwrap();
    assert!(next.is_probe() && !bench.breaker.available(bench.now));
    assert_eq!(next.report(Outcome::Success, bench.now, 0.5), Some(Transition::Closed));
}

#[test]
fn a_lone_endpoint_is_never_ejected_and_of_two_only_one() {
    let now = Instant::now();
    let lone = Arc::new(Breaker::new(Settings::default(), Arc::new(Ejections::new(1))));
    for _ in 0..100 {
        assert_eq!(lone.admit(now, 0.5).unwrap().report(Outcome::Failure, now, 0.5), None);
    }
    let cap = Arc::new(Ejections::new(2));
    let pair = [0, 1].map(|_| Arc::new(Breaker::new(Settings::default(), Arc::clone(&cap))));
    for breaker in &pair {
        for _ in 0..5 {
            breaker.admit(now, 0.5).unwrap().report(Outcome::Failure, now, 0.5);
        }
    }
    assert_eq!(pair.each_ref().map(|breaker| breaker.state(now)), [State::Open, State::Closed]);
    // Where the first is gone, the second's next failure finds its place.
    pair[0].retire();
    pair[1].admit(now, 0.5).unwrap().report(Outcome::Failure, now, 0.5);
    assert_eq!((pair[1].state(now), cap.ejected()), (State::Open, 1));
    // And left alone, it is readmitted.
    cap.resize(1, false);
    assert!(pair[1].available(now));
    assert_eq!(cap.ejected(), 0);
}

#[test]
fn a_breaker_that_is_dropped_or_disabled_gives_its_place_back() {
    let now = Instant::now();
    let cap = Arc::new(Ejections::new(4));
    let [dropped, disabled] = [0, 1].map(|_| Arc::new(Breaker::new(Settings::default(), Arc::clone(&cap))));
    for breaker in [&dropped, &disabled] {
        for _ in 0..5 {
            breaker.admit(now, 0.5).unwrap().report(Outcome::Failure, now, 0.5);
        }
    }
    assert_eq!(cap.ejected(), 2);
    drop(dropped);
    disabled.update(Settings { enabled: false, ..Settings::default() }, now);
    assert_eq!(cap.ejected(), 0);
    for _ in 0..50 {
        assert_eq!(disabled.admit(now, 0.5).unwrap().report(Outcome::Failure, now, 0.5), None);
    }
}

#[test]
fn the_statuses_of_a_gateway_are_failures_and_answers_are_not() {
    let failures: Vec<u16> = (100..600).filter(|status| Outcome::of_status(*status) == Outcome::Failure).collect();
    assert_eq!(failures, [502, 503, 504]);
    let failures: Vec<u32> = (0..20).filter(|code| Outcome::of_grpc(*code) == Outcome::Failure).collect();
    assert_eq!(failures, [14]);
}

#[test]
fn who_would_be_ejected_but_for_the_others_is_held() {
    let now = Instant::now();
    let breaker = Arc::new(Breaker::new(Settings::default(), Arc::new(Ejections::new(1))));
    let fail = || breaker.admit(now, 0.5).unwrap().report(Outcome::Failure, now, 0.5);
    (0..4).for_each(|_| assert_eq!(fail(), None));
    assert!(!breaker.is_held() && breaker.is_enabled());
    fail();
    assert!(breaker.is_held());
    breaker.update(Settings { enabled: false, ..Settings::default() }, now);
    assert!(!breaker.is_held() && !breaker.is_enabled(), "nobody would be ejected");
    let open = bench(Settings::default());
    open.fail(5);
    assert!(!open.breaker.is_held(), "it is ejected");
}
