//! What can go wrong between calls and bytes: who did what, and whether a request may have reached whoever it was for.
//!
//! What an error means to a metric, a retry or a gRPC caller is the business of whoever uses the codec.

use http::StatusCode;
use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

/// What went wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// The caller's bytes are not a valid request.
    BadRequest,
    /// The caller's header section exceeds the limits.
    HeadersTooLarge,
    /// The caller did not finish its header section in time.
    HeaderTimeout,
    /// The caller went away before its call was answered.
    ClientGone,
    /// The caller's body broke off.
    ClientBody,
    /// The request asks for something that the codec does not do.
    Unsupported,
    /// The connection broke before the peer's settings arrived.
    ConnectFailed,
    /// The peer broke off the TLS connection.
    TlsFailed,
    /// The peer took this side's certificate for revoked.
    CertificateRevoked,
    /// The upstream refused the call without processing it (REFUSED_STREAM, GOAWAY above the last id, a stale pooled connection).
    Refused,
    /// The upstream broke the call off.
    UpstreamReset,
    /// The upstream closed the connection before it answered in full.
    UpstreamClosed,
    /// The upstream's bytes are not a valid response.
    UpstreamProtocol,
    /// The codec was used wrongly.
    Internal,
}

impl Kind {
    /// Every kind.
    pub const ALL: [Self; 14] = [
        Self::BadRequest,
        Self::HeadersTooLarge,
        Self::HeaderTimeout,
        Self::ClientGone,
        Self::ClientBody,
        Self::Unsupported,
        Self::ConnectFailed,
        Self::TlsFailed,
        Self::CertificateRevoked,
        Self::Refused,
        Self::UpstreamReset,
        Self::UpstreamClosed,
        Self::UpstreamProtocol,
        Self::Internal,
    ];

    /// One word, and the status with which it is told to a caller.
    const fn told(self) -> (&'static str, StatusCode) {
        match self {
            Self::BadRequest => ("bad-request", StatusCode::BAD_REQUEST),
            Self::HeadersTooLarge => ("headers-too-large", StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE),
            Self::HeaderTimeout => ("header-timeout", StatusCode::REQUEST_TIMEOUT),
            Self::ClientGone => ("client-gone", StatusCode::BAD_REQUEST),
            Self::ClientBody => ("client-body", StatusCode::BAD_REQUEST),
            Self::Unsupported => ("unsupported", StatusCode::NOT_IMPLEMENTED),
            Self::ConnectFailed => ("connect-failed", StatusCode::BAD_GATEWAY),
            Self::TlsFailed => ("tls-failed", StatusCode::BAD_GATEWAY),
            Self::CertificateRevoked => ("certificate-revoked", StatusCode::BAD_GATEWAY),
            Self::Refused => ("refused", StatusCode::BAD_GATEWAY),
            Self::UpstreamReset => ("upstream-reset", StatusCode::BAD_GATEWAY),
            Self::UpstreamClosed => ("upstream-closed", StatusCode::BAD_GATEWAY),
            Self::UpstreamProtocol => ("upstream-protocol", StatusCode::BAD_GATEWAY),
            Self::Internal => ("internal", StatusCode::INTERNAL_SERVER_ERROR),
        }
    }

    /// One word, as the `weft-error` header of a refusal says it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        self.told().0
    }

    /// The status with which it is told to a caller.
    #[must_use]
    pub const fn status(self) -> StatusCode {
        self.told().1
    }
}

/// Whether the upstream application may have seen the request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Sent {
    /// Certainly not: any method may be tried again.
    NotSent,
    /// At least partly.
    Sent,
    /// Cannot be told; treated as sent.
    Unknown,
}

/// An error of the codec. Cheap to clone: everyone who waited for one connection gets the same.
#[derive(Clone)]
pub struct Error {
    /// What went wrong.
    pub kind: Kind,
    /// May whoever the request was for have seen it?
    pub sent: Sent,
    /// For people; it names no secret.
    pub detail: Cow<'static, str>,
    /// What caused it.
    pub source: Option<Arc<dyn std::error::Error + Send + Sync>>,
}

impl Error {
    /// An error that `detail` explains; not sent.
    #[must_use]
    pub fn because(kind: Kind, detail: impl Into<Cow<'static, str>>) -> Self {
        Self { kind, sent: Sent::NotSent, detail: detail.into(), source: None }
    }

    /// An error caused by another; not sent.
    #[must_use]
    pub fn caused(kind: Kind, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self { source: Some(Arc::from(source.into())), ..Self::because(kind, "") }
    }

    /// Says whether the request was sent.
    #[must_use]
    pub const fn sent(mut self, sent: Sent) -> Self {
        self.sent = sent;
        self
    }

    /// Adds an explanation to an error that has none.
    #[must_use]
    pub fn detail(mut self, detail: impl Into<Cow<'static, str>>) -> Self {
        self.detail = detail.into();
        self
    }

    /// The explanation for people: the detail, else the cause, else the kind.
    #[must_use]
    pub fn explanation(&self) -> Cow<'_, str> {
        explanation(&self.detail, self.source.as_deref().map(|source| source as _), self.kind.name())
    }
}

/// Detail and cause in one line, each thing said once; `name` where there is neither.
#[must_use]
pub fn explanation<'e>(
    detail: &'e str,
    source: Option<&(dyn std::error::Error + 'static)>,
    name: &'static str,
) -> Cow<'e, str> {
    match source {
        None if detail.is_empty() => Cow::Borrowed(name),
        None => Cow::Borrowed(detail),
        Some(source) if detail.is_empty() => Cow::Owned(chain(source)),
        Some(source) => Cow::Owned(format!("{detail}: {}", chain(source))),
    }
}

fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(error) = next {
        let part = error.to_string();
        if !text.contains(&part) {
            text.push_str(": ");
            text.push_str(&part);
        }
        next = error.source();
    }
    text
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (name, explanation) = (self.kind.name(), self.explanation());
        if explanation == name { f.write_str(name) } else { write!(f, "{name}: {explanation}") }
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Error({:?}, {:?}, {:?})", self.kind, self.sent, self.explanation())
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_ref().map(|source| source.as_ref() as &(dyn std::error::Error + 'static))
    }
}
