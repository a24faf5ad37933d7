//! The header section as both protocols carry it: an ordered list that remembers the case in which HTTP/1 spelt each name.
//!
//! A value or a name is a slice of the buffer it was read into, never a copy. What a header *means* to framing (length, transfer
//! coding, connection) is decided in `h1::parse` and `h1::encode`; what it means to routing is decided in `weft-policy`.

use bytes::{Bytes, BytesMut};
use http::header::{self, HeaderName, HeaderValue};
use std::fmt;

/// Text that shares the buffer it came from: a path, an authority.
///
/// Invariant: valid UTF-8, and without control characters or spaces when it came from a peer.
#[derive(Clone, PartialEq, Eq, Hash, Default)]
pub struct ByteStr(Bytes);

impl ByteStr {
    /// Text that lives as long as the program.
    #[must_use]
    pub const fn from_static(text: &'static str) -> Self {
        Self(Bytes::from_static(text.as_bytes()))
    }

    /// Shares `bytes` if they are UTF-8.
    #[must_use]
    pub fn from_utf8(bytes: Bytes) -> Option<Self> {
        std::str::from_utf8(&bytes).is_ok().then_some(Self(bytes))
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).unwrap_or_default()
    }

    /// The bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The bytes, shared.
    #[must_use]
    pub fn bytes(&self) -> Bytes {
        self.0.clone()
    }
}

impl std::ops::Deref for ByteStr {
    type Target = str;
    fn deref(&self) -> &str {
        self.as_str()
    }
}

impl AsRef<str> for ByteStr {
    fn as_ref(&self) -> &str {
        self.as_str()
    }
}

impl From<String> for ByteStr {
    fn from(text: String) -> Self {
        Self(Bytes::from(text))
    }
}

impl From<&str> for ByteStr {
    fn from(text: &str) -> Self {
        Self(Bytes::copy_from_slice(text.as_bytes()))
    }
}

impl fmt::Debug for ByteStr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

impl fmt::Display for ByteStr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl PartialEq<str> for ByteStr {
    fn eq(&self, other: &str) -> bool {
        self.0 == other.as_bytes()
    }
}

impl PartialEq<&str> for ByteStr {
    fn eq(&self, other: &&str) -> bool {
        self.0 == other.as_bytes()
    }
}

#[derive(Clone)]
struct Entry {
    name: HeaderName,
    /// The name as the peer spelt it; `None` when that was lower case already.
    raw: Option<Bytes>,
    value: HeaderValue,
}

/// One header as [`Headers::iter`] shows it.
#[derive(Clone, Copy, Debug)]
pub struct Field<'h> {
    /// The name for comparing.
    pub name: &'h HeaderName,
    /// The name for writing, in the peer's case.
    pub raw: &'h [u8],
    /// The value.
    pub value: &'h HeaderValue,
}

/// An ordered header section.
#[derive(Clone, Default)]
pub struct Headers {
    entries: Vec<Entry>,
    /// Where values are written that did not come from a peer: one buffer for all of them.
    written: BytesMut,
}

/// Room for the values that a call gains on its way: trace context, request id, deadline.
const WRITTEN: usize = 192;

impl Headers {
    /// No headers.
    #[must_use]
    pub fn new() -> Self {
        Self { entries: Vec::new(), written: BytesMut::new() }
    }

    /// No headers, with room for `capacity`.
    #[must_use]
    pub fn with_capacity(capacity: usize) -> Self {
        Self { entries: Vec::with_capacity(capacity), written: BytesMut::new() }
    }

    /// How many entries there are; a name that appears twice counts twice.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The first value of `name`.
    #[must_use]
    pub fn get(&self, name: &HeaderName) -> Option<&HeaderValue> {
        self.entries.iter().find(|entry| entry.name == *name).map(|entry| &entry.value)
    }

    /// The first value of a name that is not known at compile time (any case).
    #[must_use]
    pub fn find(&self, name: &str) -> Option<&HeaderValue> {
        self.entries.iter().find(|entry| entry.name.as_str().eq_ignore_ascii_case(name)).map(|entry| &entry.value)
    }

    /// Every value of `name`, in order.
    pub fn get_all<'h>(&'h self, name: &'h HeaderName) -> impl Iterator<Item = &'h HeaderValue> + 'h {
        self.entries.iter().filter(move |entry| entry.name == *name).map(|entry| &entry.value)
    }

    /// The first value of `name` as text; `None` when it is missing or not ASCII.
    #[must_use]
    pub fn text(&self, name: &HeaderName) -> Option<&str> {
        self.get(name).and_then(|value| value.to_str().ok())
    }

    /// Is `name` there?
    #[must_use]
    pub fn contains(&self, name: &HeaderName) -> bool {
        self.get(name).is_some()
    }

    /// Adds an entry at the end.
    pub fn append(&mut self, name: HeaderName, value: HeaderValue) {
        self.entries.push(Entry { name, raw: None, value });
    }

    /// Adds an entry at the end in the case in which a peer (or a user) spelt its name. `raw` is ignored unless it spells `name`.
    pub fn append_raw(&mut self, name: HeaderName, raw: Bytes, value: HeaderValue) {
        let raw =
            (raw != name.as_str().as_bytes() && raw.eq_ignore_ascii_case(name.as_str().as_bytes())).then_some(raw);
        self.entries.push(Entry { name, raw, value });
    }

    /// Adds an entry at the end as a head was read: `raw` is how the peer spelt the name, if not in lower case.
    pub(super) fn append_read(&mut self, name: HeaderName, raw: Option<Bytes>, value: HeaderValue) {
        self.entries.push(Entry { name, raw, value });
    }

    /// [`Headers::set`] with a text of the proxy's own; returns the value. A text that is no header value sets nothing.
    pub fn set_text(&mut self, name: HeaderName, text: &str) -> Option<HeaderValue> {
        if self.written.capacity() < text.len() {
            self.written.reserve(text.len().max(WRITTEN));
        }
        self.written.extend_from_slice(text.as_bytes());
        let value = HeaderValue::from_maybe_shared(self.written.split().freeze()).ok()?;
        self.set(name, value.clone());
        Some(value)
    }

    /// Replaces every value of `name` by one, which stands where the first stood and keeps its spelling; at the end when there was none.
    pub fn set(&mut self, name: HeaderName, value: HeaderValue) {
        let Some(at) = self.entries.iter().position(|entry| entry.name == name) else {
            return self.append(name, value);
        };
        self.entries[at].value = value;
        let mut index = 0;
        self.entries.retain(|entry| {
            index += 1;
            index - 1 <= at || entry.name != name
        });
    }

    /// Removes every value of `name` and returns the first.
    pub fn remove(&mut self, name: &HeaderName) -> Option<HeaderValue> {
        let first = self.entries.iter().position(|entry| entry.name == *name)?;
        let value = self.entries.remove(first).value;
        self.entries.retain(|entry| entry.name != *name);
        Some(value)
    }

    /// Keeps the entries for which `keep` says so.
    pub fn retain(&mut self, mut keep: impl FnMut(&HeaderName, &HeaderValue) -> bool) {
        self.entries.retain(|entry| keep(&entry.name, &entry.value));
    }

    /// The entries in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = Field<'_>> + '_ {
        self.entries.iter().map(|entry| Field {
            name: &entry.name,
            raw: entry.raw.as_deref().unwrap_or_else(|| entry.name.as_str().as_bytes()),
            value: &entry.value,
        })
    }

    /// Removes what concerns one connection only (RFC 9110 §7.6.1): `Connection` and what it names, `Keep-Alive`,
    /// `Proxy-Connection`, `Transfer-Encoding`, and `TE` except for `trailers`. `Upgrade` stays, because its place and spelling
    /// belong to the caller: encoders write it only for an upgrade that both sides agreed on.
    ///
    /// A name listed in `Connection` that routing or framing depends on (`Host`, `Content-Length`, `Authorization`, …) stays: a
    /// caller must not be able to make a proxy drop it.
    pub fn strip_hop_by_hop(&mut self) {
        let mut nominated: Vec<HeaderName> = Vec::new();
        for value in self.get_all(&header::CONNECTION) {
            let Ok(list) = value.to_str() else { continue };
            for name in list.split(',').map(str::trim_ascii) {
                // What goes in any case needs no list: hardly a message names anything else.
                if ["close", "keep-alive", "upgrade", "te"].iter().any(|known| name.eq_ignore_ascii_case(known)) {
                    continue;
                }
                if let Ok(name) = HeaderName::from_bytes(name.as_bytes())
                    && !END_TO_END.contains(&name)
                    && !name.as_str().starts_with("weft-")
                {
                    nominated.push(name);
                }
            }
        }
        self.entries.retain(|entry| {
            let name = &entry.name;
            if *name == header::TE {
                return entry.value.as_bytes().eq_ignore_ascii_case(b"trailers");
            }
            *name == header::UPGRADE || (!is_hop_by_hop(name) && !nominated.contains(name))
        });
    }
}

/// Is the value another in every call? HPACK then sends it as a literal instead of driving what recurs out of its table.
pub(super) fn is_unique(name: &HeaderName) -> bool {
    use weft_policy::{deadline, trace};
    *name == trace::REQUEST_ID
        || *name == trace::TRACEPARENT
        || *name == deadline::WEFT_DEADLINE_MS
        || *name == deadline::GRPC_TIMEOUT
}

/// End-to-end fields that `Connection` cannot nominate away.
const END_TO_END: [HeaderName; 8] = [
    header::HOST,
    header::CONTENT_LENGTH,
    header::CONTENT_TYPE,
    header::AUTHORIZATION,
    header::COOKIE,
    header::FORWARDED,
    header::CACHE_CONTROL,
    header::TE,
];

/// Is it one of the headers that mean one connection only, whatever `Connection` says?
#[must_use]
pub fn is_hop_by_hop(name: &HeaderName) -> bool {
    const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
    const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
    *name == header::CONNECTION
        || *name == header::TRANSFER_ENCODING
        || *name == header::UPGRADE
        || *name == KEEP_ALIVE
        || *name == PROXY_CONNECTION
}

impl fmt::Debug for Headers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter().map(|field| (String::from_utf8_lossy(field.raw), field.value))).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Headers {
        let mut headers = Headers::new();
        headers.append_raw(header::HOST, Bytes::from_static(b"HOST"), HeaderValue::from_static("catalog"));
        headers.append_raw(header::ACCEPT, Bytes::from_static(b"accept"), HeaderValue::from_static("a"));
        headers.append_raw(header::ACCEPT, Bytes::from_static(b"Accept"), HeaderValue::from_static("b"));
        headers
    }

    fn shown(headers: &Headers) -> Vec<String> {
        headers
            .iter()
            .map(|f| format!("{}={}", String::from_utf8_lossy(f.raw), f.value.to_str().expect("text")))
            .collect()
    }

    #[test]
    fn case_and_order_survive() {
        assert_eq!(shown(&sample()), ["HOST=catalog", "accept=a", "Accept=b"]);
        assert_eq!(sample().get_all(&header::ACCEPT).count(), 2);
        assert_eq!(sample().find("aCCept").expect("there"), "a");
    }

    #[test]
    fn set_replaces_in_place_and_removes_the_rest() {
        let mut headers = sample();
        headers.set(header::ACCEPT, HeaderValue::from_static("c"));
        headers.set(header::SERVER, HeaderValue::from_static("s"));
        assert_eq!(shown(&headers), ["HOST=catalog", "accept=c", "server=s"]);
        assert_eq!(headers.remove(&header::ACCEPT).expect("there"), "c");
        assert_eq!(shown(&headers), ["HOST=catalog", "server=s"]);
    }

    #[test]
    fn a_spelling_that_is_another_name_is_not_believed() {
        let mut headers = Headers::new();
        headers.append_raw(header::ACCEPT, Bytes::from_static(b"Evil: 1\r\nX"), HeaderValue::from_static("a"));
        assert_eq!(shown(&headers), ["accept=a"]);
    }

    #[test]
    fn what_concerns_one_connection_is_stripped_and_what_routing_needs_is_not() {
        let mut headers = sample();
        for (name, value) in [
            ("connection", "close, x-trace, host, Authorization"),
            ("x-trace", "1"),
            ("authorization", "Bearer t"),
            ("te", "gzip"),
            ("keep-alive", "5"),
        ] {
            headers.append(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        headers.strip_hop_by_hop();
        assert_eq!(shown(&headers), ["HOST=catalog", "accept=a", "Accept=b", "authorization=Bearer t"]);
    }
}
