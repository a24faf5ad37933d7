//! The longest prefix of a path by whole segments, in a number of look-ups that grows with the logarithm of the number of different
//! *lengths* of prefixes, whatever their number (Waldvogel, Varghese, Turner and Plattner, SIGCOMM 1997: binary search on lengths).
//!
//! For each prefix its search leaves markers at the shorter lengths that it tries on its way. A marker remembers the longest prefix that
//! is known to hold once the marker itself is met, so that a search which goes on in vain has lost nothing.

use std::collections::HashMap;
use std::ops::Range;

/// Prefixes, and for each the entries of the table that have it.
#[derive(Clone, Debug, Default)]
pub(super) struct Prefixes {
    /// Shortest first.
    lengths: Vec<usize>,
    nodes: HashMap<Box<[u8]>, Node, foldhash::fast::RandomState>,
    /// Invariant: what `Node` and `Prefix::parent` name is in here.
    prefixes: Vec<Prefix>,
}

/// A prefix, a marker or both.
#[derive(Clone, Copy, Debug, Default)]
struct Node {
    /// The prefix of exactly this text. It holds where the path ends or has a slash after it.
    own: Option<usize>,
    /// The longest shorter prefix that holds wherever this text begins a path.
    shorter: Option<usize>,
}

#[derive(Clone, Debug)]
struct Prefix {
    text: Box<str>,
    entries: Range<usize>,
    /// The next shorter prefix that holds wherever this one does.
    parent: Option<usize>,
}

impl Prefixes {
    /// Prefixes without a final slash, each with its entries. Invariant: no text occurs twice.
    pub(super) fn new(prefixes: impl Iterator<Item = (Box<str>, Range<usize>)>) -> Self {
        let prefixes: Vec<Prefix> = prefixes.map(|(text, entries)| Prefix { text, entries, parent: None }).collect();
        let mut lengths: Vec<usize> = prefixes.iter().map(|prefix| prefix.text.len()).collect();
        lengths.sort_unstable();
        lengths.dedup();
        let mut made = Prefixes { lengths, nodes: HashMap::default(), prefixes };
        for (index, prefix) in made.prefixes.iter().enumerate() {
            let text = prefix.text.as_bytes();
            let (mut low, mut high) = (0, made.lengths.len());
            while let Some((middle, length)) = middle(&made.lengths, low, high) {
                match text.get(..length) {
                    Some(marker) if length < text.len() => {
                        made.nodes.entry(marker.into()).or_default();
                        low = middle + 1;
                    }
                    Some(_) => {
                        made.nodes.entry(text.into()).or_default().own = Some(index);
                        break;
                    }
                    None => high = middle,
                }
            }
        }
        let shorter: Vec<(Box<[u8]>, Option<usize>)> =
            made.nodes.keys().map(|text| (text.clone(), made.holding_before(text))).collect();
        for (text, found) in shorter {
            if let Some(node) = made.nodes.get_mut(&text) {
                node.shorter = found;
            }
        }
        let parents: Vec<Option<usize>> =
            made.prefixes.iter().map(|prefix| made.holding_before(prefix.text.as_bytes())).collect();
        for (prefix, parent) in made.prefixes.iter_mut().zip(parents) {
            prefix.parent = parent;
        }
        made
    }

    /// The longest prefix of `text` that ends before one of its slashes.
    fn holding_before(&self, text: &[u8]) -> Option<usize> {
        let slashes = (1..text.len()).rev().filter(|at| text.get(*at) == Some(&b'/'));
        slashes.filter_map(|at| self.nodes.get(text.get(..at)?)?.own).next()
    }

    /// The entries of every prefix of `path`, the longest prefix first.
    pub(super) fn of<'p>(&'p self, path: &str) -> impl Iterator<Item = (&'p str, Range<usize>)> {
        let path = path.as_bytes();
        let (mut low, mut high, mut longest) = (0, self.lengths.len(), None);
        while let Some((middle, length)) = middle(&self.lengths, low, high) {
            let node = path.get(..length).and_then(|text| {
                super::table::step();
                self.nodes.get(text)
            });
            match node {
                Some(node) => {
                    let whole = path.get(length).is_none_or(|next| *next == b'/');
                    longest = node.own.filter(|_| whole).or(node.shorter);
                    low = middle + 1;
                }
                None => high = middle,
            }
        }
        std::iter::successors(longest.and_then(|index| self.prefixes.get(index)), |prefix| {
            self.prefixes.get(prefix.parent?)
        })
        .map(|prefix| (&*prefix.text, prefix.entries.clone()))
    }
}

fn middle(lengths: &[usize], low: usize, high: usize) -> Option<(usize, usize)> {
    let middle = low + (high.checked_sub(low).filter(|left| *left > 0)?) / 2;
    lengths.get(middle).map(|length| (middle, *length))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn the_prefixes_of_a_path_are_those_that_hold_longest_first(
            texts in prop::collection::hash_set("(/[ab]{1,2}){1,6}", 0..40),
            path in "(/[ab]{0,3}){1,8}",
        ) {
            let prefixes = Prefixes::new(texts.iter().map(|text| (text.as_str().into(), 0..1)));
            let found: Vec<&str> = prefixes.of(&path).map(|(text, _)| text).collect();
            let mut expected: Vec<&str> = texts
                .iter()
                .map(String::as_str)
                .filter(|text| path.strip_prefix(text).is_some_and(|rest| rest.is_empty() || rest.starts_with('/')))
                .collect();
            expected.sort_by_key(|text| std::cmp::Reverse(text.len()));
            prop_assert_eq!(found, expected);
        }
    }
}
