//! What may be sent again, when, and how often: the route's [`Policy`], the [`Budget`] that keeps retries from becoming a storm, and full-jitter backoff that never
//! reaches past the deadline. Nothing here sends, waits or keeps a body.

mod budget;

use std::time::{Duration, Instant};

use http::Method;

pub use budget::{Budget, BudgetSettings};

/// A route's retry policy, defaults applied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Retries, not tries. Zero: none. Default 2.
    pub attempts: u32,
    /// HTTP statuses to retry on, sorted. Default 502, 503, 504.
    pub codes: Vec<u16>,
    /// Methods beyond the idempotent ones that may be sent again after they were sent once.
    pub methods: Vec<Method>,
    /// Base of the backoff. Default 25 ms; the cap is ten times as much.
    pub backoff: Duration,
    /// gRPC codes to retry on besides UNAVAILABLE, one bit each.
    pub grpc_codes: u32,
}

impl Default for Policy {
    fn default() -> Self {
        Policy {
            attempts: 2,
            codes: vec![502, 503, 504],
            methods: Vec::new(),
            backoff: Duration::from_millis(25),
            grpc_codes: 0,
        }
    }
}

/// How far an attempt got.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Sent {
    /// Surely not processed: connect failure, refused stream, GOAWAY with a lower last id.
    No,
    /// The peer has it, in part at least.
    Yes,
    /// It may have been processed.
    Unknown,
}

/// How an attempt failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Failure {
    /// No connection, or the connection broke before a response head.
    Transport,
    /// The try's own timeout ran out before a response head.
    Timeout,
    /// A response with this HTTP status.
    Status(u16),
    /// A response that has this gRPC status and no message (Trailers-Only).
    Grpc(u32),
}

/// A failed attempt of a call.
#[derive(Clone, Copy, Debug)]
pub struct Attempt<'a> {
    /// Method of the call.
    pub method: &'a Method,
    /// How far it got.
    pub sent: Sent,
    /// How it failed.
    pub failure: Failure,
    /// Retries made before this attempt: 0 for the original.
    pub retries: u32,
    /// Whether the request's body can be sent again from its beginning.
    pub replayable: bool,
    /// What `Retry-After` asks for, see [`retry_after`].
    pub retry_after: Option<Duration>,
}

/// Whether an attempt is followed by another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// After this wait, on another endpoint. The budget was charged.
    Retry {
        /// How long to wait first.
        after: Duration,
    },
    /// What failed is the answer.
    Stop(Stop),
}

/// Why there is no retry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Stop {
    /// The policy does not retry this method, code or kind of failure.
    NotRetryable,
    /// The body has gone past what is kept for replay.
    NotReplayable,
    /// All attempts of the policy were made.
    Exhausted,
    /// The budget is spent.
    Budget,
    /// There is not enough time left.
    Deadline,
}

impl Policy {
    /// Whether a failed attempt is to be followed by another. Charges the budget when it says so. `random` is uniform in `[0, 1)`.
    pub fn judge(
        &self,
        attempt: &Attempt<'_>,
        budget: &Budget,
        deadline: Option<Instant>,
        now: Instant,
        random: f64,
    ) -> Verdict {
        let _ = (attempt, budget, deadline, now, random);
        unimplemented!()
    }

    /// Whether this failure could be retried at all: what to keep a response back for.
    pub fn retryable(&self, method: &Method, sent: Sent, failure: Failure) -> bool {
        let _ = (method, sent, failure);
        unimplemented!()
    }

    /// Whether any failure after sending could be retried: when not, the body need not be kept once it is sent.
    pub fn replays(&self, method: &Method) -> bool {
        let _ = method;
        unimplemented!()
    }
}

/// Full jitter: uniform between nothing and `base` × 2ʳᵉᵗʳⁱᵉˢ, at most ten times `base`. `random` is uniform in `[0, 1)`.
pub fn backoff(base: Duration, retries: u32, random: f64) -> Duration {
    let _ = (base, retries, random);
    unimplemented!()
}

/// Reads `Retry-After` (RFC 9110 §10.2.3): seconds, or a date in the preferred format. `unix_now` is in seconds since the Unix epoch.
pub fn retry_after(value: &[u8], unix_now: u64) -> Option<Duration> {
    let _ = (value, unix_now);
    unimplemented!()
}
