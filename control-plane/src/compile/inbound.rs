//! `weft.v1.Inbound`: what one workload's sidecar enforces on the way in: keys, local addresses, MeshTLS, authorization, rate limits and the
//! bounds of adaptive concurrency.
//!
//! Between meshed workloads mutual TLS is strict unless a MeshTLS object says otherwise; a policy that names its targets wins over one that
//! holds for the namespace, that over one that holds for the mesh; then one that lists the port, then the older one.

use super::condition::{Condition, Kind, ParentVerdict, Verdict};
use super::limits::{self, Limits};
use super::members::Members;
use super::scope::{Family, Policy, Scope};
use super::traffic::Policies;
use super::{Change, authentication, authorization, names, service};
use crate::kinds::{MeshTls, MeshTlsSpec, TlsMode, WorkloadPort};
use crate::world::{Origin, Workload, World, age};
use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use weft_proto::v1;

/// All policies about what comes in.
#[derive(Clone, Debug, Default)]
pub struct Guards {
    authorization: Family<authorization::Force>,
    tls: Family<MeshTlsSpec>,
    limits: Family<Limits>,
    authentication: Family<v1::RequestAuthentication>,
}

impl Guards {
    /// Follows the world; `touched` are the workloads that changed, or belong to what did. Returns all for which something else may hold,
    /// and those of them for which MeshTLS may.
    pub(super) fn update(
        &mut self,
        world: &World,
        members: &Members,
        change: &Change,
        touched: &BTreeSet<String>,
    ) -> (BTreeSet<String>, BTreeSet<String>) {
        let mut dirty = touched.clone();
        let read =
            |key: &str, before: Option<&Policy<_>>| authorization::read(world, world.authorization.get(key)?, before);
        dirty.extend(self.authorization.update(world, members, change, &change.authorization, touched, read));
        let read = |key: &str, _: Option<&Policy<_>>| read_tls(world, world.mesh_tls.get(key)?);
        let tls = self.tls.update(world, members, change, &change.mesh_tls, touched, read);
        dirty.extend(tls.iter().cloned());
        let read = |key: &str, before: Option<&Policy<_>>| limits::read(world, world.limits.get(key)?, before);
        dirty.extend(self.limits.update(world, members, change, &change.limits, touched, read));
        let read =
            |key: &str, before: Option<&Policy<_>>| authentication::read(world, world.authentication.get(key)?, before);
        dirty.extend(self.authentication.update(world, members, change, &change.authentication, touched, read));
        (dirty, tls)
    }

    /// What the policies learn: authorization by name, MeshTLS in order of precedence, rate limits and request authentication by name.
    pub fn verdicts(&self) -> impl Iterator<Item = &Arc<Verdict>> {
        let mut tls: Vec<&Policy<_>> = self.tls.all().collect();
        tls.sort_by(|a, b| a.rank.cmp(&b.rank));
        let (authorization, limits) = (self.authorization.all(), self.limits.all());
        let of_calls = authorization.map(|p| &p.verdict).chain(tls.into_iter().map(|p| &p.verdict));
        of_calls.chain(limits.map(|p| &p.verdict)).chain(self.authentication.all().map(|p| &p.verdict))
    }

    fn tls_of(
        &self,
        world: &World,
        members: &Members,
        uid: &str,
        workload: &Workload,
        port: &WorkloadPort,
    ) -> (v1::TlsMode, String) {
        let here = self.tls.in_force(world, members, uid, workload, port);
        // Of those that are about as much, one that lists the port comes first.
        let lists = |spec: &MeshTlsSpec| spec.ports.iter().any(|listed| listed.port == port.port);
        match here.min_by_key(|(_, policy, spec)| (policy.rank.0, !lists(spec), &policy.rank.1)) {
            Some((name, _, spec)) => (mode(spec, port.port), name.clone()),
            None => (v1::TlsMode::Strict, String::new()),
        }
    }

    /// Whether peers are to call a port of a workload in plaintext.
    pub(super) fn is_plaintext(
        &self,
        world: &World,
        members: &Members,
        uid: &str,
        workload: &Workload,
        number: u16,
    ) -> bool {
        let opened;
        let mut listed = workload.spec.ports.iter().find(|port| port.port == number);
        if listed.is_none() && workload.origin == Origin::Pod {
            opened = WorkloadPort { port: number, ..WorkloadPort::default() };
            listed = Some(&opened);
        }
        listed.is_some_and(|port| self.tls_of(world, members, uid, workload, port).0 == v1::TlsMode::Disabled)
    }
}

pub(super) fn verdict(kind: Kind, meta: &kube::core::ObjectMeta, conditions: Vec<Condition>) -> Arc<Verdict> {
    Arc::new(Verdict {
        kind,
        namespace: meta.namespace.clone().unwrap_or_default(),
        name: meta.name.clone().unwrap_or_default(),
        uid: meta.uid.clone().unwrap_or_default(),
        generation: meta.generation.unwrap_or_default(),
        parents: vec![ParentVerdict { parent: None, conditions, shapes: BTreeSet::new() }],
        rollout: None,
    })
}

fn read_tls(world: &World, policy: &MeshTls) -> Option<Policy<MeshTlsSpec>> {
    let namespace = policy.metadata.namespace.as_ref()?;
    policy.metadata.name.as_ref()?;
    let written = Scope::of(namespace, &policy.spec.target_refs, policy.spec.selector.as_ref()).or_mesh();
    let accepted = match written.check() {
        Ok(()) => Condition::accepted(),
        // What cannot be understood opens nothing: the ports stay as strict as they are without it.
        Err(text) => Condition::refused("Invalid", text),
    };
    let force = accepted.status.then(|| policy.spec.clone());
    let conditions = vec![accepted, Condition::resolved(&written.unresolved(world))];
    let verdict = verdict(Kind::MeshTls, &policy.metadata, conditions);
    let rank = (written.breadth(), age(&policy.metadata));
    Some(Policy { reach: Some(written.clone()), written, force, rank, uids: BTreeSet::new(), verdict })
}

fn mode(spec: &MeshTlsSpec, port: u16) -> v1::TlsMode {
    match spec.ports.iter().find(|p| p.port == port).map_or(spec.mode, |p| p.mode) {
        TlsMode::Strict => v1::TlsMode::Strict,
        TlsMode::Permissive => v1::TlsMode::Permissive,
        TlsMode::Disabled => v1::TlsMode::Disabled,
    }
}

/// The Inbound of a workload; `None` for those without a sidecar.
#[must_use]
pub fn compile(
    world: &World,
    members: &Members,
    guards: &Guards,
    traffic: &Policies,
    uid: &str,
) -> Option<v1::Inbound> {
    let workload = &members.opened(uid, world.workloads.get(uid).filter(|w| w.spec.tunnel.is_some())?);
    let (namespace, own) = (&*workload.namespace, &*workload.name);
    let address: IpAddr = workload.spec.address.parse().ok()?;
    let ports = workload.spec.ports.iter().map(|port| {
        let at = SocketAddr::new(address, port.port).to_string();
        let (tls, tls_source) = guards.tls_of(world, members, uid, workload, port);
        let (server_names, service) = keys(world, members, uid, namespace, own, port.port);
        let in_force: Vec<_> = guards.authorization.in_force(world, members, uid, workload, port).collect();
        let tokens = guards.authentication.in_force(world, members, uid, workload, port);
        let limited = guards.limits.in_force(world, members, uid, workload, port);
        v1::InboundPort {
            port: port.port.into(),
            authorities: vec![at.clone()],
            server_names,
            local: port.local.clone().unwrap_or(at),
            protocol: super::endpoints::protocol(port.protocol).into(),
            tls: tls.into(),
            tls_source,
            authorization_header: in_force.iter().any(|(_, _, force)| force.header),
            authorization: in_force.into_iter().map(|(_, _, force)| force.wire.clone()).collect(),
            request_authentication: tokens.map(|(_, _, wire)| wire.clone()).collect(),
            service,
            limits: None,
            rate_limits: limits::joined(uid, limited.map(|(_, _, wire)| wire)),
            adaptive_concurrency: adaptive(world, members, traffic, uid, port.port),
        }
    });
    let identity = names::identity(&world.mesh.trust_domain, namespace, &workload.spec.service_account);
    let (region, zone) = super::endpoints::locality(workload);
    Some(v1::Inbound { workload: uid.to_owned(), identity, ports: ports.collect(), region, zone })
}

/// What the first of the services that the port serves says, in order of name.
fn adaptive(
    world: &World,
    members: &Members,
    traffic: &Policies,
    uid: &str,
    port: u16,
) -> Option<v1::AdaptiveConcurrency> {
    members.of_workload(uid).iter().find_map(|belongs| {
        let found = world.services.get(&belongs.service)?;
        belongs.targets.iter().filter(|t| t.port == port).find_map(|target| {
            let declared = service::declared(found).find(|p| p.port == i32::from(target.service_port))?;
            traffic.of(&belongs.service, declared.name.as_deref()).inbound
        })
    })
}

/// The server names that mean a port of a workload, and the service it is counted under.
fn keys(world: &World, members: &Members, uid: &str, namespace: &str, own: &str, port: u16) -> (Vec<String>, String) {
    let mut server_names = Vec::new();
    let mut service = String::new();
    for belongs in members.of_workload(uid) {
        let name = belongs.service.split_once('/').map_or("", |(_, name)| name);
        for target in belongs.targets.iter().filter(|t| t.port == port) {
            server_names.push(names::service_sni(namespace, name, target.service_port, &world.mesh.domain));
            if service.is_empty() {
                service = belongs.service.to_string();
            }
        }
    }
    server_names.push(names::workload_sni(namespace, own, port, &world.mesh.domain));
    server_names.sort();
    server_names.dedup();
    (server_names, service)
}
