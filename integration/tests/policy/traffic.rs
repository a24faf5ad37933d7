//! TrafficPolicy: where its policies are meant, deadlines, retries and their budget, hedging, limits. Of balancing, breakers and
//! health checks, whose endpoints differ, see `endpoints`; of faults and fallbacks `failures`.

mod endpoints;
mod failures;

use crate::app::{Speaks, obeys};
use crate::table::{Row, Scene, Side, check, check_again, end, row, scene, told};
use std::io::{Read, Write};
use std::time::Duration;

/// One application that does what paths ask.
fn one() -> Scene {
    scene(&[end("a", Speaks::Http(obeys))])
}

/// Two of them.
fn two() -> Scene {
    scene(&[end("a", Speaks::Http(obeys)), end("b", Speaks::Http(obeys))])
}

/// One with a sidecar.
fn gated() -> Scene {
    Scene { gated: true, ..one() }
}

fn grpc() -> Scene {
    Scene { protocol: "grpc", ..scene(&[end("a", Speaks::Grpc(obeys, true))]) }
}

/// Connections are made, and HTTP/2 never begins on them.
fn silent() -> Scene {
    Scene { protocol: "kubernetes.io/h2c", ..scene(&[end("a", Speaks::Silence)]) }
}

#[test]
fn every_field_of_a_traffic_policy_is_seen_by_callers_or_applications() {
    let mut rows = targets();
    rows.extend(timeouts());
    rows.extend(retries());
    rows.extend(limits());
    rows.extend(endpoints::balancing());
    rows.extend(endpoints::breakers());
    rows.extend(endpoints::health_checks());
    rows.extend(failures::faults());
    rows.extend(failures::fallbacks());
    check("TrafficPolicy", &rows);
}

#[test]
fn fields_of_a_traffic_policy_do_the_same_to_calls_between_sidecars() {
    let mut rows = timeouts();
    rows.extend(retries());
    rows.extend(limits());
    rows.extend(endpoints::breakers());
    rows.extend(endpoints::health_checks());
    let rows: Vec<Row> = rows.into_iter().filter_map(Row::behind_sidecars).collect();
    assert!(rows.len() >= 25, "most fields are about calls between sidecars: {}", rows.len());
    check_again("TrafficPolicy", &rows);
}

const GRPC_CALL: &[&str] = &["content-type: application/grpc", "te: trailers"];

fn targets() -> Vec<Row> {
    let teapot = |side: &Side<'_>| told(&side.get("/"));
    let seen = ["200", "418 fault"];
    let fault = |target: &str| format!("targetRefs: [{{{target}}}], faults: [{{abort: {{status: 418}}}}]");
    let spared = || Scene { spares: true, ..one() };
    let right = fault("kind: Service, name: $SERVICE");
    let row = |field, wrong: &str, right: &str| row(field, spared(), [&fault(wrong), right], seen, teapot);
    vec![
        row(
            "targetRefs[].group",
            "group: weft.mesh, kind: Service, name: $SERVICE",
            &fault("group: '', kind: Service, name: $SERVICE"),
        )
        .refused("spec.targetRefs[0]"),
        row("targetRefs[].kind", "kind: Workload, name: $SERVICE", &right).refused("spec.targetRefs[0].kind"),
        row("targetRefs[].name", "kind: Service, name: one", &right),
        row(
            "targetRefs[].sectionName",
            "kind: Service, name: $SERVICE, sectionName: other",
            &fault("kind: Service, name: $SERVICE, sectionName: main"),
        ),
    ]
}

fn timeouts() -> Vec<Row> {
    let late = |side: &Side<'_>| told(&side.call("POST", "/wait/1500", &[]));
    let echo = Scene { protocol: "tcp", ..scene(&[end("a", Speaks::Echo)]) };
    vec![
        row(
            "timeouts.request",
            one(),
            ["timeouts: {}", "timeouts: {request: 200ms}"],
            ["200", "504 request-timeout"],
            late,
        ),
        row(
            "timeouts.backendRequest",
            one(),
            ["timeouts: {}", "timeouts: {backendRequest: 200ms}"],
            ["200", "504 try-timeout"],
            late,
        ),
        row("timeouts.idle", one(), ["timeouts: {}", "timeouts: {idle: 200ms}"], ["200", "504 idle-timeout"], late),
        // Which of two deadlines is over first: that of the connection is a second unless it is said.
        row(
            "timeouts.connect",
            silent(),
            [
                "retry: {attempts: 0}, timeouts: {request: 900ms}",
                "retry: {attempts: 0}, timeouts: {request: 900ms, connect: 50ms}",
            ],
            ["504 request-timeout", "504 connect-timeout"],
            |side| told(&side.get("/")),
        ),
        row("timeouts.tcpIdle", echo, ["timeouts: {}", "timeouts: {tcpIdle: 200ms}"], ["open", "closed"], |side| {
            let mut stream = side.caller().connect(&format!("{}.{}:80", side.service, side.namespace));
            let mut room = [0; 16];
            stream.write_all(b"a").unwrap();
            assert_eq!(stream.read(&mut room).unwrap(), 1, "the echo");
            stream.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
            match stream.read(&mut room) {
                Err(error) if matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut) => {
                    stream.write_all(b"b").unwrap();
                    stream.set_read_timeout(Some(weft_integration::rig::DEADLINE)).unwrap();
                    assert_eq!(stream.read(&mut room).unwrap(), 1, "the echo after a silence");
                    "open".to_owned()
                }
                Ok(1..) => panic!("an echo of nothing"),
                Ok(0) | Err(_) => "closed".to_owned(),
            }
        }),
    ]
}

/// How often one call reaches its service.
fn tries(method: &'static str, path: &'static str, headers: &'static [&'static str]) -> impl Fn(&Side<'_>) -> String {
    move |side| {
        side.call(method, path, headers);
        format!("tried {}×", side.calls())
    }
}

fn retries() -> Vec<Row> {
    let seen = ["tried 1×", "tried 3×"];
    let failing = |count: usize| {
        move |side: &Side<'_>| {
            (0..count).for_each(|_| assert_eq!(side.get("/status/503").status, 503));
            if side.calls() > count { "some again" } else { "none again" }.to_owned()
        }
    };
    vec![
        row(
            "retry.attempts",
            one(),
            ["retry: {}", "retry: {attempts: 0}"],
            ["tried 3×", "tried 1×"],
            tries("GET", "/status/503", &[]),
        ),
        row("retry.codes[]", one(), ["retry: {}", "retry: {codes: [429]}"], seen, tries("GET", "/status/429", &[])),
        row(
            "retry.methods[]",
            one(),
            ["retry: {}", "retry: {methods: [POST]}"],
            seen,
            tries("POST", "/status/503", &[]),
        ),
        row(
            "retry.grpcCodes[]",
            grpc(),
            ["retry: {}", "retry: {grpcCodes: [8]}"],
            seen,
            tries("POST", "/grpc/8", GRPC_CALL),
        ),
        row(
            "retry.backoff",
            one(),
            [
                "retry: {attempts: 1}, retryBudget: {percent: 100}",
                "retry: {attempts: 1, backoff: 3s}, retryBudget: {percent: 100}",
            ],
            ["soon", "late"],
            // The wait is anything up to the backoff: of sixteen most are longer than a tenth of it.
            |side| {
                let paths: Vec<String> = (0..16).map(|i| format!("/status/503/{i}")).collect();
                std::thread::scope(|scope| paths.iter().for_each(|path| drop(scope.spawn(|| side.get(path)))));
                let waited = |path: &String| match side.app("a").times_of(path)[..] {
                    [first, second] => second - first,
                    ref other => panic!("{path} was tried {}×", other.len()),
                };
                let late = paths.iter().map(waited).filter(|waited| *waited > Duration::from_millis(300)).count();
                if late > 8 { "late" } else { "soon" }.to_owned()
            },
        ),
        row(
            "retryBudget.percent",
            one(),
            ["retryBudget: {minPerSecond: 0}", "retryBudget: {minPerSecond: 0, percent: 0}"],
            ["some again", "none again"],
            failing(10),
        ),
        row(
            "retryBudget.minPerSecond",
            one(),
            ["retryBudget: {percent: 0}", "retryBudget: {percent: 0, minPerSecond: 0}"],
            ["some again", "none again"],
            failing(1),
        ),
        row(
            "retryBudget.window",
            one(),
            ["retryBudget: {minPerSecond: 0}", "retryBudget: {minPerSecond: 0, window: 1s}"],
            ["some again", "none again"],
            // A fifth of what went well may be tried again, for as long as it is in the window.
            |side| {
                (0..20).for_each(|_| assert_eq!(side.get("/").status, 200));
                side.get("/wait/1600");
                side.get("/status/503");
                if side.calls() > 22 { "some again" } else { "none again" }.to_owned()
            },
        ),
        row(
            "hedging.percentile",
            two(),
            ["hedging: {}", "hedging: {percentile: 50}"],
            ["sent once", "sent twice"],
            // More than half are fast, and more than one in twenty is slow.
            |side| {
                (0..14).for_each(|_| drop(side.get("/")));
                side.get_at_once(10, "/wait/1500");
                sent(side, "/wait/800")
            },
        ),
        row(
            "hedging.minDelay",
            two(),
            ["hedging: {}", "hedging: {minDelay: 30s}"],
            ["sent twice", "sent once"],
            |side| {
                (0..24).for_each(|_| drop(side.get("/")));
                sent(side, "/wait/800")
            },
        ),
    ]
}

/// How often a call is sent that its service answers well.
fn sent(side: &Side<'_>, path: &str) -> String {
    let before = side.calls();
    assert_eq!(side.get(path).status, 200);
    match side.calls() - before {
        1 => "sent once".to_owned(),
        2 => "sent twice".to_owned(),
        count => format!("sent {count}×"),
    }
}

/// What a call gets while as many others are under way.
fn beside(count: usize) -> impl Fn(&Side<'_>) -> String {
    move |side| {
        let app = side.app("a");
        std::thread::scope(|scope| {
            for _ in 0..count {
                scope.spawn(|| side.get("/hold"));
            }
            app.wait_for_calls(count);
            let seen = told(&side.get("/"));
            app.release();
            seen
        })
    }
}

fn limits() -> Vec<Row> {
    let seen = ["200", "503 overflow"];
    vec![
        row(
            "connectionLimits.maxConnections",
            one(),
            ["connectionLimits: {}", "connectionLimits: {maxConnections: 1}"],
            seen,
            beside(1),
        ),
        row(
            "connectionLimits.maxRequests",
            one(),
            ["connectionLimits: {}", "connectionLimits: {maxRequests: 1}"],
            seen,
            beside(1),
        ),
        row(
            "connectionLimits.maxPendingRequests",
            silent(),
            [
                "retry: {attempts: 0}, timeouts: {connect: 3s}, connectionLimits: {}",
                "retry: {attempts: 0}, timeouts: {connect: 3s}, connectionLimits: {maxPendingRequests: 1}",
            ],
            ["504 connect-timeout", "503 overflow"],
            |side| {
                std::thread::scope(|scope| {
                    scope.spawn(|| side.get("/"));
                    side.app("a").wait_for_connections(1);
                    told(&side.get("/"))
                })
            },
        ),
        // The limit begins at 16, of which calls that say nothing of their importance may use four fifths.
        row(
            "adaptiveConcurrency.minRequests",
            gated(),
            [
                "retry: {attempts: 0}, adaptiveConcurrency: {}",
                "retry: {attempts: 0}, adaptiveConcurrency: {minRequests: 100}",
            ],
            ["some are shed", "all go on"],
            |side| {
                let app = side.app("a");
                std::thread::scope(|scope| {
                    let calls: Vec<_> = (0..30).map(|_| scope.spawn(|| side.get("/hold").status)).collect();
                    weft_integration::rig::wait_for("every call is shed or waits", || {
                        let shed = calls.iter().filter(|call| call.is_finished()).count();
                        let all = shed + app.calls();
                        if all == 30 { Ok(()) } else { Err(format!("{all} calls")) }
                    });
                    app.release();
                    let shed =
                        calls.into_iter().filter_map(|call| call.join().ok()).filter(|status| *status == 503).count();
                    if shed > 0 { "some are shed" } else { "all go on" }.to_owned()
                })
            },
        ),
        row(
            "adaptiveConcurrency.maxRequests",
            gated(),
            [
                "retry: {attempts: 0}, adaptiveConcurrency: {minRequests: 1}",
                "retry: {attempts: 0}, adaptiveConcurrency: {minRequests: 1, maxRequests: 1}",
            ],
            seen,
            beside(1),
        ),
    ]
}
