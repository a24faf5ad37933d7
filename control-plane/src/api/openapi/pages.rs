//! The description of the pages under `/weft/v1` about what the mesh does: one document of its own, `weft/v1`, beside those of the groups.

use super::{STATUS, reference, status};
use serde_json::{Map, Value, json};

/// Its path in the index.
pub(super) const PATH: &str = "weft/v1";

/// The document.
pub(super) fn document() -> Value {
    let mut schemas = Map::new();
    schemas.insert(STATUS.into(), status());
    for (name, schema) in [
        ("mesh.weft.pages.Row", row()),
        ("mesh.weft.pages.Breaker", breaker()),
        ("mesh.weft.pages.Stat", stat()),
        ("mesh.weft.pages.Series", series()),
        ("mesh.weft.pages.Problems", problems()),
        ("mesh.weft.pages.ControlPlane", control_plane()),
        ("mesh.weft.pages.Plan", plan()),
    ] {
        schemas.insert(name.into(), schema);
    }
    json!({
        "openapi": "3.0.0",
        "info": { "title": "Weft", "version": concat!("v", env!("CARGO_PKG_VERSION")) },
        "paths": paths(),
        "components": { "schemas": schemas },
    })
}

fn paths() -> Value {
    let about = parameter(
        "about",
        "What lines are about; service where it is not said.",
        &["service", "edge", "endpoint", "route"],
    );
    let text = |name: &str, description: &str| parameter(name, description, &[]);
    let window = text("window", "How far back, as 10s, 5m, 1h30m.");
    let namespace = text("namespace", "Only this namespace: then the right to see it is asked for there alone.");
    let service = text("service", "Only this service: NAME or NAMESPACE/NAME.");
    json!({
        "/weft/v1/stat": page("readStat", "Golden signals of services, edges, endpoints and routes over a window of an hour at most.",
            &[&window, &namespace, &service], "application/json", &reference("mesh.weft.pages.Stat")),
        "/weft/v1/series": page("readSeries", "What was measured over time: columns of one value a step. An hour is kept; longer windows, 30 days at most, are asked of a Prometheus where one is named.",
            &[&about, &window, &namespace, &service, &text("source", "Of edges: only this caller."), &text("endpoint", "Of endpoints: only this workload."), &text("route", "Of routes: only this one.")],
            "application/json", &reference("mesh.weft.pages.Series")),
        "/weft/v1/problems": page("readProblems", "What is not well, the worst first.",
            &[&namespace], "application/json", &reference("mesh.weft.pages.Problems")),
        "/weft/v1/live": page("followStat", "Server-sent events: `stat` every two seconds, whole at first and then what changed; `problems` and `fleet` when they change; `end` with the reason.",
            &[&window, &namespace, &service], "text/event-stream", &json!({ "type": "string" })),
        "/weft/v1/controlplane": page("readControlPlane", "The control plane itself: replicas, streams, how fast changes arrive, what sidecars refuse.",
            &[], "application/json", &reference("mesh.weft.pages.ControlPlane")),
        "/weft/v1/tap": page("followCalls", "Calls as they end, as server-sent events or, where `application/x-ndjson` is accepted, a line each: `begin`, `call`, `dropped`, and `end` with the reason.",
            &[&namespace, &service, &text("workload", "Only the sidecar of this workload tells."), &text("source", "Only calls of this caller."), &text("destination", "Only calls to this service."),
              &parameter("direction", "As this side of a sidecar sees them.", &["inbound", "outbound"]), &text("method", "Only this method."), &text("path", "Only this path; * is any text."),
              &text("status", "503, a class as 5xx, or error."), &text("reason", "As metrics label it, as denied."), &number("sample", "Part of the calls, more than 0 and 1 at most."),
              &number("limit", "End after so many calls."), &number("perSecond", "So many calls a second at most, up to 1,000; 100 where it is not said."), &number("seconds", "End after so long, up to 600.")],
            "text/event-stream", &json!({ "type": "string" })),
        "/weft/v1/plan": plans(&namespace),
    })
}

fn parameter(name: &str, description: &str, values: &[&str]) -> Value {
    let mut schema = json!({ "type": "string" });
    if !values.is_empty() {
        schema["enum"] = json!(values);
    }
    json!({ "name": name, "in": "query", "description": description, "schema": schema })
}

fn number(name: &str, description: &str) -> Value {
    json!({ "name": name, "in": "query", "description": description, "schema": { "type": "number" } })
}

fn plans(namespace: &Value) -> Value {
    let objects = json!({ "type": "object", "description": "An object, or a List of them." });
    json!({ "post": {
        "operationId": "planChange", "tags": ["weft"], "parameters": [namespace],
        "description": "What the objects would do to the calls of the last hour, were they applied. Nothing is written; the rights to apply them are needed.",
        "requestBody": { "required": true, "content": {
            "application/json": { "schema": objects }, "application/yaml": { "schema": { "type": "string" } },
        } },
        "responses": answers("application/json", &reference("mesh.weft.pages.Plan")),
    } })
}

fn answers(content: &str, answer: &Value) -> Value {
    json!({
        "200": { "description": "OK", "content": { content: { "schema": answer } } },
        "default": { "description": "Why it was not done", "content": { "application/json": { "schema": reference(STATUS) } } },
    })
}

fn page(id: &str, description: &str, parameters: &[&Value], content: &str, answer: &Value) -> Value {
    json!({ "get": {
        "operationId": id, "tags": ["weft"], "description": description, "parameters": parameters,
        "responses": answers(content, answer),
    } })
}

/// Properties with their descriptions, all required.
fn object(description: &str, properties: &[(&str, Value)]) -> Value {
    let names: Vec<&str> = properties.iter().map(|(name, _)| *name).collect();
    let all: Map<String, Value> = properties.iter().map(|(name, of)| ((*name).to_owned(), of.clone())).collect();
    json!({ "type": "object", "description": description, "properties": all, "required": names })
}

fn is(kind: &str, description: &str) -> Value {
    json!({ "type": kind, "description": description })
}

fn maybe(kind: &str, description: &str) -> Value {
    json!({ "type": kind, "description": description, "nullable": true })
}

fn many(of: Value, description: &str) -> Value {
    json!({ "type": "array", "items": of, "description": description })
}

fn rows(description: &str) -> Value {
    many(reference("mesh.weft.pages.Row"), description)
}

fn row() -> Value {
    let mut row = object(
        "What was measured of one thing.",
        &[
            ("service", is("string", "The destination, NAMESPACE/NAME.")),
            ("rps", is("number", "Calls a second, as applications saw them.")),
            ("calls", is("integer", "Calls in the window.")),
            ("failures", is("integer", "Those that failed, after retries.")),
            ("success", maybe("number", "Share of calls that succeeded, 0 to 1.")),
            ("successBeforeRetries", maybe("number", "Share of attempts that succeeded, 0 to 1.")),
            ("attempts", is("integer", "Attempts sent upstream.")),
            ("failedAttempts", is("integer", "Those that failed.")),
            ("retries", is("integer", "Attempts after the first.")),
            ("p50Ms", maybe("number", "Latency in milliseconds.")),
            ("p95Ms", maybe("number", "Latency in milliseconds.")),
            ("p99Ms", maybe("number", "Latency in milliseconds.")),
            ("mtls", maybe("number", "Share of calls over mutual TLS, 0 to 1, of those sent to a peer.")),
            ("unsent", is("integer", "Calls that were sent to no peer.")),
            ("tcpConnections", is("integer", "TCP connections opened.")),
            ("bytesSent", is("integer", "Towards the destination.")),
            ("bytesReceived", is("integer", "From it.")),
            ("openBreakers", is("integer", "Breakers of callers that are not closed.")),
            ("breakerOpenings", is("integer", "Times that they opened.")),
        ],
    );
    for (name, description) in [
        ("source", "The caller, of edges."),
        ("endpoint", "The workload, of endpoints."),
        ("route", "The route, of routes."),
    ] {
        row["properties"][name] = is("string", description);
    }
    for (name, description) in
        [("readyEndpoints", "Instances that get calls, of services."), ("endpoints", "All instances, of services.")]
    {
        row["properties"][name] = is("integer", description);
    }
    row
}

fn breaker() -> Value {
    object(
        "A breaker that is not closed, or ever was not.",
        &[
            ("sidecar", is("string", "Whose sidecar holds it.")),
            ("backend", is("string", "NAMESPACE/NAME:PORT")),
            ("endpoint", is("string", "The workload that it guards.")),
            ("state", json!({ "type": "string", "enum": ["closed", "open", "halfOpen"], "description": "Its state." })),
            ("opened", is("integer", "Times that it opened since that sidecar started.")),
        ],
    )
}

fn stat() -> Value {
    object(
        "Golden signals of a window.",
        &[
            ("windowSeconds", is("number", "Seconds that services and routes cover.")),
            ("detailSeconds", is("number", "Seconds that edges and endpoints cover.")),
            (
                "services",
                rows(
                    "By service: calls addressed to it, or given to it by a route of another; such a call stands under both.",
                ),
            ),
            ("edges", rows("By source and the service that answered.")),
            ("endpoints", rows("By endpoint.")),
            ("routes", rows("By the service that answered, and route.")),
            ("breakers", many(reference("mesh.weft.pages.Breaker"), "Those that sidecars list.")),
            ("dropped", is("integer", "Reports that were not kept because there were too many rows.")),
        ],
    )
}

fn series() -> Value {
    let column = |description: &str| many(json!({ "type": "number", "nullable": true }), description);
    let mut line = object(
        "Columns of one value a step; null: no data.",
        &[
            ("service", is("string", "The destination, NAMESPACE/NAME.")),
            ("rps", column("Calls a second.")),
            ("success", column("Share of calls that succeeded, 0 to 1.")),
            ("p50Ms", column("Latency in milliseconds.")),
            ("p95Ms", column("Latency in milliseconds.")),
            ("p99Ms", column("Latency in milliseconds.")),
            ("failures", column("Failed calls of the step, after retries.")),
            ("retries", column("Retries of the step.")),
        ],
    );
    for name in ["source", "endpoint", "route"] {
        line["properties"][name] = is("string", "Which, where lines are about it.");
    }
    object(
        "Lines over time.",
        &[
            ("stepSeconds", is("integer", "Seconds of a step.")),
            ("begins", is("integer", "When the first step began, seconds since the Unix epoch.")),
            ("from", json!({ "type": "string", "enum": ["memory", "prometheus"], "description": "Who remembered." })),
            ("items", many(line, "Most calls first.")),
            ("omitted", is("integer", "Lines that are not among them.")),
        ],
    )
}

fn problems() -> Value {
    let kinds = ["service", "edge", "sidecar", "policy", "certificate", "controlPlane"];
    let problem = object(
        "Something that is not well.",
        &[
            ("severity", json!({ "type": "string", "enum": ["error", "warning"], "description": "How bad it is." })),
            ("kind", json!({ "type": "string", "enum": kinds, "description": "What it is with." })),
            ("name", is("string", "Which.")),
            ("fact", is("string", "What is wrong.")),
            ("suffers", many(json!({ "type": "string" }), "Whose calls fail for it.")),
            ("since", maybe("integer", "Since when, seconds since the Unix epoch.")),
            ("hint", is("string", "What to do.")),
            ("command", is("string", "What shows more.")),
            ("docs", is("string", "Where the book speaks of it.")),
        ],
    );
    object(
        "What is not well, the worst first.",
        &[("items", many(problem, "Problems.")), ("omitted", is("integer", "Those that are not among them."))],
    )
}

fn control_plane() -> Value {
    let replica = object(
        "One that shares the store.",
        &[
            ("name", maybe("string", "What the others know it by.")),
            ("address", maybe("string", "Its API.")),
            ("leader", is("boolean", "Whether it leads.")),
        ],
    );
    let arrived = object(
        "A change that every sidecar holds.",
        &[
            ("generation", is("integer", "Of the compilation.")),
            ("at", is("integer", "When it was offered, seconds since the Unix epoch.")),
            ("sidecars", is("integer", "That needed it.")),
            ("ms", is("number", "Until the last of them held it.")),
        ],
    );
    let convergence = object(
        "How fast changes arrive.",
        &[
            ("p50Ms", maybe("number", "Half of the last ones.")),
            ("p99Ms", maybe("number", "Nearly all of them.")),
            ("last", many(arrived, "The last ones, the oldest first.")),
        ],
    );
    let refusal = object(
        "What a sidecar refuses.",
        &[
            ("workload", is("string", "Whose sidecar.")),
            ("resource", is("string", "What.")),
            ("error", is("string", "Why.")),
        ],
    );
    let whatever =
        |description: &str| json!({ "type": "object", "description": description, "additionalProperties": true });
    object(
        "The control plane itself.",
        &[
            ("version", is("string", "Its version.")),
            ("trustDomain", is("string", "Of the mesh.")),
            ("replicas", many(replica, "Those that share the store.")),
            ("streams", is("integer", "xDS streams since the start.")),
            ("connected", is("integer", "xDS streams now.")),
            ("waiting", is("integer", "Sidecars that do not hold the newest of what they need.")),
            ("generation", is("integer", "Of the compilation.")),
            ("resources", is("integer", "That are offered.")),
            ("convergence", convergence),
            ("refusals", many(refusal, "What sidecars refuse now.")),
            ("store", whatever("Where it keeps its objects.")),
            ("process", whatever("What it costs.")),
        ],
    )
}

fn plan() -> Value {
    let share = |description: &str| is("number", description);
    let kinds = ["denied", "allowed", "rerouted", "limited", "failing"];
    let change = object(
        "What would become of calls that are alike.",
        &[
            ("kind", json!({ "type": "string", "enum": kinds, "description": "How it differs." })),
            ("source", maybe("string", "The caller, NAMESPACE/NAME.")),
            ("destination", is("string", "The service that is called.")),
            ("method", maybe("string", "Of the calls.")),
            ("path", maybe("string", "Template of their path.")),
            ("calls", is("integer", "How many of the last hour's.")),
            ("rps", is("number", "Calls a second while they came.")),
            ("share", share("Part of the edge's calls, 0 to 1.")),
            ("before", is("string", "What becomes of them now.")),
            ("after", is("string", "What would.")),
            ("policy", maybe("string", "The policy or route that decides.")),
        ],
    );
    let edge = object(
        "The calls of one caller to one service.",
        &[
            ("source", maybe("string", "The caller, NAMESPACE/NAME.")),
            ("destination", is("string", "The service.")),
            ("calls", is("integer", "Of the last hour.")),
            ("deniedShare", share("Part that would be denied and is not.")),
            ("reroutedShare", share("Part that would go elsewhere.")),
            ("limitedShare", share("Part that a rate limit would refuse and does not.")),
            ("allowedShare", share("Part that would be admitted and is not.")),
            ("failingShare", share("Part that would fail and does not.")),
        ],
    );
    let one = object(
        "One of the objects.",
        &[
            ("kind", is("string", "Its kind.")),
            ("name", is("string", "NAMESPACE/NAME, or the name alone.")),
            (
                "change",
                json!({ "type": "string", "nullable": true, "enum": ["created", "configured", "unchanged", null], "description": "What applying it would do to it; null: it would be refused." }),
            ),
            ("problems", many(json!({ "type": "string" }), "What would be held against it.")),
        ],
    );
    object(
        "A forecast.",
        &[
            ("windowSeconds", is("integer", "How far back the calls go.")),
            ("calls", is("integer", "Calls that were judged.")),
            ("changes", many(change, "What would become of them, most calls first.")),
            ("omitted", is("integer", "Changes that are not listed.")),
            ("edges", many(edge, "By caller and service, most calls first.")),
            ("wouldDeny", is("boolean", "Whether any call would be denied that is not.")),
            ("unknown", many(json!({ "type": "string" }), "What could not be judged.")),
            ("objects", many(one, "What would become of the objects.")),
        ],
    )
}

#[cfg(test)]
mod tests {
    use super::super::{group, index};
    use super::*;

    #[test]
    fn every_page_is_described_and_every_reference_leads_somewhere() {
        assert!(index()["paths"][PATH].is_object());
        let text = group(PATH).ok().unwrap();
        let document: Value = serde_json::from_str(text).unwrap();
        for page in ["stat", "series", "problems", "live", "controlplane", "tap"] {
            assert!(document["paths"][format!("/weft/v1/{page}")]["get"]["operationId"].is_string(), "{page}");
        }
        assert!(document["paths"]["/weft/v1/plan"]["post"]["operationId"].is_string());
        let schemas = document["components"]["schemas"].as_object().unwrap();
        for reference in text.split("#/components/schemas/").skip(1) {
            let name = reference.split('"').next().unwrap();
            assert!(schemas.contains_key(name), "{name}");
        }
    }
}
