//! Failures that are made on purpose, and what stands in where nobody answers.

use super::{GRPC_CALL, grpc, one};
use crate::matches::MATCHES;
use crate::table::{Row, Scene, Side, row, scene, told};

/// Nobody, and other services beside it.
fn nobody() -> Scene {
    Scene { spares: true, ..scene(&[]) }
}

/// Nobody, and a fixed answer.
fn absent() -> Scene {
    scene(&[])
}

pub fn faults() -> Vec<Row> {
    // A delay beyond the call's own deadline ends with it.
    let delay = |with: &str| format!("timeouts: {{request: 1s}}, faults: [{{delay: {{{with}}}}}]");
    let abort = |with: &str| format!("faults: [{{abort: {{{with}}}}}]");
    let first = |side: &Side<'_>| told(&side.get("/"));
    // One in a hundred is not all of five, whatever is drawn.
    let five = |side: &Side<'_>| {
        let answers = side.get_at_once(5, "/");
        if answers.iter().all(|answer| answer.status >= 400) { "all" } else { "not all" }.to_owned()
    };
    let late = ["504 request-timeout", "200"];
    let mut rows = vec![
        row(
            "faults[].delay.fixed",
            one(),
            [&delay("fixed: 1ms"), &delay("fixed: 1h")],
            ["200", "504 request-timeout"],
            first,
        ),
        row("faults[].delay.percent", one(), [&delay("fixed: 1h"), &delay("fixed: 1h, percent: 0")], late, first),
        row(
            "faults[].delay.fraction.numerator",
            one(),
            [&delay("fixed: 1h, fraction: {numerator: 100}"), &delay("fixed: 1h, fraction: {numerator: 0}")],
            late,
            first,
        ),
        row(
            "faults[].delay.fraction.denominator",
            one(),
            [
                &delay("fixed: 1h, fraction: {numerator: 1}"),
                &delay("fixed: 1h, fraction: {numerator: 1, denominator: 1}"),
            ],
            ["not all", "all"],
            five,
        ),
        row(
            "faults[].abort.status",
            one(),
            [&abort("status: 500"), &abort("status: 418")],
            ["500 fault", "418 fault"],
            first,
        ),
        row(
            "faults[].abort.grpcStatus",
            grpc(),
            [&abort("status: 503"), &abort("status: 503, grpcStatus: 9")],
            ["14", "9"],
            |side| side.call("POST", "/", GRPC_CALL).header("grpc-status").unwrap_or("none").to_owned(),
        ),
        row(
            "faults[].abort.percent",
            one(),
            [&abort("status: 418"), &abort("status: 418, percent: 0")],
            ["418 fault", "200"],
            first,
        ),
        row(
            "faults[].abort.fraction.numerator",
            one(),
            [&abort("status: 418, fraction: {numerator: 100}"), &abort("status: 418, fraction: {numerator: 0}")],
            ["418 fault", "200"],
            first,
        ),
        row(
            "faults[].abort.fraction.denominator",
            one(),
            [
                &abort("status: 418, fraction: {numerator: 1}"),
                &abort("status: 418, fraction: {numerator: 1, denominator: 1}"),
            ],
            ["not all", "all"],
            five,
        ),
    ];
    rows.extend(MATCHES.into_iter().map(|matched| {
        let spec = |matching: &str| format!("faults: [{{abort: {{status: 418}}, matches: [{matching}]}}]");
        let specs = matched.matches.map(spec);
        let seen = matched.means.map(|meant| if meant { "418 fault" } else { "200" });
        let call = matched.call;
        row(format!("faults[].matches[].{}", matched.field), one(), [&specs[0], &specs[1]], seen, move |side| {
            told(&call.to(side))
        })
    }));
    rows
}

pub fn fallbacks() -> Vec<Row> {
    let backend = |to: &str| format!("fallback: {{backendRef: {{{to}}}}}");
    let who = |side: &Side<'_>| side.get("/").header("x-app").unwrap_or("nobody").to_owned();
    let response = |with: &str| format!("fallback: {{response: {{{with}}}}}");
    vec![
        row(
            "fallback.backendRef.name",
            nobody(),
            [&backend("name: one, port: 80"), &backend("name: two, port: 80")],
            ["one", "two"],
            who,
        ),
        row(
            "fallback.backendRef.namespace",
            nobody(),
            [&backend("name: one, port: 80"), &backend("name: one, namespace: far, port: 80")],
            ["one", "far"],
            who,
        ),
        row(
            "fallback.backendRef.port",
            nobody(),
            [&backend("name: one, port: 80"), &backend("name: one, port: 81")],
            ["one", "two"],
            who,
        ),
        row(
            "fallback.response.status",
            absent(),
            [&response("status: 200"), &response("status: 299")],
            ["200", "299"],
            |side| told(&side.get("/")),
        ),
        row(
            "fallback.response.contentType",
            absent(),
            [&response("status: 200"), &response("status: 200, contentType: application/json")],
            ["none", "application/json"],
            |side| side.get("/").header("content-type").unwrap_or("none").to_owned(),
        ),
        row(
            "fallback.response.body",
            absent(),
            [&response("status: 200"), &response("status: 200, body: later")],
            ["", "later"],
            |side| side.get("/").body,
        ),
    ]
}
