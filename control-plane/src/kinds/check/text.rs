//! The alphabets of names: RFC 1123 labels and subdomains, label keys and values, HTTP tokens, addresses, regular expressions.

use std::net::{IpAddr, SocketAddr};

use serde_json::Value;

use super::Findings;

/// RFC 1123 label: at most 63 lower-case letters, digits and inner hyphens.
pub fn is_label(text: &str) -> bool {
    let bytes = text.as_bytes();
    let alphanumeric = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    bytes.len() <= 63
        && bytes.first().is_some_and(alphanumeric)
        && bytes.last().is_some_and(alphanumeric)
        && bytes.iter().all(|b| alphanumeric(b) || *b == b'-')
}

/// RFC 1123 subdomain: labels joined by dots, at most 253 characters.
pub fn is_subdomain(text: &str) -> bool {
    text.len() <= 253 && text.split('.').all(is_label)
}

fn is_qualified(text: &str) -> bool {
    let bytes = text.as_bytes();
    bytes.len() <= 63
        && bytes.first().is_some_and(u8::is_ascii_alphanumeric)
        && bytes.last().is_some_and(u8::is_ascii_alphanumeric)
        && bytes.iter().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(b))
}

/// A key of a label or annotation: an optional subdomain and `/`, then a name.
pub fn is_label_key(text: &str) -> bool {
    match text.split_once('/') {
        Some((prefix, name)) => is_subdomain(prefix) && is_qualified(name),
        None => is_qualified(text),
    }
}

/// A value of a label; may be empty.
pub fn is_label_value(text: &str) -> bool {
    text.is_empty() || is_qualified(text)
}

/// RFC 9110 token, which methods and field names are.
pub fn is_token(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b))
}

/// An address that a peer can be reached at.
pub fn address(findings: &mut Findings, path: &str, value: &Value) {
    match value.as_str().map(str::parse::<IpAddr>) {
        Some(Ok(ip)) if !ip.is_unspecified() && !ip.is_multicast() => {}
        _ => findings.invalid(path, value, "must be the IP address at which peers reach it, such as \"192.0.2.7\""),
    }
}

/// `ip:port` with a port of its own.
pub fn socket(findings: &mut Findings, path: &str, value: &Value) {
    match value.as_str().map(str::parse::<SocketAddr>) {
        Some(Ok(at)) if at.port() != 0 && !at.ip().is_unspecified() => {}
        _ => {
            findings.invalid(path, value, "must be <ip>:<port>, such as \"192.0.2.7:15008\" or \"[2001:db8::7]:15008\"")
        }
    }
}

/// A regular expression that the sidecar will compile: alone, so that `a)|(b` does not escape the anchors, and within its bound.
pub fn regex(findings: &mut Findings, path: &str, value: &Value) {
    let Some(text) = value.as_str() else { return };
    let alone = regex::RegexBuilder::new(text).size_limit(1 << 20).build();
    if let Err(error) =
        alone.and_then(|_| regex::RegexBuilder::new(&format!("^(?:{text})$")).size_limit(1 << 20).build())
    {
        let why = error.to_string();
        let why = why.lines().last().unwrap_or_default().trim_start_matches("error: ").trim();
        findings.invalid(path, value, format_args!("must be a regular expression: {why}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_rfc_1123() {
        for good in ["a", "a-b", "0", "x".repeat(63).as_str()] {
            assert!(is_label(good), "{good}");
        }
        for bad in ["", "-a", "a-", "A", "a.b", "a_b", "x".repeat(64).as_str(), "é"] {
            assert!(!is_label(bad), "{bad}");
        }
        assert!(is_subdomain("a.b-c.d"));
        assert!(!is_subdomain("a..b"));
        assert!(is_label_key("app.kubernetes.io/name") && is_label_key("App_1"));
        assert!(!is_label_key("a/b/c") && !is_label_key("/a") && !is_label_key(""));
        assert!(is_label_value("") && is_label_value("v1.2") && !is_label_value("a b"));
    }
}
