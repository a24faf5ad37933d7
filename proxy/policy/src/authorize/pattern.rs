//! Texts and addresses as conditions write them: exact, a prefix, a suffix, present; host names with or without a port. Read once, compared
//! without allocation. Paths are [`super::path`]'s.

/// `text`, `text*`, `*text` or `*`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Pattern {
    /// Equal.
    Exact(Box<str>),
    /// Begins with.
    Prefix(Box<str>),
    /// Ends with.
    Suffix(Box<str>),
    /// There, and not empty.
    Present,
}

impl Pattern {
    /// Reads a pattern; `None` if it is empty, or has a `*` elsewhere than at one of its ends.
    pub fn parse(text: &str) -> Option<Self> {
        let pattern = match (text.strip_prefix('*'), text.strip_suffix('*')) {
            (Some(""), _) => Pattern::Present,
            (Some(suffix), None) => Pattern::Suffix(suffix.into()),
            (None, Some(prefix)) => Pattern::Prefix(prefix.into()),
            (None, None) if !text.is_empty() => Pattern::Exact(text.into()),
            _ => return None,
        };
        (!pattern.literal().contains('*')).then_some(pattern)
    }

    /// What it says without its `*`.
    pub fn literal(&self) -> &str {
        match self {
            Pattern::Exact(text) | Pattern::Prefix(text) | Pattern::Suffix(text) => text,
            Pattern::Present => "",
        }
    }

    /// Whether the text matches.
    pub fn holds(&self, text: &[u8]) -> bool {
        match self {
            Pattern::Exact(exact) => exact.as_bytes() == text,
            Pattern::Prefix(prefix) => text.starts_with(prefix.as_bytes()),
            Pattern::Suffix(suffix) => text.ends_with(suffix.as_bytes()),
            Pattern::Present => !text.is_empty(),
        }
    }

    /// Whether the text matches, upper and lower case being equal (ASCII).
    fn holds_in_any_case(&self, text: &[u8]) -> bool {
        let cut = |literal: &str| text.len().checked_sub(literal.len());
        match self {
            Pattern::Exact(exact) => exact.as_bytes().eq_ignore_ascii_case(text),
            Pattern::Prefix(prefix) => {
                text.get(..prefix.len()).is_some_and(|head| head.eq_ignore_ascii_case(prefix.as_bytes()))
            }
            Pattern::Suffix(suffix) => cut(suffix)
                .and_then(|at| text.get(at..))
                .is_some_and(|tail| tail.eq_ignore_ascii_case(suffix.as_bytes())),
            Pattern::Present => !text.is_empty(),
        }
    }
}

/// A host, in any case, and where the pattern has one a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostPattern {
    name: Pattern,
    /// `None`: whatever the port, or none.
    port: Option<PortPattern>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum PortPattern {
    /// Some port is written.
    Any,
    Number(u16),
}

impl HostPattern {
    /// Reads `host`, `host:port` or `host:*`, where `host` is a pattern; `None` if it is none.
    pub fn parse(text: &str) -> Option<Self> {
        let (name, port) = split_port(text);
        let port = match port {
            None => None,
            Some("*") => Some(PortPattern::Any),
            Some(number) => Some(PortPattern::Number(number.parse().ok().filter(|n| *n != 0)?)),
        };
        let name = Pattern::parse(name)?;
        let literal = name.literal();
        let inner = literal.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
        let known = match inner {
            Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
            None => literal.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_')),
        };
        (known && literal.len() <= 253 && !literal.ends_with("..")).then_some(HostPattern { name, port })
    }

    /// Whether the authority of a request matches. A final dot of its host does not count.
    pub fn holds(&self, authority: &[u8]) -> bool {
        let (name, port) = split_authority(authority);
        let port_holds = match self.port {
            None => true,
            Some(PortPattern::Any) => port.is_some(),
            Some(PortPattern::Number(wanted)) => {
                port.and_then(|text| std::str::from_utf8(text).ok()?.parse::<u16>().ok()) == Some(wanted)
            }
        };
        port_holds && self.name.holds_in_any_case(name)
    }
}

fn split_port(text: &str) -> (&str, Option<&str>) {
    // The colons of an IPv6 address are inside its brackets.
    let from = text.rfind(']').unwrap_or(0);
    match text.get(from..).and_then(|rest| rest.find(':')) {
        Some(at) => (text.get(..from + at).unwrap_or_default(), text.get(from + at + 1..)),
        None => (text, None),
    }
}

fn split_authority(authority: &[u8]) -> (&[u8], Option<&[u8]>) {
    let from = authority.iter().rposition(|b| *b == b']').unwrap_or(0);
    let colon = authority.iter().skip(from).position(|b| *b == b':').map(|at| from + at);
    let (name, port) = match colon {
        Some(at) => (authority.get(..at).unwrap_or_default(), authority.get(at + 1..)),
        None => (authority, None),
    };
    (name.strip_suffix(b".").unwrap_or(name), port)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_stands_at_one_end_or_alone() {
        assert_eq!(Pattern::parse("a"), Some(Pattern::Exact("a".into())));
        assert_eq!(Pattern::parse("a*"), Some(Pattern::Prefix("a".into())));
        assert_eq!(Pattern::parse("*a"), Some(Pattern::Suffix("a".into())));
        assert_eq!(Pattern::parse("*"), Some(Pattern::Present));
        for none in ["", "**", "*a*", "a*b", "*a*b", "a**"] {
            assert_eq!(Pattern::parse(none), None, "{none}");
        }
    }

    #[test]
    fn hosts_are_compared_in_any_case_and_without_port_unless_the_pattern_has_one() {
        let holds = |pattern: &str, authority: &str| HostPattern::parse(pattern).unwrap().holds(authority.as_bytes());
        for authority in ["shop.test", "SHOP.test", "shop.test:80", "shop.test.", "shop.test.:80"] {
            assert!(holds("Shop.Test", authority), "{authority}");
            assert!(holds("*.test", authority), "{authority}");
            assert!(holds("shop.*", authority), "{authority}");
            assert!(holds("*", authority), "{authority}");
        }
        for authority in ["a.shop.test", "shop.test.evil", "", ":80"] {
            assert!(!holds("shop.test", authority), "{authority}");
        }
        assert!(holds("shop.test:*", "shop.test:81") && !holds("shop.test:*", "shop.test"));
        assert!(holds("shop.test:80", "shop.test:80") && holds("shop.test:80", "shop.test:0080"));
        assert!(!holds("shop.test:80", "shop.test:81") && !holds("shop.test:80", "shop.test"));
        assert!(holds("*:80", "a:80") && !holds("*:80", ":80"));
        for address in ["[2001:db8::1]", "[2001:db8::]"] {
            let with = |port: &str| format!("{address}{port}");
            assert!(holds(address, &with(":80")) && holds(address, address), "{address}");
            assert!(holds(&with(":80"), &with(":80").to_uppercase()) && !holds(&with(":80"), address), "{address}");
        }
        assert!(!holds("*", "") && !holds("*.test", ".tes"));
    }

    #[test]
    fn what_is_no_host_is_no_pattern() {
        for none in ["", "a:b", "a:0", "a:65536", "a b", "a/b", "2001:db8::1", "[x]", "*a*", "a..", "user@host"] {
            assert_eq!(HostPattern::parse(none), None, "{none}");
        }
    }
}
