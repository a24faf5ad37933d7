//! Samples of one row, small: most of a large mesh's memory is made of them.

use super::Numbers;
use std::collections::VecDeque;
use weft_proto::{LATENCY_BOUNDS_US, v1};

/// What was counted in some time.
#[derive(Clone, Debug, Default)]
pub(super) struct Counts {
    calls: u32,
    failures: u32,
    attempts: u32,
    failed_attempts: u32,
    retries: u32,
    mtls: u32,
    tcp_connections: u32,
    bytes_sent: u64,
    bytes_received: u64,
    latency: Latency,
}

/// Counts by bucket, those that are not zero, in order.
#[derive(Clone, Debug, Default)]
struct Latency(Vec<u32>);

/// A bucket's number is in the upper bits, its count in these.
const COUNT: u32 = (1 << 26) - 1;
const _: () = assert!(LATENCY_BOUNDS_US.len() < 64, "the number of a bucket has six bits");

impl Latency {
    fn of(buckets: &[u64]) -> Self {
        let buckets = buckets.iter().take(LATENCY_BOUNDS_US.len() + 1).zip(0_u32..).filter(|(n, _)| **n > 0);
        let mut found: Vec<u32> = buckets.map(|(n, i)| i << 26 | small(*n).min(COUNT)).collect();
        found.shrink_to_fit();
        Self(found)
    }

    fn iter(&self) -> impl Iterator<Item = (usize, u64)> {
        self.0.iter().map(|packed| ((packed >> 26) as usize, u64::from(packed & COUNT)))
    }

    fn add(&mut self, other: &Self) {
        for packed in &other.0 {
            let (bucket, count) = (packed >> 26, packed & COUNT);
            match self.0.binary_search_by_key(&bucket, |p| p >> 26) {
                Ok(i) => self.0[i] = bucket << 26 | ((self.0[i] & COUNT) + count).min(COUNT),
                Err(i) => {
                    // One at a time: room for twice as many would mostly stay empty.
                    self.0.reserve_exact(1);
                    self.0.insert(i, *packed);
                }
            }
        }
    }

    /// The latency below which a share of calls stayed, in milliseconds.
    fn percentile(&self, share: f64) -> Option<f64> {
        let total: u64 = self.iter().map(|(_, n)| n).sum();
        if total == 0 {
            return None;
        }
        let rank = (total as f64 * share).max(1.0);
        let mut before = 0.0;
        for (bucket, count) in self.iter() {
            let here = count as f64;
            if before + here >= rank {
                let upper = LATENCY_BOUNDS_US.get(bucket).copied();
                let lower = bucket.checked_sub(1).and_then(|i| LATENCY_BOUNDS_US.get(i)).copied().unwrap_or(0);
                // Beyond the last bound nothing is known but that it was exceeded.
                let upper = upper.unwrap_or(lower);
                let micros = lower as f64 + (upper - lower) as f64 * ((rank - before) / here);
                return Some((micros / 10.0).round() / 100.0);
            }
            before += here;
        }
        None
    }
}

/// As much of a number as a sample keeps: the rest of so much is not missed in a minute.
fn small(number: u64) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

impl Counts {
    pub(super) fn of(stats: &v1::CallStats) -> Self {
        Self {
            calls: small(stats.calls),
            failures: small(stats.failures.min(stats.calls)),
            attempts: small(stats.attempts),
            failed_attempts: small(stats.failed_attempts.min(stats.attempts)),
            retries: small(stats.retries),
            mtls: small(stats.mtls.min(stats.calls)),
            tcp_connections: small(stats.tcp_connections),
            bytes_sent: stats.bytes_sent,
            bytes_received: stats.bytes_received,
            latency: Latency::of(&stats.latency_buckets),
        }
    }

    pub(super) fn add(&mut self, other: &Self) {
        let sums = [
            (&mut self.calls, other.calls),
            (&mut self.failures, other.failures),
            (&mut self.attempts, other.attempts),
            (&mut self.failed_attempts, other.failed_attempts),
            (&mut self.retries, other.retries),
            (&mut self.mtls, other.mtls),
            (&mut self.tcp_connections, other.tcp_connections),
        ];
        for (sum, more) in sums {
            *sum = sum.saturating_add(more);
        }
        self.bytes_sent = self.bytes_sent.saturating_add(other.bytes_sent);
        self.bytes_received = self.bytes_received.saturating_add(other.bytes_received);
        self.latency.add(&other.latency);
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.calls == 0 && self.attempts == 0 && self.tcp_connections == 0 && self.bytes_sent == 0
    }

    /// What is shown of them, if they cover so many seconds.
    pub(super) fn numbers(&self, seconds: f64) -> Numbers {
        let share = |good: u32, all: u32| (all > 0).then(|| f64::from(good) / f64::from(all));
        Numbers {
            rps: (f64::from(self.calls) / seconds * 100.0).round() / 100.0,
            calls: self.calls.into(),
            failures: self.failures.into(),
            success: share(self.calls.saturating_sub(self.failures), self.calls),
            success_before_retries: share(self.attempts.saturating_sub(self.failed_attempts), self.attempts),
            attempts: self.attempts.into(),
            failed_attempts: self.failed_attempts.into(),
            retries: self.retries.into(),
            p50_ms: self.latency.percentile(0.50),
            p95_ms: self.latency.percentile(0.95),
            p99_ms: self.latency.percentile(0.99),
            mtls: share(self.mtls, self.calls),
            tcp_connections: self.tcp_connections.into(),
            bytes_sent: self.bytes_sent,
            bytes_received: self.bytes_received,
        }
    }
}

/// Fine slots in a coarse one.
const IN_COARSE: u64 = super::COARSE.as_secs() / super::FINE.as_secs();

/// Samples of one row at both resolutions. The newest fine one becomes part of a coarse one when the next begins.
#[derive(Clone, Debug, Default)]
pub(super) struct Samples {
    fine: Ring,
    coarse: Ring,
}

impl Samples {
    pub(super) fn len(&self) -> usize {
        self.fine.0.len() + self.coarse.0.len()
    }

    /// The newest fine slot.
    pub(super) fn last(&self) -> Option<u64> {
        self.fine.0.back().map(|(slot, _)| u64::from(*slot))
    }

    /// Counts in a fine slot; `kept` are the numbers of fine and coarse ones.
    pub(super) fn add(&mut self, fine: u64, kept: (u64, u64), counts: &Counts) {
        if self.last() != Some(fine) {
            self.fold(kept.1);
            self.fine.forget(fine, kept.0);
        }
        self.fine.add(fine, counts);
    }

    fn fold(&mut self, kept: u64) {
        if let Some((slot, counts)) = self.fine.0.back() {
            let coarse = u64::from(*slot) / IN_COARSE;
            self.coarse.forget(coarse, kept);
            self.coarse.add(coarse, counts);
        }
    }

    /// Lets go of what is before the last `kept` slots.
    pub(super) fn forget(&mut self, (fine, coarse): (u64, u64), kept: (u64, u64)) {
        if self.last().is_some_and(|last| last + kept.0 <= fine) {
            self.fold(kept.1);
        }
        self.fine.forget(fine, kept.0);
        self.coarse.forget(coarse, kept.1);
    }

    /// Adds up the slots from one on, of one resolution.
    pub(super) fn sum(&self, is_fine: bool, from: u64, into: &mut Counts) {
        if is_fine {
            return self.fine.sum(from, into);
        }
        self.coarse.sum(from, into);
        if let Some((slot, counts)) = self.fine.0.back()
            && u64::from(*slot) / IN_COARSE >= from
        {
            into.add(counts);
        }
    }
}

/// Samples at one resolution: slot number since the beginning, counts.
#[derive(Clone, Debug, Default)]
struct Ring(VecDeque<(u32, Counts)>);

impl Ring {
    fn add(&mut self, slot: u64, counts: &Counts) {
        match self.0.back_mut() {
            Some((last, sum)) if u64::from(*last) == slot => sum.add(counts),
            _ => self.0.push_back((small(slot), counts.clone())),
        }
    }

    /// Keeps what is in the last `kept` slots, this one included.
    fn forget(&mut self, slot: u64, kept: u64) {
        let before = self.0.len();
        while self.0.front().is_some_and(|(s, _)| u64::from(*s) + kept <= slot) {
            self.0.pop_front();
        }
        if self.0.len() + 8 < before {
            self.0.shrink_to_fit();
        }
    }

    fn sum(&self, from: u64, into: &mut Counts) {
        for (_, counts) in self.0.iter().rev().take_while(|(slot, _)| u64::from(*slot) >= from) {
            into.add(counts);
        }
    }
}
