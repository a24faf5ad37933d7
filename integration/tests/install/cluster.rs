//! Against an API that stands for a cluster's: kubectl applies and deletes what is printed, and `weft check --pre` says what is there.

use super::weft;
use serde_json::Value;
use std::process::Command;
use weft_integration::rig::{Mesh, Process, binary, kubectls, run, wait_for};

fn facts(kubeconfig: &str, code: u8) -> Vec<(String, String, String)> {
    let said = weft(&["check", "--pre", "cluster", "-o", "json", "--kubeconfig", kubeconfig]);
    assert_eq!(said.code, i32::from(code), "{}{}", said.out, said.err);
    let document: Value = serde_json::from_str(&said.out).unwrap();
    let text = |fact: &Value, field: &str| fact[field].as_str().unwrap_or_default().to_owned();
    let all = document["checks"].as_array().unwrap();
    all.iter().map(|fact| (text(fact, "name"), text(fact, "result"), text(fact, "detail"))).collect()
}

fn of<'f>(facts: &'f [(String, String, String)], word: &str) -> (&'f str, &'f str) {
    let (_, result, detail) = facts.iter().find(|(name, ..)| name.contains(word)).unwrap();
    (result, detail)
}

#[test]
fn kubectl_installs_it_twice_and_takes_it_away_and_check_says_what_is_there() {
    let mesh = Mesh::start_with(&["--as-cluster"]);
    let kubeconfig = mesh.data().join("kubeconfig");
    let kubeconfig = kubeconfig.to_str().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let (install, uninstall) = (folder.path().join("install.yaml"), folder.path().join("uninstall.yaml"));
    std::fs::write(&install, weft(&["install"]).ok()).unwrap();
    std::fs::write(&uninstall, weft(&["uninstall", "--crds"]).out).unwrap();
    let before = facts(kubeconfig, 0);
    assert_eq!(of(&before, "API server answers").0, "ok", "{before:?}");
    assert_eq!(of(&before, "1.29 or newer"), ("ok", "1.34"));
    assert_eq!(of(&before, "may install").0, "ok", "{before:?}");
    assert_eq!(of(&before, "not there yet"), ("ok", "not there"));
    assert_eq!(of(&before, "Gateway API"), ("warning", "there are none"));
    for kubectl in kubectls() {
        let call = |verb: &str, file: &std::path::Path| {
            run(Command::new(&kubectl)
                .args([verb, "--kubeconfig", kubeconfig, "-f"])
                .arg(file)
                .env_remove("KUBECONFIG"))
        };
        let made = call("apply", &install).ok();
        assert_eq!(made.lines().filter(|line| line.ends_with(" created")).count(), 22, "{made}");
        let again = call("apply", &install).ok();
        assert!(again.lines().all(|line| line.ends_with(" unchanged")), "{again}");
        let (result, detail) = (facts(kubeconfig, 0), "weft-system/weft-control weft:");
        assert!(of(&result, "not there yet").1.starts_with(detail), "{result:?}");
        let gone = call("delete", &uninstall).ok();
        assert_eq!(gone.lines().filter(|line| line.contains(" deleted")).count(), 22, "{gone}");
    }
    // Another mesh, and a namespace whose pods may not have what the init container needs.
    let other = folder.path().join("other.yaml");
    let objects = "{apiVersion: admissionregistration.k8s.io/v1, kind: MutatingWebhookConfiguration, metadata: {name: istio-sidecar-injector}}\n---\n\
                   {apiVersion: v1, kind: Namespace, metadata: {name: shop, labels: {weft.mesh/inject: enabled, pod-security.kubernetes.io/enforce: baseline}}}\n";
    std::fs::write(&other, objects).unwrap();
    let kubectl = &kubectls()[1];
    run(Command::new(kubectl).args(["apply", "--kubeconfig", kubeconfig, "-f"]).arg(&other)).ok();
    let after = facts(kubeconfig, 0);
    assert_eq!(of(&after, "no other mesh"), ("warning", "istio-sidecar-injector"));
    assert_eq!(of(&after, "CAP_NET_ADMIN"), ("warning", "shop"));
}

#[test]
fn a_cluster_that_does_not_answer_is_an_error_only_for_who_asks_of_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("kubeconfig");
    let port = weft_integration::rig::free_port();
    let text = format!(
        "{{apiVersion: v1, kind: Config, current-context: a, contexts: [{{name: a, context: {{cluster: a, user: a}}}}], \
         users: [{{name: a, user: {{token: t}}}}], clusters: [{{name: a, cluster: {{server: 'https://127.0.0.1:{port}'}}}}]}}"
    );
    std::fs::write(&path, text).unwrap();
    let path = path.to_str().unwrap();
    assert_eq!(of(&facts(path, 1), "API server answers").0, "error");
    let everything = weft(&["check", "--pre", "-o", "json", "--kubeconfig", path]);
    let document: Value = serde_json::from_str(&everything.out).unwrap();
    let all = document["checks"].as_array().unwrap();
    let fact = all.iter().find(|fact| fact["category"] == "cluster").unwrap();
    assert_eq!(fact["result"], "skipped", "{fact}");
    // A mesh without Kubernetes is no cluster.
    let mesh = Mesh::start();
    let own = mesh.data().join("kubeconfig");
    let own = facts(own.to_str().unwrap(), 0);
    assert!(of(&own, "API server answers").1.contains("no cluster's"), "{own:?}");
}

/// A kubeconfig that reaches where another does, as the bearer of a token.
fn as_bearer(kubeconfig: &str, token: &str) -> String {
    let mut config: Value = serde_saphyr::from_str(&std::fs::read_to_string(kubeconfig).unwrap()).unwrap();
    config["users"][0]["user"] = serde_json::json!({ "token": token });
    config.to_string()
}

#[test]
fn the_rights_that_the_control_plane_is_given_are_all_that_it_asks_for() {
    let mesh = Mesh::start_with(&["--as-cluster"]);
    let kubeconfig = mesh.data().join("kubeconfig");
    let kubeconfig = kubeconfig.to_str().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let install = folder.path().join("install.yaml");
    std::fs::write(&install, weft(&["install"]).ok()).unwrap();
    let kubectl = |arguments: &[&str]| {
        let program = &kubectls()[1];
        run(Command::new(program).args(arguments).args(["--kubeconfig", kubeconfig]).env_remove("KUBECONFIG")).ok()
    };
    kubectl(&["apply", "-f", install.to_str().unwrap()]);
    let token = kubectl(&["create", "token", "weft-control", "--namespace", "weft-system"]);
    let own = folder.path().join("kubeconfig");
    std::fs::write(&own, as_bearer(kubeconfig, token.trim())).unwrap();
    let settings = folder.path().join("settings.yaml");
    let jsonpath = "jsonpath={.data.settings\\.yaml}";
    std::fs::write(&settings, kubectl(&["get", "configmap", "weft-injection", "-n", "weft-system", "-o", jsonpath]))
        .unwrap();
    let mut up = Command::new(binary("weft"));
    up.args([
        "up",
        "--grpc=127.0.0.1:0",
        "--api=127.0.0.1:0",
        "--webhook=127.0.0.1:0",
        "--replica-name=weft-control-0",
    ]);
    up.arg(format!("--kubernetes={}", own.display())).arg(format!("--injection-settings={}", settings.display()));
    up.arg("--data-dir").arg(folder.path().join("state")).env_remove("KUBECONFIG");
    let mut control = Process::start(folder.path(), "control-plane", &mut up);
    wait_for("the webhook's authority is believed, and pods are told the roots", || {
        control.assert_running();
        let path = "jsonpath={.webhooks[*].clientConfig.caBundle}";
        let believed = kubectl(&["get", "mutatingwebhookconfiguration", "weft-injector", "-o", path]);
        let roots =
            kubectl(&["get", "configmap", "weft-roots", "--namespace", "default", "--ignore-not-found", "-o", "name"]);
        (believed.split_whitespace().count() == 4 && !roots.is_empty())
            .then_some(())
            .ok_or(format!("{believed} {roots}"))
    });
    // A policy learns its fate: status is written with the same rights.
    let policy = folder.path().join("policy.yaml");
    let text = "{apiVersion: weft.mesh/v1alpha1, kind: MeshTLS, metadata: {name: strict, namespace: default}, spec: {mode: Strict}}";
    std::fs::write(&policy, text).unwrap();
    kubectl(&["apply", "-f", policy.to_str().unwrap()]);
    wait_for("the policy's status", || {
        let path = "jsonpath={.status.conditions[?(@.type==\"Accepted\")].status}";
        let said = kubectl(&["get", "meshtls", "strict", "-o", path]);
        (said == "True").then_some(()).ok_or(said)
    });
    let log = control.log();
    assert!(!log.to_lowercase().contains("forbidden"), "{log}");
    assert_eq!(control.stop(), 0, "{}", control.log());
}
