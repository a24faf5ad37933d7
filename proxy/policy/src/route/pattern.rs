//! Regular expressions for paths, tried together before one by one: a tree of sets, of which whole branches fall away with one search.
//! Searching allocates nothing once an expression's cache is made.

use regex::RegexSet;

/// Children of a node. Up to this many expressions are simply tried.
const FAN_OUT: usize = 8;
/// Largest compiled set, bytes. Expressions that exceed it together are searched in smaller sets.
const SET_BYTES: usize = 8 << 20;
/// More expressions than this in one set would thrash its cache.
const LARGEST_SET: usize = 512;

/// Expressions in order, each with what it leads to.
#[derive(Clone, Debug, Default)]
pub(super) struct Patterns(Vec<Node>);

#[derive(Clone, Debug)]
enum Node {
    /// Index of an entry of the table.
    Entry(usize),
    Group {
        /// Holds when any below does; `None`: not known without looking.
        set: Option<RegexSet>,
        below: Vec<Node>,
    },
}

impl Patterns {
    /// Expressions (anchored at both ends) in order of precedence.
    pub(super) fn new(patterns: &[(usize, &str)]) -> Self {
        Patterns(nodes(patterns))
    }

    /// The first entry, in order, for which `holds` does, of those whose expression may match.
    pub(super) fn find(&self, path: &str, holds: &mut dyn FnMut(usize) -> bool) -> Option<usize> {
        find(&self.0, path, holds)
    }
}

fn nodes(patterns: &[(usize, &str)]) -> Vec<Node> {
    if patterns.len() <= FAN_OUT {
        return patterns.iter().map(|(entry, _)| Node::Entry(*entry)).collect();
    }
    let mut each = FAN_OUT;
    while each * FAN_OUT < patterns.len() {
        each *= FAN_OUT;
    }
    let groups = patterns.chunks(each).map(|chunk| {
        let set = (chunk.len() <= LARGEST_SET).then(|| {
            regex::RegexSetBuilder::new(chunk.iter().map(|(_, pattern)| *pattern)).size_limit(SET_BYTES).build().ok()
        });
        Node::Group { set: set.flatten(), below: nodes(chunk) }
    });
    groups.collect()
}

fn find(nodes: &[Node], path: &str, holds: &mut dyn FnMut(usize) -> bool) -> Option<usize> {
    nodes.iter().find_map(|node| match node {
        Node::Entry(entry) => holds(*entry).then_some(*entry),
        Node::Group { set, below } => {
            super::table::step();
            let may = set.as_ref().is_none_or(|set| set.is_match(path));
            if may { find(below, path, holds) } else { None }
        }
    })
}
