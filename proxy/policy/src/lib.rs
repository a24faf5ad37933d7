//! The pure core of Weft: everything that *decides*, as plain functions and state machines over values.
//!
//! Nothing here performs I/O, reads a clock, draws randomness, spawns or waits: `now` is a [`std::time::Instant`] argument, randomness a `u64`, an `f64` in
//! `[0, 1)` or a closure that yields `u64`s. The sidecar runs these decisions for each call; the control plane runs [`config`] before it pushes
//! and the same decisions to explain them. A decision returns a value that owns what the next stage needs: a permit releases itself when dropped.

pub mod authorize;
pub mod balance;
pub mod breaker;
pub mod config;
pub mod deadline;
pub mod limit;
pub mod retry;
pub mod route;
pub mod text;
pub mod trace;
