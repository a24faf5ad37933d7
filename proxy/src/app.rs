//! Start, wiring and end of the process: settings become sockets, threads and tasks here, and nowhere else.
//!
//! One control thread (the caller's) runs discovery, identity, admin and telemetry; each worker thread runs the data path on its own
//! runtime and sockets. What remembered configuration and certificates allow is served before the control plane is even asked.

mod control_plane;
mod host;
mod join;
mod log;
mod seeing;
mod settle;
mod sockets;

mod worker;

use crate::admin::{Admin, SetLog};
use crate::config::{self, ConfigError, Settings, Source};
use crate::discovery::file::{FileError, FileSource};
use crate::discovery::{Directory, DumpRequest, Publisher};
use crate::drain::Drain;
use crate::endpoint::external;
use crate::identity::{Enrolment, Files, Followed, Wanted};
use crate::inbound;
use crate::intercept::{self, dns, nft};
use crate::telemetry::Telemetry;
use control_plane::Plan;
use host::{access_log_options, enrolment, own_state_dir, raise_descriptors};
use join::follow_agent;
use sockets::Sockets;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};
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

/// Runs the sidecar to its end.
///
/// # Errors
/// Why it could not start, or what failed.
pub fn run(mut settings: Settings) -> Result<(), AppError> {
    // What others are told of (`ready.json`) must mean the same in their working directory.
    settings.state_dir = settings.state_dir.map(std::path::absolute).transpose().map_err(start)?;
    let filter = settings.log.clone().or_else(|| std::env::var("WEFT_LOG").ok()).unwrap_or_else(|| "info".to_owned());
    let set_log = log::init(&filter).map_err(|e| config::refuse("log", e))?;
    let aead = weft_certs::tls::choose_aead(settings.aead.wanted());
    let enrolment = enrolment(&settings)?;
    let _lock = settings.state_dir.as_deref().map(own_state_dir).transpose()?;
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
    let sockets = Sockets::bind(&settings, has_identity).map_err(AppError::Start)?;
    if settings.transparent {
        tell_own_packets(settings.interception.exempt_uid)?;
    }
    let ready_file = settings.state_dir.as_ref().map(|dir| dir.join("ready.json"));
    if let Some(path) = &ready_file {
        sockets.announce(path).map_err(AppError::Start)?;
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
    let socket_path = sockets.socket.as_ref().map(|(path, _)| path.clone());
    let begin = Beginning { source, enrolment, agent };
    let outcome = runtime.block_on(Process::new(settings, telemetry, set_log).run(begin, sockets));
    // Whoever reads these after the end would look for a process that is gone.
    for path in ready_file.iter().chain(&socket_path) {
        let _ = std::fs::remove_file(path);
    }
    outcome
}

/// What the first identity and configuration come from.
struct Beginning {
    source: Source,
    enrolment: Option<Enrolment>,
    agent: Option<(PathBuf, Wanted)>,
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
            tasks: JoinSet::new(),
        }
    }

    async fn run(mut self, begin: Beginning, mut sockets: Sockets) -> Result<(), AppError> {
        let Beginning { source, enrolment, agent } = begin;
        let (directory, publisher, asks) = Publisher::new();
        let own = sockets.own();
        self.open_doors(&mut sockets, &directory)?;
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
            return Ok(());
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
        let mut workers = Workers::start(shared, sockets).map_err(AppError::Start)?;
        let rules = self.install_rules(&workers.ports)?;
        let ready = watch_readiness(directory.clone(), self.settings.resources.is_some(), self.ready.clone());
        self.tasks.spawn(async move {
            ready.await;
            "readiness"
        });
        let ready = self.ready.subscribe();
        self.tasks.spawn(async move {
            settle::when_quiet(ready).await;
            ""
        });
        let deadline = self.settings.drain.deadline.0;
        let outcome = tokio::select! {
            cut = self.drain.run(deadline) => {
                tracing::info!(cut, "drained");
                Ok(())
            }
            died = workers.died() => Err(AppError::Failed(died)),
            Some(ended) = next_failure(&mut self.tasks) => Err(AppError::Failed(ended)),
        };
        drop(rules);
        if outcome.is_ok() {
            workers.join(Duration::from_secs(2)).await;
            self.telemetry.spans.drained(LAST_SPANS).await;
        }
        outcome
    }

    fn open_doors(&mut self, sockets: &mut Sockets, directory: &Directory) -> Result<(), AppError> {
        let admin = Admin {
            ready: self.ready.subscribe(),
            telemetry: self.telemetry.clone(),
            directory: directory.clone(),
            drain: self.drain.clone(),
            dumps: self.dumps.clone(),
            identity: self.identity.clone(),
            set_log: self.set_log.clone(),
            probes: self.settings.admin.app_probes.clone().into(),
        };
        let listener = sockets.admin.1.try_clone().and_then(tokio::net::TcpListener::from_std).map_err(start)?;
        let tcp = admin.clone();
        self.tasks.spawn(async move {
            tcp.serve_tcp(listener).await;
            "admin listener"
        });
        if let Some((_, listener)) = sockets.socket.take() {
            let listener = tokio::net::UnixListener::from_std(listener).map_err(start)?;
            self.tasks.spawn(async move {
                admin.serve_socket(listener).await;
                "admin socket"
            });
        }
        Ok(())
    }

    fn follow_signals(&mut self) -> Result<(), AppError> {
        let mut terminate = signal(SignalKind::terminate()).map_err(start)?;
        let mut interrupt = signal(SignalKind::interrupt()).map_err(start)?;
        let drain = self.drain.clone();
        self.tasks.spawn(async move {
            loop {
                tokio::select! {
                    _ = terminate.recv() => if drain.begun() { drain.application_gone() } else { drain.begin() },
                    _ = interrupt.recv() => drain.application_gone(),
                }
            }
        });
        if !self.settings.waits_for_application() {
            let drain = self.drain.clone();
            self.tasks.spawn(async move {
                drain.beginning().cancelled().await;
                drain.application_gone();
                ""
            });
        }
        if self.settings.until_stdin_closes {
            let drain = self.drain.clone();
            // A thread of its own: standard input may be anything, and reading it can block for ever. It dies with the process.
            std::thread::Builder::new()
                .name("weft-stdin".into())
                .spawn(move || {
                    let _ = std::io::copy(&mut std::io::stdin().lock(), &mut std::io::sink());
                    tracing::info!("standard input closed: the application is gone");
                    drain.application_gone();
                })
                .map_err(start)?;
        }
        Ok(())
    }

    fn start_dns(
        &mut self,
        sockets: &mut Sockets,
        directory: &Directory,
        own: &[std::net::SocketAddr],
    ) -> Result<(), AppError> {
        let resolver = dns::Resolver::new(directory.clone(), self.upstream(own), Arc::clone(&self.stand_ins));
        for (_, udp, tcp) in std::mem::take(&mut sockets.dns) {
            let udp = tokio::net::UdpSocket::from_std(udp).map_err(start)?;
            let tcp = tokio::net::TcpListener::from_std(tcp).map_err(start)?;
            let resolver = Arc::clone(&resolver);
            self.tasks.spawn(async move {
                resolver.serve(udp, tcp).await;
                "DNS"
            });
        }
        Ok(())
    }

    /// Follows the addresses of external hosts.
    fn start_resolver(&mut self, directory: &Directory, own: &[std::net::SocketAddr]) {
        let upstream = self.upstream(own);
        let directory = directory.clone();
        self.tasks.spawn(async move {
            match external::resolver(&upstream) {
                Ok(resolver) => external::run(directory, resolver, std::future::pending()).await,
                Err(error) => tracing::warn!("external hosts cannot be resolved: {error}"),
            }
            ""
        });
    }

    /// The name servers of the world outside.
    fn upstream(&self, own: &[std::net::SocketAddr]) -> Vec<std::net::SocketAddr> {
        if !self.settings.dns.upstream.is_empty() {
            return self.settings.dns.upstream.clone();
        }
        let text = std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
        dns::system_upstream(&text, own)
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

    /// Puts the redirection in force once the workers serve; the value takes it back.
    fn install_rules(&self, ports: &worker::Ports) -> Result<Option<Rules>, AppError> {
        let interception = &self.settings.interception;
        if !interception.install {
            return Ok(None);
        }
        let plan = nft::Plan {
            own: interception.exempt_uid.map_or(nft::Own::Mark(intercept::MARK), nft::Own::Uid),
            exclude_uids: interception.exclude_uids.clone(),
            outbound: ports.outbound,
            inbound: ports.plaintext.map(|port| nft::Inbound { mode: interception.inbound_mode, port }),
            dns: ports.dns,
            direct: ports.direct.clone(),
            outbound_filter: interception.outbound.filter("interception.outbound")?,
            inbound_filter: interception.inbound.filter("interception.inbound")?,
        };
        intercept::rules::install(&plan).map_err(start)?;
        tracing::info!(
            outbound = plan.outbound,
            inbound = ports.plaintext,
            mode = ?interception.inbound_mode,
            dns = plan.dns,
            "interception rules are in force"
        );
        Ok(Some(Rules))
    }
}

/// Sees to it that the rules know the sidecar's own packets: what they would capture of it would go round in circles.
fn tell_own_packets(exempt_uid: Option<u32>) -> Result<(), ConfigError> {
    match exempt_uid {
        Some(uid) => {
            let own = rustix::process::geteuid().as_raw();
            if uid == own { Ok(()) } else { Err(config::refuse("interception.exemptUid", format!("is {uid}, but the sidecar runs as user {own}: its own calls would be captured"))) }
        }
        None => intercept::mark_sockets().map_err(|e| {
            let why = format!("the sidecar cannot mark its packets ({e}): give it CAP_NET_ADMIN, or where the rules go by user, say which (interception.exemptUid, --exempt-uid)");
            config::refuse("transparent", why)
        }),
    }
}

/// Sees to it that a sidecar behind TPROXY may do what it will have to.
fn may_divert(mode: intercept::Mode) -> Result<(), ConfigError> {
    if mode == intercept::Mode::Redirect {
        return Ok(());
    }
    intercept::may_divert().map_err(|e| {
        let why = format!(
            "tproxy takes sockets with addresses of others ({e}): give the sidecar CAP_NET_ADMIN, or use redirect"
        );
        config::refuse("interception.inboundMode", why)
    })
}

/// The interception rules; dropping removes them.
struct Rules;

impl Drop for Rules {
    fn drop(&mut self) {
        if let Err(error) = intercept::rules::remove() {
            tracing::error!(%error, "the interception rules could not be removed");
        }
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
