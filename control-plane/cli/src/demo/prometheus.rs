//! What sidecars count, read from their own `/metrics`: parsed, summed by service, and turned into golden signals.
//!
//! The demo judges by these counters because they outlive the control plane. Pure: text and values in, values out.

use crate::fleet::{Service, Stat};
use std::collections::BTreeMap;

/// Counters of one destination service, as all its callers count them.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Totals {
    /// Calls, after retries.
    pub calls: f64,
    /// Calls that failed for a reason that is not the caller's.
    pub failures: f64,
    /// Attempts after the first.
    pub retries: f64,
    /// Calls that went over a mutually authenticated hop.
    pub mutual: f64,
    /// Calls that were answered over a hop that was not.
    pub plaintext: f64,
    /// Calls that were sent to nobody.
    pub unsent: f64,
    /// Upper bound in seconds (as written) → calls at most that long, cumulative.
    pub buckets: BTreeMap<Bound, f64>,
}

/// Upper bound of a bucket in microseconds; the last is without bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Bound(pub u64);

/// Everything one scrape of all sidecars says.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Scrape {
    /// By destination, `namespace/name`.
    pub services: BTreeMap<String, Totals>,
    /// (who reports, endpoint) → 0 closed, 1 open, 2 half-open.
    pub breakers: BTreeMap<(String, String), (String, u8)>,
    /// Calls that a workload's own sidecar let in, by workload.
    pub served: BTreeMap<String, f64>,
}

impl Scrape {
    /// Adds what the sidecar of `workload` says.
    pub fn add(&mut self, workload: &str, text: &str) {
        for (name, labels, value) in text.lines().filter_map(sample) {
            let label = |key: &str| labels.iter().find(|(own, _)| *own == key).map_or("", |(_, value)| value.as_str());
            let outbound = label("direction") == "outbound";
            let destination = label("destination");
            match name {
                "weft_requests_total" if outbound && !destination.is_empty() => {
                    let totals = self.services.entry(destination.to_owned()).or_default();
                    totals.calls += value;
                    if is_failure(label("code"), label("grpc_code"), label("reason")) {
                        totals.failures += value;
                    }
                    match (label("tls"), label("reason")) {
                        ("mutual", _) => totals.mutual += value,
                        // What ended before it reached anybody went over no wire.
                        ("", _) => totals.unsent += value,
                        (_, "") => totals.plaintext += value,
                        _ => {}
                    }
                }
                "weft_requests_total" if label("direction") == "inbound" => {
                    *self.served.entry(workload.to_owned()).or_default() += value;
                    if label("tls") != "mutual" && label("reason").is_empty() && !destination.is_empty() {
                        self.services.entry(destination.to_owned()).or_default().plaintext += value;
                    }
                }
                "weft_retries_total" if !destination.is_empty() => {
                    self.services.entry(destination.to_owned()).or_default().retries += value;
                }
                "weft_request_duration_seconds_bucket" if outbound && !destination.is_empty() => {
                    if let Some(bound) = bound(label("le")) {
                        let totals = self.services.entry(destination.to_owned()).or_default();
                        *totals.buckets.entry(bound).or_default() += value;
                    }
                }
                "weft_breaker_state" => {
                    let state = if value >= 2.0 { 2 } else { u8::from(value >= 1.0) };
                    let key = (workload.to_owned(), label("endpoint").to_owned());
                    self.breakers.insert(key, (destination.to_owned(), state));
                }
                _ => {}
            }
        }
    }

    /// Golden signals between an earlier scrape and this one.
    pub fn since(&self, earlier: &Self, seconds: f64, services: &[String]) -> Stat {
        let rows = services.iter().map(|name| {
            let now = self.services.get(name).cloned().unwrap_or_default();
            let before = earlier.services.get(name).cloned().unwrap_or_default();
            // A sidecar that was started again counts from zero: what it lost is not negative.
            let delta = |part: fn(&Totals) -> f64| (part(&now) - part(&before)).max(0.0);
            let (calls, retries, failures) = (delta(|t| t.calls), delta(|t| t.retries), delta(|t| t.failures));
            let share = |part: f64, whole: f64| (whole > 0.0).then(|| (1.0 - part / whole).clamp(0.0, 1.0));
            let buckets: Vec<(u64, f64)> = now
                .buckets
                .iter()
                .map(|(bound, count)| (bound.0, (count - before.buckets.get(bound).unwrap_or(&0.0)).max(0.0)))
                .collect();
            // Endpoints as its callers hold them; several may hold the same one.
            let mut endpoints: BTreeMap<&str, bool> = BTreeMap::new();
            let held = self.breakers.iter().filter(|(_, (backend, _))| backend == name);
            for ((_, endpoint), (_, state)) in held {
                *endpoints.entry(endpoint).or_insert(true) &= *state == 0;
            }
            let count = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
            let closed = endpoints.values().filter(|closed| **closed).count();
            let unencrypted = delta(|t| t.plaintext);
            Service {
                service: name.clone(),
                rps: rounded(calls / seconds.max(0.001)),
                calls: whole(calls),
                failures: whole(failures),
                attempts: whole(calls + retries),
                retries: whole(retries),
                success: share(failures, calls),
                success_before_retries: share(failures + retries, calls + retries),
                p50_ms: quantile(&buckets, 0.5).map(rounded),
                p95_ms: quantile(&buckets, 0.95).map(rounded),
                p99_ms: quantile(&buckets, 0.99).map(rounded),
                mtls: share(unencrypted, delta(|t| t.mutual) + unencrypted),
                unsent: whole(delta(|t| t.unsent)),
                open_breakers: count(endpoints.len() - closed),
                ready_endpoints: Some(count(closed)),
                endpoints: Some(count(endpoints.len())),
            }
        });
        Stat { window_seconds: seconds, services: rows.collect(), breakers: vec![] }
    }
}

/// As the sidecars define failure: a status from 500, no answer, or one of gRPC's own.
fn is_failure(code: &str, grpc: &str, reason: &str) -> bool {
    if !grpc.is_empty() {
        return ["2", "4", "13", "14", "15"].contains(&grpc);
    }
    match code.parse::<u16>() {
        Ok(code) if code > 0 => code >= 500,
        _ => reason != "client_gone",
    }
}

fn bound(text: &str) -> Option<Bound> {
    if text == "+Inf" {
        return Some(Bound(u64::MAX));
    }
    let seconds: f64 = text.parse().ok().filter(|seconds: &f64| seconds.is_finite() && *seconds >= 0.0)?;
    // Bounds are whole microseconds and small: the cast is exact.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "checked above: finite, not negative")]
    Some(Bound((seconds * 1e6).round() as u64))
}

/// To hundredths: what is measured is not finer.
fn rounded(value: f64) -> f64 {
    (value * 100.0).round() / 100.0
}

/// A count as the integer it is.
fn whole(count: f64) -> u64 {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "counts are whole and not negative")]
    let whole = count.round() as u64;
    whole
}

/// Milliseconds below which the share `q` of calls lies, interpolated within the bucket, from cumulative counts.
fn quantile(buckets: &[(u64, f64)], q: f64) -> Option<f64> {
    let total = buckets.last().map(|(_, count)| *count).filter(|count| *count > 0.0)?;
    let rank = total * q;
    let (mut lower, mut below) = (0_u64, 0.0);
    for (bound, count) in buckets {
        if *count >= rank {
            if *bound == u64::MAX {
                return Some(micros(lower) / 1000.0);
            }
            let within = if *count > below { (rank - below) / (count - below) } else { 1.0 };
            return Some((micros(lower) + (micros(*bound) - micros(lower)) * within) / 1000.0);
        }
        (lower, below) = (*bound, *count);
    }
    None
}

fn micros(value: u64) -> f64 {
    // Bounds are below a minute; a u32 of microseconds holds 71.
    u32::try_from(value).map_or(f64::MAX, f64::from)
}

type Sample<'a> = (&'a str, Vec<(&'a str, String)>, f64);

/// One line of the text format: name, labels, value. `None` for comments and what is malformed.
fn sample(line: &str) -> Option<Sample<'_>> {
    if line.starts_with('#') {
        return None;
    }
    let end = line.find(['{', ' '])?;
    let (name, mut rest) = line.split_at(end);
    let mut labels = Vec::new();
    if let Some(inner) = rest.strip_prefix('{') {
        rest = inner;
        loop {
            rest = rest.trim_start_matches(',');
            if let Some(after) = rest.strip_prefix('}') {
                rest = after;
                break;
            }
            let (key, after) = rest.split_once("=\"")?;
            let mut value = String::new();
            let mut escaped = false;
            let mut end = None;
            for (index, c) in after.char_indices() {
                match (escaped, c) {
                    (false, '\\') => escaped = true,
                    (false, '"') => {
                        end = Some(index);
                        break;
                    }
                    (true, 'n') => {
                        value.push('\n');
                        escaped = false;
                    }
                    _ => {
                        value.push(c);
                        escaped = false;
                    }
                }
            }
            labels.push((key, value));
            rest = after.get(end? + 1..)?;
        }
    }
    let value = rest.split_ascii_whitespace().next()?.parse().ok()?;
    Some((name, labels, value))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "\
# TYPE weft_requests_total counter
weft_requests_total{direction=\"outbound\",source=\"shop/orders\",destination=\"shop/payments\",route=\"\",protocol=\"http1\",code=\"200\",grpc_code=\"\",tls=\"mutual\",reason=\"\"} 99
weft_requests_total{direction=\"outbound\",source=\"shop/orders\",destination=\"shop/payments\",route=\"\",protocol=\"http1\",code=\"503\",grpc_code=\"\",tls=\"\",reason=\"no_endpoint\"} 1
weft_requests_total{direction=\"inbound\",source=\"shop/storefront\",destination=\"shop/orders\",code=\"200\",grpc_code=\"\",tls=\"mutual\",reason=\"\"} 7
weft_retries_total{destination=\"shop/payments\",route=\"\",reason=\"503\"} 5
weft_request_duration_seconds_bucket{direction=\"outbound\",destination=\"shop/payments\",le=\"0.001\"} 50
weft_request_duration_seconds_bucket{direction=\"outbound\",destination=\"shop/payments\",le=\"0.01\"} 100
weft_request_duration_seconds_bucket{direction=\"outbound\",destination=\"shop/payments\",le=\"+Inf\"} 100
weft_breaker_state{destination=\"shop/inventory\",port=\"80\",endpoint=\"shop/inventory-2\"} 1
";

    #[test]
    fn counters_become_golden_signals() {
        let mut scrape = Scrape::default();
        scrape.add("orders-1", TEXT);
        let names = ["shop/payments".to_owned(), "shop/inventory".to_owned()];
        let stat = scrape.since(&Scrape::default(), 10.0, &names);
        let payments = &stat.services[0];
        assert_eq!((payments.rps, payments.calls, payments.attempts), (10.0, 100, 105));
        assert_eq!(payments.success, Some(0.99));
        assert!((payments.success_before_retries.unwrap() - 99.0 / 105.0).abs() < 1e-9);
        assert_eq!((payments.mtls, payments.unsent), (Some(1.0), 1), "a call that reached nobody went over no wire");
        assert_eq!(payments.p50_ms, Some(1.0));
        assert!((payments.p99_ms.unwrap() - 9.82).abs() < 0.01);
        assert_eq!(stat.services[1].open_breakers, 1);
        assert_eq!(stat.services[1].success, None, "no calls, no rate");
        assert_eq!(scrape.served["orders-1"], 7.0);
    }

    #[test]
    fn plaintext_is_counted_against_the_service_that_took_it() {
        let mut scrape = Scrape::default();
        scrape.add("x", "weft_requests_total{direction=\"inbound\",destination=\"shop/users\",code=\"200\",grpc_code=\"0\",tls=\"none\",reason=\"\"} 3\n");
        assert_eq!(scrape.services["shop/users"].plaintext, 3.0);
    }

    #[test]
    fn escapes_and_malformed_lines_do_no_harm() {
        let (name, labels, value) = sample("a{b=\"x\\\"y\\\\\",c=\"\"} 4.5 123").unwrap();
        assert_eq!((name, labels[0].1.as_str(), value), ("a", "x\"y\\", 4.5));
        for line in ["", "# x", "a{b=\"x} 1", "a{b} 1", "a nan?", "a"] {
            assert!(sample(line).is_none(), "{line}");
        }
    }
}
