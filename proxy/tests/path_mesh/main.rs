//! The data path from end to end, in one process: application → outbound sidecar → mTLS → inbound sidecar → application, over real sockets
//! and real certificates. The servers are written on tokio and the h2 crate here; programs that nobody here wrote are `integration`'s.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a panic is how a test reports")]

mod access_log;
mod authorize;
mod calls;
mod cors;
mod grpc;
mod grpc_web;
mod lifetime;
mod rig;
mod tcp;
mod tokens;
mod trust;
mod websocket;
