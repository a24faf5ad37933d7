//! A Prometheus recorder of our own: families of series with fixed label names, recorded through handles that cost one atomic add.
//!
//! A handle is resolved once (per route, endpoint, code…) and kept by whoever records; resolving takes a lock, recording never does.
//! Label sets are bounded: past [`SERIES_LIMIT`] series a family counts what is new under the label value `other`, and series that
//! nobody holds and nobody touched for [`EXPIRY`] leave. What is counted, and under which names, stands in `telemetry::mod`; how it is
//! written out in `exposition`.

use super::exposition::{self, EXEMPLARS, Exemplar, Format, header, label_set, sample, seconds};
use foldhash::HashMap;
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant, SystemTime};

/// Series that one family may hold.
pub const SERIES_LIMIT: usize = 2000;
/// More of them in which what may be anything reads `other`.
const OTHERS: usize = 256;
/// How long a series that nobody holds stays after its last change.
pub const EXPIRY: Duration = Duration::from_secs(3600);

/// Labels whose values are the sidecar's own words: they stay when a family is full.
const WORDS: [&str; 12] = [
    "direction",
    "protocol",
    "code",
    "grpc_code",
    "tls",
    "reason",
    "decision",
    "outcome",
    "result",
    "version",
    "group",
    "kind",
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
    /// The last traced call of each bucket that is shown; nothing before the first one.
    exemplars: Mutex<Option<Box<[Option<Exemplar>; EXEMPLARS]>>>,
}

impl Default for Buckets {
    fn default() -> Self {
        Self {
            counts: (0..=weft_proto::LATENCY_BOUNDS_US.len()).map(|_| AtomicU64::new(0)).collect(),
            sum_us: AtomicU64::new(0),
            exemplars: Mutex::default(),
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

    /// Remembers a call that was recorded as an example of its bucket. Only for calls that are traced: it takes a lock.
    pub fn exemplify(&self, duration: Duration, trace_id: u128) {
        let us = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        let mut exemplars = self.0.exemplars.lock();
        exemplars.get_or_insert_default()[exposition::shown(us)] =
            Some(Exemplar { trace_id, us, at: SystemTime::now() });
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
    fn render(&self, out: &mut String, name: &str, labels: &str, format: Format);
}

impl Cell for Counter {
    const TYPE: &'static str = "counter";
    fn mark(&self) -> u64 {
        self.value()
    }
    fn holders(&self) -> usize {
        Arc::strong_count(&self.0)
    }
    fn render(&self, out: &mut String, name: &str, labels: &str, _: Format) {
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
    fn render(&self, out: &mut String, name: &str, labels: &str, _: Format) {
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
    fn render(&self, out: &mut String, name: &str, labels: &str, format: Format) {
        let exemplars = match format {
            Format::Text => None,
            Format::OpenMetrics => self.0.exemplars.lock().clone(),
        };
        let total = exposition::buckets(out, name, labels, self.counts(), exemplars.as_deref());
        sample(out, name, "_sum", labels, "", seconds(self.0.sum_us.load(Relaxed)));
        sample(out, name, "_count", labels, "", total);
    }
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
    /// Label sets that found no room.
    overflow: AtomicU64,
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
            self.0.overflow.fetch_add(1, Relaxed);
            key = label_set(self.0.labels, &self.0.others(values, false));
            if series.len() >= SERIES_LIMIT + OTHERS && !series.contains_key(&key) {
                key = label_set(self.0.labels, &self.0.others(values, true));
            }
        }
        let entry =
            series.entry(key).or_insert_with(|| Series { cell: C::default(), mark: 0, changed: Instant::now() });
        entry.cell.clone()
    }
}

impl<C> Inner<C> {
    /// The values of a label set that found no room: what may be anything reads `other`, or everything does.
    fn others<'v>(&self, values: &[&'v str], all: bool) -> Vec<&'v str> {
        let value = |(nth, label): (usize, &&str)| match values.get(nth) {
            Some(value) if !all && WORDS.contains(label) => value,
            _ => "other",
        };
        self.labels.iter().enumerate().map(value).collect()
    }
}

trait Render: Send + Sync {
    fn render(&self, out: &mut String, now: Instant, format: Format);
    /// Name, series, label sets that found no room.
    fn size(&self) -> (&'static str, usize, u64);
}

impl<C: Cell> Render for Inner<C> {
    fn size(&self) -> (&'static str, usize, u64) {
        (self.name, self.series.lock().len(), self.overflow.load(Relaxed))
    }

    fn render(&self, out: &mut String, now: Instant, format: Format) {
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
        header(out, self.name, self.help, C::TYPE, format);
        let mut sorted: Vec<_> = series.iter().collect();
        sorted.sort_unstable_by_key(|(labels, _)| labels.as_str());
        for (labels, one) in sorted {
            one.cell.render(out, self.name, labels, format);
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
        let inner = Arc::new(Inner { name, help, labels, series: Mutex::default(), overflow: AtomicU64::new(0) });
        self.families.lock().push(Arc::clone(&inner) as Arc<dyn Render>);
        Family(inner)
    }

    /// Everything in the Prometheus text format 0.0.4. `now` decides which series expire.
    #[must_use]
    pub fn render(&self, now: Instant) -> String {
        self.render_as(now, Format::Text)
    }

    /// Everything in one of the formats, without the end that `OpenMetrics` wants.
    #[must_use]
    pub fn render_as(&self, now: Instant, format: Format) -> String {
        let families = self.families.lock().clone();
        let mut out = String::with_capacity(4096);
        for family in families {
            family.render(&mut out, now, format);
        }
        out
    }

    /// Of each family that has series its name, how many they are, and how many label sets found no room.
    #[must_use]
    pub fn sizes(&self) -> Vec<(&'static str, usize, u64)> {
        let families = self.families.lock().clone();
        families.iter().map(|family| family.size()).filter(|(_, series, _)| *series > 0).collect()
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
    fn a_full_family_keeps_its_own_words_and_what_it_knew_and_says_how_much_found_no_room() {
        let registry = Registry::default();
        let family = registry.counter("weft_many_total", "Many.", &["name", "code"]);
        family.with(&["known", "200"]).add(7);
        for i in 0..1_000_000_u32 {
            family.with(&[&i.to_string(), if i % 2 == 0 { "200" } else { "503" }]).increment();
        }
        family.with(&["known", "200"]).increment();
        let [(name, series, overflow)] = registry.sizes()[..] else { panic!() };
        assert_eq!((name, series), ("weft_many_total", SERIES_LIMIT + 2));
        assert_eq!(overflow, 1_000_000 - SERIES_LIMIT as u64 + 1);
        let text = registry.render(Instant::now());
        assert!(text.contains("weft_many_total{name=\"known\",code=\"200\"} 8\n"));
        let value = |start: &str| text.lines().find_map(|l| l.strip_prefix(start)?.parse::<u64>().ok()).unwrap();
        let others = value("weft_many_total{name=\"other\",code=\"200\"} ")
            + value("weft_many_total{name=\"other\",code=\"503\"} ");
        assert_eq!(others, overflow, "every call is counted somewhere");
    }

    #[test]
    fn words_without_end_are_folded_too() {
        let registry = Registry::default();
        let family = registry.counter("weft_many_total", "Many.", &["name", "code"]);
        for i in 0..SERIES_LIMIT + 2 * OTHERS {
            let value = i.to_string();
            family.with(&[&value, &value]).increment();
        }
        assert_eq!(registry.sizes()[0].1, SERIES_LIMIT + OTHERS + 1);
        assert!(registry.render(Instant::now()).contains("name=\"other\",code=\"other\"} 256\n"));
    }

    #[test]
    fn openmetrics_names_its_families_and_units_and_shows_the_trace_of_an_example() {
        let registry = Registry::default();
        registry.counter("weft_things_total", "Things.", &["kind"]).with(&["a"]).increment();
        registry.counter("weft_sent_bytes_total", "Bytes.", &[]).with(&[]).add(3);
        let histogram = registry.histogram("weft_wait_seconds", "Waits.", &[]).with(&[]);
        histogram.record(Duration::from_millis(3));
        histogram.exemplify(Duration::from_millis(3), 0xabc);
        let text = registry.render_as(Instant::now(), Format::OpenMetrics);
        assert!(
            text.contains("# TYPE weft_things counter\n# HELP weft_things Things.\nweft_things_total{kind=\"a\"} 1\n")
        );
        assert!(text.contains("# TYPE weft_sent_bytes counter\n# UNIT weft_sent_bytes bytes\n"), "{text}");
        assert!(text.contains("# TYPE weft_wait_seconds histogram\n# UNIT weft_wait_seconds seconds\n"), "{text}");
        let line = text.lines().find(|line| line.starts_with("weft_wait_seconds_bucket{le=\"0.005\"}")).unwrap();
        assert!(line.starts_with(
            "weft_wait_seconds_bucket{le=\"0.005\"} 1 # {trace_id=\"00000000000000000000000000000abc\"} 0.003 "
        ));
        assert_eq!(text.matches(" # {").count(), 1);
        assert!(!registry.render(Instant::now()).contains("trace_id"));
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
