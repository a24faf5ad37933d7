//! Opaque connections: an endpoint, a connection to it, and bytes both ways with half-close until both sides are done or silent too long.
//!
//! An endpoint that cannot be reached is replaced by another before a byte has moved; after that there is nothing to repeat. What makes a
//! connection opaque is decided by `outbound` and `inbound`.

mod copy;
mod splice;

pub use copy::copy;

use super::{Exchange, Peer, Plan};
use crate::codec::Io;
use crate::endpoint::connect::{ConnectionLimit, Target};
use crate::endpoint::{Pick, external};
use crate::error::{Kind, ProxyError};
use crate::listen::detect::{Protocol, Settled, settle};
use crate::random;
use crate::telemetry::access_log::Record;
use crate::telemetry::watch::{Facts, Parties, Ruled};
use crate::telemetry::{Direction, Hop, Key, Outcome as Ended, TcpConnection};
use bytes::BytesMut;
use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};
use weft_policy::breaker::Outcome;
use weft_policy::retry::{Attempt, Failure, Policy, Sent, Verdict};
use weft_policy::route::{Decision, Head};

/// Where nothing else is configured.
const IDLE: Duration = Duration::from_secs(3600);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// A connection to an endpoint on behalf of an opaque one.
pub struct Dialled {
    /// The bytes.
    pub io: Io,
    pick: Option<Pick>,
    idle: Option<Duration>,
    seen: Seen,
}

/// What the log line and the metrics of an opaque connection need.
struct Seen {
    direction: Direction,
    began: Instant,
    source: Arc<str>,
    source_identity: Option<Arc<str>>,
    /// Whom it was addressed to.
    service: Arc<str>,
    /// Whom a route gave it to.
    destination: Arc<str>,
    destination_identity: Option<Arc<str>>,
    endpoint: Arc<str>,
    route: Arc<str>,
    mtls: bool,
    attempts: u32,
    target: Option<SocketAddr>,
    /// The policy that admitted it, and its rule.
    ruling: (Box<str>, Box<str>),
}

impl Seen {
    fn parties(&self) -> Parties<'_> {
        Parties {
            source: &self.source,
            source_identity: self.source_identity.as_deref().unwrap_or_default(),
            destination_identity: self.destination_identity.as_deref().unwrap_or_default(),
            endpoint: &self.endpoint,
            protocol: "tcp",
            authority: "",
            mtls: self.mtls,
        }
    }
}

impl Exchange {
    /// Chooses an endpoint and connects, trying others when one cannot be reached.
    ///
    /// # Errors
    /// What the last attempt ended with; it has been counted and logged.
    pub async fn dial(&self, plan: &Plan<'_>) -> Result<Dialled, ProxyError> {
        let (source, source_identity) = match plan {
            Plan::Outbound { .. } => (Arc::clone(&self.source), Some(Arc::clone(&self.identity))),
            Plan::Inbound { peer: Peer { identity, source, .. }, .. } => (Arc::clone(source), identity.clone()),
        };
        let mut seen = Seen {
            direction: plan.direction(),
            began: now(),
            source,
            mtls: source_identity.is_some() && plan.direction() == Direction::Inbound,
            source_identity,
            service: Arc::clone(plan.service()),
            destination: Arc::clone(plan.service()),
            destination_identity: (plan.direction() == Direction::Inbound).then(|| Arc::clone(&self.identity)),
            endpoint: Arc::default(),
            route: Arc::default(),
            attempts: 0,
            target: None,
            ruling: match plan {
                Plan::Outbound { .. } => Default::default(),
                Plan::Inbound { ruling, .. } => (ruling.policy.into(), ruling.rule.into()),
            },
        };
        self.telemetry.watch.connection(seen.direction, &seen.parties(), &plan.addressed(), seen.began);
        match self.reach(plan, &mut seen).await {
            Ok((io, pick, idle)) => Ok(Dialled { io, pick: Some(pick), idle, seen }),
            Err(error) => {
                self.unreached(&seen, &error);
                Err(error)
            }
        }
    }

    /// Connects to an address that is no service's, for traffic that passes through.
    ///
    /// # Errors
    /// What the attempt ended with; it has been counted and logged.
    pub async fn dial_address(&self, address: SocketAddr) -> Result<Dialled, ProxyError> {
        let seen = Seen {
            direction: Direction::Outbound,
            began: now(),
            source: Arc::clone(&self.source),
            source_identity: None,
            service: Arc::default(),
            destination: Arc::default(),
            destination_identity: None,
            endpoint: Arc::default(),
            route: "passthrough".into(),
            mtls: false,
            attempts: 1,
            target: Some(address),
            ruling: Default::default(),
        };
        let target = Target {
            uid: Arc::default(),
            addr: address,
            tunnel: None,
            connect_timeout: CONNECT_TIMEOUT * 10,
            connections: Arc::new(ConnectionLimit::new(usize::MAX)),
        };
        match self.connector.tcp(&target).await {
            Ok(io) => Ok(Dialled { io, pick: None, idle: Some(IDLE), seen }),
            Err(error) => {
                self.unreached(&seen, &error);
                Err(error)
            }
        }
    }

    /// A client that said nothing in time: dials opaquely, and whichever side speaks first settles what the connection is. An opaque one
    /// is carried to its end; one that turns out to be HTTP is handed back with its first bytes.
    pub async fn settle(
        &self,
        mut client: Io,
        plan: &Plan<'_>,
        revoked: impl Future<Output = ProxyError>,
    ) -> Option<(Io, Protocol)> {
        let Ok(mut dialled) = self.dial(plan).await else {
            client.abort();
            return None;
        };
        let (mut from_client, mut from_upstream) = (BytesMut::new(), BytesMut::new());
        let waiting = settle(&mut client, &mut dialled.io, &mut from_client, &mut from_upstream);
        let idle = dialled.idle.unwrap_or(IDLE);
        let settled = tokio::time::timeout(idle, waiting).await;
        client = client.with_prefix(from_client.freeze());
        dialled.io = dialled.io.with_prefix(from_upstream.freeze());
        match settled {
            Ok(Ok(Settled::Client(protocol @ (Protocol::Http1 | Protocol::Http2)))) => {
                return Some((client, protocol));
            }
            // An end of file that was read here is read again by the copy, and passed on as a half-close.
            Ok(_) => self.carry(client, dialled, revoked).await,
            Err(_) => client.abort(),
        }
        None
    }

    async fn reach(&self, plan: &Plan<'_>, seen: &mut Seen) -> Result<(Io, Pick, Option<Duration>), ProxyError> {
        let (cluster, budget, policy) = match plan {
            Plan::Inbound { cluster, .. } => (*cluster, None, None),
            Plan::Outbound { snapshot, service, port, frontend, tls, .. } => {
                let decision = match tls {
                    Some(name) => frontend.routes.decide_tls(*name, random::draw()),
                    None => frontend.routes.decide_tcp(random::draw()),
                };
                match decision {
                    Decision::Forward { rule, name, .. } => {
                        seen.route = Arc::clone(&rule.route);
                        seen.destination = Arc::clone(&name.service);
                        let cluster = snapshot.cluster(&name.service, name.port).ok_or_else(|| {
                            ProxyError::because(
                                Kind::NoEndpoint,
                                format!("nothing is known of the endpoints of {name}"),
                            )
                        })?;
                        let owner = snapshot.cluster(service, *port).unwrap_or(cluster);
                        let budget = owner.budget(frontend.retry_budget, now());
                        budget.deposit(now());
                        (cluster, Some(budget), Some(Arc::clone(&rule.retry)))
                    }
                    Decision::Unresolved { reason, .. } => {
                        return Err(ProxyError::because(Kind::UnresolvedBackend, reason.to_owned()));
                    }
                    Decision::NoRoute | Decision::Redirect { .. } | Decision::Preflight { .. } => {
                        return Err(ProxyError::because(
                            Kind::NoRoute,
                            format!("{service}:{port} has no route for opaque connections"),
                        ));
                    }
                }
            }
        };
        // A connection has an address to hash, and nothing else.
        let key = cluster.key(&Head::new("", "", &http::HeaderMap::new()), self.address);
        let mut tried: Vec<Arc<str>> = Vec::new();
        external::first_answer(cluster).await;
        loop {
            let mut pick = cluster.pick_keyed(now(), &mut random::draw, &tried, key)?;
            seen.attempts += 1;
            seen.endpoint = Arc::clone(&pick.endpoint().uid);
            if seen.direction == Direction::Outbound {
                seen.mtls = pick.is_mtls();
                seen.destination_identity = pick.endpoint().tunnel.as_ref().map(|t| Arc::clone(&t.identity));
            }
            pick.connecting()?;
            let connected = self.connector.tcp(pick.target()).await;
            pick.connected();
            let error = match connected {
                Ok(io) => {
                    pick.answered(now());
                    pick.report(Outcome::Success, now(), random::draw());
                    // A connection may last for days: from here on it is a connection, not a call.
                    pick.release_call();
                    return Ok((io, pick, cluster.backend().tcp_idle_timeout));
                }
                Err(error) => error,
            };
            pick.unanswered(now());
            if error.blames_endpoint() {
                pick.report(Outcome::Failure, now(), random::draw());
            }
            let (Some(budget), Some(policy)) = (budget, &policy) else { return Err(error) };
            let after = retry_after(policy, budget, &error, seen.attempts - 1).ok_or(error)?;
            self.telemetry.retries.with(&[&seen.destination, &seen.route, "connect"]).increment();
            tried.push(Arc::clone(&pick.endpoint().uid));
            drop(pick);
            tokio::time::sleep(after).await;
        }
    }

    fn unreached(&self, seen: &Seen, error: &ProxyError) {
        tracing::debug!(destination = %seen.destination, "no connection: {error}");
        let mut connection = self.series(seen).tcp_opened();
        connection.close(error.label());
        self.log(seen, (0, 0), error.label(), &error.explanation());
    }

    fn series(&self, seen: &Seen) -> Arc<crate::telemetry::Series> {
        self.telemetry.series(&Key {
            direction: seen.direction,
            source: &seen.source,
            addressed: if seen.service == seen.destination { "" } else { &seen.service },
            destination: &seen.destination,
            endpoint: if seen.direction == Direction::Outbound { &seen.endpoint } else { "" },
            route: &seen.route,
            protocol: "tcp",
            hop: match seen.direction {
                Direction::Outbound if seen.attempts == 0 => Hop::None,
                _ => Hop::of(seen.mtls),
            },
        })
    }

    /// Carries bytes between `client` and what was dialled until both are done, silence lasts too long, or `revoked` says that the
    /// connection may no longer be.
    pub async fn carry(&self, client: Io, dialled: Dialled, revoked: impl Future<Output = ProxyError>) {
        let Dialled { io: mut upstream, pick, idle, seen } = dialled;
        let (sent, received) = (AtomicU64::new(0), AtomicU64::new(0));
        let mut end =
            End { exchange: self, seen: &seen, sent: &sent, received: &received, connection: None, error: None };
        let mut client = client;
        let connection = end.connection.insert(self.series(&seen).tcp_opened());
        let moved = |down: u64, up: u64| {
            sent.fetch_add(down, Relaxed);
            received.fetch_add(up, Relaxed);
            connection.sent(down);
            connection.received(up);
        };
        let result = tokio::select! {
            result = copy(&mut client, &mut upstream, idle, moved) => result,
            error = revoked => Err(error),
        };
        if let Err(error) = result {
            // The other side must learn that this is no orderly end.
            client.abort();
            upstream.abort();
            end.error = Some(error);
        } else {
            end.error = None;
        }
        end.orderly();
        drop(pick);
    }

    /// Shows the end of a connection to taps and in the log.
    fn log(&self, seen: &Seen, (sent, received): (u64, u64), reason: &'static str, detail: &str) {
        if self.telemetry.watch.is_tapped() {
            self.show(seen, (sent, received), reason);
        }
        if !self.telemetry.log.is_on() {
            return;
        }
        let target = seen.target.map(|target| target.to_string()).unwrap_or_default();
        self.telemetry.log.write(&Record {
            kind: "tcp",
            direction: seen.direction.name(),
            source: &seen.source,
            source_identity: seen.source_identity.as_deref().unwrap_or_default(),
            destination: &seen.destination,
            destination_identity: seen.destination_identity.as_deref().unwrap_or_default(),
            endpoint: &seen.endpoint,
            authority: target.as_bytes(),
            protocol: "tcp",
            mtls: seen.mtls,
            route: &seen.route,
            attempts: seen.attempts,
            bytes_sent: sent,
            bytes_received: received,
            duration: now().saturating_duration_since(seen.began),
            policy: &seen.ruling.0,
            rule: &seen.ruling.1,
            reason,
            detail,
            ..Record::default()
        });
    }
}

impl Exchange {
    #[cold]
    fn show(&self, seen: &Seen, (sent, received): (u64, u64), reason: &'static str) {
        let ended = now();
        let duration = ended.saturating_duration_since(seen.began);
        let outcome = Ended { reason, duration, attempts: seen.attempts, received, sent, ..Ended::default() };
        let (source, destination) = (&*seen.source, &*seen.destination);
        let facts = Facts { direction: seen.direction, source, destination, method: "", path: "", outcome };
        let ruled = Ruled {
            route: &seen.route,
            verdict: if seen.ruling.0.is_empty() { "" } else { "allow" },
            policy: &seen.ruling.0,
            rule: &seen.ruling.1,
            trace_id: 0,
            request_id: "",
            ended,
        };
        self.telemetry.watch.closed(&seen.parties(), &facts, &ruled);
    }
}

/// Records the end of a connection when it is dropped, however it ended.
struct End<'e> {
    exchange: &'e Exchange,
    seen: &'e Seen,
    sent: &'e AtomicU64,
    received: &'e AtomicU64,
    connection: Option<TcpConnection>,
    error: Option<ProxyError>,
}

impl End<'_> {
    fn orderly(mut self) {
        let (reason, detail) = match &self.error {
            None => ("", String::new()),
            Some(error) => (error.label(), error.explanation().into_owned()),
        };
        self.record(reason, &detail);
    }

    fn record(&mut self, reason: &'static str, detail: &str) {
        if let Some(mut connection) = self.connection.take() {
            connection.close(reason);
            let bytes = (self.sent.load(Relaxed), self.received.load(Relaxed));
            self.exchange.log(self.seen, bytes, reason, detail);
        }
    }
}

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.record("cut", "the sidecar shut down, or the tunnel around it broke");
    }
}

fn retry_after(
    policy: &Policy,
    budget: &weft_policy::retry::Budget,
    error: &ProxyError,
    retries: u32,
) -> Option<Duration> {
    if !error.retryable() {
        return None;
    }
    let attempt = Attempt {
        method: &http::Method::CONNECT,
        sent: Sent::No,
        failure: Failure::Transport,
        retries,
        replayable: true,
        retry_after: None,
    };
    let random = crate::endpoint::cluster::unit(random::draw());
    match policy.judge(&attempt, budget, None, now(), random) {
        Verdict::Retry { after } => Some(after),
        Verdict::Stop(_) => None,
    }
}

fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}
