//! What is retried and what is not, and that no sequence of calls gets more retries than the budget has.

use std::time::{Duration, Instant};

use http::Method;
use proptest::prelude::*;

use super::*;

fn attempt(method: &Method, sent: Sent, failure: Failure) -> Attempt<'_> {
    Attempt { method, sent, failure, retries: 0, replayable: true, retry_after: None }
}

fn judge(policy: &Policy, attempt: &Attempt<'_>) -> Verdict {
    let now = Instant::now();
    policy.judge(attempt, &Budget::new(BudgetSettings::default(), now), None, now, 0.0)
}

const AGAIN: Verdict = Verdict::Retry { after: Duration::ZERO };

#[test]
fn what_was_not_sent_is_sent_again_whatever_it_is() {
    for method in [Method::GET, Method::POST, Method::PATCH, Method::from_bytes(b"BREW").unwrap()] {
        assert_eq!(judge(&Policy::default(), &attempt(&method, Sent::No, Failure::Transport)), AGAIN, "{method}");
    }
}

#[test]
fn what_may_have_been_processed_is_sent_again_only_if_that_is_harmless() {
    let failures = [Failure::Transport, Failure::Timeout, Failure::Status(503)];
    for (method, harmless) in [
        (Method::GET, true),
        (Method::HEAD, true),
        (Method::OPTIONS, true),
        (Method::PUT, true),
        (Method::DELETE, true),
        (Method::POST, false),
        (Method::PATCH, false),
        (Method::CONNECT, false),
    ] {
        for (failure, sent) in failures.into_iter().zip([Sent::Unknown, Sent::Yes, Sent::Yes]) {
            assert_eq!(Policy::default().retryable(&method, sent, failure), harmless, "{method} {failure:?}");
        }
        assert_eq!(Policy::default().replays(&method), harmless);
    }
    let post = Policy { methods: vec![Method::POST], ..Policy::default() };
    assert!(failures.into_iter().all(|failure| post.retryable(&Method::POST, Sent::Yes, failure)));
    assert!(!post.retryable(&Method::PATCH, Sent::Yes, Failure::Status(503)));
}

#[test]
fn only_listed_statuses_are_retried() {
    let retried = |policy: &Policy| -> Vec<u16> {
        (200..600).filter(|status| policy.retryable(&Method::GET, Sent::Yes, Failure::Status(*status))).collect()
    };
    assert_eq!(retried(&Policy::default()), [502, 503, 504]);
    let teapot = Policy { codes: vec![418, 500], ..Policy::default() };
    assert_eq!(retried(&teapot), [418, 500]);
    assert!(teapot.retryable(&Method::GET, Sent::Yes, Failure::Transport), "connection errors even when not listed");
}

#[test]
fn grpc_is_retried_where_the_route_opts_in() {
    let codes = |policy: &Policy| -> Vec<u32> {
        (0..40).filter(|code| policy.retryable(&Method::POST, Sent::Yes, Failure::Grpc(*code))).collect()
    };
    assert!(codes(&Policy::default()).is_empty());
    assert_eq!(codes(&Policy { methods: vec![Method::POST], ..Policy::default() }), [14]);
    assert_eq!(codes(&Policy { grpc_codes: 1 << 8, ..Policy::default() }), [8, 14]);
}

#[test]
fn attempts_count_retries_and_zero_means_none() {
    let get = |retries| Attempt { retries, ..attempt(&Method::GET, Sent::No, Failure::Transport) };
    assert_eq!(judge(&Policy::default(), &get(1)), AGAIN);
    assert_eq!(judge(&Policy::default(), &get(2)), Verdict::Stop(Stop::Exhausted));
    let none = Policy { attempts: 0, ..Policy::default() };
    assert_eq!(judge(&none, &get(0)), Verdict::Stop(Stop::NotRetryable));
    assert!(!none.replays(&Method::GET), "no body is kept for it");
}

#[test]
fn a_body_that_is_gone_cannot_be_sent_again() {
    let gone = Attempt { replayable: false, ..attempt(&Method::PUT, Sent::Yes, Failure::Status(503)) };
    assert_eq!(judge(&Policy::default(), &gone), Verdict::Stop(Stop::NotReplayable));
}

#[test]
fn no_retry_begins_at_or_after_the_deadline_and_none_is_charged_for() {
    let now = Instant::now();
    let budget = Budget::new(BudgetSettings { percent: 0, min_per_second: 1, ..BudgetSettings::default() }, now);
    let call =
        Attempt { retry_after: Some(Duration::from_secs(2)), ..attempt(&Method::GET, Sent::Yes, Failure::Status(503)) };
    let within = |seconds| Policy::default().judge(&call, &budget, Some(now + Duration::from_secs(seconds)), now, 0.9);
    assert_eq!(within(2), Verdict::Stop(Stop::Deadline));
    assert_eq!(within(3), Verdict::Retry { after: Duration::from_secs(2) });
    assert_eq!(within(3), Verdict::Stop(Stop::Budget));
}

#[test]
fn backoff_is_full_jitter_doubling_up_to_ten_times_its_base() {
    let base = Duration::from_millis(25);
    let most: Vec<u128> = (0..6).map(|retries| backoff(base, retries, 1.0).as_millis()).collect();
    assert_eq!(most, [25, 50, 100, 200, 250, 250]);
    assert_eq!(backoff(base, 3, 0.0), Duration::ZERO);
    assert_eq!(backoff(base, 40, 0.5).as_millis(), 125);
}

#[test]
fn retry_after_is_seconds_or_a_date() {
    const NOV_6_1994: u64 = 784_111_777;
    assert_eq!(retry_after(b"120", 0), Some(Duration::from_secs(120)));
    assert_eq!(retry_after(b" 0 ", 0), Some(Duration::ZERO));
    let date = b"Sun, 06 Nov 1994 08:49:37 GMT";
    assert_eq!(retry_after(date, NOV_6_1994 - 5), Some(Duration::from_secs(5)));
    assert_eq!(retry_after(date, NOV_6_1994 + 5), Some(Duration::ZERO));
    assert_eq!(retry_after(b"Thu, 29 Feb 2024 00:00:00 GMT", 1_709_164_799), Some(Duration::from_secs(1)));
    assert_eq!(retry_after(b"Thu, 01 Jan 1970 00:00:01 GMT", 0), Some(Duration::from_secs(1)));
    for bad in [
        "",
        "-1",
        "1.5",
        "12345678901",
        "tomorrow",
        "Sun, 06 Nov 1994 08:49:37 CET",
        "Sun, 06 Foo 1994 08:49:37 GMT",
        "Sun, +6 Nov 1994 08:49:37 GMT",
    ] {
        assert_eq!(retry_after(bad.as_bytes(), 0), None, "{bad}");
    }
}

#[test]
fn every_day_of_two_hundred_years_is_a_day_after_the_one_before() {
    const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let mut days = 0;
    for year in 1970..2170_u64 {
        let leap = year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
        for (month, length) in
            MONTHS.iter().zip([31, if leap { 29 } else { 28 }, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31])
        {
            for day in 1..=length {
                let date = format!("Sun, {day:02} {month} {year} 01:02:03 GMT");
                assert_eq!(retry_after(date.as_bytes(), 0), Some(Duration::from_secs(days * 86_400 + 3723)), "{date}");
                days += 1;
            }
        }
    }
}

#[test]
fn a_date_has_its_bounds() {
    let after = |text: &str| retry_after(text.as_bytes(), 0);
    for (good, bad) in [
        ("Sun, 31 Dec 1972 23:59:60 GMT", "Sun, 32 Dec 1972 23:59:59 GMT"),
        ("Sun, 01 Jan 1972 00:00:00 GMT", "Sun, 00 Jan 1972 00:00:00 GMT"),
        ("Sun, 01 Jan 1972 23:00:00 GMT", "Sun, 01 Jan 1972 24:00:00 GMT"),
        ("Sun, 01 Jan 1972 00:59:00 GMT", "Sun, 01 Jan 1972 00:60:00 GMT"),
        ("Sun, 01 Jan 1972 00:00:60 GMT", "Sun, 01 Jan 1972 00:00:61 GMT"),
        ("Thu, 01 Jan 1970 00:00:00 GMT", "Wed, 31 Dec 1969 23:59:59 GMT"),
        ("Thu, 01 Jan 1970 00:00:00 GMT", "Thu, 01 Jan 1970 00:00:00  GMT"),
        ("999999999", "1999999999"),
        ("0", "+1"),
    ] {
        assert!(after(good).is_some(), "{good}");
        assert_eq!(after(bad), None, "{bad}");
    }
}

/// What happened when, for checking a budget against its definition.
#[derive(Default)]
struct History {
    originals: Vec<Instant>,
    retries: Vec<Instant>,
}

impl History {
    /// What the documentation of [`Budget`] promises, for the retry that came last: its window, and every stretch of
    /// time that ends with it.
    fn check(&self, settings: BudgetSettings) -> Result<(), TestCaseError> {
        let Some(now) = self.retries.last().copied() else { return Ok(()) };
        let (percent, floor) = (f64::from(settings.percent) / 100.0, f64::from(settings.min_per_second));
        let within = |times: &[Instant], stretch: Duration| {
            times.iter().rev().take_while(|at| now.saturating_duration_since(**at) < stretch).count() as f64
        };
        let (spent, made) = (within(&self.retries, settings.window), within(&self.originals, settings.window));
        let most = made * percent + floor * settings.window.as_secs_f64();
        prop_assert!(spent <= most + 1e-6, "{spent} > {most} in the window");
        for (before, begin) in self.retries.iter().enumerate() {
            let (stretch, spent) = (now - *begin, (self.retries.len() - before) as f64);
            let made = within(&self.originals, stretch + settings.window);
            let most = made * percent + floor * (stretch.as_secs_f64() + 1.0);
            prop_assert!(spent <= most + 1e-6, "{spent} > {most} in {stretch:?}");
        }
        Ok(())
    }
}

proptest! {
    #[test]
    fn the_budget_is_never_exceeded_in_any_stretch_of_any_schedule(
        steps in prop::collection::vec((0..3000_u64, 0..30_u32, 0..40_u32), 1..80),
        percent in 0..101_u32,
        floor in 0..20_u32,
        window in 1..20_u64,
    ) {
        let settings = BudgetSettings { percent, min_per_second: floor, window: Duration::from_secs(window) };
        let start = Instant::now();
        let (budget, mut history, mut now) = (Budget::new(settings, start), History::default(), start);
        for (millis, originals, wanted) in steps {
            now += Duration::from_millis(millis);
            for _ in 0..originals {
                budget.deposit(now);
                history.originals.push(now);
            }
            let before = history.retries.len();
            history.retries.extend((0..wanted).filter(|_| budget.withdraw(now)).map(|_| now));
            if history.retries.len() > before {
                history.check(settings)?;
            }
        }
    }

    /// Changed settings are at times the stricter, at times the laxer ones: the laxer ones always hold.
    #[test]
    fn changing_the_settings_back_and_forth_gains_nothing(
        steps in prop::collection::vec((0..1500_u64, 0..20_u32, 0..40_u32, any::<bool>()), 1..80),
        window in 1..10_u64,
    ) {
        let lax = BudgetSettings { percent: 20, min_per_second: 10, window: Duration::from_secs(10) };
        let strict = BudgetSettings { percent: 10, min_per_second: 5, window: Duration::from_secs(window) };
        let start = Instant::now();
        let (budget, mut history, mut now) = (Budget::new(lax, start), History::default(), start);
        for (millis, originals, wanted, change) in steps {
            now += Duration::from_millis(millis);
            budget.update(if change { strict } else { lax }, now);
            (0..originals).for_each(|_| budget.deposit(now));
            history.originals.extend((0..originals).map(|_| now));
            history.retries.extend((0..wanted).filter(|_| budget.withdraw(now)).map(|_| now));
            let most = history.originals.len() as f64 * 0.2 + 10.0 * ((now - start).as_secs_f64() + 1.0);
            prop_assert!(history.retries.len() as f64 <= most + 1e-6, "{} > {most}", history.retries.len());
        }
    }
}

#[test]
fn when_everything_fails_retries_settle_at_the_percentage_and_the_floor() {
    let start = Instant::now();
    let budget = Budget::new(BudgetSettings::default(), start);
    let mut retries = 0;
    // 1000 calls a second for a minute, each wanting two retries.
    for call in 0..60_000_u64 {
        let now = start + Duration::from_millis(call);
        budget.deposit(now);
        retries += (0..2).filter(|_| budget.withdraw(now)).count();
    }
    assert!(retries <= 12_000 + 610, "{retries}");
    assert!(retries >= 11_500, "{retries}");
}

/// Of percent, floor and window in seconds.
fn settings(percent: u32, min_per_second: u32, window: u64) -> BudgetSettings {
    BudgetSettings { percent, min_per_second, window: Duration::from_secs(window) }
}

/// Retries that are granted of a hundred.
fn granted(budget: &Budget, now: Instant) -> usize {
    (0..100).filter(|_| budget.withdraw(now)).count()
}

#[test]
fn a_window_pays_out_all_of_its_percentage_and_its_floor() {
    let start = Instant::now();
    let budget = Budget::new(settings(50, 2, 10), start);
    (0..10).for_each(|_| budget.deposit(start));
    assert_eq!(granted(&budget, start), 5 + 2);
    let rest: usize = (1..100).map(|tenth| granted(&budget, start + Duration::from_millis(100 * tenth))).sum();
    assert_eq!(rest, 20 - 2);
}

#[test]
fn a_call_counts_until_its_window_is_over() {
    let start = Instant::now();
    for (millis, retries) in (0..100).map(|tenth| (100 * tenth, 20)).chain([(10_000, 0), (1_000_000, 0)]) {
        let budget = Budget::new(settings(20, 0, 10), start);
        (0..100).for_each(|_| budget.deposit(start));
        assert_eq!(granted(&budget, start + Duration::from_millis(millis)), retries, "after {millis} ms");
    }
}

#[test]
fn new_settings_count_at_once_and_what_was_spent_stays_spent() {
    let start = Instant::now();
    let budget = Budget::new(settings(0, 10, 10), start);
    assert_eq!(granted(&budget, start), 10);
    budget.update(settings(0, 5, 10), start);
    assert_eq!(granted(&budget, start), 0);
    assert_eq!(granted(&budget, start + Duration::from_secs(1)), 5);

    let budget = Budget::new(settings(20, 0, 10), start);
    let deposit = || (0..100).for_each(|_| budget.deposit(start));
    deposit();
    assert_eq!(granted(&budget, start), 20);
    budget.update(settings(50, 0, 10), start);
    assert_eq!(granted(&budget, start), 30, "of the same calls");
    budget.update(settings(50, 0, 20), start);
    deposit();
    assert_eq!(granted(&budget, start), 0, "in another window calls count from now on, and retries as before");
    deposit();
    assert_eq!(granted(&budget, start), 50);
}

#[test]
fn a_quiet_service_may_retry_by_the_floor_alone() {
    let start = Instant::now();
    let budget = Budget::new(BudgetSettings::default(), start);
    assert_eq!((0..100).filter(|_| budget.withdraw(start)).count(), 10);
    let later = start + Duration::from_millis(500);
    assert_eq!((0..100).filter(|_| budget.withdraw(later)).count(), 5);
    let much_later = start + Duration::from_secs(100_000);
    assert_eq!((0..100).filter(|_| budget.withdraw(much_later)).count(), 10);
}

#[test]
fn threads_together_never_exceed_the_budget() {
    let start = Instant::now();
    let budget = Budget::new(BudgetSettings::default(), start);
    let granted: usize = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..4)
            .map(|_| {
                scope.spawn(|| {
                    (0..5000)
                        .map(|_| {
                            budget.deposit(start);
                            usize::from(budget.withdraw(start)) + usize::from(budget.withdraw(start))
                        })
                        .sum::<usize>()
                })
            })
            .collect();
        workers.into_iter().map(|worker| worker.join().unwrap()).sum()
    });
    assert!(granted <= 20_000 / 5 + 10, "{granted}");
}
