//! What is seen of one call: its metrics and its log line, recorded when the observation is dropped, whichever way the call ended.
//!
//! Cheap until the end: the parts are shared buffers and handles of configuration. Names of metrics and fields are `telemetry`'s.

use super::stream::Flow;
use super::web;
use super::{Exchange, Peer, Plan, Ruling};
use crate::codec::{ByteStr, Grpc, RequestHead, Version};
use crate::endpoint::Pick;
use crate::error::{Kind, ProxyError};
use crate::telemetry::access_log::Record;
use crate::telemetry::{Direction, Key, Outcome};
use http::{HeaderValue, Method};
use std::sync::Arc;
use std::time::Instant;
use weft_policy::route::{HeaderEdit, Rule};
use weft_policy::text::Text;

/// One call as the telemetry will know it.
pub struct Observation<'e> {
    exchange: &'e Exchange,
    flow: &'e Flow,
    began: Instant,
    direction: Direction,
    source: Arc<str>,
    source_identity: Option<Arc<str>>,
    destination: Arc<str>,
    route: Arc<str>,
    protocol: &'static str,
    grpc: Option<Grpc>,
    mtls: bool,
    ruling: Ruling<'e>,
    endpoint: Option<Arc<str>>,
    destination_identity: Option<Arc<str>>,
    method: Method,
    authority: Option<ByteStr>,
    path: ByteStr,
    /// W3C trace id; 0: none.
    pub trace_id: u128,
    /// `x-request-id`.
    pub request_id: Text<128>,
    /// What is recorded.
    pub outcome: Outcome,
    detail: String,
    finished: bool,
    hedged: bool,
    ended: Option<Instant>,
    /// What policy adds to every answer, the proxy's own included.
    pub(super) marks: Option<Box<HeaderEdit>>,
    /// An answer in gRPC-Web that broke off between two messages: its status may still be told.
    pub(super) unfinished: Option<Box<web::Answer>>,
}

impl<'e> Observation<'e> {
    pub(super) fn begin(exchange: &'e Exchange, plan: &Plan<'e>, head: &RequestHead, flow: &'e Flow) -> Self {
        let mut seen = Self::unrouted(exchange, plan.direction(), head, flow);
        seen.destination = Arc::clone(plan.service());
        if let Plan::Inbound { peer, ruling, .. } = plan {
            seen.called_by(peer);
            seen.ruling = *ruling;
        }
        seen
    }

    /// A call that is answered before anybody knows where it goes. Its destination stays empty: what a caller wrote is no label.
    pub(super) fn unrouted(exchange: &'e Exchange, direction: Direction, head: &RequestHead, flow: &'e Flow) -> Self {
        let grpc = head.grpc();
        let outbound = direction == Direction::Outbound;
        let protocol = match (grpc, head.version) {
            (Some(Grpc::Native), _) => "grpc",
            (Some(Grpc::Web(_)), _) => "grpc-web",
            _ if head.is_websocket() => "websocket",
            (None, Version::Http2) => "http2",
            (None, _) => "http1",
        };
        Self {
            exchange,
            flow,
            began: tokio::time::Instant::now().into_std(),
            direction,
            source: if outbound { Arc::clone(&exchange.source) } else { Arc::default() },
            source_identity: outbound.then(|| Arc::clone(&exchange.identity)),
            destination: Arc::default(),
            route: Arc::default(),
            protocol,
            grpc,
            mtls: false,
            ruling: Ruling::default(),
            endpoint: None,
            destination_identity: None,
            method: head.method.clone(),
            authority: head.authority.clone(),
            path: head.path.clone(),
            trace_id: 0,
            request_id: Text::new(),
            outcome: Outcome::default(),
            detail: String::new(),
            finished: false,
            hedged: false,
            ended: None,
            marks: None,
            unfinished: None,
        }
    }

    /// The call comes from this peer.
    pub(super) fn called_by(&mut self, peer: &Peer) {
        self.source = Arc::clone(&peer.source);
        self.source_identity.clone_from(&peer.identity);
        self.mtls = peer.identity.is_some();
    }

    /// What let the call in, or kept it out.
    pub(super) const fn ruled(&mut self, ruling: Ruling<'e>) {
        self.ruling = ruling;
    }

    /// What the answer says of it.
    pub(super) fn mark(&self) -> Option<HeaderValue> {
        self.ruling.mark()
    }

    /// What moved.
    pub(super) const fn flow(&self) -> &'e Flow {
        self.flow
    }

    /// A route was found, and a backend of it drawn.
    pub(super) fn routed(&mut self, rule: &Rule, destination: &Arc<str>) {
        self.route = Arc::clone(&rule.route);
        self.destination = Arc::clone(destination);
    }

    /// Another backend stands in for the one that was drawn.
    pub(super) fn stood_in(&mut self, destination: &Arc<str>) {
        self.destination = Arc::clone(destination);
    }

    /// The answer is that of a second attempt at this endpoint.
    pub(super) fn hedged(&mut self, pick: &Pick) {
        self.picked(pick);
        self.outcome.attempts -= 1;
        self.hedged = true;
    }

    /// Whether the answer is that of a second attempt.
    pub(super) const fn is_hedged(&self) -> bool {
        self.hedged
    }

    /// An attempt begins at this endpoint.
    pub(super) fn picked(&mut self, pick: &Pick) {
        self.outcome.attempts += 1;
        self.endpoint = Some(Arc::clone(&pick.endpoint().uid));
        if self.direction == Direction::Outbound {
            self.mtls = pick.is_mtls();
            self.destination_identity = pick.endpoint().tunnel.as_ref().map(|tunnel| Arc::clone(&tunnel.identity));
        }
    }

    /// The attempt failed and another follows, or policy would have wanted one.
    pub(super) fn retried(&self, reason: &str, denied: bool) {
        let telemetry = &self.exchange.telemetry;
        let family = if denied { &telemetry.retries_denied } else { &telemetry.retries };
        family.with(&[&self.destination, &self.route, reason]).increment();
    }

    /// The response head that the caller gets.
    pub(super) fn answered(&mut self, status: u16) {
        self.outcome.status = status;
    }

    /// The call ended with an error.
    pub fn failed(&mut self, error: &ProxyError) {
        self.outcome.reason = error.label();
        if self.exchange.telemetry.log.is_on() {
            self.detail = error.explanation().into_owned();
        }
        if !matches!(error.kind, Kind::ClientGone) {
            tracing::debug!(destination = %self.destination, endpoint = ?self.endpoint, "call failed: {error}");
        }
        self.finished = true;
    }

    /// The proxy itself answers.
    pub(super) fn replied(&mut self, error: &ProxyError, grpc: bool) {
        if grpc {
            self.outcome.status = 200;
            self.outcome.grpc_status = Some(error.grpc_status().into());
        } else {
            self.outcome.status = error.status().as_u16();
        }
    }

    /// The call came to its end as it should.
    pub(super) fn completed(&mut self) {
        self.finished = true;
    }

    /// When the call began.
    pub(super) const fn began(&self) -> Instant {
        self.began
    }

    /// When its last byte went out, if that is known before the observation is dropped.
    pub(super) const fn ended(&mut self, at: Instant) {
        self.ended = Some(at);
    }

    /// What kind of gRPC the call is, if any.
    pub(super) const fn grpc(&self) -> Option<Grpc> {
        self.grpc
    }
}

impl Drop for Observation<'_> {
    fn drop(&mut self) {
        if !self.finished && self.outcome.reason.is_empty() {
            // The codec dropped the call with its connection.
            self.outcome.reason = Kind::ClientGone.row().label;
        }
        let ended = self.ended.unwrap_or_else(|| tokio::time::Instant::now().into_std());
        self.outcome.duration = ended.saturating_duration_since(self.began);
        (self.outcome.received, self.outcome.sent) = self.flow.bytes();
        let endpoint = self.endpoint.as_deref().unwrap_or_default();
        let telemetry = &self.exchange.telemetry;
        let key = Key {
            direction: self.direction,
            source: &self.source,
            destination: &self.destination,
            endpoint: if self.direction == Direction::Outbound { endpoint } else { "" },
            route: &self.route,
            protocol: self.protocol,
            mtls: self.mtls,
        };
        let series = telemetry.series(&key);
        series.call(&self.outcome);
        if !telemetry.log.is_on() {
            return;
        }
        let trace = weft_policy::trace::trace_id_text(self.trace_id);
        telemetry.log.write(&Record {
            kind: "call",
            setting: series.setting_of(&key),
            direction: self.direction.name(),
            trace_id: if self.trace_id == 0 { b"" } else { trace.as_bytes() },
            request_id: self.request_id.as_bytes(),
            source: &self.source,
            destination: &self.destination,
            endpoint,
            source_identity: self.source_identity.as_deref().unwrap_or_default(),
            destination_identity: match self.direction {
                Direction::Outbound => self.destination_identity.as_deref().unwrap_or_default(),
                Direction::Inbound => &self.exchange.identity,
            },
            method: self.method.as_str(),
            authority: self.authority.as_ref().map_or(b"", ByteStr::as_bytes),
            path: self.path.as_bytes(),
            protocol: self.protocol,
            mtls: self.mtls,
            route: &self.route,
            attempts: self.outcome.attempts,
            status: (self.outcome.status != 0).then_some(self.outcome.status),
            grpc_status: self.outcome.grpc_status,
            bytes_received: self.outcome.received,
            bytes_sent: self.outcome.sent,
            duration: self.outcome.duration,
            policy: self.ruling.policy,
            rule: self.ruling.rule,
            reason: self.outcome.reason,
            detail: &self.detail,
        });
    }
}
