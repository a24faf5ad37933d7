//! The access log: one line for every call and every TCP connection, as JSON or as Apache writes it; which calls, the mesh's settings may
//! change while it is written.
//!
//! A worker formats its line straight into the bounded buffer of `sink` (a short lock, no allocation of its own) and goes on. What does not
//! fit is dropped and counted: a slow disk costs lines, never calls.
//! Bodies, `Authorization` and cookies never get here.

use super::metrics::Counter;
use super::redact;
use super::sink::Sink;
use parking_lot::Mutex;
use std::fmt::Write as _;
use std::io::Write as _;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use weft_policy::config::{self, LogLayout, LoggedCalls};
use weft_policy::text::Decimal;

/// Longest text of one field; peers choose paths and authorities.
const FIELD: usize = 2048;

/// Where lines go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// Nowhere, at no cost.
    Off,
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
    /// Appended to a file.
    File(PathBuf),
}

/// Layout of a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Layout {
    /// One JSON object.
    #[default]
    Json,
    /// Apache's combined log, with the caller's identity in place of its address.
    Apache,
}

/// What the log is told at its start.
#[derive(Debug, Clone, PartialEq)]
pub struct Options {
    /// Where lines go.
    pub output: Output,
    /// How they look.
    pub layout: Layout,
    /// Only calls with a reason, a status from 500 or a failing gRPC status.
    pub errors_only: bool,
    /// Share of the other calls to write, 0 to 1.
    pub sample: f64,
}

impl Options {
    /// A line for each call, as JSON.
    #[must_use]
    pub const fn all(output: Output) -> Self {
        Self { output, layout: Layout::Json, errors_only: false, sample: 1.0 }
    }
}

/// What one line says. Empty texts and `None` are left out.
#[derive(Debug, Clone, Default)]
pub struct Record<'a> {
    /// `call` or `tcp`.
    pub kind: &'static str,
    /// `inbound` or `outbound`.
    pub direction: &'static str,
    /// [`Record::rendered_setting`] of a line with the same fields, made once for all of them; empty: rendered now.
    pub setting: &'a [u8],
    /// W3C trace id.
    pub trace_id: &'a [u8],
    /// `x-request-id`.
    pub request_id: &'a [u8],
    /// "namespace/name" of the caller.
    pub source: &'a str,
    /// "namespace/name" of the service.
    pub destination: &'a str,
    /// Workload uid of the endpoint of the last attempt.
    pub endpoint: &'a str,
    /// SPIFFE id of the caller.
    pub source_identity: &'a str,
    /// Address that a call to the application came from.
    pub source_address: Option<IpAddr>,
    /// SPIFFE id of the endpoint.
    pub destination_identity: &'a str,
    /// Request method.
    pub method: &'a str,
    /// `HTTP/1.1`, of a call.
    pub version: &'static str,
    /// Authority as the caller wrote it.
    pub authority: &'a [u8],
    /// Path and query.
    pub path: &'a [u8],
    /// `http1`, `http2`, `grpc`, `tcp`.
    pub protocol: &'static str,
    /// Whether the hop was mutually authenticated.
    pub mtls: bool,
    /// Route and rule that decided.
    pub route: &'a str,
    /// Attempts made.
    pub attempts: u32,
    /// Status that the caller saw.
    pub status: Option<u16>,
    /// gRPC status that the caller saw.
    pub grpc_status: Option<u16>,
    /// Bytes from the caller.
    pub bytes_received: u64,
    /// Bytes to the caller.
    pub bytes_sent: u64,
    /// From the first byte of the request to the last of the response.
    pub duration: Duration,
    /// "namespace/name" of the policy that let it in or kept it out.
    pub policy: &'a str,
    /// The rule of that policy; of a token that was refused the reason.
    pub rule: &'a str,
    /// Why it ended the way it did; empty: as it should.
    pub reason: &'static str,
    /// The same for people.
    pub detail: &'a str,
}

impl Record<'_> {
    fn failed(&self) -> bool {
        !self.reason.is_empty() || self.status.is_some_and(|s| s >= 500) || self.grpc_status.is_some_and(|s| s != 0)
    }

    /// Appends Apache's combined log, and after it what Apache does not know: the destination, how long it took in microseconds, and why it
    /// ended as it did: `source - - [10/Oct/2000:13:55:36 +0000] "GET /path HTTP/1.1" 200 2326 "-" "-" shop/catalog 5120 -`.
    fn write_apache(&self, out: &mut Vec<u8>, at: SystemTime) {
        let or_dash = |out: &mut Vec<u8>, text: &[u8]| escape(out, if text.is_empty() { b"-" } else { text });
        let (year, month, day, [h, m, s, _]) = civil(at);
        let month = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"]
            [usize::try_from(month).unwrap_or(1).clamp(1, 12) - 1];
        let who = if self.source_identity.is_empty() { self.source } else { self.source_identity };
        or_dash(out, who.as_bytes());
        let _ = write!(out, " - - [{day:02}/{month}/{year:04}:{h:02}:{m:02}:{s:02} +0000] \"");
        or_dash(out, self.method.as_bytes());
        out.push(b' ');
        or_dash(out, &redact::target(self.path));
        let version = if self.version.is_empty() { "-" } else { self.version };
        let status = self.status.unwrap_or_default();
        let _ = write!(out, " {version}\" {status:03} {} \"-\" \"-\" ", self.bytes_sent);
        or_dash(out, self.destination.as_bytes());
        let _ = write!(out, " {} ", self.duration.as_micros());
        or_dash(out, self.reason.as_bytes());
        out.push(b'\n');
    }

    /// Appends the line, newline included. Written for every call: no formatting machinery, one pass.
    fn write(&self, out: &mut Vec<u8>, at: SystemTime, clock: &mut Clock) {
        // Names, quotes and numbers of a line without surprises.
        out.reserve(512 + self.path.len() + self.detail.len());
        out.extend_from_slice(b"{\"time\":\"");
        clock.write(out, at);
        out.push(b'"');
        if self.setting.is_empty() {
            self.write_setting(out);
        } else {
            out.extend_from_slice(self.setting);
        }
        text(out, b",\"endpoint\":\"", self.endpoint.as_bytes());
        text(out, b",\"traceId\":\"", self.trace_id);
        text(out, b",\"requestId\":\"", self.request_id);
        text(out, b",\"sourceIdentity\":\"", self.source_identity.as_bytes());
        if let Some(address) = self.source_address {
            let _ = write!(out, ",\"sourceAddress\":\"{}\"", address.to_canonical());
        }
        text(out, b",\"destinationIdentity\":\"", self.destination_identity.as_bytes());
        text(out, b",\"method\":\"", self.method.as_bytes());
        text(out, b",\"authority\":\"", self.authority);
        text(out, b",\"path\":\"", &redact::target(self.path));
        if self.kind != "tcp" || self.attempts > 1 {
            number(out, b",\"attempts\":", self.attempts.into());
        }
        if let Some(status) = self.status {
            number(out, b",\"status\":", status.into());
        }
        if let Some(status) = self.grpc_status {
            number(out, b",\"grpcStatus\":", status.into());
        }
        number(out, b",\"bytesReceived\":", self.bytes_received);
        number(out, b",\"bytesSent\":", self.bytes_sent);
        number(out, b",\"durationUs\":", u64::try_from(self.duration.as_micros()).unwrap_or(u64::MAX));
        text(out, b",\"policy\":\"", self.policy.as_bytes());
        text(out, b",\"rule\":\"", self.rule.as_bytes());
        text(out, b",\"reason\":\"", self.reason.as_bytes());
        text(out, b",\"detail\":\"", self.detail.as_bytes());
        out.extend_from_slice(b"}\n");
    }

    /// Appends what the lines of one series share.
    fn write_setting(&self, out: &mut Vec<u8>) {
        text(out, b",\"kind\":\"", self.kind.as_bytes());
        text(out, b",\"direction\":\"", self.direction.as_bytes());
        text(out, b",\"source\":\"", self.source.as_bytes());
        text(out, b",\"destination\":\"", self.destination.as_bytes());
        text(out, b",\"protocol\":\"", self.protocol.as_bytes());
        text(out, b",\"route\":\"", self.route.as_bytes());
        out.extend_from_slice(if self.mtls { b",\"mtls\":true" } else { b",\"mtls\":false" });
    }

    /// What lines with the same kind, direction, source, destination, protocol, route and TLS have in common, for [`Record::setting`].
    #[must_use]
    pub fn rendered_setting(&self) -> Box<[u8]> {
        let mut out = Vec::new();
        self.write_setting(&mut out);
        out.into()
    }
}

/// The name (with its punctuation), the value with the escapes of JSON (RFC 8259, section 7) and a quote; or nothing for an empty value.
#[inline]
fn text<const N: usize>(out: &mut Vec<u8>, name: &[u8; N], value: &[u8]) {
    if !value.is_empty() {
        out.extend_from_slice(name);
        escape(out, value);
        out.push(b'"');
    }
}

/// The name (with its punctuation) and the number.
#[inline]
fn number<const N: usize>(out: &mut Vec<u8>, name: &[u8; N], value: u64) {
    out.extend_from_slice(name);
    if value < 10 {
        return out.push(b'0' + value as u8);
    }
    out.extend_from_slice(Decimal::of(value).as_bytes());
}

fn escape(out: &mut Vec<u8>, value: &[u8]) {
    if value.len() <= FIELD && are_plain(value) {
        return out.extend_from_slice(value);
    }
    escape_each(out, value);
}

/// What is not UTF-8 is shown as such: a line is always JSON.
#[cold]
fn escape_each(out: &mut Vec<u8>, value: &[u8]) {
    let text = String::from_utf8_lossy(value);
    let end = if text.len() > FIELD { text.floor_char_boundary(FIELD) } else { text.len() };
    for c in text[..end].chars() {
        match c {
            '"' => out.extend_from_slice(b"\\\""),
            '\\' => out.extend_from_slice(b"\\\\"),
            c if c < ' ' || c == '\u{7f}' => {
                let _ = write!(out, "\\u{:04x}", u32::from(c));
            }
            c => out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
        }
    }
    if end < text.len() {
        out.extend_from_slice("…".as_bytes());
    }
}

/// Do all bytes stand for themselves? The last ones are looked at twice rather than one by one.
fn are_plain(text: &[u8]) -> bool {
    let (Some(last), (chunks, _)) = (text.last_chunk::<16>(), text.as_chunks::<16>()) else {
        return match (text.first_chunk::<8>(), text.last_chunk::<8>()) {
            (Some(first), Some(last)) => all_plain(first) & all_plain(last),
            _ => text.iter().all(|byte| is_plain(*byte)),
        };
    };
    chunks.iter().all(all_plain) && all_plain(last)
}

/// Without leaving early: so that the compiler looks at all bytes at once.
#[inline]
fn all_plain<const N: usize>(bytes: &[u8; N]) -> bool {
    bytes.iter().fold(true, |plain, byte| plain & is_plain(*byte))
}

/// Stands for itself in JSON: ASCII, and not a quote, a backslash or a control character.
const fn is_plain(byte: u8) -> bool {
    (byte >= b' ') & (byte != b'"') & (byte != b'\\') & (byte < 0x7f)
}

/// RFC 3339 in UTC with milliseconds. The part down to the second is kept, since thousands of lines share it.
#[derive(Default)]
pub(super) struct Clock {
    second: u64,
    /// `2000-02-29T12:34:56.`; empty before the first line.
    text: String,
}

impl Clock {
    fn write(&mut self, out: &mut Vec<u8>, at: SystemTime) {
        let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
        if self.second != since.as_secs() || self.text.is_empty() {
            let (year, month, day, [h, m, s, _]) = civil(at);
            self.second = since.as_secs();
            self.text.clear();
            let _ = write!(self.text, "{year:04}-{month:02}-{day:02}T{h:02}:{m:02}:{s:02}.");
        }
        out.extend_from_slice(self.text.as_bytes());
        let milliseconds = since.subsec_millis();
        let digit = |place: u32| b'0' + (milliseconds / place % 10) as u8;
        out.extend_from_slice(&[digit(100), digit(10), digit(1), b'Z']);
    }
}

/// Year, month, day, and [hour, minute, second, millisecond]: Howard Hinnant's `civil_from_days`.
fn civil(at: SystemTime) -> (u64, u64, u64, [u64; 4]) {
    let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
    let secs = since.as_secs();
    let days = secs / 86_400 + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    (year, month, day, [secs / 3600 % 24, secs / 60 % 60, secs % 60, u64::from(since.subsec_millis())])
}

/// The log of one process. Dropping it writes what waits.
pub struct AccessLog {
    own: Options,
    /// [`OFF`], [`ERRORS`] or [`ALL`].
    calls: AtomicU8,
    apache: AtomicBool,
    /// Bits of the share of calls to write.
    sample: AtomicU64,
    turn: AtomicU64,
    dropped: Counter,
    /// Nothing before somebody wants lines.
    sink: OnceLock<Sink>,
    opening: Mutex<()>,
}

const OFF: u8 = 0;
const ERRORS: u8 = 1;
const ALL: u8 = 2;

impl std::fmt::Debug for AccessLog {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "AccessLog({:?}, on: {})", self.own.layout, self.is_on())
    }
}

impl AccessLog {
    /// Opens the output and starts its writer. `dropped` counts lines that found the buffer full or the disk failing.
    ///
    /// # Errors
    /// When the file cannot be opened for appending, or the thread cannot start.
    pub fn open(options: &Options, dropped: Counter) -> std::io::Result<Self> {
        let log = Self {
            own: options.clone(),
            calls: AtomicU8::new(OFF),
            apache: AtomicBool::new(false),
            sample: AtomicU64::new(0),
            turn: AtomicU64::new(0),
            dropped,
            sink: OnceLock::new(),
            opening: Mutex::default(),
        };
        log.follow(None)?;
        Ok(log)
    }

    /// From now on lines are written as the mesh says, or as this sidecar was told at its start. Where they go is the sidecar's: to standard
    /// output if it was told nothing.
    ///
    /// # Errors
    /// When lines are wanted for the first time, as [`AccessLog::open`].
    pub fn follow(&self, mesh: Option<&config::AccessLog>) -> std::io::Result<()> {
        let own = &self.own;
        let (calls, layout, sample) = match mesh {
            Some(config::AccessLog { calls, ratio, layout }) => {
                let calls = match calls {
                    LoggedCalls::All => ALL,
                    LoggedCalls::Errors => ERRORS,
                    LoggedCalls::None => OFF,
                };
                let layout = match layout {
                    LogLayout::Json => Layout::Json,
                    LogLayout::Apache => Layout::Apache,
                };
                (calls, layout, *ratio)
            }
            None if own.output == Output::Off => (OFF, own.layout, own.sample),
            None => (if own.errors_only { ERRORS } else { ALL }, own.layout, own.sample),
        };
        if calls != OFF {
            let _one = self.opening.lock();
            if self.sink.get().is_none() {
                let output = if own.output == Output::Off { &Output::Stdout } else { &own.output };
                let _ = self.sink.set(Sink::open(output, self.dropped.clone())?);
            }
        }
        self.apache.store(layout == Layout::Apache, Relaxed);
        self.sample.store(sample.to_bits(), Relaxed);
        self.calls.store(calls, Relaxed);
        Ok(())
    }

    /// Opens the file anew, as whoever moved it away expects.
    pub fn reopen(&self) {
        if let Some(sink) = self.sink.get() {
            sink.reopen();
        }
    }

    /// Whether anything would be written: lets the caller skip gathering what only a line needs.
    #[must_use]
    pub fn is_on(&self) -> bool {
        self.calls.load(Relaxed) != OFF
    }

    /// Writes a line, or counts that it could not.
    pub fn write(&self, record: &Record<'_>) {
        let calls = self.calls.load(Relaxed);
        let Some(sink) = self.sink.get().filter(|_| calls != OFF) else { return };
        if !record.failed() && (calls == ERRORS || !self.sampled()) {
            return;
        }
        let now = SystemTime::now();
        let apache = self.apache.load(Relaxed);
        let written = sink.write(|lines, clock| match apache {
            false => record.write(lines, now, clock),
            true => record.write_apache(lines, now),
        });
        if !written {
            self.dropped.increment();
        }
    }

    /// Evenly spaced, without randomness: the n-th call is written when n × share passes a whole number.
    #[expect(clippy::cast_precision_loss, reason = "2^53 calls later the spacing is no longer even")]
    fn sampled(&self) -> bool {
        let share = f64::from_bits(self.sample.load(Relaxed));
        if share >= 1.0 {
            return true;
        }
        let turn = self.turn.fetch_add(1, Relaxed) as f64;
        ((turn + 1.0) * share).floor() > (turn * share).floor()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(record: &Record<'_>, at: SystemTime) -> serde_json::Value {
        let mut out = Vec::new();
        record.write(&mut out, at, &mut Clock::default());
        let out = String::from_utf8(out).unwrap();
        assert!(out.ends_with("}\n") && out.lines().count() == 1);
        serde_json::from_str(&out).unwrap()
    }

    #[test]
    fn a_line_is_json_whatever_the_peer_put_into_it() {
        let record =
            Record { kind: "call", path: "/\"\\\u{1}\n\u{7f}ü".as_bytes(), status: Some(200), ..Record::default() };
        let value = line(&record, UNIX_EPOCH + Duration::from_millis(951_827_696_789));
        assert_eq!(value["path"], "/\"\\\u{1}\n\u{7f}ü");
        assert_eq!(value["time"], "2000-02-29T12:34:56.789Z");
        assert_eq!(value["status"], 200);
        assert!(value.get("grpcStatus").is_none() && value.get("reason").is_none());
    }

    #[test]
    fn every_byte_is_escaped_wherever_it_stands() {
        for length in 1..40 {
            for at in 0..length {
                for byte in [b'"', b'\\', 0, 0x1f, 0x7f, 0xff] {
                    let mut path = vec![b'a'; length];
                    path[at] = byte;
                    let value = line(&Record { kind: "call", path: &path, ..Record::default() }, UNIX_EPOCH);
                    assert_eq!(value["path"], &*String::from_utf8_lossy(&path));
                }
            }
        }
    }

    #[test]
    fn a_field_of_any_length_is_cut() {
        let path = "ü".repeat(5000);
        let value = line(&Record { path: path.as_bytes(), ..Record::default() }, SystemTime::now());
        assert!(value["path"].as_str().unwrap().len() <= FIELD + '…'.len_utf8());
    }

    #[test]
    fn every_line_is_in_the_file_once_the_log_is_closed_and_errors_only_means_that() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("access.log");
        let options = Options { errors_only: true, ..Options::all(Output::File(path.clone())) };
        let log = AccessLog::open(&options, Counter::default()).unwrap();
        for status in [200, 404, 503, 200, 500] {
            log.write(&Record { kind: "call", status: Some(status), ..Record::default() });
        }
        drop(log);
        let text = std::fs::read_to_string(path).unwrap();
        assert_eq!(text.lines().count(), 2, "{text}");
    }

    #[test]
    fn a_share_of_the_calls_is_evenly_spaced_and_errors_are_always_written() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("access.log");
        let options = Options { sample: 0.1, layout: Layout::Apache, ..Options::all(Output::File(path.clone())) };
        let log = AccessLog::open(&options, Counter::default()).unwrap();
        for i in 0..100 {
            let status = if i == 5 { 503 } else { 200 };
            log.write(&Record {
                method: "GET",
                path: b"/a",
                version: "HTTP/1.1",
                status: Some(status),
                ..Record::default()
            });
        }
        drop(log);
        let lines = std::fs::read_to_string(path).unwrap();
        assert!((10..=11).contains(&lines.lines().count()), "{lines}");
        assert!(lines.contains("\"GET /a HTTP/1.1\" 503 0 \"-\" \"-\" - 0 -\n"), "{lines}");
    }

    #[test]
    fn what_the_mesh_says_of_lines_goes_before_what_the_sidecar_was_told_until_it_says_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("access.log");
        let log = AccessLog::open(&Options::all(Output::File(path.clone())), Counter::default()).unwrap();
        let write = |path: &[u8], status| log.write(&Record { path, status: Some(status), ..Record::default() });
        let mesh = |calls, layout| config::AccessLog { calls, ratio: 1.0, layout };
        write(b"/own", 200);
        log.follow(Some(&mesh(LoggedCalls::Errors, LogLayout::Apache))).unwrap();
        write(b"/fine", 200);
        write(b"/failed", 503);
        log.follow(Some(&mesh(LoggedCalls::None, LogLayout::Json))).unwrap();
        assert!(!log.is_on());
        write(b"/silent", 503);
        log.follow(None).unwrap();
        write(b"/again", 200);
        drop(log);
        let text = std::fs::read_to_string(path).unwrap();
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines.len(), 3, "{text}");
        assert!(lines[0].contains("\"path\":\"/own\"") && lines[2].contains("\"path\":\"/again\""), "{text}");
        assert!(lines[1].contains("/failed -\" 503 "), "{text}");
    }

    #[test]
    fn a_file_that_was_moved_away_is_opened_anew_and_no_line_is_lost() {
        let dir = tempfile::tempdir().unwrap();
        let (path, old) = (dir.path().join("access.log"), dir.path().join("access.log.1"));
        let log = AccessLog::open(&Options::all(Output::File(path.clone())), Counter::default()).unwrap();
        log.write(&Record { path: b"/before", ..Record::default() });
        std::fs::rename(&path, &old).unwrap();
        log.reopen();
        log.write(&Record { path: b"/after", ..Record::default() });
        drop(log);
        let (old, new) = (std::fs::read_to_string(old).unwrap(), std::fs::read_to_string(path).unwrap());
        assert_eq!(old.lines().count() + new.lines().count(), 2, "{old}{new}");
        assert!(new.contains("/after"), "{new}");
    }
}
