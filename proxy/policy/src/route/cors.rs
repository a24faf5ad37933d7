//! CORS (Fetch standard, “CORS protocol”; GEP-1767): preflights are answered here, and what a backend answers is marked for the
//! origins that may read it. The filter is the last word: what a backend says about CORS itself is replaced.

use http::header::{self, HeaderName, HeaderValue};

use super::{HeaderEdit, Request, Scheme};

/// An origin longer than this matches nothing: it is echoed into a header.
const LONGEST_ORIGIN: usize = 512;
/// Names in `Access-Control-Request-Headers` are echoed up to this.
const LONGEST_LIST: usize = 4096;
/// What the filter decides, and a backend therefore does not.
const DECIDED: [HeaderName; 6] = [
    header::ACCESS_CONTROL_ALLOW_ORIGIN,
    header::ACCESS_CONTROL_ALLOW_CREDENTIALS,
    header::ACCESS_CONTROL_ALLOW_METHODS,
    header::ACCESS_CONTROL_ALLOW_HEADERS,
    header::ACCESS_CONTROL_EXPOSE_HEADERS,
    header::ACCESS_CONTROL_MAX_AGE,
];

/// Who may read answers across origins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cors {
    /// Origins that may.
    pub origins: Origins,
    /// Whether calls with cookies or credentials may, too.
    pub credentials: bool,
    /// Methods that may be asked for.
    pub methods: Allowed,
    /// Request headers that may be asked for.
    pub headers: Allowed,
    /// Response headers that scripts may read; `None`: the safelisted ones.
    pub expose: Option<HeaderValue>,
    /// Seconds that a preflight's answer may be kept.
    pub max_age: HeaderValue,
}

/// A list that a preflight's answer repeats.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Allowed {
    /// `*`: whatever was asked for is echoed, which holds with credentials too.
    Any,
    /// Joined by `, `.
    These(HeaderValue),
    /// None beyond what the Fetch standard always allows.
    Safelisted,
}

/// Which origins match.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origins {
    /// `*`.
    Any,
    /// Any of these.
    These(Vec<OriginPattern>),
}

/// `https://shop.example.com`, `https://*.example.com:8443` or `https://*`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OriginPattern {
    scheme: Scheme,
    /// Lower case. With `wildcard`, what stands right of the `*`: ".example.com" or nothing.
    host: Box<str>,
    wildcard: bool,
    port: u16,
}

impl OriginPattern {
    /// Reads a pattern of `allowOrigins`; `None` when it is none. `*` alone is [`Origins::Any`].
    pub fn parse(text: &str) -> Option<Self> {
        let (scheme, host, port) = origin_parts(text)?;
        let (wildcard, rest, labels) = match host.strip_prefix('*') {
            Some("") => (true, "", None),
            Some(rest) => (true, rest, Some(rest.strip_prefix('.')?)),
            None => (false, host, Some(host)),
        };
        let fits = labels.is_none_or(|labels| labels.split('.').all(is_host_label));
        fits.then(|| OriginPattern { scheme, host: rest.to_ascii_lowercase().into(), wildcard, port })
    }

    /// Whether an `Origin` matches; `*` stands for any labels, at least one.
    fn matches(&self, (scheme, host, port): (Scheme, &str, u16)) -> bool {
        if (scheme, port) != (self.scheme, self.port) {
            return false;
        }
        match host.len().checked_sub(self.host.len()) {
            Some(0) => !self.wildcard && host.eq_ignore_ascii_case(&self.host),
            Some(left) if self.wildcard => host.get(left..).is_some_and(|right| right.eq_ignore_ascii_case(&self.host)),
            _ => false,
        }
    }
}

fn is_host_label(label: &str) -> bool {
    !label.is_empty() && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
}

/// Scheme, host and port of a serialised origin (RFC 6454 §6.1); the scheme's own port where none is named.
fn origin_parts(text: &str) -> Option<(Scheme, &str, u16)> {
    let (scheme, rest) = match text.split_once("://")? {
        ("http", rest) => (Scheme::Http, rest),
        ("https", rest) => (Scheme::Https, rest),
        _ => return None,
    };
    let (host, port) = match rest.rsplit_once(':') {
        // The colons of an IPv6 address are inside its brackets.
        Some((host, digits)) if !digits.ends_with(']') => {
            let plain = (1..=5).contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_digit());
            (host, digits.parse().ok().filter(|port| plain && *port != 0)?)
        }
        _ => (rest, scheme.port()),
    };
    let plain = !host.is_empty() && !host.contains(['/', '?', '#', '@']);
    plain.then_some((scheme, host, port))
}

/// Whether a call is a CORS preflight (Fetch standard, “CORS-preflight request”): `OPTIONS` with `Origin` and
/// `Access-Control-Request-Method`.
pub fn is_preflight<R: Request + ?Sized>(request: &R) -> bool {
    request.method() == "OPTIONS"
        && request.any_header(&header::ORIGIN, &mut |_| true)
        && request.any_header(&header::ACCESS_CONTROL_REQUEST_METHOD, &mut |_| true)
}

/// The method that a preflight asks for.
pub(super) fn requested_method<R: Request + ?Sized>(request: &R) -> Option<Box<str>> {
    let value = echoed(request, &header::ACCESS_CONTROL_REQUEST_METHOD)?;
    value.to_str().ok().map(Box::from)
}

impl Cors {
    /// The headers of a preflight's answer, beside status 204. Without any of CORS where the origin does not match: the client then
    /// does not go on.
    pub fn preflight<R: Request + ?Sized>(&self, request: &R) -> Vec<(HeaderName, HeaderValue)> {
        let mut answer = Vec::with_capacity(8);
        let Some(origin) = self.allowed_origin(request) else {
            answer.push((header::VARY, HeaderValue::from_static("Origin")));
            return answer;
        };
        if origin != "*" {
            answer.push((header::VARY, HeaderValue::from_static("Origin")));
        }
        answer.push((header::ACCESS_CONTROL_ALLOW_ORIGIN, origin));
        let lists = [
            (&self.methods, header::ACCESS_CONTROL_ALLOW_METHODS, header::ACCESS_CONTROL_REQUEST_METHOD),
            (&self.headers, header::ACCESS_CONTROL_ALLOW_HEADERS, header::ACCESS_CONTROL_REQUEST_HEADERS),
        ];
        for (allowed, name, asked) in lists {
            let value = match allowed {
                Allowed::Any => echoed(request, &asked),
                Allowed::These(list) => Some(list.clone()),
                Allowed::Safelisted => None,
            };
            answer.extend(value.map(|value| (name, value)));
        }
        answer.push((header::ACCESS_CONTROL_MAX_AGE, self.max_age.clone()));
        self.mark(&mut answer);
        answer
    }

    /// What is done to the answer of an actual call, after the backend's and the rule's own edits. Caches are told that answers
    /// differ by origin, also where there is none.
    pub fn response<R: Request + ?Sized>(&self, request: &R) -> HeaderEdit {
        let mut edit = HeaderEdit::default();
        if !request.any_header(&header::ORIGIN, &mut |_| true) {
            edit.add.extend(self.varies().then(vary));
            return edit;
        }
        edit.remove.extend(DECIDED);
        let origin = self.allowed_origin(request).filter(|_| !self.would_expose_credentials(request));
        if let Some(origin) = origin {
            edit.set.push((header::ACCESS_CONTROL_ALLOW_ORIGIN, origin));
            self.mark(&mut edit.set);
        }
        edit.add.extend(self.varies().then(vary));
        edit
    }

    /// GEP-1767: with `*` and without `allowCredentials`, nothing is said about a call that carries credentials.
    fn would_expose_credentials<R: Request + ?Sized>(&self, request: &R) -> bool {
        !self.credentials
            && self.origins == Origins::Any
            && [header::COOKIE, header::AUTHORIZATION].iter().any(|name| request.any_header(name, &mut |_| true))
    }

    fn mark(&self, headers: &mut Vec<(HeaderName, HeaderValue)>) {
        if self.credentials {
            headers.push((header::ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true")));
        }
        headers.extend(self.expose.iter().map(|list| (header::ACCESS_CONTROL_EXPOSE_HEADERS, list.clone())));
    }

    /// Whether answers differ by origin.
    fn varies(&self) -> bool {
        self.credentials || self.origins != Origins::Any
    }

    /// The value of `Access-Control-Allow-Origin` for a call: `*` only where every origin matches and none sends credentials.
    fn allowed_origin<R: Request + ?Sized>(&self, request: &R) -> Option<HeaderValue> {
        let mut allowed = None;
        let mut count = 0;
        request.any_header(&header::ORIGIN, &mut |value| {
            count += 1;
            allowed = std::str::from_utf8(value.trim_ascii())
                .ok()
                .filter(|text| text.len() <= LONGEST_ORIGIN)
                .and_then(|origin| match &self.origins {
                    Origins::Any if self.credentials => HeaderValue::from_str(origin).ok(),
                    Origins::Any => Some(HeaderValue::from_static("*")),
                    Origins::These(patterns) => {
                        let parts = origin_parts(origin)?;
                        let matched = patterns.iter().any(|pattern| pattern.matches(parts));
                        HeaderValue::from_str(origin).ok().filter(|_| matched)
                    }
                });
            false
        });
        // Two origins are none: which of them would the browser mean?
        allowed.filter(|_| count == 1)
    }
}

fn vary() -> (HeaderName, HeaderValue) {
    (header::VARY, HeaderValue::from_static("Origin"))
}

/// The only value of a header, if it is a list of tokens (RFC 9110 §5.6.2) of a sensible length.
fn echoed<R: Request + ?Sized>(request: &R, name: &HeaderName) -> Option<HeaderValue> {
    let mut echoed = None;
    request.any_header(name, &mut |value| {
        let token = |b: &u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~, \t".contains(b);
        let value = value.trim_ascii();
        echoed = (!value.is_empty() && value.len() <= LONGEST_LIST && value.iter().all(token))
            .then(|| HeaderValue::from_bytes(value).ok())
            .flatten();
        true
    });
    echoed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wildcard_of_an_origin_stands_alone_or_before_whole_labels() {
        for good in ["https://*", "http://*:8080", "https://*.example.com", "https://*.a-1", "http://shop.example:8443"]
        {
            assert!(OriginPattern::parse(good).is_some(), "{good}");
        }
        for bad in [
            "https://*shop.example",
            "https://*.",
            "https://*..example",
            "https://*.sh_op.example",
            "https://*.*.example",
            "https://.example",
            "https://shop.example.",
            "https://shop.*",
            "https://",
        ] {
            assert_eq!(OriginPattern::parse(bad), None, "{bad}");
        }
    }
}
