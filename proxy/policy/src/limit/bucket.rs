//! A token bucket: the one way in which Weft counts things over time.

use std::time::{Duration, Instant};

/// A token bucket: `per_second` on average, `burst` at once. Plain value; share it behind a lock of your own.
#[derive(Clone, Debug)]
pub struct TokenBucket {
    per_second: f64,
    burst: f64,
    tokens: f64,
    stamp: Instant,
}

impl TokenBucket {
    /// A full bucket. Negative and non-finite arguments count as 0.
    pub fn new(per_second: f64, burst: f64, now: Instant) -> Self {
        let burst = sane(burst);
        TokenBucket { per_second: sane(per_second), burst, tokens: burst, stamp: now }
    }

    /// The same, without a token in it.
    pub fn empty(per_second: f64, burst: f64, now: Instant) -> Self {
        TokenBucket { tokens: 0.0, ..Self::new(per_second, burst, now) }
    }

    /// Takes `count` tokens. A `now` before the last one seen counts as that one.
    ///
    /// # Errors
    /// When there are too few: how long until there are enough, `None` if there never will be. Nothing was taken.
    pub fn take(&mut self, count: u32, now: Instant) -> Result<(), Option<Duration>> {
        self.refill(now);
        let count = f64::from(count);
        if self.tokens >= count {
            self.tokens -= count;
            return Ok(());
        }
        if count > self.burst || self.per_second <= 0.0 {
            return Err(None);
        }
        Err(Duration::try_from_secs_f64((count - self.tokens) / self.per_second).ok())
    }

    /// Puts tokens back: up to the burst, like all others.
    pub fn give(&mut self, count: f64, now: Instant) {
        self.refill(now);
        self.tokens = (self.tokens + count.max(0.0)).min(self.burst);
    }

    /// Takes tokens that were used already: the bucket may come to lack as many as it holds when full, and no more.
    pub fn owe(&mut self, count: f64, now: Instant) {
        self.refill(now);
        self.tokens = (self.tokens - count.max(0.0)).max(-self.burst);
    }

    /// Another rate and burst. Tokens stay, as far as the new burst goes.
    pub fn retune(&mut self, per_second: f64, burst: f64, now: Instant) {
        self.refill(now);
        (self.per_second, self.burst) = (sane(per_second), sane(burst));
        self.tokens = self.tokens.clamp(-self.burst, self.burst);
    }

    /// How long until it holds `count` tokens, at most its burst: zero if it does. `None`: never.
    pub fn until(&mut self, count: f64, now: Instant) -> Option<Duration> {
        self.refill(now);
        let missing = count.min(self.burst) - self.tokens;
        if missing <= 0.0 {
            return Some(Duration::ZERO);
        }
        Duration::try_from_secs_f64(missing / self.per_second).ok()
    }

    /// What it holds at most.
    pub fn burst(&self) -> f64 {
        self.burst
    }

    /// Tokens at `now`.
    pub fn tokens(&mut self, now: Instant) -> f64 {
        self.refill(now);
        self.tokens
    }

    fn refill(&mut self, now: Instant) {
        let elapsed = now.saturating_duration_since(self.stamp);
        self.stamp = self.stamp.max(now);
        self.tokens = (self.tokens + elapsed.as_secs_f64() * self.per_second).min(self.burst);
    }
}

fn sane(number: f64) -> f64 {
    if number.is_finite() { number.max(0.0) } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_bucket_says_how_long_to_wait() {
        let start = Instant::now();
        let mut bucket = TokenBucket::new(10.0, 5.0, start);
        assert_eq!(bucket.take(5, start), Ok(()));
        assert_eq!(bucket.take(1, start), Err(Some(Duration::from_millis(100))));
        assert_eq!(bucket.take(5, start), Err(Some(Duration::from_millis(500))), "as much as it ever holds");
        assert_eq!(bucket.take(6, start), Err(None), "more than it ever holds");
        assert_eq!(bucket.take(1, start + Duration::from_millis(100)), Ok(()));
        assert_eq!(bucket.take(1, start), Err(Some(Duration::from_millis(100))), "time does not run backwards");
        assert_eq!(TokenBucket::new(f64::NAN, -1.0, start).take(1, start), Err(None));
    }

    #[test]
    fn what_was_used_in_advance_is_owed_and_what_comes_back_fills_no_further_than_the_burst() {
        let start = Instant::now();
        let mut bucket = TokenBucket::new(10.0, 5.0, start);
        bucket.owe(7.0, start);
        assert_eq!(bucket.take(1, start), Err(Some(Duration::from_millis(300))));
        bucket.owe(100.0, start);
        assert_eq!(bucket.until(0.0, start), Some(Duration::from_millis(500)), "no more than its burst is owed");
        bucket.give(100.0, start);
        assert_eq!(bucket.tokens(start), 5.0);
        bucket.retune(1.0, 3.0, start);
        assert_eq!((bucket.tokens(start), bucket.take(2, start)), (3.0, Ok(())));
        bucket.retune(1.0, 4.0, start);
        assert_eq!(bucket.tokens(start), 1.0, "room is not filled");
        bucket.owe(4.0, start);
        bucket.retune(1.0, 3.0, start);
        assert_eq!((bucket.tokens(start), bucket.until(0.0, start)), (-3.0, Some(Duration::from_secs(3))));
        bucket.give(3.0, start);
        assert_eq!(bucket.until(9.0, start), Some(Duration::from_secs(3)), "full is as full as it gets");
        assert_eq!(TokenBucket::empty(2.0, 3.0, start).take(1, start), Err(Some(Duration::from_millis(500))));
        assert_eq!(TokenBucket::empty(0.0, 3.0, start).until(1.0, start), None);
    }

    proptest! {
        #[test]
        fn a_bucket_never_gives_more_than_its_burst_and_its_rate(
            steps in prop::collection::vec((0..500_u64, 1..4_u32), 1..200), rate in 1..50_u32, burst in 1..20_u32,
        ) {
            let start = Instant::now();
            let mut bucket = TokenBucket::new(f64::from(rate), f64::from(burst), start);
            let (mut now, mut taken) = (start, 0);
            for (millis, count) in steps {
                now += Duration::from_millis(millis);
                if bucket.take(count, now).is_ok() {
                    taken += count;
                }
                let most = f64::from(burst) + f64::from(rate) * (now - start).as_secs_f64();
                prop_assert!(f64::from(taken) <= most + 1e-6);
            }
        }
    }
}
