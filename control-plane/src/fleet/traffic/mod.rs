//! An hour of traffic in summary: which calls the sidecars carried, alike ones together, so that a change can be judged by them before it is
//! made ([`crate::plan`]). In memory only and bounded: at most [`SERIES`] series of at most [`KEY`] bytes, which is 12 MiB as meshes go
//! and 48 MiB at the very most, however many sidecars tell. What finds no room is counted by its edge.
//!
//! Sidecars add to series by what calls were, never by which of them tells: a service of a hundred instances has no more than one of two.

pub mod names;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};
use weft_proto::v1;

/// Series in all, and of one edge.
pub const SERIES: usize = 16_384;
const OF_EDGE: usize = 192;
/// Edges in all.
const EDGES: usize = 8192;
/// Bytes of what calls of a series have in common.
pub const KEY: usize = 2048;
/// Series of one report.
const OF_REPORT: usize = 1024;
/// How long is looked back, and in how many parts.
pub const WINDOW: Duration = Duration::from_secs(3600);
const SLOTS: usize = 12;
const SLOT: Duration = Duration::from_secs(WINDOW.as_secs() / SLOTS as u64);
/// Calls that are further apart than this are not of one flow: between them nothing counts as busy but this long.
const GAP: Duration = Duration::from_secs(12);

/// What calls of a series have in common, besides their edge.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Common {
    /// SPIFFE id of the caller; empty: it has none.
    pub identity: Box<str>,
    /// Port of the service; 0: unknown.
    pub port: u16,
    /// `http1`, `http2`, `grpc`, `tcp`.
    pub protocol: Box<str>,
    /// Method.
    pub method: Box<str>,
    /// Host.
    pub authority: Box<str>,
    /// Template of the path; `/…`: there were too many.
    pub path: Box<str>,
    /// Values of headers that policies name.
    pub headers: Vec<(Box<str>, Box<str>)>,
    /// Of query parameters.
    pub queries: Vec<(Box<str>, Box<str>)>,
}

impl Common {
    fn size(&self) -> usize {
        let pairs = self.headers.iter().chain(&self.queries).map(|(name, value)| name.len() + value.len() + 32);
        let texts = [&self.identity, &self.protocol, &self.method, &self.authority, &self.path];
        pairs.sum::<usize>() + texts.iter().map(|text| text.len()).sum::<usize>()
    }
}

/// Numbers of the last hour, forgotten part by part.
#[derive(Clone, Debug)]
struct Counts {
    slots: [u32; SLOTS],
    /// Milliseconds of each part in which calls came.
    busy: [u32; SLOTS],
    /// The part that is written, since the beginning.
    at: u64,
    last: Option<Instant>,
}

impl Counts {
    const fn new(at: u64) -> Self {
        Self { slots: [0; SLOTS], busy: [0; SLOTS], at, last: None }
    }

    /// Forgets what is older than an hour.
    fn turn(&mut self, to: u64) {
        for part in self.at.saturating_add(1)..=to.min(self.at.saturating_add(SLOTS as u64)) {
            let nth = usize::try_from(part % SLOTS as u64).unwrap_or_default();
            (self.slots[nth], self.busy[nth]) = (0, 0);
        }
        self.at = self.at.max(to);
    }

    fn add(&mut self, to: u64, calls: u64, first: Instant, last: Instant) {
        self.turn(to);
        let nth = usize::try_from(to % SLOTS as u64).unwrap_or_default();
        let busy = match self.last {
            Some(before) if first.saturating_duration_since(before) <= GAP => last.saturating_duration_since(before),
            Some(_) => GAP + last.saturating_duration_since(first),
            None => last.saturating_duration_since(first),
        };
        self.last = self.last.max(Some(last));
        let small = |number: u128| u32::try_from(number).unwrap_or(u32::MAX);
        self.slots[nth] = self.slots[nth].saturating_add(small(calls.into()));
        self.busy[nth] = self.busy[nth].saturating_add(small(busy.as_millis()));
    }

    fn calls(&self) -> u64 {
        self.slots.iter().map(|calls| u64::from(*calls)).sum()
    }

    fn busy(&self) -> Duration {
        Duration::from_millis(self.busy.iter().map(|millis| u64::from(*millis)).sum())
    }
}

#[derive(Debug, Default)]
struct Edge {
    /// By what they have in common, in order: most edges have a few, and a table of few is mostly empty.
    series: Vec<(Common, Counts)>,
    overflow: u64,
}

/// One series as it is read.
#[derive(Clone, Debug)]
pub struct Series {
    /// "namespace/name" of the caller; empty: unknown.
    pub source: String,
    /// Of the service that was called.
    pub destination: String,
    /// What the calls have in common.
    pub common: Common,
    /// Calls of the last hour.
    pub calls: u64,
    /// How long calls came in it.
    pub busy: Duration,
}

/// Everything that is known.
#[derive(Clone, Debug, Default)]
pub struct Read {
    /// Most calls first.
    pub series: Vec<Series>,
    /// Calls of which no more than their edge is known: source, destination, calls.
    pub overflow: Vec<(String, String, u64)>,
    /// How far back it goes.
    pub window: Duration,
    /// Names whose values sidecars were told to tell.
    pub names: names::Names,
}

/// The store.
#[derive(Debug)]
pub struct Traffic {
    edges: BTreeMap<(String, String), Edge>,
    series: usize,
    began: Instant,
    swept: u64,
    /// What sidecars are told to look at.
    pub(super) names: names::Names,
}

impl Default for Traffic {
    fn default() -> Self {
        Self { edges: BTreeMap::new(), series: 0, began: Instant::now(), swept: 0, names: names::Names::default() }
    }
}

impl Traffic {
    fn slot(&self, now: Instant) -> u64 {
        now.saturating_duration_since(self.began).as_secs() / SLOT.as_secs()
    }

    /// Adds what the sidecar of a workload tells. It may speak of its own namespace's callers, and of strangers' calls to it.
    pub fn add(&mut self, now: Instant, uid: &str, report: v1::TrafficReport) {
        let slot = self.slot(now);
        if slot > self.swept {
            self.sweep(slot);
        }
        let own = uid.split_once('/').map_or("", |(namespace, _)| namespace);
        for told in report.series.into_iter().take(OF_REPORT) {
            let is_own = match told.direction() {
                v1::Direction::Outbound => {
                    super::web::is_of(&told.source, own)
                        && weft_policy::config::identity_parts(&told.source_identity)
                            .is_some_and(|(_, ns, _)| ns == own)
                }
                v1::Direction::Inbound => told.source_identity.is_empty() && super::web::is_of(&told.destination, own),
                v1::Direction::Unspecified => false,
            };
            if is_own {
                self.one(now, slot, told);
            }
        }
        for lost in report.overflow.into_iter().take(OF_REPORT) {
            if super::web::is_of(&lost.source, own) || super::web::is_of(&lost.destination, own) {
                let key = (lost.source, lost.destination);
                if let Some(edge) = edge(&mut self.edges, key) {
                    edge.overflow = edge.overflow.saturating_add(lost.calls);
                }
            }
        }
    }

    fn one(&mut self, now: Instant, slot: u64, told: v1::TrafficSeries) {
        let pairs =
            |all: Vec<v1::HeaderValue>| all.into_iter().map(|one| (one.name.into(), one.value.into())).collect();
        let common = Common {
            identity: told.source_identity.into(),
            port: u16::try_from(told.port).unwrap_or_default(),
            protocol: told.protocol.into(),
            method: told.method.into(),
            authority: told.authority.into(),
            path: told.path.into(),
            headers: pairs(told.headers),
            queries: pairs(told.queries),
        };
        let ago = |millis: u32| now.checked_sub(Duration::from_millis(millis.into())).unwrap_or(now);
        let (first, last) = (ago(told.first_ms), ago(told.last_ms.min(told.first_ms)));
        let is_room = self.series < SERIES && common.size() <= KEY;
        let names = told.source.len() + told.destination.len() <= KEY;
        let Some(edge) = edge(&mut self.edges, (told.source, told.destination)).filter(|_| names) else { return };
        let of_edge = edge.series.len();
        match edge.series.binary_search_by(|(own, _)| own.cmp(&common)) {
            Ok(at) => edge.series[at].1.add(slot, told.calls, first, last),
            Err(at) if is_room && of_edge < OF_EDGE => {
                let mut counts = Counts::new(slot);
                counts.add(slot, told.calls, first, last);
                if of_edge == edge.series.capacity() {
                    edge.series.reserve_exact(1 + of_edge / 4);
                }
                edge.series.insert(at, (common, counts));
                self.series += 1;
            }
            Err(_) => edge.overflow = edge.overflow.saturating_add(told.calls),
        }
    }

    /// Forgets series without calls for an hour.
    fn sweep(&mut self, slot: u64) {
        // What is only counted has no parts of an hour: it is forgotten once an hour.
        let hour = SLOTS as u64;
        let is_over = slot / hour > self.swept / hour;
        self.swept = slot;
        self.series = 0;
        self.edges.retain(|_, edge| {
            edge.series.retain_mut(|(_, counts)| {
                counts.turn(slot);
                counts.calls() > 0
            });
            if is_over {
                edge.overflow = 0;
            }
            self.series += edge.series.len();
            !edge.series.is_empty() || edge.overflow > 0
        });
    }

    /// What is known now of calls that begin or end in a namespace; empty: in any.
    #[must_use]
    pub fn read(&mut self, now: Instant, namespace: &str) -> Read {
        let slot = self.slot(now);
        self.sweep(slot);
        let mut read = Read { names: self.names.clone(), ..Read::default() };
        read.window = now.saturating_duration_since(self.began).min(WINDOW);
        for ((source, destination), edge) in &self.edges {
            if !super::web::is_of(source, namespace) && !super::web::is_of(destination, namespace) {
                continue;
            }
            if edge.overflow > 0 {
                read.overflow.push((source.clone(), destination.clone(), edge.overflow));
            }
            read.series.extend(edge.series.iter().map(|(common, counts)| Series {
                source: source.clone(),
                destination: destination.clone(),
                common: common.clone(),
                calls: counts.calls(),
                busy: counts.busy(),
            }));
        }
        read.series.sort_by(|a, b| b.calls.cmp(&a.calls).then_with(|| a.common.path.cmp(&b.common.path)));
        read
    }
}

fn edge(edges: &mut BTreeMap<(String, String), Edge>, key: (String, String)) -> Option<&mut Edge> {
    let is_room = edges.len() < EDGES || edges.contains_key(&key);
    is_room.then(|| edges.entry(key).or_default())
}

#[cfg(test)]
mod tests;
