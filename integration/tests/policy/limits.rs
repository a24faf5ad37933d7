//! RateLimitPolicy: which calls are counted, apart or together, and how many are admitted.

use crate::app::{Speaks, obeys};
use crate::matches::MATCHES;
use crate::table::{Row, Scene, Side, check, end, row, scene, told};

fn one() -> Scene {
    Scene { gated: true, ..scene(&[end("a", Speaks::Http(obeys))]) }
}

/// Two instances, with a sidecar each.
fn two() -> Scene {
    Scene { gated: true, in_turn: true, ..scene(&[end("a", Speaks::Http(obeys)), end("b", Speaks::Http(obeys))]) }
}

#[test]
fn every_field_of_a_rate_limit_policy_is_seen_by_callers() {
    let mut rows = targets();
    rows.extend(limits());
    rows.extend(MATCHES.into_iter().map(|matched| {
        let specs = matched.matches.map(|matching| limit(&format!("requests: 1, per: 1h, matches: [{matching}]")));
        let seen = matched.means.map(|meant| if meant { "429 rate-limited" } else { "200" });
        let call = matched.call;
        row(format!("limits[].matches[].{}", matched.field), one(), [&specs[0], &specs[1]], seen, move |side| {
            assert_eq!(call.to(side).status, 200);
            told(&call.to(side))
        })
    }));
    check("RateLimitPolicy", &rows);
}

fn limit(with: &str) -> String {
    format!("limits: [{{name: a, {with}}}]")
}

/// The second of two calls.
fn second(side: &Side<'_>) -> String {
    assert_eq!(side.get("/").status, 200);
    told(&side.get("/"))
}

fn targets() -> Vec<Row> {
    let seen = ["200", "429 rate-limited"];
    let spec = |target: &str| format!("targetRefs: [{{{target}}}], {}", limit("requests: 1, per: 1h"));
    let row = |field, wrong: &str, right: &str| row(field, one(), [&spec(wrong), &spec(right)], seen, second);
    let workload = "group: weft.mesh, kind: Workload, name: gate-1, sectionName: $PORT";
    let service = "kind: Service, name: $SERVICE";
    vec![
        row("targetRefs[].group", "kind: Workload, name: gate-1, sectionName: $PORT", workload)
            .refused("spec.targetRefs[0]"),
        row("targetRefs[].kind", "group: weft.mesh, kind: Service, name: gate-1, sectionName: $PORT", workload)
            .refused("spec.targetRefs[0]"),
        row("targetRefs[].name", "kind: Service, name: idle", service),
        row(
            "targetRefs[].sectionName",
            "kind: Service, name: $SERVICE, sectionName: other",
            "kind: Service, name: $SERVICE, sectionName: main",
        ),
    ]
}

/// How many of ten calls are admitted.
fn admitted(side: &Side<'_>) -> String {
    let admitted = (0..10).filter(|_| side.get("/").status == 200).count();
    format!("{admitted} of 10")
}

fn limits() -> Vec<Row> {
    let row = |field, scene, [without, with]: [&str; 2], seen, look: fn(&Side<'_>) -> String| {
        row(field, scene, [&limit(without), &limit(with)], seen, look)
    };
    vec![
        super::table::row(
            "limits[].name",
            one(),
            ["limits: [{name: a, requests: 5, per: 1h}]", "limits: [{name: b, requests: 5, per: 1h}]"],
            ["a", "b"],
            |side| {
                let answer = side.get("/");
                let field = answer.header("ratelimit").expect("answers say where their callers stand");
                let name = field.split('"').nth(1).expect("a name in quotes");
                let start = format!("{}/{}/", side.namespace, side.service);
                name.strip_prefix(&start).unwrap_or(name).to_owned()
            },
        ),
        row(
            "limits[].requests",
            one(),
            ["requests: 2, per: 1h", "requests: 4, per: 1h"],
            ["2 of 10", "4 of 10"],
            admitted,
        ),
        row(
            "limits[].per",
            one(),
            ["requests: 1, per: 1h", "requests: 1, per: 1s"],
            ["429 rate-limited", "200"],
            |side| {
                assert_eq!(side.get("/").status, 200);
                // Time passes by an application that nobody counts.
                side.caller().get("http://one.far/wait/1500");
                told(&side.get("/"))
            },
        ),
        row(
            "limits[].burst",
            one(),
            ["requests: 2, per: 1h", "requests: 2, per: 1h, burst: 4"],
            ["2 of 10", "4 of 10"],
            admitted,
        ),
        row(
            "limits[].scope",
            two(),
            ["requests: 8, per: 1h", "requests: 8, per: 1h, scope: Global"],
            ["each for itself", "all together"],
            |side| {
                let admitted = (0..60).filter(|_| side.get("/").status == 200).count();
                match admitted {
                    16 => "each for itself".to_owned(),
                    // What was admitted before the first lease is confessed and owed.
                    1..=12 => "all together".to_owned(),
                    other => format!("{other} of 60"),
                }
            },
        ),
        row(
            "limits[].keys[].identity",
            one(),
            ["requests: 1, per: 1h", "requests: 1, per: 1h, keys: [{identity: true}]"],
            ["429 rate-limited", "200"],
            |side| {
                assert_eq!(side.get("/").status, 200);
                told(&side.other_caller().get(&side.url("/")))
            },
        ),
        row(
            "limits[].keys[].header",
            one(),
            ["requests: 1, per: 1h", "requests: 1, per: 1h, keys: [{header: x-user}]"],
            ["429 rate-limited", "200"],
            |side| {
                assert_eq!(side.call("GET", "/", &["x-user: 1"]).status, 200);
                told(&side.call("GET", "/", &["x-user: 2"]))
            },
        ),
        row(
            "limits[].keys[].method",
            one(),
            ["requests: 1, per: 1h", "requests: 1, per: 1h, keys: [{method: true}]"],
            ["429 rate-limited", "200"],
            |side| {
                assert_eq!(side.get("/").status, 200);
                told(&side.call("POST", "/", &[]))
            },
        ),
    ]
}
