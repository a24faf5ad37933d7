//! `weft.v1.RouteMatch`: paths, methods, headers and query parameters, and the bounds that regular expressions are kept in.

use http::{HeaderName, Method};
use weft_proto::v1;

use super::{Refusal, check};
use crate::route::{GrpcMatch, KeyMatch, Kind, Match, PathMatch, TextMatch};

/// A pattern's source and its compiled program: what a peer supplies is bounded.
const PATTERN_BYTES: usize = 1024;
const PROGRAM_BYTES: usize = 1 << 20;
pub(super) const LONGEST_PATH: usize = 1024;

/// The match of a fault or a rate limit, which is of HTTP or, where it names a gRPC method, of gRPC.
pub(in crate::config) fn call_match(wire: &v1::RouteMatch) -> Result<Match, Refusal> {
    match &wire.path {
        Some(v1::route_match::Path::Grpc(_)) => route_match(wire, Kind::Grpc),
        _ => route_match(wire, Kind::Http),
    }
}

/// The matches of a fault or a rate limit, at most 64.
pub(in crate::config) fn call_matches(wire: &[v1::RouteMatch]) -> Result<Vec<Match>, Refusal> {
    check::bounded("matches", wire, 64)?;
    let each = wire.iter().enumerate();
    each.map(|(i, m)| call_match(m).map_err(|r| r.under(format_args!("matches[{i}]")))).collect()
}

pub(super) fn route_match(wire: &v1::RouteMatch, kind: Kind) -> Result<Match, Refusal> {
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

pub(in crate::config) fn method(field: &str, text: &str) -> Result<Method, Refusal> {
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

pub(super) fn header_name(text: &str) -> Result<HeaderName, Refusal> {
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
