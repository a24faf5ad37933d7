//! `weft.v1.RateLimit` and `weft.v1.AdaptiveConcurrency`: what an inbound port counts and how it sheds.

use std::sync::Arc;
use std::time::Duration;

use weft_proto::v1;

use super::Refusal;
use super::check::{self, Unique};
use super::rules::matching;
use crate::limit::adaptive;
use crate::limit::rate::{Key, Limit, Scope};

const MOST_LIMITS: usize = 64;
const MOST_REQUESTS: u32 = 1_000_000_000;
const PER: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(24 * 3600));
const MOST_CONCURRENT: u32 = 1_000_000;

pub(super) fn limits(wire: &[v1::RateLimit]) -> Result<Vec<Arc<Limit>>, Refusal> {
    check::bounded("rateLimits", wire, MOST_LIMITS)?;
    let mut names = Unique::new();
    let mut limits = Vec::with_capacity(wire.len());
    for (i, wire) in wire.iter().enumerate() {
        let converted = limit(wire).and_then(|limit| names.claim("name", wire.name.as_str()).map(|()| limit));
        limits.push(Arc::new(converted.map_err(|r| r.under(format_args!("rateLimits[{i}]")))?));
    }
    Ok(limits)
}

fn limit(wire: &v1::RateLimit) -> Result<Limit, Refusal> {
    let named = wire.name.rsplit_once('/').is_some_and(|(policy, limit)| {
        let is_plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_');
        check::is_namespaced_name(policy) && (1..=63).contains(&limit.len()) && limit.bytes().all(is_plain)
    });
    if !named {
        return Err(Refusal::new("name", format!("{:?} is not of the form namespace/policy/limit", wire.name)));
    }
    check::bounded("keys", &wire.keys, 8)?;
    let requests = check::within("requests", wire.requests, 1, MOST_REQUESTS)?;
    if wire.per.is_none() {
        return Err(Refusal::new("per", "is required"));
    }
    Ok(Limit {
        name: wire.name.as_str().into(),
        matches: matching::call_matches(&wire.matches)?,
        keys: super::each("keys", &wire.keys, key)?,
        requests,
        per: check::span_within("per", wire.per.as_ref(), PER.0, PER)?,
        burst: if wire.burst == 0 { requests } else { check::within("burst", wire.burst, 1, MOST_REQUESTS)? },
        scope: match v1::RateLimitScope::try_from(wire.scope) {
            Ok(v1::RateLimitScope::Local) => Scope::Local,
            Ok(v1::RateLimitScope::Global) => Scope::Global,
            Err(_) => return Err(Refusal::new("scope", format!("{} is no scope", wire.scope))),
        },
    })
}

fn key(wire: &v1::RateLimitKey) -> Result<Key, Refusal> {
    use v1::rate_limit_key::Key as Wire;
    match &wire.key {
        Some(Wire::Identity(true)) => Ok(Key::Identity),
        Some(Wire::Method(true)) => Ok(Key::Method),
        Some(Wire::Header(name)) => Ok(Key::Header(check::header_name("header", name)?)),
        Some(Wire::Identity(false)) => Err(Refusal::new("identity", "is true or is left out")),
        Some(Wire::Method(false)) => Err(Refusal::new("method", "is true or is left out")),
        None => Err(Refusal::new("", "says nothing, or something that this version does not know")),
    }
}

pub(super) fn adaptive(wire: &v1::AdaptiveConcurrency) -> Result<adaptive::Settings, Refusal> {
    let default = adaptive::Settings::default();
    let bound = |field: &str, wire: Option<u32>, default: u32| {
        check::within(field, wire.unwrap_or(default), 1, MOST_CONCURRENT)
    };
    let min = bound("minRequests", wire.min_requests, default.min)?;
    let max = bound("maxRequests", wire.max_requests, default.max)?;
    // A default gives way to what was chosen; two choices that disagree are a mistake.
    match (wire.min_requests, wire.max_requests) {
        (Some(_), Some(_)) if min > max => {
            Err(Refusal::new("minRequests", format!("{min} is more than maxRequests, {max}")))
        }
        (None, Some(_)) => Ok(adaptive::Settings { min: min.min(max), max }),
        _ => Ok(adaptive::Settings { min, max: max.max(min) }),
    }
}
