//! The control plane of a Kubernetes cluster, with real processes: what pods, slices and routes of a cluster become; who leads; what is kept.
//!
//! The cluster is the embedded API with kinds of one. Where `WEFT_TEST_CLUSTER` names the kubeconfig of a real one (`make test-kubernetes`), the same
//! tests run there, in namespaces of their own: they need an API server and nothing else, no kubelet, scheduler or controller.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot go on has failed: panicking says so"
)]

mod cluster;
mod lead;
mod pods;
mod routes;
