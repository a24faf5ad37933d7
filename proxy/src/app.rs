//! Start, wiring and end of the process: settings become sockets, threads and tasks here, and nowhere else.
//!
//! One control thread (the caller's) runs discovery, identity, admin and telemetry; each worker thread runs the data path on its own
//! runtime and sockets. What remembered configuration and certificates allow is served before the control plane is even asked.

mod control_plane;
mod host;
mod intercepted;
mod join;
mod log;
mod seeing;
mod settle;
mod sockets;
mod successor;
mod taking_turns;
mod worker;

use crate::admin::{Admin, SetLog};
use crate::config::{self, ConfigError, Settings, Source};
use crate::discovery::file::{FileError, FileSource};
use crate::discovery::{Directory, DumpRequest, Publisher};
use crate::drain::Drain;
use crate::identity::{Enrolment, Files, Followed, Wanted};
use crate::inbound;
use crate::intercept;
use crate::takeover::message::Kind;
use crate::takeover::{self, Giver, Inherited, Predecessor, Relieved, Shelf, Turn};
use crate::telemetry::Telemetry;
use control_plane::Plan;
use host::{access_log_options, enrolment, own_state_dir, raise_descriptors};
use intercepted::{Rules, may_divert, tell_own_packets};
use join::follow_agent;
use sockets::Sockets;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use successor::{Program, Serving};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use weft_certs::LiveIdentity;
use worker::Workers;

/// How long the end of the process waits for spans that are on their way.
const LAST_SPANS: Duration = Duration::from_secs(1);

/// The certificate, once there is one.
pub(crate) type IdentityCell = Arc<OnceLock<Arc<LiveIdentity>>>;

/// Why the process ends before it was asked to.
#[derive(Debug, thiserror::Error)]
pub enum AppError {
    /// The settings cannot be used.
    #[error("{0}")]
    Settings(#[from] ConfigError),
    /// The resources file cannot be used.
    #[error("{0}")]
    Resources(#[from] FileError),
    /// Something that the start needs is missing or taken.
    #[error("{0}")]
    Start(String),
    /// Something that runs for ever ended.
    #[error("{0}")]
    Failed(String),
}

impl AppError {
    /// 2 for what the caller said wrong, 1 for the rest.
    #[must_use]
    pub const fn exit_code(&self) -> u8 {
        match self {
            Self::Settings(_) | Self::Resources(_) => 2,
            Self::Start(_) | Self::Failed(_) => 1,
        }
    }
}

/// Reads what the settings refer to and reports the first thing that is wrong; starts nothing.
///
/// # Errors
/// The first thing that is wrong.
pub fn check(settings: &Settings) -> Result<(), AppError> {
    match settings.source()? {
        Source::File(path) => {
            let resources = crate::discovery::file::read(&path)?;
            let cluster = |n: usize, what: &str| format!("{n} {what}{}", if n == 1 { "" } else { "s" });
            println!(
                "{}: {}, {}",
                path.display(),
                cluster(resources.services.len(), "service"),
                cluster(resources.endpoints.len(), "endpoint slice")
            );
            if let Some(directory) = &settings.certificates {
                let identity = weft_certs::Identity::from_files(directory).map_err(start)?;
                println!("{}: {}", directory.display(), identity.svid.id());
            }
        }
        Source::ControlPlane(control, workload) => {
            let enrolment = enrolment(settings)?;
            println!(
                "control plane {}, workload {}, enrolment by {}",
                control.address,
                workload.uid(),
                enrolment.map_or_else(|| "nothing".to_owned(), |e| e.to_string())
            );
        }
    }
    Ok(())
}

fn start(error: impl std::fmt::Display) -> AppError {
    AppError::Start(error.to_string())
}

/// Runs the sidecar to its end, and to that of the successor that it started; the exit code.
///
/// # Errors
/// Why it could not start, or what failed.
pub fn run(mut settings: Settings) -> Result<u8, AppError> {
    let program = Program::called().map_err(start)?;
    // What others are told of (`ready.json`) must mean the same in their working directory.
    settings.state_dir = settings.state_dir.map(std::path::absolute).transpose().map_err(start)?;
    let filter = settings.log.clone().or_else(|| std::env::var("WEFT_LOG").ok()).unwrap_or_else(|| "info".to_owned());
    let set_log = log::init(&filter).map_err(|e| config::refuse("log", e))?;
    let aead = weft_certs::tls::choose_aead(settings.aead.wanted());
    let enrolment = enrolment(&settings)?;
    successor::follow_supervisor();
    let (predecessor, mut inherited) = relieve(&settings)?;
    let lock = settings.state_dir.as_deref().map(|dir| own_state_dir(dir, &mut inherited)).transpose()?;
    let descriptors = raise_descriptors();
    let source = settings.source()?;
    if let Source::File(path) = &source {
        // Before anything listens: nobody should have to stop a sidecar that cannot serve.
        crate::discovery::file::read(path)?;
    }
    let telemetry = Telemetry::new(&access_log_options(&settings))
        .map_err(|e| config::refuse("accessLog.path", format!("{}: {e}", settings.access_log.path)))?;
    let agent = settings.agent()?;
    let has_identity = matches!(source, Source::ControlPlane(..)) || settings.certificates.is_some() || agent.is_some();
    may_divert(settings.interception.inbound_mode)?;
    let sockets = Sockets::bind(&settings, has_identity, &mut inherited).map_err(AppError::Start)?;
    for left in inherited.rest() {
        tracing::warn!(setting = left.setting, address = left.address, "no listener any more");
    }
    drop(inherited);
    if settings.transparent {
        tell_own_packets(settings.interception.exempt_uid)?;
    }
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        outbound = %sockets.outbound.first().map(|b| b.address.to_string()).unwrap_or_default(),
        tunnel = %sockets.tunnel.as_ref().map_or_else(|| "none (no certificates)".to_owned(), |b| b.address.to_string()),
        admin = %sockets.admin.0,
        workers = settings.workers.0,
        descriptors,
        aead = aead.name(),
        "weft-proxy listens"
    );
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(start)?;
    let begin = Beginning { source, enrolment, agent, predecessor, program, lock };
    let process = Process::new(settings, telemetry, set_log);
    // Whoever reads these after the end would look for a process that is gone.
    let traces = Traces {
        ready: process.ready_file(),
        socket: sockets.socket.as_ref().map(|(path, _)| path.clone()),
        turn: process.turn.clone(),
    };
    let outcome = runtime.block_on(process.run(begin, sockets));
    drop(traces);
    outcome
}

/// Asks the process that serves for what it has, where that is wanted and there is one.
fn relieve(settings: &Settings) -> Result<(Option<Predecessor>, Inherited), AppError> {
    let socket = settings.socket().filter(|_| settings.take_over.at_start);
    match socket.map(|socket| takeover::ask(&socket)).transpose().map_err(AppError::Start)?.flatten() {
        Some((predecessor, inherited)) => Ok((Some(predecessor), inherited)),
        None => Ok((None, Inherited::default())),
    }
}

/// Files that speak of the process that serves; removed at its end.
struct Traces {
    ready: Option<PathBuf>,
    socket: Option<PathBuf>,
    turn: Turn,
}

impl Drop for Traces {
    fn drop(&mut self) {
        for path in self.ready.iter().chain(&self.socket).filter(|_| self.turn.is_now()) {
            let _ = std::fs::remove_file(path);
        }
    }
}

/// What the first identity and configuration come from.
struct Beginning {
    source: Source,
    enrolment: Option<Enrolment>,
    agent: Option<(PathBuf, Wanted)>,
    predecessor: Option<Predecessor>,
    program: Program,
    lock: Option<std::fs::File>,
}

/// The control thread's half of the process.
struct Process {
    settings: Settings,
    telemetry: Arc<Telemetry>,
    set_log: SetLog,
    drain: Drain,
    identity: IdentityCell,
    dumps: mpsc::Sender<DumpRequest>,
    dump_requests: Option<mpsc::Receiver<DumpRequest>>,
    ready: watch::Sender<bool>,
    ports: Arc<inbound::Ports>,
    stand_ins: Arc<intercept::StandIns>,
    turn: Turn,
    shelf: Shelf,
    relieved: Relieved,
    serving: watch::Receiver<Serving>,
    /// Signals and successors: they outlive the rest where a successor does.
    lasting: JoinSet<&'static str>,
    /// Invariant: everything that runs beside the data path is in here, and ends with it. None of them ends by itself, except those
    /// that say so by returning an empty name.
    tasks: JoinSet<&'static str>,
}

impl Process {
    fn new(settings: Settings, telemetry: Telemetry, set_log: SetLog) -> Self {
        let (dumps, dump_requests) = mpsc::channel(4);
        Self {
            settings,
            telemetry: Arc::new(telemetry),
            set_log,
            drain: Drain::new(),
            identity: IdentityCell::default(),
            dumps,
            dump_requests: Some(dump_requests),
            ready: watch::Sender::new(false),
            ports: inbound::Ports::new(),
            stand_ins: Arc::default(),
            turn: Turn::new(),
            shelf: Shelf::default(),
            relieved: Relieved::default(),
            serving: watch::channel(Serving::Own).1,
            lasting: JoinSet::new(),
            tasks: JoinSet::new(),
        }
    }

    fn ready_file(&self) -> Option<PathBuf> {
        self.settings.state_dir.as_ref().map(|dir| dir.join("ready.json"))
    }

    async fn run(mut self, begin: Beginning, mut sockets: Sockets) -> Result<u8, AppError> {
        let Beginning { source, enrolment, agent, predecessor, program, lock } = begin;
        let (directory, publisher, asks) = Publisher::new();
        let own = sockets.own();
        let giver = self.giver(lock);
        let conversation = match predecessor {
            Some(mut predecessor) => {
                self.stand_ins.remember(std::mem::take(&mut predecessor.stand_ins));
                let followed = std::mem::take(&mut predecessor.followed);
                Some((predecessor.converse().map_err(start)?, followed))
            }
            None => {
                self.take_turn(&sockets.announcement())?;
                None
            }
        };
        let announcement = sockets.announcement();
        self.open_doors(&mut sockets, &directory, &giver)?;
        self.follow_successors(program, &giver)?;
        self.follow_signals()?;
        self.start_dns(&mut sockets, &directory, &own)?;
        self.start_resolver(&directory, &own);
        self.start_spans(&directory, &own);
        self.follow_log(&directory)?;
        let beginning = self.drain.beginning();
        let sourcing = async {
            let followed = match agent {
                Some((socket, wanted)) => Some(follow_agent(&socket, wanted, &self.telemetry.registry).await?),
                None => None,
            };
            match source {
                Source::File(path) => self.start_file(&path, publisher, followed),
                Source::ControlPlane(control, workload) => {
                    let tunnel = sockets.tunnel.as_ref().map_or(self.settings.inbound.tunnel, |bound| bound.address);
                    let plan = Plan { control, workload, tunnel, enrolment, followed };
                    self.start_xds(plan, publisher, asks, &directory).await
                }
            }
        };
        let sourced = tokio::select! {
            sourced = sourcing => sourced.map(Some),
            // Asked to end before there was anything to serve.
            () = beginning.cancelled() => Ok(None),
        };
        if sourced?.is_none() {
            return Ok(0);
        }
        let mut shared = worker::Shared::new(
            &self.settings,
            &directory,
            self.identity.get(),
            &self.drain,
            &self.telemetry,
            &self.ports,
            own,
        );
        shared.stand_ins = Arc::clone(&self.stand_ins);
        (shared.turn, shared.shelf) = (self.turn.clone(), self.shelf.clone());
        let mut workers = Workers::start(shared, sockets).map_err(AppError::Start)?;
        let rules = if self.turn.is_now() { self.install_rules(&workers.ports)? } else { None };
        let ready = watch_readiness(directory.clone(), self.settings.resources.is_some(), self.ready.clone());
        self.tasks.spawn(async move {
            ready.await;
            "readiness"
        });
        let rules = match conversation {
            Some((conversation, followed)) => {
                match self.take_over(conversation, followed, &announcement, &mut workers).await? {
                    Some(rules) => rules,
                    None => return Ok(0),
                }
            }
            None => rules,
        };
        let ready = self.ready.subscribe();
        self.lasting.spawn(async move {
            settle::when_quiet(ready).await;
            ""
        });
        self.serve(workers, rules).await
    }

    /// Serves until the drain is over, and stays for a successor.
    async fn serve(&mut self, mut workers: Workers, rules: Option<Rules>) -> Result<u8, AppError> {
        let deadline = self.settings.drain.deadline.0;
        tokio::select! {
            // First: when the last connection ends, the workers do too.
            biased;
            cut = self.drain.run(deadline) => tracing::info!(cut, "drained"),
            died = workers.died() => return Err(AppError::Failed(died)),
            Some(ended) = next_failure(&mut self.tasks) => return Err(AppError::Failed(ended)),
        }
        drop(rules);
        workers.join(Duration::from_secs(2)).await;
        self.telemetry.spans.drained(LAST_SPANS).await;
        Ok(self.outlive().await)
    }

    fn open_doors(&mut self, sockets: &mut Sockets, directory: &Directory, giver: &Arc<Giver>) -> Result<(), AppError> {
        let admin = Admin {
            ready: self.ready.subscribe(),
            telemetry: self.telemetry.clone(),
            directory: directory.clone(),
            drain: self.drain.clone(),
            dumps: self.dumps.clone(),
            identity: self.identity.clone(),
            set_log: self.set_log.clone(),
            probes: self.settings.admin.app_probes.clone().into(),
            turn: self.turn.clone(),
            giver: Some(Arc::clone(giver)),
            relieved: self.relieved.clone(),
        };
        let listener = sockets.admin.1.try_clone().and_then(tokio::net::TcpListener::from_std).map_err(start)?;
        let listener = Arc::new(listener);
        self.shelf.put(Kind::Tcp, "admin.listen", &sockets.admin.0, &listener);
        let (tcp, turn) = (admin.clone(), self.turn.clone());
        self.tasks.spawn(async move {
            tcp.serve_tcp(listener).await;
            if turn.is_over() { "" } else { "admin listener" }
        });
        if let Some((path, listener)) = sockets.socket.take() {
            let listener = Arc::new(tokio::net::UnixListener::from_std(listener).map_err(start)?);
            self.shelf.put(Kind::Unix, "admin.socket", &path.display(), &listener);
            let turn = self.turn.clone();
            self.tasks.spawn(async move {
                admin.serve_socket(listener).await;
                if turn.is_over() { "" } else { "admin socket" }
            });
        }
        Ok(())
    }

    fn start_file(&mut self, path: &Path, publisher: Publisher, followed: Option<Followed>) -> Result<(), AppError> {
        if let Some(followed) = followed {
            let _ = self.identity.set(followed.live());
            self.tasks.spawn(async move {
                followed.run().await;
                "Workload API"
            });
        }
        if let Some(directory) = &self.settings.certificates {
            let files = Files::open(directory, &self.telemetry.registry)
                .map_err(|e| config::refuse("certificates", e.to_string()))?;
            let _ = self.identity.set(files.live());
            self.tasks.spawn(async move {
                files.follow().await;
                "certificate files"
            });
        }
        let dumps = self.dump_requests.take().ok_or_else(|| start("started twice"))?;
        let source = FileSource::open(path, publisher, dumps)?;
        self.tasks.spawn(async move {
            source.follow().await;
            "resources file"
        });
        // There is nobody to tell.
        self.drain.withdrawal_acknowledged();
        Ok(())
    }
}

/// The first task that ended although none should; `None` never comes while the control plane's tasks run.
async fn next_failure(tasks: &mut JoinSet<&'static str>) -> Option<String> {
    loop {
        match tasks.join_next().await? {
            Ok("") => {}
            Ok(name) => return Some(format!("{name} ended")),
            Err(error) if error.is_panic() => return Some(format!("a control task panicked: {error}")),
            Err(_) => {}
        }
    }
}

async fn watch_readiness(directory: Directory, complete: bool, ready: watch::Sender<bool>) {
    let mut changes = directory.changes();
    loop {
        changes.borrow_and_update();
        let now = complete || directory.snapshot().inbound.is_some();
        if ready.send_if_modified(|ready| std::mem::replace(ready, now) != now) {
            tracing::info!(ready = now, "readiness");
        }
        if changes.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}
