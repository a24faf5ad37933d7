//! What a call costs whole sidecars, counted and not timed: syscalls of each sidecar under strace, instructions of both under valgrind,
//! against recorded budgets. Allocations are budgeted by `proxy/tests/budget`, with which this shares its pairs and callers.
//!
//! `WEFT_BUDGET=record` records anew; `WEFT_BUDGET=report` prints everything and asserts nothing, of the program that
//! `WEFT_BUDGET_PROXY` names (a release build, for example) if it does.

#![expect(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a panic is how a test reports")]

#[path = "../../../proxy/tests/budget/load.rs"]
mod load;
#[path = "../../../proxy/tests/support/mesh.rs"]
mod mesh;
#[path = "../../../proxy/tests/budget/pair.rs"]
mod pair;
#[path = "../../../proxy/tests/budget/recorded.rs"]
mod recorded;

mod callgrind;
mod instructions;
mod strace;
mod syscalls;

/// The sidecar that is measured: of this build, unless a report is asked for of another.
fn sidecar() -> std::path::PathBuf {
    let other = std::env::var_os("WEFT_BUDGET_PROXY").filter(|_| recorded::mode() == recorded::Mode::Report);
    other.map_or_else(|| weft_integration::rig::binary("weft-proxy"), Into::into)
}
