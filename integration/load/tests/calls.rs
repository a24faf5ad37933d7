//! The closed and open loops, idle connections and the first answer, against the binary's own upstream.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a panic is how a test says what is wrong")]

mod rig;

use rig::{Upstream, binary, number, run, succeeds};
use serde_json::Value;
use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::process::Stdio;

/// Protocol on the command line, listener, and where the upstream counts it.
const PROTOCOLS: [(&str, &str, &str); 4] = [
    ("http1", "http1", "http1"),
    ("http2", "http2", "http2"),
    ("grpc", "http2", "grpc"),
    ("grpc-stream", "http2", "grpc"),
];

/// Takes connections and never answers.
fn silent() -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    (listener, address)
}

#[test]
fn a_closed_loop_counts_what_the_upstream_counts_on_every_protocol() {
    for (protocol, listener, counter) in PROTOCOLS {
        let upstream = Upstream::start();
        let result = succeeds(&[
            "closed",
            "--protocol",
            protocol,
            "--target",
            &upstream.at(listener),
            "--connections",
            "3",
            "--streams",
            "2",
            "--duration",
            "20s",
            "--requests",
            "300",
            "--warmup",
            "50ms",
        ]);
        assert_eq!(result["total"], upstream.count(counter, "requests"), "{protocol}: {result}");
        assert_eq!(result["opened"], upstream.count(listener, "connections"), "{protocol}: {result}");
        assert_eq!(result["opened"], 3, "{protocol}: {result}");
        assert!(number(&result, "/requests") >= 300.0, "{result}");
        assert!(number(&result, "/requests") <= number(&result, "/total"), "{result}");
        let p50 = number(&result, "/latencyUs/p50");
        assert!(p50 > 1.0 && p50 <= number(&result, "/latencyUs/p99"), "{protocol}: {result}");
        let length = if counter == "grpc" { 1029.0 } else { 1024.0 };
        assert_eq!(number(&result, "/bytes"), number(&result, "/requests") * length, "{protocol}: {result}");
    }
}

#[test]
fn churn_opens_a_connection_for_each_call() {
    for (protocol, listener, counter) in PROTOCOLS {
        for close in ["client", "server", "reset"] {
            let upstream = Upstream::start();
            let result = succeeds(&[
                "closed",
                "--protocol",
                protocol,
                "--target",
                &upstream.at(listener),
                "--connections",
                "4",
                "--requests",
                "200",
                "--churn",
                "--close",
                close,
                "--duration",
                "20s",
            ]);
            assert!((200..=204).contains(&result["total"].as_u64().unwrap()), "{protocol} {close}: {result}");
            assert_eq!(result["opened"], result["total"], "{protocol} {close}: {result}");
            assert_eq!(result["opened"], upstream.count(listener, "connections"), "{protocol} {close}: {result}");
            assert_eq!(result["total"], upstream.count(counter, "requests"), "{protocol} {close}: {result}");
        }
    }
}

#[test]
fn churned_connections_can_come_from_many_addresses() {
    let upstream = Upstream::start();
    let target = upstream.at("http1");
    let result = succeeds(&[
        "closed",
        "--target",
        &target,
        "--requests",
        "300",
        "--churn",
        "--sources",
        "7",
        "--connections",
        "2",
    ]);
    assert_eq!(result["opened"], result["total"]);
}

#[test]
fn bodies_of_every_size_come_back_whole() {
    let upstream = Upstream::start();
    for (protocol, listener, _) in PROTOCOLS {
        for size in ["1", "70000", "3m"] {
            let result = succeeds(&[
                "closed",
                "--protocol",
                protocol,
                "--target",
                &upstream.at(listener),
                "--body",
                size,
                "--connections",
                "2",
                "--requests",
                "6",
                "--duration",
                "20s",
            ]);
            assert!(result["requests"].as_u64().unwrap() >= 6, "{protocol} {size}: {result}");
        }
    }
    for (protocol, length) in [("http1", 0), ("http1", 10_000_000), ("http2", 0), ("http2", 10_000_000)] {
        let path = format!("/bytes/{length}");
        let result = succeeds(&[
            "closed",
            "--protocol",
            protocol,
            "--target",
            &upstream.at(protocol),
            "--path",
            &path,
            "--connections",
            "2",
            "--requests",
            "4",
            "--duration",
            "20s",
        ]);
        assert_eq!(number(&result, "/bytes"), number(&result, "/requests") * f64::from(length), "{result}");
    }
}

#[test]
fn wrong_answers_are_counted_by_what_is_wrong_with_them() {
    let upstream = Upstream::start();
    for protocol in ["http1", "http2"] {
        let target = upstream.at(protocol);
        let wrong = |more: &[&str]| {
            let fixed =
                ["closed", "--protocol", protocol, "--target", &target, "--connections", "1", "--duration", "300ms"];
            let (code, result) = run(&[&fixed[..], more].concat());
            assert_eq!((code, result["requests"].as_u64()), (1, Some(0)), "{protocol} {more:?}: {result}");
            assert_eq!(result["latencyUs"], Value::Null);
            result["errors"].clone()
        };
        let errors = wrong(&["--path", "/status/503"]);
        assert!(number(&errors, "/status") > 0.0 && errors["status"] == errors["total"], "{errors}");
        let errors = wrong(&["--expect-length", "1000"]);
        assert!(number(&errors, "/length") > 0.0 && errors["length"] == errors["total"], "{errors}");
    }
    let (silent, target) = silent();
    let (code, result) =
        run(&["closed", "--target", &target, "--connections", "1", "--duration", "100ms", "--timeout", "300ms"]);
    assert_eq!(code, 1);
    assert!(number(&result, "/errors/timeout") > 0.0, "{result}");
    drop(silent);
    let target = upstream.at("tcp");
    let (code, result) = run(&["closed", "--target", &target, "--connections", "1", "--duration", "300ms"]);
    assert_eq!(code, 1);
    assert!(number(&result, "/errors/malformed") > 0.0, "filler is no HTTP: {result}");
    let (code, result) = run(&["closed", "--target", "127.0.0.1:1", "--connections", "1", "--duration", "300ms"]);
    assert_eq!(code, 1);
    assert!(number(&result, "/errors/connect") > 0.0, "{result}");
    let (code, result) = run(&[
        "closed",
        "--protocol",
        "grpc",
        "--target",
        &upstream.at("http2"),
        "--connections",
        "1",
        "--duration",
        "300ms",
        "--header",
        "content-type: text/plain",
    ]);
    assert_eq!(code, 1, "{result}");
    assert!(number(&result, "/errors/grpcStatus") > 0.0, "{result}");
}

#[test]
fn an_open_loop_sends_its_whole_schedule() {
    for (protocol, listener, counter) in PROTOCOLS {
        for poisson in [false, true] {
            let upstream = Upstream::start();
            let target = upstream.at(listener);
            let mut arguments = vec![
                "open",
                "--protocol",
                protocol,
                "--target",
                &target,
                "--connections",
                "8",
                "--rate",
                "1000",
                "--duration",
                "300ms",
                "--warmup",
                "100ms",
            ];
            arguments.extend(poisson.then_some("--poisson"));
            let result = succeeds(&arguments);
            assert_eq!(result["requests"], result["scheduled"], "{result}");
            assert_eq!(result["total"], upstream.count(counter, "requests"), "{result}");
            if poisson {
                assert!((200..400).contains(&result["scheduled"].as_u64().unwrap()), "{result}");
            } else {
                assert!((299..=301).contains(&result["scheduled"].as_u64().unwrap()), "{result}");
            }
            assert!(number(&result, "/lateUs/p50") <= number(&result, "/latencyUs/p50"), "{result}");
        }
    }
}

#[test]
fn waiting_for_a_slow_target_counts_from_the_intended_time() {
    let upstream = Upstream::start();
    // One worker, and answers that take longer than the gap between calls: later calls wait for earlier ones.
    let result = succeeds(&[
        "open",
        "--target",
        &upstream.at("http1"),
        "--connections",
        "1",
        "--rate",
        "2000",
        "--duration",
        "30ms",
        "--path",
        "/bytes/5000000",
        "--timeout",
        "60s",
    ]);
    assert_eq!(result["requests"], result["scheduled"], "{result}");
    assert!(number(&result, "/waited") > 30.0, "{result}");
    // The last call's answer came after all the others' had: its latency is about the whole run less the schedule.
    assert!(number(&result, "/latencyUs/max") > 2.0 * number(&result, "/latencyUs/min"), "{result}");
    assert!(number(&result, "/lateUs/p99") > 0.5 * number(&result, "/latencyUs/p99"), "{result}");
}

#[test]
fn calls_nobody_could_send_are_errors() {
    let (_silent, target) = silent();
    let (_, result) = run(&[
        "open",
        "--target",
        &target,
        "--connections",
        "1",
        "--rate",
        "1000",
        "--duration",
        "50ms",
        "--timeout",
        "200ms",
    ]);
    let (unsent, scheduled) = (number(&result, "/unsent"), number(&result, "/scheduled"));
    assert!(unsent > 0.0 && unsent < scheduled, "{result}");
    assert_eq!(number(&result, "/errors/unsent"), unsent);
    assert_eq!(number(&result, "/errors/total"), scheduled, "{result}");
}

#[test]
fn idle_connections_are_held_until_stdin_closes() {
    for protocol in ["http1", "http2", "grpc", "grpc-stream"] {
        let upstream = Upstream::start();
        let listener = if protocol == "http1" { "http1" } else { "http2" };
        let mut child = binary()
            .args([
                "idle",
                "--protocol",
                protocol,
                "--target",
                &upstream.at(listener),
                "--connections",
                "50",
                "--hold",
                "1m",
            ])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut next = || serde_json::from_str::<Value>(&lines.next().unwrap().unwrap()).unwrap();
        assert_eq!(next()["ready"], 50, "{protocol}");
        assert_eq!(upstream.count(listener, "open"), 50, "{protocol}");
        drop(child.stdin.take());
        let end = next();
        assert_eq!((&end["held"], &end["lost"]), (&50.into(), &0.into()), "{protocol}: {end}");
        assert_eq!(child.wait().unwrap().code(), Some(0));
    }
}

#[test]
fn connections_that_the_peer_closed_are_lost() {
    let upstream = Upstream::start();
    let mut child = binary()
        .args(["idle", "--target", &upstream.at("http1"), "--connections", "20", "--hold", "1m"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut next = || serde_json::from_str::<Value>(&lines.next().unwrap().unwrap()).unwrap();
    assert_eq!(next()["ready"], 20);
    assert_eq!(upstream.end(), Some(0));
    drop(child.stdin.take());
    assert_eq!(next()["lost"], 20);
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[test]
fn the_first_answer_is_waited_for_and_timed() {
    for protocol in ["http1", "http2"] {
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
        let waiting = binary()
            .args(["first", "--protocol", protocol, "--target", &address, "--deadline", "20s"])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let _upstream = Upstream::with(&[&format!("--{protocol}"), &address]);
        let output = waiting.wait_with_output().unwrap();
        let result: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!((output.status.code(), &result["ok"]), (Some(0), &true.into()), "{result}");
        assert_eq!(number(&result, "/attempts"), number(&result, "/refused") + 1.0, "{result}");
        assert!(number(&result, "/sinceMs") > 0.0);
    }
    let upstream = Upstream::start();
    let (code, result) =
        run(&["first", "--target", &upstream.at("http1"), "--path", "/status/503", "--deadline", "50ms"]);
    assert_eq!((code, &result["ok"]), (1, &false.into()));
    assert_eq!(result["statuses"]["503"], result["attempts"], "{result}");
}
