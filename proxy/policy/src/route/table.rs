//! The compiled routes of one service port: precedence and ties are settled here once, at configuration time. What a match costs
//! grows with the logarithm of the number of routes at most, as far as they differ in their paths; those of one path are tried in turn.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use http::HeaderName;

use super::calls::Calls;
use super::cors::{is_preflight, requested_method};
use super::names::ServerNames;
use super::pattern::Patterns;
use super::precedence::compare;
use super::prefix::Prefixes;
use super::{
    Choice, Decision, Filters, Match, PathMatch, Request, Rule, ServerName, Session, Timeouts, WeightedBackend,
};
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
    /// TLSRoutes: connections are told apart by SNI and passed through.
    Tls,
}

/// A route before compilation.
#[derive(Debug)]
pub struct RouteSpec {
    /// `namespace/name`.
    pub name: Arc<str>,
    /// Seconds since the Unix epoch; the older wins a tie.
    pub created: i64,
    /// Names that a TLS route is about; empty: any.
    pub server_names: Vec<ServerName>,
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
    /// What is done for every backend.
    pub filters: Filters,
    /// Timeouts, defaults applied.
    pub timeouts: Timeouts,
    /// What may be sent again.
    pub retry: Arc<retry::Policy>,
    /// How sessions are kept.
    pub session: Option<Box<Session>>,
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
    /// Entries with a regular expression for a path.
    patterns: Patterns,
    /// Entries with a prefix.
    prefixes: Prefixes,
    /// Entries for every path.
    any: Range<usize>,
    /// Entries of gRPC.
    calls: Calls,
    /// Rules of TLS routes.
    names: ServerNames,
    /// Whether any rule answers preflights.
    cors: bool,
}

type Index = HashMap<Box<str>, Range<usize>, foldhash::fast::RandomState>;

/// One match of one rule.
#[derive(Clone, Debug)]
struct Entry {
    matching: Match,
    /// Invariant: an index of `rules`.
    rule: usize,
}

/// The rule that a call meets, and how.
#[derive(Clone, Copy, Debug)]
pub struct Met<'t> {
    /// The rule.
    pub rule: &'t Arc<Rule>,
    /// What a `PathPrefix` matched of the path, without a final slash, so that "/" is empty; `None` where the path was matched
    /// otherwise.
    pub prefix: Option<&'t str>,
}

impl Table {
    /// Settles precedence. Without `routes`, `implicit` takes everything; with HTTP or gRPC routes it still takes
    /// opaque connections, which such routes say nothing about.
    pub fn compile(kind: Kind, mut routes: Vec<RouteSpec>, implicit: RuleSpec) -> Self {
        // "The oldest Route based on creation timestamp. The Route appearing first in alphabetical order by
        // {namespace}/{name}."
        routes.sort_by(|a, b| a.created.cmp(&b.created).then_with(|| a.name.cmp(&b.name)));
        let (mut rules, mut entries, mut names) = (Vec::new(), Vec::new(), ServerNames::default());
        for route in routes {
            if !route.rules.is_empty() {
                names.claim(&route.server_names, rules.len());
            }
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
        let patterns: Vec<(usize, &str)> = entries
            .iter()
            .enumerate()
            .filter_map(|(i, entry)| match &entry.matching.path {
                PathMatch::Regex(regex) => Some((i, regex.as_str())),
                _ => None,
            })
            .collect();
        Table {
            kind,
            implicit: Arc::new(Rule::new(Arc::from("default"), 0, implicit)),
            patterns: Patterns::new(&patterns),
            any: run(|path| matches!(path, PathMatch::Any)),
            calls: Calls::new(entries.iter().map(|entry| &entry.matching.path)),
            cors: rules.iter().any(|rule| has_cors(rule)),
            rules,
            exact,
            prefixes: Prefixes::new(prefixes.into_iter()),
            entries,
            names,
        }
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
    pub fn find<R: Request + ?Sized>(&self, request: &R) -> Option<Met<'_>> {
        if self.is_implicit() {
            return Some(Met { rule: &self.implicit, prefix: Some("") });
        }
        match self.kind {
            Kind::Http => self.find_path(request),
            Kind::Grpc => self.find_call(request),
            Kind::Tcp => self.rules.first().map(|rule| Met { rule, prefix: None }),
            // What is not TLS is nothing that such routes speak of.
            Kind::Tls => Some(Met { rule: &self.implicit, prefix: None }),
        }
    }

    fn find_path<R: Request + ?Sized>(&self, request: &R) -> Option<Met<'_>> {
        let path = request.path();
        let met = |entry: &Entry, prefix| self.rules.get(entry.rule).map(|rule| Met { rule, prefix });
        step();
        if let Some(entry) = self.exact.get(path).and_then(|range| self.first(range, request)) {
            return met(entry, None);
        }
        let mut holds = |index: usize| {
            step();
            self.entries.get(index).is_some_and(|entry| entry.matching.holds(request))
        };
        if let Some(entry) = self.patterns.find(path, &mut holds).and_then(|index| self.entries.get(index)) {
            return met(entry, None);
        }
        for (prefix, range) in self.prefixes.of(path) {
            if let Some(entry) = self.first(&range, request) {
                return met(entry, Some(prefix));
            }
        }
        // "If no matches are specified, the default is a prefix path match on "/"".
        met(self.first(&self.any, request)?, Some(""))
    }

    fn find_call<R: Request + ?Sized>(&self, request: &R) -> Option<Met<'_>> {
        let entry = |index: usize| self.entries.get(index);
        let found = self.calls.find(
            request.path(),
            &|index| entry(index).is_some_and(|entry| rest_holds(entry, request)),
            &|index| {
                step();
                entry(index).is_some_and(|entry| entry.matching.holds(request))
            },
        );
        let entry = found.and_then(entry).or_else(|| self.first(&self.any, request))?;
        self.rules.get(entry.rule).map(|rule| Met { rule, prefix: None })
    }

    /// The first entry of a range whose conditions beside the path hold.
    fn first<R: Request + ?Sized>(&self, range: &Range<usize>, request: &R) -> Option<&Entry> {
        self.entries.get(range.clone())?.iter().find(|entry| rest_holds(entry, request))
    }

    /// What becomes of a call. `random` is uniform over all `u64`.
    pub fn decide<R: Request + ?Sized>(&self, request: &R, random: u64) -> Decision<'_> {
        let met = self.find(request);
        if self.cors && is_preflight(request) {
            return self.preflight(request, met, random);
        }
        met.map_or(Decision::NoRoute, |met| met.draw(random))
    }

    /// GEP-1767: "any path containing a CORS filter MUST NOT pass the [preflight] request to the upstream". A preflight meets the rules
    /// as `OPTIONS`, and where it meets no CORS filter so, as the call that it asks for.
    fn preflight<'t, R: Request + ?Sized>(&'t self, request: &R, met: Option<Met<'t>>, random: u64) -> Decision<'t> {
        let answers = |met: &Met<'_>| has_cors(met.rule);
        let asked = || {
            let method = requested_method(request)?;
            self.find(&Asked { request, method: &method }).filter(answers)
        };
        let Some(met) = met.filter(answers).or_else(asked).or(met) else { return Decision::NoRoute };
        let rule = met.rule;
        let of_backend = || match rule.choose(random) {
            Choice::Backend(backend, _) => backend.filters.cors(),
            Choice::Unresolved(_) => None,
        };
        match rule.filters.cors().or_else(of_backend) {
            Some(cors) => Decision::Preflight { rule, cors },
            None => met.draw(random),
        }
    }

    /// What becomes of an opaque connection: the first rule of the oldest TCPRoute takes it, else the implicit rule
    /// (other routes say nothing about it).
    pub fn decide_tcp(&self, random: u64) -> Decision<'_> {
        let routed = self.rules.first().filter(|_| self.kind == Kind::Tcp);
        Met { rule: routed.unwrap_or(&self.implicit), prefix: None }.draw(random)
    }

    /// What becomes of a TLS connection that is passed through: by its server name, where the port has TLSRoutes; else as any opaque
    /// connection. [`Decision::NoRoute`]: no route speaks of that name, and the handshake ends with `unrecognized_name`.
    pub fn decide_tls(&self, server_name: Option<&str>, random: u64) -> Decision<'_> {
        if self.kind != Kind::Tls || self.is_implicit() {
            return self.decide_tcp(random);
        }
        let rule = self.names.find(server_name).and_then(|index| self.rules.get(index));
        rule.map_or(Decision::NoRoute, |rule| Met { rule, prefix: None }.draw(random))
    }
}

impl<'t> Met<'t> {
    /// What becomes of a call that met the rule. `random` is uniform over all `u64`.
    pub fn draw(self, random: u64) -> Decision<'t> {
        let Met { rule, prefix } = self;
        if let Some(redirect) = rule.filters.redirect() {
            return Decision::Redirect { rule, redirect, prefix };
        }
        match rule.choose(random) {
            Choice::Backend(backend, name) => match backend.filters.redirect() {
                Some(redirect) => Decision::Redirect { rule, redirect, prefix },
                None => Decision::Forward { rule, backend, name, prefix },
            },
            Choice::Unresolved(reason) => Decision::Unresolved { rule, reason, prefix },
        }
    }
}

fn has_cors(rule: &Rule) -> bool {
    rule.filters.cors().is_some() || rule.backends().iter().any(|backend| backend.filters.cors().is_some())
}

fn rest_holds<R: Request + ?Sized>(entry: &Entry, request: &R) -> bool {
    step();
    entry.matching.rest_holds(request)
}

/// A preflight seen as the call that it asks for.
struct Asked<'r, R: ?Sized> {
    request: &'r R,
    method: &'r str,
}

impl<R: Request + ?Sized> Request for Asked<'_, R> {
    fn method(&self) -> &str {
        self.method
    }
    fn path(&self) -> &str {
        self.request.path()
    }
    fn query(&self) -> Option<&str> {
        self.request.query()
    }
    fn any_header(&self, name: &HeaderName, test: &mut dyn FnMut(&[u8]) -> bool) -> bool {
        self.request.any_header(name, test)
    }
}

/// Counts what a match does, so that a test can say how that grows.
#[inline]
pub(super) fn step() {
    #[cfg(test)]
    STEPS.with(|steps| steps.set(steps.get() + 1));
}

#[cfg(test)]
thread_local! {
    pub(super) static STEPS: std::cell::Cell<u64> = const { std::cell::Cell::new(0) };
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
            session: spec.session,
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
