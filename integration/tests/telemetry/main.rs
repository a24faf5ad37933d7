//! What the mesh tells of its calls, read by programs that others wrote: spans by OpenTelemetry's own messages, metrics by a real Prometheus.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a panic is how a test says what is wrong")]

mod prometheus;
mod receiver;
mod shop;
mod tls;
mod traces;
