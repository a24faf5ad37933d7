//! `RateLimitPolicy`: reads it into the limits that hold on the ports of the workloads that it reaches. Policies add up; where they hold is
//! [`super::scope`]'s business.

use super::condition::{Condition, Kind, misfit};
use super::inbound::verdict;
use super::names;
use super::route::{duration, http_matches};
use super::scope::{Policy, Scope};
use crate::kinds::{RateLimit, RateLimitKey, RateLimitPolicy, RateLimitPolicySpec, RateLimitScope, check};
use crate::world::{World, age};
use std::collections::BTreeSet;
use weft_proto::v1;

/// What a policy enforces on each port that it is about.
pub(super) type Limits = Vec<v1::RateLimit>;

/// Limits that a sidecar takes on a port (`weft_policy::config`).
const MOST: usize = 64;

/// The limits of several policies on one port. What is more than a sidecar takes is left out, and said: it would refuse the whole workload's
/// resource, authorization included.
pub(super) fn joined<'l>(uid: &str, policies: impl Iterator<Item = &'l Limits>) -> Limits {
    let mut limits: Limits = policies.flatten().cloned().collect();
    if let Some(first) = limits.get(MOST) {
        let (count, first) = (limits.len(), &first.name);
        tracing::warn!(workload = uid, count, most = MOST, from = %first, "a port has too many rate limits; the last do not hold");
        limits.truncate(MOST);
    }
    limits
}

/// Reads a policy; a refused edition leaves in force what was.
pub(super) fn read(world: &World, policy: &RateLimitPolicy, before: Option<&Policy<Limits>>) -> Option<Policy<Limits>> {
    let (namespace, own) = (policy.metadata.namespace.as_ref()?, policy.metadata.name.as_ref()?);
    let written = Scope::of(namespace, &policy.spec.target_refs, None);
    let fresh = written.check().and_then(|()| {
        // Without targets it would hold for the namespace, which nobody has asked for.
        if policy.spec.target_refs.is_empty() {
            return Err("spec.targetRefs: at least one must be given".to_owned());
        }
        misfit(policy, check::rate_limit_policy)?;
        limits(&names::namespaced(namespace, own), &policy.spec)
    });
    let (force, reach, accepted) = match fresh {
        Ok(wire) => (Some(wire), Some(written.clone()), Condition::accepted()),
        Err(text) => {
            let (force, reach) = before.map(|b| (b.force.clone(), b.reach.clone())).unwrap_or_default();
            (force, reach, Condition::refused("Invalid", text))
        }
    };
    let conditions = vec![accepted, Condition::resolved(&written.unresolved(world))];
    let verdict = verdict(Kind::RateLimitPolicy, &policy.metadata, conditions);
    Some(Policy { written, reach, force, rank: (0, age(&policy.metadata)), uids: BTreeSet::new(), verdict })
}

fn limits(policy: &str, spec: &RateLimitPolicySpec) -> Result<Limits, String> {
    let limits = spec.limits.iter().enumerate().map(|(i, l)| limit(policy, &format!("spec.limits[{i}]"), l));
    let limits: Limits = limits.collect::<Result<_, _>>()?;
    let port =
        v1::InboundPort { port: 80, local: "127.0.0.1:80".into(), rate_limits: limits.clone(), ..Default::default() };
    let identity = names::identity("probe", "probe", "probe");
    let probe = v1::Inbound { workload: "probe/probe".into(), identity, ports: vec![port], ..Default::default() };
    match weft_policy::config::Inbound::from_wire(&probe) {
        Ok(_) => Ok(limits),
        Err(refusal) => {
            let inner = refusal.field.strip_prefix("ports[0].").unwrap_or(&refusal.field);
            Err(format!("spec.{}: {}", inner.replace("rateLimits[", "limits["), refusal.reason))
        }
    }
}

fn limit(policy: &str, field: &str, spec: &RateLimit) -> Result<v1::RateLimit, String> {
    let scope = match spec.scope.unwrap_or_default() {
        RateLimitScope::Local => v1::RateLimitScope::Local,
        RateLimitScope::Global => v1::RateLimitScope::Global,
    };
    Ok(v1::RateLimit {
        name: format!("{policy}/{}", spec.name),
        matches: http_matches(&format!("{field}.matches"), &spec.matches)?,
        keys: spec.keys.iter().map(key).collect(),
        requests: spec.requests,
        per: duration(spec.per),
        burst: spec.burst.unwrap_or_default(),
        scope: scope.into(),
    })
}

fn key(spec: &RateLimitKey) -> v1::RateLimitKey {
    use v1::rate_limit_key::Key;
    let identity = spec.identity.map(Key::Identity);
    let key = identity.or_else(|| spec.header.clone().map(Key::Header));
    v1::RateLimitKey { key: key.or_else(|| spec.method.map(Key::Method)) }
}
