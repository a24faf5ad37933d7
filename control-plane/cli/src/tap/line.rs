//! One line for each call. The widths of a stream cannot be known beforehand: a column grows with what it has shown.

use serde_json::Value;
use std::fmt::Write as _;

/// Characters to which a column grows; what is longer pushes the rest of its own line alone.
const WIDEST: usize = 40;
/// Columns; the last is not padded.
const NARROW: [&str; 7] = ["TIME", "DIRECTION", "SOURCE", "DESTINATION", "STATUS", "DURATION", "REQUEST"];
const WIDE: [&str; 11] = [
    "TIME",
    "DIRECTION",
    "SOURCE",
    "DESTINATION",
    "ENDPOINT",
    "STATUS",
    "REASON",
    "DURATION",
    "MTLS",
    "BYTES",
    "REQUEST",
];

/// Prints lines.
pub(super) struct Printer {
    is_wide: bool,
    widths: Vec<usize>,
}

impl Printer {
    pub fn new(is_wide: bool) -> Self {
        let columns: &[&str] = if is_wide { &WIDE } else { &NARROW };
        let usual = |name: &&str| match *name {
            "TIME" => 12,
            "SOURCE" | "DESTINATION" => 16,
            name => name.len(),
        };
        Self { is_wide, widths: columns.iter().map(usual).collect() }
    }

    pub fn header(&mut self) -> String {
        let columns: &[&str] = if self.is_wide { &WIDE } else { &NARROW };
        let cells: Vec<String> = columns.iter().map(|name| (*name).to_owned()).collect();
        self.row(&cells)
    }

    pub fn line(&mut self, call: &Value) -> String {
        let text = |name: &str| call[name].as_str().unwrap_or("-").to_owned();
        let time = call["time"].as_str().and_then(|time| time.get(11..23)).unwrap_or("-").to_owned();
        let request = match (call["method"].as_str(), call["path"].as_str()) {
            (Some(method), Some(path)) => format!("{method} {path}"),
            _ => call["protocol"].as_str().unwrap_or("-").to_uppercase(),
        };
        let retries = call["retries"].as_u64().filter(|retries| *retries > 0);
        let request = match retries {
            None => request,
            Some(1) => format!("{request} (1 retry)"),
            Some(retries) => format!("{request} ({retries} retries)"),
        };
        let cells = match self.is_wide {
            false => vec![
                time,
                text("direction"),
                text("source"),
                text("destination"),
                status(call),
                duration(&call["durationMs"]),
                reasoned(request, call),
            ],
            true => vec![
                time,
                text("direction"),
                text("source"),
                text("destination"),
                text("endpoint"),
                status(call),
                text("reason"),
                duration(&call["durationMs"]),
                if call["mtls"] == true { "yes" } else { "no" }.to_owned(),
                format!("{}/{}", bytes(&call["bytesReceived"]), bytes(&call["bytesSent"])),
                request,
            ],
        };
        // What a caller wrote may hold whatever a terminal obeys.
        let cells: Vec<String> = cells.into_iter().map(|cell| cell.replace(char::is_control, "?")).collect();
        let mut out = self.row(&cells);
        if self.is_wide {
            out.push_str(&detail(call));
        }
        out
    }

    fn row(&mut self, cells: &[String]) -> String {
        let mut out = String::new();
        for (cell, width) in cells.iter().zip(&mut self.widths) {
            let length = cell.chars().count();
            *width = (*width).max(length.min(WIDEST));
            let gap = if out.is_empty() { "" } else { "  " };
            let _ = write!(out, "{gap}{cell}{}", " ".repeat(width.saturating_sub(length)));
        }
        out.truncate(out.trim_end().len());
        out.push('\n');
        out
    }
}

fn reasoned(request: String, call: &Value) -> String {
    match (
        call["reason"].as_str(),
        call["decision"]["policy"].as_str().filter(|_| call["decision"]["allowed"] == false),
    ) {
        (Some(reason), Some(policy)) => format!("{request}  [{reason}: {policy}]"),
        (Some(reason), None) => format!("{request}  [{reason}]"),
        (None, _) => request,
    }
}

/// Attempts, where there were several, and the decision.
fn detail(call: &Value) -> String {
    let mut out = String::new();
    let clean = |value: &Value| value.as_str().unwrap_or("-").replace(char::is_control, "?");
    let attempts = call["attempts"].as_array().map(Vec::as_slice).unwrap_or_default();
    for (nth, attempt) in attempts.iter().enumerate().filter(|_| attempts.len() > 1) {
        let ended = match attempt["reason"].as_str() {
            Some(reason) => reason.to_owned(),
            None => attempt["status"].as_u64().map_or("-".to_owned(), |status| status.to_string()),
        };
        let place = clean(&attempt["endpoint"]);
        let _ = writeln!(out, "    attempt {}  {place}  {ended}  {}", nth + 1, duration(&attempt["durationMs"]));
    }
    if let Some(policy) = call["decision"]["policy"].as_str() {
        let verdict = if call["decision"]["allowed"] == true { "allowed" } else { "DENIED" };
        let rule = call["decision"]["rule"].as_str().map(|rule| format!(" {rule}")).unwrap_or_default();
        let _ = writeln!(out, "    {verdict} by {policy}{rule}");
    }
    out
}

fn status(call: &Value) -> String {
    let number = |name: &str| call[name].as_u64();
    match (number("status"), number("grpcStatus")) {
        (Some(status), Some(grpc)) => format!("{status}/{grpc}"),
        (Some(status), None) => status.to_string(),
        (None, Some(grpc)) => format!("-/{grpc}"),
        (None, None) => "-".to_owned(),
    }
}

fn duration(millis: &Value) -> String {
    match millis.as_f64() {
        None => "-".to_owned(),
        Some(millis) if millis < 1.0 => format!("{:.0}µs", millis * 1000.0),
        Some(millis) if millis < 100.0 => format!("{millis:.1}ms"),
        Some(millis) if millis < 10_000.0 => format!("{millis:.0}ms"),
        Some(millis) => format!("{:.1}s", millis / 1000.0),
    }
}

fn bytes(count: &Value) -> String {
    match count.as_u64() {
        None => "-".to_owned(),
        Some(count @ ..10_240) => format!("{count}B"),
        Some(count @ ..10_485_760) => format!("{}KiB", count >> 10),
        Some(count) => format!("{}MiB", count >> 20),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn call() -> Value {
        json!({
            "time": "2026-11-21T23:04:17.123456Z", "direction": "inbound", "source": "shop/orders", "destination": "shop/payments",
            "endpoint": null, "protocol": "http1", "method": "POST", "path": "/charges\u{1b}[2J", "status": 403, "grpcStatus": null,
            "reason": "denied", "durationMs": 0.25, "retries": 1, "mtls": true, "bytesSent": 20, "bytesReceived": 30_000,
            "attempts": [
                {"endpoint": "shop/payments-1", "durationMs": 1000.0, "status": null, "reason": "try_timeout"},
                {"endpoint": "shop/payments-2", "durationMs": 2.0, "status": 200, "reason": null}],
            "decision": {"allowed": false, "policy": "shop/readers", "rule": "nobody"},
        })
    }

    #[test]
    fn a_line_has_its_units_and_obeys_nobody() {
        let mut printer = Printer::new(false);
        let header = printer.header();
        let line = printer.line(&call());
        assert_eq!(header, "TIME          DIRECTION  SOURCE            DESTINATION       STATUS  DURATION  REQUEST\n");
        assert_eq!(
            line,
            "23:04:17.123  inbound    shop/orders       shop/payments     403     250µs     POST /charges?[2J (1 retry)  [denied: shop/readers]\n"
        );
    }

    #[test]
    fn a_wide_line_is_followed_by_attempts_and_the_decision() {
        let text = Printer::new(true).line(&call());
        let lines: Vec<_> = text.lines().collect();
        assert!(lines[0].contains("denied") && lines[0].contains("29KiB/20B"), "{text}");
        assert_eq!(lines[1], "    attempt 1  shop/payments-1  try_timeout  1000ms");
        assert_eq!(lines[2], "    attempt 2  shop/payments-2  200  2.0ms");
        assert_eq!(lines[3], "    DENIED by shop/readers nobody");
    }
}
