//! When a sidecar gives back memory that it does not use: once it is ready, whenever it falls quiet.

use std::time::Duration;
use tokio::sync::watch;
use weft_resident::Quiet;

const QUIET: Quiet = Quiet {
    look: Duration::from_millis(250),
    // The least that the kernel tells: a sidecar that has calls is left alone.
    busy: Duration::from_millis(10),
    pause: (Duration::from_secs(1), Duration::from_secs(8)),
    trim: weft_resident::trim_heap,
};

/// From readiness on, until the future is dropped.
pub(super) async fn when_quiet(mut ready: watch::Receiver<bool>) {
    if ready.wait_for(|ready| *ready).await.is_ok() {
        weft_resident::give_back(QUIET).await;
    }
}
