//! What calls are counted in: one [`Series`] for each [`Key`], found by a hash, of which there are only so many. A key that comes when there is no
//! room is counted under one that stands for several; what was known before stays as it was.

use super::metrics::{Counter, Family, Histogram};
use super::{Direction, Hop, Key, OTHER, Outcome, Telemetry, access_log};
use parking_lot::RwLock;
use std::hash::BuildHasher;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// Series of calls that are kept apart; what comes after is counted without route, endpoint and source…
pub(super) const CALL_SERIES: usize = 4096;
/// …and after so many more without destination.
pub(super) const FOLDED_SERIES: usize = 512;

/// Counts since the process started, from which reports take deltas.
#[derive(Debug)]
pub(super) struct Tally {
    pub(super) calls: AtomicU64,
    pub(super) failures: AtomicU64,
    pub(super) refusals: AtomicU64,
    pub(super) attempts: AtomicU64,
    pub(super) failed_attempts: AtomicU64,
    pub(super) retries: AtomicU64,
    pub(super) latency: Histogram,
    pub(super) connections: AtomicU64,
    pub(super) sent: AtomicU64,
    pub(super) received: AtomicU64,
}

/// Handles of one [`Key`], kept by whoever records under it.
pub struct Series {
    pub(super) direction: Direction,
    pub(super) source: Box<str>,
    pub(super) addressed: Box<str>,
    pub(super) destination: Box<str>,
    pub(super) endpoint: Box<str>,
    pub(super) route: Box<str>,
    pub(super) protocol: &'static str,
    pub(super) hop: Hop,
    pub(super) requests: Family<Counter>,
    /// Few in number: the codes that really occur.
    pub(super) codes: RwLock<Vec<(Code, Counter)>>,
    pub(super) duration: Histogram,
    pub(super) request_bytes: Counter,
    pub(super) response_bytes: Counter,
    pub(super) tcp: RwLock<Option<Tcp>>,
    pub(super) tcp_families: TcpFamilies,
    pub(super) tally: Tally,
    /// What the access-log lines of its calls have in common.
    pub(super) setting: Box<[u8]>,
}

type Code = (u16, Option<u16>, &'static str);

#[derive(Clone)]
pub(super) struct TcpFamilies {
    pub(super) opened: Family<Counter>,
    pub(super) closed: Family<Counter>,
    pub(super) sent: Family<Counter>,
    pub(super) received: Family<Counter>,
}

#[derive(Clone)]
pub(super) struct Tcp {
    opened: Counter,
    sent: Counter,
    received: Counter,
}

impl std::fmt::Debug for Series {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Series({:?})", self.key())
    }
}

impl Series {
    pub(super) fn key(&self) -> Key<'_> {
        Key {
            direction: self.direction,
            source: &self.source,
            addressed: &self.addressed,
            destination: &self.destination,
            endpoint: &self.endpoint,
            route: &self.route,
            protocol: self.protocol,
            hop: self.hop,
        }
    }

    /// What the access-log lines of a key's calls have in common, for [`access_log::Record::setting`]; empty where the series stands in
    /// for too many.
    #[must_use]
    pub fn setting_of(&self, key: &Key<'_>) -> &[u8] {
        if self.key().is_folded() && !key.is_folded() { &[] } else { &self.setting }
    }

    /// A call that was recorded is traced: it may be shown as an example of those that took as long.
    pub fn exemplify(&self, duration: Duration, trace_id: u128) {
        self.duration.exemplify(duration, trace_id);
    }

    /// Records the end of a call.
    pub fn call(&self, outcome: &Outcome) {
        let code = (outcome.status, outcome.grpc_status, outcome.reason);
        self.code(code).increment();
        self.duration.record(outcome.duration);
        self.request_bytes.add(outcome.received);
        self.response_bytes.add(outcome.sent);
        let tally = &self.tally;
        tally.calls.fetch_add(1, Relaxed);
        tally.failures.fetch_add(u64::from(outcome.failed()), Relaxed);
        tally.refusals.fetch_add(u64::from(outcome.refused()), Relaxed);
        tally.attempts.fetch_add(u64::from(outcome.attempts), Relaxed);
        tally.failed_attempts.fetch_add(u64::from(outcome.failed_attempts), Relaxed);
        tally.retries.fetch_add(u64::from(outcome.attempts.saturating_sub(1)), Relaxed);
        tally.latency.record(outcome.duration);
        tally.sent.fetch_add(outcome.sent, Relaxed);
        tally.received.fetch_add(outcome.received, Relaxed);
    }

    fn code(&self, code: Code) -> Counter {
        if let Some((_, counter)) = self.codes.read().iter().find(|(known, _)| *known == code) {
            return counter.clone();
        }
        let (status, grpc, reason) = code;
        let status = if status == 0 { String::new() } else { status.to_string() };
        let grpc = grpc.map(|code| code.to_string()).unwrap_or_default();
        let key = self.key();
        let counter = self.requests.with(&[
            key.direction.name(),
            key.source_label(),
            key.destination,
            key.route,
            key.protocol,
            &status,
            &grpc,
            key.tls(),
            reason,
        ]);
        let mut codes = self.codes.write();
        if codes.len() < 64 {
            codes.push((code, counter.clone()));
        }
        counter
    }

    fn tcp(&self) -> Tcp {
        if let Some(tcp) = &*self.tcp.read() {
            return tcp.clone();
        }
        let key = self.key();
        let labels = [key.direction.name(), key.source_label(), key.destination, key.route, key.tls()];
        let families = &self.tcp_families;
        let tcp = Tcp {
            opened: families.opened.with(&labels),
            sent: families.sent.with(&labels),
            received: families.received.with(&labels),
        };
        *self.tcp.write() = Some(tcp.clone());
        tcp
    }

    /// Records that an opaque connection was opened; drop or [`TcpConnection::close`] records its end.
    #[must_use]
    pub fn tcp_opened(self: &Arc<Self>) -> TcpConnection {
        let handles = self.tcp();
        handles.opened.increment();
        self.tally.connections.fetch_add(1, Relaxed);
        TcpConnection { series: Arc::clone(self), handles, reason: "" }
    }
}

/// An open opaque connection; its bytes are counted as they move, its end when it is dropped.
#[derive(Debug)]
pub struct TcpConnection {
    series: Arc<Series>,
    handles: Tcp,
    reason: &'static str,
}

impl std::fmt::Debug for Tcp {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Tcp")
    }
}

impl TcpConnection {
    /// Bytes moved to the caller.
    pub fn sent(&self, bytes: u64) {
        self.handles.sent.add(bytes);
        self.series.tally.sent.fetch_add(bytes, Relaxed);
    }

    /// Bytes moved from the caller.
    pub fn received(&self, bytes: u64) {
        self.handles.received.add(bytes);
        self.series.tally.received.fetch_add(bytes, Relaxed);
    }

    /// Says why it ends, before it is dropped; without, it ended as it should.
    pub fn close(&mut self, reason: &'static str) {
        self.reason = reason;
    }
}

impl Drop for TcpConnection {
    fn drop(&mut self) {
        let key = self.series.key();
        let labels = [key.direction.name(), key.source_label(), key.destination, key.route, key.tls(), self.reason];
        self.series.tcp_families.closed.with(&labels).increment();
    }
}

impl Telemetry {
    /// The handles of a key: a hash and a comparison when they exist.
    #[must_use]
    pub fn series(&self, key: &Key<'_>) -> Arc<Series> {
        let hash = self.hasher.hash_one(key);
        if let Some(found) = self.series.read().get(&hash).and_then(|same| same.iter().find(|s| s.key() == *key)) {
            return Arc::clone(found);
        }
        let mut all = self.series.write();
        // Counted in buckets of one hash: two that share one are next to never.
        let full = if key.is_folded() { CALL_SERIES + FOLDED_SERIES } else { CALL_SERIES };
        let folded = Key { endpoint: "", route: OTHER, source: "", addressed: "", ..*key };
        let folded = if key.is_folded() { Key { destination: OTHER, ..folded } } else { folded };
        if all.len() >= full && folded != *key {
            drop(all);
            self.overflow.fetch_add(u64::from(!key.is_folded()), Relaxed);
            return self.series(&folded);
        }
        let same = all.entry(hash).or_default();
        if let Some(found) = same.iter().find(|s| s.key() == *key) {
            return Arc::clone(found);
        }
        let series = Arc::new(self.resolve(key));
        same.push(Arc::clone(&series));
        series
    }

    fn resolve(&self, key: &Key<'_>) -> Series {
        let labels = [key.direction.name(), key.source_label(), key.destination, key.route, key.protocol, key.tls()];
        let common = access_log::Record {
            kind: "call",
            direction: key.direction.name(),
            source: key.source,
            destination: key.destination,
            protocol: key.protocol,
            route: key.route,
            mtls: key.hop == Hop::Mutual,
            ..access_log::Record::default()
        };
        Series {
            setting: common.rendered_setting(),
            direction: key.direction,
            source: key.source.into(),
            addressed: key.addressed.into(),
            destination: key.destination.into(),
            endpoint: key.endpoint.into(),
            route: key.route.into(),
            protocol: key.protocol,
            hop: key.hop,
            requests: self.requests.clone(),
            codes: RwLock::default(),
            duration: self.duration.with(&labels),
            request_bytes: self.request_bytes.with(&labels),
            response_bytes: self.response_bytes.with(&labels),
            tcp: RwLock::default(),
            tcp_families: self.tcp.clone(),
            tally: Tally {
                calls: AtomicU64::new(0),
                failures: AtomicU64::new(0),
                refusals: AtomicU64::new(0),
                attempts: AtomicU64::new(0),
                failed_attempts: AtomicU64::new(0),
                retries: AtomicU64::new(0),
                latency: Histogram::default(),
                connections: AtomicU64::new(0),
                sent: AtomicU64::new(0),
                received: AtomicU64::new(0),
            },
        }
    }
}
