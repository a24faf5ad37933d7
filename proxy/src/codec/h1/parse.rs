//! Reading heads: bytes → [`RequestHead`] or [`ResponseHead`] and the framing of what follows (RFC 9112). Pure; no I/O.
//!
//! Whatever two implementations could read differently is refused: this parser stands in front of others, and disagreement about
//! where a message ends is how requests are smuggled. `httparse` splits the lines; the rules are here.

use super::chunked::Chunked;
use crate::codec::{ByteStr, Form, Headers, Limits, RequestHead, ResponseHead, Version};
use crate::error::{Kind, ProxyError};
use bytes::{Buf, Bytes, BytesMut};
use http::header::{self, HeaderName, HeaderValue};
use http::uri::Scheme;
use http::{Method, StatusCode};
use std::mem::MaybeUninit;

/// Why bytes are not HTTP/1, for people.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Malformed(pub &'static str);

/// Why a head is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refusal {
    Malformed(&'static str),
    TooLarge,
}

impl From<Malformed> for Refusal {
    fn from(malformed: Malformed) -> Self {
        Self::Malformed(malformed.0)
    }
}

impl Refusal {
    /// As an error of a caller.
    pub(super) fn request(self) -> ProxyError {
        match self {
            Self::Malformed(why) => ProxyError::because(Kind::BadRequest, why),
            Self::TooLarge => ProxyError::because(Kind::HeadersTooLarge, "the header section exceeds the limits"),
        }
    }

    /// As an error of an upstream.
    pub(super) fn response(self) -> ProxyError {
        match self {
            Self::Malformed(why) => ProxyError::because(Kind::UpstreamProtocol, why),
            Self::TooLarge => {
                ProxyError::because(Kind::UpstreamProtocol, "the response's header section exceeds the limits")
            }
        }
    }
}

/// How long a body is.
#[derive(Debug)]
pub(super) enum Decoder {
    /// There is none, or it has been read.
    Done,
    /// This many bytes are left.
    Length(u64),
    /// Chunks say.
    Chunked(Box<Chunked>),
    /// Until the peer closes; responses only.
    UntilClose,
}

/// What follows a request's head.
#[derive(Debug)]
pub(super) struct RequestFraming {
    pub body: Decoder,
    pub keep_alive: bool,
    pub expect_continue: bool,
}

/// What follows a response's head.
#[derive(Debug)]
pub(super) struct ResponseFraming {
    pub body: Decoder,
    pub keep_alive: bool,
}

/// Takes the first `count` bytes without a copy. The whole buffer is given away when nothing is left, so that it is not kept alive.
pub(super) fn take(buffer: &mut BytesMut, count: usize) -> Bytes {
    if count == buffer.len() { std::mem::take(buffer).freeze() } else { buffer.split_to(count).freeze() }
}

/// The length of a section of lines up to and including the empty line that ends it. `scanned` remembers how far a previous call got,
/// so that a head that arrives byte by byte is not scanned again from the start.
pub(super) fn section_end(buffer: &[u8], scanned: &mut usize) -> Result<Option<usize>, Malformed> {
    let mut at = (*scanned).min(buffer.len());
    while let Some(found) = memchr::memchr(b'\n', &buffer[at..]) {
        let end = at + found;
        if end == 0 || buffer[end - 1] != b'\r' {
            return Err(Malformed("a line ends in a bare LF"));
        }
        if end == 1 || buffer[end - 2] == b'\n' {
            return Ok(Some(end + 1));
        }
        at = end + 1;
    }
    *scanned = buffer.len();
    Ok(None)
}

/// Takes a whole head out of `buffer`; `None` while it is incomplete.
pub(super) fn head(buffer: &mut BytesMut, scanned: &mut usize, limits: &Limits) -> Result<Option<Bytes>, Refusal> {
    // RFC 9112 §2.2: a server SHOULD ignore at least one empty line received prior to the request-line.
    while *scanned == 0 && buffer.starts_with(b"\r\n") {
        buffer.advance(2);
    }
    if buffer.first().is_some_and(|byte| !byte.is_ascii_graphic() && *byte != b'\r') {
        return Err(Refusal::Malformed("these bytes are not HTTP"));
    }
    match section_end(buffer, scanned)? {
        Some(end) if end > limits.max_head_bytes => Err(Refusal::TooLarge),
        Some(end) => {
            *scanned = 0;
            Ok(Some(take(buffer, end)))
        }
        None if buffer.len() > limits.max_head_bytes => Err(Refusal::TooLarge),
        None => Ok(None),
    }
}

const SLOTS: usize = 256;

fn refusal(error: httparse::Error) -> Refusal {
    match error {
        httparse::Error::HeaderName => Refusal::Malformed("a header name is malformed"),
        httparse::Error::HeaderValue => Refusal::Malformed("a header value is malformed"),
        httparse::Error::NewLine => Refusal::Malformed("a line does not end in CRLF"),
        httparse::Error::Status => Refusal::Malformed("the status is malformed"),
        httparse::Error::Token => Refusal::Malformed("the first line is malformed"),
        httparse::Error::TooManyHeaders => Refusal::TooLarge,
        httparse::Error::Version => Refusal::Malformed("the HTTP version is not 1.0 or 1.1"),
    }
}

/// What the headers say about framing.
#[derive(Default)]
struct Seen {
    host: Option<Bytes>,
    length: Option<u64>,
    chunked: bool,
    close: bool,
    keep_alive: bool,
    connection_upgrade: bool,
    upgrade: Option<ByteStr>,
    /// h2c is among what it may be upgraded to.
    h2c: bool,
    expect: bool,
}

/// Sorts the headers of a head into what is kept and what they say. `Transfer-Encoding` is understood here and dropped.
fn headers(head: &Bytes, parsed: &[httparse::Header<'_>], limits: &Limits) -> Result<(Headers, Seen), Refusal> {
    if parsed.len() > limits.max_headers {
        return Err(Refusal::TooLarge);
    }
    let mut headers = Headers::with_capacity(parsed.len() + 4);
    let mut seen = Seen::default();
    let mut codings = 0;
    for line in parsed {
        let (name, raw, value) = field(head, line)?;
        match name {
            header::HOST if seen.host.is_some() => return Err(Refusal::Malformed("there are two Host headers")),
            header::HOST => seen.host = Some(head.slice_ref(line.value)),
            // RFC 9110 §8.6 lets a recipient accept equal values; a peer that sends two is not worth the ambiguity.
            header::CONTENT_LENGTH if seen.length.is_some() => {
                return Err(Refusal::Malformed("there are two Content-Length headers"));
            }
            header::CONTENT_LENGTH => seen.length = Some(length(line.value)?),
            header::TRANSFER_ENCODING => {
                codings += 1;
                // Only "chunked", once: any other coding would have to be decoded to know where the body ends.
                if codings > 1 || !line.value.eq_ignore_ascii_case(b"chunked") {
                    return Err(Refusal::Malformed("the Transfer-Encoding is not just \"chunked\""));
                }
                seen.chunked = true;
                continue;
            }
            header::CONNECTION => {
                for token in line.value.split(|byte| *byte == b',') {
                    let token = token.trim_ascii();
                    seen.close |= token.eq_ignore_ascii_case(b"close");
                    seen.keep_alive |= token.eq_ignore_ascii_case(b"keep-alive");
                    seen.connection_upgrade |= token.eq_ignore_ascii_case(b"upgrade");
                }
            }
            header::UPGRADE => {
                let mut protocols = line.value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii);
                seen.h2c |= protocols.any(|protocol| protocol.eq_ignore_ascii_case(b"h2c"));
                seen.upgrade = ByteStr::from_utf8(head.slice_ref(line.value));
            }
            header::EXPECT => seen.expect |= line.value.eq_ignore_ascii_case(b"100-continue"),
            _ => {}
        }
        headers.append_read(name, raw, value);
    }
    if seen.chunked && seen.length.is_some() {
        return Err(Refusal::Malformed("there are both Content-Length and Transfer-Encoding"));
    }
    Ok((headers, seen))
}

/// Name, its spelling where that is not lower case, and value. They share the section's bytes.
fn field(section: &Bytes, line: &httparse::Header<'_>) -> Result<(HeaderName, Option<Bytes>, HeaderValue), Refusal> {
    let raw = line.name.as_bytes();
    let name = match common(raw) {
        Some(name) => name,
        None => HeaderName::from_bytes(raw).map_err(|_| Refusal::Malformed("a header name is malformed"))?,
    };
    let value = HeaderValue::from_maybe_shared(section.slice_ref(line.value))
        .map_err(|_| Refusal::Malformed("a header value is malformed"))?;
    let spelt = raw.iter().any(u8::is_ascii_uppercase).then(|| section.slice_ref(raw));
    Ok((name, spelt, value))
}

/// Names that nearly every call between sidecars carries, and that the `http` crate would allocate for.
fn common(raw: &[u8]) -> Option<HeaderName> {
    const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");
    match raw {
        b"traceparent" => Some(weft_policy::trace::TRACEPARENT),
        b"tracestate" => Some(TRACESTATE),
        b"x-request-id" => Some(weft_policy::trace::REQUEST_ID),
        b"weft-deadline-ms" => Some(weft_policy::deadline::WEFT_DEADLINE_MS),
        b"grpc-timeout" => Some(weft_policy::deadline::GRPC_TIMEOUT),
        _ => None,
    }
}

/// `Content-Length = 1*DIGIT`: no sign, no list, no spaces within.
fn length(value: &[u8]) -> Result<u64, Refusal> {
    let digits =
        std::str::from_utf8(value).ok().filter(|text| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()));
    digits.and_then(|text| text.parse().ok()).ok_or(Refusal::Malformed("the Content-Length is not a number"))
}

/// Reads a trailer section (with the empty line that ends it).
pub(super) fn trailers(section: &Bytes, max_headers: usize) -> Result<Headers, Malformed> {
    let mut slots = [httparse::EMPTY_HEADER; 64];
    match httparse::parse_headers(section, &mut slots) {
        Ok(httparse::Status::Complete((_, lines))) if lines.len() <= max_headers => {
            let mut headers = Headers::with_capacity(lines.len());
            for line in lines {
                let (name, raw, value) = field(section, line).map_err(|_| Malformed("a trailer is malformed"))?;
                if may_be_trailer(&name) {
                    headers.append_read(name, raw, value);
                }
            }
            Ok(headers)
        }
        Ok(_) => Err(Malformed("the trailer section is malformed")),
        Err(httparse::Error::TooManyHeaders) => Err(Malformed("there are too many trailers")),
        Err(_) => Err(Malformed("a trailer is malformed")),
    }
}

/// RFC 9110 §6.5.1: fields for framing, routing, or credentials cannot be trailers.
pub(in crate::codec) fn may_be_trailer(name: &HeaderName) -> bool {
    !(crate::codec::is_hop_by_hop(name)
        || matches!(
            *name,
            header::CONTENT_LENGTH
                | header::HOST
                | header::TE
                | header::TRAILER
                | header::AUTHORIZATION
                | header::COOKIE
                | header::SET_COOKIE
                | header::CONTENT_TYPE
                | header::CONTENT_ENCODING
                | header::CONTENT_RANGE
        ))
}

/// Reads the head of a request.
pub(super) fn request(head: &Bytes, limits: &Limits) -> Result<(RequestHead, RequestFraming), Refusal> {
    let mut slots = [const { MaybeUninit::uninit() }; SLOTS];
    let mut parsed = httparse::Request::new(&mut []);
    match parsed.parse_with_uninit_headers(head, &mut slots) {
        Ok(httparse::Status::Complete(count)) if count == head.len() => {}
        Ok(_) => return Err(Refusal::Malformed("the head is malformed")),
        Err(error) => return Err(refusal(error)),
    }
    let version = if parsed.version == Some(1) { Version::Http11 } else { Version::Http10 };
    let method = Method::from_bytes(parsed.method.unwrap_or_default().as_bytes())
        .map_err(|_| Refusal::Malformed("the method is malformed"))?;
    let (headers, seen) = headers(head, parsed.headers, limits)?;
    // RFC 9112 §3.2: a server MUST respond with 400 to any HTTP/1.1 request message that lacks a Host header field.
    if seen.host.is_none() && version == Version::Http11 {
        return Err(Refusal::Malformed("there is no Host header"));
    }
    if seen.host.as_ref().is_some_and(|host| !host.is_empty() && !is_authority(host)) {
        return Err(Refusal::Malformed("the Host header is not a host"));
    }
    // RFC 9112 §6.1: a server that receives an HTTP/1.0 message containing Transfer-Encoding MUST treat the framing as faulty.
    if seen.chunked && version == Version::Http10 {
        return Err(Refusal::Malformed("HTTP/1.0 has no Transfer-Encoding"));
    }
    let body = match (seen.chunked, seen.length) {
        (true, _) => Decoder::Chunked(Box::new(Chunked::new(limits.max_headers))),
        (false, Some(length)) if length > 0 => Decoder::Length(length),
        _ => Decoder::Done,
    };
    let bodiless = matches!(body, Decoder::Done);
    let target = target(head, parsed.path.unwrap_or_default(), &method)?;
    if target.form == Form::Authority && !(bodiless && seen.length.is_none()) {
        return Err(Refusal::Malformed("CONNECT has no body"));
    }
    // An upgrade to h2c would hide what follows from routing and authorization; it may be ignored (RFC 9110 §7.8). Where it stands among
    // others, or on a line of its own, the upstream could choose it: then there is no upgrade at all.
    let protocol =
        seen.upgrade.filter(|_| version == Version::Http11 && seen.connection_upgrade && bodiless && !seen.h2c);
    let authority = target.authority.or_else(|| seen.host.filter(|host| !host.is_empty()).and_then(ByteStr::from_utf8));
    let framing = RequestFraming {
        expect_continue: seen.expect && version == Version::Http11 && !bodiless,
        keep_alive: persistent(version, seen.close, seen.keep_alive),
        body,
    };
    let head = RequestHead {
        method,
        scheme: target.scheme,
        authority,
        path: target.path,
        headers,
        version,
        form: target.form,
        upgrade: protocol.is_some(),
        protocol,
    };
    Ok((head, framing))
}

fn persistent(version: Version, close: bool, keep_alive: bool) -> bool {
    !close && (version == Version::Http11 || keep_alive)
}

struct Target {
    form: Form,
    scheme: Option<Scheme>,
    authority: Option<ByteStr>,
    path: ByteStr,
}

fn target(head: &Bytes, text: &str, method: &Method) -> Result<Target, Refusal> {
    let share = |part: &str| ByteStr::from_utf8(head.slice_ref(part.as_bytes())).unwrap_or_default();
    if *method == Method::CONNECT {
        if !is_authority(text.as_bytes()) || port(text).is_none() {
            return Err(Refusal::Malformed("CONNECT needs host:port"));
        }
        let authority = Some(share(text));
        return Ok(Target { form: Form::Authority, scheme: None, authority, path: ByteStr::default() });
    }
    if text.contains('#') {
        return Err(Refusal::Malformed("the target has a fragment"));
    }
    if text.starts_with('/') {
        return Ok(Target { form: Form::Origin, scheme: None, authority: None, path: share(text) });
    }
    if text == "*" && *method == Method::OPTIONS {
        return Ok(Target { form: Form::Asterisk, scheme: None, authority: None, path: share(text) });
    }
    let (scheme, rest) = text.split_once("://").ok_or(Refusal::Malformed("the target is no path and no URL"))?;
    let scheme = match scheme {
        _ if scheme.eq_ignore_ascii_case("http") => Scheme::HTTP,
        _ if scheme.eq_ignore_ascii_case("https") => Scheme::HTTPS,
        _ => return Err(Refusal::Malformed("the scheme is not http or https")),
    };
    let split = rest.find(['/', '?']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(split);
    if !is_authority(authority.as_bytes()) {
        return Err(Refusal::Malformed("the URL's host is malformed"));
    }
    let path = match path {
        "" => ByteStr::from_static("/"),
        query if query.starts_with('?') => ByteStr::from(format!("/{query}")),
        path => share(path),
    };
    Ok(Target { form: Form::Absolute, scheme: Some(scheme), authority: Some(share(authority)), path })
}

fn port(authority: &str) -> Option<u16> {
    authority.rsplit_once(':').and_then(|(_, port)| port.parse().ok())
}

/// `uri-host [ ":" port ]` (RFC 9110 §7.2), without user information: it is deprecated and a way to disguise the host.
pub(in crate::codec) fn is_authority(text: &[u8]) -> bool {
    let (host, port) = if text.first() == Some(&b'[') {
        let Some(end) = text.iter().position(|byte| *byte == b']') else { return false };
        let address = std::str::from_utf8(&text[1..end]).unwrap_or_default();
        if address.parse::<std::net::Ipv6Addr>().is_err() {
            return false;
        }
        match &text[end + 1..] {
            [] => return true,
            [b':', port @ ..] => (&text[1..end], Some(port)),
            _ => return false,
        }
    } else {
        match text.iter().position(|byte| *byte == b':') {
            Some(colon) => (&text[..colon], Some(&text[colon + 1..])),
            None => (text, None),
        }
    };
    let host_ok = text.first() == Some(&b'[')
        || (!host.is_empty()
            && host.len() <= 255
            && host.iter().all(|b| b.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=%".contains(b)));
    let port_ok = port.is_none_or(|port| {
        port.len() <= 5
            && port.iter().all(u8::is_ascii_digit)
            && (port.is_empty() || std::str::from_utf8(port).is_ok_and(|p| p.parse::<u16>().is_ok()))
    });
    host_ok && port_ok
}

/// Reads the head of a response to a request with `method`.
pub(super) fn response(
    head: &Bytes,
    method: &Method,
    limits: &Limits,
) -> Result<(ResponseHead, ResponseFraming), Refusal> {
    let mut slots = [const { MaybeUninit::uninit() }; SLOTS];
    let mut parsed = httparse::Response::new(&mut []);
    match httparse::ParserConfig::default().parse_response_with_uninit_headers(&mut parsed, head, &mut slots) {
        Ok(httparse::Status::Complete(count)) if count == head.len() => {}
        Ok(_) => return Err(Refusal::Malformed("the head is malformed")),
        Err(error) => return Err(refusal(error)),
    }
    let version = if parsed.version == Some(1) { Version::Http11 } else { Version::Http10 };
    let status = parsed.code.and_then(|code| StatusCode::from_u16(code).ok()).ok_or(Refusal::Malformed("no status"))?;
    let (mut headers, seen) = headers(head, parsed.headers, limits)?;
    if seen.chunked && version == Version::Http10 {
        return Err(Refusal::Malformed("HTTP/1.0 has no Transfer-Encoding"));
    }
    let connected = *method == Method::CONNECT && status.is_success();
    let body = if status.is_informational() || status == StatusCode::NO_CONTENT || connected {
        // RFC 9110 §8.6: no Content-Length in 1xx, 204, or 2xx to CONNECT.
        headers.remove(&header::CONTENT_LENGTH);
        Decoder::Done
    } else if *method == Method::HEAD || status == StatusCode::NOT_MODIFIED {
        Decoder::Done
    } else {
        match (seen.chunked, seen.length) {
            (true, _) => Decoder::Chunked(Box::new(Chunked::new(limits.max_headers))),
            (false, Some(0)) => Decoder::Done,
            (false, Some(length)) => Decoder::Length(length),
            (false, None) => Decoder::UntilClose,
        }
    };
    let keep_alive = persistent(version, seen.close, seen.keep_alive) && !matches!(body, Decoder::UntilClose);
    let reason = parsed.reason.map(|text| if text.is_empty() { Bytes::new() } else { head.slice_ref(text.as_bytes()) });
    Ok((ResponseHead { status, reason, headers, version }, ResponseFraming { body, keep_alive }))
}

#[cfg(test)]
#[path = "parse_tests.rs"]
mod tests;
