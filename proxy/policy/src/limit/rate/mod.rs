//! Rate limits: how many calls of a kind may begin in a time, for each combination of what tells callers apart.
//!
//! [`RateLimits`] are those of one inbound port. A call must have room under every limit whose matches hold, and where
//! one refuses nothing is taken from the others. Limits of local scope are counted here, in a bounded [`Store`] of token
//! buckets; those of global scope draw on tokens that [`super::lease::Client`] has leased. What the caller is told of it
//! is written by [`Standing`]s.

mod fields;
mod store;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::{Duration, Instant};

use http::HeaderName;

pub use fields::{RATE_LIMIT, RATE_LIMIT_POLICY, Standing, Standings, retry_after};
pub use store::{MOST_KEYS, Store};

use super::lease;
use crate::route::{Match, Request};

/// One limit of a policy.
#[derive(Clone, Debug)]
pub struct Limit {
    /// `namespace/policy/limit`: visible ASCII without quotes and backslashes.
    pub name: Arc<str>,
    /// Calls that count: any match suffices. Empty: all.
    pub matches: Vec<Match>,
    /// A bucket for each combination of these. Empty: one for all.
    pub keys: Vec<Key>,
    /// Calls in `per`. At least 1.
    pub requests: u32,
    /// 1 s to 24 h.
    pub per: Duration,
    /// Size of the bucket. At least 1.
    pub burst: u32,
    /// Who counts together.
    pub scope: Scope,
}

/// What tells callers apart.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Key {
    /// The caller's SPIFFE id; empty without one.
    Identity,
    /// The first value of a header; empty without one.
    Header(HeaderName),
    /// The method.
    Method,
}

/// Who counts together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Scope {
    /// Each workload for itself.
    #[default]
    Local,
    /// All workloads of the service.
    Global,
}

impl Limit {
    /// Calls in a second, on average.
    pub fn per_second(&self) -> f64 {
        f64::from(self.requests) / self.per.as_secs_f64()
    }

    /// Whether a call counts.
    pub fn applies_to<R: Request + ?Sized>(&self, request: &R) -> bool {
        self.matches.is_empty() || self.matches.iter().any(|matching| matching.holds(request))
    }

    /// Shows the values of the keys, in order: what tells one bucket from another.
    pub fn each_value<R: Request + ?Sized>(&self, request: &R, identity: Option<&str>, see: &mut dyn FnMut(&[u8])) {
        for key in &self.keys {
            match key {
                Key::Identity => see(identity.unwrap_or_default().as_bytes()),
                Key::Method => see(request.method().as_bytes()),
                Key::Header(name) => {
                    let found = request.any_header(name, &mut |value| {
                        see(value.trim_ascii());
                        true
                    });
                    if !found {
                        see(b"");
                    }
                }
            }
        }
    }
}

/// What becomes of a call.
#[derive(Clone, Debug)]
pub enum Decision {
    /// It may begin.
    Admit {
        /// Where the caller stands under each limit that it counts for.
        standings: Standings,
    },
    /// 429, or RESOURCE_EXHAUSTED.
    Limited {
        /// Name of the limit that it has to wait for longest.
        limit: Arc<str>,
        /// How long. `Retry-After` says so in whole seconds, see [`retry_after`].
        retry_after: Duration,
        /// Where the caller stands under each limit that it counts for.
        standings: Standings,
    },
}

/// The limits of an inbound port and what has been counted under them. Shared by all workers.
#[derive(Debug)]
pub struct RateLimits {
    limits: Vec<Arc<Limit>>,
    store: Arc<Store>,
    leases: Arc<lease::Client>,
}

/// What was taken for a call, until it is known whether it stays taken.
enum Taken {
    Local(u128),
    Leased(Vec<u8>),
}

impl RateLimits {
    /// Limits under which nothing was counted yet. Global ones draw on `leases`.
    pub fn new(limits: Vec<Arc<Limit>>, leases: Arc<lease::Client>) -> Self {
        RateLimits { limits, store: Arc::default(), leases }
    }

    /// Other limits in the place of these: what was counted under a name stays counted.
    #[must_use]
    pub fn succeeded_by(&self, limits: Vec<Arc<Limit>>) -> Self {
        RateLimits { limits, store: Arc::clone(&self.store), leases: Arc::clone(&self.leases) }
    }

    /// Whether there is nothing to check.
    pub fn is_empty(&self) -> bool {
        self.limits.is_empty()
    }

    /// The buckets of local limits, for their metrics.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// Whether a call may begin; if so, it is counted. `identity` is the caller's SPIFFE id.
    pub fn check<R: Request + ?Sized>(&self, request: &R, identity: Option<&str>, now: Instant) -> Decision {
        let mut standings = Standings::default();
        let mut taken = Vec::new();
        let mut refused: Option<(Duration, &Arc<Limit>)> = None;
        for limit in self.limits.iter().filter(|limit| limit.applies_to(request)) {
            let (held, answer) = match limit.scope {
                Scope::Local => {
                    let key = self.store.key(&limit.name, |see| limit.each_value(request, identity, see));
                    (Taken::Local(key), self.store.take(key, limit, now))
                }
                Scope::Global => {
                    let key = lease::encode(|see| limit.each_value(request, identity, see));
                    let answer = self.leases.take(limit, &key, now);
                    (Taken::Leased(key), answer)
                }
            };
            standings.push(Standing::new(Arc::clone(limit), answer));
            match answer {
                Ok(_) => taken.push((limit, held)),
                Err(wait) if refused.is_none_or(|(longest, _)| wait > longest) => refused = Some((wait, limit)),
                Err(_) => {}
            }
        }
        let Some((retry_after, limit)) = refused else { return Decision::Admit { standings } };
        for (limit, held) in taken {
            match held {
                Taken::Local(key) => self.store.give(key, limit, now),
                Taken::Leased(key) => self.leases.give(limit, &key, now),
            }
        }
        Decision::Limited { limit: Arc::clone(&limit.name), retry_after, standings: standings.untaken() }
    }
}

/// What a bucket holds after a token was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Left {
    /// Whole tokens.
    pub tokens: u32,
    /// How long until it is full.
    pub full_in: Duration,
}
