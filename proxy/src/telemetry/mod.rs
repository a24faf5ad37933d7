//! What the data path tells the world: metrics (`metrics`), one line a call (`access_log`), spans of those that are traced (`spans`), deltas
//! for the control plane (`report`), and the calls themselves while somebody looks (`watch`).
//!
//! A call resolves its [`Series`] once, when it knows where it goes, and records its end in one step: a handful of atomic adds. Names
//! and labels are those of the reference (`weft_requests_total` and its family); nothing a peer writes freely, such as a path or an
//! unknown host, ever becomes a label.

pub mod access_log;
pub mod exposition;
mod handshakes;
pub mod metrics;
pub(crate) mod redact;
pub mod report;
mod sink;
pub mod spans;
pub mod watch;

use crate::endpoint::Cluster;
use access_log::AccessLog;
use exposition::{Format, header, label_set, sample};
use foldhash::HashMap;
pub use handshakes::Handshakes;
use metrics::{Counter, Family, Gauge, Histogram, Registry};
use parking_lot::{Mutex, RwLock};
use std::hash::{BuildHasher, Hash};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};
use weft_policy::limit::TokenBucket;

/// Series of calls that are kept apart; what comes after is counted without route, endpoint and source…
const CALL_SERIES: usize = 4096;
/// …and after so many more without destination.
const FOLDED_SERIES: usize = 512;
/// What names read that stand for too many.
const OTHER: &str = "other";
/// Lines a second that refusals may write: they are made by peers, who may be many. All are counted.
const REFUSAL_LINES: f64 = 20.0;

/// Which way a call crosses the sidecar.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Direction {
    /// Towards the application.
    Inbound,
    /// From the application.
    Outbound,
}

impl Direction {
    /// `inbound` or `outbound`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Inbound => "inbound",
            Self::Outbound => "outbound",
        }
    }
}

/// What a call is counted under.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Key<'a> {
    /// Which way.
    pub direction: Direction,
    /// "namespace/name" of the caller; empty: unknown.
    pub source: &'a str,
    /// "namespace/name" of the service; empty: unknown.
    pub destination: &'a str,
    /// Workload uid of the endpoint of the last attempt; empty: none was reached.
    pub endpoint: &'a str,
    /// "namespace/route[/rule]"; empty: the implicit one.
    pub route: &'a str,
    /// `http1`, `http2`, `grpc`, `tcp`.
    pub protocol: &'static str,
    /// Whether the hop between workloads was mutually authenticated.
    pub mtls: bool,
}

impl Key<'_> {
    const fn tls(&self) -> &'static str {
        if self.mtls { "mutual" } else { "none" }
    }

    /// Whether it stands for too many: a route's own name has a namespace.
    fn is_folded(&self) -> bool {
        self.route == OTHER
    }

    /// The caller as metrics name it.
    fn source_label(&self) -> &str {
        if self.is_folded() { OTHER } else { self.source }
    }
}

/// How a call ended, as the caller saw it.
#[derive(Debug, Clone, Copy, Default)]
pub struct Outcome {
    /// HTTP status; 0: no response was sent.
    pub status: u16,
    /// gRPC status, where there was one.
    pub grpc_status: Option<u16>,
    /// Label of what went wrong; empty: nothing.
    pub reason: &'static str,
    /// From the first byte of the request to the last of the response.
    pub duration: Duration,
    /// Attempts sent.
    pub attempts: u32,
    /// Attempts that failed, the last included.
    pub failed_attempts: u32,
    /// Bytes of body from the caller.
    pub received: u64,
    /// Bytes of body to the caller.
    pub sent: u64,
}

impl Outcome {
    /// Whether the call failed for a reason that is not the caller's: a status from 500, no response, or one of gRPC's UNKNOWN,
    /// DEADLINE_EXCEEDED, INTERNAL, UNAVAILABLE, DATA_LOSS.
    #[must_use]
    pub fn failed(&self) -> bool {
        match self.grpc_status {
            Some(code) => matches!(code, 2 | 4 | 13 | 14 | 15),
            None => self.status >= 500 || (self.status == 0 && self.reason != "client_gone"),
        }
    }

    /// Whether this proxy answered that the call may not be made: 401, 403 or 429, or gRPC's PERMISSION_DENIED, RESOURCE_EXHAUSTED,
    /// UNAUTHENTICATED. An application that says so gives no reason here.
    #[must_use]
    pub fn refused(&self) -> bool {
        let said = match self.grpc_status {
            Some(code) => matches!(code, 7 | 8 | 16),
            None => matches!(self.status, 401 | 403 | 429),
        };
        said && !self.reason.is_empty()
    }
}

/// Counts since the process started, from which reports take deltas.
#[derive(Debug)]
struct Tally {
    calls: AtomicU64,
    failures: AtomicU64,
    refusals: AtomicU64,
    attempts: AtomicU64,
    failed_attempts: AtomicU64,
    retries: AtomicU64,
    latency: Histogram,
    connections: AtomicU64,
    sent: AtomicU64,
    received: AtomicU64,
}

/// Handles of one [`Key`], kept by whoever records under it.
pub struct Series {
    direction: Direction,
    source: Box<str>,
    destination: Box<str>,
    endpoint: Box<str>,
    route: Box<str>,
    protocol: &'static str,
    mtls: bool,
    requests: Family<Counter>,
    /// Few in number: the codes that really occur.
    codes: RwLock<Vec<(Code, Counter)>>,
    duration: Histogram,
    request_bytes: Counter,
    response_bytes: Counter,
    tcp: RwLock<Option<Tcp>>,
    tcp_families: TcpFamilies,
    tally: Tally,
    /// What the access-log lines of its calls have in common.
    setting: Box<[u8]>,
}

type Code = (u16, Option<u16>, &'static str);

#[derive(Clone)]
struct TcpFamilies {
    opened: Family<Counter>,
    closed: Family<Counter>,
    sent: Family<Counter>,
    received: Family<Counter>,
}

#[derive(Clone)]
struct Tcp {
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
    fn key(&self) -> Key<'_> {
        Key {
            direction: self.direction,
            source: &self.source,
            destination: &self.destination,
            endpoint: &self.endpoint,
            route: &self.route,
            protocol: self.protocol,
            mtls: self.mtls,
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

/// Everything that one process records. Shared by its workers.
pub struct Telemetry {
    /// Where other rooms register families of their own (`weft_xds_*`, `weft_certificate_expiry_seconds`).
    pub registry: Registry,
    /// One line a call.
    pub log: AccessLog,
    /// Calls that somebody looks at.
    pub watch: watch::Watch,
    /// Spans of calls that are traced.
    pub spans: spans::Spans,
    /// `weft_retries_total{destination,route,reason}`: attempts after the first, by what the one before ended with.
    pub retries: Family<Counter>,
    /// `weft_retries_denied_total{destination,route,reason}`: retries that policy wanted and the budget (or the body) did not allow.
    pub retries_denied: Family<Counter>,
    /// `weft_mirrored_total{destination,route,outcome}`: copies of calls, by `answered` or what they ended with.
    pub mirrored: Family<Counter>,
    /// `weft_authz_total{destination,source,policy,rule,decision}`.
    pub authz: Family<Counter>,
    /// `weft_refused_total{direction,reason}`: connections and tunnels that were refused before there was a call.
    pub refused: Family<Counter>,
    /// TLS handshakes with peers.
    pub handshakes: Handshakes,
    /// `weft_detections_total{direction,outcome}`; the outcome `timeout` is a client that said nothing within the deadline.
    pub detections: Family<Counter>,
    /// `weft_connections{direction,kind}`: accepted connections that are open now.
    pub connections: Family<Gauge>,
    requests: Family<Counter>,
    duration: Family<Histogram>,
    request_bytes: Family<Counter>,
    response_bytes: Family<Counter>,
    tcp: TcpFamilies,
    /// What keeps refusals from flooding the log, and how many lines it has kept back.
    lines: Mutex<(TokenBucket, u64)>,
    hasher: foldhash::fast::RandomState,
    series: RwLock<HashMap<u64, Vec<Arc<Series>>>>,
    /// Calls that were counted under a key that stands for too many.
    overflow: AtomicU64,
}

impl std::fmt::Debug for Telemetry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Telemetry({:?}, {:?})", self.registry, self.log)
    }
}

impl Telemetry {
    /// Registers the data path's families and opens the access log.
    ///
    /// # Errors
    /// When the access log cannot be opened.
    pub fn new(log: &access_log::Options) -> std::io::Result<Self> {
        let registry = Registry::default();
        let dropped = registry.counter("weft_access_log_dropped_total", "Lines that found no room.", &[]).with(&[]);
        let log = AccessLog::open(log, dropped)?;
        let call = &["direction", "source", "destination", "route", "protocol", "tls"];
        let tcp = &["direction", "source", "destination", "route", "tls"];
        Ok(Self {
            requests: registry.counter(
                "weft_requests_total",
                "Calls, as their caller saw them.",
                &["direction", "source", "destination", "route", "protocol", "code", "grpc_code", "tls", "reason"],
            ),
            duration: registry.histogram(
                "weft_request_duration_seconds",
                "From the first byte of a request to the last of its response.",
                call,
            ),
            request_bytes: registry.counter("weft_request_bytes_total", "Bytes of request bodies.", call),
            response_bytes: registry.counter("weft_response_bytes_total", "Bytes of response bodies.", call),
            tcp: TcpFamilies {
                opened: registry.counter("weft_tcp_connections_opened_total", "Opaque connections opened.", tcp),
                closed: registry.counter(
                    "weft_tcp_connections_closed_total",
                    "Opaque connections closed.",
                    &["direction", "source", "destination", "route", "tls", "reason"],
                ),
                sent: registry.counter("weft_tcp_sent_bytes_total", "Bytes to the callers.", tcp),
                received: registry.counter("weft_tcp_received_bytes_total", "Bytes from the callers.", tcp),
            },
            retries: registry.counter(
                "weft_retries_total",
                "Attempts after the first.",
                &["destination", "route", "reason"],
            ),
            retries_denied: registry.counter(
                "weft_retries_denied_total",
                "Retries that were wanted and not allowed.",
                &["destination", "route", "reason"],
            ),
            mirrored: registry.counter(
                "weft_mirrored_total",
                "Copies of calls that were sent to mirrors.",
                &["destination", "route", "outcome"],
            ),
            authz: registry.counter(
                "weft_authz_total",
                "Authorization decisions.",
                &["destination", "source", "policy", "rule", "decision"],
            ),
            refused: registry.counter(
                "weft_refused_total",
                "Connections and tunnels refused before there was a call.",
                &["direction", "reason"],
            ),
            spans: spans::Spans::new(&registry),
            handshakes: Handshakes::new(&registry),
            detections: registry.counter(
                "weft_detections_total",
                "Connections whose protocol was detected, by outcome.",
                &["direction", "outcome"],
            ),
            connections: registry.gauge("weft_connections", "Accepted connections now open.", &["direction", "kind"]),
            lines: Mutex::new((TokenBucket::new(REFUSAL_LINES, REFUSAL_LINES, Instant::now()), 0)),
            hasher: foldhash::fast::RandomState::default(),
            series: RwLock::default(),
            overflow: AtomicU64::new(0),
            registry,
            log,
            watch: watch::Watch::default(),
        })
    }

    /// A recorder without an access log.
    #[must_use]
    pub fn quiet() -> Self {
        Self::new(&access_log::Options::all(access_log::Output::Off))
            .unwrap_or_else(|_| unreachable!("no output is opened"))
    }

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
        let folded = Key { endpoint: "", route: OTHER, source: "", ..*key };
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
            mtls: key.mtls,
            ..access_log::Record::default()
        };
        Series {
            setting: common.rendered_setting(),
            direction: key.direction,
            source: key.source.into(),
            destination: key.destination.into(),
            endpoint: key.endpoint.into(),
            route: key.route.into(),
            protocol: key.protocol,
            mtls: key.mtls,
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

    /// Counts and logs a connection, tunnel or call that was refused: never a bare reset without a metric and, unless there are very many,
    /// a line.
    pub fn refuse(&self, direction: Direction, error: &crate::ProxyError, peer: &dyn std::fmt::Display) {
        self.refused.with(&[direction.name(), error.label()]).increment();
        let kept_back = {
            let mut lines = self.lines.lock();
            if lines.0.take(1, Instant::now()).is_err() {
                lines.1 += 1;
                return;
            }
            std::mem::take(&mut lines.1)
        };
        let (direction, reason) = (direction.name(), error.label());
        if kept_back > 0 {
            tracing::warn!(kept_back, "more was refused than is logged; weft_refused_total has it all");
        }
        tracing::warn!(direction, reason, %peer, "refused: {}", error.explanation());
    }

    /// The scrape: every family, and the state of every endpoint's breaker as it is now.
    pub fn render<'a>(&self, clusters: impl Iterator<Item = (&'a str, u16, &'a Arc<Cluster>)>) -> String {
        self.render_as(Format::Text, clusters)
    }

    /// The same in one of the formats.
    pub fn render_as<'a>(
        &self,
        format: Format,
        clusters: impl Iterator<Item = (&'a str, u16, &'a Arc<Cluster>)>,
    ) -> String {
        let now = Instant::now();
        let mut out = self.registry.render_as(now, format);
        let mut lines = Vec::new();
        for (service, port, cluster) in clusters {
            let port = port.to_string();
            for status in cluster.breakers(now) {
                let state = match status.state() {
                    weft_proto::v1::BreakerState::Closed => 0,
                    weft_proto::v1::BreakerState::Open => 1,
                    weft_proto::v1::BreakerState::HalfOpen => 2,
                };
                let labels = label_set(&["destination", "port", "endpoint"], &[service, &port, &status.endpoint]);
                let mut line = String::new();
                sample(&mut line, "weft_breaker_state", "", &labels, "", state);
                lines.push(line);
            }
        }
        if !lines.is_empty() {
            lines.sort_unstable();
            header(&mut out, "weft_breaker_state", "0 closed, 1 open, 2 half-open.", "gauge", format);
            out.extend(lines);
        }
        self.render_sizes(&mut out, format);
        if format == Format::OpenMetrics {
            out.push_str("# EOF\n");
        }
        out
    }

    /// How many series there are, and what found no room among them.
    fn render_sizes(&self, out: &mut String, format: Format) {
        let sizes = self.registry.sizes();
        let calls = self.overflow.load(Relaxed);
        header(out, "weft_metrics_series", "Series of each family.", "gauge", format);
        for (family, series, _) in &sizes {
            sample(out, "weft_metrics_series", "", &label_set(&["family"], &[family]), "", series);
        }
        let overflows = sizes.iter().map(|(family, _, overflow)| (*family, *overflow)).chain([("calls", calls)]);
        let name = "weft_metrics_overflow_total";
        header(out, name, "Label sets that found no room, and were counted as other.", "counter", format);
        for (family, overflow) in overflows.filter(|(family, overflow)| *overflow > 0 || *family == "calls") {
            sample(out, name, "", &label_set(&["family"], &[family]), "", overflow);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: Key<'static> = Key {
        direction: Direction::Outbound,
        source: "shop/storefront",
        destination: "shop/catalog",
        endpoint: "shop/catalog-1",
        route: "shop/catalog",
        protocol: "http1",
        mtls: true,
    };

    #[test]
    fn a_call_is_counted_under_the_names_and_labels_of_the_reference() {
        let telemetry = Telemetry::quiet();
        let outcome = Outcome { status: 200, duration: Duration::from_millis(2), sent: 10, ..Outcome::default() };
        telemetry.series(&KEY).call(&outcome);
        telemetry.series(&Key { endpoint: "shop/catalog-2", ..KEY }).call(&outcome);
        let text = telemetry.render(std::iter::empty());
        let labels = "direction=\"outbound\",source=\"shop/storefront\",destination=\"shop/catalog\",route=\"shop/catalog\",protocol=\"http1\"";
        assert!(
            text.contains(&format!(
                "weft_requests_total{{{labels},code=\"200\",grpc_code=\"\",tls=\"mutual\",reason=\"\"}} 2\n"
            )),
            "{text}"
        );
        assert!(text.contains(&format!("weft_response_bytes_total{{{labels},tls=\"mutual\"}} 20\n")), "{text}");
        assert!(
            text.contains(&format!("weft_request_duration_seconds_count{{{labels},tls=\"mutual\"}} 2\n")),
            "{text}"
        );
    }

    #[test]
    fn the_same_key_gives_the_same_handles() {
        let telemetry = Telemetry::quiet();
        assert!(Arc::ptr_eq(&telemetry.series(&KEY), &telemetry.series(&KEY)));
        assert!(!Arc::ptr_eq(&telemetry.series(&KEY), &telemetry.series(&Key { mtls: false, ..KEY })));
    }

    #[test]
    fn an_opaque_connection_is_counted_when_it_opens_while_it_moves_and_when_it_ends() {
        let telemetry = Telemetry::quiet();
        let series = telemetry.series(&Key { protocol: "tcp", ..KEY });
        let mut connection = series.tcp_opened();
        connection.received(7);
        connection.close("idle_timeout");
        drop(connection);
        let text = telemetry.render(std::iter::empty());
        assert!(text.contains("weft_tcp_connections_opened_total{direction=\"outbound\""), "{text}");
        assert!(text.lines().any(|l| l.starts_with("weft_tcp_received_bytes_total") && l.ends_with(" 7")), "{text}");
        assert!(text.lines().any(|l| l.starts_with("weft_tcp_connections_closed") && l.contains("idle_timeout")));
    }

    #[test]
    fn keys_without_end_are_folded_into_one() {
        let telemetry = Telemetry::quiet();
        for i in 0..CALL_SERIES + 100 {
            let endpoint = format!("shop/catalog-{i}");
            telemetry.series(&Key { endpoint: &endpoint, ..KEY }).call(&Outcome::default());
        }
        assert!(telemetry.series.read().len() <= CALL_SERIES + 1);
    }

    #[test]
    fn a_million_callers_hosts_and_routes_leave_memory_bounded_and_what_was_known_intact() {
        let telemetry = Telemetry::quiet();
        let known = telemetry.series(&KEY);
        let outcome = Outcome { status: 200, ..Outcome::default() };
        known.call(&outcome);
        for i in 0..1_000_000_u32 {
            let name = format!("shop/{i}");
            let key = match i % 3 {
                0 => Key { direction: Direction::Inbound, source: &name, endpoint: "", ..KEY },
                1 => Key { destination: &name, ..KEY },
                _ => Key { route: &name, ..KEY },
            };
            telemetry.series(&key).call(&outcome);
        }
        assert!(telemetry.series.read().len() <= CALL_SERIES + FOLDED_SERIES + 2, "{}", telemetry.series.read().len());
        assert!(Arc::ptr_eq(&telemetry.series(&KEY), &known));
        known.call(&outcome);
        let text = telemetry.render(std::iter::empty());
        assert!(text.len() < 16 << 20, "{}", text.len());
        let of = |part: &str| {
            let lines = text.lines().filter(|line| line.starts_with("weft_requests_total{") && line.contains(part));
            lines.filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok()).sum::<u64>()
        };
        assert_eq!(of("source=\"shop/storefront\",destination=\"shop/catalog\",route=\"shop/catalog\""), 2);
        assert_eq!(of(""), 1_000_002, "every call is counted once");
        assert!(of("=\"other\"") > 900_000);
        assert!(text.contains("weft_metrics_overflow_total{family=\"calls\"} "), "{text}");
    }
}
