//! Deltas for the control stream: what happened since the last report, by (direction, source, addressed, destination, endpoint, route).
//!
//! The reporter remembers what it told; the data path only ever adds. Sending, and what to do when nobody listens, is discovery's.

use super::{Direction, Hop, Series, Telemetry};
use crate::endpoint::Cluster;
use foldhash::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;
use weft_proto::v1;

/// Reports after which a series without calls is forgotten, unless someone still holds its handles.
const FORGET_AFTER: u32 = 3600;

#[derive(Default, Clone)]
struct Told {
    calls: u64,
    failures: u64,
    refusals: u64,
    attempts: u64,
    failed_attempts: u64,
    retries: u64,
    latency: Vec<u64>,
    connections: u64,
    sent: u64,
    received: u64,
    idle_reports: u32,
    /// Its number on the stream, once it was named there.
    number: u32,
}

/// Gathers reports. One per process; a report that could not be sent is lost, the counters at `/metrics` are not.
#[derive(Default)]
pub struct Reporter {
    told: HashMap<usize, (Arc<Series>, Told)>,
    last: Option<Instant>,
    /// Numbers given on this stream.
    numbered: u32,
}

impl std::fmt::Debug for Reporter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Reporter({} series)", self.told.len())
    }
}

impl Reporter {
    /// A new stream begins, of whose other end nothing is known to have been told before.
    pub fn begin(&mut self) {
        self.numbered = 0;
        self.told.values_mut().for_each(|(_, told)| told.number = 0);
    }

    /// What happened since the last call of this function. Series without calls are left out; every breaker that is not closed, or
    /// ever was, is listed.
    pub fn take<'a>(
        &mut self,
        telemetry: &Telemetry,
        clusters: impl Iterator<Item = (&'a str, u16, &'a Arc<Cluster>)>,
        now: Instant,
    ) -> v1::Report {
        let interval = self.last.replace(now).map_or(0, |last| now.saturating_duration_since(last).as_millis());
        for series in telemetry.series.read().values().flatten() {
            self.told.entry(Arc::as_ptr(series).addr()).or_insert_with(|| (Arc::clone(series), Told::default()));
        }
        let numbered = &mut self.numbered;
        let calls = self.told.values_mut().filter_map(|(series, told)| delta(series, told, numbered)).collect();
        self.forget(telemetry);
        let breakers = clusters
            .flat_map(|(_, _, cluster)| cluster.breakers(now))
            .filter(|status| status.opened > 0 || status.state() != v1::BreakerState::Closed);
        v1::Report { interval_ms: u32::try_from(interval).unwrap_or(u32::MAX), calls, breakers: breakers.collect() }
    }

    /// Series that were idle for long leave both the reporter and the recorder: the labels of a mesh that changes do not pile up.
    fn forget(&mut self, telemetry: &Telemetry) {
        let idle =
            |told: &Told, series: &Arc<Series>| told.idle_reports > FORGET_AFTER && Arc::strong_count(series) <= 2;
        if !self.told.values().any(|(series, told)| idle(told, series)) {
            return;
        }
        let mut all = telemetry.series.write();
        self.told.retain(|address, (series, told)| {
            let leaves = idle(told, series);
            if leaves {
                for same in all.values_mut() {
                    same.retain(|one| Arc::as_ptr(one).addr() != *address);
                }
            }
            !leaves
        });
        all.retain(|_, same| !same.is_empty());
    }
}

fn delta(series: &Series, told: &mut Told, numbered: &mut u32) -> Option<v1::CallStats> {
    let tally = &series.tally;
    let latency: Vec<u64> = tally.latency.counts().collect();
    let now = Told {
        calls: tally.calls.load(Relaxed),
        failures: tally.failures.load(Relaxed),
        refusals: tally.refusals.load(Relaxed),
        attempts: tally.attempts.load(Relaxed),
        failed_attempts: tally.failed_attempts.load(Relaxed),
        retries: tally.retries.load(Relaxed),
        connections: tally.connections.load(Relaxed),
        sent: tally.sent.load(Relaxed),
        received: tally.received.load(Relaxed),
        idle_reports: 0,
        number: told.number,
        latency,
    };
    let quiet = now.calls == told.calls
        && now.connections == told.connections
        && now.sent == told.sent
        && now.received == told.received;
    if quiet {
        told.idle_reports += 1;
        return None;
    }
    let before = std::mem::replace(told, now.clone());
    let buckets = now.latency.iter().enumerate().map(|(i, n)| n - before.latency.get(i).copied().unwrap_or_default());
    let calls = now.calls - before.calls;
    let is_named = told.number == 0;
    if is_named && *numbered < weft_proto::MAX_NUMBERED {
        *numbered += 1;
        told.number = *numbered;
    }
    let name = |name: &str| if is_named { name.to_owned() } else { String::new() };
    Some(v1::CallStats {
        series: told.number,
        direction: match series.direction {
            Direction::Inbound => v1::Direction::Inbound,
            Direction::Outbound => v1::Direction::Outbound,
        }
        .into(),
        source: name(&series.source),
        addressed: name(&series.addressed),
        destination: name(&series.destination),
        endpoint: name(&series.endpoint),
        route: name(&series.route),
        calls,
        failures: now.failures - before.failures,
        attempts: now.attempts - before.attempts,
        failed_attempts: now.failed_attempts - before.failed_attempts,
        retries: now.retries - before.retries,
        mtls: if series.hop == Hop::Mutual { calls } else { 0 },
        unsent: if series.hop == Hop::None { calls } else { 0 },
        latency_buckets: buckets.collect(),
        tcp_connections: now.connections - before.connections,
        bytes_sent: now.sent - before.sent,
        bytes_received: now.received - before.received,
        refusals: now.refusals - before.refusals,
    })
}

#[cfg(test)]
mod tests {
    use super::super::{Key, Outcome};
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_report_holds_what_happened_since_the_last_one_and_nothing_else() {
        let (telemetry, mut reporter, now) = (Telemetry::quiet(), Reporter::default(), Instant::now());
        let series = telemetry.series(&Key {
            direction: Direction::Outbound,
            source: "shop/storefront",
            addressed: "shop/billing",
            destination: "shop/payments",
            endpoint: "shop/payments-1",
            route: "",
            protocol: "http1",
            hop: Hop::Mutual,
        });
        let outcome = Outcome {
            status: 200,
            attempts: 2,
            failed_attempts: 1,
            duration: Duration::from_micros(150),
            ..Outcome::default()
        };
        series.call(&outcome);
        let first = reporter.take(&telemetry, std::iter::empty(), now);
        assert_eq!(first.calls.len(), 1);
        let stats = &first.calls[0];
        assert_eq!((stats.calls, stats.attempts, stats.failed_attempts, stats.retries, stats.mtls), (1, 2, 1, 1, 1));
        assert_eq!(stats.latency_buckets.len(), weft_proto::LATENCY_BOUNDS_US.len() + 1);
        assert_eq!(stats.latency_buckets[2], 1);
        series.call(&Outcome { status: 503, ..outcome });
        let second = reporter.take(&telemetry, std::iter::empty(), now + Duration::from_secs(1));
        assert_eq!((second.interval_ms, second.calls[0].calls, second.calls[0].failures), (1000, 1, 1));
        assert!(reporter.take(&telemetry, std::iter::empty(), now + Duration::from_secs(2)).calls.is_empty());
        // Names are told once in the life of a stream.
        let told = |report: &v1::Report| {
            let stats = &report.calls[0];
            (stats.series, stats.addressed.clone(), stats.destination.clone())
        };
        let named = (1, "shop/billing".to_owned(), "shop/payments".to_owned());
        assert_eq!((told(&first), told(&second)), (named.clone(), (1, String::new(), String::new())));
        reporter.begin();
        series.call(&outcome);
        let anew = reporter.take(&telemetry, std::iter::empty(), now + Duration::from_secs(3));
        assert_eq!((told(&anew), anew.calls[0].calls), (named, 1));
    }

    #[test]
    fn a_call_that_was_sent_to_nobody_is_told_as_such_and_neither_as_secured_nor_as_plain() {
        let (telemetry, mut reporter, now) = (Telemetry::quiet(), Reporter::default(), Instant::now());
        for (hop, endpoint) in [(Hop::None, ""), (Hop::Plain, "shop/payments-1"), (Hop::Mutual, "shop/payments-1")] {
            let key = Key {
                direction: Direction::Outbound,
                source: "shop/orders",
                addressed: "",
                destination: "shop/payments",
                endpoint,
                route: "",
                protocol: "http1",
                hop,
            };
            telemetry.series(&key).call(&Outcome::default());
        }
        let mut told: Vec<_> = reporter
            .take(&telemetry, std::iter::empty(), now)
            .calls
            .iter()
            .map(|c| (c.calls, c.mtls, c.unsent))
            .collect();
        told.sort_unstable();
        assert_eq!(told, [(1, 0, 0), (1, 0, 1), (1, 1, 0)]);
        let text = telemetry.render(std::iter::empty());
        for tls in ["", "none", "mutual"] {
            assert!(text.contains(&format!("tls=\"{tls}\",reason=\"\"}} 1\n")), "{tls}: {text}");
        }
    }

    #[test]
    fn what_a_policy_refused_is_counted_and_what_the_application_refused_is_not() {
        let (telemetry, mut reporter, now) = (Telemetry::quiet(), Reporter::default(), Instant::now());
        let series = telemetry.series(&Key {
            direction: Direction::Inbound,
            source: "shop/storefront",
            addressed: "",
            destination: "shop/payments",
            endpoint: "",
            route: "",
            protocol: "http1",
            hop: Hop::Mutual,
        });
        let answer = |status, grpc_status, reason| Outcome { status, grpc_status, reason, ..Outcome::default() };
        series.call(&answer(403, None, "denied"));
        series.call(&answer(200, Some(8), "rate_limited"));
        series.call(&answer(403, None, ""));
        series.call(&answer(503, None, "overload"));
        let stats = &reporter.take(&telemetry, std::iter::empty(), now).calls[0];
        assert_eq!((stats.calls, stats.failures, stats.refusals), (4, 1, 2));
    }
}
