//! The sidecar of Weft: one way through, `accept → detect → (inbound: terminate mTLS → authorize) → route →
//! [balance → connect → exchange] → respond → observe`, where a retry is a loop around the three in brackets only.
//!
//! Each module owns one stage and hands the next one a value; nothing reaches back. What *decides* (routing, balancing, breakers,
//! retries, authorization) lives in `weft-policy`; certificates live in `weft-certs`. Neither is repeated here.

pub mod admin;
pub mod app;
pub mod config;
pub mod discovery;
pub mod drain;
pub mod endpoint;
pub mod error;
pub mod exchange;
pub mod identity;
pub mod inbound;
pub mod intercept;
pub mod listen;
mod moment;
pub mod outbound;
mod random;
pub mod takeover;
pub mod telemetry;

pub use error::ProxyError;
pub use weft_codec as codec;
