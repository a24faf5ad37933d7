//! A Prometheus recorder of our own: families of series with fixed label names, recorded through handles that cost one atomic add.
//!
//! A handle is resolved once (per route, endpoint, code…) and kept by whoever records; resolving takes a lock, recording never does.
//! Label sets are bounded: past [`SERIES_LIMIT`] series a family counts what is new under the label value `other`, and series that
//! nobody holds and nobody touched for [`EXPIRY`] leave. What is counted, and under which names, stands in `telemetry::mod`.

use foldhash::HashMap;
use parking_lot::Mutex;
use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// Series that one family may hold.
pub const SERIES_LIMIT: usize = 2000;
/// How long a series that nobody holds stays after its last change.
pub const EXPIRY: Duration = Duration::from_secs(3600);

/// The bounds that a scrape shows: three a decade, where a report has ten. Cumulative counts stay exact.
const SHOWN_US: [u64; 18] = [
    100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000, 2_500_000,
    5_000_000, 10_000_000, 25_000_000, 60_000_000,
];

/// A number that only grows.
#[derive(Debug, Clone, Default)]
pub struct Counter(Arc<AtomicU64>);

impl Counter {
    /// Adds one.
    pub fn increment(&self) {
        self.add(1);
    }

    /// Adds `n`.
    pub fn add(&self, n: u64) {
        self.0.fetch_add(n, Relaxed);
    }

    /// The count so far.
    #[must_use]
    pub fn value(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// A number that is set.
#[derive(Debug, Clone, Default)]
pub struct Gauge(Arc<AtomicU64>);

impl Gauge {
    /// Sets the value.
    pub fn set(&self, value: f64) {
        self.0.store(value.to_bits(), Relaxed);
    }

    /// Adds to the value; for counts of what is open now.
    pub fn shift(&self, by: f64) {
        let _ = self.0.fetch_update(Relaxed, Relaxed, |bits| Some((f64::from_bits(bits) + by).to_bits()));
    }

    /// The value now.
    #[must_use]
    pub fn value(&self) -> f64 {
        f64::from_bits(self.0.load(Relaxed))
    }
}

/// Durations counted in fixed buckets, [`weft_proto::LATENCY_BOUNDS_US`].
#[derive(Debug, Clone, Default)]
pub struct Histogram(Arc<Buckets>);

#[derive(Debug)]
struct Buckets {
    /// Invariant: one more than there are bounds; the last counts what exceeded them all.
    counts: Box<[AtomicU64]>,
    sum_us: AtomicU64,
}

impl Default for Buckets {
    fn default() -> Self {
        Self {
            counts: (0..=weft_proto::LATENCY_BOUNDS_US.len()).map(|_| AtomicU64::new(0)).collect(),
            sum_us: AtomicU64::new(0),
        }
    }
}

impl Histogram {
    /// Records a duration.
    pub fn record(&self, duration: Duration) {
        let us = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        self.0.counts[bucket(us)].fetch_add(1, Relaxed);
        self.0.sum_us.fetch_add(us, Relaxed);
    }

    /// Counts per bucket (not cumulative), the last for what exceeded every bound.
    pub fn counts(&self) -> impl Iterator<Item = u64> + '_ {
        self.0.counts.iter().map(|count| count.load(Relaxed))
    }
}

/// Index of the bucket of a duration in microseconds.
#[must_use]
pub fn bucket(us: u64) -> usize {
    weft_proto::LATENCY_BOUNDS_US.partition_point(|bound| *bound < us)
}

/// What a family's series are.
trait Cell: Default + Clone + Send + Sync + 'static {
    const TYPE: &'static str;
    /// Something that changes whenever the series does.
    fn mark(&self) -> u64;
    fn holders(&self) -> usize;
    fn render(&self, out: &mut String, name: &str, labels: &str);
}

impl Cell for Counter {
    const TYPE: &'static str = "counter";
    fn mark(&self) -> u64 {
        self.value()
    }
    fn holders(&self) -> usize {
        Arc::strong_count(&self.0)
    }
    fn render(&self, out: &mut String, name: &str, labels: &str) {
        sample(out, name, "", labels, "", self.value());
    }
}

impl Cell for Gauge {
    const TYPE: &'static str = "gauge";
    fn mark(&self) -> u64 {
        self.0.load(Relaxed)
    }
    fn holders(&self) -> usize {
        Arc::strong_count(&self.0)
    }
    fn render(&self, out: &mut String, name: &str, labels: &str) {
        sample(out, name, "", labels, "", self.value());
    }
}

impl Cell for Histogram {
    const TYPE: &'static str = "histogram";
    fn mark(&self) -> u64 {
        self.counts().sum()
    }
    fn holders(&self) -> usize {
        Arc::strong_count(&self.0)
    }
    fn render(&self, out: &mut String, name: &str, labels: &str) {
        let mut total = 0;
        let bounds = weft_proto::LATENCY_BOUNDS_US.iter().map(|us| Some(*us)).chain([None]);
        for (bound, count) in bounds.zip(self.counts()) {
            total += count;
            match bound {
                Some(us) if SHOWN_US.contains(&us) => {
                    sample(out, name, "_bucket", labels, &format!("le=\"{}\"", seconds(us)), total);
                }
                Some(_) => {}
                None => sample(out, name, "_bucket", labels, "le=\"+Inf\"", total),
            }
        }
        sample(out, name, "_sum", labels, "", seconds(self.0.sum_us.load(Relaxed)));
        sample(out, name, "_count", labels, "", total);
    }
}

#[expect(clippy::cast_precision_loss, reason = "2^53 µs are 285 years")]
fn seconds(us: u64) -> f64 {
    us as f64 / 1e6
}

fn sample(out: &mut String, name: &str, suffix: &str, labels: &str, more: &str, value: impl std::fmt::Display) {
    let comma = if labels.is_empty() || more.is_empty() { "" } else { "," };
    let (open, close) = if labels.is_empty() && more.is_empty() { ("", "") } else { ("{", "}") };
    let _ = writeln!(out, "{name}{suffix}{open}{labels}{comma}{more}{close} {value}");
}

struct Series<C> {
    cell: C,
    mark: u64,
    changed: Instant,
}

struct Inner<C> {
    name: &'static str,
    help: &'static str,
    labels: &'static [&'static str],
    /// Keyed by the rendered label set, so that a scrape only concatenates.
    series: Mutex<HashMap<String, Series<C>>>,
}

/// Series of one name.
pub struct Family<C>(Arc<Inner<C>>);

impl<C> Clone for Family<C> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<C> std::fmt::Debug for Family<C> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Family({})", self.0.name)
    }
}

#[expect(private_bounds, reason = "what a series can be is closed: counter, gauge, histogram")]
impl<C: Cell> Family<C> {
    /// The handle of one label set, in the order of the family's names; missing values read as empty.
    #[must_use]
    pub fn with(&self, values: &[&str]) -> C {
        let mut series = self.0.series.lock();
        let mut key = label_set(self.0.labels, values);
        if series.len() >= SERIES_LIMIT && !series.contains_key(&key) {
            key = label_set(self.0.labels, &vec!["other"; self.0.labels.len()]);
        }
        let entry =
            series.entry(key).or_insert_with(|| Series { cell: C::default(), mark: 0, changed: Instant::now() });
        entry.cell.clone()
    }
}

/// `name="value",…` with the escapes of the text format.
fn label_set(names: &[&str], values: &[&str]) -> String {
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

trait Render: Send + Sync {
    fn render(&self, out: &mut String, now: Instant);
}

impl<C: Cell> Render for Inner<C> {
    fn render(&self, out: &mut String, now: Instant) {
        let mut series = self.series.lock();
        series.retain(|_, one| {
            let mark = one.cell.mark();
            if mark != one.mark {
                (one.mark, one.changed) = (mark, now);
            }
            one.cell.holders() > 1 || now.saturating_duration_since(one.changed) < EXPIRY
        });
        if series.is_empty() {
            return;
        }
        let _ = writeln!(out, "# HELP {} {}\n# TYPE {} {}", self.name, self.help, self.name, C::TYPE);
        let mut sorted: Vec<_> = series.iter().collect();
        sorted.sort_unstable_by_key(|(labels, _)| labels.as_str());
        for (labels, one) in sorted {
            one.cell.render(out, self.name, labels);
        }
    }
}

/// Every family of the process.
#[derive(Default)]
pub struct Registry {
    families: Mutex<Vec<Arc<dyn Render>>>,
}

impl std::fmt::Debug for Registry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Registry({} families)", self.families.lock().len())
    }
}

impl Registry {
    /// A family of counters; the name ends in `_total`.
    pub fn counter(&self, name: &'static str, help: &'static str, labels: &'static [&'static str]) -> Family<Counter> {
        self.family(name, help, labels)
    }

    /// A family of gauges.
    pub fn gauge(&self, name: &'static str, help: &'static str, labels: &'static [&'static str]) -> Family<Gauge> {
        self.family(name, help, labels)
    }

    /// A family of duration histograms; the name ends in `_seconds`.
    pub fn histogram(
        &self,
        name: &'static str,
        help: &'static str,
        labels: &'static [&'static str],
    ) -> Family<Histogram> {
        self.family(name, help, labels)
    }

    fn family<C: Cell>(&self, name: &'static str, help: &'static str, labels: &'static [&'static str]) -> Family<C> {
        let inner = Arc::new(Inner { name, help, labels, series: Mutex::default() });
        self.families.lock().push(Arc::clone(&inner) as Arc<dyn Render>);
        Family(inner)
    }

    /// Everything in the Prometheus text format 0.0.4. `now` decides which series expire.
    #[must_use]
    pub fn render(&self, now: Instant) -> String {
        let families = self.families.lock().clone();
        let mut out = String::with_capacity(4096);
        for family in families {
            family.render(&mut out, now);
        }
        out
    }
}

/// Of a text as [`Registry::render`] writes it, the families whose names contain `part`; all, if that is empty.
#[must_use]
pub fn named(text: &str, part: &str) -> String {
    let mut wanted = false;
    let of_it = |line: &&str| {
        // Each family begins with its HELP line.
        if let Some(rest) = line.strip_prefix("# HELP ") {
            wanted = rest.split(' ').next().is_some_and(|name| name.contains(part));
        }
        wanted
    };
    text.split_inclusive('\n').filter(of_it).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_handle_counts_under_its_labels_and_a_scrape_shows_it() {
        let registry = Registry::default();
        let family = registry.counter("weft_things_total", "Things.", &["kind", "code"]);
        family.with(&["a\"b", "200"]).add(3);
        family.with(&["a\"b", "200"]).increment();
        let text = registry.render(Instant::now());
        assert_eq!(
            text,
            "# HELP weft_things_total Things.\n# TYPE weft_things_total counter\n\
             weft_things_total{kind=\"a\\\"b\",code=\"200\"} 4\n"
        );
    }

    #[test]
    fn families_are_chosen_by_a_part_of_their_names() {
        let registry = Registry::default();
        registry.counter("weft_calls_total", "Calls.", &["of"]).with(&["weft_things_total"]).increment();
        registry.histogram("weft_wait_seconds", "Waits, not calls.", &[]).with(&[]).record(Duration::from_millis(3));
        let all = registry.render(Instant::now());
        assert_eq!(named(&all, ""), all);
        assert_eq!(
            named(&all, "calls"),
            "# HELP weft_calls_total Calls.\n# TYPE weft_calls_total counter\nweft_calls_total{of=\"weft_things_total\"} 1\n"
        );
        assert!(named(&all, "wait").lines().all(|line| line.contains("weft_wait_seconds")));
        assert_eq!(named(&all, "things"), "");
    }

    #[test]
    fn a_histogram_is_cumulative_in_the_text_and_its_sum_is_in_seconds() {
        let registry = Registry::default();
        let histogram = registry.histogram("weft_wait_seconds", "Waits.", &[]).with(&[]);
        histogram.record(Duration::from_micros(50));
        histogram.record(Duration::from_millis(3));
        histogram.record(Duration::from_secs(3600));
        let text = registry.render(Instant::now());
        assert!(text.contains("weft_wait_seconds_bucket{le=\"0.005\"} 2\n"), "{text}");
        assert!(text.contains("weft_wait_seconds_bucket{le=\"+Inf\"} 3\n"), "{text}");
        assert!(text.contains("weft_wait_seconds_sum 3600.00305\n"), "{text}");
        assert_eq!(histogram.counts().last(), Some(1));
    }

    #[test]
    fn past_the_limit_new_label_sets_are_counted_as_other() {
        let registry = Registry::default();
        let family = registry.counter("weft_many_total", "Many.", &["name"]);
        for i in 0..SERIES_LIMIT + 50 {
            family.with(&[&i.to_string()]).increment();
        }
        assert!(registry.render(Instant::now()).contains("weft_many_total{name=\"other\"} 50\n"));
    }

    #[test]
    fn a_series_that_nobody_holds_leaves_after_an_hour_without_change() {
        let registry = Registry::default();
        let family = registry.counter("weft_old_total", "Old.", &["name"]);
        let held = family.with(&["held"]);
        family.with(&["dropped"]).increment();
        let now = Instant::now();
        assert!(registry.render(now).contains("dropped"));
        let later = registry.render(now + EXPIRY + Duration::from_secs(1));
        assert!(!later.contains("dropped") && later.contains("held"), "{later}");
        held.increment();
    }
}
