//! The client's end: bytes written as they are, and answers read strictly, each wait with a deadline.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// How long an answer, or the end of a connection, may take where nothing else is said.
pub const SOON: Duration = Duration::from_secs(8);

/// A connection to a sidecar.
pub enum Link {
    /// Plaintext.
    Plain(TcpStream),
    /// mTLS.
    Tls(Box<rustls::StreamOwned<rustls::ClientConnection, TcpStream>>),
}

impl Link {
    /// A plaintext connection whose reads and writes wait [`SOON`].
    pub fn connect(to: SocketAddr) -> Self {
        let link = Self::Plain(TcpStream::connect(to).unwrap());
        link.patience(SOON);
        link
    }

    pub fn tls(session: rustls::ClientConnection, tcp: TcpStream) -> Self {
        let link = Self::Tls(Box::new(rustls::StreamOwned::new(session, tcp)));
        link.patience(SOON);
        link
    }

    pub fn tcp(&self) -> &TcpStream {
        match self {
            Self::Plain(tcp) => tcp,
            Self::Tls(tls) => &tls.sock,
        }
    }

    /// How long one read or one write may wait.
    pub fn patience(&self, time: Duration) {
        self.tcp().set_nodelay(true).unwrap();
        self.tcp().set_read_timeout(Some(time)).unwrap();
        self.tcp().set_write_timeout(Some(time)).unwrap();
    }
}

impl Read for Link {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(tcp) => tcp.read(buffer),
            Self::Tls(tls) => tls.read(buffer),
        }
    }
}

impl Write for Link {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        match self {
            Self::Plain(tcp) => tcp.write(data),
            Self::Tls(tls) => tls.write(data),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Plain(tcp) => tcp.flush(),
            Self::Tls(tls) => tls.flush(),
        }
    }
}

/// A deadline of [`Link::patience`] that passed, as opposed to a connection that ended.
pub fn timed_out(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
}

/// Why there is no answer, or not a whole one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Broken {
    /// Closed or reset before the first byte of an answer.
    Closed,
    /// Closed or reset within an answer, whose head (if it was whole) begins so.
    Cut(String),
    /// Nothing came in time.
    Silence,
    /// What came is no answer that all clients read alike.
    Ambiguous(String),
}

/// A response as everybody reads it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    pub status: u16,
    pub head: String,
    pub body: String,
}

impl Answer {
    pub fn header(&self, name: &str) -> Option<&str> {
        header(&self.head, name)
    }

    /// Does the sidecar end the connection after it?
    pub fn closes(&self) -> bool {
        self.header("connection").is_some_and(|value| value.eq_ignore_ascii_case("close"))
    }
}

/// The only value of a header; more than one of a name is for whoever asks to notice.
pub fn header<'h>(head: &'h str, name: &str) -> Option<&'h str> {
    head.split("\r\n").skip(1).find_map(|line| {
        let (key, value) = line.split_once(':')?;
        key.eq_ignore_ascii_case(name).then(|| value.trim())
    })
}

/// A client's HTTP/1 connection.
pub struct Client {
    link: Link,
    read: Vec<u8>,
}

impl Client {
    pub fn connect(to: SocketAddr) -> Self {
        Self { link: Link::connect(to), read: Vec::new() }
    }

    /// How long one read may wait.
    pub fn patience(&self, time: Duration) {
        self.link.patience(time);
    }

    /// Sends bytes. A sidecar that has refused what came first may not take the rest.
    pub fn send(&mut self, bytes: &[u8]) {
        let _ = self.link.write_all(bytes);
    }

    /// Sends a request in origin form without a body and reads its answer.
    pub fn get(&mut self, host: &str, target: &str) -> Result<Answer, Broken> {
        self.send(format!("GET {target} HTTP/1.1\r\nHost: {host}\r\n\r\n").as_bytes());
        self.answer(false)
    }

    /// Reads one final answer, to a HEAD if `head`.
    pub fn answer(&mut self, head: bool) -> Result<Answer, Broken> {
        loop {
            let answer = self.one(head)?;
            if answer.status >= 200 || answer.status == 101 {
                return Ok(answer);
            }
        }
    }

    /// Waits for the connection's end; bytes before it are `Err`.
    pub fn ended(&mut self) -> Result<(), String> {
        loop {
            if !self.read.is_empty() {
                return Err(format!("bytes that nobody asked for: {}", String::from_utf8_lossy(&self.read)));
            }
            match self.fill() {
                Ok(()) => {}
                Err(Broken::Closed) => return Ok(()),
                Err(other) => return Err(format!("{other:?}")),
            }
        }
    }

    fn fill(&mut self) -> Result<(), Broken> {
        let mut buffer = [0; 16 * 1024];
        match self.link.read(&mut buffer) {
            Ok(0) => Err(Broken::Closed),
            Ok(count) => {
                self.read.extend_from_slice(&buffer[..count]);
                Ok(())
            }
            Err(error) if timed_out(&error) => Err(Broken::Silence),
            Err(_) => Err(Broken::Closed),
        }
    }

    /// Fills until `found` says so.
    fn until<T>(&mut self, head: &str, mut found: impl FnMut(&[u8]) -> Option<T>) -> Result<T, Broken> {
        loop {
            if let Some(found) = found(&self.read) {
                return Ok(found);
            }
            if let Err(broken) = self.fill() {
                let begun = !self.read.is_empty() || !head.is_empty();
                return Err(if broken == Broken::Closed && begun { Broken::Cut(head.to_owned()) } else { broken });
            }
        }
    }

    fn take(&mut self, count: usize) -> String {
        let taken: Vec<u8> = self.read.drain(..count).collect();
        String::from_utf8_lossy(&taken).into_owned()
    }

    /// Reads one answer, which may be an interim one.
    pub fn one(&mut self, to_head: bool) -> Result<Answer, Broken> {
        let end = self.until("", |read| read.windows(4).position(|w| w == b"\r\n\r\n"))?;
        let head = self.take(end + 4).trim_end_matches("\r\n").to_owned();
        let ambiguous = |why: &str| Broken::Ambiguous(format!("{why}: {head}"));
        let count = |name: &str| {
            head.split("\r\n").skip(1).filter(|l| l.split(':').next().unwrap().eq_ignore_ascii_case(name)).count()
        };
        if count("content-length") + count("transfer-encoding") > 1 {
            return Err(ambiguous("framed twice"));
        }
        let lines_ok = head.split("\r\n").skip(1).all(|line| {
            line.split_once(':').is_some_and(|(name, value)| {
                !name.is_empty() && !name.contains([' ', '\t']) && !value.contains(['\r', '\n', '\0'])
            })
        });
        let status = head.strip_prefix("HTTP/1.1 ").and_then(|rest| rest.get(..3)).and_then(|s| s.parse().ok());
        let Some(status) = status.filter(|_| lines_ok) else { return Err(ambiguous("no response")) };
        let bodiless = to_head || status < 200 || status == 204 || status == 304;
        if matches!(status, 100..200 | 204) && count("content-length") + count("transfer-encoding") > 0 {
            return Err(ambiguous("a length of what cannot be"));
        }
        let body = if bodiless {
            String::new()
        } else if count("transfer-encoding") == 1 {
            self.chunks(&head)?
        } else if let Some(length) = header(&head, "content-length") {
            let plain = length.bytes().all(|b| b.is_ascii_digit()) && (length == "0" || !length.starts_with('0'));
            let length = length.parse().ok().filter(|_| plain).ok_or_else(|| ambiguous("length"))?;
            self.until(&head, |read| (read.len() >= length).then_some(()))?;
            self.take(length)
        } else {
            while self.fill().map_err(|broken| if broken == Broken::Closed { None } else { Some(broken) }).is_ok() {}
            self.take(self.read.len())
        };
        Ok(Answer { status, head, body })
    }

    fn chunks(&mut self, head: &str) -> Result<String, Broken> {
        let mut body = String::new();
        loop {
            let end = self.until(head, |read| read.windows(2).position(|w| w == b"\r\n"))?;
            let line = self.take(end + 2);
            let size = usize::from_str_radix(line.trim_end(), 16).map_err(|_| Broken::Ambiguous(line.clone()))?;
            if size == 0 {
                break;
            }
            self.until(head, |read| (read.len() >= size + 2).then_some(()))?;
            body.push_str(&self.take(size));
            if self.take(2) != "\r\n" {
                return Err(Broken::Ambiguous("a chunk without its end".into()));
            }
        }
        loop {
            let end = self.until(head, |read| read.windows(2).position(|w| w == b"\r\n"))?;
            if self.take(end + 2) == "\r\n" {
                return Ok(body);
            }
        }
    }
}
