//! `RateLimitPolicy`: how many calls in what time the workloads of a Service take.
//!
//! Only the shape. Matches are those of an HTTPRoute, by the Gateway API's own types.

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Duration, HttpMatch, PolicyStatus, TargetRef};

/// How many calls the targets take in what time. All limits whose matches hold must have room, those of several policies too; over one a
/// call gets 429 (gRPC: RESOURCE_EXHAUSTED).
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "weft.mesh",
    version = "v1alpha1",
    kind = "RateLimitPolicy",
    plural = "ratelimitpolicies",
    shortname = "rlp",
    category = "weft",
    namespaced,
    status = "PolicyStatus",
    derive = "Default",
    derive = "PartialEq"
)]
#[serde(rename_all = "camelCase")]
pub struct RateLimitPolicySpec {
    /// Services or Workloads of this namespace. A `sectionName` names one of their ports.
    #[schemars(length(min = 1, max = 16))]
    pub target_refs: Vec<TargetRef>,
    /// The limits.
    #[schemars(length(min = 1, max = 32), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub limits: Vec<RateLimit>,
}

/// So many calls in so long.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RateLimit {
    /// Its name within the policy: responses, logs and metrics say `namespace/policy/name`.
    #[schemars(length(min = 1, max = 63))]
    pub name: String,
    /// Calls that it is about; any match suffices. None: every call.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub matches: Vec<HttpMatch>,
    /// Counts apart what differs in one of these. None: all calls together.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8))]
    pub keys: Vec<RateLimitKey>,
    /// Calls.
    #[schemars(range(min = 1, max = 1_000_000_000))]
    pub requests: u32,
    /// In what time: 1s to 24h.
    pub per: Duration,
    /// Calls that may come at once. Default: `requests`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000_000))]
    pub burst: Option<u32>,
    /// Who counts. Default Local.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scope: Option<RateLimitScope>,
}

/// What is counted apart. Exactly one field is given.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RateLimitKey {
    /// `true`: the caller's SPIFFE id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identity: Option<bool>,
    /// Name of a header. Calls without it count as those with an empty one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 256))]
    pub header: Option<String>,
    /// `true`: the HTTP method.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub method: Option<bool>,
}

/// Who counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum RateLimitScope {
    /// Each workload for itself.
    #[default]
    Local,
    /// All workloads of the Service together.
    Global,
}
