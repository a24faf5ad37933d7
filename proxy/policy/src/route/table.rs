//! The compiled routes of one service port: precedence and ties are settled here once, at configuration time.

use std::sync::Arc;

use super::{Choice, Decision, Filters, Match, Request, Rule, Timeouts, WeightedBackend};
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
    implicit: bool,
    rules: Vec<Arc<Rule>>,
}

impl Table {
    /// What kind of routes these are.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Whether the port has no routes of its own, so that its implicit rule takes everything.
    pub fn is_implicit(&self) -> bool {
        self.implicit
    }

    /// Every rule, in the order of the routes given.
    pub fn rules(&self) -> &[Arc<Rule>] {
        &self.rules
    }

    /// The rule that a call meets, before a share is drawn. Does not allocate, except to decode a percent-encoded query parameter
    /// that a regular expression looks at.
    pub fn find<R: Request + ?Sized>(&self, request: &R) -> Option<&Arc<Rule>> {
        unimplemented!("{}", request.path())
    }

    /// What becomes of a call. `random` is uniform over all `u64`.
    pub fn decide<R: Request + ?Sized>(&self, request: &R, random: u64) -> Decision<'_> {
        Self::draw(self.find(request), random)
    }

    /// What becomes of an opaque connection: the first rule of the oldest TCP route takes it. HTTP routes do not apply: of those only the implicit
    /// rule does.
    pub fn decide_tcp(&self, random: u64) -> Decision<'_> {
        let rule = if self.implicit || self.kind == Kind::Tcp { self.rules.first() } else { None };
        Self::draw(rule, random)
    }

    fn draw(rule: Option<&Arc<Rule>>, random: u64) -> Decision<'_> {
        let Some(rule) = rule else { return Decision::NoRoute };
        match rule.choose(random) {
            Choice::Backend(backend, name) => Decision::Forward { rule, backend, name },
            Choice::Unresolved(reason) => Decision::Unresolved { rule, reason },
        }
    }
}
