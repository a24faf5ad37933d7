//! When a workload takes calls and when it is gone: readiness and withdrawal as its sidecar says them, loss as its stream shows it.
//!
//! The truth is in the `Workload`'s status, so that a restarted control plane goes on where it was. A stream that is lost withdraws the
//! workload only after a grace, and not at all shortly after a start, when every sidecar is still on its way back.

use super::Fleet;
use crate::compile::{endpoints::is_member, names};
use crate::identity::registration::is_registered;
use crate::identity::{Peer, SYSTEM_NAMESPACE};
use crate::kinds::{self, Phase};
use crate::world::reconcile::Compiled;
use crate::world::{Origin, Table, Workload};
use crate::xds::Convergence;
use kube::api::{Api, DeleteParams, Patch, PatchParams, Preconditions};
use serde_json::json;
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tonic::Status;
use weft_proto::{type_url, v1};

/// How long peers may take to learn of a withdrawal before it is acknowledged anyway.
const WITHDRAWAL: Duration = Duration::from_secs(5);
/// A workload that has just registered may not be in the reflector yet.
const REGISTERED: Duration = Duration::from_secs(5);
const SWEEP: Duration = Duration::from_millis(500);
/// How long after its withdrawal a workload may come back with a new stream before it is forgotten.
const GOODBYE: Duration = Duration::from_secs(2);
/// How long a workload that registered itself and was lost is remembered.
const FORGOTTEN: Duration = Duration::from_secs(600);
/// How often a status is tried against concurrent writers.
const TRIES: usize = 5;

/// What was seen of the workloads: only what changes is looked at again.
#[derive(Default)]
struct Seen {
    workloads: Table<Arc<Workload>>,
    /// Since when a workload that should have a stream has none, and when something becomes of it.
    missing: HashMap<Arc<str>, (Instant, Option<Instant>)>,
    /// The latter, in order.
    due: BTreeSet<(Instant, Arc<str>)>,
    /// What was written may not have been.
    again: BTreeSet<String>,
}

impl Seen {
    fn forget_due(&mut self, uid: &str) {
        if let Some((uid, at)) =
            self.missing.get_key_value(uid).and_then(|(uid, (_, due))| Some((uid.clone(), (*due)?)))
        {
            self.due.remove(&(at, uid.clone()));
            self.missing.entry(uid).and_modify(|(_, due)| *due = None);
        }
    }
}

/// The rules of life, and what they need to see and to write.
pub struct Life {
    client: kube::Client,
    compiled: watch::Receiver<Compiled>,
    convergence: Arc<Convergence>,
    fleet: Arc<Fleet>,
    started: Instant,
    stream_grace: Duration,
    start_grace: Duration,
}

impl Life {
    /// Watches over the workloads of `compiled`.
    #[must_use]
    pub fn new(
        client: kube::Client,
        compiled: watch::Receiver<Compiled>,
        convergence: Arc<Convergence>,
        fleet: Arc<Fleet>,
        stream_grace: Duration,
        start_grace: Duration,
    ) -> Arc<Self> {
        let started = Instant::now();
        Arc::new(Self { client, compiled, convergence, fleet, started, stream_grace, start_grace })
    }

    /// Whether a peer may speak for a workload: it is registered, under the peer's own identity.
    ///
    /// # Errors
    /// `PERMISSION_DENIED` otherwise, after a moment for registrations that are on their way.
    pub async fn admits(&self, peer: &Peer, uid: &str) -> Result<(), Status> {
        let denied = || Status::permission_denied(format!("{} does not speak for workload {uid:?}", peer.identity));
        if peer.namespace == SYSTEM_NAMESPACE || uid.split('/').next() != Some(&peer.namespace) {
            return Err(denied());
        }
        let mut compiled = self.compiled.clone();
        let until = Instant::now() + REGISTERED;
        loop {
            let account = compiled.borrow_and_update().world.workloads.get(uid).map(|w| w.spec.service_account.clone());
            match account {
                Some(account) if *account == *peer.service_account => return Ok(()),
                Some(_) => return Err(denied()),
                None => {}
            }
            if !matches!(tokio::time::timeout_at(until, compiled.changed()).await, Ok(Ok(()))) {
                return Err(denied());
            }
        }
    }

    /// The sidecar says whether its application is ready.
    pub async fn ready(&self, uid: &str, ready: bool) {
        let (phase, reason) = if ready { (Phase::Ready, "Ready") } else { (Phase::NotReady, "ApplicationNotReady") };
        self.set(uid, phase, reason, if ready { "" } else { "its sidecar reports that the application is not ready" })
            .await;
    }

    /// The sidecar asks to be withdrawn; returns once its peers know, or after 5 s.
    pub async fn withdraw(&self, uid: &str) {
        self.set(uid, Phase::Draining, "Withdrawn", "its sidecar asked to be withdrawn").await;
        let told = async {
            let mut compiled = self.compiled.clone();
            let mut held = self.convergence.changes();
            loop {
                {
                    let latest = compiled.borrow_and_update();
                    held.borrow_and_update();
                    let slices = slices(&latest, uid);
                    if let Some(slices) = slices
                        && self.convergence.waiting_for(&latest.offer(), &slices) == 0
                    {
                        return;
                    }
                }
                tokio::select! {
                    changed = compiled.changed() => if changed.is_err() { return },
                    changed = held.changed() => if changed.is_err() { return },
                }
            }
        };
        if tokio::time::timeout(WITHDRAWAL, told).await.is_err() {
            tracing::info!(workload = uid, "not every peer acknowledged the withdrawal in time");
        }
    }

    /// Looks after lost streams until `shutdown`.
    pub async fn run(&self, shutdown: CancellationToken) {
        let mut tick = tokio::time::interval(SWEEP);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut seen = Seen::default();
        loop {
            tokio::select! {
                _ = tick.tick() => {}
                () = shutdown.cancelled() => return,
            }
            tokio::select! {
                () = self.sweep(&mut seen) => {}
                () = shutdown.cancelled() => return,
            }
        }
    }

    /// Looks at what has changed since the last time, and at those whose time has come.
    async fn sweep(&self, seen: &mut Seen) {
        let world = self.compiled.borrow().world.clone();
        let now = Instant::now();
        let mut look = self.fleet.take_touched();
        look.extend(
            world.workloads.changes(&seen.workloads, Arc::ptr_eq).into_iter().map(|(uid, _, _)| uid.to_string()),
        );
        look.append(&mut seen.again);
        seen.workloads = world.workloads.clone();
        for uid in look {
            self.look(seen, uid, now).await;
        }
        while let Some((_, uid)) = seen.due.first().filter(|(at, _)| *at <= now).cloned() {
            // Written or not: it is looked at again.
            seen.forget_due(&uid);
            seen.again.insert(uid.to_string());
            let Some(workload) = seen.workloads.get(&uid).filter(|_| !self.fleet.is_connected(&uid)) else { continue };
            let lost = match workload.phase {
                Some(Phase::Ready | Phase::NotReady) => true,
                Some(Phase::Draining) => !is_registered(workload),
                Some(Phase::Lost | Phase::Pending) | None => false,
            };
            if lost {
                tracing::warn!(workload = %uid, "its control stream has been lost: it is withdrawn");
                self.set(&uid, Phase::Lost, "StreamLost", "its sidecar's control stream was lost").await;
            } else {
                self.delete(&uid, &workload.clone()).await;
            }
        }
    }

    async fn look(&self, seen: &mut Seen, uid: String, now: Instant) {
        let workload = seen.workloads.get(&uid).filter(|workload| workload.origin == Origin::Object).cloned();
        let takes_calls = self.fleet.takes_calls(&uid);
        let phase = workload.as_ref().and_then(|w| w.phase);
        // Its readiness may have come before its registration, which begins anew, or could not be written.
        if workload.is_some() && takes_calls == Some(true) && phase != Some(Phase::Ready) {
            self.ready(&uid, true).await;
            seen.again.insert(uid.clone());
        }
        let Some(workload) = workload.filter(|w| w.spec.tunnel.is_some() && takes_calls.is_none()) else {
            seen.forget_due(&uid);
            seen.missing.remove(&*uid);
            return;
        };
        seen.forget_due(&uid);
        // As it stands in the world: there is one copy of it.
        let uid = seen.workloads.get_key_value(&uid).map_or_else(|| uid.into(), |(known, _)| known.clone());
        let since = seen.missing.entry(uid.clone()).or_insert((now, None)).0;
        if let Some(at) = self.ends(phase, is_registered(&workload), since) {
            // Not at once again, where what was due could not be written.
            let at = at.max(now + SWEEP);
            seen.due.insert((at, uid.clone()));
            seen.missing.insert(uid, (since, Some(at)));
        }
    }

    /// When something becomes of a workload that has been without a stream since then.
    fn ends(&self, phase: Option<Phase>, registered: bool, since: Instant) -> Option<Instant> {
        let grown = self.started + self.start_grace;
        match phase {
            // It said goodbye, and its process has gone: nothing is left of it.
            Some(Phase::Draining) if registered => Some(grown.max(since + GOODBYE)),
            Some(Phase::Ready | Phase::NotReady | Phase::Draining) => Some(grown.max(since + self.stream_grace)),
            Some(Phase::Lost | Phase::Pending) | None => registered.then_some(since + FORGOTTEN),
        }
    }

    async fn delete(&self, uid: &str, workload: &Workload) {
        let Some((namespace, name)) = uid.split_once('/') else { return };
        let api: Api<kinds::Workload> = Api::namespaced(self.client.clone(), namespace);
        // Only what was looked at: it may have registered again meanwhile.
        let params = DeleteParams {
            preconditions: Some(Preconditions {
                uid: Some(workload.object_uid.to_string()),
                resource_version: Some(workload.resource_version.to_string()),
            }),
            ..Default::default()
        };
        match api.delete(name, &params).await {
            Ok(_) => tracing::info!(workload = uid, "forgotten"),
            Err(kube::Error::Api(e)) if e.code == 404 || e.code == 409 => {}
            Err(error) => tracing::warn!(workload = uid, %error, "cannot delete a workload that has gone"),
        }
    }

    async fn set(&self, uid: &str, phase: Phase, reason: &str, message: &str) {
        let Some((namespace, name)) = uid.split_once('/') else { return };
        // Of pods Kubernetes says whether they are ready, and when they go.
        if self.compiled.borrow().world.workloads.get(uid).is_some_and(|workload| workload.origin != Origin::Object) {
            return;
        }
        let api: Api<kinds::Workload> = Api::namespaced(self.client.clone(), namespace);
        for _ in 0..TRIES {
            let current = match api.get_opt(name).await {
                Ok(Some(current)) => current,
                Ok(None) => return,
                Err(error) => {
                    tracing::warn!(workload = uid, %error, "cannot read a workload");
                    return;
                }
            };
            let status = current.status.clone().unwrap_or_default();
            let ready = if phase == Phase::Ready { "True" } else { "False" };
            let before = status.conditions.iter().find(|c| c.type_ == "Ready");
            if status.phase == Some(phase) && before.is_some_and(|c| c.reason == reason) {
                return;
            }
            let since = before.filter(|c| c.status == ready).map(|c| json!(c.last_transition_time));
            let condition = json!({
                "type": "Ready", "status": ready, "reason": reason, "message": message,
                "observedGeneration": current.metadata.generation,
                "lastTransitionTime": since.unwrap_or_else(|| json!(crate::world::status::now())),
            });
            let patch = json!({
                // The phase must not be written over a registration that came in between.
                "metadata": { "resourceVersion": current.metadata.resource_version },
                "status": { "phase": phase, "conditions": [condition] },
            });
            match api.patch_status(name, &PatchParams::default(), &Patch::Merge(patch)).await {
                Ok(_) => return,
                Err(kube::Error::Api(e)) if e.code == 409 => {}
                Err(kube::Error::Api(e)) if e.code == 404 => return,
                Err(error) => {
                    tracing::warn!(workload = uid, %error, "cannot write a workload's status");
                    return;
                }
            }
        }
    }
}

/// The slices that show the workload as draining; `None` while one still shows it otherwise.
fn slices(latest: &Compiled, uid: &str) -> Option<BTreeSet<crate::xds::convergence::Key>> {
    let mut found = BTreeSet::new();
    let Some(workload) = latest.world.workloads.get(uid) else { return Some(found) };
    let namespace = uid.split_once('/').map_or("", |(namespace, _)| namespace);
    let own = latest.world.services.with_prefix(&format!("{namespace}/"));
    let of = own.filter(|(_, service)| is_member(service, workload)).map(|(name, _)| name.to_string());
    for service in of.chain([names::of_workload(uid)]) {
        for slice in latest.output.slices_of(&service) {
            for endpoint in slice.read().endpoints.iter().filter(|e| e.uid == uid) {
                if endpoint.health != i32::from(v1::Health::Draining) {
                    return None;
                }
                found.insert((type_url::ENDPOINTS, slice.name.to_string()));
            }
        }
    }
    Some(found)
}
