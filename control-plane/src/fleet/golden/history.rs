//! What was measured over time: columns of one value a step, of the rows with the most calls. Pure, as all of [`super`].

use super::counts::Counts;
use super::{About, COARSE, COARSE_KEPT, FINE, FINE_KEPT, Golden, Key, LATE, slot};
use serde::Serialize;
use std::collections::{BTreeMap, HashSet};
use std::time::{Duration, Instant};

/// Rows that an answer has.
pub const LINES: usize = 50;
/// From this share of failed calls on a step counts as one in which calls fail.
const FAILING: f64 = 0.01;
/// A step that is not over is shown once it has lasted this long: of less no rate can be told.
const SHORTEST: f64 = 10.0;

/// What lines are about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Subject {
    /// Services.
    Service,
    /// Edges, by source and service.
    Edge,
    /// Endpoints, by service and workload.
    Endpoint,
    /// Routes, by service and route.
    Route,
}

impl Subject {
    /// What rows are kept of it. A service's own numbers are the sums of its routes'.
    const fn rows(self) -> About {
        match self {
            Self::Edge => About::Edge,
            Self::Endpoint => About::Endpoint,
            Self::Service | Self::Route => About::Route,
        }
    }

    fn has(self, about: About) -> bool {
        about == self.rows() || about == About::Given && self.rows() == About::Route
    }

    /// The lines in which a row counts: service, and caller, endpoint or route. What a route gives to another service counts for both.
    fn lines(self, key: &Key) -> impl Iterator<Item = (&str, &str)> {
        let (answered, other) = key.answered();
        let other = if self == Self::Service { "" } else { other };
        let addressed = (self == Self::Service && *key.destination != *answered).then_some((&*key.destination, ""));
        std::iter::once((answered, other)).chain(addressed)
    }
}

/// One line: who, and columns of one value a step; `None`: no data.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Line {
    /// "namespace/name" of the destination.
    pub service: String,
    /// "namespace/name" of the caller, of edges.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// Workload uid, of endpoints.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,
    /// Route, of routes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub route: Option<String>,
    /// Calls a second.
    pub rps: Vec<Option<f64>>,
    /// Share of calls that succeeded after retries, 0 to 1.
    pub success: Vec<Option<f64>>,
    /// Latency in milliseconds.
    pub p50_ms: Vec<Option<f64>>,
    /// Latency in milliseconds.
    pub p95_ms: Vec<Option<f64>>,
    /// Latency in milliseconds.
    pub p99_ms: Vec<Option<f64>>,
    /// Failed calls of a step, after retries.
    pub failures: Vec<Option<f64>>,
    /// Retries of a step.
    pub retries: Vec<Option<f64>>,
}

impl Line {
    /// A line that is named after its subject.
    #[must_use]
    pub fn named(subject: Subject, service: &str, other: &str) -> Self {
        let of = |wanted| (subject == wanted).then(|| other.to_owned());
        Self {
            service: service.to_owned(),
            source: of(Subject::Edge),
            endpoint: of(Subject::Endpoint),
            route: of(Subject::Route),
            ..Self::default()
        }
    }
}

/// Lines over time.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct History {
    /// Seconds of a step.
    pub step_seconds: u64,
    /// How long ago the first step began, seconds.
    pub ago: f64,
    /// Most calls first.
    pub items: Vec<Line>,
    /// Lines beyond [`LINES`].
    pub omitted: usize,
}

/// The steps of a question.
struct Steps {
    is_fine: bool,
    step: Duration,
    /// Slots: the first, which may lie before the process began, and the one after the last.
    from: i64,
    to: i64,
    /// Seconds of the last one.
    last: f64,
}

impl Steps {
    fn of(since: Duration, window: Duration) -> Self {
        let window = window.clamp(FINE, COARSE * COARSE_KEPT as u32);
        let is_fine = window <= FINE * FINE_KEPT as u32;
        let (step, kept) = if is_fine { (FINE, FINE_KEPT) } else { (COARSE, COARSE_KEPT) };
        // What comes late may still be on its way to the fine one that is just over.
        let now = slot(if is_fine { since.saturating_sub(LATE) } else { since }, step);
        let begun = (since - step * u32::try_from(now).unwrap_or(u32::MAX)).as_secs_f64();
        // Of five seconds one waits for the end; of a minute that would be long.
        let shows_last = !is_fine && begun >= SHORTEST;
        let wanted = window.as_secs().div_ceil(step.as_secs()).min(kept - u64::from(!shows_last));
        let to = i64::try_from(now).unwrap_or(i64::MAX - 1) + i64::from(shows_last);
        let last = if shows_last { begun } else { step.as_secs_f64() };
        Self { is_fine, step, from: to - i64::try_from(wanted).unwrap_or_default(), to, last }
    }

    fn len(&self) -> usize {
        usize::try_from(self.to - self.from).unwrap_or_default()
    }

    fn first(&self) -> u64 {
        u64::try_from(self.from).unwrap_or_default()
    }
}

impl Golden {
    /// The lines of a subject over the last `window`, an hour at most; `wanted` says of destination and caller, endpoint or route whether
    /// they are asked for.
    #[must_use]
    pub fn history(
        &self,
        now: Instant,
        window: Duration,
        subject: Subject,
        wanted: impl Fn(&str, &str) -> bool,
    ) -> History {
        let since = now.saturating_duration_since(self.began);
        let steps = Steps::of(since, window);
        let mut lines: BTreeMap<(&str, &str), (u64, Vec<&Key>)> = BTreeMap::new();
        let mut called: HashSet<&str> = HashSet::new();
        for series in self.rows.iter().flatten().filter(|series| subject.has(series.key.about)) {
            let key = &series.key;
            let of_row: Vec<_> = subject.lines(key).filter(|(service, _)| wanted(service, key.answered().1)).collect();
            if of_row.is_empty() {
                continue;
            }
            let mut sum = Counts::default();
            series.samples.sum(steps.is_fine, steps.first(), &mut sum);
            if sum.is_empty() {
                continue;
            }
            if !key.inbound {
                called.extend([&*key.destination, key.answered().0]);
            }
            for place in of_row {
                let line = lines.entry(place).or_default();
                line.0 = line.0.saturating_add(sum.calls());
                line.1.push(key);
            }
        }
        // A callee's word counts where no caller has one.
        for (_, keys) in lines.values_mut() {
            keys.retain(|key| !key.inbound || !called.contains(key.destination.as_ref()));
        }
        let mut lines: Vec<_> = lines.into_iter().filter(|(_, (_, keys))| !keys.is_empty()).collect();
        lines.sort_by(|(a, (more, _)), (b, (less, _))| less.cmp(more).then(a.cmp(b)));
        let omitted = lines.len().saturating_sub(LINES);
        lines.truncate(LINES);
        let reach = self.reach(subject.rows(), &steps, since);
        let items = lines
            .into_iter()
            .map(|((service, other), (_, keys))| self.line(Line::named(subject, service, other), &keys, &steps, reach));
        let step = steps.step.as_secs();
        #[expect(clippy::cast_precision_loss, reason = "seconds of an hour")]
        let ago = since.as_secs_f64() - steps.from as f64 * step as f64;
        History { step_seconds: step, ago, items: items.collect(), omitted }
    }

    /// The oldest slot of which anything can be known.
    fn reach(&self, about: About, steps: &Steps, since: Duration) -> i64 {
        let (fine, coarse) = self.kept(about);
        let kept = if steps.is_fine { fine } else { coarse };
        i64::try_from((slot(since, steps.step) + 1).saturating_sub(kept)).unwrap_or_default()
    }

    fn line(&self, mut line: Line, keys: &[&Key], steps: &Steps, reach: i64) -> Line {
        let mut counts = vec![Counts::default(); steps.len()];
        for row in keys.iter().filter_map(|key| self.place(key)) {
            if let Some(Some(series)) = self.rows.get(row as usize) {
                series.samples.spread(steps.is_fine, steps.from, &mut counts);
            }
        }
        for (place, counts) in counts.iter().enumerate() {
            let at = steps.from + i64::try_from(place).unwrap_or_default();
            let seconds = if at + 1 == steps.to { steps.last } else { steps.step.as_secs_f64() };
            let numbers = counts.numbers(seconds);
            // Before the first step that is kept nothing is known, not even that there were no calls.
            let known = at >= reach;
            #[expect(clippy::cast_precision_loss, reason = "counts of a minute")]
            let count = |count: u64| known.then_some(count as f64);
            line.rps.push(known.then_some(numbers.rps));
            line.success.push(numbers.success);
            line.p50_ms.push(numbers.p50_ms);
            line.p95_ms.push(numbers.p95_ms);
            line.p99_ms.push(numbers.p99_ms);
            line.failures.push(count(numbers.failures));
            line.retries.push(count(numbers.retries));
        }
        line
    }

    /// For how long calls of a service have been failing without a step in which they did not, at most as long as is kept.
    #[must_use]
    pub fn failing_for(&self, now: Instant, service: &str) -> Option<Duration> {
        let run = |window: Duration| {
            let history = self.history(now, window, Subject::Service, |destination, _| destination == service);
            let line = history.items.first()?;
            let fails = |success: &Option<f64>| success.is_some_and(|success| 1.0 - success >= FAILING);
            let steps = line.success.iter().rev().take_while(|success| fails(success)).count();
            let is_all = steps == line.success.iter().filter(|success| success.is_some()).count();
            #[expect(clippy::cast_precision_loss, reason = "steps of an hour")]
            let ago = history.ago - (line.success.len() - steps) as f64 * history.step_seconds as f64;
            (steps > 0).then(|| (Duration::from_secs_f64(ago.max(0.0)), is_all))
        };
        match run(FINE * FINE_KEPT as u32)? {
            (ago, false) => Some(ago),
            (ago, true) => Some(run(COARSE * COARSE_KEPT as u32).map_or(ago, |(longer, _)| longer.max(ago))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{add, report, stats};
    use super::*;

    fn at(golden: &Golden, seconds: u64) -> Instant {
        golden.began + Duration::from_secs(seconds)
    }

    /// When everything until then has come.
    fn after(golden: &Golden, seconds: u64) -> Instant {
        at(golden, seconds) + LATE
    }

    /// Ten calls a second from web to cart, of which those of some seconds fail; one a second to mail.
    fn told(until: u64, fails: impl Fn(u64) -> u64) -> Golden {
        let mut golden = Golden::default();
        for second in 0..until {
            let now = at(&golden, second);
            let calls = vec![
                stats("shop/web", "shop/cart", "shop/cart-1", 10, fails(second)),
                stats("shop/web", "shop/mail", "shop/mail-1", 1, 0),
            ];
            add(&mut golden, now, "shop/web-1", report(calls));
        }
        golden
    }

    #[test]
    fn a_line_has_a_value_for_each_step_and_the_busiest_is_first() {
        let golden = told(100, |second| if second >= 90 { 5 } else { 0 });
        let history = golden.history(after(&golden, 100), Duration::from_secs(60), Subject::Service, |_, _| true);
        assert_eq!((history.step_seconds, history.ago, history.omitted), (5, 60.3, 0));
        assert_eq!(
            history.items.iter().map(|line| line.service.as_str()).collect::<Vec<_>>(),
            ["shop/cart", "shop/mail"]
        );
        let cart = &history.items[0];
        assert_eq!(cart.rps, vec![Some(10.0); 12]);
        assert_eq!((cart.success[9], cart.success[10], cart.failures[11]), (Some(1.0), Some(0.5), Some(25.0)));
        assert_eq!(cart.retries[0], Some(25.0));
        assert!(cart.p99_ms.iter().all(|p| p.is_some_and(|p| p > 0.0)), "{cart:?}");
        let edges =
            golden.history(after(&golden, 100), Duration::from_secs(60), Subject::Edge, |to, _| to == "shop/mail");
        assert_eq!((edges.items.len(), edges.items[0].source.as_deref()), (1, Some("shop/web")));
        let endpoints = golden.history(after(&golden, 100), Duration::from_secs(60), Subject::Endpoint, |_, _| true);
        assert_eq!(endpoints.items[0].endpoint.as_deref(), Some("shop/cart-1"));
    }

    #[test]
    fn before_the_beginning_there_is_no_data_and_without_calls_there_are_none() {
        let golden = told(30, |_| 0);
        let history = golden.history(after(&golden, 60), Duration::from_secs(120), Subject::Service, |_, _| true);
        let cart = &history.items[0];
        assert_eq!(cart.rps.len(), 23);
        assert_eq!(cart.rps.iter().filter(|rps| rps.is_none()).count(), 11);
        assert_eq!((cart.rps[11], cart.rps[17], cart.success[17]), (Some(10.0), Some(0.0), None));
    }

    #[test]
    fn longer_ranges_are_of_minutes_and_the_one_under_way_is_of_its_own_seconds() {
        let golden = told(630, |_| 0);
        let history = golden.history(at(&golden, 630), Duration::from_secs(600), Subject::Service, |_, _| true);
        let cart = &history.items[0];
        assert_eq!((history.step_seconds, cart.rps.len(), history.ago), (60, 10, 570.0));
        assert!(cart.rps.iter().all(|rps| *rps == Some(10.0)), "{:?}", cart.rps);
        let hour = golden.history(after(&golden, 635), Duration::from_secs(36_000), Subject::Service, |_, _| true);
        assert_eq!(hour.items[0].rps.len(), 60);
    }

    #[test]
    fn it_is_known_since_when_a_service_fails() {
        let golden = told(100, |second| if second >= 75 { 5 } else { 0 });
        assert_eq!(golden.failing_for(after(&golden, 100), "shop/cart"), Some(Duration::from_millis(25_300)));
        assert_eq!(golden.failing_for(after(&golden, 100), "shop/mail"), None);
        let long = told(900, |second| if second >= 300 { 5 } else { 0 });
        assert_eq!(long.failing_for(after(&long, 900), "shop/cart"), Some(Duration::from_millis(600_300)));
    }

    #[test]
    fn a_busy_mesh_has_its_busiest_lines_and_a_count_of_the_others() {
        let mut golden = Golden::default();
        let (now, names) = (at(&golden, 0), (0..LINES + 7).map(|n| format!("shop/s{n}")));
        let calls = names.zip(1..).map(|(name, calls)| stats("shop/web", &name, "", calls, 0)).collect();
        add(&mut golden, now, "shop/web-1", report(calls));
        let history = golden.history(after(&golden, 6), Duration::from_secs(30), Subject::Service, |_, _| true);
        assert_eq!((history.items.len(), history.omitted), (LINES, 7));
        assert_eq!(history.items[0].service, format!("shop/s{}", LINES + 6));
    }

    /// Callers' sidecars report at a pace, each from its own moment on and late or early by up to 40 ms, of a rate that does not change.
    #[test]
    fn a_steady_rate_is_a_flat_line_whenever_sidecars_report() {
        for pace in [super::super::super::pace::OFTEN, super::super::super::pace::SELDOM] {
            let mut random = 7_u64;
            let mut jitter = || {
                random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                (random >> 33) % 80
            };
            let mut golden = Golden::default();
            let pace_ms = pace.as_millis() as u64;
            // Right at the end of a step and right after it, too.
            let phases = [0, 1, 20, 400, 1_111, 2_450, 2_499].map(|phase| phase % pace_ms);
            let mut reports: Vec<(u64, usize)> = (0..phases.len())
                .flat_map(|who| (0..240_000 / pace_ms).map(move |nth| (nth * pace_ms + phases[who], who)))
                .map(|(at, who)| (at + 5_000 + jitter(), who))
                .collect();
            reports.sort_unstable();
            let mut known: Vec<_> = phases.iter().map(|_| super::super::Known::default()).collect();
            let mut last = [0_u64; 7];
            for (ms, who) in reports {
                // As many calls as there were since its last report, ten a second.
                let interval = if last[who] == 0 { pace_ms } else { ms - last[who] };
                last[who] = ms;
                let (source, sidecar) = (format!("shop/web-{who}"), format!("shop/web-{who}-1"));
                let mut told = report(vec![stats(&source, "shop/cart", "shop/cart-1", pace_ms / 100, 0)]);
                told.interval_ms = interval as u32;
                let now = golden.began + Duration::from_millis(ms);
                golden.add(now, &sidecar, &mut known[who], &told);
                if ms < 150_000 {
                    continue;
                }
                let shown = golden.history(now, Duration::from_secs(60), Subject::Service, |_, _| true);
                let rates = &shown.items[0].rps;
                assert!(rates.iter().all(|rate| *rate == Some(70.0)), "{pace:?} at {ms} ms: {rates:?}");
            }
        }
    }

    #[test]
    fn what_is_told_at_no_steady_pace_counts_when_it_comes() {
        let mut golden = Golden::default();
        let mut known = super::super::Known::default();
        for ms in [4_000, 5_100, 10_050, 20_010] {
            let mut told = report(vec![stats("shop/web", "shop/cart", "shop/cart-1", 10, 0)]);
            told.interval_ms = 1_900;
            golden.add(golden.began + Duration::from_millis(ms), "shop/web-1", &mut known, &told);
        }
        let shown = golden.history(after(&golden, 25), Duration::from_secs(25), Subject::Service, |_, _| true);
        let rates = [2.0, 2.0, 2.0, 0.0, 2.0].map(Some);
        assert_eq!(shown.items[0].rps, rates);
    }
}
