//! What `weft check` finds: nothing where all is well, and what is wrong where something is.

use crate::{Shop, json};
use serde_json::Value;
use weft_integration::rig::stage::file;
use weft_integration::rig::stage::text;
use weft_integration::rig::{Mesh, wait_for};

const WRONG: &str = "apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: lost, namespace: shop}
spec:
  parentRefs: [{group: '', kind: Service, name: catalog, port: 80}]
  rules: [{backendRefs: [{name: gone, port: 80}]}]
---
apiVersion: weft.mesh/v1alpha1
kind: MeshTLS
metadata: {name: idle, namespace: shop}
spec: {selector: {matchLabels: {app: nobody}}, mode: Strict}
---
apiVersion: v1
kind: Service
metadata: {name: unsaid, namespace: shop}
spec: {ports: [{port: 7000}]}
";

fn fact<'v>(document: &'v Value, name: &str) -> &'v Value {
    let all = document["checks"].as_array().unwrap();
    all.iter().find(|fact| fact["name"] == name).unwrap_or_else(|| panic!("no fact {name:?}: {document:#}"))
}

#[test]
fn a_mesh_that_is_well_is_said_to_be_and_what_is_wrong_is_found() {
    let shop = Shop::open();
    let document = shop.until(&["check", "-o", "json"], "clocks are known", |document| {
        fact(document, "the clocks of sidecars and control plane agree")["result"] == "ok"
            && fact(document, "every sidecar holds the newest configuration")["result"] == "ok"
    });
    assert_eq!((&document["ok"], &document["counts"]["error"]), (&true.into(), &0.into()), "{document:#}");
    let certificates = fact(&document, "every sidecar's certificate is valid and renewed in time");
    assert_eq!((&certificates["result"], &certificates["detail"]), (&"ok".into(), &"2 of 2".into()));
    let nobody = fact(&document, "every service has an endpoint");
    assert_eq!((&nobody["result"], &nobody["detail"]), (&"warning".into(), &"nobody serves: shop/catalog-v2".into()));
    let store = shop.mesh.weft(&["check", "store"]).ok();
    assert!(store.starts_with("store\n  ok       the store answers: revision "), "{store}");
    assert!(store.contains("the data directory has room"), "{store}");

    let path = file(&shop.mesh, WRONG);
    shop.mesh.weft(&["apply", "-f", text(&path)]).ok();
    let document = wait_for("it is found", || {
        let output = shop.mesh.weft(&["check", "-o", "json"]);
        let document = json(output.out);
        match output.code {
            1 if fact(&document, "every policy is about somebody")["result"] == "warning"
                && fact(&document, "every route and policy is in force")["result"] == "error" =>
            {
                Ok(document)
            }
            code => Err(format!("{code}: {document:#}")),
        }
    });
    let backend = fact(&document, "every backend of a route exists");
    assert_eq!(backend["result"], "error");
    assert!(backend["detail"].as_str().unwrap().starts_with("HTTPRoute shop/lost: "), "{backend}");
    assert_eq!(backend["docs"], "docs/src/reference/checks.md#policies");
    assert_eq!(fact(&document, "the protocol of every port is said")["detail"], "detected: shop/unsaid:7000");
    assert_eq!(fact(&document, "every policy is about somebody")["detail"], "about nobody: MeshTLS shop/idle");
    let text = shop.mesh.weft(&["check"]);
    assert!(text.code == 1 && text.out.contains("the mesh is not well: 2 errors and "), "{text:?}");
}

#[test]
fn a_control_plane_that_does_not_answer_is_another_thing_than_one_that_is_not_well() {
    let mut mesh = Mesh::start();
    wait_for("it is well once it has read the world", || match mesh.weft(&["check"]) {
        output if output.code == 0 => Ok(()),
        output => Err(format!("{output:?}")),
    });
    mesh.kill();
    let output = mesh.weft(&["check", "-o", "json"]);
    assert_eq!(output.code, 3, "{output:?}");
    let document = json(output.out);
    assert_eq!(fact(&document, "the control plane answers")["result"], "error");
    assert_eq!(fact(&document, "all of sidecars")["result"], "skipped");
}

#[test]
fn a_machine_can_be_looked_at_before_there_is_a_mesh() {
    let mesh = Mesh::start();
    let output = mesh.weft(&["check", "--pre", "-o", "json"]);
    let document = json(output.out);
    assert_eq!(fact(&document, "weft-proxy is found")["result"], "ok", "{document:#}");
    assert_eq!(output.code == 0, document["ok"] == true);
}
