//! kubectl, the oldest and the newest that can be had, against `weft up` and the kubeconfig that it wrote: what people do with every
//! kind, what they see, and what is left after a restart of the control plane.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a panic is how a test says what is wrong")]

mod apply;
mod kinds;
mod lasting;
mod program;
mod roles;
