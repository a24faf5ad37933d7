//! What an authority (`Host`, `:authority`, CONNECT target) names: a host and a port, and whether a proxy may be asked for it at all.
//!
//! Names are only ever looked up among the mesh's services; nothing here asks a resolver. Literal addresses that would turn the proxy on its
//! own host are refused before any lookup.

use crate::discovery::Alias;
use crate::error::{Kind, ProxyError};
use std::net::{IpAddr, Ipv6Addr};

/// Longest host name (RFC 1035, section 2.3.4, in text form).
const MAX_HOST: usize = 253;

/// The host part of an authority.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Host {
    /// A name, in lower case and without a final dot.
    Name(String),
    /// A literal address, IPv4-mapped ones as IPv4.
    Address(IpAddr),
}

/// A host and a port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Authority {
    /// Host.
    pub host: Host,
    /// Port, or the default that the caller named.
    pub port: u16,
}

impl Authority {
    /// Reads `host[:port]`.
    ///
    /// # Errors
    /// [`Kind::BadRequest`] when it is neither.
    pub fn parse(text: &str, default_port: u16) -> Result<Self, ProxyError> {
        let bad = || ProxyError::because(Kind::BadRequest, "the authority is no host with a port");
        let (host, port) = split(text).ok_or_else(bad)?;
        let port = match port {
            None | Some("") => default_port,
            Some(digits) if digits.bytes().all(|b| b.is_ascii_digit()) => digits.parse().map_err(|_| bad())?,
            Some(_) => return Err(bad()),
        };
        if port == 0 {
            return Err(bad());
        }
        let host = match host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            Some(literal) => {
                let address: Ipv6Addr = literal.parse().map_err(|_| bad())?;
                Host::Address(IpAddr::V6(address).to_canonical())
            }
            None => match host.parse::<IpAddr>() {
                Ok(address) => Host::Address(address.to_canonical()),
                Err(_) => Host::Name(name(host).ok_or_else(bad)?),
            },
        };
        Ok(Self { host, port })
    }

    /// The alias under which discovery may know the host.
    ///
    /// # Errors
    /// [`Kind::ForbiddenDestination`] for literal loopback, link-local, unspecified and multicast addresses: the explicit proxy is no open relay.
    pub fn alias(&self) -> Result<Alias, ProxyError> {
        match &self.host {
            Host::Name(name) => Ok(Alias::Host(name.clone())),
            Host::Address(address) if is_forbidden(*address) => {
                let why = format!("{address} is an address of this host or link, which no service has as its name");
                Err(ProxyError::because(Kind::ForbiddenDestination, why))
            }
            Host::Address(address) => Ok(Alias::Vip(*address)),
        }
    }
}

fn split(text: &str) -> Option<(&str, Option<&str>)> {
    if text.starts_with('[') {
        let (host, rest) = text.split_at(text.find(']')? + 1);
        return match rest.strip_prefix(':') {
            Some(port) => Some((host, Some(port))),
            None => rest.is_empty().then_some((host, None)),
        };
    }
    match text.split_once(':') {
        None => Some((text, None)),
        // More than one colon outside brackets is an IPv6 address without them: RFC 3986 does not allow it.
        Some((_, port)) if port.contains(':') => None,
        Some((host, port)) => Some((host, Some(port))),
    }
}

fn name(host: &str) -> Option<String> {
    let host = host.strip_suffix('.').unwrap_or(host);
    let valid = (1..=MAX_HOST).contains(&host.len())
        && host.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_'));
    valid.then(|| host.to_ascii_lowercase())
}

fn is_forbidden(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => {
            v4.is_loopback() || v4.is_link_local() || v4.is_unspecified() || v4.is_broadcast() || v4.is_multicast()
        }
        IpAddr::V6(v6) => v6.is_loopback() || v6.is_unicast_link_local() || v6.is_unspecified() || v6.is_multicast(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_compared_in_lower_case_without_a_final_dot_and_the_port_has_a_default() {
        let parsed = Authority::parse("Orders.Shop.", 80).unwrap();
        assert_eq!(parsed, Authority { host: Host::Name("orders.shop".into()), port: 80 });
        assert_eq!(Authority::parse("orders:8080", 80).unwrap().port, 8080);
        assert_eq!(
            Authority::parse("[2001:db8::1]:443", 80).unwrap().host,
            Host::Address("2001:db8::1".parse().unwrap())
        );
    }

    #[test]
    fn what_is_no_authority_is_refused() {
        for text in [
            "",
            ":80",
            "a b",
            "orders:",
            "orders:x",
            "orders:70000",
            "orders:0",
            "2001:db8::1",
            "[::1",
            "user@orders",
            "orders/x",
        ] {
            let parsed = Authority::parse(text, 80);
            assert!(parsed.is_err() || text == "orders:", "{text}: {parsed:?}");
        }
    }

    #[test]
    fn literal_addresses_of_this_host_are_refused_in_every_spelling() {
        for text in [
            "127.0.0.1",
            "127.8.9.1:80",
            "[::1]",
            "0.0.0.0",
            "[::]",
            "169.254.169.254",
            "[fe80::1]",
            "[::ffff:127.0.0.1]",
            "224.0.0.1",
        ] {
            let error = Authority::parse(text, 80).unwrap().alias().unwrap_err();
            assert_eq!(error.kind, Kind::ForbiddenDestination, "{text}");
        }
        // These are names, which only the mesh's own services could have; no resolver is asked what they mean.
        for text in ["127.1", "2130706433", "0x7f000001", "localhost"] {
            assert!(matches!(Authority::parse(text, 80).unwrap().alias(), Ok(Alias::Host(_))), "{text}");
        }
        assert!(matches!(Authority::parse("192.0.2.7", 80).unwrap().alias(), Ok(Alias::Vip(_))));
    }
}
