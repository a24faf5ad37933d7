//! The store of a single control plane: redb is what survives, memory is what is read.
//!
//! Every object and the kept history are mirrored in memory, so that a list or a watch never waits for a disk; a write is durable before
//! it becomes visible. One process owns the file at a time (redb locks it).

use std::{
    collections::{BTreeMap, VecDeque},
    ops::Bound,
    os::unix::fs::OpenOptionsExt,
    path::Path,
    sync::Arc,
};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use parking_lot::{Mutex, RwLock};
use redb::{Database, Durability, ReadableDatabase, ReadableTable, TableDefinition};
use tokio::sync::watch;

use super::{Batch, Event, Expect, Key, Page, Record, Result, Scope, Store, StoreError, Watch, Write};

/// Key → revision (8 bytes, big endian) and document.
const OBJECTS: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("objects");
/// Revision → key and the documents before and after.
const HISTORY: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("history");
/// `revision`, `compacted`, `format`.
const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");
/// Changes when a file of before could be misread.
const FORMAT: u64 = 1;

/// How an [`Embedded`] store is kept.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Events that watches can replay: 4096.
    pub history_events: usize,
    /// Bytes of documents in them: 16 MiB.
    pub history_bytes: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self { history_events: 4096, history_bytes: 16 << 20 }
    }
}

/// A durable store in one file of this machine. Cheap to clone.
#[derive(Clone)]
pub struct Embedded(Arc<Inner>);

struct Inner {
    database: Database,
    options: Options,
    /// Held for the whole of a write, on a blocking thread, never across an await.
    writer: Mutex<()>,
    state: RwLock<State>,
    /// The newest visible revision.
    moved: watch::Sender<u64>,
}

#[derive(Default)]
struct State {
    objects: BTreeMap<Key, Arc<Record>>,
    /// Invariant: consecutive revisions, from `compacted + 1` to `revision`.
    history: VecDeque<Arc<Event>>,
    history_bytes: usize,
    revision: u64,
    /// The newest revision whose event was dropped.
    compacted: u64,
}

fn failed(error: impl std::fmt::Display) -> StoreError {
    StoreError::Failed(error.to_string())
}

impl Embedded {
    /// Opens or creates the file. Blocks on disk: call it at start only.
    ///
    /// # Errors
    /// When the file cannot be opened, is locked by another process, or holds what this version cannot read.
    pub fn open(path: &Path, options: Options) -> Result<Self> {
        // Objects may be secrets: the file is its owner's alone from its first moment.
        let private = std::fs::OpenOptions::new().create(true).append(true).mode(0o600).open(path);
        drop(private.map_err(failed)?);
        let database = Database::builder().set_cache_size(1 << 20).create(path).map_err(failed)?;
        let write = database.begin_write().map_err(failed)?;
        {
            write.open_table(OBJECTS).map_err(failed)?;
            write.open_table(HISTORY).map_err(failed)?;
            let mut meta = write.open_table(META).map_err(failed)?;
            let format = meta.get("format").map_err(failed)?.map(|v| v.value());
            match format {
                None => {
                    meta.insert("format", FORMAT).map_err(failed)?;
                }
                Some(FORMAT) => {}
                Some(other) => {
                    return Err(failed(format_args!(
                        "format {other} was written by a newer version (this one knows {FORMAT})"
                    )));
                }
            }
        }
        write.commit().map_err(failed)?;
        let state = load(&database)?;
        let moved = watch::Sender::new(state.revision);
        Ok(Self(Arc::new(Inner { database, options, writer: Mutex::new(()), state: RwLock::new(state), moved })))
    }
}

fn load(database: &Database) -> Result<State> {
    let read = database.begin_read().map_err(failed)?;
    let mut state = State::default();
    let meta = read.open_table(META).map_err(failed)?;
    state.revision = meta.get("revision").map_err(failed)?.map_or(0, |v| v.value());
    state.compacted = meta.get("compacted").map_err(failed)?.map_or(0, |v| v.value());
    for row in read.open_table(OBJECTS).map_err(failed)?.iter().map_err(failed)? {
        let (key, value) = row.map_err(failed)?;
        let key = decode_key(key.value())?;
        let record = decode_record(key.clone(), value.value())?;
        state.objects.insert(key, Arc::new(record));
    }
    for row in read.open_table(HISTORY).map_err(failed)?.iter().map_err(failed)? {
        let (revision, value) = row.map_err(failed)?;
        let event = decode_event(revision.value(), value.value())?;
        state.history_bytes += weight(&event);
        state.history.push_back(Arc::new(event));
    }
    Ok(state)
}

impl Inner {
    /// Runs on a blocking thread to its end, whoever stopped waiting for it.
    fn commit(&self, writes: Vec<Write>) -> Result<Vec<Arc<Event>>> {
        let _writing = self.writer.lock();
        let events = self.prepare(writes)?;
        let Some(last) = events.last().map(|e| e.revision) else { return Ok(events) };
        let dropped = self.overflow(&events);

        let mut write = self.database.begin_write().map_err(failed)?;
        write.set_durability(Durability::Immediate).map_err(failed)?;
        {
            let mut objects = write.open_table(OBJECTS).map_err(failed)?;
            let mut history = write.open_table(HISTORY).map_err(failed)?;
            let mut meta = write.open_table(META).map_err(failed)?;
            for event in &events {
                let key = encode_key(&event.key);
                match &event.after {
                    Some(record) => {
                        drop(objects.insert(key.as_slice(), encode_record(record).as_slice()).map_err(failed)?)
                    }
                    None => drop(objects.remove(key.as_slice()).map_err(failed)?),
                }
                history.insert(event.revision, encode_event(event).as_slice()).map_err(failed)?;
            }
            for revision in &dropped {
                history.remove(revision).map_err(failed)?;
            }
            meta.insert("revision", last).map_err(failed)?;
            if let Some(compacted) = dropped.last() {
                meta.insert("compacted", compacted).map_err(failed)?;
            }
        }
        write.commit().map_err(failed)?;

        let mut state = self.state.write();
        for event in &events {
            match &event.after {
                Some(record) => drop(state.objects.insert(event.key.clone(), record.clone())),
                None => drop(state.objects.remove(&event.key)),
            }
            state.history_bytes += weight(event);
            state.history.push_back(event.clone());
        }
        for _ in &dropped {
            if let Some(event) = state.history.pop_front() {
                state.history_bytes -= weight(&event);
                state.compacted = event.revision;
            }
        }
        state.revision = last;
        drop(state);
        self.moved.send_replace(last);
        Ok(events)
    }

    /// Checks what every write expects, against the state as the writes before it leave it, and numbers them.
    fn prepare(&self, writes: Vec<Write>) -> Result<Vec<Arc<Event>>> {
        let state = self.state.read();
        let mut seen: BTreeMap<Key, Option<Arc<Record>>> = BTreeMap::new();
        let mut events = Vec::with_capacity(writes.len());
        for (revision, Write { key, expect, value }) in (state.revision + 1..).zip(writes) {
            let before = seen.get(&key).cloned().unwrap_or_else(|| state.objects.get(&key).cloned());
            let matches = match expect {
                Expect::Absent => before.is_none(),
                Expect::Revision(wanted) => before.as_ref().is_some_and(|r| r.revision == wanted),
            };
            if !matches {
                return Err(StoreError::Conflict { key, found: before });
            }
            let after = value.map(|value| Arc::new(Record { key: key.clone(), revision, value }));
            seen.insert(key.clone(), after.clone());
            events.push(Arc::new(Event { revision, key, before, after }));
        }
        Ok(events)
    }

    /// The revisions that leave the history when these events enter it; the newest event always stays.
    fn overflow(&self, events: &[Arc<Event>]) -> Vec<u64> {
        let state = self.state.read();
        let mut count = state.history.len() + events.len();
        let mut bytes = state.history_bytes + events.iter().map(|e| weight(e)).sum::<usize>();
        let mut dropped = Vec::new();
        for event in &state.history {
            if count <= self.options.history_events.max(1) && bytes <= self.options.history_bytes {
                break;
            }
            count -= 1;
            bytes -= weight(event);
            dropped.push(event.revision);
        }
        dropped
    }
}

impl State {
    fn check(&self, asked: u64) -> Result<()> {
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
        let skip = usize::try_from(revision.saturating_sub(self.compacted)).unwrap_or(usize::MAX);
        self.history.iter().skip(skip)
    }

    fn page(&self, scope: &Scope, after: Option<&Key>, limit: usize, at: Option<u64>) -> Result<Page> {
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
            .range((from, Bound::Unbounded))
            .take_while(|(key, _)| scope.holds(key))
            .filter(|(key, _)| !then.contains_key(key))
            .collect();
        let undone = then.into_iter().filter(|(key, _)| after.is_none_or(|after| *key > after));
        found.extend(undone.filter_map(|(key, record)| Some((key, record?))));
        let limit = if limit == 0 { found.len() } else { limit };
        let remaining = found.len().saturating_sub(limit);
        Ok(Page { revision, items: found.into_values().take(limit).cloned().collect(), remaining })
    }
}

impl Store for Embedded {
    fn get<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, Result<Option<Arc<Record>>>> {
        Box::pin(async move { Ok(self.0.state.read().objects.get(key).cloned()) })
    }

    fn list<'a>(
        &'a self,
        scope: &'a Scope,
        after: Option<&'a Key>,
        limit: usize,
        at: Option<u64>,
    ) -> BoxFuture<'a, Result<Page>> {
        Box::pin(async move { self.0.state.read().page(scope, after, limit, at) })
    }

    fn watch<'a>(&'a self, scope: &'a Scope, after: u64) -> BoxFuture<'a, Result<Box<dyn Watch>>> {
        Box::pin(async move {
            self.0.state.read().check(after)?;
            let watch = EmbeddedWatch {
                store: self.0.clone(),
                moved: self.0.moved.subscribe(),
                scope: scope.clone(),
                at: after,
            };
            Ok(Box::new(watch) as Box<dyn Watch>)
        })
    }

    fn transact(&self, writes: Vec<Write>) -> BoxFuture<'_, Result<Vec<Arc<Event>>>> {
        let inner = self.0.clone();
        Box::pin(async move { tokio::task::spawn_blocking(move || inner.commit(writes)).await.map_err(failed)? })
    }

    fn revision(&self) -> BoxFuture<'_, Result<u64>> {
        Box::pin(async move { Ok(self.0.state.read().revision) })
    }
}

struct EmbeddedWatch {
    store: Arc<Inner>,
    moved: watch::Receiver<u64>,
    scope: Scope,
    at: u64,
}

/// Events of one batch: what a slow reader makes memory hold at once.
const BATCH: usize = 256;

impl Watch for EmbeddedWatch {
    fn next(&mut self) -> BoxFuture<'_, Result<Batch>> {
        Box::pin(async move {
            let at = self.at;
            self.moved.wait_for(|now| *now > at).await.map_err(failed)?;
            let state = self.store.state.read();
            state.check(at)?;
            let mut batch = Batch { events: Vec::new(), revision: at };
            for event in state.after(at) {
                if batch.events.len() == BATCH {
                    break;
                }
                batch.revision = event.revision;
                if self.scope.holds(&event.key) {
                    batch.events.push(event.clone());
                }
            }
            self.at = batch.revision;
            Ok(batch)
        })
    }
}

fn weight(event: &Event) -> usize {
    let size = |r: &Option<Arc<Record>>| r.as_ref().map_or(0, |r| r.value.len());
    128 + size(&event.before) + size(&event.after)
}

fn encode_key(key: &Key) -> Vec<u8> {
    // NUL can be in no resource, namespace or name, so the order of the bytes is the order of keys.
    [key.resource.as_bytes(), key.namespace.as_bytes(), key.name.as_bytes()].join(&0)
}

fn decode_key(bytes: &[u8]) -> Result<Key> {
    let text = std::str::from_utf8(bytes).map_err(failed)?;
    let mut parts = text.split('\0');
    match (parts.next(), parts.next(), parts.next(), parts.next()) {
        (Some(resource), Some(namespace), Some(name), None) => Ok(Key::new(resource, namespace, name)),
        _ => Err(failed("a key of the file is malformed")),
    }
}

fn encode_record(record: &Record) -> Vec<u8> {
    [&record.revision.to_be_bytes(), record.value.as_ref()].concat()
}

fn decode_record(key: Key, bytes: &[u8]) -> Result<Record> {
    let (revision, value) =
        bytes.split_first_chunk::<8>().ok_or_else(|| failed("an object of the file is malformed"))?;
    Ok(Record { key, revision: u64::from_be_bytes(*revision), value: Bytes::copy_from_slice(value) })
}

/// Three parts, each with its length (4 bytes, big endian): key, record before, record after; an absent record is empty.
fn encode_event(event: &Event) -> Vec<u8> {
    let record = |r: &Option<Arc<Record>>| r.as_ref().map_or_else(Vec::new, |r| encode_record(r));
    let mut bytes = Vec::new();
    for part in [encode_key(&event.key), record(&event.before), record(&event.after)] {
        bytes.extend_from_slice(&u32::try_from(part.len()).unwrap_or(u32::MAX).to_be_bytes());
        bytes.extend_from_slice(&part);
    }
    bytes
}

fn decode_event(revision: u64, mut bytes: &[u8]) -> Result<Event> {
    let mut part = || {
        let (length, rest) = bytes.split_first_chunk::<4>()?;
        let (part, rest) = rest.split_at_checked(usize::try_from(u32::from_be_bytes(*length)).ok()?)?;
        bytes = rest;
        Some(part)
    };
    let (Some(key), Some(before), Some(after)) = (part(), part(), part()) else {
        return Err(failed("an event of the file is malformed"));
    };
    let key = decode_key(key)?;
    let record = |bytes: &[u8]| match bytes {
        [] => Ok(None),
        bytes => decode_record(key.clone(), bytes).map(|r| Some(Arc::new(r))),
    };
    Ok(Event { revision, before: record(before)?, after: record(after)?, key })
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
