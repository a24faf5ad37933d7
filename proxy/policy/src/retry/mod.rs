//! What may be sent again, when, and how often: the route's [`Policy`], the [`Budget`] that keeps retries from becoming
//! a storm, and full-jitter backoff that never reaches past the deadline. Nothing here sends, waits or keeps a body.

mod budget;
#[cfg(test)]
mod tests;

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
    /// Whether a failed attempt is to be followed by another. Charges the budget when it says so: ask last. `random` is
    /// uniform in `[0, 1)`.
    pub fn judge(
        &self,
        attempt: &Attempt<'_>,
        budget: &Budget,
        deadline: Option<Instant>,
        now: Instant,
        random: f64,
    ) -> Verdict {
        if !self.retryable(attempt.method, attempt.sent, attempt.failure) {
            return Verdict::Stop(Stop::NotRetryable);
        }
        if attempt.retries >= self.attempts {
            return Verdict::Stop(Stop::Exhausted);
        }
        if !attempt.replayable {
            return Verdict::Stop(Stop::NotReplayable);
        }
        let after = backoff(self.backoff, attempt.retries, random).max(attempt.retry_after.unwrap_or_default());
        // A retry that would begin at its deadline would only be load.
        let in_time = deadline.is_none_or(|deadline| now.checked_add(after).is_some_and(|begin| begin < deadline));
        if !in_time {
            return Verdict::Stop(Stop::Deadline);
        }
        if !budget.withdraw(now) {
            return Verdict::Stop(Stop::Budget);
        }
        Verdict::Retry { after }
    }

    /// Whether this failure could be retried at all: what to keep a response back for.
    ///
    /// What was surely not processed may be sent again, whatever it is. What may have been processed only if doing it
    /// twice is harmless: an idempotent method (RFC 9110 §9.2.2), or one that the route opts in.
    pub fn retryable(&self, method: &Method, sent: Sent, failure: Failure) -> bool {
        if self.attempts == 0 {
            return false;
        }
        if sent == Sent::No {
            return true;
        }
        match failure {
            // "Connection errors and backend timeouts even with none listed" (GEP-1731).
            Failure::Transport | Failure::Timeout => self.may_repeat(method),
            Failure::Status(status) => self.codes.binary_search(&status).is_ok() && self.may_repeat(method),
            // A gRPC call is a POST: listing codes is the route's opt-in for exactly those, listing POST for
            // UNAVAILABLE.
            Failure::Grpc(code) => {
                let listed = code < u32::BITS && self.grpc_codes >> code & 1 == 1;
                listed || (code == UNAVAILABLE && (self.grpc_codes != 0 || self.may_repeat(method)))
            }
        }
    }

    /// Whether any failure after sending could be retried: when not, the body need not be kept once it is sent.
    pub fn replays(&self, method: &Method) -> bool {
        self.attempts > 0 && (self.may_repeat(method) || self.grpc_codes != 0)
    }

    fn may_repeat(&self, method: &Method) -> bool {
        is_idempotent(method) || self.methods.contains(method)
    }
}

/// Whether doing it twice is harmless by the method's definition (RFC 9110 §9.2.2). TRACE is left out: no application
/// expects it from a proxy.
pub fn is_idempotent(method: &Method) -> bool {
    matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS | Method::PUT | Method::DELETE)
}

const UNAVAILABLE: u32 = 14;

/// Full jitter: uniform between nothing and `base` × 2ʳᵉᵗʳⁱᵉˢ, at most ten times `base`. `random` is uniform in `[0,
/// 1)`.
pub fn backoff(base: Duration, retries: u32, random: f64) -> Duration {
    let factor = 2_u32.saturating_pow(retries).min(10);
    base.saturating_mul(factor).mul_f64(random.clamp(0.0, 1.0))
}

/// Reads `Retry-After` (RFC 9110 §10.2.3): seconds, or a date in the preferred format (§5.6.7). `unix_now` is in
/// seconds since the Unix epoch; a date in the past is no wait. `None`: malformed.
pub fn retry_after(value: &[u8], unix_now: u64) -> Option<Duration> {
    let text = std::str::from_utf8(value).ok()?.trim_ascii();
    if (1..=9).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit()) {
        return text.parse().ok().map(Duration::from_secs);
    }
    imf_fixdate(text).map(|date| Duration::from_secs(date.saturating_sub(unix_now)))
}

/// `Sun, 06 Nov 1994 08:49:37 GMT` in seconds since the Unix epoch. The day of the week is not checked.
fn imf_fixdate(text: &str) -> Option<u64> {
    const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let (_, rest) = text.split_once(", ").filter(|_| text.len() == 29)?;
    let number = |from: usize, to: usize| {
        let digits = rest.get(from..to).filter(|digits| digits.bytes().all(|b| b.is_ascii_digit()))?;
        digits.parse::<u64>().ok()
    };
    let month = 1 + MONTHS.iter().position(|name| rest.get(3..6) == Some(name))? as u64;
    let (day, year) = (number(0, 2)?, number(7, 11)?);
    let (hour, minute, second) = (number(12, 14)?, number(15, 17)?, number(18, 20)?);
    let valid = rest.ends_with(" GMT") && (1..=31).contains(&day) && hour < 24 && minute < 60 && second <= 60;
    if !valid || year < 1970 {
        return None;
    }
    // Days since 1970-03-01 shifted so that leap days end a year (Hinnant, "chrono-compatible low-level date
    // algorithms").
    let (year, shifted) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let (era, of_era) = (year / 400, year % 400);
    let of_year = (153 * shifted + 2) / 5 + day - 1;
    let days = (era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year).checked_sub(719_468)?;
    Some(days * 86_400 + hour * 3600 + minute * 60 + second)
}
