//! `weft.v1.Frontend` and its routes: checks them and compiles them into a [`crate::route::Table`]. Precedence is the
//! table's business; what a rule may say, and what it inherits, is decided here.

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderName, HeaderValue, Method};
use weft_proto::v1;

use super::check::{self, Span};
use super::{Frontend, Protocol, Refusal};
use crate::retry;
use crate::route::{
    BackendName, Filters, GrpcMatch, HeaderEdit, KeyMatch, Kind, Match, PathMatch, RequestTimeout, RouteSpec, RuleSpec,
    Table, Target, TextMatch, Timeouts, WeightedBackend,
};

/// Whole calls, where nobody chose otherwise.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(15);
/// Silence on a stream, where nobody chose otherwise.
const IDLE_TIMEOUT: Duration = Duration::from_secs(5 * 60);
/// A pattern's source and its compiled program: what a peer supplies is bounded.
const PATTERN_BYTES: usize = 1024;
const PROGRAM_BYTES: usize = 1 << 20;
const LONGEST_PATH: usize = 1024;
const HEAVIEST: u32 = 1_000_000;
/// Framing and routing of the message itself: editing these would let a route smuggle requests.
const UNTOUCHABLE: [&str; 8] =
    ["connection", "content-length", "keep-alive", "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade"];

/// What rules inherit.
struct Defaults {
    request: Span,
    backend_request: Span,
    idle: Option<Duration>,
    retry: Arc<retry::Policy>,
}

pub(super) fn frontend(wire: &v1::Frontend, protocol: Protocol, own: BackendName) -> Result<Frontend, Refusal> {
    let (request, backend_request) = timeouts(wire.request_timeout.as_ref(), wire.backend_request_timeout.as_ref())?;
    let retry = match &wire.retry {
        Some(policy) => retry_policy(policy).map_err(|r| r.under("retry"))?,
        None => retry::Policy::default(),
    };
    let idle = check::span("idleTimeout", wire.idle_timeout.as_ref())?.limit(Some(IDLE_TIMEOUT));
    let defaults = Defaults { request, backend_request, idle, retry: Arc::new(retry) };

    check::bounded("routes", &wire.routes, 1024)?;
    let mut kind = None;
    let mut routes = Vec::with_capacity(wire.routes.len());
    for (i, route) in wire.routes.iter().enumerate() {
        let compiled = route_kind(route, protocol)
            .and_then(|own| match *kind.get_or_insert(own) {
                first if first == own => self::route(route, own, &defaults),
                first => {
                    Err(Refusal::new("kind", format!("a port has routes of one kind, and {first:?} routes came first")))
                }
            })
            .map_err(|r| r.under(format_args!("routes[{i}]")))?;
        routes.push(compiled);
    }
    let implicit = implicit_rule(own, &defaults);
    let retry_budget = match &wire.retry_budget {
        Some(budget) => retry_budget(budget).map_err(|r| r.under("retryBudget"))?,
        None => retry::BudgetSettings::default(),
    };
    Ok(Frontend {
        routes: Table::compile(kind.unwrap_or_default(), routes, implicit),
        retry_budget,
        idle_timeout: idle,
    })
}

fn route_kind(wire: &v1::Route, protocol: Protocol) -> Result<Kind, Refusal> {
    let kind = match v1::RouteKind::try_from(wire.kind) {
        Ok(v1::RouteKind::Http) => Kind::Http,
        Ok(v1::RouteKind::Grpc) => Kind::Grpc,
        Ok(v1::RouteKind::Tcp) => Kind::Tcp,
        _ => return Err(Refusal::new("kind", format!("{} is no kind of route", wire.kind))),
    };
    match (kind, protocol) {
        (Kind::Http | Kind::Grpc, Protocol::Tcp) => {
            Err(Refusal::new("kind", "the port is declared tcp: only a TCPRoute can apply to it"))
        }
        (Kind::Grpc, Protocol::Http1) => {
            Err(Refusal::new("kind", "the port is declared http (HTTP/1.1): a GRPCRoute cannot apply to it"))
        }
        _ => Ok(kind),
    }
}

fn implicit_rule(own: BackendName, defaults: &Defaults) -> RuleSpec {
    RuleSpec {
        name: Arc::from(""),
        matches: Vec::new(),
        filters: Filters::default(),
        timeouts: effective_timeouts(Span::Absent, Span::Absent, defaults),
        retry: Arc::clone(&defaults.retry),
        backends: vec![WeightedBackend { target: Target::Backend(own), weight: 1, filters: Filters::default() }],
    }
}

fn route(wire: &v1::Route, kind: Kind, defaults: &Defaults) -> Result<RouteSpec, Refusal> {
    check::namespaced_name("name", &wire.name)?;
    check::bounded("rules", &wire.rules, 128)?;
    if wire.rules.is_empty() {
        return Err(Refusal::new("rules", "a route has at least one rule"));
    }
    let rules = wire
        .rules
        .iter()
        .enumerate()
        .map(|(i, rule)| self::rule(rule, kind, defaults).map_err(|r| r.under(format_args!("rules[{i}]"))))
        .collect::<Result<_, _>>()?;
    Ok(RouteSpec { name: wire.name.as_str().into(), created: wire.created, rules })
}

fn rule(wire: &v1::RouteRule, kind: Kind, defaults: &Defaults) -> Result<RuleSpec, Refusal> {
    if kind == Kind::Tcp {
        tcp_says_nothing_of_http(wire)?;
    }
    check::bounded("name", wire.name.as_bytes(), 253)?;
    check::bounded("matches", &wire.matches, 128)?;
    let matches = wire
        .matches
        .iter()
        .enumerate()
        .map(|(i, m)| route_match(m, kind).map_err(|r| r.under(format_args!("matches[{i}]"))))
        .collect::<Result<_, _>>()?;
    let (request, backend_request) = timeouts(wire.request_timeout.as_ref(), wire.backend_request_timeout.as_ref())?;
    let retry = match &wire.retry {
        Some(policy) => Arc::new(retry_policy(policy).map_err(|r| r.under("retry"))?),
        None => Arc::clone(&defaults.retry),
    };
    check::bounded("backends", &wire.backends, 128)?;
    let backends = wire
        .backends
        .iter()
        .enumerate()
        .map(|(i, b)| weighted_backend(b, kind).map_err(|r| r.under(format_args!("backends[{i}]"))))
        .collect::<Result<_, _>>()?;
    Ok(RuleSpec {
        name: wire.name.as_str().into(),
        matches,
        filters: filters(&wire.filters)?,
        timeouts: effective_timeouts(request, backend_request, defaults),
        retry,
        backends,
    })
}

fn tcp_says_nothing_of_http(wire: &v1::RouteRule) -> Result<(), Refusal> {
    let present = [
        ("matches", !wire.matches.is_empty()),
        ("filters", !wire.filters.is_empty()),
        ("requestTimeout", wire.request_timeout.is_some()),
        ("backendRequestTimeout", wire.backend_request_timeout.is_some()),
        ("retry", wire.retry.is_some()),
    ];
    match present.iter().find(|(_, present)| *present) {
        Some((field, _)) => Err(Refusal::new(*field, "means nothing on a TCP route")),
        None => Ok(()),
    }
}

/// Both timeouts as one author gave them: a try that may outlast the call is a contradiction.
fn timeouts(
    request: Option<&prost_types::Duration>,
    backend_request: Option<&prost_types::Duration>,
) -> Result<(Span, Span), Refusal> {
    let request = check::span("requestTimeout", request)?;
    let backend = check::span("backendRequestTimeout", backend_request)?;
    match (request.given(), backend.given()) {
        (Some(whole), Some(each)) if each > whole => Err(Refusal::new(
            "backendRequestTimeout",
            format!("{each:?} for each try is longer than the {whole:?} for the whole request"),
        )),
        _ => Ok((request, backend)),
    }
}

/// What the rule says, else what the port says, else the built-in default. Across authors the shorter wins, except that
/// nobody chose the built-in default: a longer chosen try stretches it.
fn effective_timeouts(request: Span, backend_request: Span, defaults: &Defaults) -> Timeouts {
    let each = backend_request.or(defaults.backend_request).given();
    let request = match request.or(defaults.request) {
        Span::Absent => RequestTimeout::Default(each.map_or(REQUEST_TIMEOUT, |each| each.max(REQUEST_TIMEOUT))),
        Span::Zero => RequestTimeout::Disabled,
        Span::Of(limit) => RequestTimeout::Chosen(limit),
    };
    let each = match request {
        RequestTimeout::Chosen(whole) => each.map(|each| each.min(whole)),
        _ => each,
    };
    Timeouts { request, backend_request: each, idle: defaults.idle }
}

pub(super) fn retry_policy(wire: &v1::RetryPolicy) -> Result<retry::Policy, Refusal> {
    let default = retry::Policy::default();
    let attempts = check::within("attempts", wire.attempts.unwrap_or(default.attempts), 0, 100)?;
    check::bounded("codes", &wire.codes, 200)?;
    let mut codes = Vec::with_capacity(wire.codes.len());
    for (i, code) in wire.codes.iter().enumerate() {
        // GEP-1731: "HTTPRouteRetryStatusCode … Minimum=400, Maximum=599".
        codes.push(check::within(&format!("codes[{i}]"), *code, 400, 599)? as u16);
    }
    codes.sort_unstable();
    codes.dedup();
    check::bounded("methods", &wire.methods, 32)?;
    let methods = wire
        .methods
        .iter()
        .enumerate()
        .map(|(i, text)| method(&format!("methods[{i}]"), text))
        .collect::<Result<_, _>>()?;
    let backoff = match check::span("backoff", wire.backoff.as_ref())? {
        Span::Absent => default.backoff,
        Span::Zero => Duration::ZERO,
        Span::Of(long) if long > Duration::from_secs(60) => {
            return Err(Refusal::new("backoff", format!("{long:?} is longer than a minute")));
        }
        Span::Of(backoff) => backoff,
    };
    let mut grpc_codes = 0;
    for (i, code) in wire.grpc_codes.iter().enumerate() {
        grpc_codes |= 1 << check::within(&format!("grpcCodes[{i}]"), *code, 1, 16)?;
    }
    let codes = if codes.is_empty() { default.codes } else { codes };
    Ok(retry::Policy { attempts, codes, methods, backoff, grpc_codes })
}

fn retry_budget(wire: &v1::RetryBudget) -> Result<retry::BudgetSettings, Refusal> {
    let default = retry::BudgetSettings::default();
    Ok(retry::BudgetSettings {
        percent: check::within("percent", wire.percent.unwrap_or(default.percent), 0, 100)?,
        min_per_second: check::within(
            "minPerSecond",
            wire.min_per_second.unwrap_or(default.min_per_second),
            0,
            HEAVIEST,
        )?,
        window: check::span_within(
            "window",
            wire.window.as_ref(),
            default.window,
            (Duration::from_secs(1), Duration::from_secs(3600)),
        )?,
    })
}

fn route_match(wire: &v1::RouteMatch, kind: Kind) -> Result<Match, Refusal> {
    use v1::route_match::Path;
    let path = match (&wire.path, kind) {
        (None, _) => PathMatch::Any,
        (Some(Path::ExactPath(text)), Kind::Http) => PathMatch::Exact(literal_path("exactPath", text)?.into()),
        (Some(Path::PathPrefix(text)), Kind::Http) => {
            // Gateway API: "a trailing slash is ignored"; what is left of "/" matches everything.
            match literal_path("pathPrefix", text)?.trim_end_matches('/') {
                "" => PathMatch::Any,
                prefix => PathMatch::Prefix(prefix.into()),
            }
        }
        (Some(Path::PathRegex(pattern)), Kind::Http) => {
            let anchored = anchored("pathRegex", pattern)?;
            let compiled = regex::RegexBuilder::new(&anchored).size_limit(PROGRAM_BYTES).build();
            PathMatch::Regex(compiled.map_err(|e| refused_pattern("pathRegex", &e))?)
        }
        (Some(Path::Grpc(grpc)), Kind::Grpc) => grpc_match(grpc).map_err(|r| r.under("grpc"))?,
        (Some(Path::Grpc(_)), _) => return Err(Refusal::new("grpc", "belongs to GRPCRoutes")),
        (Some(Path::ExactPath(_)), _) => return Err(Refusal::new("exactPath", "belongs to HTTPRoutes")),
        (Some(Path::PathPrefix(_)), _) => return Err(Refusal::new("pathPrefix", "belongs to HTTPRoutes")),
        (Some(Path::PathRegex(_)), _) => return Err(Refusal::new("pathRegex", "belongs to HTTPRoutes")),
    };
    if kind == Kind::Grpc && !wire.method.is_empty() {
        return Err(Refusal::new("method", "belongs to HTTPRoutes; a gRPC method is matched by grpc.method"));
    }
    if kind == Kind::Grpc && !wire.queries.is_empty() {
        return Err(Refusal::new("queries", "belongs to HTTPRoutes"));
    }
    let method = if wire.method.is_empty() { None } else { Some(method("method", &wire.method)?) };
    check::bounded("headers", &wire.headers, 64)?;
    check::bounded("queries", &wire.queries, 64)?;
    let mut headers: Vec<KeyMatch<HeaderName>> = Vec::with_capacity(wire.headers.len());
    for (i, header) in wire.headers.iter().enumerate() {
        let key = key_match(header, header_name).map_err(|r| r.under(format_args!("headers[{i}]")))?;
        // "If multiple entries specify equivalent header names, only the first entry … MUST be considered".
        if headers.iter().all(|held| held.name != key.name) {
            headers.push(key);
        }
    }
    let mut queries: Vec<KeyMatch<Box<str>>> = Vec::with_capacity(wire.queries.len());
    for (i, query) in wire.queries.iter().enumerate() {
        let key = key_match(query, query_name).map_err(|r| r.under(format_args!("queries[{i}]")))?;
        if queries.iter().all(|held| held.name != key.name) {
            queries.push(key);
        }
    }
    Ok(Match { path, method, headers, queries })
}

/// Gateway API's own validation of `HTTPPathMatch.value` for `Exact` and `PathPrefix`: such a path could never be told
/// from its other readings.
fn literal_path<'a>(field: &str, path: &'a str) -> Result<&'a str, Refusal> {
    if !path.starts_with('/') {
        return Err(Refusal::new(field, format!("{path:?} does not begin with '/'")));
    }
    if path.len() > LONGEST_PATH {
        return Err(Refusal::new(field, format!("is longer than {LONGEST_PATH} bytes")));
    }
    let within = ["//", "/./", "/../", "%2f", "%2F", "#", "?", "*"].iter().find(|bad| path.contains(**bad));
    let end = ["/..", "/."].iter().find(|bad| path.ends_with(**bad));
    match within.or(end) {
        Some(bad) => Err(Refusal::new(field, format!("{path:?} contains {bad:?}"))),
        None if path.bytes().any(|b| b <= b' ' || b == 0x7f) => {
            Err(Refusal::new(field, format!("{path:?} contains a space or control character")))
        }
        None => Ok(path),
    }
}

/// The pattern anchored at both ends. It is parsed alone first: `a)|(b` must not escape the anchors.
fn anchored(field: &str, pattern: &str) -> Result<String, Refusal> {
    if pattern.is_empty() || pattern.len() > PATTERN_BYTES {
        return Err(Refusal::new(field, format!("a regular expression has 1 to {PATTERN_BYTES} bytes")));
    }
    regex::RegexBuilder::new(pattern).size_limit(PROGRAM_BYTES).build().map_err(|e| refused_pattern(field, &e))?;
    Ok(format!("^(?:{pattern})$"))
}

fn refused_pattern(field: &str, error: &regex::Error) -> Refusal {
    match error {
        regex::Error::CompiledTooBig(limit) => {
            Refusal::new(field, format!("the compiled expression is larger than {limit} bytes"))
        }
        error => {
            // The crate's message draws the position under the pattern; its last line says what is wrong.
            let text = error.to_string();
            let last = text.lines().last().unwrap_or_default().trim_start_matches("error: ").trim();
            Refusal::new(field, format!("is no regular expression: {last}"))
        }
    }
}

fn text_regex(field: &str, pattern: &str) -> Result<TextMatch, Refusal> {
    let anchored = anchored(field, pattern)?;
    let compiled = regex::bytes::RegexBuilder::new(&anchored).size_limit(PROGRAM_BYTES).build();
    compiled.map(TextMatch::Regex).map_err(|e| refused_pattern(field, &e))
}

fn grpc_match(wire: &v1::GrpcMethod) -> Result<PathMatch, Refusal> {
    let part = |field: &str, text: &str| match text {
        "" => Ok(None),
        text if wire.regex => text_regex(field, text).map(Some),
        text => {
            let named = text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'.');
            if !named || text.len() > LONGEST_PATH {
                return Err(Refusal::new(field, format!("{text:?} is no gRPC name (letters, digits, '_', '.')")));
            }
            Ok(Some(TextMatch::Exact(text.into())))
        }
    };
    Ok(match (part("service", &wire.service)?, part("method", &wire.method)?) {
        (None, None) => PathMatch::Any,
        (service, method) => PathMatch::Grpc(GrpcMatch { service, method }),
    })
}

pub(super) fn method(field: &str, text: &str) -> Result<Method, Refusal> {
    let known = text.len() <= 64 && !text.bytes().any(|b| b.is_ascii_lowercase());
    Method::from_bytes(text.as_bytes())
        .ok()
        .filter(|_| known)
        .ok_or_else(|| Refusal::new(field, format!("{text:?} is no method (methods are written in upper case)")))
}

fn key_match<N>(wire: &v1::KeyMatch, name: impl Fn(&str) -> Result<N, Refusal>) -> Result<KeyMatch<N>, Refusal> {
    use v1::key_match::Value;
    let name = name(&wire.name)?;
    let value = match &wire.value {
        Some(Value::Exact(text)) if text.is_empty() || text.len() > 4096 => {
            return Err(Refusal::new("exact", "a value has 1 to 4096 bytes"));
        }
        Some(Value::Exact(text)) => TextMatch::Exact(text.as_str().into()),
        Some(Value::Regex(pattern)) => text_regex("regex", pattern)?,
        None => return Err(Refusal::new("exact", "exact or regex is required")),
    };
    Ok(KeyMatch { name, value })
}

fn header_name(text: &str) -> Result<HeaderName, Refusal> {
    HeaderName::from_bytes(text.as_bytes())
        .ok()
        .filter(|_| text.len() <= 256)
        .ok_or_else(|| Refusal::new("name", format!("{text:?} is no header name")))
}

fn query_name(text: &str) -> Result<Box<str>, Refusal> {
    if text.is_empty() || text.len() > 256 {
        return Err(Refusal::new("name", "a query parameter's name has 1 to 256 bytes"));
    }
    Ok(text.into())
}

fn filters(wire: &[v1::Filter]) -> Result<Filters, Refusal> {
    use v1::filter::Filter;
    check::bounded("filters", wire, 32)?;
    let mut filters = Filters::default();
    for (i, filter) in wire.iter().enumerate() {
        let field = format!("filters[{i}]");
        match &filter.filter {
            Some(Filter::RequestHeaders(edit)) => {
                filters.request.push(header_edit(edit).map_err(|r| r.under("requestHeaders").under(&field))?);
            }
            Some(Filter::ResponseHeaders(edit)) => {
                filters.response.push(header_edit(edit).map_err(|r| r.under("responseHeaders").under(&field))?);
            }
            None => return Err(Refusal::new(field, "says nothing, or something that this version does not know")),
        }
    }
    Ok(filters)
}

fn header_edit(wire: &v1::HeaderModifier) -> Result<HeaderEdit, Refusal> {
    let mut edit = HeaderEdit {
        set: header_values("set", &wire.set)?,
        add: header_values("add", &wire.add)?,
        remove: Vec::with_capacity(wire.remove.len()),
    };
    check::bounded("remove", &wire.remove, 64)?;
    for (i, name) in wire.remove.iter().enumerate() {
        let field = format!("remove[{i}]");
        let name = header_name(name).map_err(|r| Refusal::new(&field, r.reason))?;
        touchable(&field, &name)?;
        edit.remove.push(name);
    }
    let host = |name: &HeaderName| *name == http::header::HOST;
    if edit.add.iter().any(|(name, _)| host(name)) {
        return Err(Refusal::new("add", "a request has one Host: set it instead"));
    }
    if edit.remove.iter().any(host) {
        return Err(Refusal::new("remove", "a request has one Host: it cannot be removed"));
    }
    Ok(edit)
}

fn header_values(list: &str, wire: &[v1::HeaderValue]) -> Result<Vec<(HeaderName, HeaderValue)>, Refusal> {
    check::bounded(list, wire, 64)?;
    let mut values: Vec<(HeaderName, HeaderValue)> = Vec::with_capacity(wire.len());
    for (i, header) in wire.iter().enumerate() {
        let field = format!("{list}[{i}]");
        let name = header_name(&header.name).map_err(|r| r.under(&field))?;
        touchable(&field, &name)?;
        let value = HeaderValue::from_str(&header.value)
            .ok()
            .filter(|_| header.value.len() <= 4096)
            .ok_or_else(|| Refusal::new(format!("{field}.value"), "is no header value"))?;
        // "If multiple entries specify equivalent header names, the first entry … MUST be considered".
        if values.iter().all(|(held, _)| *held != name) {
            values.push((name, value));
        }
    }
    Ok(values)
}

fn touchable(field: &str, name: &HeaderName) -> Result<(), Refusal> {
    if UNTOUCHABLE.contains(&name.as_str()) || name.as_str().starts_with("weft-") {
        return Err(Refusal::new(field, format!("{name} belongs to the message's framing or to the mesh")));
    }
    Ok(())
}

fn weighted_backend(wire: &v1::WeightedBackend, kind: Kind) -> Result<WeightedBackend, Refusal> {
    if wire.weight > HEAVIEST {
        return Err(Refusal::new("weight", format!("{} is more than {HEAVIEST}", wire.weight)));
    }
    if kind == Kind::Tcp && !wire.filters.is_empty() {
        return Err(Refusal::new("filters", "means nothing on a TCP route"));
    }
    let target = if wire.unresolved.is_empty() {
        check::namespaced_name("service", &wire.service)?;
        Target::Backend(BackendName { service: wire.service.as_str().into(), port: check::port("port", wire.port)? })
    } else {
        check::bounded("unresolved", wire.unresolved.as_bytes(), 1024)?;
        Target::Unresolved(wire.unresolved.as_str().into())
    };
    Ok(WeightedBackend { target, weight: wire.weight, filters: filters(&wire.filters)? })
}
