//! The header names that most messages carry, each with a number: a name is found by its length and a few words instead of its letters,
//! and a set of names is one word.
//!
//! A table only: what a header means stands where it is read.

use http::HeaderName;

/// How many names can be told apart by one word; the bits above stand for kinds of other names.
const MOST: usize = 62;

macro_rules! known {
    ($($(#[$doc:meta])* $id:ident = $text:literal;)*) => {
        /// A name that is known.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u8)]
        pub enum Known { $(#[doc = $text] $id,)* }

        impl Known {
            /// How many there are.
            pub(crate) const COUNT: usize = [$(Self::$id,)*].len();
        }

        const TEXTS: [&str; COUNT] = [$($text,)*];
        const ALL: [Known; COUNT] = [$(Known::$id,)*];
        static NAMES: [HeaderName; COUNT] = [$(HeaderName::from_static($text),)*];
    };
}

known! {
    Host = "host";
    ContentLength = "content-length";
    TransferEncoding = "transfer-encoding";
    Connection = "connection";
    KeepAlive = "keep-alive";
    ProxyConnection = "proxy-connection";
    Upgrade = "upgrade";
    Te = "te";
    Trailer = "trailer";
    Expect = "expect";
    ProxyAuthorization = "proxy-authorization";
    Traceparent = "traceparent";
    Tracestate = "tracestate";
    RequestId = "x-request-id";
    B3 = "b3";
    B3TraceId = "x-b3-traceid";
    B3SpanId = "x-b3-spanid";
    B3ParentSpanId = "x-b3-parentspanid";
    B3Sampled = "x-b3-sampled";
    B3Flags = "x-b3-flags";
    WeftDeadlineMs = "weft-deadline-ms";
    WeftSource = "weft-source";
    WeftPriority = "weft-priority";
    WeftError = "weft-error";
    WeftUnsent = "weft-unsent";
    WeftAuthorization = "weft-authorization";
    GrpcTimeout = "grpc-timeout";
    GrpcStatus = "grpc-status";
    GrpcMessage = "grpc-message";
    ContentType = "content-type";
    ContentEncoding = "content-encoding";
    ContentRange = "content-range";
    RetryAfter = "retry-after";
    Date = "date";
    Server = "server";
    Accept = "accept";
    AcceptEncoding = "accept-encoding";
    AcceptLanguage = "accept-language";
    AcceptRanges = "accept-ranges";
    UserAgent = "user-agent";
    Authorization = "authorization";
    Cookie = "cookie";
    SetCookie = "set-cookie";
    CacheControl = "cache-control";
    Etag = "etag";
    LastModified = "last-modified";
    IfNoneMatch = "if-none-match";
    IfModifiedSince = "if-modified-since";
    Vary = "vary";
    Location = "location";
    Via = "via";
    Age = "age";
    Origin = "origin";
    Referer = "referer";
    Forwarded = "forwarded";
    XForwardedFor = "x-forwarded-for";
    XForwardedProto = "x-forwarded-proto";
    XForwardedHost = "x-forwarded-host";
    Range = "range";
    Pragma = "pragma";
    Expires = "expires";
    Link = "link";
}

const COUNT: usize = Known::COUNT;
const _: () = assert!(COUNT <= MOST);

/// A set of names.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Set(u64);

impl Set {
    /// Names that are not known.
    pub const OTHER: Self = Self(1 << 62);
    /// `weft-*` names that are not known.
    pub const OTHER_WEFT: Self = Self(1 << 63);

    /// The set of these names.
    pub const fn of(names: &[Known]) -> Self {
        let mut set = 0;
        let mut at = 0;
        while at < names.len() {
            set |= 1 << names[at] as u8;
            at += 1;
        }
        Self(set)
    }

    /// Both sets.
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// The set without the other.
    pub const fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// Whether any name is in both.
    pub const fn meets(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    /// Whether the name is in the set.
    pub const fn has(self, name: Known) -> bool {
        self.0 >> name as u8 & 1 != 0
    }

    /// Whether the known name with this number is in the set.
    pub(super) const fn has_number(self, number: u16) -> bool {
        self.0 >> number & 1 != 0
    }

    pub(crate) const fn insert(&mut self, name: Known) {
        self.0 |= 1 << name as u8;
    }
}

struct Row {
    head: u64,
    tail: u64,
    id: Known,
}

/// Upper and lower case of a letter differ in this bit, and digits and the hyphen have it set.
const LOWER: u64 = 0x2020_2020_2020_2020;

/// The first and the last eight bytes; of shorter texts the same words made of what there is. Up to 16 bytes they say everything.
const fn words(text: &[u8]) -> Option<(u64, u64)> {
    if let (Some(head), Some(tail)) = (text.first_chunk::<8>(), text.last_chunk::<8>()) {
        return Some((u64::from_le_bytes(*head), u64::from_le_bytes(*tail)));
    }
    if let (Some(head), Some(tail)) = (text.first_chunk::<4>(), text.last_chunk::<4>()) {
        let both = u32::from_le_bytes(*head) as u64 | (u32::from_le_bytes(*tail) as u64) << 32;
        return Some((both, both));
    }
    match *text {
        [a] => Some((word(a, a, a), word(a, a, a))),
        [a, b] => Some((word(a, b, b), word(a, b, b))),
        [a, b, c] => Some((word(a, b, c), word(a, b, c))),
        _ => None,
    }
}

const fn word(a: u8, b: u8, c: u8) -> u64 {
    u64::from_le_bytes([a, b, c, a, a, b, c, a])
}

/// The longest known name has fewer bytes.
const LENGTHS: usize = 20;

/// The rows in the order of the lengths of their names, and where those of each length begin.
const TABLE: ([Row; COUNT], [u8; LENGTHS + 1]) = {
    let mut rows = [const { Row { head: 0, tail: 0, id: Known::Host } }; COUNT];
    let mut starts = [0; LENGTHS + 1];
    let (mut length, mut filled) = (0, 0);
    while length < LENGTHS {
        starts[length] = filled as u8;
        let mut at = 0;
        while at < COUNT {
            let text = TEXTS[at].as_bytes();
            assert!(text.len() < LENGTHS);
            if text.len() == length
                && let Some((head, tail)) = words(text)
            {
                rows[filled] = Row { head: head | LOWER, tail: tail | LOWER, id: ALL[at] };
                filled += 1;
            }
            at += 1;
        }
        length += 1;
    }
    starts[LENGTHS] = filled as u8;
    (rows, starts)
};
static ROWS: [Row; COUNT] = TABLE.0;
static STARTS: [u8; LENGTHS + 1] = TABLE.1;

impl Known {
    /// Which name this is, in any case.
    #[inline]
    pub fn find(text: &[u8]) -> Option<Self> {
        const EITHER: u64 = 0x4040_4040_4040_4040;
        let (head, tail) = words(text)?;
        let from = usize::from(*STARTS.get(text.len())?);
        let to = usize::from(*STARTS.get(text.len() + 1)?);
        let row = ROWS.get(from..to)?.iter().find(|row| row.head == head | LOWER && row.tail == tail | LOWER)?;
        // Of the bytes that the case bit makes alike only control characters have neither this bit nor the one above it.
        if (head | head << 1) & (tail | tail << 1) & EITHER != EITHER {
            return None;
        }
        (text.len() <= 16 || text.eq_ignore_ascii_case(row.id.text())).then_some(row.id)
    }

    /// The name in lower case.
    pub const fn text(self) -> &'static [u8] {
        TEXTS[self as usize].as_bytes()
    }

    /// The name.
    pub fn name(self) -> &'static HeaderName {
        &NAMES[self as usize]
    }

    /// The name with this number.
    pub(super) fn numbered(number: u16) -> Option<Self> {
        ALL.get(usize::from(number)).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn every_name_is_found_in_any_case_and_none_beside_it() {
        for id in ALL {
            let lower = id.text().to_vec();
            assert_eq!(Known::find(&lower), Some(id));
            assert_eq!(Known::find(&lower.to_ascii_uppercase()), Some(id));
            assert_eq!(id.name().as_str().as_bytes(), lower);
            for at in 0..lower.len() {
                for byte in 0..=u8::MAX {
                    let mut other = lower.clone();
                    other[at] = byte;
                    let same = other.eq_ignore_ascii_case(&lower);
                    assert_eq!(Known::find(&other) == Some(id), same, "{:?}", String::from_utf8_lossy(&other));
                }
            }
        }
    }

    proptest! {
        #[test]
        fn what_is_found_is_the_name(text in prop::collection::vec(any::<u8>(), 0..24)) {
            if let Some(id) = Known::find(&text) {
                prop_assert!(text.eq_ignore_ascii_case(id.text()));
            }
        }
    }
}
