//! What a call's headers gain and lose on their way: the trust rule of `weft-*`, trace context, request id, deadline, a route's edits.
//!
//! Invariant: no `weft-*` header of a caller without a mesh identity gets past here, and none reaches an application. A deadline that a
//! caller passes on may only tighten, so it is believed from anybody who may call at all.

use super::Plan;
use super::observe::Observation;
use crate::codec::{Headers, RequestHead, ResponseHead};
use crate::endpoint::hbone::SOURCE;
use http::header::{self, HeaderName};
use weft_policy::deadline::{self, Deadline};
use weft_policy::limit::adaptive::PRIORITY;
use weft_policy::route::{HeaderEdit, Request, split_target};
use weft_policy::trace;

/// Value: the `weft-error` text of the table. On every answer of a proxy itself.
pub const WEFT_ERROR: HeaderName = HeaderName::from_static("weft-error");
/// On an answer of a peer's sidecar: its application certainly did not see the request, so it may be sent again.
pub const WEFT_UNSENT: HeaderName = HeaderName::from_static("weft-unsent");

/// Does the name belong to the mesh?
fn is_ours(name: &HeaderName) -> bool {
    name.as_str().starts_with("weft-")
}

/// Makes a request ready for the next hop and returns the deadline that its caller passed on.
pub(super) fn prepare(head: &mut RequestHead, plan: &Plan<'_>, seen: &mut Observation<'_>) -> Deadline {
    let now = tokio::time::Instant::now().into_std();
    let headers = &mut head.headers;
    headers.strip_hop_by_hop();
    headers.remove(&header::PROXY_AUTHORIZATION);
    // The codec answers `100-continue` itself when the body is first asked for.
    headers.remove(&header::EXPECT);
    let trusted = match plan {
        Plan::Outbound { .. } => true,
        Plan::Inbound { peer, .. } => peer.identity.is_some(),
    };
    let passed_on = headers.get(&deadline::WEFT_DEADLINE_MS).filter(|_| trusted);
    let mut until = Deadline::NEVER;
    if let Some(left) = passed_on.and_then(|value| deadline::parse_weft_deadline(value.as_bytes())) {
        until = until.tighten(now, Some(left));
    }
    if let Some(left) =
        headers.get(&deadline::GRPC_TIMEOUT).and_then(|value| deadline::parse_grpc_timeout(value.as_bytes()))
    {
        until = until.tighten(now, Some(left));
    }
    // What the application says of its call's priority goes on to the peer's sidecar; what a peer said has been heard already.
    let own = matches!(plan, Plan::Outbound { .. });
    headers.retain(|name, _| !is_ours(name) || (own && *name == PRIORITY));
    trace_context(headers, seen);
    until
}

/// A trace that came in goes on untouched, since no span of ours stands in between; a call without one starts it here.
fn trace_context(headers: &mut Headers, seen: &mut Observation<'_>) {
    let incoming = trace::read(|name| only_value(headers, name));
    let context = match incoming.context {
        Some(context) => context,
        None => {
            let context = incoming.proceed([rand::random(), rand::random(), rand::random()], true);
            headers.remove(&TRACESTATE);
            context.write(incoming.formats, |name, value| {
                headers.set_text(name, value);
            });
            context
        }
    };
    seen.trace_id = context.trace_id;
    match headers.get(&trace::REQUEST_ID) {
        Some(id) if trace::is_request_id(id.as_bytes()) => seen.request_id = Some(id.clone()),
        _ => {
            let id = trace::request_id([rand::random(), rand::random()]);
            seen.request_id = headers.set_text(trace::REQUEST_ID, &id);
        }
    }
}

const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");

/// The value of a header that occurs once.
fn only_value<'h>(headers: &'h Headers, name: &HeaderName) -> Option<&'h [u8]> {
    let mut found = None;
    for field in headers.iter().filter(|field| field.name == name) {
        if found.is_some() {
            return None;
        }
        found = Some(field.value.as_bytes());
    }
    found
}

/// What the next hop is told: how much time is left, and between sidecars who calls. `trusted`: the next hop is a peer's sidecar.
pub(super) fn address(head: &mut RequestHead, trusted: bool, native: bool, source: &str, until: Deadline) {
    let now = tokio::time::Instant::now().into_std();
    let grpc = head.is_grpc();
    match until.remaining(now) {
        Some(left) if grpc => {
            head.headers.set_text(deadline::GRPC_TIMEOUT, &deadline::format_grpc_timeout(left));
        }
        Some(left) if trusted => {
            head.headers.set_text(deadline::WEFT_DEADLINE_MS, &deadline::format_weft_deadline(left));
        }
        _ => {}
    }
    if !trusted {
        head.headers.remove(&deadline::WEFT_DEADLINE_MS);
        head.headers.remove(&PRIORITY);
    }
    if trusted && native {
        head.headers.set_text(SOURCE, source);
    } else {
        head.headers.remove(&SOURCE);
    }
}

/// Makes a response ready for the caller: `weft-*` of an application are its own invention, those of a peer's sidecar explain an error.
pub(super) fn answer(head: &mut ResponseHead, trusted: bool) {
    if head.status != http::StatusCode::SWITCHING_PROTOCOLS {
        head.headers.strip_hop_by_hop();
    }
    head.headers.retain(|name, _| !is_ours(name) || (trusted && *name == WEFT_ERROR));
}

/// Applies a route's header edits: removed first, then set, then added.
pub(super) fn edit(headers: &mut Headers, edits: &[HeaderEdit]) {
    for edit in edits {
        for name in &edit.remove {
            headers.remove(name);
        }
        for (name, value) in &edit.set {
            headers.set(name.clone(), value.clone());
        }
        for (name, value) in &edit.add {
            headers.append(name.clone(), value.clone());
        }
    }
}

/// A request head as routing looks at it.
pub struct View<'h> {
    head: &'h RequestHead,
    path: &'h str,
    query: Option<&'h str>,
}

impl<'h> View<'h> {
    /// Looks at `head`.
    #[must_use]
    pub fn new(head: &'h RequestHead) -> Self {
        let (path, query) = split_target(&head.path);
        Self { head, path, query }
    }
}

impl Request for View<'_> {
    fn method(&self) -> &str {
        self.head.method.as_str()
    }

    fn path(&self) -> &str {
        self.path
    }

    fn query(&self) -> Option<&str> {
        self.query
    }

    fn any_header(&self, name: &HeaderName, test: &mut dyn FnMut(&[u8]) -> bool) -> bool {
        if *name == header::HOST {
            return self.head.authority.as_ref().is_some_and(|authority| test(authority.as_bytes()));
        }
        self.head.headers.get_all(name).any(|value| test(value.as_bytes()))
    }
}
