//! SPIFFE ids and trust domains, parsed strictly (SPIFFE-ID specification §2), and the two shapes that Weft gives them: a workload is
//! `spiffe://<domain>/ns/<namespace>/sa/<service-account>`, and the control plane is one such workload with a fixed name.
//! Certificates do not belong here: this is text and its rules.

use std::borrow::Borrow;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Longest id in bytes. "Implementations MUST support SPIFFE URIs up to 2048 bytes in length and MUST NOT generate URIs of a length
/// greater than 2048 bytes" (§2.3); longer ones are refused.
pub const MAX_ID_LEN: usize = 2048;
/// Longest trust domain in bytes (§2.3, from the host of RFC 3986 §3.2.2).
pub const MAX_TRUST_DOMAIN_LEN: usize = 255;
/// Namespace of the control plane's own identity.
pub const CONTROL_PLANE_NAMESPACE: &str = "weft-system";
/// Service account of the control plane's own identity.
pub const CONTROL_PLANE_SERVICE_ACCOUNT: &str = "weft-control";

const SCHEME: &str = "spiffe://";

/// Why a text is no SPIFFE id or trust domain.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    /// The text is longer than the specification allows.
    #[error("longer than {MAX_ID_LEN} bytes")]
    TooLong,
    /// The scheme is not `spiffe`, in lower case, followed by `://`.
    #[error("does not begin with \"spiffe://\"")]
    Scheme,
    /// The trust domain is empty.
    #[error("the trust domain is empty")]
    EmptyTrustDomain,
    /// The trust domain is longer than 255 bytes.
    #[error("the trust domain is longer than {MAX_TRUST_DOMAIN_LEN} bytes")]
    TrustDomainTooLong,
    /// A character that a trust domain may not have; this also excludes a port and user information.
    #[error("{0:?} in the trust domain: only a-z, 0-9, '.', '-' and '_' may appear there")]
    TrustDomainCharacter(char),
    /// A path segment is empty (`//`), or the path ends with `/`.
    #[error("an empty path segment, or a '/' at the end")]
    EmptySegment,
    /// A path segment is `.` or `..`.
    #[error("a path segment is '.' or '..'")]
    DotSegment,
    /// A character that a path may not have; this also excludes a query, a fragment and percent encoding.
    #[error("{0:?} in the path: only letters, digits, '.', '-' and '_' may appear there")]
    PathCharacter(char),
}

/// A trust domain: the name under which a set of roots is known, for example `weft.local`. Cheap to clone.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TrustDomain(Arc<str>);

impl TrustDomain {
    /// Parses the name alone, without `spiffe://`.
    pub fn new(name: &str) -> Result<Self, ParseError> {
        if name.is_empty() {
            return Err(ParseError::EmptyTrustDomain);
        }
        if name.len() > MAX_TRUST_DOMAIN_LEN {
            return Err(ParseError::TrustDomainTooLong);
        }
        match name.chars().find(|c| !matches!(c, 'a'..='z' | '0'..='9' | '.' | '-' | '_')) {
            Some(c) => Err(ParseError::TrustDomainCharacter(c)),
            None => Ok(Self(name.into())),
        }
    }

    /// The name, for example `weft.local`.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for TrustDomain {
    type Err = ParseError;
    fn from_str(text: &str) -> Result<Self, ParseError> {
        Self::new(text)
    }
}

impl fmt::Display for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

/// A SPIFFE id. Two ids are equal when their texts are: the grammar leaves no room for two spellings. Cheap to clone.
#[derive(Clone)]
pub struct SpiffeId {
    // Invariant: "spiffe://", then `domain`, then a path that is empty or made of "/segment".
    text: Arc<str>,
    domain: TrustDomain,
}

impl SpiffeId {
    /// Parses the whole URI.
    pub fn new(text: &str) -> Result<Self, ParseError> {
        if text.len() > MAX_ID_LEN {
            return Err(ParseError::TooLong);
        }
        let rest = text.strip_prefix(SCHEME).ok_or(ParseError::Scheme)?;
        let (domain, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        let domain = TrustDomain::new(domain)?;
        if !path.is_empty() {
            path.split('/').skip(1).try_for_each(check_segment)?;
        }
        Ok(Self { text: text.into(), domain })
    }

    /// The id of a workload: `spiffe://<domain>/ns/<namespace>/sa/<service account>`.
    pub fn workload(domain: &TrustDomain, namespace: &str, service_account: &str) -> Result<Self, ParseError> {
        check_segment(namespace)?;
        check_segment(service_account)?;
        let text = format!("{SCHEME}{domain}/ns/{namespace}/sa/{service_account}");
        if text.len() > MAX_ID_LEN {
            return Err(ParseError::TooLong);
        }
        Ok(Self { text: text.into(), domain: domain.clone() })
    }

    /// The control plane's own id, which sidecars demand exactly: every workload's certificate chains to the same roots, so the chain
    /// alone would let any of them pose as the server.
    pub fn control_plane(domain: &TrustDomain) -> Self {
        let text = format!("{SCHEME}{domain}/ns/{CONTROL_PLANE_NAMESPACE}/sa/{CONTROL_PLANE_SERVICE_ACCOUNT}");
        Self { text: text.into(), domain: domain.clone() }
    }

    /// The whole URI.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The trust domain, which selects the roots that may vouch for this id.
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.domain
    }

    /// The path with its leading `/`, or the empty text for the id of a trust domain itself.
    pub fn path(&self) -> &str {
        &self.text[SCHEME.len() + self.domain.0.len()..]
    }

    /// The namespace, when the path has a workload's shape.
    pub fn namespace(&self) -> Option<&str> {
        self.workload_parts().map(|(namespace, _)| namespace)
    }

    /// The service account, when the path has a workload's shape.
    pub fn service_account(&self) -> Option<&str> {
        self.workload_parts().map(|(_, account)| account)
    }

    fn workload_parts(&self) -> Option<(&str, &str)> {
        let (namespace, account) = self.path().strip_prefix("/ns/")?.split_once("/sa/")?;
        (!namespace.contains('/') && !account.contains('/')).then_some((namespace, account))
    }
}

/// "Path segments MUST NOT be empty … MUST NOT be '.' or '..'", letters, digits, dots, dashes and underscores only (§2.2).
fn check_segment(segment: &str) -> Result<(), ParseError> {
    match segment {
        "" => return Err(ParseError::EmptySegment),
        "." | ".." => return Err(ParseError::DotSegment),
        _ => {}
    }
    match segment.chars().find(|c| !matches!(c, 'a'..='z' | 'A'..='Z' | '0'..='9' | '.' | '-' | '_')) {
        Some(c) => Err(ParseError::PathCharacter(c)),
        None => Ok(()),
    }
}

impl PartialEq for SpiffeId {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}
impl Eq for SpiffeId {}
impl Hash for SpiffeId {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.text.hash(state);
    }
}
impl PartialOrd for SpiffeId {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for SpiffeId {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.text.cmp(&other.text)
    }
}
impl Borrow<str> for SpiffeId {
    fn borrow(&self) -> &str {
        &self.text
    }
}
impl FromStr for SpiffeId {
    type Err = ParseError;
    fn from_str(text: &str) -> Result<Self, ParseError> {
        Self::new(text)
    }
}
impl fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}
impl fmt::Debug for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.text, f)
    }
}

macro_rules! serde_as_text {
    ($($type:ty),*) => {$(
        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(self.as_str())
            }
        }
        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = String::deserialize(deserializer)?;
                Self::new(&text).map_err(|e| serde::de::Error::custom(format!("{text:?}: {e}")))
            }
        }
    )*};
}
serde_as_text!(TrustDomain, SpiffeId);

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_workload_id_gives_back_its_parts() {
        let domain = TrustDomain::new("weft.local").unwrap();
        let id = SpiffeId::workload(&domain, "shop", "catalog").unwrap();
        assert_eq!(id.as_str(), "spiffe://weft.local/ns/shop/sa/catalog");
        assert_eq!((id.namespace(), id.service_account()), (Some("shop"), Some("catalog")));
        assert_eq!(id, SpiffeId::new(id.as_str()).unwrap());
        assert_eq!(SpiffeId::control_plane(&domain).as_str(), "spiffe://weft.local/ns/weft-system/sa/weft-control");
    }

    #[test]
    fn other_shapes_of_path_are_ids_without_namespace() {
        for text in [
            "spiffe://td",
            "spiffe://td/a",
            "spiffe://td/ns/a/sa/b/c",
            "spiffe://td/ns/a/b/sa/c",
            "spiffe://td/x/ns/a/sa/b",
            "spiffe://td/ns/a",
        ] {
            let id = SpiffeId::new(text).unwrap();
            assert_eq!((id.namespace(), id.service_account()), (None, None), "{text}");
        }
        assert_eq!(SpiffeId::new("spiffe://td").unwrap().path(), "");
    }

    #[test]
    fn what_the_specification_forbids_is_refused_with_its_reason() {
        use ParseError::*;
        let long = format!("spiffe://td/{}", "a".repeat(MAX_ID_LEN));
        for (text, reason) in [
            ("", Scheme),
            ("http://td/a", Scheme),
            ("SPIFFE://td/a", Scheme),
            ("spiffe:/td/a", Scheme),
            ("spiffe://", EmptyTrustDomain),
            ("spiffe:///a", EmptyTrustDomain),
            ("spiffe://Td/a", TrustDomainCharacter('T')),
            ("spiffe://td:80/a", TrustDomainCharacter(':')),
            ("spiffe://user@td/a", TrustDomainCharacter('@')),
            ("spiffe://td?q", TrustDomainCharacter('?')),
            ("spiffe://td#f", TrustDomainCharacter('#')),
            ("spiffe://tdé/a", TrustDomainCharacter('é')),
            ("spiffe://td/", EmptySegment),
            ("spiffe://td/a/", EmptySegment),
            ("spiffe://td//a", EmptySegment),
            ("spiffe://td/./a", DotSegment),
            ("spiffe://td/a/..", DotSegment),
            ("spiffe://td/a?q=1", PathCharacter('?')),
            ("spiffe://td/a#f", PathCharacter('#')),
            ("spiffe://td/a%41", PathCharacter('%')),
            ("spiffe://td/a b", PathCharacter(' ')),
            ("spiffe://td/a\0", PathCharacter('\0')),
            (&long, TooLong),
        ] {
            assert_eq!(SpiffeId::new(text).unwrap_err(), reason, "{text:?}");
        }
        assert_eq!(TrustDomain::new(&"a".repeat(256)).unwrap_err(), TrustDomainTooLong);
    }

    #[test]
    fn a_namespace_cannot_smuggle_segments_into_an_id() {
        let domain = TrustDomain::new("td").unwrap();
        for bad in ["", "..", "a/sa/admin", "a?b", "a\n"] {
            assert!(SpiffeId::workload(&domain, bad, "x").is_err(), "{bad:?}");
            assert!(SpiffeId::workload(&domain, "x", bad).is_err(), "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn whatever_follows_the_grammar_is_accepted_and_printed_unchanged(
            text in "spiffe://[a-z0-9._-]{1,40}(/[a-zA-Z0-9_-][a-zA-Z0-9._-]{0,20}){0,6}"
        ) {
            let id = SpiffeId::new(&text).unwrap();
            prop_assert_eq!(id.as_str(), text.as_str());
            prop_assert_eq!(format!("spiffe://{}{}", id.trust_domain(), id.path()), text);
        }

        #[test]
        fn no_text_makes_the_parser_panic_and_what_it_accepts_is_canonical(text in ".{0,80}") {
            for candidate in [text.clone(), format!("spiffe://{text}"), format!("spiffe://td/{text}")] {
                if let Ok(id) = SpiffeId::new(&candidate) {
                    prop_assert_eq!(id.as_str(), candidate.as_str());
                    prop_assert!(candidate.bytes().all(|b| b.is_ascii_alphanumeric() || b"/:._-".contains(&b)));
                    prop_assert!(!candidate[9..].contains(':') && !candidate[9..].contains("//"));
                    prop_assert!(!candidate.ends_with('/'));
                    prop_assert!(id.path().split('/').all(|s| s != "." && s != ".."));
                }
            }
        }

        #[test]
        fn one_forbidden_character_anywhere_spoils_an_id(
            position in 9usize..40,
            bad in proptest::sample::select(vec!['?', '#', '%', ':', '@', ' ', '\t', '\\', '+', '~', '*', 'ß', '[', '\0'])
        ) {
            let mut text = "spiffe://weft.local/ns/shop/sa/catalog-v2".to_owned();
            text.insert(position, bad);
            prop_assert!(SpiffeId::new(&text).is_err());
        }
    }
}
