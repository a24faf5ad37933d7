//! The command line: what each mode takes, its units and its defaults. Nothing here runs anything.

use clap::{Args, Parser, Subcommand, ValueEnum};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

/// Load generator and upstream of the benchmarks.
///
/// One thread, everything bounded in count and in time, every answer checked. The result is JSON on stdout, one line for people goes to
/// stderr. Exit codes: 0 it ran and something succeeded (errors are counted in the result), 1 it could not run or nothing succeeded,
/// 2 wrong flags. Spans of time are written 250us, 500ms, 3s, 2m or 1h; sizes 1024, 64k, 8m or 1g (powers of two).
#[derive(Parser, Debug)]
#[command(name = "weft-load", version, max_term_width = 120)]
pub struct Flags {
    /// What to do
    #[command(subcommand)]
    pub mode: Mode,
}

/// The modes.
#[derive(Subcommand, Debug)]
pub enum Mode {
    /// Be the upstream: HTTP/1.1, HTTP/2 and gRPC, TCP, TLS, and a page of counts
    Serve(Serve),
    /// Closed loop: each worker sends its next call when the last was answered
    Closed(Closed),
    /// Open loop: calls are sent on a schedule, and timed from when they should have been sent
    Open(Open),
    /// TCP exchanges with counted bytes: bulk, ping-pong, or churned
    Tcp(Tcp),
    /// Open connections, make one call on each, hold them until stdin closes
    Idle(Idle),
    /// Small calls alone, then beside a stalled receiver, a slow reader and bulk downloads
    Fairness(Fairness),
    /// A seeded mix of calls, churn, aborts, resets and streams, over several protocols
    Soak(Soak),
    /// Full mutual TLS 1.3 handshakes without resumption
    Handshake(Handshake),
    /// Poll until the first successful answer, and say when it came
    First(First),
}

/// What is spoken with the target.
#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP/1.1 with keep-alive
    Http1,
    /// HTTP/2 in clear text with prior knowledge
    Http2,
    /// gRPC unary calls: one message out, the same message back
    Grpc,
    /// gRPC bidirectional streams, long-lived, one message in flight on each; counted in messages
    GrpcStream,
}

impl Protocol {
    /// The name as on the command line and in results.
    pub fn name(self) -> &'static str {
        match self {
            Self::Http1 => "http1",
            Self::Http2 => "http2",
            Self::Grpc => "grpc",
            Self::GrpcStream => "grpc-stream",
        }
    }
}

/// Who closes a churned connection, and so who keeps its TIME_WAIT.
#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum Close {
    /// The client sends FIN after the answer
    Client,
    /// The client asks for it (`connection: close`) and waits for the server's FIN; HTTP/1.1 only
    Server,
    /// The client resets the connection after the answer (SO_LINGER 0)
    Reset,
}

/// Whom to call and with what.
#[derive(Args, Clone, Debug)]
pub struct Call {
    /// What to speak
    #[arg(long, value_enum, default_value = "http1")]
    pub protocol: Protocol,
    /// Where to connect to
    #[arg(long, value_name = "IP:PORT")]
    pub target: SocketAddr,
    /// Host header or :authority
    #[arg(long, value_name = "NAME", default_value = "web.shop")]
    pub authority: String,
    /// Path of the calls [default: / for HTTP, /shop.Echo/Call for gRPC]
    #[arg(long, value_name = "PATH")]
    pub path: Option<String>,
    /// Bytes of body to POST, or of each gRPC message; 0 is GET [default: 0 for HTTP, 1024 for gRPC]
    #[arg(long, value_name = "SIZE", value_parser = size)]
    pub body: Option<u64>,
    /// A header to add to each call; may be repeated
    #[arg(long, value_name = "NAME: VALUE", value_parser = header)]
    pub header: Vec<(String, String)>,
    /// The status each answer must have
    #[arg(long, value_name = "CODE", default_value = "200")]
    pub expect_status: u16,
    /// The length each answer's body must have, or `any` [default: what `weft-load serve` answers: 1024 to GET, N to GET /bytes/N, the
    /// same to POST]
    #[arg(long, value_name = "SIZE|any", value_parser = length)]
    pub expect_length: Option<Length>,
    /// How long one call, or one connection attempt, may take; an error `timeout` after that
    #[arg(long, value_name = "SPAN", default_value = "10s", value_parser = span)]
    pub timeout: Duration,
    /// Port range and addresses are exhausted quickly by churn from one address: use this many source addresses, from 127.0.0.2 up
    /// (0: let the kernel choose)
    #[arg(long, value_name = "N", default_value = "0", value_parser = clap::value_parser!(u8).range(0..=250))]
    pub sources: u8,
}

/// How many connections and calls at a time.
#[derive(Args, Clone, Debug)]
pub struct Width {
    /// Connections
    #[arg(long, value_name = "N", default_value = "64", value_parser = clap::value_parser!(u32).range(1..=20_000))]
    pub connections: u32,
    /// Concurrent calls on each connection (HTTP/1.1: always 1)
    #[arg(long, value_name = "N", default_value = "1", value_parser = clap::value_parser!(u32).range(1..=1_000))]
    pub streams: u32,
}

/// `weft-load serve`
#[derive(Args, Debug)]
pub struct Serve {
    /// HTTP/1.1 with keep-alive: GET any path → 1024 bytes; GET /bytes/N → N bytes; GET /status/CODE → that status; POST → its body back
    #[arg(long, value_name = "IP:PORT")]
    pub http1: Option<SocketAddr>,
    /// HTTP/2 with prior knowledge: the same, and gRPC: each message of a POST of application/grpc back as it comes, then grpc-status 0
    #[arg(long, value_name = "IP:PORT")]
    pub http2: Option<SocketAddr>,
    /// TCP exchanges: the client sends 16 bytes (u64 BE down, u64 BE up); DOWN bytes are sent while UP bytes are read, then one byte `k`;
    /// then the next exchange, until the client closes
    #[arg(long, value_name = "IP:PORT")]
    pub tcp: Option<SocketAddr>,
    /// TCP: every byte back
    #[arg(long, value_name = "IP:PORT")]
    pub echo: Option<SocketAddr>,
    /// Mutual TLS 1.3 with --cert, --key and --roots; ALPN h2: HTTP/2 CONNECT → 200 and every byte back; http/1.1: as --http1;
    /// otherwise: as --tcp
    #[arg(long, value_name = "IP:PORT", requires_all = ["cert", "key", "roots"])]
    pub tls: Option<SocketAddr>,
    /// Page of counts: GET / → JSON
    #[arg(long, value_name = "IP:PORT")]
    pub status: Option<SocketAddr>,
    /// Certificate chain of --tls, PEM
    #[arg(long, value_name = "FILE")]
    pub cert: Option<PathBuf>,
    /// Private key of --tls, PEM
    #[arg(long, value_name = "FILE")]
    pub key: Option<PathBuf>,
    /// Roots that clients of --tls must be signed by, PEM
    #[arg(long, value_name = "FILE")]
    pub roots: Option<PathBuf>,
    /// End by itself after this long
    #[arg(long, value_name = "SPAN", default_value = "2h", value_parser = span)]
    pub lifetime: Duration,
    /// End when stdin closes
    #[arg(long)]
    pub until_stdin_closes: bool,
}

/// `weft-load closed`
#[derive(Args, Debug)]
pub struct Closed {
    #[command(flatten)]
    pub call: Call,
    #[command(flatten)]
    pub width: Width,
    /// How long to measure
    #[arg(long, value_name = "SPAN", default_value = "3s", value_parser = span)]
    pub duration: Duration,
    /// Calls before the measurement begins: this long, not counted in `requests` and `latencyUs`
    #[arg(long, value_name = "SPAN", default_value = "0s", value_parser = span)]
    pub warmup: Duration,
    /// End after this many measured calls, if that is sooner
    #[arg(long, value_name = "N")]
    pub requests: Option<u64>,
    /// A new connection for each call
    #[arg(long)]
    pub churn: bool,
    /// Who closes a churned connection
    #[arg(long, value_enum, default_value = "client")]
    pub close: Close,
}

/// `weft-load open`
#[derive(Args, Debug)]
pub struct Open {
    #[command(flatten)]
    pub call: Call,
    #[command(flatten)]
    pub width: Width,
    /// Calls a second
    #[arg(long, value_name = "R", value_parser = rate)]
    pub rate: f64,
    /// How long the measured part of the schedule is
    #[arg(long, value_name = "SPAN", default_value = "3s", value_parser = span)]
    pub duration: Duration,
    /// Part of the schedule that comes before and is not measured
    #[arg(long, value_name = "SPAN", default_value = "0s", value_parser = span)]
    pub warmup: Duration,
    /// Exponential gaps instead of constant ones
    #[arg(long)]
    pub poisson: bool,
    /// Seed of the gaps
    #[arg(long, value_name = "N", default_value = "1")]
    pub seed: u64,
    /// A new connection for each call
    #[arg(long)]
    pub churn: bool,
    /// Who closes a churned connection
    #[arg(long, value_enum, default_value = "client")]
    pub close: Close,
}

/// `weft-load tcp`
#[derive(Args, Debug)]
pub struct Tcp {
    /// Where to connect to
    #[arg(long, value_name = "IP:PORT")]
    pub target: SocketAddr,
    /// Connections
    #[arg(long, value_name = "N", default_value = "1", value_parser = clap::value_parser!(u32).range(1..=20_000))]
    pub connections: u32,
    /// Bytes the server sends in each exchange
    #[arg(long, value_name = "SIZE", default_value = "0", value_parser = size)]
    pub down: u64,
    /// Bytes the client sends in each exchange, at the same time
    #[arg(long, value_name = "SIZE", default_value = "0", value_parser = size)]
    pub up: u64,
    /// Exchanges on each connection, one after another [default: 1, or without end when --duration is given]
    #[arg(long, value_name = "N")]
    pub rounds: Option<u64>,
    /// Begin no exchange after this long
    #[arg(long, value_name = "SPAN", value_parser = span)]
    pub duration: Option<Duration>,
    /// Exchanges before the measurement begins: this long, not counted; only with --duration
    #[arg(long, value_name = "SPAN", default_value = "0s", value_parser = span)]
    pub warmup: Duration,
    /// A new connection for each exchange
    #[arg(long)]
    pub churn: bool,
    /// How long one exchange may take
    #[arg(long, value_name = "SPAN", default_value = "60s", value_parser = span)]
    pub timeout: Duration,
    /// As in `closed`
    #[arg(long, value_name = "N", default_value = "0", value_parser = clap::value_parser!(u8).range(0..=250))]
    pub sources: u8,
}

/// `weft-load idle`
#[derive(Args, Debug)]
pub struct Idle {
    #[command(flatten)]
    pub call: Call,
    /// Connections to hold
    #[arg(long, value_name = "N", default_value = "1000", value_parser = clap::value_parser!(u32).range(1..=20_000))]
    pub connections: u32,
    /// Let go after this long even if stdin stays open
    #[arg(long, value_name = "SPAN", default_value = "10m", value_parser = span)]
    pub hold: Duration,
}

/// `weft-load fairness`
#[derive(Args, Debug)]
pub struct Fairness {
    #[command(flatten)]
    pub call: Call,
    /// Streams of the one HTTP/2 connection that the small calls share (HTTP/1.1: connections); in phases `stalled` and `slow` one of
    /// them is the bad receiver
    #[arg(long, value_name = "N", default_value = "64", value_parser = clap::value_parser!(u32).range(2..=1_000))]
    pub streams: u32,
    /// Small calls a second, open loop; 0: closed loop on all streams
    #[arg(long, value_name = "R", default_value = "500", value_parser = rate_or_zero)]
    pub rate: f64,
    /// How long each phase lasts in each cycle
    #[arg(long, value_name = "SPAN", default_value = "2s", value_parser = span)]
    pub phase: Duration,
    /// Cycles of alone, stalled, slow, bulk
    #[arg(long, value_name = "N", default_value = "5", value_parser = clap::value_parser!(u32).range(1..=100))]
    pub cycles: u32,
    /// Phases to leave out
    #[arg(long, value_name = "PHASE", value_enum)]
    pub without: Vec<Phase>,
    /// Body of the stalled and slow streams and of each bulk download
    #[arg(long, value_name = "SIZE", default_value = "64m", value_parser = size)]
    pub bulk_body: u64,
    /// Where bulk is downloaded from: an HTTP address of the same protocol as --protocol (gRPC: HTTP/2) [default: --target]
    #[arg(long, value_name = "IP:PORT")]
    pub bulk_target: Option<SocketAddr>,
    /// Downloads at a time in phase `bulk`
    #[arg(long, value_name = "N", default_value = "4", value_parser = clap::value_parser!(u32).range(1..=256))]
    pub bulk: u32,
    /// Connections of the downloads beside the small calls' own; 0: streams of the same connection (HTTP/2)
    #[arg(long, value_name = "N", default_value = "1", value_parser = clap::value_parser!(u32).range(0..=256))]
    pub bulk_connections: u32,
    /// Bytes a second that the downloads take together; 0: as fast as they come
    #[arg(long, value_name = "SIZE", default_value = "0", value_parser = size)]
    pub bulk_rate: u64,
    /// Bytes a second that the slow reader takes
    #[arg(long, value_name = "SIZE", default_value = "64k", value_parser = size)]
    pub slow_rate: u64,
}

/// Phases of `fairness` that can be left out.
#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// One stream asked for a large body and never reads it
    Stalled,
    /// One stream reads a large body slowly
    Slow,
    /// Bulk downloads beside the calls
    Bulk,
}

/// `weft-load soak`
#[derive(Args, Debug)]
pub struct Soak {
    /// HTTP/1.1 target
    #[arg(long, value_name = "IP:PORT")]
    pub http1: Option<SocketAddr>,
    /// HTTP/2 target (calls and gRPC)
    #[arg(long, value_name = "IP:PORT")]
    pub http2: Option<SocketAddr>,
    /// gRPC target [default: --http2]
    #[arg(long, value_name = "IP:PORT")]
    pub grpc: Option<SocketAddr>,
    /// Target of TCP exchanges
    #[arg(long, value_name = "IP:PORT")]
    pub tcp: Option<SocketAddr>,
    /// Host header or :authority
    #[arg(long, value_name = "NAME", default_value = "web.shop")]
    pub authority: String,
    /// How long
    #[arg(long, value_name = "SPAN", default_value = "10s", value_parser = span)]
    pub duration: Duration,
    /// Seed of what is done when
    #[arg(long, value_name = "N", default_value = "1")]
    pub seed: u64,
    /// Workers, each doing one thing at a time
    #[arg(long, value_name = "N", default_value = "32", value_parser = clap::value_parser!(u32).range(1..=1_000))]
    pub workers: u32,
    /// Actions a second of all workers together; 0: as fast as they go
    #[arg(long, value_name = "R", default_value = "0", value_parser = rate_or_zero)]
    pub rate: f64,
    /// How long one action may take
    #[arg(long, value_name = "SPAN", default_value = "10s", value_parser = span)]
    pub timeout: Duration,
}

/// What to do after a handshake.
#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum After {
    /// Close properly and wait for the server to do so too, which shows that it accepted the client's certificate
    Close,
    /// Send 16 zero bytes, as `weft-load tcp` does, and read `k`
    Bytes,
    /// GET / over HTTP/1.1, answered with 200
    Request,
    /// HTTP/2 CONNECT to --authority, then send one byte on the stream and read it back
    Connect,
    /// HTTP/2 CONNECT to --authority, then an exchange of `weft-load tcp` without bytes
    ConnectBytes,
    /// HTTP/2 CONNECT to --authority, then GET / over HTTP/1.1
    ConnectRequest,
}

/// `weft-load handshake`
#[derive(Args, Debug)]
pub struct Handshake {
    /// Where to connect to
    #[arg(long, value_name = "IP:PORT")]
    pub target: SocketAddr,
    /// The client's certificate chain, PEM
    #[arg(long, value_name = "FILE")]
    pub cert: PathBuf,
    /// The client's private key, PEM
    #[arg(long, value_name = "FILE")]
    pub key: PathBuf,
    /// Roots that the server must be signed by, PEM
    #[arg(long, value_name = "FILE")]
    pub roots: PathBuf,
    /// Protocol to offer; may be repeated; the server must choose one of them if any is given
    #[arg(long, value_name = "NAME")]
    pub alpn: Vec<String>,
    /// Server name to send
    #[arg(long, value_name = "NAME")]
    pub sni: String,
    /// The URI name that the server's certificate must have (its SPIFFE ID)
    #[arg(long, value_name = "URI")]
    pub expect_identity: Option<String>,
    /// Only X25519, without the post-quantum hybrid
    #[arg(long)]
    pub classic: bool,
    /// Handshakes in all
    #[arg(long, value_name = "N", default_value = "1000", value_parser = clap::value_parser!(u64).range(1..=10_000_000))]
    pub connections_in_all: u64,
    /// Begin none after this long
    #[arg(long, value_name = "SPAN", default_value = "60s", value_parser = span)]
    pub duration: Duration,
    /// Handshakes at a time
    #[arg(long, value_name = "N", default_value = "1", value_parser = clap::value_parser!(u32).range(1..=1_000))]
    pub concurrency: u32,
    /// What to do after each
    #[arg(long, value_enum, default_value = "close")]
    pub after: After,
    /// :authority of CONNECT
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:80")]
    pub authority: String,
    /// Host header of --after request and connect-request
    #[arg(long, value_name = "NAME", default_value = "web.shop")]
    pub host: String,
    /// How long one may take
    #[arg(long, value_name = "SPAN", default_value = "10s", value_parser = span)]
    pub timeout: Duration,
}

/// `weft-load first`
#[derive(Args, Debug)]
pub struct First {
    /// What to speak
    #[arg(long, value_enum, default_value = "http1")]
    pub protocol: Protocol,
    /// Where to connect to
    #[arg(long, value_name = "IP:PORT")]
    pub target: SocketAddr,
    /// Host header or :authority
    #[arg(long, value_name = "NAME", default_value = "web.shop")]
    pub authority: String,
    /// Path
    #[arg(long, value_name = "PATH", default_value = "/")]
    pub path: String,
    /// The status to wait for
    #[arg(long, value_name = "CODE", default_value = "200")]
    pub until: u16,
    /// Give up after this long
    #[arg(long, value_name = "SPAN", default_value = "30s", value_parser = span)]
    pub deadline: Duration,
    /// How long one attempt may take
    #[arg(long, value_name = "SPAN", default_value = "5s", value_parser = span)]
    pub timeout: Duration,
    /// Pause between attempts
    #[arg(long, value_name = "SPAN", default_value = "200us", value_parser = span)]
    pub interval: Duration,
    /// Nanoseconds since the Unix epoch from which to count [default: when this program started]
    #[arg(long, value_name = "NS")]
    pub since: Option<u64>,
}

/// What an answer's body must measure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Length {
    /// Not checked.
    Any,
    /// Bytes.
    Exactly(u64),
}

fn length(text: &str) -> Result<Length, String> {
    if text == "any" { Ok(Length::Any) } else { size(text).map(Length::Exactly) }
}

/// `250us`, `500ms`, `3s`, `2m`, `1h`; at most a day.
fn span(text: &str) -> Result<Duration, String> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let micros = match &text[digits..] {
        "us" => 1,
        "ms" => 1_000,
        "s" => 1_000_000,
        "m" => 60_000_000,
        "h" => 3_600_000_000,
        _ => return Err("want a number and us, ms, s, m or h".to_owned()),
    };
    let number: u64 = text[..digits].parse().map_err(|_| "want a whole number before the unit".to_owned())?;
    let span = number.checked_mul(micros).ok_or_else(|| "too long".to_owned())?;
    if span > 86_400_000_000 { Err("at most 24h".to_owned()) } else { Ok(Duration::from_micros(span)) }
}

/// `1024`, `64k`, `8m`, `1g`; at most 1 TiB.
fn size(text: &str) -> Result<u64, String> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let unit: u64 = match &text[digits..] {
        "" => 1,
        "k" => 1 << 10,
        "m" => 1 << 20,
        "g" => 1 << 30,
        _ => return Err("want a number, with or without k, m or g".to_owned()),
    };
    let number: u64 = text[..digits].parse().map_err(|_| "want a whole number".to_owned())?;
    match number.checked_mul(unit) {
        Some(size) if size <= 1 << 40 => Ok(size),
        _ => Err("at most 1 TiB".to_owned()),
    }
}

fn rate_or_zero(text: &str) -> Result<f64, String> {
    let rate: f64 = text.parse().map_err(|_| "want a number".to_owned())?;
    if (0.0..=1_000_000.0).contains(&rate) { Ok(rate) } else { Err("from 0 to 1000000".to_owned()) }
}

fn rate(text: &str) -> Result<f64, String> {
    let rate = rate_or_zero(text)?;
    if rate >= 0.1 { Ok(rate) } else { Err("at least 0.1".to_owned()) }
}

fn header(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once(':').ok_or_else(|| "want NAME: VALUE".to_owned())?;
    let (name, value) = (name.trim().to_ascii_lowercase(), value.trim().to_owned());
    http::HeaderName::from_bytes(name.as_bytes()).map_err(|e| e.to_string())?;
    http::HeaderValue::from_str(&value).map_err(|e| e.to_string())?;
    Ok((name, value))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_well_formed() {
        Flags::command().debug_assert();
    }

    #[test]
    fn spans_and_sizes_read_as_written() {
        assert_eq!(span("250us"), Ok(Duration::from_micros(250)));
        assert_eq!(span("2m"), Ok(Duration::from_secs(120)));
        assert!(span("3").is_err() && span("s").is_err() && span("1d").is_err() && span("25h").is_err());
        assert_eq!((size("1024"), size("64k"), size("1g")), (Ok(1024), Ok(65_536), Ok(1 << 30)));
        assert!(size("k").is_err() && size("2048g").is_err() && size("99999999999999999999").is_err());
        assert_eq!((length("any"), length("7")), (Ok(Length::Any), Ok(Length::Exactly(7))));
    }
}
