//! Callers who make up hosts, paths, methods and whom they say they are, a new one with each call: the sidecar's memory and its metrics stay as
//! they were, and every call is counted. `WEFT_CARDINALITY=1000000` makes as many of each third together; without it there are fewer.

use crate::sidecar::app::App;
use crate::sidecar::{Mesh, Sidecar, route, service, slice};
use serde_json::json;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

/// Calls where nobody says how many.
const USUAL: usize = 90_000;
/// Calls that are sent before the first of them is waited for.
const BATCH: usize = 200;
/// Calls before the others, which are known.
const KNOWN: usize = 50;
/// What a sidecar may grow by, bytes.
const GROWS: usize = 8 << 20;

/// Makes calls one after another on one connection; panics unless each is answered.
fn call(at: SocketAddr, calls: usize, request: impl Fn(usize, &mut String)) {
    let mut stream = TcpStream::connect(at).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    let (mut asked, mut buffer) = (String::new(), vec![0; 64 << 10]);
    for from in (0..calls).step_by(BATCH) {
        let upto = calls.min(from + BATCH);
        asked.clear();
        (from..upto).for_each(|nth| request(nth, &mut asked));
        stream.write_all(asked.as_bytes()).unwrap();
        let (mut answered, mut held) = (0, 0);
        while answered < upto - from {
            let read = stream.read(&mut buffer[held..]).unwrap_or_else(|error| panic!("{at}: {error}"));
            assert_ne!(read, 0, "closed after {answered} of {} answers", upto - from);
            let (seen, begins) = (&buffer[..held + read], b"HTTP/1.1 ");
            answered += seen.windows(begins.len()).filter(|window| window == begins).count();
            // A beginning that the next read completes.
            let rest = (begins.len() - 1).min(seen.len());
            let from = seen.len() - rest;
            buffer.copy_within(from..from + rest, 0);
            held = rest;
        }
    }
}

/// `direction` and `destination` of a call that is counted.
fn counted(sidecar: &Sidecar, direction: &str, destination: &str) -> f64 {
    let of = [format!("direction=\"{direction}\""), format!("destination=\"{destination}\"")];
    sidecar.count("weft_requests_total", &[&of[0], &of[1]])
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_host_path_method_and_caller_with_every_call_leave_a_sidecar_as_it_was() {
    let calls = std::env::var("WEFT_CARDINALITY").ok().and_then(|text| text.parse().ok()).unwrap_or(USUAL);
    let app = App::named("a").await;
    let mesh = Mesh::new();
    let frontend = json!({"routes": [route("ROUTE_KIND_HTTP", &[("a", 1)], json!({}))]});
    let port = json!({
        "port": app.at.port(), "authorities": [app.at], "local": app.at, "protocol": "PROTOCOL_DETECT", "service": "shop/orders",
        "tls": "TLS_MODE_PERMISSIVE",
    });
    let resources = json!({
        "services": [service("a", "PROTOCOL_DETECT", frontend, json!({}))],
        "endpoints": [slice("a", &[app.at])],
        "inbound": {"workload": "shop/orders-1", "identity": mesh.id("orders"), "ports": [port]},
    });
    let listen = json!({"inbound": {"tunnel": "127.0.0.1:0", "plaintext": "127.0.0.1:0"}});
    let sidecar = mesh.sidecar("orders", &resources, &listen);
    let (outbound, inbound) = (sidecar.at("outbound"), sidecar.at("plaintext"));
    let known = |nth: usize, text: &mut String| {
        *text += "GET http://a/items HTTP/1.1\r\nHost: a\r\n\r\n";
        assert!(nth < KNOWN);
    };
    tokio::task::block_in_place(|| {
        call(outbound, KNOWN, known);
        call(inbound, KNOWN, known);
    });
    let series = || sidecar.count("weft_metrics_series", &[]);
    let (before, memory, began) = (series(), sidecar.memory(), Instant::now());

    let third = calls / 3;
    let paths = move |nth: usize, text: &mut String| {
        let call = format!("M{nth} http://a/{nth}/made-up?q={nth} HTTP/1.1\r\nHost: a\r\nX-Request-Id: {nth}\r\n\r\n");
        text.push_str(&call);
    };
    let hosts = move |nth: usize, text: &mut String| {
        let host = format!("made-up-{nth}.example.com");
        text.push_str(&format!("GET http://{host}/{nth} HTTP/1.1\r\nHost: {host}\r\n\r\n"));
    };
    let callers = move |nth: usize, text: &mut String| {
        let who = format!("shop/made-up-{nth}");
        text.push_str(&format!(
            "GET /{nth} HTTP/1.1\r\nHost: orders-{nth}.example.com\r\nweft-source: {who}\r\nweft-source-identity: spiffe://weft.local/ns/{who}\r\n\
             X-Forwarded-Client-Cert: URI={who}\r\nX-Forwarded-For: 192.0.2.{}\r\nUser-Agent: {who}\r\ntraceparent: 00-{nth:032x}-00f067aa0ba902b7-01\r\n\r\n",
            nth % 256
        ));
    };
    let flood = [
        std::thread::spawn(move || call(outbound, third, paths)),
        std::thread::spawn(move || call(outbound, third, hosts)),
        std::thread::spawn(move || call(inbound, third, callers)),
    ];
    tokio::task::block_in_place(|| flood.into_iter().for_each(|one| one.join().unwrap()));
    let grown = sidecar.memory().saturating_sub(memory);
    println!(
        "{} calls in {:.1} s: {} KiB at most before, {} KiB after; {before} series, then {}",
        3 * third,
        began.elapsed().as_secs_f64(),
        memory >> 10,
        (memory + grown) >> 10,
        series()
    );
    assert!(grown < GROWS, "{grown} bytes more than {memory}");
    assert!(series() < before + 24.0, "{before} series, then {}", series());

    // What was known is where it was, and nothing is missing.
    tokio::task::block_in_place(|| call(outbound, KNOWN, known));
    let all = |calls: usize| f64::from(u32::try_from(calls).unwrap());
    assert_eq!(counted(&sidecar, "outbound", "shop/a"), all(2 * KNOWN + third));
    assert_eq!(counted(&sidecar, "inbound", "shop/orders"), all(KNOWN + third));
    assert_eq!(sidecar.count("weft_requests_total", &["reason=\"unknown_host\""]), all(third));
    assert_eq!(sidecar.count("weft_requests_total", &["\"other\""]), 0.0);
    assert_eq!(sidecar.count("weft_", &["made-up"]), 0.0, "nothing that a caller wrote is a label");
    assert_eq!(sidecar.count("weft_metrics_overflow_total", &[]), 0.0);
}
