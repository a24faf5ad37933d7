//! What policies about incoming calls reach: their targets and selectors, resolved to workloads and kept so as the world changes.
//!
//! For AuthorizationPolicy and MeshTLS alike; what they enforce there is [`super::inbound`]'s business.

use super::members::{Members, Target};
use super::{Change, Condition, Verdict, names, service};
use crate::identity::SYSTEM_NAMESPACE;
use crate::kinds::{TargetRef, WorkloadPort};
use crate::world::{Workload, World, selects};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use weft_proto::type_url;

/// Which ports of which workloads of a namespace a policy is about.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Scope {
    namespace: String,
    targets: Vec<TargetRef>,
    selector: Option<LabelSelector>,
    /// About every namespace.
    mesh: bool,
}

/// A policy, read; `F` is what it enforces.
#[derive(Clone, Debug)]
pub(super) struct Policy<F> {
    /// What its edition of now is about.
    pub written: Scope,
    /// What that is about which is in force, or would be.
    pub reach: Option<Scope>,
    /// `None`: nothing.
    pub force: Option<F>,
    /// Where one must win: the smaller.
    pub rank: (u8, (i64, String, String)),
    /// The workloads that it reaches.
    pub uids: BTreeSet<String>,
    pub verdict: Arc<Verdict>,
}

/// All policies of a kind, by name, and by the workloads that they reach.
#[derive(Clone, Debug)]
pub(super) struct Family<F> {
    known: BTreeMap<String, Policy<F>>,
    of: HashMap<String, BTreeSet<String>>,
}

impl<F> Default for Family<F> {
    fn default() -> Self {
        Self { known: BTreeMap::new(), of: HashMap::new() }
    }
}

impl Scope {
    pub fn of(namespace: &str, targets: &[TargetRef], selector: Option<&LabelSelector>) -> Self {
        Self { namespace: namespace.to_owned(), targets: targets.to_vec(), selector: selector.cloned(), mesh: false }
    }

    /// The same, where a policy of the control plane's own namespace that names no target is about the whole mesh.
    pub fn or_mesh(self) -> Self {
        let mesh = self.namespace == SYSTEM_NAMESPACE && self.is_whole_namespace();
        Self { mesh, ..self }
    }

    /// How much it is about: 0 what it names or selects, 1 a namespace, 2 the mesh.
    pub fn breadth(&self) -> u8 {
        u8::from(self.is_whole_namespace()) + u8::from(self.mesh)
    }

    pub fn is_whole_namespace(&self) -> bool {
        self.targets.is_empty() && self.selector.is_none()
    }

    pub fn check(&self) -> Result<(), String> {
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

    pub fn unresolved(&self, world: &World) -> Vec<(&'static str, String)> {
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
    pub fn holds(&self, world: &World, members: &Members, uid: &str, workload: &Workload, port: &WorkloadPort) -> bool {
        if self.mesh {
            return true;
        }
        if *workload.namespace != *self.namespace {
            return false;
        }
        if self.is_whole_namespace() {
            return true;
        }
        if let Some(selector) = &self.selector {
            return selects(selector, &workload.labels);
        }
        self.targets.iter().any(|target| {
            if target.is_workload() {
                return *workload.name == *target.name
                    && target.section_name.as_ref().is_none_or(|s| port.name.as_ref() == Some(s));
            }
            let named = |section: &String, target: &Target, service: &str| {
                let mut ports = world.services.get(service).into_iter().flat_map(|s| service::declared(s));
                ports.any(|p| p.name.as_ref() == Some(section) && p.port == i32::from(target.service_port))
            };
            members.of_workload(uid).iter().any(|belongs| {
                belongs.service.split_once('/').is_some_and(|(_, name)| name == target.name)
                    && belongs.targets.iter().any(|t| {
                        t.port == port.port
                            && target.section_name.as_ref().is_none_or(|section| named(section, t, &belongs.service))
                    })
            })
        })
    }

    /// Whether it is about any port of this workload.
    fn reaches(&self, world: &World, members: &Members, uid: &str) -> bool {
        let Some(workload) = world.workloads.get(uid) else { return false };
        let opened = members.opened(uid, workload);
        opened.spec.ports.iter().any(|port| self.holds(world, members, uid, workload, port))
    }

    /// All workloads that it is about.
    fn uids(&self, world: &World, members: &Members) -> BTreeSet<String> {
        let mut candidates: BTreeSet<&str> = BTreeSet::new();
        if self.mesh {
            candidates.extend(world.workloads.keys().map(|uid| &**uid));
        } else if self.is_whole_namespace() || self.selector.is_some() {
            candidates.extend(world.workloads_in(&self.namespace).map(|(uid, _)| &**uid));
        } else {
            for target in &self.targets {
                let name = names::namespaced(&self.namespace, &target.name);
                if target.is_workload() {
                    candidates.extend(world.workloads.get_key_value(&name).map(|(uid, _)| &**uid));
                } else {
                    candidates.extend(members.of_service(&name).map(|(uid, _)| uid));
                }
            }
        }
        candidates.into_iter().filter(|uid| self.reaches(world, members, uid)).map(str::to_owned).collect()
    }
}

impl<F> Policy<F> {
    fn conditions(&mut self, resolved: Condition) {
        let same = |v: &Verdict| v.parents.first().is_some_and(|p| p.conditions.get(1) == Some(&resolved));
        if !same(&self.verdict)
            && let Some(parent) = Arc::make_mut(&mut self.verdict).parents.first_mut()
        {
            match parent.conditions.get_mut(1) {
                Some(place) => *place = resolved,
                None => parent.conditions.push(resolved),
            }
        }
    }

    /// It reaches a workload, or no longer.
    fn reach(&mut self, uid: &str, is: bool) {
        let key = (type_url::INBOUND, uid.to_owned());
        let Some(parent) = Arc::make_mut(&mut self.verdict).parents.first_mut() else { return };
        if is {
            self.uids.insert(uid.to_owned());
            parent.shapes.insert(key);
        } else {
            self.uids.remove(uid);
            parent.shapes.remove(&key);
        }
    }
}

impl<F> Family<F> {
    /// Follows the world; `policies` of the kind changed, came or went. Returns the workloads for which something else may hold now.
    pub fn update(
        &mut self,
        world: &World,
        members: &Members,
        change: &Change,
        policies: &BTreeSet<String>,
        touched: &BTreeSet<String>,
        read: impl Fn(&str, Option<&Policy<F>>) -> Option<Policy<F>>,
    ) -> BTreeSet<String> {
        let mut dirty = BTreeSet::new();
        for key in policies {
            let before = self.known.remove(key);
            for uid in before.iter().flat_map(|b| &b.uids) {
                self.part(uid, key);
                dirty.insert(uid.clone());
            }
            let Some(mut known) = read(key, before.as_ref()) else { continue };
            known.uids = known.reach.as_ref().map(|r| r.uids(world, members)).unwrap_or_default();
            if let Some(parent) = Arc::make_mut(&mut known.verdict).parents.first_mut() {
                parent.shapes = known.uids.iter().map(|uid| (type_url::INBOUND, uid.clone())).collect();
            }
            for uid in &known.uids {
                self.of.entry(uid.clone()).or_default().insert(key.clone());
                dirty.insert(uid.clone());
            }
            self.known.insert(key.clone(), known);
        }

        // What policies that stayed as they were have to do with what did not.
        let objects = change.services.iter().chain(&change.workloads).chain(touched);
        let namespaces: BTreeSet<&str> = objects.filter_map(|name| Some(name.split_once('/')?.0)).collect();
        for namespace in namespaces {
            let prefix = format!("{namespace}/");
            let of_namespace = self.known.range(prefix.clone()..).take_while(|(key, _)| key.starts_with(&prefix));
            let system = format!("{SYSTEM_NAMESPACE}/");
            let of_system = self.known.range(system.clone()..).take_while(|(key, _)| key.starts_with(&system));
            let of_mesh = of_system.filter(|(_, policy)| namespace != SYSTEM_NAMESPACE && policy.written.mesh);
            let here = of_namespace.chain(of_mesh);
            let stayed: Vec<String> = here.map(|(k, _)| k).filter(|k| !policies.contains(*k)).cloned().collect();
            for key in stayed {
                let Some(known) = self.known.get_mut(&key) else { continue };
                let named = |target: &TargetRef| {
                    let name = names::namespaced(namespace, &target.name);
                    change.services.contains(&name) || change.workloads.contains(&name)
                };
                if known.written.targets.iter().any(named) {
                    known.conditions(Condition::resolved(&known.written.unresolved(world)));
                }
                for uid in touched.range(prefix.clone()..).take_while(|uid| uid.starts_with(&prefix)) {
                    let is = known.reach.as_ref().is_some_and(|reach| reach.reaches(world, members, uid));
                    if is != known.uids.contains(uid) {
                        known.reach(uid, is);
                        if is {
                            self.of.entry(uid.clone()).or_default().insert(key.clone());
                        } else if let Some(keys) = self.of.get_mut(uid) {
                            keys.remove(&key);
                        }
                    }
                }
            }
        }
        for uid in touched {
            if self.of.get(uid).is_some_and(BTreeSet::is_empty) {
                self.of.remove(uid);
            }
        }
        dirty
    }

    fn part(&mut self, uid: &str, key: &str) {
        if let Some(keys) = self.of.get_mut(uid) {
            keys.remove(key);
            if keys.is_empty() {
                self.of.remove(uid);
            }
        }
    }

    /// All policies, in order of name.
    pub fn all(&self) -> impl Iterator<Item = &Policy<F>> {
        self.known.values()
    }

    /// What is enforced on a port of a workload, in order of name.
    pub fn in_force<'f>(
        &'f self,
        world: &World,
        members: &Members,
        uid: &str,
        workload: &Workload,
        port: &WorkloadPort,
    ) -> impl Iterator<Item = (&'f String, &'f Policy<F>, &'f F)> {
        let reaching = self.of.get(uid).into_iter().flatten().filter_map(|key| self.known.get_key_value(key));
        reaching.filter_map(move |(name, policy)| match (&policy.force, &policy.reach) {
            (Some(force), Some(reach)) if reach.holds(world, members, uid, workload, port) => {
                Some((name, policy, force))
            }
            _ => None,
        })
    }
}
