//! The filters of HTTPRoutes and GRPCRoutes, as they are written. ExtensionRef and ExternalAuth are not among them: whoever reads one learns
//! its name and place.

use super::ObjectRef;
use crate::kinds::Fraction;
use serde::Deserialize;

/// A filter. Which of them a kind of route may have is judged by the reader of the route.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(try_from = "Written")]
pub enum Filter {
    /// Edits the request.
    RequestHeaders(HeaderModifier),
    /// Edits the response.
    ResponseHeaders(HeaderModifier),
    /// Sends a copy elsewhere.
    Mirror(Mirror),
    /// Answers with another place.
    Redirect(Redirect),
    /// Changes what is forwarded.
    Rewrite(Rewrite),
    /// Shares answers with other origins.
    Cors(Cors),
}

impl Filter {
    /// The name of its type, as written.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::RequestHeaders(_) => "RequestHeaderModifier",
            Self::ResponseHeaders(_) => "ResponseHeaderModifier",
            Self::Mirror(_) => "RequestMirror",
            Self::Redirect(_) => "RequestRedirect",
            Self::Rewrite(_) => "URLRewrite",
            Self::Cors(_) => "CORS",
        }
    }

    /// Whether no GRPCRoute may have it.
    #[must_use]
    pub fn is_of_http_alone(&self) -> bool {
        matches!(self, Self::Redirect(_) | Self::Rewrite(_) | Self::Cors(_))
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Written {
    #[serde(rename = "type")]
    kind: FilterKind,
    #[serde(default)]
    request_header_modifier: Option<HeaderModifier>,
    #[serde(default)]
    response_header_modifier: Option<HeaderModifier>,
    #[serde(default)]
    request_mirror: Option<Mirror>,
    #[serde(default)]
    request_redirect: Option<Redirect>,
    #[serde(default)]
    url_rewrite: Option<Rewrite>,
    #[serde(default)]
    cors: Option<Cors>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
enum FilterKind {
    RequestHeaderModifier,
    ResponseHeaderModifier,
    RequestMirror,
    RequestRedirect,
    #[serde(rename = "URLRewrite")]
    UrlRewrite,
    #[serde(rename = "CORS")]
    Cors,
}

impl TryFrom<Written> for Filter {
    type Error = String;

    fn try_from(written: Written) -> Result<Self, String> {
        let kind = written.kind;
        let given = [
            written.request_header_modifier.map(|m| (FilterKind::RequestHeaderModifier, Self::RequestHeaders(m))),
            written.response_header_modifier.map(|m| (FilterKind::ResponseHeaderModifier, Self::ResponseHeaders(m))),
            written.request_mirror.map(|m| (FilterKind::RequestMirror, Self::Mirror(m))),
            written.request_redirect.map(|r| (FilterKind::RequestRedirect, Self::Redirect(r))),
            written.url_rewrite.map(|r| (FilterKind::UrlRewrite, Self::Rewrite(r))),
            written.cors.map(|c| (FilterKind::Cors, Self::Cors(c))),
        ];
        let mut given = given.into_iter().flatten();
        match (given.next(), given.next()) {
            (Some((of, filter)), None) if of == kind => Ok(filter),
            _ => Err(format!("must hold exactly the settings of its type, {kind:?}")),
        }
    }
}

/// `HTTPHeaderFilter`
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct HeaderModifier {
    /// Replaced.
    pub set: Vec<Header>,
    /// Appended.
    pub add: Vec<Header>,
    /// Removed.
    pub remove: Vec<String>,
}

/// A name and a value.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Header {
    /// Name.
    pub name: String,
    /// Value.
    pub value: String,
}

/// `HTTPRequestMirrorFilter`
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Mirror {
    /// Who gets the copies.
    pub backend_ref: ObjectRef,
    /// Share of the calls, in a hundred.
    #[serde(default)]
    pub percent: Option<u32>,
    /// Share of the calls. With neither, all.
    #[serde(default)]
    pub fraction: Option<Fraction>,
}

/// `HTTPRequestRedirectFilter`; what is absent stays as the call has it.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Redirect {
    /// `http` or `https`.
    pub scheme: Option<String>,
    /// Host name.
    pub hostname: Option<String>,
    /// Path.
    pub path: Option<PathModifier>,
    /// Port.
    pub port: Option<u16>,
    /// Absent: 302.
    pub status_code: Option<u16>,
}

/// `HTTPURLRewriteFilter`
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Rewrite {
    /// Host name.
    pub hostname: Option<String>,
    /// Path.
    pub path: Option<PathModifier>,
}

/// `HTTPPathModifier`
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(try_from = "WrittenPath")]
pub enum PathModifier {
    /// The whole path.
    Full(String),
    /// The prefix that matched.
    Prefix(String),
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct WrittenPath {
    #[serde(rename = "type")]
    kind: PathModifierKind,
    #[serde(default)]
    replace_full_path: Option<String>,
    #[serde(default)]
    replace_prefix_match: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
enum PathModifierKind {
    ReplaceFullPath,
    ReplacePrefixMatch,
}

impl TryFrom<WrittenPath> for PathModifier {
    type Error = String;

    fn try_from(written: WrittenPath) -> Result<Self, String> {
        match (written.kind, written.replace_full_path, written.replace_prefix_match) {
            (PathModifierKind::ReplaceFullPath, Some(path), None) => Ok(Self::Full(path)),
            (PathModifierKind::ReplacePrefixMatch, None, Some(prefix)) => Ok(Self::Prefix(prefix)),
            (kind, ..) => Err(format!("must hold exactly the settings of its type, {kind:?}")),
        }
    }
}

/// `HTTPCORSFilter` (GEP-1767)
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Cors {
    /// Origins, with wildcards.
    pub allow_origins: Vec<String>,
    /// Whether calls may carry credentials.
    pub allow_credentials: bool,
    /// Methods, or `*`.
    pub allow_methods: Vec<String>,
    /// Headers, or `*`.
    pub allow_headers: Vec<String>,
    /// Headers, or `*`.
    pub expose_headers: Vec<String>,
    /// Seconds. Absent: 5.
    pub max_age: Option<u32>,
}
