//! Routes of the Gateway API where it is absent, of its standard channel, or of its experimental one.

use crate::cluster::{Cluster, Control, gateway_kind};
use weft_integration::rig::wait_for;

const ROUTE: &str = "
apiVersion: v1
kind: Service
metadata: {name: cart, namespace: SHOP}
spec: {ports: [{name: http, port: 80}]}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: cart, namespace: SHOP}
spec:
  parentRefs: [{group: '', kind: Service, name: cart, port: 80}]
  rules: [{backendRefs: [{name: cart, port: 80}]}]
";

fn accepted(cluster: &Cluster, kind: &str, name: &str) {
    wait_for("the route is accepted", || {
        let route = cluster.object(kind, &cluster.shop(), name)?;
        let parent = &route["status"]["parents"][0];
        let conditions = parent["conditions"].as_array().cloned().unwrap_or_default();
        let is = |kind: &str| conditions.iter().any(|c| c["type"] == kind && c["status"] == "True");
        if parent["controllerName"] == "weft.mesh/control-plane" && is("Accepted") && is("Programmed") {
            Ok(())
        } else {
            Err(route["status"].to_string())
        }
    });
}

#[test]
fn routes_are_read_as_soon_as_their_kinds_are_defined_in_whichever_version() {
    let cluster = Cluster::open();
    let mut control = Control::start(&cluster, "weft-control-0", &[]);
    if !cluster.is_defined("httproutes.gateway.networking.k8s.io") {
        control.process.wait_for_log("Gateway API: none");
    }
    cluster.define(&[
        gateway_kind("HTTPRoute", "httproutes", "v1", "standard"),
        gateway_kind("GRPCRoute", "grpcroutes", "v1", "standard"),
    ]);
    cluster.apply(ROUTE);
    accepted(&cluster, "httproute", "cart");
    control.process.wait_for_log("routes of this kind are read kind=HTTPRoute");
    if !cluster.is_real() {
        control.process.wait_for_log("Gateway API: standard channel v1.4.0: httproutes, grpcroutes");
    }
    cluster.define(&[gateway_kind("TCPRoute", "tcproutes", "v1alpha2", "experimental")]);
    cluster.apply(
        "
apiVersion: v1
kind: Service
metadata: {name: db, namespace: SHOP}
spec: {ports: [{name: tcp, port: 5432}]}
---
apiVersion: gateway.networking.k8s.io/v1alpha2
kind: TCPRoute
metadata: {name: db, namespace: SHOP}
spec:
  parentRefs: [{group: '', kind: Service, name: db, port: 5432}]
  rules: [{backendRefs: [{name: db, port: 5432}]}]
",
    );
    accepted(&cluster, "tcproute", "db");
}

#[test]
fn a_policy_is_told_its_fate_in_its_status() {
    let cluster = Cluster::open();
    let _control = Control::start(&cluster, "weft-control-0", &[]);
    cluster.apply(
        "
apiVersion: v1
kind: Service
metadata: {name: cart, namespace: SHOP}
spec: {ports: [{name: http, port: 80}]}
---
apiVersion: weft.mesh/v1alpha1
kind: TrafficPolicy
metadata: {name: cart, namespace: SHOP}
spec: {targetRefs: [{group: '', kind: Service, name: cart}], timeouts: {request: 2s}}
",
    );
    let shop = cluster.shop();
    cluster.kubectl(&["wait", "--for=condition=Programmed", "trafficpolicy/cart", "-n", &shop, "--timeout=20s"]).ok();
}
