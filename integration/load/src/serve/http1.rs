//! HTTP/1.1 of the upstream: one buffer in, one buffer out, one write for what one read brought.

use super::{Asked, BODY, Count, asked};
use crate::chunked::Chunked;
use crate::failure::Failure;
use crate::measure::add;
use crate::socket::{FILL, send_fill};
use std::io::Write as _;
use std::mem::MaybeUninit;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// A head must fit in it.
const BUFFER: usize = 32 * 1024;
/// Answers gathered before they are written.
const GATHER: usize = 64 * 1024;
const HEADERS: usize = 96;

enum Body {
    None,
    Length(u64),
    Chunked,
}

struct Head {
    length: usize,
    asked: Asked,
    post: bool,
    body: Body,
    close: bool,
}

struct Connection<'a, S> {
    stream: S,
    buffer: Vec<u8>,
    /// Invariant: `at <= filled <= buffer.len()`; between them is what was read and not looked at.
    at: usize,
    filled: usize,
    out: Vec<u8>,
    count: &'a Count,
}

/// Serves one connection until it ends.
pub(super) async fn connection<S>(stream: S, count: &Count) -> Result<(), Failure>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let buffer = vec![0; BUFFER];
    let mut connection = Connection { stream, buffer, at: 0, filled: 0, out: Vec::with_capacity(4096), count };
    loop {
        let Some(head) = parse(&connection.buffer[connection.at..connection.filled])? else {
            connection.flush().await?;
            if !connection.read().await? {
                return Ok(());
            }
            continue;
        };
        connection.at += head.length;
        add(&count.requests, 1);
        connection.answer(&head).await?;
        if head.close {
            connection.flush().await?;
            return Ok(connection.stream.shutdown().await?);
        }
        if connection.out.len() > GATHER {
            connection.flush().await?;
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Connection<'_, S> {
    async fn flush(&mut self) -> Result<(), Failure> {
        if !self.out.is_empty() {
            self.stream.write_all(&self.out).await?;
            self.stream.flush().await?;
            self.out.clear();
        }
        Ok(())
    }

    /// More bytes behind those not looked at; false at the end.
    async fn read(&mut self) -> Result<bool, Failure> {
        self.buffer.copy_within(self.at..self.filled, 0);
        (self.at, self.filled) = (0, self.filled - self.at);
        if self.filled == self.buffer.len() {
            return Err(Failure::Malformed);
        }
        let count = self.stream.read(&mut self.buffer[self.filled..]).await?;
        self.filled += count;
        Ok(count > 0)
    }

    async fn answer(&mut self, head: &Head) -> Result<(), Failure> {
        if head.post {
            return self.echo(head).await;
        }
        self.skip_body(head).await?;
        let Asked { status, length } = head.asked;
        if status == 200 && length == BODY && !head.close {
            self.out.extend_from_slice(b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: 1024\r\n\r\n");
        } else {
            let close = if head.close { "connection: close\r\n" } else { "" };
            // Writing to a Vec does not fail.
            let _infallible = write!(
                self.out,
                "HTTP/1.1 {status} Asked\r\ncontent-type: text/plain\r\ncontent-length: {length}\r\n{close}\r\n"
            );
        }
        add(&self.count.bytes, length);
        match usize::try_from(length) {
            Ok(length) if length <= GATHER => self.out.extend_from_slice(&FILL[..length]),
            _ => {
                self.flush().await?;
                send_fill(&mut self.stream, length).await?;
                self.stream.flush().await?;
            }
        }
        Ok(())
    }

    /// The body back as it comes.
    async fn echo(&mut self, head: &Head) -> Result<(), Failure> {
        let close = if head.close { "connection: close\r\n" } else { "" };
        let framing = match head.body {
            Body::None => "content-length: 0".to_owned(),
            Body::Length(length) => format!("content-length: {length}"),
            Body::Chunked => "transfer-encoding: chunked".to_owned(),
        };
        let _infallible =
            write!(self.out, "HTTP/1.1 200 OK\r\ncontent-type: application/octet-stream\r\n{framing}\r\n{close}\r\n");
        match head.body {
            Body::None => Ok(()),
            Body::Length(length) => self.copy(length, true).await,
            Body::Chunked => self.copy_chunks(true).await,
        }
    }

    async fn skip_body(&mut self, head: &Head) -> Result<(), Failure> {
        match head.body {
            Body::None => Ok(()),
            Body::Length(length) => self.copy(length, false).await,
            Body::Chunked => self.copy_chunks(false).await,
        }
    }

    async fn copy(&mut self, mut left: u64, back: bool) -> Result<(), Failure> {
        loop {
            let count = usize::try_from(left).unwrap_or(usize::MAX).min(self.filled - self.at);
            add(&self.count.bytes, count as u64);
            if back {
                self.out.extend_from_slice(&self.buffer[self.at..self.at + count]);
                add(&self.count.bytes, count as u64);
            }
            self.at += count;
            left -= count as u64;
            if left == 0 {
                return Ok(());
            }
            self.flush().await?;
            if !self.read().await? {
                return Err(Failure::Closed);
            }
        }
    }

    async fn copy_chunks(&mut self, back: bool) -> Result<(), Failure> {
        let mut chunks = Chunked::default();
        loop {
            let (out, count) = (&mut self.out, self.count);
            let taken = chunks.feed(&self.buffer[self.at..self.filled], |data| {
                add(&count.bytes, data.len() as u64 * if back { 2 } else { 1 });
                if back {
                    let _infallible = write!(out, "{:x}\r\n", data.len());
                    out.extend_from_slice(data);
                    out.extend_from_slice(b"\r\n");
                }
            })?;
            self.at += taken;
            if chunks.is_done() {
                if back {
                    self.out.extend_from_slice(b"0\r\n\r\n");
                }
                return Ok(());
            }
            self.flush().await?;
            if !self.read().await? {
                return Err(Failure::Closed);
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
    let mut request = httparse::Request::new(&mut []);
    let length = match request.parse_with_uninit_headers(input, &mut headers) {
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(_) => return Err(Failure::Malformed),
    };
    let (mut body, mut close) = (Body::None, request.version == Some(0));
    for header in request.headers.iter() {
        if header.name.eq_ignore_ascii_case("content-length") {
            let text = std::str::from_utf8(header.value).map_err(|_| Failure::Malformed)?;
            body = match text.trim().parse().map_err(|_| Failure::Malformed)? {
                0 => Body::None,
                length => Body::Length(length),
            };
        } else if header.name.eq_ignore_ascii_case("transfer-encoding") {
            body = Body::Chunked;
        } else if header.name.eq_ignore_ascii_case("connection") {
            close = header.value.eq_ignore_ascii_case(b"close");
        }
    }
    let post = request.method == Some("POST");
    Ok(Some(Head { length, asked: asked(request.path.unwrap_or("/")), post, body, close }))
}
