//! HTTP/1.1 of the client: one connection, one call at a time, one write and one read for a small call.

use crate::chunked::Chunked;
use crate::clock::Pace;
use crate::failure::Failure;
use crate::plan::Expect;
use crate::socket::{Target, discard};
use std::mem::MaybeUninit;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::ReadHalf;

/// A head must fit in it.
const BUFFER: usize = 32 * 1024;
/// Requests up to this are written before the answer is looked for; longer ones while it is read.
const AT_ONCE: usize = 16 * 1024;
const HEADERS: usize = 96;
/// What is taken at a time of an answer that is paced.
const PIECE: u64 = 16 * 1024;

/// A kept connection.
pub struct Connection {
    stream: TcpStream,
    input: Input,
    /// The peer will take no other call on it.
    over: bool,
}

/// What was read and not looked at.
struct Input {
    buffer: Vec<u8>,
    /// Invariant: `at <= filled <= buffer.len()`.
    at: usize,
    filled: usize,
}

enum Body {
    None,
    Length(u64),
    Chunked,
    UntilClose,
}

struct Head {
    length: usize,
    status: u16,
    body: Body,
    close: bool,
}

impl Connection {
    /// Connects.
    pub async fn open(target: &Target) -> Result<Self, Failure> {
        let stream = target.connect().await?;
        Ok(Self { stream, input: Input { buffer: vec![0; BUFFER], at: 0, filled: 0 }, over: false })
    }

    /// Sends `request` and reads its answer to the end; the length of its body. After a failure the connection is of no use.
    pub async fn call(&mut self, request: &[u8], expect: Expect) -> Result<u64, Failure> {
        let (mut reader, mut writer) = self.stream.split();
        let (answer, close) = if request.len() <= AT_ONCE {
            writer.write_all(request).await?;
            self.input.answer(&mut reader).await?
        } else {
            let write = async { Ok::<_, Failure>(writer.write_all(request).await?) };
            tokio::try_join!(write, self.input.answer(&mut reader))?.1
        };
        self.over = close;
        expect.check(answer.0, answer.1)
    }

    /// The status of the answer, once that came whole.
    pub async fn status(&mut self, request: &[u8]) -> Result<u16, Failure> {
        let (mut reader, mut writer) = self.stream.split();
        writer.write_all(request).await?;
        Ok(self.input.answer(&mut reader).await?.0.0)
    }

    /// A call whose answer is taken at the pace given; each piece is told to `seen`. The answer must say its length.
    pub async fn download(
        &mut self,
        request: &[u8],
        expect: Expect,
        pace: &mut Pace,
        mut seen: impl FnMut(u64),
    ) -> Result<(), Failure> {
        let (mut reader, mut writer) = self.stream.split();
        writer.write_all(request).await?;
        let head = self.input.head(&mut reader).await?;
        let Body::Length(length) = head.body else { return Err(Failure::Malformed) };
        let mut left = length - self.input.take(length);
        while left > 0 {
            let piece = left.min(PIECE);
            discard(reader.as_ref(), piece).await?;
            left -= piece;
            seen(piece);
            pace.took(piece).await;
        }
        self.over = head.close;
        expect.check(head.status, length).map(drop)
    }

    /// Whether another call may follow.
    pub fn is_over(&self) -> bool {
        self.over
    }

    /// The socket itself, for closing it roughly.
    pub fn stream(&mut self) -> &mut TcpStream {
        &mut self.stream
    }

    /// Waits for the peer to close.
    pub async fn closed(&mut self) -> Result<(), Failure> {
        let mut byte = [0];
        if self.stream.read(&mut byte).await? == 0 { Ok(()) } else { Err(Failure::Malformed) }
    }

    /// Whether the peer has closed it, without waiting.
    pub fn is_gone(&self) -> bool {
        !matches!(self.stream.try_read(&mut [0]), Err(error) if error.kind() == std::io::ErrorKind::WouldBlock)
    }
}

impl Input {
    /// Status and length of the next answer, and whether the connection ends with it.
    async fn answer(&mut self, reader: &mut ReadHalf<'_>) -> Result<((u16, u64), bool), Failure> {
        let head = self.head(reader).await?;
        let length = match head.body {
            Body::None => 0,
            Body::Length(length) => {
                let here = self.take(length);
                discard(reader.as_ref(), length - here).await?;
                length
            }
            Body::Chunked => self.chunks(reader).await?,
            Body::UntilClose => self.rest(reader).await?,
        };
        Ok(((head.status, length), head.close))
    }

    /// The next final head.
    async fn head(&mut self, reader: &mut ReadHalf<'_>) -> Result<Head, Failure> {
        loop {
            match parse(&self.buffer[self.at..self.filled])? {
                Some(head) => {
                    self.at += head.length;
                    if head.status >= 200 {
                        return Ok(head);
                    }
                }
                None => self.more(reader).await?,
            }
        }
    }

    /// Takes up to `most` of what was read already.
    fn take(&mut self, most: u64) -> u64 {
        let count = (self.filled - self.at).min(usize::try_from(most).unwrap_or(usize::MAX));
        self.at += count;
        count as u64
    }

    /// More bytes behind those not looked at.
    async fn more(&mut self, reader: &mut ReadHalf<'_>) -> Result<(), Failure> {
        self.buffer.copy_within(self.at..self.filled, 0);
        (self.at, self.filled) = (0, self.filled - self.at);
        if self.filled == self.buffer.len() {
            return Err(Failure::Malformed);
        }
        match reader.read(&mut self.buffer[self.filled..]).await? {
            0 => Err(Failure::Closed),
            count => {
                self.filled += count;
                Ok(())
            }
        }
    }

    async fn chunks(&mut self, reader: &mut ReadHalf<'_>) -> Result<u64, Failure> {
        let (mut chunks, mut length) = (Chunked::default(), 0);
        loop {
            self.at += chunks.feed(&self.buffer[self.at..self.filled], |data| length += data.len() as u64)?;
            if chunks.is_done() {
                return Ok(length);
            }
            self.more(reader).await?;
        }
    }

    async fn rest(&mut self, reader: &mut ReadHalf<'_>) -> Result<u64, Failure> {
        let mut length = (self.filled - self.at) as u64;
        self.at = self.filled;
        loop {
            match reader.read(&mut self.buffer).await? {
                0 => return Ok(length),
                count => length += count as u64,
            }
        }
    }
}

/// The head at the front of `input`, once it is whole.
fn parse(input: &[u8]) -> Result<Option<Head>, Failure> {
    if input.is_empty() {
        return Ok(None);
    }
    let mut headers = [const { MaybeUninit::uninit() }; HEADERS];
    let mut response = httparse::Response::new(&mut []);
    let config = httparse::ParserConfig::default();
    let length = match config.parse_response_with_uninit_headers(&mut response, input, &mut headers) {
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(_) => return Err(Failure::Malformed),
    };
    let status = response.code.ok_or(Failure::Malformed)?;
    let (mut body, mut close) = (Body::UntilClose, response.version == Some(0));
    for header in response.headers.iter() {
        if header.name.eq_ignore_ascii_case("content-length") && !matches!(body, Body::Chunked) {
            let text = std::str::from_utf8(header.value).map_err(|_| Failure::Malformed)?;
            body = Body::Length(text.trim().parse().map_err(|_| Failure::Malformed)?);
        } else if header.name.eq_ignore_ascii_case("transfer-encoding") {
            body = Body::Chunked;
        } else if header.name.eq_ignore_ascii_case("connection") {
            close |= header.value.eq_ignore_ascii_case(b"close");
        }
    }
    if status < 200 || status == 204 || status == 304 {
        body = Body::None;
    }
    close |= matches!(body, Body::UntilClose);
    Ok(Some(Head { length, status, body, close }))
}
