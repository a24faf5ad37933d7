//! What a request asks for beyond HTTP, told by its head whatever version carried it: a websocket, or one of the kinds of gRPC.

use super::{Known, RequestHead};
use http::Method;

impl RequestHead {
    /// What kind of gRPC call it is, if any.
    #[must_use]
    pub fn grpc(&self) -> Option<Grpc> {
        let media = self.headers.known(Known::ContentType)?.as_bytes();
        let rest = media.strip_prefix(b"application/grpc")?;
        if matches!(rest.first(), None | Some(b'+' | b';')) {
            return Some(Grpc::Native);
        }
        Web::of(media).filter(|_| self.method == Method::POST).map(Grpc::Web)
    }

    /// Is it a gRPC call (`application/grpc`, `application/grpc+proto`, …)?
    #[must_use]
    pub fn is_grpc(&self) -> bool {
        self.grpc() == Some(Grpc::Native)
    }

    /// Does it ask for a websocket, by `Upgrade` (RFC 6455 §4.1) or by extended CONNECT (RFC 8441 §5)? Routes and policies speak of GET
    /// in both cases: what a call is must not depend on the version that carries it.
    #[must_use]
    pub fn is_websocket(&self) -> bool {
        self.upgrade && self.method == Method::GET && self.protocol.as_deref().is_some_and(is_websocket)
    }
}

/// The name by which both versions ask for a websocket.
pub const WEBSOCKET: &str = "websocket";

/// Whether a protocol to switch to is that.
pub fn is_websocket(protocol: &str) -> bool {
    protocol.eq_ignore_ascii_case(WEBSOCKET)
}

/// The kinds of gRPC calls, by their content type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Grpc {
    /// gRPC over HTTP/2: `application/grpc`, `application/grpc+proto`, …
    Native,
    /// gRPC-Web (PROTOCOL-WEB): trailers travel in the body.
    Web(Web),
}

/// The forms of a body of gRPC-Web.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Web {
    /// `application/grpc-web`, `application/grpc-web+proto`, …
    Binary,
    /// `application/grpc-web-text`, `application/grpc-web-text+proto`, …: base64.
    Text,
}

impl Web {
    /// The form that a media type means.
    #[must_use]
    pub fn of(media: &[u8]) -> Option<Self> {
        let rest = media.strip_prefix(b"application/grpc-web")?;
        let (form, rest) = match rest.strip_prefix(b"-text") {
            // "Text encoding may be specified … as application/grpc-web-text-base64".
            Some(rest) => (Self::Text, rest.strip_prefix(b"-base64").unwrap_or(rest)),
            None => (Self::Binary, rest),
        };
        matches!(rest.first(), None | Some(b'+' | b';' | b' ')).then_some(form)
    }
}
