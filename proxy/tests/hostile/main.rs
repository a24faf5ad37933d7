//! Peers that mean harm, or are broken: requests and responses that two implementations could read differently (`smuggling`), upstreams that
//! fail in every way that a socket allows (`faults`), and HTTP/2 connections that cost more than they give (`abuse`). Sidecars are real
//! processes; clients and upstreams write raw bytes, since a library would refuse to.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a panic is how a test reports")]

mod abuse;
mod faults;
mod frames;
#[path = "../support/mesh.rs"]
mod mesh;
mod recorder;
mod rig;
mod smuggling;
mod wire;
