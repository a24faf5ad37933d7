//! Chunked bodies of HTTP/1.1 (RFC 9112 § 7.1), decoded as they come. Trailers are skipped.

use crate::failure::Failure;

/// A chunk's size line or a trailer may be this long.
const LINE: usize = 8 * 1024;

enum State {
    /// In a size line, or in a trailer when `last`.
    Line {
        last: bool,
    },
    Data(u64),
    /// The line end after a chunk's data.
    End(u8),
    Done,
}

/// Where in the body the decoder is.
pub struct Chunked(State);

impl Default for Chunked {
    fn default() -> Self {
        Self(State::Line { last: false })
    }
}

impl Chunked {
    /// The whole body was seen.
    pub fn is_done(&self) -> bool {
        matches!(self.0, State::Done)
    }

    /// Takes from `input` what it can, hands data to `data`, and says how much it took. What is left is an unfinished line or what
    /// comes after the body.
    pub fn feed(&mut self, input: &[u8], mut data: impl FnMut(&[u8])) -> Result<usize, Failure> {
        let mut at = 0;
        loop {
            let rest = &input[at..];
            match self.0 {
                State::Done => return Ok(at),
                State::Data(left) => {
                    let count = usize::try_from(left).unwrap_or(usize::MAX).min(rest.len());
                    if count == 0 {
                        return Ok(at);
                    }
                    data(&rest[..count]);
                    at += count;
                    let left = left - count as u64;
                    self.0 = if left == 0 { State::End(2) } else { State::Data(left) };
                }
                State::End(left) => {
                    let Some(byte) = rest.first() else { return Ok(at) };
                    if *byte != if left == 2 { b'\r' } else { b'\n' } {
                        return Err(Failure::Malformed);
                    }
                    at += 1;
                    self.0 = if left == 2 { State::End(1) } else { State::Line { last: false } };
                }
                State::Line { last } => {
                    let Some(end) = rest.iter().position(|b| *b == b'\n') else {
                        return if rest.len() > LINE { Err(Failure::Malformed) } else { Ok(at) };
                    };
                    let line = &rest[..=end];
                    at += line.len();
                    if last {
                        if line == b"\r\n" {
                            self.0 = State::Done;
                        }
                        continue;
                    }
                    match httparse::parse_chunk_size(line) {
                        Ok(httparse::Status::Complete((_, 0))) => self.0 = State::Line { last: true },
                        Ok(httparse::Status::Complete((_, size))) => self.0 = State::Data(size),
                        _ => return Err(Failure::Malformed),
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_decodes_however_it_is_cut() {
        let whole = b"5\r\nhello\r\n6;ext=1\r\n world\r\n0\r\nx-trailer: 1\r\n\r\nnext";
        for cut in 1..whole.len() {
            let (mut decoder, mut text, mut held) = (Chunked::default(), Vec::new(), Vec::new());
            for piece in whole.chunks(cut) {
                held.extend_from_slice(piece);
                let taken = decoder.feed(&held, |data| text.extend_from_slice(data)).unwrap();
                held.drain(..taken);
            }
            assert!(decoder.is_done(), "cut at {cut}");
            assert_eq!((text.as_slice(), held.as_slice()), (b"hello world".as_slice(), b"next".as_slice()));
        }
    }

    #[test]
    fn what_is_not_a_chunk_is_refused() {
        assert_eq!(Chunked::default().feed(b"nonsense\r\n", |_| {}), Err(Failure::Malformed));
        assert_eq!(Chunked::default().feed(b"1\r\nabc", |_| {}), Err(Failure::Malformed));
    }
}
