//! What is counted of calls, and how it is kept: packed, since most of a large mesh's memory is made of it. What comes is added while both are
//! packed, since most of what reports cost is that; [`Counts`] are what is read.

use super::Numbers;
use bytes::Buf;
use prost::encoding::{decode_varint, encode_varint};
use weft_proto::{LATENCY_BOUNDS_US, v1};

/// What was counted in some time.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Counts {
    /// Calls, failures, attempts, failed attempts, retries, calls over mutual TLS, TCP connections, bytes sent, bytes received, calls that
    /// nobody was sent.
    fields: [u64; FIELDS],
    latency: Latency,
}

/// Numbers besides the latencies.
const FIELDS: usize = 10;
const BUCKETS: usize = LATENCY_BOUNDS_US.len() + 1;
/// No packed counts are longer: a mask, numbers of up to ten bytes, how many buckets there are, and each with its number.
const PACKED: usize = 2 + FIELDS * 10 + 1 + BUCKETS * 11;

/// Packed counts, of what is not zero alone: a mask of the numbers that follow, then how many buckets, and each with its count, in order.
#[derive(Clone, Debug)]
pub(super) struct Packed {
    bytes: [u8; PACKED],
    len: usize,
}

impl std::ops::Deref for Packed {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

impl Packed {
    const EMPTY: Self = Self { bytes: [0; PACKED], len: 0 };

    /// A row of a report.
    pub(super) fn of(stats: &v1::CallStats) -> Self {
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
            stats.unsent.min(stats.calls.saturating_sub(stats.mtls)),
        ];
        let mut packed = Self::EMPTY;
        packed.fields(&fields);
        let buckets = stats.latency_buckets.iter().take(BUCKETS).zip(0_u8..).filter(|(count, _)| **count > 0);
        packed.put(buckets.clone().count() as u8);
        for (count, bucket) in buckets {
            packed.put(bucket);
            packed.number(*count);
        }
        packed
    }

    /// What two hold together.
    pub(super) fn sum(a: &[u8], b: &[u8]) -> Self {
        let (mut a, mut b) = (Unpacker::of(a), Unpacker::of(b));
        let mut packed = Self::EMPTY;
        let mut fields = [0_u64; FIELDS];
        for (field, sum) in fields.iter_mut().enumerate() {
            *sum = a.field(field).saturating_add(b.field(field));
        }
        packed.fields(&fields);
        let count_at = packed.len;
        packed.put(0);
        let (mut of_a, mut of_b) = (a.bucket(), b.bucket());
        loop {
            let at_a = of_a.map_or(u8::MAX, |(bucket, _)| bucket);
            let at_b = of_b.map_or(u8::MAX, |(bucket, _)| bucket);
            let at = at_a.min(at_b);
            let mut sum = 0_u64;
            if at_a == at {
                let Some((_, count)) = of_a else { break };
                sum = count;
                of_a = a.bucket();
            }
            if at_b == at {
                let Some((_, count)) = of_b else { break };
                sum = sum.saturating_add(count);
                of_b = b.bucket();
            }
            packed.put(at);
            packed.number(sum);
            packed.bytes[count_at] += 1;
        }
        packed
    }

    fn fields(&mut self, fields: &[u64; FIELDS]) {
        let mask = fields.iter().enumerate().filter(|(_, n)| **n > 0).fold(0_u16, |mask, (i, _)| mask | 1 << i);
        mask.to_le_bytes().into_iter().for_each(|byte| self.put(byte));
        fields.iter().filter(|n| **n > 0).for_each(|n| self.number(*n));
    }

    fn number(&mut self, number: u64) {
        let mut rest = &mut self.bytes[self.len..];
        let before = rest.len();
        encode_varint(number, &mut rest);
        let after = rest.len();
        self.len += before - after;
    }

    fn put(&mut self, byte: u8) {
        if let Some(place) = self.bytes.get_mut(self.len) {
            *place = byte;
            self.len += 1;
        }
    }
}

/// Reads packed counts from their beginning to their end.
struct Unpacker<'a> {
    bytes: &'a [u8],
    mask: u16,
    /// Buckets that are left; `None`: how many is not read yet.
    buckets: Option<u8>,
}

impl<'a> Unpacker<'a> {
    fn of(mut bytes: &'a [u8]) -> Self {
        let mask = bytes.try_get_u16_le().unwrap_or_default();
        Self { bytes, mask, buckets: None }
    }

    /// The next number, if it is this one; each is asked for once, in order.
    fn field(&mut self, field: usize) -> u64 {
        if self.mask & (1 << field) == 0 { 0 } else { decode_varint(&mut self.bytes).unwrap_or_default() }
    }

    /// After all numbers: the next bucket and its count. A bucket that there cannot be ends them.
    fn bucket(&mut self) -> Option<(u8, u64)> {
        let left = match self.buckets {
            Some(left) => left,
            None => self.bytes.try_get_u8().unwrap_or_default(),
        };
        self.buckets = Some(left.saturating_sub(1));
        let bucket =
            (left > 0).then(|| self.bytes.try_get_u8().ok())?.filter(|bucket| usize::from(*bucket) < BUCKETS)?;
        Some((bucket, decode_varint(&mut self.bytes).unwrap_or_default()))
    }
}

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
    pub(super) fn add(&mut self, other: &Self) {
        for (sum, more) in self.fields.iter_mut().zip(&other.fields) {
            *sum = sum.saturating_add(*more);
        }
        for (bucket, count) in other.latency.iter() {
            self.latency.add(bucket, count);
        }
    }

    /// Adds packed counts, and leaves what comes behind them.
    pub(super) fn add_packed(&mut self, from: &mut &[u8]) {
        let mut packed = Unpacker::of(from);
        for (field, sum) in self.fields.iter_mut().enumerate() {
            *sum = sum.saturating_add(packed.field(field));
        }
        while let Some((bucket, count)) = packed.bucket() {
            self.latency.add(bucket.into(), count);
        }
        *from = packed.bytes;
    }

    pub(super) const fn is_empty(&self) -> bool {
        let [calls, _, attempts, _, _, _, tcp_connections, bytes_sent, _, _] = self.fields;
        calls == 0 && attempts == 0 && tcp_connections == 0 && bytes_sent == 0
    }

    pub(super) const fn calls(&self) -> u64 {
        self.fields[0]
    }

    /// What is shown of them, if they cover so many seconds.
    pub(super) fn numbers(&self, seconds: f64) -> Numbers {
        let [calls, failures, attempts, failed_attempts, retries, mtls, tcp, bytes_sent, bytes_received, unsent] =
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
            mtls: share(mtls, calls.saturating_sub(unsent)),
            unsent,
            tcp_connections: tcp,
            bytes_sent,
            bytes_received,
        }
    }
}
