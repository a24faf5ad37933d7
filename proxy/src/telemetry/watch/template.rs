//! What is alike in the paths of calls: segments that look like identifiers are replaced by what they look like, so that a service has
//! few paths, and none of its identifiers leaves the sidecar in a summary.

/// Segments of a template; what follows is `…`.
const SEGMENTS: usize = 16;
/// Bytes of a template; a longer one ends with `…`.
const LENGTH: usize = 256;
/// Letters and digits from which on a segment with a digit is a token rather than a word.
const TOKEN: usize = 20;
/// Hexadecimal digits from which on they are an identifier.
const HEX: usize = 8;

/// The template of a path, whose query is left out: `/orders/7` is `/orders/{number}`.
pub(super) fn template(path: &str) -> String {
    let path = path.split_once('?').map_or(path, |(path, _)| path);
    let mut out = String::with_capacity(path.len().min(LENGTH));
    for (nth, segment) in path.strip_prefix('/').unwrap_or(path).split('/').enumerate() {
        let shown = kind(segment).unwrap_or(segment);
        if nth == SEGMENTS || out.len() + 1 + shown.len() > LENGTH {
            out.push_str("/…");
            break;
        }
        out.push('/');
        out.push_str(shown);
    }
    out
}

/// What a segment looks like; `None`: a word.
fn kind(segment: &str) -> Option<&'static str> {
    let bytes = segment.as_bytes();
    let digits = bytes.iter().filter(|byte| byte.is_ascii_digit()).count();
    if bytes.is_empty() {
        return None;
    }
    if digits == bytes.len() {
        return Some("{number}");
    }
    if is_uuid(bytes) {
        return Some("{uuid}");
    }
    if bytes.len() >= HEX && digits > 0 && bytes.iter().all(u8::is_ascii_hexdigit) {
        return Some("{hex}");
    }
    let is_word = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'~' | b'=' | b'%');
    // Words that are joined may have a digit, as a gRPC service has its version's.
    let least = if bytes.iter().all(u8::is_ascii_alphanumeric) { 1 } else { 2 };
    if bytes.len() > 128 || (bytes.len() >= TOKEN && digits >= least && bytes.iter().all(is_word)) {
        return Some("{token}");
    }
    None
}

/// 8-4-4-4-12 hexadecimal digits (RFC 9562 §4).
fn is_uuid(bytes: &[u8]) -> bool {
    bytes.len() == 36
        && bytes.iter().enumerate().all(|(at, byte)| match at {
            8 | 13 | 18 | 23 => *byte == b'-',
            _ => byte.is_ascii_hexdigit(),
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn identifiers_are_replaced_and_words_stay() {
        for (path, wanted) in [
            ("/", "/"),
            ("/items", "/items"),
            ("/items/", "/items/"),
            ("/orders/7?expand=lines", "/orders/{number}"),
            ("/users/5e1b9a52-7a4e-4f5c-9d65-0d4a6f1c2b3d/cart", "/users/{uuid}/cart"),
            ("/blobs/deadbeef01", "/blobs/{hex}"),
            ("/facade/v2", "/facade/v2"),
            ("/reset/QWxhZGRpbjpvcGVuIHNlc2FtZTEy", "/reset/{token}"),
            ("/shop.v1.PaymentsServiceInternal/Charge", "/shop.v1.PaymentsServiceInternal/Charge"),
            ("*", "/*"),
        ] {
            assert_eq!(template(path), wanted, "{path}");
        }
        assert!(template(&"/a".repeat(100)).ends_with("/a/…"));
    }

    proptest! {
        #[test]
        fn a_template_is_bounded_and_its_own_template(path in "(/[a-zA-Z0-9._~%-]{0,40}){1,24}") {
            let once = template(&path);
            prop_assert!(once.len() <= LENGTH + "/…".len());
            if !once.ends_with('…') {
                prop_assert_eq!(template(&once), once);
            }
        }
    }
}
