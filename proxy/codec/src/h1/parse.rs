//! Reading heads: bytes → [`RequestHead`] or [`ResponseHead`] and the framing of what follows (RFC 9112). Pure; no I/O.
//!
//! Whatever two implementations could read differently is refused: this parser stands in front of others, and disagreement about
//! where a message ends is how requests are smuggled. `scan` finds the parts, `target` understands what is named; the rules are here.

use super::chunked::Chunked;
use super::scan::{Cursor, Line, Stop};
use super::target::{self, is_authority};
use crate::headers::{Known, Set, Span};
use crate::{ByteStr, Form, Headers, Limits, RequestHead, ResponseHead, Version};
use crate::{Error, Kind};
use bytes::{Buf, Bytes, BytesMut};
use http::{HeaderName, Method, StatusCode};

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
    pub(super) fn request(self) -> Error {
        match self {
            Self::Malformed(why) => Error::because(Kind::BadRequest, why),
            Self::TooLarge => Error::because(Kind::HeadersTooLarge, "the header section exceeds the limits"),
        }
    }

    /// As an error of an upstream.
    pub(super) fn response(self) -> Error {
        match self {
            Self::Malformed(why) => Error::because(Kind::UpstreamProtocol, why),
            Self::TooLarge => {
                Error::because(Kind::UpstreamProtocol, "the response's header section exceeds the limits")
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

/// Leaves out what may stand before a head, and says what cannot become one.
fn begin(buffer: &mut BytesMut, scanned: &mut usize, limits: &Limits) -> Result<bool, Refusal> {
    // RFC 9112 §2.2: a server SHOULD ignore at least one empty line received prior to the request-line.
    while *scanned == 0 && buffer.starts_with(b"\r\n") {
        buffer.advance(2);
    }
    if buffer.first().is_some_and(|byte| !byte.is_ascii_graphic() && *byte != b'\r') {
        return Err(Refusal::Malformed("these bytes are not HTTP"));
    }
    // A head that did not come in one piece is read again only when its end is here.
    let worthwhile = match *scanned {
        0 => !buffer.is_empty(),
        _ => section_end(buffer, scanned)?.is_some(),
    };
    if !worthwhile && buffer.len() > limits.max_head_bytes {
        return Err(Refusal::TooLarge);
    }
    Ok(worthwhile)
}

/// What a pass over the buffer has found: `None` while the head is incomplete.
fn finish<T>(
    found: Result<T, Stop>,
    buffer: &BytesMut,
    scanned: &mut usize,
    limits: &Limits,
) -> Result<Option<T>, Refusal> {
    match found {
        Ok(found) => {
            *scanned = 0;
            Ok(Some(found))
        }
        Err(Stop::Refused(refusal)) => Err(refusal),
        Err(Stop::Incomplete) if buffer.len() > limits.max_head_bytes => Err(Refusal::TooLarge),
        Err(Stop::Incomplete) => {
            *scanned = buffer.len();
            Ok(None)
        }
    }
}

/// Header lines of one head, whatever the limits say.
const MOST_LINES: usize = 256;
/// Lines of one trailer section, whatever the limits say.
const MOST_TRAILERS: usize = 64;

/// What the headers say about framing.
#[derive(Default)]
struct Seen {
    host: Option<Span>,
    length: Option<u64>,
    chunked: bool,
    close: bool,
    keep_alive: bool,
    connection_upgrade: bool,
    upgrade: Option<Span>,
    /// h2c is among what it may be upgraded to.
    h2c: bool,
    expect: bool,
}

impl Seen {
    /// Takes note of a header; false: it is understood here and dropped.
    #[inline]
    fn note(&mut self, name: Known, line: &Line<'_>) -> Result<bool, Refusal> {
        match name {
            Known::Host if self.host.is_some() => return Err(Refusal::Malformed("there are two Host headers")),
            Known::Host => self.host = Some(line.value_at),
            // RFC 9110 §8.6 lets a recipient accept equal values; a peer that sends two is not worth the ambiguity.
            Known::ContentLength if self.length.is_some() => {
                return Err(Refusal::Malformed("there are two Content-Length headers"));
            }
            Known::ContentLength => self.length = Some(length(line.value)?),
            Known::TransferEncoding => {
                // Only "chunked", once: any other coding would have to be decoded to know where the body ends.
                if self.chunked || !line.value.eq_ignore_ascii_case(b"chunked") {
                    return Err(Refusal::Malformed("the Transfer-Encoding is not just \"chunked\""));
                }
                self.chunked = true;
                return Ok(false);
            }
            Known::Connection => {
                for token in line.value.split(|byte| *byte == b',') {
                    let token = token.trim_ascii();
                    self.close |= token.eq_ignore_ascii_case(b"close");
                    self.keep_alive |= token.eq_ignore_ascii_case(b"keep-alive");
                    self.connection_upgrade |= token.eq_ignore_ascii_case(b"upgrade");
                }
            }
            Known::Upgrade => {
                let mut protocols = line.value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii);
                self.h2c |= protocols.any(|protocol| protocol.eq_ignore_ascii_case(b"h2c"));
                self.upgrade = Some(line.value_at);
            }
            Known::Expect => self.expect |= line.value.eq_ignore_ascii_case(b"100-continue"),
            _ => {}
        }
        Ok(true)
    }
}

/// Sorts the headers of a head into what is kept and what they say. `Transfer-Encoding` is understood here and dropped.
fn headers(cursor: &mut Cursor<'_>, limits: &Limits) -> Result<(Headers, Seen), Stop> {
    let mut headers = Headers::new();
    let mut seen = Seen::default();
    let mut count = 0;
    while let Some(line) = cursor.line()? {
        count += 1;
        if count > limits.max_headers.min(MOST_LINES) {
            return Err(Refusal::TooLarge.into());
        }
        if let Some(name) = line.known
            && !seen.note(name, &line)?
        {
            continue;
        }
        if !headers.append_read(line.known, line.name, line.name_at, line.value_at, line.verbatim) {
            return Err(Refusal::Malformed("a header name is malformed").into());
        }
    }
    if seen.chunked && seen.length.is_some() {
        return Err(Refusal::Malformed("there are both Content-Length and Transfer-Encoding").into());
    }
    if cursor.at() > limits.max_head_bytes {
        return Err(Refusal::TooLarge.into());
    }
    Ok((headers, seen))
}

/// `Content-Length = 1*DIGIT`: no sign, no list, no spaces within.
fn length(value: &[u8]) -> Result<u64, Refusal> {
    number(value).ok_or(Refusal::Malformed("the Content-Length is not a number"))
}

/// `1*DIGIT` that fits 64 bits.
pub(super) fn number(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() {
        return None;
    }
    digits.iter().try_fold(0_u64, |number, digit| {
        let digit = digit.wrapping_sub(b'0');
        if digit > 9 { None } else { number.checked_mul(10)?.checked_add(digit.into()) }
    })
}

/// Reads a trailer section (with the empty line that ends it).
pub(super) fn trailers(section: &Bytes, max_headers: usize) -> Result<Headers, Malformed> {
    let (mut cursor, mut headers, mut count) = (Cursor::new(section), Headers::new(), 0);
    let malformed = Malformed("a trailer is malformed");
    while let Some(line) = cursor.line().map_err(|_| malformed)? {
        count += 1;
        if count > max_headers.min(MOST_TRAILERS) {
            return Err(Malformed("there are too many trailers"));
        }
        if line.known.is_some_and(|name| NO_TRAILER.has(name)) {
            continue;
        }
        if !headers.append_read(line.known, line.name, line.name_at, line.value_at, line.verbatim) {
            return Err(malformed);
        }
    }
    headers.read_from(section.clone());
    Ok(headers)
}

/// RFC 9110 §6.5.1: fields for framing, routing, or credentials cannot be trailers.
pub(super) const NO_TRAILER: Set = Set::of(&[
    Known::Connection,
    Known::TransferEncoding,
    Known::Upgrade,
    Known::KeepAlive,
    Known::ProxyConnection,
    Known::ContentLength,
    Known::Host,
    Known::Te,
    Known::Trailer,
    Known::Authorization,
    Known::Cookie,
    Known::SetCookie,
    Known::ContentType,
    Known::ContentEncoding,
    Known::ContentRange,
]);

/// Whether a field of this name may stand in a trailer section.
pub(crate) fn may_be_trailer(name: &HeaderName) -> bool {
    !Known::find(name.as_str().as_bytes()).is_some_and(|name| NO_TRAILER.has(name))
}

/// Takes the head of a request, with the framing of its body, off the front of `buffer`; `None` while it is incomplete. `scanned`
/// remembers between calls how far the buffer was searched.
pub(super) fn request(
    buffer: &mut BytesMut,
    scanned: &mut usize,
    limits: &Limits,
) -> Result<Option<(RequestHead, RequestFraming)>, Refusal> {
    if !begin(buffer, scanned, limits)? {
        return Ok(None);
    }
    let mut cursor = Cursor::new(buffer);
    let found = cursor.request_line().and_then(|(method, target, minor)| {
        let method = Method::from_bytes(method).map_err(|_| Refusal::Malformed("the method is malformed"))?;
        Ok((method, target, minor, headers(&mut cursor, limits)?))
    });
    let end = cursor.at();
    let Some((method, target, minor, (mut headers, seen))) = finish(found, buffer, scanned, limits)? else {
        return Ok(None);
    };
    let head = take(buffer, end);
    let version = if minor == 1 { Version::Http11 } else { Version::Http10 };
    let host = seen.host.map(|at| at.of(&head));
    // RFC 9112 §3.2: a server MUST respond with 400 to any HTTP/1.1 request message that lacks a Host header field.
    if host.is_none() && version == Version::Http11 {
        return Err(Refusal::Malformed("there is no Host header"));
    }
    if host.is_some_and(|host| !host.is_empty() && !is_authority(host)) {
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
    let target = target::target(&head, target, &method)?;
    if target.form == Form::Authority && !(bodiless && seen.length.is_none()) {
        return Err(Refusal::Malformed("CONNECT has no body"));
    }
    // An upgrade to h2c would hide what follows from routing and authorization; it may be ignored (RFC 9110 §7.8). Where it stands among
    // others, or on a line of its own, the upstream could choose it: then there is no upgrade at all.
    let fits = version == Version::Http11 && seen.connection_upgrade && bodiless && !seen.h2c;
    let protocol = seen.upgrade.filter(|_| fits).and_then(|at| ByteStr::from_utf8(head.slice(at.range())));
    let named = seen.host.filter(|at| at.length > 0);
    let authority = target.authority.or_else(|| named.and_then(|at| ByteStr::from_utf8(head.slice(at.range()))));
    let framing = RequestFraming {
        expect_continue: seen.expect && version == Version::Http11 && !bodiless,
        keep_alive: persistent(version, seen.close, seen.keep_alive),
        body,
    };
    headers.read_from(head);
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
    Ok(Some((head, framing)))
}

fn persistent(version: Version, close: bool, keep_alive: bool) -> bool {
    !close && (version == Version::Http11 || keep_alive)
}

/// Takes the head of a response to a request with `method` off the front of `buffer`, like [`request`].
pub(super) fn response(
    buffer: &mut BytesMut,
    scanned: &mut usize,
    limits: &Limits,
    method: &Method,
) -> Result<Option<(ResponseHead, ResponseFraming)>, Refusal> {
    if !begin(buffer, scanned, limits)? {
        return Ok(None);
    }
    let mut cursor = Cursor::new(buffer);
    let found = cursor.status_line().and_then(|(minor, code, reason)| {
        let status = StatusCode::from_bytes(code).map_err(|_| Refusal::Malformed("no status"))?;
        Ok((minor, status, reason, headers(&mut cursor, limits)?))
    });
    let end = cursor.at();
    let Some((minor, status, reason, (mut headers, seen))) = finish(found, buffer, scanned, limits)? else {
        return Ok(None);
    };
    let head = take(buffer, end);
    let version = if minor == 1 { Version::Http11 } else { Version::Http10 };
    if seen.chunked && version == Version::Http10 {
        return Err(Refusal::Malformed("HTTP/1.0 has no Transfer-Encoding"));
    }
    let connected = *method == Method::CONNECT && status.is_success();
    let body = if status.is_informational() || status == StatusCode::NO_CONTENT || connected {
        // RFC 9110 §8.6: no Content-Length in 1xx, 204, or 2xx to CONNECT.
        headers.remove_all(Set::of(&[Known::ContentLength]));
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
    // A phrase that is not ASCII has no meaning that survives: it is dropped, as is one that says what its status says.
    let phrase = reason.of(&head);
    let reason = match phrase {
        phrase if status.canonical_reason().is_some_and(|usual| usual.as_bytes() == phrase) => None,
        phrase if phrase.is_ascii() => Some(head.slice(reason.range())),
        _ => Some(Bytes::new()),
    };
    headers.read_from(head);
    Ok(Some((ResponseHead { status, reason, headers, version }, ResponseFraming { body, keep_alive })))
}

#[cfg(test)]
#[path = "parse_tests.rs"]
mod tests;

#[cfg(test)]
#[path = "reference_tests.rs"]
mod reference_tests;
