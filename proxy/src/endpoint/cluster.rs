//! The live endpoints of one backend: who takes the next attempt, and what its outcome means for the ones after it.
//!
//! A [`Cluster`] is shared by all workers and outlives its configuration: load, breakers, limits, verdicts of active checks and the retry
//! budget are kept by endpoint uid when discovery, or DNS, has new endpoints or settings. Choosing is `weft_policy::balance`'s and ejecting `breaker`'s; opening
//! connections is the connector's. Nothing here waits.

use super::connect::ConnectionLimit;
use super::member::{Member, Place, Slot, is_ready, roster};
use super::pick::Pick;
use crate::error::{Kind, ProxyError};
use arc_swap::ArcSwap;
use foldhash::{HashMap, HashMapExt};
use parking_lot::Mutex;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;
use tokio::sync::watch;
use weft_policy::balance::{Balancer, HashKey, Roster};
use weft_policy::breaker::{self, Ejections};
use weft_policy::config::{Backend, Endpoint};
use weft_policy::health::Verdict;
use weft_policy::hedge::{self, Delay};
use weft_policy::limit::{self, Limits};
use weft_policy::retry::{Budget, BudgetSettings};
use weft_policy::route::{BackendName, Request, Rule};
use weft_proto::v1;

/// How often a pick starts over when another worker took the place in between.
const RACES: usize = 4;
/// Rules whose latencies are known.
const HEDGES: usize = 1024;

/// What the calls of a rule take, by its route and its place there.
type Hedges = HashMap<(Arc<str>, usize), Arc<Delay>>;

/// The endpoints of one (service, port) as a target.
pub struct Cluster {
    name: BackendName,
    state: ArcSwap<State>,
    limits: Limits,
    connections: Arc<ConnectionLimit>,
    ejections: Arc<Ejections>,
    /// Held by whoever makes a new state.
    sources: Mutex<Sources>,
    budget: Budget,
    budget_settings: ArcSwap<BudgetSettings>,
    hedges: Mutex<Hedges>,
    /// Whether the backend's external host was asked for, and there was an answer, whichever.
    answered: watch::Sender<bool>,
}

struct State {
    backend: Arc<Backend>,
    members: Vec<Slot>,
    roster: Roster,
    balancer: Arc<Balancer>,
}

/// What a state is made from.
#[derive(Default)]
struct Sources {
    /// Of the backend's slices.
    discovered: Vec<Endpoint>,
    /// What its external host resolves to.
    external: Vec<Endpoint>,
    /// Where this sidecar's workload runs.
    own: Place,
    /// Whether calls go elsewhere when nobody is left: then the last endpoint may be ejected too.
    has_fallback: bool,
}

impl std::fmt::Debug for Cluster {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Cluster({}, {} endpoints)", self.name, self.state.load().members.len())
    }
}

impl Cluster {
    /// A cluster without endpoints. `service` is "namespace/name".
    #[must_use]
    pub fn new(service: Arc<str>, port: u16, backend: Arc<Backend>) -> Arc<Self> {
        let now = Instant::now();
        let budget = BudgetSettings::default();
        Arc::new(Self {
            limits: Limits::new(backend.limits),
            connections: Arc::new(ConnectionLimit::new(backend.limits.connections as usize)),
            ejections: Arc::new(Ejections::new(0)),
            sources: Mutex::default(),
            budget: Budget::new(budget, now),
            budget_settings: ArcSwap::from_pointee(budget),
            hedges: Mutex::default(),
            answered: watch::Sender::new(false),
            name: BackendName { service, port },
            state: ArcSwap::from_pointee(State {
                balancer: Arc::new(Balancer::new(backend.balancer)),
                backend,
                members: Vec::new(),
                roster: Roster::new([]),
            }),
        })
    }

    /// Takes new settings and the whole set of discovered endpoints. Load and breakers of uids that stay are kept; an endpoint listed
    /// twice counts once.
    pub fn update(&self, backend: Arc<Backend>, endpoints: impl IntoIterator<Item = Endpoint>) {
        let mut sources = self.sources.lock();
        sources.discovered = endpoints.into_iter().collect();
        if backend.external.is_none() {
            sources.external.clear();
        }
        self.renew(&sources, backend);
    }

    /// Takes what the backend's external host resolves to now.
    pub fn resolved(&self, endpoints: Vec<Endpoint>) {
        {
            let mut sources = self.sources.lock();
            if sources.external != endpoints {
                sources.external = endpoints;
                self.renew(&sources, self.backend());
            }
        }
        self.answered.send_replace(true);
    }

    /// The backend's external host does not resolve now: what it resolved to before holds.
    pub fn unresolvable(&self) {
        self.answered.send_replace(true);
    }

    /// Follows whether the backend's external host was answered for; `None` where there is no such host.
    pub fn resolution(&self) -> Option<watch::Receiver<bool>> {
        self.backend().external.is_some().then(|| self.answered.subscribe())
    }

    /// Address of some endpoint.
    pub fn address(&self) -> Option<IpAddr> {
        self.state.load().members.first().map(|member| member.endpoint.address.ip())
    }

    /// Says where this sidecar's workload runs, and whether calls go elsewhere when nobody is left here.
    pub fn situate(&self, own: &Place, has_fallback: bool) {
        let mut sources = self.sources.lock();
        if sources.own != *own || sources.has_fallback != has_fallback {
            sources.own = own.clone();
            sources.has_fallback = has_fallback;
            self.renew(&sources, self.backend());
        }
    }

    /// Takes the verdict of active checks on an endpoint.
    pub fn judge(&self, uid: &str, verdict: Verdict) {
        let sources = self.sources.lock();
        let state = self.state.load_full();
        if let Some(member) = state.members.iter().find(|member| &*member.endpoint.uid == uid) {
            let before = member.health();
            member.verdict.set(verdict);
            if member.health() != before {
                tracing::info!(endpoint = uid, backend = %self.name, ?verdict, "active health check");
                self.renew(&sources, Arc::clone(&state.backend));
            }
        }
    }

    /// Makes a new state. Under the lock of `sources`.
    fn renew(&self, sources: &Sources, backend: Arc<Backend>) {
        let endpoints = sources.discovered.iter().chain(&sources.external).cloned();
        let now = Instant::now();
        let before = self.state.load_full();
        // Who is there from the beginning is not new.
        let first = before.members.is_empty();
        let mut known: HashMap<&str, &Arc<Member>> = HashMap::with_capacity(before.members.len());
        known.extend(before.members.iter().map(|member| (&*member.endpoint.uid, &member.0)));
        let mut members: Vec<Slot> = Vec::new();
        let mut seen: HashMap<Arc<str>, ()> = HashMap::new();
        for endpoint in endpoints {
            if seen.insert(Arc::clone(&endpoint.uid), ()).is_some() {
                continue;
            }
            let old = known.remove(&*endpoint.uid);
            if let Some(old) = old.filter(|old| before.backend == backend && old.is_current(&endpoint)) {
                members.push(Slot(Arc::clone(old)));
                continue;
            }
            match Member::new(endpoint, &backend, (&self.ejections, &self.connections), old, now, first) {
                Ok(member) => members.push(Slot(Arc::new(member))),
                Err(error) => tracing::warn!(backend = %self.name, "an endpoint is left out: {error}"),
            }
        }
        for gone in known.values() {
            gone.breaker.retire();
        }
        self.ejections.resize(members.len(), sources.has_fallback);
        self.limits.update(backend.limits);
        self.connections.set(backend.limits.connections as usize);
        let balancer = if before.backend.balancer == backend.balancer {
            Arc::clone(&before.balancer)
        } else {
            Arc::new(Balancer::new(backend.balancer))
        };
        let roster = roster(&before.roster, &backend, &sources.own, &members, now);
        self.state.store(Arc::new(State { backend, members, roster, balancer }));
    }

    /// The state in force, made anew where time alone has outdated it: an endpoint is warming up.
    fn state(&self, now: Instant) -> arc_swap::Guard<Arc<State>> {
        let state = self.state.load();
        if state.roster.next_change().is_none_or(|at| now < at) {
            return state;
        }
        // Whoever holds the lock makes a new one anyway.
        if let Some(sources) = self.sources.try_lock() {
            let before = self.state.load_full();
            let roster = roster(&before.roster, &before.backend, &sources.own, &before.members, now);
            let (backend, balancer) = (Arc::clone(&before.backend), Arc::clone(&before.balancer));
            self.state.store(Arc::new(State { backend, members: before.members.clone(), roster, balancer }));
        }
        self.state.load()
    }

    /// What this is the endpoint set of.
    #[must_use]
    pub fn name(&self) -> &BackendName {
        &self.name
    }

    /// The settings in force.
    #[must_use]
    pub fn backend(&self) -> Arc<Backend> {
        Arc::clone(&self.state.load().backend)
    }

    /// The endpoints in force, in discovery's order.
    #[must_use]
    pub fn members(&self) -> Vec<Arc<Member>> {
        self.state.load().members.iter().map(|member| Arc::clone(&member.0)).collect()
    }

    /// Whether any endpoint may be drawn at all, breakers aside.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.state.load().roster.is_empty()
    }

    /// The budget of retries for calls addressed to this (service, port), under the settings of its frontend.
    #[must_use]
    pub fn budget(&self, settings: BudgetSettings, now: Instant) -> &Budget {
        if **self.budget_settings.load() != settings {
            self.budget.update(settings, now);
            self.budget_settings.store(Arc::new(settings));
        }
        &self.budget
    }

    /// What the calls of a rule that are addressed to this (service, port) take, for hedging them.
    #[must_use]
    pub fn hedge(&self, rule: &Rule, settings: hedge::Settings) -> Arc<Delay> {
        let mut hedges = self.hedges.lock();
        if hedges.len() >= HEDGES {
            // Rules come and go; what was learnt of those that stay is learnt again in seconds.
            hedges.clear();
        }
        let key = (Arc::clone(&rule.route), rule.index);
        let delay = hedges.entry(key).or_insert_with(|| Arc::new(Delay::new(settings, Instant::now())));
        delay.update(settings);
        Arc::clone(delay)
    }

    /// Chooses the endpoint of an attempt and takes its places: in the backend's bulkhead, before the breaker, in the load. Endpoints whose
    /// uid is in `tried` are taken only when there is no other.
    ///
    /// # Errors
    /// [`Kind::Overflow`], [`Kind::NoEndpoint`] or [`Kind::BreakerOpen`].
    pub fn pick(&self, now: Instant, random: &mut impl FnMut() -> u64, tried: &[Arc<str>]) -> Result<Pick, ProxyError> {
        self.pick_keyed(now, random, tried, None)
    }

    /// The hash of what a hashing balancer goes by; `None` under any other, and for a call without any of the keys.
    pub fn key<R: Request + ?Sized>(&self, request: &R, source: Option<IpAddr>) -> Option<u64> {
        let state = self.state.load();
        let hashes = state.balancer.algorithm().hashes();
        hashes.then(|| HashKey::of(&state.backend.hash, request, source)).flatten()
    }

    /// As [`Cluster::pick`] for a call with this key.
    ///
    /// # Errors
    /// Those of [`Cluster::pick`].
    pub fn pick_keyed(
        &self,
        now: Instant,
        random: &mut impl FnMut() -> u64,
        tried: &[Arc<str>],
        key: Option<u64>,
    ) -> Result<Pick, ProxyError> {
        let request = self.limits.requests.enter().map_err(|overflow| {
            ProxyError::because(Kind::Overflow, format!("{} has {} calls under way", self.name, overflow.limit))
        })?;
        let state = self.state(now);
        if state.roster.is_empty() {
            return Err(ProxyError::because(Kind::NoEndpoint, format!("{} has no ready endpoint", self.name)));
        }
        for _ in 0..RACES {
            let avoid = |member: &Slot| tried.iter().any(|uid| *uid == member.endpoint.uid);
            let picked = state.balancer.pick_keyed(&state.roster, &state.members, now, avoid, key, random);
            let Some(index) = picked else { break };
            let Some(member) = state.members.get(index) else { break };
            if let Some(permit) = member.breaker.admit(now, unit(random())) {
                return Ok(self.picked(member, permit, request, now));
            }
        }
        Err(ProxyError::because(Kind::BreakerOpen, format!("every endpoint of {} is ejected", self.name)))
    }

    /// The endpoint `uid` for an attempt, if it is ready and takes calls.
    pub fn pick_one(&self, now: Instant, random: u64, uid: &str) -> Option<Pick> {
        let request = self.limits.requests.enter().ok()?;
        let state = self.state.load();
        let member = state.members.iter().find(|member| &*member.endpoint.uid == uid)?;
        let permit = member.breaker.admit(now, unit(random)).filter(|_| is_ready(member.health()))?;
        Some(self.picked(member, permit, request, now))
    }

    fn picked(&self, member: &Slot, permit: breaker::Permit, request: limit::Permit, now: Instant) -> Pick {
        Pick::new(&member.0, permit, request, &self.limits.pending, now)
    }

    /// The breakers of all endpoints.
    #[must_use]
    pub fn breakers(&self, now: Instant) -> Vec<v1::BreakerStatus> {
        let state = self.state.load();
        let status = |member: &Slot| v1::BreakerStatus {
            backend: self.name.to_string(),
            endpoint: member.endpoint.uid.to_string(),
            state: match member.breaker.state(now) {
                breaker::State::Closed => v1::BreakerState::Closed,
                breaker::State::Open => v1::BreakerState::Open,
                breaker::State::HalfOpen => v1::BreakerState::HalfOpen,
            }
            .into(),
            opened: member.breaker.opened(),
        };
        state.members.iter().map(status).collect()
    }
}

/// Uniform in `[0, 1)` from a uniform `u64`.
#[must_use]
#[expect(clippy::cast_precision_loss, reason = "53 bits are exactly what an f64 holds")]
pub fn unit(random: u64) -> f64 {
    (random >> 11) as f64 / (1_u64 << 53) as f64
}

#[cfg(test)]
#[path = "cluster_tests.rs"]
mod tests;
