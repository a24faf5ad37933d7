//! Interception as a pod has it: rules that `weft-proxy intercept` puts in force before the sidecar runs, with the arguments and the
//! privileges that `weft inject` gives either. In network namespaces; needs root.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a panic is how a test says what is wrong")]

mod clients;
mod families;
mod injected;
mod lab;
mod life;
mod matrix;
mod mesh;
mod names;
mod pod;
mod rules;
mod servers;
mod wire;
