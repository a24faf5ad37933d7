//! What one window does to the limit; [`super::simulation`] lets many do it.

use super::*;

/// A limit of 100 over a baseline of 100 ms, with bounds far away.
fn control(now: Instant) -> Control {
    let limiter = Limiter::new(Settings { min: 4, max: 1000 }, now);
    let mut control = limiter.control.into_inner();
    (control.limit, control.baseline) = (100.0, Some(0.1));
    control
}

const CROWDED: Busy = Busy { peak: 100, shed: false };

fn close(got: f64, wanted: f64) -> bool {
    (got - wanted).abs() < 1e-6
}

#[test]
fn the_limit_moves_by_the_baseline_over_the_latency_and_some_headroom() {
    let now = Instant::now();
    for (median, limit, baseline) in [
        (0.105, 105.0, 0.1), // within the tolerance: headroom alone, half the root of the limit
        (0.14, 80.0, 0.1),
        (0.21, 55.0, 0.1),
        (9.0, 55.0, 0.1), // never by more than half
        (0.084, 130.0, 0.1),
        (0.07, 110.0, 0.07), // far faster: the baseline was wrong
    ] {
        let mut control = control(now);
        control.turn(median, CROWDED, now);
        assert!(close(control.limit, limit), "{} after {median} s", control.limit);
        assert!(close(control.baseline.unwrap(), baseline), "{:?} after {median} s", control.baseline);
    }
    let mut new = control(now);
    new.baseline = None;
    new.turn(0.3, CROWDED, now);
    assert!(close(new.baseline.unwrap(), 0.3) && close(new.limit, 110.0), "the first window is the baseline");
}

#[test]
fn a_limit_that_nobody_came_near_may_fall_and_not_rise() {
    let now = Instant::now();
    for (peak, shed, median, limit, baseline) in [
        (49, false, 0.09, 100.0, 0.099),
        (50, false, 0.09, 121.666_667, 0.1),
        (1, true, 0.09, 121.666_667, 0.1),
        (49, false, 0.22, 58.454_545, 0.112),
    ] {
        let mut control = control(now);
        control.turn(median, Busy { peak, shed }, now);
        assert!(close(control.limit, limit), "{} with {peak} under way", control.limit);
        assert!(close(control.baseline.unwrap(), baseline), "{:?} with {peak} under way", control.baseline);
    }
}

#[test]
fn the_baseline_is_measured_at_half_the_limit_and_then_the_limit_is_back() {
    let start = Instant::now();
    for (measured, answers, next) in
        [(0.1, MEASURED, MEASURE_EVERY), (0.091, 1, MEASURE_EVERY), (0.08, 1, MEASURE_FIRST)]
    {
        let mut control = control(start);
        let due = start + MEASURE_FIRST;
        control.turn(0.105, CROWDED, due - Duration::from_nanos(1));
        assert!(control.measuring.is_none(), "not before it is due");
        control.turn(0.105, Busy { peak: 1, shed: false }, due);
        assert!(control.measuring.is_none(), "nor while hardly anybody calls");
        let era = control.era;
        control.turn(0.1, CROWDED, due);
        let limit = control.measuring.unwrap();
        assert!(close(control.limit, limit / 2.0) && control.era != era);
        let era = control.era;
        (0..answers).for_each(|_| control.window.add(measured));
        if answers < MEASURED {
            control.turn(measured, CROWDED, due + MEASURE_FOR - Duration::from_nanos(1));
            assert!(control.measuring.is_some(), "few answers say little");
        }
        let end = if answers < MEASURED { due + MEASURE_FOR } else { due };
        control.turn(measured, CROWDED, end);
        assert!(control.measuring.is_none() && close(control.limit, limit) && control.era != era);
        assert!(close(control.baseline.unwrap(), measured), "{:?}", control.baseline);
        assert_eq!(control.measure_at - end, next, "what has come down is soon measured again");
    }
}

#[test]
fn measuring_that_gets_no_answers_is_given_up() {
    let start = Instant::now();
    let mut control = control(start);
    assert!(!control.gives_up(start + MEASURE_EVERY), "nothing is measured");
    control.begin_measuring(start);
    assert!(!control.gives_up(start + MEASURE_FOR - Duration::from_nanos(1)));
    assert!(control.gives_up(start + MEASURE_FOR));
    assert_eq!((control.measuring, control.limit, control.baseline), (None, 100.0, Some(0.1)));
}

#[test]
fn a_limit_that_stays_at_its_least_makes_the_baseline_suspect() {
    let now = Instant::now();
    let mut control = control(now);
    control.limit = 4.0;
    for window in 1..=STUCK {
        assert!(control.measuring.is_none(), "{window}");
        control.turn(1.0, CROWDED, now);
    }
    assert!(control.measuring.is_some());
    control.end_measuring(4.0, None, now);
    control.turn(1.0, CROWDED, now);
    assert!(control.measuring.is_none(), "they are counted anew");
    // A window above the least begins the count again.
    (0..3).for_each(|_| control.turn(1.0, CROWDED, now));
    control.limit = 40.0;
    control.turn(0.1, CROWDED, now);
    control.limit = 4.0;
    control.turn(1.0, CROWDED, now);
    assert!(control.measuring.is_none());
}

/// Rounds of so many calls of 60 ms at a time.
fn rounds(limiter: &Arc<Limiter>, now: &mut Instant, at_once: u32, times: u32) {
    for _ in 0..times {
        let permits: Vec<Permit> = (0..at_once).map(|_| limiter.enter(Priority::Critical, *now).unwrap()).collect();
        *now += Duration::from_millis(60);
        permits.into_iter().for_each(|permit| permit.finish(Outcome::Answered, *now));
    }
}

#[test]
fn a_limit_that_turns_calls_away_was_tried_however_few_it_let_in() {
    for (tries, rises) in [(8, false), (9, true)] {
        let mut now = Instant::now();
        let limiter = Arc::new(Limiter::new(Settings { min: 17, max: 1024 }, now));
        // As many as make a window.
        for _ in 0..5 {
            // Half of seventeen, rounded down, is what they may use.
            let permits: Vec<Permit> = (0..tries).filter_map(|_| limiter.enter(Priority::Low, now).ok()).collect();
            assert_eq!((permits.len(), limiter.in_flight()), (8, 8));
            now += Duration::from_millis(60);
            permits.into_iter().for_each(|permit| permit.finish(Outcome::Answered, now));
        }
        assert_eq!(limiter.limit() > 17, rises, "{} after {tries} at once", limiter.limit());
    }
}

#[test]
fn half_of_the_limit_at_once_is_near_enough_to_raise_it() {
    for (at_once, rises) in [(7, false), (8, true)] {
        let mut now = Instant::now();
        let limiter = Arc::new(Limiter::new(Settings::default(), now));
        rounds(&limiter, &mut now, at_once, 6);
        let baseline = limiter.baseline().unwrap().as_secs_f64();
        assert!(close(baseline, 0.06), "{baseline}");
        assert_eq!(limiter.limit() > INITIAL as u32, rises, "{} with {at_once}", limiter.limit());
    }
}
