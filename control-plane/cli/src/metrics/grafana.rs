//! A dashboard of Grafana: the golden signals of services and edges, and what the mesh itself is up to.

use super::{control_quantile, failures, quantile, rate};
use serde_json::{Value, json};
use weft_proto::metrics::{
    AUTHZ, BREAKER_STATE, CERTIFICATE_EXPIRY, CONNECTIONS, CONTROL_API_DURATION, CONTROL_API_REQUESTS, CONTROL_COMPILE,
    CONTROL_CONVERGENCE, CONTROL_LAG, CONTROL_STORE, CONTROL_STORE_ERRORS, CONTROL_STREAMS, CONTROL_WAITING,
    CONTROL_XDS_REFUSALS, CONTROL_XDS_RESOURCES, Family, HANDSHAKES, LINES_DROPPED, OVERFLOW, REFUSED, RENEWALS,
    REQUEST_BYTES, REQUESTS, RESPONSE_BYTES, RETRIES, RETRIES_DENIED, SERIES, SPANS_DROPPED, SPANS_EXPORTED,
    TCP_OPENED, TCP_RECEIVED, TCP_SENT, XDS_CONNECTED, XDS_REFUSED,
};

/// Columns of Grafana's grid.
const WIDTH: usize = 24;
const PANEL: (usize, usize) = (8, 8);

/// One diagram: title, unit, and expressions with what their lines are called.
type Panel = (&'static str, &'static str, Vec<(String, &'static str)>);

/// The dashboard, as Grafana imports it.
pub(super) fn document() -> Value {
    let mut panels = Vec::new();
    let mut top = 0;
    for (title, of_row) in rows() {
        panels.push(json!({
            "id": panels.len() + 1, "type": "row", "title": title, "collapsed": false,
            "gridPos": {"x": 0, "y": top, "w": WIDTH, "h": 1},
        }));
        top += 1;
        let in_line = WIDTH / PANEL.0;
        for (nth, (title, unit, targets)) in of_row.iter().enumerate() {
            let place = (nth % in_line * PANEL.0, top + nth / in_line * PANEL.1);
            panels.push(panel(panels.len() + 1, place, title, unit, targets));
        }
        top += of_row.len().div_ceil(in_line) * PANEL.1;
    }
    json!({
        "uid": "weft-mesh",
        "title": "Weft",
        "tags": ["weft"],
        "schemaVersion": 39,
        "editable": true,
        "refresh": "10s",
        "time": {"from": "now-30m", "to": "now"},
        "templating": {"list": [
            {"name": "datasource", "type": "datasource", "query": "prometheus", "label": "Prometheus"},
            {
                "name": "service", "type": "query", "label": "Service", "multi": true, "includeAll": true, "allValue": ".*",
                "datasource": {"type": "prometheus", "uid": "${datasource}"},
                "query": format!("label_values({}, destination)", REQUESTS.name),
                "refresh": 2, "sort": 1, "current": {"text": "All", "value": "$__all"},
            },
        ]},
        "panels": panels,
    })
}

fn panel(id: usize, (x, y): (usize, usize), title: &str, unit: &str, targets: &[(String, &str)]) -> Value {
    let datasource = json!({"type": "prometheus", "uid": "${datasource}"});
    let letters = ('A'..='Z').map(String::from);
    let target = |((expression, legend), letter): (&(String, &str), String)| json!({"refId": letter, "expr": expression, "legendFormat": legend, "datasource": datasource, "exemplar": unit == "s"});
    json!({
        "id": id,
        "type": "timeseries",
        "title": title,
        "datasource": datasource,
        "gridPos": {"x": x, "y": y, "w": PANEL.0, "h": PANEL.1},
        "fieldConfig": {"defaults": {"unit": unit, "min": 0}, "overrides": []},
        "options": {"legend": {"displayMode": "list", "placement": "bottom"}, "tooltip": {"mode": "multi", "sort": "desc"}},
        "targets": targets.iter().zip(letters).map(target).collect::<Vec<_>>(),
    })
}

fn rows() -> Vec<(&'static str, Vec<Panel>)> {
    let of = "destination=~\"$service\"";
    let outbound = format!("direction=\"outbound\",{of}");
    let inbound = format!("direction=\"inbound\",{of}");
    let by = |labels: &str, expression: String| format!("sum by ({labels}) ({expression})");
    let total = by("destination", rate(&REQUESTS, &outbound));
    let failed = by("destination", failures("outbound", &format!(",{of}")));
    let of_edge = by("source, destination", failures("outbound", &format!(",{of}")));
    let of_quantile = |share| quantile(share, "destination", &format!(",{of}"));
    vec![
        (
            "Services",
            vec![
                ("Calls", "reqps", vec![(total.clone(), "{{destination}}")]),
                (
                    "Success",
                    "percentunit",
                    vec![(format!("1 - ({failed} or 0 * {total}) / ({total} > 0)"), "{{destination}}")],
                ),
                (
                    "Latency",
                    "s",
                    vec![
                        (of_quantile("0.5"), "{{destination}} p50"),
                        (of_quantile("0.95"), "{{destination}} p95"),
                        (of_quantile("0.99"), "{{destination}} p99"),
                    ],
                ),
                (
                    "Answers",
                    "reqps",
                    vec![(
                        by("destination, code, grpc_code", rate(&REQUESTS, &inbound)),
                        "{{destination}} {{code}} {{grpc_code}}",
                    )],
                ),
                (
                    "Reasons",
                    "reqps",
                    vec![(
                        by("destination, reason", rate(&REQUESTS, &format!("{outbound},reason!=\"\""))),
                        "{{destination}} {{reason}}",
                    )],
                ),
                (
                    "Mutual TLS",
                    "percentunit",
                    vec![(
                        format!(
                            "{} / ({} > 0)",
                            by("destination", rate(&REQUESTS, &format!("{outbound},tls=\"mutual\""))),
                            by("destination", rate(&REQUESTS, &format!("{outbound},tls!=\"\"")))
                        ),
                        "{{destination}}",
                    )],
                ),
            ],
        ),
        (
            "Edges",
            vec![
                (
                    "Calls",
                    "reqps",
                    vec![(by("source, destination", rate(&REQUESTS, &outbound)), "{{source}} → {{destination}}")],
                ),
                ("Failures", "reqps", vec![(of_edge, "{{source}} → {{destination}}")]),
                (
                    "Bodies",
                    "Bps",
                    vec![
                        (by("destination", rate(&REQUEST_BYTES, &outbound)), "to {{destination}}"),
                        (by("destination", rate(&RESPONSE_BYTES, &outbound)), "from {{destination}}"),
                    ],
                ),
                (
                    "Retries",
                    "reqps",
                    vec![
                        (by("destination, reason", rate(&RETRIES, of)), "{{destination}} {{reason}}"),
                        (by("destination, reason", rate(&RETRIES_DENIED, of)), "{{destination}} denied: {{reason}}"),
                    ],
                ),
                (
                    "Open breakers",
                    "short",
                    vec![(
                        format!("sum by (destination, endpoint) ({}{{{of}}} == 1)", BREAKER_STATE.name),
                        "{{endpoint}}",
                    )],
                ),
                (
                    "Authorization",
                    "reqps",
                    vec![(
                        by("destination, decision, policy", rate(&AUTHZ, of)),
                        "{{destination}} {{decision}} {{policy}}",
                    )],
                ),
            ],
        ),
        (
            "Connections",
            vec![
                ("Open", "short", vec![(by("direction, kind", CONNECTIONS.name.to_owned()), "{{direction}} {{kind}}")]),
                (
                    "Opaque",
                    "Bps",
                    vec![
                        (by("destination", rate(&TCP_RECEIVED, &outbound)), "to {{destination}}"),
                        (by("destination", rate(&TCP_SENT, &outbound)), "from {{destination}}"),
                    ],
                ),
                ("Opened", "cps", vec![(by("destination", rate(&TCP_OPENED, &outbound)), "{{destination}}")]),
                ("Refused", "cps", vec![(by("direction, reason", rate(&REFUSED, "")), "{{direction}} {{reason}}")]),
                ("Handshakes", "cps", vec![(by("result, group", rate(&HANDSHAKES, "")), "{{result}} {{group}}")]),
            ],
        ),
        (
            "The mesh itself",
            vec![
                (
                    "Certificates end in",
                    "s",
                    vec![(format!("min by (instance) ({} - time())", CERTIFICATE_EXPIRY.name), "{{instance}}")],
                ),
                (
                    "Renewals",
                    "short",
                    vec![(format!("sum by (result) (increase({}[1h]))", RENEWALS.name), "{{result}}")],
                ),
                (
                    "Sidecars",
                    "short",
                    vec![
                        (format!("sum({})", XDS_CONNECTED.name), "connected"),
                        (format!("count({} == 0)", XDS_CONNECTED.name), "without a control plane"),
                        (format!("count({} > 0)", XDS_REFUSED.name), "that refuse something"),
                    ],
                ),
                (
                    "Spans",
                    "ops",
                    vec![
                        (format!("sum({})", rate(&SPANS_EXPORTED, "")), "exported"),
                        (by("reason", rate(&SPANS_DROPPED, "")), "dropped: {{reason}}"),
                        (format!("sum({})", rate(&LINES_DROPPED, "")), "lines of the access log dropped"),
                    ],
                ),
                (
                    "Series",
                    "short",
                    vec![
                        (by("family", SERIES.name.to_owned()), "{{family}}"),
                        (format!("sum by (family) (increase({}[5m]) > 0)", OVERFLOW.name), "{{family}}: no room"),
                    ],
                ),
            ],
        ),
        ("The control plane", control_plane()),
    ]
}

fn control_plane() -> Vec<Panel> {
    let quantiles = |family: &Family| {
        let of = |share| control_quantile(share, family, "");
        vec![(of("0.5"), "p50"), (of("0.99"), "p99")]
    };
    vec![
        (
            "Streams",
            "short",
            vec![
                (format!("sum by (kind) ({})", CONTROL_STREAMS.name), "{{kind}}"),
                (format!("sum({})", CONTROL_WAITING.name), "sidecars that wait"),
            ],
        ),
        ("Lag", "s", vec![(format!("max by (instance) ({})", CONTROL_LAG.name), "{{instance}}")]),
        ("From a change to its last acknowledgement", "s", quantiles(&CONTROL_CONVERGENCE)),
        ("Compilations", "s", quantiles(&CONTROL_COMPILE)),
        (
            "Sent",
            "ops",
            vec![
                (format!("sum by (action) ({})", rate(&CONTROL_XDS_RESOURCES, "")), "{{action}}"),
                (format!("sum({})", rate(&CONTROL_XDS_REFUSALS, "")), "refused"),
            ],
        ),
        ("Store, p99", "s", vec![(control_quantile("0.99", &CONTROL_STORE, "operation, "), "{{operation}}")]),
        (
            "Store, errors",
            "ops",
            vec![(format!("sum by (operation, kind) ({})", rate(&CONTROL_STORE_ERRORS, "")), "{{operation}} {{kind}}")],
        ),
        (
            "Requests",
            "reqps",
            vec![(format!("sum by (verb, code) ({})", rate(&CONTROL_API_REQUESTS, "")), "{{verb}} {{code}}")],
        ),
        ("Requests, p99", "s", vec![(control_quantile("0.99", &CONTROL_API_DURATION, "verb, "), "{{verb}}")]),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn panels_do_not_overlap_and_have_ids_of_their_own() {
        let document = document();
        let panels = document["panels"].as_array().unwrap();
        let place = |panel: &Value| {
            let at = |name: &str| panel["gridPos"][name].as_u64().unwrap();
            (at("x"), at("y"), at("w"), at("h"))
        };
        for (nth, panel) in panels.iter().enumerate() {
            let (x, y, w, h) = place(panel);
            assert!(x + w <= WIDTH as u64, "{panel}");
            for other in &panels[..nth] {
                let (ox, oy, ow, oh) = place(other);
                assert!(x >= ox + ow || ox >= x + w || y >= oy + oh || oy >= y + h, "{panel} over {other}");
                assert_ne!(panel["id"], other["id"]);
            }
        }
    }
}
