//! Every family of metrics that a sidecar or the control plane has, by name, type and labels: the one list that recording rules, alerts and
//! dashboards are made from, and that the reference, the sidecars and the control plane are checked against.

/// A family of metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Family {
    /// `weft_requests_total`.
    pub name: &'static str,
    /// `counter`, `gauge` or `histogram`.
    pub kind: &'static str,
    /// Names of its labels, in the order in which they are written; of a histogram without `le`.
    pub labels: &'static [&'static str],
}

const fn counter(name: &'static str, labels: &'static [&'static str]) -> Family {
    Family { name, kind: "counter", labels }
}

const fn gauge(name: &'static str, labels: &'static [&'static str]) -> Family {
    Family { name, kind: "gauge", labels }
}

const CALL: &[&str] = &["direction", "source", "destination", "route", "protocol", "tls"];
const TCP: &[&str] = &["direction", "source", "destination", "route", "tls"];

macro_rules! families {
    ($(#[$about:meta])* $all:ident: $($(#[$doc:meta])* $id:ident = $family:expr;)*) => {
        $($(#[$doc])* pub const $id: Family = $family;)*

        $(#[$about])*
        pub const $all: &[Family] = &[$($id,)*];
    };
}

families! {
    /// All that a sidecar has.
    FAMILIES:
    /// Calls, as their caller saw them.
    REQUESTS = counter(
        "weft_requests_total",
        &["direction", "source", "destination", "route", "protocol", "code", "grpc_code", "tls", "reason"],
    );
    /// From the first byte of a request to the last of its response.
    REQUEST_DURATION = Family { name: "weft_request_duration_seconds", kind: "histogram", labels: CALL };
    /// Bodies of requests.
    REQUEST_BYTES = counter("weft_request_bytes_total", CALL);
    /// Bodies of responses.
    RESPONSE_BYTES = counter("weft_response_bytes_total", CALL);
    /// Opaque connections opened.
    TCP_OPENED = counter("weft_tcp_connections_opened_total", TCP);
    /// Opaque connections closed.
    TCP_CLOSED = counter(
        "weft_tcp_connections_closed_total",
        &["direction", "source", "destination", "route", "tls", "reason"],
    );
    /// Bytes to the callers of opaque connections.
    TCP_SENT = counter("weft_tcp_sent_bytes_total", TCP);
    /// Bytes from them.
    TCP_RECEIVED = counter("weft_tcp_received_bytes_total", TCP);
    /// Attempts after the first.
    RETRIES = counter("weft_retries_total", &["destination", "route", "reason"]);
    /// Retries that were wanted and not allowed.
    RETRIES_DENIED = counter("weft_retries_denied_total", &["destination", "route", "reason"]);
    /// Copies of calls.
    MIRRORED = counter("weft_mirrored_total", &["destination", "route", "outcome"]);
    /// 0 closed, 1 open, 2 half-open.
    BREAKER_STATE = gauge("weft_breaker_state", &["destination", "port", "endpoint"]);
    /// Authorization decisions.
    AUTHZ = counter("weft_authz_total", &["destination", "source", "policy", "rule", "decision"]);
    /// Connections and tunnels that were refused before there was a call.
    REFUSED = counter("weft_refused_total", &["direction", "reason"]);
    /// TLS handshakes with peers.
    HANDSHAKES = counter("weft_tls_handshakes_total", &["direction", "result", "version", "group"]);
    /// Connections that outlived a certificate.
    TLS_EXPIRED = counter("weft_tls_expired_total", &["direction"]);
    /// Protocol detection.
    DETECTIONS = counter("weft_detections_total", &["direction", "outcome"]);
    /// Accepted connections that are open now.
    CONNECTIONS = gauge("weft_connections", &["direction", "kind"]);
    /// When the certificate ends, seconds since the Unix epoch.
    CERTIFICATE_EXPIRY = gauge("weft_certificate_expiry_seconds", &[]);
    /// When a revocation list should be replaced, seconds since the Unix epoch.
    REVOCATION_EXPIRY = gauge("weft_revocation_list_expiry_seconds", &[]);
    /// Attempts to renew the certificate.
    RENEWALS = counter("weft_certificate_renewals_total", &["result"]);
    /// Whether a stream to the control plane is open.
    XDS_CONNECTED = gauge("weft_xds_connected", &[]);
    /// Streams opened.
    XDS_STREAMS = counter("weft_xds_streams_total", &[]);
    /// Responses applied.
    XDS_RESPONSES = counter("weft_xds_responses_total", &["type"]);
    /// Resources received.
    XDS_RESOURCES = counter("weft_xds_resources_total", &[]);
    /// Resources refused.
    XDS_REFUSALS = counter("weft_xds_refusals_total", &[]);
    /// Resources whose last good version is in force.
    XDS_REFUSED = gauge("weft_xds_refused", &[]);
    /// Names subscribed to.
    XDS_SUBSCRIPTIONS = gauge("weft_xds_subscriptions", &["type"]);
    /// Spans that a receiver took.
    SPANS_EXPORTED = counter("weft_spans_exported_total", &[]);
    /// Spans that were not delivered.
    SPANS_DROPPED = counter("weft_spans_dropped_total", &["reason"]);
    /// Lines of the access log that found no room.
    LINES_DROPPED = counter("weft_access_log_dropped_total", &[]);
    /// Series of each family.
    SERIES = gauge("weft_metrics_series", &["family"]);
    /// Label sets that found no room.
    OVERFLOW = counter("weft_metrics_overflow_total", &["family"]);
}

const fn histogram(name: &'static str, labels: &'static [&'static str]) -> Family {
    Family { name, kind: "histogram", labels }
}

families! {
    /// All that the control plane has.
    CONTROL_FAMILIES:
    /// Streams that are open: `xds` for configuration, `control` for reports and commands.
    CONTROL_STREAMS = gauge("weft_control_streams", &["kind"]);
    /// Streams for configuration that were opened.
    CONTROL_XDS_STREAMS = counter("weft_control_xds_streams_total", &[]);
    /// Resources sent, found to be held when a stream resumed, or removed.
    CONTROL_XDS_RESOURCES = counter("weft_control_xds_resources_total", &["action"]);
    /// Responses that a sidecar refused, wholly or in part.
    CONTROL_XDS_REFUSALS = counter("weft_control_xds_refusals_total", &[]);
    /// Sidecars that do not hold the newest of what they need.
    CONTROL_WAITING = gauge("weft_control_waiting_sidecars", &[]);
    /// For how long some sidecar has been waiting.
    CONTROL_LAG = gauge("weft_control_lag_seconds", &[]);
    /// From a change to its last acknowledgement.
    CONTROL_CONVERGENCE = histogram("weft_control_convergence_seconds", &[]);
    /// Compilations of the mesh.
    CONTROL_COMPILE = histogram("weft_control_compile_seconds", &[]);
    /// The newest compilation.
    CONTROL_GENERATION = gauge("weft_control_generation", &[]);
    /// What the store was asked for.
    CONTROL_STORE = histogram("weft_control_store_seconds", &["operation"]);
    /// What it could not do: `failed`, or `refused` for good reason.
    CONTROL_STORE_ERRORS = counter("weft_control_store_errors_total", &["operation", "kind"]);
    /// Requests to the API.
    CONTROL_API_REQUESTS = counter("weft_control_api_requests_total", &["verb", "code"]);
    /// Until they were answered; of a watch or a stream, until it began.
    CONTROL_API_DURATION = histogram("weft_control_api_request_seconds", &["verb"]);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_as_prometheus_wants_them_and_nothing_is_listed_twice() {
        let all: Vec<&Family> = FAMILIES.iter().chain(CONTROL_FAMILIES).collect();
        for (nth, family) in all.iter().enumerate() {
            assert!(family.name.starts_with("weft_"), "{}", family.name);
            assert_eq!(family.name.ends_with("_total"), family.kind == "counter", "{}", family.name);
            assert!(all[..nth].iter().all(|other| other.name != family.name), "{}", family.name);
        }
    }
}
