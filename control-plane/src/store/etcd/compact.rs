//! Forgetting: etcd keeps every revision until it is told not to.

use std::{sync::Arc, time::Duration};

use tokio::sync::watch;

use super::super::{Lead, Options};
use super::link::{Link, one};
use super::load::reach;
use super::names::{self, Names};
use super::wire::RangeRequest;

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
