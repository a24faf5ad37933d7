//! The access log: one line of JSON for every call and every TCP connection, written off the request path.
//!
//! A worker formats its line straight into a bounded buffer (a short lock, no allocation of its own) and goes on; one thread empties
//! the buffer into a file or standard output. What does not fit is dropped and counted: a slow disk costs lines, never calls.
//! Bodies, `Authorization` and cookies never get here.

use super::metrics::Counter;
use super::redact;
use parking_lot::{Condvar, Mutex};
use std::fmt::Write as _;
use std::io::Write as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use weft_policy::text::Decimal;

/// Bytes that may wait to be written.
const BUFFER: usize = 1 << 20;
/// How long a line may wait for company: one write a batch instead of one a line.
const GATHER: Duration = Duration::from_millis(20);
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
    /// SPIFFE id of the endpoint.
    pub destination_identity: &'a str,
    /// Request method.
    pub method: &'a str,
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

    /// Appends `source - - [10/Oct/2000:13:55:36 +0000] "GET /path" 200 2326 "-" "-"`.
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
        let _ = writeln!(out, "\" {} {} \"-\" \"-\"", self.status.unwrap_or_default(), self.bytes_sent);
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
struct Clock {
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

#[derive(Default)]
struct Waiting {
    lines: Vec<u8>,
    clock: Clock,
    closed: bool,
}

#[derive(Default)]
struct Shared {
    waiting: Mutex<Waiting>,
    ready: Condvar,
}

/// The log of one process. Dropping it writes what waits.
pub struct AccessLog {
    shared: Option<Arc<Shared>>,
    layout: Layout,
    errors_only: bool,
    sample: f64,
    turn: AtomicU64,
    dropped: Counter,
    writer: Option<std::thread::JoinHandle<()>>,
}

impl std::fmt::Debug for AccessLog {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "AccessLog({:?}, on: {})", self.layout, self.shared.is_some())
    }
}

impl AccessLog {
    /// Opens the output and starts its writer. `dropped` counts lines that found the buffer full or the disk failing.
    ///
    /// # Errors
    /// When the file cannot be opened for appending, or the thread cannot start.
    pub fn open(options: &Options, dropped: Counter) -> std::io::Result<Self> {
        let sink: Option<Box<dyn std::io::Write + Send>> = match &options.output {
            Output::Off => None,
            Output::Stdout => Some(Box::new(std::io::stdout())),
            Output::Stderr => Some(Box::new(std::io::stderr())),
            Output::File(path) => Some(Box::new(std::fs::OpenOptions::new().create(true).append(true).open(path)?)),
        };
        let shared = sink.is_some().then(|| Arc::new(Shared::default()));
        let mut log = Self::over(shared, options, dropped);
        if let (Some(sink), Some(shared)) = (sink, &log.shared) {
            let (shared, dropped) = (Arc::clone(shared), log.dropped.clone());
            let thread = std::thread::Builder::new().name("access-log".to_owned()).stack_size(64 << 10);
            log.writer = Some(thread.spawn(move || write_out(&shared, sink, &dropped))?);
        }
        Ok(log)
    }

    fn over(shared: Option<Arc<Shared>>, options: &Options, dropped: Counter) -> Self {
        let Options { layout, errors_only, sample, .. } = *options;
        Self { shared, layout, errors_only, sample, turn: AtomicU64::new(0), dropped, writer: None }
    }

    /// Whether anything would be written: lets the caller skip gathering what only a line needs.
    #[must_use]
    pub fn is_on(&self) -> bool {
        self.shared.is_some()
    }

    /// Writes a line, or counts that it could not.
    pub fn write(&self, record: &Record<'_>) {
        let Some(shared) = &self.shared else { return };
        if !record.failed() && (self.errors_only || !self.sampled()) {
            return;
        }
        let now = SystemTime::now();
        let mut waiting = shared.waiting.lock();
        if waiting.lines.len() >= BUFFER {
            drop(waiting);
            self.dropped.increment();
            return;
        }
        let was_empty = waiting.lines.is_empty();
        let Waiting { lines, clock, .. } = &mut *waiting;
        match self.layout {
            Layout::Json => record.write(lines, now, clock),
            Layout::Apache => record.write_apache(lines, now),
        }
        drop(waiting);
        if was_empty {
            shared.ready.notify_one();
        }
    }

    /// Evenly spaced, without randomness: the n-th call is written when n × share passes a whole number.
    #[expect(clippy::cast_precision_loss, reason = "2^53 calls later the spacing is no longer even")]
    fn sampled(&self) -> bool {
        if self.sample >= 1.0 {
            return true;
        }
        let turn = self.turn.fetch_add(1, Relaxed) as f64;
        ((turn + 1.0) * self.sample).floor() > (turn * self.sample).floor()
    }
}

impl Drop for AccessLog {
    fn drop(&mut self) {
        if let Some(shared) = &self.shared {
            shared.waiting.lock().closed = true;
            shared.ready.notify_one();
        }
        if let Some(writer) = self.writer.take() {
            let _ = writer.join();
        }
    }
}

fn write_out(shared: &Shared, mut sink: Box<dyn std::io::Write + Send>, dropped: &Counter) {
    let mut batch = Vec::new();
    loop {
        let mut waiting = shared.waiting.lock();
        while waiting.lines.is_empty() && !waiting.closed {
            shared.ready.wait(&mut waiting);
        }
        if !waiting.closed {
            // Let a burst gather; a close cuts the wait short.
            shared.ready.wait_for(&mut waiting, GATHER);
        }
        std::mem::swap(&mut batch, &mut waiting.lines);
        let closed = waiting.closed;
        drop(waiting);
        if sink.write_all(&batch).and_then(|()| sink.flush()).is_err() {
            dropped.add(memchr::memchr_iter(b'\n', &batch).count() as u64);
        }
        batch.clear();
        if batch.capacity() > BUFFER / 4 {
            batch = Vec::new();
        }
        if closed {
            return;
        }
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
        let shared = Arc::new(Shared::default());
        let options = Options { sample: 0.1, layout: Layout::Apache, ..Options::all(Output::Stdout) };
        let log = AccessLog::over(Some(Arc::clone(&shared)), &options, Counter::default());
        for i in 0..100 {
            let status = if i == 5 { 503 } else { 200 };
            log.write(&Record { method: "GET", path: b"/a", status: Some(status), ..Record::default() });
        }
        let lines = String::from_utf8(shared.waiting.lock().lines.clone()).unwrap();
        assert!((10..=11).contains(&lines.lines().count()), "{lines}");
        assert!(lines.contains("\"GET /a\" 503 0 \"-\" \"-\"\n"), "{lines}");
    }

    #[test]
    fn what_finds_the_buffer_full_is_dropped_and_counted() {
        let (dropped, shared) = (Counter::default(), Arc::new(Shared::default()));
        let log = AccessLog::over(Some(shared), &Options::all(Output::Stdout), dropped.clone());
        let path = "x".repeat(FIELD);
        for _ in 0..600 {
            log.write(&Record { path: path.as_bytes(), ..Record::default() });
        }
        assert!(dropped.value() > 0 && dropped.value() < 200, "{}", dropped.value());
    }
}
