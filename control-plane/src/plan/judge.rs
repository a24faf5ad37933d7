//! What becomes of calls that are alike in one world, in parts of one; and how much of a rate they use.

use crate::explain::{self, Counted, Explanation, Outcome, Question};
use crate::fleet::traffic::Series;
use crate::world::reconcile::Compiled;
use std::collections::BTreeMap;
use std::time::Duration;

/// What becomes of them.
#[derive(Clone, Debug, Default)]
pub(super) struct Judged {
    /// Where they go: `namespace/name:port`, or what answers.
    pub shares: BTreeMap<String, f64>,
    /// Part that is denied.
    pub denied: f64,
    /// Part that fails: no route, no backend, no endpoint, a fault.
    pub failing: f64,
    /// Why it fails.
    pub fails: Option<String>,
    /// Why most of them are admitted or denied.
    pub admission: String,
    /// The policy that says so.
    pub policy: Option<String>,
    /// The route.
    pub route: Option<String>,
    /// Parts that reach an endpoint and are admitted there, each with the buckets that it draws on.
    limits: Vec<(f64, Vec<Bucket>)>,
}

/// A bucket: the limit, the key, and the workload that counts; empty: all count together.
type Bucket = (Counted, String);

impl Judged {
    /// Where they go, in words.
    pub fn targets(&self) -> String {
        let mut shares: Vec<_> = self.shares.iter().collect();
        shares.sort_by(|a, b| b.1.total_cmp(a.1));
        let words = shares.into_iter().map(|(to, part)| format!("{} {to}", percent(*part)));
        words.collect::<Vec<_>>().join(", ")
    }

    /// Why they fail, in words.
    pub fn failure(&self) -> String {
        self.fails.clone().unwrap_or_else(|| "answered".to_owned())
    }
}

/// A share as people read it.
pub(super) fn percent(part: f64) -> String {
    let percent = part * 100.0;
    if (percent - percent.round()).abs() < 0.05 { format!("{percent:.0} %") } else { format!("{percent:.1} %") }
}

/// Calls a second while they came.
pub(super) fn rate(calls: u64, busy: Duration) -> f64 {
    calls as f64 / busy.as_secs_f64().max(1.0)
}

/// A path that a template stands for.
fn example(template: &str) -> String {
    template
        .replace("{number}", "1")
        .replace("{uuid}", "00000000-0000-4000-8000-000000000000")
        .replace("{hex}", "0123456789abcdef")
        .replace("{token}", "0123456789abcdefghijklmn")
}

fn question(series: &Series) -> Question {
    let common = &series.common;
    let mut path = example(&common.path);
    if !path.starts_with('/') {
        path.insert(0, '/');
    }
    for (nth, (name, value)) in common.queries.iter().enumerate() {
        path.push_str(if nth == 0 { "?" } else { "&" });
        path.push_str(name);
        path.push('=');
        path.push_str(value);
    }
    let mut headers: Vec<_> =
        common.headers.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
    if !common.authority.is_empty() {
        headers.push(("host".to_owned(), common.authority.to_string()));
    }
    if &*common.protocol == "grpc" {
        headers.push(("content-type".to_owned(), "application/grpc".to_owned()));
    }
    Question {
        from: common.identity.to_string(),
        to: match common.port {
            0 => series.destination.clone(),
            port => format!("{}:{port}", series.destination),
        },
        method: common.method.to_string(),
        path,
        headers,
    }
}

/// Puts calls to the core.
///
/// # Errors
/// Why they cannot be judged, in words.
pub(super) fn judge(compiled: &Compiled, series: &Series) -> Result<Judged, String> {
    let explained = explain::explain(compiled, &question(series)).map_err(|why| why.to_string())?;
    Ok(read(&explained))
}

fn read(explained: &Explanation) -> Judged {
    let mut judged = Judged {
        route: explained.rule.as_ref().map(|rule| rule.route.clone()).filter(|route| route != "default"),
        admission: "no endpoint is asked".to_owned(),
        ..Judged::default()
    };
    let mut fails = |part: f64, why: String| {
        if part > 0.0 {
            judged.failing += part;
            judged.fails.get_or_insert(why);
        }
    };
    // What a fault answers goes nowhere.
    let sent = 1.0 - explained.aborted;
    fails(explained.aborted, format!("{} answered by a fault", percent(explained.aborted)));
    match &explained.outcome {
        Outcome::NoRoute => fails(sent, "no rule matches: 404".to_owned()),
        Outcome::Redirected { status, location } => {
            judged.shares.insert(format!("{status} {location}"), sent);
        }
        Outcome::Preflight => drop(judged.shares.insert("a preflight's answer".to_owned(), sent)),
        Outcome::Forwarded => {
            for backend in explained.backends.iter().filter(|backend| backend.share > 0.0) {
                let share = backend.share * sent;
                if !backend.resolved {
                    fails(share, format!("{} to nowhere: {}", percent(share), backend.target));
                } else if backend.endpoints == 0 && explained.fallback.is_none() {
                    fails(share, format!("{} to {}, which has no endpoint", percent(share), backend.target));
                }
            }
            let mut most = 0.0;
            for backend in explained.backends.iter().filter(|backend| backend.share > 0.0 && backend.resolved) {
                let share = backend.share * sent;
                *judged.shares.entry(backend.target.clone()).or_default() += share;
                for admission in &backend.admissions {
                    let one = share / backend.endpoints.max(1) as f64;
                    let part = one * admission.endpoints.len() as f64;
                    // A denial says more than an admission beside it.
                    let weight = part + if admission.allowed { 0.0 } else { 1.0 };
                    if weight > most {
                        most = weight;
                        let verdict = if admission.allowed { "admitted" } else { "denied" };
                        judged.admission = format!("{verdict}: {}", admission.reason);
                        judged.policy.clone_from(&admission.policy);
                    }
                    if !admission.allowed {
                        judged.denied += part;
                        continue;
                    }
                    for uid in &admission.endpoints {
                        let bucket = |limit: &Counted| {
                            let counts = if limit.is_global { String::new() } else { uid.clone() };
                            (limit.clone(), counts)
                        };
                        judged.limits.push((one, admission.limits.iter().map(bucket).collect()));
                    }
                }
            }
        }
    }
    judged
}

/// What calls ask of each bucket.
#[derive(Debug, Default)]
pub(super) struct Buckets(BTreeMap<Bucket, (f64, Duration)>);

impl Buckets {
    /// Adds what calls ask.
    pub fn demand(&mut self, judged: &Judged, series: &Series) {
        for (part, buckets) in &judged.limits {
            for bucket in buckets {
                let (calls, busy) = self.0.entry(bucket.clone()).or_default();
                *calls += series.calls as f64 * part;
                *busy = (*busy).max(series.busy);
            }
        }
    }

    /// Part of calls that is refused, in the long run: a full bucket at the beginning is not looked at. With the limit that refuses most.
    pub fn limited(&self, judged: &Judged) -> (f64, Option<String>) {
        let mut all = 0.0;
        let mut worst: Option<(f64, &str)> = None;
        for (part, buckets) in &judged.limits {
            let refused = buckets.iter().map(|bucket| {
                let (calls, busy) = self.0.get(bucket).copied().unwrap_or_default();
                let wanted = calls / busy.as_secs_f64().max(1.0);
                let (requests, per) = bucket.0.rate;
                let given = f64::from(requests) * 1000.0 / (per.max(1) as f64);
                let refused = if wanted > given { 1.0 - given / wanted } else { 0.0 };
                (refused, bucket.0.name.as_str())
            });
            let most = refused.max_by(|a, b| a.0.total_cmp(&b.0));
            if let Some((refused, _)) = most {
                all += part * refused;
            }
            worst = match (worst, most) {
                (Some(a), Some(b)) if a.0 >= b.0 => Some(a),
                (a, b) => b.or(a),
            };
        }
        (all, worst.map(|(_, name)| name.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn templates_have_examples_that_are_like_them() {
        assert_eq!(example("/orders/{number}/lines"), "/orders/1/lines");
        assert_eq!(example("/items"), "/items");
        assert_eq!((percent(0.2), percent(0.123)), ("20 %".to_owned(), "12.3 %".to_owned()));
    }
}
