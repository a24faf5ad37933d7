//! Decisions by counts: what must always hold, and what becomes of changes that are good and bad as time goes by.

use super::*;
use proptest::prelude::*;
use rand::SeedableRng;
use rand::rngs::StdRng;

fn limits() -> Limits {
    Limits { duration: Duration::from_secs(60), errors: 0.01, refusals: 0.01 }
}

fn count(calls: u64, failures: u64) -> Count {
    Count { calls, failures: failures.min(calls), refusals: 0 }
}

fn evidence(sample: Count, others: Count, before: Count) -> Evidence {
    Evidence { during: Halves { sample, others }, before }
}

fn at(seconds: u64, seen: Evidence) -> Decision {
    judge(&limits(), &[seen], Duration::from_secs(seconds), (1, 20), None)
}

#[test]
fn what_breaks_every_call_is_rolled_back_after_a_few_and_says_by_how_much() {
    let seen = evidence(count(8, 8), count(200, 0), count(100, 1));
    let wanted = "error rate of 1 of 20 sidecars went from 1.0 % to 100.0 % of 8 calls, of the others it was 0.0 %";
    assert_eq!(at(2, seen), Decision::RollBack(wanted.into()));
    assert_eq!(at(2, evidence(count(4, 4), count(200, 0), count(100, 0))), Decision::GoOn, "four calls say little");
    let alone = evidence(count(10, 10), Count::default(), Count::default());
    assert!(matches!(at(2, alone), Decision::RollBack(_)), "who is alone is compared with nothing");
}

#[test]
fn what_fails_everywhere_or_failed_before_is_no_fault_of_the_change() {
    assert_eq!(at(30, evidence(count(100, 90), count(2000, 1800), count(100, 0))), Decision::GoOn);
    assert_eq!(at(30, evidence(count(100, 90), count(2000, 0), count(100, 90))), Decision::GoOn);
    assert!(matches!(at(60, evidence(count(100, 90), count(2000, 0), count(100, 90))), Decision::Promote(_)));
}

#[test]
fn a_small_rise_is_seen_at_the_end_and_none_is_promoted() {
    let slight = evidence(count(1000, 20), count(20_000, 20), count(200, 0));
    assert_eq!(at(59, evidence(count(200, 4), count(4000, 4), count(40, 0))), Decision::GoOn, "not sure yet");
    assert!(matches!(at(60, slight), Decision::RollBack(_)));
    assert!(matches!(at(60, evidence(count(1000, 1), count(20_000, 20), count(200, 0))), Decision::Promote(_)));
}

#[test]
fn refused_calls_count_apart_and_a_sidecar_that_refuses_the_change_ends_it() {
    let refused = Count { calls: 50, failures: 0, refusals: 40 };
    let seen = evidence(refused, count(500, 0), count(50, 0));
    match at(2, seen) {
        Decision::RollBack(why) => assert!(why.starts_with("share of refused calls of 1 of 20 sidecars"), "{why}"),
        other => panic!("{other:?}"),
    }
    let lenient = Limits { refusals: 1.0, ..limits() };
    assert_eq!(judge(&lenient, &[seen], Duration::from_secs(2), (1, 20), None), Decision::GoOn);
    let no = judge(&limits(), &[], Duration::ZERO, (1, 20), Some("shop/web-1 refused it"));
    assert_eq!(no, Decision::RollBack("shop/web-1 refused it".into()));
}

#[test]
fn without_calls_it_waits_for_some_and_not_for_ever() {
    let nothing = Evidence::default();
    assert_eq!(at(60, nothing), Decision::GoOn);
    assert_eq!(at(599, nothing), Decision::GoOn);
    assert!(matches!(at(600, nothing), Decision::Promote(why) if why.contains("no calls")));
}

/// Calls each second that fail with a chance, until something is decided; when and what.
fn simulate(random: &mut StdRng, rates: (f64, f64, f64), each_second: (u64, u64)) -> (u64, Decision) {
    let draw = |random: &mut StdRng, calls: u64, rate: f64| {
        count(calls, (0..calls).filter(|_| random.random_bool(rate)).count() as u64)
    };
    let before = draw(random, each_second.0 * 10, rates.2);
    let mut seen = evidence(Count::default(), Count::default(), before);
    for second in 1..=600 {
        seen.during.sample += draw(random, each_second.0, rates.0);
        seen.during.others += draw(random, each_second.1, rates.1);
        match at(second, seen) {
            Decision::GoOn => {}
            decided => return (second, decided),
        }
    }
    (600, Decision::GoOn)
}

#[test]
fn bad_changes_are_caught_in_seconds_and_good_ones_rarely_taken_for_bad() {
    let mut random = StdRng::seed_from_u64(3);
    for rate in [1.0, 0.5, 0.2] {
        let mut slowest = 0;
        for _ in 0..50 {
            let (second, decided) = simulate(&mut random, (rate, 0.002, 0.002), (10, 190));
            assert!(matches!(decided, Decision::RollBack(_)), "{rate}: {decided:?}");
            slowest = slowest.max(second);
        }
        println!("{rate}: seen after {slowest} s at most");
        assert!(slowest <= 15, "{rate}: {slowest} s");
    }
    for rate in [0.0, 0.002, 0.05] {
        let wrong = (0..200)
            .filter(|_| matches!(simulate(&mut random, (rate, rate, rate), (10, 190)), (_, Decision::RollBack(_))));
        let wrong = wrong.count();
        println!("{rate}: {wrong} of 200 good changes rolled back");
        assert!(wrong <= 12, "{rate}: {wrong} of 200");
    }
}

proptest! {
    #[test]
    fn no_better_sample_is_rolled_back_none_is_promoted_early_and_all_end(
        calls in 0_u64..10_000, failures in 0_u64..10_000, others in 20_u64..100_000, more in 0.0_f64..1.0, seconds in 0_u64..1200,
    ) {
        let sample = count(calls, failures);
        let share = if calls == 0 { 0.0 } else { sample.failures as f64 / calls as f64 };
        let worse = (share + (1.0 - share) * more) * others as f64;
        let decided = at(seconds, evidence(sample, count(others, worse.ceil() as u64), Count::default()));
        // With few calls the added success and failure draw a share of zero upwards, never above what is sure.
        prop_assert!(!matches!(decided, Decision::RollBack(_)), "{decided:?}");
        prop_assert!(seconds >= 60 || decided == Decision::GoOn, "{decided:?}");
        prop_assert!(seconds < 600 || decided != Decision::GoOn);
    }

    #[test]
    fn more_failures_never_save_a_change(calls in 5_u64..5000, failures in 0_u64..5000, more in 0_u64..5000, seconds in 0_u64..60) {
        let of = |failures| at(seconds, evidence(count(calls, failures), count(5000, 10), count(500, 1)));
        if matches!(of(failures), Decision::RollBack(_)) && calls >= 30 {
            prop_assert!(matches!(of(failures.saturating_add(more)), Decision::RollBack(_)));
        }
    }
}
