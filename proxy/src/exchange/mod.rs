//! One call, from a decided destination to its last byte: a deadline, and a loop of attempts around [balance → connect → exchange] only.
//!
//! [`Exchange`] is a worker's; `outbound` and `inbound` hand it a [`Plan`] and the call's two halves. One task drives both directions of an
//! attempt: no channel, no spawned task, no boxed future. Who may call, and which service is meant, was decided before; framing is the
//! codecs'. The files: `decide` (where a call goes), `answer` (what policy answers by itself), `attempt` (one attempt), `body` (what is kept
//! to be sent again), `cross` (sides that speak differently: `websocket`, `web`), `hedge` (second attempts), `mirror` (copies), `headers` (what is added and stripped), `reply` (errors of the proxy itself), `stream` (both directions at once), `traced` (spans), `observe` (metrics and the log line), `tcp` (opaque connections).

mod answer;
mod attempt;
mod body;
mod cross;
mod decide;
mod headers;
mod hedge;
mod mirror;
pub(crate) use answer::Answer;
pub(crate) use headers::{View, WEFT_AUTHORIZATION};

pub mod observe;
pub mod reply;
mod stream;
pub mod tcp;
mod traced;
mod upgraded;
mod web;
mod websocket;

use crate::codec::{ByteStr, Grpc, Reply, RequestBody, RequestHead, ResetCode, Timers, Version};
use crate::discovery::{Directory, Snapshot};
use crate::endpoint::connect::Connector;
use crate::endpoint::{Cluster, Origin, external};
use crate::error::{Kind, ProxyError};
use crate::telemetry::watch::Addressed;
use crate::telemetry::{Direction, Telemetry};
use attempt::Step;
use body::Replay;
use decide::{Decided, Instead, More, Way, decide};
use http::HeaderValue;
use observe::Observation;
use std::future::{Future, poll_fn};
use std::net::IpAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};
use stream::Flow;
use weft_policy::authorize::Connection;
use weft_policy::config::{Frontend, Protocol};
use weft_policy::deadline::Deadline;
use weft_policy::limit::Bulkhead;
use weft_policy::route::HeaderEdit;

/// How long a call to the local application may be sent again when it certainly was not processed: stale pooled connections.
const LOCAL_RETRIES: u32 = 2;

/// What every call of one worker shares.
pub struct Exchange {
    /// Opens and pools the worker's connections.
    pub connector: Connector,
    /// What is known of the mesh.
    pub directory: Directory,
    /// Address of the workload, where it is known: what `sourceAddress` hashes.
    pub address: Option<IpAddr>,
    /// What is counted and logged.
    pub telemetry: Arc<Telemetry>,
    /// "namespace/name" of the workload's service, or of the workload: the source of outbound calls.
    pub source: Arc<str>,
    /// SPIFFE id of the workload, for the log.
    pub identity: Arc<str>,
    /// Calls in flight from the application, of all workers.
    pub outbound_limit: Arc<Bulkhead>,
    /// Calls in flight to the application, of all workers.
    pub inbound_limit: Arc<Bulkhead>,
    /// Timers of attempts, for the next ones.
    pub timers: Timers,
    /// Timers of HTTP/1 connections between two calls.
    pub quiet: Timers,
}

impl std::fmt::Debug for Exchange {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Exchange({})", self.source)
    }
}

/// Where a call goes, as far as it is decided before routing.
pub enum Plan<'p> {
    /// A call of the application to a port of a service.
    Outbound {
        /// The configuration that the call keeps to its end.
        snapshot: &'p Snapshot,
        /// "namespace/name" of the service.
        service: &'p Arc<str>,
        /// Port of the service.
        port: u16,
        /// What the port is declared to speak.
        protocol: Protocol,
        /// Its routes and defaults.
        frontend: &'p Frontend,
        /// Of a TLS connection that is passed through, where its routes ask for it: SNI, if it has any. `None`: it is not known to be TLS.
        tls: Option<Option<&'p str>>,
    },
    /// A call to the application, admitted already.
    Inbound {
        /// The application's port, as a set of one endpoint.
        cluster: &'p Arc<Cluster>,
        /// "namespace/name" of the service that the port belongs to, for metrics.
        service: &'p Arc<str>,
        /// What the application speaks there.
        protocol: Protocol,
        /// Who calls.
        peer: &'p Peer,
        /// Why it may.
        ruling: Ruling<'p>,
        /// What its answer carries besides what the application says.
        marks: Option<&'p HeaderEdit>,
    },
}

/// The other end of an inbound connection.
#[derive(Debug, Clone, Default)]
pub struct Peer {
    /// SPIFFE id that was verified; `None`: plaintext.
    pub identity: Option<Arc<str>>,
    /// "namespace/name" for metrics: what the peer's sidecar says, within what its identity allows.
    pub source: Arc<str>,
    /// Its address.
    pub address: Option<IpAddr>,
    /// What it asked for in TLS, in lower case.
    pub server_name: Option<Arc<str>>,
    /// As whom the application is called; `None`: as the sidecar.
    pub origin: Option<Origin>,
}

/// What a policy says of a call.
#[derive(Debug, Clone, Copy, Default)]
pub enum Said {
    /// None was asked.
    #[default]
    Nothing,
    /// It may be made.
    Allow,
    /// It may not.
    Deny,
}

impl Said {
    /// `allow`, `deny`, or empty.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Nothing => "",
            Self::Allow => "allow",
            Self::Deny => "deny",
        }
    }
}

/// What admitted a call or refused it. Empty: nothing restricts the port.
#[derive(Debug, Clone, Copy, Default)]
pub struct Ruling<'p> {
    /// What it says.
    pub verdict: Said,
    /// "namespace/name" of the policy.
    pub policy: &'p str,
    /// Its rule, where one decided; of a token that was refused the reason.
    pub rule: &'p str,
    /// "namespace/name" of the service whose port it is.
    pub service: Option<&'p Arc<str>>,
    /// Whether the answer says so.
    pub shown: bool,
}

impl Ruling<'_> {
    /// What the answer says of it.
    #[must_use]
    pub fn mark(&self) -> Option<HeaderValue> {
        if !self.shown || self.policy.is_empty() {
            return None;
        }
        HeaderValue::try_from(format!("{} {} {}", self.verdict.name(), self.policy, self.rule).trim_end()).ok()
    }
}

impl Peer {
    /// What authorization may know of the connection.
    #[must_use]
    pub fn connection(&self) -> Connection<'_> {
        Connection {
            identity: self.identity.as_deref(),
            address: self.address,
            server_name: self.server_name.as_deref(),
        }
    }
}

impl Plan<'_> {
    const fn direction(&self) -> Direction {
        match self {
            Self::Outbound { .. } => Direction::Outbound,
            Self::Inbound { .. } => Direction::Inbound,
        }
    }

    /// The other end of an inbound connection.
    const fn peer(&self) -> Option<&Peer> {
        match self {
            Self::Outbound { .. } => None,
            Self::Inbound { peer, .. } => Some(*peer),
        }
    }

    /// As whom the application is called.
    fn origin(&self) -> Option<&Origin> {
        self.peer()?.origin.as_ref()
    }

    fn service(&self) -> &Arc<str> {
        match self {
            Self::Outbound { service, .. } | Self::Inbound { service, .. } => service,
        }
    }

    /// Whom the call is addressed to, for summaries.
    fn addressed(&self) -> Addressed<'_> {
        match self {
            Self::Outbound { service, port, .. } => Addressed { service, port: *port },
            // The application's port is not the service's; which of them was called nobody says.
            Self::Inbound { service, .. } => Addressed { service, port: 0 },
        }
    }
}

/// How a call was answered.
#[derive(Clone, Copy, Debug)]
pub struct Ended {
    /// HTTP status; 0: none.
    status: u16,
    grpc_status: Option<u16>,
}

impl Ended {
    /// Whether the answer says that there was more to do than could be done: 503 and 504; DEADLINE_EXCEEDED, RESOURCE_EXHAUSTED and
    /// UNAVAILABLE.
    #[must_use]
    pub const fn overloaded(self) -> bool {
        matches!(self.status, 0 | 503 | 504) || matches!(self.grpc_status, Some(4 | 8 | 14))
    }
}

/// When a call is over, and what says so.
#[derive(Clone, Copy)]
struct Limits {
    /// Until the response head. A limit that nobody chose holds no longer than that: it guards against an upstream that does not
    /// answer, and must not cut a long download.
    head: Deadline,
    /// The whole call, all attempts; what the next hop is told.
    whole: Deadline,
    /// Each attempt.
    per_try: Option<Duration>,
    /// Silence in both directions.
    idle: Option<Duration>,
}

impl Limits {
    /// Of a call without a rule: what its caller passed on.
    const fn within(propagated: Deadline) -> Self {
        Self { head: propagated, whole: propagated, per_try: None, idle: None }
    }
}

impl Exchange {
    /// Answers one call. Every path out of here sends a reply or breaks the call off, and leaves one observation.
    /// It is broken off with what `revoked` says once that is ready.
    pub async fn call<'c>(
        &self,
        plan: Plan<'_>,
        mut head: RequestHead,
        mut body: RequestBody<'c>,
        mut reply: Reply<'c>,
        mut revoked: Pin<&mut impl Future<Output = ProxyError>>,
    ) -> Ended {
        let flow = Flow::default();
        let mut seen = Observation::begin(self, &plan, &head, &flow);
        let mut cut = false;
        let result = {
            let mut run = pin!(self.run(&plan, &mut seen, &mut head, &mut body, &mut reply));
            poll_fn(|cx| match revoked.as_mut().poll(cx) {
                Poll::Ready(error) => {
                    cut = true;
                    Poll::Ready(Err(error))
                }
                Poll::Pending => run.as_mut().poll(cx),
            })
            .await
        };
        if cut {
            // What let it in does not hold any more, and the error names what does.
            seen.ruled(Ruling::default());
        }
        match result {
            Ok(None) => {}
            Ok(Some(upgraded)) => match Box::pin(upgraded.join(reply, body, &flow, revoked)).await {
                Ok(()) => seen.completed(),
                Err(error) => seen.failed(&error),
            },
            Err(error) => {
                seen.failed(&error);
                Box::pin(refuse(&error, &head, &mut reply, &mut seen)).await;
            }
        }
        Ended { status: seen.outcome.status, grpc_status: seen.outcome.grpc_status }
    }

    /// Answers a call that policy keeps from its destination. Counted and logged like any other.
    pub(crate) async fn answer(&self, plan: &Plan<'_>, answer: Answer, head: &RequestHead, reply: &mut Reply<'_>) {
        let flow = Flow::default();
        let mut seen = Observation::begin(self, plan, head, &flow);
        headers::noted(head, plan.peer(), &mut seen);
        match answer.send(head, reply, &mut seen).await {
            Ok(()) => seen.completed(),
            Err(error) => seen.failed(&error),
        }
    }

    /// Answers a call with an error before it is sent. Counted and logged like any other.
    pub(crate) async fn fail(&self, plan: &Plan<'_>, error: &ProxyError, head: &RequestHead, reply: &mut Reply<'_>) {
        let flow = Flow::default();
        let mut seen = Observation::begin(self, plan, head, &flow);
        headers::noted(head, plan.peer(), &mut seen);
        seen.failed(error);
        refuse(error, head, reply, &mut seen).await;
    }

    /// Answers a call that goes nowhere, because of what it says or who sent it. Counted and logged like any other, without a destination.
    pub async fn turn_away(
        &self,
        direction: Direction,
        peer: Option<&Peer>,
        error: &ProxyError,
        head: &RequestHead,
        reply: &mut Reply<'_>,
    ) {
        self.turn_away_by(Ruling::default(), direction, peer, error, head, reply).await;
    }

    /// The same, of a call that a policy refused.
    pub async fn turn_away_by(
        &self,
        ruling: Ruling<'_>,
        direction: Direction,
        peer: Option<&Peer>,
        error: &ProxyError,
        head: &RequestHead,
        reply: &mut Reply<'_>,
    ) {
        let flow = Flow::default();
        let mut seen = Observation::unrouted(self, direction, head, &flow);
        seen.ruled(ruling);
        if let Some(peer) = peer {
            seen.called_by(peer);
        }
        headers::noted(head, peer, &mut seen);
        seen.failed(error);
        let who = match (direction, peer) {
            (Direction::Outbound, _) => &*self.source,
            (Direction::Inbound, Some(peer)) => &*peer.source,
            (Direction::Inbound, None) => "a peer without a certificate",
        };
        self.telemetry.refuse(direction, error, &who);
        refuse(error, head, reply, &mut seen).await;
    }

    /// Begins a copy for each mirror.
    fn mirror(
        &self,
        more: &More<'_>,
        route: &Option<Arc<str>>,
        protocol: Protocol,
        until: Deadline,
        head: &RequestHead,
        replay: &mut Replay<'_, '_>,
    ) {
        if head.upgrade || head.method == http::Method::CONNECT {
            // What follows is a conversation, of which a copy cannot be had.
            return;
        }
        let body = !replay.is_empty();
        for cluster in &more.mirrors {
            let route = route.clone().unwrap_or_default();
            let sending = mirror::Sending { exchange: self, cluster, head, protocol, body, until, route };
            replay.copies.extend(sending.begin());
        }
    }

    async fn run<'c>(
        &self,
        plan: &Plan<'_>,
        seen: &mut Observation<'_>,
        head: &mut RequestHead,
        body: &mut RequestBody<'c>,
        reply: &mut Reply<'c>,
    ) -> Result<Option<Box<upgraded::Upgraded>>, ProxyError> {
        let limit = match plan.direction() {
            Direction::Inbound => &self.inbound_limit,
            Direction::Outbound => &self.outbound_limit,
        };
        let _place = limit
            .enter()
            .map_err(|full| ProxyError::because(Kind::Overflow, format!("{} calls are in flight", full.limit)))?;
        // Nothing has been waited for since the call began.
        let now = seen.began();
        let propagated = headers::prepare(head, plan, seen, now);
        let (mut decided, delay) = decide(plan, head, self.address, seen);
        let limits = match &decided {
            Decided::Send(way) => limits(way, head, propagated, now),
            Decided::Answer(_) | Decided::Fail(_) => Limits::within(propagated),
        };
        let mut at = now;
        if let Some(delay) = delay {
            // As if the upstream were slow: the limits of the call hold for it.
            if let Err(error) = Box::pin(reply.while_open(late(delay, limits.head))).await? {
                if let Decided::Send(way) = &mut decided {
                    seen.marks = way.marks();
                }
                return Err(error);
            }
            at = self::now();
        }
        let mut way = match decided {
            Decided::Send(way) => way,
            Decided::Answer(answer) => {
                Box::pin(answer.send(head, reply, seen)).await?;
                seen.completed();
                return Ok(None);
            }
            Decided::Fail(error) => return Err(error),
        };
        if limits.head.is_over(at) {
            seen.marks = way.marks();
            return Err(ProxyError::because(Kind::RequestTimeout, "the deadline had passed before the call was sent"));
        }
        if let Some(rule) = way.rule {
            headers::edit_request(head, &rule.filters.request);
        }
        if let Some(backend) = way.backend {
            headers::edit_request(head, &backend.filters.request);
        }
        let budget = way.frontend_budget.map(|(cluster, settings)| cluster.budget(settings, now));
        if let Some(budget) = budget {
            budget.deposit(now);
        }
        let mut replay = Replay::new(body, seen.flow());
        if let Some(more) = &mut way.more {
            rewrite(more, head);
            self.mirror(
                more,
                &way.rule.map(|rule| Arc::clone(&rule.route)),
                way.protocol,
                limits.whole,
                head,
                &mut replay,
            );
        }
        let mut tried: Vec<Arc<str>> = Vec::new();
        let (mut stood_in, mut waited) = (false, false);
        loop {
            let attempt = attempt::Attempt {
                exchange: self,
                way: &way,
                limits,
                budget,
                tried: &tried,
                retries: seen.outcome.attempts,
                direction: plan.direction(),
                now: at,
            };
            let step = match attempt.make(head, &mut replay, reply, seen).await {
                // A host outside that nobody called before: its name is being asked for.
                Err(error) if error.kind == Kind::NoEndpoint && !waited && external::is_awaited(way.cluster) => {
                    waited = true;
                    Box::pin(reply.while_open(external::first_answer(way.cluster))).await?;
                    at = self::now();
                    continue;
                }
                // Nobody is there to answer: what stands in for the backend does, once.
                Err(error) if matches!(error.kind, Kind::NoEndpoint | Kind::BreakerOpen) && !stood_in => {
                    stood_in = true;
                    match plan.instead() {
                        None => {
                            seen.marks = way.marks();
                            return Err(error);
                        }
                        Some(Instead::Cluster(cluster)) => {
                            seen.stood_in(&cluster.name().service);
                            tried.clear();
                            let more = way.more.take().map(More::elsewhere);
                            let key = cluster.key(&View::new(head), self.address);
                            way = Way { cluster, backend: None, key, more, ..way };
                            continue;
                        }
                        Some(Instead::Answer(answer)) => {
                            seen.marks = way.marks();
                            Box::pin(answer.send(head, reply, seen)).await?;
                            seen.completed();
                            return Ok(None);
                        }
                    }
                }
                Ok(step) => step,
                Err(error) => {
                    seen.marks = way.marks();
                    return Err(error);
                }
            };
            match step {
                Step::Done => {
                    seen.completed();
                    return Ok(None);
                }
                Step::Upgraded(upgraded) => return Ok(Some(upgraded)),
                Step::Again { after, uid } => {
                    if let Some(uid) = uid {
                        tried.push(uid);
                    }
                    if !after.is_zero() {
                        Box::pin(reply.while_open(tokio::time::sleep(after))).await?;
                    }
                    at = tokio::time::Instant::now().into_std();
                }
            }
        }
    }
}

/// Waits as long as a fault wants, within the call's deadline.
async fn late(delay: Duration, until: Deadline) -> Result<(), ProxyError> {
    let left = until.remaining(now());
    tokio::time::sleep(left.map_or(delay, |left| left.min(delay))).await;
    match left {
        Some(left) if left <= delay => {
            Err(ProxyError::because(Kind::RequestTimeout, "the deadline passed while a fault delayed the call"))
        }
        _ => Ok(()),
    }
}

/// Puts what the backend is to see in place of path and host.
fn rewrite(more: &mut More<'_>, head: &mut RequestHead) {
    if let Some(target) = more.rewritten.target.take() {
        head.path = ByteStr::from(&*target);
    }
    if let Some(host) = more.rewritten.hostname.and_then(|host| host.to_str().ok()) {
        head.authority = Some(ByteStr::from(host));
    }
}

pub(super) fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

fn limits(way: &Way<'_>, head: &RequestHead, propagated: Deadline, now: Instant) -> Limits {
    let Some(rule) = way.rule else {
        return Limits::within(propagated);
    };
    let streaming = head.upgrade || head.grpc().is_some() || head.method == http::Method::CONNECT;
    let limit = rule.timeouts.request(streaming);
    let chosen = !matches!(rule.timeouts.request, weft_policy::route::RequestTimeout::Default(_));
    Limits {
        head: propagated.tighten(now, limit),
        whole: if chosen { propagated.tighten(now, limit) } else { propagated },
        per_try: rule.timeouts.backend_request,
        idle: rule.timeouts.idle,
    }
}

/// Answers with the error: a reply if none has begun, else the call is broken off in the way its protocol has for it.
async fn refuse(error: &ProxyError, head: &RequestHead, reply: &mut Reply<'_>, seen: &mut Observation<'_>) {
    if error.kind == Kind::ClientGone {
        reply.reset(ResetCode::Cancel);
        return;
    }
    // What is no gRPC-Web has no use for an answer in it.
    let unread = |grpc: &Grpc| matches!(grpc, Grpc::Web(_)) && error.kind == Kind::BadRequest;
    let grpc = seen.grpc().filter(|grpc| !unread(grpc));
    let sent = if !reply.started() {
        seen.replied(error, grpc.is_some());
        let marks = reply::Marks { policy: seen.marks.as_deref(), authorization: seen.mark() };
        reply::local(error, grpc, head, marks, reply, seen.flow()).await
    } else if grpc == Some(Grpc::Native) && head.version == Version::Http2 {
        // The status may still be told: better than a reset, which clients read as INTERNAL or CANCELLED.
        seen.outcome.grpc_status = Some(error.grpc_status().into());
        reply.trailers(reply::grpc_trailers(error)).await.map_err(ProxyError::from)
    } else if let Some(answer) = seen.unfinished.take() {
        seen.outcome.grpc_status = Some(error.grpc_status().into());
        web::tell(*answer, &reply::grpc_trailers(error), reply).await
    } else {
        reply.reset(ResetCode::Internal);
        Ok(())
    };
    if sent.is_err() {
        reply.reset(ResetCode::Cancel);
    }
}
