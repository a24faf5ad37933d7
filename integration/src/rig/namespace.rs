//! A network namespace of a test: made with `ip netns`, entered with `nsenter`, deleted with the value.

use super::process::{command, run};
use super::program;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use std::ffi::OsStr;
use std::os::fd::AsFd as _;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::JoinHandle;

/// A network namespace with loopback up. Making one needs root; without it the test fails and says so.
pub struct Namespace {
    name: String,
}

static NEXT: AtomicU32 = AtomicU32::new(0);

impl Namespace {
    /// A new, empty namespace.
    #[must_use]
    #[track_caller]
    #[expect(clippy::new_without_default, reason = "making a namespace is an effect on the machine")]
    pub fn new() -> Self {
        assert!(rustix::process::geteuid().is_root(), "this test makes network namespaces and needs root");
        let name = format!("weft-test-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        run(&mut command(program("ip"), &["netns", "add", &name])).ok();
        let namespace = Self { name };
        run(&mut namespace.command(program("ip"), &["link", "set", "lo", "up"])).ok();
        namespace
    }

    /// Its name, as `ip netns` lists it.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Does something in it, on a thread of its own, and waits for that: sockets made there, also by threads begun there, belong to it.
    #[track_caller]
    pub fn within<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let path = self.path();
        let done = std::thread::scope(|scope| scope.spawn(|| in_namespace(&path, work)).join());
        done.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }

    /// The same without waiting. A thread that never ends keeps the namespace until the process does.
    pub fn spawn<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
        let path = self.path();
        std::thread::spawn(move || in_namespace(&path, work))
    }

    fn path(&self) -> String {
        format!("/run/netns/{}", self.name)
    }

    /// A command that runs in it.
    pub fn command(&self, program_path: impl AsRef<OsStr>, arguments: &[&str]) -> Command {
        let mut command = command(program("nsenter"), &[&format!("--net={}", self.path()), "--"]);
        command.arg(program_path).args(arguments);
        command
    }
}

fn in_namespace<T>(path: &str, work: impl FnOnce() -> T) -> T {
    let file = std::fs::File::open(path).unwrap_or_else(|e| panic!("{path}: {e}"));
    move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))
        .unwrap_or_else(|e| panic!("entering {path}: {e}"));
    work()
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = command(program("ip"), &["netns", "delete", &self.name]).status();
    }
}
