//! One endpoint of a cluster, and what is known of it: load, breaker, verdict of active checks, age. Who is chosen is the roster's to say.

use super::connect::{ConnectionLimit, Target, TunnelTo};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Instant;
use weft_certs::SpiffeId;
use weft_policy::balance::{self, Load, Locality, Roster, Seat, View};
use weft_policy::breaker::{self, Breaker, Ejections};
use weft_policy::config::{Backend, Endpoint, Health};
use weft_policy::health::Verdict;

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
    pub(super) target: Target,
    pub(super) load: Arc<Load>,
    pub(super) breaker: Arc<Breaker>,
    /// What active checks make of it.
    pub(super) verdict: Arc<AtomicCell>,
    /// Whether it was ready when it was made.
    ready: bool,
    /// Since when it has been ready, where that was seen to begin.
    ready_since: Option<Instant>,
}

/// A verdict that is read by all workers.
#[derive(Debug, Default)]
pub(super) struct AtomicCell(AtomicU8);

impl AtomicCell {
    fn get(&self) -> Verdict {
        match self.0.load(Ordering::Relaxed) {
            1 => Verdict::Healthy,
            2 => Verdict::Unhealthy,
            _ => Verdict::Unknown,
        }
    }

    pub(super) fn set(&self, verdict: Verdict) {
        let byte = match verdict {
            Verdict::Unknown => 0,
            Verdict::Healthy => 1,
            Verdict::Unhealthy => 2,
        };
        self.0.store(byte, Ordering::Relaxed);
    }
}

impl Member {
    /// An endpoint under these settings; `old` is what was known of it. `first`: it is there from the beginning, and so not new.
    ///
    /// # Errors
    /// Its tunnel's identity is no SPIFFE id.
    pub(super) fn new(
        endpoint: Endpoint,
        backend: &Backend,
        (ejections, connections): (&Arc<Ejections>, &Arc<ConnectionLimit>),
        old: Option<&Arc<Self>>,
        now: Instant,
        first: bool,
    ) -> Result<Self, weft_certs::spiffe::ParseError> {
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
            from: None,
            tunnel: tunnel.transpose()?,
            connect_timeout: backend.connect_timeout,
            connections: Arc::clone(connections),
        };
        let (load, breaker, verdict) = match old {
            Some(old) => {
                old.breaker.update(backend.breaker.clone(), now);
                (Arc::clone(&old.load), Arc::clone(&old.breaker), Arc::clone(&old.verdict))
            }
            None => (
                Arc::new(Load::new(now)),
                Arc::new(Breaker::new(backend.breaker.clone(), Arc::clone(ejections))),
                Arc::default(),
            ),
        };
        let mut member = Self { endpoint, target, load, breaker, verdict, ready: false, ready_since: None };
        member.ready = is_ready(member.health());
        member.ready_since = match old {
            _ if !member.ready => None,
            Some(old) if old.ready => old.ready_since,
            Some(_) => Some(now),
            None => (!first).then_some(now),
        };
        Ok(member)
    }

    /// Whether it may go on as it is under these settings.
    pub(super) fn is_current(&self, endpoint: &Endpoint) -> bool {
        self.endpoint == *endpoint && self.ready == is_ready(self.health())
    }

    /// Whether it may get new calls: discovery's word and that of active checks together.
    #[must_use]
    pub fn health(&self) -> Health {
        self.verdict.get().applied_to(self.endpoint.health)
    }

    /// State of its breaker as it is shown: `closed`, `open` (it is ejected) or `halfOpen`.
    #[must_use]
    pub fn breaker_state(&self, now: Instant) -> &'static str {
        match self.breaker.state(now) {
            breaker::State::Closed => "closed",
            breaker::State::Open => "open",
            breaker::State::HalfOpen => "halfOpen",
        }
    }

    /// Times its breaker opened.
    #[must_use]
    pub fn opened(&self) -> u64 {
        self.breaker.opened()
    }

    /// Calls of this sidecar that it has not answered yet.
    #[must_use]
    pub fn in_flight(&self) -> u32 {
        self.load.in_flight()
    }

    /// What balancing takes its latency to be, which falls with time; zero: it was not called yet.
    #[must_use]
    pub fn latency(&self, now: Instant) -> std::time::Duration {
        self.load.latency(now)
    }

    /// What a connection to it needs.
    #[must_use]
    pub fn target(&self) -> &Target {
        &self.target
    }
}

pub(super) fn is_ready(health: Health) -> bool {
    matches!(health, Health::Ready | Health::Unknown)
}

/// A member in its place of the roster.
#[derive(Clone)]
pub(super) struct Slot(pub(super) Arc<Member>);

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

/// Who takes calls, and how many: by readiness, weight, locality and age. `before` is what has been in force.
pub(super) fn roster(before: &Roster, backend: &Backend, own: &Place, members: &[Slot], now: Instant) -> Roster {
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
    before.replan(&plan, &seats, now)
}
