//! The static table (RFC 7541 appendix A).

use super::Name;
use bytes::Bytes;
use http::header::{self, HeaderName};

/// Entries of the static table; dynamic ones are counted from here on.
pub(super) const STATIC: usize = 61;

const fn h(name: HeaderName) -> (Name, Bytes) {
    (Name::Header(name), Bytes::new())
}

const fn v(name: Name, value: &'static str) -> (Name, Bytes) {
    (name, Bytes::from_static(value.as_bytes()))
}

/// By index, from 1.
pub(super) static TABLE: [(Name, Bytes); STATIC] = [
    v(Name::Authority, ""),
    v(Name::Method, "GET"),
    v(Name::Method, "POST"),
    v(Name::Path, "/"),
    v(Name::Path, "/index.html"),
    v(Name::Scheme, "http"),
    v(Name::Scheme, "https"),
    v(Name::Status, "200"),
    v(Name::Status, "204"),
    v(Name::Status, "206"),
    v(Name::Status, "304"),
    v(Name::Status, "400"),
    v(Name::Status, "404"),
    v(Name::Status, "500"),
    h(header::ACCEPT_CHARSET),
    v(Name::Header(header::ACCEPT_ENCODING), "gzip, deflate"),
    h(header::ACCEPT_LANGUAGE),
    h(header::ACCEPT_RANGES),
    h(header::ACCEPT),
    h(header::ACCESS_CONTROL_ALLOW_ORIGIN),
    h(header::AGE),
    h(header::ALLOW),
    h(header::AUTHORIZATION),
    h(header::CACHE_CONTROL),
    h(header::CONTENT_DISPOSITION),
    h(header::CONTENT_ENCODING),
    h(header::CONTENT_LANGUAGE),
    h(header::CONTENT_LENGTH),
    h(header::CONTENT_LOCATION),
    h(header::CONTENT_RANGE),
    h(header::CONTENT_TYPE),
    h(header::COOKIE),
    h(header::DATE),
    h(header::ETAG),
    h(header::EXPECT),
    h(header::EXPIRES),
    h(header::FROM),
    h(header::HOST),
    h(header::IF_MATCH),
    h(header::IF_MODIFIED_SINCE),
    h(header::IF_NONE_MATCH),
    h(header::IF_RANGE),
    h(header::IF_UNMODIFIED_SINCE),
    h(header::LAST_MODIFIED),
    h(header::LINK),
    h(header::LOCATION),
    h(header::MAX_FORWARDS),
    h(header::PROXY_AUTHENTICATE),
    h(header::PROXY_AUTHORIZATION),
    h(header::RANGE),
    h(header::REFERER),
    h(header::REFRESH),
    h(header::RETRY_AFTER),
    h(header::SERVER),
    h(header::SET_COOKIE),
    h(header::STRICT_TRANSPORT_SECURITY),
    h(header::TRANSFER_ENCODING),
    h(header::USER_AGENT),
    h(header::VARY),
    h(header::VIA),
    h(header::WWW_AUTHENTICATE),
];

/// The index of a pseudo-header's name, 0 when it has none.
pub(super) const fn pseudo_index(name: &Name) -> usize {
    match name {
        Name::Authority => 1,
        Name::Method => 2,
        Name::Path => 4,
        Name::Scheme => 6,
        Name::Status => 8,
        Name::Protocol | Name::Bad | Name::Header(_) => 0,
    }
}

/// The index of a header's name, 0 when it has none.
pub(super) fn header_index(name: &HeaderName) -> usize {
    match *name {
        header::ACCEPT_CHARSET => 15,
        header::ACCEPT_ENCODING => 16,
        header::ACCEPT_LANGUAGE => 17,
        header::ACCEPT_RANGES => 18,
        header::ACCEPT => 19,
        header::ACCESS_CONTROL_ALLOW_ORIGIN => 20,
        header::AGE => 21,
        header::ALLOW => 22,
        header::AUTHORIZATION => 23,
        header::CACHE_CONTROL => 24,
        header::CONTENT_DISPOSITION => 25,
        header::CONTENT_ENCODING => 26,
        header::CONTENT_LANGUAGE => 27,
        header::CONTENT_LENGTH => 28,
        header::CONTENT_LOCATION => 29,
        header::CONTENT_RANGE => 30,
        header::CONTENT_TYPE => 31,
        header::COOKIE => 32,
        header::DATE => 33,
        header::ETAG => 34,
        header::EXPECT => 35,
        header::EXPIRES => 36,
        header::FROM => 37,
        header::HOST => 38,
        header::IF_MATCH => 39,
        header::IF_MODIFIED_SINCE => 40,
        header::IF_NONE_MATCH => 41,
        header::IF_RANGE => 42,
        header::IF_UNMODIFIED_SINCE => 43,
        header::LAST_MODIFIED => 44,
        header::LINK => 45,
        header::LOCATION => 46,
        header::MAX_FORWARDS => 47,
        header::PROXY_AUTHENTICATE => 48,
        header::PROXY_AUTHORIZATION => 49,
        header::RANGE => 50,
        header::REFERER => 51,
        header::REFRESH => 52,
        header::RETRY_AFTER => 53,
        header::SERVER => 54,
        header::SET_COOKIE => 55,
        header::STRICT_TRANSPORT_SECURITY => 56,
        header::TRANSFER_ENCODING => 57,
        header::USER_AGENT => 58,
        header::VARY => 59,
        header::VIA => 60,
        header::WWW_AUTHENTICATE => 61,
        _ => 0,
    }
}

/// The index of a whole pseudo-header, 0 when it has none.
pub(super) fn field_index(name: &Name, value: &[u8]) -> usize {
    match (name, value) {
        (Name::Method, b"GET") => 2,
        (Name::Method, b"POST") => 3,
        (Name::Path, b"/") => 4,
        (Name::Scheme, b"http") => 6,
        (Name::Scheme, b"https") => 7,
        (Name::Status, b"200") => 8,
        (Name::Status, b"204") => 9,
        (Name::Status, b"206") => 10,
        (Name::Status, b"304") => 11,
        (Name::Status, b"400") => 12,
        (Name::Status, b"404") => 13,
        (Name::Status, b"500") => 14,
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_looked_up_is_where_it_stands() {
        for (at, (name, value)) in TABLE.iter().enumerate() {
            let found = match name {
                Name::Header(name) => header_index(name),
                pseudo => pseudo_index(pseudo),
            };
            assert_eq!(&TABLE[found - 1].0, name);
            let field = field_index(name, value);
            assert!(field == 0 || field == at + 1, "{name:?}");
        }
    }
}
