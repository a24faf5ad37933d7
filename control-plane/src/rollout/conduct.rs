//! Conducts rollouts: measures how calls are without a change, gives it to a sample, judges, and lets all have it or nobody.
//!
//! Whatever it decides it writes to the store; what follows, follows from the record when it comes back, here and in every other replica.

use super::book::{Held, Rollouts};
use super::judge::{Decision, Evidence, judge};
use super::object::Id;
use super::record::{self, Progress, RESOURCE};
use super::sample::{Candidate, pick};
use crate::compile::Verdict;
use crate::fleet::Fleet;
use crate::fleet::tally::{Subject, Tally};
use crate::store::{Event, Scope, Store, StoreError, Write};
use crate::world::World;
use crate::world::reconcile::Compiled;
use crate::xds::Convergence;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tokio::sync::watch;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;
use weft_proto::type_url;

/// How often there is a look at what is tried. Sidecars report every two seconds.
const LOOK: Duration = Duration::from_secs(1);
/// How long calls are counted before a change, at most; a quarter of its own time otherwise.
const BEFORE: Duration = Duration::from_secs(10);
/// So long after a start sidecars may still be on their way back: that nobody needs a change says nothing yet.
const RETURN: Duration = Duration::from_secs(30);
/// After so long without a call of the sample, and without the sample itself, another one is picked.
const GONE: Duration = Duration::from_secs(30);
/// After the store failed, it is asked again no sooner than this.
const AGAIN: Duration = Duration::from_secs(1);
/// Records written at once, and bytes of them: fewer than etcd takes.
const WRITES: usize = 100;
const BYTES: usize = 1 << 20;

/// What is needed to see and to write.
pub struct Means {
    /// What is held back.
    pub rollouts: Arc<Rollouts>,
    /// Where records are.
    pub store: Arc<dyn Store>,
    /// Who tells of calls.
    pub fleet: Arc<Fleet>,
    /// Who holds what.
    pub convergence: Arc<Convergence>,
    /// What was compiled.
    pub compiled: watch::Receiver<Compiled>,
}

/// Reads every record; the revision from which they are followed.
///
/// # Errors
/// When the store fails.
pub async fn load(rollouts: &Rollouts, store: &dyn Store) -> Result<u64, StoreError> {
    let page = store.list(&Scope { resource: RESOURCE.into(), namespace: None }, None, 0, None).await?;
    let read = |stored: &Arc<crate::store::Record>| {
        let (id, record) = record::read(stored)?;
        Some((id, (stored.revision, record)))
    };
    rollouts.replace(page.items.iter().filter_map(read).collect());
    Ok(page.revision)
}

/// Conducts rollouts until `shutdown`; records are known up to `revision`.
pub async fn conduct(means: Means, revision: u64, shutdown: CancellationToken) {
    let following = follow(&means.rollouts, &*means.store, revision);
    let leading = lead(&means);
    tokio::select! {
        () = following => {}
        () = leading => {}
        () = shutdown.cancelled() => {}
    }
}

fn note(rollouts: &Rollouts, event: &Event) {
    let Some(id) = record::id(&event.key) else { return };
    let record = event.after.as_deref().and_then(record::read).map(|(_, record)| record);
    rollouts.note(id, event.revision, record);
}

/// Follows the records.
async fn follow(rollouts: &Rollouts, store: &dyn Store, mut revision: u64) {
    let scope = Scope { resource: RESOURCE.into(), namespace: None };
    loop {
        let failed = match store.watch(&scope, revision).await {
            Ok(mut watch) => loop {
                match watch.next().await {
                    Ok(batch) => batch.events.iter().for_each(|event| note(rollouts, event)),
                    Err(error) => break error,
                }
            },
            Err(error) => error,
        };
        tracing::warn!(error = %failed, "the records of rollouts are read anew");
        loop {
            tokio::time::sleep(AGAIN).await;
            if let Ok(now) = load(rollouts, store).await {
                revision = now;
                break;
            }
        }
    }
}

/// Decides, while this control plane leads.
async fn lead(means: &Means) {
    let mut conductor = Conductor::default();
    let mut compiled = means.compiled.clone();
    let mut look = tokio::time::interval(LOOK);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            changed = compiled.changed() => if changed.is_err() { return },
            _ = look.tick() => {}
        }
        if !means.store.lead().borrow().mine {
            conductor = Conductor::default();
            continue;
        }
        let latest = compiled.borrow_and_update().clone();
        let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let writes = conductor.decide(means, &means.rollouts, &latest, Instant::now(), unix);
        for chunk in chunks(writes) {
            match means.store.transact(chunk).await {
                // Sooner than they come back, so that nothing is decided twice.
                Ok(events) => events.iter().for_each(|event| note(&means.rollouts, event)),
                Err(error) => {
                    // Whatever it was is decided again from what is there by then.
                    tracing::warn!(%error, "cannot write how far a rollout has got");
                    tokio::time::sleep(AGAIN).await;
                }
            }
        }
    }
}

/// Writes in lots that a store takes at once.
fn chunks(writes: Vec<Write>) -> Vec<Vec<Write>> {
    let mut lots: Vec<Vec<Write>> = Vec::new();
    let mut bytes = 0;
    for write in writes {
        let size = write.value.as_ref().map_or(0, |value| value.len());
        match lots.last_mut().filter(|lot| lot.len() < WRITES && bytes + size <= BYTES) {
            Some(lot) => {
                bytes += size;
                lot.push(write);
            }
            None => {
                bytes = size;
                lots.push(vec![write]);
            }
        }
    }
    lots
}

/// Changes that are given to a sample together.
#[derive(Default)]
struct Batch {
    /// With their generations, and what of calls is about them.
    members: BTreeMap<(Id, i64), Subject>,
    /// Since when calls are counted.
    since: Option<Instant>,
    /// The counts when the sample got it.
    before: Option<Tally>,
    /// Since when calls are counted that the sample makes with it, in seconds since the Unix epoch: a start begins anew.
    counted: u64,
}

/// Decides what is next. The time is an argument.
#[derive(Default)]
pub(super) struct Conductor {
    batch: Batch,
    /// Since when it decides.
    since: Option<Instant>,
}

impl Conductor {
    /// What is to be written now.
    pub(super) fn decide(
        &mut self,
        means: &Means,
        rollouts: &Rollouts,
        latest: &Compiled,
        now: Instant,
        unix: u64,
    ) -> Vec<Write> {
        self.since.get_or_insert(now);
        let held = rollouts.held();
        let mut writes: Vec<Write> = Vec::new();
        let mut write = |held: &Held, progress: Progress| {
            match &progress {
                Progress::RolledBack { message } => tracing::warn!(object = %held.id, "rolled back: {message}"),
                progress => tracing::info!(object = %held.id, generation = held.generation, ?progress, "rollout"),
            }
            writes.extend(record::write(&held.id, held.revision, Some(&held.record(progress))));
        };
        // A change that was not written down would be in force after a restart.
        for fresh in held.iter().filter(|held| held.progress.is_none()) {
            write(fresh, Progress::Waiting);
        }
        let trying: Vec<_> = held.iter().filter(|h| matches!(h.progress, Some(Progress::Trying { .. }))).collect();
        let waiting: Vec<_> = held.iter().filter(|h| h.progress == Some(Progress::Waiting)).collect();
        if !trying.is_empty() {
            self.judge(means, latest, &trying, unix, &mut write);
        } else if !waiting.is_empty() {
            self.begin(means, latest, &waiting, (now, unix), &mut write);
        } else {
            self.batch = Batch::default();
            means.fleet.count(None);
        }
        for (id, revision) in rollouts.useless() {
            writes.extend(record::write(&id, Some(revision), None));
        }
        writes
    }

    /// Counts calls for a while, then gives the changes to a sample.
    fn begin(
        &mut self,
        means: &Means,
        latest: &Compiled,
        waiting: &[&Held],
        (now, unix): (Instant, u64),
        write: &mut impl FnMut(&Held, Progress),
    ) {
        let ready = waiting.iter().filter(|held| held.verdict.as_ref().is_some_and(|verdict| verdict.is_accepted()));
        let ready: BTreeMap<(Id, i64), &Held> = ready.map(|held| ((held.id.clone(), held.generation), *held)).collect();
        self.batch.before = None;
        self.batch.members.retain(|member, _| ready.contains_key(member));
        if self.batch.members.is_empty() {
            self.batch.since = None;
            let is_early = self.since.is_none_or(|since| now.saturating_duration_since(since) < RETURN);
            for (member, held) in &ready {
                if !concerned(means, latest, held).is_empty() {
                    self.batch.members.insert(member.clone(), subject(latest, held));
                } else if !is_early {
                    let message = "no sidecar that is connected needs it".to_owned();
                    write(held, Progress::Promoted { message });
                }
            }
        }
        if self.batch.members.is_empty() {
            means.fleet.count(None);
            return;
        }
        if means.fleet.count(Some(&self.batch.subject())) {
            self.batch.since = Some(now);
        }
        let since = *self.batch.since.get_or_insert(now);
        let duration = ready.iter().filter(|(member, _)| self.batch.members.contains_key(*member));
        let duration = duration.map(|(_, held)| held.terms.limits.duration).min().unwrap_or_default();
        if now.saturating_duration_since(since) < BEFORE.min(duration / 4) {
            return;
        }
        let tally = means.fleet.tally();
        let salt = self.batch.members.keys().next().map(|(id, generation)| format!("{id}/{generation}"));
        for member in self.batch.members.keys() {
            let Some(held) = ready.get(member) else { continue };
            let all = concerned(means, latest, held);
            let candidates = all.iter().map(|uid| Candidate {
                uid: uid.clone(),
                instance_of: instance_of(&latest.world, uid),
                is_busy: tally.calls(uid) > 0,
            });
            let terms = &held.terms;
            let sample = pick(candidates.collect(), terms.percent, terms.minimum, salt.as_deref().unwrap_or_default());
            let sample = sample.into_iter().collect();
            write(held, Progress::Trying { sample, of: all.len(), began: unix });
        }
        self.batch.before = Some(tally);
    }

    /// Decides about what is tried.
    fn judge(
        &mut self,
        means: &Means,
        latest: &Compiled,
        trying: &[&Held],
        unix: u64,
        write: &mut impl FnMut(&Held, Progress),
    ) {
        for held in trying {
            // Only after a start is there anything that was not measured before.
            let member = (held.id.clone(), held.generation);
            self.batch.members.entry(member).or_insert_with(|| subject(latest, held));
        }
        if means.fleet.count(Some(&self.batch.subject())) {
            (self.batch.before, self.batch.counted) = (None, unix);
        }
        let tally = means.fleet.tally();
        let shapes = trying.iter().filter_map(|held| held.verdict.as_ref()).flat_map(|verdict| &verdict.parents);
        let mut progress = means.convergence.held(&latest.offer(), shapes.map(|parent| &parent.shapes)).into_iter();
        for held in trying {
            let Some(Progress::Trying { sample, of, began }) = &held.progress else { continue };
            let members: BTreeSet<&str> = sample.iter().map(String::as_str).collect();
            let in_sample = |uid: &str| members.contains(uid);
            let subject = &self.batch.members[&(held.id.clone(), held.generation)];
            let counts = tally.halves(subject, in_sample);
            let before = self.batch.before.as_ref().map(|before| before.halves(subject, in_sample)).unwrap_or_default();
            let evidence: Vec<Evidence> = counts
                .into_iter()
                .zip(before)
                .map(|(counts, before)| Evidence { during: counts - before, before: before.sample })
                .collect();
            let parents = held.verdict.as_ref().map_or(0, |verdict| verdict.parents.len());
            let refusals = progress.by_ref().take(parents).flat_map(|progress| progress.refused).collect::<Vec<_>>();
            let refused = refusals.iter().find(|refused| in_sample(&refused.sidecar));
            let refused = refused.map(|r| format!("{} refused {}: {} {}", r.sidecar, r.resource, r.field, r.reason));
            let elapsed = Duration::from_secs(unix.saturating_sub(self.batch.counted.max(*began)));
            // Whoever should have tried it may be gone: then others do.
            let is_silent = elapsed >= GONE && evidence.iter().all(|seen| seen.during.sample.calls == 0);
            if is_silent && !concerned(means, latest, held).iter().any(|uid| in_sample(uid)) {
                write(held, Progress::Waiting);
                continue;
            }
            match judge(&held.terms.limits, &evidence, elapsed, (sample.len(), *of), refused.as_deref()) {
                Decision::GoOn => {}
                Decision::Promote(message) => write(held, Progress::Promoted { message }),
                Decision::RollBack(message) => write(held, Progress::RolledBack { message }),
            }
        }
    }
}

impl Batch {
    fn subject(&self) -> Subject {
        let mut all = Subject::default();
        for subject in self.members.values() {
            all.services.extend(subject.services.iter().cloned());
            all.workloads.extend(subject.workloads.iter().cloned());
        }
        all
    }
}

/// The resources that a change shapes, and those that what is in force instead does.
fn shapes<'v>(latest: &'v Compiled, held: &'v Held) -> impl Iterator<Item = &'v crate::xds::convergence::Key> {
    let stable = latest.output.verdicts.iter().filter(|verdict| Id::of(verdict) == held.id);
    let both = stable.chain(&held.verdict);
    both.flat_map(|verdict: &Arc<Verdict>| verdict.parents.iter().flat_map(|parent| &parent.shapes))
}

/// The workloads whose sidecars need something that a change shapes.
fn concerned(means: &Means, latest: &Compiled, held: &Held) -> BTreeSet<String> {
    means.convergence.holders(&shapes(latest, held).cloned().collect())
}

/// Which calls a change is about: those to the services, and to the workloads, that it shapes.
fn subject(latest: &Compiled, held: &Held) -> Subject {
    let mut subject = Subject::default();
    for (url, name) in shapes(latest, held) {
        let into = if *url == type_url::INBOUND { &mut subject.workloads } else { &mut subject.services };
        into.insert(name.clone());
    }
    subject
}

/// What a workload is an instance of: the services that it says it belongs to, else its account.
fn instance_of(world: &World, uid: &str) -> String {
    let namespace = uid.split('/').next().unwrap_or_default();
    match world.workloads.get(uid) {
        Some(workload) if !workload.spec.services.is_empty() => {
            format!("{namespace}/{}", workload.spec.services.join(","))
        }
        Some(workload) => format!("{namespace}:{}", workload.spec.service_account),
        None => uid.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{Expect, Key};

    #[test]
    fn a_lot_has_neither_too_many_records_nor_too_many_bytes() {
        let write = |i: usize, size: usize| Write {
            key: Key::new(RESOURCE, "shop", format!("HTTPRoute.{i}")),
            expect: Expect::Absent,
            value: Some(vec![0; size].into()),
        };
        let sizes = |lots: Vec<Vec<Write>>| lots.iter().map(Vec::len).collect::<Vec<_>>();
        assert_eq!(sizes(chunks((0..250).map(|i| write(i, 10)).collect())), [100, 100, 50]);
        assert_eq!(sizes(chunks((0..5).map(|i| write(i, 400 << 10)).collect())), [2, 2, 1]);
        assert_eq!(sizes(chunks(vec![write(0, 2 << 20), write(1, 1)])), [1, 1]);
        assert!(chunks(Vec::new()).is_empty());
    }
}
