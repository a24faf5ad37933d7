//! Why a call is carried as it is: the sidecars' own policy core, run on what is offered to them now.
//!
//! The caller's side reads the Service as the caller's namespace sees it and routes the call; the other side asks the authorization of
//! every endpoint that the call might reach. Nothing here decides by itself, and nothing is sent.

use crate::compile::endpoints::is_member;
use crate::world::World;
use crate::world::reconcile::Compiled;
use crate::xds::Client;
use http::{HeaderMap, HeaderName, HeaderValue};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use weft_policy::authorize::{Cause, Connection, Verdict};
use weft_policy::config::{self, Inbound, InboundPort, Protocol, Refusal, Service, ServicePort, TlsMode};
use weft_policy::route::{Addressed, Decision, Head, Rule, Scheme, Target, WeightedBackend, split_target};
use weft_proto::{type_url, v1};

/// Longest path that a question may have, in bytes.
const MAX_PATH: usize = 8 * 1024;
const MAX_HEADERS: usize = 100;

/// The call in question.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Question {
    /// `namespace/name` of a workload, a service or a service account, or a SPIFFE id; empty: a caller without an identity.
    #[serde(default)]
    pub from: String,
    /// Host name as the caller would write it, or `namespace/name` of a Service; with `:port` where that is neither 80 nor the first.
    pub to: String,
    /// Method; `GET` if empty.
    #[serde(default)]
    pub method: String,
    /// Path and query; `/` if empty.
    #[serde(default)]
    pub path: String,
    /// Headers.
    #[serde(default)]
    pub headers: Vec<(String, String)>,
}

/// The whole decision.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Explanation {
    /// The caller's SPIFFE id; null: it has none.
    pub from: Option<String>,
    /// The Service that is meant, `namespace/name:port`.
    pub to: String,
    /// What the port is declared as.
    pub protocol: &'static str,
    /// The rule that matched; null: none does.
    pub rule: Option<MatchedRule>,
    /// What becomes of the call at the caller's sidecar.
    pub outcome: Outcome,
    /// Whether faults may be injected into calls to the port.
    pub faults: bool,
    /// Part of such calls that a fault answers, 0 to 1.
    #[serde(skip)]
    pub aborted: f64,
    /// What answers where no endpoint of a backend may be called; null: 503.
    pub fallback: Option<String>,
    /// Where its shares go; only of a call that is sent on.
    pub backends: Vec<Backend>,
    /// Whether every endpoint that it may reach admits it; null: it reaches none.
    pub allowed: Option<bool>,
}

/// The rule that a call meets.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct MatchedRule {
    /// `namespace/name` of the route; `default`: the port has no routes.
    pub route: String,
    /// Its index in the route.
    pub index: usize,
    /// Its name; may be empty.
    pub name: String,
    /// Milliseconds for all tries; null: no limit.
    pub request_timeout_ms: Option<u64>,
    /// Milliseconds for each try; null: no limit of its own.
    pub backend_request_timeout_ms: Option<u64>,
    /// Retries.
    pub retries: u32,
}

/// What the caller's sidecar does with the call.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase", tag = "kind")]
pub enum Outcome {
    /// Sent to one of the backends, by their shares.
    Forwarded,
    /// Answered with a redirect.
    Redirected {
        /// Status.
        status: u16,
        /// Where to.
        location: String,
    },
    /// Answered as a CORS preflight.
    Preflight,
    /// No rule matches: 404.
    NoRoute,
}

/// A share of the calls.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Backend {
    /// `namespace/name:port`, or why the reference does not resolve.
    pub target: String,
    /// Whether it resolves. The share of one that does not is answered with 500.
    pub resolved: bool,
    /// Share of the calls, 0 to 1.
    pub share: f64,
    /// Path and query that the endpoint sees, where they are rewritten.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// Host that the endpoint sees, where it is rewritten.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// Endpoints that take calls.
    pub ready: usize,
    /// All endpoints.
    pub endpoints: usize,
    /// What becomes of the call there: endpoints that decide alike together.
    pub admissions: Vec<Admission>,
}

/// The decision of endpoints that decide alike.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Admission {
    /// Whether the hop is mutually authenticated.
    pub mtls: bool,
    /// What the port insists on: `Strict`, `Permissive`, `Disabled`; null: there is no sidecar.
    pub tls_mode: Option<&'static str>,
    /// The MeshTLS that says so; empty: the mesh's default.
    pub tls_source: String,
    /// Whether the call is admitted.
    pub allowed: bool,
    /// Why, in words.
    pub reason: String,
    /// `namespace/name` of the policy that decided; null: none did.
    pub policy: Option<String>,
    /// Name of its rule, or `rules[0]`.
    pub rule: Option<String>,
    /// The audit rule that watches it, `namespace/name rule`.
    pub audit: Option<String>,
    /// Names of the rate limits of the port, whatever calls they are about.
    pub rate_limits: Vec<String>,
    /// Those of them that count this call.
    #[serde(skip)]
    pub limits: Vec<Counted>,
    /// Workload uids.
    pub endpoints: Vec<String>,
}

/// A rate limit that a call counts for, and the bucket of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Counted {
    /// Name of the limit.
    pub name: String,
    /// Values of its keys, each with its length before it.
    pub key: Vec<u8>,
    /// Whether all workloads of the service count together.
    pub is_global: bool,
    /// Calls, and in how many milliseconds.
    pub rate: (u32, u64),
}

/// Why there is no explanation.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unexplained {
    /// The question makes no sense; the text begins with its field.
    #[error("{0}")]
    Bad(String),
    /// What it asks about is not there.
    #[error("{0}")]
    Absent(String),
    /// What is offered cannot be read: a fault of the control plane.
    #[error("{0}")]
    Broken(String),
}

/// Answers a question by what is offered at this time.
///
/// # Errors
/// When the question names what is not there, or makes no sense.
pub fn explain(compiled: &Compiled, question: &Question) -> Result<Explanation, Unexplained> {
    let trust_domain = &compiled.world.mesh.trust_domain;
    let from = caller(&compiled.world, &question.from)?;
    let headers = headers(question)?;
    let method = if question.method.is_empty() { "GET" } else { &question.method };
    let path = if question.path.is_empty() { "/" } else { &question.path };
    http::Method::from_bytes(method.as_bytes()).map_err(|_| Unexplained::Bad(format!("method: {method:?} is none")))?;
    if !path.starts_with('/') || path.len() > MAX_PATH || path.bytes().any(|b| b <= b' ' || b == 0x7f) {
        return Err(Unexplained::Bad(format!("path: {path:?} is no path and query that begins with '/'")));
    }
    let view = View { compiled, client: client(from.as_deref(), trust_domain) };
    let (service, port) = view.target(&question.to)?;
    let is_tcp = port.protocol == Protocol::Tcp;
    let call = Call { method, path, headers: &headers, from: from.as_deref(), is_tcp };
    let head = Head::new(method, path, &headers);
    let routes = &port.frontend.routes;
    let decision = if call.is_tcp { routes.decide_tcp(0) } else { routes.decide(&head, 0) };
    let (rule, outcome, backends) = match decision {
        Decision::Forward { rule, prefix, .. } | Decision::Unresolved { rule, prefix, .. } => {
            (Some(rule), Outcome::Forwarded, view.backends(rule, &call, prefix)?)
        }
        Decision::Preflight { rule, .. } => (Some(rule), Outcome::Preflight, Vec::new()),
        Decision::Redirect { rule, redirect, prefix } => {
            let authority = question.to.rsplit_once(':').map_or(question.to.as_str(), |(host, _)| host);
            let Head { path, query, .. } = head;
            let addressed = Addressed { scheme: Scheme::Http, authority, port: port.port, path, query };
            let outcome =
                Outcome::Redirected { status: redirect.status, location: redirect.location(&addressed, prefix) };
            (Some(rule), outcome, Vec::new())
        }
        Decision::NoRoute => (None, Outcome::NoRoute, Vec::new()),
    };
    let reached: Vec<_> = backends.iter().filter(|b| b.share > 0.0).flat_map(|b| &b.admissions).collect();
    let allowed = (!reached.is_empty()).then(|| reached.iter().all(|admission| admission.allowed));
    Ok(Explanation {
        to: format!("{}:{}", service.name, port.port),
        protocol: protocol(port.protocol),
        rule: rule.map(|rule| matched(rule, port.protocol)),
        outcome,
        faults: !port.frontend.faults.is_empty(),
        aborted: aborted(&port.frontend.faults, &head),
        fallback: port.frontend.fallback.as_ref().map(|fallback| match fallback {
            config::Fallback::Backend(Target::Backend(name)) => name.to_string(),
            config::Fallback::Backend(Target::Unresolved(reason)) => reason.to_string(),
            config::Fallback::Response(response) => format!("a response with {}", response.status),
        }),
        backends,
        allowed,
        from,
    })
}

/// How many draws say which part of calls a fault answers: within a percent and a half.
const DRAWS: u64 = 4096;

/// Part of such calls that a fault answers.
fn aborted(faults: &weft_policy::fault::Faults, head: &Head<'_>) -> f64 {
    if faults.is_empty() {
        return 0.0;
    }
    // Spread evenly, so that the same question has the same answer.
    let draw = |nth: u64| nth.wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(17).wrapping_mul(0xD6E8_FEB8_6659_FD93);
    let hit = |nth: &u64| faults.draw(head, draw(*nth)).is_some_and(|injected| injected.abort.is_some());
    let hits = (1..=DRAWS).filter(hit).count();
    f64::from(u32::try_from(hits).unwrap_or(u32::MAX)) / 4096.0
}

/// The limits of a port that count a call.
fn counted(port: &InboundPort, head: &Head<'_>, identity: Option<&str>) -> Vec<Counted> {
    let one = |limit: &Arc<weft_policy::limit::rate::Limit>| {
        let mut key = Vec::new();
        limit.each_value(head, identity, &mut |value| {
            key.extend_from_slice(&u32::try_from(value.len()).unwrap_or(u32::MAX).to_be_bytes());
            key.extend_from_slice(value);
        });
        Counted {
            name: limit.name.to_string(),
            key,
            is_global: limit.scope == weft_policy::limit::rate::Scope::Global,
            rate: (limit.requests, u64::try_from(limit.per.as_millis()).unwrap_or(u64::MAX)),
        }
    };
    port.rate_limits.iter().filter(|limit| limit.applies_to(head)).map(one).collect()
}

/// The call, taken apart.
struct Call<'q> {
    method: &'q str,
    /// With its query.
    path: &'q str,
    headers: &'q HeaderMap,
    from: Option<&'q str>,
    is_tcp: bool,
}

/// What one caller is offered.
struct View<'c> {
    compiled: &'c Compiled,
    client: Client,
}

impl View<'_> {
    /// The Service of that name or alias, as this caller sees it.
    fn service(&self, key: &str) -> Option<v1::Service> {
        let found = self.compiled.snapshot.lookup(&self.client, type_url::SERVICE, key)?;
        <v1::Service as prost::Message>::decode(&*found.value).ok()
    }

    /// The Service and port that the caller means.
    fn target(&self, to: &str) -> Result<(Service, ServicePort), Unexplained> {
        let (name, number) = match to.rsplit_once(':') {
            None => (to, None),
            Some((name, port)) => match port.parse::<u16>() {
                Ok(port @ 1..) => (name, Some(port)),
                _ => return Err(Unexplained::Bad(format!("to: {port:?} is no port"))),
            },
        };
        let key = if name.contains('/') { name.to_owned() } else { format!("host:{}", name.to_ascii_lowercase()) };
        let Some(wire) = self.service(&key) else {
            return Err(Unexplained::Absent(format!("to: {name:?} is no Service that this caller knows")));
        };
        let service = Service::from_wire(&wire).map_err(|refusal| broken(&key, &refusal))?;
        let port = match number {
            Some(number) => service.port(number),
            None => service.port(80).or(service.ports.first()),
        };
        match port.cloned() {
            Some(port) => Ok((service, port)),
            None => {
                let ports: Vec<_> = service.ports.iter().map(|port| port.port.to_string()).collect();
                let text = format!("to: {} has no such port, but {}", service.name, ports.join(", "));
                Err(Unexplained::Absent(text))
            }
        }
    }

    fn backends(&self, rule: &Rule, call: &Call<'_>, prefix: Option<&str>) -> Result<Vec<Backend>, Unexplained> {
        let total: f64 = rule.backends().iter().map(|backend| f64::from(backend.weight)).sum();
        let explained = |backend: &WeightedBackend| {
            let share = if total > 0.0 { f64::from(backend.weight) / total } else { 0.0 };
            match &backend.target {
                Target::Unresolved(reason) => Ok(Backend { target: reason.to_string(), share, ..Backend::default() }),
                Target::Backend(name) => {
                    let rewritten = rule.rewrite(backend, split_target(call.path), prefix);
                    let host = rewritten.hostname.and_then(|host| host.to_str().ok()).map(str::to_owned);
                    let path = rewritten.target;
                    let target = path.as_deref().unwrap_or(call.path);
                    let endpoints = self.endpoints(&name.service, name.port);
                    let mut alike: BTreeMap<Admission, Vec<String>> = BTreeMap::new();
                    for endpoint in &endpoints {
                        alike.entry(self.admission(endpoint, call, target)?).or_default().push(endpoint.uid.clone());
                    }
                    Ok(Backend {
                        target: name.to_string(),
                        resolved: true,
                        share,
                        host,
                        ready: endpoints.iter().filter(|e| e.health() == v1::Health::Ready).count(),
                        endpoints: endpoints.len(),
                        admissions: alike.into_iter().map(|(a, endpoints)| Admission { endpoints, ..a }).collect(),
                        path,
                    })
                }
            }
        };
        rule.backends().iter().map(explained).collect()
    }

    fn endpoints(&self, service: &str, port: u16) -> Vec<v1::Endpoint> {
        let ports = self.service(service).map(|service| service.ports).unwrap_or_default();
        let backend = ports.into_iter().find(|p| p.port == u32::from(port)).and_then(|port| port.backend);
        let slices = backend.map(|backend| backend.slices).unwrap_or_default();
        let known = slices.iter().filter_map(|name| self.compiled.output.slice(name));
        known.flat_map(|slice| slice.read().endpoints).collect()
    }

    /// What the endpoint's own sidecar would say.
    fn admission(&self, endpoint: &v1::Endpoint, call: &Call<'_>, target: &str) -> Result<Admission, Unexplained> {
        let wire = self.compiled.output.inbound.get(&endpoint.uid).filter(|_| !endpoint.tunnel.is_empty());
        let Some(wire) = wire else {
            let reason = "there is no sidecar that asks".to_owned();
            return Ok(Admission { allowed: true, reason, ..Admission::default() });
        };
        let inbound = Inbound::from_wire(&wire.read()).map_err(|refusal| broken(&endpoint.uid, &refusal))?;
        let Some(port) = u16::try_from(endpoint.port).ok().and_then(|number| inbound.by_port(number)) else {
            let reason = format!("port {} is none of the workload's", endpoint.port);
            return Ok(Admission { reason, ..Admission::default() });
        };
        let admission = Admission {
            mtls: call.from.is_some() && port.tls != TlsMode::Disabled,
            tls_mode: Some(tls_mode(port.tls)),
            tls_source: port.tls_source.to_string(),
            rate_limits: port.rate_limits.iter().map(|limit| limit.name.to_string()).collect(),
            ..Admission::default()
        };
        if !admission.mtls && port.tls == TlsMode::Strict {
            let reason = "the caller has no certificate, and the port takes nobody without one".to_owned();
            return Ok(Admission { reason, ..admission });
        }
        Ok(decided(port, call, target, admission))
    }
}

/// Of the connection its identity is known and its address is not; a token is not looked at.
fn decided(port: &InboundPort, call: &Call<'_>, target: &str, admission: Admission) -> Admission {
    let connection = Connection { identity: call.from.filter(|_| admission.mtls), ..Connection::default() };
    let head = Head::new(call.method, target, call.headers);
    let policies = &port.authorization;
    let decision = if call.is_tcp { policies.opaque(&connection) } else { policies.request(&connection, &head, None) };
    let rule = |cause: &Cause<'_>| match cause.rule {
        "" => format!("rules[{}]", cause.index),
        name => name.to_owned(),
    };
    let (policy, by, reason) = match &decision.verdict {
        Verdict::Unrestricted => (None, None, "no policy restricts the port".to_owned()),
        Verdict::Allowed(cause) => {
            (Some(cause.policy), Some(rule(cause)), format!("{} {} allows it", cause.policy, rule(cause)))
        }
        Verdict::Denied(cause) => {
            (Some(cause.policy), Some(rule(cause)), format!("{} {} denies it", cause.policy, rule(cause)))
        }
        Verdict::NotAllowed { policy } => (Some(*policy), None, format!("no rule of {policy} allows it")),
    };
    Admission {
        allowed: decision.is_allowed(),
        reason,
        policy: policy.map(str::to_owned),
        rule: by,
        audit: decision.audit.map(|cause| format!("{} {}", cause.policy, rule(&cause))),
        limits: counted(port, &head, connection.identity),
        ..admission
    }
}

fn broken(name: &str, refusal: &Refusal) -> Unexplained {
    Unexplained::Broken(format!("{name}: {refusal}"))
}

const fn tls_mode(mode: TlsMode) -> &'static str {
    match mode {
        TlsMode::Strict => "Strict",
        TlsMode::Permissive => "Permissive",
        TlsMode::Disabled => "Disabled",
    }
}

const fn protocol(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Detect => "detected",
        Protocol::Http1 => "HTTP/1",
        Protocol::Http2 => "HTTP/2",
        Protocol::Grpc => "gRPC",
        Protocol::Tcp => "TCP",
    }
}

fn matched(rule: &Rule, protocol: Protocol) -> MatchedRule {
    let millis = |limit: std::time::Duration| u64::try_from(limit.as_millis()).unwrap_or(u64::MAX);
    MatchedRule {
        route: rule.route.to_string(),
        index: rule.index,
        name: rule.name.to_string(),
        request_timeout_ms: rule.timeouts.request(protocol == Protocol::Grpc).map(millis),
        backend_request_timeout_ms: rule.timeouts.backend_request.map(millis),
        retries: rule.retry.attempts,
    }
}

fn headers(question: &Question) -> Result<HeaderMap, Unexplained> {
    if question.headers.len() > MAX_HEADERS {
        return Err(Unexplained::Bad(format!("headers: at most {MAX_HEADERS}")));
    }
    let mut map = HeaderMap::new();
    for (i, (name, value)) in question.headers.iter().enumerate() {
        let bad = |what: &str| Unexplained::Bad(format!("headers[{i}]: {name:?}: {what}"));
        let read = HeaderName::from_bytes(name.as_bytes()).map_err(|_| bad("is no name of a header"))?;
        map.append(read, HeaderValue::from_str(value).map_err(|_| bad("its value cannot be sent"))?);
    }
    // What policies read as the host is what the caller writes.
    if !map.contains_key(http::header::HOST)
        && let Ok(host) = HeaderValue::from_str(&question.to)
    {
        map.insert(http::header::HOST, host);
    }
    Ok(map)
}

/// Whose identity a caller has, by the name that people know it by.
fn caller(world: &World, from: &str) -> Result<Option<String>, Unexplained> {
    if from.is_empty() {
        return Ok(None);
    }
    if from.starts_with("spiffe://") {
        return match config::identity_parts(from) {
            Some(_) => Ok(Some(from.to_owned())),
            None => Err(Unexplained::Bad(format!("from: {from:?} is no SPIFFE id of a workload"))),
        };
    }
    let Some((namespace, name)) = from.split_once('/').filter(|_| config::is_namespaced_name(from)) else {
        return Err(Unexplained::Bad(format!("from: {from:?} is neither namespace/name nor a SPIFFE id")));
    };
    let id = |account: &str| Some(format!("spiffe://{}/ns/{namespace}/sa/{account}", world.mesh.trust_domain));
    if let Some(workload) = world.workloads.get(from) {
        return Ok(id(&workload.spec.service_account));
    }
    // A service account need not have a workload yet.
    let Some(service) = world.services.get(from) else { return Ok(id(name)) };
    let members = world.workloads_in(namespace).filter(|(_, workload)| is_member(service, workload));
    let accounts: BTreeSet<&str> = members.map(|(_, workload)| &*workload.spec.service_account).collect();
    if accounts.len() > 1 {
        let accounts: Vec<_> = accounts.iter().map(|account| format!("{namespace}/{account}")).collect();
        let text =
            format!("from: workloads of {from} have several service accounts, say which: {}", accounts.join(", "));
        return Err(Unexplained::Bad(text));
    }
    Ok(id(accounts.first().unwrap_or(&name)))
}

fn client(identity: Option<&str>, trust_domain: &str) -> Client {
    let parts = identity.and_then(config::identity_parts).filter(|(domain, ..)| *domain == trust_domain);
    let namespace = parts.map(|(_, namespace, _)| namespace.to_owned()).unwrap_or_default();
    Client { identity: identity.unwrap_or_default().to_owned(), namespace }
}

#[cfg(test)]
#[path = "explain_tests.rs"]
mod tests;
