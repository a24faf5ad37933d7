//! An hour of golden metrics in memory: what sidecars reported, by service, by edge, by endpoint and by route. Pure.
//!
//! Two resolutions: steps of five seconds for the last two minutes, minutes for the last hour. Rows and samples are bounded. In a mesh so large that the
//! samples of its edges and endpoints would not fit, these go back less far, and the answer says how far; rows that do not fit are counted.
//! Latencies are the buckets of `weft_proto::LATENCY_BOUNDS_US`; a percentile is interpolated within its bucket.

mod counts;
pub mod history;
mod samples;

use super::Breaker;
use counts::{Counts, Packed};
use hashbrown::HashTable;
use samples::Samples;
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::hash::{BuildHasher as _, RandomState};
use std::sync::Arc;
use std::time::{Duration, Instant};
use weft_proto::{MAX_NUMBERED, v1};

/// Rows kept; a report of a further one is only counted.
pub const MAX_SERIES: usize = 100_000;
/// Samples kept of edges and endpoints together, of some forty bytes each.
const MAX_SAMPLES: usize = 320_000;
const FINE: Duration = Duration::from_secs(5);
/// Later than this after the end of a fine slot nothing is counted in it.
const LATE: Duration = Duration::from_millis(300);
const FINE_KEPT: u64 = 24;
const COARSE: Duration = Duration::from_secs(60);
const COARSE_KEPT: u64 = 60;
/// Of edges and endpoints, however many there are.
const LEAST_KEPT: (u64, u64) = (3, 2);
/// Longer names are no names of services, workloads or routes.
const MAX_NAME: usize = 512;

/// What a row is about, besides its destination. A service's own numbers are the sums of its routes', of what they gave to others, and of what others'
/// gave to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum About {
    /// By source.
    Edge,
    /// By endpoint.
    Endpoint,
    /// By route.
    Route,
    /// By route, where it gave calls to another service: the destination is the one that they were addressed to, the rest that other's name, a
    /// space, and the route's.
    Given,
}

impl About {
    /// Whether there may be so many of them that they cannot all go back an hour.
    const fn is_detail(self) -> bool {
        matches!(self, Self::Edge | Self::Endpoint)
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Key {
    about: About,
    inbound: bool,
    destination: Arc<str>,
    /// Source, endpoint or route.
    other: Arc<str>,
}

impl Key {
    /// The service that answered, and the rest of what the row is about.
    fn answered(&self) -> (&str, &str) {
        let given = self.other.split_once(' ').filter(|_| self.about == About::Given);
        given.unwrap_or((&self.destination, &self.other))
    }
}

#[derive(Clone, Debug)]
struct Series {
    key: Key,
    samples: Samples,
}

/// What a sidecar has named on its stream, by the number that it gave, and the rows that it counts in: nothing is looked up twice.
#[derive(Debug, Default)]
pub struct Known {
    named: Vec<Option<Of>>,
    /// The fine slot in which its last report was counted, and how many were.
    told: Option<(u64, u32)>,
}

impl Known {
    /// Writes the names of what was only numbered into a report that was added before.
    pub fn name(&self, calls: &mut [v1::CallStats]) {
        for stats in calls {
            let place = (stats.series as usize).checked_sub(1).and_then(|place| self.named.get(place)?.as_ref());
            let Some(of) = place else { continue };
            let names = [&mut stats.destination, &mut stats.endpoint, &mut stats.source, &mut stats.route];
            for (is, name) in names.into_iter().zip(&of.names) {
                name.as_ref().clone_into(is);
            }
            of.addressed.as_deref().unwrap_or_default().clone_into(&mut stats.addressed);
        }
    }

    /// The place of a number; `None`: it is out of bounds.
    fn place(&mut self, number: u32) -> Option<&mut Option<Of>> {
        let place = (number as usize).checked_sub(1).filter(|_| number <= MAX_NUMBERED)?;
        if self.named.len() <= place {
            self.named.reserve_exact(place + 1 - self.named.len());
            self.named.resize_with(place + 1, || None);
        }
        self.named.get_mut(place)
    }

    /// The fine slot that a report counts in. A pace that divides a slot gives each as many reports: one that comes a moment late belongs to the
    /// slot before, if that lacks it, so that a steady rate is a flat line.
    fn slot(&mut self, since: Duration, interval_ms: u32) -> u64 {
        let now = slot(since, FINE);
        let fine = FINE.as_millis() as u32;
        let each = (fine + interval_ms / 2).checked_div(interval_ms).unwrap_or_default();
        let is_steady = interval_ms.saturating_mul(each).abs_diff(fine) <= fine / 20;
        let is_late = since.saturating_sub(FINE * u32::try_from(now).unwrap_or(u32::MAX)) < LATE;
        let told_in = |slot| self.told.filter(|(of, _)| *of == slot).map_or(0, |(_, told)| told);
        let at = match (now.checked_sub(1), self.told) {
            (Some(before), Some((last, _)))
                if is_steady
                    && is_late
                    && [before, before.wrapping_sub(1)].contains(&last)
                    && told_in(before) < each =>
            {
                before
            }
            _ => now,
        };
        self.told = Some((at, told_in(at) + 1));
        at
    }
}

#[derive(Debug)]
struct Of {
    inbound: bool,
    /// Destination, endpoint, source, route.
    names: [Arc<str>; 4],
    /// The service that calls were addressed to, where it is not the destination.
    addressed: Option<Arc<str>>,
    /// Places of rows, [`NOWHERE`] for those that found no room.
    rows: [u32; 3],
    /// Of the rows; 0: they have not been looked up yet.
    epoch: u32,
}

/// No row has this place.
const NOWHERE: u32 = u32::MAX;

/// All rows.
#[derive(Debug)]
pub struct Golden {
    began: Instant,
    /// Places in `rows`, found by the keys that stand there.
    index: HashTable<u32>,
    hasher: RandomState,
    rows: Vec<Option<Series>>,
    free: Vec<u32>,
    /// Grows when rows go: then nobody may rely on what is known of theirs. Never 0.
    epoch: u32,
    /// Every name in use, once.
    names: HashSet<Arc<str>>,
    /// Source → sidecars that report calls of it: whose breakers belong to an edge.
    speakers: BTreeMap<String, BTreeSet<String>>,
    /// Destination → a row of it, of which a caller's sidecar reports.
    called: HashMap<Arc<str>, u32>,
    /// Workload → a row of calls to it, of which a caller's sidecar reports, whichever of its services they were for.
    met: HashMap<Arc<str>, u32>,
    /// Samples of edges and endpoints, and how many there may be.
    samples: usize,
    most: usize,
    /// How often the time that these go back was halved.
    depth: u32,
    /// The coarse slot in which the rows were last looked through.
    swept: u64,
    dropped: u64,
}

impl Default for Golden {
    fn default() -> Self {
        Self {
            began: Instant::now(),
            index: HashTable::new(),
            hasher: RandomState::new(),
            rows: Vec::new(),
            free: Vec::new(),
            epoch: 1,
            names: HashSet::new(),
            speakers: BTreeMap::new(),
            called: HashMap::new(),
            met: HashMap::new(),
            samples: 0,
            most: MAX_SAMPLES,
            depth: 0,
            swept: 0,
            dropped: 0,
        }
    }
}

/// Numbers of one row. `null` where there is no data.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Numbers {
    /// Calls a second, as applications saw them.
    pub rps: f64,
    /// Calls in the window.
    pub calls: u64,
    /// Failed calls in the window, after retries.
    pub failures: u64,
    /// Share of calls that succeeded after retries, 0 to 1.
    pub success: Option<f64>,
    /// Share of attempts that succeeded: what success would be without retries.
    pub success_before_retries: Option<f64>,
    /// Attempts sent upstream.
    pub attempts: u64,
    /// Failed attempts.
    pub failed_attempts: u64,
    /// Retries.
    pub retries: u64,
    /// Latency in milliseconds.
    pub p50_ms: Option<f64>,
    /// Latency in milliseconds.
    pub p95_ms: Option<f64>,
    /// Latency in milliseconds.
    pub p99_ms: Option<f64>,
    /// Share of calls whose hop was mutually authenticated, 0 to 1, of those that were sent to a peer.
    pub mtls: Option<f64>,
    /// Calls in the window that were sent to no peer: aborted by a fault, refused by the caller's sidecar, without an endpoint.
    pub unsent: u64,
    /// TCP connections opened.
    pub tcp_connections: u64,
    /// Bytes towards the destination.
    pub bytes_sent: u64,
    /// Bytes from it.
    pub bytes_received: u64,
}

/// A row of a table.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Row {
    /// "namespace/name" of the destination.
    pub service: String,
    /// "namespace/name" of the caller, in `edges` only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// Workload uid, in `endpoints` only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,
    /// Route, in `routes` only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub route: Option<String>,
    /// What was measured.
    #[serde(flatten)]
    pub numbers: Numbers,
    /// Breakers of callers that are open or half-open for it now.
    pub open_breakers: usize,
    /// Times that breakers for it opened since the sidecars that hold them started.
    pub breaker_openings: u64,
}

/// Calls by whom they were addressed to, and who answered.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Addressed {
    /// "namespace/name" of the service that they were addressed to.
    pub service: String,
    /// Of the one that answered: another where a route or a fallback gave them away.
    pub by: String,
    /// Route.
    pub route: String,
    /// What was measured.
    pub numbers: Numbers,
}

/// The answer to `weft stat`.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Stat {
    /// Seconds that the numbers of services and routes cover.
    pub window_seconds: f64,
    /// Seconds that the numbers of edges and endpoints cover: fewer where there are so many that not all of the window is kept.
    pub detail_seconds: f64,
    /// Calls addressed to a service or given to it by a route of another, as callers' sidecars saw them (as its own sidecar did, where no caller has
    /// one). What a route gives to another service stands under both.
    pub services: Vec<Row>,
    /// By the service that was addressed, the one that answered, and route.
    #[serde(skip)]
    pub addressed: Vec<Addressed>,
    /// By source and destination.
    pub edges: Vec<Row>,
    /// By endpoint.
    pub endpoints: Vec<Row>,
    /// By route.
    pub routes: Vec<Row>,
    /// Breakers that sidecars listed: those that are not closed, or ever were not.
    pub breakers: Vec<Breaker>,
    /// Reports that were not kept because there were too many series.
    pub dropped: u64,
}

impl Golden {
    /// Takes a report of a sidecar; `known` is what earlier ones of the same sidecar have left.
    pub fn add(&mut self, now: Instant, sidecar: &str, known: &mut Known, report: &v1::Report) {
        let since = now.saturating_duration_since(self.began);
        let (fine, coarse) = (slot(since, FINE), slot(since, COARSE));
        if self.swept != coarse {
            self.sweep(fine, coarse);
        }
        let told = known.slot(since, report.interval_ms);
        // What has no number is named each time.
        let mut unnumbered;
        for stats in &report.calls {
            let inbound = stats.direction == i32::from(v1::Direction::Inbound);
            let place = match stats.series {
                0 => {
                    unnumbered = None;
                    Some(&mut unnumbered)
                }
                number => known.place(number),
            };
            let Some(place) = place else {
                self.dropped += 1;
                continue;
            };
            let is_named =
                [&stats.destination, &stats.endpoint, &stats.source, &stats.route].iter().any(|n| !n.is_empty());
            if is_named {
                *place = self.named(stats, inbound);
            }
            let Some(of) = place else {
                self.dropped += 1;
                continue;
            };
            // A call is in the report of its caller and in that of its callee: the caller's word counts, where there is one. A callee tells of all calls
            // under its first service.
            if inbound && (self.is_told(&self.called, &of.names[0], fine) || self.is_told(&self.met, sidecar, fine)) {
                continue;
            }
            if of.epoch != self.epoch {
                of.rows = self.rows_of(sidecar, of);
                of.epoch = self.epoch;
            }
            let packed = Packed::of(stats);
            for row in of.rows {
                self.count(row, told, &packed);
            }
        }
        while self.samples > self.most && self.kept(About::Edge) > LEAST_KEPT {
            self.depth += 1;
            self.sweep(fine, coarse);
        }
    }

    /// Whether a caller's sidecar reports calls to this destination, or this workload.
    fn is_told(&self, of: &HashMap<Arc<str>, u32>, name: &str, fine: u64) -> bool {
        let row = of.get(name).and_then(|row| self.rows.get(*row as usize)?.as_ref());
        row.and_then(|row| row.samples.last()).is_some_and(|last| last + FINE_KEPT > fine)
    }

    /// What a sidecar names; `None`: its names are no names.
    fn named(&mut self, stats: &v1::CallStats, inbound: bool) -> Option<Of> {
        let names = [&stats.destination, &stats.endpoint, &stats.source, &stats.route];
        if names.iter().chain([&&stats.addressed]).any(|n| n.len() > MAX_NAME) {
            return None;
        }
        let is_given = !inbound && !stats.addressed.is_empty() && stats.addressed != stats.destination;
        Some(Of {
            inbound,
            addressed: is_given.then(|| self.name(&stats.addressed)),
            names: names.map(|text| self.name(text)),
            rows: [NOWHERE; 3],
            epoch: 0,
        })
    }

    fn rows_of(&mut self, sidecar: &str, of: &Of) -> [u32; 3] {
        let inbound = of.inbound;
        let [destination, endpoint, source, route] = &of.names;
        let endpoint = if inbound { self.name(sidecar) } else { endpoint.clone() };
        let by_route = match &of.addressed {
            Some(service) => (About::Given, service.clone(), self.name(&format!("{destination} {route}"))),
            None => (About::Route, destination.clone(), route.clone()),
        };
        let rows = [
            (About::Edge, destination.clone(), source.clone()),
            (About::Endpoint, destination.clone(), endpoint.clone()),
            by_route,
        ];
        let rows = rows.map(|(about, destination, other)| self.row(Key { about, inbound, destination, other }));
        if !inbound {
            let [edge, met, given] = rows;
            let tells = [(Some(destination), edge), (of.addressed.as_ref(), given)];
            let tells = tells.into_iter().filter_map(|(name, row)| Some((name?.clone(), row?)));
            self.called.extend(tells);
            self.met.extend(met.filter(|_| !endpoint.is_empty()).map(|row| (endpoint, row)));
            self.speaks(source, sidecar);
        }
        rows.map(|row| row.unwrap_or(NOWHERE))
    }

    fn row(&mut self, key: Key) -> Option<u32> {
        if let Some(row) = self.place(&key) {
            return Some(row);
        }
        if self.index.len() >= MAX_SERIES {
            return None;
        }
        let hash = self.hasher.hash_one(&key);
        let series = Series { key, samples: Samples::default() };
        let row = match self.free.pop() {
            Some(row) => {
                self.rows[row as usize] = Some(series);
                row
            }
            None => {
                self.rows.push(Some(series));
                u32::try_from(self.rows.len() - 1).ok()?
            }
        };
        let (rows, hasher) = (&self.rows, &self.hasher);
        let of = |row: &u32| rows.get(*row as usize)?.as_ref().map(|series| hasher.hash_one(&series.key));
        self.index.insert_unique(hash, row, |row| of(row).unwrap_or_default());
        Some(row)
    }

    fn place(&self, key: &Key) -> Option<u32> {
        let is = |row: &u32| matches!(self.rows.get(*row as usize), Some(Some(series)) if series.key == *key);
        self.index.find(self.hasher.hash_one(key), is).copied()
    }

    fn count(&mut self, row: u32, fine: u64, packed: &Packed) {
        let kept = [About::Edge, About::Route].map(|about| self.kept(about));
        let Some(series) = self.rows.get_mut(row as usize).and_then(Option::as_mut) else {
            self.dropped += 1;
            return;
        };
        let detail = series.key.about.is_detail();
        let before = series.samples.len();
        series.samples.add(fine, kept[usize::from(!detail)], packed);
        if detail {
            self.samples = self.samples + series.samples.len() - before;
        }
    }

    fn speaks(&mut self, source: &str, sidecar: &str) {
        if self.speakers.get(source).is_some_and(|speakers| speakers.contains(sidecar)) {
            return;
        }
        if self.speakers.len() < MAX_SERIES || self.speakers.contains_key(source) {
            let speakers = self.speakers.entry(source.to_owned()).or_default();
            if speakers.len() < MAX_SERIES {
                speakers.insert(sidecar.to_owned());
            }
        }
    }

    /// The one copy of a name.
    fn name(&mut self, text: &str) -> Arc<str> {
        if let Some(known) = self.names.get(text) {
            return known.clone();
        }
        let name: Arc<str> = text.into();
        self.names.insert(name.clone());
        name
    }

    /// Fine and coarse slots that rows of a kind go back.
    fn kept(&self, about: About) -> (u64, u64) {
        if about.is_detail() {
            ((FINE_KEPT >> self.depth).max(LEAST_KEPT.0), (COARSE_KEPT >> self.depth).max(LEAST_KEPT.1))
        } else {
            (FINE_KEPT, COARSE_KEPT)
        }
    }

    /// Lets go of what is too old, of rows without samples, and of names that no row has.
    fn sweep(&mut self, fine: u64, coarse: u64) {
        if self.swept != coarse && self.samples < self.most / 4 {
            self.depth = self.depth.saturating_sub(1);
        }
        self.swept = coarse;
        let kept = [About::Edge, About::Route].map(|about| self.kept(about));
        let mut samples = 0;
        for (row, place) in (0_u32..).zip(&mut self.rows) {
            let Some(series) = place else { continue };
            let detail = series.key.about.is_detail();
            series.samples.forget((fine, coarse), kept[usize::from(!detail)]);
            let left = series.samples.len();
            samples += if detail { left } else { 0 };
            if left == 0 {
                if let Ok(found) = self.index.find_entry(self.hasher.hash_one(&series.key), |of| *of == row) {
                    found.remove();
                }
                *place = None;
                self.free.push(row);
                self.epoch = self.epoch.wrapping_add(1).max(1);
            }
        }
        self.samples = samples;
        let rows = &self.rows;
        let of = |row: &u32| rows.get(*row as usize)?.as_ref().map(|series| &series.key);
        self.called
            .retain(|destination, row| of(row).is_some_and(|key| key.destination == *destination && !key.inbound));
        self.met.retain(|workload, row| of(row).is_some_and(|key| key.other == *workload && !key.inbound));
        // Whatever a row holds has a second owner.
        self.names.retain(|name| Arc::strong_count(name) > 1);
        let edges: HashSet<&str> = self
            .rows
            .iter()
            .flatten()
            .map(|series| &series.key)
            .filter(|k| k.about == About::Edge)
            .map(|k| k.other.as_ref())
            .collect();
        self.speakers.retain(|source, _| edges.contains(source.as_str()));
    }

    /// Sums up the last `window`.
    #[must_use]
    pub fn stat(&self, now: Instant, window: Duration, breakers: &[Breaker]) -> Stat {
        let since = now.saturating_duration_since(self.began);
        let window = window.clamp(FINE, COARSE * COARSE_KEPT as u32);
        let is_fine = window <= FINE * FINE_KEPT as u32;
        let step = if is_fine { FINE } else { COARSE };
        // Whole slots: of the oldest, all or nothing, whichever is nearer to the window.
        let from = slot(since.saturating_sub(window) + step / 2, step);
        let reach = |about: About| {
            let (fine, coarse) = self.kept(about);
            let oldest = (slot(since, step) + 1).saturating_sub(if is_fine { fine } else { coarse });
            let from = from.max(oldest);
            // No longer than the process has run, and not so short that a rate means nothing.
            (from, since.saturating_sub(step * u32::try_from(from).unwrap_or(u32::MAX)).as_secs_f64().max(1.0))
        };
        let breakers_of = by_destination(breakers);
        let mut called: HashSet<&str> = HashSet::new();
        let mut sums: Vec<(&Key, Counts)> = Vec::new();
        for series in self.rows.iter().flatten() {
            let key = &series.key;
            let mut counts = Counts::default();
            series.samples.sum(is_fine, reach(key.about).0, &mut counts);
            if counts.is_empty() {
                continue;
            }
            if !key.inbound {
                called.extend([&*key.destination, key.answered().0]);
            }
            sums.push((key, counts));
        }
        // Its own sidecar's word of what callers have told of, too, before their first report.
        sums.retain(|(key, _)| !key.inbound || !called.contains(key.destination.as_ref()));
        sums.sort_unstable_by_key(|(key, _)| *key);
        let row = |key: &Key, counts: &Counts| {
            let concerns = |b: &&&Breaker| match key.about {
                About::Endpoint => b.endpoint == *key.other,
                About::Edge => self.speakers.get(key.other.as_ref()).is_some_and(|s| s.contains(&b.sidecar)),
                About::Route | About::Given => true,
            };
            let of_it = breakers_of.get(key.destination.as_ref()).map(Vec::as_slice).unwrap_or_default();
            let other = |about| (key.about == about).then(|| key.other.to_string());
            Row {
                service: key.destination.to_string(),
                source: other(About::Edge),
                endpoint: other(About::Endpoint),
                route: other(About::Route),
                numbers: counts.numbers(reach(key.about).1),
                open_breakers: of_it.iter().filter(concerns).filter(|b| b.state != "closed").count(),
                breaker_openings: of_it.iter().filter(concerns).map(|b| b.opened).sum(),
            }
        };
        let (mut services, mut routes) = (BTreeMap::<Arc<str>, Counts>::new(), BTreeMap::<Key, Counts>::new());
        let of_routes = || sums.iter().filter(|(key, _)| matches!(key.about, About::Route | About::Given));
        for (key, counts) in of_routes() {
            let (answered, route) = key.answered();
            let own =
                Key { about: About::Route, destination: answered.into(), other: route.into(), inbound: key.inbound };
            for service in BTreeSet::from([&key.destination, &own.destination]) {
                services.entry(service.clone()).or_default().add(counts);
            }
            routes.entry(own).or_default().add(counts);
        }
        let of_service = |(service, counts): (Arc<str>, Counts)| {
            let key = Key { about: About::Given, inbound: false, destination: service, other: "".into() };
            row(&key, &counts)
        };
        let addressed = |(key, counts): &(&Key, Counts)| {
            let (by, route) = key.answered();
            let numbers = counts.numbers(reach(key.about).1);
            Addressed { service: key.destination.to_string(), by: by.to_owned(), route: route.to_owned(), numbers }
        };
        let table = |about| sums.iter().filter(|(k, _)| k.about == about).map(|(k, c)| row(k, c)).collect();
        Stat {
            window_seconds: reach(About::Route).1,
            detail_seconds: reach(About::Edge).1,
            addressed: of_routes().map(addressed).collect(),
            services: services.into_iter().map(of_service).collect(),
            edges: table(About::Edge),
            endpoints: table(About::Endpoint),
            routes: routes.iter().map(|(key, counts)| row(key, counts)).collect(),
            breakers: breakers.to_vec(),
            dropped: self.dropped,
        }
    }
}

/// Breakers by the service that they guard.
fn by_destination(breakers: &[Breaker]) -> HashMap<&str, Vec<&Breaker>> {
    let mut all: HashMap<&str, Vec<&Breaker>> = HashMap::new();
    for breaker in breakers {
        let of = breaker.backend.rsplit_once(':').map_or(breaker.backend.as_str(), |(service, _)| service);
        all.entry(of).or_default().push(breaker);
    }
    all
}

fn slot(since: Duration, step: Duration) -> u64 {
    since.as_secs() / step.as_secs()
}

#[cfg(test)]
mod tests;
