//! What a header looks like from outside: its value, its names, and where a part of a head lies.

use http::header::{HeaderName, HeaderValue};
use std::fmt;

/// The value of a header.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Value<'h> {
    pub(super) bytes: &'h [u8],
    pub(super) sensitive: bool,
}

impl<'h> Value<'h> {
    /// The bytes: no control characters but tabs.
    #[must_use]
    pub const fn as_bytes(self) -> &'h [u8] {
        self.bytes
    }

    /// The value as text.
    ///
    /// # Errors
    /// When it is not visible ASCII.
    pub fn to_str(self) -> Result<&'h str, std::str::Utf8Error> {
        let visible = self.bytes.iter().all(|byte| matches!(byte, b'\t' | b' '..=b'~'));
        // 0xff begins no text: whatever else is not ASCII fails like it.
        std::str::from_utf8(if visible { self.bytes } else { &[0xff] })
    }

    /// Must it never be kept in a table of header compression (RFC 7541 §7.1.3)?
    #[must_use]
    pub const fn is_sensitive(self) -> bool {
        self.sensitive
    }

    /// A copy of its own; `None` when it was set by the proxy itself and is no header value.
    #[must_use]
    pub fn to_header_value(self) -> Option<HeaderValue> {
        let mut value = HeaderValue::from_bytes(self.bytes).ok()?;
        value.set_sensitive(self.sensitive);
        Some(value)
    }
}

impl fmt::Debug for Value<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.sensitive { f.write_str("Sensitive") } else { fmt::Debug::fmt(&String::from_utf8_lossy(self.bytes), f) }
    }
}

impl PartialEq<str> for Value<'_> {
    fn eq(&self, other: &str) -> bool {
        self.bytes == other.as_bytes()
    }
}

impl PartialEq<&str> for Value<'_> {
    fn eq(&self, other: &&str) -> bool {
        self.bytes == other.as_bytes()
    }
}

/// One header as `Headers::iter` shows it.
#[derive(Clone, Copy, Debug)]
pub struct Field<'h> {
    /// The name for comparing.
    pub name: &'h HeaderName,
    /// The name for writing, in the peer's case.
    pub raw: &'h [u8],
    /// The value.
    pub value: Value<'h>,
}

/// A range of a buffer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Span {
    /// Where it begins.
    pub at: u32,
    /// How many bytes it has.
    pub length: u32,
}

impl Span {
    /// From one place to another; `None` beyond 4 GiB, or backwards.
    pub(crate) fn between(from: usize, to: usize) -> Option<Self> {
        Some(Self { at: u32::try_from(from).ok()?, length: u32::try_from(to.checked_sub(from)?).ok()? })
    }

    /// The bytes of the range.
    pub(crate) fn of(self, buffer: &[u8]) -> &[u8] {
        buffer.get(self.range()).unwrap_or_default()
    }

    /// The range.
    pub(crate) const fn range(self) -> std::ops::Range<usize> {
        self.at as usize..self.at as usize + self.length as usize
    }
}
