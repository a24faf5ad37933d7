//! Writing heads and chunks: [`RequestHead`] or [`ResponseHead`] → bytes, and how the body that follows is framed. Pure; no I/O.
//!
//! Framing and connection headers are the encoder's alone: whatever the caller's headers say about them is not copied, so nothing
//! that came from a peer can make two readers disagree. `Host` is written from `authority`, in the place of the caller's.

use super::parse::{NO_TRAILER, number};
use crate::headers::{Known, Put, Set, write_line as line};
use crate::{ByteStr, Headers, RequestHead, ResponseHead, Version};
use crate::{Error, Kind};
use http::{Method, StatusCode};

/// How the body that is being written is framed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Encoder {
    /// No final head yet.
    Idle,
    /// This many bytes are left to write.
    Length(u64),
    /// In chunks.
    Chunked,
    /// The end of the connection ends it.
    UntilClose,
    /// The answer to HEAD, 204, 304: a body is swallowed.
    Bodiless,
    /// The protocol was switched: raw bytes follow.
    Raw,
    /// Everything was written.
    Done,
}

/// Appends the size line of a chunk.
pub(super) fn chunk_size(out: &mut Vec<u8>, size: usize) {
    let digits = (usize::BITS - size.leading_zeros()).div_ceil(4).max(1);
    for digit in (0..digits).rev() {
        let nibble = (size >> (digit * 4)) & 0xf;
        out.push(b"0123456789abcdef"[nibble]);
    }
    out.extend_from_slice(b"\r\n");
}

/// Appends the last chunk and the trailers.
pub(super) fn last_chunk(out: &mut Vec<u8>, trailers: Option<&Headers>) {
    out.extend_from_slice(b"0\r\n");
    if let Some(trailers) = trailers {
        trailers.write(out, NO_TRAILER, |_, _| Put::Dropped);
    }
    out.extend_from_slice(b"\r\n");
}

fn length(headers: &Headers) -> Option<u64> {
    number(headers.known(Known::ContentLength)?.as_bytes())
}

/// A length as it may be copied: zeros before it are octal to some readers.
fn is_plain(digits: &[u8]) -> bool {
    !matches!(digits, [b'0', _, ..])
}

/// What the encoder writes rather than copies: framing, and what concerns the connection.
const FRAMING: Set = Set::of(&[
    Known::Connection,
    Known::TransferEncoding,
    Known::Upgrade,
    Known::KeepAlive,
    Known::ProxyConnection,
    Known::ContentLength,
]);

/// Appends a request's head. `end` says that no body follows.
pub(super) fn request(out: &mut Vec<u8>, head: &RequestHead, end: bool) -> Result<Encoder, Error> {
    let connect = head.method == Method::CONNECT;
    if connect && head.protocol.is_some() {
        return Err(Error::because(Kind::Unsupported, "extended CONNECT cannot be sent over HTTP/1.1"));
    }
    let authority = head.authority.as_ref().map_or(&b""[..], ByteStr::as_bytes);
    let target = if connect { authority } else { head.path.as_bytes() };
    // A space or a control character would end the target early: what follows would be another request.
    if target.is_empty() || !is_visible(target) || !is_visible(authority) {
        return Err(Error::because(Kind::BadRequest, "the target cannot be written on a request line"));
    }
    out.extend_from_slice(head.method.as_str().as_bytes());
    out.push(b' ');
    out.extend_from_slice(target);
    out.extend_from_slice(b" HTTP/1.1\r\n");
    if head.headers.known(Known::Host).is_none() {
        line(out, b"host", authority);
    }
    let declared = length(&head.headers);
    let upgrade = head.upgrade.then_some(()).and(head.protocol.as_ref());
    let mut te = false;
    let mut length_written = false;
    let mut digits = itoa::Buffer::new();
    let digits = digits.format(declared.unwrap_or_default());
    let special = FRAMING.and(Set::of(&[Known::Host, Known::Te]));
    head.headers.write(out, special, |name, field| match name {
        Known::Host if field.value.as_bytes() == authority => Put::Kept,
        Known::Host => Put::With(authority),
        Known::Upgrade if upgrade.is_some() => Put::Kept,
        Known::Te => {
            te = true;
            Put::Kept
        }
        Known::ContentLength if !length_written && !connect && declared.is_some() => {
            length_written = true;
            match end {
                true => Put::With(b"0"),
                false if is_plain(field.value.as_bytes()) => Put::Kept,
                false => Put::With(digits.as_bytes()),
            }
        }
        _ => Put::Dropped,
    });
    let encoder = if connect || end {
        // RFC 9110 §8.6: a user agent SHOULD send Content-Length when the method defines a meaning for content and it sends none.
        let expects_body = [Method::POST, Method::PUT, Method::PATCH].contains(&head.method);
        if end && !length_written && expects_body {
            line(out, b"content-length", b"0");
        }
        if connect { Encoder::Raw } else { Encoder::Done }
    } else if let Some(length) = declared {
        Encoder::Length(length)
    } else {
        line(out, b"transfer-encoding", b"chunked");
        Encoder::Chunked
    };
    match (upgrade.is_some(), te) {
        (true, true) => line(out, b"Connection", b"Upgrade, TE"),
        (true, false) => line(out, b"Connection", b"Upgrade"),
        (false, true) => line(out, b"Connection", b"TE"),
        (false, false) => {}
    }
    out.extend_from_slice(b"\r\n");
    Ok(encoder)
}

/// What a response answers.
pub(super) struct Answering<'a> {
    pub method: &'a Method,
    pub version: Version,
    /// The caller, and so far the proxy, want to keep the connection.
    pub keep_alive: bool,
}

/// Appends a response's head; the framing of its body and whether the connection stays open after it.
pub(super) fn response(
    out: &mut Vec<u8>,
    head: &ResponseHead,
    end: bool,
    answering: &Answering<'_>,
) -> (Encoder, bool) {
    let status = head.status;
    let switching = status == StatusCode::SWITCHING_PROTOCOLS;
    let connected = *answering.method == Method::CONNECT && status.is_success();
    let bodiless = status.is_informational() || status == StatusCode::NO_CONTENT || connected;
    let describes_only = *answering.method == Method::HEAD || status == StatusCode::NOT_MODIFIED;
    out.extend_from_slice(b"HTTP/1.1 ");
    out.extend_from_slice(status.as_str().as_bytes());
    out.push(b' ');
    match &head.reason {
        // A reason phrase that could end the line is replaced: it would split the response.
        Some(reason) if reason.iter().all(|b| *b == b'\t' || (*b >= 0x20 && *b != 0x7f)) => {
            out.extend_from_slice(reason)
        }
        _ => out.extend_from_slice(status.canonical_reason().unwrap_or_default().as_bytes()),
    }
    out.extend_from_slice(b"\r\n");
    let declared = if bodiless { None } else { length(&head.headers) };
    let mut length_written = false;
    let mut digits = itoa::Buffer::new();
    let digits = digits.format(declared.unwrap_or_default());
    head.headers.write(out, FRAMING, |name, field| match name {
        Known::ContentLength => match declared.filter(|_| !length_written) {
            Some(length) => {
                length_written = true;
                match !end || describes_only || length == 0 {
                    false => Put::With(b"0"),
                    true if is_plain(field.value.as_bytes()) => Put::Kept,
                    true => Put::With(digits.as_bytes()),
                }
            }
            None => Put::Dropped,
        },
        Known::Upgrade if switching || status == StatusCode::UPGRADE_REQUIRED => Put::Kept,
        _ => Put::Dropped,
    });
    let mut keep_alive = answering.keep_alive;
    let encoder = if switching || connected {
        Encoder::Raw
    } else if bodiless || describes_only {
        Encoder::Bodiless
    } else if end {
        if !length_written {
            line(out, b"content-length", b"0");
        }
        Encoder::Done
    } else if let Some(length) = declared {
        Encoder::Length(length)
    } else if answering.version == Version::Http10 {
        keep_alive = false;
        Encoder::UntilClose
    } else {
        line(out, b"transfer-encoding", b"chunked");
        Encoder::Chunked
    };
    if switching {
        line(out, b"Connection", b"Upgrade");
    } else if !status.is_informational() && !connected {
        if !keep_alive {
            line(out, b"connection", b"close");
        } else if answering.version == Version::Http10 {
            line(out, b"connection", b"keep-alive");
        }
    }
    out.extend_from_slice(b"\r\n");
    (encoder, keep_alive)
}

/// Without leaving early: so that the compiler looks at many bytes at a time.
fn is_visible(text: &[u8]) -> bool {
    text.iter().fold(true, |visible, byte| visible & (*byte > 0x20) & (*byte != 0x7f))
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use http::header::{self, HeaderName, HeaderValue};

    fn written(head: &RequestHead, end: bool) -> (String, Encoder) {
        let mut out = Vec::new();
        let encoder = request(&mut out, head, end).expect("writable");
        (String::from_utf8(out).expect("text"), encoder)
    }

    fn answered(head: &ResponseHead, end: bool, method: &Method, version: Version) -> (String, Encoder, bool) {
        let mut out = Vec::new();
        let (encoder, keep) = response(&mut out, head, end, &Answering { method, version, keep_alive: true });
        (String::from_utf8(out).expect("text"), encoder, keep)
    }

    #[test]
    fn chunk_sizes_are_hexadecimal_without_leading_zeroes() {
        for (size, text) in [(0, "0\r\n"), (1, "1\r\n"), (15, "f\r\n"), (16, "10\r\n"), (65_536, "10000\r\n")] {
            let mut out = Vec::new();
            chunk_size(&mut out, size);
            assert_eq!(out, text.as_bytes());
        }
    }

    #[test]
    fn the_authority_is_written_where_the_caller_had_its_host() {
        let mut head = RequestHead::new(Method::GET, "catalog:8080", "/a?b=c");
        head.headers.append(header::ACCEPT, HeaderValue::from_static("*/*"));
        head.headers.append_raw(header::HOST, Bytes::from_static(b"HOST"), HeaderValue::from_static("old"));
        let (text, encoder) = written(&head, true);
        assert_eq!(text, "GET /a?b=c HTTP/1.1\r\naccept: */*\r\nHOST: catalog:8080\r\n\r\n");
        assert_eq!(encoder, Encoder::Done);
    }

    #[test]
    fn framing_headers_of_the_caller_are_not_copied() {
        let mut head = RequestHead::new(Method::POST, "catalog", "/");
        for (name, value) in
            [("transfer-encoding", "gzip"), ("connection", "x"), ("keep-alive", "1"), ("upgrade", "h2c")]
        {
            head.headers.append(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        let (text, encoder) = written(&head, false);
        assert_eq!(text, "POST / HTTP/1.1\r\nhost: catalog\r\ntransfer-encoding: chunked\r\n\r\n");
        assert_eq!(encoder, Encoder::Chunked);
        assert_eq!(written(&head, true).0, "POST / HTTP/1.1\r\nhost: catalog\r\ncontent-length: 0\r\n\r\n");
    }

    #[test]
    fn a_length_is_written_without_leading_zeroes() {
        for (given, length) in [("010", 10), ("0", 0), ("5", 5)] {
            let mut head = RequestHead::new(Method::POST, "catalog", "/");
            head.headers.append(header::CONTENT_LENGTH, HeaderValue::from_static(given));
            let (text, encoder) = self::written(&head, false);
            assert!(encoder == Encoder::Length(length), "{encoder:?}");
            assert!(text.contains(&format!("content-length: {length}\r\n")), "{text}");
        }
    }

    #[test]
    fn a_target_that_would_split_the_request_is_refused() {
        for path in ["/a b", "/a\r\nX: 1", "/a\tb", ""] {
            let head = RequestHead::new(Method::GET, "catalog", path);
            assert!(request(&mut Vec::new(), &head, true).is_err(), "{path:?}");
        }
        let head = RequestHead::new(Method::GET, "catalog\r\nX: 1", "/");
        assert!(request(&mut Vec::new(), &head, true).is_err());
    }

    #[test]
    fn a_reason_that_would_split_the_response_is_replaced() {
        let mut head = ResponseHead::new(StatusCode::OK);
        head.reason = Some(Bytes::from_static(b"Fine\r\nX: 1"));
        assert!(answered(&head, true, &Method::GET, Version::Http11).0.starts_with("HTTP/1.1 200 OK\r\n"));
        head.reason = Some(Bytes::from_static(b"Very Fine"));
        assert!(answered(&head, true, &Method::GET, Version::Http11).0.starts_with("HTTP/1.1 200 Very Fine\r\n"));
    }

    #[test]
    fn each_kind_of_response_gets_its_framing() {
        let mut head = ResponseHead::new(StatusCode::OK);
        assert_eq!(answered(&head, false, &Method::GET, Version::Http11).1, Encoder::Chunked);
        let (text, encoder, keep) = answered(&head, false, &Method::GET, Version::Http10);
        assert!(encoder == Encoder::UntilClose && !keep && text.contains("connection: close"), "{text}");
        head.headers.append(header::CONTENT_LENGTH, HeaderValue::from_static("5"));
        assert_eq!(answered(&head, false, &Method::GET, Version::Http11).1, Encoder::Length(5));
        let (text, encoder, keep) = answered(&head, true, &Method::HEAD, Version::Http10);
        assert!(encoder == Encoder::Bodiless && keep && text.contains("content-length: 5"), "{text}");
        head.status = StatusCode::NO_CONTENT;
        let (text, encoder, _) = answered(&head, true, &Method::GET, Version::Http11);
        assert!(encoder == Encoder::Bodiless && !text.contains("content-length"), "{text}");
    }
}
