//! Keeping an identity valid: renewal at a third of its life, at once when the mesh demands it, with backoff while the old
//! one lasts; and trust bundles as discovery brings them.

use super::issue::IdentityError;
use super::{Issuer, bundle};
use crate::discovery::Bundles;
use crate::discovery::link::Backoff;
use crate::takeover::Turn;
use crate::telemetry::metrics::{Counter, Family, Gauge, Registry};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};
use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use tonic::transport::Channel;
use weft_certs::{LiveIdentity, TrustDomain};

/// The longest sleep: clocks are set, machines are suspended, and a timer knows neither.
const LOOK: Duration = Duration::from_secs(60);

/// The shortest wait after a failure.
const LEAST: Duration = Duration::from_millis(250);
/// How often a relieved process looks whether its successor has a new certificate, once its own is due.
const HEIR: Duration = Duration::from_secs(5);
/// What the control plane was heard to say of this sidecar's certificate, beside what bundles say.
#[derive(Debug, Default)]
pub struct Standing {
    revoked: AtomicBool,
    heard: Notify,
}

impl Standing {
    /// It was refused as revoked.
    pub fn revoked(&self) {
        if !self.revoked.swap(true, Ordering::AcqRel) {
            self.heard.notify_one();
        }
    }
}

/// Keeps one identity valid.
pub struct Renewal {
    issuer: Issuer,
    live: Arc<LiveIdentity>,
    channel: Channel,
    bundles: watch::Receiver<Bundles>,
    standing: Arc<Standing>,
    /// Trust domains whose bundles came from discovery.
    discovered: BTreeSet<TrustDomain>,
    expiry: Gauge,
    /// When the earliest revocation list is to be replaced.
    lists: Gauge,
    /// Whether it was said that a list is late, and that the own certificate is revoked.
    said: (bool, bool),
    renewed: Counter,
    failed: Counter,
    /// The latest demand to reissue that the current certificate meets.
    met: u64,
    /// When the identity is this process's to renew.
    turn: Turn,
}

impl Renewal {
    /// A renewal over a channel that presents the live identity.
    #[must_use]
    pub fn new(
        issuer: Issuer,
        live: Arc<LiveIdentity>,
        channel: Channel,
        bundles: watch::Receiver<Bundles>,
        standing: Arc<Standing>,
        registry: &Registry,
        turn: Turn,
    ) -> Self {
        let renewals = renewals(registry);
        let met = live.current().svid.not_before().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
        let lists = registry.gauge(
            "weft_revocation_list_expiry_seconds",
            "When the revocation list that is due first should be replaced, in seconds since the Unix epoch; 0: there is none.",
            &[],
        );
        let mut renewal = Self {
            expiry: expiry(registry),
            lists: lists.with(&[]),
            said: (false, false),
            discovered: BTreeSet::new(),
            standing,
            renewed: renewals.with(&["ok"]),
            failed: renewals.with(&["failed"]),
            issuer,
            live,
            channel,
            bundles,
            met,
            turn,
        };
        // What is remembered counts before the first connection is made.
        renewal.take_bundles();
        renewal
    }

    /// Runs until the future is dropped. A process that was relieved asks for nothing any more: it goes on with what its successor gets.
    pub async fn run(mut self) {
        self.turn.begun().await;
        let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(300));
        let mut not_before = Instant::now();
        let mut spread = rand::random_range(-1.0..=1.0);
        loop {
            self.take_bundles();
            let svid = self.live.current().svid.clone();
            self.expiry.set(seconds(svid.not_after()));
            let revoked = self.look();
            let demanded = self.demand().filter(|demand| *demand > self.met);
            let due = revoked || demanded.is_some() || SystemTime::now() >= svid.renew_at(spread);
            if due && self.turn.is_over() {
                not_before = Instant::now() + HEIR;
                self.follow_successor();
            } else if due && Instant::now() >= not_before {
                match self.issuer.renew(&self.live, self.channel.clone()).await {
                    Ok(identity) => {
                        self.met = self.met.max(demanded.unwrap_or_default());
                        let svid = Arc::into_inner(identity.svid);
                        if let Some(Err(error)) = svid.map(|svid| self.live.replace_svid(svid)) {
                            tracing::error!(%error, "the new certificate cannot be used");
                        }
                        self.standing.revoked.store(false, Ordering::Release);
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
                        let mut wait = backoff.wait().min(left / 10).max(LEAST);
                        if let IdentityError::Limited(_, least) = &error {
                            // Who was told to wait together must not come back together.
                            wait = wait.max(least.mul_f64(1.0 + rand::random::<f64>()));
                        }
                        not_before = Instant::now() + wait;
                        tracing::warn!(retry_in = ?wait, valid_for = ?left, "certificate not renewed: {error}");
                    }
                }
            }
            let until = svid.renew_at(spread).duration_since(SystemTime::now()).unwrap_or_default();
            let wait = until.max(not_before.saturating_duration_since(Instant::now())).min(LOOK);
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = self.standing.heard.notified() => {}
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

    /// Whether the own certificate is worth nothing any more. Says so once, and that lists are late.
    fn look(&mut self) -> bool {
        let identity = self.live.current();
        let next = bundle::next_update(identity.bundles.iter());
        self.lists.set(next.map_or(0.0, seconds));
        let late = next.is_some_and(|next| SystemTime::now() > next);
        let revoked = self.standing.revoked.load(Ordering::Acquire) || self.live.is_revoked();
        if late && !self.said.0 {
            tracing::warn!(
                "the revocation list should have been replaced by now; what it names stays refused, and what was revoked since is not known here"
            );
        }
        if revoked && !self.said.1 {
            tracing::error!(id = %self.live.id(), "this workload's certificate was revoked: only a join token gets it another");
        }
        self.said = (late, revoked);
        revoked
    }

    /// Trusts whom discovery says to trust. The own domain keeps the bundle that it came with until discovery names it.
    fn take_bundles(&mut self) {
        let bundles = self.bundles.borrow_and_update().clone();
        let mut changed = false;
        let mut named = BTreeSet::new();
        for wire in bundles.values() {
            match bundle::bundle(wire) {
                Ok(bundle) => {
                    named.insert(bundle.trust_domain().clone());
                    changed |= self.live.replace_bundle(&bundle);
                }
                Err(error) => tracing::error!(domain = &*wire.trust_domain, %error, "trust bundle ignored"),
            }
        }
        for gone in self.discovered.difference(&named) {
            changed |= self.live.remove_bundle(gone);
        }
        self.discovered = named;
        if changed {
            let identity = self.live.current();
            let revoked: usize = identity.bundles.iter().flat_map(|b| b.revocations()).map(|list| list.len()).sum();
            tracing::info!(domains = ?identity.bundles.domains().collect::<Vec<_>>(), revoked, "trust bundles changed");
            self.save();
        }
    }

    /// Takes the certificate that the successor has saved, if it is another.
    fn follow_successor(&self) {
        let Ok(Some(saved)) = self.issuer.remembered() else { return };
        if saved.svid.chain() != self.live.current().svid.chain()
            && let Some(svid) = Arc::into_inner(saved.svid)
            && let Err(error) = self.live.replace_svid(svid)
        {
            tracing::warn!(%error, "the successor's certificate cannot be used");
        }
    }

    fn save(&self) {
        if self.turn.is_over() {
            return;
        }
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

/// The counter of attempts to replace the certificate, by `result`.
pub(super) fn renewals(registry: &Registry) -> Family<Counter> {
    registry.counter("weft_certificate_renewals_total", "Attempts to renew the certificate.", &["result"])
}

pub(super) fn seconds(time: SystemTime) -> f64 {
    time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}
