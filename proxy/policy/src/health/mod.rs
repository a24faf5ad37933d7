//! Active health checks: when an endpoint is probed, and what its answers make of it.
//!
//! A [`Probe`] is one endpoint's state machine. Whoever runs it waits until [`Probe::next`] says so, sends what
//! [`Settings::check`] describes, and tells [`Probe::observe`] how that went. Until the first verdict the endpoint counts
//! as discovery has it; a verdict takes several answers in a row, so that one lost packet changes nothing. Nothing here
//! sends, waits or keeps time.

mod grpc;

use std::time::{Duration, Instant};

pub use grpc::{grpc_is_serving, grpc_request};

use crate::config::Health;

/// How endpoints are checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// What is asked.
    pub check: Check,
    /// From the beginning of one probe to that of the next, give or take a tenth. Default 10 s.
    pub interval: Duration,
    /// How long an answer may take, connecting included. Default 1 s.
    pub timeout: Duration,
    /// Good answers in a row that make an endpoint healthy. Default 2.
    pub healthy_threshold: u32,
    /// Bad ones that make it unhealthy. Default 3.
    pub unhealthy_threshold: u32,
}

/// What an endpoint is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Check {
    /// `GET path`.
    Http {
        /// Path and query.
        path: Box<str>,
        /// Value of `Host`; empty: the endpoint's address.
        host: Box<str>,
        /// Statuses that are well, sorted. Empty: 200 to 299.
        statuses: Vec<u16>,
    },
    /// `grpc.health.v1.Health/Check`.
    Grpc {
        /// Name of the service; empty: the server as a whole.
        service: Box<str>,
    },
    /// A connection is enough.
    Tcp,
}

impl Settings {
    /// A check with the default times.
    pub fn new(check: Check) -> Self {
        Settings {
            check,
            interval: Duration::from_secs(10),
            timeout: Duration::from_secs(1),
            healthy_threshold: 2,
            unhealthy_threshold: 3,
        }
    }
}

impl Check {
    /// Whether an HTTP status is a good answer.
    pub fn status_is_well(&self, status: u16) -> bool {
        match self {
            Check::Http { statuses, .. } if !statuses.is_empty() => statuses.binary_search(&status).is_ok(),
            _ => (200..300).contains(&status),
        }
    }
}

/// What is believed of an endpoint.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// Too few answers yet.
    #[default]
    Unknown,
    /// It answers well.
    Healthy,
    /// It does not.
    Unhealthy,
}

impl Verdict {
    /// What a roster is to make of the endpoint, given what discovery says of it: both must think well of it.
    pub fn applied_to(self, discovered: Health) -> Health {
        match (self, discovered) {
            (_, Health::Draining) => Health::Draining,
            (Verdict::Unhealthy, _) => Health::NotReady,
            (_, discovered) => discovered,
        }
    }
}

/// A verdict that has changed: a roster is to be made anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Change {
    /// What was believed before.
    pub from: Verdict,
    /// What is believed now.
    pub to: Verdict,
}

/// How a probe went.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// A good answer within the timeout.
    Well,
    /// A bad answer, none in time, or no connection.
    Failed,
}

/// What the runner of a probe does now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Nothing before this moment.
    Wait(Instant),
    /// Send a probe, and report it by this moment: it counts as under way from now on.
    Probe {
        /// When it has failed for want of an answer.
        deadline: Instant,
    },
    /// The probe that is under way has run out of time: end it and report a failure.
    GiveUp,
}

/// The checking of one endpoint.
#[derive(Debug)]
pub struct Probe {
    settings: Settings,
    verdict: Verdict,
    /// Answers in a row that speak against the verdict, of the kind of the latest.
    latest: Outcome,
    streak: u32,
    /// When the next probe begins.
    due: Instant,
    /// Of the probe that is under way.
    deadline: Option<Instant>,
}

/// The first probes of many endpoints are spread over no more than this: a verdict should not wait for long.
const FIRST_WITHIN: Duration = Duration::from_secs(1);

impl Probe {
    /// Of an endpoint of which nothing is known. `random` is uniform in `[0, 1)`.
    pub fn new(settings: Settings, now: Instant, random: f64) -> Self {
        let spread = settings.interval.min(FIRST_WITHIN).mul_f64(random.clamp(0.0, 1.0));
        Probe {
            settings,
            verdict: Verdict::Unknown,
            latest: Outcome::Well,
            streak: 0,
            due: now + spread,
            deadline: None,
        }
    }

    /// What to do now. `random` is uniform in `[0, 1)`.
    pub fn next(&mut self, now: Instant, random: f64) -> Action {
        match self.deadline {
            Some(deadline) if now < deadline => Action::Wait(deadline),
            Some(_) => Action::GiveUp,
            None if now < self.due => Action::Wait(self.due),
            None => {
                // ± 10 %, so that the sidecars of a mesh do not come to probe in step.
                self.due = now + self.settings.interval.mul_f64(0.9 + 0.2 * random.clamp(0.0, 1.0));
                let deadline = now + self.settings.timeout;
                self.deadline = Some(deadline);
                Action::Probe { deadline }
            }
        }
    }

    /// Takes the outcome of the probe that is under way. One that comes after its deadline is a failure; one that
    /// nobody waits for is ignored.
    pub fn observe(&mut self, outcome: Outcome, now: Instant) -> Option<Change> {
        let deadline = self.deadline.take()?;
        let outcome = if now > deadline { Outcome::Failed } else { outcome };
        let (verdict, needed) = match outcome {
            Outcome::Well => (Verdict::Healthy, self.settings.healthy_threshold),
            Outcome::Failed => (Verdict::Unhealthy, self.settings.unhealthy_threshold),
        };
        self.streak = if outcome == self.latest { self.streak.saturating_add(1) } else { 1 };
        self.latest = outcome;
        if self.verdict == verdict || self.streak < needed {
            return None;
        }
        let from = std::mem::replace(&mut self.verdict, verdict);
        Some(Change { from, to: verdict })
    }

    /// What is believed now.
    pub fn verdict(&self) -> Verdict {
        self.verdict
    }

    /// How it is checked.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// New settings. What is asked being the same, the verdict stays; otherwise nothing is known any more.
    pub fn update(&mut self, settings: Settings, now: Instant, random: f64) -> Option<Change> {
        if settings.check != self.settings.check {
            let from = self.verdict;
            *self = Probe::new(settings, now, random);
            return (from != Verdict::Unknown).then_some(Change { from, to: Verdict::Unknown });
        }
        self.due = self.due.min(now + settings.interval);
        self.settings = settings;
        None
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn probe(now: Instant) -> Probe {
        Probe::new(Settings::new(Check::Tcp), now, 0.0)
    }

    /// Runs a probe to its due moment and answers it at once.
    fn answer(probe: &mut Probe, now: &mut Instant, outcome: Outcome) -> Option<Verdict> {
        loop {
            match probe.next(*now, 0.5) {
                Action::Wait(until) => *now = until,
                Action::Probe { .. } => return probe.observe(outcome, *now).map(|change| change.to),
                Action::GiveUp => panic!("answered at once"),
            }
        }
    }

    #[test]
    fn a_verdict_takes_answers_in_a_row() {
        use Outcome::{Failed, Well};
        let mut now = Instant::now();
        let mut probe = probe(now);
        for (outcome, change) in [
            (Failed, None),
            (Failed, None),
            (Well, None),
            (Failed, None),
            (Failed, None),
            (Failed, Some(Verdict::Unhealthy)),
            (Failed, None),
            (Well, None),
            (Failed, None),
            (Well, None),
            (Well, Some(Verdict::Healthy)),
            (Failed, None),
            (Failed, None),
            (Well, None),
        ] {
            assert_eq!(answer(&mut probe, &mut now, outcome), change);
        }
    }

    #[test]
    fn until_the_first_verdict_and_unless_it_is_bad_discovery_decides() {
        for verdict in [Verdict::Unknown, Verdict::Healthy] {
            for health in [Health::Unknown, Health::Ready, Health::NotReady, Health::Draining] {
                assert_eq!(verdict.applied_to(health), health);
            }
        }
        assert_eq!(Verdict::Unhealthy.applied_to(Health::Ready), Health::NotReady);
        assert_eq!(Verdict::Unhealthy.applied_to(Health::Draining), Health::Draining);
    }

    #[test]
    fn probes_begin_an_interval_apart_give_or_take_a_tenth() {
        let start = Instant::now();
        let mut probe = probe(start);
        for random in [0.0, 0.5, 0.999] {
            let probed = Action::Probe { deadline: start + Duration::from_secs(1) };
            assert_eq!(probe.next(start, random), probed, "a probe has its timeout");
            probe.observe(Outcome::Well, start);
            let Action::Wait(next) = probe.next(start, random) else { panic!("not before the interval is over") };
            let gap = (next - start).as_secs_f64();
            assert!((gap - (9.0 + 2.0 * random)).abs() < 1e-6, "{gap}");
            probe = super::Probe::new(probe.settings.clone(), start, 0.0);
        }
    }

    #[test]
    fn a_probe_without_an_answer_is_given_up_and_counts_as_a_failure() {
        let start = Instant::now();
        let mut probe = probe(start);
        let mut now = start;
        for round in 1..=3 {
            while let Action::Wait(until) = probe.next(now, 0.5) {
                now = until;
            }
            now += Duration::from_secs(1);
            assert_eq!(probe.next(now, 0.5), Action::GiveUp);
            assert_eq!(probe.observe(Outcome::Failed, now).is_some(), round == 3);
            assert_eq!(probe.observe(Outcome::Well, now), None, "nobody waits for that");
        }
        let late = now + Duration::from_secs(60);
        assert!(matches!(probe.next(late, 0.5), Action::Probe { .. }));
        probe.observe(Outcome::Well, late + Duration::from_secs(2));
        assert_eq!((probe.latest, probe.verdict()), (Outcome::Failed, Verdict::Unhealthy), "too late to be well");
    }

    #[test]
    fn a_probe_is_waited_for_until_its_deadline_and_that_moment_is_in_time() {
        let start = Instant::now();
        let deadline = start + Duration::from_secs(1);
        let mut probe = probe(start);
        assert_eq!(probe.next(start, 0.5), Action::Probe { deadline });
        assert_eq!(probe.next(deadline - Duration::from_nanos(1), 0.5), Action::Wait(deadline));
        assert_eq!(probe.next(deadline, 0.5), Action::GiveUp);
        probe.observe(Outcome::Well, deadline);
        assert_eq!(probe.latest, Outcome::Well);
    }

    #[test]
    fn a_verdict_outlives_new_times_but_not_a_new_question() {
        let mut now = Instant::now();
        let mut probe = probe(now);
        answer(&mut probe, &mut now, Outcome::Well);
        answer(&mut probe, &mut now, Outcome::Well);
        let faster = Settings { interval: Duration::from_secs(2), ..Settings::new(Check::Tcp) };
        assert_eq!(probe.update(faster, now, 0.0), None);
        assert_eq!(probe.verdict(), Verdict::Healthy);
        assert!(matches!(probe.next(now, 0.0), Action::Wait(due) if due <= now + Duration::from_secs(2)));
        let other = Settings::new(Check::Grpc { service: "".into() });
        assert_eq!(probe.update(other, now, 0.0).map(|change| change.to), Some(Verdict::Unknown));
    }

    #[test]
    fn a_status_is_well_where_it_is_listed_or_else_a_success() {
        let http = |statuses: &[u16]| Check::Http { path: "/".into(), host: "".into(), statuses: statuses.to_vec() };
        assert!(http(&[]).status_is_well(204) && !http(&[]).status_is_well(302));
        assert!(http(&[200, 302]).status_is_well(302) && !http(&[200, 302]).status_is_well(204));
    }

    proptest! {
        #[test]
        fn a_verdict_never_changes_on_fewer_answers_than_its_threshold(
            answers in prop::collection::vec(any::<bool>(), 1..200), healthy in 1..5_u32, unhealthy in 1..5_u32,
        ) {
            let mut now = Instant::now();
            let settings = Settings { healthy_threshold: healthy, unhealthy_threshold: unhealthy, ..Settings::new(Check::Tcp) };
            let mut probe = Probe::new(settings, now, 0.3);
            for (i, well) in answers.iter().enumerate() {
                let change = answer(&mut probe, &mut now, if *well { Outcome::Well } else { Outcome::Failed });
                if let Some(to) = change {
                    let needed = if to == Verdict::Healthy { healthy } else { unhealthy } as usize;
                    prop_assert!(i + 1 >= needed && answers[i + 1 - needed..=i].iter().all(|a| a == well));
                }
            }
        }
    }
}
