//! From a traced call to spans of OTLP, by the semantic conventions of OpenTelemetry for HTTP and RPC (1.45); what they have no name for is
//! under `weft.`.

use super::super::Direction;
use super::call::{Attempt, Call};
use std::collections::VecDeque;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use weft_proto::otlp::collector::ExportTraceServiceRequest;
use weft_proto::otlp::common::any_value::Value;
use weft_proto::otlp::common::{AnyValue, InstrumentationScope, KeyValue};
use weft_proto::otlp::resource::Resource;
use weft_proto::otlp::trace::{ResourceSpans, ScopeSpans, Span, Status, span::SpanKind, status::StatusCode};

/// Names of gRPC's statuses (gRPC, "Status codes and their use").
const GRPC: [&str; 17] = [
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
];

/// The request that hands these calls over. `resource` says whose they are.
pub(super) fn request(resource: &[(String, String)], calls: &VecDeque<Box<Call>>) -> ExportTraceServiceRequest {
    let attributes = resource.iter().map(|(key, value)| pair(key, Value::StringValue(value.clone()))).collect();
    let scope = InstrumentationScope { name: "weft-proxy".to_owned(), version: env!("CARGO_PKG_VERSION").to_owned() };
    let spans = calls.iter().flat_map(|call| spans(call)).collect();
    ExportTraceServiceRequest {
        resource_spans: vec![ResourceSpans {
            resource: Some(Resource { attributes }),
            scope_spans: vec![ScopeSpans { scope: Some(scope), spans }],
        }],
    }
}

fn spans(call: &Call) -> impl Iterator<Item = Span> {
    let of_call = of_call(call);
    let last = call.attempts.len();
    std::iter::once(of_call).chain((1..=last).map(move |nth| of_attempt(call, nth)))
}

/// Attributes in the making; what is empty is left out.
#[derive(Default)]
struct Attributes(Vec<KeyValue>);

impl Attributes {
    fn text(&mut self, key: &str, value: &str) {
        if !value.is_empty() {
            self.0.push(pair(key, Value::StringValue(value.to_owned())));
        }
    }

    fn number(&mut self, key: &str, value: impl TryInto<i64>) {
        self.0.extend(value.try_into().ok().map(|value| pair(key, Value::IntValue(value))));
    }
}

fn pair(key: &str, value: Value) -> KeyValue {
    KeyValue { key: key.to_owned(), value: Some(AnyValue { value: Some(value) }) }
}

fn nanos(at: SystemTime) -> u64 {
    u64::try_from(at.duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos()).unwrap_or(u64::MAX)
}

/// What a call and its attempts have in common.
fn span(call: &Call, id: u64, parent: Option<u64>, (from, until): (Duration, Duration)) -> Span {
    let (path, _) = split(&call.target);
    let name = if is_grpc(call) { path.trim_start_matches('/').to_owned() } else { call.method.to_string() };
    Span {
        trace_id: call.context.trace_id.to_be_bytes().to_vec(),
        span_id: id.to_be_bytes().to_vec(),
        trace_state: String::new(),
        parent_span_id: parent.map(|id| id.to_be_bytes().to_vec()).unwrap_or_default(),
        name: if name.is_empty() { "HTTP".to_owned() } else { name },
        kind: match call.direction {
            Direction::Inbound => SpanKind::Server.into(),
            Direction::Outbound => SpanKind::Client.into(),
        },
        start_time_unix_nano: nanos(call.began + from),
        end_time_unix_nano: nanos(call.began + until.max(from)),
        attributes: Vec::new(),
        status: None,
        // Sampled.
        flags: 1,
    }
}

fn of_call(call: &Call) -> Span {
    let outcome = &call.outcome;
    let mut span = span(call, call.context.span_id, call.context.parent_id, (Duration::ZERO, outcome.duration));
    let mut attributes = what(call);
    attributes.text("client.address", &call.client.map(|address| address.to_string()).unwrap_or_default());
    answer(&mut attributes, call, outcome.status, outcome.grpc_status);
    attributes.number("http.request.body.size", outcome.received);
    attributes.number("http.response.body.size", outcome.sent);
    attributes.text("weft.direction", call.direction.name());
    attributes.text("weft.source", &call.source);
    attributes.text("weft.source.identity", call.source_identity.as_deref().unwrap_or_default());
    attributes.text("weft.destination", &call.destination);
    attributes.text("weft.destination.identity", call.destination_identity.as_deref().unwrap_or_default());
    attributes.text("weft.route", &call.route);
    attributes.text("weft.tls", if call.mtls { "mutual" } else { "none" });
    attributes.text("weft.policy", &call.policy);
    attributes.text("weft.policy.rule", &call.rule);
    attributes.text("weft.policy.decision", call.verdict);
    attributes.text("weft.request_id", &call.request_id);
    attributes.text("weft.reason", outcome.reason);
    if call.direction == Direction::Outbound {
        attributes.number("weft.attempts", outcome.attempts);
    }
    let status = status(call, outcome.status, outcome.grpc_status, outcome.reason, &mut attributes);
    span.status = status.map(|code| Status { code: code.into(), message: call.detail.to_string() });
    span.attributes = attributes.0;
    span
}

/// The attempt that is the `nth` of its call, from 1.
fn of_attempt(call: &Call, nth: usize) -> Span {
    let Some(attempt) = call.attempts.get(nth - 1) else { return Span::default() };
    let Attempt { span_id, from, until, endpoint, address, .. } = attempt;
    let ended = until.unwrap_or(call.outcome.duration);
    let mut span = span(call, *span_id, Some(call.context.span_id), (*from, ended));
    // One that ended with its call ended as the call did.
    let (http, grpc, reason) = match until {
        Some(_) => (attempt.status, attempt.grpc_status, attempt.reason),
        None => (call.outcome.status, call.outcome.grpc_status, call.outcome.reason),
    };
    let mut attributes = what(call);
    attributes.text("network.peer.address", &address.ip().to_string());
    attributes.number("network.peer.port", address.port());
    if nth > 1 {
        attributes.number("http.request.resend_count", nth - 1);
    }
    answer(&mut attributes, call, http, grpc);
    attributes.text("weft.endpoint", endpoint);
    attributes.text("weft.reason", reason);
    let status = status(call, http, grpc, reason, &mut attributes);
    span.status = status.map(|code| Status { code: code.into(), message: String::new() });
    span.attributes = attributes.0;
    span
}

/// What was asked for.
fn what(call: &Call) -> Attributes {
    let (path, query) = split(&call.target);
    let mut attributes = Attributes::default();
    if is_grpc(call) {
        attributes.text("rpc.system.name", "grpc");
        attributes.text("rpc.method", path.trim_start_matches('/'));
    }
    attributes.text("http.request.method", call.method.as_str());
    attributes.text("url.scheme", "http");
    attributes.text("url.path", path);
    attributes.text("url.query", query);
    let (host, port) = match call.authority.rsplit_once(':') {
        Some((host, port)) if !host.contains(':') || host.ends_with(']') => (host, port.parse().ok()),
        _ => (&*call.authority, None::<u16>),
    };
    attributes.text("server.address", host);
    if let Some(port) = port {
        attributes.number("server.port", port);
    }
    attributes.text("network.protocol.name", "http");
    attributes.text("network.protocol.version", call.version);
    attributes
}

/// What came back.
fn answer(attributes: &mut Attributes, call: &Call, status: u16, grpc: Option<u16>) {
    if status != 0 {
        attributes.number("http.response.status_code", status);
    }
    if let Some(code) = grpc.filter(|_| is_grpc(call)) {
        attributes.text("rpc.response.status_code", &grpc_name(code));
    }
}

/// Whether it is an error, and of what type: for a server what is its own fault, for a client whatever it did not want.
fn status(
    call: &Call,
    status: u16,
    grpc: Option<u16>,
    reason: &'static str,
    attributes: &mut Attributes,
) -> Option<StatusCode> {
    let server = call.direction == Direction::Inbound;
    let kind = match grpc.filter(|_| is_grpc(call)) {
        Some(code) if server => matches!(code, 2 | 4 | 12..=15).then(|| grpc_name(code)),
        Some(code) => (code != 0).then(|| grpc_name(code)),
        None if status == 0 || !reason.is_empty() => {
            let reason = if reason.is_empty() { "no_response" } else { reason };
            (status == 0 || status >= if server { 500 } else { 400 }).then(|| reason.to_owned())
        }
        None => (status >= if server { 500 } else { 400 }).then(|| status.to_string()),
    };
    // What broke off after its head had gone out.
    let kind = kind.or_else(|| (!reason.is_empty() && status < 400 && grpc.is_none()).then(|| reason.to_owned()));
    attributes.text("error.type", kind.as_deref().unwrap_or_default());
    kind.map(|_| StatusCode::Error)
}

fn is_grpc(call: &Call) -> bool {
    matches!(call.protocol, "grpc" | "grpc-web")
}

fn grpc_name(code: u16) -> String {
    GRPC.get(usize::from(code)).map_or_else(|| code.to_string(), |name| (*name).to_owned())
}

fn split(target: &str) -> (&str, &str) {
    target.split_once('?').unwrap_or((target, ""))
}

#[cfg(test)]
mod tests {
    use super::super::call::tests::call;
    use super::*;
    use std::collections::BTreeMap;

    fn of(span: &Span) -> BTreeMap<&str, String> {
        let text = |value: &AnyValue| match value.value.as_ref().unwrap() {
            Value::StringValue(text) => text.clone(),
            Value::IntValue(number) => number.to_string(),
            other => format!("{other:?}"),
        };
        span.attributes.iter().map(|pair| (pair.key.as_str(), text(pair.value.as_ref().unwrap()))).collect()
    }

    #[test]
    fn a_call_and_its_attempts_are_spans_of_one_trace_and_the_attempts_are_below_the_call() {
        let all: Vec<_> = spans(&call("/items?page=2")).collect();
        assert_eq!(all.len(), 3);
        assert!(all.iter().all(|span| span.trace_id == 0x4bf9_2f35_77b3_4da6_a3ce_929d_0e0e_4736_u128.to_be_bytes()));
        assert_eq!((&*all[0].span_id, &*all[0].parent_span_id), (&7_u64.to_be_bytes()[..], &3_u64.to_be_bytes()[..]));
        assert!(all[1..].iter().all(|span| span.parent_span_id == 7_u64.to_be_bytes()));
        assert_eq!(all[0].start_time_unix_nano, 1_000_000_000_000_000);
        assert_eq!(all[0].end_time_unix_nano, 1_000_000_005_000_000);
        assert_eq!(
            (all[1].start_time_unix_nano, all[1].end_time_unix_nano),
            (1_000_000_001_000_000, 1_000_000_002_000_000)
        );
        assert_eq!(all[2].end_time_unix_nano, all[0].end_time_unix_nano);
    }

    #[test]
    fn the_names_are_those_of_the_conventions() {
        let all: Vec<_> = spans(&call("/items?page=2")).collect();
        let whole = of(&all[0]);
        for (key, value) in [
            ("http.request.method", "GET"),
            ("url.path", "/items"),
            ("url.query", "page=2"),
            ("server.address", "catalog.shop"),
            ("server.port", "8080"),
            ("http.response.status_code", "200"),
            ("network.protocol.version", "1.1"),
            ("weft.destination", "shop/catalog"),
            ("weft.destination.identity", "spiffe://weft.local/ns/shop/sa/catalog"),
            ("weft.tls", "mutual"),
            ("weft.attempts", "2"),
        ] {
            assert_eq!(whole.get(key).map(String::as_str), Some(value), "{key}");
        }
        assert!(!whole.contains_key("error.type") && all[0].status.is_none() && all[0].name == "GET");
        let (first, second) = (of(&all[1]), of(&all[2]));
        assert_eq!((&*first["error.type"], &*first["http.response.status_code"]), ("503", "503"));
        assert_eq!(all[1].status.as_ref().unwrap().code(), StatusCode::Error);
        assert!(!first.contains_key("http.request.resend_count"));
        assert_eq!((&*second["http.request.resend_count"], &*second["http.response.status_code"]), ("1", "200"));
        assert_eq!(second["network.peer.address"], "192.0.2.7");
    }

    #[test]
    fn grpc_is_told_by_its_method_and_the_name_of_its_status() {
        let mut given = call("/shop.v1.Users/Get");
        (given.protocol, given.version, given.outcome.grpc_status) = ("grpc", "2", Some(14));
        given.attempts.clear();
        let span = of_call(&given);
        let told = of(&span);
        assert_eq!(span.name, "shop.v1.Users/Get");
        assert_eq!((&*told["rpc.system.name"], &*told["rpc.method"]), ("grpc", "shop.v1.Users/Get"));
        assert_eq!((&*told["rpc.response.status_code"], &*told["error.type"]), ("UNAVAILABLE", "UNAVAILABLE"));
        given.outcome.grpc_status = Some(5);
        given.direction = Direction::Inbound;
        assert!(of_call(&given).status.is_none(), "what a caller asked wrongly is not the server's error");
    }

    #[test]
    fn an_error_is_of_the_server_from_500_and_of_the_client_from_400() {
        let mut given = call("/items");
        given.outcome.status = 404;
        assert_eq!(of(&of_call(&given))["error.type"], "404");
        given.direction = Direction::Inbound;
        assert!(!of(&of_call(&given)).contains_key("error.type"));
        (given.outcome.status, given.outcome.reason) = (403, "denied");
        assert!(!of(&of_call(&given)).contains_key("error.type"));
        (given.outcome.status, given.outcome.reason) = (0, "client_gone");
        assert_eq!(of(&of_call(&given))["error.type"], "client_gone");
        (given.outcome.status, given.outcome.reason) = (200, "reset");
        assert_eq!(of(&of_call(&given))["error.type"], "reset");
    }
}
