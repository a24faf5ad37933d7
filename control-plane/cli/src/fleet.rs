//! What the control plane says of the running mesh (`/weft/v1/stat`, `/weft/v1/check`), as values.
//!
//! Every figure may be missing: no data is `None`, never zero. How it is shown is decided by `stat`, `check` and `demo`.

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
    pub name: String,
    /// Calls a second.
    pub rps: Option<f64>,
    /// Share of calls that succeeded, after retries, 0 to 1.
    pub success_rate: Option<f64>,
    /// The same of attempts: before retries.
    pub attempt_success_rate: Option<f64>,
    /// Latency, milliseconds.
    pub p50_ms: Option<f64>,
    /// Latency, milliseconds.
    pub p95_ms: Option<f64>,
    /// Latency, milliseconds.
    pub p99_ms: Option<f64>,
    /// Share of calls over mutually authenticated hops, 0 to 1.
    pub mtls_rate: Option<f64>,
    /// Retries a second.
    pub retries_per_second: Option<f64>,
    /// Endpoints that some caller has taken out of balancing.
    pub open_breakers: Option<u32>,
    /// Its endpoints.
    pub endpoints: Option<Endpoints>,
}

/// How many endpoints there are.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Endpoints {
    /// Those that get calls.
    pub ready: u32,
    /// All.
    pub total: u32,
}

/// One breaker.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Breaker {
    /// Who reports it, `namespace/name` of a workload.
    pub workload: String,
    /// `namespace/name:port`
    pub backend: String,
    /// Workload uid of the endpoint.
    pub endpoint: String,
    /// `closed`, `open`, `halfOpen`
    pub state: String,
    /// Times it opened since that sidecar started.
    pub opened: u64,
}

/// Whether the mesh is well.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Health {
    /// All of it.
    pub ok: bool,
    /// One by one.
    pub checks: Vec<Check>,
}

/// One question and its answer.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Check {
    /// What was asked.
    pub name: String,
    /// Whether it is well.
    pub ok: bool,
    /// What was found.
    pub detail: String,
    /// What to do, where it is not well.
    pub hint: Option<String>,
}

/// Golden signals of the last `window` ("10s"), of all namespaces or one.
pub async fn stat(client: &Client, window: &str, namespace: Option<&str>) -> Result<Stat, Error> {
    let namespace = namespace.map(|name| format!("&namespace={}", encode(name))).unwrap_or_default();
    client.read(&format!("/weft/v1/stat?window={}{namespace}", encode(window))).await
}

/// What the control plane says of itself and its sidecars.
pub async fn check(client: &Client) -> Result<Health, Error> {
    client.read("/weft/v1/check").await
}
