//! Who is trusted with what, tried from outside with real processes and real sockets: bytes between sidecars, callers that a sidecar must
//! refuse, keys that must open nothing, tokens and their claims, an impostor of the control plane, the resource API's door, and the
//! explicit listener that is no open relay. Every refusal here stands beside the same call made rightly, so that it can fail.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a panic is how a test says what is wrong")]

mod api;
mod capture;
mod certificates;
mod clients;
mod discovery;
mod frames;
mod grpc_client;
mod impostor;
mod matrix;
mod modes;
mod peer;
mod refusal;
mod relay;
mod secrets;
#[path = "../../../proxy/tests/support/mesh.rs"]
mod sidecars;
mod stage;
mod tokens;
mod tunnel;
mod wire;
