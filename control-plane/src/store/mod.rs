//! Where objects are kept: a map of JSON documents with one revision for the whole store, compare-and-set writes, and a bounded history
//! that watches replay.
//!
//! [`Store`] is the contract; [`Embedded`] keeps it on this machine, [`Etcd`] where several control planes share it, [`Kubernetes`] beside the
//! objects of a cluster. What an object means is the API's business.

pub mod backup;
mod embedded;
mod etcd;
pub mod kubernetes;
mod measured;
mod mirror;
mod objects;

use std::{fmt, net::SocketAddr, sync::Arc};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use serde::{Deserialize, Serialize};

pub use embedded::Embedded;
pub use etcd::{Etcd, Files as EtcdFiles, Settings as EtcdSettings};
pub use kubernetes::Kubernetes;
pub use measured::Measured;

/// How much history a store keeps.
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

/// What an object is known by.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// `group/plural`; the core group is empty (`/services`).
    pub resource: Arc<str>,
    /// Empty for objects of the whole cluster.
    pub namespace: Arc<str>,
    /// Unique within resource and namespace.
    pub name: Arc<str>,
}

impl Key {
    /// A key from its three parts.
    pub fn new(resource: impl Into<Arc<str>>, namespace: impl Into<Arc<str>>, name: impl Into<Arc<str>>) -> Self {
        Self { resource: resource.into(), namespace: namespace.into(), name: name.into() }
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}/{}", self.resource, self.namespace, self.name)
    }
}

/// An object as stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// What it is known by.
    pub key: Key,
    /// The store's revision when it was last written: the `resourceVersion` of the object.
    pub revision: u64,
    /// The document, without its `resourceVersion`.
    pub value: Bytes,
}

/// Which objects a list or a watch is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scope {
    /// `group/plural`.
    pub resource: Arc<str>,
    /// Only this namespace; `None`: all.
    pub namespace: Option<Arc<str>>,
}

impl Scope {
    /// Whether the key is in it.
    pub fn holds(&self, key: &Key) -> bool {
        self.resource == key.resource && self.namespace.as_ref().is_none_or(|n| *n == key.namespace)
    }
}

/// One page of a list.
#[derive(Clone, Debug, Default)]
pub struct Page {
    /// The revision that the page shows: a watch from here misses nothing.
    pub revision: u64,
    /// In order of key.
    pub items: Vec<Arc<Record>>,
    /// How many more there are after the last item.
    pub remaining: usize,
}

/// What a write expects to find.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expect {
    /// Nothing under this key.
    Absent,
    /// The object at exactly this revision.
    Revision(u64),
}

/// One write of a transaction.
#[derive(Clone, Debug)]
pub struct Write {
    /// What is written.
    pub key: Key,
    /// What must be there, else nothing of the transaction is written.
    pub expect: Expect,
    /// The new document; `None` deletes.
    pub value: Option<Bytes>,
}

/// What happened to one object.
#[derive(Clone, Debug)]
pub struct Event {
    /// The store's revision that this write made.
    pub revision: u64,
    /// What was written.
    pub key: Key,
    /// The object before; `None`: it was created.
    pub before: Option<Arc<Record>>,
    /// The object after; `None`: it was deleted.
    pub after: Option<Arc<Record>>,
}

/// What a watch yields at once.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    /// Events of the scope in order; may be none.
    pub events: Vec<Arc<Event>>,
    /// Everything up to this revision has been yielded.
    pub revision: u64,
}

/// Why the store did not do it.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// A write expected something else; nothing was written.
    #[error("{key} is not what the write expected")]
    Conflict {
        /// The first key that differed.
        key: Key,
        /// What is there now.
        found: Option<Arc<Record>>,
    },
    /// The revision is older than the history that is kept.
    #[error("revision {asked} is gone: history begins after {oldest}")]
    Gone {
        /// What was asked for.
        asked: u64,
        /// The oldest revision that can be asked for.
        oldest: u64,
    },
    /// The revision has not been reached.
    #[error("revision {asked} is in the future: the store is at {current}")]
    Future {
        /// What was asked for.
        asked: u64,
        /// Where the store is.
        current: u64,
    },
    /// The store does not take that at once: too many writes, too large, a key twice. Nothing was written.
    #[error("the store refused the transaction: {0}")]
    Refused(String),
    /// The medium failed, or did not answer in time. A write may have been made nevertheless: read before writing again.
    #[error("the store failed: {0}")]
    Failed(String),
}

/// Refuses a transaction that writes a key twice: etcd knows no such thing, and nobody needs it.
fn distinct(writes: &[Write]) -> Result<()> {
    let mut keys = std::collections::HashSet::with_capacity(writes.len());
    match writes.iter().find(|write| !keys.insert(&write.key)) {
        Some(twice) => Err(StoreError::Refused(format!("{} is written twice", twice.key))),
        None => Ok(()),
    }
}

/// The result of a store's operation.
pub type Result<T> = std::result::Result<T, StoreError>;

/// Where a replica serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// Its gRPC listener.
    pub grpc: SocketAddr,
    /// Its resource API.
    pub api: SocketAddr,
}

/// One of those that share a store.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Replica {
    /// What the others know it by.
    pub name: String,
    /// Where it serves; `None`: it does not.
    pub at: Option<Place>,
}

/// Who does what only one of the replicas of a store may do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lead {
    /// Whether it is this one.
    pub mine: bool,
    /// The name of the replica; empty: nobody, or not known.
    pub owner: String,
    /// The replica itself, likewise.
    pub leader: Option<Replica>,
    /// Those that serve, this one included, in order of name.
    pub replicas: Vec<Replica>,
    /// Which of the leads of the store it is, where it is this replica's. They ascend.
    pub term: u64,
    /// Until when it is certain that no other leads, where it is this replica's; `None`: for ever.
    pub until: Option<tokio::time::Instant>,
}

impl Lead {
    /// Whether it is certain that this replica leads now. A process that was stopped for a while and goes on is told so here first.
    #[must_use]
    pub fn is_certain(&self) -> bool {
        self.mine && self.until.is_none_or(|until| tokio::time::Instant::now() < until)
    }
}

/// A durable map of objects with one revision for all. Every method may be dropped at any point: a write that was begun is finished.
pub trait Store: Send + Sync + 'static {
    /// The object as it is now.
    fn get<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, Result<Option<Arc<Record>>>>;

    /// Objects of a scope after a key (exclusive), as they were at a revision (`None`: now), at most `limit` of them (0: all).
    fn list<'a>(
        &'a self,
        scope: &'a Scope,
        after: Option<&'a Key>,
        limit: usize,
        at: Option<u64>,
    ) -> BoxFuture<'a, Result<Page>>;

    /// Every object of every resource as they are now, in order of key.
    fn everything(&self) -> BoxFuture<'_, Result<Page>>;

    /// What happens after a revision.
    fn watch<'a>(&'a self, scope: &'a Scope, after: u64) -> BoxFuture<'a, Result<Box<dyn Watch>>>;

    /// All writes or none, durable when it returns; each write gets a revision of its own, in order. No key may be written twice. Returns
    /// the events.
    fn transact(&self, writes: Vec<Write>) -> BoxFuture<'_, Result<Vec<Arc<Event>>>>;

    /// The newest revision.
    fn revision(&self) -> BoxFuture<'_, Result<u64>>;

    /// Whether this process does what only one may do. A store of one process is always led by it.
    fn lead(&self) -> tokio::sync::watch::Receiver<Lead> {
        tokio::sync::watch::channel(Lead { mine: true, ..Lead::default() }).1
    }

    /// Leaves the lead, and those who serve, before the process ends: another one need not wait until it is missed.
    fn resign(&self) -> BoxFuture<'_, ()> {
        Box::pin(std::future::ready(()))
    }
}

/// A watch under way. Dropping it ends it.
pub trait Watch: Send {
    /// Waits for the store to move on and yields what happened in the scope. Cancel-safe: what was not yielded comes next time.
    fn next(&mut self) -> BoxFuture<'_, Result<Batch>>;
}
