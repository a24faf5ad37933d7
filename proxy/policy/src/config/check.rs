//! The checks that several resources share: names, ports, addresses, durations, identities. Each names the field it was
//! given and nothing else: callers put the path before it with [`Refusal::under`].

use std::collections::HashSet;
use std::hash::Hash;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use http::HeaderName;

use super::Refusal;

/// `namespace/name`: a DNS label and a DNS subdomain, in lower case; the name may begin with `~` (a workload's own
/// address).
pub fn is_namespaced_name(text: &str) -> bool {
    let Some((namespace, name)) = text.split_once('/') else { return false };
    is_label(namespace) && is_subdomain(name.strip_prefix('~').unwrap_or(name))
}

/// Trust domain, namespace and service account of `spiffe://<trust domain>/ns/<namespace>/sa/<service account>`; `None`
/// for any other shape (SPIFFE-ID §2: no query, no fragment, no empty or dot segment, no percent-encoding).
pub fn identity_parts(identity: &str) -> Option<(&str, &str, &str)> {
    let rest = identity.strip_prefix("spiffe://").filter(|_| identity.len() <= 2048)?;
    let mut parts = rest.split('/');
    let (trust_domain, ns, namespace) = (parts.next()?, parts.next()?, parts.next()?);
    let (sa, account) = (parts.next()?, parts.next()?);
    let shaped = parts.next().is_none() && ns == "ns" && sa == "sa";
    (shaped && is_trust_domain(trust_domain) && is_label(namespace) && is_subdomain(account)).then_some((
        trust_domain,
        namespace,
        account,
    ))
}

/// RFC 1123 label: 1 to 63 of `a-z0-9-`, with no hyphen at either end.
pub(super) fn is_label(text: &str) -> bool {
    (1..=63).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        && !text.starts_with('-')
        && !text.ends_with('-')
}

/// Labels joined by dots, at most 253 bytes.
pub(super) fn is_subdomain(text: &str) -> bool {
    text.len() <= 253 && text.split('.').all(is_label)
}

/// SPIFFE-ID §2.1: lower-case letters, digits, dots, hyphens and underscores, at most 255 bytes.
pub(super) fn is_trust_domain(text: &str) -> bool {
    (1..=255).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'-' | b'_'))
}

pub(super) fn namespaced_name(field: &str, text: &str) -> Result<(), Refusal> {
    if is_namespaced_name(text) {
        return Ok(());
    }
    Err(Refusal::new(field, format!("{text:?} is not of the form namespace/name in lower case")))
}

pub(super) fn trust_domain(field: &str, text: &str) -> Result<(), Refusal> {
    if is_trust_domain(text) {
        return Ok(());
    }
    Err(Refusal::new(field, format!("{text:?} is no trust domain (lower-case letters, digits, '.', '-', '_')")))
}

pub(super) fn identity(field: &str, text: &str) -> Result<(), Refusal> {
    if identity_parts(text).is_some() {
        return Ok(());
    }
    Err(Refusal::new(
        field,
        format!("{text:?} is not of the form spiffe://<trust domain>/ns/<namespace>/sa/<service account>"),
    ))
}

pub(super) fn port(field: &str, number: u32) -> Result<u16, Refusal> {
    match u16::try_from(number) {
        Ok(port) if port != 0 => Ok(port),
        _ => Err(Refusal::new(field, format!("{number} is not a port (1 to 65535)"))),
    }
}

pub(super) fn ip(field: &str, text: &str) -> Result<IpAddr, Refusal> {
    let address: IpAddr = text.parse().map_err(|_| Refusal::new(field, format!("{text:?} is no IP address")))?;
    if address.is_unspecified() || address.is_multicast() {
        return Err(Refusal::new(field, format!("{address} is the address of no single host")));
    }
    Ok(address)
}

pub(super) fn socket(field: &str, text: &str) -> Result<SocketAddr, Refusal> {
    let address: SocketAddr =
        text.parse().map_err(|_| Refusal::new(field, format!("{text:?} is not of the form <ip>:<port>")))?;
    if address.port() == 0 {
        return Err(Refusal::new(field, format!("{text:?} names port 0")));
    }
    ip(field, &address.ip().to_string())?;
    Ok(address)
}

pub(super) fn hostname(field: &str, text: &str) -> Result<String, Refusal> {
    let lower = text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase();
    if is_subdomain(&lower) {
        return Ok(lower);
    }
    Err(Refusal::new(field, format!("{text:?} is no host name (without a port, without a wildcard)")))
}

/// RFC 9110 §5.1: a token; in lower case, since names of fields have no case.
pub(super) fn header_name(field: &str, text: &str) -> Result<HeaderName, Refusal> {
    HeaderName::from_bytes(text.as_bytes())
        .ok()
        .filter(|_| text.len() <= 256)
        .ok_or_else(|| Refusal::new(field, format!("{text:?} is no header name")))
}

/// A list must not be longer than `most`: what a peer supplies is bounded.
pub(super) fn bounded<T>(field: &str, list: &[T], most: usize) -> Result<(), Refusal> {
    if list.len() <= most {
        return Ok(());
    }
    Err(Refusal::new(field, format!("{} entries are more than the {most} that are taken", list.len())))
}

pub(super) fn within(field: &str, value: u32, least: u32, most: u32) -> Result<u32, Refusal> {
    if (least..=most).contains(&value) {
        return Ok(value);
    }
    Err(Refusal::new(field, format!("{value} is not between {least} and {most}")))
}

/// Refuses the second of two equal keys.
#[derive(Debug)]
pub(super) struct Unique<K>(HashSet<K>);

impl<K: Hash + Eq + std::fmt::Display> Unique<K> {
    pub(super) fn new() -> Self {
        Unique(HashSet::new())
    }

    pub(super) fn claim(&mut self, field: &str, key: K) -> Result<(), Refusal> {
        if self.0.contains(&key) {
            return Err(Refusal::new(field, format!("{key} occurs twice")));
        }
        self.0.insert(key);
        Ok(())
    }
}

/// A duration on the wire: absent means the default, zero means disabled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Span {
    Absent,
    Zero,
    Of(Duration),
}

impl Span {
    /// The first that is present.
    pub(super) fn or(self, other: Span) -> Span {
        if self == Span::Absent { other } else { self }
    }

    /// `default` when absent, `None` when disabled.
    pub(super) fn limit(self, default: Option<Duration>) -> Option<Duration> {
        match self {
            Span::Absent => default,
            Span::Zero => None,
            Span::Of(duration) => Some(duration),
        }
    }

    /// The duration, if one is given.
    pub(super) fn given(self) -> Option<Duration> {
        self.limit(None)
    }
}

/// No timeout or window is longer than this: beyond it a deadline is a mistake of units.
const LONGEST: Duration = Duration::from_secs(366 * 24 * 3600);

pub(super) fn span(field: &str, wire: Option<&prost_types::Duration>) -> Result<Span, Refusal> {
    let Some(wire) = wire else { return Ok(Span::Absent) };
    let (Ok(seconds), Ok(nanos)) = (u64::try_from(wire.seconds), u32::try_from(wire.nanos)) else {
        return Err(Refusal::new(field, "a duration must not be negative"));
    };
    if nanos > 999_999_999 {
        return Err(Refusal::new(field, "a duration has at most 999999999 ns beside its seconds"));
    }
    match Duration::new(seconds, nanos) {
        Duration::ZERO => Ok(Span::Zero),
        long if long > LONGEST => Err(Refusal::new(field, format!("{seconds} s is longer than a year"))),
        duration => Ok(Span::Of(duration)),
    }
}

/// A duration that cannot be disabled, between `least` and `most`.
pub(super) fn span_within(
    field: &str,
    wire: Option<&prost_types::Duration>,
    default: Duration,
    (least, most): (Duration, Duration),
) -> Result<Duration, Refusal> {
    match span(field, wire)? {
        Span::Absent => Ok(default),
        Span::Of(duration) if (least..=most).contains(&duration) => Ok(duration),
        Span::Zero => Err(Refusal::new(field, format!("must not be zero; between {least:?} and {most:?}"))),
        Span::Of(duration) => Err(Refusal::new(field, format!("{duration:?} is not between {least:?} and {most:?}"))),
    }
}
