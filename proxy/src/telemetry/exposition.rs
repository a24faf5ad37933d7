//! How metrics are written out: the text format of Prometheus (0.0.4), and OpenMetrics 1.0, which has units, and examples of the calls in a
//! histogram's buckets with the traces that they belong to.

use std::fmt::Write as _;
use std::time::{SystemTime, UNIX_EPOCH};

/// The bounds that a scrape shows: three a decade, where a report has ten. Cumulative counts stay exact.
const SHOWN_US: [u64; 18] = [
    100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000, 2_500_000,
    5_000_000, 10_000_000, 25_000_000, 60_000_000,
];

/// Buckets that are shown, the one without a bound included.
pub(super) const EXEMPLARS: usize = SHOWN_US.len() + 1;

/// A format of a scrape.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// Prometheus text, 0.0.4.
    Text,
    /// OpenMetrics 1.0.
    OpenMetrics,
}

impl Format {
    /// What a scraper takes, by its `Accept` (RFC 9110 §12.5.1): OpenMetrics, where it likes it no less than plain text.
    #[must_use]
    pub fn accepted(accept: &str) -> Self {
        let weight = |wanted: &str| {
            let of = |range: &str| {
                let mut parts = range.split(';').map(str::trim);
                let is_it = parts.next().is_some_and(|name| name.eq_ignore_ascii_case(wanted));
                let weight = parts.find_map(|part| part.strip_prefix("q=")?.parse::<f32>().ok());
                is_it.then(|| weight.unwrap_or(1.0))
            };
            accept.split(',').filter_map(of).fold(0.0_f32, f32::max)
        };
        let open = weight("application/openmetrics-text");
        if open > 0.0 && open >= weight("text/plain") { Self::OpenMetrics } else { Self::Text }
    }

    /// `Content-Type`.
    #[must_use]
    pub const fn content_type(self) -> &'static str {
        match self {
            Self::Text => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }
}

/// A call that stands for its bucket.
#[derive(Debug, Clone, Copy)]
pub(super) struct Exemplar {
    pub trace_id: u128,
    pub us: u64,
    pub at: SystemTime,
}

/// Which bucket that is shown a duration belongs to.
pub(super) fn shown(us: u64) -> usize {
    SHOWN_US.partition_point(|bound| *bound < us)
}

/// The lines before a family's samples.
pub fn header(out: &mut String, name: &str, help: &str, kind: &str, format: Format) {
    match format {
        Format::Text => {
            let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}");
        }
        Format::OpenMetrics => {
            // There a counter's family is named without what its samples end in.
            let name = if kind == "counter" { name.strip_suffix("_total").unwrap_or(name) } else { name };
            let _ = writeln!(out, "# TYPE {name} {kind}");
            if let Some(unit) = ["seconds", "bytes"].into_iter().find(|unit| name.ends_with(unit)) {
                let _ = writeln!(out, "# UNIT {name} {unit}");
            }
            let _ = writeln!(out, "# HELP {name} {help}");
        }
    }
}

/// The buckets of a histogram, cumulative; how many there are in all. `counts` are those of [`weft_proto::LATENCY_BOUNDS_US`].
pub(super) fn buckets(
    out: &mut String,
    name: &str,
    labels: &str,
    counts: impl Iterator<Item = u64>,
    exemplars: Option<&[Option<Exemplar>; EXEMPLARS]>,
) -> u64 {
    let mut total = 0;
    let bounds = weft_proto::LATENCY_BOUNDS_US.iter().map(|us| Some(*us)).chain([None]);
    for (bound, count) in bounds.zip(counts) {
        total += count;
        let (nth, bound) = match bound {
            Some(us) => match SHOWN_US.iter().position(|shown| *shown == us) {
                Some(nth) => (nth, format!("le=\"{}\"", seconds(us))),
                None => continue,
            },
            None => (SHOWN_US.len(), "le=\"+Inf\"".to_owned()),
        };
        let exemplar = exemplars.and_then(|all| all[nth]);
        sample(out, name, "_bucket", labels, &bound, Bucket { total, exemplar });
    }
    total
}

/// The value of a bucket, with the call that stands for it.
struct Bucket {
    total: u64,
    exemplar: Option<Exemplar>,
}

impl std::fmt::Display for Bucket {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.total)?;
        let Some(Exemplar { trace_id, us, at }) = self.exemplar else { return Ok(()) };
        let at = at.duration_since(UNIX_EPOCH).unwrap_or_default();
        write!(f, " # {{trace_id=\"{trace_id:032x}\"}} {} {}.{:03}", seconds(us), at.as_secs(), at.subsec_millis())
    }
}

/// Microseconds in seconds.
#[expect(clippy::cast_precision_loss, reason = "2^53 µs are 285 years")]
pub(super) fn seconds(us: u64) -> f64 {
    us as f64 / 1e6
}

/// One line.
pub fn sample(out: &mut String, name: &str, suffix: &str, labels: &str, more: &str, value: impl std::fmt::Display) {
    let comma = if labels.is_empty() || more.is_empty() { "" } else { "," };
    let (open, close) = if labels.is_empty() && more.is_empty() { ("", "") } else { ("{", "}") };
    let _ = writeln!(out, "{name}{suffix}{open}{labels}{comma}{more}{close} {value}");
}

/// `name="value",…` with the escapes of the text format.
#[must_use]
pub fn label_set(names: &[&str], values: &[&str]) -> String {
    let mut out = String::with_capacity(names.len() * 24);
    for (index, name) in names.iter().enumerate() {
        let comma = if index == 0 { "" } else { "," };
        let _ = write!(out, "{comma}{name}=\"");
        for c in values.get(index).copied().unwrap_or_default().chars() {
            match c {
                '\\' => out.push_str("\\\\"),
                '"' => out.push_str("\\\""),
                '\n' => out.push_str("\\n"),
                c => out.push(c),
            }
        }
        out.push('"');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scraper_gets_openmetrics_where_it_likes_it_no_less() {
        for (accept, format) in [
            ("", Format::Text),
            ("*/*", Format::Text),
            ("application/openmetrics-text", Format::OpenMetrics),
            (
                "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1",
                Format::OpenMetrics,
            ),
            ("text/plain, application/openmetrics-text;q=0.5", Format::Text),
            ("application/openmetrics-text;q=0", Format::Text),
        ] {
            assert_eq!(Format::accepted(accept), format, "{accept}");
        }
    }

    #[test]
    fn an_example_stands_in_the_bucket_that_counts_it() {
        assert_eq!((shown(100), shown(101), shown(60_000_000), shown(u64::MAX)), (0, 1, 17, 18));
    }
}
