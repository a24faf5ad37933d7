//! The kinds that the resource API serves: their Rust types, their OpenAPI schemas, what is checked beyond a schema, and the columns of
//! their tables.
//!
//! Kubernetes' own types come from `k8s-openapi`, Gateway API's from `gateway-api`, Weft's own are written here. Every schema is derived
//! from its type; what the types of others do not say is in `registry` and `routes`. Nothing here does I/O or knows of the server or the
//! compiler.

mod balancing;
pub mod check;
mod cluster;
pub mod column;
pub mod data;
pub mod definition;
mod duration;
mod failure;
mod gateways;
mod limits;
mod mesh;
mod rbac;
mod refs;
pub mod registry;
mod routes;
mod security;
mod structural;
mod traffic;
mod workload;

pub use balancing::{BalancerPolicy, GrpcProbe, HashKey, HealthCheck, HttpProbe, LoadBalancer, TcpProbe};
pub use duration::{Duration, NotADuration};
pub use failure::{Abort, Delay, Fallback, FallbackRef, Fault, FixedResponse, Fraction};
pub use gateway_api::apis::experimental::{grpcroutes, httproutes, tcproutes, tlsroutes};
pub use grpcroutes::GrpcRoute;
pub use httproutes::{HttpRoute, HttpRouteRulesMatches as HttpMatch};
pub use k8s_openapi::api::{
    core::v1::{ConfigMap, Event, Namespace, Secret, Service, ServiceAccount},
    discovery::v1::EndpointSlice,
};
pub use limits::{RateLimit, RateLimitKey, RateLimitPolicy, RateLimitPolicySpec, RateLimitScope};
pub use mesh::{
    AccessLog, EgressMode, LogFormat, LoggedCalls, MeshSettings, MeshSettingsSpec, OtlpProtocol, ROLLOUT, Rollout,
    RolloutKind, TracePropagation, Tracing, Wish,
};
pub use rbac::RBAC_GROUP;
pub use refs::{PolicyStatus, TargetRef};
pub use registry::{Kind, all, find, find_kind, metadata_schema};
pub use security::{
    Action, AuthorizationCondition, AuthorizationPolicy, AuthorizationPolicySpec, AuthorizationRule, ClaimHeader,
    FederatedTrustDomain, FederatedTrustDomainSpec, MeshTls, MeshTlsSpec, Operation, PortTls, RequestAuthentication,
    RequestAuthenticationSpec, Source, TlsMode, TokenHeader, TokenRule,
};
pub use tcproutes::TcpRoute;
pub use tlsroutes::TlsRoute;
pub use traffic::{
    AdaptiveConcurrency, CircuitBreaker, ConnectionLimits, Hedging, Retry, RetryBudget, Timeouts, TrafficPolicy,
    TrafficPolicySpec,
};
pub use workload::{Phase, Protocol, Workload, WorkloadPort, WorkloadSpec, WorkloadStatus};

/// The group of Weft's own kinds.
pub const GROUP: &str = "weft.mesh";
/// The group of the Gateway API.
pub const GATEWAY_GROUP: &str = "gateway.networking.k8s.io";
