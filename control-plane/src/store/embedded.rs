//! The store of a single control plane: redb is what survives, memory is what is read.
//!
//! Every object and the kept history are mirrored in memory, so that a list or a watch never waits for a disk; a write is durable before
//! it becomes visible. One process owns the file at a time (redb locks it).

use std::{
    collections::HashMap,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use redb::{Database, Durability, ReadableDatabase, ReadableTable, TableDefinition};

use super::{
    Event, Expect, Key, Options, Page, Record, Result, Scope, Store, StoreError, Watch, Write, distinct,
    mirror::{Mirror, State},
    objects::alike,
};

/// Key → revision (8 bytes, big endian) and document.
const OBJECTS: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("objects");
/// Revision → key and the documents before and after.
const HISTORY: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("history");
/// `revision`, `compacted`, `format`.
const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");
/// Changes when a file of before could be misread.
const FORMAT: u64 = 1;

/// A durable store in one file of this machine. Cheap to clone.
#[derive(Clone)]
pub struct Embedded(Arc<Inner>);

struct Inner {
    path: PathBuf,
    options: Options,
    /// Held for the whole of a write, on a blocking thread, never across an await. `None` once the medium failed: opened again by the next
    /// write, because redb refuses every write after a failed one.
    database: Mutex<Option<Database>>,
    mirror: Arc<Mirror>,
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
        let database = create(path)?;
        let mirror = Arc::new(Mirror::new(load(&database)?));
        Ok(Self(Arc::new(Inner { path: path.to_owned(), options, database: Mutex::new(Some(database)), mirror })))
    }

    /// Gives back to the file system what the file no longer needs: its size in bytes before and after. Blocks on disk; nobody may have the
    /// file open.
    ///
    /// # Errors
    /// As for [`Self::open`].
    pub fn compact(path: &Path) -> Result<(u64, u64)> {
        let size = || std::fs::metadata(path).map(|file| file.len()).map_err(failed);
        let before = size()?;
        let mut database = create(path)?;
        // Each round moves what it can.
        while database.compact().map_err(failed)? {}
        drop(database);
        Ok((before, size()?))
    }
}

fn create(path: &Path) -> Result<Database> {
    // Objects may be secrets: the file is its owner's alone from its first moment.
    let private = std::fs::OpenOptions::new().create(true).append(true).mode(0o600).open(path);
    drop(private.map_err(failed)?);
    prepared(Database::builder().set_cache_size(1 << 20).create(path).map_err(failed)?)
}

/// With its tables, of a format that is known.
fn prepared(database: Database) -> Result<Database> {
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
    Ok(database)
}

fn load(database: &Database) -> Result<State> {
    let read = database.begin_read().map_err(failed)?;
    let mut state = State::default();
    let meta = read.open_table(META).map_err(failed)?;
    state.revision = meta.get("revision").map_err(failed)?.map_or(0, |v| v.value());
    state.compacted = meta.get("compacted").map_err(failed)?.map_or(0, |v| v.value());
    let mut last = Key::new("", "", "");
    for row in read.open_table(OBJECTS).map_err(failed)?.iter().map_err(failed)? {
        let (key, value) = row.map_err(failed)?;
        let key = alike(decode_key(key.value())?, &last);
        last = key.clone();
        state.objects.insert(Arc::new(decode_record(key, value.value())?));
    }
    // What an object is and was is there once, in whichever events it is.
    let mut newest: HashMap<Key, Arc<Record>> = HashMap::new();
    for row in read.open_table(HISTORY).map_err(failed)?.iter().map_err(failed)? {
        let (revision, value) = row.map_err(failed)?;
        let mut event = decode_event(revision.value(), value.value())?;
        for record in [&mut event.before, &mut event.after].into_iter().flatten() {
            let known = [state.objects.get(&event.key), newest.get(&event.key)].into_iter().flatten();
            if let Some(known) = known.into_iter().find(|known| known.revision == record.revision) {
                *record = known.clone();
            }
        }
        if let Some(record) = event.after.as_ref().or(event.before.as_ref()) {
            event.key = record.key.clone();
        }
        newest.extend(event.after.clone().map(|record| (event.key.clone(), record)));
        state.remember(Arc::new(event));
    }
    Ok(state)
}

impl Inner {
    /// Runs on a blocking thread to its end, whoever stopped waiting for it.
    fn commit(&self, writes: Vec<Write>) -> Result<Vec<Arc<Event>>> {
        let mut kept = self.database.lock();
        let database = match kept.take() {
            Some(database) => database,
            None => self.reopen()?,
        };
        let done = self.write(&database, writes);
        if !matches!(done, Err(StoreError::Failed(_))) {
            *kept = Some(database);
        }
        done
    }

    /// The file as the failed write left it, which may have been made after all.
    fn reopen(&self) -> Result<Database> {
        let database = create(&self.path)?;
        self.mirror.replace(load(&database)?);
        Ok(database)
    }

    fn write(&self, database: &Database, writes: Vec<Write>) -> Result<Vec<Arc<Event>>> {
        let events = self.prepare(writes)?;
        let Some(last) = events.last().map(|e| e.revision) else { return Ok(events) };
        let dropped = self.mirror.read().overflow(&events, &self.options);

        let mut write = database.begin_write().map_err(failed)?;
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

        self.mirror.apply(&events, dropped.len(), last);
        Ok(events)
    }

    /// Checks what every write expects, and numbers them.
    fn prepare(&self, writes: Vec<Write>) -> Result<Vec<Arc<Event>>> {
        distinct(&writes)?;
        let state = self.mirror.read();
        let mut events = Vec::with_capacity(writes.len());
        for (revision, Write { key, expect, value }) in (state.revision + 1..).zip(writes) {
            let before = state.objects.get(&key).cloned();
            let matches = match expect {
                Expect::Absent => before.is_none(),
                Expect::Revision(wanted) => before.as_ref().is_some_and(|r| r.revision == wanted),
            };
            if !matches {
                return Err(StoreError::Conflict { key, found: before });
            }
            // Of the names of an object there is one copy for all of its editions.
            let key = before.as_ref().map_or(key, |before| before.key.clone());
            let after = value.map(|value| Arc::new(Record { key: key.clone(), revision, value }));
            events.push(Arc::new(Event { revision, key, before, after }));
        }
        Ok(events)
    }
}

impl Store for Embedded {
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
        Box::pin(async move { tokio::task::spawn_blocking(move || inner.commit(writes)).await.map_err(failed)? })
    }

    fn revision(&self) -> BoxFuture<'_, Result<u64>> {
        Box::pin(async move { Ok(self.0.mirror.read().revision) })
    }
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
#[path = "torn_tests.rs"]
mod tests;
