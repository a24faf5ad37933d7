//! The page of `weft routes`: by which rules calls of each service go, as they were compiled, and what sidecars report of each route.
//!
//! Sidecars count by route, by the service that was addressed and the one that answered, not by rule: the figures stand beside the rules of a route,
//! not in them.

mod words;

use super::super::golden::{Numbers, Stat};
use super::{Failure, Sources, Window};
use crate::compile::Variants;
use axum::Json;
use axum::extract::{Query, State};
use serde::Serialize;
use serde_json::{Value, json};
use std::time::Duration;
use weft_policy::config::{Protocol, Service, ServicePort};
use weft_policy::route::{Rule as Policy, Target};
use weft_proto::v1;

/// The name under which calls of a port without routes are counted.
const IMPLICIT: &str = "default";

/// Whether a name stands for no route; a callee's own sidecar names none.
fn is_implicit(route: &str) -> bool {
    matches!(route, IMPLICIT | "")
}

/// A route on a port of a service, for some callers.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
struct Item {
    /// "namespace/name" of the service that calls are addressed to.
    service: String,
    port: u32,
    /// `detect`, `http`, `http2`, `grpc`, `tcp`.
    protocol: &'static str,
    /// The namespace whose callers alone are routed so; null: those of all namespaces that have nothing of their own.
    clients: Option<String>,
    /// `HTTPRoute`, `GRPCRoute`, `TLSRoute`, `TCPRoute`; null: the port has no route.
    kind: Option<&'static str>,
    /// "namespace/name"; null: the port has no route.
    route: Option<String>,
    rules: Vec<Rule>,
    /// What callers' sidecars measured, by the service that answered. Of all ports of the service and all callers; empty: nothing.
    traffic: Vec<Traffic>,
}

/// A rule.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
struct Rule {
    /// In its route.
    index: usize,
    name: Option<String>,
    /// One of them must hold; none: every call.
    matches: Vec<String>,
    /// What is done to calls, in words.
    filters: Vec<String>,
    /// Milliseconds for all tries; null: no limit.
    request_timeout_ms: Option<u64>,
    /// Milliseconds for each try; null: no limit of its own.
    backend_request_timeout_ms: Option<u64>,
    /// Retries at most.
    retries: Option<u32>,
    backends: Vec<Backend>,
}

/// A share of a rule's calls.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
struct Backend {
    /// "namespace/name"; null: the reference does not resolve.
    service: Option<String>,
    port: Option<u32>,
    /// Why the reference does not resolve: the share is answered with 500.
    unresolved: Option<String>,
    weight: u32,
    /// 0 to 1.
    share: f64,
}

/// What was measured.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
struct Traffic {
    /// "namespace/name" of the service that answered.
    service: String,
    #[serde(flatten)]
    numbers: Numbers,
}

/// `GET /weft/v1/routes?namespace=&service=&window=`
pub(super) async fn list(State(sources): State<Sources>, Query(query): Query<Window>) -> Result<Json<Value>, Failure> {
    let stat = sources.fleet.stat(query.length()?);
    let compiled = sources.compiled.borrow().clone();
    let services = compiled.output.services.iter().filter(|(name, _)| compiled.world.services.contains_key(name));
    let items: Vec<Item> =
        services.filter(|(name, _)| query.concerns(name)).flat_map(|(_, of)| items(of, &stat)).collect();
    Ok(Json(json!({ "windowSeconds": stat.window_seconds, "items": items })))
}

fn items(variants: &Variants, stat: &Stat) -> Vec<Item> {
    let mut found = Vec::new();
    let default = variants.default.read();
    let own = variants.by_namespace.iter().map(|(namespace, service)| (Some(namespace), service.read()));
    for (clients, wire) in std::iter::once((None, default.clone())).chain(own) {
        // What is offered has passed this conversion.
        let Ok(service) = Service::from_wire(&wire) else { continue };
        for port in &wire.ports {
            let Some(read) = u16::try_from(port.port).ok().and_then(|number| service.port(number)) else { continue };
            let routes = |port: &v1::ServicePort| port.frontend.clone().unwrap_or_default().routes;
            let default = default.ports.iter().find(|p| p.port == port.port);
            if clients.is_some() && default.is_some_and(|default| routes(default) == routes(port)) {
                continue;
            }
            found.extend(of_port(&wire, port, read, clients, stat));
        }
    }
    found.sort_by(|a, b| (&a.service, a.port, &a.clients).cmp(&(&b.service, b.port, &b.clients)));
    found
}

fn of_port(
    service: &v1::Service,
    port: &v1::ServicePort,
    read: &ServicePort,
    clients: Option<&String>,
    stat: &Stat,
) -> Vec<Item> {
    let base = Item {
        service: service.name.clone(),
        port: port.port,
        protocol: words::protocol(port.protocol()),
        clients: clients.cloned(),
        ..Item::default()
    };
    let routes = port.frontend.as_ref().map(|frontend| frontend.routes.as_slice()).unwrap_or_default();
    if routes.is_empty() {
        let rules = read.frontend.routes.rules().iter().map(|rule| shown(rule, None, read.protocol)).collect();
        return vec![Item { rules, traffic: traffic(stat, &service.name, is_implicit), ..base }];
    }
    let of_route = |route: &v1::Route| {
        let rules = read.frontend.routes.rules().iter().filter(|rule| *rule.route == *route.name);
        Item {
            kind: words::kind(route.kind()),
            route: Some(route.name.clone()),
            rules: rules.map(|rule| shown(rule, route.rules.get(rule.index), read.protocol)).collect(),
            traffic: traffic(stat, &service.name, |name| name == route.name),
            ..base.clone()
        }
    };
    routes.iter().map(of_route).collect()
}

/// Calls addressed to a service that a route has to do with, by who answered.
fn traffic(stat: &Stat, service: &str, is_route: impl Fn(&str) -> bool) -> Vec<Traffic> {
    let calls = stat.addressed.iter().filter(|calls| calls.service == service && is_route(&calls.route));
    calls.map(|calls| Traffic { service: calls.by.clone(), numbers: calls.numbers.clone() }).collect()
}

/// A rule, defaults applied; `wire` has its matches and filters, the implicit one has none.
fn shown(rule: &Policy, wire: Option<&v1::RouteRule>, protocol: Protocol) -> Rule {
    let millis = |limit: Duration| u64::try_from(limit.as_millis()).unwrap_or(u64::MAX);
    let total: f64 = rule.backends().iter().map(|backend| f64::from(backend.weight)).sum();
    let is_tcp = protocol == Protocol::Tcp;
    Rule {
        index: rule.index,
        name: Some(rule.name.to_string()).filter(|name| !name.is_empty()),
        matches: wire.iter().flat_map(|wire| &wire.matches).map(words::of_match).collect(),
        filters: wire.iter().flat_map(|wire| &wire.filters).filter_map(words::of_filter).collect(),
        request_timeout_ms: rule.timeouts.request(protocol == Protocol::Grpc).filter(|_| !is_tcp).map(millis),
        backend_request_timeout_ms: rule.timeouts.backend_request.filter(|_| !is_tcp).map(millis),
        retries: Some(rule.retry.attempts),
        backends: rule
            .backends()
            .iter()
            .map(|backend| {
                let share = if total > 0.0 { f64::from(backend.weight) / total } else { 0.0 };
                let known = Backend { weight: backend.weight, share, ..Backend::default() };
                match &backend.target {
                    Target::Unresolved(reason) => Backend { unresolved: Some(reason.to_string()), ..known },
                    Target::Backend(name) => {
                        Backend { service: Some(name.service.to_string()), port: Some(name.port.into()), ..known }
                    }
                }
            })
            .collect(),
    }
}

#[cfg(test)]
mod tests;
