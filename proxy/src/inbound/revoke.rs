//! Open connections and open calls when configuration changes, and open calls when their token expires: they end once they are no longer
//! admitted.
//!
//! A connection is asked about by its peer, a call by its peer, the head that began it and the token that this brought. What is open learns of
//! a change by itself; nothing is kept of it elsewhere.

use super::authorize::{connection, refused, verdict};
use super::calls::Calls;
use super::{Inbound, Key};
use crate::codec::RequestHead;
use crate::error::{Kind, ProxyError};
use crate::exchange::Peer;
use crate::moment::{Alarm, Moment};
use crate::telemetry::Direction;
use std::future::{Future, pending, poll_fn};
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};
use std::time::SystemTime;
use tokio::sync::watch;
use tokio::task::coop::unconstrained;
use weft_certs::jwt::Reason;
use weft_policy::config::TlsMode;

impl Inbound {
    /// Ready once configuration no longer admits the peer to what `key` found: the port is gone, or its policies changed.
    pub(super) async fn revoked(&self, key: &Key, peer: &Peer, opaque: bool) -> ProxyError {
        let mut changes = self.exchange.directory.inbound_changes();
        loop {
            let still = self.port(key).and_then(|port| {
                if port.tls == TlsMode::Strict && peer.identity.is_none() {
                    return Err(ProxyError::because(Kind::PlaintextRefused, "the port has become strict"));
                }
                verdict(&connection(&port, peer, opaque), peer)?;
                match port.authentication.as_ref().filter(|_| opaque).and_then(|a| a.required_by.as_ref()) {
                    Some(policy) => Err(refused(policy, Reason::Missing)),
                    None => Ok(()),
                }
            });
            if let Err(error) = still {
                return error;
            }
            if changes.changed().await.is_err() {
                return pending().await;
            }
        }
    }

    /// Serves calls to the connection's end; or until configuration admits no call of its peer any more, which is the answer.
    pub(super) async fn while_admitted(
        &self,
        key: &Key,
        peer: &Peer,
        mut served: Pin<&mut impl Future<Output = ()>>,
    ) -> Option<ProxyError> {
        let mut revoked = pin!(self.revoked(key, peer, false));
        let mut changed = Changed::new(self);
        poll_fn(|cx| {
            // Calls first: each of them is told why it ends, which the end of their connection says nothing of.
            if served.as_mut().poll(cx).is_ready() {
                return Poll::Ready(None);
            }
            changed.poll(revoked.as_mut(), cx).map(Some)
        })
        .await
    }
}

impl Calls<'_> {
    /// Ready once an open call is no longer admitted: its port is gone, its policies deny it, or its token is not good any more. `head` is
    /// what the call began with, `changes` is from before it was admitted, `lapses` when its token expires.
    pub(super) async fn revoked(
        &self,
        peer: &Peer,
        head: RequestHead,
        changes: watch::Receiver<u64>,
        lapses: Option<SystemTime>,
    ) -> ProxyError {
        let mut changed = Changed { changes: changes.clone(), waker: None };
        let mut revoked = pin!(self.no_longer(peer, &head, changes));
        // Without a token there is no timer.
        let mut lapse = lapses.map(|at| (at, Alarm::new(Moment::new(at))));
        poll_fn(|cx| {
            if let Poll::Ready(error) = changed.poll(revoked.as_mut(), cx) {
                return Poll::Ready(error);
            }
            while let Some((at, alarm)) = &mut lapse
                && alarm.poll(cx).is_ready()
            {
                if let Err(error) = self.check(peer, &head) {
                    return Poll::Ready(error);
                }
                if SystemTime::now() >= *at {
                    // Nothing depends on it.
                    lapse = None;
                } else {
                    // The clock was set back meanwhile.
                    alarm.set(Moment::new(*at));
                }
            }
            Poll::Pending
        })
        .await
    }

    async fn no_longer(&self, peer: &Peer, head: &RequestHead, mut changes: watch::Receiver<u64>) -> ProxyError {
        loop {
            if changes.changed().await.is_err() {
                return pending().await;
            }
            if let Err(error) = self.check(peer, head) {
                return error;
            }
        }
    }

    /// Whether an open call may go on; why not is logged and counted.
    fn check(&self, peer: &Peer, head: &RequestHead) -> Result<(), ProxyError> {
        self.still(peer, head).inspect_err(|error| {
            self.inbound.exchange.telemetry.refuse(Direction::Inbound, error, &peer.source);
        })
    }
}

/// Polls what waits for a change of configuration only when there was one: a connection is polled for every piece of its calls, and
/// configuration hardly ever changes.
pub(super) struct Changed {
    changes: watch::Receiver<u64>,
    /// Who is woken by a change.
    waker: Option<Waker>,
}

impl Changed {
    pub(super) fn new(inbound: &Inbound) -> Self {
        Self { changes: inbound.exchange.directory.inbound_changes(), waker: None }
    }

    pub(super) fn poll<F: Future>(&mut self, future: Pin<&mut F>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let waits = self.waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker()));
        if waits && self.changes.has_changed().is_ok_and(|changed| !changed) {
            return Poll::Pending;
        }
        // Before the poll: a change that comes during it is looked at once more.
        self.changes.mark_unchanged();
        self.waker = Some(cx.waker().clone());
        // Outside of tokio's budget: where a busy task has used it up, the future would not look, and nobody would ask it again.
        pin!(unconstrained(future)).poll(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_change_is_seen_by_a_task_that_has_used_up_its_budget() {
        let (sender, receiver) = watch::channel(0);
        let mut changed = Changed { changes: receiver.clone(), waker: None };
        let mut receiver = receiver;
        let mut waits = pin!(async move { receiver.changed().await.is_ok() });
        assert!(poll_fn(|cx| Poll::Ready(changed.poll(waits.as_mut(), cx))).await.is_pending());
        sender.send_replace(1);
        let seen = poll_fn(|cx| {
            while pin!(tokio::task::coop::consume_budget()).poll(cx).is_ready() {}
            Poll::Ready(changed.poll(waits.as_mut(), cx))
        })
        .await;
        assert_eq!(seen, Poll::Ready(true));
    }
}
