//! The values of conditions: identities, namespaces, address blocks, hosts, methods, paths, names of headers and claims.

use std::net::IpAddr;

use http::HeaderName;

use super::super::{Refusal, check, mesh, rules};
use crate::authorize::{HostPattern, PathPattern, Pattern};
use crate::config::Cidr;

/// Values of one list.
pub(super) const MOST: usize = 512;
/// Names on the way to a claim.
const DEPTH: usize = 8;

/// What conditions may ask for.
pub(super) const KEYS: &str = "known are source.ip, source.namespace, source.principal, destination.port, connection.sni, \
     request.headers[<name>], request.auth.principal, request.auth.audiences, request.auth.presenter and request.auth.claims[<name>]";

pub(super) fn list<T>(
    field: &str,
    wire: &[String],
    convert: impl Fn(&str) -> Result<T, Refusal>,
) -> Result<Box<[T]>, Refusal> {
    check::bounded(field, wire, MOST)?;
    wire.iter().enumerate().map(|(i, text)| convert(text).map_err(|r| r.under(format_args!("{field}[{i}]")))).collect()
}

/// Any text, or one of its ends and `*`.
pub(super) fn text(text: &str) -> Result<Pattern, Refusal> {
    check::bounded("", text.as_bytes(), 2048)?;
    Pattern::parse(text).ok_or_else(|| {
        Refusal::new("", format!("{text:?} is neither a value nor one end of it and '*', nor '*' alone"))
    })
}

pub(super) fn identity(text: &str) -> Result<Pattern, Refusal> {
    let refuse =
        || Refusal::new("", format!("{text:?} is neither a SPIFFE id nor the beginning or the end of one and '*'"));
    match Pattern::parse(text).filter(|_| text.len() <= 2048).ok_or_else(refuse)? {
        Pattern::Exact(id) if check::identity_parts(&id).is_none() => Err(refuse()),
        Pattern::Prefix(prefix) if !prefix.starts_with("spiffe://") => Err(refuse()),
        pattern => Ok(pattern),
    }
}

/// `namespace/name`, as the identity that it stands for.
pub(super) fn account(text: &str, trust_domain: &str) -> Result<Pattern, Refusal> {
    let parts =
        text.split_once('/').filter(|(namespace, name)| check::is_label(namespace) && check::is_subdomain(name));
    match parts {
        Some((namespace, name)) => {
            Ok(Pattern::Exact(format!("spiffe://{trust_domain}/ns/{namespace}/sa/{name}").into()))
        }
        None => Err(Refusal::new("", format!("{text:?} is no service account, as in shop/cart"))),
    }
}

pub(super) fn namespace(text: &str) -> Result<Pattern, Refusal> {
    let known = |pattern: &Pattern| match pattern {
        Pattern::Exact(name) => check::is_label(name),
        part => part.literal().bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-'),
    };
    Pattern::parse(text)
        .filter(|pattern| text.len() <= 64 && known(pattern))
        .ok_or_else(|| Refusal::new("", format!("{text:?} is no namespace")))
}

/// An address or an address range. An IPv4-mapped one means the IPv4 addresses, as which such peers are compared.
pub(super) fn block(text: &str) -> Result<Cidr, Refusal> {
    let range = match text.parse::<IpAddr>() {
        Ok(IpAddr::V4(address)) => Cidr { network: address.into(), length: 32 },
        Ok(IpAddr::V6(address)) => Cidr { network: address.into(), length: 128 },
        Err(_) => mesh::cidr("", text)?,
    };
    // Of an IPv4 range the length is less than 96 anyway.
    match (range.network.to_canonical(), range.length.checked_sub(96)) {
        (network @ IpAddr::V4(_), Some(length)) => Ok(Cidr { network, length }),
        _ => Ok(range),
    }
}

pub(super) fn host(text: &str) -> Result<HostPattern, Refusal> {
    HostPattern::parse(text).ok_or_else(|| {
        Refusal::new("", format!("{text:?} is neither a host nor one end of it and '*', with a port at most after it"))
    })
}

pub(super) fn method(text: &str) -> Result<Pattern, Refusal> {
    let pattern = self::text(text)?;
    match &pattern {
        Pattern::Present => {}
        part => drop(rules::method("", part.literal())?),
    }
    Ok(pattern)
}

pub(super) fn path(text: &str) -> Result<PathPattern, Refusal> {
    PathPattern::parse(text).map_err(|reason| Refusal::new("", format!("{text:?} {reason}")))
}

pub(super) fn server_name(text: &str) -> Result<Pattern, Refusal> {
    let refuse = || Refusal::new("", format!("{text:?} is neither a server name nor one end of it and '*'"));
    let pattern = Pattern::parse(&text.to_ascii_lowercase()).ok_or_else(refuse)?;
    let known = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_');
    if text.len() > 254 || !pattern.literal().bytes().all(known) {
        return Err(refuse());
    }
    Ok(pattern)
}

pub(super) fn port(text: &str) -> Result<u16, Refusal> {
    let number = text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse().ok()).flatten();
    check::port("", number.unwrap_or_default())
        .map_err(|_| Refusal::new("", format!("{text:?} is not a port (1 to 65535)")))
}

/// What follows `request.headers`: `[name]`.
pub(super) fn header(rest: &str) -> Result<HeaderName, String> {
    let refuse = || format!("request.headers{rest} names no header, as in request.headers[x-tenant]");
    let name = rest.strip_prefix('[').and_then(|r| r.strip_suffix(']')).ok_or_else(refuse)?;
    check::header_name("", name).map_err(|_| refuse())
}

/// What follows `request.auth.claims`: `[name]`, `[name][inner]`.
pub(super) fn claim(rest: &str) -> Result<Box<[Box<str>]>, String> {
    let refuse = || format!("request.auth.claims{rest} names no claim, as in request.auth.claims[realm][roles]");
    let inner = rest.strip_prefix('[').and_then(|r| r.strip_suffix(']')).ok_or_else(refuse)?;
    let path: Box<[Box<str>]> = inner.split("][").map(Into::into).collect();
    let named = |name: &str| (1..=256).contains(&name.len()) && !name.contains(['[', ']']);
    if path.len() > DEPTH || !path.iter().all(|name| named(name)) {
        return Err(refuse());
    }
    Ok(path)
}
