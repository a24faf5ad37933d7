//! One call, from a decided destination to its last byte: a deadline, and a loop of attempts around [balance → connect → exchange] only.
//!
//! [`Exchange`] is a worker's; `outbound` and `inbound` hand it a [`Plan`] and the call's two halves. One task drives both directions of an
//! attempt: no channel, no spawned task, no boxed future. Who may call, and which service is meant, was decided before; framing is the
//! codecs'. The files: `attempt` (one attempt), `body` (what is kept to be sent again), `headers` (what is added and stripped), `reply`
//! (answers of the proxy itself), `stream` (both directions at once), `observe` (metrics and the log line), `tcp` (opaque connections).

mod attempt;
mod body;
mod headers;
pub mod observe;
pub mod reply;
mod stream;
pub mod tcp;

use crate::codec::{Reply, RequestBody, RequestHead, ResetCode, Version};
use crate::discovery::{Directory, Snapshot};
use crate::endpoint::Cluster;
use crate::endpoint::connect::{self, Connector};
use crate::error::{Kind, ProxyError};
use crate::telemetry::{Direction, Telemetry};
use attempt::Step;
use body::Replay;
use observe::Observation;
use std::sync::Arc;
use std::time::{Duration, Instant};
use stream::Flow;
pub use stream::Timers;
use weft_policy::config::{Endpoint, Frontend, Protocol};
use weft_policy::deadline::Deadline;
use weft_policy::limit::Bulkhead;
use weft_policy::retry;
use weft_policy::route::{Decision, Rule, WeightedBackend};

/// How long a call to the local application may be sent again when it certainly was not processed: stale pooled connections.
const LOCAL_RETRIES: u32 = 2;

/// What every call of one worker shares.
pub struct Exchange {
    /// Opens and pools the worker's connections.
    pub connector: Connector,
    /// What is known of the mesh.
    pub directory: Directory,
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
    },
}

/// The other end of an inbound connection.
#[derive(Debug, Clone, Default)]
pub struct Peer {
    /// SPIFFE id that was verified; `None`: plaintext.
    pub identity: Option<Arc<str>>,
    /// "namespace/name" for metrics: what the peer's sidecar says, within what its identity allows.
    pub source: Arc<str>,
}

/// What routing decided, and how attempts go about it.
struct Way<'p> {
    cluster: &'p Cluster,
    frontend_budget: Option<(&'p Cluster, retry::BudgetSettings)>,
    rule: Option<&'p Rule>,
    backend: Option<&'p WeightedBackend>,
    protocol: Protocol,
}

impl Plan<'_> {
    const fn direction(&self) -> Direction {
        match self {
            Self::Outbound { .. } => Direction::Outbound,
            Self::Inbound { .. } => Direction::Inbound,
        }
    }

    fn service(&self) -> &Arc<str> {
        match self {
            Self::Outbound { service, .. } | Self::Inbound { service, .. } => service,
        }
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

impl Exchange {
    /// Answers one call. Every path out of here sends a reply or breaks the call off, and leaves one observation.
    pub async fn call<'c>(
        &self,
        plan: Plan<'_>,
        mut head: RequestHead,
        mut body: RequestBody<'c>,
        mut reply: Reply<'c>,
    ) {
        let flow = Flow::default();
        let mut seen = Observation::begin(self, &plan, &head, &flow);
        let grpc = head.is_grpc();
        let result = self.run(&plan, &mut seen, &mut head, &mut body, &mut reply).await;
        match result {
            Ok(None) => {}
            Ok(Some(upgraded)) => match Box::pin(upgraded.join(reply, body, &flow)).await {
                Ok(()) => seen.completed(),
                Err(error) => seen.failed(&error),
            },
            Err(error) => {
                seen.failed(&error);
                Box::pin(refuse(&error, grpc, &head, &mut reply, &mut seen)).await;
            }
        }
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
        let flow = Flow::default();
        let mut seen = Observation::unrouted(self, direction, head, &flow);
        if let Some(peer) = peer {
            seen.called_by(peer);
        }
        seen.failed(error);
        let who = match (direction, peer) {
            (Direction::Outbound, _) => &*self.source,
            (Direction::Inbound, Some(peer)) => &*peer.source,
            (Direction::Inbound, None) => "a peer without a certificate",
        };
        self.telemetry.refuse(direction, error, &who);
        refuse(error, head.is_grpc(), head, reply, &mut seen).await;
    }

    async fn run<'c>(
        &self,
        plan: &Plan<'_>,
        seen: &mut Observation<'_>,
        head: &mut RequestHead,
        body: &mut RequestBody<'c>,
        reply: &mut Reply<'c>,
    ) -> Result<Option<Box<attempt::Upgraded>>, ProxyError> {
        let limit = match plan.direction() {
            Direction::Inbound => &self.inbound_limit,
            Direction::Outbound => &self.outbound_limit,
        };
        let _place = limit
            .enter()
            .map_err(|full| ProxyError::because(Kind::Overflow, format!("{} calls are in flight", full.limit)))?;
        let now = tokio::time::Instant::now().into_std();
        let propagated = headers::prepare(head, plan, seen);
        let way = decide(plan, head, seen)?;
        let limits = limits(&way, head, propagated, now);
        if limits.head.is_over(now) {
            return Err(ProxyError::because(Kind::RequestTimeout, "the deadline had passed before the call was sent"));
        }
        if let Some(rule) = way.rule {
            headers::edit(&mut head.headers, &rule.filters.request);
        }
        if let Some(backend) = way.backend {
            headers::edit(&mut head.headers, &backend.filters.request);
        }
        let budget = way.frontend_budget.map(|(cluster, settings)| cluster.budget(settings, now));
        if let Some(budget) = budget {
            budget.deposit(now);
        }
        let mut replay = Replay::new(body, seen.flow());
        let mut tried: Vec<Arc<str>> = Vec::new();
        loop {
            let attempt = attempt::Attempt {
                exchange: self,
                way: &way,
                limits,
                budget,
                tried: &tried,
                retries: seen.outcome.attempts,
                direction: plan.direction(),
            };
            match attempt.make(head, &mut replay, reply, seen).await? {
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
                }
            }
        }
    }
}

/// The rule, the share and the endpoints of a call.
fn decide<'p>(plan: &'p Plan<'_>, head: &RequestHead, seen: &mut Observation<'_>) -> Result<Way<'p>, ProxyError> {
    match plan {
        Plan::Inbound { cluster, protocol, .. } => {
            Ok(Way { cluster, frontend_budget: None, rule: None, backend: None, protocol: *protocol })
        }
        Plan::Outbound { snapshot, service, port, protocol, frontend } => {
            match frontend.routes.decide(&headers::View::new(head), rand::random()) {
                Decision::Forward { rule, backend, name, .. } => {
                    seen.routed(rule, &name.service);
                    let cluster = snapshot.cluster(&name.service, name.port).ok_or_else(|| {
                        ProxyError::because(Kind::NoEndpoint, format!("nothing is known of the endpoints of {name}"))
                    })?;
                    // Retries are budgeted where calls are addressed, wherever they then go.
                    let budget = snapshot.cluster(service, *port).unwrap_or(cluster);
                    Ok(Way {
                        cluster,
                        frontend_budget: Some((budget, frontend.retry_budget)),
                        rule: Some(rule),
                        backend: Some(backend),
                        protocol: *protocol,
                    })
                }
                Decision::Unresolved { rule, reason, .. } => {
                    seen.routed(rule, service);
                    Err(ProxyError::because(Kind::UnresolvedBackend, reason.to_owned()))
                }
                Decision::Redirect { rule, .. } | Decision::Preflight { rule, .. } => {
                    seen.routed(rule, service);
                    Err(ProxyError::because(Kind::UnresolvedBackend, "the rule answers by itself".to_owned()))
                }
                Decision::NoRoute => {
                    Err(ProxyError::because(Kind::NoRoute, format!("no route of {service}:{port} matches")))
                }
            }
        }
    }
}

fn limits(way: &Way<'_>, head: &RequestHead, propagated: Deadline, now: Instant) -> Limits {
    let Some(rule) = way.rule else {
        return Limits { head: propagated, whole: propagated, per_try: None, idle: None };
    };
    let streaming = head.upgrade || head.is_grpc() || head.method == http::Method::CONNECT;
    let limit = rule.timeouts.request(streaming);
    let chosen = !matches!(rule.timeouts.request, weft_policy::route::RequestTimeout::Default(_));
    Limits {
        head: propagated.tighten(now, limit),
        whole: if chosen { propagated.tighten(now, limit) } else { propagated },
        per_try: rule.timeouts.backend_request,
        idle: rule.timeouts.idle,
    }
}

/// In which protocol the call travels on: what the endpoint or the port is declared to speak, else what the caller speaks. gRPC is
/// HTTP/2 whatever was declared.
fn wire_protocol(way: &Way<'_>, endpoint: &Endpoint, head: &RequestHead) -> connect::Protocol {
    let native = head.version == Version::Http2;
    match endpoint.protocol.unwrap_or(way.protocol) {
        _ if native && head.is_grpc() => connect::Protocol::Http2,
        // A peer without a name for native streams takes CONNECT streams only.
        _ if endpoint.tunnel.as_ref().is_some_and(|tunnel| tunnel.server_name.is_empty()) => connect::Protocol::Http1,
        // An upgrade in the manner of HTTP/1 has no counterpart on an h2 connection of ours.
        _ if head.upgrade && !native => connect::Protocol::Http1,
        Protocol::Http1 => connect::Protocol::Http1,
        Protocol::Http2 | Protocol::Grpc => connect::Protocol::Http2,
        Protocol::Detect | Protocol::Tcp if native => connect::Protocol::Http2,
        Protocol::Detect | Protocol::Tcp => connect::Protocol::Http1,
    }
}

/// Answers with the error: a reply if none has begun, else the call is broken off in the way its protocol has for it.
async fn refuse(error: &ProxyError, grpc: bool, head: &RequestHead, reply: &mut Reply<'_>, seen: &mut Observation<'_>) {
    if error.kind == Kind::ClientGone {
        reply.reset(ResetCode::Cancel);
        return;
    }
    let sent = if !reply.started() {
        seen.replied(error, grpc);
        reply::local(error, grpc, head, reply).await
    } else if grpc && head.version == Version::Http2 {
        // The status may still be told: better than a reset, which clients read as INTERNAL or CANCELLED.
        seen.outcome.grpc_status = Some(error.grpc_status().into());
        reply.trailers(reply::grpc_trailers(error)).await
    } else {
        reply.reset(ResetCode::Internal);
        Ok(())
    };
    if sent.is_err() {
        reply.reset(ResetCode::Cancel);
    }
}
