//! The routing suite, through a sidecar: every case of `proxy/policy/tests/routing/*.yaml`, put to a `weft-proxy` process over sockets. Each
//! group is a service of its own; a case reaches it through CONNECT, so that its `Host` may be anything.
//!
//! Of a case everything is asked that a caller or a backend can see. The index of the rule in `route` is not: a log line names the route.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a panic in a test is its report")]

#[path = "../../policy/tests/routing/case.rs"]
mod case;
mod outcome;
#[path = "../sidecar/mod.rs"]
mod sidecar;

use case::{Case, Expect, Request, texts};
use outcome::{Outcome, Seen};
use parking_lot::Mutex;
use serde_json::{Value, json};
use sidecar::app::{App, Said};
use sidecar::client::{Answer, Client, H2, soon};
use sidecar::{Sidecar, eventually, slice};
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

/// Backends, and the name of a group's own.
const BACKENDS: [&str; 9] = ["a", "b", "c", "d", "e", "f", "g", "h", "front"];
/// Calls of a case with shares, and how many percent they may be off: more than four standard deviations.
const DRAWS: usize = 600;
const OFF: f64 = 9.0;
/// Cases at once.
const SIDE_BY_SIDE: usize = 16;

/// A case with its place in the suite.
struct Put {
    /// "theme: group: case".
    name: String,
    /// The service of its group.
    host: String,
    protocol: Option<String>,
    request: Request,
    expect: Expect,
}

/// What the backends are told and tell.
#[derive(Default)]
struct Backends {
    /// By case: headers with which it is answered.
    replies: Vec<http::HeaderMap>,
    /// By case: which backends it reached, copies included.
    reached: Mutex<BTreeMap<usize, Vec<&'static str>>>,
}

fn header_map(headers: &BTreeMap<String, Value>) -> http::HeaderMap {
    let mut map = http::HeaderMap::new();
    for (name, values) in headers {
        for value in texts(values) {
            map.append(http::HeaderName::from_bytes(name.as_bytes()).unwrap(), value.parse().unwrap());
        }
    }
    map
}

async fn backend(letter: &'static str, backends: Arc<Backends>) -> App {
    App::start(letter, move |call| {
        let case: Option<usize> = call.header("x-case").parse().ok();
        let mut headers = http::HeaderMap::new();
        if let Some(case) = case {
            backends.reached.lock().entry(case).or_default().push(letter);
            headers.clone_from(&backends.replies[case]);
        }
        headers.insert("x-seen", Seen::of(letter, &call).encode().parse().unwrap());
        async move { Said { status: 200, headers, ..Said::default() } }
    })
    .await
}

/// The suite: services, and what is put to them.
fn suite() -> (Vec<Value>, Vec<Put>, Vec<http::HeaderMap>) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("policy/tests/routing");
    let (mut services, mut all, mut replies) = (Vec::new(), Vec::new(), Vec::new());
    for (theme, file) in case::files(&folder) {
        for group in file.groups {
            let host = format!("front-{}", services.len());
            let mut ports = BTreeSet::from([80]);
            for Case { name, spec, request, reply, expect } in group.cases {
                let spec = spec.or_else(|| group.spec.clone()).unwrap_or_default();
                let name = format!("{theme}: {}: {name} ({spec})", group.name);
                let request = Request::of(&request).unwrap_or_else(|e| panic!("{name}: {e}"));
                let expect = Expect::of(&expect).unwrap_or_else(|e| panic!("{name}: {e}"));
                ports.extend(request.port);
                replies.push(header_map(&reply));
                all.push(Put { name, host: host.clone(), protocol: group.protocol.clone(), request, expect });
            }
            let protocol = group.protocol.as_deref().unwrap_or("PROTOCOL_DETECT");
            let port = |port: &u16| json!({"port": port, "protocol": protocol, "frontend": group.frontend, "backend": {"slices": ["shop/front:80/0"]}});
            let ports: Value = ports.iter().map(port).collect();
            services.push(json!({"name": format!("shop/{host}"), "hostnames": [host], "ports": ports}));
        }
    }
    (services, all, replies)
}

#[tokio::test(flavor = "multi_thread")]
async fn every_case_of_the_suite_holds_through_a_sidecar() {
    let (mut services, all, replies) = suite();
    assert!(all.len() >= case::FEWEST, "only {} cases", all.len());
    let unsaid: Vec<&str> = all.iter().filter(|put| !can_be_said(&put.request)).map(|put| &*put.name).collect();
    assert!(unsaid.len() <= 2, "these cases are not put: {unsaid:#?}");
    println!("not put to the sidecar, since no caller can say them: {unsaid:#?}");
    let backends = Arc::new(Backends { replies, ..Backends::default() });
    let mut apps = Vec::new();
    for letter in BACKENDS {
        apps.push(backend(letter, Arc::clone(&backends)).await);
        services.push(sidecar::service(letter, "PROTOCOL_DETECT", json!({}), json!({})));
    }
    let slices: Value = BACKENDS.iter().zip(&apps).map(|(letter, app)| slice(letter, &[app.at])).collect();
    let resources = json!({"services": services, "endpoints": slices});
    let (sidecar, all) = (Sidecar::start(&resources), Arc::new(all));
    let proxy = sidecar.at("outbound");

    let (turns, mut running) = (Arc::new(Semaphore::new(SIDE_BY_SIDE)), JoinSet::new());
    for n in 0..all.len() {
        let (all, turns) = (Arc::clone(&all), Arc::clone(&turns));
        running.spawn(async move {
            let _turn = turns.acquire().await.unwrap();
            (n, put(proxy, n, &all[n]).await)
        });
    }
    let mut failed = BTreeMap::new();
    while let Some(done) = running.join_next().await {
        match done {
            Ok((_, Ok(()))) => {}
            Ok((n, Err(why))) => {
                failed.insert(n, why);
            }
            Err(panic) => {
                failed.insert(all.len() + failed.len(), panic.to_string());
            }
        }
    }
    check_mirrors(&all, &backends, &mut failed);
    check_routes(&all, &sidecar, &mut failed);
    let named: Vec<String> = failed
        .iter()
        .map(|(n, why)| format!("{}: {why}", all.get(*n).map_or("a case that panicked", |put| &put.name)))
        .collect();
    assert!(failed.is_empty(), "{} of {} cases fail: {named:#?}\n{}", failed.len(), all.len(), sidecar.said());
}

/// Copies go beside the call: those of the last cases may come after its answer, those that must not come would have come by then.
fn check_mirrors(all: &[Put], backends: &Backends, failed: &mut BTreeMap<usize, String>) {
    for (n, put) in all.iter().enumerate() {
        let Some(mirrors) = &put.expect.mirrors else { continue };
        let own = put.expect.backend.iter().cloned();
        let expected: Vec<String> = own.clone().chain(mirrors.iter().cloned()).collect();
        let reached = || backends.reached.lock().get(&n).cloned().unwrap_or_default();
        // Where the case does not say who answers, one more than the copies has been reached.
        let more = usize::from(put.expect.backend.is_none() && !reached().is_empty());
        let enough = || (reached().len() >= expected.len() + more).then_some(());
        eventually("copies", || enough().or_else(|| failed.contains_key(&n).then_some(())));
        let mut left: Vec<&str> = reached();
        for name in &expected {
            match left.iter().position(|reached| *reached == name.as_str()) {
                Some(at) => {
                    left.remove(at);
                }
                None => {
                    failed.insert(n, format!("{name} was not reached, but {:?}", reached()));
                }
            }
        }
        if left.len() > more {
            failed.insert(n, format!("{:?} were reached, expected {expected:?}", reached()));
        }
    }
}

fn check_routes(all: &[Put], sidecar: &Sidecar, failed: &mut BTreeMap<usize, String>) {
    let wanted = |put: &Put| {
        let name = put.expect.route.as_ref()?.split('#').next()?;
        Some(if name.contains('/') || name == "default" { name.to_owned() } else { format!("shop/{name}") })
    };
    let mut logged: BTreeMap<String, Value> = BTreeMap::new();
    for (n, put) in all.iter().enumerate() {
        let Some(route) = wanted(put) else { continue };
        if failed.contains_key(&n) {
            continue;
        }
        let id = format!("case-{n}");
        let line = eventually("a log line", || {
            if !logged.contains_key(&id) {
                let lines = sidecar.logged().into_iter();
                logged = lines.map(|line| (line["requestId"].as_str().unwrap_or("").to_owned(), line)).collect();
            }
            logged.get(&id)?["route"].as_str().map(str::to_owned)
        });
        if line != route {
            failed.insert(n, format!("route {line}, not {route}"));
        }
    }
}

/// Whether a caller can say it: a target is a path, or `*` (RFC 9112 section 3.2, RFC 9113 section 8.3.1).
fn can_be_said(request: &Request) -> bool {
    request.path.as_ref().is_none_or(|path| path.starts_with('/') || path == "*")
}

/// One case: its call, or as many as its shares need.
async fn put(proxy: SocketAddr, n: usize, put: &Put) -> Result<(), String> {
    if !can_be_said(&put.request) {
        return Ok(());
    }
    if put.expect.shares.is_empty() {
        return put.expect.check(&make(proxy, n, put).await);
    }
    let mut counts = BTreeMap::<String, usize>::new();
    for _ in 0..DRAWS {
        let outcome = make(proxy, n, put).await;
        let name = outcome.seen.map_or_else(|| outcome.answer.status.to_string(), |seen| seen.backend);
        *counts.entry(name).or_default() += 1;
    }
    let of = |name: &str| counts.get(name).copied().unwrap_or(0) as f64 * 100.0 / DRAWS as f64;
    let wrong = |name: &&String| {
        let share = put.expect.shares.get(*name).copied().unwrap_or(0.0);
        (of(name) - share).abs() > if share == 0.0 { 0.0 } else { OFF }
    };
    match put.expect.shares.keys().chain(counts.keys()).find(wrong) {
        Some(name) => Err(format!("{name} got {} %", of(name))),
        None => Ok(()),
    }
}

/// The call of a case, over a connection of its own.
async fn make(proxy: SocketAddr, n: usize, put: &Put) -> Outcome {
    let Put { host: service, request, .. } = put;
    let to = format!("{service}:{}", request.port.unwrap_or(80));
    if request.tcp || request.server_name.is_some() {
        return opaque(proxy, &to, request).await;
    }
    let host = request.host.as_deref().unwrap_or("front.shop");
    let grpc = request.grpc.as_ref().map(|call| format!("/{call}"));
    let method = request.method.as_deref().unwrap_or(if grpc.is_some() { "POST" } else { "GET" });
    let path = request.path.as_deref().or(grpc.as_deref()).unwrap_or("/");
    let headers = header_map(&request.headers);
    let https = request.scheme.as_deref() == Some("https");
    // By these an HTTP/1 connection would not be known for one.
    let lower = method.bytes().any(|byte| byte.is_ascii_lowercase());
    let native = grpc.is_some() || https || lower || put.protocol.as_deref() == Some("PROTOCOL_HTTP2");
    let began;
    let answer = if native {
        let mut client = H2::tunnel(proxy, &to).await;
        let uri = format!("{}://{host}{path}", if https { "https" } else { "http" });
        let mut call = http::Request::builder().method(method).uri(uri).body(()).unwrap();
        *call.headers_mut() = headers;
        call.headers_mut().insert("x-case", n.into());
        call.headers_mut().insert("x-request-id", format!("case-{n}").parse().unwrap());
        if grpc.is_some() {
            call.headers_mut().insert("content-type", "application/grpc".parse().unwrap());
        }
        began = Instant::now();
        client.call(call, grpc.map(|_| bytes::Bytes::from_static(&[0; 5]))).await
    } else {
        let mut client = Client::tunnel(proxy, &to).await;
        let mut text = format!("{method} {path} HTTP/1.1\r\nHost: {host}\r\nx-case: {n}\r\nx-request-id: case-{n}\r\n");
        for (name, value) in &headers {
            text.push_str(&format!("{name}: {}\r\n", String::from_utf8_lossy(value.as_bytes())));
        }
        text.push_str("\r\n");
        began = Instant::now();
        soon("an answer", client.exchange(text.as_bytes())).await.unwrap_or_default()
    };
    let took = began.elapsed();
    Outcome { seen: Seen::decode(answer.header("x-seen")), answer, took }
}

/// An opaque connection, TLS or not: whoever answers says its name. Nobody: refused.
async fn opaque(proxy: SocketAddr, to: &str, request: &Request) -> Outcome {
    let mut stream = Client::tunnel(proxy, to).await.0;
    let first = match &request.server_name {
        None => b"\0opaque\n".to_vec(),
        // A client that calls an address names no server.
        Some(name) => client_hello(name.as_str().unwrap_or("192.0.2.1")),
    };
    let (began, mut said) = (Instant::now(), Vec::new());
    let _ = stream.write_all(&first).await;
    let _ = soon("an end", stream.read_to_end(&mut said)).await;
    let letter = String::from_utf8(said).ok().filter(|said| BACKENDS.contains(&said.as_str()));
    let seen = letter.map(|letter| Seen { backend: letter, ..Seen::default() });
    let status = if seen.is_some() { 200 } else { 0 };
    Outcome { seen, answer: Answer { status, ..Answer::default() }, took: began.elapsed() }
}

fn client_hello(name: &str) -> Vec<u8> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let config = config.with_root_certificates(rustls::RootCertStore::empty()).with_no_client_auth();
    let mut client = rustls::ClientConnection::new(Arc::new(config), name.to_owned().try_into().unwrap()).unwrap();
    let mut bytes = Vec::new();
    client.write_tls(&mut bytes).unwrap();
    bytes
}
