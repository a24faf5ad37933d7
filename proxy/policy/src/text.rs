//! Short texts on the stack: header values that are written for every call without touching the heap.
//! Owned by whoever formats them; nothing here knows what the text means.

use std::fmt;
use std::ops::Deref;

/// At most `N` (≤ 255) bytes of UTF-8, inline. What does not fit is refused by [`fmt::Write`].
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Text<const N: usize> {
    bytes: [u8; N],
    /// Invariant: `bytes[..len]` is UTF-8, because only whole `str`s are ever appended.
    len: u8,
}

impl<const N: usize> Text<N> {
    /// The empty text.
    pub const fn new() -> Self {
        Text { bytes: [0; N], len: 0 }
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        let held = self.bytes.get(..usize::from(self.len)).unwrap_or_default();
        std::str::from_utf8(held).unwrap_or_default()
    }

    /// Formats `arguments`; what exceeds `N` bytes is left out at the last whole fragment.
    pub(crate) fn format(arguments: fmt::Arguments<'_>) -> Self {
        let mut text = Text::new();
        // An overflow keeps what was written before it: callers size `N` for the longest value.
        let _ = fmt::Write::write_fmt(&mut text, arguments);
        text
    }
}

impl<const N: usize> Default for Text<N> {
    fn default() -> Self {
        Text::new()
    }
}

impl<const N: usize> fmt::Write for Text<N> {
    fn write_str(&mut self, part: &str) -> fmt::Result {
        let start = usize::from(self.len);
        let end = start.checked_add(part.len()).ok_or(fmt::Error)?;
        self.bytes.get_mut(start..end).ok_or(fmt::Error)?.copy_from_slice(part.as_bytes());
        self.len = u8::try_from(end).map_err(|_| fmt::Error)?;
        Ok(())
    }
}

impl<const N: usize> Deref for Text<N> {
    type Target = str;
    fn deref(&self) -> &str {
        self.as_str()
    }
}

impl<const N: usize> AsRef<[u8]> for Text<N> {
    fn as_ref(&self) -> &[u8] {
        self.as_str().as_bytes()
    }
}

impl<const N: usize> fmt::Display for Text<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl<const N: usize> fmt::Debug for Text<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_is_left_out() {
        assert_eq!(Text::<8>::format(format_args!("{}", 12_345_678)).as_str(), "12345678");
        assert_eq!(Text::<8>::format(format_args!("{}", 123_456_789)).as_str(), "");
        assert_eq!(&*Text::<4>::format(format_args!("a{}", "bc")), "abc");
    }
}
