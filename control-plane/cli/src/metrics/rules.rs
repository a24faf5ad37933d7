//! Recording and alerting rules of Prometheus.

use super::{failures, quantile, rate};
use serde_json::{Value, json};
use weft_proto::metrics::{
    BREAKER_STATE, CERTIFICATE_EXPIRY, CONTROL_LAG, CONTROL_STORE_ERRORS, CONTROL_WAITING, OVERFLOW, REFUSED, RENEWALS,
    REQUESTS, RETRIES, RETRIES_DENIED, REVOCATION_EXPIRY, SPANS_DROPPED, XDS_CONNECTED, XDS_REFUSED,
};

/// A file of rules.
pub(super) fn document() -> Value {
    json!({"groups": [
        {"name": "weft-recorded", "interval": "15s", "rules": recorded()},
        {"name": "weft-alerts", "rules": alerts()},
    ]})
}

fn recorded() -> Vec<Value> {
    let record = |name: &str, expression: String| json!({"record": name, "expr": expression});
    let edge = "sum by (source, destination)";
    let outbound = "direction=\"outbound\"";
    vec![
        record("weft:requests:rate5m", format!("{edge} ({})", rate(&REQUESTS, outbound))),
        // No failure is a share of none, not no data.
        record("weft:failures:rate5m", format!("{edge} ({}) or 0 * weft:requests:rate5m", failures("outbound", ""))),
        record(
            "weft:success:ratio_rate5m",
            "1 - sum by (destination) (weft:failures:rate5m) / (sum by (destination) (weft:requests:rate5m) > 0)"
                .to_owned(),
        ),
        record("weft:request_duration_seconds:p50_5m", quantile("0.5", "destination", "")),
        record("weft:request_duration_seconds:p95_5m", quantile("0.95", "destination", "")),
        record("weft:request_duration_seconds:p99_5m", quantile("0.99", "destination", "")),
        record("weft:retries:rate5m", format!("sum by (destination) ({})", rate(&RETRIES, ""))),
    ]
}

fn alerts() -> Vec<Value> {
    let alert = |name: &str, expression: String, held: &str, severity: &str, summary: &str, description: &str| {
        json!({
            "alert": name,
            "expr": expression,
            "for": held,
            "labels": {"severity": severity},
            "annotations": {"summary": summary, "description": description},
        })
    };
    vec![
        alert(
            "WeftSuccessLow",
            "weft:success:ratio_rate5m < 0.95 and on (destination) sum by (destination) (weft:requests:rate5m) > 0.1"
                .to_owned(),
            "5m",
            "critical",
            "Calls to {{ $labels.destination }} fail",
            "{{ $value | humanizePercentage }} of the calls to {{ $labels.destination }} succeed. `weft stat` and `weft routes` say whose and where.",
        ),
        alert(
            "WeftLatencyHigh",
            "weft:request_duration_seconds:p99_5m > 1".to_owned(),
            "10m",
            "warning",
            "{{ $labels.destination }} is slow",
            "One call in a hundred to {{ $labels.destination }} takes longer than {{ $value | humanizeDuration }}.",
        ),
        alert(
            "WeftBreakerOpen",
            format!("max by (destination, endpoint) ({}) == 1", BREAKER_STATE.name),
            "2m",
            "warning",
            "Callers avoid {{ $labels.endpoint }}",
            "The breaker of {{ $labels.endpoint }} of {{ $labels.destination }} is open at a caller at least. `weft endpoints --from` says how it is seen.",
        ),
        alert(
            "WeftRetriesDenied",
            format!("sum by (destination) ({}) > 1", rate(&RETRIES_DENIED, "reason=\"budget\"")),
            "5m",
            "warning",
            "Retries to {{ $labels.destination }} exceed their budget",
            "Too many calls to {{ $labels.destination }} fail to be tried again.",
        ),
        alert(
            "WeftCertificateExpiring",
            format!("{} - time() < 6 * 3600", CERTIFICATE_EXPIRY.name),
            "5m",
            "critical",
            "A certificate of {{ $labels.instance }} is not renewed",
            "It ends in {{ $value | humanizeDuration }}; sidecars renew theirs at half of its life. `weft identity` says more.",
        ),
        alert(
            "WeftCertificateAuthorityFailing",
            format!(
                "sum by (instance) (increase({0}{{result=\"failed\"}}[15m])) > 0 \
                 unless sum by (instance) (increase({0}{{result=\"ok\"}}[15m])) > 0",
                RENEWALS.name
            ),
            "5m",
            "warning",
            "{{ $labels.instance }} gets no new certificate",
            "Its attempts to renew the certificate fail. `weft identity audit` says what the authority refused.",
        ),
        alert(
            "WeftRevocationListOverdue",
            format!("0 < {0} and {0} < time()", REVOCATION_EXPIRY.name),
            "15m",
            "critical",
            "The revocation list that {{ $labels.instance }} has is out of date",
            "What was revoked since is not known there.",
        ),
        alert(
            "WeftConfigurationRefused",
            format!("{} > 0", XDS_REFUSED.name),
            "5m",
            "critical",
            "{{ $labels.instance }} refuses a part of its configuration",
            "Of {{ $value }} resources the last good version is in force. `weft check` names them.",
        ),
        alert(
            "WeftControlPlaneLost",
            format!("{} == 0", XDS_CONNECTED.name),
            "5m",
            "critical",
            "{{ $labels.instance }} has lost its control plane",
            "It serves by what it knows; changes do not reach it, nor does a new certificate.",
        ),
        alert(
            "WeftControlPlaneLagging",
            format!("{} > 30", CONTROL_LAG.name),
            "2m",
            "critical",
            "Changes do not reach every sidecar",
            &format!(
                "Some sidecar has waited for {{{{ $value | humanizeDuration }}}}; {} counts them, `weft check` names them.",
                CONTROL_WAITING.name
            ),
        ),
        alert(
            "WeftStoreFailing",
            format!("sum by (instance, operation) ({}) > 0", rate(&CONTROL_STORE_ERRORS, "kind=\"failed\"")),
            "5m",
            "critical",
            "The store of {{ $labels.instance }} fails",
            "{{ $labels.operation }} fails {{ $value | humanize }} times a second. Sidecars go on with what they have; nothing can be changed.",
        ),
        alert(
            "WeftPeersRefused",
            format!("sum by (direction, reason) ({}) > 1", rate(&REFUSED, "")),
            "10m",
            "warning",
            "Connections are refused: {{ $labels.reason }}",
            "{{ $value | humanize }} a second, {{ $labels.direction }}. The logs of the sidecars say whose.",
        ),
        alert(
            "WeftSpansDropped",
            format!("sum by (instance, reason) ({}) > 0", rate(&SPANS_DROPPED, "")),
            "15m",
            "info",
            "Traces of {{ $labels.instance }} have gaps",
            "Spans are dropped: {{ $labels.reason }}.",
        ),
        alert(
            "WeftMetricsOverflow",
            format!("sum by (instance, family) (increase({}[15m])) > 0", OVERFLOW.name),
            "15m",
            "info",
            "{{ $labels.instance }} has more series of {{ $labels.family }} than it keeps apart",
            "What found no room is counted as other.",
        ),
    ]
}
