//! What is counted of calls, and how it is kept: packed, since most of a large mesh's memory is made of it.

use super::Numbers;
use bytes::{Buf, BufMut};
use prost::encoding::{decode_varint, encode_varint};
use weft_proto::{LATENCY_BOUNDS_US, v1};

/// What was counted in some time.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Counts {
    /// Calls, failures, attempts, failed attempts, retries, calls over mutual TLS, TCP connections, bytes sent, bytes received.
    fields: [u64; FIELDS],
    latency: Latency,
}

/// Numbers besides the latencies.
const FIELDS: usize = 9;
const BUCKETS: usize = LATENCY_BOUNDS_US.len() + 1;
/// No packed counts are longer: a mask, numbers of up to ten bytes, how many buckets there are, and each with its number.
pub(super) const PACKED: usize = 2 + FIELDS * 10 + 1 + BUCKETS * 11;

/// Counts by bucket.
#[derive(Clone, Debug, PartialEq)]
struct Latency {
    /// A bit for each bucket that is not zero: mostly a few.
    used: u64,
    counts: [u64; BUCKETS],
}

const _: () = assert!(BUCKETS <= 64, "a bit for each bucket");

impl Default for Latency {
    fn default() -> Self {
        Self { used: 0, counts: [0; BUCKETS] }
    }
}

impl Latency {
    fn add(&mut self, bucket: usize, count: u64) {
        if let Some(sum) = self.counts.get_mut(bucket).filter(|_| count > 0) {
            *sum = sum.saturating_add(count);
            self.used |= 1 << bucket;
        }
    }

    fn iter(&self) -> impl Iterator<Item = (usize, u64)> {
        let mut left = self.used;
        std::iter::from_fn(move || {
            let bucket = left.trailing_zeros() as usize;
            left &= left.wrapping_sub(1);
            Some((bucket, *self.counts.get(bucket)?))
        })
    }

    /// The latency below which a share of calls stayed, in milliseconds.
    fn percentile(&self, share: f64) -> Option<f64> {
        let total: f64 = self.iter().map(|(_, n)| n as f64).sum();
        if total == 0.0 {
            return None;
        }
        let rank = (total * share).max(1.0);
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

impl Counts {
    pub(super) fn of(stats: &v1::CallStats) -> Self {
        let mut latency = Latency::default();
        for (bucket, count) in stats.latency_buckets.iter().enumerate() {
            latency.add(bucket, *count);
        }
        let fields = [
            stats.calls,
            stats.failures.min(stats.calls),
            stats.attempts,
            stats.failed_attempts.min(stats.attempts),
            stats.retries,
            stats.mtls.min(stats.calls),
            stats.tcp_connections,
            stats.bytes_sent,
            stats.bytes_received,
        ];
        Self { fields, latency }
    }

    pub(super) fn add(&mut self, other: &Self) {
        for (sum, more) in self.fields.iter_mut().zip(&other.fields) {
            *sum = sum.saturating_add(*more);
        }
        for (bucket, count) in other.latency.iter() {
            self.latency.add(bucket, count);
        }
    }

    /// Only what is not zero: a mask of the numbers that follow, then buckets with their counts.
    pub(super) fn pack(&self, into: &mut impl BufMut) {
        let mask = self.fields.iter().enumerate().filter(|(_, n)| **n > 0).fold(0_u16, |mask, (i, _)| mask | 1 << i);
        into.put_u16_le(mask);
        for number in self.fields.into_iter().filter(|n| *n > 0) {
            encode_varint(number, into);
        }
        into.put_u8(self.latency.used.count_ones() as u8);
        for (bucket, count) in self.latency.iter() {
            into.put_u8(bucket as u8);
            encode_varint(count, into);
        }
    }

    /// Reads what [`Self::pack`] wrote.
    pub(super) fn unpack(from: &mut &[u8]) -> Self {
        let mut counts = Self::default();
        counts.add_packed(from);
        counts
    }

    /// Adds what [`Self::pack`] wrote.
    pub(super) fn add_packed(&mut self, from: &mut &[u8]) {
        let mut left = from.try_get_u16_le().unwrap_or_default();
        while left != 0 {
            let more = decode_varint(from).unwrap_or_default();
            if let Some(sum) = self.fields.get_mut(left.trailing_zeros() as usize) {
                *sum = sum.saturating_add(more);
            }
            left &= left - 1;
        }
        for _ in 0..from.try_get_u8().unwrap_or_default() {
            let bucket = from.try_get_u8().unwrap_or_default();
            let count = decode_varint(from).unwrap_or_default();
            self.latency.add(bucket.into(), count);
        }
    }

    pub(super) const fn is_empty(&self) -> bool {
        let [calls, _, attempts, _, _, _, tcp_connections, bytes_sent, _] = self.fields;
        calls == 0 && attempts == 0 && tcp_connections == 0 && bytes_sent == 0
    }

    /// What is shown of them, if they cover so many seconds.
    pub(super) fn numbers(&self, seconds: f64) -> Numbers {
        let [calls, failures, attempts, failed_attempts, retries, mtls, tcp_connections, bytes_sent, bytes_received] =
            self.fields;
        let share = |good: u64, all: u64| (all > 0).then(|| good as f64 / all as f64);
        Numbers {
            rps: (calls as f64 / seconds * 100.0).round() / 100.0,
            calls,
            failures,
            success: share(calls.saturating_sub(failures), calls),
            success_before_retries: share(attempts.saturating_sub(failed_attempts), attempts),
            attempts,
            failed_attempts,
            retries,
            p50_ms: self.latency.percentile(0.50),
            p95_ms: self.latency.percentile(0.95),
            p99_ms: self.latency.percentile(0.99),
            mtls: share(mtls, calls),
            tcp_connections,
            bytes_sent,
            bytes_received,
        }
    }
}
