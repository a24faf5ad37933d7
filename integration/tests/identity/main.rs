//! The authority of the mesh, tried from outside with real processes: certificates that are revoked, how many there may be, what is
//! written down of them, how its keys are kept. Every refusal stands beside the same thing done rightly, so that it can fail.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a panic is how a test says what is wrong")]

mod federation;
mod join;
mod keys;
mod limits;
mod pki;
mod revocation;
mod service_accounts;
mod spire;
mod workload_api;
