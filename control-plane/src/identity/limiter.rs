//! How many certificates one identity may have: a bucket for each, so that a program that asks in a loop, or somebody who copied a token,
//! takes neither the authority's time nor room in its records from the others.

use parking_lot::Mutex;
use std::collections::HashMap;
use std::time::{Duration, Instant};
use weft_policy::limit::TokenBucket;

/// Certificates of one identity in half a lifetime, in which each of its sidecars renews once: 1000 sidecars may have the same.
pub const DEFAULT: u32 = 1000;
/// Identities that are counted at a time; beyond it those that asked for nothing lately are forgotten.
const MOST: usize = 100_000;

/// Counts certificates by identity.
#[derive(Debug)]
pub struct Limiter {
    most: u32,
    per_second: f64,
    buckets: Mutex<HashMap<String, TokenBucket>>,
}

impl Limiter {
    /// `most` at once, and as many again in half of `lifetime`.
    #[must_use]
    pub fn new(most: u32, lifetime: Duration) -> Self {
        let per_second = f64::from(most) / (lifetime.as_secs_f64() / 2.0).max(1.0);
        Self { most, per_second, buckets: Mutex::default() }
    }

    /// Whether an identity may have one, without counting it.
    ///
    /// # Errors
    /// How long until it may.
    pub fn ask(&self, identity: &str, now: Instant) -> Result<(), Duration> {
        let mut buckets = self.buckets.lock();
        match buckets.get_mut(identity).map(|bucket| bucket.until(1.0, now)) {
            None | Some(Some(Duration::ZERO)) => Ok(()),
            Some(wait) => Err(wait.unwrap_or(Duration::from_secs(3600))),
        }
    }

    /// Counts one.
    ///
    /// # Errors
    /// How long until it may have one: it was not counted.
    pub fn take(&self, identity: &str, now: Instant) -> Result<(), Duration> {
        let mut buckets = self.buckets.lock();
        if buckets.len() >= MOST && !buckets.contains_key(identity) {
            let most = f64::from(self.most);
            buckets.retain(|_, bucket| bucket.tokens(now) < most);
        }
        let fresh = || TokenBucket::new(self.per_second, f64::from(self.most), now);
        let bucket = buckets.entry(identity.to_owned()).or_insert_with(fresh);
        bucket.take(1, now).map_err(|wait| wait.unwrap_or(Duration::from_secs(3600)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identity_has_its_own_number_and_gets_it_again_in_half_a_lifetime() {
        let limiter = Limiter::new(4, Duration::from_secs(80));
        let start = Instant::now();
        for _ in 0..4 {
            limiter.ask("a", start).unwrap();
            limiter.take("a", start).unwrap();
        }
        let wait = limiter.take("a", start).unwrap_err();
        assert_eq!((wait, limiter.ask("a", start).unwrap_err()), (Duration::from_secs(10), Duration::from_secs(10)));
        limiter.take("b", start).unwrap();
        limiter.take("a", start + wait).unwrap();
        let later = start + Duration::from_secs(60);
        assert_eq!((0..10).filter(|_| limiter.take("a", later).is_ok()).count(), 4);
    }
}
