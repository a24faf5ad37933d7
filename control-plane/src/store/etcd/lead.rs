//! Which replica does what only one may do: it holds a key that hangs on a lease, and stops before the lease can have ended without it.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use tokio::{sync::watch, time::Instant};

use super::super::{Lead, Options};
use super::Settings;
use super::link::{Link, one};
use super::load::reach;
use super::names::{self, Names};
use super::operation;
use super::wire::{
    Compare, PutRequest, RangeRequest, TxnRequest,
    compare::{CompareResult, CompareTarget, TargetUnion},
    request_op, response_op,
};

/// A replica that is gone is replaced within this time.
const TTL: Duration = Duration::from_secs(10);
/// How much earlier the holder stops: clocks may differ in speed, and what is under way must end.
const MARGIN: Duration = Duration::from_secs(3);
/// The lease is renewed this often, and the others look whether the lead is free.
const TURN: Duration = Duration::from_secs(2);

/// A replica that takes the lead where nobody has it.
pub struct Candidate {
    link: Arc<Link>,
    key: Bytes,
    name: String,
    lead: watch::Sender<Lead>,
}

impl Candidate {
    /// Nobody leads yet, as far as it knows.
    pub fn new(link: Arc<Link>, names: &Names, settings: &Settings) -> (Self, watch::Receiver<Lead>) {
        let (lead, seen) = watch::channel(Lead::default());
        (Self { link, key: names.leader(), name: settings.replica.clone(), lead }, seen)
    }

    /// Never ends by itself; whoever holds the task ends it, and the lease a little later.
    pub async fn run(self) {
        loop {
            match self.stand().await {
                Ok(Some((lease, until))) => {
                    tracing::info!(replica = %self.name, "this replica leads");
                    self.say(true, &self.name);
                    self.hold(lease, until).await;
                    self.say(false, "");
                    tracing::warn!(replica = %self.name, "this replica no longer leads");
                }
                Ok(None) => {}
                Err(error) => {
                    tracing::debug!(%error, "who leads is not known");
                    self.say(false, "");
                }
            }
            tokio::time::sleep(TURN.mul_f64(rand::random_range(0.5..1.5))).await;
        }
    }

    fn say(&self, mine: bool, owner: &str) {
        self.lead.send_if_modified(|lead| {
            let now = Lead { mine, owner: owner.to_owned() };
            let changed = *lead != now;
            *lead = now;
            changed
        });
    }

    /// Takes the lead if nobody has it: the lease, and until when it is certain.
    async fn stand(&self) -> Result<Option<(i64, Instant)>, String> {
        let found = self.link.range(one(self.key.clone())).await.map_err(|e| e.to_string())?;
        if let Some(kv) = found.kvs.first() {
            self.say(false, &String::from_utf8_lossy(&kv.value));
            return Ok(None);
        }
        let begun = Instant::now();
        let lease = self.link.grant(TTL).await.map_err(|e| e.to_string())?;
        let (key, value) = (self.key.clone(), Bytes::from(self.name.clone()));
        let request = TxnRequest {
            compare: vec![Compare {
                result: CompareResult::Equal.into(),
                target: CompareTarget::Create.into(),
                key: key.clone(),
                target_union: Some(TargetUnion::CreateRevision(0)),
            }],
            success: vec![operation(request_op::Request::RequestPut(PutRequest {
                key: key.clone(),
                value,
                lease,
                ..PutRequest::default()
            }))],
            failure: vec![operation(request_op::Request::RequestRange(one(key)))],
        };
        let answer = self.link.txn(request).await.map_err(|e| e.to_string())?;
        if answer.succeeded {
            return Ok(Some((lease, begun + TTL - MARGIN)));
        }
        for response in answer.responses {
            if let Some(response_op::Response::ResponseRange(range)) = response.response
                && let Some(kv) = range.kvs.first()
            {
                self.say(false, &String::from_utf8_lossy(&kv.value));
            }
        }
        self.link.revoke(lease).await.map_err(|e| e.to_string())?;
        Ok(None)
    }

    /// Renews the lease as long as etcd answers in time.
    async fn hold(&self, lease: i64, mut until: Instant) {
        loop {
            tokio::time::sleep_until((Instant::now() + TURN).min(until)).await;
            let asked = Instant::now();
            match tokio::time::timeout_at(until, self.link.renew(lease)).await {
                Ok(Ok(0)) | Err(_) => return,
                Ok(Ok(seconds)) => until = asked + Duration::from_secs(seconds).saturating_sub(MARGIN),
                Ok(Err(error)) => tracing::debug!(%error, "the lead is not renewed"),
            }
            if Instant::now() >= until {
                return;
            }
        }
    }
}

/// Has etcd forget history that no replica keeps either, as long as this one leads.
pub async fn compact(link: Arc<Link>, names: Names, lead: watch::Receiver<Lead>, every: Duration, options: Options) {
    let mut before = 0;
    loop {
        tokio::time::sleep(every).await;
        let clock = RangeRequest { keys_only: true, ..one(names.clock()) };
        let now = match link.range(clock).await {
            Ok(answer) => answer.header.map_or(0, |header| names::number(header.revision)),
            Err(error) => {
                tracing::debug!(%error, "etcd is not compacted");
                continue;
            }
        };
        let until = now.saturating_sub(reach(&options)).min(before);
        before = now;
        if until == 0 || !lead.borrow().mine {
            continue;
        }
        match link.compact(names::signed(until)).await {
            Ok(()) => tracing::debug!(until, "etcd is compacted"),
            // Somebody else did, and further: etcd's own automatic compaction, for one.
            Err(status) if status.code() == tonic::Code::OutOfRange => {}
            Err(status) => tracing::warn!(%status, "etcd cannot be compacted"),
        }
    }
}
