//! Interception as a pod has it: rules that `weft-proxy intercept` puts in force before the sidecar runs, without privileges, under a
//! user of its own. In network namespaces; needs root.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a panic is how a test says what is wrong")]

mod pod;
mod rules;
