//! Every field of TrafficPolicy and RateLimitPolicy, end to end: a control plane, sidecars, and applications that the test plays. Each field
//! has a row that says what its callers or its application see with it, and what they see without; a field of the kinds' published schemas
//! without a row fails the test by its name. And what limits that are counted together do while the control plane is away.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a panic is how a test says what is wrong")]

mod app;
mod leases;
mod limits;
mod matches;
mod table;
mod traffic;
