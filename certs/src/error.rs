//! What can go wrong, named by who is at fault, with texts that say both sides: what the peer did and what was wanted here.
//! Also the way back from an I/O error of a handshake to one of these. Mapping to HTTP or metrics is the callers' business.

use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rustls::{AlertDescription, CertificateError};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::fingerprint::Fingerprint;
use crate::spiffe::{ParseError, SpiffeId, TrustDomain};

/// An error of this crate, by fault.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The peer of a handshake presented something that is refused here.
    #[error("{0}")]
    PeerMisbehaved(#[from] PeerFault),
    /// The peer broke off the handshake: it refuses what this side presented or offered.
    #[error("{0}")]
    PeerRefused(String),
    /// The same, because the certificate that this side presented was revoked.
    #[error("peer refused this side's certificate: certificate revoked")]
    OwnRevoked,
    /// The peer speaks another protocol, version or set of algorithms.
    #[error("{0}")]
    PeerIncompatible(String),
    /// Who asked for a certificate asked for something that is not given.
    #[error("{0}")]
    Request(String),
    /// Files, names or settings on this side are wrong.
    #[error("{what} {reason}")]
    Configuration {
        /// What is wrong: a file, a field.
        what: String,
        /// Why; reads as the rest of the sentence.
        reason: String,
    },
    /// Reading or writing a file failed.
    #[error("cannot {action} {}: {source}", path.display())]
    Storage {
        /// What was tried: `read`, `write`, `create`.
        action: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The connection broke during the handshake, for no reason of TLS.
    #[error("connection failed during the handshake: {0}")]
    Transport(String),
    /// The cryptographic library failed; nobody is at fault.
    #[error("cryptography failed: {0}")]
    Crypto(String),
}

/// What a peer did wrong in a handshake. Travels through rustls inside `CertificateError::Other`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PeerFault {
    /// A certificate is required here and none came.
    #[error("peer presented no certificate, and this side requires one")]
    NoCertificate,
    /// The certificate, or one above it, has expired.
    #[error("peer's certificate expired at {}; it is {} here", rfc3339(*.not_after), rfc3339(*.now))]
    Expired {
        /// End of its validity.
        not_after: SystemTime,
        /// The clock of this side.
        now: SystemTime,
    },
    /// The certificate, or one above it, is not valid yet.
    #[error("peer's certificate is valid from {}; it is {} here", rfc3339(*.not_before), rfc3339(*.now))]
    NotYetValid {
        /// Begin of its validity.
        not_before: SystemTime,
        /// The clock of this side.
        now: SystemTime,
    },
    /// The certificate was revoked.
    #[error("peer's certificate is on the revocation list of its issuer: certificate revoked")]
    Revoked,
    /// The trust domain of the id that the peer claims is not trusted here.
    #[error("peer claims {id}, but this side trusts no trust domain \"{}\" (trusted here: {})", id.trust_domain(), list(.trusted))]
    UnknownTrustDomain {
        /// The id that the certificate claims.
        id: SpiffeId,
        /// The trust domains for which this side holds roots.
        trusted: Vec<TrustDomain>,
    },
    /// The chain does not lead to a root of the claimed trust domain, or breaks a rule on its way.
    #[error("peer claims {id}, but its chain does not lead to a root of trust domain \"{}\" held here: {reason}", id.trust_domain())]
    UntrustedChain {
        /// The id that the certificate claims.
        id: SpiffeId,
        /// What the path validation said.
        reason: String,
    },
    /// The peer is somebody else than discovery named.
    #[error("peer is {presented}, but {expected} was expected")]
    WrongIdentity {
        /// Who should have answered.
        expected: SpiffeId,
        /// Who did.
        presented: SpiffeId,
    },
    /// "An X.509 SVID MUST contain exactly one URI SAN" (X509-SVID §2).
    #[error("peer's certificate has {count} URI names, but an SVID has exactly one")]
    UriNames {
        /// How many it has.
        count: usize,
    },
    /// Its URI name is no SPIFFE id of a workload.
    #[error("peer's certificate names {uri:?}, which is no SPIFFE id: {reason}")]
    NotSpiffe {
        /// The URI name.
        uri: String,
        /// Why the parser refuses it.
        reason: ParseError,
    },
    /// The id is that of a trust domain, without a path: such an id signs, it does not speak (X509-SVID §5.2).
    #[error("peer's certificate names the trust domain \"{0}\" itself, but a workload's id has a path")]
    NoPath(TrustDomain),
    /// "Leaf certificates MUST NOT be a certificate authority" (X509-SVID §4.1).
    #[error("peer presented a CA certificate as its own")]
    CertificateAuthority,
    /// The key usages are not those of a leaf, or not those of an issuer on the way to the root.
    #[error("peer's certificate has the wrong key usage: {0}")]
    KeyUsage(String),
    /// No certificate of the chain has the pinned key.
    #[error("peer's chain of {presented} certificates holds none with the pinned root key sha256:{pin}")]
    PinMismatch {
        /// The pin, from the join token or the settings.
        pin: Fingerprint,
        /// How many certificates the peer presented.
        presented: usize,
    },
    /// The certificate cannot be parsed.
    #[error("peer's certificate is malformed: {0}")]
    Malformed(String),
}

impl Error {
    pub(crate) fn configuration(what: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::Configuration { what: what.into(), reason: reason.into() }
    }

    pub(crate) fn storage(action: &'static str, path: &Path, source: io::Error) -> Self {
        Self::Storage { action, path: path.to_owned(), source }
    }

    /// Reads the reason out of the error with which a TLS handshake, or the first read after it, ended. With TLS 1.3 a client believes
    /// itself connected before the server has looked at its certificate: the refusal arrives with the first read.
    pub fn from_handshake(error: &io::Error) -> Self {
        match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
            Some(inner) => Self::from_tls(inner),
            None if error.kind() == io::ErrorKind::UnexpectedEof => {
                Self::Transport("peer closed the connection".into())
            }
            None => Self::Transport(error.to_string()),
        }
    }

    /// Whether a certificate was revoked: the peer's, or the one that this side presented.
    pub fn is_revocation(&self) -> bool {
        matches!(self, Self::OwnRevoked | Self::PeerMisbehaved(PeerFault::Revoked))
    }

    /// One word for a metric: what the peer did, or what it said of this side.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::PeerMisbehaved(fault) => fault.reason(),
            Self::OwnRevoked => "own_revoked",
            Self::PeerRefused(_) => "refused_by_peer",
            Self::PeerIncompatible(_) => "incompatible",
            Self::Transport(_) => "broken",
            Self::Request(_) | Self::Configuration { .. } | Self::Storage { .. } | Self::Crypto(_) => "internal",
        }
    }

    /// The same for an error that rustls gives directly.
    pub fn from_tls(error: &rustls::Error) -> Self {
        use rustls::Error as Tls;
        match error {
            Tls::NoCertificatesPresented => PeerFault::NoCertificate.into(),
            Tls::InvalidCertificate(CertificateError::ExpiredContext { time, not_after }) => {
                PeerFault::Expired { not_after: system_time(not_after), now: system_time(time) }.into()
            }
            Tls::InvalidCertificate(CertificateError::NotValidYetContext { time, not_before }) => {
                PeerFault::NotYetValid { not_before: system_time(not_before), now: system_time(time) }.into()
            }
            Tls::InvalidCertificate(CertificateError::Revoked) => PeerFault::Revoked.into(),
            Tls::InvalidCertificate(CertificateError::Other(other)) => match other.0.downcast_ref::<PeerFault>() {
                Some(fault) => fault.clone().into(),
                None => PeerFault::Malformed(other.to_string()).into(),
            },
            Tls::InvalidCertificate(other) => PeerFault::Malformed(other.to_string()).into(),
            Tls::AlertReceived(AlertDescription::CertificateRevoked) => Self::OwnRevoked,
            Tls::AlertReceived(alert) => Self::PeerRefused(alert_text(*alert)),
            Tls::PeerIncompatible(reason) => {
                Self::PeerIncompatible(format!("peer is incompatible, this side speaks TLS 1.3 only: {reason:?}"))
            }
            Tls::NoApplicationProtocol => {
                Self::PeerIncompatible("peer offers no application protocol (ALPN) that is spoken here".into())
            }
            Tls::InvalidMessage(_) | Tls::InappropriateMessage { .. } | Tls::InappropriateHandshakeMessage { .. } => {
                Self::PeerIncompatible(format!("peer does not speak TLS as expected: {error}"))
            }
            other => Self::Crypto(other.to_string()),
        }
    }
}

impl PeerFault {
    /// One word for a metric.
    #[must_use]
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::NoCertificate => "no_certificate",
            Self::Expired { .. } => "expired",
            Self::NotYetValid { .. } => "not_yet_valid",
            Self::UnknownTrustDomain { .. } => "unknown_trust_domain",
            Self::UntrustedChain { .. } => "untrusted_chain",
            Self::WrongIdentity { .. } => "wrong_identity",
            Self::UriNames { .. } => "uri_names",
            Self::NotSpiffe { .. } => "not_spiffe",
            Self::NoPath(_) => "no_path",
            Self::CertificateAuthority => "certificate_authority",
            Self::KeyUsage(_) => "key_usage",
            Self::Revoked => "revoked",
            Self::PinMismatch { .. } => "pin_mismatch",
            Self::Malformed(_) => "malformed",
        }
    }
}

fn alert_text(alert: AlertDescription) -> String {
    use AlertDescription as Alert;
    match alert {
        Alert::CertificateRequired => "peer requires a certificate, and this side presented none".into(),
        Alert::CertificateExpired => {
            "peer refused this side's certificate: expired, or not valid yet, by its clock".into()
        }
        Alert::UnknownCA => "peer refused this side's certificate: it does not know the issuer".into(),
        Alert::AccessDenied | Alert::CertificateUnknown | Alert::BadCertificate | Alert::UnsupportedCertificate => {
            format!("peer refused this side's certificate ({alert:?}); its log says why")
        }
        Alert::ProtocolVersion => "peer does not speak TLS 1.3, the only version spoken here".into(),
        Alert::NoApplicationProtocol => "peer speaks no application protocol (ALPN) that this side offered".into(),
        other => format!("peer broke off the TLS handshake: {other:?}"),
    }
}

impl From<PeerFault> for rustls::Error {
    fn from(fault: PeerFault) -> Self {
        let error = match fault {
            // These have alerts of their own, so the peer learns its fault as well.
            PeerFault::Expired { not_after, now } => {
                CertificateError::ExpiredContext { time: unix_time(now), not_after: unix_time(not_after) }
            }
            PeerFault::NotYetValid { not_before, now } => {
                CertificateError::NotValidYetContext { time: unix_time(now), not_before: unix_time(not_before) }
            }
            PeerFault::Revoked => CertificateError::Revoked,
            other => CertificateError::Other(rustls::OtherError(std::sync::Arc::new(other))),
        };
        Self::InvalidCertificate(error)
    }
}

impl From<ParseError> for Error {
    fn from(error: ParseError) -> Self {
        Self::configuration("SPIFFE id:", error.to_string())
    }
}

impl From<rcgen::Error> for Error {
    fn from(error: rcgen::Error) -> Self {
        Self::Crypto(error.to_string())
    }
}

pub(crate) fn system_time(time: &rustls_pki_types::UnixTime) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(time.as_secs())
}

pub(crate) fn unix_time(time: SystemTime) -> rustls_pki_types::UnixTime {
    rustls_pki_types::UnixTime::since_unix_epoch(time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default())
}

/// A time as RFC 3339 in UTC, whole seconds.
pub(crate) fn rfc3339(time: SystemTime) -> String {
    let seconds = unix_time(time).as_secs();
    i64::try_from(seconds)
        .ok()
        .and_then(|seconds| OffsetDateTime::from_unix_timestamp(seconds).ok())
        .and_then(|time| time.format(&Rfc3339).ok())
        .unwrap_or_else(|| format!("{seconds} s after 1970"))
}

fn list(domains: &[TrustDomain]) -> String {
    match domains {
        [] => "none".into(),
        some => some.iter().map(TrustDomain::as_str).collect::<Vec<_>>().join(", "),
    }
}
