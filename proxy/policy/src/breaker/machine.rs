//! The breaker's state machine, without locks: closed → open → half-open. [`super::Breaker`] puts it behind one.
//!
//! Every change of state begins a new epoch. A call remembers the epoch it was admitted in, and its report counts only
//! in that one: what was sent before the state changed says nothing about the endpoint after it.

use std::time::{Duration, Instant};

use super::{Ejections, Outcome, Settings};

/// State of a breaker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum State {
    /// Calls pass.
    Closed,
    /// No call passes.
    Open,
    /// One probe at a time passes.
    HalfOpen,
}

/// A change that a report caused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Transition {
    /// Closed → open.
    Opened,
    /// Half-open → open: the probe failed.
    Reopened,
    /// Half-open → closed: the probe succeeded.
    Closed,
}

/// What a call was admitted as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Admission {
    pub(super) epoch: u64,
    /// Whether it is the probe of its epoch. There is one at a time: its permit has reported, or was dropped, when the next begins.
    pub(super) is_probe: bool,
}

#[derive(Debug)]
enum Phase {
    Closed { since: Option<Instant>, consecutive: u32, window: Window },
    Open { until: Instant },
    HalfOpen { probe: Option<Probe> },
}

#[derive(Debug)]
struct Probe {
    deadline: Instant,
    /// For reopening at the deadline, should it pass unanswered.
    jitter: f64,
}

#[derive(Debug)]
pub(super) struct Machine {
    phase: Phase,
    epoch: u64,
    /// n: how often it opened without having been closed for `reset_after` in between.
    opens: u32,
    opened: u64,
}

impl Machine {
    pub(super) fn new() -> Self {
        Machine { phase: Phase::closed(None), epoch: 0, opens: 0, opened: 0 }
    }

    pub(super) fn epoch(&self) -> u64 {
        self.epoch
    }

    pub(super) fn opened(&self) -> u64 {
        self.opened
    }

    pub(super) fn state(&self) -> State {
        match self.phase {
            Phase::Closed { .. } => State::Closed,
            Phase::Open { .. } => State::Open,
            Phase::HalfOpen { .. } => State::HalfOpen,
        }
    }

    /// Whether a call would be admitted. Call [`settle`](Self::settle) first.
    pub(super) fn admits(&self) -> bool {
        match &self.phase {
            Phase::Closed { .. } => true,
            Phase::Open { .. } => false,
            Phase::HalfOpen { probe } => probe.is_none(),
        }
    }

    /// What time alone changes: a probe past its deadline has failed, an open breaker whose time is over is half-open,
    /// and one that is over the cap is closed.
    pub(super) fn settle(&mut self, settings: &Settings, cap: &Ejections, now: Instant) {
        if self.state() != State::Closed && (!settings.enabled || cap.release_excess()) {
            if !settings.enabled {
                cap.release();
            }
            self.enter(Phase::closed(Some(now)));
        }
        if let Phase::HalfOpen { probe: Some(probe) } = &self.phase
            && probe.deadline <= now
        {
            // Since its deadline, whenever somebody looks: a breaker nobody calls does not stay out longer.
            let (deadline, jitter) = (probe.deadline, probe.jitter);
            self.open(settings, deadline, jitter);
        }
        if let Phase::Open { until } = self.phase
            && until <= now
        {
            self.enter(Phase::HalfOpen { probe: None });
        }
    }

    /// Admits a call; as the probe, when half-open. Call [`settle`](Self::settle) first.
    pub(super) fn admit(&mut self, settings: &Settings, now: Instant, jitter: f64) -> Option<Admission> {
        match &mut self.phase {
            Phase::Closed { .. } => Some(Admission { epoch: self.epoch, is_probe: false }),
            Phase::HalfOpen { probe: place @ None } => {
                let deadline = now.checked_add(settings.probe_deadline).unwrap_or(now);
                *place = Some(Probe { deadline, jitter });
                Some(Admission { epoch: self.epoch, is_probe: true })
            }
            Phase::Open { .. } | Phase::HalfOpen { .. } => None,
        }
    }

    /// Takes a report into account. Call [`settle`](Self::settle) first: a probe that answers after its deadline is
    /// stale.
    pub(super) fn report(
        &mut self,
        settings: &Settings,
        cap: &Ejections,
        (admission, outcome): (Admission, Outcome),
        now: Instant,
        jitter: f64,
    ) -> Option<Transition> {
        if admission.epoch != self.epoch || !settings.enabled {
            return None;
        }
        match (&mut self.phase, outcome) {
            (Phase::Closed { consecutive, window, .. }, Outcome::Success) => {
                *consecutive = 0;
                window.record(settings.window, now, false);
                None
            }
            (Phase::Closed { since, consecutive, window }, Outcome::Failure) => {
                *consecutive = consecutive.saturating_add(1);
                window.record(settings.window, now, true);
                let (calls, failures) = window.sums();
                let rate = calls >= settings.minimum_calls
                    && u64::from(calls - failures) * 100 < u64::from(settings.success_percent) * u64::from(calls);
                let trips = *consecutive >= settings.consecutive_failures || rate;
                // Where the cap is reached it stays closed, and the next failure asks again.
                if !trips || !cap.eject() {
                    return None;
                }
                if since.is_none_or(|since| now.saturating_duration_since(since) >= settings.reset_after) {
                    self.opens = 0;
                }
                self.open(settings, now, jitter);
                Some(Transition::Opened)
            }
            // Whatever else was sent, was sent in another epoch: this is the probe.
            (Phase::HalfOpen { .. }, Outcome::Success) => {
                cap.release();
                self.enter(Phase::closed(Some(now)));
                Some(Transition::Closed)
            }
            (Phase::HalfOpen { .. }, Outcome::Failure) => {
                self.open(settings, now, jitter);
                Some(Transition::Reopened)
            }
            (Phase::Open { .. }, _) => None,
        }
    }

    /// Whether enough calls in a row failed to open it, and the cap keeps it closed.
    pub(super) fn is_held(&self, settings: &Settings) -> bool {
        matches!(self.phase, Phase::Closed { consecutive, .. } if consecutive >= settings.consecutive_failures)
    }

    /// The call ended without saying anything about the endpoint: a probe's place is free again.
    pub(super) fn abandon(&mut self, admission: Admission) {
        if let Phase::HalfOpen { probe } = &mut self.phase
            && admission.epoch == self.epoch
        {
            *probe = None;
        }
    }

    /// Gives its place among the ejected back and stays closed.
    pub(super) fn retire(&mut self, cap: &Ejections) {
        if self.state() != State::Closed {
            cap.release();
            self.enter(Phase::closed(None));
        }
    }

    fn open(&mut self, settings: &Settings, at: Instant, jitter: f64) {
        let factor = 2_u32.saturating_pow(self.opens.min(31));
        let duration = settings.base_open.saturating_mul(factor).min(settings.max_open);
        let duration = duration.mul_f64(0.9 + 0.2 * jitter.clamp(0.0, 1.0));
        self.opens = self.opens.saturating_add(1);
        self.opened += 1;
        self.enter(Phase::Open { until: at.checked_add(duration).unwrap_or(at) });
    }

    fn enter(&mut self, phase: Phase) {
        self.phase = phase;
        self.epoch += 1;
    }
}

impl Phase {
    fn closed(since: Option<Instant>) -> Self {
        Phase::Closed { since, consecutive: 0, window: Window::default() }
    }
}

const SLOTS: u64 = 10;

/// Calls and failures of the last tenths of a window, the current one included.
#[derive(Debug, Default)]
struct Window {
    /// What slots are counted from: the first call.
    origin: Option<Instant>,
    current: u64,
    slots: [(u32, u32); SLOTS as usize],
}

impl Window {
    fn record(&mut self, length: Duration, now: Instant, failed: bool) {
        let elapsed = now.saturating_duration_since(*self.origin.get_or_insert(now));
        let slot = (length.as_nanos() / u128::from(SLOTS)).max(1);
        let number = u64::try_from(elapsed.as_nanos() / slot).unwrap_or(u64::MAX);
        // Threads read the clock one after the other but may get here in any order: time does not run backwards.
        for passed in (self.current + 1..=number).take(SLOTS as usize) {
            self.slots[(passed % SLOTS) as usize] = (0, 0);
        }
        self.current = self.current.max(number);
        let (calls, failures) = &mut self.slots[(self.current % SLOTS) as usize];
        *calls = calls.saturating_add(1);
        *failures = failures.saturating_add(u32::from(failed));
    }

    fn sums(&self) -> (u32, u32) {
        self.slots
            .iter()
            .fold((0, 0), |(calls, failures), (c, f)| (calls.saturating_add(*c), failures.saturating_add(*f)))
    }
}
