//! Answers of the proxy itself: the error table put into the words of the caller's protocol.
//!
//! gRPC gets a Trailers-Only response (gRPC over HTTP/2, "Responses") with HTTP status 200, gRPC-Web the same as a frame; everybody else the
//! HTTP status, a line of text, and `weft-error`. What an error means is decided in `error`, never here.

use super::headers::{self, WEFT_AUTHORIZATION, WEFT_ERROR, WEFT_UNSENT};
use super::stream::Flow;
use super::web;
use crate::codec::{Grpc, Headers, Known, Reply, RequestHead, ResponseHead};
use crate::error::{Kind, ProxyError, Sent};
use bytes::Bytes;
use http::header::{self, HeaderName, HeaderValue};
use http::{Method, StatusCode};
use weft_policy::route::HeaderEdit;

pub(super) const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
pub(super) const GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");
const MESSAGE: usize = 1024;

/// What is on an answer besides its error.
pub struct Marks<'m> {
    /// What policy adds to every answer of the call.
    pub policy: Option<&'m HeaderEdit>,
    /// Value of `weft-authorization`.
    pub authorization: Option<HeaderValue>,
}

impl Marks<'_> {
    fn put(self, headers: &mut Headers) {
        if let Some(mark) = self.authorization {
            headers.append(WEFT_AUTHORIZATION, mark);
        }
        headers::edit(headers, self.policy.map(std::slice::from_ref).unwrap_or_default());
    }
}

/// Sends the whole answer.
///
/// # Errors
/// When the caller is gone.
pub async fn local(
    error: &ProxyError,
    grpc: Option<Grpc>,
    request: &RequestHead,
    marks: Marks<'_>,
    reply: &mut Reply<'_>,
    flow: &Flow,
) -> Result<(), ProxyError> {
    if let Some(grpc) = grpc {
        let mut head = ResponseHead::new(StatusCode::OK);
        blame(&mut head.headers, error);
        marks.put(&mut head.headers);
        return status_only(grpc, head, &grpc_trailers(error), request, reply, flow).await;
    }
    let mut head = ResponseHead::new(error.status());
    let text = format!("{error}\n");
    head.headers.append(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    head.headers.append(header::CONTENT_LENGTH, HeaderValue::from(text.len()));
    if error.kind == Kind::ProxyAuthentication {
        head.headers.append(header::PROXY_AUTHENTICATE, HeaderValue::from_static("Basic realm=\"weft\""));
    }
    // RFC 6750 §3.1: a request without authentication information is told no error code.
    let challenge = match error.kind {
        Kind::TokenMissing => Some("Bearer"),
        Kind::TokenRefused => Some("Bearer error=\"invalid_token\""),
        _ => None,
    };
    if let Some(challenge) = challenge {
        head.headers.append(header::WWW_AUTHENTICATE, HeaderValue::from_static(challenge));
    }
    blame(&mut head.headers, error);
    marks.put(&mut head.headers);
    if request.method == Method::HEAD {
        return reply.send_head(head, true).await.map_err(ProxyError::from);
    }
    reply.send_head(head, false).await?;
    flow.sent(text.len());
    reply.data(Bytes::from(text)).await?;
    reply.finish().await.map_err(ProxyError::from)
}

/// Sends a gRPC status without a message: Trailers-Only, or a frame of gRPC-Web.
///
/// # Errors
/// When the caller is gone.
pub(super) async fn status_only(
    grpc: Grpc,
    mut head: ResponseHead,
    trailers: &Headers,
    request: &RequestHead,
    reply: &mut Reply<'_>,
    flow: &Flow,
) -> Result<(), ProxyError> {
    match grpc {
        Grpc::Native => {
            head.headers.append(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
            for field in trailers.iter() {
                if let Some(value) = field.value.to_header_value() {
                    head.headers.append(field.name.clone(), value);
                }
            }
            reply.send_head(head, true).await.map_err(ProxyError::from)
        }
        Grpc::Web(sent) => {
            let (media, frame) = web::status(web::wanted(request, sent), trailers);
            if let Some(media) = media {
                head.headers.append(header::CONTENT_TYPE, media);
            }
            head.headers.append(header::CONTENT_LENGTH, HeaderValue::from(frame.len()));
            reply.send_head(head, false).await?;
            flow.sent(frame.len());
            reply.last(frame).await.map_err(ProxyError::from)
        }
    }
}

fn blame(headers: &mut Headers, error: &ProxyError) {
    headers.append(WEFT_ERROR, HeaderValue::from_static(error.header()));
    if error.sent == Sent::NotSent && error.retryable() {
        headers.append(WEFT_UNSENT, HeaderValue::from_static("true"));
    }
}

/// `grpc-status` and `grpc-message` of an error, for trailers.
#[must_use]
pub fn grpc_trailers(error: &ProxyError) -> Headers {
    let mut trailers = Headers::new();
    trailers.append(GRPC_STATUS, HeaderValue::from(u16::from(error.grpc_status())));
    if let Ok(message) = HeaderValue::from_str(&percent_encoded(&error.to_string())) {
        trailers.append(GRPC_MESSAGE, message);
    }
    trailers
}

/// The `grpc-status` of a header section, if it has a valid one.
#[must_use]
pub fn grpc_status(headers: &Headers) -> Option<u16> {
    headers.known(Known::GrpcStatus)?.to_str().ok()?.parse().ok().filter(|code| *code <= 999)
}

/// gRPC over HTTP/2, "Status-Message": printable ASCII except `%` stands for itself, every other byte is percent-encoded.
fn percent_encoded(text: &str) -> String {
    use std::fmt::Write as _;
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes().take(MESSAGE) {
        if (b' '..=b'~').contains(&byte) && byte != b'%' {
            out.push(char::from(byte));
        } else {
            let _ = write!(out, "%{byte:02X}");
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_grpc_message_is_percent_encoded_and_bounded() {
        assert_eq!(percent_encoded("a b%ü\n"), "a b%25%C3%BC%0A");
        assert!(percent_encoded(&"x".repeat(100_000)).len() <= MESSAGE * 3);
    }

    #[test]
    fn an_error_has_its_grpc_status_in_the_trailers() {
        let trailers = grpc_trailers(&ProxyError::because(Kind::NoEndpoint, "shop/orders:80 has no ready endpoint"));
        assert_eq!(grpc_status(&trailers), Some(14));
        assert_eq!(trailers.text(&GRPC_MESSAGE), Some("no-endpoint: shop/orders:80 has no ready endpoint"));
    }
}
