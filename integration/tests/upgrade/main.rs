//! A new binary takes a running sidecar's place: calls on new and on kept connections go on, nothing is refused or
//! reset, and what was open lives on in the older process. Real processes and sockets; the callers are the test itself,
//! and never try twice.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a panic is how a test says what is wrong")]

mod alone;
mod app;
mod intercepted;
mod meshed;
mod traffic;

use std::path::Path;
use std::process::Command;
use weft_integration::rig::run;

/// Puts another file at `path`, as an installation does: written beside it and renamed. By a process of its own: what
/// this one has open for writing while another test starts a program could not be executed (ETXTBSY).
fn install(program: &Path, path: &Path) {
    let beside = path.with_extension("new");
    run(Command::new("cp").arg(program).arg(&beside)).ok();
    std::fs::rename(&beside, path).unwrap();
}

/// Whether there is a process of that id.
fn lives(pid: u64) -> bool {
    Path::new(&format!("/proc/{pid}")).exists()
}
