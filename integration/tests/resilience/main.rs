//! What goes wrong, and what users notice of it: a control plane that is killed, resources that are wrong, an upstream that fails every
//! call, instances that leave or die; and the routing, breaking and authorization that people rely on meanwhile. Real processes, real
//! sockets; what a caller saw is counted by the load driver or by the test itself.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a panic is how a test says what is wrong")]

mod access;
mod answers;
mod ejection;
mod forger;
mod leaves;
mod leaving;
mod open;
mod outage;
mod refusal;
mod rollout;
mod rotation;
mod routing;
mod storm;

use weft_integration::rig::stage;
