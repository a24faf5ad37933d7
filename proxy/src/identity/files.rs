//! An identity from files (`cert.pem`, `key.pem`, `roots.pem`, and `crls.pem` if there is one), watched: for a sidecar without a control
//! plane.

use super::renew::{expiry, seconds};
use crate::discovery::file::{INTERVAL, Stamp};
use crate::telemetry::metrics::{Gauge, Registry};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use weft_certs::identity::LISTS_FILE;
use weft_certs::{Error, Identity, LiveIdentity};

const NAMES: [&str; 4] = ["cert.pem", "key.pem", "roots.pem", LISTS_FILE];

/// A watched directory.
pub struct Files {
    directory: PathBuf,
    stamps: [Option<Stamp>; NAMES.len()],
    live: Arc<LiveIdentity>,
    expiry: Gauge,
}

impl Files {
    /// Reads the files once.
    ///
    /// # Errors
    /// A file is missing or unusable; the text names it.
    pub fn open(directory: &Path, registry: &Registry) -> Result<Self, Error> {
        let stamps = stamps(directory);
        let live = LiveIdentity::new(Identity::from_files(directory)?);
        let files = Self { directory: directory.to_owned(), stamps, live, expiry: expiry(registry) };
        files.expiry.set(seconds(files.live.current().svid.not_after()));
        Ok(files)
    }

    /// The identity, which follows the files.
    #[must_use]
    pub fn live(&self) -> Arc<LiveIdentity> {
        self.live.clone()
    }

    /// Follows the files until the future is dropped. What cannot be used is logged, and the last good identity stays.
    pub async fn follow(mut self) {
        let mut ticks = tokio::time::interval(INTERVAL);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let now = stamps(&self.directory);
            if now == self.stamps {
                continue;
            }
            self.stamps = now;
            let replaced = Identity::from_files(&self.directory).and_then(|identity| self.live.replace(identity));
            match replaced {
                Ok(()) => {
                    self.expiry.set(seconds(self.live.current().svid.not_after()));
                    tracing::info!(directory = %self.directory.display(), "certificate files changed and are in use");
                }
                // Half of a rotation looks like this too: the next look finds the other half.
                Err(error) => tracing::warn!("{error}; the last good certificate stays in use"),
            }
        }
    }
}

fn stamps(directory: &Path) -> [Option<Stamp>; NAMES.len()] {
    NAMES.map(|name| Stamp::of(&directory.join(name)))
}
