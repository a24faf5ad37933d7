//! `AuthorizationPolicy` and `MeshTLS`: who may call what, and whether plaintext is accepted.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{PolicyStatus, TargetRef};

/// Who may call the targets. Deny rules are asked first; then, where at least one Allow policy holds, what no rule allows is denied.
/// Without `targetRefs` and `selector` it holds for every workload of its namespace.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "weft.mesh",
    version = "v1alpha1",
    kind = "AuthorizationPolicy",
    plural = "authorizationpolicies",
    shortname = "authz",
    category = "weft",
    namespaced,
    status = "PolicyStatus",
    derive = "Default",
    derive = "PartialEq"
)]
#[serde(rename_all = "camelCase")]
pub struct AuthorizationPolicySpec {
    /// Services or Workloads of this namespace. Not together with `selector`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub target_refs: Vec<TargetRef>,
    /// Workloads of this namespace by label. Not together with `targetRefs`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selector: Option<LabelSelector>,
    /// What happens to a call that a rule matches. Default Allow.
    #[serde(default)]
    pub action: Action,
    /// Any rule suffices. None: an Allow policy allows nothing, a Deny policy denies nothing.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub rules: Vec<AuthorizationRule>,
}

/// What happens to a call that a rule matches.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Action {
    /// Lets it through.
    #[default]
    Allow,
    /// Refuses it.
    Deny,
    /// Only reports that it matched.
    Audit,
}

/// Matches a call when one of `from` and one of `to` hold; an empty list holds for every call.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AuthorizationRule {
    /// Shown in logs and metrics where the rule decided.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub name: Option<String>,
    /// Who calls.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub from: Vec<Source>,
    /// What is called.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub to: Vec<Operation>,
}

/// A caller. Every list that is not empty must hold; a list holds when one of its entries does.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Source {
    /// SPIFFE ids, or prefixes of one ending in `*`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(min = 1, max = 2048)))]
    pub identities: Vec<String>,
    /// Namespaces of the caller's identity.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(min = 1, max = 63)))]
    pub namespaces: Vec<String>,
    /// Service accounts: `name` in this namespace, or `namespace/name`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(min = 1, max = 317)))]
    pub service_accounts: Vec<String>,
}

/// A call. Every list that is not empty must hold; a list holds when one of its entries does.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Operation {
    /// HTTP methods.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32), inner(length(min = 1, max = 32)))]
    pub methods: Vec<String>,
    /// Paths, or prefixes of one ending in `*`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(min = 1, max = 1024)))]
    pub paths: Vec<String>,
}

/// Whether plaintext is accepted. Without `targetRefs` and `selector` it holds for every workload of its namespace; a policy that names
/// its targets wins over one that does not.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "weft.mesh",
    version = "v1alpha1",
    kind = "MeshTLS",
    root = "MeshTls",
    plural = "meshtlses",
    singular = "meshtls",
    shortname = "mtls",
    category = "weft",
    namespaced,
    status = "PolicyStatus",
    derive = "Default",
    derive = "PartialEq"
)]
#[serde(rename_all = "camelCase")]
pub struct MeshTlsSpec {
    /// Services or Workloads of this namespace. Not together with `selector`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub target_refs: Vec<TargetRef>,
    /// Workloads of this namespace by label. Not together with `targetRefs`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selector: Option<LabelSelector>,
    /// What holds for every port that `ports` does not list. Default Strict.
    #[serde(default)]
    pub mode: TlsMode,
    /// Ports of the workload that differ.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["port"]))]
    pub ports: Vec<PortTls>,
}

/// What a port accepts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum TlsMode {
    /// Only peers with an identity of the mesh.
    #[default]
    Strict,
    /// Those, and plaintext.
    Permissive,
    /// Plaintext only.
    Disabled,
}

/// The mode of one port.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PortTls {
    /// A port of the workload.
    #[schemars(range(min = 1, max = 65535))]
    pub port: u16,
    /// What it accepts.
    pub mode: TlsMode,
}
