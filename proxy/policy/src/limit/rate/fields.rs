//! What a caller is told: `RateLimit-Policy`, `RateLimit` (draft-ietf-httpapi-ratelimit-headers, Lists of Strings with
//! Integer parameters, RFC 9651) and `Retry-After` (RFC 9110 §10.2.3).

use std::fmt::Write;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderName, HeaderValue};

use super::{Left, Limit};

/// `"shop/catalog/burst";q=100;w=60`: quota and window of every limit that applies.
pub const RATE_LIMIT_POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");
/// `"shop/catalog/burst";r=7;t=12`: calls that remain, and the seconds until there are as many as there can be, or one.
pub const RATE_LIMIT: HeaderName = HeaderName::from_static("ratelimit");

/// Where a caller stands under one limit.
#[derive(Clone, Debug)]
pub struct Standing {
    /// The limit.
    pub limit: Arc<Limit>,
    /// Calls that would be admitted now.
    pub remaining: u32,
    /// With none: until there is one. Else until the bucket is full.
    pub reset: Duration,
    /// Whether a token was taken.
    taken: bool,
}

/// Where a caller stands under all limits that a call of theirs counts for.
#[derive(Clone, Debug, Default)]
pub struct Standings(Vec<Standing>);

impl Standing {
    pub(super) fn new(limit: Arc<Limit>, answer: Result<Left, Duration>) -> Self {
        match answer {
            Ok(left) => Standing { limit, remaining: left.tokens, reset: left.full_in, taken: true },
            Err(wait) => Standing { limit, remaining: 0, reset: wait, taken: false },
        }
    }
}

impl Standings {
    pub(super) fn push(&mut self, standing: Standing) {
        self.0.push(standing);
    }

    /// After what was taken has been put back.
    pub(super) fn untaken(mut self) -> Self {
        for standing in self.0.iter_mut().filter(|standing| standing.taken) {
            standing.remaining = standing.remaining.saturating_add(1).min(standing.limit.burst);
            standing.reset = standing.reset.saturating_sub(standing.limit.per / standing.limit.requests.max(1));
        }
        self
    }

    /// One for each limit that applies, in the order of the configuration.
    pub fn iter(&self) -> impl Iterator<Item = &Standing> {
        self.0.iter()
    }

    /// The fields of a response; none where no limit applies.
    pub fn fields(&self) -> Option<[(HeaderName, HeaderValue); 2]> {
        if self.0.is_empty() {
            return None;
        }
        let (mut policies, mut limits) = (String::new(), String::new());
        for Standing { limit, remaining, reset, .. } in &self.0 {
            let separator = if policies.is_empty() { "" } else { ", " };
            // Writing to a string cannot fail.
            let _ = write!(policies, "{separator}\"{}\";q={};w={}", limit.name, limit.requests, seconds(limit.per));
            let _ = write!(limits, "{separator}\"{}\";r={remaining};t={}", limit.name, seconds(*reset));
        }
        let value = |text: String| HeaderValue::try_from(text).ok();
        Some([(RATE_LIMIT_POLICY, value(policies)?), (RATE_LIMIT, value(limits)?)])
    }
}

/// The value of `Retry-After`: whole seconds, rounded up, at least one.
pub fn retry_after(wait: Duration) -> HeaderValue {
    HeaderValue::from(seconds(wait).max(1))
}

/// Rounded up.
fn seconds(duration: Duration) -> u64 {
    duration.as_secs() + u64::from(duration.subsec_nanos() > 0)
}
