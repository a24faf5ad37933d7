//! What a run measured: latencies, counts, failures, and their JSON.

use crate::clock::{self, SECOND};
use crate::failure::{Failure, Failures};
use hdrhistogram::Histogram;
use serde_json::{Map, Value, json};
use std::cell::{Cell, RefCell};

/// Finest step and longest value of a latency in nanoseconds; what is longer counts as the longest.
const FINEST: u64 = 128;
const LONGEST: u64 = 600 * SECOND;

/// A histogram of nanoseconds to three digits.
pub struct Spread(RefCell<Histogram<u64>>);

impl Default for Spread {
    fn default() -> Self {
        let histogram = Histogram::new_with_bounds(FINEST, LONGEST, 3);
        // The bounds are constants that the constructor accepts; three digits alone always are.
        Self(RefCell::new(histogram.unwrap_or_else(|_| unreachable!("constant bounds"))))
    }
}

impl Spread {
    /// One value, nanoseconds.
    pub fn record(&self, nanos: u64) {
        self.0.borrow_mut().saturating_record(nanos);
    }

    /// A quantile from 0 to 1, microseconds.
    pub fn micros(&self, quantile: f64) -> f64 {
        micros(self.0.borrow().value_at_quantile(quantile) as f64)
    }

    /// The values of another too.
    pub fn add(&self, other: &Self) {
        // Cannot fail: both have the same bounds.
        let _same_bounds = self.0.borrow_mut().add(&*other.0.borrow());
    }

    /// `latencyUs` of the results.
    pub fn json(&self) -> Value {
        let histogram = self.0.borrow();
        if histogram.is_empty() {
            return Value::Null;
        }
        let at = |q| micros(histogram.value_at_quantile(q) as f64);
        json!({
            "min": micros(histogram.min() as f64), "mean": micros(histogram.mean()), "p50": at(0.5), "p90": at(0.9), "p99": at(0.99),
            "p999": at(0.999), "max": micros(histogram.max() as f64),
        })
    }
}

/// Nanoseconds to microseconds with one decimal.
pub fn micros(nanos: f64) -> f64 {
    (nanos / 100.0).round() / 10.0
}

/// A number rounded for people to read.
pub fn rounded(value: f64, digits: i32) -> f64 {
    let scale = 10f64.powi(digits);
    (value * scale).round() / scale
}

/// What workers write into while they run.
#[derive(Default)]
pub struct Tally {
    pub latency: Spread,
    /// Right answers within the measured time.
    pub requests: Cell<u64>,
    /// All right answers.
    pub total: Cell<u64>,
    /// Body bytes received within the measured time.
    pub bytes: Cell<u64>,
    /// Connections opened.
    pub opened: Cell<u64>,
    pub failures: Failures,
}

/// Adds to a counter.
pub fn add(cell: &Cell<u64>, more: u64) {
    cell.set(cell.get() + more);
}

impl Tally {
    /// A right answer of `bytes` after `nanos`, measured or not.
    pub fn right(&self, measured: bool, nanos: u64, bytes: u64) {
        add(&self.total, 1);
        if measured {
            add(&self.requests, 1);
            add(&self.bytes, bytes);
            self.latency.record(nanos);
        }
    }

    /// A wrong one.
    pub fn wrong(&self, failure: Failure) {
        self.failures.add(failure);
    }

    /// The fields that all modes share.
    pub fn json(&self, mode: &str, nanos: u64) -> Map<String, Value> {
        let seconds = nanos as f64 / SECOND as f64;
        let mut map = Map::new();
        map.insert("mode".into(), mode.into());
        map.insert("requests".into(), self.requests.get().into());
        map.insert("total".into(), self.total.get().into());
        map.insert("errors".into(), self.failures.json());
        map.insert("seconds".into(), rounded(seconds, 6).into());
        map.insert("perSecond".into(), per_second(self.requests.get(), nanos).into());
        map.insert("bytes".into(), self.bytes.get().into());
        map.insert("opened".into(), self.opened.get().into());
        map.insert("cpuSeconds".into(), rounded(clock::cpu_seconds(), 6).into());
        map.insert("latencyUs".into(), self.latency.json());
        map
    }

    /// One line for people.
    pub fn line(&self, what: &str, nanos: u64) -> String {
        format!(
            "{what}: {:.0} a second, {} in {:.2} s, p50 {:.0} µs, p99 {:.0} µs, {} errors",
            per_second(self.requests.get(), nanos),
            self.requests.get(),
            nanos as f64 / SECOND as f64,
            self.latency.micros(0.5),
            self.latency.micros(0.99),
            self.failures.total(),
        )
    }
}

/// A rate with one decimal; 0 of no time.
pub fn per_second(count: u64, nanos: u64) -> f64 {
    if nanos == 0 { 0.0 } else { rounded(count as f64 * SECOND as f64 / nanos as f64, 1) }
}
