//! The chunked transfer coding (RFC 9112 §7.1), reading: a state machine over a buffer, without I/O.
//!
//! Strict: CRLF only, hexadecimal digits only, sizes that fit 64 bits, and bounds on extensions and trailers. What is lenient here
//! and strict elsewhere is how requests are smuggled. Writing chunks is `encode`'s business.

use super::parse::{self, Malformed};
use crate::Headers;
use bytes::{Bytes, BytesMut};

/// Longest size line, extensions included.
const LINE: usize = 1024;
/// Extension bytes over a whole body; nobody uses them, and each byte of data could carry a kilobyte of them.
const EXTENSIONS: usize = 16 * 1024;
/// Bytes of a trailer section.
const TRAILERS: usize = 16 * 1024;

/// Where in the coding the reader stands.
#[derive(Debug)]
pub(super) struct Chunked {
    state: State,
    extensions: usize,
    max_headers: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Size,
    Data(u64),
    DataEnd,
    Trailers,
    Done,
}

/// What the buffer held.
#[derive(Debug)]
pub(super) enum Step {
    /// Data of a chunk, not empty.
    Data(Bytes),
    /// The end, after trailers that are not empty.
    Trailers(Headers),
    /// The end.
    End,
    /// More bytes are needed.
    More,
}

impl Chunked {
    pub(super) const fn new(max_headers: usize) -> Self {
        Self { state: State::Size, extensions: 0, max_headers }
    }

    /// Takes the next piece out of `buffer`.
    pub(super) fn step(&mut self, buffer: &mut BytesMut) -> Result<Step, Malformed> {
        loop {
            match self.state {
                State::Size => {
                    let Some(line) = line(buffer, LINE)? else { return Ok(Step::More) };
                    let (size, extensions) = size(&line)?;
                    self.extensions += extensions;
                    if self.extensions > EXTENSIONS {
                        return Err(Malformed("chunk extensions exceed 16 KiB"));
                    }
                    self.state = if size == 0 { State::Trailers } else { State::Data(size) };
                }
                State::Data(left) => {
                    if buffer.is_empty() {
                        return Ok(Step::More);
                    }
                    let count = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
                    let data = parse::take(buffer, count);
                    let left = left - count as u64;
                    self.state = if left == 0 { State::DataEnd } else { State::Data(left) };
                    return Ok(Step::Data(data));
                }
                State::DataEnd => match (buffer.first(), buffer.get(1)) {
                    (Some(b'\r'), Some(b'\n')) => {
                        let _ = buffer.split_to(2);
                        self.state = State::Size;
                    }
                    (None, _) | (Some(b'\r'), None) => return Ok(Step::More),
                    _ => return Err(Malformed("chunk data is longer than its size")),
                },
                State::Trailers => {
                    if buffer.starts_with(b"\r\n") {
                        let _ = buffer.split_to(2);
                        self.state = State::Done;
                        return Ok(Step::End);
                    }
                    let Some(end) = parse::section_end(buffer, &mut 0)? else {
                        if buffer.len() > TRAILERS {
                            return Err(Malformed("trailers exceed 16 KiB"));
                        }
                        return Ok(Step::More);
                    };
                    let section = parse::take(buffer, end);
                    self.state = State::Done;
                    return Ok(Step::Trailers(parse::trailers(&section, self.max_headers)?));
                }
                State::Done => return Ok(Step::End),
            }
        }
    }
}

/// A line without its CRLF.
fn line(buffer: &mut BytesMut, most: usize) -> Result<Option<BytesMut>, Malformed> {
    let Some(end) = buffer.iter().take(most).position(|byte| *byte == b'\n') else {
        return if buffer.len() >= most { Err(Malformed("chunk size line exceeds 1 KiB")) } else { Ok(None) };
    };
    if end == 0 || buffer[end - 1] != b'\r' {
        return Err(Malformed("bare LF in a chunk size line"));
    }
    let mut line = buffer.split_to(end + 1);
    line.truncate(end - 1);
    Ok(Some(line))
}

/// The size, and how many bytes of extensions follow it. `chunk-size = 1*HEXDIG`, `chunk-ext = *( BWS ";" … )`.
fn size(line: &[u8]) -> Result<(u64, usize), Malformed> {
    let digits = line.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
    let (number, extensions) = line.split_at(digits);
    let text = std::str::from_utf8(number).unwrap_or_default();
    let size = u64::from_str_radix(text, 16).map_err(|_| Malformed("chunk size is no 64-bit hexadecimal number"))?;
    if !extensions.is_empty() {
        if extensions.iter().any(|byte| (*byte < 0x20 && *byte != b'\t') || *byte == 0x7f) {
            return Err(Malformed("control character in a chunk size line"));
        }
        if extensions.iter().find(|byte| !matches!(byte, b' ' | b'\t')) != Some(&b';') {
            return Err(Malformed("bytes after a chunk size"));
        }
    }
    Ok((size, extensions.len()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Feeds `wire` in the given cuts; the data, the trailers, and what was left over.
    fn decode(wire: &[u8], cuts: &[usize]) -> Result<(Vec<u8>, usize, Vec<u8>), Malformed> {
        let mut chunked = Chunked::new(100);
        let mut buffer = BytesMut::new();
        let (mut data, mut at) = (Vec::new(), 0);
        let mut cuts = cuts.iter().copied().chain(std::iter::repeat(usize::MAX));
        loop {
            match chunked.step(&mut buffer)? {
                Step::Data(bytes) => data.extend_from_slice(&bytes),
                Step::Trailers(trailers) => return Ok((data, trailers.len(), rest(&buffer, wire, at))),
                Step::End => return Ok((data, 0, rest(&buffer, wire, at))),
                Step::More if at == wire.len() => return Err(Malformed("unfinished")),
                Step::More => {
                    let end = at.saturating_add(cuts.next().unwrap_or(1).max(1)).min(wire.len());
                    buffer.extend_from_slice(&wire[at..end]);
                    at = end;
                }
            }
        }
    }

    fn rest(buffer: &BytesMut, wire: &[u8], at: usize) -> Vec<u8> {
        [&buffer[..], &wire[at..]].concat()
    }

    #[test]
    fn what_follows_the_last_chunk_is_left_alone() {
        let (data, trailers, rest) = decode(b"5\r\nhello\r\n0\r\nX: 1\r\n\r\nGET /", &[]).expect("valid");
        assert_eq!((data.as_slice(), trailers, rest.as_slice()), (&b"hello"[..], 1, &b"GET /"[..]));
    }

    #[test]
    fn anything_but_the_grammar_is_refused() {
        for wire in [
            &b"5\nhello\r\n0\r\n\r\n"[..],
            b"5 \r\nhello\r\n0\r\n\r\n",
            b" 5\r\nhello\r\n0\r\n\r\n",
            b"+5\r\nhello\r\n0\r\n\r\n",
            b"-5\r\nhello\r\n0\r\n\r\n",
            b"0x5\r\nhello\r\n0\r\n\r\n",
            b"5_0\r\nhello\r\n0\r\n\r\n",
            b"\r\nhello\r\n0\r\n\r\n",
            b"g\r\nhello\r\n0\r\n\r\n",
            b"10000000000000005\r\nhello\r\n0\r\n\r\n",
            b"5\r\nhello0\r\n\r\n",
            b"5\r\nhello\n0\r\n\r\n",
            b"5\r\nhell\r\n0\r\n\r\n",
            b"5\r\rhello\r\n0\r\n\r\n",
            b"5;a\rb\r\nhello\r\n0\r\n\r\n",
            b"5;a\x00b\r\nhello\r\n0\r\n\r\n",
            b"0\r\nX : 1\r\n\r\n",
            b"0\r\nX: 1\n\r\n\r\n",
            b"0\r\n X: 1\r\n\r\n",
        ] {
            assert!(decode(wire, &[]).is_err(), "{}", String::from_utf8_lossy(wire));
        }
    }

    #[test]
    fn extensions_are_bounded_over_the_whole_body() {
        let mut wire = Vec::new();
        for _ in 0..20 {
            wire.extend_from_slice(format!("1;{}\r\nx\r\n", "e".repeat(1000)).as_bytes());
        }
        wire.extend_from_slice(b"0\r\n\r\n");
        assert!(decode(&wire, &[]).is_err());
        let long = format!("1;{}\r\nx\r\n0\r\n\r\n", "e".repeat(2000));
        assert!(decode(long.as_bytes(), &[]).is_err());
        assert!(decode(b"1;name=value\r\nx\r\n0\r\n\r\n", &[]).is_ok());
    }

    proptest! {
        #[test]
        fn any_segmentation_decodes_to_what_was_encoded(
            chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..300), 0..8),
            cuts in prop::collection::vec(1usize..40, 0..200),
            with_trailers in any::<bool>(),
        ) {
            let mut wire = Vec::new();
            for chunk in &chunks {
                super::super::encode::chunk_size(&mut wire, chunk.len());
                wire.extend_from_slice(chunk);
                wire.extend_from_slice(b"\r\n");
            }
            wire.extend_from_slice(if with_trailers { b"0\r\nx-sum: 1\r\nX-Two: 2\r\n\r\n" } else { b"0\r\n\r\n" });
            wire.extend_from_slice(b"next");
            let (data, trailers, rest) = decode(&wire, &cuts).expect("valid");
            prop_assert_eq!(data, chunks.concat());
            prop_assert_eq!(trailers, if with_trailers { 2 } else { 0 });
            prop_assert_eq!(rest, b"next");
        }

        #[test]
        fn no_input_panics(wire in prop::collection::vec(any::<u8>(), 0..400), cuts in prop::collection::vec(1usize..40, 0..50)) {
            let _ = decode(&wire, &cuts);
        }
    }
}
