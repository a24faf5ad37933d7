//! Who is there, and which of them does what only one may do. A replica that serves registers itself under a lease; whoever finds that nobody
//! leads takes the lead under its lease, and stops before the lease can have ended without it.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use tokio::{
    sync::watch,
    time::{Instant, timeout, timeout_at},
};
use tokio_util::sync::CancellationToken;

use super::super::{Lead, Replica};
use super::Settings;
use super::link::{Link, one};
use super::names::{self, Names};
use super::operation;
use super::wire::{
    Compare, KeyValue, PutRequest, RangeRequest, TxnRequest,
    compare::{CompareResult, CompareTarget, TargetUnion},
    request_op, response_op,
};

/// A replica that is gone is replaced within this time.
const TTL: Duration = Duration::from_secs(10);
/// How much earlier the holder stops: clocks may differ in speed, and what is under way must end.
const MARGIN: Duration = Duration::from_secs(3);
/// The lease is renewed this often, and it is looked who is there.
const TURN: Duration = Duration::from_secs(2);
/// One attempt at renewing may take this long: another member of etcd may still be in time.
const ATTEMPT: Duration = Duration::from_millis(1500);
/// Replicas that are looked at.
const MOST: i64 = 64;

/// A replica that takes the lead where nobody has it.
pub struct Candidate {
    link: Arc<Link>,
    names: Names,
    me: Replica,
    /// Whether others may send sidecars and people here.
    serves: bool,
    lead: watch::Sender<Lead>,
    leaving: CancellationToken,
}

/// What was found in etcd.
struct Found {
    leader: Option<Held>,
    replicas: Vec<Replica>,
}

/// The lead as somebody holds it.
struct Held {
    by: Replica,
    lease: i64,
    /// Etcd's revision that made it.
    since: u64,
}

impl Candidate {
    /// Nobody leads yet, as far as it knows. When `leaving` is cancelled it gives up its lease and ends.
    pub fn new(
        link: Arc<Link>,
        names: &Names,
        settings: &Settings,
        leaving: CancellationToken,
    ) -> (Self, watch::Receiver<Lead>) {
        let (lead, seen) = watch::channel(Lead::default());
        let serves = settings.serves.is_some();
        let me = Replica { name: settings.replica.clone(), at: settings.serves };
        (Self { link, names: names.clone(), me, serves, lead, leaving }, seen)
    }

    /// Runs until it leaves; whoever holds the task may also end it, and the lease a little later.
    pub async fn run(self) {
        while !self.leaving.is_cancelled() {
            if let Err(error) = self.belong().await {
                tracing::debug!(%error, "who leads is not known");
            }
            self.lead.send_if_modified(|lead| {
                let led = lead.mine;
                // Where the others are stays known: it is tried, and says soon whether it is still so.
                (lead.mine, lead.until, lead.term) = (false, None, 0);
                if led {
                    lead.owner.clear();
                    lead.leader = None;
                    tracing::warn!(replica = %self.me.name, "this replica no longer leads");
                }
                led
            });
            tokio::select! {
                () = tokio::time::sleep(TURN.mul_f64(rand::random_range(0.25..0.75))) => {}
                () = self.leaving.cancelled() => {}
            }
        }
    }

    /// Registers under a lease, and stands for the lead as long as the lease lasts.
    async fn belong(&self) -> Result<(), String> {
        let begun = Instant::now();
        let lease = self.link.grant(TTL).await.map_err(|e| e.to_string())?;
        let mut until = begun + TTL - MARGIN;
        let ended = self.hold(lease, &mut until).await;
        if self.leaving.is_cancelled() || ended.is_err() {
            // What hangs on it goes at once, where etcd can be told.
            let _ = timeout(ATTEMPT, self.link.revoke(lease)).await;
        }
        ended
    }

    async fn hold(&self, lease: i64, until: &mut Instant) -> Result<(), String> {
        if self.serves {
            let put = put(self.names.replica(&self.me.name), &self.me, lease)?;
            let request = TxnRequest { success: vec![put], ..TxnRequest::default() };
            self.link.txn(request).await.map_err(|e| e.to_string())?;
        }
        let mut term = None;
        loop {
            if !self.look(lease, &mut term, *until).await {
                return Ok(());
            }
            let next = (Instant::now() + TURN.mul_f64(rand::random_range(0.75..1.0))).min(*until);
            tokio::select! {
                () = tokio::time::sleep_until(next) => {}
                () = self.leaving.cancelled() => return Ok(()),
            }
            loop {
                let asked = Instant::now();
                if asked >= *until {
                    return Ok(());
                }
                match timeout_at((*until).min(asked + ATTEMPT), self.link.renew(lease)).await {
                    Ok(Ok(0)) => return Ok(()),
                    Ok(Ok(seconds)) => {
                        *until = asked + Duration::from_secs(seconds).saturating_sub(MARGIN);
                        break;
                    }
                    Ok(Err(error)) => {
                        tracing::debug!(%error, "the lease is not renewed");
                        tokio::time::sleep_until((asked + Duration::from_millis(100)).min(*until)).await;
                    }
                    Err(_) => self.link.give_up_current(),
                }
            }
        }
    }

    /// Sees who is there, takes the lead if nobody has it, and says so. What cannot be seen now is seen next time. False when the lead of this
    /// replica is not there any more.
    async fn look(&self, lease: i64, term: &mut Option<u64>, until: Instant) -> bool {
        let looked = timeout_at(until.min(Instant::now() + ATTEMPT), self.find()).await;
        let found = match looked {
            Ok(Ok(found)) => Some(found),
            Ok(Err(error)) => {
                tracing::debug!(%error, "who leads is not known");
                None
            }
            Err(_) => None,
        };
        let held = found.as_ref().map(|found| found.leader.as_ref());
        match (held, *term) {
            (Some(held), Some(term)) if held.is_none_or(|held| held.since != term) => return false,
            // Taken by a transaction that was not answered.
            (Some(Some(held)), None) if held.lease == lease => *term = Some(held.since),
            _ => {}
        }
        if term.is_none() && matches!(held, Some(None)) {
            match timeout_at(until, self.stand(lease)).await {
                Ok(Ok(Some(since))) => {
                    *term = Some(since);
                    tracing::info!(replica = %self.me.name, "this replica leads");
                }
                Ok(Ok(None)) | Err(_) => {}
                Ok(Err(error)) => tracing::debug!(%error, "the lead cannot be taken"),
            }
        }
        self.lead.send_if_modified(|lead| {
            let before = lead.clone();
            if let Some(found) = found {
                lead.replicas = found.replicas;
                lead.leader = found.leader.map(|held| held.by);
                lead.owner = lead.leader.as_ref().map(|leader| leader.name.clone()).unwrap_or_default();
            }
            if let Some(since) = *term {
                (lead.mine, lead.term, lead.until) = (true, since, Some(until));
                (lead.owner, lead.leader) = (self.me.name.clone(), Some(self.me.clone()));
            }
            *lead != before
        });
        true
    }

    async fn find(&self) -> Result<Found, String> {
        let leader = self.link.range(one(self.names.leader())).await.map_err(|e| e.to_string())?;
        let (key, range_end) = self.names.replicas();
        let all = RangeRequest { key, range_end, limit: MOST, ..RangeRequest::default() };
        let all = self.link.range(all).await.map_err(|e| e.to_string())?;
        let held = |kv: &KeyValue| Held { by: read(kv), lease: kv.lease, since: names::number(kv.create_revision) };
        Ok(Found { leader: leader.kvs.first().map(held), replicas: all.kvs.iter().map(read).collect() })
    }

    /// Takes the lead if nobody has it: since which revision of etcd.
    async fn stand(&self, lease: i64) -> Result<Option<u64>, String> {
        let key = self.names.leader();
        let request = TxnRequest {
            compare: vec![Compare {
                result: CompareResult::Equal.into(),
                target: CompareTarget::Create.into(),
                key: key.clone(),
                target_union: Some(TargetUnion::CreateRevision(0)),
            }],
            success: vec![put(key.clone(), &self.me, lease)?],
            failure: vec![operation(request_op::Request::RequestRange(one(key)))],
        };
        let answer = self.link.txn(request).await.map_err(|e| e.to_string())?;
        Ok(answer.succeeded.then(|| answer.header.map_or(0, |header| names::number(header.revision))))
    }
}

fn put(key: Bytes, replica: &Replica, lease: i64) -> Result<super::wire::RequestOp, String> {
    let value = serde_json::to_vec(replica).map_err(|e| e.to_string())?;
    let put = PutRequest { key, value: value.into(), lease, ..PutRequest::default() };
    Ok(operation(request_op::Request::RequestPut(put)))
}

/// Of an earlier version only the name is there.
fn read(kv: &KeyValue) -> Replica {
    serde_json::from_slice(&kv.value)
        .unwrap_or_else(|_| Replica { name: String::from_utf8_lossy(&kv.value).into_owned(), at: None })
}

/// That the lead of a term still holds, as part of a transaction.
pub fn fence(names: &Names, term: u64) -> Compare {
    Compare {
        result: CompareResult::Equal.into(),
        target: CompareTarget::Create.into(),
        key: names.leader(),
        target_union: Some(TargetUnion::CreateRevision(names::signed(term))),
    }
}

/// Whether what was found under the leader's key is that term's.
pub fn is_of(term: u64, response: Option<&response_op::Response>) -> bool {
    matches!(response, Some(response_op::Response::ResponseRange(range))
        if range.kvs.first().is_some_and(|kv| names::number(kv.create_revision) == term))
}
