//! The matches of a rule and how each part compares with a request. Which of several matches wins is decided in [`super::table`].

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
        unimplemented!("{}", request.path())
    }
}
