//! Child processes of tests: their output kept in a file, their end tied to the value that holds them.

use super::{DEADLINE, wait_for};
use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use std::ffi::OsStr;
use std::fs::File;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// A running child in a process group of its own. Dropped, it gets SIGTERM, ten seconds, then SIGKILL to the group.
pub struct Process {
    child: Child,
    log: PathBuf,
    name: String,
}

/// What a command that ended left behind.
#[derive(Debug)]
pub struct Output {
    /// Exit code; 128 + signal when it was killed.
    pub code: i32,
    /// What it wrote to stdout.
    pub out: String,
    /// What it wrote to stderr.
    pub err: String,
}

impl Output {
    /// The output of a command that must have succeeded.
    #[track_caller]
    pub fn ok(self) -> String {
        assert_eq!(self.code, 0, "stdout: {}\nstderr: {}", self.out, self.err);
        self.out
    }
}

/// Runs a command to its end, at most [`DEADLINE`].
#[track_caller]
pub fn run(command: &mut Command) -> Output {
    use std::io::Read;
    let described = format!("{command:?}");
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|e| panic!("{described}: {e}"));
    let reader = |pipe: Option<Box<dyn Read + Send>>| {
        std::thread::spawn(move || {
            let mut text = Vec::new();
            if let Some(mut pipe) = pipe {
                let _ = pipe.read_to_end(&mut text);
            }
            String::from_utf8_lossy(&text).into_owned()
        })
    };
    let out = reader(child.stdout.take().map(|p| Box::new(p) as _));
    let err = reader(child.stderr.take().map(|p| Box::new(p) as _));
    let end = Instant::now() + DEADLINE;
    let status = loop {
        match child.try_wait().expect("a child can be waited for") {
            Some(status) => break status,
            None if Instant::now() > end => {
                let _ = child.kill();
                let _ = child.wait();
                let soon = Instant::now() + Duration::from_secs(1);
                panic!("{described}: still running after {DEADLINE:?}: {:?} {:?}", read(out, soon), read(err, soon));
            }
            None => std::thread::sleep(Duration::from_millis(10)),
        }
    };
    let [out, err] = [out, err].map(|reader| read(reader, end));
    let left = "it ended, and left somebody behind who holds its output";
    let whole = |text: Option<String>| text.unwrap_or_else(|| panic!("{described}: {left}"));
    Output { code: code(status), out: whole(out), err: whole(err) }
}

/// What a reader has read to the end, if it gets there in time.
fn read(reader: JoinHandle<String>, end: Instant) -> Option<String> {
    while !reader.is_finished() {
        if Instant::now() > end {
            return None;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    reader.join().ok()
}

fn code(status: ExitStatus) -> i32 {
    use std::os::unix::process::ExitStatusExt;
    status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or_default())
}

impl Process {
    /// Starts `command`; its stdout and stderr go to `folder/name.log`.
    #[track_caller]
    pub fn start(folder: &Path, name: &str, command: &mut Command) -> Self {
        let log = folder.join(format!("{name}.log"));
        let file = File::options().create(true).append(true).open(&log).expect("the test's folder is writable");
        let child = command
            .stdin(Stdio::null())
            .stdout(file.try_clone().expect("a descriptor"))
            .stderr(file)
            .process_group(0)
            .spawn()
            .unwrap_or_else(|e| panic!("{command:?}: {e}"));
        Self { child, log, name: name.to_owned() }
    }

    /// Its process id, also that of its group.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it wrote so far, stdout and stderr together.
    #[must_use]
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// Waits until its log contains `text`.
    #[track_caller]
    pub fn wait_for_log(&mut self, text: &str) {
        let end = Instant::now() + DEADLINE;
        while !self.log().contains(text) {
            self.assert_running();
            assert!(Instant::now() < end, "{}: no {text:?} in its log:\n{}", self.name, self.log());
            std::thread::sleep(Duration::from_millis(25));
        }
    }

    /// Panics with its log when it has ended.
    #[track_caller]
    pub fn assert_running(&mut self) {
        if let Some(status) = self.child.try_wait().expect("a child can be waited for") {
            panic!("{} ended with {status}:\n{}", self.name, self.log());
        }
    }

    /// Sends a signal to the process alone.
    pub fn signal(&self, signal: Signal) {
        if let Some(pid) = self.id() {
            let _ = kill_process(pid, signal);
        }
    }

    /// Sends a signal to its whole group.
    pub fn signal_group(&self, signal: Signal) {
        if let Some(pid) = self.id() {
            let _ = kill_process_group(pid, signal);
        }
    }

    /// Waits for its end and gives the exit code (128 + signal when killed).
    #[track_caller]
    pub fn wait(&mut self) -> i32 {
        let name = self.name.clone();
        let child = &mut self.child;
        let status = wait_for(&format!("{name} ends"), || {
            child.try_wait().expect("a child can be waited for").ok_or_else(|| "still running".to_owned())
        });
        code(status)
    }

    /// SIGTERM, then its exit code.
    #[track_caller]
    pub fn stop(&mut self) -> i32 {
        self.signal(Signal::TERM);
        self.wait()
    }

    fn id(&self) -> Option<Pid> {
        i32::try_from(self.child.id()).ok().and_then(Pid::from_raw)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let ended = |child: &mut Child| child.try_wait().ok().flatten().is_some();
        if !ended(&mut self.child) {
            self.signal(Signal::TERM);
            let end = Instant::now() + Duration::from_secs(10);
            while Instant::now() < end && !ended(&mut self.child) {
                std::thread::sleep(Duration::from_millis(10));
            }
        }
        if !ended(&mut self.child) {
            self.signal_group(Signal::KILL);
            let _ = self.child.wait();
        }
        if std::thread::panicking() {
            let log = self.log();
            let tail: Vec<&str> = log.lines().rev().take(40).collect();
            eprintln!("--- {} ---", self.name);
            tail.iter().rev().for_each(|line| eprintln!("{line}"));
        }
    }
}

/// A command with its arguments; environment variables that would send it through somebody's proxy are taken out.
pub(super) fn command(program: impl AsRef<OsStr>, arguments: &[&str]) -> Command {
    let mut command = Command::new(program);
    command.args(arguments);
    for name in ["http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "no_proxy", "NO_PROXY", "KUBECONFIG"] {
        command.env_remove(name);
    }
    command
}
