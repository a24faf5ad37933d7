//! Resources that are wrong: refused with field and reason before anything changes; and what only a sidecar can refuse leaves the last
//! good one in force and is told to whoever asks for the object.

use crate::forger::{FORGED, Forger};
use crate::stage::{Caller, Instance, apply, condition, file, services, text};
use serde_json::Value;
use weft_integration::rig::{Mesh, wait_for};

/// A route of catalog with one rule.
fn route(rule: &str) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: catalog, namespace: shop}}\nspec:\n  \
         parentRefs: [{{group: '', kind: Service, name: catalog, port: 80}}]\n  rules: [{rule}]\n"
    )
}

/// A traffic policy of catalog.
fn policy(spec: &str) -> String {
    format!(
        "apiVersion: weft.mesh/v1alpha1\nkind: TrafficPolicy\nmetadata: {{name: catalog, namespace: shop}}\nspec: \
         {{targetRefs: [{{kind: Service, name: catalog}}], {spec}}}\n"
    )
}

const BACKEND: &str = "backendRefs: [{name: catalog, port: 80}]";

/// Everything of the namespace as it is stored: versions say whether anything was written.
fn stored(mesh: &Mesh) -> Vec<(String, String)> {
    let kinds = "svc,sa,wl,httproute,grpcroute,tcproute,tlsroute,tp,authz,meshtls,rlp";
    let all = mesh.weft(&["get", kinds, "-n", "shop", "-o", "json"]).ok();
    let all: Value = serde_json::from_str(&all).unwrap();
    let of = |object: &Value| {
        let name = format!("{}/{}", object["kind"].as_str().unwrap(), object["metadata"]["name"].as_str().unwrap());
        (name, object["metadata"]["generation"].to_string() + &object["spec"].to_string())
    };
    all["items"].as_array().unwrap().iter().map(of).collect()
}

#[test]
fn a_wrong_resource_is_refused_with_field_and_reason_and_nothing_changes() {
    let mesh = Mesh::start();
    services(&mesh, "shop", &["catalog"], 80, "http");
    apply(&mesh, &route(&format!("{{{BACKEND}}}")));
    apply(&mesh, &policy("retry: {attempts: 1}"));
    let before = stored(&mesh);
    let authz = |rule: &str| {
        format!(
            "apiVersion: weft.mesh/v1alpha1\nkind: AuthorizationPolicy\nmetadata: {{name: a, namespace: shop}}\nspec: {{rules: [{rule}]}}\n"
        )
    };
    // What is wrong; the field that must be named; a word of the reason.
    let cases = [
        (policy("retries: {attempts: 1}"), "spec.retries", "unknown field"),
        (route(&format!("{{{BACKEND}, timeout: 1s}}")), "spec.rules[0].timeout", "unknown field"),
        (policy("retry: {attempts: many}"), "spec.retry.attempts", "integer"),
        (policy("retry: {attempts: 99}"), "spec.retry.attempts", "10"),
        (policy("loadBalancer: {policy: Magic}"), "spec.loadBalancer.policy", "PeakEwma"),
        (policy("timeouts: {request: soon}"), "spec.timeouts.request", ""),
        (policy("timeouts: {request: 1s, backendRequest: 2s}"), "spec.timeouts.backendRequest", "exceed"),
        (policy("circuitBreaker: {baseOpen: 10s, maxOpen: 1s}"), "spec.circuitBreaker.baseOpen", "maxOpen"),
        (
            route("{backendRefs: [{name: catalog, port: 80, weight: -1}]}"),
            "spec.rules[0].backendRefs[0].weight",
            "0",
        ),
        (
            route(&format!("{{{BACKEND}, timeouts: {{request: 1s, backendRequest: 2s}}}}")),
            "spec.rules[0].timeouts",
            "longer than request",
        ),
        (
            route(&format!("{{{BACKEND}, matches: [{{path: {{type: RegularExpression, value: '/(('}}}}]}}")),
            "spec.rules[0].matches[0].path.value",
            "",
        ),
        (
            route(&format!("{{{BACKEND}, matches: [{{path: {{type: Glob, value: '/a'}}}}]}}")),
            "spec.rules[0].matches[0].path.type",
            "PathPrefix",
        ),
        (
            route(&format!("{{{BACKEND}, matches: [{{method: FETCH}}]}}")),
            "spec.rules[0].matches[0].method",
            "GET",
        ),
        (route("{backendRefs: [{name: catalog}]}"), "spec.rules[0].backendRefs[0].port", ""),
        (authz("{from: [{identities: [cart]}]}"), "spec.rules[0].from[0].identities[0]", "SPIFFE"),
        (authz("{to: [{methods: [get]}]}"), "spec.rules[0].to[0].methods[0]", "upper case"),
        (
            "apiVersion: weft.mesh/v1alpha1\nkind: MeshTLS\nmetadata: {name: m, namespace: shop}\nspec: {mode: Sometimes}\n".to_owned(),
            "spec.mode",
            "Strict",
        ),
        (
            "apiVersion: v1\nkind: Service\nmetadata: {name: b, namespace: shop}\nspec: {ports: [{port: 70000}]}\n".to_owned(),
            "spec.ports[0].port",
            "65535",
        ),
        (
            "apiVersion: weft.mesh/v1alpha1\nkind: Workload\nmetadata: {name: w, namespace: shop}\nspec: {address: here}\n".to_owned(),
            "spec.address",
            "",
        ),
    ];
    let mut wrong = Vec::new();
    for (yaml, field, reason) in &cases {
        let output = mesh.apply(yaml);
        println!("{}", output.err.trim());
        if output.code != 1 || !output.err.contains(field) || !output.err.contains(reason) || !output.out.is_empty() {
            wrong.push(format!("{yaml}wants {field}: {reason}, got {}: {}{}", output.code, output.out, output.err));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert_eq!(stored(&mesh), before);

    // What is no YAML, says not what it is, or is of a kind that nobody knows.
    for (yaml, code, word) in [
        ("a: [", 2, "stdin"),
        ("kind: Service\nmetadata: {name: a}\n", 2, "apiVersion"),
        ("apiVersion: example.com/v1\nkind: Loom\nmetadata: {name: a}\n", 1, "Loom"),
    ] {
        let output = mesh.apply(yaml);
        assert_eq!(output.code, code, "{yaml}: {}", output.err);
        assert!(output.err.contains(word), "{yaml}: {}", output.err);
    }
    assert_eq!(stored(&mesh), before);
}

#[test]
fn of_several_documents_one_wrong_one_keeps_all_from_being_applied() {
    let mesh = Mesh::start();
    services(&mesh, "shop", &["catalog"], 80, "http");
    apply(&mesh, &policy("retry: {attempts: 1}"));
    let before = stored(&mesh);
    let good = policy("retry: {attempts: 2}");
    let bad = route("{backendRefs: [{name: catalog, port: 80, weight: -1}]}");
    let worse = good
        .replace("name: catalog, namespace", "name: other, namespace")
        .replace("attempts: 2", "attempts: 2, tries: 3");
    let service =
        "apiVersion: v1\nkind: Service\nmetadata: {name: fresh, namespace: shop}\nspec: {ports: [{port: 80}]}\n";
    let output = mesh.apply(&[service, &good, &bad, &worse].join("---\n"));
    println!("{}", output.err);
    assert_eq!(output.code, 1);
    assert!(output.out.is_empty(), "{}", output.out);
    // Each of them is named: nobody has to try three times.
    for text in ["stdin#3", "spec.rules[0].backendRefs[0].weight", "stdin#4", "spec.retry.tries", "nothing was changed"]
    {
        assert!(output.err.contains(text), "{text}: {}", output.err);
    }
    assert_eq!(stored(&mesh), before);
    // Without the wrong ones the rest is fine.
    mesh.apply(&[service, &good].join("---\n")).ok();
    assert_ne!(stored(&mesh), before);
}

#[test]
fn what_only_a_sidecar_refuses_leaves_the_last_good_route_in_force_and_is_told_in_the_status() {
    let mesh = Mesh::start();
    let _catalog = Instance::catalog(&mesh, "catalog-1", "v1");
    let marked = |name: &str, mark: &str| {
        route(&format!(
            "{{name: {name}, {BACKEND}, filters: [{{type: ResponseHeaderModifier, responseHeaderModifier: {{set: [{{name: x-rule, value: {mark}}}]}}}}]}}"
        ))
    };
    apply(&mesh, &marked("plain", "first"));
    // It joins by itself, and comes back through somebody who falsifies.
    let mut first = Caller::start(&mesh, "shop", "caller");
    first.sidecar.process.stop();
    let forger = Forger::start(&mesh, &first.sidecar.state);
    let address = forger.address.to_string();
    let caller = Caller::start_with(&mesh, "shop", "caller", &["--control-plane", &address]);
    let rule = || caller.get("http://catalog/items").header("x-rule").map(str::to_owned);
    assert_eq!(rule().as_deref(), Some("first"));

    let path = file(&mesh, &marked(FORGED, "second"));
    let output = mesh.weft(&["apply", "--wait", "-f", text(&path)]);
    println!("{}", output.err);
    assert_eq!(output.code, 1, "--wait says that it is not in force: {}{}", output.out, output.err);
    assert!(output.err.contains("shop/caller refused shop/catalog"), "{}", output.err);
    let programmed = condition(&mesh.object("httproute", "shop", "catalog"), "Programmed");
    println!("{programmed}");
    assert_eq!((&programmed["status"], &programmed["reason"]), (&"False".into(), &"Refused".into()), "{programmed}");
    let message = programmed["message"].as_str().unwrap_or_default();
    for part in ["shop/caller", "ports[0].frontend.routes[0].rules[0].matches[0].pathRegex", "no regular expression"] {
        assert!(message.contains(part), "{part}: {message}");
    }
    let check = mesh.weft(&["check"]);
    assert!(check.code == 1 && check.out.contains("shop/catalog"), "{}: {}", check.code, check.out);
    // The edition before it is in force, and the sidecar says so.
    assert_eq!(rule().as_deref(), Some("first"));
    assert!(caller.sidecar.metric("weft_xds_refused", &[]) > 0.5, "{}", caller.sidecar.metrics());

    // The next good one is taken, and all is well again.
    apply(&mesh, &marked("plain", "third"));
    assert_eq!(rule().as_deref(), Some("third"));
    wait_for("the condition follows", || {
        let programmed = condition(&mesh.object("httproute", "shop", "catalog"), "Programmed");
        if programmed["status"] == "True" { Ok(()) } else { Err(programmed.to_string()) }
    });
}
