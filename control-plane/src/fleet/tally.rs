//! Calls counted sidecar by sidecar, while somebody wants to know what a change does to a few of them. Pure.
//!
//! Golden metrics keep sums over many sidecars; here it matters which one told. Nothing is counted unless it was asked for.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::{AddAssign, Sub};
use weft_proto::v1;

/// What became of some calls.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    /// All of them.
    pub calls: u64,
    /// Those that failed, after retries.
    pub failures: u64,
    /// Those that a policy of the sidecar which tells refused.
    pub refusals: u64,
}

impl Count {
    fn of(stats: &v1::CallStats) -> Self {
        let at_most = |n: u64| n.min(stats.calls);
        Self { calls: stats.calls, failures: at_most(stats.failures), refusals: at_most(stats.refusals) }
    }
}

impl AddAssign for Count {
    fn add_assign(&mut self, more: Self) {
        self.calls = self.calls.saturating_add(more.calls);
        self.failures = self.failures.saturating_add(more.failures);
        self.refusals = self.refusals.saturating_add(more.refusals);
    }
}

impl Sub for Count {
    type Output = Self;

    fn sub(self, before: Self) -> Self {
        Self {
            calls: self.calls.saturating_sub(before.calls),
            failures: self.failures.saturating_sub(before.failures),
            refusals: self.refusals.saturating_sub(before.refusals),
        }
    }
}

/// What is counted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Subject {
    /// Calls that are addressed to these services, or given to them by a route, by the sidecar that makes them.
    pub services: BTreeSet<String>,
    /// Calls to these workloads, as their own sidecars and as those of their callers tell of them.
    pub workloads: BTreeSet<String>,
}

/// The counts since they were asked for.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    subject: Subject,
    /// By caller's sidecar, then by the service that was addressed and the one that calls went to.
    made: BTreeMap<String, BTreeMap<[String; 2], Count>>,
    /// By workload: what its own sidecar tells.
    taken: BTreeMap<String, Count>,
    /// By workload: what callers tell of it.
    met: BTreeMap<String, Count>,
}

/// Counts of a sample, and of all others.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Halves {
    /// Of those in the sample.
    pub sample: Count,
    /// Of those that are not.
    pub others: Count,
}

impl Sub for Halves {
    type Output = Self;

    fn sub(self, before: Self) -> Self {
        Self { sample: self.sample - before.sample, others: self.others - before.others }
    }
}

impl Tally {
    /// Nothing yet.
    #[must_use]
    pub fn of(subject: Subject) -> Self {
        Self { subject, ..Self::default() }
    }

    /// What is counted.
    #[must_use]
    pub const fn subject(&self) -> &Subject {
        &self.subject
    }

    /// Takes what a sidecar reports.
    pub fn add(&mut self, sidecar: &str, calls: &[v1::CallStats]) {
        for stats in calls {
            let count = Count::of(stats);
            if stats.direction == i32::from(v1::Direction::Inbound) {
                if self.subject.workloads.contains(sidecar) {
                    *self.taken.entry(sidecar.to_owned()).or_default() += count;
                }
                continue;
            }
            let addressed = if stats.addressed.is_empty() { &stats.destination } else { &stats.addressed };
            let both = [addressed, &stats.destination];
            if both.iter().any(|service| self.subject.services.contains(*service)) {
                let of_sidecar = self.made.entry(sidecar.to_owned()).or_default();
                *of_sidecar.entry(both.map(Clone::clone)).or_default() += count;
            }
            if self.subject.workloads.contains(&stats.endpoint) {
                *self.met.entry(stats.endpoint.clone()).or_default() += count;
            }
        }
    }

    /// The counts of a part of the subject, by whether the sidecar is in a sample: of calls made, of calls taken, and of calls met.
    #[must_use]
    pub fn halves(&self, part: &Subject, in_sample: impl Fn(&str) -> bool) -> [Halves; 3] {
        let mut halves = [Halves::default(); 3];
        let mut add = |kind: usize, sidecar: &str, count: Count| {
            let half: &mut Halves = &mut halves[kind];
            let side = if in_sample(sidecar) { &mut half.sample } else { &mut half.others };
            *side += count;
        };
        for (sidecar, services) in &self.made {
            let of_part = |both: &[String; 2]| both.iter().any(|service| part.services.contains(service));
            for (_, count) in services.iter().filter(|(both, _)| of_part(both)) {
                add(0, sidecar, *count);
            }
        }
        for (kind, counts) in [(1, &self.taken), (2, &self.met)] {
            for (workload, count) in counts.iter().filter(|(workload, _)| part.workloads.contains(*workload)) {
                add(kind, workload, *count);
            }
        }
        halves
    }

    /// Calls that a sidecar told of, of whatever kind.
    #[must_use]
    pub fn calls(&self, sidecar: &str) -> u64 {
        let made = self.made.get(sidecar).into_iter().flat_map(BTreeMap::values);
        made.chain(self.taken.get(sidecar)).map(|count| count.calls).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stats(inbound: bool, destination: &str, endpoint: &str, calls: u64, failures: u64) -> v1::CallStats {
        let direction = if inbound { v1::Direction::Inbound } else { v1::Direction::Outbound };
        v1::CallStats {
            direction: direction.into(),
            destination: destination.into(),
            endpoint: endpoint.into(),
            calls,
            failures,
            ..Default::default()
        }
    }

    #[test]
    fn calls_count_for_who_makes_takes_and_meets_them_and_others_do_not() {
        let subject = Subject {
            services: ["shop/cart".to_owned()].into(),
            workloads: ["shop/cart-1".to_owned(), "shop/cart-2".to_owned()].into(),
        };
        let mut tally = Tally::of(subject.clone());
        tally.add("shop/web-1", &[stats(false, "shop/cart", "shop/cart-1", 10, 4), stats(false, "shop/x", "", 5, 5)]);
        tally.add("shop/web-2", &[stats(false, "shop/cart", "shop/cart-2", 20, 1)]);
        tally.add("shop/cart-1", &[stats(true, "shop/cart", "", 10, 3)]);
        tally.add("shop/other", &[stats(true, "shop/other", "", 9, 9)]);
        let sample = |uid: &str| uid.ends_with("-1");
        let [made, taken, met] = tally.halves(&subject, sample);
        assert_eq!((made.sample.calls, made.sample.failures, made.others.calls), (10, 4, 20));
        assert_eq!((taken.sample.calls, taken.sample.failures, taken.others.calls), (10, 3, 0));
        assert_eq!((met.sample.failures, met.others.failures), (4, 1));
        assert_eq!((tally.calls("shop/web-1"), tally.calls("shop/cart-1"), tally.calls("shop/other")), (10, 10, 0));
        // What a route gives to another service is about both, once.
        tally.add(
            "shop/web-1",
            &[v1::CallStats { addressed: "shop/cart".into(), ..stats(false, "shop/cart-next", "", 7, 7) }],
        );
        assert_eq!(tally.halves(&subject, sample)[0].sample.calls, 17);
        let both = Subject { services: ["shop/cart".to_owned(), "shop/cart-next".to_owned()].into(), ..subject };
        assert_eq!(tally.halves(&both, sample)[0].sample.calls, 17);
        let nothing = tally.halves(&Subject::default(), sample);
        assert_eq!(nothing, [Halves::default(); 3]);
    }
}
