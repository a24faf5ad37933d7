//! The sidecars as a fleet: their control streams, their readiness, what they report, what they are told to do.
//!
//! [`stream`] is the tonic service, [`life`] decides when a workload takes calls and when it is gone, [`leases`] parts global rate limits, [`golden`] keeps an hour of golden
//! metrics in memory (pure), [`prometheus`] is asked for more, [`tally`] counts by sidecar while a change is tried, [`taps`] shows calls as they end, [`traffic`] keeps an hour of them in summary, [`web`] answers the questions of `weft stat`, `check` and `token`. What a workload may say of itself is decided
//! in [`crate::identity`]; what its readiness means for others in [`crate::compile`].

pub mod golden;
pub mod leases;
pub mod life;
mod pace;
pub mod prometheus;
pub mod stream;
pub mod tally;
pub mod taps;
pub mod traffic;
pub mod web;

pub use leases::Leases;
pub use life::Life;
pub use stream::ControlService;

use parking_lot::Mutex;
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};
use tokio::sync::{mpsc, oneshot};
use weft_proto::v1;

use crate::identity::rotation::Certificate;

/// Roots that a sidecar may say it trusts.
const MAX_ROOTS: usize = 64;
/// How long a command may take, its answer included.
const COMMAND: Duration = Duration::from_secs(10);

/// What a breaker says, by sidecar, backend and endpoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Breaker {
    /// The sidecar that holds it.
    pub sidecar: String,
    /// "namespace/name:port"
    pub backend: String,
    /// Workload uid.
    pub endpoint: String,
    /// `closed`, `open`, `halfOpen`.
    pub state: &'static str,
    /// Times it opened since the sidecar started.
    pub opened: u64,
}

/// One connected sidecar.
#[derive(Debug)]
struct Connected {
    stream: u64,
    version: String,
    ready: bool,
    draining: bool,
    since: Instant,
    reported: Option<Instant>,
    breakers: Vec<Breaker>,
    certificate: Option<Certificate>,
    /// Milliseconds that its clock is ahead of this one.
    ahead_ms: Option<i64>,
    commands: mpsc::Sender<v1::ControlDown>,
    waiting: HashMap<u64, oneshot::Sender<v1::CommandResult>>,
}

impl Connected {
    const fn takes_calls(&self) -> bool {
        self.ready && !self.draining
    }

    /// Tells it something whose answer nobody waits for; false: it is busy.
    fn told(&self, command: v1::command::Command) -> bool {
        let down = v1::control_down::Message::Command(v1::Command { id: 0, command: Some(command) });
        self.commands.try_send(v1::ControlDown { message: Some(down) }).is_ok()
    }
}

/// A connected sidecar as it is shown.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Sidecar {
    /// Workload uid.
    pub workload: String,
    /// Version of the sidecar.
    pub version: String,
    /// Whether its application is ready.
    pub ready: bool,
    /// Whether it asked to be withdrawn.
    pub draining: bool,
    /// Seconds since its control stream began.
    pub connected_seconds: u64,
    /// Seconds since its last report; null: none yet.
    pub last_report_seconds: Option<u64>,
    /// Milliseconds that its clock is ahead of the control plane's, negative: behind; null: it has not said.
    pub clock_ahead_ms: Option<i64>,
}

/// Why a command was not done.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CommandError {
    /// No sidecar of that workload is connected.
    #[error("no sidecar of {0} is connected")]
    NotConnected(String),
    /// It has more commands waiting than it takes.
    #[error("the sidecar of {0} is busy with other commands")]
    Busy(String),
    /// It did not answer in time.
    #[error("the sidecar of {0} did not answer in time")]
    Silent(String),
    /// It answered with an error.
    #[error("{0}")]
    Failed(String),
}

/// All connected sidecars and what they reported. Cheap to share.
#[derive(Debug, Default)]
pub struct Fleet {
    sidecars: Mutex<BTreeMap<String, Connected>>,
    golden: Mutex<golden::Golden>,
    /// While somebody wants it.
    tally: Mutex<Option<tally::Tally>>,
    /// Whose streams came, went, or said whether they are ready, since somebody last took this.
    touched: Mutex<BTreeSet<String>>,
    taps: taps::Taps,
    traffic: Mutex<traffic::Traffic>,
    next: AtomicU64,
    pace: pace::Pace,
}

impl Fleet {
    /// Connected sidecars, by uid.
    #[must_use]
    pub fn sidecars(&self) -> Vec<Sidecar> {
        let now = Instant::now();
        let shown = |(uid, c): (&String, &Connected)| Sidecar {
            workload: uid.clone(),
            version: c.version.clone(),
            ready: c.ready,
            draining: c.draining,
            connected_seconds: now.saturating_duration_since(c.since).as_secs(),
            last_report_seconds: c.reported.map(|at| now.saturating_duration_since(at).as_secs()),
            clock_ahead_ms: c.ahead_ms,
        };
        self.sidecars.lock().iter().map(shown).collect()
    }

    /// Whether a sidecar of the workload is connected.
    #[must_use]
    pub fn is_connected(&self, uid: &str) -> bool {
        self.sidecars.lock().contains_key(uid)
    }

    /// Whether the sidecar of the workload takes calls; `None`: it is not connected.
    #[must_use]
    pub fn takes_calls(&self, uid: &str) -> Option<bool> {
        self.sidecars.lock().get(uid).map(Connected::takes_calls)
    }

    /// Workloads of whose streams something has changed since the last call; its only caller is [`Life`].
    fn take_touched(&self) -> BTreeSet<String> {
        std::mem::take(&mut self.touched.lock())
    }

    fn touch(&self, uid: &str) {
        self.touched.lock().insert(uid.to_owned());
    }

    /// What connected sidecars said of their certificates; `None`: nothing yet.
    #[must_use]
    pub fn certificates(&self) -> BTreeMap<String, Option<Certificate>> {
        self.sidecars.lock().iter().map(|(uid, connected)| (uid.clone(), connected.certificate.clone())).collect()
    }

    /// Every breaker that sidecars listed in their last reports.
    #[must_use]
    pub fn breakers(&self) -> Vec<Breaker> {
        self.sidecars.lock().values().flat_map(|c| c.breakers.iter().cloned()).collect()
    }

    /// Golden metrics over the last `window`.
    #[must_use]
    pub fn stat(&self, window: Duration) -> golden::Stat {
        let breakers = self.breakers();
        self.golden.lock().stat(Instant::now(), window, &breakers)
    }

    /// The calls of the last hour in summary, those that begin or end in a namespace; empty: in any.
    #[must_use]
    pub fn traffic(&self, namespace: &str) -> traffic::Read {
        self.traffic.lock().read(Instant::now(), namespace)
    }

    /// What was measured over the last `window`, step by step.
    #[must_use]
    pub fn history(
        &self,
        window: Duration,
        subject: golden::history::Subject,
        wanted: impl Fn(&str, &str) -> bool,
    ) -> golden::history::History {
        self.golden.lock().history(Instant::now(), window, subject, wanted)
    }

    /// Since when calls of a service fail, seconds since the Unix epoch.
    #[must_use]
    pub fn failing_since(&self, service: &str) -> Option<u64> {
        let ago = self.golden.lock().failing_for(Instant::now(), service)?;
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        Some(now.saturating_sub(ago).as_secs())
    }

    /// From now on these calls are counted by sidecar; `None`: no longer. True where that is from nothing, since others were counted before.
    pub fn count(&self, subject: Option<&tally::Subject>) -> bool {
        let mut tally = self.tally.lock();
        if tally.as_ref().map(tally::Tally::subject) == subject {
            return false;
        }
        *tally = subject.cloned().map(tally::Tally::of);
        true
    }

    /// What was counted since.
    #[must_use]
    pub fn tally(&self) -> tally::Tally {
        self.tally.lock().clone().unwrap_or_default()
    }

    /// As if a sidecar had reported these calls.
    #[cfg(test)]
    pub(crate) fn tell(&self, sidecar: &str, calls: &[v1::CallStats]) {
        if let Some(tally) = &mut *self.tally.lock() {
            tally.add(sidecar, calls);
        }
    }

    /// Sends a command to a sidecar and waits for its answer.
    ///
    /// # Errors
    /// When it is not connected, busy, silent, or says so.
    pub async fn command(&self, uid: &str, command: v1::command::Command) -> Result<bytes::Bytes, CommandError> {
        let id = self.next.fetch_add(1, Ordering::Relaxed) + 1;
        let (answer, answered) = oneshot::channel();
        let commands = {
            let mut sidecars = self.sidecars.lock();
            let connected = sidecars.get_mut(uid).ok_or_else(|| CommandError::NotConnected(uid.to_owned()))?;
            connected.waiting.retain(|_, w| !w.is_closed());
            if connected.waiting.len() >= 16 {
                return Err(CommandError::Busy(uid.to_owned()));
            }
            connected.waiting.insert(id, answer);
            connected.commands.clone()
        };
        let down = v1::control_down::Message::Command(v1::Command { id, command: Some(command) });
        commands.try_send(v1::ControlDown { message: Some(down) }).map_err(|_| CommandError::Busy(uid.to_owned()))?;
        match tokio::time::timeout(COMMAND, answered).await {
            Ok(Ok(result)) if result.error.is_empty() => Ok(result.output),
            Ok(Ok(result)) => Err(CommandError::Failed(result.error)),
            Ok(Err(_)) => Err(CommandError::NotConnected(uid.to_owned())),
            Err(_) => Err(CommandError::Silent(uid.to_owned())),
        }
    }

    fn join(self: &Arc<Self>, uid: &str, version: String, commands: mpsc::Sender<v1::ControlDown>) -> Membership {
        let stream = self.next.fetch_add(1, Ordering::Relaxed);
        let connected = Connected {
            stream,
            version,
            ready: false,
            draining: false,
            since: Instant::now(),
            reported: None,
            breakers: Vec::new(),
            certificate: None,
            ahead_ms: None,
            commands,
            waiting: HashMap::new(),
        };
        // A newer stream of the same workload replaces the older one, whose end then says nothing. A tap that is opened meanwhile is told
        // under the same lock: it is told twice rather than not at all.
        let mut sidecars = self.sidecars.lock();
        connected.told(self.summaries());
        for command in self.taps.joined(uid) {
            connected.told(command);
        }
        sidecars.insert(uid.to_owned(), connected);
        self.pace.sized(sidecars.len());
        drop(sidecars);
        self.touch(uid);
        Membership { fleet: self.clone(), uid: uid.to_owned(), stream, known: Mutex::default() }
    }
}

/// A control stream's place in the fleet; dropping it takes the sidecar out, unless a newer stream took its place.
#[derive(Debug)]
struct Membership {
    fleet: Arc<Fleet>,
    uid: String,
    stream: u64,
    /// Of its reports.
    known: Mutex<golden::Known>,
}

impl Membership {
    /// What the sidecar says of its application; whether it has asked to be withdrawn, `None` where a newer stream took its place.
    fn readiness(&self, said: v1::Readiness) -> Option<bool> {
        let draining = self.with(|c| {
            c.draining |= said.withdraw;
            c.ready = said.ready && !said.withdraw;
            c.draining
        });
        self.fleet.touch(&self.uid);
        draining
    }

    fn with<T>(&self, act: impl FnOnce(&mut Connected) -> T) -> Option<T> {
        let mut sidecars = self.fleet.sidecars.lock();
        sidecars.get_mut(&self.uid).filter(|c| c.stream == self.stream).map(act)
    }

    fn report(&self, mut report: v1::Report) {
        let uid = self.uid.clone();
        let breakers = report.breakers.iter().take(golden::MAX_SERIES).map(|b| Breaker {
            sidecar: uid.clone(),
            backend: b.backend.clone(),
            endpoint: b.endpoint.clone(),
            state: match v1::BreakerState::try_from(b.state) {
                Ok(v1::BreakerState::Open) => "open",
                Ok(v1::BreakerState::HalfOpen) => "halfOpen",
                _ => "closed",
            },
            opened: b.opened,
        });
        let breakers = breakers.collect();
        self.with(|c| {
            c.reported = Some(Instant::now());
            c.breakers = breakers;
        });
        let mut known = self.known.lock();
        self.fleet.golden.lock().add(Instant::now(), &self.uid, &mut known, &report);
        if let Some(tally) = &mut *self.fleet.tally.lock() {
            known.name(&mut report.calls);
            tally.add(&self.uid, &report.calls);
        }
    }

    fn traffic(&self, report: v1::TrafficReport) {
        self.fleet.traffic.lock().add(Instant::now(), &self.uid, report);
    }

    fn tapped(&self, told: v1::TappedCalls) {
        for tap in self.fleet.taps.told(&self.uid, told) {
            let stop = v1::command::Command::TapStop(v1::TapStop { tap });
            self.with(|connected| connected.told(stop));
        }
    }

    fn certificate(&self, status: v1::CertificateStatus) {
        let v1::CertificateStatus { root, trusted, not_before, not_after, serial } = status;
        let is_print = |text: &String| text.len() <= 64;
        let certificate = Certificate {
            root: Some(root).filter(is_print).unwrap_or_default(),
            trusted: trusted.into_iter().filter(is_print).take(MAX_ROOTS).collect(),
            not_before,
            not_after,
            serial: Some(serial).filter(is_print).unwrap_or_default(),
        };
        self.with(|c| c.certificate = Some(certificate));
    }

    fn clock(&self, said: v1::Clock) {
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let now = i64::try_from(since.as_millis()).unwrap_or(i64::MAX);
        self.with(|c| c.ahead_ms = Some(said.unix_ms.saturating_sub(now)));
    }

    fn result(&self, result: v1::CommandResult) {
        if let Some(Some(waiting)) = self.with(|c| c.waiting.remove(&result.id)) {
            // Whoever asked may have given up: then nobody wants the answer.
            drop(waiting.send(result));
        }
    }
}

impl Drop for Membership {
    fn drop(&mut self) {
        let mut sidecars = self.fleet.sidecars.lock();
        if sidecars.get(&self.uid).is_some_and(|c| c.stream == self.stream) {
            sidecars.remove(&self.uid);
            self.fleet.pace.sized(sidecars.len());
        }
        drop(sidecars);
        self.fleet.touch(&self.uid);
    }
}
