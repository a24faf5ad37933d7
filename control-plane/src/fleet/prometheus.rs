//! Longer ranges than the control plane keeps, from the Prometheus that scrapes the sidecars: the same columns as of
//! [`golden::history`](super::golden::history), by its HTTP API (`query_range`). What it says of a failure is said on, not hidden.

use super::golden::history::{History, LINES, Line, Subject};
use crate::fetch::{Plain, exchange};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE};
use http::{HeaderValue, Request, Uri};
use http_body_util::Full;
use parking_lot::Mutex;
use serde::Deserialize;
use std::collections::{BTreeMap, HashMap};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use weft_certs::{CertificateDer, files, tls};

/// Bytes of an answer.
const LARGEST: usize = 16 << 20;
/// For each of the questions, which are put at once.
const DEADLINE: Duration = Duration::from_secs(10);
/// The longest range.
pub const LONGEST: Duration = Duration::from_secs(30 * 24 * 3600);
/// Steps of a range, about, and the shortest step: a rate needs some scrapes.
const STEPS: u64 = 240;
const SHORTEST: u64 = 30;
/// A rate is taken of this long at least.
const RATE: u64 = 120;
const PERCENTILES: [&str; 3] = ["0.5", "0.95", "0.99"];

/// A Prometheus, and how it is asked.
pub struct Prometheus {
    base: Uri,
    /// Empty: those of the system.
    roots: Vec<CertificateDer<'static>>,
    authorization: Option<HeaderValue>,
    /// Made when it is first needed.
    tls: Mutex<Option<Arc<rustls::ClientConfig>>>,
}

impl std::fmt::Debug for Prometheus {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Prometheus({})", self.base)
    }
}

/// What lines are wanted; empty: any.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// Services of this namespace, or edges with an end in it.
    pub namespace: String,
    /// "namespace/name", or a name.
    pub service: String,
    /// The caller, likewise.
    pub source: String,
    /// A route.
    pub route: String,
}

impl Prometheus {
    /// `address` is what it answers at (`http://` or `https://`, with the path that its API is below); `ca` holds roots of its certificate
    /// (PEM), `basic` (0600) in its first line a user and password as `user:password`.
    ///
    /// # Errors
    /// When the address is none, or a file cannot be read or is open to others.
    pub fn open(address: &str, ca: Option<&PathBuf>, basic: Option<&PathBuf>) -> Result<Self, String> {
        let base: Uri = address.trim_end_matches('/').parse().map_err(|_| format!("{address}: is no address"))?;
        if !matches!(base.scheme_str(), Some("http" | "https")) || base.host().is_none() {
            return Err(format!("{address}: write http://HOST:PORT or https://HOST:PORT"));
        }
        if base.authority().is_some_and(|authority| authority.as_str().contains('@')) {
            return Err("leave credentials out of the address: they belong into a file".to_owned());
        }
        let roots = ca.map(|path| roots(path)).transpose()?.unwrap_or_default();
        let authorization = basic.map(|path| credentials(path)).transpose()?;
        Ok(Self { base, roots, authorization, tls: Mutex::new(None) })
    }

    fn tls(&self) -> Result<Arc<rustls::ClientConfig>, String> {
        let mut made = self.tls.lock();
        if let Some(config) = &*made {
            return Ok(config.clone());
        }
        let roots = match self.roots.as_slice() {
            [] => tls::system_roots().map_err(|error| error.to_string())?,
            roots => roots.to_vec(),
        };
        let config = tls::web_client_config(roots).map_err(|error| error.to_string())?;
        *made = Some(config.clone());
        Ok(config)
    }

    /// Lines of the last `window`, which ends at `now` (seconds since the Unix epoch).
    ///
    /// # Errors
    /// When it cannot be reached, does not answer in time, or says why it does not; the text says which.
    pub async fn history(
        &self,
        subject: Subject,
        wanted: &Wanted,
        window: Duration,
        now: u64,
    ) -> Result<History, String> {
        let range = Range::of(window, now);
        let queries = queries(subject, wanted, range.step.max(RATE))?;
        let asked = queries.iter().map(|(column, query)| async move {
            let matrix = self.ask(query, range).await?;
            Ok::<_, String>((*column, matrix))
        });
        let answers = futures_util::future::try_join_all(asked).await;
        let answers = answers.map_err(|why| format!("Prometheus at {}: {why}", self.base))?;
        #[expect(clippy::cast_precision_loss, reason = "seconds of a month")]
        let ago = now.saturating_sub(range.begins) as f64;
        let (items, omitted) = lines(subject, wanted, answers, range);
        Ok(History { step_seconds: range.step, ago, items, omitted })
    }

    async fn ask(&self, query: &str, range: Range) -> Result<Vec<Row>, String> {
        let path = format!("{}/api/v1/query_range", self.base.path().trim_end_matches('/'));
        let mut parts = self.base.clone().into_parts();
        parts.path_and_query = Some(path.parse().map_err(|_| "is no address".to_owned())?);
        let uri = Uri::from_parts(parts).map_err(|_| "is no address".to_owned())?;
        let Range { begins, step, steps } = range;
        // The value of a step is that of its end.
        let (start, end) = (begins + step, begins + step * steps);
        let form = format!("query={}&start={start}&end={end}&step={step}&timeout=8s", encode(query));
        let mut request = Request::post("/")
            .header(ACCEPT, "application/json")
            .header(CONTENT_TYPE, "application/x-www-form-urlencoded");
        if let Some(authorization) = &self.authorization {
            request = request.header(AUTHORIZATION, authorization);
        }
        let request = request.body(Full::new(Bytes::from(form))).map_err(|_| "is no address".to_owned())?;
        let (parts, body) = exchange(&uri, request, || self.tls(), Plain::Always, (LARGEST, DEADLINE)).await?;
        read(parts.status.as_u16(), &body)
    }
}

fn roots(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    use rustls_pki_types::pem::PemObject;
    let text = std::fs::read(path).map_err(|error| format!("{}: {error}", path.display()))?;
    let roots: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
    match roots {
        Ok(roots) if !roots.is_empty() => Ok(roots),
        _ => Err(format!("{}: holds no certificates in PEM", path.display())),
    }
}

fn credentials(path: &Path) -> Result<HeaderValue, String> {
    let text = files::read_private(path).map_err(|error| error.to_string())?;
    let text = text.lines().next().unwrap_or_default().trim().to_owned();
    if !text.contains(':') {
        return Err(format!("{}: its first line is not user:password", path.display()));
    }
    let value = HeaderValue::try_from(format!("Basic {}", STANDARD.encode(text)));
    let mut value = value.map_err(|_| format!("{}: cannot be sent", path.display()))?;
    value.set_sensitive(true);
    Ok(value)
}

/// Steps, from `begins` on, seconds since the Unix epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Range {
    begins: u64,
    step: u64,
    steps: u64,
}

impl Range {
    fn of(window: Duration, now: u64) -> Self {
        let window = window.min(LONGEST).as_secs();
        let step = window.div_ceil(STEPS).next_multiple_of(SHORTEST).max(SHORTEST);
        let steps = window.div_ceil(step).max(1);
        // Whole steps: the same question a second later has the same answer.
        let end = now - now % step;
        Self { begins: end.saturating_sub(step * steps), step, steps }
    }
}

/// A column of the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Column {
    Rate,
    Failed,
    Retries,
    Percentile(usize),
}

/// Labels by which lines are told apart.
fn labels(subject: Subject) -> Result<&'static str, String> {
    match subject {
        Subject::Service => Ok("destination"),
        Subject::Edge => Ok("source, destination"),
        Subject::Route => Ok("destination, route"),
        Subject::Endpoint => Err("endpoints are no label of its metrics: ask for an hour at most".to_owned()),
    }
}

/// The questions, each with its column.
fn queries(subject: Subject, wanted: &Wanted, rate: u64) -> Result<Vec<(Column, String)>, String> {
    let by = labels(subject)?;
    let chosen = wanted.selector(subject)?;
    // Calls as their callers saw them; of services that nobody with a sidecar calls, as they saw them themselves.
    let both = |sum: &dyn Fn(&str) -> String| {
        let (out, own) = (sum("outbound"), sum("inbound"));
        let called =
            format!("sum by (destination) (rate(weft_requests_total{{direction=\"outbound\"{chosen}}}[{rate}s]))");
        format!("{out} or ({own} unless on (destination) {called})")
    };
    let failed = |direction: &str| {
        let of = |more: &str| format!("rate(weft_requests_total{{direction=\"{direction}\"{chosen},{more}}}[{rate}s])");
        let (http, grpc) =
            (of("grpc_code=\"\",code=~\"5..|0|\",reason!=\"client_gone\""), of("grpc_code=~\"2|4|13|14|15\""));
        format!("sum by ({by}) ({http} or {grpc})")
    };
    let all = |direction: &str| {
        format!("sum by ({by}) (rate(weft_requests_total{{direction=\"{direction}\"{chosen}}}[{rate}s]))")
    };
    let mut queries = vec![(Column::Rate, both(&all)), (Column::Failed, both(&failed))];
    for (place, share) in PERCENTILES.into_iter().enumerate() {
        let of = |direction: &str| {
            let buckets =
                format!("rate(weft_request_duration_seconds_bucket{{direction=\"{direction}\"{chosen}}}[{rate}s])");
            format!("histogram_quantile({share}, sum by ({by}, le) ({buckets}))")
        };
        queries.push((Column::Percentile(place), both(&of)));
    }
    if subject != Subject::Edge {
        // Who called is no label of these.
        let chosen = chosen.trim_start_matches(',');
        queries.push((Column::Retries, format!("sum by ({by}) (rate(weft_retries_total{{{chosen}}}[{rate}s]))")));
    }
    Ok(queries)
}

impl Wanted {
    /// Matchers of labels, each behind a comma. What they cannot say is left to [`Self::has`].
    fn selector(&self, subject: Subject) -> Result<String, String> {
        let mut text = String::new();
        let names = [&self.namespace, &self.service, &self.source, &self.route];
        let is_name = |name: &&String| name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._/:".contains(&b));
        if let Some(bad) = names.iter().find(|name| !is_name(name)) {
            return Err(format!("{bad:?} is no name"));
        }
        let mut one = |label: &str, name: &str| {
            let pattern = name.replace('.', "\\\\.");
            let pattern = if name.contains('/') { pattern } else { format!("[^/]*/{pattern}") };
            let _ = write!(text, ",{label}=~\"{pattern}\"");
        };
        if !self.service.is_empty() {
            one("destination", &self.service);
        }
        if !self.source.is_empty() && subject == Subject::Edge {
            one("source", &self.source);
        }
        if !self.route.is_empty() && subject == Subject::Route {
            let _ = write!(text, ",route=\"{}\"", self.route);
        }
        if !self.namespace.is_empty() && subject != Subject::Edge {
            let _ = write!(text, ",destination=~\"{}/.*\"", self.namespace);
        }
        Ok(text)
    }

    /// Whether a line is wanted, of a destination and a caller or route.
    #[must_use]
    pub fn has(&self, subject: Subject, destination: &str, other: &str) -> bool {
        let means = |wanted: &str, name: &str| {
            wanted.is_empty() || wanted == name || name.split_once('/').is_some_and(|(_, own)| own == wanted)
        };
        let here =
            |name: &str| self.namespace.is_empty() || name.split_once('/').is_some_and(|(of, _)| of == self.namespace);
        let concerns = match subject {
            Subject::Edge => means(&self.source, other) && (here(destination) || here(other)),
            Subject::Route => (self.route.is_empty() || self.route == other) && here(destination),
            Subject::Service | Subject::Endpoint => here(destination),
        };
        concerns && means(&self.service, destination)
    }
}

/// A line of an answer.
#[derive(Debug, Deserialize)]
struct Row {
    metric: HashMap<String, String>,
    values: Vec<(f64, String)>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Answer {
    status: String,
    #[serde(default)]
    error: String,
    data: Option<Data>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Data {
    result_type: String,
    result: Vec<Row>,
}

fn read(status: u16, body: &[u8]) -> Result<Vec<Row>, String> {
    let answer: Answer = serde_json::from_slice(body).map_err(|_| match status {
        200 => "the answer is none of its API".to_owned(),
        _ => format!("answered {status}"),
    })?;
    match answer.data {
        Some(data) if answer.status == "success" && data.result_type == "matrix" => Ok(data.result),
        _ if !answer.error.is_empty() => Err(answer.error.chars().take(500).collect()),
        _ => Err(format!("answered {status}")),
    }
}

fn lines(subject: Subject, wanted: &Wanted, answers: Vec<(Column, Vec<Row>)>, range: Range) -> (Vec<Line>, usize) {
    let steps = usize::try_from(range.steps).unwrap_or_default();
    let mut found: BTreeMap<(String, String), [Vec<Option<f64>>; 6]> = BTreeMap::new();
    for (column, rows) in answers {
        for row in rows {
            let label = |name: &str| row.metric.get(name).cloned().unwrap_or_default();
            let other = match subject {
                Subject::Edge => label("source"),
                Subject::Route => label("route"),
                Subject::Service | Subject::Endpoint => String::new(),
            };
            let destination = label("destination");
            if !wanted.has(subject, &destination, &other) {
                continue;
            }
            let columns =
                found.entry((destination, other)).or_insert_with(|| std::array::from_fn(|_| vec![None; steps]));
            let place = match column {
                Column::Rate => 0,
                Column::Failed => 1,
                Column::Retries => 2,
                Column::Percentile(place) => 3 + place,
            };
            fill(&mut columns[place], &row.values, range);
        }
    }
    #[expect(clippy::cast_precision_loss, reason = "seconds of a step")]
    let step = range.step as f64;
    let total = |columns: &[Vec<Option<f64>>; 6]| columns[0].iter().flatten().sum::<f64>();
    let mut found: Vec<_> = found.into_iter().filter(|(_, columns)| total(columns) > 0.0).collect();
    found.sort_by(|(_, a), (_, b)| total(b).total_cmp(&total(a)));
    let omitted = found.len().saturating_sub(LINES);
    found.truncate(LINES);
    let line =
        |((service, other), [rate, failed, retries, p50, p95, p99]): ((String, String), [Vec<Option<f64>>; 6])| {
            let share = |(rate, failed): (&Option<f64>, &Option<f64>)| {
                rate.filter(|rate| *rate > 0.0).map(|rate| (1.0 - failed.unwrap_or(0.0) / rate).clamp(0.0, 1.0))
            };
            // Where there are calls and none of them is counted as this, there is none of it.
            let count = |values: &[Option<f64>]| {
                let of = |(rate, value): (&Option<f64>, &Option<f64>)| {
                    rate.map(|_| (value.unwrap_or(0.0) * step * 100.0).round() / 100.0)
                };
                rate.iter().zip(values).map(of).collect()
            };
            let rounded = |values: &[Option<f64>], factor: f64| -> Vec<Option<f64>> {
                values.iter().map(|value| value.map(|value| (value * factor * 100.0).round() / 100.0)).collect()
            };
            Line {
                rps: rounded(&rate, 1.0),
                success: rate.iter().zip(&failed).map(share).collect(),
                failures: count(&failed),
                retries: if subject == Subject::Edge { vec![None; steps] } else { count(&retries) },
                p50_ms: rounded(&p50, 1000.0),
                p95_ms: rounded(&p95, 1000.0),
                p99_ms: rounded(&p99, 1000.0),
                ..Line::named(subject, &service, &other)
            }
        };
    (found.into_iter().map(line).collect(), omitted)
}

/// Puts each value into its step; what is no number, or of another time, is no data.
fn fill(column: &mut [Option<f64>], values: &[(f64, String)], range: Range) {
    for (at, value) in values {
        #[expect(clippy::cast_precision_loss, reason = "seconds since the Unix epoch")]
        let place = (at - range.begins as f64) / range.step as f64 - 1.0;
        let value = value.parse::<f64>().ok().filter(|value| value.is_finite());
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a place of at most 240")]
        let place = if place > -0.5 && place < 1e6 { place.round() as usize } else { usize::MAX };
        if let Some(cell) = column.get_mut(place) {
            *cell = value;
        }
    }
}

/// A value of a form.
fn encode(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len() * 2);
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => encoded.push(char::from(byte)),
            _ => drop(write!(encoded, "%{byte:02X}")),
        }
    }
    encoded
}

#[cfg(test)]
mod tests;
