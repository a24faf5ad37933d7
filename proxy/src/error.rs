//! The one error type of the data path, and the one table that says what an error means to a caller, a metric and a retry.
//!
//! Everything below the exchange (codecs, connector, TLS) names what happened as a [`Kind`], who is at fault as a [`Side`], and
//! whether the request may have reached the upstream application as [`Sent`]. Nobody else decides on a status: a new kind is a new
//! row in [`Kind::row`], and the compiler asks for it.

use crate::codec;
use http::StatusCode;
use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

pub use codec::Sent;

/// What went wrong, in the words of the proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// The caller's bytes are not a valid request.
    BadRequest,
    /// The caller's header section exceeds the limits.
    HeadersTooLarge,
    /// The caller's body exceeds what it declared or what is allowed.
    BodyTooLarge,
    /// The caller did not finish its header section in time.
    HeaderTimeout,
    /// The caller went away before its call was answered.
    ClientGone,
    /// The caller's body broke off.
    ClientBody,
    /// The request asks for something this proxy does not do.
    Unsupported,
    /// No service has the name that the request addresses.
    UnknownHost,
    /// The explicit listener demands credentials.
    ProxyAuthentication,
    /// The destination is one a proxy must not reach: itself, literal loopback, link-local, or egress that is not declared.
    ForbiddenDestination,
    /// Authorization refused the call.
    Denied,
    /// The request brings no token, and one is demanded.
    TokenMissing,
    /// The request's token is not acceptable.
    TokenRefused,
    /// A peer came without a certificate to a port that demands one.
    PlaintextRefused,
    /// A tunnel names a port that this workload does not serve.
    UnknownPort,
    /// No route matches.
    NoRoute,
    /// The chosen backend reference does not resolve.
    UnresolvedBackend,
    /// No endpoint is ready.
    NoEndpoint,
    /// Every endpoint that is ready is ejected by its breaker.
    BreakerOpen,
    /// A limit on connections, pending or concurrent calls is reached.
    Overflow,
    /// A rate limit is reached.
    RateLimited,
    /// Discovery did not answer in time, and nothing is known from before.
    Undiscovered,
    /// The proxy shuts down.
    Draining,
    /// No connection to the endpoint could be made.
    ConnectFailed,
    /// The connection (DNS, TCP, TLS and settings together) took too long.
    ConnectTimeout,
    /// The endpoint's certificate or TLS handshake is not acceptable, or it did not accept ours.
    TlsFailed,
    /// The peer's certificate was revoked, or the peer says that of ours.
    CertificateRevoked,
    /// The peer's sidecar refused the tunnel.
    TunnelRefused,
    /// The upstream refused the call without processing it (REFUSED_STREAM, GOAWAY above the last id, a stale pooled connection).
    Refused,
    /// The upstream broke the call off.
    UpstreamReset,
    /// The upstream closed the connection before it answered in full.
    UpstreamClosed,
    /// The upstream's bytes are not a valid response.
    UpstreamProtocol,
    /// The deadline of the whole call passed.
    RequestTimeout,
    /// The deadline of one attempt passed.
    TryTimeout,
    /// No byte moved for too long.
    IdleTimeout,
    /// A mistake of the proxy itself.
    Internal,
}

/// Who is at fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Side {
    /// The caller.
    Downstream,
    /// The endpoint, or the way to it.
    Upstream,
    /// The proxy: policy, limits, configuration.
    Proxy,
}

/// What a retry may make of an error, before method and budget have their say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retryable {
    /// Another attempt would end the same way.
    Never,
    /// Another endpoint may do better.
    Elsewhere,
}

/// One row of the table.
#[derive(Debug, Clone, Copy)]
pub struct Row {
    /// Status of a local HTTP reply.
    pub http: u16,
    /// `grpc-status` of a local gRPC reply.
    pub grpc: u8,
    /// Value of the `weft-error` header.
    pub header: &'static str,
    /// Value of the `reason` label and of the access log's `reason`.
    pub label: &'static str,
    /// May another endpoint be tried?
    pub retry: Retryable,
    /// Who is at fault unless the error says otherwise.
    pub side: Side,
    /// Does it count against the endpoint's breaker? (FEATURES: connect error, reset, timeout; never the caller's own faults.)
    pub breaker: bool,
}

const fn row(
    http: u16,
    grpc: u8,
    header: &'static str,
    label: &'static str,
    retry: Retryable,
    side: Side,
    breaker: bool,
) -> Row {
    Row { http, grpc, header, label, retry, side, breaker }
}

impl Kind {
    /// Every kind, in the table's order.
    pub const ALL: [Self; 36] = [
        Self::BadRequest,
        Self::HeadersTooLarge,
        Self::BodyTooLarge,
        Self::HeaderTimeout,
        Self::ClientGone,
        Self::ClientBody,
        Self::Unsupported,
        Self::UnknownHost,
        Self::ProxyAuthentication,
        Self::ForbiddenDestination,
        Self::Denied,
        Self::TokenMissing,
        Self::TokenRefused,
        Self::PlaintextRefused,
        Self::UnknownPort,
        Self::NoRoute,
        Self::UnresolvedBackend,
        Self::NoEndpoint,
        Self::BreakerOpen,
        Self::Overflow,
        Self::RateLimited,
        Self::Undiscovered,
        Self::Draining,
        Self::ConnectFailed,
        Self::ConnectTimeout,
        Self::TlsFailed,
        Self::CertificateRevoked,
        Self::TunnelRefused,
        Self::Refused,
        Self::UpstreamReset,
        Self::UpstreamClosed,
        Self::UpstreamProtocol,
        Self::RequestTimeout,
        Self::TryTimeout,
        Self::IdleTimeout,
        Self::Internal,
    ];

    /// The table. gRPC codes: 1 CANCELLED, 4 DEADLINE_EXCEEDED, 7 PERMISSION_DENIED, 8 RESOURCE_EXHAUSTED, 12 UNIMPLEMENTED,
    /// 13 INTERNAL, 14 UNAVAILABLE, 16 UNAUTHENTICATED. An unresolved backend is 500 for HTTP and UNAVAILABLE for gRPC
    /// (Gateway API, `GRPCRoute.spec.rules.backendRefs`).
    #[must_use]
    pub const fn row(self) -> Row {
        use Retryable::{Elsewhere, Never};
        use Side::{Downstream, Proxy, Upstream};
        match self {
            Self::BadRequest => row(400, 13, "bad-request", "bad_request", Never, Downstream, false),
            Self::HeadersTooLarge => row(431, 8, "headers-too-large", "headers_too_large", Never, Downstream, false),
            Self::BodyTooLarge => row(413, 8, "body-too-large", "body_too_large", Never, Downstream, false),
            Self::HeaderTimeout => row(408, 4, "header-timeout", "header_timeout", Never, Downstream, false),
            Self::ClientGone => row(499, 1, "client-gone", "client_gone", Never, Downstream, false),
            Self::ClientBody => row(400, 1, "client-body", "client_body", Never, Downstream, false),
            Self::Unsupported => row(501, 12, "unsupported", "unsupported", Never, Downstream, false),
            Self::UnknownHost => row(421, 12, "unknown-host", "unknown_host", Never, Downstream, false),
            Self::ProxyAuthentication => {
                row(407, 16, "proxy-authentication", "proxy_authentication", Never, Downstream, false)
            }
            Self::ForbiddenDestination => {
                row(403, 7, "forbidden-destination", "forbidden_destination", Never, Downstream, false)
            }
            Self::Denied => row(403, 7, "denied", "denied", Never, Downstream, false),
            Self::TokenMissing => row(401, 16, "token-missing", "token_missing", Never, Downstream, false),
            Self::TokenRefused => row(401, 16, "token-refused", "token_refused", Never, Downstream, false),
            Self::PlaintextRefused => row(403, 7, "plaintext-refused", "plaintext_refused", Never, Downstream, false),
            Self::UnknownPort => row(404, 12, "unknown-port", "unknown_port", Never, Downstream, false),
            Self::NoRoute => row(404, 12, "no-route", "no_route", Never, Proxy, false),
            Self::UnresolvedBackend => row(500, 14, "unresolved-backend", "unresolved_backend", Never, Proxy, false),
            Self::NoEndpoint => row(503, 14, "no-endpoint", "no_endpoint", Never, Proxy, false),
            Self::BreakerOpen => row(503, 14, "breaker-open", "breaker_open", Never, Proxy, false),
            Self::Overflow => row(503, 14, "overflow", "overflow", Never, Proxy, false),
            Self::RateLimited => row(429, 8, "rate-limited", "rate_limited", Never, Proxy, false),
            Self::Undiscovered => row(503, 14, "undiscovered", "undiscovered", Never, Proxy, false),
            Self::Draining => row(503, 14, "draining", "draining", Never, Proxy, false),
            Self::ConnectFailed => row(502, 14, "connect-failed", "connect_failed", Elsewhere, Upstream, true),
            Self::ConnectTimeout => row(504, 14, "connect-timeout", "connect_timeout", Elsewhere, Upstream, true),
            Self::TlsFailed => row(502, 14, "tls-failed", "tls_failed", Elsewhere, Upstream, true),
            Self::CertificateRevoked => {
                row(502, 14, "certificate-revoked", "certificate_revoked", Elsewhere, Upstream, true)
            }
            Self::TunnelRefused => row(502, 14, "tunnel-refused", "tunnel_refused", Elsewhere, Upstream, true),
            Self::Refused => row(502, 14, "refused", "refused", Elsewhere, Upstream, false),
            Self::UpstreamReset => row(502, 14, "upstream-reset", "upstream_reset", Elsewhere, Upstream, true),
            Self::UpstreamClosed => row(502, 14, "upstream-closed", "upstream_closed", Elsewhere, Upstream, true),
            Self::UpstreamProtocol => row(502, 13, "upstream-protocol", "upstream_protocol", Never, Upstream, true),
            Self::RequestTimeout => row(504, 4, "request-timeout", "request_timeout", Never, Upstream, true),
            Self::TryTimeout => row(504, 4, "try-timeout", "try_timeout", Elsewhere, Upstream, true),
            Self::IdleTimeout => row(504, 4, "idle-timeout", "idle_timeout", Never, Upstream, true),
            Self::Internal => row(500, 13, "internal", "internal", Never, Proxy, false),
        }
    }
}

/// An error of the data path. Cheap to clone: everyone who waited for one connection gets the same.
#[derive(Clone)]
pub struct ProxyError {
    /// What went wrong.
    pub kind: Kind,
    /// Who is at fault.
    pub side: Side,
    /// May the application behind the endpoint have seen the request?
    pub sent: Sent,
    detail: Cow<'static, str>,
    source: Option<Arc<dyn std::error::Error + Send + Sync>>,
}

impl ProxyError {
    /// An error with the side that its row names; not sent.
    #[must_use]
    pub const fn new(kind: Kind) -> Self {
        Self { kind, side: kind.row().side, sent: Sent::NotSent, detail: Cow::Borrowed(""), source: None }
    }

    /// The same, explained: `detail` goes to the log and to the body of a local reply, so it names no secret.
    #[must_use]
    pub fn because(kind: Kind, detail: impl Into<Cow<'static, str>>) -> Self {
        Self { detail: detail.into(), ..Self::new(kind) }
    }

    /// An error caused by another, which is kept for the log.
    #[must_use]
    pub fn caused(kind: Kind, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self { source: Some(Arc::from(source.into())), ..Self::new(kind) }
    }

    /// Says whether the request was sent.
    #[must_use]
    pub const fn sent(mut self, sent: Sent) -> Self {
        self.sent = sent;
        self
    }

    /// Says who is at fault.
    #[must_use]
    pub const fn side(mut self, side: Side) -> Self {
        self.side = side;
        self
    }

    /// Adds an explanation to an error that has none.
    #[must_use]
    pub fn detail(mut self, detail: impl Into<Cow<'static, str>>) -> Self {
        self.detail = detail.into();
        self
    }

    /// Status of a local HTTP reply.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        StatusCode::from_u16(self.kind.row().http).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
    }

    /// `grpc-status` of a local gRPC reply.
    #[must_use]
    pub const fn grpc_status(&self) -> u8 {
        self.kind.row().grpc
    }

    /// Value of the `weft-error` header.
    #[must_use]
    pub const fn header(&self) -> &'static str {
        self.kind.row().header
    }

    /// Value of the `reason` label.
    #[must_use]
    pub const fn label(&self) -> &'static str {
        self.kind.row().label
    }

    /// May another endpoint be tried, as far as the error goes?
    #[must_use]
    pub const fn retryable(&self) -> bool {
        matches!(self.kind.row().retry, Retryable::Elsewhere)
    }

    /// Does it count against the endpoint?
    #[must_use]
    pub const fn blames_endpoint(&self) -> bool {
        self.kind.row().breaker && matches!(self.side, Side::Upstream)
    }

    /// The explanation for people: the detail, else the cause, else the kind.
    #[must_use]
    pub fn explanation(&self) -> Cow<'_, str> {
        codec::explanation(&self.detail, self.source.as_deref().map(|source| source as _), self.header())
    }
}

impl From<codec::Error> for ProxyError {
    fn from(error: codec::Error) -> Self {
        let kind = Kind::from(error.kind);
        Self { kind, side: kind.row().side, sent: error.sent, detail: error.detail, source: error.source }
    }
}

impl From<codec::Kind> for Kind {
    fn from(kind: codec::Kind) -> Self {
        use codec::Kind as From;
        match kind {
            From::BadRequest => Self::BadRequest,
            From::HeadersTooLarge => Self::HeadersTooLarge,
            From::HeaderTimeout => Self::HeaderTimeout,
            From::ClientGone => Self::ClientGone,
            From::ClientBody => Self::ClientBody,
            From::Unsupported => Self::Unsupported,
            From::ConnectFailed => Self::ConnectFailed,
            From::TlsFailed => Self::TlsFailed,
            From::CertificateRevoked => Self::CertificateRevoked,
            From::Refused => Self::Refused,
            From::UpstreamReset => Self::UpstreamReset,
            From::UpstreamClosed => Self::UpstreamClosed,
            From::UpstreamProtocol => Self::UpstreamProtocol,
            From::Internal => Self::Internal,
        }
    }
}

impl fmt::Display for ProxyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let explanation = self.explanation();
        if explanation == self.header() {
            f.write_str(&explanation)
        } else {
            write!(f, "{}: {explanation}", self.header())
        }
    }
}

impl fmt::Debug for ProxyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ProxyError({:?}, {:?}, {:?}, {:?})", self.kind, self.side, self.sent, self.explanation())
    }
}

impl std::error::Error for ProxyError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_ref().map(|source| source.as_ref() as &(dyn std::error::Error + 'static))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn every_kind_has_its_own_label_and_header_and_a_valid_status() {
        let (mut labels, mut headers) = (HashSet::new(), HashSet::new());
        for kind in Kind::ALL {
            let row = kind.row();
            assert!(labels.insert(row.label), "{} twice", row.label);
            assert!(headers.insert(row.header), "{} twice", row.header);
            assert!(StatusCode::from_u16(row.http).is_ok() && row.grpc <= 16, "{kind:?}");
            assert_eq!(row.label, row.header.replace('-', "_"), "one vocabulary in headers and metrics");
        }
    }

    #[test]
    fn the_callers_own_faults_are_never_retried_nor_held_against_an_endpoint() {
        for kind in Kind::ALL {
            let error = ProxyError::new(kind);
            if error.side != Side::Upstream {
                assert!(!error.retryable() && !error.blames_endpoint(), "{kind:?}");
            }
        }
    }

    #[test]
    fn what_the_codec_says_is_told_in_the_words_of_the_table() {
        for kind in codec::Kind::ALL {
            let row = Kind::from(kind).row();
            assert_eq!(kind.name(), row.header, "{kind:?}");
            let nobody_reads_it = kind == codec::Kind::ClientGone;
            assert!(nobody_reads_it || kind.status() == row.http, "{kind:?}");
        }
    }

    #[test]
    fn an_explanation_names_detail_and_cause_once() {
        let cause = std::io::Error::new(std::io::ErrorKind::ConnectionRefused, "connection refused");
        let error = ProxyError::caused(Kind::ConnectFailed, cause).detail("to 192.0.2.7:80");
        assert_eq!(error.to_string(), "connect-failed: to 192.0.2.7:80: connection refused");
        assert_eq!(ProxyError::new(Kind::Overflow).to_string(), "overflow");
    }
}
