//! `RequestRedirect` and `URLRewrite` of the Gateway API: where a caller is sent, and what a backend sees instead of what was asked.

use http::HeaderValue;

use super::path::PathEdit;

/// `http` or `https`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Scheme {
    /// Plaintext.
    Http,
    /// Over TLS.
    Https,
}

impl Scheme {
    /// As it is written in a URI.
    pub fn as_str(self) -> &'static str {
        match self {
            Scheme::Http => "http",
            Scheme::Https => "https",
        }
    }

    /// The well-known port.
    pub fn port(self) -> u16 {
        match self {
            Scheme::Http => 80,
            Scheme::Https => 443,
        }
    }
}

/// How a call was addressed, as far as a `Location` repeats it.
#[derive(Clone, Copy, Debug)]
pub struct Addressed<'a> {
    /// What the caller spoke to the port.
    pub scheme: Scheme,
    /// `Host` or `:authority`, with or without a port; empty where the call had none.
    pub authority: &'a str,
    /// The service port that the call was addressed to.
    pub port: u16,
    /// Path as it came, before any rewrite.
    pub path: &'a str,
    /// Query without the `?`.
    pub query: Option<&'a str>,
}

/// Answers with a `Location` instead of forwarding (`HTTPRequestRedirectFilter`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Redirect {
    /// `None`: the call's.
    pub scheme: Option<Scheme>,
    /// `None`: the call's, without its port.
    pub hostname: Option<Box<str>>,
    /// `None`: the path stays.
    pub path: Option<PathEdit>,
    /// `None`: the scheme's own where `scheme` is set, else the port addressed.
    pub port: Option<u16>,
    /// 301, 302, 303, 307 or 308.
    pub status: u16,
}

impl Redirect {
    /// The value of `Location`: visible ASCII only. `prefix` is what matched of the path. A call that named no host, redirected to
    /// none, gets a relative reference.
    pub fn location(&self, call: &Addressed<'_>, prefix: Option<&str>) -> String {
        let mut location = String::with_capacity(64 + call.path.len() + call.query.map_or(0, str::len));
        let host = self.hostname.as_deref().unwrap_or_else(|| without_port(call.authority));
        if !host.is_empty() {
            let scheme = self.scheme.unwrap_or(call.scheme);
            let port = self.port.unwrap_or(match self.scheme {
                Some(chosen) => chosen.port(),
                None => call.port,
            });
            location.push_str(scheme.as_str());
            location.push_str("://");
            push_visible(host, &mut location);
            // "Implementations SHOULD NOT add the port number in the 'Location' header" where it is the scheme's own.
            if port != scheme.port() {
                location.push(':');
                location.push_str(&crate::text::Decimal::of(u64::from(port)));
            }
        }
        let mut path = String::new();
        match &self.path {
            Some(edit) => edit.write(call.path, prefix, &mut path),
            None => path.push_str(call.path),
        }
        // RFC 3986 §4.2: a reference that begins with two slashes names an authority; RFC 9112 §3.2.4: `*` is no path.
        match path.as_str() {
            path if !path.starts_with('/') => location.push('/'),
            path if host.is_empty() && path.starts_with("//") => {
                location.push_str("/.");
                push_visible(path, &mut location);
            }
            path => push_visible(path, &mut location),
        }
        if let Some(query) = call.query {
            location.push('?');
            push_visible(query, &mut location);
        }
        location
    }
}

/// Changes what is forwarded (`HTTPURLRewriteFilter`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rewrite {
    /// The backend's `Host`; `None`: stays.
    pub hostname: Option<HeaderValue>,
    /// `None`: the path stays.
    pub path: Option<PathEdit>,
}

/// What a backend sees after the rewrites of a rule and its backend.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rewritten<'r> {
    /// The new target, path and query; `None`: stays.
    pub target: Option<String>,
    /// The new `Host`; `None`: stays.
    pub hostname: Option<&'r HeaderValue>,
}

impl Rewritten<'_> {
    /// Both rewrites seen together: where both speak of the same part, the backend's, which comes later, stands.
    pub(super) fn of<'r>(
        rule: Option<&'r Rewrite>,
        backend: Option<&'r Rewrite>,
        (path, query): (&str, Option<&str>),
        prefix: Option<&str>,
    ) -> Rewritten<'r> {
        let both = [backend, rule];
        let edit = both.iter().find_map(|rewrite| rewrite.as_ref()?.path.as_ref());
        Rewritten {
            target: edit.map(|edit| {
                let mut target = String::with_capacity(64 + path.len() + query.map_or(0, str::len));
                edit.write(path, prefix, &mut target);
                if let Some(query) = query {
                    target.push('?');
                    target.push_str(query);
                }
                target
            }),
            hostname: both.iter().find_map(|rewrite| rewrite.as_ref()?.hostname.as_ref()),
        }
    }
}

/// RFC 3986 §3.2: the host of `host[:port]`, brackets of an IPv6 address included.
fn without_port(authority: &str) -> &str {
    match authority.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|b| b.is_ascii_digit()) => host,
        _ => authority,
    }
}

/// What a URI cannot hold goes percent-encoded, so that no `Location` breaks its own header.
fn push_visible(text: &str, out: &mut String) {
    for byte in text.bytes() {
        if byte.is_ascii_graphic() && !matches!(byte, b'"' | b'<' | b'>' | b'\\' | b'^' | b'`' | b'{' | b'|' | b'}') {
            out.push(char::from(byte));
        } else {
            out.push('%');
            for digit in [byte >> 4, byte & 15] {
                out.push(char::from_digit(u32::from(digit), 16).unwrap_or('0').to_ascii_uppercase());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: Redirect = Redirect { scheme: None, hostname: None, path: None, port: None, status: 302 };

    fn call<'a>(scheme: Scheme, authority: &'a str, port: u16, path: &'a str) -> Addressed<'a> {
        Addressed { scheme, authority, port, path, query: None }
    }

    #[test]
    fn the_port_is_the_chosen_one_else_the_schemes_else_the_one_addressed() {
        use Scheme::{Http, Https};
        // Spoken scheme, authority, port addressed; scheme and port of the filter; Location.
        for (spoken, authority, addressed, scheme, port, location) in [
            (Http, "a.example", 80, None, None, "http://a.example/x"),
            (Http, "a.example:8080", 8080, None, None, "http://a.example:8080/x"),
            (Http, "a.example", 8080, None, None, "http://a.example:8080/x"),
            (Http, "a.example:9", 80, None, None, "http://a.example/x"),
            (Https, "a.example", 443, None, None, "https://a.example/x"),
            (Https, "a.example", 8443, None, None, "https://a.example:8443/x"),
            (Http, "a.example:8080", 8080, Some(Https), None, "https://a.example/x"),
            (Https, "a.example:8443", 8443, Some(Http), None, "http://a.example/x"),
            (Http, "a.example", 80, Some(Https), Some(443), "https://a.example/x"),
            (Http, "a.example", 80, Some(Https), Some(80), "https://a.example:80/x"),
            (Http, "a.example", 80, Some(Http), Some(443), "http://a.example:443/x"),
            (Http, "a.example:8080", 8080, None, Some(80), "http://a.example/x"),
            (Http, "a.example", 80, None, Some(8443), "http://a.example:8443/x"),
            (Http, "[2001:db8::1]:8080", 80, None, None, "http://[2001:db8::1]/x"),
            (Http, "[2001:db8::1]", 8080, None, None, "http://[2001:db8::1]:8080/x"),
        ] {
            let redirect = Redirect { scheme, port, ..PLAIN };
            let call = call(spoken, authority, addressed, "/x");
            assert_eq!(redirect.location(&call, None), location, "{call:?} {redirect:?}");
        }
    }

    #[test]
    fn the_query_is_kept_and_the_path_replaced() {
        let mut call = call(Scheme::Http, "a.example", 80, "/old/1");
        call.query = Some("a=%2F&b");
        let full = Redirect { path: Some(PathEdit::Full("/new".into())), ..PLAIN };
        assert_eq!(full.location(&call, None), "http://a.example/new?a=%2F&b");
        let prefix =
            Redirect { path: Some(PathEdit::Prefix("/new".into())), hostname: Some("b.example".into()), ..PLAIN };
        assert_eq!(prefix.location(&call, Some("/old")), "http://b.example/new/1?a=%2F&b");
    }

    #[test]
    fn a_location_is_visible_ascii_and_never_another_host() {
        for (authority, path, location) in [
            ("", "//evil.example/x", "/.//evil.example/x"),
            ("", "/x", "/x"),
            ("a.example", "//evil.example", "http://a.example//evil.example"),
            ("a.example", "*", "http://a.example/"),
            ("a.example", "/\u{fc} \"<>", "http://a.example/%C3%BC%20%22%3C%3E"),
        ] {
            assert_eq!(PLAIN.location(&call(Scheme::Http, authority, 80, path), None), location);
        }
    }

    #[test]
    fn the_backends_rewrite_stands_where_both_speak() {
        let value = HeaderValue::from_static;
        let rule = Rewrite { hostname: Some(value("rule")), path: Some(PathEdit::Full("/rule".into())) };
        let path = Rewrite { hostname: None, path: Some(PathEdit::Prefix("/backend".into())) };
        let both = Rewritten::of(Some(&rule), Some(&path), ("/a/b", Some("q=%20")), Some("/a"));
        assert_eq!((both.target.as_deref(), both.hostname), (Some("/backend/b?q=%20"), Some(&value("rule"))));
        let none = Rewritten::of(None, None, ("/a", Some("")), None);
        assert_eq!(none, Rewritten::default());
    }
}
