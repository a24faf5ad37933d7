//! What is looked at call by call: taps, which show calls as they end, and summaries of traffic, by which the control plane forecasts
//! changes. Only while somebody wants either; else a call costs one relaxed load.
//!
//! `filter` says which calls a tap is about, `draft` gathers what a record needs while a call is under way, `record` bounds and redacts it,
//! `traffic` counts calls that are alike, `template` says which paths are. Records wait in a bounded queue for the control stream, which
//! takes them when it can: what finds no room is counted and dropped, and no call ever waits.

mod draft;
mod filter;
mod record;
mod template;
mod traffic;

pub(crate) use draft::Draft;
pub(crate) use record::{Parties, Ruled};
pub(crate) use traffic::Addressed;

use super::{Direction, Outcome};
use arc_swap::ArcSwap;
use filter::Filter;
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};
use tokio::sync::mpsc;
use traffic::Traffic;
use weft_policy::limit::TokenBucket;
use weft_proto::v1;

/// Taps that may be open at once.
const TAPS: usize = 16;
/// Calls a second that a tap is told at most, and where it does not say.
const PER_SECOND: (u32, u32) = (1000, 100);
/// Seconds that a tap lasts at most, and where it does not say.
const SECONDS: u32 = 600;
/// Records that wait for the stream.
const QUEUE: usize = 512;
/// Records of one message: of some KiB each at most, and the control plane reads messages of 4 MiB.
const BATCH: usize = 128;

const WANTS_TAPS: u8 = 1;
const WANTS_TRAFFIC: u8 = 2;

/// What filters look at.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Facts<'f> {
    pub direction: Direction,
    pub source: &'f str,
    pub destination: &'f str,
    pub method: &'f str,
    /// With its query.
    pub path: &'f str,
    pub outcome: Outcome,
}

/// One open tap.
#[derive(Debug)]
struct Open {
    number: u64,
    filter: Filter,
    until: Instant,
    bucket: Mutex<TokenBucket>,
    dropped: AtomicU64,
}

/// What is wanted of calls, and what waits to be told of them. One a process.
#[derive(Debug)]
pub struct Watch {
    wants: AtomicU8,
    taps: ArcSwap<Vec<Arc<Open>>>,
    queue: (mpsc::Sender<v1::TappedCall>, Mutex<mpsc::Receiver<v1::TappedCall>>),
    traffic: Traffic,
}

impl Default for Watch {
    fn default() -> Self {
        let (sender, receiver) = mpsc::channel(QUEUE);
        Self {
            wants: AtomicU8::new(0),
            taps: ArcSwap::default(),
            queue: (sender, Mutex::new(receiver)),
            traffic: Traffic::default(),
        }
    }
}

impl Watch {
    /// Opens a tap, or replaces the one of that number.
    ///
    /// # Errors
    /// When its filter cannot be read, or too many are open.
    pub fn tap(&self, wire: v1::Tap, now: Instant) -> Result<(), String> {
        let v1::Tap { tap, filter, per_second, seconds } = wire;
        let filter = Filter::read(filter.unwrap_or_default())?;
        let rate = f64::from(if per_second == 0 { PER_SECOND.1 } else { per_second.min(PER_SECOND.0) });
        let seconds = if seconds == 0 { SECONDS } else { seconds.min(SECONDS) };
        let open = Open {
            number: tap,
            filter,
            until: now + Duration::from_secs(seconds.into()),
            bucket: Mutex::new(TokenBucket::new(rate, rate, now)),
            dropped: AtomicU64::new(0),
        };
        let mut all: Vec<_> = self.still_open(now).filter(|open| open.number != tap).collect();
        if all.len() >= TAPS {
            return Err(format!("{TAPS} taps are open"));
        }
        all.push(Arc::new(open));
        self.open(all);
        Ok(())
    }

    /// Closes a tap, if it is open.
    pub fn stop(&self, tap: u64, now: Instant) {
        self.open(self.still_open(now).filter(|open| open.number != tap).collect());
    }

    /// From now on calls are summarised, with the values of these names.
    pub fn summarise(&self, names: &v1::TrafficNames) {
        self.traffic.ask(names);
        self.wants.fetch_or(WANTS_TRAFFIC, Relaxed);
    }

    /// Nobody listens any more: all taps are closed, and what waits is forgotten.
    pub fn close(&self) {
        self.open(Vec::new());
        self.wants.store(0, Relaxed);
        self.traffic.forget();
        let mut queue = self.queue.1.lock();
        while queue.try_recv().is_ok() {}
    }

    fn still_open(&self, now: Instant) -> impl Iterator<Item = Arc<Open>> {
        let taps = self.taps.load_full();
        (0..taps.len()).filter_map(move |nth| taps.get(nth).filter(|open| open.until > now).map(Arc::clone))
    }

    fn open(&self, taps: Vec<Arc<Open>>) {
        if taps.is_empty() {
            self.wants.fetch_and(!WANTS_TAPS, Relaxed);
        } else {
            self.wants.fetch_or(WANTS_TAPS, Relaxed);
        }
        self.taps.store(Arc::new(taps));
    }

    /// Whether any tap is open.
    #[must_use]
    pub fn is_tapped(&self) -> bool {
        self.wants.load(Relaxed) & WANTS_TAPS != 0
    }

    /// What taps have seen since the last call, if anything; taps whose time is over are closed.
    pub fn tapped(&self, now: Instant) -> Option<v1::TappedCalls> {
        let taps = self.taps.load_full();
        let drops = taps.iter().filter_map(|open| {
            let calls = open.dropped.swap(0, Relaxed);
            (calls > 0).then_some(v1::TapDrops { tap: open.number, calls })
        });
        let drops: Vec<_> = drops.collect();
        if taps.iter().any(|open| open.until <= now) {
            self.open(self.still_open(now).collect());
        }
        let mut queue = self.queue.1.lock();
        let mut calls = Vec::new();
        while calls.len() < BATCH
            && let Ok(call) = queue.try_recv()
        {
            calls.push(call);
        }
        (!calls.is_empty() || !drops.is_empty()).then_some(v1::TappedCalls { calls, drops })
    }

    /// What was summarised since the last call, if anything.
    pub fn traffic(&self, now: Instant) -> Option<v1::TrafficReport> {
        self.traffic.take(now)
    }

    /// A call begins: what is to be gathered of it, if anything.
    #[inline]
    pub(crate) fn begin(
        &self,
        direction: Direction,
        head: &crate::codec::RequestHead,
        now: Instant,
    ) -> Option<Box<Draft>> {
        let wants = self.wants.load(Relaxed);
        if wants == 0 { None } else { self.drafted(wants, direction, head, now) }
    }

    #[cold]
    fn drafted(
        &self,
        wants: u8,
        direction: Direction,
        head: &crate::codec::RequestHead,
        now: Instant,
    ) -> Option<Box<Draft>> {
        let weight = if wants & WANTS_TRAFFIC == 0 { 0 } else { self.traffic.weight(now) };
        let is_tapped = wants & WANTS_TAPS != 0
            && self.taps.load().iter().any(|open| {
                // One that is full anyway needs no copy of the headers; its drops are counted when the call ends.
                open.filter.may_match(direction, head.method.as_str(), head.path.as_str())
                    && open.bucket.lock().tokens(now) >= 1.0
            });
        let counts = wants & WANTS_TAPS != 0 || weight > 0;
        counts.then(|| Box::new(Draft::begin(head, is_tapped, weight)))
    }

    /// An opaque connection that summaries count.
    pub(crate) fn connection(
        &self,
        direction: Direction,
        parties: &Parties<'_>,
        addressed: &Addressed<'_>,
        now: Instant,
    ) {
        if self.wants.load(Relaxed) & WANTS_TRAFFIC != 0 && self.is_told_here(direction, parties.source_identity) {
            self.traffic.connection(direction, parties, addressed, now);
        }
    }

    /// Callers tell their calls themselves, as far as they have a sidecar.
    fn is_told_here(&self, direction: Direction, source_identity: &str) -> bool {
        direction == Direction::Outbound || source_identity.is_empty()
    }

    /// A call has ended.
    #[cold]
    pub(crate) fn ended(&self, draft: Draft, parties: &Parties<'_>, facts: &Facts<'_>, ruled: &Ruled<'_>) {
        if draft.weight > 0
            && let Some(addressed) = &draft.addressed
            && self.is_told_here(facts.direction, parties.source_identity)
        {
            self.traffic.add(&draft, addressed, parties, facts);
        }
        // What was not gathered from the beginning was more than a tap takes, or began before it.
        let whole = draft.is_tapped();
        self.show(facts, ruled.ended, whole, || record::of(draft, parties, facts, ruled));
    }

    /// An opaque connection has ended.
    pub(crate) fn closed(&self, parties: &Parties<'_>, facts: &Facts<'_>, ruled: &Ruled<'_>) {
        if self.is_tapped() {
            self.show(facts, ruled.ended, true, || record::of(Draft::default(), parties, facts, ruled));
        }
    }

    fn show(&self, facts: &Facts<'_>, now: Instant, whole: bool, record: impl FnOnce() -> v1::TappedCall) {
        let taps = self.taps.load();
        let mut wanted = Vec::new();
        for open in taps.iter().filter(|open| open.until > now && open.filter.matches(facts)) {
            if !open.filter.draws(crate::random::draw()) {
                continue;
            }
            if whole && open.bucket.lock().take(1, now).is_ok() {
                wanted.push(open);
            } else {
                open.dropped.fetch_add(1, Relaxed);
            }
        }
        if wanted.is_empty() {
            return;
        }
        let Ok(place) = self.queue.0.try_reserve() else {
            for open in wanted {
                open.dropped.fetch_add(1, Relaxed);
            }
            return;
        };
        place.send(v1::TappedCall { taps: wanted.iter().map(|open| open.number).collect(), ..record() });
    }
}

#[cfg(test)]
mod tests;
