//! A network namespace of a test: made with `ip netns`, entered with `nsenter`, deleted with the value.

use super::process::{command, run};
use super::program;
use std::ffi::OsStr;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

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

    /// A command that runs in it.
    pub fn command(&self, program_path: impl AsRef<OsStr>, arguments: &[&str]) -> Command {
        let mut command = command(program("nsenter"), &[&format!("--net=/run/netns/{}", self.name), "--"]);
        command.arg(program_path).args(arguments);
        command
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = command(program("ip"), &["netns", "delete", &self.name]).status();
    }
}
