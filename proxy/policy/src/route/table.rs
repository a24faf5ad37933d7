//! The compiled routes of one service port: precedence and ties are settled here once, at configuration time.

use std::cmp::Ordering;
use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use super::matching::pattern_length;
use super::{Choice, Decision, Filters, Match, PathMatch, Request, Rule, TextMatch, Timeouts, WeightedBackend};
use crate::retry;

/// What kind of routes a port has. Kinds never mix on a port.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Kind {
    /// No routes, or HTTPRoutes.
    #[default]
    Http,
    /// GRPCRoutes.
    Grpc,
    /// TCPRoutes.
    Tcp,
}

/// A route before compilation.
#[derive(Debug)]
pub struct RouteSpec {
    /// `namespace/name`.
    pub name: Arc<str>,
    /// Seconds since the Unix epoch; the older wins a tie.
    pub created: i64,
    /// Rules, in order.
    pub rules: Vec<RuleSpec>,
}

/// A rule before compilation.
#[derive(Debug)]
pub struct RuleSpec {
    /// Name; may be empty.
    pub name: Arc<str>,
    /// Empty: matches everything.
    pub matches: Vec<Match>,
    /// Header edits for every backend.
    pub filters: Filters,
    /// Timeouts, defaults applied.
    pub timeouts: Timeouts,
    /// What may be sent again.
    pub retry: Arc<retry::Policy>,
    /// Shares, in order.
    pub backends: Vec<WeightedBackend>,
}

/// The compiled routes of a service port.
#[derive(Clone, Debug)]
pub struct Table {
    kind: Kind,
    /// Rules by age and name of their route, then as they stand in it.
    rules: Vec<Arc<Rule>>,
    implicit: Arc<Rule>,
    /// Invariant: sorted so that, of the entries that match a request, the first wins.
    entries: Vec<Entry>,
    /// Entries with an exact path, by that path.
    exact: Index,
    /// Entries with a regular expression for a path, and those of gRPC: tried one by one.
    patterns: Range<usize>,
    /// Entries with a prefix, by that prefix…
    prefixes: Index,
    /// …and the lengths that prefixes have, longest first: a request is cut there and nowhere else, however many
    /// segments it has.
    prefix_lengths: Vec<usize>,
    /// Entries for every path.
    any: Range<usize>,
}

type Index = HashMap<Box<str>, Range<usize>, foldhash::fast::RandomState>;

/// One match of one rule.
#[derive(Clone, Debug)]
struct Entry {
    matching: Match,
    /// Invariant: an index of `rules`.
    rule: usize,
}

impl Table {
    /// Settles precedence. Without `routes`, `implicit` takes everything; with HTTP or gRPC routes it still takes
    /// opaque connections, which such routes say nothing about.
    pub fn compile(kind: Kind, mut routes: Vec<RouteSpec>, implicit: RuleSpec) -> Self {
        // "The oldest Route based on creation timestamp. The Route appearing first in alphabetical order by
        // {namespace}/{name}."
        routes.sort_by(|a, b| a.created.cmp(&b.created).then_with(|| a.name.cmp(&b.name)));
        let (mut rules, mut entries) = (Vec::new(), Vec::new());
        for route in routes {
            for (index, mut spec) in route.rules.into_iter().enumerate() {
                let matches = std::mem::take(&mut spec.matches);
                let all = matches.is_empty().then(Match::default);
                entries.extend(matches.into_iter().chain(all).map(|matching| Entry { matching, rule: rules.len() }));
                rules.push(Arc::new(Rule::new(Arc::clone(&route.name), index, spec)));
            }
        }
        // The sort is stable: within equal specificity the order above stands, then "the first matching rule (in list
        // order)".
        entries.sort_by(|a, b| compare(&a.matching, &b.matching));

        let run = |wanted: fn(&PathMatch) -> bool| {
            let start = entries.iter().position(|e| wanted(&e.matching.path)).unwrap_or(entries.len());
            let count = entries.iter().skip(start).take_while(|e| wanted(&e.matching.path)).count();
            start..start + count
        };
        let exact = index(&entries, |path| if let PathMatch::Exact(text) = path { Some(text) } else { None });
        let prefixes = index(&entries, |path| if let PathMatch::Prefix(text) = path { Some(text) } else { None });
        let mut prefix_lengths: Vec<usize> = prefixes.keys().map(|prefix| prefix.len()).collect();
        prefix_lengths.sort_unstable_by(|a, b| b.cmp(a));
        prefix_lengths.dedup();
        Table {
            kind,
            rules,
            implicit: Arc::new(Rule::new(Arc::from("default"), 0, implicit)),
            patterns: run(|path| matches!(path, PathMatch::Regex(_) | PathMatch::Grpc(_))),
            any: run(|path| matches!(path, PathMatch::Any)),
            entries,
            exact,
            prefixes,
            prefix_lengths,
        }
    }

    /// Places where a path is cut to look for a prefix.
    #[cfg(test)]
    pub(super) fn prefix_cuts(&self) -> usize {
        self.prefix_lengths.len()
    }

    /// What kind of routes these are.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Whether the port has no routes of its own, so that its implicit rule takes everything.
    pub fn is_implicit(&self) -> bool {
        self.rules.is_empty()
    }

    /// Every rule, by age and name of its route, then as it stands there; the implicit one when there is no other.
    pub fn rules(&self) -> &[Arc<Rule>] {
        if self.is_implicit() { std::slice::from_ref(&self.implicit) } else { &self.rules }
    }

    /// The rule that a call meets, before a share is drawn. Does not allocate, except to decode a percent-encoded query
    /// parameter that a regular expression looks at.
    pub fn find<R: Request + ?Sized>(&self, request: &R) -> Option<&Arc<Rule>> {
        if self.is_implicit() {
            return Some(&self.implicit);
        }
        if self.kind == Kind::Tcp {
            return self.rules.first();
        }
        let path = request.path();
        let first = |range: &Range<usize>| {
            self.entries.get(range.clone())?.iter().find(|entry| entry.matching.rest_holds(request))
        };
        let by_pattern = || {
            let mut patterns = self.entries.get(self.patterns.clone())?.iter();
            patterns.find(|entry| entry.matching.holds(request))
        };
        let by_prefix = || {
            self.prefix_lengths.iter().find_map(|length| {
                let whole_segments = path.as_bytes().get(*length).is_none_or(|next| *next == b'/');
                let prefix = path.get(..*length).filter(|_| whole_segments)?;
                first(self.prefixes.get(prefix)?)
            })
        };
        let entry =
            self.exact.get(path).and_then(first).or_else(by_pattern).or_else(by_prefix).or_else(|| first(&self.any))?;
        self.rules.get(entry.rule)
    }

    /// What becomes of a call. `random` is uniform over all `u64`.
    pub fn decide<R: Request + ?Sized>(&self, request: &R, random: u64) -> Decision<'_> {
        Self::draw(self.find(request), random)
    }

    /// What becomes of an opaque connection: the first rule of the oldest TCPRoute takes it, else the implicit rule
    /// (HTTP routes say nothing about it).
    pub fn decide_tcp(&self, random: u64) -> Decision<'_> {
        let routed = self.rules.first().filter(|_| self.kind == Kind::Tcp);
        Self::draw(Some(routed.unwrap_or(&self.implicit)), random)
    }

    fn draw(rule: Option<&Arc<Rule>>, random: u64) -> Decision<'_> {
        let Some(rule) = rule else { return Decision::NoRoute };
        match rule.choose(random) {
            Choice::Backend(backend, name) => Decision::Forward { rule, backend, name },
            Choice::Unresolved(reason) => Decision::Unresolved { rule, reason },
        }
    }
}

impl Rule {
    fn new(route: Arc<str>, index: usize, spec: RuleSpec) -> Self {
        let sums = spec.backends.iter().scan(0_u64, |sum, backend| {
            *sum += u64::from(backend.weight);
            Some(*sum)
        });
        Rule {
            route,
            index,
            name: spec.name,
            filters: spec.filters,
            timeouts: spec.timeouts,
            retry: spec.retry,
            sums: sums.collect(),
            backends: spec.backends,
        }
    }
}

/// Ranges of entries by the text of their path. Invariant relied on: entries of one kind and text are neighbours.
fn index(entries: &[Entry], text: impl Fn(&PathMatch) -> Option<&Box<str>>) -> Index {
    let mut index = Index::default();
    for (i, entry) in entries.iter().enumerate() {
        if let Some(text) = text(&entry.matching.path) {
            index.entry(text.clone()).or_insert(i..i).end = i + 1;
        }
    }
    index
}

/// Which of two matches is looked at first, if both could hold.
///
/// `HTTPRouteRule.matches`: "Exact path match. Prefix path match with largest number of characters. Method match.
/// Largest number of header matches. Largest number of query param matches." Where regular expressions stand is left to
/// implementations: after exact, before prefixes, so that a catch-all prefix does not hide them; the longer pattern
/// first. `GRPCRouteRule.matches`: characters in the service, in the method, number of header matches.
fn compare(a: &Match, b: &Match) -> Ordering {
    let path = rank(&a.path).cmp(&rank(&b.path)).then_with(|| match (&a.path, &b.path) {
        (PathMatch::Exact(a), PathMatch::Exact(b)) => a.cmp(b),
        (PathMatch::Prefix(a), PathMatch::Prefix(b)) => b.len().cmp(&a.len()).then_with(|| a.cmp(b)),
        (PathMatch::Regex(a), PathMatch::Regex(b)) => pattern_length(b.as_str()).cmp(&pattern_length(a.as_str())),
        (PathMatch::Grpc(a), PathMatch::Grpc(b)) => {
            let length = |part: &Option<TextMatch>| part.as_ref().map_or(0, TextMatch::length);
            let service = length(&b.service).cmp(&length(&a.service));
            service.then_with(|| length(&b.method).cmp(&length(&a.method)))
        }
        _ => Ordering::Equal,
    });
    path.then_with(|| b.method.is_some().cmp(&a.method.is_some()))
        .then_with(|| b.headers.len().cmp(&a.headers.len()))
        .then_with(|| b.queries.len().cmp(&a.queries.len()))
}

fn rank(path: &PathMatch) -> u8 {
    match path {
        PathMatch::Exact(_) => 0,
        PathMatch::Regex(_) | PathMatch::Grpc(_) => 1,
        PathMatch::Prefix(_) => 2,
        PathMatch::Any => 3,
    }
}
