//! What is held, what is in force, and what to subscribe to: the decisions of discovery, without streams, files or clocks of its own.
//!
//! A source feeds [`State::apply`] (one delta of one type), an application's call feeds [`State::ask`], and [`State::settle`] moves
//! what is ready into force. A new version of a service waits ("warms") until the endpoints of every backend it names have been
//! answered, or [`WARMING`] has passed, so that a shift of weights never meets an empty backend. What is refused keeps its last good
//! version; what is idle leaves the stream and stays remembered.

mod memory;
mod subscriptions;

use super::Alias;
use super::held::{HeldService, Slot, accept, accept_service};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use weft_policy::config;
use weft_proto::discovery::Resource;
use weft_proto::{type_url, v1};

/// How long a new version of a service waits for the endpoints of its backends.
pub const WARMING: Duration = Duration::from_secs(5);
/// How long a remembered service that is asked for again waits for a fresh answer before it serves as it is.
pub const REFRESH: Duration = Duration::from_secs(1);
/// Aliases subscribed to at once; beyond it the least recently used unanswered or absent one makes room.
pub const MOST_ASKS: usize = 4096;
/// Services remembered while nobody calls them.
pub const MOST_REMEMBERED: usize = 1024;
/// How long an ask that nobody answers stays subscribed.
const PATIENCE: Duration = Duration::from_secs(60);

/// The types, in the order in which a client subscribes.
pub const TYPES: [&str; 5] =
    [type_url::TRUST_BUNDLE, type_url::MESH_SETTINGS, type_url::INBOUND, type_url::SERVICE, type_url::ENDPOINTS];

/// One response: resources of one type, and names that are gone.
#[derive(Clone, Debug, Default)]
pub struct Delta {
    /// Type URL.
    pub type_url: String,
    /// New or changed.
    pub resources: Vec<Resource>,
    /// Names or aliases that do not exist (any more).
    pub removed: Vec<String>,
}

#[derive(Debug, Default)]
pub(super) struct ServiceSlot {
    /// Last accepted.
    pub latest: Option<Arc<HeldService>>,
    /// In force: what snapshots are made of.
    pub active: Option<Arc<HeldService>>,
    /// Whether the source said anything since it was (re-)subscribed.
    answered: bool,
    /// When `latest` goes into force whatever is missing.
    until: Option<Instant>,
    /// When nobody needed it any more.
    parked: Option<Instant>,
    /// Shared with the entries of snapshots.
    pub used: Arc<AtomicBool>,
    last_used: Option<Instant>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Answer {
    Pending,
    Service(String),
    Absent,
}

#[derive(Debug)]
struct Ask {
    answer: Answer,
    used: Arc<AtomicBool>,
    last_used: Instant,
}

impl ServiceSlot {
    /// Whether nobody needs it and it is only remembered.
    pub fn is_parked(&self) -> bool {
        self.parked.is_some()
    }
}

enum Fronted<'s> {
    All,
    Named(BTreeSet<&'s str>),
}

impl Fronted<'_> {
    fn has(&self, name: &str) -> bool {
        match self {
            Self::All => true,
            Self::Named(names) => names.contains(name),
        }
    }
}

/// Everything discovery knows. Owned by one task.
#[derive(Debug)]
pub struct State {
    /// A file lists everything that exists; xDS answers what was asked.
    complete: bool,
    /// Uid of the own workload and own trust domain, when there is a control plane.
    own: Option<(String, String)>,
    idle: Duration,
    /// Whether the source can answer at the moment; set by the one who holds the stream.
    pub connected: bool,
    pub(super) services: BTreeMap<String, ServiceSlot>,
    pub(super) slices: BTreeMap<String, Slot<config::Endpoints>>,
    pub(super) bundles: BTreeMap<String, Slot<config::TrustBundle>>,
    pub(super) inbound: Slot<config::Inbound>,
    pub(super) settings: Slot<config::Settings>,
    asks: BTreeMap<Alias, Ask>,
    /// Refusals in force, by type and name.
    pub(super) refused: BTreeMap<(String, String), v1::ResourceRefusal>,
}

impl State {
    /// An empty state fed by xDS for the workload `uid` of `trust_domain`; services idle for `idle` leave the stream.
    #[must_use]
    pub fn on_demand(uid: &str, trust_domain: &str, idle: Duration) -> Self {
        Self { own: Some((uid.to_owned(), trust_domain.to_owned())), idle, ..Self::complete() }.incomplete()
    }

    /// An empty state fed by a file.
    #[must_use]
    pub fn complete() -> Self {
        Self {
            complete: true,
            own: None,
            idle: Duration::MAX,
            connected: false,
            services: BTreeMap::new(),
            slices: BTreeMap::new(),
            bundles: BTreeMap::new(),
            inbound: Slot::default(),
            settings: Slot::default(),
            asks: BTreeMap::new(),
            refused: BTreeMap::new(),
        }
    }

    fn incomplete(mut self) -> Self {
        self.complete = false;
        self
    }

    /// Whether what is not listed is absent.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.complete
    }

    /// Takes one response. The good resources are in (and wait or are in force after [`State::settle`]); the refused are returned and
    /// keep their last good version.
    pub fn apply(&mut self, now: Instant, delta: &Delta) -> Vec<v1::ResourceRefusal> {
        let mut refusals = Vec::new();
        for resource in &delta.resources {
            let key = (delta.type_url.clone(), resource.name.clone());
            match self.upsert(now, &delta.type_url, resource) {
                Ok(()) => {
                    self.refused.remove(&key);
                }
                Err(refusal) => {
                    let refusal = v1::ResourceRefusal {
                        name: resource.name.clone(),
                        version: resource.version.clone(),
                        field: refusal.field,
                        reason: refusal.reason,
                    };
                    self.refused.insert(key, refusal.clone());
                    refusals.push(refusal);
                }
            }
        }
        for name in &delta.removed {
            self.refused.remove(&(delta.type_url.clone(), name.clone()));
            self.remove(&delta.type_url, name);
        }
        refusals
    }

    fn upsert(&mut self, now: Instant, type_url: &str, resource: &Resource) -> Result<(), config::Refusal> {
        match type_url {
            type_url::SERVICE => {
                let held = Arc::new(accept_service(resource)?);
                for (alias, ask) in &mut self.asks {
                    let named = held.aliases.contains(alias);
                    if named {
                        ask.answer = Answer::Service(resource.name.clone());
                    } else if ask.answer == Answer::Service(resource.name.clone()) {
                        // It lost that alias.
                        ask.answer = Answer::Absent;
                    }
                }
                let slot = self.services.entry(resource.name.clone()).or_default();
                slot.answered = true;
                let same = slot.active.as_ref().is_some_and(|a| a.held.resource == held.held.resource);
                if !same {
                    slot.until = Some(now + WARMING);
                    slot.latest = Some(held);
                } else {
                    slot.latest = slot.active.clone();
                }
            }
            type_url::ENDPOINTS => {
                let held = accept::<v1::Endpoints, _>(resource, |w| &w.name, config::Endpoints::from_wire)?;
                self.slices.entry(resource.name.clone()).or_default().hold(held);
            }
            type_url::INBOUND => {
                let held = accept::<v1::Inbound, _>(resource, |w| &w.workload, config::Inbound::from_wire)?;
                if let Some((uid, _)) = &self.own
                    && *uid != resource.name
                {
                    return Err(config::Refusal::new("workload", format!("this is the sidecar of {uid}")));
                }
                self.inbound.hold(held);
            }
            type_url::TRUST_BUNDLE => {
                let held = accept::<v1::TrustBundle, _>(resource, |w| &w.trust_domain, config::TrustBundle::from_wire)?;
                self.bundles.entry(resource.name.clone()).or_default().hold(held);
            }
            type_url::MESH_SETTINGS => {
                let held = accept::<v1::MeshSettings, _>(resource, |_| "", config::Settings::from_wire)?;
                self.settings.hold(held);
            }
            other => return Err(config::Refusal::new("", format!("{other} is no type that this sidecar knows"))),
        }
        Ok(())
    }

    fn remove(&mut self, type_url: &str, name: &str) {
        match type_url {
            type_url::SERVICE => {
                if let Some(alias) = Alias::parse(name) {
                    if let Some(ask) = self.asks.get_mut(&alias) {
                        ask.answer = Answer::Absent;
                    }
                    return;
                }
                let slot = self.services.entry(name.to_owned()).or_default();
                (slot.latest, slot.active, slot.until, slot.answered) = (None, None, None, true);
                for ask in self.asks.values_mut().filter(|a| a.answer == Answer::Service(name.to_owned())) {
                    ask.answer = Answer::Absent;
                }
            }
            type_url::ENDPOINTS => self.slices.entry(name.to_owned()).or_default().absent(),
            type_url::INBOUND => self.inbound.absent(),
            // The mesh's own roots and settings are only ever replaced: a control plane that forgot them must not stop the mesh.
            type_url::TRUST_BUNDLE => {
                let slot = self.bundles.entry(name.to_owned()).or_default();
                match &self.own {
                    Some((_, own)) if own != name => slot.absent(),
                    _ => slot.answered = true,
                }
            }
            type_url::MESH_SETTINGS => self.settings.answered = true,
            _ => {}
        }
    }

    /// How long a remembered service waits for a fresh answer: not at all when none can come.
    fn refresh(&self, now: Instant) -> Instant {
        if self.connected { now + REFRESH } else { now }
    }

    /// A call named an alias that no snapshot knows.
    pub fn ask(&mut self, now: Instant, alias: Alias) {
        if self.complete {
            return;
        }
        if let Some(ask) = self.asks.get_mut(&alias) {
            ask.last_used = now;
            return;
        }
        if self.asks.len() >= MOST_ASKS {
            let oldest = self
                .asks
                .iter()
                .filter(|(_, ask)| !matches!(ask.answer, Answer::Service(_)))
                .min_by_key(|(_, ask)| ask.last_used)
                .map(|(alias, _)| alias.clone());
            let Some(oldest) = oldest else { return };
            self.asks.remove(&oldest);
        }
        let refresh = self.refresh(now);
        let has = |slot: &ServiceSlot| slot.latest.as_ref().is_some_and(|s| s.aliases.contains(&alias));
        let answer = match self.services.iter_mut().find(|(_, slot)| has(slot)) {
            Some((name, slot)) => {
                slot.last_used = Some(now);
                if slot.active.is_none() {
                    slot.until = Some(refresh);
                }
                Answer::Service(name.clone())
            }
            None => Answer::Pending,
        };
        self.asks.insert(alias, Ask { answer, used: Arc::default(), last_used: now });
    }

    /// The services that calls are addressed to (rather than those that are only backends).
    fn fronted(&self) -> Fronted<'_> {
        if self.complete {
            return Fronted::All;
        }
        Fronted::Named(
            self.asks
                .values()
                .filter_map(|ask| match &ask.answer {
                    Answer::Service(name) => Some(name.as_str()),
                    _ => None,
                })
                .collect(),
        )
    }

    /// Moves what is ready into force and forgets what nobody needs. Call after every change and when [`State::wake`] says so.
    pub fn settle(&mut self, now: Instant) {
        // Slots must exist before readiness is judged, and activation changes who is needed: two rounds reach the end, because
        // references are followed for one level only.
        for _ in 0..2 {
            self.park(now);
            let fronted = self.fronted();
            let ready: Vec<String> = self
                .services
                .iter()
                .filter(|(_, slot)| slot.parked.is_none())
                .filter(|(name, slot)| match (&slot.latest, &slot.active) {
                    (Some(latest), active) if !active.as_ref().is_some_and(|a| Arc::ptr_eq(a, latest)) => {
                        self.complete
                            || slot.until.is_none_or(|until| now >= until)
                            || self.ready(slot, latest, fronted.has(name))
                    }
                    _ => false,
                })
                .map(|(name, _)| name.clone())
                .collect();
            for name in ready {
                if let Some(slot) = self.services.get_mut(&name) {
                    slot.active = slot.latest.clone();
                    slot.until = None;
                    slot.last_used.get_or_insert(now);
                }
            }
        }
        self.park(now);
    }

    fn ready(&self, slot: &ServiceSlot, latest: &HeldService, fronted: bool) -> bool {
        let answered = |slice: &str| self.slices.get(slice).is_some_and(|s| s.answered);
        let own = slot.answered && latest.slices().all(|s| answered(s));
        own && (!fronted
            || latest.refs.iter().all(|(backend, port)| {
                self.services.get(backend).is_some_and(|slot| {
                    slot.answered && slot.latest.as_ref().is_none_or(|b| b.slices_of(*port).all(|s| answered(s)))
                })
            }))
    }

    /// Takes out of force what neither a call nor a backend reference needs, and makes room for what one does.
    fn park(&mut self, now: Instant) {
        if self.complete {
            self.services.retain(|_, slot| slot.latest.is_some());
            let listed = self.wanted().remove(type_url::ENDPOINTS).unwrap_or_default();
            self.slices.retain(|name, slot| slot.held.is_some() || listed.contains(name));
            return;
        }
        let mut live: BTreeSet<String> = BTreeSet::new();
        for ask in self.asks.values() {
            let Answer::Service(name) = &ask.answer else { continue };
            live.insert(name.clone());
            if let Some(slot) = self.services.get(name) {
                let versions = [&slot.latest, &slot.active].into_iter().flatten();
                live.extend(versions.flat_map(|held| held.refs.iter().map(|(backend, _)| backend.clone())));
            }
        }
        let refresh = self.refresh(now);
        for name in &live {
            let slot = self.services.entry(name.clone()).or_default();
            if slot.parked.take().is_some() && slot.until.is_none() {
                slot.until = Some(refresh);
            }
        }
        for (name, slot) in &mut self.services {
            if !live.contains(name) && slot.parked.is_none() {
                (slot.parked, slot.active, slot.until, slot.answered) = (Some(now), None, None, false);
            }
        }
        self.services.retain(|name, slot| live.contains(name) || slot.latest.is_some());
        while self.services.values().filter(|s| s.parked.is_some()).count() > MOST_REMEMBERED {
            let oldest = self.services.iter().filter_map(|(n, s)| Some((s.parked?, n.clone()))).min();
            let Some((_, oldest)) = oldest else { break };
            self.services.remove(&oldest);
        }
        // Endpoints: those of live services are waited for, those of parked ones remembered, the rest forgotten.
        let (mut wanted, mut remembered) = (BTreeSet::new(), BTreeSet::new());
        for slot in self.services.values() {
            let names = [&slot.latest, &slot.active].into_iter().flatten().flat_map(|held| held.slices());
            let names = names.map(ToString::to_string);
            if slot.parked.is_none() { wanted.extend(names) } else { remembered.extend(names) }
        }
        self.slices.retain(|name, slot| {
            if wanted.contains(name) {
                return true;
            }
            slot.answered = false;
            slot.held.is_some() && remembered.contains(name)
        });
        for name in wanted {
            self.slices.entry(name).or_default();
        }
    }

    /// Lets go of what was not used for the idle time: its aliases leave the stream, the services stay remembered.
    pub fn sweep(&mut self, now: Instant) {
        let mut idle: BTreeSet<String> = BTreeSet::new();
        for (name, slot) in &mut self.services {
            if slot.used.swap(false, Ordering::Relaxed) || slot.last_used.is_none() {
                slot.last_used = Some(now);
            } else if slot.last_used.is_some_and(|t| now.saturating_duration_since(t) >= self.idle) {
                idle.insert(name.clone());
            }
        }
        let patience = self.idle;
        self.asks.retain(|_, ask| {
            if ask.used.swap(false, Ordering::Relaxed) {
                ask.last_used = now;
            }
            let quiet = now.saturating_duration_since(ask.last_used);
            match &ask.answer {
                Answer::Service(name) => !idle.contains(name),
                Answer::Absent => quiet < patience,
                Answer::Pending => quiet < PATIENCE,
            }
        });
    }

    /// When [`State::settle`] has something to do without any event.
    #[must_use]
    pub fn wake(&self) -> Option<Instant> {
        let waiting = |slot: &&ServiceSlot| {
            slot.parked.is_none()
                && slot.latest.as_ref().is_some_and(|l| !slot.active.as_ref().is_some_and(|a| Arc::ptr_eq(a, l)))
        };
        self.services.values().filter(waiting).filter_map(|slot| slot.until).min()
    }
}

#[cfg(test)]
mod tests;
