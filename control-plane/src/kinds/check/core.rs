//! Service and EndpointSlice, as far as a mesh relies on them.

use serde_json::Value;

use super::{
    Findings, has, items, text,
    text::{is_label, is_subdomain},
    unique,
};

/// Ports, their names, the type and what it asks for.
pub fn service(object: &Value, findings: &mut Findings) {
    let spec = &object["spec"];
    let (kind, cluster_ip) = (text(spec, "type"), text(spec, "clusterIP"));
    let ports = items(spec, "ports", "spec");
    let headless = cluster_ip == "None";
    if kind == "ExternalName" {
        if !is_subdomain(text(spec, "externalName").trim_end_matches('.')) {
            findings.required("spec.externalName", "a DNS name, since the type is ExternalName");
        }
    } else if ports.is_empty() && !headless {
        findings.required("spec.ports", "a service needs at least one port");
    }
    if !cluster_ip.is_empty() && !headless && cluster_ip.parse::<std::net::IpAddr>().is_err() {
        findings.invalid("spec.clusterIP", &spec["clusterIP"], "must be an IP address, \"None\" or absent");
    }
    for (path, port) in &ports {
        if ports.len() > 1 && text(port, "name").is_empty() {
            findings.required(format!("{path}.name"), "a service of several ports names each of them");
        } else if has(port, "name") && !is_label(text(port, "name")) {
            findings.invalid(format!("{path}.name"), &port["name"], "must be lower-case letters, digits and inner '-'");
        }
        match &port["targetPort"] {
            Value::Number(n) if !n.as_u64().is_some_and(|n| (1..=65535).contains(&n)) => {
                findings.invalid(
                    format!("{path}.targetPort"),
                    &port["targetPort"],
                    "must be between 1 and 65535, inclusive",
                );
            }
            Value::String(name) if name.is_empty() || name.len() > 15 || !is_label(name) => {
                findings.invalid(
                    format!("{path}.targetPort"),
                    &port["targetPort"],
                    "must be a port number or a port's name",
                );
            }
            _ => {}
        }
    }
    unique(findings, ports.iter().filter(|(_, p)| has(p, "name")).map(|(at, p)| (format!("{at}.name"), &p["name"])));
    let mut seen = Vec::new();
    for (path, port) in &ports {
        let key = (&port["port"], &port["protocol"]);
        if seen.contains(&key) {
            findings.duplicate(path.clone(), port);
        }
        seen.push(key);
    }
}

/// Addresses that are what `addressType` says.
pub fn endpoint_slice(object: &Value, findings: &mut Findings) {
    for (path, endpoint) in items(object, "endpoints", "") {
        for (path, address) in items(endpoint, "addresses", &path) {
            let parsed = address.as_str().map(str::parse::<std::net::IpAddr>);
            let fits = match (text(object, "addressType"), parsed) {
                ("IPv4", Some(Ok(ip))) => ip.is_ipv4(),
                ("IPv6", Some(Ok(ip))) => ip.is_ipv6(),
                ("FQDN", _) => is_subdomain(address.as_str().unwrap_or_default()),
                _ => false,
            };
            if !fits {
                findings.invalid(path, address, format_args!("is no address of type {}", text(object, "addressType")));
            }
        }
    }
}
