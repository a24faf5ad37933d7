//! What a store holds, in memory: the objects as they are and the history that watches replay. Lists and watches are answered from here by
//! every store, so they mean the same whatever keeps the objects.
//!
//! Nothing here is durable, and nothing here waits for a disk or a network: a store applies what its medium has accepted.

use std::{
    collections::{BTreeMap, VecDeque},
    ops::Bound,
    sync::Arc,
};

use futures_util::future::BoxFuture;
use parking_lot::{RwLock, RwLockReadGuard};
use tokio::sync::watch;

use super::objects::Objects;
use super::{Batch, Event, Key, Options, Page, Record, Result, Scope, StoreError, Watch};

/// Events of one batch: what a slow reader makes memory hold at once.
const BATCH: usize = 256;

/// The objects and the history, shared by the store and its watches.
pub(super) struct Mirror {
    state: RwLock<State>,
    /// The newest visible revision.
    moved: watch::Sender<u64>,
}

/// What is there at one revision, and how it came about.
#[derive(Default)]
pub(super) struct State {
    pub objects: Objects,
    /// Invariant: in ascending order of revision, all after `compacted` and none after `revision`.
    pub history: VecDeque<Arc<Event>>,
    pub history_bytes: usize,
    pub revision: u64,
    /// Everything after this revision is in the history.
    pub compacted: u64,
}

impl Mirror {
    pub fn new(state: State) -> Self {
        let moved = watch::Sender::new(state.revision);
        Self { state: RwLock::new(state), moved }
    }

    pub fn read(&self) -> RwLockReadGuard<'_, State> {
        self.state.read()
    }

    /// Adds events in order, which leave the store at `revision`; `leaving` of the oldest events are forgotten.
    pub fn apply(&self, events: &[Arc<Event>], leaving: usize, revision: u64) {
        let mut state = self.state.write();
        for event in events {
            match &event.after {
                Some(record) => state.objects.insert(record.clone()),
                None => state.objects.remove(&event.key),
            }
            state.history_bytes += weight(event);
            state.history.push_back(event.clone());
        }
        for _ in 0..leaving {
            if let Some(event) = state.history.pop_front() {
                state.history_bytes -= weight(&event);
                state.compacted = event.revision;
            }
        }
        state.revision = revision;
        drop(state);
        self.moved.send_replace(revision);
    }

    /// Begins anew with another state: watches that have not seen what led to it are told that it is gone.
    pub fn replace(&self, state: State) {
        let revision = state.revision;
        *self.state.write() = state;
        self.moved.send_replace(revision);
    }

    /// Waits until this revision is visible.
    pub async fn reached(&self, revision: u64) -> Result<()> {
        let moved = self.moved.subscribe().wait_for(|now| *now >= revision).await.map(drop);
        moved.map_err(|_| StoreError::Failed("the store is closed".to_owned()))
    }

    /// What happens in a scope after a revision.
    pub fn watch(self: &Arc<Self>, scope: &Scope, after: u64) -> Result<Box<dyn Watch>> {
        self.read().check(after)?;
        Ok(Box::new(MirrorWatch {
            mirror: self.clone(),
            moved: self.moved.subscribe(),
            scope: scope.clone(),
            at: after,
        }))
    }
}

impl State {
    /// Adds one event that was read from where it is kept.
    pub fn remember(&mut self, event: Arc<Event>) {
        self.history_bytes += weight(&event);
        self.history.push_back(event);
    }

    pub fn check(&self, asked: u64) -> Result<()> {
        if asked < self.compacted {
            return Err(StoreError::Gone { asked, oldest: self.compacted });
        }
        if asked > self.revision {
            return Err(StoreError::Future { asked, current: self.revision });
        }
        Ok(())
    }

    /// Events after a revision; the caller checked that they are all kept.
    fn after(&self, revision: u64) -> impl Iterator<Item = &Arc<Event>> {
        self.history.range(self.history.partition_point(|event| event.revision <= revision)..)
    }

    /// The revisions that leave the history when these events enter it; the newest event always stays.
    pub fn overflow(&self, events: &[Arc<Event>], options: &Options) -> Vec<u64> {
        let mut count = self.history.len() + events.len();
        let mut bytes = self.history_bytes + events.iter().map(|e| weight(e)).sum::<usize>();
        let mut leaving = Vec::new();
        for event in &self.history {
            if count <= options.history_events.max(1) && bytes <= options.history_bytes {
                break;
            }
            count -= 1;
            bytes -= weight(event);
            leaving.push(event.revision);
        }
        leaving
    }

    pub fn everything(&self) -> Page {
        Page { revision: self.revision, items: self.objects.values().cloned().collect(), remaining: 0 }
    }

    pub fn page(&self, scope: &Scope, after: Option<&Key>, limit: usize, at: Option<u64>) -> Result<Page> {
        let revision = at.unwrap_or(self.revision);
        self.check(revision)?;
        // What was there then: the state now, with the first change after that moment undone for each key.
        let mut then: BTreeMap<&Key, Option<&Arc<Record>>> = BTreeMap::new();
        for event in self.after(revision).filter(|e| scope.holds(&e.key)) {
            then.entry(&event.key).or_insert(event.before.as_ref());
        }
        let first = Key::new(scope.resource.clone(), scope.namespace.clone().unwrap_or_default(), "");
        let from = match after {
            Some(key) => Bound::Excluded(key),
            None => Bound::Included(&first),
        };
        let mut found: BTreeMap<&Key, &Arc<Record>> = self
            .objects
            .from(from)
            .take_while(|record| scope.holds(&record.key))
            .filter(|record| !then.contains_key(&record.key))
            .map(|record| (&record.key, record))
            .collect();
        let undone = then.into_iter().filter(|(key, _)| after.is_none_or(|after| *key > after));
        found.extend(undone.filter_map(|(key, record)| Some((key, record?))));
        let limit = if limit == 0 { found.len() } else { limit };
        let remaining = found.len().saturating_sub(limit);
        Ok(Page { revision, items: found.into_values().take(limit).cloned().collect(), remaining })
    }
}

struct MirrorWatch {
    mirror: Arc<Mirror>,
    moved: watch::Receiver<u64>,
    scope: Scope,
    at: u64,
}

impl Watch for MirrorWatch {
    fn next(&mut self) -> BoxFuture<'_, Result<Batch>> {
        Box::pin(async move {
            let at = self.at;
            let moved = self.moved.wait_for(|now| *now > at).await.map(drop);
            moved.map_err(|_| StoreError::Failed("the store is closed".to_owned()))?;
            let state = self.mirror.read();
            state.check(at)?;
            let mut batch = Batch { events: Vec::new(), revision: state.revision };
            for (read, event) in state.after(at).enumerate() {
                if read == BATCH {
                    break;
                }
                if read == BATCH - 1 {
                    batch.revision = event.revision;
                }
                if self.scope.holds(&event.key) {
                    batch.events.push(event.clone());
                }
            }
            self.at = batch.revision;
            Ok(batch)
        })
    }
}

/// Bytes of documents that an event keeps in memory, and something for itself.
fn weight(event: &Event) -> usize {
    let size = |r: &Option<Arc<Record>>| r.as_ref().map_or(0, |r| r.value.len());
    128 + size(&event.before) + size(&event.after)
}
