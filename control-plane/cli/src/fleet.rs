//! What the control plane says of the running mesh (`/weft/v1/stat`), as values.
//!
//! Every figure may be missing: no data is `None`, never zero. How it is shown is decided by `stat` and `demo`.

use crate::client::{Client, Error, encode};
use serde::{Deserialize, Serialize};

/// Golden signals of a window.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Stat {
    /// Seconds that the figures cover.
    pub window_seconds: f64,
    /// By service, sorted by name.
    pub services: Vec<Service>,
    /// Breakers as the sidecars last reported them.
    pub breakers: Vec<Breaker>,
}

/// One service, as its callers see it.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Service {
    /// `namespace/name`
    pub service: String,
    /// Calls a second.
    pub rps: f64,
    /// Calls in the window.
    pub calls: u64,
    /// Of them, failed after retries.
    pub failures: u64,
    /// Attempts sent.
    pub attempts: u64,
    /// Attempts after the first.
    pub retries: u64,
    /// Share of calls that succeeded, after retries, 0 to 1.
    pub success: Option<f64>,
    /// The same of attempts: what success would be without retries.
    pub success_before_retries: Option<f64>,
    /// Latency, milliseconds.
    pub p50_ms: Option<f64>,
    /// Latency, milliseconds.
    pub p95_ms: Option<f64>,
    /// Latency, milliseconds.
    pub p99_ms: Option<f64>,
    /// Share of calls over mutually authenticated hops, 0 to 1.
    pub mtls: Option<f64>,
    /// Calls in the window that were sent to no peer: aborted by a fault, refused by the caller's sidecar, without an endpoint.
    pub unsent: u64,
    /// Breakers of callers that are not closed.
    pub open_breakers: u32,
    /// Endpoints that get calls.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ready_endpoints: Option<u32>,
    /// All endpoints.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub endpoints: Option<u32>,
}

/// One breaker.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Breaker {
    /// Whose sidecar holds it, `namespace/name` of a workload.
    pub sidecar: String,
    /// `namespace/name:port`
    pub backend: String,
    /// Workload uid of the endpoint.
    pub endpoint: String,
    /// `closed`, `open`, `halfOpen`
    pub state: String,
    /// Times it opened since that sidecar started.
    pub opened: u64,
}

/// Golden signals of the last `window` ("10s"), of one namespace or of all.
pub async fn stat(client: &Client, window: &str, namespace: Option<&str>) -> Result<Stat, Error> {
    let namespace = namespace.map(|name| format!("&namespace={}", encode(name))).unwrap_or_default();
    client.read(&format!("/weft/v1/stat?window={}{namespace}", encode(window))).await
}
