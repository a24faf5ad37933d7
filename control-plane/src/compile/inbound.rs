//! `weft.v1.Inbound`: what one workload's sidecar enforces on the way in: keys, local addresses, MeshTLS, authorization.
//!
//! Between meshed workloads mutual TLS is strict unless a MeshTLS object says otherwise; a policy that names its targets wins over one that
//! holds for the namespace, then the older one.

use super::condition::{Condition, Kind, ParentVerdict, Verdict};
use super::endpoints::Members;
use super::{LastGood, names, service};
use crate::kinds::{
    Action, AuthorizationPolicy, AuthorizationPolicySpec, AuthorizationRule, MeshTls, MeshTlsSpec, Source, TargetRef,
    TlsMode, Workload, WorkloadPort,
};
use crate::world::{World, age, selects};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use weft_proto::{type_url, v1};

/// Rules of one policy after its lists were multiplied out.
const MAX_RULES: usize = 4096;

/// Which ports of which workloads of a namespace a policy is about.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Scope {
    namespace: String,
    targets: Vec<TargetRef>,
    selector: Option<LabelSelector>,
}

/// An authorization policy as it is enforced.
#[derive(Clone, Debug, PartialEq)]
pub struct Guarded {
    scope: Scope,
    wire: v1::Authorization,
}

struct Tls<'w> {
    scope: Scope,
    policy: &'w MeshTls,
    name: String,
}

/// All policies about what comes in.
#[derive(Default)]
pub struct Guards<'w> {
    authorization: Vec<Guarded>,
    /// In order of precedence.
    tls: Vec<Tls<'w>>,
    verdicts: Vec<Verdict>,
}

impl Scope {
    fn of(namespace: &str, targets: &[TargetRef], selector: Option<&LabelSelector>) -> Self {
        Self { namespace: namespace.to_owned(), targets: targets.to_vec(), selector: selector.cloned() }
    }

    fn is_whole_namespace(&self) -> bool {
        self.targets.is_empty() && self.selector.is_none()
    }

    fn check(&self) -> Result<(), String> {
        if !self.targets.is_empty() && self.selector.is_some() {
            return Err("spec.selector: not together with targetRefs".to_owned());
        }
        match self.targets.iter().position(|t| !t.is_service() && !t.is_workload()) {
            Some(i) => {
                let target = &self.targets[i];
                Err(format!(
                    "spec.targetRefs[{i}]: {} {:?} is neither a Service nor a Workload",
                    target.kind, target.group
                ))
            }
            None => Ok(()),
        }
    }

    fn unresolved(&self, world: &World) -> Vec<(&'static str, String)> {
        let missing = |target: &TargetRef| {
            let name = names::namespaced(&self.namespace, &target.name);
            let there = if target.is_service() {
                world.services.contains_key(&name)
            } else {
                world.workloads.contains_key(&name)
            };
            (!there).then(|| ("TargetNotFound", format!("there is no {} {name}", target.kind)))
        };
        self.targets.iter().filter_map(missing).collect()
    }

    /// Whether it is about this port of this workload.
    fn holds(&self, members: &Members, uid: &str, workload: &Workload, port: &WorkloadPort) -> bool {
        if workload.metadata.namespace.as_deref() != Some(&self.namespace) {
            return false;
        }
        if self.is_whole_namespace() {
            return true;
        }
        if let Some(selector) = &self.selector {
            return selects(selector, workload.metadata.labels.as_ref());
        }
        self.targets.iter().any(|target| {
            if target.is_workload() {
                return workload.metadata.name.as_deref() == Some(&target.name)
                    && target.section_name.as_ref().is_none_or(|s| port.name.as_ref() == Some(s));
            }
            let mut services = members.of_workload(uid).iter();
            services.any(|(service, targets)| {
                service.metadata.name.as_deref() == Some(&target.name)
                    && targets.iter().any(|t| {
                        t.port == port.port
                            && target.section_name.as_ref().is_none_or(|section| {
                                service::declared(service)
                                    .any(|p| p.name.as_ref() == Some(section) && p.port == i32::from(t.service_port))
                            })
                    })
            })
        })
    }

    /// The Inbounds it is part of.
    fn shapes(&self, world: &World, members: &Members) -> BTreeSet<crate::xds::convergence::Key> {
        let of_namespace = world.workloads_in(&self.namespace);
        let held = of_namespace.filter(|(uid, w)| w.spec.ports.iter().any(|p| self.holds(members, uid, w, p)));
        held.map(|(uid, _)| (type_url::INBOUND, uid.clone())).collect()
    }
}

impl<'w> Guards<'w> {
    /// Reads every AuthorizationPolicy and MeshTLS of the world.
    #[must_use]
    pub fn compile(world: &'w World, members: &Members, last: &LastGood, keep: &mut LastGood) -> Self {
        let mut all = Self::default();
        for policy in world.authorization.values() {
            all.add_authorization(world, members, policy, last, keep);
        }
        let mut tls: Vec<_> = world.mesh_tls.values().collect();
        tls.sort_by_key(|p| (p.spec.target_refs.is_empty() && p.spec.selector.is_none(), age(&p.metadata)));
        for policy in tls {
            all.add_tls(world, members, policy);
        }
        all
    }

    fn add_authorization(
        &mut self,
        world: &World,
        members: &Members,
        policy: &AuthorizationPolicy,
        last: &LastGood,
        keep: &mut LastGood,
    ) {
        let (Some(namespace), Some(own)) = (&policy.metadata.namespace, &policy.metadata.name) else { return };
        let key = names::namespaced(namespace, own);
        let scope = Scope::of(namespace, &policy.spec.target_refs, policy.spec.selector.as_ref());
        let fresh = scope.check().and_then(|()| authorization(world, namespace, &key, &policy.spec));
        let (guarded, accepted) = match fresh {
            Ok(wire) => (Some(Guarded { scope: scope.clone(), wire }), Condition::accepted()),
            Err(text) => (last.authorization.get(&key).cloned(), Condition::refused("Invalid", text)),
        };
        let conditions = vec![accepted, Condition::resolved(&scope.unresolved(world))];
        let shapes = guarded.as_ref().map(|g| g.scope.shapes(world, members)).unwrap_or_default();
        self.verdict(Kind::AuthorizationPolicy, &policy.metadata, conditions, shapes);
        if let Some(guarded) = guarded {
            keep.authorization.insert(key, guarded.clone());
            self.authorization.push(guarded);
        }
    }

    fn add_tls(&mut self, world: &World, members: &Members, policy: &'w MeshTls) {
        let (Some(namespace), Some(own)) = (&policy.metadata.namespace, &policy.metadata.name) else { return };
        let scope = Scope::of(namespace, &policy.spec.target_refs, policy.spec.selector.as_ref());
        let accepted = match scope.check() {
            Ok(()) => Condition::accepted(),
            // What cannot be understood opens nothing: the ports stay as strict as they are without it.
            Err(text) => Condition::refused("Invalid", text),
        };
        let in_force = accepted.status;
        let conditions = vec![accepted, Condition::resolved(&scope.unresolved(world))];
        self.verdict(Kind::MeshTls, &policy.metadata, conditions, scope.shapes(world, members));
        if in_force {
            self.tls.push(Tls { scope, policy, name: names::namespaced(namespace, own) });
        }
    }

    fn verdict(
        &mut self,
        kind: Kind,
        meta: &kube::core::ObjectMeta,
        conditions: Vec<Condition>,
        shapes: BTreeSet<crate::xds::convergence::Key>,
    ) {
        self.verdicts.push(Verdict {
            kind,
            namespace: meta.namespace.clone().unwrap_or_default(),
            name: meta.name.clone().unwrap_or_default(),
            uid: meta.uid.clone().unwrap_or_default(),
            generation: meta.generation.unwrap_or_default(),
            parents: vec![ParentVerdict { parent: None, conditions, shapes }],
        });
    }

    fn tls_of(&self, members: &Members, uid: &str, workload: &Workload, port: &WorkloadPort) -> (v1::TlsMode, String) {
        let first = self.tls.iter().find(|t| t.scope.holds(members, uid, workload, port));
        let Some(tls) = first else { return (v1::TlsMode::Strict, String::new()) };
        (mode(&tls.policy.spec, port.port), tls.name.clone())
    }

    /// What the policies learn.
    #[must_use]
    pub fn into_verdicts(self) -> Vec<Verdict> {
        self.verdicts
    }
}

fn mode(spec: &MeshTlsSpec, port: u16) -> v1::TlsMode {
    match spec.ports.iter().find(|p| p.port == port).map_or(spec.mode, |p| p.mode) {
        TlsMode::Strict => v1::TlsMode::Strict,
        TlsMode::Permissive => v1::TlsMode::Permissive,
        TlsMode::Disabled => v1::TlsMode::Disabled,
    }
}

/// The Inbound of every workload that has a sidecar.
#[must_use]
pub fn compile(world: &World, members: &Members, guards: &Guards<'_>) -> BTreeMap<String, v1::Inbound> {
    let meshed = world.workloads.iter().filter(|(_, w)| w.spec.tunnel.is_some());
    let inbound = meshed.filter_map(|(uid, workload)| {
        let (namespace, own) = (workload.metadata.namespace.as_deref()?, workload.metadata.name.as_deref()?);
        let address: IpAddr = workload.spec.address.parse().ok()?;
        let ports = workload.spec.ports.iter().map(|port| {
            let at = SocketAddr::new(address, port.port).to_string();
            let (tls, tls_source) = guards.tls_of(members, uid, workload, port);
            let (server_names, service) = keys(world, members, uid, namespace, own, port.port);
            let in_force = guards.authorization.iter().filter(|g| g.scope.holds(members, uid, workload, port));
            v1::InboundPort {
                port: port.port.into(),
                authorities: vec![at.clone()],
                server_names,
                local: port.local.clone().unwrap_or(at),
                protocol: super::endpoints::protocol(port.protocol).into(),
                tls: tls.into(),
                tls_source,
                authorization: in_force.map(|g| g.wire.clone()).collect(),
                service,
                limits: None,
            }
        });
        let identity = names::identity(&world.mesh.trust_domain, namespace, &workload.spec.service_account);
        Some((uid.clone(), v1::Inbound { workload: uid.clone(), identity, ports: ports.collect() }))
    });
    inbound.collect()
}

/// The server names that mean a port of a workload, and the service it is counted under.
fn keys(world: &World, members: &Members, uid: &str, namespace: &str, own: &str, port: u16) -> (Vec<String>, String) {
    let mut server_names = Vec::new();
    let mut service = String::new();
    for (of, targets) in members.of_workload(uid) {
        let name = of.metadata.name.as_deref().unwrap_or_default();
        for target in targets.iter().filter(|t| t.port == port) {
            server_names.push(names::service_sni(namespace, name, target.service_port, &world.mesh.domain));
            if service.is_empty() {
                service = names::namespaced(namespace, name);
            }
        }
    }
    server_names.push(names::workload_sni(namespace, own, port, &world.mesh.domain));
    server_names.sort();
    server_names.dedup();
    (server_names, service)
}

fn authorization(
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
    let mut rules = Vec::new();
    for (i, rule) in spec.rules.iter().enumerate() {
        expand(world, namespace, i, rule, &mut rules);
        if rules.len() > MAX_RULES {
            return Err(format!("spec.rules[{i}]: more than {MAX_RULES} combinations of from and to"));
        }
    }
    let wire = v1::Authorization { name: name.to_owned(), action: action.into(), rules };
    let port = v1::InboundPort {
        port: 80,
        local: "127.0.0.1:80".into(),
        authorization: vec![wire.clone()],
        ..Default::default()
    };
    let identity = names::identity(&world.mesh.trust_domain, "probe", "probe");
    let probe = v1::Inbound { workload: "probe/probe".into(), identity, ports: vec![port] };
    match weft_policy::config::Inbound::from_wire(&probe) {
        Ok(_) => Ok(wire),
        Err(refusal) => {
            let inner = refusal.field.strip_prefix("ports[0].authorization[0].").unwrap_or(&refusal.field);
            Err(format!("spec.{inner}: {}", refusal.reason))
        }
    }
}

/// One rule with lists of sources and operations becomes one for each pair.
fn expand(world: &World, namespace: &str, i: usize, rule: &AuthorizationRule, out: &mut Vec<v1::AuthorizationRule>) {
    let name = rule.name.clone().unwrap_or_else(|| format!("rules[{i}]"));
    let anyone = [Source::default()];
    let anything = [crate::kinds::Operation::default()];
    let from = if rule.from.is_empty() { &anyone[..] } else { &rule.from };
    let to = if rule.to.is_empty() { &anything[..] } else { &rule.to };
    for source in from {
        // A caller must be in both lists; where none can be, the pair matches nobody.
        let Some(identities) = identities(world, namespace, source) else { continue };
        for operation in to {
            out.push(v1::AuthorizationRule {
                name: name.clone(),
                identities: identities.clone(),
                namespaces: source.namespaces.clone(),
                methods: operation.methods.clone(),
                paths: operation.paths.clone(),
            });
        }
    }
}

/// The identities of a source; empty: anyone. `None`: nobody.
fn identities(world: &World, namespace: &str, source: &Source) -> Option<Vec<String>> {
    if source.service_accounts.is_empty() {
        return Some(source.identities.clone());
    }
    let accounts = source.service_accounts.iter().map(|account| {
        let (namespace, account) = account.split_once('/').unwrap_or((namespace, account));
        names::identity(&world.mesh.trust_domain, namespace, account)
    });
    let listed = |id: &String| {
        source.identities.is_empty()
            || source.identities.iter().any(|pattern| match pattern.strip_suffix('*') {
                Some(prefix) => id.starts_with(prefix),
                None => id == pattern,
            })
    };
    let both: Vec<String> = accounts.filter(listed).collect();
    (!both.is_empty()).then_some(both)
}
