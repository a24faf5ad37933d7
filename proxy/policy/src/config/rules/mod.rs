//! `weft.v1.Frontend` and its routes: checks them and compiles them into a [`crate::route::Table`]. Precedence is the
//! table's business; what a rule may say, and what it inherits, is decided here.

mod fault;
mod filters;
// Rate limits match as faults do.
pub(super) mod matching;
mod retry;
mod session;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use weft_proto::v1;

use super::check::{self, Span};
use super::{Frontend, Protocol, Refusal};
use crate::retry::{BudgetSettings, Policy};
use crate::route::{
    BackendName, Filters, Kind, Match, RequestTimeout, RouteSpec, RuleSpec, ServerName, Session, Table, Target,
    Timeouts, WeightedBackend,
};
use filters::filters;
pub(super) use matching::method;
use matching::route_match;
pub(super) use retry::retry_policy;

/// Whole calls, where nobody chose otherwise.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(15);
/// Silence on a stream, where nobody chose otherwise.
const IDLE_TIMEOUT: Duration = Duration::from_secs(5 * 60);
const HEAVIEST: u32 = 1_000_000;

/// What rules inherit.
struct Defaults {
    request: Span,
    backend_request: Span,
    idle: Option<Duration>,
    retry: Arc<Policy>,
}

pub(super) fn frontend(wire: &v1::Frontend, protocol: Protocol, own: BackendName) -> Result<Frontend, Refusal> {
    let (request, backend_request) = timeouts(wire.request_timeout.as_ref(), wire.backend_request_timeout.as_ref())?;
    let retry = match &wire.retry {
        Some(policy) => retry_policy(policy).map_err(|r| r.under("retry"))?,
        None => Policy::default(),
    };
    let idle = check::span("idleTimeout", wire.idle_timeout.as_ref())?.limit(Some(IDLE_TIMEOUT));
    let defaults = Defaults { request, backend_request, idle, retry: Arc::new(retry) };

    check::bounded("routes", &wire.routes, 1024)?;
    let mut kind = None;
    let mut routes = Vec::with_capacity(wire.routes.len());
    for (i, route) in wire.routes.iter().enumerate() {
        let compiled = route_kind(route, protocol)
            .and_then(|own| match *kind.get_or_insert(own) {
                first if first == own => self::route(route, own, &defaults),
                first => {
                    Err(Refusal::new("kind", format!("a port has routes of one kind, and {first:?} routes came first")))
                }
            })
            .map_err(|r| r.under(format_args!("routes[{i}]")))?;
        routes.push(compiled);
    }
    let implicit = implicit_rule(own, &defaults);
    let retry_budget = match &wire.retry_budget {
        Some(budget) => retry::retry_budget(budget).map_err(|r| r.under("retryBudget"))?,
        None => BudgetSettings::default(),
    };
    Ok(Frontend {
        routes: Table::compile(kind.unwrap_or_default(), routes, implicit),
        retry_budget,
        idle_timeout: idle,
        faults: fault::faults(&wire.faults)?,
        fallback: wire.fallback.as_ref().map(fault::fallback).transpose().map_err(|r| r.under("fallback"))?,
        hedge: wire.hedge.as_ref().map(fault::hedge).transpose().map_err(|r| r.under("hedge"))?,
    })
}

fn route_kind(wire: &v1::Route, protocol: Protocol) -> Result<Kind, Refusal> {
    let kind = match v1::RouteKind::try_from(wire.kind) {
        Ok(v1::RouteKind::Http) => Kind::Http,
        Ok(v1::RouteKind::Grpc) => Kind::Grpc,
        Ok(v1::RouteKind::Tcp) => Kind::Tcp,
        Ok(v1::RouteKind::Tls) => Kind::Tls,
        _ => return Err(Refusal::new("kind", format!("{} is no kind of route", wire.kind))),
    };
    match (kind, protocol) {
        (Kind::Http | Kind::Grpc, Protocol::Tcp) => {
            Err(Refusal::new("kind", "the port is declared tcp: only a TCPRoute can apply to it"))
        }
        (Kind::Grpc, Protocol::Http1) => {
            Err(Refusal::new("kind", "the port is declared http (HTTP/1.1): a GRPCRoute cannot apply to it"))
        }
        (Kind::Tls, Protocol::Http1 | Protocol::Http2 | Protocol::Grpc) => {
            Err(Refusal::new("kind", "the port is declared to speak HTTP in plaintext: a TLSRoute cannot apply to it"))
        }
        _ => Ok(kind),
    }
}

fn implicit_rule(own: BackendName, defaults: &Defaults) -> RuleSpec {
    RuleSpec {
        name: Arc::from(""),
        matches: Vec::new(),
        filters: Filters::default(),
        timeouts: effective_timeouts(Span::Absent, Span::Absent, defaults),
        retry: Arc::clone(&defaults.retry),
        session: None,
        backends: vec![WeightedBackend { target: Target::Backend(own), weight: 1, filters: Filters::default() }],
    }
}

fn route(wire: &v1::Route, kind: Kind, defaults: &Defaults) -> Result<RouteSpec, Refusal> {
    check::namespaced_name("name", &wire.name)?;
    check::bounded("rules", &wire.rules, 128)?;
    if wire.rules.is_empty() {
        return Err(Refusal::new("rules", "a route has at least one rule"));
    }
    let mut rules = Vec::with_capacity(wire.rules.len());
    for (i, rule) in wire.rules.iter().enumerate() {
        let key = Session::rule_key(&wire.name, &rule.name, i);
        rules.push(self::rule(rule, kind, defaults, key).map_err(|r| r.under(format_args!("rules[{i}]")))?);
    }
    Ok(RouteSpec {
        name: wire.name.as_str().into(),
        created: wire.created,
        server_names: server_names(&wire.server_names, kind)?,
        rules,
    })
}

fn server_names(wire: &[String], kind: Kind) -> Result<Vec<ServerName>, Refusal> {
    if kind != Kind::Tls && !wire.is_empty() {
        return Err(Refusal::new("serverNames", "belongs to TLSRoutes"));
    }
    check::bounded("serverNames", wire, 1024)?;
    let name = |(i, text): (usize, &String)| {
        let (text, wildcard) = match text.strip_prefix("*.") {
            Some(rest) => (rest, true),
            None => (text.as_str(), false),
        };
        let name = check::hostname(&format!("serverNames[{i}]"), text)?.into();
        Ok(if wildcard { ServerName::Below(name) } else { ServerName::Exact(name) })
    };
    wire.iter().enumerate().map(name).collect()
}

/// `key` tells the rule apart from others, across versions of the configuration.
fn rule(wire: &v1::RouteRule, kind: Kind, defaults: &Defaults, key: u32) -> Result<RuleSpec, Refusal> {
    if matches!(kind, Kind::Tcp | Kind::Tls) {
        opaque_says_nothing_of_http(wire)?;
    }
    check::bounded("name", wire.name.as_bytes(), 253)?;
    check::bounded("matches", &wire.matches, 128)?;
    let matches: Vec<Match> = wire
        .matches
        .iter()
        .enumerate()
        .map(|(i, m)| route_match(m, kind).map_err(|r| r.under(format_args!("matches[{i}]"))))
        .collect::<Result<_, _>>()?;
    let (request, backend_request) = timeouts(wire.request_timeout.as_ref(), wire.backend_request_timeout.as_ref())?;
    let retry = match &wire.retry {
        Some(policy) => Arc::new(retry_policy(policy).map_err(|r| r.under("retry"))?),
        None => Arc::clone(&defaults.retry),
    };
    check::bounded("backends", &wire.backends, 128)?;
    let backends = wire
        .backends
        .iter()
        .enumerate()
        .map(|(i, b)| weighted_backend(b, kind, &matches).map_err(|r| r.under(format_args!("backends[{i}]"))))
        .collect::<Result<_, _>>()?;
    let session = wire.session_persistence.as_ref().map(|wire| session::session(wire, key));
    Ok(RuleSpec {
        name: wire.name.as_str().into(),
        filters: filters(&wire.filters, kind, &matches)?,
        matches,
        timeouts: effective_timeouts(request, backend_request, defaults),
        retry,
        session: session.transpose().map_err(|r| r.under("sessionPersistence"))?.map(Box::new),
        backends,
    })
}

fn opaque_says_nothing_of_http(wire: &v1::RouteRule) -> Result<(), Refusal> {
    let present = [
        ("matches", !wire.matches.is_empty()),
        ("filters", !wire.filters.is_empty()),
        ("requestTimeout", wire.request_timeout.is_some()),
        ("backendRequestTimeout", wire.backend_request_timeout.is_some()),
        ("retry", wire.retry.is_some()),
        ("sessionPersistence", wire.session_persistence.is_some()),
    ];
    match present.iter().find(|(_, present)| *present) {
        Some((field, _)) => Err(Refusal::new(*field, "means nothing on a TCP or TLS route")),
        None => Ok(()),
    }
}

/// Both timeouts as one author gave them: a try that may outlast the call is a contradiction.
fn timeouts(
    request: Option<&prost_types::Duration>,
    backend_request: Option<&prost_types::Duration>,
) -> Result<(Span, Span), Refusal> {
    let request = check::span("requestTimeout", request)?;
    let backend = check::span("backendRequestTimeout", backend_request)?;
    match (request.given(), backend.given()) {
        (Some(whole), Some(each)) if each > whole => Err(Refusal::new(
            "backendRequestTimeout",
            format!("{each:?} for each try is longer than the {whole:?} for the whole request"),
        )),
        _ => Ok((request, backend)),
    }
}

/// What the rule says, else what the port says, else the built-in default. Across authors the shorter wins, except that
/// nobody chose the built-in default: a longer chosen try stretches it.
fn effective_timeouts(request: Span, backend_request: Span, defaults: &Defaults) -> Timeouts {
    let each = backend_request.or(defaults.backend_request).given();
    let request = match request.or(defaults.request) {
        Span::Absent => RequestTimeout::Default(each.map_or(REQUEST_TIMEOUT, |each| each.max(REQUEST_TIMEOUT))),
        Span::Zero => RequestTimeout::Disabled,
        Span::Of(limit) => RequestTimeout::Chosen(limit),
    };
    let each = match request {
        RequestTimeout::Chosen(whole) => each.map(|each| each.min(whole)),
        _ => each,
    };
    Timeouts { request, backend_request: each, idle: defaults.idle }
}

fn weighted_backend(wire: &v1::WeightedBackend, kind: Kind, matches: &[Match]) -> Result<WeightedBackend, Refusal> {
    if wire.weight > HEAVIEST {
        return Err(Refusal::new("weight", format!("{} is more than {HEAVIEST}", wire.weight)));
    }
    if matches!(kind, Kind::Tcp | Kind::Tls) && !wire.filters.is_empty() {
        return Err(Refusal::new("filters", "means nothing on a TCP or TLS route"));
    }
    Ok(WeightedBackend {
        target: target(&wire.service, wire.port, &wire.unresolved)?,
        weight: wire.weight,
        filters: filters(&wire.filters, kind, matches)?,
    })
}

/// A reference to a service port, or why it does not resolve.
fn target(service: &str, port: u32, unresolved: &str) -> Result<Target, Refusal> {
    if unresolved.is_empty() {
        check::namespaced_name("service", service)?;
        return Ok(Target::Backend(BackendName { service: service.into(), port: check::port("port", port)? }));
    }
    check::bounded("unresolved", unresolved.as_bytes(), 1024)?;
    Ok(Target::Unresolved(unresolved.into()))
}
