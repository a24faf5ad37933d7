//! `Workload`: a process of the mesh outside Kubernetes, as its sidecar registered it or as an operator wrote it.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A process outside Kubernetes that belongs to the mesh. It is an endpoint of every Service of its namespace whose selector matches its
/// labels, and of those that it names itself.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "weft.mesh",
    version = "v1alpha1",
    kind = "Workload",
    plural = "workloads",
    shortname = "wl",
    category = "weft",
    namespaced,
    status = "WorkloadStatus",
    derive = "Default",
    derive = "PartialEq"
)]
#[serde(rename_all = "camelCase")]
pub struct WorkloadSpec {
    /// The service account it runs as: with the namespace, its SPIFFE identity.
    #[serde(default = "default_account")]
    #[schemars(length(min = 1, max = 253))]
    pub service_account: String,
    /// Trust domain of its identity, where that is not the mesh's own: a workload of a federated mesh.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 255))]
    pub trust_domain: Option<String>,
    /// IP address at which peers reach it.
    #[schemars(length(min = 2, max = 45))]
    pub address: String,
    /// `<ip>:<port>` of its sidecar's mTLS listener. Absent: it has no sidecar and is called in plaintext.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 3, max = 53))]
    pub tunnel: Option<String>,
    /// Where it runs, for locality-aware balancing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 63))]
    pub zone: Option<String>,
    /// Services of its namespace that it is an endpoint of, besides those whose selector matches its labels.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(min = 1, max = 63)), extend("x-kubernetes-list-type" = "set"))]
    pub services: Vec<String>,
    /// Share of calls relative to other endpoints of the same Service. Default 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1000))]
    pub weight: Option<u32>,
    /// Ports that the application listens on.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["port"]))]
    pub ports: Vec<WorkloadPort>,
}

fn default_account() -> String {
    "default".to_owned()
}

/// One port of a workload.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct WorkloadPort {
    /// Matched by a Service's named `targetPort` and by the name of its ports.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    pub name: Option<String>,
    /// The port that peers ask for.
    #[schemars(range(min = 1, max = 65535))]
    pub port: u16,
    /// What the application speaks there.
    #[serde(default)]
    pub protocol: Protocol,
    /// Where the application listens, when not at address:port (`127.0.0.1:8080`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 3, max = 53))]
    pub local: Option<String>,
}

/// What an application port is known to speak.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// Sniffed within a deadline.
    #[default]
    Detect,
    /// HTTP/1.
    Http,
    /// HTTP/2.
    Http2,
    /// gRPC over HTTP/2.
    Grpc,
    /// Opaque bytes.
    Tcp,
}

/// What the control plane knows of a workload.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct WorkloadStatus {
    /// One word for people; `conditions` say why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase: Option<Phase>,
    /// `Ready`: its sidecar is connected and its application answers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
}

/// Where a workload is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Phase {
    /// Registered; its sidecar was not heard of yet.
    Pending,
    /// Gets calls.
    Ready,
    /// Its sidecar is connected, its application is not ready.
    NotReady,
    /// Asked to be withdrawn: open calls go on, new ones go elsewhere.
    Draining,
    /// Its sidecar's connection was lost.
    Lost,
}
