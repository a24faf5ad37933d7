//! What a Kubernetes cluster says of workloads: Pods, and the endpoints that EndpointSlices name beside them, as the mesh's own [`Workload`]s.
//!
//! A pod is an endpoint of the Services whose selector matches its labels, as in Kubernetes; of a slice only those endpoints matter that are no
//! pods: what an operator wrote for a Service without a selector. Nothing here does I/O.
//!
//! [`Workload`]: super::Workload

pub mod pod;
pub mod ranges;
pub mod slice;
