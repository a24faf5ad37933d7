//! What the demo promises, judged from what was measured: five questions, each with an answer and the figures behind it. Pure.

use super::prometheus::Scrape;
use crate::stat::percent;
use serde::Deserialize;
use std::collections::BTreeMap;

/// One question and its answer.
#[derive(Clone, Debug, Default)]
pub struct Check {
    /// What was asked.
    pub name: String,
    /// Whether it is well.
    pub ok: bool,
    /// What was found.
    pub detail: String,
}

/// The load driver's cumulative report.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Report {
    /// Whether the driver has ended.
    pub done: bool,
    /// Calls that ended.
    pub total: u64,
    /// Of them, with 200.
    pub ok: u64,
    /// The others.
    pub failed: u64,
    /// Answers by catalog's version.
    pub variants: BTreeMap<String, u64>,
    /// The first failures.
    pub failures: Vec<Failed>,
}

/// One failed call of a user.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Failed {
    /// When it ended, milliseconds since the Unix epoch.
    pub at_ms: u64,
    /// `POST`
    pub method: String,
    /// `/checkout`
    pub path: String,
    /// Who failed, and how.
    pub cause: String,
}

/// Everything that was measured.
#[derive(Clone, Debug, Default)]
pub struct Evidence {
    /// Counters at the end.
    pub last: Scrape,
    /// The driver's last report.
    pub report: Report,
    /// Answers by version when the split was in force.
    pub at_shift: BTreeMap<String, u64>,
    /// Answers by version at the end.
    pub at_end: BTreeMap<String, u64>,
    /// Whether callers were seen to take the killed instance out, and how long after its end (milliseconds).
    pub ejected_after_ms: Option<u64>,
    /// How long after its restart it had served calls and was in balancing again.
    pub returned_after_ms: Option<u64>,
    /// When the control plane was killed and until when its absence could matter, milliseconds since the epoch.
    pub outage: Option<(u64, u64)>,
    /// How long the API did not answer.
    pub outage_ms: Option<u64>,
}

/// Answers that payments gives on purpose carry its name and no mark of the mesh.
const INJECTED: &str = "payments; status=503; weft-error=-";

/// The five checks, in the order of the demo's promise.
pub fn judge(evidence: &Evidence) -> Vec<Check> {
    vec![mtls(evidence), success(evidence), split(evidence), ejection(evidence), outage(evidence)]
}

fn check(name: &str, ok: bool, detail: String) -> Check {
    Check { name: name.into(), ok, detail }
}

fn mtls(evidence: &Evidence) -> Check {
    let sum = |part: fn(&super::prometheus::Totals) -> f64| evidence.last.services.values().map(part).sum::<f64>();
    let (mutual, plaintext) = (sum(|totals| totals.mutual), sum(|totals| totals.plaintext));
    let missing: Vec<String> = super::topology::SERVICES
        .iter()
        .map(|name| format!("{}/{name}", super::topology::NAMESPACE))
        .filter(|name| evidence.last.services.get(name).is_none_or(|totals| totals.mutual == 0.0))
        .collect();
    let mut detail = format!("{mutual:.0} of {:.0} calls", mutual + plaintext);
    if !missing.is_empty() {
        detail.push_str(&format!("; no call was counted to {}", missing.join(", ")));
    }
    check("every call between services was mTLS", plaintext == 0.0 && missing.is_empty(), detail)
}

fn success(evidence: &Evidence) -> Check {
    let Report { total, ok, failed, failures, .. } = &evidence.report;
    let rate = ratio(*ok, *total);
    let payments = evidence.last.services.get("shop/payments").cloned().unwrap_or_default();
    let raw = ratio_of(payments.calls - payments.failures, payments.calls + payments.retries);
    let mut detail = format!("{} of {total} calls, {failed} failed", percent(rate));
    detail.push_str(&format!("; payments alone succeeded with {} of attempts", percent(raw)));
    if let Some(first) = failures.first() {
        detail.push_str(&format!("; first failure: {} {}: {}", first.method, first.path, first.cause));
    }
    check("users saw at least 99.5% success although payments fails 5%", *total > 0 && rate >= 0.995, detail)
}

fn split(evidence: &Evidence) -> Check {
    let name = "the split was within 3 points of 90/10";
    let since = |variant: &str| {
        let at = |counts: &BTreeMap<String, u64>| counts.get(variant).copied().unwrap_or(0);
        at(&evidence.at_end).saturating_sub(at(&evidence.at_shift))
    };
    let (v1, v2) = (since("v1"), since("v2"));
    if v1 + v2 == 0 {
        return check(name, false, "no call was answered after the shift".into());
    }
    let share = ratio(v2, v1 + v2);
    check(name, (share - 0.1).abs() <= 0.03, format!("{} of {} calls went to v2", percent(share), v1 + v2))
}

fn ejection(evidence: &Evidence) -> Check {
    let name = "the killed instance was ejected and came back";
    let seconds = |ms: u64| format!("{}.{} s", ms / 1000, ms % 1000 / 100);
    let victim = super::topology::VICTIM;
    match (evidence.ejected_after_ms, evidence.returned_after_ms) {
        (Some(out), Some(back)) => {
            let detail = format!(
                "{victim} was out {} after its end, and served again {} after its start",
                seconds(out),
                seconds(back)
            );
            check(name, true, detail)
        }
        (Some(out), None) => {
            check(name, false, format!("{victim} was out after {} and did not come back", seconds(out)))
        }
        (None, _) => {
            check(name, false, format!("no breaker of {} opened for {victim}", super::topology::VICTIMS_CALLER))
        }
    }
}

fn outage(evidence: &Evidence) -> Check {
    let name = "no call failed because of the control plane's restart";
    let Some((from, until)) = evidence.outage else {
        return check(name, false, "the control plane did not come back".into());
    };
    let report = &evidence.report;
    if usize::try_from(report.failed).unwrap_or(usize::MAX) > report.failures.len() {
        return check(name, false, format!("{} calls failed, more than can be told apart", report.failed));
    }
    let within = |failed: &&Failed| (from..=until).contains(&failed.at_ms) && failed.cause != INJECTED;
    let blamed: Vec<&Failed> = report.failures.iter().filter(within).collect();
    let away = evidence.outage_ms.unwrap_or(until - from);
    let mut detail = format!("{} failed while it was away for {} ms, and in the time after", blamed.len(), away);
    if let Some(first) = blamed.first() {
        detail.push_str(&format!("; first: {} {}: {}", first.method, first.path, first.cause));
    }
    check(name, blamed.is_empty(), detail)
}

fn ratio(part: u64, whole: u64) -> f64 {
    let as_float = |value: u64| u32::try_from(value).map_or(f64::from(u32::MAX), f64::from);
    ratio_of(as_float(part), as_float(whole))
}

fn ratio_of(part: f64, whole: f64) -> f64 {
    if whole > 0.0 { part / whole } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good() -> Evidence {
        let mut last = Scrape::default();
        for name in super::super::topology::SERVICES {
            let totals =
                super::super::prometheus::Totals { calls: 100.0, mutual: 100.0, retries: 5.0, ..Default::default() };
            last.services.insert(format!("shop/{name}"), totals);
        }
        let counts = |v1, v2| BTreeMap::from([("v1".to_owned(), v1), ("v2".to_owned(), v2)]);
        Evidence {
            last,
            report: Report {
                done: true,
                total: 2000,
                ok: 1999,
                failed: 1,
                failures: vec![Failed {
                    at_ms: 1500,
                    method: "POST".into(),
                    path: "/checkout".into(),
                    cause: INJECTED.into(),
                }],
                ..Report::default()
            },
            at_shift: counts(200, 0),
            at_end: counts(1820, 180),
            ejected_after_ms: Some(640),
            returned_after_ms: Some(2100),
            outage: Some((1000, 5000)),
            outage_ms: Some(1200),
        }
    }

    fn verdicts(evidence: &Evidence) -> Vec<bool> {
        judge(evidence).iter().map(|check| check.ok).collect()
    }

    #[test]
    fn a_good_run_passes_all_five() {
        assert_eq!(verdicts(&good()), [true; 5]);
    }

    #[test]
    fn one_plaintext_call_fails_the_first() {
        let mut evidence = good();
        evidence.last.services.get_mut("shop/users").unwrap().plaintext = 1.0;
        assert_eq!(verdicts(&evidence), [false, true, true, true, true]);
    }

    #[test]
    fn a_service_that_was_never_called_proves_nothing() {
        let mut evidence = good();
        evidence.last.services.remove("shop/users");
        assert!(!judge(&evidence)[0].ok);
        assert!(judge(&evidence)[0].detail.contains("shop/users"));
    }

    #[test]
    fn too_many_failures_or_a_crooked_split_fail() {
        let mut evidence = good();
        evidence.report.ok = 1980;
        evidence.at_end.insert("v2".into(), 300);
        assert_eq!(verdicts(&evidence)[1..3], [false, false]);
    }

    #[test]
    fn a_failure_during_the_outage_counts_unless_payments_made_it_on_purpose() {
        let mut evidence = good();
        evidence.report.failures[0].cause = "orders; status=503; weft-error=no-healthy-endpoint".into();
        assert!(!judge(&evidence)[4].ok);
        evidence.report.failures[0].at_ms = 900;
        assert!(judge(&evidence)[4].ok);
        evidence.report.failed = 300;
        assert!(!judge(&evidence)[4].ok);
    }

    #[test]
    fn an_instance_that_never_left_or_never_returned_fails() {
        let evidence = Evidence { returned_after_ms: None, ..good() };
        assert!(!judge(&evidence)[3].ok);
        let evidence = Evidence { ejected_after_ms: None, ..good() };
        assert!(!judge(&evidence)[3].ok);
    }
}
