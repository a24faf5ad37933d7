//! The store of a control plane in a Kubernetes cluster, whose objects are the cluster's: what is left for the control plane itself to remember
//! (certificates that are out, join tokens, rollouts under way) is in Secrets of its own namespace, and who leads is said by a Lease.
//!
//! Only the one that leads reads and writes; whoever comes to lead reads everything first. A write is durable before it is visible. Of a
//! transaction the writes of one Secret are made together; of several, one Secret after the other, so that a control plane that dies in between
//! leaves the first of them written.

mod lease;
mod shards;

use futures_util::future::BoxFuture;
use kube::api::{Api, ListParams};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::mirror::{Mirror, State};
use super::{
    Event, Expect, Key, Lead, Options, Page, Place, Record, Result, Scope, Store, StoreError, Watch, Write, distinct,
};
use shards::{Shard, shard_of};

/// How long the API server may take.
const DEADLINE: Duration = Duration::from_secs(5);

/// What a control plane in a cluster is told.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Its own namespace.
    pub namespace: String,
    /// What it calls itself: the name of its pod.
    pub replica: String,
    /// Where the others reach it; `None`: nowhere.
    pub serves: Option<Place>,
    /// What is kept for watches.
    pub options: Options,
}

/// See the module's text. Cheap to clone.
#[derive(Clone)]
pub struct Kubernetes(Arc<Inner>);

struct Inner {
    secrets: Api<k8s_openapi::api::core::v1::Secret>,
    mirror: Arc<Mirror>,
    options: Options,
    /// The Secrets as they are. Held for the whole of a write.
    shards: tokio::sync::Mutex<BTreeMap<usize, Shard>>,
    lead: watch::Receiver<Lead>,
    resign: CancellationToken,
    candidate: parking_lot::Mutex<Option<AbortOnDropHandle<()>>>,
}

impl Kubernetes {
    /// Stands for the lead, and goes on doing so until it resigns.
    #[must_use]
    pub fn open(client: &kube::Client, settings: Settings) -> Self {
        let (say, lead) = watch::channel(Lead::default());
        let inner = Arc::new(Inner {
            secrets: Api::namespaced(client.clone(), &settings.namespace),
            mirror: Arc::new(Mirror::new(State::default())),
            options: settings.options,
            shards: tokio::sync::Mutex::default(),
            lead,
            resign: CancellationToken::new(),
            candidate: parking_lot::Mutex::new(None),
        });
        let candidate = lease::Candidate::new(client, &settings, say);
        // The task must not keep alive what ends it.
        let (weak, resign) = (Arc::downgrade(&inner), inner.resign.clone());
        let task = tokio::spawn(async move {
            let load = || {
                let inner = weak.upgrade();
                async move {
                    match inner {
                        Some(inner) => inner.load().await,
                        None => Err(StoreError::Failed("the store is closed".to_owned())),
                    }
                }
            };
            candidate.run(load, resign).await;
        });
        *inner.candidate.lock() = Some(AbortOnDropHandle::new(task));
        Self(inner)
    }
}

impl Inner {
    /// Reads what another remembered.
    async fn load(&self) -> Result<()> {
        let mut held = self.shards.lock().await;
        let params = ListParams::default().labels(shards::SELECTOR);
        let listed = within(self.secrets.list(&params)).await?;
        let mut found = BTreeMap::new();
        let mut records: Vec<Arc<Record>> = Vec::new();
        for secret in listed.items {
            let Some((at, shard, of_shard)) = shards::read(&secret)? else { continue };
            found.insert(at, shard);
            records.extend(of_shard);
        }
        let revision = found.values().map(|shard| shard.revision).max().unwrap_or(0);
        // Whoever watched another's revisions begins anew.
        let mut state = State { revision, compacted: revision, ..State::default() };
        records.into_iter().for_each(|record| state.objects.insert(record));
        self.mirror.replace(state);
        *held = found;
        Ok(())
    }

    async fn write(&self, writes: Vec<Write>) -> Result<Vec<Arc<Event>>> {
        let mut held = self.shards.lock().await;
        if !self.lead.borrow().is_certain() {
            return Err(StoreError::Failed("another control plane may lead by now".to_owned()));
        }
        let (events, leaving, revision) = {
            let state = self.mirror.read();
            let mut revision = state.revision;
            let mut events = Vec::with_capacity(writes.len());
            for write in writes {
                let before = state.objects.get(&write.key).cloned();
                let fits = match (write.expect, &before) {
                    (Expect::Absent, None) => true,
                    (Expect::Revision(expected), Some(there)) => there.revision == expected,
                    _ => false,
                };
                if !fits {
                    return Err(StoreError::Conflict { key: write.key, found: before });
                }
                revision += 1;
                let after = write.value.map(|value| Arc::new(Record { key: write.key.clone(), revision, value }));
                events.push(Arc::new(Event { revision, key: write.key, before, after }));
            }
            let leaving = state.overflow(&events, &self.options).len();
            (events, leaving, revision)
        };
        let mut touched: BTreeMap<usize, Vec<&Event>> = BTreeMap::new();
        for event in &events {
            touched.entry(shard_of(&event.key)).or_default().push(event);
        }
        for (at, changes) in touched {
            let records = self.of_shard(at, &changes);
            let before = held.get(&at);
            match shards::write(&self.secrets, at, before, revision, &records).await {
                Ok(shard) => drop(held.insert(at, shard)),
                Err(error) => {
                    // What was written, and by whom, is read before anything else is.
                    drop(held);
                    self.load().await?;
                    return Err(error);
                }
            }
        }
        self.mirror.apply(&events, leaving, revision);
        Ok(events)
    }

    /// The records of a Secret after these changes.
    fn of_shard(&self, at: usize, changes: &[&Event]) -> Vec<Arc<Record>> {
        let state = self.mirror.read();
        let unchanged = |record: &&Arc<Record>| !changes.iter().any(|event| event.key == record.key);
        let stay = state.objects.values().filter(|record| shard_of(&record.key) == at).filter(unchanged).cloned();
        stay.chain(changes.iter().filter_map(|event| event.after.clone())).collect()
    }
}

/// What the API server answers in time.
async fn within<T>(asked: impl Future<Output = std::result::Result<T, kube::Error>>) -> Result<T> {
    match tokio::time::timeout(DEADLINE, asked).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(error)) => Err(StoreError::Failed(error.to_string())),
        Err(_) => Err(StoreError::Failed(format!("the API server did not answer in {DEADLINE:?}"))),
    }
}

impl Store for Kubernetes {
    fn get<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, Result<Option<Arc<Record>>>> {
        Box::pin(async move { Ok(self.0.mirror.read().objects.get(key).cloned()) })
    }

    fn list<'a>(
        &'a self,
        scope: &'a Scope,
        after: Option<&'a Key>,
        limit: usize,
        at: Option<u64>,
    ) -> BoxFuture<'a, Result<Page>> {
        Box::pin(async move { self.0.mirror.read().page(scope, after, limit, at) })
    }

    fn everything(&self) -> BoxFuture<'_, Result<Page>> {
        Box::pin(async move { Ok(self.0.mirror.read().everything()) })
    }

    fn watch<'a>(&'a self, scope: &'a Scope, after: u64) -> BoxFuture<'a, Result<Box<dyn Watch>>> {
        Box::pin(async move { self.0.mirror.watch(scope, after) })
    }

    fn transact(&self, writes: Vec<Write>) -> BoxFuture<'_, Result<Vec<Arc<Event>>>> {
        let inner = self.0.clone();
        Box::pin(async move {
            distinct(&writes)?;
            if writes.is_empty() {
                return Ok(Vec::new());
            }
            // On its own: who asked may leave.
            let written = tokio::spawn(async move { inner.write(writes).await });
            written.await.map_err(|error| StoreError::Failed(error.to_string()))?
        })
    }

    fn revision(&self) -> BoxFuture<'_, Result<u64>> {
        Box::pin(async move { Ok(self.0.mirror.read().revision) })
    }

    fn lead(&self) -> watch::Receiver<Lead> {
        self.0.lead.clone()
    }

    fn resign(&self) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            self.0.resign.cancel();
            let task = self.0.candidate.lock().take();
            if let Some(task) = task {
                let _ = tokio::time::timeout(DEADLINE, task).await;
            }
        })
    }
}
