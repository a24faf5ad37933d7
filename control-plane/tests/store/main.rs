//! What every store promises, shown on the embedded one and on a real etcd; and what each of them promises besides.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a panic is how a test says what is wrong")]

mod chaos;
mod crash;
mod embedded;
mod etcd;
mod history;
mod load;
mod partition;
#[path = "../../../integration/src/rig/etcd.rs"]
#[allow(dead_code, reason = "the end-to-end tests use the rest")]
mod server;
mod suite;
