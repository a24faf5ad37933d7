//! Server-side apply as people use it with kubectl: owners, conflicts, taking over, moving over from the other way of applying.

use crate::program::{Kubectl, with_each};
use serde_json::Value;

const NAMESPACE: &str = "apiVersion: v1\nkind: Namespace\nmetadata: {name: loom}\n";

fn service(spec: &str) -> String {
    format!("apiVersion: v1\nkind: Service\nmetadata: {{name: cart, namespace: loom}}\nspec: {spec}\n")
}

fn apply_as(kubectl: &Kubectl, who: &str, spec: &str, more: &[&str]) -> weft_integration::rig::Output {
    let who = format!("--field-manager={who}");
    let mut verb = vec!["apply", "--server-side", &who];
    verb.extend(more);
    kubectl.file(&verb, &service(spec))
}

/// Name and operation of who owns something of the object.
fn owners(kubectl: &Kubectl) -> Vec<(String, String)> {
    let object = kubectl.json(&["get", "service", "cart", "-n", "loom", "--show-managed-fields"]);
    let text = |entry: &Value, field: &str| entry[field].as_str().unwrap().to_owned();
    let entries = object["metadata"]["managedFields"].as_array().expect("somebody owns something");
    entries.iter().map(|e| (text(e, "manager"), text(e, "operation"))).collect()
}

#[test]
fn what_another_manager_owns_is_a_conflict_until_it_is_forced() {
    with_each(|kubectl| {
        kubectl.apply(NAMESPACE);
        let made = apply_as(kubectl, "ana", "{ports: [{port: 80, name: http}]}", &[]);
        assert_eq!((made.code, made.out.trim()), (0, "service/cart serverside-applied"), "{made:?}");
        let web = "{ports: [{port: 80, name: web}], selector: {app: cart}}";
        let refused = apply_as(kubectl, "ben", web, &[]);
        let conflict =
            "Apply failed with 1 conflict: conflict with \"ana\": .spec.ports[port=80,protocol=\"TCP\"].name";
        assert!(refused.code == 1 && refused.err.contains(conflict), "{refused:?}");
        let differs =
            kubectl.file(&["diff", "--server-side", "--force-conflicts", "--field-manager=ben"], &service(web));
        assert!(differs.code == 1 && differs.out.contains("name: web"), "{differs:?}");
        let dry = apply_as(kubectl, "ben", web, &["--force-conflicts", "--dry-run=server"]);
        assert!(dry.out.contains("serverside-applied (server dry run)"), "{dry:?}");
        assert_eq!(owners(kubectl), [("ana".into(), "Apply".into())]);
        let taken = apply_as(kubectl, "ben", web, &["--force-conflicts"]);
        assert_eq!(taken.code, 0, "{taken:?}");
        let same = kubectl.file(&["diff", "--server-side", "--field-manager=ben"], &service(web));
        assert_eq!(same.code, 0, "{same:?}");
        // What ben no longer wants goes; what ana wants too stays.
        let left = apply_as(kubectl, "ben", "{ports: [{port: 80}]}", &[]);
        assert_eq!(left.code, 0, "{left:?}");
        let object = kubectl.json(&["get", "service", "cart", "-n", "loom"]);
        assert_eq!((object["spec"].get("selector"), &object["spec"]["ports"][0]["port"]), (None, &Value::from(80)));
        assert!(
            object["metadata"].get("managedFields").is_none(),
            "kubectl does not show who owns what unless it is asked"
        );
        println!("conflict, force, diff and giving up");
    });
}

#[test]
fn an_object_that_was_applied_the_other_way_moves_over() {
    with_each(|kubectl| {
        kubectl.apply(NAMESPACE);
        kubectl.apply(&service("{ports: [{port: 80, name: http}], selector: {app: cart}}"));
        assert!(owners(kubectl).contains(&("kubectl-client-side-apply".into(), "Update".into())));
        let last = kubectl.ok(&["apply", "view-last-applied", "service", "cart", "-n", "loom"]);
        assert!(last.contains("name: http"), "{last}");
        let moved = kubectl.file(&["apply", "--server-side"], &service("{ports: [{port: 80, name: web}]}"));
        assert_eq!(moved.code, 0, "{moved:?}");
        let owners = owners(kubectl);
        assert!(owners.contains(&("kubectl".into(), "Apply".into())), "{owners:?}");
        assert!(!owners.iter().any(|(manager, _)| manager == "kubectl-client-side-apply"), "{owners:?}");
        let object = kubectl.json(&["get", "service", "cart", "-n", "loom"]);
        assert_eq!((&object["spec"]["ports"][0]["name"], object["spec"].get("selector")), (&Value::from("web"), None));
        let last = kubectl.ok(&["apply", "view-last-applied", "service", "cart", "-n", "loom"]);
        assert!(last.contains("name: web"), "{last}");
        // And back.
        assert!(kubectl.apply(&service("{ports: [{port: 80, name: back}]}")).contains("configured"));
        println!("moved over, and back");
    });
}

#[test]
fn describe_shows_what_happened_and_no_secrets() {
    with_each(|kubectl| {
        kubectl.apply(NAMESPACE);
        kubectl.apply(&service("{ports: [{port: 80}], selector: {app: cart}}"));
        kubectl.apply("apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {name: cart, namespace: loom}\nspec: {parentRefs: [{group: '', kind: Service, name: cart}], rules: [{backendRefs: [{name: nowhere, port: 80}]}]}\n");
        let described = weft_integration::rig::wait_for("the service's events tell of the route", || {
            let described = kubectl.ok(&["describe", "service", "cart", "-n", "loom"]);
            if described.contains("BackendNotFound") { Ok(described) } else { Err(described) }
        });
        assert!(described.contains("Warning") && described.contains("HTTPRoute loom/cart"), "{described}");
        assert!(kubectl.ok(&["describe", "httproute", "cart", "-n", "loom"]).contains("BackendNotFound"));
        let events = kubectl.ok(&["get", "events", "-n", "loom"]);
        assert!(events.starts_with("LAST SEEN") && events.contains("service/cart"), "{events}");
        assert!(kubectl.ok(&["events", "--for", "service/cart", "-n", "loom"]).contains("BackendNotFound"));

        kubectl.apply("apiVersion: weft.mesh/v1alpha1\nkind: TrafficPolicy\nmetadata: {name: cart, namespace: loom}\nspec: {targetRefs: [{kind: Service, name: cart}], retry: {attempts: 1}}\n");
        kubectl.ok(&["wait", "tp/cart", "-n", "loom", "--for=condition=Accepted", "--timeout=20s"]);
        assert!(kubectl.ok(&["describe", "tp", "cart", "-n", "loom"]).contains("Accepted"));

        // Its own kinds kubectl sends in Protocol Buffers, since 1.33.
        kubectl.ok(&["create", "secret", "generic", "key", "-n", "loom", "--from-literal=password=hunter2"]);
        kubectl.ok(&["create", "configmap", "page", "-n", "loom", "--from-literal=title=Shop"]);
        kubectl.ok(&["create", "namespace", "other"]);
        kubectl.ok(&["create", "serviceaccount", "cart", "-n", "loom"]);
        kubectl.ok(&["create", "service", "clusterip", "made", "-n", "loom", "--tcp=80:8080"]);
        let made = kubectl.json(&["get", "service", "made", "-n", "loom"]);
        assert_eq!(
            (&made["spec"]["ports"][0]["targetPort"], &made["spec"]["selector"]["app"]),
            (&8080.into(), &"made".into()),
            "{made}"
        );
        let table = kubectl.ok(&["get", "secret,configmap", "-n", "loom"]);
        assert!(table.contains("Opaque") && !table.contains("hunter2") && !table.contains("aHVudGVyMg"), "{table}");
        let described = kubectl.ok(&["describe", "secret", "key", "-n", "loom"]);
        assert!(described.contains("password:  7 bytes") && !described.contains("aHVudGVyMg"), "{described}");
        assert!(kubectl.ok(&["describe", "configmap", "page", "-n", "loom"]).contains("Shop"));
        let own = kubectl.mesh.weft(&["describe", "secret", "key", "-n", "loom"]).ok();
        assert!(own.contains("password: (7 bytes)") && !own.contains("aHVudGVyMg"), "{own}");
        let own = kubectl.mesh.weft(&["describe", "service", "cart", "-n", "loom"]).ok();
        assert!(own.contains("events:") && own.contains("BackendNotFound"), "{own}");
        println!("events, conditions and secrets are shown as they should be");
    });
}

#[test]
fn gateways_are_kept_for_whoever_serves_them() {
    with_each(|kubectl| {
        kubectl.apply(NAMESPACE);
        let made = kubectl.apply(
            "apiVersion: gateway.networking.k8s.io/v1\nkind: GatewayClass\nmetadata: {name: edge}\nspec: {controllerName: example.com/edge}\n---\n\
             apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {name: edge, namespace: loom}\nspec: {gatewayClassName: edge, listeners: [{name: http, port: 80, protocol: HTTP}]}\n---\n\
             apiVersion: gateway.networking.k8s.io/v1\nkind: ReferenceGrant\nmetadata: {name: cart, namespace: loom}\nspec: {from: [{group: gateway.networking.k8s.io, kind: HTTPRoute, namespace: shop}], to: [{group: '', kind: Service}]}\n",
        );
        assert_eq!(made.lines().filter(|l| l.ends_with(" created")).count(), 3, "{made}");
        assert!(kubectl.ok(&["get", "gc,gtw,refgrant", "-n", "loom"]).contains("example.com/edge"));
        let patch = r#"{"spec":{"controllerName":"example.com/other"}}"#;
        let refused = kubectl.fails(&["patch", "gc", "edge", "--type=merge", "-p", patch]);
        assert!(refused.contains("field is immutable"), "{refused}");
        kubectl.ok(&["delete", "gc", "edge"]);
        println!("gateway classes, gateways and grants");
    });
}

#[test]
fn weft_applies_edits_and_explains_a_conflict() {
    let kubectl = Kubectl::newest();
    let weft = |arguments: &[&str], yaml: &str| {
        let path = kubectl.mesh.folder().join("weft.yaml");
        std::fs::write(&path, yaml).unwrap();
        let mut all = arguments.to_vec();
        all.extend(["-f", path.to_str().unwrap()]);
        kubectl.mesh.weft(&all)
    };
    kubectl.apply(NAMESPACE);
    let http = service("{ports: [{port: 80, name: http}], selector: {app: cart}}");
    assert_eq!(weft(&["apply"], &http).ok().trim(), "service/cart created");
    assert_eq!(weft(&["apply"], &http).ok().trim(), "service/cart unchanged");
    assert_eq!(owners(&kubectl), [("weft".into(), "Apply".into())]);
    let dry = weft(&["apply", "--dry-run"], &http.replace("http", "web")).ok();
    assert_eq!(dry.trim(), "service/cart configured (dry run)");
    assert_eq!(weft(&["apply"], &service("{ports: [{port: 80, name: http}]}")).ok().trim(), "service/cart configured");
    let object = kubectl.json(&["get", "service", "cart", "-n", "loom"]);
    assert!(object["spec"].get("selector").is_none(), "what the file no longer says goes: {object}");

    assert_eq!(apply_as(&kubectl, "ana", "{ports: [{port: 80, name: web}]}", &["--force-conflicts"]).code, 0);
    let refused = weft(&["apply"], &http);
    assert_eq!(refused.code, 1, "{refused:?}");
    assert!(refused.err.contains("conflict with \"ana\"") && refused.err.contains("--force-conflicts"), "{refused:?}");
    assert_eq!(weft(&["apply", "--force-conflicts"], &http).ok().trim(), "service/cart configured");

    // The two ways of applying may take turns.
    kubectl.apply(&service("{ports: [{port: 80, name: turn}]}"));
    let yaml = kubectl.mesh.weft(&["get", "service", "cart", "-n", "loom", "-o", "yaml"]).ok();
    assert!(yaml.contains("name: turn") && !yaml.contains("managedFields"), "{yaml}");
    let shown =
        kubectl.mesh.weft(&["get", "service", "cart", "-n", "loom", "-o", "yaml", "--show-managed-fields"]).ok();
    assert!(shown.contains("managedFields"), "{shown}");

    let edit = |script: &str| {
        let mut edit = kubectl.mesh.command(&["edit", "service/cart", "-n", "loom"]);
        weft_integration::rig::run(edit.env("WEFT_EDITOR", script).env("TMPDIR", kubectl.mesh.folder()))
    };
    assert_eq!(edit("sed -i 's/name: turn/name: edited/'").ok().trim(), "service/cart edited");
    assert!(kubectl.mesh.weft(&["get", "service", "cart", "-n", "loom", "-o", "yaml"]).ok().contains("name: edited"));
    assert!(edit("true").err.contains("nothing was changed"));
    let refused = edit("sed -i 's/port: 80$/port: 99999/'");
    assert!(refused.code == 1 && refused.err.contains("spec.ports[0].port"), "{refused:?}");
    assert_eq!(kubectl.json(&["get", "service", "cart", "-n", "loom"])["spec"]["ports"][0]["port"], 80);

    let plugin = kubectl.mesh.folder().join("weft-hello");
    std::fs::write(&plugin, "#!/bin/sh\necho hello \"$@\"\n").unwrap();
    assert_eq!(weft_integration::rig::run(std::process::Command::new("chmod").arg("755").arg(&plugin)).code, 0);
    let mut hello = kubectl.mesh.command(&["hello", "--loud", "shop"]);
    assert_eq!(weft_integration::rig::run(hello.env("PATH", kubectl.mesh.folder())).ok().trim(), "hello --loud shop");
    assert_eq!(kubectl.mesh.weft(&["helo"]).code, 2);
    println!("weft apply, edit and a plugin");
}
