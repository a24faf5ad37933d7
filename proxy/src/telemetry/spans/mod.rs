//! Spans of calls on their way out: which calls are traced, and a bounded queue from the workers to one task that exports them.
//!
//! A call that is not traced costs one load. One that is costs a record in the queue, under a lock that nobody holds for long; what finds
//! the queue full is dropped and counted, so that a receiver that is slow or gone costs spans, never calls. The record is `call`, what it
//! becomes on the wire `encode`, the task `export`, the ways to a receiver `wire`.

pub mod call;
mod encode;
pub mod export;
mod wire;

use super::metrics::{Counter, Family, Registry};
use call::Call;
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicU8, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::time::Duration;
use tokio::sync::Notify;
use weft_policy::config::Tracing;
use weft_policy::trace::{Formats, Ratio};

/// Spans that may wait…
const QUEUE_SPANS: usize = 4096;
/// …and the bytes that they may have.
const QUEUE_BYTES: usize = 4 << 20;
/// Spans that are sent together…
const BATCH_SPANS: usize = 512;
/// …and their bytes: receivers take messages of 4 MiB.
const BATCH_BYTES: usize = 1 << 20;

/// Which calls are traced, and how a trace that begins here is written.
#[derive(Clone, Copy, Debug)]
pub struct Sampling {
    /// Of the traces that begin here.
    pub ratio: Ratio,
    /// Of the traces that begin here.
    pub formats: Formats,
}

/// The queue of one process.
#[derive(Debug)]
pub struct Spans {
    /// 0: off; else one more than the ratio's threshold.
    state: AtomicU64,
    formats: AtomicU8,
    waiting: Mutex<Waiting>,
    ready: Notify,
    /// Spans in the queue or under way.
    pending: AtomicUsize,
    closing: Notify,
    exported: Counter,
    dropped: Family<Counter>,
    found_full: Counter,
}

#[derive(Debug, Default)]
struct Waiting {
    calls: VecDeque<Box<Call>>,
    spans: usize,
    bytes: usize,
}

const W3C: u8 = 1;
const B3_SINGLE: u8 = 2;
const B3_MULTI: u8 = 4;

impl Spans {
    pub(super) fn new(registry: &Registry) -> Self {
        let dropped = registry.counter(
            "weft_spans_dropped_total",
            "Spans that were made and not delivered, by why.",
            &["reason"],
        );
        Self {
            state: AtomicU64::new(0),
            formats: AtomicU8::new(0),
            waiting: Mutex::default(),
            ready: Notify::new(),
            pending: AtomicUsize::new(0),
            closing: Notify::new(),
            exported: registry.counter("weft_spans_exported_total", "Spans that a receiver took.", &[]).with(&[]),
            found_full: dropped.with(&["queue_full"]),
            dropped,
        }
    }

    /// Which calls are traced; `None`: none.
    #[inline]
    pub fn sampling(&self) -> Option<Sampling> {
        let threshold = self.state.load(Relaxed).checked_sub(1)?;
        let formats = self.formats.load(Relaxed);
        Some(Sampling {
            ratio: Ratio::of_threshold(threshold),
            formats: Formats {
                w3c: formats & W3C != 0,
                b3_single: formats & B3_SINGLE != 0,
                b3_multi: formats & B3_MULTI != 0,
            },
        })
    }

    /// From now on calls are traced like this. Off, what waits is dropped.
    fn configure(&self, tracing: Option<&Tracing>) {
        let Some(tracing) = tracing else {
            self.state.store(0, Relaxed);
            return self.take(usize::MAX, usize::MAX).given_up("off");
        };
        let formats = &tracing.formats;
        let bit = |set: bool, bit: u8| if set { bit } else { 0 };
        let bits = bit(formats.w3c, W3C) | bit(formats.b3_single, B3_SINGLE) | bit(formats.b3_multi, B3_MULTI);
        self.formats.store(bits, Relaxed);
        self.state.store(Ratio::new(tracing.ratio).threshold() + 1, Relaxed);
    }

    /// Hands over the spans of a call that has ended. Never waits.
    pub fn push(&self, call: Box<Call>) {
        let (spans, bytes) = (call.spans(), call.bytes());
        let mut waiting = self.waiting.lock();
        if waiting.spans + spans > QUEUE_SPANS || waiting.bytes + bytes > QUEUE_BYTES {
            drop(waiting);
            self.found_full.add(spans as u64);
            return;
        }
        let before = waiting.spans;
        waiting.calls.push_back(call);
        waiting.spans += spans;
        waiting.bytes += bytes;
        self.pending.fetch_add(spans, Relaxed);
        let wakes = before == 0 || (before < BATCH_SPANS && waiting.spans >= BATCH_SPANS);
        drop(waiting);
        if wakes {
            self.ready.notify_one();
        }
    }

    /// The oldest calls that waited, as many as go together.
    fn take(&self, spans: usize, bytes: usize) -> Batch<'_> {
        let mut waiting = self.waiting.lock();
        let mut batch = Batch { of: self, calls: VecDeque::new(), spans: 0, reason: "cut" };
        let mut taken = 0;
        while let Some(call) = waiting.calls.pop_front() {
            waiting.spans -= call.spans();
            waiting.bytes -= call.bytes();
            taken += call.bytes();
            batch.spans += call.spans();
            batch.calls.push_back(call);
            if batch.spans >= spans || taken >= bytes {
                break;
            }
        }
        if waiting.calls.is_empty() {
            // A burst must not keep its room for ever.
            waiting.calls = VecDeque::new();
        }
        batch
    }

    /// Waits until spans wait, and then until they are a whole batch or `gather` has passed.
    async fn batch(&self, gather: Duration) -> Batch<'_> {
        loop {
            if self.waiting.lock().spans > 0 {
                break;
            }
            self.ready.notified().await;
        }
        let gathered = async {
            while self.waiting.lock().spans < BATCH_SPANS {
                self.ready.notified().await;
            }
        };
        tokio::select! {
            _ = tokio::time::timeout(gather, gathered) => {}
            () = self.closing.notified() => {}
        }
        self.take(BATCH_SPANS, BATCH_BYTES)
    }

    /// Waits until what was handed over has been delivered or dropped, at most for `patience`. For the end of the process.
    pub async fn drained(&self, patience: Duration) {
        let emptied = async {
            while self.pending.load(Relaxed) > 0 {
                self.closing.notify_waiters();
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        let _ = tokio::time::timeout(patience, emptied).await;
    }
}

/// Calls whose spans are being sent. Dropped before [`Batch::delivered`] they count as dropped, for `reason`.
#[derive(Debug)]
struct Batch<'s> {
    of: &'s Spans,
    calls: VecDeque<Box<Call>>,
    spans: usize,
    reason: &'static str,
}

impl Batch<'_> {
    /// The receiver took all but so many.
    fn delivered(mut self, but: usize) {
        let but = but.min(self.spans);
        self.of.exported.add((self.spans - but) as u64);
        if but > 0 {
            self.of.dropped.with(&["rejected"]).add(but as u64);
        }
        self.of.pending.fetch_sub(self.spans, Relaxed);
        self.spans = 0;
    }

    /// It is not to be had.
    fn given_up(mut self, reason: &'static str) {
        self.reason = reason;
    }
}

impl Drop for Batch<'_> {
    fn drop(&mut self) {
        if self.spans > 0 {
            self.of.dropped.with(&[self.reason]).add(self.spans as u64);
            self.of.pending.fetch_sub(self.spans, Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use weft_policy::config::{Receiver, Transport};

    fn tracing(ratio: f64) -> Tracing {
        let receiver = Receiver::parse("http://192.0.2.7:4317", Transport::Grpc).unwrap();
        Tracing {
            receiver,
            transport: Transport::Grpc,
            ratio,
            formats: Formats { b3_multi: true, ..Formats::default() },
        }
    }

    fn counted(registry: &Registry, line: &str) -> bool {
        registry.render(std::time::Instant::now()).lines().any(|have| have == line)
    }

    #[test]
    fn sampling_is_off_until_somebody_says_where_spans_go() {
        let spans = Spans::new(&Registry::default());
        assert!(spans.sampling().is_none());
        spans.configure(Some(&tracing(0.0)));
        let none = spans.sampling().unwrap();
        assert!(!none.ratio.holds(1) && none.formats.b3_multi && !none.formats.w3c);
        spans.configure(Some(&tracing(1.0)));
        assert!(spans.sampling().unwrap().ratio.holds(u128::MAX));
        spans.configure(None);
        assert!(spans.sampling().is_none());
    }

    #[test]
    fn what_finds_the_queue_full_is_dropped_and_counted_and_memory_is_bounded() {
        let registry = Registry::default();
        let spans = Spans::new(&registry);
        for _ in 0..2 * QUEUE_SPANS {
            spans.push(Box::new(call::tests::call("/items")));
        }
        let per_call = call::tests::call("/items").spans();
        assert_eq!(spans.waiting.lock().spans, QUEUE_SPANS / per_call * per_call);
        let dropped = (2 * QUEUE_SPANS - QUEUE_SPANS / per_call) * per_call;
        assert!(counted(&registry, &format!("weft_spans_dropped_total{{reason=\"queue_full\"}} {dropped}")));
        spans.configure(None);
        let left = spans.waiting.lock();
        assert_eq!((left.spans, left.bytes), (0, 0));
        drop(left);
        assert_eq!(spans.pending.load(Relaxed), 0);
        let long = "x".repeat(1 << 20);
        for _ in 0..QUEUE_SPANS / per_call {
            spans.push(Box::new(call::tests::call(&long)));
        }
        assert!(spans.waiting.lock().bytes <= QUEUE_BYTES);
    }

    #[test]
    fn a_batch_that_nobody_took_counts_as_dropped_and_one_that_was_taken_does_not() {
        let registry = Registry::default();
        let spans = Spans::new(&registry);
        let per_call = call::tests::call("/items").spans();
        (0..4).for_each(|_| spans.push(Box::new(call::tests::call("/items"))));
        drop(spans.take(1, usize::MAX));
        spans.take(1, usize::MAX).given_up("unreachable");
        spans.take(usize::MAX, usize::MAX).delivered(1);
        assert!(counted(&registry, &format!("weft_spans_dropped_total{{reason=\"cut\"}} {per_call}")));
        assert!(counted(&registry, &format!("weft_spans_dropped_total{{reason=\"unreachable\"}} {per_call}")));
        assert!(counted(&registry, "weft_spans_dropped_total{reason=\"rejected\"} 1"));
        assert!(counted(&registry, &format!("weft_spans_exported_total {}", 2 * per_call - 1)));
        assert_eq!(spans.pending.load(Relaxed), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_whole_batch_goes_at_once_and_less_waits_for_company() {
        let spans = Spans::new(&Registry::default());
        let start = tokio::time::Instant::now();
        spans.push(Box::new(call::tests::call("/items")));
        assert_eq!(spans.batch(Duration::from_secs(1)).await.calls.len(), 1);
        assert_eq!(start.elapsed(), Duration::from_secs(1));
        (0..BATCH_SPANS).for_each(|_| spans.push(Box::new(call::tests::call("/items"))));
        let start = tokio::time::Instant::now();
        assert!(spans.batch(Duration::from_secs(1)).await.spans >= BATCH_SPANS);
        assert!(start.elapsed().is_zero());
    }
}
