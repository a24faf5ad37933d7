//! Weft's control plane, as a library: what people write (Kubernetes and Gateway API objects, Weft's policies) becomes what
//! sidecars hold (`weft.v1` resources over xDS), and the identities that mTLS needs are issued here.
//!
//! The way through is one: [`api`] over [`store`] → [`world`] (reflectors over a `kube::Client`) → [`compile`] (pure) → [`xds`]
//! (streams to sidecars), with [`identity`] (certificates, join tokens, registration) and [`fleet`] (control streams, golden metrics)
//! beside it; [`rollout`] decides which sidecars get a change first and whether the others follow, [`rbac`] decides who may do what over the API, [`journal`] is how what was done is written down, [`explain`] asks the sidecars' own core what it would do, [`plan`] what a change would do to the calls of the last hour; [`inject`] puts sidecars into pods; [`install`] writes what a cluster needs; [`web`] holds the dashboard's files. [`up`] wires it all into one process. Nothing here forwards traffic, and nothing here may depend on the sidecar's crate.

pub mod api;
pub mod cluster;
pub mod compile;
pub mod explain;
mod fetch;
pub mod fleet;
pub mod grpc;
pub mod identity;
pub mod inject;
pub mod install;
pub mod journal;
pub mod kinds;
pub mod metrics;
pub mod plan;
pub mod rbac;
pub mod rollout;
pub mod store;
pub mod up;
pub mod web;
pub mod world;
pub mod xds;
