//! Deadlines: of the whole call, of each try, of silence, and the one that the caller's hop passed on. A deadline only ever tightens. Nothing here waits.

use std::time::{Duration, Instant};

use crate::text::Text;

/// When a call must be over. `None` inside: never.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Deadline {
    at: Option<Instant>,
}

impl Deadline {
    /// Never.
    pub const NEVER: Deadline = Deadline { at: None };

    /// `limit` after `now`; `None`, or further away than the clock can say: never.
    pub fn after(now: Instant, limit: Option<Duration>) -> Self {
        Deadline { at: limit.and_then(|limit| now.checked_add(limit)) }
    }

    /// When, if ever.
    pub fn at(self) -> Option<Instant> {
        self.at
    }

    /// The earlier of this and `limit` after `now`.
    #[must_use]
    pub fn tighten(self, now: Instant, limit: Option<Duration>) -> Self {
        self.earlier(Deadline::after(now, limit))
    }

    /// The earlier of the two.
    #[must_use]
    pub fn earlier(self, other: Deadline) -> Self {
        match (self.at, other.at) {
            (Some(a), Some(b)) => Deadline { at: Some(a.min(b)) },
            (a, b) => Deadline { at: a.or(b) },
        }
    }

    /// What is left; zero when it is over, `None` when it never is.
    pub fn remaining(self, now: Instant) -> Option<Duration> {
        self.at.map(|at| at.saturating_duration_since(now))
    }

    /// Whether it is over: such a call is not sent.
    pub fn is_over(self, now: Instant) -> bool {
        self.at.is_some_and(|at| at <= now)
    }
}

/// Time that must not pass in silence.
#[derive(Clone, Copy, Debug)]
pub struct Idle {
    limit: Option<Duration>,
    last: Instant,
}

impl Idle {
    /// Starts now; `None`: silence is fine for ever.
    pub fn new(limit: Option<Duration>, now: Instant) -> Self {
        Idle { limit, last: now }
    }

    /// Something was heard.
    pub fn touch(&mut self, now: Instant) {
        self.last = self.last.max(now);
    }

    /// When silence will have lasted too long.
    pub fn deadline(&self) -> Deadline {
        Deadline::after(self.last, self.limit)
    }
}

/// The header that carries a gRPC deadline: `grpc-timeout`.
pub const GRPC_TIMEOUT: http::HeaderName = http::HeaderName::from_static("grpc-timeout");
/// The header that carries any other: `weft-deadline-ms`, what is left in milliseconds.
pub const WEFT_DEADLINE_MS: http::HeaderName = http::HeaderName::from_static("weft-deadline-ms");

/// Reads `grpc-timeout`: at most eight digits and a unit, `H M S m u n` (gRPC over HTTP/2, “Timeout”). `None`: malformed.
pub fn parse_grpc_timeout(value: &[u8]) -> Option<Duration> {
    let _ = value;
    unimplemented!()
}

/// Writes `grpc-timeout` in the finest unit that fits, rounded down: a hop must never be given more than is left.
pub fn format_grpc_timeout(remaining: Duration) -> Text<9> {
    let _ = remaining;
    unimplemented!()
}

/// Reads `weft-deadline-ms`: at most ten digits. `None`: malformed.
pub fn parse_weft_deadline(value: &[u8]) -> Option<Duration> {
    let _ = value;
    unimplemented!()
}

/// Writes `weft-deadline-ms`, rounded down.
pub fn format_weft_deadline(remaining: Duration) -> Text<20> {
    let _ = remaining;
    unimplemented!()
}
