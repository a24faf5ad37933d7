//! An endpoint while one attempt uses it: the places that the attempt holds, and what its outcome means for the ones after it.

use super::cluster::unit;
use super::connect::Target;
use super::disguised::{self, Origin};
use super::member::Member;
use crate::error::{Kind, ProxyError};
use std::sync::Arc;
use std::time::{Duration, Instant};
use weft_policy::balance::InFlight;
use weft_policy::breaker::{self, Outcome, Transition};
use weft_policy::config::Endpoint;
use weft_policy::limit;

/// An endpoint that was chosen for one attempt, and the places that the attempt holds. Dropping it releases them; without a report
/// nothing is held against the endpoint.
pub struct Pick {
    pub(super) member: Arc<Member>,
    /// Where to connect to, if that is not as discovery says.
    disguised: Option<Box<Target>>,
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
    /// Takes the endpoint's place in the load, besides those that were taken before.
    pub(super) fn new(
        member: &Arc<Member>,
        permit: breaker::Permit,
        request: limit::Permit,
        pending_limit: &Arc<limit::Bulkhead>,
        now: Instant,
    ) -> Self {
        Self {
            member: Arc::clone(member),
            disguised: None,
            in_flight: Some(member.load.begin()),
            permit: Some(permit),
            request: Some(request),
            pending: None,
            pending_limit: Arc::clone(pending_limit),
            started: now,
            latency_from: now,
        }
    }

    /// Where to connect to.
    #[must_use]
    pub fn target(&self) -> &Target {
        self.disguised.as_deref().unwrap_or(&self.member.target)
    }

    /// Connects under this caller's address, where that can be.
    pub fn disguise(&mut self, caller: &Origin) {
        let target = &self.member.target;
        if let Some((addr, from)) = disguised::disguise(target.addr, caller) {
            self.disguised = Some(Box::new(Target { addr, from: Some(from), ..target.clone() }));
        }
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
