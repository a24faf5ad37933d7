//! An hour of golden metrics in memory: what sidecars reported, by (direction, source, destination, endpoint, route). Pure.
//!
//! Two resolutions: seconds for the last two minutes, minutes for the last hour. Series and samples are bounded; what does not fit is
//! counted. Latencies are the buckets of `weft_proto::LATENCY_BOUNDS_US`; a percentile is interpolated within its bucket.

use super::Breaker;
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};
use weft_proto::{LATENCY_BOUNDS_US, v1};

/// Series kept; a report of a further one is only counted.
pub const MAX_SERIES: usize = 20_000;
const FINE: Duration = Duration::from_secs(1);
const FINE_KEPT: u64 = 120;
const COARSE: Duration = Duration::from_secs(60);
const COARSE_KEPT: u64 = 60;
/// Longer names are no names of services, workloads or routes.
const MAX_NAME: usize = 512;

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    inbound: bool,
    source: String,
    destination: String,
    endpoint: String,
    route: String,
}

#[derive(Clone, Debug, Default)]
struct Counts {
    calls: u64,
    failures: u64,
    attempts: u64,
    failed_attempts: u64,
    retries: u64,
    mtls: u64,
    tcp_connections: u64,
    bytes_sent: u64,
    bytes_received: u64,
    /// Sparse: index of the bucket, count; ordered by index.
    latency: Vec<(u8, u64)>,
}

impl Counts {
    fn of(stats: &v1::CallStats) -> Self {
        let buckets = stats.latency_buckets.iter().take(LATENCY_BOUNDS_US.len() + 1).enumerate();
        let latency = buckets.filter(|(_, n)| **n > 0).map(|(i, n)| (u8::try_from(i).unwrap_or(u8::MAX), *n));
        Self {
            calls: stats.calls,
            failures: stats.failures.min(stats.calls),
            attempts: stats.attempts,
            failed_attempts: stats.failed_attempts.min(stats.attempts),
            retries: stats.retries,
            mtls: stats.mtls.min(stats.calls),
            tcp_connections: stats.tcp_connections,
            bytes_sent: stats.bytes_sent,
            bytes_received: stats.bytes_received,
            latency: latency.collect(),
        }
    }

    fn add(&mut self, other: &Self) {
        let sums = [
            (&mut self.calls, other.calls),
            (&mut self.failures, other.failures),
            (&mut self.attempts, other.attempts),
            (&mut self.failed_attempts, other.failed_attempts),
            (&mut self.retries, other.retries),
            (&mut self.mtls, other.mtls),
            (&mut self.tcp_connections, other.tcp_connections),
            (&mut self.bytes_sent, other.bytes_sent),
            (&mut self.bytes_received, other.bytes_received),
        ];
        for (sum, more) in sums {
            *sum = sum.saturating_add(more);
        }
        for (bucket, count) in &other.latency {
            match self.latency.binary_search_by_key(bucket, |(b, _)| *b) {
                Ok(i) => self.latency[i].1 = self.latency[i].1.saturating_add(*count),
                Err(i) => self.latency.insert(i, (*bucket, *count)),
            }
        }
    }

    /// The latency below which a share of calls stayed, in milliseconds.
    fn percentile(&self, share: f64) -> Option<f64> {
        let total: u64 = self.latency.iter().map(|(_, n)| n).sum();
        if total == 0 {
            return None;
        }
        let rank = (total as f64 * share).max(1.0);
        let mut before = 0.0;
        for (bucket, count) in &self.latency {
            let here = *count as f64;
            if before + here >= rank {
                let upper = LATENCY_BOUNDS_US.get(usize::from(*bucket)).copied();
                let lower =
                    usize::from(*bucket).checked_sub(1).and_then(|i| LATENCY_BOUNDS_US.get(i)).copied().unwrap_or(0);
                // Beyond the last bound nothing is known but that it was exceeded.
                let upper = upper.unwrap_or(lower);
                let micros = lower as f64 + (upper - lower) as f64 * ((rank - before) / here);
                return Some((micros / 10.0).round() / 100.0);
            }
            before += here;
        }
        None
    }
}

/// Samples of one series at one resolution: slot number since the beginning, counts.
#[derive(Clone, Debug, Default)]
struct Ring(VecDeque<(u64, Counts)>);

impl Ring {
    fn add(&mut self, slot: u64, kept: u64, counts: &Counts) {
        match self.0.back_mut() {
            Some((last, sum)) if *last == slot => sum.add(counts),
            _ => self.0.push_back((slot, counts.clone())),
        }
        while self.0.front().is_some_and(|(s, _)| s + kept <= slot) {
            self.0.pop_front();
        }
    }

    fn sum(&self, from: u64, into: &mut Counts) {
        for (_, counts) in self.0.iter().rev().take_while(|(slot, _)| *slot >= from) {
            into.add(counts);
        }
    }
}

#[derive(Clone, Debug, Default)]
struct Series {
    fine: Ring,
    coarse: Ring,
    last: u64,
}

/// All series.
#[derive(Debug)]
pub struct Golden {
    began: Instant,
    series: BTreeMap<Key, Series>,
    /// Source → sidecars that report calls of it: whose breakers belong to an edge.
    speakers: BTreeMap<String, BTreeSet<String>>,
    dropped: u64,
}

impl Default for Golden {
    fn default() -> Self {
        Self { began: Instant::now(), series: BTreeMap::new(), speakers: BTreeMap::new(), dropped: 0 }
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
    /// Share of calls whose hop was mutually authenticated, 0 to 1.
    pub mtls: Option<f64>,
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

/// The answer to `weft stat`.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Stat {
    /// Seconds that the numbers cover.
    pub window_seconds: f64,
    /// By destination, as callers' sidecars saw it (as its own sidecar did, where no caller has one).
    pub services: Vec<Row>,
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
    /// Takes a report of a sidecar.
    pub fn add(&mut self, now: Instant, sidecar: &str, report: v1::Report) {
        let since = now.saturating_duration_since(self.began);
        let (fine, coarse) = (slot(since, FINE), slot(since, COARSE));
        for stats in report.calls {
            let inbound = stats.direction == i32::from(v1::Direction::Inbound);
            let counts = Counts::of(&stats);
            let names = [&stats.source, &stats.destination, &stats.endpoint, &stats.route];
            if names.iter().any(|n| n.len() > MAX_NAME) {
                self.dropped += 1;
                continue;
            }
            if !inbound && (self.speakers.len() < MAX_SERIES || self.speakers.contains_key(&stats.source)) {
                let speakers = self.speakers.entry(stats.source.clone()).or_default();
                if speakers.len() < MAX_SERIES && !speakers.contains(sidecar) {
                    speakers.insert(sidecar.to_owned());
                }
            }
            let endpoint = if inbound { sidecar.to_owned() } else { stats.endpoint };
            let key =
                Key { inbound, source: stats.source, destination: stats.destination, endpoint, route: stats.route };
            if self.series.len() >= MAX_SERIES && !self.series.contains_key(&key) {
                self.series.retain(|_, s| s.last + COARSE_KEPT > coarse);
                if self.series.len() >= MAX_SERIES {
                    self.dropped += 1;
                    continue;
                }
            }
            let series = self.series.entry(key).or_default();
            series.fine.add(fine, FINE_KEPT, &counts);
            series.coarse.add(coarse, COARSE_KEPT, &counts);
            series.last = coarse;
        }
    }

    /// Sums up the last `window`.
    #[must_use]
    pub fn stat(&self, now: Instant, window: Duration, breakers: &[Breaker]) -> Stat {
        let since = now.saturating_duration_since(self.began);
        let window = window.clamp(FINE, COARSE * COARSE_KEPT as u32);
        let is_fine = window <= FINE * FINE_KEPT as u32;
        let step = if is_fine { FINE } else { COARSE };
        // Slots wholly or partly within the window; no longer than the process has run.
        let from = slot(since.saturating_sub(window), step) + u64::from(is_fine && since > window);
        let covered = window.min(since).max(FINE).as_secs_f64();
        let mut tables: [BTreeMap<Key, Counts>; 4] = Default::default();
        let mut seen_outbound: BTreeSet<&str> = BTreeSet::new();
        let mut sums: Vec<(&Key, Counts)> = Vec::new();
        for (key, series) in &self.series {
            let mut counts = Counts::default();
            let ring = if is_fine { &series.fine } else { &series.coarse };
            ring.sum(from, &mut counts);
            if counts.calls + counts.attempts + counts.tcp_connections + counts.bytes_sent > 0 {
                if !key.inbound {
                    seen_outbound.insert(&key.destination);
                }
                sums.push((key, counts));
            }
        }
        for (key, counts) in &sums {
            // A call is in the report of its caller and in that of its callee: count it once.
            if key.inbound && seen_outbound.contains(key.destination.as_str()) {
                continue;
            }
            let none = String::new;
            let base = Key { inbound: false, source: none(), endpoint: none(), route: none(), ..(*key).clone() };
            let keys = [
                base.clone(),
                Key { source: key.source.clone(), ..base.clone() },
                Key { endpoint: key.endpoint.clone(), ..base.clone() },
                Key { route: key.route.clone(), ..base },
            ];
            for (table, key) in tables.iter_mut().zip(keys) {
                table.entry(key).or_default().add(counts);
            }
        }
        let [services, edges, endpoints, routes] = tables;
        let row = |key: &Key, counts: &Counts| {
            let concerns = |b: &&Breaker| {
                b.backend.rsplit_once(':').map_or(b.backend.as_str(), |(s, _)| s) == key.destination
                    && (key.endpoint.is_empty() || b.endpoint == key.endpoint)
                    && (key.source.is_empty() || self.speakers.get(&key.source).is_some_and(|s| s.contains(&b.sidecar)))
            };
            let of_it: Vec<&Breaker> = breakers.iter().filter(concerns).collect();
            Row {
                service: key.destination.clone(),
                numbers: numbers(counts, covered),
                open_breakers: of_it.iter().filter(|b| b.state != "closed").count(),
                breaker_openings: of_it.iter().map(|b| b.opened).sum(),
                ..Row::default()
            }
        };
        Stat {
            window_seconds: covered,
            services: services.iter().map(|(k, c)| row(k, c)).collect(),
            edges: edges.iter().map(|(k, c)| Row { source: Some(k.source.clone()), ..row(k, c) }).collect(),
            endpoints: endpoints.iter().map(|(k, c)| Row { endpoint: Some(k.endpoint.clone()), ..row(k, c) }).collect(),
            routes: routes.iter().map(|(k, c)| Row { route: Some(k.route.clone()), ..row(k, c) }).collect(),
            breakers: breakers.to_vec(),
            dropped: self.dropped,
        }
    }
}

fn slot(since: Duration, step: Duration) -> u64 {
    since.as_secs() / step.as_secs()
}

fn numbers(counts: &Counts, seconds: f64) -> Numbers {
    let share = |good: u64, all: u64| (all > 0).then(|| good as f64 / all as f64);
    Numbers {
        rps: (counts.calls as f64 / seconds * 100.0).round() / 100.0,
        calls: counts.calls,
        failures: counts.failures,
        success: share(counts.calls - counts.failures, counts.calls),
        success_before_retries: share(counts.attempts - counts.failed_attempts, counts.attempts),
        attempts: counts.attempts,
        failed_attempts: counts.failed_attempts,
        retries: counts.retries,
        p50_ms: counts.percentile(0.50),
        p95_ms: counts.percentile(0.95),
        p99_ms: counts.percentile(0.99),
        mtls: share(counts.mtls, counts.calls),
        tcp_connections: counts.tcp_connections,
        bytes_sent: counts.bytes_sent,
        bytes_received: counts.bytes_received,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stats(source: &str, destination: &str, endpoint: &str, calls: u64, failures: u64) -> v1::CallStats {
        let mut latency_buckets = vec![0; LATENCY_BOUNDS_US.len() + 1];
        latency_buckets[10] = calls;
        v1::CallStats {
            direction: v1::Direction::Outbound.into(),
            source: source.into(),
            destination: destination.into(),
            endpoint: endpoint.into(),
            calls,
            failures,
            attempts: calls + 5,
            failed_attempts: 5 + failures,
            retries: 5,
            mtls: calls,
            latency_buckets,
            ..Default::default()
        }
    }

    fn report(calls: Vec<v1::CallStats>) -> v1::Report {
        v1::Report { interval_ms: 1000, calls, breakers: Vec::new() }
    }

    #[test]
    fn a_window_sums_its_reports_and_forgets_older_ones() {
        let mut golden = Golden::default();
        let start = golden.began;
        let at = |s: u64| start + Duration::from_secs(s);
        for second in 0..100 {
            golden.add(at(second), "shop/web-1", report(vec![stats("shop/web", "shop/cart", "shop/cart-1", 10, 1)]));
        }
        let stat = golden.stat(at(99), Duration::from_secs(10), &[]);
        let cart = &stat.services[0].numbers;
        assert_eq!((cart.calls, cart.failures, cart.rps), (100, 10, 10.0));
        assert_eq!(cart.success, Some(0.9));
        assert_eq!(cart.mtls, Some(1.0));
        assert!(cart.p50_ms.unwrap() > 0.8 && cart.p50_ms.unwrap() < 1.0, "{:?}", cart.p50_ms);
        assert_eq!(stat.edges[0].source.as_deref(), Some("shop/web"));
        assert_eq!(stat.endpoints[0].endpoint.as_deref(), Some("shop/cart-1"));
        let later = golden.stat(at(200), Duration::from_secs(10), &[]);
        assert!(later.services.is_empty());
        let hour = golden.stat(at(200), Duration::from_secs(3600), &[]);
        assert_eq!(hour.services[0].numbers.calls, 1000);
    }

    #[test]
    fn a_call_that_both_sides_report_counts_once() {
        let mut golden = Golden::default();
        let now = golden.began + Duration::from_secs(1);
        let mut inbound = stats("shop/web", "shop/cart", "", 10, 0);
        inbound.direction = v1::Direction::Inbound.into();
        golden.add(now, "shop/web-1", report(vec![stats("shop/web", "shop/cart", "shop/cart-1", 10, 0)]));
        golden.add(now, "shop/cart-1", report(vec![inbound.clone()]));
        let stat = golden.stat(now, Duration::from_secs(10), &[]);
        assert_eq!(stat.services[0].numbers.calls, 10);
        // Where no caller has a sidecar, the callee's word counts.
        let mut alone = Golden::default();
        alone.add(now, "shop/cart-1", report(vec![inbound]));
        let stat = alone.stat(now, Duration::from_secs(10), &[]);
        assert_eq!(stat.services[0].numbers.calls, 10);
        assert_eq!(stat.endpoints[0].endpoint.as_deref(), Some("shop/cart-1"));
    }

    #[test]
    fn open_breakers_are_counted_by_service_and_endpoint() {
        let mut golden = Golden::default();
        let now = golden.began;
        golden.add(now, "shop/web-1", report(vec![stats("shop/web", "shop/cart", "shop/cart-1", 1, 0)]));
        let breaker = Breaker {
            sidecar: "shop/web-1".into(),
            backend: "shop/cart:80".into(),
            endpoint: "shop/cart-1".into(),
            state: "open",
            opened: 3,
        };
        let stat = golden.stat(now, Duration::from_secs(10), &[breaker]);
        assert_eq!((stat.services[0].open_breakers, stat.services[0].breaker_openings), (1, 3));
        assert_eq!(stat.endpoints[0].open_breakers, 1);
        assert_eq!(stat.edges[0].open_breakers, 1);
    }

    #[test]
    fn series_are_bounded_and_what_does_not_fit_is_counted() {
        let mut golden = Golden::default();
        let now = golden.began;
        let many = (0..MAX_SERIES + 3).map(|i| stats("a", &format!("shop/s-{i}"), "", 1, 0)).collect();
        golden.add(now, "shop/web-1", report(many));
        assert_eq!(golden.stat(now, Duration::from_secs(1), &[]).dropped, 3);
    }
}
