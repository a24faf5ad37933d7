//! Summaries: calls that are alike, counted together, in bounded memory. Alike are calls of one caller to one port of one service, with the
//! same method, host, path template, and values of what policies ask for.
//!
//! A sidecar with few calls counts each. One with many counts some, each for several, so that what it costs a call goes towards nothing.

use super::draft::Owned;
use super::template::template;
use super::{Draft, Facts, Parties};
use crate::codec::RequestHead;
use crate::telemetry::Direction;
use arc_swap::ArcSwap;
use foldhash::{HashMap, HashSet};
use http::HeaderName;
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};
use weft_policy::route::split_target;
use weft_proto::v1;

/// Series between two reports; calls beyond are counted by their edge alone.
const SERIES: usize = 512;
/// Edges of calls beyond.
const EDGES: usize = 64;
/// Paths of one service that are told apart, and services whose paths are; more of them are `/…`.
const PATHS: usize = 64;
const SERVICES: usize = 256;
/// After this long paths are told apart anew: what was called once does not keep others out for ever.
const ANEW: Duration = Duration::from_secs(600);
/// Names that are heeded, of headers and of query parameters.
const NAMES: usize = 64;
/// Bytes of a name or a value; longer ones are not told.
const TEXT: usize = 128;
/// Calls of one second that are counted one by one; after them every 16th counts for 16.
const EACH: u32 = 200;
const EVERY: u32 = 16;

/// Whom a call was addressed to.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Addressed<'a> {
    pub service: &'a Arc<str>,
    pub port: u16,
}

/// What alike calls have in common.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Key {
    direction: Direction,
    source: Box<str>,
    source_identity: Box<str>,
    service: Arc<str>,
    port: u16,
    protocol: Box<str>,
    method: Box<str>,
    authority: Box<str>,
    path: String,
    headers: Vec<(Arc<str>, Box<str>)>,
    queries: Vec<(Arc<str>, Box<str>)>,
}

#[derive(Debug)]
struct Counts {
    calls: u64,
    denied: u64,
    limited: u64,
    failed: u64,
    first: Instant,
    last: Instant,
}

#[derive(Debug, Default)]
struct Counted {
    series: HashMap<Key, Counts>,
    overflow: HashMap<(Box<str>, Arc<str>), u64>,
    paths: HashMap<Arc<str>, HashSet<Box<str>>>,
    since: Option<Instant>,
}

/// What calls are asked for.
#[derive(Debug, Default)]
struct Names {
    headers: Vec<(HeaderName, Arc<str>)>,
    queries: Vec<Arc<str>>,
}

/// The counts, shared by all workers.
#[derive(Debug)]
pub(super) struct Traffic {
    names: ArcSwap<Names>,
    counted: Mutex<Counted>,
    began: Instant,
    /// The second that is under way, since `began`, and the calls in it.
    second: AtomicU64,
    in_it: AtomicU32,
}

impl Default for Traffic {
    fn default() -> Self {
        Self {
            names: ArcSwap::default(),
            counted: Mutex::default(),
            began: Instant::now(),
            second: AtomicU64::new(0),
            in_it: AtomicU32::new(0),
        }
    }
}

impl Traffic {
    /// The names whose values are told from now on. Those of credentials never are.
    pub fn ask(&self, names: &v1::TrafficNames) {
        let fits = |name: &&String| name.len() <= TEXT;
        let headers = names.headers.iter().filter(fits).filter_map(|name| {
            let read = HeaderName::from_bytes(name.as_bytes()).ok()?;
            let told = !crate::telemetry::redact::is_secret(read.as_str(), b"");
            told.then(|| (read.clone(), Arc::from(read.as_str())))
        });
        let queries = names.queries.iter().filter(fits);
        let queries = queries.filter(|name| !crate::telemetry::redact::is_secret_parameter(name.as_bytes()));
        let queries = queries.map(|name| Arc::from(name.as_str()));
        self.names
            .store(Arc::new(Names { headers: headers.take(NAMES).collect(), queries: queries.take(NAMES).collect() }));
    }

    /// Forgets what was counted.
    pub fn forget(&self) {
        *self.counted.lock() = Counted::default();
    }

    /// For how many calls one that begins now is counted; 0: it is not.
    pub fn weight(&self, now: Instant) -> u32 {
        let second = now.saturating_duration_since(self.began).as_secs();
        // Two workers that begin a second together may lose a call of it: these are summaries.
        if self.second.swap(second, Relaxed) != second {
            self.in_it.store(0, Relaxed);
        }
        match self.in_it.fetch_add(1, Relaxed) {
            nth if nth < EACH => 1,
            nth if (nth - EACH).is_multiple_of(EVERY) => EVERY,
            _ => 0,
        }
    }

    /// What a call says of what is asked for.
    pub fn named(&self, to: &Addressed<'_>, head: &RequestHead) -> Owned {
        let names = self.names.load();
        let is_told = |value: &str| value.len() <= TEXT;
        let headers = names.headers.iter().filter_map(|(name, text)| {
            let value = head.headers.text(name).filter(|value| is_told(value))?;
            Some((Arc::clone(text), value.into()))
        });
        let (_, query) = split_target(head.path.as_str());
        let pairs = || query.into_iter().flat_map(|query| query.split('&')).filter_map(|pair| pair.split_once('='));
        let queries = names.queries.iter().filter_map(|name| {
            let (_, value) = pairs().find(|(own, value)| **own == **name && is_told(value))?;
            Some((Arc::clone(name), value.into()))
        });
        Owned {
            service: Arc::clone(to.service),
            port: to.port,
            headers: headers.collect(),
            queries: if names.queries.is_empty() { Vec::new() } else { queries.collect() },
        }
    }

    /// Counts a call that has ended.
    pub fn add(&self, draft: &Draft, to: &Owned, parties: &Parties<'_>, facts: &Facts<'_>) {
        let outcome = &facts.outcome;
        let now = tokio::time::Instant::now().into_std();
        let key = Key {
            direction: facts.direction,
            source: parties.source.into(),
            source_identity: parties.source_identity.into(),
            service: Arc::clone(&to.service),
            port: to.port,
            protocol: parties.protocol.into(),
            method: facts.method.into(),
            authority: parties.authority.get(..TEXT.min(parties.authority.len())).unwrap_or_default().into(),
            path: template(facts.path),
            headers: to.headers.clone(),
            queries: to.queries.clone(),
        };
        let denied = matches!(outcome.status, 401 | 403) || matches!(outcome.grpc_status, Some(7 | 16));
        let limited = outcome.status == 429 || (outcome.grpc_status == Some(8) && !outcome.reason.is_empty());
        let (weight, began) = (u64::from(draft.weight), now.checked_sub(outcome.duration).unwrap_or(now));
        self.count(
            key,
            [weight, weight * u64::from(denied), weight * u64::from(limited), weight * u64::from(outcome.failed())],
            began,
        );
    }

    /// Counts an opaque connection that is opened.
    pub fn connection(&self, direction: Direction, parties: &Parties<'_>, to: &Addressed<'_>, now: Instant) {
        let key = Key {
            direction,
            source: parties.source.into(),
            source_identity: parties.source_identity.into(),
            service: Arc::clone(to.service),
            port: to.port,
            protocol: "tcp".into(),
            method: Box::default(),
            authority: Box::default(),
            path: String::new(),
            headers: Vec::new(),
            queries: Vec::new(),
        };
        self.count(key, [1, 0, 0, 0], now);
    }

    fn count(&self, mut key: Key, [calls, denied, limited, failed]: [u64; 4], at: Instant) {
        let mut counted = self.counted.lock();
        if !counted.knows(&key.service, &key.path) {
            key.path.clear();
            key.path.push_str("/…");
        }
        if counted.series.len() >= SERIES && !counted.series.contains_key(&key) {
            let edge = (key.source, key.service);
            if counted.overflow.len() < EDGES || counted.overflow.contains_key(&edge) {
                *counted.overflow.entry(edge).or_default() += calls;
            }
            return;
        }
        let counts = counted.series.entry(key);
        let counts = counts.or_insert(Counts { calls: 0, denied: 0, limited: 0, failed: 0, first: at, last: at });
        counts.calls += calls;
        counts.denied += denied;
        counts.limited += limited;
        counts.failed += failed;
        (counts.first, counts.last) = (counts.first.min(at), counts.last.max(at));
    }

    /// What was counted since the last call, if anything.
    pub fn take(&self, now: Instant) -> Option<v1::TrafficReport> {
        let (series, overflow) = {
            let mut counted = self.counted.lock();
            if now.saturating_duration_since(*counted.since.get_or_insert(now)) > ANEW {
                counted.since = Some(now);
                counted.paths.clear();
            }
            (std::mem::take(&mut counted.series), std::mem::take(&mut counted.overflow))
        };
        if series.is_empty() && overflow.is_empty() {
            return None;
        }
        let overflow = overflow.into_iter().map(|((source, destination), calls)| v1::TrafficOverflow {
            source: source.into(),
            destination: destination.to_string(),
            calls,
        });
        Some(v1::TrafficReport {
            series: series.into_iter().map(|(key, counts)| told(key, &counts, now)).collect(),
            overflow: overflow.collect(),
        })
    }
}

impl Counted {
    /// Whether a path of a service is told apart from others.
    fn knows(&mut self, service: &Arc<str>, path: &str) -> bool {
        let services = self.paths.len();
        match self.paths.get_mut(service) {
            Some(paths) if paths.contains(path) => true,
            Some(paths) if paths.len() >= PATHS => false,
            Some(paths) => paths.insert(path.into()),
            None if services >= SERVICES => false,
            None => {
                self.paths.entry(Arc::clone(service)).or_default().insert(path.into());
                true
            }
        }
    }
}

fn told(key: Key, counts: &Counts, now: Instant) -> v1::TrafficSeries {
    let since = |at: Instant| u32::try_from(now.saturating_duration_since(at).as_millis()).unwrap_or(u32::MAX);
    let values = |pairs: Vec<(Arc<str>, Box<str>)>| -> Vec<v1::HeaderValue> {
        pairs.into_iter().map(|(name, value)| v1::HeaderValue { name: name.to_string(), value: value.into() }).collect()
    };
    v1::TrafficSeries {
        direction: match key.direction {
            Direction::Inbound => v1::Direction::Inbound,
            Direction::Outbound => v1::Direction::Outbound,
        }
        .into(),
        source: key.source.into(),
        source_identity: key.source_identity.into(),
        destination: key.service.to_string(),
        port: key.port.into(),
        protocol: key.protocol.into(),
        method: key.method.into(),
        authority: key.authority.into(),
        path: key.path,
        headers: values(key.headers),
        queries: values(key.queries),
        calls: counts.calls,
        denied: counts.denied,
        limited: counts.limited,
        failed: counts.failed,
        first_ms: since(counts.first),
        last_ms: since(counts.last),
    }
}
