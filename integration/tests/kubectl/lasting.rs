//! What is applied is there after the control plane was killed and started again, under the same address and
//! with versions that go on.

use crate::program::with_each;
use serde_json::Value;

const OBJECTS: &str = "apiVersion: v1\nkind: Namespace\nmetadata: {name: loom}\n---\n\
apiVersion: v1\nkind: Service\nmetadata: {name: one, namespace: loom}\nspec: {ports: [{port: 80}]}\n---\n\
apiVersion: weft.mesh/v1alpha1\nkind: TrafficPolicy\nmetadata: {name: one, namespace: loom}\nspec: {targetRefs: [{kind: Service, name: one}], retry: {attempts: 3}}\n---\n\
apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {name: one, namespace: loom}\nspec: {parentRefs: [{group: '', kind: Service, name: one}], rules: [{backendRefs: [{name: one, port: 80}]}]}\n";

/// What people wrote of an object, and what says which edition it is.
fn written(object: &Value) -> [Value; 4] {
    let metadata = &object["metadata"];
    [
        metadata["uid"].clone(),
        metadata["creationTimestamp"].clone(),
        metadata["generation"].clone(),
        object["spec"].clone(),
    ]
}

#[test]
fn objects_survive_a_kill_of_the_control_plane() {
    with_each(|kubectl| {
        kubectl.apply(OBJECTS);
        let all = |kubectl: &crate::program::Kubectl| {
            ["svc", "tp", "httproute"].map(|kind| written(&kubectl.json(&["get", kind, "one", "-n", "loom"])))
        };
        let before = all(kubectl);
        let api = kubectl.mesh.api().to_owned();
        kubectl.mesh.kill();
        assert!(kubectl.fails(&["get", "svc", "-n", "loom", "--request-timeout=5s"]).contains("refused"));
        kubectl.mesh.up(&[]);
        assert_eq!(kubectl.mesh.api(), api, "it comes back where its clients know it");
        assert_eq!(all(kubectl), before);
        // And versions go on: a change is a change, and one on top of an old edition is a conflict.
        let mut object = kubectl.json(&["get", "tp", "one", "-n", "loom"]);
        kubectl.ok(&["patch", "tp", "one", "-n", "loom", "--type=merge", "-p", r#"{"spec":{"retry":{"attempts":4}}}"#]);
        object["spec"]["retry"]["attempts"] = 5.into();
        let conflict = kubectl.file(&["replace"], &object.to_string());
        assert!(conflict.err.contains("the object has been modified"), "{conflict:?}");
        assert_eq!(kubectl.json(&["get", "tp", "one", "-n", "loom"])["spec"]["retry"]["attempts"], 4);
        println!("three objects as before, at {api}");
    });
}
