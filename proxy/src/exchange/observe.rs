//! What is seen of one call: its metrics and its log line, recorded when the observation is dropped, whichever way the call ended.
//!
//! Cheap until the end: the parts are shared buffers and handles of configuration. Names of metrics and fields are `telemetry`'s.

use super::stream::Flow;
use super::traced::{Parent, Traced};
use super::web;
use super::{Exchange, Peer, Plan, Ruling};
use crate::codec::{ByteStr, Grpc, RequestHead, ResponseHead, Version};
use crate::endpoint::Pick;
use crate::error::{Kind, ProxyError};
use crate::telemetry::access_log::Record;
use crate::telemetry::spans::call::{Call, bounded};
use crate::telemetry::watch::{Draft, Facts, Parties, Ruled};
use crate::telemetry::{Direction, Hop, Key, Outcome, Series, Telemetry, redact};
use http::{HeaderValue, Method};
use std::sync::Arc;
use std::time::{Instant, SystemTime};
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
    /// Where a route or a fallback gave the call to another than it was addressed to.
    addressed: Option<Arc<str>>,
    destination: Arc<str>,
    route: Arc<str>,
    protocol: &'static str,
    grpc: Option<Grpc>,
    mtls: bool,
    ruling: Ruling<'e>,
    endpoint: Option<Arc<str>>,
    destination_identity: Option<Arc<str>>,
    method: Method,
    version: Version,
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
    /// What taps and summaries are to know, while somebody looks.
    draft: Option<Box<Draft>>,
    /// What policy adds to every answer, the proxy's own included.
    pub(super) marks: Option<Box<HeaderEdit>>,
    /// An answer in gRPC-Web that broke off between two messages: its status may still be told.
    pub(super) unfinished: Option<Box<web::Answer>>,
    /// Only of a call that is recorded.
    pub(super) traced: Option<Box<Traced>>,
}

impl<'e> Observation<'e> {
    pub(super) fn begin(exchange: &'e Exchange, plan: &Plan<'e>, head: &RequestHead, flow: &'e Flow) -> Self {
        let mut seen = Self::unrouted(exchange, plan.direction(), head, flow);
        seen.destination = Arc::clone(plan.service());
        if let Some(draft) = &mut seen.draft {
            draft.addressed(&exchange.telemetry.watch, &plan.addressed(), head);
        }
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
        let began = tokio::time::Instant::now().into_std();
        Self {
            exchange,
            flow,
            began,
            direction,
            source: if outbound { Arc::clone(&exchange.source) } else { Arc::default() },
            source_identity: outbound.then(|| Arc::clone(&exchange.identity)),
            addressed: None,
            destination: Arc::default(),
            route: Arc::default(),
            protocol,
            grpc,
            mtls: false,
            ruling: Ruling::default(),
            endpoint: None,
            destination_identity: None,
            method: head.method.clone(),
            version: head.version,
            authority: head.authority.clone(),
            path: head.path.clone(),
            trace_id: 0,
            request_id: Text::new(),
            outcome: Outcome::default(),
            detail: String::new(),
            finished: false,
            hedged: false,
            ended: None,
            draft: exchange.telemetry.watch.begin(direction, head, began),
            marks: None,
            unfinished: None,
            traced: None,
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
        self.given_to(destination);
    }

    /// Another backend stands in for the one that was drawn.
    pub(super) fn stood_in(&mut self, destination: &Arc<str>) {
        self.given_to(destination);
    }

    fn given_to(&mut self, destination: &Arc<str>) {
        if *self.destination != **destination {
            let before = std::mem::replace(&mut self.destination, Arc::clone(destination));
            self.addressed.get_or_insert(before);
        }
    }

    /// The answer is that of a second attempt at this endpoint.
    pub(super) fn hedged(&mut self, pick: &Pick) {
        self.attempted(0, "hedged");
        self.heads_for(pick);
        self.hedged = true;
    }

    /// Whether the answer is that of a second attempt.
    pub(super) const fn is_hedged(&self) -> bool {
        self.hedged
    }

    /// An attempt begins at this endpoint.
    pub(super) fn picked(&mut self, pick: &Pick) -> Option<Box<Parent>> {
        self.outcome.attempts += 1;
        self.heads_for(pick);
        // The application is told of the call: nothing of ours stands between the two.
        if self.direction == Direction::Outbound { self.attempt(pick) } else { None }
    }

    /// The answer, if there is one, is this endpoint's.
    fn heads_for(&mut self, pick: &Pick) {
        self.endpoint = Some(Arc::clone(&pick.endpoint().uid));
        if let Some(draft) = &mut self.draft {
            draft.attempts(&pick.endpoint().uid);
        }
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

    /// The attempt that is out has its response head (`status`), or is given up.
    pub(super) fn attempted(&mut self, status: u16, reason: &'static str) {
        if let Some(draft) = &mut self.draft {
            draft.attempted(status, reason);
        }
    }

    /// The response head that the caller gets.
    pub(super) fn answered(&mut self, head: &ResponseHead) {
        self.outcome.status = head.status.as_u16();
        if let Some(draft) = &mut self.draft {
            draft.answered(&head.headers);
        }
    }

    /// The call ended with an error.
    pub fn failed(&mut self, error: &ProxyError) {
        self.outcome.reason = error.label();
        if self.exchange.telemetry.log.is_on() || self.traced.is_some() {
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

    /// Where it is told.
    pub(super) fn telemetry(&self) -> &'e Telemetry {
        &self.exchange.telemetry
    }

    /// When the call began.
    pub(super) const fn began(&self) -> Instant {
        self.began
    }

    /// When its last byte went out, if that is known before the observation is dropped.
    pub(super) const fn ended(&mut self, at: Instant) {
        self.ended = Some(at);
    }

    /// Whom the call is to. One that is turned away is addressed to nobody in metrics, whose labels a caller must not choose; to people who read
    /// of it, it is to the port's service.
    fn called(&self) -> &str {
        match self.ruling.service {
            Some(service) if self.destination.is_empty() => service,
            _ => &self.destination,
        }
    }

    /// Tells taps and summaries of the call.
    #[cold]
    fn show(&self, draft: Draft, ended: Instant) {
        let Ruling { verdict, policy, rule, .. } = self.ruling;
        let destination = self.called();
        let parties = Parties {
            source: &self.source,
            source_identity: self.source_identity.as_deref().unwrap_or_default(),
            destination_identity: match self.direction {
                Direction::Outbound => self.destination_identity.as_deref().unwrap_or_default(),
                Direction::Inbound => &self.exchange.identity,
            },
            endpoint: self.endpoint.as_deref().unwrap_or_default(),
            protocol: self.protocol,
            authority: self.authority.as_ref().map_or("", ByteStr::as_str),
            mtls: self.mtls,
        };
        let facts = Facts {
            direction: self.direction,
            source: &self.source,
            destination,
            method: self.method.as_str(),
            path: self.path.as_str(),
            outcome: self.outcome,
        };
        let request_id = self.request_id.as_str();
        let verdict = verdict.name();
        let ruled = Ruled { route: &self.route, verdict, policy, rule, trace_id: self.trace_id, request_id, ended };
        self.exchange.telemetry.watch.ended(draft, &parties, &facts, &ruled);
    }

    /// What the call crossed: nothing, if no endpoint was ever picked for it.
    const fn hop(&self) -> Hop {
        match (self.direction, &self.endpoint) {
            (Direction::Outbound, None) => Hop::None,
            _ => Hop::of(self.mtls),
        }
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
            // A fallback may give it back.
            addressed: self.addressed.as_deref().filter(|service| **service != *self.destination).unwrap_or_default(),
            destination: &self.destination,
            endpoint: if self.direction == Direction::Outbound { endpoint } else { "" },
            route: &self.route,
            protocol: self.protocol,
            hop: self.hop(),
        };
        let series = telemetry.series(&key);
        series.call(&self.outcome);
        if let Some(draft) = self.draft.take() {
            self.show(*draft, ended);
        }
        if telemetry.log.is_on() {
            self.log(&key, &series);
        }
        if let Some(traced) = self.traced.take() {
            series.exemplify(self.outcome.duration, traced.context.trace_id);
            let call = self.span(*traced);
            telemetry.spans.push(Box::new(call));
        }
    }
}

impl Observation<'_> {
    /// One line.
    fn log(&self, key: &Key<'_>, series: &Series) {
        let trace = weft_policy::trace::trace_id_text(self.trace_id);
        self.exchange.telemetry.log.write(&Record {
            kind: "call",
            setting: if self.called() == &*self.destination { series.setting_of(key) } else { b"" },
            direction: self.direction.name(),
            trace_id: if self.trace_id == 0 { b"" } else { trace.as_bytes() },
            request_id: self.request_id.as_bytes(),
            source: &self.source,
            destination: self.called(),
            endpoint: self.endpoint.as_deref().unwrap_or_default(),
            source_identity: self.source_identity.as_deref().unwrap_or_default(),
            destination_identity: match self.direction {
                Direction::Outbound => self.destination_identity.as_deref().unwrap_or_default(),
                Direction::Inbound => &self.exchange.identity,
            },
            method: self.method.as_str(),
            version: match self.version {
                Version::Http10 => "HTTP/1.0",
                Version::Http11 => "HTTP/1.1",
                Version::Http2 => "HTTP/2.0",
            },
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

    /// What its spans are made of.
    fn span(&mut self, traced: Traced) -> Call {
        let Traced { context, version, client, attempts, .. } = traced;
        let ago = self.began.elapsed();
        Call {
            context,
            direction: self.direction,
            began: SystemTime::now().checked_sub(ago).unwrap_or(SystemTime::UNIX_EPOCH),
            source: std::mem::take(&mut self.source),
            destination: std::mem::take(&mut self.destination),
            route: std::mem::take(&mut self.route),
            source_identity: self.source_identity.take(),
            destination_identity: match self.direction {
                Direction::Outbound => self.destination_identity.take(),
                Direction::Inbound => Some(Arc::clone(&self.exchange.identity)),
            },
            protocol: self.protocol,
            version,
            method: self.method.clone(),
            authority: bounded(self.authority.as_ref().map_or(b"", ByteStr::as_bytes)),
            target: bounded(&redact::target(self.path.as_bytes())),
            request_id: bounded(self.request_id.as_bytes()),
            client,
            mtls: self.mtls,
            verdict: self.ruling.verdict.name(),
            policy: self.ruling.policy.into(),
            rule: self.ruling.rule.into(),
            outcome: self.outcome,
            detail: bounded(self.detail.as_bytes()),
            attempts,
        }
    }
}
