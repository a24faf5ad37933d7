//! What is remembered of a call that is traced: its place in the trace, and its attempts, each of which has a span of its own that the next
//! hop is told as its parent.
//!
//! Only calls that are recorded have this; the others keep the headers that they came with. Which calls those are is `telemetry::spans`'.

use super::Peer;
use super::observe::Observation;
use crate::codec::{Headers, Known, RequestHead, Set, Value, Version};
use crate::endpoint::Pick;
use crate::random;
use crate::telemetry::spans::Sampling;
use crate::telemetry::spans::call::{ATTEMPTS, Attempt};
use std::net::IpAddr;
use std::time::{Duration, Instant};
use weft_policy::trace::{self, Context, Formats, Incoming};

pub(super) const B3: Set =
    Set::of(&[Known::B3, Known::B3TraceId, Known::B3SpanId, Known::B3ParentSpanId, Known::B3Sampled, Known::B3Flags]);

/// How an attempt that another one beat to the answer ends.
const SUPERSEDED: &str = "superseded";

/// A call that is recorded.
#[derive(Debug)]
pub(super) struct Traced {
    /// Of the call's own span.
    pub context: Context,
    /// How the next hop is told.
    formats: Formats,
    pub version: &'static str,
    pub client: Option<IpAddr>,
    pub attempts: Vec<Attempt>,
}

/// What the headers say of the trace.
fn read(headers: &Headers) -> Incoming {
    if headers.may_have(B3) {
        trace::read(|name| headers.only(name).map(Value::as_bytes))
    } else {
        trace::read_w3c(headers.only_known(Known::Traceparent).map(Value::as_bytes))
    }
}

/// Continues the trace of a request, or begins one; the context that the next hop is told.
///
/// Where no span of ours stands in between, a trace that came in goes on untouched, and one that begins here is recorded by whoever can.
pub(super) fn proceed(head: &mut RequestHead, peer: Option<&Peer>, seen: &mut Observation<'_>) -> Context {
    let incoming = read(&head.headers);
    match (seen.sampling(), incoming.context) {
        (None, Some(context)) => context,
        (None, None) => {
            let context = incoming.proceed([random::draw(), random::draw(), random::draw()], true);
            begin(&mut head.headers, &context, incoming.formats);
            context
        }
        (Some(sampling), _) => record(head, &incoming, sampling, peer, seen),
    }
}

/// The same of a call that goes nowhere: nobody is told.
pub(super) fn noted(head: &RequestHead, peer: Option<&Peer>, seen: &mut Observation<'_>) -> Option<Context> {
    let incoming = read(&head.headers);
    let Some(sampling) = seen.sampling() else { return incoming.context };
    let context = decide(&incoming, sampling);
    if context.is_sampled() {
        seen.traced = Some(Box::new(Traced::new(context, Formats::default(), head, peer)));
    }
    Some(context)
}

/// A child of what came in, or the beginning of a trace; recorded if its parent is, or if its share of the traces is.
fn decide(incoming: &Incoming, sampling: Sampling) -> Context {
    let [high, low, span] = [random::draw(), random::draw(), random::draw()];
    let id = incoming.context.map_or(u128::from(low), |context| context.trace_id);
    incoming.proceed([high, low, span], sampling.ratio.holds(id))
}

#[inline(never)]
fn record(
    head: &mut RequestHead,
    incoming: &Incoming,
    sampling: Sampling,
    peer: Option<&Peer>,
    seen: &mut Observation<'_>,
) -> Context {
    let context = decide(incoming, sampling);
    let formats = if incoming.formats == Formats::default() { sampling.formats } else { incoming.formats };
    if context.is_sampled() {
        seen.traced = Some(Box::new(Traced::new(context, formats, head, peer)));
    } else if let Some(parent) = incoming.context.filter(|parent| parent.sampled.is_some()) {
        // Decided against by somebody else: the trace passes as if nobody had looked.
        return parent;
    }
    if incoming.context.is_none() {
        begin(&mut head.headers, &context, formats);
    } else {
        context.write(formats, |name, value| head.headers.set_text(&name, value));
    }
    context
}

/// Tells the next hop of a trace that begins here.
fn begin(headers: &mut Headers, context: &Context, formats: Formats) {
    headers.remove_all(Set::of(&[Known::Tracestate]));
    if formats == Formats::default() {
        headers.set_known(Known::Traceparent, trace::traceparent(context).as_bytes());
    } else {
        context.write(formats, |name, value| headers.set_text(&name, value));
    }
}

/// Of which span an attempt is, for the next hop.
#[derive(Clone, Copy, Debug)]
pub(super) struct Parent {
    context: Context,
    formats: Formats,
}

impl Parent {
    /// Tells the next hop.
    pub fn write(&self, headers: &mut Headers) {
        self.context.write(self.formats, |name, value| headers.set_text(&name, value));
    }
}

impl Traced {
    fn new(context: Context, formats: Formats, head: &RequestHead, peer: Option<&Peer>) -> Self {
        let version = match head.version {
            Version::Http10 => "1.0",
            Version::Http11 => "1.1",
            Version::Http2 => "2",
        };
        Self { context, formats, version, client: peer.and_then(|peer| peer.address), attempts: Vec::new() }
    }

    /// An attempt begins at this endpoint, so long after the call.
    pub fn attempt(&mut self, pick: &Pick, from: Duration) -> Option<Box<Parent>> {
        if self.attempts.len() == ATTEMPTS {
            return None;
        }
        let span_id = random::draw().max(1);
        self.attempts.push(Attempt {
            span_id,
            from,
            until: None,
            endpoint: pick.endpoint().uid.clone(),
            address: pick.target().addr,
            status: 0,
            grpc_status: None,
            reason: "",
        });
        let context = Context { span_id, parent_id: Some(self.context.span_id), ..self.context };
        // Boxed: every connection has room for what its calls wait with, and few calls are recorded.
        Some(Box::new(Parent { context, formats: self.formats }))
    }

    /// The attempts that are out have ended, and the call goes on.
    pub fn ended(&mut self, until: Duration, status: u16, grpc_status: Option<u16>, reason: &'static str) {
        for attempt in self.attempts.iter_mut().filter(|attempt| attempt.until.is_none()) {
            (attempt.until, attempt.status) = (Some(until), status);
            (attempt.grpc_status, attempt.reason) = (grpc_status, reason);
        }
    }

    /// Of two attempts that are out the later one has the answer, or the earlier one.
    pub fn superseded(&mut self, until: Duration, later_won: bool) {
        let mut out = self.attempts.iter_mut().rev().filter(|attempt| attempt.until.is_none());
        let (later, earlier) = (out.next(), out.next());
        let loser = if later_won { earlier } else { later };
        if let Some(loser) = loser {
            (loser.until, loser.reason) = (Some(until), SUPERSEDED);
        }
    }
}

impl Observation<'_> {
    /// Which calls are traced; `None`: none.
    fn sampling(&self) -> Option<Sampling> {
        self.telemetry().spans.sampling()
    }

    fn since(&self, at: Instant) -> Duration {
        at.saturating_duration_since(self.began())
    }

    /// An attempt begins here; what its next hop is told, if the call is recorded.
    pub(super) fn attempt(&mut self, pick: &Pick) -> Option<Box<Parent>> {
        self.traced.as_ref()?;
        let from = self.since(super::now());
        self.traced.as_mut()?.attempt(pick, from)
    }

    /// The attempts that are out have ended, and the call goes on.
    pub(super) fn attempt_ended(&mut self, status: u16, grpc_status: Option<u16>, reason: &'static str) {
        if self.traced.is_some() {
            let until = self.since(super::now());
            self.traced.iter_mut().for_each(|traced| traced.ended(until, status, grpc_status, reason));
        }
    }

    /// One of two attempts has the answer.
    pub(super) fn superseded(&mut self, later_won: bool) {
        if self.traced.is_some() {
            let until = self.since(super::now());
            self.traced.iter_mut().for_each(|traced| traced.superseded(until, later_won));
        }
    }
}
