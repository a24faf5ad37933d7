//! Hedging: when a second attempt is sent while the first is still out (Dean and Barroso, “The tail at scale”, 2013).
//!
//! A [`Delay`] knows what the recent calls of a rule took and says how long a call is waited for before it is hedged.
//! What a hedge costs is drawn from the [`Budget`] of retries: both together never exceed it. Nothing here sends or
//! waits; that only calls that may be repeated are hedged is [`is_hedgeable`]'s to say.

use std::time::{Duration, Instant};

use http::Method;
use parking_lot::Mutex;
use weft_proto::LATENCY_BOUNDS_US;

pub use crate::config::Hedge as Settings;
use crate::retry::{self, Budget};

/// Latencies are counted for this long; those of the window before count too.
const WINDOW: Duration = Duration::from_secs(10);
/// Fewer say nothing of a tail.
const FEWEST: u64 = 20;

/// What the recent calls of a rule took. Fixed size, shared by all workers.
#[derive(Debug)]
pub struct Delay {
    seen: Mutex<Seen>,
}

#[derive(Debug)]
struct Seen {
    settings: Settings,
    began: Instant,
    current: Counts,
    previous: Counts,
}

/// By the bounds of [`LATENCY_BOUNDS_US`], one more for what exceeds them.
type Counts = [u32; LATENCY_BOUNDS_US.len() + 1];
const NOTHING: Counts = [0; LATENCY_BOUNDS_US.len() + 1];

impl Delay {
    /// With nothing seen.
    pub fn new(settings: Settings, now: Instant) -> Self {
        Delay { seen: Mutex::new(Seen { settings, began: now, current: NOTHING, previous: NOTHING }) }
    }

    /// New settings; what was seen stays.
    pub fn update(&self, settings: Settings) {
        self.seen.lock().settings = settings;
    }

    /// Takes the latency of a first attempt, up to the response head. Of one that its hedge has beaten it is the time
    /// that it had been out: left away, the slow ones would be missing, and the percentile would sink call by call.
    pub fn observe(&self, latency: Duration, now: Instant) {
        let mut seen = self.seen.lock();
        seen.turn(now);
        let micros = u64::try_from(latency.as_micros()).unwrap_or(u64::MAX);
        let bucket = LATENCY_BOUNDS_US.partition_point(|bound| *bound < micros);
        if let Some(count) = seen.current.get_mut(bucket) {
            *count = count.saturating_add(1);
        }
    }

    /// How long after its first attempt a call is hedged; `None` as long as too little is known, and when the
    /// percentile exceeds everything that is told apart.
    pub fn after(&self, now: Instant) -> Option<Duration> {
        let mut seen = self.seen.lock();
        seen.turn(now);
        let total: u64 = seen.counts().sum();
        if total < FEWEST {
            return None;
        }
        let rank = (total * u64::from(seen.settings.percentile)).div_ceil(100).max(1);
        let mut below = 0;
        let bucket = seen.counts().position(|count| {
            below += count;
            below >= rank
        })?;
        // The upper bound: rather late by a tenth than too many.
        LATENCY_BOUNDS_US.get(bucket).map(|micros| Duration::from_micros(*micros).max(seen.settings.min_delay))
    }
}

/// Whether a hedge may be sent now: one that would begin at its deadline would only be load, and the budget must have
/// room. Charges the budget when it says so: ask last.
pub fn may_begin(budget: &Budget, deadline: Option<Instant>, now: Instant) -> bool {
    deadline.is_none_or(|deadline| now < deadline) && budget.withdraw(now)
}

/// Whether a call may be out twice at once: doing it twice is harmless by its method's definition. Methods that a route
/// opts in for retries do not count: they may bear to be repeated after a failure, and not at the same time.
pub fn is_hedgeable(method: &Method) -> bool {
    retry::is_idempotent(method)
}

impl Seen {
    /// Moves to the window of `now`. Time does not run backwards.
    fn turn(&mut self, now: Instant) {
        let past = now.saturating_duration_since(self.began);
        if past < WINDOW {
            return;
        }
        // Windows follow each other without a gap while there are calls.
        (self.previous, self.began) =
            if past < 2 * WINDOW { (self.current, self.began + WINDOW) } else { (NOTHING, now) };
        self.current = NOTHING;
    }

    fn counts(&self) -> impl Iterator<Item = u64> {
        self.current.iter().zip(&self.previous).map(|(current, previous)| u64::from(*current) + u64::from(*previous))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::retry::BudgetSettings;

    const P95: Settings = Settings { percentile: 95, min_delay: ms(1) };

    const fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    #[test]
    fn a_call_is_hedged_after_the_percentile_of_the_recent_ones() {
        let start = Instant::now();
        let delay = Delay::new(P95, start);
        for i in 0..19 {
            delay.observe(ms(10), start);
            assert_eq!(delay.after(start), None, "{i} calls say nothing of a tail");
        }
        for _ in 0..79 {
            delay.observe(ms(10), start);
            assert_eq!(delay.after(start), Some(ms(10)), "twenty do");
        }
        assert_eq!(delay.after(start), Some(ms(10)));
        delay.observe(ms(200), start);
        delay.observe(ms(200), start);
        assert_eq!(delay.after(start), Some(ms(10)), "two of a hundred are beyond the 95th");
        delay.update(Settings { percentile: 99, ..P95 });
        assert_eq!(delay.after(start), Some(ms(200)));
        delay.update(Settings { percentile: 50, min_delay: ms(40) });
        assert_eq!(delay.after(start), Some(ms(40)), "never sooner");
    }

    #[test]
    fn what_was_is_forgotten_after_two_windows() {
        let start = Instant::now();
        let delay = Delay::new(P95, start);
        let fill = |latency, now| (0..50).for_each(|_| delay.observe(latency, now));
        fill(ms(100), start);
        assert_eq!(delay.after(start + Duration::from_secs(19)), Some(ms(100)));
        fill(ms(5), start + Duration::from_secs(19));
        assert_eq!(delay.after(start + Duration::from_secs(19)), Some(ms(100)), "half of what is seen");
        assert_eq!(delay.after(start + Duration::from_secs(21)), Some(ms(5)));
        assert_eq!(delay.after(start + Duration::from_secs(60)), None);
        fill(Duration::from_secs(3600), start + Duration::from_secs(60));
        assert_eq!(delay.after(start + Duration::from_secs(60)), None, "longer than anything that is told apart");
    }

    #[test]
    fn windows_follow_each_other_and_each_counts_until_the_next_but_one_begins() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let fill = |delay: &Delay, latency, now| (0..50).for_each(|_| delay.observe(latency, now));
        // What is seen as a window begins is of that window.
        let delay = Delay::new(P95, start);
        fill(&delay, ms(5), at(10));
        assert_eq!((delay.after(at(29)), delay.after(at(30))), (Some(ms(5)), None));
        // After two windows of silence the next begins with the first call.
        let delay = Delay::new(P95, start);
        fill(&delay, ms(100), start);
        assert_eq!(delay.after(at(20)), None);
        fill(&delay, ms(5), at(20));
        assert_eq!((delay.after(at(39)), delay.after(at(40))), (Some(ms(5)), None));
        // Those that exceed every bound count as well as the others.
        let delay = Delay::new(P95, start);
        fill(&delay, ms(5), start);
        fill(&delay, Duration::from_secs(3600), start);
        assert_eq!(delay.after(start), None);
    }

    #[test]
    fn only_what_is_harmless_twice_at_once_is_hedged_and_nothing_at_its_deadline() {
        assert!(is_hedgeable(&Method::GET) && !is_hedgeable(&Method::POST));
        let now = Instant::now();
        let budget = Budget::new(BudgetSettings { percent: 0, min_per_second: 1, ..BudgetSettings::default() }, now);
        assert!(!may_begin(&budget, Some(now), now));
        assert!(may_begin(&budget, Some(now + ms(1)), now), "the one refused for its deadline was not charged");
        assert!(!may_begin(&budget, None, now));
    }

    proptest! {
        #[test]
        fn hedges_and_retries_together_never_exceed_the_budget_on_any_schedule(
            steps in prop::collection::vec((0..2000_u64, 0..20_u32, 0..12_u32, 0..12_u32), 1..120),
            percent in 0..101_u32, floor in 0..20_u32,
        ) {
            let settings = BudgetSettings { percent, min_per_second: floor, ..BudgetSettings::default() };
            let start = Instant::now();
            let (budget, mut now) = (Budget::new(settings, start), start);
            let (mut originals, mut extra) = (0.0, 0.0);
            for (millis, calls, hedges, retries) in steps {
                now += ms(millis);
                for _ in 0..calls {
                    budget.deposit(now);
                    originals += 1.0;
                }
                for turn in 0..hedges + retries {
                    let granted = if turn % 2 == 0 { may_begin(&budget, None, now) } else { budget.withdraw(now) };
                    extra += f64::from(u8::from(granted));
                }
                let most = originals * f64::from(percent) / 100.0 + f64::from(floor) * ((now - start).as_secs_f64() + 1.0);
                prop_assert!(extra <= most + 1e-6, "{extra} > {most}");
            }
        }

        #[test]
        fn the_delay_is_within_a_bucket_of_the_percentile(
            latencies in prop::collection::vec(1_000..5_000_000_u64, 20..300), percentile in 1..100_u8,
        ) {
            let now = Instant::now();
            let delay = Delay::new(Settings { percentile, ..P95 }, now);
            let mut sorted = latencies.clone();
            sorted.sort_unstable();
            latencies.iter().for_each(|micros| delay.observe(Duration::from_micros(*micros), now));
            let rank = (sorted.len() * usize::from(percentile)).div_ceil(100).max(1);
            let exact = sorted[rank - 1] as f64;
            let got = delay.after(now).unwrap().as_micros() as f64;
            prop_assert!(got >= exact && got <= exact * 1.31, "{got} instead of {exact}");
        }
    }
}
