//! `TrafficPolicy`: what holds for calls to the ports of a Service, merged field by field. What one policy says on the wire is made in
//! `part`.
//!
//! A policy that names the port comes before one that names the Service; between equals the older one, then the smaller name. Each
//! field is taken from the first policy that sets it.

mod part;

pub use part::Part;

use super::condition::{Condition, Kind, ParentVerdict, Verdict, misfit};
use super::members::Members;
use super::{Change, names, service};
use crate::kinds::{TrafficPolicy, check};
use crate::world::{World, age};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use weft_proto::{type_url, v1};

/// The parts for a service, by the name of the port or for every port, in order of precedence.
type OfService = BTreeMap<Option<String>, Vec<Arc<Part>>>;

/// Older first, then by namespace and name.
type Age = (i64, String, String);

/// All policies, by what they are about.
#[derive(Clone, Debug, Default)]
pub struct Policies {
    /// In order of precedence.
    known: BTreeMap<Age, Arc<Known>>,
    ages: HashMap<String, Age>,
    /// Service → the policies that name it, in order of precedence.
    naming: HashMap<String, BTreeSet<Age>>,
    parts: HashMap<String, OfService>,
}

/// One policy, read.
#[derive(Debug)]
struct Known {
    /// Every Service that it names, there or not: its targets and its fallback.
    names: BTreeSet<String>,
    /// What is in force of it: this edition, or the last that was good.
    part: Option<Arc<Part>>,
    targets: Vec<(String, Option<String>)>,
    verdict: Arc<Verdict>,
}

/// Services for which something else holds than before.
#[derive(Debug, Default)]
pub(super) struct Settled {
    /// For calls to them.
    pub services: BTreeSet<String>,
    /// Where calls arrive.
    pub inbound: BTreeSet<String>,
}

impl Known {
    fn is_inbound(&self) -> bool {
        self.part.as_ref().is_some_and(|part| part.inbound.is_some())
    }
}

impl Policies {
    /// Follows the world; `touched` are the services whose members may be others than before.
    pub(super) fn update(
        &mut self,
        world: &World,
        members: &Members,
        change: &Change,
        touched: &BTreeSet<String>,
    ) -> Settled {
        let named = change.services.iter().filter_map(|s| self.naming.get(s)).flatten();
        // What holds where calls arrive shapes what the members hold.
        let reaching = touched.iter().filter_map(|s| self.naming.get(s)).flatten();
        let reaching = reaching.filter(|age| self.known.get(*age).is_some_and(|known| known.is_inbound()));
        let again = named.chain(reaching).map(|(_, namespace, own)| names::namespaced(namespace, own));
        let again: BTreeSet<String> = again.chain(change.traffic.iter().cloned()).collect();
        let mut touched = BTreeSet::new();
        for key in again {
            let before = self.ages.remove(&key).and_then(|age| Some((self.known.remove(&age)?, age)));
            if let Some((known, age)) = &before {
                for name in &known.names {
                    if let Some(naming) = self.naming.get_mut(name) {
                        naming.remove(age);
                        if naming.is_empty() {
                            self.naming.remove(name);
                        }
                    }
                }
                touched.extend(known.names.iter().cloned());
            }
            let before = before.and_then(|(known, _)| known.part.clone());
            let Some(policy) = world.traffic.get(&key) else { continue };
            let Some(known) = read(world, members, policy, before) else { continue };
            let age = age(&policy.metadata);
            for name in &known.names {
                self.naming.entry(name.clone()).or_default().insert(age.clone());
            }
            touched.extend(known.names.iter().cloned());
            self.ages.insert(key, age.clone());
            self.known.insert(age, Arc::new(known));
        }
        let mut settled = Settled::default();
        for service in touched {
            let before = self.adaptive_of(&service);
            if self.settle(&service) {
                if before != self.adaptive_of(&service) {
                    settled.inbound.insert(service.clone());
                }
                settled.services.insert(service);
            }
        }
        settled
    }

    /// Works out what holds for a service; false when that is what did.
    fn settle(&mut self, service: &str) -> bool {
        let mut parts = OfService::new();
        for known in self.naming.get(service).into_iter().flatten().filter_map(|age| self.known.get(age)) {
            let Some(part) = &known.part else { continue };
            for (_, section) in known.targets.iter().filter(|(name, _)| name == service) {
                parts.entry(section.clone()).or_default().push(part.clone());
            }
        }
        let differs = self.parts.get(service).map_or(!parts.is_empty(), |before| *before != parts);
        if parts.is_empty() {
            self.parts.remove(service);
        } else if differs {
            self.parts.insert(service.to_owned(), parts);
        }
        differs
    }

    /// What holds for a port of a service.
    #[must_use]
    pub fn of(&self, service: &str, port: Option<&str>) -> Part {
        let Some(of_service) = self.parts.get(service) else { return Part::default() };
        let by_name = port.and_then(|p| of_service.get(&Some(p.to_owned())));
        let parts = by_name.into_iter().flatten().chain(of_service.get(&None).into_iter().flatten());
        parts.fold(Part::default(), |to, from| to.or(from))
    }

    /// What of it holds for a service where calls arrive, by the name of the port.
    fn adaptive_of(&self, service: &str) -> Vec<(Option<String>, v1::AdaptiveConcurrency)> {
        let of_service = self.parts.get(service).into_iter().flatten();
        let of_section = |(section, parts): (&Option<String>, &Vec<Arc<Part>>)| {
            parts.iter().find_map(|part| part.inbound).map(|adaptive| (section.clone(), adaptive))
        };
        of_service.filter_map(of_section).collect()
    }

    /// What the policies learn, older first.
    pub fn verdicts(&self) -> impl Iterator<Item = &Arc<Verdict>> {
        self.known.values().map(|known| &known.verdict)
    }
}

/// Reads a policy; `before` is what was in force of it.
fn read(world: &World, members: &Members, policy: &TrafficPolicy, before: Option<Arc<Part>>) -> Option<Known> {
    let (namespace, own) = (policy.metadata.namespace.as_ref()?, policy.metadata.name.as_ref()?);
    let mut unresolved = Vec::new();
    let mut named = BTreeSet::new();
    let fresh = misfit(policy, check::traffic_policy)
        .and_then(|()| Part::of(world, namespace, &policy.spec, &mut named, &mut unresolved));
    let mut accepted =
        fresh.as_ref().err().map_or_else(Condition::accepted, |text| Condition::refused("Invalid", text));
    let mut shapes = BTreeSet::new();
    let mut targets = Vec::new();
    for (i, target) in policy.spec.target_refs.iter().enumerate() {
        if !target.is_service() {
            let text = format!("spec.targetRefs[{i}]: a TrafficPolicy is about Services, not about {}", target.kind);
            accepted = Condition::refused("Invalid", text);
            continue;
        }
        let name = names::namespaced(namespace, &target.name);
        named.insert(name.clone());
        let Some(found) = world.services.get(&name) else {
            unresolved.push(("TargetNotFound", format!("there is no Service {name}")));
            continue;
        };
        if let Some(section) = &target.section_name
            && !service::declared(found).any(|p| p.name.as_ref() == Some(section))
        {
            unresolved.push(("TargetNotFound", format!("Service {name} has no port named {section:?}")));
            continue;
        }
        shapes.insert((type_url::SERVICE, name.clone()));
        targets.push((name, target.section_name.clone()));
    }
    // What is as it was stays the same value, so that services that it holds for are not compiled again.
    let part = match (fresh.ok(), before) {
        (Some(fresh), Some(before)) if *before == fresh => Some(before),
        (Some(fresh), _) => Some(Arc::new(fresh)),
        (None, before) => before,
    };
    if part.as_ref().is_some_and(|part| part.inbound.is_some()) {
        let reached = targets.iter().flat_map(|(service, _)| members.of_service(service));
        shapes.extend(reached.map(|(uid, _)| (type_url::INBOUND, uid.to_owned())));
    }
    let verdict = Verdict {
        kind: Kind::TrafficPolicy,
        namespace: namespace.clone(),
        name: own.clone(),
        uid: policy.metadata.uid.clone().unwrap_or_default(),
        generation: policy.metadata.generation.unwrap_or_default(),
        parents: vec![ParentVerdict {
            parent: None,
            conditions: vec![accepted, Condition::resolved(&unresolved)],
            shapes,
        }],
        rollout: None,
    };
    Some(Known { names: named, part, targets, verdict: Arc::new(verdict) })
}
