//! Header sections of HTTP/2 ↔ the shared heads: pseudo-headers and their rules (RFC 9113 §8.3), connection headers refused and left out
//! (§8.2.2), `Host` ↔ `:authority`, cookie crumbs joined. Pure; no I/O.

use super::hpack::{Encoder, Name, Nature};
use crate::h1::{is_authority, may_be_trailer};
use crate::{
    ByteStr, Form, Headers, RequestHead, ResponseHead, Value, Version, WEBSOCKET, is_hop_by_hop, is_websocket,
};
use crate::{Error, Kind};
use bytes::Bytes;
use http::header::{self, HeaderValue};
use http::uri::Scheme;
use http::{Method, StatusCode};

/// Room for the fields of a usual head.
const FIELDS: usize = 12;

/// A section that arrives, field by field.
pub(super) struct Section {
    method: Option<Bytes>,
    scheme: Option<Bytes>,
    authority: Option<Bytes>,
    path: Option<Bytes>,
    protocol: Option<Bytes>,
    status: Option<Bytes>,
    host: Option<HeaderValue>,
    headers: Headers,
    length: Option<u64>,
    cookies: usize,
    /// Another field than a pseudo-header was seen.
    regular: bool,
    pseudo: bool,
    fault: Option<&'static str>,
}

impl Section {
    pub(super) fn new() -> Self {
        Self {
            method: None,
            scheme: None,
            authority: None,
            path: None,
            protocol: None,
            status: None,
            host: None,
            headers: Headers::with_capacity(FIELDS),
            length: None,
            cookies: 0,
            regular: false,
            pseudo: false,
            fault: None,
        }
    }

    /// Takes the next field. What is wrong with it is told at the end.
    pub(super) fn field(&mut self, name: Name, value: Bytes) {
        if let Err(why) = self.take(name, value) {
            self.fault.get_or_insert(why);
        }
    }

    fn take(&mut self, name: Name, value: Bytes) -> Result<(), &'static str> {
        let place = match name {
            Name::Header(name) => return self.header(name, value),
            Name::Bad => return Err("a field's name is malformed"),
            Name::Method => &mut self.method,
            Name::Scheme => &mut self.scheme,
            Name::Authority => &mut self.authority,
            Name::Path => &mut self.path,
            Name::Protocol => &mut self.protocol,
            Name::Status => &mut self.status,
        };
        self.pseudo = true;
        // RFC 9113 §8.3: they MUST precede all others, and the same one MUST NOT appear more than once.
        if self.regular || place.replace(value).is_some() {
            return Err("a pseudo-header is late or doubled");
        }
        Ok(())
    }

    fn header(&mut self, name: header::HeaderName, value: Bytes) -> Result<(), &'static str> {
        self.regular = true;
        let value = HeaderValue::from_maybe_shared(value).map_err(|_| "a field's value is malformed")?;
        match name {
            header::HOST => {
                if self.host.replace(value).is_some() {
                    return Err("there are two Host headers");
                }
                return Ok(());
            }
            header::CONTENT_LENGTH => {
                let length = digits(value.as_bytes()).ok_or("Content-Length is no number")?;
                match self.length {
                    None => self.length = Some(length),
                    Some(_) => return Err("there are two Content-Length headers"),
                }
            }
            header::COOKIE => self.cookies += 1,
            // RFC 9113 §8.2.2: TE MUST NOT contain any value other than "trailers".
            header::TE if !value.as_bytes().eq_ignore_ascii_case(b"trailers") => return Err("TE is not \"trailers\""),
            _ if is_hop_by_hop(&name) => return Err("there is a header of HTTP/1 connections"),
            _ => {}
        }
        self.headers.append(name, value);
        Ok(())
    }

    /// As a request, with its Content-Length. `Err` says why it is malformed (RFC 9113 §8.1.1).
    pub(super) fn request(mut self) -> Result<(RequestHead, Option<u64>), &'static str> {
        if let Some(why) = self.fault {
            return Err(why);
        }
        if self.status.is_some() {
            return Err("a request has a :status");
        }
        let method = self.method.take().ok_or("there is no :method")?;
        let method = Method::from_bytes(&method).map_err(|_| ":method is malformed")?;
        let connect = method == Method::CONNECT;
        if self.protocol.is_some() && !connect {
            return Err(":protocol is for CONNECT only");
        }
        let tunnel = connect && self.protocol.is_none();
        // RFC 9113 §8.5: where a tunnel leads is said by :authority alone.
        if tunnel && (self.authority.is_none() || self.scheme.is_some() || self.path.is_some()) {
            return Err("a CONNECT has an :authority and neither :scheme nor :path");
        }
        let scheme = match self.scheme.take() {
            None if tunnel => None,
            None => return Err("there is no :scheme"),
            Some(scheme) => Some(read_scheme(&scheme)?),
        };
        let path = match self.path.take() {
            None if tunnel => ByteStr::default(),
            None => return Err("there is no :path"),
            Some(path) => read_path(path, &method)?,
        };
        let protocol = match self.protocol.take() {
            Some(protocol) if protocol.is_empty() || !protocol.iter().all(u8::is_ascii_graphic) => {
                return Err(":protocol is malformed");
            }
            // RFC 9110 §9.3.6: a CONNECT has no content, so that no length can be one of the bytes that follow.
            Some(_) if self.length.is_some() => return Err("an extended CONNECT has a Content-Length"),
            protocol => protocol.and_then(ByteStr::from_utf8),
        };
        let websocket = protocol.as_deref().is_some_and(is_websocket);
        let method = if websocket { Method::GET } else { method };
        let authority = self.read_authority()?;
        let form = match () {
            () if tunnel => Form::Authority,
            () if path == "*" => Form::Asterisk,
            () => Form::Origin,
        };
        self.join_cookies();
        let head = RequestHead {
            upgrade: protocol.is_some(),
            protocol,
            method,
            scheme,
            authority: Some(authority),
            path,
            headers: self.headers,
            version: Version::Http2,
            form,
        };
        Ok((head, self.length))
    }

    /// RFC 9113 §8.3.1: Host MUST NOT differ from :authority.
    fn read_authority(&mut self) -> Result<ByteStr, &'static str> {
        let text = match (self.authority.take(), &self.host) {
            (Some(authority), None) => authority,
            (Some(authority), Some(host)) if host.as_bytes().eq_ignore_ascii_case(&authority) => authority,
            (Some(_), Some(_)) => return Err("Host differs from :authority"),
            (None, Some(host)) => Bytes::copy_from_slice(host.as_bytes()),
            (None, None) => return Err("there is no :authority"),
        };
        if !is_authority(&text) {
            return Err(":authority is not a host");
        }
        ByteStr::from_utf8(text).ok_or(":authority is not a host")
    }

    /// RFC 9113 §8.2.3: crumbs MUST be joined with "; " before they are passed into a non-HTTP/2 context.
    fn join_cookies(&mut self) {
        if self.cookies > 1 {
            let crumbs: Vec<&[u8]> = self.headers.get_all(&header::COOKIE).map(Value::as_bytes).collect();
            if let Ok(joined) = HeaderValue::from_maybe_shared(Bytes::from(crumbs.join(&b"; "[..]))) {
                self.headers.set(&header::COOKIE, &joined);
            }
        }
    }

    /// As a response, with its Content-Length.
    pub(super) fn response(self) -> Result<(ResponseHead, Option<u64>), &'static str> {
        if let Some(why) = self.fault {
            return Err(why);
        }
        let others = [&self.method, &self.scheme, &self.authority, &self.path, &self.protocol];
        if others.iter().any(|pseudo| pseudo.is_some()) {
            return Err("a response has a pseudo-header of requests");
        }
        let status = self.status.ok_or("there is no :status")?;
        let status = StatusCode::from_bytes(&status).map_err(|_| ":status is malformed")?;
        // RFC 9113 §8.6: HTTP/2 removes support for 101.
        if status == StatusCode::SWITCHING_PROTOCOLS {
            return Err("HTTP/2 has no status 101");
        }
        Ok((ResponseHead { status, reason: None, headers: self.headers, version: Version::Http2 }, self.length))
    }

    /// As trailers.
    pub(super) fn trailers(self) -> Result<Headers, &'static str> {
        match self.fault {
            Some(why) => Err(why),
            // RFC 9113 §8.1: trailers MUST NOT include pseudo-header fields.
            None if self.pseudo => Err("a pseudo-header is among the trailers"),
            None => Ok(self.headers),
        }
    }
}

fn digits(text: &[u8]) -> Option<u64> {
    let digits = !text.is_empty() && text.iter().all(u8::is_ascii_digit);
    digits.then(|| std::str::from_utf8(text).ok()?.parse().ok()).flatten()
}

fn read_scheme(text: &[u8]) -> Result<Scheme, &'static str> {
    match text {
        b"http" => Ok(Scheme::HTTP),
        b"https" => Ok(Scheme::HTTPS),
        other => Scheme::try_from(other).map_err(|_| ":scheme is malformed"),
    }
}

/// RFC 9113 §8.3.1: it MUST NOT be empty, and starts with "/" but for `OPTIONS *`.
fn read_path(path: Bytes, method: &Method) -> Result<ByteStr, &'static str> {
    let asterisk = &path[..] == b"*" && *method == Method::OPTIONS;
    if path.first() != Some(&b'/') && !asterisk {
        return Err(":path is no path");
    }
    // Loops without a way out of them run many bytes at a time.
    let unfit = path.iter().fold(false, |unfit, byte| unfit | !(0x21..0x7f).contains(byte) | (*byte == b'#'));
    if unfit && path.iter().any(|byte| *byte <= b' ' || *byte == 0x7f || *byte == b'#') {
        return Err(":path is malformed");
    }
    ByteStr::from_utf8(path).ok_or(":path is malformed")
}

/// Appends the block of a request to `out`. `end` says that no body follows. On an error nothing was encoded.
pub(super) fn write_request(
    encoder: &mut Encoder,
    out: &mut Vec<u8>,
    head: &RequestHead,
    end: bool,
) -> Result<(), Error> {
    let method = if head.is_websocket() { &Method::CONNECT } else { &head.method };
    let connect = *method == Method::CONNECT;
    if head.upgrade && !connect {
        return Err(Error::because(Kind::Unsupported, "an HTTP/1.1 upgrade cannot be sent over HTTP/2"));
    }
    let authority = head.authority.as_ref().ok_or_else(|| Error::because(Kind::BadRequest, "there is no authority"))?;
    if !authority.as_bytes().iter().all(u8::is_ascii_graphic) || authority.is_empty() {
        return Err(Error::because(Kind::BadRequest, "the target cannot be written in HTTP/2"));
    }
    let protocol = head.protocol.as_ref().filter(|_| connect);
    encoder.begin(out);
    let mut pseudo = |name: Name, value: &[u8]| encoder.pseudo(out, &name, value);
    pseudo(Name::Method, method.as_str().as_bytes());
    if !connect || protocol.is_some() {
        let scheme = head.scheme.as_ref().map_or("http", Scheme::as_str);
        pseudo(Name::Scheme, scheme.as_bytes());
    }
    pseudo(Name::Authority, authority.as_bytes());
    if !connect || protocol.is_some() {
        match escaped(&head.path) {
            None => pseudo(Name::Path, head.path.as_bytes()),
            Some(path) => pseudo(Name::Path, path.as_bytes()),
        }
    }
    if let Some(protocol) = protocol {
        // RFC 8441 §5 spells it so; `Upgrade` may be in any case.
        let protocol = if is_websocket(protocol) { WEBSOCKET.as_bytes() } else { protocol.as_bytes() };
        pseudo(Name::Protocol, protocol);
    }
    write_fields(encoder, out, &head.headers, |field| !(end && is_length_of_something(field)));
    Ok(())
}

/// HTTP/1 callers send bytes in paths that URIs do not allow (`<`, `` ` ``, …): those are escaped. `None`: there are none.
fn escaped(path: &ByteStr) -> Option<String> {
    let fits = |byte: u8| (0x21..0x7f).contains(&byte) & (byte != b'<') & (byte != b'>') & (byte != b'`');
    if path.as_bytes().iter().fold(true, |all, byte| all & fits(*byte)) {
        return if path.is_empty() { Some("/".to_owned()) } else { None };
    }
    let mut escaped = String::with_capacity(path.len() + 16);
    for &byte in path.as_bytes() {
        if byte.is_ascii_graphic() && !b"<>\\^`|{}\"".contains(&byte) {
            escaped.push(char::from(byte));
        } else {
            escaped.push_str(&format!("%{byte:02X}"));
        }
    }
    Some(escaped)
}

/// Appends the block of a response to a request with `method` to `out`.
pub(super) fn write_response(
    encoder: &mut Encoder,
    out: &mut Vec<u8>,
    head: &ResponseHead,
    end: bool,
    method: &Method,
) {
    encoder.begin(out);
    encoder.pseudo(out, &Name::Status, head.status.as_str().as_bytes());
    let bodiless = end && *method != Method::HEAD && head.status != StatusCode::NOT_MODIFIED;
    write_fields(encoder, out, &head.headers, |field| {
        *field.name != header::TE && !(bodiless && is_length_of_something(field))
    });
}

/// Appends the block of trailers to `out`.
pub(super) fn write_trailers(encoder: &mut Encoder, out: &mut Vec<u8>, trailers: &Headers) {
    encoder.begin(out);
    write_fields(encoder, out, trailers, |field| may_be_trailer(field.name));
}

/// Does it promise a body?
fn is_length_of_something(field: crate::Field<'_>) -> bool {
    *field.name == header::CONTENT_LENGTH && field.value != "0"
}

fn write_fields(encoder: &mut Encoder, out: &mut Vec<u8>, headers: &Headers, fits: impl Fn(crate::Field<'_>) -> bool) {
    for field in headers.iter() {
        // :authority is in Host's place.
        if is_hop_by_hop(field.name) || *field.name == header::HOST {
            continue;
        }
        // RFC 9113 §8.2.2: TE MUST NOT contain any value other than "trailers".
        if *field.name == header::TE && !field.value.as_bytes().eq_ignore_ascii_case(b"trailers") {
            continue;
        }
        if !fits(field) {
            continue;
        }
        let nature = if field.value.is_sensitive() { Nature::Secret } else { Nature::of(field.name) };
        encoder.header(out, field.name, field.value.as_bytes(), nature);
    }
}
