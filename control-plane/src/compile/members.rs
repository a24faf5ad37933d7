//! Who belongs to what, kept as the world changes: workloads to services, and addresses to workloads.
//!
//! Membership: a workload belongs to the services that it names and to those whose selector matches its labels; one that registered
//! itself only to services that its join token allowed, since otherwise a label would be enough for `cart` to receive `payments`' calls.

use super::endpoints::protocol;
use super::names;
use crate::kinds::{Protocol, Service, WorkloadPort};
use crate::world::{Origin, Workload, World, own_address};
use k8s_openapi::api::core::v1::ServicePort;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;
use weft_proto::v1;

/// Annotation of a workload that registered itself: the services that its join token allows, separated by commas; `*` means any.
pub const ALLOWED_SERVICES: &str = "weft.mesh/allowed-services";

/// A service's port and the port of a workload that serves it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Port of the service.
    pub service_port: u16,
    /// Port of the workload.
    pub port: u16,
    /// What is spoken there.
    pub protocol: v1::Protocol,
}

/// A service that a workload belongs to, and what of it that service's ports lead to.
#[derive(Clone, Debug, PartialEq)]
pub struct Belongs {
    /// "namespace/name" of the service.
    pub service: Arc<str>,
    /// What of the workload its ports lead to.
    pub targets: Arc<[Target]>,
}

/// Uids of members, in order, with what of them the service's ports lead to.
type OfService = BTreeMap<Arc<str>, Arc<[Target]>>;

/// Who belongs to what, both ways.
#[derive(Clone, Debug, Default)]
pub struct Members {
    /// By service.
    by_service: HashMap<Arc<str>, OfService>,
    /// Workload uid → services it belongs to, in order of name.
    by_workload: HashMap<Arc<str>, Arc<[Belongs]>>,
    /// By namespace, of those that were asked for since their services changed.
    candidates: HashMap<String, Arc<Candidates>>,
}

/// What a change of objects means for memberships.
#[derive(Debug, Default)]
pub struct Touched {
    /// Services whose members, or what is known of those, may be others than before.
    pub services: BTreeSet<String>,
    /// Workloads that may belong to other services than before, or to services that changed.
    pub workloads: BTreeSet<String>,
}

impl Members {
    /// Follows the world: `services` and `workloads` are those that changed, came or went since the last time.
    pub fn update(&mut self, world: &World, services: &BTreeSet<String>, workloads: &BTreeSet<String>) -> Touched {
        let mut touched = Touched { services: services.clone(), workloads: workloads.clone() };
        // Another selector may mean any workload of its namespace.
        let of_services: BTreeSet<&str> = services.iter().map(|s| namespace_of(s)).collect();
        let mut again: BTreeSet<&str> = workloads.iter().map(String::as_str).collect();
        for namespace in &of_services {
            again.extend(world.workloads_in(namespace).map(|(uid, _)| &**uid));
        }
        for namespace in &of_services {
            self.candidates.remove(*namespace);
        }
        let mut last: Option<Arc<[Belongs]>> = None;
        for uid in again {
            let of_namespace = self.candidates(world, namespace_of(uid));
            let mut is = world.workloads.get(uid).map(|w| of_namespace.belongs(world, w)).unwrap_or_default();
            let (uid_shared, was) = match self.by_workload.get_key_value(uid) {
                Some((uid, was)) => (uid.clone(), &**was),
                None => (shared(world, uid), &[][..]),
            };
            let concerned = workloads.contains(uid);
            if !concerned && *is == *was {
                if was.iter().any(|b| services.contains(&*b.service)) {
                    touched.workloads.insert(uid.to_owned());
                }
                continue;
            }
            touched.workloads.insert(uid.to_owned());
            touched.services.extend(was.iter().chain(&is).map(|b| b.service.to_string()));
            for gone in was {
                if let Some(of_service) = self.by_service.get_mut(&gone.service) {
                    of_service.remove(uid);
                    if of_service.is_empty() {
                        self.by_service.remove(&gone.service);
                    }
                }
            }
            for belongs in &mut is {
                // Of what members lead to there is one copy for all that are alike.
                let of_service = self.by_service.entry(belongs.service.clone()).or_default();
                let alike = of_service.first_key_value().filter(|(_, targets)| **targets == belongs.targets);
                belongs.targets = alike.map_or_else(|| belongs.targets.clone(), |(_, targets)| targets.clone());
                of_service.insert(uid_shared.clone(), belongs.targets.clone());
            }
            if is.is_empty() {
                self.by_workload.remove(uid);
                continue;
            }
            // Nor is there more than one of what they belong to, for those that follow upon each other.
            let is = last.take_if(|last| **last == *is).unwrap_or_else(|| is.into());
            last = Some(is.clone());
            self.by_workload.insert(uid_shared, is);
        }
        // Nothing is kept of namespaces that may have gone.
        self.candidates.retain(|_, candidates| !candidates.by_label.is_empty());
        touched
    }

    fn candidates(&mut self, world: &World, namespace: &str) -> Arc<Candidates> {
        if let Some(known) = self.candidates.get(namespace) {
            return known.clone();
        }
        let made = Arc::new(Candidates::of(world, namespace));
        self.candidates.insert(namespace.to_owned(), made.clone());
        made
    }

    /// Members of a service in order of uid.
    pub fn of_service(&self, service: &str) -> impl Iterator<Item = (&str, &[Target])> {
        self.by_service.get(service).into_iter().flatten().map(|(uid, targets)| (&**uid, &**targets))
    }

    /// The workload with all the ports that it serves: of a pod, those that Services lead to although it does not list them.
    #[must_use]
    pub fn opened(&self, uid: &str, workload: &Arc<Workload>) -> Arc<Workload> {
        if workload.origin != Origin::Pod {
            return workload.clone();
        }
        let mut more: Vec<u16> = self.of_workload(uid).iter().flat_map(|b| b.targets.iter().map(|t| t.port)).collect();
        more.retain(|number| workload.spec.ports.iter().all(|port| port.port != *number));
        if more.is_empty() {
            return workload.clone();
        }
        more.sort_unstable();
        more.dedup();
        let more =
            more.into_iter().map(|port| WorkloadPort { name: None, port, protocol: Protocol::Detect, local: None });
        let mut opened = Workload::clone(workload);
        opened.spec.ports = opened.spec.ports.iter().cloned().chain(more).collect();
        Arc::new(opened)
    }

    /// Services of a workload.
    #[must_use]
    pub fn of_workload(&self, uid: &str) -> &[Belongs] {
        self.by_workload.get(uid).map_or(&[], |belongs| belongs)
    }
}

/// The uid of a workload, as it stands in the world: of names there is one copy.
fn shared(world: &World, uid: &str) -> Arc<str> {
    world.workloads.get_key_value(uid).map_or_else(|| uid.into(), |(uid, _)| uid.clone())
}

fn namespace_of(name: &str) -> &str {
    name.split('/').next().unwrap_or_default()
}

/// Key → value → services, "namespace/name".
type ByLabel = HashMap<Box<str>, HashMap<Box<str>, Vec<Arc<str>>>>;

/// The services of a namespace by what selects: each is filed under the pair of its selector that fewest others ask for, so that a workload
/// is compared with few.
#[derive(Debug)]
struct Candidates {
    namespace: Box<str>,
    by_label: ByLabel,
}

impl Candidates {
    fn of(world: &World, namespace: &str) -> Self {
        let prefix = format!("{namespace}/");
        let all = || {
            world.services.with_prefix(&prefix).filter_map(|(name, service)| {
                Some((name, service.spec.as_ref()?.selector.as_ref().filter(|s| !s.is_empty())?))
            })
        };
        let mut asked: HashMap<(&str, &str), usize> = HashMap::new();
        for pair in all().flat_map(|(_, selector)| selector) {
            *asked.entry((pair.0, pair.1)).or_default() += 1;
        }
        let mut by_label = ByLabel::new();
        for (name, selector) in all() {
            let pairs = selector.iter().map(|(k, v)| (k.as_str(), v.as_str()));
            if let Some((key, value)) = pairs.min_by_key(|pair| asked.get(pair)) {
                let of_key = by_label.entry(key.into()).or_default();
                of_key.entry(value.into()).or_default().push(name.clone());
            }
        }
        Self { namespace: namespace.into(), by_label }
    }

    fn belongs(&self, world: &World, workload: &Workload) -> Vec<Belongs> {
        let mut found: BTreeMap<&Arc<str>, &Service> = BTreeMap::new();
        let labelled = workload.labels.iter().filter_map(|(key, value)| self.by_label.get(key)?.get(value));
        let named = workload.spec.services.iter().map(|own| names::namespaced(&self.namespace, own));
        let mut candidate = |name: &str| {
            found.extend(world.services.get_key_value(name).map(|(name, service)| (name, &**service)));
        };
        labelled.flatten().for_each(|name| candidate(name));
        named.for_each(|name| candidate(&name));
        let members = found.into_iter().filter(|(_, service)| is_member(service, workload));
        members.map(|(n, s)| Belongs { service: n.clone(), targets: targets(s, workload).into() }).collect()
    }
}

/// Every service that a workload of the world belongs to, with that workload. Workloads are in order of uid.
pub fn memberships(world: &World, mut each: impl FnMut(&str, &Workload)) {
    let mut candidates: Option<Candidates> = None;
    for (uid, workload) in &world.workloads {
        let namespace = namespace_of(uid);
        let of_namespace = match &mut candidates {
            Some(found) if *found.namespace == *namespace => found,
            other => other.insert(Candidates::of(world, namespace)),
        };
        for belongs in of_namespace.belongs(world, workload) {
            each(&belongs.service, workload);
        }
    }
}

/// Whether the workload is an endpoint of the service. Both are of one namespace.
#[must_use]
pub fn is_member(service: &Service, workload: &Workload) -> bool {
    let Some(name) = service.metadata.name.as_deref() else { return false };
    // It stands for a host outside, whatever it selects.
    if super::service::is_external_name(service) {
        return false;
    }
    let allowed = workload.annotations.get(ALLOWED_SERVICES);
    if allowed.is_some_and(|list| !list.split(',').any(|s| s == "*" || s == name)) {
        return false;
    }
    if workload.spec.services.iter().any(|s| s == name) {
        return true;
    }
    let selector = service.spec.as_ref().and_then(|s| s.selector.as_ref()).filter(|s| !s.is_empty());
    selector.is_some_and(|s| s.iter().all(|(k, v)| workload.labels.get(k) == Some(v)))
}

fn targets(service: &Service, workload: &Workload) -> Vec<Target> {
    let mut out = Vec::new();
    for port in super::service::declared(service) {
        let Ok(number) = u16::try_from(port.port) else { continue };
        let by_name = |name: &str| workload.spec.ports.iter().find(|p| p.name.as_deref() == Some(name));
        let by_number = |n: i32| workload.spec.ports.iter().find(|p| i32::from(p.port) == n);
        let found = match &port.target_port {
            // A slice names its ports as the Service does.
            _ if workload.origin == Origin::Slice => match port.name.as_deref().filter(|name| !name.is_empty()) {
                Some(name) => by_name(name),
                None => workload.spec.ports.iter().find(|p| p.name.is_none()),
            },
            Some(IntOrString::String(name)) => by_name(name),
            Some(IntOrString::Int(n)) if *n != port.port => by_number(*n),
            // The default, "the same number"; off Kubernetes instances share an address and differ in ports, so that the name serves too.
            _ => by_number(port.port).or_else(|| port.name.as_deref().and_then(by_name)),
        };
        if let Some(found) = found {
            out.push(Target { service_port: number, port: found.port, protocol: protocol(found.protocol) });
        } else if let Some(n) = unlisted(workload, port)
            && let Ok(port) = u16::try_from(n)
        {
            out.push(Target { service_port: number, port, protocol: v1::Protocol::Detect });
        }
    }
    out
}

/// The port that a Service means although the workload does not list it: of one without a sidecar, where nobody checks, and of a pod, whose
/// list is for people.
fn unlisted(workload: &Workload, port: &ServicePort) -> Option<i32> {
    match (workload.origin, &port.target_port) {
        (Origin::Slice, _) => None,
        (Origin::Pod, Some(IntOrString::Int(n))) => Some(*n),
        (Origin::Pod, None) => Some(port.port),
        (Origin::Object, Some(IntOrString::Int(n))) if workload.spec.tunnel.is_none() => Some(*n),
        (Origin::Pod | Origin::Object, _) => None,
    }
}

/// Which workloads are alone at an address: a call to that address means them.
#[derive(Clone, Debug, Default)]
pub struct Addresses(HashMap<IpAddr, There>);

/// Who is at an address, in any order.
#[derive(Clone, Debug)]
enum There {
    /// Mostly there is one.
    One(Arc<str>),
    More(Box<[Arc<str>]>),
}

impl There {
    fn all(&self) -> &[Arc<str>] {
        match self {
            Self::One(uid) => std::slice::from_ref(uid),
            Self::More(uids) => uids,
        }
    }

    fn of(mut uids: Vec<Arc<str>>) -> Option<Self> {
        match uids.len() {
            0 => None,
            1 => uids.pop().map(Self::One),
            _ => Some(Self::More(uids.into())),
        }
    }
}

impl Addresses {
    /// Follows the world as it was `before`: `workloads` changed, came or went. Returns those, and whoever shares an address with one of
    /// them or did.
    pub fn update(&mut self, before: &World, world: &World, workloads: &BTreeSet<String>) -> BTreeSet<String> {
        let mut touched = workloads.clone();
        for uid in workloads {
            let address = |world: &World| world.workloads.get(uid).and_then(|w| own_address(w));
            let (was, is) = (address(before), address(world));
            if is == was {
                continue;
            }
            if let Some(address) = was {
                let mut there = self.0.remove(&address).map_or_else(Vec::new, |there| there.all().to_vec());
                there.retain(|other| **other != **uid);
                touched.extend(there.iter().map(|other| other.to_string()));
                self.0.extend(There::of(there).map(|there| (address, there)));
            }
            if let Some(address) = is {
                let mut there = self.0.remove(&address).map_or_else(Vec::new, |there| there.all().to_vec());
                touched.extend(there.iter().map(|other| other.to_string()));
                there.push(shared(world, uid));
                self.0.extend(There::of(there).map(|there| (address, there)));
            }
        }
        touched
    }

    /// The workload, if it is alone at its address.
    #[must_use]
    pub fn alone<'w>(&self, world: &'w World, uid: &str) -> Option<&'w Arc<Workload>> {
        let workload = world.workloads.get(uid)?;
        matches!(self.0.get(&own_address(workload)?)?, There::One(_)).then_some(workload)
    }
}
