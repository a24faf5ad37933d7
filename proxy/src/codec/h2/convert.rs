//! Heads between the shared types and the `h2` crate's: `Host` ↔ `:authority`, connection headers left out, cookie crumbs joined, and
//! errors told apart by what they mean for a retry. Pure; no I/O.

use crate::codec::h1::{is_authority, may_be_trailer};
use crate::codec::{ByteStr, Form, Headers, RequestHead, ResetCode, ResponseHead, Version};
use crate::error::{Kind, ProxyError, Sent};
use bytes::{Bytes, BytesMut};
use h2::Reason;
use h2::ext::Protocol;
use http::header::{self, HeaderMap, HeaderValue};
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{Method, Request, Response, Uri};
use std::io;

/// A request that arrived. `Err` says why it is malformed (RFC 9113 §8.1.1).
pub(super) fn request_in<B>(request: Request<B>) -> Result<(RequestHead, B), &'static str> {
    let (parts, body) = request.into_parts();
    let uri = parts.uri.into_parts();
    let protocol = parts.extensions.get::<Protocol>().map(|protocol| ByteStr::from(protocol.as_str()));
    let mut map = parts.headers;
    let plain_connect = parts.method == Method::CONNECT && protocol.is_none();
    // RFC 9113 §8.5: where a tunnel leads is said by :authority alone.
    if plain_connect && uri.authority.is_none() {
        return Err("a CONNECT has no :authority");
    }
    let path = uri.path_and_query.as_ref().map_or("/", PathAndQuery::as_str);
    // Both texts in one buffer, which whoever keeps one of them shares.
    let room = path.len() + uri.authority.as_ref().map_or(0, |authority| authority.as_str().len());
    let mut texts = BytesMut::with_capacity(room);
    let authority = authority_in(uri.authority, &mut map, &mut texts)?;
    if map.get_all(header::CONTENT_LENGTH).iter().count() > 1 {
        return Err("there are two Content-Length headers");
    }
    join_cookies(&mut map);
    let path = if plain_connect { ByteStr::default() } else { ByteStr::copied(path, &mut texts) };
    let form = match () {
        () if plain_connect => Form::Authority,
        () if path == "*" => Form::Asterisk,
        () => Form::Origin,
    };
    let head = RequestHead {
        upgrade: protocol.is_some(),
        protocol,
        method: parts.method,
        scheme: uri.scheme,
        authority: Some(authority),
        path,
        headers: Headers::from_map(map),
        version: Version::Http2,
        form,
    };
    Ok((head, body))
}

/// RFC 9113 §8.3.1: Host MUST NOT differ from :authority.
fn authority_in(pseudo: Option<Authority>, map: &mut HeaderMap, texts: &mut BytesMut) -> Result<ByteStr, &'static str> {
    if map.get_all(header::HOST).iter().count() > 1 {
        return Err("there are two Host headers");
    }
    let host = map.remove(header::HOST);
    let text = match (&pseudo, &host) {
        (Some(authority), None) => authority.as_str(),
        (Some(authority), Some(host)) if host.as_bytes().eq_ignore_ascii_case(authority.as_str().as_bytes()) => {
            authority.as_str()
        }
        (Some(_), Some(_)) => return Err("Host differs from :authority"),
        (None, Some(host)) => host.to_str().map_err(|_| "Host is not a host")?,
        (None, None) => return Err("there is no :authority"),
    };
    if is_authority(text.as_bytes()) { Ok(ByteStr::copied(text, texts)) } else { Err(":authority is not a host") }
}

/// RFC 9113 §8.2.3: crumbs MUST be joined with "; " before they are passed into a non-HTTP/2 context.
fn join_cookies(map: &mut HeaderMap) {
    if map.get_all(header::COOKIE).iter().count() > 1 {
        let crumbs: Vec<&[u8]> = map.get_all(header::COOKIE).iter().map(HeaderValue::as_bytes).collect();
        if let Ok(joined) = HeaderValue::from_bytes(&crumbs.join(&b"; "[..])) {
            map.insert(header::COOKIE, joined);
        }
    }
}

/// A request to be sent. `end` says that no body follows.
pub(super) fn request_out(head: &RequestHead, end: bool) -> Result<Request<()>, ProxyError> {
    let connect = head.method == Method::CONNECT;
    if head.upgrade && !connect {
        return Err(ProxyError::because(Kind::Unsupported, "an HTTP/1.1 upgrade cannot be sent over HTTP/2"));
    }
    let unwritable = |_| ProxyError::because(Kind::BadRequest, "the target cannot be written in HTTP/2");
    let authority =
        head.authority.as_ref().ok_or_else(|| ProxyError::because(Kind::BadRequest, "there is no authority"))?;
    let authority = Authority::from_maybe_shared(authority.bytes()).map_err(unwritable)?;
    let mut parts = http::uri::Parts::default();
    parts.authority = Some(authority);
    if !connect || head.protocol.is_some() {
        parts.scheme = Some(head.scheme.clone().unwrap_or(Scheme::HTTP));
        parts.path_and_query = Some(path_out(&head.path).map_err(unwritable)?);
    }
    let mut request = Request::new(());
    *request.method_mut() = head.method.clone();
    *request.uri_mut() =
        Uri::from_parts(parts).map_err(|_| ProxyError::because(Kind::BadRequest, "the target is malformed"))?;
    *request.version_mut() = http::Version::HTTP_2;
    *request.headers_mut() = head.headers.to_map();
    if end {
        drop_length_of_nothing(request.headers_mut());
    }
    if let Some(protocol) = head.protocol.as_deref().filter(|_| connect) {
        request.extensions_mut().insert(Protocol::from(protocol));
    }
    Ok(request)
}

/// HTTP/1 callers send bytes in paths that URIs do not allow (`<`, `` ` ``, …): those are escaped, everything else is shared.
fn path_out(path: &ByteStr) -> Result<PathAndQuery, http::uri::InvalidUri> {
    PathAndQuery::from_maybe_shared(path.bytes()).or_else(|_| {
        let mut escaped = String::with_capacity(path.len() + 16);
        for byte in path.bytes() {
            if byte.is_ascii_graphic() && !b"<>\\^`|{}\"".contains(&byte) {
                escaped.push(char::from(byte));
            } else {
                escaped.push_str(&format!("%{byte:02X}"));
            }
        }
        PathAndQuery::from_maybe_shared(Bytes::from(escaped))
    })
}

fn drop_length_of_nothing(map: &mut HeaderMap) {
    if map.get(header::CONTENT_LENGTH).is_some_and(|length| length != "0") {
        map.remove(header::CONTENT_LENGTH);
    }
}

/// A response that arrived.
pub(super) fn response_in<B>(response: Response<B>) -> (ResponseHead, B) {
    let (parts, body) = response.into_parts();
    let headers = Headers::from_map(parts.headers);
    (ResponseHead { status: parts.status, reason: None, headers, version: Version::Http2 }, body)
}

/// A response to be sent, to a request with `method`.
pub(super) fn response_out(head: &ResponseHead, end: bool, method: &Method) -> Response<()> {
    let mut response = Response::new(());
    *response.status_mut() = head.status;
    *response.headers_mut() = head.headers.to_map();
    response.headers_mut().remove(header::TE);
    if end && *method != Method::HEAD && head.status != http::StatusCode::NOT_MODIFIED {
        drop_length_of_nothing(response.headers_mut());
    }
    response
}

/// Trailers to be sent.
pub(super) fn trailers_out(trailers: &Headers) -> HeaderMap {
    let mut map = trailers.to_map();
    let unfit: Vec<_> = map.keys().filter(|name| !may_be_trailer(name)).cloned().collect();
    for name in unfit {
        map.remove(name);
    }
    map
}

/// An error of an attempt, with what may be known about whether the request was processed.
pub(super) fn upstream_error(error: h2::Error, answered: bool) -> ProxyError {
    let reached = if answered { Sent::Sent } else { Sent::Unknown };
    let (kind, sent) = match error.reason() {
        // RFC 9113 §8.7: REFUSED_STREAM, and streams above the last id of a GOAWAY, were not processed.
        Some(Reason::REFUSED_STREAM) if error.is_reset() => (Kind::Refused, Sent::NotSent),
        _ if error.is_go_away() && error.is_remote() => (Kind::Refused, Sent::NotSent),
        _ if error.is_reset() && error.is_remote() => (Kind::UpstreamReset, Sent::Sent),
        _ if error.is_io() => (Kind::UpstreamClosed, reached),
        Some(_) => (Kind::UpstreamProtocol, reached),
        // What the crate calls a user error is a stream or connection that ended before it was used.
        None => (Kind::UpstreamClosed, reached),
    };
    ProxyError::caused(kind, error).sent(sent)
}

/// An error of the caller's stream.
pub(super) fn downstream_error(error: h2::Error) -> ProxyError {
    let kind = match error.reason() {
        Some(Reason::PROTOCOL_ERROR) if !error.is_remote() => Kind::ClientBody,
        _ => Kind::ClientGone,
    };
    ProxyError::caused(kind, error)
}

/// As an error of a stream of bytes.
pub(super) fn io_error(error: h2::Error) -> io::Error {
    let kind = if error.is_io() { io::ErrorKind::ConnectionAborted } else { io::ErrorKind::ConnectionReset };
    match error.is_io() {
        true => error.into_io().unwrap_or_else(|| kind.into()),
        false => io::Error::new(kind, error),
    }
}

/// Does an I/O error say that the peer refused the stream unprocessed?
pub(crate) fn is_refused(error: &io::Error) -> bool {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<h2::Error>());
    inner.is_some_and(|error| {
        error.reason() == Some(Reason::REFUSED_STREAM) && error.is_reset() || error.is_go_away() && error.is_remote()
    })
}

impl From<ResetCode> for Reason {
    fn from(code: ResetCode) -> Self {
        match code {
            ResetCode::Cancel => Self::CANCEL,
            ResetCode::Internal => Self::INTERNAL_ERROR,
            ResetCode::Refused => Self::REFUSED_STREAM,
            ResetCode::Protocol => Self::PROTOCOL_ERROR,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(authority: Option<&str>, headers: &[(&'static str, &str)]) -> Request<()> {
        let mut builder = Request::builder().method("GET");
        builder = match authority {
            Some(authority) => builder.uri(format!("http://{authority}/a?b")),
            None => builder.uri("/a?b"),
        };
        for (name, value) in headers {
            builder = builder.header(*name, *value);
        }
        builder.body(()).expect("a request")
    }

    #[test]
    fn the_authority_comes_from_either_place_and_must_agree() {
        let host = |r| request_in(r).map(|(head, ())| head.authority.expect("there").to_string());
        assert_eq!(host(request(Some("catalog:80"), &[])).expect("valid"), "catalog:80");
        assert_eq!(host(request(None, &[("host", "catalog")])).expect("valid"), "catalog");
        assert_eq!(host(request(Some("catalog"), &[("host", "Catalog")])).expect("valid"), "catalog");
        assert!(host(request(Some("catalog"), &[("host", "payments")])).is_err());
        assert!(host(request(None, &[])).is_err());
        assert!(host(request(Some("user@catalog"), &[])).is_err());
        assert!(host(request(Some("c"), &[("content-length", "1"), ("content-length", "1")])).is_err());
    }

    #[test]
    fn cookie_crumbs_are_joined() {
        let (head, ()) = request_in(request(Some("c"), &[("cookie", "a=1"), ("cookie", "b=2")])).expect("valid");
        assert_eq!(head.headers.get_all(&header::COOKIE).collect::<Vec<_>>(), ["a=1; b=2"]);
    }

    #[test]
    fn a_head_of_http1_becomes_one_of_http2() {
        let mut head = RequestHead::new(Method::GET, "catalog", "/a<b?c");
        for (name, value) in
            [("host", "old"), ("connection", "x"), ("te", "trailers, gzip"), ("x-a", "1"), ("content-length", "7")]
        {
            head.headers.append(header::HeaderName::from_static(name), HeaderValue::from_str(value).expect("valid"));
        }
        let request = request_out(&head, true).expect("writable");
        assert_eq!(request.uri().to_string(), "http://catalog/a%3Cb?c");
        assert_eq!(request.headers().keys().map(|n| n.as_str()).collect::<Vec<_>>(), ["x-a"]);
        head.upgrade = true;
        assert_eq!(request_out(&head, true).expect_err("no upgrade").kind, Kind::Unsupported);
    }
}
