//! Reading everything that etcd holds, as it was some revisions ago: what happened since is then replayed by the follower, so that a replica
//! that starts can continue the watches of one that ended.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::{StreamExt as _, stream};

use super::super::{Options, Result, StoreError, mirror::State};
use super::link::{Link, failed, is_compacted, one};
use super::names::{self, Names};
use super::record;
use super::wire::{RangeRequest, WatchCreateRequest, WatchRequest, watch_request};

/// Objects of one page.
const PAGE: i64 = 128;
/// How often a compaction may come between.
const ATTEMPTS: usize = 5;

/// The objects as they were [`reach`] revisions of etcd ago, or as long ago as etcd remembers; and at which revision that was.
pub async fn load(link: &Link, names: &Names, options: &Options) -> Result<(State, u64)> {
    let clock = link.range(RangeRequest { keys_only: true, ..one(names.clock()) }).await?;
    let now = clock.header.map_or(1, |header| names::number(header.revision)).max(1);
    let mut at = now.saturating_sub(reach(options)).max(1);
    for _ in 0..ATTEMPTS {
        match as_of(link, names, at).await {
            Err(error) if is_compacted(&error) => at = oldest(link, names).await?.max(at + 1),
            done => return Ok((done?, at)),
        }
    }
    Err(StoreError::Failed("etcd is compacted all the time".to_owned()))
}

/// Revisions of etcd that are read again at a start, and kept by compaction: not all of them are of this store.
pub fn reach(options: &Options) -> u64 {
    u64::try_from(options.history_events).unwrap_or(u64::MAX).saturating_mul(2).max(64)
}

async fn as_of(link: &Link, names: &Names, at: u64) -> Result<State> {
    let revision = names::signed(at);
    let clock = link.range(RangeRequest { revision, keys_only: true, ..one(names.clock()) }).await?;
    let newest = clock.kvs.first().map_or(0, |kv| names::number(kv.mod_revision));
    let mut state = State { revision: names::end(newest), compacted: names::end(newest), ..State::default() };
    let (mut key, range_end) = names.objects();
    loop {
        let range_end = range_end.clone();
        let page = RangeRequest { key, range_end, limit: PAGE, revision, ..RangeRequest::default() };
        let page = link.range(page).await?;
        for kv in &page.kvs {
            let key = names.key(&kv.key).ok_or_else(|| unreadable(&kv.key))?;
            state.objects.insert(Arc::new(record(key, kv)?));
        }
        match page.kvs.last() {
            // The first key after this one.
            Some(last) if page.more => key = [last.key.as_ref(), b"\0"].concat().into(),
            _ => return Ok(state),
        }
    }
}

pub fn unreadable(key: &Bytes) -> StoreError {
    StoreError::Failed(format!("etcd holds {:?}, which this version did not write", String::from_utf8_lossy(key)))
}

/// The oldest revision that etcd can show. It says so only to those who watch from before.
async fn oldest(link: &Link, names: &Names) -> Result<u64> {
    let connection = link.connection().await.map_err(|status| failed(&status))?;
    let create = WatchCreateRequest { key: names.clock(), start_revision: 1, ..WatchCreateRequest::default() };
    let request = WatchRequest { request_union: Some(watch_request::RequestUnion::CreateRequest(create)) };
    let asked = async {
        // The request stream stays open: its end is the watch's.
        let requests = stream::iter([request]).chain(stream::pending());
        let mut answers = connection.watch().watch(connection.lasting(requests)).await?.into_inner();
        loop {
            match answers.message().await? {
                Some(answer) if answer.compact_revision > 0 => return Ok(names::number(answer.compact_revision)),
                Some(answer) if answer.events.is_empty() && !answer.canceled => {}
                _ => return Ok(1),
            }
        }
    };
    match tokio::time::timeout(super::LAG, asked).await {
        Ok(answer) => answer.map_err(|status: tonic::Status| failed(&status)),
        Err(_) => Err(StoreError::Failed("etcd does not say what it has compacted".to_owned())),
    }
}
