//! The live endpoints of one backend: who takes the next attempt, and what its outcome means for the ones after it.
//!
//! A [`Cluster`] is shared by all workers and outlives its configuration: load, breakers, limits, verdicts of active checks and the retry
//! budget are kept by endpoint uid when discovery, or DNS, has new endpoints or settings. Choosing is `weft_policy::balance`'s and ejecting `breaker`'s; opening
//! connections is the connector's. Nothing here waits.

use super::connect::{ConnectionLimit, Target, TunnelTo};
use crate::error::{Kind, ProxyError};
use arc_swap::ArcSwap;
use foldhash::{HashMap, HashMapExt};
use parking_lot::Mutex;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};
use weft_certs::SpiffeId;
use weft_policy::balance::{self, Balancer, HashKey, InFlight, Load, Locality, Roster, Seat, View};
use weft_policy::breaker::{self, Breaker, Ejections, Outcome, Transition};
use weft_policy::config::{Backend, Endpoint, Health};
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
    hedges: Mutex<HashMap<(Arc<str>, usize), Arc<Delay>>>,
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

/// Region and zone; empty: not known.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// Region.
    pub region: Arc<str>,
    /// Zone in the region.
    pub zone: Arc<str>,
}

impl Place {
    fn locality(&self) -> Locality<'_> {
        Locality { region: &self.region, zone: &self.zone }
    }
}

/// One endpoint, with what is known of it.
pub struct Member {
    /// As discovery gave it.
    pub endpoint: Endpoint,
    target: Target,
    load: Arc<Load>,
    breaker: Arc<Breaker>,
    /// What active checks make of it.
    verdict: Arc<AtomicCell>,
    /// Whether it was ready when it was made.
    ready: bool,
    /// Since when it has been ready, where that was seen to begin.
    ready_since: Option<Instant>,
}

/// A verdict that is read by all workers.
#[derive(Debug, Default)]
struct AtomicCell(AtomicU8);

impl AtomicCell {
    fn get(&self) -> Verdict {
        match self.0.load(Ordering::Relaxed) {
            1 => Verdict::Healthy,
            2 => Verdict::Unhealthy,
            _ => Verdict::Unknown,
        }
    }

    fn set(&self, verdict: Verdict) {
        let byte = match verdict {
            Verdict::Unknown => 0,
            Verdict::Healthy => 1,
            Verdict::Unhealthy => 2,
        };
        self.0.store(byte, Ordering::Relaxed);
    }
}

impl Member {
    /// Whether it may get new calls: discovery's word and that of active checks together.
    #[must_use]
    pub fn health(&self) -> Health {
        self.verdict.get().applied_to(self.endpoint.health)
    }

    /// What a connection to it needs.
    #[must_use]
    pub fn target(&self) -> &Target {
        &self.target
    }
}

fn is_ready(health: Health) -> bool {
    matches!(health, Health::Ready | Health::Unknown)
}

/// A member in its place of the roster.
#[derive(Clone)]
struct Slot(Arc<Member>);

impl std::ops::Deref for Slot {
    type Target = Arc<Member>;
    fn deref(&self) -> &Arc<Member> {
        &self.0
    }
}

impl View for Slot {
    fn load(&self) -> &Load {
        &self.0.load
    }

    fn available(&self, now: Instant) -> bool {
        self.0.breaker.available(now)
    }
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
        let mut sources = self.sources.lock();
        if sources.external != endpoints {
            sources.external = endpoints;
            self.renew(&sources, self.backend());
        }
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
            if let Some(old) = old.filter(|old| {
                old.endpoint == endpoint && before.backend == backend && old.ready == is_ready(old.health())
            }) {
                members.push(Slot(Arc::clone(old)));
                continue;
            }
            match self.member(endpoint, &backend, old, now, first) {
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
        let roster = roster(&backend, &sources.own, &members, now);
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
            let roster = roster(&before.backend, &sources.own, &before.members, now);
            let (backend, balancer) = (Arc::clone(&before.backend), Arc::clone(&before.balancer));
            self.state.store(Arc::new(State { backend, members: before.members.clone(), roster, balancer }));
        }
        self.state.load()
    }

    fn member(
        &self,
        endpoint: Endpoint,
        backend: &Backend,
        old: Option<&Arc<Member>>,
        now: Instant,
        first: bool,
    ) -> Result<Member, weft_certs::spiffe::ParseError> {
        let tunnel = endpoint.tunnel.as_ref().map(|tunnel| {
            Ok::<_, weft_certs::spiffe::ParseError>(TunnelTo {
                addr: tunnel.address,
                identity: SpiffeId::new(&tunnel.identity)?,
                server_name: Arc::clone(&tunnel.server_name),
                authority: (&*tunnel.authority).into(),
            })
        });
        let target = Target {
            uid: Arc::clone(&endpoint.uid),
            addr: endpoint.address,
            tunnel: tunnel.transpose()?,
            connect_timeout: backend.connect_timeout,
            connections: Arc::clone(&self.connections),
        };
        let (load, breaker, verdict) = match old {
            Some(old) => {
                old.breaker.update(backend.breaker.clone(), now);
                (Arc::clone(&old.load), Arc::clone(&old.breaker), Arc::clone(&old.verdict))
            }
            None => (
                Arc::new(Load::new(now)),
                Arc::new(Breaker::new(backend.breaker.clone(), Arc::clone(&self.ejections))),
                Arc::default(),
            ),
        };
        let mut member = Member { endpoint, target, load, breaker, verdict, ready: false, ready_since: None };
        member.ready = is_ready(member.health());
        member.ready_since = match old {
            _ if !member.ready => None,
            Some(old) if old.ready => old.ready_since,
            Some(_) => Some(now),
            None => (!first).then_some(now),
        };
        Ok(member)
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
        Pick {
            member: Arc::clone(&member.0),
            in_flight: Some(member.load.begin()),
            permit: Some(permit),
            request: Some(request),
            pending: None,
            pending_limit: Arc::clone(&self.limits.pending),
            started: now,
            latency_from: now,
        }
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

fn roster(backend: &Backend, own: &Place, members: &[Slot], now: Instant) -> Roster {
    let seats: Vec<Seat<'_>> = (members.iter())
        .map(|member| Seat {
            id: &member.endpoint.uid,
            health: member.health(),
            weight: member.endpoint.weight,
            locality: Locality { region: &member.endpoint.region, zone: &member.endpoint.zone },
            ready_since: member.ready_since,
        })
        .collect();
    let plan = balance::Plan {
        algorithm: backend.balancer,
        own: if backend.ignore_locality { Locality::default() } else { own.locality() },
        panic_percent: backend.panic_percent,
        slow_start: backend.slow_start,
    };
    Roster::plan(&plan, &seats, now)
}

/// Uniform in `[0, 1)` from a uniform `u64`.
#[must_use]
#[expect(clippy::cast_precision_loss, reason = "53 bits are exactly what an f64 holds")]
pub fn unit(random: u64) -> f64 {
    (random >> 11) as f64 / (1_u64 << 53) as f64
}

/// An endpoint that was chosen for one attempt, and the places that the attempt holds. Dropping it releases them; without a report
/// nothing is held against the endpoint.
pub struct Pick {
    member: Arc<Member>,
    in_flight: Option<InFlight>,
    permit: Option<breaker::Permit>,
    request: Option<limit::Permit>,
    pending: Option<limit::Permit>,
    pending_limit: Arc<limit::Bulkhead>,
    started: Instant,
    latency_from: Instant,
}

impl std::fmt::Debug for Pick {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Pick({})", self.member.endpoint.uid)
    }
}

impl Pick {
    /// Where to connect to.
    #[must_use]
    pub fn target(&self) -> &Target {
        &self.member.target
    }

    /// The endpoint.
    #[must_use]
    pub fn endpoint(&self) -> &Endpoint {
        &self.member.endpoint
    }

    /// Whether its hop is mutually authenticated.
    #[must_use]
    pub fn is_mtls(&self) -> bool {
        self.member.target.tunnel.is_some()
    }

    /// Counts the attempt as waiting for a connection, until [`Pick::connected`].
    ///
    /// # Errors
    /// [`Kind::Overflow`] when too many wait.
    pub fn connecting(&mut self) -> Result<(), ProxyError> {
        let permit = self.pending_limit.enter().map_err(|overflow| {
            ProxyError::because(Kind::Overflow, format!("{} calls wait for a connection", overflow.limit))
        })?;
        self.pending = Some(permit);
        Ok(())
    }

    /// The attempt has its connection.
    pub fn connected(&mut self) {
        self.pending = None;
    }

    /// The request goes out now: its latency counts from here. What a connection cost is paid once, and says nothing of the calls that
    /// follow on it: an endpoint would be shunned for its handshake until that peak has decayed.
    pub fn sending(&mut self, now: Instant) {
        self.latency_from = now;
    }

    /// How long the request has been out.
    #[must_use]
    pub fn latency(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.latency_from)
    }

    /// The response head has come: its latency goes into the average.
    pub fn answered(&self, now: Instant) {
        self.member.load.observe(now.saturating_duration_since(self.latency_from), now);
    }

    /// The answer was a failure. How soon it came is not how fast the endpoint is: it must not look fast, or it would attract calls, nor
    /// slow, or the breaker would not see the failures that it needs. Only where the cap keeps the breaker closed the balancer avoids it.
    pub fn failed(&self, now: Instant) {
        self.held_against(now, self.member.breaker.is_held());
    }

    /// The attempt failed before an answer: the same, and where nobody asked for a breaker the balancer avoids the endpoint, too.
    pub fn unanswered(&self, now: Instant) {
        let breaker = &self.member.breaker;
        self.held_against(now, breaker.is_held() || !breaker.is_enabled());
    }

    /// What is avoided counts for no less than the connect timeout.
    fn held_against(&self, now: Instant, avoid: bool) {
        if avoid {
            let took = now.saturating_duration_since(self.latency_from);
            self.member.load.observe(took.max(self.member.target.connect_timeout), now);
        } else {
            self.member.load.hold(now);
        }
    }

    /// Whether this attempt probes a breaker that is half-open: it is the only call that the endpoint gets until it is judged.
    #[must_use]
    pub fn is_probe(&self) -> bool {
        self.permit.as_ref().is_some_and(breaker::Permit::is_probe)
    }

    /// Tells the breaker how the attempt ended. Once; later reports are ignored.
    pub fn report(&mut self, outcome: Outcome, now: Instant, random: u64) {
        let Some(permit) = self.permit.take() else { return };
        let uid = &self.member.endpoint.uid;
        let transition = permit.report(outcome, now, unit(random));
        if transition.is_some() {
            // Whoever comes back is another: what it was like before would keep calls, and the probe, away from it.
            self.member.load.forget();
        }
        match transition {
            Some(Transition::Opened) => tracing::info!(endpoint = %uid, "breaker opened"),
            Some(Transition::Reopened) => tracing::info!(endpoint = %uid, "breaker stays open: the probe failed"),
            Some(Transition::Closed) => tracing::info!(endpoint = %uid, "breaker closed"),
            None => {}
        }
    }

    /// When the attempt began.
    #[must_use]
    pub const fn began(&self) -> Instant {
        self.started
    }

    /// Gives back the places of a call, when what goes on is a long-lived stream of bytes that only counts as a connection.
    pub fn release_call(&mut self) {
        self.request = None;
        self.in_flight = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;
    use weft_policy::config::{Health, Service};

    fn endpoint(uid: &str, port: u16) -> Endpoint {
        Endpoint {
            uid: uid.into(),
            address: ([127, 0, 0, 1], port).into(),
            tunnel: None,
            health: Health::Ready,
            weight: 1,
            region: "".into(),
            zone: "".into(),
            protocol: None,
        }
    }

    fn backend(edit: impl FnOnce(&mut v1::Backend)) -> Arc<Backend> {
        let mut backend = v1::Backend::default();
        edit(&mut backend);
        let port = v1::ServicePort { port: 80, backend: Some(backend), ..Default::default() };
        let wire = v1::Service { name: "shop/orders".into(), ports: vec![port], ..Default::default() };
        Arc::clone(&Service::from_wire(&wire).unwrap().ports[0].backend)
    }

    fn cluster(endpoints: &[Endpoint]) -> Arc<Cluster> {
        let cluster = Cluster::new("shop/orders".into(), 80, backend(|_| {}));
        cluster.update(backend(|_| {}), endpoints.iter().cloned());
        cluster
    }

    fn pick(cluster: &Cluster, tried: &[Arc<str>]) -> Result<Pick, ProxyError> {
        cluster.pick(Instant::now(), &mut rand::random, tried)
    }

    #[test]
    fn without_endpoints_there_is_nothing_to_pick() {
        assert_eq!(pick(&cluster(&[]), &[]).unwrap_err().kind, Kind::NoEndpoint);
    }

    #[test]
    fn a_retry_goes_to_another_endpoint_where_there_is_one() {
        let both = cluster(&[endpoint("shop/orders-1", 1), endpoint("shop/orders-2", 2)]);
        for _ in 0..100 {
            let first = pick(&both, &[]).unwrap();
            let second = pick(&both, std::slice::from_ref(&first.endpoint().uid)).unwrap();
            assert_ne!(first.endpoint().uid, second.endpoint().uid);
        }
        let lone = cluster(&[endpoint("shop/orders-1", 1)]);
        assert!(pick(&lone, &["shop/orders-1".into()]).is_ok());
    }

    #[test]
    fn what_a_connection_cost_is_not_held_against_an_endpoint() {
        let one = cluster(&[endpoint("shop/orders-1", 1)]);
        let mut pick = pick(&one, &[]).unwrap();
        let start = Instant::now();
        pick.sending(start + Duration::from_secs(2));
        pick.answered(start + Duration::from_millis(2001));
        let latency = pick.member.load.latency(start + Duration::from_millis(2001));
        assert_eq!(latency.as_millis(), 1, "{latency:?}");
    }

    #[test]
    fn an_endpoint_that_fails_is_ejected_and_the_breaker_survives_an_update() {
        let both = [endpoint("shop/orders-1", 1), endpoint("shop/orders-2", 2)];
        let cluster = cluster(&both);
        let mut failures = 0;
        while failures < 5 {
            let mut pick = pick(&cluster, &[]).unwrap();
            let bad = &*pick.endpoint().uid == "shop/orders-1";
            failures += usize::from(bad);
            pick.report(if bad { Outcome::Failure } else { Outcome::Success }, Instant::now(), 0);
        }
        let mut moved = both.clone();
        moved[0].weight = 7;
        cluster.update(backend(|_| {}), moved);
        for _ in 0..50 {
            assert_eq!(&*pick(&cluster, &[]).unwrap().endpoint().uid, "shop/orders-2");
        }
        let open: Vec<_> =
            cluster.breakers(Instant::now()).into_iter().filter(|b| b.state() == v1::BreakerState::Open).collect();
        assert_eq!((open.len(), &*open[0].endpoint, open[0].opened), (1, "shop/orders-1", 1));
    }

    #[test]
    fn an_idle_caller_finds_out_that_an_endpoint_fails_and_that_it_is_back() {
        let cluster = cluster(&[endpoint("shop/orders-1", 1), endpoint("shop/orders-2", 2)]);
        let start = Instant::now();
        let states = |now| cluster.breakers(now).iter().map(v1::BreakerStatus::state).collect::<Vec<_>>();
        let mut now = start;
        // One call at a time, ten a second, answered in a millisecond; orders-1 fails until its breaker has opened, and is well then.
        let (mut bad, mut served) = (true, 0);
        for _ in 0..300 {
            now += Duration::from_millis(100);
            let Ok(mut pick) = cluster.pick(now, &mut rand::random::<u64>, &[]) else { panic!("orders-2 is there") };
            let one = &*pick.endpoint().uid == "shop/orders-1";
            if one && bad {
                pick.failed(now);
                pick.report(Outcome::Failure, now, 0);
            } else {
                pick.sending(now);
                pick.answered(now + Duration::from_millis(1));
                pick.report(Outcome::Success, now, 0);
                served += usize::from(one);
            }
            bad &= states(now)[0] == v1::BreakerState::Closed;
        }
        assert!(!bad, "its breaker opened");
        assert_eq!(states(now)[0], v1::BreakerState::Closed, "and closed again");
        assert!(served > 10, "{served} calls");
    }

    #[test]
    fn over_the_limit_of_calls_there_is_an_overflow_until_one_ends() {
        let cluster = Cluster::new("shop/orders".into(), 80, backend(|_| {}));
        let narrow = backend(|b| b.limits = Some(v1::Limits { requests: Some(2), ..Default::default() }));
        cluster.update(narrow, [endpoint("shop/orders-1", 1)]);
        let first = pick(&cluster, &[]).unwrap();
        let _second = pick(&cluster, &[]).unwrap();
        assert_eq!(pick(&cluster, &[]).unwrap_err().kind, Kind::Overflow);
        drop(first);
        assert!(pick(&cluster, &[]).is_ok());
    }
}
