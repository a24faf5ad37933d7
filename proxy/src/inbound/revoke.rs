//! Open connections when configuration changes: they end once it no longer admits them.

use super::authorize::{connection, refused, verdict};
use super::{Inbound, Key};
use crate::error::{Kind, ProxyError};
use crate::exchange::Peer;
use std::future::{Future, pending};
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use tokio::sync::watch;
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
        future.poll(cx)
    }
}
