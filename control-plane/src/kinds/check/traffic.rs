//! TrafficPolicy and RateLimitPolicy.

use serde_json::Value;

use super::{
    Findings, duration,
    gateway::{http_matches, share},
    has, items, one_of,
    policies::{method_name, targets},
    text,
    text::{is_label, is_subdomain, is_token},
    unique,
};
use crate::kinds::{Duration, GROUP};

/// What the sidecar accepts (`weft_policy::config` refuses the rest): section, field, least, most.
pub const SPANS: &[(&str, &str, &str, &str)] = &[
    ("circuitBreaker", "window", "1s", "1h"),
    ("circuitBreaker", "baseOpen", "10ms", "24h"),
    ("circuitBreaker", "maxOpen", "10ms", "24h"),
    ("healthCheck", "interval", "100ms", "1h"),
    ("healthCheck", "timeout", "10ms", "1m"),
    ("hedging", "minDelay", "1ms", "1m"),
    ("loadBalancer", "slowStart", "0s", "1h"),
    ("retry", "backoff", "0s", "1m"),
    ("retryBudget", "window", "1s", "1h"),
    ("timeouts", "connect", "1ms", "5m"),
];
/// Bytes of a fixed answer.
const LARGEST_BODY: usize = 64 << 10;

fn span(text: &str) -> Duration {
    text.parse().unwrap_or_default()
}

pub(super) fn within(findings: &mut Findings, path: String, value: &Value, least: &str, most: &str) {
    let given = value.as_str().and_then(|text| text.parse::<Duration>().ok());
    if given.is_some_and(|given| !(span(least)..=span(most)).contains(&given)) {
        findings.invalid(path, value, format_args!("must be between {least} and {most}"));
    }
}

/// Targets are Services; durations and percentages fit together; of alternatives one is given.
pub fn traffic_policy(object: &Value, findings: &mut Findings) {
    let spec = &object["spec"];
    targets(spec, &[("", "Service")], findings);
    for (section, field, least, most) in SPANS {
        within(findings, format!("spec.{section}.{field}"), &spec[*section][*field], least, most);
    }
    let breaker = &spec["circuitBreaker"];
    if let (Some(base), Some(max)) = (duration(breaker, "baseOpen"), duration(breaker, "maxOpen"))
        && base > max
    {
        findings.invalid(
            "spec.circuitBreaker.baseOpen",
            &breaker["baseOpen"],
            format_args!("must not exceed maxOpen ({max})"),
        );
    }
    for (path, method) in items(&spec["retry"], "methods", "spec.retry") {
        method_name(&path, method, findings);
    }
    let timeouts = &spec["timeouts"];
    if let (Some(whole), Some(each)) = (duration(timeouts, "request"), duration(timeouts, "backendRequest"))
        && !whole.is_zero()
        && each > whole
    {
        let why = format_args!("must not exceed request ({whole})");
        findings.invalid("spec.timeouts.backendRequest", &timeouts["backendRequest"], why);
    }
    load_balancer(&spec["loadBalancer"], findings);
    health_check(&spec["healthCheck"], findings);
    for (path, fault) in items(spec, "faults", "spec") {
        self::fault(&path, fault, findings);
    }
    fallback(&spec["fallback"], findings);
    let adaptive = &spec["adaptiveConcurrency"];
    if let (Some(min), Some(max)) = (adaptive["minRequests"].as_u64(), adaptive["maxRequests"].as_u64())
        && min > max
    {
        let why = format_args!("must not exceed maxRequests ({max})");
        findings.invalid("spec.adaptiveConcurrency.minRequests", &adaptive["minRequests"], why);
    }
}

fn load_balancer(balancer: &Value, findings: &mut Findings) {
    let path = "spec.loadBalancer";
    let keys = items(balancer, "hash", path);
    let hashes = matches!(text(balancer, "policy"), "RingHash" | "Maglev");
    if hashes && keys.is_empty() {
        let why = format_args!("policy {} needs something to hash", text(balancer, "policy"));
        findings.required(format!("{path}.hash"), why);
    } else if !hashes && !keys.is_empty() {
        findings.forbidden(format!("{path}.hash"), "only policies RingHash and Maglev hash");
    }
    for (at, key) in &keys {
        one_of(findings, at, key, &["header", "cookie", "sourceAddress"]);
        for field in ["header", "cookie"] {
            token(findings, &format!("{at}.{field}"), &key[field]);
        }
        only_true(findings, &format!("{at}.sourceAddress"), &key["sourceAddress"]);
    }
    unique(findings, keys);
}

fn token(findings: &mut Findings, path: &str, name: &Value) {
    if name.as_str().is_some_and(|name| !is_token(name)) {
        findings.invalid(path, name, "must be a token as RFC 9110 defines it, such as \"x-user\"");
    }
}

fn only_true(findings: &mut Findings, path: &str, value: &Value) {
    if *value == false {
        findings.invalid(path, value, "is true or absent");
    }
}

fn health_check(check: &Value, findings: &mut Findings) {
    let path = "spec.healthCheck";
    if !check.is_object() {
        return;
    }
    one_of(findings, path, check, &["http", "grpc", "tcp"]);
    let (probe, at) = (&check["http"], &check["http"]["path"]);
    let plain = |text: &str| text.starts_with('/') && text.bytes().all(|b| b > b' ' && b != 0x7f && b != b'#');
    if at.as_str().is_some_and(|text| !plain(text)) {
        findings.invalid(format!("{path}.http.path"), at, "must start with '/' and have neither spaces nor '#'");
    }
    let host = text(probe, "host");
    let name = host.rsplit_once(':').filter(|(_, port)| port.parse::<u16>().is_ok()).map_or(host, |(name, _)| name);
    let address = name.trim_start_matches('[').trim_end_matches(']').parse::<std::net::IpAddr>().is_ok();
    if !host.is_empty() && !address && !is_subdomain(name) {
        findings.invalid(format!("{path}.http.host"), &probe["host"], "must be a host name, with a port or without");
    }
    if let (Some(interval), Some(timeout)) = (duration(check, "interval"), duration(check, "timeout"))
        && timeout > interval
    {
        let why = format_args!("must not exceed interval ({interval})");
        findings.invalid(format!("{path}.timeout"), &check["timeout"], why);
    }
}

fn fault(path: &str, fault: &Value, findings: &mut Findings) {
    http_matches(fault, path, findings);
    if !has(fault, "delay") && !has(fault, "abort") {
        findings.required(path, "delay, abort or both must be given");
    }
    within(findings, format!("{path}.delay.fixed"), &fault["delay"]["fixed"], "1ms", "1h");
    for part in ["delay", "abort"] {
        share(&format!("{path}.{part}"), &fault[part], findings);
    }
}

fn fallback(fallback: &Value, findings: &mut Findings) {
    let path = "spec.fallback";
    if !fallback.is_object() {
        return;
    }
    one_of(findings, path, fallback, &["backendRef", "response"]);
    let response = &fallback["response"];
    let kind = text(response, "contentType");
    let media = kind.contains('/') && kind.trim() == kind && kind.bytes().all(|b| (b' '..0x7f).contains(&b));
    if !kind.is_empty() && !media {
        let why = "must be a media type, such as \"application/json\"";
        findings.invalid(format!("{path}.response.contentType"), &response["contentType"], why);
    }
    if let (Some(status @ (204 | 205 | 304)), false) = (response["status"].as_u64(), text(response, "body").is_empty())
    {
        let why = format_args!("a response of status {status} has none (RFC 9110 section 15)");
        findings.forbidden(format!("{path}.response.body"), why);
    }
    if text(response, "body").len() > LARGEST_BODY {
        findings.too_long(format!("{path}.response.body"), format_args!("may not have more than {LARGEST_BODY} bytes"));
    }
}

/// Targets are Services or Workloads; each limit has a name of its own, each key one source.
pub fn rate_limit_policy(object: &Value, findings: &mut Findings) {
    let spec = &object["spec"];
    targets(spec, &[("", "Service"), (GROUP, "Workload")], findings);
    let limits = items(spec, "limits", "spec");
    for (path, limit) in &limits {
        if !is_label(text(limit, "name")) {
            findings.invalid(
                format!("{path}.name"),
                &limit["name"],
                "must be lower-case letters, digits and inner '-'",
            );
        }
        http_matches(limit, path, findings);
        within(findings, format!("{path}.per"), &limit["per"], "1s", "24h");
        let keys = items(limit, "keys", path);
        for (at, key) in &keys {
            one_of(findings, at, key, &["identity", "header", "method"]);
            token(findings, &format!("{at}.header"), &key["header"]);
            only_true(findings, &format!("{at}.identity"), &key["identity"]);
            only_true(findings, &format!("{at}.method"), &key["method"]);
        }
        unique(findings, keys);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn fields(check: fn(&Value, &mut Findings), spec: &Value) -> Vec<String> {
        let mut findings = Findings::default();
        check(&json!({ "spec": spec }), &mut findings);
        findings.0.into_iter().map(|cause| cause.field).collect()
    }

    #[test]
    fn what_does_not_go_together_in_a_traffic_policy_is_named() {
        let response = json!({"status": 200});
        let backend = json!({"name": "a", "port": 80});
        for (spec, field) in [
            (
                json!({"targetRefs": [{"group": "weft.mesh", "kind": "Workload", "name": "a"}]}),
                "spec.targetRefs[0].kind",
            ),
            (json!({"loadBalancer": {"policy": "RingHash"}}), "spec.loadBalancer.hash"),
            (json!({"loadBalancer": {"policy": "Maglev", "hash": []}}), "spec.loadBalancer.hash"),
            (json!({"loadBalancer": {"hash": [{"header": "a"}]}}), "spec.loadBalancer.hash"),
            (json!({"loadBalancer": {"policy": "Random", "hash": [{"header": "a"}]}}), "spec.loadBalancer.hash"),
            (json!({"loadBalancer": {"policy": "Maglev", "hash": [{}]}}), "spec.loadBalancer.hash[0]"),
            (
                json!({"loadBalancer": {"policy": "Maglev", "hash": [{"header": "a", "cookie": "b"}]}}),
                "spec.loadBalancer.hash[0].cookie",
            ),
            (
                json!({"loadBalancer": {"policy": "Maglev", "hash": [{"header": "a b"}]}}),
                "spec.loadBalancer.hash[0].header",
            ),
            (
                json!({"loadBalancer": {"policy": "Maglev", "hash": [{"sourceAddress": false}]}}),
                "spec.loadBalancer.hash[0].sourceAddress",
            ),
            (
                json!({"loadBalancer": {"policy": "Maglev", "hash": [{"header": "a"}, {"header": "a"}]}}),
                "spec.loadBalancer.hash[1]",
            ),
            (json!({"loadBalancer": {"slowStart": "2h"}}), "spec.loadBalancer.slowStart"),
            (json!({"healthCheck": {}}), "spec.healthCheck"),
            (json!({"healthCheck": {"http": {}, "tcp": {}}}), "spec.healthCheck.tcp"),
            (json!({"healthCheck": {"http": {"path": "a"}}}), "spec.healthCheck.http.path"),
            (json!({"healthCheck": {"http": {"host": "a/b"}}}), "spec.healthCheck.http.host"),
            (json!({"healthCheck": {"tcp": {}, "interval": "1ms"}}), "spec.healthCheck.interval"),
            (json!({"healthCheck": {"tcp": {}, "interval": "1s", "timeout": "2s"}}), "spec.healthCheck.timeout"),
            (json!({"faults": [{}]}), "spec.faults[0]"),
            (json!({"faults": [{"delay": {"fixed": "0s"}}]}), "spec.faults[0].delay.fixed"),
            (
                json!({"faults": [{"abort": {"status": 500, "percent": 1, "fraction": {"numerator": 1}}}]}),
                "spec.faults[0].abort",
            ),
            (
                json!({"faults": [{"delay": {"fixed": "1s", "fraction": {"numerator": 2, "denominator": 1}}}]}),
                "spec.faults[0].delay.fraction",
            ),
            (
                json!({"faults": [{"abort": {"status": 500}, "matches": [{"headers": [{"type": "RegularExpression", "name": "a", "value": "("}]}]}]}),
                "spec.faults[0].matches[0].headers[0].value",
            ),
            (
                json!({"faults": [{"abort": {"status": 500}, "matches": [{"path": {"type": "Exact", "value": "a"}}]}]}),
                "spec.faults[0].matches[0].path.value",
            ),
            (json!({"fallback": {}}), "spec.fallback"),
            (json!({"fallback": {"backendRef": backend, "response": response}}), "spec.fallback.response"),
            (
                json!({"fallback": {"response": {"status": 200, "contentType": "a/b\nc"}}}),
                "spec.fallback.response.contentType",
            ),
            (
                json!({"fallback": {"response": {"status": 200, "contentType": "json"}}}),
                "spec.fallback.response.contentType",
            ),
            (json!({"fallback": {"response": {"status": 204, "body": "a"}}}), "spec.fallback.response.body"),
            (
                json!({"fallback": {"response": {"status": 200, "body": "é".repeat(40_000)}}}),
                "spec.fallback.response.body",
            ),
            (json!({"hedging": {"minDelay": "0s"}}), "spec.hedging.minDelay"),
            (
                json!({"adaptiveConcurrency": {"minRequests": 9, "maxRequests": 8}}),
                "spec.adaptiveConcurrency.minRequests",
            ),
        ] {
            assert_eq!(fields(traffic_policy, &spec), [field], "{spec}");
        }
        let good = json!({
            "targetRefs": [{"kind": "Service", "name": "a"}],
            "loadBalancer": {"policy": "Maglev", "hash": [{"header": "a"}, {"sourceAddress": true}], "slowStart": "0s"},
            "healthCheck": {"http": {"path": "/a?b=c", "host": "a.example.com:8080"}, "interval": "1s", "timeout": "1s"},
            "faults": [{"delay": {"fixed": "1s", "percent": 0}, "abort": {"status": 503, "fraction": {"numerator": 100}}}],
            "fallback": {"response": {"status": 200, "contentType": "text/plain; charset=utf-8", "body": "a"}},
            "adaptiveConcurrency": {"minRequests": 8, "maxRequests": 8},
        });
        assert_eq!(fields(traffic_policy, &good), [""; 0]);
    }

    #[test]
    fn what_does_not_go_together_in_a_rate_limit_policy_is_named() {
        let of = |more: Value| {
            let mut limit = json!({"name": "a", "requests": 1, "per": "1s"});
            limit.as_object_mut().unwrap().extend(more.as_object().cloned().unwrap_or_default());
            json!({ "limits": [limit] })
        };
        for (spec, field) in [
            (json!({"targetRefs": [{"kind": "Pod", "name": "a"}]}), "spec.targetRefs[0].kind"),
            (of(json!({"name": "A"})), "spec.limits[0].name"),
            (of(json!({"per": "100ms"})), "spec.limits[0].per"),
            (of(json!({"per": "25h"})), "spec.limits[0].per"),
            (of(json!({"keys": [{}]})), "spec.limits[0].keys[0]"),
            (of(json!({"keys": [{"identity": true, "method": true}]})), "spec.limits[0].keys[0].method"),
            (of(json!({"keys": [{"identity": false}]})), "spec.limits[0].keys[0].identity"),
            (of(json!({"keys": [{"header": ""}]})), "spec.limits[0].keys[0].header"),
            (of(json!({"keys": [{"method": true}, {"method": true}]})), "spec.limits[0].keys[1]"),
            (
                of(json!({"matches": [{"path": {"type": "RegularExpression", "value": "("}}]})),
                "spec.limits[0].matches[0].path.value",
            ),
        ] {
            assert_eq!(fields(rate_limit_policy, &spec), [field], "{spec}");
        }
    }
}
