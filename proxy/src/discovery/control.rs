//! The control stream: reports, readiness and withdrawal go up; commands come down and are done here.
//!
//! It may be away for as long as it likes: nothing that serves traffic waits for it.

use super::link::{self, Backoff, describe};
use super::{Directory, DumpRequest};
use crate::drain::{Drain, Stage};
use crate::identity::Standing;
use crate::inbound::Leases;
use crate::takeover::Turn;
use crate::telemetry::report::Reporter;
use crate::telemetry::{Telemetry, metrics};
use arc_swap::Guard;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, Interval, MissedTickBehavior, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use weft_certs::{CertificateInfo, Fingerprint, LiveIdentity, TrustBundle};
use weft_proto::v1::control_client::ControlClient;
use weft_proto::v1::{
    CertificateStatus, Clock, Command, CommandResult, ControlDown, ControlUp, Hello, Readiness, command, control_down,
    control_up,
};

/// How often a report goes up, unless the control plane wants another pace.
const REPORT: Duration = Duration::from_millis(2500);
/// No control plane makes a sidecar report more often, or more seldom.
const PACES: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(60);
/// How often leases that are not spent are looked through.
const SWEEP: Duration = Duration::from_secs(2);
/// How often one that says nothing does: an idle sidecar costs neither side a message a second.
const NOTHING_NEW: Duration = Duration::from_secs(10);
/// How long the control plane may take to accept the stream.
const OPEN: Duration = Duration::from_secs(10);
/// How often the sidecar says what its clock shows.
const CLOCK: Duration = Duration::from_secs(60);
/// How often calls of open taps go up.
const TAPPED: Duration = Duration::from_millis(100);
/// How often summaries of traffic do.
const TRAFFIC: Duration = Duration::from_secs(5);
/// Messages that may wait for the stream.
const OUTSTANDING: usize = 64;
/// Bytes of a dump that is sent: the control plane reads messages of at most 4 MiB.
const DUMP: usize = 3 << 20;

/// What the stream needs of the process.
pub struct Control {
    /// Shared with the xDS stream.
    pub channel: Channel,
    /// Workload uid.
    pub uid: String,
    /// Source of reports.
    pub telemetry: Arc<Telemetry>,
    /// Source of breaker states.
    pub directory: Directory,
    /// Followed, and begun on command.
    pub drain: Drain,
    /// Whether the sidecar is ready.
    pub ready: watch::Receiver<bool>,
    /// Tokens of rate limits that are counted together.
    pub leases: Arc<Leases>,
    /// Changes with every registration. One that differs from what was known begins the workload's life anew, so readiness is said after it
    /// even if it was said before.
    pub registrations: watch::Receiver<u64>,
    /// Where configuration dumps are made.
    pub dumps: mpsc::Sender<DumpRequest>,
    /// What is presented to peers, and whom it trusts.
    pub live: Arc<LiveIdentity>,
    /// Told when the control plane takes the certificate for revoked.
    pub standing: Arc<Standing>,
    /// Sets the process's log filter.
    pub set_log: crate::admin::SetLog,
    /// The stream is opened in the turn of this process: the newest one speaks for the workload. After it the stream stays as long as it
    /// does, for reports.
    pub turn: Turn,
}

fn up(message: control_up::Message) -> ControlUp {
    ControlUp { message: Some(message) }
}

/// What the clock shows.
fn clock() -> ControlUp {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    up(control_up::Message::Clock(Clock { unix_ms: i64::try_from(since.as_millis()).unwrap_or(i64::MAX) }))
}

/// Who the sidecar is now, and whom it trusts.
fn certificate(live: &LiveIdentity) -> CertificateStatus {
    let identity = Guard::into_inner(live.current());
    let seconds = |time: SystemTime| {
        let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
    };
    let own = identity.bundles.get(live.id().trust_domain());
    let roots = own.into_iter().flat_map(TrustBundle::roots).filter_map(|root| Fingerprint::of_public_key(root).ok());
    CertificateStatus {
        root: identity.root().map(|root| root.to_string()).unwrap_or_default(),
        trusted: roots.map(|root| root.to_string()).collect(),
        not_before: seconds(identity.svid.not_before()),
        not_after: seconds(identity.svid.not_after()),
        serial: CertificateInfo::of(identity.svid.leaf()).map(|info| info.serial).unwrap_or_default(),
    }
}

impl Control {
    /// Runs until the future is dropped.
    pub async fn run(mut self) {
        let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(10));
        let mut reporter = Reporter::default();
        self.turn.begun().await;
        loop {
            if self.turn.is_over() {
                return std::future::pending().await;
            }
            let began = Instant::now();
            let ended = self.stream(&mut reporter).await;
            self.telemetry.watch.close();
            self.leases.client.connected(false, Instant::now().into_std());
            if began.elapsed() > Duration::from_secs(5) {
                backoff.reset();
            }
            let wait = backoff.wait();
            tracing::debug!(retry_in = ?wait, "control stream: {ended}");
            tokio::time::sleep(wait).await;
        }
    }

    async fn stream(&mut self, reporter: &mut Reporter) -> String {
        let (sender, outgoing) = mpsc::channel(OUTSTANDING);
        let hello = Hello { workload: self.uid.clone(), version: env!("CARGO_PKG_VERSION").to_owned() };
        let mut stages = self.drain.stages();
        // Seen before it is said: what changes while the stream opens must be said again.
        stages.borrow_and_update();
        self.ready.borrow_and_update();
        let first = [up(control_up::Message::Hello(hello)), self.readiness()];
        let mut clock_at: Option<Instant> = None;
        for message in first {
            if sender.try_send(message).is_err() {
                return "no room for the first messages".to_owned();
            }
        }
        let mut client = ControlClient::new(self.channel.clone());
        let mut down = match timeout(OPEN, client.stream(ReceiverStream::new(outgoing))).await {
            Ok(Ok(response)) => response.into_inner(),
            Ok(Err(status)) => {
                if link::says_revoked(&status) {
                    self.standing.revoked();
                }
                return describe(&status);
            }
            Err(_) => return format!("not accepted within {OPEN:?}"),
        };
        self.leases.client.connected(true, Instant::now().into_std());
        reporter.begin();
        let mut reports = every(REPORT, Duration::ZERO);
        let mut sweeps = every(SWEEP, Duration::ZERO);
        let mut tapped = every(TAPPED, Duration::ZERO);
        let mut traffic_at = Instant::now();
        // When a report was last sent, if it said nothing.
        let mut empty: Option<Instant> = None;
        // The change of the identity that was last told of.
        let mut told: Option<u64> = None;
        loop {
            let message = tokio::select! {
                received = down.message() => match received {
                    Ok(Some(ControlDown { message: Some(control_down::Message::Pace(pace)) })) => {
                        let pace = Duration::from_millis(pace.report_ms.into()).clamp(*PACES.start(), *PACES.end());
                        if reports.period() != pace {
                            // A control plane says it to all of its sidecars at once, and they need not answer at once.
                            reports = every(pace, pace.mul_f64(rand::random::<f64>()));
                        }
                        continue;
                    }
                    Ok(Some(message)) => match self.obey(message).await {
                        Some(result) => up(control_up::Message::Result(result)),
                        None => continue,
                    },
                    Ok(None) => return "ended by the control plane".to_owned(),
                    Err(status) => return describe(&status),
                },
                Ok(()) = self.ready.changed() => self.readiness(),
                Ok(()) = self.registrations.changed() => self.readiness(),
                Ok(()) = stages.changed() => self.readiness(),
                () = self.leases.wanted.notified() => {
                    match self.leases.client.asks(Instant::now().into_std()) {
                        Some(asks) => up(control_up::Message::LeaseRequest(asks)),
                        None => continue,
                    }
                }
                _ = sweeps.tick(), if !self.leases.client.is_empty() => {
                    self.leases.client.sweep(Instant::now().into_std());
                    self.leases.wanted.notify_one();
                    continue;
                }
                _ = tapped.tick(), if self.telemetry.watch.is_tapped() => {
                    // What finds no room here waits in a queue that is bounded, and is dropped there.
                    if sender.capacity() < OUTSTANDING / 2 {
                        continue;
                    }
                    match self.telemetry.watch.tapped(Instant::now().into_std()) {
                        Some(calls) => up(control_up::Message::Tapped(calls)),
                        None => continue,
                    }
                }
                _ = reports.tick() => {
                    // A report is taken only when there is room for it: what was taken and not sent would be lost.
                    if sender.capacity() == 0 {
                        continue;
                    }
                    let generation = self.live.generation();
                    if told != Some(generation) {
                        let status = up(control_up::Message::Certificate(certificate(&self.live)));
                        told = sender.try_send(status).is_ok().then_some(generation);
                        continue;
                    }
                    let (snapshot, now) = (self.directory.snapshot(), Instant::now());
                    if clock_at.is_none_or(|said| now >= said + CLOCK) {
                        clock_at = sender.try_send(clock()).is_ok().then_some(now);
                        continue;
                    }
                    if now >= traffic_at {
                        traffic_at = now + TRAFFIC;
                        if let Some(traffic) = self.telemetry.watch.traffic(now.into_std()) {
                            // One that finds no room is lost: summaries are no ledger.
                            let _ = sender.try_send(up(control_up::Message::Traffic(traffic)));
                        }
                    }
                    let report = reporter.take(&self.telemetry, snapshot.clusters(), now.into_std());
                    let nothing = report.calls.is_empty() && report.breakers.is_empty();
                    if nothing && empty.is_some_and(|sent| now < sent + NOTHING_NEW) {
                        continue;
                    }
                    empty = nothing.then_some(now);
                    up(control_up::Message::Report(report))
                }
            };
            if timeout(OPEN, sender.send(message)).await.is_err() {
                return "the control plane does not read its stream".to_owned();
            }
        }
    }

    fn readiness(&self) -> ControlUp {
        // Who was relieved takes nothing away: the workload is its successor's.
        let withdraw = self.drain.stage() >= Stage::Withdrawing && !self.drain.is_relieved();
        up(control_up::Message::Readiness(Readiness { ready: *self.ready.borrow() && !withdraw, withdraw }))
    }

    async fn obey(&self, message: ControlDown) -> Option<CommandResult> {
        match message.message? {
            control_down::Message::WithdrawalAck(_) => {
                self.drain.withdrawal_acknowledged();
                None
            }
            control_down::Message::LeaseGrant(grant) => {
                self.leases.client.granted(&grant, Instant::now().into_std());
                None
            }
            control_down::Message::Pace(_) => None,
            control_down::Message::Command(Command { id, command }) => {
                let done = match command {
                    Some(command::Command::ConfigDump(_)) => self.dump().await,
                    Some(command::Command::Metrics(wanted)) => self.metrics(&wanted.name),
                    Some(command::Command::Stats(_)) => self.stats(),
                    Some(command::Command::LogLevel(level)) => {
                        tracing::info!(filter = level.filter, "log filter set by the control plane");
                        (self.set_log)(&level.filter).map(|()| Vec::new())
                    }
                    Some(command::Command::Drain(_)) => {
                        tracing::info!("drain asked for by the control plane");
                        self.drain.begin();
                        Ok(Vec::new())
                    }
                    Some(command::Command::Tap(tap)) => {
                        self.telemetry.watch.tap(tap, Instant::now().into_std()).map(|()| Vec::new())
                    }
                    Some(command::Command::TapStop(stop)) => {
                        self.telemetry.watch.stop(stop.tap, Instant::now().into_std());
                        Ok(Vec::new())
                    }
                    Some(command::Command::TrafficNames(names)) => {
                        self.telemetry.watch.summarise(&names);
                        Ok(Vec::new())
                    }
                    None => Err("this sidecar does not know the command".to_owned()),
                };
                let (output, error) = match done {
                    Ok(output) => (output, String::new()),
                    Err(error) => (Vec::new(), error),
                };
                Some(CommandResult { id, output: output.into(), error })
            }
        }
    }

    async fn dump(&self) -> Result<Vec<u8>, String> {
        let (reply, answer) = oneshot::channel();
        let asked = async {
            self.dumps.send(reply).await.ok()?;
            answer.await.ok()
        };
        match timeout(Duration::from_secs(5), asked).await {
            Ok(Some(value)) => sent("the configuration is", value.to_string()),
            _ => Err("discovery does not answer".to_owned()),
        }
    }

    fn metrics(&self, name: &str) -> Result<Vec<u8>, String> {
        let all = self.telemetry.render(self.directory.snapshot().clusters());
        sent("the metrics are", metrics::named(&all, name))
    }

    fn stats(&self) -> Result<Vec<u8>, String> {
        let snapshot = self.directory.snapshot();
        let ready = *self.ready.borrow();
        sent("the stats are", crate::admin::stats(&snapshot, &self.drain, ready, std::time::Instant::now()).to_string())
    }
}

/// An interval that does not make up for ticks that it missed.
fn every(period: Duration, after: Duration) -> Interval {
    let mut interval = tokio::time::interval_at(Instant::now() + after, period);
    interval.set_missed_tick_behavior(MissedTickBehavior::Skip);
    interval
}

/// A dump, unless it would break the stream that it goes through.
fn sent(what: &str, text: String) -> Result<Vec<u8>, String> {
    match text.len() {
        ..=DUMP => Ok(text.into_bytes()),
        size => Err(format!("{what} of {size} bytes, and {DUMP} are sent at most")),
    }
}
