//! Weft's own kinds about workloads and who may call them.

use serde_json::Value;

use super::{
    Findings, has, items, text,
    text::{address, is_label, is_subdomain, is_token, socket},
    traffic::within,
    unique,
};
use crate::kinds::{GROUP, MeshSettings};
use weft_certs::jwt::Keys;
use weft_certs::{TrustBundle, TrustDomain};
use weft_policy::config::{Receiver, Transport, authorization_key, authorization_value};

/// Addresses, names of ports, names of services.
pub fn workload(object: &Value, findings: &mut Findings) {
    let spec = &object["spec"];
    address(findings, "spec.address", &spec["address"]);
    if !is_subdomain(text(spec, "serviceAccount")) {
        findings.invalid("spec.serviceAccount", &spec["serviceAccount"], "must be the name of a service account");
    }
    if has(spec, "tunnel") {
        socket(findings, "spec.tunnel", &spec["tunnel"]);
    }
    if has(spec, "trustDomain") && text(spec, "trustDomain").parse::<TrustDomain>().is_err() {
        findings.invalid("spec.trustDomain", &spec["trustDomain"], "must be a trust domain");
    }
    for (path, name) in items(spec, "services", "spec") {
        if !is_label(name.as_str().unwrap_or_default()) {
            findings.invalid(path, name, "must be the name of a Service of this namespace");
        }
    }
    let ports = items(spec, "ports", "spec");
    for (path, port) in &ports {
        if has(port, "local") {
            socket(findings, &format!("{path}.local"), &port["local"]);
        }
        if has(port, "name") && !is_label(text(port, "name")) {
            findings.invalid(format!("{path}.name"), &port["name"], "must be lower-case letters, digits and inner '-'");
        }
    }
    unique(findings, ports.iter().filter(|(_, p)| has(p, "name")).map(|(at, p)| (format!("{at}.name"), &p["name"])));
}

/// Targets or a selector; callers, calls and conditions that a sidecar can read.
pub fn authorization_policy(object: &Value, findings: &mut Findings) {
    let spec = &object["spec"];
    targets_or_selector(spec, findings);
    for (path, rule) in items(spec, "rules", "spec") {
        for part in ["from", "to"] {
            for (path, lists) in items(rule, part, &path) {
                for list in lists.as_object().into_iter().flat_map(|lists| lists.keys()) {
                    values(lists, list, list, &path, findings);
                }
            }
        }
        for (path, condition) in items(rule, "when", &path) {
            let key = text(condition, "key");
            if let Err(refusal) = authorization_key(key) {
                findings.invalid(format!("{path}.key"), &condition["key"], refusal.reason);
                continue;
            }
            if ["values", "notValues"].iter().all(|list| condition[list].as_array().is_none_or(Vec::is_empty)) {
                findings.required(format!("{path}.values"), "must name at least one value, or notValues must");
            }
            values(condition, "values", key, &path, findings);
            values(condition, "notValues", key, &path, findings);
        }
    }
}

/// The texts of a list, each read as an entry of `meaning` is.
fn values(object: &Value, list: &str, meaning: &str, path: &str, findings: &mut Findings) {
    for (path, value) in items(object, list, path) {
        let Some(text) = value.as_str() else { continue };
        // Without a namespace it is one of the policy's own.
        let own = meaning.ends_with("erviceAccounts") && is_subdomain(text);
        if !own && let Err(refusal) = authorization_value(meaning, text) {
            findings.invalid(path, value, refusal.reason);
        }
    }
}

/// Targets or a selector; keys from one place, which can be asked.
pub fn request_authentication(object: &Value, findings: &mut Findings) {
    let spec = &object["spec"];
    targets_or_selector(spec, findings);
    for (path, rule) in items(spec, "rules", "spec") {
        match (has(rule, "jwks"), has(rule, "jwksUri")) {
            (true, true) => findings.forbidden(format!("{path}.jwksUri"), "may not be given together with jwks"),
            (false, false) => findings.required(format!("{path}.jwksUri"), "either this or jwks says which keys sign"),
            (true, false) => {
                if let Err(fault) = Keys::parse(text(rule, "jwks")) {
                    findings.invalid(format!("{path}.jwks"), &"<key set>".into(), fault);
                }
            }
            (false, true) if !is_fetchable(text(rule, "jwksUri")) => {
                let why = "must be an address such as \"https://id.example.com/jwks.json\" (http:// on loopback only)";
                findings.invalid(format!("{path}.jwksUri"), &rule["jwksUri"], why);
            }
            (false, true) => {}
        }
    }
}

/// `https` with a host, or `http` with one that is the machine itself; nothing of credentials or fragments.
pub fn is_fetchable(address: &str) -> bool {
    let Ok(uri) = address.parse::<http::Uri>() else { return false };
    let (Some(authority), Some(host)) = (uri.authority(), uri.host()) else { return false };
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    let local = bare == "localhost" || bare.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback());
    let known = match uri.scheme_str() {
        Some("https") => true,
        Some("http") => local,
        _ => false,
    };
    known && !host.is_empty() && !authority.as_str().contains('@') && !address.contains('#')
}

/// A trust domain, and roots that can vouch for it.
pub fn federated_trust_domain(object: &Value, findings: &mut Findings) {
    let spec = &object["spec"];
    let Ok(domain) = text(spec, "trustDomain").parse::<TrustDomain>() else {
        let why = "must be a trust domain, such as \"partner.example\"";
        return findings.invalid("spec.trustDomain", &spec["trustDomain"], why);
    };
    if let Err(error) = TrustBundle::from_pem(domain, text(spec, "roots")) {
        // The value is long, and what it says of itself is in the error.
        findings.invalid("spec.roots", &"(PEM)".into(), error);
    }
}

/// The only object there is; a rollout that can be watched, of kinds named once; an endpoint that spans can be sent to.
pub fn mesh_settings(object: &Value, findings: &mut Findings) {
    let name = &object["metadata"]["name"];
    if name.as_str().is_some_and(|name| name != MeshSettings::NAME) {
        let why = format_args!("must be {:?}: the mesh has one MeshSettings", MeshSettings::NAME);
        findings.invalid("metadata.name", name, why);
    }
    let rollout = &object["spec"]["rollout"];
    within(findings, "spec.rollout.duration".to_owned(), &rollout["duration"], "5s", "24h");
    unique(findings, items(rollout, "kinds", "spec.rollout"));
    let tracing = &object["spec"]["tracing"];
    let transport = if text(tracing, "protocol") == "Http" { Transport::Http } else { Transport::Grpc };
    if let Some(endpoint) = tracing["endpoint"].as_str()
        && let Err(why) = Receiver::parse(endpoint, transport)
    {
        findings.invalid("spec.tracing.endpoint", &tracing["endpoint"], why);
    }
    unique(findings, items(tracing, "propagation", "spec.tracing"));
}

/// Targets or a selector.
pub fn mesh_tls(object: &Value, findings: &mut Findings) {
    targets_or_selector(&object["spec"], findings);
}

pub(super) fn method_name(path: &str, method: &Value, findings: &mut Findings) {
    let text = method.as_str().unwrap_or_default();
    if !is_token(text) || text.bytes().any(|b| b.is_ascii_lowercase()) {
        findings.invalid(path, method, "must be an HTTP method in capitals, such as \"POST\"");
    }
}

fn targets_or_selector(spec: &Value, findings: &mut Findings) {
    targets(spec, &[("", "Service"), (GROUP, "Workload")], findings);
    if has(spec, "selector") && spec["targetRefs"].as_array().is_some_and(|refs| !refs.is_empty()) {
        findings.forbidden("spec.selector", "may not be given together with targetRefs");
    }
    for (path, expression) in items(&spec["selector"], "matchExpressions", "spec.selector") {
        let values = expression["values"].as_array().map_or(0, Vec::len);
        match (text(expression, "operator"), values) {
            ("In" | "NotIn", 0) => findings.required(format!("{path}.values"), "must name at least one value"),
            ("In" | "NotIn", _) | ("Exists" | "DoesNotExist", 0) => {}
            ("Exists" | "DoesNotExist", _) => {
                findings.forbidden(format!("{path}.values"), "may not be given for this operator")
            }
            _ => {
                let known = ["In", "NotIn", "Exists", "DoesNotExist"];
                findings.unsupported(format!("{path}.operator"), &expression["operator"], &known);
            }
        }
    }
}

pub(super) fn targets(spec: &Value, known: &[(&str, &str)], findings: &mut Findings) {
    let refs = items(spec, "targetRefs", "spec");
    for (path, target) in &refs {
        if !known.contains(&(text(target, "group"), text(target, "kind"))) {
            let names: Vec<String> = known
                .iter()
                .map(
                    |(group, kind)| {
                        if group.is_empty() { (*kind).to_owned() } else { format!("{kind} of group {group}") }
                    },
                )
                .collect();
            findings.invalid(format!("{path}.kind"), &target["kind"], format_args!("must be {}", names.join(" or ")));
        }
    }
    unique(findings, refs.iter().map(|(path, target)| (path.clone(), *target)));
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_mesh_has_one_settings_object_and_a_rollout_that_can_be_watched() {
        let fields = |name: &str, spec: Value| {
            let mut findings = Findings::default();
            mesh_settings(&json!({"metadata": {"name": name}, "spec": spec}), &mut findings);
            findings.0.into_iter().map(|cause| cause.field).collect::<Vec<_>>()
        };
        assert!(fields("default", json!({"egress": "Any", "rollout": {"duration": "5s"}})).is_empty());
        assert_eq!(fields("other", json!({})), ["metadata.name"]);
        assert_eq!(fields("default", json!({"rollout": {"duration": "4s"}})), ["spec.rollout.duration"]);
        let twice = json!({"rollout": {"kinds": ["HTTPRoute", "HTTPRoute"]}});
        assert_eq!(fields("default", twice), ["spec.rollout.kinds[1]"]);
    }

    #[test]
    fn spans_go_to_an_endpoint_that_can_be_reached() {
        let fields = |tracing: Value| {
            let mut findings = Findings::default();
            mesh_settings(&json!({"metadata": {"name": "default"}, "spec": {"tracing": tracing}}), &mut findings);
            findings.0.into_iter().map(|cause| cause.field).collect::<Vec<_>>()
        };
        assert!(fields(json!({"endpoint": "https://otel.example.com/tenant", "protocol": "Http"})).is_empty());
        assert_eq!(fields(json!({"endpoint": "https://otel.example.com/tenant"})), ["spec.tracing.endpoint"]);
        assert_eq!(fields(json!({"endpoint": "otel.example.com:4317"})), ["spec.tracing.endpoint"]);
        let twice = json!({"endpoint": "http://192.0.2.7:4317", "propagation": ["B3", "B3"]});
        assert_eq!(fields(twice), ["spec.tracing.propagation[1]"]);
    }
}
