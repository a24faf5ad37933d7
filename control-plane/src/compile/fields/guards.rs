//! The fields of AuthorizationPolicy and RequestAuthentication.

use super::Row;
use serde_json::{Value, json};

pub(super) fn authorization_policy() -> Vec<Row> {
    let leaked = |text: String| -> &'static str { Box::leak(text.into_boxed_str()) };
    let mut rows = scoped(
        "action: Deny, rules: [{}]",
        "inbound/authorization",
        &json!([
            {"name": "shop/p", "action": "ACTION_DENY", "rules": [{"name": "rules[0]"}]},
        ]),
    );
    rows.extend([
        (
            "action",
            "{rules: [{}]}",
            "{action: Audit, rules: [{}]}",
            "inbound/authorization/0/action",
            json!("ACTION_AUDIT"),
        ),
        (
            "responseHeader",
            "{rules: [{}]}",
            "{responseHeader: true, rules: [{}]}",
            "inbound/authorizationHeader",
            json!(true),
        ),
        (
            "rules[].name",
            "{rules: [{}]}",
            "{rules: [{name: mine}]}",
            "inbound/authorization/0/rules/0/name",
            json!("mine"),
        ),
    ] as [Row; 3]);
    for (part, list, value, wire) in [
        ("from", "identities", "spiffe://weft.local/ns/a/*", json!("spiffe://weft.local/ns/a/*")),
        ("from", "notIdentities", "'*'", json!("*")),
        ("from", "namespaces", "bank", json!("bank")),
        ("from", "notNamespaces", "bank", json!("bank")),
        ("from", "serviceAccounts", "cart", json!("shop/cart")),
        ("from", "notServiceAccounts", "bank/cart", json!("bank/cart")),
        ("from", "ipBlocks", "192.0.2.0/24", json!("192.0.2.0/24")),
        ("from", "notIpBlocks", "'2001:db8::1'", json!("2001:db8::1")),
        ("from", "requestPrincipals", "iss/sub", json!("iss/sub")),
        ("from", "notRequestPrincipals", "'*'", json!("*")),
        ("to", "hosts", "a.test", json!("a.test")),
        ("to", "notHosts", "'*.test:80'", json!("*.test:80")),
        ("to", "ports", "8080", json!(8080)),
        ("to", "notPorts", "9090", json!(9090)),
        ("to", "methods", "GET", json!("GET")),
        ("to", "notMethods", "PUT", json!("PUT")),
        ("to", "paths", "/a", json!("/a")),
        ("to", "notPaths", "'/{*}/b'", json!("/{*}/b")),
    ] {
        rows.push((
            leaked(format!("rules[].{part}[].{list}[]")),
            leaked(format!("{{rules: [{{{part}: [{{}}]}}]}}")),
            leaked(format!("{{rules: [{{{part}: [{{{list}: [{value}]}}]}}]}}")),
            leaked(format!("inbound/authorization/0/rules/0/{part}/0/{list}")),
            json!([wire]),
        ));
    }
    for (field, before, after, wire) in [
        (
            "key",
            "key: source.ip, values: [192.0.2.1]",
            "key: 'request.headers[a]', values: [192.0.2.1]",
            json!("request.headers[a]"),
        ),
        ("values[]", "key: source.namespace, values: [a]", "key: source.namespace, values: [b]", json!(["b"])),
        ("notValues[]", "key: source.namespace, notValues: [a]", "key: source.namespace, notValues: [b]", json!(["b"])),
    ] {
        rows.push((
            leaked(format!("rules[].when[].{field}")),
            leaked(format!("{{rules: [{{when: [{{{before}}}]}}]}}")),
            leaked(format!("{{rules: [{{when: [{{{after}}}]}}]}}")),
            leaked(format!("inbound/authorization/0/rules/0/when/0/{}", field.trim_end_matches("[]"))),
            wire,
        ));
    }
    rows
}

/// Targets and selectors: each reaches the workload, or something else does not.
fn scoped(spec: &str, place: &'static str, wire: &Value) -> Vec<Row> {
    let leaked = |text: String| -> &'static str { Box::leak(text.into_boxed_str()) };
    let with = |scope: &str| leaked(format!("{{{scope}, {spec}}}"));
    let service = "targetRefs: [{kind: Service, name: catalog, sectionName: http}]";
    let workload = "targetRefs: [{group: weft.mesh, kind: Workload, name: catalog-1}]";
    let selected = |selector: &str| with(&format!("targetRefs: [], selector: {{{selector}}}"));
    let any = "matchExpressions: [{key: app, operator: In, values: [catalog]}]";
    let rows = [
        ("targetRefs[].group", with("targetRefs: [{kind: Workload, name: catalog-1}]"), with(workload)),
        ("targetRefs[].kind", with("targetRefs: [{group: weft.mesh, kind: Service, name: catalog-1}]"), with(workload)),
        ("targetRefs[].name", with("targetRefs: [{kind: Service, name: nobody}]"), with(service)),
        (
            "targetRefs[].sectionName",
            with("targetRefs: [{kind: Service, name: catalog, sectionName: other}]"),
            with(service),
        ),
        ("selector.matchLabels", selected("matchLabels: {app: x}"), selected("matchLabels: {app: catalog}")),
        (
            "selector.matchExpressions[].key",
            selected("matchExpressions: [{key: x, operator: In, values: [catalog]}]"),
            selected(any),
        ),
        (
            "selector.matchExpressions[].operator",
            selected("matchExpressions: [{key: app, operator: NotIn, values: [catalog]}]"),
            selected(any),
        ),
        (
            "selector.matchExpressions[].values[]",
            selected("matchExpressions: [{key: app, operator: In, values: [x]}]"),
            selected(any),
        ),
    ];
    rows.into_iter().map(|(field, before, after)| (field, before, after, place, wire.clone())).collect()
}

const KEYS: &str =
    r#"{"keys":[{"kty":"OKP","crv":"Ed25519","kid":"a","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}"#;
pub(super) const OTHER_KEYS: &str =
    r#"{"keys":[{"kty":"OKP","crv":"Ed25519","kid":"b","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}"#;

pub(super) fn request_authentication() -> Vec<Row> {
    let leaked = |text: String| -> &'static str { Box::leak(text.into_boxed_str()) };
    let base = format!("issuer: a, jwks: '{KEYS}'");
    let with = |more: &str| leaked(format!("{{rules: [{{{base}{more}}}]}}"));
    let rule = json!({"issuer": "a", "jwks": KEYS});
    let mut rows = scoped(
        &format!("rules: [{{{base}}}]"),
        "inbound/requestAuthentication",
        &json!([{"name": "shop/p", "rules": [rule]}]),
    );
    rows.extend([
        (
            "optional",
            with(""),
            leaked(format!("{{optional: true, rules: [{{{base}}}]}}")),
            "inbound/requestAuthentication/0/optional",
            json!(true),
        ),
        (
            "rules[].issuer",
            with(""),
            leaked(format!("{{rules: [{{issuer: b, jwks: '{KEYS}'}}]}}")),
            "inbound/requestAuthentication/0/rules/0/issuer",
            json!("b"),
        ),
        (
            "rules[].jwks",
            with(""),
            leaked(format!("{{rules: [{{issuer: a, jwks: '{OTHER_KEYS}'}}]}}")),
            "inbound/requestAuthentication/0/rules/0/jwks",
            json!(OTHER_KEYS),
        ),
        (
            "rules[].jwksUri",
            with(""),
            "{rules: [{issuer: a, jwksUri: 'https://id.test/jwks'}]}",
            "inbound/requestAuthentication/0/rules/0/jwks",
            json!(OTHER_KEYS),
        ),
    ] as [Row; 4]);
    for (field, more, place, wire) in [
        ("audiences[]", "audiences: [x]", "audiences", json!(["x"])),
        ("fromHeaders[].name", "fromHeaders: [{name: x-token}]", "fromHeaders", json!([{"name": "x-token"}])),
        ("fromParams[]", "fromParams: [t]", "fromParams", json!(["t"])),
        ("fromCookies[]", "fromCookies: [t]", "fromCookies", json!(["t"])),
        ("forwardOriginalToken", "forwardOriginalToken: true", "forwardOriginalToken", json!(true)),
        ("clockSkew", "clockSkew: 5s", "clockSkew", json!("5s")),
    ] {
        rows.push((
            leaked(format!("rules[].{field}")),
            with(""),
            with(&format!(", {more}")),
            leaked(format!("inbound/requestAuthentication/0/rules/0/{place}")),
            wire,
        ));
    }
    let header =
        |name: &str, claim: &str| with(&format!(", outputClaimToHeaders: [{{header: {name}, claim: {claim}}}]"));
    let output = "inbound/requestAuthentication/0/rules/0/outputClaimToHeaders/0";
    rows.extend([
        (
            "rules[].fromHeaders[].prefix",
            with(", fromHeaders: [{name: x-token}]"),
            with(", fromHeaders: [{name: x-token, prefix: 'Token '}]"),
            "inbound/requestAuthentication/0/rules/0/fromHeaders/0/prefix",
            json!("Token "),
        ),
        (
            "rules[].outputClaimToHeaders[].header",
            header("x-a", "sub"),
            header("x-b", "sub"),
            leaked(format!("{output}/header")),
            json!("x-b"),
        ),
        (
            "rules[].outputClaimToHeaders[].claim",
            header("x-a", "sub"),
            header("x-a", "a.b"),
            leaked(format!("{output}/claim")),
            json!("a.b"),
        ),
    ] as [Row; 3]);
    rows
}
