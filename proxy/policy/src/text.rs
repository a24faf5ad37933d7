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
        std::str::from_utf8(self.as_bytes()).unwrap_or_default()
    }

    /// The bytes of the text.
    pub fn as_bytes(&self) -> &[u8] {
        self.bytes.get(..usize::from(self.len)).unwrap_or_default()
    }

    /// A copy of `text`, which is ASCII; empty if it is not, or does not fit.
    pub fn of_ascii(text: &[u8]) -> Self {
        let mut copy = Text::new();
        if let (Some(room), Ok(len)) = (copy.bytes.get_mut(..text.len()), u8::try_from(text.len()))
            && text.is_ascii()
        {
            room.copy_from_slice(text);
            copy.len = len;
        }
        copy
    }

    /// A copy of `text`; empty if it does not fit.
    pub fn of(text: &str) -> Self {
        let mut copy = Text::new();
        let _ = fmt::Write::write_str(&mut copy, text);
        copy
    }

    /// The text of `bytes`, which are ASCII; empty if they are not.
    pub(crate) const fn ascii(bytes: [u8; N]) -> Self {
        let len = if bytes.is_ascii() && N <= u8::MAX as usize { N as u8 } else { 0 };
        Text { bytes, len }
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
        self.as_bytes()
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

/// An unsigned number in decimal digits.
#[derive(Clone, Copy)]
pub struct Decimal {
    digits: [u8; 20],
    start: u8,
}

impl Decimal {
    /// The digits of `number`.
    pub fn of(mut number: u64) -> Self {
        let mut digits = [b'0'; 20];
        let mut start = digits.len();
        for digit in digits.iter_mut().rev() {
            *digit = b'0' + (number % 10) as u8;
            start -= 1;
            number /= 10;
            if number == 0 {
                break;
            }
        }
        Decimal { digits, start: start as u8 }
    }

    /// The digits, as bytes.
    pub fn as_bytes(&self) -> &[u8] {
        self.digits.get(usize::from(self.start)..).unwrap_or_default()
    }
}

impl Deref for Decimal {
    type Target = str;
    fn deref(&self) -> &str {
        std::str::from_utf8(self.as_bytes()).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_its_digits() {
        for number in [0, 7, 10, 999, 1000, u64::from(u32::MAX), u64::MAX] {
            assert_eq!(&*Decimal::of(number), number.to_string());
        }
    }

    #[test]
    fn a_text_is_what_it_was_made_of_or_empty() {
        let text = Text::<4>::of_ascii(b"abcd");
        assert_eq!((text.as_str(), text.as_bytes(), text.as_ref()), ("abcd", &b"abcd"[..], &b"abcd"[..]));
        assert_eq!((text.to_string().as_str(), format!("{text:?}").as_str()), ("abcd", "\"abcd\""));
        assert_eq!(Text::<4>::of("abcd"), text);
        assert_eq!(Text::ascii(*b"abcd"), text);
        for empty in [Text::of_ascii(b"abcde"), Text::of_ascii(b"\xE9"), Text::of("abcde"), Text::ascii([0xE9; 4])] {
            assert_eq!(empty.as_str(), Text::<4>::default().as_str());
        }
        assert_eq!(Text::ascii([b'x'; 255]).len(), 255);
        assert_eq!(Text::ascii([b'x'; 300]).as_str(), "", "its length has one byte");
    }

    #[test]
    fn what_does_not_fit_is_left_out() {
        assert_eq!(Text::<8>::format(format_args!("{}", 12_345_678)).as_str(), "12345678");
        assert_eq!(Text::<8>::format(format_args!("{}", 123_456_789)).as_str(), "");
        assert_eq!(&*Text::<4>::format(format_args!("a{}", "bc")), "abc");
    }
}
