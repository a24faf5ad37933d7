//! The store of several control planes: etcd is what survives and decides, memory is what is listed and watched.
//!
//! One watch of etcd feeds the mirror of everything, in each replica; `follow` owns it. Writes are one etcd transaction each. Lists wait
//! until the mirror has what etcd had when they were asked, so that every replica answers as one. Speaks the part of etcd's v3 interface
//! that is in `proto/etcd.proto`; etcd 3.4 or later.

mod compact;
mod follow;
mod lead;
mod link;
mod load;
mod names;
mod settings;

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use tokio::{task::JoinHandle, time::timeout};
use tokio_util::sync::CancellationToken;

pub use settings::{Files, Settings};

use super::{
    Event, Expect, Key, Lead, Page, Record, Result, Scope, Store, StoreError, Watch, Write, distinct, mirror::Mirror,
};
use link::{Link, failed, one};
use names::Names;
use wire::{
    Compare, DeleteRangeRequest, KeyValue, PutRequest, RangeRequest, RequestOp, ResponseOp, TxnRequest,
    compare::{CompareResult, CompareTarget, TargetUnion},
    request_op, response_op,
};

/// How long the mirror may take to show what etcd has.
const LAG: Duration = Duration::from_secs(10);

/// How long etcd may take to be told that a replica leaves.
const RESIGN: Duration = Duration::from_secs(2);

/// Etcd's own messages and services.
mod wire {
    #![allow(missing_docs, clippy::all, clippy::allow_attributes_without_reason, reason = "generated")]
    tonic::include_proto!("etcdserverpb");
}

/// A store that control planes share. Cheap to clone.
#[derive(Clone)]
pub struct Etcd(Arc<Inner>);

struct Inner {
    link: Arc<Link>,
    names: Names,
    mirror: Arc<Mirror>,
    lead: tokio::sync::watch::Receiver<Lead>,
    replica: Bytes,
    /// Whether it serves, and so writes only while it leads.
    serves: bool,
    leaving: CancellationToken,
    /// What runs as long as the store is open.
    tasks: Vec<JoinHandle<()>>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

impl Etcd {
    /// Connects, reads everything and follows it from then on.
    ///
    /// # Errors
    /// When etcd does not answer, refuses the user, or holds what this version cannot read.
    pub async fn open(settings: Settings) -> Result<Self> {
        let link = Arc::new(Link::new(&settings)?);
        let names = Names::under(&settings.prefix);
        let (state, at) = load::load(&link, &names, &settings.options).await?;
        let mirror = Arc::new(Mirror::new(state));
        let follower = follow::Follower::new(link.clone(), names.clone(), mirror.clone(), settings.options, at);
        let mut tasks = vec![tokio::spawn(follower.run())];
        let leaving = CancellationToken::new();
        let (candidate, lead) = lead::Candidate::new(link.clone(), &names, &settings, leaving.clone());
        tasks.push(tokio::spawn(candidate.run()));
        tasks.push(tokio::spawn(compact::compact(
            link.clone(),
            names.clone(),
            lead.clone(),
            settings.compaction,
            settings.options,
        )));
        let (replica, serves) = (settings.replica.into(), settings.serves.is_some());
        let store = Self(Arc::new(Inner { link, names, mirror, lead, replica, serves, leaving, tasks }));
        store.0.caught_up().await?;
        Ok(store)
    }
}

impl Inner {
    /// Waits until the mirror has everything that etcd has now.
    async fn caught_up(&self) -> Result<()> {
        let clock = self.link.range(RangeRequest { keys_only: true, ..one(self.names.clock()) }).await?;
        let newest = clock.kvs.first().map_or(0, |kv| names::number(kv.mod_revision));
        self.reached(names::end(newest)).await
    }

    async fn reached(&self, revision: u64) -> Result<()> {
        match timeout(LAG, self.mirror.reached(revision)).await {
            Ok(done) => done,
            Err(_) => Err(StoreError::Failed("what etcd has does not arrive in time".to_owned())),
        }
    }

    /// Waits where somebody asks for what another replica has shown.
    async fn catch_up_to(&self, revision: u64) -> Result<()> {
        let newest = self.mirror.read().revision;
        if revision > newest { self.caught_up().await } else { Ok(()) }
    }

    async fn transact(&self, writes: Vec<Write>) -> Result<Vec<Arc<Event>>> {
        distinct(&writes)?;
        if writes.is_empty() {
            return Ok(Vec::new());
        }
        if writes.len() > names::MOST_WRITES {
            return Err(StoreError::Refused(format!("more than {} writes", names::MOST_WRITES)));
        }
        let term = self.term()?;
        let answer = self.link.txn(self.request(&writes, term)).await.map_err(|status| failed(&status))?;
        if !answer.succeeded {
            let last = answer.responses.last().and_then(|last| last.response.as_ref());
            if term.is_some_and(|term| !lead::is_of(term, last)) {
                return Err(StoreError::Failed("another control plane leads by now".to_owned()));
            }
            return Err(conflict(&writes, answer.responses)?);
        }
        let made = answer.header.map_or(0, |header| names::number(header.revision));
        let mut responses = answer.responses.into_iter();
        let mut events = Vec::with_capacity(writes.len());
        for (place, Write { key, expect, value }) in writes.into_iter().enumerate() {
            let before = match (expect, responses.next().and_then(|r| r.response)) {
                (Expect::Absent, _) => None,
                (_, Some(response_op::Response::ResponsePut(put))) => put.prev_kv,
                (_, Some(response_op::Response::ResponseDeleteRange(deleted))) => deleted.prev_kvs.into_iter().next(),
                _ => None,
            };
            let before = before.map(|kv| record(key.clone(), &kv)).transpose()?.map(Arc::new);
            let revision = names::revision(made, place);
            let after = value.map(|value| Arc::new(Record { key: key.clone(), revision, value }));
            events.push(Arc::new(Event { revision, key, before, after }));
        }
        // It is written. Whoever wrote it finds it in the lists and watches of this replica, unless that takes too long.
        if let Err(error) = self.reached(names::end(made)).await {
            tracing::warn!(%error, "a write is made and not seen yet");
        }
        Ok(events)
    }

    /// The term in which it may write; `None`: in any. One that was deposed without noticing writes nothing, because etcd compares.
    fn term(&self) -> Result<Option<u64>> {
        let lead = self.lead.borrow();
        match self.serves {
            true if lead.is_certain() => Ok(Some(lead.term)),
            true => Err(StoreError::Failed("this control plane does not lead".to_owned())),
            false => Ok(None),
        }
    }

    fn request(&self, writes: &[Write], term: Option<u64>) -> TxnRequest {
        let mut request = TxnRequest::default();
        for (place, write) in writes.iter().enumerate() {
            let key = self.names.object(&write.key);
            request.compare.push(expected(key.clone(), write.expect));
            request.failure.push(operation(request_op::Request::RequestRange(one(key.clone()))));
            request.success.push(operation(match &write.value {
                Some(value) => request_op::Request::RequestPut(PutRequest {
                    key,
                    value: names::encode(place, value),
                    prev_kv: true,
                    ..PutRequest::default()
                }),
                None => request_op::Request::RequestDeleteRange(DeleteRangeRequest {
                    key,
                    prev_kv: true,
                    ..DeleteRangeRequest::default()
                }),
            }));
        }
        let clock = PutRequest { key: self.names.clock(), value: self.replica.clone(), ..PutRequest::default() };
        request.success.push(operation(request_op::Request::RequestPut(clock)));
        if let Some(term) = term {
            request.compare.push(lead::fence(&self.names, term));
            request.failure.push(operation(request_op::Request::RequestRange(one(self.names.leader()))));
        }
        request
    }
}

fn operation(request: request_op::Request) -> RequestOp {
    RequestOp { request: Some(request) }
}

fn expected(key: Bytes, expect: Expect) -> Compare {
    let (target, union) = match expect {
        Expect::Absent => (CompareTarget::Create, TargetUnion::CreateRevision(0)),
        Expect::Revision(revision) => {
            // A revision of 0 would mean that there is none: no write made it, so nothing is found.
            let wanted = match names::transaction(revision) {
                0 => i64::MAX,
                transaction => names::signed(transaction),
            };
            (CompareTarget::Mod, TargetUnion::ModRevision(wanted))
        }
    };
    Compare { result: CompareResult::Equal.into(), target: target.into(), key, target_union: Some(union) }
}

/// Which write expected something else, and what there is.
fn conflict(writes: &[Write], responses: Vec<ResponseOp>) -> Result<StoreError> {
    let mut first = None;
    for (write, response) in writes.iter().zip(responses) {
        let found = match response.response {
            Some(response_op::Response::ResponseRange(range)) => range.kvs.into_iter().next(),
            _ => None,
        };
        let found = found.map(|kv| record(write.key.clone(), &kv)).transpose()?.map(Arc::new);
        let matches = match (write.expect, &found) {
            (Expect::Absent, found) => found.is_none(),
            (Expect::Revision(wanted), Some(found)) => names::transaction(found.revision) == names::transaction(wanted),
            (Expect::Revision(_), None) => false,
        };
        if !matches {
            return Ok(StoreError::Conflict { key: write.key.clone(), found });
        }
        first = first.or_else(|| Some(StoreError::Conflict { key: write.key.clone(), found }));
    }
    first.ok_or_else(|| StoreError::Failed("etcd refused a transaction of nothing".to_owned()))
}

/// An object as etcd keeps it.
fn record(key: Key, kv: &KeyValue) -> Result<Record> {
    let (place, value) = names::decode(&kv.value)?;
    Ok(Record { key, revision: names::revision(names::number(kv.mod_revision), place), value })
}

impl Store for Etcd {
    fn get<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, Result<Option<Arc<Record>>>> {
        Box::pin(async move {
            let found = self.0.link.range(one(self.0.names.object(key))).await?;
            found.kvs.first().map(|kv| record(key.clone(), kv).map(Arc::new)).transpose()
        })
    }

    fn list<'a>(
        &'a self,
        scope: &'a Scope,
        after: Option<&'a Key>,
        limit: usize,
        at: Option<u64>,
    ) -> BoxFuture<'a, Result<Page>> {
        Box::pin(async move {
            match at {
                None => self.0.caught_up().await?,
                Some(at) => self.0.catch_up_to(at).await?,
            }
            self.0.mirror.read().page(scope, after, limit, at)
        })
    }

    fn everything(&self) -> BoxFuture<'_, Result<Page>> {
        Box::pin(async move {
            self.0.caught_up().await?;
            Ok(self.0.mirror.read().everything())
        })
    }

    fn watch<'a>(&'a self, scope: &'a Scope, after: u64) -> BoxFuture<'a, Result<Box<dyn Watch>>> {
        Box::pin(async move {
            self.0.catch_up_to(after).await?;
            self.0.mirror.watch(scope, after)
        })
    }

    fn transact(&self, writes: Vec<Write>) -> BoxFuture<'_, Result<Vec<Arc<Event>>>> {
        let inner = self.0.clone();
        // On a task of its own: a write that was begun is finished, whoever stopped waiting for it.
        let task = tokio::spawn(async move { inner.transact(writes).await });
        Box::pin(async move { task.await.map_err(|e| StoreError::Failed(e.to_string()))? })
    }

    fn revision(&self) -> BoxFuture<'_, Result<u64>> {
        Box::pin(async move {
            self.0.caught_up().await?;
            Ok(self.0.mirror.read().revision)
        })
    }

    fn lead(&self) -> tokio::sync::watch::Receiver<Lead> {
        self.0.lead.clone()
    }

    fn resign(&self) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            self.0.leaving.cancel();
            // Its sender goes when the lease has been given up.
            let mut lead = self.0.lead.clone();
            let _ = timeout(RESIGN, async { while lead.changed().await.is_ok() {} }).await;
        })
    }
}
