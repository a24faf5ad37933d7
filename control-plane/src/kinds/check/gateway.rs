//! Routes of the Gateway API: what the Gateway API specification asks of several fields together, and of texts whose alphabet depends on
//! another field.
//!
//! Bounds and defaults of single fields are in `routes`. Whether a service exists, or a filter is one that Weft applies, is no question
//! here.

use serde_json::Value;

use super::{
    Findings, duration, has, items, text,
    text::{is_token, regex},
    unique,
};

/// <https://gateway-api.sigs.k8s.io/reference/spec/#httproute>
pub fn http_route(object: &Value, findings: &mut Findings) {
    let spec = &object["spec"];
    route(spec, findings);
    for (path, rule) in items(spec, "rules", "spec") {
        let backends = items(rule, "backendRefs", &path);
        http_matches(rule, &path, findings);
        let filters = items(rule, "filters", &path);
        check_filters(&filters, HTTP_FILTERS, findings);
        if !backends.is_empty() && filters.iter().any(|(_, f)| has(f, "requestRedirect")) {
            let why = "a rule that redirects sends nothing to backends: leave one of them out";
            findings.invalid(path.clone(), &Value::from("backendRefs"), why);
        }
        prefix_replacement(rule, &path, &filters, findings);
        for (at, backend) in &backends {
            let filters = items(backend, "filters", at);
            check_filters(&filters, HTTP_FILTERS, findings);
            prefix_replacement(rule, &path, &filters, findings);
        }
        let timeouts = &rule["timeouts"];
        if let (Some(whole), Some(each)) = (duration(timeouts, "request"), duration(timeouts, "backendRequest"))
            && !whole.is_zero()
            && each > whole
        {
            let why = "backendRequest may not be longer than request, which it is a part of";
            findings.invalid(format!("{path}.timeouts"), timeouts, why);
        }
    }
}

/// <https://gateway-api.sigs.k8s.io/reference/spec/#grpcroute>
pub fn grpc_route(object: &Value, findings: &mut Findings) {
    let spec = &object["spec"];
    route(spec, findings);
    for (path, rule) in items(spec, "rules", "spec") {
        for (at, matched) in items(rule, "matches", &path) {
            grpc_method(&format!("{at}.method"), &matched["method"], findings);
            for (at, entry) in items(matched, "headers", &at) {
                if text(entry, "type") == "RegularExpression" {
                    regex(findings, &format!("{at}.value"), &entry["value"]);
                }
            }
        }
        check_filters(&items(rule, "filters", &path), GRPC_FILTERS, findings);
        for (at, backend) in items(rule, "backendRefs", &path) {
            check_filters(&items(backend, "filters", &at), GRPC_FILTERS, findings);
        }
    }
}

/// <https://gateway-api.sigs.k8s.io/reference/spec/#tcproute>
pub fn tcp_route(object: &Value, findings: &mut Findings) {
    route(&object["spec"], findings);
}

/// <https://gateway-api.sigs.k8s.io/reference/spec/#tlsroute>
pub fn tls_route(object: &Value, findings: &mut Findings) {
    let spec = &object["spec"];
    route(spec, findings);
    for (path, hostname) in items(spec, "hostnames", "spec") {
        if hostname.as_str().is_some_and(|h| h.parse::<std::net::IpAddr>().is_ok()) {
            findings.invalid(path, hostname, "must be a DNS name: SNI carries no addresses (RFC 6066 section 3)");
        }
    }
}

/// The `matches` of a rule of an HTTPRoute, or of whatever else has such.
pub(super) fn http_matches(rule: &Value, path: &str, findings: &mut Findings) {
    for (at, matched) in items(rule, "matches", path) {
        path_match(&format!("{at}.path"), &matched["path"], findings);
        for list in ["headers", "queryParams"] {
            for (at, entry) in items(matched, list, &at) {
                if text(entry, "type") == "RegularExpression" {
                    regex(findings, &format!("{at}.value"), &entry["value"]);
                }
            }
        }
    }
}

/// What all kinds of route have in common.
fn route(spec: &Value, findings: &mut Findings) {
    parents(spec, findings);
    let rules = items(spec, "rules", "spec");
    let matches: usize = rules.iter().map(|(_, r)| r["matches"].as_array().map_or(0, Vec::len)).sum();
    if matches > 128 {
        let why = "a route may have at most 128 matches, all its rules together";
        findings.invalid("spec.rules", &Value::from(matches), why);
    }
    let named = rules.iter().filter(|(_, r)| has(r, "name"));
    unique(findings, named.map(|(at, r)| (format!("{at}.name"), &r["name"])));
    for (path, rule) in &rules {
        for (at, backend) in items(rule, "backendRefs", path) {
            service_port(&at, backend, findings);
        }
        let persistence = &rule["sessionPersistence"];
        if has(persistence, "cookieConfig") && text(persistence, "type") != "Cookie" {
            let why = "cookieConfig needs type Cookie";
            findings.invalid(format!("{path}.sessionPersistence"), &persistence["type"], why);
        }
        if text(&persistence["cookieConfig"], "lifetimeType") == "Permanent" && !has(persistence, "absoluteTimeout") {
            let why = "a cookie that is Permanent needs to be told for how long";
            findings.required(format!("{path}.sessionPersistence.absoluteTimeout"), why);
        }
    }
}

/// A reference to a Service names its port.
fn service_port(path: &str, reference: &Value, findings: &mut Findings) {
    if text(reference, "group").is_empty() && text(reference, "kind") == "Service" && !has(reference, "port") {
        findings.required(format!("{path}.port"), "a reference to a Service names one of its ports");
    }
}

/// Two references to one parent must differ in section or port, and both must say so.
fn parents(spec: &Value, findings: &mut Findings) {
    let parents = items(spec, "parentRefs", "spec");
    for (i, (path, a)) in parents.iter().enumerate() {
        for (_, b) in &parents[..i] {
            let same = |field| text(a, field) == text(b, field);
            if !(same("group") && same("kind") && same("name") && same("namespace")) {
                continue;
            }
            let set =
                |p: &Value| !text(p, "sectionName").is_empty() || p["port"].as_u64().is_some_and(|port| port != 0);
            if !set(a) || !set(b) {
                let why = "refers to the same parent as another entry: each of them needs a sectionName or a port";
                findings.invalid(path.clone(), a, why);
            } else if same("sectionName") && a["port"] == b["port"] {
                let why = "refers to the same parent, sectionName and port as another entry";
                findings.invalid(path.clone(), a, why);
            }
        }
    }
}

fn path_match(path: &str, matched: &Value, findings: &mut Findings) {
    let at = format!("{path}.value");
    let value = text(matched, "value");
    match text(matched, "type") {
        "RegularExpression" => regex(findings, &at, &matched["value"]),
        "Exact" | "PathPrefix" => {
            let wrong = if !value.starts_with('/') {
                Some("must start with '/'".to_owned())
            } else if let Some(part) = ["//", "/./", "/../", "%2f", "%2F", "#"].into_iter().find(|p| value.contains(p))
            {
                Some(format!("must not contain '{part}': paths are compared once they are normalised"))
            } else if let Some(end) = ["/..", "/."].into_iter().find(|e| value.ends_with(e)) {
                Some(format!("must not end with '{end}': paths are compared once they are normalised"))
            } else if !is_path(value) {
                Some("must be a path as RFC 3986 writes it, other characters percent-encoded".to_owned())
            } else {
                None
            };
            if let Some(why) = wrong {
                findings.invalid(at, &matched["value"], why);
            }
        }
        _ => {}
    }
}

/// Slashes and RFC 3986 `pchar`: unreserved characters, sub-delimiters, `:`, `@`, and bytes percent-encoded.
fn is_path(value: &str) -> bool {
    let mut bytes = value.bytes();
    while let Some(byte) = bytes.next() {
        let plain = byte.is_ascii_alphanumeric() || b"-/._~!$&'()*+,;=:@".contains(&byte);
        let mut hex = || bytes.next().is_some_and(|b| b.is_ascii_hexdigit());
        let escaped = byte == b'%' && hex() && hex();
        if !(plain || escaped) {
            return false;
        }
    }
    true
}

fn grpc_method(path: &str, method: &Value, findings: &mut Findings) {
    if !method.is_object() {
        return;
    }
    if !has(method, "service") && !has(method, "method") {
        findings.invalid(path, method, "needs a service, a method or both");
    }
    let word = |w: &str| {
        let mut bytes = w.bytes();
        bytes.next().is_some_and(|b| b.is_ascii_alphabetic() || b == b'_')
            && bytes.all(|b| b.is_ascii_alphanumeric() || b == b'_')
    };
    let (service, name) = (text(method, "service"), text(method, "method"));
    if text(method, "type") == "RegularExpression" {
        regex(findings, &format!("{path}.service"), &method["service"]);
        regex(findings, &format!("{path}.method"), &method["method"]);
        return;
    }
    if has(method, "service") && !service.strip_prefix('.').unwrap_or(service).split('.').all(word) {
        findings.invalid(format!("{path}.service"), &method["service"], "must be the full name of a gRPC service");
    }
    if has(method, "method") && !word(name) {
        findings.invalid(format!("{path}.method"), &method["method"], "must be the name of a gRPC method");
    }
}

/// Filter type, and the field that belongs to it.
const HTTP_FILTERS: &[(&str, &str)] = &[
    ("RequestHeaderModifier", "requestHeaderModifier"),
    ("ResponseHeaderModifier", "responseHeaderModifier"),
    ("RequestMirror", "requestMirror"),
    ("RequestRedirect", "requestRedirect"),
    ("URLRewrite", "urlRewrite"),
    ("CORS", "cors"),
    ("ExtensionRef", "extensionRef"),
    ("ExternalAuth", "externalAuth"),
];
const GRPC_FILTERS: &[(&str, &str)] = &[
    ("RequestHeaderModifier", "requestHeaderModifier"),
    ("ResponseHeaderModifier", "responseHeaderModifier"),
    ("RequestMirror", "requestMirror"),
    ("ExtensionRef", "extensionRef"),
];
/// These may come more than once.
const REPEATABLE: &[&str] = &["RequestMirror", "ExtensionRef", "ExternalAuth"];

fn check_filters(filters: &[(String, &Value)], known: &[(&str, &str)], findings: &mut Findings) {
    for (i, (path, filter)) in filters.iter().enumerate() {
        let kind = text(filter, "type");
        for (name, field) in known {
            if has(filter, field) && kind != *name {
                let why = format_args!("{field} needs type {name}");
                findings.invalid(format!("{path}.{field}"), &filter["type"], why);
            } else if !has(filter, field) && kind == *name {
                findings.required(format!("{path}.{field}"), format_args!("type {name} needs it"));
            }
        }
        if !REPEATABLE.contains(&kind) && filters[..i].iter().any(|(_, f)| text(f, "type") == kind) {
            findings.invalid(
                path.clone(),
                &filter["type"],
                format_args!("a list of filters has at most one of type {kind}"),
            );
        }
        headers(&format!("{path}.requestHeaderModifier"), &filter["requestHeaderModifier"], findings);
        headers(&format!("{path}.responseHeaderModifier"), &filter["responseHeaderModifier"], findings);
        for field in ["urlRewrite", "requestRedirect"] {
            replacement(&format!("{path}.{field}.path"), &filter[field]["path"], findings);
        }
        mirror(&format!("{path}.requestMirror"), &filter["requestMirror"], findings);
        for list in ["allowOrigins", "allowMethods", "allowHeaders"] {
            let given = &filter["cors"][list];
            let all = given.as_array().filter(|l| l.len() > 1).is_some_and(|l| l.iter().any(|v| v == "*"));
            if all {
                findings.invalid(format!("{path}.cors.{list}"), given, "\"*\" means all and stands alone");
            }
        }
    }
    let find = |kind| filters.iter().find(|(_, f)| text(f, "type") == kind);
    if let (Some((path, filter)), Some(_)) = (find("RequestRedirect"), find("URLRewrite")) {
        let why = "a request is either redirected or rewritten: RequestRedirect and URLRewrite exclude each other";
        findings.invalid(path.clone(), &filter["type"], why);
    }
}

fn headers(path: &str, modifier: &Value, findings: &mut Findings) {
    for list in ["set", "add"] {
        for (at, entry) in items(modifier, list, path) {
            if !text(entry, "value").bytes().all(|b| b == b'\t' || (b >= 0x20 && b != 0x7f)) {
                findings.invalid(format!("{at}.value"), &entry["value"], "must be the value of an HTTP field");
            }
        }
    }
    for (at, name) in items(modifier, "remove", path) {
        if !is_token(name.as_str().unwrap_or_default()) {
            findings.invalid(at, name, "must be the name of an HTTP field");
        }
    }
}

fn replacement(path: &str, modifier: &Value, findings: &mut Findings) {
    for (kind, field) in [("ReplaceFullPath", "replaceFullPath"), ("ReplacePrefixMatch", "replacePrefixMatch")] {
        if !modifier.is_object() {
            return;
        }
        if text(modifier, "type") == kind && !has(modifier, field) {
            findings.required(format!("{path}.{field}"), format_args!("type {kind} needs it"));
        } else if has(modifier, field) && text(modifier, "type") != kind {
            findings.invalid(path, &modifier["type"], format_args!("{field} needs type {kind}"));
        }
    }
}

fn mirror(path: &str, mirror: &Value, findings: &mut Findings) {
    if !mirror.is_object() {
        return;
    }
    service_port(&format!("{path}.backendRef"), &mirror["backendRef"], findings);
    share(path, mirror, findings);
}

/// A share is said as `percent` or as `fraction`, and is at most the whole.
pub(super) fn share(path: &str, of: &Value, findings: &mut Findings) {
    if has(of, "percent") && has(of, "fraction") {
        findings.forbidden(path, "percent and fraction exclude each other");
    }
    let fraction = &of["fraction"];
    if fraction["numerator"].as_u64() > Some(fraction["denominator"].as_u64().unwrap_or(100)) {
        findings.invalid(format!("{path}.fraction"), fraction, "numerator may not be greater than denominator");
    }
}

/// Replacing the prefix that was matched needs exactly one match, and that by prefix.
fn prefix_replacement(rule: &Value, path: &str, filters: &[(String, &Value)], findings: &mut Findings) {
    let by_prefix = |field: &str| {
        filters.iter().any(|(_, f)| {
            has(&f[field]["path"], "replacePrefixMatch") && text(&f[field]["path"], "type") == "ReplacePrefixMatch"
        })
    };
    let matches = items(rule, "matches", path);
    let single = matches.len() == 1 && matches.iter().all(|(_, m)| text(&m["path"], "type") == "PathPrefix");
    for (field, name) in [("requestRedirect", "RequestRedirect"), ("urlRewrite", "URLRewrite")] {
        if by_prefix(field) && !single {
            let why = format_args!(
                "{name} replaces the prefix that was matched (replacePrefixMatch): the rule needs exactly one match, of type PathPrefix"
            );
            findings.invalid(format!("{path}.matches"), &Value::from(matches.len()), why);
        }
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
    fn a_star_of_cors_stands_alone_and_a_permanent_cookie_says_for_how_long() {
        let cors = |cors: Value| json!({"rules": [{"filters": [{"type": "CORS", "cors": cors}]}]});
        for list in ["allowOrigins", "allowMethods", "allowHeaders"] {
            assert_eq!(fields(http_route, &cors(json!({list: ["*"]}))), [""; 0]);
            let field = format!("spec.rules[0].filters[0].cors.{list}");
            assert_eq!(fields(http_route, &cors(json!({list: ["*", "https://a"]}))), [field]);
        }
        let session = |session: Value| json!({"rules": [{"sessionPersistence": session}]});
        let permanent = json!({"type": "Cookie", "cookieConfig": {"lifetimeType": "Permanent"}});
        let field = "spec.rules[0].sessionPersistence.absoluteTimeout";
        assert_eq!(fields(http_route, &session(permanent.clone())), [field]);
        assert_eq!(fields(grpc_route, &session(permanent)), [field]);
    }

    #[test]
    fn a_route_of_connections_names_hosts_and_ports() {
        let spec = json!({"hostnames": ["192.0.2.1", "a.example.com"], "rules": [{"backendRefs": [
            {"group": "", "kind": "Service", "name": "a"}]}]});
        let port = "spec.rules[0].backendRefs[0].port";
        assert_eq!(fields(tls_route, &spec), [port, "spec.hostnames[0]"]);
        assert_eq!(fields(tcp_route, &spec), [port]);
        let parent = json!({"group": "", "kind": "Service", "name": "a"});
        assert_eq!(fields(tcp_route, &json!({"parentRefs": [parent, parent]})), ["spec.parentRefs[1]"]);
    }
}
