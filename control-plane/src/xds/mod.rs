//! The xDS server: incremental aggregated discovery of Weft's own resources over mTLS.
//!
//! [`snapshot`] is what is offered at a moment (immutable, each resource encoded once), [`offer`] to whom, [`session`] is the protocol of one stream (pure:
//! requests in, responses out), [`convergence`] knows which sidecar holds what, [`pace`] how long changes take to get there, [`interest`] which stream a change concerns, and [`server`] puts the three behind tonic. What the
//! resources say is decided in [`crate::compile`]; who may connect at all is decided by the TLS acceptor and [`crate::identity`].

mod by_type;
pub mod convergence;
pub mod interest;
pub mod offer;
pub mod pace;
pub mod server;
pub mod session;
mod shards;
pub mod snapshot;
mod sorted;

pub use convergence::Convergence;
pub use offer::{Canary, Offer};
pub use pace::Pace;
pub use server::{Discovery, Hub};
pub use session::Client;
pub use snapshot::Snapshot;
