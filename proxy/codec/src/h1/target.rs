//! What a request names: the forms of its target (RFC 9112 §3.2), and what may stand where a host does. Pure.

use super::parse::Refusal;
use crate::headers::Span;
use crate::{ByteStr, Form};
use bytes::Bytes;
use http::Method;
use http::uri::Scheme;

/// A request target that was understood.
pub(super) struct Target {
    pub form: Form,
    pub scheme: Option<Scheme>,
    pub authority: Option<ByteStr>,
    pub path: ByteStr,
}

/// Understands the target that lies at `at` in `head`.
pub(super) fn target(head: &Bytes, at: Span, method: &Method) -> Result<Target, Refusal> {
    const MALFORMED: Refusal = Refusal::Malformed("the first line is malformed");
    let bytes = at.of(head);
    let whole = || ByteStr::from_utf8(head.slice(at.range())).ok_or(MALFORMED);
    if *method == Method::CONNECT {
        let text = std::str::from_utf8(bytes).map_err(|_| MALFORMED)?;
        if !is_authority(bytes) || port(text).is_none() {
            return Err(Refusal::Malformed("CONNECT needs host:port"));
        }
        return Ok(Target { form: Form::Authority, scheme: None, authority: Some(whole()?), path: ByteStr::default() });
    }
    if bytes.contains(&b'#') {
        return Err(Refusal::Malformed("the target has a fragment"));
    }
    if bytes.first() == Some(&b'/') {
        return Ok(Target { form: Form::Origin, scheme: None, authority: None, path: whole()? });
    }
    if bytes == b"*" && *method == Method::OPTIONS {
        return Ok(Target { form: Form::Asterisk, scheme: None, authority: None, path: whole()? });
    }
    let text = std::str::from_utf8(bytes).map_err(|_| MALFORMED)?;
    let share = |part: &str| ByteStr::from_utf8(head.slice_ref(part.as_bytes())).unwrap_or_default();
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

/// `reg-name` (RFC 3986 §3.2.2), and the percent sign of its escapes.
const HOST: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0;
    while byte < 128 {
        let b = byte as u8;
        table[byte] =
            b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_' | b'~' | b'!' | b'$'..=b',' | b';' | b'=');
        byte += 1;
    }
    table
};

/// `uri-host [ ":" port ]` (RFC 9110 §7.2), without user information: it is deprecated and a way to disguise the host.
pub(crate) fn is_authority(text: &[u8]) -> bool {
    let port = if text.first() == Some(&b'[') {
        let Some(end) = text.iter().position(|byte| *byte == b']') else { return false };
        let address = std::str::from_utf8(&text[1..end]).unwrap_or_default();
        if address.parse::<std::net::Ipv6Addr>().is_err() {
            return false;
        }
        match &text[end + 1..] {
            [] => return true,
            [b':', port @ ..] => port,
            _ => return false,
        }
    } else {
        let end = text.iter().position(|byte| !HOST[usize::from(*byte)]).unwrap_or(text.len());
        if end == 0 || end > 255 {
            return false;
        }
        match &text[end..] {
            [] => return true,
            [b':', port @ ..] => port,
            _ => return false,
        }
    };
    port.len() <= 5
        && port.iter().all(u8::is_ascii_digit)
        && (port.is_empty() || std::str::from_utf8(port).is_ok_and(|p| p.parse::<u16>().is_ok()))
}
