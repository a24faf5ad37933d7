//! The task that exports spans: one batch at a time to the receiver that is in force, again after a failure that may pass, and not for ever.

use super::wire::{Failed, Wire};
use super::{Batch, Spans, encode};
use crate::discovery::{Directory, link::Backoff};
use std::net::SocketAddr;
use std::time::Duration;
use weft_policy::config::Tracing;

/// How long spans wait for company.
const GATHER: Duration = Duration::from_secs(1);
/// How often a batch is sent at most…
const TRIES: usize = 5;
/// …with these waits between.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(10));

/// What the exporting task is told at the start of the process.
pub struct Options {
    /// Where spans go when the mesh's settings say nothing.
    pub own: Option<Tracing>,
    /// Whose spans they are: attributes of the resource.
    pub resource: Box<dyn Fn() -> Vec<(String, String)> + Send + Sync>,
    /// Name servers for the receiver's name.
    pub upstream: Vec<SocketAddr>,
}

impl std::fmt::Debug for Options {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Options({:?})", self.own)
    }
}

/// Exports until the future is dropped. The mesh's settings go before the sidecar's own.
pub async fn run(spans: &Spans, directory: Directory, options: Options) {
    let mut changes = directory.changes();
    loop {
        changes.borrow_and_update();
        let wanted = directory.snapshot().settings.tracing.clone().or_else(|| options.own.clone());
        spans.configure(wanted.as_ref());
        let changed = async {
            loop {
                if changes.changed().await.is_err() {
                    return std::future::pending().await;
                }
                let now = directory.snapshot().settings.tracing.clone().or_else(|| options.own.clone());
                if now != wanted {
                    return;
                }
            }
        };
        let Some(tracing) = &wanted else {
            changed.await;
            continue;
        };
        match Wire::new(tracing, options.upstream.clone()) {
            Ok(wire) => {
                let resource = (options.resource)();
                tracing::info!(receiver = %tracing.receiver, sampling = tracing.ratio, "calls are traced");
                tokio::select! {
                    () = export(spans, wire, &resource) => {}
                    () = changed => {}
                }
            }
            Err(error) => {
                tracing::warn!(receiver = %tracing.receiver, "calls cannot be traced: {error}");
                spans.configure(None);
                changed.await;
            }
        }
    }
}

async fn export(spans: &Spans, mut wire: Wire, resource: &[(String, String)]) {
    let mut failing = false;
    loop {
        let batch = spans.batch(GATHER).await;
        failing = deliver(&mut wire, batch, resource, failing).await;
    }
}

/// Sends a batch until it is taken or given up; whether it was given up. `failing`: so was the one before, and it has been said.
async fn deliver(wire: &mut Wire, mut batch: Batch<'_>, resource: &[(String, String)], failing: bool) -> bool {
    let request = encode::request(resource, &batch.calls);
    // As much memory again, for as long as a receiver is away.
    batch.calls = Default::default();
    let mut backoff = Backoff::new(BACKOFF.0, BACKOFF.1);
    let mut tries = 0;
    let (reason, why) = loop {
        tries += 1;
        match wire.send(&request).await {
            Ok(rejected) => {
                if rejected > 0 {
                    tracing::warn!(rejected, "the receiver of spans did not want all of them");
                }
                if failing {
                    tracing::info!("spans are delivered again");
                }
                batch.delivered(rejected);
                return false;
            }
            Err(Failed::Never(why)) => break ("refused", why),
            Err(Failed::Later(why)) if tries == TRIES => break ("unreachable", why),
            Err(Failed::Later(why)) => {
                tracing::debug!("spans are sent again: {why}");
                tokio::time::sleep(backoff.wait()).await;
            }
        }
    };
    if !failing {
        tracing::warn!(spans = batch.spans, "spans cannot be delivered: {why}");
    }
    batch.given_up(reason);
    true
}
