//! How a redirect or a rewrite changes a path (`HTTPPathModifier`). Percent-encoding is kept as it was, and the query is no part of it.

/// What becomes of a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PathEdit {
    /// Replaced as a whole. Invariant: begins with `/`.
    Full(Box<str>),
    /// Replaces the prefix that matched. Invariant: empty, or begins with `/` and does not end with one.
    Prefix(Box<str>),
}

impl PathEdit {
    /// Appends what becomes of `path`, of which `prefix` matched (without a final slash; `None`: not by a prefix, and then a
    /// replacement of the prefix changes nothing). What is no path, as in `OPTIONS *`, stays as it is.
    pub fn write(&self, path: &str, prefix: Option<&str>, out: &mut String) {
        match self {
            _ if !path.starts_with('/') => out.push_str(path),
            PathEdit::Full(full) => out.push_str(full),
            PathEdit::Prefix(replacement) => match prefix.and_then(|prefix| path.strip_prefix(prefix)) {
                Some(rest) => {
                    // "/" alone is what the prefix "/" is about, not a slash after it.
                    let rest = if path == "/" { "" } else { rest };
                    // Neither a doubled slash, which reads as an authority, nor nothing at all.
                    let doubled =
                        if replacement.is_empty() { rest.len() - rest.trim_start_matches('/').len() } else { 0 };
                    out.push_str(replacement);
                    out.push_str(rest.get(doubled.saturating_sub(1)..).unwrap_or_default());
                    if replacement.is_empty() && rest.is_empty() {
                        out.push('/');
                    }
                }
                None => out.push_str(path),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn replaced(path: &str, prefix: &str, replacement: &str) -> String {
        let mut out = String::new();
        PathEdit::Prefix(replacement.trim_end_matches('/').into()).write(
            path,
            Some(prefix.trim_end_matches('/')),
            &mut out,
        );
        out
    }

    #[test]
    fn a_prefix_is_replaced_as_the_table_of_the_specification_says() {
        // HTTPPathModifier.replacePrefixMatch: request path, prefix match, replacement, modified path.
        for (path, prefix, replacement, modified) in [
            ("/foo/bar", "/foo", "/xyz", "/xyz/bar"),
            ("/foo/bar", "/foo", "/xyz/", "/xyz/bar"),
            ("/foo/bar", "/foo/", "/xyz", "/xyz/bar"),
            ("/foo/bar", "/foo/", "/xyz/", "/xyz/bar"),
            ("/foo", "/foo", "/xyz", "/xyz"),
            ("/foo/", "/foo", "/xyz", "/xyz/"),
            ("/foo/bar", "/foo", "", "/bar"),
            ("/foo/", "/foo", "", "/"),
            ("/foo", "/foo", "", "/"),
            ("/foo/", "/foo", "/", "/"),
            ("/foo", "/foo", "/", "/"),
        ] {
            assert_eq!(replaced(path, prefix, replacement), modified, "{path} {prefix} {replacement}");
        }
    }

    #[test]
    fn slashes_are_neither_doubled_nor_lost() {
        for (path, prefix, replacement, modified) in [
            ("/", "/", "/xyz", "/xyz"),
            ("/a", "/", "/xyz", "/xyz/a"),
            ("/a", "/", "/", "/a"),
            ("/", "/", "/", "/"),
            ("/foo//bar", "/foo", "/", "/bar"),
            ("/foo///bar", "/foo", "", "/bar"),
            ("/foo//bar", "/foo", "/xyz", "/xyz//bar"),
            ("//", "/", "/", "/"),
            ("/foo%2Fx/%20", "/foo%2Fx", "/y", "/y/%20"),
        ] {
            assert_eq!(replaced(path, prefix, replacement), modified, "{path} {prefix} {replacement}");
        }
    }

    #[test]
    fn what_is_no_path_stays() {
        let mut out = String::new();
        PathEdit::Full("/x".into()).write("*", None, &mut out);
        PathEdit::Prefix("/x".into()).write("/unmatched", None, &mut out);
        assert_eq!(out, "*/unmatched");
    }
}
