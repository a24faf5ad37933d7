//! A new binary takes a running sidecar's place: calls on new and on kept connections go on, nothing is refused or reset, and what was open
//! lives on in the older process. Real processes and sockets; the callers are the test itself, and never try twice.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a panic is how a test says what is wrong")]

mod alone;
mod app;
mod meshed;
mod traffic;

use std::path::Path;

/// Puts another file at `path`, as an installation does: written beside it and renamed.
fn install(program: &Path, path: &Path) {
    let beside = path.with_extension("new");
    std::fs::copy(program, &beside).unwrap();
    std::fs::rename(&beside, path).unwrap();
}

/// Whether there is a process of that id.
fn lives(pid: u64) -> bool {
    Path::new(&format!("/proc/{pid}")).exists()
}
