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
mod scrape;
mod series;
mod sink;
pub mod spans;
pub mod watch;

use access_log::AccessLog;
use foldhash::HashMap;
pub use handshakes::Handshakes;
use metrics::{Counter, Family, Gauge, Histogram, Registry};
use parking_lot::{Mutex, RwLock};
use series::TcpFamilies;
pub use series::{Series, TcpConnection};
use std::hash::Hash;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant};
use weft_policy::limit::TokenBucket;

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
    /// "namespace/name" of the service that the call was addressed to, where a route or a fallback gave it to another, the destination. Empty: to
    /// the destination itself.
    pub addressed: &'a str,
    /// "namespace/name" of the service; empty: unknown.
    pub destination: &'a str,
    /// Workload uid of the endpoint of the last attempt; empty: none was reached.
    pub endpoint: &'a str,
    /// "namespace/route[/rule]"; empty: the implicit one.
    pub route: &'a str,
    /// `http1`, `http2`, `grpc`, `tcp`.
    pub protocol: &'static str,
    /// What it crossed between the workloads.
    pub hop: Hop,
}

/// What a call crossed on its way between two workloads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Hop {
    /// Nothing: the sidecar answered by itself (a fault, a limit, no endpoint) and no peer was sent anything.
    None,
    /// A connection without TLS, or with TLS that authenticates one side at most.
    Plain,
    /// A connection on which both sides were authenticated.
    Mutual,
}

impl Hop {
    /// Of a call that reached somebody.
    #[must_use]
    pub const fn of(mtls: bool) -> Self {
        if mtls { Self::Mutual } else { Self::Plain }
    }

    /// What metrics say of it: the label `tls`.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::None => "",
            Self::Plain => "none",
            Self::Mutual => "mutual",
        }
    }
}

impl Key<'_> {
    const fn tls(&self) -> &'static str {
        self.hop.label()
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
}

#[cfg(test)]
mod tests;
