//! `weft_xds_*`: what the stream does, as metrics.

use super::xds::Status;
use crate::telemetry::metrics::Registry;
use tokio::sync::watch;

/// Records a client's status until the client is gone.
pub async fn record(registry: &Registry, mut status: watch::Receiver<Status>) {
    let connected =
        registry.gauge("weft_xds_connected", "Whether a stream to the control plane is open.", &[]).with(&[]);
    let streams = registry.counter("weft_xds_streams_total", "Streams opened.", &[]).with(&[]);
    let responses = registry.counter("weft_xds_responses_total", "Responses applied.", &["type"]);
    let resources = registry.counter("weft_xds_resources_total", "Resources received.", &[]).with(&[]);
    let refusals = registry.counter("weft_xds_refusals_total", "Resources refused.", &[]).with(&[]);
    let subscriptions = registry.gauge("weft_xds_subscriptions", "Names subscribed to.", &["type"]);
    let refused = registry.gauge("weft_xds_refused", "Resources whose last good version is in force.", &[]).with(&[]);
    let mut before = Status::default();
    loop {
        let now = status.borrow_and_update().clone();
        connected.set(f64::from(u8::from(now.connected)));
        streams.add(now.streams - before.streams);
        resources.add(now.resources - before.resources);
        refusals.add(now.refusals - before.refusals);
        #[expect(clippy::cast_precision_loss, reason = "counts of a sidecar stay far below 2⁵³")]
        refused.set(now.refused.len() as f64);
        for (kind, count) in &now.responses {
            responses.with(&[kind]).add(count - before.responses.get(kind).copied().unwrap_or_default());
        }
        for (kind, count) in &now.subscriptions {
            #[expect(clippy::cast_precision_loss, reason = "counts of a sidecar stay far below 2⁵³")]
            subscriptions.with(&[kind]).set(*count as f64);
        }
        before = now;
        if status.changed().await.is_err() {
            return;
        }
    }
}
