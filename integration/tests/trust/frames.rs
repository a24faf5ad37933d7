//! HTTP/2 by hand: what a decent client library would not let a peer say. One request a connection, so that the server's header
//! compression has nothing to refer back to.

use std::io;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const ACK: u8 = 1;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
const PADDED: u8 = 8;
const PRIORITY: u8 = 32;
const STREAM: u32 = 1;

/// How a server met a request.
#[derive(Debug, PartialEq, Eq)]
pub enum Met {
    /// With a status.
    Status(u16),
    /// With the reset of the stream, for this reason.
    Reset(u32),
    /// With the end of the connection.
    Closed,
}

impl Met {
    /// Whether nothing came of it.
    pub fn is_refusal(&self) -> bool {
        !matches!(self, Self::Status(..400))
    }
}

/// A client's side of an HTTP/2 connection with one request.
pub struct Raw<S>(S);

impl<S: AsyncRead + AsyncWrite + Unpin> Raw<S> {
    /// Says hello.
    pub async fn open(mut io: S) -> io::Result<Self> {
        io.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await?;
        io.write_all(&frame(SETTINGS, 0, 0, &[])).await?;
        Ok(Self(io))
    }

    /// Sends a request with these fields, which may be anything, and waits for what becomes of it.
    pub async fn request(&mut self, fields: &[(&str, &[u8])], end: bool) -> io::Result<Met> {
        let flags = END_HEADERS | if end { END_STREAM } else { 0 };
        self.0.write_all(&frame(HEADERS, flags, STREAM, &block(fields))).await?;
        self.0.flush().await?;
        loop {
            let Some((kind, flags, stream, payload)) = self.frame().await? else { return Ok(Met::Closed) };
            match kind {
                HEADERS if stream == STREAM => return status(flags, &payload).map(Met::Status),
                RST_STREAM if stream == STREAM => {
                    return Ok(Met::Reset(u32::from_be_bytes(payload.get(..4).unwrap_or(&[0; 4]).try_into().unwrap())));
                }
                GOAWAY => return Ok(Met::Closed),
                _ => {}
            }
        }
    }

    /// Sends bytes on the stream that was opened.
    pub async fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.0.write_all(&frame(DATA, 0, STREAM, bytes)).await?;
        self.0.flush().await
    }

    /// Everything that comes back on it, to its end.
    pub async fn receive(&mut self) -> io::Result<Vec<u8>> {
        let mut all = Vec::new();
        while let Some((kind, flags, stream, payload)) = self.frame().await? {
            match kind {
                DATA if stream == STREAM => all.extend(payload),
                RST_STREAM if stream == STREAM => break,
                _ => continue,
            }
            if flags & END_STREAM != 0 {
                break;
            }
        }
        Ok(all)
    }

    /// The next frame; settings and pings are acknowledged on the way. `None` at the end of the connection.
    async fn frame(&mut self) -> io::Result<Option<(u8, u8, u32, Vec<u8>)>> {
        let mut head = [0; 9];
        let mut payload = Vec::new();
        let mut read = self.0.read_exact(&mut head).await;
        if read.is_ok() {
            payload.resize(u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize, 0);
            read = self.0.read_exact(&mut payload).await;
        }
        match read {
            Ok(_) => {}
            Err(error) if is_end(&error) => return Ok(None),
            Err(error) => return Err(error),
        }
        let (kind, flags) = (head[3], head[4]);
        if matches!(kind, SETTINGS | PING) && flags & ACK == 0 {
            let echo = if kind == PING { payload.as_slice() } else { &[] };
            self.0.write_all(&frame(kind, ACK, 0, echo)).await?;
            self.0.flush().await?;
        }
        let stream = u32::from_be_bytes([head[5] & 0x7f, head[6], head[7], head[8]]);
        Ok(Some((kind, flags, stream, payload)))
    }
}

fn is_end(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::UnexpectedEof
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionAborted
            | io::ErrorKind::BrokenPipe
    )
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut all = vec![length[1], length[2], length[3], kind, flags];
    all.extend(stream.to_be_bytes());
    all.extend(payload);
    all
}

/// A header block without compression: literal fields, never indexed (RFC 7541 §6.2.3).
fn block(fields: &[(&str, &[u8])]) -> Vec<u8> {
    let mut out = Vec::new();
    for (name, value) in fields {
        out.push(0x10);
        for part in [name.as_bytes(), value] {
            integer(&mut out, part.len());
            out.extend(part);
        }
    }
    out
}

/// An integer with a prefix of seven bits (RFC 7541 §5.1).
fn integer(out: &mut Vec<u8>, mut value: usize) {
    if value < 127 {
        out.push(value as u8);
        return;
    }
    out.push(127);
    value -= 127;
    while value >= 128 {
        out.push((value % 128) as u8 | 0x80);
        value /= 128;
    }
    out.push(value as u8);
}

/// The status of a response: its first field, by index or literally.
fn status(flags: u8, payload: &[u8]) -> io::Result<u16> {
    let odd = || io::Error::new(io::ErrorKind::InvalidData, format!("no status in {payload:02x?}"));
    let skip = usize::from(flags & PADDED != 0) + if flags & PRIORITY != 0 { 5 } else { 0 };
    let mut rest = payload.get(skip..).ok_or_else(odd)?;
    // Changes of the table's size come first (RFC 7541 §6.3).
    while let Some(first) = rest.first().filter(|b| *b & 0xe0 == 0x20) {
        let more =
            if first & 0x1f == 0x1f { rest.iter().skip(1).take_while(|b| *b & 0x80 != 0).count() + 1 } else { 0 };
        rest = rest.get(1 + more..).ok_or_else(odd)?;
    }
    let first = *rest.first().ok_or_else(odd)?;
    if let 0x88..=0x8e = first {
        return Ok([200, 204, 206, 304, 400, 404, 500][usize::from(first - 0x88)]);
    }
    // `:status` is 8 to 14 in the static table; any of them may lend its name.
    let name = if first & 0xc0 == 0x40 { first & 0x3f } else { first & 0x0f };
    let length = *rest.get(1).ok_or_else(odd)?;
    let value = rest.get(2..2 + usize::from(length & 0x7f)).ok_or_else(odd)?;
    let digits = if length & 0x80 != 0 { huffman_digits(value).ok_or_else(odd)? } else { value.to_vec() };
    let text = String::from_utf8(digits).map_err(|_| odd())?;
    if (8..=14).contains(&name) { text.parse().map_err(|_| odd()) } else { Err(odd()) }
}

/// Decodes digits alone (RFC 7541, appendix B): 0 to 2 have five bits, 3 to 9 six.
fn huffman_digits(bytes: &[u8]) -> Option<Vec<u8>> {
    let bits: Vec<u8> = bytes.iter().flat_map(|byte| (0..8).rev().map(move |i| byte >> i & 1)).collect();
    let number = |from: usize, count: usize| Some(bits.get(from..from + count)?.iter().fold(0, |n, bit| n << 1 | bit));
    let (mut at, mut digits) = (0, Vec::new());
    while let Some(five) = number(at, 5) {
        if five <= 2 {
            digits.push(b'0' + five);
            at += 5;
        } else if let Some(six @ 0b01_1001..=0b01_1111) = number(at, 6) {
            digits.push(b'3' + six - 0b01_1001);
            at += 6;
        } else {
            break;
        }
    }
    // What is left is padding: ones, fewer than eight.
    (bits.len() - at < 8 && bits[at..].iter().all(|bit| *bit == 1)).then_some(digits)
}

#[test]
fn a_status_is_read_by_index_and_in_both_literal_forms() {
    assert_eq!(status(END_HEADERS, &[0x88]).unwrap(), 200);
    assert_eq!(status(END_HEADERS, &[0x20, 0x8d]).unwrap(), 404);
    assert_eq!(status(END_HEADERS, b"\x08\x03421").unwrap(), 421);
    // "302" as RFC 7541 §C.6.1 has it.
    assert_eq!(status(END_HEADERS, &[0x48, 0x82, 0x64, 0x02]).unwrap(), 302);
    assert!(status(END_HEADERS, b"\x00\x01a\x01b").is_err());
}
