//! What neither the access log nor a tap repeats of a request: values of headers that are credentials, and of its target values of query parameters that are credentials, by their names (RFC 6750
//! §2.3, RFC 6749, signed URLs) or because they look like a JSON Web Token. Whoever reads a log could use them.

use std::borrow::Cow;

/// What stands in place of a value.
const HIDDEN: &[u8] = b"***";

/// Names of parameters whose values are credentials, in lower case.
const NAMES: [&[u8]; 13] = [
    b"access_token",
    b"id_token",
    b"refresh_token",
    b"token",
    b"code",
    b"client_secret",
    b"client_assertion",
    b"secret",
    b"password",
    b"api_key",
    b"apikey",
    b"sig",
    b"signature",
];

/// A token in compact form begins with the base64url of `{"`.
const JSON: &[u8] = b"eyJ";
const SHORTEST: usize = 32;

/// The target as it may be shown. Copied only where something is hidden.
pub(crate) fn target(target: &[u8]) -> Cow<'_, [u8]> {
    let Some(start) = memchr::memchr(b'?', target) else { return Cow::Borrowed(target) };
    let (path, query) = target.split_at(start + 1);
    if !query.split(|byte| *byte == b'&').any(|pair| secret(pair).is_some()) {
        return Cow::Borrowed(target);
    }
    let mut shown = path.to_vec();
    for (nth, pair) in query.split(|byte| *byte == b'&').enumerate() {
        if nth > 0 {
            shown.push(b'&');
        }
        match secret(pair) {
            Some(name) => {
                shown.extend_from_slice(name);
                shown.push(b'=');
                shown.extend_from_slice(HIDDEN);
            }
            None => shown.extend_from_slice(pair),
        }
    }
    Cow::Owned(shown)
}

/// Names of headers whose values are credentials, in lower case.
const HEADERS: [&str; 6] =
    ["authorization", "proxy-authorization", "cookie", "set-cookie", "www-authenticate", "authentication-info"];
/// Parts of such names.
const PARTS: [&str; 10] =
    ["token", "secret", "password", "passwd", "api-key", "apikey", "credential", "session", "csrf", "signature"];
/// What credentials in other headers begin with, in lower case.
const SCHEMES: [&[u8]; 4] = [b"bearer ", b"basic ", b"digest ", b"negotiate "];

/// Whether the value of a header, whose name is in lower case, is not to be shown.
pub(super) fn is_secret(name: &str, value: &[u8]) -> bool {
    let begins = |scheme: &&[u8]| value.get(..scheme.len()).is_some_and(|start| start.eq_ignore_ascii_case(scheme));
    HEADERS.contains(&name)
        || PARTS.iter().any(|part| name.contains(part))
        || SCHEMES.iter().any(begins)
        || memchr::memmem::find(value, JSON).is_some_and(|at| value.len() - at >= SHORTEST)
        // The user information of a URL (RFC 3986 §3.2.1).
        || memchr::memmem::find(value, b"://").is_some_and(|at| memchr::memchr(b'@', &value[at..]).is_some())
}

/// Whether the values of a query parameter are not to be shown.
pub(super) fn is_secret_parameter(name: &[u8]) -> bool {
    NAMES.iter().any(|known| name.eq_ignore_ascii_case(known))
}

/// The name of a pair whose value is not to be shown.
fn secret(pair: &[u8]) -> Option<&[u8]> {
    let equals = memchr::memchr(b'=', pair)?;
    let (name, value) = (&pair[..equals], &pair[equals + 1..]);
    let named = is_secret_parameter(name);
    let token = value.len() >= SHORTEST && value.starts_with(JSON);
    (!value.is_empty() && (named || token)).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_that_are_credentials_are_known_by_name_or_by_value() {
        let token = b"eyJhbGciOiJSUzI1NiJ9.eyJpc3MiOiJhIn0.c2lnbmF0dXJl";
        for (name, value) in [
            ("authorization", &b"anything"[..]),
            ("set-cookie", b"a=b"),
            ("x-auth-token", b"7"),
            ("x-api-key", b"7"),
            ("x-other", b"Bearer abc"),
            ("x-other", token),
            ("referer", b"https://ana:pass@shop.example/"),
        ] {
            assert!(is_secret(name, value), "{name}");
        }
        for (name, value) in [("accept", &b"text/html"[..]), ("x-request-id", b"0a1b"), ("from", b"ana@shop.example")] {
            assert!(!is_secret(name, value), "{name}");
        }
    }

    #[test]
    fn values_that_are_credentials_are_hidden_and_all_else_is_as_it_came() {
        let token = "eyJhbGciOiJSUzI1NiJ9.eyJpc3MiOiJhIn0.c2lnbmF0dXJl";
        for (given, shown) in [
            ("/items", "/items"),
            ("/items?page=2&q=eyJ", "/items?page=2&q=eyJ"),
            ("/items?access_token=abc&page=2", "/items?access_token=***&page=2"),
            ("/items?page=2&Access_Token=a=b", "/items?page=2&Access_Token=***"),
            ("/cb?code=xyz&state=1", "/cb?code=***&state=1"),
            ("/items?token=&x", "/items?token=&x"),
            ("/a?b?token=1", "/a?b?token=1"),
            ("?&&sig=1&", "?&&sig=***&"),
        ] {
            assert_eq!(String::from_utf8_lossy(&target(given.as_bytes())), shown);
        }
        let given = format!("/items?whatever={token}&page=1");
        assert_eq!(String::from_utf8_lossy(&target(given.as_bytes())), "/items?whatever=***&page=1");
        assert!(matches!(target(b"/items?page=2"), Cow::Borrowed(_)));
    }
}
