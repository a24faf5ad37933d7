//! Every kind, through its whole life: applied, got, watched, described, changed, tried without effect, selected, deleted.

use crate::program::{Kubectl, with_each};

/// One kind: how it is asked for, an object of it, and a change: what stands there, what instead, and where it is seen.
struct Kind {
    name: &'static str,
    /// `kubectl get -o name` calls it so.
    full: &'static str,
    yaml: &'static str,
    from: &'static str,
    to: &'static str,
    /// JSONPath and value once changed.
    seen: (&'static str, &'static str),
}

const KINDS: &[Kind] = &[
    Kind {
        name: "service",
        full: "service",
        yaml: "apiVersion: v1\nkind: Service\nmetadata: {name: one, namespace: loom, labels: {app: one}}\nspec: {selector: {app: one}, ports: [{name: http, port: 80, appProtocol: http}]}\n",
        from: "port: 80",
        to: "port: 8080",
        seen: ("{.spec.ports[*].port}", "8080"),
    },
    Kind {
        name: "serviceaccount",
        full: "serviceaccount",
        yaml: "apiVersion: v1\nkind: ServiceAccount\nmetadata: {name: one, namespace: loom, labels: {app: one}, annotations: {note: old}}\n",
        from: "note: old",
        to: "note: new",
        seen: ("{.metadata.annotations.note}", "new"),
    },
    Kind {
        name: "workload",
        full: "workload.weft.mesh",
        yaml: "apiVersion: weft.mesh/v1alpha1\nkind: Workload\nmetadata: {name: one, namespace: loom, labels: {app: one}}\nspec: {address: 192.0.2.7, serviceAccount: one, services: [one], ports: [{name: http, port: 80, protocol: http}]}\n",
        from: "192.0.2.7",
        to: "192.0.2.8",
        seen: ("{.spec.address}", "192.0.2.8"),
    },
    Kind {
        name: "httproute",
        full: "httproute.gateway.networking.k8s.io",
        yaml: "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {name: one, namespace: loom, labels: {app: one}}\nspec: {parentRefs: [{group: '', kind: Service, name: one, port: 80}], rules: [{timeouts: {request: 2s}, backendRefs: [{name: one, port: 80, weight: 3}]}]}\n",
        from: "weight: 3",
        to: "weight: 4",
        seen: ("{.spec.rules[0].backendRefs[0].weight}", "4"),
    },
    Kind {
        name: "grpcroute",
        full: "grpcroute.gateway.networking.k8s.io",
        yaml: "apiVersion: gateway.networking.k8s.io/v1\nkind: GRPCRoute\nmetadata: {name: one, namespace: loom, labels: {app: one}}\nspec: {parentRefs: [{group: '', kind: Service, name: one}], rules: [{matches: [{method: {service: shop.v1.Users, method: Find}}], backendRefs: [{name: one, port: 80}]}]}\n",
        from: "method: Find",
        to: "method: List",
        seen: ("{.spec.rules[0].matches[0].method.method}", "List"),
    },
    Kind {
        name: "trafficpolicy",
        full: "trafficpolicy.weft.mesh",
        yaml: "apiVersion: weft.mesh/v1alpha1\nkind: TrafficPolicy\nmetadata: {name: one, namespace: loom, labels: {app: one}}\nspec: {targetRefs: [{kind: Service, name: one}], retry: {attempts: 1}}\n",
        from: "attempts: 1",
        to: "attempts: 3",
        seen: ("{.spec.retry.attempts}", "3"),
    },
    Kind {
        name: "authorizationpolicy",
        full: "authorizationpolicy.weft.mesh",
        yaml: "apiVersion: weft.mesh/v1alpha1\nkind: AuthorizationPolicy\nmetadata: {name: one, namespace: loom, labels: {app: one}}\nspec: {action: Deny, rules: [{name: first, from: [{serviceAccounts: [cart]}]}]}\n",
        from: "action: Deny",
        to: "action: Allow",
        seen: ("{.spec.action}", "Allow"),
    },
    Kind {
        name: "meshtls",
        full: "meshtls.weft.mesh",
        yaml: "apiVersion: weft.mesh/v1alpha1\nkind: MeshTLS\nmetadata: {name: one, namespace: loom, labels: {app: one}}\nspec: {mode: Strict}\n",
        from: "mode: Strict",
        to: "mode: Permissive",
        seen: ("{.spec.mode}", "Permissive"),
    },
    Kind {
        name: "tcproute",
        full: "tcproute.gateway.networking.k8s.io",
        yaml: "apiVersion: gateway.networking.k8s.io/v1\nkind: TCPRoute\nmetadata: {name: one, namespace: loom, labels: {app: one}}\nspec: {parentRefs: [{group: '', kind: Service, name: one}], rules: [{backendRefs: [{name: one, port: 80, weight: 3}]}]}\n",
        from: "weight: 3",
        to: "weight: 4",
        seen: ("{.spec.rules[0].backendRefs[0].weight}", "4"),
    },
    Kind {
        name: "tlsroute",
        full: "tlsroute.gateway.networking.k8s.io",
        yaml: "apiVersion: gateway.networking.k8s.io/v1\nkind: TLSRoute\nmetadata: {name: one, namespace: loom, labels: {app: one}}\nspec: {hostnames: [one.example.com], parentRefs: [{group: '', kind: Service, name: one}], rules: [{backendRefs: [{name: one, port: 80}]}]}\n",
        from: "hostnames: [one.example.com]",
        to: "hostnames: ['*.example.com']",
        seen: ("{.spec.hostnames[0]}", "*.example.com"),
    },
    Kind {
        name: "ratelimitpolicy",
        full: "ratelimitpolicy.weft.mesh",
        yaml: "apiVersion: weft.mesh/v1alpha1\nkind: RateLimitPolicy\nmetadata: {name: one, namespace: loom, labels: {app: one}}\nspec: {targetRefs: [{kind: Service, name: one}], limits: [{name: all, requests: 10, per: 1s}]}\n",
        from: "requests: 10",
        to: "requests: 20",
        seen: ("{.spec.limits[0].requests}", "20"),
    },
    Kind {
        name: "requestauthentication",
        full: "requestauthentication.weft.mesh",
        yaml: "apiVersion: weft.mesh/v1alpha1\nkind: RequestAuthentication\nmetadata: {name: one, namespace: loom, labels: {app: one}}\nspec: {targetRefs: [{kind: Service, name: one}], rules: [{issuer: 'https://id.test', jwksUri: 'https://id.test/jwks'}]}\n",
        from: "issuer: 'https://id.test'",
        to: "issuer: 'https://id2.test'",
        seen: ("{.spec.rules[0].issuer}", "https://id2.test"),
    },
    // In no namespace: `-n` says nothing of it.
    Kind {
        name: "meshsettings",
        full: "meshsettings.weft.mesh",
        yaml: "apiVersion: weft.mesh/v1alpha1\nkind: MeshSettings\nmetadata: {name: default, labels: {app: one}}\nspec: {egress: Any}\n",
        from: "egress: Any",
        to: "egress: Registered",
        seen: ("{.spec.egress}", "Registered"),
    },
];

const NAMESPACE: &str = "apiVersion: v1\nkind: Namespace\nmetadata: {name: loom, labels: {app: one}}\n";

fn life(kubectl: &Kubectl, kind: &Kind) {
    let Kind { name, full, yaml, from, to, seen } = kind;
    let object = yaml.split("metadata: {name: ").nth(1).and_then(|rest| rest.split([',', '}']).next()).unwrap();
    let there = |extra: &[&str]| {
        let mut all = vec!["get", *name, "-n", "loom"];
        all.extend(extra);
        kubectl.ok(&all)
    };
    let mut watch =
        kubectl.start(&format!("watch-{name}"), &["get", name, "-n", "loom", "-w", "--output-watch-events"]);
    let dry = kubectl.file(&["apply", "--dry-run=server"], yaml);
    assert!(dry.code == 0 && dry.out.contains("created (server dry run)"), "{name}: {dry:?}");
    assert_eq!(there(&["-o", "name", "-l", "app=one"]), "", "{name}: a dry run leaves nothing");

    let applied = kubectl.apply(yaml);
    assert_eq!(applied.trim(), format!("{full}/{object} created"));
    watch.wait_for_log("ADDED");
    assert!(there(&[]).contains(object), "{name}");
    assert!(there(&[object, "-o", "wide"]).starts_with("NAME"), "{name}");
    let shown = there(&[object, "-o", "yaml"]);
    assert!(
        shown.contains(&format!("name: {object}")) && shown.contains("resourceVersion:") && shown.contains("uid:"),
        "{name}: {shown}"
    );
    assert_eq!(there(&["-l", "app=one", "-o", "name"]).trim(), format!("{full}/{object}"));
    assert_eq!(there(&["-l", "app=two", "-o", "name"]), "", "{name}");
    assert_eq!(there(&["-l", "app in (one,two),app!=two", "-o", "name"]).trim(), format!("{full}/{object}"));
    let described = kubectl.ok(&["describe", name, object, "-n", "loom"]);
    assert!(described.contains("Name:") && described.contains("app=one"), "{name}: {described}");

    let changed = yaml.replace(from, to);
    assert_ne!(changed, *yaml, "{name}: the change is one");
    let before = there(&[object, "-o", "jsonpath={.metadata.resourceVersion}"]);
    let dry = kubectl.file(&["apply", "--dry-run=server"], &changed);
    assert!(dry.code == 0 && dry.out.contains("configured (server dry run)"), "{name}: {dry:?}");
    let value = format!("jsonpath={}", seen.0);
    assert_ne!(there(&[object, "-o", &value]), seen.1, "{name}: a dry run changes nothing");
    let applied = kubectl.apply(&changed);
    assert_eq!(applied.trim(), format!("{full}/{object} configured"));
    assert_eq!(there(&[object, "-o", &value]), seen.1, "{name}");
    watch.wait_for_log("MODIFIED");
    assert_ne!(there(&[object, "-o", "jsonpath={.metadata.resourceVersion}"]), before);
    kubectl.ok(&["label", name, object, "-n", "loom", "tier=back"]);
    assert_eq!(there(&["-l", "tier=back", "-o", "name"]).trim(), format!("{full}/{object}"));

    // Whoever replaces what somebody else changed meanwhile is told so.
    let mut stale = kubectl.json(&["get", name, object, "-n", "loom"]);
    stale["metadata"]["resourceVersion"] = before.into();
    let stale = serde_json::to_string(&stale).unwrap();
    let conflict = kubectl.file(&["replace"], &stale);
    assert!(conflict.code != 0 && conflict.err.contains("the object has been modified"), "{name}: {conflict:?}");

    let deleted = kubectl.ok(&["delete", name, object, "-n", "loom"]);
    assert!(deleted.contains(&format!("\"{object}\" deleted")), "{name}: {deleted}");
    watch.wait_for_log("DELETED");
    assert!(kubectl.fails(&["get", name, object, "-n", "loom"]).contains("NotFound"), "{name}");
    watch.stop();
    println!("{name}: applied, watched, described, changed, selected, deleted");
}

#[test]
fn every_kind_lives_its_whole_life() {
    with_each(|kubectl| {
        assert_eq!(kubectl.apply(NAMESPACE).trim(), "namespace/loom created");
        for kind in KINDS {
            life(kubectl, kind);
        }
        // A namespace, which is in none, takes what is in it along.
        assert!(kubectl.ok(&["get", "ns"]).contains("loom"));
        assert!(kubectl.ok(&["get", "ns", "loom", "-o", "yaml"]).contains("name: loom"));
        assert_eq!(kubectl.ok(&["get", "ns", "-l", "app=one", "-o", "name"]).trim(), "namespace/loom");
        assert!(kubectl.ok(&["describe", "ns", "loom"]).contains("Active"));
        let labelled = kubectl.apply(&NAMESPACE.replace("app: one", "app: one, tier: front"));
        assert_eq!(labelled.trim(), "namespace/loom configured");
        kubectl.apply(KINDS[0].yaml);
        assert!(kubectl.ok(&["delete", "ns", "loom"]).contains("deleted"));
        assert!(kubectl.fails(&["get", "service", "one", "-n", "loom"]).contains("NotFound"));
        assert!(kubectl.fails(&["get", "ns", "loom"]).contains("NotFound"));
    });
}

#[test]
fn all_kinds_are_applied_and_deleted_from_one_file() {
    with_each(|kubectl| {
        let all: Vec<&str> = std::iter::once(NAMESPACE).chain(KINDS.iter().map(|k| k.yaml)).collect();
        let all = all.join("---\n");
        let applied = kubectl.apply(&all);
        assert_eq!(applied.lines().filter(|l| l.ends_with(" created")).count(), 1 + KINDS.len(), "{applied}");
        let again = kubectl.file(&["diff"], &all);
        assert!(again.code <= 1, "{again:?}");
        // The namespace goes first, and what is in it along with it.
        let output = kubectl.file(&["delete", "--ignore-not-found"], &all);
        assert_eq!(output.code, 0, "{output:?}");
        assert_eq!(
            kubectl.ok(&[
                "get",
                "svc,sa,wl,httproute,grpcroute,tcproute,tlsroute,tp,authz,meshtls,rlp,meshsettings",
                "-n",
                "loom",
                "-o",
                "name"
            ]),
            ""
        );
        println!("{} objects applied and deleted by file", 1 + KINDS.len());
    });
}

#[test]
fn what_is_wrong_is_refused_with_its_field() {
    with_each(|kubectl| {
        kubectl.apply(NAMESPACE);
        for (yaml, field) in [
            (KINDS[5].yaml.replace("attempts: 1", "attempts: 99"), "spec.retry.attempts"),
            (KINDS[5].yaml.replace("attempts: 1", "tries: 1"), "spec.retry.tries"),
            (KINDS[3].yaml.replace("weight: 3", "weight: -3"), "spec.rules[0].backendRefs[0].weight"),
            (KINDS[7].yaml.replace("Strict", "Sometimes"), "spec.mode"),
        ] {
            let output = kubectl.file(&["apply"], &yaml);
            println!("{}", output.err.trim());
            assert!(output.code != 0 && output.err.contains(field), "{field}: {output:?}");
        }
        assert_eq!(kubectl.ok(&["get", "httproute,tp,meshtls", "-n", "loom", "-o", "name"]), "");
    });
}
