//! Spans: what users asked for is one connected trace over HTTP and gRPC hops, retries are spans of their own, and a receiver that is away
//! costs nobody a call.

use crate::receiver::{Receiver, Span, assert_connected};
use crate::shop::{Shop, own_memory};
use std::net::TcpListener;
use weft_integration::rig::stage::{Caller, Instance, apply, services};
use weft_integration::rig::{Mesh, wait_for};

pub fn tracing(endpoint: &str, more: &str) -> String {
    format!(
        "apiVersion: weft.mesh/v1alpha1\nkind: MeshSettings\nmetadata: {{name: default}}\n\
         spec: {{tracing: {{endpoint: '{endpoint}', sampling: 100{more}}}}}\n"
    )
}

const RETRIES: &str = "apiVersion: weft.mesh/v1alpha1
kind: TrafficPolicy
metadata: {name: payments, namespace: shop}
spec:
  targetRefs: [{kind: Service, name: payments}]
  retry: {attempts: 3, methods: [POST], codes: [503]}
  circuitBreaker: {disabled: true}
";

/// One of these services has made spans of both kinds.
fn has(spans: &[Span], service: &str, server: bool) -> bool {
    spans.iter().any(|span| span.service() == service && span.is_server() == server)
}

fn is_whole(spans: &[Span]) -> bool {
    let called = ["storefront", "catalog", "orders", "users", "inventory", "payments"];
    let calling = ["caller", "storefront", "orders"];
    called.iter().all(|service| has(spans, service, true)) && calling.iter().all(|service| has(spans, service, false))
}

#[test]
fn a_checkout_is_one_connected_trace_over_http_and_grpc_whoever_began_it() {
    let shop = Shop::open(0);
    let receiver = Receiver::start(shop.mesh.folder());
    apply(&shop.mesh, &tracing(&receiver.grpc, ""));
    let caller = shop.caller();
    caller.until("the shop answers", "http://storefront/", |answer| answer.status == 200);

    // W3C: the caller's span is the parent of the first of ours.
    let (trace, parent) = ("4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7");
    let header = format!("traceparent: 00-{trace}-{parent}-01");
    assert_eq!(caller.call("POST", "http://storefront/checkout", &[&header]).status, 200);
    let spans = receiver.until(trace, "every hop has told its spans", is_whole);
    assert_connected(&spans, parent);
    assert!(spans.iter().all(|span| span.field("way") == "grpc" && span.field("scope") == "weft-proxy"));

    // Each server's span is below an attempt of a caller, which is below that caller's call.
    let by_id = |id: &str| spans.iter().find(|span| span.field("span") == id);
    for server in spans.iter().filter(|span| span.is_server()) {
        let attempt = by_id(server.field("parent")).unwrap();
        assert!(attempt.is_attempt() && !attempt.is_server(), "{server:#?} below {attempt:#?}");
        let call = by_id(attempt.field("parent")).unwrap();
        assert!(!call.is_attempt() && !call.is_server() && call.service() == attempt.service(), "{call:#?}");
        assert_eq!(call.attribute("weft.destination"), format!("shop/{}", server.service()));
    }
    let users = spans.iter().find(|span| span.service() == "users").unwrap();
    assert_eq!(users.field("name"), "shop.v1.Users/Find");
    assert_eq!((&*users.attribute("rpc.system.name"), &*users.attribute("rpc.response.status_code")), ("grpc", "OK"));
    let payments = spans.iter().find(|span| span.service() == "payments").unwrap();
    for (name, value) in [
        ("http.request.method", "POST"),
        ("url.path", "/charges"),
        ("http.response.status_code", "200"),
        ("weft.tls", "mutual"),
        ("weft.source", "shop/orders"),
        ("weft.source.identity", "spiffe://weft.local/ns/shop/sa/orders"),
        ("weft.destination.identity", "spiffe://weft.local/ns/shop/sa/payments"),
    ] {
        assert_eq!(payments.attribute(name), value, "{name}: {payments:#?}");
    }
    let resource = &payments.0["resource"];
    assert_eq!(
        (&resource["service.namespace"], &resource["service.instance.id"]),
        (&"shop".into(), &"shop/payments-1".into())
    );

    // B3 goes on as B3, in either of its forms, with ids of 64 bits too.
    for (trace, headers) in [
        (
            "463ac35c9f6413ad48485a3953bb6124",
            vec!["b3: 463ac35c9f6413ad48485a3953bb6124-a2fb4a1d1a96d312-1".to_owned()],
        ),
        (
            "0000000000000000a3ce929d0e0e4736",
            vec![
                "X-B3-TraceId: a3ce929d0e0e4736".into(),
                "X-B3-SpanId: a2fb4a1d1a96d312".into(),
                "X-B3-Sampled: 1".into(),
            ],
        ),
    ] {
        let headers: Vec<&str> = headers.iter().map(String::as_str).collect();
        assert_eq!(caller.call("POST", "http://storefront/checkout", &headers).status, 200);
        let spans = receiver.until(trace, "every hop has told its spans", is_whole);
        assert_connected(&spans, "a2fb4a1d1a96d312");
    }

    // A caller who decided against it is obeyed, and one who says nothing begins a trace here.
    let unwanted = "5bf92f3577b34da6a3ce929d0e0e4736";
    let header = format!("traceparent: 00-{unwanted}-{parent}-00");
    assert_eq!(caller.call("POST", "http://storefront/checkout", &[&header]).status, 200);
    let known: Vec<String> = receiver.spans().iter().map(|span| span.field("trace").to_owned()).collect();
    assert_eq!(caller.call("POST", "http://storefront/checkout", &[]).status, 200);
    let begun = wait_for("a trace begins at the first sidecar", || {
        let is_new = |span: &&Span| !known.iter().any(|trace| trace == span.field("trace"));
        let spans = receiver.spans();
        let root =
            spans.iter().filter(is_new).find(|span| span.field("parent").is_empty() && span.service() == "caller");
        root.map(|root| root.field("trace").to_owned()).ok_or_else(|| format!("{} spans", spans.len()))
    });
    let spans = receiver.until(&begun, "it goes all the way", is_whole);
    assert_connected(&spans, "");
    assert!(receiver.spans().iter().all(|span| span.field("trace") != unwanted));

    // Live: the same over HTTP, then nothing any more.
    apply(&shop.mesh, &tracing(&receiver.http, ", protocol: Http"));
    let trace = "6bf92f3577b34da6a3ce929d0e0e4736";
    let header = format!("traceparent: 00-{trace}-{parent}-01");
    assert_eq!(caller.call("POST", "http://storefront/checkout", &[&header]).status, 200);
    let spans = receiver.until(trace, "every hop has told its spans", is_whole);
    assert_connected(&spans, parent);
    assert!(spans.iter().all(|span| span.field("way") == "http"));
    let exported: f64 = shop.instances.iter().map(|i| i.sidecar.metric("weft_spans_exported_total", &[])).sum();
    let told = receiver.spans().iter().filter(|span| span.service() != "caller").count();
    assert!((exported - told as f64).abs() < 0.5, "{exported} exported, {told} received");
}

#[test]
fn every_attempt_is_a_span_of_its_own_that_says_how_it_ended() {
    let mesh = Mesh::start();
    services(&mesh, "shop", &["payments"], 80, "http");
    let _payments = ["100", "0"].map(|fail| {
        let name = format!("payments-{fail}");
        Instance::start(&mesh, "payments", &name, &["payments", "--fail-percent", fail])
    });
    let receiver = Receiver::start(mesh.folder());
    apply(&mesh, &(tracing(&receiver.grpc, "") + "---\n" + RETRIES));
    let caller = Caller::start(&mesh, "shop", "caller");
    // Until the first attempt is made where it fails.
    for nth in 1..200_u32 {
        let trace = format!("{nth:032x}");
        let header = format!("traceparent: 00-{trace}-00f067aa0ba902b7-01");
        let answer = caller.call("POST", "http://payments/charges", &[&header, "Idempotency-Key: 1"]);
        assert_eq!(answer.status, 200, "{answer:?}");
        let done = |spans: &[Span]| spans.iter().any(|span| span.service() == "caller");
        let spans = receiver.until(&trace, "the call has told its spans", done);
        let mut attempts: Vec<_> = spans.iter().filter(|span| span.is_attempt()).collect();
        if attempts.len() < 2 {
            continue;
        }
        let whole = |spans: &[Span]| spans.iter().filter(|span| span.is_server()).count() == 2;
        let spans_of_all = receiver.until(&trace, "both endpoints have told theirs", whole);
        assert_connected(&spans_of_all, "00f067aa0ba902b7");
        attempts.sort_by_key(|span| span.0["start"].as_u64());
        let told = |span: &Span, name: &str| span.attribute(name);
        assert_eq!(
            (&*told(attempts[0], "http.response.status_code"), &*told(attempts[0], "error.type")),
            ("503", "503")
        );
        assert_eq!(told(attempts[0], "weft.endpoint"), "shop/payments-100");
        assert_eq!(told(attempts[1], "http.request.resend_count"), "1");
        assert_eq!(told(attempts[1], "http.response.status_code"), "200");
        assert_eq!(told(attempts[1], "weft.endpoint"), "shop/payments-0");
        let call = spans.iter().find(|span| span.service() == "caller" && !span.is_attempt()).unwrap();
        assert_eq!((told(call, "weft.attempts"), call.0["status"].as_u64()), ("2".to_owned(), Some(0)));
        return;
    }
    panic!("no call was retried");
}

#[test]
fn a_receiver_that_is_gone_or_silent_costs_spans_and_no_call() {
    let mesh = Mesh::start();
    services(&mesh, "shop", &["catalog"], 80, "http");
    let _catalog = Instance::catalog(&mesh, "catalog-1", "v1");
    let caller = Caller::start(&mesh, "shop", "caller");
    caller.until("catalog answers", "http://catalog/items", |answer| answer.status == 200);
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    // The backlog of the listener takes connections that nobody ever answers; the other port refuses them.
    let refusing = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let pid = caller.sidecar.sidecar_pid().unwrap();
    for address in [silent.local_addr().unwrap(), refusing] {
        apply(&mesh, &tracing(&format!("http://{address}"), ""));
        wait_for("calls are traced", || {
            let answer = caller.get("http://catalog/items");
            assert_eq!(answer.status, 200);
            let log = std::fs::read_to_string(caller.sidecar.state.join("sidecar.log")).unwrap_or_default();
            if log.contains(&format!("calls are traced receiver=http://{address}")) { Ok(()) } else { Err(log) }
        });
        let before = own_memory(pid);
        let dropped = || caller.sidecar.metric("weft_spans_dropped_total", &[]);
        let at_first = dropped();
        // More spans than the queue holds.
        let (proxy, credentials) = caller.proxy();
        let asked = keep_asking(&proxy, &credentials, 6000);
        assert_eq!(asked, 6000, "every call is answered");
        assert!(dropped() > at_first, "{}", caller.sidecar.metrics());
        let grown = own_memory(pid).saturating_sub(before);
        println!("{address}: {grown} KiB more, {} spans dropped", dropped() - at_first);
        assert!(grown < 16 * 1024, "{grown} KiB more");
    }
}

/// So many calls on one connection; how many were answered with 200.
fn keep_asking(proxy: &str, credentials: &str, calls: usize) -> usize {
    use std::io::{BufRead as _, BufReader, Read as _, Write as _};
    let mut stream = std::net::TcpStream::connect(proxy).unwrap();
    stream.set_read_timeout(Some(weft_integration::rig::DEADLINE)).unwrap();
    let mut answers = BufReader::new(stream.try_clone().unwrap());
    let request = format!(
        "GET http://catalog/items HTTP/1.1\r\nHost: catalog\r\nProxy-Authorization: Basic {credentials}\r\n\r\n"
    );
    (0..calls)
        .filter(|_| {
            stream.write_all(request.as_bytes()).unwrap();
            let (mut status, mut length) = (String::new(), 0);
            answers.read_line(&mut status).unwrap();
            loop {
                let mut line = String::new();
                answers.read_line(&mut line).unwrap();
                if line == "\r\n" {
                    break;
                }
                if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                    length = value.trim().parse().unwrap();
                }
            }
            answers.read_exact(&mut vec![0; length]).unwrap();
            status.starts_with("HTTP/1.1 200")
        })
        .count()
}
