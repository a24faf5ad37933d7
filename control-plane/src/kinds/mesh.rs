//! `MeshSettings`: what people decide for the mesh as a whole.
//!
//! Only the shape. There is one object, named [`MeshSettings::NAME`]; what it leaves out is as the flags of `weft up` say.

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Duration, PolicyStatus};

/// What holds for the mesh as a whole. There is one object, named `default`; what it leaves out is as the flags of the control plane say.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "weft.mesh",
    version = "v1alpha1",
    kind = "MeshSettings",
    plural = "meshsettings",
    shortname = "ms",
    category = "weft",
    status = "PolicyStatus",
    derive = "Default",
    derive = "PartialEq"
)]
#[serde(rename_all = "camelCase")]
pub struct MeshSettingsSpec {
    /// What applications may call. Default: as the control plane was started (`weft up --egress`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub egress: Option<EgressMode>,
    /// How a change of a policy or route gets to the sidecars. Default: to all at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rollout: Option<Rollout>,
    /// Where sidecars send spans of calls. Default: nowhere, but for sidecars that were told otherwise at their start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tracing: Option<Tracing>,
    /// Which calls leave a line in the access logs of sidecars. Default: as each sidecar was started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub access_log: Option<AccessLog>,
}

impl MeshSettings {
    /// The name of the only object.
    pub const NAME: &'static str = "default";
}

/// What applications may call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum EgressMode {
    /// Anything: what the mesh does not know is passed on.
    Any,
    /// Services of the mesh, and hosts registered in it.
    Registered,
}

/// Spans of calls for a receiver of the OpenTelemetry protocol.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Tracing {
    /// Where spans are sent: `http://otel.example.com:4317`, or `https://` for TLS. Sidecars reach it as a host outside the mesh.
    #[schemars(length(min = 1, max = 1024))]
    pub endpoint: String,
    /// How: over gRPC, or as protobuf over HTTP. Default Grpc.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protocol: Option<OtlpProtocol>,
    /// Share of the calls that begin a trace at a sidecar, in percent; what a caller decided holds. Default 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0.0, max = 100.0))]
    pub sampling: Option<f64>,
    /// How a trace that begins at a sidecar is written; one that came in goes on as it came. Default: W3C.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 3))]
    pub propagation: Vec<TracePropagation>,
}

/// How the OpenTelemetry protocol travels.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum OtlpProtocol {
    /// gRPC.
    #[default]
    Grpc,
    /// Protobuf over HTTP/1.1.
    Http,
}

/// How a call carries its trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum TracePropagation {
    /// `traceparent`.
    W3C,
    /// `b3`.
    B3,
    /// `x-b3-traceid` and its like.
    B3Multi,
}

/// Lines of sidecars, one a call. Where they go is said to each sidecar; without that to its standard output.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AccessLog {
    /// Which calls leave a line. Default All.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub calls: Option<LoggedCalls>,
    /// Share of the calls that went well to write, in percent; those that failed are always written. Default 100.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0.0, max = 100.0))]
    pub sampling: Option<f64>,
    /// How a line looks. Default Json.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub format: Option<LogFormat>,
}

/// Calls that leave a line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum LoggedCalls {
    /// All of them.
    #[default]
    All,
    /// Those that failed.
    Errors,
    /// None.
    None,
}

/// Layout of a line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum LogFormat {
    /// One JSON object.
    #[default]
    Json,
    /// Apache's combined log.
    Apache,
}

/// A change is first in force for a sample of the sidecars that it is about; for all once it has not made their calls worse, for none
/// otherwise.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Rollout {
    /// Share of the sidecars that get a change first. Default 5.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 50))]
    pub percent: Option<u8>,
    /// So many sidecars get it first at least, but never all where there are two or more. Default 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1000))]
    pub minimum: Option<u16>,
    /// How long these are watched before all get it: 5s to 24h. Default 60s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub duration: Option<Duration>,
    /// By how many percentage points the share of failed calls may rise. Default 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0.0, max = 100.0))]
    pub max_error_increase: Option<f64>,
    /// By how many percentage points the share of calls that policies refuse may rise. Default 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0.0, max = 100.0))]
    pub max_refusal_increase: Option<f64>,
    /// Kinds whose changes are rolled out in stages. Default: all policies and routes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub kinds: Vec<RolloutKind>,
}

/// A kind whose changes can be rolled out in stages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub enum RolloutKind {
    /// Who may call.
    AuthorizationPolicy,
    /// Routes of gRPC calls.
    #[serde(rename = "GRPCRoute")]
    GrpcRoute,
    /// Routes of HTTP calls.
    #[serde(rename = "HTTPRoute")]
    HttpRoute,
    /// Whether plaintext is accepted.
    #[serde(rename = "MeshTLS")]
    MeshTls,
    /// How many calls in what time.
    RateLimitPolicy,
    /// Whose tokens are believed.
    RequestAuthentication,
    /// Routes of connections.
    #[serde(rename = "TCPRoute")]
    TcpRoute,
    /// Routes of TLS connections.
    #[serde(rename = "TLSRoute")]
    TlsRoute,
    /// How calls are made.
    TrafficPolicy,
}

/// The annotation by which one object says how its changes get to the sidecars, whatever the settings say: `off`, or the share of them that
/// gets a change first, such as `5%`.
pub const ROLLOUT: &str = "weft.mesh/rollout";

/// What an object says of its own rollouts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wish {
    /// All get a change at once.
    Off,
    /// This share gets it first, in percent.
    Percent(u8),
}

/// Why a text is no [`Wish`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("must be \"off\" or a share of the sidecars from \"1%\" to \"50%\"")]
pub struct NoWish;

impl std::str::FromStr for Wish {
    type Err = NoWish;

    fn from_str(text: &str) -> Result<Self, NoWish> {
        if text == "off" {
            return Ok(Self::Off);
        }
        let digits = text.strip_suffix('%').filter(|digits| digits.bytes().all(|b| b.is_ascii_digit()));
        let percent = digits.and_then(|digits| digits.parse().ok()).filter(|percent| (1..=50).contains(percent));
        percent.map(Self::Percent).ok_or(NoWish)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_wishes_for_a_share_or_for_none() {
        assert_eq!("off".parse(), Ok(Wish::Off));
        assert_eq!(("5%".parse(), "50%".parse()), (Ok(Wish::Percent(5)), Ok(Wish::Percent(50))));
        for text in ["", "on", "5", "0%", "51%", "+5%", "5 %", "256%", "%"] {
            assert_eq!(text.parse::<Wish>(), Err(NoWish), "{text}");
        }
    }
}
