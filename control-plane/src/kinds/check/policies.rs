//! Weft's own kinds about workloads and who may call them.

use serde_json::Value;

use super::{
    Findings, has, items, text,
    text::{address, is_label, is_subdomain, is_token, socket},
    unique,
};
use crate::kinds::GROUP;

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

/// Targets or a selector; callers and calls that can be written down.
pub fn authorization_policy(object: &Value, findings: &mut Findings) {
    let spec = &object["spec"];
    targets_or_selector(spec, findings);
    for (path, rule) in items(spec, "rules", "spec") {
        for (path, source) in items(rule, "from", &path) {
            for (path, identity) in items(source, "identities", &path) {
                let text = identity.as_str().unwrap_or_default();
                let stem = text.strip_suffix('*').unwrap_or(text);
                let possible =
                    stem.starts_with("spiffe://") || (stem.len() < text.len() && "spiffe://".starts_with(stem));
                if !possible || stem.contains('*') {
                    let why = "must be a SPIFFE id, such as \"spiffe://weft.local/ns/shop/sa/cart\", or the beginning of one and '*'";
                    findings.invalid(path, identity, why);
                }
            }
            for (path, namespace) in items(source, "namespaces", &path) {
                if !is_label(namespace.as_str().unwrap_or_default()) {
                    findings.invalid(path, namespace, "must be the name of a namespace");
                }
            }
            for (path, account) in items(source, "serviceAccounts", &path) {
                let text = account.as_str().unwrap_or_default();
                let possible = match text.split_once('/') {
                    Some((namespace, name)) => is_label(namespace) && is_subdomain(name),
                    None => is_subdomain(text),
                };
                if !possible {
                    findings.invalid(path, account, "must be <name> or <namespace>/<name> of a service account");
                }
            }
        }
        for (path, operation) in items(rule, "to", &path) {
            for (path, method) in items(operation, "methods", &path) {
                method_name(&path, method, findings);
            }
            for (path, value) in items(operation, "paths", &path) {
                let text = value.as_str().unwrap_or_default();
                let stem = text.strip_suffix('*').unwrap_or(text);
                if (!stem.starts_with('/') && text != "*") || stem.contains(['*', '?', '#']) {
                    findings.invalid(
                        path,
                        value,
                        "must be a path such as \"/orders\", or the beginning of one and '*'",
                    );
                }
            }
        }
    }
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
