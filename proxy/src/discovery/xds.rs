//! The incremental aggregated stream (xDS v3 delta): subscriptions on demand, acknowledgement after applying, refusals by resource,
//! resumption with held versions, and reconnection. What a resource means is decided in `state`.
//!
//! One task owns everything here and keeps serving asks, warming and idleness while the stream is away.

use super::keep::Keep;
use super::publish::Publisher;
use super::state::{Delta, State, TYPES};
use super::{Alias, Backoff};
use crate::takeover::Turn;
use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use weft_proto::core::Node;
use weft_proto::discovery::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use weft_proto::discovery::{DeltaDiscoveryRequest, DeltaDiscoveryResponse};
use weft_proto::{rpc, v1};

/// How long the control plane may take to accept a stream.
const OPEN: Duration = Duration::from_secs(10);
/// Quiet time before last-known-good is written.
const PERSIST: Duration = Duration::from_secs(1);
/// Largest response: the whole of what a busy sidecar subscribes to, with room.
pub(crate) const LARGEST: usize = 64 << 20;
/// Requests that may wait for the stream; a control plane that reads none of so many is as good as gone.
const OUTSTANDING: usize = 1024;
/// A stream that lasted this long was a good one, even if nothing had to be said on it.
const SOUND: Duration = Duration::from_secs(10);
/// gRPC INVALID_ARGUMENT, the code of a refusal.
const INVALID_ARGUMENT: i32 = 3;

/// Who subscribes, and with what patience.
#[derive(Clone, Debug)]
pub struct Options {
    /// Workload uid, `namespace/name`.
    pub uid: String,
    /// Own trust domain.
    pub trust_domain: String,
    /// Services that are not called for this long leave the stream. Default 10 min.
    pub idle: Duration,
    /// Where last-known-good is kept.
    pub keep: Option<Keep>,
    /// When it is this process's to keep.
    pub turn: Turn,
}

/// What the stream does, counted; read by metrics and dumps.
#[derive(Clone, Debug, Default)]
pub struct Status {
    /// Whether a stream is open.
    pub connected: bool,
    /// Streams opened so far.
    pub streams: u64,
    /// Responses applied, by type name (`Service`).
    pub responses: BTreeMap<&'static str, u64>,
    /// Resources received in them.
    pub resources: u64,
    /// Resources refused.
    pub refusals: u64,
    /// Names subscribed to, by type name.
    pub subscriptions: BTreeMap<&'static str, usize>,
    /// Refusals in force.
    pub refused: Vec<v1::ResourceRefusal>,
    /// Why the last stream ended.
    pub last_error: Option<String>,
}

/// What must happen before each stream: the workload is registered (again). A refusal ends the attempt.
pub type Prepare = Box<dyn Fn() -> futures_util::future::BoxFuture<'static, Result<(), String>> + Send + Sync>;

/// The client of one sidecar.
pub struct Client {
    options: Options,
    channel: Channel,
    prepare: Prepare,
    state: State,
    publisher: Publisher,
    asks: mpsc::Receiver<Alias>,
    status: watch::Sender<Status>,
    dumps: mpsc::Receiver<super::DumpRequest>,
    sweep_at: Instant,
    persist_at: Option<Instant>,
}

/// The open half of a stream: what was subscribed to on it.
struct Session {
    requests: mpsc::Sender<DeltaDiscoveryRequest>,
    subscribed: BTreeMap<&'static str, BTreeSet<String>>,
    node: Option<Node>,
}

#[derive(Debug)]
struct Congested;

impl Session {
    fn send(&self, request: DeltaDiscoveryRequest) -> Result<(), Congested> {
        self.requests.try_send(request).map_err(|_| Congested)
    }

    /// Brings the subscriptions of the stream up to what the state wants.
    fn sync(&mut self, state: &State) -> Result<(), Congested> {
        let mut wanted = state.wanted();
        for url in TYPES {
            let names = wanted.remove(url).unwrap_or_default();
            let request = match self.subscribed.get(url) {
                // An empty first subscription would ask for everything.
                None if names.is_empty() => continue,
                None => DeltaDiscoveryRequest {
                    node: self.node.take(),
                    type_url: url.to_owned(),
                    resource_names_subscribe: names.iter().cloned().collect(),
                    initial_resource_versions: state.versions(url),
                    ..Default::default()
                },
                Some(before) if *before == names => continue,
                Some(before) => DeltaDiscoveryRequest {
                    type_url: url.to_owned(),
                    resource_names_subscribe: names.difference(before).cloned().collect(),
                    resource_names_unsubscribe: before.difference(&names).cloned().collect(),
                    ..Default::default()
                },
            };
            self.send(request)?;
            self.subscribed.insert(url, names);
        }
        Ok(())
    }
}

impl Client {
    /// A client; last-known-good, if there is any, is in force when this returns.
    pub fn new(
        options: Options,
        channel: Channel,
        prepare: Prepare,
        mut publisher: Publisher,
        asks: mpsc::Receiver<Alias>,
        dumps: mpsc::Receiver<super::DumpRequest>,
    ) -> (Self, watch::Receiver<Status>) {
        let mut state = State::on_demand(&options.uid, &options.trust_domain, options.idle);
        match options.keep.as_ref().map(Keep::load) {
            Some(Ok(Some((deltas, aliases)))) => {
                let count: usize = deltas.iter().map(|d| d.resources.len()).sum();
                for refusal in state.recall(Instant::now().into_std(), &deltas, aliases) {
                    tracing::warn!(
                        name = refusal.name,
                        field = refusal.field,
                        "remembered, but refused: {}",
                        refusal.reason
                    );
                }
                tracing::info!(resources = count, "last-known-good is in force");
            }
            Some(Err(error)) => tracing::warn!("{error}"),
            _ => {}
        }
        publisher.publish(&state);
        let (status, watched) = watch::channel(Status::default());
        let sweep_at = Instant::now() + sweep_interval(options.idle);
        let client =
            Self { options, channel, prepare, state, publisher, asks, status, dumps, sweep_at, persist_at: None };
        (client, watched)
    }

    /// Whether last-known-good is in force: calls need nobody to begin.
    #[must_use]
    pub fn resumes(&self) -> bool {
        self.state.inbound.held.is_some()
    }

    /// Runs until the future is dropped. The first stream is opened after `head_start`, or once a call
    /// asks for something.
    pub async fn run(mut self, head_start: Duration) {
        if !head_start.is_zero() {
            tokio::select! {
                () = tokio::time::sleep(head_start) => {}
                () = self.housekeeping() => {}
            }
        }
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(15));
        loop {
            let ended = self.stream(&mut backoff).await;
            self.state.connected = false;
            self.settle();
            let repeated = self.status.borrow().last_error.as_deref() == Some(ended.as_str());
            self.status.send_modify(|status| {
                status.connected = false;
                status.last_error = Some(ended.clone());
            });
            let wait = backoff.wait();
            if repeated {
                tracing::debug!(retry_in = ?wait, "xDS: {ended}");
            } else {
                tracing::warn!(retry_in = ?wait, "xDS: {ended}; what is known stays in force");
            }
            self.alongside(tokio::time::sleep(wait)).await;
        }
    }

    /// One stream from its opening to its end; returns why it ended.
    async fn stream(&mut self, backoff: &mut Backoff) -> String {
        let prepared = timeout(OPEN, (self.prepare)());
        match self.alongside(prepared).await {
            Ok(Ok(())) => {}
            Ok(Err(reason)) => return reason,
            Err(_) => return format!("the workload could not be registered within {OPEN:?}"),
        }
        let (requests, outgoing) = mpsc::channel(OUTSTANDING);
        let node = Node { id: self.options.uid.clone(), ..Node::default() };
        let mut session = Session { requests, subscribed: BTreeMap::new(), node: Some(node) };
        if session.sync(&self.state).is_err() {
            return "too many types to subscribe to".to_owned();
        }
        let mut client = AggregatedDiscoveryServiceClient::new(self.channel.clone()).max_decoding_message_size(LARGEST);
        let call = timeout(OPEN, async move { client.delta_aggregated_resources(ReceiverStream::new(outgoing)).await });
        let mut responses = match self.alongside(call).await {
            Ok(Ok(response)) => response.into_inner(),
            Ok(Err(status)) => return super::describe(&status),
            Err(_) => return format!("the control plane did not accept the stream within {OPEN:?}"),
        };
        // Not only once something was sent: a stream that resumes with everything held may stay quiet for hours.
        self.state.connected = true;
        self.status.send_modify(|status| {
            status.connected = true;
            status.streams += 1;
            status.last_error = None;
        });
        let opened = Instant::now();
        tracing::info!("xDS stream open");
        loop {
            if session.sync(&self.state).is_err() {
                return "the control plane does not read its stream".to_owned();
            }
            self.count_subscriptions(&session);
            let event = tokio::select! {
                message = responses.message() => message,
                () = self.housekeeping() => continue,
            };
            let response = match event {
                Ok(Some(response)) => response,
                ended => {
                    if opened.elapsed() >= SOUND {
                        backoff.reset();
                    }
                    return ended
                        .err()
                        .map_or_else(|| "the control plane ended the stream".to_owned(), |s| super::describe(&s));
                }
            };
            let (acknowledgement, good) = self.take(response);
            if good {
                backoff.reset();
            }
            if session.send(acknowledgement).is_err() {
                return "the control plane does not read its stream".to_owned();
            }
        }
    }

    /// Applies a response and says what to answer; whether anything in it was good.
    fn take(&mut self, response: DeltaDiscoveryResponse) -> (DeltaDiscoveryRequest, bool) {
        let url = TYPES.into_iter().find(|url| *url == response.type_url);
        let count = response.resources.len();
        let delta = Delta {
            type_url: response.type_url.clone(),
            resources: response.resources,
            removed: response.removed_resources,
        };
        let mut refusals = self.state.apply(Instant::now().into_std(), &delta);
        if url.is_none() && refusals.is_empty() {
            refusals.push(v1::ResourceRefusal {
                reason: format!("{} is no type that this sidecar knows", response.type_url),
                ..Default::default()
            });
        }
        for refusal in &refusals {
            tracing::error!(
                kind = short(&response.type_url),
                name = refusal.name,
                version = refusal.version,
                field = refusal.field,
                "refused: {}; its last good version stays in force",
                refusal.reason
            );
        }
        tracing::debug!(kind = short(&response.type_url), count, removed = delta.removed.len(), "xDS response");
        self.settle();
        self.persist_at.get_or_insert(Instant::now() + PERSIST);
        self.status.send_modify(|status| {
            *status.responses.entry(url.map_or("unknown", short)).or_default() += 1;
            status.resources += count as u64;
            status.refusals += refusals.len() as u64;
            status.refused = self.state.refused.values().cloned().collect();
        });
        let good = refusals.len() < count.max(1);
        let error_detail = (!refusals.is_empty()).then(|| rpc::Status {
            code: INVALID_ARGUMENT,
            message: refusals
                .iter()
                .map(|r| format!("{}: {}: {}", r.name, r.field, r.reason))
                .collect::<Vec<_>>()
                .join("; "),
            details: refusals.iter().map(weft_proto::Resource::to_any).collect(),
        });
        let request = DeltaDiscoveryRequest {
            type_url: response.type_url,
            response_nonce: response.nonce,
            error_detail,
            ..Default::default()
        };
        (request, good)
    }

    fn settle(&mut self) {
        self.state.settle(Instant::now().into_std());
        self.publisher.publish(&self.state);
    }

    fn count_subscriptions(&self, session: &Session) {
        self.status.send_if_modified(|status| {
            let now: BTreeMap<_, _> = session.subscribed.iter().map(|(url, names)| (short(url), names.len())).collect();
            let changed = status.subscriptions != now;
            status.subscriptions = now;
            changed
        });
    }

    /// Waits for a future while asks, warming and idleness go on.
    async fn alongside<T>(&mut self, future: impl Future<Output = T>) -> T {
        tokio::pin!(future);
        loop {
            tokio::select! {
                output = &mut future => return output,
                () = self.housekeeping() => {}
            }
        }
    }

    /// Waits for the next thing to do besides the stream, and does it. Cancel-safe: nothing is taken without being done.
    async fn housekeeping(&mut self) {
        let wake = self.state.wake().map(Instant::from_std);
        let next = [wake, self.persist_at, Some(self.sweep_at)].into_iter().flatten().min().unwrap_or(self.sweep_at);
        tokio::select! {
            Some(alias) = self.asks.recv() => {
                let now = Instant::now().into_std();
                self.state.ask(now, alias);
                // Those that wait behind it share the work.
                while let Ok(alias) = self.asks.try_recv() {
                    self.state.ask(now, alias);
                }
                self.settle();
            }
            Some(request) = self.dumps.recv() => {
                let _ = request.send(super::dump(&self.state, Some(&self.status.borrow())));
            }
            () = sleep_until(next) => {
                let now = Instant::now();
                if now >= self.sweep_at {
                    self.sweep_at = now + sweep_interval(self.options.idle);
                    self.state.sweep(now.into_std());
                }
                if self.persist_at.is_some_and(|at| now >= at) {
                    let early = !self.options.turn.is_now() && !self.options.turn.is_over();
                    self.persist_at = early.then(|| now + PERSIST);
                    self.persist();
                }
                self.settle();
            }
        }
    }

    fn persist(&self) {
        // The file belongs to the process that serves.
        let Some(keep) = self.options.keep.as_ref().filter(|_| self.options.turn.is_now()) else { return };
        let (deltas, aliases) = self.state.remember();
        if let Err(error) = keep.store(&deltas, &aliases) {
            tracing::warn!(%error, "last-known-good could not be written");
        }
    }
}

fn sweep_interval(idle: Duration) -> Duration {
    (idle / 4).clamp(Duration::from_millis(50), Duration::from_secs(60))
}

/// `Service` of `type.googleapis.com/weft.v1.Service`.
fn short(url: &str) -> &str {
    url.rsplit('.').next().unwrap_or(url)
}
