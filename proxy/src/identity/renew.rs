//! Keeping an identity valid: renewal at a third of its life, at once when the mesh demands it, with backoff while the old
//! one lasts; and trust bundles as discovery brings them.

use super::Issuer;
use crate::discovery::Bundles;
use crate::discovery::link::Backoff;
use crate::telemetry::metrics::{Counter, Gauge, Registry};
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::sync::watch;
use tokio::time::Instant;
use tonic::transport::Channel;
use weft_certs::{LiveIdentity, TrustBundle, TrustBundles};

/// The longest sleep: clocks are set, machines are suspended, and a timer knows neither.
const LOOK: Duration = Duration::from_secs(60);

/// The shortest wait after a failure.
const LEAST: Duration = Duration::from_millis(250);

/// Keeps one identity valid.
pub struct Renewal {
    issuer: Issuer,
    live: Arc<LiveIdentity>,
    channel: Channel,
    bundles: watch::Receiver<Bundles>,
    expiry: Gauge,
    renewed: Counter,
    failed: Counter,
    /// The latest demand to reissue that the current certificate meets.
    met: u64,
}

impl Renewal {
    /// A renewal over a channel that presents the live identity.
    #[must_use]
    pub fn new(
        issuer: Issuer,
        live: Arc<LiveIdentity>,
        channel: Channel,
        bundles: watch::Receiver<Bundles>,
        registry: &Registry,
    ) -> Self {
        let renewals =
            registry.counter("weft_certificate_renewals_total", "Attempts to renew the certificate.", &["result"]);
        let met = live.current().svid.not_before().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
        Self {
            expiry: expiry(registry),
            renewed: renewals.with(&["ok"]),
            failed: renewals.with(&["failed"]),
            issuer,
            live,
            channel,
            bundles,
            met,
        }
    }

    /// Runs until the future is dropped.
    pub async fn run(mut self) {
        let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(300));
        let mut not_before = Instant::now();
        let mut spread = rand::random_range(-1.0..=1.0);
        loop {
            self.take_bundles();
            let svid = self.live.current().svid.clone();
            self.expiry.set(seconds(svid.not_after()));
            let demanded = self.demand().filter(|demand| *demand > self.met);
            let due = demanded.is_some() || SystemTime::now() >= svid.renew_at(spread);
            if due && Instant::now() >= not_before {
                match self.issuer.renew(&self.live, self.channel.clone()).await {
                    Ok(identity) => {
                        self.met = self.met.max(demanded.unwrap_or_default());
                        let svid = Arc::into_inner(identity.svid);
                        if let Some(Err(error)) = svid.map(|svid| self.live.replace_svid(svid)) {
                            tracing::error!(%error, "the new certificate cannot be used");
                        }
                        self.save();
                        self.renewed.increment();
                        backoff.reset();
                        not_before = Instant::now();
                        spread = rand::random_range(-1.0..=1.0);
                        let valid_until = seconds(self.live.current().svid.not_after());
                        tracing::info!(id = %self.live.id(), valid_until, "certificate renewed");
                        continue;
                    }
                    Err(error) => {
                        self.failed.increment();
                        let left = svid.not_after().duration_since(SystemTime::now()).unwrap_or_default();
                        // Little of what is left is waited for in one go: of a short life there is soon nothing.
                        let wait = backoff.wait().min(left / 10).max(LEAST);
                        not_before = Instant::now() + wait;
                        tracing::warn!(retry_in = ?wait, valid_for = ?left, "certificate not renewed: {error}");
                    }
                }
            }
            let until = svid.renew_at(spread).duration_since(SystemTime::now()).unwrap_or_default();
            let wait = until.max(not_before.saturating_duration_since(Instant::now())).min(LOOK);
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                changed = self.bundles.changed() => if changed.is_err() {
                    tokio::time::sleep(wait).await;
                },
            }
        }
    }

    /// Seconds since the epoch before which certificates must not have been issued.
    fn demand(&self) -> Option<u64> {
        self.bundles.borrow().get(self.live.id().trust_domain().as_str())?.reissue_after
    }

    /// Trusts whom discovery says to trust. Domains it does not name keep the bundle they came with.
    fn take_bundles(&mut self) {
        let bundles = self.bundles.borrow_and_update().clone();
        let mut changed = false;
        for bundle in bundles.values() {
            let domain = match bundle.trust_domain.parse() {
                Ok(domain) => domain,
                Err(error) => {
                    tracing::error!(domain = &*bundle.trust_domain, %error, "trust bundle ignored");
                    continue;
                }
            };
            match TrustBundle::from_der(domain, bundle.roots.iter().cloned()) {
                Ok(bundle) => changed |= self.live.replace_bundle(&bundle),
                Err(error) => tracing::error!(domain = &*bundle.trust_domain, %error, "trust bundle ignored"),
            }
        }
        if changed {
            let domains: TrustBundles = (*self.live.current().bundles).clone();
            tracing::info!(domains = ?domains.domains().collect::<Vec<_>>(), "trust bundles changed");
            self.save();
        }
    }

    fn save(&self) {
        if let Err(error) = self.issuer.save(&self.live.current()) {
            tracing::warn!(%error, "the identity could not be kept for the next start");
        }
    }
}

/// The gauge of the certificate's end.
pub(super) fn expiry(registry: &Registry) -> Gauge {
    registry
        .gauge(
            "weft_certificate_expiry_seconds",
            "When the workload's certificate ends, in seconds since the Unix epoch.",
            &[],
        )
        .with(&[])
}

pub(super) fn seconds(time: SystemTime) -> f64 {
    time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}
