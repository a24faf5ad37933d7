//! The load driver: open loop, so that a slow answer does not slow the questions (latency counts from the scheduled start, free of
//! coordinated omission). Its report is cumulative and rewritten atomically, for whoever watches.

use super::client::Client;
use super::server::stopped;
use super::{Error, Load};
use bytes::Bytes;
use hdrhistogram::Histogram;
use http::{HeaderMap, Method, StatusCode};
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tokio::task::JoinSet;

/// More calls than this in flight count as failed ("overrun") without being sent.
const IN_FLIGHT: usize = 4096;
/// Calls in flight at the end have this long.
const GRACE: Duration = Duration::from_secs(5);
/// How often the report is rewritten.
const EVERY: Duration = Duration::from_millis(250);
/// How many failures the report lists.
const FAILURES: usize = 200;
/// Upper bounds of the report's latency buckets, milliseconds.
const BUCKETS: [u64; 12] = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000];
/// Of a hundred calls this many browse, the others check out.
const BROWSE: u64 = 70;

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Report {
    started_at_ms: u64,
    elapsed_ms: u64,
    done: bool,
    total: u64,
    ok: u64,
    failed: u64,
    status: BTreeMap<String, u64>,
    variants: BTreeMap<String, u64>,
    latency: Latency,
    failures: Vec<Failure>,
}

#[derive(Serialize, Default)]
#[serde(rename_all = "camelCase")]
struct Latency {
    p50_ms: f64,
    p95_ms: f64,
    p99_ms: f64,
    max_ms: f64,
    buckets_ms: Vec<u64>,
    counts: Vec<u64>,
}

#[derive(Serialize, Clone)]
#[serde(rename_all = "camelCase")]
struct Failure {
    at_ms: u64,
    method: &'static str,
    path: &'static str,
    status: Option<u16>,
    cause: String,
}

/// What was counted so far. Latencies are microseconds.
struct Tally {
    started: Instant,
    started_at_ms: u64,
    total: u64,
    ok: u64,
    status: BTreeMap<String, u64>,
    variants: BTreeMap<String, u64>,
    latency: Histogram<u64>,
    counts: [u64; BUCKETS.len() + 1],
    failures: Vec<Failure>,
}

fn unix_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| u64::try_from(d.as_millis()).unwrap_or(u64::MAX))
}

impl Tally {
    fn new() -> Result<Self, Error> {
        Ok(Self {
            started: Instant::now(),
            started_at_ms: unix_ms(),
            total: 0,
            ok: 0,
            status: BTreeMap::from([("error".to_owned(), 0)]),
            variants: BTreeMap::new(),
            latency: Histogram::new_with_max(120_000_000, 3)?,
            counts: [0; BUCKETS.len() + 1],
            failures: Vec::new(),
        })
    }

    fn count(&mut self, latency: Duration, variant: Option<&str>, outcome: Result<StatusCode, Failure>) {
        self.total += 1;
        let micros = u64::try_from(latency.as_micros()).unwrap_or(u64::MAX);
        self.latency.saturating_record(micros);
        let bucket = BUCKETS.iter().position(|bound| micros <= bound * 1000).unwrap_or(BUCKETS.len());
        self.counts[bucket] += 1;
        if let Some(variant) = variant {
            *self.variants.entry(variant.to_owned()).or_default() += 1;
        }
        let status = match outcome {
            Ok(status) => {
                self.ok += 1;
                status.as_u16().to_string()
            }
            Err(failure) => {
                let status = failure.status.map_or_else(|| "error".to_owned(), |s| s.to_string());
                if self.failures.len() < FAILURES {
                    self.failures.push(failure);
                }
                status
            }
        };
        *self.status.entry(status).or_default() += 1;
    }

    fn report(&self, done: bool) -> Report {
        #[expect(clippy::cast_precision_loss, reason = "a latency in microseconds is far below 2^53")]
        let ms = |micros: u64| micros as f64 / 1000.0;
        Report {
            started_at_ms: self.started_at_ms,
            elapsed_ms: u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX),
            done,
            total: self.total,
            ok: self.ok,
            failed: self.total - self.ok,
            status: self.status.clone(),
            variants: self.variants.clone(),
            latency: Latency {
                p50_ms: ms(self.latency.value_at_quantile(0.5)),
                p95_ms: ms(self.latency.value_at_quantile(0.95)),
                p99_ms: ms(self.latency.value_at_quantile(0.99)),
                max_ms: ms(self.latency.max()),
                buckets_ms: BUCKETS.to_vec(),
                counts: self.counts.to_vec(),
            },
            failures: self.failures.clone(),
        }
    }
}

type Shared = Arc<Mutex<Tally>>;

fn lock(tally: &Shared) -> MutexGuard<'_, Tally> {
    tally.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// Drives load until `load.duration` has passed or SIGTERM came, waits for what is in flight, and writes the last report.
pub async fn run(load: Load) -> Result<(), Error> {
    if load.rps == 0 || load.rps > 100_000 {
        return Err("--rps must be between 1 and 100000".into());
    }
    let client = Arc::new(Client::new(&load.target)?);
    let tally: Shared = Arc::new(Mutex::new(Tally::new()?));
    write(&load.report, &lock(&tally).report(false))?;
    let mut calls = JoinSet::new();
    let mut reports = tokio::time::interval(EVERY);
    let stop = stopped();
    tokio::pin!(stop);
    let start = tokio::time::Instant::now();
    let end = load.duration.map(|d| start + d);
    let mut number: u64 = 0;
    loop {
        let due = start + Duration::from_nanos(number.saturating_mul(1_000_000_000 / u64::from(load.rps)));
        if end.is_some_and(|end| due >= end) {
            break;
        }
        tokio::select! {
            biased;
            () = &mut stop => break,
            _ = reports.tick() => write(&load.report, &lock(&tally).report(false))?,
            Some(_) = calls.join_next() => {}
            () = tokio::time::sleep_until(due) => {
                if calls.len() < IN_FLIGHT {
                    calls.spawn(call(client.clone(), tally.clone(), number, due.into_std()));
                } else {
                    let (method, path) = kind(number);
                    let failure = Failure { at_ms: unix_ms(), method: method_name(&method), path, status: None, cause: "overrun".into() };
                    lock(&tally).count(Duration::ZERO, None, Err(failure));
                }
                number += 1;
            }
        }
    }
    let finish = tokio::time::timeout(GRACE, async { while calls.join_next().await.is_some() {} });
    let _ = finish.await;
    write(&load.report, &lock(&tally).report(true))
}

/// Which call the n-th is: browsing and checking out take turns, 7 to 3.
fn kind(number: u64) -> (Method, &'static str) {
    // A stride that is coprime to 100 spreads both kinds evenly.
    if number.wrapping_mul(37) % 100 < BROWSE { (Method::GET, "/") } else { (Method::POST, "/checkout") }
}

fn method_name(method: &Method) -> &'static str {
    if *method == Method::GET { "GET" } else { "POST" }
}

async fn call(client: Arc<Client>, tally: Shared, number: u64, due: Instant) {
    let (method, path) = kind(number);
    let name = method_name(&method);
    let body = if method == Method::POST { Bytes::from_static(b"{\"item\":\"weft\"}") } else { Bytes::new() };
    let answer = client.call(method, path, &HeaderMap::new(), body).await;
    let latency = due.elapsed();
    let header = |headers: &HeaderMap, name: &str| headers.get(name).and_then(|v| v.to_str().ok()).map(str::to_owned);
    let (variant, outcome) = match answer {
        Ok(answer) => {
            let status = answer.status();
            let variant = header(answer.headers(), "x-catalog-version");
            if status.is_success() {
                (variant, Ok(status))
            } else {
                let cause = header(answer.headers(), "x-shop-error")
                    .or_else(|| header(answer.headers(), "weft-error"))
                    .unwrap_or_else(|| "no cause given".to_owned());
                (variant, Err(Failure { at_ms: unix_ms(), method: name, path, status: Some(status.as_u16()), cause }))
            }
        }
        Err(error) => {
            (None, Err(Failure { at_ms: unix_ms(), method: name, path, status: None, cause: error.to_string() }))
        }
    };
    lock(&tally).count(latency, variant.as_deref(), outcome);
}

/// Replaces `path` in one step.
fn write(path: &Path, report: &Report) -> Result<(), Error> {
    let mut name = path.as_os_str().to_owned();
    name.push(".new");
    std::fs::write(&name, serde_json::to_vec(report)?).map_err(|e| format!("{}: {e}", path.display()))?;
    std::fs::rename(&name, path).map_err(|e| format!("{}: {e}", path.display()))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seven_in_ten_calls_browse() {
        let browsing = (0..1000).filter(|n| kind(*n).0 == Method::GET).count();
        assert_eq!(browsing, 700);
    }

    #[test]
    fn a_report_counts_what_happened() {
        let mut tally = Tally::new().unwrap();
        tally.count(Duration::from_millis(3), Some("v1"), Ok(StatusCode::OK));
        let failure = Failure { at_ms: 1, method: "GET", path: "/", status: Some(502), cause: "payments".into() };
        tally.count(Duration::from_secs(9), None, Err(failure));
        let report = serde_json::to_value(tally.report(true)).unwrap();
        assert_eq!(
            (report["total"].as_u64(), report["ok"].as_u64(), report["failed"].as_u64()),
            (Some(2), Some(1), Some(1))
        );
        assert_eq!(report["status"], serde_json::json!({"200": 1, "502": 1, "error": 0}));
        assert_eq!(report["latency"]["counts"][2], 1);
        assert_eq!(report["latency"]["counts"][12], 1);
        assert_eq!(report["failures"][0]["atMs"], 1);
    }
}
