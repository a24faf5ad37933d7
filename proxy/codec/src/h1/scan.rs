//! Finding the parts of a head in one pass over its bytes: where lines, names and values begin and end, and that they hold no byte that
//! must not stand there (RFC 9112 §2.2, §3, §4, §5). What the parts mean is `parse`'s business. Pure; no I/O.
//!
//! Stricter than the grammar's leniencies: lines end in CRLF, one space separates the parts of the first line, nothing stands before a
//! colon, and no line is folded.

use super::parse::Refusal;
use crate::headers::{Known, Span};

/// Why a pass over a head ended before the head did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stop {
    /// More bytes are needed.
    Incomplete,
    /// No bytes that follow could make it a head.
    Refused(Refusal),
}

impl From<Refusal> for Stop {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

const FIRST_LINE: Stop = Stop::Refused(Refusal::Malformed("the first line is malformed"));
const VERSION: Stop = Stop::Refused(Refusal::Malformed("the HTTP version is not 1.0 or 1.1"));
const LINE_END: Stop = Stop::Refused(Refusal::Malformed("a line does not end in CRLF"));
const STATUS: Stop = Stop::Refused(Refusal::Malformed("the status is malformed"));
const NAME: Stop = Stop::Refused(Refusal::Malformed("a header name is malformed"));
const VALUE: Stop = Stop::Refused(Refusal::Malformed("a header value is malformed"));

/// `tchar` (RFC 9110 §5.6.2).
const TOKEN: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0;
    while byte < 128 {
        let b = byte as u8;
        table[byte] = b.is_ascii_alphanumeric()
            || matches!(b, b'!' | b'#'..=b'\'' | b'*' | b'+' | b'-' | b'.' | b'^'..=b'`' | b'|' | b'~');
        byte += 1;
    }
    table
};

pub(super) fn is_token(text: &[u8]) -> bool {
    !text.is_empty() && text.iter().all(|byte| TOKEN[usize::from(*byte)])
}

const ONES: u64 = 0x0101_0101_0101_0101;
const TOPS: u64 = 0x8080_8080_8080_8080;

/// Marks the lowest byte that is zero in its top bit; higher marks may be wrong.
const fn zeroes(word: u64) -> u64 {
    word.wrapping_sub(ONES) & !word & TOPS
}

/// Marks the lowest byte below `bound` (at most 128) in its top bit; higher marks may be wrong.
const fn below(word: u64, bound: u8) -> u64 {
    word.wrapping_sub(ONES * bound as u64) & !word & TOPS
}

/// The place of the first byte from `at` on that `marks` finds in a word, and that `is` says of a byte alone.
#[inline]
fn first(buffer: &[u8], mut at: usize, marks: impl Fn(u64) -> u64, is: impl Fn(u8) -> bool) -> Option<usize> {
    while let Some(word) = buffer.get(at..).and_then(<[u8]>::first_chunk::<8>) {
        let found = marks(u64::from_le_bytes(*word));
        if found != 0 {
            return Some(at + (found.trailing_zeros() / 8) as usize);
        }
        at += 8;
    }
    buffer.get(at..)?.iter().position(|byte| is(*byte)).map(|more| at + more)
}

/// Where a name, or a method, ends at the latest.
#[inline]
fn colon(buffer: &[u8], at: usize) -> Option<usize> {
    first(buffer, at, |word| zeroes(word ^ (ONES * b':' as u64)), |byte| byte == b':')
}

/// The first byte that no field value may hold but tabs: the end of the line, or a fault.
#[inline]
fn control(buffer: &[u8], at: usize) -> Option<usize> {
    let mut at = first_control(buffer, at)?;
    while buffer.get(at) == Some(&b'\t') {
        at = first_control(buffer, at + 1)?;
    }
    Some(at)
}

#[inline]
fn first_control(buffer: &[u8], at: usize) -> Option<usize> {
    let marks = |word| below(word, b' ') | zeroes(word ^ (ONES * 0x7f));
    first(buffer, at, marks, |byte| byte < b' ' || byte == 0x7f)
}

/// A place in a head.
pub(super) struct Cursor<'b> {
    buffer: &'b [u8],
    at: usize,
}

/// One line of a header section.
pub(super) struct Line<'b> {
    /// The name, if it is known; otherwise it is a token.
    pub known: Option<Known>,
    pub name: &'b [u8],
    pub value: &'b [u8],
    pub name_at: Span,
    pub value_at: Span,
    /// Nothing but a colon, a space and CRLF stands around them.
    pub verbatim: bool,
}

impl<'b> Cursor<'b> {
    pub(super) const fn new(buffer: &'b [u8]) -> Self {
        Self { buffer, at: 0 }
    }

    /// How far the pass has come.
    pub(super) const fn at(&self) -> usize {
        self.at
    }

    #[inline]
    fn span(&self, from: usize, to: usize) -> Result<Span, Stop> {
        let _ = self;
        Span::between(from, to).ok_or(Stop::Refused(Refusal::TooLarge))
    }

    #[inline]
    fn next(&mut self) -> Result<u8, Stop> {
        let byte = *self.buffer.get(self.at).ok_or(Stop::Incomplete)?;
        self.at += 1;
        Ok(byte)
    }

    #[inline]
    fn expect(&mut self, wanted: u8, otherwise: Stop) -> Result<(), Stop> {
        if self.next()? == wanted { Ok(()) } else { Err(otherwise) }
    }

    /// `HTTP/1.0` or `HTTP/1.1`; the last digit.
    fn version(&mut self) -> Result<u8, Stop> {
        let Some(eight) = self.buffer.get(self.at..).and_then(<[u8]>::first_chunk::<8>) else {
            let rest = self.buffer.get(self.at..).unwrap_or_default();
            return Err(if b"HTTP/1.".starts_with(rest) { Stop::Incomplete } else { VERSION });
        };
        self.at += 8;
        match eight {
            b"HTTP/1.1" => Ok(1),
            b"HTTP/1.0" => Ok(0),
            _ => Err(VERSION),
        }
    }

    /// `method SP request-target SP HTTP-version CRLF`: the method, the target, and the minor version.
    pub(super) fn request_line(&mut self) -> Result<(&'b [u8], Span, u8), Stop> {
        let rest = self.buffer.get(self.at..).unwrap_or_default();
        let Some(length) = rest.iter().position(|byte| !TOKEN[usize::from(*byte)]) else {
            return Err(Stop::Incomplete);
        };
        let method = rest.get(..length).filter(|method| !method.is_empty()).ok_or(FIRST_LINE)?;
        self.at += length;
        self.expect(b' ', FIRST_LINE)?;
        let from = self.at;
        let marks = |word| below(word, b'!') | zeroes(word ^ (ONES * 0x7f));
        let end = first(self.buffer, from, marks, |byte| byte <= b' ' || byte == 0x7f).ok_or(Stop::Incomplete)?;
        self.at = end;
        self.expect(b' ', FIRST_LINE)?;
        if end == from {
            return Err(FIRST_LINE);
        }
        let minor = self.version()?;
        self.expect(b'\r', LINE_END)?;
        self.expect(b'\n', LINE_END)?;
        Ok((method, self.span(from, end)?, minor))
    }

    /// `HTTP-version SP status-code [ SP reason-phrase ] CRLF`: the minor version, the code, and the reason.
    pub(super) fn status_line(&mut self) -> Result<(u8, &'b [u8], Span), Stop> {
        let minor = self.version()?;
        self.expect(b' ', VERSION)?;
        let from = self.at;
        let code = self.buffer.get(from..from + 3).ok_or(Stop::Incomplete)?;
        if !code.iter().all(u8::is_ascii_digit) {
            return Err(STATUS);
        }
        self.at += 3;
        let mut reason = from + 3..from + 3;
        match self.next()? {
            b' ' => {
                reason = self.at..control(self.buffer, self.at).ok_or(Stop::Incomplete)?;
                self.at = reason.end;
                self.expect(b'\r', STATUS)?;
            }
            b'\r' => {}
            _ => return Err(STATUS),
        }
        self.expect(b'\n', STATUS)?;
        Ok((minor, code, self.span(reason.start, reason.end)?))
    }

    /// The next line of the section; `None` after the empty line that ends it.
    #[inline(always)]
    pub(super) fn line(&mut self) -> Result<Option<Line<'b>>, Stop> {
        let from = self.at;
        if self.buffer.get(from) == Some(&b'\r') {
            self.at += 1;
            return self.expect(b'\n', LINE_END).map(|()| None);
        }
        let Some(name_end) = colon(self.buffer, from) else {
            let rest = self.buffer.get(from..).unwrap_or_default();
            return Err(if rest.is_empty() || is_token(rest) { Stop::Incomplete } else { NAME });
        };
        let name = self.buffer.get(from..name_end).unwrap_or_default();
        let known = Known::find(name);
        if known.is_none() && !is_token(name) {
            return Err(NAME);
        }
        let mut begin = name_end + 1;
        while let Some(b' ' | b'\t') = self.buffer.get(begin) {
            begin += 1;
        }
        let line_end = control(self.buffer, begin).ok_or(Stop::Incomplete)?;
        match self.buffer.get(line_end..) {
            Some([b'\r', b'\n', ..]) => self.at = line_end + 2,
            Some([b'\r']) => return Err(Stop::Incomplete),
            _ => return Err(VALUE),
        }
        let mut end = line_end;
        while end > begin && matches!(self.buffer.get(end - 1), Some(b' ' | b'\t')) {
            end -= 1;
        }
        let spaced = begin == name_end + 2 && self.buffer.get(name_end + 1) == Some(&b' ');
        Ok(Some(Line {
            known,
            name,
            value: self.buffer.get(begin..end).unwrap_or_default(),
            name_at: self.span(from, name_end)?,
            value_at: self.span(begin, end)?,
            verbatim: spaced && end == line_end,
        }))
    }
}
