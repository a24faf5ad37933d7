//! TCP exchanges, fairness and soak, against the binary's own upstream.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a panic is how a test says what is wrong")]

mod rig;

use rig::{Upstream, number, run, succeeds};
use serde_json::Value;
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

#[test]
fn bulk_goes_both_ways_and_is_counted() {
    let upstream = Upstream::start();
    let result = succeeds(&[
        "tcp",
        "--target",
        &upstream.at("tcp"),
        "--connections",
        "2",
        "--down",
        "20m",
        "--up",
        "5m",
        "--rounds",
        "2",
    ]);
    assert_eq!((&result["exchanges"], &result["opened"]), (&4.into(), &2.into()));
    assert_eq!(number(&result, "/down"), 4.0 * 20.0 * 1_048_576.0);
    assert_eq!(number(&result, "/up"), 4.0 * 5.0 * 1_048_576.0);
    assert_eq!(number(&result, "/bytes"), number(&result, "/down") + number(&result, "/up"));
    assert_eq!(result["bytes"], upstream.count("tcp", "bytes"));
}

#[test]
fn exchanges_follow_one_another_on_a_kept_connection_or_on_new_ones() {
    for (churn, length) in [(false, "0"), (true, "0"), (false, "500"), (true, "70000")] {
        let upstream = Upstream::start();
        let target = upstream.at("tcp");
        let mut arguments = vec![
            "tcp",
            "--target",
            &target,
            "--connections",
            "4",
            "--duration",
            "20s",
            "--rounds",
            "50",
            "--down",
            length,
        ];
        arguments.extend(churn.then_some("--churn"));
        let result = succeeds(&arguments);
        assert_eq!(number(&result, "/exchanges"), 200.0, "{result}");
        assert_eq!(result["total"], upstream.count("tcp", "requests"));
        assert_eq!(result["opened"], upstream.count("tcp", "connections"));
        assert_eq!(result["opened"] == result["total"], churn, "{result}");
    }
}

#[test]
fn a_peer_that_is_not_an_exchange_server_is_found_out() {
    let upstream = Upstream::start();
    let (code, result) = run(&["tcp", "--target", &upstream.at("echo")]);
    assert_eq!((code, &result["errors"]["malformed"]), (1, &1.into()), "an echo does not answer `k`: {result}");
    let (code, result) = run(&["tcp", "--target", &upstream.at("echo"), "--down", "1m", "--timeout", "200ms"]);
    assert_eq!((code, &result["errors"]["timeout"]), (1, &1.into()), "{result}");
}

/// Two cycles of all phases.
fn fairness(protocol: &str, listener: &str, more: &[&str]) {
    let upstream = Upstream::start();
    let target = upstream.at(listener);
    let fixed = [
        "fairness",
        "--protocol",
        protocol,
        "--target",
        &target,
        "--streams",
        "8",
        "--phase",
        "200ms",
        "--cycles",
        "2",
    ];
    let (code, result) = run(&[&fixed[..], more].concat());
    assert_eq!(code, 0, "{result}");
    for phase in ["alone", "stalled", "slow", "bulk"] {
        let of = |field: &str| number(&result, &format!("/phases/{phase}/{field}"));
        assert_eq!(of("errors/total"), 0.0, "{protocol} {phase}: {result}");
        assert!(of("requests") > 0.0 && of("latencyUs/p50") > 0.0, "{protocol} {phase}: {result}");
        if phase != "alone" {
            assert!(number(&result, &format!("/ratios/{phase}/p50")) > 0.0, "{protocol} {phase}: {result}");
        }
    }
    assert_eq!(result["cycles"].as_array().unwrap().len(), 2);
    assert_eq!(number(&result, "/phases/stalled/otherBytes"), 0.0);
    // 64 KiB a second for twice 200 ms, in pieces of up to 16 KiB.
    assert!(number(&result, "/phases/slow/otherBytes") <= 300_000.0, "{protocol}: {result}");
    assert!(number(&result, "/phases/bulk/otherBytes") > 1e5, "{protocol}: {result}");
}

#[test]
fn fairness_over_http1_reports_each_phase_and_its_ratio() {
    fairness("http1", "http1", &["--rate", "500"]);
}

#[test]
fn fairness_over_http2_reports_each_phase_and_its_ratio() {
    fairness("http2", "http2", &["--rate", "0", "--bulk-connections", "0", "--bulk-rate", "20m"]);
}

#[test]
fn fairness_over_grpc_reports_each_phase_and_its_ratio() {
    fairness("grpc", "http2", &["--rate", "500"]);
}

#[test]
fn a_soak_does_everything_and_what_should_succeed_does() {
    let upstream = Upstream::start();
    let deadline = Instant::now() + Duration::from_secs(60);
    let (http1, http2, tcp) = (upstream.at("http1"), upstream.at("http2"), upstream.at("tcp"));
    let (mut done, mut seed) = (BTreeSet::new(), 0);
    while done.len() < 31 {
        assert!(Instant::now() < deadline, "only {done:?}");
        seed += 1;
        let seed = seed.to_string();
        let targets = ["soak", "--http1", &http1, "--http2", &http2, "--tcp", &tcp];
        let more = ["--duration", "1s", "--workers", "12", "--seed", &seed, "--timeout", "30s"];
        let result = succeeds(&[&targets[..], &more].concat());
        let actions = result["actions"].as_object().unwrap();
        assert_eq!(number(&result, "/requests"), actions.values().filter_map(Value::as_f64).sum::<f64>());
        done.extend(actions.keys().cloned());
    }
    // Nothing stays behind at the upstream.
    let deadline = Instant::now() + Duration::from_secs(20);
    while ["http1", "http2", "tcp"].iter().any(|protocol| upstream.count(protocol, "open") > 0) {
        assert!(Instant::now() < deadline, "connections stay open: {}", upstream.status());
        std::thread::yield_now();
    }
    let again = succeeds(&["closed", "--target", &http1, "--requests", "10", "--duration", "20s"]);
    assert!(number(&again, "/requests") >= 10.0);
}
