//! The control plane as a process: what it costs, how long it has run, and what it logs, for `weft diagnose`; and what it counts, for
//! Prometheus.

use super::Sources;
use crate::metrics;
use axum::Json;
use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;
use serde_json::{Value, json};
use tracing::level_filters::LevelFilter;

/// `GET /weft/v1/process`
pub(super) async fn show(State(sources): State<Sources>) -> Json<Value> {
    Json(account(&sources))
}

/// `GET /metrics`
pub(super) async fn metrics(State(sources): State<Sources>) -> impl IntoResponse {
    let (hub, offer) = (&sources.hub, sources.compiled.borrow().clone());
    let waiting = hub.convergence().behind(&offer.offer());
    let counts = hub.counts();
    let text = sources.metrics.render(&metrics::State {
        streams: (hub.convergence().connected(), sources.fleet.sidecars().len()),
        opened: hub.streams(),
        resources: [counts.sent, counts.resumed, counts.removed],
        refusals: counts.refused,
        waiting,
        lag: sources.pace.pending().filter(|_| waiting > 0).unwrap_or_default(),
        generation: offer.generation,
    });
    ([(CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text)
}

/// What is known of it.
pub(super) fn account(sources: &Sources) -> Value {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let kib = |key| field(&status, key).map(|kib| kib.saturating_mul(1024));
    let files = std::fs::read_dir("/proc/self/fd").ok().map(|dir| dir.flatten().count());
    json!({
        "version": env!("CARGO_PKG_VERSION"),
        "pid": std::process::id(),
        "uptimeSeconds": sources.started.elapsed().as_secs(),
        // The most that any part of it logs.
        "logLevel": LevelFilter::current().to_string(),
        "residentBytes": kib("VmRSS"),
        "peakResidentBytes": kib("VmHWM"),
        "threads": field(&status, "Threads"),
        "openFiles": files,
        "sidecars": sources.fleet.sidecars().len(),
        // Requests of which it was not known who asked, since the start.
        "failedAuthentications": sources.record.unknown_callers(),
        "trustDomain": sources.trust_domain,
    })
}

/// A number of `/proc/self/status` (proc(5)); sizes are in KiB.
fn field(status: &str, key: &str) -> Option<u64> {
    let value = status.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'))?;
    value.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_account_of_a_process_is_read() {
        let status = "Name:\tweft\nVmHWM:\t   20480 kB\nVmRSS:\t   10240 kB\nThreads:\t7\n";
        assert_eq!(
            (field(status, "VmRSS"), field(status, "Threads"), field(status, "Vm")),
            (Some(10_240), Some(7), None)
        );
    }
}
