//! Control planes over one etcd: any of them serves any sidecar, one at a time does what only one may do, and any of them may be killed.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a panic is how a test says what is wrong")]

mod replicas;
mod takeover;
