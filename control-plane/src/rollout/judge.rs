//! Whether a change makes calls worse: a decision from counts and the time that they took. Pure.
//!
//! The share of failed calls of the sample is compared with that of the sidecars which do not have the change yet, at the same time, and with
//! the sample's own before it had it; so is the share of refused ones. It has risen where it has risen over both: a fault of everything is no fault of the
//! change, and a caller that always fails does not fail because of it. Two shares are compared by the interval of Agresti and Caffo (The
//! American Statistician 54, 2000): one success and one failure are added to each, which holds for few calls and shares near zero too.

use super::Limits;
use crate::fleet::tally::{Count, Halves};
use std::time::Duration;

/// Before the time is over a rise must be this sure: one in a thousand, since it is asked again and again (standard deviations, one-sided).
const SURE: f64 = 3.09;
/// At the end one in ten is enough to be careful.
const LIKELY: f64 = 1.28;
/// With fewer calls of the sample nothing is said of it.
const FEWEST: u64 = 5;
/// With fewer calls others, or what was before, are nothing to compare with.
const FEWEST_OF_OTHERS: u64 = 20;
/// How often its time a change waits for calls to judge it by.
pub const PATIENCE: u32 = 10;

/// Counts of one kind of call while a change is tried, and before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Evidence {
    /// Since the sample has the change.
    pub during: Halves,
    /// Of the sample, before it had it.
    pub before: Count,
}

/// What becomes of a change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// It is tried on.
    GoOn,
    /// All get it. The text says what was seen.
    Promote(String),
    /// Nobody keeps it. The text says why.
    RollBack(String),
}

/// Which of two shares.
#[derive(Clone, Copy)]
enum Of {
    Failures,
    Refusals,
}

impl Of {
    const fn name(self) -> &'static str {
        match self {
            Self::Failures => "error rate",
            Self::Refusals => "share of refused calls",
        }
    }

    const fn count(self, count: Count) -> u64 {
        match self {
            Self::Failures => count.failures,
            Self::Refusals => count.refusals,
        }
    }

    fn limit(self, limits: &Limits) -> f64 {
        match self {
            Self::Failures => limits.errors,
            Self::Refusals => limits.refusals,
        }
    }

    /// Its share; none of no calls is zero.
    fn share(self, count: Count) -> f64 {
        if count.calls == 0 { 0.0 } else { self.count(count) as f64 / count.calls as f64 }
    }

    /// By how much the share of `a` is above that of `b`, at least, with so many standard deviations of doubt.
    fn rise(self, a: Count, b: Count, doubt: f64) -> f64 {
        let adjusted = |count: Count| {
            let calls = count.calls as f64 + 2.0;
            let share = (self.count(count) as f64 + 1.0) / calls;
            (share, share * (1.0 - share) / calls)
        };
        // Nothing to compare with: as if nothing ever failed.
        let (of_b, variance_of_b) = if b.calls == 0 { (0.0, 0.0) } else { adjusted(b) };
        let (of_a, variance_of_a) = adjusted(a);
        of_a - of_b - doubt * (variance_of_a + variance_of_b).sqrt()
    }
}

/// Decides about a change that a sample has had for `elapsed`; `sidecars` are those of the sample and all that it is about, `refused` what a
/// sidecar said which did not take it.
#[must_use]
pub fn judge(
    limits: &Limits,
    evidence: &[Evidence],
    elapsed: Duration,
    sidecars: (usize, usize),
    refused: Option<&str>,
) -> Decision {
    if let Some(why) = refused {
        return Decision::RollBack(why.to_owned());
    }
    let over = elapsed >= limits.duration;
    let is_worse = |of: Of, seen: &Evidence| {
        let (sample, limit) = (seen.during.sample, of.limit(limits));
        let references = [seen.during.others, seen.before];
        let mut known = references.into_iter().filter(|other| other.calls >= FEWEST_OF_OTHERS).collect::<Vec<_>>();
        if known.is_empty() {
            known.push(Count::default());
        }
        let risen = |other: &Count| {
            of.rise(sample, *other, SURE) > limit
                || over && of.share(sample) - of.share(*other) > limit && of.rise(sample, *other, LIKELY) > 0.0
        };
        sample.calls >= FEWEST && known.iter().all(risen)
    };
    let kinds = [Of::Failures, Of::Refusals];
    let worse = evidence.iter().flat_map(|seen| kinds.map(|of| (of, seen))).find(|(of, seen)| is_worse(*of, seen));
    if let Some((of, seen)) = worse {
        return Decision::RollBack(in_words(of, seen, sidecars));
    }
    let most = evidence.iter().max_by_key(|seen| seen.during.sample.calls);
    match most.filter(|seen| seen.during.sample.calls >= FEWEST) {
        Some(seen) if over => Decision::Promote(in_words(Of::Failures, seen, sidecars)),
        None if elapsed >= limits.duration * PATIENCE => {
            Decision::Promote("there were no calls to judge it by".to_owned())
        }
        _ => Decision::GoOn,
    }
}

/// "error rate of 1 of 20 sidecars was 34.0 % of 120 calls, 0.1 % before, 0.2 % of the others"
fn in_words(of: Of, seen: &Evidence, (some, all): (usize, usize)) -> String {
    let percent = |count: Count| format!("{:.1} %", of.share(count) * 100.0);
    let Halves { sample, others } = seen.during;
    let mut text = format!("{} of {some} of {all} sidecars", of.name());
    if seen.before.calls > 0 {
        text.push_str(&format!(" went from {} to {} of {} calls", percent(seen.before), percent(sample), sample.calls));
    } else {
        text.push_str(&format!(" was {} of {} calls", percent(sample), sample.calls));
    }
    if others.calls > 0 {
        text.push_str(&format!(", of the others it was {}", percent(others)));
    }
    text
}

#[cfg(test)]
#[path = "judge_tests.rs"]
mod tests;
