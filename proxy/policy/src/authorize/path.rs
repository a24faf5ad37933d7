//! Paths as conditions write them, and the second reading that a path may have. A pattern is compared with each reading; which of them must
//! match is [`super::rule`]'s.

use super::pattern::Pattern;

/// A text pattern, or a template of segments.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PathPattern {
    /// `/a`, `/a*`, `*.json` or `*`.
    Text(Pattern),
    /// `/users/{*}/orders/{**}`, without the first slash. Invariant: at most one `Rest`, and no `One` after it.
    Template(Box<[Segment]>),
}

/// What stands between two slashes of a template.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Segment {
    /// This.
    Literal(Box<str>),
    /// `{*}`: anything but nothing.
    One,
    /// `{**}`: whatever follows the slash, slashes included.
    Rest,
}

impl PathPattern {
    /// Reads a pattern.
    ///
    /// # Errors
    /// What is wrong with it, as a sentence that makes sense after the pattern.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        const SHAPE: &str =
            "is no path that begins with '/', with '*' at most at its end, nor '*' and the end of one, nor a template";
        if text.len() > 1024 || text.contains(['?', '#']) {
            return Err(SHAPE);
        }
        if text.contains(['{', '}']) {
            return Self::template(text);
        }
        let pattern = Pattern::parse(text).ok_or(SHAPE)?;
        let literal = pattern.literal();
        let normal = match &pattern {
            Pattern::Present => true,
            // What stands before it may end in a slash or not.
            Pattern::Suffix(_) if !literal.starts_with('/') => is_normal(&format!("/{literal}")),
            Pattern::Exact(_) | Pattern::Prefix(_) if !literal.starts_with('/') => return Err(SHAPE),
            _ => is_normal(literal),
        };
        // A pattern with a second reading would be compared with the first only.
        if !normal {
            return Err("has dot segments, doubled slashes, backslashes, parameters or percent-encoding");
        }
        Ok(PathPattern::Text(pattern))
    }

    fn template(text: &str) -> Result<Self, &'static str> {
        let body = text.strip_prefix('/').ok_or("is a template that does not begin with '/'")?;
        let mut segments: Vec<Segment> = Vec::new();
        for part in body.split('/') {
            let segment = match part {
                "{*}" | "{**}" if segments.contains(&Segment::Rest) => {
                    return Err("is a template with something else than text after '{**}'");
                }
                "{*}" => Segment::One,
                "{**}" => Segment::Rest,
                text if text.contains(['{', '}', '*']) => {
                    return Err("is a template in which '{*}' or '{**}' is not a whole segment, or is mixed with '*'");
                }
                text => Segment::Literal(text.into()),
            };
            segments.push(segment);
        }
        if !is_normal(&text.replace("{**}", "x").replace("{*}", "x")) {
            return Err("has dot segments, doubled slashes, backslashes, parameters or percent-encoding");
        }
        Ok(PathPattern::Template(segments.into()))
    }

    /// Whether the path matches.
    pub fn holds(&self, path: &str) -> bool {
        match self {
            PathPattern::Text(pattern) => pattern.holds(path.as_bytes()),
            PathPattern::Template(segments) => path.strip_prefix('/').is_some_and(|body| fits(segments, body)),
        }
    }
}

fn fits(segments: &[Segment], body: &str) -> bool {
    let parts = body.bytes().filter(|b| *b == b'/').count() + 1;
    let rest = segments.iter().position(|s| *s == Segment::Rest);
    // `Rest` itself takes whatever the tail leaves.
    let (head, tail) = segments.split_at(rest.unwrap_or(segments.len()));
    let enough = if rest.is_some() { parts >= segments.len() } else { parts == segments.len() };
    enough
        && head.iter().zip(body.split('/')).all(|(segment, part)| segment.takes(part))
        && tail.iter().rev().zip(body.rsplit('/')).all(|(segment, part)| segment.takes(part))
}

impl Segment {
    fn takes(&self, part: &str) -> bool {
        match self {
            Segment::Literal(text) => **text == *part,
            Segment::One => !part.is_empty(),
            Segment::Rest => true,
        }
    }
}

/// Whether a path has no reading but its own. The asterisk of `OPTIONS` might be read as the root.
pub(super) fn is_plain(path: &str) -> bool {
    let suspicious = path.bytes().any(|b| matches!(b, b'%' | b'\\' | b';'));
    path.starts_with('/') && !suspicious && !path.contains("//") && !path.contains("/.")
}

/// Whether the literal part of a pattern is what [`normalize`] leaves of a path: otherwise no normal path would ever
/// begin with it.
fn is_normal(literal: &str) -> bool {
    normalize(literal) == literal
}

/// The path as an application might read it: percent-decoded once, backslashes as slashes, path parameters dropped, dot
/// segments resolved (RFC 3986 §5.2.4), slashes merged.
pub(super) fn normalize(path: &str) -> String {
    let mut bytes = Vec::with_capacity(path.len());
    let mut rest = path.as_bytes();
    while let Some((byte, tail)) = rest.split_first() {
        let escape = match (byte, tail) {
            (b'%', [high, low, ..]) => nibble(*high).zip(nibble(*low)).map(|(high, low)| high << 4 | low),
            _ => None,
        };
        rest = if escape.is_some() { tail.get(2..).unwrap_or_default() } else { tail };
        bytes.push(match escape.unwrap_or(*byte) {
            b'\\' => b'/',
            byte => byte,
        });
    }
    let decoded = String::from_utf8_lossy(&bytes);
    let mut segments: Vec<&str> = Vec::new();
    for segment in decoded.split('/') {
        match segment.split(';').next().unwrap_or_default() {
            "" | "." => {}
            ".." => {
                segments.pop();
            }
            segment => segments.push(segment),
        }
    }
    let mut normal = String::with_capacity(decoded.len());
    for segment in &segments {
        normal.push('/');
        normal.push_str(segment);
    }
    if normal.is_empty() || decoded.ends_with('/') {
        normal.push('/');
    }
    normal
}

fn nibble(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).and_then(|n| u8::try_from(n).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn normal_forms_resolve_dots_merge_slashes_and_decode_once() {
        for (path, normal) in [
            ("/a/./b/../c", "/a/c"),
            ("/../..", "/"),
            ("//a///b/", "/a/b/"),
            ("/%2525", "/%25"),
            ("/a%2Fb", "/a/b"),
            ("/%zz", "/%zz"),
            ("", "/"),
        ] {
            assert_eq!(normalize(path), normal, "{path}");
        }
    }

    #[test]
    fn a_plain_path_is_its_own_normal_form() {
        for path in ["/", "/a", "/a/b.c/", "/a..b/c.", "/~a!$&'()*+,=:@"] {
            assert!(is_plain(path) && normalize(path) == path, "{path}");
        }
        for path in ["", "*", "//", "/a//b", "/.", "/a/..", "/.a", "/%61", "/a;b", "/a\\b"] {
            assert!(!is_plain(path), "{path}");
        }
    }

    #[test]
    fn templates_take_segments_and_what_is_left() {
        for (pattern, path, holds) in [
            ("/users/{*}", "/users/7", true),
            ("/users/{*}", "/users/", false),
            ("/users/{*}", "/users/7/x", false),
            ("/users/{*}/orders", "/users/7/orders", true),
            ("/users/{*}/orders", "/users/orders", false),
            ("/a/{**}", "/a/", true),
            ("/a/{**}", "/a/b/c", true),
            ("/a/{**}", "/a", false),
            ("/a/{**}", "/ab/c", false),
            ("/{*}/x/{**}", "/1/x/2/3", true),
            ("/{*}/x/{**}", "/1/y/2/3", false),
            ("/a/{**}/z", "/a/b/c/z", true),
            ("/a/{**}/z", "/a/z", false),
            ("/{**}", "/", true),
        ] {
            assert_eq!(PathPattern::parse(pattern).unwrap().holds(path), holds, "{pattern} {path}");
        }
    }

    #[test]
    fn patterns_that_no_normal_path_could_match_are_refused() {
        for none in [
            "",
            "a",
            "/a*b",
            "/a/../b",
            "/%61",
            "/a;b",
            "//a",
            "*//a",
            "*..",
            "/a?b",
            "{*}",
            "/{x}",
            "/a{*}",
            "/{**}/{*}",
            "/{*}/../x",
            "/{*}/a*",
            "*a*",
        ] {
            assert!(PathPattern::parse(none).is_err(), "{none}");
        }
        for some in ["*", "/", "/.well-known/*", "*.json", "*/info", "/a", "/*", "*/.well-known/x", "/{*}/{**}/x/y"] {
            assert!(PathPattern::parse(some).is_ok(), "{some}");
        }
    }
}
