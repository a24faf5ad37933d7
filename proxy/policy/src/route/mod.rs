//! Gateway API routing: which rule a call meets and which backend its share goes to.
//!
//! A [`Table`] is compiled once from the routes of a service port and matched without allocation. What a call looks
//! like is seen through [`Request`]. Precedence and ties are the Gateway API's (v1.6, `HTTPRouteRule.matches` and
//! `GRPCRouteRule.matches`). What filters decide is computed here ([`Redirect`], [`Rewrite`], [`Mirror`], [`Cors`], [`Session`]);
//! nothing here applies it to a message, starts a timer or knows endpoints.

mod calls;
mod cookie;
mod cors;
mod filter;
mod matching;
mod mirror;
mod names;
mod path;
mod pattern;
mod precedence;
mod prefix;
mod redirect;
mod session;
mod share;
mod table;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use http::HeaderName;

pub use cookie::any_cookie;
pub use cors::{Allowed, Cors, OriginPattern, Origins, is_preflight};
pub use filter::{Extra, Filters, HeaderEdit};
pub use matching::{GrpcMatch, KeyMatch, Match, PathMatch, TextMatch};
pub use mirror::Mirror;
pub use names::ServerName;
pub use path::PathEdit;
pub use redirect::{Addressed, Redirect, Rewrite, Rewritten, Scheme};
pub use session::{Carrier, Held, Session};
pub use share::Share;
pub(crate) use share::nth_draw;
pub use table::{Kind, Met, RouteSpec, RuleSpec, Table};

use crate::retry;

/// The head of a call, as far as routing and authorization look at it.
pub trait Request {
    /// Method, case-sensitive.
    fn method(&self) -> &str;
    /// Path without the query, as it is on the wire; `*` for `OPTIONS *`.
    fn path(&self) -> &str;
    /// What follows the first `?`, without it.
    fn query(&self) -> Option<&str>;
    /// Whether `test` holds for any value of the header. Each field line is one value; lists are not taken apart.
    fn any_header(&self, name: &HeaderName, test: &mut dyn FnMut(&[u8]) -> bool) -> bool;
}

/// A head made of borrowed parts, for callers that have them in `http`'s types.
#[derive(Clone, Copy, Debug)]
pub struct Head<'a> {
    /// Method.
    pub method: &'a str,
    /// Path without the query.
    pub path: &'a str,
    /// Query without the `?`.
    pub query: Option<&'a str>,
    /// Headers.
    pub headers: &'a http::HeaderMap,
}

impl<'a> Head<'a> {
    /// `target` is origin-form: path and query.
    pub fn new(method: &'a str, target: &'a str, headers: &'a http::HeaderMap) -> Self {
        let (path, query) = split_target(target);
        Head { method, path, query, headers }
    }
}

impl Request for Head<'_> {
    fn method(&self) -> &str {
        self.method
    }
    fn path(&self) -> &str {
        self.path
    }
    fn query(&self) -> Option<&str> {
        self.query
    }
    fn any_header(&self, name: &HeaderName, test: &mut dyn FnMut(&[u8]) -> bool) -> bool {
        self.headers.get_all(name).iter().any(|value| test(value.as_bytes()))
    }
}

/// Path and query of an origin-form target.
pub fn split_target(target: &str) -> (&str, Option<&str>) {
    match target.split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (target, None),
    }
}

/// One rule of one route, ready to be applied.
#[derive(Debug)]
pub struct Rule {
    /// `namespace/name` of the route; `default` for the implicit rule of a port without routes.
    pub route: Arc<str>,
    /// Index of the rule in its route.
    pub index: usize,
    /// Name of the rule; may be empty.
    pub name: Arc<str>,
    /// What is done for every backend of the rule.
    pub filters: Filters,
    /// Timeouts, defaults applied.
    pub timeouts: Timeouts,
    /// What may be sent again.
    pub retry: Arc<retry::Policy>,
    /// How sessions are kept; `None`: not at all.
    pub session: Option<Box<Session>>,
    /// Backends, in order.
    backends: Vec<WeightedBackend>,
    /// Running sums of the weights. Invariant: as long as `backends`.
    sums: Vec<u64>,
}

/// A share of a rule's calls.
#[derive(Clone, Debug)]
pub struct WeightedBackend {
    /// Whose backend part is meant, or why the reference does not resolve.
    pub target: Target,
    /// 0 to 1,000,000; 0 gets nothing.
    pub weight: u32,
    /// What is done for this backend, after the rule's.
    pub filters: Filters,
}

/// Where a share goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// A port of a service.
    Backend(BackendName),
    /// `BackendNotFound: no Service shop/x`: the share is answered with 500.
    Unresolved(Arc<str>),
}

impl Target {
    /// The name, if the reference resolves.
    pub fn name(&self) -> Option<&BackendName> {
        match self {
            Target::Backend(name) => Some(name),
            Target::Unresolved(_) => None,
        }
    }
}

/// The (service, port) that names a backend.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BackendName {
    /// `namespace/name`.
    pub service: Arc<str>,
    /// Port of the service.
    pub port: u16,
}

impl std::fmt::Display for BackendName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.service, self.port)
    }
}

/// Timeouts of a rule, defaults applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// Spans all tries.
    pub request: RequestTimeout,
    /// Each try. `None`: bounded by the request's only.
    pub backend_request: Option<Duration>,
    /// No frame either way for this long. `None`: disabled.
    pub idle: Option<Duration>,
}

/// The limit on a whole call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RequestTimeout {
    /// Nobody chose: holds for calls, not for streams (gRPC, upgrades, CONNECT).
    Default(Duration),
    /// Chosen: holds for streams too.
    Chosen(Duration),
    /// `0s`.
    Disabled,
}

impl Timeouts {
    /// The limit on a whole call, given whether it may be a stream.
    pub fn request(&self, streaming: bool) -> Option<Duration> {
        match self.request {
            RequestTimeout::Default(limit) => (!streaming).then_some(limit),
            RequestTimeout::Chosen(limit) => Some(limit),
            RequestTimeout::Disabled => None,
        }
    }
}

/// What becomes of a call.
#[derive(Clone, Copy, Debug)]
pub enum Decision<'t> {
    /// It goes to `backend` under `rule`.
    Forward {
        /// The rule that matched.
        rule: &'t Arc<Rule>,
        /// The share that was drawn, and its filters.
        backend: &'t WeightedBackend,
        /// Its resolved target.
        name: &'t BackendName,
        /// What matched of the path: [`Met::prefix`].
        prefix: Option<&'t str>,
    },
    /// It is answered with a `Location`, whatever backends the rule has.
    Redirect {
        /// The rule that matched.
        rule: &'t Arc<Rule>,
        /// Where to.
        redirect: &'t Redirect,
        /// What matched of the path: [`Met::prefix`].
        prefix: Option<&'t str>,
    },
    /// It is a CORS preflight: answered with 204 and [`Cors::preflight`], and never sent on.
    Preflight {
        /// The rule that matched, or would match the call that is asked for.
        rule: &'t Arc<Rule>,
        /// Its filter.
        cors: &'t Cors,
    },
    /// It drew a share whose reference does not resolve, or the rule has no backend with a weight: 500, or UNAVAILABLE (14) for a gRPC
    /// call.
    Unresolved {
        /// The rule that matched.
        rule: &'t Arc<Rule>,
        /// Why, for the log.
        reason: &'t str,
        /// What matched of the path: [`Met::prefix`].
        prefix: Option<&'t str>,
    },
    /// No rule matches: 404, or UNIMPLEMENTED (12) for a gRPC call.
    NoRoute,
}

/// What the drawing of a share gave.
#[derive(Clone, Copy, Debug)]
pub enum Choice<'r> {
    /// A share that resolves.
    Backend(&'r WeightedBackend, &'r BackendName),
    /// A share that does not, or no share at all.
    Unresolved(&'r str),
}

impl Rule {
    /// All backends, in order.
    pub fn backends(&self) -> &[WeightedBackend] {
        &self.backends
    }

    /// Names of services that calls of the rule may go to, copies included, as often as they occur. A backend without a weight is
    /// among them only where a session may hold on to it.
    pub fn targets(&self) -> impl Iterator<Item = &BackendName> {
        let backends = self.backends.iter().filter(|backend| backend.weight > 0 || self.session.is_some());
        let mirrors = backends.clone().flat_map(|backend| backend.filters.mirrors()).chain(self.filters.mirrors());
        backends.map(|backend| &backend.target).chain(mirrors.map(|mirror| &mirror.target)).filter_map(Target::name)
    }

    /// What the backend sees instead of path, query and `Host`, where the rule or the backend rewrites them.
    pub fn rewrite<'r>(
        &'r self,
        backend: &'r WeightedBackend,
        target: (&str, Option<&str>),
        prefix: Option<&str>,
    ) -> Rewritten<'r> {
        Rewritten::of(self.filters.rewrite(), backend.filters.rewrite(), target, prefix)
    }

    /// The CORS filter that marks answers of `backend`: the rule's, else the backend's own.
    pub fn cors<'r>(&'r self, backend: Option<&'r WeightedBackend>) -> Option<&'r Cors> {
        self.filters.cors().or_else(|| backend?.filters.cors())
    }

    /// Draws a share by weight. `random` is uniform over all `u64`.
    pub fn choose(&self, random: u64) -> Choice<'_> {
        let total = self.sums.last().copied().unwrap_or(0);
        if total == 0 {
            return Choice::Unresolved("no backend of the rule has a weight");
        }
        // The high word of the product is uniform over 0..total, without a division.
        let point = ((u128::from(random) * u128::from(total)) >> 64) as u64;
        let drawn = self.sums.partition_point(|sum| *sum <= point);
        match self.backends.get(drawn) {
            Some(backend) => match &backend.target {
                Target::Backend(name) => Choice::Backend(backend, name),
                Target::Unresolved(reason) => Choice::Unresolved(reason),
            },
            None => Choice::Unresolved("no backend of the rule has a weight"),
        }
    }
}
