//! The opening handshake of a websocket between two versions of HTTP: `Upgrade` (RFC 6455 §4) and extended CONNECT (RFC 8441 §5).
//!
//! Both codecs give and take the same head, a GET that asks to switch to `websocket`, so that routes and policies see one kind of call.
//! What HTTP/1.1 proves with `Sec-WebSocket-Key` and `Sec-WebSocket-Accept`, HTTP/2 has no need of; here the proofs are made where one side
//! asks for them, and an upstream of HTTP/1.1 is held to its own. What follows the handshake is bytes and no business of this module.

use crate::codec::{RequestHead, ResponseHead, Value, Version};
use crate::error::{Kind, ProxyError, Sent};
use crate::random;
use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::StatusCode;
use http::header::{self, HeaderValue};

/// RFC 6455 §1.3.
const GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
const WEBSOCKET: HeaderValue = HeaderValue::from_static("websocket");
/// A key: 16 bytes in base64.
const KEY: usize = 24;

/// What the two sides of one attempt have to be told.
pub(super) enum Handshake {
    /// HTTP/1.1 to HTTP/2: the caller is owed this `Sec-WebSocket-Accept`.
    Owes(HeaderValue),
    /// HTTP/2 to HTTP/1.1: the upstream owes this one.
    Expects(HeaderValue),
    /// HTTP/1.1 on both sides: the upstream owes the caller this one, and a server that does not speak websocket must not get bytes that
    /// the caller masks for one.
    Passes(HeaderValue),
    /// HTTP/2 on both sides.
    Native,
}

impl Handshake {
    /// Makes `head` ready for an upstream that speaks HTTP/2 (`native`) or HTTP/1.1.
    ///
    /// # Errors
    /// [`Kind::BadRequest`] when the caller's part breaks RFC 6455 §4.2.1.
    pub fn begin(head: &mut RequestHead, native: bool) -> Result<Self, ProxyError> {
        let refused = |why| Err(ProxyError::because(Kind::BadRequest, why));
        let from_http2 = head.version == Version::Http2;
        if !(native && from_http2) && head.headers.only(&header::SEC_WEBSOCKET_VERSION).is_none() {
            return refused("a websocket handshake has one Sec-WebSocket-Version");
        }
        let key = head.headers.only(&header::SEC_WEBSOCKET_KEY).map(Value::as_bytes);
        let owed = key.filter(|key| !from_http2 && is_key(key)).and_then(accept);
        // RFC 8441 §5: HTTP/2 has no use for these; what came all the same proves nothing. No length is one of what follows.
        for name in [header::SEC_WEBSOCKET_KEY, header::SEC_WEBSOCKET_ACCEPT, header::CONTENT_LENGTH] {
            head.headers.remove(&name);
        }
        match (from_http2, native, owed) {
            (true, true, _) => return Ok(Self::Native),
            (true, false, _) => {}
            (false, _, Some(owed)) => return Ok(Self::Owes(owed)),
            (false, _, None) => return refused("a websocket handshake has one Sec-WebSocket-Key of 16 bytes"),
        }
        let key = STANDARD.encode([random::draw().to_ne_bytes(), random::draw().to_ne_bytes()].concat());
        let (Some(expected), Ok(key)) = (accept(key.as_bytes()), HeaderValue::from_str(&key)) else {
            return Err(ProxyError::because(Kind::Internal, "a key that is no header value"));
        };
        head.headers.set(&header::UPGRADE, &WEBSOCKET);
        head.headers.set(&header::SEC_WEBSOCKET_KEY, &key);
        Ok(Self::Expects(expected))
    }

    /// Between two sides of HTTP/1.1 nothing is changed. `None`: the caller's part is none that a server may accept (RFC 6455 §4.2.1), which
    /// is for the server to say.
    pub fn between(head: &RequestHead) -> Option<Self> {
        let key = head.headers.only(&header::SEC_WEBSOCKET_KEY).map(Value::as_bytes).filter(|key| is_key(key))?;
        accept(key).map(Self::Passes)
    }

    /// Makes the upstream's answer one for the caller; whether the connection now carries a websocket.
    ///
    /// # Errors
    /// [`Kind::UpstreamProtocol`] when the upstream accepts what it was not asked, or does not prove that it understood.
    pub fn finish(&self, head: &mut ResponseHead) -> Result<bool, ProxyError> {
        let success = head.status.is_success();
        match self {
            Self::Expects(expected) if head.status == StatusCode::SWITCHING_PROTOCOLS => {
                proven(head, expected).map_err(broken)?;
                head.status = StatusCode::OK;
                head.headers.remove(&header::UPGRADE);
            }
            Self::Passes(expected) if head.status == StatusCode::SWITCHING_PROTOCOLS => {
                return proven(head, expected).map(|()| true).map_err(broken);
            }
            // To a caller of HTTP/2 it would be consent.
            Self::Expects(_) if success => {
                return Err(broken(format!("{} to a websocket handshake, in place of 101", head.status.as_u16())));
            }
            Self::Owes(owed) if success => {
                head.status = StatusCode::SWITCHING_PROTOCOLS;
                head.headers.set(&header::UPGRADE, &WEBSOCKET);
                head.headers.set(&header::SEC_WEBSOCKET_ACCEPT, owed);
                head.headers.remove(&header::CONTENT_LENGTH);
                return Ok(true);
            }
            Self::Native if success => {}
            _ => return Ok(false),
        }
        // RFC 9110 §9.3.6: there is no length to what follows.
        head.headers.remove(&header::CONTENT_LENGTH);
        head.headers.remove(&header::SEC_WEBSOCKET_ACCEPT);
        head.reason = None;
        Ok(true)
    }
}

/// RFC 6455 §4.1, what a client checks of the server's answer.
fn proven(head: &ResponseHead, expected: &HeaderValue) -> Result<(), &'static str> {
    let headers = &head.headers;
    if !headers.only(&header::UPGRADE).is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"websocket")) {
        return Err("101 to a websocket handshake, and the Upgrade is to something else");
    }
    let mut options =
        headers.get_all(&header::CONNECTION).flat_map(|value| value.as_bytes().split(|byte| *byte == b','));
    if !options.any(|option| option.trim_ascii().eq_ignore_ascii_case(b"upgrade")) {
        return Err("101 to a websocket handshake without Connection: Upgrade");
    }
    match headers.only(&header::SEC_WEBSOCKET_ACCEPT) {
        Some(value) if value.as_bytes() == expected.as_bytes() => Ok(()),
        _ => Err("101 to a websocket handshake, and its Sec-WebSocket-Accept does not fit the key"),
    }
}

fn broken(why: impl Into<std::borrow::Cow<'static, str>>) -> ProxyError {
    ProxyError::because(Kind::UpstreamProtocol, why).sent(Sent::Sent)
}

/// Whether it stands for 16 bytes. Bits beyond them are nobody's concern.
fn is_key(text: &[u8]) -> bool {
    let letter = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/');
    text.len() == KEY && text.ends_with(b"==") && text[..KEY - 2].iter().all(letter)
}

/// RFC 6455 §4.2.2, step 5.4.
fn accept(key: &[u8]) -> Option<HeaderValue> {
    let proof = digest(&SHA1_FOR_LEGACY_USE_ONLY, &[key, GUID].concat());
    HeaderValue::from_str(&STANDARD.encode(proof.as_ref())).ok()
}

#[cfg(test)]
#[path = "websocket_tests.rs"]
mod tests;
