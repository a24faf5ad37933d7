//! Rows whose endpoints differ: who is picked, who is ejected, and what health checks find.

use crate::app::{Asked, Said, Script, Speaks, obeys, status};
use crate::table::{End, NEAR, Row, Scene, Side, end, row, scene};
use std::collections::BTreeSet;
use std::time::Duration;
use weft_integration::rig::wait_for;

/// Calls that show who gets any.
const ROUND: usize = 10;

const A: End = end("a", Speaks::Http(obeys));

/// `a`, which is well, and another.
fn with_b(script: Script) -> Scene {
    scene(&[A, end("b", Speaks::Http(script))])
}

fn slow() -> Scene {
    with_b(|_: &Asked<'_>| Said { after: Duration::from_millis(60), ..status(200) })
}

fn trio() -> Scene {
    scene(&[A, end("b", Speaks::Http(obeys)), end("c", Speaks::Http(obeys))])
}

fn zones() -> Scene {
    scene(&[End { zone: NEAR, ..A }, End { name: "b", speaks: Speaks::Http(obeys), zone: "elsewhere", late: false }])
}

fn growing() -> Scene {
    scene(&[A, End { name: "b", speaks: Speaks::Http(obeys), zone: "", late: true }])
}

/// Whom calls reach that differ in this.
fn spread(differs: fn(usize) -> String) -> impl Fn(&Side<'_>) -> String {
    move |side| {
        let who = |user: usize| -> BTreeSet<String> {
            let call = || side.call("GET", "/", &[&differs(user)]);
            (0..5).map(|_| call().header("x-app").expect("an application answers").to_owned()).collect()
        };
        let of_users: Vec<BTreeSet<String>> = (0..12).map(who).collect();
        let all: BTreeSet<&String> = of_users.iter().flatten().collect();
        match (of_users.iter().all(|of_user| of_user.len() == 1), all.len()) {
            (true, 1) => "all to one",
            (true, _) => "each to its own",
            (false, _) => "any to any",
        }
        .to_owned()
    }
}

pub fn balancing() -> Vec<Row> {
    let user = |user: usize| format!("x-user: {user}");
    let session = |user: usize| format!("cookie: a=b; sid={user}");
    vec![
        row(
            "loadBalancer.policy",
            slow(),
            ["loadBalancer: {}", "loadBalancer: {policy: RoundRobin}"],
            ["the slow one gets fewer", "each gets as many"],
            |side| {
                (0..20).for_each(|_| drop(side.get("/")));
                match (side.app("a").calls(), side.app("b").calls()) {
                    (10, 10) => "each gets as many".to_owned(),
                    (a, b) if a > 2 * b => "the slow one gets fewer".to_owned(),
                    other => format!("{other:?}"),
                }
            },
        ),
        row(
            "loadBalancer.hash[].header",
            trio(),
            [
                "loadBalancer: {policy: Maglev, hash: [{sourceAddress: true}]}",
                "loadBalancer: {policy: Maglev, hash: [{header: x-user}, {sourceAddress: true}]}",
            ],
            ["all to one", "each to its own"],
            spread(user),
        ),
        row(
            "loadBalancer.hash[].cookie",
            trio(),
            [
                "loadBalancer: {policy: RingHash, hash: [{sourceAddress: true}]}",
                "loadBalancer: {policy: RingHash, hash: [{cookie: sid}, {sourceAddress: true}]}",
            ],
            ["all to one", "each to its own"],
            spread(session),
        ),
        row(
            "loadBalancer.hash[].sourceAddress",
            trio(),
            [
                "loadBalancer: {policy: Maglev, hash: [{cookie: sid}]}",
                "loadBalancer: {policy: Maglev, hash: [{cookie: sid}, {sourceAddress: true}]}",
            ],
            ["any to any", "all to one"],
            spread(user),
        ),
        row(
            "loadBalancer.ignoreLocality",
            zones(),
            ["loadBalancer: {policy: RoundRobin}", "loadBalancer: {policy: RoundRobin, ignoreLocality: true}"],
            ["b gets none", "b gets some"],
            |side| round(side).to_owned(),
        ),
        row(
            "loadBalancer.slowStart",
            growing(),
            ["loadBalancer: {policy: RoundRobin}", "loadBalancer: {policy: RoundRobin, slowStart: 1h}"],
            ["as many as others", "fewer than others"],
            |side| {
                assert_eq!(side.get("/").status, 200);
                side.join("b");
                wait_for("who is new gets a call", || match side.get("/").header("x-app") {
                    Some("b") => Ok(()),
                    other => Err(format!("{other:?}")),
                });
                let before = side.app("b").calls();
                (0..40).for_each(|_| drop(side.get("/")));
                match side.app("b").calls() - before {
                    19..=21 => "as many as others".to_owned(),
                    1..=8 => "fewer than others".to_owned(),
                    other => format!("{other} of 40"),
                }
            },
        ),
        row(
            "loadBalancer.panicPercent",
            scene(&[A, end("b", Speaks::Http(sick)), end("c", Speaks::Http(sick))]),
            [
                "loadBalancer: {policy: RoundRobin}, healthCheck: {http: {}, interval: 100ms}",
                "loadBalancer: {policy: RoundRobin, panicPercent: 0}, healthCheck: {http: {}, interval: 100ms}",
            ],
            ["b gets some", "b gets none"],
            |side| {
                side.get("/");
                ["b", "c"].iter().for_each(|name| side.app(name).wait_for_probes(5));
                settled(side)
            },
        ),
    ]
}

/// Whether `b` gets any of the next calls.
fn round(side: &Side<'_>) -> &'static str {
    let before = side.app("b").calls();
    (0..ROUND).for_each(|_| drop(side.get("/")));
    if side.app("b").calls() > before { "b gets some" } else { "b gets none" }
}

/// Whether `b` is out for good: a probe of `a` may be late for once on a busy machine, and then both are in.
fn settled(side: &Side<'_>) -> String {
    let rounds = (0..5).map(|_| round(side));
    if rounds.into_iter().any(|seen| seen == "b gets none") { "b gets none" } else { "b gets some" }.to_owned()
}

/// Calls `b` as often as this, and whoever else.
fn drive(side: &Side<'_>, count: usize) {
    let most = 20 * count + side.calls();
    while side.app("b").calls() < count {
        assert!(side.calls() < most, "b does not get {count} calls: {}", side.app("b").calls());
        side.get("/");
    }
}

fn fails(_: &Asked<'_>) -> Said {
    status(503)
}

/// Every other call.
fn flips(asked: &Asked<'_>) -> Said {
    if asked.path == "/" && asked.nth % 2 == 1 { status(503) } else { obeys(asked) }
}

pub fn breakers() -> Vec<Row> {
    const BASE: &str = "loadBalancer: {policy: RoundRobin}, retry: {attempts: 0}, circuitBreaker: ";
    fn failing() -> Scene {
        with_b(fails)
    }
    fn flipping() -> Scene {
        with_b(flips)
    }
    let seen = ["b gets some", "b gets none"];
    let after = |count: usize| {
        move |side: &Side<'_>| {
            drive(side, count);
            round(side).to_owned()
        }
    };
    let row = |field, scene, [without, with]: [&str; 2], seen, look: Box<dyn Fn(&Side<'_>) -> String + Send + Sync>| {
        let specs = [without, with].map(|breaker| format!("{BASE}{{{breaker}}}"));
        row(field, scene, [&specs[0], &specs[1]], seen, look)
    };
    vec![
        row(
            "circuitBreaker.disabled",
            failing(),
            ["baseOpen: 1m, consecutiveFailures: 2", "baseOpen: 1m, consecutiveFailures: 2, disabled: true"],
            ["b gets none", "b gets some"],
            Box::new(after(2)),
        ),
        row(
            "circuitBreaker.consecutiveFailures",
            failing(),
            ["baseOpen: 1m", "baseOpen: 1m, consecutiveFailures: 2"],
            seen,
            Box::new(after(2)),
        ),
        row(
            "circuitBreaker.successPercent",
            flipping(),
            ["baseOpen: 1m", "baseOpen: 1m, successPercent: 0"],
            ["b gets none", "b gets some"],
            Box::new(after(21)),
        ),
        row(
            "circuitBreaker.minimumCalls",
            flipping(),
            ["baseOpen: 1m", "baseOpen: 1m, minimumCalls: 4"],
            seen,
            Box::new(after(5)),
        ),
        row(
            "circuitBreaker.window",
            flipping(),
            ["baseOpen: 1m, minimumCalls: 12", "baseOpen: 1m, minimumCalls: 12, window: 1s"],
            ["b gets none", "b gets some"],
            // Twelve calls, but not within a second.
            Box::new(|side| {
                drive(side, 7);
                side.get("/wait/1500");
                drive(side, 13);
                round(side).to_owned()
            }),
        ),
        row(
            "circuitBreaker.baseOpen",
            failing(),
            ["consecutiveFailures: 2", "consecutiveFailures: 2, baseOpen: 1m"],
            seen,
            Box::new(|side| {
                drive(side, 2);
                // As long as it is open unless something else is said, and more.
                side.get("/wait/2000");
                round(side).to_owned()
            }),
        ),
        row(
            "circuitBreaker.maxOpen",
            failing(),
            ["consecutiveFailures: 1, baseOpen: 100ms", "consecutiveFailures: 1, baseOpen: 100ms, maxOpen: 100ms"],
            ["longer each time", "as long each time"],
            Box::new(|side| {
                wait_for("b is tried again and again", || {
                    side.get("/wait/10");
                    if side.app("b").calls() > 5 { Ok(()) } else { Err(format!("{} calls", side.app("b").calls())) }
                });
                let at = side.app("b").times();
                if at[5] - at[4] > 5 * (at[1] - at[0]) { "longer each time" } else { "as long each time" }.to_owned()
            }),
        ),
    ]
}

/// Fails its health checks, and no call.
fn sick(asked: &Asked<'_>) -> Said {
    if asked.probe { status(500) } else { obeys(asked) }
}

fn sick_at_well(asked: &Asked<'_>) -> Said {
    if asked.probe && asked.path == "/well" { status(500) } else { obeys(asked) }
}

fn sick_as_somebody(asked: &Asked<'_>) -> Said {
    if asked.probe && asked.host == "somebody.example" { status(500) } else { obeys(asked) }
}

fn empty(asked: &Asked<'_>) -> Said {
    if asked.probe { status(204) } else { obeys(asked) }
}

/// Answers health checks late.
fn late(asked: &Asked<'_>) -> Said {
    if asked.probe { Said { after: Duration::from_millis(400), ..status(200) } } else { obeys(asked) }
}

/// Is sick when it begins.
fn recovers(asked: &Asked<'_>) -> Said {
    if asked.probe && asked.nth <= 3 { status(500) } else { obeys(asked) }
}

pub fn health_checks() -> Vec<Row> {
    fn grpc() -> Scene {
        Scene {
            protocol: "grpc",
            ..scene(&[end("a", Speaks::Grpc(obeys, true)), end("b", Speaks::Grpc(obeys, false))])
        }
    }
    let seen = ["b gets some", "b gets none"];
    let checked = |count: usize| {
        move |side: &Side<'_>| {
            side.get("/");
            side.app("b").wait_for_probes(count);
            settled(side)
        }
    };
    let row = |field, scene, [without, with]: [&str; 2], seen, look: Box<dyn Fn(&Side<'_>) -> String + Send + Sync>| {
        let specs =
            [without, with].map(|check| format!("loadBalancer: {{policy: RoundRobin}}, healthCheck: {{{check}}}"));
        row(field, scene, [&specs[0], &specs[1]], seen, look)
    };
    vec![
        row(
            "healthCheck.http.path",
            with_b(sick_at_well),
            ["interval: 100ms, http: {}", "interval: 100ms, http: {path: /well}"],
            seen,
            Box::new(checked(5)),
        ),
        row(
            "healthCheck.http.host",
            with_b(sick_as_somebody),
            ["interval: 100ms, http: {}", "interval: 100ms, http: {host: somebody.example}"],
            seen,
            Box::new(checked(5)),
        ),
        row(
            "healthCheck.http.statuses[]",
            with_b(empty),
            ["interval: 100ms, http: {}", "interval: 100ms, http: {statuses: [200]}"],
            seen,
            Box::new(checked(5)),
        ),
        row(
            "healthCheck.grpc.service",
            grpc(),
            ["interval: 100ms, grpc: {}", "interval: 100ms, grpc: {service: shop.Catalog}"],
            seen,
            Box::new(checked(5)),
        ),
        row(
            "healthCheck.tcp",
            scene(&[A, end("b", Speaks::Goodbye)]),
            ["interval: 100ms, http: {}", "interval: 100ms, tcp: {}"],
            ["every call is answered", "some calls are not"],
            // Who accepts connections and says nothing is well enough for TCP.
            Box::new(|side| {
                side.call("POST", "/", &[]);
                side.app("b").wait_for_connections(6);
                let well = || (0..ROUND).all(|_| side.call("POST", "/", &[]).status == 200);
                if (0..5).any(|_| well()) { "every call is answered" } else { "some calls are not" }.to_owned()
            }),
        ),
        row(
            "healthCheck.interval",
            scene(&[A]),
            ["http: {}", "http: {}, interval: 100ms"],
            ["now and then", "often"],
            Box::new(|side| {
                side.get("/wait/2500");
                match side.app("a").probes() {
                    ..=2 => "now and then".to_owned(),
                    5.. => "often".to_owned(),
                    other => format!("{other} times in 2.5 s"),
                }
            }),
        ),
        row(
            "healthCheck.timeout",
            with_b(late),
            // A probe has time until the next one, unless something else is said.
            ["interval: 800ms, http: {}", "interval: 800ms, http: {}, timeout: 150ms"],
            seen,
            Box::new(checked(5)),
        ),
        row(
            "healthCheck.healthyThreshold",
            with_b(recovers),
            [
                "interval: 100ms, unhealthyThreshold: 1, http: {}",
                "interval: 100ms, unhealthyThreshold: 1, http: {}, healthyThreshold: 100",
            ],
            seen,
            Box::new(checked(10)),
        ),
        row(
            "healthCheck.unhealthyThreshold",
            with_b(sick),
            ["interval: 100ms, http: {}", "interval: 100ms, http: {}, unhealthyThreshold: 100"],
            ["b gets none", "b gets some"],
            Box::new(checked(6)),
        ),
    ]
}
