//! Cookies of a request (RFC 6265 §4.2.1), looked through without copying them.

use http::header;

use super::Request;

/// Whether `test` holds for the value of any cookie of that name, in the order in which they were sent. Names are case-sensitive;
/// quotes around a value are no part of it.
pub fn any_cookie<R: Request + ?Sized>(request: &R, name: &str, test: &mut dyn FnMut(&[u8]) -> bool) -> bool {
    request.any_header(&header::COOKIE, &mut |line| {
        line.split(|byte| *byte == b';').any(|pair| {
            let Some(at) = pair.iter().position(|byte| *byte == b'=') else { return false };
            let (key, value) = pair.split_at(at);
            let value = value.get(1..).unwrap_or_default().trim_ascii();
            let bare = value.strip_prefix(b"\"").and_then(|rest| rest.strip_suffix(b"\"")).unwrap_or(value);
            key.trim_ascii() == name.as_bytes() && test(bare)
        })
    })
}
