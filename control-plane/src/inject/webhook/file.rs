//! The file that says how sidecars are made, and what becomes of it while the webhook runs: in a pod it is a ConfigMap, which kubelet
//! replaces as a whole.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::inject::Settings;

/// How often it is looked at: kubelet itself takes a minute to replace it.
const LOOK: Duration = Duration::from_secs(1);
/// Bytes of the file.
const LARGEST: u64 = 1 << 20;

/// What the file says.
pub(super) fn read(path: &Path) -> Result<Settings, String> {
    parse(&text(path)?)
}

fn text(path: &Path) -> Result<String, String> {
    let size = std::fs::metadata(path).map_err(|error| error.to_string())?.len();
    if size > LARGEST {
        return Err(format!("has {size} bytes, at most {LARGEST} are read"));
    }
    std::fs::read_to_string(path).map_err(|error| error.to_string())
}

fn parse(text: &str) -> Result<Settings, String> {
    if text.trim().is_empty() {
        return Ok(Settings::default());
    }
    serde_saphyr::from_str(text).map_err(|error| error.to_string())
}

/// Tells what the file says whenever that changes. What cannot be read changes nothing, and is said once.
pub(super) async fn follow(path: PathBuf, settings: watch::Sender<Arc<Settings>>, shutdown: CancellationToken) {
    let mut last = text(&path);
    let mut tick = tokio::time::interval(LOOK);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = tick.tick() => {}
            () = shutdown.cancelled() => return,
        }
        let now = text(&path);
        if now == last {
            continue;
        }
        match now.clone().and_then(|text| parse(&text)) {
            Ok(read) => {
                tracing::info!(file = %path.display(), "sidecars are made as the file says now");
                settings.send_replace(Arc::new(read));
            }
            Err(error) => {
                tracing::error!(file = %path.display(), %error, "sidecars are made as before: the file cannot be read");
            }
        }
        last = now;
    }
}
