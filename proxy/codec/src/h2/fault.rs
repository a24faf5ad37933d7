//! Why a stream or a connection ended before its time, and what that means to a call: above all whether it may be tried again.

use super::frame::Code;
use crate::ResetCode;
use crate::{Error, Kind, Sent};
use std::fmt;
use std::io;

/// Who ended it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum By {
    Us,
    Peer,
}

impl fmt::Display for By {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Us => "this side",
            Self::Peer => "the peer",
        })
    }
}

/// How a stream ended before its time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Fault {
    /// RST_STREAM.
    #[error("stream reset by {1}: {0}")]
    Reset(Code, By),
    /// The connection ended with an error of ours; or the peer's GOAWAY says that it never looked at the stream.
    #[error("connection given up by {1}: {0}")]
    GoAway(Code, By),
    /// The transport broke.
    #[error("the connection broke: {0}")]
    Io(io::ErrorKind),
    /// The peer took this side's certificate for revoked: with TLS 1.3 that is read only now.
    #[error("peer refused this side's certificate: certificate revoked")]
    Revoked,
    /// The connection was closed.
    #[error("the connection was closed")]
    Closed,
}

impl Fault {
    /// What the transport said.
    pub(super) fn of_io(error: &io::Error) -> Self {
        use rustls::AlertDescription::CertificateRevoked;
        match error.get_ref().and_then(|inner| inner.downcast_ref()) {
            Some(rustls::Error::AlertReceived(CertificateRevoked)) => Self::Revoked,
            _ => Self::Io(error.kind()),
        }
    }

    /// RFC 9113 §8.7: REFUSED_STREAM, and streams above the last id of a GOAWAY, were not processed.
    const fn is_refusal(self) -> bool {
        matches!(self, Self::Reset(Code::REFUSED_STREAM, _) | Self::GoAway(_, By::Peer))
    }

    /// RFC 9113 §8.1: after a complete response a server may send RST_STREAM with NO_ERROR to say that it needs no more of the request.
    pub(super) const fn wants_no_more(self) -> bool {
        matches!(self, Self::Reset(Code::NO_ERROR, _))
    }

    /// As an error of an attempt. `answered`: a head of the response has arrived.
    pub(super) fn of_upstream(self, answered: bool) -> Error {
        let reached = if answered { Sent::Sent } else { Sent::Unknown };
        let (kind, sent) = match self {
            _ if self.is_refusal() => (Kind::Refused, Sent::NotSent),
            Self::Reset(_, By::Peer) => (Kind::UpstreamReset, Sent::Sent),
            Self::Io(_) | Self::Closed => (Kind::UpstreamClosed, reached),
            Self::Revoked => (Kind::CertificateRevoked, reached),
            Self::Reset(_, By::Us) | Self::GoAway(..) => (Kind::UpstreamProtocol, reached),
        };
        Error::caused(kind, self).sent(sent)
    }

    /// As an error of the caller's stream.
    pub(super) fn of_caller(self) -> Error {
        let kind = match self {
            Self::Reset(Code::PROTOCOL_ERROR, By::Us) => Kind::ClientBody,
            _ => Kind::ClientGone,
        };
        Error::caused(kind, self)
    }

    /// As an error of a stream of bytes.
    pub(super) fn of_bytes(self) -> io::Error {
        let kind = match self {
            Self::Io(_) | Self::Revoked | Self::Closed => io::ErrorKind::ConnectionAborted,
            Self::Reset(..) | Self::GoAway(..) => io::ErrorKind::ConnectionReset,
        };
        io::Error::new(kind, self)
    }
}

/// Does an I/O error say that the peer refused the stream unprocessed?
#[must_use]
pub fn is_refused(error: &io::Error) -> bool {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<Fault>());
    inner.is_some_and(|fault| fault.is_refusal())
}

impl From<ResetCode> for Code {
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

    #[test]
    fn a_refusal_is_known_through_an_io_error_and_a_reset_is_not_one() {
        let refused = Fault::Reset(Code::REFUSED_STREAM, By::Peer);
        assert!(is_refused(&refused.of_bytes()) && is_refused(&Fault::GoAway(Code::NO_ERROR, By::Peer).of_bytes()));
        let reset = Fault::Reset(Code::CANCEL, By::Peer);
        assert!(!is_refused(&reset.of_bytes()) && !is_refused(&io::ErrorKind::ConnectionReset.into()));
        let error = reset.of_upstream(false);
        assert_eq!((error.kind, error.sent), (Kind::UpstreamReset, Sent::Sent));
        assert_eq!(Fault::Closed.of_upstream(false).sent, Sent::Unknown);
    }
}
