//! What clients asked of a store and what they were told, and whether one register a key could have said so: linearizability by search
//! (Wing and Gong, 1993, with Lowe's memory of what was tried), and watches that lose, repeat and reorder nothing.
//!
//! Every value is written by one write alone, so a value names its write. An operation that was not answered may have happened at any time
//! since, or never.

use std::collections::{BTreeMap, HashMap, HashSet};

/// What an operation asked and was told. Values name writes; `None` is no object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// Found this.
    Read(Option<u64>),
    /// Replaced what it expected.
    Written { expect: Option<u64>, value: Option<u64> },
    /// Found something else than it expected.
    Refused { expect: Option<u64>, found: Option<u64> },
    /// Was not answered.
    Unknown { expect: Option<u64>, value: Option<u64> },
}

/// One operation on one key. Times are places in one order.
#[derive(Clone, Copy, Debug)]
pub struct Operation {
    pub key: u32,
    pub called: u64,
    pub done: u64,
    pub what: What,
}

/// What a watch said of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    pub revision: u64,
    pub key: u32,
    pub before: Option<u64>,
    pub after: Option<u64>,
}

/// Everything that was asked and told.
#[derive(Clone, Debug, Default)]
pub struct History {
    pub operations: Vec<Operation>,
    /// The revision of each write that was acknowledged, with what was written.
    pub made: Vec<Seen>,
    /// By watcher, resumed watches joined.
    pub watches: Vec<Vec<Seen>>,
}

impl History {
    /// Everything that was asked, told and shown of one key, a line each: operations by the time of their call, then what each watch showed.
    pub fn of(&self, key: u32) -> Vec<String> {
        let mut operations: Vec<&Operation> = self.operations.iter().filter(|o| o.key == key).collect();
        operations.sort_by_key(|o| o.called);
        let mut lines: Vec<String> = operations
            .iter()
            .map(|o| {
                let done = if o.done == u64::MAX { "-".to_owned() } else { o.done.to_string() };
                format!("{}..{done} {:?}", o.called, o.what)
            })
            .collect();
        for (number, watch) in self.watches.iter().enumerate() {
            let of_key = watch.iter().filter(|seen| seen.key == key);
            lines.extend(of_key.map(|s| format!("watch {number}: {} {:?} -> {:?}", s.revision, s.before, s.after)));
        }
        lines
    }

    /// Everything that is wrong with it.
    pub fn faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        let mut keys: BTreeMap<u32, Vec<Operation>> = BTreeMap::new();
        self.operations.iter().for_each(|o| keys.entry(o.key).or_default().push(*o));
        for (key, operations) in keys {
            if let Err(fault) = linearizable(&operations) {
                faults.push(format!("key {key}: {fault}"));
            }
        }
        for (number, watch) in self.watches.iter().enumerate() {
            if let Some(fault) = in_order(watch) {
                faults.push(format!("watch {number}: {fault}"));
            }
            if let Some(fault) = self.misses(watch) {
                faults.push(format!("watch {number}: {fault}"));
            }
        }
        faults
    }

    /// Acknowledged writes that a watch did not show, up to the last one that it did.
    fn misses(&self, watch: &[Seen]) -> Option<String> {
        let shown: HashMap<u64, &Seen> = watch.iter().map(|seen| (seen.revision, seen)).collect();
        let last = watch.last()?.revision;
        self.made.iter().filter(|made| made.revision <= last).find_map(|made| match shown.get(&made.revision) {
            Some(seen) if **seen == *made => None,
            Some(seen) => Some(format!("shows {seen:?} for {made:?}")),
            None => Some(format!("does not show {made:?}")),
        })
    }
}

/// Revisions ascend, and each event of a key begins where the one before ended.
fn in_order(watch: &[Seen]) -> Option<String> {
    let mut state: HashMap<u32, Option<u64>> = HashMap::new();
    let mut last = 0;
    for seen in watch {
        if seen.revision <= last {
            return Some(format!("{seen:?} comes after revision {last}"));
        }
        last = seen.revision;
        let before = state.insert(seen.key, seen.after).unwrap_or_default();
        if before != seen.before {
            return Some(format!("{seen:?}, and the watch left it at {before:?}"));
        }
    }
    None
}

/// Steps of a search: more than any honest history of this size needs.
const STEPS: usize = 2_000_000;

/// Whether one register could have answered so: operations in some order, each between its call and its answer.
fn linearizable(operations: &[Operation]) -> Result<(), String> {
    let observed: HashSet<u64> = operations
        .iter()
        .flat_map(|o| match o.what {
            What::Read(found) => [found, None],
            What::Written { expect, .. } | What::Unknown { expect, .. } => [expect, None],
            What::Refused { found, expect } => [found, expect],
        })
        .flatten()
        .collect();
    let mut operations: Vec<Operation> = operations
        .iter()
        // What nobody saw cannot have been replaced by anybody: it never happened, or nothing came after it.
        .filter(|o| !matches!(o.what, What::Unknown { value: Some(value), .. } if !observed.contains(&value)))
        .copied()
        .collect();
    for operation in &mut operations {
        if matches!(operation.what, What::Unknown { .. }) {
            operation.done = u64::MAX;
        }
    }
    operations.sort_by_key(|o| o.called);
    let must = operations.iter().filter(|o| o.done != u64::MAX).count();
    let mut tried: HashSet<(Vec<u64>, Option<u64>)> = HashSet::new();
    let mut stack = vec![(vec![0u64; operations.len().div_ceil(64)], None::<u64>, 0usize)];
    let mut furthest = 0;
    for _ in 0..STEPS {
        let Some((done, state, count)) = stack.pop() else {
            return Err(format!("no order explains more than {furthest} of {must} answers"));
        };
        if count == must {
            return Ok(());
        }
        furthest = furthest.max(count);
        let is_done = |i: usize| done[i / 64] & (1 << (i % 64)) != 0;
        let first =
            (0..operations.len()).filter(|i| !is_done(*i)).map(|i| operations[i].done).min().unwrap_or(u64::MAX);
        for (i, operation) in operations.iter().enumerate() {
            // Whatever comes next was called before anything that is left was answered.
            if operation.called > first {
                break;
            }
            if is_done(i) {
                continue;
            }
            let next = match operation.what {
                What::Read(found) if found == state => state,
                What::Written { expect, value } | What::Unknown { expect, value } if expect == state => value,
                What::Refused { expect, found } if found == state && expect != state => state,
                _ => continue,
            };
            let mut after = done.clone();
            after[i / 64] |= 1 << (i % 64);
            if tried.insert((after.clone(), next)) {
                stack.push((after, next, count + usize::from(operation.done != u64::MAX)));
            }
        }
    }
    Err(format!("cannot be decided in {STEPS} steps: {} operations", operations.len()))
}

mod tests {
    use super::*;

    fn operation(called: u64, done: u64, what: What) -> Operation {
        Operation { key: 1, called, done, what }
    }

    const PUT: What = What::Written { expect: None, value: Some(1) };
    const NEXT: What = What::Written { expect: Some(1), value: Some(2) };

    #[test]
    fn answers_that_one_register_could_give_are_accepted() {
        for operations in [
            vec![operation(1, 2, PUT), operation(3, 4, What::Read(Some(1)))],
            // A read that overlaps a write may see it or not.
            vec![operation(1, 4, PUT), operation(2, 3, What::Read(Some(1)))],
            vec![operation(1, 4, PUT), operation(2, 3, What::Read(None))],
            // A write that was not answered may have happened, late too, or never.
            vec![
                operation(1, 2, What::Unknown { expect: None, value: Some(1) }),
                operation(3, 4, What::Read(None)),
                operation(5, 6, What::Read(Some(1))),
            ],
            vec![operation(1, 2, What::Unknown { expect: None, value: Some(1) }), operation(3, 4, What::Read(None))],
            vec![
                operation(1, 9, PUT),
                operation(2, 8, NEXT),
                operation(3, 4, What::Refused { expect: None, found: Some(1) }),
            ],
            vec![
                operation(1, 2, PUT),
                operation(3, 4, What::Written { expect: Some(1), value: None }),
                operation(5, 6, What::Read(None)),
            ],
        ] {
            assert_eq!(linearizable(&operations), Ok(()), "{operations:?}");
        }
    }

    #[test]
    fn answers_that_no_register_could_give_are_found() {
        for operations in [
            // Lost.
            vec![operation(1, 2, PUT), operation(3, 4, What::Read(None))],
            // Stale.
            vec![operation(1, 2, PUT), operation(3, 4, NEXT), operation(5, 6, What::Read(Some(1)))],
            // Seen, and then not.
            vec![operation(1, 9, PUT), operation(2, 3, What::Read(Some(1))), operation(4, 5, What::Read(None))],
            // Two that expected the same.
            vec![
                operation(1, 2, PUT),
                operation(3, 9, NEXT),
                operation(4, 8, What::Written { expect: Some(1), value: Some(3) }),
            ],
            // From nowhere.
            vec![operation(1, 2, What::Read(Some(7)))],
            // Refused without a reason.
            vec![operation(1, 2, PUT), operation(3, 4, What::Refused { expect: Some(1), found: Some(1) })],
            // Happened after all, and was undone.
            vec![
                operation(1, 2, What::Unknown { expect: None, value: Some(1) }),
                operation(3, 4, What::Read(Some(1))),
                operation(5, 6, What::Read(None)),
            ],
        ] {
            assert!(linearizable(&operations).is_err(), "{operations:?}");
        }
    }

    #[test]
    fn a_watch_that_loses_repeats_or_reorders_is_found() {
        let seen = |revision, before, after| Seen { revision, key: 1, before, after };
        let all = [seen(1, None, Some(1)), seen(2, Some(1), Some(2)), seen(4, Some(2), None)];
        let faults =
            |watch: Vec<Seen>| History { made: all.to_vec(), watches: vec![watch], ..History::default() }.faults();
        assert_eq!(faults(all.to_vec()), Vec::<String>::new());
        assert_eq!(faults(all[..2].to_vec()), Vec::<String>::new(), "it had not come to the rest");
        for bad in [
            vec![all[0], all[2]],
            vec![all[1], all[2]],
            vec![all[0], all[0], all[1]],
            vec![all[0], all[2], all[1]],
            vec![all[0], seen(2, Some(1), Some(9)), seen(4, Some(9), None)],
        ] {
            assert!(!faults(bad.clone()).is_empty(), "{bad:?}");
        }
    }
}
