//! The incremental aggregated stream: one state machine for each stream, polled by its own connection ([`crate::grpc`]).
//!
//! A stream is a value that is polled, not a task with a queue: it reads the newest [`Snapshot`] when the peer's flow control lets it
//! send, so a slow sidecar holds up nobody and holds no backlog here. Dropping the stream is its whole cleanup.

use super::convergence::{Convergence, Guard};
use super::interest::{Interest, Interests, Topic};
use super::offer::Offer;
use super::session::{self, Client, Counts, Session};
use super::snapshot::Snapshot;
use crate::compile::Output;
use crate::grpc::Messages;
use crate::identity::Peer;
use futures_util::Stream;
use parking_lot::RwLock;
use std::collections::BTreeSet;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};
use weft_proto::discovery::{DeltaDiscoveryRequest, DeltaDiscoveryResponse};
use weft_proto::type_url;

/// What is offered now, and who holds what: the meeting point of the compiler and the streams.
#[derive(Debug)]
pub struct Hub {
    offer: RwLock<Offer>,
    convergence: Arc<Convergence>,
    interests: Arc<Interests>,
    totals: Totals,
}

/// Counts over all streams since the start.
#[derive(Debug, Default)]
pub struct Totals {
    sent: AtomicU64,
    resumed: AtomicU64,
    removed: AtomicU64,
    refused: AtomicU64,
    streams: AtomicU64,
}

impl Default for Hub {
    fn default() -> Self {
        Self {
            offer: RwLock::default(),
            convergence: Arc::new(Convergence::default()),
            interests: Arc::default(),
            totals: Totals::default(),
        }
    }
}

impl Hub {
    /// Offers what was compiled, and to a sample something else; streams take it when they can.
    pub fn publish(&self, output: &Output, trial: Option<(&Output, Arc<BTreeSet<String>>)>) -> Offer {
        let (next, topics) = self.offer().next(output, trial);
        *self.offer.write() = next.clone();
        // After it: who wakes finds it.
        self.interests.tell(&topics);
        next
    }

    fn offer(&self) -> Offer {
        self.offer.read().clone()
    }

    /// What the sidecar of a workload is offered now; `None`: it has not said which it is.
    #[must_use]
    pub fn snapshot(&self, workload: Option<&str>) -> Arc<Snapshot> {
        self.offer.read().of(workload).clone()
    }

    /// Names of which the sidecar of a workload is offered something else than all others.
    fn tried(&self, workload: &str) -> Vec<Topic> {
        let canary = self.offer().canary.filter(|canary| canary.sample.contains(workload));
        canary.map(|canary| canary.topics.to_vec()).unwrap_or_default()
    }

    /// Who holds what.
    #[must_use]
    pub fn convergence(&self) -> &Arc<Convergence> {
        &self.convergence
    }

    /// Resources sent, held already on resumption, removed; responses refused; all streams since the start.
    #[must_use]
    pub fn counts(&self) -> Counts {
        let read = |n: &AtomicU64| n.load(Ordering::Relaxed);
        let totals = &self.totals;
        Counts {
            sent: read(&totals.sent),
            resumed: read(&totals.resumed),
            removed: read(&totals.removed),
            refused: read(&totals.refused),
        }
    }

    /// Streams opened since the start.
    #[must_use]
    pub fn streams(&self) -> u64 {
        self.totals.streams.load(Ordering::Relaxed)
    }

    fn count(&self, before: Counts, after: Counts) {
        let totals = &self.totals;
        totals.sent.fetch_add(after.sent - before.sent, Ordering::Relaxed);
        totals.resumed.fetch_add(after.resumed - before.resumed, Ordering::Relaxed);
        totals.removed.fetch_add(after.removed - before.removed, Ordering::Relaxed);
        totals.refused.fetch_add(after.refused - before.refused, Ordering::Relaxed);
    }
}

/// The service that tonic mounts.
#[derive(Clone, Debug)]
pub struct Discovery {
    hub: Arc<Hub>,
    /// Ends every stream when the control plane goes down, so that the listener can close.
    shutdown: CancellationToken,
}

impl Discovery {
    /// Serves what `hub` offers until `shutdown`.
    #[must_use]
    pub fn new(hub: Arc<Hub>, shutdown: CancellationToken) -> Self {
        Self { hub, shutdown }
    }
}

/// A peer that says nothing at all for this long after opening a stream is not a sidecar.
const FIRST_REQUEST: Duration = Duration::from_secs(30);

struct Live {
    session: Session,
    /// Whose `Inbound` it asked for.
    workload: Option<Box<str>>,
    /// Whether it may have it: what it may not have it is not.
    is_own: bool,
    requests: Messages<DeltaDiscoveryRequest>,
    interest: Interest,
    hub: Arc<Hub>,
    guard: Guard,
    shutdown: CancellationToken,
    spoken: bool,
}

impl Live {
    /// What is offered to this stream now.
    fn snapshot(&mut self) -> Arc<Snapshot> {
        if let Some(asked) = self.workload.as_deref().filter(|_| !self.is_own) {
            // A workload that has just registered is not compiled yet; once it is, the stream is woken.
            let client = self.session.client();
            self.is_own = self.hub.snapshot(None).lookup(client, type_url::INBOUND, asked).is_some();
            if self.is_own {
                // It may be one of those that are offered something else.
                self.session.changed(self.hub.tried(asked));
            }
        }
        self.hub.snapshot(self.workload.as_deref().filter(|_| self.is_own))
    }

    /// Waits for the next response to send; `None` ends the stream.
    async fn next(&mut self) -> Option<Result<DeltaDiscoveryResponse, Status>> {
        loop {
            // In this order: what is published in between is told once more.
            self.session.changed(self.interest.take());
            let snapshot = self.snapshot();
            let before = self.session.counts();
            if let Some(response) = self.session.response(&snapshot) {
                self.hub.count(before, self.session.counts());
                if let Some((url, names)) = self.session.newest() {
                    self.guard.sent(url, names);
                }
                return Some(Ok(response));
            }
            let silent = async {
                if self.spoken {
                    std::future::pending::<()>().await;
                }
                tokio::time::sleep(FIRST_REQUEST).await;
            };
            let message = tokio::select! {
                message = self.requests.message() => message,
                () = self.interest.changed() => continue,
                () = self.shutdown.cancelled() => {
                    return Some(Err(Status::unavailable("the control plane is shutting down")));
                }
                () = silent => return Some(Err(Status::deadline_exceeded("no request came"))),
            };
            let request = match message {
                Ok(Some(request)) => request,
                Ok(None) => return None,
                Err(status) => {
                    tracing::debug!(peer = %self.session.client().identity, %status, "xDS stream broke");
                    return None;
                }
            };
            self.spoken = true;
            if let Some(detail) = &request.error_detail {
                let peer = &self.session.client().identity;
                tracing::warn!(%peer, url = %request.type_url, message = %detail.message, "a sidecar refused resources");
            }
            // Before the newest snapshot is looked at again: what is published in between wakes it.
            if let Some(url) = session::known(&request.type_url) {
                self.interest.add(url, request.resource_names_subscribe.iter().map(String::as_str));
                self.interest.remove(url, request.resource_names_unsubscribe.iter().map(String::as_str));
                if url == type_url::INBOUND && self.workload.is_none() {
                    self.workload = request.resource_names_subscribe.first().map(|name| name.as_str().into());
                }
                if url == type_url::MESH_SETTINGS {
                    self.interest.add(url, std::iter::once("mesh"));
                }
            }
            let before = self.session.counts();
            match self.session.request(request, &snapshot) {
                Ok(events) => self.guard.apply(events),
                Err(misbehaved) => {
                    tracing::warn!(peer = %self.session.client().identity, error = %misbehaved, "xDS stream refused");
                    return Some(Err(Status::invalid_argument(misbehaved.to_string())));
                }
            }
            self.hub.count(before, self.session.counts());
        }
    }
}

type Out<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

impl Discovery {
    /// `DeltaAggregatedResources`: the stream of one sidecar.
    ///
    /// # Errors
    /// Whoever is not of the mesh.
    pub(crate) async fn delta(
        &self,
        request: Request<Messages<DeltaDiscoveryRequest>>,
    ) -> Result<Response<Out<DeltaDiscoveryResponse>>, Status> {
        let peer = Peer::of(&request)?;
        let client = Client { identity: peer.identity.clone(), namespace: peer.namespace.clone() };
        self.hub.totals.streams.fetch_add(1, Ordering::Relaxed);
        tracing::debug!(peer = %client.identity, "xDS stream opened");
        // Boxed: the stream has room for what it is between two messages, and for what it does meanwhile.
        let live = Box::new(Live {
            session: Session::new(client.clone()),
            workload: None,
            is_own: false,
            requests: request.into_inner(),
            interest: self.hub.interests.join(),
            guard: self.hub.convergence.join(client),
            hub: self.hub.clone(),
            shutdown: self.shutdown.clone(),
            spoken: false,
        });
        // An error ends the stream: after it there is no state to go on with.
        let stream = futures_util::stream::unfold(Some(live), |live| async {
            let mut live = live?;
            let item = live.next().await?;
            let next = item.is_ok().then_some(live);
            Some((item, next))
        });
        Ok(Response::new(Box::pin(stream)))
    }
}
