//! What a call's headers gain and lose on their way: the trust rule of `weft-*`, trace context, request id, deadline, a route's edits.
//!
//! Invariant: no `weft-*` header of a caller without a mesh identity gets past here, and none reaches an application. A deadline that a
//! caller passes on may only tighten, so it is believed from anybody who may call at all.

use super::observe::Observation;
use super::{Peer, Plan, traced};
use crate::codec::{ByteStr, Headers, Known, RequestHead, ResponseHead, Set, Value};
use crate::random;
use http::header::{self, HeaderName};
use std::time::Instant;
use weft_policy::deadline::{self, Deadline};
use weft_policy::route::{HeaderEdit, Request, split_target};
use weft_policy::text::Text;
use weft_policy::trace;

/// Value: the `weft-error` text of the table. On every answer of a proxy itself.
pub const WEFT_ERROR: HeaderName = HeaderName::from_static("weft-error");
/// On an answer of a peer's sidecar: its application certainly did not see the request, so it may be sent again.
pub const WEFT_UNSENT: HeaderName = HeaderName::from_static("weft-unsent");

/// Which rule decided on a call: `deny shop/readers rules[0]`. On answers of a sidecar whose policies ask for it.
pub const WEFT_AUTHORIZATION: HeaderName = HeaderName::from_static("weft-authorization");

/// Names that belong to the mesh.
const OURS: Set =
    Set::of(&[Known::WeftDeadlineMs, Known::WeftSource, Known::WeftError, Known::WeftUnsent, Known::WeftAuthorization])
        .and(Set::OTHER_WEFT);

/// Makes a request ready for the next hop and returns the deadline that its caller passed on.
pub(super) fn prepare(head: &mut RequestHead, plan: &Plan<'_>, seen: &mut Observation<'_>, now: Instant) -> Deadline {
    let headers = &mut head.headers;
    headers.strip_hop_by_hop();
    let trusted = match plan {
        Plan::Outbound { .. } => true,
        Plan::Inbound { peer, .. } => peer.identity.is_some(),
    };
    let passed_on = headers.known(Known::WeftDeadlineMs).filter(|_| trusted);
    let mut until = Deadline::NEVER;
    if let Some(left) = passed_on.and_then(|value| deadline::parse_weft_deadline(value.as_bytes())) {
        until = until.tighten(now, Some(left));
    }
    if let Some(left) =
        headers.known(Known::GrpcTimeout).and_then(|value| deadline::parse_grpc_timeout(value.as_bytes()))
    {
        until = until.tighten(now, Some(left));
    }
    // The codec answers `100-continue` itself when the body is first asked for.
    headers.remove_all(OURS.and(Set::of(&[Known::ProxyAuthorization, Known::Expect])));
    // What the application says of its call's priority goes on to the peer's sidecar; what a peer said has been heard already.
    if matches!(plan, Plan::Inbound { .. }) {
        headers.remove_all(Set::of(&[Known::WeftPriority]));
    }
    seen.trace_id = traced::proceed(head, plan.peer(), seen).trace_id;
    request_id(&mut head.headers, seen);
    until
}

/// What is known of a call that goes nowhere: its trace and its request id, if it came with them.
pub(super) fn noted(head: &RequestHead, peer: Option<&Peer>, seen: &mut Observation<'_>) {
    seen.trace_id = traced::noted(head, peer, seen).map_or(0, |context| context.trace_id);
    if let Some(id) = head.headers.known(Known::RequestId).map(Value::as_bytes).filter(|id| trace::is_request_id(id)) {
        seen.request_id = Text::of_ascii(id);
    }
}

/// A call without a request id gets one.
fn request_id(headers: &mut Headers, seen: &mut Observation<'_>) {
    match headers.known(Known::RequestId).map(Value::as_bytes) {
        Some(id) if trace::is_request_id(id) => seen.request_id = Text::of_ascii(id),
        _ => {
            let id = trace::request_id([random::draw(), random::draw()]);
            headers.set_known(Known::RequestId, id.as_bytes());
            seen.request_id = Text::of_ascii(id.as_bytes());
        }
    }
}

/// What the next hop is told: how much time is left, and between sidecars who calls. `trusted`: the next hop is a peer's sidecar.
pub(super) fn address(
    head: &mut RequestHead,
    trusted: bool,
    native: bool,
    source: &str,
    until: Deadline,
    now: Instant,
) {
    let grpc = head.is_grpc();
    match until.remaining(now) {
        Some(left) if grpc => {
            head.headers.set_known(Known::GrpcTimeout, deadline::format_grpc_timeout(left).as_bytes());
        }
        Some(left) if trusted => {
            head.headers.set_known(Known::WeftDeadlineMs, deadline::format_weft_deadline(left).as_bytes());
        }
        _ => {}
    }
    if !trusted {
        head.headers.remove_all(Set::of(&[Known::WeftDeadlineMs, Known::WeftPriority]));
    }
    if trusted && native {
        head.headers.set_known(Known::WeftSource, source.as_bytes());
    } else {
        head.headers.remove_all(Set::of(&[Known::WeftSource]));
    }
}

/// Makes a response ready for the caller: `weft-*` of an application are its own invention, those of a peer's sidecar explain an error.
pub(super) fn answer(head: &mut ResponseHead, trusted: bool) {
    head.headers.strip_hop_by_hop();
    let kept = if trusted { Set::of(&[Known::WeftError, Known::WeftAuthorization]) } else { Set::default() };
    head.headers.remove_all(OURS.without(kept));
}

/// Applies a route's header edits: removed first, then set, then added.
pub(super) fn edit(headers: &mut Headers, edits: &[HeaderEdit]) {
    for edit in edits {
        for name in &edit.remove {
            headers.remove(name);
        }
        for (name, value) in &edit.set {
            headers.set(name, value);
        }
        for (name, value) in &edit.add {
            headers.append(name.clone(), value.clone());
        }
    }
}

/// Applies a route's header edits to a request, whose `Host` is not among its headers (see `codec`).
pub(super) fn edit_request(head: &mut RequestHead, edits: &[HeaderEdit]) {
    edit(&mut head.headers, edits);
    for edit in edits {
        let host = edit.set.iter().chain(&edit.add).find(|(name, _)| *name == header::HOST);
        if let Some(host) = host.and_then(|(_, host)| host.to_str().ok()) {
            head.authority = Some(ByteStr::from(host));
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
