//! Starting a successor (SIGUSR2), and staying for it: whoever started this process watches its id, and not the
//! successor's.
//!
//! The successor is the program that stands at the path by which this one was called, with the same arguments and
//! environment. What becomes of it is seen at the private socket: whoever answers there serves. A process that started
//! its successor outlives it: it passes signals on, starts the next one too, and ends with the exit code of the last.
//! So a service manager, a container whose first process this is, and `weft run` see one process over any number of
//! versions.

use crate::drain::Drain;
use crate::takeover::{Giver, Turn};
use rustix::process::{Pid, Signal, getppid, kill_process, set_parent_process_death_signal};
use std::ffi::OsString;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::signal::unix::{Signal as Signals, SignalKind, signal};
use tokio::sync::watch;
use tokio::time::{Instant, timeout};

/// Tells a successor who started it.
const SUPERVISOR: &str = "WEFT_SUPERVISOR";
/// Makes it take over.
const TAKE_OVER: &str = "WEFT_TAKE_OVER";
/// How often is looked who serves, while that is open.
const LOOK: Duration = Duration::from_millis(100);
/// For a program to come so far that the other half of its patience is counted by the takeover itself.
const START: Duration = Duration::from_secs(5);
/// One question at the private socket.
const ASK: Duration = Duration::from_secs(2);

/// How this process was called.
#[derive(Clone, Debug)]
pub(super) struct Program {
    path: PathBuf,
    arguments: Vec<OsString>,
}

impl Program {
    /// As the command line says; to be asked before somebody changes the working directory.
    pub(super) fn called() -> std::io::Result<Self> {
        let mut words = std::env::args_os();
        let name = PathBuf::from(words.next().unwrap_or_default());
        let path = if name.components().count() > 1 {
            std::path::absolute(name)?
        } else {
            // Not where the executable is now, but where its name leads: a link may lead to another version later.
            let path = std::env::var_os("PATH").unwrap_or_default();
            let mut found = std::env::split_paths(&path).map(|dir| dir.join(&name)).filter(|path| path.is_file());
            found.next().map_or_else(std::env::current_exe, Ok)?
        };
        Ok(Self { path, arguments: words.collect() })
    }

    fn start(&self) -> std::io::Result<Child> {
        Command::new(&self.path)
            .args(&self.arguments)
            .env(TAKE_OVER, "true")
            .env(SUPERVISOR, std::process::id().to_string())
            .spawn()
    }
}

/// Who serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Serving {
    /// This process, as far as is known.
    Own,
    /// A process that somebody else started.
    Other,
    /// A process that this one started.
    Child(u32),
    /// It has ended, with this code.
    Ended(u8),
}

/// The process that started this one to take its place, and stays for it.
fn supervisor() -> Option<Pid> {
    let told: i32 = std::env::var(SUPERVISOR).ok()?.parse().ok()?;
    getppid().filter(|parent| parent.as_raw_nonzero().get() == told)
}

/// Ends in order when whoever stays for this process is gone: nobody would pass signals on.
pub(super) fn follow_supervisor() {
    if supervisor().is_some()
        && let Err(error) = set_parent_process_death_signal(Some(Signal::TERM))
    {
        tracing::warn!(%error, "this process will not notice the end of the one that started it");
    }
}

/// Passes a signal on to the process that serves; whether there is one.
pub(super) fn pass(serving: &watch::Receiver<Serving>, number: Signal) -> bool {
    let Serving::Child(child) = *serving.borrow() else { return false };
    if let Some(pid) = i32::try_from(child).ok().and_then(Pid::from_raw) {
        // It may have ended this very moment.
        let _ = kill_process(pid, number);
    }
    true
}

/// What was started, and what is known of it.
pub(super) struct Successors {
    pub program: Program,
    pub giver: Arc<Giver>,
    pub socket: Option<PathBuf>,
    pub turn: Turn,
    pub drain: Drain,
    pub serving: watch::Sender<Serving>,
    children: Vec<Child>,
    attempt: Option<(u32, Instant)>,
}

impl Successors {
    /// None was started yet.
    pub(super) fn new(program: Program, giver: Arc<Giver>, socket: Option<PathBuf>) -> Self {
        let (turn, drain) = (giver.turn.clone(), giver.drain.clone());
        let serving = watch::Sender::new(Serving::Own);
        Self { program, giver, socket, turn, drain, serving, children: Vec::new(), attempt: None }
    }

    /// What runs until it is dropped.
    ///
    /// # Errors
    /// When signals cannot be listened for.
    pub(super) fn follow(self) -> std::io::Result<impl Future<Output = ()>> {
        let (wanted, ended) = (signal(SignalKind::user_defined2())?, signal(SignalKind::child())?);
        Ok(self.run(wanted, ended))
    }

    async fn run(mut self, mut wanted: Signals, mut ended: Signals) {
        let mut relieved = self.giver.successor.subscribe();
        loop {
            let look = self.attempt.map(|_| Instant::now() + LOOK);
            tokio::select! {
                _ = wanted.recv() => self.want(),
                _ = ended.recv() => {}
                Ok(()) = relieved.changed() => {}
                () = async { match look {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                } } => {}
            }
            self.settle().await;
            self.reap().await;
        }
    }

    /// Starts one, unless that is somebody else's business.
    fn want(&mut self) {
        if let Some(parent) = supervisor() {
            // One process stays for all of them.
            if self.turn.is_now() && kill_process(parent, Signal::USR2).is_ok() {
                return;
            }
        }
        if *self.serving.borrow() == Serving::Other {
            tracing::warn!("SIGUSR2: another process has taken over");
            return;
        }
        if self.socket.is_none() {
            tracing::error!(
                "SIGUSR2: a successor takes over at the private socket, and this process has none (stateDir or admin.socket)"
            );
            return;
        }
        if let Some((pid, _)) = self.attempt {
            tracing::warn!(pid, "SIGUSR2: another process is being started already");
            return;
        }
        match self.program.start() {
            Ok(child) => {
                tracing::info!(pid = child.id(), program = %self.program.path.display(), "started, to take over");
                self.attempt = Some((child.id(), Instant::now() + self.giver.patience + START));
                self.children.push(child);
            }
            Err(error) => {
                tracing::error!("{} cannot be started: {error}; this process goes on", self.program.path.display());
            }
        }
    }

    /// Whether what was started last serves, or is too late.
    async fn settle(&mut self) {
        let first = self.turn.is_over() && *self.serving.borrow() == Serving::Own;
        if first && !self.is_ours() {
            self.serving.send_replace(Serving::Other);
            return;
        }
        let Some((pid, until)) = self.attempt else { return };
        if first || (self.turn.is_over() && self.answers().await == Some(pid)) {
            self.attempt = None;
            self.serving.send_replace(Serving::Child(pid));
            tracing::info!(pid, "serves; this process passes signals on and ends with it");
        } else if Instant::now() >= until {
            tracing::error!(pid, "the new process does not become ready: it is killed");
            // Its end is noticed as any other.
            let late = self.children.iter_mut().find(|child| child.id() == pid);
            if let Some(Err(error)) = late.map(Child::kill) {
                tracing::warn!(pid, %error, "it cannot be killed");
            }
            self.attempt = Some((pid, until + START));
        }
    }

    /// Whether the process that has relieved this one is the one that it started.
    fn is_ours(&self) -> bool {
        let relieved_by = *self.giver.successor.borrow();
        self.attempt.is_some_and(|(attempt, _)| relieved_by.is_none_or(|pid| pid == attempt))
    }

    async fn reap(&mut self) {
        let mut gone = Vec::new();
        self.children.retain_mut(|child| match child.try_wait() {
            Ok(None) => true,
            Ok(Some(status)) => {
                gone.push((child.id(), status));
                false
            }
            Err(_) => false,
        });
        for (pid, status) in gone {
            if self.attempt.is_some_and(|(attempt, _)| attempt == pid) {
                self.attempt = None;
                // It may have taken over in its last moment.
                if !self.turn.is_over() || self.answers().await.is_some() {
                    tracing::error!(pid, "the new process ended ({status}) before it took over; nothing has changed");
                    continue;
                }
            } else if *self.serving.borrow() != Serving::Child(pid) {
                tracing::info!(pid, "a process that was relieved has ended ({status})");
                continue;
            }
            tracing::info!(pid, "the process that serves has ended ({status})");
            self.serving.send_replace(Serving::Ended(code(status)));
            // Nobody accepts any more: what is left here keeps whoever watches from starting anew.
            let _ = self.drain.relieve(Duration::ZERO);
        }
    }

    /// The process that answers at the private socket.
    async fn answers(&self) -> Option<u32> {
        let socket: &Path = self.socket.as_deref()?;
        let ask = async {
            let mut stream = UnixStream::connect(socket).await.ok()?;
            stream.write_all(b"GET /process HTTP/1.1\r\n\r\n").await.ok()?;
            let mut answer = Vec::new();
            stream.take(16 * 1024).read_to_end(&mut answer).await.ok()?;
            let start = answer.windows(4).position(|end| end == b"\r\n\r\n")? + 4;
            let said: serde_json::Value = serde_json::from_slice(&answer[start..]).ok()?;
            said["pid"].as_u64()?.try_into().ok()
        };
        timeout(ASK, ask).await.ok().flatten()
    }
}

/// As shells have them.
fn code(status: ExitStatus) -> u8 {
    let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal)).unwrap_or(1);
    u8::try_from(code & 0xff).unwrap_or(1)
}
