//! What a change would do to the calls of the last hour: each summary of them is put to the sidecars' own policy core ([`crate::explain`])
//! as the mesh is and as it would be. Nothing is written and nothing sent.
//!
//! [`overlay`] makes the world as it would be, [`judge`] says what becomes of calls that are alike, [`forecast`] compares. What cannot be judged is listed, never left out: calls
//! whose path nobody kept, and conditions on what no summary holds.

mod judge;
pub mod overlay;
#[cfg(test)]
mod tests;

use crate::compile::Compiler;
use crate::fleet::traffic::{Read, Series, names::Names};
use crate::world::reconcile::Compiled;
use crate::xds::Snapshot;
use judge::{Buckets, Judged};
use serde::Serialize;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Shares that differ by less are the same.
const SAME: f64 = 1e-6;
/// Changes that are listed; the largest.
const CHANGES: usize = 200;
/// Edges that are listed; those with most calls.
const EDGES: usize = 1000;
/// How long may be judged; what is left then is listed as unknown.
const PATIENCE: Duration = Duration::from_secs(8);

/// What becomes of calls that are alike.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Change {
    /// `denied`, `allowed`, `rerouted`, `limited`, `failing`.
    pub kind: &'static str,
    /// "namespace/name"; null: unknown.
    pub source: Option<String>,
    /// The service that is called.
    pub destination: String,
    /// Method; null: an opaque connection.
    pub method: Option<String>,
    /// Template of the path.
    pub path: Option<String>,
    /// How many of the last hour's calls it would have been.
    pub calls: u64,
    /// Calls a second while they came.
    pub rps: f64,
    /// Part of the edge's calls, 0 to 1.
    pub share: f64,
    /// What becomes of them now.
    pub before: String,
    /// What would.
    pub after: String,
    /// `namespace/name` of the policy or route that decides; null: none does.
    pub policy: Option<String>,
}

/// The calls of one caller to one service; shares are of its calls, 0 to 1, and of what would be new.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Edge {
    /// "namespace/name"; null: unknown.
    pub source: Option<String>,
    /// The service.
    pub destination: String,
    /// Calls of the last hour.
    pub calls: u64,
    /// Part that would be denied and is not.
    pub denied_share: f64,
    /// Part that would go elsewhere.
    pub rerouted_share: f64,
    /// Part that a rate limit would refuse and does not.
    pub limited_share: f64,
    /// Part that would be admitted and is not.
    pub allowed_share: f64,
    /// Part that would fail and does not: no route, no backend, no endpoint, or a fault.
    pub failing_share: f64,
}

/// The forecast.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Forecast {
    /// How far back the calls go.
    pub window_seconds: u64,
    /// Calls that were judged.
    pub calls: u64,
    /// What would become of them, most calls first.
    pub changes: Vec<Change>,
    /// Changes that are not listed.
    pub omitted: usize,
    /// By caller and service, most calls first.
    pub edges: Vec<Edge>,
    /// Whether any call would be denied that is not.
    pub would_deny: bool,
    /// What could not be judged, in words.
    pub unknown: Vec<String>,
}

/// What the mesh would be offered in another world.
#[must_use]
pub fn compiled(world: crate::world::World) -> Compiled {
    let output = Compiler::default().compile(&world);
    let snapshot = Snapshot::next(&Snapshot::default(), &output).0;
    let (world, output, snapshot) = (Arc::new(world), Arc::new(output), Arc::new(snapshot));
    Compiled { world, output, snapshot, generation: 1, ..Compiled::default() }
}

/// Compares what becomes of the calls.
#[must_use]
pub fn forecast(before: &Compiled, after: &Compiled, read: &Read) -> Forecast {
    let end = Instant::now() + PATIENCE;
    let mut unknown = Unknown::default();
    unknown.policies(&Names::of(&before.output), &Names::of(&after.output), &read.names);
    let mut buckets = [Buckets::default(), Buckets::default()];
    let mut judged: Vec<(&Series, Judged, Judged)> = Vec::new();
    for series in &read.series {
        if Instant::now() > end {
            unknown.late += series.calls;
            continue;
        }
        if series.common.path.contains('…') {
            unknown.overflow += series.calls;
            continue;
        }
        match (judge::judge(before, series), judge::judge(after, series)) {
            (Ok(was), Ok(will)) => {
                buckets[0].demand(&was, series);
                buckets[1].demand(&will, series);
                judged.push((series, was, will));
            }
            (Err(why), _) | (_, Err(why)) => *unknown.errors.entry(why).or_default() += series.calls,
        }
    }
    unknown.overflow += read.overflow.iter().map(|(_, _, calls)| calls).sum::<u64>();
    let mut edges: BTreeMap<(&str, &str), Edge> = BTreeMap::new();
    for (series, ..) in &judged {
        let edge = edges.entry((&series.source, &series.destination)).or_insert_with(|| Edge {
            source: some(&series.source),
            destination: series.destination.clone(),
            ..Edge::default()
        });
        edge.calls += series.calls;
    }
    let mut changes = Vec::new();
    for (series, was, will) in &judged {
        let Some(edge) = edges.get_mut(&(&*series.source, &*series.destination)) else { continue };
        compare(series, (was, &buckets[0]), (will, &buckets[1]), edge, &mut changes);
    }
    changes
        .sort_by(|a, b| b.calls.cmp(&a.calls).then_with(|| (&a.destination, &a.path).cmp(&(&b.destination, &b.path))));
    let omitted = changes.len().saturating_sub(CHANGES);
    let would_deny = changes.iter().any(|change| change.kind == "denied");
    changes.truncate(CHANGES);
    let mut edges: Vec<Edge> = edges.into_values().collect();
    edges.sort_by_key(|edge| std::cmp::Reverse(edge.calls));
    edges.truncate(EDGES);
    Forecast {
        window_seconds: read.window.as_secs(),
        calls: judged.iter().map(|(series, ..)| series.calls).sum(),
        changes,
        omitted,
        edges,
        would_deny,
        unknown: unknown.words(),
    }
}

fn some(text: &str) -> Option<String> {
    (!text.is_empty()).then(|| text.to_owned())
}

fn compare(
    series: &Series,
    (was, limits_were): (&Judged, &Buckets),
    (will, limits_will): (&Judged, &Buckets),
    edge: &mut Edge,
    changes: &mut Vec<Change>,
) {
    let of_edge = series.calls as f64 / edge.calls.max(1) as f64;
    let mut changed = |kind: &'static str, part: f64, before: String, after: String, policy: Option<String>| {
        if part <= SAME {
            return;
        }
        let share = match kind {
            "denied" => &mut edge.denied_share,
            "allowed" => &mut edge.allowed_share,
            "rerouted" => &mut edge.rerouted_share,
            "limited" => &mut edge.limited_share,
            _ => &mut edge.failing_share,
        };
        *share += part * of_edge;
        changes.push(Change {
            kind,
            source: some(&series.source),
            destination: series.destination.clone(),
            method: some(&series.common.method),
            path: some(&series.common.path),
            calls: ((series.calls as f64 * part).round() as u64).max(1),
            rps: (judge::rate(series.calls, series.busy) * part * 1000.0).round() / 1000.0,
            share: part * of_edge,
            before,
            after,
            policy,
        });
    };
    let (before, after) = (was.admission.clone(), will.admission.clone());
    changed("denied", will.denied - was.denied, before.clone(), after.clone(), will.policy.clone());
    changed("allowed", was.denied - will.denied, before, after, was.policy.clone());
    changed("failing", will.failing - was.failing, was.failure(), will.failure(), will.route.clone());
    let moved: f64 = will.shares.iter().map(|(to, part)| (part - was.shares.get(to).unwrap_or(&0.0)).max(0.0)).sum();
    changed("rerouted", moved, was.targets(), will.targets(), will.route.clone().or_else(|| was.route.clone()));
    let (limited_was, limited_will) = (limits_were.limited(was), limits_will.limited(will));
    let words = |(part, limit): &(f64, Option<String>)| match limit {
        Some(limit) if *part > SAME => format!("{} over {limit}", judge::percent(*part)),
        _ => "no limit is reached".to_owned(),
    };
    let policy =
        limited_will.1.as_deref().and_then(|limit| limit.rsplit_once('/')).map(|(policy, _)| policy.to_owned());
    changed("limited", limited_will.0 - limited_was.0, words(&limited_was), words(&limited_will), policy);
}

/// What could not be judged.
#[derive(Default)]
struct Unknown {
    overflow: u64,
    late: u64,
    errors: BTreeMap<String, u64>,
    policies: Vec<String>,
}

impl Unknown {
    /// What policies ask for that no summary tells.
    fn policies(&mut self, before: &Names, after: &Names, told: &Names) {
        for (what, wanted, told) in
            [("header", &after.headers, &told.headers), ("query parameter", &after.queries, &told.queries)]
        {
            for name in wanted.difference(told) {
                self.policies.push(format!(
                    "the values of the {what} {name} were not recorded, since no policy asked for it: calls are judged as if they had none"
                ));
            }
            for secret in wanted.iter().filter(|name| matches!(name.as_str(), "authorization" | "cookie")) {
                self.policies.push(format!(
                    "the {what} {secret} is a credential and never recorded: calls are judged as if they had none"
                ));
            }
        }
        for key in before.unknown.union(&after.unknown) {
            self.policies.push(format!(
                "{key} of calls is not recorded: rules that ask for it are judged as if it were unknown"
            ));
        }
    }

    fn words(self) -> Vec<String> {
        let mut all = self.policies;
        if self.overflow > 0 {
            all.push(format!(
                "{} calls, of which no more is known than who called whom: there were too many kinds",
                self.overflow
            ));
        }
        if self.late > 0 {
            all.push(format!("{} calls of rare kinds: judging all would have taken too long", self.late));
        }
        all.extend(self.errors.into_iter().take(50).map(|(why, calls)| format!("{calls} calls: {why}")));
        all
    }
}
