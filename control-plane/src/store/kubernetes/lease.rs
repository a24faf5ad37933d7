//! Who leads, by a Lease of `coordination.k8s.io/v1`, as Kubernetes' own controllers do it: its holder renews it; when it was not renewed for its
//! duration, seen by one's own clock, another takes it. Where the holder serves is said in an annotation.

use std::time::Duration;

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use k8s_openapi::jiff::Timestamp;
use kube::api::{Api, ObjectMeta, PostParams};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::super::{Lead, Place, Replica, Result};
use super::{Settings, within};

/// The name of the Lease.
pub(super) const NAME: &str = "weft-control";
/// Annotation of the Lease: where its holder serves, as JSON.
const SERVES: &str = "weft.mesh/serves";
/// How long a Lease holds that is not renewed.
const DURATION: Duration = Duration::from_secs(15);
/// The holder counts on less than that: clocks do not run alike, and what it has begun may still be under way.
const CERTAIN: Duration = Duration::from_secs(10);
/// How often it is renewed, or looked at.
const PERIOD: Duration = Duration::from_secs(2);

/// One that would lead.
pub(super) struct Candidate {
    leases: Api<Lease>,
    own: Replica,
    lead: watch::Sender<Lead>,
}

/// What was seen of another's Lease, and since when.
struct Seen {
    version: String,
    since: Instant,
}

impl Candidate {
    pub fn new(client: &kube::Client, settings: &Settings, lead: watch::Sender<Lead>) -> Self {
        let own = Replica { name: settings.replica.clone(), at: settings.serves };
        Self { leases: Api::namespaced(client.clone(), &settings.namespace), own, lead }
    }

    /// Stands until it resigns. `load` is awaited before it says that it leads.
    pub async fn run<L: Future<Output = Result<()>>>(self, load: impl Fn() -> L, resign: CancellationToken) {
        let mut seen: Option<Seen> = None;
        let mut tick = tokio::time::interval(PERIOD);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = tick.tick() => {}
                () = resign.cancelled() => break,
            }
            let began = Instant::now();
            if let Err(error) = self.turn(began, &mut seen, &load).await {
                tracing::warn!(%error, "the Lease {NAME} cannot be read or renewed");
            }
            let over = {
                let lead = self.lead.borrow();
                lead.mine && !lead.is_certain()
            };
            if over {
                tracing::warn!("the Lease {NAME} could not be renewed in time: this control plane leads no longer");
                self.lead.send_replace(Lead { replicas: vec![self.own.clone()], ..Lead::default() });
                seen = None;
            }
        }
        if self.lead.borrow().mine {
            self.give_up().await;
        }
        self.lead.send_replace(Lead::default());
    }

    async fn turn<L: Future<Output = Result<()>>>(
        &self,
        began: Instant,
        seen: &mut Option<Seen>,
        load: &impl Fn() -> L,
    ) -> Result<()> {
        let Some(lease) = within(self.leases.get_opt(NAME)).await? else {
            let lease = self.held(None);
            return self.take(within(self.leases.create(&PostParams::default(), &lease)).await?, began, load).await;
        };
        let spec = lease.spec.clone().unwrap_or_default();
        let holder = spec.holder_identity.unwrap_or_default();
        if holder != self.own.name {
            let version = lease.metadata.resource_version.clone().unwrap_or_default();
            let since = match seen {
                Some(known) if known.version == version => known.since,
                _ => {
                    *seen = Some(Seen { version, since: began });
                    began
                }
            };
            let duration =
                spec.lease_duration_seconds.and_then(|s| u64::try_from(s).ok()).map_or(DURATION, Duration::from_secs);
            if !holder.is_empty() && since + duration > Instant::now() {
                self.follow(&lease, &holder);
                return Ok(());
            }
        }
        let next = self.held(Some(&lease));
        let renewed = within(self.leases.replace(NAME, &PostParams::default(), &next)).await?;
        self.take(renewed, began, load).await
    }

    /// The Lease, held by this one.
    fn held(&self, before: Option<&Lease>) -> Lease {
        let now = MicroTime(Timestamp::now());
        let was = before.and_then(|lease| lease.spec.clone()).unwrap_or_default();
        let mine = was.holder_identity.as_deref() == Some(self.own.name.as_str());
        let metadata = before.map_or_else(
            || ObjectMeta { name: Some(NAME.to_owned()), ..ObjectMeta::default() },
            |lease| ObjectMeta { managed_fields: None, ..lease.metadata.clone() },
        );
        let mut annotations = metadata.annotations.clone().unwrap_or_default();
        match self.own.at.as_ref().and_then(|place| serde_json::to_string(place).ok()) {
            Some(place) => drop(annotations.insert(SERVES.to_owned(), place)),
            None => drop(annotations.remove(SERVES)),
        }
        let transitions = was.lease_transitions.unwrap_or(0);
        Lease {
            metadata: ObjectMeta { annotations: Some(annotations), ..metadata },
            spec: Some(LeaseSpec {
                holder_identity: Some(self.own.name.clone()),
                lease_duration_seconds: i32::try_from(DURATION.as_secs()).ok(),
                acquire_time: was.acquire_time.filter(|_| mine).or_else(|| Some(now.clone())),
                renew_time: Some(now),
                lease_transitions: Some(if mine { transitions } else { transitions.saturating_add(1) }),
                ..was
            }),
        }
    }

    /// The Lease is this one's, as it was written by a request that began then.
    async fn take<L: Future<Output = Result<()>>>(
        &self,
        lease: Lease,
        began: Instant,
        load: &impl Fn() -> L,
    ) -> Result<()> {
        if !self.lead.borrow().mine {
            load().await?;
            tracing::info!(replica = %self.own.name, "this control plane leads");
        }
        let transitions = lease.spec.and_then(|spec| spec.lease_transitions).unwrap_or(0);
        self.lead.send_replace(Lead {
            mine: true,
            owner: self.own.name.clone(),
            leader: Some(self.own.clone()),
            replicas: vec![self.own.clone()],
            term: u64::try_from(transitions).unwrap_or(0),
            until: Some(began + CERTAIN),
        });
        Ok(())
    }

    fn follow(&self, lease: &Lease, holder: &str) {
        let place = lease.metadata.annotations.as_ref().and_then(|all| all.get(SERVES));
        let at = place.and_then(|text| serde_json::from_str::<Place>(text).ok());
        let leader = Replica { name: holder.to_owned(), at };
        let lead = Lead {
            owner: holder.to_owned(),
            replicas: vec![leader.clone(), self.own.clone()],
            leader: Some(leader),
            ..Lead::default()
        };
        self.lead.send_if_modified(|now| {
            let differs = *now != lead;
            *now = lead;
            differs
        });
    }

    /// Nobody need wait until it is missed.
    async fn give_up(&self) {
        let given = async {
            let Some(lease) = within(self.leases.get_opt(NAME)).await? else { return Ok(()) };
            let spec = lease.spec.clone().unwrap_or_default();
            if spec.holder_identity.as_deref() != Some(self.own.name.as_str()) {
                return Ok(());
            }
            let mut free = lease;
            free.metadata.managed_fields = None;
            free.spec = Some(LeaseSpec { holder_identity: None, lease_duration_seconds: Some(1), ..spec });
            within(self.leases.replace(NAME, &PostParams::default(), &free)).await.map(drop)
        };
        let given: Result<()> = given.await;
        if let Err(error) = given {
            tracing::warn!(%error, "the Lease {NAME} was not given up: another control plane waits until it has ended");
        }
    }
}
