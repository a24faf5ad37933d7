//! Which sidecars get a change first. Pure, and the same for the same change.

use std::collections::{BTreeSet, HashMap};

use aws_lc_rs::digest::{SHA256, digest};

/// Sidecars in a sample at most: more tell nothing new.
const MOST: usize = 1000;

/// A sidecar that a change is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Workload uid.
    pub uid: String,
    /// What it is an instance of; all that say the same stand in for each other.
    pub instance_of: String,
    /// Whether it has calls that the change is about.
    pub is_busy: bool,
}

/// Picks a share of the sidecars, `minimum` at least. Never all of several, and of several instances of one thing never the last; those that
/// have calls come first, then a hash of `salt` and uid decides. Empty only where there is nobody.
#[must_use]
pub fn pick(candidates: Vec<Candidate>, percent: u8, minimum: usize, salt: &str) -> BTreeSet<String> {
    let all = candidates.len();
    let wanted = (all * usize::from(percent) / 100).max(minimum).clamp(1, MOST);
    let wanted = wanted.min(all.saturating_sub(1).max(1));
    let mut left: HashMap<String, usize> = HashMap::new();
    for candidate in &candidates {
        *left.entry(candidate.instance_of.clone()).or_default() += 1;
    }
    let alone: BTreeSet<String> = left.iter().filter(|(_, n)| **n == 1).map(|(of, _)| of.clone()).collect();
    let mut ordered: Vec<_> =
        candidates.into_iter().map(|c| (!c.is_busy, hash(salt, &c.uid), c.uid, c.instance_of)).collect();
    ordered.sort();
    let mut picked = BTreeSet::new();
    for (_, _, uid, of) in ordered {
        if picked.len() == wanted {
            break;
        }
        let Some(left) = left.get_mut(&of).filter(|left| **left > 1 || alone.contains(&of)) else { continue };
        *left -= 1;
        picked.insert(uid);
    }
    picked
}

fn hash(salt: &str, uid: &str) -> Vec<u8> {
    digest(&SHA256, format!("{salt}\0{uid}").as_bytes()).as_ref().to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn candidates(services: usize, instances: usize) -> Vec<Candidate> {
        let of = |i: usize| Candidate {
            uid: format!("shop/w-{i}"),
            instance_of: format!("s-{}", i % services),
            is_busy: i.is_multiple_of(3),
        };
        (0..services * instances).map(of).collect()
    }

    #[test]
    fn one_of_twenty_is_five_percent_and_the_same_one_each_time() {
        let picked = pick(candidates(1, 20), 5, 1, "a");
        assert_eq!(picked.len(), 1);
        assert_eq!(pick(candidates(1, 20), 5, 1, "a"), picked);
        let others = (0..20).filter(|i| pick(candidates(1, 20), 5, 1, &i.to_string()) != picked).count();
        assert!(others > 5, "another change has another sample: {others} of 20");
        assert_eq!(pick(candidates(1, 1), 5, 3, "a").len(), 1, "who is alone is the sample");
        assert!(pick(Vec::new(), 5, 3, "a").is_empty());
    }

    proptest! {
        #[test]
        fn a_sample_is_never_empty_never_all_and_never_the_last_instance_of_several(
            services in 1_usize..6, instances in 1_usize..9, percent in 1_u8..=50, minimum in 1_usize..40, salt in "[a-z]{0,4}",
        ) {
            let all = candidates(services, instances);
            let picked = pick(all.clone(), percent, minimum, &salt);
            prop_assert!(!picked.is_empty());
            prop_assert!(all.len() == 1 || picked.len() < all.len());
            prop_assert!(picked.len() <= minimum.max(all.len() * usize::from(percent) / 100).max(1));
            if instances > 1 {
                for service in 0..services {
                    let of = format!("s-{service}");
                    let left = all.iter().any(|c| c.instance_of == of && !picked.contains(&c.uid));
                    prop_assert!(left, "{of} has an instance left");
                }
            }
        }
    }
}
