//! The one watch of etcd: from where the mirror is to wherever etcd gets, on whichever member answers. What was missed is replayed; what etcd
//! no longer has is read anew, and the watches of before are told so.

use std::{sync::Arc, time::Duration};

use futures_util::StreamExt as _;
use tokio::time::timeout;

use super::super::{Event, Options, Result, StoreError, mirror::Mirror};
use super::link::{Link, failed};
use super::load::{self, unreadable};
use super::names::{self, Names};
use super::record;
use super::wire::{self, WatchCreateRequest, WatchRequest, WatchResponse, event::EventType, watch_request};

/// A watch must be under way within this time.
const OPEN: Duration = Duration::from_secs(5);

/// Keeps the mirror what etcd is.
pub struct Follower {
    link: Arc<Link>,
    names: Names,
    mirror: Arc<Mirror>,
    options: Options,
    /// Etcd's newest revision that the mirror has.
    at: u64,
    /// Answers whose rest has not arrived.
    pending: Vec<wire::Event>,
}

/// Why a watch ended.
enum Ended {
    /// What follows the mirror is compacted.
    Compacted,
    Failed(StoreError),
}

impl From<tonic::Status> for Ended {
    fn from(status: tonic::Status) -> Self {
        Self::Failed(failed(&status))
    }
}

impl From<StoreError> for Ended {
    fn from(error: StoreError) -> Self {
        Self::Failed(error)
    }
}

impl Follower {
    /// The mirror is what etcd was at this revision of its own.
    pub fn new(link: Arc<Link>, names: Names, mirror: Arc<Mirror>, options: Options, at: u64) -> Self {
        Self { link, names, mirror, options, at, pending: Vec::new() }
    }

    /// Never ends by itself; whoever holds the task ends it.
    pub async fn run(mut self) {
        let mut backoff = Duration::from_millis(50);
        loop {
            let before = self.at;
            match self.follow().await {
                Ended::Compacted => match load::load(&self.link, &self.names, &self.options).await {
                    Ok((state, at)) => {
                        tracing::warn!("etcd was compacted past what this replica had seen: everything was read anew");
                        self.at = at;
                        self.mirror.replace(state);
                        continue;
                    }
                    Err(error) => tracing::warn!(%error, "etcd cannot be read"),
                },
                Ended::Failed(error) => tracing::warn!(%error, "etcd is not followed"),
            }
            if self.at > before {
                backoff = Duration::from_millis(50);
            }
            tokio::time::sleep(backoff.mul_f64(rand::random_range(0.5..1.5))).await;
            backoff = (backoff * 2).min(Duration::from_secs(2));
        }
    }

    async fn follow(&mut self) -> Ended {
        match self.link.connection().await {
            Ok(connection) => {
                let number = connection.number;
                let link = self.link.clone();
                let ended = tokio::select! {
                    ended = self.watch(connection) => ended,
                    () = link.given_up(number) => Err(StoreError::Failed("the connection was given up".into()).into()),
                };
                self.link.give_up(number);
                match ended {
                    Ok(never) => match never {},
                    Err(ended) => ended,
                }
            }
            Err(status) => status.into(),
        }
    }

    async fn watch(
        &mut self,
        connection: super::link::Connection,
    ) -> std::result::Result<std::convert::Infallible, Ended> {
        self.pending.clear();
        let (key, range_end) = self.names.all();
        let start_revision = names::signed(self.at + 1);
        let create = WatchCreateRequest { key, range_end, start_revision, fragment: true };
        let request = WatchRequest { request_union: Some(watch_request::RequestUnion::CreateRequest(create)) };
        // The request stream stays open: its end is the watch's.
        let requests = futures_util::stream::iter([request]).chain(futures_util::stream::pending());
        let mut client = connection.watch();
        let opened = timeout(OPEN, client.watch(connection.lasting(requests))).await;
        let late = || StoreError::Failed("etcd does not begin a watch in time".to_owned());
        let mut answers = opened.map_err(|_| late())??.into_inner();
        let first = timeout(OPEN, answers.message()).await.map_err(|_| late())??;
        if let Some(first) = first {
            self.take(first)?;
        }
        loop {
            match answers.message().await? {
                Some(answer) => self.take(answer)?,
                None => return Err(StoreError::Failed("etcd ended the watch".to_owned()).into()),
            }
        }
    }

    fn take(&mut self, answer: WatchResponse) -> std::result::Result<(), Ended> {
        if answer.canceled {
            if answer.compact_revision > 0 {
                return Err(Ended::Compacted);
            }
            return Err(StoreError::Failed(format!("etcd ended the watch: {}", answer.cancel_reason)).into());
        }
        self.pending.extend(answer.events);
        if answer.fragment {
            return Ok(());
        }
        let events = std::mem::take(&mut self.pending);
        let mut rest = events.as_slice();
        // An answer has whole transactions.
        while let Some(made) = rest.first().map(revision_of) {
            let (of_one, later) = rest.split_at(rest.iter().position(|e| revision_of(e) != made).unwrap_or(rest.len()));
            rest = later;
            self.apply(made, of_one)?;
        }
        Ok(())
    }

    /// One transaction of etcd.
    fn apply(&mut self, made: u64, events: &[wire::Event]) -> Result<()> {
        if made <= self.at {
            return Ok(());
        }
        let mut taken = Vec::with_capacity(events.len());
        let mut written = false;
        let (first, after) = self.names.objects();
        for event in events {
            let Some(kv) = &event.kv else { continue };
            written |= kv.key == self.names.clock();
            if kv.key < first || kv.key >= after {
                continue;
            }
            let key = self.names.key(&kv.key).ok_or_else(|| unreadable(&kv.key))?;
            let after = match event.r#type() {
                EventType::Put => Some(Arc::new(record(key.clone(), kv)?)),
                EventType::Delete => None,
            };
            let revision = names::revision(made, taken.len());
            let before = self.mirror.read().objects.get(&key).cloned();
            taken.push(Arc::new(Event { revision, key, before, after }));
        }
        self.at = made;
        if written || !taken.is_empty() {
            let leaving = self.mirror.read().overflow(&taken, &self.options).len();
            self.mirror.apply(&taken, leaving, names::end(made));
        }
        Ok(())
    }
}

fn revision_of(event: &wire::Event) -> u64 {
    event.kv.as_ref().map_or(0, |kv| names::number(kv.mod_revision))
}
