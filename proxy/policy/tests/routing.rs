//! The routing suite, against the pure core: every case of `routing/*.yaml`. What the files say is what a caller and a backend see, so
//! that the same cases can be put to a sidecar (`weft-proxy`'s test of the same name). The format is `case`'s.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a panic in a test is the report, in its fixtures too")]

#[path = "routing/case.rs"]
mod case;

use case::{Case, Expect, Group, Request, texts};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use http::{HeaderMap, HeaderName, HeaderValue};
use serde_json::Value;
use weft_policy::config::{Frontend, Service};
use weft_policy::route::{Addressed, Decision, Head, HeaderEdit, Rule, Scheme, WeightedBackend, split_target};
use weft_proto::v1;

/// Draws of a case whose outcome is the same for all.
const SAME: u64 = 16;
/// Draws of a case with shares, and how many percent they may be off.
const DRAWS: u64 = 20_000;
const OFF: f64 = 1.5;

/// What a caller and a backend would see.
#[derive(Debug, Default, PartialEq)]
struct Seen {
    backend: Option<String>,
    route: Option<String>,
    status: u16,
    grpc_status: Option<u8>,
    location: Option<String>,
    path: String,
    host: String,
    headers: HeaderMap,
    response: HeaderMap,
    mirrors: BTreeSet<String>,
    delay: Option<u64>,
}

/// Everything that decides about a call, put together.
struct Call {
    method: String,
    target: String,
    host: String,
    headers: HeaderMap,
    scheme: Scheme,
    port: u16,
    grpc: bool,
    /// `Some(None)`: TLS without a server name.
    tls: Option<Option<String>>,
    tcp: bool,
    reply: HeaderMap,
}

fn header_map(headers: &BTreeMap<String, Value>) -> HeaderMap {
    let mut map = HeaderMap::new();
    for (name, values) in headers {
        for value in texts(values) {
            map.append(HeaderName::from_bytes(name.as_bytes()).unwrap(), HeaderValue::from_str(&value).unwrap());
        }
    }
    map
}

fn apply(edits: &[HeaderEdit], headers: &mut HeaderMap) {
    for edit in edits {
        for name in &edit.remove {
            headers.remove(name);
        }
        for (name, value) in &edit.set {
            headers.insert(name, value.clone());
        }
        for (name, value) in &edit.add {
            headers.append(name, value.clone());
        }
    }
}

fn letter(service: &str) -> String {
    service.trim_start_matches("shop/").to_owned()
}

impl Call {
    fn of(case: &Case) -> Result<Self, String> {
        let wanted = Request::of(&case.request)?;
        let host = wanted.host.unwrap_or_else(|| "front.shop".into());
        let mut headers = header_map(&wanted.headers);
        if !host.is_empty() {
            headers.insert(http::header::HOST, host.parse().unwrap());
        }
        let grpc = wanted.grpc.is_some();
        if grpc {
            headers.insert(http::header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        }
        Ok(Call {
            method: wanted.method.unwrap_or_else(|| if grpc { "POST" } else { "GET" }.into()),
            target: wanted.path.or(wanted.grpc.map(|call| format!("/{call}"))).unwrap_or_else(|| "/".into()),
            host,
            headers,
            scheme: if wanted.scheme.as_deref() == Some("https") { Scheme::Https } else { Scheme::Http },
            port: wanted.port.unwrap_or(80),
            grpc,
            tls: wanted.server_name.map(|name| name.as_str().map(str::to_owned)),
            tcp: wanted.tcp,
            reply: header_map(&case.reply),
        })
    }

    fn head(&self) -> Head<'_> {
        Head::new(&self.method, &self.target, &self.headers)
    }

    /// The answer of the proxy itself.
    fn local(&self, status: u16, grpc_status: u8) -> Seen {
        if self.grpc {
            return Seen { status: 200, grpc_status: Some(grpc_status), ..Seen::default() };
        }
        Seen { status, ..Seen::default() }
    }

    fn make(&self, frontend: &Frontend, random: u64) -> Seen {
        let head = self.head();
        let (path, query) = split_target(&self.target);
        let decision = match &self.tls {
            Some(name) => frontend.routes.decide_tls(name.as_deref(), random),
            None if self.tcp => frontend.routes.decide_tcp(random),
            None => frontend.routes.decide(&head, random),
        };
        let route = |rule: &Rule| Some(format!("{}#{}", letter(&rule.route), rule.index));
        if let Decision::Preflight { rule, cors } = decision {
            let response = cors.preflight(&head).into_iter().collect();
            return Seen { status: 204, response, route: route(rule), ..Seen::default() };
        }
        let injected = frontend.faults.draw(&head, random).filter(|_| self.tls.is_none() && !self.tcp);
        let delay = injected.and_then(|i| i.delay).map(|delay| delay.as_millis() as u64);
        if let Some(abort) = injected.and_then(|i| i.abort) {
            return Seen { delay, ..self.local(abort.status, abort.grpc_status) };
        }
        let seen = match decision {
            Decision::Forward { rule, backend, name, prefix } => {
                let mut seen = self.forward(rule, backend, (path, query), prefix);
                seen.mirrors = rule.mirrors(backend, random).map(|name| letter(&name.service)).collect();
                Seen { backend: Some(letter(&name.service)), route: route(rule), ..seen }
            }
            Decision::Redirect { rule, redirect, prefix } => {
                let Call { scheme, port, .. } = *self;
                let addressed = Addressed { scheme, authority: &self.host, port, path, query };
                let location = Some(redirect.location(&addressed, prefix));
                Seen { status: redirect.status, location, route: route(rule), ..Seen::default() }
            }
            Decision::Unresolved { rule, .. } => Seen { route: route(rule), ..self.local(500, 14) },
            Decision::NoRoute => self.local(404, 12),
            Decision::Preflight { .. } => unreachable!("answered above"),
        };
        Seen { delay, ..seen }
    }

    fn forward(
        &self,
        rule: &Rule,
        backend: &WeightedBackend,
        target: (&str, Option<&str>),
        prefix: Option<&str>,
    ) -> Seen {
        let mut headers = self.headers.clone();
        apply(&rule.filters.request, &mut headers);
        apply(&backend.filters.request, &mut headers);
        let rewritten = rule.rewrite(backend, target, prefix);
        if let Some(host) = rewritten.hostname {
            headers.insert(http::header::HOST, host.clone());
        }
        let mut response = self.reply.clone();
        apply(&backend.filters.response, &mut response);
        apply(&rule.filters.response, &mut response);
        if let Some(cors) = rule.cors(Some(backend)) {
            apply(&[cors.response(&self.head())], &mut response);
        }
        let host = headers.remove(http::header::HOST).map(|host| host.to_str().unwrap().to_owned());
        Seen {
            status: 200,
            grpc_status: self.grpc.then_some(0),
            path: rewritten.target.unwrap_or_else(|| self.target.clone()),
            host: host.unwrap_or_default(),
            headers,
            response,
            ..Seen::default()
        }
    }
}

fn differ<T: PartialEq + std::fmt::Debug>(what: &str, expected: Option<&T>, seen: Option<&T>) -> Result<(), String> {
    match expected {
        Some(_) if expected != seen => Err(format!("{what} {seen:?}, not {expected:?}")),
        _ => Ok(()),
    }
}

fn headers_are(
    what: &str,
    expected: &BTreeMap<String, Value>,
    absent: &[String],
    seen: &HeaderMap,
) -> Result<(), String> {
    for (name, values) in expected {
        let seen: Vec<&str> = seen.get_all(name.as_str()).iter().map(|value| value.to_str().unwrap()).collect();
        if seen != texts(values) {
            return Err(format!("{what} {name} is {seen:?}, not {values}"));
        }
    }
    match absent.iter().find(|name| seen.contains_key(name.as_str())) {
        Some(name) => Err(format!("{what} {name} is there")),
        None => Ok(()),
    }
}

impl Expect {
    fn check(&self, seen: &Seen) -> Result<(), String> {
        // A backend or a redirect is seen only where there is one.
        differ("backend", self.backend.as_ref(), seen.backend.as_ref())?;
        differ("route", self.route.as_ref(), seen.route.as_ref())?;
        differ("status", self.status.as_ref(), Some(&seen.status))?;
        differ("gRPC status", self.grpc_status.as_ref(), seen.grpc_status.as_ref())?;
        differ("location", self.location.as_ref(), seen.location.as_ref())?;
        differ("path", self.path.as_ref(), Some(&seen.path))?;
        differ("host", self.host.as_ref(), Some(&seen.host))?;
        differ("mirrors", self.mirrors.as_ref(), Some(&seen.mirrors))?;
        differ("delay", self.delay.as_ref(), seen.delay.as_ref().or(Some(&0)))?;
        headers_are("the request's", &self.headers, &self.absent, &seen.headers)?;
        headers_are("the response's", &self.response.headers, &self.response.absent, &seen.response)
    }
}

fn run(frontend: &Frontend, case: &Case) -> Result<(), String> {
    let call = Call::of(case)?;
    let expect = Expect::of(&case.expect)?;
    let draw = |n: u64| n.wrapping_mul(0x9E37_79B9_7F4A_7C15).wrapping_add(0x5EED);
    if !expect.shares.is_empty() {
        let mut counts = BTreeMap::<String, u64>::new();
        for seen in (0..DRAWS).map(|n| call.make(frontend, draw(n))) {
            *counts.entry(seen.backend.unwrap_or_else(|| seen.status.to_string())).or_default() += 1;
        }
        let of = |name: &str| counts.get(name).copied().unwrap_or(0) as f64 * 100.0 / DRAWS as f64;
        let wrong = |name: &&String| {
            let share = expect.shares.get(*name).copied().unwrap_or(0.0);
            (of(name) - share).abs() > if share == 0.0 { 0.0 } else { OFF }
        };
        return match expect.shares.keys().chain(counts.keys()).find(wrong) {
            Some(name) => Err(format!("{name} got {} %", of(name))),
            None => Ok(()),
        };
    }
    (0..SAME).try_for_each(|n| expect.check(&call.make(frontend, draw(n))))
}

fn frontend(group: &Group) -> Result<Frontend, String> {
    let read = |name: &str| weft_proto::json::deserialize(name, &group.frontend).map_err(|e| format!("frontend: {e}"));
    let wire: v1::Frontend = read("weft.v1.Frontend")?;
    let protocol = match &group.protocol {
        Some(name) => v1::Protocol::from_str_name(name).ok_or_else(|| format!("{name} is no protocol"))?,
        None => v1::Protocol::Detect,
    };
    let port = v1::ServicePort { port: 80, protocol: protocol.into(), frontend: Some(wire), ..Default::default() };
    let service = v1::Service { name: "shop/front".into(), ports: vec![port], ..Default::default() };
    let service = Service::from_wire(&service).map_err(|refusal| refusal.to_string())?;
    Ok(Frontend::clone(&service.ports[0].frontend))
}

#[test]
fn every_case_of_the_suite_holds() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/routing");
    let (mut names, mut failed) = (BTreeSet::new(), Vec::new());
    for (theme, file) in case::files(&folder) {
        for group in &file.groups {
            let compiled = frontend(group);
            for case in &group.cases {
                let name = format!("{theme}: {}: {}", group.name, case.name);
                let spec = case.spec.as_ref().or(group.spec.as_ref());
                let outcome = match (&compiled, spec) {
                    (_, None) => Err("names no rule of the specification".to_owned()),
                    (Ok(frontend), _) => run(frontend, case),
                    (Err(refused), _) => Err(refused.clone()),
                };
                if let Err(reason) = outcome {
                    failed.push(format!("{name}: {reason}"));
                }
                if let Some(again) = names.replace(name) {
                    failed.push(format!("{again}: occurs twice"));
                }
            }
        }
    }
    assert!(failed.is_empty(), "{} of {} cases fail: {failed:#?}", failed.len(), names.len());
    assert!(names.len() >= case::FEWEST, "only {} cases", names.len());
}
