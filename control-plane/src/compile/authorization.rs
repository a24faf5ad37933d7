//! `AuthorizationPolicy`: reads it into what sidecars enforce, field by field. Where it holds is [`super::scope`]'s business; what it means is
//! `weft_policy::authorize`'s.

use super::condition::{Condition, Kind};
use super::inbound::verdict;
use super::names;
use super::scope::{Policy, Scope};
use crate::kinds::{
    Action, AuthorizationCondition, AuthorizationPolicy, AuthorizationPolicySpec, AuthorizationRule, Operation, Source,
};
use crate::world::{World, age};
use std::collections::BTreeSet;
use weft_proto::v1;

/// What a policy enforces.
#[derive(Clone, Debug)]
pub(super) struct Force {
    pub wire: v1::Authorization,
    /// Whether answers name the rule that decided.
    pub header: bool,
}

/// Reads a policy; a refused edition leaves in force what was.
pub(super) fn read(
    world: &World,
    policy: &AuthorizationPolicy,
    before: Option<&Policy<Force>>,
) -> Option<Policy<Force>> {
    let (namespace, own) = (policy.metadata.namespace.as_ref()?, policy.metadata.name.as_ref()?);
    let written = Scope::of(namespace, &policy.spec.target_refs, policy.spec.selector.as_ref());
    let key = names::namespaced(namespace, own);
    let fresh = written.check().and_then(|()| wire(world, namespace, &key, &policy.spec));
    let (force, reach, accepted) = match fresh {
        Ok(wire) => {
            let header = policy.spec.response_header.unwrap_or_default();
            (Some(Force { wire, header }), Some(written.clone()), Condition::accepted())
        }
        Err(text) => {
            let (force, reach) = before.map(|b| (b.force.clone(), b.reach.clone())).unwrap_or_default();
            (force, reach, Condition::refused("Invalid", text))
        }
    };
    let conditions = vec![accepted, Condition::resolved(&written.unresolved(world))];
    let verdict = verdict(Kind::AuthorizationPolicy, &policy.metadata, conditions);
    Some(Policy { written, reach, force, rank: (0, age(&policy.metadata)), uids: BTreeSet::new(), verdict })
}

fn wire(
    world: &World,
    namespace: &str,
    name: &str,
    spec: &AuthorizationPolicySpec,
) -> Result<v1::Authorization, String> {
    let action = match spec.action {
        Action::Allow => v1::Action::Allow,
        Action::Deny => v1::Action::Deny,
        Action::Audit => v1::Action::Audit,
    };
    let rules = spec.rules.iter().enumerate().map(|(i, r)| rule(namespace, i, r)).collect();
    let wire = v1::Authorization { name: name.to_owned(), action: action.into(), rules };
    let port = v1::InboundPort {
        port: 80,
        local: "127.0.0.1:80".into(),
        authorization: vec![wire.clone()],
        ..Default::default()
    };
    let identity = names::identity(&world.mesh.trust_domain, "probe", "probe");
    let probe = v1::Inbound { workload: "probe/probe".into(), identity, ports: vec![port], ..Default::default() };
    match weft_policy::config::Inbound::from_wire(&probe) {
        Ok(_) => Ok(wire),
        Err(refusal) => {
            let inner = refusal.field.strip_prefix("ports[0].authorization[0].").unwrap_or(&refusal.field);
            Err(format!("spec.{inner}: {}", refusal.reason))
        }
    }
}

fn rule(namespace: &str, i: usize, rule: &AuthorizationRule) -> v1::AuthorizationRule {
    v1::AuthorizationRule {
        name: rule.name.clone().unwrap_or_else(|| format!("rules[{i}]")),
        from: rule.from.iter().map(|from| source(namespace, from)).collect(),
        to: rule.to.iter().map(operation).collect(),
        when: rule.when.iter().map(condition).collect(),
    }
}

fn source(namespace: &str, spec: &Source) -> v1::AuthorizationSource {
    let accounts = |list: &[String]| {
        let named = |account: &String| match account.contains('/') {
            true => account.clone(),
            false => names::namespaced(namespace, account),
        };
        list.iter().map(named).collect()
    };
    v1::AuthorizationSource {
        identities: spec.identities.clone(),
        not_identities: spec.not_identities.clone(),
        namespaces: spec.namespaces.clone(),
        not_namespaces: spec.not_namespaces.clone(),
        ip_blocks: spec.ip_blocks.clone(),
        not_ip_blocks: spec.not_ip_blocks.clone(),
        request_principals: spec.request_principals.clone(),
        not_request_principals: spec.not_request_principals.clone(),
        service_accounts: accounts(&spec.service_accounts),
        not_service_accounts: accounts(&spec.not_service_accounts),
    }
}

fn operation(spec: &Operation) -> v1::AuthorizationOperation {
    let ports = |list: &[u16]| list.iter().map(|port| u32::from(*port)).collect();
    v1::AuthorizationOperation {
        hosts: spec.hosts.clone(),
        not_hosts: spec.not_hosts.clone(),
        ports: ports(&spec.ports),
        not_ports: ports(&spec.not_ports),
        methods: spec.methods.clone(),
        not_methods: spec.not_methods.clone(),
        paths: spec.paths.clone(),
        not_paths: spec.not_paths.clone(),
    }
}

fn condition(spec: &AuthorizationCondition) -> v1::AuthorizationCondition {
    v1::AuthorizationCondition {
        key: spec.key.clone(),
        values: spec.values.clone(),
        not_values: spec.not_values.clone(),
    }
}
