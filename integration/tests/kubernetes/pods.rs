//! Pods, EndpointSlices and Nodes as the mesh sees them, and calls between pods.

use crate::cluster::{Cluster, Control, Pod};
use serde_json::{Value, json};
use weft_integration::rig::{Upstream, wait_for};

const SHOP: &str = "
{apiVersion: v1, kind: ServiceAccount, metadata: {name: cart, namespace: SHOP}}
---
{apiVersion: v1, kind: ServiceAccount, metadata: {name: orders, namespace: SHOP}}
---
{apiVersion: v1, kind: Node, metadata: {name: node-TAG, labels: {topology.kubernetes.io/zone: zone-a}}}
---
apiVersion: v1
kind: Service
metadata: {name: cart, namespace: SHOP}
spec: {selector: {app: cart}, ports: [{name: http, port: 80, targetPort: 8080}]}
";

fn named<'v>(endpoints: &'v [Value], workload: &str) -> Option<&'v Value> {
    endpoints.iter().find(|e| e["workload"].as_str().is_some_and(|uid| uid.ends_with(&format!("/{workload}"))))
}

fn health<'v>(endpoints: &'v [Value], workload: &str) -> &'v str {
    named(endpoints, workload).and_then(|e| e["health"].as_str()).unwrap_or("absent")
}

#[test]
fn pods_call_each_other_over_mutual_tls_under_the_identities_of_their_service_accounts() {
    let cluster = Cluster::open();
    cluster.apply(SHOP);
    let control = Control::start(&cluster, "weft-control-0", &[]);
    let node = Pod { node: "node-TAG", ..Pod::default() };
    // The port is the Service's word alone: the pod lists none.
    let at = cluster.pod("cart-1", &node);
    let _application =
        Upstream::start_at(&format!("{at}:8080"), |request| (200, format!("{} was asked for", request.path)));
    let from = cluster.pod("orders-1", &Pod { app: "orders", account: "orders", ..node.clone() });
    let cart = cluster.sidecar(&control, "cart-1", "cart", &at).ready();
    let orders = cluster.sidecar(&control, "orders-1", "orders", &from).ready();
    let host = format!("cart.{}.svc.cluster.local", cluster.shop());
    let body = wait_for("the call arrives", || match orders.call(&host, "/a")? {
        (200, body) => Ok(body),
        other => Err(format!("{other:?}\n{}", cart.process.log())),
    });
    assert_eq!(body, "/a was asked for");
    let endpoints = control.endpoints(&cluster.shop(), |all| health(all, "cart-1") == "ready");
    let one = named(&endpoints, "cart-1").unwrap();
    assert_eq!((&one["mtls"], &one["zone"]), (&json!(true), &json!("zone-a")), "{one}");
    // Under which identity the call came, the callee says.
    let policy = "
apiVersion: weft.mesh/v1alpha1
kind: AuthorizationPolicy
metadata: {name: cart, namespace: SHOP}
spec: {targetRefs: [{group: '', kind: Service, name: cart}], action: Allow, rules: [{from: [{serviceAccounts: [WHO]}]}]}
";
    cluster.apply(&policy.replace("WHO", "cart"));
    let until = |wanted: u16| {
        wait_for("the policy is in force", || match orders.call(&host, "/a")? {
            (status, _) if status == wanted => Ok(()),
            other => Err(format!("{other:?}")),
        });
    };
    until(403);
    cluster.apply(&policy.replace("WHO", "orders"));
    until(200);
}

#[test]
fn readiness_and_departure_are_what_kubernetes_says_of_a_pod() {
    let cluster = Cluster::open();
    cluster.apply(SHOP);
    let control = Control::start(&cluster, "weft-control-0", &[]);
    let held =
        Pod { finalizers: json!(["example.com/test"]), ports: json!([{"containerPort": 8080}]), ..Pod::default() };
    let at = cluster.pod("cart-1", &held);
    cluster.pod("cart-2", &Pod { meshed: false, ports: json!([{"containerPort": 8080}]), ..Pod::default() });
    let shop = cluster.shop();
    let all = control.endpoints(&shop, |all| health(all, "cart-1") == "ready" && health(all, "cart-2") == "ready");
    assert_eq!(named(&all, "cart-2").unwrap()["mtls"], false, "a pod without a sidecar is called in plaintext");
    let ready = |status: &str| json!({"phase": "Running", "podIP": at, "podIPs": [{"ip": at}], "conditions": [{"type": "Ready", "status": status}]});
    cluster.status("cart-1", &ready("False"));
    control.endpoints(&shop, |all| health(all, "cart-1") == "notReady");
    cluster.status("cart-1", &ready("True"));
    control.endpoints(&shop, |all| health(all, "cart-1") == "ready");
    cluster.kubectl(&["delete", "pod", "cart-1", "-n", &shop, "--wait=false"]).ok();
    control.endpoints(&shop, |all| health(all, "cart-1") == "draining");
    let free = r#"{"metadata":{"finalizers":null}}"#;
    cluster.kubectl(&["patch", "pod", "cart-1", "-n", &shop, "--type=merge", "-p", free]).ok();
    cluster
        .kubectl(&["delete", "pod", "cart-1", "-n", &shop, "--grace-period=0", "--force", "--ignore-not-found"])
        .ok();
    control.endpoints(&shop, |all| health(all, "cart-1") == "absent");
    let ended = json!({"phase": "Succeeded", "podIP": "192.0.2.9", "podIPs": [{"ip": "192.0.2.9"}]});
    cluster.status("cart-2", &ended);
    control.endpoints(&shop, |all| all.is_empty());
}

#[test]
fn endpoints_of_a_slice_that_are_no_pods_serve_a_service_without_a_selector() {
    let cluster = Cluster::open();
    let control = Control::start(&cluster, "weft-control-0", &[]);
    cluster.apply(
        "
apiVersion: v1
kind: Service
metadata: {name: db, namespace: SHOP}
spec: {ports: [{name: pg, port: 5432}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: db-1, namespace: SHOP, labels: {kubernetes.io/service-name: db}}
addressType: IPv4
ports: [{name: pg, port: 5433}]
endpoints: [{addresses: [192.0.2.50]}, {addresses: [192.0.2.51], conditions: {ready: false}}]
",
    );
    let shop = cluster.shop();
    let all = control.endpoints(&shop, |all| all.len() == 2);
    let addresses: Vec<_> =
        all.iter().map(|e| (e["address"].as_str().unwrap(), e["health"].as_str().unwrap())).collect();
    assert_eq!(addresses, [("192.0.2.50:5433", "ready"), ("192.0.2.51:5433", "notReady")], "{all:?}");
    cluster.kubectl(&["delete", "endpointslice", "db-1", "-n", &shop]).ok();
    control.endpoints(&shop, <[Value]>::is_empty);
}

#[test]
fn the_roots_are_in_every_namespace_and_come_back() {
    let cluster = Cluster::open();
    let _control = Control::start(&cluster, "weft-control-0", &[]);
    let roots = || {
        wait_for("the roots are in the namespace", || {
            let map = cluster.object("configmap", &cluster.shop(), "weft-roots")?;
            match map["data"]["roots.pem"].as_str() {
                Some(text) if text.contains("BEGIN CERTIFICATE") => Ok(text.to_owned()),
                other => Err(format!("{other:?}")),
            }
        })
    };
    let first = roots();
    cluster.kubectl(&["delete", "configmap", "weft-roots", "-n", &cluster.shop()]).ok();
    assert_eq!(roots(), first);
    let other = r#"{"data":{"roots.pem":"none"}}"#;
    cluster.kubectl(&["patch", "configmap", "weft-roots", "-n", &cluster.shop(), "--type=merge", "-p", other]).ok();
    assert_eq!(roots(), first);
}

#[test]
fn a_pod_of_another_service_account_is_nobodys_to_speak_for() {
    let cluster = Cluster::open();
    cluster.apply(SHOP);
    let control = Control::start(&cluster, "weft-control-0", &[]);
    let at = cluster.pod("cart-1", &Pod::default());
    // A thief with the token of another account.
    let mut thief = cluster.sidecar(&control, "cart-1", "orders", &at);
    let said = wait_for("the refusal is said", || {
        let log = thief.process.log();
        if log.contains("runs as service account") { Ok(log) } else { Err(log) }
    });
    assert!(said.contains("\"cart\""), "{said}");
    assert!(thief.state().join("token").exists());
    thief.process.stop();
    // The same with the right one.
    let _cart = cluster.sidecar(&control, "cart-1", "cart", &at).ready();
}

#[test]
fn the_clusters_tokens_and_roles_say_who_sees_what_of_the_mesh() {
    let cluster = Cluster::open();
    cluster.apply(SHOP);
    let control = Control::start(&cluster, "weft-control-0", &[]);
    let viewer = |account: &str| control.as_account(&cluster, account);
    // Known, and nothing more.
    let said = viewer("orders").weft(&["stat"]);
    assert!(said.code != 0 && said.err.contains("cannot get resource \"stats\""), "{}", said.err);
    cluster.apply(
        "
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: weft-test-TAG}
rules:
- {apiGroups: [weft.mesh], resources: [stats], verbs: [get]}
- {apiGroups: [''], resources: [services], verbs: [get, list]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: weft-test-TAG}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: weft-test-TAG}
subjects: [{kind: ServiceAccount, name: orders, namespace: SHOP}]
",
    );
    let orders = viewer("orders");
    wait_for("the role is in force", || {
        let said = orders.weft(&["endpoints"]);
        if said.code == 0 { Ok(()) } else { Err(said.err) }
    });
    // Objects are the cluster's, under the caller's own rights.
    let services = orders.weft(&["get", "services", "-n", &cluster.shop(), "-o", "name"]).ok();
    assert_eq!(services.trim(), "service/cart");
    let refused = orders.weft(&["get", "secrets", "-n", &cluster.system()]);
    assert!(refused.code != 0 && refused.err.contains("cannot list resource \"secrets\""), "{}", refused.err);
    // The control plane's own certificate opens its pages, and not the cluster.
    control.weft(&["stat"]).ok();
    let refused = control.weft(&["get", "services", "-n", &cluster.shop()]);
    assert!(refused.code != 0 && refused.err.contains("the objects are the cluster's"), "{}", refused.err);
    let other = control.with_token(&cluster, "not-a-token").weft(&["stat"]);
    assert!(other.code != 0 && other.err.contains("nauthorized"), "{}", other.err);
}
