//! `weft up`: starts the whole control plane in one process and ends it in order.
//!
//! Owns the data directory's layout (`weft.redb`, `identity/`, `api/`, `kubeconfig`, `endpoints.json`), the listeners and their
//! remembered ports, and the signals. What the parts do is theirs; this file only wires them.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// What `weft up` is told. Every field has the default that [`Settings::default`] gives it.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where state lives (0700): `./.weft`.
    pub data_dir: PathBuf,
    /// gRPC listener (xDS, identity, control streams): `127.0.0.1:15010`. Port 0: ephemeral on the first start, remembered after.
    pub grpc: SocketAddr,
    /// Resource API listener (TLS): `127.0.0.1:15080`. Port 0 as above.
    pub api: SocketAddr,
    /// Trust domain of the mesh: `weft.local`.
    pub trust_domain: String,
    /// Cluster domain, the last part of service names: `cluster.local`.
    pub domain: String,
    /// Range (CIDR) from which Services get their cluster addresses: `198.18.0.0/16` (RFC 2544, never routed on the Internet).
    pub service_cidr: String,
    /// How long a workload stays in discovery after its control stream was lost: 10 s.
    pub stream_grace: Duration,
    /// After a start of the control plane no workload is withdrawn for a lost stream during this time: 30 s.
    pub start_grace: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            data_dir: PathBuf::from("./.weft"),
            grpc: SocketAddr::from(([127, 0, 0, 1], 15010)),
            api: SocketAddr::from(([127, 0, 0, 1], 15080)),
            trust_domain: "weft.local".into(),
            domain: "cluster.local".into(),
            service_cidr: "198.18.0.0/16".into(),
            stream_grace: Duration::from_secs(10),
            start_grace: Duration::from_secs(30),
        }
    }
}

/// Why the control plane did not start, or ended badly. The text says what to do next.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Error(pub String);

/// Where a running control plane listens; the content of `endpoints.json`.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Endpoints {
    /// `ip:port` of the gRPC listener.
    pub grpc: String,
    /// `https://ip:port` of the resource API.
    pub api: String,
    /// Trust domain of the mesh.
    pub trust_domain: String,
    /// Process id.
    pub pid: u32,
}

/// Runs the control plane until SIGTERM or SIGINT, then ends it in order. `endpoints.json` appears once both listeners answer.
///
/// # Errors
/// When it cannot start (data directory, ports, keys, store) or a part of it died.
pub async fn run(settings: Settings) -> Result<(), Error> {
    let shutdown = CancellationToken::new();
    let _ = (&settings, &shutdown);
    run_until(settings, shutdown, |_| {}).await
}

/// As [`run`], but ends when `shutdown` is cancelled; `started` is called once with the bound addresses.
///
/// # Errors
/// As for [`run`].
pub async fn run_until(
    _settings: Settings,
    _shutdown: CancellationToken,
    _started: impl FnOnce(&Endpoints),
) -> Result<(), Error> {
    Err(Error("not wired yet".into()))
}
