//! What a call costs, counted and not timed: allocations of each sidecar for a request on every hot path, against a recorded budget.
//! Syscalls and instructions of whole processes are budgeted by `integration/tests/budget`.

#![expect(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a panic is how a test reports")]

mod allocations;
mod child;
mod counter;
mod load;
#[path = "../support/mesh.rs"]
mod mesh;
mod pair;
mod recorded;
mod sites;
