//! The matches of a rule and how each part compares with a request. Which of several matches wins is decided in
//! [`super::table`].

use http::{HeaderName, Method};
use regex::Regex;
use regex::bytes::Regex as BytesRegex;

use super::Request;

/// All parts must hold.
#[derive(Clone, Debug, Default)]
pub struct Match {
    /// Path; the default matches every path.
    pub path: PathMatch,
    /// Method; `None`: any.
    pub method: Option<Method>,
    /// Headers.
    pub headers: Vec<KeyMatch<HeaderName>>,
    /// Query parameters.
    pub queries: Vec<KeyMatch<Box<str>>>,
}

/// How a path is matched.
#[derive(Clone, Debug, Default)]
pub enum PathMatch {
    /// Every path.
    #[default]
    Any,
    /// The whole path.
    Exact(Box<str>),
    /// Whole segments; without a final slash, and never empty or `/` (that is `Any`).
    Prefix(Box<str>),
    /// Anchored at both ends.
    Regex(Regex),
    /// `/<service>/<method>`.
    Grpc(GrpcMatch),
}

/// A gRPC service and method; `None`: any.
#[derive(Clone, Debug, Default)]
pub struct GrpcMatch {
    /// Fully qualified service.
    pub service: Option<TextMatch>,
    /// Method.
    pub method: Option<TextMatch>,
}

/// A text compared exactly or by an anchored regular expression.
#[derive(Clone, Debug)]
pub enum TextMatch {
    /// Equal.
    Exact(Box<str>),
    /// Matches at both ends.
    Regex(BytesRegex),
}

/// A named value: a header or a query parameter.
#[derive(Clone, Debug)]
pub struct KeyMatch<N> {
    /// Name.
    pub name: N,
    /// Value.
    pub value: TextMatch,
}

impl Match {
    /// Whether all parts hold.
    pub fn holds<R: Request + ?Sized>(&self, request: &R) -> bool {
        self.path.holds(request.path()) && self.rest_holds(request)
    }

    /// Whether everything but the path holds: the table has looked at that already.
    pub(super) fn rest_holds<R: Request + ?Sized>(&self, request: &R) -> bool {
        self.method.as_ref().is_none_or(|method| method.as_str() == request.method())
            && self
                .headers
                .iter()
                .all(|header| request.any_header(&header.name, &mut |value| header.value.holds(trim(value))))
            && (self.queries.is_empty() || self.queries_hold(request.query().unwrap_or_default()))
    }

    fn queries_hold(&self, query: &str) -> bool {
        self.queries
            .iter()
            .all(|wanted| parameter(query, &wanted.name).is_some_and(|raw| wanted.value.holds_encoded(raw)))
    }
}

impl PathMatch {
    /// Whether the path matches.
    pub fn holds(&self, path: &str) -> bool {
        match self {
            PathMatch::Any => true,
            PathMatch::Exact(exact) => **exact == *path,
            // "Matching is … done on a path element by element basis": /v2 takes /v2 and /v2/x, not /v2example.
            PathMatch::Prefix(prefix) => {
                path.strip_prefix(&**prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
            }
            PathMatch::Regex(regex) => regex.is_match(path),
            PathMatch::Grpc(grpc) => grpc.holds(path),
        }
    }
}

impl GrpcMatch {
    /// Service and method of `/<service>/<method>` (gRPC over HTTP/2, “Path”).
    pub(super) fn parts(path: &str) -> Option<(&str, &str)> {
        path.strip_prefix('/')?.rsplit_once('/')
    }

    /// Whether `/<service>/<method>` matches.
    pub fn holds(&self, path: &str) -> bool {
        let Some((service, method)) = Self::parts(path) else { return false };
        let part = |wanted: &Option<TextMatch>, text: &str| wanted.as_ref().is_none_or(|w| w.holds(text.as_bytes()));
        part(&self.service, service) && part(&self.method, method)
    }
}

impl TextMatch {
    /// Whether the whole text matches.
    pub fn holds(&self, text: &[u8]) -> bool {
        match self {
            TextMatch::Exact(exact) => exact.as_bytes() == text,
            TextMatch::Regex(regex) => regex.is_match(text),
        }
    }

    /// As [`holds`](Self::holds), of a text in `application/x-www-form-urlencoded`. Only an expression over an encoded
    /// text needs a buffer.
    fn holds_encoded(&self, raw: &str) -> bool {
        match self {
            TextMatch::Exact(exact) => decoded(raw).eq(exact.bytes()),
            TextMatch::Regex(regex) if raw.contains(['%', '+']) => regex.is_match(&decoded(raw).collect::<Vec<u8>>()),
            TextMatch::Regex(regex) => regex.is_match(raw.as_bytes()),
        }
    }

    /// Characters as the author wrote them: what gRPC precedence counts.
    pub(super) fn length(&self) -> usize {
        match self {
            TextMatch::Exact(exact) => exact.chars().count(),
            TextMatch::Regex(regex) => pattern_length(regex.as_str()),
        }
    }
}

/// Characters of a pattern without the anchors that conversion put around it.
pub(super) fn pattern_length(anchored: &str) -> usize {
    anchored.chars().count().saturating_sub("^(?:)$".len())
}

/// RFC 9110 §5.5: white space around a field value is not part of it.
fn trim(value: &[u8]) -> &[u8] {
    value.trim_ascii()
}

/// The first parameter of that name: "if a query param is repeated … implementations should match against the first
/// value".
fn parameter<'q>(query: &'q str, name: &str) -> Option<&'q str> {
    query.split('&').find_map(|pair| {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        decoded(key).eq(name.bytes()).then_some(value)
    })
}

/// The bytes that a form-encoded text stands for; a `%` that begins no escape stands for itself.
fn decoded(raw: &str) -> impl Iterator<Item = u8> {
    let bytes = raw.as_bytes();
    let mut at = 0;
    std::iter::from_fn(move || {
        let byte = *bytes.get(at)?;
        let escape = match byte {
            b'%' => bytes.get(at + 1..at + 3).and_then(|hex| Some(nibble(hex[0])? << 4 | nibble(hex[1])?)),
            _ => None,
        };
        at += if escape.is_some() { 3 } else { 1 };
        Some(escape.unwrap_or(if byte == b'+' { b' ' } else { byte }))
    })
}

fn nibble(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).and_then(|n| u8::try_from(n).ok())
}
