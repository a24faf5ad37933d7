//! Answers that policy gives instead of an upstream: redirects, CORS preflights, injected aborts, fixed responses. Errors of the proxy are
//! `reply`'s.

use super::observe::Observation;
use super::reply::{GRPC_STATUS, status_only};
use crate::codec::{Headers, Reply, RequestHead, ResponseHead, Version};
use crate::error::{Kind, ProxyError};
use bytes::Bytes;
use http::header::{self, HeaderName, HeaderValue};
use http::{Method, StatusCode};
use std::time::Duration;
use weft_policy::config::FixedResponse;
use weft_policy::fault::Abort;
use weft_policy::limit::rate::{Standings, retry_after};

/// `reason` of an injected abort, and its `weft-error`.
const FAULT: &str = "fault";

/// One answer, ready to be sent.
pub(crate) struct Answer {
    status: StatusCode,
    /// What a gRPC call gets instead of the status.
    grpc: Option<u8>,
    headers: Vec<(HeaderName, HeaderValue)>,
    body: Bytes,
    /// For metrics and the log; empty: the call went as it should.
    reason: &'static str,
}

fn status(code: u16) -> StatusCode {
    // Configuration was checked: what is no status does not come here.
    StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
}

/// Adds what policy adds to every answer of the call.
fn mark(head: &mut ResponseHead, seen: &Observation<'_>) {
    super::headers::edit(&mut head.headers, seen.marks.as_deref().map(std::slice::from_ref).unwrap_or_default());
}

impl Answer {
    pub fn redirect(code: u16, location: &str) -> Self {
        let headers = HeaderValue::from_str(location).ok().map(|location| (header::LOCATION, location));
        Self {
            status: status(code),
            grpc: None,
            headers: headers.into_iter().collect(),
            body: Bytes::new(),
            reason: "",
        }
    }

    /// 204 with the headers that CORS decided.
    pub fn preflight(headers: Vec<(HeaderName, HeaderValue)>) -> Self {
        Self { status: StatusCode::NO_CONTENT, grpc: None, headers, body: Bytes::new(), reason: "" }
    }

    pub fn fault(abort: Abort) -> Self {
        Self {
            status: status(abort.status),
            grpc: Some(abort.grpc_status),
            headers: vec![
                (header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8")),
                (super::headers::WEFT_ERROR, HeaderValue::from_static(FAULT)),
            ],
            body: Bytes::from_static(b"fault: injected by a TrafficPolicy\n"),
            reason: FAULT,
        }
    }

    /// 429 and when to come back.
    pub fn limited(limit: &str, wait: Duration, standings: &Standings) -> Self {
        let mut headers = vec![
            (header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8")),
            (super::headers::WEFT_ERROR, HeaderValue::from_static(Kind::RateLimited.row().header)),
            (header::RETRY_AFTER, retry_after(wait)),
        ];
        headers.extend(standings.fields().into_iter().flatten());
        Self {
            status: StatusCode::TOO_MANY_REQUESTS,
            grpc: Some(Kind::RateLimited.row().grpc),
            headers,
            body: Bytes::from(format!("rate-limited: {limit} is reached\n")),
            reason: Kind::RateLimited.row().label,
        }
    }

    pub fn fixed(response: &FixedResponse) -> Self {
        let media = response.content_type.clone().map(|value| (header::CONTENT_TYPE, value));
        Self {
            status: status(response.status),
            grpc: Some(Abort::grpc_status_of(response.status)),
            headers: media.into_iter().collect(),
            body: Bytes::copy_from_slice(&response.body),
            reason: "fallback",
        }
    }

    /// Sends it and records it.
    ///
    /// # Errors
    /// When the caller is gone.
    pub async fn send(
        mut self,
        request: &RequestHead,
        reply: &mut Reply<'_>,
        seen: &mut Observation<'_>,
    ) -> Result<(), ProxyError> {
        seen.outcome.reason = self.reason;
        if let (Some(grpc), Some(code)) = (seen.grpc(), self.grpc) {
            let mut trailers = Headers::new();
            trailers.append(GRPC_STATUS, HeaderValue::from(u16::from(code)));
            seen.outcome.grpc_status = Some(code.into());
            let mut head = ResponseHead::new(StatusCode::OK);
            mark(&mut head, seen);
            seen.answered(&head);
            return status_only(grpc, head, &trailers, request, reply, seen.flow()).await;
        }
        // To a caller of HTTP/2 that asks for another protocol success would be consent (RFC 8441 §5), and nobody is there to speak it.
        let asks = request.upgrade || request.method == Method::CONNECT;
        if asks && request.version == Version::Http2 && self.status.is_success() {
            self.status = StatusCode::SERVICE_UNAVAILABLE;
        }
        let mut head = ResponseHead::new(self.status);
        for (name, value) in self.headers {
            head.headers.append(name, value);
        }
        mark(&mut head, seen);
        // RFC 9110 §8.6: none with 204.
        let bodiless = matches!(self.status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
        if !bodiless {
            head.headers.append(header::CONTENT_LENGTH, HeaderValue::from(self.body.len()));
        }
        seen.answered(&head);
        if bodiless || self.body.is_empty() || request.method == Method::HEAD {
            return reply.send_head(head, true).await.map_err(ProxyError::from);
        }
        reply.send_head(head, false).await?;
        seen.flow().sent(self.body.len());
        reply.last(self.body).await.map_err(ProxyError::from)
    }
}
