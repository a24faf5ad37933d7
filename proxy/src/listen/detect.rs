//! What protocol a connection speaks, by its first bytes: HTTP/1, HTTP/2 with prior knowledge, TLS, or none of them.
//!
//! The bytes are read into a bounded buffer that whoever serves the connection gets back as a prefix: nothing is lost by looking. A
//! client that says nothing for [`SILENCE`] is taken for one that waits for the server to speak first; then [`settle`] lets whichever
//! side speaks first decide. A declared or well-known port never gets here.

use crate::codec::{Io, Version};
use crate::telemetry::{Direction, Telemetry};
use bytes::BytesMut;
use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::task::{Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, ReadBuf};
use weft_policy::config;

/// How long a client may say nothing before its connection is dialled as opaque bytes.
pub const SILENCE: Duration = Duration::from_millis(10);
/// How long a client may pause in the middle of what could still become HTTP or TLS.
const UNDECIDED: Duration = Duration::from_secs(1);
/// How long a client of a port that is declared to speak HTTP may take for its first byte.
const FIRST_BYTE: Duration = Duration::from_secs(300);
/// Bytes that detection may hold: a preface or the first words of a request line need far less.
const BOUND: usize = 4096;
/// Bytes that are read at once.
const READ: usize = 1024;
/// Connection preface of HTTP/2 (RFC 9113, section 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Longest method that is taken for one.
const METHOD: usize = 24;

/// Ports on which the server speaks first (SMTP, submission, MySQL) or whose clients must not be kept waiting (Galera, PostgreSQL,
/// Redis, Elasticsearch's transport, memcached): never sniffed.
pub const WELL_KNOWN_OPAQUE: [u16; 8] = [25, 587, 3306, 4444, 5432, 6379, 9300, 11211];

/// Is the port one that is never sniffed?
#[must_use]
pub fn is_well_known_opaque(port: u16) -> bool {
    WELL_KNOWN_OPAQUE.contains(&port)
}

/// How the protocol of a connection to a port is found out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// Not at all: opaque bytes by declaration or by well-known port.
    Opaque,
    /// HTTP is declared: the first bytes tell 1 from 2, and TLS of the application's own from both. Silence means nothing.
    Http,
    /// By the first bytes, within [`SILENCE`].
    Sniff,
}

impl Way {
    /// For a port that is declared to speak `protocol`. `ports` are the numbers that it is known by.
    #[must_use]
    pub fn of(protocol: config::Protocol, ports: &[u16]) -> Self {
        match protocol {
            config::Protocol::Tcp => Self::Opaque,
            config::Protocol::Http1 | config::Protocol::Http2 | config::Protocol::Grpc => Self::Http,
            config::Protocol::Detect if ports.iter().any(|port| is_well_known_opaque(*port)) => Self::Opaque,
            config::Protocol::Detect => Self::Sniff,
        }
    }
}

/// What a connection turned out to be.
#[derive(Debug)]
pub enum First {
    /// HTTP of that version, from its first byte.
    Http(Io, Version),
    /// Bytes.
    Opaque(Io),
    /// The client says nothing: see [`Detected::Silent`].
    Silent(Io),
}

/// Finds out what `io` carries; the bytes that were looked at are put back. `None`: it closed or broke without a byte.
pub async fn first(mut io: Io, way: Way, direction: Direction, telemetry: &Telemetry) -> Option<First> {
    let wait = match way {
        Way::Opaque => return Some(First::Opaque(io)),
        Way::Http => FIRST_BYTE,
        Way::Sniff => SILENCE,
    };
    let mut buffer = BytesMut::new();
    let detected = detect(&mut io, &mut buffer, wait).await.ok()?;
    let io = io.with_prefix(buffer.freeze());
    let (outcome, first) = match (detected, way) {
        (Detected::Closed, _) => return None,
        (Detected::Is(Protocol::Http1), _) => ("http1", First::Http(io, Version::Http11)),
        (Detected::Is(Protocol::Http2), _) => ("http2", First::Http(io, Version::Http2)),
        (Detected::Is(Protocol::Tls), _) => ("tls", First::Opaque(io)),
        // Declared HTTP that is not: the codec answers 400, which says more than a broken connection.
        (Detected::Is(Protocol::Opaque), Way::Http) => ("opaque", First::Http(io, Version::Http11)),
        (Detected::Is(Protocol::Opaque), _) => ("opaque", First::Opaque(io)),
        (Detected::Silent, Way::Http) => {
            telemetry.detections.with(&[direction.name(), "timeout"]).increment();
            return None;
        }
        (Detected::Silent, _) => ("timeout", First::Silent(io)),
    };
    if way == Way::Sniff {
        telemetry.detections.with(&[direction.name(), outcome]).increment();
    }
    Some(first)
}

/// What the first bytes are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// A request line.
    Http1,
    /// The connection preface.
    Http2,
    /// A TLS record with a handshake.
    Tls,
    /// Anything else.
    Opaque,
}

impl Protocol {
    /// As the metric names it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Http1 => "http1",
            Self::Http2 => "http2",
            Self::Tls => "tls",
            Self::Opaque => "opaque",
        }
    }
}

/// What detection found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Detected {
    /// The first bytes tell.
    Is(Protocol),
    /// Nothing was said within the deadline: dial, and let the first bytes from either side settle it.
    Silent,
    /// The client closed without a byte.
    Closed,
}

/// Reads from `io` into `buffer` until the protocol is known, or the client stays silent for `silence`.
///
/// # Errors
/// Those of reading.
pub async fn detect<S: AsyncRead + Unpin>(
    io: &mut S,
    buffer: &mut BytesMut,
    silence: Duration,
) -> io::Result<Detected> {
    loop {
        if let Some(protocol) = classify(buffer) {
            return Ok(Detected::Is(protocol));
        }
        let wait = if buffer.is_empty() { silence } else { UNDECIDED };
        match tokio::time::timeout(wait, read_some(io, buffer)).await {
            Ok(Ok(0)) if buffer.is_empty() => return Ok(Detected::Closed),
            // The end, or a pause, in the middle of an ambiguous word: it was none of ours.
            Ok(Ok(0)) => return Ok(Detected::Is(Protocol::Opaque)),
            Ok(Ok(_)) => {}
            Ok(Err(error)) => return Err(error),
            Err(_) if buffer.is_empty() => return Ok(Detected::Silent),
            Err(_) => return Ok(Detected::Is(Protocol::Opaque)),
        }
    }
}

/// Takes no memory for as long as nothing comes: a connection may idle before its first byte.
async fn read_some<S: AsyncRead + Unpin>(io: &mut S, buffer: &mut BytesMut) -> io::Result<usize> {
    let room = BOUND.saturating_sub(buffer.len()).clamp(1, READ);
    std::future::poll_fn(|cx| {
        let mut bytes = [MaybeUninit::uninit(); READ];
        let mut read = ReadBuf::uninit(&mut bytes[..room]);
        ready!(Pin::new(&mut *io).poll_read(cx, &mut read))?;
        buffer.extend_from_slice(read.filled());
        Poll::Ready(Ok(read.filled().len()))
    })
    .await
}

/// Who spoke first on a connection that began in silence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Settled {
    /// The client, and this is what it speaks.
    Client(Protocol),
    /// The server: opaque.
    Server,
    /// One of them closed without a byte: opaque, so that the half-close is passed on.
    Closed,
}

/// Waits for the first bytes from either side. What was read is in the buffers.
///
/// # Errors
/// Those of reading, from either side.
pub async fn settle<C: AsyncRead + Unpin, U: AsyncRead + Unpin>(
    client: &mut C,
    upstream: &mut U,
    from_client: &mut BytesMut,
    from_upstream: &mut BytesMut,
) -> io::Result<Settled> {
    tokio::select! {
        biased;
        read = read_some(upstream, from_upstream) => {
            return Ok(if read? == 0 { Settled::Closed } else { Settled::Server });
        }
        read = read_some(client, from_client) => {
            if read? == 0 {
                return Ok(Settled::Closed);
            }
        }
    }
    match detect(client, from_client, UNDECIDED).await? {
        Detected::Is(protocol) => Ok(Settled::Client(protocol)),
        Detected::Silent | Detected::Closed => Ok(Settled::Client(Protocol::Opaque)),
    }
}

/// The protocol of the first bytes; `None`: more are needed.
#[must_use]
pub fn classify(bytes: &[u8]) -> Option<Protocol> {
    let first = *bytes.first()?;
    if first == 0x16 {
        // TLS: handshake record, major version 3 (RFC 8446, section 5.1), then ClientHello.
        return match (bytes.get(1), bytes.get(5)) {
            (Some(3), Some(1)) => Some(Protocol::Tls),
            (Some(3), None) | (None, _) => None,
            _ => Some(Protocol::Opaque),
        };
    }
    if bytes.starts_with(PREFACE) {
        return Some(Protocol::Http2);
    }
    if PREFACE.starts_with(bytes) {
        return None;
    }
    if !first.is_ascii_uppercase() {
        return Some(Protocol::Opaque);
    }
    let method_end = bytes.iter().take(METHOD + 1).position(|b| !(b.is_ascii_uppercase() || matches!(b, b'-' | b'_')));
    let Some(end) = method_end else {
        return (bytes.len() > METHOD).then_some(Protocol::Opaque);
    };
    if bytes[end] != b' ' {
        return Some(Protocol::Opaque);
    }
    target(&bytes[..end], &bytes[end + 1..])
}

/// Does what follows the method begin like a request target (RFC 9112, section 3.2)? `GET key` of other text protocols does not.
fn target(method: &[u8], rest: &[u8]) -> Option<Protocol> {
    match rest.first()? {
        b'/' => Some(Protocol::Http1),
        b'*' if method == b"OPTIONS" => Some(Protocol::Http1),
        _ if method == b"CONNECT" => Some(Protocol::Http1),
        _ => {
            let scheme = b"http";
            let seen = rest.len().min(scheme.len());
            if !rest[..seen].eq_ignore_ascii_case(&scheme[..seen]) {
                return Some(Protocol::Opaque);
            }
            // "http://" or "https://"
            let tail = &rest[seen..];
            let tail = tail.strip_prefix(b"s").or_else(|| tail.strip_prefix(b"S")).unwrap_or(tail);
            let slashes = b"://";
            let seen = tail.len().min(slashes.len());
            if tail[..seen] != slashes[..seen] {
                return Some(Protocol::Opaque);
            }
            (seen == slashes.len()).then_some(Protocol::Http1)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncWriteExt;

    #[test]
    fn the_first_bytes_tell_the_protocol() {
        let hello = [0x16, 3, 1, 2, 0, 1, 0];
        for (bytes, protocol) in [
            (&b"GET / HTTP/1.1\r\n"[..], Protocol::Http1),
            (b"OPTIONS * HTTP/1.1", Protocol::Http1),
            (b"CONNECT orders:443 HTTP/1.1", Protocol::Http1),
            (b"POST http://orders/x HTTP/1.1", Protocol::Http1),
            (b"PROPFIND /x", Protocol::Http1),
            (b"M-SEARCH /x", Protocol::Http1),
            (PREFACE, Protocol::Http2),
            (&hello, Protocol::Tls),
            (b"GET key\r\n", Protocol::Opaque),
            (b"GET httpkey\r\n", Protocol::Opaque),
            (b"PING\r\n", Protocol::Opaque),
            (b"*1\r\n$4\r\nPING\r\n", Protocol::Opaque),
            (b"\x00\x00\x00\x08\x04\xd2\x16\x2f", Protocol::Opaque),
            (b"SSH-2.0-x\r\n", Protocol::Opaque),
            (b"\x16\x03\x01\x00\x05\x02", Protocol::Opaque),
        ] {
            assert_eq!(classify(bytes), Some(protocol), "{}", String::from_utf8_lossy(bytes));
        }
    }

    #[test]
    fn every_prefix_of_a_request_asks_for_more_until_it_is_certain_and_never_errs() {
        for whole in [&b"GET /"[..], PREFACE, b"POST http://", b"OPTIONS *", &[0x16, 3, 1, 2, 0, 1]] {
            let last = classify(whole).unwrap();
            for end in 0..whole.len() {
                assert_eq!(classify(&whole[..end]), None, "{}", String::from_utf8_lossy(&whole[..end]));
            }
            assert_ne!(last, Protocol::Opaque);
        }
    }

    #[test]
    fn a_word_without_end_is_no_method() {
        assert_eq!(classify(&[b'A'; 4096]), Some(Protocol::Opaque));
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_client_is_silent_after_ten_milliseconds_and_not_before() {
        let (mut near, _far) = tokio::io::duplex(64);
        let start = tokio::time::Instant::now();
        assert_eq!(detect(&mut near, &mut BytesMut::new(), SILENCE).await.unwrap(), Detected::Silent);
        assert!(start.elapsed() >= SILENCE && start.elapsed() < SILENCE * 2);
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_line_in_single_bytes_is_detected_and_nothing_is_lost() {
        let (mut near, mut far) = tokio::io::duplex(1);
        let mut buffer = BytesMut::new();
        let (detected, ()) = tokio::join!(detect(&mut near, &mut buffer, SILENCE), async {
            far.write_all(b"GET /").await.unwrap();
        });
        assert_eq!(detected.unwrap(), Detected::Is(Protocol::Http1));
        assert_eq!(&buffer[..], b"GET /");
    }

    #[tokio::test]
    async fn whoever_speaks_first_settles_a_silent_connection() {
        let (mut client, mut client_far) = tokio::io::duplex(64);
        let (mut upstream, mut upstream_far) = tokio::io::duplex(64);
        let (mut a, mut b) = (BytesMut::new(), BytesMut::new());
        upstream_far.write_all(b"220 ready").await.unwrap();
        assert_eq!(settle(&mut client, &mut upstream, &mut a, &mut b).await.unwrap(), Settled::Server);
        assert_eq!((&a[..], &b[..]), (&b""[..], &b"220 ready"[..]));
        client_far.write_all(b"GET / HTTP/1.1").await.unwrap();
        let settled = settle(&mut client, &mut upstream, &mut a, &mut b).await.unwrap();
        assert_eq!(settled, Settled::Client(Protocol::Http1));
    }
}
