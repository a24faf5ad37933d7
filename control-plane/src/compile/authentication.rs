//! `RequestAuthentication`: reads it into what sidecars enforce, with the keys that were fetched. Where it holds is [`super::scope`]'s
//! business; who fetches keys is [`crate::world::jwks`].

use super::condition::{Condition, Kind, misfit};
use super::inbound::verdict;
use super::names;
use super::route::duration;
use super::scope::{Policy, Scope};
use crate::kinds::{RequestAuthentication, TokenRule, check};
use crate::world::{World, age};
use std::collections::BTreeSet;
use weft_proto::v1;

/// Reads a policy; a refused edition leaves in force what was.
pub(super) fn read(
    world: &World,
    policy: &RequestAuthentication,
    before: Option<&Policy<v1::RequestAuthentication>>,
) -> Option<Policy<v1::RequestAuthentication>> {
    let (namespace, own) = (policy.metadata.namespace.as_ref()?, policy.metadata.name.as_ref()?);
    let written = Scope::of(namespace, &policy.spec.target_refs, policy.spec.selector.as_ref());
    let fresh = written.check().and_then(|()| {
        misfit(policy, check::request_authentication)?;
        wire(world, &names::namespaced(namespace, own), policy)
    });
    let (force, reach, accepted) = match fresh {
        Ok(wire) => (Some(wire), Some(written.clone()), Condition::accepted()),
        Err(text) => {
            let (force, reach) = before.map(|b| (b.force.clone(), b.reach.clone())).unwrap_or_default();
            (force, reach, Condition::refused("Invalid", text))
        }
    };
    let mut conditions = vec![accepted, Condition::resolved(&written.unresolved(world))];
    conditions.extend(fetched(world, &policy.spec.rules));
    let verdict = verdict(Kind::RequestAuthentication, &policy.metadata, conditions);
    Some(Policy { written, reach, force, rank: (0, age(&policy.metadata)), uids: BTreeSet::new(), verdict })
}

/// The addresses that a policy's keys come from.
pub(super) fn addresses(policy: &RequestAuthentication) -> impl Iterator<Item = &String> {
    policy.spec.rules.iter().filter_map(|rule| rule.jwks_uri.as_ref())
}

/// `JwksFetched`: whether the keys of every address are as its last fetch gave them. `None`: there is no address.
fn fetched(world: &World, rules: &[TokenRule]) -> Option<Condition> {
    let mut wrong = Vec::new();
    let mut some = false;
    for address in rules.iter().filter_map(|rule| rule.jwks_uri.as_ref()) {
        some = true;
        match world.jwks.get(address) {
            None => wrong.push(("Pending", format!("{address} was not fetched yet"))),
            Some(known) => {
                if let Some(failure) = &known.failure {
                    let kept = if known.keys.is_some() { "the last good keys stay" } else { "tokens are refused" };
                    wrong.push(("FetchFailed", format!("{address}: {failure}; {kept}")));
                }
            }
        }
    }
    let texts: Vec<&str> = wrong.iter().map(|(_, text)| text.as_str()).collect();
    some.then(|| Condition {
        r#type: "JwksFetched",
        status: wrong.is_empty(),
        reason: wrong.iter().map(|(reason, _)| *reason).max_by_key(|r| *r == "FetchFailed").unwrap_or("JwksFetched"),
        message: texts.join("; "),
    })
}

fn wire(world: &World, name: &str, policy: &RequestAuthentication) -> Result<v1::RequestAuthentication, String> {
    let wire = v1::RequestAuthentication {
        name: name.to_owned(),
        rules: policy.spec.rules.iter().map(|r| rule(world, r)).collect(),
        optional: policy.spec.optional.unwrap_or_default(),
    };
    let port = v1::InboundPort {
        port: 80,
        local: "127.0.0.1:80".into(),
        request_authentication: vec![wire.clone()],
        ..Default::default()
    };
    let identity = names::identity("probe", "probe", "probe");
    let probe = v1::Inbound { workload: "probe/probe".into(), identity, ports: vec![port], ..Default::default() };
    match weft_policy::config::Inbound::from_wire(&probe) {
        Ok(_) => Ok(wire),
        Err(refusal) => {
            let inner = refusal.field.strip_prefix("ports[0].requestAuthentication[0].").unwrap_or(&refusal.field);
            Err(format!("spec.{inner}: {}", refusal.reason))
        }
    }
}

fn rule(world: &World, spec: &TokenRule) -> v1::TokenRule {
    let fetched = || Some(world.jwks.get(spec.jwks_uri.as_ref()?)?.keys.as_deref()?.to_owned());
    let header = |from: &crate::kinds::TokenHeader| v1::TokenHeader {
        name: from.name.clone(),
        prefix: from.prefix.clone().unwrap_or_default(),
    };
    let output =
        |to: &crate::kinds::ClaimHeader| v1::ClaimHeader { header: to.header.clone(), claim: to.claim.clone() };
    v1::TokenRule {
        issuer: spec.issuer.clone(),
        audiences: spec.audiences.clone(),
        jwks: spec.jwks.clone().or_else(fetched).unwrap_or_default(),
        from_headers: spec.from_headers.iter().map(header).collect(),
        from_params: spec.from_params.clone(),
        from_cookies: spec.from_cookies.clone(),
        forward_original_token: spec.forward_original_token.unwrap_or_default(),
        output_claim_to_headers: spec.output_claim_to_headers.iter().map(output).collect(),
        clock_skew: spec.clock_skew.and_then(duration),
    }
}
